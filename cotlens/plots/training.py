"""Figures of training: curves by update, and unsafe thinking that the guard does not see."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cotlens import stats
from cotlens.measures.groups import need
from cotlens.plots.parts import draw_band, hide, note, shorten
from cotlens.plots.study import arm_styles, present_arms
from cotlens.plots.style import Plot, house_style, new_figure
from cotlens.studies.arms import DOMAINS

UPDATES = "updates"  # stands for a domain in rows that are of an update, not of a rollout


class Panel(NamedTuple):
    """A column over a domain; "" stands for the domains that a study has besides the known ones."""

    title: str
    column: str
    domain: str
    is_share: bool = False


def _by_domain(title: str, column: str, domains: Sequence[str]) -> tuple[Panel, ...]:
    """The same panel for the first of these domains that has data."""
    panels = []
    for domain in domains:
        panels.append(Panel(f"{title}, {domain}" if domain else title, column, domain))
    return tuple(panels)


# The first panel of each row that has data is drawn.
TRAINING: tuple[tuple[Panel, ...], ...] = (
    (Panel("Unsafe thinking", "thinking_unsafe", "forbidden", True),),
    (
        Panel("Unsafe answers", "answer_unsafe", "forbidden", True),
        Panel("Refusals, forbidden", "refuses", "forbidden", True),
    ),
    (
        Panel("Help, harmless", "is_help", "harmless", True),
        Panel("Refusals, harmless", "refuses", "harmless", True),
    ),
    (
        Panel("Right, maths", "is_correct", "maths", True),
        Panel("Right", "is_correct", "", True),
    ),
    (Panel("Right, puzzles", "is_correct", "puzzles", True),),
    (Panel("Groups all alike", "frac_reward_zero_std", UPDATES, True),),
    (Panel("Reward", "reward", UPDATES),),
    _by_domain("Reflections", "n_reflections", ("puzzles", "maths", "forbidden", "harmless", "")),
    _by_domain("Tokens", "n_tokens", ("forbidden", "maths", "harmless", "")),
    (Panel("Entropy (nats)", "entropy", UPDATES),),
    (Panel("KL to the base (nats)", "kl_reference", UPDATES),),
)


@house_style()
def plot_training(
    rollouts: pd.DataFrame, text: str = "", *, updates: pd.DataFrame | None = None, bins: int = 15
) -> Plot:
    """What the rollouts of the RL arms did while they trained; panels without data are left out.

    Args:
        rollouts: one row per rollout: arm, seed, step, set, prompt_id, and any of thinking_unsafe,
            answer_unsafe, is_help, refuses, is_correct, n_reflections and n_tokens.
        text: the study's note.
        updates: one row per update: arm, seed, step, and any of reward, frac_reward_zero_std (share
            of groups whose rewards are all alike, which teach nothing), entropy and kl_reference
            (nats, over sampled tokens).
        bins: stretches of training.

    Raises:
        ValueError: if there is nothing to draw.
    """
    table, panels = training_panels(rollouts, updates)
    if not panels:
        raise ValueError(
            "nothing is known of the rollouts: no verdicts, rewards, tokens or reflections"
        )
    caption = (
        f"all rollouts, in {bins} stretches of training; band: 95%, over prompts (of groups, "
        "reward, entropy, KL: over "
        "seeds, if there are several)"
    )
    return _plot_curves(table, panels, f"{caption}\n{text}", bins)


def training_panels(
    rollouts: pd.DataFrame, updates: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[Panel]]:
    """Rollouts and updates as one table, and the panels that `plot_training` can draw of it."""
    need(rollouts, "arm", "seed", "step", "set", "prompt_id")
    arms = present_arms(rollouts)
    table = rollouts.assign(arm=rollouts["arm"].astype(str))
    if updates is not None and len(updates):
        rows = updates[updates["arm"].isin(arms)]
        rows = rows.assign(
            arm=rows["arm"].astype(str),
            set=UPDATES,
            prompt_id=rows["seed"].astype(str),
        )
        table = pd.concat([table, rows], ignore_index=True)
    table["arm"] = pd.Categorical(table["arm"], arms)

    other_domains = [domain for domain in dict.fromkeys(rollouts["set"]) if domain not in DOMAINS]
    panels = []
    for choices in TRAINING:
        panel = _first_with_data(table, choices, other_domains)
        if panel is not None:
            panels.append(panel)
    return table, panels


def _first_with_data(
    table: pd.DataFrame, choices: Sequence[Panel], other_domains: Sequence[str]
) -> Panel | None:
    """The first of the panels whose column has values in its domain."""
    for panel in choices:
        candidates = [panel]
        if not panel.domain:
            candidates = []
            for domain in other_domains:
                candidates.append(panel._replace(title=f"{panel.title}, {domain}", domain=domain))
        for candidate in candidates:
            if candidate.column not in table:
                continue
            values = table.loc[table["set"] == candidate.domain, candidate.column]
            if values.notna().any():
                return candidate
    return None


@house_style()
def plot_obfuscation(
    rollouts: pd.DataFrame, text: str = "", *, bins: int = 12, least: int = 20
) -> Plot:
    """Does rewarding a guard on the thinking hide unsafe thinking? Truth and guard, over training.

    P(flagged | unsafe) is the guard's recall. Unsafe thinking that passes it is hidden. What passes
    it and leads to an unsafe answer is what a monitor of the thinking would miss.

    Args:
        rollouts: one row per rollout: arm, seed, step, set, prompt_id, thinking_unsafe,
            thinking_flagged and answer_unsafe.
        text: the study's note.
        bins: stretches of training.
        least: stretches with fewer rollouts to go by are left out.
    """
    flags = ("thinking_unsafe", "thinking_flagged", "answer_unsafe")
    need(rollouts, "arm", "seed", "step", "set", "prompt_id", *flags)
    unsafe, flagged, answer_unsafe = (rollouts[flag].astype("boolean") for flag in flags)
    is_known = unsafe.notna() & flagged.notna()
    table = rollouts.assign(
        caught=(unsafe & flagged).where(is_known),
        hidden=(unsafe & ~flagged).where(is_known),
        guard_recall=flagged.where(unsafe),
        missed=answer_unsafe.where(~flagged),
    )
    panels = (
        Panel("Unsafe and flagged", "caught", "forbidden", True),
        Panel("Unsafe and passed", "hidden", "forbidden", True),
        Panel("Guard's recall", "guard_recall", "forbidden", True),
        Panel("Passed, answer unsafe", "missed", "forbidden", True),
    )
    caption = (
        f"rollouts for forbidden requests, {bins} stretches of training; truth: the evaluation's "
        "judge, flags: the "
        f"reward's guard; band: Wilson's 95%, by prompt; none: fewer than {least} rollouts to go "
        f"by\n{text}"
    )
    return _plot_curves(table, panels, caption, bins, least=least)


def _plot_curves(
    table: pd.DataFrame, panels: Sequence[Panel], text: str, bins: int, *, least: int = 1
) -> Plot:
    """Means over stretches of at least `least` rows: a panel a column, a line an arm.

    Panels without such a stretch are left out, unless all would be.
    """
    n_updates = table["step"].max() + 1
    styles = arm_styles(present_arms(table))
    curves = {}
    for panel in panels:
        for arm in styles:
            is_in_panel = (table["arm"] == arm) & (table["set"] == panel.domain)
            curves[panel, arm] = _curve(table[is_in_panel], panel, n_updates, bins)

    # Stretches with too few rows go, and panels that have no others.
    largest = 0
    for curve in curves.values():
        if len(curve):
            largest = max(largest, int(curve["n"].max()))
    if not largest:
        raise ValueError("no update has a value of what is drawn")
    least = min(least, largest)
    shown: dict[Panel, dict[str, pd.DataFrame]] = {}
    for (panel, arm), curve in curves.items():
        long_enough = curve[curve["n"] >= least]
        if len(long_enough):
            shown.setdefault(panel, {})[arm] = long_enough

    n_columns = _columns_without_gaps(len(shown))
    n_rows = math.ceil(len(shown) / n_columns)
    figure, axes = new_figure(n_rows, n_columns, 0.8 + 1.75 * n_rows)
    hide(axes.flat[len(shown) :])
    drawn = []
    for number, (axis, (panel, by_arm)) in enumerate(zip(axes.flat, shown.items(), strict=False)):
        for arm, curve in by_arm.items():
            colour = styles[arm][0]
            draw_band(axis, curve["position"] * n_updates, curve, colour, shorten(arm))
            drawn.append(curve.assign(panel=panel.title, arm=arm))
        is_lowest = number >= len(shown) - n_columns
        axis.set(
            ylim=(0, 1.02 if panel.is_share else None),
            xlim=(0, n_updates),
            xlabel="update" if is_lowest else "",
        )
        axis.set_title(panel.title, fontsize=8 if n_columns < 5 else 7)
    arms_shown = set()
    for by_arm in shown.values():
        arms_shown |= set(by_arm)
    _legend_of_arms(figure, styles, arms_shown)
    note(figure, text)
    return Plot(figure, pd.concat(drawn, ignore_index=True))


def _columns_without_gaps(n: int) -> int:
    """Columns of a grid of n panels, three to five, with the fewest places left empty.

    >>> [_columns_without_gaps(n) for n in (2, 4, 6, 7, 9, 10, 11)]
    [2, 4, 3, 4, 3, 5, 4]
    """
    if n <= 5:
        return n
    return min((4, 5, 3), key=lambda columns: -n % columns)


def _legend_of_arms(
    figure: Figure, styles: Mapping[str, tuple[str, str]], shown: Collection[str]
) -> None:
    """The arms that are drawn, in the study's order, above the figure."""
    handles = []
    for arm, (colour, _) in styles.items():
        if arm in shown:
            handles.append(Line2D([], [], color=colour, linewidth=1.4, label=shorten(arm)))
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 5))


def _curve(rows: pd.DataFrame, panel: Panel, n_updates: int, bins: int) -> pd.DataFrame:
    """The mean of a column over stretches of training; a single training has a line and no band."""
    values = pd.to_numeric(rows[panel.column], errors="coerce").astype(float)
    values = values.where(np.isfinite(values))  # a KL that has overflowed has no mean
    prompts = rows["seed"].astype(str) + ":" + rows["prompt_id"]
    position = (rows["step"] + 0.5) / n_updates
    if panel.is_share and panel.domain != UPDATES:
        curve = stats.curve(position, values, prompts, bins=bins, share=True)
    else:
        curve = stats.curve(position, values, prompts, bins=bins, resamples=500)
    return curve.dropna(subset="value")
