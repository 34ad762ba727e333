"""What token scores say of traces, steps, positions and words, derived by hand."""

import numpy as np
import pandas as pd
import pytest

from cotlens import Trace, step_table, trace_table
from cotlens.measures import (
    entropy_survival,
    entropy_threshold,
    forking_tokens,
    position_entropy,
    reflection_entropy,
    step_entropy,
    trace_entropy,
    word_entropy,
)
from cotlens.text.tokens import word_starts

TEXT = "<think>The sum is 5.\nWait, that is wrong.\n2+4 is 6.\n</think>Six."

# One token per word: <think> 0 | The sum is 5. = 1..4 | Wait, that is wrong. = 5..8
# | 2+4 is 6. = 9..11 | </think> and Six. after them.
STARTS = [i for i, letter in enumerate(TEXT) if i == 0 or TEXT[i - 1] in " \n>"]
N_TOKENS = len(STARTS)


def scores_of(starts, entropy, text=TEXT, **columns):
    """A score table of one trace, `a`."""
    return pd.DataFrame(
        {
            "trace_id": ["a"],
            "token_starts": [np.array(starts)],
            "word_starts": [word_starts(text, starts)],
            "error": [""],
            "entropy": [np.array(entropy)],
            **columns,
        }
    )


def columns_of(table, names):
    return {name: table[name].tolist() for name in names}


@pytest.fixture
def traces():
    trace = Trace(id="a", prompt="p", completion=TEXT)
    return trace_table([trace])


@pytest.fixture
def steps():
    """Three steps, of which the second reflects."""
    trace = Trace(id="a", prompt="p", completion=TEXT)
    table = step_table([trace], text=True)
    assert table["is_reflection"].tolist() == [False, True, False]
    assert [len(text.split()) for text in table["text"]] == [4, 4, 3]
    return table


@pytest.fixture
def scores():
    """The entropy of each token is its number."""
    entropy = np.arange(N_TOKENS, dtype=np.float32)
    return scores_of(STARTS, entropy, kl=[np.full(N_TOKENS, 0.5)])


def test_step_entropy_by_hand(steps, scores):
    """Tokens 1 to 4, 5 to 8 and 9 to 11."""
    found = step_entropy(steps, scores, high=6.5)
    expected = {
        "n_scored": [4, 4, 3],
        "entropy_mean": [2.5, 6.5, 10],
        "entropy_max": [4, 8, 11],
        "entropy_first": [1, 5, 9],
        "share_high": [0, 0.5, 1],
        "kl_mean": [0.5, 0.5, 0.5],
    }
    assert columns_of(found, expected) == expected


def test_trace_entropy_by_hand(traces, steps, scores):
    """Thinking 1 to 11, answer `Six.` alone, reflection 5 to 8, others 1 to 4 and 9 to 11."""
    found = trace_entropy(traces, steps, scores, high=8.5)
    expected = {
        "n_scored": [N_TOKENS],
        "entropy_think": [6],
        "entropy_answer": [N_TOKENS - 1],
        "entropy_reflect": [6.5],
        "entropy_other": [pytest.approx(40 / 7)],
        "share_high": [pytest.approx(3 / 11)],
        "kl_think": [0.5],
    }
    assert columns_of(found, expected) == expected


def test_position_entropy_by_hand(traces, scores):
    """Eleven tokens in two bins: 0 to 5 (0, 1, ... 5 of 11 are below one half) and 6 to 10."""
    found = position_entropy(traces, scores, bins=2)
    expected = {
        "position": [0.25, 0.75],
        "n": [6, 5],
        "value": [3.5, 9],
    }
    assert columns_of(found, expected) == expected

    # Any column of scores will do.
    divergence = position_entropy(traces, scores, column="kl")
    assert divergence["value"].tolist() == [0.5] * 11


