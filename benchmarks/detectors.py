"""Step detectors and splitters against people: boundaries, reflection, agreement and speed.

    python -m benchmarks.detectors                          # the table of docs/yardstick.md
    python -m benchmarks.detectors --detector MODULE:NAME   # a function of your own alone

Run from the root of the repository. The texts and labels are RT-SEG's and ReasoningFlow's, read
from COTLENS_DATA; docs/yardstick.md says where they are published and how to lay them. A peer that
is not installed is left out, and named.

A detector is a function of one text:

    def detect(text: str) -> list[Unit]

It returns the units it cuts the text into, in order. A `Unit` has its first character, whether it
reflects (None from a splitter), and a score that ranks units by reflection (None if it has none).
"""

import argparse
import importlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

from cotlens.detect.reflect import THRESHOLD, decision_inputs, quadratic_terms
from cotlens.detect.words import WORD_LISTS, count_words
from cotlens.text.steps import segment
from cotlens.trace import Span
from trainers.fit.documents import Document, labelled_steps
from trainers.fit.gold import Gold, covering_steps, reasoningflow, rtseg
from trainers.fit.metrics import N_FOLDS, FlagsOfDocuments, decision_cells, fold_of, print_table
from trainers.fit.reflect import (
    N_BUCKETS,
    Sets,
    fit_decision,
    fit_reflection,
    training_sets,
    unseen_outputs,
    without_fold,
)


class Unit(NamedTuple):
    """One unit of a text.

    Attributes:
        start: its first character; white space before a word makes no difference.
        reflects: whether it reflects; None: the detector only splits.
        score: the higher, the likelier it reflects; None: the detector only decides.
    """

    start: int
    reflects: bool | None = None
    score: float | None = None


Detector = Callable[[str], list[Unit]]

COLUMNS = ("set", "detector", "what", "P", "R", "F1", "95% interval", "AUROC", "MB/s")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--detector", metavar="MODULE:NAME", help="a function of your own")
    path = parser.parse_args().detector

    detectors = {}
    if path:
        module, name = path.split(":")
        detectors[path] = getattr(importlib.import_module(module), name)
    else:
        detectors["cotlens, other questions"] = cross_fitted()
        detectors |= word_lists()
        detectors |= installed_peers()

    golds = {"RT-SEG": rtseg(), "ReasoningFlow": reasoningflow("reasoningflow_human")}
    print_table(COLUMNS, _rows(golds, detectors))


def _rows(golds: dict[str, list[Gold]], detectors: dict[str, Detector]) -> Iterator[list[str]]:
    """Yield the rows: for each set the annotators, then every detector."""
    for set_name, documents in golds.items():
        first, second = annotator_pairs(documents)
        n_pairs = len(first) // 2
        name = f"two people ({n_pairs} documents)"
        yield from _rows_of(set_name, name, first, second)

        # The same text may stand twice, with the labels of two people.
        texts = {document.text for document in documents}
        n_bytes = 0
        for text in texts:
            n_bytes += len(text.encode())

        for detector_name, detector in detectors.items():
            units_of = {}
            began = time.process_time()
            for text in texts:
                units_of[text] = detector(text)
            seconds = time.process_time() - began

            megabytes = n_bytes / 1e6
            speed = f"{megabytes / seconds:.2g}"
            all_units = [units_of[document.text] for document in documents]
            yield from _rows_of(set_name, detector_name, documents, all_units, speed)


def _rows_of(
    set_name: str, name: str, documents: list[Gold], found: list[list[Unit]], speed: str = ""
) -> Iterator[list[str]]:
    """Yield the row of the boundaries and, if the detector decides about it, that of reflection."""
    questions = [document.question for document in documents]
    truths, decisions = boundary_flags(documents, found)
    cells = decision_cells(questions, truths, decisions)
    yield [set_name, name, "boundaries", *cells, "", speed]

    if found[0][0].reflects is None:
        return
    truths, decisions, scores = reflection_flags(documents, found)
    cells = decision_cells(questions, truths, decisions)
    auroc = ""
    if scores:
        auroc = f"{roc_auc_score(np.concatenate(truths), scores):.3f}"
    yield [set_name, name, "reflection", *cells, auroc]


