"""Neutralise a text before a judge reads it: delimiters of its template broken, long middles left out."""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

MAX_CHARS = 100_000  # of a text that goes to a judge: what is longer loses its middle, and says so
# --- what the judge reads is data ------------------------------------------------------------------------------
_BREAK = "\u200b"  # a zero-width space: the reader sees the same, a tokenizer or a parser does not
# What templates are made of, in the families that judges come from; names of speakers where a line begins.
_DELIMITERS = re.compile(
    r"[<＜][|｜][^|｜<>＜＞\s]{1,40}[|｜][>＞]|</?s>|\[/?(?:INST|SYS)\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|<\s?/?\s?(?:BEGIN|END)\s[A-Z\s]{3,40}>|<\s{0,3}/?\s{0,3}(?:text_to_judge|request)\s{0,3}>"
    r"|^[ \t]{0,3}(?:user|agent|human(?: user)?|(?:ai )?assistant|system|answers)[ \t]{0,3}:|^---+",
    re.IGNORECASE | re.MULTILINE,
)


def breaks(text: str, tokens: Iterable[str] = ()) -> list[int]:
    """Where `defuse` breaks a text: behind the first character of every delimiter.

    Args:
        text: hostile text.
        tokens: further strings to break: the special tokens of the judge's tokenizer.
    """
    own = sorted(
        (re.escape(token) for token in tokens if len(token) > 1 and not token.isspace()),
        key=len,
        reverse=True,
    )
    pattern = (
        re.compile("|".join([*own, _DELIMITERS.pattern]), _DELIMITERS.flags) if own else _DELIMITERS
    )
    return [match.start() + 1 for match in pattern.finditer(text)]


def insert_breaks(text: str, places: Sequence[int]) -> str:
    """The text with a zero-width space at each place."""
    edges = [0, *places, len(text)]
    return _BREAK.join(text[start:stop] for start, stop in pairwise(edges))


def defuse(text: str, tokens: Iterable[str] = ()) -> tuple[str, int]:
    """The text with every delimiter broken by a zero-width space behind its first character, and how many there were.

    Args:
        text: hostile text.
        tokens: further strings to break.

    >>> defuse("a <|eot_id|> b")[1]
    1
    """
    places = breaks(text, tokens)
    return insert_breaks(text, places), len(places)


def clean(text: str) -> str:
    """The text without lone surrogates, which no tokenizer and no file takes."""
    return text.encode("utf-8", "replace").decode()


def shorten(text: str, longest: int) -> tuple[str, int]:
    """The text without its middle if it is longer than `longest`, and how many characters that took."""
    if len(text) <= longest:
        return text, 0
    head, tail = longest // 2, longest - longest // 2
    return text[:head] + "\n[...]\n" + text[len(text) - tail :], len(text) - longest
