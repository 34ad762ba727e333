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

N_BUCKETS = 1 << 15

# Only the beginning of a step is read: a longer step is a formula or a dump, and its beginning
# tells what it does.
MAX_CHARS = 2000
MAX_TOKENS = 60

_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|\.\.\.|[^\sa-z\d]")
_NUMBER = "#"

# These words fill the places before the first step, and those where a step has no word.
_START = "\x02"
_END = "\x03"


def tokenize(text: str) -> list[str]:
    """Return lower-case words, single signs, and `#` for every number; at most `MAX_TOKENS`."""
    beginning = text[:MAX_CHARS].lower()
    plain = beginning.replace("’", "'")
    tokens = _TOKEN.findall(plain)[:MAX_TOKENS]
    return [_NUMBER if token[0].isdigit() else token for token in tokens]


def features(tokens: Tokens) -> tuple[Integers, Integers]:
    """Return the features of each step as step numbers and buckets, each pair once, sorted.

    A feature is a hash of one or two words, or of the step's length, and of the feature's number.
    A step has these features:

    - its words and word pairs, and the whole step if it has at most four words;
    - its first three words, alone and together, its last word and its last two;
    - its length on a logarithmic scale;
    - of the step before: the words, the beginning, the end and the length;
    - of the step before that: the beginning and the end;
    - of the step after: the words and the beginning.
    """
    words = _hash_words(tokens)
    # A step without words has one word, the end mark.
    lengths = np.array([len(step) or 1 for step in tokens])

    keys = _keys_of_words(words, lengths)
    keys += _keys_of_steps(words, lengths)
    all_keys = np.concatenate(keys)

    # Sort, and drop what occurs twice.
    all_keys.sort()
    gaps = np.diff(all_keys, prepend=-1)
    unique_keys = all_keys[gaps > 0]

    steps = unique_keys // N_BUCKETS
    buckets = unique_keys % N_BUCKETS
    return steps, buckets


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


def _keys_of_words(words: Hashes, lengths: Integers) -> list[Integers]:
    """Return the features that are words and word pairs, of a step and of its neighbours."""
    n_steps = len(lengths)
    steps = np.arange(n_steps)
    step = np.repeat(steps, lengths)  # of each word
    keys = [_keys(1, step, words, words)]

    # Pairs of words within a step.
    left = np.flatnonzero(np.diff(step) == 0)
    left_words = words[left]
    right_words = words[left + 1]
    keys.append(_keys(2, step[left], left_words, right_words))

    # The words of a step are context of the step after it ...
    has_next = step < n_steps - 1
    next_step = step[has_next] + 1
    before = words[has_next]
    keys.append(_keys(4, next_step, before, before))

    # ... and of the step before it.
    has_previous = step > 0
    previous_step = step[has_previous] - 1
    after = words[has_previous]
    keys.append(_keys(5, previous_step, after, after))
    return keys


def _keys_of_steps(words: Hashes, lengths: Integers) -> list[Integers]:
    """Return the features that a step has once each: beginnings, ends and lengths."""
    n_steps = len(lengths)
    steps = np.arange(n_steps)
    stops = np.cumsum(lengths)
    starts = stops - lengths
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
    first_three = _mix(first_two, third, 0)
    last_two = _mix(second_last, last, 0)
    log_length = np.log2(lengths + 1)
    size = log_length.round(1).astype(np.uint64)

    # Short steps as a whole.
    short = np.flatnonzero(lengths <= 4)
    next_two = _mix(third, fourth, 0)
    whole = _mix(first_two, next_two, 0)
    keys = [_keys(3, short, whole[short], size[short])]

    # The fitted weights depend on the order of these.
    step_features = [
        # of the step itself
        first,
        second,
        third,
        first_two,
        first_three,
        last,
        last_two,
        size,
        # of the step before
        _from_before(first, 1),
        _from_before(first_two, 1),
        _from_before(last, 1),
        _from_before(size, 1),
        # of the step before that
        _from_before(first, 2),
        _from_before(first_two, 2),
        _from_before(last, 2),
        # of the step after
        _from_after(first),
        _from_after(first_two),
    ]
    for number, values in enumerate(step_features, start=10):
        keys.append(_keys(number, steps, values, values))
    return keys


def _from_before(values: Hashes, distance: int) -> Hashes:
    """Return for each step the value of the step `distance` before it."""
    edge = np.full(distance, _hash(_START), np.uint64)
    shifted = np.concatenate([edge, values])
    return shifted[: len(values)]


def _from_after(values: Hashes) -> Hashes:
    """Return for each step the value of the step after it."""
    edge = np.full(1, _hash(_END), np.uint64)
    shifted = np.concatenate([values, edge])
    return shifted[1:]


def _keys(number: int, steps: Integers, left: Hashes, right: Hashes) -> Integers:
    """Return step and bucket of a feature in one integer, which sorts by step.

    Args:
        number: number of the feature.
        steps: step of each value.
        left: values.
        right: second values; a feature of one value has it twice.
    """
    hashes = _mix(left, right, number)
    buckets = hashes % N_BUCKETS
    return steps * N_BUCKETS + buckets.astype(np.int64)


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
    """A linear model over the features, with one column per output."""

    weights: NDArray[np.float32]  # (N_BUCKETS, outputs)
    bias: NDArray[np.float32]  # (outputs,)


def load_weights(name: str, outputs: Sequence[str]) -> Weights:
    """Return the weights in a file of this package.

    Args:
        name: the file, such as `reflect.npz`.
        outputs: names of the outputs, in the order of the columns.

    Raises:
        ValueError: if the file holds weights for other outputs.
    """
    path = files("cotlens.detect").joinpath(name)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        fitted = arrays["kinds"].tolist()
        weights = arrays["weights"].astype(np.float32)
        bias = arrays["bias"].astype(np.float32)

    if fitted != list(outputs):
        module = name.removesuffix(".npz")
        raise ValueError(
            f"{name} was fitted for other outputs: got {', '.join(fitted)}, "
            f"expected {', '.join(outputs)}; run python -m trainers.fit.{module}"
        )
    return Weights(weights, bias)


_BLOCK = 20_000  # steps at once, so that memory does not grow with the length of a trace


def feature_sums(tokens: Tokens, *models: Weights) -> list[Sums]:
    """Return for each model the summed weights of every step's features, plus the bias.

    The features are computed once for all models. Each array has the shape (steps, outputs).
    """
    blocks: list[list[Sums]] = [[] for _ in models]
    for start in range(0, len(tokens), _BLOCK):
        # A block is read with its context: two steps before it and one after it.
        n_before = min(start, 2)
        context_start = start - n_before
        context_stop = start + _BLOCK + 1
        steps, buckets = features(tokens[context_start:context_stop])

        # Where the features of each step begin, and which steps belong to the block.
        firsts = np.flatnonzero(np.diff(steps, prepend=-1))
        inside = slice(n_before, n_before + _BLOCK)

        for model, model_blocks in zip(models, blocks, strict=True):
            sums = _sum_by_step(model, buckets, firsts)
            model_blocks.append(sums[inside])

    return [np.concatenate(model_blocks) for model_blocks in blocks]


def _sum_by_step(model: Weights, buckets: Integers, firsts: Integers) -> Sums:
    """Return the bias plus the weights of each step; `firsts` are the first features of steps."""
    weights = model.weights[buckets]
    sums = np.add.reduceat(weights, firsts, axis=0, dtype=np.float64)
    sums += model.bias.astype(np.float64)
    return sums
