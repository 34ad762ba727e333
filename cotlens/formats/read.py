"""Foreign files to traces.

A file is a container of rows (`rows`), and the rows have a shape (`known`) that is detected from
their content.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cotlens.formats.conversations import joined_messages
from cotlens.formats.known import Format, describe_mismatch, detect_row, find_format
from cotlens.formats.rows import BadRow, Row, read_rows
from cotlens.formats.stdin import check_regular, shown_path
from cotlens.formats.trainers import decode_rollout, parse_open_instruct
from cotlens.text.families import gives_summaries
from cotlens.trace import Origin, Reasoning, Trace, TraceError, dump_json

MAX_LINE_BYTES = 32 * 2**20  # a 32,000-token trace with 20 log-probs a token takes half of this


class Reject(NamedTuple):
    """A row that could not be read: its place, the reason, and its text as far as it was kept."""

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
    tokenizer: Any = None,
) -> Iterator[Trace]:
    """The traces of one or more files or folders, in order; read lazily.

    Args:
        paths: JSON lines or array (also gzipped), parquet, Hugging Face dataset, cotlens run, or a
            folder of files.
        format: name of a `Format`; default: for each file, the first that matches its first row.
        on_reject: called with every row that cannot be read; without it the first one raises.
        max_line_bytes: a longer line is an error, so that a damaged file cannot fill the memory.
        tokenizer: of transformers, for rows that hold token ids and no text (open-instruct).

    Raises:
        TraceError: names the file, the line and the fault. An id that occurs twice is a fault.
    """
    seen: dict[
        int, int
    ] = {}  # hashes of ids, so that a million traces cost tens of megabytes, not their text
    shape = find_format(format) if format else None
    files = input_files(paths)
    for path, name in zip(files, _names(files), strict=True):
        yield from _read_file(path, name, shape, on_reject, max_line_bytes, seen, tokenizer)


def read_records(
    records: Iterable[Row], *, format: str | None = None, tokenizer: Any = None
) -> Iterator[Trace]:
    """The traces of rows that are already in memory: dictionaries, or a Hugging Face dataset.

    Raises:
        TraceError: names the number of the row, from 1.
    """
    shape, seen = find_format(format) if format else None, dict[int, int]()
    for number, row in joined_messages(enumerate(records, 1)):
        try:
            if isinstance(row, BadRow):
                raise TraceError(row.reason)
            shape = shape or detect_row(row)
            yield from _parse_row(
                row,
                shape,
                f"row:{number}",
                seen,
                tokenizer,
                bool(format),
            )
        except TraceError as error:
            raise TraceError(f"row {number}: {error}") from error.__cause__


def input_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files and folders that `paths` stand for.

    A plain folder of parquet or JSONL files stands for those files.
    """
    files = []
    for path in [Path(paths)] if isinstance(paths, str | Path) else map(Path, paths):
        if (path / "study.json").is_file():
            raise TraceError(
                f"{path}: is a study, which holds no traces; give the runs that it was made from"
            )

        known = ("traces", "state.json", "dataset_dict.json")
        inside = _inside(path, _SUFFIXES) or _inside(
            path, (".json", ".json.gz")
        )  # next to other files, .json describes them
        if (
            inside
            and not (path / "traces").exists()
            and (made := path / "run.json").exists()
            and b'"complete": false' in made.read_bytes()
        ):
            raise TraceError(
                f"{path}: not all of its traces are made yet; call `cotlens generate` again with "
                "the same arguments to "
                "finish them, or name the files inside to read what is there"
            )

        files += inside if inside and not any((path / name).exists() for name in known) else [path]

    for file in files:
        check_regular(file)
    return files


def _inside(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return (
        sorted(child for child in path.glob("*") if child.name.endswith(suffixes))
        if path.is_dir()
        else []
    )


_ENDINGS = (".jsonl", ".json", ".ndjson", ".parquet", ".eval")
_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".eval")


def _names(files: Sequence[Path]) -> list[str]:
    """A name for each file, from which ids are built.

    It is the file's stem, with as many folders before it as make it unique.
    """
    names = [_stem(file) for file in files]
    for depth in range(1, max((len(file.parts) for file in files), default=1)):
        if len(set(names)) == len(names):
            break
        names = [
            name if names.count(name) == 1 else "/".join([*file.parts[:-1][-depth:], _stem(file)])
            for file, name in zip(files, names, strict=True)
        ]

    return names


