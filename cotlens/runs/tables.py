"""Traces become rows, one per trace and one per step: all figures and statistics start here.

`SCHEMA` in `runs/schema.py` names every column with its type, unit and meaning. The columns are the
same in memory (pandas) and on disk (parquet), and the round trip is exact.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from cotlens.detect.answers import stated_answer
from cotlens.detect.features import feature_sums
from cotlens.detect.language import is_english
from cotlens.detect.reflect import decide_kinds, reflect_weights
from cotlens.detect.tokens import Flags, Steps, read_steps
from cotlens.detect.unsafe import MARKERS, decide_markers, known_flags, unsafe_weights
from cotlens.detect.words import WORD_LISTS, count_in_steps
from cotlens.formats.memory import Source, as_traces
from cotlens.judges.verdict import Verdict
from cotlens.runs.schema import NOT_STORED, SCORE_COLUMNS, arrow_schema
from cotlens.text.families import Tags
from cotlens.text.split import Split, request_in, split_trace
from cotlens.text.steps import ends_paragraph, step_places, step_tokens
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
    return steps.assign(text=step_texts(steps, completions))


def step_texts(steps: pd.DataFrame, completions: Mapping[str, str]) -> list[str]:
    """The text of each step.

    Args:
        steps: with trace_id, start and stop.
        completions: of their traces, by id.
    """
    texts = []
    places = steps[["trace_id", "start", "stop"]]
    for trace_id, start, stop in places.itertuples(index=False):
        completion = completions[trace_id]
        texts.append(completion[start:stop])
    return texts


def analyze_traces(traces: Iterable[Trace], tags: Tags | None = None) -> tuple[pa.Table, pa.Table]:
    """The trace table and the step table in Arrow. Each trace is split and cut once for both."""
    rows = []
    cut_thoughts = []
    for trace in traces:
        row = _trace_row(trace, split_trace(trace, tags=tags))
        cut = _cut(row)
        row["n_steps"] = len(cut.starts)
        rows.append(row)
        cut_thoughts.append(cut)
    trace_table = pa.Table.from_pylist(rows, arrow_schema("traces"))
    return trace_table, _step_table(cut_thoughts)


def trace_rows(traces: Iterable[Trace], tags: Tags | None = None) -> pa.Table:
    """The trace table as a run stores it: without the number of steps, which are not cut yet."""
    rows = [_trace_row(trace, split_trace(trace, tags=tags)) for trace in traces]
    return pa.Table.from_pylist(rows, arrow_schema("traces", leave_out=NOT_STORED))


# What the steps of a trace are made from, of the columns of the trace table.
STEPS_NEED = [
    "trace_id", "completion", "think_spans", "n_think_chars", "token_starts", "reasoning", "prompt",
    "meta",
]  # fmt: skip


def step_rows(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """The step table as a run stores it, from batches of its trace table (`STEPS_NEED`)."""
    return _step_table(_cut(row) for batch in batches for row in batch.to_pylist())


# --- steps -------------------------------------------------------------------------------------

_CHARS_AT_ONCE = 1_000_000  # of thinking: fewer cost more time, more cost more memory


class _Cut(NamedTuple):
    """A thought and its steps.

    Attributes:
        row: of the trace table.
        starts: of the steps.
        stops: likewise.
        tokens: the first token of each step, and the one after its last; None if unknown.
    """

    row: Mapping[str, Any]
    starts: Sequence[int]
    stops: Sequence[int]
    tokens: Sequence[Sequence[int]] | None


def _cut(row: Mapping[str, Any]) -> _Cut:
    """Cuts the thinking of a trace into steps."""
    completion = row["completion"]
    think = [(span["start"], span["stop"]) for span in row["think_spans"]]
    starts, stops = step_places(completion, think)

    # Steps have tokens if it is known where tokens begin.
    tokens = None
    if row["token_starts"] is not None:
        tokens = step_tokens(completion, row["token_starts"], zip(starts, stops, strict=True))
    return _Cut(row, starts, stops, tokens)


def _step_table(cuts: Iterable[_Cut]) -> pa.Table:
    """The step table of some traces, made in batches."""
    schema = arrow_schema("steps")
    tables = [schema.empty_table()]
    batch: list[_Cut] = []
    n_chars = 0
    for cut in cuts:
        if not cut.starts:
            continue
        batch.append(cut)
        n_chars += cut.row["n_think_chars"]
        if n_chars >= _CHARS_AT_ONCE:
            tables.append(_batch_table(batch, schema))
            batch = []
            n_chars = 0
    if batch:
        tables.append(_batch_table(batch, schema))
    return pa.concat_tables(tables).combine_chunks()


def _batch_table(cuts: Sequence[_Cut], schema: pa.Schema) -> pa.Table:
    """The rows of the steps of some traces, column by column."""
    sizes = np.array([len(cut.starts) for cut in cuts])
    of_step = np.repeat(np.arange(len(cuts)), sizes)
    first = np.cumsum(sizes) - sizes

    # Where each step is.
    starts = np.concatenate([cut.starts for cut in cuts])
    stops = np.concatenate([cut.stops for cut in cuts])
    texts = [_texts(cut) for cut in cuts]
    steps = read_steps(texts)
    ids = pa.array([cut.row["trace_id"] for cut in cuts], pa.string())
    totals = np.array([cut.row["n_think_chars"] for cut in cuts])

    columns: dict[str, Any] = {
        "trace_id": ids.take(pa.array(of_step)),
        "step": np.arange(len(of_step)) - first[of_step],
        "start": starts,
        "stop": stops,
        "position": _positions(stops - starts, totals, of_step),
        "paragraph": _paragraphs(steps.texts, first),
        "answer": [*map(stated_answer, steps.texts)],
    }
    columns |= _token_columns(cuts)
    for name in WORD_LISTS:
        columns[f"n_{name}"] = count_in_steps(steps, name)

    # Only verbatim reasoning is measured: the steps of a summary are not the model's own.
    is_verbatim = np.array([cut.row["reasoning"] == Reasoning.VERBATIM.value for cut in cuts])
    requests = [_request(cut.row) for cut in cuts]
    columns |= _detect(steps, texts, requests, is_verbatim)

    arrays = [_as_array(columns[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _request(row: Mapping[str, Any]) -> str:
    """What the user asked, as `request_of` has it."""
    meta = json.loads(row["meta"]) if '"request"' in row["meta"] else {}
    return request_in(row["prompt"], meta)


def _texts(cut: _Cut) -> list[str]:
    completion = cut.row["completion"]
    return [completion[start:stop] for start, stop in zip(cut.starts, cut.stops, strict=True)]


def _as_array(values: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(values, pa.Array):
        return values
    return pa.array(values, kind)


def _token_columns(cuts: Sequence[_Cut]) -> dict[str, pa.Array]:
    """The tokens of each step; null where it is not known where tokens begin."""
    starts: list[int | None] = []
    stops: list[int | None] = []
    for cut in cuts:
        unknown = [None] * len(cut.starts)
        firsts, ends = zip(*cut.tokens, strict=True) if cut.tokens else (unknown, unknown)
        starts += firsts
        stops += ends
    return {
        "token_start": pa.array(starts, pa.int64()),
        "token_stop": pa.array(stops, pa.int64()),
    }


def _positions(
    lengths: NDArray[np.int64], totals: NDArray[np.int64], of_step: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Middle of each step as a share of the thinking, without commentary between thoughts."""
    ends = np.cumsum(lengths)
    before_trace = np.cumsum(totals) - totals
    middles = ends - lengths - before_trace[of_step] + lengths / 2
    return middles / totals[of_step]


