"""Files written whole or not at all, folders held by one process, hashes and versions."""

import fcntl
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.trace import TraceError

SOURCE_HASH = b"sha256 of the trace shard"


def folder_name(name: str, model: str) -> str:
    """The name that was given, if it is one; else the last part of the model's, made one."""
    if name:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise TraceError(
                f"--name {name!r}: expected letters, digits, dots, dashes and underscores"
            )
        return name
    last = (
        Path(model).resolve().name if Path(model).is_dir() else model.rstrip("/").rsplit("/", 1)[-1]
    )
    return re.sub(r"[^\w.-]+", "-", last).strip(".-") or "model"


def short_name(model: str) -> str:
    """The name of a model's folder without the way to it, or its repository."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def is_made_from(done: Path, source: str) -> bool:
    return parquet_metadata(done).get(SOURCE_HASH) == source.encode()


def parquet_metadata(done: Path) -> dict[bytes, bytes]:
    try:
        return pq.read_schema(done).metadata or {}
    except (OSError, pa.ArrowInvalid):  # not there, or damaged: it is made again
        return {}


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Holds a folder for this process, so that two jobs cannot write into each other's shards."""
    if folder.exists() and not folder.is_dir():
        raise TraceError(f"{folder}: is a file; the run directory must be a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TraceError(f"{folder}: another process is writing here") from None
        yield


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to; what stands there at the end takes the place of `path` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    yield partial
    os.replace(partial, path)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Writes a parquet file whole or not at all."""
    with _replacing(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Writes a file whole or not at all."""
    with _replacing(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def to_json(info: dict[str, Any]) -> str:
    return json.dumps(info, indent=2, ensure_ascii=False) + "\n"


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers and pictures depend on."""
    return {
        name: version(name)
        for name in ("cotlens", "numpy", "pandas", "pyarrow", "scipy", "matplotlib")
    }


def model_versions() -> dict[str, str]:
    """Versions of what `versions` lists and of the packages that run a model."""
    return versions() | {name: version(name) for name in ("torch", "transformers", "tokenizers")}


def hash_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for child in sorted(child for child in path.rglob("*") if child.is_file()):
        digest.update(f"{child.relative_to(path)}\0{hash_path(child)}\n".encode())
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
