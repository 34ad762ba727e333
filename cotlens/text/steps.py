r"""Steps that tile the thinking: sentences, lines of a derivation, list items, blocks of code.

A step is the unit in which every marker and every dynamic is counted, so it must be found the same
way in a 32,000-token trace, in mathematics and in Chinese.

One regular expression finds the places where a step might end; a handful of guards then decide:

- a sentence ends at `.`, `!`, `?` or an ellipsis before white space (at `。！？` anywhere), but not
  after an abbreviation, a list number (`1.`) or before a label (`(2)`), nor inside `\(..\)`,
  `$..$` or code;
- a line ends a step, but `\[..\]`, `$$..$$`, `\begin..\end` and fenced code are one line each, a
  display belongs to an unfinished line before it ("Hence", "is given by:"), and so does the
  "where ..." after it, with the list of symbols it may open;
- white space belongs to the step before it, so the steps' texts concatenate to the thinking, byte
  for byte.

Every guard looks at a bounded stretch of text, so the work is linear in the length of any text.
"""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import Literal, NamedTuple

from cotlens.text.split import Split, split_trace
from cotlens.text.tokens import token_ranges, word_starts
from cotlens.trace import Span, Trace

Unit = Literal["step", "sentence"]


class Step(NamedTuple):
    """One step of the thinking.

    Attributes:
        index: number of the step within its trace, from 0; it runs on through several thoughts.
        chars: code points into the completion.
        tokens: positions in the completion's token ids, or None where the source gives no offsets.
            A token belongs to the step that holds its first character that is no white space
            (see `text.tokens`).
    """

    index: int
    chars: Span
    tokens: Span | None


# A character class first: the engine skips to the next candidate at memory speed. The branches then
# look back at the character just read. The first two settle the common cases without a guard: a
# word of three letters that ends no abbreviation, and a line that ends like a sentence. Runs of
# `.!?` are tried once, at their first character, so they cannot cost n^2.
_CUE = re.compile(
    r"""[.!?…\n\\$`。！？｡।؟]
    (?: (?<=[a-z]{3}[.!?]) (?<![ivx]{3}[.!?]) """
    r"""(?<!(?:igs|sec|ecs|vol|thm|efs|etc|viz|rof|rox|esp|ncl|nos)\.)
        \ (?=[A-Z]) (?P<sure_sentence>)
      | (?<=[.!?]\n) \s* (?=[A-Za-z0-9]) (?P<sure_line>)
      | (?<=[.!?…])(?<![.!?…]{2}) [.!?…]*+ """
    r"""(?P<closers>(?:["'”’»)\]}*_]|\\\))*+) [ \t\u00a0\u3000]++ (?=\S)
      | (?<=\n) \s*
      | (?<=\\) (?: [\[(] | begin\{(?P<environment>[A-Za-z]{1,20}\*?)\} )
      | (?<=\$) \$?
      | (?<=`) (?:``)?
      | (?<=[!?]) (?=[\u3400-\u9fff])
      | (?<=[。！？｡।؟]) [。！？｡।؟]*+["'”’»」』）)\]】]*+\s*+ (?![，、；：,])
    )""",
    re.VERBOSE,
)
_CJK_ENDS = frozenset("。！？｡।؟")

# The longest display that is kept whole; an opener without a closer this near is text.
_DISPLAY_MAX = 4000
_INLINE_MAX = 400
_ROW_MAX = 2000  # longest row of a table
_LOOK_BACK = 14  # no abbreviation or list number is longer

# What stands before a mark that ends no sentence, and what may follow it.
_LIST_NUMBER = re.compile(
    r"[#>*+\-|•·\s]*(?:(?:step|case|part)\s+)?[(\[]?"
    r"(?:\d{1,3}(?:\.\d{1,2}){0,3}|[A-Za-z]|[ivxIVX]{1,5})\\?\Z",
    re.IGNORECASE,
)
_BARE_NUMBER = re.compile(r"\d{1,3}\\?\Z")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\[“\"*,])"
    r"(?:(?P<always>[Ee]\.?g|[Ii]\.?e|vs|[Cc]f|approx|ca|resp|incl|viz|w\.r\.t|s\.t|a\.k\.a|et al"
    r"|Mr|Mrs|Ms|Dr|Prof|St|[A-Z][a-z]+ v)"
    r"|(?P<numbered>(?:[Ee]qs?|[Ff]igs?|[Nn]os?|[Ss]ecs?|[Cc]h"
    r"|[Vv]ol|[Pp]p?|[Tt]hm|[Rr]efs?|Def|Prop|Lem|Cor|Sect))"
    r"|(?P<inside>etc|Inc|Ltd|Co|Jr|Sr|(?:[A-Za-z]\.)+[A-Za-z]))\Z"
    r"|\*\*[A-Z]\Z"
)
_LABEL = re.compile(r"\((?:Eq\.?\s*)?[A-Z0-9*]{1,3}\)[ \t]*(?:\n|\Z)")

