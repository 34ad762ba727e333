"""Where thinking ends and the answer starts, with a status.

The completion is searched for the delimiters of the known model families; nothing is stripped, so
every span can be checked against the text.

Rules, in the order they are applied:

1. A source with separate fields is taken at its word (`Trace.origin` is fields) and never searched.
2. A format whose messages have a header each (gpt-oss) is read message by message (channels.py).
3. The *first* closing tag ends a thought. An opening tag inside a thought is text, unless it only
   repeats the first one; then so does the closing tag.
4. A tag that the prompt opened counts: the thought then starts at character 0.
5. A closing tag with no opening tag before it means the same, even when the prompt is unknown.
6. A tool call ends a thought that nothing closes, where the family's own parsers say so; the call
   is neither thinking nor answer. That holds for a call in a field of the source, and for a text
   without any tag whose family's template opens the thought. So does the beginning of another
   turn, if the text holds several.
7. No tag at all, the model's chat template is known to open the thought, and the finish reason does
   not speak against it: the thought was cut off. `Split.opened_by` is then `model`, so that this
   inference can be told from what was read. A tag that is only quoted (`<think>` in backticks) is
   text.
8. After a thought, a further block that is opened (not in quotes) and closed is a thought too; the
   text between them is commentary: neither thinking nor answer.
9. Delimiters around the answer (`<response>`, `<answer>`) are outside its span.

The case of tags does not matter. What is known of a family is in families.py.
"""

from collections.abc import Mapping
from typing import Any

from cotlens.text.delimiters import count_tag, has_tag, known_pairs, pairs_in, starts_with
from cotlens.text.families import family_of
from cotlens.text.headed import (
    has_messages,
    inner_messages,
    messages_of,
    split_messages,
)
from cotlens.text.prompts import is_rendered, prompt_closes
from cotlens.text.prompts import opens_thought as opens_thought
from cotlens.text.rules import (
    CALLED,
    CUT,
    STOPPED,
    Rules,
    inside_wrappers,
    rules_of,
    special_wrappers,
    template_opens,
)
from cotlens.text.tagged import Marks, end_of, end_of_calls, find_pair, next_span, split_tagged
from cotlens.text.tags import Family, OnCall, OpenedBy, Opens, Split, Status, Tags
from cotlens.trace import Origin, Reasoning, Span, Trace


def split_trace(trace: Trace, *, tags: Tags | None = None) -> Split:
    """The parts of a trace: as its source gave them, or else as `split_think` finds them."""
    if trace.origin is Origin.TEXT:
        return split_think(
            trace.completion,
            trace.prompt,
            model=trace.model,
            tags=tags,
            finish_reason=_reason_of(trace),
        )

    think = []
    for span in trace.think:
        think.append(_within_tags(trace.completion, span))
    answer = trace.answer or end_of(trace.completion)
    # A source that gave no thought, or one that missed it.
    if _is_cut_thought(trace, answer):
        return _all_thought(trace.completion)
    if not any(span.length for span in think):
        return Split((), answer, Status.ABSENT, OpenedBy.NOTHING)

    # Without text after the thinking, and without a finish reason that says the model stopped by
    # itself, the thought does not count as closed.
    status = Status.OPEN
    if answer.length > 0 or _reason_of(trace).lower() in STOPPED:
        status = Status.CLOSED
    return Split(tuple(think), answer, status, OpenedBy.FIELDS)


def _reason_of(trace: Trace) -> str:
    """Why the model stopped: servers say `stop` of some calls that stand in a field."""
    calls = trace.meta.get("tool_calls")
    if isinstance(calls, list) and any(isinstance(call, dict) for call in calls):
        return "tool_calls"
    return trace.finish_reason


def _all_thought(text: str) -> Split:
    """A completion that is a thought from its beginning, cut off, as the model's template says."""
    whole = Span(0, len(text))
    return Split(
        think=(whole,),
        answer=end_of(text),
        status=Status.OPEN,
        opened_by=OpenedBy.MODEL,
    )


