"""Named word lists of the literature, counted in texts and among token ids."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np

# --- word lists ------------------------------------------------------------------------------------------------
WORD_LISTS: dict[str, tuple[str, ...]] = {
    # OPTML-Group/CyclicReflex (ICLR 2026; two authors of the main paper): matched there as single tokens.
    "cyclic_reflex": ("wait", "Wait", "but", "But", "Alternatively"),
    # OPTML-Group/Unlearn-R2MU (all three authors of the main paper).
    "r2mu": (
        "<think>", "Wait", "wait", "but", "Okay", "Hmm", "Albeit", "However", "But", "Yet", "Still", "Nevertheless",
        "Though", "Meanwhile", "Whereas",
    ),
    # Sixteen markers as papers on reflection use them, with their capitalised forms: this project's baseline.
    "markers16": tuple(
        form
        for word in (
            "wait", "hmm", "alternatively", "actually", "however", "double-check", "let me check", "let me verify",
            "verify", "recheck", "on second thought", "reconsider", "mistake", "not sure", "make sure", "check again",
        )
        for form in (word, word.capitalize())
    ),
}  # fmt: skip


def count_words(text: str, words: str | Iterable[str]) -> int:
    """Occurrences of the words in the text, case as given, with a word boundary wherever the word has a letter.

    Args:
        text: any text.
        words: name of one of `WORD_LISTS`, or words of your own. Of two words at the same place the longer counts.

    >>> count_words("Wait, but wait: a butter knife.", "cyclic_reflex")
    3
    """
    return len(_pattern(words if isinstance(words, str) else tuple(words)).findall(text))


@cache
def _pattern(words: str | tuple[str, ...]) -> re.Pattern[str]:
    if isinstance(words, str) and words not in WORD_LISTS:
        raise ValueError(f"unknown word list {words!r}; there are {', '.join(WORD_LISTS)}")
    listed = WORD_LISTS[words] if isinstance(words, str) else words
    ordered = sorted(set(listed) - {""}, key=len, reverse=True)
    return re.compile("|".join(_bounded(word) for word in ordered) or r"(?!)")


def _bounded(word: str) -> str:
    """First the word's first character, then the boundary before it: the engine can skip to candidates."""
    before = rf"(?<!\w{re.escape(word[0])})" if word[0].isalnum() else ""
    after = r"\b" if word[-1].isalnum() else ""
    return re.escape(word[0]) + before + re.escape(word[1:]) + after


def word_token_ids(tokenizer: Any, words: str | Iterable[str]) -> dict[int, str]:
    """Token ids that stand for a word by themselves, in its bare form and with a space before it.

    Counting with the bare form only, as code that asks a tokenizer for the id of a word does, misses most occurrences,
    which have a space before them. Words of several tokens have no id and are left out.

    Args:
        tokenizer: a Hugging Face tokenizer.
        words: as in `count_words`.
    """
    listed = WORD_LISTS[words] if isinstance(words, str) else tuple(words)
    found = {}
    for word in listed:
        for form in (word, " " + word):
            ids = tokenizer.encode(form, add_special_tokens=False)
            if len(ids) == 1:
                found[ids[0]] = form
    return found


def count_token_ids(token_ids: Sequence[int], ids: Iterable[int]) -> int:
    """How many of the token ids are among `ids`."""
    return int(np.isin(np.asarray(token_ids, np.int64), np.fromiter(ids, np.int64)).sum())
