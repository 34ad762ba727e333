"""One row per trace and one row per step: the tables that every figure and statistic starts from.

`table` joins what the rooms before it found. `SCHEMA` names every column with its type, unit and meaning; the same
columns stand in memory (pandas) and on disk (parquet), and the round trip is exact.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from cotlens.reflect import (
    WORD_LISTS,
    StepKinds,
    count_words,
    decide_kinds,
    feature_sums,
    is_english,
    reflect_weights,
    stated_answer,
    tokenize,
)
from cotlens.split import Split, Tags, split_trace
from cotlens.steps import Step, group_paragraphs, segment_trace
from cotlens.trace import Reasoning, Trace, dump_json
from cotlens.unsafe import MARKERS, StepMarkers, decide_markers, unsafe_weights

if TYPE_CHECKING:
    from cotlens.guard import Verdict
    from cotlens.model import ScoredTrace


class Column(NamedTuple):
    """One column of a table: its name, its type on disk, its unit and what it means."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str


_SPANS = pa.list_(pa.struct([("start", pa.int32()), ("stop", pa.int32())]))
_LABELS = pa.list_(pa.struct([("start", pa.int32()), ("stop", pa.int32()), ("label", pa.string())]))
_IDS = pa.list_(pa.int32())

TRACE_COLUMNS = (
    Column("trace_id", pa.string(), "", "unique within a run"),
    Column("prompt_id", pa.string(), "", "the cluster: traces of one prompt share it"),
    Column("model", pa.string(), "", "as the source names it"),
    Column("method", pa.string(), "", "checkpoint or training arm"),
    Column("training_step", pa.int64(), "updates", "of the checkpoint that wrote the trace; -1: unknown"),
    Column("domain", pa.string(), "", "kind of prompt"),
    Column("split", pa.string(), "", "part of the experiment's design"),
    Column("sample", pa.int32(), "", "number among the samples of its prompt, as the source has it"),
    Column("status", pa.string(), "", "closed, open (cut off inside the thought) or absent (no thought)"),
    Column("opened_by", pa.string(), "", "what says that a thought began: text, prompt, model or fields"),
    Column("origin", pa.string(), "", "text: split by cotlens; fields: split by the source"),
    Column("reasoning", pa.string(), "", "verbatim, summary or redacted"),
    Column("think_start", pa.int32(), "code points", "into the completion: begin of the first thought"),
    Column("think_stop", pa.int32(), "code points", "end of the last thought; equal to think_start: none"),
    Column("answer_start", pa.int32(), "code points", "begin of the answer"),
    Column("answer_stop", pa.int32(), "code points", "end of the answer; equal to answer_start: none"),
    Column("think_spans", _SPANS, "code points", "every thought"),
    Column("n_think_chars", pa.int32(), "code points", "length of all thoughts"),
    Column("n_answer_chars", pa.int32(), "code points", "length of the answer"),
    Column("n_steps", pa.int32(), "steps", "steps of thinking"),
    Column("n_tokens", pa.int32(), "tokens", "of the completion; null: unknown"),
    Column("n_think_tokens", pa.int32(), "tokens", "that begin inside a thought; null: no offsets"),
    Column("finish_reason", pa.string(), "", "as the source has it; empty: unknown"),
    Column("reward", pa.float64(), "", "as the source has it; null: unknown"),
    Column("gold", pa.string(), "", "reference answer"),
    Column("prompt", pa.large_string(), "", "text before the completion"),
    Column("completion", pa.large_string(), "", "text the model produced, byte for byte"),
    Column("prompt_token_ids", _IDS, "", "of the prompt; null: unknown"),
    Column("token_ids", _IDS, "", "of the completion; null: unknown"),
    Column("logprobs", pa.list_(pa.float64()), "nats", "of the completion's tokens, from the source; null: unknown"),
    Column("token_starts", _IDS, "code points", "at which each token begins; null: unknown"),
    Column("labels", _LABELS, "code points", "stretches that the source itself labelled"),
    Column("meta", pa.large_string(), "", "everything else the source said, as JSON"),
)

