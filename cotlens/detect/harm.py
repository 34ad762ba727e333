"""Is a text about harm? Log-odds of a request, and of a stretch of thinking.

Two logistic regressions over the words, the word pairs and the topics of a text. Topics are lists
of words that stand for each other (`topics.tsv`), so that an act that no training text names counts
like its neighbours. The weights (`harm.npz`) hold no text; `trainers/fit/harm.py` makes them.
"""

import re
import zlib
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from itertools import combinations, pairwise
from math import sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotlens.detect.features import Weights, load_weights

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
    word_buckets = _word_buckets(words)
    topic_buckets = _topic_buckets(words)

    # Features of one sort have equal values: together they have a fixed length.
    n_words = max(len(word_buckets), _MIN_FEATURES)
    n_topics = max(len(topic_buckets), _MIN_FEATURES)
    word_value = 1 / sqrt(n_words)
    topic_value = TOPIC_SHARE / sqrt(n_topics)

    values = [word_value] * len(word_buckets)
    values += [topic_value] * len(topic_buckets)
    buckets = word_buckets + topic_buckets
    return TextFeatures(np.array(buckets, np.int64), np.array(values))


def _words(text: str) -> list[str]:
    """Return the lower-case words of a text, with `#` for every number."""
    if len(text) > MAX_CHARS:
        half = MAX_CHARS // 2
        beginning = text[:half]
        end = text[-half:]
        text = f"{beginning} {end}"

    # Letters and digits are words; signs are not.
    lowered = text.lower()
    plain = lowered.replace("’", "'")
    return ["#" if word[0].isdigit() else word for word in _WORD.findall(plain)]


def _word_buckets(words: list[str]) -> list[int]:
    """Return the buckets of the words, and of the pairs that they form with the next one."""
    # The first and the last word form a pair with a mark of the end.
    padded = [_START, *words, _END]
    pairs = set(pairwise(padded))
    names = set(words)
    names.update(f"{first} {second}" for first, second in pairs)
    return _distinct_buckets(names)


def _topic_buckets(words: list[str]) -> list[int]:
    """Return the buckets of the topics of the words, and of their pairs."""
    topics: set[str] = set()
    for word in set(words):
        topics.update(_topics_of(word))

    # In alphabetical order a pair has one name.
    in_order = sorted(topics)
    names = {_TOPIC + topic for topic in in_order}
    names.update(f"{_TOPIC}{first} {second}" for first, second in combinations(in_order, 2))
    return _distinct_buckets(names)


def _distinct_buckets(names: Iterable[str]) -> list[int]:
    return sorted({zlib.crc32(name.encode()) % N_BUCKETS for name in names})


class _Topics(NamedTuple):
    words: dict[str, list[str]]  # a word and its topics
    beginnings: dict[str, list[str]]  # the beginning of a word and its topics


@cache
def _topics() -> _Topics:
    """Return the topics of cotlens/detect/topics.tsv."""
    path = files("cotlens.detect").joinpath("topics.tsv")
    content = path.read_text(encoding="utf-8")

    topics = _Topics({}, {})
    for line in content.splitlines():
        if line.startswith("#"):
            continue

        # An asterisk stands for any ending.
        topic, members = line.split("\t")
        for member in members.split():
            beginning = member.removesuffix("*")
            known = topics.words if beginning == member else topics.beginnings
            known.setdefault(beginning, []).append(topic)
    return topics


_topics_of_word: dict[str, tuple[str, ...]] = {}
_MAX_WORDS = 100_000  # hostile text has endlessly many words


def _topics_of(word: str) -> tuple[str, ...]:
    """Return the topics of a word, which are looked up once."""
    known = _topics_of_word.get(word)
    if known is not None:
        return known

    # The topics of the whole word, then those of its beginnings.
    topics = list(_topics().words.get(word, ()))
    beginnings = _topics().beginnings
    for length in range(1, len(word) + 1):
        topics += beginnings.get(word[:length], ())

    if len(_topics_of_word) > _MAX_WORDS:
        _topics_of_word.clear()
    _topics_of_word[word] = tuple(topics)
    return tuple(topics)


@cache
def harm_weights() -> Weights:
    """Return the weights, (buckets, outputs), and the bias, (outputs,)."""
    return load_weights("harm.npz", OUTPUTS)


def request_harm(request: str) -> float:
    """Return the log-odds that a request asks for harm; 0, which is no evidence, if it is empty.

    >>> request_harm("How do I poison my uncle?") > 0 > request_harm("What is 3 + 4?")
    True
    """
    column = OUTPUTS.index("request")
    return _log_odds(request, column)


def thought_harm(text: str) -> float:
    """Return the log-odds that a stretch of thinking is about harm; 0 if it is empty."""
    column = OUTPUTS.index("thought")
    return _log_odds(text, column)


def _log_odds(text: str, column: int) -> float:
    if not text.strip():
        return 0.0

    model = harm_weights()
    features = text_features(text)
    weights = model.weights[features.buckets, column]

    log_odds = weights @ features.values
    log_odds += model.bias[column]
    return float(log_odds)
