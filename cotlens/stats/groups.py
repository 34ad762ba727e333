"""How far two groups of rows differ: the difference of their means, and Cliff's delta."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cotlens.stats.bootstrap import ClusteredRows, Estimate, bootstrap_difference


def difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters_a: ArrayLike | None = None,
    clusters_b: ArrayLike | None = None,
    **options: Any,
) -> Estimate:
    """mean(a) - mean(b), paired through the clusters that both groups share.

    A drawn prompt brings the rows of both groups with it, so what a prompt adds to both cancels.
    Groups that share no cluster, or have no clusters, are independent: the clusters of each group
    are drawn separately. `n` and `n_clusters` count both groups, a shared cluster once.

    Args:
        a: one number per row of the first group; NaN is left out.
        b: one number per row of the second group.
        clusters_a: one key per row of the first group.
        clusters_b: one key per row of the second group.
        **options: as in `mean`.

    Raises:
        ValueError: if only one group has clusters.
    """
    is_clustered_a = clusters_a is not None
    is_clustered_b = clusters_b is not None
    if is_clustered_a != is_clustered_b:
        raise ValueError(
            "got the clusters of one group: give the clusters of both groups, or of neither"
        )

    rows_a = ClusteredRows.from_arrays(a, clusters_a)
    rows_b = ClusteredRows.from_arrays(b, clusters_b)
    return bootstrap_difference(rows_a, rows_b, **options)


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """P(a > b) - P(a < b) for one row of each group drawn at random (Cliff 1993).

    Args:
        a: one number per row of the first group; NaN is left out.
        b: one number per row of the second group.

    Returns:
        A number from -1 to 1, 0 for no difference; NaN if a group is empty.
    """
    values_a = ClusteredRows.from_arrays(a, None).values
    values_b = ClusteredRows.from_arrays(b, None).values
    n_a = len(values_a)
    n_b = len(values_b)
    if not n_a or not n_b:
        return math.nan

    # For each row of a: how many rows of b lie below it, and how many above.
    ranked = np.sort(values_b)
    n_below = np.searchsorted(ranked, values_a, "left")
    n_not_above = np.searchsorted(ranked, values_a, "right")
    n_above = n_b - n_not_above

    balance = (n_below - n_above).sum()
    return float(balance / (n_a * n_b))
