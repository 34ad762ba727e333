"""What a step does: the kinds of step, and the classifier that finds them.

A step *reflects* when it looks at the reasoning rather than at the problem: it doubts, backtracks,
turns to an alternative, verifies or assesses. docs/codebook.md defines the kinds; docs/detectors.md
reports how well the classifier finds them on labels that people made.

The classifier is a multinomial logistic regression over hashed words, word pairs, and the words of
the neighbouring steps. Its weights (`reflect.npz`) hold no text; `trainers/fit/reflect.py` makes
them from the project's own labels.
"""

from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotlens.detect.features import Weights, feature_sums, load_weights, tokenize
from cotlens.detect.language import is_english


class Kind(StrEnum):
    """What a step does. The first five are reflection."""

    DOUBT = "doubt"
    BACKTRACK = "backtrack"
    ALTERNATIVE = "alternative"
    VERIFY = "verify"
    ASSESS = "assess"
    CONJECTURE = "conjecture"
    PLAN = "plan"
    RESTATE = "restate"
    RECALL = "recall"
    INFER = "infer"
    CONCLUDE = "conclude"
    OTHER = "other"


KINDS = tuple(Kind)
N_REFLECTIVE = 5
# A step counts as reflection from this probability on: the best F1 in cross-validation on the
# training labels, rounded. It was fixed there, not on the labelled sets that test the classifier.
THRESHOLD = 0.3


class StepKinds(NamedTuple):
    """Kinds of the steps of one trace, one entry per step.

    Attributes:
        kind: the most probable kind among the reflective ones if the step reflects, else among the
            others; "" where the language is not English.
        p_reflect: probability that the step reflects, the sum over the five reflective kinds; NaN
            where the language is not English, which the classifier was not trained on.
        is_reflection: p_reflect >= THRESHOLD; None where p_reflect is NaN.
    """

    kind: list[str]
    p_reflect: NDArray[np.float64]
    is_reflection: list[bool | None]


def classify(texts: Sequence[str]) -> StepKinds:
    """Kinds of the steps of one trace, given as texts in order (neighbours are context).

    >>> texts = ["2 + 2 = 5. ", "Wait, that can't be right. ", "Let me check. ", "2 + 2 = 4."]
    >>> classify(texts).is_reflection
    [False, True, True, False]
    """
    if isinstance(texts, str):
        raise TypeError("classify takes the texts of a trace's steps, a list; got one text")
    if len(texts) == 0:
        return StepKinds([], np.zeros(0), [])
    tokens = [tokenize(text) for text in texts]
    (sums,) = feature_sums(tokens, reflect_weights())
    return decide_kinds(sums, is_english(texts, tokens))


def decide_kinds(sums: NDArray[np.float64], english: NDArray[np.bool_]) -> StepKinds:
    """Kinds from the sums of their weights, one row per step, where the language is English."""
    p = np.exp(sums - sums.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p_reflect = p[:, :N_REFLECTIVE].sum(axis=1)
    reflects = p_reflect >= THRESHOLD
    best = np.where(
        reflects, p[:, :N_REFLECTIVE].argmax(1), N_REFLECTIVE + p[:, N_REFLECTIVE:].argmax(1)
    )
    return StepKinds(
        [KINDS[i].value if known else "" for i, known in zip(best, english, strict=True)],
        np.where(english, p_reflect, np.nan),
        [bool(r) if known else None for r, known in zip(reflects, english, strict=True)],
    )


@cache
def reflect_weights() -> Weights:
    """The weights of the kinds."""
    return load_weights("reflect.npz", [kind.value for kind in KINDS])
