r"""Which part of a text is its answer: the last box, what `answer is` introduces, a formula.

Every search is linear, and what is found is a piece of the text as it stands there.
"""

import re

_BOX = re.compile(r"(?:\\boxed|\\fbox|(?<![\\A-Za-z])boxed(?=\{))(?![A-Za-z])")
_BARE_BOX = re.compile(r"-?\d+(?:\.\d+)?|[A-Za-z]")
_LONGEST = 2000  # characters of a box, of a sentence, and of a text that may be all answer
_LAST_CHARS = 20_000  # an answer without a box stands in the last part of a text

# "The final answer is", "Answer:", "**Answer:** ", and GSM8K's "####".
_ANNOUNCED = re.compile(
    r"(?i:\banswers?\b)(?:[^.\n=:]{0,40}?(?i:\b(?:is|are|be)\b)\s?:?|[*_ ]{0,4}[:=])"
    r"[*_ \t]{0,4}\s{0,4}"
    r"|^#{4}[ \t]",
    re.MULTILINE,
)
_SENTENCE_END = re.compile(r"\n|[.!?](?=\s|$|\*)")
_FORMULA = re.compile(
    r"\$\$[^$]{1,2000}\$\$|(?<![\d\\$])\$(?=[^\s$])[^$\n]{0,500}(?<=[^\s\\])\$(?!\d)"
    r"|\\\((?:[^\\]|\\(?!\))){1,500}\\\)|\\\[(?:[^\\]|\\(?!\])){1,2000}\\\]"
)
# What may come after an answer and is not part of it.
_REASON = re.compile(
    r",?\s(?:because|since|as|so|which|where|when|after|for|if|that is|i\.e\.|meaning|by|due to"
    r"|given|assuming|from|not)\s|\s?[—–;]\s?|\s-\s(?=[A-Za-z])"
)
_NUMBER = re.compile(
    r"(?<![\w.^*\\/×·])(?:[-−+]\s?)?[$€£¥₹]?\s?"
    r"(?:\d{1,3}(?:[, ]\d{3})+(?![\d])|\d+)?(?:(?<=\d)\.\d+|\.\d+|(?<=\d))"
    r"(?:(?: \d+)?\s?/\s?\d+|[½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞]|[eE][-+]?\d+)?"
    r"(?:\s?(?:%|°|percent\b|hundred\b|thousand\b|million\b|billion\b|trillion\b))?(?![\w*^/×·])"
)
_DENIED = re.compile(r"(?i)(?:\bnot|n't|\bno longer|\binstead of|\brather than)\s[^.\d]{0,20}$")
_HEDGED = re.compile(
    r"(?i)[\d$)}]\W{0,3}\s(?:or|and|to)\s$|\b(?:at least|at most|more than|less than|greater than"
    r"|fewer than|up to|over|under|above|below|minimum of|maximum of)\s$"
)
_PROSE = re.compile(r"[A-Za-z]{2},? [A-Za-z]{2}|[A-Za-z]{3}\s?:|\$[^$]+\$|\\[(\[]")
_TERM = re.compile(r"[\w)}\]]\s?[-+−]\s?$")
_BOLD = re.compile(r"\*\*.{1,200}?\*\*")
_FURTHER = re.compile(r"[\d$\\]|\b(?:or|and)\b")
_LETTER = re.compile(
    r"(?:(?i:option|choice|answer)\s\(?([A-J])\)?\b|\(([A-J])\)|\*\*\(?([A-J])\)?[.:)]?\*\*)"
)


