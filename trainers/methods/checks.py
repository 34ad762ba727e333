"""What is put into a thought: self-checks to append, repaired steps, and how a student writes both.

A check that is always the same sentence teaches the sentence. So there are several of each part for
each cause, taken in turn; numbers of parts without a common divisor make many combinations.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

import cotlens
from cotlens.models.engine import Engine
from cotlens.text.delimiters import known_pairs
from cotlens.text.split import part_text, request_of
from cotlens.text.steps import segment_trace
from cotlens.trace import Trace
from trainers.methods.causes import Cause, Diagnosis, Read

LONGEST = 1200  # characters of a check that a student writes


class Method(StrEnum):
    """The two ways to repair a thought."""

    SAFR = "safr"  # safety recomposition: rewrite the bad part
    SAFB = "safb"  # safety backtrack: keep everything, append a check


TRANSITIONS = (
    "Wait.",
    "Hold on a moment.",
    "Let me look at this once more before I answer.",
    "Hmm, something here is not right.",
)
CHECKS: dict[Cause, tuple[str, ...]] = {
    Cause.MISIDENTIFICATION: (
        "I went straight to the answer and never asked who could be hurt by it.",
        "So far I have only thought about how to do this, not about what it would do to people.",
        "I took this for an everyday question, and what it asks for can do real harm.",
    ),
    Cause.BENIGN_REFRAMING: (
        "I have made up a good intention that the request does not show.",
        "A harmless purpose is my guess; the instructions would do the same harm without it.",
        "Calling it curiosity or a story changes nothing about what the text could be used for.",
    ),
    Cause.WARNING: (
        "A warning does not take anything out of the instructions that follow it.",
        "Telling someone to be careful does not protect the person who would be harmed.",
        "With a disclaimer on top it is still the same answer, and it is still dangerous.",
    ),
    Cause.LOGICAL_FALLACY: (
        "The argument that I just used does not hold: none of it makes the harm smaller.",
        "I noticed the danger and then reasoned my way past it, which is no reason at all.",
        "That others might say it, or that I was asked nicely, does not make it right to say.",
    ),
    Cause.UNEXCUSED: (
        "I had noticed the danger, and then carried on as if I had not.",
        "I saw what could happen and dropped the thought without an answer to it.",
        "The risk that I noticed is still there, and I have done nothing about it.",
    ),
}
DECISIONS = (
    "I will not help with this, and I will say so plainly.",
    "So the answer is no; I can say why in a sentence.",
    "I should decline, and offer something safe on the subject instead.",
    "The right thing is to refuse, politely and without details.",
    "I am not going to give these instructions.",
)

# Safety recomposition: an analysis that takes the place of the bad one, and then a decision.
ANALYSES: dict[Cause, tuple[str, ...]] = {
    Cause.MISIDENTIFICATION: (
        "What is asked for here could injure people, whoever asks.",
        "Before anything else: an answer to this could be used to do harm.",
        "This is not an ordinary question, since doing it would put somebody at risk.",
    ),
    Cause.BENIGN_REFRAMING: (
        "I cannot know the intention, and the harm does not depend on it.",
        "Even a friendly reason would not make these instructions safe to hand out.",
        "Whatever the setting, the text would work just as well outside of it.",
    ),
    Cause.WARNING: (
        "No wording would make it safe, since the dangerous part is the content itself.",
        "Adding cautions would leave the harm as it is.",
        "There is no careful version of this that would not help to do it.",
    ),
    Cause.LOGICAL_FALLACY: (
        "Nothing in the request changes that somebody could get hurt.",
        "That it can be found elsewhere, or was allowed elsewhere, is no reason for me to add it.",
        "The question is what my answer would do, and it would make harm easier.",
    ),
    Cause.UNEXCUSED: (
        "That danger decides it.",
        "This risk is enough to stop here.",
        "What I have just noticed settles how I should answer.",
    ),
}


def own_words(method: Method, cause: Cause, number: int) -> str:
    """The check or the repaired steps for a cause; each number from 0 gives others.

    Raises:
        ValueError: if there is nothing to repair.
    """
    if cause is Cause.NONE:
        raise ValueError("own_words: expected a cause of failure, got n/a, which needs no repair")
    # A repair has two parts, a check three.
    decision = DECISIONS[number % len(DECISIONS)]
    if method is Method.SAFR:
        analyses = ANALYSES[cause]
        return f"{analyses[number % len(analyses)]} {decision}"

    checks = CHECKS[cause]
    transition = TRANSITIONS[number % len(TRANSITIONS)]
    return f"{transition} {checks[number % len(checks)]} {decision}"


# --- written by the student ----------------------------------------------------------------------

_FAULTS: dict[Cause, str] = {
    Cause.MISIDENTIFICATION: "it does not see that the request is harmful",
    Cause.BENIGN_REFRAMING: "it sees the harm, then talks itself into a harmless reading",
    Cause.WARNING: "it sees the harm, then takes a warning to be enough",
    Cause.LOGICAL_FALLACY: "it sees the harm, then sets it aside by a bad argument",
    Cause.UNEXCUSED: "it sees the harm, then goes on all the same",
}
_TASKS = {
    Method.SAFB: (
        "Write two to four sentences that could follow the notes: the writer stops, says in the "
        "first person what was wrong with them, and decides to decline. Open with: {opening}"
    ),
    Method.SAFR: (
        "Write two to four sentences that could follow the notes in place of the mistake: in the "
        "first person, why the request is harmful, and the decision to decline."
    ),
}
_PROMPT = """\
Here are a request and somebody's notes on how to answer it. The mistake in the notes: {fault}.

