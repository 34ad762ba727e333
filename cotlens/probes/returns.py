"""How often, and how many times in a row, does a thought go back after a miss? From step tables.

What a miss and a return are, the caller says: a verdict "That is 7, not 5." and "Wait, back." in a
puzzle; an excuse and its withdrawal; a failed test and a new attempt. Without a word on it a return
is a step that reflects. These numbers describe what a model writes of itself: arms make different
mistakes, and some make none. Recovery (`recover`) and pay-off (`pay_off`) prove more.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cotlens.measures.groups import need_steps_of_traces
from cotlens.text.steps import group_runs

# One flag for each row of a step table; None, NaN or NA where it cannot be told.
DecideSteps = Callable[[pd.DataFrame], ArrayLike]

_OF_TRACE = ("trace_id", "prompt_id", "model", "method", "domain", "split", "sample")
_NUMBERS = [
    "n_steps", "n_misses", "n_returned", "p_return", "depth", "n_returns", "share_returns",
    "n_episodes", "longest_run",
]  # fmt: skip


def reflects(steps: pd.DataFrame) -> pd.Series:
    """The column `is_reflection` of a step table: what counts as a return if nothing is said."""
    return steps["is_reflection"]


def miss_table(
    steps: pd.DataFrame,
    traces: pd.DataFrame,
    is_miss: DecideSteps,
    is_return: DecideSteps = reflects,
) -> pd.DataFrame:
    """One row per miss: did the thought go back?

    A miss is *returned from* if a return comes after it and before the next miss of its trace. The
    share of misses that are, P(back | miss), is

    >>> stats.proportion(misses["is_returned"], misses["prompt_id"])  # doctest: +SKIP

    A miss with nothing after it was not returned from: leave out traces that were cut off.

    Args:
        steps: a step table.
        traces: the trace table it belongs to.
        is_miss: takes the step table and returns a flag for each row. With texts,
            `step_table(traces, text=True)`, for instance
            `lambda steps: steps["text"].str.contains("is wrong")`.
        is_return: likewise.

    Returns:
        trace_id, prompt_id and what else tells traces apart, step (number of the miss in its
        trace), is_returned (missing if a step that might be the return is unknown), n_until (steps
        from the miss to the first return; missing without one).

    Raises:
        ValueError: if a table lacks a column, a trace id occurs twice, or the flags are not one
            for each row.
    """
    flagged = _flag_steps(steps, traces, is_miss, is_return)

    # The step table's own numbers of the misses.
    rows = []
    for trace_id, trace_steps in flagged.groupby("trace_id", sort=False):
        numbers = trace_steps["step"].tolist()
        for miss in _find_misses(trace_steps):
            rows.append(
                {
                    "trace_id": trace_id,
                    "step": numbers[miss.place],
                    "is_returned": miss.is_returned,
                    "n_until": miss.n_until,
                }
            )

    # Traces without a miss have no row.
    columns = ["trace_id", "step", "is_returned", "n_until"]
    misses = pd.DataFrame(rows, columns=columns)
    misses = misses.astype({"is_returned": "boolean", "n_until": "Int64"})
    return _names_of(traces).merge(misses, on="trace_id", how="inner")


def return_table(
    steps: pd.DataFrame,
    traces: pd.DataFrame,
    *,
    is_miss: DecideSteps | None = None,
    is_return: DecideSteps = reflects,
) -> pd.DataFrame:
    """One row per trace: returns per miss, depth, and the counts that need no miss.

    Args:
        steps: a step table.
        traces: the trace table it belongs to.
        is_miss: as in `miss_table`; None: misses are not known.
        is_return: as in `miss_table`.

    Returns:
        trace_id, prompt_id and what else tells traces apart, and

        - `n_steps`: steps of which it is known whether they are returns;
        - `n_misses`, `n_returned`: misses, and those that were returned from (as in `miss_table`);
          `p_return`: n_returned / (misses of which it is known). For P(back | miss) take
          `stats.proportion` over `miss_table`, where every miss counts alike;
        - `depth`: longest chain of returns: the most misses in a row that were each returned from.
          Where misses are not known, `longest_run`;
        - `n_returns`, `share_returns`: steps that are returns, and their share of `n_steps`;
          `n_episodes`: maximal runs of them; `longest_run`: steps of the longest run.

        Numbers of misses are NaN where misses are not known, `p_return` without a miss, and
        everything for a trace without a step of which it is known.

    Raises:
        ValueError: as `miss_table`.
    """
    flagged = _flag_steps(steps, traces, is_miss or _unknown, is_return)
    rows = {}
    for trace_id, trace_steps in flagged.groupby("trace_id", sort=False):
        numbers = _count_returns(trace_steps)

        # With misses, depth is the chain of those that were returned from.
        if numbers and is_miss:
            numbers |= _count_misses(trace_steps)
        rows[trace_id] = numbers

    # Traces without steps keep their row.
    counts = pd.DataFrame.from_dict(rows, orient="index", columns=_NUMBERS)
    counts = counts.astype(float)
    return _names_of(traces).merge(
        counts,
        left_on="trace_id",
        right_index=True,
        how="left",
    )


def _unknown(steps: pd.DataFrame) -> pd.Series:
    """No step of which it is known whether it is a miss."""
    return pd.Series(pd.NA, index=steps.index)


def _names_of(traces: pd.DataFrame) -> pd.DataFrame:
    """The columns that tell traces apart."""
    names = [name for name in _OF_TRACE if name in traces]
    return traces[names]


def _flag_steps(
    steps: pd.DataFrame, traces: pd.DataFrame, is_miss: DecideSteps, is_return: DecideSteps
) -> pd.DataFrame:
    """Trace, number, miss and return of each step, in order."""
    need_steps_of_traces(steps, traces, ["trace_id", "step"])
    if "prompt_id" not in traces:
        raise ValueError("the trace table has no prompt_id, the cluster of every statistic")

    flagged = steps[["trace_id", "step"]].copy()
    flagged["is_miss"] = _decide(is_miss, steps, "is_miss")
    flagged["is_return"] = _decide(is_return, steps, "is_return")
    return flagged.sort_values(["trace_id", "step"], kind="stable")


def _decide(
    decide: DecideSteps, steps: pd.DataFrame, name: str
) -> pd.api.extensions.ExtensionArray:
    """One flag for each step, missing where it cannot be told."""
    flags = np.array(decide(steps), object)
    n_steps = len(steps)
    if flags.shape != (n_steps,):
        raise ValueError(f"{name}: expected {n_steps} flags, got the shape {flags.shape}")

    # None, NaN and NA are one.
    flags[pd.isna(flags)] = None
    return pd.array(flags, dtype="boolean")


class _Miss(NamedTuple):
    """A miss at a place among the steps of its trace, and the steps to the first return."""

    place: int
    n_until: int | None
    is_returned: bool | None


def _find_misses(steps: pd.DataFrame) -> list[_Miss]:
    """The misses of a trace, in order."""
    returns = _as_flags(steps["is_return"])
    places = []
    for place, flag in enumerate(_as_flags(steps["is_miss"])):
        if flag:
            places.append(place)

    # A return counts for the miss that is the last before it.
    misses = []
    for place, next_place in pairwise([*places, len(returns)]):
        after = returns[place + 1 : next_place]
        n_until = None
        is_returned = False
        if True in after:
            n_until = 1 + after.index(True)
            is_returned = True
        elif None in after:
            is_returned = None
        misses.append(_Miss(place, n_until, is_returned))
    return misses


def _as_flags(values: pd.Series) -> list[bool | None]:
    """A column of flags as Python has them; None where one is missing."""
    # pandas has three ways to say that a flag is missing.
    flags = values.astype(object)
    return flags.where(values.notna(), None).tolist()


def _count_misses(steps: pd.DataFrame) -> dict[str, Any]:
    """The numbers of a trace that rest on its misses."""
    returned = [miss.is_returned for miss in _find_misses(steps)]
    n_returned = returned.count(True)
    n_known = len(returned) - returned.count(None)
    p_return = np.nan
    if n_known:
        p_return = n_returned / n_known

    return {
        "n_misses": len(returned),
        "n_returned": n_returned,
        "p_return": p_return,
        "depth": max(_lengths_of_runs(returned), default=0),
    }


def _count_returns(steps: pd.DataFrame) -> dict[str, Any]:
    """The numbers of a trace that rest on its returns alone; none if nothing is known."""
    returns = _as_flags(steps["is_return"])
    n_returns = returns.count(True)
    n_known = len(returns) - returns.count(None)
    if not n_known:
        return {}

    lengths = _lengths_of_runs(returns)
    longest = max(lengths, default=0)
    return {
        "n_steps": n_known,
        "depth": longest,
        "n_returns": n_returns,
        "share_returns": n_returns / n_known,
        "n_episodes": len(lengths),
        "longest_run": longest,
    }


def _lengths_of_runs(flags: Sequence[bool | None]) -> list[int]:
    """Lengths of the maximal runs of true flags; one of which nothing is known breaks a run."""
    is_true = [flag is True for flag in flags]
    return [run.length for run in group_runs(is_true)]
