"""Neutralise a text before a judge reads it.

What a judge reads is data: delimiters of its template inside a text are broken. Long texts are read
in windows that overlap, so that no part of them is unseen; long prompts lose their middle.
"""

import math
import re
from collections.abc import Iterable, Sequence

# Longest text that goes to a judge at once, and how much its windows share.
MAX_CHARS = 100_000
OVERLAP = 1_000

# A zero-width space: a reader sees the same text, a tokenizer or parser does not.
BREAK = "\u200b"

_DELIMITERS = re.compile(
    # special tokens and other delimiters of the templates that judges use
    r"[<＜][|｜][^|｜<>＜＞\s]{1,40}[|｜][>＞]|</?s>"
    r"|\[/?(?:INST|SYS)\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|<\s?/?\s?(?:BEGIN|END)\s[A-Z\s]{3,40}>"
    # the tags of our own rubrics, also with other signs for brackets, slash and underscore, with
    # invisible characters inside, or with attributes
    r"|[<＜‹〈⟨﹤][\s\W_]{0,8}(?:text[\W_]{0,4}to[\W_]{0,4}judge|request)\b[^<>＜＞]{0,80}[>＞›〉⟩﹥]"
    # the name of a speaker, or a rule, at the beginning of a line
    r"|^[ \t]{0,3}(?:user|agent|human(?: user)?|(?:ai )?assistant|system|answers)[ \t]{0,3}:"
    r"|^---+",
    re.IGNORECASE | re.MULTILINE,
)


def defuse(text: str, tokens: Iterable[str] = ()) -> tuple[str, int]:
    """Return the text with every delimiter broken, and how many there were.

    A zero-width space after its first character breaks a delimiter.

    Args:
        text: hostile text.
        tokens: further strings to break: the special tokens of the judge's tokenizer.

    >>> defuse("a <|eot_id|> b")[1]
    1
    """
    places = breaks(text, tokens)
    defused = insert_breaks(text, places)
    return defused, len(places)


def breaks(text: str, tokens: Iterable[str] = ()) -> list[int]:
    """Return the places where `defuse` breaks a text: after the first character of a delimiter.

    Args:
        text: hostile text.
        tokens: as in `defuse`.
    """
    # White space is harmless, and a break would not change a single character.
    escaped = []
    for token in tokens:
        if len(token) > 1 and not token.isspace():
            escaped.append(re.escape(token))

    # Longer tokens go first: one may begin with another.
    pattern = _DELIMITERS
    if escaped:
        escaped.sort(key=len, reverse=True)
        escaped.append(pattern.pattern)
        alternatives = "|".join(escaped)
        pattern = re.compile(alternatives, pattern.flags)

    places = []
    for delimiter in pattern.finditer(text):
        places.append(delimiter.start() + 1)
    return places


def insert_breaks(text: str, places: Sequence[int]) -> str:
    """Return the text with a zero-width space at each place."""
    pieces = []
    start = 0
    for place in places:
        pieces.append(text[start:place])
        start = place
    pieces.append(text[start:])
    return BREAK.join(pieces)


def defuse_steps(steps: Sequence[str], special: Sequence[str]) -> list[str]:
    """Return the steps with their delimiters broken, also those that span two steps."""
    places = breaks("".join(steps), special)
    pieces = []
    start = 0
    for step in steps:
        # A break at the border of two steps belongs to the first of them.
        stop = start + len(step)
        places_inside = []
        for place in places:
            if start < place <= stop:
                places_inside.append(place - start)
        piece = insert_breaks(step, places_inside)
        pieces.append(piece)
        start = stop
    return pieces


def clean(text: str) -> str:
    """Return the text with `?` for lone surrogates, which no tokenizer and no file accepts."""
    data = text.encode("utf-8", "replace")
    return data.decode()


def shorten(text: str, longest: int) -> tuple[str, int]:
    r"""Return the text without its middle if it is longer than `longest`, and the characters cut.

    >>> shorten("abcdef", 4)
    ('ab\n[...]\nef', 2)
    """
    n_cut = len(text) - longest
    if n_cut <= 0:
        return text, 0

    # Half of what is left stands before the cut, the other half after it.
    cut_start = longest // 2
    cut_stop = cut_start + n_cut
    head = text[:cut_start]
    tail = text[cut_stop:]
    return f"{head}\n[...]\n{tail}", n_cut


def windows(text: str, longest: int) -> list[str]:
    """Return a text in windows of equal length that are not longer than `longest`.

    Each shares `OVERLAP` characters with the next, or a tenth of a short window.

    >>> windows("abcdef", 10)
    ['abcdef']
    >>> windows("abcdefghijklmnop", 10)
    ['abcdefghi', 'ijklmnop']
    """
    shared = min(OVERLAP, longest // 10)
    if len(text) <= longest:
        return [text]

    # Each window brings `step` characters that the one before it lacks.
    n_new = len(text) - shared
    longest_step = longest - shared
    n_windows = math.ceil(n_new / longest_step)
    step = math.ceil(n_new / n_windows)

    pieces = []
    for start in range(0, n_new, step):
        stop = start + step + shared
        pieces.append(text[start:stop])
    return pieces


def in_halves(text: str) -> list[str]:
    """Return the two overlapping halves of a text."""
    half = math.ceil(len(text) / 2)
    shared = min(OVERLAP, len(text) // 10)
    return windows(text, half + shared)
