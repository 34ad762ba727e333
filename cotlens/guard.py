"""Is this part of a trace unsafe, is it a refusal: judges behind one function, and what they read made harmless.

`trace <- guard <- guard_models, guard_endpoint`. A judge sees a prompt and a text that is thinking, an answer, both, or
a thought up to a step, and gives a `Verdict`. What it reads is data: delimiters and special tokens inside it are broken
up before it is put into the judge's template. A judge that answers off its format is undecided, which is never safe.
"""

import hashlib
import json
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Protocol

from cotlens.trace import TraceError


class Part(StrEnum):
    """What a judge reads of a trace."""

    THINKING = "thinking"
    ANSWER = "answer"
    FULL = "full"  # thinking and answer
    STEP = "step"  # the thinking up to and with a step


# What a judge may say, and what that makes of the text: controversial counts as unsafe, undecided as nothing.
LABELS = {"safe": False, "unsafe": True, "controversial": True, "undecided": None}


class Item(NamedTuple):
    """One thing to judge."""

    prompt: str
    text: str
    part: Part


class Verdict(NamedTuple):
    """What a judge says of one item.

    Attributes:
        label: `safe`, `unsafe`, `controversial` (Qwen3Guard), or `undecided`: off the format, or nothing to judge.
        p_unsafe: probability of unsafe among the label words, from their logits; of three labels `controversial` counts
            half. NaN where the judge gives no logits or is undecided.
        categories: as the judge names them.
        refusal: whether the text refuses; None where the judge does not say.
        n_cut: characters of the text that did not fit and were left out of its middle.
        n_defused: delimiters and special tokens inside prompt and text that were broken up.
        raw: what the judge wrote.
    """

    label: str
    p_unsafe: float = math.nan
    categories: tuple[str, ...] = ()
    refusal: bool | None = None
    n_cut: int = 0
    n_defused: int = 0
    raw: str = ""


class Guard(Protocol):
    """A judge. `identity` says all that its verdicts depend on: model, revision, template."""

    name: str
    revision: str
    identity: str

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, in order."""
        ...


UNDECIDED = Verdict("undecided")
MAX_CHARS = 100_000  # of a text that goes to a judge: what is longer loses its middle, and says so

# --- what the judge reads is data ------------------------------------------------------------------------------

_BREAK = "\u200b"  # a zero-width space: the reader sees the same, a tokenizer or a parser does not
# What templates are made of, in the families that judges come from; names of speakers where a line begins.
_DELIMITERS = re.compile(
    r"[<＜][|｜][^|｜<>＜＞\s]{1,40}[|｜][>＞]|</?s>|\[/?(?:INST|SYS)\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|<\s?/?\s?(?:BEGIN|END)\s[A-Z\s]{3,40}>|<\s{0,3}/?\s{0,3}(?:text_to_judge|request)\s{0,3}>"
    r"|^[ \t]{0,3}(?:user|agent|human(?: user)?|(?:ai )?assistant|system|answers)[ \t]{0,3}:|^---+",
    re.IGNORECASE | re.MULTILINE,
)


def breaks(text: str, tokens: Iterable[str] = ()) -> list[int]:
    """Where `defuse` breaks a text: behind the first character of every delimiter.

    Args:
        text: hostile text.
        tokens: further strings to break: the special tokens of the judge's tokenizer.
    """
    own = sorted(
        (re.escape(token) for token in tokens if len(token) > 1 and not token.isspace()), key=len, reverse=True
    )
    pattern = re.compile("|".join([*own, _DELIMITERS.pattern]), _DELIMITERS.flags) if own else _DELIMITERS
    return [match.start() + 1 for match in pattern.finditer(text)]


def insert_breaks(text: str, places: Sequence[int]) -> str:
    """The text with a zero-width space at each place."""
    edges = [0, *places, len(text)]
    return _BREAK.join(text[start:stop] for start, stop in pairwise(edges))


def defuse(text: str, tokens: Iterable[str] = ()) -> tuple[str, int]:
    """The text with every delimiter broken by a zero-width space behind its first character, and how many there were.

    Args:
        text: hostile text.
        tokens: further strings to break.

    >>> defuse("a <|eot_id|> b")[1]
    1
    """
    places = breaks(text, tokens)
    return insert_breaks(text, places), len(places)


def clean(text: str) -> str:
    """The text without lone surrogates, which no tokenizer and no file takes."""
    return text.encode("utf-8", "replace").decode()


def shorten(text: str, longest: int) -> tuple[str, int]:
    """The text without its middle if it is longer than `longest`, and how many characters that took."""
    if len(text) <= longest:
        return text, 0
    head, tail = longest // 2, longest - longest // 2
    return text[:head] + "\n[...]\n" + text[len(text) - tail :], len(text) - longest


# --- cache -----------------------------------------------------------------------------------------------------


def hash_of(*parts: str) -> str:
    """SHA-256 of texts, each with its length, so that no two lists of texts meet."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(f"{len(data)}:".encode() + data)
    return digest.hexdigest()


