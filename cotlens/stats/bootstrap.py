"""Estimate, and the cluster bootstrap that every interval comes from."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
RESAMPLES = 2000
_CHUNK = 4_000_000  # entries of the matrix of draws that are held at once


class Estimate(NamedTuple):
    """What every statistic returns.

    Attributes:
        value: the point estimate; NaN if it is undefined.
        low: lower limit of the interval.
        high: upper limit.
        n: rows that the value rests on.
        n_clusters: clusters (prompts) they come from.
        method: how the interval was made.
        n_undefined: rows that were left out because their value is NaN.
    """

    value: float
    low: float
    high: float
    n: int
    n_clusters: int
    method: str
    n_undefined: int = 0

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n:,}, {self.n_clusters:,} clusters)"

    def _repr_html_(self) -> str:
        undefined = f", {self.n_undefined:,} undefined" if self.n_undefined else ""
        return (
            f"<b>{self.value:.4g}</b> [{self.low:.4g}, {self.high:.4g}] "
            f"<small>n = {self.n:,} in {self.n_clusters:,} clusters{undefined}; {self.method}</small>"
        )


def effective_n(rows: "Rows", level: float) -> float:
    """The number of independent rows that flags in clusters are worth: see `proportion`."""
    if rows.n_clusters == rows.n:
        return float(rows.n)
    p, sums, sizes = float(rows.values.mean()), rows.sum(rows.values), rows.sum(np.ones(rows.n))
    residual = sums - p * sizes
    variance = (residual @ residual) * rows.n_clusters / (rows.n_clusters - 1) / rows.n**2
    least = rows.n**2 / (sizes @ sizes)
    n_eff = least if p in (0, 1) else min(max(p * (1 - p) / max(variance, 1e-300), least), rows.n)
    freedom = max(
        least - 1, 0.5
    )  # clusters of equal size have n_clusters - 1; a dominant one leaves next to none
    quantiles = stats.norm.ppf((1 + level) / 2), stats.t.ppf((1 + level) / 2, freedom)
    return float(n_eff * (quantiles[0] / quantiles[1]) ** 2)


def portions(total: int, width: int) -> list[int]:
    """Numbers of draws of `width` entries that are made at once, so that memory stays small."""
    step = max(1, _CHUNK // max(width, 1))
    return [min(step, total - first) for first in range(0, total, step)]


# --- how it is done --------------------------------------------------------------------------------------------
class Rows(NamedTuple):
    """The rows that have a value, and their clusters as numbers from 0."""

    values: Floats
    keys: NDArray[np.intp]
    names: pd.Index
    kept: NDArray[np.bool_]
    n_undefined: int

    @classmethod
    def of(cls, values: ArrayLike, clusters: ArrayLike | None) -> "Rows":
        numbers = np.array(
            [np.nan if value is None or value is pd.NA else value for value in np.ravel(values)],
            float,
        )
        if np.isinf(numbers).any():
            raise ValueError(
                "an infinite value has no mean; leave it out, or mark it as missing (NaN)"
            )
        kept = ~np.isnan(numbers)
        if clusters is None:
            names = pd.RangeIndex(int(kept.sum()))
            return cls(numbers[kept], np.arange(kept.sum()), names, kept, int((~kept).sum()))
        given = np.asarray(clusters)
        if len(given) != len(numbers):
            raise ValueError(
                f"{len(numbers)} values but {len(given)} clusters: they must be parallel"
            )
        keys, names = pd.factorize(given[kept])
        if (keys < 0).any():
            raise ValueError(f"{(keys < 0).sum()} rows have a value but no cluster")
        return cls(numbers[kept], keys, pd.Index(names), kept, int((~kept).sum()))

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def n_clusters(self) -> int:
        return len(self.names)

    def sum(self, column: Floats) -> Floats:
        """Sum of a column by cluster."""
        return np.bincount(self.keys, column, minlength=self.n_clusters).astype(float)

    def means(self) -> pd.Series:
        """Mean of the values by cluster, under the clusters' names."""
        return pd.Series(self.sum(self.values) / self.sum(np.ones(self.n)), index=self.names)

    def undefined(self, method: str) -> Estimate:
        return Estimate(
            math.nan, math.nan, math.nan, self.n, self.n_clusters, method, self.n_undefined
        )


def join_groups(
    a: ArrayLike, b: ArrayLike, clusters_a: ArrayLike | None, clusters_b: ArrayLike | None
) -> tuple[Rows, Rows]:
    if (clusters_a is None) != (clusters_b is None):
        raise ValueError("give the clusters of both groups, or of neither")
    return Rows.of(a, clusters_a), Rows.of(b, clusters_b)


