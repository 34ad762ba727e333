"""A message whose content is typed parts: thinking, text, tool calls."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cotlens.formats.content import (
    BLOCK_TEXT,
    SUMMARIES,
    Part,
    content_text,
    is_tool,
    kind_of,
    parsed_parts,
    part_text,
    typed,
)
from cotlens.formats.fields import (
    THINK,
    dicts,
    entries_of,
    fields_of,
    from_json,
    is_thought,
    left_over,
    objects,
    unless_blank,
)
from cotlens.formats.rows import Row
from cotlens.text.split import has_delimiters
from cotlens.trace import Origin, Reasoning, Span, Trace, TraceError

# Other names under which an answer stands next to a thought.
ANSWERS = (
    "answer", "final_answer", "final", "result", "reply", "final_response", "model_answer",
    "answer_text", "output_text", "response_text", "model_output", "model_response", "prediction",
    "assistant",
)  # fmt: skip


def trace_of_message(
    message: Row, prompt: str, fields: dict[str, Any], meta: dict[str, Any]
) -> Trace:
    """The trace of an assistant's message: what its fields or parts say of thinking and answer.

    Args:
        message: with `content` (text or parts), perhaps thinking and tool calls in fields.
        prompt: the text before it.
        fields: of the trace: id, finish reason and others.
        meta: metadata of the trace, to which what the message says besides its text is added.

    Raises:
        TraceError: for a message without a completion, or whose answer stands under a name that
            is not known.
    """
    parts = _parts(message.get("content"))
    calls = tool_calls(message)
    if calls:  # the turn continued with a call: its thought is not cut off
        meta = meta | {"tool_calls": calls}
        fields = fields | {"finish_reason": fields["finish_reason"] or "tool_calls"}

    # What the fields of the message hold, and what of them goes to the metadata.
    thinking, reasoning, used = _thinking_beside(message)
    used |= {"role", "content"}
    if message.get("tool_calls") is not None:
        used.add("tool_calls")
    content = message.get("content")
    if content is None and isinstance(message.get("refusal"), str):
        content = message["refusal"]
        used.add("refusal")

    if content:
        thinking = unless_blank(thinking, fields["finish_reason"])
    rest = left_over(message, "message", *used)
    if content is None and thinking and not calls:
        _refuse_lost_answer(message, used)
    meta = meta | rest

    # Parts that mark thinking and answer themselves.
    if parts and _has_blocks(parts):
        if thinking:
            parts, meta = _with_thinking(parts, thinking, meta)
        text_fields, placed = blocks_of(parts)
        text_fields["reasoning"] = _worst([text_fields["reasoning"], reasoning])
        placed = _with_calls(placed, message)
        return Trace(
            prompt=prompt,
            **text_fields,
            **fields,
            meta=meta | placed,
        )

    # Parts of one text.
    if isinstance(content, list):
        content, placed = _one_text(parts)
        meta = meta | _with_calls(placed, message)

    if content is None and not thinking and not calls:
        raise TraceError(
            "the completion is null (the assistant message has neither content nor reasoning)"
        )

    text = content_text(content)
    is_delimited = has_delimiters(text, prompt, fields.get("model", ""))
    if text and thinking and thinking.strip() in text and is_delimited:
        # The server left the thought in the content as well.
        meta = meta | {"thinking": thinking}
        thinking = ""

    # A source with an empty field for the thought reports that there is none, unless the text was
    # cut off: then the server looked for the end of a thought that never came.
    reports = "refusal" in used or any(_is_report(message.get(name)) for name in THINK)
    if fields["finish_reason"] == "length":
        reports = "refusal" in used
    is_one_text = not thinking and reasoning is Reasoning.VERBATIM
    if is_one_text and (is_delimited or not reports):
        return Trace(
            completion=text,
            prompt=prompt,
            **fields,
            meta=meta,
        )

    parts_of_text = fields_of(thinking, text)
    return Trace(
        prompt=prompt,
        **parts_of_text,
        reasoning=reasoning,
        **fields,
        meta=meta,
    )


def _is_report(value: Any) -> bool:
    return isinstance(value, str) and is_thought(value)


_MARKS = ("name", "id", "model", "type", "object", "from", "phase", "provider", "signature")


def _refuse_lost_answer(message: Row, used: set[str]) -> None:
    """Raise TraceError if a message without content has text under names that are not known."""
    names = []
    for key, value in message.items():
        if key not in used and key not in _MARKS and isinstance(value, str) and value.strip():
            names.append(key)

    if names:
        raise TraceError(
            f"the message has thinking and no content, and text under {', '.join(names)}; rename "
            "the field that holds the answer to 'content' (or, if the thought was cut off, give "
            "the message an empty content)"
        )


def _parts(content: Any) -> list[Any]:
    if not isinstance(content, list):
        return []
    return [typed(part) for part in parsed_parts(content)]


# --- calls of tools --------------------------------------------------------------------------
def tool_calls(message: Row) -> list[Row]:
    """The calls of tools in a message, in their field or among its parts.

    A call may be JSON text, as verifiers and tables write it. `function_call` is OpenAI's older
    field, for one call.
    """
    calls = objects(message.get("tool_calls"), "tool_calls")
    call = from_json(message.get("function_call"))
    if not calls and isinstance(call, Mapping):
        calls = [call]
    if calls:
        return calls
    return [part for part in _parts(message.get("content")) if kind_of(part) is Part.CALL]


def _with_calls(placed: dict[str, Any], message: Row) -> dict[str, Any]:
    """The parts found among the blocks, with the calls that the message's field holds."""
    calls = [*placed.get("tool_calls", ()), *objects(message.get("tool_calls"), "tool_calls")]
    return placed | ({"tool_calls": calls} if calls else {})


