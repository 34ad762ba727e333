"""Differences to the base with one thing held equal: length, outcome, text, or the mix of splits.

Training changes how long an arm writes, and how often it is safe or right. A raw difference that is
gone at equal length or within an outcome was one of those. Training also changes *where* unsafe
thinking is left, and a guard may have found little of it there all along.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.stats import RESAMPLES, Estimate
from cotlens.studies.arms import (
    LEAST_SAMPLES,
    LEAST_SEEDS,
    difference,
    over_seeds,
    select,
    shared_prompts,
    to_row,
)

# A column, the domain in which it is compared, and the outcome within which it is compared too.
CONFOUNDED = (
    ("entropy_think", "forbidden", "thinking_unsafe"),
    ("entropy_think", "maths", "is_correct"),
    ("reflection_rate", "forbidden", "thinking_unsafe"),
    ("reflection_rate", "maths", "is_correct"),
)


def confounds(samples: pd.DataFrame, base: str) -> pd.DataFrame:
    """Differences to the base: raw, at equal length, within outcomes, on one text, on equal splits.

    Args:
        samples: of `Study.samples`.
        base: the arm that the others are compared with.

    Returns:
        One row per (arm, column, set, comparison): value, low, high, n_units, units. Comparisons:
        own samples,
        length-matched and OUTCOME yes or no (`stats.matched_difference`), for entropy also common
        text, and for the guard's recall own samples and equal splits (`recall_at_splits`).
    """
    rows = [
        *_matched_rows(samples, base),
        *_common_text_rows(samples, base),
        *_guard_recall_rows(samples, base),
    ]
    columns = ["arm", "column", "set", "comparison", "value", "low", "high", "n_units", "units"]
    return pd.DataFrame(rows, columns=columns)


def _matched_rows(samples: pd.DataFrame, base: str) -> Iterator[dict[str, Any]]:
    """Raw differences, differences at equal length, and differences within each outcome."""
    has_several_seeds = samples["seed"].nunique() >= LEAST_SEEDS
    for column, domain, outcome in CONFOUNDED:
        in_domain = samples["set"] == domain
        domain_samples = samples[in_domain & samples[column].notna()]
        named = domain_samples.assign(
            arm=domain_samples["arm"].astype(str),
            outcome=_name_outcome(domain_samples[outcome]),
        )

        for arm in domain_samples["arm"].cat.categories:
            by_seed = _seeds_with_both(named, arm, base)
            if arm == base or not by_seed:
                continue

            table = _matched_table(by_seed, column, arm, base, has_several_seeds)
            for comparison, estimates in table.groupby("comparison", sort=False):
                row = {
                    "arm": arm,
                    "column": column,
                    "set": domain,
                    "comparison": _name_comparison(str(comparison), outcome),
                }
                yield row | _join_estimates(estimates, has_several_seeds)


def _seeds_with_both(samples: pd.DataFrame, arm: str, base: str) -> list[pd.DataFrame]:
    """The samples of each seed that has both arms."""
    by_seed = []
    for _, rows in samples.groupby("seed"):
        if {arm, base} <= set(rows["arm"]):
            by_seed.append(rows)
    return by_seed


def _matched_table(
    by_seed: list[pd.DataFrame], column: str, arm: str, base: str, has_several_seeds: bool
) -> pd.DataFrame:
    """`stats.matched_difference` of each seed, or of all samples if there are too few seeds."""
    # From three seeds on the interval comes from the seeds, and the bootstrap's is not needed.
    compared = by_seed
    resamples = 2
    if not has_several_seeds:
        compared = [pd.concat(by_seed)]
        resamples = RESAMPLES

    tables = []
    for rows in compared:
        table = stats.matched_difference(
            rows,
            column,
            arm,
            base,
            by="arm",
            length="length",
            outcome="outcome",
            cluster="cluster",
            resamples=resamples,
        )
        tables.append(table)

    table = pd.concat(tables, ignore_index=True)
    return table[table["comparison"] != "corrected"]


def _name_comparison(name: str, outcome: str) -> str:
    if name == "raw":
        return "own samples"
    return name.replace("outcome =", outcome)


def _name_outcome(flags: pd.Series) -> pd.Series:
    names = flags.astype("boolean").map({True: "yes", False: "no"})
    return names.astype("object").fillna("unknown")


def _join_estimates(estimates: pd.DataFrame, has_several_seeds: bool) -> dict[str, Any]:
    """One estimate over seeds, or the one over all samples; NaN with too little data."""
    unknown = {"value": math.nan, "low": math.nan, "high": math.nan}
    if has_several_seeds:
        by_seed = estimates["value"].dropna()
        if len(by_seed) < LEAST_SEEDS:
            return unknown | {"n_units": len(by_seed), "units": "seeds"}
        return to_row(over_seeds(by_seed.tolist(), 0))

    estimate = estimates.iloc[0]
    units = {"n_units": estimate["n_shared"], "units": "prompts"}
    n_least = min(estimate["n_a"], estimate["n_b"])
    if n_least < LEAST_SAMPLES:
        return unknown | units

    known = {name: estimate[name] for name in unknown}
    return known | units


def _common_text_rows(samples: pd.DataFrame, base: str) -> Iterator[dict[str, Any]]:
    """Entropy on one text for both arms, the base's thinking."""
    for domain in ("forbidden", "maths"):
        values = select(samples, "entropy_common", domain)
        for arm, arm_values, base_values in _pairs_with_base(values, base):
            shared = shared_prompts(arm_values, base_values)
            estimate = difference(*shared)
            row = {
                "arm": arm,
                "column": "entropy_think",
                "set": domain,
                "comparison": "common text",
            }
            yield row | to_row(estimate)


