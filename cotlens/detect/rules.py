"""Does a step in Chinese or Spanish reflect? Turns of phrase decide; there are no weights.

The cues are in `reflection.tsv`: a language, a kind of docs/codebook.md, and the turns of phrase
that announce it. docs/detectors.md reports what they find and miss. A step with a cue reflects. A
step without one does not, except that a step whose only cue may or may not be reflection is left
undecided.
"""

import re
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from cotlens.detect.language import Language
from cotlens.detect.tokens import MAX_CHARS

# Kinds in the order in which the codebook asks for them. The first that a cue speaks for is taken.
_REFLECTIVE = ("doubt", "backtrack", "alternative", "verify", "assess")
_UNCLEAR = "unclear"  # may be reflection: "et cetera" and "wait" are one word in Chinese
_ANY = "*"  # cues of thoughts in any language: models say "Wait" in the middle of Chinese

# One form of what is written in several: accents, traditional characters, full-width signs. One
# character stands for one, so that the text does not grow.
_VARIANTS = {
    "áàéèíìóòúùü": "aaeeiioouuu",
    "對錯檢驗證確認還換個種題嗎沒問為從頭應該這樣處複雜麼麻煩過實際於計記與結論準滿條標": (
        "对错检验证确认还换个种题吗没问为从头应该这样处复杂么麻烦过实际于计记与结论准满条标"
    ),
    "則歸總現覺惑離難兩選項後來間時單簡決糾慮審視並說讓幾遺漏誤裡裏們會點關鍵繞著蓋斷": (
        "则归总现觉惑离难两选项后来间时单简决纠虑审视并说让几遗漏误里里们会点关键绕着盖断"
    ),
    "，。！？；：（）\u3000’“”": ',.!?;:() \'""',
}
_LEFT = "".join(_VARIANTS)
_RIGHT = "".join(_VARIANTS.values())
_PLAIN = str.maketrans(_LEFT, _RIGHT)

# Parts of patterns.
_GAP = r"[^.!?\n]{0,12}?"
_BEGINNING = r"[^\w¿]*¿?"
_END = r"[^\w]*\Z"
_NO_LETTER_BEFORE = "(?<![a-zñ])"
_NO_LETTER_AFTER = "(?![a-zñ])"


def decide_by_rules(text: str, language: Language) -> tuple[str, bool | None]:
    """Return the kind of a step and whether it reflects: ("", False) without a cue.

    The kind is the first, in the order of the codebook, that a cue in the step speaks for. Where
    the only cue is unclear the decision is None. A text is read as far as the classifier reads it.

    >>> decide_by_rules("等等，我可能算错了。", Language.CHINESE)
    ('doubt', True)
    >>> decide_by_rules("La suma es 12.", Language.SPANISH)
    ('', False)
    """
    beginning = text[:MAX_CHARS].lower()
    plain = beginning.translate(_PLAIN).strip()
    kinds = kinds_in(plain, cues_of(language))

    for kind in _REFLECTIVE:
        if kind in kinds:
            return kind, True

    if _UNCLEAR in kinds:
        return "", None
    return "", False


class Cues(NamedTuple):
    """The cues of a language, by where they stand.

    Attributes:
        opening: finds those that open a step, one group each.
        opening_kinds: the kinds of these groups.
        shaped: finds those with a gap or at the end of a step, one group each.
        shaped_kinds: the kinds of these groups.
        plain: finds the others, of several at the same place the longest.
        plain_kinds: the kind of what `plain` finds, by its text.
    """

    opening: re.Pattern[str]
    opening_kinds: list[str]
    shaped: re.Pattern[str]
    shaped_kinds: list[str]
    plain: re.Pattern[str]
    plain_kinds: dict[str, str]


def kinds_in(text: str, cues: Cues) -> set[str]:
    """Return the kinds that cues in a text speak for."""
    kinds = {cues.plain_kinds[words] for words in cues.plain.findall(text)}

    # There is one beginning, so a step is asked once how it opens.
    opening = cues.opening.match(text)
    if opening:
        number = opening.lastindex or 0
        kinds.add(cues.opening_kinds[number - 1])

    for match in cues.shaped.finditer(text):
        number = match.lastindex or 0
        kinds.add(cues.shaped_kinds[number - 1])
    return kinds


@cache
def cues_of(language: Language) -> Cues:
    """Return the cues of a language, and those of any."""
    kind_of = {}
    path = files("cotlens.detect").joinpath("reflection.tsv")
    table = path.read_text(encoding="utf-8")
    for line in table.splitlines():
        if line.startswith("#"):
            continue

        code, kind, cell = line.split("\t")
        if code not in (_ANY, language):
            continue
        for phrase in cell.split(" | "):
            kind_of[phrase] = kind

    # By where they stand, the longest first.
    opening = []
    shaped = []
    plain = []
    for phrase in sorted(kind_of, key=len, reverse=True):
        if phrase.startswith("^"):
            opening.append(phrase)
        elif "~" in phrase or phrase.endswith("$"):
            shaped.append(phrase)
        else:
            plain.append(phrase)

    return Cues(
        opening=re.compile(_BEGINNING + _one_of(opening)),
        opening_kinds=[kind_of[phrase] for phrase in opening],
        shaped=re.compile(_one_of(shaped)),
        shaped_kinds=[kind_of[phrase] for phrase in shaped],
        plain=re.compile(_by_first_sign(plain)),
        plain_kinds={phrase.removesuffix("*"): kind_of[phrase] for phrase in plain},
    )


def _one_of(phrases: Iterable[str]) -> str:
    """Return a pattern that finds any of the phrases, with a group for each.

    `^` and `$` stand for the ends of the step, `~` for at most twelve characters of its sentence.
    A Latin letter at either end of a phrase is that of a word, unless `*` follows. Chinese has no
    ends of words.
    """
    groups = []
    for phrase in phrases:
        # The caller sees to the beginning of the step.
        words = phrase.strip("^$*")
        before = _NO_LETTER_BEFORE if _is_latin(words[0]) else ""
        group = before + _rest(phrase.removeprefix("^"))
        groups.append(f"({group})")
    return "(?:" + "|".join(groups) + ")"


def _by_first_sign(phrases: Iterable[str]) -> str:
    """Return a pattern that finds any of the phrases, and is fast where none begins."""
    rests: dict[str, list[str]] = {}
    for phrase in phrases:
        rest = _rest(phrase[1:])
        rests.setdefault(phrase[0], []).append(rest)

    # One branch a sign, so that little is tried where no phrase begins.
    branches = []
    for sign, endings in rests.items():
        # The letter before the sign, which has been read by then.
        before = f"(?<![a-zñ]{sign})" if _is_latin(sign) else ""
        branch = re.escape(sign) + before + "(?:" + "|".join(endings) + ")"
        branches.append(branch)
    return "|".join(branches)


def _rest(phrase: str) -> str:
    """Return the pattern of a phrase from its first sign on, and of what must follow it."""
    words = phrase.strip("$*")
    parts = map(re.escape, words.split("~"))
    body = _GAP.join(parts)

    if phrase.endswith("$"):
        return body + _END
    if _is_latin(phrase[-1:]):
        return body + _NO_LETTER_AFTER
    return body


def _is_latin(sign: str) -> bool:
    return sign.isascii() and sign.isalpha()
