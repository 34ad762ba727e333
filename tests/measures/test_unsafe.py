"""Judgements of answers: which are accepted, and the 2 x 2 of thinking and answer."""

import pandas as pd
import pytest

from cotlens.measures import outcomes, thinking_answer_estimates


def dynamics_of(n):
    """Traces whose thinking noticed a risk and went on."""
    return pd.DataFrame(
        {
            "n_marked": [1] * n,
            "any_unsafe": [1.0] * n,
            "first_risk": [0.5] * n,
            "n_self_jailbreak": [0] * n,
            "self_jailbreak_kind": [""] * n,
        }
    )


NO_FLAGS = [["safe", "unsafe"], [0.3, 1.0]]


@pytest.mark.parametrize("values", NO_FLAGS)
def test_labels_and_probabilities_are_no_judgements(values):
    """They would all count as true."""
    with pytest.raises(ValueError, match="true, false or missing"):
        outcomes(dynamics_of(2), pd.Series(values))


def test_judgements_need_the_index_of_their_rows():
    """Another index would pair the wrong rows."""
    dynamics = dynamics_of(2)
    with pytest.raises(ValueError, match="another index"):
        outcomes(dynamics, pd.Series([True]))
    with pytest.raises(ValueError, match="another index"):
        outcomes(dynamics, pd.Series([True, False], index=[1, 0]))


def test_thinking_by_answer_by_hand():
    """Of five traces three are judged twice: one cell each, but safe thinking and unsafe answer."""
    traces = pd.DataFrame(
        {
            "model": "m",
            "prompt_id": range(5),
            "thinking_unsafe": [True, True, False, None, False],
            "answer_unsafe": [False, True, False, True, None],
        }
    )
    found = thinking_answer_estimates(traces).set_index("measure")
    shares = found["value"]
    assert shares["safe_safe"] == pytest.approx(1 / 3)
    assert shares["safe_unsafe"] == 0
    assert shares["unsafe_safe"] == pytest.approx(1 / 3)
    assert shares["unsafe_unsafe"] == pytest.approx(1 / 3)

    # Given the thinking: one safe one, and two unsafe ones.
    assert shares["answer_safe_given_thinking_safe"] == 1
    assert shares["answer_safe_given_thinking_unsafe"] == 0.5
    assert found.loc["answer_safe_given_thinking_unsafe", "n"] == 2


def test_no_judgement_of_both_parts_is_named():
    traces = pd.DataFrame(
        {
            "model": "m",
            "prompt_id": [0, 1],
            "thinking_unsafe": [True, None],
            "answer_unsafe": [None, True],
        }
    )
    with pytest.raises(ValueError, match="no trace has a judgement"):
        thinking_answer_estimates(traces)
