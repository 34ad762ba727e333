"""Responses of servers inside a row: lines of a batch's output, and responses in a field."""

from collections.abc import Callable

from cotlens.formats.chat import parse_messages, parse_plain
from cotlens.formats.fields import Taker, dicts, entries_of, from_json, left_over, objects
from cotlens.formats.rows import Row
from cotlens.formats.servers import is_response, parse_openai, parse_responses
from cotlens.trace import Trace, TraceError


def is_batch(row: Row) -> bool:
    """A line of a batch's output: a request's `custom_id` with its outcome."""
    outcomes = (from_json(row.get("response", "")), from_json(row.get("result", "")))
    return "custom_id" in row and any(isinstance(value, dict | None) for value in outcomes)


def parse_batch(row: Row, name: str) -> list[Trace]:
    """A line of a batch's output; its `custom_id` is the trace's id.

    Shapes: `response` (status_code, body) and `error` of OpenAI's Batch API, which vLLM's
    `run-batch` writes too; `result` (type, message) of Anthropic's Message Batches. A request that
    failed has no completion: it is a row that cannot be read, and the error gives the server's
    reason.
    """
    taken = ("custom_id", "response", "result", "error", "id")
    answer = from_json(row.get("response") or row.get("result") or {})
    body = from_json(answer.get("body", answer.get("message")))
    inner_error = body.get("error") if isinstance(body, dict) else None
    error = row.get("error") or answer.get("error") or inner_error
    status = answer.get("status_code", answer.get("type", "none"))
    if error or not isinstance(body, dict) or status not in (200, "succeeded"):
        raise TraceError(
            f"the request {row['custom_id']} failed (status {status}): "
            f"{error or 'it has no answer'}"
        )

    inner = dict(body) | {
        "id": row["custom_id"],
        "response_id": body.get("id"),
    }
    inner |= left_over(row, "batch", *taken)
    if "body" not in answer:
        message = {
            "role": inner.pop("role", "assistant"),
            "content": inner.pop("content", None),
        }
        return parse_messages(
            inner | {"messages": [message]},
            name,
        )

    return (parse_responses if is_response(body) else parse_openai)(
        inner,
        name,
    )


# --- a response in a field ---------------------------------------------------------------------
_NESTED = ("response", "result", "output", "completion", "body", "raw_response", "api_response")


def nested_response(row: Row) -> str:
    """The name of the field that holds a whole response of a server; empty if there is none."""
    for name in _NESTED:
        inner = row.get(name)
        if isinstance(inner, str) and not _may_be_response(inner):
            continue
        body = from_json(inner)
        if isinstance(body, dict) and _parser_of(body):
            return name

    return ""


_OF_CHOICE = ("message", "content", "finish_reason", "finishReason")


def _may_be_response(text: str) -> bool:
    """Whether a text that is JSON may be a server's response, and not what a model wrote."""
    body = from_json(text)
    if not isinstance(body, dict):
        return False
    if is_response(body) or body.get("type") == "message":
        return True

    # A question has choices too.
    for choice in (*entries_of(body.get("choices")), *entries_of(body.get("candidates"))):
        is_choice = isinstance(choice, dict)
        if is_choice and not any(
            name in choice for name in ("message", "content", "finish_reason")
        ):
            return False
    return True


def _parser_of(body: Row) -> Callable[[Row, str], list[Trace]] | None:
    """The parser of a server's response, or None if it is no such response."""
    if is_response(body):
        return parse_responses
    for name in ("choices", "candidates"):
        choices = body.get(name)
        if isinstance(choices, list) and choices and len(dicts(choices)) == len(choices):
            return parse_openai

    # Ollama
    if "done" in body and isinstance(body.get("message"), dict):
        return parse_plain

    is_anthropic = body.get("type") == "message" and isinstance(body.get("content"), list)
    return _parse_anthropic if is_anthropic else None


def _parse_anthropic(row: Row, name: str) -> list[Trace]:
    """A message of Anthropic's API, with what the row around it says."""
    taker = Taker(row)
    # As a message of a conversation, after those of the request.
    message = {"role": "assistant", "content": taker.rest.pop("content")}
    taker.rest.pop("role", None)
    taker.rest.pop("type", None)
    before = taker.take("messages", "prompt") or []
    before = [{"role": "user", "content": before}] if isinstance(before, str) else before
    messages = [*objects(before, "messages"), message]
    return parse_messages(
        taker.rest | {"messages": messages},
        name,
    )


def parse_nested(row: Row, name: str) -> list[Trace]:
    """A row that holds a whole response in a field, with fields of its own around it.

    NeMo Gym's rollouts have it beside the request's parameters: `responses_create_params`,
    `response`, `reward` (NVIDIA NeMo Gym, `rollout_collection.py`).
    """
    field = nested_response(row)
    inner = from_json(row[field])
    body = dict(inner)
    around = {key: value for key, value in row.items() if key != field}
    request = around.get("responses_create_params")
    if isinstance(request, dict) and "input" in request:
        body["input"] = request["input"]
        rest = {key: value for key, value in request.items() if key != "input"}
        around["responses_create_params"] = rest

    # The row's own id names the request; the response has another one.
    if around.get("id") is not None and body.get("id") is not None:
        body["response_id"] = body.pop("id")
    for key, value in around.items():
        body.setdefault(key, value)

    parse = _parser_of(inner)
    assert parse is not None  # the row was recognised by it
    return parse(body, name)
