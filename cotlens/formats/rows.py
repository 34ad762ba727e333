"""Rows of any container.

Containers are JSON lines or arrays (gzip is seen through), parquet, Hugging Face datasets and
Inspect logs. The meaning of the rows is left to the parsers. A line that is not a row comes out as
a `BadRow`, so that reading can continue after it; a file that cannot be opened at all raises.
"""

import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from cotlens.files import (
    SHARD_RECORD,
    UNREADABLE,
    first_line,
    open_parquet,
    parquet_metadata,
)
from cotlens.formats.stdin import check_regular, shown_path
from cotlens.trace import TraceError, dump_json

Row = Mapping[str, Any]
_DAMAGED = (EOFError, OSError, zlib.error)  # what a broken gzip file raises
_FOREIGN = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    RuntimeError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)
_BATCH_ROWS = 256  # rows of parquet or Arrow in memory at once
_INSPECT_JSON = re.compile(
    rb'\{\s*"version":\s*\d+,\s*"status":\s*"\w+",\s*(?:"invalidated":\s*\w+,\s*)?"eval":\s*\{'
)
_INSPECT_SAMPLES = 16  # of a log in memory at once
_INSPECT_LEFT = {
    "events",
    "events_data",
    "timelines",
    "store",
    "attachments",
}  # not needed for the conversation


class BadRow(NamedTuple):
    """A line that is not a JSON object: passed on so that reading can continue after it."""

    reason: str
    text: str


def read_rows(path: Path, max_line_bytes: int) -> Iterator[tuple[int, Row | BadRow]]:
    """Numbered rows of any container, from 1. A file that cannot be opened at all raises."""
    try:
        yield from _rows_of(path, max_line_bytes)
    except TraceError as error:
        # The temporary file of stdin is not what the user gave.
        reason = str(error).replace(str(path), shown_path(path))
        raise TraceError(reason) from error.__cause__


def _rows_of(path: Path, max_line_bytes: int) -> Iterator[tuple[int, Row | BadRow]]:
    check_regular(path)
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

    if magic == b"PK\x03\x04":
        yield from _inspect_rows(path, "eval")
        return

    with gzip.open(path, "rb") if magic[:2] == b"\x1f\x8b" else path.open("rb") as file:
        stream: Any = file  # gzip's file and a plain one share readline, read and peek, but no type
        try:
            head = stream.peek(4096)[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
        except _DAMAGED as error:
            raise TraceError(
                f"{path}: the compressed file is cut off or damaged: {error}"
            ) from None

        if _INSPECT_JSON.match(head):
            yield from _inspect_rows(path, "json")
        elif head.startswith(b"["):
            yield from _array_rows(path, stream)
        else:
            yield from _line_rows(path, stream, max_line_bytes)


def _line_rows(path: Path, file: IO[bytes], limit: int) -> Iterator[tuple[int, Row | BadRow]]:
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
                yield number, _too_long(size, limit, "line")
            elif not line.strip():
                continue
            elif is_empty and line.removeprefix(b"\xef\xbb\xbf").strip() == b"{":
                yield from _object_rows(file, number, limit)
            else:
                yield number, _parse_line(line, number)

            is_empty = False
    except _DAMAGED as error:
        raise TraceError(
            f"{path}:{number + 1}: the compressed file is cut off or damaged: {error}"
        ) from None

    if is_empty:
        raise TraceError(f"{path}: the file has no rows")


def _too_long(size: int, limit: int, what: str) -> BadRow:
    got = size / 2**20
    allowed = limit / 2**20
    return BadRow(
        f"the {what} has {got:.0f} MiB, more than the {allowed:.0f} MiB allowed (--max-line-mb); "
        "split it, or raise the limit",
        "",
    )


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
            yield start, row if is_whole else _too_long(size, limit, "object")
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


def _array_rows(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Row | BadRow]]:
    try:
        rows = json.loads(file.read().decode("utf-8-sig"))
    except (ValueError, RecursionError, *_DAMAGED) as error:
        raise TraceError(f"{path}: begins as a JSON array but is not valid JSON: {error}") from None

    if not rows:
        raise TraceError(f"{path}: the file has no rows")
    for number, row in enumerate(rows, 1):
        is_row = isinstance(row, dict)
        yield (
            number,
            row
            if is_row
            else BadRow(f"expected a JSON object, got {type(row).__name__}", dump_json(row)),
        )


