"""Labelled traces, read from files, the features of their steps, and the fitted weights on disk."""

import gzip
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse
from numpy.typing import NDArray

from cotlens.detect.features import OFFSETS, features
from cotlens.detect.tokens import read_steps
from cotlens.formats.read import read_traces
from cotlens.text.steps import segment, segment_trace
from cotlens.trace import Trace

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "cotlens" / "detect"
LABELS = Path(__file__).parent / "labels"
DATA = Path(os.environ.get("COTLENS_DATA", ROOT.parent / "shared" / "data"))


class Document(NamedTuple):
    """One trace: the texts of all its steps, and labels of some of them.

    Attributes:
        name: What it is called; documents on the same question may share a name.
        texts: The texts of its steps.
        numbers: The number of the step that each label belongs to. A step may have several labels.
        labels: The labels.
    """

    name: str
    texts: list[str]
    numbers: list[int]
    labels: list[Any]


class Steps(NamedTuple):
    """The labelled steps of all documents, one entry or one row a label.

    Attributes:
        features: (labels, offsets * buckets): how often the step, or its neighbour at an offset,
            has a feature.
        labels: The labels.
        documents: The name of each step's document.
        places: The number of each step in its document, and how many steps that has, (labels, 2).
    """

    features: scipy.sparse.csr_matrix
    labels: NDArray
    documents: NDArray
    places: NDArray


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
        numbers = []
        labels = []
        for step in segment_trace(trace):
            span = step.chars
            texts.append(span.of(trace.completion))
            if span in label_of_step:
                numbers.append(step.index)
                labels.append(label_of_step[span])

        yield Document(f"{file}:{row}", texts, numbers, labels)


@cache
def read_data(file: str) -> list[Trace]:
    """Return the traces of a file in the data folder, named without its ending .jsonl.gz."""
    path = DATA / f"{file}.jsonl.gz"
    return list(read_traces(path))


def read_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file in the data folder as they are, named without its ending."""
    path = DATA / f"{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def step_texts(trace: Trace) -> list[str]:
    """Return the texts of the steps of a trace."""
    texts = []
    for step in segment_trace(trace):
        text = step.chars.of(trace.completion)
        texts.append(text)
    return texts


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
        numbers = []
        labels = []
        for number, span in enumerate(segment(thinking)):
            texts.append(span.of(thinking))
            if span.start in label_at and span.stop in borders:
                numbers.append(number)
                labels.append(label_at[span.start])

        yield Document(f"written:{title}", texts, numbers, labels)


def labelled_steps(documents: Iterable[Document], n_buckets: int) -> Steps:
    """Return every labelled step with its features; context comes from its whole document."""
    # Four columns that grow together.
    matrices = []
    labels = []
    names = []
    places = []
    for document in documents:
        matrix = _features_of_steps(document.texts, n_buckets)
        matrices.append(matrix[document.numbers])
        labels.extend(document.labels)

        n_steps = len(document.texts)
        for number in document.numbers:
            names.append(document.name)
            places.append((number, n_steps))

    matrix = scipy.sparse.csr_matrix(scipy.sparse.vstack(matrices))
    return Steps(matrix, np.array(labels), np.array(names), np.array(places))


def _features_of_steps(texts: list[str], n_buckets: int) -> scipy.sparse.csr_matrix:
    """Return how often each step of a document has each feature: (steps, offsets * buckets)."""
    n_steps = len(texts)
    itself = features(read_steps([texts]))
    every_step = np.arange(n_steps)

    # The step and the bucket of each feature. The steps are numbered from the padding on, which
    # has no feature.
    lengths = np.diff(itself.starts, append=itself.words.shape[1])
    step_of_word = np.repeat(every_step, lengths)
    step_numbers = np.concatenate(
        [
            np.tile(step_of_word, len(itself.words)),
            np.tile(every_step, len(itself.steps)),
            itself.short,
        ]
    )
    rows = step_numbers + 1
    hashes = np.concatenate([itself.words.ravel(), itself.steps.ravel(), itself.wholes])
    buckets = (hashes % n_buckets).astype(np.int64)

    # The matrix adds up what occurs twice.
    ones = np.ones(len(buckets), np.float32)
    shape = (n_steps + 2, n_buckets)
    matrix = scipy.sparse.csr_matrix((ones, (rows, buckets)), shape)

    # Next to the features of a step stand those of its neighbours.
    of_offsets = []
    for offset in OFFSETS:
        of_offsets.append(matrix[every_step + 1 + offset])
    return scipy.sparse.csr_matrix(scipy.sparse.hstack(of_offsets))


def pack_weights(weights: NDArray, n_buckets: int) -> NDArray:
    """Return weights, (outputs, offsets * buckets), in the shape that `Weights` has them."""
    by_offset = weights.reshape(-1, len(OFFSETS), n_buckets)
    return by_offset.transpose(2, 1, 0)


def save_weights(
    name: str, outputs: Sequence[str], weights: NDArray, bias: NDArray, **more: Any
) -> None:
    """Write weights in half precision to a file of cotlens/detect, and print its size.

    Args:
        name: The file, such as `reflect.npz`.
        outputs: Names of the outputs.
        weights: In the shape in which the package reads them.
        bias: One number an output.
        more: Further arrays, which are written as they are.
    """
    path = WEIGHTS / name
    np.savez_compressed(
        path,
        weights=weights.astype(np.float16, order="C"),
        bias=bias.astype(np.float32),
        outputs=np.array(outputs),
        **more,
    )

    kilobytes = path.stat().st_size / 1000
    print(f"{name}: {kilobytes:.0f} kB")
