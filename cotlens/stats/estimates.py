"""Numbers of one group of rows: mean, ratio, proportion, quantile, mean by position."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtrit

from cotlens.stats.bootstrap import (
    ClusteredRows,
    Estimate,
    Floats,
    Indices,
    bootstrap_estimate,
    bootstrap_sums,
    ratio_of_sums,
)


def mean(values: ArrayLike, clusters: ArrayLike | None = None, **options: Any) -> Estimate:
    """Mean over rows, sum(values) / n, with a cluster bootstrap interval.

    Args:
        values: one number per row; NaN is left out.
        clusters: one key per row; without it every row is a cluster.
        **options: `level` (0.95), `resamples` (2000), `seed` (0).
    """
    rows = ClusteredRows.from_arrays(values, clusters)
    columns = [rows.values, np.ones(rows.n)]
    return bootstrap_sums(
        ratio_of_sums,
        rows,
        columns,
        **options,
    )


def ratio(
    numerator: ArrayLike, denominator: ArrayLike, clusters: ArrayLike | None = None, **options: Any
) -> Estimate:
    """Ratio of sums, sum(numerator) / sum(denominator), with a cluster bootstrap interval.

    An example is reflections per token, where long traces weigh more. Rows where either is NaN are
    left out.

    Args:
        numerator: one number per row.
        denominator: one number per row.
        clusters: one key per row; without it every row is a cluster.
        **options: as in `mean`.
    """
    numerators = np.asarray(numerator, float)
    denominators = np.asarray(denominator, float)

    # The sum is missing where either is.
    rows = ClusteredRows.from_arrays(numerators + denominators, clusters)
    columns = [
        numerators[rows.has_value],
        denominators[rows.has_value],
    ]
    return bootstrap_sums(
        ratio_of_sums,
        rows,
        columns,
        **options,
    )


def proportion(
    flags: ArrayLike, clusters: ArrayLike | None = None, *, level: float = 0.95
) -> Estimate:
    """Share of rows that are true, with Wilson's interval at the effective sample size.

    Unlike a bootstrap interval it stays honest when nothing, or everything, is true. Clustered rows
    count as n_eff = p (1 - p) / Var(p) rows, with the between-cluster variance of the ratio
    estimator, times (z / t)^2 for the few clusters that this variance rests on (Korn and Graubard
    1998, Survey Methodology 24(2)). Before that factor n_eff is at most the number of rows n, and
    at least n^2 / sum(n_i^2), its value if the n_i rows of each cluster were alike. That least
    value is taken where p is 0 or 1, and less one it gives t its degrees of freedom. With one row
    per cluster this is Wilson's interval.

    Args:
        flags: one flag per row; missing is left out.
        clusters: one key per row; without it every row is a cluster.
        level: coverage of the interval.

    Raises:
        ValueError: if a flag is neither 0, 1 nor missing.
    """
    rows = ClusteredRows.from_arrays(flags, clusters)
    wrong = rows.values[~np.isin(rows.values, (0, 1))]
    if len(wrong):
        raise ValueError(f"flags must be true, false or missing, got {wrong[0]:g}")
    if not rows.n:
        return rows.estimate("wilson")

    # Several rows of one cluster: nothing says how much clusters differ.
    p = float(rows.values.mean())
    if rows.n > 1 and rows.n_clusters < 2:
        return rows.estimate("wilson", p)

    n_eff = effective_sample_size(rows, level)
    low, high = _wilson_interval(p, n_eff, level)
    return rows.estimate("wilson", p, low, high)


def effective_sample_size(rows: ClusteredRows, level: float) -> float:
    """The number of independent rows that clustered flags are worth (see `proportion`)."""
    n = rows.n
    n_clusters = rows.n_clusters
    if n_clusters == n:
        return float(n)

    # Between-cluster variance of the share.
    p = float(rows.values.mean())
    trues = rows.sum(rows.values)
    sizes = rows.sum(np.ones(n))
    residuals = trues - p * sizes
    variance = (residuals @ residuals) * n_clusters / (n_clusters - 1) / n**2

    # The fewest rows they can be worth: what they are if all rows of a cluster are alike.
    fewest = n**2 / (sizes @ sizes)
    if p in (0, 1):
        n_eff = fewest
    else:
        n_eff = p * (1 - p) / max(variance, 1e-300)
        n_eff = max(n_eff, fewest)
        n_eff = min(n_eff, n)

    # Clusters of equal size leave n_clusters - 1 degrees of freedom; a dominant one hardly any.
    freedom = max(fewest - 1, 0.5)
    tail = (1 + level) / 2
    z = ndtri(tail)
    student = stdtrit(freedom, tail)
    return float(n_eff * (z / student) ** 2)


def _wilson_interval(p: float, n: float, level: float) -> tuple[float, float]:
    """Wilson's score interval of a share p of n rows; n need not be whole."""
    tail = (1 + level) / 2
    z = float(ndtri(tail))
    scale = 1 + z**2 / n

    centre = (p + z**2 / (2 * n)) / scale
    variance = p * (1 - p) / n + z**2 / (4 * n**2)
    half_width = z / scale * math.sqrt(variance)
    low = centre - half_width
    high = centre + half_width

    # At the ends a limit is exact; arithmetic would miss it by a rounding error.
    if p == 0:
        low = 0.0
    if p == 1:
        high = 1.0
    return low, high