STEP_COLUMNS = (
    Column("trace_id", pa.string(), "", "the trace"),
    Column("step", pa.int32(), "", "number within the trace, from 0"),
    Column("start", pa.int32(), "code points", "into the completion"),
    Column("stop", pa.int32(), "code points", "into the completion"),
    Column("position", pa.float32(), "share of the thinking", "middle of the step, 0 to 1"),
    Column("paragraph", pa.int32(), "", "number of the paragraph within the trace, from 0"),
    Column("kind", pa.string(), "", "what the step does (docs/codebook.md); empty: language unknown"),
    Column("p_reflect", pa.float32(), "probability", "that the step reflects; NaN: language unknown"),
    Column("is_reflection", pa.bool_(), "", "p_reflect at or above reflect.THRESHOLD; null: language unknown"),
    Column("p_self_jailbreak", pa.float32(), "", "above 0.5: talks itself into unsafe help; NaN: language unknown"),
    Column("is_self_jailbreak", pa.bool_(), "", "p_self_jailbreak at or above 0.5; null: language unknown"),
    *(Column(m.value, pa.bool_(), "", "marker of the step (docs/unsafe.md); null: language unknown") for m in MARKERS),
    Column("answer", pa.string(), "", "answer that the step states (reflect.stated_answer), or empty"),
    *(Column(f"n_{name}", pa.int32(), "words", f"of the word list {name}") for name in WORD_LISTS),
    Column("token_start", pa.int32(), "tokens", "first token of the step; null: no offsets"),
    Column("token_stop", pa.int32(), "tokens", "behind the last token of the step; null: no offsets"),
)

_FLOATS, _FLOATS_K = pa.list_(pa.float32()), pa.list_(pa.list_(pa.float32()))

SCORE_COLUMNS = (
    Column("trace_id", pa.string(), "", "the trace; every list below has one entry per token of its completion"),
    Column("token_ids", _IDS, "", "as they were scored"),
    Column("token_starts", _IDS, "code points", "of the completion, at which each token begins; null: unknown"),
    Column("entropy", _FLOATS, "nats", "of the model's distribution at the token's place; NaN: unscored"),
    Column("logprob", _FLOATS, "nats", "of the token"),
    Column("rank", _IDS, "", "of the token among all words, from 1; null: unscored"),
    Column("varentropy", _FLOATS, "nats squared", "variance of the surprise under the distribution"),
    Column("top_ids", pa.list_(_IDS), "", "the likeliest words; null: not asked for"),
    Column("top_logprobs", _FLOATS_K, "nats", "of the likeliest words; null: not asked for"),
    Column("top_mass", _FLOATS, "probability", "of the likeliest words together; null: not asked for"),
    Column("margin", _FLOATS, "nats", "log-prob of the likeliest word less that of the second; null: not asked for"),
    Column("kl", _FLOATS, "nats", "KL(model || reference); null: no reference"),
    Column("reverse_kl", _FLOATS, "nats", "KL(reference || model); null: no reference"),
    Column("reference_entropy", _FLOATS, "nats", "of the reference's distribution; null: no reference"),
    Column("reference_logprob", _FLOATS, "nats", "of the token under the reference; null: no reference"),
    Column("encoding", pa.string(), "", "ids: the source's own; text: encoded for scoring; empty: neither"),
    Column("context", pa.string(), "", "before the completion: ids, template, verbatim (rendered already) or none"),
    Column("exact", pa.bool_(), "", "whether the ids decode to the completion; null: no tokenizer, or unscored"),
    Column("n_drift", pa.int32(), "tokens", "that differ if prompt and completion are encoded as one; null: own ids"),
    Column("windowed", pa.bool_(), "", "longer than the context: scored in windows that overlap by half"),
    Column("error", pa.string(), "", "why the trace is unscored; empty: it is scored"),
)

