"""The figure of the same prompts with and without thinking."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cotlens.measures.groups import need
from cotlens.plots.parts import draw_dots, note, shorten
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure


@house_style()
def plot_thinking_effect(effect: pd.DataFrame, text: str = "", *, flag: str = "safe") -> Plot:
    """Shares with and without thinking by group, and their paired difference.

    Args:
        effect: what `thinking_effect` returned.
        text: where the numbers come from; it stands under the figure.
        flag: what the shares are of, for the labels.
    """
    need(effect, "group", "value", "low", "high", "with_thinking", "without_thinking", "p_value")
    rows = effect.iloc[::-1].reset_index(drop=True)
    height = 1.5 + 0.34 * len(rows)
    figure, axes = new_figure(1, 2, height, sharey=True, gridspec_kw={"width_ratios": (1, 1.25)})
    left, right = axes[0]

    # A line joins the two shares of a group.
    heights = np.arange(len(rows))
    ends = (rows["without_thinking"], rows["with_thinking"])
    left.hlines(heights, *ends, color="#888888", linewidth=1)
    kinds = zip(ends, ("without thinking", "with thinking"), "so", COLOURS[1::-1], strict=True)
    for shares, name, marker, colour in kinds:
        left.plot(
            shares,
            heights,
            marker,
            color=colour,
            label=name,
            clip_on=False,
            zorder=3,
        )

    # The number of pairs stands with the group.
    left.set(xlabel=f"share {flag}", xlim=(0, 1))
    names = [f"{shorten(str(row.group))} (n = {row.n:,})" for row in rows.itertuples()]
    left.set_yticks(heights, names)
    left.set_ylim(-0.6, len(rows) - 0.4)

    # To the right of 0, thinking helps.
    draw_dots(right, rows, COLOURS[0])
    right.axvline(0, color="black", linewidth=0.6)
    right.set_xlabel(f"difference: share {flag} with less without")
    _write_tests(right, rows)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=2)

    caption = (
        "the same prompts; 95% intervals over prompts; p: exact McNemar test; +: prompts where the "
        "flag is true with thinking alone, \N{MINUS SIGN}: without it alone"
    )
    note(figure, "\n".join([caption, text]))
    return Plot(figure, effect.reset_index(drop=True))


def _write_tests(axis: Axes, rows: pd.DataFrame) -> None:
    """The counts and the p-value of each group, at the right edge."""
    for place, row in enumerate(rows.to_dict("records")):
        p = f"p = {row['p_value']:.3f}"
        if row["p_value"] < 0.001:
            p = "p < 0.001"
        axis.text(
            1.01,
            place,
            f"+{row['only_with']} \N{MINUS SIGN}{row['only_without']}  {p}",
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=6.5,
        )
