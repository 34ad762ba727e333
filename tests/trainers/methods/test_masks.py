"""Which spans of a completion carry loss."""

import pytest

from cotlens.trace import Span, TraceError
from trainers.methods.masks import Mask, learned_spans, masked_row

CHECK = Span(20, 30)

# mask, where the safe beginning ends, what is learned of 50 characters
SPANS = [
    (Mask.ALL, 10, [(0, 50)]),
    (Mask.ALL, 0, [(0, 50)]),
    (Mask.CHECK_AND_ANSWER, 10, [(20, 50)]),
    (Mask.CHECK_AND_ANSWER, 0, [(20, 50)]),
    (Mask.SAFE_PART_TOO, 10, [(0, 10), (20, 50)]),
    (Mask.SAFE_PART_TOO, 0, [(20, 50)]),
    (Mask.SAFE_PART_TOO, 20, [(0, 50)]),  # all of the thought is safe
    (Mask.CHECK, 10, [(20, 30)]),
    (Mask.CHECK, 20, [(20, 30)]),
]


@pytest.mark.parametrize(("mask", "safe_stop", "expected"), SPANS)
def test_what_a_mask_learns(mask, safe_stop, expected):
    spans = learned_spans(mask, CHECK, safe_stop, end=50)
    assert [(span.start, span.stop) for span in spans] == expected


@pytest.mark.parametrize(
    ("check", "safe_stop", "end"),
    [
        (Span(20, 20), 10, 50),
        (Span(20, 30), 21, 50),
        (Span(20, 30), -1, 50),
        (Span(20, 30), 10, 29),
    ],
)
def test_a_check_that_is_empty_or_out_of_place_is_an_error(check, safe_stop, end):
    with pytest.raises(ValueError, match="expected 0 <= safe_stop <= check <= end"):
        learned_spans(Mask.ALL, check, safe_stop, end)


def test_a_row_has_its_spans_source_and_reason():
    row = masked_row("ask", "one two", [Span(3, 7)], "cog_safb", "warning", h=2)
    assert row == {
        "prompt": "ask",
        "completion": "one two",
        "learned": [[3, 7]],
        "source": "cog_safb",
        "why": "warning",
        "h": 2,
    }


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([], "no span of its completion is learned"),
        ([Span(3, 8)], "within the completion's 7 characters"),
        ([Span(3, 3)], "expected learned spans in order"),
        ([Span(4, 7), Span(0, 2)], "expected learned spans in order"),
        ([Span(0, 4), Span(3, 7)], "expected learned spans in order"),
    ],
)
def test_spans_that_no_completion_has_are_an_error(spans, message):
    with pytest.raises(TraceError, match=message):
        masked_row("ask", "one two", spans, "cog_safb", "warning")
