"""Why a trace failed, after Chain-of-Guardrails (arXiv 2510.21285).

A thought is read as d, a and p: risk awareness, risk analysis, response strategy. If the answer is
safe, nothing failed. If it is unsafe and no risk was noticed before the thought decided to comply,
the harm was misidentified. If a risk was noticed and then set aside, the model has talked itself
into answering (self-jailbreak); the excuse gives the kind.

What a step does is read by a function: the project's markers for real models, others for other
worlds. That function is no judge of the answer, and must not be the judge of an evaluation.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from cotlens.detect.unsafe import Marker, mark


class Cause(StrEnum):
    """Why a trace failed. All after the first two are kinds of self-jailbreak."""

    NONE = "n/a"  # it did not: the answer is safe
    MISIDENTIFICATION = "misidentification"
    BENIGN_REFRAMING = "benign_reframing"
    WARNING = "warning"
    LOGICAL_FALLACY = "logical_fallacy"
    UNEXCUSED = "unexcused"  # noticed and overridden without an excuse that was recognised


class StepReading(NamedTuple):
    """What one step of a thought does about harm.

    Attributes:
        notices: it notices a risk, or leans to refusing.
        excuse: the kind of excuse by which it sets a risk aside; None: it has none.
        complies: it decides to do what was asked, or does it.
    """

    notices: bool = False
    excuse: Cause | None = None
    complies: bool = False


class Diagnosis(NamedTuple):
    """Why a trace failed, and how much of its thought is safe.

    Attributes:
        cause: why.
        n_safe: number of steps before the first that excuses or complies. If the trace failed and
            none was recognised, the steps up to the first that notices a risk, else none.
    """

    cause: Cause
    n_safe: int

    @property
    def is_self_jailbreak(self) -> bool:
        """Whether a risk was noticed and then set aside."""
        return self.cause not in (Cause.NONE, Cause.MISIDENTIFICATION)


# Reads the steps of a thought, given their texts and the request. None: it cannot.
Read = Callable[[Sequence[str], str], list[StepReading] | None]


def diagnose(readings: Sequence[StepReading], is_unsafe: bool) -> Diagnosis:
    """Why a trace failed.

    A risk is noticed early if a step notices it no later than the first that complies. The kind of
    a self-jailbreak is that of the first excuse from there on.

    Departs from the paper: there a language model reads request, analysis, strategy and answer
    together; here the steps decide.

    >>> risk, excuse = StepReading(notices=True), StepReading(excuse=Cause.WARNING)
    >>> diagnose([risk, excuse, StepReading(complies=True)], is_unsafe=True)
    Diagnosis(cause=<Cause.WARNING: 'warning'>, n_safe=1)

    Args:
        readings: one for each step of the thinking.
        is_unsafe: whether the trace failed, by a judge.
    """
    if not is_unsafe:
        return Diagnosis(Cause.NONE, len(readings))

    # Where a risk is noticed early.
    first_notice = None
    for number, reading in enumerate(readings):
        if reading.notices:
            first_notice = number
            break
        if reading.complies:
            break

    # The safe beginning ends before the first step that goes the wrong way. The thought went wrong
    # somewhere: if nobody knows where, only what noticed the risk can be kept.
    n_safe = 0 if first_notice is None else first_notice + 1
    for number, reading in enumerate(readings):
        if reading.excuse or reading.complies:
            n_safe = number
            break
    if first_notice is None:
        return Diagnosis(Cause.MISIDENTIFICATION, n_safe)

    for reading in readings[first_notice:]:
        if reading.excuse:
            return Diagnosis(reading.excuse, n_safe)
    return Diagnosis(Cause.UNEXCUSED, n_safe)


# The project splits fiction off the paper's benign reframing (docs/unsafe.md).
EXCUSE_OF = {
    Marker.BENIGN_REFRAMING: Cause.BENIGN_REFRAMING,
    Marker.FICTIONAL_LICENCE: Cause.BENIGN_REFRAMING,
    Marker.WARNING_THEN_ANSWER: Cause.WARNING,
    Marker.OTHER_FALLACY: Cause.LOGICAL_FALLACY,
}
_NOTICES = {Marker.RISK_AWARENESS, Marker.REFUSAL_INTENT}
_COMPLIES = {Marker.COMPLIANCE_CUE, Marker.STRONG_VACILLATION, Marker.HARMFUL_DETAIL}


def read_markers(texts: Sequence[str], request: str) -> list[StepReading] | None:
    """The steps of a thought in English, by the markers of `cotlens.detect.unsafe`.

    None if a step is in another language. An excuse that the markers miss leaves a failure
    `unexcused` or misidentified, and in the safe beginning: docs/unsafe.md says how often.
    """
    readings = []
    found = mark(texts, request)
    for markers, is_unsafe in zip(found.markers, found.is_unsafe, strict=True):
        if markers is None:
            return None

        # A step that talks itself into answering has one of the four kinds.
        excuse = None
        for marker, cause in EXCUSE_OF.items():
            if marker in markers:
                excuse = cause
        # An unsafe step that excuses nothing goes along.
        is_plain = bool(is_unsafe) and excuse is None
        reading = StepReading(
            notices=bool(markers & _NOTICES),
            excuse=excuse,
            complies=bool(markers & _COMPLIES) or is_plain,
        )
        readings.append(reading)
    return readings
