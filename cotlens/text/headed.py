"""The parts of a completion whose messages have a header each."""

from typing import NamedTuple

from cotlens.text.channels import (
    FORMATS,
    REST,
    Message,
    read_inside,
    read_messages,
    read_stripped,
)
from cotlens.text.delimiters import find_unquoted
from cotlens.text.families import FAMILIES
from cotlens.text.tagged import end_of
from cotlens.text.tags import Channels, OnCall, OpenedBy, Split, Status


class Headed(NamedTuple):
    """The messages of a completion, and their format."""

    messages: list[Message]
    channels: Channels


def messages_of(text: str, prompt: str, model: str) -> Headed | None:
    """The messages of a text and their format, with or without special tokens, or None."""
    for channels in FORMATS:
        messages = read_messages(text, prompt, channels)
        if messages:
            return Headed(messages, channels)

    stripped = read_stripped(text, model)
    if stripped is None:
        return None
    return Headed(*stripped)


def inner_messages(text: str) -> Headed | None:
    """The messages of a text that begins inside a thought, and their format, or None."""
    for channels in FORMATS:
        # The end of a thought that is only quoted ends none.
        if not channels.inside or find_unquoted(text, channels.inside, 0) < 0:
            continue
        messages = read_inside(text, channels)
        if messages:
            return Headed(messages, channels)
    return None


def has_messages(text: str, prompt: str, model: str) -> bool:
    """Whether a text itself has the header of a message, or ends one."""
    headed = messages_of(text, prompt, model) or inner_messages(text)
    if headed is None:
        return False

    # The header of a single message may be the prompt's.
    first = headed.messages[0]
    return len(headed.messages) > 1 or first.is_whole or not first.by_prompt


def split_messages(text: str, headed: Headed, is_called: bool) -> Split:
    """Messages of the last turn: thinking, the answer, and others, which are neither.

    Args:
        text: the completion.
        headed: its messages.
        is_called: whether the source says that the turn ended with a tool call.
    """
    channels = headed.channels
    turn = _last_turn(headed.messages)
    think = [message for message in turn if message.channel in channels.think]

    # A source may leave out the header of the answer: then it is what follows the thought.
    answer = end_of(text)
    for message in turn:
        is_rest = message.channel == REST and think and not answer.length
        if message.channel in channels.answer or is_rest:
            answer = message.content
    if not think:
        return Split((), answer, Status.ABSENT, OpenedBy.NOTHING)

    # The last message was cut off, unless a call that stands elsewhere ended it.
    last = turn[-1]
    status = Status.CLOSED
    is_ended = last.is_whole or (is_called and _ends_on_call(channels))
    if last.channel in channels.think and not is_ended:
        status = Status.OPEN

    opened_by = OpenedBy.TEXT
    if think[0].by_prompt:
        opened_by = OpenedBy.PROMPT
    spans = tuple(message.content for message in think)
    return Split(spans, answer, status, opened_by)


def _last_turn(messages: list[Message]) -> list[Message]:
    """The assistant's messages after the last one of a user."""
    turn: list[Message] = []
    for message in messages:
        if message.role == "user":
            turn = []
        elif message.role in ("", "assistant", "model"):
            turn.append(message)
    return turn


def _ends_on_call(channels: Channels) -> bool:
    """Whether a call ends an open thought of this format, as far as the table knows."""
    for family in FAMILIES:
        if family.channels is channels and family.on_call is OnCall.STAYS:
            return False
    return True
