"""What rows of every format have in common: ids, prompts, gold answers, token ids."""

import math
from collections.abc import Sequence
from typing import Any

from cotlens.formats.rows import Row
from cotlens.trace import Origin, Span, TraceError, dump_json

# --- plain rows ------------------------------------------------------------------------------
PROMPT = ("prompt", "question", "problem", "instruction", "input", "query")
TEXT = (
    "completion",
    "response",
    "raw",
    "output",
    "generation",
    "generated_text",
    "text",
    "content",
)
THINK = ("thinking", "reasoning_content", "reasoning", "thought")
_GOLD = ("gold", "gold_answer", "ground_truth", "correct_answer", "reference_answer", "target")


class Taker:
    """Takes fields from a row by any of their names; fields that nobody took are metadata."""

    def __init__(self, row: Row) -> None:
        self.rest = dict(row)

    def take(self, *names: str) -> Any:
        for name in names:
            value = self.rest.get(name)
            if value is not None and value == value:  # a table with gaps has NaN in them
                return self.rest.pop(name)
        return None

    def text(self, *names: str) -> str:
        value = self.take(*names)
        if isinstance(value, bytes):
            raise TraceError(f"{names[0]} must be text, got bytes")
        return "" if value is None else value if isinstance(value, str) else dump_json(value)

    def ids(self, *names: str) -> tuple[int, ...] | None:
        return optional_ids(self.take(*names))


def common_fields(taker: Taker, name: str) -> dict[str, Any]:
    """Fields that every format may carry under the same names."""
    row_id = taker.take("id", "trace_id", "uid")
    reward, step = taker.take("reward"), taker.take("training_step")
    if isinstance(row_id, list | dict | bytes | bool):
        raise TraceError(f"an id must be text or a number, got {type(row_id).__name__}")
    sample = taker.take("sample", "sample_index", "sample_idx")
    logprobs = taker.take("logprobs")
    if logprobs is not None and not isinstance(logprobs, list | tuple):
        raise TraceError(f"logprobs must be a list of numbers, got {type(logprobs).__name__}")
    return {
        "id": name if row_id is None else str(row_id),
        "prompt_id": taker.text("prompt_id"),
        "model": taker.text("model", "model_name"),
        "method": taker.text("method"),
        "training_step": _whole(step, -1),
        "domain": taker.text("domain", "dataset", "task"),
        "split": taker.text("split"),
        "sample": _whole(sample, 0),
        "finish_reason": taker.text("finish_reason", "stop_reason"),
        "reward": None if reward is None else float(reward),
        "gold": taker.text(*_GOLD),
        "prompt_token_ids": taker.ids("prompt_token_ids"),
        "token_ids": taker.ids("token_ids", "completion_token_ids", "completion_ids"),
        "logprobs": None
        if logprobs is None
        else tuple(float("nan") if v is None else float(v) for v in logprobs),
        "token_starts": taker.ids("token_starts"),
    }


def _whole(value: Any, unknown: int) -> Any:
    """The value as a whole number, which a table with gaps may have turned into a float.

    A gap gives `unknown`.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return unknown
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fields_of(thinking: str, answer: str) -> dict[str, Any]:
    """Completion and spans of a source that has thinking and answer in separate fields."""
    cut, end = len(thinking), len(thinking) + len(answer)
    return {
        "completion": thinking + answer,
        "origin": Origin.FIELDS,
        "think": (Span(0, cut),) if thinking else (),
        "answer": Span(cut, end),
    }


BLOCK_TEXT = ("thinking", "reasoning", "text", "content")


def dicts(content: Any) -> list[Row]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def prompt_text(messages: Sequence[Row]) -> str:
    """The prompt as one text: a single message verbatim, more with their roles.

    The messages stay in the metadata.
    """
    texts = [content_text(message.get("content")) for message in messages]
    if len(messages) <= 1:
        return "".join(texts)
    return "\n\n".join(
        f"{role_of(message)}: {text}" for message, text in zip(messages, texts, strict=True)
    )


def content_text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else part_text(part) for part in content)
    if not isinstance(content, str | None):
        raise TraceError(
            "the content of a message must be text or a list of parts, got "
            f"{type(content).__name__}"
        )
    return content or ""


def part_text(part: Row) -> str:
    if part.get("redacted"):  # ciphertext is where other parts have their text
        return content_text(part.get("summary"))
    return next(
        (part[key] for key in (*BLOCK_TEXT, "refusal") if isinstance(part.get(key), str)), ""
    )


def role_of(message: Row) -> str:
    role = str(message.get("role") or message.get("from") or "").lower()
    return {"gpt": "assistant", "model": "assistant", "human": "user"}.get(role, role)


def without_nulls(message: Row) -> dict[str, Any]:
    """Parquet gives every message every key; what was absent comes back as None."""
    kept = {key: value for key, value in message.items() if value is not None}
    return kept | (
        {"content": kept.pop("value")} if "value" in kept and "content" not in kept else {}
    )


def left_over(part: Row, name: str, *used: str) -> dict[str, Any]:
    """The unused fields of a part of the row, for the metadata."""
    rest = {key: value for key, value in part.items() if key not in used and value is not None}
    return {name: rest} if rest else {}


def text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else dump_json(value)


def optional_ids(values: Any) -> tuple[int, ...] | None:
    if values is not None and not isinstance(values, list):
        raise TraceError(f"token ids must be a list of whole numbers, got {type(values).__name__}")
    return None if values is None else tuple(values)
