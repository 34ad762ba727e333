"""Figures that need a judge: outcomes, thinking against answer, agreement, the markers checked."""

import math
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from cotlens import stats
from cotlens.measures.groups import estimates_by, need
from cotlens.measures.unsafe import thinking_answer_estimates
from cotlens.plots.parts import (
    draw_dots,
    hide,
    label_rows,
    legend_above,
    legend_outside,
    note,
    row_order,
    shorten,
    sizes_by_group,
    spread,
)
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure, one_panel, panel_plot

OUTCOMES = {  # from safe to grave: label and colour
    "safe": ("Answer is safe", "#009E73"),
    "harm_misidentification": ("No unsafe step, or risk unnoticed", "#999999"),
    "self_jailbreak: benign_reframing": ("Excuse: benign reframing", "#F0E442"),
    "self_jailbreak: warning_then_answer": ("Excuse: warning, then answer", "#E69F00"),
    "self_jailbreak: fictional_licence": ("Excuse: fictional licence", "#D55E00"),
    "self_jailbreak: other_fallacy": ("Excuse: other fallacy", "#8B2E00"),
    "self_jailbreak": ("Unsafe step, risk noticed", "#CC79A7"),
}
DARK = ("#8B2E00", "#009E73", "#D55E00")  # text on these is white
CELLS = {  # thinking and answer: colour of the cell and of its text
    ("safe", "safe"): ("#009E73", "white"),
    ("safe", "unsafe"): ("#E69F00", "black"),
    ("unsafe", "safe"): ("#56B4E9", "black"),
    ("unsafe", "unsafe"): ("#D55E00", "white"),
}


@house_style()
def plot_outcomes(
    traces: pd.DataFrame, by: str = "model", *, judge: str = "", ax: Axes | None = None
) -> Plot:
    """How traces end, after the taxonomy of Chain-of-Guardrails, as stacked bars.

    Intervals are among the numbers.

    Args:
        traces: a trace table with the column `outcome` that `outcomes` returned.
        by: column of the group.
        judge: who judged the answers, for the note.
        ax: axes to draw into; default: a figure with a note under it.
    """
    need(traces, by, "outcome", "prompt_id")
    judged = traces[traces["outcome"] != "unknown"]
    if judged.empty:
        raise ValueError("no answer was judged")

    def shares(rows: pd.DataFrame) -> dict[str, stats.Estimate]:
        prompts = rows["prompt_id"]
        return {name: stats.proportion(rows["outcome"] == name, prompts) for name in OUTCOMES}

    data = estimates_by(judged, by, shares)
    wide = data.pivot(index="group", columns="measure", values="value")
    order = row_order(judged[by], wide["safe"].to_dict())
    axis = one_panel(ax, 1.5 + 0.3 * len(order))
    left = np.zeros(len(order))
    for name, (label, colour) in OUTCOMES.items():
        width = wide.loc[order, name].to_numpy()
        axis.barh(range(len(order)), width, left=left, color=colour, label=label, height=0.72)
        for row in np.flatnonzero(width >= 0.05):
            axis.text(
                left[row] + width[row] / 2,
                int(row),
                f"{width[row]:.0%}",
                ha="center",
                va="center",
                fontsize=6,
                color="white" if colour in DARK else "black",
            )
        left += width

    axis.set(xlim=(0, 1), xlabel="share of judged traces")
    sizes = sizes_by_group(judged, by)
    label_rows([axis], [f"{shorten(group)}\n{sizes[group]:,} judged" for group in order])
    if ax is not None:
        legend_above(axis)
        return panel_plot(axis, data)

    legend_outside(axis, ncols=3)
    n_unjudged = len(traces) - len(judged)
    left_out = f"; left out without a judgement: {n_unjudged:,}" if n_unjudged else ""
    note(
        axis.figure,
        f"answer judged by {judge or '?'}, unsafe but for the green; the rest by the wording of "
        f"steps{left_out}; an unsafe answer is a self-jailbreak if an unsafe step excuses the "
        "harm, or if there is an unsafe step and a risk is noticed",
    )
    return panel_plot(axis, data)


