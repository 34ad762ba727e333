"""Figures of token entropy, from the tables of `cotlens.measures.entropy`."""

import math

import pandas as pd
from matplotlib.axes import Axes

from cotlens import stats
from cotlens.measures.groups import estimates_by, need
from cotlens.plots.parts import (
    draw_band,
    draw_dots,
    grouped,
    hide,
    label_rows,
    legend_above,
    legend_name,
    note,
    shorten,
)
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure, one_panel, panel_plot

PARTS = {  # measure: label and panel
    "entropy_think": ("Thinking", "thinking and answer"),
    "entropy_answer": ("Answer", "thinking and answer"),
    "entropy_reflect": ("Steps that reflect", "steps of thinking"),
    "entropy_other": ("Other steps", "steps of thinking"),
}


@house_style()
def plot_position_entropy(
    table: pd.DataFrame,
    by: str = "model",
    *,
    label: str = "Entropy",
    most: int = 6,
    ax: Axes | None = None,
) -> Plot:
    """Mean score of the thinking by relative position, with 95% bands over prompts.

    Each trace weighs the same.

    Args:
        table: what `position_entropy` returned, with the columns `by` and `prompt_id` of the
            traces.
        by: column of the group.
        label: what the values are, for the axis; they are nats.
        most: groups drawn, those with the most traces.
        ax: axes to draw into; default: a figure with a note under it.
    """
    need(table, by, "position", "value", "prompt_id", "trace_id")
    axis = one_panel(ax, 3.0)
    curves = []
    for group, rows, colour in grouped(table, by, most):
        first = rows["position"].min()  # the middle of the first bin
        bins = round(0.5 / first) if first > 0 else 20
        curve = stats.curve(rows["position"], rows["value"], rows["prompt_id"], bins=max(bins, 1))
        curve = curve.dropna(subset="value")
        draw_band(axis, curve["position"], curve, colour, legend_name(group, rows))
        curves.append(curve.assign(group=group))

    axis.set(
        xlim=(0, 1),
        xlabel="position in the thinking (share of its tokens)",
        ylabel=f"{label} (nats)",
    )
    axis.set_ylim(bottom=0)
    legend_above(axis)
    if ax is None:
        note(
            axis.figure,
            "mean over traces of each trace's mean; band: pointwise 95% interval, prompts "
            "resampled",
        )
    return panel_plot(axis, pd.concat(curves, ignore_index=True))


@house_style()
def plot_entropy_parts(table: pd.DataFrame, by: str = "model") -> Plot:
    """Mean token entropy of thinking and answer, and of steps that reflect or do not.

    Intervals are 95%, over prompts.

    Args:
        table: what `trace_entropy` returned.
        by: column of the group.
    """
    need(table, by, "prompt_id", *PARTS)

    def means(rows: pd.DataFrame) -> dict[str, stats.Estimate]:
        return {name: stats.mean(rows[name], rows["prompt_id"]) for name in PARTS}

    data = estimates_by(table, by, means)
    order = list(dict.fromkeys(data["group"]))[::-1]
    panels = list(dict.fromkeys(panel for _, panel in PARTS.values()))
    height = 1.3 + 0.32 * len(order)
    figure, axes = new_figure(1, len(panels), height, sharey=True, sharex=True)
    for number, (measure, (name, panel)) in enumerate(PARTS.items()):
        axis = axes[0, panels.index(panel)]
        is_second = number % 2
        draw_dots(
            axis,
            data[data["measure"] == measure].set_index("group").loc[order],
            COLOURS[number],
            offset=0.13 * (1 - 2 * is_second),
            label=name,
            marker="os"[is_second],
        )
        axis.set_xlabel("mean token entropy (nats)")
        legend_above(axis)
    axes[0, 0].set_xlim(left=0)

    is_scored = table["n_scored"] > 0
    scored = is_scored.groupby(table[by], dropna=False).sum()
    n_scored = {str(group) or "(unnamed)": int(n) for group, n in scored.items()}
    label_rows(axes[0], [f"{shorten(group)}\n{n_scored[group]:,} scored traces" for group in order])
    note(
        figure,
        "mean over traces of each trace's mean over tokens; line: 95% interval, prompts resampled",
    )
    return Plot(figure, data)


