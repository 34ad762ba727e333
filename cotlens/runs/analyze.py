"""analyze: files of traces become a run."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from importlib.resources import files as resources
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, TypeGuard

from cotlens.files import (
    Watched,
    check_unchanged,
    only_one,
    read_parquet,
    temporary_folder,
    versions,
    watch,
    write_parquet,
)
from cotlens.formats.known import find_format
from cotlens.formats.memory import Source, as_traces
from cotlens.formats.read import (
    MAX_LINE_BYTES,
    Reject,
    detect_format,
    flag_summary,
    input_files,
    read_traces,
)
from cotlens.formats.stdin import shown_path
from cotlens.models import tokenizer as tokenizers
from cotlens.runs.run import Run
from cotlens.runs.schema import LIGHT_COLUMNS, LIGHT_STEP_COLUMNS, NOT_STORED
from cotlens.runs.shards import (
    Made,
    Shard,
    changed_names,
    make_shards,
    over_shards,
    read_info,
    read_ledger,
    remove_shards,
    shard_name,
    shards_of,
    write_info,
)
from cotlens.runs.stamped import trainer_of, write_stamped_scores
from cotlens.runs.tables import STEPS_NEED, step_rows, trace_rows
from cotlens.text.families import Tags
from cotlens.text.response import new_tags
from cotlens.text.unknown import UnknownTags
from cotlens.trace import Trace, TraceError, hash_text

SHARD_TRACES = 1000
SHARD_CHARS = 16_000_000  # long traces make smaller shards, so that memory stays flat
_ROWS = 50  # of a shard as Python objects at once


def analyze(
    source: str | Path | Sequence[str | Path] | Source,
    out: str | Path | None = None,
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
    """Read, split and segment every trace into the run directory `out`; return the run.

    Called again with the same inputs it does nothing, or finishes what a killed call left.

    >>> analyze([Trace(id="a", completion="<think>2+2</think>4")]).info["n_traces"]
    1

    Args:
        source: files or folders, as `read_traces` takes them; or traces, rows or a frame in memory,
            as `as_traces` takes them (a text is a path here).
        out: the run directory, made if it is missing; None: a temporary folder, which is removed
            when the process ends.
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
    if out is None:
        out = temporary_folder() / "run"
    files = input_files(source if _are_paths(source) else _write_source(source))
    if not files:
        raise TraceError("nothing to analyze: no input file was given")

    # A tokenizer may bring delimiters that the table lacks.
    decoder = load_tokenizer(tokenizer) if tokenizer else None
    tags = tags or new_tags(decoder)

    run = Run(Path(out))
    if force:
        _take_over_damaged(run.path)
    _check_folder(run, files)
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
    watched = [watch(file) for file in files]
    inputs = _describe_inputs(watched, format)
    contents = [[made_from["format"], made_from["sha256"]] for made_from in inputs]
    made_by = {"contents": contents, "settings": settings, "versions": versions()}
    made_by["detectors"] = hash_detectors()

    if not force and _is_finished(run, made_by):
        _check_rejects(run, on_error)
        return run

    with only_one(run.path):
        if force or not _is_made_by(run, made_by):
            _remove_tables(run, force)
        write_info(run.path, {"inputs": inputs, **made_by, "complete": False})

        # Ingest: the traces, split. A light run keeps their text only until it has their steps.
        folder = run.path / (".full" if light else "traces")
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
            seen = _look_for_tags(named, unknown_tags)
            make_traces = partial(_make_traces, tags)
            ingested = make_shards(_in_shards(seen), folder, make_traces, made_by=made_by)

            # Steps: as soon as a shard of traces is there, a shard of steps is made from it.
            with closing(ingested):
                over_shards(
                    _as_sources(folder, ingested, progress),
                    run.path / "steps",
                    partial(_make_steps, light),
                    made_by=made_by,
                )

            # A run without traces would only fail later, at its first figure.
            n_rejected = rejects.n
            if not read_ledger(folder):
                raise TraceError(
                    f"none of the {rejects.n} rows could be read; the first: {rejects.first}"
                )

            _check_inputs(run, watched)

        if light:
            over_shards(shards_of(folder), run.path / "traces", _without_texts, made_by=made_by)
            remove_shards(folder)
        else:
            write_stamped_scores(run)

        counts = {
            "n_traces": read_info(run.path / "traces")["n_traces"],
            "n_steps": read_info(run.path / "steps")["n_steps"],
            "n_rejected": n_rejected,
            "n_shards": len(read_ledger(run.path / "traces")),
        }
        # Texts without any thinking may have delimiters that are not known.
        advice = "" if counts["n_steps"] else unknown_tags.advice()
        about = {"advice": advice} if advice else {}
        write_info(run.path, {"inputs": inputs, **made_by, "complete": True, **counts, **about})
    return run


def _are_paths(source: Any) -> TypeGuard[str | Path | Sequence[str | Path]]:
    """Whether a source names files, and does not hold traces itself."""
    if isinstance(source, str | Path):
        return True
    is_list = isinstance(source, list | tuple)
    return is_list and all(isinstance(item, str | Path) for item in source)


def _write_source(source: Any) -> Path:
    """A file of traces that were in memory."""
    path = temporary_folder() / "memory.parquet"
    write_parquet(path, trace_rows(as_traces(source)))
    return path


def _as_sources(
    folder: Path, records: Iterable[Mapping[str, Any]], progress: Callable[[int], None] | None
) -> Iterator[Shard]:
    """Shards of traces as sources of steps, with the progress of those whose steps are there."""
    for record in records:
        yield Shard(record["name"], record["content"], folder / record["name"])
        if progress:
            progress(record["rows"])


