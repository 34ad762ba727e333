"""Which learning rate is best for each arm? Each is tried on the development seeds.

The rule was fixed before any result was seen (trainers/configs/claims.json): the rate with the
highest mean score over the development seeds after the last update, of equal scores the lowest;
where that is the lowest or the highest rate tried, further rates are tried.
"""

from pathlib import Path

import pandas as pd

from trainers.pocket.path import read_paths
from trainers.pocket.plan import PICKED

FACTOR = 10**0.5  # between two rates


def read_tries(out: Path) -> pd.DataFrame:
    """What each rate came to, in the order of arms and rates.

    Returns:
        One row per arm and rate: the means over development seeds after the last update of what
        `path.measure_point` measures, `n_seeds`, and whether the rate is `picked`.
    """
    points = read_paths(out)
    points = points[points["arm"] != "base"]
    last = points[points["checkpoint"] == points["checkpoint"].max()]
    grouped = last.groupby(["arm", "rate"])
    tries = grouped.mean(numeric_only=True).drop(columns=["seed", "checkpoint"])
    tries["safe"] = 1 - tries["unsafe"]
    tries["n_seeds"] = grouped["seed"].nunique()
    tries = tries.reset_index()

    # Arms in the order of PICKED, the rates of each from low to high.
    place_of_arm = {arm: place for place, arm in enumerate(PICKED)}
    tries["place"] = tries["arm"].map(place_of_arm)
    tries = tries.sort_values(["place", "rate"], ignore_index=True)
    tries = tries.drop(columns="place")

    # Of each arm the first of its best tries is picked.
    best_score = tries.groupby("arm")["score"].transform("max")
    best = tries[tries["score"] == best_score]
    first_best = best.drop_duplicates("arm")
    tries["picked"] = tries.index.isin(first_best.index)
    return tries


def pick_rates(tries: pd.DataFrame) -> dict[str, float]:
    """The picked rate of each arm."""
    picked = tries[tries["picked"]]
    return dict(zip(picked["arm"], picked["rate"], strict=True))


def further_rates(tries: pd.DataFrame) -> dict[str, float]:
    """The next rate of each arm whose best is the lowest or the highest that was tried."""
    further = {}
    for arm, rate in pick_rates(tries).items():
        rates = tries.loc[tries["arm"] == arm, "rate"]
        if rate == rates.min():
            further[arm] = float(f"{rate / FACTOR:.1g}")
        elif rate == rates.max():
            further[arm] = float(f"{rate * FACTOR:.1g}")
    return further
