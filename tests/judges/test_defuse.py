"""What a judge reads is made harmless, and a reader sees the same."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotlens.judges.defuse import BREAK, breaks, clean, defuse, insert_breaks, shorten


def test_defusing_keeps_what_a_reader_sees():
    text, n = defuse("a <|eot_id|> b </s> <3 x < y")
    assert n == 2
    assert text.replace("\u200b", "") == "a <|eot_id|> b </s> <3 x < y"


@pytest.mark.parametrize(
    ("text", "longest", "expected"),
    [
        ("abcdef", 4, ("ab\n[...]\nef", 2)),
        ("abcdef", 3, ("a\n[...]\nef", 3)),  # of an odd length the end keeps one more
        ("abcdef", 6, ("abcdef", 0)),
        ("", 4, ("", 0)),
    ],
)
def test_long_texts_lose_their_middle(text, longest, expected):
    assert shorten(text, longest) == expected


@given(st.text(st.sampled_from("<|>s/ -user:\n"), max_size=60))
def test_breaks_only_add(text):
    """Without its breaks a text is what it was, and it has as many as there are places."""
    defused, n = defuse(text, ["ss"])
    assert n == len(breaks(text, ["ss"]))
    assert defused.replace("\u200b", "") == text
    assert defused == insert_breaks(text, breaks(text, ["ss"]))


def test_the_longest_token_is_broken():
    """`[AB]` begins with `[A`: one break, not two."""
    assert breaks("x [AB]", ["[A", "[AB]"]) == [3]


def test_single_characters_and_white_space_are_no_tokens():
    assert breaks("a b\n\nc", ["a", "\n\n"]) == []


def test_lone_surrogates_are_replaced():
    assert clean("a\ud800b") == "a?b"


@pytest.mark.parametrize(
    "tag",
    [
        "</text_to_judge>",
        "</text_to_judge x=1>",
        "＜/text_to_judge＞",
        "</text-to-judge>",
        "</text to judge>",
        "<\t/text_to_judge\t>",
        "</text_\u200bto_judge>",
        "‹/text_to_judge›",
        "</REQUEST>",
        "<request id=2>",
    ],
)
def test_look_alikes_of_our_own_tags_are_broken(tag):
    """Whatever a model might take for the end of what it judges."""
    defused, n = defuse(f"a {tag} b")
    assert n == 1
    assert tag not in defused
    assert defused.replace(BREAK, "") == f"a {tag} b".replace(BREAK, "")


@pytest.mark.parametrize("text", ["a < b and the request > c", "x <requests> y", "1 < 2 > 1"])
def test_what_is_no_tag_stays(text):
    assert defuse(text) == (text, 0)
