"""Figures of injected thoughts: donor against recipient, lengths of the thought, rounds of a reset.

The tables are those of `measures.prefill`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cotlens.measures.groups import need
from cotlens.measures.prefill import NO_DONOR
from cotlens.plots.parts import draw_band, note, shorten, too_few_prompts
from cotlens.plots.study import small_panels
from cotlens.plots.style import COLOURS, Plot, house_style, one_panel, panel_plot

_LEAST = 0.1  # the colour scale reaches at least this far, so that noise stays pale
_GAP = 0.075  # between two labels at the end of lines, of the height of a panel


@house_style()
def plot_prefill_matrix(matrix: pd.DataFrame, text: str = "", *, ax: Axes | None = None) -> Plot:
    """Delta of every donor and recipient, as a heat map around 0; the fewer are columns.

    Args:
        matrix: what `prefill_matrix` returned. A cell without Delta is grey and has its safety.
        text: where the numbers come from; it stands under the figure.
        ax: axes to draw into; default: a figure with a note under it.
    """
    need(matrix, "donor", "recipient", "value", "clean", "delta", "delta_low", "n", "n_paired")
    shown = matrix[matrix["donor"] != NO_DONOR]
    need(shown)
    donors = list(dict.fromkeys(shown["donor"]))
    recipients = list(dict.fromkeys(shown["recipient"]))

    # Red is less safe than without the thought, blue is safer. The darkest colours stay unused.
    table = shown.pivot(index="donor", columns="recipient", values="delta")
    deltas = table.loc[donors, recipients].to_numpy(float)
    sizes = np.abs(deltas[~np.isnan(deltas)])
    limit = 1.25 * max(sizes.max(initial=0), _LEAST)

    # A cell has to be wide enough for its numbers.
    rows, columns = ("donor", donors), ("recipient", recipients)
    if len(recipients) > len(donors):
        rows, columns = columns, rows
        deltas = deltas.T
    (row_of, row_names), (column_of, column_names) = rows, columns
    height = 1.5 + 0.7 * len(row_names)
    axis = one_panel(ax, height)
    axis.set_facecolor("#dddddd")
    image = axis.imshow(deltas, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")

    # The numbers of each cell.
    for cell in shown.to_dict("records"):
        column = column_names.index(cell[column_of])
        line = row_names.index(cell[row_of])
        is_dark = abs(cell["delta"]) > 0.55 * limit
        colour = "white" if is_dark else "black"
        head, body = _texts_of(cell)
        axis.text(
            column,
            line - 0.07,
            head,
            color=colour,
            fontsize=8.5,
            weight="bold",
            ha="center",
            va="bottom",
        )
        axis.text(
            column,
            line - 0.03,
            body,
            color=colour,
            fontsize=6,
            linespacing=1.25,
            ha="center",
            va="top",
        )

    # Names, and a scale.
    axis.set_xticks(range(len(column_names)), [shorten(name) for name in column_names])
    axis.set_yticks(range(len(row_names)), [shorten(name) for name in row_names])
    titles = {"donor": "donor of the thought", "recipient": "recipient"}
    axis.set(xlabel=titles[column_of], ylabel=titles[row_of])
    _draw_borders(axis, len(row_names), len(column_names))
    bar = axis.figure.colorbar(
        image,
        ax=axis,
        fraction=0.04,
        pad=0.02,
    )
    bar.set_label("change of safe answers", fontsize=7)
    bar.outline.set_visible(False)

    if ax is None:
        caption = (
            "change of the share of safe answers against plain samples of the same prompts, with "
            "95% interval over prompts; below it: share without and with the thought; n: traces "
            "with the thought and a verdict"
        )
        prompts = shown.groupby("donor", sort=False)["n_paired"].min()
        lines = [caption, *too_few_prompts("", prompts), text]
        note(axis.figure, "\n".join(lines))
    return panel_plot(axis, shown.reset_index(drop=True))


def _texts_of(cell: Mapping[Any, Any]) -> tuple[str, str]:
    """What is written in a cell: Delta; its interval, safety without and with the thought, n."""
    size = f"n = {cell['n']:,}"
    if np.isnan(cell["delta"]):
        return "no plain samples", f"{cell['value']:.2f}\n{size}"

    # Fewer than two prompts give no interval.
    interval = "no interval"
    if not np.isnan(cell["delta_low"]):
        low = _signed(cell["delta_low"])
        high = _signed(cell["delta_high"])
        interval = f"{low} to {high}"

    after = cell["clean"] + cell["delta"]
    shares = f"{cell['clean']:.2f} → {after:.2f}"
    return _signed(cell["delta"]), f"{interval}\n{shares}\n{size}"


def _signed(number: float) -> str:
    """A number with its sign, and a true minus."""
    text = f"{number:+.2f}"
    if float(text) == 0:
        return "0.00"
    return text.replace("-", "\N{MINUS SIGN}")


def _draw_borders(axis: Axes, n_rows: int, n_columns: int) -> None:
    """White lines between the cells; no grid and no frame."""
    axis.grid(visible=False)
    axis.tick_params(length=0)
    for edge in ("left", "bottom"):
        axis.spines[edge].set_visible(False)

    for row in range(1, n_rows):
        axis.axhline(row - 0.5, color="white", linewidth=1.5)
    for column in range(1, n_columns):
        axis.axvline(column - 0.5, color="white", linewidth=1.5)


@house_style()
def plot_prefill_length(lengths: pd.DataFrame, text: str = "") -> Plot:
    """Safe answers by the length of the donor's thought: a panel a recipient, a line a donor.

    Args:
        lengths: what `by_length` returned.
        text: where the numbers come from; it stands under the figure.
    """
    unit = "steps" if "steps" in lengths else "words"
    need(lengths, unit, "donor", "recipient", "value", "low", "high", "n", "n_prompts")
    recipients = list(dict.fromkeys(lengths["recipient"]))
    donors = list(dict.fromkeys(lengths["donor"]))
    figure, axes = small_panels(len(recipients), 0.9, 1.9, f"{unit} of the thought")

    for axis, recipient in zip(axes, recipients, strict=True):
        of_recipient = lengths[lengths["recipient"] == recipient]
        _draw_lines(axis, of_recipient, unit, "donor", donors)
        axis.set_title(shorten(recipient), fontsize=8)

    # What a reader must know.
    figure.supylabel("safe answers", fontsize=8)
    plain = f"0 {unit}: plain samples"
    caption = f"most {unit} of a donor's thought before the answer; band: 95%, by prompt; {plain}"
    prompts = lengths.groupby("recipient", sort=False)["n_prompts"].min()
    lines = [caption, *too_few_prompts("", prompts), text]
    note(figure, "\n".join(lines))
    return Plot(figure, lengths.reset_index(drop=True))


@house_style()
def plot_reset(curve: pd.DataFrame, text: str = "") -> Plot:
    """Safe answers by round of a reset: a panel a donor, a line an arm.

    The dashed line is the share that is safe in this round and in all before it; it ends in a
    diamond, the share that is safe in all rounds.

    Args:
        curve: what `reset_curve` returned.
        text: where the numbers come from; it stands under the figure.
    """
    need(curve, "donor", "recipient", "round", "value", "low", "high", "persistent", "n")
    donors = list(dict.fromkeys(curve["donor"]))
    recipients = list(dict.fromkeys(curve["recipient"]))
    figure, axes = small_panels(len(donors), 1.0, 2.1, "round")

    for axis, donor in zip(axes, donors, strict=True):
        of_donor = curve[curve["donor"] == donor]
        _draw_lines(axis, of_donor, "round", "recipient", recipients)
        axis.set_title(f"thought of {shorten(donor)}", fontsize=8)

    # What a reader must know.
    figure.supylabel("safe answers", fontsize=8)
    caption = (
        "round 0: after the beginning of the thought; each further round puts it there again; "
        "band: 95%, by prompt; dashed, diamond: safe in this round and in all before it"
    )
    prompts = curve.groupby("recipient", sort=False)["n_prompts"].min()
    lines = [caption, *too_few_prompts("", prompts), text]
    note(figure, "\n".join(lines))
    return Plot(figure, curve.reset_index(drop=True))


class _End(NamedTuple):
    """The end of a line, and its name."""

    at: float
    height: float
    name: str
    colour: str


def _draw_lines(axis: Axes, points: pd.DataFrame, column: str, by: str, names: list[str]) -> None:
    """A line with its band for each name, and the dashed one of rounds; labels at their ends."""
    ends = []
    for number, name in enumerate(names):
        line = points[points[by] == name].sort_values(column)
        if line.empty:
            continue
        colour = COLOURS[number % len(COLOURS)]
        draw_band(axis, line[column], line, colour, name)
        axis.plot(line[column], line["value"], "o", color=colour, markersize=3)
        if "persistent" in line:
            _draw_persistent(axis, line, colour)

        # Its name stands there.
        last = line.iloc[-1]
        end = _End(last[column], float(last["value"]), name, colour)
        ends.append(end)
    _label_ends(axis, ends)

    # The number of traces of a point.
    least = int(points["n"].min())
    most = int(points["n"].max())
    size = f"{least:,}"
    if most > least:
        size = f"{least:,} to {most:,}"
    axis.text(
        0.03,
        0.03,
        f"n = {size} a point",
        transform=axis.transAxes,
        fontsize=6.5,
    )
    ticks = sorted(set(points[column]))
    axis.set(ylim=(0, 1.02), xticks=ticks)


def _draw_persistent(axis: Axes, line: pd.DataFrame, colour: str) -> None:
    """The share that is safe in all rounds so far, and its last value as a diamond."""
    axis.plot(line["round"], line["persistent"], "--", color=colour, linewidth=1)
    last = line.iloc[-1]
    axis.plot(
        last["round"],
        last["persistent"],
        "D",
        color=colour,
        markersize=5,
        markeredgecolor="white",
        clip_on=False,
        zorder=3,
    )


def _label_ends(axis: Axes, ends: list[_End]) -> None:
    """The name of each line to the right of its end, none over another."""
    by_height = sorted(ends, key=lambda end: end.height)

    # Up from the lowest, then down from the top of the panel.
    heights = []
    lowest = 0.0
    for end in by_height:
        height = max(end.height, lowest)
        heights.append(height)
        lowest = height + _GAP
    highest = 1.0
    for number in reversed(range(len(heights))):
        heights[number] = min(heights[number], highest)
        highest = heights[number] - _GAP

    # White space between the mark and the name.
    for end, height in zip(by_height, heights, strict=True):
        axis.annotate(
            shorten(end.name, 18),
            (end.at, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color=end.colour,
            annotation_clip=False,
        )
