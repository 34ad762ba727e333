"""Traces in memory: objects, texts, dictionaries and frames, wherever traces are asked for."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from cotlens.formats.read import read_records
from cotlens.trace import Trace, TraceError

Source = Iterable[Trace | str | Mapping[str, Any]] | pd.DataFrame


def as_traces(source: Source) -> Iterator[Trace]:
    """The traces of a source in memory, in order.

    Args:
        source: traces, which stay as they are; texts, each a completion; dictionaries or the rows
            of a frame, in any shape that a file may have. A gap of a frame is a field that the row
            lacks. Texts and rows without an id get their number, from 1.

    Raises:
        TraceError: if an item is none of these, or a row cannot be read; it names the number.
    """
    rows: Iterable[Any] = source
    if isinstance(source, pd.DataFrame):
        rows = map(_without_gaps, source.to_dict("records"))
    elif isinstance(source, str | bytes | Mapping):
        raise TraceError(
            f"expected traces, texts or rows, got one {type(source).__name__}: put it in a list"
        )

    for number, item in enumerate(rows, 1):
        if isinstance(item, Trace):
            yield item
        elif isinstance(item, str):
            yield Trace(id=str(number), completion=item)
        elif isinstance(item, Mapping):
            try:
                yield from read_records([{"id": str(number), **item}])
            except TraceError as error:
                raise TraceError(f"item {number}: {error}") from None
        else:
            raise TraceError(f"item {number}: expected a trace, got {type(item).__name__}")


def _without_gaps(row: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of a frame without the fields whose value is missing."""
    filled = {}
    for name, value in row.items():
        is_missing = (
            value is None or value is pd.NA or (isinstance(value, float) and value != value)
        )
        if not is_missing:
            filled[str(name)] = value
    return filled
