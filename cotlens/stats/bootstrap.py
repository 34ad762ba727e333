"""Estimate, and the cluster bootstrap that gives most of its intervals.

Traces of one prompt resemble each other, and so do the steps and tokens of one trace. The intervals
therefore resample whole clusters (prompts), never rows. This file works on plain arrays: values,
and for each value its cluster.

The interval: clusters are drawn with replacement, the statistic is computed for each draw, and its
quantiles are the limits. For few clusters the plain quantiles are too narrow, so they are taken
further out, by the factor that makes the interval of a mean of normal data equal Student's
(expanded percentile interval, Hesterberg 2015, The American Statistician 69(4), section 5.3).
Samples within a drawn prompt are kept as they are. Drawing them again as well counts their noise
twice and widens the interval by up to a third when prompts differ little (docs/statistics.md
measures it).

Undefined is NaN: rows whose value is NaN are left out and counted in `n_undefined`. A statistic of
nothing is NaN, and so is an interval from fewer than two clusters. With two to ten clusters
intervals exist and are too narrow (docs/statistics.md says by how much); every estimate carries
`n_clusters`, so that this can be seen.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.intp]
RESAMPLES = 2000
_METHOD = "cluster bootstrap"
_CHUNK = 4_000_000  # entries of the matrix of draws, if all of it is held at once
_PIECE = 1_000_000  # else: entries of the part of it that is held
_MANY = 1000  # clusters from which on another way of drawing is faster


class Estimate(NamedTuple):
    """A number with its interval: what every statistic returns.

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
        interval = f"[{self.low:.4g}, {self.high:.4g}]"
        counts = f"n = {self.n:,}, {self.n_clusters:,} clusters"
        return f"{self.value:.4g} {interval} ({counts})"

    def _repr_html_(self) -> str:
        interval = f"[{self.low:.4g}, {self.high:.4g}]"
        counts = f"n = {self.n:,} in {self.n_clusters:,} clusters"
        if self.n_undefined:
            counts += f", {self.n_undefined:,} undefined"
        return f"<b>{self.value:.4g}</b> {interval} <small>{counts}; {self.method}</small>"


class ClusteredRows(NamedTuple):
    """The rows that have a value, and the cluster of each.

    Attributes:
        values: one number per row, none of them NaN.
        cluster_of: number of each row's cluster, from 0.
        cluster_names: the cluster's key by its number; a RangeIndex where every row is its own
            cluster.
        has_value: for each row as it was given, whether it is among `values`.
        n_undefined: rows that were left out because their value is NaN.
    """

    values: Floats
    cluster_of: Indices
    cluster_names: pd.Index
    has_value: Flags
    n_undefined: int

    @classmethod
    def from_arrays(cls, values: ArrayLike, clusters: ArrayLike | None) -> "ClusteredRows":
        """The rows of `values` that are not missing (None, NaN, pd.NA).

        Args:
            values: one number or flag per row.
            clusters: one key per row; None makes every row its own cluster.

        Raises:
            ValueError: for an infinite value, for clusters of another length, or for a value
                without a cluster.
        """
        flat = np.ravel(values)
        numbers = np.where(pd.isna(flat), np.nan, flat).astype(float)
        if np.isinf(numbers).any():
            raise ValueError(
                "an infinite value has no mean; leave it out, or mark it as missing (NaN)"
            )

        has_value = ~np.isnan(numbers)
        n = int(has_value.sum())
        if clusters is None:
            cluster_of = np.arange(n)
            names = pd.RangeIndex(n)
        else:
            cluster_of, names = cls._number_clusters(clusters, has_value)

        return cls(
            values=numbers[has_value],
            cluster_of=cluster_of,
            cluster_names=names,
            has_value=has_value,
            n_undefined=len(numbers) - n,
        )

    @staticmethod
    def _number_clusters(clusters: ArrayLike, has_value: Flags) -> tuple[Indices, pd.Index]:
        """The number of the cluster of each row that has a value, and the clusters' keys."""
        keys = np.asarray(clusters)
        if len(keys) != len(has_value):
            raise ValueError(
                f"{len(has_value)} values but {len(keys)} clusters: expected one cluster per value"
            )

        # pandas gives a missing key the number -1.
        cluster_of, names = pd.factorize(keys[has_value])
        n_without = (cluster_of < 0).sum()
        if n_without:
            raise ValueError(
                f"{n_without} rows have a value but no cluster; drop them or name their cluster"
            )
        return cluster_of, pd.Index(names)

    @property
    def n(self) -> int:
        """The number of rows."""
        return len(self.values)

    @property
    def n_clusters(self) -> int:
        """The number of clusters."""
        return len(self.cluster_names)

    def sum(self, column: Floats) -> Floats:
        """Sum of a column by cluster."""
        sums = np.bincount(self.cluster_of, column, minlength=self.n_clusters)
        return sums.astype(float)

    def estimate(
        self, method: str, value: float = math.nan, low: float = math.nan, high: float = math.nan
    ) -> Estimate:
        """The estimate with the counts of these rows; what is not given is undefined."""
        return Estimate(
            value=value,
            low=low,
            high=high,
            n=self.n,
            n_clusters=self.n_clusters,
            method=method,
            n_undefined=self.n_undefined,
        )


