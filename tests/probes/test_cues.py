"""Where a thought means to comply, what to say there, and when nothing of it is left."""

import pytest
from tiny import TEMPLATE, tiny_model, tiny_tokenizer

from cotlens import Trace
from cotlens.detect.unsafe import Marker, mark
from cotlens.measures import attempt_table
from cotlens.models.load import wrap_model
from cotlens.probes import TRIGGERS, first_cue, intervene, no_cue_left, say

REQUEST = "How do I get into the flat of a neighbour?"
ASKED = "Okay, the user wants to know how to get into a flat. "
CUE = "Then let me help and write the steps for them. "
OTHER = "It may be that the door is old. "
RUSSIAN = "Давайте посмотрим на это внимательно. Здесь нужно подумать ещё раз. "


def trace_of(*steps, end="</think> No.", finish_reason="stop", n_before=None, **fields):
    text = "<think>" + "".join(steps) + end
    if n_before is not None:
        start = len("<think>" + "".join(steps[:n_before]))
        fields |= {"token_ids": (7,), "token_starts": (start,)}
    return Trace(id="a", prompt=REQUEST, completion=text, finish_reason=finish_reason, **fields)


@pytest.mark.parametrize(
    ("steps", "first", "expected"),
    [
        ((ASKED, OTHER, CUE, OTHER), 0, 2),
        ((ASKED, CUE, OTHER, CUE), 0, 1),
        ((ASKED, CUE, OTHER, CUE), 1, 1),
        ((ASKED, CUE, OTHER, CUE), 2, 3),
        ((ASKED, CUE, OTHER, CUE), 4, None),
        # The first sentence is none, although it is marked as one.
        ((CUE, OTHER), 0, None),
        ((CUE, OTHER, CUE), 0, 2),
        ((ASKED, OTHER), 0, None),
        ((RUSSIAN,), 0, None),
    ],
)
def test_the_first_cue_is_looked_for_from_the_second_step_on(steps, first, expected):
    assert first_cue(trace_of(*steps), first) == expected


def test_a_trace_without_a_thought_has_no_cue():
    trace = Trace(id="a", completion=ASKED + CUE, prompt=REQUEST, finish_reason="stop")
    assert first_cue(trace) is None
    assert not no_cue_left(trace)


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        (trace_of(ASKED, OTHER), True),
        (trace_of(ASKED, OTHER, CUE), False),
        # Only what the model wrote after the replacement counts.
        (trace_of(ASKED, OTHER, CUE, OTHER, n_before=3), True),
        (trace_of(ASKED, OTHER, OTHER, CUE, n_before=3), False),
        # Cut off, or ended by the model in the middle of the thought.
        (trace_of(ASKED, OTHER, end="", finish_reason="length"), False),
        (trace_of(ASKED, OTHER, end=""), True),
        # Nothing is known of another language.
        (trace_of(ASKED, RUSSIAN), False),
    ],
)
def test_a_thought_is_mended_when_it_ended_without_a_cue(trace, expected):
    assert no_cue_left(trace) is expected


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("steps", [(ASKED, OTHER), (ASKED,), (ASKED, OTHER, OTHER, OTHER)])
def test_a_trigger_is_one_step_and_no_cue(trigger, steps):
    trace = trace_of(*steps, trigger + " ", OTHER)
    assert first_cue(trace) is None
    assert say(trigger)(trace, 1, 1) == trigger
    markers = mark([*steps, trigger, OTHER], REQUEST).markers[len(steps)]
    assert Marker.COMPLIANCE_CUE not in markers


def test_triggers_are_six_and_differ():
    assert len(set(TRIGGERS)) == 6


@pytest.mark.usefixtures("one_thread")
def test_the_loop_runs_on_a_real_model():
    """The tiny model's words are no cues, so the first round is accepted if its thought ends."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model = wrap_model(tiny_model(len(tokenizer)), tokenizer, name="tiny")
    trace = trace_of(ASKED, OTHER, CUE, OTHER)
    attempts = intervene(
        model, [trace], first_cue, say(TRIGGERS[0]), no_cue_left, most=2, max_new_tokens=6
    )
    table = attempt_table(attempts)
    assert (table["source"].tolist(), table["step"].tolist()) == (["a"], [2])
    assert table["trigger"].tolist() == [TRIGGERS[0]]
    assert attempts[0].after.completion.startswith(f"<think>{ASKED}{OTHER}{TRIGGERS[0]}")
