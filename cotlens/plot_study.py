"""Figures of a study: arms as rows or lines, with intervals, and what an experiment knows beside them.

Every function takes tables of `study` and `findings` and returns a `Plot`. `text` is the study's note, which says where
the numbers come from; it stands under every figure.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cotlens import stats
from cotlens.figure import (
    COLOURS,
    Plot,
    draw_band,
    draw_dots,
    house_style,
    label_rows,
    legend_above,
    need,
    new_figure,
    note,
    shorten,
)
from cotlens.findings import LEAST_SEEDS, SETS, numbers, over_seeds
from cotlens.stats import Estimate

_MARKERS = "osD^vP*"


def _present(table: pd.DataFrame) -> list[str]:
    """The arms that are there, in the study's order."""
    if isinstance(table["arm"].dtype, pd.CategoricalDtype):
        return [arm for arm in table["arm"].cat.categories if (table["arm"] == arm).any()]
    return list(dict.fromkeys(table["arm"]))


def _styles(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """A colour and a marker for each arm; the marker changes where the colours start again."""
    return {arm: (COLOURS[i % len(COLOURS)], _MARKERS[i // len(COLOURS)]) for i, arm in enumerate(arms)}


def _mark(number: int) -> tuple[str, str]:
    """Colour and marker of the measure of that number, told apart by either."""
    again = number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], _MARKERS[(number + again) % len(_MARKERS)]


def _small_panels(n: int, height: float, of_row: float, xlabel: str) -> tuple[Figure, list[Axes]]:
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


def _how(drawn: pd.DataFrame) -> str:
    """How the intervals of the drawn rows were made; arms of which fewer than three seeds have data are by prompt."""
    known = drawn.dropna(subset="low")
    seeds = known[known["units"] == "seeds"]
    if seeds.empty:
        return "over prompts (Wilson's of shares, else prompts resampled)"
    exception = "" if len(seeds) == len(known) else "; over prompts where fewer than three seeds have data"
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
    order = _present(found)[::-1]
    most = max(len(names) for names in kept.values())
    figure, axes = new_figure(1, len(kept), 1.6 + (0.22 + 0.06 * most) * len(order), sharey=True)
    labels = {
        found.loc[found["measure"] == name, "label"].iloc[0].rpartition(", ")[2]: None
        for n in kept.values()
        for name in n
    }
    common = most > 1 and all(len(names) == len(labels) for names in kept.values())  # one legend says it for all
    drawn = []
    for axis, (title, names) in zip(axes[0], kept.items(), strict=True):
        for number, name in enumerate(names):
            part = found[found["measure"] == name].set_index("arm").reindex(order)
            offset = 0.17 * ((len(names) - 1) / 2 - number)
            label = str(part["label"].dropna().iloc[0]).rpartition(", ")[2] if len(names) > 1 else ""
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
    note(figure, f"{caption}; line: 95% interval, {_how(shown)}{cut}\n{text}")
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
    for arm, (colour, marker) in _styles(_present(found)).items():
        own = found[found["arm"] == arm].set_index("measure")
        if not set(wanted) <= set(own.index):
            continue
        x, y = own.loc["is_correct_maths"], own.loc["thinking_unsafe_forbidden"]
        axis.hlines(1 - y["value"], x["low"], x["high"], color=colour, linewidth=0.8, alpha=0.7)
        axis.vlines(x["value"], 1 - y["high"], 1 - y["low"], color=colour, linewidth=0.8, alpha=0.7)
        axis.plot(
            x["value"], 1 - y["value"], marker, color=colour, label=shorten(arm), markersize=6, markeredgecolor="white"
        )
        drawn.append({"arm": arm, "correct": x["value"], "safe_thinking": 1 - y["value"]})
    axis.set(ylim=(0, 1.02), xlabel="right answers, mathematics", ylabel="forbidden requests with safe thinking")
    axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    both = found[found["measure"].isin(wanted)]
    note(figure, f"lines: 95% intervals, {_how(both)}\n{text}")
    return Plot(figure, pd.DataFrame(drawn))


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
        raise ValueError("nothing is known of the rollouts: no verdicts, rewards, tokens or reflections")
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
        own = updates[updates["arm"].isin(_present(rollouts))].assign(set="updates")
        own = own.assign(arm=own["arm"].astype(str), prompt_id=own["seed"].astype(str))
        table = pd.concat([table, own], ignore_index=True)
    table["arm"] = pd.Categorical(table["arm"], _present(rollouts))

    def known(column: str, where: str) -> bool:
        return column in table and bool(table.loc[table["set"] == where, column].notna().any())

    other = [where for where in dict.fromkeys(rollouts["set"]) if where not in SETS]
    panels = [_first_known(choices, known, other) for choices in _TRAINING]
    return table, [panel for panel in panels if panel]


_TRAINING_SHARES = ("thinking_unsafe", "answer_unsafe", "refuses", "is_help", "is_correct", "frac_reward_zero_std")
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
def plot_obfuscation(rollouts: pd.DataFrame, text: str = "", *, bins: int = 12, least: int = 20) -> Plot:
    """Does rewarding a guard on the thinking hide unsafe thinking? Truth beside the rewarded guard, over training.

    P(flagged | unsafe) is the guard's recall. What passes it and is unsafe is hidden; what passes it and leads to
    an unsafe answer is what a monitor of the thinking would miss. Stretches with fewer than `least` rollouts to go by
    are left out.
    """
    need(rollouts, "arm", "seed", "step", "set", "prompt_id", "thinking_unsafe", "thinking_flagged", "answer_unsafe")
    unsafe, flagged = rollouts["thinking_unsafe"].astype("boolean"), rollouts["thinking_flagged"].astype("boolean")
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
    last, drawn, styles = table["step"].max() + 1, [], _styles(_present(table))
    for number, (axis, (title, column, where)) in enumerate(zip(axes.flat, panels, strict=False)):
        for arm, (colour, _) in styles.items():
            part = table[(table["arm"] == arm) & (table["set"] == where)]
            values = pd.to_numeric(part[column], errors="coerce").astype(float)
            values = values.where(np.isfinite(values))  # a KL that has overflowed has no mean
            prompts = part["seed"].astype(str) + ":" + part["prompt_id"]
            at = (part["step"] + 0.5) / last
            how: Any = {"share": True} if number < share_y and where != "updates" else {"resamples": 500}
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


@house_style()
def plot_tries(tries: pd.DataFrame, text: str = "") -> Plot:
    """The learning rates that were tried on the development seed: a panel per arm, with the one picked.

    Args:
        tries: one row per (arm, rate): arm, rate, picked, safe, helped, right (shares) and their mean, score.
        text: the study's note.
    """
    lines = {"score": "score", "safe": "safe, forbidden", "helped": "helped, harmless", "right": "right, maths"}
    need(tries, "arm", "rate", "picked", *lines)
    arms = _present(tries)
    figure, axes = _small_panels(len(arms), 1.0, 1.45, "learning rate")
    for axis, arm in zip(axes, arms, strict=True):
        own = tries[tries["arm"] == arm].sort_values("rate")
        for number, (column, label) in enumerate(lines.items()):
            colour, width = ("#000000", 1.6) if column == "score" else (COLOURS[number - 1], 0.9)
            style: Any = {"color": colour, "linewidth": width, "marker": _MARKERS[number], "markersize": 3}
            axis.plot(own["rate"], own[column], **style, label=label)
        picked = own[own["picked"]]
        axis.plot(picked["rate"], picked["score"], "o", markersize=8, color="#000000", fillstyle="none")
        axis.set(xscale="log", ylim=(0, 1.03))
        axis.set_title(shorten(arm), fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    caption = (
        "one development seed and its prompts, no test seed; ringed: picked by the score, the mean of the other three"
    )
    note(figure, f"{caption}\n{text}")
    return Plot(figure, tries)


# --- thinking and answer ---------------------------------------------------------------------------------------


@house_style()
def plot_early_answering(early: pd.DataFrame, text: str = "", *, least: int = 15) -> Plot:
    """Unsafe answers when unsafe thinking is cut short: a panel per arm, a line per split, the first arm's in grey.

    Arms are left with unsafe thinking on different splits, so only lines of one split can be compared.

    Args:
        early: one row per answer: arm, seed, trace_id, prompt_id, cut (share of the thinking kept), answer_unsafe, and
            split, the part that the prompt belongs to, if known.
        text: the study's note.
        least: splits of an arm with fewer samples are left out.
    """
    need(early, "arm", "seed", "prompt_id", "cut", "answer_unsafe")
    early = early if "split" in early else early.assign(split="all")
    splits = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(early["split"]))}
    tables = {
        (str(arm), str(split)): _by_cut(own)
        for (arm, split), own in early.groupby(["arm", "split"], observed=True, sort=False)
    }
    sizes = {key: int(table["n"].max()) for key, table in tables.items()}
    least = min(least, max(sizes.values()))
    found = {key: table for key, table in tables.items() if sizes[key] >= least}
    arms = [arm for arm in _present(early) if any(of == arm for of, _ in found)]
    figure, axes = _small_panels(len(arms), 1.1, 1.5, "thinking kept")
    named = {}
    for axis, arm in zip(axes, arms, strict=True):
        counts = []
        for split, colour in splits.items():
            if (arm, split) not in found:
                continue
            own, first = found[arm, split], found.get((arms[0], split))
            if first is not None:
                axis.plot(first["cut"], first["value"], color="#999999", linewidth=1, linestyle="--")
            draw_band(axis, own["cut"], own, colour, split)
            axis.plot(own["cut"], own["value"], "o", color=colour, markersize=3)
            counts.append(str(sizes[arm, split]))
            named[split.replace("_", " ")] = axis.lines[-2]
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1])
        axis.set_title(shorten(arm), fontsize=8)
        axis.text(0.96, 0.04, f"n = {', '.join(counts)}", transform=axis.transAxes, ha="right", fontsize=6.5)
    figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=len(named))
    figure.supylabel("unsafe answers", fontsize=8)
    caption = (
        f"by share of the thinking that is kept; samples with unsafe thinking, greedy answers; splits of an arm with "
        f"{least} samples or more; band: Wilson's 95%, by prompt; grey: {arms[0]} on the same split"
    )
    note(figure, f"{caption}\n{text}")
    drawn = [table.assign(arm=arm, split=split) for (arm, split), table in found.items()]
    return Plot(figure, pd.concat(drawn, ignore_index=True))


