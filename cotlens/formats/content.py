"""What stands in a message: its text, its role, and what each of its typed parts is.

A part is a thought, text, a call of a tool, a tool's result, or something without text such as an
image. The types are those of Anthropic, OpenAI, Gemini, Bedrock, Mistral, Kimi, LangChain, the
Vercel AI SDK and Inspect. A part of an unknown type that has text is text; one whose text stands
under an unknown name is refused, because it would be lost.
"""

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from cotlens.formats.fields import THINK, from_json
from cotlens.formats.rows import Row
from cotlens.trace import TraceError, dump_json


class Part(StrEnum):
    """What a part of a message is."""

    THOUGHT = "thought"
    TEXT = "text"
    COMMENTARY = "commentary"  # text before the answer, which the source marks as such
    CALL = "call"
    RESULT = "result"
    OTHER = "other"  # no text: an image, a file, a mark of the provider


# --- text of messages ------------------------------------------------------------------------
BLOCK_TEXT = ("thinking", "reasoning", "text", "content")
_PART_TEXT = (*BLOCK_TEXT, "think", "thought", "reasoning_content", "refusal", "value")


def prompt_text(messages: Sequence[Row]) -> str:
    """The prompt as one text: a single message verbatim, more with their roles.

    The messages stay in the metadata.
    """
    texts = [content_text(message.get("content")) for message in messages]
    if len(messages) <= 1:
        return "".join(texts)

    # Each turn with its role, and a blank line between them.
    turns = []
    for message, text in zip(messages, texts, strict=True):
        role = role_of(message)
        turns.append(f"{role}: {text}")
    return "\n\n".join(turns)


def content_text(content: Any) -> str:
    """The text of a content: itself, that of its parts in their order, or nothing for None.

    Raises:
        TraceError: if the content, or a part of it, is neither text nor an object.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping):
        return part_text(content)
    if not isinstance(content, list):
        raise _bad_content(content)

    content = parsed_parts(content)
    texts = []
    for part in content:
        if not isinstance(part, str | Mapping):
            raise _bad_content(part)
        texts.append(part if isinstance(part, str) else part_text(part))

    return "".join(texts)


def _bad_content(content: Any) -> TraceError:
    got = type(content).__name__
    return TraceError(f"the content of a message must be text or a list of parts, got {got}")


def part_text(part: Row) -> str:
    """The text of a part, under whatever name; ciphertext is no text."""
    if part.get("redacted"):  # ciphertext is where other parts have their text
        return content_text(part.get("summary"))
    kind = str(part.get("type"))
    if kind in ("text", "output_text") and isinstance(part.get("text"), str):
        return part["text"]

    # The first name with a text; else the first with parts that have one.
    for name in (*_PART_TEXT, kind):
        if isinstance(part.get(name), str):
            return part[name]
    for name in ("content", "parts", kind):
        if isinstance(part.get(name), list | dict):
            return content_text(part[name])
    return ""


def role_of(message: Row) -> str:
    """The role in lower case, in OpenAI's words: ShareGPT and Gemini have words of their own."""
    given = message.get("role") or message.get("from") or ""
    role = str(given).lower()
    if role in ("gpt", "model"):
        return "assistant"
    return "user" if role == "human" else role


def without_nulls(message: Row) -> dict[str, Any]:
    """The message without empty fields, and with its content under `content`.

    Parquet gives every message every key: what was absent comes back as None. ShareGPT has the
    content under `value`, Gemini under `parts`.

    Raises:
        TraceError: if it is no object.
    """
    if not isinstance(message, Mapping):
        raise TraceError(
            f"a message must be an object with a role and a content, got "
            f"{type(message).__name__}: {dump_json(message)[:60]}"
        )

    rest = {key: value for key, value in message.items() if value is not None}
    # A content of its own wins.
    for name in ("value", "parts"):
        if name in rest and "content" not in rest:
            rest["content"] = rest.pop(name)

    return rest


def read_message(message: Row) -> dict[str, Any]:
    """The message without empty fields; a content that is JSON text of parts is parsed."""
    rest = without_nulls(message)
    if isinstance(rest.get("content"), str):
        rest["content"] = parsed_parts(rest["content"], is_sure=False)
    return rest


# --- what a part is --------------------------------------------------------------------------
SUMMARIES = ("summary", "summary_text", "reasoning_summary", "thinking_summary")
_THOUGHT_WORDS = """
    thinking reasoning redacted_thinking redacted_reasoning think thought thoughts
    reasoning_content reasoning_text reasoning_details thinking_text thinking_content analysis
    chain_of_thought cot
    """
_THOUGHTS = frozenset(_THOUGHT_WORDS.split()) | frozenset(SUMMARIES)
_MARKS = ("thought", "is_thought", "thinking", "is_thinking", "reasoning", "is_reasoning")
_CALLS = ("tool_use", "tool_call", "toolcall", "tooluse", "tool-call", "function", "function_call")
_CALL_ENDS = ("tool_use", "_call", "-call")
_RESULT_ENDS = ("tool_result", "toolresult", "_output", "-result", "function_response")

# Gemini and Bedrock name the kind by a key where others have a `type`.
_KEYED = {
    "toolUse": "tool_use",
    "toolResult": "tool_result",
    "functionCall": "function_call",
    "function_call": "function_call",
    "functionResponse": "function_response",
    "function_response": "function_response",
    "executableCode": "executable_code_call",
    "executable_code": "executable_code_call",
    "codeExecutionResult": "code_execution_output",
    "code_execution_result": "code_execution_output",
}


