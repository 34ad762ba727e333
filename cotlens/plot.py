"""Tables to figures: one function per figure, and `save`, which leaves picture, numbers and provenance.

Every function returns a `Plot`: the figure and the table of exactly the numbers it shows. Figures have the width of a
text column or page, use colours that colour-blind readers and greyscale printers can tell apart, and carry their n.
"""

import io
import json
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
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cotlens import stats
from cotlens.reflect import N_REFLECTIVE, WORD_LISTS, transitions
from cotlens.run import versions, write_atomic
from cotlens.unsafe import safety_states

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
        return _picture(self.figure, "png", dpi=80)  # a screen's, so that notebooks stay small


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
    _need(traces, by, "prompt_id", "status", *_LENGTHS)
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
    _label_rows(axes[0], labels)
    _note(
        figure,
        "dot: median, bar: quartiles, line: 5th to 95th percentile, logarithmic scale; open: cut off or without an\n"
        "answer, not counted under answers; absent: no thought, counted under answers only",
    )
    return Plot(figure, data)


def _draw_ranges(axis: Axes, part: pd.DataFrame, colour: str) -> None:
    rows = np.arange(len(part))
    floor = 1.0  # a length of 0 has no place on a logarithmic axis
    low, q1, mid, q3, high = (part[name].to_numpy(float).clip(floor) for name in _QUANTILES)
    axis.hlines(rows, low, high, color=colour, linewidth=0.9)
    axis.hlines(rows, q1, q3, color=colour, linewidth=5, alpha=0.45)
    axis.plot(mid, rows, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.6)
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


# --- reflection ------------------------------------------------------------------------------------------------

_REFLECTION = {
    "steps_per_trace": "Reflecting steps per trace",
    "per_1000_chars": "... per 1,000 characters",
    "share_any": "Traces with any",
}


def reflection_estimates(dynamics: pd.DataFrame, by: str = "model") -> pd.DataFrame:
    """How much each group reflects, with 95% intervals over prompts.

    Args:
        dynamics: what `reflection_dynamics` returns.
        by: column of the group.

    Returns:
        One row per (group, measure): `steps_per_trace` is the mean number of reflecting steps, `per_1000_chars` is
        1000 x all reflecting steps / all characters of steps of known language (long traces weigh more), `share_any`
        the share of traces with at least one; value, low, high, n (traces), n_prompts.
    """
    _need(dynamics, by, "n_reflect", "n_think_chars", "any_reflect", "reflect_per_1000_chars", "prompt_id")
    known = dynamics[dynamics["n_reflect"].notna()]
    _some(known)

    def estimates(part: pd.DataFrame) -> dict[str, stats.Estimate]:
        prompts = part["prompt_id"]
        return {
            "steps_per_trace": stats.mean(part["n_reflect"], prompts),
            "per_1000_chars": stats.ratio(1000 * part["n_reflect"], _known_chars(part), prompts),
            "share_any": stats.proportion(part["any_reflect"], prompts),
        }

    return _estimates(known, by, estimates)


def _estimates(
    table: pd.DataFrame, by: str, of_group: Callable[[pd.DataFrame], Mapping[str, stats.Estimate]]
) -> pd.DataFrame:
    """One row per (group, measure): group, measure, value, low, high, n and n_prompts of what `of_group` returns."""
    rows = []
    for group, part in table.groupby(by, sort=True, dropna=False):
        for measure, e in of_group(part).items():
            found = {"value": e.value, "low": e.low, "high": e.high, "n": e.n, "n_prompts": e.n_clusters}
            rows.append({"group": str(group) or "(unnamed)", "measure": measure, **found})
    return pd.DataFrame(rows)


def _known_chars(part: pd.DataFrame) -> pd.Series:
    """Characters of the steps of known language; where nothing reflects, those of the thinking stand in."""
    return (1000 * part["n_reflect"] / part["reflect_per_1000_chars"]).fillna(part["n_think_chars"])


