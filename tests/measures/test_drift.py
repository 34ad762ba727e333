"""Drift of safety under rewards of success: by hand, and by its laws."""

import math

import numpy as np
import pandas as pd
import pytest

from cotlens.measures import (
    mean_covariance,
    predict_drift,
    success_safety_covariance,
    tilted_drift,
)

# Four paths, with e^{1/beta} = 3.
SUCCESS = [1, 1, 0, 0]
SAFETY = [1, 0, 1, 0]
MASS = [0.4, 0.3, 0.2, 0.1]
BETA = 1 / math.log(3)


def test_four_paths_by_hand():
    """Z = .7 x 3 + .3 = 2.4: masses .5 .375 .0833 .0417."""
    drift = tilted_drift(SUCCESS, SAFETY, BETA, MASS)
    assert drift.success == pytest.approx(0.7)
    assert drift.success_after == pytest.approx(2.1 / 2.4)
    assert drift.safety == pytest.approx(0.6)
    assert drift.safety_after == pytest.approx(0.5 + 0.2 / 2.4)
    assert drift.drift == pytest.approx(-0.016667, abs=1e-6)
    assert drift.drift == pytest.approx(0.175 * (0.4 / 0.7 - 0.2 / 0.3))
    assert drift.kl == pytest.approx(0.085817, abs=1e-6)
    assert drift.bound == pytest.approx(0.2071, abs=1e-4)


def test_independent_success_and_safety_do_not_drift():
    drift = tilted_drift(SUCCESS, SAFETY, BETA, [0.35, 0.35, 0.15, 0.15])
    assert drift.drift == pytest.approx(0, abs=1e-15)
    assert drift.success_after > drift.success


@pytest.mark.parametrize("seed", range(20))
def test_the_drift_never_exceeds_its_bound(seed):
    rng = np.random.default_rng(seed)
    success, safety = rng.integers(0, 2, (2, 12))
    beta = 10.0 ** rng.uniform(-3, 2)
    drift = tilted_drift(success, safety, beta, rng.dirichlet(np.ones(12)))
    assert abs(drift.drift) <= drift.bound + 1e-12


def test_the_covariance_is_unbiased_and_within_prompts():
    """Success and safety go together between prompts, and not within them."""
    a = pd.DataFrame({"prompt_id": "a", "success": [1, 1, 0, 1], "safety": [1, 0, 1, 1]})
    b = pd.DataFrame({"prompt_id": "b", "success": [0, 0], "safety": [0, 0]})
    alone = pd.DataFrame({"prompt_id": "c", "success": [1], "safety": [1]})
    table = success_safety_covariance(pd.concat([a, b, alone]))

    assert list(table["prompt_id"]) == ["a", "b"]
    first = table.iloc[0]
    assert first["covariance"] == pytest.approx((2 / 4 - 9 / 16) * 4 / 3)
    assert first["safety_of_success"] == pytest.approx(2 / 3)
    assert first["safety_of_failure"] == 1
    p, n = first["success"], first["n"]
    gap = first["safety_of_success"] - first["safety_of_failure"]
    assert first["covariance"] == pytest.approx(p * (1 - p) * gap * n / (n - 1))
    assert math.isnan(table.iloc[1]["safety_of_success"])


def test_the_prediction_is_the_exact_drift_at_the_same_success():
    rows = []
    for success, safety, count in zip(SUCCESS, SAFETY, [4, 3, 2, 1], strict=True):
        rows += [{"prompt_id": "a", "success": success, "safety": safety}] * count
    table = success_safety_covariance(pd.DataFrame(rows))
    exact = tilted_drift(SUCCESS, SAFETY, BETA, MASS)
    predicted = predict_drift(table, pd.Series({"a": exact.success_after}))
    assert predicted["predicted"].item() == pytest.approx(exact.drift)


def test_a_prompt_that_always_succeeds_predicts_nothing():
    table = pd.DataFrame({"prompt_id": "a", "success": [1, 1], "safety": [1, 0]})
    predicted = predict_drift(success_safety_covariance(table), pd.Series({"a": 1.0}))
    assert math.isnan(predicted["predicted"].item())


def test_shuffled_safety_gives_no_covariance():
    rng = np.random.default_rng(0)
    rows = []
    for prompt in range(200):
        success = rng.integers(0, 2, 8)
        for flag, safe in zip(success, rng.permutation(success), strict=True):
            rows.append({"prompt_id": str(prompt), "success": flag, "safety": safe})
    estimate = mean_covariance(success_safety_covariance(pd.DataFrame(rows)))
    assert estimate.low < 0 < estimate.high
    assert estimate.n == 200


@pytest.mark.parametrize(("beta", "safety"), [(0, SAFETY), (math.nan, SAFETY), (1, [1, 0])])
def test_arguments_that_do_not_fit_are_an_error(beta, safety):
    with pytest.raises(ValueError, match="drift: expected"):
        tilted_drift(SUCCESS, safety, beta)
