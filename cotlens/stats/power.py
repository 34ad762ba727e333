"""How small a difference of two checkpoints can n prompts with m samples each show?

The model: value = mean + prompt + sample. Prompts vary with variance `between`, the samples of one
prompt with variance `within`. The intraclass correlation is the prompts' part of the variance:
ICC = between / (between + within).

More samples narrow only the second part. The variance of a difference of means of two checkpoints,
each with n prompts of m samples, is

    2 / n * (between * (1 - r) + within / m)

with r the correlation of the prompts' means between the checkpoints; r is 0 where each has prompts
of its own. (Killip, Mahfoud and Pearce 2004, Annals of Family Medicine 2(3), for r = 0, where it is
2 variance / (n m) times the design effect 1 + (m - 1) ICC; Miller 2024, arXiv 2411.00640, for
paired evaluations of language models.)
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from cotlens.stats.bootstrap import ClusteredRows, Estimate, Floats, bootstrap_sums


class Variation(NamedTuple):
    """How much prompts differ, and how much the samples of one prompt.

    Attributes:
        between: variance of the prompts' means, without what sampling adds to it; not below 0.
        within: variance of the samples of one prompt.
        icc: between / (between + within), with a cluster bootstrap interval.
        correlation: of the prompts' means between two checkpoints; None for one checkpoint.
    """

    between: float
    within: float
    icc: Estimate
    correlation: Estimate | None = None

    @property
    def numbers(self) -> dict[str, Any]:
        """Keyword arguments of `smallest_difference`, `prompts_needed` and `difference_error`."""
        numbers: dict[str, Any] = {
            "variance": self.between + self.within,
            "icc": self.icc.value,
        }
        if self.correlation is not None:
            numbers["correlation"] = self.correlation.value
        return numbers


def smallest_difference(
    n_prompts: int,
    n_samples: float,
    *,
    icc: float,
    variance: float = 1.0,
    correlation: float | None = None,
    power: float = 0.8,
    level: float = 0.95,
) -> float:
    """The smallest true difference of means that an interval of this level tells from 0.

    It is (t(1 - alpha / 2) + t(power)) times the standard error, alpha = 1 - level, with Student's
    t (Bloom 1995, Evaluation Review 19(5): the minimum detectable effect). t has n - 1 degrees of
    freedom for shared prompts, and 2 (n - 1) otherwise.

    Args:
        n_prompts: prompts of each checkpoint, at least two.
        n_samples: samples of each prompt by each checkpoint.
        icc: share of the variance that lies between prompts (`variation`).
        variance: of the values of one checkpoint, all together; p (1 - p) for flags of rate p. With
            1 the difference is in standard deviations.
        correlation: of the prompts' means between checkpoints that have the same prompts
            (`paired_variation`); None if each has prompts of its own.
        power: how often such a difference is to be found, above 0.5.
        level: coverage of the interval.

    Raises:
        ValueError: if a number lies outside its range.

    >>> round(smallest_difference(100, 4, icc=0.5, correlation=0.8), 3)
    0.19
    """
    error = difference_error(
        n_prompts,
        n_samples,
        icc=icc,
        variance=variance,
        correlation=correlation,
    )
    is_paired = correlation is not None
    return _errors_needed(n_prompts, is_paired, power, level) * error


def prompts_needed(
    difference: float,
    n_samples: float,
    *,
    icc: float,
    variance: float = 1.0,
    correlation: float | None = None,
    power: float = 0.8,
    level: float = 0.95,
) -> int:
    """The fewest prompts, at least two, that show a difference as `smallest_difference` counts it.

    Args:
        difference: of the means, above 0.
        n_samples: as in `smallest_difference`, and so are all others.
        icc: likewise.
        variance: likewise.
        correlation: likewise.
        power: likewise.
        level: likewise.

    Raises:
        ValueError: if a number lies outside its range.
    """
    _check("difference", difference, 0, math.inf, is_open=True)

    def can_show(n_prompts: int) -> bool:
        smallest = smallest_difference(
            n_prompts,
            n_samples,
            icc=icc,
            variance=variance,
            correlation=correlation,
            power=power,
            level=level,
        )
        return smallest <= difference * (1 + 1e-9)

    # Double until it is enough, then halve the gap.
    enough = 2
    while not can_show(enough):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if can_show(middle):
            enough = middle
        else:
            too_few = middle
    return enough


def difference_error(
    n_prompts: int,
    n_samples: float,
    *,
    icc: float,
    variance: float = 1.0,
    correlation: float | None = None,
) -> float:
    """Standard error of the difference of two checkpoints' means (see the top of this file).

    Args:
        n_prompts: as in `smallest_difference`, and so are all others.
        n_samples: likewise.
        icc: likewise.
        variance: likewise.
        correlation: likewise; where the ICC is 0 it does not matter, and may be NaN.

    Raises:
        ValueError: if a number lies outside its range.
    """
    _check("n_prompts", n_prompts, 2, math.inf)
    _check("n_samples", n_samples, 1, math.inf)
    if math.isnan(icc):
        raise ValueError(
            "the ICC is unknown (NaN): it takes two prompts, two samples of a prompt and values "
            "that differ. To plan for one sample of each prompt, give icc=1 and the values' own "
            "variance and correlation"
        )
    _check("icc", icc, 0, 1)
    _check("variance", variance, 0, math.inf, is_open=True)

    # What a prompt adds to both checkpoints cancels.
    common = 0.0
    if correlation is not None and icc > 0:
        _check("correlation", correlation, -1, 1)
        common = icc * correlation

    between = icc - common
    within = (1 - icc) / n_samples
    per_prompt = 2 * variance * (between + within)
    return math.sqrt(per_prompt / n_prompts)


def _errors_needed(n_prompts: int, is_paired: bool, power: float, level: float) -> float:
    """How many standard errors a difference must be to be found with this power."""
    _check("power", power, 0.5, 1, is_open=True)
    _check("level", level, 0, 1, is_open=True)

    freedom = n_prompts - 1
    if not is_paired:
        freedom *= 2

    # From 0 to the limit of the interval, and from there to the truth.
    middle = (1 + level) / 2
    to_limit = stdtrit(freedom, middle)
    to_truth = stdtrit(freedom, power)
    return float(to_limit + to_truth)


def _check(name: str, number: float, low: float, high: float, *, is_open: bool = False) -> None:
    """Raise a ValueError unless low <= number <= high; open: without the limits themselves."""
    if is_open:
        is_inside = low < number < high
        limits = f"({low:g}, {high:g})"
    else:
        is_inside = low <= number <= high
        limits = f"[{low:g}, {high:g}]"

    # NaN is inside of nothing.
    if not is_inside:
        raise ValueError(f"{name} must lie in {limits}, got {number}")


def variation(values: ArrayLike, clusters: ArrayLike, **options: Any) -> Variation:
    """Variance between and within the prompts of one checkpoint, and their ICC.

    The estimator is that of the one-way analysis of variance for k prompts of n_i samples:
    within = MSW, between = (MSB - MSW) / n_0 with n_0 = (N - sum(n_i^2) / N) / (k - 1), and 0 where
    this is negative (Donner 1986, International Statistical Review 54(1)).

    Args:
        values: one number or flag per sample; NaN is left out.
        clusters: the prompt of each.
        **options: of the interval, as in `mean`.

    Returns:
        The variation; NaN with fewer than two prompts, or where no prompt has two samples.
    """
    rows = ClusteredRows.from_arrays(values, clusters)
    table = _sums_by_prompt(rows)
    return _variation(table, rows.n_undefined, options)


def paired_variation(
    a: ArrayLike, b: ArrayLike, clusters_a: ArrayLike, clusters_b: ArrayLike, **options: Any
) -> Variation:
    """The variation of two checkpoints over the prompts that both have, and their correlation.

    `between` and `within` are means over the checkpoints. The correlation is the covariance of the
    prompts' means, divided by `between` and clipped to [-1, 1]: sampling adds nothing to this
    covariance, so it does not depend on the number of samples, unlike the plain correlation of
    means. It is Pearson's where prompts vary equally in both, and lower otherwise; with it
    `difference_error` is exact in both cases.

    Args:
        a: one number or flag per sample of the first checkpoint; NaN is left out.
        b: likewise of the second.
        clusters_a: the prompt of each sample of the first.
        clusters_b: likewise of the second.
        **options: of the intervals, as in `mean`.

    Returns:
        The variation; NaN as in `variation`, and a correlation of NaN where prompts do not differ.
    """
    rows_a = ClusteredRows.from_arrays(a, clusters_a)
    rows_b = ClusteredRows.from_arrays(b, clusters_b)
    table_a = _sums_by_prompt(rows_a)
    table_b = _sums_by_prompt(rows_b)

    # The covariance of the prompts' means rests on three more sums.
    mean_a = table_a["total"] / table_a["samples"]
    mean_b = table_b["total"] / table_b["samples"]
    products = mean_a * mean_b

    # Prompts of one checkpoint only say nothing of pairs.
    tables = [table_a, table_b, mean_a, mean_b, products]
    table = pd.concat(tables, axis=1, join="inner")
    n_undefined = rows_a.n_undefined + rows_b.n_undefined
    variation = _variation(table, n_undefined, options)
    correlation = _estimate(_correlation, table, n_undefined, options)
    return variation._replace(correlation=correlation)


_N_SUMS = 6  # columns of `_sums_by_prompt`


def _sums_by_prompt(rows: ClusteredRows) -> pd.DataFrame:
    """One row per prompt: what the analysis of variance adds up."""
    samples = rows.sum(np.ones(rows.n))
    total = rows.sum(rows.values)

    # All around the mean of all values: large numbers would cost digits.
    centre = total.sum() / max(rows.n, 1)
    means = total / samples - centre
    residuals = rows.values - centre - means[rows.cluster_of]
    return pd.DataFrame(
        {
            "prompts": np.ones(rows.n_clusters),
            "samples": samples,
            "squared_samples": samples**2,
            "total": samples * means,
            "squared_means": samples * means**2,
            "squared_residuals": rows.sum(residuals**2),
        },
        index=rows.cluster_names,
    )


def _variation(table: pd.DataFrame, n_undefined: int, options: dict[str, Any]) -> Variation:
    """The variation of one checkpoint or of two, from sums by prompt."""
    totals = table.to_numpy().sum(0)
    between, within = _components(totals)
    return Variation(
        between=float(between),
        within=float(within),
        icc=_estimate(_icc, table, n_undefined, options),
    )


def _estimate(
    statistic: Callable[[Floats], Floats],
    table: pd.DataFrame,
    n_undefined: int,
    options: dict[str, Any],
) -> Estimate:
    """Estimate of a statistic of the columns' sums; its `n` counts samples."""
    ones = np.ones(len(table))
    prompts = ClusteredRows.from_arrays(ones, None)
    columns = list(table.to_numpy().T)
    estimate = bootstrap_sums(
        statistic,
        prompts,
        columns,
        **options,
    )

    # Each row of the table is a prompt, of one checkpoint or two.
    samples = table[["samples"]].to_numpy()
    n = int(samples.sum())
    return estimate._replace(n=n, n_undefined=n_undefined)


