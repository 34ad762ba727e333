"""What n prompts with m samples can show: by hand, by law, and in simulation."""

import math

import numpy as np
import pytest
from scipy.stats import t

from cotlens import stats

# --- the formula --------------------------------------------------------------------------------


def test_the_error_by_hand():
    """Variance 8 at ICC 0.25: 2 between prompts, 6 within; 50 prompts with 3 samples.

    Apart: 2 / 50 * (2 + 6 / 3) = 0.16. Paired at r = 0.5: 2 / 50 * (2 * 0.5 + 6 / 3) = 0.12.
    """
    numbers = {"icc": 0.25, "variance": 8}
    apart = stats.difference_error(50, 3, **numbers)
    paired = stats.difference_error(50, 3, **numbers, correlation=0.5)
    assert apart == pytest.approx(0.4)
    assert paired == pytest.approx(math.sqrt(0.12))


def test_the_smallest_difference_by_hand():
    """Ten prompts of one sample, variance 5: the error is 1.

    Tables of Student's t: t(.975) + t(.8) is 2.262 + 0.883 at 9 degrees of freedom, 2.101 + 0.862
    at 18.
    """
    numbers = {"icc": 0.5, "variance": 5}
    apart = stats.smallest_difference(10, 1, **numbers)
    paired = stats.smallest_difference(10, 1, **numbers, correlation=0)
    assert apart == pytest.approx(2.101 + 0.862, abs=1e-3)
    assert paired == pytest.approx(2.262 + 0.883, abs=1e-3)

    # Many prompts: the normal quantiles, 1.960 + 0.842; and 2.576 + 1.282 for 90% at 99%.
    many = stats.smallest_difference(2_000_000, 1, **numbers)
    sure = stats.smallest_difference(2_000_000, 1, **numbers, power=0.9, level=0.99)
    error = math.sqrt(5e-6)
    assert many / error == pytest.approx(2.802, abs=1e-3)
    assert sure / error == pytest.approx(3.858, abs=1e-3)


@pytest.mark.parametrize("correlation", [None, -1, 0, 0.8, 1])
@pytest.mark.parametrize("n", [2, 3, 10, 101, 12_345])
def test_the_prompts_of_the_smallest_difference_are_those_that_show_it(n, correlation):
    """n gives a difference, and the difference n; a smaller difference needs one more."""
    numbers = {"icc": 0.3, "variance": 0.2, "correlation": correlation}
    difference = stats.smallest_difference(n, 4, **numbers)
    assert stats.prompts_needed(difference, 4, **numbers) == n
    assert stats.prompts_needed(difference * 0.999_99, 4, **numbers) == n + 1


def test_samples_without_end_leave_what_prompts_differ():
    """The bound is 2 between (1 - r) / n; what is common to both checkpoints costs nothing."""
    bound = math.sqrt(2 * 0.3 * (1 - 0.6) / 50)
    errors = []
    for m in (1, 10, 1000, math.inf):
        error = stats.difference_error(50, m, icc=0.3, correlation=0.6)
        errors.append(error)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == pytest.approx(bound)
    assert stats.difference_error(50, math.inf, icc=0.3, correlation=1) == 0


def test_alike_prompts_count_as_samples():
    """ICC 0: only n times m counts, and pairing is nothing."""
    error = stats.difference_error(40, 6, icc=0)
    assert stats.difference_error(240, 1, icc=0) == pytest.approx(error)
    assert stats.difference_error(40, 6, icc=0, correlation=0.9) == pytest.approx(error)
    assert stats.difference_error(40, 6, icc=0, correlation=math.nan) == pytest.approx(error)

    # The difference itself too, but for the degrees of freedom.
    few = stats.smallest_difference(400, 6, icc=0)
    many = stats.smallest_difference(2400, 1, icc=0)
    assert few == pytest.approx(many, rel=2e-3)


def test_alike_samples_bring_nothing():
    """ICC 1: a hundred samples are one."""
    one = stats.smallest_difference(40, 1, icc=1, correlation=0.5)
    hundred = stats.smallest_difference(40, 100, icc=1, correlation=0.5)
    assert hundred == one


def test_one_sample_needs_no_icc():
    """m = 1: variance 2 and correlation 0.4 of the values are all, however they come about.

    ICC 0.5 with prompts correlated at 0.8 gives values correlated at 0.4.
    """
    values = stats.difference_error(30, 1, icc=1, variance=2, correlation=0.4)
    prompts = stats.difference_error(30, 1, icc=0.5, variance=2, correlation=0.8)
    assert values == pytest.approx(prompts)
    assert values == pytest.approx(math.sqrt(2 * 2 * 0.6 / 30))