# What the lines begin or end with that belong to one step.
_NOT_SPACE = re.compile(r"\S")
_MAY_JOIN = frozenset("\\$wW|-*+•")  # what a line begins with that may belong to the step before it
_CLOSERS = {"\\[": "\\]", "$$": "$$"}
_DISPLAY_OPENS = re.compile(r"\\\[|\$\$|\\begin\{")
_WHERE = re.compile(r"where\b|Where:")
_BULLET = re.compile(r"\\?[-*+•]\s")
_TABLE_RULE = re.compile(r"\|\s*:?-")
_DEFINITIONS = re.compile(r"\b(?:where|denote):?\s*\n", re.IGNORECASE)
_UNFINISHED = re.compile(r"\b(?:by|where|denote|using)\Z", re.IGNORECASE)

# Not calling Span itself saves a tenth of the time of segment.
_make_span = partial(tuple.__new__, Span)


def segment(text: str, unit: Unit = "step") -> list[Span]:
    r"""Spans of the steps of `text`, in order, that tile it exactly; none for an empty text.

    The unit `sentence` is coarser where there are lines and finer where there are lists: a line
    break ends a sentence only if the line does or a blank line follows, and the number of a list
    item ends one, except that of a paragraph's first item. Every marker is counted in steps;
    sentences are for comparing with labels of sentences.

    >>> text = "Let x = 3.14. Wait, is that right?\n1. Check it."
    >>> [span.of(text) for span in segment(text)]
    ['Let x = 3.14. ', 'Wait, is that right?\n', '1. Check it.']
    """
    if not text:
        return []
    if unit == "sentence":
        return _sentences(text)
    return list(map(_make_span, pairwise(cut_places(text))))


def cut_places(text: str) -> list[int]:
    """Where the steps of a text begin, in order, and its end; [0, 0] for an empty text."""
    n_chars = len(text)
    cuts = [0]
    start = 0  # of the step
    line = 0  # where the line begins
    protected = 0  # where the last formula or block of code ends

    for match in _CUE.finditer(text):
        at, end = match.span()
        first = text[at]

        # Nothing ends a step inside a formula or code.
        if at < protected:
            if first == "\n":
                line = end
            continue

        # The common cases need no guard.
        kind = match.lastgroup
        if kind == "sure_sentence" and not (text[line] == "|" and _is_row(text, line)):
            cuts.append(end)
            start = end
            continue
        if kind == "sure_line":
            cuts.append(end)
            start = end
            line = end
            continue

        # A formula or code may open.
        if first in "\\$`":
            protected = _protected_until(text, match, at == line)
            continue

        # Chinese with ASCII marks.
        if kind is None and first in "!?":
            cuts.append(end)
            start = end
            continue

        # A guard decides.
        if first == "\n":
            ends_step = _line_ends_step(text, start, at, end)
            line = end
        elif first in _CJK_ENDS:
            ends_step = True
            if "\n" in match.group():
                line = end
        else:
            ends_step = _sentence_ends(text, start, line, match)

        if ends_step and end < n_chars:
            cuts.append(end)
            start = end

    cuts.append(n_chars)
    return cuts


def segment_trace(trace: Trace, split: Split | None = None) -> list[Step]:
    """The steps of a trace's thinking.

    Their texts concatenate to the thinking; thoughts do not share a step.
    """
    split = split or split_trace(trace)
    spans = [
        Span(*place) for place in zip(*step_places(trace.completion, split.think), strict=True)
    ]

    # Without offsets it is not known which tokens these are.
    token_starts = trace.token_starts
    if token_starts is None:
        return [Step(index, span, None) for index, span in enumerate(spans)]

    ranges = step_tokens(trace.completion, token_starts, spans)
    steps = []
    for span, (first, stop) in zip(spans, ranges, strict=True):
        index = len(steps)
        tokens = Span(first, stop)
        steps.append(Step(index, span, tokens))
    return steps


def step_places(completion: str, think: Iterable[Sequence[int]]) -> tuple[list[int], list[int]]:
    """Where the steps of some thoughts start, and where they stop, in the completion."""
    starts: list[int] = []
    stops: list[int] = []
    for begin, end in think:
        if begin == end:
            continue
        places = [begin + place for place in cut_places(completion[begin:end])]
        starts += places[:-1]
        stops += places[1:]
    return starts, stops


