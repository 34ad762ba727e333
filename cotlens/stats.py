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


# --- one group -------------------------------------------------------------------------------------------------


def mean(values: ArrayLike, clusters: ArrayLike | None = None, **options: Any) -> Estimate:
    """Mean over rows, sum(values) / n, with a cluster bootstrap interval.

    Args:
        values: one number a row; NaN is left out.
        clusters: one key a row; without it every row is a cluster.
        **options: `level` (0.95), `resamples` (2000), `seed` (0).
    """
    rows = _Rows.of(values, clusters)
    return _sums_estimate(_ratio, rows, [rows.values, np.ones(rows.n)], **options)


def ratio(numerator: ArrayLike, denominator: ArrayLike, clusters: ArrayLike | None = None, **options: Any) -> Estimate:
    """Ratio of sums, sum(numerator) / sum(denominator): reflections per token, say, with long traces weighing more.

    Rows where either is NaN are left out. Options as in `mean`.
    """
    numerator, denominator = np.asarray(numerator, float), np.asarray(denominator, float)
    rows = _Rows.of(numerator + denominator, clusters)
    return _sums_estimate(_ratio, rows, [numerator[rows.kept], denominator[rows.kept]], **options)


def proportion(flags: ArrayLike, clusters: ArrayLike | None = None, *, level: float = 0.95) -> Estimate:
    """Share of rows that are true, with Wilson's interval at the effective sample size.

    Unlike a bootstrap it stays honest when nothing, or everything, is true. Clustered rows count as
    n_eff = p (1 - p) / Var(p) rows, with the between-cluster variance of the ratio estimator, times (z / t)^2 for the
    few clusters that this variance rests on (Korn and Graubard 1998, Survey Methodology 24(2)). n_eff is at most the
    number of rows n, and at least n^2 / sum(n_i^2), the value if the n_i rows of each cluster were alike; that is taken
    where p is 0 or 1, and less one it gives t its degrees of freedom. With one row a cluster it is Wilson's interval.
    """
    rows = _Rows.of(flags, clusters)
    if len(wrong := rows.values[~np.isin(rows.values, (0, 1))]):
        raise ValueError(f"flags must be true, false or missing, got {wrong[0]:g}")
    if not rows.n:
        return rows.undefined("wilson")
    p = float(rows.values.mean())
    if rows.n_clusters < min(rows.n, 2):
        return rows.undefined("wilson")._replace(value=p)
    low, high = _wilson(p, _effective_n(rows, level), level)
    return Estimate(p, low, high, rows.n, rows.n_clusters, "wilson", rows.n_undefined)


def _effective_n(rows: "_Rows", level: float) -> float:
    """The number of independent rows that flags in clusters are worth: see `proportion`."""
    if rows.n_clusters == rows.n:
        return float(rows.n)
    p, sums, sizes = float(rows.values.mean()), rows.sum(rows.values), rows.sum(np.ones(rows.n))
    residual = sums - p * sizes
    variance = (residual @ residual) * rows.n_clusters / (rows.n_clusters - 1) / rows.n**2
    least = rows.n**2 / (sizes @ sizes)
    n_eff = least if p in (0, 1) else min(max(p * (1 - p) / max(variance, 1e-300), least), rows.n)
    freedom = max(least - 1, 0.5)  # clusters of equal size have n_clusters - 1; a dominant one leaves next to none
    quantiles = stats.norm.ppf((1 + level) / 2), stats.t.ppf((1 + level) / 2, freedom)
    return float(n_eff * (quantiles[0] / quantiles[1]) ** 2)


def quantile(values: ArrayLike, q: float, clusters: ArrayLike | None = None, **options: Any) -> Estimate:
    """The q-quantile over rows: the inverse of the distribution function (Hyndman and Fan's type 1). As `mean`."""
    if not 0 < q <= 1:
        raise ValueError(f"q must lie in (0, 1], got {q}")
    rows = _Rows.of(values, clusters)
    order = np.argsort(rows.values, kind="stable")
    ranked, keys = rows.values[order], rows.keys[order]

    def of_counts(counts: Floats) -> Floats:
        cumulative = np.cumsum(counts[:, keys], axis=1)
        reached = cumulative >= q * cumulative[:, -1:] - 1e-9
        return ranked[np.argmax(reached, axis=1)]

    return _estimate(of_counts, rows, width=max(rows.n, 1), **options)


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
        raise ValueError(f"expected at least one bin and no missing position, got {bins} and {np.isnan(at).sum()}")
    if not ((at >= 0) & (at <= 1)).all():
        raise ValueError(f"position must lie in [0, 1], got {at.min()} to {at.max()}")
    rows = _Rows.of(values, clusters)
    bin_of = np.minimum((at[rows.kept] * bins).astype(int), bins - 1)
    results = []
    for number in range(bins):
        part = _Rows.of(rows.values[bin_of == number], rows.keys[bin_of == number])
        if share:
            estimate = proportion(part.values, part.keys)
        else:
            estimate = _sums_estimate(_ratio, part, [part.values, np.ones(part.n)], **options)
        results.append({"position": (number + 0.5) / bins, **estimate._asdict()})
    return pd.DataFrame(results).drop(columns=["method", "n_undefined"])


