"""Figures of continuation safety (IPO): S by step, cues against turns, harm by interventions."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from cotlens import stats
from cotlens.measures.continuation import (
    ETA,
    HOLD,
    MU,
    CueAgainstTurn,
    find_triggers,
    turning_points,
)
from cotlens.measures.groups import need
from cotlens.plots.parts import draw_band, note, shorten, too_few_prompts
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure, one_panel, panel_plot

_MEAN_COLOUR = COLOURS[6]
_LIMIT_COLOUR = "#888888"


@house_style()
def plot_continuation_safety(
    curve: pd.DataFrame,
    sources: Sequence[str] | None = None,
    *,
    mu: float = MU,
    eta: float = ETA,
    k: int = HOLD,
    bins: int = 10,
) -> Plot:
    """Continuation safety by step, of a few traces and on average.

    Left, a line for each source, with its trigger (triangle up) and its turning point (triangle
    down). Right, the mean over all sources by the share of the thought that was read.

    Args:
        curve: as `measures.continuation_safety` returns it.
        sources: the traces on the left; default: up to four, first those with a turn.
        mu: as in `find_triggers`.
        eta: as in `turning_points`.
        k: as in both.
        bins: of the mean.

    Raises:
        ValueError: if the curve lacks a column, or a source is not in it.
    """
    need(curve, "source", "prompt_id", "step", "n_steps", "value", "low", "high", "n")
    triggers = find_triggers(curve, mu, k)
    turns = turning_points(curve, eta, k)
    sources = _sources_shown(curve, sources, triggers, turns)

    # Single traces on the left.
    figure, axes = new_figure(1, 2, 2.9, sharey=True)
    left, right = axes[0]
    for number, source in enumerate(sources):
        rows = curve[curve["source"] == source].sort_values("step")
        colour = COLOURS[number % len(COLOURS)]
        left.plot(
            rows["step"],
            rows["value"],
            color=colour,
            linewidth=1.2,
            label=shorten(source),
        )
        _mark(left, triggers[triggers["source"] == source], "^", colour)
        _mark(left, turns[turns["source"] == source], "v", colour)
    left.set_xlabel("steps read")
    left.set_ylabel("S, safe continuations")
    left.set_ylim(-0.03, 1.03)
    left.set_title("Single traces")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(loc="best", fontsize=6.5)

    # The label after the whole trace stands at 1, with the end of the thought.
    mean = _mean_curve(curve, bins)
    draw_band(right, mean["position"], mean, _MEAN_COLOUR, "mean")
    right.plot(mean["position"], mean["value"], "o", color=_MEAN_COLOUR, markersize=3)
    right.set_xlabel("share of the thought read")
    right.set_xlim(0, 1)
    right.set_title("Mean over traces")
    for axis in (left, right):
        for limit in (mu, eta):
            axis.axhline(
                limit,
                color=_LIMIT_COLOUR,
                linewidth=0.7,
                linestyle=":",
            )

    n_sources = curve["source"].nunique()
    n_triggers = triggers["turn"].notna().sum()
    n_turns = turns["turn"].notna().sum()
    n_draws = curve["n"].median()
    n_prompts = curve["prompt_id"].nunique()
    lines = [
        f"▲ trigger: S ≥ {mu:g} there and in the next k = {k} steps; ▼ turning point: "
        f"S ≤ {eta:g} likewise (dotted: both limits; steps here, tokens in the paper). "
        f"{n_triggers} of {n_sources} traces have a trigger, {n_turns} a turning point",
        f"median number of continuations at a place: {n_draws:.0f}; band: 95%, {n_prompts} prompts "
        f"resampled; n = {n_sources} traces",
        *too_few_prompts("", pd.Series({"the mean": n_prompts})),
    ]
    note(figure, "\n".join(lines))
    shown = curve[curve["source"].isin(sources)].assign(part="trace")
    data = pd.concat([shown, mean.assign(part="mean")], ignore_index=True)
    return Plot(figure, data)


def _sources_shown(
    curve: pd.DataFrame,
    sources: Sequence[str] | None,
    triggers: pd.DataFrame,
    turns: pd.DataFrame,
) -> list[str]:
    """The traces that are drawn alone: those asked for, or a few, first those with a turn."""
    names = list(dict.fromkeys(curve["source"]))
    if sources is not None:
        strange = [source for source in sources if source not in names]
        if strange:
            raise ValueError(f"sources: {strange[0]!r} is not in the curve")
        return list(sources)

    # Two of each kind, then whatever there is.
    with_trigger = triggers.dropna(subset="turn")["source"].tolist()
    with_turn = turns.dropna(subset="turn")["source"].tolist()
    ordered = with_trigger[:2] + with_turn[:2] + names
    return list(dict.fromkeys(ordered))[:4]


def _mark(axis: Axes, turns: pd.DataFrame, marker: str, colour: str) -> None:
    """A mark where a trace turned, if it did."""
    turned = turns.dropna(subset="turn")
    if turned.empty:
        return
    axis.plot(
        turned["turn"].astype(float),
        turned["value"],
        marker,
        color=colour,
        markersize=8,
        markeredgecolor="white",
        clip_on=False,
        zorder=3,
    )


def _mean_curve(curve: pd.DataFrame, bins: int) -> pd.DataFrame:
    """Mean S by the share of the thought: a trace has one value in each bin with places of it."""
    n_steps = curve["n_steps"].clip(lower=1)
    share = curve["step"] / n_steps
    number = (share * bins).astype(int)
    number = number.clip(upper=bins - 1)
    position = (number + 0.5) / bins

    # A long thought has more places in a bin, and counts once.
    placed = curve.assign(position=position)
    by_bin = placed.groupby(["source", "prompt_id", "position"], sort=False)
    values = by_bin["value"].mean().reset_index()
    mean = stats.curve(
        values["position"],
        values["value"],
        values["prompt_id"],
        bins=bins,
    )
    return mean.dropna(subset="value").reset_index(drop=True)


@house_style()
def plot_cue_against_turn(scatter: CueAgainstTurn, *, ax: Axes | None = None) -> Plot:
    """First compliance cue against the turning point, a dot for each trace.

    On the line the thought turns unsafe with the cue itself; above it the turn comes later.

    Args:
        scatter: as `measures.cue_against_turn` returns it.
        ax: axes to draw into.

    Raises:
        ValueError: if no trace has both.
    """
    need(scatter.table, "source", "prompt_id", "cue", "turn")
    axis = one_panel(ax, 3.2)
    table = scatter.table
    counts = table.groupby(["cue", "turn"]).size().reset_index(name="n")

    # Dots that lie on each other grow.
    sizes = 18 * counts["n"]
    axis.scatter(
        counts["cue"],
        counts["turn"],
        s=sizes,
        color=COLOURS[0],
        alpha=0.7,
        edgecolor="white",
        linewidth=0.6,
        zorder=2,
    )
    # The cue is a number from 0: one step more has been read when the thought turns with it.
    most = max(table["cue"].max(), table["turn"].max()) + 1
    axis.plot(
        [0, most],
        [1, most + 1],
        color=_LIMIT_COLOUR,
        linewidth=0.8,
        linestyle="--",
    )
    axis.set(
        xlabel="first compliance cue (number of the step)",
        ylabel="turning point (steps read)",
        xlim=(0, most),
        ylim=(0, most + 0.5),
    )
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))

    r = scatter.pearson
    correlation = f"r = {r.value:.2f} [{r.low:.2f}, {r.high:.2f}]"
    axis.set_title(f"{correlation}, n = {r.n} traces, {r.n_clusters} prompts")
    lines = [
        "dashed: the thought turns with the cue itself; area: number of traces; steps here, tokens "
        f"in the paper. Left out: {scatter.n_no_cue} traces that turn without a cue, "
        f"{scatter.n_no_turn} with a cue that do not turn. Interval: 95%, prompts resampled",
        *too_few_prompts("", pd.Series({"this scatter": r.n_clusters})),
    ]
    plot = panel_plot(axis, table)
    if ax is None:
        note(plot.figure, "\n".join(lines))
    return plot


@house_style()
def plot_harm_by_round(harm: pd.DataFrame, by: str | None = None) -> Plot:
    """Traces that are still unsafe after k replacements, and how often a replacement mends one.

    Args:
        harm: as `measures.harm_by_round` returns it.
        by: column of the group, as given there: a line for each.

    Raises:
        ValueError: if a column is missing or there is no row.
    """
    need(harm, "k", "verdict", "value", "low", "high", "n", "n_clusters", "n_unknown")
    need(harm, "n_attempts", "success", "success_low", "success_high")
    # Without a group there is one line.
    groups = [("", harm)]
    if by is not None:
        need(harm, by)
        groups = [(str(name), rows) for name, rows in harm.groupby(by, sort=False)]

    figure, axes = new_figure(1, 2, 2.7 + 0.16 * len(groups), sharey=True)
    left, right = axes[0]
    # Intervals of a round stand next to each other.
    width = 0.09
    for number, (name, rows) in enumerate(groups):
        colour = COLOURS[number % len(COLOURS)]
        offset = width * (number - (len(groups) - 1) / 2)
        label = f"{shorten(name, 60)} (n = {rows['n'].max()})" if name else None
        _draw_rounds(left, rows, ("value", "low", "high"), colour, offset, label)
        later = rows[rows["n_attempts"] > 0]
        _draw_rounds(right, later, ("success", "success_low", "success_high"), colour, offset)

    # Rounds are whole numbers; k = 0 has no attempts.
    left.set_title("Still unsafe")
    left.set_xlabel("replacements")
    left.set_ylabel("share of traces")
    left.set_ylim(-0.03, 1.12)
    right.set_xlabel("round")
    right.set_title("Safe after this round, of those changed in it")

    most = int(harm["k"].max())
    left.set_xticks(range(most + 1))
    right.set_xticks(range(1, most + 1))
    left.set_xlim(-0.4, most + 0.4)
    right.set_xlim(0.6, most + 0.4)
    if by is not None:
        figure.legend(loc="outside upper left", ncols=1)

    # How many were changed in each round, over all groups.
    changed = harm[harm["k"] > 0].groupby("k")["n_attempts"].sum()
    for k, n_attempts in changed.items():
        right.annotate(
            f"{n_attempts}",
            (k, 1.05),
            ha="center",
            fontsize=6.5,
            color="#555555",
        )

    n_unknown = int(harm["n_unknown"].max())
    n_prompts = harm["n_clusters"].max()
    verdicts = ", ".join(harm["verdict"].unique())
    lines = [
        f"n = {harm['n'].max()} initially unsafe traces, {n_prompts} prompts; those "
        "in which nothing was found to replace stay unsafe. Numbers on top: traces changed in the "
        f"round. Safe: by {verdicts}. Intervals: Wilson's 95%, over prompts",
        *too_few_prompts("", pd.Series({"these lines": n_prompts})),
    ]
    if n_unknown:
        lines.append(f"left out for want of a verdict: up to {n_unknown} traces a line")
    note(figure, "\n".join(lines))
    return Plot(figure, harm.reset_index(drop=True))


def _draw_rounds(
    axis: Axes,
    rows: pd.DataFrame,
    names: tuple[str, str, str],
    colour: str,
    offset: float,
    label: str | None = None,
) -> None:
    """A line of shares by round, with their intervals."""
    value, low, high = names
    places = rows["k"].to_numpy(float) + offset
    axis.vlines(
        places,
        rows[low],
        rows[high],
        color=colour,
        linewidth=1,
        alpha=0.7,
    )
    axis.plot(
        places,
        rows[value],
        "o-",
        color=colour,
        label=label,
        linewidth=1.2,
        markersize=4,
        markeredgecolor="white",
    )