@house_style()
def plot_thinking_by_answer(
    traces: pd.DataFrame, by: str = "model", *, judges: str = "", most: int = 6
) -> Plot:
    """The 2 x 2 of thinking and answer as a mosaic for each group: area is the share of traces.

    Args:
        traces: a trace table with `thinking_unsafe` and `answer_unsafe`.
        by: column of the group.
        judges: who judged thinking and answer, for the title.
        most: groups drawn, those with the most traces.
    """
    data = thinking_answer_estimates(traces, by)
    sizes = data[data["measure"] == "thinking_unsafe"].set_index("group")["n"]
    largest = set(sizes.sort_values(ascending=False, kind="stable").index[:most])
    order = [group for group in dict.fromkeys(data["group"]) if group in largest]
    columns = min(3, len(order))
    rows = math.ceil(len(order) / columns)
    figure, axes = new_figure(rows, columns, 0.6 + 2.6 * rows)
    hide(axes.flat[len(order) :])
    for axis, group in zip(axes.flat, order, strict=False):
        _draw_mosaic(axis, data[data["group"] == group].set_index("measure"))
        axis.set_title(f"{shorten(group)}\n{sizes[group]:,} traces", fontsize=7.5)

    keys = []
    for (thinking, answer), (colour, _) in CELLS.items():
        keys.append(Patch(color=colour, label=f"thinking {thinking}, answer {answer}"))
    figure.legend(
        handles=keys,
        loc="outside upper left",
        ncols=4,
        fontsize=6.5,
        title=_judges_title(judges),
        title_fontsize=8,
        alignment="left",
    )
    is_judged = traces["thinking_unsafe"].notna() & traces["answer_unsafe"].notna()
    n_unjudged = len(traces) - is_judged.sum()
    left_out = f"; left out: {n_unjudged:,} without both judgements" if n_unjudged else ""
    note(
        figure,
        f"area: share of traces; intervals: Wilson's 95% at the effective n{left_out}",
    )
    return Plot(figure, data[data["group"].isin(order)].reset_index(drop=True))


def _judges_title(judges: str) -> str:
    """A title that says who judged thinking and answer."""
    title = judges or "judges not named"
    return title[0].upper() + title[1:]


def _draw_mosaic(axis: Axes, rows: pd.DataFrame) -> None:
    """Width: share of the thinking; height: share of the answer given the thinking.

    Unsafe is right and above.
    """
    values = {str(name): float(value) for name, value in rows["value"].items()}
    gap = 0.008
    unsafe = values["thinking_unsafe"]
    for thinking, left, width in (("safe", 0.0, 1 - unsafe), ("unsafe", 1 - unsafe, unsafe)):
        is_thin = width <= 0.14
        bottom = 0.0
        for answer in ("safe", "unsafe"):
            share = values[f"{thinking}_{answer}"]
            height = share / width if width else 0.0
            colour, text_colour = CELLS[thinking, answer]
            axis.bar(
                left + gap,
                height,
                width - 2 * gap,
                bottom,
                align="edge",
                color=colour,
                edgecolor="white",
            )
            if height > 0.07 and share >= 0.005:  # room for its number
                axis.text(
                    left + width / 2,
                    bottom + height / 2,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    fontsize=6 if is_thin else 7,
                    color=text_colour,
                    rotation=90 if is_thin else 0,
                )
            bottom += height

    # The axes say what the sides mean, and the share that matters most.
    conditional: Any = rows.loc["answer_safe_given_thinking_safe"]
    shown = "no safe thinking"
    if conditional["n"]:
        interval = f"{conditional['low']:.0%} to {conditional['high']:.0%}"
        shown = f"{conditional['value']:.0%} ({interval})"
    axis.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel=f"thinking safe | unsafe\nP(answer safe | thinking safe):\n{shown}",
        ylabel="answer safe | unsafe",
    )
    axis.xaxis.label.set_fontsize(6.5)
    axis.yaxis.label.set_fontsize(6.5)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)


