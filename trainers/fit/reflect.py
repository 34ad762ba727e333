"""Fit and measure the classifier of kinds of step: cotlens/detect/reflect.npz, docs/detectors.md.

    python -m trainers.fit.reflect            # fit, and report cross-validation by document
    python -m trainers.fit.reflect --measure  # fit nothing: measure the shipped weights

Run from the root of the repository. `--measure` prints the table of docs/detectors.md.

The labels are the project's own and follow docs/codebook.md. `labels/reflection.csv` has file, row,
offsets and kind: the text of the free sets stays where it is. `labels/written.tsv` has traces
written for the purpose. A language model made both; the rows with pass = 2 are a second,
independent pass. Nothing is fitted to the sets that are measured.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.fit.reflect"
    )

import argparse
import gzip
import json
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    cohen_kappa_score,
    roc_auc_score,
)

from cotlens.detect.reflect import KINDS, N_REFLECTIVE, THRESHOLD, classify
from cotlens.detect.words import count_words
from cotlens.text.steps import segment
from trainers.fit.documents import (
    DATA,
    LABELS,
    WEIGHTS,
    Steps,
    free_documents,
    labelled_steps,
    read_data,
    written_documents,
)
from trainers.fit.metrics import (
    Flags,
    best_threshold,
    calibration_error,
    decision_cells,
    logistic_regression,
    predict_unseen,
    print_table,
)

PENALTY = 1.0  # of half the squared weights, against the sum of log-likelihoods
REFLECTIVE = list(KINDS[:N_REFLECTIVE])

# Word lists that are measured next to the classifier. They decide from one word on.
WORD_LISTS = ("markers16", "cyclic_reflex", "r2mu")

# Sets of labelled traces: name, file, and the source's labels that count as reflection.
LABELLED_SETS = (
    ("Schoenfeld, people", "schoenfeld_human", {"Monitor", "Verify", "Explore"}),
    ("Venhoff, GPT-4o", "venhoff_gpt4o", {"backtracking", "uncertainty-estimation"}),
    (
        "Thought anchors, LLM (text seen)",
        "thought_anchors",
        {"uncertainty_management", "self_checking"},
    ),
    (
        "Bias anchors, LLM (text seen)",
        "bias_anchors",
        {"backtracking", "uncertainty_expression"},
    ),
)

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

# Takes the texts of a trace's steps and returns a score for each.
Scorer = Callable[[list[str]], NDArray]


def main() -> None:
    """Fit the classifier and write its weights, or measure it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--measure", action="store_true", help="measure the shipped weights instead of fitting"
    )
    if parser.parse_args().measure:
        measure()
        return

    steps = training_steps()
    cross_validate(steps)
    print_agreement()

    # The shipped weights are those of all steps.
    weights, bias = fit(steps)
    path = WEIGHTS / "reflect.npz"
    np.savez_compressed(
        path,
        weights=weights.astype(np.float16),
        bias=bias.astype(np.float32),
        kinds=np.array(KINDS),
    )
    kilobytes = path.stat().st_size / 1000
    print(f"{path.name}: {kilobytes:.0f} kB")


def training_steps() -> Steps:
    """Return every labelled step; a label is the number of the kind in `KINDS`."""
    table = labels_of_pass(1)
    table["label"] = table["kind"].map(KINDS.index)

    written = written_documents("written.tsv", KINDS.index)
    return labelled_steps([*free_documents(table), *written])


def labels_of_pass(number: int) -> pd.DataFrame:
    """Return the labels of the free sets from pass 1 or 2: file, row, start, stop and kind."""
    table = pd.read_csv(LABELS / "reflection.csv")
    in_pass = table["pass"] == number
    columns = ["file", "row", "start", "stop", "kind"]
    return table.loc[in_pass, columns]


def fit(steps: Steps) -> tuple[NDArray, NDArray]:
    """Return the weights, (N_BUCKETS, kinds), and the biases of a multinomial logistic regression.

    Raises:
        ValueError: No step is of some kind.
    """
    # A class that does not occur would have no column.
    labels = set(steps.labels)
    for number, kind in enumerate(KINDS):
        if number not in labels:
            raise ValueError(f"no labelled step is of the kind {kind}: label at least one")

    model = logistic_regression(PENALTY)
    model.fit(steps.features, steps.labels)

    # sklearn has a row a class.
    weights = np.asarray(model.coef_).T
    bias = np.asarray(model.intercept_)
    return weights, bias


