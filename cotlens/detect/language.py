"""Which language is a step in? The classifiers of steps are valid on English only.

Other languages that have rules for reflection (`rules`) are recognised by the same means: the share
of function words, or the script, of the steps around.
"""

import re
from enum import StrEnum

import numpy as np

from cotlens.detect.tokens import Flags, Integers, Steps

# Frequent English words that are not words of Spanish, French, German, Italian or Portuguese.
_ENGLISH_TEXT = """
    the of and to is that it this are for with be have then which what but can need let let's
    we you they from would should not by there their
"""
_ENGLISH = frozenset(_ENGLISH_TEXT.split())

# The same for Spanish, and words of Portuguese, Italian, French, Catalan and German that speak
# against it. `tokenize` splits words at accents, so none of these has one.
_SPANISH_TEXT = """
    el los las pero hay muy entonces porque puede debe esto eso ese ser donde cuando
"""
_SPANISH = frozenset(_SPANISH_TEXT.split())
_NOT_SPANISH_TEXT = """
    um uma os em ao com isso il che di per sono della nella les et dans amb els und der das ist
"""
_NOT_SPANISH = frozenset(_NOT_SPANISH_TEXT.split())

# Cyrillic to Arabic, the scripts of India and south-east Asia, kana, Chinese, Hangul.
# Greek is left out: it is mathematics.
_OTHER_SCRIPT = re.compile(
    r"[\u0400-\u06ff\u0900-\u0eff\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)
_HAN = re.compile(r"[\u3400-\u9fff]")
_ACCENTED = re.compile(r"[À-ÖØ-öø-ž¿¡]")

_WINDOW = 10  # steps on each side that are judged together
_LEAST_WORDS = 20  # fewer words do not tell the language
_LEAST_SHARE = 0.03  # of function words: English has ten times this, other languages almost none
_MOST_OTHERS = 0.05  # of letters: Japanese has ten times as many kana among its Chinese characters
_MOST_RIVALS = 0.3  # words that speak against Spanish, for each that speaks for it


class Language(StrEnum):
    """A language that steps are judged in."""

    ENGLISH = "en"
    CHINESE = "zh"
    SPANISH = "es"


def is_english(steps: Steps) -> Flags:
    """Return whether each step is English, by the share of function words in the steps around it.

    Where these steps cannot tell (a page of formulas, terse notes), the whole trace decides. A
    trace without words counts as English. A step with more letters of another script than Latin
    words is not English, nor is one without English function words where such letters prevail in
    the steps around it.
    """
    n_words = steps.count(_is_word)
    n_english = steps.count(_is_english_word)
    n_foreign = steps.count(_is_foreign)
    n_accented = np.array(list(map(_count_accented, steps.texts)), np.int64)

    # Are there enough function words around the step?
    words_around = steps.sums_around(n_words, _WINDOW)
    english_around = steps.sums_around(n_english, _WINDOW)
    enough_around = english_around >= _LEAST_SHARE * words_around

    # If not: are there too few words to tell, or terse ones without an accent among them?
    too_few_words = words_around < _LEAST_WORDS
    no_accents = steps.sums_around(n_accented, _WINDOW) == 0
    unclear = too_few_words | no_accents

    # Then the whole trace decides; without words it counts as English.
    all_words = steps.totals(n_words)
    all_english = steps.totals(n_english)
    enough_in_trace = all_english >= _LEAST_SHARE * all_words
    trace_is_english = enough_in_trace | (all_words < _LEAST_WORDS)
    enough = enough_around | (unclear & trace_is_english)

    # Names in code look English ("is_valid"), also where the text around them is Spanish, and a
    # Spanish step may have no accent. A trace that is English throughout is not asked.
    is_doubtful = steps.totals(n_accented + ~enough_around) > 0
    n_spanish = steps.count(_is_spanish_word)
    more_around = english_around >= steps.sums_around(n_spanish, _WINDOW)
    enough &= ~is_doubtful | more_around | (n_english > n_spanish)
    is_latin = n_foreign <= n_words

    # A formula among Chinese is part of the Chinese text, an English sentence is not.
    latin_around = steps.sums_around(n_foreign, _WINDOW) <= words_around
    belongs = latin_around | (n_english > 0)
    return enough & is_latin & belongs


def languages(steps: Steps, english: Flags) -> list[Language | None]:
    """Return the language of each step: English as given, Chinese, Spanish, or None.

    A step is Chinese if most of its letters, or of those in the steps around it, are Chinese
    characters, and hardly any around it are kana, Hangul or of another such script. It is Spanish
    if Latin words prevail and at least 3% of those around it are Spanish function words, with few
    function words of languages that are like Spanish. Where the steps around have fewer than 20
    words, the whole trace decides.

    Args:
        steps: of one or more traces.
        english: what `is_english` returns for them.
    """
    if english.all():
        return [Language.ENGLISH] * len(steps.texts)

    n_words = steps.count(_is_word)
    n_foreign = steps.count(_is_foreign)
    words_around = steps.sums_around(n_words, _WINDOW)
    foreign_around = steps.sums_around(n_foreign, _WINDOW)

    # The step's letters decide, or those around where it has about as many Latin words.
    n_han = steps.count(_is_han)
    han_around = steps.sums_around(n_han, _WINDOW)
    others_around = foreign_around - han_around
    pure_around = others_around <= _MOST_OTHERS * han_around
    is_han = (n_han > n_words) | (han_around > words_around)
    is_chinese = is_han & pure_around

    # Spanish words against those of languages like it.
    too_few_words = words_around < _LEAST_WORDS
    n_spanish = steps.count(_is_spanish_word)
    n_rivals = steps.count(_is_rival_word)
    spanish_around = _of_run(steps, n_spanish, too_few_words)
    rivals_around = _of_run(steps, n_rivals, too_few_words)
    run_words = _of_run(steps, n_words, too_few_words)

    some = spanish_around > 0
    enough = spanish_around >= _LEAST_SHARE * run_words
    few_rivals = rivals_around <= _MOST_RIVALS * spanish_around
    is_latin = foreign_around <= words_around
    is_spanish = some & enough & few_rivals & is_latin

    # A later one overwrites an earlier one: the classifier knows English better than rules do.
    answer: list[Language | None] = [None] * len(steps.texts)
    _write(answer, is_spanish, Language.SPANISH)
    _write(answer, is_chinese, Language.CHINESE)
    _write(answer, english, Language.ENGLISH)
    return answer


def _write(answer: list[Language | None], steps: Flags, language: Language) -> None:
    """Write a language at some of the steps."""
    for number in np.flatnonzero(steps):
        answer[number] = language


def _of_run(steps: Steps, values: Integers, too_few_words: Flags) -> Integers:
    """Return the sum around each step, or of the whole trace where there are too few words."""
    return np.where(too_few_words, steps.totals(values), steps.sums_around(values, _WINDOW))


# --- what is asked of every word ---------------------------------------------------------------


def _is_word(token: str) -> bool:
    is_longer_than_a_sign = len(token) > 1
    return is_longer_than_a_sign and token != "..."


def _is_english_word(token: str) -> bool:
    return token in _ENGLISH


def _is_spanish_word(token: str) -> bool:
    return token in _SPANISH


def _is_rival_word(token: str) -> bool:
    return token in _NOT_SPANISH


def _is_foreign(token: str) -> bool:
    """Return whether a token is a letter of a script other than Latin or Greek."""
    return _OTHER_SCRIPT.match(token) is not None


def _is_han(token: str) -> bool:
    return _HAN.match(token) is not None


def _count_accented(text: str) -> int:
    """Return how many letters have an accent."""
    if text.isascii():
        return 0
    return len(_ACCENTED.findall(text))