@house_style()
def plot_safety_by_part(
    traces: pd.DataFrame, by: str = "model", *, judges: str = "", ax: Axes | None = None
) -> Plot:
    """Unsafe thinking against unsafe answers, a dot a group, with 95% intervals both ways.

    On the diagonal both are unsafe equally often; below it the answer is safer than the thinking.

    Args:
        traces: a trace table with `thinking_unsafe` and `answer_unsafe`.
        by: column of the group.
        judges: who judged thinking and answer, for the title.
        ax: axes to draw into; default: a figure with a note under it.
    """
    data = thinking_answer_estimates(traces, by)
    data = data[data["measure"].isin(["thinking_unsafe", "answer_unsafe"])].reset_index(drop=True)
    axis = one_panel(ax, 3.6)
    axis.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    for number, (group, rows) in enumerate(data.groupby("group", sort=False)):
        measures = rows.set_index("measure")
        thinking = measures.loc["thinking_unsafe"]
        answer = measures.loc["answer_unsafe"]
        colour = COLOURS[number % len(COLOURS)]
        axis.hlines(answer["value"], thinking["low"], thinking["high"], color=colour, linewidth=1)
        axis.vlines(thinking["value"], answer["low"], answer["high"], color=colour, linewidth=1)
        axis.plot(
            thinking["value"],
            answer["value"],
            "osD^v<>"[number // len(COLOURS) % 7],
            color=colour,
            markersize=5,
            markeredgecolor="white",
            label=f"{shorten(str(group))} ({thinking['n']:,.0f} traces)",
        )

    axis.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="share of traces with unsafe thinking",
        ylabel="... with an unsafe answer",
    )
    axis.set_aspect("equal")
    axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    if ax is None:
        axis.set_title(_judges_title(judges), fontsize=8)
        note(axis.figure, "lines: Wilson's 95% interval at the effective sample size")
    return panel_plot(axis, data)


AGREEMENT_COLUMNS = [
    "part",
    "a",
    "b",
    "n",
    "equal",
    "safe_safe",
    "safe_unsafe",
    "unsafe_safe",
    "unsafe_unsafe",
    "kappa",
    "kappa_low",
    "kappa_high",
    "ac1",
    "ac1_low",
    "ac1_high",
    "g_mean2",
    "g_mean2_low",
    "g_mean2_high",
    "is_saturated",
]


@house_style()
def plot_guard_agreement(verdicts: pd.DataFrame) -> Plot:
    """How far judges agree on the same texts.

    Cohen's kappa and Gwet's AC1 of each pair, part by part. The data has g-mean² too, of judge a
    with judge b as the truth, and whether labels are too alike for kappa (`Agreement`).

    Args:
        verdicts: one row per (trace, part, judge) with `trace_id`, `prompt_id`, `part`, `judge` and
            `unsafe` (missing where the judge is undecided).
    """
    need(verdicts, "trace_id", "prompt_id", "part", "judge", "unsafe")
    pairs = []
    for part, rows in verdicts.groupby("part", sort=True):
        wide = rows.pivot(index="trace_id", columns="judge", values="unsafe")
        prompts = rows.drop_duplicates("trace_id").set_index("trace_id")["prompt_id"]
        for a, b in combinations(wide.columns, 2):
            both = wide[[a, b]].dropna().astype(bool)
            pair = _agreement(both[a], both[b], prompts.loc[both.index])
            pairs.append({"part": part, "a": a, "b": b} | pair)
    data = pd.DataFrame(pairs).reindex(columns=AGREEMENT_COLUMNS)
    if data.empty:
        raise ValueError("agreement needs two judges of the same part")

    parts = list(dict.fromkeys(data["part"]))
    figure, axes = new_figure(1, len(parts), 2.9)
    for axis, part in zip(axes[0], parts, strict=True):
        _draw_pairs(axis, data[data["part"] == part])
        axis.set_title(str(part))
    note(
        figure,
        "below: Cohen's kappa, above: Gwet's AC1; small: 95% interval, prompts resampled, and "
        "traces that both decided; saturated: a judge gives one label to over 70%, or another in "
        "fewer than ten prompts",
    )
    return Plot(figure, data)


def _agreement(a: pd.Series, b: pd.Series, prompts: pd.Series) -> dict[str, Any]:
    """Counts of the 2 x 2 of two judges; coefficients unless both gave one label throughout."""
    row: dict[str, Any] = {"n": len(a), "equal": (a == b).mean()}
    for label_a, label_b in product(("safe", "unsafe"), repeat=2):
        is_cell = (a == (label_a == "unsafe")) & (b == (label_b == "unsafe"))
        row[f"{label_a}_{label_b}"] = int(is_cell.sum())
    has_unsafe = a.any() or b.any()
    has_safe = not (a.all() and b.all())
    row["is_saturated"] = True if len(a) else None
    if has_unsafe and has_safe:
        agreement = stats.agreement(a.tolist(), b.tolist(), prompts)
        row["is_saturated"] = agreement.is_saturated
        for name in ("kappa", "ac1", "g_mean2"):
            estimate = getattr(agreement, name)
            row[name] = estimate.value
            row[f"{name}_low"] = estimate.low
            row[f"{name}_high"] = estimate.high
    return row