@house_style()
def plot_reflection_entropy(
    table: pd.DataFrame, by: str = "model", *, label: str = "Entropy", most: int = 6
) -> Plot:
    """Mean score token by token around the onset of reflection and of other steps.

    Args:
        table: what `reflection_entropy` returned, with the columns `by` and `prompt_id` of the
            traces.
        by: column of the group.
        label: what the values are, for the axis; they are nats.
        most: groups drawn, those with the most traces.
    """
    need(table, by, "reflects", "offset", "value", "prompt_id", "trace_id")
    groups = list(grouped(table, by, most))
    columns = min(3, len(groups))
    n_rows = math.ceil(len(groups) / columns)
    figure, axes = new_figure(n_rows, columns, 1.0 + 1.9 * n_rows, sharex=True, sharey=True)
    hide(axes.flat[len(groups) :])

    reach = int(table["offset"].abs().max())
    kinds = ((True, COLOURS[5], "reflection sets in"), (False, "#777777", "another step"))
    curves = []
    for axis, (group, group_rows, _) in zip(axes.flat, groups, strict=False):
        for reflects, colour, name in kinds:
            rows = group_rows[group_rows["reflects"] == reflects]
            if rows.empty:
                continue
            curve = _curve_by_offset(rows, reach)
            draw_band(axis, curve["offset"], curve, colour, name)
            n_steps = rows["n"].sum()
            curves.append(curve.assign(group=group, reflects=reflects, n_steps=n_steps))
        axis.axvline(-0.5, color="black", linewidth=0.6, linestyle=":")
        is_onset = group_rows["reflects"] & (group_rows["offset"] == 0)
        n_onsets = group_rows.loc[is_onset, "n"].sum()
        n_prompts = group_rows["prompt_id"].nunique()
        title = f"{shorten(group)}\n{n_onsets:,} onsets, {n_prompts:,} prompts"
        axis.set_title(title, fontsize=7.5)

    axes[0, 0].set_ylim(bottom=0)
    figure.supylabel(f"{label} (nats)", fontsize=8)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2)
    note(
        figure,
        "tokens from the step's first (0); both kinds follow a step that does not reflect; mean "
        "over traces, "
        "band: pointwise 95% interval, prompts resampled",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


def _curve_by_offset(rows: pd.DataFrame, reach: int) -> pd.DataFrame:
    """The mean by offset in tokens, with its interval: a curve over 2 reach + 1 bins."""
    bins = 2 * reach + 1
    position = (rows["offset"] + reach + 0.5) / bins
    curve = stats.curve(position, rows["value"], rows["prompt_id"], bins=bins)
    curve = curve.dropna(subset="value")
    offset = (curve["position"] * bins - 0.5 - reach).round().astype(int)
    return curve.assign(offset=offset).drop(columns="position")


@house_style()
def plot_entropy_distribution(
    table: pd.DataFrame, by: str = "model", *, most: int = 6, ax: Axes | None = None
) -> Plot:
    """Share of tokens whose entropy exceeds a value, tail included, with 95% bands over prompts.

    Args:
        table: what `entropy_survival` returned, with the columns `by` and `prompt_id` of the
            traces.
        by: column of the group.
        most: groups drawn, those with the most traces.
        ax: axes to draw into; default: a figure with a note under it.
    """
    need(table, by, "threshold", "above", "n", "prompt_id", "trace_id")
    axis = one_panel(ax, 3.0)
    curves = []
    for group, group_rows, colour in grouped(table, by, most):
        points = []
        for threshold, rows in group_rows.groupby("threshold"):
            share = stats.ratio(rows["above"], rows["n"], rows["prompt_id"])
            point = {
                "threshold": threshold,
                "value": share.value,
                "low": share.low,
                "high": share.high,
                "n_tokens": int(rows["n"].sum()),
                "n_prompts": share.n_clusters,
            }
            points.append(point)
        curve = pd.DataFrame(points)
        draw_band(axis, curve["threshold"], curve, colour, legend_name(group, group_rows))
        curves.append(curve.assign(group=group))

    axis.set(xscale="log", ylim=(0, 1), xlabel="entropy (nats)", ylabel="share of tokens above")
    legend_above(axis)
    if ax is None:
        note(
            axis.figure,
            "all scored tokens of the completions; band: pointwise 95% interval, prompts resampled",
        )
    return panel_plot(axis, pd.concat(curves, ignore_index=True))


@house_style()
def plot_forking_tokens(table: pd.DataFrame, *, ax: Axes | None = None) -> Plot:
    """Tokens of the thinking before which the model is least certain, with how often each occurs.

    Args:
        table: what `forking_tokens` returned. Contexts are neither drawn nor among the numbers.
        ax: axes to draw into; default: a figure with a note under it.
    """
    need(table, "word", "n", "n_traces", "entropy")
    shown = table.iloc[::-1]
    heights = range(len(shown))
    axis = one_panel(ax, 0.9 + 0.155 * len(shown))
    axis.barh(heights, shown["entropy"], color=COLOURS[0], height=0.7)
    for height, (entropy, n) in enumerate(zip(shown["entropy"], shown["n"], strict=True)):
        axis.text(entropy, height, f" {n:,}", va="center", fontsize=6, color="#555555")

    words = [_visible(word) for word in shown["word"]]
    axis.set_yticks(heights, words, fontfamily="DejaVu Sans Mono")
    axis.set(
        xlabel="mean entropy before the token (nats); grey: occurrences",
        ylim=(-0.6, len(shown) - 0.4),
    )
    axis.grid(axis="y", visible=False)
    if ax is None:
        note(axis.figure, "tokens of the thinking of all runs together; spaces are shown as ␣")
    numbers = table.drop(columns=["before", "after", "highest"], errors="ignore")
    return panel_plot(axis, numbers)


_SIGNS = {" ": "␣", "\n": "↵", "\t": "→", "$": "\\$"}


def _visible(word: str, longest: int = 20) -> str:
    """A token as one line of plain text: white space made visible, no control characters."""
    signs = []
    for character in word:
        sign = _SIGNS.get(character)
        if sign is None:
            sign = character if character.isprintable() else "·"
        signs.append(sign)
    text = "".join(signs)
    return text if len(text) <= longest else text[: longest - 1] + "…"