def _folder_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows of a cotlens run or of a Hugging Face dataset.

    The dataset (or dict of datasets) is as `save_to_disk` leaves it.
    """
    if (path / "run.json").exists() and b'"complete": false' in (path / "run.json").read_bytes():
        raise TraceError(f"{path}: the run is not complete; finish it with `cotlens analyze` first")
    if (path / "traces").is_dir():
        yield from _parquet_rows(sorted((path / "traces").glob("*.parquet")))
        return

    if (path / "dataset_dict.json").exists():
        splits = _read_list(path / "dataset_dict.json", "splits")
        number = 0
        for split in map(_plain_name, splits):
            if not (path / split / "state.json").exists():
                raise TraceError(f"{path}: the dataset's split {split!r} has no state.json")
            for _, row in _folder_rows(path / split):
                number += 1
                yield number, {"split": split, **row}

        return

    if (path / "state.json").exists():
        files = [data.get("filename") for data in _read_list(path / "state.json", "_data_files")]
        yield from _arrow_rows([path / _plain_name(name) for name in files])
        return

    found = ", ".join(sorted(child.name for child in path.iterdir())[:8]) or "nothing"
    raise TraceError(
        f"{path}: a folder must be a cotlens run (traces/*.parquet), a Hugging Face dataset "
        "(state.json), or hold "
        f"parquet or JSONL files; it holds {found}"
    )


def _plain_name(name: Any) -> str:
    """The name of a file or folder inside a dataset: nothing outside the dataset is read."""
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise TraceError(f"a Hugging Face dataset names {name!r}, which is no file or folder in it")
    return name


def _inspect_rows(path: Path, kind: str) -> Iterator[tuple[int, Row]]:
    """The samples of an Inspect log (`.eval`, or JSON), each with the head of the log.

    Inspect's own reader gives them. Texts that Inspect stores once for several places are put back
    in their places. Samples that a log names but does not hold, because it was stopped, are left
    out.
    """
    try:
        from inspect_ai import log as inspect_log  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise TraceError(
            f"{path}: an Inspect log (or another zip file), which Inspect's own reader reads; "
            "`pip install inspect-ai`, or `cotlens[inspect]`"
        ) from None

    if kind == "eval":
        try:
            with zipfile.ZipFile(path) as file:
                names = file.namelist()
        except (zipfile.BadZipFile, OSError) as error:
            raise TraceError(f"{path}: the zip file is cut off or damaged: {error}") from None

        if not any(name in names for name in ("header.json", "_journal/start.json")):
            raise TraceError(
                f"{path}: a zip file, but no Inspect log; it holds {', '.join(names[:8])}"
            )

    try:
        yield from enumerate(_inspect_samples(inspect_log, str(path), kind), 1)
    except TraceError:
        raise
    except _FOREIGN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TraceError(
            f"{path}: Inspect cannot read its log (cut off or damaged?): {reason}"
        ) from error


def _inspect_samples(inspect_log: Any, path: str, kind: str) -> Iterator[Row]:
    header = inspect_log.read_eval_log(path, header_only=True, format=kind)
    about = header.eval.model_dump(mode="json", exclude_none=True)
    about = {
        name: about[name]
        for name in ("task", "model", "created", "run_id", "task_args")
        if about.get(name)
    }
    if kind == "json":
        samples = (
            inspect_log.read_eval_log(path, resolve_attachments=True, format=kind).samples or []
        )
        parts: Any = ([sample] for sample in samples)
    else:
        with zipfile.ZipFile(path) as file:
            held = {name for name in file.namelist() if name.startswith("samples/")}

        named = [
            (one.id, one.epoch)
            for one in inspect_log.read_eval_log_sample_summaries(path, format=kind)
        ]
        listed = [
            (key, epoch) for key, epoch in named if f"samples/{key}_epoch_{epoch}.json" in held
        ] or named
        parts = (
            inspect_log.read_eval_log_samples_by_id(
                path,
                listed[start : start + _INSPECT_SAMPLES],
                resolve_attachments=True,
                format=kind,
                exclude_fields=_INSPECT_LEFT - {"attachments"},
            )
            for start in range(0, len(listed), _INSPECT_SAMPLES)
        )

    number = 0
    for samples in parts:
        for sample in samples:
            number += 1
            yield {
                "eval": about,
                "sample": sample.model_dump(mode="json", exclude_none=True, exclude=_INSPECT_LEFT),
            }

    if not number:
        raise TraceError(f"{path}: the log has no samples (status {header.status})")


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
            with open_parquet(path) as file:
                for batch in file.iter_batches(_BATCH_ROWS):
                    for row in batch.to_pylist():
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
        except UNREADABLE as error:
            raise TraceError(
                f"{path}: not a whole Arrow file (cut off or damaged?): {error}"
            ) from None

    if number == 0:
        raise TraceError(f"{files[0] if files else 'dataset'}: the dataset has no rows")
