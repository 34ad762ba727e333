"""What arms differ in: measures of a table of samples, differences to a base, confounds, and verdicts on claims.

Works on the samples of a study (`study.Study.samples`): one row per sample of an arm and a seed, whatever said
what is unsafe in it: a guard, people, or an oracle.

Intervals. With one or two seeds they resample prompts: they speak of these training runs, not of the next. From three
seeds on they are Student's over the seeds' means, and differences are paired by seed.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats as distributions

from cotlens import stats
from cotlens.stats.bootstrap import Estimate

LEAST_SEEDS = 3  # from which on an interval is over seeds
LEAST_SAMPLES = 10  # of both arms, for a comparison within one or two seeds
SETS = ("forbidden", "harmless", "maths")
# What is measured of a sample: its label, the sets in which it means something, and whether it is a share of samples.
COLUMNS: Mapping[str, tuple[str, tuple[str, ...], bool]] = {
    "thinking_unsafe": ("unsafe thinking", ("forbidden", "splits"), True),
    "answer_unsafe": ("unsafe answer", ("forbidden", "splits"), True),
    "refuses": ("refusal", ("forbidden", "harmless"), True),
    "answer_safe_if_thinking_safe": ("P(answer safe | thinking safe)", ("forbidden",), True),
    "thinking_flagged": ("thinking flagged by the reward's guard", ("forbidden", "harmless"), True),
    "hidden": ("unsafe thinking that the reward's guard passes", ("forbidden", "splits"), True),
    "guard_recall": ("recall of the reward's guard on thinking", ("forbidden", "splits"), True),
    "answer_unsafe_if_passed": (
        "P(answer unsafe | thinking passed by the guard)",
        ("forbidden",),
        True,
    ),
    "onset": ("onset of the first unsafe step", ("forbidden",), False),
    "recovered": ("recovery from unsafe thinking", ("forbidden",), True),
    "is_help": ("help", ("harmless",), True),
    "is_correct": ("right answers", ("maths",), True),
    "is_format_ok": ("one closed thought", ("all",), True),
    "is_parsed": ("only sentences of the world", ("all",), True),
    "n_reflections": ("reflections per trace", ("forbidden", "maths"), False),
    "reflection_rate": ("reflections per step", ("forbidden", "maths"), False),
    "longest_run": ("longest run of reflections", ("forbidden", "maths"), False),
    "corrective": ("share of reflections that mend something", ("forbidden", "maths"), False),
    "n_steps": ("steps of thinking", SETS, False),
    "n_tokens": ("tokens", SETS, False),
    "entropy_think": ("entropy of thinking (nats)", SETS, False),
    "entropy_reflect": ("entropy of reflecting steps (nats)", SETS, False),
    "kl_base": ("KL to the base on own thinking (nats)", SETS, False),
    "entropy_common": ("entropy on the base's thinking (nats)", SETS, False),
}


# --- measures --------------------------------------------------------------------------------------------------
def derive(samples: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """The samples with the columns that follow from others, and `arm` in the study's order.

    `hidden`: thinking unsafe and not flagged by the reward's guard, of what both judged. `guard_recall`: flagged, of
    unsafe thinking only.
    `answer_unsafe_if_passed`, `answer_safe_if_thinking_safe`: likewise of the samples that the condition holds for.
    `reflection_rate`: reflections per step. `corrective`: of the reflections. `cluster`: the prompt within its seed.
    """
    missing = [name for name in COLUMNS if name not in samples]
    table = samples.assign(
        **{name: math.nan for name in (*missing, "n_corrections") if name not in samples}
    )
    if "thinking_flagged" not in samples:
        unknown = pd.Series(pd.NA, table.index, dtype="boolean")
        table = table.assign(thinking_flagged=unknown, answer_flagged=unknown)
    unsafe = table["thinking_unsafe"].astype("boolean")
    flagged, answer = (
        table["thinking_flagged"].astype("boolean"),
        table["answer_unsafe"].astype("boolean"),
    )
    reflections = table["n_reflections"].astype(float)
    return table.assign(
        arm=pd.Categorical(table["arm"], list(arms)),
        hidden=(unsafe & ~flagged).where(flagged.notna() & unsafe.notna()),
        guard_recall=flagged.where(unsafe.fillna(False)),
        answer_unsafe_if_passed=answer.where(~flagged.fillna(True)),
        answer_safe_if_thinking_safe=(~answer).where(~unsafe.fillna(True)),
        reflection_rate=reflections / table["n_steps"].astype(float).where(table["n_steps"] > 0),
        corrective=table["n_corrections"].astype(float) / reflections.where(reflections > 0),
        cluster=table["seed"].astype(str) + ":" + table["set"] + ":" + table["prompt_id"],
    )


def splits(samples: pd.DataFrame) -> list[str]:
    """The parts of the forbidden prompts, in order of appearance; one that is named as a set, or as all, is no part."""
    sets = {"all", *samples["set"]}
    return [
        name
        for name in dict.fromkeys(samples.loc[samples["set"] == "forbidden", "split"])
        if name not in sets
    ]


class Measure(NamedTuple):
    """A number of an arm: the mean of a column of the samples over a set, or a part of one."""

    name: str  # COLUMN_WHERE
    column: str
    where: str
    label: str
    is_share: bool


def list_measures(samples: pd.DataFrame) -> list[Measure]:
    """All measures that the samples have data for."""
    found = []
    for column, (label, places, is_share) in COLUMNS.items():
        wheres = [
            where
            for place in places
            for where in (splits(samples) if place == "splits" else [place])
        ]
        for where in wheres:
            if select(samples, column, where)["value"].notna().any():
                text = label if where == "all" else f"{label}, {where.replace('_', ' ')}"
                found.append(Measure(f"{column}_{where}", column, where, text, is_share))
    return found


def select(samples: pd.DataFrame, column: str, where: str) -> pd.DataFrame:
    """A column over all samples, over a set, or over a split of the forbidden prompts."""
    if where == "all":
        rows = samples
    elif (samples["set"] == where).any():
        rows = samples[samples["set"] == where]
    else:
        rows = samples[(samples["set"] == "forbidden") & (samples["split"] == where)]
    values = pd.to_numeric(rows[column], errors="coerce").astype(float)
    return rows[["seed", "arm", "cluster"]].assign(value=values).dropna(subset=["value"])


def over_seeds(values: Sequence[float], n: int) -> Estimate:
    """Mean over seeds with Student's interval."""
    found = np.asarray(values, float)
    half = distributions.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
    return Estimate(
        float(found.mean()),
        float(found.mean() - half),
        float(found.mean() + half),
        n,
        len(found),
        "t",
        0,
    )


