"""Figures of one panel can stand next to a user's own."""

import pandas as pd
import pytest
from matplotlib.figure import Figure
from places import SAMPLES

from cotlens import analyze
from cotlens.plots import (
    plot_entropy_distribution,
    plot_forking_tokens,
    plot_marker_agreement,
    plot_outcomes,
    plot_position_entropy,
    plot_safety_and_skill,
    plot_safety_by_part,
    plot_transitions,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return analyze([SAMPLES], tmp_path_factory.mktemp("axes") / "run")


def judged():
    """Four traces of one model: thinking unsafe in two, the answer in one."""
    return pd.DataFrame(
        {
            "trace_id": list("abcd"),
            "prompt_id": list("pqrs"),
            "model": "m",
            "thinking_unsafe": pd.array([True, True, False, False], dtype="boolean"),
            "answer_unsafe": pd.array([True, False, False, False], dtype="boolean"),
            "outcome": ["safe", "safe", "safe", "harm_misidentification"],
        }
    )


def positions():
    return pd.DataFrame(
        {
            "trace_id": list("aabb"),
            "prompt_id": list("ppqq"),
            "model": "m",
            "position": [0.25, 0.75, 0.25, 0.75],
            "value": [1.0, 2.0, 3.0, 4.0],
        }
    )


def thresholds():
    return pd.DataFrame(
        {
            "trace_id": list("ab"),
            "prompt_id": list("pq"),
            "model": "m",
            "threshold": 0.5,
            "above": [1, 2],
            "n": 4,
        }
    )


def forks():
    return pd.DataFrame({"word": [" so", "\n"], "n": [3, 2], "n_traces": 2, "entropy": [2.0, 1.0]})


def measures():
    row = {"arm": "base", "low": 0.1, "high": 0.9, "n": 4, "n_units": 4, "units": "prompts"}
    names = {"is_correct_maths": 0.5, "thinking_unsafe_forbidden": 0.25}
    return pd.DataFrame(
        [row | {"measure": name, "label": name, "value": value} for name, value in names.items()]
    )


PANELS = {
    "marker_agreement": lambda run, ax: plot_marker_agreement(run.step_table(), ax=ax),
    "transitions": lambda run, ax: plot_transitions(run.step_table(), ax=ax),
    "position_entropy": lambda run, ax: plot_position_entropy(positions(), ax=ax),
    "distribution": lambda run, ax: plot_entropy_distribution(thresholds(), ax=ax),
    "forking_tokens": lambda run, ax: plot_forking_tokens(forks(), ax=ax),
    "outcomes": lambda run, ax: plot_outcomes(judged(), ax=ax),
    "safety_by_part": lambda run, ax: plot_safety_by_part(judged(), ax=ax),
    "safety_and_skill": lambda run, ax: plot_safety_and_skill(measures(), ax=ax),
}


@pytest.mark.parametrize("name", PANELS)
def test_a_panel_draws_into_the_axes_that_it_is_given(run, name):
    """Into those alone, without a note under a figure that is not its own; the numbers are the same."""
    figure = Figure()
    left, right = figure.subplots(1, 2)
    given = PANELS[name](run, left)
    alone = PANELS[name](run, None)
    assert given.figure is figure
    assert left.has_data()
    assert not right.has_data()
    assert figure.get_supxlabel() == ""
    assert alone.figure is not figure
    assert alone.figure.get_supxlabel()
    pd.testing.assert_frame_equal(given.data, alone.data)
