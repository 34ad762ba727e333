"""Tables to figures: one function per figure, and `save`, which leaves picture, numbers and provenance.

Every function returns a `Plot`: the figure and the table of exactly the numbers it shows. Figures have the width of a
text column or page, use colours that colour-blind readers and greyscale printers can tell apart, and carry their n.
"""

import io
import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image  # matplotlib brings it

from cotlens import stats
from cotlens.run import versions, write_atomic

PAGE_WIDTH = 7.0  # inches, the text width of most venues
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")  # Okabe and Ito 2008

STYLE: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text stays text
    "svg.hashsalt": "cotlens",
}


@contextmanager
def house_style() -> Iterator[None]:
    """The style of every figure, whatever the user's own settings are; those come back afterwards."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


class Plot(NamedTuple):
    """A figure and the numbers it shows. As the last line of a notebook cell it is the picture."""

    figure: Figure
    data: pd.DataFrame

    def _repr_png_(self) -> bytes:
        """A screen's resolution and 128 colours, so that notebooks stay small."""
        with Image.open(io.BytesIO(_picture(self.figure, "png", dpi=100))) as picture:
            buffer = io.BytesIO()
            picture.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
        return buffer.getvalue()


def save(plot: Plot, path: str | Path, provenance: Mapping[str, Any] | None = None) -> list[Path]:
    """Writes `path` with the suffixes .pdf, .png, .csv (the plotted numbers) and .json (where they come from).

    The same plot gives the same bytes: no file carries a date.

    Args:
        plot: what a `plot_*` function returned.
        path: a suffix of these four is ignored; folders are made.
        provenance: what the numbers were made from, as JSON values; the versions are added.
    """
    path = Path(path)
    path = path.with_suffix("") if path.suffix in (".pdf", ".png", ".csv", ".json") else path
    record = dict(provenance or {}) | {"versions": versions()}
    contents: dict[str, str | bytes] = {
        ".pdf": _picture(plot.figure, "pdf"),
        ".png": _picture(plot.figure, "png"),
        ".csv": plot.data.to_csv(index=False, lineterminator="\n", float_format="%.10g"),
        ".json": json.dumps(record, indent=2, ensure_ascii=False, sort_keys=True) + "\n",
    }
    for suffix, content in contents.items():
        write_atomic(path.parent / (path.name + suffix), content)
    return [path.parent / (path.name + suffix) for suffix in contents]


def _picture(figure: Figure, kind: str, dpi: int = 200) -> bytes:
    undated = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "png": {"Software": None}}[kind]
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format=kind, metadata=undated, dpi=dpi)
    return buffer.getvalue()


def new_figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of page width with a grid of axes, outside of pyplot's global state."""
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


# --- shared by the figures -------------------------------------------------------------------------------------


def estimates_by(
    table: pd.DataFrame, by: str, of_group: Callable[[pd.DataFrame], Mapping[str, stats.Estimate]]
) -> pd.DataFrame:
    """One row per (group, measure): group, measure, value, low, high, n and n_prompts of what `of_group` returns."""
    rows = []
    for group, part in table.groupby(by, sort=True, dropna=False):
        for measure, e in of_group(part).items():
            found = {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "n_prompts": e.n_clusters}
            rows.append({"group": str(group) or "(unnamed)", "measure": measure, **found})
    return pd.DataFrame(rows)


def grouped(table: pd.DataFrame, by: str, most: int) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Name, rows and colour of the groups with the most traces, in the order of their names or of the categories."""
    counts = table.groupby(by, dropna=False)["trace_id"].nunique().sort_values(ascending=False, kind="stable")
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
    axis: Axes, part: pd.DataFrame, colour: str, *, offset: float = 0.0, label: str = "", marker: str = "o"
) -> None:
    """A dot and its interval for each row of `part`, one below the other."""
    at = np.arange(len(part)) + offset
    axis.hlines(at, part["low"], part["high"], color=colour, linewidth=1.2)
    style: Any = {"markersize": 4, "markeredgecolor": "white", "markeredgewidth": 0.6, "zorder": 3}  # over the axis
    axis.plot(part["value"], at, marker, color=colour, label=label or None, clip_on=False, **style)


def legend_above(axis: Axes) -> None:
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, columnspacing=1.5)


def need(table: pd.DataFrame, *columns: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing or table.empty:
        fault = f"no column {', '.join(missing)}" if missing else "no rows"
        raise ValueError(f"the table has {fault}; its columns are {', '.join(map(str, table))}")


def need_known(known: pd.DataFrame) -> None:
    """Stops a figure of steps that has none whose language is known."""
    if known.empty:
        raise ValueError("no step is known to reflect or not: the thinking is not English, not verbatim, or not there")


def first_steps(steps: pd.DataFrame) -> pd.DataFrame:
    """The first step of each trace: what an opening does to a figure is said of these."""
    return steps.loc[steps.groupby("trace_id", sort=False)["position"].idxmin()]


def label_rows(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """Names the groups, one a row, of panels that share their rows."""
    for axis in axes:
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(-0.6, len(labels) - 0.4)


def note(figure: Figure, text: str) -> None:
    """What a reader must know, under the figure, in lines that fit it."""
    lines = (part for line in text.replace("$", r"\$").split("\n") for part in _even_lines(line, 135))
    figure.supxlabel("\n".join(lines).strip("\n"), fontsize=6.5, color="#555555")


def _even_lines(text: str, width: int) -> list[str]:
    """As few lines as the width needs, and as narrow as these may be: no line of a single word."""
    lines = textwrap.wrap(text, width) or [""]
    narrower = (textwrap.wrap(text, narrow) or [""] for narrow in range(max(1, len(text) // len(lines)), width))
    return next((even for even in narrower if len(even) <= len(lines)), lines)
