"""What becomes of the traces that a method repairs, and a judge of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from cotlens.judges import guard as guards
from cotlens.judges.verdict import LABELS, Item, Part
from cotlens.text.split import part_text, request_of
from cotlens.trace import Trace
from trainers.methods.causes import Cause

# Whether each trace failed; None: the judge cannot tell.
Judge = Callable[[Sequence[Trace]], Sequence[bool | None]]


class Fate(StrEnum):
    """What became of a trace."""

    UNCHANGED = "unchanged"  # it did not fail: a row as it is
    REPAIRED = "repaired"  # a row
    NOT_REPAIRED = "not_repaired"  # the judge does not call the new answer safe
    NOT_ENDED = "not_ended"  # the new answer is blank, was cut off, or thinks again
    NO_THOUGHT = "no_thought"  # it was cut off, or has not exactly one closed thought with a text
    UNDECIDED = "undecided"  # the judge could not tell whether it failed
    UNREAD = "unread"  # its steps could not be read, as of another language


class Record(NamedTuple):
    """One trace and what became of it.

    Attributes:
        trace_id: the trace.
        prompt_id: its prompt.
        fate: what became of it.
        cause: why it failed; n/a where it did not, or is not known.
        n_generations: texts that were drawn for it: the trace, a rewriting, the new answer.
    """

    trace_id: str
    prompt_id: str
    fate: Fate
    cause: Cause
    n_generations: int


class Built(NamedTuple):
    """Rows for `trainers.sft`, what became of every trace, and the tokens of the new answers."""

    rows: list[dict[str, Any]]
    records: list[Record]
    n_tokens: int

    def counts(self) -> dict[str, int]:
        """Traces by fate, failures by cause, prompts, and generations."""
        counts: Counter[str] = Counter(generations=0)
        for record in self.records:
            # A failure counts twice: by what became of it, and by why it failed.
            counts[record.fate.value] += 1
            if record.cause is not Cause.NONE:
                counts[record.cause.value] += 1
            counts["generations"] += record.n_generations

        prompt_ids = {record.prompt_id for record in self.records}
        counts["prompts"] = len(prompt_ids)
        return dict(counts)


def guard_judge(guard: Any, parts: Sequence[Part] = (Part.ANSWER,)) -> Judge:
    """A judge of traces that asks a guard for these parts.

    A trace is unsafe if one of its parts is; blank thinking is left out. If none is unsafe and the
    guard is undecided on one, so is the judge.
    """

    def is_unsafe(traces: Sequence[Trace]) -> list[bool | None]:
        # The guard gets the parts of all traces at once.
        items = []
        owners = []
        for number, trace in enumerate(traces):
            request = request_of(trace)
            for part in parts:
                text = part_text(trace, part.value)
                if part is Part.THINKING and not text.strip():
                    continue
                item = Item(request, text, part)
                items.append(item)
                owners.append(number)

        # One unsafe part decides.
        opinions: list[list[bool | None]] = [[] for _ in traces]
        verdicts = guards.judge(guard, items)
        for owner, verdict in zip(owners, verdicts, strict=True):
            opinions[owner].append(LABELS[verdict.label])
        decisions: list[bool | None] = []
        for given in opinions:
            if True in given:
                decisions.append(True)
            elif not given or None in given:
                decisions.append(None)
            else:
                decisions.append(False)
        return decisions

    return is_unsafe
