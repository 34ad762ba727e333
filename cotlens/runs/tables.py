"""One row per trace and one row per step: the tables that every figure and statistic starts from.

`table` joins what the rooms before it found. `SCHEMA` names every column with its type, unit and meaning; the same
columns stand in memory (pandas) and on disk (parquet), and the round trip is exact.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cotlens.detect.answers import stated_answer
from cotlens.detect.features import feature_sums, tokenize
from cotlens.detect.language import is_english
from cotlens.detect.reflect import StepKinds, decide_kinds, reflect_weights
from cotlens.detect.unsafe import MARKERS, StepMarkers, decide_markers, unsafe_weights
from cotlens.detect.words import WORD_LISTS, count_words
from cotlens.runs.schema import GUARD_COLUMNS, SCORE_COLUMNS, STEP_COLUMNS, arrow_schema
from cotlens.text.families import Tags
from cotlens.text.split import Split, split_trace
from cotlens.text.steps import Step, group_paragraphs, segment_trace
from cotlens.trace import Reasoning, Trace, dump_json

if TYPE_CHECKING:
    from cotlens.judges.verdict import Verdict
    from cotlens.models.score import ScoredTrace


def trace_table(traces: Iterable[Trace], *, tags: Tags | None = None) -> pd.DataFrame:
    """One row per trace with the columns `SCHEMA["traces"]`: the trace itself, its split and its lengths."""
    return analyze_traces(traces, tags)[0].to_pandas()


def step_table(
    traces: Iterable[Trace], *, tags: Tags | None = None, text: bool = False
) -> pd.DataFrame:
    """One row per step of thinking with the columns `SCHEMA["steps"]`, in the order of traces and steps.

    Traces without thinking have no row. `start` and `stop` index the completion.

    Args:
        traces: any iterable; an iterator such as `read_traces` returns is used up by it.
        tags: delimiters of the thought, where they are not among those that cotlens knows.
        text: adds the text of each step as a last column `text`.
    """
    if not text:
        return analyze_traces(traces, tags)[1].to_pandas()
    kept = {trace.id: trace for trace in traces}
    table = step_table(kept.values(), tags=tags)
    spans = zip(table["trace_id"], table["start"], table["stop"], strict=True)
    return table.assign(text=[kept[key].completion[start:stop] for key, start, stop in spans])


def analyze_traces(traces: Iterable[Trace], tags: Tags | None = None) -> tuple[pa.Table, pa.Table]:
    """The trace table and the step table in Arrow, as a run stores them; each trace is split and cut once."""
    trace_rows: list[dict[str, Any]] = []
    steps: dict[str, list[Any]] = {column.name: [] for column in STEP_COLUMNS}
    for trace in traces:
        split = split_trace(trace, tags=tags)
        found = segment_trace(trace, split)
        trace_rows.append(_trace_row(trace, split, len(found)))
        _add_steps(steps, trace, split, found)
    return (
        pa.Table.from_pylist(trace_rows, arrow_schema("traces")),
        pa.Table.from_pydict(steps, arrow_schema("steps")),
    )


def guard_rows(
    ids: Sequence[str], judge: str, revision: str, part: str, verdicts: "Sequence[Verdict]"
) -> pa.Table:
    """Verdicts as a table with the columns `SCHEMA["guard"]`, as a run stores it."""
    common = {"judge": judge, "revision": revision, "part": str(part)}
    names = {column.name for column in GUARD_COLUMNS}
    rows = [
        {
            "trace_id": key,
            **common,
            **{name: value for name, value in verdict._asdict().items() if name in names},
        }
        for key, verdict in zip(ids, verdicts, strict=True)
    ]
    return pa.Table.from_pylist(rows, arrow_schema("guard"))


def score_rows(scored: "Sequence[ScoredTrace]") -> pa.Table:
    """What `score_tokens` returned as a table with the columns `SCHEMA["scores"]`, as a run stores it."""
    schema, columns = arrow_schema("scores"), {}
    for column in SCORE_COLUMNS:
        if column.name in _PER_TRACE:
            columns[column.name] = pa.array(
                [getattr(one, column.name) for one in scored], column.type
            )
        elif not any(column.name in one.values for one in scored):
            columns[column.name] = pa.nulls(len(scored), column.type)
        else:
            columns[column.name] = _list_column(
                [one.values[column.name] for one in scored], column.type
            )
    return pa.Table.from_pydict(columns, schema)


_PER_TRACE = (
    "trace_id",
    "token_ids",
    "token_starts",
    "encoding",
    "context",
    "exact",
    "n_drift",
    "windowed",
    "error",
)


def _list_column(parts: Sequence[np.ndarray], kind: pa.DataType) -> pa.Array:
    """One list per array, without a Python object per number; in a column of whole numbers NaN becomes null."""
    flat = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    offsets = pa.array(np.cumsum([0, *map(len, parts)]), pa.int32())
    inner = kind.value_type
    if flat.ndim == 1:
        return pa.ListArray.from_arrays(offsets, _flat_column(flat, inner), type=kind)
    ends = pa.array(np.arange(len(flat) + 1) * (flat.size // max(len(flat), 1)), pa.int32())
    rows = pa.ListArray.from_arrays(ends, _flat_column(flat.ravel(), inner.value_type), type=inner)
    return pa.ListArray.from_arrays(offsets, rows, type=kind)


def _flat_column(flat: np.ndarray, kind: pa.DataType) -> pa.Array:
    if pa.types.is_floating(kind):
        return pa.array(flat, kind)
    unknown = np.isnan(flat)
    return pa.array(np.where(unknown, 0, flat).astype(np.int32), kind, mask=unknown)


def _trace_row(trace: Trace, split: Split, n_steps: int) -> dict[str, Any]:
    think = split.think
    per_token = next(
        (v for v in (trace.token_ids, trace.logprobs, trace.token_starts) if v is not None), None
    )
    first = think[0].start if think else split.answer.start
    return {
        "trace_id": trace.id,
        "status": split.status.value,
        "opened_by": split.opened_by.value,
        "origin": trace.origin.value,
        "reasoning": trace.reasoning.value,
        "think_start": first,
        "think_stop": think[-1].stop if think else first,
        "answer_start": split.answer.start,
        "answer_stop": split.answer.stop,
        "think_spans": [span._asdict() for span in think],
        "n_think_chars": sum(span.length for span in think),
        "n_answer_chars": split.answer.length,
        "n_steps": n_steps,
        "n_tokens": None if per_token is None else len(per_token),
        "n_think_tokens": _think_tokens(trace, split),
        "labels": [label._asdict() for label in trace.labels],
        "meta": dump_json(trace.meta),
        **{name: getattr(trace, name) for name in _COPIED},
    }


def _think_tokens(trace: Trace, split: Split) -> int | None:
    if trace.token_starts is None:
        return None
    return sum(
        span.start <= start < span.stop for start in trace.token_starts for span in split.think
    )


_COPIED = (
    "prompt_id", "model", "method", "training_step", "domain", "split", "sample", "finish_reason", "reward", "gold",
    "prompt", "completion", "prompt_token_ids", "token_ids", "logprobs", "token_starts",
)  # fmt: skip


def _add_steps(
    columns: dict[str, list[Any]], trace: Trace, split: Split, steps: Sequence[Step]
) -> None:
    """Appends the steps of one trace, column by column: a million steps make no million dictionaries."""
    if not steps:
        return
    spans = [step.chars for step in steps]
    paragraphs = group_paragraphs(trace.completion, spans)
    columns["trace_id"] += [trace.id] * len(steps)
    columns["step"] += range(len(steps))
    columns["start"] += [span.start for span in spans]
    columns["stop"] += [span.stop for span in spans]
    columns["position"] += _positions(spans, sum(span.length for span in split.think))
    columns["paragraph"] += [i for i, group in enumerate(paragraphs) for _ in range(group.length)]
    texts = [span.of(trace.completion) for span in spans]
    # Only verbatim reasoning is measured: a summary of hidden thinking has steps, but not the model's.
    kinds, found = _detect(texts) if trace.reasoning is Reasoning.VERBATIM else _nothing(len(texts))
    columns["kind"] += kinds.kind
    columns["p_reflect"] += kinds.p_reflect.tolist()
    columns["is_reflection"] += kinds.is_reflection
    columns["p_self_jailbreak"] += found.p_self_jailbreak.tolist()
    columns["is_self_jailbreak"] += found.is_self_jailbreak
    for marker in MARKERS:
        columns[marker.value] += [None if own is None else marker in own for own in found.markers]
    columns["answer"] += map(stated_answer, texts)
    for name in WORD_LISTS:
        columns[f"n_{name}"] += [count_words(text, name) for text in texts]
    columns["token_start"] += [step.tokens.start if step.tokens else None for step in steps]
    columns["token_stop"] += [step.tokens.stop if step.tokens else None for step in steps]


def _detect(texts: Sequence[str]) -> tuple[StepKinds, StepMarkers]:
    """What `classify` and `mark` say, from features that are made once."""
    tokens = [tokenize(text) for text in texts]
    english = is_english(texts, tokens)
    kinds, markers = feature_sums(tokens, reflect_weights(), unsafe_weights())
    return decide_kinds(kinds, english), decide_markers(texts, tokens, markers, english)


def _nothing(n: int) -> tuple[StepKinds, StepMarkers]:
    unknown = np.full(n, np.nan)
    markers = StepMarkers(unknown, [None] * n, [None] * n, np.full((n, len(MARKERS)), np.nan))
    return StepKinds([""] * n, unknown, [None] * n), markers


def _positions(spans: Sequence[tuple[int, int]], total: int) -> list[float]:
    """Middle of each step as a share of the thinking; commentary between thoughts does not count."""
    positions, before = [], 0
    for start, stop in spans:
        positions.append((before + (stop - start) / 2) / total)
        before += stop - start
    return positions
