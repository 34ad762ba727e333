"""The answer that a step states: in a box, or after `answer is`."""

import re

from cotlens.detect.tokens import MAX_CHARS

_ANSWER = re.compile(
    # "answer", "is" or the like within 30 characters, and opening signs
    r"\b[Aa]nswers?\b[^.\n=:]{0,30}?(?:\bis\b|\bbe\b|:|=)"
    r"\s*(?:option\s+)?[*_$\"'“(\[\\ ]{0,5}"
    # a number that is not the beginning of a term, a date or another number
    r"([-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?(?![\w^{*+×/]|[.,-]\d)"
    # or a letter of a choice that is not the article "A"
    r"|[A-E](?=[\s*).,:;$\"'”]|$)(?!['\"]?\s+[a-z]))"
)
_BOX = "\\boxed{"
_LONGEST_BOX = 200


def stated_answer(text: str) -> str:
    r"""Return the answer that a step states; "" if it states none.

    It is the content of the last box, or without a box the last number or letter after "answer is".
    Spaces, and commas between groups of digits, are left out, so that equal answers read the same.

    >>> stated_answer("So the answer is -1,000.")
    '-1000'
    >>> stated_answer(r"Thus \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> stated_answer("x = 3")
    ''
    """
    # A box counts even if it does not close: then no answer is stated.
    box = text.rfind(_BOX)
    if box >= 0:
        answer = _until_closing_brace(text, box + len(_BOX))
    elif "nswer" not in text:
        return ""  # most steps, at the price of a look
    else:
        answers = _ANSWER.findall(text[-MAX_CHARS:])
        answer = answers[-1] if answers else ""

    plain = answer.replace("−", "-").replace(" ", "")
    return re.sub(r"(?<=\d),(?=\d{3})", "", plain)


def _until_closing_brace(text: str, start: int) -> str:
    """Return the text up to the brace that closes; "" if none does within `_LONGEST_BOX`."""
    depth = 1
    nearby = text[start : start + _LONGEST_BOX]
    for position, character in enumerate(nearby):
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
        if depth == 0:
            return nearby[:position]
    return ""
