"""Figures of reflection: how much, where, against word lists, and what follows what."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cotlens.detect.reflect import N_REFLECTIVE
from cotlens.measures.groups import need
from cotlens.measures.places import Places, reflection_places
from cotlens.measures.reflection import marker_agreement, reflection_estimates, transitions
from cotlens.plots.parts import (
    draw_band,
    draw_dots,
    grouped,
    hide,
    label_rows,
    note,
    row_order,
    shorten,
)
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure, one_panel, panel_plot

RATES = {
    "steps_per_trace": "Reflecting steps per trace",
    "per_1000_chars": "... per 1,000 characters",
    "share_any": "Traces with any",
}
MARKED_BY = {
    "both": "both",
    "classifier_only": "classifier only",
    "list_only": "word list only",
}


@house_style()
def plot_reflection(dynamics: pd.DataFrame, by: str = "model") -> Plot:
    """Reflection count, rate and share of traces by group, with 95% intervals over prompts.

    Args:
        dynamics: what `reflection_dynamics` returned.
        by: column of the group.
    """
    data = reflection_estimates(dynamics, by)
    rates = data[data["measure"] == "per_1000_chars"].set_index("group")["value"]
    order = row_order(dynamics[by], rates.to_dict())
    figure, axes = new_figure(1, len(RATES), 1.1 + 0.3 * len(order), sharey=True)
    for axis, (measure, title), colour in zip(axes[0], RATES.items(), COLOURS, strict=False):
        rows = data[data["measure"] == measure].set_index("group").loc[order]
        draw_dots(axis, rows, colour)
        axis.set_title(title)
        axis.set_xlim(left=0)
    axes[0, 2].set_xlim(0, 1.02)

    summary = data.drop_duplicates("group").set_index("group").loc[order, ["n", "n_prompts"]]
    labels = []
    for name, n_traces, n_prompts in summary.itertuples():
        labels.append(f"{shorten(name)}\n{n_traces:,} traces, {n_prompts:,} prompts")
    label_rows(axes[0], labels)
    note(
        figure,
        "line: 95% interval, prompts resampled (share: Wilson's at the effective sample size); "
        "traces without thinking left out. A step reflects if the classifier says so, which counts "
        "the trace's length too: compare groups of like length (docs/detectors.md)",
    )
    return Plot(figure, data)


def plot_reflection_position(
    steps: pd.DataFrame, by: str = "model", bins: int = 20, most: int = 6
) -> Plot:
    """Share of steps that reflect, by position in the thinking.

    Bands are pointwise 95%, over prompts.

    Args:
        steps: a step table with the columns `by` and `prompt_id` of its traces.
        by: column of the group.
        bins: number of equal parts of the thinking.
        most: groups drawn, those with the most traces; the others are left out of figure and
            numbers.
    """
    need(steps, by, "prompt_id")
    places = reflection_places(steps, bins, list(dict.fromkeys([by, "prompt_id"])))
    return plot_reflection_places(places, by, most)


@house_style()
def plot_reflection_places(places: Places, by: str = "model", most: int = 6) -> Plot:
    """`plot_reflection_position`, of the places of the steps.

    Args:
        places: what `reflection_places` gives, with the columns `by` and `prompt_id`.
        by: column of the group.
        most: groups drawn, those with the most traces.
    """
    traces = places.traces
    groups = list(grouped(traces, by, most))
    columns = min(3, len(groups))
    n_rows = math.ceil(len(groups) / columns)
    figure, axes = new_figure(n_rows, columns, 0.7 + 1.7 * n_rows, sharex=True, sharey=True)
    hide(axes.flat[len(groups) :])

    curves = []
    for axis, (group, rows, colour) in zip(axes.flat, groups, strict=False):
        curve = places.curve("reflects", rows)
        draw_band(axis, curve["position"], curve, colour, group)
        n_steps = places.n[rows.index].sum()
        title = f"{shorten(group)}\n{n_steps:,} steps, {rows['prompt_id'].nunique():,} prompts"
        axis.set_title(title, fontsize=7.5)
        curves.append(curve.assign(group=group))
    axes[0, 0].set_xlim(0, 1)
    axes[0, 0].set_ylim(bottom=0)

    n_left_out = traces[by].nunique() - len(groups)
    left_out = f"; {n_left_out} groups with fewer traces are not shown" if n_left_out else ""
    openings = traces["first_reflects"]
    note(
        figure,
        f"position in the thinking, 0: begin, 1: end{left_out}; band: pointwise 95%, prompts "
        f"resampled; {openings.mean():.0%} of {len(openings):,} first steps reflect. The "
        "classifier counts the place itself: a part of the rise is its prior (docs/detectors.md)",
    )
    figure.supylabel("share of steps that reflect", fontsize=8)
    return Plot(figure, pd.concat(curves, ignore_index=True))


def plot_marker_agreement(steps: pd.DataFrame, *, ax: Axes | None = None) -> Plot:
    """How many steps a word list, the classifier, or both mark as reflection.

    Args:
        steps: a step table.
        ax: axes to draw into; default: a figure with a note under it.
    """
    return plot_marker_counts(marker_agreement(steps), ax=ax)


@house_style()
def plot_marker_counts(data: pd.DataFrame, *, ax: Axes | None = None) -> Plot:
    """`plot_marker_agreement`, of what `marker_agreement` gives."""
    axis = one_panel(ax, 0.9 + 0.4 * len(data))
    left = np.zeros(len(data))
    hatches = ("", "///", "...")
    for (column, label), colour, hatch in zip(MARKED_BY.items(), COLOURS, hatches, strict=False):
        counts = data[column].to_numpy(float)
        axis.barh(
            range(len(data)),
            counts,
            left=left,
            color=colour,
            label=label,
            hatch=hatch,
            edgecolor="white",
            height=0.6,
        )
        left += counts

    labels = [f"{row.list}\nkappa {row.kappa:.2f}" for row in data.itertuples()]
    axis.set_yticks(range(len(data)), labels)
    axis.set_xlabel(f"steps marked, of {data['n'].iloc[0]:,}")
    axis.grid(axis="y", visible=False)
    axis.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    if ax is None:
        note(
            axis.figure,
            "steps of all traces together; kappa: Cohen's, of word list and classifier over all "
            "steps",
        )
    return panel_plot(axis, data)


def plot_transitions(steps: pd.DataFrame, *, ax: Axes | None = None) -> Plot:
    """What follows what: for each kind of step (row), the shares of the kinds of the next step.

    Args:
        steps: a step table.
        ax: axes to draw into; default: a figure with a note under it.
    """
    return plot_transition_counts(transitions(steps), ax=ax)


@house_style()
def plot_transition_counts(counts: pd.DataFrame, *, ax: Axes | None = None) -> Plot:
    """`plot_transitions`, of what `transitions` gives."""
    total = counts.sum(axis=1)
    shares = counts.div(total.where(total > 0), axis=0)
    values = shares.to_numpy(float)
    axis = one_panel(ax, 4.6)
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(values):
        if np.isnan(share):
            continue
        axis.text(
            column,
            row,
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
    # Lines between the kinds that reflect and the others.
    axis.axhline(N_REFLECTIVE - 0.5, color="black", linewidth=0.8)
    axis.axvline(N_REFLECTIVE - 0.5, color="black", linewidth=0.8)
    if ax is None:
        note(
            axis.figure,
            "steps of all traces together, by the classifier; left of and above the lines: kinds "
            "that reflect",
        )

    tidy = counts.melt(ignore_index=False, var_name="next", value_name="n").reset_index()
    return panel_plot(axis, tidy.assign(share=shares.melt()["value"].to_numpy()))
