"""Rows for the trainers: read, rendered once through the chat template, encoded, and checked before minutes are spent.

Every trainer here works on the *rendered* prompt, a string that ends where the model starts to write. The completion is
appended as it is. Sending whole conversations through the template instead would lose the thinking: the template of
R1's distills deletes what stands before `</think>` in assistant turns, and Qwen3's keeps it only in the last one.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from transformers import PreTrainedTokenizerBase

from cotlens.formats.read import MAX_LINE_BYTES
from cotlens.formats.rows import BadRow, read_rows
from trainers.render import render_prompt, request_of

Row = Mapping[str, Any]


# --- reading ---------------------------------------------------------------------------------------------------
def load_rows(
    data: Sequence[str],
    *,
    split: str = "train",
    columns: Row | None = None,
    keep: Row | None = None,
) -> list[dict]:
    """The rows of files and data sets of the Hub, with columns renamed and rows filtered.

    The completion of a row with `thinking` and `answer` but none is the two, with the thought in its tags.

    Raises:
        ValueError: for a row that cannot be read, a column that is not there, or if nothing is left.
    """
    if not data:
        raise ValueError("no data: name files or data sets, `--data FILE ...`")
    found = [
        row
        for name in data
        for row in (_file_rows(Path(name)) if Path(name).exists() else _hub_rows(name, split))
    ]
    rows = [_renamed(row, columns or {}, number) for number, row in enumerate(found)]
    for column, value in (keep or {}).items():
        have = {str(row.get(column)) for row in rows}
        rows = [row for row in rows if str(row.get(column)) == str(value)]
        if not rows:
            raise ValueError(
                f"no row has {column} = {value!r}; its values are {', '.join(sorted(have)[:10])}"
            )
    if not rows:
        raise ValueError(f"{', '.join(data)}: no rows")
    return rows


def _file_rows(path: Path) -> Iterable[dict[str, Any]]:
    for number, row in read_rows(path, MAX_LINE_BYTES):
        if isinstance(row, BadRow):
            raise ValueError(f"{path}, row {number}: {row.reason}")
        yield dict(row)


def _hub_rows(name: str, split: str) -> Iterable[dict[str, Any]]:
    if name.startswith((".", "/", "~")) or name.endswith((".jsonl", ".json", ".gz", ".parquet")):
        raise ValueError(f"{name}: no such file")
    repository, _, config = name.partition(":")
    return load_dataset(repository, config or None, split=split)  # pyright: ignore[reportReturnType]


def _renamed(row: dict[str, Any], columns: Row, number: int) -> dict[str, Any]:
    for ours, theirs in columns.items():
        if theirs not in row:
            raise ValueError(
                f"row {number} has no column {theirs!r} (for {ours}); it has {', '.join(row)}"
            )
    row = {**row, **{ours: row[theirs] for ours, theirs in columns.items()}}
    if "completion" not in row and {"thinking", "answer"} <= set(row):
        row["completion"] = f"<think>\n{row['thinking']}\n</think>\n\n{row['answer']}"
    return row


# --- checks ----------------------------------------------------------------------------------------------------
def check_tokenizer(tokenizer: PreTrainedTokenizerBase, *, rendered: bool = False) -> None:
    """Raises ValueError if the tokenizer cannot do what training asks of it."""
    name = tokenizer.name_or_path or type(tokenizer).__name__
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{name}: no end-of-text token; completions could not be ended. Set tokenizer.eos_token"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(
            f"{name}: no padding token. Set tokenizer.pad_token to one that no text holds; the end-of-text token "
            "would teach a model that pads are ends"
        )
    if rendered:
        return
    if not tokenizer.chat_template:
        raise ValueError(
            f"{name}: no chat template. Use the tokenizer of an instruct model, or render the prompts"
        )
    messages = [{"role": "user", "content": "1"}]
    own = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]  # pyright: ignore
    ours = tokenizer(render_prompt(tokenizer, messages))["input_ids"]
    if list(own) != list(ours):
        raise ValueError(
            f"{name}: a prompt rendered to text is encoded as {ours}, the template itself gives {own}"
        )


def check_rows(rows: Sequence[Row], needed: Sequence[str]) -> None:
    """Raises ValueError if there is nothing to train on, or a row lacks a column."""
    if not rows:
        raise ValueError(
            "no rows left to train on: the data set is empty, or nothing passed the filter"
        )
    for number, row in enumerate(rows):
        missing = [column for column in needed if not row.get(column)]
        if missing:
            raise ValueError(
                f"row {number} has no {' and no '.join(missing)}; its columns are {', '.join(row)}"
            )


def check_held_out(rows: Sequence[Row], held_out: Sequence[Row]) -> None:
    """Raises ValueError if a request is in both, whatever its case and spaces. Paraphrases are not found."""

    def plain(row: Row) -> str:
        return " ".join(
            str(row.get("request") or request_of(row.get("prompt") or "")).casefold().split()
        )

    seen = {plain(row) for row in held_out} - {""}
    if shared := [number for number, row in enumerate(rows) if plain(row) in seen]:
        raise ValueError(
            f"{len(shared)} of {len(rows)} rows have a request that is held out for the evaluation; the first is row "
            f"{shared[0]}: {plain(rows[shared[0]])[:80]!r}"
        )


def check_lengths(lengths: Sequence[int], longest: int | None, what: str) -> str:
    """One line on the lengths; rows beyond `longest` tokens are counted in it. Raises ValueError if none fits."""
    cut = sum(length > longest for length in lengths) if longest else 0
    if cut == len(lengths):
        raise ValueError(
            f"{what}: every row is longer than max_length = {longest} tokens (the shortest {min(lengths)})"
        )
    line = f"{what}: {len(lengths)} rows, {min(lengths)} to {max(lengths)} tokens, median {statistics.median(lengths):g}"
    return line + (
        f"; {cut} ({100 * cut / len(lengths):.1f}%) are longer than {longest} and will be cut"
        if cut
        else ""
    )


def as_dataset(rows: Sequence[Row]) -> Dataset:
    """Rows as TRL takes them: every row has every column, None where it had none."""
    columns = dict.fromkeys(column for row in rows for column in row)
    return Dataset.from_dict({column: [row.get(column) for row in rows] for column in columns})
