"""The parts of a completion whose thought stands between a pair of delimiters."""

import re
from bisect import bisect_left
from functools import cache, cached_property
from typing import NamedTuple

from cotlens.text.delimiters import (
    find_unquoted,
    first_pair,
    pattern_of,
    skip_repeated,
    unquoted,
    with_first_close,
)
from cotlens.text.prompts import ASSISTANT_MARK, TURN_EDGE, echo_end, prompt_opens
from cotlens.text.rules import Rules, inside_wrappers
from cotlens.text.tags import OnCall, OpenedBy, Split, Status, Tags
from cotlens.trace import Span


def end_of(text: str) -> Span:
    """The empty span at the end of a text: the answer of a completion without one."""
    return Span(len(text), len(text))


# --- marks in a text -----------------------------------------------------------------------------
# What follows the delimiter of a call in the middle of a line: a name, or the beginning of a list
# or an object. "I should use <tool_call> tags" mentions it.
_CALLED = re.compile(r"\w|\s{0,9}[{\[<]|\n|\Z")


class Marks:
    """Where closing tags, tool calls and turns stand in one text; each kind is looked up once."""

    def __init__(self, text: str, pair: Tags, calls: tuple[Tags, ...]) -> None:
        self.text = text
        self.pair = pair
        self.calls = calls

    @cached_property
    def closes(self) -> list[int]:
        pattern = pattern_of(self.pair.close)
        matches = pattern.finditer(self.text)
        return [match.start() for match in matches]

    @cached_property
    def call_spans(self) -> list[Span]:
        """Opening delimiters of calls; one that is only mentioned is none."""
        if not self.calls:
            return []

        spans = []
        pattern = _call_pattern(self.calls)
        for match in unquoted(pattern, self.text):
            start, stop = match.span()
            before = self.text[start - 1 : start]
            starts_line = before in ("", "\n")
            if starts_line or _CALLED.match(self.text, stop):
                spans.append(Span(start, stop))
        return spans

    @cached_property
    def assistants(self) -> list[Span]:
        """Where an assistant's turn opens."""
        matches = unquoted(ASSISTANT_MARK, self.text)
        return [Span(*match.span()) for match in matches]

    @cached_property
    def edges(self) -> list[Span]:
        """Where any turn ends or opens."""
        matches = unquoted(TURN_EDGE, self.text)
        return [Span(*match.span()) for match in matches]

    def close_after(self, at: int) -> int:
        """Where the next closing tag stands, or -1."""
        number = bisect_left(self.closes, at)
        if number == len(self.closes):
            return -1
        return self.closes[number]


def next_span(spans: list[Span], at: int) -> Span | None:
    """The first of sorted spans that begins at or after a place."""
    number = bisect_left(spans, at, key=_start_of)
    if number == len(spans):
        return None
    return spans[number]


def _start_of(span: Span) -> int:
    return span.start


@cache
def _call_pattern(calls: tuple[Tags, ...]) -> re.Pattern[str]:
    """Opening delimiters of calls; those of Hunyuan carry a suffix."""
    alternatives = []
    for call in calls:
        opening = re.escape(call.open)
        if re.fullmatch(r"<\w+>", call.open):
            opening = opening.removesuffix(">") + r"(?::[^\s<>]{1,40})?>"
        alternatives.append(opening)
    return re.compile("|".join(alternatives))


_BLANKS = re.compile(r"\s*+")


def end_of_calls(text: str, at: int, calls: tuple[Tags, ...]) -> int:
    """Where the calls end that begin at a place: with the last of those that only blanks part."""
    pattern = _call_pattern(calls)
    match = pattern.match(text, at)
    while match:
        closing = _closing_of(match.group(), calls)
        stem = closing.rstrip(">")
        close = text.find(stem, match.end())
        if close < 0:
            return len(text)

        # The closing delimiter may have a suffix as well.
        at = close + len(stem)
        if closing.endswith(">"):
            bracket = text.find(">", at)
            if bracket < 0:
                return len(text)
            at = bracket + 1
        blanks = _BLANKS.match(text, at)
        if blanks is None:
            break
        match = pattern.match(text, blanks.end())
    return at


def _closing_of(opening: str, calls: tuple[Tags, ...]) -> str:
    """The closing delimiter of a call that begins like this, a suffix aside."""
    longest = Tags("", "")
    for call in calls:
        stem = call.open.rstrip(">")
        is_longer = len(call.open) > len(longest.open)
        if is_longer and opening.startswith(stem):
            longest = call
    return longest.close


# --- the parts -----------------------------------------------------------------------------------
class Found(NamedTuple):
    """The delimiters of a completion.

    Attributes:
        pair: the delimiters.
        start: where the completion's own text begins, after an echo of the prompt.
        by_prompt: whether the prompt opened the thought.
    """

    pair: Tags
    start: int
    by_prompt: bool


