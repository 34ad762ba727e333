"""Traces that others labelled: the units of their labels, and whether each unit reflects."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotlens.text.steps import segment
from cotlens.trace import Span
from trainers.fit.documents import Document, read_data, read_rows

# RT-SEG's classes that reflect.
RTSEG_REFLECTIVE = frozenset({"Self Checking", "Uncertainty Management"})

# Sets that cotlens reads: name, file, and the source's labels that count as reflection.
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

# Takes the texts of a trace's steps and returns a score for each.
Scorer = Callable[[list[str]], NDArray]


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


def gold_sets() -> dict[str, list[Gold]]:
    """Return the labelled sets by name; those that people labelled come first."""
    sets = {
        "ReasoningFlow, people (fitted to)": reasoningflow("reasoningflow_human"),
        "RT-SEG, people (fitted to)": rtseg(),
    }
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


def reasoningflow(name: str) -> list[Gold]:
    """Return the documents of ReasoningFlow in a file of `labels`.

    A unit reflects if it is a node `reflection`, or the target of a plan:verify or plan:backtrack
    edge.
    """
    documents = []
    for row in read_rows(f"labels/{name}"):
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


def rtseg() -> list[Gold]:
    """Return the documents of RT-SEG, once for each annotator.

    Its documents are some of ReasoningFlow's, and take their questions from there.
    """
    question_of = {}
    for row in read_rows("labels/reasoningflow_human"):
        question_of[row["doc_id"]] = row["question"]

    documents = []
    for row in read_rows("labels/rtseg_human"):
        question = question_of.get(row["id"], row["id"])
        for spans in row["annotators"].values():
            units = []
            for start, stop, label in spans:
                units.append((start, stop, label in RTSEG_REFLECTIVE))
            documents.append(Gold(question, row["text"], units))
    return documents


def covering_steps(gold: Gold, steps: Sequence[Span]) -> list[int]:
    """Return for each unit the number of the step that covers most of it, the first of equals."""
    starts = [step.start for step in steps]
    covering = []
    for start, stop, _ in gold.units:
        # From the step in which the unit starts, to the last step that starts before its stop.
        first = max(bisect_right(starts, start) - 1, 0)
        end = max(bisect_left(starts, stop), first + 1)

        overlaps = []
        for step in steps[first:end]:
            overlap_start = max(start, step.start)
            overlap_stop = min(stop, step.stop)
            overlaps.append(overlap_stop - overlap_start)
        covering.append(first + int(np.argmax(overlaps)))
    return covering


def gold_document(gold: Gold) -> Document:
    """Return the steps of a document, labelled by whether the units that they cover reflect."""
    steps = segment(gold.text)
    texts = [step.of(gold.text) for step in steps]
    numbers = covering_steps(gold, steps)

    labels = []
    for _, _, reflects in gold.units:
        labels.append(reflects)
    return Document(gold.question, texts, numbers, labels)


def score_units(gold: Gold, scorer: Scorer) -> tuple[NDArray[np.bool_], NDArray]:
    """Return whether each unit reflects, and its score.

    The score of a unit is that of the step that covers most of it; 0 where that is NaN.
    """
    document = gold_document(gold)
    truth = np.array(document.labels, bool)

    step_scores = scorer(document.texts)
    scores = step_scores[document.numbers]
    known_scores = np.nan_to_num(scores)
    return truth, known_scores
