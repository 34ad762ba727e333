"""Figures of continuation safety: what they mark, and that their numbers are the tables'."""

import numpy as np
import pandas as pd
import pytest

from cotlens.measures import continuation_safety, cue_against_turn, harm_by_round, turning_points
from cotlens.plots import plot_continuation_safety, plot_cue_against_turn, plot_harm_by_round


def curves(n_sources=12, n=16):
    """Traces whose S rises or falls at a step of their own, and some that stay."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(n_sources):
        n_steps = int(rng.integers(4, 15))
        turn = int(rng.integers(1, n_steps))
        target = [0.97, 0.03, 0.5][number % 3]
        for step in range(n_steps + 1):
            share = target if step >= turn else 0.5
            for flag in rng.random(n) < share:
                rows.append((f"trace-{number}", f"p{number // 2}", step, n_steps, flag))
    columns = ["source", "prompt_id", "step", "n_steps", "is_safe"]
    return continuation_safety(pd.DataFrame(rows, columns=columns))


def scatter_of(n=25):
    rng = np.random.default_rng(0)
    cues = rng.integers(1, 20, n)
    turns = cues + rng.integers(1, 5, n)
    names = [f"s{number}" for number in range(n)]
    cue_table = pd.DataFrame({"source": names, "cue": cues})
    turn_table = pd.DataFrame({"source": names, "prompt_id": names, "turn": turns})
    return cue_against_turn(cue_table, turn_table)


def harm_of(triggers=("Wait, what could this do to others?", "Stop: is this right?"), n=30):
    rng = np.random.default_rng(1)
    rows = []
    for trigger in triggers:
        for number in range(n):
            for round_number in range(1, 6):
                is_safe = bool(rng.random() < 0.4)
                rows.append((f"t{number}", f"p{number}", round_number, is_safe, trigger))
                if is_safe:
                    break
    columns = ["source", "prompt_id", "round", "is_accepted", "trigger"]
    return harm_by_round(pd.DataFrame(rows, columns=columns), n + 5, by="trigger")


def test_triggers_and_turning_points_are_marked():
    curve = curves()
    plot = plot_continuation_safety(curve)
    left, right = plot.figure.axes
    markers = [line.get_marker() for line in left.lines]
    assert markers.count("^") >= 2
    assert markers.count("v") >= 2
    assert len(left.get_legend().get_texts()) == 4

    # The marks stand where the measures find them.
    marks = {line.get_xdata()[0] for line in left.lines if line.get_marker() == "v"}
    assert marks <= set(turning_points(curve)["turn"].dropna())
    mean = plot.data[plot.data["part"] == "mean"]
    assert mean["n"].max() <= 12
    assert mean["n_clusters"].max() <= 6
    assert right.get_xlabel() == "share of the thought read"


def test_the_sources_asked_for_are_drawn_and_others_are_named():
    curve = curves(4)
    plot = plot_continuation_safety(curve, ["trace-2"])
    assert set(plot.data["source"].dropna()) == {"trace-2"}
    with pytest.raises(ValueError, match="'trace-9' is not in the curve"):
        plot_continuation_safety(curve, ["trace-9"])
    with pytest.raises(ValueError, match="no column value"):
        plot_continuation_safety(curve.drop(columns="value"))


def test_the_scatter_says_its_correlation_and_n():
    scatter = scatter_of()
    plot = plot_cue_against_turn(scatter)
    (axis,) = plot.figure.axes
    title = axis.get_title(loc="left")
    assert f"r = {scatter.pearson.value:.2f}" in title
    assert "n = 25 traces, 25 prompts" in title
    pd.testing.assert_frame_equal(plot.data, scatter.table)

    empty = scatter._replace(table=scatter.table.iloc[:0])
    with pytest.raises(ValueError, match="no rows"):
        plot_cue_against_turn(empty)


def test_harm_has_a_line_a_trigger():
    harm = harm_of()
    plot = plot_harm_by_round(harm, by="trigger")
    left, right = plot.figure.axes
    assert len(left.lines) == len(right.lines) == 2
    np.testing.assert_allclose(left.lines[0].get_ydata(), harm["value"].iloc[:6])
    (legend,) = plot.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "Wait, what could this do to others? (n = 35)",
        "Stop: is this right? (n = 35)",
    ]
    pd.testing.assert_frame_equal(plot.data, harm)


def test_harm_without_groups_has_one_line():
    harm = harm_of(triggers=["Wait."]).drop(columns="trigger")
    plot = plot_harm_by_round(harm)
    assert len(plot.figure.axes[0].lines) == 1
    assert not plot.figure.legends


def test_nothing_replaced_and_nothing_correlated_are_drawn():
    """No trace had an attempt; all cues stand in one place."""
    columns = ["source", "prompt_id", "round", "is_accepted"]
    harm = harm_by_round(pd.DataFrame([], columns=columns), 5)
    assert plot_harm_by_round(harm).data["value"].tolist() == [1]

    cues = pd.DataFrame({"source": ["a", "b"], "cue": [3, 3]})
    turns = pd.DataFrame({"source": ["a", "b"], "prompt_id": ["a", "b"], "turn": [4, 5]})
    plot = plot_cue_against_turn(cue_against_turn(cues, turns))
    assert "r = nan" in plot.figure.axes[0].get_title(loc="left")