def _join(a: Rows, b: Rows) -> tuple[Rows, list[NDArray[np.intp]]]:
    """Both groups' rows over the union of their clusters, and the strata that are drawn apart.

    Groups that share clusters are one stratum: one cluster that only one group has must not cost the interval.
    """
    if isinstance(a.names, pd.RangeIndex) and isinstance(b.names, pd.RangeIndex):
        b = b._replace(names=pd.RangeIndex(a.n_clusters, a.n_clusters + b.n_clusters))
    names = a.names.union(b.names, sort=False)
    keys = np.concatenate([names.get_indexer(a.names)[a.keys], names.get_indexer(b.names)[b.keys]])
    in_a, in_b = names.isin(a.names), names.isin(b.names)
    parts = (np.ones(len(names), bool),) if (in_a & in_b).any() else (in_a, in_b)
    strata = [np.flatnonzero(part) for part in parts]
    values = np.concatenate([a.values, b.values])
    undefined = a.n_undefined + b.n_undefined
    return Rows(values, keys, names, np.ones(len(values), bool), undefined), strata


def ratio_of_sums(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def difference_estimate(
    a: Rows, b: Rows, weights: Floats | float = 1.0, **options: Any
) -> Estimate:
    """Difference of the weighted means of two groups; `weights` are those of a's rows, then of b's."""
    joined, strata = _join(a, b)
    in_b = np.repeat([0.0, 1.0], [a.n, b.n])
    weight_a, weight_b = weights * (1 - in_b), weights * in_b
    columns = [joined.values * weight_a, weight_a, joined.values * weight_b, weight_b]
    return sums_estimate(_difference_of_ratios, joined, columns, strata=strata, **options)


def _difference_of_ratios(sums: Floats) -> Floats:
    return ratio_of_sums(sums[..., :2]) - ratio_of_sums(sums[..., 2:])


def sums_estimate(
    of_sums: Callable[[Floats], Floats], rows: Rows, columns: Sequence[Floats], **options: Any
) -> Estimate:
    """Estimate of a statistic that depends on sums only: the draws then cost one matrix product."""
    table = (
        np.stack([rows.sum(column) for column in columns], axis=1)
        if rows.n
        else np.zeros((0, len(columns)))
    )
    return interval_estimate(
        lambda counts: of_sums(counts @ table), rows, width=max(rows.n_clusters, 1), **options
    )


def interval_estimate(
    of_counts: Callable[[Floats], Floats],
    rows: Rows,
    *,
    width: int,
    strata: Sequence[NDArray[np.intp]] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Expanded percentile interval of `of_counts`, a function of how often each cluster was drawn."""
    method = "cluster bootstrap"
    if not rows.n:
        return rows.undefined(method)
    strata = [part for part in strata or [np.arange(rows.n_clusters)] if len(part)]
    value = float(of_counts(np.ones((1, rows.n_clusters)))[0])
    smallest = min(len(part) for part in strata)
    if smallest < 2 or math.isnan(value):
        return rows.undefined(method)._replace(value=value)
    rng = np.random.default_rng(seed)
    drawn = []
    step = max(1, _CHUNK // width)
    for first in range(0, resamples, step):
        counts = np.zeros((min(step, resamples - first), rows.n_clusters))
        for part in strata:
            counts[:, part] = rng.multinomial(
                len(part), np.full(len(part), 1 / len(part)), size=len(counts)
            )
        drawn.append(of_counts(counts))
    draws = np.concatenate(drawn)
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return rows.undefined(method)._replace(value=value)
    tail = _expanded_tail(level, [len(part) for part in strata])
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(
        value, float(low), float(high), rows.n, rows.n_clusters, method, rows.n_undefined
    )


def _expanded_tail(level: float, sizes: Sequence[int]) -> float:
    """Tail probability at which the bootstrap's quantiles are read, so that few clusters are not overrated.

    Several strata have Satterthwaite's degrees of freedom, for clusters of equal variance.
    """
    freedom = sum(1 / n for n in sizes) ** 2 / sum(1 / (n**2 * (n - 1)) for n in sizes)
    far = stats.t.ppf((1 + level) / 2, freedom) * math.sqrt((freedom + 1) / freedom)
    return float(stats.norm.sf(far))


def wilson(p: float, n: float, level: float) -> tuple[float, float]:
    z = float(stats.norm.ppf((1 + level) / 2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (0.0 if p == 0 else float(centre - half)), (1.0 if p == 1 else float(centre + half))