def last_box(text: str) -> str | None:
    r"""Return the content of the last `\boxed{}`; None if there is no box.

    A box that does not close was cut off: its content is empty. Of boxes in each other the
    innermost counts.

    >>> last_box("so \\boxed{1} or \\boxed{\\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    boxes = [match.end() for match in _BOX.finditer(text)]
    if not boxes:
        return None

    start = boxes[-1]
    while start < len(text) and text[start] in " \n":
        start += 1
    if text[start : start + 1] != "{":
        # TeX boxes one sign here; people mean the whole number.
        bare = _BARE_BOX.match(text, start)
        return bare[0] if bare else ""

    depth = 0
    place = start
    while place < min(len(text), start + _LONGEST):
        if text[place] == "\\":
            place += 2
            continue
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
        if depth == 0:
            return text[start + 1 : place]
        place += 1
    return ""


def candidates(text: str, *, of_choice: bool = False) -> list[str]:
    """Return the pieces of a text that may be its answer, the likeliest first.

    A text with a box has one. Without a box these are: what is announced as the answer; or else the
    whole text if it is short, its last line, and the last formula or number.

    Args:
        text: an answer, without the thinking.
        of_choice: whether the letter of an option is looked for, and not a formula or number.
    """
    box = last_box(text)
    if box is not None:
        return [box]

    text = text[-_LAST_CHARS:]
    pieces = _announced(text, of_choice)
    if pieces:
        return pieces

    lines = [line for line in text.splitlines() if line.strip()]
    if len(text) <= _LONGEST:
        pieces.append(text)
    if len(lines) > 1:
        pieces.append(lines[-1])
    # A formula that cannot be read is no reason to read its end.
    if _PROSE.search(text):
        pieces += _last_expression(text, of_choice)
    return pieces


def _announced(text: str, of_choice: bool) -> list[str]:
    """Return what the last announcement introduces: a sentence, or the formula it begins with."""
    for match in reversed(list(_ANNOUNCED.finditer(text))):
        start = match.end()
        if re.match(r"(?i)not\b|n't\b|unknown|unclear", text[start : start + 8]):
            continue
        sentence = _sentence(text, start)
        if not sentence.strip(" *_.:\n"):
            continue

        pieces = [sentence]
        # "The answer is found as follows": it comes later.
        if not re.search(r"[\d$\\]", sentence):
            pieces += _last_expression(text[start + len(sentence) :], of_choice)
            return pieces

        without_reason = _REASON.split(sentence, maxsplit=1)[0]
        if without_reason != sentence:
            pieces.append(without_reason)
        for leading in (_FORMULA.match(sentence), _BOLD.match(sentence)):
            # Nothing may come after it that changes it.
            if leading and not _FURTHER.search(sentence, leading.end()):
                pieces.append(leading[0])
        return pieces
    return []


def _sentence(text: str, start: int) -> str:
    """Return the text from a place to the end of its sentence; a displayed formula is one."""
    formula = _FORMULA.match(text, start)
    search_from = formula.end() if formula else start
    stop = _SENTENCE_END.search(text, search_from, start + _LONGEST)
    # The point after the letter of an option does not end it.
    if stop and re.fullmatch(r"[*_ (]*[A-J]", text[start : stop.start()]) and stop[0] == ".":
        stop = _SENTENCE_END.search(text, stop.end(), start + _LONGEST)
    return text[start : stop.start() if stop else start + _LONGEST]


def _last_expression(text: str, of_choice: bool) -> list[str]:
    """Return the last option that a text names; or its last formula or number.

    What the text denies (`not 5`) does not count, and one of two (`4 or 5`) is no answer.
    """
    if of_choice:
        letters = [match[1] or match[2] or match[3] for match in _LETTER.finditer(text)]
        return letters[-1:]

    formulas = list(_FORMULA.finditer(text))
    matches = list(formulas)
    place = 0
    for number in _NUMBER.finditer(text):
        # A number inside a formula is part of it.
        while place < len(formulas) and formulas[place].end() <= number.start():
            place += 1
        is_inside = place < len(formulas) and formulas[place].start() <= number.start()
        if number[0].strip(" $+-−") and not is_inside:
            matches.append(number)

    matches.sort(key=lambda match: match.end(), reverse=True)
    for match in matches:
        before = text[max(0, match.start() - 40) : match.start()]
        sign = match[0][0] if match[0][0] in "+-−" else ""
        if _TERM.search(before + sign) or _HEDGED.search(before):
            return []
        if not _DENIED.search(before):
            return [match[0]]
    return []
