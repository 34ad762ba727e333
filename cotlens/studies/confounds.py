"""Differences to the base with one thing held equal: length, outcome, text, split."""

import math
from typing import Any

import numpy as np
import pandas as pd

from cotlens import stats
from cotlens.stats.bootstrap import Estimate
from cotlens.studies.arms import (
    LEAST_SAMPLES,
    LEAST_SEEDS,
    difference,
    numbers,
    over_seeds,
    select,
    shared_prompts,
)

# --- confounds -------------------------------------------------------------------------------------------------

# What is compared, in which set, and the outcome within which it is compared too.
CONFOUNDED = (
    ("entropy_think", "forbidden", "thinking_unsafe"),
    ("entropy_think", "maths", "is_correct"),
    ("reflection_rate", "forbidden", "thinking_unsafe"),
    ("reflection_rate", "maths", "is_correct"),
)


def confounds(samples: pd.DataFrame, base: str) -> pd.DataFrame:
    """Differences to the base: on own samples, at equal length, within each outcome, on one text, on equal splits.

    Training changes how long an arm writes and how often it is safe or right; a difference that is there raw and gone
    within an outcome or at equal length is one of those. See `stats.matched_difference` for the matching. It also changes *where*
    unsafe thinking is left, and a guard may have found little there all along: for its recall see `recall_at_splits`.

    Returns:
        One row per (arm, column, set, comparison): value, low, high, n_units, units. Comparisons: own samples,
        length-matched, OUTCOME yes, OUTCOME no, for entropy common text, and for the guard's recall equal splits.
    """
    rows = []
    several = samples["seed"].nunique() >= LEAST_SEEDS
    for column, where, outcome in CONFOUNDED:
        part = samples[(samples["set"] == where) & samples[column].notna()]
        named = part.assign(arm=part["arm"].astype(str), outcome=_named_outcome(part[outcome]))
        for arm in [arm for arm in part["arm"].cat.categories if arm != base]:
            by_seed = [own for _, own in named.groupby("seed") if {arm, base} <= set(own["arm"])]
            tables = [
                stats.matched_difference(
                    own, column, arm, base, by="arm", length="length", outcome="outcome", cluster="cluster",
                    resamples=2 if several else stats.RESAMPLES,
                )
                for own in (by_seed if several else [pd.concat(by_seed)] if by_seed else [])
            ]  # fmt: skip
            if not tables:
                continue  # one of the two has no such column, or they share no seed
            found = pd.concat(tables, ignore_index=True)
            for comparison, one in found[found["comparison"] != "corrected"].groupby(
                "comparison", sort=False
            ):
                e = _joined(one, several)
                name = _COMPARISONS.get(str(comparison)) or str(comparison).replace(
                    "outcome =", outcome
                )
                rows.append({"arm": arm, "column": column, "set": where, "comparison": name, **e})
    for where in ("forbidden", "maths"):
        parts = dict(iter(select(samples, "entropy_common", where).groupby("arm", observed=True)))
        for arm in [arm for arm in parts if arm != base and base in parts]:
            e = numbers(difference(*shared_prompts(parts[arm], parts[base])))
            rows.append(
                {
                    "arm": arm,
                    "column": "entropy_think",
                    "set": where,
                    "comparison": "common text",
                    **e,
                }
            )
    parts = dict(iter(select(samples, "guard_recall", "forbidden").groupby("arm", observed=True)))
    for arm in [arm for arm in parts if arm != base and base in parts]:
        raw = difference(parts[arm], parts[base])
        for comparison, e in (
            ("own samples", raw),
            ("equal splits", recall_at_splits(samples, str(arm), base)),
        ):
            told = {
                "arm": arm,
                "column": "guard_recall",
                "set": "forbidden",
                "comparison": comparison,
            }
            rows.append(told | numbers(e))
    return pd.DataFrame(
        rows,
        columns=["arm", "column", "set", "comparison", "value", "low", "high", "n_units", "units"],
    )


_COMPARISONS = {"raw": "own samples", "length-matched": "length-matched"}


