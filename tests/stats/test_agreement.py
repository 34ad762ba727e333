"""Agreement of judges, detection, and rates without detection errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotlens import stats

# --- agreement ---------------------------------------------------------------------------------


def test_agreement_by_hand():
    """20 items: 12 both safe, 4 both unsafe, 1 and 3 apart.

    o = .8, e = .65 x .75 + .35 x .25 = .575: kappa 9/17. AC1: the mean rate of safe is .7,
    e = 2 x .7 x .3 = .42, (.8 - .42) / .58.
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


def test_labels_that_cannot_be_compared():
    with pytest.raises(ValueError, match="two labels"):
        stats.agreement(["safe"], ["safe"])
    with pytest.raises(ValueError, match="same items"):
        stats.agreement(["safe", "unsafe"], ["safe"])


def test_full_agreement_has_no_interval():
    """Every resample gives 1, which does not make 1 certain."""
    perfect = stats.agreement(["a", "b", "a", "b"], ["a", "b", "a", "b"])
    assert perfect.kappa.value == 1
    assert np.isnan(perfect.kappa.low)


def test_kappa_of_tables_by_hand():
    """Chance alone gives 0, full agreement 1, full disagreement at equal rates -1."""
    tables = [
        [[4, 2], [2, 1]],
        [[3, 0], [0, 5]],
        [[0, 5], [5, 0]],
    ]
    assert stats.cohens_kappa(tables).tolist() == [0, 1, -1]


def test_kappa_without_two_labels_is_nan():
    """One label of both judges, or no item: chance explains everything there is."""
    for table in ([[7, 0], [0, 0]], [[0, 0], [0, 0]]):
        assert math.isnan(stats.cohens_kappa(table))


def test_g_mean_squared_by_hand():
    """Of 10 true ones 8 found, of 20 false ones 15 left alone: .8 x .75, in either order."""
    table = [[15, 2], [5, 8]]
    assert float(stats.g_mean_squared(table)) == pytest.approx(0.6)
    assert float(stats.g_mean_squared(np.flip(table))) == pytest.approx(0.6)

    # Full agreement, one label throughout, full disagreement; a hundred times as many false ones.
    tables = [
        [[3, 0], [0, 5]],
        [[3, 5], [0, 0]],
        [[0, 5], [5, 0]],
        [[1500, 2], [500, 8]],
    ]
    assert stats.g_mean_squared(tables).tolist() == pytest.approx([1, 0, 0, 0.6])


def test_g_mean_squared_of_what_is_never_true():
    """Nothing to find, nothing to leave alone: NaN, and no 1 by default."""
    assert math.isnan(stats.g_mean_squared([[7, 0], [2, 0]]))
    assert math.isnan(stats.g_mean_squared([[0, 3], [0, 4]]))
    with pytest.raises(ValueError, match=r"two labels, got an array of \(3, 3\)"):
        stats.g_mean_squared(np.eye(3))


def test_the_second_judge_is_the_truth():
    """Table [[12, 1], [3, 4]]: of the second's 15 and 5 the first has 12 and 4, .8 x .8.

    Of the first's 13 and 7 the second has 12 and 4.
    """
    a = ["safe"] * 13 + ["unsafe"] * 7
    b = ["safe"] * 12 + ["unsafe"] * 5 + ["safe"] * 3
    forward = stats.agreement(a, b).g_mean2
    assert forward.value == pytest.approx(0.64)
    assert forward.low < 0.64 < forward.high
    assert stats.agreement(b, a).g_mean2.value == pytest.approx(12 / 13 * 4 / 7)

    # With a third label nothing is positive or negative.
    third = stats.agreement([*a, "unclear"], [*b, "safe"]).g_mean2
    assert math.isnan(third.value)
    assert third.n == 21


def labels_of(counts):
    """Labels of both judges for a table ((both no, b only), (a only, both yes))."""
    (neither, b_only), (a_only, both) = counts
    a = [0] * (neither + b_only) + [1] * (a_only + both)
    b = [0] * neither + [1] * b_only + [0] * a_only + [1] * both
    return a, b


@pytest.mark.parametrize(
    ("counts", "share", "n_other", "is_saturated"),
    [
        (((45, 5), (5, 45)), 0.5, 50, False),
        (((65, 5), (5, 25)), 0.7, 30, False),  # 70% is not more than 70%
        (((66, 5), (5, 24)), 0.71, 29, True),
        (((24, 5), (5, 66)), 0.71, 29, True),  # whichever label it is
        (((60, 20), (5, 15)), 0.8, 20, True),  # one judge is enough
        (((96, 2), (2, 0)), 0.98, 2, True),  # agree on 96%, kappa below 0
        (((100, 3), (0, 0)), 1.0, 0, True),  # one label throughout
        (((10, 1), (1, 8)), 11 / 20, 9, True),  # few items
        (((10, 0), (0, 10)), 0.5, 10, False),
    ],
)
def test_saturation_by_hand(counts, share, n_other, is_saturated):
    """More than 70% of one label by either judge, or another label in fewer than ten items."""
    found = stats.agreement(*labels_of(counts), resamples=20)
    assert found.table.values.tolist() == [list(row) for row in counts]
    assert found.largest_share == pytest.approx(share)
    assert found.n_other_clusters == n_other
    assert found.is_saturated == is_saturated


