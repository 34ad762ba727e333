"""Cognitive behaviours that a judge lists, beside the kinds of steps that the classifier finds."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cotlens import stats
from cotlens.detect.reflect import Kind
from cotlens.measures.groups import estimates_by, need, need_columns

# What a judge is asked to list, and the kind of step that means it. `backtrack` and `verify` are
# defined alike (docs/codebook.md); `plan` is wider than naming a part of the task. No kind means
# that cases are gone through one after another: `alternative` turns to another approach.
BEHAVIOURS: dict[str, Kind | None] = {
    "backtracking": Kind.BACKTRACK,
    "verification": Kind.VERIFY,
    "subgoal_setting": Kind.PLAN,
    "enumeration": None,
}
UNVERIFIED = "unverified"  # a behaviour whose quote does not stand in the text

_RESAMPLES = 2000
_LEVEL = 0.95


def behaviour_counts(verdicts: pd.DataFrame, steps: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per trace: how often a judge lists each behaviour, and its kind of step occurs.

    Args:
        verdicts: `guard_table` of a judge of behaviours, with columns of the trace table if wanted.
        steps: the step table of the traces; without it there are no counts of steps.

    Returns:
        The verdicts with, for each behaviour, `n_BEHAVIOUR`: quotes that stand in the text; 0 where
        the list is empty, NaN where the judge is undecided. `n_unverified` counts quotes that do
        not. `steps_BEHAVIOUR` counts steps of the behaviour's kind; NaN for a trace without a step
        in a language whose kinds are known (English), and everywhere if no kind means it.

    Raises:
        ValueError: if a column is missing, or the verdicts are those of a judge of safety.
    """
    need(verdicts, "trace_id", "label", "categories")
    check_answers(verdicts["label"])
    counts = verdicts.copy()

    # An undecided list may hold anything.
    is_decided = verdicts["label"] != "undecided"
    for name in (*BEHAVIOURS, UNVERIFIED):
        n_listed = []
        for listed in verdicts["categories"]:
            n_listed.append(_count_category(listed, name))
        column = pd.Series(n_listed, verdicts.index, dtype=float)
        counts[f"n_{name}"] = column.where(is_decided)

    if steps is None:
        return counts
    return _with_step_counts(counts, steps)


def _count_category(listed: Any, name: str) -> int:
    """How many of a verdict's categories are of a kind; none if there are no categories."""
    if listed is None:
        return 0

    n_listed = 0
    for category in listed:
        kind, _, _ = category.partition(":")
        n_listed += kind == name
    return n_listed


