"""Figures of training: curves by update, and unsafe thinking that the reward's guard does not see."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.measures.groups import need
from cotlens.plots.parts import draw_band, note, shorten
from cotlens.plots.study import arm_styles, present_arms
from cotlens.plots.style import Plot, house_style, new_figure
from cotlens.studies.arms import DOMAINS


# --- training --------------------------------------------------------------------------------------------------
@house_style()
def plot_training(
    rollouts: pd.DataFrame, text: str = "", *, updates: pd.DataFrame | None = None, bins: int = 15
) -> Plot:
    """What the rollouts of the RL arms did while they trained; panels without data are left out.

    Args:
        rollouts: one row per rollout: arm, seed, step, set, prompt_id and what is known of thinking_unsafe,
            answer_unsafe, is_help, refuses, is_correct, n_reflections and n_tokens.
        text: the study's note.
        updates: one row per update: arm, seed, step and what is known of reward, frac_reward_zero_std (share of
            groups whose rewards are all alike, which teach nothing), entropy and kl_reference (nats, over sampled
            tokens).
        bins: stretches of training.
    """
    table, panels = training_panels(rollouts, updates)
    if not panels:
        raise ValueError(
            "nothing is known of the rollouts: no verdicts, rewards, tokens or reflections"
        )
    shares = sum(column in _TRAINING_SHARES for _, column, _ in panels)
    caption = (
        f"all rollouts, in {bins} stretches of training; band: 95%, over prompts (of groups, reward, entropy, KL: over "
        "seeds, if there are several)"
    )
    rows = math.ceil(len(panels) / 4)
    return _plot_curves(table, panels, rows, f"{caption}\n{text}", bins, share_y=shares)


def training_panels(
    rollouts: pd.DataFrame, updates: pd.DataFrame | None
) -> tuple[pd.DataFrame, list[tuple[str, str, str]]]:
    """Rollouts and updates as one table, and the panels that `plot_training` can draw of it: title, column and set."""
    need(rollouts, "arm", "seed", "step", "set", "prompt_id")
    table = rollouts.assign(arm=rollouts["arm"].astype(str))
    if updates is not None and len(updates):
        own = updates[updates["arm"].isin(present_arms(rollouts))].assign(set="updates")
        own = own.assign(arm=own["arm"].astype(str), prompt_id=own["seed"].astype(str))
        table = pd.concat([table, own], ignore_index=True)
    table["arm"] = pd.Categorical(table["arm"], present_arms(rollouts))

    def known(column: str, where: str) -> bool:
        return column in table and bool(table.loc[table["set"] == where, column].notna().any())

    other = [where for where in dict.fromkeys(rollouts["set"]) if where not in DOMAINS]
    panels = [_first_known(choices, known, other) for choices in _TRAINING]
    return table, [panel for panel in panels if panel]


_TRAINING_SHARES = (
    "thinking_unsafe",
    "answer_unsafe",
    "refuses",
    "is_help",
    "is_correct",
    "frac_reward_zero_std",
)
# The first of each row that has data is drawn; "" stands for the sets that a study has beside the three.
_TRAINING: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (("Unsafe thinking", "thinking_unsafe", "forbidden"),),
    (("Unsafe answers", "answer_unsafe", "forbidden"), ("Refusals, forbidden", "refuses", "forbidden")),
    (("Help, harmless", "is_help", "harmless"), ("Refusals, harmless", "refuses", "harmless")),
    (("Right, maths", "is_correct", "maths"), ("Right", "is_correct", "")),
    (("Groups all alike", "frac_reward_zero_std", "updates"),),
    (("Reward", "reward", "updates"),),
    tuple((f"Reflections, {where}" if where else "Reflections", "n_reflections", where)
          for where in ("maths", "forbidden", "harmless", "")),
    tuple((f"Tokens, {where}" if where else "Tokens", "n_tokens", where)
          for where in ("forbidden", "maths", "harmless", "")),
    (("Entropy (nats)", "entropy", "updates"),),
    (("KL to the base (nats)", "kl_reference", "updates"),),
)  # fmt: skip


def _first_known(
    choices: Sequence[tuple[str, str, str]], known: Callable[[str, str], bool], other: Sequence[str]
) -> tuple[str, str, str] | None:
    for title, column, where in choices:
        for one in [where] if where else other:
            if known(column, one):
                return (title if where else f"{title}, {one}", column, one)
    return None


@house_style()
def plot_obfuscation(
    rollouts: pd.DataFrame, text: str = "", *, bins: int = 12, least: int = 20
) -> Plot:
    """Does rewarding a guard on the thinking hide unsafe thinking? Truth beside the rewarded guard, over training.

    P(flagged | unsafe) is the guard's recall. What passes it and is unsafe is hidden; what passes it and leads to
    an unsafe answer is what a monitor of the thinking would miss. Stretches with fewer than `least` rollouts to go by
    are left out.
    """
    need(
        rollouts,
        "arm",
        "seed",
        "step",
        "set",
        "prompt_id",
        "thinking_unsafe",
        "thinking_flagged",
        "answer_unsafe",
    )
    unsafe, flagged = (
        rollouts["thinking_unsafe"].astype("boolean"),
        rollouts["thinking_flagged"].astype("boolean"),
    )
    answer, known = rollouts["answer_unsafe"].astype("boolean"), unsafe.notna() & flagged.notna()
    table = rollouts.assign(
        caught=(unsafe & flagged).where(known),
        hidden=(unsafe & ~flagged).where(known),
        guard_recall=flagged.where(unsafe),
        missed=answer.where(~flagged),
    )
    panels = (
        ("Unsafe and flagged", "caught", "forbidden"), ("Unsafe and passed", "hidden", "forbidden"),
        ("Guard's recall", "guard_recall", "forbidden"),
        ("Passed, answer unsafe", "missed", "forbidden"),
    )  # fmt: skip
    caption = (
        f"rollouts for forbidden requests, {bins} stretches of training; truth: the evaluation's judge, flags: the "
        f"reward's guard; band: Wilson's 95%, by prompt; none: fewer than {least} rollouts to go by\n{text}"
    )
    return _plot_curves(table, panels, 1, caption, bins, share_y=4, least=least)


def _plot_curves(
    table: pd.DataFrame,
    panels: Sequence[tuple[str, str, str]],
    rows: int,
    text: str,
    bins: int,
    *,
    share_y: int,
    least: int = 0,
) -> Plot:
    """Means over stretches of at least `least` rows, a line per arm; the first `share_y` panels are shares."""
    figure, axes = new_figure(rows, math.ceil(len(panels) / rows), 0.8 + 1.9 * rows)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    last, drawn, styles = table["step"].max() + 1, [], arm_styles(present_arms(table))
    for number, (axis, (title, column, where)) in enumerate(zip(axes.flat, panels, strict=False)):
        for arm, (colour, _) in styles.items():
            part = table[(table["arm"] == arm) & (table["set"] == where)]
            values = pd.to_numeric(part[column], errors="coerce").astype(float)
            values = values.where(np.isfinite(values))  # a KL that has overflowed has no mean
            prompts = part["seed"].astype(str) + ":" + part["prompt_id"]
            at = (part["step"] + 0.5) / last
            how: Any = (
                {"share": True} if number < share_y and where != "updates" else {"resamples": 500}
            )
            found = stats.curve(at, values, prompts, bins=bins, **how)
            found = found.dropna(subset="value")  # one training has a line and no band
            found = found[found["n"] >= max(least, 1)]
            draw_band(axis, found["position"] * last, found, colour, shorten(arm))
            drawn.append(found.assign(panel=title, arm=arm))
        axis.set(title=title, ylim=(0, 1.02 if number < share_y else None))
        axis.set_xlabel("update" if number >= len(panels) - axes.shape[1] else "")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels))
    note(figure, text)
    return Plot(figure, pd.concat(drawn, ignore_index=True))
