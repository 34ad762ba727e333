"""Figures of a judge's view of the thinking: self-reflection, and cognitive behaviours."""

from collections.abc import Iterator
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cotlens.measures.behaviours import BEHAVIOURS, behaviour_agreement, behaviour_means
from cotlens.measures.groups import need
from cotlens.measures.self_reflection import self_reflection_share
from cotlens.plots.parts import draw_dots, label_rows, note, shorten, spread
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

_SHORT_WAIT = 10  # tokens: a long axis is linear up to here, and logarithmic from here on
_LONG_WAIT = 500


@house_style()
def plot_self_reflection(
    verdicts: pd.DataFrame, first: pd.DataFrame, by: str = "condition", *, judge: str = ""
) -> Plot:
    """Share of thinkings that go back on themselves, and how soon after a prefix they reflect.

    Args:
        verdicts: one row per trace: label (yes, no, undecided), prompt_id and the column `by`.
        first: what `first_reflections` returned, with the column `by`; it may have no rows.
        by: column of the group.
        judge: who judged, for the note.
    """
    shares = self_reflection_share(verdicts, by)
    groups = shares["group"].tolist()
    colours = dict(zip(groups, cycle(COLOURS), strict=False))

    # On the left a bar for each group.
    height = max(2.4, 1.3 + 0.35 * len(groups))
    figure, axes = new_figure(1, 2, height, width_ratios=[1, 1.2])
    left, right = axes[0]
    _draw_shares(left, shares, colours)

    # On the right a curve for each group that has prefixes.
    curves = [shares.assign(measure="share", n_tokens=np.nan)]
    counts = []
    for name, rows in _groups_of(first, by):
        curve, text = _waiting_curve(rows, name)
        curves.append(curve)
        counts.append(text)
        colour = colours.get(name, COLOURS[-1])
        _draw_waiting(right, curve, colour, shorten(name, 24))
    _label_waiting(right, has_prefixes=len(first) > 0)

    waits = f"; no own reflecting step: {', '.join(counts)}" if counts else ""
    note(
        figure,
        f"left: {judge or 'a judge'} says that the thinking revises an earlier claim or calls its "
        "own words unsafe; line: Wilson's 95%, by prompt; undecided ones left out. Right: own "
        f"tokens before the first step that the classifier takes for reflection{waits}",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


def _groups_of(first: pd.DataFrame, by: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and rows of each group; nothing for a table without rows."""
    if first.empty:
        return
    need(first, by, "n_tokens", "is_censored")
    for group, rows in first.groupby(by, sort=True, dropna=False):
        yield str(group) or "(unnamed)", rows


def _draw_shares(axis: Axes, shares: pd.DataFrame, colours: dict[str, str]) -> None:
    """A bar with its interval for each group, the first on top."""
    rows = shares.iloc[::-1]
    heights = np.arange(len(rows))
    bar_colours = [colours[group] for group in rows["group"]]
    axis.barh(
        heights,
        rows["value"],
        color=bar_colours,
        alpha=0.75,
        height=0.6,
    )
    axis.hlines(
        heights,
        rows["low"],
        rows["high"],
        color="black",
        linewidth=1,
    )

    labels = []
    for row in rows.to_dict("records"):
        counts = f"{row['n']:,} decided, {row['n_undecided']:,} not"
        labels.append(f"{shorten(row['group'], 24)}\n{counts}")
    label_rows([axis], labels)
    axis.set(xlim=(0, 1), xlabel="share that goes back on itself")


def _waiting_curve(first: pd.DataFrame, group: str) -> tuple[pd.DataFrame, str]:
    """Share of traces that have reflected after so many own tokens, and how many never do."""
    # Known are those that never reflect, and those whose tokens are counted.
    never = first["is_censored"].eq(True).fillna(False)
    tokens = first["n_tokens"].dropna().sort_values()
    n_never = int(never.sum())
    n = n_never + len(tokens)

    numbers = np.arange(1, len(tokens) + 1)
    curve = pd.DataFrame(
        {
            "n_tokens": tokens.to_numpy(float),
            "value": numbers / max(n, 1),
            "group": group,
            "measure": "reflected_by",
            "n": n,
            "n_never": n_never,
        }
    )
    return curve, f"{shorten(group, 24)} {n_never:,} of {n:,}"


def _draw_waiting(axis: Axes, curve: pd.DataFrame, colour: str, label: str) -> None:
    """The curve as steps from (0, 0); it ends at the last reflection."""
    if curve.empty:
        return
    tokens = [0.0, *curve["n_tokens"]]
    shares = [0.0, *curve["value"]]
    name = f"{label} (n = {curve['n'].iloc[0]:,})"
    axis.step(
        tokens,
        shares,
        where="post",
        color=colour,
        linewidth=1.4,
        label=name,
    )


def _label_waiting(axis: Axes, *, has_prefixes: bool) -> None:
    axis.set(xlim=(0, None), ylim=(0, 1.02), ylabel="share that has reflected")
    axis.set_xlabel("own tokens after the prefix")
    if not has_prefixes:
        axis.text(0.5, 0.5, "no trace has a known prefix", transform=axis.transAxes, ha="center")
        return

    # A few late ones would leave no room for the many early ones.
    _, longest = axis.get_xlim()
    if longest > _LONG_WAIT:
        axis.set_xscale("symlog", linthresh=_SHORT_WAIT)
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.set_xlim(0, longest)
    axis.legend(loc="lower right", fontsize=6.5)


@house_style()
def plot_behaviours(counts: pd.DataFrame, by: str = "model", *, judge: str = "") -> Plot:
    """Cognitive behaviours that a judge lists, by group, and against the kinds of steps.

    Args:
        counts: what `behaviour_counts` returned with steps, with `prompt_id` and the column `by`.
        by: column of the group.
        judge: who judged, for the note.
    """
    means = behaviour_means(counts, by)
    agreed = behaviour_agreement(counts)
    n_groups = means["group"].nunique()
    names = list(BEHAVIOURS)[::-1]
    n_dots = n_groups * len(names)
    height = 2.3 + 0.12 * n_dots
    figure, axes = new_figure(1, 2, height, sharey=True, width_ratios=[1.3, 1])
    left, right = axes[0]

    # On the left a dot for each group and behaviour.
    columns = [f"n_{name}" for name in names]
    step = 0.7 / max(n_groups, 3)
    by_group = means.groupby("group", sort=False)
    for number, (group, rows) in enumerate(by_group):
        shown = rows.set_index("measure").loc[columns]
        n_traces = shown["n"].iloc[0]
        draw_dots(
            left,
            shown,
            COLOURS[number % len(COLOURS)],
            offset=spread(number, n_groups, step),
            label=f"{shorten(str(group), 24)} (n = {n_traces:,})",
        )
    left.set(xlabel="per trace, by the judge")
    left.set_xlim(left=0)
    figure.legend(loc="outside upper left", ncols=3)

    # On the right how far the kinds of steps agree.
    _draw_agreement(right, agreed.set_index("behaviour").loc[names])
    kinds = []
    for name in names:
        kind = BEHAVIOURS[name]
        step = f"step: {kind.value}" if kind else "no kind of step"
        kinds.append(f"{name.replace('_', ' ')}\n({step})")
    label_rows(axes[0], kinds)
    _note_behaviours(figure, counts, judge)

    behaviours = means["measure"].str.removeprefix("n_")
    tables = [
        means.assign(behaviour=behaviours),
        agreed.assign(measure="agreement"),
    ]
    return Plot(figure, pd.concat(tables, ignore_index=True))


def _draw_agreement(axis: Axes, agreed: pd.DataFrame) -> None:
    """Rank correlation of counts and kappa of presence, where a kind means the behaviour."""
    for offset, name, colour, marker in (
        (0.12, "spearman", "#000000", "o"),
        (-0.12, "kappa", "#888888", "s"),
    ):
        rows = agreed[[name, f"{name}_low", f"{name}_high"]]
        rows = rows.set_axis(["value", "low", "high"], axis=1)
        label = {"spearman": "counts: Spearman", "kappa": "presence: kappa"}[name]
        draw_dots(axis, rows, colour, offset=offset, label=label, marker=marker)
    axis.axvline(0, color="#999999", linewidth=0.8, linestyle=":")
    axis.set(xlim=(-1, 1), xticks=[-1, -0.5, 0, 0.5, 1])
    axis.set_xlabel(f"judge against steps, {agreed['n'].max():,} traces")
    axis.legend(loc="lower left", fontsize=6.5)


def _note_behaviours(figure: Figure, counts: pd.DataFrame, judge: str) -> None:
    """What was left out, under the figure."""
    n_undecided = int(counts["n_unverified"].isna().sum())
    n_unverified = int(counts["n_unverified"].sum())
    columns = [f"n_{name}" for name in BEHAVIOURS]
    n_listed = n_unverified + int(counts[columns].sum().sum())
    note(
        figure,
        f"left: places that {judge or 'a judge'} quotes from the thinking; {n_unverified:,} of "
        f"{n_listed:,} quotes are not in the text and do not count; {n_undecided:,} traces "
        "undecided; line: 95%, prompts resampled. Right: the judge's places against steps of the "
        "kind that means the same, trace by trace",
    )
