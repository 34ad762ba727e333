"""Delimiters of thinking that are not in the table: found by their look, and named to the user.

A text whose delimiters nobody knows is all answer, and nothing in its numbers shows it. So where no
trace of a file has a thought, its texts are searched for what looks like a pair of such delimiters.
"""

import re
import shlex
from collections import Counter
from collections.abc import Iterator

from cotlens.text.delimiters import is_quoted, known_pairs
from cotlens.text.tags import Tags
from cotlens.trace import Trace

# A word in brackets, of a template or of a prompt: <x>, [x], <|x|>, ◁x▷.
_WORDS = (
    r"think|thought|reason|reflect|deliberat|ponder|scratch_?pad|analysis|rationale|monologue"
    r"|chain_?of|\bcot\b|brainstorm"
)
_BRACKETED = re.compile(
    rf"(?:<[|｜]?|\[|◁)/?[^\s<>\[\]◁▷]{{0,30}}(?:{_WORDS})[^\s<>\[\]◁▷]{{0,30}}(?:[|｜]?>|\]|▷)",
    re.IGNORECASE,
)
_CLOSING = re.compile(r"^\W+/|(?:^|[\W_])end(?:$|[\W_])|suffix|stop|close", re.IGNORECASE)
_SEARCHED = 200_000  # characters of a text
_PROMPT_END = 200  # characters of a prompt
_N_TEXTS = 1000  # texts that are searched: a file has the same delimiters throughout
# Gemma's channel without its special tokens: where the thought ends is lost.
_LEFT_OF_GEMMA = re.compile(r"thought\n")


class UnknownTags:
    """What looks like a delimiter of thinking in texts without a thought.

    Attributes:
        counts: pairs, and in how many texts each stands.
        n_gemma: texts that begin as Gemma's do when special tokens are dropped.
    """

    def __init__(self) -> None:
        self.counts: Counter[Tags] = Counter()
        self.n_texts = 0
        self.n_gemma = 0

    def look_at(self, trace: Trace) -> None:
        """Search the text of a trace, as long as not enough were."""
        if self.n_texts >= _N_TEXTS:
            return
        self.n_texts += 1
        self.n_gemma += _LEFT_OF_GEMMA.match(trace.completion) is not None

        # The end of the prompt may open the thought.
        pair = find_unknown(trace.prompt[-_PROMPT_END:] + trace.completion)
        if pair:
            self.counts[pair] += 1

    def advice(self) -> str:
        """What to do about the most frequent pair, or an empty text."""
        if self.counts:
            pair, n = self.counts.most_common(1)[0]
            options = f"--tags {shlex.quote(pair.open)} {shlex.quote(pair.close)}"
            return (
                f"no trace has a thought, but {n:,} of {self.n_texts:,} texts have {pair.open} and "
                f"{pair.close}, which are not among the known delimiters; if they enclose "
                f"thinking, analyze with {options}"
            )
        if self.n_gemma:
            return (
                f"no trace has a thought, but {self.n_gemma:,} of {self.n_texts:,} texts begin "
                "with `thought`, as Gemma's do when special tokens are dropped: where the thought "
                "ends is lost; keep them (skip_special_tokens=False)"
            )
        return ""


def find_unknown(text: str) -> Tags | None:
    """The first pair that looks like delimiters of thinking and is not known, or None.

    >>> find_unknown("<ponder>2+2=4</ponder>Four.")
    Tags(open='<ponder>', close='</ponder>')
    """
    known = {tag.lower() for pair in known_pairs() for tag in pair}
    opened = ""
    for tag in _bracketed(text):
        if tag.lower() in known:
            continue
        if not _CLOSING.search(tag):
            opened = opened or tag
        elif opened and _word_in(opened) == _word_in(tag):
            return Tags(opened, tag)
    return None


def _bracketed(text: str) -> Iterator[str]:
    """The words in brackets that have to do with thinking; not those in quotation marks."""
    for match in _BRACKETED.finditer(text, 0, _SEARCHED):
        if not is_quoted(text, match.start(), match.end()):
            yield match.group()


def _word_in(tag: str) -> str:
    """What a tag is about, without what marks it as an opening or a closing one."""
    match = re.search(_WORDS, tag, re.IGNORECASE)
    return match.group().lower() if match else ""
