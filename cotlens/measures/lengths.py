"""How long are thinking and answer?"""

import numpy as np
import pandas as pd

from cotlens.measures.groups import need
from cotlens.trace import Reasoning

# Columns of a trace table that hold a length, with their titles in figures.
LENGTHS = {
    "n_think_chars": "Thinking (characters)",
    "n_answer_chars": "Answer (characters)",
    "n_steps": "Steps of thinking",
}
QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def length_quantiles(traces: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """Quantiles of the length of thinking, of the answer, and of the number of steps, by group.

    A trace without thinking counts only in the lengths of answers. A trace that was cut off inside
    its thought counts in the lengths of thinking (a lower bound) and not in those of answers. A
    trace whose thinking is a summary or redacted counts in the lengths of answers. Quantiles
    interpolate linearly (Hyndman and Fan's type 7, numpy's default).

    Args:
        traces: a trace table.
        by: column of the group; an empty name becomes "(unnamed)".

    Returns:
        One row per (group, measure): n_traces, n_prompts, share_open, share_absent and share_hidden
        (summarised or redacted thinking) of all traces of the group; n, p5, p25, median, p75, p95
        of those that count; NaN for none.
    """
    need(traces, by, "prompt_id", "status", *LENGTHS)
    rows = []
    for group, group_traces in traces.groupby(by, sort=True, dropna=False):
        # Without the column all thinking counts as verbatim.
        status = group_traces["status"]
        is_verbatim = status.notna()
        if "reasoning" in group_traces:
            is_verbatim &= group_traces["reasoning"] == Reasoning.VERBATIM.value

        group_columns = {
            "n_traces": len(group_traces),
            "n_prompts": group_traces["prompt_id"].nunique(),
            "share_open": (status == "open").mean(),
            "share_absent": (status == "absent").mean(),
            "share_hidden": 1 - is_verbatim.mean(),
        }

        # A thought that is cut off has a length, a lower bound; the answer after it has none.
        for measure in LENGTHS:
            if measure == "n_answer_chars":
                counts = status != "open"
            else:
                counts = (status != "absent") & is_verbatim

            values = group_traces.loc[counts, measure].to_numpy(float)
            rows.append(
                {
                    "group": str(group) or "(unnamed)",
                    "measure": measure,
                    **group_columns,
                    "n": len(values),
                    **_quantiles(values),
                }
            )
    return pd.DataFrame(rows)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    """The `QUANTILES` of values by name; NaN for none."""
    if not len(values):
        return dict.fromkeys(QUANTILES, np.nan)

    found = np.quantile(values, list(QUANTILES.values()))
    return dict(zip(QUANTILES, found, strict=True))
