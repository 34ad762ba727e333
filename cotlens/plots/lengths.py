"""The figure of lengths: thinking, answer and steps of each group."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cotlens.measures.lengths import LENGTHS, QUANTILES, length_quantiles
from cotlens.plots.parts import label_rows, note, row_order, shorten
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

SHARES = ("share_open", "share_absent", "share_hidden")
SHORTEST = 1.0  # a length of 0 has no place on a logarithmic axis


@house_style()
def plot_lengths(traces: pd.DataFrame, by: str = "model") -> Plot:
    """Length of thinking, length of answer and steps per trace.

    Median, quartiles, 5th to 95th percentile.

    Open thoughts count with the length they reached, so a group with many of them is longer than it
    looks; the label of a group gives their share, and that of traces without a thought.

    Args:
        traces: a trace table.
        by: column of the group.
    """
    data = length_quantiles(traces, by)
    medians = data[data["measure"] == "n_think_chars"].set_index("group")["median"]
    order = row_order(traces[by], medians.to_dict())

    # A panel for each length that some trace has.
    known = set(data.loc[data["n"] > 0, "measure"])
    titles = {measure: title for measure, title in LENGTHS.items() if measure in known} or LENGTHS
    figure, axes = new_figure(1, len(titles), 1.1 + 0.3 * len(order), sharey=True)
    for axis, (measure, title), colour in zip(axes[0], titles.items(), COLOURS, strict=False):
        rows = data[data["measure"] == measure].set_index("group").loc[order]
        _draw_ranges(axis, rows, colour)
        axis.set_title(title)

    summary = data.drop_duplicates("group").set_index("group").loc[order]
    label_rows(axes[0], [_group_label(name, row) for name, row in summary.iterrows()])
    note(
        figure,
        "dot: median, bar: quartiles, line: 5th to 95th percentile, logarithmic scale; open: cut "
        "off or without an "
        "answer, not counted under answers; absent: no thought, and hidden: only a summary of it, "
        "counted under "
        "answers only",
    )
    return Plot(figure, data)


def _draw_ranges(axis: Axes, rows: pd.DataFrame, colour: str) -> None:
    """Median, quartiles and 5th to 95th percentile of each row, on a logarithmic axis."""
    heights = np.arange(len(rows))
    quantiles = [rows[name].to_numpy(float).clip(SHORTEST) for name in QUANTILES]
    low, quarter, median, three_quarters, high = quantiles
    axis.hlines(heights, low, high, color=colour, linewidth=0.9)
    axis.hlines(heights, quarter, three_quarters, color=colour, linewidth=5, alpha=0.45)
    axis.plot(
        median,
        heights,
        "o",
        color=colour,
        markersize=4,
        markeredgecolor="white",
        markeredgewidth=0.6,
    )
    axis.set_xscale("log")
    if np.isnan(median).all():
        return

    # A range of a decade or so needs ticks between its powers of ten; a narrow one round numbers.
    ratio = np.nanmax(high) / np.nanmin(low)
    if ratio <= 6:
        axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    else:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 30 else (1,)))
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


def _group_label(name: object, row: pd.Series) -> str:
    """A group with its number of traces and the shares that are not zero."""
    label = f"{shorten(str(name))}\nn = {row['n_traces']:,}"
    for column in SHARES:
        share = row[column]
        if share:
            percent = "<1" if share < 0.005 else round(100 * share)
            label += f", {percent}% {column.removeprefix('share_')}"
    return label