def _components(sums: Floats) -> tuple[Floats, Floats]:
    """Variance between and within prompts, the mean over checkpoints, from sums by checkpoint."""
    betweens = []
    withins = []
    last_start = sums.shape[-1] - _N_SUMS
    for start in range(0, last_start + 1, _N_SUMS):
        k = sums[..., start]
        n = sums[..., start + 1]
        squared_n = sums[..., start + 2]
        total = sums[..., start + 3]
        squared_means = sums[..., start + 4]
        squared_residuals = sums[..., start + 5]

        # One-way analysis of variance; NaN where no prompt has two samples.
        with np.errstate(invalid="ignore", divide="ignore"):
            within = squared_residuals / (n - k)
            squares = squared_means - total**2 / n
            mean_square = squares / (k - 1)
            sizes = n - squared_n / n
            samples = sizes / (k - 1)
            between = (mean_square - within) / samples

        # A variance below 0 is one of 0.
        betweens.append(np.maximum(between, 0))
        withins.append(within)

    return np.mean(betweens, axis=0), np.mean(withins, axis=0)


def _icc(sums: Floats) -> Floats:
    """ICC of the mean variances; NaN where nothing varies."""
    between, within = _components(sums)
    variance = between + within
    with np.errstate(invalid="ignore"):
        return between / variance


def _correlation(sums: Floats) -> Floats:
    """Covariance of the prompts' means by their variance; NaN where prompts do not differ."""
    k = sums[..., 0]
    mean_a = sums[..., -3]
    mean_b = sums[..., -2]
    product = sums[..., -1]
    between, _ = _components(sums)

    # Noise may lift the covariance over the variance.
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = product - mean_a * mean_b / k
        covariance = deviations / (k - 1)
        correlation = covariance / between
    return np.clip(correlation, -1, 1)
