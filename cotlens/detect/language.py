"""Is a step English? The classifiers of steps are not valid on other languages."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from cotlens.detect.features import Integers, Tokens, tokenize

# Frequent English words that are not words of Spanish, French, German, Italian or Portuguese.
_ENGLISH_TEXT = """
    the of and to is that it this are for with be have then which what but can need let let's
    we you they from would should not by there their
"""
_ENGLISH = frozenset(_ENGLISH_TEXT.split())

# Cyrillic to Arabic, the scripts of India and south-east Asia, kana, Chinese, Hangul.
# Greek is left out: it is mathematics.
_OTHER_SCRIPT = re.compile(
    r"[\u0400-\u06ff\u0900-\u0eff\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)
_ACCENTED = re.compile(r"[À-ÖØ-öø-ž¿¡]")

_WINDOW = 10  # steps on each side that are judged together
_LEAST_WORDS = 20  # fewer words do not tell the language
_LEAST_SHARE = 0.03  # of function words: English has ten times this, other languages almost none


def is_english(texts: Sequence[str], tokens: Tokens | None = None) -> NDArray[np.bool_]:
    """Return whether each step is English, by the share of function words in the steps around it.

    Where these steps cannot tell (a page of formulas, terse notes), the whole trace decides. A
    trace without words counts as English. A step with more letters of another script than Latin
    words is not English.

    Args:
        texts: the steps of one trace, in order.
        tokens: what `tokenize` returns for each of them; computed if not given.
    """
    if tokens is None:
        tokens = list(map(tokenize, texts))

    n_words = _count_tokens(tokens, _is_word)
    n_english = _count_tokens(tokens, _ENGLISH.__contains__)
    n_foreign = _count_tokens(tokens, _OTHER_SCRIPT.match)
    n_accented = np.array(list(map(_count_accented, texts)))

    # Are there enough function words around the step?
    words_around = _sum_around(n_words)
    english_around = _sum_around(n_english)
    enough_around = english_around >= _LEAST_SHARE * words_around

    # If not: are there too few words to tell, or terse ones without an accent among them?
    too_few_words = words_around < _LEAST_WORDS
    no_accents = _sum_around(n_accented) == 0
    unclear = too_few_words | no_accents

    # Then the whole trace decides; without words it counts as English.
    all_words = n_words.sum()
    all_english = n_english.sum()
    enough_in_trace = all_english >= _LEAST_SHARE * all_words
    trace_is_english = enough_in_trace or all_words < _LEAST_WORDS

    enough = enough_around | (unclear & trace_is_english)
    is_latin = n_foreign <= n_words
    return enough & is_latin


def _count_tokens(tokens: Tokens, passes: Callable) -> Integers:
    """Return how many tokens of each step pass a test."""
    counts = []
    for step in tokens:
        passing = list(filter(passes, step))
        counts.append(len(passing))
    return np.array(counts)


def _is_word(token: str) -> bool:
    is_longer_than_a_sign = len(token) > 1
    return is_longer_than_a_sign and token != "..."


def _count_accented(text: str) -> int:
    """Return how many letters have an accent."""
    if text.isascii():
        return 0

    accented = _ACCENTED.findall(text)
    return len(accented)


def _sum_around(values: Integers) -> Integers:
    """Return for each step the sum of the values at most `_WINDOW` steps away."""
    n_steps = len(values)
    sums = np.cumsum(values)
    sums_before = np.concatenate([[0], sums])

    # The window of a step ends where the trace does.
    steps = np.arange(n_steps)
    starts = np.maximum(steps - _WINDOW, 0)
    stops = np.minimum(steps + _WINDOW + 1, n_steps)
    return sums_before[stops] - sums_before[starts]
