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

    @property
    def arms(self) -> list[str]:
        """Both arms."""
        return [self.arm, self.against]

    @property
    def columns(self) -> list[str]:
        """The measure and the axis."""
        return [self.measure, self.axis]


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
    arms = list(dict.fromkeys(points["arm"]))
    others = [arm for arm in against if arm in arms]

    gaps = []
    for names in product(arms, others, better, axes):
        pair = Pair(*names)
        is_known = set(pair.columns) <= set(points)
        is_of_two = pair.arm != pair.against
        if is_known and is_of_two and pair.measure != pair.axis:
            gaps += _compare(pair, rows, points, better[pair.measure])
    return pd.DataFrame(gaps, columns=list(COLUMNS))


def _compare(
    pair: Pair, rows: pd.DataFrame, points: pd.DataFrame, better: int
) -> list[dict[str, Any]]:
    """A row for each level at which two arms are compared, or one that says they cannot be."""
    names = pair._asdict()
    not_comparable = names | {"remark": NOT_COMPARABLE}
    start, stop = common_range(points, pair)
    if not start < stop:
        return [not_comparable]

    width = stop - start
    levels = [start + share * width for share in LEVELS]
    reached = Reached.from_points(points, pair, levels, better)
    gaps = []
    for place, at in enumerate(levels):
        values = reached.at(place)
        if values.empty:
            continue
        estimate = _estimate(values, rows, pair, at, better)
        means = values.mean()
        gap = {
            "at": at,
            "arm_value": means[pair.arm],
            "against_value": means[pair.against],
            **to_row(estimate),
            "remark": "",
        }
        gaps.append(names | gap)
    return gaps or [not_comparable]


# --- paths -------------------------------------------------------------------------------------


def with_starts(frontier: pd.DataFrame, base: str = "base") -> pd.DataFrame:
    """The rows, with those of the base as checkpoint 0 of each path that has none.

    Rows of the base itself are left out: it has no path.
    """
    table = frontier.assign(arm=frontier["arm"].astype(str))
    is_base = table["arm"] == base
    paths = table[~is_base]
    starts = table[is_base]
    starts = starts.drop(columns=["arm", "rate", "checkpoint"])

    # One beginning for each path, and the base's rows of its seed for each beginning.
    of_path = paths.groupby(["arm", "seed", "rate"], sort=False)
    first = of_path["checkpoint"].min()
    beginnings = first[first > 0].reset_index()
    beginnings["checkpoint"] = 0
    begun = beginnings.merge(starts, on="seed")
    return pd.concat([paths, begun], ignore_index=True)