@house_style()
def plot_reflection(dynamics: pd.DataFrame, by: str = "model") -> Plot:
    """Reflection count, rate and share of traces by group, each with its 95% interval over prompts."""
    data = reflection_estimates(dynamics, by)
    rates = data[data["measure"] == "per_1000_chars"].set_index("group")["value"].to_dict()
    order = sorted(rates, key=lambda group: rates[group])
    figure, axes = new_figure(1, 3, 1.1 + 0.3 * len(order), sharey=True)
    rows = np.arange(len(order))
    for axis, (measure, title), colour in zip(axes[0], _REFLECTION.items(), COLOURS, strict=False):
        part = data[data["measure"] == measure].set_index("group").loc[order]
        axis.hlines(rows, part["low"], part["high"], color=colour, linewidth=1.2)
        axis.plot(part["value"], rows, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.6)
        axis.set_title(title)
        axis.set_xlim(left=0)
    axes[0, 2].set_xlim(0, 1.02)
    summary = data.drop_duplicates("group").set_index("group").loc[order, ["n", "n_prompts"]]
    labels = [f"{_shorten(name)}\n{n:,} traces, {prompts:,} prompts" for name, n, prompts in summary.itertuples()]
    _label_rows(axes[0], labels)
    _note(
        figure,
        "line: 95% interval, prompts resampled (share: Wilson's at the effective sample size); traces without\n"
        "thinking left out. A step reflects if the classifier says so; its errors against people: docs/detectors.md",
    )
    return Plot(figure, data)


