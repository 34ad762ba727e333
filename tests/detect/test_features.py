"""Hashed features of steps, and the sums of weights over them."""

from importlib.resources import files

import numpy as np
import pytest

from cotlens import classify
from cotlens.detect.features import (
    OFFSETS,
    Weights,
    feature_sums,
    features,
    load_weights,
)
from cotlens.detect.reflect import OUTPUTS
from cotlens.detect.tokens import read_steps, tokenize


def test_tokens_by_hand():
    assert tokenize("Wait—it's 3.14, don’t") == ["wait", "—", "it's", "#", ".", "#", ",", "don't"]


def test_features_of_steps_by_hand():
    """Every word is a feature and forms a pair with the word before it; a step has seven features once."""
    found = features(read_steps([["Wait, no.", "", "x = 3.14 and so on"]]))
    assert found.starts.tolist() == [0, 4, 5]
    assert found.words.shape == (2, 4 + 1 + 8)
    assert found.steps.shape == (7, 3)
    assert found.short.tolist() == [0, 1]
    assert len(found.wholes) == 2


def test_a_step_has_the_same_features_wherever_it_stands():
    """The features of a step depend on nothing but its own words."""
    first = features(read_steps([["wait", "so it is"]]))
    second = features(read_steps([["so it is", "wait"]]))
    assert first.words[:, 1:].tolist() == second.words[:, :3].tolist()
    assert first.words[:, :1].tolist() == second.words[:, 3:].tolist()
    assert first.steps[:, ::-1].tolist() == second.steps.tolist()


def test_a_giant_step_and_a_million_steps_cost_little():
    assert len(tokenize("word " * 5_000_000)) == 60
    assert len(classify(["So. ", "Yes. "] * 100_000).kind) == 200_000


def test_the_weights_hold_no_text():
    """Numbers and the names of the kinds, nothing else; loaded without pickle."""
    with (
        files("cotlens.detect").joinpath("reflect.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        decision = {name for name in arrays if name.startswith("decision_")}
        assert set(arrays) == {"weights", "bias", "outputs", *decision}
        assert all(arrays[name].size <= 14 for name in decision)
        assert arrays["weights"].shape[1:] == (len(OFFSETS), len(OUTPUTS))
        assert arrays["weights"].dtype == np.float16
        assert arrays["outputs"].tolist() == list(OUTPUTS)


def test_the_weights_are_small():
    """At most four megabytes."""
    assert files("cotlens.detect").joinpath("reflect.npz").stat().st_size <= 4_000_000


def test_weights_of_other_outputs_are_refused():
    """The message names the command that fits them again."""
    with pytest.raises(ValueError, match=r"python -m trainers\.fit\.reflect"):
        load_weights("reflect.npz", ["a", "b"])


def test_a_sum_by_hand():
    """Weights of 1, 10 and 100: the features of a step, of the step before it and of the one after it.

    Steps have 2 features a word, 7 more, and one if they are short: 16, 10 and 23. Before the first
    step and after the last stands nothing.
    """
    steps = read_steps([["Wait, no.", "", "x = 3.14 and so on"]])
    n_features = [0, 2 * 4 + 7 + 1, 2 + 7 + 1, 2 * 8 + 7, 0]
    weights = np.tile([[1], [10], [100]], (8, 1, 2)).astype(np.float32)
    model = Weights(weights, np.array([0, 0.5], np.float32))

    (sums,) = feature_sums(steps, model)
    for step in range(3):
        before, itself, after = n_features[step : step + 3]
        expected = itself + 10 * before + 100 * after
        assert sums[step].tolist() == [expected, expected + 0.5]


def test_what_occurs_twice_counts_twice():
    """Nothing is removed: a word adds its weight as often as it occurs."""
    model = Weights(np.ones((8, len(OFFSETS), 1), np.float32), np.zeros(1, np.float32))
    (few,) = feature_sums(read_steps([["so so so so so"]]), model)
    (more,) = feature_sums(read_steps([["so so so so so so"]]), model)
    assert more[0, 0] - few[0, 0] == 2
