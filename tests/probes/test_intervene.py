"""Interventions: one step replaced, the rest written again, as often as it takes."""

from itertools import pairwise

import pytest
from tiny import TEMPLATE, tiny_model, tiny_tokenizer

from cotlens import Trace, TraceError
from cotlens.models.load import wrap_model
from cotlens.probes.cut import step_cuts
from cotlens.probes.intervene import intervene
from cotlens.text.steps import segment_trace

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"max_new_tokens": 6, "seed": 3}


@pytest.fixture(scope="module")
def model():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return wrap_model(tiny_model(len(tokenizer)), tokenizer, name="tiny")


def trace_of(name, thinking="so one.\nso two.\nso three.\n"):
    text = f"<think> {thinking}</think> four"
    return Trace(id=name, prompt="two", completion=text, finish_reason="stop")


def step_with(word):
    """Find the first step, from a number on, that has a word."""

    def find(trace, first):
        for step in segment_trace(trace)[first:]:
            if word in step.chars.of(trace.completion):
                return step.index
        return None

    return find


def say(text):
    return lambda trace, step, number: text


def test_what_stands_before_the_step_stays_and_the_rest_is_the_models(model):
    trace = trace_of("a")
    (attempt,) = intervene(model, [trace], step_with("two"), say("wait"), bool, **OPTIONS)

    assert (attempt.step, attempt.round, attempt.is_accepted) == (1, 1, True)
    assert attempt.cut == step_cuts(trace)[1]
    assert attempt.original == attempt.before == trace
    assert attempt.insert == "wait"  # it comes after a line break
    assert attempt.after.completion.startswith("<think> so one.\nwait")
    assert attempt.after.token_starts[0] == attempt.cut + len("wait")
    assert 1 <= len(attempt.after.token_ids) <= 6


def test_a_step_after_the_last_is_appended_to_the_whole_thought(model):
    trace = trace_of("a")
    (attempt,) = intervene(model, [trace], lambda *_: 3, say("hmm"), bool, **OPTIONS)
    assert attempt.after.completion.startswith("<think> so one.\nso two.\nso three.\nhmm")


def test_what_is_not_accepted_is_looked_at_again_after_the_replacement(model):
    """The replacement has the word itself, and is not found again."""
    find = step_with("so")
    attempts = intervene(
        model,
        [trace_of("a")],
        find,
        say("so four.\nso five.\n"),
        lambda trace: False,
        most=3,
        **OPTIONS,
    )
    assert [attempt.round for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert len(attempts) <= 3
    for earlier, later in pairwise(attempts):
        assert later.before == earlier.after
        assert later.original == attempts[0].original
        assert later.cut >= earlier.cut + len(earlier.insert)
        assert later.after.completion.startswith(earlier.before.completion[: earlier.cut])


def test_traces_do_not_change_each_other(model):
    traces = [trace_of("a"), trace_of("b", "so one.\nhmm two.\n")]
    together = intervene(model, traces, step_with("two"), say("wait"), bool, **OPTIONS)
    alone = []
    for trace in traces:
        alone += intervene(model, [trace], step_with("two"), say("wait"), bool, **OPTIONS)
    assert together == alone


def test_traces_in_which_nothing_is_found_are_left(model):
    nothing = trace_of("b", "hmm.\n")
    no_thought = Trace(id="c", prompt="two", completion="so two", finish_reason="stop")
    find = step_with("two")
    assert intervene(model, [nothing, no_thought], find, say("wait"), bool, **OPTIONS) == []


@pytest.mark.parametrize(
    ("find", "text", "message"),
    [
        (lambda *_: 4, "wait", "find named step 4; expected one from 0 to 3"),
        (lambda *_: -1, "wait", "find named step -1"),
        (lambda *_: 0, " ", "the replacement of step 0 is empty"),
    ],
)
def test_what_cannot_be_replaced_is_named(model, find, text, message):
    with pytest.raises(TraceError, match=message):
        intervene(model, [trace_of("a")], find, say(text), bool, **OPTIONS)


def test_no_round_is_an_error(model):
    with pytest.raises(ValueError, match="at least one round"):
        intervene(model, [], step_with("two"), say("wait"), bool, most=0, **OPTIONS)
