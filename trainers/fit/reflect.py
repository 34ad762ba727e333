"""Fits the classifier of kinds of step (cotlens/detect/reflect.npz) and measures it (the table of docs/detectors.md).

    python -m trainers.fit.reflect            # fit on the project's labels, report cross-validation by document
    python -m trainers.fit.reflect --measure  # measure the shipped weights on every labelled set, fit nothing

The labels are the project's own, made by the codebook docs/codebook.md: `labels/reflection.csv` (file, row, offsets and
kind; the text of the free sets stays where it is) and `labels/written.tsv` (traces written for the purpose). A language
model made both, and a second independent pass is marked in the file. Nothing is fitted to the sets that are measured.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.fit.reflect"
    )

import argparse
import csv
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.optimize import minimize

from cotlens.detect.features import N_BUCKETS, features, tokenize
from cotlens.detect.reflect import KINDS, N_REFLECTIVE, THRESHOLD, classify
from cotlens.detect.words import count_words
from cotlens.formats.read import read_traces
from cotlens.text.steps import segment, segment_trace
from cotlens.trace import Trace
from trainers.fit.metrics import (
    DATA,
    HERE,
    auroc,
    average_precision,
    calibration_error,
    f1,
    f1_interval,
    fold_of_each,
    matrix_of,
)

WEIGHTS = HERE.parents[1] / "cotlens" / "detect" / "reflect.npz"
PENALTY = 1.0  # of the squared weights, against the sum of log-likelihoods


class Steps(NamedTuple):
    """Labelled steps: their features as a sparse matrix, kinds, and the document of each."""

    features: scipy.sparse.csr_matrix
    kinds: NDArray[np.int64]
    documents: NDArray[np.str_]


# --- training data ---------------------------------------------------------------------------------------------
def training_steps() -> Steps:
    """Every labelled step with its features; context comes from its whole document."""
    rows, kinds, documents = [], [], []
    for name, texts, labelled in [*_free_documents(), *_written_documents()]:
        numbers, buckets = features([tokenize(text) for text in texts])
        for step, kind in labelled:
            rows.append(buckets[numbers == step])
            kinds.append(KINDS.index(kind))
            documents.append(name)
    return Steps(matrix_of(rows), np.array(kinds), np.array(documents))


def _labels(number: str) -> dict[tuple[str, int], dict[tuple[int, int], str]]:
    found: dict = defaultdict(dict)
    with (HERE / "labels" / "reflection.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["pass"] == number:
                found[row["file"], int(row["row"])][int(row["start"]), int(row["stop"])] = row[
                    "kind"
                ]
    return found


def _free_documents() -> Iterator[tuple[str, list[str], list[tuple[int, str]]]]:
    for (file, row), labels in _labels("1").items():
        trace = _traces(file)[row]
        steps = segment_trace(trace)
        texts = [step.chars.of(trace.completion) for step in steps]
        yield (
            f"{file}:{row}",
            texts,
            [(step.index, labels[step.chars]) for step in steps if step.chars in labels],
        )


_CACHE: dict[str, list[Trace]] = {}


def _traces(file: str) -> list[Trace]:
    if file not in _CACHE:
        _CACHE[file] = list(read_traces(DATA / f"{file}.jsonl.gz"))
    return _CACHE[file]


def _written_documents() -> Iterator[tuple[str, list[str], list[tuple[int, str]]]]:
    """The written traces; a step that `segment` cuts otherwise than its writer did keeps its text and has no label."""
    blocks = re.split(r"(?m)^# ", (HERE / "labels" / "written.tsv").read_text(encoding="utf-8"))[1:]
    for block in blocks:
        name, *lines = block.rstrip("\n").split("\n")
        text, begins = "", {}
        for line in lines:
            if not line:
                text = text.rstrip(" ") + "\n\n"
                continue
            kind, words = line.split("\t", 1)
            begins[len(text)] = kind
            text += words.strip() + " "
        spans = segment(text.rstrip())
        stops = {*begins, len(text.rstrip())}
        whole = [i for i, span in enumerate(spans) if span.start in begins and span.stop in stops]
        yield (
            f"written:{name}",
            [span.of(text) for span in spans],
            [(i, begins[spans[i].start]) for i in whole],
        )


# --- fitting ---------------------------------------------------------------------------------------------------
def fit(steps: Steps) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights and bias of a multinomial logistic regression with an L2 penalty, by L-BFGS."""
    used = np.unique(steps.features.indices)
    x, k = steps.features[:, used], len(KINDS)
    target = np.eye(k)[steps.kinds]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = flat[: len(used) * k].reshape(-1, k), flat[len(used) * k :]
        p = _softmax(x @ weights + bias)
        value = -np.log((p * target).sum(1) + 1e-300).sum() + PENALTY / 2 * (weights**2).sum()
        return value, np.concatenate(
            [(x.T @ (p - target) + PENALTY * weights).ravel(), (p - target).sum(0)]
        )

    found = minimize(
        loss, np.zeros((len(used) + 1) * k), jac=True, method="L-BFGS-B", options={"maxiter": 150}
    )
    weights = np.zeros((N_BUCKETS, k))
    weights[used] = found.x[: len(used) * k].reshape(-1, k)
    return weights, found.x[len(used) * k :]


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    scores = np.exp(scores - scores.max(1, keepdims=True))
    return scores / scores.sum(1, keepdims=True)


