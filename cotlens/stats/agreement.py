"""How far do two judges agree, how good is a detector, and what is a rate without its errors?"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cotlens.stats.bootstrap import (
    RESAMPLES,
    ClusteredRows,
    Estimate,
    Floats,
    Indices,
    bootstrap_sums,
)
from cotlens.stats.estimates import effective_sample_size, proportion

SATURATED_SHARE = 0.7  # cot-suite 0ea7d3a, judges/kappa.py: DEGENERACY_THRESHOLD
FEWEST_CLUSTERS = 10  # with fewer, no interval of this package should be relied on


class Agreement(NamedTuple):
    """How far two judges agree on the same items.

    Where nearly all items get one label, kappa and g-mean² say little: kappa may be near 0 although
    the judges agree on nearly all (Feinstein and Cicchetti 1990), and one of g-mean²'s two rates
    rests on a handful of items. AC1 and the table are then what to look at. `is_saturated` says so.

    Attributes:
        kappa: Cohen's kappa, agreement beyond what the judges' own rates of each label give by
            chance.
        ac1: Gwet's AC1, the same with chance from the mean rates; it does not collapse when one
            label is rare.
        g_mean2: sensitivity x specificity of the first judge, with the second as the truth; NaN for
            more than two labels, or where the second judge used one only.
        table: items by label of the first judge (rows) and of the second (columns).
        largest_share: share of the items that one judge gives its commonest label, the larger of
            the two judges'.
        n_other_clusters: clusters (prompts) with an item to which a judge gives another label than
            one and the same, for the label and the judge for which they are fewest.
    """

    kappa: Estimate
    ac1: Estimate
    g_mean2: Estimate
    table: pd.DataFrame
    largest_share: float
    n_other_clusters: int

    @property
    def is_saturated(self) -> bool:
        """Whether labels are too alike for kappa and g-mean² to tell agreement.

        True where a judge gives one label to more than 70% of the items (the dominant fraction of
        cot-suite 0ea7d3a), or any other label in fewer than ten clusters.
        """
        is_one_sided = self.largest_share > SATURATED_SHARE
        return is_one_sided or self.n_other_clusters < FEWEST_CLUSTERS


def agreement(
    a: Sequence[Any], b: Sequence[Any], clusters: ArrayLike | None = None, **options: Any
) -> Agreement:
    """Cohen's kappa, Gwet's AC1 and g-mean² of two judges, with cluster bootstrap intervals.

    Items without a label from both judges (None, NaN) are left out and counted. A label such as
    "undecided" is a label like any other unless it is made missing first. There is no interval
    (NaN) where every resample gives the same value.

    Args:
        a: one label per item.
        b: likewise, by the other judge; for g-mean², the truth.
        clusters: one key per item; without it every item is a cluster.
        **options: as in `mean`.

    Raises:
        ValueError: if the judges judged different numbers of items, or used fewer than two labels
            between them.
    """
    labels_a = pd.Series(list(a), dtype=object)
    labels_b = pd.Series(list(b), dtype=object)
    if len(labels_a) != len(labels_b):
        raise ValueError(
            f"got {len(labels_a)} and {len(labels_b)} labels: both judges must judge the same items"
        )

    # Items that both judged.
    is_judged = (labels_a.notna() & labels_b.notna()).to_numpy()
    judged_a = labels_a[is_judged]
    judged_b = labels_b[is_judged]
    labels = sorted({*judged_a, *judged_b}, key=str)
    n_labels = len(labels)
    if n_labels < 2:
        raise ValueError(f"agreement needs two labels or more, got {labels}")

    # Each item falls into one cell of the table of labels.
    number_of = {label: number for number, label in enumerate(labels)}
    row = np.array([number_of[label] for label in judged_a])
    column = np.array([number_of[label] for label in judged_b])
    cell = row * n_labels + column
    counts = np.bincount(cell, minlength=n_labels**2)
    table = counts.reshape(n_labels, n_labels)

    # The coefficients depend only on how many items each cell holds.
    in_cell = []
    for number in range(n_labels**2):
        is_here = cell == number
        in_cell.append(is_here.astype(float))

    ones = np.where(is_judged, 1.0, np.nan)
    rows = ClusteredRows.from_arrays(ones, clusters)
    if n_labels == 2:
        g_mean2 = _coefficient_estimate(g_mean_squared, rows, in_cell, options)
    else:
        g_mean2 = rows.estimate("two labels only")

    # How far each judge gives one and the same label.
    largest = max(table.sum(0).max(), table.sum(1).max())
    return Agreement(
        kappa=_coefficient_estimate(cohens_kappa, rows, in_cell, options),
        ac1=_coefficient_estimate(gwets_ac1, rows, in_cell, options),
        g_mean2=g_mean2,
        table=pd.DataFrame(table, index=labels, columns=labels),
        largest_share=float(largest / table.sum()),
        n_other_clusters=min(
            _count_other_clusters(rows, row),
            _count_other_clusters(rows, column),
        ),
    )


def _count_other_clusters(rows: ClusteredRows, labels: Indices) -> int:
    """Clusters with an item of another label than one, for the label where they are fewest."""
    numbers = []
    for label in np.unique(labels):
        other_clusters = rows.cluster_of[labels != label]
        numbers.append(len(np.unique(other_clusters)))
    return min(numbers)


def _coefficient_estimate(
    coefficient: Callable[[Floats], Floats],
    rows: ClusteredRows,
    in_cell: Sequence[Floats],
    options: dict[str, Any],
) -> Estimate:
    """Estimate of a coefficient of a square table, given for each cell which rows fall into it."""
    n_labels = math.isqrt(len(in_cell))

    def of_sums(sums: Floats) -> Floats:
        n_draws = len(sums)
        tables = sums.reshape(n_draws, n_labels, n_labels)
        return coefficient(tables)

    estimate = bootstrap_sums(of_sums, rows, in_cell, **options)

    # Draws that are all alike, as with full agreement, do not make the coefficient certain.
    if estimate.low == estimate.high:
        return estimate._replace(low=math.nan, high=math.nan)
    return estimate


def cohens_kappa(counts: ArrayLike) -> Floats:
    """Cohen's kappa of tables of counts: agreement beyond chance.

    kappa = (o - e) / (1 - e), with o the share of items with equal labels. e = sum_k p_a(k) p_b(k)
    is the share that two judges with these rates of each label reach by chance (Cohen 1960).

    Args:
        counts: (..., labels, labels) items by label of the first judge and of the second, labels in
            the same order.

    Returns:
        (...) at most 1; 0 is chance. NaN for no items, or if both judges use one and the same label
        only.

    >>> float(cohens_kappa([[45, 5], [5, 45]]))  # o = 0.9, e = 0.5
    0.8
    """
    shares = _shares(counts)
    rates_a = shares.sum(-1)
    rates_b = shares.sum(-2)
    chance = (rates_a * rates_b).sum(-1)
    return _beyond_chance(shares, chance)


def gwets_ac1(counts: ArrayLike) -> Floats:
    """Gwet's AC1 of tables of counts: agreement beyond chance, stable when one label is rare.

    As `cohens_kappa`, with e = sum_k m_k (1 - m_k) / (K - 1), m_k the mean of the judges' rates of
    label k (Gwet 2008).

    Args:
        counts: (..., labels, labels) as in `cohens_kappa`.
    """
    shares = _shares(counts)
    n_labels = shares.shape[-1]
    rates_a = shares.sum(-1)
    rates_b = shares.sum(-2)
    mean_rates = (rates_a + rates_b) / 2
    spread = mean_rates * (1 - mean_rates)
    chance = spread.sum(-1) / (n_labels - 1)
    return _beyond_chance(shares, chance)


def g_mean_squared(counts: ArrayLike) -> Floats:
    """g-mean²: sensitivity x specificity, the square of their geometric mean.

    The measure of monitors by Guan et al. (2025, arXiv 2512.18311), there TPR x TNR. It does not
    move with how frequent the label is that is looked for, and a judge that gives one label
    throughout has 0. A guess that calls a share q positive has q (1 - q), at most 0.25. It is the
    same whichever label is called positive.

    Only for interventions the source differs: openai/monitorability-evals 806dabf
    (metric/intervention_gmean_metric.py) bounds the sensitivity by what the intervention brought
    about, takes the geometric mean of both arms' specificities, and counts one without negatives as
    1. Here as in its other evaluations a rate of nothing is NaN.

    Args:
        counts: (..., 2, 2) items by label of the judge (rows) and by the true one (columns), labels
            in the same order.

    Returns:
        (...) from 0 to 1; NaN where one of the labels is never true.

    Raises:
        ValueError: if there are not two labels.

    >>> float(g_mean_squared([[8, 5], [2, 5]]))  # 8 of 10 times 5 of 10
    0.4
    """
    items = np.asarray(counts, float)
    if items.shape[-2:] != (2, 2):
        raise ValueError(f"g-mean² needs tables of two labels, got an array of {items.shape}")

    found = np.diagonal(items, axis1=-2, axis2=-1)
    true = items.sum(-2)
    with np.errstate(invalid="ignore"):
        rates = found / true
    return rates.prod(-1)


def _shares(counts: ArrayLike) -> Floats:
    """Each cell's share of its table; NaN for a table without items."""
    items = np.asarray(counts, float)
    totals = items.sum((-2, -1), keepdims=True)
    with np.errstate(invalid="ignore"):
        return items / totals


