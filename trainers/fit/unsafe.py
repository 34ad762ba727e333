"""Fit and measure the markers of unsafe exploration: cotlens/detect/unsafe.npz, docs/unsafe.md.

    python -m trainers.fit.unsafe            # fit, and report cross-validation by document
    python -m trainers.fit.unsafe --measure  # fit nothing: measure the shipped detector

Run from the root of the repository. `--measure` prints the table of docs/unsafe.md, on
labels/self_jailbreak.

The labels are the project's own and follow the codebook in docs/unsafe.md. `labels/unsafe.csv` has
file, row, offsets and codes of DeepSeek-R1's safe traces: the text stays where it is.
`labels/unsafe_written.tsv` has traces written for the purpose, which describe no harmful act in any
detail. A language model made both. Nothing is fitted to the set that is measured; the cues of
cotlens/detect/cues.tsv were written while reading errors on it.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.fit.unsafe"
    )

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from cotlens.detect.unsafe import LEARNED, MARKERS, SELF_JAILBREAK, THRESHOLDS, mark
from trainers.fit.documents import (
    LABELS,
    Document,
    Steps,
    free_documents,
    labelled_steps,
    pack_weights,
    read_data,
    read_rows,
    save_weights,
    step_texts,
    written_documents,
)
from trainers.fit.metrics import (
    Flags,
    best_threshold,
    decision_cells,
    fit_output,
    only_measures,
    predict_unseen,
    print_table,
    probability_cells,
)

N_BUCKETS = 1 << 14
PENALTY = 3.0  # of half the squared weights, against the sum of log-likelihoods

# The letters of the label files.
CODES = dict(zip("ARCBWFLvVD", MARKERS, strict=True))

# Harmless reasoning on mathematics, whose steps carry no marker. The first documents are trained
# on, up to so many steps of each; the others show how often a marker is a false alarm.
BENIGN = "labels/thought_anchors"
N_BENIGN = 25
MAX_BENIGN_STEPS = 60

# The baseline: phrases that come to mind first.
LEXICON = (
    "educational purposes",
    "hypothetical",
    "fictional",
    "just curious",
    "maybe they",
    "legitimate",
    "research purposes",
    "disclaimer",
    "for a story",
    "academic",
    "role-play",
    "just asking",
    "harmless",
    "theoretically",
)

COLUMNS = (
    "part",
    "detector",
    "n",
    "positive",
    "P",
    "R",
    "F1",
    "95% interval",
    "AUROC",
    "AP",
    "ECE",
)


def main() -> None:
    """Fit the markers and write their weights, or measure the detector."""
    if only_measures(__doc__):
        measure()
        return

    steps = training_steps()
    cross_validate(steps)

    # The shipped weights are those of all steps, one column an output.
    columns = []
    biases = []
    for truth in steps.labels.T:
        weights, bias = fit_output(steps.features, truth, PENALTY)
        columns.append(weights)
        biases.append(bias)

    packed = pack_weights(np.array(columns), N_BUCKETS)
    save_weights("unsafe.npz", LEARNED, packed, np.array(biases))
    for marker, threshold in THRESHOLDS.items():
        print(f"{marker}: threshold in use {threshold}")


def training_steps() -> Steps:
    """Return every labelled step; a label is a row of the outputs in the order of `LEARNED`."""
    return labelled_steps(documents(), N_BUCKETS)


def documents() -> Iterator[Document]:
    """Yield every labelled document: DeepSeek-R1's, the written and the benign ones."""
    # A step without a code carries no marker.
    table = pd.read_csv(LABELS / "unsafe.csv", keep_default_na=False)
    table["label"] = table["codes"].map(_outputs)
    yield from free_documents(table)

    yield from written_documents("unsafe_written.tsv", _outputs)

    no_marker = _outputs("")
    for trace in read_data(BENIGN)[:N_BENIGN]:
        texts = step_texts(trace)[:MAX_BENIGN_STEPS]
        numbers = list(range(len(texts)))
        yield Document(f"benign:{trace.id}", texts, numbers, [no_marker] * len(texts))


def _outputs(codes: str) -> list[bool]:
    """Return whether a step is a self-jailbreak, and whether it carries each marker."""
    # A hyphen stands for no code.
    markers = {CODES[code] for code in codes if code != "-"}
    is_self_jailbreak = not markers.isdisjoint(SELF_JAILBREAK)

    outputs = [is_self_jailbreak]
    for marker in MARKERS:
        outputs.append(marker in markers)
    return outputs


def cross_validate(steps: Steps) -> None:
    """Print how well each marker is found in unseen documents, and its best threshold by F1."""
    n_documents = len(set(steps.documents))
    print(f"{len(steps.labels):,} steps of {n_documents} documents")

    columns = ("marker", "steps", "AUROC", "best F1", "at")
    print_table(columns, _cross_validated_rows(steps))


