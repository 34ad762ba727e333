"""Figures of lengths and of reflection: a table in, a `Plot` out."""

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.detect.reflect import N_REFLECTIVE
from cotlens.measures.groups import first_steps, need, need_known
from cotlens.measures.reflection import marker_agreement, reflection_estimates, transitions
from cotlens.plots.parts import draw_band, draw_dots, grouped, label_rows, note, row_order, shorten
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

# --- reflection ------------------------------------------------------------------------------------------------
_REFLECTION = {
    "steps_per_trace": "Reflecting steps per trace",
    "per_1000_chars": "... per 1,000 characters",
    "share_any": "Traces with any",
}


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
    labels = [
        f"{shorten(name)}\n{n:,} traces, {prompts:,} prompts"
        for name, n, prompts in summary.itertuples()
    ]
    label_rows(axes[0], labels)
    note(
        figure,
        "line: 95% interval, prompts resampled (share: Wilson's at the effective sample size); traces without "
        "thinking left out. A step reflects if the classifier says so; its errors against people: docs/detectors.md",
    )
    return Plot(figure, data)


@house_style()
def plot_reflection_position(
    steps: pd.DataFrame, by: str = "model", bins: int = 20, most: int = 6
) -> Plot:
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
        -(-len(groups) // columns),
        columns,
        0.7 + 1.7 * -(-len(groups) // columns),
        sharex=True,
        sharey=True,
    )
    for axis, (group, own, colour) in zip(axes.flat, groups, strict=False):
        flags = own["is_reflection"].astype(float)
        found = stats.curve(own["position"], flags, own["prompt_id"], bins=bins).assign(group=group)
        draw_band(axis, found["position"], found, colour, group)
        axis.set_title(
            f"{shorten(group)}\n{len(own):,} steps, {own['prompt_id'].nunique():,} prompts",
            fontsize=7.5,
        )
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


@house_style()
def plot_marker_agreement(steps: pd.DataFrame) -> Plot:
    """Of the steps that a word list or the classifier marks as reflection, how many both mark."""
    data = marker_agreement(steps)
    figure, axes = new_figure(1, 1, 0.9 + 0.4 * len(data))
    axis, left = axes[0, 0], np.zeros(len(data))
    parts = {"both": "both", "classifier_only": "classifier only", "list_only": "word list only"}
    for (column, label), colour, hatch in zip(
        parts.items(), COLOURS, ("", "///", "..."), strict=False
    ):
        values = data[column].to_numpy(float)
        axis.barh(
            range(len(data)),
            values,
            left=left,
            color=colour,
            label=label,
            hatch=hatch,
            edgecolor="white",
            height=0.6,
        )
        left += values
    axis.set_yticks(
        range(len(data)), [f"{row.list}\nkappa {row.kappa:.2f}" for row in data.itertuples()]
    )
    axis.set_xlabel(f"steps marked, of {data['n'].iloc[0]:,}")
    axis.grid(axis="y", visible=False)
    axis.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    note(
        figure,
        "steps of all traces together; kappa: Cohen's, of word list and classifier over all steps",
    )
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
    note(
        figure,
        "steps of all traces together, by the classifier; left of and above the lines: kinds that reflect",
    )
    tidy = counts.melt(ignore_index=False, var_name="next", value_name="n").reset_index()
    return Plot(figure, tidy.assign(share=shares.melt()["value"].to_numpy()))
