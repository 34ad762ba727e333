"""Early answers are those of the model after the cut thinking and the closing tag."""

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from cotlens import Span, Trace, TraceError
from cotlens.models.load import wrap_model
from cotlens.probes import answer_early, early_answers, step_cuts
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


# --- many traces at once -------------------------------------------------------------------------


def test_answers_of_many_traces_are_those_of_each(model):
    """Four steps, half of them kept: the answer after the second."""
    text = "<think> one.\ntwo.\nthree.\nfour.\n</think> five"
    traces = [Trace(id=name, prompt="one", completion=text) for name in ("a", "b")]
    answered = early_answers(model, traces, [0, 0.5, 0.6, 1], max_new_tokens=4)

    facts = [trace.meta["probe"] for trace in answered]
    assert [(fact["source"], fact["step"], fact["share"]) for fact in facts] == [
        ("a", 0, 0), ("a", 2, 0.5), ("a", 4, 1),
        ("b", 0, 0), ("b", 2, 0.5), ("b", 4, 1),
    ]  # fmt: skip
    cuts = [step_cuts(traces[0])[step] for step in (0, 2, 4)]
    for trace, answer in zip(
        answered[:3], answer_early(model, traces[0], cuts, max_new_tokens=4), strict=True
    ):
        assert trace.completion.endswith(answer)
        assert "</think>" in trace.completion


def test_a_share_is_from_0_to_1(model):
    with pytest.raises(ValueError, match="shares from 0 to 1"):
        early_answers(model, [], [1.5])
