"""Ask a judge whether part of a trace is unsafe or a refusal.

A judge sees a prompt and a text: thinking, an answer, both, or the thinking up to a step. It gives
a `Verdict`. What it reads is data: delimiters and special tokens inside it are broken up before it
goes into the judge's template. A judge that answers off its format is undecided, never safe.
"""

import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Protocol

from cotlens.judges.cache import Cache, hash_of
from cotlens.judges.verdict import Item, Verdict, checked
from cotlens.models.in_flight import in_flight

_BATCH_SIZE = 32  # for a judge that names none


class Guard(Protocol):
    """A judge.

    Attributes:
        name: of the model or the rule.
        revision: of the model; may be empty.
        identity: everything its verdicts depend on: model, revision, template.
    """

    name: str
    revision: str
    identity: str

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """Return one verdict per item, in order."""
        ...


def judge(
    guard: Guard,
    items: Sequence[Item],
    *,
    cache: Cache | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Verdict]:
    """Return one verdict per item, in order.

    Equal items are judged once, and items in the cache not at all.

    Args:
        guard: a judge. It gets as many items at once as its `batch_size` (else 32), and where it
            has a `concurrency`, so many batches at once, each in a thread. The first goes alone: a
            wrong key costs one request.
        items: what to judge.
        cache: verdicts on disk. Each batch is stored as soon as it is judged, also after an error
            or a Ctrl-C those that are in flight. A text on which the judge was undecided is not
            stored: the next call judges it again.
        progress: called with the number of items done since the last call.

    Raises:
        ValueError: if the judge gives an unknown label or a probability out of range.
    """
    keys = []
    for item in items:
        key = hash_of(guard.identity, item.part, item.prompt, item.text)
        keys.append(key)
    repeats = Counter(keys)

    # What the cache has is done.
    verdicts = {}
    if cache:
        verdicts = cache.get(list(repeats))
    if progress:
        n_known = sum(repeats[key] for key in verdicts)
        progress(n_known)

    # The rest waits, equal items once.
    waiting = {}
    for key, item in zip(keys, items, strict=True):
        if key not in verdicts:
            waiting[key] = item
    batches = _in_batches(waiting, getattr(guard, "batch_size", _BATCH_SIZE))
    work = _Work(guard, cache)
    with closing(_over_batches(work, batches, getattr(guard, "concurrency", 0))) as judged:
        for batch, batch_verdicts in judged:
            verdicts |= batch_verdicts
            if progress:
                n_judged = sum(repeats[key] for key in batch)
                progress(n_judged)

    # Only the hash tells later which text a verdict was given for.
    results = []
    for key, item in zip(keys, items, strict=True):
        verdict = verdicts[key]._replace(text_hash=hash_of(item.text))
        results.append(_with_reason(verdict, item))
    return results


Batch = dict[str, Item]  # items by their keys


def _in_batches(items: Batch, size: int) -> list[Batch]:
    """The items in batches of that size."""
    keys = list(items)
    batches = []
    for start in range(0, len(keys), size):
        batch_keys = keys[start : start + size]
        batches.append({key: items[key] for key in batch_keys})
    return batches


class _Work:
    """What is done with a batch: judged, checked, stored. Threads may call it at once."""

    def __init__(self, guard: Guard, cache: Cache | None) -> None:
        self.guard = guard
        self.cache = cache
        self.lock = threading.Lock()  # SQLite takes one writer at a time

    def __call__(self, batch: Batch) -> dict[str, Verdict]:
        """Return the verdicts of a batch by key."""
        items = list(batch.values())
        verdicts = {}
        for key, verdict in zip(batch, self.guard.judge(items), strict=True):
            verdicts[key] = checked(verdict)

        # An empty text stays undecided; another may be decided next time.
        lasting = {}
        for key, verdict in verdicts.items():
            is_empty = not batch[key].text.strip()
            if verdict.label != "undecided" or is_empty:
                lasting[key] = verdict
        if self.cache:
            with self.lock:
                self.cache.put(lasting)
        return verdicts


def _over_batches(
    work: _Work, batches: Sequence[Batch], concurrency: int
) -> Generator[tuple[Batch, dict[str, Verdict]], None, None]:
    """Each batch with its verdicts, as they come; a concurrency of 0 starts no thread."""
    if not concurrency:
        for batch in batches:
            yield batch, work(batch)
        return

    # Where it ends early, those in flight are stored, but no request is sent again.
    gives_up = getattr(work.guard, "gives_up", threading.Event())
    gives_up.clear()
    yield from in_flight(work, batches[:1], 1, gives_up.set)
    yield from in_flight(work, batches[1:], concurrency, gives_up.set)


def _with_reason(verdict: Verdict, item: Item) -> Verdict:
    """Return a verdict that, if it is undecided, says why."""
    if verdict.label != "undecided" or verdict.reason:
        return verdict
    if not item.text.strip():
        return verdict._replace(reason="there is nothing to judge")
    return verdict._replace(reason="the judge's answer is off its format")
