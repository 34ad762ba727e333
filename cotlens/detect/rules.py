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

from cotlens.detect.features import MAX_CHARS
from cotlens.detect.language import Language

# Kinds in the order in which the codebook asks for them. The first that a cue speaks for is taken.
_REFLECTIVE = ("doubt", "backtrack", "alternative", "verify", "assess")
_UNCLEAR = "unclear"  # may be reflection: "et cetera" and "wait" are one word in Chinese
_NOTHING = "-"  # contains a cue, but means something else

# One form of what is written in several: accents, traditional characters, full-width signs. Each
# character stands for one, so that a pattern costs no more than the text is long.
_VARIANTS = str.maketrans(
    "áàéèíìóòúùü" + "對錯檢驗證確認還換個種題嗎沒問為從頭應該這樣樣處複雜麼麻煩"
    "過實際於計記與結論準滿條標則歸總現覺惑離難兩選項後來間時單簡決糾慮審視並說讓幾遺漏誤"
    "裡裏們會點關鍵繞著" + "，。！？；：（）　’“”",
    "aaeeiioouuu" + "对错检验证确认还换个种题吗没问为从头应该这样样处复杂么麻烦"
    "过实际于计记与结论准满条标则归总现觉惑离难两选项后来间时单简决纠虑审视并说让几遗漏误"
    "里里们会点关键绕着" + ",.!?;:() '\"\"",
)

_GAP = r"[^.!?\n]{0,12}?"  # what ~ in a cue stands for
_WORD_LETTER = "[a-zñ]"


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
    plain = beginning.translate(_VARIANTS).strip()
    kinds = _kinds_in(plain, _cues(language))

    for kind in _REFLECTIVE:
        if kind in kinds:
            return kind, True
    undecided = _UNCLEAR in kinds
    return "", None if undecided else False


class Cues(NamedTuple):
    """The cues of a language: one pattern that finds any, and the kind of each of its groups."""

    pattern: re.Pattern[str]
    kinds: tuple[str, ...]


def _kinds_in(plain: str, cues: Cues) -> set[str]:
    """Return the kinds that cues in a text speak for."""
    kinds = set()
    for match in cues.pattern.finditer(plain):
        number = match.lastindex or 0
        kinds.add(cues.kinds[number - 1])
    return kinds


@cache
def _cues(language: Language) -> Cues:
    """Return the cues of a language, those of its own and those that thoughts in any have.

    Of several at the same place the longest is found.
    """
    kind_of = {}
    path = files("cotlens.detect").joinpath("reflection.tsv")
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue

        code, kind, phrases = line.split("\t")
        if code in ("*", language):
            kind_of |= dict.fromkeys(phrases.split(" | "), kind)

    phrases = sorted(kind_of, key=len, reverse=True)
    pattern = "|".join(map(_pattern, phrases))
    kinds = map(kind_of.__getitem__, phrases)
    return Cues(re.compile(pattern), tuple(kinds))


def _pattern(phrase: str) -> str:
    """Return a group that finds a phrase.

    `^` and `$` stand for the ends of the step, `~` for at most twelve characters of its sentence.
    A Latin letter at either end of the phrase is that of a word, unless `*` follows.
    """
    is_open = phrase.endswith("*")
    words = phrase.removesuffix("*")
    body = _joined(words.strip("^$").split("~"))

    before = "" if words.startswith("^") else f"(?<!{_WORD_LETTER})"
    after = "" if is_open else f"(?!{_WORD_LETTER})"
    start = r"\A[^\w¿]*¿?" if words.startswith("^") else before
    stop = r"[^\w]*\Z" if words.endswith("$") else after

    # Chinese has no ends of words, so letters next to a Chinese character count for nothing.
    if not words.startswith("^") and not _is_latin(words[0]):
        start = ""
    if not words.endswith("$") and not _is_latin(words[-1]):
        stop = ""
    return f"({start}{body}{stop})"


def _joined(parts: Iterable[str]) -> str:
    return _GAP.join(map(re.escape, parts))


def _is_latin(sign: str) -> bool:
    return sign.isascii() and sign.isalpha()
