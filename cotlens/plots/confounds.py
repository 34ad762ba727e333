"""The figure of confounds: an arm's difference to the base, raw and with one thing held equal at a time."""

import math

import pandas as pd

from cotlens.plots.parts import draw_dots, label_rows, legend_above, note, shorten
from cotlens.plots.study import MARKERS, interval_of, present_arms
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

_OUTCOMES = {
    "thinking_unsafe yes": "unsafe thinking",
    "thinking_unsafe no": "safe thinking",
    "is_correct yes": "right",
    "is_correct no": "wrong",
}


@house_style()
def plot_confounds(found: pd.DataFrame, text: str = "") -> Plot:
    """Differences to the base: raw, at equal length, within an outcome, on one common text, on equal splits.

    Args:
        found: of `findings.confounds`.
        text: the study's note.

    Raises:
        ValueError: if there is nothing to compare.
    """
    titles = {
        ("entropy_think", "forbidden"): "Entropy, forbidden", ("entropy_think", "maths"): "Entropy, maths",
        ("reflection_rate", "forbidden"): "Reflections per step, forbidden",
        ("reflection_rate", "maths"): "Reflections per step, maths",
        ("guard_recall", "forbidden"): "Recall of the reward's guard, unsafe thinking",
    }  # fmt: skip
    have = set(zip(found["column"], found["set"], strict=True))
    titles = {of: title for of, title in titles.items() if of in have}
    if not titles:
        raise ValueError(
            "nothing to compare: no samples of forbidden requests or mathematics with what is measured"
        )
    order = present_arms(found)[::-1]
    rows = math.ceil(len(titles) / 2)
    figure, axes = new_figure(
        rows, min(len(titles), 2), 0.9 + rows * (0.5 + 0.26 * len(order)), sharey=True
    )
    for axis in axes.flat[len(titles) :]:
        axis.set_visible(False)
    for axis, ((column, where), title) in zip(axes.flat, titles.items(), strict=False):
        shown = found[(found["column"] == column) & (found["set"] == where)]
        comparisons = [
            name for name in dict.fromkeys(shown["comparison"]) if not name.endswith("unknown")
        ]
        for number, comparison in enumerate(comparisons):
            part = shown[shown["comparison"] == comparison].set_index("arm").reindex(order)
            label = _OUTCOMES.get(str(comparison), str(comparison))
            offset = 0.15 * ((len(comparisons) - 1) / 2 - number)
            draw_dots(
                axis, part, COLOURS[number], offset=offset, label=label, marker=MARKERS[number]
            )
        axis.axvline(0, color="#888888", linewidth=0.8)
        for row in range(0, len(order), 2):  # which marks belong to which arm
            axis.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
        axis.set_title(title, fontsize=8, pad=4 + 11 * math.ceil(len(comparisons) / 2))
        legend_above(axis)
    for row in axes:
        label_rows(row, [shorten(arm) for arm in order])
    note(
        figure,
        f"difference to the base; line: 95% interval, {interval_of(found)}; no dot: too few samples to compare\n{text}",
    )
    return Plot(figure, found)
