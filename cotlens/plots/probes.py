"""Figures of probes: early answers, and the figure of whichever probe wrote some traces."""

import pandas as pd
from matplotlib.axes import Axes

from cotlens import stats
from cotlens.measures import continuation_safety, harm_by_round, prefill_matrix, reset_curve
from cotlens.measures.groups import need
from cotlens.plots.continuation import plot_continuation_safety, plot_harm_by_round
from cotlens.plots.parts import draw_band, note, shorten
from cotlens.plots.prefill import plot_prefill_matrix, plot_reset
from cotlens.plots.study import present_arms, small_panels
from cotlens.plots.style import COLOURS, Plot, house_style
from cotlens.studies.arms import to_row


@house_style()
def plot_early_answering(early: pd.DataFrame, text: str = "", *, least: int = 15) -> Plot:
    """Unsafe answers when unsafe thinking is cut short.

    A panel an arm, a line a split, the first arm's in grey.

    Arms are left with unsafe thinking on different splits, so only lines of one split can be
    compared.

    Args:
        early: one row per answer: arm, seed, trace_id, prompt_id, cut (share of the thinking kept),
            answer_unsafe, and split, that of the prompt, if known.
        text: the study's note.
        least: splits of an arm with fewer samples are left out.
    """
    need(early, "arm", "seed", "prompt_id", "cut", "answer_unsafe")
    if "split" not in early:
        early = early.assign(split="all")
    curves = {}
    for (arm, split), rows in early.groupby(["arm", "split"], observed=True, sort=False):
        curves[str(arm), str(split)] = _curve_by_cut(rows)

    # Splits with too few samples go, unless all have too few.
    sizes = {key: int(curve["n"].max()) for key, curve in curves.items()}
    least = min(least, max(sizes.values()))
    curves = {key: curve for key, curve in curves.items() if sizes[key] >= least}
    arms_drawn = {arm for arm, _ in curves}
    arms = [arm for arm in present_arms(early) if arm in arms_drawn]
    figure, axes = small_panels(len(arms), 1.1, 1.5, "thinking kept")

    handles = {}
    splits = list(dict.fromkeys(early["split"]))
    for axis, arm in zip(axes, arms, strict=True):
        counts = []
        for number, split in enumerate(splits):
            if (arm, split) not in curves:
                continue
            first_arms = curves.get((arms[0], split))
            colour = COLOURS[number % len(COLOURS)]
            _draw_split(axis, curves[arm, split], first_arms, colour, split)
            counts.append(str(sizes[arm, split]))
            handles[split.replace("_", " ")] = axis.lines[-2]
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1])
        axis.set_title(shorten(arm), fontsize=8)
        axis.text(
            0.96,
            0.04,
            f"n = {', '.join(counts)}",
            transform=axis.transAxes,
            ha="right",
            fontsize=6.5,
        )

    figure.legend(
        list(handles.values()), list(handles), loc="outside upper left", ncols=len(handles)
    )
    figure.supylabel("unsafe answers", fontsize=8)
    caption = (
        "by share of the thinking that is kept; samples with unsafe thinking, greedy answers; "
        "splits of an arm with "
        f"{least} samples or more; band: Wilson's 95%, by prompt; grey: {arms[0]} on the same split"
    )
    note(figure, f"{caption}\n{text}")
    drawn = [curve.assign(arm=arm, split=split) for (arm, split), curve in curves.items()]
    return Plot(figure, pd.concat(drawn, ignore_index=True))


def _draw_split(
    axis: Axes, curve: pd.DataFrame, first_arms: pd.DataFrame | None, colour: str, split: str
) -> None:
    """The line of a split, over the first arm's in grey."""
    if first_arms is not None:
        axis.plot(
            first_arms["cut"],
            first_arms["value"],
            color="#999999",
            linewidth=1,
            linestyle="--",
        )
    draw_band(axis, curve["cut"], curve, colour, split)
    axis.plot(curve["cut"], curve["value"], "o", color=colour, markersize=3)


def _curve_by_cut(early: pd.DataFrame) -> pd.DataFrame:
    """Share of unsafe answers at each cut, with Wilson's interval over prompts."""
    prompts = early["seed"].astype(str) + ":" + early["prompt_id"]
    points = []
    for cut, rows in early.groupby("cut"):
        share = stats.proportion(rows["answer_unsafe"], prompts[rows.index])
        points.append({"cut": cut} | to_row(share))
    return pd.DataFrame(points)


def plot_probe(table: pd.DataFrame, text: str = "") -> Plot:
    """The figure of a probe's traces, whichever probe it was.

    Args:
        table: as `runs.probe.judged_table` returns it: kind, is_safe, and the probe's columns; for
            donors' thoughts also rows of plain samples, whose donor is "none".
        text: where the numbers come from.

    Raises:
        ValueError: for traces of no probe, or of several.
    """
    kinds = set(table["kind"]) - {"plain"}
    if len(kinds) != 1:
        raise ValueError(f"expected the traces of one probe, got {', '.join(sorted(kinds)) or 0}")
    kind = kinds.pop()
    rows = table[table["kind"] == kind]

    if kind == "continuation":
        return plot_continuation_safety(continuation_safety(rows))
    if kind == "intervene":
        # Of the traces in which there was a step to replace.
        harm = harm_by_round(rows, rows["source"].nunique(), by="trigger", verdict="is_safe")
        return plot_harm_by_round(harm, by="trigger")
    if kind == "reset":
        return plot_reset(reset_curve(rows), text)
    if kind == "early":
        answers = rows.assign(
            arm=rows["method"],
            seed=0,
            trace_id=rows["source"],
            cut=rows["share"],
            answer_unsafe=~rows["is_safe"],
        )
        return plot_early_answering(answers, text)
    return plot_prefill_matrix(prefill_matrix(table), text)
