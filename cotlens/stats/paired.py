"""The same prompts under two conditions: with and without thinking, before and after."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from cotlens.stats.bootstrap import Estimate, Floats
from cotlens.stats.estimates import mean


class Pairs(NamedTuple):
    """Flags of the same prompts under two conditions.

    Attributes:
        difference: mean of first less second, with an interval over prompts.
        only_first: prompts for which only the first is true.
        only_second: prompts for which only the second is.
        p_value: exact McNemar test: two-sided binomial test of `only_first` among the prompts in
            which they differ, against one half; 1 where none differs.
    """

    difference: Estimate
    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: ArrayLike, second: ArrayLike, clusters: ArrayLike | None = None) -> Pairs:
    """Paired difference of two flags, with the exact McNemar test.

    The test takes rows as independent: give one row per prompt.

    Args:
        first: one flag per row; pairs with a missing one are left out.
        second: likewise.
        clusters: one key per row, for the interval.

    Raises:
        ValueError: if the two differ in length, or a flag is neither 0, 1 nor missing.
    """
    left = _as_flags(first)
    right = _as_flags(second)
    if left.shape != right.shape:
        raise ValueError(f"mcnemar: expected pairs, got {len(left)} and {len(right)} flags")

    # Only pairs that differ say anything of a difference.
    is_first = (left == 1) & (right == 0)
    is_second = (left == 0) & (right == 1)
    only_first = int(is_first.sum())
    only_second = int(is_second.sum())

    p_value = 1.0
    n_different = only_first + only_second
    if n_different:
        from scipy.stats import binomtest  # takes most of a second to import

        test = binomtest(only_first, n_different)
        p_value = float(test.pvalue)

    difference = mean(left - right, clusters)
    return Pairs(difference, only_first, only_second, p_value)


def _as_flags(values: ArrayLike) -> Floats:
    """Flags as numbers, NaN where they are missing.

    Raises:
        ValueError: for a value that is no flag.
    """
    flags = np.asarray(values, float)
    is_flag = np.isin(flags, (0, 1)) | np.isnan(flags)
    wrong = flags[~is_flag]
    if len(wrong):
        raise ValueError(f"flags must be true, false or missing, got {wrong[0]:g}")
    return flags
