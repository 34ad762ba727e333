"""What each step of a trace does, and whether it reflects.

A step reflects when it looks at the reasoning rather than at the problem: it doubts, backtracks,
turns to an alternative, verifies or assesses. docs/codebook.md defines the kinds; docs/detectors.md
reports how well the classifier finds them on labels that people made.

The kinds are a multinomial logistic regression over hashed words, word pairs, and those of the
neighbouring steps. Whether a step reflects is decided by two more such outputs, `strict` and
`wide`, and by where in the trace the step stands. The weights (`reflect.npz`) hold no text;
`trainers/fit/reflect.py` makes them from labels that are free to use.
"""

from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from importlib.resources import files
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotlens.detect.features import (
    Sums,
    Weights,
    feature_sums,
    load_weights,
)
from cotlens.detect.language import Language, is_english, languages
from cotlens.detect.rules import decide_by_rules
from cotlens.detect.tokens import Flags, Integers, Steps, read_steps, sums_before


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

# Outputs of the weights: the kinds, and two more. `strict` is what ReasoningFlow's annotators call
# reflection, a check or a backtrack. `wide` is the five reflective kinds, conjectures, and
# conclusions that repeat or check an earlier one (docs/codebook.md).
OUTPUTS = (*KINDS, "strict", "wide")

# A step counts as reflection from this probability on: the best mean F1 in cross-validation over
# documents, rounded. It was fixed there, not on the labelled sets that test the classifier.
THRESHOLD = 0.3


class StepKinds(NamedTuple):
    """Kinds of steps, one entry per step.

    Attributes:
        kind: the most probable kind among the reflective ones if the step reflects, else among the
            others. In Chinese and Spanish the kind of the cue if the step reflects, else "". In
            other languages "".
        p_reflect: probability that the step reflects; NaN where the language is not English, which
            the classifier was not trained on.
        is_reflection: p_reflect >= THRESHOLD; in Chinese and Spanish what `rules` decide; None
            where the language is another or the rules cannot tell.
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

    steps = read_steps([texts])
    (sums,) = feature_sums(steps, reflect_weights())
    return decide_kinds(steps, sums, is_english(steps))


def decide_kinds(steps: Steps, sums: Sums, english: Flags) -> StepKinds:
    """Kinds from the sums of their weights, one row per step; by rules if not English.

    Args:
        steps: of one or more traces.
        sums: what `feature_sums` returns for the steps and `reflect_weights`.
        english: what `is_english` returns for the steps.
    """
    borders = [N_REFLECTIVE, len(KINDS)]
    reflective, others, deciding = np.split(sums, borders, axis=1)

    # `wide` knows the neighbouring steps only, and takes any conclusion for one that repeats
    # another. A first one counts in the strict sense.
    strict, wide = deciding.T
    is_first = _are_first_conclusions(steps, sums)
    lower = np.minimum(strict, wide)
    wide = np.where(is_first, lower, wide)

    # The place of each step in its trace counts, too.
    deciding = np.column_stack([strict, wide])
    first_step = steps.first_of_trace()
    n_steps = steps.end_of_trace() - first_step
    numbers = np.arange(len(sums)) - first_step
    p_reflect = _p_reflect(decision_inputs(deciding, numbers, n_steps))
    reflects = p_reflect >= THRESHOLD

    # The best kind on the side that the decision names.
    best_reflective = reflective.argmax(axis=1)
    best_other = N_REFLECTIVE + others.argmax(axis=1)
    best = np.where(reflects, best_reflective, best_other)

    # The classifier says nothing about steps in another language.
    names = np.array([*KINDS, ""], object)
    kinds = names[np.where(english, best, len(KINDS))].tolist()
    known = reflects.astype(object)
    known[~english] = None
    decisions: list[bool | None] = known.tolist()

    # Rules may.
    if not english.all():
        for number, language in enumerate(languages(steps, english)):
            if language in (None, Language.ENGLISH):
                continue
            kinds[number], decisions[number] = decide_by_rules(steps.texts[number], language)

    p_known = np.where(english, p_reflect, np.nan)
    return StepKinds(kinds, p_known, decisions)


def _are_first_conclusions(steps: Steps, sums: Sums) -> Flags:
    """Return whether each step is its trace's first conclusion, without a check right before it."""
    n_kinds = len(KINDS)
    best = sums[:, :n_kinds].argmax(axis=1)
    concludes = best == KINDS.index(Kind.CONCLUDE)
    checks = best == KINDS.index(Kind.VERIFY)

    # How many there were before each step, in its trace.
    numbers = np.arange(len(best))
    first_step = steps.first_of_trace()
    conclusions = sums_before(concludes)
    n_conclusions = conclusions[numbers] - conclusions[first_step]

    # The check counts if it is one of the last few steps, or the step itself.
    checks_before = sums_before(checks)
    since = np.maximum(numbers + 1 - _CHECK_LASTS, first_step)
    n_checks = checks_before[numbers + 1] - checks_before[since]
    return concludes & (n_conclusions == 0) & (n_checks == 0)


_CHECK_LASTS = 6  # steps


def _p_reflect(inputs: Sums) -> Sums:
    """Return the probability that each step reflects, from what the decision reads."""
    decision = reflect_decision()
    terms = quadratic_terms(inputs, decision.mean, decision.scale)

    log_odds = terms @ decision.weights
    log_odds += decision.bias
    odds_against = np.exp(-log_odds)
    return 1 / (1 + odds_against)


def decision_inputs(strict_and_wide: Sums, number: Integers, n_steps: Integers) -> Sums:
    """Return what the decision reads: both sums, the place in the trace, and the trace's length.

    Args:
        strict_and_wide: sums of the last two outputs, one row a step.
        number: of each step in its trace, from 0.
        n_steps: of each step's trace.
    """
    # The middle of a step, as a share of the trace.
    middle = number + 0.5
    place = middle / n_steps
    log_length = np.log1p(n_steps)

    inputs = [strict_and_wide, place, log_length]
    return np.column_stack(inputs)


_MOST = 3.0  # standard deviations: what lies further off counts as much as this


def quadratic_terms(inputs: Sums, mean: Sums, scale: Sums) -> Sums:
    """Return the standardised inputs, and the products of every two of them."""
    centred = inputs - mean
    standard = centred / scale
    clipped = np.clip(standard, -_MOST, _MOST)

    # Every input also with itself.
    columns = list(clipped.T)
    terms = list(columns)
    for left, right in combinations_with_replacement(columns, 2):
        terms.append(left * right)
    return np.column_stack(terms)


class Decision(NamedTuple):
    """The logistic regression that decides: its input's mean and scale, its weights and bias."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: float


@cache
def reflect_decision() -> Decision:
    """The weights of the decision."""
    path = files("cotlens.detect").joinpath("reflect.npz")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return Decision(
            mean=arrays["decision_mean"],
            scale=arrays["decision_scale"],
            weights=arrays["decision_weights"],
            bias=float(arrays["decision_bias"]),
        )


@cache
def reflect_weights() -> Weights:
    """The weights of the kinds, and of the two outputs that decide."""
    return load_weights("reflect.npz", OUTPUTS)