# --- thinking in a field of its own ----------------------------------------------------------
def _thinking_beside(message: Row) -> tuple[str, Reasoning, set[str]]:
    """Thinking in a separate field, what kind it is, and the fields that add nothing to it.

    The first field that is not empty wins; the same text under two names (vLLM) is one thought. A
    switch under such a name is no thought.
    """
    # Under each name that holds a thought.
    texts = {}
    for name in THINK:
        if name in message and is_thought(message[name]):
            thought = parsed_parts(message[name], is_sure=False)
            texts[name] = content_text(thought)

    thinking = next(filter(None, texts.values()), "")
    used = {name for name, text in texts.items() if text in ("", thinking)}

    details = dicts(entries_of(message.get("reasoning_details")))
    if not details:
        return thinking, Reasoning.VERBATIM, used
    return _with_details(thinking, details, used)


def _with_details(
    thinking: str, details: Sequence[Row], used: set[str]
) -> tuple[str, Reasoning, set[str]]:
    """The same for OpenRouter's `reasoning_details`: texts, summaries and ciphertext."""
    if not thinking:
        thinking = "".join(part.get("text") or part.get("summary") or "" for part in details)

    # The worst kind among the details is that of the whole.
    kinds = {str(part.get("type", "")).removeprefix("reasoning.") for part in details}
    meanings = {
        "summary": Reasoning.SUMMARY,
        "encrypted": Reasoning.REDACTED,
    }
    reasoning = _worst(meanings.get(kind) for kind in kinds)

    is_signed = any(part.get("signature") for part in details)
    if not thinking and is_signed:
        reasoning = Reasoning.REDACTED
    if not is_signed and "encrypted" not in kinds:
        used = used | {"reasoning_details"}
    return thinking, reasoning, used


