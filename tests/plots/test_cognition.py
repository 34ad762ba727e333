"""Figures of a judge's view of the thinking show the numbers of the measures."""

import math

import pandas as pd
import pytest

from cotlens.measures import BEHAVIOURS
from cotlens.plots import plot_behaviours, plot_self_reflection


def judged():
    labels = ["yes", "yes", "no", "yes", "undecided"]
    return pd.DataFrame({"prompt_id": list("abcde"), "label": labels, "condition": "prefilled"})


def test_self_reflection_with_waiting():
    """Of three known traces one reflects after 4 own tokens, one after 9, one never."""
    first = pd.DataFrame(
        {
            "condition": "prefilled",
            "n_tokens": [9, 4, math.nan, math.nan],
            "is_censored": pd.array([False, False, True, None], dtype="boolean"),
        }
    )
    data = plot_self_reflection(judged(), first, judge="J").data
    shares = data[data["measure"] == "share"]
    assert shares["value"].tolist() == [0.75]
    waiting = data[data["measure"] == "reflected_by"]
    assert waiting["n_tokens"].tolist() == [4, 9]
    assert waiting["value"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert set(waiting["n_never"]) == {1}


def test_self_reflection_without_prefixes():
    figure = plot_self_reflection(judged(), pd.DataFrame()).figure
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert texts == ["no trace has a known prefix"]


def test_behaviours_of_two_groups():
    table = pd.DataFrame({"prompt_id": list("abcd"), "model": ["m", "m", "n", "n"]})
    for name in BEHAVIOURS:
        table[f"n_{name}"] = [0, 1, 2, 3]
        table[f"steps_{name}"] = [0, 2, 1, 3]
    table["n_unverified"] = [0, 0, 1, 0]
    plot = plot_behaviours(table)
    rows = plot.data[plot.data["measure"] == "n_backtracking"]
    assert rows["value"].tolist() == [0.5, 2.5]
    agreed = plot.data[plot.data["measure"] == "agreement"]
    assert agreed["spearman"].iloc[0] == pytest.approx(0.8)
