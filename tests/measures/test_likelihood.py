"""How likely steps are to a model, derived by hand."""

import numpy as np
import pandas as pd
import pytest

from cotlens import Trace, step_table
from cotlens.measures import nll_of_steps
from cotlens.text.tokens import word_starts

TEXT = "<think>The sum is 5.\nWait, that is wrong.\n2+4 is 6.\n</think>Six."

# One token per word: <think> 0 | The sum is 5. = 1..4 | Wait, that is wrong. = 5..8
# | 2+4 is 6. = 9..11 | </think> and Six. after them.
STARTS = [i for i, letter in enumerate(TEXT) if i == 0 or TEXT[i - 1] in " \n>"]


def scores_of(logprobs, trace_id="a", error=""):
    values = np.array(logprobs, np.float32)
    return pd.DataFrame(
        {
            "trace_id": [trace_id],
            "token_starts": [np.array(STARTS)],
            "word_starts": [word_starts(TEXT, STARTS)],
            "error": [error],
            "logprob": [values],
            "entropy": [-values],
        }
    )


@pytest.fixture
def steps():
    return step_table([Trace(id="a", prompt="p", completion=TEXT)])


def test_sums_and_means_by_hand(steps):
    """Token i has log-prob -i: 1+2+3+4, 5+6+7+8, 9+10+11."""
    table = nll_of_steps(scores_of(-np.arange(len(STARTS))), steps)
    assert table["n_scored"].tolist() == [4, 4, 3]
    assert table["nll"].tolist() == [10, 26, 30]
    assert table["nll_mean"].tolist() == [2.5, 6.5, 10]


def test_tokens_without_a_score_do_not_count(steps):
    logprobs = -np.arange(len(STARTS), dtype=float)
    logprobs[5:9] = np.nan
    logprobs[1] = np.nan
    table = nll_of_steps(scores_of(logprobs), steps)
    assert table["n_scored"].tolist() == [3, 0, 3]
    assert table["nll"].tolist()[::2] == [9, 30]
    assert table[["nll", "nll_mean"]].isna().all(axis=1).tolist() == [False, True, False]


def test_a_trace_without_scores_is_unknown(steps):
    others = pd.concat([scores_of(-np.ones(len(STARTS)), "b")], ignore_index=True)
    table = nll_of_steps(others, steps)
    assert table["n_scored"].tolist() == [0, 0, 0]
    assert table["nll"].isna().all()


def test_steps_keep_their_order_whatever_their_index(steps):
    scores = scores_of(-np.arange(len(STARTS)))
    shuffled = steps.iloc[[2, 0, 1]]
    table = nll_of_steps(scores, shuffled)
    assert table["nll"].tolist() == [30, 10, 26]
    assert table.index.tolist() == shuffled.index.tolist()


def test_scores_without_log_probs_are_an_error(steps):
    with pytest.raises(ValueError, match="logprob"):
        nll_of_steps(scores_of(np.ones(len(STARTS))).drop(columns="logprob"), steps)