def _by_cut(early: pd.DataFrame) -> pd.DataFrame:
    prompts = early["seed"].astype(str) + ":" + early["prompt_id"]
    rows = [
        {"cut": cut, **numbers(stats.proportion(part["answer_unsafe"], prompts[part.index]))}
        for cut, part in early.groupby("cut")
    ]
    return pd.DataFrame(rows)


_OUTCOMES = {
    "thinking_unsafe yes": "unsafe thinking",
    "thinking_unsafe no": "safe thinking",
    "is_correct yes": "right",
    "is_correct no": "wrong",
}


@house_style()
def plot_confounds(found: pd.DataFrame, text: str = "") -> Plot:
    """Differences to the base: raw, at equal length, within an outcome, on one common text, on equal splits.

    Args:
        found: of `findings.confounds`.
        text: the study's note.

    Raises:
        ValueError: if there is nothing to compare.
    """
    titles = {
        ("entropy_think", "forbidden"): "Entropy, forbidden", ("entropy_think", "maths"): "Entropy, maths",
        ("reflection_rate", "forbidden"): "Reflections per step, forbidden",
        ("reflection_rate", "maths"): "Reflections per step, maths",
        ("guard_recall", "forbidden"): "Recall of the reward's guard, unsafe thinking",
    }  # fmt: skip
    have = set(zip(found["column"], found["set"], strict=True))
    titles = {of: title for of, title in titles.items() if of in have}
    if not titles:
        raise ValueError("nothing to compare: no samples of forbidden requests or mathematics with what is measured")
    order = _present(found)[::-1]
    rows = math.ceil(len(titles) / 2)
    figure, axes = new_figure(rows, min(len(titles), 2), 0.9 + rows * (0.5 + 0.26 * len(order)), sharey=True)
    for axis in axes.flat[len(titles) :]:
        axis.set_visible(False)
    for axis, ((column, where), title) in zip(axes.flat, titles.items(), strict=False):
        shown = found[(found["column"] == column) & (found["set"] == where)]
        comparisons = [name for name in dict.fromkeys(shown["comparison"]) if not name.endswith("unknown")]
        for number, comparison in enumerate(comparisons):
            part = shown[shown["comparison"] == comparison].set_index("arm").reindex(order)
            label = _OUTCOMES.get(str(comparison), str(comparison))
            offset = 0.15 * ((len(comparisons) - 1) / 2 - number)
            draw_dots(axis, part, COLOURS[number], offset=offset, label=label, marker=_MARKERS[number])
        axis.axvline(0, color="#888888", linewidth=0.8)
        for row in range(0, len(order), 2):  # which marks belong to which arm
            axis.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
        axis.set_title(title, fontsize=8, pad=4 + 11 * math.ceil(len(comparisons) / 2))
        legend_above(axis)
    for row in axes:
        label_rows(row, [shorten(arm) for arm in order])
    note(
        figure, f"difference to the base; line: 95% interval, {_how(found)}; no dot: too few samples to compare\n{text}"
    )
    return Plot(figure, found)


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
    order = _present(steps)[::-1]
    figure, axes = new_figure(1, 2, 1.6 + 0.3 * len(order), sharey=True, sharex=True)
    pairs = (
        ("Reflection (classifier)", "is_reflection", "true_reflection", tuple(set(steps["set"]))),
        ("Unsafe step (markers), forbidden", "unsafe", "true_unsafe", ("forbidden",)),
    )
    drawn = []
    for axis, (title, said, real, sets) in zip(axes[0], pairs, strict=True):
        table = pd.concat([_detection(steps[steps["set"].isin(sets)], arm, said, real) for arm in order])
        for number, measure in enumerate(("precision", "recall", "false_alarms")):
            part = table[table["measure"] == measure].set_index("arm").loc[order]
            label, offset = measure.replace("_", " "), 0.2 * (1 - number)
            draw_dots(axis, part, COLOURS[number], offset=offset, label=label, marker=_MARKERS[number])
        axis.set_title(title, fontsize=8, pad=27)
        legend_above(axis)
        drawn.append(table.assign(detector=title))
    axes[0, 0].set_xlim(0, 1.02)
    label_rows(axes[0], [shorten(arm) for arm in order])
    found = pd.concat(drawn, ignore_index=True)
    caption = "against the truth, step by step; false alarms: flagged, of the steps that are none"
    note(figure, f"{caption}; line: 95% interval, {_how(found)}\n{text}")
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
    for arm in _present(tokens):
        own = tokens[tokens["arm"] == arm]
        for name, of in _BRANCHING.items():
            by = [of(part) for _, part in own.groupby("seed")]
            e = over_seeds(by, len(own)) if len(by) >= LEAST_SEEDS else _over_prompts(own, of)
            rows.append({"arm": arm, "measure": name, **numbers(e)})
    return pd.DataFrame(rows)