def recall_at_splits(samples: pd.DataFrame, arm: str, base: str) -> Estimate:
    """Change of the guard's recall on unsafe thinking from the base to an arm, with the splits held equal.

    Of the arm's u_s unsafe thoughts in split s the guard flags f_s; b_s is its recall on the base's in s. The change is
    sum_s (f_s - u_s b_s) / sum_s u_s: the arm's recall less what it would be, were the guard in every split as good as
    on the base (indirect standardisation). Two arms' changes are weighted by two mixes and not comparable with each
    other. Splits in which the base has no unsafe thought are left out, with what the arm has there; n counts the rest.

    Returns:
        The mean over seeds with Student's interval from three seeds on; else prompts are resampled within splits (plain
        percentiles). NaN where no split has unsafe thinking of both.
    """
    of = select(samples, "guard_recall", "forbidden").join(samples["split"])
    of = of.assign(arm=of["arm"].astype(str))
    of = of.assign(u_arm=of["arm"] == arm, u_base=of["arm"] == base)
    of = of.assign(f_arm=of["value"] * of["u_arm"], f_base=of["value"] * of["u_base"])
    sums = (
        of.groupby(["seed", "split", "cluster"])[["f_arm", "f_base", "u_arm", "u_base"]]
        .sum()
        .reset_index()
    )
    of_split = sums.groupby(["seed", "split"])["u_base"].transform("sum")
    sums = sums[of_split > 0]
    by_seed = [part for _, part in sums.groupby("seed") if part["u_arm"].sum()]
    if not by_seed:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, "prompts resampled", 0)
    rows = pd.concat(by_seed, ignore_index=True)
    n = int(rows["u_arm"].sum())
    if len(by_seed) >= LEAST_SEEDS:
        return over_seeds([_recall_change(part)[0] for part in by_seed], n)
    rng, weights = np.random.default_rng(0), np.zeros((2000, len(rows)))
    for places in rows.groupby(["seed", "split"]).indices.values():
        weights[:, places] = rng.multinomial(
            len(places), np.full(len(places), 1 / len(places)), size=len(weights)
        )
    low, high = np.nanquantile(_recall_change(rows, weights), [0.025, 0.975])
    return Estimate(
        _recall_change(rows)[0], float(low), float(high), n, len(rows), "prompts resampled", 0
    )


def _recall_change(rows: pd.DataFrame, weights: np.ndarray | None = None) -> np.ndarray:
    """The change on equal splits for each row of weights over the prompts; by default for all prompts once."""
    weights = np.ones((1, len(rows))) if weights is None else weights
    strata = pd.get_dummies(rows["seed"].astype(str) + ":" + rows["split"]).to_numpy(float)
    f_arm, u_arm, f_base, u_base = (
        (weights * rows[name].to_numpy(float)) @ strata
        for name in ("f_arm", "u_arm", "f_base", "u_base")
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        known = u_base > 0  # a draw may leave a split without any
        change = np.where(known, f_arm - u_arm * f_base / u_base, 0).sum(axis=1)
        return change / np.where(known, u_arm, 0).sum(axis=1)


def _named_outcome(flags: pd.Series) -> pd.Series:
    return (
        flags.astype("boolean").map({True: "yes", False: "no"}).astype("object").fillna("unknown")
    )


def _joined(found: pd.DataFrame, several: bool) -> dict[str, Any]:
    """The comparison over seeds, or where they are fewer than three the one of all their samples."""
    if several:
        values = found["value"].dropna()
        if len(values) < LEAST_SEEDS:
            return {
                "value": math.nan,
                "low": math.nan,
                "high": math.nan,
                "n_units": len(values),
                "units": "seeds",
            }
        return numbers(over_seeds(values.tolist(), 0))
    first = found.iloc[0]
    if min(first["n_a"], first["n_b"]) < LEAST_SAMPLES:
        return {
            "value": math.nan,
            "low": math.nan,
            "high": math.nan,
            "n_units": first["n_shared"],
            "units": "prompts",
        }
    return {name: first[name] for name in ("value", "low", "high")} | {
        "n_units": first["n_shared"],
        "units": "prompts",
    }
