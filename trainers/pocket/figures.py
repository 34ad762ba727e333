"""Figures that need the pocket world's truth: detectors against it, branching points, rates tried.

`COLUMNS` and `FIGURES` are the study's own with what only this world knows; `samples_of` adds the
columns.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cotlens import stats
from cotlens.measures.groups import need
from cotlens.plots.of_studies import FIGURES as STUDY_FIGURES
from cotlens.plots.of_studies import REFLECTION, StudyFigure
from cotlens.plots.parts import draw_dots, label_rows, legend_above, note, shorten
from cotlens.plots.study import MARKERS, interval_of, present_arms, small_panels
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure
from cotlens.stats import Estimate
from cotlens.studies import Column, Study
from cotlens.studies.arms import COLUMNS as STUDY_COLUMNS
from cotlens.studies.arms import LEAST_SEEDS, over_seeds, to_row
from trainers.pocket.probe_figures import PROBE_FIGURES


def samples_of(study: Study) -> pd.DataFrame:
    """The study's samples with `corrective`, and with columns that it lacks missing.

    `corrective` is the share of reflections that mend something (NaN without any).
    """
    samples = study.samples()
    missing = [name for name in COLUMNS if name not in samples]
    samples = samples.assign(**dict.fromkeys(missing, math.nan))
    n_reflections = samples["n_reflections"].astype(float)
    n_corrections = samples["n_corrections"].astype(float)
    return samples.assign(corrective=n_corrections / n_reflections.where(n_reflections > 0))


def _with_own_columns(columns: Mapping[str, Column]) -> dict[str, Column]:
    """The columns of studies, each of the world's own after the one that it belongs to."""
    puzzles = ("puzzles",)
    own = {
        "is_format_ok": {"is_parsed": Column("only sentences of the world", ("all",), True)},
        "goes_back": {
            "recalls": Column("refusal after an injected rule check", ("forbidden",), True),
            "returns_after_miss": Column("returns after own misses", puzzles, True),
            "is_correct_banned": Column("right without going back", puzzles, True),
            "pay_off": Column("what going back is worth", puzzles, False),
        },
        "longest_run": {
            "corrective": Column(
                "share of reflections that mend something",
                ("forbidden", "maths", "puzzles"),
                False,
            ),
        },
    }
    merged: dict[str, Column] = {}
    for name, column in columns.items():
        merged[name] = column
        merged |= own.get(name, {})
    return merged


COLUMNS = _with_own_columns(STUDY_COLUMNS)


# --- learning rates ----------------------------------------------------------------------------


@house_style()
def plot_tries(tries: pd.DataFrame, text: str = "") -> Plot:
    """The learning rates tried on development seeds, a panel an arm, with the picked one ringed.

    Args:
        tries: one row per (arm, rate): arm, rate, picked, safe, help, skill (shares) and their
            mean, score.
        text: the study's note.
    """
    lines = {
        "score": "score",
        "safe": "safe, forbidden",
        "help": "helped, harmless",
        "skill": "right, sums and puzzles",
    }
    need(tries, "arm", "rate", "picked", *lines)
    arms = present_arms(tries)
    figure, axes = small_panels(len(arms), 1.0, 1.45, "learning rate")
    for axis, arm in zip(axes, arms, strict=True):
        arm_tries = tries[tries["arm"] == arm].sort_values("rate")
        for number, (column, label) in enumerate(lines.items()):
            is_score = column == "score"
            axis.plot(
                arm_tries["rate"],
                arm_tries[column],
                color="#000000" if is_score else COLOURS[number - 1],
                linewidth=1.6 if is_score else 0.9,
                marker=MARKERS[number],
                markersize=3,
                label=label,
            )
        picked = arm_tries[arm_tries["picked"]]
        axis.plot(
            picked["rate"],
            picked["score"],
            "o",
            markersize=8,
            color="#000000",
            fillstyle="none",
        )
        axis.set(xscale="log", ylim=(0, 1.03))
        axis.set_title(shorten(arm), fontsize=8)

    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=4)
    caption = (
        "development seeds and their prompts, no test seed; "
        "ringed: picked by the score, the mean of the other three"
    )
    note(figure, f"{caption}\n{text}")
    return Plot(figure, tries)


# --- detectors against the truth ---------------------------------------------------------------

DETECTION = ("precision", "recall", "false_alarms")


