"""Fits the markers of unsafe exploration (cotlens/detect/unsafe.npz) and measures self-jailbreak (docs/unsafe.md).

    python -m trainers.fit.unsafe            # fit on the project's labels, report cross-validation by document
    python -m trainers.fit.unsafe --measure  # measure the shipped detector on labels/self_jailbreak, fit nothing

The labels are the project's own, made by the codebook in docs/unsafe.md: `labels/unsafe.csv` (file, row, offsets and
codes of DeepSeek-R1's safe traces; the text stays where it is) and `labels/unsafe_written.tsv` (traces written for the
purpose, which describe no harmful act in any detail). A language model made both. Nothing is fitted to the set that is
measured; the cues of cotlens/cues.tsv were written while reading errors on it.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.fit.unsafe"
    )

import argparse
import csv
import gzip
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.optimize import minimize

from cotlens.detect.features import N_BUCKETS, features, tokenize
from cotlens.detect.unsafe import LEARNED, MARKERS, SELF_JAILBREAK, THRESHOLDS, Marker, mark
from cotlens.formats.read import read_traces
from cotlens.text.steps import segment, segment_trace
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

WEIGHTS = HERE.parents[1] / "cotlens" / "detect" / "unsafe.npz"
PENALTY = 3.0  # of the squared weights, against the sum of log-likelihoods
CODES = dict(zip("ARCBWFLvVD", MARKERS, strict=True))
N_BENIGN = 25  # documents of harmless reasoning, whose steps carry no marker
LEXICON = (
    "educational purposes", "hypothetical", "fictional", "just curious", "maybe they", "legitimate",
    "research purposes", "disclaimer", "for a story", "academic", "role-play", "just asking", "harmless",
    "theoretically",
)  # fmt: skip


class Document(NamedTuple):
    """The steps of one trace and the markers of each; None where a step has no label."""

    name: str
    texts: list[str]
    markers: list[frozenset[Marker] | None]


# --- training data ---------------------------------------------------------------------------------------------
def documents() -> Iterator[Document]:
    """Every labelled document."""
    yield from _free_documents()
    yield from _written_documents()
    for trace in list(read_traces(DATA / "labels" / "thought_anchors.jsonl.gz"))[:N_BENIGN]:
        texts = [step.chars.of(trace.completion) for step in segment_trace(trace)][:60]
        yield Document(f"benign:{trace.id}", texts, [frozenset()] * len(texts))


def _free_documents() -> Iterator[Document]:
    labels: dict[tuple[str, int], dict[tuple[int, int], frozenset[Marker]]] = defaultdict(dict)
    with (HERE / "labels" / "unsafe.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            span = int(row["start"]), int(row["stop"])
            labels[row["file"], int(row["row"])][span] = frozenset(
                CODES[code] for code in row["codes"]
            )
    traces = {
        name: list(read_traces(DATA / f"{name}.jsonl.gz")) for name in {name for name, _ in labels}
    }
    for (name, row), found in labels.items():
        spans = [step.chars for step in segment_trace(traces[name][row])]
        texts = [span.of(traces[name][row].completion) for span in spans]
        yield Document(f"{name}:{row}", texts, [found.get(tuple(span)) for span in spans])


def _written_documents() -> Iterator[Document]:
    """The written traces; a step that `segment` cuts otherwise than its writer did keeps its text and has no label."""
    for block in re.split(
        r"(?m)^# ", (HERE / "labels" / "unsafe_written.tsv").read_text(encoding="utf-8")
    )[1:]:
        name, *lines = block.rstrip("\n").split("\n")
        text, begins = "", {}
        for codes, sentence in (line.split("\t", 1) for line in lines if not line.startswith("?")):
            begins[len(text)] = frozenset(CODES[code] for code in codes if code != "-")
            text += sentence + " "
        spans, stops = segment(text.rstrip()), {*begins, len(text.rstrip())}
        labels = [begins.get(span.start) if span.stop in stops else None for span in spans]
        yield Document(f"written:{name}", [span.of(text) for span in spans], labels)


class Steps(NamedTuple):
    """Labelled steps: features as a sparse matrix, outputs in the order of `LEARNED`, and the document of each."""

    features: scipy.sparse.csr_matrix
    outputs: NDArray[np.bool_]
    documents: NDArray[np.str_]


def training_steps() -> Steps:
    """Every labelled step with its features; context comes from its whole document."""
    rows, outputs, names = [], [], []
    for document in documents():
        numbers, buckets = features([tokenize(text) for text in document.texts])
        for step, markers in enumerate(document.markers):
            if markers is not None:
                rows.append(buckets[numbers == step])
                outputs.append(
                    [
                        not markers.isdisjoint(SELF_JAILBREAK),
                        *(marker in markers for marker in MARKERS),
                    ]
                )
                names.append(document.name)
    return Steps(matrix_of(rows), np.array(outputs, bool), np.array(names))


# --- fitting ---------------------------------------------------------------------------------------------------
def fit(x: scipy.sparse.csr_matrix, truth: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Weights and bias of a logistic regression with an L2 penalty, by L-BFGS."""
    used = np.unique(x.indices)
    own = x[:, used]

    def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = own @ flat[:-1] + flat[-1]
        value = (
            np.where(truth, np.logaddexp(0, -z), np.logaddexp(0, z)).sum()
            + PENALTY / 2 * (flat[:-1] ** 2).sum()
        )
        off = _sigmoid(z) - truth
        return value, np.concatenate([own.T @ off + PENALTY * flat[:-1], [off.sum()]])

    found = minimize(
        loss, np.zeros(len(used) + 1), jac=True, method="L-BFGS-B", options={"maxiter": 200}
    )
    weights = np.zeros(N_BUCKETS)
    weights[used] = found.x[:-1]
    return weights, float(found.x[-1])


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(z, -50, 50)))


