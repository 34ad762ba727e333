"""Mean, ratio, proportion, quantile and curve: values by hand, edges, and coverage."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cotlens import stats


def test_mean_by_hand():
    """1, 2 of prompt a and 6 of prompt b: mean 3, three rows, two prompts; the NaN is counted."""
    estimate = stats.mean(
        values=[1, 2, 6, None],
        clusters=["a", "a", "b", "b"],
    )
    assert estimate.value == 3
    assert estimate.n == 3
    assert estimate.n_clusters == 2
    assert estimate.n_undefined == 1
    assert estimate.low < 3 < estimate.high
    assert str(estimate).endswith("(n = 3, 2 clusters)")


def test_ratio_by_hand():
    """(2 + 1) / (10 + 20) = 0.1, not the mean of 0.2 and 0.05."""
    estimate = stats.ratio([2, 1], [10, 20])
    assert estimate.value == pytest.approx(0.1)


def test_quantile_by_hand():
    """Of 1, 2, 3, 4 the inverse distribution function gives 2 at 1/2 and 3 at 3/4."""
    values = [4, 1, 3, 2]
    assert stats.quantile(values, 0.5).value == 2
    assert stats.quantile(values, 0.75).value == 3
    assert stats.quantile(values, 1.0).value == 4


SOME_VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30)


@given(SOME_VALUES, st.floats(0.01, 1))
def test_quantile_agrees_with_numpy(values, q):
    ours = stats.quantile(values, q, resamples=2)
    theirs = np.quantile(values, q, method="inverted_cdf")
    assert ours.value == theirs


def test_curve_by_hand():
    """Positions 0, 0.4 and 1 in two bins: the last belongs to the second."""
    table = stats.curve([0, 0.4, 1.0], [1, 3, 5], bins=2)
    assert table["position"].tolist() == [0.25, 0.75]
    assert table["value"].tolist() == [2, 5]
    assert table["n"].tolist() == [2, 1]

    # An empty bin.
    half_empty = stats.curve([0.1], [1], bins=2)
    is_missing = half_empty["value"].isna()
    assert is_missing.tolist() == [False, True]


def test_undefined_is_nan():
    nothing = [
        stats.mean([]),
        stats.mean([None, None]),
        stats.quantile([], 0.5),
        stats.proportion([]),
    ]
    for estimate in nothing:
        assert math.isnan(estimate.value)
        assert math.isnan(estimate.low)

    # One cluster has a mean but no interval.
    alone = stats.mean([1, 2], ["a", "a"])
    assert alone.value == 1.5
    assert math.isnan(alone.low)
    zeros = stats.ratio([0, 0], [0, 0])
    assert math.isnan(zeros.value)


BAD_INPUT = [
    (stats.quantile, ([1, 2], 50), r"q must lie in \(0, 1\]"),
    (stats.mean, ([1, 2, 3], ["a", None, "b"]), "1 rows have a value but no cluster"),
    (stats.mean, ([1, 2, 3], [1, 2]), "3 values but 2 clusters"),
    (stats.mean, ([1, math.inf],), "infinite value"),
    (stats.proportion, ([2, 3],), "flags must be true, false or missing, got 2"),
    (stats.curve, ([math.nan], [1]), "no missing position"),
    (stats.curve, ([0.5, 1.5], [1, 1]), r"\[0, 1\], got 0.5 to 1.5"),
]


@pytest.mark.parametrize(("statistic", "arguments", "message"), BAD_INPUT)
def test_bad_input_is_named(statistic, arguments, message):
    with pytest.raises(ValueError, match=message):
        statistic(*arguments)


TRUE_OF_ALL = [(0, 20), (3, 20), (20, 20), (1, 1), (500, 1000)]


@pytest.mark.parametrize(("k", "n"), TRUE_OF_ALL)
def test_wilson_agrees_with_scipy(k, n):
    flags = [True] * k + [False] * (n - k)
    ours = stats.proportion(flags)
    test = binomtest(k, n)
    theirs = test.proportion_ci(method="wilson")
    assert ours.low == pytest.approx(theirs.low)
    assert ours.high == pytest.approx(theirs.high)


def test_clustered_proportion_counts_clusters_that_agree_once():
    """Each prompt answers four times alike: 40 rows are worth 10 (less nine degrees of freedom).

    With z = 1.96 and t = 2.262 they are worth 10 (z / t)^2 = 7.51, and Wilson's interval of p = 1/2
    is 1/2 +- z / (1 + z^2 / n) sqrt(1 / (4 n) + z^2 / (4 n^2)) = 0.5 +- 0.2909.
    """
    flags = np.repeat([True, False] * 5, 4)
    prompts = np.repeat(np.arange(10), 4)
    clustered = stats.proportion(flags, prompts)
    assert clustered.low == pytest.approx(0.2091, abs=1e-4)
    assert clustered.high == pytest.approx(0.7909, abs=1e-4)

    # Where nothing is true, too.
    nothing = stats.proportion([False] * 40, prompts)
    independent = stats.proportion([False] * 10)
    assert nothing.low == 0
    assert nothing.high > independent.high


def test_a_huge_cluster_does_not_hide_the_others():
    """1,000 trues of one prompt, 19 falses of 19: one prompt decides, so the interval is wide."""
    flags = [True] * 1000 + [False] * 19
    prompts = [0] * 1000 + list(range(1, 20))
    estimate = stats.proportion(flags, prompts)
    assert estimate.high - estimate.low > 0.5


def test_coverage_of_proportions_of_unequal_clusters():
    """40 prompts with 1 to 20 samples, ICC 0.5: at least 90% of 1,000 intervals hold the truth."""
    hits = 0
    for seed in range(1000):
        # A rate for each prompt, and as many draws as it has samples.
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 21, size=40)
        prompts = np.repeat(np.arange(40), sizes)
        draws = rng.random(len(prompts))
        rates = rng.beta(0.5, 0.5, size=40)
        flags = draws < rates[prompts]

        estimate = stats.proportion(flags, prompts)
        hits += estimate.low <= 0.5 <= estimate.high
    assert hits > 900, hits
