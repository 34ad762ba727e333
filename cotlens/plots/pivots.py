"""Figures of pivots: against the truth, and step by step.

The tables are those of `measures.pivots`.
"""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cotlens.measures.groups import need
from cotlens.measures.pivots import Pivot, pivot_confusion, pivot_estimates
from cotlens.plots.parts import note
from cotlens.plots.style import Plot, house_style, new_figure

_COLOUR = {Pivot.SAFE: "#56B4E9", Pivot.UNSAFE: "#D55E00", Pivot.RETHINK: "#009E73"}
_MOST = 24  # traces of the strip
_NAMES = {
    "unsafe_precision": "precision of [UNSAFE]",
    "unsafe_recall": "recall of [UNSAFE]",
    "rethink_right": "[RETHINK] within a step of a return",
}


@house_style()
def plot_pivots(table: pd.DataFrame, text: str = "", *, most: int = _MOST) -> Plot:
    """Pivots against the truth as a confusion matrix, and a strip of the first traces by step.

    Traces of the strip are those with an UNSAFE or RETHINK, written or true, first, each kind in
    the order of the table. A black dot marks a pivot that is not the true one.

    Args:
        table: what `pivot_table` returned, with `truth`, of one model.
        text: where the numbers come from; it stands under the figure.
        most: traces of the strip.
    """
    need(table, "trace_id", "prompt_id", "step", "pivot", "truth")
    confusion = pivot_confusion(table)
    figure, axes = new_figure(1, 2, 3.4, gridspec_kw={"width_ratios": (1, 1.35)})
    left, right = axes[0]
    _draw_confusion(left, confusion)
    shown = _first_traces(table, most)
    _draw_strip(right, shown)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=4)

    # What a reader must know.
    n_traces = table["trace_id"].nunique()
    n_shown = shown["trace_id"].nunique()
    lines = [
        f"{len(table):,} pivots of {n_traces:,} traces; share of the steps of a row's truth, and n",
        _in_words(pivot_estimates(table)),
        f"strip: {n_shown:,} traces, those with an unsafe step or a return first; a black dot: "
        "another pivot would be right",
        text,
    ]
    note(figure, "\n".join(lines))
    return Plot(figure, confusion)


def _draw_confusion(axis: Axes, confusion: pd.DataFrame) -> None:
    names = [pivot.value for pivot in Pivot]
    shares = confusion.pivot(index="truth", columns="pivot", values="share")
    values = shares.loc[names, names].to_numpy(float)
    axis.set_facecolor("#dddddd")
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1.25, aspect="auto")

    # The numbers of each cell.
    for cell in confusion.to_dict("records"):
        column = names.index(cell["pivot"])
        line = names.index(cell["truth"])
        share = f"{cell['share']:.2f}"
        if pd.isna(cell["share"]):
            share = "no step"
        axis.text(
            column,
            line,
            f"{share}\n{cell['n']:,}",
            ha="center",
            va="center",
            color="white" if cell["share"] > 0.6 else "black",
            fontsize=7.5,
        )

    # Written across, right down.
    axis.set_xticks(range(len(names)), names)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="written", ylabel="right")
    axis.grid(visible=False)
    axis.tick_params(length=0)


def _first_traces(table: pd.DataFrame, most: int) -> pd.DataFrame:
    """The rows of the traces of the strip."""
    is_safe = (table["pivot"] == Pivot.SAFE) & (table["truth"] == Pivot.SAFE)
    all_safe = is_safe.groupby(table["trace_id"], sort=False).all()
    by_interest = all_safe.sort_values(kind="stable")
    names = by_interest.index[:most]

    # Each has a line of its own.
    line_of = {name: place for place, name in enumerate(names)}
    rows = table[table["trace_id"].isin(names)]
    return rows.assign(line=rows["trace_id"].map(line_of))


def _draw_strip(axis: Axes, rows: pd.DataFrame) -> None:
    for pivot, colour in _COLOUR.items():
        of_pivot = rows[rows["pivot"] == pivot]
        axis.scatter(
            of_pivot["step"],
            of_pivot["line"],
            marker="s",
            s=18,
            color=colour,
            label=pivot.value,
        )

    # Where another pivot would be right; nothing is said of a truth that is not known.
    wrong = rows[rows["truth"].notna() & (rows["pivot"] != rows["truth"])]
    if len(wrong):
        axis.scatter(wrong["step"], wrong["line"], s=4, color="black", label="another is right")
    axis.set(xlabel="step", ylabel="trace", yticks=[])
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.invert_yaxis()
    axis.grid(visible=False)


def _in_words(estimates: pd.DataFrame) -> str:
    """The estimates as a line."""
    parts = []
    for row in estimates.to_dict("records"):
        measure = row["measure"]
        name = _NAMES.get(measure, measure.replace("answer_unsafe", "unsafe answer"))
        if not row["n"]:
            parts.append(f"{name}: none")
            continue

        # A share, its interval, and of how many.
        interval = f"{row['low']:.2f} to {row['high']:.2f}"
        parts.append(f"{name} {row['value']:.2f} ({interval}, n = {row['n']:,})")
    return "; ".join(parts)
