"""Ask a judge whether part of a trace is unsafe or a refusal.

A judge sees a prompt and a text: thinking, an answer, both, or the thinking up to a step. It gives
a `Verdict`. What it reads is data: delimiters and special tokens inside it are broken up before it
goes into the judge's template. A judge that answers off its format is undecided, never safe.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from cotlens.judges.cache import Cache, hash_of
from cotlens.judges.verdict import Item, Verdict, checked

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
        guard: a judge. It gets as many items at once as its `batch_size` (else 32).
        items: what to judge.
        cache: verdicts on disk. Each batch is stored as soon as it is judged. A text on which the
            judge was undecided is not stored: the next call judges it again.
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
    waiting_keys = list(waiting)
    batch_size = getattr(guard, "batch_size", _BATCH_SIZE)

    for start in range(0, len(waiting), batch_size):
        batch_keys = waiting_keys[start : start + batch_size]
        batch = [waiting[key] for key in batch_keys]
        batch_verdicts = guard.judge(batch)

        lasting = {}
        for key, item, verdict in zip(batch_keys, batch, batch_verdicts, strict=True):
            verdicts[key] = checked(verdict)
            # An empty text stays undecided; another may be decided next time.
            is_empty = not item.text.strip()
            if verdict.label != "undecided" or is_empty:
                lasting[key] = verdict

        if cache:
            cache.put(lasting)
        if progress:
            n_judged = sum(repeats[key] for key in batch_keys)
            progress(n_judged)

    # Only the hash tells later which text a verdict was given for.
    results = []
    for key, item in zip(keys, items, strict=True):
        verdict = verdicts[key]._replace(text_hash=hash_of(item.text))
        results.append(_with_reason(verdict, item))
    return results


def _with_reason(verdict: Verdict, item: Item) -> Verdict:
    """Return a verdict that, if it is undecided, says why."""
    if verdict.label != "undecided" or verdict.reason:
        return verdict
    if not item.text.strip():
        return verdict._replace(reason="there is nothing to judge")
    return verdict._replace(reason="the judge's answer is off its format")
