"""Turn the steps of a trace into hashed features, and sum a linear model's weights over them.

`reflect` and `unsafe` classify steps by these features.
"""

import re
import zlib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[Sequence[str]]  # the tokens of each step of a trace
Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]
Sums = NDArray[np.float64]

# A step is judged by its own features and by those of these neighbours. A model has a weight for
# each feature of each.
OFFSETS = (0, -1, 1)
_N_BEFORE = 1
_N_AFTER = 1

# Only the beginning of a step is read: a longer step is a formula or a dump, and its beginning
# tells what it does.
MAX_CHARS = 2000
MAX_TOKENS = 60

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|\.\.\.|[^\sa-z\d]")
_NUMBER = "#"

# These words stand before the first word of a step, and where a step has no word.
_START = "\x02"
_END = "\x03"


def tokenize(text: str) -> list[str]:
    """Return lower-case words, single signs, and `#` for every number; at most `MAX_TOKENS`."""
    beginning = text[:MAX_CHARS]
    lowered = beginning.lower()
    plain = lowered.replace("’", "'")

    found = _TOKEN.findall(plain)
    first = found[:MAX_TOKENS]
    return [_NUMBER if token[0].isdigit() else token for token in first]


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


def features(tokens: Tokens) -> Features:
    """Return the features of each step, without those of its neighbours.

    A feature is a hash of one or more words, or of the step's length, and of the feature's number:

    - its words and word pairs; the first word forms a pair with a mark of the beginning;
    - its second and its third word, its first two and its first three;
    - its last word and its last two;
    - its length on a logarithmic scale;
    - the whole step if it has at most four words.
    """
    words = _hash_words(tokens)
    # A step without words has one word, the end mark.
    lengths = np.array([len(step) or 1 for step in tokens])
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


def _hash_words(tokens: Tokens) -> Hashes:
    """Return the hashes of the words of all steps, one after the other."""
    words: list[str] = []
    for step in tokens:
        words.extend(step or [_END])

    try:
        hashes = list(map(_hashes.__getitem__, words))
    except KeyError:  # at least one word is new
        hashes = [_hash(word) for word in words]
    return np.array(hashes, np.uint64)


_hashes: dict[str, int] = {}
_MAX_HASHES = 200_000  # hostile text has endlessly many words


def _hash(word: str) -> int:
    """Return the CRC-32 of a word, which is computed once."""
    value = _hashes.get(word)
    if value is not None:
        return value

    if len(_hashes) > _MAX_HASHES:
        _hashes.clear()
    data = word.encode("utf-8", "surrogatepass")
    value = zlib.crc32(data)
    _hashes[word] = value
    return value


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


_BLOCK = 2_000  # steps at once, so that memory does not grow with the length of a trace


def feature_sums(tokens: Tokens, *models: Weights) -> list[Sums]:
    """Return for each model the summed weights of every step and its neighbours, plus the bias.

    The features are computed once for all models. A neighbour before the first step or after the
    last adds nothing. Each array has the shape (steps, outputs).
    """
    n_steps = len(tokens)
    blocks = []
    for start in range(0, n_steps, _BLOCK):
        stop = min(start + _BLOCK, n_steps)

        # A block is read with its neighbours, as far as the trace has them.
        first = max(start - _N_BEFORE, 0)
        end = min(stop + _N_AFTER, n_steps)
        block = tokens[first:end]
        block_features = features(block)

        # The neighbours that the trace does not have.
        n_before = first - (start - _N_BEFORE)
        n_after = stop + _N_AFTER - end
        padding = ((n_before, n_after), (0, 0), (0, 0))

        sums_of_models = []
        for model in models:
            added = _sum_by_step(model, block_features)
            padded = np.pad(added, padding)
            sums = _sum_over_neighbours(padded)
            sums += model.bias
            sums_of_models.append(sums)
        blocks.append(sums_of_models)

    # The blocks of each model, one after the other.
    by_model = zip(*blocks, strict=True)
    return list(map(np.concatenate, by_model))


def _sum_by_step(model: Weights, features: Features) -> Sums:
    """Return what each step adds to the steps around it: (steps, offsets, outputs)."""
    n_buckets, n_offsets, n_outputs = model.weights.shape
    last_bits = np.uint64(n_buckets - 1)

    # One row a bucket, whatever the offset and the output.
    table = model.weights.reshape(n_buckets, -1)

    def rows(hashes: Hashes) -> NDArray[np.float32]:
        """Return the weights of each hash; `take` is faster than an index."""
        buckets = hashes & last_bits
        places = buckets.astype(np.intp)
        return table.take(places, axis=0, mode="clip")

    # What the words of a step add.
    words, pairs = features.words
    of_words = rows(words)
    of_words += rows(pairs)
    added = np.add.reduceat(of_words, features.starts, axis=0)

    # What its beginning, its end and its length add, and a short step as a whole.
    for hashes in features.steps:
        added += rows(hashes)
    added[features.short] += rows(features.wholes)

    by_offset = added.reshape(-1, n_offsets, n_outputs)
    return by_offset.astype(np.float64)


def _sum_over_neighbours(added: Sums) -> Sums:
    """Return the sum of what every step but the padding takes from itself and its neighbours."""
    stop = len(added) - _N_AFTER
    taken = []
    for column, offset in enumerate(OFFSETS):
        start = _N_BEFORE + offset
        neighbours = slice(start, stop + offset)
        taken.append(added[neighbours, column])
    return np.sum(taken, axis=0)
