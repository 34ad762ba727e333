"""The figure of lengths: characters, steps and tokens of thinking and answer."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cotlens.measures.lengths import LENGTHS, QUANTILES, length_quantiles
from cotlens.plots.parts import label_rows, note, row_order, shorten
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure


@house_style()
def plot_lengths(traces: pd.DataFrame, by: str = "model") -> Plot:
    """Length of thinking, length of answer and steps per trace by group: median, quartiles, 5th to 95th percentile.

    Open thoughts enter with the length they reached, so a group with many of them is longer than it looks; their share,
    and that of traces without a thought, stands beside the group's name.
    """
    data = length_quantiles(traces, by)
    medians = data[data["measure"] == "n_think_chars"].set_index("group")["median"].to_dict()
    order = row_order(traces[by], medians)
    known = set(data.loc[data["n"] > 0, "measure"])
    shown = {measure: title for measure, title in LENGTHS.items() if measure in known} or LENGTHS
    figure, axes = new_figure(1, len(shown), 1.1 + 0.3 * len(order), sharey=True)
    for axis, (measure, title), colour in zip(axes[0], shown.items(), COLOURS, strict=False):
        part = data[data["measure"] == measure].set_index("group").loc[order]
        _draw_ranges(axis, part, colour)
        axis.set_title(title)
    summary = data.drop_duplicates("group").set_index("group").loc[order]
    labels = [_group_label(*row) for row in summary[["n_traces", *_SHARES]].itertuples()]
    label_rows(axes[0], labels)
    note(
        figure,
        "dot: median, bar: quartiles, line: 5th to 95th percentile, logarithmic scale; open: cut off or without an "
        "answer, not counted under answers; absent: no thought, and hidden: only a summary of it, counted under "
        "answers only",
    )
    return Plot(figure, data)


def _draw_ranges(axis: Axes, part: pd.DataFrame, colour: str) -> None:
    rows = np.arange(len(part))
    floor = 1.0  # a length of 0 has no place on a logarithmic axis
    low, q1, mid, q3, high = (part[name].to_numpy(float).clip(floor) for name in QUANTILES)
    axis.hlines(rows, low, high, color=colour, linewidth=0.9)
    axis.hlines(rows, q1, q3, color=colour, linewidth=5, alpha=0.45)
    axis.plot(
        mid, rows, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.6
    )
    axis.set_xscale("log")
    if not np.isnan(mid).all():
        spread = np.nanmax(high) / np.nanmin(low)
        powers = LogLocator(
            subs=(1, 2, 5) if spread < 30 else (1,)
        )  # a decade or so needs ticks between its powers
        axis.xaxis.set_major_locator(
            powers if spread > 6 else MaxNLocator(5, steps=[1, 2, 5, 10], integer=True)
        )
        axis.xaxis.set_major_formatter(FuncFormatter(_short_number))
        axis.xaxis.set_minor_formatter(NullFormatter())


def _short_number(number: float, _: object) -> str:
    """100, 2k, 50k, 1M.

    >>> [_short_number(number, None) for number in (0.5, 20, 1000, 50_000)]
    ['0.5', '20', '1k', '50k']
    """
    for limit, letter in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:g}{letter}"
    return f"{number:g}"


_SHARES = ("share_open", "share_absent", "share_hidden")


def _group_label(name: str, n_traces: int, *shares: float) -> str:
    words = (
        f", {'<1' if s < 0.005 else round(100 * s)}% {key.removeprefix('share_')}"
        for key, s in zip(_SHARES, shares, strict=True)
        if s
    )
    return f"{shorten(name)}\nn = {n_traces:,}" + "".join(words)