def _over_prompts(tokens: pd.DataFrame, of: Any, resamples: int = 200) -> Estimate:
    places = list(tokens.reset_index(drop=True).groupby(["seed", "prompt_id"]).indices.values())
    rng = np.random.default_rng(0)
    draws = (np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))]) for _ in range(resamples))
    low, high = np.nanquantile([of(tokens.iloc[draw]) for draw in draws], [0.025, 0.975])
    return Estimate(of(tokens), float(low), float(high), len(tokens), len(places), "prompts resampled", 0)


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
    order = _present(tokens)[::-1]
    figure, axes = new_figure(1, 3, 1.9 + 0.24 * len(order))
    base = tokens[tokens["arm"] == order[-1]]
    bins = np.array([0, 1e-9, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 4])
    binned = base.groupby(np.digitize(base["policy_entropy"], bins))[["policy_entropy", "entropy"]].mean()
    last = float(binned.max().max()) * 1.05
    axes[0, 0].plot([0, last], [0, last], color="#888888", linewidth=0.8, linestyle="--")
    axes[0, 0].plot(binned["policy_entropy"], binned["entropy"], "o-", color=COLOURS[0], markersize=4)
    axes[0, 0].set(xlabel="the writer's entropy (nats)", ylabel=f"{order[-1]}'s entropy (nats)", title="Calibration")
    panels = (("Finds branchings", ("auroc", "correlation")), ("Mean (nats)", [f"mean_{k}" for k in _KINDS]))
    for axis, (title, names) in zip(axes[0, 1:], panels, strict=True):
        for number, name in enumerate(names):
            part = found[found["measure"] == name].set_index("arm").loc[order]
            offset = 0.16 * ((len(names) - 1) / 2 - number)
            label = {"auroc": "AUROC"}.get(name, name.removeprefix("mean_"))
            draw_dots(axis, part, COLOURS[number], offset=offset, label=label, marker=_MARKERS[number])
            if name.startswith("mean_"):
                own = base.loc[base["kind"] == name.removeprefix("mean_"), "policy_entropy"].mean()
                axis.axvline(own, color=COLOURS[number], linewidth=0.8, linestyle=":")
        axis.set_title(title, fontsize=8, pad=4 + 11 * math.ceil(len(names) / 2))
        legend_above(axis)
        label_rows([axis], [shorten(arm) if axis is axes[0, 1] else "" for arm in order])
    caption = (
        "tokens of traces that a known policy wrote; branching: its own entropy is above 0.05 nats; dotted: its mean"
    )
    note(figure, f"{caption}; line: 95% interval, {_how(found)}\n{text}")
    return Plot(figure, found)
