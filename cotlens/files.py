"""Files written whole or not at all, folders held by one process, hashes and versions."""

import atexit
import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from cotlens.decoded import MAX_DECODED, MAX_OWN, as_plain, check_groups, repeating
from cotlens.footer import read_columns
from cotlens.trace import TraceError

if TYPE_CHECKING:
    import pandas as pd


def folder_name(name: str, model: str) -> str:
    """The given name; without one the last part of the model's name, made safe for a folder.

    Raises:
        TraceError: if the given name has characters other than letters, digits, dots, dashes and
            underscores, or the folder's name is one that cotlens uses itself.
    """
    folder = _safe_name(name, model)
    stem = folder.lower().partition(".")[0]
    if stem in _RESERVED:
        raise TraceError(
            f"{folder}: cotlens gives this name to files of its own; give another with --name, or "
            "call the model otherwise"
        )
    return folder


# The cache of verdicts lies beside the folders of judges; run.json lies in every folder.
_RESERVED = ("cache", "run")


def _safe_name(name: str, model: str) -> str:
    if name:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise TraceError(
                f"--name {name!r}: expected letters, digits, dots, dashes and underscores"
            )
        return name

    if Path(model).is_dir():
        last_part = Path(model).resolve().name
    else:
        last_part = model.rstrip("/").rsplit("/", 1)[-1]

    # Hub names may hold characters that some file systems lack.
    safe = re.sub(r"[^\w.-]+", "-", last_part)
    return safe.strip(".-") or "model"


def short_name(model: str) -> str:
    """The name of a model's folder without its path; the name of a Hub repository as it is."""
    folder = Path(model)
    if folder.is_dir():
        return folder.resolve().name
    return model


# What reading a damaged file raises: its numbers may be anything.
UNREADABLE = (
    pa.ArrowException,
    OSError,
    OverflowError,
    ValueError,
    LookupError,
    MemoryError,
)

# Key in the metadata of a shard: its record, as `run.json` lists it.
SHARD_RECORD = b"cotlens shard"


def parquet_metadata(shard: Path) -> dict[bytes, bytes]:
    """The metadata of a parquet file; empty if the file is missing or damaged."""
    try:
        schema = pq.read_schema(shard)
    except UNREADABLE:  # the caller makes such a shard again
        return {}
    return schema.metadata or {}


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Make a folder and hold it, so that two jobs cannot write into each other's shards.

    Raises:
        TraceError: if the folder is a file, or another process holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise TraceError(f"{folder}: is a file; the run directory must be a folder")
    folder.mkdir(parents=True, exist_ok=True)

    # The system releases the lock when the process ends, however it ends.
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TraceError(f"{folder}: another process is writing here") from None
    try:
        yield
    finally:
        lock.release()


