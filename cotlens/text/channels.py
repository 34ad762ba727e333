"""Formats in which each message has a header: gpt-oss's Harmony and its like.

A message is thinking, answer, or neither (a tool call, a commentary), by its channel. The prompt
may hold the beginning of the first message: the texts are read from there.
"""

import re
from functools import cache
from typing import NamedTuple

from cotlens.text.tags import Channels
from cotlens.trace import Span

HARMONY = Channels(
    begins=re.compile(r"<\|(?:channel|start)\|>"),
    header=re.compile(
        r"(?:<\|start\|>(?P<role>[^<]*+))?+(?:<\|channel\|>(?P<channel>[^<]*+))?+"
        r"(?:<\|constrain\|>[^<]*+)?+<\|message\|>"
    ),
    stop=re.compile(r"(?P<end><\|(?:end|return|call)\|>)|<\|(?:start|channel|constrain)\|>"),
    openers=("<|start|>", "<|channel|>"),
    halves=(
        (re.compile(r"assistant\b[^<]{0,99}+<\|(?:channel|message)\|>"), "<|start|>"),
        (re.compile(r" to=[^<]{1,99}+<\|channel\|>"), "<|start|>assistant"),
        (
            re.compile(r"(?:analysis|commentary|final)\b[^<]{0,99}+<\|message\|>"),
            "<|start|>assistant<|channel|>",
        ),
    ),
    inside="<|end|><|start|>assistant",
    think=("analysis",),
    answer=("final",),
    opened="<|channel|>analysis<|message|>",
    direct="<|channel|>final<|message|>",
)
MUSE = Channels(
    begins=re.compile(r"(?:<\|start\|>assistant)? ?to=[^\s<]{1,200}+<\|message\|>"),
    header=re.compile(
        r"(?:<\|start\|>(?P<role>\w++)(?: (?!to=)[^<]*+)?+)?+"
        r" ?(?:to=(?P<channel>[^\s<]{1,200}+))?+<\|message\|>"
    ),
    stop=re.compile(r"(?P<end><\|eo[mt]\|>)|<\|start\|>"),
    openers=("<|start|>", "to=self<|message|>"),
    halves=((re.compile(r"assistant to=[^\s<]{1,99}+<\|message\|>"), "<|start|>"),),
    inside="<|eom|><|start|>assistant",
    think=("self",),
    answer=("user",),
    opened="<|start|>assistant to=self<|message|>",
    direct=" to=user<|message|>",
)
XTML = Channels(
    begins=re.compile(r"<\|open\|>\s*(?:think|response|tools|message)\b"),
    header=re.compile(
        r"<\|open\|>\s*+(?P<channel>\w{1,20}+)(?: role=\"(?P<role>\w{1,20}+)\")?+"
        r"[^<]{0,200}+<\|sep\|>"
    ),
    stop=re.compile(
        r"(?P<end><\|close\|>\s*+\w{0,20}+\s*+(?:<\|sep\|>|\Z)|<\|end_of_msg\|>)|<\|open\|>"
    ),
    openers=('<|open|>message role="assistant"', "<|open|>think"),
    inside="<|close|>think<|sep|>",
    think=("think",),
    answer=("response",),
    opened="<|open|>think<|sep|>",
    direct="<|open|>response<|sep|>",
)
SOLAR = Channels(
    begins=re.compile(r"(?:<\|begin\|>assistant)?<\|(?:think|content|tool_calls)\|>"),
    header=re.compile(
        r"(?:<\|begin\|>(?P<role>[^<]*+))?+"
        r"<\|(?P<channel>think|content|tool_calls|tool_response)\|>"
    ),
    stop=re.compile(r"(?P<end><\|(?:end|calls|flush)\|>)|<\|begin\|>"),
    openers=("<|begin|>", "<|think|>"),
    halves=((re.compile(r"assistant<\|(?:think|content|tool_calls)\|>"), "<|begin|>"),),
    inside="<|end|><|begin|>assistant<|content|>",
    think=("think",),
    answer=("content",),
    opened="<|think|>",
    direct="<|content|>",
)
INKLING = Channels(
    begins=re.compile(r"(?:<\|message_model\|>)?<\|content_(?:thinking|text|invoke\w{0,40})\|>"),
    header=re.compile(
        r"(?:<\|message_(?P<role>\w{1,20}+)\|>[^<]*+)?+"
        r"<\|content_(?!model_end)(?P<channel>\w{1,40}+)\|>"
    ),
    stop=re.compile(r"(?P<end><\|(?:end_message|content_model_end_sampling)\|>)|<\|message_"),
    openers=("<|message_", "<|content_thinking|>"),
    inside="<|end_message|><|message_model|><|content_text|>",
    think=("thinking",),
    answer=("text",),
    opened="<|content_thinking|>",
    direct="<|content_text|>",
)
HYPERCLOVA = Channels(
    begins=re.compile(r"<\|im_start\|>assistant/think\n"),
    header=re.compile(r"<\|im_start\|>(?P<role>\w{1,20}+)(?P<channel>/think| ?->[^\n<]{0,99}+|)\n"),
    stop=re.compile(r"(?P<end><\|im_end\|>)|<\|im_start\|>"),
    openers=("<|im_start|>",),
    halves=((re.compile(r"/think\n"), "<|im_start|>assistant"),),
    think=("/think",),
    answer=("",),
    opened="<|im_start|>assistant/think\n",
    direct="\n",
)
S1 = Channels(
    begins=re.compile(r"<\|im_start\|>(?:think|answer)\b"),
    header=re.compile(r"<\|im_start\|>(?:(?P<channel>think|answer)|(?P<role>\w{1,20}+))(?:\n|\Z)"),
    stop=re.compile(r"(?P<end><\|im_end\|>)|<\|im_start\|>"),
    openers=("<|im_start|>",),
    inside="\n<|im_start|>answer\n",
    think=("think",),
    answer=("answer",),
    opened="<|im_start|>think\n",
    direct="<|im_start|>answer\n",
)

