"""Figures that need the pocket world's truth: instruments, branching points, learning rates tried."""

import math
from typing import Any

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.measures.groups import need
from cotlens.plots.parts import draw_dots, label_rows, legend_above, note, shorten
from cotlens.plots.study import MARKERS, interval_of, present_arms, small_panels
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure
from cotlens.stats.bootstrap import Estimate
from cotlens.studies.arms import LEAST_SEEDS, numbers, over_seeds


@house_style()
def plot_tries(tries: pd.DataFrame, text: str = "") -> Plot:
    """The learning rates that were tried on the development seed: a panel per arm, with the one picked.

    Args:
        tries: one row per (arm, rate): arm, rate, picked, safe, helped, right (shares) and their mean, score.
        text: the study's note.
    """
    lines = {
        "score": "score",
        "safe": "safe, forbidden",
        "helped": "helped, harmless",
        "right": "right, maths",
    }
    need(tries, "arm", "rate", "picked", *lines)
    arms = present_arms(tries)
    figure, axes = small_panels(len(arms), 1.0, 1.45, "learning rate")
    for axis, arm in zip(axes, arms, strict=True):
        own = tries[tries["arm"] == arm].sort_values("rate")
        for number, (column, label) in enumerate(lines.items()):
            colour, width = ("#000000", 1.6) if column == "score" else (COLOURS[number - 1], 0.9)
            style: Any = {
                "color": colour,
                "linewidth": width,
                "marker": MARKERS[number],
                "markersize": 3,
            }
            axis.plot(own["rate"], own[column], **style, label=label)
        picked = own[own["picked"]]
        axis.plot(
            picked["rate"], picked["score"], "o", markersize=8, color="#000000", fillstyle="none"
        )
        axis.set(xscale="log", ylim=(0, 1.03))
        axis.set_title(shorten(arm), fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    caption = "one development seed and its prompts, no test seed; ringed: picked by the score, the mean of the other three"
    note(figure, f"{caption}\n{text}")
    return Plot(figure, tries)


# --- instruments against the truth -----------------------------------------------------------------------------
@house_style()
def plot_instruments(steps: pd.DataFrame, text: str = "") -> Plot:
    """Precision, recall and false alarms of the step detectors against known truth, arm by arm.

    Precision falls where what is looked for becomes rare, though nothing of the detector changed; the rate of false
    alarms (flagged, of the steps that are not it) and recall do not.

    Args:
        steps: one row per step: arm, seed, set, prompt_id, is_reflection, unsafe, true_reflection, true_unsafe.
        text: the study's note.
    """
    order = present_arms(steps)[::-1]
    figure, axes = new_figure(1, 2, 1.6 + 0.3 * len(order), sharey=True, sharex=True)
    pairs = (
        ("Reflection (classifier)", "is_reflection", "true_reflection", tuple(set(steps["set"]))),
        ("Unsafe step (markers), forbidden", "unsafe", "true_unsafe", ("forbidden",)),
    )
    drawn = []
    for axis, (title, said, real, sets) in zip(axes[0], pairs, strict=True):
        table = pd.concat(
            [_detection(steps[steps["set"].isin(sets)], arm, said, real) for arm in order]
        )
        for number, measure in enumerate(("precision", "recall", "false_alarms")):
            part = table[table["measure"] == measure].set_index("arm").loc[order]
            label, offset = measure.replace("_", " "), 0.2 * (1 - number)
            draw_dots(
                axis, part, COLOURS[number], offset=offset, label=label, marker=MARKERS[number]
            )
        axis.set_title(title, fontsize=8, pad=27)
        legend_above(axis)
        drawn.append(table.assign(detector=title))
    axes[0, 0].set_xlim(0, 1.02)
    label_rows(axes[0], [shorten(arm) for arm in order])
    found = pd.concat(drawn, ignore_index=True)
    caption = "against the truth, step by step; false alarms: flagged, of the steps that are none"
    note(figure, f"{caption}; line: 95% interval, {interval_of(found)}\n{text}")
    return Plot(figure, found)


def _detection(steps: pd.DataFrame, arm: str, said: str, real: str) -> pd.DataFrame:
    """Precision, recall and rate of false alarms of one arm, over seeds from three seeds on."""
    own = steps[(steps["arm"] == arm) & steps[said].notna()]
    flagged, true = own[said].astype(bool), own[real].astype(bool)
    of = {"precision": (true, flagged), "recall": (flagged, true), "false_alarms": (flagged, ~true)}
    prompts, rows = own["seed"].astype(str) + own["prompt_id"], []
    for name, (hit, among) in of.items():
        if own["seed"].nunique() < LEAST_SEEDS:
            e = stats.proportion(hit[among], prompts[among])
        else:
            means = (hit[among & (own["seed"] == seed)].mean() for seed in sorted(set(own["seed"])))
            e = over_seeds([float(mean) for mean in means], len(own))
        rows.append({"arm": arm, "measure": name, **numbers(e)})
    return pd.DataFrame(rows)


BRANCHES = 0.05  # nats: a token at which the writer's own entropy is higher is a branching point


def branching_measures(tokens: pd.DataFrame) -> pd.DataFrame:
    """How well an arm's entropy finds the places where the writer of the text could have gone on otherwise.

    Args:
        tokens: one row per token of a text whose writer is known: arm, seed, prompt_id, kind, policy_entropy (the
            writer's own, nats), entropy (the arm's, nats).

    Returns:
        One row per (arm, measure). `auroc`: probability that the arm is more uncertain at a branching point (writer
        above 0.05 nats) than at another token. `correlation`: Pearson's of the two entropies. `mean_KIND`: the arm's
        mean entropy at decisions, wordings, determined tokens. Intervals over seeds, or over prompts.
    """
    rows = []
    for arm in present_arms(tokens):
        own = tokens[tokens["arm"] == arm]
        for name, of in _BRANCHING.items():
            by = [of(part) for _, part in own.groupby("seed")]
            e = over_seeds(by, len(own)) if len(by) >= LEAST_SEEDS else _over_prompts(own, of)
            rows.append({"arm": arm, "measure": name, **numbers(e)})
    return pd.DataFrame(rows)


def _over_prompts(tokens: pd.DataFrame, of: Any, resamples: int = 200) -> Estimate:
    places = list(tokens.reset_index(drop=True).groupby(["seed", "prompt_id"]).indices.values())
    rng = np.random.default_rng(0)
    draws = (
        np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))])
        for _ in range(resamples)
    )
    low, high = np.nanquantile([of(tokens.iloc[draw]) for draw in draws], [0.025, 0.975])
    return Estimate(
        of(tokens), float(low), float(high), len(tokens), len(places), "prompts resampled", 0
    )


