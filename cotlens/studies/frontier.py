"""Arms compared at equal safety: what each reaches over its learning rates and checkpoints.

An arm at one rate is a path: its points in the order of checkpoints, joined by straight lines. A
weaker arm keeps more of everything, so arms are compared where their paths have the same unsafe
rate (or the same KL to the base), and only there.

A path may turn back, and paths of several rates may pass one unsafe rate. Then the best value
counts (the upper envelope of a share that should be high, the lower one of a share that should be
low): it is what somebody gets who may pick the rate and stop when they like. Lines join neighbours
in training and are not sorted along the axis, since between two checkpoints training passes through
what lies between, and between two rates nothing does. The best of many noisy points is too good:
give all arms the same rates and checkpoints.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cotlens.measures.groups import need
from cotlens.stats import Estimate
from cotlens.studies.arms import LEAST_SEEDS, over_seeds, to_row

Floats = NDArray[np.float64]

KEYS = ("arm", "seed", "rate", "checkpoint")
AXES = ("unsafe", "kl")
BETTER: Mapping[str, int] = {  # 1: high values are better, -1: low ones
    "unsafe": -1,
    "skill": 1,
    "over_refusal": -1,
    "recovery": 1,
}
LEVELS = (0.25, 0.5, 0.75)  # of the common range
RESAMPLES = 500
NOT_COMPARABLE = "not comparable"


class Pair(NamedTuple):
    """What is compared: two arms in one measure, at equal values of an axis."""

    arm: str
    against: str
    measure: str
    axis: str


COLUMNS = (
    *Pair._fields,
    "at",
    "arm_value",
    "against_value",
    *("value", "low", "high", "n_units", "units"),
    "remark",
)


def equal_level_gaps(
    frontier: pd.DataFrame,
    against: Sequence[str],
    *,
    base: str = "base",
    axes: Sequence[str] = AXES,
    better: Mapping[str, int] = BETTER,
) -> pd.DataFrame:
    """Each arm less each of `against`, measure by measure, at equal unsafe rate and equal KL.

    The levels lie at a quarter, half and three quarters of the range that both arms cover in every
    seed. Two arms without such a range are not comparable; so are two that share nothing but the
    base they began from.

    Args:
        frontier: one row per arm, rate, checkpoint and seed, with columns of `better` and `axes`.
            With a column `prompt_id`, one row per prompt as well; a measure is missing where a
            prompt does not tell. Rows of `base` (whatever their rate) begin every path that has no
            checkpoint 0.
        against: the arms that the others are compared with.
        base: the arm that all begin from; it has no path.
        axes: columns that are held equal.
        better: measure -> 1 if high values are better, -1 if low ones.

    Returns:
        One row per comparison: arm, against, measure, axis, at (the level on the axis), arm_value,
        against_value, value (their difference), low, high, n_units, units, and remark, which is
        "not comparable" or empty. Intervals are Student's from three seeds on; else prompts are
        resampled, and without `prompt_id` there is none.
    """
    need(frontier, *KEYS)
    rows = with_starts(frontier, base)
    points = points_of(rows)
    arms = [arm for arm in dict.fromkeys(points["arm"]) if arm != base]
    others = [arm for arm in against if arm in arms]
    listed = []
    for pair in map(Pair._make, product(arms, others, better, axes)):
        is_known = {pair.measure, pair.axis} <= set(points)
        if is_known and pair.arm != pair.against and pair.measure != pair.axis:
            listed += _compare(pair, rows, points, better[pair.measure])
    return pd.DataFrame(listed, columns=list(COLUMNS))


def _compare(
    pair: Pair, rows: pd.DataFrame, points: pd.DataFrame, better: int
) -> list[dict[str, Any]]:
    """A row for each level at which two arms are compared, or one that says they cannot be."""
    not_comparable = [{**pair._asdict(), "remark": NOT_COMPARABLE}]
    start, stop = common_range(points, pair)
    if not start < stop:
        return not_comparable

    listed = []
    for share in LEVELS:
        at = start + share * (stop - start)
        values = values_at(points, pair, at, better)
        if values.empty:
            continue
        estimate = _estimate(values, rows, pair, at, better)
        listed.append(
            {
                **pair._asdict(),
                "at": at,
                "arm_value": values[pair.arm].mean(),
                "against_value": values[pair.against].mean(),
                **to_row(estimate),
                "remark": "",
            }
        )
    return listed or not_comparable


# --- paths -------------------------------------------------------------------------------------


def with_starts(frontier: pd.DataFrame, base: str = "base") -> pd.DataFrame:
    """The rows, with those of the base as checkpoint 0 of each path that has none.

    Rows of the base itself are left out: it has no path.
    """
    table = frontier.assign(arm=frontier["arm"].astype(str))
    is_base = table["arm"] == base
    paths = table[~is_base]
    starts = table[is_base].drop(columns=["arm", "rate", "checkpoint"])

    first = paths.groupby(["arm", "seed", "rate"], sort=False)["checkpoint"].min()
    without_start = first[first > 0].reset_index().assign(checkpoint=0)
    begun = without_start.merge(starts, on="seed")
    return pd.concat([paths, begun], ignore_index=True)


def points_of(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, seed, rate and checkpoint: the means of all columns of numbers."""
    values = {}
    for name in rows:
        if name not in (*KEYS, "prompt_id"):
            numbers = pd.to_numeric(rows[name], errors="coerce").astype(float)
            if numbers.notna().any():
                values[name] = numbers
    table = rows[list(KEYS)].assign(**values)
    return table.groupby(list(KEYS), dropna=False, sort=False)[list(values)].mean().reset_index()


