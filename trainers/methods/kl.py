"""Where in a thought did training move a model: at the cues, or everywhere?"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cotlens.probes.intervene import Find
from cotlens.text.steps import segment_trace
from cotlens.text.tokens import token_ranges
from cotlens.trace import Trace


def kl_by_step(scores: pd.DataFrame, traces: Sequence[Trace], judge: Find) -> pd.DataFrame:
    """Mean KL to the base in the step of the first cue, and in the other steps of the thought.

    In the paper, the KL of a model that was trained with IPO peaks at the cues.

    >>> scores = score_tokens(model, traces, reference=base).table()  # doctest: +SKIP
    >>> table = kl_by_step(scores, traces, first_cue)  # doctest: +SKIP
    >>> table["kl_cue"].mean() / table["kl_other"].mean()  # doctest: +SKIP

    Args:
        scores: of the traces, with `kl`.
        traces: the base's, with thinking.
        judge: the number of the first step, from a given one on, that is a cue; None: no cue.

    Returns:
        One row for each trace that has a cue and tokens with a KL in its step and in others:
        trace_id, step, kl_cue, n_cue, kl_other, n_other (tokens), and ratio = kl_cue / kl_other,
        NaN where the others have none.
    """
    scores_of = {row["trace_id"]: row for row in scores.to_dict("records")}
    rows = []
    for trace in traces:
        # As in ipo.py, the first step is never a cue.
        cue = judge(trace, 1)
        scored = scores_of.get(trace.id)
        if cue is None or scored is None:
            continue
        if scored["token_starts"] is None:
            continue

        # The tokens of each step that have a KL.
        values = []
        kl = np.asarray(scored["kl"], float)
        for first, stop in _token_ranges(scored, trace):
            step_values = kl[first:stop]
            values.append(step_values[~np.isnan(step_values)])

        # The step of the cue against all others.
        at_cue = values.pop(cue)
        others = np.concatenate(values) if values else np.array([])
        if not len(at_cue) or not len(others):
            continue

        row = (
            trace.id,
            cue,
            float(at_cue.mean()),
            len(at_cue),
            float(others.mean()),
            len(others),
        )
        rows.append(row)

    # Equal models have no KL anywhere, and no ratio.
    names = ["trace_id", "step", "kl_cue", "n_cue", "kl_other", "n_other"]
    table = pd.DataFrame(rows, columns=names)
    is_moved = table["kl_other"] > 0
    table["ratio"] = table["kl_cue"] / table["kl_other"].where(is_moved)
    return table


def _token_ranges(scored: Mapping[Any, Any], trace: Trace) -> Any:
    """First token of each step of the thought, and one past its last."""
    spans = [step.chars for step in segment_trace(trace)]
    starts = np.asarray(scored["token_starts"])
    words = np.asarray(scored["word_starts"])
    return token_ranges(starts, words, spans)
