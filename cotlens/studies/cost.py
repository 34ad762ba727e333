"""What each arm took: tokens, samples, calls of the guard, processor seconds."""

import math
from collections.abc import Mapping

import pandas as pd

from cotlens.measures.groups import need

# Column of cost.csv: what it counts, from the start of an arm to its end.
COSTS: Mapping[str, str] = {
    "rate": "learning rate",
    "updates": "updates",
    "sequences": "sequences trained on",
    "sampled": "samples drawn",
    "sampled_tokens": "tokens sampled",
    "trained_tokens": "tokens trained on",
    "guard_calls": "texts that a guard judged for data or rewards",
    "cpu_seconds": "processor seconds of training",
}


def cost_by_arm(cost: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, in order of appearance: the means of the costs over seeds, and `n_seeds`.

    Args:
        cost: one row per arm and seed (cost.csv of a study), with any columns of `COSTS`.

    Returns:
        arm, n_seeds, all columns of `COSTS`, and `total_tokens`, sampled and trained: by this SFT
        and RL are of one size. NaN is what is not known; of one kind of tokens only, the total is
        that kind.
    """
    need(cost, "arm", "seed")
    table = cost.copy()
    if "cpu_seconds" not in table:
        last = table.get("cpu_seconds_of_last_start", math.nan)
        table["cpu_seconds"] = last
    for name in COSTS:
        if name not in table:
            table[name] = math.nan
        table[name] = pd.to_numeric(table[name], errors="coerce")

    tokens = table[["sampled_tokens", "trained_tokens"]]
    table["total_tokens"] = tokens.sum(axis=1, min_count=1)
    by_arm = table.groupby("arm", sort=False, observed=True)
    means = by_arm[[*COSTS, "total_tokens"]].mean()
    means.insert(0, "n_seeds", by_arm["seed"].nunique())
    return means.reset_index()
