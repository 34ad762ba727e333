"""Where thinking ends and the answer starts, with a status.

The completion is searched for the delimiters of the known model families; nothing is stripped, so
every span can be checked against the text.

Rules, in the order they are applied:

1. A source with separate fields is taken at its word (`Trace.origin` is fields) and never searched.
2. The *first* closing tag ends a thought. An opening tag inside a thought is text.
3. A tag that the prompt opened counts: the thought then starts at character 0.
4. A closing tag with no opening tag before it means the same, even when the prompt is unknown.
5. No tag at all, the model's chat template is known to open the thought, and no finish reason says
   that the model stopped by itself: the thought was cut off. `Split.opened_by` is then `model`, so
   that this inference can be told from what was read. A tag that is only quoted (`<think>` in
   backticks) is text.
6. After a thought, a further block that is opened (not in quotes) and closed is a thought too; the
   text between them is commentary: neither thinking nor answer.
"""

import re
from enum import StrEnum
from typing import NamedTuple

from cotlens.text.families import ASSISTANT_TURN, FAMILIES, TEMPLATE_OPENS, Tags
from cotlens.trace import Origin, Span, Trace


class Status(StrEnum):
    """How the thought ended."""

    CLOSED = "closed"
    OPEN = "open"  # cut off before the closing tag: there is no answer
    ABSENT = "absent"  # there is no thought


class OpenedBy(StrEnum):
    """What shows that a thought began."""

    TEXT = "text"  # an opening tag in the completion
    # an opening tag at the end of the prompt, or a closing tag that was never opened
    PROMPT = "prompt"
    MODEL = "model"  # neither; the model's chat template opens it
    FIELDS = "fields"  # the source
    NOTHING = ""  # no thought


class Split(NamedTuple):
    """The parts of one completion, in code points.

    Attributes:
        think: one span per thought, tags excluded. Text between thoughts is commentary and in no
            span.
        answer: the text after the last thought; empty where the thought is open.
        status: closed, open or absent.
        opened_by: what shows that the thought began.
    """

    think: tuple[Span, ...]
    answer: Span
    status: Status
    opened_by: OpenedBy


_STOPPED = frozenset(("stop", "eos", "end_turn", "stop_sequence", "tool_calls", "tool_use"))
_QUOTES = frozenset("`\"'“‘”’")


def split_trace(trace: Trace, *, tags: Tags | None = None) -> Split:
    """The parts of a trace: as its source gave them, or else as `split_think` finds them."""
    if trace.origin is Origin.TEXT:
        # A model that stopped by itself without any delimiter skipped the thought; it was not cut
        # off inside it.
        model = "" if trace.finish_reason in _STOPPED else trace.model
        return split_think(trace.completion, trace.prompt, model=model, tags=tags)
    n = len(trace.completion)
    answer = trace.answer or Span(n, n)
    think = tuple(_within_tags(trace.completion, span) for span in trace.think)
    if not any(span.length for span in think):
        return Split((), answer, Status.ABSENT, OpenedBy.NOTHING)
    # Without text after the thinking, and without a finish reason that says the model stopped by
    # itself, the thought does not count as closed.
    closed = answer.length > 0 or trace.finish_reason in _STOPPED
    return Split(think, answer, Status.CLOSED if closed else Status.OPEN, OpenedBy.FIELDS)


def _within_tags(text: str, span: Span) -> Span:
    """A thought from a separate field, without the delimiters that some sources leave around it."""
    thought = span.of(text)
    without_lead, without_trail = thought.lstrip(), thought.rstrip()
    start, stop = span
    for family in FAMILIES:
        if without_lead.startswith(family.open):
            start = span.stop - len(without_lead) + len(family.open)
        if without_trail.endswith(family.close):
            stop = span.start + len(without_trail) - len(family.close)
    return Span(start, max(start, stop))


def split_think(
    completion: str, prompt: str = "", *, model: str = "", tags: Tags | None = None
) -> Split:
    """Where the thoughts and the answer of a completion are, and whether the last one was closed.

    Args:
        completion: text as generated; it may contain an echo of the prompt.
        prompt: text before it, best as rendered by the chat template: a thought may have been
            opened there.
        model: name of the model, used only where neither text has any delimiter (rule 5).
        tags: delimiters to look for instead of every known family.

    >>> parts = split_think("<think>2+2=4</think>Four.")
    >>> parts.think[0].of("<think>2+2=4</think>Four."), parts.status.value
    ('2+2=4', 'closed')
    """
    if tags is not None and not all(tags):
        raise ValueError(f"the delimiters of a thought must not be empty, got {tags}")
    if tags is None:
        harmony = _split_harmony(completion, prompt) or _split_stripped_harmony(completion, model)
        if harmony:
            return harmony
    families = FAMILIES if tags is None else (tags,)
    start = _echo_end(completion, prompt)
    if _prompt_closes(prompt, families) and not completion.lstrip().startswith(
        tuple(tag.open for tag in families)
    ):
        return Split((), Span(0, len(completion)), Status.ABSENT, OpenedBy.NOTHING)
    opened = next((family for family in families if _prompt_opens(prompt, family)), None)
    family = opened or _first_family(completion, start, families)
    if family is None:
        return _split_untagged(completion, prompt, model if tags is None else "")
    return _split_tagged(completion, start, family, opened is not None)


