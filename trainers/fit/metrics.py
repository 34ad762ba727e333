"""What both fits share: the model, cross-validation by document, metrics, and tables of them."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_recall_fscore_support
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from trainers.fit.documents import Steps

N_FOLDS = 5
N_RESAMPLES = 2000
N_BINS = 10  # of the calibration error, of equal width

# A smaller tolerance moves single weights, but no measured digit.
TOLERANCE = 1e-4
MAX_ITERATIONS = 2000

# Truth or decision: whether a step is positive.
Flags = NDArray[np.bool_]
FlagsOfDocuments = list[Flags]


def logistic_regression(penalty: float) -> LogisticRegression:
    """Return an unfitted logistic regression, multinomial if there are more than two classes.

    It minimises (negative log-likelihood of all steps) + penalty / 2 * (sum of squared weights);
    the bias is not penalised.
    """
    # C is the weight of the likelihood against half the squared weights.
    inverse_penalty = 1 / penalty
    return LogisticRegression(C=inverse_penalty, tol=TOLERANCE, max_iter=MAX_ITERATIONS)


def predict_unseen(steps: Steps, truth: NDArray, penalty: float) -> NDArray:
    """Return the probability of each class, (steps, classes), from fits to other documents.

    Args:
        steps: The steps, with features and documents.
        truth: The class of each step.
        penalty: See `logistic_regression`.
    """
    # All steps of a document are in the same fold, which is drawn at random.
    names, document_numbers = np.unique(steps.documents, return_inverse=True)
    rng = np.random.default_rng(0)
    fold_of_document = rng.integers(0, N_FOLDS, len(names))
    folds = PredefinedSplit(fold_of_document[document_numbers])

    p = cross_val_predict(
        logistic_regression(penalty),
        steps.features,
        truth,
        cv=folds,
        method="predict_proba",
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
    # A probability of 1 belongs to the last bin.
    bin_numbers = (p * N_BINS).astype(int)
    bin_numbers = np.minimum(bin_numbers, N_BINS - 1)

    # The size of a bin cancels: size * |positives / size - (sum of p) / size|.
    differences = np.bincount(bin_numbers, weights=truth - p)
    total = np.abs(differences).sum()
    return float(total / len(truth))


def print_reliability(truth: Flags, p: NDArray) -> None:
    """Print how often steps are positive, by their probability."""
    bins = np.minimum((p * N_BINS).astype(int), N_BINS - 1)
    rows = []
    for number in range(N_BINS):
        inside = bins == number
        if inside.any():
            low = number / N_BINS
            span = f"{low:.1f} to {low + 1 / N_BINS:.1f}"
            mean = f"{p[inside].mean():.2f}"
            share = f"{truth[inside].mean():.2f}"
            rows.append([span, f"{inside.sum():,}", mean, share])
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
