"""How many bytes a table takes once it is decoded: limits for small files that decode to gigabytes.

A text that repeats, a list of zeros or a compressed page of blanks takes a thousandth of its size
on disk. Such a file is refused before it is decoded, where its own numbers tell, or row by row.
What is large on disk is never refused: its size is known to whoever made it.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cotlens.footer import Column
from cotlens.trace import TraceError

# Beyond both, a part of a file is refused.
MAX_DECODED = 2**28  # bytes that a group of rows may decode to, whatever its size on disk
MAX_RATIO = 100  # decoded bytes to bytes on disk; text is compressed to a third or a tenth
MAX_OWN = 2**31  # likewise, for shards that cotlens wrote: a thousand long prompts that repeat
MAX_ROW = 2**28  # bytes of one row of such a shard
_SLICE_BYTES = 2**22  # of decoded rows that become Python objects together

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}


def is_too_much(n_decoded: int, n_stored: int, most: int = MAX_DECODED) -> bool:
    """Whether so many bytes on disk may not become so many in memory."""
    return n_decoded > most and n_decoded > MAX_RATIO * n_stored


def too_much(path: Path | str, what: str, n_decoded: int, n_stored: int) -> TraceError:
    """The error for a part of a file that decodes to too much."""
    return TraceError(
        f"{path}: {what} would take {n_decoded / 2**20:,.0f} MiB in memory and takes "
        f"{n_stored / 2**20:,.3f} MiB on disk, more than {MAX_RATIO} times less; write it again in "
        "smaller pieces (fewer rows a group or batch), or unpack it"
    )


# --- parquet -----------------------------------------------------------------------------------
Groups = Sequence[Sequence[Column]]  # the columns of each group of rows


def check_groups(path: Path, groups: Groups, most: int) -> None:
    """Raise TraceError if a group of rows of a parquet file decodes to more than `most` bytes.

    Texts that repeat are stored once and counted once here: `repeating` names their columns.
    """
    for number, columns in enumerate(groups, 1):
        n_decoded = sum(_decoded_bytes(column) for column in columns)
        n_stored = sum(column.n_stored for column in columns)
        if is_too_much(n_decoded, n_stored, most):
            raise too_much(path, f"group {number} of its rows", n_decoded, n_stored)


def _decoded_bytes(column: Column) -> int:
    """Bytes of a column's values, each text of a dictionary counted once."""
    width = _WIDTHS.get(column.kind, 4)  # a text has an offset
    return max(column.n_values * width, column.n_unpacked)


def repeating(groups: Groups, n_rows: int, most: int) -> list[str]:
    """Columns of repeated texts that may decode to more than `most` bytes, so many rows together.

    Each value may be all that the dictionary holds, and a row of lists may hold all values. Read as
    dictionaries, they take as much memory as on disk, and `row_bytes` can add them up.
    """
    names: dict[str, None] = {}
    for columns in groups:
        for column in columns:
            is_flat = "." not in column.name
            n_values = min(column.n_values, n_rows) if is_flat else column.n_values
            n_decoded = n_values * column.n_dictionary
            is_text = column.kind == "BYTE_ARRAY"
            if is_text and is_too_much(n_decoded, column.n_stored, most):
                names[column.name] = None
    return list(names)


def as_plain(path: Path, table: pa.Table, schema: pa.Schema, most: int) -> pa.Table:
    """The table with the types of the schema, where it was read with dictionaries instead.

    Raises:
        TraceError: if it decodes to more than `most` bytes.
    """
    if table.schema.types == schema.types:
        return table
    n_decoded = 0
    for batch in table.to_batches():
        n_decoded += int(row_bytes(batch).sum())
    n_stored = path.stat().st_size
    if is_too_much(n_decoded, n_stored, most):
        raise too_much(path, "its rows", n_decoded, n_stored)
    return table.cast(schema)


# --- rows --------------------------------------------------------------------------------------
def slices_of(batch: pa.RecordBatch, max_row: int) -> Iterator[list[Any] | int]:
    """The rows of a batch, a few MiB at a time; for a row of more than `max_row` bytes its size."""
    sizes = row_bytes(batch)
    starts = [0]
    n_bytes = 0
    for at, size in enumerate(sizes.tolist()):
        # A row that is too large stands alone, and so does what follows it.
        if at and n_bytes + size > _SLICE_BYTES:
            starts.append(at)
            n_bytes = 0
        n_bytes += size

    for start, stop in pairwise([*starts, batch.num_rows]):
        if stop - start == 1 and sizes[start] > max_row:
            yield int(sizes[start])
        elif stop > start:
            yield batch.slice(start, stop - start).to_pylist()


def row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """Bytes of each row once it is decoded, every text counted wherever it stands."""
    sizes = np.zeros(batch.num_rows, dtype=np.int64)
    for column in batch.columns:
        sizes += _value_bytes(column)
    return sizes


