"""Rows of any container: JSON lines, a JSON array, parquet, a Hugging Face dataset on disk; gzip is seen through.

What the rows mean is for `formats` to say. A line that is no row comes out as a `BadRow`, so that reading can go on
behind it; a file that cannot be opened at all raises.
"""

import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cotlens.trace import TraceError, dump_json

Row = Mapping[str, Any]

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
    with path.open("rb") as raw:
        magic = raw.read(4)
    if not magic:
        raise TraceError(f"{path}: the file is empty")
    if magic == b"PAR1":
        yield from _parquet_rows([path])
        return
    with gzip.open(path, "rb") if magic[:2] == b"\x1f\x8b" else path.open("rb") as file:
        stream: Any = file  # gzip's file and a plain one share readline, read and peek, but no type
        try:
            is_array = stream.peek(4096)[:4096].lstrip().startswith(b"[")
        except (EOFError, OSError) as error:
            raise TraceError(f"{path}: the compressed file is cut off or damaged: {error}") from None
        yield from _array_rows(path, stream) if is_array else _line_rows(path, stream, max_line_bytes)


def _line_rows(path: Path, file: IO[bytes], limit: int) -> Iterator[tuple[int, Row | BadRow]]:
    number, empty = 0, True
    while True:
        number += 1
        try:
            line = file.readline(limit + 1)
        except (EOFError, OSError) as error:
            raise TraceError(f"{path}:{number}: the compressed file is cut off or damaged: {error}") from None
        if not line:
            break
        if len(line) > limit:
            size = len(line)
            while line and not line.endswith(b"\n"):
                line = file.readline(limit)
                size += len(line)
            empty = False
            yield (
                number,
                BadRow(
                    f"the line has {size / 2**20:.0f} MiB, more than the {limit / 2**20:.0f} MiB allowed; "
                    "split it, or raise the limit (--max-line-mb)",
                    "",
                ),
            )
        elif line.strip():
            empty = False
            yield number, _parse_line(line, number)
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
        rows = json.load(file)
    except (ValueError, RecursionError, EOFError, OSError) as error:
        raise TraceError(f"{path}: begins as a JSON array but is not valid JSON: {error}") from None
    if not rows:
        raise TraceError(f"{path}: the file has no rows")
    for number, row in enumerate(rows, 1):
        is_row = isinstance(row, dict)
        yield number, row if is_row else BadRow(f"expected a JSON object, got {type(row).__name__}", dump_json(row))


def _folder_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """A cotlens run, or a Hugging Face dataset (or dict of datasets) as `save_to_disk` leaves it."""
    if (path / "traces").is_dir():
        yield from _parquet_rows(sorted((path / "traces").glob("*.parquet")))
        return
    if (path / "dataset_dict.json").exists():
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        number = 0
        for split in splits:
            for _, row in _folder_rows(path / split):
                number += 1
                yield number, {"split": split, **row}
        return
    if (path / "state.json").exists():
        files = [path / data["filename"] for data in json.loads((path / "state.json").read_text())["_data_files"]]
        yield from _arrow_rows(files)
        return
    found = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
    raise TraceError(
        f"{path}: a folder must be a cotlens run (traces/*.parquet) or a Hugging Face dataset (state.json); "
        f"it holds {found}"
    )


def _parquet_rows(files: Sequence[Path]) -> Iterator[tuple[int, Row]]:
    number = 0
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH_ROWS):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise TraceError(f"{path}: not a whole parquet file (cut off or damaged?): {reason}") from None
    if number == 0:
        raise TraceError(f"{files[0] if files else 'traces'}: the table has no rows")


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
        except (pa.ArrowException, OSError) as error:
            raise TraceError(f"{path}: not a whole Arrow file (cut off or damaged?): {error}") from None
    if number == 0:
        raise TraceError(f"{files[0] if files else 'dataset'}: the dataset has no rows")
