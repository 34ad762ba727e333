import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from cotlens import stats

RNG = np.random.default_rng(7)


def test_mean_by_hand():
    """1, 2 of prompt a and 6 of prompt b: mean 3, three rows, two prompts; the NaN is counted and left out."""
    estimate = stats.mean([1, 2, 6, None], ["a", "a", "b", "b"])
    assert (estimate.value, estimate.n, estimate.n_clusters, estimate.n_undefined) == (3, 3, 2, 1)
    assert estimate.low < 3 < estimate.high
    assert str(estimate).endswith("(n = 3, 2 clusters)")


def test_ratio_by_hand():
    """(2 + 1) / (10 + 20) = 0.1, not the mean of 0.2 and 0.05."""
    assert stats.ratio([2, 1], [10, 20]).value == pytest.approx(0.1)


def test_quantile_by_hand():
    """Of 1, 2, 3, 4 the inverse distribution function gives 2 at one half and 3 at three quarters."""
    values = [4, 1, 3, 2]
    assert [stats.quantile(values, q).value for q in (0.5, 0.75, 1.0)] == [2, 3, 4]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30), st.floats(0.01, 1))
def test_quantile_agrees_with_numpy(values, q):
    assert stats.quantile(values, q, resamples=2).value == np.quantile(
        values, q, method="inverted_cdf"
    )


def test_curve_by_hand():
    """Positions 0, 0.4 and 1 in two bins: the last belongs to the second."""
    table = stats.curve([0, 0.4, 1.0], [1, 3, 5], bins=2)
    assert table["position"].tolist() == [0.25, 0.75]
    assert table["value"].tolist() == [2, 5]
    assert table["n"].tolist() == [2, 1]
    assert stats.curve([0.1], [1], bins=2)["value"].isna().tolist() == [False, True]
    with pytest.raises(ValueError, match=r"\[0, 1\], got 0.5 to 1.5"):
        stats.curve([0.5, 1.5], [1, 1])


def test_difference_by_hand():
    """Means 2 and 5."""
    assert stats.difference([1, 3], [4, 6]).value == -3


def test_pairing_removes_what_prompts_share():
    """Prompts differ by 100, the groups by exactly 1: paired, the interval is a point; unpaired it is wide."""
    base = 100 * np.arange(50)
    prompts = np.arange(50)
    paired = stats.difference(base + 1.0, base, prompts, prompts)
    assert paired.low == pytest.approx(1)
    assert paired.high == pytest.approx(1)
    assert paired.n_clusters == 50
    apart = stats.difference(base + 1.0, base, prompts, prompts + 50)
    assert apart.high - apart.low > 500
    assert apart.n_clusters == 100


def test_groups_without_clusters_are_independent():
    a, b = RNG.normal(size=30), RNG.normal(size=30)
    assert stats.difference(a, b).n_clusters == 60


def test_undefined_is_nan():
    for estimate in (
        stats.mean([]),
        stats.mean([None, None]),
        stats.quantile([], 0.5),
        stats.proportion([]),
    ):
        assert math.isnan(estimate.value)
        assert math.isnan(estimate.low)
    alone = stats.mean([1, 2], ["a", "a"])
    assert (alone.value, math.isnan(alone.low)) == (1.5, True)
    assert math.isnan(stats.ratio([0, 0], [0, 0]).value)
    assert math.isnan(stats.permutation_test([], [1]))
    assert math.isnan(stats.hedges_g([1], [2]))
    assert math.isnan(stats.cliffs_delta([], [2]))


def test_order_and_names_of_clusters_do_not_matter():
    values, clusters = RNG.normal(size=60), np.repeat(np.arange(20), 3)
    order = RNG.permutation(60)
    first = stats.mean(values, clusters)
    renamed = stats.mean(values, [f"prompt {c}" for c in clusters])
    assert first == renamed
    shuffled = stats.mean(values[order], clusters[order])
    assert shuffled.value == pytest.approx(first.value)
    assert shuffled.low == pytest.approx(first.low, abs=0.05)


def test_the_same_seed_gives_the_same_interval():
    values = RNG.normal(size=40)
    assert stats.mean(values, seed=1) == stats.mean(values, seed=1)
    assert stats.mean(values, seed=1) != stats.mean(values, seed=2)


