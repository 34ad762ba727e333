"""Fit and measure the classifier of kinds of step: cotlens/detect/reflect.npz, docs/detectors.md.

    python -m trainers.fit.reflect            # fit, and report cross-validation by document
    python -m trainers.fit.reflect --measure  # fit nothing: measure the shipped weights

Run from the root of the repository. `--measure` prints the table of docs/detectors.md.

The kinds, and the output `wide`, are fitted to the project's own labels, which follow
docs/codebook.md. `labels/reflection.csv` has file, row, offsets and kind: the text of the free sets
stays where it is. `labels/written.tsv` has traces written for the purpose. A language model made
both; the rows with pass = 2 are a second, independent pass.

The output `strict` is fitted to ReasoningFlow, which an LLM and people labelled, and the decision
to both, to RT-SEG's people and to the project's labels. Nothing is fitted to the other sets that
are measured.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.fit.reflect"
    )

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    f1_score,
    roc_auc_score,
)

from cotlens.detect.reflect import (
    KINDS,
    N_REFLECTIVE,
    OUTPUTS,
    THRESHOLD,
    Kind,
    classify,
    decision_inputs,
    quadratic_terms,
)
from cotlens.detect.words import count_words
from trainers.fit.documents import (
    LABELS,
    Document,
    Steps,
    free_documents,
    labelled_steps,
    pack_weights,
    save_weights,
    written_documents,
)
from trainers.fit.gold import (
    Scorer,
    gold_document,
    gold_sets,
    reasoningflow,
    rtseg,
    score_units,
)
from trainers.fit.metrics import (
    N_FOLDS,
    Flags,
    calibration_error,
    decision_cells,
    folds_of,
    logistic_regression,
    only_measures,
    predict_unseen,
    print_reliability,
    print_table,
    probability_cells,
)

N_BUCKETS = 1 << 15
REFLECTIVE = list(KINDS[:N_REFLECTIVE])

# Of half the squared weights, against the sum of log-likelihoods.
KINDS_PENALTY = 3.0
REFLECT_PENALTY = 20.0
DECISION_PENALTY = 1.0

# Of each step of a set, in the fit of `strict` and in that of the decision. People's labels count
# more than an LLM's, and the many labels of one set are kept from settling the decision alone.
STRICT_SHARES = {"reasoningflow_llm": 1.0, "reasoningflow_human": 3.0}
DECISION_SHARES = {
    "reasoningflow_llm": 0.2,
    "reasoningflow_human": 3.0,
    "rtseg_human": 3.0,
    "own": 1.0,
}
THRESHOLDS = np.arange(0.2, 0.5, 0.025)

# Word lists that are measured next to the classifier. They decide from one word on.
WORD_LISTS = ("markers16", "cyclic_reflex", "r2mu")

COLUMNS = (
    "set",
    "n",
    "reflective",
    "detector",
    "P",
    "R",
    "F1",
    "95% interval",
    "AP",
    "AUROC",
    "ECE",
)


def main() -> None:
    """Fit the classifier and write its weights, or measure it."""
    if only_measures(__doc__):
        measure()
        return

    sets = training_sets()
    cross_validate(sets)
    print_agreement()

    # The shipped weights are those of all steps.
    models = fit(sets)
    write(models)


class Models(NamedTuple):
    """The fitted logistic regressions, and the mean and scale of what the decision reads."""

    kinds: LogisticRegression
    strict: LogisticRegression
    wide: LogisticRegression
    mean: NDArray
    scale: NDArray
    decision: LogisticRegression


Sets = dict[str, Steps]


def training_sets() -> Sets:
    """Return every labelled step.

    A label of the set `own` is the number of the kind in `KINDS`, and whether the step reflects in
    the wide sense; a label of the others is whether the step reflects.
    """
    table = labels_of_pass(1)
    table["label"] = table["kind"].map(KINDS.index)
    written = written_documents("written.tsv", KINDS.index)
    own = map(with_wide_labels, [*free_documents(table), *written])

    golds = {
        "reasoningflow_llm": reasoningflow("reasoningflow_llm"),
        "reasoningflow_human": reasoningflow("reasoningflow_human"),
        "rtseg_human": rtseg(),
    }
    sets = {"own": labelled_steps(own, N_BUCKETS)}
    for name, documents in golds.items():
        sets[name] = labelled_steps(map(gold_document, documents), N_BUCKETS)
    return sets


def with_wide_labels(document: Document) -> Document:
    """Return a document whose labels say of each kind whether it reflects in the wide sense.

    Conjectures do, and conclusions after an earlier one, or soon after a check: these repeat or
    check what was concluded.
    """
    n_concluded = 0
    n_checked_ago = _CHECK_LASTS
    labels = []
    for label in document.labels:
        kind = KINDS[label]
        is_wide = label < N_REFLECTIVE or kind is Kind.CONJECTURE
        if kind is Kind.CONCLUDE:
            is_wide = n_concluded > 0 or n_checked_ago < _CHECK_LASTS
            n_concluded += 1

        # A check is over when something else begins.
        n_checked_ago += 1
        if kind is Kind.VERIFY:
            n_checked_ago = 0
        elif kind in _ENDS_CHECK:
            n_checked_ago = _CHECK_LASTS
        labels.append((label, is_wide))
    return document._replace(labels=labels)


_CHECK_LASTS = 6  # steps
_ENDS_CHECK = (
    Kind.PLAN,
    Kind.ALTERNATIVE,
    Kind.OTHER,
    Kind.BACKTRACK,
    Kind.DOUBT,
    Kind.CONCLUDE,
)


def labels_of_pass(number: int) -> pd.DataFrame:
    """Return the labels of the free sets from pass 1 or 2: file, row, start, stop and kind."""
    table = pd.read_csv(LABELS / "reflection.csv")
    in_pass = table["pass"] == number
    columns = ["file", "row", "start", "stop", "kind"]
    return table.loc[in_pass, columns]


def fit(sets: Sets) -> Models:
    """Return the models of all steps.

    The decision reads outputs that were not fitted to the same documents.
    """
    kinds, strict, wide = _fit_outputs(sets)
    unseen = unseen_outputs(sets)
    mean, scale, decision = fit_decision(sets, unseen)
    return Models(kinds, strict, wide, mean, scale, decision)


def _fit_outputs(sets: Sets) -> tuple[LogisticRegression, LogisticRegression, LogisticRegression]:
    """Return the models of the kinds, of `strict` and of `wide`.

    Raises:
        ValueError: No step is of some kind.
    """
    # A class that does not occur would have no column.
    own = sets["own"]
    kind_numbers = own.labels[:, 0]
    for number, kind in enumerate(KINDS):
        if number not in kind_numbers:
            raise ValueError(f"no labelled step is of the kind {kind}: label at least one")

    kinds = logistic_regression(KINDS_PENALTY)
    kinds.fit(own.features, kind_numbers)
    strict, wide = fit_reflection(sets)
    return kinds, strict, wide


def fit_reflection(sets: Sets) -> tuple[LogisticRegression, LogisticRegression]:
    """Return the models of `strict` and of `wide`."""
    features = []
    labels = []
    shares = []
    for name, share in STRICT_SHARES.items():
        steps = sets[name]
        features.append(steps.features)
        labels.append(steps.labels)
        shares.append(np.full(len(steps.labels), share))

    strict = logistic_regression(REFLECT_PENALTY)
    strict.fit(scipy.sparse.vstack(features), np.concatenate(labels), np.concatenate(shares))

    wide = logistic_regression(REFLECT_PENALTY)
    wide.fit(sets["own"].features, sets["own"].labels[:, 1])
    return strict, wide


def unseen_outputs(sets: Sets) -> dict[str, NDArray]:
    """Return what the decision reads of each step, from fits to other questions."""
    outputs = {}
    for name, steps in sets.items():
        outputs[name] = np.zeros((len(steps.labels), 2))

    for fold in range(N_FOLDS):
        strict, wide = fit_reflection(without_fold(sets, fold))
        for name, steps in sets.items():
            rows = folds_of(steps.documents) == fold
            features = steps.features[rows]
            outputs[name][rows, 0] = strict.decision_function(features)
            outputs[name][rows, 1] = wide.decision_function(features)

    inputs = {}
    for name, steps in sets.items():
        number, n_steps = steps.places.T
        inputs[name] = decision_inputs(outputs[name], number, n_steps)
    return inputs


def without_fold(sets: Sets, fold: int) -> Sets:
    """Return the steps outside a fold."""
    parts = {}
    for name, steps in sets.items():
        rows = folds_of(steps.documents) != fold
        parts[name] = Steps(
            scipy.sparse.csr_matrix(steps.features[rows]),
            steps.labels[rows],
            steps.documents[rows],
            steps.places[rows],
        )
    return parts


def _reflects(steps: Steps) -> Flags:
    """Return whether each step reflects, in the wide sense where the label has a kind."""
    labels = steps.labels
    if labels.ndim > 1:
        labels = labels[:, 1]
    return labels.astype(bool)


def fit_decision(
    sets: Sets, inputs: dict[str, NDArray]
) -> tuple[NDArray, NDArray, LogisticRegression]:
    """Return the mean and the scale of the decision's inputs, and its model."""
    all_inputs = []
    labels = []
    shares = []
    for name, share in DECISION_SHARES.items():
        all_inputs.append(inputs[name])
        labels.append(_reflects(sets[name]))
        shares.append(np.full(len(inputs[name]), share))

    stacked = np.concatenate(all_inputs)
    weights = np.concatenate(shares)
    mean = np.average(stacked, axis=0, weights=weights)
    scale = stacked.std(axis=0)

    terms = quadratic_terms(stacked, mean, scale)
    model = logistic_regression(DECISION_PENALTY)
    model.fit(terms, np.concatenate(labels), weights)
    return mean, scale, model


