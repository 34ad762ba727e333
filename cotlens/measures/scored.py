"""Token scores of one trace at a time, and sums over the tokens that have a score."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from cotlens.measures.groups import need_columns
from cotlens.stats.bootstrap import Flags, Floats, Indices
from cotlens.trace import Reasoning

Spans = Iterable[Mapping[str, int]]


class ScoredTrace(NamedTuple):
    """One trace's token scores.

    Attributes:
        trace_id: the trace.
        starts: where each token begins in the completion, code points; empty if unknown.
        columns: by name, one number per token; NaN is unscored.
    """

    trace_id: str
    starts: Indices
    columns: dict[str, Floats]


def scored_traces(
    scores: pd.DataFrame, column: str = "entropy", need_starts: bool = True
) -> Iterator[ScoredTrace]:
    """The traces that have scores.

    Args:
        scores: a score table.
        column: a column that the caller reads, with entropy and the divergences.
        need_starts: leave out traces whose tokens have no place in the text.

    Raises:
        ValueError: if the table lacks a column, or no trace has a value of `column`.
    """
    need_columns(scores, "trace_id", "token_starts", "error", column)

    # Columns that no trace has a value for are left out.
    wanted = dict.fromkeys(["entropy", "kl", "reverse_kl", column])
    names = [name for name in wanted if has_scores(scores, name)]
    if column not in names:
        raise ValueError(
            f"the scores have no {column}: it needs a reference or top-k words when they are made"
        )

    table = scores[["trace_id", "token_starts", "error", *names]]
    for row in table.itertuples(index=False):
        if row.error or (row.token_starts is None and need_starts):
            continue

        columns = {}
        for name in names:
            values = getattr(row, name)
            if values is not None:
                columns[name] = np.asarray(values, float)

        starts = np.zeros(0, np.intp)
        if row.token_starts is not None:
            starts = np.asarray(row.token_starts, np.intp)
        yield ScoredTrace(str(row.trace_id), starts, columns)


def has_scores(scores: pd.DataFrame, column: str) -> bool:
    """Whether the column is there and holds anything."""
    if column not in scores:
        return False
    return bool(scores[column].notna().any())


def think_spans(traces: pd.DataFrame) -> dict[str, Spans]:
    """Trace id -> spans of its thinking; a summary of hidden thinking counts as none."""
    ids = traces["trace_id"]
    spans_of = dict(zip(ids, traces["think_spans"], strict=True))

    # Without the column all thinking counts as verbatim.
    if "reasoning" in traces:
        is_verbatim = traces["reasoning"] == Reasoning.VERBATIM.value
        for trace_id in ids[~is_verbatim]:
            spans_of[trace_id] = ()
    return spans_of


def begins_inside(starts: Indices, spans: Spans) -> Flags:
    """Whether each token begins in one of the spans."""
    inside = np.zeros(len(starts), bool)
    for span in spans:
        has_begun = starts >= span["start"]
        has_ended = starts >= span["stop"]
        inside |= has_begun & ~has_ended
    return inside


def scored_only(values: Floats) -> Floats:
    """The values that are not NaN."""
    return values[~np.isnan(values)]


def mean_scored(values: Floats) -> float:
    """Mean of the scored values; NaN for none."""
    scored = scored_only(values)
    if not len(scored):
        return np.nan
    return float(scored.mean())


def share_above(values: Floats, high: float) -> float:
    """Share of the scored values above `high`; NaN for none, or without a threshold."""
    scored = scored_only(values)
    if not len(scored) or np.isnan(high):
        return np.nan
    return float((scored > high).mean())
