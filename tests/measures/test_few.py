"""Nested subsets, and the number of samples that reaches half of the gain."""

import math

import pytest

from cotlens.measures import n50, nested


def test_half_of_the_gain_by_hand():
    """Half of .8 is .4, at (.4 - .1) / (.6 - .1) = .6 of the way from log 1 to log 10."""
    assert n50([1, 10, 100], [0.1, 0.6, 0.8]) == pytest.approx(10**0.6)
    assert n50([1, 10, 100], [0.1, 0.6, 0.8]) == pytest.approx(3.98, abs=0.002)


N50 = [
    ([1, 10], [0.0, 0.8], math.sqrt(10)),
    ([1, 10, 100], [0.0, 0.4, 0.8], 10),
    ([1, 10, 100], [0.0, 0.1, 0.8], 10 ** (1 + 3 / 7)),
    ([1, 10, 100, 1000], [0.0, 0.5, 0.2, 0.8], 10**0.8),  # the first size that reaches half
    ([1, 10], [0.4, 0.8], math.nan),  # reached by the smallest
    ([1, 10], [-0.2, 0.0], math.nan),
    ([1, 10], [0.1, -0.1], math.nan),
    ([1, 10, 100], [0.1, math.nan, 0.8], math.nan),
    ([10], [0.5], math.nan),
]


@pytest.mark.parametrize(("sizes", "gains", "expected"), N50)
def test_the_size_that_reaches_half(sizes, gains, expected):
    assert n50(sizes, gains) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("sizes", "gains"),
    [([1, 10], [0.1]), ([], []), ([10, 1], [0.1, 0.8]), ([1, 1], [0.1, 0.8]), ([0, 1], [0.1, 0.8])],
)
def test_sizes_that_do_not_fit_are_refused(sizes, gains):
    with pytest.raises(ValueError, match="n50: "):
        n50(sizes, gains)


def test_each_subset_holds_the_smaller_ones():
    rows = [f"row {number}" for number in range(50)]
    subsets = nested(rows, [10, 1, 50], seed=3)
    assert {size: len(subset) for size, subset in subsets.items()} == {10: 10, 1: 1, 50: 50}
    assert subsets[1] == subsets[10][:1]
    assert subsets[10] == subsets[50][:10]
    assert sorted(subsets[50]) == sorted(rows)
    assert subsets[50] != rows
    assert nested(rows, [10], seed=3)[10] == subsets[10]
    assert nested(rows, [10], seed=4)[10] != subsets[10]


@pytest.mark.parametrize("size", [0, 4])
def test_a_subset_of_another_size_than_there_are_rows(size):
    with pytest.raises(ValueError, match="expected sizes from 1 to 3 rows"):
        nested(["a", "b", "c"], [1, size])