def cross_validate(steps: Steps, folds: int = 5) -> None:
    """Prints how well steps of unseen documents are classified, and the threshold with the best F1."""
    names = np.unique(steps.documents)
    fold = fold_of_each(steps.documents, folds)
    p = np.zeros((len(fold), len(KINDS)))
    for number in range(folds):
        kept = fold != number
        train = Steps(steps.features[kept], steps.kinds[kept], steps.documents[kept])
        weights, bias = fit(train)
        p[fold == number] = _softmax(steps.features[fold == number] @ weights + bias)
    reflects, p_reflect = steps.kinds < N_REFLECTIVE, p[:, :N_REFLECTIVE].sum(1)
    best = max((f1(reflects, p_reflect >= t), round(t, 3)) for t in np.arange(0.05, 0.95, 0.025))
    print(f"{len(fold):,} steps of {len(names)} documents, {reflects.mean():.1%} reflective")
    print(f"cross-validated: accuracy of the kind {(p.argmax(1) == steps.kinds).mean():.3f}, AUROC "
          f"{auroc(reflects, p_reflect):.3f}, best F1 {best[0]:.3f} at threshold {best[1]}")  # fmt: skip
    _print_agreement()


def _print_agreement() -> None:
    first, second = _labels("1"), _labels("2")
    pairs = [
        (first[d][s], k)
        for d, steps in second.items()
        for s, k in steps.items()
        if s in first.get(d, {})
    ]
    for what, same in (
        ("kinds", lambda kind: kind),
        ("reflection", lambda kind: KINDS.index(kind) < N_REFLECTIVE),
    ):
        a, b = [same(x) for x, _ in pairs], [same(y) for _, y in pairs]
        print(
            f"agreement of the two passes on {what}: Cohen's kappa {kappa(a, b):.3f} (n = {len(pairs)})"
        )


# --- measuring -------------------------------------------------------------------------------------------------
class Gold(NamedTuple):
    """One labelled document: its question, text and, for each labelled unit, start, stop and whether it reflects."""

    question: str
    text: str
    units: list[tuple[int, int, bool]]


def gold_sets() -> dict[str, list[Gold]]:
    """The labelled sets, each with the labels that count as reflection; the two that people made come first."""
    labelled = {"schoenfeld_human": {"Monitor", "Verify", "Explore"}}
    labelled["venhoff_gpt4o"] = {"backtracking", "uncertainty-estimation"}
    labelled["thought_anchors"] = {
        "uncertainty_management",
        "self_checking",
    }  # tags of the source, not ours
    labelled["bias_anchors"] = {"backtracking", "uncertainty_expression"}
    sets = {"ReasoningFlow, people": list(_gold_reasoningflow())}
    for name, positive in labelled.items():
        sets[name] = [
            Gold(
                t.prompt_id,
                t.completion,
                [(a, b, not positive.isdisjoint(label.split(","))) for a, b, label in t.labels],
            )
            for t in read_traces(DATA / "labels" / f"{name}.jsonl.gz")
        ]
    return {
        "ReasoningFlow, people": sets["ReasoningFlow, people"],
        "Schoenfeld, people": sets["schoenfeld_human"],
        "Venhoff, GPT-4o": sets["venhoff_gpt4o"],
        "Thought anchors, LLM (text seen)": sets["thought_anchors"],
        "Bias anchors, LLM (text seen)": sets["bias_anchors"],
    }