def boundary_flags(
    documents: list[Gold], found: list[list[Unit]]
) -> tuple[FlagsOfDocuments, FlagsOfDocuments]:
    """Return for each place where a unit begins whether a labelled one does, and a detected one.

    A place is the first character that is no space.
    """
    truths = []
    decisions = []
    for document, units in zip(documents, found, strict=True):
        text = document.text
        labelled = set()
        for start, _, _ in document.units:
            labelled.add(_skip_space(text, start))

        detected = set()
        for unit in units:
            detected.add(_skip_space(text, unit.start))
        detected.discard(len(text))

        places = sorted(labelled | detected)
        is_labelled = [place in labelled for place in places]
        is_detected = [place in detected for place in places]
        truths.append(np.array(is_labelled))
        decisions.append(np.array(is_detected))
    return truths, decisions


def _skip_space(text: str, start: int) -> int:
    """Return the first character from `start` on that is no space."""
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def reflection_flags(
    documents: list[Gold], found: list[list[Unit]]
) -> tuple[FlagsOfDocuments, FlagsOfDocuments, list[float]]:
    """Return whether each labelled unit reflects, whether the detector says so, and its scores.

    A labelled unit takes the decision of the detected unit that covers most of it.
    """
    truths = []
    decisions = []
    scores = []
    for document, units in zip(documents, found, strict=True):
        # A detected unit ends where the next one begins.
        borders = [unit.start for unit in units]
        borders.append(len(document.text))
        spans = [Span(*border) for border in pairwise(borders)]

        # What each labelled unit takes.
        numbers = covering_steps(document, spans)
        truth = []
        decided = []
        for number, (_, _, reflects) in zip(numbers, document.units, strict=True):
            unit = units[number]
            truth.append(reflects)
            decided.append(bool(unit.reflects))
            if unit.score is not None:
                scores.append(unit.score)
        truths.append(np.array(truth))
        decisions.append(np.array(decided))
    return truths, decisions, scores


def annotator_pairs(documents: list[Gold]) -> tuple[list[Gold], list[list[Unit]]]:
    """Return the documents that two people labelled, and the other one's units of each."""
    by_text = defaultdict(list)
    for document in documents:
        by_text[document.text].append(document)

    golds = []
    found = []
    for pair in by_text.values():
        if len(pair) != 2:
            continue
        for gold, other in (pair, pair[::-1]):
            golds.append(gold)
            found.append([Unit(start, reflects) for start, _, reflects in other.units])
    return golds, found


# --- cotlens and word lists --------------------------------------------------------------------


def cross_fitted() -> Detector:
    """Return cotlens' detector with weights that were fitted to other questions than a text's."""
    sets = training_sets()
    inputs = unseen_outputs(sets)
    models = [_fit_without(sets, inputs, fold) for fold in range(N_FOLDS)]

    question_of = {}
    for document in [*rtseg(), *reasoningflow("reasoningflow_human")]:
        question_of[document.text] = document.question

    def detect(text: str) -> list[Unit]:
        strict, wide, mean, scale, decision = models[fold_of(question_of[text])]
        spans = segment(text)
        texts = [span.of(text) for span in spans]
        numbers = list(range(len(texts)))
        steps = labelled_steps([Document("", texts, numbers, numbers)], N_BUCKETS)

        strict_sums = strict.decision_function(steps.features)
        wide_sums = wide.decision_function(steps.features)
        inputs = decision_inputs(np.column_stack([strict_sums, wide_sums]))
        terms = quadratic_terms(inputs, mean, scale)
        p_of_classes = decision.predict_proba(terms)

        units = []
        for span, p in zip(spans, p_of_classes[:, 1], strict=True):
            units.append(Unit(span.start, p >= THRESHOLD, p))
        return units

    return detect