def envelope(
    points: pd.DataFrame, measure: str, axis: str, at: ArrayLike, better: int = 1
) -> Floats:
    """The best value of a measure that an arm reaches at these values of an axis.

    A point that lacks either is left out, and its neighbours are joined. On a line that stays at
    one value of the axis the better end counts.

    Args:
        points: of `points_of`, those of one arm and seed.
        measure: column that is read.
        axis: column that is held equal.
        at: values of the axis.
        better: 1 for the highest value, -1 for the lowest.

    Returns:
        One number for each of `at`; NaN where no path comes to it.
    """
    known = points.dropna(subset=[measure, axis]).reset_index(drop=True)
    lines = _lines_of(known)
    along = known[axis].to_numpy(float)
    height = known[measure].to_numpy(float)

    levels = np.atleast_1d(np.asarray(at, float))
    best = [_best_on_lines(along, height, lines, level, better) for level in levels]
    return np.array(best)


def _lines_of(points: pd.DataFrame) -> NDArray[np.intp]:
    """The rows of both ends of each line; a path of one point is a line from it to itself."""
    ends = []
    for _, path in points.groupby("rate", dropna=False, sort=False):
        places = path.sort_values("checkpoint").index.to_numpy()
        if len(places) == 1:
            places = places.repeat(2)
        ends += list(pairwise(places))
    return np.array(ends, np.intp).reshape(-1, 2)


def _best_on_lines(
    along: Floats, height: Floats, lines: NDArray[np.intp], at: float, better: int
) -> Any:
    """The best height of all lines at one value of the axis; NaN where none comes to it.

    Args:
        along: the axis at the points, in the last dimension; others are draws.
        height: the measure, alike.
        lines: of `_lines_of`.
        at: the value of the axis.
        better: 1 for the highest, -1 for the lowest.
    """
    first, last = along[..., lines[:, 0]], along[..., lines[:, 1]]
    height_first = better * height[..., lines[:, 0]]
    height_last = better * height[..., lines[:, 1]]

    width = last - first
    is_flat = width == 0
    share = (at - first) / np.where(is_flat, 1, width)
    on_line = height_first + share * (height_last - height_first)
    on_line = np.where(is_flat, np.maximum(height_first, height_last), on_line)

    is_inside = (np.minimum(first, last) <= at) & (at <= np.maximum(first, last))
    reached = np.where(is_inside, on_line, -math.inf)
    best = np.max(reached, axis=-1, initial=-math.inf)
    return better * np.where(np.isinf(best), math.nan, best)


