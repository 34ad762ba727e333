"""Figures of unsafe exploration from the steps alone: markers, paths, onset, kinds; a table in, a `Plot` out."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.measures.groups import estimates_by, first_steps, need, need_known
from cotlens.measures.unsafe import risky_patterns, safety_states
from cotlens.plots.parts import draw_band, draw_dots, grouped, label_rows, note, shorten
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

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
_WORDING = "markers of wording (docs/unsafe.md): on harmless prompts they are false alarms"


@house_style()
def plot_unsafe_position(
    steps: pd.DataFrame, by: str = "model", bins: int = 10, most: int = 6
) -> Plot:
    """Share of steps that carry safety markers, by position in the thinking, with pointwise 95% bands over prompts.

    Args:
        steps: a step table with the columns `by` and `prompt_id` of its traces.
        by: column of the group.
        bins: number of equal parts of the thinking.
        most: groups drawn, those with the most traces.
    """
    need(
        steps,
        by,
        "position",
        "prompt_id",
        "trace_id",
        "compliance_cue",
        *(name for name in _STATES if name != "unsafe"),
    )
    known = steps[steps["is_self_jailbreak"].notna()]
    need_known(known)
    known = known.assign(unsafe=safety_states(known) > 0)
    figure, axes = new_figure(2, 2, 4.2, sharex=True)
    curves = []
    for group, part, colour in grouped(known, by, most):
        for axis, (column, title) in zip(axes.flat, _STATES.items(), strict=True):
            flags = part[column].astype(float)
            found = stats.curve(part["position"], flags, part["prompt_id"], bins=bins).dropna(
                subset="value"
            )
            draw_band(axis, found["position"], found, colour, shorten(group))
            axis.set_title(title)
            curves.append(found.assign(group=group, state=column))
    for axis in axes.flat:
        axis.set(xlim=(0, 1), ylim=(0, None))
    for axis in axes[1]:
        axis.set_xlabel("position in the thinking")
    axes[0, 0].set_ylabel("share of steps")
    axes[1, 0].set_ylabel("share of steps")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    first = first_steps(known)
    opening = first["unsafe"] & first["compliance_cue"].eq(True)
    note(
        figure,
        f"{_WORDING}; band: 95%, by prompt; first steps: {first['unsafe'].mean():.0%} of {len(first):,} are "
        f"unsafe, {opening.mean():.0%} by a compliance cue: openings such as “I need to ...” count as one",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


@house_style()
def plot_unsafe_path(dynamics: pd.DataFrame, by: str = "model") -> Plot:
    """Traces that explore something unsafe, that come back, and that end on a safe word, with 95% intervals.

    Args:
        dynamics: what `unsafe_dynamics` returned.
        by: column of the group.
    """
    need(dynamics, by, "prompt_id", *_PATH)
    data = estimates_by(
        dynamics,
        by,
        lambda part: {name: stats.proportion(part[name], part["prompt_id"]) for name in _PATH},
    )
    order = [
        g for g in dict.fromkeys(data["group"]) if data.loc[data["group"] == g, "n"].max() > 0
    ][::-1]
    figure, axes = new_figure(1, 3, 1.1 + 0.3 * len(order), sharey=True, sharex=True)
    for axis, (measure, title), colour in zip(axes[0], _PATH.items(), COLOURS, strict=False):
        part = data[data["measure"] == measure].set_index("group").loc[order]
        draw_dots(axis, part, colour)
        axis.set_title(title)
        for row, n in enumerate(part["n"]):
            axis.text(1.05, row, f"{n:,}", fontsize=5.5, color="#777777", va="center")
    axes[0, 0].set_xlim(0, 1)
    label_rows(axes[0], [shorten(group) for group in order])
    note(
        figure,
        "line: Wilson's 95% interval at the effective sample size; grey: traces; recovered: of those with an "
        f"unsafe step; last word: of those with a safe or unsafe step; {_WORDING}",
    )
    return Plot(figure, data)


@house_style()
def plot_onset_recovery(
    dynamics: pd.DataFrame, by: str = "model", *, steps: int = 40, most: int = 6
) -> Plot:
    """When traces first explore something unsafe, and how soon they come back, with pointwise 95% bands over prompts.

    Left: share of all traces whose first unsafe step lies at or before a position. Right: of the traces with an unsafe
    step, the share that has recovered within so many steps of it. A thought that was cut off has not come back.

    Args:
        dynamics: what `unsafe_dynamics` returned.
        by: column of the group.
        steps: right end of the second axis at most.
        most: groups drawn, those with the most traces.
    """
    need(
        dynamics,
        by,
        "prompt_id",
        "trace_id",
        "n_marked",
        "onset",
        "first_compliance",
        "recovery_steps",
        "any_unsafe",
    )
    known = dynamics[dynamics["n_marked"].notna()]
    need_known(known)
    last = known["recovery_steps"].max()
    steps = min(steps, max(5, math.ceil(last / 5) * 5)) if last > 0 else 5  # no empty right half
    figure, axes = new_figure(1, 2, 2.9, sharey=True)
    curves = []
    for group, part, colour in grouped(known, by, most):
        unsafe = part[part["any_unsafe"] == 1]
        panels = (
            ("onset", part, np.linspace(0, 1, 41)),
            ("recovery_steps", unsafe, np.arange(steps + 1)),
        )
        for axis, (measure, rows, places) in zip(axes[0], panels, strict=True):
            reached = [
                stats.proportion(rows[measure] <= place, rows["prompt_id"]) for place in places
            ]
            found = pd.DataFrame([(e.value, e.low, e.high, e.n, e.n_clusters) for e in reached])
            found.columns = ["value", "low", "high", "n", "n_prompts"]
            found = found.assign(group=group, measure=measure, at=places)
            draw_band(
                axis,
                found["at"],
                found,
                colour,
                f"{shorten(group)} ({len(part):,}; {len(unsafe):,} unsafe)",
            )
            curves.append(found)
    axes[0, 0].set(
        title="First unsafe step", xlabel="position in the thinking", xlim=(0, 1), ylim=(0, 1)
    )
    axes[0, 0].set_ylabel("share of traces")
    axes[0, 1].set(
        title="Back to a refusal that holds",
        xlabel="steps since the first unsafe one",
        xlim=(0, steps),
    )
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    by_cue = (known["onset"] == known["first_compliance"])[known["any_unsafe"] == 1].mean()
    note(
        figure,
        "in brackets: traces, and those with an unsafe step; a thought that was cut off has not come back; "
        f"{_WORDING}; band: 95%, by prompt; in {by_cue:.0%} of traces with an unsafe step the first is a compliance "
        "cue: openings such as “I need to ...” count as one",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


_KINDS = {
    "benign_reframing": "Benign reframing",
    "warning_then_answer": "Warning, then answer",
    "fictional_licence": "Fictional licence",
    "other_fallacy": "Other fallacy",
}


@house_style()
def plot_self_jailbreak_kinds(steps: pd.DataFrame, by: str = "model") -> Plot:
    """Share of traces with a self-jailbreaking step of each kind, with 95% intervals over prompts.

    Args:
        steps: a step table with the columns `by` and `prompt_id` of its traces.
        by: column of the group.
    """
    need(steps, by, "trace_id", "prompt_id", "is_self_jailbreak", *_KINDS)
    known = steps[steps["is_self_jailbreak"].notna()]
    need_known(known)
    flags = known.assign(**{kind: known[kind].eq(True) for kind in _KINDS})
    traces = flags.groupby("trace_id", sort=False).agg(
        {by: "first", "prompt_id": "first"} | dict.fromkeys(_KINDS, "max")
    )
    return _draw_shares(
        traces,
        by,
        _KINDS,
        "share of traces with such a step; line: Wilson's 95% interval at the effective sample size; "
        f"{_WORDING}; the kind of a step is less certain than that it is a self-jailbreak",
    )


_PATTERNS = {
    "lacks_awareness": "No risk noticed",
    "strong_vacillation": "Weighs the harm itself",
    "weak_vacillation": "Wavers about a part",
}


@house_style()
def plot_risky_patterns(dynamics: pd.DataFrame, by: str = "model") -> Plot:
    """Share of traces with each risky pattern of the SFT study, with 95% intervals over prompts.

    Args:
        dynamics: what `unsafe_dynamics` returned; `unsafe.risky_patterns` says what the patterns are.
        by: column of the group.
    """
    need(dynamics, by, "trace_id", "prompt_id", "n_marked", "first_risk", "n_strong", "n_weak")
    patterns = risky_patterns(dynamics)
    known = patterns.notna().all(axis=1)
    need_known(dynamics[known])
    traces = dynamics[[by, "prompt_id"]].join(patterns)[known]
    return _draw_shares(
        traces,
        by,
        _PATTERNS,
        "share of traces, at most one pattern each; line: Wilson's 95% interval at the effective sample size; "
        "the patterns of arXiv 2505.15404, where a language model decides; here the markers do (docs/unsafe.md); on "
        "harmless prompts there is no risk to notice",
    )


def _draw_shares(traces: pd.DataFrame, by: str, panels: Mapping[str, str], text: str) -> Plot:
    """The share of traces that are flagged: a panel for each flag, a row for each group."""
    data = estimates_by(
        traces,
        by,
        lambda part: {flag: stats.proportion(part[flag], part["prompt_id"]) for flag in panels},
    )
    order = list(dict.fromkeys(data["group"]))[::-1]
    figure, axes = new_figure(1, len(panels), 1.1 + 0.3 * len(order), sharey=True, sharex=True)
    for axis, (measure, title), colour in zip(axes[0], panels.items(), COLOURS, strict=False):
        part = data[data["measure"] == measure].set_index("group").loc[order]
        draw_dots(axis, part, colour)
        axis.set_title(title, fontsize=8)
    axes[0, 0].set_xlim(left=0)
    counts = data.drop_duplicates("group").set_index("group").loc[order, "n"]
    label_rows(axes[0], [f"{shorten(str(group))}\n{n:,} traces" for group, n in counts.items()])
    note(figure, text)
    return Plot(figure, data)