# --- two groups ------------------------------------------------------------------------------------------------


def difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters_a: ArrayLike | None = None,
    clusters_b: ArrayLike | None = None,
    **options: Any,
) -> Estimate:
    """mean(a) - mean(b), paired through the clusters that both groups share.

    A drawn prompt brings the rows of both groups with it, so what prompts have in common cancels. Groups that share no
    cluster, or are given without clusters, are independent: each group's clusters are drawn apart. `n` and
    `n_clusters` count both groups, a shared cluster once. Options as in `mean`.
    """
    return _difference_estimate(*_both(a, b, clusters_a, clusters_b), **options)


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    clusters_a: ArrayLike | None = None,
    clusters_b: ArrayLike | None = None,
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> float:
    """Two-sided p-value of no difference between the groups, exchanging whole clusters.

    With shared clusters only those are used: the statistic is the mean over clusters of the difference of the groups'
    means, and signs are flipped. Otherwise clusters are dealt to the groups anew and the statistic is the difference of
    the means of cluster means. p = (1 + draws at least as far from 0) / (1 + resamples), never 0 (Phipson and Smyth
    2010). NaN where there is nothing to exchange: no cluster, or a single shared one.
    """
    rows_a, rows_b = _both(a, b, clusters_a, clusters_b)
    means_a, means_b = rows_a.means(), rows_b.means()
    rng = np.random.default_rng(seed)
    paired = clusters_a is not None and clusters_b is not None
    shared = means_a.index.intersection(means_b.index) if paired else ()
    # Sums of the same numbers in another order differ in the last digit: such draws are ties.
    tie = 1e-12 * max(np.abs(means_a).max(), np.abs(means_b).max()) if len(means_a) and len(means_b) else 0.0
    if len(shared) == 1:
        return math.nan
    if len(shared):
        deltas = means_a.reindex(shared).to_numpy() - means_b.reindex(shared).to_numpy()
        observed = abs(deltas.mean())
        drawn = np.concatenate(
            [np.abs(rng.choice([-1.0, 1.0], size=(k, len(deltas))) @ deltas) for k in _portions(resamples, len(deltas))]
        ) / len(deltas)
    elif len(means_a) and len(means_b):
        pooled = np.concatenate([means_a, means_b])
        n_a = len(means_a)
        observed = abs(pooled[:n_a].mean() - pooled[n_a:].mean())
        parts = []
        for k in _portions(resamples, len(pooled)):
            shuffled = rng.permuted(np.broadcast_to(pooled, (k, len(pooled))), axis=1)
            parts.append(np.abs(shuffled[:, :n_a].mean(1) - shuffled[:, n_a:].mean(1)))
        drawn = np.concatenate(parts)
    else:
        return math.nan
    return float((1 + (drawn >= observed - tie).sum()) / (1 + resamples))


