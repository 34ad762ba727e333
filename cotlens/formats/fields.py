"""What rows of every format have in common: the names of their fields, ids, gold answers."""

import json
import math
import re
from typing import Any

from cotlens.formats.finish import NAMES as FINISH
from cotlens.formats.finish import changed_finish, read_finish
from cotlens.formats.rows import Row
from cotlens.trace import Origin, Span, TraceError, dump_json

# --- names -----------------------------------------------------------------------------------
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
# The last is the variable of Qwen3's quick start.
THINK = ("thinking", "reasoning_content", "reasoning", "thought", "thinking_content")
_GOLD = ("gold", "gold_answer", "ground_truth", "correct_answer", "reference_answer", "target")
_STEP = ("step", "global_step", "gen_step")  # next to a completion: the trainer's

# A setting of the request under a name of thinking: on, off, an effort or a mode.
_SWITCH_WORDS = """
    on off true false yes no enabled disabled enable disable active inactive auto automatic
    adaptive dynamic default none null nil n/a minimal min low lower medium mid high higher xhigh
    x-high extra_high extra-high very_high max maximum maximal ultra think no_think nothink
    no-think /think /no_think thinking non-thinking non_thinking nonthinking hybrid interleaved
    extended standard deep fast light heavy detailed concise verbose summary summarized omitted
    preserved required optional unset unknown supported unsupported
    """
_SWITCHES = frozenset(_SWITCH_WORDS.split())
_BUDGET = re.compile(r"[-+]?\d[\d.,_]{0,20}\s?(?:k|tokens?)?")


def is_thought(value: Any) -> bool:
    """Whether the value of a field of thinking is thinking: text, or parts of text.

    A bare word such as `on` or `high`, a number (also as text), True or `{"effort": "high"}` is a
    setting.
    """
    if isinstance(value, str):
        word = value.strip().lower()
        return word not in _SWITCHES and not _BUDGET.fullmatch(word)

    # An object is a thought if it has a text, a list unless all of it is settings.
    if isinstance(value, dict):
        texts = [value.get(name) for name in (*THINK, "text", "content")]
        return any(isinstance(text, str) for text in texts)
    if isinstance(value, list):
        settings = [part for part in value if isinstance(part, str) and not is_thought(part)]
        return not value or len(settings) < len(value)
    return False


def unless_blank(thinking: str, finish_reason: str) -> str:
    """The thinking, but nothing for white space beside a text that was cut off.

    A server that waits for the end of a thought has such a field until it comes.
    """
    if finish_reason == "length" and not thinking.strip():
        return ""
    return thinking


# --- taking fields ---------------------------------------------------------------------------
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
        return text_or_empty(value)

    def ids(self, *names: str) -> tuple[int, ...] | None:
        return optional_ids(self.take(*names))

    def thinking(self) -> Any:
        """The first field of thinking that holds a thought; settings stay metadata."""
        for name in THINK:
            value = self.rest.get(name)
            if value is not None and value == value and is_thought(value):
                return self.rest.pop(name)

        return None


def common_fields(taker: Taker, name: str) -> dict[str, Any]:
    """Fields that every format may carry under the same names.

    A finish reason in words of its own is replaced by the word that it means, and stays in the
    metadata. Log-probs that are not a list of numbers stay there too, for `tokens.logprobs_of_row`.
    """
    row_id = taker.take("id", "trace_id", "uid")
    if isinstance(row_id, list | dict | bytes | bool):
        raise TraceError(f"an id must be text or a number, got {type(row_id).__name__}")
    if row_id is None:
        row_id = name

    # Each under the names that people give it.
    reward = taker.take("reward")
    sample = taker.take("sample", "sample_index", "sample_idx")
    return {
        "id": str(row_id),
        "training_step": _take_step(taker),
        "prompt_id": taker.text("prompt_id"),
        "model": taker.text("model", "model_name", "model_id"),
        "method": taker.text("method"),
        "domain": taker.text("domain", "dataset", "task"),
        "split": taker.text("split"),
        "sample": _whole(sample, 0),
        "reward": finite_or_none(reward, "reward"),
        "gold": taker.text(*_GOLD),
        "prompt_token_ids": taker.ids("prompt_token_ids"),
        "token_ids": taker.ids("token_ids", "completion_token_ids", "completion_ids"),
        "logprobs": _take_numbers(taker, "logprobs"),
        "token_starts": taker.ids("token_starts"),
        "finish_reason": take_finish(taker),
    }


def take_finish(taker: Taker) -> str:
    """The finish reason under any of its names; another spelling stays in the metadata."""
    given = taker.take(*FINISH)
    taker.rest |= changed_finish(given)
    if given is None and taker.rest.get("is_truncated") is True:  # verifiers before 0.4
        return "length"
    return read_finish(given)