def _take_over_damaged(folder: Path) -> None:
    """Gives a run whose `run.json` cannot be read one that says that it is not complete.

    That it is a run is seen by its shards: no other program's folder has these.
    """
    path = folder / "run.json"
    has_shards = any(folder.glob("traces/part-*.parquet")) or any(folder.glob(".full/part-*"))
    if not path.is_file() or not has_shards:
        return
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        write_info(folder, {"inputs": [], "settings": {}, "versions": {}, "complete": False})


def _check_folder(run: Run, files: Sequence[Path]) -> None:
    """Raise TraceError if the folder holds an input, or something other than a run."""
    for file in files:
        if run.path.resolve() in (file.resolve(), *file.resolve().parents):
            raise TraceError(
                f"{run.path}: holds one of the inputs; choose another folder for the run"
            )
    if run.path.is_dir() and _has_contents(run.path):
        _ = run.info  # raises if the folder is not a run: foreign files are never removed


def _is_made_by(run: Run, made_by: Mapping[str, Any]) -> bool:
    """Whether the folder is new, or holds what the same inputs, settings and versions made."""
    is_new = not (run.path / "run.json").exists()
    return is_new or not changed_names(run.info, made_by)


def _is_finished(run: Run, made_by: Mapping[str, Any]) -> bool:
    """Whether the run is complete, made by just this, and has all its shards."""
    info = read_info(run.path)
    if not info.get("complete") or changed_names(info, made_by):
        return False
    try:
        for table in ("traces", "steps"):
            list(shards_of(run.path / table))
    except TraceError:
        return False
    return True


def _has_contents(folder: Path) -> bool:
    """Whether a folder holds more than hidden files and partial ones."""
    for child in folder.iterdir():
        if not child.name.startswith(".") and child.suffix != ".partial":
            return True
    return False


def _check_inputs(run: Run, watched: Sequence[Watched]) -> None:
    """Raise TraceError if an input changed while it was read; what was made of it is removed."""
    try:
        for file in watched:
            check_unchanged(file)
    except TraceError:
        _remove_tables(run, force=True)
        raise


def _check_idle(run: Run) -> None:
    """Raise TraceError if another process judges or scores the run: it reads the traces."""
    locks = [*run.path.glob("guard/*/*/.lock"), *run.path.glob("scores/*/.lock")]
    for lock in locks:
        with only_one(lock.parent):
            pass


def _remove_tables(run: Run, force: bool) -> None:
    """Remove traces and steps that something else made.

    Scores and verdicts of other traces stay, and are refused when they are read.

    Raises:
        TraceError: if there are steps, unless `force` is set; or if another process reads them.
    """
    if run.shards("steps") and not force:
        raise TraceError(
            f"{run.path}: holds a run made from other inputs, settings or versions; "
            "choose another folder, or replace it with --force"
        )

    _check_idle(run)
    # Incomplete first, so that a kill between here and the end leaves no run that looks whole.
    if (run.path / "run.json").exists():
        write_info(run.path, run.info | {"complete": False})
    for table in ("traces", "steps", ".full"):
        remove_shards(run.path / table)
    (run.path / "rejects.jsonl").unlink(missing_ok=True)


def hash_detectors() -> str:
    """16 hex digits of the weights of the detectors that label steps."""
    texts = []
    for file in sorted(resources("cotlens.detect").iterdir(), key=lambda file: file.name):
        if file.name.endswith((".npz", ".tsv")):
            texts.append(hashlib.sha256(file.read_bytes()).hexdigest())
    return hash_text("".join(texts))


def _make_traces(tags: Tags | None, traces: Sequence[Trace]) -> Made:
    trainers = {trainer_of(trace) for trace in traces}
    notes = {"n_traces": len(traces), "stamped_by": ",".join(sorted(trainers - {""}))}
    return Made(trace_rows(traces, tags), notes)


def _make_steps(light: bool, shard: Path) -> Made:
    """The steps of a shard of traces, which knows where their thinking is."""
    table = step_rows(read_parquet(shard, columns=STEPS_NEED).to_batches(max_chunksize=_ROWS))
    if light:
        table = table.select(LIGHT_STEP_COLUMNS)
    return Made(table, {"n_steps": table.num_rows})


def _without_texts(shard: Path) -> Made:
    """Traces of a light run: neither texts nor lists per token."""
    stored = [name for name in LIGHT_COLUMNS if name not in NOT_STORED]
    table = read_parquet(shard, stored)
    return Made(table, {"n_traces": table.num_rows})


def _describe_inputs(files: Sequence[Watched], format: str | None) -> list[dict[str, Any]]:
    """Path, format and hash of each input. Runs are the same if formats and hashes are."""
    inputs = []
    for file in files:
        found = find_format(format) if format else detect_format(file.path)
        description = {
            "path": shown_path(file.path),
            "format": found.name,
            "lacks": list(found.lacks),
            "sha256": file.sha256,
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
        return tokenizers.load_tokenizer(name)
    except ImportError:
        raise TraceError("a tokenizer needs transformers; `pip install cotlens[model]`") from None
    except (OSError, ValueError, KeyError) as error:
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


def _look_for_tags(traces: Iterator[Trace], unknown_tags: UnknownTags) -> Iterator[Trace]:
    """The traces, of which the first are looked at for delimiters that are not known."""
    for trace in traces:
        unknown_tags.look_at(trace)
        yield trace


def _in_shards(traces: Iterator[Trace]) -> Iterator[Shard]:
    """Traces in shards of at most `SHARD_TRACES` and about `SHARD_CHARS` characters."""
    for number in count():
        content = list(islice(_until_full(traces), SHARD_TRACES))
        if not content:
            return
        yield Shard(shard_name(number), "", content)


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
