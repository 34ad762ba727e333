"""The words of steps, of many traces at once, as numbers.

Detectors ask the same of every occurrence of a word: is it English, does it trigger a cue, what is
its hash. A `Vocabulary` answers once a word, and arrays of numbers do the rest.
"""

import re
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

# Only the beginning of a step is read: a longer step is a formula or a dump, and its beginning
# tells what it does.
MAX_CHARS = 2000
MAX_TOKENS = 60

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|[^\sa-z\d.]|\d+|\.\.\.|\.")
_NUMBER = "#"

_BORDER = "\0"  # stands between two steps that are read together
_READ_AT_ONCE = 2_000_000  # characters, so that memory stays flat
_MAX_WORDS = 200_000  # hostile text has endlessly many words


def tokenize(text: str) -> list[str]:
    """Return lower-case words, single signs, and `#` for every number; at most `MAX_TOKENS`."""
    found = _TOKEN.findall(_plain(text[:MAX_CHARS]))
    return [_as_word(token) for token in found[:MAX_TOKENS]]


def _plain(text: str) -> str:
    return text.lower().replace("’", "'")


def _as_word(token: str) -> str:
    return _NUMBER if token[0].isdigit() else token


class Vocabulary:
    """Words by number, in the order in which they were met.

    A text is read in pieces, which white space parts. Few pieces are new: the words of the others
    are looked up.

    Attributes:
        words: the words, by number.
    """

    def __init__(self) -> None:
        self.words: list[str] = []
        self._number_of: dict[str, int] = {}
        self._pieces = _Pieces(self)
        self._tables: dict[Callable[[str], Any], NDArray[Any]] = {}

    def __len__(self) -> int:
        """Return the number of pieces that are known."""
        return len(self._pieces)

    def numbers(self, tokens: Sequence[str]) -> list[int]:
        """Return the number of each token's word; new words get new ones."""
        numbers = []
        for token in tokens:
            word = _as_word(token)
            number = self._number_of.setdefault(word, len(self.words))
            if number == len(self.words):
                self.words.append(word)
            numbers.append(number)
        return numbers

    def read(self, text: str) -> Integers:
        """Return the words of a text, which is in lower case with straight apostrophes."""
        pieces = text.split()
        known = self._pieces
        places = np.fromiter(map(known.__getitem__, pieces), np.int64, len(pieces))

        # The words of each piece, one after the other.
        lengths = np.array(known.lengths)[places]
        before = np.cumsum(lengths) - lengths
        starts = np.array(known.starts)[places]
        return np.array(known.words)[_ranges(starts, lengths, before)]

    def table(self, ask: Callable[[str], Any], kind: type = bool) -> NDArray[Any]:
        """Return what a function says of every word, by number; it is asked once a word."""
        known = self._tables.get(ask, np.zeros(0, kind))
        new = self.words[len(known) :]
        if new:
            answers = np.array(list(map(ask, new)), kind)
            known = np.concatenate([known, answers])
            self._tables[ask] = known
        return known


