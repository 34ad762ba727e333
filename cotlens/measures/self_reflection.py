"""Does a thinking go back on itself, by a judge, and how soon after a prefix does it reflect?"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.measures.behaviours import check_answers
from cotlens.measures.groups import estimates_by, need, need_columns
from cotlens.trace import Trace


def self_reflection_share(verdicts: pd.DataFrame, by: str = "condition") -> pd.DataFrame:
    """Share of traces whose thinking goes back on itself, among those that a judge decides.

    Args:
        verdicts: one row per trace: label (yes, no, undecided) and prompt_id, as `guard_table` of a
            judge with the rubric reflection gives them with the trace table.
        by: column of the group, such as whether the trace was prefilled.

    Returns:
        One row per group: group, value, low, high (Wilson's 95%, by prompt), n (decided),
        n_prompts, n_undecided. The value is NaN if the judge decided none.

    Raises:
        ValueError: if a column is missing, or the labels are those of a judge of safety.
    """
    need(verdicts, by, "label", "prompt_id")
    check_answers(verdicts["label"])

    # Undecided is neither.
    flags = verdicts["label"].map({"yes": 1.0, "no": 0.0})
    flagged = verdicts.assign(reflects=flags)

    def share(rows: pd.DataFrame) -> dict[str, stats.Estimate]:
        return {"share": stats.proportion(rows["reflects"], rows["prompt_id"])}

    shares = estimates_by(flagged, by, share)

    # The groups come in the same order.
    n_undecided = []
    for _, rows in flagged.groupby(by, sort=True, dropna=False):
        is_undecided = rows["reflects"].isna()
        n_undecided.append(int(is_undecided.sum()))
    shares["n_undecided"] = n_undecided
    return shares.drop(columns="measure")


def prefix_stop(trace: Trace) -> int | None:
    """Return where a trace's own text begins, in code points of its completion.

    None if the trace does not say. A continuation says where it was cut and what was put in; else a
    first token that begins later than the completion shows that what comes before was given.
    """
    continues = trace.meta.get("continues")
    if isinstance(continues, Mapping):
        return int(continues["cut"]) + len(continues["insert"])
    if trace.token_starts and trace.token_starts[0] > 0:
        return trace.token_starts[0]
    return None


def first_reflections(steps: pd.DataFrame, traces: Iterable[Trace]) -> pd.DataFrame:
    """One row per trace with a known prefix: how far after it the first reflecting step begins.

    A step that begins inside the prefix is the prefix's, even if the model ended it. Traces without
    a known prefix are left out.

    Args:
        steps: the step table of the traces.
        traces: the traces.

    Returns:
        trace_id, prompt_id, prefix_stop (code points), `n_own_steps` of known language;
        `n_tokens` and `n_steps`: own tokens and steps before the first reflecting step. Both are
        missing where no own step reflects (`is_censored`): the trace ended, or was cut off, before
        it did. All three are missing where no own step is of known language; `n_tokens` also where
        the trace has no token offsets.

    Raises:
        ValueError: if a column is missing.
    """
    need_columns(steps, "trace_id", "step", "start", "is_reflection")
    ordered = steps.sort_values("step")
    steps_of = dict(list(ordered.groupby("trace_id", sort=False)))
    no_steps = steps.head(0)

    rows = []
    for trace in traces:
        prefix = prefix_stop(trace)
        if prefix is None:
            continue

        # Steps that begin in the prefix are not the trace's own.
        trace_steps = steps_of.get(trace.id, no_steps)
        own = trace_steps[trace_steps["start"] >= prefix]
        row = {
            "trace_id": trace.id,
            "prompt_id": trace.prompt_id,
            "prefix_stop": prefix,
        }
        rows.append(row | _first_reflection(own, trace, prefix))

    columns = ["trace_id", "prompt_id", "prefix_stop", *_FIRST]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"is_censored": "boolean", "n_tokens": float, "n_steps": float})


_FIRST = ("n_own_steps", "n_tokens", "n_steps", "is_censored")


def _first_reflection(own: pd.DataFrame, trace: Trace, prefix: int) -> dict[str, Any]:
    """The columns of `first_reflections` for the steps that begin after the prefix."""
    n_known = int(own["is_reflection"].notna().sum())
    row: dict[str, Any] = dict.fromkeys(_FIRST)
    row["n_own_steps"] = n_known
    if not n_known:
        return row

    # A step of unknown language is not taken for a reflection.
    reflects = own["is_reflection"].eq(True)
    reflects = reflects.fillna(False).to_numpy(bool)
    row["is_censored"] = not reflects.any()
    if row["is_censored"]:
        return row

    # Own tokens are those that begin at or after the end of the prefix.
    place = int(reflects.argmax())
    row["n_steps"] = place
    if trace.token_starts is None or "token_start" not in own:
        return row

    token_start = own["token_start"].iloc[place]
    if pd.notna(token_start):
        n_given = np.searchsorted(trace.token_starts, prefix)
        n_tokens = int(token_start) - int(n_given)
        row["n_tokens"] = max(0, n_tokens)
    return row


def reflection_agreement(
    verdicts: pd.DataFrame, dynamics: pd.DataFrame, **options: Any
) -> stats.Agreement:
    """How far a judge of reflection and the classifier agree on whether a trace reflects.

    They ask related questions, not the same: the judge wants a claim taken back, the classifier
    also counts a doubt or a check. So the judge's yes should be the rarer one.

    Args:
        verdicts: trace_id and label (yes, no, undecided).
        dynamics: what `reflection_dynamics` returns.
        **options: as in `stats.agreement`.

    Returns:
        Agreement of the judge with "any reflecting step". Traces on which the judge is undecided,
        or whose language the classifier does not know, are left out and counted.

    Raises:
        ValueError: if a column is missing, or all labels are one.
    """
    need(verdicts, "trace_id", "label")
    need(dynamics, "trace_id", "any_reflect", "prompt_id")
    check_answers(verdicts["label"])
    labels = verdicts[["trace_id", "label"]]
    reflects = dynamics[["trace_id", "any_reflect", "prompt_id"]]
    both = labels.merge(reflects, on="trace_id", validate="one_to_one")

    # Missing where the judge is undecided, or the language unknown.
    judged = both["label"].map({"yes": 1.0, "no": 0.0})
    classified = both["any_reflect"].astype(float)
    return stats.agreement(
        judged.tolist(),
        classified.tolist(),
        both["prompt_id"],
        **options,
    )
