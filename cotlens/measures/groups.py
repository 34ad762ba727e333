"""Estimates by group, and the checks that measures and figures share."""

from collections.abc import Callable, Mapping

import pandas as pd

from cotlens import stats


# --- shared by the figures -------------------------------------------------------------------------------------
def estimates_by(
    table: pd.DataFrame, by: str, of_group: Callable[[pd.DataFrame], Mapping[str, stats.Estimate]]
) -> pd.DataFrame:
    """One row per (group, measure): group, measure, value, low, high, n and n_prompts of what `of_group` returns."""
    rows = []
    for group, part in table.groupby(by, sort=True, dropna=False):
        for measure, e in of_group(part).items():
            found = {
                "value": e.value,
                "low": e.low,
                "high": e.high,
                "n": e.n,
                "n_prompts": e.n_clusters,
            }
            rows.append({"group": str(group) or "(unnamed)", "measure": measure, **found})
    return pd.DataFrame(rows)


def need(table: pd.DataFrame, *columns: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing or table.empty:
        fault = f"no column {', '.join(missing)}" if missing else "no rows"
        raise ValueError(f"the table has {fault}; its columns are {', '.join(map(str, table))}")


def need_known(known: pd.DataFrame) -> None:
    """Stops a figure of steps that has none whose language is known."""
    if known.empty:
        raise ValueError(
            "no step is known to reflect or not: the thinking is not English, not verbatim, or not there"
        )


def first_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """The first step of each trace: what an opening does to a figure is said of these."""
    return steps.loc[steps.groupby("trace_id", sort=False)["position"].idxmin()]
