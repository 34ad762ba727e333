"""What scores say: bounds from top-k, and tables of steps, traces, positions and words, derived by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import read_rows

from cotlens import Trace, step_table, trace_table
from cotlens.measures.bounds import entropy_bounds
from cotlens.measures.entropy import (
    entropy_survival,
    entropy_threshold,
    forking_tokens,
    position_entropy,
    reflection_entropy,
    step_entropy,
    trace_entropy,
    word_entropy,
)

# --- bounds ----------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 40), st.integers(1, 40), st.floats(0.1, 8), st.integers(0, 10_000))
def test_the_entropy_lies_within_its_bounds(n_words, k, spread, seed):
    """For every distribution: the k likeliest words bound its entropy, and all of them give it exactly."""
    logits = np.random.default_rng(seed).normal(0, spread, n_words)
    logp = np.sort(logits - np.log(np.exp(logits).sum()))[::-1]
    entropy = -(np.exp(logp) * logp).sum()
    low, high = entropy_bounds(logp[:k], n_words)
    assert low - 1e-9 <= entropy <= high + 1e-9
    if k >= n_words:
        assert high - low < 1e-6


def test_bounds_by_hand():
    """p = 1/2 and a rest of 1/2 over 4 words: at least one word holds it, at most all four share it.

    lower = 1/2 ln 2 + 1/2 ln 2 = ln 2; upper = 1/2 ln 2 + 1/2 ln 8 = 2 ln 2.
    """
    low, high = entropy_bounds([math.log(0.5)], n_words=5)
    assert low == pytest.approx(math.log(2))
    assert high == pytest.approx(2 * math.log(2))


def test_shorter_lists_are_padded():
    full = entropy_bounds([[math.log(0.6), math.log(0.3)], [math.log(0.9), -math.inf]], 100)
    alone = entropy_bounds([math.log(0.9)], 100)
    assert full.lower[1] == pytest.approx(alone.lower)
    assert full.upper[1] == pytest.approx(alone.upper)


def test_real_top_32_lists_hold_the_full_entropy(data):
    """R1-Distill-Llama-8B, 46 tokens: entropies (in bits) and probabilities are numbers stored in bfloat16."""
    tokens = [
        t
        for row in read_rows(data / "entropy" / "full_vs_top32_sanity.jsonl.gz")
        for t in row["tokens"]
    ]
    nats = np.array([token["target_entropy"] for token in tokens]) * math.log(2)
    low, high = entropy_bounds(
        np.log([token["top_probs"] for token in tokens]), 128256, rounding=2**-8
    )
    assert len(tokens) == 46
    assert (low <= nats * (1 + 2**-8)).all()
    assert (nats * (1 - 2**-8) <= high).all()
    assert np.median(high - low) < 0.1
    bits = np.array([token["target_entropy"] for token in tokens])
    assert (bits > high).mean() > 0.5  # without the conversion most lie outside


@pytest.mark.parametrize(
    ("logprobs", "message"),
    [
        ([0.5], "no distribution"),
        ([-0.1, -0.2], "no distribution"),
        ([-2.0, -1.0], "likeliest first"),
    ],
)
def test_lists_that_are_no_top_k(logprobs, message):
    with pytest.raises(ValueError, match=message):
        entropy_bounds(logprobs, 100)


# --- tables ----------------------------------------------------------------------------------------------------

TEXT = "<think>The sum is 5.\nWait, that is wrong.\nIt is 6.\n</think>Six."
STARTS = [i for i, letter in enumerate(TEXT) if i == 0 or TEXT[i - 1] in " \n>"]  # one token a word


@pytest.fixture
def tables():
    """One trace of 15 tokens whose entropies are 0, 1, 2, ...; the second step reflects."""
    trace = Trace(id="a", prompt="p", completion=TEXT)
    traces, steps = trace_table([trace]), step_table([trace], text=True)
    assert steps["is_reflection"].tolist() == [False, True, False]
    n = len(STARTS)
    scores = pd.DataFrame(
        {
            "trace_id": ["a"], "token_starts": [np.array(STARTS)], "error": [""], "kl": [np.full(n, 0.5)],
            "entropy": [np.arange(n, dtype=np.float32)],
        }
    )  # fmt: skip
    return traces, steps, scores


def words_of(steps):
    return [len(text.split()) for text in steps["text"]]


def test_step_entropy_by_hand(tables):
    """Tokens: <think> 0 | The sum is 5. = 1..4 | Wait, that is wrong. = 5..8 | It is 6. = 9..11 | </think> Six."""
    _, steps, scores = tables
    found = step_entropy(steps, scores, high=6.5)
    assert words_of(steps) == [4, 4, 3]
    assert found["n_scored"].tolist() == [4, 4, 3]
    assert found["entropy_mean"].tolist() == [2.5, 6.5, 10]
    assert found["entropy_max"].tolist() == [4, 8, 11]
    assert found["entropy_first"].tolist() == [1, 5, 9]
    assert found["share_high"].tolist() == [0, 0.5, 1]
    assert found["kl_mean"].tolist() == [0.5] * 3


def test_trace_entropy_by_hand(tables):
    """Thinking 1..11, answer the token `Six.` alone, reflection 5..8, the other steps 1..4 and 9..11."""
    traces, steps, scores = tables
    row = trace_entropy(traces, steps, scores, high=8.5).iloc[0]
    assert row["n_scored"] == len(STARTS)
    assert row["entropy_think"] == 6
    assert row["entropy_answer"] == len(STARTS) - 1
    assert row["entropy_reflect"] == 6.5
    assert row["entropy_other"] == pytest.approx((1 + 2 + 3 + 4 + 9 + 10 + 11) / 7)
    assert row["share_high"] == pytest.approx(3 / 11)
    assert row["kl_think"] == 0.5


def test_position_entropy_by_hand(tables):
    """Eleven tokens in two bins: tokens 0 to 5 (0, 1, ... 5 of 11 are below one half) and 6 to 10."""
    traces, _, scores = tables
    found = position_entropy(traces, scores, bins=2)
    assert found["position"].tolist() == [0.25, 0.75]
    assert found["n"].tolist() == [6, 5]
    assert found["value"].tolist() == [np.mean(range(1, 7)), np.mean(range(7, 12))]
    assert position_entropy(traces, scores, column="kl")["value"].tolist() == [0.5] * 11


def test_a_summary_is_no_thinking(tables):
    """Its tokens have entropies, which say nothing of the thinking that is hidden; those of the answer count."""
    traces, steps, scores = tables
    hidden = traces.assign(reasoning="summary")
    assert position_entropy(hidden, scores).empty
    assert word_entropy(hidden, scores).empty
    found, known = (trace_entropy(table, steps, scores).iloc[0] for table in (hidden, traces))
    assert np.isnan(found["entropy_think"])
    assert found["entropy_answer"] == known["entropy_answer"]


def test_reflection_entropy_by_hand(tables):
    """The only onset is token 5; the third step follows a reflecting one, so nothing is there to compare with."""
    _, steps, scores = tables
    found = reflection_entropy(steps, scores, reach=2)
    assert found["reflects"].tolist() == [True] * 5
    assert found["offset"].tolist() == [-2, -1, 0, 1, 2]
    assert found["value"].tolist() == [3, 4, 5, 6, 7]
    wide = reflection_entropy(
        steps, scores, reach=30
    )  # the neighbourhood ends where the thinking does
    assert (wide["offset"].min(), wide["offset"].max()) == (-4, 6)


def test_words_and_forking_tokens_by_hand(tables):
    """`is ` comes at tokens 3, 7 and 10: mean 20/3. Shards that are put together give what one would."""
    traces, _, scores = tables
    words = word_entropy(traces, scores, context=4)
    row = words.set_index("word").loc["is "]
    assert (row["n"], row["n_traces"], row["sum"], row["highest"]) == (3, 1, 20, 10)
    assert (row["before"], row["after"]) == ("\nIt ", "6.\n<")
    twice = forking_tokens(pd.concat([words, words]), least=6)
    assert twice["word"].tolist() == ["is "]
    assert twice["n"].tolist() == [6]
    assert twice["entropy"].tolist() == [pytest.approx(20 / 3)]


def test_survival_and_threshold(tables):
    scores = tables[2]
    n = len(STARTS)
    found = entropy_survival(scores, [0, 3.5])
    assert found["above"].tolist() == [n - 1, n - 4]
    assert found["n"].tolist() == [n, n]
    assert entropy_threshold(scores, 0.5) == (n - 1) / 2


def test_unscored_traces_and_tokens_are_left_out(tables):
    """NaN is not zero: an unscored first token, a trace with an error, one whose tokens have no place."""
    traces, steps, scores = tables
    first = scores["entropy"][0].copy()
    first[1] = np.nan
    assert step_entropy(steps, scores.assign(entropy=[first]))["entropy_mean"].tolist() == [
        3,
        6.5,
        10,
    ]
    for broken in (scores.assign(error="no"), scores.assign(token_starts=[None])):
        assert step_entropy(steps, broken)["entropy_mean"].isna().all()
        assert trace_entropy(traces, steps, broken)["entropy_think"].isna().all()
        assert position_entropy(traces, broken).empty
    with pytest.raises(ValueError, match="needs a reference or top-k"):
        position_entropy(traces, scores.assign(kl=[None]), column="kl")
    with pytest.raises(ValueError, match="no token is scored"):
        entropy_threshold(scores.assign(entropy=[None]))


def test_tags_and_commentary_between_thoughts_are_in_no_neighbourhood():
    """Two thoughts: the onset that opens the second has only its own thought behind it, and nothing before it."""
    text = "<think>The sum is 5. It is odd.</think>Well.<think>Wait, that is wrong. It is 6.</think>Six."
    trace = Trace(id="a", completion=text)
    steps = step_table([trace])
    starts = np.arange(len(text))
    scores = pd.DataFrame(
        {
            "trace_id": ["a"],
            "token_starts": [starts],
            "error": [""],
            "entropy": [starts.astype(float)],
        }
    )
    found = reflection_entropy(steps, scores, reach=3)
    onset = found[found["reflects"]]
    assert onset["offset"].tolist() == [0, 1, 2, 3]
    assert onset["value"].iloc[0] == text.index("Wait")


def test_tokens_inside_a_character_are_no_word():
    """Three tokens spell one character: two hold no text of their own."""
    traces = trace_table([Trace(id="a", completion="<think>日 b</think>c")])
    scores = pd.DataFrame(
        {
            "trace_id": ["a"],
            "token_starts": [np.array([7, 7, 7, 8])],
            "error": [""],
            "entropy": [np.ones(4)],
        }
    )
    assert set(word_entropy(traces, scores)["word"]) == {"日", " b</think>c"}
