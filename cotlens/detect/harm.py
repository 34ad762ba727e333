"""Is a text about harm? Log-odds of a request, and of a stretch of thinking.

Two logistic regressions over the words, the word pairs and the topics of a text. Topics are lists
of words that stand for each other (`topics.tsv`), so that an act that no training text names counts
like its neighbours. The weights (`harm.npz`) hold no text; `trainers/fit/harm.py` makes them.
"""

import re
import zlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import combinations, pairwise
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

N_BUCKETS = 1 << 14

# The columns of the weights.
OUTPUTS = ("request", "thought")

# Of a longer text the beginning and the end are read: a long prompt asks first or last.
MAX_CHARS = 4000

# Words have together a length of 1, and topics one of this.
TOPIC_SHARE = 1.5

# Texts of one or two words are not sure of anything.
_MIN_FEATURES = 4

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+")
_START = "^"
_END = "$"
_TOPIC = "\x01"  # no word begins with it


class TextFeatures(NamedTuple):
    """The features of one text: buckets, possibly with repeats, and what each adds to its own."""

    buckets: NDArray[np.int64]
    values: NDArray[np.float64]


def text_features(text: str) -> TextFeatures:
    """Return words, word pairs, topics and pairs of topics, each once.

    The values of words and pairs have a Euclidean length of 1, those of topics `TOPIC_SHARE`; less
    in a text with fewer than four. So the log-odds do not grow with the length of a text.
    """
    words = _words(text)
    padded = [_START, *words, _END]
    pairs = [f"{first} {second}" for first, second in pairwise(padded)]
    word_buckets = _distinct_buckets([*words, *pairs])

    # Topics come in any order.
    topics = sorted({topic for word in words for topic in _topics_of(word)})
    topic_pairs = [f"{first} {second}" for first, second in combinations(topics, 2)]
    topic_buckets = _distinct_buckets([_TOPIC + name for name in [*topics, *topic_pairs]])

    word_value = 1 / sqrt(max(len(word_buckets), _MIN_FEATURES))
    topic_value = TOPIC_SHARE / sqrt(max(len(topic_buckets), _MIN_FEATURES))
    values = [word_value] * len(word_buckets) + [topic_value] * len(topic_buckets)
    return TextFeatures(
        np.array(word_buckets + topic_buckets, np.int64),
        np.array(values, np.float64),
    )


def _words(text: str) -> list[str]:
    """Return the lower-case words of a text, with `#` for every number."""
    if len(text) > MAX_CHARS:
        half = MAX_CHARS // 2
        text = f"{text[:half]} {text[-half:]}"

    plain = text.lower().replace("’", "'")
    return ["#" if word[0].isdigit() else word for word in _WORD.findall(plain)]


def _distinct_buckets(names: Sequence[str]) -> list[int]:
    return sorted({zlib.crc32(name.encode()) % N_BUCKETS for name in names})


class _Topics(NamedTuple):
    words: dict[str, tuple[str, ...]]
    beginnings: tuple[tuple[str, str], ...]  # the beginning of a word, and its topic


@cache
def _topics() -> _Topics:
    """Return the topics of cotlens/detect/topics.tsv."""
    words: dict[str, tuple[str, ...]] = {}
    beginnings = []
    content = files("cotlens.detect").joinpath("topics.tsv").read_text(encoding="utf-8")
    for line in content.splitlines():
        if line.startswith("#"):
            continue
        topic, members = line.split("\t")
        for member in members.split():
            if member.endswith("*"):
                beginnings.append((member[:-1], topic))
            else:
                words[member] = (*words.get(member, ()), topic)
    return _Topics(words, tuple(beginnings))


_topics_of_word: dict[str, tuple[str, ...]] = {}
_MAX_WORDS = 100_000  # hostile text has endlessly many words


def _topics_of(word: str) -> tuple[str, ...]:
    """Return the topics of a word, which are looked up once."""
    known = _topics_of_word.get(word)
    if known is not None:
        return known

    topics = list(_topics().words.get(word, ()))
    for beginning, topic in _topics().beginnings:
        if word.startswith(beginning):
            topics.append(topic)

    if len(_topics_of_word) > _MAX_WORDS:
        _topics_of_word.clear()
    _topics_of_word[word] = tuple(topics)
    return tuple(topics)


class HarmWeights(NamedTuple):
    """Weights (buckets, outputs) and bias (outputs,), the outputs in the order of `OUTPUTS`."""

    weights: NDArray[np.float32]
    bias: NDArray[np.float32]


@cache
def harm_weights() -> HarmWeights:
    """Return the weights in harm.npz.

    Raises:
        ValueError: if the file holds weights for other outputs.
    """
    path = files("cotlens.detect").joinpath("harm.npz")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        fitted = arrays["outputs"].tolist()
        weights = arrays["weights"].astype(np.float32)
        bias = arrays["bias"].astype(np.float32)

    if fitted != list(OUTPUTS):
        raise ValueError(
            f"harm.npz was fitted for other outputs: got {', '.join(fitted)}, "
            f"expected {', '.join(OUTPUTS)}; run python -m trainers.fit.harm"
        )
    return HarmWeights(weights, bias)


def request_harm(request: str) -> float:
    """Return the log-odds that a request asks for harm; 0, which is no evidence, if it is empty.

    >>> request_harm("How do I poison my uncle?") > 0 > request_harm("What is 3 + 4?")
    True
    """
    return _log_odds(request, OUTPUTS.index("request"))


def thought_harm(text: str) -> float:
    """Return the log-odds that a stretch of thinking is about harm; 0 if it is empty."""
    return _log_odds(text, OUTPUTS.index("thought"))


def _log_odds(text: str, column: int) -> float:
    if not text.strip():
        return 0.0

    model = harm_weights()
    features = text_features(text)
    weights = model.weights[features.buckets, column]
    return float(weights @ features.values + model.bias[column])
