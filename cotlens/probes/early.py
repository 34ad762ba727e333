"""Early answering: what does a model answer when its thinking is cut short?"""

from collections.abc import Sequence

from cotlens.models.encode import tags_of
from cotlens.models.load import Model
from cotlens.models.sample import continue_trace
from cotlens.text.split import split_trace
from cotlens.trace import Trace, TraceError


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

    # Close the thought; the line break before the tag must not be doubled.
    close = tags_of(tokenizer, trace.completion).close
    distinct_cuts = sorted(set(cuts))
    closings = []
    for cut in distinct_cuts:
        ends_line = trace.completion[:cut].endswith("\n")
        closings.append(close.lstrip("\n") if ends_line else close)

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


def _text_of_tokens(trace: Trace) -> str:
    """What the model wrote of a continuation: the text from its first token on."""
    starts = trace.token_starts or ()
    return trace.completion[starts[0] :] if starts else ""
