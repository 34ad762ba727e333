"""Tables to figures: one function per figure, and `save`, which leaves picture, numbers and provenance.

Every function returns a `Plot`: the figure and the table of exactly the numbers it shows. Figures have the width of a
text column or page, use colours that colour-blind readers and greyscale printers can tell apart, and carry their n.
"""

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

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
    "savefig.dpi": 200,
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
        return _picture(self.figure, "png")


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


def _picture(figure: Figure, kind: str) -> bytes:
    undated = {"pdf": {"CreationDate": None, "Producer": None, "Creator": None}, "png": {"Software": None}}[kind]
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format=kind, metadata=undated)
    return buffer.getvalue()


def new_figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of page width with a grid of axes, outside of pyplot's global state."""
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


# --- lengths ---------------------------------------------------------------------------------------------------

_LENGTHS = {
    "n_think_chars": "Thinking (characters)",
    "n_answer_chars": "Answer (characters)",
    "n_steps": "Steps of thinking",
}
_QUANTILES = {"p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def length_quantiles(traces: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """Quantiles of the length of thinking, of the answer, and of the number of steps, by group.

    A trace without thinking counts in the lengths of answers only; one that was cut off inside its thought counts in
    those of thinking (a lower bound) and not in those of answers. Quantiles interpolate linearly (Hyndman and Fan's
    type 7, numpy's default).

    Args:
        traces: a trace table.
        by: the column that names the group; an empty name reads "(unnamed)".

    Returns:
        One row per (group, measure): n_traces, n_prompts, share_open and share_absent of all traces of the group;
        n, p5, p25, median, p75, p95 of those that count. n = 0 gives NaN.
    """
    missing = [name for name in (by, "prompt_id", "status", *_LENGTHS) if name not in traces]
    if missing or traces.empty:
        raise ValueError(f"expected a trace table with rows, got {len(traces)} rows without {missing or 'any'}")
    rows = []
    for group, part in traces.groupby(by, sort=True, dropna=False):
        shares = {
            "n_traces": len(part),
            "n_prompts": part["prompt_id"].nunique(),
            "share_open": (part["status"] == "open").mean(),
            "share_absent": (part["status"] == "absent").mean(),
        }
        for measure in _LENGTHS:
            without = "open" if measure == "n_answer_chars" else "absent"
            values = part.loc[part["status"] != without, measure].to_numpy(float)
            quantiles = {name: np.quantile(values, q) if len(values) else np.nan for name, q in _QUANTILES.items()}
            rows.append(
                {"group": str(group) or "(unnamed)", "measure": measure, **shares, "n": len(values), **quantiles}
            )
    return pd.DataFrame(rows)


@house_style()
def plot_lengths(traces: pd.DataFrame, by: str = "model") -> Plot:
    """Length of thinking, length of answer and steps per trace by group: median, quartiles, 5th to 95th percentile.

    Open thoughts enter with the length they reached, so a group with many of them is longer than it looks; their share,
    and that of traces without a thought, stands beside the group's name.
    """
    data = length_quantiles(traces, by)
    medians = data[data["measure"] == "n_think_chars"].set_index("group")["median"].to_dict()
    order = sorted(medians, key=lambda group: (not np.isnan(medians[group]), medians[group]))
    figure, axes = new_figure(1, 3, 1.1 + 0.3 * len(order), sharey=True)
    for axis, (measure, title), colour in zip(axes[0], _LENGTHS.items(), COLOURS, strict=False):
        part = data[data["measure"] == measure].set_index("group").loc[order]
        _draw_ranges(axis, part, colour)
        axis.set_title(title)
    summary = data.drop_duplicates("group").set_index("group").loc[order]
    labels = [_group_label(*row) for row in summary[["n_traces", "share_open", "share_absent"]].itertuples()]
    axes[0, 0].set_yticks(range(len(order)), labels)
    axes[0, 0].set_ylim(-0.6, len(order) - 0.4)
    figure.supxlabel(
        "dot: median, bar: quartiles, line: 5th to 95th percentile, logarithmic scale; open: cut off or without an\n"
        "answer, not counted under answers; absent: no thought, counted under answers only",
        fontsize=6.5,
        color="#555555",
    )
    return Plot(figure, data)


def _draw_ranges(axis: Axes, part: pd.DataFrame, colour: str) -> None:
    rows = np.arange(len(part))
    floor = 1.0  # a length of 0 has no place on a logarithmic axis
    low, q1, mid, q3, high = (part[name].to_numpy(float).clip(floor) for name in _QUANTILES)
    axis.hlines(rows, low, high, color=colour, linewidth=0.9)
    axis.hlines(rows, q1, q3, color=colour, linewidth=5, alpha=0.45)
    axis.plot(mid, rows, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.6)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.set_xscale("log")
    if not np.isnan(mid).all():
        narrow = np.nanmax(high) / np.nanmin(low) < 30  # a decade or so needs ticks between its powers
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
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


def _group_label(name: str, n_traces: int, share_open: float, share_absent: float) -> str:
    shares = {"open": share_open, "absent": share_absent}
    return f"{_shorten(name)}\nn = {n_traces:,}" + "".join(f", {100 * s:.0f}% {k}" for k, s in shares.items() if s)


def _shorten(name: str, longest: int = 36) -> str:
    """A name that leaves room for the figure: the end of a path, with its middle left out."""
    name = name.rstrip("/").rsplit("/", 1)[-1] if len(name) > longest else name
    name = name.replace("$", r"\$")  # no formula
    half = longest // 2 - 1
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"