def typed(part: Any) -> Any:
    """The part with a `type`, where its keys tell it; a text and a typed part as they are.

    Raises:
        TraceError: if it is neither text nor an object.
    """
    if isinstance(part, str) or (isinstance(part, Mapping) and part.get("type")):
        return part
    if not isinstance(part, Mapping):
        raise _bad_content(part)

    if isinstance(part.get("reasoningContent"), Mapping):
        return _typed_bedrock(part["reasoningContent"])
    for name, kind in _KEYED.items():
        if isinstance(part.get(name), Mapping):
            return {"type": kind, **part[name]}

    # A text, or a thought under a name of thinking.
    if isinstance(part.get("text"), str):
        return {"type": "text", **part}
    thoughts = [part.get(name) for name in (*THINK, "think")]
    if any(isinstance(thought, str) for thought in thoughts):
        return {"type": "thinking", **part}
    return part


def _typed_bedrock(inner: Row) -> Row:
    """Bedrock's `reasoningContent`: a text with its signature, or ciphertext."""
    said = inner.get("reasoningText") or {}
    around = {}
    for key, value in (*said.items(), *inner.items()):
        if key not in ("text", "reasoningText"):
            around[key] = value

    return {
        "type": "thinking",
        "thinking": said.get("text") or "",
        **around,
    }


# --- parts as JSON text ----------------------------------------------------------------------
_SAID = frozenset(("text", "output_text", "input_text", "commentary", "refusal", "summary_text"))
_UNTYPED = frozenset(("text", "thoughtSignature", "thought_signature", *_MARKS))


def parsed_parts(content: Any, *, is_sure: bool = True) -> Any:
    """The content; parts that stand as JSON text are parsed. JSON of anything else is a text.

    Args:
        content: text, or a list.
        is_sure: whether the source says that a list is of parts. If not, one of them at least must
            say that it is a thought or a text.
    """
    entries = content
    if isinstance(content, str):
        is_sure = False
        entries = from_json(content)
    if not isinstance(entries, list) or not entries:
        return content

    # Each of the parts that are text must be one.
    parsed = []
    for entry in entries:
        part = from_json(entry)
        is_text = isinstance(entry, str)
        if (is_text or not is_sure) and not _is_part(part):
            return content
        parsed.append(part)
    if is_sure or any(map(_says_what_it_is, parsed)):
        return parsed
    return content


def _is_part(value: Any) -> bool:
    """Whether an object is a part of a message, by its type or by its keys."""
    if not isinstance(value, dict):
        return False
    kind = str(value.get("type") or "").lower()
    if kind:
        is_tool = kind in _CALLS or kind.endswith((*_CALL_ENDS, *_RESULT_ENDS))
        is_known = kind in _THOUGHTS or kind in _SAID
        return is_tool or is_known or _NO_TEXT.fullmatch(kind) is not None

    # Gemini and Bedrock.
    if any(isinstance(value.get(name), dict) for name in (*_KEYED, "reasoningContent")):
        return True
    return isinstance(value.get("text"), str) and _UNTYPED.issuperset(value)


def _says_what_it_is(part: Row) -> bool:
    """Whether a part is marked as a thought, or as a text that it has."""
    kind = str(part.get("type") or "").lower()
    if kind in _SAID:
        return bool(part_text(part))
    is_marked = any(part.get(mark) is True for mark in _MARKS)
    return kind in _THOUGHTS or is_marked or "reasoningContent" in part


def kind_of(part: Any) -> Part:
    """What a part is. An unknown type that has text is text."""
    if isinstance(part, str):
        return Part.TEXT
    kind = str(part.get("type", "")).lower()
    is_marked = any(part.get(mark) is True for mark in _MARKS)
    if kind in _THOUGHTS or is_marked:
        return Part.THOUGHT

    # Tools: a result has text too, which is not the model's.
    if kind in _CALLS or kind.endswith(_CALL_ENDS) or kind.startswith("tool-"):
        return Part.CALL
    if kind.endswith(_RESULT_ENDS):
        return Part.RESULT

    # Text, whatever the type is called.
    if kind == "commentary":
        return Part.COMMENTARY
    if part_text(part):
        return Part.TEXT
    _refuse_lost_text(part, kind)
    return Part.OTHER


def is_tool(part: Any) -> bool:
    return kind_of(part) in (Part.CALL, Part.RESULT)


# --- what would be lost ----------------------------------------------------------------------
_NO_TEXT = re.compile(
    r"(?:input_|output_)?(?:image|audio|video|file|document|media|binary|blob)\w*"
    r"|inline_?data|file_?data|source[\w-]*|citations?|step[-_]\w+|data-\w+|resource\w*"
    r"|container_\w+|compaction|cache\w*|signature|search_result|encrypted\w*|item_reference"
)
_BOOKKEEPING_WORDS = """
    id type name role status signature url uri media_type mime_type mimetype mediatype format
    title filename file_name file_id cache_control phase lang language state call_id callid
    tool_call_id toolcallid index encrypted_content data detail model provider object created
    timestamp thoughtsignature thought_signature parent_id version source finish_reason
    """
_BOOKKEEPING = frozenset(_BOOKKEEPING_WORDS.split())


def _refuse_lost_text(part: Row, kind: str) -> None:
    """Raise TraceError if a part of an unknown type has text under a name that is not known."""
    if _NO_TEXT.fullmatch(kind):
        return
    for name, value in part.items():
        if not isinstance(value, str) or not value:
            continue
        if name.lower() not in _BOOKKEEPING:
            raise TraceError(
                f"a part of the message has the unknown type {kind or 'none'!r} and holds text "
                f"under {name!r} ({value[:40]!r}); rename its type to 'thinking' or 'text', and "
                "the field to 'text'"
            )
