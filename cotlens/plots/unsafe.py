"""Figures of unsafe exploration from the steps alone: markers, paths, onset, kinds, patterns."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from cotlens import stats
from cotlens.measures.groups import estimates_by, need, need_known
from cotlens.measures.places import Places, unsafe_places
from cotlens.measures.requests import BASELINE
from cotlens.measures.unsafe import risky_patterns
from cotlens.plots.parts import (
    draw_band,
    draw_group_dots,
    grouped,
    label_rows,
    legend_outside,
    note,
    shorten,
)
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

STATES = {
    "risk_awareness": "Notices a risk",
    "unsafe": "Explores something unsafe",
    "is_self_jailbreak": "... by a self-jailbreak",
    "refusal_intent": "Intends to refuse",
}
PATH = {
    "any_unsafe": "Traces with an unsafe step",
    "recovered": "... that recover",
    "last_word": "Last word is safe",
}
KINDS = {
    "benign_reframing": "Benign reframing",
    "warning_then_answer": "Warning, then answer",
    "fictional_licence": "Fictional licence",
    "other_fallacy": "Other fallacy",
}
PATTERNS = {
    "lacks_awareness": "No risk noticed",
    "strong_vacillation": "Weighs the harm itself",
    "weak_vacillation": "Wavers about a part",
}


def _wording(groups: pd.Series) -> str:
    """What a reader must know of unsafe steps, and what the grey group is if there is one."""
    if groups.eq(BASELINE).any():
        return (
            "grey: harmless requests, thinking of equal length: what is unsafe there is a false "
            "alarm; by wording (docs/unsafe.md)"
        )
    return "by wording (docs/unsafe.md): on harmless requests false alarms"


def plot_unsafe_position(
    steps: pd.DataFrame, by: str = "model", bins: int = 10, most: int = 6
) -> Plot:
    """Share of steps that notice a risk, are unsafe or intend to refuse, by position.

    The position is that in the thinking. Self-jailbreaks are those in unsafe steps. Bands are
    pointwise 95%, over prompts.

    Args:
        steps: a step table with the columns `by` and `prompt_id` of its traces.
        by: column of the group.
        bins: number of equal parts of the thinking.
        most: groups drawn, those with the most traces.
    """
    need(steps, by, "prompt_id")
    places = unsafe_places(steps, bins, list(dict.fromkeys([by, "prompt_id"])))
    return plot_unsafe_places(places, by, most)


@house_style()
def plot_unsafe_places(places: Places, by: str = "model", most: int = 6) -> Plot:
    """`plot_unsafe_position`, of the places of the steps.

    Args:
        places: what `unsafe_places` gives, with the columns `by` and `prompt_id`.
        by: column of the group.
        most: groups drawn, those with the most traces.
    """
    traces = places.traces
    figure, axes = new_figure(2, 2, 4.2, sharex=True)
    curves = []
    for group, rows, colour in grouped(traces, by, most):
        for axis, (column, title) in zip(axes.flat, STATES.items(), strict=True):
            curve = places.curve(column, rows)
            curve = curve.dropna(subset="value")
            draw_band(axis, curve["position"], curve, colour, shorten(group))
            axis.set_title(title)
            curves.append(curve.assign(group=group, state=column))

    for axis in axes.flat:
        axis.set(xlim=(0, 1), ylim=(0, None))
    for axis in axes[1]:
        axis.set_xlabel("position in the thinking")
    for axis in axes[:, 0]:
        axis.set_ylabel("share of steps")
    legend_outside(axes[0, 0], ncols=3)

    openings = traces[traces[by] != BASELINE]
    note(
        figure,
        f"{_wording(traces[by])}; band: 95%, by prompt; first steps on harmful requests: "
        f"{openings['first_unsafe'].mean():.0%} of {len(openings):,} are unsafe, "
        f"{openings['first_compliance_cue'].mean():.0%} by a compliance cue",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


@house_style()
def plot_unsafe_path(dynamics: pd.DataFrame, by: str = "model") -> Plot:
    """Traces that explore something unsafe, that come back, and that end on a safe word.

    Intervals are 95%, over prompts. A baseline of harmless requests has the first alone: from a
    false alarm there is nothing to come back.

    Args:
        dynamics: what `unsafe_dynamics` returned.
        by: column of the group.
    """
    need(dynamics, by, "prompt_id", *PATH)
    data = _shares(dynamics, by, list(PATH))
    is_drawn = (data["group"] != BASELINE) | (data["measure"] == "any_unsafe")
    data = data[is_drawn].reset_index(drop=True)
    largest = data.groupby("group", sort=False)["n"].max()
    order = list(largest.index[largest > 0])[::-1]
    figure, axes = new_figure(1, len(PATH), 1.1 + 0.3 * len(order), sharey=True, sharex=True)
    for axis, (measure, title), colour in zip(axes[0], PATH.items(), COLOURS, strict=False):
        rows = data[data["measure"] == measure].set_index("group").reindex(order)
        draw_group_dots(axis, rows, colour)
        axis.set_title(title)
        for height, n in enumerate(rows["n"]):
            text = "" if np.isnan(n) else f"{n:,.0f}"
            axis.text(1.05, height, text, fontsize=5.5, color="#777777", va="center")
    axes[0, 0].set_xlim(0, 1)
    label_rows(axes[0], [shorten(group) for group in order])
    note(
        figure,
        "line: Wilson's 95% interval at the effective sample size; at the right: traces; "
        "recovered: of those with an unsafe step; last word: of those with a safe or unsafe step; "
        f"{_wording(dynamics[by])}",
    )
    return Plot(figure, data)


@house_style()
def plot_onset_recovery(
    dynamics: pd.DataFrame, by: str = "model", *, steps: int = 40, most: int = 6
) -> Plot:
    """When traces first explore something unsafe, and how soon they come back.

    Bands are pointwise 95%, over prompts.

    Left: share of all traces whose first unsafe step lies at or before a position. Right: of the
    traces with an unsafe step, the share that has recovered within so many steps of it, but for a
    baseline of harmless requests. A thought that was cut off has not come back.

    Args:
        dynamics: what `unsafe_dynamics` returned.
        by: column of the group.
        steps: right end of the second axis at most.
        most: groups drawn, those with the most traces.
    """
    needed = ("n_marked", "onset", "first_compliance", "recovery_steps", "any_unsafe")
    need(dynamics, by, "prompt_id", "trace_id", *needed)
    known = dynamics[dynamics["n_marked"].notna()]
    need_known(known)
    last_step = _last_step(known["recovery_steps"], steps)
    positions = np.linspace(0, 1, 41)
    step_numbers = np.arange(last_step + 1)
    figure, axes = new_figure(1, 2, 2.9, sharey=True)
    curves = []
    for group, rows, colour in grouped(known, by, most):
        unsafe = rows[rows["any_unsafe"] == 1]
        label = f"{shorten(group)} ({len(rows):,}; {len(unsafe):,} unsafe)"
        panels = (("onset", rows, positions), ("recovery_steps", unsafe, step_numbers))
        for axis, (measure, panel_rows, places) in zip(axes[0], panels, strict=True):
            if measure == "recovery_steps" and group == BASELINE:
                continue
            curve = _share_reached(panel_rows, measure, places)
            curve = curve.assign(group=group, measure=measure, at=places)
            draw_band(axis, curve["at"], curve, colour, label)
            curves.append(curve)

    axes[0, 0].set(
        title="First unsafe step",
        xlabel="position in the thinking",
        ylabel="share of traces",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes[0, 1].set(
        title="Back to a refusal that holds",
        xlabel="steps since the first unsafe one",
        xlim=(0, last_step),
    )
    axes[0, 1].xaxis.set_major_locator(MaxNLocator(integer=True))
    legend_outside(axes[0, 0], ncols=2)
    is_cue = known["onset"] == known["first_compliance"]
    is_explored = (known["any_unsafe"] == 1) & (known[by] != BASELINE)
    by_cue = is_cue[is_explored].mean()
    note(
        figure,
        "in brackets: traces, and those with an unsafe step; a thought that was cut off has not "
        f"come back; {_wording(known[by])}; band: 95%, by prompt; in {by_cue:.0%} of traces on "
        "harmful requests with an unsafe step the first is a compliance cue",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


def _last_step(recovery_steps: pd.Series, most: int) -> int:
    """The right end of the axis: a multiple of five that leaves no half of it empty."""
    last = recovery_steps.max()
    if not last > 0:
        return 5
    return min(most, max(5, math.ceil(last / 5) * 5))


def _share_reached(rows: pd.DataFrame, measure: str, places: np.ndarray) -> pd.DataFrame:
    """The share of traces that have reached each place, with its interval."""
    points = []
    for place in places:
        share = stats.proportion(rows[measure] <= place, rows["prompt_id"])
        points.append((share.value, share.low, share.high, share.n, share.n_clusters))
    return pd.DataFrame(points, columns=["value", "low", "high", "n", "n_prompts"])


def plot_self_jailbreak_kinds(steps: pd.DataFrame, by: str = "model") -> Plot:
    """Share of traces with an unsafe step that excuses the harm, by kind of excuse.

    Intervals are 95%, over prompts.

    Args:
        steps: a step table with the columns `by` and `prompt_id` of its traces.
        by: column of the group.
    """
    need(steps, by, "trace_id", "prompt_id", "is_self_jailbreak", "is_unsafe", *KINDS)
    known = steps[steps["is_self_jailbreak"].notna()]
    need_known(known)
    is_unsafe = known["is_unsafe"].eq(True)
    flags = {f"any_{kind}": known[kind].eq(True) & is_unsafe for kind in KINDS}
    columns = {by: "first", "prompt_id": "first", **dict.fromkeys(flags, "max")}
    traces = known.assign(**flags).groupby("trace_id", sort=False).agg(columns)
    return plot_excuses(traces, by)


@house_style()
def plot_excuses(traces: pd.DataFrame, by: str = "model") -> Plot:
    """`plot_self_jailbreak_kinds`, of the traces.

    Args:
        traces: those of `unsafe_places`, with the columns `by` and `prompt_id`.
        by: column of the group.
    """
    kinds = {f"any_{kind}": kind for kind in KINDS}
    traces = traces[[*dict.fromkeys([by, "prompt_id"]), *kinds]].rename(columns=kinds)
    return _draw_shares(
        traces,
        by,
        KINDS,
        "share of traces with such an unsafe step; line: Wilson's 95% interval at the effective "
        f"sample size; {_wording(traces[by])}; the kind of a step is less certain than "
        "that it is a self-jailbreak",
    )


@house_style()
def plot_risky_patterns(dynamics: pd.DataFrame, by: str = "model") -> Plot:
    """Share of traces with each risky pattern of the SFT study, with 95% intervals over prompts.

    Args:
        dynamics: what `unsafe_dynamics` returned; `risky_patterns` defines the patterns.
        by: column of the group.
    """
    need(dynamics, by, "trace_id", "prompt_id", "n_marked", "first_risk", "n_strong", "n_weak")
    patterns = risky_patterns(dynamics)
    is_known = patterns.notna().all(axis=1)
    need_known(dynamics[is_known])
    traces = dynamics[[by, "prompt_id"]].join(patterns)[is_known]
    return _draw_shares(
        traces,
        by,
        PATTERNS,
        "share of traces, at most one pattern each; line: Wilson's 95% interval at the effective "
        "sample size; the patterns of arXiv 2505.15404, where a language model decides; here the "
        f"markers do; {_wording(dynamics[by])}; on harmless requests there is no risk to notice",
    )


def _shares(traces: pd.DataFrame, by: str, flags: Sequence[str]) -> pd.DataFrame:
    """The share of traces with each flag, by group."""

    def shares(rows: pd.DataFrame) -> dict[str, stats.Estimate]:
        return {flag: stats.proportion(rows[flag], rows["prompt_id"]) for flag in flags}

    return estimates_by(traces, by, shares)


def _draw_shares(traces: pd.DataFrame, by: str, panels: Mapping[str, str], text: str) -> Plot:
    """The share of traces with each flag: a panel a flag, a row a group."""
    data = _shares(traces, by, list(panels))
    order = list(dict.fromkeys(data["group"]))[::-1]
    figure, axes = new_figure(1, len(panels), 1.1 + 0.3 * len(order), sharey=True, sharex=True)
    for axis, (measure, title), colour in zip(axes[0], panels.items(), COLOURS, strict=False):
        rows = data[data["measure"] == measure].set_index("group").loc[order]
        draw_group_dots(axis, rows, colour)
        axis.set_title(title, fontsize=8)
    axes[0, 0].set_xlim(left=0)
    counts = data.drop_duplicates("group").set_index("group").loc[order, "n"]
    label_rows(axes[0], [f"{shorten(str(group))}\n{n:,} traces" for group, n in counts.items()])
    note(figure, text)
    return Plot(figure, data)
