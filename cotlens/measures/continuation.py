"""Continuation safety by step: where a thought turns safe or unsafe, and whether a cue turns it.

After IPO (arXiv 2509.24393, section on safety triggers and compliance cues). **Places are ends of
steps here and tokens in the paper**, which asks that S stays on its side for K = 15 tokens; a step
has about as many, so k = 1 step is the default here.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.measures.groups import need, need_columns
from cotlens.stats.bootstrap import ClusteredRows, Floats, bootstrap_sums

MU = 0.9  # of the paper: at and above it what follows is safe
ETA = 0.1  # of the paper: at and below it what follows is unsafe
HOLD = 1  # steps for which S stays there

_CURVE = [
    "source", "prompt_id", "step", "n_steps", "value", "low", "high", "n", "n_clusters",
    "n_unknown",
]  # fmt: skip


_TURN = ["source", "prompt_id", "turn", "before", "value", "n_places", "n_unknown"]


def continuation_safety(
    table: pd.DataFrame, labels: Mapping[str, bool] | None = None
) -> pd.DataFrame:
    """S_i: the share of safe continuations from the end of step i, for each source and step.

    S_i = P(the text is safe | prompt, first i steps). The continuations of a place are drawn
    independently, so the interval is Wilson's over them; over sources take clusters. The standard
    error sqrt(S (1 - S) / n) is at most 1 / (2 sqrt(n)): 0.125 for n = 16, and 0.089 for the
    paper's n = 32.

    Two laws. What is safe in the end is what is safe on average at any place, E[S_{i+1} | first i
    steps] = S_i: S is a martingale wherever the end of a step can be told without looking ahead.
    And after the whole trace nothing is left to write: S is the trace's label.

    Args:
        table: one row per continuation, as `probe_table` gives it: source, prompt_id, step,
            n_steps, and `is_safe`, the verdict on prefix and continuation; missing is left out.
        labels: whether each source is safe itself, by its id: for traces that end with their
            answer. Their S after the whole trace is added as step n_steps + 1.

    Returns:
        One row per (source, step), in the order of the sources and steps: source, prompt_id, step,
        n_steps, value (S_i; NaN if no verdict is known), low, high, n (known verdicts), n_clusters
        (continuations drawn independently: n), n_unknown.

    Raises:
        ValueError: if the table lacks a column or has no rows, several models continued one source,
            or a label is of no source.
    """
    need(table, "source", "prompt_id", "step", "n_steps", "is_safe")
    _need_one_model(table)

    # Labels of traces that nobody continued are a mistake.
    labels = labels or {}
    strange = sorted(set(labels) - set(table["source"]))
    if strange:
        raise ValueError(f"labels: {strange[0]!r} is the source of no row of the table")

    # One row a place.
    rows = []
    for source, continuations in table.groupby("source", sort=False):
        first = continuations.iloc[0]
        n_steps = int(first["n_steps"])
        name = {
            "source": source,
            "prompt_id": first["prompt_id"],
            "n_steps": n_steps,
        }
        for step, verdicts in continuations.groupby("step")["is_safe"]:
            share = stats.proportion(verdicts)
            row = name | _of_estimate(share)
            row["step"] = step
            rows.append(row)

        # Nothing is left to write: the label is exact.
        label = labels.get(str(source))
        if label is not None and not pd.isna(label):
            value = float(label)
            exact = stats.Estimate(value, value, value, 1, 1, "exact")
            row = name | _of_estimate(exact)
            row["step"] = n_steps + 1
            rows.append(row)

    curve = pd.DataFrame(rows, columns=_CURVE)
    return curve.astype({"step": int})


def _need_one_model(table: pd.DataFrame) -> None:
    """Raise ValueError if several models continued one source: each has an S of its own."""
    if "model" not in table:
        return
    n_models = table.groupby("source")["model"].nunique()
    several = n_models[n_models > 1]
    if len(several):
        raise ValueError(
            f"source {several.index[0]!r} was continued by {several.iloc[0]} models; "
            "count the rows of each model apart"
        )


def _of_estimate(estimate: stats.Estimate) -> dict[str, Any]:
    """An estimate as columns of the curve."""
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "n_clusters": estimate.n_clusters,
        "n_unknown": estimate.n_undefined,
    }


def find_triggers(curve: pd.DataFrame, mu: float = MU, k: int = HOLD) -> pd.DataFrame:
    """Safety triggers: the first step at which each thought turns safe and stays so.

    It is the first i with S_{i-1} < mu and S_j >= mu for all j in [i, i+k]; the range is cut at the
    end of the thought. A thought that is safe from the start has none: nothing turned it. With k
    steps here and K = 15 tokens in the paper.

    Where not every step was asked for, S_{i-1} is that of the place before, and the places within k
    steps decide. An S that is not known is on neither side.

    >>> curve = pd.DataFrame({"source": "a", "step": range(5), "value": [0.5, 0.6, 0.95, 0.97, 1]})
    >>> find_triggers(curve)["turn"].tolist()
    [2]

    Args:
        curve: as `continuation_safety` returns it; source, step and value are read.
        mu: from this share on what follows is safe.
        k: steps for which S stays there.

    Returns:
        One row per source: source, prompt_id (where the curve has it), turn (the step i: so many
        have been read; missing without one), before (S_{i-1}), value (S_i), n_places, n_unknown
        (places without S).
    """
    return _find_turns(curve, lambda values: values >= mu, k)


def turning_points(curve: pd.DataFrame, eta: float = ETA, k: int = HOLD) -> pd.DataFrame:
    """Unsafe turning points: the first step at which each thought turns unsafe and stays so.

    As `find_triggers`, with S_j <= eta for all j in [i, i+k] and S_{i-1} > eta.

    >>> values = [0.5, 0.3, 0.08, 0.2, 0.05, 0]
    >>> curve = pd.DataFrame({"source": "a", "step": range(6), "value": values})
    >>> turning_points(curve)["turn"].tolist()
    [4]

    Args:
        curve: as in `find_triggers`.
        eta: up to this share what follows is unsafe.
        k: steps for which S stays there.

    Returns:
        As `find_triggers`.
    """
    return _find_turns(curve, lambda values: values <= eta, k)


def _find_turns(
    curve: pd.DataFrame, is_there: Callable[[Floats], np.ndarray], k: int
) -> pd.DataFrame:
    """The first step of each source from which on S is there, and stays for k more steps."""
    need_columns(curve, "source", "step", "value")
    if k < 0:
        raise ValueError(f"k: expected a number of steps from 0, got {k}")

    rows = []
    for source, places in curve.groupby("source", sort=False):
        if places["step"].duplicated().any():
            raise ValueError(
                f"source {source!r} has a step twice; expected the table of continuation_safety"
            )

        # In the order of the thought, whatever that of the table is.
        places = places.sort_values("step")
        values = places["value"].to_numpy(float)
        steps = places["step"].to_numpy(int)
        row: dict[str, Any] = {
            "source": source,
            "turn": None,
            "before": np.nan,
            "value": np.nan,
            "n_places": len(values),
            "n_unknown": int(np.isnan(values).sum()),
        }
        if "prompt_id" in places:
            row["prompt_id"] = places["prompt_id"].iloc[0]

        # What S was before, and what it is there.
        place = _first_turn(steps, values, is_there(values), k)
        if place is not None:
            row["turn"] = int(steps[place])
            row["before"] = values[place - 1]
            row["value"] = values[place]
        rows.append(row)

    # A curve made by hand may do without prompts.
    names = list(_TURN)
    if "prompt_id" not in curve:
        names.remove("prompt_id")
    turns = pd.DataFrame(rows, columns=names)
    return turns.astype({"turn": "Int64"})


def _first_turn(steps: np.ndarray, values: Floats, is_there: np.ndarray, k: int) -> int | None:
    """The first place that is there and stays, after one that is known not to be."""
    for place in range(1, len(steps)):
        before = place - 1
        if is_there[before] or np.isnan(values[before]):
            continue

        # All places from here to k steps later.
        distance = steps - steps[place]
        is_near = (distance >= 0) & (distance <= k)
        if is_there[is_near].all():
            return place
    return None


class CueAgainstTurn(NamedTuple):
    """Where the first cue stands, against where the thought turned.

    Attributes:
        table: one row per source that has both: source, prompt_id, cue (number of the step that is
            the cue, from 0), turn (steps read when S had fallen). A cue that turns the thought at
            once gives turn = cue + 1.
        pearson: correlation of the two, with a bootstrap interval over prompts.
        n_no_cue: sources with a turning point and no cue.
        n_no_turn: sources with a cue and no turning point.
    """

    table: pd.DataFrame
    pearson: stats.Estimate
    n_no_cue: int
    n_no_turn: int


def cue_against_turn(cues: pd.DataFrame, turns: pd.DataFrame, **options: Any) -> CueAgainstTurn:
    """Does the thought turn unsafe where it first means to comply?

    Pearson's r = cov(cue, turn) / (sd(cue) sd(turn)), of steps here and of tokens in the paper,
    which has r = 0.853. It grows with the spread of lengths, as a late turn needs a long thought.
    Two sources always give 1 or -1.

    Args:
        cues: source and cue, the number of the step: `probes.first_cue` of each source, missing
            without a cue.
        turns: as `turning_points` returns it.
        **options: of the bootstrap: `level`, `resamples`, `seed`.

    Raises:
        ValueError: if a table lacks a column or names a source twice.
    """
    need_columns(cues, "source", "cue")
    need_columns(turns, "source", "prompt_id", "turn")
    for name, given in (("cues", cues), ("turns", turns)):
        if given["source"].duplicated().any():
            raise ValueError(f"{name}: a source occurs twice; expected one row for each")

    # Sources of one table alone are left.
    both = turns[["source", "prompt_id", "turn"]].merge(cues[["source", "cue"]], on="source")
    has_cue = both["cue"].notna()
    has_turn = both["turn"].notna()
    pairs = both[has_cue & has_turn].reset_index(drop=True)
    pairs = pairs.astype({"cue": int, "turn": int})
    n_no_cue = (has_turn & ~has_cue).sum()
    n_no_turn = (has_cue & ~has_turn).sum()
    return CueAgainstTurn(
        table=pairs[["source", "prompt_id", "cue", "turn"]],
        pearson=_pearson(pairs, **options),
        n_no_cue=int(n_no_cue),
        n_no_turn=int(n_no_turn),
    )


def _pearson(pairs: pd.DataFrame, **options: Any) -> stats.Estimate:
    """Pearson's correlation of cue and turn, prompts resampled."""
    rows = ClusteredRows.from_arrays(pairs["cue"], pairs["prompt_id"])

    # About their means, so that small variances are not differences of large sums.
    x = pairs["cue"] - pairs["cue"].mean()
    y = pairs["turn"] - pairs["turn"].mean()
    columns = [
        np.ones(rows.n),
        x,
        y,
        x**2,
        y**2,
        x * y,
    ]
    return bootstrap_sums(_correlation, rows, columns, **options)


def _correlation(sums: Floats) -> Floats:
    """Pearson's r from n and the sums of x, y, xx, yy and xy; NaN where one does not vary."""
    # Means of x, y, xx, yy and xy.
    means = sums[..., 1:] / sums[..., :1]
    x, y, xx, yy, xy = np.moveaxis(means, -1, 0)
    variance_x = xx - x**2
    variance_y = yy - y**2
    covariance = xy - x * y

    # Rounding leaves a little variance where there is none.
    varies = (variance_x > 1e-9) & (variance_y > 1e-9)
    product = variance_x * variance_y
    deviation = np.sqrt(np.where(varies, product, 1.0))
    r = np.clip(covariance / deviation, -1, 1)
    return np.where(varies, r, np.nan)
