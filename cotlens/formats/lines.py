"""Rows of JSON text: objects a line, objects over several lines, arrays.

Memory holds one row, whatever the file decompresses to.
"""

import codecs
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cotlens.formats.row import BadRow, Row, too_long
from cotlens.trace import TraceError, dump_json

DAMAGED = (EOFError, OSError, zlib.error)  # what a broken gzip file raises


def line_rows(path: Path, file: IO[bytes], limit: int) -> Iterator[tuple[int, Row | BadRow]]:
    """One row per line, or per object where the file is pretty-printed over several lines."""
    number = 0
    is_empty = True
    try:
        while line := file.readline(limit + 1):
            number += 1
            size = len(line)
            while size > limit and not line.endswith(b"\n") and (line := file.readline(limit)):
                size += len(line)

            if size > limit + 1 or (size > limit and not line.endswith(b"\n")):
                yield number, too_long(size, limit, "line")
            elif not line.strip():
                continue
            elif is_empty and line.removeprefix(b"\xef\xbb\xbf").strip() == b"{":
                yield from _object_rows(file, number, limit)
            else:
                yield number, _parse_line(line, number)

            is_empty = False
    except DAMAGED as error:
        raise TraceError(
            f"{path}:{number + 1}: the compressed file is cut off or damaged: {error}"
        ) from None

    if is_empty:
        raise TraceError(f"{path}: the file has no rows")


def _object_rows(file: IO[bytes], number: int, limit: int) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows of objects that are printed over several lines, each from a line `{` to a line `}`.

    A row's number is that of its first line. The first `{` is read already.
    """
    # Lines of the object that is being read; a row begins at the first of them.
    start = number
    lines = [b"{\n"]
    size = 0
    while line := file.readline(limit + 1):
        number += 1
        if not lines and not line.strip():
            continue
        start = start if lines else number
        size += len(line)
        if size <= limit:
            lines.append(line)
        if line.startswith(b"}"):
            is_whole = size <= limit
            row = _parse_line(b"".join(lines).rstrip().rstrip(b","), 1)
            yield start, row if is_whole else too_long(size, limit, "object")
            lines = []
            size = 0

    if lines:
        yield start, _parse_line(b"".join(lines), 1)


def _parse_line(line: bytes, number: int) -> Row | BadRow:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        kind = "a binary file, not JSON lines" if b"\0" in line else "not UTF-8"
        return BadRow(
            f"{kind}: byte 0x{line[error.start]:02x} at byte {error.start} of the line",
            repr(line[:1000]),
        )

    if text.startswith(("data:", "event:")):
        return BadRow(
            "a line of an event stream (data: ...), no JSON object; ask with stream=false, or join "
            "the pieces of each response to one row",
            text,
        )

    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        return BadRow(f"not valid JSON: {_fault(error)}", text)

    if not isinstance(row, dict):
        return BadRow(f"expected a JSON object, got {type(row).__name__}", text)
    return row


def _fault(error: Exception) -> str:
    """The parser's message, with the place in the line.

    The parser's own line numbers start anew with each line, so they are left out.
    """
    return (
        f"{error.msg} (character {error.pos + 1})"
        if isinstance(error, json.JSONDecodeError)
        else str(error)
    )


# --- arrays ------------------------------------------------------------------------------------
_PIECE_BYTES = 2**20  # of the file, read together
_NEAR = 16  # characters of the end within which a fault may mean that the text goes on


def array_rows(path: Path, file: IO[bytes], limit: int) -> Iterator[tuple[int, Row | BadRow]]:
    """The elements of a JSON array, one at a time.

    Raises:
        TraceError: if the array is empty, is not JSON, or has an element that is longer than twice
            the limit, whose end is not looked for.
    """
    number = 0
    text = _Text(file)
    try:
        text.expect("[")
        if text.peek() == "]":
            raise TraceError(f"{path}: the file has no rows")

        mark = ","
        while mark == ",":
            number += 1
            row, size = text.take(limit)
            if size > limit:
                yield number, too_long(size, limit, "element")
            elif isinstance(row, dict):
                yield number, row
            else:
                reason = f"expected a JSON object, got {type(row).__name__}"
                yield number, BadRow(reason, dump_json(row))
            mark = text.expect(",]")

        if text.peek():
            raise ValueError("there is text after its end")
    except (ValueError, RecursionError, *DAMAGED) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(
            f"{path}: begins as a JSON array but is not valid JSON: element {number}: {error}"
        ) from None


class _Text:
    """JSON text of which only what is not yet read is in memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._parse = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self._is_whole = False

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            rest = self._text[self._at : self._at + 1]
            if rest and not rest.isspace():
                return rest
            if rest:
                self._at += 1
            elif not self._read_on():
                return ""

    def expect(self, marks: str) -> str:
        """Take one of these characters."""
        mark = self.peek()
        if not mark or mark not in marks:
            raise ValueError(f"expected {' or '.join(marks)}, got {mark or 'the end of the file'}")
        self._at += 1
        return mark

    def take(self, limit: int) -> tuple[Any, int]:
        """The next value and its length in characters; ValueError if there is none."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                fault = f"{error.msg} (character {error.pos - self._at + 1})"
                may_go_on = self._may_go_on(error)
                if may_go_on and len(self._text) - self._at > 2 * limit:
                    most = limit / 2**20
                    fault = f"it has more than the {most:.0f} MiB allowed (--max-line-mb)"
                elif may_go_on and self._read_on():
                    continue
                raise ValueError(fault) from None

            # A number may go on in the next piece.
            if end < len(self._text) or not self._read_on():
                size = end - self._at
                self._at = end
                return value, size

    def _may_go_on(self, error: json.JSONDecodeError) -> bool:
        """Whether a fault may be that the text in memory ends here."""
        is_near = error.pos >= len(self._text) - _NEAR
        return is_near or error.msg.startswith("Unterminated string")

    def _read_on(self) -> bool:
        """Read as much again as is in memory; False if the file has no more."""
        if self._is_whole:
            return False
        piece = self._file.read(max(_PIECE_BYTES, len(self._text) - self._at))
        self._is_whole = not piece
        self._text = self._text[self._at :] + self._decode(piece, final=not piece)
        self._at = 0
        return True