class Cache:
    """Verdicts on disk (SQLite), by the judge's identity and what it read. A killed job asks for nothing twice."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as base:
            base.execute("create table if not exists verdicts (key text primary key, verdict text not null)")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as base, base:
                yield base
        except sqlite3.DatabaseError as error:
            raise TraceError(f"{self.path}: not a cache of verdicts ({error}); remove it or name another") from None

    def get(self, keys: Sequence[str]) -> dict[str, Verdict]:
        """The verdicts that are there and can be read."""
        found = {}
        with self._open() as base:
            for first in range(0, len(keys), 500):
                some = keys[first : first + 500]
                marks = ",".join("?" * len(some))
                for key, stored in base.execute(f"select key, verdict from verdicts where key in ({marks})", some):
                    if verdict := _stored_verdict(stored):
                        found[key] = verdict
        return found

    def put(self, verdicts: Mapping[str, Verdict]) -> None:
        """Writes verdicts, all or none."""
        rows = []
        for key, verdict in verdicts.items():
            p = None if math.isnan(verdict.p_unsafe) else verdict.p_unsafe
            rows.append((key, json.dumps(verdict._asdict() | {"p_unsafe": p}, ensure_ascii=True)))
        with self._open() as base:
            base.executemany("insert or replace into verdicts values (?, ?)", rows)


def _stored_verdict(stored: str) -> Verdict | None:
    """A verdict as the cache holds it; None where it is damaged or another version's."""
    try:
        fields = json.loads(stored)
        p = math.nan if fields["p_unsafe"] is None else fields["p_unsafe"]
        return checked(Verdict(**fields | {"categories": tuple(fields["categories"]), "p_unsafe": p}))
    except (ValueError, TypeError, KeyError):
        return None


def checked(verdict: Verdict) -> Verdict:
    """The verdict, if it is one.

    Raises:
        ValueError: if the label is none of `LABELS`, or p_unsafe neither NaN nor within 0 to 1.
    """
    p = verdict.p_unsafe
    if verdict.label not in LABELS or not isinstance(p, float | int) or not (math.isnan(p) or 0 <= p <= 1):
        raise ValueError(f"a judge gave the label {verdict.label!r} with p_unsafe {p!r}; expected {', '.join(LABELS)}")
    return verdict


def judge(
    guard: Guard,
    items: Sequence[Item],
    *,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """One verdict per item, in order; equal items are judged once, and what the cache knows is not asked again.

    Args:
        guard: a judge; as many items as its `batch_size` (else 32) go to it at once.
        items: what to judge.
        cache: verdicts on disk; each batch is kept as soon as it is there. A text on which the judge was undecided is
            judged again by the next call.
        progress: called with the number of items done since the last call.
    """
    keys = [hash_of(guard.identity, item.part, item.prompt, item.text) for item in items]
    times = Counter(keys)
    known = cache.get(list(times)) if cache else {}
    if progress:
        progress(sum(key in known for key in keys))
    waiting = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
    for batch in _batched(waiting, getattr(guard, "batch_size", 32)):
        new = {key: checked(v) for key, v in zip(batch, guard.judge(list(batch.values())), strict=True)}
        if cache:
            cache.put({key: v for key, v in new.items() if v.label != "undecided" or not batch[key].text.strip()})
        known |= new
        if progress:
            progress(sum(times[key] for key in new))
    return [known[key] for key in keys]


def _batched(waiting: dict[str, Item], size: int) -> Iterator[dict[str, Item]]:
    entries = list(waiting.items())
    for first in range(0, len(entries), size):
        yield dict(entries[first : first + size])
