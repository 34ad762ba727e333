"""The figure of confounds: differences to the base, with one thing held equal at a time."""

import math

import pandas as pd

from cotlens.plots.parts import (
    draw_dots,
    hide,
    label_rows,
    legend_above,
    note,
    shorten,
    spread,
)
from cotlens.plots.study import MARKERS, interval_of, present_arms
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

TITLES = {  # column and domain: title
    ("entropy_think", "forbidden"): "Entropy, forbidden",
    ("entropy_think", "maths"): "Entropy, maths",
    ("reflection_rate", "forbidden"): "Reflections per step, forbidden",
    ("reflection_rate", "maths"): "Reflections per step, maths",
    ("guard_recall", "forbidden"): "Recall of the reward's guard, unsafe thinking",
}
COMPARISONS = {  # what the comparisons within an outcome are called
    "thinking_unsafe yes": "unsafe thinking",
    "thinking_unsafe no": "safe thinking",
    "is_correct yes": "right",
    "is_correct no": "wrong",
}


@house_style()
def plot_confounds(table: pd.DataFrame, text: str = "") -> Plot:
    """Differences to the base: raw, at equal length, within outcomes, on one text, on equal splits.

    Args:
        table: what `studies.confounds` returned.
        text: the study's note.

    Raises:
        ValueError: if there is nothing to compare.
    """
    known = set(zip(table["column"], table["set"], strict=True))
    panels = [measured for measured in TITLES if measured in known]
    if not panels:
        raise ValueError(
            "nothing to compare: no samples of forbidden requests or mathematics with what is "
            "measured"
        )
    order = present_arms(table)[::-1]
    rows = math.ceil(len(panels) / 2)
    height = 0.9 + rows * (0.5 + 0.26 * len(order))
    figure, axes = new_figure(rows, min(len(panels), 2), height, sharey=True)
    hide(axes.flat[len(panels) :])
    for axis, (column, domain) in zip(axes.flat, panels, strict=False):
        shown = table[(table["column"] == column) & (table["set"] == domain)]
        comparisons = []
        for comparison in dict.fromkeys(shown["comparison"]):
            if not comparison.endswith("unknown"):
                comparisons.append(comparison)
        for number, comparison in enumerate(comparisons):
            draw_dots(
                axis,
                shown[shown["comparison"] == comparison].set_index("arm").reindex(order),
                COLOURS[number],
                offset=spread(number, len(comparisons), 0.15),
                label=COMPARISONS.get(comparison, str(comparison)),
                marker=MARKERS[number],
            )

        axis.axvline(0, color="#888888", linewidth=0.8)
        for row in range(0, len(order), 2):  # bands show which marks belong to which arm
            axis.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
        pad = 4 + 11 * math.ceil(len(comparisons) / 2)
        axis.set_title(TITLES[column, domain], fontsize=8, pad=pad)
        legend_above(axis)

    for axes_of_row in axes:
        label_rows(axes_of_row, [shorten(arm) for arm in order])
    note(
        figure,
        f"difference to the base; line: 95% interval, {interval_of(table)}; no dot: too few "
        f"samples to compare\n{text}",
    )
    return Plot(figure, table)