def cross_validate(steps: Steps) -> None:
    """Print how well steps of unseen documents are classified, and the best threshold by F1."""
    p = predict_unseen(steps, steps.labels, PENALTY)
    predicted = p.argmax(axis=1)
    accuracy = accuracy_score(steps.labels, predicted)

    # Reflection against all other kinds.
    reflects = steps.labels < N_REFLECTIVE
    p_reflect = p[:, :N_REFLECTIVE].sum(axis=1)
    auroc = roc_auc_score(reflects, p_reflect)

    # From high to low: the highest of equally good thresholds.
    thresholds = np.arange(0.05, 0.95, 0.025)
    threshold, f1 = best_threshold(reflects, p_reflect, thresholds[::-1])

    n_documents = len(set(steps.documents))
    share = reflects.mean()
    print(f"{len(reflects):,} steps of {n_documents} documents, {share:.1%} reflective")
    print(
        f"cross-validated: accuracy of the kind {accuracy:.3f}, AUROC {auroc:.3f}, "
        f"best F1 {f1:.3f} at threshold {round(threshold, 3)}"
    )


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


class Gold(NamedTuple):
    """One labelled document.

    Attributes:
        question: The question it is about.
        text: Its text.
        units: For each labelled unit its start, its stop, and whether it reflects.
    """

    question: str
    text: str
    units: list[tuple[int, int, bool]]


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
                average_precision = average_precision_score(truth, p)
                auroc = roc_auc_score(truth, p)
                error = calibration_error(truth, p)
                cells += [f"{average_precision:.2f}", f"{auroc:.2f}", f"{error:.2f}"]
            yield cells


def _word_counts(word_list: str, texts: list[str]) -> NDArray:
    counts = []
    for text in texts:
        counts.append(count_words(text, word_list))
    return np.array(counts, float)


def gold_sets() -> dict[str, list[Gold]]:
    """Return the labelled sets by name; the two that people labelled come first."""
    sets = {"ReasoningFlow, people": _gold_reasoningflow()}

    for name, file, reflective in LABELLED_SETS:
        sets[name] = []
        for trace in read_data(f"labels/{file}"):
            # A unit may have several labels, joined by commas.
            units = []
            for start, stop, joined in trace.labels:
                labels = joined.split(",")
                reflects = not reflective.isdisjoint(labels)
                units.append((start, stop, reflects))

            gold = Gold(trace.prompt_id, trace.completion, units)
            sets[name].append(gold)

    return sets


def _gold_reasoningflow() -> list[Gold]:
    """Return the documents of ReasoningFlow.

    A unit reflects if it is a node `reflection`, or the target of a plan:verify or plan:backtrack
    edge.
    """
    path = DATA / "labels" / "reasoningflow_human.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]

    documents = []
    for row in rows:
        targets = set()
        for _, target, label in row["edges"]:
            if label in ("plan:verify", "plan:backtrack"):
                targets.add(target)

        # Spans of part "r" are in the response, those of part "q" in the question.
        units = []
        for node, start, stop, label, part in row["spans"]:
            if part == "r":
                reflects = label == "reflection" or node in targets
                units.append((start, stop, reflects))

        documents.append(Gold(row["question"], row["response"], units))
    return documents


def score_units(document: Gold, scorer: Scorer) -> tuple[Flags, NDArray]:
    """Return whether each unit reflects, and its score.

    The score of a unit is that of the step that covers most of it; 0 where that is NaN.
    """
    spans = segment(document.text)
    starts = [span.start for span in spans]
    texts = [span.of(document.text) for span in spans]
    step_scores = scorer(texts)

    truth = []
    scores = []
    for start, stop, reflects in document.units:
        # From the step in which the unit starts, to the last step that starts before its stop.
        first = max(bisect_right(starts, start) - 1, 0)
        end = max(bisect_left(starts, stop), first + 1)

        overlaps = []
        for span in spans[first:end]:
            overlap_start = max(start, span.start)
            overlap_stop = min(stop, span.stop)
            overlaps.append(overlap_stop - overlap_start)
        covering = first + np.argmax(overlaps)

        truth.append(reflects)
        scores.append(step_scores[covering])

    return np.array(truth, bool), np.nan_to_num(scores)


if __name__ == "__main__":
    main()