def _draw_pairs(axis: Axes, pairs: pd.DataFrame) -> None:
    """A square of judges: kappa under the diagonal, AC1 over it."""
    names = sorted({*pairs["a"], *pairs["b"]})
    values = np.full((len(names), len(names)), np.nan)
    for pair in pairs.to_dict("records"):
        first, second = sorted((names.index(pair["a"]), names.index(pair["b"])))
        for row, column, measure in ((second, first, "kappa"), (first, second, "ac1")):
            value = pair[measure]
            values[row, column] = value
            axis.text(
                column,
                row,
                _agreement_text(pair, measure),
                ha="center",
                va="center",
                fontsize=6,
                color="white" if value > 0.6 else "black",
            )
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), [shorten(name, 16) for name in names])
    axis.set_yticks(range(len(names)), [shorten(name, 16) for name in names])
    axis.grid(visible=False)


def _agreement_text(pair: dict[Any, Any], measure: str) -> str:
    if np.isnan(pair[measure]):
        return "one label"
    low, high = pair[f"{measure}_low"], pair[f"{measure}_high"]
    interval = "no interval" if np.isnan(low) else f"{low:.2f} to {high:.2f}"
    text = f"{pair[measure]:.2f}\n{interval}\nn = {pair['n']:,}"

    # AC1 holds its ground where one label is rare.
    if measure == "kappa" and pair["is_saturated"]:
        text += "\nsaturated"
    return text


@house_style()
def plot_detector(traces: pd.DataFrame, by: str = "model", *, judge: str = "") -> Plot:
    """The markers against a judge of the thinking, group by group.

    Do they work alike on every checkpoint?

    Left: precision and recall of "has a self-jailbreaking or otherwise unsafe step" against the
    judge. Right: the rate by the markers, that rate corrected for their errors in this group, and
    the judge's.

    Args:
        traces: what `unsafe_dynamics` returned, with `thinking_unsafe`.
        by: column of the group.
        judge: who judged the thinking, for the note.
    """
    need(traces, by, "any_unsafe", "thinking_unsafe", "prompt_id")
    known = traces[traces["any_unsafe"].notna() & traces["thinking_unsafe"].notna()]
    if known.empty:
        raise ValueError("no trace has markers and a judgement of its thinking")
    data = estimates_by(known, by, _detector_quality)
    order = list(dict.fromkeys(data["group"]))[::-1]
    figure, axes = new_figure(1, 2, 1.5 + 0.36 * len(order), sharey=True, sharex=True)
    panels = (("precision", "recall"), ("by_markers", "corrected", "by_judge"))
    first_colour = 0
    for axis, measures in zip(axes[0], panels, strict=True):
        for number, measure in enumerate(measures):
            draw_dots(
                axis,
                data[data["measure"] == measure].set_index("group").reindex(order),
                COLOURS[first_colour + number],
                offset=spread(number, len(measures), 0.2),
                label=measure.replace("_", " "),
                marker="osD"[number],
            )
        legend_above(axis)
        first_colour += len(measures)

    axes[0, 0].set(xlim=(0, 1.02), xlabel="of the markers, against the judge")
    axes[0, 1].set(xlabel="share of traces with unsafe thinking")
    sizes = sizes_by_group(known, by)
    label_rows(axes[0], [f"{shorten(group)}\n{sizes[group]:,} traces" for group in order])
    note(
        figure,
        f"judge of the thinking: {judge or '?'}; corrected: Rogan and Gladen 1978; lines: 95% "
        "intervals",
    )
    return Plot(figure, data)


def _detector_quality(rows: pd.DataFrame) -> dict[str, stats.Estimate]:
    """Precision and recall of the markers, and the rates by markers and by judge."""
    flags = rows["any_unsafe"]
    truth = rows["thinking_unsafe"].astype(bool)
    prompts = rows["prompt_id"]
    detection = stats.detection(flags, truth, prompts)
    measured = {
        "precision": detection.precision,
        "recall": detection.recall,
        "by_markers": stats.proportion(flags, prompts),
        "by_judge": stats.proportion(truth, prompts),
    }
    if detection.positives and detection.negatives:
        measured["corrected"] = stats.corrected_rate(flags, prompts, **detection.counts)
    return measured