def test_a_summary_is_no_thinking(traces, steps, scores):
    """Its tokens say nothing of the thinking that is hidden; those of the answer count."""
    hidden = traces.assign(reasoning="summary")
    assert position_entropy(hidden, scores).empty
    assert word_entropy(hidden, scores).empty

    found = trace_entropy(hidden, steps, scores).iloc[0]
    verbatim = trace_entropy(traces, steps, scores).iloc[0]
    assert np.isnan(found["entropy_think"])
    assert found["entropy_answer"] == verbatim["entropy_answer"]


def test_reflection_entropy_by_hand(steps, scores):
    """The only onset is token 5; the third step follows a reflecting one: no comparison."""
    found = reflection_entropy(steps, scores, reach=2)
    expected = {
        "reflects": [True] * 5,
        "offset": [-2, -1, 0, 1, 2],
        "value": [3, 4, 5, 6, 7],
    }
    assert columns_of(found, expected) == expected

    # The neighbourhood ends where the thinking does.
    wide = reflection_entropy(steps, scores, reach=30)
    assert wide["offset"].min() == -4
    assert wide["offset"].max() == 6


def test_words_and_forking_tokens_by_hand(traces, scores):
    """`is ` comes at tokens 3, 7 and 10: mean 20/3. Shards put together give what one would."""
    words = word_entropy(traces, scores, context=4)
    expected = {
        "n": [3],
        "n_traces": [1],
        "sum": [20],
        "highest": [10],
        "before": ["2+4 "],
        "after": ["6.\n<"],
    }
    assert columns_of(words[words["word"] == "is "], expected) == expected

    # Two shards with the same words.
    both = pd.concat([words, words])
    tokens = forking_tokens(both, least=6)
    expected = {
        "word": ["is "],
        "n": [6],
        "entropy": [pytest.approx(20 / 3)],
    }
    assert columns_of(tokens, expected) == expected


def test_survival_and_threshold(scores):
    found = entropy_survival(scores, [0, 3.5])
    expected = {
        "threshold": [0, 3.5],
        "above": [N_TOKENS - 1, N_TOKENS - 4],
        "n": [N_TOKENS, N_TOKENS],
    }
    assert columns_of(found, expected) == expected

    # The median of 0, 1, ... is in the middle.
    median = entropy_threshold(scores, 0.5)
    assert median == (N_TOKENS - 1) / 2


def test_an_unscored_token_is_left_out(steps, scores):
    """NaN is not zero: the first step has tokens 2, 3 and 4 left."""
    entropy = scores["entropy"][0].copy()
    entropy[1] = np.nan
    found = step_entropy(steps, scores.assign(entropy=[entropy]))
    assert found["entropy_mean"].tolist() == [3, 6.5, 10]


BROKEN = [{"error": "no"}, {"token_starts": [None]}]


@pytest.mark.parametrize("columns", BROKEN)
def test_an_unscored_trace_is_left_out(traces, steps, scores, columns):
    """A trace with an error, and one whose tokens have no place."""
    broken = scores.assign(**columns)
    by_step = step_entropy(steps, broken)
    by_trace = trace_entropy(traces, steps, broken)
    assert by_step["entropy_mean"].isna().all()
    assert by_trace["entropy_think"].isna().all()
    assert position_entropy(traces, broken).empty


def test_missing_scores_are_named(traces, scores):
    with pytest.raises(ValueError, match="needs a reference or top-k"):
        position_entropy(traces, scores.assign(kl=[None]), column="kl")
    with pytest.raises(ValueError, match="no token is scored"):
        entropy_threshold(scores.assign(entropy=[None]))


def test_tags_and_commentary_between_thoughts_are_in_no_neighbourhood():
    """The onset that opens the second thought has only its own thought after it, nothing before."""
    first = "<think>The sum is 5. So 2+3 = 5.</think>Well."
    second = "<think>Wait, that is wrong. So 2+4 = 6.</think>Six."
    text = first + second
    steps = step_table([Trace(id="a", completion=text)])
    starts = np.arange(len(text))
    scores = scores_of(starts, starts.astype(float), text)

    found = reflection_entropy(steps, scores, reach=3)
    onset = found[found["reflects"]]
    assert onset["offset"].tolist() == [0, 1, 2, 3]
    assert onset["value"].iloc[0] == text.index("Wait")