def _split_tagged(text: str, start: int, family: Tags, opened: bool) -> Split:
    """The parts of a text that has at least one delimiter of `family`.

    The delimiter is in the text or at the end of its prompt.
    """
    first_open = _find_unquoted(text, family.open, start)
    first_close = _find_unquoted(text, family.close, start)
    if opened:
        # Some servers repeat the tag that the prompt already opened.
        repeated = first_open >= 0 and not text[start:first_open].strip()
        begin = first_open + len(family.open) if repeated else start
        opened_by = OpenedBy.PROMPT
    elif first_open >= 0 and (first_close < 0 or first_open < first_close):
        begin, opened_by = first_open + len(family.open), OpenedBy.TEXT
    else:
        begin, opened_by = start, OpenedBy.PROMPT
    think, answer = [], Span(len(text), len(text))
    while True:
        close = text.find(family.close, begin)
        if close < 0:
            think.append(Span(begin, len(text)))
            return Split(tuple(think), answer, Status.OPEN, opened_by)
        think.append(Span(begin, close))
        after = close + len(family.close)
        begin = _next_block(text, after, family)
        if begin < 0:
            return Split(tuple(think), Span(after, len(text)), Status.CLOSED, opened_by)


def _next_block(text: str, after: int, family: Tags) -> int:
    """Where the next thought after `after` begins, or -1.

    A tag in the middle of an answer must also be closed.
    """
    last_close = text.rfind(family.close)
    at = _find_unquoted(text, family.open, after)
    while at >= 0:
        begin = at + len(family.open)
        line = text[max(after, at - 80) : at].rpartition("\n")[2]
        if not line.strip() or begin <= last_close:
            return begin
        at = _find_unquoted(text, family.open, begin)
    return -1


def _split_untagged(text: str, prompt: str, model: str) -> Split:
    """A completion without a delimiter: an answer, unless the model's template opened a thought."""
    n = len(text)
    rendered = ASSISTANT_TURN.search(prompt) is not None
    if n and model and not rendered and TEMPLATE_OPENS.search(model):
        return Split((Span(0, n),), Span(n, n), Status.OPEN, OpenedBy.MODEL)
    return Split((), Span(0, n), Status.ABSENT, OpenedBy.NOTHING)


def _first_family(text: str, start: int, families: tuple[Tags, ...]) -> Tags | None:
    """The family that delimits this text.

    It is the family that the text begins with; else one whose closing tag was never opened; else
    the one that comes first. A thought may talk about the delimiters of another family; such a
    mention does not delimit it.
    """
    begin = start + len(text) - start - len(text[start:].lstrip())
    leading = next((family for family in families if text.startswith(family.open, begin)), None)
    if leading:
        return leading
    opens = {family: _find_unquoted(text, family.open, start) for family in families}
    closes = {family: _find_unquoted(text, family.close, start) for family in families}
    unopened = [
        (at, family) for family, at in closes.items() if at >= 0 and not 0 <= opens[family] < at
    ]
    found = unopened or [(at, family) for family, at in opens.items() if at >= 0]
    return min(found)[1] if found else None


def _prompt_closes(prompt: str, families: tuple[Tags, ...]) -> bool:
    """Whether a rendered prompt ends with a closed thought: thinking was switched off."""
    return ASSISTANT_TURN.search(prompt) is not None and prompt.rstrip().endswith(
        tuple(tag.close for tag in families)
    )


def _find_unquoted(text: str, tag: str, start: int) -> int:
    """Where the tag first stands without quotation marks on both sides, or -1."""
    at = text.find(tag, start)
    while at > 0 and text[at - 1] in _QUOTES and text[at + len(tag) : at + len(tag) + 1] in _QUOTES:
        at = text.find(tag, at + len(tag))
    return at


def has_delimiters(text: str) -> bool:
    """Whether the text has a delimiter of any known family, quoted ones aside."""
    return "<|channel|>" in text or any(
        _find_unquoted(text, tag, 0) >= 0 for family in FAMILIES for tag in family
    )


