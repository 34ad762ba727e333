"""export: traces become files of other tools: chat messages, transcripts or a dataset.

Reading the file back gives the traces that were written; this holds for every writer. What a format
has no place for (spans, token ids, labels, ...) goes into an extra field `cotlens` that other tools
ignore: `Export.beside` counts it. A writer finds out what to add by reading back its row.
"""

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.files import hash_path
from cotlens.formats.known import find_format
from cotlens.runs.messages import assistant_message, messages_before
from cotlens.runs.schema import arrow_schema
from cotlens.runs.tables import analyze_traces
from cotlens.runs.transcripts import TRANSCRIPT_SCHEMA, transcript_row
from cotlens.text.families import Tags
from cotlens.trace import Trace, TraceError, dump_json, hash_text

_BATCH = 256  # traces in memory at once


class Export(NamedTuple):
    """What was written.

    Attributes:
        n_traces: the number of traces.
        beside: for each field that the format has no place for, the number of traces that have it.
    """

    n_traces: int
    beside: dict[str, int]


def export(
    traces: Iterable[Trace], path: str | Path, *, to: str, tags: Tags | None = None
) -> Export:
    """Write traces for another tool, whole or not at all; return what its format cannot hold.

    Args:
        traces: any iterable; a corpus larger than memory is fine.
        path: the file to make, or with `hf` the folder. What is there already is replaced.
        to: `openai` (JSON lines of chat messages), `scout` (Inspect Scout's transcript parquet) or
            `hf` (a Hugging Face dataset on disk, with the columns `SCHEMA["traces"]`).
        tags: delimiters of the thought, where they are not among those that cotlens knows: `hf`
            holds where it lies.

    Raises:
        TraceError: if there is no trace, if the format cannot hold one of them, or if the path is
            taken by something that is never replaced.
        ValueError: if the format is unknown.
    """
    if to not in WRITERS:
        raise ValueError(f"unknown format {to!r}; expected one of {', '.join(WRITERS)}")

    # A folder is replaced only by a dataset, and only if it is one.
    path = Path(path).resolve()
    if to != "hf" and path.is_dir():
        raise TraceError(f"{path}: is a folder; name a file")
    if to == "hf" and path.exists() and not _is_replaceable(path):
        raise TraceError(
            f"{path}: is there already and is no Hugging Face dataset alone; name another folder"
        )

    # Hidden names next to the path: no other job and no reader takes them for the file.
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced")
    beside: Counter[str] = Counter()
    try:
        n_traces = WRITERS[to](iter(traces), partial, beside, tags)
        if not n_traces:
            raise TraceError("there is no trace to write")

        # A folder cannot take another's place: the old one steps aside, and back if that fails.
        if path.is_dir():
            path.replace(replaced)
        try:
            partial.replace(path)
        except BaseException:
            if replaced.exists():
                replaced.replace(path)
            raise
    finally:
        _remove(partial)
        if path.exists():
            _remove(replaced)
    return Export(n_traces, dict(beside))