def test_a_lone_row_a_cluster_agrees_with_scipys_bootstrap():
    """With many rows the expansion is small, and both are percentile intervals of the mean."""
    values = RNG.normal(size=2000)
    ours = stats.mean(values, resamples=9999)
    theirs = scipy_stats.bootstrap(
        (values,), np.mean, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.003)
    assert ours.high == pytest.approx(theirs.high, abs=0.003)


def test_few_clusters_widen_the_interval_like_students_t():
    """Ten normal values: the expanded interval is about as wide as Student's, and wider than the plain percentiles."""
    widths = []
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=10)
        ours = stats.mean(values, seed=seed)
        student = scipy_stats.t.interval(0.95, 9, values.mean(), values.std(ddof=1) / math.sqrt(10))
        widths.append((ours.high - ours.low) / (student[1] - student[0]))
    assert np.mean(widths) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("m", "icc"), [(1, 0.0), (4, 0.5)])
def test_coverage_of_mean_and_paired_difference(m, icc):
    """2,000 simulations with 40 prompts: between 93% and 97% of the 95% intervals hold the truth."""
    hits, prompts = np.zeros(2), np.repeat(np.arange(40), m)
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=40)
        a, b = (
            (
                math.sqrt(icc) * shared[:, None] + math.sqrt(1 - icc) * rng.normal(size=(40, m))
            ).ravel()
            for _ in range(2)
        )
        for i, e in enumerate(
            (stats.mean(a, prompts, seed=seed), stats.difference(a, b, prompts, prompts, seed=seed))
        ):
            hits[i] += e.low <= 0 <= e.high
    assert ((hits / 2000 > 0.93) & (hits / 2000 < 0.97)).all(), hits / 2000


@pytest.mark.parametrize(("k", "n"), [(0, 20), (3, 20), (20, 20), (1, 1), (500, 1000)])
def test_wilson_agrees_with_scipy(k, n):
    ours = stats.proportion([True] * k + [False] * (n - k))
    theirs = scipy_stats.binomtest(k, n).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_clustered_proportion_counts_clusters_that_agree_once():
    """Each prompt answers all four times alike: 40 rows are worth 10 (less what nine degrees of freedom cost).

    With z = 1.96 and t = 2.262 they are worth 10 (z / t)^2 = 7.51, and Wilson's interval of p = 1/2 is
    1/2 +- z / (1 + z^2 / n) sqrt(1 / (4 n) + z^2 / (4 n^2)) = 0.5 +- 0.2909.
    """
    flags, prompts = np.repeat([True, False] * 5, 4), np.repeat(np.arange(10), 4)
    clustered = stats.proportion(flags, prompts)
    assert (clustered.low, clustered.high) == (
        pytest.approx(0.2091, abs=1e-4),
        pytest.approx(0.7909, abs=1e-4),
    )
    nothing = stats.proportion([False] * 40, prompts)
    assert nothing.low == 0
    assert nothing.high > stats.proportion([False] * 10).high


def test_a_huge_cluster_does_not_hide_the_others():
    """1,000 trues of one prompt and 19 falses of 19: one prompt decides, so the interval is wide."""
    estimate = stats.proportion([True] * 1000 + [False] * 19, [0] * 1000 + list(range(1, 20)))
    assert estimate.high - estimate.low > 0.5


def test_coverage_of_proportions_of_unequal_clusters():
    """40 prompts with 1 to 20 samples, ICC 0.5: at least 90% of 1,000 intervals hold the truth."""
    hits = 0
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        prompts = np.repeat(np.arange(40), rng.integers(1, 21, size=40))
        flags = rng.random(len(prompts)) < rng.beta(0.5, 0.5, size=40)[prompts]
        e = stats.proportion(flags, prompts)
        hits += e.low <= 0.5 <= e.high
    assert hits > 900, hits


