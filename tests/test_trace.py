"""The record of one turn: what it takes, what it refuses, and how a notebook shows it."""

import pytest
from places import SAMPLES

from cotlens import Span, Trace, TraceError, analyze, stats
from cotlens.trace import Label, Origin, hash_text


def test_prompt_id_is_the_prompts_hash_or_the_id():
    """Traces of one prompt share a cluster; without a prompt every trace is its own."""
    first = Trace(id="a", completion="x", prompt="p")
    second = Trace(id="b", completion="y", prompt="p")
    assert first.prompt_id == second.prompt_id
    assert Trace(id="a", completion="x").prompt_id == "a"
    assert len(hash_text("p")) == 16


def test_span_is_half_open():
    span = Span(1, 3)
    assert span.of("abcd") == "bc"
    assert span.length == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": ""}, "non-empty id"),
        ({"completion": None}, "completion must be text, got NoneType"),
        ({"completion": "a\ud800b"}, r"lone surrogate U\+D800 at character 1"),
        ({"think": (Span(0, 1),)}, "need origin"),
        ({"origin": Origin.FIELDS, "think": (Span(0, 9),)}, "span 0:9 does not lie"),
        ({"origin": Origin.FIELDS, "think": (Span(1, 2),), "answer": Span(0, 1)}, "in order"),
        ({"labels": (Label(0, 9, "x"),)}, "label 'x' at 0:9"),
        (
            {"token_ids": (1, 2), "logprobs": (0.0,)},
            "2 token_ids, 1 logprobs; they must be parallel",
        ),
    ],
)
def test_a_fault_names_the_trace_and_what_was_got(fields, message):
    sound = {"id": "t", "completion": "abc"}
    with pytest.raises(TraceError, match=message):
        Trace(**(sound | fields))


def test_what_a_notebook_shows_is_inert_and_has_no_colours():
    """Model output is escaped, long texts are cut, and the page's own colours hold."""
    completion = "<script>alert(1)</script>" + "x" * 5000
    shown = Trace(id="<b>", completion=completion, model="m")._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown

    assert "5,025 characters" in shown
    assert len(shown) < 4000
    assert "color" not in shown
    assert "training_step" not in shown  # unknown


def test_records_of_the_flow_have_a_face(tmp_path):
    run = analyze([SAMPLES], tmp_path / "run")
    shown = run._repr_html_()
    for text in ("run", "14", "sample_traces.jsonl", "judged by"):
        assert text in shown
    assert "<b>0.5</b>" in stats.mean([0.0, 1.0])._repr_html_()
