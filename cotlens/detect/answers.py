"""The answer that a step states: boxed, or after `answer is`."""

import re

from cotlens.detect.features import MAX_CHARS

_ANSWER = re.compile(
    r"\b[Aa]nswers?\b[^.\n=:]{0,30}?(?:\bis\b|\bbe\b|:|=)\s*(?:option\s+)?[*_$\"'“(\[\\ ]{0,5}"
    r"([-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?(?![\w^{*+×/]|[.,-]\d)|[A-E](?=[\s*).,:;$\"'”]|$)(?!['\"]?\s+[a-z]))"
)
_LONGEST_BOX = 200


def stated_answer(text: str) -> str:
    r"""The answer a step states: what it boxes, or the number or letter behind "answer is"; else "".

    Spaces and commas between digits are left out, so that the same answer reads the same.

    >>> stated_answer("So the answer is -1,000."), stated_answer(r"Thus \boxed{\frac{1}{2}}."), stated_answer("x = 3")
    ('-1000', '\\frac{1}{2}', '')
    """
    box = text.rfind("\\boxed{")
    found = (
        _braced(text, box + 7)
        if box >= 0
        else next(reversed(_ANSWER.findall(text[-MAX_CHARS:])), "")
    )
    return re.sub(r"(?<=\d),(?=\d{3})", "", found.replace("−", "-").replace(" ", ""))


def _braced(text: str, start: int) -> str:
    """What stands from `start` to the brace that closes there, or "" if none does nearby."""
    depth = 1
    for at in range(start, min(len(text), start + _LONGEST_BOX)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start:at]
    return ""
