"""A message whose content is typed blocks: thinking, text, tool calls."""

from collections.abc import Sequence
from typing import Any

from cotlens.formats.fields import (
    BLOCK_TEXT,
    THINK,
    content_text,
    dicts,
    fields_of,
    left_over,
    part_text,
)
from cotlens.formats.rows import Row
from cotlens.text.split import has_delimiters
from cotlens.trace import Origin, Reasoning, Span, Trace, TraceError


def trace_of_message(
    message: Row, prompt: str, fields: dict[str, Any], meta: dict[str, Any]
) -> Trace:
    content, tools = message.get("content"), tool_calls(message)
    parts = _parts(content)
    if tools:  # the turn continued with a call: its thought is not cut off
        meta, fields = (
            meta | {"tool_calls": tools},
            fields | {"finish_reason": fields["finish_reason"] or "tool_calls"},
        )
    thinking, reasoning, used = _thinking_beside(message)
    used |= {
        "role",
        "content",
        *(("tool_calls",) if isinstance(message.get("tool_calls"), list) else ()),
    }
    if content is None and isinstance(message.get("refusal"), str):
        content, used = message["refusal"], used | {"refusal"}
    meta = meta | left_over(message, "message", *used)
    if parts and _has_blocks(parts):
        if thinking and not any(part.get("type") in _THOUGHT_BLOCKS for part in dicts(parts)):
            parts = [{"type": "thinking", "thinking": thinking}, *parts]
        elif thinking:
            meta = meta | {"thinking": thinking}
        text, placed = blocks_of(parts)
        text["reasoning"] = _worst([text["reasoning"], reasoning])
        return Trace(prompt=prompt, **text, **fields, meta=meta | _with_calls(placed, message))
    if isinstance(content, list):
        content, placed = _one_text(parts)
        meta = meta | _with_calls(placed, message)
    if content is None and not thinking and not tools:
        raise TraceError(
            "the completion is null (the assistant message has neither content nor reasoning)"
        )
    if not isinstance(content, str | None):
        raise TraceError(
            "the content of a message must be text or a list of parts, got "
            f"{type(content).__name__}"
        )
    text = content or ""
    if text and thinking and thinking.strip() in text and has_delimiters(text):
        meta, thinking = (
            meta | {"thinking": thinking},
            "",  # the server left the thought in the content as well
        )
    # A source with an empty field for the thought reports that there is none.
    told = "refusal" in used or any(isinstance(message.get(key), str) for key in THINK)
    if not thinking and reasoning is Reasoning.VERBATIM and (has_delimiters(text) or not told):
        return Trace(completion=text, prompt=prompt, **fields, meta=meta)
    return Trace(
        prompt=prompt, **fields_of(thinking, text), reasoning=reasoning, **fields, meta=meta
    )


def _parts(content: Any) -> list[Any]:
    return [_typed(part) for part in content] if isinstance(content, list) else []


def tool_calls(message: Row) -> list[Row]:
    """The calls of tools in a message, in their field or among its blocks."""
    blocks = [part for part in dicts(_parts(message.get("content"))) if _is_call(part)]
    return dicts(message.get("tool_calls")) or blocks


def _with_calls(placed: dict[str, Any], message: Row) -> dict[str, Any]:
    """The parts found among the blocks, with the calls that the message's field holds."""
    called = [*placed.get("tool_calls", ()), *dicts(message.get("tool_calls"))]
    return placed | ({"tool_calls": called} if called else {})


def _thinking_beside(message: Row) -> tuple[str, Reasoning, set[str]]:
    """Thinking in a separate field, what kind it is, and the fields that add nothing to it.

    The first field that is not empty wins; the same text under two names (vLLM) is one thought.
    """
    found = {
        key: content_text(message[key]) for key in THINK if isinstance(message.get(key), str | list)
    }
    thinking = next(filter(None, found.values()), "")
    used = {key for key, text in found.items() if text in ("", thinking)}
    details = dicts(message.get("reasoning_details"))
    if not details:
        return thinking, Reasoning.VERBATIM, used
    thinking = thinking or "".join(
        part.get("text") or part.get("summary") or "" for part in details
    )
    kinds = {str(part.get("type", "")).removeprefix("reasoning.") for part in details}
    reasoning = _worst(
        {"summary": Reasoning.SUMMARY, "encrypted": Reasoning.REDACTED}.get(kind) for kind in kinds
    )
    signed = any(part.get("signature") for part in details)
    if not thinking and signed:
        reasoning = Reasoning.REDACTED
    used |= set() if signed or "encrypted" in kinds else {"reasoning_details"}
    return thinking, reasoning, used


def _typed(part: Any) -> Any:
    """The part with a `type`.

    Bedrock names the kind by a key where others have a `type`, and some sources give a text no
    type.
    """
    if not isinstance(part, dict) or part.get("type"):
        return part
    if isinstance(inner := part.get("reasoningContent"), dict):
        said = inner.get("reasoningText") or {}
        beside = {
            key: value
            for key, value in (*said.items(), *inner.items())
            if key not in ("text", "reasoningText")
        }
        return {"type": "thinking", "thinking": said.get("text") or "", **beside}
    for name, kind in (("toolUse", "tool_use"), ("toolResult", "tool_result")):
        if isinstance(part.get(name), dict):
            return {"type": kind, **part[name]}
    return {"type": "text", **part} if isinstance(part.get("text"), str) else part


