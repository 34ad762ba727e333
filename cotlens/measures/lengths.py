"""Quantiles of the lengths of thinking and answer."""

import numpy as np
import pandas as pd

from cotlens.measures.groups import need
from cotlens.trace import Reasoning

# --- lengths ---------------------------------------------------------------------------------------------------
LENGTHS = {
    "n_think_chars": "Thinking (characters)",
    "n_answer_chars": "Answer (characters)",
    "n_steps": "Steps of thinking",
}
QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def length_quantiles(traces: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """Quantiles of the length of thinking, of the answer, and of the number of steps, by group.

    A trace without thinking counts in the lengths of answers only; one that was cut off inside its thought counts in
    those of thinking (a lower bound) and not in those of answers; one whose thinking is a summary or redacted counts in
    those of answers. Quantiles interpolate linearly (Hyndman and Fan's type 7, numpy's default).

    Args:
        traces: a trace table.
        by: the column that names the group; an empty name reads "(unnamed)".

    Returns:
        One row per (group, measure): n_traces, n_prompts, share_open, share_absent and share_hidden (summarised or
        redacted thinking) of all traces of the group; n, p5, p25, median, p75, p95 of those that count; NaN for none.
    """
    need(traces, by, "prompt_id", "status", *LENGTHS)
    rows = []
    for group, part in traces.groupby(by, sort=True, dropna=False):
        verbatim = part["status"].notna()
        if "reasoning" in part:
            verbatim &= part["reasoning"] == Reasoning.VERBATIM.value
        shares = {
            "n_traces": len(part),
            "n_prompts": part["prompt_id"].nunique(),
            "share_open": (part["status"] == "open").mean(),
            "share_absent": (part["status"] == "absent").mean(),
            "share_hidden": 1 - verbatim.mean(),
        }
        for measure in LENGTHS:
            without = "open" if measure == "n_answer_chars" else "absent"
            counts = part["status"] != without
            if measure != "n_answer_chars":
                counts &= verbatim
            values = part.loc[counts, measure].to_numpy(float)
            quantiles = {
                name: np.quantile(values, q) if len(values) else np.nan
                for name, q in QUANTILES.items()
            }
            rows.append(
                {
                    "group": str(group) or "(unnamed)",
                    "measure": measure,
                    **shares,
                    "n": len(values),
                    **quantiles,
                }
            )
    return pd.DataFrame(rows)
