"""Traces to the files of other tools: chat messages, Inspect Scout's transcripts, a Hugging Face dataset.

Behind `run`: `trace <- read <- table <- write`. The law of every writer is that reading its file gives the traces that
were written. What a tool's own shape cannot say (spans, token ids, labels, ...) stands beside it in a field `cotlens`,
which other tools pass over: `Export.beside` counts it. A writer finds it out by reading its own row.
"""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.formats.fields import dicts
from cotlens.formats.known import find_format
from cotlens.runs.schema import arrow_schema
from cotlens.runs.tables import analyze_traces
from cotlens.text.families import Tags
from cotlens.text.split import has_delimiters
from cotlens.trace import Origin, Reasoning, Span, Trace, TraceError, dump_json, hash_text

_BATCH = 256  # traces in memory at once


class Export(NamedTuple):
    """What was written.

    Attributes:
        n_traces: how many.
        beside: how many traces have a field that the tool's own shape cannot hold, by its name.
    """

    n_traces: int
    beside: dict[str, int]


def export(
    traces: Iterable[Trace], path: str | Path, *, to: str, tags: Tags | None = None
) -> Export:
    """Writes traces for another tool, whole or not at all, and returns what its format has no place for.

    Args:
        traces: any iterable; a corpus larger than memory is fine.
        path: the file to make, or with `hf` the folder. What is there already is replaced.
        to: `openai` (JSON lines of chat messages), `scout` (Inspect Scout's transcript parquet) or `hf` (a Hugging Face
            dataset on disk, with the columns `SCHEMA["traces"]`).
        tags: delimiters of the thought, if they are none of the known: `hf` says where it lies.

    Raises:
        TraceError: if there is no trace, or one that the format cannot hold.
    """
    if to not in WRITERS:
        raise ValueError(f"unknown format {to!r}; expected one of {', '.join(WRITERS)}")
    path, counts = Path(path).resolve(), Counter()
    if to != "hf" and path.is_dir():
        raise TraceError(f"{path}: is a folder; name a file")
    if to == "hf" and path.exists() and not _is_dataset(path):
        raise TraceError(
            f"{path}: is there already and is no Hugging Face dataset alone; name another folder"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = (
        path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("partial", "replaced")
    )
    try:
        WRITERS[to](iter(traces), part, counts, tags)
        n = counts.pop("", 0)
        if not n:
            raise TraceError("there is no trace to write")
        if path.is_dir():
            path.replace(old)
        try:
            part.replace(path)
        except BaseException:
            if old.exists():
                old.replace(path)
            raise
    finally:
        _remove(part)
        if path.exists():
            _remove(old)
    return Export(n, dict(counts))


def _is_dataset(path: Path) -> bool:
    """Whether a folder is empty, or a Hugging Face dataset on disk and holds nothing else."""
    names = set(os.listdir(path)) if path.is_dir() else {""}
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        files = {str(one["filename"]) for one in state["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return not names
    return names <= {"state.json", "dataset_info.json", *files}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- chat messages ---------------------------------------------------------------------------------------------
def _write_openai(
    traces: Iterator[Trace], path: Path, counts: Counter[str], _: Tags | None
) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for trace in traces:
            row = _openai_row(trace)
            _add_exact(row, "messages", trace, counts)
            file.write(dump_json(row) + "\n")


def _openai_row(trace: Trace) -> dict[str, Any]:
    """Messages, and at the top what the reader takes under its own name; earlier turns of the assistant weigh 0."""
    before = [
        message | ({"weight": 0} if message.get("role") == "assistant" else {})
        for message in _messages_before(trace)
    ]
    row: dict[str, Any] = {"id": trace.id, "messages": [*before, _message(trace)]}
    named = ("prompt_id", "model", "method", "domain", "split", "finish_reason", "gold")
    row |= {name: value for name in named if (value := getattr(trace, name))}
    row |= {"sample": trace.sample} if trace.sample else {}
    row |= {"training_step": trace.training_step} if trace.training_step != -1 else {}
    row |= {"reward": trace.reward} if trace.reward is not None else {}
    lists = ("prompt_token_ids", "token_ids", "token_starts", "logprobs")
    return row | {
        name: _plain(value) for name in lists if (value := getattr(trace, name)) is not None
    }


def _messages_before(trace: Trace) -> list[dict[str, Any]]:
    """The conversation so far: as the source had it, or the user's request, or the prompt."""
    kept = trace.meta.get("prompt_messages")
    if isinstance(kept, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) for one in kept
    ):
        return kept
    request = trace.meta.get("request")
    asked = request if isinstance(request, str) and request else trace.prompt
    return [{"role": "user", "content": asked}] if asked else []


def _message(trace: Trace) -> dict[str, Any]:
    """The assistant's message: one text, thinking and answer under the names that servers give them, or blocks."""
    calls = trace.meta.get("tool_calls")
    called = {"tool_calls": calls} if isinstance(calls, list) and not _placed(calls) else {}
    if trace.origin is Origin.TEXT:
        return {"role": "assistant", "content": trace.completion, **called}
    text, cut = trace.completion, trace.think[0].stop if trace.think else 0
    joined = trace.think == (Span(0, cut),) and trace.answer == Span(cut, len(text))
    # A text with tags of its own would be taken for one that holds its thought.
    if (
        joined
        and trace.reasoning is Reasoning.VERBATIM
        and not _parts(trace)
        and not has_delimiters(text)
    ):
        return {
            "role": "assistant",
            "reasoning_content": text[:cut],
            "content": text[cut:],
            **called,
        }
    return {"role": "assistant", "content": _blocks(trace), **called}


def _placed(calls: Sequence[Any]) -> bool:
    return any(isinstance(call, dict) and isinstance(call.get("at"), int) for call in calls)


def _parts(trace: Trace) -> list[dict[str, Any]]:
    """Blocks of a message that are no text, with the place of each, in order."""
    found = [*dicts(trace.meta.get("tool_calls")), *dicts(trace.meta.get("other_parts"))]
    return sorted(
        (part for part in found if isinstance(part, dict) and _placed([part])),
        key=lambda part: part["at"],
    )


def _blocks(trace: Trace) -> list[dict[str, Any]]:
    """The completion as typed blocks in their order, with tool calls and the like where they stood."""
    parts = _parts(trace)
    thoughts = {span.start: span for span in trace.think}
    hidden = trace.reasoning is Reasoning.REDACTED
    extra = {part["at"]: part for part in parts if part.get("type") in ("thinking", "reasoning")}
    placed = [part for part in parts if part.get("type") not in ("thinking", "reasoning")]
    cuts = {0, len(trace.completion), *(part["at"] for part in placed)}
    cuts |= {edge for span in trace.think for edge in span}
    blocks: list[dict[str, Any]] = []
    edges = sorted(cut for cut in cuts if 0 <= cut <= len(trace.completion))
    for start, stop in zip(edges, [*edges[1:], edges[-1]], strict=True):
        blocks += [
            {key: value for key, value in part.items() if key != "at"}
            for part in placed
            if part["at"] == start
        ]
        text = trace.completion[start:stop]
        inside = next(
            (span for span in trace.think if span.start <= start and stop <= span.stop), None
        )
        if not text:
            continue
        if inside is None:
            blocks.append({"type": "text", "text": text})
        elif trace.reasoning is Reasoning.SUMMARY:
            blocks.append(
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]}
            )
        else:
            own = {
                key: value
                for key, value in extra.get(start, {}).items()
                if key not in ("at", "type")
            }
            blocks.append(
                {"type": "thinking", "thinking": text, **(own if start in thoughts else {})}
            )
    if hidden and not any(block.get("type") == "redacted_thinking" for block in blocks):
        blocks.insert(0, {"type": "redacted_thinking"})
    return blocks


