"""Turn the steps of a trace into hashed features, and sum a linear model's weights over them.

`reflect` and `unsafe` classify steps by these features.
"""

import zlib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotlens.detect.tokens import Integers, Steps

Hashes = NDArray[np.uint64]
Sums = NDArray[np.float64]

# A step is judged by its own features and by those of these neighbours. A model has a weight for
# each feature of each.
OFFSETS = (0, -1, 1)

# These words stand before the first word of a step, and where a step has no word.
_START = "\x02"
_END = "\x03"


class Features(NamedTuple):
    """The hashed features of some steps. A feature that a step has twice counts twice.

    Attributes:
        words: Hashes of the words of all steps, and of the pairs that each word forms with the word
            before it, in two rows.
        starts: The first column of each step in `words`.
        steps: Hashes of the features that a step has once, one row a feature.
        short: The steps of at most four words.
        wholes: Hashes of these steps as a whole.
    """

    words: Hashes
    starts: Integers
    steps: Hashes
    short: Integers
    wholes: Hashes


def features(steps: Steps) -> Features:
    """Return the features of each step, without those of its neighbours.

    A feature is a hash of one or more words, or of the step's length, and of the feature's number:

    - its words and word pairs; the first word forms a pair with a mark of the beginning;
    - its second and its third word, its first two and its first three;
    - its last word and its last two;
    - its length on a logarithmic scale;
    - the whole step if it has at most four words.
    """
    words, lengths = _hash_words(steps)
    stops = np.cumsum(lengths)
    starts = stops - lengths

    # Before the first word of a step stands the start mark.
    previous = np.roll(words, 1)
    previous[starts] = _hash(_START)
    of_words = np.stack([_mix(words, words, 1), _mix(previous, words, 2)])

    end = np.uint64(_hash(_END))

    def word_at(places: Integers) -> Hashes:
        """Return one word of each step; the end mark where the place is outside the step."""
        is_inside = (starts <= places) & (places < stops)
        nearest = np.clip(places, 0, len(words) - 1)
        return np.where(is_inside, words[nearest], end)

    # How each step begins and ends, and how long it is.
    first = word_at(starts)
    second = word_at(starts + 1)
    third = word_at(starts + 2)
    fourth = word_at(starts + 3)
    last = word_at(stops - 1)
    second_last = word_at(stops - 2)
    first_two = _mix(first, second, 0)
    next_two = _mix(third, fourth, 0)
    log_length = np.log2(lengths + 1)
    size = (2 * log_length).round().astype(np.uint64)

    # The fitted weights depend on the order of these.
    pairs = [
        (second, second),
        (third, third),
        (first, second),
        (first_two, third),
        (last, last),
        (second_last, last),
        (size, size),
    ]
    of_steps = []
    for number, (left, right) in enumerate(pairs, start=10):
        of_steps.append(_mix(left, right, number))

    # Short steps as a whole.
    short = np.flatnonzero(lengths <= 4)
    wholes = _mix(first_two[short], next_two[short], 3)
    return Features(of_words, starts, np.stack(of_steps), short, wholes)


def _hash_words(steps: Steps) -> tuple[Hashes, Integers]:
    """Return the hashes of the words of all steps, and how many each has.

    A step without words has one word, the end mark.
    """
    hash_of = steps.vocabulary.table(_hash, np.uint64)
    hashes = hash_of[steps.words]
    empty = np.flatnonzero(steps.lengths == 0)
    if len(empty):
        hashes = np.insert(hashes, steps.starts[empty], np.uint64(_hash(_END)))
    return hashes, np.maximum(steps.lengths, 1)


