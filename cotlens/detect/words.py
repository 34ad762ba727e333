"""Count the word lists of the literature in a text."""

import re
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

from cotlens.detect.tokens import MAX_CHARS, MAX_TOKENS, Integers, Steps

_MARKERS = (
    "wait", "hmm", "alternatively", "actually", "however", "double-check", "let me check",
    "let me verify", "verify", "recheck", "on second thought", "reconsider", "mistake",
    "not sure", "make sure", "check again",
)  # fmt: skip

WORD_LISTS: dict[str, tuple[str, ...]] = {
    # OPTML-Group/CyclicReflex (ICLR 2026; two authors of the main paper): single tokens there.
    "cyclic_reflex": ("wait", "Wait", "but", "But", "Alternatively"),
    # OPTML-Group/Unlearn-R2MU (all three authors of the main paper).
    "r2mu": (
        "<think>", "Wait", "wait", "but", "Okay", "Hmm", "Albeit", "However", "But", "Yet",
        "Still", "Nevertheless", "Though", "Meanwhile", "Whereas",
    ),
    # Sixteen markers that papers on reflection use, each also with a capital: our baseline.
    "markers16": tuple(form for word in _MARKERS for form in (word, word.capitalize())),
}  # fmt: skip


def count_words(text: str, words: str | Iterable[str]) -> int:
    """Return how often the words occur in the text, in the case given, as whole words.

    A word needs a boundary at each end that is a letter or digit. Of two words at the same place
    the longer counts.

    Args:
        text: any text.
        words: the name of one of `WORD_LISTS`, or your own words.

    Raises:
        ValueError: if the name is not in `WORD_LISTS`.

    >>> count_words("Wait, but wait: a butter knife.", "cyclic_reflex")
    3
    """
    if not isinstance(words, str):
        words = tuple(words)

    # Patterns are cached, by the name of the list or by the words.
    pattern = _pattern(words)
    occurrences = pattern.findall(text)
    return len(occurrences)


def count_in_steps(steps: Steps, words: str) -> Integers:
    """Return what `count_words` says of every step, for one of `WORD_LISTS`.

    A step is searched only if it has a word that every hit has, or if not all of it was read.
    """
    is_long = np.array([len(text) > MAX_CHARS for text in steps.texts], bool)
    is_long |= steps.lengths == MAX_TOKENS
    may_hit = steps.has(_hint(words)) | is_long

    counts = np.zeros(len(steps.texts), np.int64)
    findall = _pattern(words).findall
    for number in np.flatnonzero(may_hit).tolist():
        counts[number] = len(findall(steps.texts[number]))
    return counts


@cache
def _hint(words: str) -> Callable[[str], bool]:
    """Return a test of tokens that one token passes wherever the list has a hit.

    Every entry has a longest run of letters, which is a token of its own, or part of one with an
    apostrophe.
    """
    runs = set()
    for entry in WORD_LISTS[words]:
        runs.add(max(re.findall("[a-z]+", entry.lower()), key=len))

    def is_hint(token: str) -> bool:
        return not runs.isdisjoint(token.split("'"))

    return is_hint


@cache
def _pattern(words: str | tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that finds any of the words, or those of a named list, longer ones first."""
    if isinstance(words, str):
        if words not in WORD_LISTS:
            names = ", ".join(WORD_LISTS)
            raise ValueError(f"unknown word list {words!r}; there are {names}")
        words = WORD_LISTS[words]

    distinct = set(words) - {""}
    longest_first = sorted(distinct, key=len, reverse=True)
    alternatives = map(_bounded, longest_first)
    expression = "|".join(alternatives)

    # Without words the pattern matches nowhere.
    return re.compile(expression or "(?!)")


def _bounded(word: str) -> str:
    """Return a pattern of one word with its boundaries.

    The boundary before a word comes after its first character in the pattern, so that the engine
    can skip to that character.
    """
    first = re.escape(word[0])
    rest = re.escape(word[1:])

    # Only a letter or digit needs a boundary: a sign ends a word by itself.
    before = ""
    if word[0].isalnum():
        before = rf"(?<!\w{first})"

    after = ""
    if word[-1].isalnum():
        after = r"\b"

    return first + before + rest + after