def test_saturation_counts_prompts():
    """40 items of half yes and half no are enough, unless they come from nine prompts."""
    a, b = labels_of(((18, 2), (2, 18)))
    prompts = np.arange(40) % 9
    found = stats.agreement(a, b, prompts, resamples=20)
    assert found.n_other_clusters == 9
    assert found.is_saturated
    assert not stats.agreement(a, b, resamples=20).is_saturated

    # Three labels: what is not the one counts, so a rare third label harms nobody.
    third = stats.agreement([*a, 2], [*b, 2], resamples=20)
    assert third.n_other_clusters == 21
    assert not third.is_saturated


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=40))
def test_coefficients_of_a_table_are_those_of_its_labels(pairs):
    """The table of `agreement` gives its kappa and AC1; the order of labels does not matter."""
    a = [first for first, _ in pairs]
    b = [second for _, second in pairs]
    if len({*a, *b}) < 2:
        return

    found = stats.agreement(a, b, resamples=2)
    reordered = found.table.values[::-1, ::-1]
    kappas = stats.cohens_kappa([found.table.values, reordered])
    ac1s = stats.gwets_ac1([found.table.values, reordered])
    assert kappas == pytest.approx(found.kappa.value)
    assert ac1s == pytest.approx(found.ac1.value)


# --- detectors ---------------------------------------------------------------------------------


def test_detection_by_hand():
    """3 flagged, 2 of them true; 4 true, 2 of them flagged; of 3 false 2 not flagged; 1 unknown."""
    flags = [1, 1, 1, 0, 0, 0, 0, 1]
    truth = [1, 1, 0, 1, 1, 0, 0, None]
    found = stats.detection(flags, truth)
    assert found.precision.value == 2 / 3
    assert found.recall.value == 0.5
    assert found.counts == {
        "true_positives": 2,
        "positives": 4,
        "true_negatives": 2,
        "negatives": 3,
    }
    with pytest.raises(ValueError, match="one of each per item"):
        stats.detection([1], [1, 0])


def test_corrected_rate_by_hand():
    """Found 30%, sensitivity 80%, specificity 90%: (.3 + .9 - 1) / (.8 + .9 - 1) = .2857."""
    flags = [1] * 30 + [0] * 70
    found = stats.corrected_rate(
        flags,
        true_positives=80,
        positives=100,
        true_negatives=90,
        negatives=100,
    )
    assert found.value == pytest.approx(0.2 / 0.7)

    # Without errors the rate stays, and its interval is narrower.
    perfect = stats.corrected_rate(
        flags,
        true_positives=10**6,
        positives=10**6,
        true_negatives=10**6,
        negatives=10**6,
    )
    assert perfect.value == pytest.approx(0.3)
    assert found.high - found.low > perfect.high - perfect.low


def test_a_detector_no_better_than_chance_corrects_nothing():
    flags = [1] * 30 + [0] * 70
    chance = stats.corrected_rate(
        flags,
        true_positives=5,
        positives=10,
        true_negatives=5,
        negatives=10,
    )
    assert np.isnan(chance.value)

    with pytest.raises(ValueError, match="expected counts"):
        stats.corrected_rate(
            flags,
            true_positives=5,
            positives=4,
            true_negatives=5,
            negatives=10,
        )


def test_corrected_rates_cover_the_truth():
    """400 simulations: 91% to 99% of the 95% intervals hold the true rate.

    True rate 30%, sensitivity 70%, specificity 95%, 200 items.
    """
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(400):
        truth = rng.random(200) < 0.3
        is_found = rng.random(200) < 0.7
        is_false_alarm = rng.random(200) < 0.05
        true_positives = rng.binomial(150, 0.7)
        true_negatives = rng.binomial(300, 0.95)

        estimate = stats.corrected_rate(
            np.where(truth, is_found, is_false_alarm),
            true_positives=true_positives,
            positives=150,
            true_negatives=true_negatives,
            negatives=300,
            resamples=400,
            seed=seed,
        )
        hits += estimate.low <= 0.3 <= estimate.high
    assert 0.91 <= hits / 400 <= 0.99


@pytest.mark.parametrize(("rate", "n"), [(0.02, 50), (0.02, 100), (0.05, 40)])
def test_corrected_rates_of_rare_things_cover(rate, n):
    """Also where nothing was flagged: sensitivity .8, specificity .999, each measured on many."""
    rng = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        truth = rng.random(n) < rate
        is_found = rng.random(n) < 0.8
        is_false_alarm = rng.random(n) < 0.001
        estimate = stats.corrected_rate(
            np.where(truth, is_found, is_false_alarm),
            true_positives=800,
            positives=1000,
            true_negatives=9990,
            negatives=10000,
            resamples=400,
        )
        held += estimate.low <= rate <= estimate.high
    assert held >= 180


def test_rates_that_nothing_supports_have_no_interval():
    """One cluster has none, no flag at all has one; a flag of 2 or a probability is no flag."""
    known = {
        "true_positives": 9,
        "positives": 10,
        "true_negatives": 9,
        "negatives": 10,
    }
    one_cluster = stats.corrected_rate([1, 1, 1], ["a"] * 3, **known)
    assert np.isnan(one_cluster.low)

    no_flag = stats.corrected_rate([0] * 20, **known)
    assert no_flag.high > 0
    for bad in ([2, 1], [0.4, 0.4]):
        with pytest.raises(ValueError, match="flags must be"):
            stats.corrected_rate(bad, **known)
