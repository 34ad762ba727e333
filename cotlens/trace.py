"""Trace: one assistant turn of a reasoning model, stored without loss. Everything else reads it."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

from cotlens.display import facts_html


class TraceError(ValueError):
    """A trace, row or file is at fault. The message names it, what was got, and what to do."""


class Span(NamedTuple):
    """A half-open range. The field that holds it names the unit (code points, tokens or steps)."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of units inside (`len(span)` is 2, as for any pair)."""
        return self.stop - self.start

    def of(self, text: str) -> str:
        """The part of `text` inside the span."""
        return text[self.start : self.stop]


class Label(NamedTuple):
    """A label that the source gives a stretch of the completion (a human or LLM annotation)."""

    start: int
    stop: int
    label: str


class Origin(StrEnum):
    """Where the border between thinking and answer comes from."""

    TEXT = "text"  # one string: `split_trace` finds the border
    FIELDS = "fields"  # the source had separate fields: taken verbatim, never split again


class Reasoning(StrEnum):
    """What the thinking text is. Only verbatim thinking enters dynamics."""

    VERBATIM = "verbatim"
    SUMMARY = "summary"  # a provider's summary of hidden thinking
    REDACTED = "redacted"  # encrypted or removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One assistant turn; earlier turns are its prompt.

    `completion` is what the model produced, never stripped or rejoined. Where the source kept
    thinking and answer in separate fields, `completion` joins the two with nothing between them,
    and `think` and `answer` give their places. All character offsets are half-open spans of code
    points into `completion`.

    An empty string, None or -1 means that the source does not say, as each field's type allows.

    Raises:
        TraceError: if the id is empty, a text is not a string or holds a lone surrogate, a number
            is out of range, a span or label lies outside the completion, or the lists per token are
            not parallel.
    """

    id: str
    completion: str
    prompt: str = ""
    prompt_id: str = ""  # the cluster of every statistic; default: a hash of the prompt, or the id
    model: str = ""
    method: str = ""  # which checkpoint or training arm
    training_step: int = -1
    domain: str = ""
    split: str = ""  # of the experiment: seen, new wrapper, new topic, ...
    sample: int = 0  # number of this sample among those of the same prompt
    finish_reason: str = ""
    reward: float | None = None
    gold: str = ""
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None  # of the completion
    logprobs: tuple[float, ...] | None = None  # one per token, nats, NaN where unknown
    token_starts: tuple[int, ...] | None = None  # one per token: the code point where it begins
    origin: Origin = Origin.TEXT
    reasoning: Reasoning = Reasoning.VERBATIM
    think: tuple[Span, ...] = ()  # only where origin is fields
    answer: Span | None = None  # only where origin is fields
    labels: tuple[Label, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON values only

    def __post_init__(self) -> None:
        for name in _TEXT_FIELDS:
            self._check_text(name, getattr(self, name))
        for name in ("sample", "training_step"):
            _check_whole(self.id, name, getattr(self, name))

        if not self.id:
            raise TraceError("a trace needs a non-empty id")
        self._check_reward()
        self._check_spans()
        self._check_labels()
        self._check_tokens()

        # Traces of one prompt share a cluster; a trace without a prompt is its own.
        if not self.prompt_id:
            default = hash_text(self.prompt) if self.prompt else self.id
            object.__setattr__(self, "prompt_id", default)

    def _check_text(self, name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise TraceError(f"trace {self.id!r}: {name} must be text, got {type(value).__name__}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code_point = f"U+{ord(value[error.start]):04X}"
            raise TraceError(
                f"trace {self.id!r}: {name} has the lone surrogate {code_point} at character "
                f"{error.start}, which no UTF-8 file can hold; write the source again without it"
            ) from None

    def _check_reward(self) -> None:
        """Check that a reward is a number that JSON can hold."""
        if self.reward is not None and not math.isfinite(self.reward):
            raise TraceError(
                f"trace {self.id!r}: reward must be a finite number, or None where it is unknown, "
                f"got {self.reward}"
            )

    def _check_spans(self) -> None:
        """Check that thoughts and answer lie in order within a completion of separate fields."""
        spans = list(self.think)
        if self.answer:
            spans.append(self.answer)
        if spans and self.origin is Origin.TEXT:
            raise TraceError(
                f"trace {self.id!r}: spans of thinking or answer need origin=Origin.FIELDS"
            )

        # Each span begins at or after the end of the one before.
        n_chars = len(self.completion)
        previous_stop = 0
        for start, stop in spans:
            if not previous_stop <= start <= stop <= n_chars:
                raise TraceError(
                    f"trace {self.id!r}: span {start}:{stop} does not lie in order within the "
                    f"completion of {n_chars} characters"
                )
            previous_stop = stop

    def _check_labels(self) -> None:
        """Check that labels lie within the completion; they may overlap."""
        n_chars = len(self.completion)
        for start, stop, label in self.labels:
            self._check_text("a label", label)
            if not 0 <= start <= stop <= n_chars:
                raise TraceError(
                    f"trace {self.id!r}: label {label!r} at {start}:{stop} lies outside the "
                    f"completion of {n_chars} characters"
                )

    def _check_tokens(self) -> None:
        """Check that lists per token are parallel, ids fit in 32 bits, and starts rise."""
        lengths = {}
        for name in ("token_ids", "logprobs", "token_starts"):
            values = getattr(self, name)
            if values is not None:
                lengths[name] = len(values)
        # One entry per token in each list that is known.
        if len(set(lengths.values())) > 1:
            got = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise TraceError(f"trace {self.id!r}: {got}; they must be parallel")

        # The tables hold them in 32 bits.
        for name in ("prompt_token_ids", "token_ids", "token_starts"):
            for value in getattr(self, name) or ():
                _check_whole(self.id, name, value)

        bounds = (0, *(self.token_starts or ()), len(self.completion))
        if any(later < earlier for earlier, later in pairwise(bounds)):
            raise TraceError(
                f"trace {self.id!r}: token_starts must rise from 0 to the completion's end"
            )

    def _repr_html_(self) -> str:
        """The known facts and the beginning of both texts, escaped, for a notebook."""
        facts: dict[str, Any] = {}
        for name in _FACTS:
            value = getattr(self, name)
            if value not in ("", None, -1):  # the source does say
                facts[name] = value

        facts["tokens"] = "unknown" if self.token_ids is None else f"{len(self.token_ids):,}"
        return facts_html(facts, {"prompt": self.prompt, "completion": self.completion})


_TEXT_FIELDS = (
    "id", "completion", "prompt", "prompt_id", "model", "method", "domain", "split",
    "finish_reason", "gold",
)  # fmt: skip
_FACTS = (
    "id", "model", "method", "training_step", "domain", "split", "sample", "finish_reason",
    "reward", "gold", "reasoning",
)  # fmt: skip


def _check_whole(trace_id: str, name: str, value: Any) -> None:
    """Raise TraceError unless the value is a whole number, from -1 to what fits on disk."""
    if type(value) is not int or not -1 <= value < 2**31:
        raise TraceError(
            f"trace {trace_id!r}: {name} must be a whole number below 2^31, got {value!r}"
        )


def hash_text(text: str) -> str:
    """16 hex digits of the text's SHA-256: a prompt has the same id in every file and run."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def dump_json(value: Any) -> str:
    """JSON text of free metadata: non-ASCII is kept, and values that JSON lacks become strings.

    NaN, which stands for an unknown number, becomes null.

    >>> dump_json({"a": float("nan"), "b": float("-inf")})
    '{"a": null, "b": "-Infinity"}'
    """
    try:
        return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:
        # Python would write words that no other reader of JSON knows.
        return json.dumps(_with_finite_numbers(value), ensure_ascii=False, default=str)


def _with_finite_numbers(value: Any) -> Any:
    """The value, with null for NaN and text for infinity, at any depth."""
    if isinstance(value, Mapping):
        pairs = value.items()
        return {_with_finite_numbers(key): _with_finite_numbers(item) for key, item in pairs}
    if isinstance(value, list | tuple):
        return [_with_finite_numbers(item) for item in value]

    if not isinstance(value, float) or math.isfinite(value):
        return value
    if math.isnan(value):
        return None
    return "Infinity" if value > 0 else "-Infinity"