def _with_thinking(
    parts: list[Any], thinking: str, meta: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Parts and metadata of a message that has thinking in a field too.

    Thinking that no part holds comes first; else the field repeats the parts.
    """
    if any(kind_of(part) is Part.THOUGHT for part in parts):
        return parts, meta | {"thinking": thinking}
    return [{"type": "thinking", "thinking": thinking}, *parts], meta


# --- parts that are one text -----------------------------------------------------------------
def _one_text(parts: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """One text of parts that do not mark what is thinking, and the parts that are not text.

    The latter come with their place in the text.
    """
    text = ""
    placed: dict[str, list[Any]] = {}
    for part in parts:
        if isinstance(part, str):
            text += part
            continue

        # A tool's text is not the model's.
        said = "" if is_tool(part) else part_text(part)
        rest = _beside_text(part) if said else part
        if rest:
            name = "tool_calls" if kind_of(part) is Part.CALL else "other_parts"
            placed.setdefault(name, []).append({"at": len(text), **rest})

        text += said

    return text, placed


def _beside_text(part: Row) -> Row:
    """What a part holds besides its text: citations, log-probs, a cache mark."""
    said = part_text(part)
    rest = {}
    for key, value in part.items():
        is_empty = value in (None, "", [])
        if key != "type" and value != said and not is_empty:
            rest[key] = value

    return (
        {
            "type": part.get("type"),
            **rest,
        }
        if rest
        else {}
    )


def _has_blocks(parts: Sequence[Any]) -> bool:
    """Whether the parts of a message mark thinking, answer and tool calls themselves.

    If not, the parts are one text.
    """
    kinds = {kind_of(part) for part in parts}
    if Part.THOUGHT in kinds:
        return True
    if not kinds & {Part.CALL, Part.RESULT}:
        return False
    return not any(has_delimiters(part_text(part)) for part in dicts(parts))


# --- parts that mark what they are -----------------------------------------------------------
def blocks_of(content: Iterable[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Completion and spans of a message of typed parts, and metadata for what is not text.

    Parts keep their order. Calls and results of tools are in no text: `tool_calls` and
    `other_parts` hold them with `at`, the code point of the completion at which each occurs. The
    answer is the last text: text before a thought, or before a tool that more text follows, is
    commentary.
    """
    text = ""
    think = []
    kinds = [Reasoning.VERBATIM]
    answer_start = 0
    last_tool = 0  # where a tool, or commentary, last stood
    placed: dict[str, list[Any]] = {"tool_calls": [], "other_parts": []}
    for part in content:
        block: Row = {"type": "text", "text": part} if isinstance(part, str) else part
        kind = kind_of(block)
        at = len(text)
        # Each part adds its text, or a place in it.
        if kind is Part.THOUGHT:
            thought, reasoning, rest = _thought(block)
            kinds.append(reasoning)
            text += thought
            if thought:
                think.append(Span(at, len(text)))
                answer_start = len(text)
            else:  # hidden: what was said before it is commentary all the same
                last_tool = at

            if rest:
                placed["other_parts"].append(
                    {
                        "at": at,
                        "type": block.get("type"),
                        **rest,
                    }
                )
        elif kind in (Part.TEXT, Part.COMMENTARY):
            said = part_text(block)
            if said:
                answer_start = max(answer_start, last_tool)
            text += said
            if kind is Part.COMMENTARY:
                last_tool = len(text)
            if rest := _beside_text(block):
                placed["other_parts"].append({"at": at, **rest})
        else:
            name = "tool_calls" if kind is Part.CALL else "other_parts"
            placed[name].append({"at": at, **block})
            if is_tool(block):
                last_tool = at

    fields = {
        "completion": text,
        "origin": Origin.FIELDS,
        "think": tuple(think),
        "answer": Span(answer_start, len(text)),
        "reasoning": _worst(kinds),
    }
    return fields, {name: entries for name, entries in placed.items() if entries}


# A signature or ciphertext: long, and nothing but the letters of Base64.
_CIPHERTEXT = re.compile(r"[A-Za-z0-9+/_-]{80,}={0,2}")
_HIDDEN = ("redacted_thinking", "redacted_reasoning")


def _thought(block: Row) -> tuple[str, Reasoning, dict[str, Any]]:
    """Text of a thinking part, what kind of text it is, and what else the part holds.

    An encrypted thought is not text, whatever field holds it: Inspect puts a signature of
    Anthropic's in `reasoning`. Where there is a summary as well, the summary is the text. A signed
    part without text was left out by the provider.
    """
    kind = str(block.get("type", "")).lower()
    rest = {}
    for key, value in block.items():
        if key != "type" and value not in (None, "", []):
            rest[key] = value

    if kind in SUMMARIES and "summary" not in rest:
        return part_text(block), Reasoning.SUMMARY, dict(_beside_text(block))

    is_hidden = kind in _HIDDEN or bool(block.get("redacted"))
    for name in (*BLOCK_TEXT, "think", "thought", "reasoning_content", kind, "value"):
        if is_hidden or not isinstance(rest.get(name), str | list | dict):
            continue
        if isinstance(rest[name], str) and _is_ciphertext(rest[name], rest):
            is_hidden = True
            break

        said = rest.pop(name)
        rest = {key: value for key, value in rest.items() if value is not True}
        said = parsed_parts(said, is_sure=False)
        return content_text(said), Reasoning.VERBATIM, rest

    # The summary, where there is one; else what the provider left out.
    if isinstance(rest.get("summary"), str | list):
        given = rest.pop("summary")
        summary = content_text(parsed_parts(given, is_sure=False))
        if summary:
            return summary, Reasoning.SUMMARY, rest

    is_hidden = is_hidden or any(
        rest.get(name) for name in ("signature", "encrypted_content", "data")
    )
    return "", Reasoning.REDACTED if is_hidden else Reasoning.VERBATIM, rest


def _is_ciphertext(text: str, part: Row) -> bool:
    return text == part.get("signature") or bool(_CIPHERTEXT.fullmatch(text))


def _worst(kinds: Iterable[Reasoning | None]) -> Reasoning:
    """The kind that says least of the thinking; verbatim where none is given."""
    order = (Reasoning.VERBATIM, Reasoning.SUMMARY, Reasoning.REDACTED)
    known = [kind or Reasoning.VERBATIM for kind in kinds]
    return max(
        known,
        key=order.index,
        default=Reasoning.VERBATIM,
    )
