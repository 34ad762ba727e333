"""Continuation safety: how safe is what a model makes of a thought, read up to each of its steps?

After IPO (arXiv 2509.24393): S_i is the share of safe continuations from place i of a trace. The
model writes them here, any judge reads them, and `measures.continuation_safety` counts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cotlens.models.engine import Engine
from cotlens.models.sample import continue_traces
from cotlens.probes.cut import step_cuts
from cotlens.trace import Trace, TraceError

if TYPE_CHECKING:
    from cotlens.models.load import Model


def continue_steps(
    model: "Model | Engine",
    traces: Sequence[Trace],
    *,
    n: int = 16,
    every: int = 1,
    steps: Sequence[int] | None = None,
    **options: Any,
) -> list[Trace]:
    """`n` continuations from the end of each step of every trace.

    Place i comes after the first i steps: i = 0 keeps nothing of the thought, and i = n_steps keeps
    the whole thought, so that the answer alone is written. All traces go to the model together.

    >>> continue_steps(model, traces, n=32, every=2, max_new_tokens=4096)  # doctest: +SKIP

    Departs from the paper: places are ends of steps; the paper has one for each token. A place lies
    in the thought, never in the answer.

    Args:
        model: as in `sample`; S is defined for the model that wrote the traces.
        traces: with thinking. A thought that was cut off may be continued as well; its last step
            may end inside a sentence.
        n: continuations of each place (the paper has 32).
        every: distance of the places, in steps. The end of the thought is always one of them.
        steps: the places instead; those that a trace does not have are left out for that trace.
        **options: of `continue_traces`: `max_new_tokens`, `temperature`, `seed`, ...

    Returns:
        `n` traces for each place, in the order of the traces and places. A completion holds the
        prefix and the continuation: what a judge should read. `meta["probe"]` holds kind
        (`continuation`), source (id of the trace), step (i) and n_steps.

    Raises:
        TraceError: if a trace has no thinking or none of the places, and as `continue_traces`.
            Nothing is written before all traces are checked.
        ValueError: if `every` is below 1, or a place below 0.
    """
    if every < 1:
        raise ValueError(f"continue_steps: expected every from 1, got {every}")
    if steps is not None and any(step < 0 for step in steps):
        raise ValueError(f"continue_steps: expected steps from 0, got {min(steps)}")

    places = []
    for trace in traces:
        places += _places_of(trace, every, steps)

    continued = continue_traces(
        model,
        [place.trace for place in places],
        [place.cut for place in places],
        n=n,
        **options,
    )

    # The continuations of a place lie together.
    probe_traces = []
    for number, continuation in enumerate(continued):
        place = places[number // n]
        probe = {
            "kind": "continuation",
            "source": place.trace.id,
            "step": place.step,
            "n_steps": place.n_steps,
        }
        meta = {**continuation.meta, "probe": probe}
        probe_traces.append(replace(continuation, meta=meta))
    return probe_traces


class _Place(NamedTuple):
    """Where a trace is cut: after so many of its steps."""

    trace: Trace
    step: int
    n_steps: int
    cut: int


def _places_of(trace: Trace, every: int, steps: Sequence[int] | None) -> list[_Place]:
    """The places of a trace from which the model goes on, in order."""
    cuts = step_cuts(trace)
    n_steps = len(cuts) - 1
    numbers = sorted({*range(0, n_steps, every), n_steps})
    if steps is not None:
        numbers = [step for step in sorted(set(steps)) if step <= n_steps]
    if not numbers:
        raise TraceError(
            f"trace {trace.id!r}: none of the steps {list(steps or [])} is there; "
            f"ask for some from 0 to {n_steps}, or leave the trace out"
        )

    # The beginning and the end of a thought of white space are one place.
    places = []
    seen = set()
    for number in numbers:
        cut = cuts[number]
        if cut not in seen:
            places.append(_Place(trace, number, n_steps, cut))
        seen.add(cut)
    return places
