"""Figures of the claims: skill and recovery at equal safety, and recovery after an injected fault.

`text` of every function is the study's note, which stands under the figure.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cotlens.measures.groups import need
from cotlens.plots.parts import draw_dots, hide, label_rows, note, shorten
from cotlens.plots.study import arm_styles, interval_of, present_arms
from cotlens.plots.style import Plot, house_style, new_figure
from cotlens.studies.frontier import BETTER, KEYS, envelope, points_of, with_starts

PANELS = {  # measure: title of its panel, and what its axis is called
    "skill": ("Skill", "right answers"),
    "recovery": ("Recovery", "right after an injected fault"),
}
RECOVERY = {  # column of the samples: title of its panel
    "recovers": "Right after an injected fault",
    "goes_back": "Goes back",
}
N_LEVELS = 200  # of the unsafe rate, at which a frontier is drawn
BASE_COLOUR = "#555555"


# --- frontiers ---------------------------------------------------------------------------------


class Mark(NamedTuple):
    """The point of an arm's frontier at which its name is written."""

    arm: str
    unsafe: float
    value: float


def frontier_panels(frontier: pd.DataFrame) -> list[str]:
    """The measures that `plot_frontier` has data for."""
    if "unsafe" not in frontier or not frontier["unsafe"].notna().any():
        return []
    return [name for name in PANELS if name in frontier and frontier[name].notna().any()]


@house_style()
def plot_frontier(frontier: pd.DataFrame, text: str = "", *, base: str = "base") -> Plot:
    """Skill and recovery against unsafe thinking: what each arm reaches over rates and checkpoints.

    The line is the arm's envelope (studies/frontier.py), the dots its checkpoints at every rate;
    both are of means over seeds. Unsafe thinking falls to the right.

    Args:
        frontier: as for `studies.equal_level_gaps`.
        text: the study's note.
        base: the arm that all begin from.

    Raises:
        ValueError: if a column is missing, or no arm has both unsafe thinking and a measure.
    """
    need(frontier, *KEYS, "unsafe")
    measures = frontier_panels(frontier)
    if not measures:
        raise ValueError(f"nothing to draw against unsafe thinking: none of {', '.join(PANELS)}")

    # One point per arm, rate and checkpoint: the mean over seeds.
    by_seed = points_of(with_starts(frontier, base))
    points = points_of(by_seed.assign(seed=0))
    arms = [arm for arm in present_arms(frontier) if arm != base]
    styles = arm_styles([base, *arms])

    figure, axes = new_figure(1, len(measures), 3.6, sharex=True)
    drawn = []
    for axis, measure in zip(axes[0], measures, strict=True):
        marks = []
        for arm in arms:
            arm_points = points[points["arm"] == arm].dropna(subset=["unsafe", measure])
            if arm_points.empty:
                continue
            line = _frontier_of(arm_points, measure)
            mark = _best_of(arm, line, BETTER[measure])
            _draw_arm(axis, arm_points, line, measure, styles[arm])
            _draw_mark(axis, mark, styles[arm])
            marks.append(mark)
            drawn.append(line.assign(arm=arm, measure=measure))
        _draw_base(axis, frontier, measure, base)
        _finish_axis(axis, measure)
        _name_marks(axis, marks, styles)

    n_seeds = frontier.loc[frontier["arm"] != base, "seed"].nunique()
    n_rates = points["rate"].nunique()
    seeds = f"means over {n_seeds} seeds" if n_seeds > 1 else "one seed"
    caption = (
        f"small: checkpoints at {n_rates} learning rates, {seeds}; line: the "
        "best that an arm reaches at this unsafe rate on the way between two checkpoints; large: "
        "its highest value less unsafe rate; red to yellow: SFT, blue to green: RL"
    )
    note(figure, f"{caption}\n{text}")
    return Plot(figure, pd.concat(drawn, ignore_index=True))


