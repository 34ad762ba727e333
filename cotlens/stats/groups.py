"""Two groups: the difference of their means and its effect size."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cotlens.stats.bootstrap import Estimate, Rows, difference_estimate, join_groups, portions


# --- two groups ------------------------------------------------------------------------------------------------
def difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters_a: ArrayLike | None = None,
    clusters_b: ArrayLike | None = None,
    **options: Any,
) -> Estimate:
    """mean(a) - mean(b), paired through the clusters that both groups share.

    A drawn prompt brings the rows of both groups with it, so what prompts have in common cancels. Groups that share no
    cluster, or are given without clusters, are independent: each group's clusters are drawn apart. `n` and
    `n_clusters` count both groups, a shared cluster once. Options as in `mean`.
    """
    return difference_estimate(*join_groups(a, b, clusters_a, clusters_b), **options)


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    clusters_a: ArrayLike | None = None,
    clusters_b: ArrayLike | None = None,
    *,
    resamples: int = 9999,
    seed: int = 0,
) -> float:
    """Two-sided p-value of no difference between the groups, exchanging whole clusters.

    With shared clusters only those are used: the statistic is the mean over clusters of the difference of the groups'
    means, and signs are flipped. Otherwise clusters are dealt to the groups anew and the statistic is the difference of
    the means of cluster means. p = (1 + draws at least as far from 0) / (1 + resamples), never 0 (Phipson and Smyth
    2010). NaN where there is nothing to exchange: no cluster, or a single shared one.
    """
    rows_a, rows_b = join_groups(a, b, clusters_a, clusters_b)
    means_a, means_b = rows_a.means(), rows_b.means()
    rng = np.random.default_rng(seed)
    paired = clusters_a is not None and clusters_b is not None
    shared = means_a.index.intersection(means_b.index) if paired else ()
    # Sums of the same numbers in another order differ in the last digit: such draws are ties.
    tie = (
        1e-12 * max(np.abs(means_a).max(), np.abs(means_b).max())
        if len(means_a) and len(means_b)
        else 0.0
    )
    if len(shared) == 1:
        return math.nan
    if len(shared):
        deltas = means_a.reindex(shared).to_numpy() - means_b.reindex(shared).to_numpy()
        observed = abs(deltas.mean())
        drawn = np.concatenate(
            [
                np.abs(rng.choice([-1.0, 1.0], size=(k, len(deltas))) @ deltas)
                for k in portions(resamples, len(deltas))
            ]
        ) / len(deltas)
    elif len(means_a) and len(means_b):
        pooled = np.concatenate([means_a, means_b])
        n_a = len(means_a)
        observed = abs(pooled[:n_a].mean() - pooled[n_a:].mean())
        parts = []
        for k in portions(resamples, len(pooled)):
            shuffled = rng.permuted(np.broadcast_to(pooled, (k, len(pooled))), axis=1)
            parts.append(np.abs(shuffled[:, :n_a].mean(1) - shuffled[:, n_a:].mean(1)))
        drawn = np.concatenate(parts)
    else:
        return math.nan
    return float((1 + (drawn >= observed - tie).sum()) / (1 + resamples))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of a family of tests, in the order given; NaN stays NaN and does not count."""
    p = np.asarray(p_values, float)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    adjusted, running = np.full(len(p), np.nan), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = running
    return adjusted.tolist()


def hedges_g(a: ArrayLike, b: ArrayLike) -> float:
    """Difference of means in pooled standard deviations, with Hedges' correction J = 1 - 3 / (4 (n_a + n_b) - 9)."""
    x, y = Rows.of(a, None).values, Rows.of(b, None).values
    if len(x) < 2 or len(y) < 2:
        return math.nan
    pooled = math.sqrt(
        ((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / (len(x) + len(y) - 2)
    )
    some = pooled > 1e-12 * max(np.abs(x).max(), np.abs(y).max())  # else the spread is rounding
    return (
        float((x.mean() - y.mean()) / pooled * (1 - 3 / (4 * (len(x) + len(y)) - 9)))
        if some
        else math.nan
    )


def cliffs_delta(a: ArrayLike, b: ArrayLike) -> float:
    """P(a > b) - P(a < b) for one row of each group drawn at random: -1 to 1, 0 for no difference (Cliff 1993)."""
    x, y = Rows.of(a, None).values, Rows.of(b, None).values
    if not len(x) or not len(y):
        return math.nan
    ranked = np.sort(y)
    below, not_above = np.searchsorted(ranked, x, "left"), np.searchsorted(ranked, x, "right")
    return float((below + not_above - len(y)).sum() / (len(x) * len(y)))
