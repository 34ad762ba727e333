"""Where the delimiters of the table stand in a text, and whether a prompt ends inside a thought."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import Any

from cotlens.text.channels import FORMATS
from cotlens.text.families import APRIEL, FAMILIES, GRANITE, OTHERS
from cotlens.text.tags import Tags
from cotlens.trace import Span

_QUOTES = frozenset("`\"'“‘”’")


@cache
def known_pairs() -> tuple[Tags, ...]:
    """Every pair of delimiters of the table, once; formats with channels are not among them."""
    pairs = []
    for family in FAMILIES:
        if family.channels is None:
            pairs += family.tags
    return tuple(dict.fromkeys(pairs))


_PHRASES = {tag for pair in (*APRIEL, *GRANITE) for tag in pair if tag[0].isalpha()}
_SUFFIXED = re.compile(r"</?think(:[^\s<>:/]{1,40})>", re.IGNORECASE)


def pairs_in(*texts: str) -> tuple[Tags, ...]:
    """The known pairs, and those of Hunyuan, whose suffix differs by checkpoint, if texts have one.

    >>> pairs_in("<think:6124c78e>Hm.")[-1]
    Tags(open='<think:6124c78e>', close='</think:6124c78e>')
    """
    suffixes = {}
    for text in texts:
        if match := _SUFFIXED.search(text):
            suffixes[match[1]] = Tags(f"<think{match[1]}>", f"</think{match[1]}>")
    return (*known_pairs(), *suffixes.values())


def is_prose(tag: str) -> bool:
    """Whether a known delimiter is a phrase, which counts only at the beginning of a completion."""
    return tag in _PHRASES


@cache
def _pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the tags, the longest first, without regard to case."""
    longest_first = sorted(tags, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE)


def find_tag(text: str, tag: str, start: int = 0) -> int:
    """Where a tag first stands, without regard to case, or -1."""
    match = _pattern((tag,)).search(text, start)
    return match.start() if match else -1


def find_last(text: str, tag: str) -> int:
    """Where a tag last stands, without regard to case, or -1."""
    at = -1
    for match in _pattern((tag,)).finditer(text):
        at = match.start()
    return at


def count_tag(text: str, tag: str) -> int:
    """How often a tag stands in a text, without regard to case."""
    return sum(1 for _ in _pattern((tag,)).finditer(text))


def starts_with(text: str, tag: str, at: int = 0) -> bool:
    """Whether a tag stands at a place of the text, without regard to case."""
    return _pattern((tag,)).match(text, at) is not None


@cache
def _repeated(tag: str) -> re.Pattern[str]:
    return re.compile(rf"(?:\s*+{re.escape(tag)})*+", re.IGNORECASE)


def skip_repeated(text: str, at: int, tag: str) -> int:
    """The place after all repetitions of a tag that only blanks part."""
    match = _repeated(tag).match(text, at)
    return match.end() if match else at


def is_quoted(text: str, start: int, stop: int) -> bool:
    """Whether a stretch has quotation marks on both sides."""
    return start > 0 and text[start - 1] in _QUOTES and text[stop : stop + 1] in _QUOTES


def find_unquoted(text: str, tag: str, start: int) -> int:
    """Where a tag first stands without quotation marks on both sides, or -1."""
    match = next(_unquoted(_pattern((tag,)), text, start), None)
    return match.start() if match else -1


def _unquoted(pattern: re.Pattern[str], text: str, start: int = 0) -> Iterator[re.Match[str]]:
    for match in pattern.finditer(text, start):
        if not is_quoted(text, match.start(), match.end()):
            yield match


def has_delimiters(text: str) -> bool:
    """Whether the text has a delimiter of any known family, quoted ones aside."""
    if any(channels.opened in text for channels in FORMATS) or "<|channel|>" in text:
        return True

    # A phrase is a delimiter only where the text begins with it.
    tags = []
    begin = len(text) - len(text.lstrip())
    for pair in pairs_in(text):
        tags += [tag for tag in pair if not is_prose(tag)]
        if is_prose(pair.open) and starts_with(text, pair.open, begin):
            return True
    return next(_unquoted(_pattern(tuple(tags)), text), None) is not None


