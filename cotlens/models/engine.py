"""What writes completions, and what it is asked for: transformers, vLLM and endpoints alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from cotlens.formats.prompts import Prompt
from cotlens.trace import Trace, TraceError, hash_text


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        n: samples per prompt.
        temperature: the logits are divided by it; 0 is greedy.
        top_p: keep the likeliest words that hold this much probability.
        top_k: keep this many of the likeliest words; 0 keeps all.
        max_new_tokens: longest completion.
        seed: of all random numbers; None only for an engine that promises none.
        banned_ids: token ids that are never drawn.
    """

    n: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int | None
    banned_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("top_k", 0), ("max_new_tokens", 1)):
            value = getattr(self, name)
            if value < least:
                raise TraceError(f"{name} must be {least} or more, got {value}")

        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise TraceError(
                "expected a temperature from 0 and a top_p above 0, up to 1; "
                f"got {self.temperature:g} and {self.top_p:g}"
            )
        if self.temperature == 0 and self.n > 1:
            raise TraceError(
                f"at temperature 0 the {self.n} samples of a prompt would be the same; "
                "ask for n = 1"
            )

    def describe(self) -> dict[str, Any]:
        """The settings, as JSON."""
        return vars(self) | {"banned_ids": list(self.banned_ids)}

    def seed_of(self, prompt: Prompt) -> int:
        """Seed of the prompt's first sample. Each further sample has one more, as vLLM counts."""
        digest = hash_text(f"{self.seed}\0{prompt.id}")
        return int(digest[:15], 16)


class Job(NamedTuple):
    """One completion to write.

    Attributes:
        prompt: the request.
        text: the prompt as the model reads it.
        ids: token ids of prompt and prefix; empty for an engine that reads messages.
        sample: number of the sample among those of its prompt.
        prefix: beginning of the completion, which the model carries on.
    """

    prompt: Prompt
    text: str
    ids: Sequence[int]
    sample: int = 0
    prefix: str = ""


class Written(NamedTuple):
    """What an engine wrote for a job.

    Attributes:
        ids: the token ids after the prefix, up to and with the end token; None where the engine
            returns text only.
        trace: what the engine returned in place of ids, as read from its reply.
    """

    ids: Sequence[int] | None
    trace: Trace | None = None


class Engine(Protocol):
    """What writes completions.

    Attributes:
        name: of the model.
        tokenizer: the model's; None for an engine that reads messages.
        end_ids: token ids that end a completion.
        context: the longest sequence the model was made for, in tokens.
    """

    name: str
    tokenizer: Any
    end_ids: list[int]
    context: int

    def describe(self) -> dict[str, Any]:
        """Model, versions and settings that decide the completions, as JSON."""
        ...

    def check(self, sampling: Sampling, prefixes: Sequence[str]) -> None:
        """Raise TraceError, in one line, for a request that the engine cannot meet."""
        ...

    def write(self, jobs: Sequence[Job], sampling: Sampling) -> Iterator[tuple[Job, Written]]:
        """The completions of all jobs, in any order."""
        ...


def find_end_ids(*sources: Any) -> list[int]:
    """The end tokens of a tokenizer and of configurations, which need not agree."""
    # A source names one end token, several, or none.
    ends = set()
    for source in sources:
        source_ends = getattr(source, "eos_token_id", None)
        if not isinstance(source_ends, list):
            source_ends = [source_ends]
        ends.update(source_ends)
    ends.discard(None)
    return sorted(ends)