def _auroc(tokens: pd.DataFrame) -> float:
    branches, entropy = tokens["policy_entropy"].to_numpy() > BRANCHES, tokens["entropy"].to_numpy()
    return (stats.cliffs_delta(entropy[branches], entropy[~branches]) + 1) / 2


def _mean_at(kind: str) -> Any:
    def mean(tokens: pd.DataFrame) -> float:
        own = tokens["entropy"].to_numpy()[(tokens["kind"] == kind).to_numpy()]
        return float(own.mean()) if len(own) else math.nan

    return mean


def _correlation(tokens: pd.DataFrame) -> float:
    x, y = tokens["policy_entropy"].to_numpy(), tokens["entropy"].to_numpy()
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else math.nan


_KINDS = ("decision", "wording", "determined")
_BRANCHING = {
    "auroc": _auroc,
    "correlation": _correlation,
    **{f"mean_{kind}": _mean_at(kind) for kind in _KINDS},
}


@house_style()
def plot_branching(tokens: pd.DataFrame, text: str = "") -> Plot:
    """Token entropy against the true branching points of the writer of a text, arm by arm."""
    need(tokens, "arm", "seed", "prompt_id", "kind", "policy_entropy", "entropy")
    found = branching_measures(tokens)
    order = present_arms(tokens)[::-1]
    figure, axes = new_figure(1, 3, 1.9 + 0.24 * len(order))
    base = tokens[tokens["arm"] == order[-1]]
    bins = np.array([0, 1e-9, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 4])
    binned = base.groupby(np.digitize(base["policy_entropy"], bins))[
        ["policy_entropy", "entropy"]
    ].mean()
    last = float(binned.max().max()) * 1.05
    axes[0, 0].plot([0, last], [0, last], color="#888888", linewidth=0.8, linestyle="--")
    axes[0, 0].plot(
        binned["policy_entropy"], binned["entropy"], "o-", color=COLOURS[0], markersize=4
    )
    axes[0, 0].set(
        xlabel="the writer's entropy (nats)",
        ylabel=f"{order[-1]}'s entropy (nats)",
        title="Calibration",
    )
    panels = (
        ("Finds branchings", ("auroc", "correlation")),
        ("Mean (nats)", [f"mean_{k}" for k in _KINDS]),
    )
    for axis, (title, names) in zip(axes[0, 1:], panels, strict=True):
        for number, name in enumerate(names):
            part = found[found["measure"] == name].set_index("arm").loc[order]
            offset = 0.16 * ((len(names) - 1) / 2 - number)
            label = {"auroc": "AUROC"}.get(name, name.removeprefix("mean_"))
            draw_dots(
                axis, part, COLOURS[number], offset=offset, label=label, marker=MARKERS[number]
            )
            if name.startswith("mean_"):
                own = base.loc[base["kind"] == name.removeprefix("mean_"), "policy_entropy"].mean()
                axis.axvline(own, color=COLOURS[number], linewidth=0.8, linestyle=":")
        axis.set_title(title, fontsize=8, pad=4 + 11 * math.ceil(len(names) / 2))
        legend_above(axis)
        label_rows([axis], [shorten(arm) if axis is axes[0, 1] else "" for arm in order])
    caption = "tokens of traces that a known policy wrote; branching: its own entropy is above 0.05 nats; dotted: its mean"
    note(figure, f"{caption}; line: 95% interval, {interval_of(found)}\n{text}")
    return Plot(figure, found)
