"""Figures of the measures of a study: arms as rows or dots, with intervals.

`text` of every function is the study's note, which says where the numbers come from; it stands
under the figure.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cotlens.measures.groups import need
from cotlens.plots.parts import (
    draw_dots,
    hide,
    label_rows,
    legend_above,
    legend_outside,
    note,
    shorten,
    spread,
)
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure, one_panel, panel_plot
from cotlens.studies.arms import family_of

MARKERS = "osD^vP*"


def present_arms(table: pd.DataFrame) -> list[str]:
    """The arms that the table has, in the study's order."""
    arms = table["arm"]
    if isinstance(arms.dtype, pd.CategoricalDtype):
        return [arm for arm in arms.cat.categories if (arms == arm).any()]
    return list(dict.fromkeys(arms))


# RL in blues and greens with round and square marks, SFT in reds and yellows with pointed ones,
# other arms in black and greys with stars.
FAMILY_COLOURS = {
    "rl": ("#0072B2", "#009E73", "#56B4E9", "#004B76", "#5F7FBF", "#44AA99", "#332288"),
    "sft": ("#D55E00", "#E69F00", "#CC79A7", "#8C2D04", "#B8860B", "#F2A07B", "#882255"),
    "": ("#000000", "#7A7A7A", "#4D4D4D", "#A6A6A6"),
}
FAMILY_MARKERS = {"rl": "osDph8", "sft": "^v<>Pd", "": "*X"}


