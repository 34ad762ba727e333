"""Group sequences into batches of equal cost, and halve the batches when memory runs out."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of sequences in groups of like length, longest first.

    A group has at most `budget` tokens once it is padded, or one sequence.

    >>> batches([5, 1, 4, 2], budget=8)
    [[0], [2, 3], [1]]
    >>> batches([5, 1, 4, 2], budget=10)
    [[0, 2], [3, 1]]
    """
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    padded_length = 0

    for index in longest_first:
        if groups:
            group = groups[-1]
            padded_tokens = (len(group) + 1) * padded_length
            if padded_tokens <= budget:
                group.append(index)
                continue

        # The first sequence of a group is its longest.
        groups.append([index])
        padded_length = lengths[index]
    return groups


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_batches(
    items: Sequence[_Item],
    lengths: Sequence[int],
    budget: int,
    work: Callable[[list[_Item]], _Result],
    *,
    alone: bool = False,
) -> Iterator[tuple[list[_Item], _Result | None]]:
    """Batches of items of like length, each with the result of `work`.

    When memory runs out, the batch is halved until it fits, and all items after it are grouped
    again at that size. The result is None for an item that does not fit into memory even alone.

    Args:
        items: what to work on.
        lengths: tokens of each item.
        budget: padded tokens of a batch.
        work: called with a batch.
        alone: one item a batch, as a model needs whose positions depend on the longest sequence of
            a batch.
    """
    if alone:
        budget = 1

    waiting = list(range(len(items)))
    while waiting:
        groups = batches([lengths[index] for index in waiting], budget)
        postponed: list[int] = []
        for group in groups:
            indices = [waiting[number] for number in group]

            # The budget was lowered: the rest waits to be grouped again.
            if postponed:
                postponed += indices
                continue

            batch = [items[index] for index in indices]
            n_done, result = _work_on_as_many(work, batch)
            yield batch[:n_done], result
            if n_done < len(batch):
                budget = n_done * lengths[indices[0]]
                postponed = indices[n_done:]
        waiting = postponed


def _work_on_as_many(
    work: Callable[[list[_Item]], _Result], batch: list[_Item]
) -> tuple[int, _Result | None]:
    """How many of the first items fit into memory together, and the result for them.

    The number is halved until they fit. It is 1, with None, if not even the first one fits.
    """
    # accelerate's own loop collects garbage before every attempt, which takes a small network
    # longer than its work. Here only a failure does.
    size = len(batch)
    while size:
        try:
            return size, work(batch[:size])
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
        clear_device_cache(garbage_collection=True)
        size //= 2
    return 1, None


def _is_out_of_memory(error: Exception) -> bool:
    # accelerate 1.15 knows only some of the messages that memory ran out with.
    kinds = (MemoryError, torch.OutOfMemoryError)
    is_known = isinstance(error, kinds) or "ALLOC_FAILED" in str(error)
    return is_known or should_reduce_batch_size(error)
