"""Rows of any container: JSON lines, a JSON array, parquet, a Hugging Face dataset on disk; gzip is seen through.

What the rows mean is for `formats` to say. A line that is no row comes out as a `BadRow`, so that reading can go on
behind it; a file that cannot be opened at all raises.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.trace import TraceError, dump_json

Row = Mapping[str, Any]

_DAMAGED = (EOFError, OSError, zlib.error)  # what a broken gzip file raises
_UNREADABLE = (pa.ArrowException, OSError, OverflowError, ValueError)  # what broken or odd tables raise
_BATCH_ROWS = 256  # rows of parquet or Arrow in memory at once


class BadRow(NamedTuple):
    """A line that is no JSON object: passed on so that reading can go on behind it."""

    reason: str
    text: str


def read_rows(path: Path, max_line_bytes: int) -> Iterator[tuple[int, Row | BadRow]]:
    """Numbered rows of any container, from 1. A file that cannot be opened at all raises."""
    if not path.exists():
        raise TraceError(f"{path}: no such file or folder")
    if path.is_dir():
        yield from _folder_rows(path)
        return
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
    except OSError as error:
        raise TraceError(f"{path}: cannot be opened: {error.strerror}") from None
    if not magic:
        raise TraceError(f"{path}: the file is empty")
    if magic == b"PAR1":
        yield from _parquet_rows([path])
        return
    with gzip.open(path, "rb") if magic[:2] == b"\x1f\x8b" else path.open("rb") as file:
        stream: Any = file  # gzip's file and a plain one share readline, read and peek, but no type
        try:
            is_array = stream.peek(4096)[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")
        except _DAMAGED as error:
            raise TraceError(f"{path}: the compressed file is cut off or damaged: {error}") from None
        yield from _array_rows(path, stream) if is_array else _line_rows(path, stream, max_line_bytes)


def _line_rows(path: Path, file: IO[bytes], limit: int) -> Iterator[tuple[int, Row | BadRow]]:
    number, empty = 0, True
    try:
        while line := file.readline(limit + 1):
            number += 1
            size = len(line)
            while size > limit and not line.endswith(b"\n") and (line := file.readline(limit)):
                size += len(line)
            if size > limit + 1 or (size > limit and not line.endswith(b"\n")):
                got, allowed = size / 2**20, limit / 2**20
                fault = f"the line has {got:.0f} MiB, more than the {allowed:.0f} MiB allowed (--max-line-mb)"
                yield number, BadRow(f"{fault}; split it, or raise the limit", "")
            elif line.strip():
                yield number, _parse_line(line, number)
            else:
                continue
            empty = False
    except _DAMAGED as error:
        raise TraceError(f"{path}:{number + 1}: the compressed file is cut off or damaged: {error}") from None
    if empty:
        raise TraceError(f"{path}: the file has no rows")


def _parse_line(line: bytes, number: int) -> Row | BadRow:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        kind = "a binary file, not JSON lines" if b"\0" in line else "not UTF-8"
        return BadRow(f"{kind}: byte 0x{line[error.start]:02x} at byte {error.start} of the line", repr(line[:1000]))
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadRow(f"not valid JSON: {error}", text)
    if not isinstance(row, dict):
        return BadRow(f"expected a JSON object, got {type(row).__name__}", text)
    return row


def _array_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Row | BadRow]]:
    try:
        rows = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError, *_DAMAGED) as error:
        raise TraceError(f"{path}: begins as a JSON array but is not valid JSON: {error}") from None
    if not rows:
        raise TraceError(f"{path}: the file has no rows")
    for number, row in enumerate(rows, 1):
        is_row = isinstance(row, dict)
        yield number, row if is_row else BadRow(f"expected a JSON object, got {type(row).__name__}", dump_json(row))


def _folder_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """A cotlens run, or a Hugging Face dataset (or dict of datasets) as `save_to_disk` leaves it."""
    if (path / "run.json").exists() and b'"complete": false' in (path / "run.json").read_bytes():
        raise TraceError(f"{path}: the run is not complete; finish it with `cotlens analyze` first")
    if (path / "traces").is_dir():
        yield from _parquet_rows(sorted((path / "traces").glob("*.parquet")))
        return
    if (path / "dataset_dict.json").exists():
        splits = _read_list(path / "dataset_dict.json", "splits")
        number = 0
        for split in splits:
            if not (path / split / "state.json").exists():
                raise TraceError(f"{path}: the dataset's split {split!r} has no state.json")
            for _, row in _folder_rows(path / split):
                number += 1
                yield number, {"split": split, **row}
        return
    if (path / "state.json").exists():
        yield from _arrow_rows([path / data["filename"] for data in _read_list(path / "state.json", "_data_files")])
        return
    found = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
    raise TraceError(
        f"{path}: a folder must be a cotlens run (traces/*.parquet), a Hugging Face dataset (state.json), or hold "
        f"parquet or JSONL files; it holds {found}"
    )


def _read_list(path: Path, key: str) -> list[Any]:
    """A list in one of the JSON files of a Hugging Face dataset."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path}: not a file of a Hugging Face dataset: {error!r}") from None
    wanted = str if key == "splits" else dict
    if not isinstance(found, list) or not all(isinstance(item, wanted) for item in found):
        raise TraceError(f"{path}: {key} must be a list of {wanted.__name__}, got {found!r}")
    return found


def _parquet_rows(files: Sequence[Path]) -> Iterator[tuple[int, Row]]:
    number = 0
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except _UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TraceError(
                f"{path}: row {number + 1} and on cannot be read (cut off or damaged?): {reason}"
            ) from None
    if number == 0:
        raise TraceError(f"{files[0] if files else 'traces/'}: no rows")


def _arrow_rows(files: Sequence[Path]) -> Iterator[tuple[int, Row]]:
    number = 0
    for path in files:
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    for start in range(0, batch.num_rows, _BATCH_ROWS):
                        for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                            number += 1
                            yield number, row
        except _UNREADABLE as error:
            raise TraceError(f"{path}: not a whole Arrow file (cut off or damaged?): {error}") from None
    if number == 0:
        raise TraceError(f"{files[0] if files else 'dataset'}: the dataset has no rows")
