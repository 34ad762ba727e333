"""analyze: files of traces become a run."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq

from cotlens.files import hash_path, only_one, versions, write_parquet
from cotlens.formats.known import find_format
from cotlens.formats.read import (
    MAX_LINE_BYTES,
    Reject,
    detect_format,
    flag_summary,
    input_files,
    read_traces,
)
from cotlens.runs.run import COUNTS, Run
from cotlens.runs.schema import LIGHT_COLUMNS, LIGHT_STEP_COLUMNS
from cotlens.runs.shards import prepare_run, write_info
from cotlens.runs.tables import analyze_traces
from cotlens.text.families import Tags
from cotlens.trace import Trace, TraceError

SHARD_TRACES = 1000
SHARD_CHARS = 16_000_000  # long traces make smaller shards, so that memory stays flat


def analyze(
    paths: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    format: str | None = None,
    model: str = "",
    method: str = "",
    tags: Tags | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    max_line_bytes: int = MAX_LINE_BYTES,
    light: bool = False,
    tokenizer: str = "",
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Reads, splits and segments every trace of `paths` into the run directory `out`, and returns the run.

    Called again with the same inputs it does nothing, or finishes what a killed call left.

    Args:
        paths: files or folders, as `read_traces` takes them.
        out: the run directory; made if it is missing.
        format: as in `read_traces`.
        model: name for the traces that have none.
        method: name of the checkpoint or training arm, for the traces that have none.
        tags: delimiters of the thought, where they are not among those that cotlens knows.
        on_error: `stop` raises at the first row that cannot be read; `skip` writes it to `rejects.jsonl`.
        max_line_bytes: as in `read_traces`.
        light: leave out texts and token lists: the figures can still be drawn, from a run small enough to commit.
        tokenizer: folder or Hub repository of the tokenizer of rows that hold token ids and no text.
        force: make the run anew, whatever it was made from.
        progress: called with the number of traces done since the last call.

    Raises:
        TraceError: for a row that cannot be read, or if `out` holds something else.
    """
    files = input_files(paths)
    if not files:
        raise TraceError("nothing to analyze: no input file was given")
    run = Run(Path(out))
    settings = {
        "model": model,
        "method": method,
        "tags": tags,
        "light": light,
        "max_line_bytes": max_line_bytes,
    }
    settings |= {"tokenizer": tokenizer} if tokenizer else {}
    made_by = _provenance(files, format) | {"settings": settings}
    with only_one(run.path):
        if prepare_run(run, made_by, files, force):
            return _whole(run, on_error)
        with _Rejects(run.path) as rejects:
            traces = read_traces(
                files,
                format=format,
                on_reject=rejects.write if on_error == "skip" else None,
                max_line_bytes=max_line_bytes,
                tokenizer=load_tokenizer(tokenizer) if tokenizer else None,
            )
            named = (_named(trace, model, method) for trace in traces)
            counts = dict.fromkeys(COUNTS, 0)
            for number, shard in enumerate(_shards(named)):
                counts["n_traces"] += len(shard)
                counts["n_steps"] += _write_shard(run, number, shard, tags, light)
                counts["n_shards"] = number + 1
                if progress:
                    progress(len(shard))
            counts["n_rejected"] = rejects.n
            if not counts["n_traces"]:
                raise TraceError(
                    f"none of the {rejects.n} rows could be read; the first: {rejects.first}"
                )
        write_info(run, made_by | {"complete": True} | counts)
    return run


def _whole(run: Run, on_error: str) -> Run:
    """The run, unless it left rows out that the caller wants."""
    rejected = run.info["n_rejected"]
    if rejected and on_error == "stop":
        raise TraceError(
            f"{run.path}: {rejected} rows could not be read when the run was made (rejects.jsonl lists them); "
            "mend them, or accept that with --on-error skip"
        )
    return run


class _Rejects:
    """Writes rejected rows as they come, and puts the file in its place at the end."""

    def __init__(self, folder: Path) -> None:
        self.path, self.n, self.first = folder / "rejects.jsonl", 0, ""

    def __enter__(self) -> "_Rejects":
        self.partial = self.path.with_name("rejects.jsonl.partial")
        self.file = self.partial.open("w", encoding="ascii")
        return self

    def write(self, reject: Reject) -> None:
        self.first = self.first or reject.reason
        self.n += 1
        self.file.write(json.dumps(reject._asdict(), ensure_ascii=True) + "\n")

    def __exit__(self, *error: object) -> None:
        self.file.close()
        if self.n and error[0] is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink()


def _named(trace: Trace, model: str, method: str) -> Trace:
    if (trace.model or not model) and (trace.method or not method):
        return trace
    return flag_summary(replace(trace, model=trace.model or model, method=trace.method or method))


def _shards(traces: Iterator[Trace]) -> Iterator[list[Trace]]:
    """Traces in groups of at most `SHARD_TRACES` and about `SHARD_CHARS` characters."""
    while shard := list(islice(_until(traces, SHARD_CHARS), SHARD_TRACES)):
        yield shard


def _until(traces: Iterator[Trace], chars: int) -> Iterator[Trace]:
    for trace in traces:
        yield trace
        chars -= (
            len(trace.completion)
            + len(trace.prompt)
            + 8 * len(trace.token_ids or ())
            + len(str(trace.meta))
        )
        if chars <= 0:
            return


def _write_shard(
    run: Run, number: int, traces: Iterable[Trace], tags: Tags | None, light: bool
) -> int:
    """Writes both tables of one shard unless they are there; returns the number of steps."""
    name = f"part-{number:05d}.parquet"
    done = run.path / "steps" / name  # written last
    if done.exists() and (run.path / "traces" / name).exists():
        return pq.read_metadata(done).num_rows
    trace_table, step_table = analyze_traces(traces, tags)
    if light:
        trace_table, step_table = (
            trace_table.select(LIGHT_COLUMNS),
            step_table.select(LIGHT_STEP_COLUMNS),
        )
    write_parquet(run.path / "traces" / name, trace_table)
    write_parquet(done, step_table)
    return step_table.num_rows


def _provenance(paths: Sequence[Path], format: str | None) -> dict[str, Any]:
    """What a run is made from. Two calls with the same answer make the same run."""
    inputs = []
    for path in paths:
        shape = find_format(format) if format else detect_format(path)
        inputs.append(
            {
                "path": str(path),
                "format": shape.name,
                "lacks": list(shape.lacks),
                "sha256": hash_path(path),
            }
        )
    return {"inputs": inputs, "versions": versions()}


def load_tokenizer(name: str) -> Any:
    """A tokenizer of transformers, without its model."""
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise TraceError("a tokenizer needs transformers; `pip install cotlens[model]`") from None
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise TraceError(
            f"{name}: no tokenizer can be loaded: {str(error).splitlines()[0]}"
        ) from None
