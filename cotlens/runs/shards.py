"""over_shards: make a folder of parquet files, a shard at a time, so that a killed job resumes.

Every folder of shards in cotlens is made here: the traces and steps of a run, scores, verdicts and
sampled traces. Such a folder holds

    part-00000.parquet ...  a shard each, written whole or not at all, with checksums in its pages
    run.json                what made it; name, rows, bytes, SHA-256, fingerprint and content of
                            every shard; `complete`, only at the end
    .shards.jsonl           while the folder is not complete: the shards that are done, as they come

A shard's fingerprint depends on what made the folder and on the source; it tells whether a finished
shard may stay. Its content is the hash of its rows, taken once when they are written: it is the
source of the shards that are made from it. The SHA-256 is of the file: a shard that was damaged is
refused when it is read (`files.open_parquet`), and made again when the job is called again.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from cotlens.files import (
    SHARD_RECORD,
    Watched,
    check_hash,
    check_unchanged,
    hash_file,
    how_to_mend,
    only_one,
    parquet_metadata,
    read_parquet,
    to_json,
    watch,
    write_atomic,
    write_parquet,
)
from cotlens.trace import TraceError, dump_json, hash_text


class Shard(NamedTuple):
    """One shard to make.

    Attributes:
        name: of its file.
        source: hash of what it is made from, besides what made the folder.
        work: what `make` gets.
        watched: the file that `work` is, as it was when it was listed; None: it is no file.
    """

    name: str
    source: str
    work: Any
    watched: Watched | None = None


class Made(NamedTuple):
    """A shard's table, and what to note about it.

    Attributes:
        table: its rows.
        notes: JSON values kept with the shard. Numbers, and those of dictionaries name by name, are
            added up over all shards.
    """

    table: pa.Table
    notes: Mapping[str, Any] = {}


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"part-{number:05d}.parquet"


def over_shards(
    shards: Iterable[Shard],
    out: Path,
    make: Callable[[Any], Made],
    *,
    made_by: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    keep: Callable[[Mapping[str, Any]], bool] | None = None,
    force: bool = False,
    map: Callable[..., Iterable[Any]] = map,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Make every shard that is not there yet, and return what `run.json` then says.

    One process holds the folder meanwhile. Shards that the same source and settings made stay;
    files of shards that are no longer asked for are removed.

    Args:
        shards: what to make; consumed one at a time, so that their work need not fit in memory
            together.
        out: the folder; made if it is missing.
        make: returns the table of a shard's work.
        made_by: all that decides the rows besides the work: settings, versions, hashes.
        about: what else `run.json` is to say; a change of it makes nothing anew.
        keep: whether a finished shard may stay, given its notes; default: always.
        force: make all shards anew, whatever made those that are there.
        map: how `make` is applied to the shards: `map`, or that of a pool of processes. It must
            keep the order.
        progress: called with the rows of each finished shard.

    Raises:
        TraceError: if another process is writing here, or if the folder holds what something else
            made (unless `force` is set).
    """
    records = make_shards(
        shards, out, make, made_by=made_by, about=about, keep=keep, force=force, map=map
    )
    for record in records:
        if progress:
            progress(record["rows"])
    return read_info(out)


def make_shards(
    shards: Iterable[Shard],
    out: Path,
    make: Callable[[Any], Made],
    *,
    made_by: Mapping[str, Any],
    about: Mapping[str, Any] | None = None,
    keep: Callable[[Mapping[str, Any]], bool] | None = None,
    force: bool = False,
    map: Callable[..., Iterable[Any]] = map,
) -> Generator[dict[str, Any], None, None]:
    """As `over_shards`, but yield the record of each shard as soon as it is there.

    What is made from the shards can follow shard by shard. The folder is complete, and let go, when
    the last record has been taken and the next is asked for.
    """
    made_by = json.loads(dump_json(made_by))  # as it comes back from a file
    with only_one(out):
        known = _prepare(out, made_by, force)
        records = []
        work = partial(_make_shard, make, out, hash_text(dump_json(made_by)), keep, known)
        for record in map(work, shards):
            records.append(record)
            _note_done(out, record)
            yield record

        # Shards of sources that are no longer there.
        _remove_all_but(out, {record["name"] for record in records})
        counts = _add_up(records)
        info = {**made_by, **(about or {}), "complete": True, **counts, "shards": records}
        write_info(out, info)
        (out / _DONE).unlink(missing_ok=True)