def test_the_unit_of_the_values_carries_over():
    """Ten times the values: a hundred times the variance, ten times the difference."""
    small = stats.smallest_difference(30, 2, icc=0.4, variance=0.25)
    large = stats.smallest_difference(30, 2, icc=0.4, variance=25)
    assert large == pytest.approx(10 * small)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_prompts": 1}, "n_prompts must lie in"),
        ({"n_samples": 0}, "n_samples must lie in"),
        ({"icc": 1.1}, "icc must lie in"),
        ({"icc": math.nan}, "ICC is unknown"),
        ({"variance": 0}, "variance must lie in"),
        ({"variance": math.inf}, "variance must lie in"),
        ({"correlation": -1.2}, "correlation must lie in"),
        ({"correlation": math.nan}, "correlation must lie in"),
        ({"power": 0.4}, "power must lie in"),
        ({"power": 1}, "power must lie in"),
        ({"level": 95}, "level must lie in"),
    ],
)
def test_numbers_outside_their_range(change, message):
    numbers = {
        "n_prompts": 10,
        "n_samples": 2,
        "icc": 0.5,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        stats.smallest_difference(**numbers)


@pytest.mark.parametrize("difference", [0, -1, math.nan, math.inf])
def test_only_a_difference_can_be_shown(difference):
    with pytest.raises(ValueError, match="difference must lie in"):
        stats.prompts_needed(difference, 4, icc=0.5)


# --- the variation of runs ----------------------------------------------------------------------


def test_variation_by_hand():
    """Prompts of (1, 3), (5, 7), (9, 11): means 2, 6, 10; MSW = 2, MSB = 2 * 16 = 32.

    between = (32 - 2) / 2 = 15, ICC = 15 / 17.
    """
    variation = stats.variation([1, 3, 5, 7, 9, 11, math.nan], ["a", "a", "b", "b", "c", "c", "c"])
    assert variation.between == pytest.approx(15)
    assert variation.within == pytest.approx(2)
    assert variation.icc.value == pytest.approx(15 / 17)
    assert (variation.icc.n, variation.icc.n_clusters, variation.icc.n_undefined) == (6, 3, 1)
    assert variation.numbers == pytest.approx({"variance": 17, "icc": 15 / 17})


def test_variation_of_unequal_prompts_by_hand():
    """(0, 0, 3) and (7,): grand mean 2.5, SSB = 3 * 2.25 + 20.25 = 27, SSW = 6 over 2 = 3.

    n_0 = 4 - (9 + 1) / 4 = 1.5; between = (27 - 3) / 1.5 = 16.
    """
    variation = stats.variation([0, 0, 3, 7], [0, 0, 0, 1])
    assert variation.within == pytest.approx(3)
    assert variation.between == pytest.approx(16)


def test_prompts_that_differ_less_than_chance_do_not_differ():
    """(0, 2), (2, 0): equal means, so MSB is 0; between is 0 and not below."""
    variation = stats.variation([0, 2, 2, 0], [0, 0, 1, 1])
    assert variation.between == 0
    assert variation.icc.value == 0


def test_what_does_not_tell_the_variation():
    """One prompt, one sample a prompt, values all alike, no value: NaN, which no formula takes."""
    for values, prompts in (
        ([1, 2], [0, 0]),
        ([1, 2], [0, 1]),
        ([3, 3, 3, 3], [0, 0, 1, 1]),
        ([], []),
    ):
        variation = stats.variation(values, prompts)
        assert math.isnan(variation.icc.value)
        with pytest.raises(ValueError, match="ICC is unknown"):
            stats.smallest_difference(10, 1, **variation.numbers)


def test_paired_variation_by_hand():
    """Means 2, 6, 10 and 12, 14, 19, with samples 1 above and below.

    MSW = 2. Between: 16 - 1 = 15, and 13 - 1 = 12; the mean is 13.5. The covariance of means is
    (4 * 3 + 4 * 4) / 2 = 14, more than the variance: clipped to 1.
    """
    prompts = [0, 0, 1, 1, 2, 2]
    a = [1, 3, 5, 7, 9, 11]
    b = [11, 13, 13, 15, 18, 20]
    variation = stats.paired_variation(a, b, prompts, prompts)
    assert variation.between == pytest.approx(13.5)
    assert variation.within == pytest.approx(2)
    assert variation.icc.value == pytest.approx(13.5 / 15.5)
    assert variation.correlation.value == 1

    # Turned around, it is -14 / 13.5; a prompt of one checkpoint only is left out.
    turned = stats.paired_variation([*a, 99], np.negative(b), [*prompts, 3], prompts)
    assert turned.correlation.value == -1
    assert turned.icc.n == 12
    assert turned.between == pytest.approx(13.5)

    # Means 2, 6, 10 and 6, 2, 7: covariance ((-4)(1) + (4)(2)) / 2 = 2, between (15 + 6) / 2.
    mixed = stats.paired_variation(a, [5, 7, 1, 3, 6, 8], prompts, prompts)
    assert mixed.correlation.value == pytest.approx(2 / 10.5)


def test_units_do_not_move_icc_and_correlation():
    """Values shifted and stretched, also far from 0."""
    rng = np.random.default_rng(4)
    prompts = np.repeat(np.arange(30), 3)
    shared = rng.normal(size=30)[prompts]
    a = shared + rng.normal(size=90)
    b = shared + rng.normal(size=90)
    plain = stats.paired_variation(a, b, prompts, prompts, resamples=50)
    moved = stats.paired_variation(1e6 + 3 * a, 3 * b - 5, prompts, prompts, resamples=50)
    assert moved.icc.value == pytest.approx(plain.icc.value)
    assert moved.correlation.value == pytest.approx(plain.correlation.value)
    assert moved.icc.low == pytest.approx(plain.icc.low)
    assert moved.between == pytest.approx(9 * plain.between)


def test_paired_numbers_give_the_error_that_was_drawn():
    """Checkpoints whose prompts vary unequally: the formula gives the variance of the difference.

    Between 4 and 1, covariance 1.2, within 2 and 1: per prompt of m = 2 samples the difference has
    variance 4 + 1 - 2.4 + (2 + 1) / 2 = 4.1.
    """
    rng = np.random.default_rng(8)
    n = 40_000
    effects = rng.multivariate_normal([0, 0], [[4, 1.2], [1.2, 1]], size=n)
    a = effects[:, :1] + math.sqrt(2) * rng.normal(size=(n, 2))
    b = effects[:, 1:] + rng.normal(size=(n, 2))
    prompts = np.repeat(np.arange(n), 2)
    variation = stats.paired_variation(a, b, prompts, prompts, resamples=2)
    error = stats.difference_error(n, 2, **variation.numbers)
    assert error**2 * n == pytest.approx(4.1, rel=0.03)
    assert variation.correlation.value == pytest.approx(1.2 / 2.5, abs=0.02)


def test_intervals_of_icc_and_correlation_hold():
    """300 pairs of 40 prompts with 4 samples, ICC 0.3, correlation 0.8.

    At least 89% of the 95% intervals hold the truth; docs/statistics.md tells how many.
    """
    rng = np.random.default_rng(6)
    prompts = np.repeat(np.arange(40), 4)
    icc_held = 0
    correlation_held = 0
    for _ in range(300):
        effects = rng.multivariate_normal([0, 0], [[0.3, 0.24], [0.24, 0.3]], size=40)
        values = effects[prompts] + math.sqrt(0.7) * rng.normal(size=(160, 2))
        found = stats.paired_variation(*values.T, prompts, prompts, resamples=400)
        icc_held += found.icc.low <= 0.3 <= found.icc.high
        correlation_held += found.correlation.low <= 0.8 <= found.correlation.high
    assert icc_held >= 267
    assert correlation_held >= 267


# --- simulation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "icc", "correlation", "power"),
    [
        (10, 4, 0.5, 0.8, 0.8),
        (40, 1, 0.5, 0.5, 0.8),
        (40, 4, 0.3, 0.9, 0.9),
        (100, 8, 0.1, 0.0, 0.8),
        (10, 2, 0.6, None, 0.8),
        (40, 4, 0.3, None, 0.9),
        (40, 4, 0.0, None, 0.6),
    ],
)
def test_the_power_is_met(n, m, icc, correlation, power):
    """4,000 studies with that true difference: as many intervals as stated leave 0 out.

    Each study's interval is Student's over the prompts' means. The tolerance is three standard
    errors of the share, sqrt(p (1 - p) / 4000).
    """
    studies = 4000
    rng = np.random.default_rng(11)
    r = correlation or 0.0
    shared = rng.normal(size=(studies, n))
    noise = rng.normal(size=(studies, n))
    effect_a = math.sqrt(icc) * shared
    effect_b = math.sqrt(icc) * (r * shared + math.sqrt(1 - r**2) * noise)

    # The mean of m samples has a variance of 1 / m.
    sampling = math.sqrt((1 - icc) / m)
    truth = stats.smallest_difference(n, m, icc=icc, correlation=correlation, power=power)
    means_a = truth + effect_a + sampling * rng.normal(size=(studies, n))
    means_b = effect_b + sampling * rng.normal(size=(studies, n))

    difference = (means_a - means_b).mean(axis=1)
    if correlation is None:
        freedom = 2 * (n - 1)
        variance = means_a.var(axis=1, ddof=1) + means_b.var(axis=1, ddof=1)
    else:
        freedom = n - 1
        variance = (means_a - means_b).var(axis=1, ddof=1)

    half_width = t.ppf(0.975, freedom) * np.sqrt(variance / n)
    share = (np.abs(difference) > half_width).mean()
    tolerance = 3 * math.sqrt(power * (1 - power) / studies)
    assert abs(share - power) < tolerance
