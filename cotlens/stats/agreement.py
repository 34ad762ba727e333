"""Two judges on the same items, a detector against a judge, and a rate corrected for the detector's misses."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cotlens.stats.bootstrap import RESAMPLES, Estimate, Floats, Rows, effective_n, sums_estimate
from cotlens.stats.estimates import proportion


# --- judges and detectors --------------------------------------------------------------------------------------
class Agreement(NamedTuple):
    """How far two judges agree on the same items.

    Attributes:
        kappa: Cohen's kappa: agreement beyond what the judges' own rates of each label would give.
        ac1: Gwet's AC1: the same with chance taken from the mean rates; it does not collapse when one label is rare.
        table: items by label of the first judge (rows) and of the second (columns).
    """

    kappa: Estimate
    ac1: Estimate
    table: pd.DataFrame


def agreement(
    a: Sequence[Any], b: Sequence[Any], clusters: ArrayLike | None = None, **options: Any
) -> Agreement:
    """Agreement of two judges, with intervals over clusters.

    kappa = (o - e) / (1 - e) with o the share of equal labels and e = sum p_a(k) p_b(k) (Cohen 1960);
    AC1 the same with e = sum m_k (1 - m_k) / (K - 1), m_k the mean of the two rates (Gwet 2008).
    Items that either judge left out (None, NaN) are left out and counted; a label such as "undecided" is a label like
    any other unless it is made missing first. Where every resample gives the same value there is no interval (NaN).

    Args:
        a: one label per item.
        b: likewise, by the other judge.
        clusters: one key per item.
        **options: as in `mean`.

    Raises:
        ValueError: if the judges judged different numbers of items, or used fewer than two labels between them.
    """
    first, second = pd.Series(list(a), dtype=object), pd.Series(list(b), dtype=object)
    if len(first) != len(second):
        raise ValueError(
            f"{len(first)} labels and {len(second)}: both judges must judge the same items"
        )
    known = (first.notna() & second.notna()).to_numpy()
    labels = sorted({*first[known], *second[known]}, key=str)
    k = len(labels)
    if k < 2:
        raise ValueError(f"agreement needs two labels or more, got {labels}")
    place = {label: i for i, label in enumerate(labels)}
    cell = np.array(
        [place[x] * k + place[y] for x, y in zip(first[known], second[known], strict=True)]
    )
    values = np.where(known, 1.0, np.nan)
    rows = Rows.of(values, clusters)
    columns = [(cell == number).astype(float) for number in range(k * k)]

    def estimate(chance: Callable[[Floats, Floats], Floats]) -> Estimate:
        def beyond(sums: Floats) -> Floats:
            with np.errstate(invalid="ignore", divide="ignore"):
                shares = (sums / sums.sum(-1, keepdims=True)).reshape(*sums.shape[:-1], k, k)
                observed = np.trace(shares, axis1=-2, axis2=-1)
                expected = chance(shares.sum(-1), shares.sum(-2))
                return (observed - expected) / (1 - expected)

        found = sums_estimate(beyond, rows, columns, **options)
        return found._replace(low=math.nan, high=math.nan) if found.low == found.high else found

    def gwet(p: Floats, q: Floats) -> Floats:
        return ((p + q) / 2 * (1 - (p + q) / 2)).sum(-1) / (k - 1)

    counts = np.array([column.sum() for column in columns]).reshape(k, k).astype(int)
    table = pd.DataFrame(counts, index=labels, columns=labels)
    return Agreement(estimate(lambda p, q: (p * q).sum(-1)), estimate(gwet), table)


class Detection(NamedTuple):
    """How well a detector finds what a judge or a person says is there.

    Attributes:
        precision: of what the detector found, the share that is there.
        recall: of what is there, the share that it found (sensitivity).
        true_positives: of the `positives` that are there, those it found.
        positives: items that are there.
        true_negatives: of the `negatives`, those it left alone.
        negatives: items that are not there.
    """

    precision: Estimate
    recall: Estimate
    true_positives: int
    positives: int
    true_negatives: int
    negatives: int

    @property
    def counts(self) -> dict[str, int]:
        """The four counts, as `corrected_rate` takes them."""
        return {name: getattr(self, name) for name in self._fields[2:]}


def detection(flags: ArrayLike, truth: ArrayLike, clusters: ArrayLike | None = None) -> Detection:
    """Precision and recall of a detector, with intervals over clusters.

    Args:
        flags: what the detector said, one per item; missing is left out.
        truth: what is there; missing is left out.
        clusters: one key per item.
    """
    said, there = (pd.Series(pd.array(list(x), dtype="boolean")) for x in (flags, truth))  # type: ignore[arg-type]
    if len(said) != len(there):
        raise ValueError(
            f"{len(said)} flags and {len(there)} truths: expected one of each per item"
        )
    known = (said.notna() & there.notna()).to_numpy(bool)
    keys = np.arange(len(said)) if clusters is None else np.asarray(clusters, dtype=object)
    found, real, keys = said[known].to_numpy(bool), there[known].to_numpy(bool), keys[known]
    return Detection(
        proportion(real[found], keys[found]),
        proportion(found[real], keys[real]),
        int((found & real).sum()),
        int(real.sum()),
        int((~found & ~real).sum()),
        int((~real).sum()),
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
    """The rate that a detector would have found had it made no errors (Rogan and Gladen 1978), within [0, 1].

    rate = (p + specificity - 1) / (sensitivity + specificity - 1). The interval draws p (at the effective sample
    size of `proportion`), sensitivity and specificity from their posteriors under Jeffreys' prior: errors that were
    measured on few items cost width.
    It holds if the detector errs on these items as it did where it was measured; a checkpoint's own text may differ.

    Args:
        flags: what the detector said, one per item; NaN is left out.
        clusters: one key per item.
        true_positives: of the `positives` that the detector was tried on, those it found.
        positives: see above.
        true_negatives: of the `negatives` that it was tried on, those it left alone.
        negatives: see above.
        level: of the interval.
        resamples: draws.
        seed: of the draws.

    Returns:
        The estimate; NaN where the detector is no better than chance.
    """
    if not (
        0 <= true_positives <= positives
        and 0 <= true_negatives <= negatives
        and positives
        and negatives
    ):
        raise ValueError(
            "expected counts with 0 <= true positives <= positives, and likewise for negatives"
        )
    rows = Rows.of(flags, clusters)
    method = "posterior draws, corrected for errors"
    found = proportion(flags, clusters, level=level)
    informed = true_positives / positives + true_negatives / negatives - 1
    if not rows.n or informed <= 0 or math.isnan(found.low):
        return rows.undefined(method)

    def correct(p: Any, sensitivity: Any, specificity: Any) -> Any:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.clip((p + specificity - 1) / (sensitivity + specificity - 1), 0, 1)

    value = correct(rows.values.mean(), true_positives / positives, true_negatives / negatives)
    rng = np.random.default_rng(seed)
    p, n_eff = found.value, effective_n(rows, level)
    drawn = rng.beta(p * n_eff + 0.5, (1 - p) * n_eff + 0.5, resamples)
    sensitivity = rng.beta(true_positives + 0.5, positives - true_positives + 0.5, resamples)
    specificity = rng.beta(true_negatives + 0.5, negatives - true_negatives + 0.5, resamples)
    usable = sensitivity + specificity > 1
    draws = correct(drawn, sensitivity, specificity)[usable]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(
        float(value), float(low), float(high), rows.n, rows.n_clusters, method, rows.n_undefined
    )