def test_one_unpaired_prompt_changes_little():
    """A prompt that only one group has, or whose value is missing in one, costs nothing but itself."""
    prompts = np.arange(50)
    a, b = RNG.normal(size=50), RNG.normal(size=50)
    whole = stats.difference(a, b, prompts, prompts)
    more = stats.difference(np.append(a, 0.1), b, np.append(prompts, 99), prompts)
    assert (more.low, more.high) == (
        pytest.approx(whole.low, abs=0.1),
        pytest.approx(whole.high, abs=0.1),
    )
    missing = stats.difference(a, np.where(prompts == 3, np.nan, b), prompts, prompts)
    assert missing.low < missing.value < missing.high


def test_ties_of_the_permutation_test_count():
    """Cluster means differ by 0, 0.3, 0.3, 0, 0, -0.3 around thousands: 0.3 is the smallest sum but 0; p is 1 by hand.

    Of the 8 signs of three equal amounts every sum is at least 0.3 in size.
    """
    base = np.array([1000.0, 2000, 3000, 4000, 5000, 6000])
    delta = np.array([0, 0.3, 0.3, 0, 0, -0.3])
    assert stats.permutation_test(base + delta, base, np.arange(6), np.arange(6)) == 1.0


def test_bad_input_is_named():
    for call, message in (
        (lambda: stats.quantile([1, 2], 50), r"q must lie in \(0, 1\]"),
        (lambda: stats.mean([1, 2, 3], ["a", None, "b"]), "1 rows have a value but no cluster"),
        (lambda: stats.mean([1, math.inf]), "infinite value"),
        (
            lambda: stats.difference([1, 2], [1, 2], [0, 1], None),
            "clusters of both groups, or of neither",
        ),
        (lambda: stats.proportion([2, 3]), "flags must be true, false or missing, got 2"),
        (lambda: stats.curve([math.nan], [1]), "no missing position"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert math.isnan(stats.hedges_g([0.1] * 3, [0.2] * 3))


def test_permutation_agrees_with_scipy():
    a, b = RNG.normal(0.6, 1, size=12), RNG.normal(size=14)

    def gap(x, y, axis):
        return x.mean(axis=axis) - y.mean(axis=axis)

    theirs = scipy_stats.permutation_test(
        (a, b), gap, n_resamples=9999, vectorized=True, rng=np.random.default_rng(0)
    )
    assert stats.permutation_test(a, b) == pytest.approx(theirs.pvalue, abs=0.02)
    keys = np.arange(12)
    theirs = scipy_stats.permutation_test(
        (a, b[:12]),
        gap,
        permutation_type="samples",
        n_resamples=9999,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    assert stats.permutation_test(a, b[:12], keys, keys) == pytest.approx(theirs.pvalue, abs=0.02)


def test_permutation_of_no_difference_is_seldom_small():
    """The p-value is uniform under the null: about 5% of 400 lie under 0.05."""
    p = [
        stats.permutation_test(*np.random.default_rng(i).normal(size=(2, 15)), resamples=199)
        for i in range(400)
    ]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09


def test_holm_by_hand():
    """0.01, 0.04, 0.03: 3 x 0.01, 2 x 0.03, then 0.04 may not be smaller than 0.06. NaN is no test."""
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    adjusted = stats.holm([0.5, float("nan"), 0.9])
    assert adjusted[0] == 1.0
    assert math.isnan(adjusted[1])


def test_effect_sizes_by_hand():
    """1, 2 against 3, 4: means differ by -2, pooled sd sqrt(1/2), J = 1 - 3/7; every a lies below every b."""
    assert stats.hedges_g([1, 2], [3, 4]) == pytest.approx(-2 / math.sqrt(0.5) * (4 / 7))
    assert stats.cliffs_delta([1, 2], [3, 4]) == -1
    assert stats.cliffs_delta([1, 2], [1, 2]) == 0


def test_cliffs_delta_agrees_with_scipy():
    a, b = RNG.integers(0, 5, size=30), RNG.integers(0, 5, size=40)
    u = scipy_stats.mannwhitneyu(a, b).statistic
    assert stats.cliffs_delta(a, b) == pytest.approx(2 * u / (30 * 40) - 1)


def length_confounded(n=200):
    """Arm b writes four times as long, and the value is the length: matched, nothing is left."""
    rng = np.random.default_rng(0)
    lengths = np.concatenate([rng.uniform(100, 800, n), rng.uniform(400, 3200, n)])
    return pd.DataFrame(
        {
            "method": ["a"] * n + ["b"] * n,
            "prompt_id": [*range(n), *range(n)],
            "n_think_chars": lengths,
            "status": "closed",
            "value": np.log2(lengths),
        }
    )


def test_compare_takes_the_length_out():
    table = stats.matched_difference(length_confounded(), "value", "a", "b").set_index("comparison")
    assert table.loc["raw", "value"] == pytest.approx(-2, abs=0.2)
    assert abs(table.loc["length-matched", "value"]) < 0.15
    assert table.loc["raw", "n_shared"] == 200
    assert table.loc["status = closed", "value"] == table.loc["raw", "value"]


def test_compare_says_what_is_missing():
    with pytest.raises(ValueError, match="no column nothing; the table has method"):
        stats.matched_difference(length_confounded(), "nothing", "a", "b")
    with pytest.raises(ValueError, match="expected rows of 'a' and 'c' in method"):
        stats.matched_difference(length_confounded(), "value", "a", "c")
    with pytest.raises(ValueError, match="3 values but 2 clusters"):
        stats.mean([1, 2, 3], [1, 2])


def test_agreement_by_hand():
    """20 items: 12 both safe, 4 both unsafe, 1 and 3 apart. o = .8, e = .65 x .75 + .35 x .25 = .575: kappa 9/17.

    AC1: mean rate of safe .7, e = 2 x .7 x .3 = .42, (.8 - .42) / .58.
    """
    a = ["safe"] * 13 + ["unsafe"] * 7
    b = ["safe"] * 12 + ["unsafe"] * 5 + ["safe"] * 3
    found = stats.agreement(a, b)
    assert found.table.values.tolist() == [[12, 1], [3, 4]]
    assert found.kappa.value == pytest.approx((0.8 - 0.575) / 0.425)
    assert found.ac1.value == pytest.approx(0.38 / 0.58)
    assert found.kappa.low < found.kappa.value < found.kappa.high
    assert stats.agreement(a, a).kappa.value == 1
    assert stats.agreement([*a, None], [*b, "safe"]).kappa.n == 20
    with pytest.raises(ValueError, match="two labels"):
        stats.agreement(["safe"], ["safe"])
    with pytest.raises(ValueError, match="same items"):
        stats.agreement(a, b[:-1])


def test_corrected_rate_by_hand():
    """Found 30%, sensitivity 80%, specificity 90%: (.3 + .9 - 1) / (.8 + .9 - 1) = .2857."""
    flags = [1] * 30 + [0] * 70
    found = stats.corrected_rate(
        flags, true_positives=80, positives=100, true_negatives=90, negatives=100
    )
    assert found.value == pytest.approx(0.2 / 0.7)
    perfect = stats.corrected_rate(
        flags, true_positives=10**6, positives=10**6, true_negatives=10**6, negatives=10**6
    )
    assert perfect.value == pytest.approx(0.3)
    assert found.high - found.low > perfect.high - perfect.low
    assert np.isnan(
        stats.corrected_rate(
            flags, true_positives=5, positives=10, true_negatives=5, negatives=10
        ).value
    )
    with pytest.raises(ValueError, match="expected counts"):
        stats.corrected_rate(flags, true_positives=5, positives=4, true_negatives=5, negatives=10)


def test_corrected_rates_cover_the_truth():
    """400 simulations, true rate 30%, sensitivity 70%, specificity 95%, 200 items: 95% intervals hold it in 91% to 99%."""
    rng, hits = np.random.default_rng(0), 0
    for i in range(400):
        truth = rng.random(200) < 0.3
        flags = np.where(truth, rng.random(200) < 0.7, rng.random(200) < 0.05)
        tp, tn = rng.binomial(150, 0.7), rng.binomial(300, 0.95)
        found = stats.corrected_rate(
            flags,
            true_positives=tp,
            positives=150,
            true_negatives=tn,
            negatives=300,
            resamples=400,
            seed=i,
        )
        hits += found.low <= 0.3 <= found.high
    assert 0.91 <= hits / 400 <= 0.99


def test_detection_by_hand():
    """Found 3, of which 2 are there; there are 4, of which 2 found; of 3 that are not there 2 left alone; 1 unknown."""
    flags, truth = [1, 1, 1, 0, 0, 0, 0, 1], [1, 1, 0, 1, 1, 0, 0, None]
    found = stats.detection(flags, truth)
    assert (found.precision.value, found.recall.value) == (2 / 3, 0.5)
    assert found.counts == {
        "true_positives": 2,
        "positives": 4,
        "true_negatives": 2,
        "negatives": 3,
    }
    with pytest.raises(ValueError, match="one of each per item"):
        stats.detection([1], [1, 0])


def drifted(rng, n=300, known=1.0):
    """Two checkpoints, both unsafe in 30%: the detector finds 90% of the one's and 40% of the other's, 5% false alarms."""
    method = np.repeat(["rl", "sft"], n)
    truth = rng.random(2 * n) < 0.3
    flags = np.where(
        truth, rng.random(2 * n) < np.where(method == "rl", 0.4, 0.9), rng.random(2 * n) < 0.05
    )
    said = pd.array(truth, dtype="boolean")
    said[rng.random(2 * n) >= known] = pd.NA
    prompts = np.tile(np.arange(n), 2).astype(str)
    return pd.DataFrame(
        {
            "method": method,
            "prompt_id": prompts,
            "n_think_chars": 9,
            "status": "x",
            "flag": flags * 1.0,
            "truth": said,
        }
    )


def test_a_detector_that_drifts_is_corrected():
    """With the truth of every row the corrected difference is the true one; the raw one is not. Without truth: NaN."""
    table = drifted(np.random.default_rng(0))
    found = stats.matched_difference(table, "flag", "rl", "sft", truth="truth").set_index(
        "comparison"
    )
    rates = table.groupby("method")["truth"].mean()
    assert found.loc["corrected", "value"] == pytest.approx(rates["rl"] - rates["sft"])
    assert found.loc["raw", "high"] < -0.05
    assert found.loc["corrected", "low"] < 0 < found.loc["corrected", "high"]
    assert found["recall_a"].iloc[0] < 0.55 < 0.8 < found["recall_b"].iloc[0]
    without = stats.matched_difference(table, "flag", "rl", "sft").set_index("comparison")
    assert np.isnan(without.loc["corrected", "value"])
    assert (
        "corrected"
        not in stats.matched_difference(table, "n_think_chars", "rl", "sft")["comparison"].tolist()
    )


def test_the_corrected_difference_covers_no_difference():
    """Half of the rows have a truth: 95% intervals of the corrected difference hold the true 0 in 90% to 100%."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(60):
        row = stats.matched_difference(
            drifted(rng, 150, 0.5), "flag", "rl", "sft", truth="truth", resamples=50
        ).iloc[-1]
        held += row["low"] <= 0 <= row["high"]
    assert 54 <= held <= 60


@pytest.mark.parametrize(("rate", "n"), [(0.02, 50), (0.02, 100), (0.05, 40)])
def test_corrected_rates_of_rare_things_cover(rate, n):
    """Also where nothing was flagged: sensitivity .8, specificity .999, each measured on many."""
    rng, held = np.random.default_rng(2), 0
    for _ in range(200):
        truth = rng.random(n) < rate
        flags = np.where(truth, rng.random(n) < 0.8, rng.random(n) < 0.001)
        found = stats.corrected_rate(
            flags,
            true_positives=800,
            positives=1000,
            true_negatives=9990,
            negatives=10000,
            resamples=400,
        )
        held += found.low <= rate <= found.high
    assert held >= 180


def test_intervals_that_nothing_supports_are_none():
    """One cluster, perfect agreement: no interval; a flag of 2 or a probability is no flag."""
    known = {"true_positives": 9, "positives": 10, "true_negatives": 9, "negatives": 10}
    assert np.isnan(stats.corrected_rate([1, 1, 1], ["a"] * 3, **known).low)
    assert stats.corrected_rate([0] * 20, **known).high > 0
    for bad in ([2, 1], [0.4, 0.4]):
        with pytest.raises(ValueError, match="flags must be"):
            stats.corrected_rate(bad, **known)
    perfect = stats.agreement(["a", "b", "a", "b"], ["a", "b", "a", "b"])
    assert perfect.kappa.value == 1
    assert np.isnan(perfect.kappa.low)
