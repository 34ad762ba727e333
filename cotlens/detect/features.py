"""Hashed words and word pairs of steps, and the linear models that read them."""

import re
import zlib
from collections.abc import Sequence
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# --- features --------------------------------------------------------------------------------------------------
N_BUCKETS = 1 << 15
MAX_TOKENS = 60  # of a step; a longer one is a formula or a dump, and its beginning tells
MAX_CHARS = 2000  # a step of megabytes is not read to its end for sixty words
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|\.\.\.|[^\sa-z\d]")
_START, _END, _NUMBER = "\x02", "\x03", "#"


def tokenize(text: str) -> list[str]:
    """Lower-case words, signs one by one, and `#` for every number; at most `MAX_TOKENS`."""
    tokens = _TOKEN.findall(text[:MAX_CHARS].lower().replace("’", "'"))[:MAX_TOKENS]
    return [_NUMBER if token[0].isdigit() else token for token in tokens]


def features(tokens: Sequence[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of step number and feature bucket, each pair once, sorted by step.

    The features of a step: its words and word pairs; its first three words, alone and together; its last one and two;
    its length on a logarithmic scale; the whole step if it has at most four words; of the step before, its words, its
    beginning, its end and its length; of the one before that, its beginning and end; of the step behind, its words and
    its beginning.
    """
    n = len(tokens)
    lengths = np.array([max(len(step), 1) for step in tokens])
    words = [token for step in tokens for token in (step or [_END])]
    try:
        flat = np.array(list(map(_hashes.__getitem__, words)), np.uint64)
    except KeyError:  # a new word
        flat = np.array([_hash(word) for word in words], np.uint64)
    stops = np.cumsum(lengths)
    starts = stops - lengths
    step_of = np.repeat(np.arange(n), lengths)
    end = np.uint64(_hash(_END))

    def nth(
        k: int,
    ) -> NDArray[np.uint64]:  # the k-th word of each step, counted from behind where k < 0
        at = starts + k if k >= 0 else stops + k
        inside = (at < stops) & (at >= starts)
        return np.where(inside, flat[np.clip(at, 0, len(flat) - 1)], end)

    first, second, third, last, last_two = (
        nth(0),
        nth(1),
        nth(2),
        nth(-1),
        _mix(nth(-2), nth(-1), 0),
    )
    pair, triple = _mix(first, second, 0), _mix(_mix(first, second, 0), third, 0)
    size = np.log2(lengths + 1).round(1).astype(np.uint64)
    follows = np.flatnonzero(np.diff(step_of) == 0)
    short = np.flatnonzero(lengths <= 4)
    whole = _mix(_mix(first, second, 0), _mix(third, nth(3), 0), 0)
    steps = np.arange(n)

    def before(values: NDArray[np.uint64], by: int) -> NDArray[np.uint64]:
        edge = np.full(abs(by), _hash(_START) if by > 0 else _hash(_END), np.uint64)
        return np.concatenate([edge, values])[:n] if by > 0 else np.concatenate([values, edge])[-n:]

    inner = step_of < n - 1  # words of a step serve the next step as context, and the one before
    outer = step_of > 0
    parts = [
        (step_of, _mix(flat, flat, 1)),
        (step_of[follows], _mix(flat[follows], flat[follows + 1], 2)),
        (steps[short], _mix(whole[short], size[short], 3)),
        (step_of[inner] + 1, _mix(flat[inner], flat[inner], 4)),
        (step_of[outer] - 1, _mix(flat[outer], flat[outer], 5)),
    ]
    own = (first, second, third, pair, triple, last, last_two, size)
    context = [before(values, 1) for values in (first, pair, last, size)]
    context += [before(values, 2) for values in (first, pair, last)]
    context += [before(values, -1) for values in (first, pair)]
    parts += [(steps, _mix(values, values, 10 + i)) for i, values in enumerate((*own, *context))]
    keys = np.concatenate(
        [rows * N_BUCKETS + (values % N_BUCKETS).astype(np.int64) for rows, values in parts]
    )
    keys.sort()
    keys = keys[np.diff(keys, prepend=-1) > 0]
    return keys // N_BUCKETS, keys % N_BUCKETS


def _mix(a: NDArray[np.uint64], b: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """A hash of two hashes and the number of the feature (multiply and shift, as in splitmix64)."""
    x = (
        a * np.uint64(0x9E3779B97F4A7C15)
        + b * np.uint64(0xC2B2AE3D27D4EB4F)
        + np.uint64(salt * 0x165667B19E3779F9 % 2**64)
    )
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return x ^ (x >> np.uint64(31))


_hashes: dict[str, int] = {}


def _hash(token: str) -> int:
    if (found := _hashes.get(token)) is None:
        if len(_hashes) > 200_000:  # hostile text has endlessly many words
            _hashes.clear()
        found = _hashes[token] = zlib.crc32(token.encode("utf-8", "surrogatepass"))
    return found


class Weights(NamedTuple):
    """A linear model over the features: one column an output."""

    weights: NDArray[np.float32]  # (N_BUCKETS, outputs)
    bias: NDArray[np.float32]


def load_weights(name: str, outputs: Sequence[str]) -> Weights:
    """The weights in a file of the package, which must be those of the named outputs."""
    with (
        files("cotlens.detect").joinpath(name).open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        if tuple(arrays["kinds"].tolist()) != tuple(outputs):
            raise ValueError(
                f"{name} was fitted for other outputs; run trainers/fit_{name.removesuffix('.npz')}.py"
            )
        return Weights(arrays["weights"].astype(np.float32), arrays["bias"].astype(np.float32))


_BLOCK = 20_000  # steps that are looked at once, so that memory does not grow with a trace


def feature_sums(tokens: Sequence[Sequence[str]], *models: Weights) -> list[NDArray[np.float64]]:
    """For each model the (steps, outputs) sums of the weights of every step's features; features are made once."""
    parts: list[list[NDArray[np.float64]]] = [[] for _ in models]
    for start in range(0, len(tokens), _BLOCK):
        first, stop = (
            max(start - 2, 0),
            min(start + _BLOCK, len(tokens)),
        )  # with the steps that are context
        rows, buckets = features(tokens[first : stop + 1])
        firsts = np.flatnonzero(np.diff(rows, prepend=-1))
        for part, (weights, bias) in zip(parts, models, strict=True):
            sums = np.add.reduceat(
                weights[buckets], firsts, axis=0, dtype=np.float64
            ) + bias.astype(np.float64)
            part.append(sums[start - first : stop - first])
    return [np.concatenate(part) for part in parts]
