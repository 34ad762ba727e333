"""The formats that are known, in the order of detection, and how a row is recognised.

Every parser keeps the text byte for byte and keeps token ids, log-probs and finish reason where the
source has them; `Format.lacks` lists what a format cannot tell. `FORMATS`, at the end, is the list.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cotlens.formats.chat import parse_messages, parse_plain
from cotlens.formats.exact import parse_cotlens
from cotlens.formats.fields import TEXT, THINK, dicts, from_json, objects
from cotlens.formats.harnesses import (
    beside_lm_eval,
    is_lighteval,
    parse_lighteval,
    parse_lm_eval,
)
from cotlens.formats.inspect_logs import is_inspect, parse_inspect, parse_scout
from cotlens.formats.labelled import (
    parse_anchors,
    parse_reasoningflow,
    parse_schoenfeld,
    parse_self_jailbreak,
    parse_venhoff,
)
from cotlens.formats.nested import is_batch, nested_response, parse_batch, parse_nested
from cotlens.formats.rows import Row
from cotlens.formats.samples import (
    is_bfcl,
    is_columns,
    is_nemo_rl,
    parse_bfcl,
    parse_columns,
    parse_nemo_rl,
    parse_samples,
    samples_field,
)
from cotlens.formats.servers import (
    is_mt_bench,
    is_response,
    is_sglang,
    parse_mt_bench,
    parse_openai,
    parse_responses,
    parse_sglang,
    parse_vllm,
)
from cotlens.formats.trainers import parse_open_instruct, parse_verl
from cotlens.formats.trl import beside_trl, parse_trl
from cotlens.formats.verifiers import is_verifiers, parse_verifiers, parse_verifiers_results
from cotlens.trace import Trace, TraceError


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


# --- the formats, most specific first --------------------------------------------------------
def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


def _has_list(name: str, *alternatives: str, of: tuple[str, ...] = ()) -> Callable[[Row], bool]:
    """A test for a list of objects under one of the names, in a row without a completion field.

    The objects, or the whole list, may be JSON text.

    Args:
        name: of the list.
        alternatives: other names of it.
        of: every object has one of these keys: the options of a question are choices too.
    """

    def matches(row: Row) -> bool:
        if "prompt" in row and "completion" in row:
            return False
        # The first of the names that holds a list decides.
        for key in (name, *alternatives):
            entries = from_json(row.get(key))
            if isinstance(entries, list):
                return _are_objects(entries, of)
        return False

    return matches


def _are_objects(entries: list[Any], of: tuple[str, ...]) -> bool:
    """Whether all entries are objects, or JSON text of objects, with one of the keys."""
    for entry in entries:
        fields = from_json(entry)
        if not isinstance(fields, dict):
            return False
        # Without keys any object will do.
        if of and not any(key in fields for key in of):
            return False
    return True


_CHOICES = _has_list("choices", of=("message", "delta", "finish_reason", "index"))
_CANDIDATES = _has_list("candidates", of=("content", "finishReason"))  # Gemini


def _is_openai(row: Row) -> bool:
    if is_mt_bench(row):
        return False
    return _CHOICES(row) or _CANDIDATES(row)


def _is_plain(row: Row) -> bool:
    if isinstance(from_json(row.get("message")), dict):  # Ollama
        return True
    return any(name in row for name in (*TEXT, *THINK))


def _is_verl(row: Row) -> bool:
    if "instruction" in row:
        return False
    names = ("input", "output", "score", "step")
    return all(name in row for name in names)


def _is_message(row: Row) -> bool:
    """A single message; a conversation that is a file of messages is put together before."""
    if not isinstance(row.get("role"), str):
        return False
    names = ("content", "parts", "tool_calls", *THINK)
    return any(name in row for name in names)


def _parse_message(row: Row, name: str) -> list[Trace]:
    """A single message of an assistant: a completion without a prompt.

    Raises:
        TraceError: for a message of another role, which is no completion.
    """
    return parse_messages({"messages": [row]}, name)


_OUTPUT = ("token_ids", "finish_reason", "index")
_NO_TOKENS = ("token ids", "log-probs")
_LABELLED = (*_NO_TOKENS, "finish reason")
_STRIPPED = "special tokens (decoded without them)"
FORMATS = (
    Format("cotlens", _has("trace_id", "think_spans", "opened_by"), parse_cotlens, ()),
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
        beside=beside_trl,
        repeats=True,
    ),
    Format(
        "verl",
        _is_verl,
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
        repeats=True,
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
        is_inspect,
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
    Format(
        "nested",
        lambda row: bool(nested_response(row)),
        parse_nested,
        ("what the response inside the row does not say",),
    ),
    Format("vllm", _has_list("outputs", of=_OUTPUT), parse_vllm, ("model",)),
    Format("sglang", is_sglang, parse_sglang, ("model", "prompt")),
    Format("mt-bench", is_mt_bench, parse_mt_bench, (*_LABELLED, "prompt")),
    Format(
        "openai",
        _is_openai,
        parse_openai,
        ("token ids (unless the server returns them)",),
    ),
    Format("bfcl", is_bfcl, parse_bfcl, (*_LABELLED, "prompt", "model")),
    Format("nemo-rl", is_nemo_rl, parse_nemo_rl, (*_LABELLED, "which log-probs are the text's")),
    Format("columns", is_columns, parse_columns, _NO_TOKENS),
    Format("samples", lambda row: bool(samples_field(row)), parse_samples, _NO_TOKENS),
    Format(
        "messages",
        _has_list("messages", "conversation", "conversations"),
        parse_messages,
        _NO_TOKENS,
    ),
    Format("message", _is_message, _parse_message, (*_NO_TOKENS, "prompt")),
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

    if "event" in row or str(row.get("type", "")).endswith((".delta", "_delta")):
        raise TraceError(
            f"the row is one event of a stream (type {row.get('type', row.get('event'))!r}); ask "
            "with stream=false, or keep the whole response"
        )

    for name in ("messages", "conversation", "conversations", "choices", "outputs"):
        if isinstance(row.get(name), list):
            objects(row[name], name)  # says which entry is no object

    inside = [name for name, value in row.items() if isinstance(value, list) and dicts(value)]
    hint = f"; if {inside[0]!r} holds the rows, give that list as a file" if inside else ""
    raise TraceError(
        f"no known format has the fields {_fields(row)}; expected at least 'completion' (or "
        "'response', 'raw', "
        f"'output', 'text'), or 'thinking' and 'answer', or 'messages'{hint}"
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
