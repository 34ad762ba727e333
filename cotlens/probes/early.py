"""Early answering: what does a model answer when its thinking is cut short?"""

from collections.abc import Sequence
from dataclasses import replace

from cotlens.models.encode import encode, encode_trace, tags_of
from cotlens.models.load import Model
from cotlens.models.sample import continue_greedily
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

    # What the model reads before the completion, up to the first token of its text.
    text_only = replace(trace, token_ids=None, token_starts=None, logprobs=None)
    encoded = encode_trace(text_only, tokenizer)
    n_before = int(encoded.scored[0])
    ids_before = list(encoded.ids[:n_before])
    close = tags_of(tokenizer, trace.completion).close

    answers = []
    for cut in cuts:
        # Close the thought; the line break before the tag must not be doubled.
        thought = trace.completion[:cut]
        closing = close.lstrip("\n") if thought.endswith("\n") else close
        thought_ids, _ = encode(tokenizer, thought + closing)
        answer_ids = continue_greedily(model, ids_before + thought_ids, max_new_tokens)
        answers.append(tokenizer.decode(answer_ids, skip_special_tokens=True))
    return answers