GUARD_COLUMNS = (
    Column("trace_id", pa.string(), "", "the trace"),
    Column("judge", pa.string(), "", "name of the judge"),
    Column("revision", pa.string(), "", "of the judge's weights; empty: unknown"),
    Column("part", pa.string(), "", "what was judged: thinking, answer or full"),
    Column("label", pa.string(), "", "safe, unsafe, controversial or undecided"),
    Column("p_unsafe", pa.float64(), "probability", "from the logits of the label words; NaN: none, or undecided"),
    Column("categories", pa.list_(pa.string()), "", "as the judge names them"),
    Column("refusal", pa.bool_(), "", "whether the text refuses; null: the judge does not say"),
    Column("n_cut", pa.int32(), "code points", "left out of the middle of the text because it did not fit"),
    Column("n_defused", pa.int32(), "", "delimiters and special tokens in the text that were broken up"),
    Column("raw", pa.string(), "", "what the judge wrote"),
)

SCHEMA = {"traces": TRACE_COLUMNS, "steps": STEP_COLUMNS, "scores": SCORE_COLUMNS, "guard": GUARD_COLUMNS}

# What a figure needs of a trace: everything but texts and the lists as long as them.
_HEAVY = ("gold", "prompt", "completion", "prompt_token_ids", "token_ids", "logprobs", "token_starts", "labels", "meta")
LIGHT_COLUMNS = tuple(column.name for column in TRACE_COLUMNS if column.name not in _HEAVY)
LIGHT_STEP_COLUMNS = tuple(column.name for column in STEP_COLUMNS if column.name != "answer")


def arrow_schema(table: str) -> pa.Schema:
    """The parquet schema of a table of `SCHEMA`; unit and meaning travel in each field's metadata."""
    return pa.schema([pa.field(c.name, c.type, metadata={"unit": c.unit, "meaning": c.meaning}) for c in SCHEMA[table]])


def trace_table(traces: Iterable[Trace], *, tags: Tags | None = None) -> pd.DataFrame:
    """One row per trace with the columns `SCHEMA["traces"]`: the trace itself, its split and its lengths."""
    return analyze_traces(traces, tags)[0].to_pandas()


def step_table(traces: Iterable[Trace], *, tags: Tags | None = None, text: bool = False) -> pd.DataFrame:
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


def guard_rows(ids: Sequence[str], judge: str, revision: str, part: str, verdicts: "Sequence[Verdict]") -> pa.Table:
    """Verdicts as a table with the columns `SCHEMA["guard"]`, as a run stores it."""
    common = {"judge": judge, "revision": revision, "part": str(part)}
    names = {column.name for column in GUARD_COLUMNS}
    rows = [
        {"trace_id": key, **common, **{name: value for name, value in verdict._asdict().items() if name in names}}
        for key, verdict in zip(ids, verdicts, strict=True)
    ]
    return pa.Table.from_pylist(rows, arrow_schema("guard"))


def score_rows(scored: "Sequence[ScoredTrace]") -> pa.Table:
    """What `score_tokens` returned as a table with the columns `SCHEMA["scores"]`, as a run stores it."""
    schema, columns = arrow_schema("scores"), {}
    for column in SCORE_COLUMNS:
        if column.name in _PER_TRACE:
            columns[column.name] = pa.array([getattr(one, column.name) for one in scored], column.type)
        elif not any(column.name in one.values for one in scored):
            columns[column.name] = pa.nulls(len(scored), column.type)
        else:
            columns[column.name] = _list_column([one.values[column.name] for one in scored], column.type)
    return pa.Table.from_pydict(columns, schema)


_PER_TRACE = ("trace_id", "token_ids", "token_starts", "encoding", "context", "exact", "n_drift", "windowed", "error")


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
    per_token = next((v for v in (trace.token_ids, trace.logprobs, trace.token_starts) if v is not None), None)
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
    return sum(span.start <= start < span.stop for start in trace.token_starts for span in split.think)


_COPIED = (
    "prompt_id", "model", "method", "training_step", "domain", "split", "sample", "finish_reason", "reward", "gold",
    "prompt", "completion", "prompt_token_ids", "token_ids", "logprobs", "token_starts",
)  # fmt: skip


def _add_steps(columns: dict[str, list[Any]], trace: Trace, split: Split, steps: Sequence[Step]) -> None:
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
