"""Figures of pivots, and of thinking against none, show the numbers of their tables."""

import pandas as pd
import pytest

from cotlens.measures import Pivot, thinking_effect
from cotlens.plots import plot_pivots, plot_thinking_effect

SAFE, UNSAFE, RETHINK = (pivot.value for pivot in Pivot)


def pivots(n=30):
    rows = []
    for number in range(n):
        written = [SAFE, UNSAFE, RETHINK] if number % 2 else [SAFE, SAFE]
        truth = [SAFE, SAFE, RETHINK] if number % 2 else [SAFE, SAFE]
        for step, (pivot, right) in enumerate(zip(written, truth, strict=True)):
            trace = f"t{number:02d}"
            row = {"trace_id": trace, "prompt_id": trace, "step": step}
            rows.append(row | {"pivot": pivot, "truth": right})
    return pd.DataFrame(rows)


def test_pivots_against_the_truth():
    plot = plot_pivots(pivots(), "from a test", most=20)
    left, right = plot.figure.axes
    texts = [text.get_text() for text in left.texts]
    safe_row = ["0.75\n45", "0.25\n15", "0.00\n0"]
    assert texts == [*safe_row, *["no step\n0"] * 3, *["0.00\n0"] * 2, "1.00\n15"]
    assert plot.data["n"].sum() == 75

    # Fifteen traces have an UNSAFE; they come first, and each has one pivot that is wrong.
    sizes = {points.get_label(): len(points.get_offsets()) for points in right.collections}
    assert sizes == {SAFE: 25, UNSAFE: 15, RETHINK: 15, "another is right": 15}
    wrong = right.collections[-1].get_offsets()
    assert sorted(wrong[:, 1].tolist()) == list(range(15))
    note = plot.figure._supxlabel.get_text()
    assert "20 traces" in note
    assert "precision of [UNSAFE] 0.00" in note
    assert "recall of [UNSAFE]: none" in " ".join(note.split())


def test_nothing_is_no_figure():
    with pytest.raises(ValueError, match="no rows"):
        plot_pivots(pivots(0).reindex(columns=pivots(1).columns))


def test_thinking_against_none():
    rows = []
    for number in range(40):
        flags = (number < 26, number < 20 or number in (38, 39))
        for thinking, flag in zip((True, False), flags, strict=True):
            rows.append({"prompt_id": number, "thinking": thinking, "is_safe": flag})
    table = pd.DataFrame(rows)
    both = pd.concat([table.assign(arm="r2d"), table.assign(arm="base", is_safe=True)])
    plot = plot_thinking_effect(thinking_effect(both, by="arm"))
    left, right = plot.figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "base (n = 40)",
        "r2d (n = 40)",
    ]
    assert [text.get_text() for text in right.texts] == [
        "+0 \N{MINUS SIGN}0  p = 1.000",
        "+6 \N{MINUS SIGN}2  p = 0.289",
    ]
    without, with_thinking = left.lines
    assert without.get_xdata().tolist() == pytest.approx([1, 22 / 40])
    assert with_thinking.get_xdata().tolist() == pytest.approx([1, 26 / 40])