def _beyond_chance(shares: Floats, chance: Floats) -> Floats:
    """(observed - chance) / (1 - chance); NaN where chance alone gives full agreement."""
    observed = np.trace(shares, axis1=-2, axis2=-1)
    gained = observed - chance
    possible = 1 - chance
    with np.errstate(invalid="ignore", divide="ignore"):
        return gained / possible


class Detection(NamedTuple):
    """How well a detector finds what a judge or a person says is there.

    Attributes:
        precision: of the flagged items, the share that is true.
        recall: of the true items, the share that is flagged (sensitivity).
        true_positives: of the `positives`, those that are flagged.
        positives: items that are true.
        true_negatives: of the `negatives`, those that are not flagged.
        negatives: items that are false.
    """

    precision: Estimate
    recall: Estimate
    true_positives: int
    positives: int
    true_negatives: int
    negatives: int

    @property
    def counts(self) -> dict[str, int]:
        """The four counts, as keyword arguments of `corrected_rate`."""
        return {
            "true_positives": self.true_positives,
            "positives": self.positives,
            "true_negatives": self.true_negatives,
            "negatives": self.negatives,
        }


def detection(flags: ArrayLike, truth: ArrayLike, clusters: ArrayLike | None = None) -> Detection:
    """Precision and recall of a detector, with intervals over clusters as in `proportion`.

    Args:
        flags: the detector's decision on each item; missing is left out.
        truth: whether it is right to flag the item; missing is left out.
        clusters: one key per item; without it every item is a cluster.

    Raises:
        ValueError: if there is not one flag and one truth per item.
    """
    all_flags = pd.Series(np.asarray(flags, dtype=object), dtype="boolean")
    all_truths = pd.Series(np.asarray(truth, dtype=object), dtype="boolean")
    if len(all_flags) != len(all_truths):
        raise ValueError(
            f"{len(all_flags)} flags and {len(all_truths)} truths: expected one of each per item"
        )
    if clusters is None:
        clusters = np.arange(len(all_flags))

    # Items of which both are known.
    is_known = (all_flags.notna() & all_truths.notna()).to_numpy(bool)
    flagged = all_flags[is_known].to_numpy(bool)
    true = all_truths[is_known].to_numpy(bool)
    keys = np.asarray(clusters, dtype=object)[is_known]

    is_hit = flagged & true
    is_correct_negative = ~flagged & ~true
    return Detection(
        precision=proportion(true[flagged], keys[flagged]),
        recall=proportion(flagged[true], keys[true]),
        true_positives=int(is_hit.sum()),
        positives=int(true.sum()),
        true_negatives=int(is_correct_negative.sum()),
        negatives=int((~true).sum()),
    )


