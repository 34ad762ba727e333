"""What the fits share: the model, cross-validation by document, metrics, and tables of them."""

import argparse
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    precision_recall_fscore_support,
    roc_auc_score,
)
from sklearn.model_selection import PredefinedSplit, cross_val_predict

N_FOLDS = 5
N_RESAMPLES = 2000
N_BINS = 10  # of the calibration error, of equal width

# A smaller tolerance moves single weights, but no measured digit.
TOLERANCE = 1e-4
MAX_ITERATIONS = 2000

# Truth or decision: whether a step is positive.
Flags = NDArray[np.bool_]
FlagsOfDocuments = list[Flags]


def only_measures(docstring: str | None) -> bool:
    """Return whether the command line has `--measure`; else the weights are fitted.

    Args:
        docstring: Of the module that is run. Its first line is the help.
    """
    description = (docstring or "").split("\n")[0]
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--measure", action="store_true", help="measure the shipped weights instead of fitting"
    )
    arguments = parser.parse_args()
    return arguments.measure


def logistic_regression(penalty: float) -> LogisticRegression:
    """Return an unfitted logistic regression, multinomial if there are more than two classes.

    It minimises (negative log-likelihood of all steps) + penalty / 2 * (sum of squared weights);
    the bias is not penalised.
    """
    # C is the weight of the likelihood against half the squared weights.
    inverse_penalty = 1 / penalty
    return LogisticRegression(C=inverse_penalty, tol=TOLERANCE, max_iter=MAX_ITERATIONS)


def fit_output(
    features: csr_matrix, truth: Flags, penalty: float, weights: NDArray | None = None
) -> tuple[NDArray, float]:
    """Return the weights, (features,), and the bias of a logistic regression of one output.

    Args:
        features: One row a text.
        truth: Whether each text is positive.
        penalty: See `logistic_regression`.
        weights: How much each text counts; by default 1.
    """
    model = logistic_regression(penalty)
    model.fit(features, truth, weights)

    # With two classes sklearn has one row of weights, those of the second class.
    (coefficients,) = np.asarray(model.coef_)
    (bias,) = np.asarray(model.intercept_)
    return coefficients, float(bias)


def fold_of(document: str) -> int:
    """Return the fold of a document, the same in every set."""
    return zlib.crc32(document.encode()) % N_FOLDS


def folds_of(documents: Iterable[str]) -> NDArray:
    """Return the fold of each of the documents."""
    return np.array(list(map(fold_of, documents)))


def predict_unseen(
    features: csr_matrix,
    classes: NDArray,
    documents: Iterable[str],
    penalty: float,
    weights: NDArray | None = None,
) -> NDArray:
    """Return the probability of each class, (texts, classes), from fits to other documents.

    Args:
        features: One row a text or a step.
        classes: The class of each.
        documents: The name of the document of each.
        penalty: See `logistic_regression`.
        weights: How much each counts in a fit; by default 1.
    """
    folds = folds_of(documents)
    p = cross_val_predict(
        logistic_regression(penalty),
        features,
        classes,
        cv=PredefinedSplit(folds),
        method="predict_proba",
        params={"sample_weight": weights},
        n_jobs=-1,
    )
    return np.asarray(p)


def best_threshold(truth: Flags, p: NDArray, thresholds: NDArray) -> tuple[float, float]:
    """Return the threshold with the highest F1, the first of equally good ones, and that F1."""
    f1_scores = []
    for threshold in thresholds:
        decided = p >= threshold
        f1 = f1_score(truth, decided)
        f1_scores.append(f1)

    best = np.argmax(f1_scores)
    threshold = float(thresholds[best])
    return threshold, f1_scores[best]


