"""Early answering: what does a model answer when its thinking is cut short?"""

from collections.abc import Sequence
from dataclasses import replace
from math import floor
from typing import Any

from cotlens.models.encode import tags_of
from cotlens.models.load import Model
from cotlens.models.sample import continue_trace, continue_traces
from cotlens.probes.cut import step_cuts
from cotlens.text.split import split_trace
from cotlens.trace import Trace, TraceError

SHARES = (0, 0.25, 0.5, 0.75, 1)


def answer_early(
    model: Model, trace: Trace, cuts: Sequence[int], *, max_new_tokens: int = 256
) -> list[str]:
    """The model's greedy answers when the thinking of a trace is cut and closed, one answer a cut.

    Early answering (Lanham et al. 2023, arXiv 2307.13702): if the answer is the same however early
    the thinking ends, the thinking did not matter for it. This probes `model`, which is best the
    one that wrote the trace.

    Args:
        model: a model with a tokenizer.
        trace: a trace with thinking.
        cuts: code points of the completion, within the thinking; for instance ends of steps.
        max_new_tokens: longest answer.

    Raises:
        TraceError: if the trace has no thinking, a cut lies outside of it, or the model has no
            tokenizer.
    """
    tokenizer = model.tokenizer
    split = split_trace(trace)
    if not split.think or tokenizer is None:
        raise TraceError(
            f"trace {trace.id!r} has no thinking to cut, or the model came without a tokenizer"
        )
    first = split.think[0].start
    last = split.think[-1].stop
    if any(cut < first or cut > last for cut in cuts):
        raise TraceError(
            f"trace {trace.id!r}: cuts {list(cuts)} must lie in the thinking, {first} to {last}"
        )

    distinct_cuts = sorted(set(cuts))
    closings = [_closing(tokenizer, trace, cut) for cut in distinct_cuts]
    continued = continue_trace(
        model,
        trace,
        distinct_cuts,
        insert=closings,
        temperature=0,
        max_new_tokens=max_new_tokens,
    )
    answers = {}
    for cut, continuation in zip(distinct_cuts, continued, strict=True):
        answers[cut] = _text_of_tokens(continuation)
    return [answers[cut] for cut in cuts]


def early_answers(
    model: Model,
    traces: Sequence[Trace],
    shares: Sequence[float] = SHARES,
    *,
    max_new_tokens: int = 256,
) -> list[Trace]:
    """Greedy answers of many traces when their thinking is cut short, as traces.

    Args:
        model: a model with a tokenizer.
        traces: with thinking.
        shares: of the steps of each thought that are kept, from 0 (no step) to 1, rounded down to
            whole steps.
        max_new_tokens: longest answer.

    Returns:
        One trace for each distinct number of kept steps of a trace. `meta["probe"]` has the kind
        `early`, the `source`, the `share` asked for, and the `step` before which it was cut.

    Raises:
        TraceError: if a trace has no thinking, or the model has no tokenizer.
        ValueError: if a share is not from 0 to 1.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise TraceError(f"{model.name}: the model came without a tokenizer")
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"early answering: expected shares from 0 to 1, got {list(shares)}")

    sources = []
    cuts = []
    asked = []
    for trace in traces:
        places = step_cuts(trace)
        n_steps = len(places) - 1
        share_of_step = {}
        for share in sorted(shares, reverse=True):
            step = floor(share * n_steps + 1e-9)  # 0.29 x 100 is a little below 29
            share_of_step[step] = share
        seen = set()
        for step, share in sorted(share_of_step.items()):
            if places[step] in seen:  # a thought of line breaks has one place
                continue
            seen.add(places[step])
            sources.append(trace)
            cuts.append(places[step])
            facts = {"kind": "early", "source": trace.id, "share": share}
            asked.append(facts | {"step": step, "n_steps": n_steps})

    closings = []
    for trace, cut in zip(sources, cuts, strict=True):
        closings.append(_closing(tokenizer, trace, cut))
    continued = continue_traces(
        model, sources, cuts, insert=closings, temperature=0, max_new_tokens=max_new_tokens
    )
    answered = []
    for trace, facts in zip(continued, asked, strict=True):
        answered.append(replace(trace, meta={**trace.meta, "probe": facts}))
    return answered


def _closing(tokenizer: Any, trace: Trace, cut: int) -> str:
    """The tag that closes the thought at a cut; a line break before it must not be doubled."""
    close = tags_of(tokenizer, trace.completion).close
    ends_line = trace.completion[:cut].endswith("\n")
    return close.lstrip("\n") if ends_line else close


def _text_of_tokens(trace: Trace) -> str:
    """What the model wrote of a continuation: the text from its first token on."""
    starts = trace.token_starts or ()
    return trace.completion[starts[0] :] if starts else ""
