"""Estimates by group, and the checks of tables that measures and figures share."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cotlens import stats
from cotlens.stats.bootstrap import Flags

NOTHING_KNOWN = (
    "no step is known to reflect or not: the thinking is not English, not verbatim, or not there"
)


def estimates_by(
    table: pd.DataFrame, by: str, of_group: Callable[[pd.DataFrame], Mapping[str, stats.Estimate]]
) -> pd.DataFrame:
    """Estimates of each group of rows, as a table.

    Args:
        table: one row per trace, say.
        by: column of the group; an empty name becomes "(unnamed)".
        of_group: takes the rows of one group and returns its estimates by name of the measure.

    Returns:
        One row per (group, measure): group, measure, value, low, high, n, n_prompts.
    """
    rows = []
    for group, group_rows in table.groupby(by, sort=True, dropna=False):
        for measure, estimate in of_group(group_rows).items():
            rows.append(
                {
                    "group": str(group) or "(unnamed)",
                    "measure": measure,
                    "value": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "n": estimate.n,
                    "n_prompts": estimate.n_clusters,
                }
            )
    return pd.DataFrame(rows)


def need(table: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError if the table lacks a column or has no rows."""
    need_columns(table, *columns)

    # A figure of no rows would be empty without saying why.
    if table.empty:
        raise ValueError(f"the table has no rows; its columns are {_names(table)}")


def need_columns(table: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError if the table lacks a column."""
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(missing)}; its columns are {_names(table)}"
        )


def _names(table: pd.DataFrame) -> str:
    return ", ".join(str(name) for name in table)


def need_known(known: pd.DataFrame) -> None:
    """Raise ValueError if no step is in a known language, given the steps that are."""
    if known.empty:
        raise ValueError(NOTHING_KNOWN)


def need_steps_of_traces(steps: pd.DataFrame, traces: pd.DataFrame, columns: Iterable[str]) -> None:
    """Raise ValueError if the step table lacks a column or a trace id occurs twice."""
    missing = sorted(set(columns) - set(steps))
    if missing:
        raise ValueError(f"the step table has no {', '.join(missing)}; analyze the traces again")

    # Two traces of one id would share their steps.
    if traces["trace_id"].duplicated().any():
        raise ValueError(
            "a trace id occurs twice: ids are unique within a run, so join the tables run by run"
        )


class StepsByTrace(NamedTuple):
    """The places of each trace's steps in a step table.

    Attributes:
        ids: of the traces, in order of their first step.
        order: places of the rows, those of one trace together and by their number.
        stops: for each trace, where its rows end in `order`.
    """

    ids: pd.Index
    order: NDArray[np.intp]
    stops: NDArray[np.intp]

    @classmethod
    def from_steps(cls, steps: pd.DataFrame) -> "StepsByTrace":
        """The places in a step table; without a column `step` its rows are in order."""
        trace_of, ids = pd.factorize(steps["trace_id"])
        keys = (steps["step"], trace_of) if "step" in steps else (trace_of,)
        counts = np.bincount(trace_of, minlength=len(ids))
        return cls(pd.Index(ids), np.lexsort(keys), np.cumsum(counts))

    def each(
        self, columns: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Id and columns of each trace, of columns of the whole table."""
        in_order = {name: column[self.order] for name, column in columns.items()}
        start = 0
        for trace_id, stop in zip(self.ids, self.stops, strict=True):
            rows = slice(start, stop)
            yield trace_id, {name: column[rows] for name, column in in_order.items()}
            start = stop


def is_true(flags: pd.Series) -> Flags:
    """Whether each flag is true; a missing one is not."""
    return flags.eq(True).to_numpy(bool)
