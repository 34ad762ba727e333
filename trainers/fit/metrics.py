"""Cross-validation folds and metrics of the fits."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.stats import rankdata

from cotlens.detect.features import N_BUCKETS

HERE = Path(__file__).parent
DATA = Path(os.environ.get("COTLENS_DATA", HERE.parents[2] / "shared" / "data"))


def matrix_of(rows: Sequence[NDArray[np.int64]]) -> scipy.sparse.csr_matrix:
    """The buckets of each step as a row of ones."""
    ends = np.cumsum([0, *map(len, rows)])
    return scipy.sparse.csr_matrix(
        (np.ones(ends[-1]), np.concatenate(rows), ends), shape=(len(rows), N_BUCKETS)
    )


def fold_of_each(documents: NDArray[np.str_], folds: int) -> NDArray[np.int64]:
    """The fold of each step, drawn for its whole document."""
    names, document = np.unique(documents, return_inverse=True)
    return np.random.default_rng(0).integers(0, folds, len(names))[document]


def f1_interval(
    questions: Sequence[str], results: Sequence[tuple[NDArray, NDArray]]
) -> tuple[float, float]:
    """Percentile interval of F1, questions drawn with replacement: documents on one question resemble each other."""
    sums: dict[str, NDArray] = defaultdict(lambda: np.zeros(3))
    for question, (truth, decided) in zip(questions, results, strict=True):
        sums[question] += [(truth & decided).sum(), truth.sum(), decided.sum()]
    counts, rng = np.array(list(sums.values())), np.random.default_rng(0)
    drawn = np.array(
        [counts[rng.integers(len(counts), size=len(counts))].sum(0) for _ in range(2000)]
    )
    low, high = np.quantile(2 * drawn[:, 0] / (drawn[:, 1] + drawn[:, 2]), [0.025, 0.975])
    return float(low), float(high)


def f1(truth: NDArray, decided: NDArray) -> float:
    """2 TP / (positives + decided)."""
    return float(2 * (truth & decided).sum() / max(truth.sum() + decided.sum(), 1))


def auroc(truth: NDArray, score: NDArray) -> float:
    """P(a random positive scores higher than a random negative), ties counting half."""
    ranks, n = rankdata(score), truth.sum()
    return float((ranks[truth].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))


def average_precision(truth: NDArray, score: NDArray) -> float:
    """Mean precision at each positive, going down the scores."""
    ordered = truth[np.argsort(-score, kind="stable")]
    return float((np.cumsum(ordered) / np.arange(1, len(ordered) + 1))[ordered].mean())


def calibration_error(truth: NDArray, score: NDArray, bins: int = 10) -> float:
    """Expected calibration error: mean |share of positives - mean probability| over ten equal bins, by their size."""
    bin_of = np.minimum((score * bins).astype(int), bins - 1)
    parts = [bin_of == number for number in range(bins)]
    return float(sum(abs(truth[part].sum() - score[part].sum()) for part in parts) / len(truth))
