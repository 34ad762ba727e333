"""What is trained on? Rows from files and the Hub, checked before training spends any time.

Every trainer works on the *rendered* prompt: a string that ends where the model starts to write.
The completion is appended unchanged. Passing whole conversations through the template would lose
the thinking: the template of R1's distills deletes the text before `</think>` in assistant turns,
and Qwen3's keeps it only in the last turn.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from transformers import PreTrainedTokenizerBase

from cotlens.files import write_atomic
from cotlens.formats.read import MAX_LINE_BYTES
from cotlens.formats.rows import BadRow, read_rows
from trainers.render import render_prompt, request_of

Row = Mapping[str, Any]


def load_rows(
    data: Sequence[str],
    *,
    split: str = "train",
    columns: Row | None = None,
    keep: Row | None = None,
) -> list[dict]:
    """The rows of files and of data sets on the Hub, with columns renamed and rows filtered.

    A row with `thinking` and `answer` but no `completion` gets one: the thought in its tags, then
    the answer.

    Args:
        data: paths, or names of data sets on the Hub (NAME or NAME:CONFIG).
        split: of the data sets on the Hub.
        columns: our column: theirs.
        keep: column: value; rows with another value are left out.

    Raises:
        ValueError: if a row cannot be read, a column is missing, or no row is left.
    """
    if not data:
        raise ValueError("no data: name files or data sets, `--data FILE ...`")

    # A name is a file if there is one of that name, else a data set on the Hub.
    source_rows: list[dict] = []
    for name in data:
        path = Path(name)
        source_rows += _file_rows(path) if path.exists() else _hub_rows(name, split)

    # Columns are renamed first: `keep` names them as ours.
    rows = []
    for number, row in enumerate(source_rows):
        rows.append(_rename(row, columns or {}, number))
    for column, value in (keep or {}).items():
        rows = _keep(rows, column, value)
    if not rows:
        raise ValueError(f"{', '.join(data)}: no rows")
    return rows


def write_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Writes rows to a JSONL file, whole or not at all, and says how many they are.

    Raises:
        SystemExit: if there are none.
    """
    if not rows:
        raise SystemExit("no row was made, so nothing is written; see the counts above")
    text = ""
    for row in rows:
        line = json.dumps(row, ensure_ascii=False)
        text += f"{line}\n"
    write_atomic(Path(path), text)
    print(f"{path}: {len(rows)} rows")


def _file_rows(path: Path) -> Iterable[dict[str, Any]]:
    for number, row in read_rows(path, MAX_LINE_BYTES):
        if isinstance(row, BadRow):
            raise ValueError(f"{path}, row {number}: {row.reason}")
        yield dict(row)


def _hub_rows(name: str, split: str) -> Iterable[dict[str, Any]]:
    # A mistyped path would otherwise be looked up on the Hub.
    starts_as_path = name.startswith((".", "/", "~"))
    ends_as_file = name.endswith((".jsonl", ".json", ".gz", ".parquet"))
    if starts_as_path or ends_as_file:
        raise ValueError(f"{name}: no such file")

    repository, _, config = name.partition(":")
    return load_dataset(repository, config or None, split=split)  # pyright: ignore[reportReturnType]


def _rename(row: dict[str, Any], columns: Row, number: int) -> dict[str, Any]:
    renamed = dict(row)
    for ours, theirs in columns.items():
        if theirs not in row:
            raise ValueError(
                f"row {number} has no column {theirs!r} (for {ours}); it has {', '.join(row)}"
            )
        renamed[ours] = row[theirs]

    # Data sets of reasoning often keep thought and answer apart.
    has_parts = "thinking" in renamed and "answer" in renamed
    if has_parts and "completion" not in renamed:
        thought = f"<think>\n{renamed['thinking']}\n</think>"
        renamed["completion"] = f"{thought}\n\n{renamed['answer']}"
    return renamed