def _prepare(out: Path, made_by: Mapping[str, Any], force: bool) -> dict[str, str]:
    """Make the folder ready: its `run.json` says what makes it now, and that it is not complete.

    Returns:
        Name -> SHA-256 of the finished shards that may stay.
    """
    for partial_shard in out.glob(".part-*.partial"):
        partial_shard.unlink()

    # A run, or another program's folder: its run.json must not be lost.
    info = read_info(out)
    if info and "shards" not in info and info.get("complete") is not False:
        raise TraceError(
            f"{out}: its run.json is that of a run, or another program's; choose another folder"
        )

    changed = changed_names(info, made_by)
    has_shards = any(out.glob("part-*.parquet"))
    if has_shards and changed and not force:
        raise TraceError(
            f"{out}: holds shards made with other {', '.join(changed)} (its run.json has them); "
            "choose another folder or name, or replace it with --force"
        )

    # Hashes outlive the list: a second kill must not lose them.
    known = {}
    if not force and not changed:
        known = {record["name"]: record for record in [*info.get("shards", ()), *_read_done(out)]}
    lines = [dump_json(record) + "\n" for record in known.values()]
    write_atomic(out / _DONE, "".join(lines))

    # Incomplete first, so that a kill between here and the end leaves no folder that looks whole.
    write_info(out, {**made_by, "complete": False})
    if force or changed:
        _remove_all_but(out, set())
    return {name: record.get("sha256", "") for name, record in known.items()}


_DONE = ".shards.jsonl"


def _note_done(out: Path, record: Mapping[str, Any]) -> None:
    """Add the record of a finished shard to the list of those that are done."""
    with (out / _DONE).open("a", encoding="utf-8") as file:
        file.write(dump_json(record) + "\n")


def _read_done(out: Path) -> list[dict[str, Any]]:
    """The records of the shards that a killed job had finished; its last line may be cut off."""
    try:
        lines = (out / _DONE).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []

    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and "name" in record:
            records.append(record)
    return records


def _make_shard(
    make: Callable[[Any], Made],
    out: Path,
    made_by: str,
    keep: Callable[[Mapping[str, Any]], bool] | None,
    known: Mapping[str, str],
    shard: Shard,
) -> dict[str, Any]:
    """The record of a shard, which is made unless it is there."""
    path = out / shard.name
    fingerprint = hash_text(f"{made_by}\0{shard.name}\0{shard.source}")

    # A finished shard stays, if the caller agrees.
    record = read_record(path)
    is_done = record.get("fingerprint") == fingerprint
    if is_done and keep is not None:
        is_done = keep(record["notes"])
    if is_done and _is_whole(path, record, known.get(shard.name, "")):
        return _with_size(record, path)

    # What was read must be what the shard says that it was made from.
    made = make(shard.work)
    if shard.watched:
        check_unchanged(shard.watched)
    record = {
        "name": shard.name,
        "rows": made.table.num_rows,
        "fingerprint": fingerprint,
        "content": hash_table(made.table),
        "source": shard.source,
        "notes": dict(made.notes),
    }

    # The record lies in the file too: a job that is killed before the list is written resumes.
    metadata = dict(made.table.schema.metadata or {})
    metadata[SHARD_RECORD] = dump_json(record).encode()
    table = made.table.replace_schema_metadata(metadata)
    write_parquet(path, table)
    return _with_size(record, path)


def _is_whole(path: Path, record: Mapping[str, Any], known_hash: str) -> bool:
    """Whether a finished shard is the file that was written, as far as anything tells."""
    if known_hash:
        return hash_file(path) == known_hash

    # The job was killed before it noted the shard: the checksums of its pages remain.
    try:
        return read_parquet(path).num_rows == record["rows"]
    except TraceError:
        return False


def _with_size(record: dict[str, Any], path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return record | {"bytes": size, "sha256": hash_file(path)}


def hash_table(table: pa.Table) -> str:
    """16 hex digits of a table's rows, without its metadata."""
    table = table.replace_schema_metadata(None)
    sink = _HashSink()
    file = pa.PythonFile(sink, mode="w")
    with pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)

    digits = sink.digest.hexdigest()
    return digits[:16]


