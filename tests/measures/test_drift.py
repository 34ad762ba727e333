"""Drift of safety under rewards of success: by hand, and by its laws."""

import math

import numpy as np
import pandas as pd
import pytest

from cotlens.measures import (
    drift_estimates,
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


def drift_rows():
    """Two arms, three prompts each; the third prompt of `a` has no prediction."""
    rows = []
    numbers = {
        "a": [(-0.2, -0.3), (-0.4, -0.1), (math.nan, 0.9)],
        "b": [(0.1, 0.0), (0.3, 0.2), (0.2, 0.4)],
    }
    for arm, pairs in numbers.items():
        for number, (predicted, observed) in enumerate(pairs):
            row = {"arm": arm, "split": "train", "prompt_id": f"p{number}", "beta": 0.04}
            row |= {"predicted": predicted, "observed": observed, "bound": 0.5 + number / 10}
            rows.append(row)
    return pd.DataFrame(rows)


def test_means_are_over_the_prompts_with_a_prediction():
    """Of `a`, two of three: predicted -.3, observed -.2, bound .55; of `b` .2, .2 and .6."""
    table = drift_estimates(drift_rows())
    assert table["arm"].tolist() == ["a", "b"]
    assert table[["n", "n_without"]].values.tolist() == [[2, 1], [3, 0]]
    means = table[["predicted", "observed", "bound"]].values.tolist()
    assert means[0] == pytest.approx([-0.3, -0.2, 0.55])
    assert means[1] == pytest.approx([0.2, 0.2, 0.6])
    assert (table["observed_low"] <= table["observed"]).all()
    assert "predicted_shuffled" not in table


def test_prompts_of_two_seeds_are_two():
    """Resampled together six rows are three clusters; apart six, and the interval is narrower."""
    rows = drift_rows().query("arm == 'b'")
    both = pd.concat([rows.assign(seed=0), rows.assign(seed=1)])
    (apart,) = drift_estimates(both).to_dict("records")
    (together,) = drift_estimates(both.drop(columns="seed")).to_dict("records")
    assert apart["observed"] == together["observed"] == pytest.approx(0.2)
    width = apart["observed_high"] - apart["observed_low"]
    assert width < together["observed_high"] - together["observed_low"]