def _one_text(parts: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """One text of parts that do not mark what is thinking, and the parts that are not text.

    The latter come with their place in the text.
    """
    text, placed = "", dict[str, list[Any]]()
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        said = "" if _is_tool(part) else part_text(part)
        rest = part if not said else _beside_text(part)
        if rest:
            placed.setdefault("tool_calls" if _is_call(part) else "other_parts", []).append(
                {"at": len(text), **rest}
            )
        text += said
    return text, placed


def _beside_text(part: Row) -> Row:
    """What a block of text holds besides its text: citations, log-probs, a cache mark."""
    rest = {
        key: value
        for key, value in part.items()
        if key not in ("type", *BLOCK_TEXT, "refusal") and value not in (None, "", [])
    }
    return {"type": part.get("type"), **rest} if rest else {}


_THOUGHT_BLOCKS = ("thinking", "reasoning", "redacted_thinking")
_TEXT_BLOCKS = ("text", "output_text", "refusal")


def _is_call(block: Row) -> bool:
    """Whether a block calls a tool.

    Its type is `tool_use`, `server_tool_use`, `function_call`, `web_search_call` or similar.
    """
    return str(block.get("type", "")).endswith(("tool_use", "_call", "-call"))


def _is_tool(block: Row) -> bool:
    return _is_call(block) or str(block.get("type", "")).endswith(
        ("tool_result", "_output", "-result")
    )


def _has_blocks(content: list[Any]) -> bool:
    """Whether the parts of a message mark thinking, answer and tool calls themselves.

    If not, the parts are one text.
    """
    parts = dicts(content)
    if any(part.get("type") in _THOUGHT_BLOCKS for part in parts):
        return True
    return any(map(_is_tool, parts)) and not any(has_delimiters(part_text(part)) for part in parts)


def blocks_of(content: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Completion and spans of a message of typed blocks, and metadata for what is not text.

    Blocks keep their order. Calls and results of tools are in no text: `tool_calls` and
    `other_parts` hold them with `at`, the code point of the completion at which each occurs. The
    answer is the last text: text before a thought, or before a tool that more text follows, is
    commentary.
    """
    text, think, after, used, kinds = "", [], 0, 0, [Reasoning.VERBATIM]
    placed: dict[str, list[Any]] = {"tool_calls": [], "other_parts": []}
    for part_of_message in content:
        said_plainly = isinstance(part_of_message, str)
        block: Row = {"type": "text", "text": part_of_message} if said_plainly else part_of_message
        kind, at = block.get("type"), len(text)
        if kind in _THOUGHT_BLOCKS:
            part, reasoning, rest = _thought(block)
            kinds.append(reasoning)
            think.append(Span(at, at + len(part)))
            text += part
            after, used = (len(text), used) if part else (after, at)
            if rest:
                placed["other_parts"].append({"at": at, "type": kind, **rest})
        elif kind in (*_TEXT_BLOCKS, "commentary"):
            said = content_text([block])
            after = max(after, used) if said else after
            text += said
            used = len(text) if kind == "commentary" else used
            if rest := _beside_text(block):
                placed["other_parts"].append({"at": at, **rest})
        else:
            placed["tool_calls" if _is_call(block) else "other_parts"].append({"at": at, **block})
            used = at if _is_tool(block) else used
    fields = {
        "completion": text,
        "origin": Origin.FIELDS,
        "think": tuple(span for span in think if span.length),
        "answer": Span(after, len(text)),
        "reasoning": _worst(kinds),
    }
    return fields, {name: parts for name, parts in placed.items() if parts}


def _thought(block: Row) -> tuple[str, Reasoning, dict[str, Any]]:
    """Text of a thinking block, what kind of text it is, and what else the block holds.

    An encrypted thought is not text, whatever field holds it (Inspect puts it in `reasoning`);
    where there is a summary as well, the summary is the text. A signed block without text was left
    out by the provider.
    """
    rest = {
        key: value for key, value in block.items() if key != "type" and value not in (None, "", [])
    }
    summary = content_text(rest["summary"]) if isinstance(rest.get("summary"), str | list) else ""
    hidden = block.get("type") == "redacted_thinking" or bool(block.get("redacted"))
    name = "" if hidden else next((key for key in BLOCK_TEXT if rest.get(key)), "")
    if name:
        return content_text(rest.pop(name)), Reasoning.VERBATIM, rest
    if summary:
        rest.pop("summary")
        return summary, Reasoning.SUMMARY, rest
    hidden = hidden or any(rest.get(key) for key in ("signature", "encrypted_content", "data"))
    return "", Reasoning.REDACTED if hidden else Reasoning.VERBATIM, rest


def _worst(kinds: Any) -> Reasoning:
    order = (Reasoning.VERBATIM, Reasoning.SUMMARY, Reasoning.REDACTED)
    return max(
        (kind or Reasoning.VERBATIM for kind in kinds), key=order.index, default=Reasoning.VERBATIM
    )