def arm_styles(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each arm, those of RL and of SFT from two families.

    Where no arm is of either, all take the colours of other figures. Colour and marker both change
    from arm to arm of a family, so that either tells it apart in most figures.
    """
    families = {arm: family_of(arm) for arm in arms}
    has_families = any(families.values())
    styles = {}
    places = dict.fromkeys(FAMILY_COLOURS, 0)
    for arm, family in families.items():
        number = places[family]
        places[family] += 1
        colours = FAMILY_COLOURS[family] if has_families else COLOURS
        markers = FAMILY_MARKERS[family] if has_families else MARKERS

        # Markers shift by one where the colours start again: no pair comes twice soon.
        rounds, place = divmod(number, len(colours))
        marker = markers[(place + rounds) % len(markers)]
        styles[arm] = (colours[place], marker)
    return styles


def small_panels(n: int, height: float, of_row: float, xlabel: str) -> tuple[Figure, list[Axes]]:
    """Up to five small panels a row that share their axes.

    The lowest of each column names the x axis.
    """
    columns = min(n, 5)
    rows = math.ceil(n / columns)
    figure, axes = new_figure(rows, columns, height + of_row * rows, sharex=True, sharey=True)
    hide(axes.flat[n:])
    for axis in axes.flat[max(n - columns, 0) : n]:
        axis.set_xlabel(xlabel, fontsize=7)
        axis.tick_params(labelbottom=True)
    return figure, list(axes.flat[:n])


def interval_of(drawn: pd.DataFrame) -> str:
    """What the intervals of the drawn rows are over: seeds or prompts."""
    known = drawn.dropna(subset="low")
    seeds = known[known["units"] == "seeds"]
    if seeds.empty:
        return "over prompts (Wilson's of shares, else prompts resampled)"
    fewest = int(seeds["n_units"].min())
    most = int(seeds["n_units"].max())
    n_seeds = str(most) if fewest == most else f"{fewest} to {most}"
    if len(seeds) == len(known):
        return f"Student's over {n_seeds} seeds"
    return f"Student's over {n_seeds} seeds; over prompts where fewer than three seeds have data"


@house_style()
def plot_measures(
    table: pd.DataFrame,
    panels: Mapping[str, Sequence[str]],
    caption: str,
    text: str = "",
    *,
    limits: tuple[float | None, float | None] = (0, 1.02),
) -> Plot:
    """Arms as rows, a panel a title, its measures as dots with intervals.

    Args:
        table: what `studies.measures` returned.
        panels: title -> names of measures; those without data are left out.
        caption: what is shown.
        text: the study's note.
        limits: of every panel; None is the data's.

    Raises:
        ValueError: if the study has data for none of the measures.
    """
    need(table, "arm", "measure", "value", "low", "high")
    shown = _with_data(panels, set(table["measure"]))
    order = present_arms(table)[::-1]
    most = max(len(names) for names in shown.values())
    height = 1.6 + (0.22 + 0.06 * most) * len(order)
    figure, axes = new_figure(1, len(shown), height, sharey=True)

    # Panels with the same measures share one legend above the figure.
    labels = set()
    for names in shown.values():
        labels |= {_where_of(table, name) for name in names}
    is_common = most > 1 and all(len(names) == len(labels) for names in shown.values())
    drawn = []
    for axis, (title, names) in zip(axes[0], shown.items(), strict=True):
        for number, name in enumerate(names):
            rows = table[table["measure"] == name].set_index("arm").reindex(order)
            colour, marker = _dot_style(number)
            label = _where_of(table, name) if len(names) > 1 else ""
            offset = spread(number, len(names), 0.17)
            draw_dots(
                axis,
                rows,
                colour,
                offset=offset,
                label=shorten(label),
                marker=marker,
            )
            drawn.append(rows.reset_index())
        has_legend = len(names) > 1 and not is_common
        pad = 4 + 11 * math.ceil(len(names) / 2) if has_legend else 4
        axis.set_title(title, fontsize=8, pad=pad)
        if has_legend:
            legend_above(axis)
        axis.set_xlim(*limits)

    if is_common:
        legend_outside(axes[0, 0], ncols=most)
    label_rows(axes[0], [shorten(arm) for arm in order])
    data = pd.concat(drawn, ignore_index=True)
    is_cut = "; axes do not begin at 0" if limits[0] is None else ""
    note(figure, f"{caption}; line: 95% interval, {interval_of(data)}{is_cut}\n{text}")
    return Plot(figure, data)


def _with_data(panels: Mapping[str, Sequence[str]], known: set[str]) -> dict[str, list[str]]:
    """The panels with the measures that have data."""
    shown = {}
    for title, names in panels.items():
        with_data = [name for name in names if name in known]
        if with_data:
            shown[title] = with_data
    if shown:
        return shown

    wanted = []
    for names in panels.values():
        wanted += names
    raise ValueError(f"no measure that the study has data for: {', '.join(wanted)}")


def _where_of(table: pd.DataFrame, measure: str) -> str:
    """The domain or split in the label of a measure."""
    label = table.loc[table["measure"] == measure, "label"].dropna().iloc[0]
    return str(label).rpartition(", ")[2]


def _dot_style(number: int) -> tuple[str, str]:
    """Colour and marker of a measure; either tells it apart."""
    rounds = number // len(COLOURS)
    colour = COLOURS[number % len(COLOURS)]
    marker = MARKERS[(number + rounds) % len(MARKERS)]
    return colour, marker


@house_style()
def plot_safety_and_skill(table: pd.DataFrame, text: str = "", *, ax: Axes | None = None) -> Plot:
    """Safety of the thinking against mathematics, a dot an arm.

    Args:
        table: what `studies.measures` returned.
        text: the study's note.
        ax: axes to draw into; default: a figure with a note under it.

    Raises:
        ValueError: if no arm has both.
    """
    wanted = ("is_correct_maths", "thinking_unsafe_forbidden")
    lacking = [name for name in wanted if name not in set(table["measure"])]
    if lacking:
        raise ValueError(
            f"no arm has {', '.join(lacking)}: the study lacks prompts of that domain, or verdicts "
            "on them"
        )
    axis = one_panel(ax, 3.4)
    drawn = []
    for arm, (colour, marker) in arm_styles(present_arms(table)).items():
        measures = table[table["arm"] == arm].set_index("measure")
        if not set(wanted) <= set(measures.index):
            continue
        correct = measures.loc["is_correct_maths"]
        unsafe = measures.loc["thinking_unsafe_forbidden"]
        safe = 1 - unsafe["value"]
        line = {"color": colour, "linewidth": 0.8, "alpha": 0.7}
        axis.hlines(safe, correct["low"], correct["high"], **line)
        axis.vlines(correct["value"], 1 - unsafe["high"], 1 - unsafe["low"], **line)
        axis.plot(
            correct["value"],
            safe,
            marker,
            color=colour,
            label=shorten(arm),
            markersize=6,
            markeredgecolor="white",
        )
        drawn.append({"arm": arm, "correct": correct["value"], "safe_thinking": safe})

    axis.set(
        ylim=(0, 1.02),
        xlabel="right answers, mathematics",
        ylabel="forbidden requests with safe thinking",
    )
    axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    if ax is None:
        both = table[table["measure"].isin(wanted)]
        note(axis.figure, f"lines: 95% intervals, {interval_of(both)}\n{text}")
    return panel_plot(axis, pd.DataFrame(drawn))