def _read_file(
    path: Path,
    name: str,
    shape: Format | None,
    on_reject: Callable[[Reject], None] | None,
    max_line_bytes: int,
    seen: dict[int, int],
    tokenizer: Any,
) -> Iterator[Trace]:
    beside: Row | None = None
    is_given = shape is not None
    for number, row in joined_messages(read_rows(path, max_line_bytes)):
        try:
            if isinstance(row, BadRow):
                raise TraceError(row.reason)
            shape = shape or detect_row(row)
            if beside is None:
                beside = shape.beside(path) if shape.beside else {}
            whole = {**row, **beside} if beside else row
            traces = _parse_row(
                whole,
                shape,
                f"{name}:{number}",
                seen,
                tokenizer,
                is_given,
            )
        except TraceError as error:
            if on_reject is None:
                raise TraceError(f"{shown_path(path)}:{number}: {error}") from error.__cause__
            on_reject(
                Reject(
                    shown_path(path),
                    number,
                    str(error),
                    _row_text(row),
                )
            )
        else:
            yield from traces


def _parse_row(
    row: Row, shape: Format, name: str, seen: dict[int, int], tokenizer: Any, is_given: bool
) -> list[Trace]:
    """The traces of one row; any fault in it becomes a TraceError."""
    if not shape.matches(row) or (not is_given and detect_row(row) is not shape):
        raise TraceError(describe_mismatch(row, shape))
    try:
        if tokenizer is not None and shape.parse is parse_open_instruct:
            row = decode_rollout(row, tokenizer)
        traces = [_with_json_meta(trace) for trace in shape.parse(row, name)]
    except (
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        OverflowError,
        ValueError,
        RecursionError,
    ) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"not a row of format {shape.name}: {_reason(error)}") from error

    if not traces:
        raise TraceError(
            "the row holds no completion (an empty list of choices, outputs or samples)"
        )

    exact = row.get("cotlens")  # it records itself what the thinking is
    if not (
        shape.name == "cotlens"
        or (isinstance(exact, dict) and "of" in exact)
        or (shape.name == "scout" and exact)
    ):
        traces = [flag_summary(trace) for trace in traces]

    contents = {hash(trace.id): hash((trace.prompt, trace.completion)) for trace in traces}
    if shape.repeats:
        traces = [trace for trace in traces if seen.get(hash(trace.id)) != contents[hash(trace.id)]]
    for trace in traces:
        key = hash(trace.id)
        if key in seen:
            raise TraceError(
                f"the id {trace.id!r} occurs twice; ids must be unique within a run (give samples "
                "of one question "
                "ids of their own, and the question's as prompt_id)"
            )

        seen[key] = contents[key] if shape.repeats else 0

    return traces


def _reason(error: Exception) -> str:
    """What is wrong with a row, in words, where a parser met something that it does not expect."""
    if isinstance(error, KeyError):
        return f"the field {error} is missing"
    if isinstance(error, TypeError | AttributeError | IndexError):
        return (
            f"a field holds another kind of value than expected ({error}); docs/traces.md says "
            "what a row may look like"
        )

    return f"{type(error).__name__}: {error}"


def detect_format(path: str | Path, *, max_line_bytes: int = MAX_LINE_BYTES) -> Format:
    """The format of a file, from its first readable row."""
    first_fault = "it has no rows"
    for number, row in joined_messages(read_rows(input_files(path)[0], max_line_bytes)):
        if isinstance(row, BadRow):
            first_fault = f"line {number}: {row.reason}" if number == 1 else first_fault
            continue

        try:
            return detect_row(row)
        except TraceError as error:
            first_fault = f"line {number}: {error}" if number == 1 else first_fault

    raise TraceError(
        f"{shown_path(Path(path))}: no row can be read ({first_fault}); expected JSON lines, "
        "a JSON array or parquet"
    )


def flag_summary(trace: Trace) -> Trace:
    """The trace, with its thinking marked as a summary where the provider gives summaries only.

    This concerns thinking in a separate field. Labelled documents are taken as the labellers saw
    them. `dataclasses.replace(trace, reasoning=...)` overrules.
    """
    own = trace.origin is Origin.FIELDS and trace.think and not trace.labels
    if own and trace.reasoning is Reasoning.VERBATIM and gives_summaries(trace.model):
        return replace(trace, reasoning=Reasoning.SUMMARY)
    return trace


def _with_json_meta(trace: Trace) -> Trace:
    """The trace with metadata that can be written as JSON.

    Dates and decimals of a table become text.
    """
    text = dump_json(trace.meta)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TraceError(
            f"trace {trace.id!r}: a lone surrogate in its metadata: "
            f"{text[error.start - 20 :][:20]!r}"
        ) from None

    meta = json.loads(text)
    try:
        same = bool(meta == trace.meta)
    except ValueError:  # arrays of a table do not compare
        same = False

    return trace if same else replace(trace, meta=meta)


def _stem(path: Path) -> str:
    """A file's name without the suffix that gives its format."""
    name = path.name.removesuffix(".gz")
    return next((name.removesuffix(suffix) for suffix in _ENDINGS if name.endswith(suffix)), name)


def _row_text(row: Row | BadRow) -> str:
    return row.text if isinstance(row, BadRow) else dump_json(row)
