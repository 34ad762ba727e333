"""How likely are the steps of a trace to a model?"""

import numpy as np
import pandas as pd

from cotlens.measures.scored import scored_only, scored_steps


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
    counts = np.zeros(len(steps), int)
    sums = np.full(len(steps), np.nan)

    # Rows of the step table stay NaN where a trace has no scores.
    for trace, rows, ranges in scored_steps(steps, scores, "logprob"):
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