def bootstrap_difference(
    a: ClusteredRows, b: ClusteredRows, weights: Floats | float = 1.0, **options: Any
) -> Estimate:
    """Difference of the weighted means of two groups, paired through the clusters they share.

    Args:
        a: rows of the first group.
        b: rows of the second group, which is subtracted.
        weights: one per row, those of `a` before those of `b`.
        **options: as in `bootstrap_estimate`.
    """
    joined, strata = _join(a, b)
    in_b = np.repeat([0.0, 1.0], [a.n, b.n])
    weight_a = weights * (1 - in_b)
    weight_b = weights * in_b

    columns = [
        joined.values * weight_a,
        weight_a,
        joined.values * weight_b,
        weight_b,
    ]
    return bootstrap_sums(
        _difference_of_ratios,
        joined,
        columns,
        strata=strata,
        **options,
    )


def _join(a: ClusteredRows, b: ClusteredRows) -> tuple[ClusteredRows, list[Indices]]:
    """The rows of both groups over the union of their clusters, and the strata to draw separately.

    Groups that share any cluster form one stratum, so a cluster that only one group has does not
    cost the interval.
    """
    names_a = a.cluster_names
    names_b = b.cluster_names

    # Rows without clusters have numbers for names; b's continue a's, so that none is shared.
    if isinstance(names_a, pd.RangeIndex) and isinstance(names_b, pd.RangeIndex):
        n_both = a.n_clusters + b.n_clusters
        names_b = pd.RangeIndex(a.n_clusters, n_both)

    # Renumber the clusters of both groups.
    names = names_a.union(names_b, sort=False)
    cluster_of_a = names.get_indexer(names_a)[a.cluster_of]
    cluster_of_b = names.get_indexer(names_b)[b.cluster_of]

    joined = ClusteredRows(
        values=np.concatenate([a.values, b.values]),
        cluster_of=np.concatenate([cluster_of_a, cluster_of_b]),
        cluster_names=names,
        has_value=np.ones(a.n + b.n, bool),
        n_undefined=a.n_undefined + b.n_undefined,
    )

    # One stratum if they share a cluster, else one per group.
    in_a = names.isin(names_a)
    in_b = names.isin(names_b)
    if (in_a & in_b).any():
        strata = [np.arange(len(names))]
    else:
        strata = [np.flatnonzero(in_a), np.flatnonzero(in_b)]
    return joined, strata


def _difference_of_ratios(sums: Floats) -> Floats:
    """Ratio of the first two sums less ratio of the last two, along the last axis."""
    ratio_a = ratio_of_sums(sums[..., :2])
    ratio_b = ratio_of_sums(sums[..., 2:])
    return ratio_a - ratio_b


