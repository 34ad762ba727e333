"""Is a step among English? Elsewhere the classifiers have no ground."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cotlens.detect.features import tokenize

# --- language --------------------------------------------------------------------------------------------------

# Frequent words of English that are not words of Spanish, French, German, Italian or Portuguese.
_ENGLISH_TEXT = """
    the of and to is that it this are for with be have then which what but can need let let's we you they from would
    should not by there their
"""
_ENGLISH = frozenset(_ENGLISH_TEXT.split())
# Cyrillic to Arabic, the scripts of India and south-east Asia, kana, Chinese, Hangul; not Greek, which is mathematics.
_OTHER_SCRIPT = re.compile(
    r"[\u0400-\u06ff\u0900-\u0eff\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)
_ACCENTED = re.compile(r"[À-ÖØ-öø-ž¿¡]")
_WINDOW = 10  # steps to each side that are judged together
_LEAST_WORDS = 20
_LEAST_SHARE = 0.03  # English has ten times this, the other languages next to nothing


def _is_word(token: str) -> bool:
    return len(token) > 1 and token != "..."


def is_english(
    texts: Sequence[str], tokens: Sequence[Sequence[str]] | None = None
) -> NDArray[np.bool_]:
    """Whether each step stands among English: by the share of function words in the steps around it.

    Where that cannot tell (a page of formulas, terse notes), the whole trace decides, and a trace without words counts
    as English. Steps in which letters of another script outnumber Latin words are not English.
    """
    tokens = tokens if tokens is not None else [tokenize(text) for text in texts]
    words = np.array([sum(map(_is_word, step)) for step in tokens])
    english = np.array([sum(map(_ENGLISH.__contains__, step)) for step in tokens])
    accented = np.array([0 if text.isascii() else len(_ACCENTED.findall(text)) for text in texts])
    foreign = np.array([sum(map(bool, map(_OTHER_SCRIPT.match, step))) for step in tokens])

    def around(values: NDArray[np.int64]) -> NDArray[np.int64]:
        total = np.concatenate([[0], np.cumsum(values)])
        at = np.arange(len(values))
        return total[np.minimum(at + _WINDOW + 1, len(values))] - total[np.maximum(at - _WINDOW, 0)]

    near_words, near_english = around(words), around(english)
    enough = near_english >= _LEAST_SHARE * near_words
    # Too few words to tell, or terse ones without an accent among them: the whole trace decides.
    unclear = (near_words < _LEAST_WORDS) | (around(accented) == 0)
    whole = english.sum() >= _LEAST_SHARE * words.sum() or words.sum() < _LEAST_WORDS
    return (enough | (unclear & whole)) & (foreign <= words)
