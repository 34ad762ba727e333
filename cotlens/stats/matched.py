"""The difference of two groups among rows of equal length."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cotlens.stats.agreement import Detection, corrected_rate, detection
from cotlens.stats.bootstrap import Estimate, Floats, Rows, difference_estimate


# --- confounds -------------------------------------------------------------------------------------------------
def matched_difference(
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
    missing = [
        name
        for name in (value, by, length, outcome, cluster, *([truth] * bool(truth)))
        if name not in table
    ]
    if missing:
        raise ValueError(
            f"no column {', '.join(missing)}; the table has {', '.join(map(str, table))}"
        )
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
    qualities = (
        [detection(part[value], part[truth], part[cluster]) for part in of_both] if truth else []
    )
    flags = [(part[value], part[cluster]) for part in of_both]
    found = pd.DataFrame(
        [*results, {"comparison": "corrected", **_corrected(flags, qualities), **counts}]
    )
    for name, quality in zip("ab", qualities, strict=False):
        found[[f"precision_{name}", f"recall_{name}"]] = (
            quality.precision.value,
            quality.recall.value,
        )
    return found


def _corrected(
    flags: Sequence[tuple[ArrayLike, ArrayLike]], qualities: "Sequence[Detection]"
) -> dict[str, float]:
    """The difference of two rates, each corrected for the errors that the detector makes in its own group."""
    if not qualities or not all(quality.positives and quality.negatives for quality in qualities):
        return {"value": math.nan, "low": math.nan, "high": math.nan}
    x, y = (
        corrected_rate(*own, **quality.counts)
        for own, quality in zip(flags, qualities, strict=True)
    )
    difference = x.value - y.value
    return {
        "value": difference,
        "low": difference - math.hypot(x.value - x.low, y.high - y.value),
        "high": difference + math.hypot(x.high - x.value, y.value - y.low),
    }


def _matched(
    rows: pd.DataFrame, by: str, length: str, a: str, b: str
) -> tuple[pd.DataFrame, Floats]:
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
    rows_a, rows_b = Rows.of(values[first], names[first]), Rows.of(values[~first], names[~first])
    if not rows_a.n or not rows_b.n:
        return rows_a.undefined("cluster bootstrap")
    return difference_estimate(rows_a, rows_b, np.concatenate([w[first], w[~first]]), **options)