@house_style()
def plot_instruments(steps: pd.DataFrame, text: str = "") -> Plot:
    """Precision, recall and false alarms of the step detectors against known truth, arm by arm.

    Precision falls where what is looked for becomes rare, though nothing of the detector changed.
    Recall and the rate of false alarms (flagged, among the steps that are not it) do not.

    Args:
        steps: one row per step: arm, seed, set, prompt_id, is_reflection, unsafe, true_reflection,
            true_unsafe.
        text: the study's note.
    """
    order = present_arms(steps)[::-1]
    figure, axes = new_figure(1, 2, 1.6 + 0.3 * len(order), sharey=True, sharex=True)
    detectors = (
        ("Reflection (classifier)", "is_reflection", "true_reflection", set(steps["set"])),
        ("Unsafe step (markers), forbidden", "unsafe", "true_unsafe", {"forbidden"}),
    )
    drawn = []
    for axis, (title, flag, truth, domains) in zip(axes[0], detectors, strict=True):
        domain_steps = steps[steps["set"].isin(domains)]
        by_arm = [_detection(domain_steps, arm, flag, truth) for arm in order]
        table = pd.concat(by_arm)
        for number, measure in enumerate(DETECTION):
            rows = table[table["measure"] == measure].set_index("arm").loc[order]
            draw_dots(
                axis,
                rows,
                COLOURS[number],
                offset=0.2 * (1 - number),
                label=measure.replace("_", " "),
                marker=MARKERS[number],
            )
        axis.set_title(title, fontsize=8, pad=27)
        legend_above(axis)
        drawn.append(table.assign(detector=title))

    axes[0, 0].set_xlim(0, 1.02)
    label_rows(axes[0], [shorten(arm) for arm in order])
    shown = pd.concat(drawn, ignore_index=True)
    caption = "against the truth, step by step; false alarms: flagged, of the steps that are none"
    note(figure, f"{caption}; line: 95% interval, {interval_of(shown)}\n{text}")
    return Plot(figure, shown)


def _detection(steps: pd.DataFrame, arm: str, flag: str, truth: str) -> pd.DataFrame:
    """Precision, recall and rate of false alarms of one arm.

    Over seeds from three seeds on, else over prompts.
    """
    arm_steps = steps[(steps["arm"] == arm) & steps[flag].notna()]
    flagged = arm_steps[flag].astype(bool)
    true = arm_steps[truth].astype(bool)
    shares = {  # the share of hits among some steps
        "precision": (true, flagged),
        "recall": (flagged, true),
        "false_alarms": (flagged, ~true),
    }
    seeds = sorted(set(arm_steps["seed"]))
    prompts = arm_steps["seed"].astype(str) + arm_steps["prompt_id"]
    rows = []
    for name, (hit, among) in shares.items():
        if len(seeds) < LEAST_SEEDS:
            estimate = stats.proportion(hit[among], prompts[among])
        else:
            by_seed = [float(hit[among & (arm_steps["seed"] == seed)].mean()) for seed in seeds]
            estimate = over_seeds(by_seed, len(arm_steps))
        rows.append({"arm": arm, "measure": name, **to_row(estimate)})
    return pd.DataFrame(rows)


# --- branching points --------------------------------------------------------------------------

BRANCHES = 0.05  # nats: the writer's entropy at a branching point is higher
KINDS = ("decision", "wording", "determined")


def branching_measures(tokens: pd.DataFrame) -> pd.DataFrame:
    """How well an arm's entropy finds the places where the writer could have gone on otherwise.

    Args:
        tokens: one row per token of a text whose writer is known: arm, seed, prompt_id, kind,
            policy_entropy (the writer's own, nats), entropy (the arm's, nats).

    Returns:
        One row per (arm, measure). `auroc`: probability that the arm is more uncertain at a
        branching point (writer above 0.05 nats) than at another token. `correlation`: Pearson's, of
        the two entropies. `mean_KIND`: the arm's mean entropy at decisions, wordings, determined
        tokens. Intervals are over seeds, or over prompts with fewer than three.
    """
    statistics: dict[str, Callable[[pd.DataFrame], float]] = {
        "auroc": _auroc,
        "correlation": _correlation,
    }
    for kind in KINDS:
        statistics[f"mean_{kind}"] = _mean_at(kind)

    rows = []
    for arm in present_arms(tokens):
        arm_tokens = tokens[tokens["arm"] == arm]
        for name, statistic in statistics.items():
            by_seed = [statistic(seed_tokens) for _, seed_tokens in arm_tokens.groupby("seed")]
            if len(by_seed) >= LEAST_SEEDS:
                estimate = over_seeds(by_seed, len(arm_tokens))
            else:
                estimate = _over_prompts(arm_tokens, statistic)
            rows.append({"arm": arm, "measure": name, **to_row(estimate)})
    return pd.DataFrame(rows)


def _auroc(tokens: pd.DataFrame) -> float:
    branches = tokens["policy_entropy"].to_numpy() > BRANCHES
    entropy = tokens["entropy"].to_numpy()
    return (stats.cliffs_delta(entropy[branches], entropy[~branches]) + 1) / 2


def _correlation(tokens: pd.DataFrame) -> float:
    policy = tokens["policy_entropy"].to_numpy()
    entropy = tokens["entropy"].to_numpy()
    if policy.std() == 0 or entropy.std() == 0:
        return math.nan
    return float(np.corrcoef(policy, entropy)[0, 1])


def _mean_at(kind: str) -> Callable[[pd.DataFrame], float]:
    def mean(tokens: pd.DataFrame) -> float:
        entropy = tokens["entropy"].to_numpy()[(tokens["kind"] == kind).to_numpy()]
        return float(entropy.mean()) if len(entropy) else math.nan

    return mean


