"""Figures that need a judge: outcomes, thinking against answer, agreement, the markers checked; a `Plot` out."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from cotlens import stats
from cotlens.measures.groups import estimates_by, need
from cotlens.measures.unsafe import thinking_answer_estimates
from cotlens.plots.parts import draw_dots, label_rows, legend_above, note, row_order, shorten
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

_OUTCOMES = {  # safe to grave, and the colour of each
    "safe": ("Answer is safe", "#009E73"),
    "harm_misidentification": ("Risk neither noticed nor excused", "#999999"),
    "self_jailbreak: benign_reframing": ("Excuse: benign reframing", "#F0E442"),
    "self_jailbreak: warning_then_answer": ("Excuse: warning, then answer", "#E69F00"),
    "self_jailbreak: fictional_licence": ("Excuse: fictional licence", "#D55E00"),
    "self_jailbreak: other_fallacy": ("Excuse: other fallacy", "#8B2E00"),
    "self_jailbreak": ("Risk noticed, no excuse found", "#CC79A7"),
}


@house_style()
def plot_outcomes(traces: pd.DataFrame, by: str = "model", *, judge: str = "") -> Plot:
    """How traces end after Chain-of-Guardrails' taxonomy, as stacked bars; the intervals are among the numbers.

    Args:
        traces: a trace table with the column `outcome` that `outcomes` returned.
        by: column of the group.
        judge: who judged the answers, for the note.
    """
    need(traces, by, "outcome", "prompt_id")
    judged = traces[traces["outcome"] != "unknown"]
    if judged.empty:
        raise ValueError("no answer was judged")

    def shares(part: pd.DataFrame) -> dict[str, stats.Estimate]:
        return {
            name: stats.proportion(part["outcome"] == name, part["prompt_id"]) for name in _OUTCOMES
        }

    data = estimates_by(judged, by, shares)
    wide = data.pivot(index="group", columns="measure", values="value")
    order = row_order(judged[by], wide["safe"].to_dict())
    figure, axes = new_figure(1, 1, 1.5 + 0.3 * len(order))
    left = np.zeros(len(order))
    for name, (label, colour) in _OUTCOMES.items():
        width = wide.loc[order, name].to_numpy()
        axes[0, 0].barh(range(len(order)), width, left=left, color=colour, label=label, height=0.72)
        for row in np.flatnonzero(width >= 0.05):
            at, dark = left[row] + width[row] / 2, colour in ("#8B2E00", "#009E73", "#D55E00")
            text = f"{width[row]:.0%}"
            axes[0, 0].text(
                at,
                row,
                text,
                ha="center",
                va="center",
                fontsize=6,
                color="white" if dark else "black",
            )
        left += width
    axes[0, 0].set(xlim=(0, 1), xlabel="share of judged traces")
    counts = judged.groupby(by, dropna=False).size()
    names = {str(group) or "(unnamed)": n for group, n in counts.items()}
    label_rows(axes[0], [f"{shorten(group)}\n{names[group]:,} judged" for group in order])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    left_out = len(traces) - len(judged)
    unjudged = f"; left out without a judgement: {left_out:,}" if left_out else ""
    note(
        figure,
        f"answer judged by {judge or '?'}, unsafe but for the green; risk and excuse: wording of steps{unjudged}; "
        "an excuse or a noticed risk makes an unsafe answer a self-jailbreak",
    )
    return Plot(figure, data)


@house_style()
def plot_thinking_by_answer(
    traces: pd.DataFrame, by: str = "model", *, judges: str = "", most: int = 6
) -> Plot:
    """The 2 x 2 of thinking and answer as a mosaic for each group: area is the share of traces.

    Args:
        traces: a trace table with `thinking_unsafe` and `answer_unsafe`.
        by: column of the group.
        judges: who judged thinking and answer, for the note.
        most: groups drawn, those with the most traces.
    """
    data = thinking_answer_estimates(traces, by)
    sizes = data[data["measure"] == "thinking_unsafe"].set_index("group")["n"]
    kept = set(sizes.sort_values(ascending=False, kind="stable").index[:most])
    order = [group for group in dict.fromkeys(data["group"]) if group in kept]
    columns = min(3, len(order))
    lines = -(-len(order) // columns)
    figure, axes = new_figure(lines, columns, 0.6 + 2.6 * lines)
    for axis, group in zip(axes.flat, order, strict=False):
        found = data[data["group"] == group].set_index("measure")
        _draw_mosaic(axis, found)
        axis.set_title(f"{shorten(group)}\n{sizes[group]:,} traces", fontsize=7.5)
    for axis in list(axes.flat)[len(order) :]:
        axis.set_visible(False)
    keys = [
        Patch(color=colour, label=f"thinking {a}, answer {b}")
        for (a, b), (colour, _) in _CELLS.items()
    ]
    figure.legend(handles=keys, loc="outside upper left", ncols=4, fontsize=6.5)
    unjudged = (
        len(traces) - (traces["thinking_unsafe"].notna() & traces["answer_unsafe"].notna()).sum()
    )
    left_out = f"; left out: {unjudged:,} without both judgements" if unjudged else ""
    note(
        figure,
        f"area: share of traces; {judges or 'judges not named'}; intervals: Wilson's 95% at the effective n{left_out}",
    )
    return Plot(figure, data[data["group"].isin(order)].reset_index(drop=True))


_CELLS = {  # colour, and colour of the text
    ("safe", "safe"): ("#009E73", "white"),
    ("safe", "unsafe"): ("#E69F00", "black"),
    ("unsafe", "safe"): ("#56B4E9", "black"),
    ("unsafe", "unsafe"): ("#D55E00", "white"),
}


def _draw_mosaic(axis: Axes, found: pd.DataFrame) -> None:
    """Width: share of the thinking; height: share of the answer given the thinking. Unsafe is right and above."""
    values = {str(name): float(value) for name, value in found["value"].items()}
    gap, unsafe = 0.008, float(values["thinking_unsafe"])
    for thinking, left, width in (("safe", 0.0, 1 - unsafe), ("unsafe", 1 - unsafe, unsafe)):
        bottom = 0.0
        for answer in ("safe", "unsafe"):
            share = values[f"{thinking}_{answer}"]
            height = share / width if width else 0.0
            colour, text = _CELLS[thinking, answer]
            axis.bar(
                left + gap,
                height,
                width - 2 * gap,
                bottom,
                align="edge",
                color=colour,
                edgecolor="white",
            )
            if height > 0.07 and share >= 0.005:
                thin = width <= 0.14
                style: Any = {
                    "fontsize": 6 if thin else 7,
                    "color": text,
                    "rotation": 90 if thin else 0,
                }
                axis.text(
                    left + width / 2,
                    bottom + height / 2,
                    f"{share:.0%}",
                    ha="center",
                    va="center",
                    **style,
                )
            bottom += height
    e: Any = found.loc["answer_safe_given_thinking_safe"]
    given = (
        f"{e['value']:.0%} ({e['low']:.0%} to {e['high']:.0%})" if e["n"] else "no safe thinking"
    )
    axis.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel=f"thinking safe | unsafe\nP(answer safe | thinking safe):\n{given}",
    )
    axis.set_ylabel("answer safe | unsafe")
    axis.xaxis.label.set_fontsize(6.5)
    axis.yaxis.label.set_fontsize(6.5)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)


@house_style()
def plot_safety_by_part(traces: pd.DataFrame, by: str = "model", *, judges: str = "") -> Plot:
    """Unsafe thinking against unsafe answers, a dot per group, with 95% intervals both ways.

    On the diagonal both are unsafe equally often; below it the answer is safer than the thinking that led to it.

    Args:
        traces: a trace table with `thinking_unsafe` and `answer_unsafe`.
        by: column of the group.
        judges: who judged thinking and answer, for the note.
    """
    data = thinking_answer_estimates(traces, by)
    data = data[data["measure"].isin(["thinking_unsafe", "answer_unsafe"])].reset_index(drop=True)
    figure, axes = new_figure(1, 1, 3.6)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    for number, (group, part) in enumerate(data.groupby("group", sort=False)):
        x, y = (
            part.set_index("measure").loc[name] for name in ("thinking_unsafe", "answer_unsafe")
        )
        colour = COLOURS[number % len(COLOURS)]
        axis.hlines(y["value"], x["low"], x["high"], color=colour, linewidth=1)
        axis.vlines(x["value"], y["low"], y["high"], color=colour, linewidth=1)
        label = f"{shorten(str(group))} ({x['n']:,.0f} traces)"
        marker = "osD^v<>"[number // len(COLOURS) % 7]
        axis.plot(
            x["value"],
            y["value"],
            marker,
            color=colour,
            markersize=5,
            markeredgecolor="white",
            label=label,
        )
    axis.set(
        xlim=(0, 1),
        ylim=(0, 1),
        xlabel="share of traces with unsafe thinking",
        ylabel="... with an unsafe answer",
    )
    axis.set_aspect("equal")
    axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    note(
        figure,
        f"{judges or 'judges not named'}; lines: Wilson's 95% interval at the effective sample size",
    )
    return Plot(figure, data)


@house_style()
def plot_guard_agreement(verdicts: pd.DataFrame) -> Plot:
    """How far judges agree on the same texts: Cohen's kappa and Gwet's AC1 of each pair, part by part.

    Args:
        verdicts: one row per (trace, part, judge) with `trace_id`, `prompt_id`, `part`, `judge` and `unsafe` (missing
            where the judge is undecided).
    """
    need(verdicts, "trace_id", "prompt_id", "part", "judge", "unsafe")
    rows = []
    for part, of_part in verdicts.groupby("part", sort=True):
        wide = of_part.pivot(index="trace_id", columns="judge", values="unsafe")
        prompts = (
            of_part.drop_duplicates("trace_id").set_index("trace_id")["prompt_id"].loc[wide.index]
        )
        for a, b in combinations(wide.columns, 2):
            both = wide[[a, b]].dropna().astype(bool)
            found = {
                "part": part,
                "a": a,
                "b": b,
                "n": len(both),
                "equal": (both[a] == both[b]).mean(),
            }
            found |= {f"{x}_{y}": int(((both[a] == (x == "unsafe")) & (both[b] == (y == "unsafe"))).sum())
                      for x in ("safe", "unsafe") for y in ("safe", "unsafe")}  # fmt: skip
            if both.to_numpy().any() and not both.to_numpy().all():
                how = stats.agreement(both[a].tolist(), both[b].tolist(), prompts.loc[both.index])
                for name, e in (("kappa", how.kappa), ("ac1", how.ac1)):
                    found |= {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
            rows.append(found)
    data = pd.DataFrame(rows).reindex(columns=_AGREEMENT)
    if data.empty:
        raise ValueError("agreement needs two judges of the same part")
    parts = list(dict.fromkeys(data["part"]))
    figure, axes = new_figure(1, len(parts), 2.9)
    for axis, part in zip(axes[0], parts, strict=True):
        _draw_pairs(axis, data[data["part"] == part])
        axis.set_title(str(part))
    note(
        figure,
        "below: Cohen's kappa, above: Gwet's AC1; small: 95% interval, prompts resampled, and traces that both decided",
    )
    return Plot(figure, data)


_AGREEMENT = [
    "part", "a", "b", "n", "equal", "safe_safe", "safe_unsafe", "unsafe_safe", "unsafe_unsafe",
    "kappa", "kappa_low", "kappa_high", "ac1", "ac1_low", "ac1_high",
]  # fmt: skip


def _draw_pairs(axis: Axes, pairs: pd.DataFrame) -> None:
    names = sorted({*pairs["a"], *pairs["b"]})
    values = np.full((len(names), len(names)), np.nan)
    for pair in pairs.itertuples():
        i, j = sorted((names.index(pair.a), names.index(pair.b)))
        for row, column, measure in ((j, i, "kappa"), (i, j, "ac1")):
            value = getattr(pair, measure)
            low, high = getattr(pair, f"{measure}_low"), getattr(pair, f"{measure}_high")
            values[row, column] = value
            between = "no interval" if np.isnan(low) else f"{low:.2f} to {high:.2f}"
            text = "one label" if np.isnan(value) else f"{value:.2f}\n{between}\nn = {pair.n:,}"
            colour = "white" if value > 0.6 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=6, color=colour)
    axis.imshow(values, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), [shorten(name, 16) for name in names])
    axis.set_yticks(range(len(names)), [shorten(name, 16) for name in names])
    axis.grid(visible=False)


@house_style()
def plot_detector(traces: pd.DataFrame, by: str = "model", *, judge: str = "") -> Plot:
    """The markers against a judge of the thinking, group by group: are they the same instrument on every checkpoint?

    Left: precision and recall of "has a self-jailbreaking or otherwise unsafe step" against the judge. Right: the rate
    the markers give, that rate corrected for their errors in this group, and the judge's.

    Args:
        traces: what `unsafe_dynamics` returned, with `thinking_unsafe`.
        by: column of the group.
        judge: who judged the thinking, for the note.
    """
    need(traces, by, "any_unsafe", "thinking_unsafe", "prompt_id")
    known = traces[traces["any_unsafe"].notna() & traces["thinking_unsafe"].notna()]
    if known.empty:
        raise ValueError("no trace has markers and a judgement of its thinking")

    def quality(part: pd.DataFrame) -> dict[str, stats.Estimate]:
        flags, truth, prompts = (
            part["any_unsafe"],
            part["thinking_unsafe"].astype(bool),
            part["prompt_id"],
        )
        found = stats.detection(flags, truth, prompts)
        measured = {"precision": found.precision, "recall": found.recall}
        measured |= {
            "by_markers": stats.proportion(flags, prompts),
            "by_judge": stats.proportion(truth, prompts),
        }
        if found.positives and found.negatives:
            measured["corrected"] = stats.corrected_rate(flags, prompts, **found.counts)
        return measured

    data = estimates_by(known, by, quality)
    order = list(dict.fromkeys(data["group"]))[::-1]
    figure, axes = new_figure(1, 2, 1.5 + 0.36 * len(order), sharey=True, sharex=True)
    panels = (("precision", "recall"), ("by_markers", "corrected", "by_judge"))
    for axis, measures in zip(axes[0], panels, strict=True):
        for number, measure in enumerate(measures):
            part = data[data["measure"] == measure].set_index("group").reindex(order)
            colour = COLOURS[number + (2 if len(measures) == 3 else 0)]
            offset = 0.2 * ((len(measures) - 1) / 2 - number)
            draw_dots(
                axis,
                part,
                colour,
                offset=offset,
                label=measure.replace("_", " "),
                marker="osD"[number],
            )
        legend_above(axis)
    axes[0, 0].set(xlim=(0, 1.02), xlabel="of the markers, against the judge")
    axes[0, 1].set(xlabel="share of traces with unsafe thinking")
    sizes = known.groupby(by, dropna=False).size()
    names = {str(group) or "(unnamed)": n for group, n in sizes.items()}
    label_rows(axes[0], [f"{shorten(group)}\n{names[group]:,} traces" for group in order])
    note(
        figure,
        f"judge of the thinking: {judge or '?'}; corrected: Rogan and Gladen 1978; lines: 95% intervals",
    )
    return Plot(figure, data)