FORMATS = (MUSE, HARMONY, XTML, SOLAR, INKLING, HYPERCLOVA, S1)


REST = "rest"  # the channel of text after the last message, without a header of its own


class Message(NamedTuple):
    """A message of a completion.

    Attributes:
        role: of its header; empty where the header has none.
        channel: likewise; `tool` for a call.
        content: its text.
        is_whole: whether the model ended it itself.
        by_prompt: whether the prompt named the channel.
    """

    role: str
    channel: str
    content: Span
    is_whole: bool
    by_prompt: bool


_MESSAGE = "<|message|>"  # the end of a header, of which a prompt may hold all but this


def read_messages(text: str, prompt: str, channels: Channels) -> list[Message] | None:
    """The messages of a completion, or None if it is not in this format."""
    # The prompt may hold the beginning of the first message: the text is read from there.
    for opener in channels.openers:
        at = prompt.rfind(opener)
        start = at + len(opener)
        if at < 0 or _ends_message(prompt, start, channels):
            continue

        before = prompt[at:]
        messages = _messages_after(before, text, channels)
        if messages and channels.begins.match(before + text):
            return messages

    if channels.begins.match(text.lstrip()):
        return _messages_after("", text, channels)

    # The prompt is not known, and held half of the header.
    for half, before in channels.halves:
        if half.match(text):
            return _messages_after(before, text, channels)
    return None


def read_inside(text: str, channels: Channels) -> list[Message] | None:
    """The messages of a completion that starts inside a thought, or None.

    The prompt, which opened the thought, is not known: the thought's end shows it.
    """
    if not channels.inside or channels.inside not in text:
        return None
    before = channels.opened
    if text.startswith(_MESSAGE):
        before = before.removesuffix(_MESSAGE)
    return _messages_after(before, text, channels)


def _ends_message(text: str, start: int, channels: Channels) -> bool:
    """Whether a message ends in the rest of a text."""
    stops = channels.stop.finditer(text, start)
    return any(stop["end"] for stop in stops)


def _messages_after(before: str, text: str, channels: Channels) -> list[Message]:
    """The messages of a completion after the beginning of a header.

    A message that the completion has no part in is left out.
    """
    whole = before + text
    n_before = len(before)
    messages = []
    header = None
    stop = len(whole)

    marks = _marks(channels)
    for match in marks.finditer(whole):
        if header is not None and match.start() >= n_before:
            is_whole = match["end"] is not None
            message = _message(header, match.start(), n_before, is_whole)
            messages.append(message)
        header = match if match["header"] is not None else None
        stop = match.end()

    # The last message may have been cut off, or what follows it may lack a header.
    if header is not None:
        message = _message(header, len(whole), n_before, is_whole=False)
        messages.append(message)
    elif messages and whole[stop:].strip():
        start = max(stop - n_before, 0)
        rest = Span(start, len(text))
        message = Message("", REST, rest, is_whole=False, by_prompt=False)
        messages.append(message)
    return messages