def _is_cut_thought(trace: Trace, answer: Span) -> bool:
    """Whether what a source gives as the answer is a thought that was cut off.

    A server's parser looks for the closing tag. Where the thought was cut before it, some give an
    empty field of thinking and all of the text as the answer.
    """
    before = trace.completion[: answer.start]
    if before.strip() or answer.length == 0:
        return False
    if trace.reasoning is not Reasoning.VERBATIM:
        return False

    reason = trace.finish_reason.lower()
    family = family_of(trace.model)
    return reason in CUT and template_opens(family, reason)


def _within_tags(text: str, span: Span) -> Span:
    """A thought from a separate field, without the delimiters that some sources leave around it."""
    thought = span.of(text)
    first = span.stop - len(thought.lstrip())
    last = span.start + len(thought.rstrip())
    start, stop = span

    for pair in known_pairs():
        if starts_with(text, pair.open, first):
            start = first + len(pair.open)

        # The closing one, unless it is part of the text before.
        close = last - len(pair.close)
        if close < first:
            continue
        if starts_with(text, pair.close, close):
            stop = close
    stop = max(start, stop)
    return Span(start, stop)


def split_think(
    completion: str,
    prompt: str = "",
    *,
    model: str = "",
    tags: Tags | None = None,
    finish_reason: str = "",
) -> Split:
    """Where the thoughts and the answer of a completion are, and whether the last one was closed.

    Args:
        completion: text as generated; it may contain an echo of the prompt.
        prompt: text before it, best as rendered by the chat template: a thought may have been
            opened there.
        model: name of the model. It tells apart families with the same delimiters (rule 6), and
            whether a text without any is a thought (rule 7).
        tags: delimiters to look for instead of every known family.
        finish_reason: why the model stopped, as its source says; in any case.

    >>> parts = split_think("<think>2+2=4</think>Four.")
    >>> parts.think[0].of("<think>2+2=4</think>Four."), parts.status.value
    ('2+2=4', 'closed')
    """
    is_called = finish_reason.lower() in CALLED
    if tags is not None:
        return _split_by(tags, completion, prompt, is_called)

    # A format whose messages have headers.
    headed = messages_of(completion, prompt, model)
    if headed:
        return split_messages(completion, headed, is_called)

    # Thinking that was switched off, unless the model thinks all the same.
    pairs = pairs_in(completion, prompt)
    family = family_of(model)
    if prompt_closes(prompt, pairs) and not _opens_itself(completion, pairs):
        return _answer_only(completion, family)

    # A pair of delimiters, in the text or opened by the prompt.
    found = find_pair(completion, prompt, pairs)
    if found:
        rules = rules_of(found.pair, family)
        return split_tagged(completion, found, rules, is_called)

    # A thought of such a format whose header is not known, or none at all.
    headed = inner_messages(completion)
    if headed:
        return split_messages(completion, headed, is_called)
    return _split_untagged(completion, prompt, family, finish_reason)


def _split_by(tags: Tags, completion: str, prompt: str, is_called: bool) -> Split:
    """The parts of a completion by one pair of delimiters, and no other.

    Raises:
        ValueError: if one of them is empty.
    """
    if not all(tags):
        raise ValueError(f"the delimiters of a thought must not be empty, got {tags}")
    found = find_pair(completion, prompt, (tags,))
    if found is None:
        return _answer_only(completion, None)
    return split_tagged(completion, found, Rules(), is_called)


def has_delimiters(text: str, prompt: str = "", model: str = "") -> bool:
    """Whether a text has a delimiter of any known family, quoted ones aside.

    The headers of messages count, with their special tokens or without: what `split_think` would
    split by does. A thought that the prompt alone opened does not.
    """
    if has_tag(text):
        return True
    return has_messages(text, prompt, model)