def _take_step(taker: Taker) -> int:
    """The number of updates before this text; a trainer's `step` where nothing else says it."""
    given = taker.take("training_step")
    if given is not None:
        return _whole(given, -1)
    for name in _STEP:
        value = taker.rest.get(name)
        # ms-swift writes it as text; a name of a phase is no step.
        if isinstance(value, str) and value.isdecimal():
            value = int(value)
        value = _whole(value, -1)
        if type(value) is int and value >= 0:
            taker.rest.pop(name)
            return value

    return -1


def _take_numbers(taker: Taker, name: str) -> tuple[float, ...] | None:
    """A list of numbers, with NaN for null; a value of another shape is left where it is."""
    values = taker.take(name)
    if values is None:
        return None
    if not isinstance(values, list | tuple | dict):
        raise TraceError(f"{name} must be a list of numbers, got {type(values).__name__}")

    # Objects with a token each, or a list for each sample.
    is_nested = any(isinstance(value, dict | list) for value in values)
    if isinstance(values, dict) or is_nested:
        taker.rest[name] = values
        return None

    numbers = []
    for value in values:
        number = number_or_none(value, name)
        numbers.append(math.nan if number is None else number)
    return tuple(numbers)


def number_or_none(value: Any, name: str) -> float | None:
    """The value as a number; None stays None.

    Raises:
        TraceError: names the field, if it holds something else.
    """
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        got = dump_json(value)[:60]
        raise TraceError(f"{name} must be a number, got {got}") from None


def finite_or_none(value: Any, name: str) -> float | None:
    """A reward or a score as a number; None stays None, and NaN, a gap in a table, becomes None.

    Raises:
        TraceError: names the field, if it holds something else or is infinite.
    """
    number = number_or_none(value, name)
    if number is None or math.isnan(number):
        return None
    if math.isinf(number):
        raise TraceError(f"{name} must be a finite number, got {number}; leave it out if unknown")
    return number


def _whole(value: Any, unknown: int) -> Any:
    """The value as a whole number, which a table with gaps may have turned into a float.

    A gap gives `unknown`.
    """
    if value is None:
        return unknown
    if not isinstance(value, float):
        return value
    if math.isnan(value):
        return unknown
    return int(value) if value.is_integer() else value


# --- values ----------------------------------------------------------------------------------
def fields_of(thinking: str, answer: str) -> dict[str, Any]:
    """Completion and spans of a source that has thinking and answer in separate fields."""
    completion = thinking + answer
    cut = len(thinking)
    end = len(completion)
    return {
        "completion": completion,
        "origin": Origin.FIELDS,
        "think": (Span(0, cut),) if thinking else (),
        "answer": Span(cut, end),
    }


def dicts(content: Any) -> list[Row]:
    """The objects of a list; nothing for another value."""
    if not isinstance(content, list):
        return []
    return [part for part in content if isinstance(part, dict)]


def from_json(value: Any) -> Any:
    """The object or list that a text spells in JSON; any other value as it is."""
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def entries_of(value: Any) -> list[Any]:
    """The entries of a list that may hold JSON text, or be such a text; none of another value."""
    entries = from_json(value)
    if not isinstance(entries, list):
        return []
    return [from_json(entry) for entry in entries]


def objects(value: Any, name: str) -> list[Row]:
    """The objects of a list that may hold them as JSON text, or be such a text itself.

    Raises:
        TraceError: names the field, if an entry is no object.
    """
    value = from_json(value)
    if value is None:
        return []
    if not isinstance(value, list):
        raise TraceError(f"{name} must be a list of objects, got {type(value).__name__}")

    # Tables and some tools write each object as text.
    entries = [from_json(entry) for entry in value]
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise TraceError(
                f"{name}[{number}] must be an object or its JSON text, got "
                f"{type(entry).__name__}: {dump_json(entry)[:60]}"
            )

    return entries


def left_over(part: Row, name: str, *used: str) -> dict[str, Any]:
    """The unused fields of a part of the row, for the metadata."""
    rest = {}
    for key, value in part.items():
        if key not in used and value is not None:
            rest[key] = value
    return {name: rest} if rest else {}


def text_or_empty(value: Any) -> str:
    """The text, nothing for None, and JSON text for any other value."""
    if value is None:
        return ""
    return value if isinstance(value, str) else dump_json(value)


def optional_ids(values: Any) -> tuple[int, ...] | None:
    """Token ids as a tuple; None where there are none."""
    if values is not None and not isinstance(values, list):
        raise TraceError(f"token ids must be a list of whole numbers, got {type(values).__name__}")
    return None if values is None else tuple(values)