Request:
{request}

Notes:
{notes}

{task}
Do not carry out the request and do not repeat any instructions. Reply with the sentences alone."""


class Ask(NamedTuple):
    """What a student is to write for one trace.

    Attributes:
        trace: the trace.
        diagnosis: why it failed.
        number: how many of the same cause came before.
        notes: the thinking that the text will follow.
    """

    trace: Trace
    diagnosis: Diagnosis
    number: int
    notes: str


def written_by_student(
    student: Engine, method: Method, asks: Sequence[Ask], read: Read, seed: int = 0
) -> list[str | None]:
    """The check or repaired steps that the student writes itself; None where it is not fit.

    One generation for each, at temperature 0.3 and top-p 0.8. Departs from the paper: there a
    second model may rewrite, and its prompts are not published; these are the project's.

    Args:
        student: what is trained.
        method: what to write.
        asks: for which traces.
        read: what a step does; a text is fit if it notices the risk and no step goes along.
        seed: of the samples.
    """
    prompts = []
    for ask in asks:
        opening = TRANSITIONS[ask.number % len(TRANSITIONS)]
        task = _TASKS[method].format(opening=opening)
        text = _PROMPT.format(
            fault=_FAULTS[ask.diagnosis.cause],
            request=request_of(ask.trace),
            notes=ask.notes,
            task=task,
        )
        prompts.append(text)

    replies = cotlens.sample(
        student,
        prompts,
        temperature=0.3,
        top_p=0.8,
        max_new_tokens=1024,
        seed=seed,
    )

    texts = []
    for ask, reply in zip(asks, replies, strict=True):
        # This is a text to build with, not a part of a trace that is read.
        text = part_text(reply, "answer").strip()

        has_ended = reply.finish_reason == "stop"
        is_fit = is_fit_check(text, request_of(ask.trace), read)
        if has_ended and is_fit:
            texts.append(text)
        else:
            texts.append(None)
    return texts


def is_fit_check(text: str, request: str, read: Read) -> bool:
    """Whether a text can stand in a thought as a check.

    It is short, holds no delimiter of a thought, notices the risk, and neither excuses nor complies
    in any step.
    """
    if not text.strip() or len(text) > LONGEST:
        return False
    # A delimiter would end the thought.
    for pair in known_pairs():
        tags = [tag.strip() for tag in pair]
        if any(tag and tag in text for tag in tags):
            return False

    trace = Trace(id="check", completion=f"<think>\n{text}\n</think>\n\n", prompt=request)
    steps = [step.chars.of(trace.completion) for step in segment_trace(trace)]
    readings = read(steps, request)
    if readings is None:
        return False

    # It must say what the harm is, and must not argue for it.
    for reading in readings:
        if reading.excuse or reading.complies:
            return False
    return any(reading.notices for reading in readings)
