"""The cluster bootstrap: what an interval depends on, and how often it holds the truth."""

import math

import numpy as np
import pytest
import scipy.stats

from cotlens import stats


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_order_and_names_of_clusters_do_not_matter(rng):
    values = rng.normal(size=60)
    clusters = np.repeat(np.arange(20), 3)
    first = stats.mean(values, clusters)

    names = [f"prompt {cluster}" for cluster in clusters]
    renamed = stats.mean(values, names)
    assert first == renamed

    order = rng.permutation(60)
    shuffled = stats.mean(values[order], clusters[order])
    assert shuffled.value == pytest.approx(first.value)
    assert shuffled.low == pytest.approx(first.low, abs=0.05)


def test_the_same_seed_gives_the_same_interval(rng):
    values = rng.normal(size=40)
    first = stats.mean(values, seed=1)
    again = stats.mean(values, seed=1)
    other = stats.mean(values, seed=2)
    assert first == again
    assert first != other


def test_one_row_per_cluster_agrees_with_scipys_bootstrap(rng):
    """With many rows the expansion is small, and both are percentile intervals of the mean."""
    values = rng.normal(size=2000)
    ours = stats.mean(values, resamples=9999)
    theirs = scipy.stats.bootstrap(
        (values,),
        np.mean,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.003)
    assert ours.high == pytest.approx(theirs.high, abs=0.003)


def test_few_clusters_widen_the_interval_like_students_t():
    """Ten normal values: the expanded interval is about as wide as Student's."""
    widths = []
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=10)
        ours = stats.mean(values, seed=seed)

        error = values.std(ddof=1) / math.sqrt(10)
        low, high = scipy.stats.t.interval(
            confidence=0.95,
            df=9,
            loc=values.mean(),
            scale=error,
        )
        width = ours.high - ours.low
        widths.append(width / (high - low))
    assert np.mean(widths) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("m", "icc"), [(1, 0.0), (4, 0.5)])
def test_coverage_of_mean_and_paired_difference(m, icc):
    """2,000 simulations of 40 prompts: between 93% and 97% of the 95% intervals hold the truth."""
    common = math.sqrt(icc)
    own = math.sqrt(1 - icc)
    prompts = np.repeat(np.arange(40), m)
    hits = np.zeros(2)
    for seed in range(2000):
        # Two groups that share what is common to a prompt.
        rng = np.random.default_rng(seed)
        shared = common * rng.normal(size=(40, 1))
        a = shared + own * rng.normal(size=(40, m))
        b = shared + own * rng.normal(size=(40, m))

        mean = stats.mean(a.ravel(), prompts, seed=seed)
        difference = stats.difference(
            a.ravel(),
            b.ravel(),
            clusters_a=prompts,
            clusters_b=prompts,
            seed=seed,
        )
        hits[0] += mean.low <= 0 <= mean.high
        hits[1] += difference.low <= 0 <= difference.high

    for coverage in hits / 2000:
        assert 0.93 < coverage < 0.97


def test_one_unpaired_prompt_changes_little(rng):
    """A prompt that only one group has, or whose value is missing in one, costs only itself."""
    prompts = np.arange(50)
    a = rng.normal(size=50)
    b = rng.normal(size=50)
    whole = stats.difference(a, b, prompts, prompts)

    more_a = np.append(a, 0.1)
    more_prompts = np.append(prompts, 99)
    more = stats.difference(more_a, b, more_prompts, prompts)
    assert more.low == pytest.approx(whole.low, abs=0.1)
    assert more.high == pytest.approx(whole.high, abs=0.1)

    less_b = np.where(prompts == 3, np.nan, b)
    missing = stats.difference(a, less_b, prompts, prompts)
    assert missing.low < missing.value < missing.high
