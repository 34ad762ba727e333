"""Traces in memory: objects, texts, dictionaries and frames, wherever traces are asked for."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from cotlens.formats.read import read_records
from cotlens.trace import Trace, TraceError

Source = (
    Iterable[Trace | str | Mapping[str, Any]] | str | Mapping[str, Any] | pd.DataFrame | pa.Table
)


def as_traces(source: Source) -> Iterator[Trace]:
    """The traces of a source in memory, in order.

    Args:
        source: traces, which stay as they are; texts, each a completion; dictionaries or the rows
            of a frame, an Arrow table or a data set of Hugging Face, in any shape that a file may
            have. One text or one dictionary is one trace. A gap is a field that the row lacks.
            Texts and rows without an id get their number, from 1.

    Raises:
        TraceError: if an item is none of these, or a row cannot be read; it names the number.
    """
    rows: Any = source
    if isinstance(source, pd.DataFrame):
        rows = source.to_dict("records")
    elif isinstance(source, pa.Table):
        rows = _rows_of_table(source)
    elif isinstance(source, str | Mapping | Trace):
        rows = [source]
    elif isinstance(source, bytes):
        raise TraceError("expected traces, texts or rows, got bytes: decode them first")

    for number, item in enumerate(rows, 1):
        if isinstance(item, Trace):
            yield item
        elif isinstance(item, str):
            yield Trace(id=str(number), completion=item)
        elif isinstance(item, Mapping):
            try:
                yield from read_records([{"id": str(number), **_without_gaps(item)}])
            except TraceError as error:
                raise TraceError(f"item {number}: {error}") from None
        else:
            raise TraceError(f"item {number}: expected a trace, got {type(item).__name__}")


_ROWS = 1000  # of a table as Python objects at once


def _rows_of_table(table: Any) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=_ROWS):
        yield from batch.to_pylist()


def _without_gaps(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row without the fields whose value is missing."""
    filled = {}
    for name, value in row.items():
        is_missing = (
            value is None or value is pd.NA or (isinstance(value, float) and value != value)
        )
        if not is_missing:
            filled[str(name)] = value
    return filled