def step_tokens(
    completion: str, token_starts: Sequence[int], spans: Iterable[Sequence[int]]
) -> list[list[int]]:
    """The first token of each span, and the one after its last (see `text.tokens`)."""
    words = word_starts(completion, token_starts)
    return token_ranges(token_starts, words, spans).tolist()


def _sentences(text: str) -> list[Span]:
    """Spans of the sentences of a text."""
    n_chars = len(text)
    cuts = [0]
    start = 0  # of the sentence
    for match in _SENTENCE_CUE.finditer(text):
        end = match.end()
        if end < n_chars and _ends_sentence(text, start, match):
            cuts.append(end)
            start = end

    cuts.append(n_chars)
    return list(map(_make_span, pairwise(cuts)))


# As in `_CUE`, a run of marks is tried once, at its first character.
_SENTENCE_CUE = re.compile(
    r"""[.!?…\n>。！？]
    (?: (?<=[.!?…])(?<![.!?…]{2}) [.!?…]*+ (?P<closers>(?:["'”’»)\]}*_]|\\\))*+) \s++
      | (?<=\n) [^\S\n]*+ \n \s*+
      | (?<=</think>) \s*+
      | (?<=[。！？]) [。！？]*+ ["'”’」』）]*+ \s*+
    )""",
    re.VERBOSE,
)


def _ends_sentence(text: str, start: int, match: re.Match[str]) -> bool:
    """Whether the mark or the blank line at `match` ends the sentence from `start`."""
    at, end = match.span()
    mark = text[at]
    following = text[end]

    # A blank line, and a Chinese mark.
    if mark not in ".!?…":
        return True
    if text.count("\n", at, end) > 1:
        return True

    # What follows shows that the sentence goes on.
    if following in ",;)":
        return False
    if following.islower() and mark != "?":
        return False

    # Other marks than a single full stop.
    if mark != "." or text[at + 1] == "." or match["closers"]:
        return True

    # The number of a paragraph's first item stays with the item.
    look_from = max(start, at - _LOOK_BACK)
    before = text[look_from:at]
    is_near = at - start <= _LOOK_BACK
    if is_near and _begins_paragraph(text, start) and _LIST_NUMBER.match(before):
        return False

    abbreviation = _ABBREVIATION.search(before)
    if abbreviation is None:
        return True
    return abbreviation["inside"] is not None and following.isupper()


def _begins_paragraph(text: str, start: int) -> bool:
    """Whether a blank line, or nothing, stands before `start`."""
    look_from = max(start - 4, 0)
    n_breaks = text.count("\n", look_from, start)
    return start == 0 or n_breaks > 1


def group_paragraphs(text: str, steps: Sequence[Span]) -> list[Span]:
    """Ranges of step numbers that form a paragraph: runs of steps that no blank line parts."""
    borders = {0, len(steps)}
    for number, step in enumerate(steps, 1):
        if ends_paragraph(step.of(text)):
            borders.add(number)

    paragraphs = pairwise(sorted(borders))
    return [Span(*paragraph) for paragraph in paragraphs]


def group_runs(flags: Sequence[bool]) -> list[Span]:
    """Ranges of step numbers that form an episode: maximal runs of steps for which the flag holds.

    >>> group_runs([False, True, True, False, True])
    [Span(start=1, stop=3), Span(start=4, stop=5)]
    """
    runs = []
    start = 0
    for flag, group in groupby(flags, key=bool):
        stop = start + len(list(group))
        if flag:
            run = Span(start, stop)
            runs.append(run)
        start = stop
    return runs


def ends_paragraph(text: str) -> bool:
    """Whether a blank line follows the text of a step, in the white space that ends it."""
    # The common cases.
    if text.endswith("\n\n"):
        return True
    if not text[-2:-1].isspace():
        return False

    n_solid = len(text.rstrip())
    return text.count("\n", n_solid) > 1


def _is_row(text: str, line: int) -> bool:
    """Whether the line is a row of a table, which is one step: it begins and ends with a bar.

    `|x| < 3` is not a row.
    """
    most = line + _ROW_MAX
    stop = text.find("\n", line, most)
    if stop < 0:
        stop = most
    row = text[line:stop]
    return row.rstrip().endswith("|")


