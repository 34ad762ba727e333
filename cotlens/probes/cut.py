r"""Where can a thought be cut, so that a model goes on from there as from a text of its own?

A cut lies at the end of a step, between two tokens whatever is written next: ids(prefix) +
ids(rest) = ids(prefix + rest). So a prefix ends *before* the blanks that follow a step, since a
blank is part of the next word's token, and *after* its line breaks, since tokenizers join a full
stop and the line breaks after it. This holds for the pre-tokenizers of Llama 3, Qwen 2 and gpt-oss,
and fails after a blank line for that of GPT-2; `thought_prefixes` tries it on the model's own.
"""

from bisect import bisect_right
from typing import NamedTuple

from cotlens.text.split import split_trace
from cotlens.text.steps import Step, segment_trace
from cotlens.text.tags import Split
from cotlens.trace import Trace, TraceError

_BLANKS = " \t\u00a0\u3000"


def step_cuts(trace: Trace, split: Split | None = None) -> list[int]:
    """The places where the thinking of a trace can be cut, as code points of its completion.

    Number k comes after the first k steps: number 0 is the place where the first step begins, and
    the last one is the end of the thinking.

    Raises:
        TraceError: if the trace has no thinking.
    """
    steps = _steps_of(trace, split)

    # The white space before the first word stays with the tag.
    first = steps[0].chars
    text = first.of(trace.completion)
    n_blanks = len(text) - len(text.lstrip())
    start = min(first.start + n_blanks, end_of_step(trace, steps[0]))
    places = [start]

    for step in steps:
        places.append(end_of_step(trace, step))
    return places


def end_of_step(trace: Trace, step: Step) -> int:
    """The code point where a step ends: before its last blanks, after its last line breaks."""
    text = step.chars.of(trace.completion)
    kept = text.rstrip(_BLANKS)
    return step.chars.start + len(kept)


class _Limit(NamedTuple):
    """How much of a thought may stay: so many of these units."""

    unit: str
    most: float


def cut_thought(
    trace: Trace,
    *,
    steps: int | None = None,
    words: int | None = None,
    share: float | None = None,
    split: Split | None = None,
) -> int:
    """The code point of the completion at which to cut a thought, never inside a step.

    `trace.completion[:cut]` is what stays. The thought is cut at the last end of a step that the
    limit allows, but not before the end of the first step: a prefix of no step is none.

    >>> trace = Trace(id="t", completion="<think>One. Two words. Three.</think>")
    >>> trace.completion[: cut_thought(trace, words=3)]
    '<think>One. Two words.'

    Args:
        trace: with thinking.
        steps: number of steps to keep, from 1; a thought of fewer is kept whole.
        words: most words, separated by white space, that are kept (RECAP, arXiv 2510.00938, keeps
            500 in training and 200 in evaluation).
        share: most of the thinking that is kept, from 0 to 1, in characters.
        split: of the trace, if it is known.

    Raises:
        TraceError: if the trace has no thinking.
        ValueError: unless one limit is given, and in its range.
    """
    limit = _only_limit(steps, words, share)
    thought = _steps_of(trace, split)

    # The size of the thought after each of its steps.
    total = 0
    totals = []
    for step in thought:
        text = step.chars.of(trace.completion)
        total += _size(text, limit.unit)
        totals.append(total)

    most = limit.most
    if limit.unit == "share":
        most *= total
    n_kept = bisect_right(totals, most)
    last = thought[max(n_kept, 1) - 1]
    return end_of_step(trace, last)


def _only_limit(steps: int | None, words: int | None, share: float | None) -> _Limit:
    """The one limit that is given.

    Raises:
        ValueError: if none or several are given, or it is out of range.
    """
    limits = []
    for unit, most in (("steps", steps), ("words", words), ("share", share)):
        if most is not None:
            limits.append(_Limit(unit, most))
    if len(limits) != 1:
        given = ", ".join(limit.unit for limit in limits)
        raise ValueError(
            f"cut_thought: expected one of steps, words and share; got {given or 'none'}"
        )

    limit = limits[0]
    if limit.unit == "share":
        if not 0 <= limit.most <= 1:
            raise ValueError(f"cut_thought: expected a share from 0 to 1, got {limit.most:g}")
    elif limit.most < 1:
        raise ValueError(f"cut_thought: expected {limit.unit} from 1, got {limit.most:g}")
    return limit


def _size(text: str, unit: str) -> int:
    """The size of a step in a unit."""
    if unit == "steps":
        return 1
    if unit == "words":
        return len(text.split())
    return len(text)


def thought_until(trace: Trace, cut: int, split: Split | None = None) -> str:
    """The thinking up to a cut: the text to put into another model's mouth (`thought_prefixes`).

    Raises:
        TraceError: if the trace has no thinking, or the cut lies outside of the first thought.
    """
    split = split or split_trace(trace)
    if not split.think:
        raise TraceError(f"trace {trace.id!r}: it has no thinking to cut")

    first = split.think[0]
    if not first.start <= cut <= first.stop:
        raise TraceError(f"trace {trace.id!r}: the cut {cut} lies outside of its first thought")
    return trace.completion[first.start : cut]


def joined(trace: Trace, cut: int, text: str) -> str:
    """The text with the white space before it that `trace.completion[:cut]` needs.

    That is the blanks which the trace has there, or one blank; nothing after a line break.
    """
    before = trace.completion[:cut]
    if not before or before[-1].isspace():
        return text

    rest = trace.completion[cut:]
    n_blanks = len(rest) - len(rest.lstrip(_BLANKS))
    blanks = rest[:n_blanks] or " "
    return blanks + text


def _steps_of(trace: Trace, split: Split | None) -> list[Step]:
    steps = segment_trace(trace, split)
    if not steps:
        raise TraceError(f"trace {trace.id!r}: it has no thinking to cut")
    return steps
