"""Bounds of the entropy from the k likeliest words, by hand and for any distribution."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import read_rows
from scipy.special import log_softmax

from cotlens.measures import entropy_bounds

N_WORDS = st.integers(2, 40)
K = st.integers(1, 40)
SPREAD = st.floats(0.1, 8)
SEED = st.integers(0, 10_000)


@settings(max_examples=100, deadline=None)
@given(N_WORDS, K, SPREAD, SEED)
def test_the_entropy_lies_within_its_bounds(n_words, k, spread, seed):
    """The k likeliest words bound the entropy of any distribution; all of them give it exactly."""
    # Log-probs of a random distribution, likeliest first.
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, n_words)
    logp = log_softmax(logits)
    logp = np.sort(logp)[::-1]
    p = np.exp(logp)
    entropy = -(p * logp).sum()

    low, high = entropy_bounds(logp[:k], n_words)
    assert low - 1e-9 <= entropy <= high + 1e-9
    if k >= n_words:
        assert high - low < 1e-6


def test_bounds_by_hand():
    """p = 1/2 and a rest of 1/2 over 4 words: at least one word holds it, at most all four do.

    lower = 1/2 ln 2 + 1/2 ln 2 = ln 2; upper = 1/2 ln 2 + 1/2 ln 8 = 2 ln 2.
    """
    ln2 = math.log(2)
    low, high = entropy_bounds([-ln2], n_words=5)
    assert low == pytest.approx(ln2)
    assert high == pytest.approx(2 * ln2)


def test_shorter_lists_are_padded():
    lists = [
        [math.log(0.6), math.log(0.3)],
        [math.log(0.9), -math.inf],
    ]
    padded = entropy_bounds(lists, 100)
    alone = entropy_bounds([math.log(0.9)], 100)
    assert padded.lower[1] == pytest.approx(alone.lower)
    assert padded.upper[1] == pytest.approx(alone.upper)


def test_real_top_32_lists_hold_the_full_entropy(data):
    """R1-Distill-Llama-8B, 46 tokens; entropies (bits) and probabilities are bfloat16."""
    tokens = []
    for row in read_rows(data / "entropy" / "full_vs_top32_sanity.jsonl.gz"):
        tokens += row["tokens"]
    bits = np.array([token["target_entropy"] for token in tokens])
    top_probs = [token["top_probs"] for token in tokens]
    assert len(tokens) == 46

    low, high = entropy_bounds(
        np.log(top_probs),
        n_words=128256,
        rounding=2**-8,
    )
    nats = bits * math.log(2)
    error = nats * 2**-8
    assert (low <= nats + error).all()
    assert (nats - error <= high).all()
    assert np.median(high - low) < 0.1

    # Without the conversion most lie outside.
    assert (bits > high).mean() > 0.5


NO_TOP_K = [
    ([0.5], "no distribution"),
    ([-0.1, -0.2], "no distribution"),
    ([-2.0, -1.0], "likeliest first"),
]


@pytest.mark.parametrize(("logprobs", "message"), NO_TOP_K)
def test_lists_that_are_no_top_k(logprobs, message):
    with pytest.raises(ValueError, match=message):
        entropy_bounds(logprobs, 100)