def _value_bytes(values: Any) -> Any:
    """Bytes of each value of an array, with all that lies inside it.

    Returns:
        An array of whole numbers, one a value; one number, if all values have that size.
    """
    kind = values.type
    if isinstance(values, pa.ExtensionArray):
        return _value_bytes(values.storage)
    if pa.types.is_dictionary(kind):
        return _looked_up(values)
    if pa.types.is_struct(kind):
        return sum(map(_value_bytes, values.flatten()), 0)
    if isinstance(values, pa.MapArray):
        inner = _value_bytes(values.keys) + _value_bytes(values.items)
        return _between(inner, values.offsets)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _between(_value_bytes(values.values), values.offsets)
    if pa.types.is_fixed_size_list(kind):
        inner = np.broadcast_to(_value_bytes(values.values), len(values.values))
        sums = inner.reshape(-1, kind.list_size).sum(axis=1)
        return sums[values.offset : values.offset + len(values)]
    return _leaf_bytes(values)


def _looked_up(values: pa.DictionaryArray) -> np.ndarray:
    """Bytes of the texts that the values of a dictionary's array stand for; null takes none."""
    texts = values.dictionary
    own = np.append(np.broadcast_to(_value_bytes(texts), len(texts)), 0)
    at = values.indices.fill_null(len(texts)) if values.null_count else values.indices
    return own[at.to_numpy(zero_copy_only=False)]


def _between(inner: Any, offsets: pa.Array) -> np.ndarray:
    """Sums of the bytes of each list's values."""
    bounds = offsets.to_numpy().astype(np.int64)
    if not isinstance(inner, np.ndarray):
        return np.diff(bounds) * inner
    sums = np.concatenate([[0], np.cumsum(inner)])
    return np.diff(sums[bounds])


def _leaf_bytes(values: Any) -> Any:
    kind = values.type
    if pa.types.is_null(kind):
        return 0
    if str(kind) in ("string_view", "binary_view"):
        # Sixteen bytes a value, of which the first four are its length.
        words = np.frombuffer(values.buffers()[1], dtype=np.int32)[::4]
        return words[values.offset : values.offset + len(values)].astype(np.int64)
    if pa.types.is_primitive(kind) or pa.types.is_fixed_size_binary(kind):
        return max(kind.bit_width // 8, 1)
    try:
        lengths = pc.call_function("binary_length", [values])
    except pa.ArrowNotImplementedError:
        raise TraceError(f"a column of type {kind} is not read; write it as list or text") from None
    return lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


# --- Arrow -------------------------------------------------------------------------------------
def check_stream(path: Path) -> None:
    """Raise TraceError if a batch of an Arrow stream is compressed and decodes to too much.

    What is not compressed takes as much memory as on disk.
    """
    with pa.memory_map(str(path)) as source:
        messages = pa.ipc.MessageReader.open_stream(source)
        for message in messages:
            if message.type not in ("record batch", "dictionary"):
                continue
            n_decoded = _uncompressed_bytes(message)
            n_stored = message.body.size if message.body else 0
            if is_too_much(n_decoded, n_stored):
                raise too_much(path, "a batch of its rows", n_decoded, n_stored)


def _uncompressed_bytes(message: pa.Message) -> int:
    """Bytes of a message's buffers; of compressed ones, what each says at its beginning.

    The message is a flatbuffer (Arrow's Message.fbs): Message.header is field 2; of a RecordBatch
    buffers are field 2 and compression is field 3; DictionaryBatch.data is field 1.
    """
    data = bytes(message.metadata)
    batch = _field(data, _number(data, 0, "u4"), 2)
    if message.type == "dictionary" and batch:
        batch = _field(data, batch, 1)
    buffers = _field(data, batch, 2) if batch else 0
    if not buffers or not _field(data, batch, 3):
        return message.body.size if message.body else 0

    # A vector of offset and length; each compressed buffer begins with its length, -1 if it is not.
    n_decoded = 0
    for at in range(_number(data, buffers, "u4")):
        start = _number(data, buffers + 4 + 16 * at, "i8")
        size = _number(data, buffers + 12 + 16 * at, "i8")
        if size >= 8:
            own = int.from_bytes(
                message.body[start : start + 8].to_pybytes(), "little", signed=True
            )
            n_decoded += size if own < 0 else own
    return n_decoded


def _number(data: bytes, at: int, kind: str) -> int:
    return int(np.frombuffer(data, dtype=f"<{kind}", count=1, offset=at)[0])


def _field(data: bytes, table: int, field: int) -> int:
    """Where the table or vector lies that a field of a flatbuffer's table is; 0 if not set."""
    layout = table - _number(data, table, "i4")
    if 4 + 2 * field >= _number(data, layout, "u2"):
        return 0
    offset = _number(data, layout + 4 + 2 * field, "u2")
    return table + offset + _number(data, table + offset, "u4") if offset else 0
