"""Paired flags: the difference, and the exact McNemar test."""

import math

import numpy as np
import pytest

from cotlens.stats import mcnemar


def test_forty_prompts_by_hand():
    """Only with 6, only without 2: +.10, and p = 2 (C(8,0) + C(8,1) + C(8,2)) / 2^8 = .289."""
    first = [1] * 6 + [0] * 2 + [1] * 20 + [0] * 12
    second = [0] * 6 + [1] * 2 + [1] * 20 + [0] * 12
    pairs = mcnemar(first, second)
    assert (pairs.only_first, pairs.only_second) == (6, 2)
    assert pairs.difference.value == pytest.approx(0.10)
    assert pairs.difference.n == 40
    assert pairs.p_value == pytest.approx(2 * (1 + 8 + 28) / 256)


def test_the_test_is_symmetric_and_reads_only_what_differs():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 2, (2, 60))
    pairs = mcnemar(first, second)
    swapped = mcnemar(second, first)
    assert swapped.p_value == pytest.approx(pairs.p_value)
    assert swapped.difference.value == pytest.approx(-pairs.difference.value)
    longer = mcnemar([*first, 1, 1], [*second, 1, 1])
    assert longer.p_value == pytest.approx(pairs.p_value)


@pytest.mark.parametrize("flags", [([], []), ([1, 0], [1, 0]), ([1, math.nan], [1, 0])])
def test_where_none_differs_nothing_is_shown(flags):
    assert mcnemar(*flags).p_value == 1


def test_pairs_with_a_missing_flag_are_left_out():
    pairs = mcnemar([1, 1, math.nan], [0, math.nan, 1])
    assert (pairs.only_first, pairs.only_second, pairs.difference.n) == (1, 0, 1)


@pytest.mark.parametrize("flags", [([1], [1, 0]), ([2], [1]), ([1], [0.5])])
def test_what_is_no_pair_of_flags_is_an_error(flags):
    with pytest.raises(ValueError, match=r"expected pairs|must be true"):
        mcnemar(*flags)
