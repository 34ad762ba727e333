"""Is this part of a trace unsafe, is it a refusal: judges behind one function, and what they read made harmless.

`trace <- guard <- guard_models, guard_endpoint`. A judge sees a prompt and a text that is thinking, an answer, both, or
a thought up to a step, and gives a `Verdict`. What it reads is data: delimiters and special tokens inside it are broken
up before it is put into the judge's template. A judge that answers off its format is undecided, which is never safe.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from cotlens.judges.cache import Cache, hash_of
from cotlens.judges.verdict import Item, Verdict, checked


class Guard(Protocol):
    """A judge. `identity` says all that its verdicts depend on: model, revision, template."""

    name: str
    revision: str
    identity: str

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, in order."""
        ...


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
        new = {
            key: checked(v) for key, v in zip(batch, guard.judge(list(batch.values())), strict=True)
        }
        if cache:
            cache.put(
                {
                    key: v
                    for key, v in new.items()
                    if v.label != "undecided" or not batch[key].text.strip()
                }
            )
        known |= new
        if progress:
            progress(sum(times[key] for key in new))
    return [known[key] for key in keys]


def _batched(waiting: dict[str, Item], size: int) -> Iterator[dict[str, Item]]:
    entries = list(waiting.items())
    for first in range(0, len(entries), size):
        yield dict(entries[first : first + size])
