"""Group sequences into batches of equal cost, and halve the batches when memory runs out."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from cotlens.models.load import Model


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
    model: Model,
    items: Sequence[_Item],
    lengths: Sequence[int],
    budget: int,
    work: Callable[[list[_Item]], _Result],
    *,
    alone: bool = False,
) -> Iterator[tuple[list[_Item], _Result | None]]:
    """Batches of items of like length, each with the result of `work`.

    When memory runs out, the batch and all items after it are grouped again, at half the size. The
    result is None for an item that does not fit into memory even alone.

    Args:
        model: the model that `work` runs.
        items: what to work on.
        lengths: tokens of each item.
        budget: padded tokens of a batch.
        work: called with a batch.
        alone: one item a batch. So it is in any case for a model whose positions depend on the
            longest sequence of a batch.
    """
    if alone or model.sees_length:
        budget = 1

    waiting = list(range(len(items)))
    while waiting:
        groups = batches([lengths[index] for index in waiting], budget)
        postponed: list[int] = []
        for group in groups:
            indices = [waiting[number] for number in group]

            # The budget was halved: the rest waits to be grouped again.
            if postponed:
                postponed += indices
                continue

            batch = [items[index] for index in indices]
            result = _result_or_none(work, batch)
            if result is None and model.device.type == "cuda":
                torch.cuda.empty_cache()

            # Memory ran out, and not for a single item.
            if result is None and len(batch) > 1:
                padded_tokens = len(batch) * lengths[indices[0]]
                budget = max(1, min(budget, padded_tokens) // 2)
                postponed += indices
                continue

            yield batch, result
        waiting = postponed


def _result_or_none(work: Callable[[list[_Item]], _Result], batch: list[_Item]) -> _Result | None:
    """The result of `work`, or None if memory ran out.

    Once this returns, the error is gone, and with it the tensors that its traceback held.
    """
    try:
        return work(batch)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return None


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out.

    A CPU's allocator and some of CUDA's libraries report it in an ordinary RuntimeError.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    pattern = r"can't allocate memory|out of memory|ALLOC_FAILED"
    return re.search(pattern, str(error)) is not None