def _add_exact(row: dict[str, Any], shape: str, trace: Trace, counts: Counter[str]) -> None:
    """Puts beside the row's own fields what reading them does not give back; counts what that is."""
    exact: dict[str, Any] = {"of": hash_text(trace.completion)}
    row["cotlens"] = exact
    packed = json.dumps(exact) if shape == "scout" else exact
    (read,) = find_format(shape).parse({**row, "cotlens": packed}, trace.id)
    if read.completion != trace.completion:
        raise TraceError(f"trace {trace.id!r}: its text cannot be put into this format")
    counts[""] += 1
    for one in fields(Trace):
        mine, its = getattr(trace, one.name), getattr(read, one.name)
        if one.name == "meta" or dump_json(_plain(mine)) == dump_json(_plain(its)):
            continue
        exact[one.name] = _plain(mine)
        counts[one.name] += 1
    same = [
        key
        for key, value in trace.meta.items()
        if key in read.meta and dump_json(value) == dump_json(read.meta[key])
    ]
    other = {key: value for key, value in trace.meta.items() if key not in same}
    exact |= {"kept": same} | ({"meta": other} if other else {})
    counts["meta"] += bool(other)
    if not counts["meta"]:
        del counts["meta"]
    if shape == "scout":
        row["cotlens"] = dump_json(exact)


