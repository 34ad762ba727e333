"""Hashed features of steps, and the sums of weights over them."""

from importlib.resources import files

import numpy as np
import pytest

from cotlens import classify
from cotlens.detect import features as features_module
from cotlens.detect.features import (
    N_BUCKETS,
    Weights,
    feature_sums,
    features,
    load_weights,
    tokenize,
)
from cotlens.detect.reflect import KINDS


def test_tokens_by_hand():
    assert tokenize("Wait—it's 3.14, don’t") == ["wait", "—", "it's", "#", ".", "#", ",", "don't"]


def test_features_are_sorted_unique_and_in_range():
    steps, buckets = features([tokenize(text) for text in ("Wait, no.", "", "x = 3.14 " * 50)])
    assert (np.diff(steps * N_BUCKETS + buckets) > 0).all()
    assert set(steps) == {0, 1, 2}
    assert buckets.min() >= 0
    assert buckets.max() < N_BUCKETS


def test_blocks_do_not_show(monkeypatch):
    """A long trace is classified in blocks; every step keeps its context."""
    texts = ["Let x be 2. ", "Wait, is that right? ", "Let me check. ", "Yes. "] * 5
    whole = classify(texts)
    monkeypatch.setattr(features_module, "_BLOCK", 3)
    blocks = classify(texts)
    assert blocks.kind == whole.kind
    assert blocks.p_reflect == pytest.approx(whole.p_reflect)


def test_a_giant_step_and_a_million_steps_cost_little():
    assert len(tokenize("word " * 5_000_000)) == 60
    assert len(classify(["So. ", "Yes. "] * 100_000).kind) == 200_000


def test_the_weights_hold_no_text():
    """Numbers and the names of the kinds, nothing else; loaded without pickle."""
    with (
        files("cotlens.detect").joinpath("reflect.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        assert set(arrays) == {"weights", "bias", "kinds"}
        assert arrays["weights"].shape == (N_BUCKETS, len(KINDS))
        assert arrays["kinds"].tolist() == [kind.value for kind in KINDS]


def test_weights_of_other_outputs_are_refused():
    """The message names the command that fits them again."""
    with pytest.raises(ValueError, match=r"python -m trainers\.fit\.reflect"):
        load_weights("reflect.npz", ["a", "b"])


def test_a_sum_by_hand():
    """Every weight is 1: the sum of a step is its number of features plus the bias."""
    tokens = [tokenize(text) for text in ("Wait, no.", "", "x = 3.14 and so on")]
    steps, _ = features(tokens)
    model = Weights(np.ones((N_BUCKETS, 2), np.float32), np.array([0, 0.5], np.float32))
    (sums,) = feature_sums(tokens, model)
    assert sums[:, 0].tolist() == np.bincount(steps).tolist()
    assert sums[:, 1].tolist() == (np.bincount(steps) + 0.5).tolist()


def test_features_of_a_step_by_hand():
    """One step of one word: the word, the step as a whole, and the 17 that every step has.

    It has neither a pair of words nor words of a neighbour.
    """
    steps, buckets = features([["wait"]])
    assert steps.tolist() == [0] * len(buckets)
    assert len(buckets) == 2 + 17
