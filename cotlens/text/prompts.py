"""Turns in prompts that a chat template rendered: does one end inside a thought?"""

import re

from cotlens.text.channels import FORMATS
from cotlens.text.delimiters import (
    find_last,
    find_tag,
    is_phrase,
    pairs_in,
    pattern_of,
    starts_with,
)
from cotlens.text.families import FAMILIES, OTHERS
from cotlens.text.tags import Tags

_ALL_TURNS = (*(family.turns for family in FAMILIES), *OTHERS)
_ASSISTANTS = tuple(dict.fromkeys(mark for turns in _ALL_TURNS for mark in turns.assistant))
_ANY_ASSISTANT = "|".join(map(re.escape, _ASSISTANTS))

# Where the assistant's turn starts in a rendered prompt.
ASSISTANT_TURN = re.compile(rf"{_ANY_ASSISTANT}|\[/INST\]|\bAssistant:")

# How a rendered prompt ends. If a prompt ends in one of these where the model's own template would
# end it otherwise, it was rendered for another model.
RENDERED_END = re.compile(rf"(?:{_ANY_ASSISTANT}|\[/INST\])\s*(?:<think>\s*)?\Z")

# The marks of turns that no ordinary text holds: ASSISTANT_MARK opens the assistant's, TURN_EDGE
# ends any turn or opens one.
_SPECIAL = re.compile(r"[|｜~]|\bSPECIAL_|seed:|role>")
_EDGES = {mark for turns in _ALL_TURNS for mark in turns.others if _SPECIAL.search(mark)}
ASSISTANT_MARK = re.compile(
    "|".join(re.escape(mark) for mark in _ASSISTANTS if _SPECIAL.search(mark))
)
TURN_EDGE = re.compile("|".join(map(re.escape, sorted(_EDGES, key=len, reverse=True))))

# What may open the assistant's turn in the template of a family that is not in the table: a special
# token, or a word for the role.
_HEADER = re.compile(
    r"(?:<[|｜][^<>\n]{1,60}[|｜]>|<[^<>\n]{0,30}assistant[^<>\n]{0,30}>"
    r"|(?:^|[\n>\]|｜=])[ \t]{0,4}[#*]{0,4}[ \t]?"
    r"(?:assistant|model|bot|ai|chatbot|gpt|answer|response)[\]:*>|]{0,4})\Z",
    re.IGNORECASE,
)
_LONGEST_HEADER = 200
_PLAIN_TAG = re.compile(r"<\w+>")  # that a user may write, other than a special token


def is_rendered(prompt: str) -> bool:
    """Whether a chat template rendered the prompt: it holds the beginning of a turn."""
    return ASSISTANT_TURN.search(prompt) is not None


def _follows_header(prompt: str, at: int) -> bool:
    """Whether only white space stands between a place and the header of the assistant's turn."""
    start = max(0, at - _LONGEST_HEADER)
    before = prompt[start:at].rstrip()
    if before.endswith(_ASSISTANTS):
        return True
    return _HEADER.search(before) is not None


def prompt_opens(prompt: str, pair: Tags) -> bool:
    """Whether the prompt ends inside a thought.

    It does after an opening tag, or after a prefilled part of the thought.
    """
    tag = pair.open.rstrip()
    at = find_last(prompt, tag)
    if at < 0 or find_tag(prompt, pair.close, at) >= 0:
        return False

    # "What is <think>" is a user's question; a template's tag stands on a line or after a header,
    # and nobody writes a special token by chance.
    rest = prompt[at + len(tag) :]
    before = prompt[:at].rstrip(" \t")
    is_special = _PLAIN_TAG.fullmatch(tag) is None
    starts_line = at == 0 or prompt[at - 1] == "\n"
    if not rest.strip():
        follows_mark = before.endswith((":", "\n", ">", "]", "｜"))
        return starts_line or is_special or follows_mark

    # A prefilled thought: no other turn begins after it.
    if ASSISTANT_TURN.search(rest) or TURN_EDGE.search(rest):
        return False
    is_alone = is_special or rest.startswith("\n")
    if starts_line and is_alone:
        return True
    return _follows_header(prompt, at)


def prompt_closes(prompt: str, pairs: tuple[Tags, ...]) -> bool:
    """Whether a rendered prompt ends with a closed thought: thinking was switched off."""
    end = prompt.rstrip()
    for pair in pairs:
        at = len(end) - len(pair.close)
        if at < 0 or is_phrase(pair.close):
            continue
        if not starts_with(end, pair.close, at):
            continue

        # The template closes a thought that it opened, or one that it did not even open.
        opening = find_last(end[:at], pair.open.rstrip())
        if is_rendered(prompt) or _follows_header(end, at):
            return True
        if opening >= 0 and _follows_header(end, opening):
            return True
    return False


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought of any known family."""
    for channels in FORMATS:
        at = prompt.rfind(channels.opened)
        start = at + len(channels.opened)
        if at >= 0 and not channels.stop.search(prompt, start):
            return True
    return any(prompt_opens(prompt, pair) for pair in pairs_in(prompt))


# What may stand before an echo: blanks, and special tokens with the role after them.
_BEFORE_ECHO = re.compile(
    r"(?:\s|(?:<[|｜][^<>|｜]{1,60}[|｜]>|<(?:s|bos)>|\[gMASK\]|<sop>|\[INST\])"
    r"(?:system|user|human)?+)*+"
)
_SHORTEST_ECHO = 8  # characters: a shorter prompt may stand in a text by chance


def echo_end(text: str, prompt: str, pairs: tuple[Tags, ...]) -> int:
    """Where the completion's own text begins, if it repeats the prompt first; else 0.

    An echo stands at the beginning, perhaps after special tokens that the prompt lacks. Only one
    that contains a delimiter matters: the first delimiter after the echo is the model's.
    """
    if len(prompt) < _SHORTEST_ECHO:
        return 0
    all_tags = []
    for pair in pairs:
        all_tags += pair
    tags = pattern_of(*all_tags)
    if not tags.search(prompt):
        return 0
    at = text.find(prompt)
    if at < 0 or tags.search(text, 0, at):
        return 0

    # A thought may quote the question; an echo comes before all else.
    if not _BEFORE_ECHO.fullmatch(text, 0, at):
        return 0

    # A prompt that ends by opening the thought is echoed with its tag: the search must still see
    # that tag.
    for pair in pairs:
        if prompt_opens(prompt, pair):
            return at + find_last(prompt, pair.open.rstrip())
    return at + len(prompt)
