"""How few samples does a training need? Nested subsets, and the size that reaches half the gain.

DGR (arXiv 2602.02136) reports that ten samples activate refusals. Train on nested subsets of one
set of rows, measure each arm, and read the curve.
"""

import math
import random
from collections.abc import Sequence
from typing import Any, TypeVar

Row = TypeVar("Row", bound=Any)


def nested(rows: Sequence[Row], sizes: Sequence[int], seed: int = 0) -> dict[int, list[Row]]:
    """Subsets of these sizes, each of which holds all smaller ones; drawn at random.

    Args:
        rows: to draw from.
        sizes: of the subsets.
        seed: of the draw. The order of the rows of a subset is that of the draw.

    Raises:
        ValueError: if a size is below 1 or above the number of rows.
    """
    for size in sizes:
        if not 1 <= size <= len(rows):
            raise ValueError(f"nested: expected sizes from 1 to {len(rows)} rows, got {size}")
    drawn = random.Random(f"nested {seed}").sample(list(rows), len(rows))
    return {size: drawn[:size] for size in sizes}


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
    if len(sizes) != len(gains) or not sizes:
        raise ValueError(f"n50: got {len(sizes)} sizes and {len(gains)} gains; give one gain each")
    if sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
        raise ValueError(f"n50: expected sizes that rise from 1 on, got {list(sizes)}")

    full = gains[-1]
    half = full / 2
    if any(math.isnan(gain) for gain in gains) or full <= 0 or gains[0] >= half:
        return math.nan

    # The largest set reaches half, so some place is found.
    place = next(number for number, gain in enumerate(gains) if gain >= half)
    share = (half - gains[place - 1]) / (gains[place] - gains[place - 1])
    lower = math.log(sizes[place - 1])
    upper = math.log(sizes[place])
    return math.exp(lower + share * (upper - lower))
