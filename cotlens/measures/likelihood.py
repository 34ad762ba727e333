"""How likely are the steps of a trace to a model?"""

import numpy as np
import pandas as pd

from cotlens.measures.groups import need_columns
from cotlens.measures.scored import scored_only, scored_traces
from cotlens.text.tokens import token_ranges


def nll_of_steps(scores: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """The step table with each step's negative log-likelihood, in nats.

    A token belongs to the step that holds its first character that is no white space (see
    `text.tokens`). Added columns: `n_scored`, `nll` (the sum of -log p over the step's scored
    tokens) and `nll_mean` (the same per token). NaN: the step has no scored token.

    Two models are compared on the same steps: `score_tokens(model, traces)` of each. A step that
    training has made less likely has a larger one.

    >>> table = nll_of_steps(score_tokens(model, traces).table(), step_table(traces))
    ... # doctest: +SKIP

    Args:
        scores: a score table with the column `logprob`.
        steps: a step table of the same traces.

    Raises:
        ValueError: if a table lacks a column, or no trace has a log-prob.
    """
    need_columns(steps, "trace_id", "start", "stop")

    counts = np.zeros(len(steps), int)
    sums = np.full(len(steps), np.nan)

    # Rows of the step table by trace; they stay NaN where a trace has no scores.
    spans = steps[["start", "stop"]].to_numpy()
    numbered = steps.reset_index(drop=True)
    by_trace = numbered.groupby("trace_id", sort=False)
    rows_of = by_trace.indices

    for trace in scored_traces(scores, "logprob"):
        if trace.trace_id not in rows_of:
            continue

        # The tokens of each of its steps.
        rows = rows_of[trace.trace_id]
        ranges = token_ranges(
            trace.starts,
            trace.words,
            spans[rows],
        )
        for row, (first, stop) in zip(rows, ranges, strict=True):
            logprobs = trace.columns["logprob"][first:stop]
            scored = scored_only(logprobs)
            if len(scored):
                counts[row] = len(scored)
                sums[row] = -scored.sum(dtype=float)

    # A step without a scored token: NaN / 0 is NaN.
    with np.errstate(invalid="ignore"):
        means = sums / counts
    return steps.assign(
        n_scored=counts,
        nll=sums,
        nll_mean=means,
    )
