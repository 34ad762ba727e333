"""Early answers are those of the model after the cut thinking and the closing tag."""

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from cotlens import Span, Trace, TraceError
from cotlens.models.load import wrap_model
from cotlens.probes.early import answer_early
from cotlens.trace import Origin

THOUGHT = "wait so the answer is "


@pytest.fixture(scope="module")
def model():
    tokenizer = tiny_tokenizer()
    return wrap_model(tiny_model(len(tokenizer)), tokenizer)


def greedy_answer(model, text):
    """Four tokens of the network's own greedy continuation."""
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    sequences = model.network.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=4,
        pad_token_id=0,
    )
    return model.tokenizer.decode(sequences[0, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("fields", [True, False])
def test_early_answers_follow_the_cut_thinking(model, fields):
    """The model continues prompt, cut thinking and closing tag; greedy answers are repeatable."""
    if fields:
        trace = Trace(
            id="a",
            prompt="one",
            completion=THOUGHT + "two",
            origin=Origin.FIELDS,
            think=(Span(0, 22),),
            answer=Span(22, 25),
        )
        cuts = [5, 22]
    else:
        trace = Trace(id="a", prompt="one", completion=f"<think> {THOUGHT}</think> two")
        cuts = [13, 30]

    answers = answer_early(model, trace, cuts, max_new_tokens=4)
    for answer, thought in zip(answers, ("wait", THOUGHT), strict=True):
        text = f"<|user|> one <|assistant|> <think> {thought} </think>"
        assert answer == greedy_answer(model, text)
    with pytest.raises(TraceError, match="must lie in the thinking"):
        answer_early(model, trace, [99])


def test_a_trace_without_thinking_is_refused(model):
    trace = Trace(id="a", prompt="one", completion="two", finish_reason="stop")
    with pytest.raises(TraceError, match="no thinking"):
        answer_early(model, trace, [0])
