"""Traces become rows, one per trace and one per step: all figures and statistics start here.

`SCHEMA` in `runs/schema.py` names every column with its type, unit and meaning. The columns are the
same in memory (pandas) and on disk (parquet), and the round trip is exact.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cotlens.detect.answers import stated_answer
from cotlens.detect.features import feature_sums, tokenize
from cotlens.detect.language import is_english
from cotlens.detect.reflect import decide_kinds, reflect_weights
from cotlens.detect.unsafe import MARKERS, decide_markers, unsafe_weights
from cotlens.detect.words import WORD_LISTS, count_words
from cotlens.formats.memory import Source, as_traces
from cotlens.judges.verdict import Verdict
from cotlens.runs.schema import NOT_STORED, SCORE_COLUMNS, STEP_COLUMNS, arrow_schema
from cotlens.text.families import Tags
from cotlens.text.split import Split, request_of, split_trace
from cotlens.text.steps import Step, group_paragraphs, segment_trace
from cotlens.text.tokens import token_ranges, word_starts
from cotlens.trace import Reasoning, Span, Trace, dump_json

if TYPE_CHECKING:  # the module loads torch
    from cotlens.models.score import ScoredTrace


def trace_table(traces: Source, *, tags: Tags | None = None) -> pd.DataFrame:
    """One row per trace with the columns `SCHEMA["traces"]`: the trace, its split, its lengths.

    Args:
        traces: any iterable of traces (an iterator such as `read_traces` returns is used up by it),
            texts or rows, or a frame, as `as_traces` takes them.
        tags: delimiters of the thought, where they are not among those that cotlens knows.
    """
    table, _steps = analyze_traces(as_traces(traces), tags)
    return table.to_pandas()


def step_table(traces: Source, *, tags: Tags | None = None, text: bool = False) -> pd.DataFrame:
    """One row per step of thinking with the columns `SCHEMA["steps"]`.

    Rows are in the order of traces and steps. Traces without thinking have no row. `start` and
    `stop` index the completion.

    Args:
        traces: any iterable of traces (an iterator such as `read_traces` returns is used up by it),
            texts or rows, or a frame, as `as_traces` takes them.
        tags: delimiters of the thought, where they are not among those that cotlens knows.
        text: adds the text of each step as a last column `text`.
    """
    own_traces = as_traces(traces)
    if text:
        own_traces = list(own_traces)
    _traces, table = analyze_traces(own_traces, tags)
    steps = table.to_pandas()
    if not text:
        return steps

    completions = {trace.id: trace.completion for trace in own_traces}
    texts = []
    places = steps[["trace_id", "start", "stop"]]
    for trace_id, start, stop in places.itertuples(index=False):
        completion = completions[trace_id]
        texts.append(completion[start:stop])
    return steps.assign(text=texts)


def analyze_traces(traces: Iterable[Trace], tags: Tags | None = None) -> tuple[pa.Table, pa.Table]:
    """The trace table and the step table in Arrow. Each trace is split and cut once for both."""
    rows = []
    step_columns = _no_steps()
    for trace in traces:
        split = split_trace(trace, tags=tags)
        steps = segment_trace(trace, split)
        row = _trace_row(trace, split)
        row["n_steps"] = len(steps)
        rows.append(row)
        _add_steps(step_columns, trace, split, steps)
    trace_table = pa.Table.from_pylist(rows, arrow_schema("traces"))
    return trace_table, pa.Table.from_pydict(step_columns, arrow_schema("steps"))


def trace_rows(traces: Iterable[Trace], tags: Tags | None = None) -> pa.Table:
    """The trace table as a run stores it: without the number of steps, which are not cut yet."""
    rows = [_trace_row(trace, split_trace(trace, tags=tags)) for trace in traces]
    return pa.Table.from_pylist(rows, arrow_schema("traces", leave_out=NOT_STORED))


def step_rows(traces: Iterable[Trace], tags: Tags | None = None) -> pa.Table:
    """The step table as a run stores it."""
    step_columns = _no_steps()
    for trace in traces:
        split = split_trace(trace, tags=tags)
        _add_steps(step_columns, trace, split, segment_trace(trace, split))
    return pa.Table.from_pydict(step_columns, arrow_schema("steps"))


def _no_steps() -> dict[str, list[Any]]:
    return {column.name: [] for column in STEP_COLUMNS}


def _add_steps(
    columns: dict[str, list[Any]], trace: Trace, split: Split, steps: Sequence[Step]
) -> None:
    """Add the rows of one trace, column by column: a million steps need no million dictionaries."""
    if steps:
        for name, values in _step_values(trace, split, steps).items():
            columns[name] += values


# Columns of the trace table that hold a field of the trace as it is.
_COPIED = (
    "prompt_id", "model", "method", "training_step", "domain", "split", "sample", "finish_reason",
    "reward", "gold", "prompt", "completion", "prompt_token_ids", "token_ids", "logprobs",
    "token_starts",
)  # fmt: skip


def _trace_row(trace: Trace, split: Split) -> dict[str, Any]:
    """A row of the trace table, but for `n_steps`."""
    row = {name: getattr(trace, name) for name in _COPIED}
    row |= {
        "trace_id": trace.id,
        "status": split.status.value,
        "opened_by": split.opened_by.value,
        "origin": trace.origin.value,
        "reasoning": trace.reasoning.value,
        "answer_start": split.answer.start,
        "answer_stop": split.answer.stop,
        "think_spans": [span._asdict() for span in split.think],
        "n_think_chars": sum(span.length for span in split.think),
        "n_answer_chars": split.answer.length,
        "labels": [label._asdict() for label in trace.labels],
        "meta": dump_json(trace.meta),
    }

    # From the first thought to the last; without a thought an empty span where the answer starts.
    think = split.think or (Span(split.answer.start, split.answer.start),)
    row["think_start"] = think[0].start
    row["think_stop"] = think[-1].stop

    # Any list per token gives their number; only their starts tell which are thinking.
    row["n_tokens"] = None
    for per_token in (trace.token_ids, trace.logprobs, trace.token_starts):
        if per_token is not None:
            row["n_tokens"] = len(per_token)
    row["n_think_tokens"] = None
    if trace.token_starts is not None:
        words = word_starts(trace.completion, trace.token_starts)
        n_think_tokens = 0
        for first, stop in token_ranges(trace.token_starts, words, split.think).tolist():
            n_think_tokens += stop - first
        row["n_think_tokens"] = n_think_tokens
    return row


def _step_values(trace: Trace, split: Split, steps: Sequence[Step]) -> dict[str, Iterable[Any]]:
    """The columns of the step table for the steps of one trace."""
    spans = [step.chars for step in steps]
    starts, stops = zip(*spans, strict=True)
    texts = [span.of(trace.completion) for span in spans]

    # Steps have tokens if it is known where tokens begin.
    token_spans = [step.tokens or (None, None) for step in steps]
    token_starts, token_stops = zip(*token_spans, strict=True)

    paragraphs = group_paragraphs(trace.completion, spans)
    paragraph_numbers = []
    for number, paragraph in enumerate(paragraphs):
        paragraph_numbers += [number] * paragraph.length

    values: dict[str, Iterable[Any]] = {
        "trace_id": [trace.id] * len(steps),
        "step": range(len(steps)),
        "start": starts,
        "stop": stops,
        "position": _positions(spans, split),
        "paragraph": paragraph_numbers,
        "answer": map(stated_answer, texts),
        "token_start": token_starts,
        "token_stop": token_stops,
    }
    for name in WORD_LISTS:
        counts = [count_words(text, name) for text in texts]
        values[f"n_{name}"] = counts

    # Only verbatim reasoning is measured: the steps of a summary are not the model's own.
    if trace.reasoning is Reasoning.VERBATIM:
        return values | _detect(texts, request_of(trace))
    return values | _undetected(len(steps))


def _positions(spans: Sequence[Span], split: Split) -> list[float]:
    """Middle of each step as a share of the thinking, without commentary between thoughts."""
    n_think_chars = sum(span.length for span in split.think)
    positions = []
    n_before = 0
    for span in spans:
        middle = n_before + span.length / 2
        positions.append(middle / n_think_chars)
        n_before += span.length
    return positions


def _detect(texts: Sequence[str], request: str) -> dict[str, list[Any]]:
    """Columns of what `classify` and `mark` return, with the features computed once for both."""
    tokens = [tokenize(text) for text in texts]
    english = is_english(texts, tokens)
    kind_sums, marker_sums = feature_sums(tokens, reflect_weights(), unsafe_weights())
    kinds = decide_kinds(texts, tokens, kind_sums, english)
    found = decide_markers(texts, tokens, marker_sums, english, request)

    columns = {
        "kind": kinds.kind,
        "p_reflect": kinds.p_reflect.tolist(),
        "is_reflection": kinds.is_reflection,
        "p_self_jailbreak": found.p_self_jailbreak.tolist(),
        "is_self_jailbreak": found.is_self_jailbreak,
        "is_unsafe": found.is_unsafe,
    }
    for marker in MARKERS:
        # None for a step whose language is unknown.
        columns[marker.value] = [
            None if markers is None else marker in markers for markers in found.markers
        ]
    return columns


def _undetected(n_steps: int) -> dict[str, list[Any]]:
    """The columns of `_detect` for steps of which nothing is known."""
    columns = {
        "kind": [""] * n_steps,
        "p_reflect": [math.nan] * n_steps,
        "p_self_jailbreak": [math.nan] * n_steps,
    }
    for name in ("is_reflection", "is_self_jailbreak", "is_unsafe", *MARKERS):
        columns[name] = [None] * n_steps
    return columns


def guard_rows(
    ids: Sequence[str], judge: str, revision: str, part: str, verdicts: Sequence[Verdict]
) -> pa.Table:
    """Verdicts as a table with the columns `SCHEMA["guard"]`, as a run stores it."""
    rows = []
    for trace_id, verdict in zip(ids, verdicts, strict=True):
        row = verdict._asdict()
        row["trace_id"] = trace_id
        row["judge"] = judge
        row["revision"] = revision
        row["part"] = str(part)
        rows.append(row)
    return pa.Table.from_pylist(rows, arrow_schema("guard"))


# Columns of the score table with one value per trace; all others have one list per trace.
_PER_TRACE = (
    "trace_id", "token_ids", "token_starts", "word_starts", "encoding", "context", "exact",
    "n_drift", "windowed", "error",
)  # fmt: skip


def score_rows(scored: "Sequence[ScoredTrace]") -> pa.Table:
    """The result of `score_tokens` as a table with the columns `SCHEMA["scores"]`."""
    available = set()
    for trace in scored:
        available |= set(trace.values)

    columns = {}
    for column in SCORE_COLUMNS:
        name = column.name
        kind = column.type
        if name in _PER_TRACE:
            values = [getattr(trace, name) for trace in scored]
            columns[name] = pa.array(values, kind)
        elif name in available:
            arrays = [trace.values[name] for trace in scored]
            columns[name] = _list_column(arrays, kind)
        else:
            # A score that was not asked for.
            columns[name] = pa.nulls(len(scored), kind)
    return pa.Table.from_pydict(columns, arrow_schema("scores"))


def _list_column(arrays: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
    """One list per array, made without a Python object per number.

    In a column of whole numbers NaN becomes null.
    """
    flat = np.concatenate(arrays)
    item_kind = kind.value_type
    if flat.ndim == 1:
        items = _flat_column(flat, item_kind)
    else:
        # Several numbers per token: each item is a list of the same width.
        n_items, width = flat.shape
        item_ends = np.arange(n_items + 1) * width
        numbers = _flat_column(flat.ravel(), item_kind.value_type)
        offsets = pa.array(item_ends, pa.int32())
        items = pa.ListArray.from_arrays(offsets, numbers, type=item_kind)

    lengths = [len(array) for array in arrays]
    ends = np.cumsum([0, *lengths])
    offsets = pa.array(ends, pa.int32())
    return pa.ListArray.from_arrays(offsets, items, type=kind)


def _flat_column(flat: np.ndarray, kind: pa.DataType) -> pa.Array:
    if pa.types.is_floating(kind):
        return pa.array(flat, kind)

    # Ranks and ids are computed as floats, where NaN is unknown.
    is_unknown = np.isnan(flat)
    whole = np.where(is_unknown, 0, flat)
    whole = whole.astype(np.int32)
    return pa.array(whole, kind, mask=is_unknown)