def first_pair(text: str, start: int, pairs: tuple[Tags, ...]) -> Tags | None:
    """The pair that delimits this text, or None.

    It is the pair that the text begins with; else one whose closing tag was never opened; else the
    one that comes first. A thought may talk about the delimiters of another family; such a mention
    does not delimit it.
    """
    begin = len(text) - len(text[start:].lstrip())
    leading = [pair for pair in pairs if starts_with(text, pair.open, begin)]
    if leading:
        return with_first_close(text, begin, leading)

    # Where each tag first stands.
    tags = tuple(tag for pair in pairs for tag in pair if not is_prose(tag))
    places: dict[str, int] = {}
    for match in _unquoted(_pattern(tags), text, start):
        places.setdefault(match.group().lower(), match.start())

    unopened = []
    opened = []
    for pair in pairs:
        close = places.get(pair.close.lower(), -1)
        opening = places.get(pair.open.lower(), -1)
        if close >= 0 and not 0 <= opening < close:
            unopened.append((close, pair))
        if opening >= 0:
            opened.append((opening, pair))
    found = unopened or opened
    return min(found)[1] if found else None


def with_first_close(text: str, start: int, pairs: Sequence[Tags]) -> Tags:
    """Of pairs with the same opening delimiter, the one whose closing one comes first."""
    if len(pairs) == 1:
        return pairs[0]
    places = []
    for number, pair in enumerate(pairs):
        at = find_tag(text, pair.close, start)
        places.append((at if at >= 0 else len(text), number))
    return pairs[min(places)[1]]


# --- prompts -------------------------------------------------------------------------------------
_ALL_TURNS = (*(family.turns for family in FAMILIES), *OTHERS)
_ASSISTANTS = tuple(dict.fromkeys(mark for turns in _ALL_TURNS for mark in turns.assistant))
_ANY_ASSISTANT = "|".join(map(re.escape, _ASSISTANTS))
# Where the assistant's turn starts in a prompt that was rendered by a chat template.
ASSISTANT_TURN = re.compile(rf"{_ANY_ASSISTANT}|\[/INST\]|\bAssistant:")
# How a rendered prompt ends. If a prompt ends in one of these where the model's own template would
# end it otherwise, it was rendered for another model.
RENDERED_END = re.compile(rf"(?:{_ANY_ASSISTANT}|\[/INST\])\s*(?:<think>\s*)?\Z")
# What may open the assistant's turn in the template of a family that is not in the table: a special
# token, or a word for the role.
_HEADER = re.compile(
    r"(?:<[|｜][^<>\n]{1,60}[|｜]>|<[^<>\n]{0,30}assistant[^<>\n]{0,30}>"
    r"|(?:^|[\n>\]|｜=])[ \t]{0,4}[#*]{0,4}[ \t]?"
    r"(?:assistant|model|bot|ai|chatbot|gpt|answer|response)[\]:*>|]{0,4})\Z",
    re.IGNORECASE,
)
_LONGEST_HEADER = 200
_PLAIN_TAG = re.compile(r"<\w+>")


def is_rendered(prompt: str) -> bool:
    """Whether a chat template rendered the prompt: it holds the beginning of a turn."""
    return ASSISTANT_TURN.search(prompt) is not None


def _follows_header(prompt: str, at: int) -> bool:
    """Whether only white space stands between a place and the header of the assistant's turn."""
    before = prompt[max(0, at - _LONGEST_HEADER) : at].rstrip()
    return before.endswith(_ASSISTANTS) or _HEADER.search(before) is not None


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
    is_special = _PLAIN_TAG.fullmatch(tag) is None
    starts_line = at == 0 or prompt[at - 1] == "\n"
    if not rest.strip():
        before = prompt[:at].rstrip(" \t")
        return starts_line or is_special or before.endswith((":", "\n", ">", "]", "｜"))

    # A prefilled thought: no other turn begins after it.
    if ASSISTANT_TURN.search(rest) or _EDGE.search(rest):
        return False
    on_its_line = starts_line and (is_special or rest.startswith("\n"))
    return on_its_line or _follows_header(prompt, at)