def ratio_of_sums(sums: Floats) -> Floats:
    """First sum over second, along the last axis; NaN for 0 / 0."""
    numerator = sums[..., 0]
    denominator = sums[..., 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return numerator / denominator


def bootstrap_sums(
    statistic: Callable[[Floats], Floats],
    rows: ClusteredRows,
    columns: Sequence[Floats],
    **options: Any,
) -> Estimate:
    """Estimate of a statistic of sums of columns; the draws then cost one matrix product.

    Args:
        statistic: takes sums, (draws, columns), and returns one value per draw.
        rows: the rows that the columns belong to.
        columns: numbers per row.
        **options: as in `bootstrap_estimate`.
    """
    cluster_sums = np.zeros((rows.n_clusters, len(columns)))
    for number, column in enumerate(columns):
        cluster_sums[:, number] = rows.sum(column)

    def of_counts(counts: Floats) -> Floats:
        return statistic(counts @ cluster_sums)

    return bootstrap_estimate(
        of_counts,
        rows,
        width=max(rows.n_clusters, 1),
        **options,
    )


def bootstrap_estimate(
    statistic: Callable[[Floats], Floats],
    rows: ClusteredRows,
    *,
    width: int,
    strata: Sequence[Indices] | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Estimate of a statistic with its expanded percentile interval.

    Args:
        statistic: takes how often each cluster was drawn, (draws, clusters), and returns one value
            per draw.
        rows: the rows that the statistic is of.
        width: numbers that the statistic holds in memory per draw; it limits how many draws are
            made at once.
        strata: numbers of the clusters of each group that is drawn separately; default: all
            clusters are one group.
        level: coverage of the interval.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        The estimate. Its interval is NaN if a stratum has fewer than two clusters, or if the value
        is NaN.
    """
    if not rows.n:
        return rows.estimate(_METHOD)
    if strata is None:
        strata = [np.arange(rows.n_clusters)]
    strata = [clusters for clusters in strata if len(clusters)]
    sizes = [len(clusters) for clusters in strata]

    # Every cluster drawn once is the sample itself.
    drawn_once = np.ones((1, rows.n_clusters))
    value = float(statistic(drawn_once)[0])
    can_vary = min(sizes) >= 2
    if not can_vary or math.isnan(value):
        return rows.estimate(_METHOD, value)

    # All draws at once, or in pieces, so that memory stays small.
    if width * resamples <= _CHUNK:
        draws = statistic(_spread(_kept_counts(tuple(sizes), resamples, seed), strata))
    else:
        rng = np.random.default_rng(seed)
        piece = max(1, _PIECE // width)
        draws = np.zeros(resamples)
        for first in range(0, resamples, piece):
            stop = min(first + piece, resamples)
            counts = _draw_counts(rng, sizes, stop - first)
            draws[first:stop] = statistic(_spread(counts, strata))

    # A statistic may be undefined for some draws.
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return rows.estimate(_METHOD, value)

    tail = _expanded_tail(level, sizes)
    low, high = np.quantile(draws, [tail, 1 - tail])
    return rows.estimate(
        _METHOD,
        value=value,
        low=float(low),
        high=float(high),
    )


@lru_cache(maxsize=16)
def _kept_counts(sizes: tuple[int, ...], n_draws: int, seed: int) -> NDArray[np.integer]:
    """`_draw_counts` from the seed on, kept: figures ask for the same again and again."""
    counts = _draw_counts(np.random.default_rng(seed), sizes, n_draws)
    return counts.astype(np.min_scalar_type(counts.max()))


def _draw_counts(
    rng: np.random.Generator, sizes: Sequence[int], n_draws: int
) -> NDArray[np.integer]:
    """How often each cluster is drawn, (draws, clusters), the clusters of each stratum together.

    Each stratum is drawn to its own size.
    """
    counts = []
    for size in sizes:
        if size < _MANY:
            counts.append(rng.multinomial(size, np.full(size, 1 / size), size=n_draws))
            continue

        # Cluster by cluster; each draw counts in cells of its own.
        drawn = rng.integers(0, size, (n_draws, size))
        drawn += size * np.arange(n_draws)[:, None]
        cells = np.bincount(drawn.ravel(), minlength=n_draws * size)
        counts.append(cells.reshape(n_draws, size))
    return np.concatenate(counts, axis=1)


def _spread(counts: NDArray[np.integer], strata: Sequence[Indices]) -> Floats:
    """The counts with each cluster in its place."""
    spread = np.empty(counts.shape)
    spread[:, np.concatenate(strata)] = counts
    return spread


def _expanded_tail(level: float, sizes: Sequence[int]) -> float:
    """Widened tail probability of the percentile interval, corrected for few clusters.

    After Hesterberg (2015). Several strata have Satterthwaite's degrees of freedom, for clusters of
    equal variance.
    """
    variance = 0.0
    spread = 0.0
    for n in sizes:
        variance += 1 / n
        spread += 1 / (n**2 * (n - 1))
    freedom = variance**2 / spread

    # The bootstrap's variance is too small by a factor n / (n - 1).
    student = stdtrit(freedom, (1 + level) / 2)
    correction = (freedom + 1) / freedom
    expanded = student * math.sqrt(correction)
    return float(ndtr(-expanded))