def _keep(rows: Sequence[dict], column: str, value: Any) -> list[dict]:
    # Values are compared as text: a recipe cannot know whether a column holds 1 or "1".
    matching_rows = [row for row in rows if str(row.get(column)) == str(value)]
    if not matching_rows:
        values = {str(row.get(column)) for row in rows}
        shown = ", ".join(sorted(values)[:10])
        raise ValueError(f"no row has {column} = {value!r}; its values are {shown}")
    return matching_rows


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, rendered: bool = False) -> None:
    """Raise ValueError if the tokenizer lacks what training needs."""
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{name}: no end-of-text token; completions could not be ended. Set tokenizer.eos_token"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"{name}: no padding token. Set tokenizer.pad_token to a token that no text contains; "
            "with the end-of-text token a model would learn that padding is an end"
        )
    if rendered:
        return

    if not tokenizer.chat_template:
        raise ValueError(
            f"{name}: no chat template. "
            "Use the tokenizer of an instruct model, or render the prompts"
        )

    # The text of the template, encoded by us, must give the ids that the template itself gives.
    messages = [{"role": "user", "content": "1"}]
    encoding = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    template_ids = encoding["input_ids"]  # pyright: ignore
    text_ids = tokenizer(render_prompt(tokenizer, messages))["input_ids"]
    if list(template_ids) != list(text_ids):
        raise ValueError(
            f"{name}: a prompt rendered to text is encoded as {text_ids}, "
            f"the template itself gives {template_ids}"
        )


def check_rows(rows: Sequence[Row], needed: Sequence[str]) -> None:
    """Raise ValueError if there are no rows, or a row lacks one of the needed columns."""
    if not rows:
        raise ValueError(
            "no rows left to train on: the data set is empty, or nothing passed the filter"
        )
    # None and "" count as missing.
    for number, row in enumerate(rows):
        missing = [column for column in needed if not row.get(column)]
        if missing:
            raise ValueError(
                f"row {number} has no {' and no '.join(missing)}; its columns are {', '.join(row)}"
            )


def check_held_out(rows: Sequence[Row], held_out: Sequence[Row]) -> None:
    """Raise ValueError if a request is in both.

    Case and white space are ignored. Paraphrases are not found.
    """
    held_out_requests = {_plain_request(row) for row in held_out}
    held_out_requests.discard("")  # a row without a request matches nothing

    requests = [_plain_request(row) for row in rows]
    is_shared = [request in held_out_requests for request in requests]
    if any(is_shared):
        first = is_shared.index(True)
        raise ValueError(
            f"{sum(is_shared)} of {len(rows)} rows have a request that is held out for the "
            f"evaluation; the first is row {first}: {requests[first][:80]!r}"
        )


def _plain_request(row: Row) -> str:
    request = row.get("request") or request_of(row.get("prompt") or "")
    words = str(request).casefold().split()
    return " ".join(words)


def check_lengths(lengths: Sequence[int], longest: int | None, what: str) -> str:
    """One line on the lengths in tokens, and on how many rows exceed `longest` and will be cut.

    Raises:
        ValueError: if no row fits into `longest` tokens.
    """
    n_cut = sum(length > longest for length in lengths) if longest else 0
    if n_cut == len(lengths):
        raise ValueError(
            f"{what}: every row is longer than max_length = {longest} tokens "
            f"(the shortest {min(lengths)})"
        )

    # Rows that will be cut are counted, so that a caller can warn about them.
    median = statistics.median(lengths)
    report = (
        f"{what}: {len(lengths)} rows, {min(lengths)} to {max(lengths)} tokens, median {median:g}"
    )
    if n_cut:
        percent = 100 * n_cut / len(lengths)
        report += f"; {n_cut} ({percent:.1f}%) are longer than {longest} and will be cut"
    return report


def as_dataset(rows: Sequence[Row]) -> Dataset:
    """The rows as TRL takes them: every row has every column, None where it had no value."""
    names: dict[str, None] = {}  # a set that keeps the order of first appearance
    for row in rows:
        names.update(dict.fromkeys(row))

    columns = {}
    for name in names:
        columns[name] = [row.get(name) for row in rows]
    return Dataset.from_dict(columns)
