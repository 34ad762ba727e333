"""The record everything else reads: one assistant turn of a reasoning model, lossless.

First room of the flow: `read` makes traces, `split` and `steps` cut them, `table` turns them into rows.
This module imports nothing of cotlens.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

from cotlens.display import facts_html


class TraceError(ValueError):
    """One trace, row or file is at fault. The message names it and says what was got and what to do."""


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
    """What the source says of one stretch of the completion (a human or LLM annotation)."""

    start: int
    stop: int
    label: str


class Origin(StrEnum):
    """Where the border between thinking and answer comes from."""

    TEXT = "text"  # one string: `split` decides
    FIELDS = "fields"  # the source had separate fields: verbatim, never split again


class Reasoning(StrEnum):
    """What the thinking text is. Only verbatim thinking enters dynamics."""

    VERBATIM = "verbatim"
    SUMMARY = "summary"  # a provider's summary of hidden thinking
    REDACTED = "redacted"  # encrypted or removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One assistant turn; earlier turns are its prompt.

    `completion` is what the model produced, never stripped or rejoined. Where the source kept thinking and
    answer in separate fields, `completion` is the two joined with nothing between and `think` and `answer`
    say where they lie. All character offsets are half-open spans of code points into `completion`.

    Empty string, None and -1 all mean "the source does not say", as each field's type allows.
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
    logprobs: tuple[float, ...] | None = None  # one a token, nats, NaN where unknown
    token_starts: tuple[int, ...] | None = (
        None  # one a token: code point of the completion at which it begins
    )
    origin: Origin = Origin.TEXT
    reasoning: Reasoning = Reasoning.VERBATIM
    think: tuple[Span, ...] = ()  # only where origin is fields
    answer: Span | None = None  # only where origin is fields
    labels: tuple[Label, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON values only

    def __post_init__(self) -> None:
        for name in _TEXTS:
            self._check_text(name, getattr(self, name))
        for name in ("sample", "training_step"):
            _check_whole(self.id, name, getattr(self, name))
        if not self.id:
            raise TraceError("a trace needs a non-empty id")
        self._check_spans()
        self._check_tokens()
        if not self.prompt_id:
            object.__setattr__(
                self, "prompt_id", hash_text(self.prompt) if self.prompt else self.id
            )

    def _repr_html_(self) -> str:
        """What a notebook shows: the facts, and the texts as far as they fit, escaped. `split_trace` parts them."""
        facts = {
            name: getattr(self, name)
            for name in ("id", *_FACTS)
            if getattr(self, name) not in ("", None, -1)
        }
        facts["tokens"] = "unknown" if self.token_ids is None else f"{len(self.token_ids):,}"
        return facts_html(facts, {"prompt": self.prompt, "completion": self.completion})

    def show(self, scores: Any = None) -> Any:
        """The trace as a page to read it in, `cotlens.view.show`: the last line of a notebook's cell shows it.

        Args:
            scores: what `score_tokens` returned for it, if anything.
        """
        import cotlens  # the viewer stands at the other end of the flow; its name is looked up when it is asked for

        return cotlens.show(self, scores)

    def _check_text(self, name: str, value: Any) -> None:
        if not isinstance(value, str):
            raise TraceError(f"trace {self.id!r}: {name} must be text, got {type(value).__name__}")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise TraceError(
                f"trace {self.id!r}: {name} has the lone surrogate U+{ord(value[error.start]):04X} at character "
                f"{error.start}, which no UTF-8 file can hold; write the source again without it"
            ) from None

    def _check_spans(self) -> None:
        spans = [*self.think, *([self.answer] if self.answer else [])]
        if spans and self.origin is Origin.TEXT:
            raise TraceError(
                f"trace {self.id!r}: spans of thinking or answer need origin=Origin.FIELDS"
            )
        position = 0
        for start, stop in spans:
            if not position <= start <= stop <= len(self.completion):
                raise TraceError(
                    f"trace {self.id!r}: span {start}:{stop} does not lie in order within the completion "
                    f"of {len(self.completion)} characters"
                )
            position = stop
        for start, stop, label in self.labels:
            self._check_text("a label", label)
            if not 0 <= start <= stop <= len(self.completion):
                raise TraceError(
                    f"trace {self.id!r}: label {label!r} at {start}:{stop} lies outside the completion "
                    f"of {len(self.completion)} characters"
                )

    def _check_tokens(self) -> None:
        lengths = {
            name: len(values)
            for name in ("token_ids", "logprobs", "token_starts")
            if (values := getattr(self, name)) is not None
        }
        if len(set(lengths.values())) > 1:
            got = ", ".join(f"{n} {name}" for name, n in lengths.items())
            raise TraceError(f"trace {self.id!r}: {got}; they must be parallel")
        for name in ("prompt_token_ids", "token_ids", "token_starts"):
            for value in getattr(self, name) or ():
                _check_whole(self.id, name, value)
        starts = self.token_starts or ()
        if any(b < a for a, b in pairwise((0, *starts, len(self.completion)))):
            raise TraceError(
                f"trace {self.id!r}: token_starts must rise from 0 to the completion's end"
            )


_TEXTS = (
    "id", "completion", "prompt", "prompt_id", "model", "method", "domain", "split", "finish_reason", "gold",
)  # fmt: skip
_FACTS = (
    "model",
    "method",
    "training_step",
    "domain",
    "split",
    "sample",
    "finish_reason",
    "reward",
    "gold",
    "reasoning",
)


def _check_whole(trace_id: str, name: str, value: Any) -> None:
    """Whole numbers go to disk in 32 bits."""
    if type(value) is not int or not -1 <= value < 2**31:
        raise TraceError(
            f"trace {trace_id!r}: {name} must be a whole number below 2^31, got {value!r}"
        )


def hash_text(text: str) -> str:
    """16 hex digits of SHA-256: the same prompt has the same id in every file and every run."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def dump_json(value: Any) -> str:
    """JSON text of free metadata, with non-ASCII kept and values JSON does not know turned into text."""
    return json.dumps(value, ensure_ascii=False, default=str)