def write(models: Models) -> None:
    """Write the weights."""
    outputs = (models.kinds, models.strict, models.wide)
    weights = np.concatenate([model.coef_ for model in outputs])
    bias = np.concatenate([model.intercept_ for model in outputs])

    save_weights(
        "reflect.npz",
        OUTPUTS,
        pack_weights(weights, N_BUCKETS),
        bias,
        decision_mean=models.mean,
        decision_scale=models.scale,
        decision_weights=np.asarray(models.decision.coef_)[0],
        decision_bias=np.asarray(models.decision.intercept_)[0],
    )


def cross_validate(sets: Sets) -> None:
    """Print how well steps of unseen questions are classified, and the best threshold."""
    own = sets["own"]
    kind_numbers = own.labels[:, 0]
    p_of_kinds = predict_unseen(own.features, kind_numbers, own.documents, KINDS_PENALTY)
    accuracy = accuracy_score(kind_numbers, p_of_kinds.argmax(axis=1))
    n_documents = len(set(own.documents))
    print(f"{len(kind_numbers):,} steps of {n_documents} documents")
    print(f"cross-validated: accuracy of the kind {accuracy:.3f}")
    print()

    p_of_sets = unseen_probabilities(sets)
    _print_thresholds(sets, p_of_sets)
    people = "reasoningflow_human"
    print_reliability(_reflects(sets[people]), p_of_sets[people])


