"""What the footer of a parquet file says of its columns, read without Arrow.

Arrow ends the process, with no error that could be caught, where its metadata of a column are asked
for and a flipped bit has made them contradict each other. The footer is Thrift's compact protocol
(parquet.thrift: FileMetaData, RowGroup, ColumnChunk, ColumnMetaData).
"""

from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

# Names of the physical types, in the order of their numbers.
_TYPES = (
    "BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY",
)  # fmt: skip
_DICTIONARIES = {2, 8}  # PLAIN_DICTIONARY, RLE_DICTIONARY
_HEADER_BYTES = 4096  # of a page of a dictionary; it takes about 20
_DEPTH = 32  # of structures inside each other; parquet has eight


class Column(NamedTuple):
    """A column of one group of rows.

    Attributes:
        name: its path, with dots.
        kind: its physical type.
        n_values: its values, those of lists one by one, with null.
        n_stored: its bytes on disk.
        n_unpacked: its bytes after decompression; a text that repeats is there once.
        n_dictionary: bytes of the texts of its dictionary, each of which may be many values; 0 if
            it has none.
    """

    name: str
    kind: str
    n_values: int
    n_stored: int
    n_unpacked: int
    n_dictionary: int


def read_columns(path: Path) -> list[list[Column]]:
    """The columns of each group of rows of a parquet file.

    Raises:
        ValueError: if the footer is damaged, as far as it is read here.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(end - 8, 0))
        tail = file.read(8)
        size = int.from_bytes(tail[:4], "little")
        if tail[4:] != b"PAR1" or size + 8 > end:
            raise ValueError("it does not end as a parquet file")
        file.seek(end - 8 - size)
        footer = _Reader(file.read(size))

        # FileMetaData.row_groups, RowGroup.columns, ColumnChunk.meta_data.
        found = footer.struct({4: {1: {3: dict.fromkeys((1, 2, 3, 5, 6, 7, 9, 11))}}})
        try:
            groups = [group.get(1, []) for group in found.get(4, [])]
            return [[_column(chunk[3], file) for chunk in chunks] for chunks in groups]
        except (TypeError, AttributeError, LookupError):
            # A field is missing, or is another kind of thing than it should be.
            raise ValueError("its footer does not describe its columns") from None


def _column(fields: dict[int, Any], file: BinaryIO) -> Column:
    if min(fields[number] for number in (1, 5, 6, 7)) < 0:
        raise ValueError("its footer has a size below zero")
    return Column(
        name=b".".join(fields[3]).decode("utf-8", "replace"),
        kind=_TYPES[fields[1]],
        n_values=fields[5],
        n_stored=fields[7],
        n_unpacked=fields[6],
        n_dictionary=_dictionary_bytes(fields, file) if _DICTIONARIES & set(fields[2]) else 0,
    )


def _dictionary_bytes(fields: dict[int, Any], file: BinaryIO) -> int:
    """Bytes of a column's dictionary after decompression, as the header of its page says.

    That page comes first: PageHeader.type is 2, then uncompressed_page_size.
    """
    file.seek(max(fields.get(11) or fields[9], 0))
    header = _Reader(file.read(_HEADER_BYTES)).struct({1: None, 2: None})
    if header[1] != 2:  # all that can be said
        return fields[6]
    return header[2]


# Which fields of a structure to keep, and which of those inside them; None: a plain value.
_Wanted = dict[int, Any]


class _Reader:
    """Thrift's compact protocol, of which only the fields asked for are kept."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self, wanted: _Wanted, depth: int = 0) -> dict[int, Any]:
        """The fields asked for, by number."""
        if depth > _DEPTH:
            raise ValueError("its footer goes too deep")
        fields = {}
        number = 0
        while head := self._byte():
            delta = head >> 4
            number = number + delta if delta else self._whole()
            is_wanted = number in wanted
            value = self._value(head & 15, wanted.get(number) or {}, depth)
            if is_wanted:
                fields[number] = value
        return fields

    def _value(self, kind: int, wanted: _Wanted, depth: int) -> Any:
        if kind in (1, 2):  # true and false stand in the head
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._whole()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._length())
        if kind in (9, 10):
            return self._list(wanted, depth)
        if kind == 11:
            return self._map(depth)
        if kind == 12:
            return self.struct(wanted, depth + 1)
        raise ValueError(f"its footer has a value of the unknown type {kind}")

    def _list(self, wanted: _Wanted, depth: int) -> list[Any]:
        head = self._byte()
        n_items = head >> 4
        if n_items == 15:
            n_items = self._length()
        return [self._item(head & 15, wanted, depth) for _ in range(self._checked(n_items))]

    def _map(self, depth: int) -> None:
        n_items = self._checked(self._length())
        kinds = self._byte() if n_items else 0
        for _ in range(n_items):
            self._item(kinds >> 4, {}, depth)
            self._item(kinds & 15, {}, depth)

    def _item(self, kind: int, wanted: _Wanted, depth: int) -> Any:
        """A value in a list or a map, where true and false take a byte."""
        return self._byte() == 1 if kind in (1, 2) else self._value(kind, wanted, depth + 1)

    def _checked(self, n: int) -> int:
        """A number of things of at least a byte each."""
        if n > len(self._data) - self._at:
            raise ValueError("its footer is cut off")
        return n

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, n: int) -> bytes:
        start = self._at
        self._at += self._checked(n)
        return self._data[start : self._at]

    def _length(self) -> int:
        """A whole number in pieces of seven bits, the lowest first."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("its footer has a number that does not end")

    def _whole(self) -> int:
        """A whole number with its sign in the lowest bit."""
        value = self._length()
        return (value >> 1) ^ -(value & 1)