def _protected_until(text: str, match: re.Match[str], begins_line: bool) -> int:
    """Where the formula or the code that opens at `match` ends.

    It is the match's own end if no closer is near.
    """
    opener = match.group()
    end = match.end()
    if opener == "$":
        return _dollars_until(text, end)

    # Code in a line, and a fence; elsewhere than at the line's start a fence is only mentioned.
    if opener == "`":
        close = text.find("`", end, end + _INLINE_MAX)
        if close < 0 or "\n" in text[end:close]:
            return end
        return close + 1
    if opener == "```":
        close = text.find("```", end) if begins_line else -1
        return end if close < 0 else close + 3

    # A formula within brackets.
    if opener == "\\(":
        close = text.find("\\)", end, end + _INLINE_MAX)
        if close < 0 or "\n\n" in text[end:close]:  # two brackets in prose, not a formula
            return end
        return close + 2

    # A display.
    closer = _CLOSERS.get(opener)
    if closer is None:
        environment = match["environment"]
        closer = f"\\end{{{environment}}}"
    close = text.find(closer, end, end + _DISPLAY_MAX)
    return end if close < 0 else close + len(closer)


def _dollars_until(text: str, end: int) -> int:
    """Where the formula whose `$` ends at `end` ends; `end` itself if there is none.

    As in Markdown, so that a price is not a formula: the opener and the closer touch the content,
    and no digit follows.
    """
    close = text.find("$", end, end + _INLINE_MAX)
    if close <= end:
        return end

    content = text[end:close]
    if "\n" in content:
        return end
    if content[0].isspace() or content[-1].isspace():
        return end

    stop = close + 1
    following = text[stop : stop + 1]
    return end if following.isdigit() else stop


def _line_ends_step(text: str, start: int, at: int, end: int) -> bool:
    """Whether the line break at `at` ends the step from `start`; the next line begins at `end`."""
    if start == 0 and not _NOT_SPACE.search(text, 0, at):
        return False  # leading white space belongs to the first step
    if text[end : end + 1] not in _MAY_JOIN:
        return True
    if _is_announced_box(text, start, at, end):
        return False

    # How the step ends so far.
    content = text[max(start, at - 80) : at].rstrip()
    last = content[-1:]
    is_unpunctuated = last.isalnum()

    # A display belongs to an unfinished line before it, and "where ..." to the formula.
    before_colon = content.rstrip(":")
    is_unfinished = is_unpunctuated or _UNFINISHED.search(before_colon)
    if is_unfinished and _DISPLAY_OPENS.match(text, end):
        return False
    if (is_unpunctuated or last in "]$})") and _WHERE.match(text, end):
        return False

    # The rule of a table belongs to its head.
    if _TABLE_RULE.match(text, end):
        return False

    # The symbols that a "where:" lists are part of it.
    if not _BULLET.match(text, end):
        return True
    most = min(at + 1, start + 300)
    return not _DEFINITIONS.search(text, start, most)


def _is_announced_box(text: str, start: int, at: int, end: int) -> bool:
    """Whether the next line is a box that a heading announces ("**Final Answer**")."""
    if not text.startswith("\\boxed", end):
        return False
    if text.count("\n", at, end) > 1:
        return False

    # The last line of the step so far.
    look_from = max(start, at - _HEADING_MAX)
    content = text[look_from:at].rstrip()
    line_start = content.rfind("\n") + 1
    line = content[line_start:]
    return _HEADING.fullmatch(line.strip()) is not None


_HEADING_MAX = 80
_HEADING = re.compile(r"#{1,6} .*|\*\*[^*]+\*\*:?")


def _sentence_ends(text: str, start: int, line: int, match: re.Match[str]) -> bool:
    """Whether the mark at `match` ends a sentence, not an abbreviation, a number or a quotation."""
    at, end = match.span()
    mark = text[at]
    following = text[end]
    goes_on = following.islower()
    if text[line] == "|" and _is_row(text, line):
        return False

    # A question, a call, an ellipsis; a factorial is no call.
    if mark == "?":
        return not (goes_on or following in ",;)")
    if mark == "!":
        return not (goes_on or following in "=+-*/)×·<>≤≥,^")
    if mark == "…" or text[at + 1] == ".":
        return not goes_on

    # A list number stands at the start of a line or of a step.
    if at - line <= _LOOK_BACK and _LIST_NUMBER.match(text, line, at):
        return False
    if at - start <= 4 and _BARE_NUMBER.match(text, start, at):
        return False
    if match["closers"]:
        return not goes_on

    # After an abbreviation it depends on which, and on what follows.
    look_from = max(start, at - _LOOK_BACK)
    before = text[look_from:at]
    abbreviation = None
    if before[-1:].isalpha():
        abbreviation = _ABBREVIATION.search(before)
    if abbreviation is None:
        is_before_label = following == "(" and _LABEL.match(text, end)
        return not is_before_label
    if abbreviation["numbered"]:
        return not (following.isdigit() or following in "([")
    return abbreviation["inside"] is not None and following.isupper()