def corrected_rate(
    flags: ArrayLike,
    clusters: ArrayLike | None = None,
    *,
    true_positives: int,
    positives: int,
    true_negatives: int,
    negatives: int,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """The rate that a detector without errors would find, in [0, 1] (Rogan and Gladen 1978).

    rate = (p + specificity - 1) / (sensitivity + specificity - 1). The interval draws p (at the
    effective sample size of `proportion`), sensitivity and specificity from their posteriors under
    Jeffreys' prior, so errors measured on few items widen it. It holds if the detector errs on
    these items as it did where it was measured; a checkpoint's own text may differ.

    Args:
        flags: the detector's decision on each item; NaN is left out.
        clusters: one key per item; without it every item is a cluster.
        true_positives: of the `positives`, those that the detector flagged.
        positives: true items that the detector was measured on.
        true_negatives: of the `negatives`, those that it did not flag.
        negatives: false items that it was measured on.
        level: coverage of the interval.
        resamples: number of draws.
        seed: of the draws.

    Returns:
        The estimate; NaN where the detector is no better than chance, or where `proportion` has no
        interval.

    Raises:
        ValueError: if the counts contradict each other, or if nothing was measured.
    """
    is_measured = positives > 0 and negatives > 0
    is_possible = 0 <= true_positives <= positives and 0 <= true_negatives <= negatives
    if not is_measured or not is_possible:
        raise ValueError(
            "expected counts with 0 <= true <= all and all above 0, "
            f"got {true_positives} of {positives} positives found "
            f"and {true_negatives} of {negatives} negatives left alone"
        )

    method = "posterior draws, corrected for errors"
    rows = ClusteredRows.from_arrays(flags, clusters)
    raw = proportion(flags, clusters, level=level)
    sensitivity = true_positives / positives
    specificity = true_negatives / negatives
    is_informative = sensitivity + specificity - 1 > 0
    if not is_informative or math.isnan(raw.low):
        return rows.estimate(method)

    # Posteriors of the three rates; Jeffreys' prior adds one half to each count.
    rng = np.random.default_rng(seed)
    n_eff = effective_sample_size(rows, level)
    n_flagged = raw.value * n_eff
    n_unflagged = (1 - raw.value) * n_eff
    false_negatives = positives - true_positives
    false_positives = negatives - true_negatives
    p_draws = rng.beta(n_flagged + 0.5, n_unflagged + 0.5, resamples)
    sensitivity_draws = rng.beta(true_positives + 0.5, false_negatives + 0.5, resamples)
    specificity_draws = rng.beta(true_negatives + 0.5, false_positives + 0.5, resamples)

    # Draws of a detector no better than chance say nothing of the rate.
    is_usable = sensitivity_draws + specificity_draws > 1
    draws = _without_errors(
        p_draws[is_usable],
        sensitivity_draws[is_usable],
        specificity_draws[is_usable],
    )
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, (1 + level) / 2])
    value = _without_errors(raw.value, sensitivity, specificity)
    return rows.estimate(
        method,
        value=float(value),
        low=float(low),
        high=float(high),
    )


def _without_errors(p: Any, sensitivity: Any, specificity: Any) -> Any:
    """The true rate of which a detector with these errors flags p, clipped to [0, 1]."""
    youden = sensitivity + specificity - 1
    rate = (p + specificity - 1) / youden
    return np.clip(rate, 0, 1)