def temporary_folder() -> Path:
    """A folder that lasts as long as the process."""
    folder = mkdtemp(prefix="cotlens-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write a parquet file whole or not at all, with a checksum in every page."""
    with _replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


@contextmanager
def open_parquet(path: Path, n_rows: int) -> Iterator[pq.ParquetFile]:
    """A parquet file for reading. Checksums in its pages are verified as the pages are read.

    A shard must be, byte for byte, the one that the `run.json` beside it lists. Texts that repeat
    often come as dictionaries, so that they take no more memory than on disk.

    Args:
        path: the file.
        n_rows: how many of its rows will be in memory together.

    Raises:
        TraceError: if the shard is another, or decodes to too much. All else that a damaged file
            raises is `UNREADABLE`.
    """
    check_listed(path)
    groups = read_columns(path)
    metadata = pq.read_metadata(path)
    most = _most_decoded(metadata)
    check_groups(path, groups, most)
    with pq.ParquetFile(
        path,
        metadata=metadata,
        read_dictionary=repeating(groups, n_rows, most),
        page_checksum_verification=True,
    ) as file:
        yield file


def _most_decoded(metadata: pq.FileMetaData) -> int:
    """Bytes that a small file may decode to: more for a shard that cotlens wrote."""
    is_own = SHARD_RECORD in (metadata.metadata or {})
    return MAX_OWN if is_own else MAX_DECODED


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of a parquet file whose checksums hold.

    Args:
        path: the file.
        columns: to read; None: all.

    Raises:
        TraceError: if the file is missing or damaged, lacks a column, or decodes to too much.
    """
    try:
        with open_parquet(path, sys.maxsize) as file:
            missing = set(columns or ()) - set(file.schema_arrow.names)
            if missing:
                raise TraceError(f"{path}: has no column {', '.join(sorted(missing))}")
            table = file.read(columns=columns)
            types = file.metadata.schema.to_arrow_schema()
            fields = [types.field(name) for name in table.schema.names]
            schema = pa.schema(fields, table.schema.metadata)
            return as_plain(path, table, schema, _most_decoded(file.metadata))
    except UNREADABLE as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(
            f"{path}: missing or damaged ({first_line(error)}); {how_to_mend(path.parent)}"
        ) from None


def read_frame(path: Path) -> "pd.DataFrame":
    """The rows of a parquet file as a frame of pandas; raises as `read_parquet`."""
    table = read_parquet(path)
    try:
        return table.to_pandas()
    except UNREADABLE as error:
        # What pandas noted of its types lies in the footer, which has no checksum.
        raise TraceError(
            f"{path}: damaged ({first_line(error)}); {how_to_mend(path.parent)}"
        ) from None


def first_line(error: Exception) -> str:
    """The first line of an error's message; its kind, if it has none."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


# --- whole files -------------------------------------------------------------------------------
def check_listed(path: Path) -> None:
    """Raise TraceError if a shard is not the file that the `run.json` beside it lists.

    A file that is not listed passes: another program's, or one of a job that is not done.
    """
    expected = _listed_hashes(path.parent).get(path.name)
    if expected and path.exists():
        check_hash(path, expected)


def check_hash(path: Path, expected: str) -> None:
    """Raise TraceError if a file has not the SHA-256 that it was written with."""
    if hash_file(path) != expected:
        raise TraceError(
            f"{path}: damaged or replaced since it was written (its SHA-256 is not the "
            f"one that was noted); {how_to_mend(path.parent)}"
        )


# What only one command's run.json says.
_MADE_BY = {
    "sampling": "generate",
    "probe": "probe",
    "judge": "guard",
    "reference": "score",
    "detectors": "analyze",
}


def how_to_mend(folder: Path) -> str:
    """What to do about a damaged shard, by what made its folder."""
    info = _read_object(folder / "run.json")
    commands = [command for key, command in _MADE_BY.items() if key in info]
    command = f"`cotlens {commands[0]}`" if commands else "the command that made it"
    return f"call {command} again as before, which makes what is damaged anew"


def _listed_hashes(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the shards that the `run.json` of a folder lists."""
    path = folder / "run.json"
    try:
        state = file_state(path)
    except OSError:
        return {}
    earlier = _lists.get(path)
    if earlier and earlier[0] == state:
        return earlier[1]

    hashes = {}
    shards = _read_object(path).get("shards")
    for record in shards if isinstance(shards, list) else ():
        if isinstance(record, dict) and record.get("sha256"):
            hashes[record["name"]] = record["sha256"]
    if _is_settled(state):
        _lists[path] = (state, hashes)
    return hashes


def _read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class FileState(NamedTuple):
    """What changes when a file is written to or replaced: also its time of change, in ns."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def file_state(path: Path) -> FileState:
    """The state of a file as it is now."""
    found = path.stat()
    return FileState(
        found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    )


# What this process has read already, with the state that the file had.
_lists: dict[Path, tuple[FileState, dict[str, str]]] = {}
_hashes: dict[Path, tuple[FileState, str]] = {}
_SETTLED_NS = 2 * 10**9  # file systems tell times apart by up to two seconds


def _is_settled(state: FileState) -> bool:
    """Whether a change that comes now would show in the file's times."""
    return time.time_ns() - max(state.changed, state.modified) > _SETTLED_NS


def hash_file(path: Path) -> str:
    """SHA-256 of a file; taken once a process, while the file is not touched."""
    state = file_state(path)
    earlier = _hashes.get(path)
    if earlier and earlier[0] == state:
        return earlier[1]

    digest = hash_path(path)
    if _is_settled(state):
        _hashes[path] = (state, digest)
    return digest


# --- files that change while they are read -----------------------------------------------------
class Watched(NamedTuple):
    """A file or folder as it was before it was read.

    Attributes:
        path: the file or folder.
        sha256: as `hash_path` gives it; empty: unknown.
        written: name -> size and time of the last writing (ns) of each file.
    """

    path: Path
    sha256: str
    written: dict[str, tuple[int, int]]


def watch(path: Path, sha256: str | None = None) -> Watched:
    """Note what a file or folder is now; `check_unchanged` then says whether it still is.

    Args:
        path: the file or folder.
        sha256: where it is known already, or must not be taken (empty).
    """
    # The times come first: a change between them and the hash shows in the times.
    written = _written(path)
    return Watched(path, _hash_of(path) if sha256 is None else sha256, written)


def check_unchanged(watched: Watched) -> None:
    """Raise TraceError if a file or folder was written to, replaced or removed since."""
    path = watched.path
    is_same = path.exists() and _written(path) == watched.written
    if is_same and watched.sha256:
        is_same = _hash_of(path) == watched.sha256
    if not is_same:
        raise TraceError(
            f"{path}: changed while it was read; call the same command again when nothing writes "
            "there"
        )


def _written(path: Path) -> dict[str, tuple[int, int]]:
    """Size and time of the last writing of a file, or of each file in a folder."""
    children = [path] if path.is_file() else sorted(path.rglob("*"))
    written = {}
    for child in children:
        if child.is_file():
            state = file_state(child)
            written[str(child)] = (state.size, state.modified)
    return written


def _hash_of(path: Path) -> str:
    return hash_file(path) if path.is_file() else hash_path(path)


# --- all or nothing ----------------------------------------------------------------------------


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text is written as UTF-8."""
    if isinstance(content, str):
        content = content.encode()
    with _replacing(path) as partial:
        partial.write_bytes(content)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to. It replaces `path` when the block ends without an error.

    What was written is on the disk before it takes the name, and the name before this returns: a
    machine that loses its power has the old file or the new one. After an error nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)

    # In the same folder, so that the replacement is one step on every file system.
    name = f".{path.name}.{os.getpid()}.partial"
    partial = path.with_name(name)
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk, if the system says so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folder
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(descriptor)


def to_json(info: dict[str, Any]) -> str:
    """JSON text of a `run.json`, indented and ending with a newline."""
    text = json.dumps(info, indent=2, ensure_ascii=False)
    return text + "\n"


def versions() -> dict[str, str]:
    """Versions of the packages that numbers and figures depend on."""
    installed = {}
    for name in ("cotlens", "numpy", "pandas", "pyarrow", "scipy", "matplotlib"):
        installed[name] = version(name)
    return installed


def model_versions() -> dict[str, str]:
    """Versions of the packages that `versions` lists, and of those that run a model."""
    installed = versions()
    for name in ("torch", "transformers", "tokenizers"):
        installed[name] = version(name)
    return installed


def hash_path(path: Path) -> str:
    """SHA-256 of a file; for a folder, of the names and hashes of all files in it."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    # A folder: the relative path and the hash of each file, in sorted order.
    digest = hashlib.sha256()
    for child in sorted(path.rglob("*")):
        if child.is_file():
            name = child.relative_to(path)
            line = f"{name}\0{hash_path(child)}\n"
            digest.update(line.encode())
    return digest.hexdigest()


def names_that_differ(paths: list[Path]) -> list[str]:
    """Return the shortest end of each path that no other path shares, in the order of the paths.

    Equal paths share a name. Paths are compared as given: resolve them first where they may hold
    `.` or `..`.

    >>> names_that_differ([Path("runs/base"), Path("runs/seed=0/grpo"), Path("runs/seed=1/grpo")])
    ['base', 'seed=0/grpo', 'seed=1/grpo']
    >>> names_that_differ([Path("/a/x"), Path("/b/a/x"), Path("/a/x")])
    ['/a/x', 'b/a/x', '/a/x']
    """
    names = {path: path.name for path in paths}
    most_parts = max((len(path.parts) for path in paths), default=0)

    # Names that several paths share take one more folder each time.
    for n_parts in range(2, most_parts + 1):
        uses = Counter(names.values())
        for path, name in names.items():
            if uses[name] > 1:
                names[path] = Path(*path.parts[-n_parts:]).as_posix()

    return [names[path] for path in paths]
