"""Where the delimiters of the table stand in a text. The case of a tag does not matter."""

import re
from collections.abc import Iterator, Sequence
from functools import cache

from cotlens.text.families import APRIEL, FAMILIES, GRANITE
from cotlens.text.tags import Tags

_QUOTES = frozenset("`\"'“‘”’")


@cache
def known_pairs() -> tuple[Tags, ...]:
    """Every pair of delimiters of the table, once; formats with channels are not among them."""
    pairs = []
    for family in FAMILIES:
        if family.channels is None:
            pairs += family.tags
    return tuple(dict.fromkeys(pairs))


_SUFFIXED = re.compile(r"</?think(:[^\s<>:/]{1,40})>", re.IGNORECASE)


def pairs_in(*texts: str) -> tuple[Tags, ...]:
    """The known pairs, and those of Hunyuan, whose suffix differs by checkpoint, if texts have one.

    >>> pairs_in("<think:6124c78e>Hm.")[-1]
    Tags(open='<think:6124c78e>', close='</think:6124c78e>')
    """
    pairs = list(known_pairs())
    for text in texts:
        match = _SUFFIXED.search(text)
        if match:
            suffix = match[1]
            pairs.append(Tags(f"<think{suffix}>", f"</think{suffix}>"))
    return tuple(dict.fromkeys(pairs))


_PHRASES = {tag for pair in (*APRIEL, *GRANITE) for tag in pair if tag[0].isalpha()}


def is_phrase(tag: str) -> bool:
    """Whether a known delimiter is a phrase, which counts only at the beginning of a completion."""
    return tag in _PHRASES


# --- a tag in a text -----------------------------------------------------------------------------
@cache
def pattern_of(*tags: str) -> re.Pattern[str]:
    """Any of the tags, the longest first, without regard to case."""
    longest_first = sorted(tags, key=len, reverse=True)
    alternatives = "|".join(map(re.escape, longest_first))
    return re.compile(alternatives, re.IGNORECASE)


def find_tag(text: str, tag: str, start: int = 0) -> int:
    """Where a tag first stands, or -1."""
    pattern = pattern_of(tag)
    match = pattern.search(text, start)
    if match is None:
        return -1
    return match.start()


def find_last(text: str, tag: str) -> int:
    """Where a tag last stands, or -1."""
    at = -1
    pattern = pattern_of(tag)
    for match in pattern.finditer(text):
        at = match.start()
    return at


def count_tag(text: str, tag: str) -> int:
    """How often a tag stands in a text."""
    n = 0
    pattern = pattern_of(tag)
    for _ in pattern.finditer(text):
        n += 1
    return n


def starts_with(text: str, tag: str, at: int = 0) -> bool:
    """Whether a tag stands at a place of the text."""
    pattern = pattern_of(tag)
    match = pattern.match(text, at)
    return match is not None


@cache
def _repeated(tag: str) -> re.Pattern[str]:
    one = re.escape(tag)
    return re.compile(rf"(?:\s*+{one})*+", re.IGNORECASE)


def skip_repeated(text: str, at: int, tag: str) -> int:
    """The place after all repetitions of a tag that only blanks part."""
    pattern = _repeated(tag)
    match = pattern.match(text, at)
    if match is None:
        return at
    return match.end()


# --- outside quotation marks ---------------------------------------------------------------------
def is_quoted(text: str, start: int, stop: int) -> bool:
    """Whether a stretch has quotation marks on both sides."""
    # Nothing stands before the first character.
    if start == 0:
        return False
    before = text[start - 1]
    after = text[stop : stop + 1]
    return before in _QUOTES and after in _QUOTES


def unquoted(pattern: re.Pattern[str], text: str, start: int = 0) -> Iterator[re.Match[str]]:
    """The matches of a pattern that are not quoted: a mention of a tag delimits nothing."""
    for match in pattern.finditer(text, start):
        start, stop = match.span()
        if not is_quoted(text, start, stop):
            yield match


def find_unquoted(text: str, tag: str, start: int) -> int:
    """Where a tag first stands without quotation marks on both sides, or -1."""
    pattern = pattern_of(tag)
    for match in unquoted(pattern, text, start):
        return match.start()
    return -1


def has_tag(text: str) -> bool:
    """Whether the text has a delimiter of a known pair, quoted ones aside."""
    # A phrase is a delimiter only where the text begins with it.
    tags = []
    begin = len(text) - len(text.lstrip())
    for pair in pairs_in(text):
        tags += [tag for tag in pair if not is_phrase(tag)]
        if is_phrase(pair.open) and starts_with(text, pair.open, begin):
            return True
    pattern = pattern_of(*tags)
    return any(unquoted(pattern, text))


# --- the pair that delimits a text ---------------------------------------------------------------
def first_pair(text: str, start: int, pairs: tuple[Tags, ...]) -> Tags | None:
    """The pair that delimits this text, or None.

    It is the pair that the text begins with; else one whose closing tag was never opened; else the
    one that comes first. A thought may talk about the delimiters of another family; such a mention
    does not delimit it.
    """
    rest = text[start:].lstrip()
    begin = len(text) - len(rest)
    leading = []
    for pair in pairs:
        if starts_with(text, pair.open, begin):
            leading.append(pair)
    if leading:
        return with_first_close(text, begin, leading)

    places = _first_places(text, start, pairs)
    # A thought whose closing tag nothing opened was opened by the prompt.
    unopened = []
    opened = []
    for pair in pairs:
        opening = places.get(pair.open.lower())
        closing = places.get(pair.close.lower())
        if opening is not None:
            opened.append((opening, pair))
        if closing is None:
            continue
        if opening is None or closing < opening:
            unopened.append((closing, pair))

    candidates = unopened or opened
    if not candidates:
        return None
    _, first = min(candidates)
    return first


def _first_places(text: str, start: int, pairs: tuple[Tags, ...]) -> dict[str, int]:
    """Where each tag first stands, in lower case; a phrase in the middle of a text is none."""
    tags = []
    for pair in pairs:
        tags += [tag for tag in pair if not is_phrase(tag)]

    places: dict[str, int] = {}
    pattern = pattern_of(*tags)
    for match in unquoted(pattern, text, start):
        tag = match.group().lower()
        places.setdefault(tag, match.start())
    return places


def with_first_close(text: str, start: int, pairs: Sequence[Tags]) -> Tags:
    """Of pairs with the same opening delimiter, the one whose closing one comes first."""
    # The first pair, where none is closed.
    first = pairs[0]
    first_at = len(text)
    for pair in pairs:
        at = find_tag(text, pair.close, start)
        if 0 <= at < first_at:
            first = pair
            first_at = at
    return first
