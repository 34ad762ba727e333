"""Estimates with intervals that know which traces belong together.

Traces of one prompt resemble each other, and so do the steps and tokens of one trace. Every interval here therefore
resamples whole *clusters* (prompts), never rows. This module imports nothing of cotlens and works on plain arrays:
values, and for each value the cluster it belongs to.

The interval. Clusters are drawn with replacement, the statistic is computed for each draw, and its quantiles are the
limits. For few clusters the plain quantiles are too narrow, so they are taken further out, by the factor that makes
the interval of a mean of normal data equal Student's (expanded percentile interval, Hesterberg 2015, The American
Statistician 69(4), section 5.3). Samples within a drawn prompt are kept as they are: drawing them again as well counts
their noise twice and widens the interval by up to a third when prompts differ little (docs/statistics.md measures it).

Undefined is NaN: rows whose value is NaN are left out and counted in `n_undefined`; a statistic of nothing is NaN, and
an interval from fewer than two clusters is NaN. With two to ten clusters intervals exist and are too narrow
(docs/statistics.md says how much); `n_clusters` stands beside every estimate so that this can be seen.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cotlens.stats.bootstrap import (
    Estimate,
    Floats,
    Rows,
    effective_n,
    interval_estimate,
    ratio_of_sums,
    sums_estimate,
    wilson,
)


# --- one group -------------------------------------------------------------------------------------------------
def mean(values: ArrayLike, clusters: ArrayLike | None = None, **options: Any) -> Estimate:
    """Mean over rows, sum(values) / n, with a cluster bootstrap interval.

    Args:
        values: one number a row; NaN is left out.
        clusters: one key a row; without it every row is a cluster.
        **options: `level` (0.95), `resamples` (2000), `seed` (0).
    """
    rows = Rows.of(values, clusters)
    return sums_estimate(ratio_of_sums, rows, [rows.values, np.ones(rows.n)], **options)


def ratio(
    numerator: ArrayLike, denominator: ArrayLike, clusters: ArrayLike | None = None, **options: Any
) -> Estimate:
    """Ratio of sums, sum(numerator) / sum(denominator): reflections per token, say, with long traces weighing more.

    Rows where either is NaN are left out. Options as in `mean`.
    """
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    rows = Rows.of(numerator + denominator, clusters)
    return sums_estimate(
        ratio_of_sums, rows, [numerator[rows.kept], denominator[rows.kept]], **options
    )


def proportion(
    flags: ArrayLike, clusters: ArrayLike | None = None, *, level: float = 0.95
) -> Estimate:
    """Share of rows that are true, with Wilson's interval at the effective sample size.

    Unlike a bootstrap it stays honest when nothing, or everything, is true. Clustered rows count as
    n_eff = p (1 - p) / Var(p) rows, with the between-cluster variance of the ratio estimator, times (z / t)^2 for the
    few clusters that this variance rests on (Korn and Graubard 1998, Survey Methodology 24(2)). n_eff is at most the
    number of rows n, and at least n^2 / sum(n_i^2), the value if the n_i rows of each cluster were alike; that is taken
    where p is 0 or 1, and less one it gives t its degrees of freedom. With one row a cluster it is Wilson's interval.
    """
    rows = Rows.of(flags, clusters)
    if len(wrong := rows.values[~np.isin(rows.values, (0, 1))]):
        raise ValueError(f"flags must be true, false or missing, got {wrong[0]:g}")
    if not rows.n:
        return rows.undefined("wilson")
    p = float(rows.values.mean())
    if rows.n_clusters < min(rows.n, 2):
        return rows.undefined("wilson")._replace(value=p)
    low, high = wilson(p, effective_n(rows, level), level)
    return Estimate(p, low, high, rows.n, rows.n_clusters, "wilson", rows.n_undefined)


def quantile(
    values: ArrayLike, q: float, clusters: ArrayLike | None = None, **options: Any
) -> Estimate:
    """The q-quantile over rows: the inverse of the distribution function (Hyndman and Fan's type 1). As `mean`."""
    if not 0 < q <= 1:
        raise ValueError(f"q must lie in (0, 1], got {q}")
    rows = Rows.of(values, clusters)
    order = np.argsort(rows.values, kind="stable")
    ranked, keys = rows.values[order], rows.keys[order]

    def of_counts(counts: Floats) -> Floats:
        cumulative = np.cumsum(counts[:, keys], axis=1)
        reached = cumulative >= q * cumulative[:, -1:] - 1e-9
        return ranked[np.argmax(reached, axis=1)]

    return interval_estimate(of_counts, rows, width=max(rows.n, 1), **options)


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
        position: one number a row in [0, 1]; 1 falls into the last bin.
        values: one number a row; NaN is left out.
        clusters: one key a row.
        bins: number of bins of equal width.
        share: the values are flags, with intervals as in `proportion`: a bootstrap's have no width where all are alike.
        **options: as in `mean`; none with `share`.

    Returns:
        One row per bin: position (middle of the bin), value, low, high, n, n_clusters. An empty bin is NaN.
    """
    at = np.asarray(position, float)
    if bins < 1 or np.isnan(at).any():
        raise ValueError(
            f"expected at least one bin and no missing position, got {bins} and {np.isnan(at).sum()}"
        )
    if not ((at >= 0) & (at <= 1)).all():
        raise ValueError(f"position must lie in [0, 1], got {at.min()} to {at.max()}")
    rows = Rows.of(values, clusters)
    bin_of = np.minimum((at[rows.kept] * bins).astype(int), bins - 1)
    results = []
    for number in range(bins):
        part = Rows.of(rows.values[bin_of == number], rows.keys[bin_of == number])
        if share:
            estimate = proportion(part.values, part.keys)
        else:
            estimate = sums_estimate(ratio_of_sums, part, [part.values, np.ones(part.n)], **options)
        results.append({"position": (number + 0.5) / bins, **estimate._asdict()})
    return pd.DataFrame(results).drop(columns=["method", "n_undefined"])