def points_of(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per arm, seed, rate and checkpoint: the means of all columns of numbers."""
    keys = list(KEYS)
    others = [name for name in rows if name not in (*keys, "prompt_id")]
    table = rows[keys].copy()
    for name in others:
        numbers = _numbers(rows[name])
        if numbers.notna().any():
            table[name] = numbers

    of_point = table.groupby(keys, dropna=False, sort=False)
    return of_point.mean().reset_index()


def _numbers(column: pd.Series) -> pd.Series:
    """A column as floats; what is no number is missing."""
    numbers = pd.to_numeric(column, errors="coerce")
    return numbers.astype(float)


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
    known = points.dropna(subset=[measure, axis])
    known = known.reset_index(drop=True)
    lines = _lines_of(known)
    along = known[axis].to_numpy(float)
    height = known[measure].to_numpy(float)

    best = []
    for level in np.ravel(at):
        best.append(_best_on_lines(along, height, lines, level, better))
    return np.array(best)


def _lines_of(points: pd.DataFrame) -> NDArray[np.intp]:
    """The rows of both ends of each line; a path of one point is a line from it to itself."""
    ends = []
    for _, path in points.groupby("rate", dropna=False, sort=False):
        in_order = path.sort_values("checkpoint")
        places = in_order.index.to_list()
        if len(places) == 1:
            places *= 2
        ends += list(pairwise(places))
    lines = np.array(ends, np.intp)
    return lines.reshape(-1, 2)


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
    first, last = lines.T
    begin = along[..., first]
    end = along[..., last]
    upwards = better * height
    low = upwards[..., first]
    high = upwards[..., last]

    # A line at one value of the axis counts with its better end.
    width = end - begin
    is_flat = width == 0
    share = (at - begin) / np.where(is_flat, 1, width)
    on_line = low + share * (high - low)
    on_line = np.where(is_flat, np.maximum(low, high), on_line)

    left = np.minimum(begin, end)
    right = np.maximum(begin, end)
    is_inside = (left <= at) & (at <= right)
    reached = np.where(is_inside, on_line, -math.inf)
    best = np.max(
        reached,
        axis=-1,
        initial=-math.inf,
    )
    is_reached = np.isfinite(best)
    return better * np.where(is_reached, best, math.nan)


def common_range(points: pd.DataFrame, pair: Pair) -> tuple[float, float]:
    """The part of an axis that both arms cover in every seed that both have; NaN if there is none.

    It is empty where the start is not below the stop.
    """
    known = points.dropna(subset=pair.columns)
    along = known.groupby(["seed", "arm"])[pair.axis]
    limits = []
    for ends in (along.min(), along.max()):
        by_arm = ends.unstack()
        of_both = by_arm.reindex(columns=pair.arms).dropna()
        limits.append(of_both.to_numpy())

    lowest, highest = limits
    if not len(lowest):
        return math.nan, math.nan
    start = float(lowest.max())
    stop = float(highest.min())
    return start, stop


class Reached(NamedTuple):
    """What two arms reach at some levels of an axis.

    Attributes:
        seeds: the seeds that both arms have.
        arms: the two names.
        values: the best value by seed, arm and level; NaN where no path comes to it.
    """

    seeds: list[int]
    arms: list[str]
    values: Floats

    @classmethod
    def from_points(
        cls, points: pd.DataFrame, pair: Pair, levels: ArrayLike, better: int
    ) -> "Reached":
        """Read both arms' envelopes, seed by seed."""
        groups = dict(tuple(points.groupby(["arm", "seed"])))
        seeds = []
        values = []
        for arm, seed in groups:
            if arm != pair.arm or (pair.against, seed) not in groups:
                continue
            seeds.append(seed)
            for name in pair.arms:
                arm_points = groups[name, seed]
                best = envelope(
                    arm_points,
                    pair.measure,
                    pair.axis,
                    levels,
                    better,
                )
                values.append(best)

        n_levels = np.size(levels)
        shaped = np.reshape(values, (len(seeds), 2, n_levels))
        return cls(seeds, pair.arms, shaped)

    def at(self, place: int) -> pd.DataFrame:
        """A column an arm, a row for each seed in which both come to the level."""
        values = self.values[:, :, place]
        table = pd.DataFrame(values, index=self.seeds, columns=self.arms)
        return table.dropna()


# --- intervals ---------------------------------------------------------------------------------


def _estimate(
    values: pd.DataFrame, rows: pd.DataFrame, pair: Pair, at: float, better: int
) -> Estimate:
    """The mean difference over seeds with Student's interval, or one over prompts."""
    gaps = values[pair.arm] - values[pair.against]
    n_seeds = len(gaps)
    if n_seeds >= LEAST_SEEDS:
        return over_seeds(gaps.tolist(), n_seeds)

    estimate = Estimate(
        value=float(gaps.mean()),
        low=math.nan,
        high=math.nan,
        n=n_seeds,
        n_clusters=0,
        method="prompts resampled",
    )
    if "prompt_id" not in rows:
        return estimate

    # The mean over seeds of each draw.
    drawn = []
    n_prompts = 0
    for seed in gaps.index:
        seed_rows = rows[rows["seed"] == seed]
        n_prompts += seed_rows["prompt_id"].nunique()
        drawn.append(_resample_gap(seed_rows, pair, at, better))
    estimate = estimate._replace(n_clusters=n_prompts)
    means = np.mean(drawn, axis=0)
    reached = means[~np.isnan(means)]
    if len(reached) < RESAMPLES / 2:  # in most draws one arm does not come to this level
        return estimate

    low, high = np.quantile(reached, [0.025, 0.975])
    return estimate._replace(
        low=float(low),
        high=float(high),
    )


def _resample_gap(rows: pd.DataFrame, pair: Pair, at: float, better: int) -> Floats:
    """The difference of two arms of one seed, for draws of its prompts: the same for both arms."""
    prompts = rows["prompt_id"].unique()
    n_prompts = len(prompts)
    rng = np.random.default_rng(0)
    evenly = np.full(n_prompts, 1 / n_prompts)
    weights = rng.multinomial(n_prompts, evenly, size=RESAMPLES)

    best = []
    for arm in pair.arms:
        arm_rows = rows[rows["arm"] == arm]
        points = points_of(arm_rows)
        points = points.dropna(subset=pair.columns)
        points = points.reset_index(drop=True)
        lines = _lines_of(points)

        drawn = {}
        for name in pair.columns:
            drawn[name] = _draw_means(arm_rows, points, prompts, weights, name)
        along = drawn[pair.axis]
        height = drawn[pair.measure]
        best.append(_best_on_lines(along, height, lines, at, better))
    return best[0] - best[1]


def _draw_means(
    rows: pd.DataFrame,
    points: pd.DataFrame,
    prompts: Any,
    weights: NDArray[np.int64],
    name: str,
) -> Floats:
    """The mean of a column at each point (columns) for each draw of prompts (rows)."""
    place = ["rate", "checkpoint"]
    table = rows[[*place, "prompt_id"]].copy()
    table["value"] = _numbers(rows[name])
    by_prompt = table.groupby([*place, "prompt_id"])["value"]

    # Sums and counts: a row a point, a column a prompt.
    wanted = pd.MultiIndex.from_frame(points[place])
    sums = by_prompt.sum().unstack()
    sums = sums.reindex(index=wanted, columns=prompts)
    counts = by_prompt.count().unstack()
    counts = counts.reindex(index=wanted, columns=prompts)

    # A prompt that was drawn twice counts twice.
    sums_by_point = sums.fillna(0).to_numpy()
    counts_by_point = counts.fillna(0).to_numpy()
    total = weights @ sums_by_point.T
    n_drawn = weights @ counts_by_point.T
    unknown = np.full_like(total, math.nan)
    return np.divide(
        total,
        n_drawn,
        out=unknown,
        where=n_drawn > 0,
    )
