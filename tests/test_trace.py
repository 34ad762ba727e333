import pytest

from cotlens import Label, Origin, Span, Trace, TraceError
from cotlens.trace import hash_text


def test_prompt_id_is_the_prompts_hash_or_the_id():
    """Traces of one prompt share a cluster; without a prompt every trace is its own."""
    assert Trace(id="a", completion="x", prompt="p").prompt_id == Trace(id="b", completion="y", prompt="p").prompt_id
    assert Trace(id="a", completion="x").prompt_id == "a"
    assert len(hash_text("p")) == 16


def test_span_is_half_open():
    span = Span(1, 3)
    assert (span.of("abcd"), span.length) == ("bc", 2)


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
        ({"token_ids": (1, 2), "logprobs": (0.0,)}, "2 token_ids, 1 logprobs; they must be parallel"),
    ],
)
def test_a_fault_names_the_trace_and_what_was_got(fields, message):
    with pytest.raises(TraceError, match=message):
        Trace(**({"id": "t", "completion": "abc"} | fields))
