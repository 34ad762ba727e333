"""A run directory: the traces of one checkpoint on one prompt set, and every table made of them, shard by shard.

    RUN/run.json             what made it: inputs with their hashes, settings, versions, counts
    RUN/traces/part-*.parquet
    RUN/steps/part-*.parquet one shard for each shard of traces
    RUN/rejects.jsonl        rows that could not be read, where `on_error="skip"` was asked for

A shard is written whole or not at all, and `run.json` says `complete` only at the end: a killed job is called again
with the same inputs and goes on behind the last shard. Memory holds one shard, however large the corpus.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.formats import find_format
from cotlens.read import MAX_LINE_BYTES, Reject, detect_format, read_traces
from cotlens.table import LIGHT_COLUMNS, analyze_traces
from cotlens.trace import Trace, TraceError

SHARD_TRACES = 1000
SHARD_CHARS = 16_000_000  # long traces make smaller shards, so that memory stays flat
_COUNTS = ("n_traces", "n_steps", "n_rejected")


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that exists. Its tables are read with only the columns that are asked for."""

    path: Path

    @property
    def info(self) -> dict[str, Any]:
        """What `run.json` says."""
        try:
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TraceError(f"{self.path}: not a cotlens run (run.json cannot be read: {error})") from None

    def shards(self, table: str) -> list[Path]:
        """The parquet files of `traces` or `steps`, in order."""
        return sorted((self.path / table).glob("part-*.parquet"))

    def trace_table(self, columns: Sequence[str] = LIGHT_COLUMNS) -> pd.DataFrame:
        """One row per trace; by default every column but the texts and the lists per token."""
        return self._read("traces", columns)

    def step_table(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One row per step."""
        return self._read("steps", columns)

    def traces(self) -> Iterator[Trace]:
        """The traces, exactly as they were read from the source."""
        if self.info.get("light"):
            raise TraceError(f"{self.path}: a light run holds no texts; analyze the source again without --light")
        return read_traces(self.path, format="cotlens")

    def _read(self, table: str, columns: Sequence[str] | None) -> pd.DataFrame:
        shards = self.shards(table)
        if not shards:
            inputs = ", ".join(made_from["path"] for made_from in self.info["inputs"])
            raise TraceError(f"{self.path}: the run has no {table} yet; finish it with `cotlens analyze {inputs}`")
        parts = [pq.read_table(shard, columns=None if columns is None else list(columns)) for shard in shards]
        return pa.concat_tables(parts).to_pandas()


def analyze(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    format: str | None = None,
    on_error: Literal["stop", "skip"] = "stop",
    max_line_bytes: int = MAX_LINE_BYTES,
    light: bool = False,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Reads, splits and segments every trace of `paths` into the run directory `out`, and returns the run.

    Called again with the same inputs it does nothing, or finishes what a killed call left.

    Args:
        paths: files or folders, as `read_traces` takes them.
        out: the run directory; made if it is missing.
        format: as in `read_traces`.
        on_error: `stop` raises at the first row that cannot be read; `skip` writes it to `rejects.jsonl`.
        max_line_bytes: as in `read_traces`.
        light: leave out texts and token lists: the figures can still be drawn, from a run small enough to commit.
        force: replace a run that was made from other inputs.
        progress: called with the number of traces done since the last call.

    Raises:
        TraceError: for a row that cannot be read, or if `out` holds something else.
    """
    if not paths:
        raise TraceError("nothing to analyze: no input file was given")
    run = Run(Path(out))
    made_by = _provenance(paths, format, light)
    if _prepare(run, made_by, force):
        return run
    rejects: list[Reject] = []
    traces = read_traces(
        paths,
        format=format,
        on_reject=rejects.append if on_error == "skip" else None,
        max_line_bytes=max_line_bytes,
    )
    counts = dict.fromkeys(_COUNTS, 0)
    for number, shard in enumerate(_shards(traces)):
        counts["n_traces"] += len(shard)
        counts["n_steps"] += _write_shard(run, number, shard, light)
        if progress:
            progress(len(shard))
    if not counts["n_traces"]:
        raise TraceError(f"none of the {len(rejects)} rows could be read; the first: {rejects[0].reason}")
    counts["n_rejected"] = len(rejects)
    if rejects:
        lines = [json.dumps(reject._asdict(), ensure_ascii=True) + "\n" for reject in rejects]
        write_atomic(run.path / "rejects.jsonl", "".join(lines))
    _write_info(run, made_by | {"complete": True} | counts)
    return run


def _prepare(run: Run, made_by: dict[str, Any], force: bool) -> bool:
    """Whether the run is already complete; makes room for it otherwise."""
    if run.path.exists() and any(run.path.iterdir()):
        before = run.info  # raises where the folder is no run: nothing foreign is ever removed
        if all(before.get(key) == value for key, value in made_by.items()):
            return bool(before.get("complete"))
        if not force and run.shards("steps"):
            raise TraceError(
                f"{run.path}: holds a run made from other inputs, settings or versions; "
                "choose another folder, or replace it with --force"
            )
        for table in ("traces", "steps"):
            shutil.rmtree(run.path / table, ignore_errors=True)
        (run.path / "rejects.jsonl").unlink(missing_ok=True)
    _write_info(run, made_by | {"complete": False})
    return False


def _shards(traces: Iterator[Trace]) -> Iterator[list[Trace]]:
    """Traces in groups of at most `SHARD_TRACES` and about `SHARD_CHARS` characters."""
    while shard := list(islice(_until(traces, SHARD_CHARS), SHARD_TRACES)):
        yield shard


def _until(traces: Iterator[Trace], chars: int) -> Iterator[Trace]:
    for trace in traces:
        yield trace
        chars -= len(trace.completion) + len(trace.prompt)
        if chars <= 0:
            return


def _write_shard(run: Run, number: int, traces: Iterable[Trace], light: bool) -> int:
    """Writes both tables of one shard unless they are there; returns the number of steps."""
    name = f"part-{number:05d}.parquet"
    done = run.path / "steps" / name  # written last
    if done.exists():
        return pq.read_metadata(done).num_rows
    trace_table, step_table = analyze_traces(traces)
    if light:
        trace_table = trace_table.select(LIGHT_COLUMNS)
    write_parquet(run.path / "traces" / name, trace_table)
    write_parquet(done, step_table)
    return step_table.num_rows


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes a parquet file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)


def _write_info(run: Run, info: dict[str, Any]) -> None:
    write_atomic(run.path / "run.json", json.dumps(info, indent=2, ensure_ascii=False) + "\n")


def _provenance(paths: Sequence[str | Path], format: str | None, light: bool) -> dict[str, Any]:
    """What a run is made from. Two calls with the same answer make the same run."""
    inputs = []
    for path in map(Path, paths):
        shape = find_format(format) if format else detect_format(path)
        inputs.append({"path": str(path), "format": shape.name, "lacks": list(shape.lacks), "sha256": hash_path(path)})
    return {"inputs": inputs, "light": light, "versions": versions()}


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers and pictures depend on."""
    return {name: version(name) for name in ("cotlens", "numpy", "pandas", "pyarrow", "scipy", "matplotlib")}


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for child in sorted(child for child in path.rglob("*") if child.is_file()):
        digest.update(f"{child.relative_to(path)}\0{hash_path(child)}\n".encode())
    return digest.hexdigest()