def prompt_closes(prompt: str, pairs: tuple[Tags, ...]) -> bool:
    """Whether a rendered prompt ends with a closed thought: thinking was switched off."""
    end = prompt.rstrip()
    for pair in pairs:
        at = len(end) - len(pair.close)
        if at < 0 or is_prose(pair.close) or not starts_with(end, pair.close, at):
            continue
        opening = find_last(end[:at], pair.open.rstrip())
        places = (at, opening) if opening >= 0 else (at,)
        if is_rendered(prompt) or any(_follows_header(end, place) for place in places):
            return True
    return False


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought of any known family."""
    for channels in FORMATS:
        at = prompt.rfind(channels.opened)
        if at >= 0 and not channels.stop.search(prompt, at + len(channels.opened)):
            return True
    return any(prompt_opens(prompt, pair) for pair in pairs_in(prompt))


def echo_end(text: str, prompt: str, pairs: tuple[Tags, ...]) -> int:
    """Where the completion's own text begins, if it repeats the prompt first; else 0.

    Only an echo that contains a delimiter matters: the first delimiter after the echo is the
    model's.
    """
    if len(prompt) < 8:
        return 0
    tags = tuple(tag for pair in pairs for tag in pair)
    if not _pattern(tags).search(prompt):
        return 0
    at = text.find(prompt)
    if at < 0 or _pattern(tags).search(text, 0, at):
        return 0

    # A prompt that ends by opening the thought is echoed with its tag: the search must still see
    # that tag.
    for pair in pairs:
        if prompt_opens(prompt, pair):
            return at + find_last(prompt, pair.open.rstrip())
    return at + len(prompt)


# --- inside a completion -------------------------------------------------------------------------
# Marks between turns that no ordinary text holds: those with a bar or a brace of their own.
_SPECIAL = re.compile(r"[|｜~]|\bSPECIAL_|seed:|role>")
_ASSISTANT_MARK = re.compile(
    "|".join(re.escape(mark) for mark in _ASSISTANTS if _SPECIAL.search(mark))
)
_EDGES = {mark for turns in _ALL_TURNS for mark in turns.others if _SPECIAL.search(mark)}
_EDGE = re.compile("|".join(map(re.escape, sorted(_EDGES, key=len, reverse=True))))


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
        pattern = _pattern((self.pair.close,))
        return [match.start() for match in pattern.finditer(self.text)]

    @cached_property
    def call_spans(self) -> list[Span]:
        """Opening delimiters of calls; one that is only mentioned is none."""
        if not self.calls:
            return []
        spans = []
        for match in _unquoted(_call_pattern(self.calls), self.text):
            starts_line = match.start() == 0 or self.text[match.start() - 1] == "\n"
            if starts_line or _CALLED.match(self.text, match.end()):
                spans.append(Span(*match.span()))
        return spans

    @cached_property
    def assistants(self) -> list[Span]:
        """Where an assistant's turn opens."""
        return [Span(*match.span()) for match in _unquoted(_ASSISTANT_MARK, self.text)]

    @cached_property
    def edges(self) -> list[Span]:
        """Where any turn ends or opens."""
        return [Span(*match.span()) for match in _unquoted(_EDGE, self.text)]

    def close_after(self, at: int) -> int:
        """Where the next closing tag stands, or -1."""
        number = bisect_left(self.closes, at)
        return self.closes[number] if number < len(self.closes) else -1


def next_span(spans: list[Span], at: int) -> Span | None:
    """The first of sorted spans that begins at or after a place."""
    number = bisect_left(spans, at, key=lambda span: span.start)
    return spans[number] if number < len(spans) else None


