"""Token scores of one trace at a time, and sums over the tokens that have a score."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from cotlens.measures.groups import need_columns
from cotlens.stats.bootstrap import Flags, Floats, Indices
from cotlens.text.tokens import token_ranges
from cotlens.trace import Reasoning

Spans = Iterable[Mapping[str, int]]


class ScoredTrace(NamedTuple):
    """One trace's token scores.

    Attributes:
        trace_id: the trace.
        starts: where each token begins in the completion, code points; empty if unknown.
        words: the first character of each token that is no white space, likewise; -1 for a token of
            white space alone (see `text.tokens`).
        columns: by name, one number per token; NaN is unscored.
    """

    trace_id: str
    starts: Indices
    words: Indices
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
    places = ["token_starts", "word_starts"] if need_starts else []
    need_columns(scores, "trace_id", "error", *places, column)

    # Columns that no trace has a value for are left out.
    wanted = dict.fromkeys(["entropy", "kl", "reverse_kl", column])
    names = [name for name in wanted if has_scores(scores, name)]
    if column not in names:
        raise ValueError(
            f"the scores have no {column}: it needs a reference or top-k words when they are made"
        )

    table = scores[["trace_id", "error", *places, *names]]
    for row in table.itertuples(index=False):
        if row.error:
            continue

        # Where the tokens lie, if the caller asks.
        starts = np.zeros(0, np.intp)
        words = starts
        if need_starts:
            if row.token_starts is None or row.word_starts is None:
                continue
            starts = np.asarray(row.token_starts, np.intp)
            words = np.asarray(row.word_starts, np.intp)

        columns = {}
        for name in names:
            values = getattr(row, name)
            if values is not None:
                columns[name] = np.asarray(values, float)

        yield ScoredTrace(str(row.trace_id), starts, words, columns)


def scored_steps(
    steps: pd.DataFrame, scores: pd.DataFrame, column: str = "entropy"
) -> Iterator[tuple[ScoredTrace, Indices, Indices]]:
    """The traces that have scores and steps, with the places of their steps.

    Yields:
        The trace; the rows of its steps in the step table, by number; and one row (first token, one
        past the last) for each of them.
    """
    need_columns(steps, "trace_id", "start", "stop")
    spans = steps[["start", "stop"]].to_numpy()
    by_trace = steps.reset_index(drop=True).groupby("trace_id", sort=False)
    rows_of = by_trace.indices

    for trace in scored_traces(scores, column):
        if trace.trace_id in rows_of:
            rows = np.asarray(rows_of[trace.trace_id])
            yield trace, rows, token_ranges(trace.starts, trace.words, spans[rows])


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


def belongs_to(trace: ScoredTrace, spans: Spans) -> Flags:
    """Whether each token of a trace belongs to one of the spans."""
    bounds = [(span["start"], span["stop"]) for span in spans]
    ranges = token_ranges(trace.starts, trace.words, bounds)
    n_tokens = len(trace.starts)
    belongs = np.zeros(n_tokens, bool)
    for first, stop in ranges:
        belongs[first:stop] = True
    return belongs


def first_words(trace: ScoredTrace, ranges: Indices) -> Indices:
    """The first token of each range that is not white space alone; else the range's first.

    The first step of a thought may begin with a line break of its own token.

    Args:
        trace: the trace.
        ranges: one row (first token, one past the last) per step.
    """
    n_tokens = len(trace.words)
    has_word = trace.words >= 0
    word_tokens = np.flatnonzero(has_word)
    word_tokens = np.append(word_tokens, n_tokens)

    # The first token with a word from the range's first on, if it is in the range.
    firsts, stops = ranges.T
    next_words = np.searchsorted(word_tokens, firsts)
    candidates = word_tokens[next_words]
    is_inside = candidates < stops
    return np.where(is_inside, candidates, firsts)


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
