"""The figure of drift: that its numbers are the table's, and what it refuses."""

import numpy as np
import pandas as pd
import pytest

from cotlens.measures import drift_estimates
from cotlens.plots import plot_drift


def drifts(arms=(("base_copy", np.nan, 0.0), ("rlvr", 0.04, -0.2)), n=20):
    rng = np.random.default_rng(0)
    rows = []
    for arm, beta, drift in arms:
        for split in ("train_mixed", "mixed"):
            for number in range(n):
                noise = rng.normal(0, 0.1, 3)
                row = {"arm": arm, "beta": beta, "split": split, "prompt_id": f"p{number}"}
                row["predicted"] = drift + noise[0]
                row["observed"] = drift + noise[1]
                row["predicted_shuffled"] = noise[2] / 10
                row["bound"] = abs(drift) + 0.1
                rows.append(row)
    return pd.DataFrame(rows)


def test_the_numbers_are_those_of_the_estimates():
    table = drifts()
    plot = plot_drift(table, "from a test")
    pd.testing.assert_frame_equal(plot.data, drift_estimates(table))
    left, right = plot.figure.axes
    shown = []
    for line in left.lines:
        if len(line.get_xdata()) == 1:
            shown.append((line.get_xdata()[0], line.get_ydata()[0]))
    assert shown == list(zip(plot.data["predicted"], plot.data["observed"], strict=True))

    sizes = [line.get_ydata()[0] for line in right.lines if len(line.get_xdata()) == 1]
    assert sizes == plot.data["observed"].abs().tolist()


def test_legend_and_note_say_what_is_shown():
    plot = plot_drift(drifts(), "from a test")
    labels = [text.get_text() for text in plot.figure.legends[0].get_texts()]
    assert labels == ["base_copy", "rlvr (beta 0.04)", "train mixed", "mixed"]
    words = " ".join(plot.figure.get_supxlabel().split())
    assert "means over 20 prompts" in words
    assert "control: with safeties dealt out anew" in words
    assert "from a test" in words


def test_both_panels_have_room_for_every_interval():
    """The left axes are alike; the right ones begin at 0, where an interval that holds 0 ends."""
    plot = plot_drift(drifts())
    left, right = plot.figure.axes
    assert left.get_xlim() == left.get_ylim()
    assert left.get_xlim()[0] <= plot.data["observed_low"].min()
    assert right.get_ylim()[0] == right.get_xlim()[0] == 0


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(ValueError, match="no drifts to draw"):
        plot_drift(drifts().iloc[:0])
    with pytest.raises(ValueError, match="got 8 splits"):
        plot_drift(drifts().assign(split=[f"s{number % 8}" for number in range(80)]))
