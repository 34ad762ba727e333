"""What a row of the table of model families holds, and what a completion is split into."""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from cotlens.trace import Span


class Tags(NamedTuple):
    """A pair of delimiters, exactly as they stand in the text."""

    open: str
    close: str


class Opens(StrEnum):
    """Whether the chat template ends the prompt with the opening delimiter of a thought."""

    NEVER = "never"  # the model writes it
    ASKED = "when asked"  # if thinking is switched on
    DEFAULT = "by default"  # unless thinking is switched off
    ALWAYS = "always"  # there is no switch
    UNKNOWN = "not checked"


class OnCall(StrEnum):
    """What a tool call does to a thought that nothing closes."""

    ENDS = "ends"  # the family's parsers end the thought there
    STAYS = "stays"  # they read on to the closing delimiter
    APART = "apart"  # a call is cut out of its thought, which goes on
    UNKNOWN = "not checked"


class Turns(NamedTuple):
    """What a chat template writes between messages.

    Attributes:
        assistant: opens the assistant's message; the first is what the template writes.
        others: open another message or end one.
    """

    assistant: tuple[str, ...]
    others: tuple[str, ...] = ()


class Channels(NamedTuple):
    """A format whose messages have a header each.

    Attributes:
        begins: pattern of how such a completion begins.
        header: pattern of a header, with the groups `role` and `channel`.
        stop: pattern of what ends a message; in its group `end` if the model ended it itself.
        openers: how a header begins; the prompt is read from its last one on.
        think: channels of thinking.
        answer: channels of the answer; all others are neither.
        opened: header of a thought.
        direct: header of an answer without a thought.
        halves: what a completion begins with, and the half of a header that its prompt held.
        inside: the end of a thought and the header after it: no other format has it.
    """

    begins: re.Pattern[str]
    header: re.Pattern[str]
    stop: re.Pattern[str]
    openers: tuple[str, ...]
    think: tuple[str, ...]
    answer: tuple[str, ...]
    opened: str
    direct: str
    halves: tuple[tuple[re.Pattern[str], str], ...] = ()
    inside: str = ""


NO_TURNS = Turns(())


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table: what templates and parsers of one family of models do.

    Attributes:
        name: of the family.
        models: pattern of its models' names, searched without regard to case.
        tags: delimiters of a thought. The first pair is what the models write; the others are
            spellings that parsers accept. In a format with channels: from the header of the thought
            to the header of the answer.
        written: the first pair with the line breaks that the template writes around a thought.
        opens: whether the template opens the thought.
        turns: what the template writes between messages.
        calls: delimiters of tool calls.
        on_call: what a call does to an open thought.
        wrappers: delimiters around the answer. If the first is empty, the answer begins at once.
        channels: the format of messages, where each has a header.
        source: what was read: package, version and file.
    """

    name: str
    models: str
    tags: tuple[Tags, ...]
    written: Tags | None = None
    opens: Opens = Opens.UNKNOWN
    turns: Turns = NO_TURNS
    calls: tuple[Tags, ...] = ()
    on_call: OnCall = OnCall.UNKNOWN
    wrappers: tuple[Tags, ...] = ()
    channels: Channels | None = None
    source: str = ""


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
