"""What servers and engines return.

These are OpenAI-compatible chat and text completions, OpenAI responses, batches and vLLM outputs.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cotlens.formats.blocks import blocks_of, trace_of_message
from cotlens.formats.chat import parse_messages
from cotlens.formats.fields import (
    PROMPT,
    Taker,
    common_fields,
    dicts,
    left_over,
    optional_ids,
    prompt_text,
    text_or_empty,
    without_nulls,
)
from cotlens.formats.rows import Row
from cotlens.text.tokens import start_inside
from cotlens.trace import Trace, TraceError


def parse_openai(row: Row, name: str) -> list[Trace]:
    """A chat or text completion as an OpenAI-compatible server returns it.

    The request's messages are its prompt where they were kept.
    """
    taker = Taker(row)
    choices, request = taker.take("choices"), taker.take("request") or {}
    before = (
        taker.take("messages", "prompt") or request.get("messages") or request.get("prompt") or []
    )
    before = [{"role": "user", "content": before}] if isinstance(before, str) else before
    common, traces = common_fields(taker, name), []
    common["prompt_id"] = common["prompt_id"] or ("" if before else common["id"])
    for choice in choices:
        sample = int(choice.get("index") or 0)
        fields = common | {
            "id": f"{common['id']}/{sample}" if len(choices) > 1 else common["id"],
            "sample": sample,
            "finish_reason": text_or_empty(choice.get("finish_reason")),
            "token_ids": optional_ids(choice.get("token_ids")),
        }
        meta = dict(taker.rest) | ({"prompt_messages": before} if before else {})
        meta |= left_over(
            choice, "choice", "index", "finish_reason", "token_ids", "message", "text"
        )
        message = choice.get("message") or {"content": choice.get("text")}
        trace = trace_of_message(without_nulls(message), prompt_text(before), fields, meta)
        traces.append(with_openai_logprobs(trace, _token_logprobs(choice.get("logprobs") or {})))
    return traces


def _token_logprobs(logprobs: Row) -> list[Row] | None:
    """A log-prob per token, of a chat completion or, in the older shape, of a text completion."""
    if isinstance(tokens := logprobs.get("tokens"), list):
        values = logprobs.get("token_logprobs") or []
        if len(tokens) != len(values):
            raise TraceError(f"logprobs: {len(tokens)} tokens and {len(values)} token_logprobs")
        return [
            {"token": token, "logprob": value} for token, value in zip(tokens, values, strict=True)
        ]
    return logprobs.get("content")


_ITEMS = ("reasoning", "message")


def is_response(row: Row) -> bool:
    """A response object, or a row whose `output` is a list of its items."""
    items = row.get("output")
    if not isinstance(items, list) or len(dicts(items)) != len(items):
        return False
    kinds = [str(item.get("type", "")) for item in items]
    typed = all(kind in _ITEMS or kind.endswith(("_call", "_output")) for kind in kinds)
    return row.get("object") == "response" or (typed and any(kind in _ITEMS for kind in kinds))


def parse_responses(row: Row, name: str) -> list[Trace]:
    """A response object of OpenAI's Responses API: one trace, whatever the number of its items.

    Shape: openai-python 3.54 (`types/responses/response.py`). A reasoning item shows a `summary`
    and, where the model is open, its `content`; `encrypted_content` is not text. Items keep their
    order.
    """
    taker = Taker(row)
    items, before = dicts(taker.take("output")), taker.take("input", "prompt", "instructions") or []
    before = [{"role": "user", "content": before}] if isinstance(before, str) else dicts(before)
    incomplete = taker.rest.pop("incomplete_details", None) or {}
    finish = incomplete.get("reason") or taker.text("status")
    blocks: list[Row] = []
    for item in items:
        blocks += _message_blocks(item) if item.get("type") == "message" else [item]
    common = common_fields(taker, name)
    fields, placed = blocks_of([without_nulls(block) for block in blocks])
    if not items:
        raise TraceError(f"the response has no output (status {finish or 'unknown'})")
    if placed.get("tool_calls") and not fields["answer"].length:
        finish = "tool_calls"
    meta = taker.rest | placed | ({"prompt_messages": before} if before else {})
    common["finish_reason"] = {"completed": "stop"}.get(finish, finish)
    return [Trace(prompt=prompt_text(before), **fields, **common, meta=meta)]


def is_batch(row: Row) -> bool:
    """A line of a batch's output: a request's `custom_id` with its outcome."""
    return "custom_id" in row and any(
        isinstance(row.get(key, ""), dict | None) for key in ("response", "result")
    )


def parse_batch(row: Row, name: str) -> list[Trace]:
    """A line of a batch's output; its `custom_id` is the trace's id.

    Shapes: `response` (status_code, body) and `error` of OpenAI's Batch API, which vLLM's
    `run-batch` writes too; `result` (type, message) of Anthropic's Message Batches. A request that
    failed has no completion: it is a row that cannot be read, and the error gives the server's
    reason.
    """
    taken = ("custom_id", "response", "result", "error", "id")
    answer = row.get("response") or row.get("result") or {}
    body = answer.get("body", answer.get("message"))
    error = (
        row.get("error")
        or answer.get("error")
        or (body.get("error") if isinstance(body, dict) else None)
    )
    status = answer.get("status_code", answer.get("type", "none"))
    if error or not isinstance(body, dict) or status not in (200, "succeeded"):
        raise TraceError(
            f"the request {row['custom_id']} failed (status {status}): "
            f"{error or 'it has no answer'}"
        )
    inner = (
        body
        | {"id": row["custom_id"], "response_id": body.get("id")}
        | left_over(row, "batch", *taken)
    )
    if answer.get("message") is body:
        inner["messages"] = [
            {"role": inner.pop("role", "assistant"), "content": inner.pop("content", None)}
        ]
        return parse_messages(inner, name)
    return (parse_responses if is_response(body) else parse_openai)(inner, name)


def _message_blocks(item: Row) -> list[Row]:
    """The blocks of a message item; its text before the answer (see `phase`) is commentary."""
    around = {key: item[key] for key in item if key not in ("content", "id", "role", "status")}
    said = [
        {**part, "type": "commentary"} if item.get("phase") == "commentary" else part
        for part in dicts(item.get("content"))
    ]
    return [*([around] if len(around) > 1 else []), *said]


def with_openai_logprobs(trace: Trace, content: Sequence[Row] | None) -> Trace:
    """The trace with its tokens' log-probs and offsets.

    Servers give them for the content only. Where the reasoning is separate they do not cover the
    completion, and go to the metadata.
    """
    if not content:
        return trace
    if trace.think:
        return replace(trace, meta={**trace.meta, "answer_logprobs": list(content)})
    if trace.token_ids is not None and len(trace.token_ids) != len(content):
        return trace
    pieces = [
        bytes(token["bytes"]) if token.get("bytes") is not None else token["token"].encode()
        for token in content
    ]
    starts = starts_of_bytes(pieces, trace.completion)
    logprobs = tuple(
        float("nan") if token["logprob"] is None else float(token["logprob"]) for token in content
    )
    return replace(trace, logprobs=logprobs, token_starts=None if starts is None else tuple(starts))


def starts_of_bytes(pieces: Sequence[bytes], text: str) -> list[int] | None:
    """Code point at which each token's bytes begin; None where the bytes are not those of the text.

    A token that begins inside a character begins at that character; see also `start_inside`.
    """
    data = text.encode()
    if not b"".join(pieces).startswith(data):
        return None
    starts, at_byte, at_char = [], 0, 0
    for piece in pieces:
        inside = at_byte < len(data) and (data[at_byte] & 0xC0) == 0x80
        starts.append(start_inside(text, starts[-1], at_char - 1) if inside else at_char)
        at_char += sum((byte & 0xC0) != 0x80 for byte in data[at_byte : at_byte + len(piece)])
        at_byte += len(piece)
    return starts


def parse_vllm(row: Row, name: str) -> list[Trace]:
    """A vLLM RequestOutput dumped as JSON.

    It gives one trace per output, with its token ids and the log-probs of the chosen tokens.
    """
    taker = Taker(row)
    request_id, outputs, prompt = (
        taker.take("request_id"),
        taker.take("outputs"),
        taker.text(*PROMPT),
    )
    common = common_fields(taker, name)
    if request_id is not None and common["id"] == name:
        common["id"] = str(request_id)
    common["prompt_id"] = common["prompt_id"] or ("" if prompt else common["id"])
    traces = []
    for output in outputs:
        sample = int(output.get("index") or 0)
        token_ids = optional_ids(output.get("token_ids"))
        logprobs, starts = _vllm_logprobs(
            output.get("logprobs"), token_ids, output.get("text") or ""
        )
        if output.get("text") is None:
            raise TraceError(f"the completion is null (outputs[{sample}].text)")
        fields = common | {
            "id": f"{common['id']}/{sample}" if len(outputs) > 1 else common["id"],
            "sample": sample,
            "finish_reason": text_or_empty(output.get("finish_reason")),
            "token_ids": token_ids,
            "logprobs": logprobs,
            "token_starts": starts,
        }
        meta = taker.rest | left_over(
            output, "output", "index", "text", "token_ids", "logprobs", "finish_reason"
        )
        traces.append(Trace(completion=output["text"], prompt=prompt, **fields, meta=meta))
    return traces


def _vllm_logprobs(entries: Any, token_ids: tuple[int, ...] | None, text: str) -> tuple[Any, Any]:
    """Log-prob of each chosen token, and offsets where the decoded tokens spell the text."""
    if not entries or token_ids is None:
        return None, None
    if len(entries) != len(token_ids):
        raise TraceError(
            f"a vLLM output has {len(token_ids)} token_ids and {len(entries)} entries of logprobs"
        )
    if any(entry is not None and not isinstance(entry, dict) for entry in entries):
        raise TraceError(
            "logprobs of a vLLM output must be one dict of token id to log-prob a token"
        )
    chosen = [
        (entry or {}).get(str(token)) for entry, token in zip(entries, token_ids, strict=True)
    ]
    values = [c.get("logprob") if isinstance(c, dict) else c for c in chosen]
    logprobs = tuple(float("nan") if value is None else float(value) for value in values)
    decoded = [
        str(c["decoded_token"])
        for c in chosen
        if isinstance(c, dict) and c.get("decoded_token") is not None
    ]
    if len(decoded) < len(token_ids):
        return logprobs, None
    starts = starts_of_bytes([piece.encode() for piece in decoded], text)
    return logprobs, None if starts is None else tuple(starts)
