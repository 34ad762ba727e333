"""Estimates by group, and the checks of tables that measures and figures share."""

from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from cotlens import stats


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
        raise ValueError(
            "no step is known to reflect or not: "
            "the thinking is not English, not verbatim, or not there"
        )


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


def first_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """The first step of each trace, to see what openings contribute to a figure."""
    first = steps.groupby("trace_id", sort=False)["position"].idxmin()
    return steps.loc[first]
