"""To which stretch of text does a token belong? One rule for steps, thinking and answer.

A token belongs to the stretch that holds its first character that is no white space; a token of
white space alone belongs to the stretch in which it begins. White space ends the step before, and
most tokenizers put the blank before a word into the word's token: by this rule the token " Wait"
is the first of the step "Wait, ..." and not the last of the step before it.

A token with a part of a character belongs to the stretch that holds the character. A token with
text of two stretches belongs to the first.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Starts = Sequence[int] | NDArray[Any]
Places = NDArray[np.intp]
Spans = Iterable[Sequence[int]]

# Whether a code point is white space to `str.isspace`, as to the `\s` that ends a step. U+3000 is
# the last that is; the next one stands for all after it.
_AFTER_WHITE_SPACE = 0x3001
_IS_WHITE_SPACE = np.array([chr(point).isspace() for point in range(_AFTER_WHITE_SPACE + 1)])


def word_starts(text: str, token_starts: Starts) -> Places:
    """The first character of each token that is no white space; -1 for one of white space alone.

    Tokens that begin at the same character hold parts of it: they share the text up to where the
    next token begins, and so the character.

    Args:
        text: what the tokens spell.
        token_starts: where each token begins in it, code points that do not fall.

    >>> word_starts("Yes. Wait ", [0, 3, 4, 9]).tolist()  # the tokens: Yes|.| Wait| |
    [0, 3, 5, -1]
    """
    # Where the text is no white space; its end stands for none.
    data = text.encode("utf-32-le", "surrogatepass")
    code_points = np.frombuffer(data, "<u4")
    code_points = np.minimum(code_points, _AFTER_WHITE_SPACE)
    is_white_space = _IS_WHITE_SPACE[code_points]
    solid = np.flatnonzero(~is_white_space)
    text_stop = len(text)
    solid = np.append(solid, text_stop)

    # Where the next token begins that does not begin at the same character.
    starts = np.asarray(token_starts, np.intp)
    bounds = np.append(starts, text_stop)
    next_tokens = np.searchsorted(
        starts,
        starts,
        side="right",
    )
    stops = bounds[next_tokens]

    # The first such character from where each token begins, if the token reaches that far.
    candidates = np.searchsorted(solid, starts)
    words = solid[candidates]
    is_inside = words < stops
    return np.where(is_inside, words, -1)


def token_places(token_starts: Starts, words: Places) -> Places:
    """The character that decides where each token belongs.

    Args:
        token_starts: where each token begins.
        words: what `word_starts` returned for them.
    """
    is_white_space = words < 0
    return np.where(is_white_space, token_starts, words)


def token_ranges(token_starts: Starts, words: Places, spans: Spans) -> Places:
    """The tokens that belong to each span: one row (first, one past the last) per span.

    Args:
        token_starts: where each token begins.
        words: what `word_starts` returned for them.
        spans: (start, stop) in code points.
    """
    places = token_places(token_starts, words)
    bounds = np.array([*spans], np.intp)
    bounds = bounds.reshape(-1, 2)  # also where there is no span
    return np.searchsorted(places, bounds)


def start_inside(text: str, start_before: int, start: int) -> int:
    """Where a token begins that shares the character at `start` with the token before it.

    It begins at that character. If only white space stands before the character in the token before
    it, both begin with the white space: neither is white space alone, and both belong to the
    character.

    Args:
        text: what the tokens spell.
        start_before: where the token before begins.
        start: the character of which each holds a part.
    """
    before = text[start_before:start]
    if before.isspace():
        return start_before
    return start
