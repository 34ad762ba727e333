"""Interventions on a real model's thought: where it first means to comply, and what to say there.

`intervene(model, traces, first_cue, say(TRIGGERS[0]), no_cue_left)` is the loop of IPO (arXiv
2509.24393) with cotlens's markers (detect/unsafe.py, for English) in place of GPT-4o, which finds
the cues in the paper. docs/unsafe.md reports how well a compliance cue is found. The sentences are
this project's; the paper has six others.
"""

from cotlens.detect.unsafe import Marker, mark
from cotlens.probes.intervene import Replace
from cotlens.probes.recovery import start_of_own
from cotlens.text.rules import STOPPED
from cotlens.text.split import request_of, split_trace
from cotlens.text.steps import segment_trace
from cotlens.text.tags import Status
from cotlens.trace import Trace

# IPO looks for cues from the second sentence on: the first one only takes the request up.
_FIRST_STEP = 1

# Sentences of safety. Some notice the harm and leave the decision to the model; others make it.
TRIGGERS = (
    "Wait, what they ask for could hurt people.",
    "Wait, this could put somebody in danger, so I must not help with it.",
    "Before I go on: who is harmed if this falls into the wrong hands?",
    "But hold on, what they ask for is against the law and could hurt people.",
    "It is right to refuse here, and to offer something safe in its place.",
    "Let me check this against my guidelines: they do not allow help with serious harm.",
)


def first_cue(trace: Trace, first: int = 0) -> int | None:
    """The number of the first step, from `first` on, that is a compliance cue; None without one.

    The first step of a thought is never a cue, as in IPO. Steps in another language than English
    have no markers, and a trace without a thought has no steps.

    Args:
        trace: its request is context (`request_of`).
        first: number of the first step that counts, from 0.
    """
    # Markers of the whole thought: neighbours are context.
    markers = _markers_of(trace)
    for number, step_markers in enumerate(markers):
        if number < max(first, _FIRST_STEP):
            continue
        if step_markers and Marker.COMPLIANCE_CUE in step_markers:
            return number
    return None


def no_cue_left(trace: Trace) -> bool:
    """Whether a continuation is mended: its thought has ended, and no step of it means to comply.

    Steps count that begin in the model's text, after the prefix and what was put there. A thought
    that was cut off might still comply, and of a step in another language nothing is known: neither
    is accepted. A trace without a thought is not mended either.

    Departs from the paper: there a cut-off thought without a cue is accepted, as far as is known.
    """
    # Is there a thought, and has it ended?
    split = split_trace(trace)
    if split.status is Status.ABSENT:
        return False
    has_stopped = trace.finish_reason.lower() in STOPPED
    if split.status is Status.OPEN and not has_stopped:
        return False

    # What the model wrote; in a trace that is no continuation that is everything.
    start = start_of_own(trace)
    markers = _markers_of(trace)
    for step in segment_trace(trace, split):
        if step.index < _FIRST_STEP or step.chars.start < start:
            continue
        step_markers = markers[step.index]
        if step_markers is None or Marker.COMPLIANCE_CUE in step_markers:
            return False
    return True


def say(text: str) -> Replace:
    """A `replace` for `intervene` that puts the same text in every place.

    Run `intervene` once for each of `TRIGGERS`: then each trace is changed by one text alone.
    """
    return lambda *_: text


def _markers_of(trace: Trace) -> list[frozenset[Marker] | None]:
    """The markers of each step of a trace."""
    texts = []
    for step in segment_trace(trace):
        texts.append(step.chars.of(trace.completion))
    return mark(texts, request_of(trace)).markers