def _prompt_opens(prompt: str, family: Tags) -> bool:
    """Whether the prompt ends inside a thought.

    It does after an opening tag, or after a prefilled part of the thought.
    """
    at = prompt.rfind(family.open.rstrip())
    if at < 0 or prompt.find(family.close, at) >= 0:
        return False
    if not prompt[at + len(family.open.rstrip()) :].strip() and (
        at == 0 or prompt[at - 1] in "\n>]:"
    ):
        # At the very end, where a template puts it; "What is <think>" is a user's question.
        return True
    turns = [match.end() for match in ASSISTANT_TURN.finditer(prompt, 0, at)]
    # A user who merely mentions the tag comes before the assistant's turn; a prefilled thought
    # right after it.
    return bool(turns) and not prompt[turns[-1] : at].strip()


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought of any known family."""
    return any(_prompt_opens(prompt, family) for family in FAMILIES)


def _echo_end(text: str, prompt: str) -> int:
    """Where the completion's own text begins, if it repeats the prompt first; else 0.

    Only an echo that contains a delimiter matters: the first delimiter after the echo is the
    model's.
    """
    if len(prompt) < 8:
        return 0
    tags = [tag for family in FAMILIES for tag in family if tag in prompt]
    if not tags:
        return 0
    at = text.find(prompt)
    if at < 0 or any(0 <= text.find(tag) < at for tag in tags):
        return 0
    # A prompt that ends by opening the thought is echoed with its tag: the search must still see
    # that tag.
    opened = next((family.open for family in FAMILIES if _prompt_opens(prompt, family)), None)
    return at + (prompt.rfind(opened.rstrip()) if opened else len(prompt))


# --- gpt-oss Harmony -------------------------------------------------------------------------
_HARMONY = re.compile(r"<\|(start|channel|message|end|return|call|constrain)\|>")
_HARMONY_PREFILL = re.compile(r"<\|channel\|>(\w++)[^<]*+<\|message\|>(?:(?!<\|).)*+\Z", re.DOTALL)
_STRIPPED = re.compile(r"assistant(analysis|final|commentary)")


class _Message(NamedTuple):
    role: str
    channel: str
    content: Span
    ended: bool


def _harmony_messages(text: str, channel: str) -> list[_Message]:
    """Every message of a raw Harmony text; `channel` is the one the prompt opened, if any."""
    messages, role, field, field_at = [], "assistant", "message" if channel else "", 0
    for match in [*_HARMONY.finditer(text), None]:
        at = match.start() if match else len(text)
        token = match.group(1) if match else ""
        if field == "message":
            messages.append(
                _Message(role, channel, Span(field_at, at), token in ("end", "return", "call"))
            )
            role, channel = "assistant", ""
        elif field == "start":
            role = text[field_at:at].split(" ")[0]
        elif field == "channel":
            header = text[field_at:at]
            channel = (
                "tool" if " to=" in header else header.split(" ")[0].strip()
            )  # a call is not thinking
        field, field_at = token, match.end() if match else at
    return messages


def _split_harmony(text: str, prompt: str) -> Split | None:
    """The parts of a text with Harmony's special tokens, or None. Only the last turn counts."""
    prefill = _HARMONY_PREFILL.search(prompt) if "<|channel|>" in prompt else None
    begins = text.lstrip()[:12].startswith(
        ("<|channel|>", "<|start|>")
    )  # elsewhere they are only mentioned
    if prefill is None and not begins:
        return None
    messages = _harmony_messages(text, prefill.group(1) if prefill else "")
    last_user = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
    turn = [message for message in messages[last_user + 1 :] if message.role == "assistant"]
    return _split_channels(text, turn, OpenedBy.PROMPT if prefill else OpenedBy.TEXT)


def _split_stripped_harmony(text: str, model: str) -> Split | None:
    """The parts of `analysis...assistantfinal...`, or None.

    This is what remains of Harmony when its special tokens are dropped.
    """
    if not text.startswith("analysis") or text[8:9] == " ":
        return None
    marks = list(_STRIPPED.finditer(text))
    if not marks and not (text[8:9].isupper() or "gpt-oss" in model.lower()):
        return None
    starts = [(8, "analysis"), *((mark.end(), mark.group(1)) for mark in marks)]
    stops = [*(mark.start() for mark in marks), len(text)]
    turn = [
        _Message("assistant", channel, Span(start, stop), stop < len(text))
        for (start, channel), stop in zip(starts, stops, strict=True)
    ]
    return _split_channels(text, turn, OpenedBy.TEXT)


def _split_channels(text: str, turn: list[_Message], opened_by: OpenedBy) -> Split:
    """Analysis is thinking, final is the answer, commentary and tool calls are neither."""
    think = tuple(message.content for message in turn if message.channel == "analysis")
    finals = [message.content for message in turn if message.channel == "final"]
    answer = finals[-1] if finals else Span(len(text), len(text))
    if not think:
        return Split((), answer, Status.ABSENT, OpenedBy.NOTHING)
    is_open = turn[-1].channel == "analysis" and not turn[-1].ended
    return Split(think, answer, Status.OPEN if is_open else Status.CLOSED, opened_by)


def request_of(trace: Trace) -> str:
    """What the user asked, for a judge.

    It is `meta["request"]` where the source keeps that next to a rendered prompt.
    """
    return str(trace.meta.get("request") or trace.prompt)


def part_text(trace: Trace, part: str, tags: Tags | None = None) -> str:
    """The thinking, the answer, or all of a completion.

    Several thoughts are joined by a blank line.
    """
    if part == "full":
        return trace.completion
    split = split_trace(trace, tags=tags)
    if part == "answer":
        return split.answer.of(trace.completion)
    return "\n\n".join(span.of(trace.completion) for span in split.think)