def _frontier_of(points: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Unsafe rate and best value along an arm's envelope, from the safest on.

    Levels that no path comes to leave a gap (NaN).
    """
    start = points["unsafe"].min()
    stop = points["unsafe"].max()

    # The points themselves are among the levels: corners are not cut off.
    evenly = np.linspace(start, stop, N_LEVELS)
    levels = np.unique(np.concatenate([evenly, points["unsafe"]]))
    values = envelope(points, measure, "unsafe", levels, BETTER[measure])
    return pd.DataFrame({"unsafe": levels, "value": values})


def _draw_arm(
    axis: Axes,
    points: pd.DataFrame,
    line: pd.DataFrame,
    measure: str,
    style: tuple[str, str],
) -> None:
    """Faint dots of all checkpoints, and the envelope over them."""
    colour, marker = style
    axis.plot(
        points["unsafe"],
        points[measure],
        marker,
        color=colour,
        alpha=0.35,
        markersize=3,
        markeredgewidth=0,
    )
    axis.plot(line["unsafe"], line["value"], color=colour, linewidth=1.5)


def _best_of(arm: str, line: pd.DataFrame, better: int) -> Mark:
    """The point with the highest value less unsafe rate, both shares."""
    utility = better * line["value"] - line["unsafe"]
    best = line.loc[utility.idxmax()]
    return Mark(arm, float(best["unsafe"]), float(best["value"]))


def _draw_mark(axis: Axes, mark: Mark, style: tuple[str, str]) -> None:
    colour, marker = style
    axis.plot(
        mark.unsafe,
        mark.value,
        marker,
        color=colour,
        markersize=6,
        markeredgecolor="white",
        markeredgewidth=0.6,
        zorder=4,
    )


def _draw_base(axis: Axes, frontier: pd.DataFrame, measure: str, base: str) -> None:
    """The point that all arms begin from, if the table has it."""
    rows = frontier[frontier["arm"] == base]
    if rows.empty:
        return
    unsafe = pd.to_numeric(rows["unsafe"]).astype(float).mean()
    value = pd.to_numeric(rows[measure]).astype(float).mean()
    axis.plot(unsafe, value, "*", color="black", markersize=9, markeredgecolor="white", zorder=5)
    axis.annotate(
        shorten(base),
        (unsafe, value),
        textcoords="offset points",
        xytext=(0, -12),
        ha="center",
        fontsize=7,
    )


def _finish_axis(axis: Axes, measure: str) -> None:
    """Names, limits and the better corner; unsafe thinking falls to the right."""
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, -0.02), min(high, 1.02))
    if not axis.xaxis_inverted():
        axis.invert_xaxis()
    axis.set_xlabel("unsafe thinking (safer to the right)")
    title, name = PANELS[measure]
    axis.set_title(title, fontsize=8)
    axis.set_ylabel(name)
    axis.annotate(
        "better ↗",
        xy=(1, 1),
        xycoords="axes fraction",
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        fontsize=7.5,
        color=BASE_COLOUR,
    )


def _name_marks(axis: Axes, marks: Sequence[Mark], styles: Mapping[str, tuple[str, str]]) -> None:
    """The arms' names in a column right of the panel, each joined to its mark."""
    by_value = sorted(marks, key=lambda mark: mark.value)
    low, high = axis.get_ylim()
    wanted = [(mark.value - low) / (high - low) for mark in by_value]
    heights = spread_apart(wanted, least=0.062)
    for mark, height in zip(by_value, heights, strict=True):
        axis.annotate(
            shorten(mark.arm, 22),
            xy=(mark.unsafe, mark.value),
            xytext=(1.05, height),
            xycoords="data",
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            color=styles[mark.arm][0],
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": styles[mark.arm][0],
                "linewidth": 0.6,
                "relpos": (0, 0.5),
                "alpha": 0.5,
            },
        )


def spread_apart(heights: Sequence[float], least: float, highest: float = 1.0) -> list[float]:
    """Heights in ascending order moved apart to at least this distance, as little as needed.

    Groups of neighbours that are too close are spread evenly about their mean, and moved down where
    they would stand above `highest`.

    >>> [round(height, 2) for height in spread_apart([0.5, 0.52, 0.9], 0.1)]
    [0.46, 0.56, 0.9]
    """
    groups: list[list[float]] = []
    for height in heights:
        groups.append([height])

        # A group that touches the one below joins it.
        while len(groups) > 1 and _bottom(groups[-1], least) < _top(groups[-2], least) + least:
            above = groups.pop()
            groups[-1] = groups[-1] + above

    spread_heights = []
    for group in groups:
        for number in range(len(group)):
            spread_heights.append(_bottom(group, least) + number * least)

    # The topmost may stand no higher than `highest`, the next lower by the distance, and so on.
    limited = []
    for place, height in enumerate(reversed(spread_heights)):
        limited.append(min(height, highest - place * least))
    return limited[::-1]


