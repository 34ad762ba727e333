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
from collections.abc import Sequence
from functools import partial
from itertools import groupby, pairwise
from typing import Literal, NamedTuple

import numpy as np

from cotlens.text.split import Split, split_trace
from cotlens.trace import Span, Trace

Unit = Literal["step", "sentence"]


class Step(NamedTuple):
    """One step of the thinking.

    Attributes:
        index: number of the step within its trace, from 0; it runs on through several thoughts.
        chars: code points into the completion.
        tokens: positions in the completion's token ids, or None where the source gives no offsets.
            A token that straddles a border belongs to the step that holds its first character.
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
_NOT_SPACE = re.compile(r"\S")
_MAY_JOIN = frozenset("\\$wW|-*+•")  # what a line begins with that may belong to the step before it
_DISPLAY_OPENS = re.compile(r"\\\[|\$\$|\\begin\{")
_WHERE = re.compile(r"where\b|Where:")
_BULLET = re.compile(r"\\?[-*+•]\s")
_TABLE_RULE = re.compile(r"\|\s*:?-")
_DEFINITIONS = re.compile(r"\b(?:where|denote):?\s*\n", re.IGNORECASE)
_UNFINISHED = re.compile(r"\b(?:by|where|denote|using)\Z", re.IGNORECASE)
_make_span = partial(
    tuple.__new__, Span
)  # not calling Span itself saves a tenth of the time of segment


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
    cuts = [0]
    start = line = protected = 0
    for match in _CUE.finditer(text):
        at, end = match.span()
        first = text[at]
        if at < protected:
            line = end if first == "\n" else line
            continue
        kind = match.lastgroup
        if kind == "sure_sentence" and not (text[line] == "|" and _is_row(text, line)):
            cuts.append(end)
            start = end
            continue
        if kind == "sure_line":
            cuts.append(end)
            start = line = end
            continue
        if first in "\\$`":
            protected = _protected_until(text, match, at == line)
            continue
        if kind is None and first in "!?":  # Chinese with ASCII marks
            cuts.append(end)
            start = end
            continue
        if first == "\n":
            ends_step = _line_ends_step(text, start, at, end)
            line = end
        elif first in _CJK_ENDS:
            ends_step = True
            line = end if "\n" in match.group() else line
        else:
            ends_step = _sentence_ends(text, start, line, match)
        if ends_step and end < len(text):
            cuts.append(end)
            start = end
    cuts.append(len(text))
    return list(map(_make_span, pairwise(cuts)))


def segment_trace(trace: Trace, split: Split | None = None) -> list[Step]:
    """The steps of a trace's thinking.

    Their texts concatenate to the thinking; thoughts do not share a step.
    """
    split = split or split_trace(trace)
    spans = [
        Span(think.start + start, think.start + stop)
        for think in split.think
        for start, stop in segment(think.of(trace.completion))
    ]
    if trace.token_starts is None:
        return [Step(index, span, None) for index, span in enumerate(spans)]
    tokens = np.searchsorted(np.asarray(trace.token_starts), np.asarray(spans).reshape(-1, 2))
    return [
        Step(index, span, Span(int(start), int(stop)))
        for index, (span, (start, stop)) in enumerate(zip(spans, tokens, strict=True))
    ]


def _sentences(text: str) -> list[Span]:
    """Spans of the sentences of a text."""
    cuts = [0]
    for match in _SENTENCE_CUE.finditer(text):
        if match.end() < len(text) and _ends_sentence(text, cuts[-1], match):
            cuts.append(match.end())
    cuts.append(len(text))
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
    mark, following = text[at], text[end]
    if mark not in ".!?…" or text.count("\n", at, end) > 1:
        return True

    # What follows shows that the sentence goes on.
    goes_on = following in ",;)" or (following.islower() and mark != "?")
    if goes_on or mark != "." or match["closers"] or text[at + 1] == ".":
        return not goes_on

    # The number of a paragraph's first item stays with the item.
    before = text[max(start, at - _LOOK_BACK) : at]
    begins_paragraph = start == 0 or text.count("\n", max(start - 4, 0), start) > 1
    if begins_paragraph and at - start <= _LOOK_BACK and _LIST_NUMBER.match(before):
        return False

    abbreviation = _ABBREVIATION.search(before)
    if abbreviation is None:
        return True
    return abbreviation["inside"] is not None and following.isupper()


def group_paragraphs(text: str, steps: Sequence[Span]) -> list[Span]:
    """Ranges of step numbers that form a paragraph: runs of steps that no blank line parts."""
    ends = [i + 1 for i, step in enumerate(steps) if _has_blank_line(text, step)]
    borders = sorted({0, *ends, len(steps)})
    return [Span(*border) for border in pairwise(borders)]


def group_runs(flags: Sequence[bool]) -> list[Span]:
    """Ranges of step numbers that form an episode: maximal runs of steps for which the flag holds.

    >>> group_runs([False, True, True, False, True])
    [Span(start=1, stop=3), Span(start=4, stop=5)]
    """
    runs, position = [], 0
    for flag, group in groupby(flags, key=bool):
        length = sum(1 for _ in group)
        if flag:
            runs.append(Span(position, position + length))
        position += length
    return runs


def _has_blank_line(text: str, step: Span) -> bool:
    content = step.of(text)
    return content[len(content.rstrip()) :].count("\n") > 1


def _is_row(text: str, line: int) -> bool:
    """Whether the line is a row of a table, which is one step: it begins and ends with a bar.

    `|x| < 3` is not a row.
    """
    stop = text.find("\n", line, line + _ROW_MAX)
    return text[line : stop if stop >= 0 else line + _ROW_MAX].rstrip().endswith("|")


def _protected_until(text: str, match: re.Match[str], begins_line: bool) -> int:
    """Where the formula or the code that opens at `match` ends.

    It is the match's own end if no closer is near.
    """
    opener, end = match.group(), match.end()
    if opener == "$":
        # As in Markdown, so that a price is not a formula: the opener and the closer touch the
        # content, and no digit follows.
        close = text.find("$", end, end + _INLINE_MAX)
        touches = close > end and not text[end].isspace() and not text[close - 1].isspace()
        if not touches or text[close + 1 : close + 2].isdigit() or "\n" in text[end:close]:
            return end
        return close + 1
    if opener == "`":
        close = text.find("`", end, end + _INLINE_MAX)
        return end if close < 0 or "\n" in text[end:close] else close + 1
    if opener == "```":
        close = text.find("```", end) if begins_line else -1  # elsewhere a fence is only mentioned
        return end if close < 0 else close + 3
    closer = {"\\[": "\\]", "\\(": "\\)", "$$": "$$"}.get(
        opener
    ) or f"\\end{{{match['environment']}}}"
    close = text.find(closer, end, end + (_INLINE_MAX if opener == "\\(" else _DISPLAY_MAX))
    across = (
        opener == "\\(" and close >= 0 and "\n\n" in text[end:close]
    )  # two brackets in prose, not a formula
    return end if close < 0 or across else close + len(closer)


def _line_ends_step(text: str, start: int, at: int, end: int) -> bool:
    """Whether the line break at `at` ends the step from `start`; the next line begins at `end`."""
    if start == 0 and not _NOT_SPACE.search(text, 0, at):
        return False  # leading white space belongs to the first step
    if text[end : end + 1] not in _MAY_JOIN:
        return True
    if _is_announced_box(text, start, at, end):
        return False
    content = text[max(start, at - 80) : at].rstrip()
    last = content[-1:]
    unpunctuated = last.isalnum()
    if (unpunctuated or _UNFINISHED.search(content.rstrip(":"))) and _DISPLAY_OPENS.match(
        text, end
    ):
        return False
    if (unpunctuated or last in "]$})") and _WHERE.match(text, end):
        return False
    if _TABLE_RULE.match(text, end):
        return False
    # The symbols that a "where:" lists are part of it.
    return not (
        _BULLET.match(text, end) and _DEFINITIONS.search(text, start, min(at + 1, start + 300))
    )


def _is_announced_box(text: str, start: int, at: int, end: int) -> bool:
    """Whether the next line is a box that a heading announces ("**Final Answer**")."""
    if not text.startswith("\\boxed", end) or text.count("\n", at, end) > 1:
        return False

    # The last line of the step so far.
    content = text[max(start, at - _HEADING_MAX) : at].rstrip()
    line = content[content.rfind("\n") + 1 :]
    return _HEADING.fullmatch(line.strip()) is not None


_HEADING_MAX = 80
_HEADING = re.compile(r"#{1,6} .*|\*\*[^*]+\*\*:?")


def _sentence_ends(text: str, start: int, line: int, match: re.Match[str]) -> bool:
    """Whether the mark at `match` ends a sentence, not an abbreviation, a number or a quotation."""
    at, end = match.span()
    mark, following = text[at], text[end]
    if text[line] == "|" and _is_row(text, line):
        return False
    if mark == "?":
        return not (following.islower() or following in ",;)")
    if mark == "!":
        return not (following.islower() or following in "=+-*/)×·<>≤≥,^")
    if mark == "…" or text[at + 1] == ".":
        return not following.islower()
    if at - line <= _LOOK_BACK and _LIST_NUMBER.match(text, line, at):
        return False
    if at - start <= 4 and _BARE_NUMBER.match(text, start, at):
        return False
    if match["closers"]:
        return not following.islower()
    before = text[max(start, at - _LOOK_BACK) : at]
    if before[-1:].isalpha() and (abbreviation := _ABBREVIATION.search(before)):
        if abbreviation["numbered"]:
            return not (following.isdigit() or following in "([")
        return abbreviation["inside"] is not None and following.isupper()
    return not (following == "(" and _LABEL.match(text, end))