def _guard_recall_rows(samples: pd.DataFrame, base: str) -> Iterator[dict[str, Any]]:
    """Recall of the reward's guard, raw and on equal splits."""
    values = select(samples, "guard_recall", "forbidden")
    for arm, arm_values, base_values in _pairs_with_base(values, base):
        compared = {
            "own samples": difference(arm_values, base_values),
            "equal splits": recall_at_splits(samples, str(arm), base),
        }
        for comparison, estimate in compared.items():
            row = {
                "arm": arm,
                "column": "guard_recall",
                "set": "forbidden",
                "comparison": comparison,
            }
            yield row | to_row(estimate)


def _pairs_with_base(
    values: pd.DataFrame, base: str
) -> Iterator[tuple[Any, pd.DataFrame, pd.DataFrame]]:
    """Each arm with its values and the base's; nothing if the base has none."""
    by_arm = dict(iter(values.groupby("arm", observed=True)))
    for arm, arm_values in by_arm.items():
        if arm != base and base in by_arm:
            yield arm, arm_values, by_arm[base]


def recall_at_splits(samples: pd.DataFrame, arm: str, base: str) -> Estimate:
    """Change of the guard's recall on unsafe thinking from the base to an arm, on equal splits.

    The guard flags f_s of the arm's u_s unsafe thoughts in split s; b_s is its recall on the base's
    thoughts in s. The change is sum_s (f_s - u_s b_s) / sum_s u_s: the arm's recall less what it
    would be if the guard were as good in every split as on the base (indirect standardisation).
    Changes of two arms are weighted by two mixes of splits and cannot be compared with each other.
    Splits in which the base has no unsafe thought are left out.

    Returns:
        From three seeds on the mean over seeds with Student's interval; else a percentile interval
        over prompts, resampled within splits. n counts the arm's unsafe thoughts in the splits that
        are kept. NaN if no split has unsafe thinking of both.
    """
    counts = _count_flagged(samples, arm, base)
    base_in_split = counts.groupby(["seed", "split"])["u_base"].transform("sum")
    counts = counts[base_in_split > 0]

    by_seed = []
    for _, seed_rows in counts.groupby("seed"):
        if seed_rows["u_arm"].sum() > 0:
            by_seed.append(seed_rows)
    if not by_seed:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, "prompts resampled", 0)

    rows = pd.concat(by_seed, ignore_index=True)
    n = int(rows["u_arm"].sum())
    if len(by_seed) >= LEAST_SEEDS:
        changes = [_recall_change(seed_rows)[0] for seed_rows in by_seed]
        return over_seeds(changes, n)

    # Resample the prompts of each split: a row of weights says how often each prompt was drawn.
    rng = np.random.default_rng(0)
    weights = np.zeros((RESAMPLES, len(rows)))
    for places in rows.groupby(["seed", "split"]).indices.values():
        n_prompts = len(places)
        share = np.full(n_prompts, 1 / n_prompts)
        weights[:, places] = rng.multinomial(n_prompts, share, size=RESAMPLES)

    changes = _recall_change(rows, weights)
    low, high = np.nanquantile(changes, [0.025, 0.975])
    value = _recall_change(rows)[0]
    return Estimate(value, float(low), float(high), n, len(rows), "prompts resampled", 0)


def _count_flagged(samples: pd.DataFrame, arm: str, base: str) -> pd.DataFrame:
    """Unsafe thoughts (u) and flagged ones (f) of both arms, a row per seed, split and prompt."""
    values = select(samples, "guard_recall", "forbidden").join(samples["split"])
    for name, of_arm in (("arm", arm), ("base", base)):
        is_unsafe = values["arm"].astype(str) == of_arm
        values[f"u_{name}"] = is_unsafe
        values[f"f_{name}"] = values["value"] * is_unsafe

    by_prompt = values.groupby(["seed", "split", "cluster"])
    sums = by_prompt[["f_arm", "f_base", "u_arm", "u_base"]].sum()
    return sums.reset_index()


def _recall_change(rows: pd.DataFrame, weights: np.ndarray | None = None) -> np.ndarray:
    """The change on equal splits for each row of weights over the prompts, by default all ones."""
    if weights is None:
        weights = np.ones((1, len(rows)))

    # A stratum is a split of a seed.
    names = rows["seed"].astype(str) + ":" + rows["split"]
    strata = pd.get_dummies(names).to_numpy(float)

    def sum_by_stratum(name: str) -> np.ndarray:
        counts = rows[name].to_numpy(float)
        return (weights * counts) @ strata

    f_arm = sum_by_stratum("f_arm")
    u_arm = sum_by_stratum("u_arm")
    f_base = sum_by_stratum("f_base")
    u_base = sum_by_stratum("u_base")

    # A draw may leave a stratum without any of the base's.
    is_known = u_base > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        change = f_arm - u_arm * f_base / u_base
        known_change = np.where(is_known, change, 0)
        known_unsafe = np.where(is_known, u_arm, 0)
        return known_change.sum(axis=1) / known_unsafe.sum(axis=1)
