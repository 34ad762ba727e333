"""Foreign files to traces.

Second room of the flow: `trace <- rows <- formats <- read`. A file is a container of rows (`rows`), and the rows have
a shape (`formats`) that is detected from the content.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cotlens.formats import Format, describe_mismatch, detect_row, find_format
from cotlens.rows import BadRow, Row, read_rows
from cotlens.trace import Trace, TraceError, dump_json

MAX_LINE_BYTES = 32 * 2**20  # a 32,000-token trace with 20 log-probs a token takes half of this


class Reject(NamedTuple):
    """A row that could not be read: where it stands, why, and its text as far as it could be kept."""

    file: str
    number: int  # line of a text file, row of a table, from 1
    reason: str
    row: str


def read_traces(
    paths: str | Path | Sequence[str | Path],
    *,
    format: str | None = None,
    on_reject: Callable[[Reject], None] | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
) -> Iterator[Trace]:
    """The traces of one or more files or folders, in order, read as they are asked for.

    Args:
        paths: JSON lines, JSON array, parquet (each also gzipped), Hugging Face dataset on disk, or cotlens run.
        format: name of a `Format`; default: for each file the first whose shape its first row has.
        on_reject: called with every row that cannot be read; without it the first one raises.
        max_line_bytes: a longer line is an error, so that a damaged file cannot fill the memory.

    Raises:
        TraceError: names the file, the line and the fault. An id that occurs twice is a fault.
    """
    seen: set[int] = set()  # hashes of ids, so that a million traces cost tens of megabytes, not their text
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        yield from _read_file(Path(path), find_format(format) if format else None, on_reject, max_line_bytes, seen)


def _read_file(
    path: Path,
    shape: Format | None,
    on_reject: Callable[[Reject], None] | None,
    max_line_bytes: int,
    seen: set[int],
) -> Iterator[Trace]:
    for number, row in read_rows(path, max_line_bytes):
        try:
            if isinstance(row, BadRow):
                raise TraceError(row.reason)
            shape = shape or detect_row(row)
            traces = _parse_row(row, shape, f"{_stem(path)}:{number}", seen)
        except TraceError as error:
            if on_reject is None:
                raise TraceError(f"{path}:{number}: {error}") from error.__cause__
            on_reject(Reject(str(path), number, str(error), _row_text(row)))
        else:
            yield from traces


def _parse_row(row: Row, shape: Format, name: str, seen: set[int]) -> list[Trace]:
    """The traces of one row; whatever is wrong with it becomes a TraceError."""
    if not shape.matches(row):
        raise TraceError(describe_mismatch(row, shape))
    try:
        traces = shape.parse(row, name)
    except (TypeError, KeyError, AttributeError, IndexError, OverflowError, ValueError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"not a row of format {shape.name}: {type(error).__name__}: {error}") from error
    keys = [hash(trace.id) for trace in traces]
    for trace, key in zip(traces, keys, strict=True):
        if key in seen:
            raise TraceError(f"the id {trace.id!r} occurs twice; ids must be unique within a run")
        seen.add(key)
    return traces


def detect_format(path: str | Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Format:
    """The format of a file, from its first readable row."""
    for _, row in read_rows(Path(path), max_line_bytes):
        if not isinstance(row, BadRow):
            try:
                return detect_row(row)
            except TraceError as error:
                raise TraceError(f"{path}: {error}") from None
    raise TraceError(f"{path}: no row of the file can be read")


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name


def _row_text(row: Row | BadRow) -> str:
    return row.text if isinstance(row, BadRow) else dump_json(row)
