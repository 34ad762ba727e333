"""How much do two groups differ at equal length, at equal outcome, and without detection errors?"""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cotlens.stats.agreement import corrected_rate, detection
from cotlens.stats.bootstrap import ClusteredRows, Estimate, Flags, Floats, bootstrap_difference


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
    """Difference of the means of two groups: raw, at equal length, and within each outcome.

    Refusals are short and arms write at different lengths, so a raw difference may be one of
    length, or of how often the arm refuses.

    *Length-matched*: rows fall into bins of `length` whose limits grow by a factor of 2^(1/2).
    Within a bin both groups get the weight of the smaller one; bins with one group only are dropped
    (coarsened exact matching, Iacus, King and Porro 2012). The interval holds the weights fixed.

    *Within an outcome*: only rows with that outcome.

    *Corrected*: training may merely drop the words that a detector looks for. Where `value` holds
    only 0 and 1, this row compares the rates corrected for the detector's errors, measured against
    `truth` in each group separately (`corrected_rate`; the interval joins those of the two rates,
    Zou and Donner 2008). Without a truth it is NaN: the raw difference is then one of what the
    detector recognises.

    Args:
        table: one row per trace.
        value: the column compared; NaN is left out.
        a: name of the first group in column `by`; the difference is a - b.
        b: name of the second group.
        by: column of the group.
        length: column of the length to match.
        outcome: column whose values are compared separately.
        cluster: column of the cluster.
        truth: where `value` is a detector's decision (0 or 1), a column with that of a judge or a
            person; it may be missing in most rows.
        **options: as in `mean`.

    Returns:
        One row per comparison ("raw", "length-matched", "outcome = x", "corrected"): value, low,
        high, n_a, n_b, n_shared (clusters that both groups have; 0 means that nothing was paired).
        With a truth also `precision_a`, `recall_a`, `precision_b` and `recall_b` of the detector.

    Raises:
        ValueError: if the table lacks a column or a group.
    """
    needed = [value, by, length, outcome, cluster]
    if truth:
        needed.append(truth)
    missing = [name for name in needed if name not in table]
    if missing:
        columns = ", ".join(map(str, table))
        raise ValueError(f"no column {', '.join(missing)}; the table has {columns}")

    rows = table[table[value].notna() & table[by].isin([a, b])]
    if set(rows[by]) != {a, b}:
        groups = sorted(set(table[by]))
        raise ValueError(f"expected rows of {a!r} and {b!r} in {by}, got {groups}")

    # Which rows are compared: all, those of equal length, those of each outcome.
    matched_rows, matched_weights = _match_lengths(rows, by, length, a)
    comparisons = [
        ("raw", rows, np.ones(len(rows))),
        ("length-matched", matched_rows, matched_weights),
    ]
    for key, outcome_rows in rows.groupby(outcome, sort=True):
        equal_weights = np.ones(len(outcome_rows))
        comparisons.append((f"{outcome} = {key}", outcome_rows, equal_weights))

    results = []
    for name, compared, weights in comparisons:
        comparison = _weighted_difference(
            values=compared[value].to_numpy(float),
            clusters=compared[cluster].to_numpy(),
            is_a=(compared[by] == a).to_numpy(),
            weights=weights,
            options=options,
        )
        results.append({"comparison": name, **comparison})

    # Only flags have detection errors to correct.
    is_flag = rows[value].isin([0, 1]).all()
    if not is_flag:
        return pd.DataFrame(results)

    # The corrected difference rests on the rows of the raw one, and is unknown without a truth.
    corrected = {
        **results[0],
        "comparison": "corrected",
        "value": math.nan,
        "low": math.nan,
        "high": math.nan,
    }
    if not truth:
        return pd.DataFrame([*results, corrected])

    # How well the detector does in each group.
    rows_a = rows[rows[by] == a]
    detector_a = detection(
        flags=rows_a[value],
        truth=rows_a[truth],
        clusters=rows_a[cluster],
    )
    rows_b = rows[rows[by] == b]
    detector_b = detection(
        flags=rows_b[value],
        truth=rows_b[truth],
        clusters=rows_b[cluster],
    )

    is_measured_a = detector_a.positives > 0 and detector_a.negatives > 0
    is_measured_b = detector_b.positives > 0 and detector_b.negatives > 0
    if is_measured_a and is_measured_b:
        rate_a = corrected_rate(rows_a[value], rows_a[cluster], **detector_a.counts)
        rate_b = corrected_rate(rows_b[value], rows_b[cluster], **detector_b.counts)
        corrected.update(_join_intervals(rate_a, rate_b))

    comparisons_table = pd.DataFrame([*results, corrected])
    return comparisons_table.assign(
        precision_a=detector_a.precision.value,
        recall_a=detector_a.recall.value,
        precision_b=detector_b.precision.value,
        recall_b=detector_b.recall.value,
    )


def _match_lengths(rows: pd.DataFrame, by: str, length: str, a: str) -> tuple[pd.DataFrame, Floats]:
    """The rows in length bins that both groups have, and weights that make their lengths equal."""
    rows = rows[rows[length].notna()]
    lengths = rows[length].to_numpy(float)
    half_octaves = np.floor(2 * np.log2(lengths + 1))
    bins, bin_of = np.unique(half_octaves, return_inverse=True)
    n_bins = len(bins)

    # Within a bin each group weighs as many rows as the smaller one has.
    is_a = (rows[by] == a).to_numpy()
    n_a = np.bincount(bin_of[is_a], minlength=n_bins)
    n_b = np.bincount(bin_of[~is_a], minlength=n_bins)
    smaller = np.minimum(n_a, n_b)

    weight_a = smaller / np.maximum(n_a, 1)
    weight_b = smaller / np.maximum(n_b, 1)
    weights = np.where(is_a, weight_a[bin_of], weight_b[bin_of])

    is_matched = weights > 0
    return rows[is_matched], weights[is_matched]


def _weighted_difference(
    values: Floats,
    clusters: NDArray[Any],
    is_a: Flags,
    weights: Floats,
    options: dict[str, Any],
) -> dict[str, float]:
    """Difference of the groups' weighted means, with its numbers of rows and shared clusters."""
    clusters_a = clusters[is_a]
    clusters_b = clusters[~is_a]
    shared = set(clusters_a) & set(clusters_b)

    rows_a = ClusteredRows.from_arrays(values[is_a], clusters_a)
    rows_b = ClusteredRows.from_arrays(values[~is_a], clusters_b)
    ordered = np.concatenate([weights[is_a], weights[~is_a]])
    estimate = bootstrap_difference(rows_a, rows_b, ordered, **options)
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n_a": rows_a.n,
        "n_b": rows_b.n,
        "n_shared": len(shared),
    }


def _join_intervals(a: Estimate, b: Estimate) -> dict[str, float]:
    """Value and interval of the difference of two independent estimates (Zou and Donner 2008)."""
    below = math.hypot(a.value - a.low, b.high - b.value)
    above = math.hypot(a.high - a.value, b.value - b.low)
    difference = a.value - b.value
    return {
        "value": difference,
        "low": difference - below,
        "high": difference + above,
    }