def _is_replaceable(path: Path) -> bool:
    """Whether a path is an empty folder, or a Hugging Face dataset and nothing else."""
    if not path.is_dir():
        return False

    # The dataset's own list of its files tells what else is there.
    names = set(os.listdir(path))
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        data_files = {str(data_file["filename"]) for data_file in state["_data_files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return not names
    return names <= {"state.json", "dataset_info.json", *data_files}


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _in_batches(traces: Iterator[Trace]) -> Iterator[list[Trace]]:
    while batch := list(islice(traces, _BATCH)):
        yield batch


def _write_openai(traces: Iterator[Trace], path: Path, beside: Counter[str], _: Tags | None) -> int:
    """JSON lines of chat messages."""
    n_traces = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for trace in traces:
            row = _openai_row(trace)
            row["cotlens"] = _left_out(row, "messages", trace, beside)
            file.write(dump_json(row) + "\n")
            n_traces += 1
    return n_traces


def _openai_row(trace: Trace) -> dict[str, Any]:
    """Messages, and next to them the fields of a trace that the reader finds there."""
    messages = []
    for message in messages_before(trace):
        # Weight 0: an earlier turn is context, and no trace.
        if message.get("role") == "assistant":
            message = message | {"weight": 0}
        messages.append(message)
    messages.append(assistant_message(trace))
    row: dict[str, Any] = {"id": trace.id, "messages": messages}

    # Leave out unknown fields: an empty string, 0, -1 and None are the reader's defaults.
    for name in ("prompt_id", "model", "method", "domain", "split", "finish_reason", "gold"):
        if getattr(trace, name):
            row[name] = getattr(trace, name)

    if trace.sample:
        row["sample"] = trace.sample
    if trace.training_step != -1:
        row["training_step"] = trace.training_step
    if trace.reward is not None:
        row["reward"] = trace.reward

    for name in ("prompt_token_ids", "token_ids", "token_starts", "logprobs"):
        if getattr(trace, name) is not None:
            row[name] = _plain(getattr(trace, name))
    return row


def _write_scout(traces: Iterator[Trace], path: Path, beside: Counter[str], _: Tags | None) -> int:
    """A parquet file of transcripts, as Inspect Scout reads them."""
    n_traces = 0
    with pq.ParquetWriter(
        path, TRANSCRIPT_SCHEMA, compression="zstd", write_page_checksum=True
    ) as file:
        for batch in _in_batches(traces):
            rows = []
            for trace in batch:
                row = transcript_row(trace)
                row["cotlens"] = dump_json(_left_out(row, "scout", trace, beside))
                rows.append(row)
            file.write_table(pa.Table.from_pylist(rows, TRANSCRIPT_SCHEMA))
            n_traces += len(rows)
    return n_traces


def _left_out(
    row: dict[str, Any], format: str, trace: Trace, beside: Counter[str]
) -> dict[str, Any]:
    """What reading the row does not give back, for its field `cotlens`; counts it by field.

    `of` is the hash of the text, by which a reader sees that it was changed; `kept` lists the
    metadata that the row gives back, `meta` holds the rest.
    """
    left_out: dict[str, Any] = {"of": hash_text(trace.completion)}
    packed = dump_json(left_out) if format == "scout" else left_out
    (read,) = find_format(format).parse({**row, "cotlens": packed}, trace.id)

    if read.completion != trace.completion:
        raise TraceError(f"trace {trace.id!r}: its text cannot be put into this format")

    # Compared as JSON, in which NaN equals NaN.
    for field in fields(Trace):
        value = _plain(getattr(trace, field.name))
        read_value = _plain(getattr(read, field.name))
        if field.name != "meta" and dump_json(value) != dump_json(read_value):
            left_out[field.name] = value
            beside[field.name] += 1

    # Metadata key by key: much of it stands in the row's own fields.
    left_out["kept"] = []
    other_meta = {}
    for key, value in trace.meta.items():
        if key in read.meta and dump_json(value) == dump_json(read.meta[key]):
            left_out["kept"].append(key)
        else:
            other_meta[key] = value

    if other_meta:
        left_out["meta"] = other_meta
        beside["meta"] += 1
    return left_out


def _plain(value: Any) -> Any:
    """A field of a trace as JSON holds it: a tuple is a list, NaN is null."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_hf(traces: Iterator[Trace], path: Path, _: Counter[str], tags: Tags | None) -> int:
    """A Hugging Face dataset: an Arrow stream and two small files.

    The library `datasets` is not needed. The shape is that of datasets 5.2, `arrow_dataset.py`
    (`save_to_disk`). Its columns hold every field of a trace.
    """
    path.mkdir(parents=True)
    name = "data-00000-of-00001.arrow"
    columns = [field.remove_metadata() for field in arrow_schema("traces")]
    schema = pa.schema(columns)

    n_traces = 0
    with pa.OSFile(str(path / name), "wb") as sink, pa.ipc.new_stream(sink, schema) as file:
        for batch in _in_batches(traces):
            trace_table, _steps = analyze_traces(batch, tags)
            file.write_table(trace_table.cast(schema))
            n_traces += len(batch)

    # What `load_from_disk` asks for, and no more.
    state = {
        "_data_files": [{"filename": name}],
        "_fingerprint": hash_path(path / name)[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    info = {"description": "traces written by cotlens"}

    (path / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
    (path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return n_traces


Writer = Callable[[Iterator[Trace], Path, Counter[str], Tags | None], int]
WRITERS: dict[str, Writer] = {"openai": _write_openai, "scout": _write_scout, "hf": _write_hf}