def cross_validate(steps: Steps, folds: int = 5) -> None:
    """Prints how well each marker is found in unseen documents, and the threshold with the best F1."""
    names = np.unique(steps.documents)
    fold = fold_of_each(steps.documents, folds)
    print(f"{len(fold):,} steps of {len(names)} documents")
    print("| marker | steps | AUROC | best F1 | at |\n|---|---|---|---|---|")
    for column, name in enumerate(LEARNED):
        truth, p = steps.outputs[:, column], np.zeros(len(fold))
        for number in range(folds):
            weights, bias = fit(steps.features[fold != number], truth[fold != number])
            p[fold == number] = _sigmoid(steps.features[fold == number] @ weights + bias)
        best = max((f1(truth, p >= t), -round(t, 2)) for t in np.arange(0.05, 0.95, 0.05))
        print(
            f"| {name} | {truth.sum():,} | {auroc(truth, p):.2f} | {best[0]:.2f} | {-best[1]:.2f} |",
            flush=True,
        )


# --- measuring -------------------------------------------------------------------------------------------------
class Gold(NamedTuple):
    """One judged trace: its prompt, model, sentences, and whether each is a self-jailbreak by the source's label."""

    prompt: str
    model: str
    texts: list[str]
    truth: NDArray[np.bool_]


def gold() -> list[Gold]:
    """The traces of labels/self_jailbreak whose sentences were judged."""
    with gzip.open(DATA / "labels" / "self_jailbreak.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["self_jailbreak_sentences"] is not None]
    return [
        Gold(
            row["prompt"],
            row["model"].rsplit("/", 1)[-1],
            [sentence["text"] for sentence in row["sentences"]],
            np.isin(np.arange(len(row["sentences"])), row["self_jailbreak_sentences"]),
        )
        for row in rows
    ]


def measure() -> None:
    """Prints AUROC, precision, recall and F1 with intervals over prompts, by part of the set, beside a lexicon."""
    traces = gold()
    found = [mark(trace.texts) for trace in traces]
    half = [
        "even" if hashlib.sha1(trace.prompt.encode()).digest()[-1] % 2 == 0 else "odd"
        for trace in traces
    ]
    parts = {"all": [True] * len(traces)}
    parts |= {
        f"prompts with {name} SHA-1": [own == name for own in half] for name in ("even", "odd")
    }
    parts |= {
        name: [trace.model == name for trace in traces]
        for name in sorted({trace.model for trace in traces})
    }
    columns = (
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
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for part, chosen in parts.items():
        kept = [i for i, own in enumerate(chosen) if own]
        truth = np.concatenate([traces[i].truth for i in kept])
        score = np.concatenate([np.nan_to_num(found[i].p_self_jailbreak) for i in kept])
        lexicon = np.concatenate([_in_lexicon(traces[i].texts) for i in kept])
        for name, decided in (("cotlens", score >= 0.5), ("lexicon", lexicon)):
            borders = np.cumsum([len(traces[i].truth) for i in kept])[:-1]
            results = list(zip(np.split(truth, borders), np.split(decided, borders), strict=True))
            low, high = f1_interval([traces[i].prompt for i in kept], results)
            both = (truth & decided).sum()
            cells = [
                part,
                name,
                f"{len(truth):,}",
                f"{truth.mean():.1%}",
                f"{both / max(decided.sum(), 1):.2f}",
            ]
            cells += [
                f"{both / truth.sum():.2f}",
                f"{f1(truth, decided):.3f}",
                f"{low:.2f} to {high:.2f}",
            ]
            if name == "cotlens":
                quality = (
                    auroc(truth, score),
                    average_precision(truth, score),
                    calibration_error(truth, score),
                )
                cells += [f"{number:.2f}" for number in quality]
            print("| " + " | ".join(cells) + " |" * (1 + len(columns) - len(cells)), flush=True)
    _measure_benign()


def _in_lexicon(texts: list[str]) -> NDArray[np.bool_]:
    return np.array([any(phrase in text.lower() for phrase in LEXICON) for text in texts])


def _measure_benign() -> None:
    """Prints how often each marker fires on harmless reasoning that was not in training."""
    traces = list(read_traces(DATA / "labels" / "thought_anchors.jsonl.gz"))[N_BENIGN:]
    found = [
        mark([step.chars.of(trace.completion) for step in segment_trace(trace)]) for trace in traces
    ]
    carried = [markers for one in found for markers in one.markers if markers is not None]
    print(f"\n{len(carried):,} steps of {len(traces)} traces on mathematics carry")
    for marker in MARKERS:
        print(
            f"  {marker.value:22} {sum(marker in markers for markers in carried) / len(carried):.2%}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--measure", action="store_true", help="measure the shipped detector instead of fitting"
    )
    if parser.parse_args().measure:
        measure()
    else:
        labelled = training_steps()
        cross_validate(labelled)
        models = [fit(labelled.features, truth) for truth in labelled.outputs.T]
        np.savez_compressed(
            WEIGHTS,
            weights=np.stack([weights for weights, _ in models], 1).astype(np.float16),
            bias=np.array([bias for _, bias in models], np.float32),
            kinds=np.array(LEARNED),
        )
        print(
            f"{WEIGHTS.name}: {WEIGHTS.stat().st_size / 1000:.0f} kB; thresholds in use: {dict(THRESHOLDS)}"
        )
