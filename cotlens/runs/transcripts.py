"""A trace as a transcript of Inspect Scout: one row, with messages as Inspect writes them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cotlens.formats.fields import dicts
from cotlens.runs.messages import completion_blocks, messages_before
from cotlens.trace import Origin, Trace, dump_json

# The columns that a trace can fill, of inspect-scout 0.6.2, `_transcript/database/schema.py`;
# `cotlens` is ours.
_TEXT = pa.large_string()
TRANSCRIPT_SCHEMA = pa.schema(
    [
        ("transcript_id", _TEXT),
        ("source_type", _TEXT),
        ("task_set", _TEXT),
        ("task_id", _TEXT),
        ("task_repeat", pa.int64()),
        ("agent", _TEXT),
        ("model", _TEXT),
        ("score", _TEXT),
        ("message_count", pa.int64()),
        ("total_tokens", pa.int64()),
        ("messages", _TEXT),
        ("cotlens", _TEXT),
    ]
)


def transcript_row(trace: Trace) -> dict[str, Any]:
    """A trace as a row with the columns `TRANSCRIPT_SCHEMA`, but for `cotlens`."""
    messages = [_earlier_message(message) for message in messages_before(trace)]
    messages.append(_assistant_message(trace))

    total_tokens = None  # unknown unless both lists of ids are there
    if trace.prompt_token_ids is not None and trace.token_ids is not None:
        total_tokens = len(trace.prompt_token_ids) + len(trace.token_ids)
    return {
        "transcript_id": trace.id,
        "source_type": "cotlens",
        "task_set": trace.domain or None,
        "task_id": trace.prompt_id,
        "task_repeat": trace.sample + 1,
        "agent": trace.method or None,
        "model": trace.model or None,
        "score": None if trace.reward is None else dump_json(trace.reward),
        "message_count": len(messages),
        "total_tokens": total_tokens,
        "messages": dump_json(messages),
    }


def _assistant_message(trace: Trace) -> dict[str, Any]:
    # One text as it is; separate fields as blocks, without those that Inspect has no name for.
    content: Any = trace.completion
    if trace.origin is Origin.FIELDS:
        blocks = [_block(block) for block in completion_blocks(trace)]
        content = [block for block in blocks if block]
    message = {"role": "assistant", "content": content, "source": "generate"}

    # Inspect keeps tool calls apart from the content, without their places.
    calls = dicts(trace.meta.get("tool_calls"))
    if calls:
        message["tool_calls"] = _tool_calls(calls)
    return message


def _block(block: dict[str, Any]) -> dict[str, Any] | None:
    """A block as Inspect names it; None for tool calls, which have their own field."""
    match block.get("type"):
        case "text" | "output_text" if isinstance(block.get("text"), str):
            return {"type": "text", "text": block["text"]}
        case "thinking" if isinstance(block.get("thinking"), str):
            reasoning = {"type": "reasoning", "reasoning": block["thinking"]}
            if isinstance(block.get("signature"), str):
                reasoning["signature"] = block["signature"]
            return reasoning
        case "reasoning":
            summary = ""
            for part in dicts(block.get("summary")):
                summary += str(part.get("text") or "")
            return {"type": "reasoning", "reasoning": "", "summary": summary} if summary else None
        case "redacted_thinking":
            data = str(block.get("data", ""))
            return {"type": "reasoning", "reasoning": data, "redacted": True}
    return None


def _tool_calls(calls: Sequence[Any]) -> list[dict[str, Any]]:
    converted = []
    for number, call in enumerate(calls):
        if isinstance(call, dict):
            converted.append(_tool_call(call, number))
    return converted


def _tool_call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A tool call of OpenAI, Anthropic, verifiers or Inspect, as Inspect writes it.

    Arguments that are not a JSON object become one with the key `input`.
    """
    # OpenAI has name and arguments one level deeper.
    function = call["function"] if isinstance(call.get("function"), dict) else call
    name = function.get("name") or call.get("function") or "unknown"
    call_id = call.get("id") or call.get("call_id") or f"call-{number}"

    # Anthropic names them `input`; OpenAI writes JSON text, which need not be valid.
    arguments: Any = {}
    for key in ("arguments", "input"):
        if key in function:
            arguments = function[key]
            break
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            arguments = {"input": arguments}
    if not isinstance(arguments, dict):
        arguments = {"input": arguments}

    return {"id": str(call_id), "function": str(name), "arguments": arguments, "type": "function"}


def _earlier_message(message: dict[str, Any]) -> dict[str, Any]:
    """A message of the conversation before the trace; an unknown role becomes the user's."""
    role = message.get("role")
    content = _earlier_content(message.get("content"))
    # OpenAI's newer name for the system.
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        return {"role": "user", "content": content, "source": "input"}

    converted: dict[str, Any] = {"role": role, "content": content, "source": "input"}
    if role == "assistant":
        # Thinking in a separate field becomes a block before the text.
        thought = message.get("reasoning_content") or message.get("reasoning")
        if isinstance(thought, str) and thought and isinstance(content, str):
            converted["content"] = [
                {"type": "reasoning", "reasoning": thought},
                {"type": "text", "text": content},
            ]

        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            converted["tool_calls"] = _tool_calls(calls)

    if role == "tool" and isinstance(message.get("tool_call_id"), str):
        converted["tool_call_id"] = message["tool_call_id"]
    return converted


def _earlier_content(content: Any) -> str | list[dict[str, Any]]:
    """The content of an earlier message: text, blocks, or the JSON of anything else."""
    if isinstance(content, list):
        blocks = [_earlier_block(block) for block in content]
        return [block for block in blocks if block]
    if isinstance(content, str):
        return content
    return "" if content is None else dump_json(content)


def _earlier_block(block: Any) -> dict[str, Any] | None:
    """A block of an earlier message as Inspect names it; None if it has no place."""
    if isinstance(block, str):
        return {"type": "text", "text": block}

    kind = block.get("type")
    if kind == "reasoning" and isinstance(block.get("reasoning"), str):
        return dict(block)
    if kind in ("text", "output_text", "input_text"):
        return {"type": "text", "text": str(block.get("text", ""))}
    return _block(block) if kind in ("thinking", "redacted_thinking") else None