def _print_thresholds(sets: Sets, p_of_sets: dict[str, NDArray]) -> None:
    """Print F1 of each set at every threshold, and the threshold with the best mean."""
    columns = ["set", "n", "reflective", "AUROC", "ECE"]
    columns += [f"F1 at {threshold:.3f}" for threshold in THRESHOLDS]
    rows = []
    f1_of_sets = []
    for name, p in p_of_sets.items():
        truth = _reflects(sets[name])
        auroc = roc_auc_score(truth, p)
        error = calibration_error(truth, p)
        cells = [name, f"{len(p):,}", f"{truth.mean():.0%}", f"{auroc:.3f}", f"{error:.3f}"]

        f1 = [f1_score(truth, p >= threshold) for threshold in THRESHOLDS]
        cells += [f"{value:.3f}" for value in f1]
        rows.append(cells)

        # An LLM's labels of the same kind have no say in the threshold.
        if name != "reasoningflow_llm":
            f1_of_sets.append(f1)
    print_table(columns, rows)

    means = np.mean(f1_of_sets, axis=0)
    best = THRESHOLDS[means.argmax()]
    print(f"best mean F1 without the LLM's set {means.max():.3f} at threshold {best:.3f}")
    print()


def unseen_probabilities(sets: Sets) -> dict[str, NDArray]:
    """Return the probability that each step reflects, from fits to other questions."""
    inputs = unseen_outputs(sets)
    p_of_sets = {}
    for name in sets:
        p_of_sets[name] = np.zeros(len(inputs[name]))

    for fold in range(N_FOLDS):
        others = {}
        for name, steps in sets.items():
            others[name] = inputs[name][folds_of(steps.documents) != fold]
        mean, scale, model = fit_decision(without_fold(sets, fold), others)

        for name, steps in sets.items():
            rows = folds_of(steps.documents) == fold
            terms = quadratic_terms(inputs[name][rows], mean, scale)
            p_of_sets[name][rows] = model.predict_proba(terms)[:, 1]
    return p_of_sets