def _portions(total: int, width: int) -> list[int]:
    """Numbers of draws of `width` entries that are made at once, so that memory stays small."""
    step = max(1, _CHUNK // max(width, 1))
    return [min(step, total - first) for first in range(0, total, step)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of a family of tests, in the order given; NaN stays NaN and does not count."""
    p = np.asarray(p_values, float)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    adjusted, running = np.full(len(p), np.nan), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return adjusted.tolist()


def hedges_g(a: ArrayLike, b: ArrayLike) -> float:
    """Difference of means in pooled standard deviations, with Hedges' correction J = 1 - 3 / (4 (n_a + n_b) - 9)."""
    x, y = _Rows.of(a, None).values, _Rows.of(b, None).values
    if len(x) < 2 or len(y) < 2:
        return math.nan
    pooled = math.sqrt(((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / (len(x) + len(y) - 2))
    some = pooled > 1e-12 * max(np.abs(x).max(), np.abs(y).max())  # else the spread is rounding
    return float((x.mean() - y.mean()) / pooled * (1 - 3 / (4 * (len(x) + len(y)) - 9))) if some else math.nan


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """P(a > b) - P(a < b) for one row of each group drawn at random: -1 to 1, 0 for no difference (Cliff 1993)."""
    x, y = _Rows.of(a, None).values, _Rows.of(b, None).values
    if not len(x) or not len(y):
        return math.nan
    ranked = np.sort(y)
    below, not_above = np.searchsorted(ranked, x, "left"), np.searchsorted(ranked, x, "right")
    return float((below + not_above - len(y)).sum() / (len(x) * len(y)))


# --- confounds -------------------------------------------------------------------------------------------------


def compare(
    table: pd.DataFrame,
    value: str,
    a: str,
    b: str,
    *,
    by: str = "method",
    length: str = "n_think_chars",
    outcome: str = "status",
    cluster: str = "prompt_id",
    truth: str = "",
    **options: Any,
) -> pd.DataFrame:
    """Difference of the mean of a column between two groups, raw, at equal length, and within each outcome.

    Refusals are short and arms write at different lengths, so a raw difference may be one of length or of how often the
    arm refuses. *Length-matched*: rows fall into bins a factor of 2^(1/2) of `length` wide; within a bin both groups
    get the weight of the smaller one, and bins with one group only are dropped (coarsened exact matching, Iacus, King
    and Porro 2012). *Within an outcome*: only rows with that outcome.

    Args:
        table: one row a trace.
        value: the column compared; NaN is left out.
        a: name of the first group in column `by`; the difference is a - b.
        b: name of the second group.
        by: column of the group.
        length: column of the length to match.
        outcome: column whose values are compared apart.
        cluster: column of the cluster.
        truth: where `value` is what a detector said (0 or 1), a column with what a judge or a person said; it may be
            missing in most rows.
        **options: as in `mean`.

    The interval of the matched difference holds the weights fixed.

    *Corrected*: training may merely drop the words that a detector keys on. Where `value` holds only 0 and 1 this row
    compares the rates corrected for the detector's errors, measured against `truth` in each group on its own
    (`corrected_rate`; the interval joins those of the two rates, Zou and Donner 2008). Without a truth it is NaN: the
    raw difference is then one of what the detector recognises.

    Returns:
        One row per comparison ("raw", "length-matched", "outcome = x", "corrected"): value, low, high, n_a, n_b,
        n_shared (clusters that both groups have: 0 means that nothing was paired); with a truth also `precision_a`,
        `recall_a`, `precision_b` and `recall_b` of the detector.
    """
    missing = [name for name in (value, by, length, outcome, cluster, *([truth] * bool(truth))) if name not in table]
    if missing:
        raise ValueError(f"no column {', '.join(missing)}; the table has {', '.join(map(str, table))}")
    rows = table[table[value].notna() & table[by].isin([a, b])]
    if set(rows[by]) != {a, b}:
        raise ValueError(f"expected rows of {a!r} and {b!r} in {by}, got {sorted(set(table[by]))}")
    parts = [("raw", rows, None), ("length-matched", *_matched(rows, by, length, a, b))]
    parts += [(f"{outcome} = {key}", part, None) for key, part in rows.groupby(outcome, sort=True)]
    results = []
    for name, part, weights in parts:
        first, second = part[by] == a, part[by] == b
        clusters_a, clusters_b = part.loc[first, cluster], part.loc[second, cluster]
        estimate = _weighted_difference(part, value, first.to_numpy(), cluster, weights, options)
        shared = len(set(clusters_a) & set(clusters_b))
        results.append(
            {
                "comparison": name,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "n_a": int(first.sum()),
                "n_b": int(second.sum()),
                "n_shared": shared,
            }
        )
    if not rows[value].isin([0, 1]).all():
        return pd.DataFrame(results)
    of_both = [rows[rows[by] == group] for group in (a, b)]
    counts = {name: results[0][name] for name in ("n_a", "n_b", "n_shared")}
    qualities = [detection(part[value], part[truth], part[cluster]) for part in of_both] if truth else []
    flags = [(part[value], part[cluster]) for part in of_both]
    found = pd.DataFrame([*results, {"comparison": "corrected", **_corrected(flags, qualities), **counts}])
    for name, quality in zip("ab", qualities, strict=False):
        found[[f"precision_{name}", f"recall_{name}"]] = quality.precision.value, quality.recall.value
    return found


def _corrected(flags: Sequence[tuple[ArrayLike, ArrayLike]], qualities: "Sequence[Detection]") -> dict[str, float]:
    """The difference of two rates, each corrected for the errors that the detector makes in its own group."""
    if not qualities or not all(quality.positives and quality.negatives for quality in qualities):
        return {"value": math.nan, "low": math.nan, "high": math.nan}
    x, y = (corrected_rate(*own, **quality.counts) for own, quality in zip(flags, qualities, strict=True))
    difference = x.value - y.value
    return {
        "value": difference,
        "low": difference - math.hypot(x.value - x.low, y.high - y.value),
        "high": difference + math.hypot(x.high - x.value, y.value - y.low),
    }


def _matched(rows: pd.DataFrame, by: str, length: str, a: str, b: str) -> tuple[pd.DataFrame, Floats]:
    """Rows in length bins that both groups have, and weights that give both groups the same lengths."""
    rows = rows[rows[length].notna()]
    bins = np.floor(2 * np.log2(rows[length].to_numpy(float) + 1)).astype(int)
    counts = pd.crosstab(bins, rows[by].to_numpy()).reindex(columns=[a, b], fill_value=0)
    smaller = counts.min(axis=1)
    weight_of = {group: (smaller / counts[group]).fillna(0).to_dict() for group in (a, b)}
    weights = np.array([weight_of[group][bin_] for group, bin_ in zip(rows[by], bins, strict=True)])
    return rows[weights > 0], weights[weights > 0]


def _weighted_difference(
    part: pd.DataFrame,
    value: str,
    first: NDArray[np.bool_],
    cluster: str,
    weights: Floats | None,
    options: dict[str, Any],
) -> Estimate:
    values, names = part[value].to_numpy(float), part[cluster].to_numpy()
    w = np.ones(len(values)) if weights is None else weights
    rows_a, rows_b = _Rows.of(values[first], names[first]), _Rows.of(values[~first], names[~first])
    if not rows_a.n or not rows_b.n:
        return rows_a.undefined("cluster bootstrap")
    return _difference_estimate(rows_a, rows_b, np.concatenate([w[first], w[~first]]), **options)


# --- judges and detectors --------------------------------------------------------------------------------------


class Agreement(NamedTuple):
    """How far two judges agree on the same items.

    Attributes:
        kappa: Cohen's kappa: agreement beyond what the judges' own rates of each label would give.
        ac1: Gwet's AC1: the same with chance taken from the mean rates; it does not collapse when one label is rare.
        table: items by label of the first judge (rows) and of the second (columns).
    """

    kappa: Estimate
    ac1: Estimate
    table: pd.DataFrame


def agreement(a: Sequence[Any], b: Sequence[Any], clusters: ArrayLike | None = None, **options: Any) -> Agreement:
    """Agreement of two judges, with intervals over clusters.

    kappa = (o - e) / (1 - e) with o the share of equal labels and e = sum p_a(k) p_b(k) (Cohen 1960);
    AC1 the same with e = sum m_k (1 - m_k) / (K - 1), m_k the mean of the two rates (Gwet 2008).
    Items that either judge left out (None, NaN) are left out and counted; a label such as "undecided" is a label like
    any other unless it is made missing first. Where every resample gives the same value there is no interval (NaN).

    Args:
        a: one label per item.
        b: likewise, by the other judge.
        clusters: one key per item.
        **options: as in `mean`.

    Raises:
        ValueError: if the judges judged different numbers of items, or used fewer than two labels between them.
    """
    first, second = pd.Series(list(a), dtype=object), pd.Series(list(b), dtype=object)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} labels and {len(second)}: both judges must judge the same items")
    known = (first.notna() & second.notna()).to_numpy()
    labels = sorted({*first[known], *second[known]}, key=str)
    k = len(labels)
    if k < 2:
        raise ValueError(f"agreement needs two labels or more, got {labels}")
    place = {label: i for i, label in enumerate(labels)}
    cell = np.array([place[x] * k + place[y] for x, y in zip(first[known], second[known], strict=True)])
    values = np.where(known, 1.0, np.nan)
    rows = _Rows.of(values, clusters)
    columns = [(cell == number).astype(float) for number in range(k * k)]

    def estimate(chance: Callable[[Floats, Floats], Floats]) -> Estimate:
        def beyond(sums: Floats) -> Floats:
            with np.errstate(invalid="ignore", divide="ignore"):
                shares = (sums / sums.sum(-1, keepdims=True)).reshape(*sums.shape[:-1], k, k)
                observed = np.trace(shares, axis1=-2, axis2=-1)
                expected = chance(shares.sum(-1), shares.sum(-2))
                return (observed - expected) / (1 - expected)

        found = _sums_estimate(beyond, rows, columns, **options)
        return found._replace(low=math.nan, high=math.nan) if found.low == found.high else found

    def gwet(p: Floats, q: Floats) -> Floats:
        return ((p + q) / 2 * (1 - (p + q) / 2)).sum(-1) / (k - 1)

    counts = np.array([column.sum() for column in columns]).reshape(k, k).astype(int)
    table = pd.DataFrame(counts, index=labels, columns=labels)
    return Agreement(estimate(lambda p, q: (p * q).sum(-1)), estimate(gwet), table)


class Detection(NamedTuple):
    """How well a detector finds what a judge or a person says is there.

    Attributes:
        precision: of what the detector found, the share that is there.
        recall: of what is there, the share that it found (sensitivity).
        true_positives: of the `positives` that are there, those it found.
        positives: items that are there.
        true_negatives: of the `negatives`, those it left alone.
        negatives: items that are not there.
    """

    precision: Estimate
    recall: Estimate
    true_positives: int
    positives: int
    true_negatives: int
    negatives: int

    @property
    def counts(self) -> dict[str, int]:
        """The four counts, as `corrected_rate` takes them."""
        return {name: getattr(self, name) for name in self._fields[2:]}


def detection(flags: ArrayLike, truth: ArrayLike, clusters: ArrayLike | None = None) -> Detection:
    """Precision and recall of a detector, with intervals over clusters.

    Args:
        flags: what the detector said, one per item; missing is left out.
        truth: what is there; missing is left out.
        clusters: one key per item.
    """
    said, there = (pd.Series(pd.array(list(x), dtype="boolean")) for x in (flags, truth))  # type: ignore[arg-type]
    if len(said) != len(there):
        raise ValueError(f"{len(said)} flags and {len(there)} truths: expected one of each per item")
    known = (said.notna() & there.notna()).to_numpy(bool)
    keys = np.arange(len(said)) if clusters is None else np.asarray(clusters, dtype=object)
    found, real, keys = said[known].to_numpy(bool), there[known].to_numpy(bool), keys[known]
    return Detection(
        proportion(real[found], keys[found]),
        proportion(found[real], keys[real]),
        int((found & real).sum()),
        int(real.sum()),
        int((~found & ~real).sum()),
        int((~real).sum()),
    )


def corrected_rate(
    flags: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    true_positives: int,
    positives: int,
    true_negatives: int,
    negatives: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The rate that a detector would have found had it made no errors (Rogan and Gladen 1978), within [0, 1].

    rate = (p + specificity - 1) / (sensitivity + specificity - 1). The interval draws p (at the effective sample
    size of `proportion`), sensitivity and specificity from their posteriors under Jeffreys' prior: errors that were
    measured on few items cost width.
    It holds if the detector errs on these items as it did where it was measured; a checkpoint's own text may differ.

    Args:
        flags: what the detector said, one per item; NaN is left out.
        clusters: one key per item.
        true_positives: of the `positives` that the detector was tried on, those it found.
        positives: see above.
        true_negatives: of the `negatives` that it was tried on, those it left alone.
        negatives: see above.
        level: of the interval.
        resamples: draws.
        seed: of the draws.

    Returns:
        The estimate; NaN where the detector is no better than chance.
    """
    if not (0 <= true_positives <= positives and 0 <= true_negatives <= negatives and positives and negatives):
        raise ValueError("expected counts with 0 <= true positives <= positives, and likewise for negatives")
    rows = _Rows.of(flags, clusters)
    method = "posterior draws, corrected for errors"
    found = proportion(flags, clusters, level=level)
    informed = true_positives / positives + true_negatives / negatives - 1
    if not rows.n or informed <= 0 or math.isnan(found.low):
        return rows.undefined(method)

    def correct(p: Any, sensitivity: Any, specificity: Any) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.clip((p + specificity - 1) / (sensitivity + specificity - 1), 0, 1)

    value = correct(rows.values.mean(), true_positives / positives, true_negatives / negatives)
    rng = np.random.default_rng(seed)
    p, n_eff = found.value, _effective_n(rows, level)
    drawn = rng.beta(p * n_eff + 0.5, (1 - p) * n_eff + 0.5, resamples)
    sensitivity = rng.beta(true_positives + 0.5, positives - true_positives + 0.5, resamples)
    specificity = rng.beta(true_negatives + 0.5, negatives - true_negatives + 0.5, resamples)
    usable = sensitivity + specificity > 1
    draws = correct(drawn, sensitivity, specificity)[usable]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), float(low), float(high), rows.n, rows.n_clusters, method, rows.n_undefined)


# --- how it is done --------------------------------------------------------------------------------------------


class _Rows(NamedTuple):
    """The rows that have a value, and their clusters as numbers from 0."""

    values: Floats
    keys: NDArray[np.intp]
    names: pd.Index
    kept: NDArray[np.bool_]
    n_undefined: int

    @classmethod
    def of(cls, values: ArrayLike, clusters: ArrayLike | None) -> "_Rows":
        numbers = np.array([np.nan if value is None or value is pd.NA else value for value in np.ravel(values)], float)
        if np.isinf(numbers).any():
            raise ValueError("an infinite value has no mean; leave it out, or mark it as missing (NaN)")
        kept = ~np.isnan(numbers)
        if clusters is None:
            names = pd.RangeIndex(int(kept.sum()))
            return cls(numbers[kept], np.arange(kept.sum()), names, kept, int((~kept).sum()))
        given = np.asarray(clusters)
        if len(given) != len(numbers):
            raise ValueError(f"{len(numbers)} values but {len(given)} clusters: they must be parallel")
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
        return Estimate(math.nan, math.nan, math.nan, self.n, self.n_clusters, method, self.n_undefined)


def _both(
    a: ArrayLike, b: ArrayLike, clusters_a: ArrayLike | None, clusters_b: ArrayLike | None
) -> tuple[_Rows, _Rows]:
    if (clusters_a is None) != (clusters_b is None):
        raise ValueError("give the clusters of both groups, or of neither")
    return _Rows.of(a, clusters_a), _Rows.of(b, clusters_b)


def _join(a: _Rows, b: _Rows) -> tuple[_Rows, list[NDArray[np.intp]]]:
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
    return _Rows(values, keys, names, np.ones(len(values), bool), undefined), strata


def _ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def _difference_estimate(a: _Rows, b: _Rows, weights: Floats | float = 1.0, **options: Any) -> Estimate:
    """Difference of the weighted means of two groups; `weights` are those of a's rows, then of b's."""
    joined, strata = _join(a, b)
    in_b = np.repeat([0.0, 1.0], [a.n, b.n])
    weight_a, weight_b = weights * (1 - in_b), weights * in_b
    columns = [joined.values * weight_a, weight_a, joined.values * weight_b, weight_b]
    return _sums_estimate(_difference_of_ratios, joined, columns, strata=strata, **options)


def _difference_of_ratios(sums: Floats) -> Floats:
    return _ratio(sums[..., :2]) - _ratio(sums[..., 2:])


def _sums_estimate(
    of_sums: Callable[[Floats], Floats], rows: _Rows, columns: Sequence[Floats], **options: Any
) -> Estimate:
    """Estimate of a statistic that depends on sums only: the draws then cost one matrix product."""
    table = np.stack([rows.sum(column) for column in columns], axis=1) if rows.n else np.zeros((0, len(columns)))
    return _estimate(lambda counts: of_sums(counts @ table), rows, width=max(rows.n_clusters, 1), **options)


def _estimate(
    of_counts: Callable[[Floats], Floats],
    rows: _Rows,
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
            counts[:, part] = rng.multinomial(len(part), np.full(len(part), 1 / len(part)), size=len(counts))
        drawn.append(of_counts(counts))
    draws = np.concatenate(drawn)
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return rows.undefined(method)._replace(value=value)
    tail = _expanded_tail(level, [len(part) for part in strata])
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), rows.n, rows.n_clusters, method, rows.n_undefined)


def _expanded_tail(level: float, sizes: Sequence[int]) -> float:
    """Tail probability at which the bootstrap's quantiles are read, so that few clusters are not overrated.

    Several strata have Satterthwaite's degrees of freedom, for clusters of equal variance.
    """
    freedom = sum(1 / n for n in sizes) ** 2 / sum(1 / (n**2 * (n - 1)) for n in sizes)
    far = stats.t.ppf((1 + level) / 2, freedom) * math.sqrt((freedom + 1) / freedom)
    return float(stats.norm.sf(far))


def _wilson(p: float, n: float, level: float) -> tuple[float, float]:
    z = float(stats.norm.ppf((1 + level) / 2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (0.0 if p == 0 else float(centre - half)), (1.0 if p == 1 else float(centre + half))
