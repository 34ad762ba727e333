"""Early answering: what a model answers when its thinking is cut short."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from cotlens.models.encode import encode, encode_trace, tags_of
from cotlens.models.load import Model
from cotlens.text.split import split_trace
from cotlens.trace import Trace, TraceError


@torch.inference_mode()
def answer_early(
    model: Model, trace: Trace, cuts: Sequence[int], *, max_new_tokens: int = 256
) -> list[str]:
    """What a model answers, greedily, when the thinking of a trace is cut and closed: one answer per cut.

    Early answering (Lanham et al. 2023, arXiv 2307.13702): if the answer is the same however early the thinking ends,
    the thinking did not matter for it. It is a probe of the model given, best the one that wrote the trace.

    Args:
        model: a model with a tokenizer.
        trace: a trace with thinking.
        cuts: code points of the completion, within the thinking: ends of steps, say.
        max_new_tokens: longest answer.

    Raises:
        TraceError: if the trace has no thinking, or a cut lies outside of it.
    """
    split = split_trace(trace)
    if not split.think or model.tokenizer is None:
        raise TraceError(
            f"trace {trace.id!r} has no thinking to cut, or the model came without a tokenizer"
        )
    first, last = split.think[0].start, split.think[-1].stop
    if any(not first <= cut <= last for cut in cuts):
        raise TraceError(
            f"trace {trace.id!r}: cuts {list(cuts)} must lie in the thinking, {first} to {last}"
        )
    found = encode_trace(
        replace(trace, token_ids=None, token_starts=None, logprobs=None), model.tokenizer
    )
    before = list(found.ids[: int(found.scored[0])])
    answers = []
    for cut in cuts:
        thought = trace.completion[:cut]
        close = tags_of(model.tokenizer, trace.completion).close
        text = thought + (close.lstrip("\n") if thought.endswith("\n") else close)
        ids = torch.tensor([before + encode(model.tokenizer, text)[0]], device=model.device)
        made = model.network.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_new_tokens,
            pad_token_id=model.tokenizer.pad_token_id or 0,
        )  # fmt: skip
        answers.append(model.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    return answers