def quantile(
    values: ArrayLike, q: float, clusters: ArrayLike | None = None, **options: Any
) -> Estimate:
    """The q-quantile over rows, with a cluster bootstrap interval.

    It is the inverse of the distribution function (Hyndman and Fan's type 1).

    Args:
        values: one number per row; NaN is left out.
        q: above 0, at most 1.
        clusters: one key per row; without it every row is a cluster.
        **options: as in `mean`.

    Raises:
        ValueError: if q lies outside (0, 1].
    """
    if not 0 < q <= 1:
        raise ValueError(f"q must lie in (0, 1], got {q}")

    rows = ClusteredRows.from_arrays(values, clusters)
    order = np.argsort(rows.values, kind="stable")
    ranked = rows.values[order]
    cluster_of_ranked = rows.cluster_of[order]

    # The least value that at least a share q of the drawn rows does not exceed.
    def of_counts(counts: Floats) -> Floats:
        n_drawn = counts[:, cluster_of_ranked]
        n_up_to = np.cumsum(n_drawn, axis=1)
        n_wanted = q * n_up_to[:, -1:]

        is_reached = n_up_to >= n_wanted - 1e-9
        first = np.argmax(is_reached, axis=1)
        return ranked[first]

    return bootstrap_estimate(
        of_counts,
        rows,
        width=max(rows.n, 1),
        **options,
    )


def curve(
    position: ArrayLike,
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    bins: int = 20,
    share: bool = False,
    **options: Any,
) -> pd.DataFrame:
    """Mean of the values by relative position, with pointwise intervals.

    Args:
        position: one number per row in [0, 1]; 1 falls into the last bin.
        values: one number per row; NaN is left out.
        clusters: one key per row; without it every row is a cluster.
        bins: number of bins of equal width.
        share: the values are flags, with intervals as in `proportion` (a bootstrap interval has no
            width where all flags are alike).
        **options: as in `mean`; none with `share`.

    Returns:
        One row per bin: position (middle of the bin), value, low, high, n, n_clusters. An empty bin
        is NaN.

    Raises:
        ValueError: if a position is missing or outside [0, 1], or if there is no bin.
    """
    rows = ClusteredRows.from_arrays(values, clusters)
    bin_of = bins_of(position, bins)[rows.has_value]
    results = []
    for number in range(bins):
        in_bin = bin_of == number
        bin_values = rows.values[in_bin]
        bin_clusters = rows.cluster_of[in_bin]

        if share:
            estimate = proportion(bin_values, bin_clusters)
        else:
            estimate = mean(bin_values, bin_clusters, **options)

        middle = (number + 0.5) / bins
        results.append({"position": middle, **estimate._asdict()})

    return pd.DataFrame(results).drop(columns=["method", "n_undefined"])


def bins_of(position: ArrayLike, bins: int) -> Indices:
    """Number of the bin of each position in [0, 1], of bins of equal width; 1 is in the last.

    Raises:
        ValueError: as `curve`.
    """
    positions = np.asarray(position, float)
    n_missing = np.isnan(positions).sum()
    if bins < 1 or n_missing:
        raise ValueError(
            "expected at least one bin and no missing position, "
            f"got {bins} bins and {n_missing} missing positions"
        )
    if not ((positions >= 0) & (positions <= 1)).all():
        raise ValueError(f"position must lie in [0, 1], got {positions.min()} to {positions.max()}")
    return np.minimum((positions * bins).astype(int), bins - 1)


def curve_of_sums(
    sums: ArrayLike, counts: ArrayLike, clusters: ArrayLike, **options: Any
) -> pd.DataFrame:
    """`curve`, of sums that were taken before: the same numbers from a row a trace.

    Args:
        sums: of the values, (rows, bins).
        counts: how many values each sum is of, (rows, bins).
        clusters: one key per row.
        **options: as in `mean`.

    Returns:
        As `curve`; n counts the values.
    """
    sums = np.asarray(sums)
    counts = np.asarray(counts)
    keys = np.asarray(clusters)
    bins = counts.shape[1]
    results = []
    for number in range(bins):
        bin_counts = counts[:, number]
        is_there = bin_counts > 0
        estimate = ratio(sums[is_there, number], bin_counts[is_there], keys[is_there], **options)
        estimate = estimate._replace(n=int(bin_counts.sum()))
        middle = (number + 0.5) / bins
        results.append({"position": middle, **estimate._asdict()})

    return pd.DataFrame(results).drop(columns=["method", "n_undefined"])
