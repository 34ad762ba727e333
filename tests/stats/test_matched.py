"""Differences at equal length, and corrected for a detector that drifts."""

import numpy as np
import pandas as pd
import pytest

from cotlens import stats


def length_confounded(n=200):
    """Arm b writes four times as long, and the value is the length: matched, nothing is left."""
    # The ranges overlap: some bins hold rows of both.
    rng = np.random.default_rng(0)
    lengths_a = rng.uniform(100, 800, n)
    lengths_b = rng.uniform(400, 3200, n)
    lengths = np.concatenate([lengths_a, lengths_b])
    return pd.DataFrame(
        {
            "method": ["a"] * n + ["b"] * n,
            "prompt_id": [*range(n), *range(n)],
            "n_think_chars": lengths,
            "status": "closed",
            "value": np.log2(lengths),
        }
    )


def test_matching_takes_the_length_out():
    found = stats.matched_difference(length_confounded(), "value", "a", "b")
    table = found.set_index("comparison")
    assert table.loc["raw", "value"] == pytest.approx(-2, abs=0.2)
    assert abs(table.loc["length-matched", "value"]) < 0.15
    assert table.loc["raw", "n_shared"] == 200
    assert table.loc["status = closed", "value"] == table.loc["raw", "value"]


def test_what_is_missing_is_named():
    table = length_confounded()
    with pytest.raises(ValueError, match="no column nothing; the table has method"):
        stats.matched_difference(table, "nothing", "a", "b")
    with pytest.raises(ValueError, match="expected rows of 'a' and 'c' in method"):
        stats.matched_difference(table, "value", "a", "c")


def drifted(rng, n=300, known=1.0):
    """Two checkpoints, both unsafe in 30%, and a detector with 5% false alarms.

    It finds 90% of what is unsafe in one and 40% in the other. Of the truth a share is known.
    """
    method = np.repeat(["rl", "sft"], n)
    truth = rng.random(2 * n) < 0.3
    sensitivity = np.where(method == "rl", 0.4, 0.9)
    found = rng.random(2 * n) < sensitivity
    false_alarm = rng.random(2 * n) < 0.05
    flags = np.where(truth, found, false_alarm)

    # What nobody judged is missing.
    judged = pd.array(truth, dtype="boolean")
    judged[rng.random(2 * n) >= known] = pd.NA
    return pd.DataFrame(
        {
            "method": method,
            "prompt_id": np.tile(np.arange(n), 2).astype(str),
            "n_think_chars": 9,
            "status": "x",
            "flag": flags * 1.0,
            "truth": judged,
        }
    )


def test_a_detector_that_drifts_is_corrected():
    """With the truth of every row the corrected difference is the true one; the raw one is not."""
    table = drifted(np.random.default_rng(0))
    found = stats.matched_difference(table, "flag", "rl", "sft", truth="truth")
    found = found.set_index("comparison")
    rates = table.groupby("method")["truth"].mean()
    assert found.loc["corrected", "value"] == pytest.approx(rates["rl"] - rates["sft"])
    assert found.loc["raw", "high"] < -0.05
    assert found.loc["corrected", "low"] < 0 < found.loc["corrected", "high"]
    assert found["recall_a"].iloc[0] < 0.55 < 0.8 < found["recall_b"].iloc[0]


def test_only_flags_with_a_truth_are_corrected():
    """Flags without a truth give NaN; other values give no such row."""
    table = drifted(np.random.default_rng(0))
    without_truth = stats.matched_difference(table, "flag", "rl", "sft")
    without_truth = without_truth.set_index("comparison")
    assert np.isnan(without_truth.loc["corrected", "value"])

    # A length has no errors of detection.
    lengths = stats.matched_difference(table, "n_think_chars", "rl", "sft")
    assert "corrected" not in lengths["comparison"].tolist()


def test_the_corrected_difference_covers_no_difference():
    """Half of the rows have a truth: 90% to 100% of the 95% intervals hold the true 0."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        table = drifted(rng, 150, 0.5)
        found = stats.matched_difference(
            table,
            "flag",
            "rl",
            "sft",
            truth="truth",
            resamples=50,
        )
        corrected = found.iloc[-1]
        held += corrected["low"] <= 0 <= corrected["high"]
    assert 54 <= held <= 60
