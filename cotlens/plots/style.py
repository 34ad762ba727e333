"""How a figure looks, and `save`, which leaves the picture, its numbers and where they come from.

Every `plot_*` returns a `Plot`: the figure and the table of exactly the numbers it shows. Figures
have the width of a page, colours that colour-blind readers and greyscale printers can tell apart,
and carry their n.
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
from PIL import Image

from cotlens.cells import to_csv
from cotlens.files import versions, write_atomic
from cotlens.trace import TraceError

PAGE_WIDTH = 7.0  # inches, the text width of most venues
COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#000000",
)  # Okabe and Ito 2008
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
    """The style of every figure; the user's own settings come back afterwards."""
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
        content = _picture(self.figure, "png", dpi=100)
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(content)) as picture:
            reduced = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
            reduced.save(buffer, "png", optimize=True)
        return buffer.getvalue()


def save(plot: Plot, path: str | Path, provenance: Mapping[str, Any] | None = None) -> list[Path]:
    """Write a figure as .pdf and .png, its numbers as .csv, and where they come from as .json.

    The same plot gives the same bytes: no file carries a date.

    Args:
        plot: what a `plot_*` function returned.
        path: a suffix of these four is ignored; folders are made.
        provenance: what the numbers were made from, as JSON values; the versions are added.
    """
    path = Path(path)
    if path.suffix in (".pdf", ".png", ".csv", ".json"):
        path = path.with_suffix("")
    record = dict(provenance or {})
    record["versions"] = versions()
    numbers = to_csv(plot.data, float_format="%.10g")
    text = json.dumps(record, indent=2, ensure_ascii=False, sort_keys=True)
    contents: dict[str, str | bytes] = {
        ".pdf": _picture(plot.figure, "pdf"),
        ".png": _picture(plot.figure, "png"),
        ".csv": numbers,
        ".json": text + "\n",
    }

    paths = []
    for suffix, content in contents.items():
        file = path.parent / (path.name + suffix)
        write_atomic(file, content)
        paths.append(file)
    return paths


def _picture(figure: Figure, kind: str, dpi: int = 200) -> bytes:
    undated = {
        "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
        "png": {"Software": None},
    }[kind]
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format=kind, metadata=undated, dpi=dpi)
    return buffer.getvalue()


def new_figure(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of page width with a grid of axes, outside pyplot's global state."""
    figure = Figure(figsize=(PAGE_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def one_panel(ax: Axes | None, height: float) -> Axes:
    """The axes to draw a one-panel figure into: the given ones, or those of a new figure."""
    if ax is not None:
        return ax
    _, axes = new_figure(1, 1, height)
    return axes[0, 0]


def panel_plot(axis: Axes, data: pd.DataFrame) -> Plot:
    """The `Plot` of a figure of one panel."""
    figure = axis.get_figure(root=True)
    assert figure is not None
    return Plot(figure, data)


def check_folder(out: Path) -> None:
    """Raise TraceError if figures would be written into a file."""
    if out.exists() and not out.is_dir():
        raise TraceError(f"{out}: is a file; figures need a folder")
