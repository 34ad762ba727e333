"""Replace one step of a thought, let the model go on from there, and look whether that mended it.

Three methods are this loop with other functions. IPO (arXiv 2509.24393) replaces the first step
that means to comply by a sentence of safety, and accepts what has no such step left;
Chain-of-Guardrails (arXiv 2510.21285) appends a check after the whole thought; harm against the
number of interventions repeats the first up to five times.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cotlens.models.engine import Engine
from cotlens.models.sample import continue_traces
from cotlens.probes.cut import joined, step_cuts
from cotlens.text.split import split_trace
from cotlens.text.steps import segment_trace
from cotlens.trace import Trace, TraceError

if TYPE_CHECKING:
    from cotlens.models.load import Model

# The number of the step to replace, from the given one on; None: leave the trace. The number of
# steps stands for the place after the last one.
Find = Callable[[Trace, int], int | None]
# The text to put there: of a trace, the number of the step and the number of the round, from 1.
Replace = Callable[[Trace, int, int], str]
Accept = Callable[[Trace], bool]


class Attempt(NamedTuple):
    """One replacement and what came of it.

    Attributes:
        original: the trace that was given, whatever was replaced in it before.
        before: the trace in which a step was replaced: the original in round 1.
        after: its continuation. Its completion begins with `before.completion[:cut]`.
        step: number of the step that was replaced.
        cut: code point of `before.completion` from which on the two differ.
        round: number of the replacement in this trace, from 1.
        insert: what was put there, white space included.
        is_accepted: whether `after` was accepted.
    """

    original: Trace
    before: Trace
    after: Trace
    step: int
    cut: int
    round: int
    insert: str
    is_accepted: bool


def intervene(
    model: "Model | Engine",
    traces: Sequence[Trace],
    find: Find,
    replace: Replace,
    accept: Accept,
    *,
    most: int = 1,
    **options: Any,
) -> list[Attempt]:
    """All replacements, round after round, in the order of the traces within each round.

    Round 1 replaces the step that `find(trace, 0)` names. A continuation that is not accepted is
    looked at again from the step after the replacement on, up to `most` rounds. A trace in which
    nothing is found is left: it has no attempt, or no further one.

    >>> attempts = intervene(model, traces, find, replace, accept, max_new_tokens=4096)
    ... # doctest: +SKIP

    Args:
        model: as in `sample`; it writes the continuations, one for each attempt.
        traces: with thinking; those without it are left.
        find: which step to replace.
        replace: by what. The text comes without the white space before it.
        accept: whether a continuation is mended.
        most: rounds.
        **options: of `continue_traces`, but for `n`: `temperature`, `max_new_tokens`, `seed`, ...

    Raises:
        TraceError: if `find` names a step that is not there, a replacement is empty, or as
            `continue_traces`.
        ValueError: if `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"intervene: expected at least one round, got most={most}")

    # Each with the first step that may be replaced, which is never one that we put there.
    live = [_Live(trace, trace, 0) for trace in traces]
    attempts = []
    for number in range(1, most + 1):
        plans = []
        for state in live:
            plan = _plan(state, number, find, replace)
            if plan is not None:
                plans.append(plan)
        if not plans:
            break

        continued = continue_traces(
            model,
            [plan.state.trace for plan in plans],
            [plan.cut for plan in plans],
            insert=[plan.insert for plan in plans],
            **options,
        )

        live = []
        for plan, after in zip(plans, continued, strict=True):
            is_accepted = accept(after)
            attempt = Attempt(
                original=plan.state.original,
                before=plan.state.trace,
                after=after,
                step=plan.step,
                cut=plan.cut,
                round=number,
                insert=plan.insert,
                is_accepted=is_accepted,
            )
            attempts.append(attempt)
            if not is_accepted:
                n_before = _count_steps(after, plan.cut + len(plan.insert))
                live.append(_Live(plan.state.original, after, n_before))
    return attempts


class _Live(NamedTuple):
    """A trace that may be changed, and the first of its steps that may be replaced."""

    original: Trace
    trace: Trace
    first: int


class _Plan(NamedTuple):
    """What is to be replaced in a trace, and by what."""

    state: _Live
    step: int
    cut: int
    insert: str


def _plan(state: _Live, number: int, find: Find, replace: Replace) -> _Plan | None:
    """What to replace in a trace; None: nothing."""
    trace = state.trace
    split = split_trace(trace)
    if not segment_trace(trace, split):
        return None
    step = find(trace, state.first)
    if step is None:
        return None

    cuts = step_cuts(trace, split)
    if not state.first <= step < len(cuts):
        raise TraceError(
            f"trace {trace.id!r}: find named step {step}; expected one from {state.first} to "
            f"{len(cuts) - 1}, the number of its steps"
        )
    text = replace(trace, step, number)
    if not text.strip():
        raise TraceError(f"trace {trace.id!r}: the replacement of step {step} is empty")
    return _Plan(state, step, cuts[step], joined(trace, cuts[step], text))


def _count_steps(trace: Trace, stop: int) -> int:
    """The number of steps of the thinking that begin before a code point."""
    steps = segment_trace(trace)
    return sum(step.chars.start < stop for step in steps)