class _Pieces(dict[str, int]):
    """Pieces of text by number, with their words.

    Attributes:
        words: those of all pieces.
        starts: the first word of each piece.
        lengths: how many words it has.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self._vocabulary = vocabulary
        self.words = array("q")
        self.starts = array("q")
        self.lengths = array("q")

    def __missing__(self, piece: str) -> int:
        number = len(self)
        words = self._vocabulary.numbers(_TOKEN.findall(piece))
        self.starts.append(len(self.words))
        self.lengths.append(len(words))
        self.words.extend(words)
        self[piece] = number
        return number


def _ranges(starts: Integers, lengths: Integers, before: Integers) -> Integers:
    """Return start, start + 1, ... for each start, as many as its length says."""
    return np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


class Steps(NamedTuple):
    """The steps of one or more traces, one after the other.

    Attributes:
        texts: of each step.
        words: the word of each token, as a number of `vocabulary`.
        starts: the first token of each step, in `words`.
        lengths: how many tokens each step has.
        borders: the first step of each trace, and the number of all steps: traces + 1 entries.
        vocabulary: what the numbers stand for.
    """

    texts: Sequence[str]
    words: Integers
    starts: Integers
    lengths: Integers
    borders: Integers
    vocabulary: Vocabulary

    def count(self, ask: Callable[[str], Any]) -> Integers:
        """Return how many tokens of each step pass a test, which is asked once a word."""
        before = sums_before(self.vocabulary.table(ask)[self.words])
        return before[self.starts + self.lengths] - before[self.starts]

    def has(self, ask: Callable[[str], Any]) -> Flags:
        """Return whether a token of each step passes a test."""
        return self.count(ask) > 0

    def traces(self) -> Integers:
        """Return the number of each step's trace."""
        return np.repeat(np.arange(len(self.borders) - 1), np.diff(self.borders))

    def first_of_trace(self) -> Integers:
        """Return for each step the first step of its trace."""
        return np.repeat(self.borders[:-1], np.diff(self.borders))

    def end_of_trace(self) -> Integers:
        """Return for each step the step after the last of its trace."""
        return np.repeat(self.borders[1:], np.diff(self.borders))

    def totals(self, values: Integers) -> Integers:
        """Return for each step the sum of the values over all steps of its trace."""
        before = sums_before(values)
        return before[self.end_of_trace()] - before[self.first_of_trace()]

    def sums_around(self, values: Integers, reach: int) -> Integers:
        """Return for each step the sum of the values at most `reach` steps away, in its trace."""
        before = sums_before(values)
        numbers = np.arange(len(values))
        starts = np.maximum(numbers - reach, self.first_of_trace())
        stops = np.minimum(numbers + reach + 1, self.end_of_trace())
        return before[stops] - before[starts]


def sums_before(values: NDArray[Any]) -> Integers:
    """Return the sum of all values before each, and last that of all: one entry more."""
    return np.concatenate([[0], np.cumsum(values)])


_vocabulary = Vocabulary()


def read_steps(traces: Sequence[Sequence[str]]) -> Steps:
    """Return the words of the steps of some traces, given as texts in order.

    Every step has the words that `tokenize` finds in it. Memory grows with the texts; give some
    megabytes of them at once.
    """
    global _vocabulary
    if len(_vocabulary) > _MAX_WORDS:
        _vocabulary = Vocabulary()
    vocabulary = _vocabulary

    texts = [text for trace in traces for text in trace]
    words = []
    lengths = []
    for block in _blocks(texts):
        block_words, block_lengths = _read_block(block, vocabulary)
        words.append(block_words)
        lengths.append(block_lengths)

    no_integers = np.zeros(0, np.int64)
    all_lengths = np.concatenate([no_integers, *lengths])
    sizes = [len(trace) for trace in traces]
    return Steps(
        texts=texts,
        words=np.concatenate([no_integers, *words]),
        starts=np.cumsum(all_lengths) - all_lengths,
        lengths=all_lengths,
        borders=np.cumsum([0, *sizes]),
        vocabulary=vocabulary,
    )


def _blocks(texts: Sequence[str]) -> list[list[str]]:
    """The beginnings of the texts, in blocks of about `_READ_AT_ONCE` characters."""
    blocks: list[list[str]] = []
    block: list[str] = []
    n_chars = 0
    for text in texts:
        beginning = text[:MAX_CHARS]
        block.append(beginning)
        n_chars += len(beginning)
        if n_chars > _READ_AT_ONCE:
            blocks.append(block)
            block = []
            n_chars = 0
    if block:
        blocks.append(block)
    return blocks


def _read_block(texts: list[str], vocabulary: Vocabulary) -> tuple[Integers, Integers]:
    """Return the words of some texts, and how many each has.

    The texts are read as one, which is several times as fast as one by one: nothing that `_TOKEN`
    or `lower` looks at reaches over a border.
    """
    joined = f" {_BORDER} ".join(texts)
    if joined.count(_BORDER) != len(texts) - 1:  # a text has the sign itself
        found = [vocabulary.numbers(tokenize(text)) for text in texts]
        lengths = np.array(list(map(len, found)), np.int64)
        return np.array([word for words in found for word in words], np.int64), lengths

    words = vocabulary.read(_plain(joined))
    (border,) = vocabulary.numbers([_BORDER])
    places = np.flatnonzero(words == border)
    starts = np.concatenate([[0], places + 1])
    stops = np.concatenate([places, [len(words)]])
    lengths = np.minimum(stops - starts, MAX_TOKENS)

    # Without the borders, and without what a step has too much.
    before = np.cumsum(lengths) - lengths
    return words[_ranges(starts, lengths, before)], lengths
