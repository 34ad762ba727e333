"""Labelled traces, read from files, and the features of their steps."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray

from cotlens.detect.features import N_BUCKETS, features, tokenize
from cotlens.formats.read import read_traces
from cotlens.text.steps import segment, segment_trace
from cotlens.trace import Trace

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "cotlens" / "detect"
LABELS = Path(__file__).parent / "labels"
DATA = Path(os.environ.get("COTLENS_DATA", ROOT.parent / "shared" / "data"))


class Document(NamedTuple):
    """One trace: the texts of its steps and their labels; None where a step has no label."""

    name: str
    texts: list[str]
    labels: list[Any]


class Steps(NamedTuple):
    """The labelled steps of all documents.

    Attributes:
        features: (steps, N_BUCKETS), 1 where a step has a feature.
        labels: One entry or one row a step.
        documents: The name of each step's document.
    """

    features: scipy.sparse.csr_matrix
    labels: NDArray
    documents: NDArray


def free_documents(table: pd.DataFrame) -> Iterator[Document]:
    """Yield the labelled traces of the data folder.

    Args:
        table: One labelled step a row. `file` and `row` name its trace, `start` and `stop` are its
            characters in the completion, and `label` is its label.
    """
    labels_of_trace = defaultdict(dict)
    for step in table.itertuples():
        label_of_step = labels_of_trace[step.file, step.row]
        label_of_step[step.start, step.stop] = step.label

    for (file, row), label_of_step in labels_of_trace.items():
        traces = read_data(file)
        trace = traces[row]

        # Steps without a label are context.
        texts = []
        labels = []
        for step in segment_trace(trace):
            span = step.chars
            texts.append(span.of(trace.completion))
            labels.append(label_of_step.get(span))

        yield Document(f"{file}:{row}", texts, labels)


@cache
def read_data(file: str) -> list[Trace]:
    """Return the traces of a file in the data folder, named without its ending .jsonl.gz."""
    path = DATA / f"{file}.jsonl.gz"
    return list(read_traces(path))


def written_documents(file: str, label_of: Callable[[str], Any]) -> Iterator[Document]:
    """Yield the traces in a file of `labels` that were written for the purpose.

    `# TITLE` begins a trace, and `?`, a tab and a text are its request. Every other line is a step
    as its writer cut it: codes, a tab, and its text. An empty line is a paragraph break. A step
    that `segment` cuts differently keeps its text and has no label.

    Args:
        file: The name of the file.
        label_of: Turns codes into a label.
    """
    path = LABELS / file
    content = path.read_text(encoding="utf-8")

    # Nothing comes before the first title.
    _, *blocks = re.split(r"(?m)^# ", content)
    for block in blocks:
        block = block.rstrip("\n")
        title, *lines = block.split("\n")

        # The thinking, and the label of each of the writer's steps by its first character.
        thinking = ""
        label_at = {}
        for line in lines:
            if not line:
                thinking = thinking.rstrip(" ") + "\n\n"
                continue

            codes, words = line.split("\t", 1)
            if codes == "?":
                continue
            label_at[len(thinking)] = label_of(codes)
            thinking += words.strip() + " "

        thinking = thinking.rstrip()
        borders = {*label_at, len(thinking)}

        texts = []
        labels = []
        for span in segment(thinking):
            label = None
            if span.stop in borders:
                label = label_at.get(span.start)

            texts.append(span.of(thinking))
            labels.append(label)

        yield Document(f"written:{title}", texts, labels)


def labelled_steps(documents: Iterable[Document]) -> Steps:
    """Return every labelled step with its features; context comes from its whole document."""
    buckets_of_steps = []
    labels = []
    names = []
    for document in documents:
        tokens = [tokenize(text) for text in document.texts]
        step_numbers, buckets = features(tokens)

        for step, label in enumerate(document.labels):
            if label is None:
                continue
            buckets_of_steps.append(buckets[step_numbers == step])
            labels.append(label)
            names.append(document.name)

    # A sparse matrix with a one in each bucket of a step's row.
    columns = np.concatenate(buckets_of_steps)
    row_ends = np.cumsum([0, *map(len, buckets_of_steps)])
    shape = (len(labels), N_BUCKETS)
    ones = np.ones(len(columns))
    matrix = scipy.sparse.csr_matrix((ones, columns, row_ends), shape)

    return Steps(matrix, np.array(labels), np.array(names))