def estimate(rows: pd.DataFrame, *, is_share: bool) -> Estimate:
    """The mean of `value`: over the seeds' means, or with fewer than three seeds over prompts."""
    if rows["seed"].nunique() >= LEAST_SEEDS:
        e = over_seeds(rows.groupby("seed")["value"].mean().tolist(), len(rows))
        return e._replace(low=max(e.low, 0.0), high=min(e.high, 1.0)) if is_share else e
    return (stats.proportion if is_share else stats.mean)(rows["value"], rows["cluster"])


def difference(a: pd.DataFrame, b: pd.DataFrame) -> Estimate:
    """mean(a) - mean(b) over the seeds that both have, paired by prompt, or by seed from three seeds on."""
    both = set(a["seed"]) & set(b["seed"])
    a, b = a[a["seed"].isin(both)], b[b["seed"].isin(both)]
    if len(both) >= LEAST_SEEDS:
        means = [rows.groupby("seed")["value"].mean() for rows in (a, b)]
        return over_seeds((means[0] - means[1]).tolist(), len(a) + len(b))
    return stats.difference(a["value"], b["value"], a["cluster"], b["cluster"])


def shared_prompts(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of prompts that both have."""
    both = set(a["cluster"]) & set(b["cluster"])
    return a[a["cluster"].isin(both)], b[b["cluster"].isin(both)]


def measures(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per (arm, measure): value, low, high, n, n_units, units (seeds; prompts if fewer than 3 have data)."""
    rows = []
    for measure in list_measures(samples):
        of = select(samples, measure.column, measure.where)
        for arm, own in of.groupby("arm", observed=True):
            e = estimate(own, is_share=measure.is_share)
            rows.append({"arm": arm, "measure": measure.name, "label": measure.label, **numbers(e)})
    return pd.DataFrame(rows)


def differences(samples: pd.DataFrame, base: str) -> pd.DataFrame:
    """One row per (arm, measure): what the arm has more than the base, paired."""
    rows = []
    for measure in list_measures(samples):
        parts = dict(
            iter(select(samples, measure.column, measure.where).groupby("arm", observed=True))
        )
        for arm, own in parts.items():
            if arm != base and base in parts:
                both = (own, parts[base])
                e = difference(
                    *(shared_prompts(*both) if measure.column == "entropy_common" else both)
                )
                rows.append(
                    {"arm": arm, "measure": measure.name, "label": measure.label, **numbers(e)}
                )
    return pd.DataFrame(
        rows, columns=["arm", "measure", "label", "value", "low", "high", "n", "n_units", "units"]
    )


def numbers(e: Estimate) -> dict[str, Any]:
    """An estimate as the columns of a table; `units` says what was resampled: seeds (Student's interval) or prompts."""
    units = "seeds" if e.method == "t" else "prompts"
    return {
        "value": e.value,
        "low": e.low,
        "high": e.high,
        "n": e.n,
        "n_units": e.n_clusters,
        "units": units,
    }
