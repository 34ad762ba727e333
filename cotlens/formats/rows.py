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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cotlens.decoded import is_too_much, too_much
from cotlens.formats.lines import DAMAGED, array_rows, line_rows
from cotlens.formats.row import BadRow, Row
from cotlens.formats.stdin import check_regular, shown_path
from cotlens.formats.tables import arrow_rows, parquet_rows
from cotlens.trace import TraceError

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
        yield from _folder_rows(path, max_line_bytes)
        return

    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
    except OSError as error:
        raise TraceError(f"{path}: cannot be opened: {error.strerror}") from None

    if not magic:
        raise TraceError(f"{path}: the file is empty")
    if magic == b"PAR1":
        yield from parquet_rows([path], max_line_bytes)
        return

    if magic == b"PK\x03\x04":
        yield from _inspect_rows(path, "eval")
        return

    with gzip.open(path, "rb") if magic[:2] == b"\x1f\x8b" else path.open("rb") as file:
        stream: Any = file  # gzip's file and a plain one share readline, read and peek, but no type
        try:
            head = stream.peek(4096)[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
        except DAMAGED as error:
            raise TraceError(
                f"{path}: the compressed file is cut off or damaged: {error}"
            ) from None

        if _INSPECT_JSON.match(head):
            yield from _inspect_rows(path, "json")
        elif head.startswith(b"["):
            yield from array_rows(path, stream, max_line_bytes)
        else:
            yield from line_rows(path, stream, max_line_bytes)


def _folder_rows(path: Path, max_row: int) -> Iterator[tuple[int, Row | BadRow]]:
    """Rows of a cotlens run or of a Hugging Face dataset.

    The dataset (or dict of datasets) is as `save_to_disk` leaves it.
    """
    if (path / "run.json").exists() and b'"complete": false' in (path / "run.json").read_bytes():
        raise TraceError(f"{path}: the run is not complete; finish it with `cotlens analyze` first")
    if (path / "traces").is_dir():
        yield from parquet_rows(sorted((path / "traces").glob("*.parquet")), max_row)
        return

    if (path / "dataset_dict.json").exists():
        splits = _read_list(path / "dataset_dict.json", "splits")
        number = 0
        for split in map(_plain_name, splits):
            if not (path / split / "state.json").exists():
                raise TraceError(f"{path}: the dataset's split {split!r} has no state.json")
            for _, row in _folder_rows(path / split, max_row):
                number += 1
                yield number, row if isinstance(row, BadRow) else {"split": split, **row}

        return

    if (path / "state.json").exists():
        files = [data.get("filename") for data in _read_list(path / "state.json", "_data_files")]
        yield from arrow_rows([path / _plain_name(name) for name in files], max_row)
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
                _check_entries(path, file.infolist())
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


def _check_entries(path: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Raise TraceError if a zip file, or a file in it, unpacks to too much."""
    n_unpacked = sum(entry.file_size for entry in entries)
    n_packed = sum(entry.compress_size for entry in entries)
    if is_too_much(n_unpacked, n_packed):
        raise too_much(path, "all that it holds", n_unpacked, n_packed)
    for entry in entries:
        if is_too_much(entry.file_size, entry.compress_size):
            raise too_much(path, f"its {entry.filename}", entry.file_size, entry.compress_size)


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
