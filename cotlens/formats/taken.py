"""Prompt and completion of a plain row: text, messages, parts, or the JSON text of any of these."""

from typing import Any

from cotlens.formats.content import parsed_parts, role_of
from cotlens.formats.fields import PROMPT, TEXT, THINK, Taker, from_json
from cotlens.trace import TraceError, dump_json

_OF_MESSAGE = ("content", "parts", "tool_calls", *THINK)


def take_prompt(taker: Taker) -> Any:
    """The prompt; an instruction and its input (Alpaca) are joined by a blank line."""
    if taker.rest.get("instruction") and taker.rest.get("input") and not taker.rest.get("prompt"):
        return taker.text("instruction") + "\n\n" + taker.text("input")

    # A message, a list of them, or a text in a list.
    prompt = _messages_of(taker.take(*PROMPT))
    if isinstance(prompt, dict) and "content" in prompt:
        return [prompt]
    if isinstance(prompt, list):
        is_one_text = len(prompt) == 1 and isinstance(prompt[0], str)
        return prompt[0] if is_one_text else prompt

    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    return dump_json(prompt)


def take_text(taker: Taker) -> Any:
    """The completion: text, a list, or a message as a list of one."""
    given = taker.take(*TEXT)
    text = parsed_text(given)
    if text is None and isinstance(from_json(taker.rest.get("message")), dict):  # Ollama
        text = from_json(taker.rest.pop("message"))
    if not isinstance(text, dict):
        return text

    # A message, or an object with a text under a name that rows have too.
    if any(name in text for name in _OF_MESSAGE):
        return [{"role": "assistant", **text}]
    inner = [name for name in TEXT if isinstance(text.get(name), str)]
    if inner:
        return [
            {
                "role": "assistant",
                "content": text[inner[0]],
            }
        ]

    raise TraceError(
        f"the completion must be text or a message with a content, got an object with the fields "
        f"{', '.join(map(str, text)) or 'none'}"
    )


def parsed_text(value: Any) -> Any:
    """A completion; JSON text of an assistant's message, of messages or of parts is parsed.

    Any other JSON is what the model wrote.
    """
    parsed = message_of(_messages_of(value))
    if isinstance(value, str) and isinstance(parsed, dict):
        return message_of(value)

    # Parts, of which one at least says what it is: a list of JSON texts may be several samples.
    if parsed is value:
        return parsed_parts(value, is_sure=False)
    return parsed


def message_of(value: Any) -> Any:
    """The value; JSON text of an assistant's message is parsed."""
    if not isinstance(value, str):
        return value
    message = from_json(value)
    if not isinstance(message, dict) or "content" not in message:
        return value

    # Without a role, what a server alone writes tells.
    role = role_of(message)
    is_message = role == "assistant" or (not role and "reasoning_content" in message)
    return message if is_message else value


def _messages_of(value: Any) -> Any:
    """The value; messages that stand as JSON text are parsed, a completion that is JSON is not."""
    # All of it is one text of JSON, or each message is.
    if isinstance(value, str):
        parsed = from_json(value) if '"role"' in value[:2000] else value
        if isinstance(parsed, dict):
            return parsed if _is_whole_message(parsed) else value
        is_chat = isinstance(parsed, list) and bool(parsed) and all(map(_is_message, parsed))
        return parsed if is_chat else value

    if isinstance(value, list):
        parsed = [from_json(part) for part in value]
        is_chat = any(isinstance(part, str) for part in value) and all(map(_is_message, parsed))
        return parsed if is_chat else value

    return value


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and len(value) > 1


def _is_whole_message(value: dict[str, Any]) -> bool:
    """Whether an object has a role, and what a message has."""
    if not isinstance(value.get("role"), str):
        return False
    return any(name in value for name in _OF_MESSAGE)