def is_well_formed(completion: str, prompt: str = "") -> bool:
    """Whether a completion is exactly one closed thought and then an answer, neither of them blank.

    Each delimiter stands once, nothing stands before the first, and a thought that the prompt
    opened is not opened again. Delimiters that the text only mentions count too.
    """
    split = split_think(completion, prompt)
    if split.status is not Status.CLOSED or len(split.think) != 1:
        return False
    thought = split.think[0].of(completion)
    answer = split.answer.of(completion)
    if not thought.strip() or not answer.strip():
        return False

    # Where each message has a header: a thought and an answer, and no more.
    headed = messages_of(completion, prompt, "")
    if headed:
        first = headed.messages[0]
        thinks = first.channel in headed.channels.think
        return thinks and len(headed.messages) == 2

    pairs = pairs_in(completion, prompt)
    found = find_pair(completion, prompt, pairs)
    if found is None:
        return False
    n_open = count_tag(completion, found.pair.open)
    n_close = count_tag(completion, found.pair.close)
    if n_close != 1:
        return False
    if found.by_prompt:
        return n_open == 0
    opens_first = _opens_itself(completion, (found.pair,))
    return opens_first and n_open == 1


def delimiters_of(completion: str, prompt: str = "") -> Tags | None:
    """The pair of delimiters that `split_think` splits by; None if it splits by no pair."""
    pairs = pairs_in(completion, prompt)
    found = find_pair(completion, prompt, pairs)
    if found is None:
        return None
    return found.pair


def _opens_itself(completion: str, pairs: tuple[Tags, ...]) -> bool:
    """Whether a completion begins with an opening tag."""
    rest = completion.lstrip()
    begin = len(completion) - len(rest)
    return any(starts_with(completion, pair.open, begin) for pair in pairs)


def _split_untagged(text: str, prompt: str, family: Family | None, finish_reason: str) -> Split:
    """A completion without a delimiter: an answer, unless the model's template opened a thought."""
    if not text or family is None or is_rendered(prompt):
        return _answer_only(text, family)

    # A call ends it as one ends a thought whose tag is known.
    split = _split_at_call(text, family)
    if split:
        return split
    if template_opens(family, finish_reason):
        return _all_thought(text)
    return _answer_only(text, family)


def _split_at_call(text: str, family: Family) -> Split | None:
    """A thought that the template opened and that ended in a call, or None.

    Parsers of families whose template opens the thought begin inside it, unless the request
    switched thinking off, which a text without a prompt does not tell.
    """
    if family.opens not in (Opens.ALWAYS, Opens.DEFAULT):
        return None
    if family.on_call is not OnCall.ENDS:
        return None
    marks = Marks(text, family.tags[0], family.calls)
    call = next_span(marks.call_spans, 0)
    if call is None:
        return None

    thought = Span(0, call.start)
    after = end_of_calls(text, call.start, family.calls)
    return Split(
        think=(thought,),
        answer=Span(after, len(text)),
        status=Status.CLOSED,
        opened_by=OpenedBy.MODEL,
    )


def _answer_only(text: str, family: Family | None) -> Split:
    """A completion without a thought."""
    whole = Span(0, len(text))
    wrappers = special_wrappers(family)
    return Split(
        think=(),
        answer=inside_wrappers(text, whole, wrappers),
        status=Status.ABSENT,
        opened_by=OpenedBy.NOTHING,
    )


def request_of(trace: Trace) -> str:
    """What the user asked, for a judge.

    It is `meta["request"]` where the source keeps that next to a rendered prompt.
    """
    return request_in(trace.prompt, trace.meta)


def request_in(prompt: str, meta: Mapping[str, Any]) -> str:
    """What the user asked, from a trace's prompt and `meta`; see `request_of`."""
    return str(meta.get("request") or prompt)


def part_text(trace: Trace, part: str, tags: Tags | None = None) -> str:
    """The thinking, the answer, or all of a completion; or the request.

    Several thoughts are joined by a blank line.
    """
    if part == "request":
        return request_of(trace)
    if part == "full":
        return trace.completion
    split = split_trace(trace, tags=tags)
    if part == "answer":
        return split.answer.of(trace.completion)

    thoughts = []
    for span in split.think:
        thoughts.append(span.of(trace.completion))
    return "\n\n".join(thoughts)