def decision_cells(
    questions: list[str], truths: FlagsOfDocuments, decisions: FlagsOfDocuments
) -> list[str]:
    """Return precision, recall, F1 and the interval of F1, as cells of a table.

    Args:
        questions: The question of each document.
        truths: For each document, whether its steps are positive.
        decisions: For each document, whether its steps are decided to be positive.
    """
    precision, recall, f1, _ = precision_recall_fscore_support(
        np.concatenate(truths),
        np.concatenate(decisions),
        average="binary",
    )
    low, high = f1_interval(questions, truths, decisions)
    return [
        f"{precision:.2f}",
        f"{recall:.2f}",
        f"{f1:.3f}",
        f"{low:.2f} to {high:.2f}",
    ]


def probability_cells(truth: Flags, p: NDArray) -> list[str]:
    """Return AUROC, average precision and calibration error, as cells of a table."""
    auroc = roc_auc_score(truth, p)
    average_precision = average_precision_score(truth, p)
    error = calibration_error(truth, p)
    return [f"{auroc:.2f}", f"{average_precision:.2f}", f"{error:.2f}"]


def f1_interval(
    questions: list[str], truths: FlagsOfDocuments, decisions: FlagsOfDocuments
) -> tuple[float, float]:
    """Return the 95% percentile interval of F1, with questions drawn with replacement.

    Documents on one question resemble each other, so they are drawn together. Arguments as in
    `decision_cells`.
    """
    # F1 = 2 * (true positives) / (positives + decided), and all three add up over documents.
    numerators = []
    denominators = []
    for truth, decided in zip(truths, decisions, strict=True):
        true_positives = truth & decided
        numerators.append(2 * true_positives.sum())
        denominators.append(truth.sum() + decided.sum())

    counts = pd.DataFrame(
        {
            "question": questions,
            "numerator": numerators,
            "denominator": denominators,
        }
    )
    by_question = counts.groupby("question", sort=False, dropna=False).sum()
    n_questions = len(by_question)

    # Each resample draws as many questions as there are.
    rng = np.random.default_rng(0)
    drawn = rng.integers(n_questions, size=(N_RESAMPLES, n_questions))
    drawn_numerators = by_question["numerator"].to_numpy()[drawn]
    drawn_denominators = by_question["denominator"].to_numpy()[drawn]

    f1 = drawn_numerators.sum(axis=1) / drawn_denominators.sum(axis=1)
    low, high = np.quantile(f1, [0.025, 0.975])
    return float(low), float(high)


def calibration_error(truth: Flags, p: NDArray) -> float:
    """Return the expected calibration error.

    The mean of |share of positives - mean probability| over bins of the probability, weighted by
    their sizes. (`sklearn.calibration.calibration_curve` has both terms but not the sizes.)
    """
    # The size of a bin cancels: size * |positives / size - (sum of p) / size|.
    differences = np.bincount(_bin_numbers(p), weights=truth - p)
    total = np.abs(differences).sum()
    return float(total / len(truth))


def _bin_numbers(p: NDArray) -> NDArray:
    """Return the bin of each probability; that of 1 is the last one."""
    numbers = (p * N_BINS).astype(int)
    return np.minimum(numbers, N_BINS - 1)


def print_reliability(truth: Flags, p: NDArray) -> None:
    """Print how often steps are positive, by their probability."""
    bin_numbers = _bin_numbers(p)
    rows = []
    for number in np.unique(bin_numbers):
        inside = bin_numbers == number
        low = number / N_BINS
        high = low + 1 / N_BINS

        mean = p[inside].mean()
        share = truth[inside].mean()
        n = inside.sum()
        rows.append([f"{low:.1f} to {high:.1f}", f"{n:,}", f"{mean:.2f}", f"{share:.2f}"])
    print_table(("probability", "n", "mean", "positive"), rows)
    print()


def print_table(columns: Sequence[str], rows: Iterable[list[str]]) -> None:
    """Print a Markdown table, row by row as they come; short rows are filled with empty cells."""
    header = " | ".join(columns)
    print("|", header, "|")

    rule = "|---" * len(columns)
    print(rule + "|")

    for cells in rows:
        row = " | ".join(cells)
        n_empty = len(columns) - len(cells)
        print("|", row, "|" + " |" * n_empty, flush=True)