@house_style()
def plot_reflection_position(steps: pd.DataFrame, by: str = "model", bins: int = 20, most: int = 6) -> Plot:
    """Share of steps that reflect, by their position in the thinking, with pointwise 95% bands over prompts.

    Args:
        steps: a step table with the columns `by` and `prompt_id` of its traces.
        by: column of the group.
        bins: number of equal parts of the thinking.
        most: groups drawn, those with the most steps; the others are left out of figure and numbers.
    """
    _need(steps, by, "position", "is_reflection", "prompt_id")
    known = steps[steps["is_reflection"].notna()]
    _some(known)
    groups = known[by].value_counts().index[:most]
    curves = []
    for group in groups:
        part = known[known[by] == group]
        flags = part["is_reflection"].astype(float)
        curves.append(stats.curve(part["position"], flags, part["prompt_id"], bins=bins).assign(group=str(group)))
    data = pd.concat(curves, ignore_index=True)
    columns = min(3, len(groups))
    figure, axes = new_figure(
        -(-len(groups) // columns), columns, 0.7 + 1.7 * -(-len(groups) // columns), sharex=True, sharey=True
    )
    for axis, group, colour in zip(axes.flat, groups, cycle(COLOURS), strict=False):
        part, own = data[data["group"] == str(group)], known[known[by] == group]
        axis.fill_between(part["position"], part["low"], part["high"], color=colour, alpha=0.25, linewidth=0)
        axis.plot(part["position"], part["value"], color=colour, linewidth=1.4)
        axis.set_title(
            f"{_shorten(str(group))}\n{len(own):,} steps, {own['prompt_id'].nunique():,} prompts", fontsize=7.5
        )
    for axis in list(axes.flat)[len(groups) :]:
        axis.set_visible(False)
    axes[0, 0].set_xlim(0, 1)
    axes[0, 0].set_ylim(bottom=0)
    left_out = known[by].nunique() - len(groups)
    more = f"; {left_out} groups with fewer steps are not shown" if left_out else ""
    figure.supxlabel(f"position in the thinking (0: begin, 1: end){more}", fontsize=8)
    figure.supylabel("share of steps that reflect", fontsize=8)
    return Plot(figure, data)


def marker_agreement(steps: pd.DataFrame) -> pd.DataFrame:
    """How word lists and the classifier agree on which steps reflect.

    Returns:
        One row per word list: n (steps of known language), both, classifier_only, list_only (steps), kappa (Cohen's).
    """
    _need(steps, "is_reflection", *(f"n_{name}" for name in WORD_LISTS))
    known = steps[steps["is_reflection"].notna()]
    _some(known)
    decided, rows = known["is_reflection"].to_numpy(bool), []
    for name in WORD_LISTS:
        listed = known[f"n_{name}"].to_numpy() > 0
        n = len(known)
        both, alone, only_list = (decided & listed).sum(), (decided & ~listed).sum(), (listed & ~decided).sum()
        chance = decided.mean() * listed.mean() + (1 - decided.mean()) * (1 - listed.mean())
        agreed = (decided == listed).mean()
        kappa = (agreed - chance) / (1 - chance) if chance < 1 else np.nan
        rows.append(
            {"list": name, "n": n, "both": both, "classifier_only": alone, "list_only": only_list, "kappa": kappa}
        )
    return pd.DataFrame(rows)


@house_style()
def plot_marker_agreement(steps: pd.DataFrame) -> Plot:
    """Of the steps that a word list or the classifier marks as reflection, how many both mark."""
    data = marker_agreement(steps)
    figure, axes = new_figure(1, 1, 0.9 + 0.4 * len(data))
    axis, left = axes[0, 0], np.zeros(len(data))
    parts = {"both": "both", "classifier_only": "classifier only", "list_only": "word list only"}
    for (column, label), colour, hatch in zip(parts.items(), COLOURS, ("", "///", "..."), strict=False):
        values = data[column].to_numpy(float)
        axis.barh(
            range(len(data)), values, left=left, color=colour, label=label, hatch=hatch, edgecolor="white", height=0.6
        )
        left += values
    axis.set_yticks(range(len(data)), [f"{row.list}\nkappa {row.kappa:.2f}" for row in data.itertuples()])
    axis.set_xlabel(f"steps marked, of {data['n'].iloc[0]:,}")
    axis.grid(axis="y", visible=False)
    axis.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return Plot(figure, data)


@house_style()
def plot_transitions(steps: pd.DataFrame) -> Plot:
    """What follows what: for each kind of step (row), the shares of the kinds of the next step."""
    counts = transitions(steps)
    total = counts.sum(axis=1)
    shares = counts.div(total.where(total > 0), axis=0)
    figure, axes = new_figure(1, 1, 4.6)
    axis = axes[0, 0]
    axis.imshow(shares.to_numpy(float), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares.to_numpy(float)):
        if not np.isnan(share):
            axis.text(
                j,
                i,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if share > 0.55 else "black",
            )
    axis.set_xticks(range(len(counts)), list(counts.columns), rotation=35, ha="right")
    axis.set_yticks(range(len(counts)), [f"{kind} (n = {n:,})" for kind, n in total.items()])
    axis.grid(visible=False)
    axis.set_xlabel("kind of the next step (% of the row)")
    for edge in ("left", "bottom"):
        axis.spines[edge].set_visible(False)
    axis.axhline(N_REFLECTIVE - 0.5, color="black", linewidth=0.8)
    axis.axvline(N_REFLECTIVE - 0.5, color="black", linewidth=0.8)
    tidy = counts.melt(ignore_index=False, var_name="next", value_name="n").reset_index()
    return Plot(figure, tidy.assign(share=shares.melt()["value"].to_numpy()))


# --- entropy ---------------------------------------------------------------------------------------------------

_PARTS = {
    "entropy_think": ("Thinking", "thinking and answer"),
    "entropy_answer": ("Answer", "thinking and answer"),
    "entropy_reflect": ("Steps that reflect", "steps of thinking"),
    "entropy_other": ("Other steps", "steps of thinking"),
}


def _grouped(table: pd.DataFrame, by: str, most: int) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Name, rows and colour of the groups with the most traces; a group has its colour in every figure."""
    counts = table.groupby(by, dropna=False)["trace_id"].nunique().sort_values(ascending=False, kind="stable")
    colour_of = dict(zip(sorted(counts.index, key=str), cycle(COLOURS), strict=False))
    for group in sorted(counts.index[:most], key=str):
        yield str(group) or "(unnamed)", table[table[by] == group], colour_of[group]


def _legend_name(group: str, part: pd.DataFrame) -> str:
    return f"{_shorten(group)} ({part['trace_id'].nunique():,} traces, {part['prompt_id'].nunique():,} prompts)"


@house_style()
def plot_position_entropy(table: pd.DataFrame, by: str = "model", *, label: str = "Entropy", most: int = 6) -> Plot:
    """Mean score of the thinking by relative position, each trace weighing the same, with 95% bands over prompts.

    Args:
        table: what `position_entropy` returned, with the columns `by` and `prompt_id` of the traces.
        by: column of the group.
        label: what the values are, for the axis; they are nats.
        most: groups drawn, those with the most rows.
    """
    _need(table, by, "position", "value", "prompt_id", "trace_id")
    figure, axes = new_figure(1, 1, 3.0)
    curves = []
    for group, part, colour in _grouped(table, by, most):
        bins = round(0.5 / part["position"].min()) if part["position"].min() > 0 else 20
        found = stats.curve(part["position"], part["value"], part["prompt_id"], bins=max(bins, 1)).dropna()
        _draw_band(axes[0, 0], found["position"], found, colour, _legend_name(group, part))
        curves.append(found.assign(group=group))
    axes[0, 0].set(xlim=(0, 1), xlabel="position in the thinking (share of its tokens)", ylabel=f"{label} (nats)")
    axes[0, 0].set_ylim(bottom=0)
    _legend_above(axes[0, 0])
    _note(figure, "mean over traces of each trace's mean; band: pointwise 95% interval, prompts resampled")
    return Plot(figure, pd.concat(curves, ignore_index=True))


@house_style()
def plot_entropy_parts(table: pd.DataFrame, by: str = "model") -> Plot:
    """Mean token entropy of thinking and answer, and of steps that reflect and that do not, with 95% intervals.

    Args:
        table: what `trace_entropy` returned.
        by: column of the group.
    """
    _need(table, by, "prompt_id", *_PARTS)
    data = _estimates(table, by, lambda part: {name: stats.mean(part[name], part["prompt_id"]) for name in _PARTS})
    order = list(dict.fromkeys(data["group"]))[::-1]
    titles = list(dict.fromkeys(title for _, title in _PARTS.values()))
    figure, axes = new_figure(1, 2, 1.3 + 0.32 * len(order), sharey=True, sharex=True)
    for number, (measure, (name, title)) in enumerate(_PARTS.items()):
        axis, offset = axes[0, titles.index(title)], 0.13 * (1 - 2 * (number % 2))
        part = data[data["measure"] == measure].set_index("group").loc[order]
        at, colour = np.arange(len(order)) + offset, COLOURS[number]
        axis.hlines(at, part["low"], part["high"], color=colour, linewidth=1.2)
        axis.plot(part["value"], at, "os"[number % 2], color=colour, markersize=4, label=name, markeredgecolor="white")
        axis.set_xlabel("mean token entropy (nats)")
        _legend_above(axis)
    axes[0, 0].set_xlim(left=0)
    counts = table.groupby(by, dropna=False)["n_scored"].agg(lambda values: int((values > 0).sum()))
    names = {str(group) or "(unnamed)": n for group, n in counts.items()}
    _label_rows(axes[0], [f"{_shorten(group)}\n{names[group]:,} scored traces" for group in order])
    _note(figure, "mean over traces of each trace's mean over tokens; line: 95% interval, prompts resampled")
    return Plot(figure, data)


@house_style()
def plot_reflection_entropy(table: pd.DataFrame, by: str = "model", *, label: str = "Entropy", most: int = 6) -> Plot:
    """Mean score token by token around the onset of reflection, beside the same around other steps' beginnings.

    Args:
        table: what `reflection_entropy` returned, with the columns `by` and `prompt_id` of the traces.
        by: column of the group.
        label: what the values are, for the axis; they are nats.
        most: groups drawn, those with the most rows.
    """
    _need(table, by, "reflects", "offset", "value", "prompt_id", "trace_id")
    groups = list(_grouped(table, by, most))
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure, axes = new_figure(lines, columns, 1.0 + 1.9 * lines, sharex=True, sharey=True)
    reach, curves = int(table["offset"].abs().max()), []
    for axis, (group, part, _) in zip(axes.flat, groups, strict=False):
        for reflects, colour, name in ((True, COLOURS[5], "reflection sets in"), (False, "#777777", "another step")):
            rows = part[part["reflects"] == reflects]
            if rows.empty:
                continue
            at = (rows["offset"] + reach + 0.5) / (2 * reach + 1)
            found = stats.curve(at, rows["value"], rows["prompt_id"], bins=2 * reach + 1).dropna()
            found = found.assign(offset=(found["position"] * (2 * reach + 1) - 0.5 - reach).round().astype(int))
            _draw_band(axis, found["offset"], found, colour, name)
            kept = found.drop(columns="position").assign(group=group, reflects=reflects, n_steps=rows["n"].sum())
            curves.append(kept)
        axis.axvline(-0.5, color="black", linewidth=0.6, linestyle=":")
        onsets = part.loc[part["reflects"] & (part["offset"] == 0), "n"].sum()
        axis.set_title(f"{_shorten(group)}\n{onsets:,} onsets, {part['prompt_id'].nunique():,} prompts", fontsize=7.5)
    for axis in list(axes.flat)[len(groups) :]:
        axis.set_visible(False)
    axes[0, 0].set_ylim(bottom=0)
    figure.supylabel(f"{label} (nats)", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    _note(
        figure,
        "tokens from the step's first (0); both kinds follow a step that does not reflect; mean over traces,\n"
        "band: pointwise 95% interval, prompts resampled",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


@house_style()
def plot_entropy_distribution(table: pd.DataFrame, by: str = "model", *, most: int = 6) -> Plot:
    """Share of tokens whose entropy exceeds a value: the whole distribution and its tail, with 95% bands over prompts.

    Args:
        table: what `entropy_survival` returned, with the columns `by` and `prompt_id` of the traces.
        by: column of the group.
        most: groups drawn, those with the most rows.
    """
    _need(table, by, "threshold", "above", "n", "prompt_id", "trace_id")
    figure, axes = new_figure(1, 1, 3.0)
    curves = []
    for group, part, colour in _grouped(table, by, most):
        rows = []
        for threshold, at in part.groupby("threshold"):
            e = stats.ratio(at["above"], at["n"], at["prompt_id"])
            rows.append((threshold, e.value, e.low, e.high, int(at["n"].sum()), e.n_clusters))
        found = pd.DataFrame(rows, columns=["threshold", "value", "low", "high", "n_tokens", "n_prompts"])
        _draw_band(axes[0, 0], found["threshold"], found, colour, _legend_name(group, part))
        curves.append(found.assign(group=group))
    axes[0, 0].set(xscale="log", ylim=(0, 1), xlabel="entropy (nats)", ylabel="share of tokens above")
    _legend_above(axes[0, 0])
    _note(figure, "all scored tokens of the completions; band: pointwise 95% interval, prompts resampled")
    return Plot(figure, pd.concat(curves, ignore_index=True))


@house_style()
def plot_forking_tokens(table: pd.DataFrame) -> Plot:
    """Tokens of the thinking before which the model is least certain, with how often each occurs.

    Args:
        table: what `forking_tokens` returned. Contexts are not drawn, and not among the numbers.
    """
    _need(table, "word", "n", "n_traces", "entropy")
    shown = table.iloc[::-1]
    figure, axes = new_figure(1, 1, 0.9 + 0.155 * len(shown))
    axis = axes[0, 0]
    axis.barh(range(len(shown)), shown["entropy"], color=COLOURS[0], height=0.7)
    for row, (entropy, n) in enumerate(zip(shown["entropy"], shown["n"], strict=True)):
        axis.text(entropy, row, f" {n:,}", va="center", fontsize=6, color="#555555")
    axis.set_yticks(range(len(shown)), [_visible(word) for word in shown["word"]], fontfamily="DejaVu Sans Mono")
    axis.set(xlabel="mean entropy before the token (nats); grey: occurrences", ylim=(-0.6, len(shown) - 0.4))
    axis.grid(axis="y", visible=False)
    _note(figure, "tokens of the thinking of all runs together; spaces are shown as ␣")
    return Plot(figure, table.drop(columns=["before", "after", "highest"], errors="ignore"))


def _visible(word: str, longest: int = 20) -> str:
    """A token as one line of plain text: white space made visible, nothing that draws or steers."""
    word = "".join({" ": "␣", "\n": "↵", "\t": "→", "$": "\\$"}.get(c, c if c.isprintable() else "·") for c in word)
    return word if len(word) <= longest else word[: longest - 1] + "…"


# --- unsafe exploration ----------------------------------------------------------------------------------------

_STATES = {
    "risk_awareness": "Notices a risk",
    "unsafe": "Explores something unsafe",
    "is_self_jailbreak": "... by a self-jailbreak",
    "refusal_intent": "Intends to refuse",
}
_PATH = {
    "any_unsafe": "Traces with an unsafe step",
    "recovered": "... that recover",
    "last_word": "Last word is safe",
}


@house_style()
def plot_unsafe_position(steps: pd.DataFrame, by: str = "model", bins: int = 10, most: int = 6) -> Plot:
    """Share of steps that carry safety markers, by position in the thinking, with pointwise 95% bands over prompts.

    Args:
        steps: a step table with the columns `by` and `prompt_id` of its traces.
        by: column of the group.
        bins: number of equal parts of the thinking.
        most: groups drawn, those with the most traces.
    """
    _need(steps, by, "position", "prompt_id", "trace_id", *(name for name in _STATES if name != "unsafe"))
    known = steps[steps["is_self_jailbreak"].notna()]
    _some(known)
    known = known.assign(unsafe=safety_states(known) > 0)
    figure, axes = new_figure(2, 2, 4.2, sharex=True)
    curves = []
    for group, part, colour in _grouped(known, by, most):
        for axis, (column, title) in zip(axes.flat, _STATES.items(), strict=True):
            flags = part[column].astype(float)
            found = stats.curve(part["position"], flags, part["prompt_id"], bins=bins).dropna()
            _draw_band(axis, found["position"], found, colour, _shorten(group))
            axis.set_title(title)
            curves.append(found.assign(group=group, state=column))
    for axis in axes.flat:
        axis.set(xlim=(0, 1), ylim=(0, None))
    for axis in axes[1]:
        axis.set_xlabel("position in the thinking")
    axes[0, 0].set_ylabel("share of steps")
    axes[1, 0].set_ylabel("share of steps")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    _note(
        figure, "markers of wording (docs/unsafe.md): on harmless prompts they are false alarms; band: 95%, by prompt"
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


@house_style()
def plot_unsafe_path(dynamics: pd.DataFrame, by: str = "model") -> Plot:
    """Traces that explore something unsafe, that come back, and that end on a safe word, with 95% intervals.

    Args:
        dynamics: what `unsafe_dynamics` returned.
        by: column of the group.
    """
    _need(dynamics, by, "prompt_id", *_PATH)
    data = _estimates(
        dynamics, by, lambda part: {name: stats.proportion(part[name], part["prompt_id"]) for name in _PATH}
    )
    order = [g for g in dict.fromkeys(data["group"]) if data.loc[data["group"] == g, "n"].max() > 0][::-1]
    figure, axes = new_figure(1, 3, 1.1 + 0.3 * len(order), sharey=True, sharex=True)
    at = np.arange(len(order))
    for axis, (measure, title), colour in zip(axes[0], _PATH.items(), COLOURS, strict=False):
        part = data[data["measure"] == measure].set_index("group").loc[order]
        axis.hlines(at, part["low"], part["high"], color=colour, linewidth=1.2)
        axis.plot(part["value"], at, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.6)
        axis.set_title(title)
        for row, n in enumerate(part["n"]):
            axis.text(1.02, row, f"{n:,}", fontsize=5.5, color="#777777", va="center")
    axes[0, 0].set_xlim(0, 1)
    _label_rows(axes[0], [_shorten(group) for group in order])
    _note(
        figure,
        "line: Wilson's 95% interval at the effective sample size; grey: traces; recovered: of those with one",
    )
    return Plot(figure, data)


def _draw_band(axis: Axes, at: pd.Series, found: pd.DataFrame, colour: str, label: str) -> None:
    axis.fill_between(at, found["low"], found["high"], color=colour, alpha=0.22, linewidth=0)
    axis.plot(at, found["value"], color=colour, linewidth=1.4, label=label)


def _legend_above(axis: Axes) -> None:
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, columnspacing=1.5)


def _need(table: pd.DataFrame, *columns: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing or table.empty:
        fault = f"no column {', '.join(missing)}" if missing else "no rows"
        raise ValueError(f"the table has {fault}; its columns are {', '.join(map(str, table))}")


def _some(known: pd.DataFrame) -> None:
    if known.empty:
        raise ValueError("no step is known to reflect or not: the thinking is not English, not verbatim, or not there")


def _label_rows(axes: Sequence[Axes], labels: Sequence[str]) -> None:
    """Names the groups, one a row, of panels that share their rows."""
    for axis in axes:
        axis.grid(axis="y", visible=False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(labels)), labels)
    axes[0].set_ylim(-0.6, len(labels) - 0.4)


def _note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, fontsize=6.5, color="#555555")