def find_pair(completion: str, prompt: str, pairs: tuple[Tags, ...]) -> Found | None:
    """The pair of delimiters that the prompt opened, else the one of the text, or None."""
    start = echo_end(completion, prompt, pairs)
    opened = [pair for pair in pairs if prompt_opens(prompt, pair)]
    if opened:
        pair = with_first_close(completion, start, opened)
        return Found(pair, start, by_prompt=True)

    pair = first_pair(completion, start, pairs)
    if pair is None:
        return None
    return Found(pair, start, by_prompt=False)


def split_tagged(text: str, found: Found, rules: Rules, is_called: bool) -> Split:
    """The parts of a text that has at least one of these delimiters, or whose prompt opened them.

    Args:
        text: the completion.
        found: its delimiters.
        rules: what ends a thought besides them, and what stands around the answer.
        is_called: whether the source says that the turn ended with a tool call.
    """
    marks = Marks(text, found.pair, rules.calls)
    begin, opened_by = _first_thought(marks, found)

    think = []
    while True:
        end = _end_of_thought(marks, begin, rules, is_called)
        think.append(Span(begin, end.stop))
        if end.status is Status.OPEN:
            answer = end_of(text)
            break

        # A further thought may follow.
        begin = _next_block(marks, end.after)
        if begin < 0:
            rest = Span(end.after, len(text))
            answer = inside_wrappers(text, rest, rules.wrappers)
            break

    if rules.on_call is OnCall.APART:
        think = _without_calls(marks, think)
    return Split(tuple(think), answer, end.status, opened_by)


def _first_thought(marks: Marks, found: Found) -> tuple[int, OpenedBy]:
    """Where the first thought begins, and what shows it."""
    text = marks.text
    pair = marks.pair
    if found.by_prompt:
        # Some servers repeat the tag that the prompt already opened.
        begin = skip_repeated(text, found.start, pair.open)
        return begin, OpenedBy.PROMPT

    first_open = find_unquoted(text, pair.open, found.start)
    first_close = find_unquoted(text, pair.close, found.start)
    closes_first = 0 <= first_close < first_open
    if first_open < 0 or closes_first:
        return found.start, OpenedBy.PROMPT
    begin = first_open + len(pair.open)
    begin = skip_repeated(text, begin, pair.open)
    return begin, OpenedBy.TEXT


class _End(NamedTuple):
    """The end of a thought: where it stops, where what follows begins, and how it ended."""

    stop: int
    after: int
    status: Status


def _end_of_thought(marks: Marks, begin: int, rules: Rules, is_called: bool) -> _End:
    n = len(marks.text)
    pair = marks.pair
    close = marks.close_after(begin)
    call = None
    if rules.on_call is OnCall.ENDS:
        call = next_span(marks.call_spans, begin)

    # Stitched turns: another turn of the assistant begins before the thought is closed.
    turn = next_span(marks.assistants, begin)
    if turn and (close < 0 or turn.start < close):
        edge = next_span(marks.edges, begin)
        stop = turn.start
        for mark in (call, edge):
            if mark:
                stop = min(stop, mark.start)
        after = skip_repeated(marks.text, turn.stop, pair.close)
        return _End(stop, after, Status.CLOSED)

    if close >= 0:
        after = close + len(pair.close)
        after = skip_repeated(marks.text, after, pair.close)
        return _End(close, after, Status.CLOSED)
    if call:
        after = end_of_calls(marks.text, call.start, rules.calls)
        return _End(call.start, after, Status.CLOSED)

    # The call itself may stand in a field of the source.
    if is_called and rules.on_call is not OnCall.STAYS:
        return _End(n, n, Status.CLOSED)
    return _End(n, n, Status.OPEN)


def _next_block(marks: Marks, after: int) -> int:
    """Where the next thought after `after` begins, or -1.

    A tag in the middle of an answer must also be closed.
    """
    text = marks.text
    tag = marks.pair.open
    last_close = -1
    if marks.closes:
        last_close = marks.closes[-1]

    at = find_unquoted(text, tag, after)
    while at >= 0:
        begin = at + len(tag)
        before = text[max(after, at - 80) : at]
        line = before.rpartition("\n")[2]
        starts_line = not line.strip()
        if starts_line or begin <= last_close:
            return skip_repeated(text, begin, tag)
        at = find_unquoted(text, tag, begin)
    return -1


def _without_calls(marks: Marks, think: list[Span]) -> list[Span]:
    """The thoughts, cut wherever a tool call stands in one."""
    pieces = []
    for start, stop in think:
        call = next_span(marks.call_spans, start)
        while call and call.start < stop:
            pieces.append(Span(start, call.start))
            after = end_of_calls(marks.text, call.start, marks.calls)
            start = min(stop, after)
            call = next_span(marks.call_spans, start)
        pieces.append(Span(start, stop))

    # A thought that is a call alone leaves its empty beginning.
    with_text = []
    for piece in pieces:
        if piece.length:
            with_text.append(piece)
    return with_text or pieces[:1]
