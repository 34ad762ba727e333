"""The formats that are known, in the order of detection, and how a row is recognised.

Every parser keeps the text byte for byte and keeps token ids, log-probs and finish reason where the
source has them; `Format.lacks` lists what a format cannot tell. `FORMATS`, at the end, is the list.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cotlens.formats.chat import parse_messages, parse_plain
from cotlens.formats.fields import TEXT, THINK, dicts, optional_ids
from cotlens.formats.harnesses import (
    beside_lm_eval,
    is_lighteval,
    parse_inspect,
    parse_lighteval,
    parse_lm_eval,
    parse_scout,
)
from cotlens.formats.labelled import (
    parse_anchors,
    parse_reasoningflow,
    parse_schoenfeld,
    parse_self_jailbreak,
    parse_venhoff,
)
from cotlens.formats.rows import Row
from cotlens.formats.servers import (
    is_batch,
    is_response,
    parse_batch,
    parse_openai,
    parse_responses,
    parse_vllm,
)
from cotlens.formats.trainers import (
    is_verifiers,
    parse_open_instruct,
    parse_trl,
    parse_verifiers,
    parse_verifiers_results,
    parse_verl,
)
from cotlens.trace import Label, Origin, Reasoning, Span, Trace, TraceError


class Format(NamedTuple):
    """The shape of the rows of one tool.

    Attributes:
        name: value of `--format`.
        matches: whether a row has this shape.
        parse: the traces of one row; `name` is the fallback id.
        lacks: what a file of this format cannot tell.
        beside: what other files in the same folder add to a file, as fields for each of its rows.
        repeats: whether a file holds the same completion in several rows; the first is kept.
    """

    name: str
    matches: Callable[[Row], bool]
    parse: Callable[[Row, str], list[Trace]]
    lacks: tuple[str, ...]
    beside: Callable[[Path], Row] | None = None
    repeats: bool = False


# --- cotlens' own ----------------------------------------------------------------------------
def _parse_cotlens(row: Row, _: str) -> list[Trace]:
    """A row of `RUN/traces`."""
    if "completion" not in row:
        raise TraceError("a light run holds no texts; analyze the source again without --light")
    same = (
        "completion",
        "prompt",
        "prompt_id",
        "model",
        "method",
        "training_step",
        "domain",
        "split",
        "sample",
    )
    fields: dict[str, Any] = {key: row[key] for key in (*same, "finish_reason", "reward", "gold")}
    fields |= {
        key: optional_ids(row[key]) for key in ("prompt_token_ids", "token_ids", "token_starts")
    }
    if (origin := Origin(row["origin"])) is Origin.FIELDS:
        fields["think"] = tuple(Span(span["start"], span["stop"]) for span in row["think_spans"])
        fields["answer"] = Span(row["answer_start"], row["answer_stop"])
    return [
        Trace(
            id=row["trace_id"],
            origin=origin,
            reasoning=Reasoning(row["reasoning"]),
            logprobs=None if row["logprobs"] is None else tuple(row["logprobs"]),
            labels=tuple(
                Label(label["start"], label["stop"], label["label"]) for label in row["labels"]
            ),
            meta=json.loads(row["meta"]),
            **fields,
        )
    ]


# --- the formats, most specific first --------------------------------------------------------
def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


def _has_list(name: str, *alternatives: str, of: tuple[str, ...] = ()) -> Callable[[Row], bool]:
    """A test for a list of objects under one of the names, in a row without a completion field.

    Args:
        name: of the list.
        alternatives: other names of it.
        of: every object has one of these keys: the options of a question are choices too.
    """

    def matches(row: Row) -> bool:
        lists = [row[key] for key in (name, *alternatives) if isinstance(row.get(key), list)]
        if (
            not lists
            or len(dicts(lists[0])) != len(lists[0])
            or {"prompt", "completion"} <= set(row)
        ):
            return False
        return not of or all(any(key in one for key in of) for one in lists[0])

    return matches


def _is_plain(row: Row) -> bool:
    return any(name in row for name in (*TEXT, *THINK))


_OUTPUT = ("token_ids", "finish_reason", "index")
_CHOICE = ("message", "finish_reason", "index")
_NO_TOKENS = ("token ids", "log-probs")
_LABELLED = (*_NO_TOKENS, "finish reason")
_STRIPPED = "special tokens (decoded without them)"
FORMATS = (
    Format("cotlens", _has("trace_id", "think_spans", "opened_by"), _parse_cotlens, ()),
    Format(
        "reasoningflow",
        _has("doc_id", "response", "spans", "edges"),
        parse_reasoningflow,
        _LABELLED,
    ),
    Format(
        "self-jailbreak",
        _has("thinking", "sentences", "self_jailbreak_sentences"),
        parse_self_jailbreak,
        (
            *_LABELLED,
            "answer (removed at the source)",
            "thinking beyond 500 tokens (cut at the source)",
        ),
    ),
    Format("schoenfeld", _has("response", "sentences", "question_id"), parse_schoenfeld, _LABELLED),
    Format("venhoff", _has("raw", "thinking", "segments"), parse_venhoff, (*_LABELLED, "prompt")),
    Format("thought-anchors", _has("solution", "chunks"), parse_anchors, _LABELLED),
    Format(
        "trl",
        _has("step", "completion", "advantage"),
        parse_trl,
        (*_NO_TOKENS, "finish reason", "model", "prompt id", _STRIPPED),
    ),
    Format(
        "verl",
        lambda row: _has("input", "output", "score", "step")(row) and "instruction" not in row,
        parse_verl,
        (
            *_NO_TOKENS,
            "finish reason",
            "model",
            "prompt id",
            _STRIPPED,
            "which text is a tool's (one string)",
        ),
    ),
    Format(
        "open-instruct",
        _has("prompt_tokens", "response_tokens", "finish_reason"),
        parse_open_instruct,
        ("text (give --tokenizer)", "where tools wrote (one list of tokens)"),
    ),
    Format(
        "verifiers",
        is_verifiers,
        parse_verifiers,
        (
            "offsets of tokens (the text is parsed from them)",
            "digits of log-probs beyond the fourth",
        ),
    ),
    Format(
        "verifiers-results",
        _has("example_id", "prompt", "completion", "reward"),
        parse_verifiers_results,
        (*_NO_TOKENS, "finish reason"),
    ),
    Format(
        "lm-eval",
        _has("doc_id", "arguments", "resps", "filtered_resps"),
        parse_lm_eval,
        (
            *_NO_TOKENS,
            "finish reason",
            "scores of filters behind the first",
            "thinking, where the harness was told its end token",
        ),
        beside=beside_lm_eval,
        repeats=True,
    ),
    Format("lighteval", is_lighteval, parse_lighteval, ("finish reason", "model")),
    Format(
        "inspect",
        lambda row: all(isinstance(row.get(key), dict) for key in ("sample", "eval")),
        parse_inspect,
        ("token ids", "log-probs and finish reasons of all turns but the last"),
    ),
    Format("scout", _has("transcript_id", "messages"), parse_scout, (*_NO_TOKENS, "finish reason")),
    Format(
        "batch", is_batch, parse_batch, ("prompt (it stands in the file of requests)", "token ids")
    ),
    Format(
        "responses",
        is_response,
        parse_responses,
        (*_NO_TOKENS, "thinking (summaries at most, of hosted models)"),
    ),
    Format("vllm", _has_list("outputs", of=_OUTPUT), parse_vllm, ("model",)),
    Format(
        "openai",
        _has_list("choices", of=_CHOICE),
        parse_openai,
        ("token ids (unless the server returns them)",),
    ),
    Format(
        "messages",
        _has_list("messages", "conversation", "conversations"),
        parse_messages,
        _NO_TOKENS,
    ),
    Format("plain", _is_plain, parse_plain, ()),
)


def find_format(name: str) -> Format:
    """The format of that name."""
    for shape in FORMATS:
        if shape.name == name:
            return shape
    raise TraceError(
        f"unknown format {name!r}; expected one of {', '.join(shape.name for shape in FORMATS)}"
    )


def detect_row(row: Row) -> Format:
    for shape in FORMATS:
        if shape.matches(row):
            return shape
    raise TraceError(
        f"no known format has the fields {_fields(row)}; expected at least 'completion' (or "
        "'response', 'raw', "
        "'output', 'text'), or 'thinking' and 'answer', or 'messages'"
    )


def describe_mismatch(row: Row, shape: Format) -> str:
    other = next((f.name for f in FORMATS if f.matches(row)), None)
    looks = f"looks like {other}" if other else "has no known shape"
    return (
        f"the file is read as {shape.name}, but this row {looks}: its fields are "
        f"{_fields(row)}; a file has one shape"
    )


def _fields(row: Row) -> str:
    names = [str(name) for name in row]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "none"
