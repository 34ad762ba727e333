"""What figures share: groups in order, bands, dots, legends, and the lines under a figure."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cotlens.plots.style import COLOURS


def grouped(table: pd.DataFrame, by: str, most: int) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Name, rows and colour of the groups with the most traces, in the order of their names or of the categories."""
    counts = (
        table.groupby(by, dropna=False)["trace_id"]
        .nunique()
        .sort_values(ascending=False, kind="stable")
    )
    kept = set(counts.index[:most])
    ordered = [group for group in _categories(table[by]) if group in kept] or sorted(kept, key=str)
    for group, colour in zip(ordered, cycle(COLOURS), strict=False):
        yield str(group) or "(unnamed)", table[table[by] == group], colour


def _categories(groups: pd.Series) -> list[Any]:
    """The order that a categorical column gives its groups, such as that in which runs were named; else none."""
    return list(groups.cat.categories) if isinstance(groups.dtype, pd.CategoricalDtype) else []


def row_order(groups: pd.Series, values: Mapping[Any, float]) -> list[str]:
    """The groups from the lowest row up: by a value, or from above in the order of the categories, where there are."""
    if categories := [str(name) for name in _categories(groups)]:
        return [name for name in reversed(categories) if name in values]
    return sorted(map(str, values), key=lambda name: (not np.isnan(values[name]), values[name]))


def legend_name(group: str, part: pd.DataFrame) -> str:
    return f"{shorten(group)} ({part['trace_id'].nunique():,} traces, {part['prompt_id'].nunique():,} prompts)"


def shorten(name: str, longest: int = 36) -> str:
    """A name that leaves room for the figure: the end of a path, with its middle left out."""
    name = name.rstrip("/").rsplit("/", 1)[-1] if len(name) > longest else name
    name = name.replace("$", r"\$")  # no formula
    half = longest // 2 - 1
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def draw_band(axis: Axes, at: pd.Series, found: pd.DataFrame, colour: str, label: str) -> None:
    axis.fill_between(at, found["low"], found["high"], color=colour, alpha=0.22, linewidth=0)
    axis.plot(at, found["value"], color=colour, linewidth=1.4, label=label)


def draw_dots(
    axis: Axes,
    part: pd.DataFrame,
    colour: str,
    *,
    offset: float = 0.0,
    label: str = "",
    marker: str = "o",
) -> None:
    """A dot and its interval for each row of `part`, one below the other."""
    at = np.arange(len(part)) + offset
    axis.hlines(at, part["low"], part["high"], color=colour, linewidth=1.2)
    style: Any = {
        "markersize": 4,
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
        "zorder": 3,
    }  # over the axis
    axis.plot(part["value"], at, marker, color=colour, label=label or None, clip_on=False, **style)


def legend_above(axis: Axes) -> None:
    axis.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, columnspacing=1.5
    )


def label_rows(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """Names the groups, one a row, of panels that share their rows."""
    for axis in axes:
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(-0.6, len(labels) - 0.4)


def note(figure: Figure, text: str) -> None:
    """What a reader must know, under the figure, in lines that fit it."""
    lines = (
        part for line in text.replace("$", r"\$").split("\n") for part in _even_lines(line, 135)
    )
    figure.supxlabel("\n".join(lines).strip("\n"), fontsize=6.5, color="#555555")


def _even_lines(text: str, width: int) -> list[str]:
    """As few lines as the width needs, and as narrow as these may be: no line of a single word."""
    lines = textwrap.wrap(text, width) or [""]
    narrower = (
        textwrap.wrap(text, narrow) or [""]
        for narrow in range(max(1, len(text) // len(lines)), width)
    )
    return next((even for even in narrower if len(even) <= len(lines)), lines)


_FEW = 10  # prompts; docs/statistics.md


def too_few_prompts(what: str, prompts: pd.Series) -> list[str]:
    """A line that names the groups of too few prompts, if there are any."""
    few = [
        f"{group or '(unnamed)'} ({n})"
        for group, n in prompts[(prompts > 0) & (prompts < _FEW)].items()
    ]
    return (
        [f"{what}fewer than {_FEW} prompts, too few for their intervals to hold: {', '.join(few)}"]
        if few
        else []
    )