def _over_prompts(
    tokens: pd.DataFrame, statistic: Callable[[pd.DataFrame], float], resamples: int = 200
) -> Estimate:
    """The statistic with a percentile interval over prompts."""
    by_prompt = tokens.reset_index(drop=True).groupby(["seed", "prompt_id"])
    places = list(by_prompt.indices.values())
    rng = np.random.default_rng(0)
    values = []
    for _ in range(resamples):
        drawn = [places[i] for i in rng.integers(len(places), size=len(places))]
        values.append(statistic(tokens.iloc[np.concatenate(drawn)]))
    low, high = np.nanquantile(values, [0.025, 0.975])
    value = statistic(tokens)
    return Estimate(
        value, float(low), float(high), len(tokens), len(places), "prompts resampled", 0
    )


@house_style()
def plot_branching(tokens: pd.DataFrame, text: str = "") -> Plot:
    """Token entropy against the true branching points of the writer of a text, arm by arm."""
    need(tokens, "arm", "seed", "prompt_id", "kind", "policy_entropy", "entropy")
    measures = branching_measures(tokens)
    order = present_arms(tokens)[::-1]
    base = order[-1]
    base_tokens = tokens[tokens["arm"] == base]
    figure, axes = new_figure(1, 3, 1.9 + 0.24 * len(order))
    _draw_calibration(axes[0, 0], base_tokens, base)

    panels = (
        ("Finds branchings", ("auroc", "correlation")),
        ("Mean (nats)", [f"mean_{kind}" for kind in KINDS]),
    )
    for axis, (title, names) in zip(axes[0, 1:], panels, strict=True):
        for number, name in enumerate(names):
            label = "AUROC" if name == "auroc" else name.removeprefix("mean_")
            draw_dots(
                axis,
                measures[measures["measure"] == name].set_index("arm").loc[order],
                COLOURS[number],
                offset=0.16 * ((len(names) - 1) / 2 - number),
                label=label,
                marker=MARKERS[number],
            )
            if name.startswith("mean_"):  # the writer's own mean
                is_kind = base_tokens["kind"] == name.removeprefix("mean_")
                writers_mean = base_tokens.loc[is_kind, "policy_entropy"].mean()
                axis.axvline(writers_mean, color=COLOURS[number], linewidth=0.8, linestyle=":")
        axis.set_title(title, fontsize=8, pad=4 + 11 * math.ceil(len(names) / 2))
        legend_above(axis)
        is_first = axis is axes[0, 1]
        label_rows([axis], [shorten(arm) if is_first else "" for arm in order])

    caption = (
        "tokens of traces that a known policy wrote; branching: its own entropy is above 0.05 "
        "nats; "
        "dotted: its mean"
    )
    note(figure, f"{caption}; line: 95% interval, {interval_of(measures)}\n{text}")
    return Plot(figure, measures)


def _draw_calibration(axis: Axes, tokens: pd.DataFrame, base: str) -> None:
    """The base's mean entropy by the writer's, in bins."""
    bins = np.array([0, 1e-9, 0.1, 0.25, 0.5, 1, 1.5, 2, 2.5, 4])
    binned = tokens.groupby(np.digitize(tokens["policy_entropy"], bins))
    means = binned[["policy_entropy", "entropy"]].mean()
    last = float(means.max().max()) * 1.05
    axis.plot([0, last], [0, last], color="#888888", linewidth=0.8, linestyle="--")
    axis.plot(
        means["policy_entropy"],
        means["entropy"],
        "o-",
        color=COLOURS[0],
        markersize=4,
    )
    axis.set(
        xlabel="the writer's entropy (nats)",
        ylabel=f"{base}'s entropy (nats)",
        title="Calibration",
    )


# --- the list ----------------------------------------------------------------------------------


def _all_figures(figures: Sequence[StudyFigure]) -> tuple[StudyFigure, ...]:
    """The figures of studies, the one of reflection with a panel more, and those of this world."""
    panels = {**REFLECTION.panels, "Share that mend": ["corrective_maths", "corrective_forbidden"]}
    reflection = REFLECTION._replace(panels=panels).as_figure()
    own = (
        StudyFigure(
            "pocket/instruments",
            lambda tables: "steps" in tables.tables,
            lambda tables: plot_instruments(tables.tables["steps"], tables.note),
        ),
        StudyFigure(
            "pocket/branching",
            lambda tables: "branching" in tables.tables,
            lambda tables: plot_branching(tables.tables["branching"], tables.note),
        ),
        StudyFigure(
            "pocket/learning_rates",
            lambda tables: "tries" in tables.results,
            lambda tables: plot_tries(tables.results["tries"], tables.note),
        ),
    )
    shared = [reflection if figure.name == REFLECTION.name else figure for figure in figures]
    return (*shared, *own, *PROBE_FIGURES)


FIGURES = _all_figures(STUDY_FIGURES)
