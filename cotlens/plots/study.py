"""Figures of a study: arms as rows or lines, with intervals, and what an experiment knows beside them.

Every function takes tables of `study` and `findings` and returns a `Plot`. `text` is the study's note, which says where
the numbers come from; it stands under every figure.
"""

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cotlens.measures.groups import need
from cotlens.plots.parts import draw_dots, label_rows, legend_above, note, shorten
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

MARKERS = "osD^vP*"


def present_arms(table: pd.DataFrame) -> list[str]:
    """The arms that are there, in the study's order."""
    if isinstance(table["arm"].dtype, pd.CategoricalDtype):
        return [arm for arm in table["arm"].cat.categories if (table["arm"] == arm).any()]
    return list(dict.fromkeys(table["arm"]))


def arm_styles(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each arm; the marker changes where the colours start again."""
    return {
        arm: (COLOURS[i % len(COLOURS)], MARKERS[i // len(COLOURS)]) for i, arm in enumerate(arms)
    }


def _mark(number: int) -> tuple[str, str]:
    """Colour and marker of the measure of that number, told apart by either."""
    again = number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], MARKERS[(number + again) % len(MARKERS)]


def small_panels(n: int, height: float, of_row: float, xlabel: str) -> tuple[Figure, list[Axes]]:
    """Up to five small panels a row that share their axes; the lowest of each column names the x axis."""
    columns = min(n, 5)
    rows = math.ceil(n / columns)
    figure, axes = new_figure(rows, columns, height + of_row * rows, sharex=True, sharey=True)
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    for axis in axes.flat[max(n - columns, 0) : n]:
        axis.set_xlabel(xlabel, fontsize=7)
        axis.tick_params(labelbottom=True)
    return figure, list(axes.flat[:n])


def interval_of(drawn: pd.DataFrame) -> str:
    """How the intervals of the drawn rows were made; arms of which fewer than three seeds have data are by prompt."""
    known = drawn.dropna(subset="low")
    seeds = known[known["units"] == "seeds"]
    if seeds.empty:
        return "over prompts (Wilson's of shares, else prompts resampled)"
    exception = (
        "" if len(seeds) == len(known) else "; over prompts where fewer than three seeds have data"
    )
    return f"Student's over {int(seeds['n_units'].max())} seeds{exception}"


@house_style()
def plot_measures(
    found: pd.DataFrame,
    panels: Mapping[str, Sequence[str]],
    caption: str,
    text: str = "",
    *,
    limits: tuple[float | None, float | None] = (0, 1.02),
) -> Plot:
    """Arms as rows, a panel per title, its measures as dots with intervals.

    Args:
        found: of `findings.measures`.
        panels: title -> names of measures; those without data are left out.
        caption: what is shown.
        text: the study's note.
        limits: of every panel; None is the data's.
    """
    need(found, "arm", "measure", "value", "low", "high")
    have = set(found["measure"])
    kept = {title: [name for name in names if name in have] for title, names in panels.items()}
    kept = {title: names for title, names in kept.items() if names}
    if not kept:
        raise ValueError(
            f"no measure that the study has data for: {', '.join(n for names in panels.values() for n in names)}"
        )
    order = present_arms(found)[::-1]
    most = max(len(names) for names in kept.values())
    figure, axes = new_figure(1, len(kept), 1.6 + (0.22 + 0.06 * most) * len(order), sharey=True)
    labels = {
        found.loc[found["measure"] == name, "label"].iloc[0].rpartition(", ")[2]: None
        for n in kept.values()
        for name in n
    }
    common = most > 1 and all(
        len(names) == len(labels) for names in kept.values()
    )  # one legend says it for all
    drawn = []
    for axis, (title, names) in zip(axes[0], kept.items(), strict=True):
        for number, name in enumerate(names):
            part = found[found["measure"] == name].set_index("arm").reindex(order)
            offset = 0.17 * ((len(names) - 1) / 2 - number)
            label = (
                str(part["label"].dropna().iloc[0]).rpartition(", ")[2] if len(names) > 1 else ""
            )
            colour, marker = _mark(number)
            draw_dots(axis, part, colour, offset=offset, label=shorten(label), marker=marker)
            drawn.append(part.reset_index())
        own_legend = len(names) > 1 and not common
        axis.set_title(title, fontsize=8, pad=4 + 11 * math.ceil(len(names) / 2) * own_legend)
        if own_legend:
            legend_above(axis)
        axis.set_xlim(*limits)
    if common:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=most)
    label_rows(axes[0], [shorten(arm) for arm in order])
    shown = pd.concat(drawn, ignore_index=True)
    cut = "; axes do not begin at 0" if limits[0] is None else ""
    note(figure, f"{caption}; line: 95% interval, {interval_of(shown)}{cut}\n{text}")
    return Plot(figure, shown)


@house_style()
def plot_safety_and_skill(found: pd.DataFrame, text: str = "") -> Plot:
    """Safety of the thinking against mathematics, a dot per arm.

    Raises:
        ValueError: if no arm has both.
    """
    wanted = ("is_correct_maths", "thinking_unsafe_forbidden")
    if lacking := [name for name in wanted if name not in set(found["measure"])]:
        raise ValueError(
            f"no arm has {', '.join(lacking)}: the study lacks prompts of that domain, or verdicts on them"
        )
    figure, axes = new_figure(1, 1, 3.4)
    axis, drawn = axes[0, 0], []
    for arm, (colour, marker) in arm_styles(present_arms(found)).items():
        own = found[found["arm"] == arm].set_index("measure")
        if not set(wanted) <= set(own.index):
            continue
        x, y = own.loc["is_correct_maths"], own.loc["thinking_unsafe_forbidden"]
        axis.hlines(1 - y["value"], x["low"], x["high"], color=colour, linewidth=0.8, alpha=0.7)
        axis.vlines(x["value"], 1 - y["high"], 1 - y["low"], color=colour, linewidth=0.8, alpha=0.7)
        axis.plot(
            x["value"],
            1 - y["value"],
            marker,
            color=colour,
            label=shorten(arm),
            markersize=6,
            markeredgecolor="white",
        )
        drawn.append({"arm": arm, "correct": x["value"], "safe_thinking": 1 - y["value"]})
    axis.set(
        ylim=(0, 1.02),
        xlabel="right answers, mathematics",
        ylabel="forbidden requests with safe thinking",
    )
    axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    both = found[found["measure"].isin(wanted)]
    note(figure, f"lines: 95% intervals, {interval_of(both)}\n{text}")
    return Plot(figure, pd.DataFrame(drawn))
