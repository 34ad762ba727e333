"""Figures of lengths and of reflection: a table in, a `Plot` out."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from cotlens import stats
from cotlens.figure import (
    COLOURS,
    Plot,
    draw_band,
    draw_dots,
    estimates_by,
    first_steps,
    grouped,
    house_style,
    label_rows,
    need,
    need_known,
    new_figure,
    note,
    row_order,
    shorten,
)
from cotlens.reflect import N_REFLECTIVE, WORD_LISTS, transitions
from cotlens.trace import Reasoning

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
    those of thinking (a lower bound) and not in those of answers; one whose thinking is a summary or redacted counts in
    those of answers. Quantiles interpolate linearly (Hyndman and Fan's type 7, numpy's default).

    Args:
        traces: a trace table.
        by: the column that names the group; an empty name reads "(unnamed)".

    Returns:
        One row per (group, measure): n_traces, n_prompts, share_open, share_absent and share_hidden (summarised or
        redacted thinking) of all traces of the group; n, p5, p25, median, p75, p95 of those that count; NaN for none.
    """
    need(traces, by, "prompt_id", "status", *_LENGTHS)
    rows = []
    for group, part in traces.groupby(by, sort=True, dropna=False):
        verbatim = part["status"].notna()
        if "reasoning" in part:
            verbatim &= part["reasoning"] == Reasoning.VERBATIM.value
        shares = {
            "n_traces": len(part),
            "n_prompts": part["prompt_id"].nunique(),
            "share_open": (part["status"] == "open").mean(),
            "share_absent": (part["status"] == "absent").mean(),
            "share_hidden": 1 - verbatim.mean(),
        }
        for measure in _LENGTHS:
            without = "open" if measure == "n_answer_chars" else "absent"
            counts = part["status"] != without
            if measure != "n_answer_chars":
                counts &= verbatim
            values = part.loc[counts, measure].to_numpy(float)
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
    order = row_order(traces[by], medians)
    known = set(data.loc[data["n"] > 0, "measure"])
    shown = {measure: title for measure, title in _LENGTHS.items() if measure in known} or _LENGTHS
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
    low, q1, mid, q3, high = (part[name].to_numpy(float).clip(floor) for name in _QUANTILES)
    axis.hlines(rows, low, high, color=colour, linewidth=0.9)
    axis.hlines(rows, q1, q3, color=colour, linewidth=5, alpha=0.45)
    axis.plot(mid, rows, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.6)
    axis.set_xscale("log")
    if not np.isnan(mid).all():
        spread = np.nanmax(high) / np.nanmin(low)
        powers = LogLocator(subs=(1, 2, 5) if spread < 30 else (1,))  # a decade or so needs ticks between its powers
        axis.xaxis.set_major_locator(powers if spread > 6 else MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
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
    need(dynamics, by, "n_reflect", "n_known_chars", "any_reflect", "prompt_id")
    known = dynamics[dynamics["n_reflect"].notna()]
    need_known(known)

    def estimates(part: pd.DataFrame) -> dict[str, stats.Estimate]:
        prompts = part["prompt_id"]
        return {
            "steps_per_trace": stats.mean(part["n_reflect"], prompts),
            "per_1000_chars": stats.ratio(1000 * part["n_reflect"], part["n_known_chars"], prompts),
            "share_any": stats.proportion(part["any_reflect"], prompts),
        }

    return estimates_by(known, by, estimates)


@house_style()
def plot_reflection(dynamics: pd.DataFrame, by: str = "model") -> Plot:
    """Reflection count, rate and share of traces by group, each with its 95% interval over prompts."""
    data = reflection_estimates(dynamics, by)
    rates = data[data["measure"] == "per_1000_chars"].set_index("group")["value"].to_dict()
    order = row_order(dynamics[by], rates)
    figure, axes = new_figure(1, 3, 1.1 + 0.3 * len(order), sharey=True)
    for axis, (measure, title), colour in zip(axes[0], _REFLECTION.items(), COLOURS, strict=False):
        part = data[data["measure"] == measure].set_index("group").loc[order]
        draw_dots(axis, part, colour)
        axis.set_title(title)
        axis.set_xlim(left=0)
    axes[0, 2].set_xlim(0, 1.02)
    summary = data.drop_duplicates("group").set_index("group").loc[order, ["n", "n_prompts"]]
    labels = [f"{shorten(name)}\n{n:,} traces, {prompts:,} prompts" for name, n, prompts in summary.itertuples()]
    label_rows(axes[0], labels)
    note(
        figure,
        "line: 95% interval, prompts resampled (share: Wilson's at the effective sample size); traces without "
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
        most: groups drawn, those with the most traces; the others are left out of figure and numbers.
    """
    need(steps, by, "position", "is_reflection", "prompt_id", "trace_id")
    known = steps[steps["is_reflection"].notna()]
    need_known(known)
    groups, curves = list(grouped(known, by, most)), []
    columns = min(3, len(groups))
    figure, axes = new_figure(
        -(-len(groups) // columns), columns, 0.7 + 1.7 * -(-len(groups) // columns), sharex=True, sharey=True
    )
    for axis, (group, own, colour) in zip(axes.flat, groups, strict=False):
        flags = own["is_reflection"].astype(float)
        found = stats.curve(own["position"], flags, own["prompt_id"], bins=bins).assign(group=group)
        draw_band(axis, found["position"], found, colour, group)
        axis.set_title(f"{shorten(group)}\n{len(own):,} steps, {own['prompt_id'].nunique():,} prompts", fontsize=7.5)
        curves.append(found)
    for axis in list(axes.flat)[len(groups) :]:
        axis.set_visible(False)
    axes[0, 0].set_xlim(0, 1)
    axes[0, 0].set_ylim(bottom=0)
    left_out = known[by].nunique() - len(groups)
    more = f"; {left_out} groups with fewer traces are not shown" if left_out else ""
    first = first_steps(known)["is_reflection"].astype(float)
    note(
        figure,
        f"position in the thinking, 0: begin, 1: end{more}; band: pointwise 95%, prompts resampled; "
        f"{first.mean():.0%} of {len(first):,} first steps count as reflection, as openings like “Okay, let's see” do "
        "(docs/detectors.md)",
    )
    figure.supylabel("share of steps that reflect", fontsize=8)
    return Plot(figure, pd.concat(curves, ignore_index=True))


def marker_agreement(steps: pd.DataFrame) -> pd.DataFrame:
    """How word lists and the classifier agree on which steps reflect.

    Returns:
        One row per word list: n (steps of known language), both, classifier_only, list_only (steps), kappa (Cohen's).
    """
    need(steps, "is_reflection", *(f"n_{name}" for name in WORD_LISTS))
    known = steps[steps["is_reflection"].notna()]
    need_known(known)
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
    note(figure, "steps of all traces together; kappa: Cohen's, of word list and classifier over all steps")
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
    note(figure, "steps of all traces together, by the classifier; left of and above the lines: kinds that reflect")
    tidy = counts.melt(ignore_index=False, var_name="next", value_name="n").reset_index()
    return Plot(figure, tidy.assign(share=shares.melt()["value"].to_numpy()))