def _hash(word: str) -> int:
    """Return the CRC-32 of a word."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def _mix(left: Hashes, right: Hashes, number: int) -> Hashes:
    """Return hashes of two hashes and a number: multiply and shift, as in splitmix64."""
    offset = number * 0x165667B19E3779F9 % 2**64
    mixed = left * _LEFT_FACTOR
    mixed += right * _RIGHT_FACTOR
    mixed += np.uint64(offset)

    mixed ^= mixed >> np.uint64(30)
    mixed *= _MIXED_FACTOR
    mixed ^= mixed >> np.uint64(31)
    return mixed


_LEFT_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_RIGHT_FACTOR = np.uint64(0xC2B2AE3D27D4EB4F)
_MIXED_FACTOR = np.uint64(0xBF58476D1CE4E5B9)


class Weights(NamedTuple):
    """A linear model over the features of a step and of its neighbours.

    Attributes:
        weights: (buckets, offsets, outputs): what a feature of a step adds to the outputs of the
            steps that see it at each of `OFFSETS`. The number of buckets is a power of two, and a
            hash belongs to the bucket of its last bits.
        bias: (outputs,)
    """

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


def load_weights(name: str, outputs: Sequence[str]) -> Weights:
    """Return the weights in a file of this package; those of `harm` have no offsets.

    Args:
        name: the file, such as `reflect.npz`.
        outputs: names of the outputs, in the order of the columns.

    Raises:
        ValueError: if the file holds weights for other outputs.
    """
    path = files("cotlens.detect").joinpath(name)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        fitted = arrays["outputs"].tolist()
        weights = arrays["weights"].astype(np.float32, order="C")
        bias = arrays["bias"].astype(np.float32)

    if fitted != list(outputs):
        got = ", ".join(fitted)
        expected = ", ".join(outputs)
        module = name.removesuffix(".npz")
        raise ValueError(
            f"{name} was fitted for other outputs: got {got}, "
            f"expected {expected}; run python -m trainers.fit.{module}"
        )
    return Weights(weights, bias)


def feature_sums(steps: Steps, *models: Weights) -> list[Sums]:
    """Return for each model the summed weights of every step and its neighbours, plus the bias.

    The features are computed once for all models. A neighbour before the first step of a trace or
    after its last adds nothing. Each array has the shape (steps, outputs).
    """
    if not len(steps.texts):
        return [np.zeros((0, model.weights.shape[2])) for model in models]

    hashes, starts = _in_rows(features(steps))
    sums_of_models = []
    for model in models:
        added = _sum_by_step(model, hashes, starts)
        sums = _sum_over_neighbours(added, steps)
        sums += model.bias
        sums_of_models.append(sums)
    return sums_of_models


def _in_rows(features: Features) -> tuple[Hashes, Integers]:
    """Return the hashes of each step, step by step, and where those of each step start."""
    n_words = np.diff(features.starts, append=features.words.shape[1])
    n_once = len(features.steps)
    n_hashes = len(features.words) * n_words + n_once
    n_hashes[features.short] += 1
    ends = np.cumsum(n_hashes)
    starts = ends - n_hashes
    hashes = np.empty(ends[-1], np.uint64)

    # The words of a step, then its pairs.
    numbers = np.arange(features.words.shape[1]) - np.repeat(features.starts, n_words)
    of_words = np.repeat(starts, n_words) + numbers
    for row, of_kind in enumerate(features.words):
        hashes[of_words + row * np.repeat(n_words, n_words)] = of_kind

    # What it has once, and a short step as a whole.
    of_steps = starts + len(features.words) * n_words
    for row, of_kind in enumerate(features.steps):
        hashes[of_steps + row] = of_kind
    hashes[ends[features.short] - 1] = features.wholes
    return hashes, np.append(starts, len(hashes))


def _sum_by_step(model: Weights, hashes: Hashes, starts: Integers) -> NDArray[np.float32]:
    """Return what each step adds to the steps around it: (steps, offsets, outputs).

    It is the product of a sparse matrix (steps, buckets) with the weights.
    """
    from scipy.sparse import csr_matrix

    n_buckets, n_offsets, n_outputs = model.weights.shape
    buckets = (hashes & np.uint64(n_buckets - 1)).astype(np.int32)
    ones = np.ones(len(buckets), np.float32)
    n_steps = len(starts) - 1
    counts = csr_matrix((ones, buckets, starts), (n_steps, n_buckets))
    added = counts @ model.weights.reshape(n_buckets, -1)
    return added.reshape(n_steps, n_offsets, n_outputs)


def _sum_over_neighbours(added: NDArray[np.float32], steps: Steps) -> Sums:
    """Return the sum of what every step takes from itself and from its neighbours in the trace."""
    sums = added[:, 0].astype(np.float64)
    numbers = np.arange(len(sums))
    firsts = steps.first_of_trace()
    ends = steps.end_of_trace()
    for column, offset in enumerate(OFFSETS[1:], start=1):
        neighbours = numbers + offset
        has_one = (firsts <= neighbours) & (neighbours < ends)
        sums[has_one] += added[neighbours[has_one], column]
    return sums
