"""How few samples does a training need? Nested subsets, and the size that reaches half the gain.

DGR (arXiv 2602.02136) reports that ten samples activate refusals. Train on nested subsets of one
set of rows, measure each arm, and read the curve.
"""

import math
import random
from collections.abc import Sequence
from typing import TypeVar

Row = TypeVar("Row")


def nested(rows: Sequence[Row], sizes: Sequence[int], seed: int = 0) -> dict[int, list[Row]]:
    """Subsets of these sizes, each of which holds all smaller ones; drawn at random.

    Args:
        rows: to draw from.
        sizes: of the subsets.
        seed: of the draw. The order of the rows of a subset is that of the draw.

    Raises:
        ValueError: if a size is below 1 or above the number of rows.
    """
    n_rows = len(rows)
    for size in sizes:
        if not 1 <= size <= n_rows:
            raise ValueError(f"nested: expected sizes from 1 to {n_rows} rows, got {size}")

    # All subsets are beginnings of one random order.
    rng = random.Random(f"nested {seed}")
    drawn = list(rows)
    rng.shuffle(drawn)
    subsets = {}
    for size in sizes:
        subsets[size] = drawn[:size]
    return subsets


def n50(sizes: Sequence[int], gains: Sequence[float]) -> float:
    """The number of samples that reaches half of the gain of the largest set.

    The gain is interpolated in log n, between the first size that reaches half and the one before.

    Args:
        sizes: numbers of samples, rising.
        gains: what each gains over the model before training; the last is the full gain.

    Returns:
        NaN if the full gain is not positive, a gain is NaN, or the smallest set reaches half
        already: then fewer samples must be tried.

    Raises:
        ValueError: if the two differ in length, or the sizes do not rise from 1 on.
    """
    n_sizes = len(sizes)
    n_gains = len(gains)
    if n_sizes != n_gains or n_sizes == 0:
        raise ValueError(f"n50: got {n_sizes} sizes and {n_gains} gains; give one gain each")
    rising = sorted(set(sizes))
    if list(sizes) != rising or rising[0] < 1:
        raise ValueError(f"n50: expected sizes that rise from 1 on, got {list(sizes)}")

    # Without a gain, or with half of it from the start, there is nothing to interpolate.
    full = gains[-1]
    half = full / 2
    for gain in gains:
        if math.isnan(gain):
            return math.nan

    if full <= 0 or gains[0] >= half:
        return math.nan

    # The first size that reaches half; the largest does.
    place = 1
    while gains[place] < half:
        place += 1

    before = place - 1
    rise = gains[place] - gains[before]
    share = (half - gains[before]) / rise

    lower = math.log(sizes[before])
    upper = math.log(sizes[place])
    logarithm = lower + share * (upper - lower)
    return math.exp(logarithm)