def _plain(value: Any) -> Any:
    """A field of a trace as JSON holds it: NaN is null."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


# --- Inspect Scout ---------------------------------------------------------------------------------------------

# inspect-scout 0.6.2, `_transcript/database/schema.py`: the columns that a trace has something for, and one of ours.
_SCOUT = pa.schema(
    [
        ("transcript_id", pa.large_string()),
        ("source_type", pa.large_string()),
        ("task_set", pa.large_string()),
        ("task_id", pa.large_string()),
        ("task_repeat", pa.int64()),
        ("agent", pa.large_string()),
        ("model", pa.large_string()),
        ("score", pa.large_string()),
        ("message_count", pa.int64()),
        ("total_tokens", pa.int64()),
        ("messages", pa.large_string()),
        ("cotlens", pa.large_string()),
    ]
)


def _write_scout(traces: Iterator[Trace], path: Path, counts: Counter[str], _: Tags | None) -> None:
    with pq.ParquetWriter(path, _SCOUT, compression="zstd") as file:
        while batch := list(islice(traces, _BATCH)):
            rows = [_scout_row(trace) for trace in batch]
            for row, trace in zip(rows, batch, strict=True):
                _add_exact(row, "scout", trace, counts)
            file.write_table(pa.Table.from_pylist(rows, _SCOUT))


def _scout_row(trace: Trace) -> dict[str, Any]:
    messages = [*map(_inspect_message, _messages_before(trace)), _inspect_assistant(trace)]
    n_tokens = [len(ids) for ids in (trace.prompt_token_ids, trace.token_ids) if ids is not None]
    return {
        "transcript_id": trace.id,
        "source_type": "cotlens",
        "task_set": trace.domain or None,
        "task_id": trace.prompt_id,
        "task_repeat": trace.sample + 1,
        "agent": trace.method or None,
        "model": trace.model or None,
        "score": None if trace.reward is None else dump_json(trace.reward),
        "message_count": len(messages),
        "total_tokens": sum(n_tokens) if len(n_tokens) == 2 else None,
        "messages": dump_json(messages),
    }


def _inspect_assistant(trace: Trace) -> dict[str, Any]:
    calls = [_inspect_call(call, i) for i, call in enumerate(dicts(trace.meta.get("tool_calls")))]
    content: Any = trace.completion
    if trace.origin is Origin.FIELDS:
        content = [block for block in map(_inspect_block, _blocks(trace)) if block]
    return {"role": "assistant", "content": content, "source": "generate"} | (
        {"tool_calls": calls} if calls else {}
    )


def _inspect_block(block: dict[str, Any]) -> dict[str, Any] | None:
    """A block as Inspect names it; calls stand in `tool_calls`, and other blocks have no place."""
    match block.get("type"):
        case "text" | "output_text":
            return (
                {"type": "text", "text": block["text"]}
                if isinstance(block.get("text"), str)
                else None
            )
        case "thinking" if isinstance(block.get("thinking"), str):
            signed = (
                {"signature": block["signature"]} if isinstance(block.get("signature"), str) else {}
            )
            return {"type": "reasoning", "reasoning": block["thinking"], **signed}
        case "reasoning":
            summary = "".join(str(part.get("text") or "") for part in dicts(block.get("summary")))
            return {"type": "reasoning", "reasoning": "", "summary": summary} if summary else None
        case "redacted_thinking":
            return {"type": "reasoning", "reasoning": str(block.get("data", "")), "redacted": True}
    return None


def _inspect_call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A tool call of OpenAI, Anthropic, verifiers or Inspect as Inspect writes it: arguments are an object."""
    function = call["function"] if isinstance(call.get("function"), dict) else call
    name = function.get("name") or call.get("function") or "unknown"
    arguments = next((function[key] for key in ("arguments", "input") if key in function), {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {"input": arguments}
    arguments = arguments if isinstance(arguments, dict) else {"input": arguments}
    own = call.get("id") or call.get("call_id") or f"call-{number}"
    return {"id": str(own), "function": str(name), "arguments": arguments, "type": "function"}


def _inspect_message(message: dict[str, Any]) -> dict[str, Any]:
    """An earlier message in Inspect's shape; one of an unknown role is the user's, with its role before its text."""
    role, content = message.get("role"), message.get("content")
    if isinstance(content, list):
        content = [block for block in map(_inspect_part, content) if block]
    elif not isinstance(content, str):
        content = "" if content is None else dump_json(content)
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        return {"role": "user", "content": content, "source": "input"}
    kept: dict[str, Any] = {"role": role, "content": content, "source": "input"}
    if role == "assistant":
        thought = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(thought, str) and thought and isinstance(content, str):
            kept["content"] = [
                {"type": "reasoning", "reasoning": thought},
                {"type": "text", "text": content},
            ]
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            kept["tool_calls"] = [
                _inspect_call(call, i) for i, call in enumerate(calls) if isinstance(call, dict)
            ]
    if role == "tool" and isinstance(message.get("tool_call_id"), str):
        kept["tool_call_id"] = message["tool_call_id"]
    return kept


def _inspect_part(part: Any) -> dict[str, Any] | None:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.get("type") == "reasoning" and isinstance(part.get("reasoning"), str):
        return dict(part)
    if part.get("type") in ("text", "output_text", "input_text"):
        return {"type": "text", "text": str(part.get("text", ""))}
    return _inspect_block(part) if part.get("type") in ("thinking", "redacted_thinking") else None


# --- Hugging Face ----------------------------------------------------------------------------------------------
def _write_hf(traces: Iterator[Trace], path: Path, counts: Counter[str], tags: Tags | None) -> None:
    """A dataset as `datasets` saves it: an Arrow stream and two small files; the library itself is not needed.

    Shape: datasets 5.2, `arrow_dataset.py` (`save_to_disk`).
    """
    path.mkdir(parents=True)
    name, schema = "data-00000-of-00001.arrow", arrow_schema("traces").remove_metadata()
    schema = pa.schema([field.remove_metadata() for field in schema])
    with pa.OSFile(str(path / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as file:
        while batch := list(islice(traces, _BATCH)):
            file.write_table(analyze_traces(batch, tags)[0].cast(schema))
            counts[""] += len(batch)
    state = {
        "_data_files": [{"filename": name}],
        "_fingerprint": hash_text(path.name),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (path / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    (path / "dataset_info.json").write_text(
        json.dumps({"description": "traces written by cotlens"}), encoding="utf-8"
    )


WRITERS: dict[str, Callable[[Iterator[Trace], Path, Counter[str], Tags | None], None]] = {
    "openai": _write_openai,
    "scout": _write_scout,
    "hf": _write_hf,
}
