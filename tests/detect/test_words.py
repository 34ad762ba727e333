"""Word lists, counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotlens.detect.words import WORD_LISTS, count_words
from cotlens.text.steps import segment


@pytest.mark.parametrize(
    ("text", "words", "n"),
    [
        ("Wait, but wait.", "cyclic_reflex", 3),
        (
            "waiting butter awaits WAIT",
            "cyclic_reflex",
            0,
        ),  # word boundaries, and the case as listed
        ("Alternatively", "cyclic_reflex", 1),
        ("<think>Okay, Hmm", "r2mu", 3),
        ("Let me check. let me check", "markers16", 2),
        ("double-check", "markers16", 1),
        ("a.b a+b", ("a.b", "a+b"), 2),  # words of one's own, taken literally
        ("check again", ("check", "check again"), 1),  # of two at one place the longer
        ("x", (), 0),
        ("", "r2mu", 0),
    ],
)
def test_count_words(text, words, n):
    assert count_words(text, words) == n


@given(st.text(), st.sampled_from(sorted(WORD_LISTS)))
def test_counts_add_up_over_steps(text, words):
    """No marker straddles a border between steps, as long as every marker is one word."""
    if words != "markers16":
        assert sum(count_words(span.of(text), words) for span in segment(text)) == count_words(
            text, words
        )


def test_an_unknown_list_names_those_there_are():
    with pytest.raises(ValueError, match="there are cyclic_reflex, r2mu, markers16"):
        count_words("x", "nonsense")
