"""What figures share: groups in order, bands, dots, legends, and the lines under a figure."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from cotlens.measures.requests import BASELINE
from cotlens.plots.style import COLOURS

FEW_PROMPTS = 10  # intervals over fewer prompts are too narrow: docs/statistics.md
BASELINE_COLOUR = "#888888"
NOTE_WIDTH = 135  # characters of the note's size that fit a page


def grouped(table: pd.DataFrame, by: str, most: int) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Name, rows and colour of the `most` groups with the most traces.

    The order is that of a categorical column, else alphabetical. A baseline comes last, in grey,
    and is none of the `most`.
    """
    is_baseline = table[by] == BASELINE
    n_traces = table[~is_baseline].groupby(by, dropna=False)["trace_id"].nunique()
    by_size = n_traces.sort_values(ascending=False, kind="stable")
    largest = set(by_size.index[:most])
    ordered = [group for group in _categories(table[by]) if group in largest]
    if not ordered:
        ordered = sorted(largest, key=str)

    for group, colour in zip(ordered, cycle(COLOURS), strict=False):
        rows = table[table[by] == group]
        yield str(group) or "(unnamed)", rows, colour
    if is_baseline.any():
        yield BASELINE, table[is_baseline], BASELINE_COLOUR


def _categories(groups: pd.Series) -> list[Any]:
    """The order that a categorical column gives its groups; empty for other columns."""
    if isinstance(groups.dtype, pd.CategoricalDtype):
        return list(groups.cat.categories)
    return []


def row_order(groups: pd.Series, values: Mapping[Any, float]) -> list[str]:
    """The groups from the lowest row up.

    Categories stand in their order from above; other groups by value, those without one lowest.
    """
    categories = [str(name) for name in _categories(groups)]
    if categories:
        return [name for name in reversed(categories) if name in values]

    def height(name: str) -> tuple[bool, float]:
        return not np.isnan(values[name]), values[name]

    return sorted(map(str, values), key=height)


def sizes_by_group(table: pd.DataFrame, by: str) -> dict[str, int]:
    """Rows of each group, by the name that figures give it."""
    sizes = {}
    for group, size in table.groupby(by, dropna=False).size().items():
        name = str(group) or "(unnamed)"
        sizes[name] = int(size)
    return sizes


def legend_name(group: str, rows: pd.DataFrame) -> str:
    """A group with the numbers of its traces and prompts."""
    n_traces = rows["trace_id"].nunique()
    n_prompts = rows["prompt_id"].nunique()
    return f"{shorten(group)} ({n_traces:,} traces, {n_prompts:,} prompts)"


def shorten(name: str, longest: int = 36) -> str:
    """A name that leaves room for the figure: the end of a path, with its middle left out."""
    if len(name) > longest:
        name = name.rstrip("/").rsplit("/", 1)[-1]
    name = name.replace("$", r"\$")  # not a formula
    if len(name) <= longest:
        return name
    half = longest // 2 - 1
    return f"{name[:half]}…{name[-half:]}"


def draw_band(axis: Axes, at: pd.Series, curve: pd.DataFrame, colour: str, label: str) -> None:
    """A line (`value`) with its interval (`low`, `high`)."""
    axis.fill_between(
        at,
        curve["low"],
        curve["high"],
        color=colour,
        alpha=0.22,
        linewidth=0,
    )
    axis.plot(at, curve["value"], color=colour, linewidth=1.4, label=label)


def draw_dots(
    axis: Axes,
    rows: pd.DataFrame,
    colour: str,
    *,
    offset: float = 0.0,
    label: str = "",
    marker: str = "o",
) -> None:
    """A dot (`value`) and its interval (`low`, `high`) for each row, from the lowest up."""
    heights = np.arange(len(rows)) + offset
    axis.hlines(heights, rows["low"], rows["high"], color=colour, linewidth=1.2)
    axis.plot(
        rows["value"],
        heights,
        marker,
        color=colour,
        label=label or None,
        clip_on=False,
        markersize=4,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=3,  # over the axis
    )


def draw_group_dots(axis: Axes, rows: pd.DataFrame, colour: str) -> None:
    """A dot and its interval for each group, by which the rows are indexed; grey: a baseline."""
    is_baseline = pd.Series(rows.index == BASELINE, rows.index)
    draw_dots(axis, rows.mask(is_baseline), colour)
    if is_baseline.any():
        draw_dots(axis, rows.where(is_baseline), BASELINE_COLOUR)


def spread(number: int, total: int, step: float) -> float:
    """The offset of one of several dots in a row: evenly about the middle, the first on top."""
    return step * ((total - 1) / 2 - number)


def legend_above(axis: Axes) -> None:
    """A legend of two columns over the axes."""
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=2,
        borderaxespad=0.2,
        columnspacing=1.5,
    )


def legend_outside(axis: Axes, ncols: int) -> None:
    """The legend of one panel above the whole figure."""
    handles, labels = axis.get_legend_handles_labels()
    axis.figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=ncols,
    )


def hide(axes: Iterable[Axes]) -> None:
    """Leave places of the grid empty."""
    for axis in axes:
        axis.set_visible(False)


def label_rows(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """Names for the rows that panels share."""
    for axis in axes:
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(-0.6, len(labels) - 0.4)


def note(figure: Figure | SubFigure, text: str) -> None:
    """What a reader must know, under the figure, in lines that fit it."""
    text = text.replace("$", r"\$")  # not a formula
    lines = []
    for line in text.split("\n"):
        lines += _even_lines(line, NOTE_WIDTH)
    wrapped = "\n".join(lines).strip("\n")
    figure.supxlabel(wrapped, fontsize=6.5, color="#555555")


def _even_lines(text: str, width: int) -> list[str]:
    """As few lines as the width needs, each as narrow as that allows: no line of a single word."""
    lines = textwrap.wrap(text, width) or [""]
    narrowest = max(1, len(text) // len(lines))
    for narrower in range(narrowest, width):
        even = textwrap.wrap(text, narrower) or [""]
        if len(even) <= len(lines):
            return even
    return lines


def too_few_prompts(what: str, prompts: pd.Series) -> list[str]:
    """A line that names the groups with too few prompts, if there are any."""
    few = []
    for group, n in prompts.items():
        if 0 < n < FEW_PROMPTS:
            few.append(f"{group or '(unnamed)'} ({n})")
    if not few:
        return []
    fault = f"{what}fewer than {FEW_PROMPTS} prompts, too few for their intervals to hold"
    return [f"{fault}: {', '.join(few)}"]