@cache
def _marks(channels: Channels) -> re.Pattern[str]:
    """Headers, and what ends a message."""
    header = channels.header.pattern
    stop = channels.stop.pattern
    return re.compile(f"(?P<header>{header})|{stop}")


def _message(header: re.Match[str], stop: int, n_before: int, is_whole: bool) -> Message:
    """The message of a header, up to a place of the whole text."""
    role = header["role"] or ""
    name = header["channel"] or ""

    # A call names its recipient after the role or the channel; it is no thought, wherever it is.
    channel = _first_word(name)
    if " to=" in role or " to=" in name:
        channel = "tool"

    start = max(header.end() - n_before, 0)
    return Message(
        role=_first_word(role),
        channel=channel,
        content=Span(start, stop - n_before),
        is_whole=is_whole,
        by_prompt=0 <= header.start("channel") < n_before,
    )


def _first_word(text: str) -> str:
    words = text.split(maxsplit=1)
    if not words:
        return ""
    return words[0]


# --- the same without special tokens -------------------------------------------------------------
_HARMONY_MARK = re.compile(
    r"assistant(?: to=(?P<to>[\w.-]{1,99}?))?(?P<channel>analysis|commentary|final)"
)
_HARMONY_FIRST = re.compile(r"analysis(?! )|commentary(?! (?!to=))|final(?=[A-Z\d*])")
_MUSE_MARK = re.compile(r"assistant to=(?P<channel>self|user|commentary|)")
_MUSE_FIRST = re.compile(r"(?:assistant)? ?to=(?P<channel>self|user)")


def read_stripped(text: str, model: str) -> tuple[list[Message], Channels] | None:
    """The messages of a text whose special tokens were dropped, and its format, or None.

    gpt-oss: `analysis...assistantfinal...`; Muse: ` to=self...assistant to=user...`; Kimi K3, whose
    tokens leave the names of elements: `...thinkresponse...responsemessage`.
    """
    # Headers with the role; the first one may lack it.
    begins = _HARMONY_FIRST.match(text)
    if begins or _HARMONY_MARK.match(text):
        marks = list(_HARMONY_MARK.finditer(text))
        if begins is None:
            return _between(text, "", 0, marks), HARMONY

        # "analysis of", or a sentence that begins with the word, is no header.
        channel = begins.group()
        following = text[begins.end() : begins.end() + 1]
        is_thought = channel == "analysis" and following.isupper()
        if marks or is_thought or "gpt-oss" in model.lower():
            return _between(text, channel, begins.end(), marks), HARMONY

    begins = _MUSE_FIRST.match(text)
    if begins:
        marks = list(_MUSE_MARK.finditer(text, begins.end()))
        return _between(text, begins["channel"], begins.end(), marks), MUSE

    if "kimi-k3" in model.lower() and "thinkresponse" in text:
        return _read_stripped_xtml(text), XTML
    return None


def _between(text: str, channel: str, start: int, marks: list[re.Match[str]]) -> list[Message]:
    """The messages between marks; `channel` is that of the text before the first one."""
    messages = []
    for mark in marks:
        if channel:
            content = Span(start, mark.start())
            messages.append(_stripped(channel, content, is_whole=True))
        channel = mark["channel"] or "tool"
        if mark.groupdict().get("to"):
            channel = "tool"
        start = mark.end()

    content = Span(start, len(text))
    messages.append(_stripped(channel, content, is_whole=False))
    return messages


def _stripped(channel: str, content: Span, is_whole: bool) -> Message:
    return Message("assistant", channel, content, is_whole, by_prompt=False)


def _read_stripped_xtml(text: str) -> list[Message]:
    """Thinking and answer of Kimi K3 without its special tokens."""
    start = 0
    if text.startswith("think"):
        start = len("think")
    thought_stop = text.find("thinkresponse", start)
    answer_start = thought_stop + len("thinkresponse")

    # The answer ends where its element and the message do, or where calls begin.
    answer_stop = len(text)
    for end in ("responsemessage", "responsetools"):
        at = text.find(end, answer_start, answer_stop)
        if at >= 0:
            answer_stop = at

    thought = Span(start, thought_stop)
    answer = Span(answer_start, answer_stop)
    return [
        _stripped("think", thought, is_whole=True),
        _stripped("response", answer, is_whole=answer_stop < len(text)),
    ]