def _fit_without(sets: Sets, inputs: dict, fold: int) -> tuple:
    """Return the models of both outputs and of the decision that know nothing of a fold."""
    others = {}
    for name, steps in sets.items():
        questions = steps.documents.tolist()
        folds = np.array(list(map(fold_of, questions)))
        others[name] = inputs[name][folds != fold]

    rest = without_fold(sets, fold)
    outputs = fit_reflection(rest)
    decision = fit_decision(rest, others)
    return (*outputs, *decision)


def word_lists() -> dict[str, Detector]:
    """Return a detector for each word list: a step reflects if it has one of its words."""
    detectors = {}
    for name in WORD_LISTS:

        def detect(text: str, name: str = name) -> list[Unit]:
            units = []
            for span in segment(text):
                n_words = count_words(span.of(text), name)
                units.append(Unit(span.start, n_words > 0, n_words))
            return units

        detectors[f"words: {name}"] = detect
    return detectors


# --- peers, each as its documentation shows it -------------------------------------------------


def installed_peers() -> dict[str, Detector]:
    """Return the peers that are installed, each with its version."""
    peers = {
        "sentencex": _sentencex,
        "sakurs": _sakurs,
        "tokenizesentences": _tokenizesentences,
        "pysbd": _pysbd,
        "nltk": _punkt,
        "blingfire": _blingfire,
        "cotstruct": _cotstruct,
        "rtsa": _rtsa,
    }
    detectors = {}
    for name, make in peers.items():
        try:
            release = version(name)
            detectors[f"{name} {release}"] = make()
        except PackageNotFoundError:
            print(f"{name} is not installed: left out")
    return detectors


def _find_units(text: str, parts: list[str], flags: list[bool] | None = None) -> list[Unit]:
    """Return the units of a peer that gives texts without offsets; what is not found is skipped."""
    units = []
    at = 0
    for number, part in enumerate(parts):
        start = text.find(part.strip(), at)
        if start < 0 or not part.strip():
            continue
        reflects = flags[number] if flags else None
        units.append(Unit(start, reflects))
        at = start + len(part.strip())
    return units


def _sentencex() -> Detector:
    import sentencex

    return lambda text: _find_units(text, list(sentencex.segment("en", text)))


def _sakurs() -> Detector:
    import sakurs

    return lambda text: [Unit(s.start) for s in sakurs.split(text, return_details=True)]


def _tokenizesentences() -> Detector:
    from tokenizesentences import tokenize_spans

    return lambda text: [Unit(start) for start, _ in tokenize_spans(text)]


def _pysbd() -> Detector:
    import pysbd

    segmenter = pysbd.Segmenter(language="en", clean=False, char_span=True)
    return lambda text: [Unit(span.start) for span in segmenter.segment(text)]


def _punkt() -> Detector:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    tokenizer = PunktSentenceTokenizer()
    return lambda text: [Unit(start) for start, _ in tokenizer.span_tokenize(text)]


def _blingfire() -> Detector:
    import blingfire

    def detect(text: str) -> list[Unit]:
        _, spans = blingfire.text_to_sentences_and_offsets(text)
        return [Unit(start) for start, _ in spans]

    return detect


def _cotstruct() -> Detector:
    from cotstruct import StepClassifier, segment_sentences

    classifier = StepClassifier()

    def detect(text: str) -> list[Unit]:
        parts = segment_sentences(text)
        flags = []
        for part in parts:
            steps = classifier.classify(part)
            types = {step.step_type.value for step in steps}
            flags.append(not types.isdisjoint({"VER", "BCK"}))
        return _find_units(text, parts, flags)

    return detect


def _rtsa() -> Detector:
    from rtsa import RuleBasedExtractor

    extractor = RuleBasedExtractor()

    def detect(text: str) -> list[Unit]:
        nodes = extractor.extract(text).nodes
        reflective = ("Verify", "Backtrack", "Branch")
        return [Unit(node.span[0], node.type.value in reflective) for node in nodes]

    return detect


if __name__ == "__main__":
    main()
