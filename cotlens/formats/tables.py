"""Rows of tables: parquet and Arrow, a few MiB at a time whatever they decode to."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from cotlens.decoded import MAX_ROW, check_stream, slices_of
from cotlens.files import (
    SHARD_RECORD,
    UNREADABLE,
    first_line,
    open_parquet,
    parquet_metadata,
)
from cotlens.formats.row import BadRow, Row, too_long
from cotlens.formats.stdin import check_regular
from cotlens.trace import TraceError

_BATCH_ROWS = 256  # rows of a table in memory at once


def parquet_rows(files: Sequence[Path], max_row: int) -> Iterator[tuple[int, Row | BadRow]]:
    """Numbered rows of parquet files, from 1; one of more bytes than allowed is a bad row.

    Raises:
        TraceError: if a file is damaged or decodes to too much, or there is no row.
    """
    number = 0
    for path in files:
        try:
            check_regular(path)
            with open_parquet(path, _BATCH_ROWS) as file:
                # What cotlens wrote was let in by a limit that the user chose.
                is_own = SHARD_RECORD in (file.metadata.metadata or {})
                limit = MAX_ROW if is_own else max_row
                for batch in file.iter_batches(_BATCH_ROWS):
                    for row in _rows_of(batch, limit):
                        number += 1
                        yield number, row
        except UNREADABLE as error:
            if isinstance(error, TraceError):
                raise
            raise TraceError(
                f"{path}: row {number + 1} and on cannot be read (cut off or damaged?): "
                f"{first_line(error)}"
            ) from None

    # A shard of a folder may be empty: nothing of its source was kept.
    if number == 0 and not (files and SHARD_RECORD in parquet_metadata(files[0])):
        raise TraceError(f"{files[0] if files else 'traces/'}: no rows")


def arrow_rows(files: Sequence[Path], max_row: int) -> Iterator[tuple[int, Row | BadRow]]:
    """Numbered rows of Arrow streams, as `parquet_rows`."""
    number = 0
    for path in files:
        try:
            check_regular(path)
            check_stream(path)
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
                for batch in stream:
                    for start in range(0, batch.num_rows, _BATCH_ROWS):
                        for row in _rows_of(batch.slice(start, _BATCH_ROWS), max_row):
                            number += 1
                            yield number, row
        except UNREADABLE as error:
            if isinstance(error, TraceError):
                raise
            raise TraceError(
                f"{path}: not a whole Arrow file (cut off or damaged?): {first_line(error)}"
            ) from None

    if number == 0:
        raise TraceError(f"{files[0] if files else 'dataset'}: the dataset has no rows")


def _rows_of(batch: pa.RecordBatch, max_row: int) -> Iterator[Row | BadRow]:
    for rows in slices_of(batch, max_row):
        if isinstance(rows, int):
            yield too_long(rows, max_row, "row")
        else:
            yield from rows