def _paragraphs(texts: Sequence[str], first: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each step's paragraph within its trace."""
    ends = np.array([*map(ends_paragraph, texts)], bool)
    n_ended = np.cumsum(ends) - ends
    sizes = np.diff(first, append=len(texts))
    return n_ended - np.repeat(n_ended[first], sizes)


def _detect(
    steps: Steps,
    texts: Sequence[Sequence[str]],
    requests: Sequence[str],
    is_verbatim: Flags,
) -> dict[str, Any]:
    """Columns of what `classify` and `mark` return; of other steps than verbatim ones nothing."""
    n_steps = len(steps.texts)
    places = np.flatnonzero(is_verbatim[steps.traces()])
    kinds = np.full(n_steps, "", object)
    flags = {name: np.full(n_steps, None, object) for name in _FLAGS}
    p_reflect = np.full(n_steps, np.nan)
    p_self_jailbreak = np.full(n_steps, np.nan)

    if not is_verbatim.all():
        chosen: list[int] = np.flatnonzero(is_verbatim).tolist()
        requests = [requests[number] for number in chosen]
        steps = read_steps([texts[number] for number in chosen])
    if len(places):
        # The features are computed once for both.
        english = is_english(steps)
        kind_sums, marker_sums = feature_sums(steps, reflect_weights(), unsafe_weights())
        found = decide_kinds(steps, kind_sums, english)
        marked = decide_markers(steps, marker_sums, english, requests)

        kinds[places] = found.kind
        p_reflect[places] = found.p_reflect
        p_self_jailbreak[places] = np.where(english, marked.p_self_jailbreak, np.nan)
        flags["is_reflection"][places] = found.is_reflection
        flags["is_self_jailbreak"][places] = known_flags(marked.is_self_jailbreak, english)
        flags["is_unsafe"][places] = known_flags(marked.is_unsafe, english)
        for column, marker in enumerate(MARKERS):
            flags[marker.value][places] = known_flags(marked.carried[:, column], english)

    return {
        "kind": kinds,
        "p_reflect": p_reflect,
        "p_self_jailbreak": p_self_jailbreak,
        **flags,
    }


_FLAGS = ("is_reflection", "is_self_jailbreak", "is_unsafe", *(marker.value for marker in MARKERS))


# --- traces ------------------------------------------------------------------------------------

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
