"""Which rules of the table hold for one completion: calls, wrappers of answers, finish reasons."""

import re
from functools import cache
from typing import NamedTuple

from cotlens.text.delimiters import find_tag, starts_with
from cotlens.text.families import FAMILIES
from cotlens.text.tags import Family, OnCall, Opens, Tags
from cotlens.trace import Span

# Finish reasons in lower case: the turn ended with a call, the model stopped by itself, or it was
# cut off.
CALLED = frozenset(("tool_calls", "tool_call", "tool_use", "function_call"))
STOPPED = CALLED | {
    "stop", "eos", "eos_token", "end_turn", "stop_sequence", "complete", "completed",
}  # fmt: skip
CUT = frozenset((
    "length", "max_tokens", "max_output_tokens", "max_new_tokens", "max_length", "incomplete",
    "model_length", "model_context_window_exceeded",
))  # fmt: skip


def template_opens(family: Family | None, finish_reason: str) -> bool:
    """Whether a text without any delimiter is a thought that the family's template opened.

    A model that stopped by itself skipped the thought. Where thinking can be switched off, only a
    text that was cut off is one.
    """
    reason = finish_reason.lower()
    if family is None or reason in STOPPED:
        return False
    if family.opens is Opens.DEFAULT:
        return reason in CUT
    return family.opens is Opens.ALWAYS


class Rules(NamedTuple):
    """What a family's parsers do inside a completion.

    Attributes:
        calls: delimiters of the tool calls that end a thought or are cut out of it.
        on_call: what such a call does.
        wrappers: delimiters around the answer.
    """

    calls: tuple[Tags, ...] = ()
    on_call: OnCall = OnCall.STAYS
    wrappers: tuple[Tags, ...] = ()


@cache
def rules_of(pair: Tags, family: Family | None) -> Rules:
    """The rules of a family, if it has these delimiters; else those that hold for all that have.

    Args:
        pair: delimiters of the thought.
        family: of the model, by its name.
    """
    sharing = [row for row in FAMILIES if _has_pair(row, pair)]
    if family in sharing and family and (family.calls or family.on_call is not OnCall.UNKNOWN):
        sharing = [family]

    # A call ends the thought unless every family with these delimiters is known to read on.
    calls: list[Tags] = []
    behaviours = set()
    for row in sharing:
        behaviours.add(row.on_call)
        if row.on_call is not OnCall.STAYS:
            calls += row.calls
    on_call = OnCall.ENDS
    if len(behaviours) == 1 and OnCall.UNKNOWN not in behaviours:
        on_call = behaviours.pop()

    # A wrapper without an opening delimiter belongs to its family alone.
    wrappers: list[Tags] = []
    for row in FAMILIES:
        for wrapper in row.wrappers:
            if wrapper.open or row in sharing:
                wrappers.append(wrapper)
    return Rules(
        calls=tuple(dict.fromkeys(calls)),
        on_call=on_call,
        wrappers=tuple(dict.fromkeys(wrappers)),
    )


def _has_pair(family: Family, pair: Tags) -> bool:
    """Whether a family has these delimiters, the suffix of a checkpoint aside."""
    bare = re.sub(r"^<think:[^<>]*>$", "<think>", pair.open)
    openings = [own.open for own in family.tags]
    return bare in openings


@cache
def special_wrappers(family: Family | None) -> tuple[Tags, ...]:
    """Wrappers that delimit an answer without a thought: of special tokens, and the family's own.

    `<answer>` at the beginning of a text that nobody thought about may be part of it.
    """
    wrappers: list[Tags] = []
    for row in FAMILIES:
        for wrapper in row.wrappers:
            is_sure = row is family or "|" in wrapper.open
            if wrapper.open and is_sure:
                wrappers.append(wrapper)
    return tuple(dict.fromkeys(wrappers))


# What may follow the end of a wrapper: blanks and special tokens.
_NOTHING = re.compile(r"(?:\s|<[|｜][^<>|｜]{1,60}[|｜]>|</s>|\[e~\[)*+")


def inside_wrappers(text: str, answer: Span, wrappers: tuple[Tags, ...]) -> Span:
    """The answer without the delimiters around it.

    Text after the closing delimiter is part of the answer where it is plain text, and then there is
    no wrapper; after a special token it is not.
    """
    begin = answer.stop - len(answer.of(text).lstrip())
    for wrapper in wrappers:
        # Without an opening delimiter the answer begins at once.
        if not wrapper.open:
            close = find_tag(text, wrapper.close, begin)
            if 0 <= close < answer.stop:
                return Span(answer.start, close)
            continue
        if not starts_with(text, wrapper.open, begin):
            continue

        # A wrapper that is not closed was cut off.
        start = begin + len(wrapper.open)
        close = find_tag(text, wrapper.close, start)
        if close < 0:
            return Span(start, answer.stop)
        after = close + len(wrapper.close)
        nothing = _NOTHING.match(text, after)
        ends_answer = nothing is not None and nothing.end() == answer.stop
        if ends_answer or "|" in wrapper.close:
            return Span(start, close)
    return answer