def _bottom(group: Sequence[float], least: float) -> float:
    return sum(group) / len(group) - least * (len(group) - 1) / 2


def _top(group: Sequence[float], least: float) -> float:
    return _bottom(group, least) + least * (len(group) - 1)


# --- recovery ----------------------------------------------------------------------------------


def recovery_panels(measures: pd.DataFrame) -> list[str]:
    """The measures of recovery that a study has, those of puzzles and mathematics first."""
    known = list(dict.fromkeys(measures["measure"]))
    names = []
    for where in ("puzzles", "maths", "forbidden", "harmless"):
        names += [f"{column}_{where}" for column in RECOVERY if f"{column}_{where}" in known]
    return names


@house_style()
def plot_recovery(
    measures: pd.DataFrame,
    text: str = "",
    *,
    base: str = "base",
    chance: Mapping[str, float] | None = None,
) -> Plot:
    """Recovery after an injected fault by arm: all arms go on from the same prefixes.

    Args:
        measures: what `studies.measures` returned.
        text: the study's note.
        base: the arm whose value is drawn as a line.
        chance: measure -> what guessing would give, drawn as a dotted line.

    Raises:
        ValueError: if no arm has a measure of recovery.
    """
    need(measures, "arm", "measure", "value", "low", "high")
    names = recovery_panels(measures)
    if not names:
        raise ValueError(f"no measure of recovery: none of {', '.join(RECOVERY)}")

    shown = measures[measures["measure"].isin(names)]
    arms = [arm for arm in present_arms(shown) if arm != base]
    order = arms[::-1]
    styles = arm_styles([base, *arms])
    n_columns = min(len(names), 4)
    if len(names) == 6:  # two columns of each of three domains
        n_columns = 2
    n_rows = -(-len(names) // n_columns)
    height = 0.75 + n_rows * (0.45 + 0.24 * len(order))
    figure, axes = new_figure(n_rows, n_columns, height, sharex=True, sharey=True)
    hide(axes.flat[len(names) :])

    for axis, name in zip(axes.flat, names, strict=False):
        rows = shown[shown["measure"] == name].set_index("arm")
        _draw_reference(axis, rows, name, base, chance or {})
        for place, arm in enumerate(order):
            if arm in rows.index:
                colour, marker = styles[arm]
                draw_dots(axis, rows.loc[[arm]], colour, offset=place, marker=marker)
        column, _, where = name.rpartition("_")
        axis.set_title(f"{RECOVERY[column]}, {where}", fontsize=8, pad=13)
        axis.set_xlim(0, 1.02)
    for row in axes:
        label_rows(row, [shorten(arm) for arm in order])

    caption = (
        "share of samples; the same prefix with an injected fault for every arm; line: 95% "
        f"interval, {interval_of(shown)}; red to yellow: SFT, blue to green: RL"
    )
    note(figure, f"{caption}\n{text}")
    return Plot(figure, shown.reset_index(drop=True))


def _draw_reference(
    axis: Axes, rows: pd.DataFrame, name: str, base: str, chance: Mapping[str, float]
) -> None:
    """The base's value with its interval, and chance."""
    lines = {}
    if base in rows.index:
        row = rows.loc[[base], ["value", "low", "high"]]
        value, low, high = map(float, row.to_numpy()[0])
        axis.axvspan(low, high, color=BASE_COLOUR, alpha=0.15, linewidth=0)
        axis.axvline(value, color=BASE_COLOUR, linewidth=1)
        lines[shorten(base)] = value
    if name in chance:
        axis.axvline(chance[name], color=BASE_COLOUR, linewidth=0.9, linestyle=":")
        lines["chance"] = chance[name]

    # Two names stand on the outer sides of their lines.
    leftmost = min(lines, key=lines.__getitem__, default="")
    for label, value in lines.items():
        axis.annotate(
            label,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right" if label == leftmost and len(lines) > 1 else "left",
            fontsize=6.5,
            color=BASE_COLOUR,
            annotation_clip=False,
        )