def _gold_reasoningflow() -> Iterator[Gold]:
    """Reflection is a node of that name, or the target of a plan:verify or plan:backtrack edge."""
    with gzip.open(
        DATA / "labels" / "reasoningflow_human.jsonl.gz", "rt", encoding="utf-8"
    ) as file:
        for row in map(json.loads, file):
            targets = {
                b for _, b, label in row["edges"] if label in ("plan:verify", "plan:backtrack")
            }
            units = [
                (a, b, label == "reflection" or key in targets)
                for key, a, b, label, part in row["spans"]
                if part == "r"
            ]
            yield Gold(row["question"], row["response"], units)


def measure() -> None:
    """Prints precision, recall, F1, average precision and calibration beside the word lists, set by set."""
    scorers: dict[str, Callable[[list[str]], NDArray[np.float64]]] = {
        "classifier": lambda texts: classify(texts).p_reflect,
        **{
            name: lambda texts, name=name: np.array(
                [float(count_words(text, name)) for text in texts]
            )
            for name in ("markers16", "cyclic_reflex", "r2mu")
        },
    }
    columns = (
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
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name, documents in gold_sets().items():
        for detector, scorer in scorers.items():
            results = [_scores(document, scorer) for document in documents]
            truth, score = (np.concatenate(part) for part in zip(*results, strict=True))
            limit = THRESHOLD if detector == "classifier" else 1
            decided = score >= limit
            low, high = f1_interval(
                [d.question for d in documents], [(t, s >= limit) for t, s in results]
            )
            both = (truth & decided).sum()
            cells = [
                name,
                f"{len(truth):,}",
                f"{truth.mean():.0%}",
                detector,
                f"{both / decided.sum():.2f}",
            ]
            cells += [
                f"{both / truth.sum():.2f}",
                f"{f1(truth, decided):.3f}",
                f"{low:.2f} to {high:.2f}",
            ]
            if detector == "classifier":
                quality = (
                    average_precision(truth, score),
                    auroc(truth, score),
                    calibration_error(truth, score),
                )
                cells += [f"{number:.2f}" for number in quality]
            print("| " + " | ".join(cells) + " |" * (1 + len(columns) - len(cells)), flush=True)


def _scores(document: Gold, scorer: Callable) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """For each unit: whether it reflects, and the score of the step that covers most of it; 0 where it is unknown."""
    spans = segment(document.text)
    score = scorer([span.of(document.text) for span in spans])
    starts = np.array([span.start for span in spans])
    truth, scores = [], []
    for start, stop, reflects in document.units:
        first, last = (
            max(np.searchsorted(starts, start, "right") - 1, 0),
            np.searchsorted(starts, stop, "left"),
        )
        overlap = [
            min(stop, spans[i].stop) - max(start, spans[i].start)
            for i in range(first, max(last, first + 1))
        ]
        truth.append(reflects)
        scores.append(np.nan_to_num(score[first + int(np.argmax(overlap))]))
    return np.array(truth, bool), np.array(scores)


def kappa(a: Sequence, b: Sequence) -> float:
    """Cohen's kappa of two labellings."""
    agreed = np.mean([x == y for x, y in zip(a, b, strict=True)])
    chance = sum(a.count(label) * b.count(label) for label in set(a)) / len(a) ** 2  # type: ignore[attr-defined]
    return float((agreed - chance) / (1 - chance))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--measure", action="store_true", help="measure the shipped weights instead of fitting"
    )
    if parser.parse_args().measure:
        measure()
    else:
        labelled = training_steps()
        cross_validate(labelled)
        final_weights, final_bias = fit(labelled)
        np.savez_compressed(
            WEIGHTS,
            weights=final_weights.astype(np.float16),
            bias=final_bias.astype(np.float32),
            kinds=np.array(KINDS),
        )
        print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size / 1000:.0f} kB")