class _HashSink:
    """A file that keeps only the hash of what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def read_record(path: Path) -> dict[str, Any]:
    """What a shard's file says of itself; empty if it is missing, damaged or not a shard."""
    metadata = parquet_metadata(path)
    text = metadata.get(SHARD_RECORD, b"{}")
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _remove_all_but(out: Path, names: set[str]) -> None:
    """Remove the shards whose names are not among these."""
    for path in out.glob("part-*.parquet"):
        if path.name not in names:
            path.unlink()


def remove_shards(folder: Path) -> None:
    """Remove the shards of a folder, their list, and the folder if nothing else is in it."""
    (folder / "run.json").unlink(missing_ok=True)
    (folder / _DONE).unlink(missing_ok=True)
    _remove_all_but(folder, set())
    if not folder.is_dir():
        return

    # Somebody's own files stay.
    names = {path.name for path in folder.iterdir()}
    if names <= {".lock"}:
        shutil.rmtree(folder)


def _add_up(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of the numbers that the shards' notes hold."""
    sums: dict[str, Any] = {}
    for record in records:
        notes = record["notes"]
        for name, value in notes.items():
            if isinstance(value, dict):
                sums[name] = dict(Counter(sums.get(name, {})) + Counter(value))
            elif not isinstance(value, str):
                sums[name] = sums.get(name, 0) + value
    return sums


def shards_of(folder: Path) -> Iterator[Shard]:
    """The shards of a complete folder as sources of others; their work is the path of the file.

    Asking for the next one checks that the one before did not change meanwhile.

    Raises:
        TraceError: if the folder is not complete, or a shard is missing, damaged or replaced.
    """
    for record in read_ledger(folder):
        path = check_shard(folder, record)
        expected = record.get("sha256", "")
        watched = watch(path, expected)
        if expected:
            check_hash(path, expected)
        yield Shard(record["name"], record["content"], path, watched)

        # Whoever read it by now read what the list says.
        check_unchanged(watched)


def read_ledger(folder: Path) -> list[dict[str, Any]]:
    """The records of the shards of a complete folder.

    Raises:
        TraceError: if the folder is not complete, or an older version of cotlens made it.
    """
    info = read_info(folder)
    is_old = not info and any(folder.glob("part-*.parquet"))
    if not info.get("complete") and not is_old:
        raise TraceError(f"{folder}: not complete; call the command that makes it again")
    if "shards" not in info:
        raise TraceError(f"{folder}: made by an older version of cotlens")
    return info["shards"]


def check_shard(folder: Path, record: Mapping[str, Any]) -> Path:
    """The path of a shard that is there and has the size that it was written with.

    Raises:
        TraceError: if it is missing, or has another size.
    """
    path = folder / record["name"]
    if not path.exists():
        raise TraceError(f"{path}: is missing; {how_to_mend(folder)}")

    size = path.stat().st_size
    expected = record["bytes"]
    if size != expected:
        raise TraceError(
            f"{path}: has {size:,} bytes, not the {expected:,} that were written; "
            f"{how_to_mend(folder)}"
        )
    return path


def read_shards(folder: Path, columns: Iterable[str] | None = None) -> pa.Table:
    """The rows of all shards of a complete folder in one table.

    Args:
        folder: of shards.
        columns: to read; None: all.

    Raises:
        TraceError: as `shards_of`, or if a shard is damaged.
    """
    names = None if columns is None else list(columns)
    tables = []
    for shard in shards_of(folder):
        table = read_parquet(shard.work, names)

        # Each file's metadata holds its own record.
        table = table.replace_schema_metadata(None)
        tables.append(table)
    return pa.concat_tables(tables)


def changed_names(info: Mapping[str, Any], made_by: Mapping[str, Any]) -> list[str]:
    """What a `run.json` says otherwise than `made_by`, by name."""
    # As it comes back from a file.
    expected = json.loads(dump_json(made_by))
    return [name for name, value in expected.items() if info.get(name) != value]


def write_info(folder: Path, info: Mapping[str, Any]) -> None:
    """Write the `run.json` of a folder."""
    write_atomic(folder / "run.json", to_json(dict(info)))


def read_info(folder: Path) -> dict[str, Any]:
    """The `run.json` of a folder; empty if it is missing or damaged."""
    try:
        text = (folder / "run.json").read_text(encoding="utf-8")
        info = json.loads(text)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return info if isinstance(info, dict) else {}
