"""How likely is a training row under the model that is to learn it?

ThinkSafe (arXiv 2601.23143) and DGR (arXiv 2602.02136) trace the loss of reasoning to data that the
student would not have written. Score the *training rows* with the frozen student, prompt as in
training, and read the perplexity of the completions.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.measures.groups import need, need_columns
from cotlens.measures.scored import belongs_to, scored_traces, think_spans
from cotlens.stats.bootstrap import Estimate, Flags

PARTS = ("all", "thinking", "answer")


def row_likelihood(traces: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Negative log-likelihood of each row, by part.

    Args:
        traces: a trace table of the training rows.
        scores: their score table, by the student; `logprob` is in nats, without a temperature.

    Returns:
        One row per scored trace and part (all, thinking, answer): trace_id, prompt_id, part, nll
        (nats, the sum over tokens), n_tokens, perplexity (exp(nll / n_tokens); NaN without tokens).
        Tags and the end token belong to `all` only.
    """
    need(traces, "trace_id", "prompt_id", "think_spans", "answer_start", "answer_stop")
    spans_of = think_spans(traces)
    prompt_of = dict(zip(traces["trace_id"], traces["prompt_id"], strict=True))
    starts = dict(zip(traces["trace_id"], traces["answer_start"], strict=True))
    stops = dict(zip(traces["trace_id"], traces["answer_stop"], strict=True))

    rows = []
    for trace in scored_traces(scores, "logprob"):
        if trace.trace_id not in spans_of:
            continue
        key = trace.trace_id
        answer = {"start": starts[key], "stop": stops[key]}
        logprob = trace.columns["logprob"]
        everywhere = np.ones(len(logprob), bool)
        places: Mapping[str, Flags] = {
            "all": everywhere,
            "thinking": belongs_to(trace, spans_of[key]),
            "answer": belongs_to(trace, [answer]),
        }
        for part in PARTS:
            part_logprobs = logprob[places[part] & ~np.isnan(logprob)]
            nll = -float(part_logprobs.sum())
            n_tokens = len(part_logprobs)
            row = {
                "trace_id": key,
                "prompt_id": prompt_of[key],
                "part": part,
                "nll": nll,
                "n_tokens": n_tokens,
                "perplexity": np.exp(nll / n_tokens) if n_tokens else np.nan,
            }
            rows.append(row)
    return pd.DataFrame(rows, columns=_COLUMNS)


_COLUMNS = ["trace_id", "prompt_id", "part", "nll", "n_tokens", "perplexity"]


def perplexity(likelihood: pd.DataFrame, part: str = "all", **options: int) -> Estimate:
    """Perplexity of a data set: exp(sum of nll / sum of tokens), with an interval over prompts.

    It is not the mean of the rows' perplexities, in which a short row weighs as much as a long one.

    Args:
        likelihood: of `row_likelihood`.
        part: all, thinking or answer.
        **options: of `stats.ratio`.

    Raises:
        ValueError: for an unknown part.
    """
    if part not in PARTS:
        raise ValueError(f"perplexity: expected a part of {', '.join(PARTS)}, got {part!r}")
    rows = likelihood[likelihood["part"] == part]
    mean_nll = stats.ratio(rows["nll"], rows["n_tokens"], rows["prompt_id"], **options)
    return mean_nll._replace(
        value=float(np.exp(mean_nll.value)),
        low=float(np.exp(mean_nll.low)),
        high=float(np.exp(mean_nll.high)),
    )


class SkillByPerplexity(NamedTuple):
    """Does a training cost more skill, the less likely its rows were?

    Attributes:
        rho: Spearman's rank correlation of perplexity and change of skill over arms; NaN with fewer
            than three.
        n: arms.
    """

    rho: float
    n: int


def perplexity_by_arm(likelihood: pd.DataFrame, part: str = "all", **options: int) -> pd.DataFrame:
    """The perplexity of the rows of each arm: arm, value, low, high, n, n_prompts.

    Args:
        likelihood: of `row_likelihood`, with `arm`; rows of several seeds are taken together, and
            a prompt of two seeds is one.
        part: as in `perplexity`.
        **options: as in `perplexity`.
    """
    need_columns(likelihood, "arm", "part", "prompt_id", "nll", "n_tokens")
    rows = []
    for arm, of_arm in likelihood.groupby("arm", sort=False, observed=True):
        estimate = perplexity(of_arm, part, **options)
        rows.append(
            {
                "arm": arm,
                "value": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "n_prompts": estimate.n_clusters,
            }
        )
    return pd.DataFrame(rows, columns=["arm", "value", "low", "high", "n", "n_prompts"])


def skill_by_perplexity(table: pd.DataFrame) -> SkillByPerplexity:
    """The rank correlation of the perplexity of training rows with the change of skill, over arms.

    Args:
        table: one row per arm: `perplexity` of its rows under the student before training, `change`
            of skill. Arms without one of the two are left out.
    """
    need_columns(table, "perplexity", "change")
    known = table[["perplexity", "change"]].dropna()
    if len(known) < 3:
        return SkillByPerplexity(np.nan, len(known))
    rho = known["perplexity"].corr(known["change"], method="spearman")
    return SkillByPerplexity(float(rho), len(known))