def _with_step_counts(counts: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """The counts with `steps_BEHAVIOUR`, from steps whose kind the classifier tells."""
    need_columns(steps, "trace_id", "kind", "p_reflect")
    known = steps[steps["p_reflect"].notna()]
    known_ids = known["trace_id"].unique()
    for behaviour, kind in BEHAVIOURS.items():
        column = f"steps_{behaviour}"
        if kind is None:
            counts[column] = np.nan
            continue

        # A known trace without such a step has none; an unknown one is missing.
        is_kind = known["kind"] == kind.value
        n_steps = known[is_kind].groupby("trace_id").size()
        n_steps = n_steps.reindex(known_ids, fill_value=0)
        of_traces = counts["trace_id"].map(n_steps)
        counts[column] = of_traces.astype(float)
    return counts


def check_answers(labels: pd.Series) -> None:
    """Raise ValueError if labels are not those of a judge that answers yes or no."""
    others = sorted(set(labels) - {"yes", "no", "undecided"})
    if others:
        raise ValueError(
            f"expected the labels yes, no and undecided, got {', '.join(map(str, others))}; "
            "judge with the rubric reflection or behaviours"
        )


def behaviour_means(counts: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """Mean number of each behaviour per trace and group, with 95% intervals over prompts.

    Args:
        counts: what `behaviour_counts` returns, with `prompt_id` and the column of the group.
        by: column of the group.

    Returns:
        One row per (group, measure): `n_BEHAVIOUR`, their sum `n_all`, and `n_unverified`; value,
        low, high, n (decided traces), n_prompts.
    """
    columns = [f"n_{name}" for name in (*BEHAVIOURS, UNVERIFIED)]
    need(counts, by, "prompt_id", *columns)

    def estimates(rows: pd.DataFrame) -> dict[str, stats.Estimate]:
        prompts = rows["prompt_id"]
        means = {name: stats.mean(rows[name], prompts) for name in columns}
        n_all = rows[columns[:-1]].sum(axis=1, skipna=False)
        return means | {"n_all": stats.mean(n_all, prompts)}

    return estimates_by(counts, by, estimates)


def behaviour_agreement(counts: pd.DataFrame) -> pd.DataFrame:
    """How a judge's behaviours and the kinds of steps agree, trace by trace.

    Counts are compared by rank, for a judge lists a place that may span several steps; presence is
    whether there is any.

    Args:
        counts: what `behaviour_counts` returns with steps, with `prompt_id`.

    Returns:
        One row per behaviour: behaviour, kind (empty: no kind means it), n (traces that both know),
        n_prompts, spearman with `_low` and `_high` (prompts resampled), kappa of presence likewise,
        share_judge and share_kind (of traces with any). NaN where it is undefined: no kind, or one
        of the two never varies.
    """
    rows = []
    for behaviour, kind in BEHAVIOURS.items():
        columns = ["prompt_id", f"n_{behaviour}", f"steps_{behaviour}"]
        need(counts, *columns)

        # Traces that both know.
        both = counts[columns].dropna()
        both.columns = ["prompt_id", "judge", "kind"]
        row: dict[str, Any] = {
            "behaviour": behaviour,
            "kind": kind.value if kind else "",
            "n": len(both),
            "n_prompts": both["prompt_id"].nunique(),
        }
        rows.append(row | _agreement_row(both))
    return pd.DataFrame(rows)


_AGREEMENT = (
    "spearman",
    "spearman_low",
    "spearman_high",
    "kappa",
    "kappa_low",
    "kappa_high",
    "share_judge",
    "share_kind",
)


def _agreement_row(both: pd.DataFrame) -> dict[str, float]:
    """Rank correlation of counts and kappa of presence, of traces that both know."""
    row: dict[str, float] = dict.fromkeys(_AGREEMENT, np.nan)
    if both.empty:
        return row

    has_behaviour = both["judge"] > 0
    has_kind = both["kind"] > 0
    row["share_judge"] = has_behaviour.mean()
    row["share_kind"] = has_kind.mean()
    rank = spearman(both["judge"], both["kind"], both["prompt_id"])
    row |= _columns_of("spearman", rank)

    # Kappa needs both labels.
    labels = {*has_behaviour, *has_kind}
    if len(labels) == 2:
        agreed = stats.agreement(
            has_behaviour.tolist(),
            has_kind.tolist(),
            both["prompt_id"],
        )
        row |= _columns_of("kappa", agreed.kappa)
    return row


def _columns_of(name: str, estimate: stats.Estimate) -> dict[str, float]:
    return {
        name: estimate.value,
        f"{name}_low": estimate.low,
        f"{name}_high": estimate.high,
    }


def spearman(a: pd.Series, b: pd.Series, clusters: pd.Series, seed: int = 0) -> stats.Estimate:
    """Spearman's rank correlation with a percentile interval, clusters resampled.

    Args:
        a: one number per row, none missing.
        b: likewise.
        clusters: one key per row.
        seed: of the resamples.

    Returns:
        NaN where one of the two does not vary, without an interval where there is one cluster;
        resamples in which it is undefined are left out.
    """
    pairs = np.column_stack([a.to_numpy(float), b.to_numpy(float)])
    codes, keys = pd.factorize(clusters)
    rows_of = [np.flatnonzero(codes == code) for code in range(len(keys))]
    value = _rank_correlation(pairs)
    if np.isnan(value) or len(keys) < 2:
        return stats.Estimate(value, np.nan, np.nan, len(pairs), len(keys), "percentile bootstrap")

    random = np.random.default_rng(seed)
    values = _resampled(pairs, rows_of, random, _rank_correlation)
    tail = (1 - _LEVEL) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return stats.Estimate(
        value,
        float(low),
        float(high),
        len(pairs),
        len(keys),
        "percentile bootstrap",
    )


def _resampled(
    pairs: NDArray[np.float64],
    rows_of: list[NDArray[np.intp]],
    random: np.random.Generator,
    statistic: Callable[[NDArray[np.float64]], float],
) -> list[float]:
    """A statistic of the rows of clusters that are drawn with replacement."""
    values = []
    for _ in range(_RESAMPLES):
        drawn = random.integers(len(rows_of), size=len(rows_of))
        rows = np.concatenate([rows_of[cluster] for cluster in drawn])
        values.append(statistic(pairs[rows]))
    return values


def _rank_correlation(pairs: NDArray[np.float64]) -> float:
    """Spearman's rho of two columns; NaN if one of them does not vary."""
    is_constant = (pairs == pairs[0]).all(axis=0)
    if len(pairs) < 2 or is_constant.any():
        return np.nan
    from scipy.stats import spearmanr  # takes most of a second to import

    correlation = spearmanr(pairs[:, 0], pairs[:, 1])
    return float(correlation.statistic)  # pyright: ignore[reportAttributeAccessIssue]