def test_tokens_inside_a_character_are_no_word():
    """Three tokens spell one character: two hold no text of their own."""
    traces = trace_table([Trace(id="a", completion="<think>日 b</think>c")])
    scores = scores_of([7, 7, 7, 8], np.ones(4), "<think>日 b</think>c")
    words = word_entropy(traces, scores)
    assert set(words["word"]) == {"日", " b</think>c"}


def test_the_blank_before_a_word_does_not_move_its_token(traces, steps, scores):
    """Byte-level BPE puts the blank or line break into the word's token: the same numbers as by hand.

    The token of `Wait,` then begins in the first step, and that of `</think>` in the third.
    """
    starts = [max(start - 1, 0) if TEXT[start - 1] in " \n" else start for start in STARTS]
    assert sum(a < b for a, b in zip(starts, STARTS, strict=True)) == 11
    blanks = scores_of(starts, scores["entropy"][0], kl=scores["kl"].tolist())

    same = pd.testing.assert_frame_equal
    same(step_entropy(steps, blanks, high=6.5), step_entropy(steps, scores, high=6.5))
    same(trace_entropy(traces, steps, blanks), trace_entropy(traces, steps, scores))
    same(position_entropy(traces, blanks), position_entropy(traces, scores))
    same(reflection_entropy(steps, blanks), reflection_entropy(steps, scores))

    # The last token of the thinking is ` 6.`, not the one with the tag.
    words = word_entropy(traces, blanks)["word"].tolist()
    assert words[0] == "The"
    assert words[-1] == " 6."


def test_the_first_word_of_a_thought_comes_after_its_line_break():
    """<think>|\\n|One| plus| two|.|</think>|<think>|\\n|Wait|,|...: a line break belongs to the step, and is no word.

    The first word of the first step is token 2, that of the second step, an onset, is token 9.
    """
    pieces = ["<think>", "\n", "The", " sum", " is 5", ".", "</think>", "<think>", "\n", "Wait"]
    pieces += [", that is wrong", ".", "</think>", "Six"]
    starts = np.cumsum([0, *map(len, pieces)])[:-1]
    text = "".join(pieces)
    steps = step_table([Trace(id="a", completion=text)])
    assert steps["is_reflection"].tolist() == [False, True]

    scores = scores_of(starts, np.arange(14.0), text)
    by_step = step_entropy(steps, scores)
    assert columns_of(by_step, ["n_scored", "entropy_first"]) == {
        "n_scored": [5, 4],
        "entropy_first": [2, 9],
    }
    around = reflection_entropy(steps, scores, reach=1)
    assert columns_of(around, ["offset", "value"]) == {"offset": [-1, 0, 1], "value": [8, 9, 10]}


def test_a_step_whose_text_is_in_a_token_of_the_step_before_is_no_onset():
    """`5. Wait.` is one token: the second step has none, and the third follows one that reflects."""
    text = "<think>The sum is 5. Wait, that is wrong. It is 6.</think>Six."
    steps = step_table([Trace(id="a", completion=text)])
    starts = [0, 7, 10, 14, 17, 41, 50, 58]
    assert text[18:41] == "5. Wait, that is wrong."
    found = step_entropy(steps, scores_of(starts, np.arange(8.0), text))
    assert found["n_scored"].tolist() == [4, 0, 1]
    assert reflection_entropy(steps, scores_of(starts, np.arange(8.0), text)).empty


def test_scores_that_do_not_say_where_tokens_belong_are_refused(steps, scores):
    with pytest.raises(ValueError, match="no column word_starts"):
        step_entropy(steps, scores.drop(columns="word_starts"))
    assert not entropy_survival(scores.drop(columns="word_starts"), [0]).empty
