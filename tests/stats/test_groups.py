"""Two groups: what pairing does, and effect sizes by hand."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from cotlens import stats


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_difference_by_hand():
    """Means 2 and 5."""
    estimate = stats.difference([1, 3], [4, 6])
    assert estimate.value == -3


def test_pairing_removes_what_prompts_share():
    """Prompts differ by 100, the groups by exactly 1: paired, the interval is a point."""
    prompts = np.arange(50)
    base = 100 * prompts
    paired = stats.difference(base + 1.0, base, prompts, prompts)
    assert paired.low == pytest.approx(1)
    assert paired.high == pytest.approx(1)
    assert paired.n_clusters == 50

    # Unpaired it is wide.
    apart = stats.difference(base + 1.0, base, prompts, prompts + 50)
    assert apart.high - apart.low > 500
    assert apart.n_clusters == 100


def test_groups_without_clusters_are_independent(rng):
    a = rng.normal(size=30)
    b = rng.normal(size=30)
    assert stats.difference(a, b).n_clusters == 60


def test_clusters_of_one_group_only_are_refused():
    with pytest.raises(ValueError, match="clusters of both groups, or of neither"):
        stats.difference(
            a=[1, 2],
            b=[1, 2],
            clusters_a=[0, 1],
            clusters_b=None,
        )


def test_cliffs_delta_by_hand():
    """Every a lies below every b; of equal groups neither lies above."""
    below = stats.cliffs_delta([1, 2], [3, 4])
    equal = stats.cliffs_delta([1, 2], [1, 2])
    empty = stats.cliffs_delta([], [2])
    assert below == -1
    assert equal == 0
    assert math.isnan(empty)


def test_cliffs_delta_agrees_with_scipy(rng):
    a = rng.integers(0, 5, size=30)
    b = rng.integers(0, 5, size=40)
    theirs = mannwhitneyu(a, b)
    share_above = theirs.statistic / (30 * 40)
    delta = stats.cliffs_delta(a, b)
    assert delta == pytest.approx(2 * share_above - 1)