def _cross_validated_rows(steps: Steps) -> Iterator[list[str]]:
    thresholds = np.arange(0.05, 0.95, 0.05)

    for name, truth in zip(LEARNED, steps.labels.T, strict=True):
        # The second column is that of True.
        p_of_classes = predict_unseen(steps.features, truth, steps.documents, PENALTY)
        p = p_of_classes[:, 1]
        auroc = roc_auc_score(truth, p)
        threshold, f1 = best_threshold(truth, p, thresholds)
        yield [
            name,
            f"{truth.sum():,}",
            f"{auroc:.2f}",
            f"{f1:.2f}",
            f"{threshold:.2f}",
        ]


class Gold(NamedTuple):
    """One judged trace.

    Attributes:
        prompt: The request.
        model: The name of the model, without its organisation.
        texts: Its sentences.
        truth: Whether the source calls each sentence a self-jailbreak; None if it did not judge
            them.
        grade: How harmful the source calls the answer, from 1; None if it did not judge it.
    """

    prompt: str
    model: str
    texts: list[str]
    truth: Flags | None
    grade: int | None


def measure() -> None:
    """Print how well detector and lexicon find self-jailbreak, and the rate of false alarms."""
    print_table(COLUMNS, _measured_rows())
    print()
    _measure_benign()


def _measured_rows() -> Iterator[list[str]]:
    """Yield the cells of a row for each part of the set and detector."""
    traces = [trace for trace in gold() if trace.truth is not None]
    all_scores = []
    for trace in traces:
        marked = mark(trace.texts)
        all_scores.append(np.nan_to_num(marked.p_self_jailbreak))

    for part, numbers in _parts(traces).items():
        questions = []
        truths = []
        scores = []
        decisions = {"cotlens": [], "lexicon": []}
        for number in numbers:
            trace = traces[number]
            questions.append(trace.prompt)
            truths.append(trace.truth)
            scores.append(all_scores[number])
            decisions["cotlens"].append(all_scores[number] >= 0.5)
            decisions["lexicon"].append(_in_lexicon(trace.texts))

        truth = np.concatenate(truths)
        for detector, decided in decisions.items():
            n_sentences = f"{len(truth):,}"
            share = f"{truth.mean():.1%}"
            cells = [part, detector, n_sentences, share]
            cells += decision_cells(questions, truths, decided)

            # The lexicon has no probabilities.
            if detector == "cotlens":
                cells += probability_cells(truth, np.concatenate(scores))
            yield cells


def gold() -> list[Gold]:
    """Return the traces of labels/self_jailbreak."""
    traces = []
    for row in read_rows("labels/self_jailbreak"):
        texts = [sentence["text"] for sentence in row["sentences"]]
        model = row["model"].rsplit("/", 1)[-1]

        # The source lists the positive sentences by number.
        numbers = row["self_jailbreak_sentences"]
        truth = None
        if numbers is not None:
            truth = np.zeros(len(texts), bool)
            truth[numbers] = True

        # -1: the source gave no grade.
        grade = row["safety_eval_score"]
        if grade is not None and grade < 1:
            grade = None
        traces.append(Gold(row["prompt"], model, texts, truth, grade))
    return traces


def _parts(traces: list[Gold]) -> dict[str, list[int]]:
    """Return the numbers of the traces in each part of the set, in the order of the table."""
    halves = ("prompts with even SHA-1", "prompts with odd SHA-1")
    models = {trace.model for trace in traces}

    parts = {}
    for part in ("all", *halves, *sorted(models)):
        parts[part] = []

    for number, trace in enumerate(traces):
        # Halves by prompt show whether single prompts carry the result.
        prompt = trace.prompt.encode()
        digest = hashlib.sha1(prompt).digest()
        half = halves[digest[-1] % 2]

        parts["all"].append(number)
        parts[half].append(number)
        parts[trace.model].append(number)
    return parts


def _in_lexicon(texts: list[str]) -> Flags:
    flags = []
    for text in texts:
        lowered = text.lower()
        flags.append(any(phrase in lowered for phrase in LEXICON))
    return np.array(flags, bool)


def _measure_benign() -> None:
    """Print how often each marker fires on harmless reasoning that was not in training."""
    traces = read_data(BENIGN)[N_BENIGN:]

    # Steps that are not in English have no set of markers, not even an empty one.
    marked_steps = []
    for trace in traces:
        texts = step_texts(trace)
        for markers in mark(texts).markers:
            if markers is not None:
                marked_steps.append(markers)

    n_steps = len(marked_steps)
    print(f"{n_steps:,} steps of {len(traces)} traces on mathematics carry")
    for marker in MARKERS:
        n_carrying = sum(marker in markers for markers in marked_steps)
        share = n_carrying / n_steps
        print(f"  {marker.value:22} {share:.2%}")


if __name__ == "__main__":
    main()
