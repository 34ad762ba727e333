"""A trace as chat messages: the conversation before it, and the message of the assistant."""

from typing import Any

from cotlens.formats.fields import dicts
from cotlens.text.split import has_delimiters
from cotlens.trace import Origin, Reasoning, Span, Trace


def messages_before(trace: Trace) -> list[dict[str, Any]]:
    """The conversation so far: as the source had it, or the user's request, or the prompt."""
    messages = trace.meta.get("prompt_messages")
    if isinstance(messages, list):
        roles = [isinstance(message, dict) and message.get("role") for message in messages]
        if all(isinstance(role, str) for role in roles):
            return messages

    content = trace.meta.get("request")
    if not content or not isinstance(content, str):
        content = trace.prompt
    return [{"role": "user", "content": content}] if content else []


def assistant_message(trace: Trace) -> dict[str, Any]:
    """The assistant's message: one text, or `reasoning_content` and `content`, or typed blocks.

    Tool calls stand next to the content, unless their place in the completion is known: then they
    are blocks.
    """
    message: dict[str, Any] = {"role": "assistant"}
    if trace.origin is Origin.TEXT:
        message["content"] = trace.completion
    elif _has_two_fields(trace):
        stop = trace.think[0].stop
        message["reasoning_content"] = trace.completion[:stop]
        message["content"] = trace.completion[stop:]
    else:
        message["content"] = completion_blocks(trace)

    calls = trace.meta.get("tool_calls")
    if isinstance(calls, list) and not any(_is_placed(call) for call in calls):
        message["tool_calls"] = calls
    return message


def _has_two_fields(trace: Trace) -> bool:
    """Whether the completion is one verbatim thought and then the answer, and nothing else."""
    if len(trace.think) != 1 or trace.reasoning is not Reasoning.VERBATIM:
        return False

    start, stop = trace.think[0]
    rest = Span(stop, len(trace.completion))
    if start != 0 or trace.answer != rest or _placed_parts(trace):
        return False

    # A text with delimiters would be read as one that holds its thought.
    for text in (trace.completion, rest.of(trace.completion)):
        if has_delimiters(text, trace.prompt, trace.model):
            return False
    return True


def _placed_parts(trace: Trace) -> list[dict[str, Any]]:
    """The parts of the message that are not text and whose place is known, in order."""
    placed = []
    for name in ("tool_calls", "other_parts"):
        for part in dicts(trace.meta.get(name)):
            if _is_placed(part):
                placed.append(part)
    return sorted(placed, key=lambda part: part["at"])


def _is_placed(part: Any) -> bool:
    """Whether the place of a part in the completion is known."""
    if not isinstance(part, dict):
        return False
    return isinstance(part.get("at"), int)


def completion_blocks(trace: Trace) -> list[dict[str, Any]]:
    """The completion as typed blocks in order, with tool calls and other parts in their places."""
    # A part that belongs to a thought (its signature, for example) is not a block itself.
    thought_parts = {}
    other_parts = []
    for part in _placed_parts(trace):
        if part.get("type") in ("thinking", "reasoning"):
            thought_parts[part["at"]] = part
        else:
            other_parts.append(part)

    # Cut the completion wherever a thought begins or ends, and wherever a part stands.
    length = len(trace.completion)
    edges = {0, length}
    for span in trace.think:
        edges |= {span.start, span.stop}
    for part in other_parts:
        if 0 <= part["at"] <= length:
            edges.add(part["at"])

    # The stretch after the last edge is empty: only parts at the very end stand there.
    blocks = []
    starts = sorted(edges)
    stops = [*starts[1:], length]
    for start, stop in zip(starts, stops, strict=True):
        for part in other_parts:
            if part["at"] == start:
                blocks.append({key: value for key, value in part.items() if key != "at"})
        if start < stop:
            thought_part = thought_parts.get(start, {})
            blocks.append(_text_block(trace, Span(start, stop), thought_part))

    types = [block.get("type") for block in blocks]
    if trace.reasoning is Reasoning.REDACTED and "redacted_thinking" not in types:
        blocks.insert(0, {"type": "redacted_thinking"})
    return blocks


def _text_block(trace: Trace, span: Span, thought_part: dict[str, Any]) -> dict[str, Any]:
    """A stretch of the completion as a block: text, thinking, or the summary of thinking."""
    text = span.of(trace.completion)
    thought = None
    for think_span in trace.think:
        if think_span.start <= span.start and span.stop <= think_span.stop:
            thought = think_span
            break

    if thought is None:
        return {"type": "text", "text": text}
    if trace.reasoning is Reasoning.SUMMARY:
        summary = {"type": "summary_text", "text": text}
        return {"type": "reasoning", "summary": [summary]}

    # A thought's other fields (its signature) go to its first block.
    block = {"type": "thinking", "thinking": text}
    if span.start == thought.start:
        for key, value in thought_part.items():
            if key not in ("at", "type"):
                block[key] = value
    return block