def print_agreement() -> None:
    """Print Cohen's kappa of the two passes, on kinds and on whether a step reflects."""
    pairs = labels_of_pass(1).merge(
        labels_of_pass(2),
        on=["file", "row", "start", "stop"],
        suffixes=("_first", "_second"),
    )
    first = pairs["kind_first"]
    second = pairs["kind_second"]

    first_reflects = first.isin(REFLECTIVE)
    second_reflects = second.isin(REFLECTIVE)

    kappas = {
        "kinds": cohen_kappa_score(first, second),
        "reflection": cohen_kappa_score(first_reflects, second_reflects),
    }
    for what, kappa in kappas.items():
        agreement = f"Cohen's kappa {kappa:.3f} (n = {len(pairs)})"
        print(f"agreement of the two passes on {what}: {agreement}")


def measure() -> None:
    """Print how well classifier and word lists find reflection in each labelled set."""
    print_table(COLUMNS, _measured_rows())


def _measured_rows() -> Iterator[list[str]]:
    """Yield the cells of a row for each set and detector."""
    scorers: dict[str, Scorer] = {"classifier": lambda texts: classify(texts).p_reflect}
    for word_list in WORD_LISTS:
        scorers[word_list] = partial(_word_counts, word_list)

    for name, documents in gold_sets().items():
        questions = [document.question for document in documents]

        for detector, scorer in scorers.items():
            is_classifier = detector == "classifier"
            threshold = THRESHOLD if is_classifier else 1

            truths = []
            scores = []
            decisions = []
            for document in documents:
                unit_truth, unit_scores = score_units(document, scorer)
                truths.append(unit_truth)
                scores.append(unit_scores)
                decisions.append(unit_scores >= threshold)

            truth = np.concatenate(truths)
            n_units = f"{len(truth):,}"
            share = f"{truth.mean():.0%}"
            cells = [name, n_units, share, detector]
            cells += decision_cells(questions, truths, decisions)

            # Counts of words are not probabilities.
            if is_classifier:
                p = np.concatenate(scores)
                auroc, average_precision, error = probability_cells(truth, p)
                cells += [average_precision, auroc, error]
            yield cells


def _word_counts(word_list: str, texts: list[str]) -> NDArray:
    counts = []
    for text in texts:
        counts.append(count_words(text, word_list))
    return np.array(counts, float)


if __name__ == "__main__":
    main()