def common_range(points: pd.DataFrame, pair: Pair) -> tuple[float, float]:
    """The part of an axis that both arms cover in every seed that both have; NaN if there is none.

    It is empty where the start is not below the stop.
    """
    known = points.dropna(subset=[pair.measure, pair.axis])
    along = known.groupby(["seed", "arm"])[pair.axis]
    lowest = along.min().unstack().reindex(columns=[pair.arm, pair.against]).dropna()
    highest = along.max().unstack().reindex(columns=[pair.arm, pair.against]).dropna()
    if lowest.empty:
        return math.nan, math.nan
    return float(lowest.to_numpy().max()), float(highest.to_numpy().min())


def values_at(points: pd.DataFrame, pair: Pair, at: float, better: int) -> pd.DataFrame:
    """Both arms at one value of the axis: a column an arm, a row for each seed that has both."""
    values: dict[str, dict[int, float]] = {}
    for arm in (pair.arm, pair.against):
        by_seed = points[points["arm"] == arm].groupby("seed")
        values[arm] = {}
        for seed, arm_points in by_seed:
            best = envelope(arm_points, pair.measure, pair.axis, at, better)
            values[arm][int(seed)] = float(best[0])
    return pd.DataFrame(values).dropna()


# --- intervals ---------------------------------------------------------------------------------


def _estimate(
    values: pd.DataFrame, rows: pd.DataFrame, pair: Pair, at: float, better: int
) -> Estimate:
    """The mean difference over seeds with Student's interval, or one over prompts."""
    gaps = values[pair.arm] - values[pair.against]
    value = float(gaps.mean())
    if len(gaps) >= LEAST_SEEDS:
        return over_seeds(gaps.tolist(), len(gaps))
    if "prompt_id" not in rows:
        return Estimate(value, math.nan, math.nan, len(gaps), 0, "one row a point")

    # The mean over seeds of each draw.
    drawn = []
    n_prompts = 0
    for seed in gaps.index:
        seed_rows = rows[rows["seed"] == seed]
        n_prompts += seed_rows["prompt_id"].nunique()
        drawn.append(_resample_gap(seed_rows, pair, at, better))
    means = np.mean(drawn, axis=0)
    reached = means[~np.isnan(means)]

    method = "prompts resampled"
    if len(reached) < RESAMPLES / 2:  # in most draws one arm does not come to this level
        return Estimate(value, math.nan, math.nan, len(gaps), n_prompts, method)
    low, high = np.quantile(reached, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(gaps), n_prompts, method)


def _resample_gap(rows: pd.DataFrame, pair: Pair, at: float, better: int) -> Floats:
    """The difference of two arms of one seed, for draws of its prompts: the same for both arms."""
    prompts = rows["prompt_id"].unique()
    rng = np.random.default_rng(0)
    evenly = np.full(len(prompts), 1 / len(prompts))
    weights = rng.multinomial(len(prompts), evenly, size=RESAMPLES).astype(float)

    best = {}
    for arm in (pair.arm, pair.against):
        arm_rows = rows[rows["arm"] == arm]
        points = points_of(arm_rows).dropna(subset=[pair.measure, pair.axis])
        points = points.reset_index(drop=True)
        along = _draw_means(arm_rows, points, prompts, weights, pair.axis)
        height = _draw_means(arm_rows, points, prompts, weights, pair.measure)
        best[arm] = _best_on_lines(along, height, _lines_of(points), at, better)
    return best[pair.arm] - best[pair.against]


def _draw_means(
    rows: pd.DataFrame, points: pd.DataFrame, prompts: Any, weights: Floats, name: str
) -> Floats:
    """The mean of a column at each point (columns) for each draw of prompts (rows)."""
    place = ["rate", "checkpoint"]
    numbers = pd.to_numeric(rows[name], errors="coerce").astype(float)
    table = rows[[*place, "prompt_id"]].assign(value=numbers)
    by_prompt = table.groupby([*place, "prompt_id"])["value"]
    wanted = pd.MultiIndex.from_frame(points[place])

    sums = by_prompt.sum().unstack().reindex(index=wanted, columns=prompts).fillna(0.0)
    counts = by_prompt.count().unstack().reindex(index=wanted, columns=prompts).fillna(0)
    total = weights @ sums.to_numpy(float).T
    n_drawn = weights @ counts.to_numpy(float).T
    return np.divide(total, n_drawn, out=np.full_like(total, math.nan), where=n_drawn > 0)
