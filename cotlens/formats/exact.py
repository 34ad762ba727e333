"""Rows that cotlens wrote: its own tables, and what other tools' shapes cannot hold."""

import json
import math
from dataclasses import replace
from typing import Any

from cotlens.formats.fields import optional_ids
from cotlens.formats.rows import Row
from cotlens.trace import Label, Origin, Reasoning, Span, Trace, TraceError, hash_text

_SAME = (
    "completion", "prompt", "prompt_id", "model", "method", "training_step", "domain", "split",
    "sample", "finish_reason", "reward", "gold",
)  # fmt: skip
_IDS = ("prompt_token_ids", "token_ids", "token_starts")


def parse_cotlens(row: Row, _: str) -> list[Trace]:
    """A row of `RUN/traces`."""
    if "completion" not in row:
        raise TraceError("a light run holds no texts; analyze the source again without --light")
    fields: dict[str, Any] = {name: row[name] for name in _SAME}
    for name in _IDS:
        fields[name] = optional_ids(row[name])

    origin = Origin(row["origin"])
    if origin is Origin.FIELDS:
        fields["think"] = tuple(Span(span["start"], span["stop"]) for span in row["think_spans"])
        fields["answer"] = Span(row["answer_start"], row["answer_stop"])

    labels = [
        Label(
            label["start"],
            label["stop"],
            label["label"],
        )
        for label in row["labels"]
    ]
    trace = Trace(
        id=row["trace_id"],
        origin=origin,
        reasoning=Reasoning(row["reasoning"]),
        logprobs=None if row["logprobs"] is None else tuple(row["logprobs"]),
        labels=tuple(labels),
        meta=json.loads(row["meta"]),
        **fields,
    )
    return [trace]


def restored(trace: Trace, exact: Row) -> Trace:
    """The trace with the fields that the tool's own shape cannot hold.

    `write` stores them next to the text: fields of `Trace`, and `of`.

    Raises:
        TraceError: if the text differs from the text that was written.
    """
    if exact.get("of") != hash_text(trace.completion):
        raise TraceError(
            "the text is not the one that cotlens wrote here; where it was changed on purpose, "
            "take `cotlens` away"
        )

    fields = {key: value for key, value in exact.items() if key not in ("of", "meta", "kept")}
    for name in _IDS:
        if name in fields:
            fields[name] = optional_ids(fields[name])

    if fields.get("logprobs") is not None:
        values = fields["logprobs"]
        fields["logprobs"] = tuple(math.nan if value is None else float(value) for value in values)

    # Spans, labels and kinds as the types that a trace has.
    if "think" in fields:
        fields["think"] = tuple(Span(*span) for span in fields["think"])
    if fields.get("answer") is not None:
        fields["answer"] = Span(*fields["answer"])
    if "labels" in fields:
        fields["labels"] = tuple(Label(*label) for label in fields["labels"])
    for name, kind in (("origin", Origin), ("reasoning", Reasoning)):
        if name in fields:
            fields[name] = kind(fields[name])

    meta = trace.meta
    if "kept" in exact:
        meta = {key: trace.meta[key] for key in exact["kept"]} | exact.get("meta", {})
    return replace(trace, **fields, meta=meta)