@cache
def _call_pattern(calls: tuple[Tags, ...]) -> re.Pattern[str]:
    """Opening delimiters of calls; those of Hunyuan carry a suffix."""
    parts = []
    for call in calls:
        part = re.escape(call.open)
        if re.fullmatch(r"<\w+>", call.open):
            part = part[:-1] + r"(?::[^\s<>]{1,40})?>"
        parts.append(part)
    return re.compile("|".join(parts))


def end_of_calls(text: str, at: int, calls: tuple[Tags, ...]) -> int:
    """Where the calls end that begin at a place: with the last of those that only blanks part."""
    pattern = _call_pattern(calls)
    match = pattern.match(text, at)
    while match:
        openings = [call for call in calls if match.group().startswith(call.open.rstrip(">"))]
        closing = max(openings, key=lambda call: len(call.open)).close
        close = closing.rstrip(">")
        found = text.find(close, match.end())
        if found < 0:
            return len(text)

        # The closing delimiter may have a suffix as well.
        at = found + len(close)
        if closing.endswith(">"):
            at = text.find(">", at) + 1 or len(text)
        following = _BLANKS.match(text, at)
        match = pattern.match(text, following.end()) if following else None
    return at


_BLANKS = re.compile(r"\s*+")


# --- tokenizers ----------------------------------------------------------------------------------
_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")


def response_tags(tokenizer: Any) -> Tags | None:
    """The delimiters of a thought in a tokenizer's `response_template`, or None.

    None also where a pattern that is no plain text delimits it.
    """
    spec = getattr(tokenizer, "response_template", None)
    fields = spec.get("fields", {}) if isinstance(spec, dict) else {}
    for name in _THOUGHT_FIELDS:
        field = fields.get(name)
        if not isinstance(field, dict):
            continue
        # What a template prefills ends the anchor of the response.
        opening = _literal(field, "open") or _last_tag(_literal(spec, "start_anchor"))
        closing = _literal(field, "close")
        if opening and closing:
            return Tags(opening, closing)
    return None


def _last_tag(anchor: str) -> str:
    """The tag that ends an anchor, unless it only opens the assistant's turn."""
    match = _TAG_AT_END.search(anchor)
    if match is None or ASSISTANT_TURN.search(match[1]):
        return ""
    return match[1]


_TAG_AT_END = re.compile(r"(<[^<>\s]{1,60}>|\[[^\[\]\s]{1,60}\])\s*\Z")


def new_tags(tokenizer: Any) -> Tags | None:
    """The delimiters of a tokenizer's response template, if the table lacks them; else None.

    A known pair is left to the splitter, which knows more of its family than the two delimiters.
    """
    tags = response_tags(tokenizer)
    if tags is None or any(channels.opened in tags.open for channels in FORMATS):
        return None
    for pair in known_pairs():
        if pair.open.strip().lower() == tags.open.strip().lower():
            return None
    return tags


def _literal(field: Any, end: str) -> str:
    """The text of a delimiter: given as one, or as a pattern that allows blanks around a text."""
    given = field.get(end)
    if isinstance(given, list) and given:
        given = given[0]
    if isinstance(given, str):
        return given

    pattern = field.get(f"{end}_pattern")
    if not isinstance(pattern, str):
        return ""
    # Blanks around the text may be allowed; all else that has a meaning in patterns is escaped.
    core = _OPTIONAL_BLANKS.sub("", pattern).replace(r"\n", "\n")
    if _UNESCAPED.search(core):
        return ""
    return re.sub(r"\\(.)", r"\1", core)


_OPTIONAL_BLANKS = re.compile(r"^(?:\\s\*|\\n\*|\\n\?)+|(?:\\s\*|\\n\*|\\n\?)+$")
_UNESCAPED = re.compile(r"(?<!\\)[.^$*+?{}\[\]()|]|\\\w")
