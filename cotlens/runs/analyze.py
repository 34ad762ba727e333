"""analyze: files of traces become a run."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
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
from cotlens.text.response import new_tags
from cotlens.text.unknown import UnknownTags
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
    """Read, split and segment every trace of `paths` into the run directory `out`; return the run.

    Called again with the same inputs it does nothing, or finishes what a killed call left.

    Args:
        paths: files or folders, as `read_traces` takes them.
        out: the run directory; made if it is missing.
        format: as in `read_traces`.
        model: name for the traces that have none.
        method: name of the checkpoint or training arm, for the traces that have none.
        tags: delimiters of the thought, where they are not among those that cotlens knows.
        on_error: `stop` raises at the first row that cannot be read; `skip` writes it to
            `rejects.jsonl`.
        max_line_bytes: as in `read_traces`.
        light: leave out texts and token lists: the figures can still be drawn, from a run small
            enough to commit.
        tokenizer: folder or Hub repository of the tokenizer of rows that hold token ids and no
            text. Its `response_template` gives the delimiters of the thought, if they are not
            known.
        force: make the run anew, whatever it was made from.
        progress: called with the number of traces done since the last call.

    Raises:
        TraceError: for a row that cannot be read, or if `out` holds something else.
    """
    files = input_files(paths)
    if not files:
        raise TraceError("nothing to analyze: no input file was given")

    # A tokenizer may bring delimiters that the table lacks.
    decoder = load_tokenizer(tokenizer) if tokenizer else None
    tags = tags or new_tags(decoder)

    run = Run(Path(out))
    # Everything that decides the tables. The tokenizer is named only where it is used.
    settings: dict[str, Any] = {
        "model": model,
        "method": method,
        "tags": tags,
        "light": light,
        "max_line_bytes": max_line_bytes,
    }
    if tokenizer:
        settings["tokenizer"] = tokenizer
    inputs = _describe_inputs(files, format)
    made_by = {"inputs": inputs, "versions": versions(), "settings": settings}

    # Shard by shard: memory holds one, and a killed job resumes after the last.
    with only_one(run.path):
        is_complete = prepare_run(run, made_by, files, force)
        if is_complete:
            _check_rejects(run, on_error)
            return run

        counts = dict.fromkeys(COUNTS, 0)
        unknown_tags = UnknownTags()
        with _RejectFile(run.path) as rejects:
            traces = read_traces(
                files,
                format=format,
                on_reject=rejects.write if on_error == "skip" else None,
                max_line_bytes=max_line_bytes,
                tokenizer=decoder,
            )
            named = (_with_names(trace, model, method) for trace in traces)
            for number, shard in enumerate(_in_shards(named)):
                counts["n_traces"] += len(shard)
                counts["n_steps"] += _write_shard(run, number, shard, tags, light)
                counts["n_shards"] = number + 1
                if not counts["n_steps"]:
                    for trace in shard:
                        unknown_tags.look_at(trace)
                if progress:
                    progress(len(shard))

            # A run without traces would only fail later, at its first figure.
            counts["n_rejected"] = rejects.n
            if not counts["n_traces"]:
                raise TraceError(
                    f"none of the {rejects.n} rows could be read; the first: {rejects.first}"
                )
        advice = "" if counts["n_steps"] else unknown_tags.advice()
        about = {"advice": advice} if advice else {}
        write_info(run, made_by | {"complete": True} | counts | about)
    return run


def _describe_inputs(paths: Sequence[Path], format: str | None) -> list[dict[str, Any]]:
    """Path, format and hash of each input. Runs are the same if formats and hashes are."""
    inputs = []
    for path in paths:
        found = find_format(format) if format else detect_format(path)
        description = {
            "path": str(path),
            "format": found.name,
            "lacks": list(found.lacks),
            "sha256": hash_path(path),
        }
        inputs.append(description)
    return inputs


def _check_rejects(run: Run, on_error: str) -> None:
    """Raise TraceError if a complete run left out rows, and the caller asks for all of them."""
    n_rejected = run.info["n_rejected"]
    if n_rejected and on_error == "stop":
        raise TraceError(
            f"{run.path}: {n_rejected} rows could not be read when the run was made (rejects.jsonl "
            "lists them); mend them, or accept that with --on-error skip"
        )


class _RejectFile:
    """Writes rejected rows as they come; the file is put in its place when all rows are read.

    Attributes:
        n: rows that were rejected.
        first: why the first of them was rejected.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "rejects.jsonl"
        self.partial = folder / "rejects.jsonl.partial"
        self.n = 0
        self.first = ""

    def __enter__(self) -> "_RejectFile":
        self.file = self.partial.open("w", encoding="ascii")
        return self

    def write(self, reject: Reject) -> None:
        self.first = self.first or reject.reason
        self.n += 1
        self.file.write(json.dumps(reject._asdict(), ensure_ascii=True) + "\n")

    def __exit__(self, *error: object) -> None:
        # Without an error the rows were all read, and the file is whole.
        self.file.close()
        if self.n and error[0] is None:
            os.replace(self.partial, self.path)
        else:
            self.partial.unlink()


def load_tokenizer(name: str) -> Any:
    """A tokenizer of transformers, without its model.

    Raises:
        TraceError: if transformers is not installed, or there is no such tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise TraceError("a tokenizer needs transformers; `pip install cotlens[model]`") from None

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise TraceError(f"{name}: no tokenizer can be loaded: {reason}") from None


def _with_names(trace: Trace, model: str, method: str) -> Trace:
    """The trace, with the names of the call where it has none."""
    needs_model = bool(model) and not trace.model
    needs_method = bool(method) and not trace.method
    if not needs_model and not needs_method:
        return trace

    # The model's name decides whether its thinking is a summary.
    named = replace(trace, model=trace.model or model, method=trace.method or method)
    return flag_summary(named)


def _in_shards(traces: Iterator[Trace]) -> Iterator[list[Trace]]:
    """Traces in groups of at most `SHARD_TRACES` and about `SHARD_CHARS` characters."""
    while shard := list(islice(_until_full(traces), SHARD_TRACES)):
        yield shard


def _until_full(traces: Iterator[Trace]) -> Iterator[Trace]:
    """Traces up to and with the one that fills a shard."""
    n_chars = 0
    for trace in traces:
        yield trace
        # Roughly what the trace takes in memory.
        n_chars += len(trace.completion) + len(trace.prompt)
        n_chars += 8 * len(trace.token_ids or ()) + len(str(trace.meta))
        if n_chars >= SHARD_CHARS:
            return


def _write_shard(
    run: Run, number: int, traces: Sequence[Trace], tags: Tags | None, light: bool
) -> int:
    """Write both tables of one shard unless they are there; return the number of steps."""
    name = f"part-{number:05d}.parquet"
    trace_path = run.path / "traces" / name
    step_path = run.path / "steps" / name
    if step_path.exists() and trace_path.exists():
        return pq.read_metadata(step_path).num_rows

    # Steps are written last: where they are, the traces are whole too.
    trace_table, step_table = analyze_traces(traces, tags)
    if light:
        trace_table = trace_table.select(LIGHT_COLUMNS)
        step_table = step_table.select(LIGHT_STEP_COLUMNS)
    write_parquet(trace_path, trace_table)
    write_parquet(step_path, step_table)
    return step_table.num_rows
