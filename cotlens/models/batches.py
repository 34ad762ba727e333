"""Batches of equal cost, halved when memory runs out."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from cotlens.models.load import Model


# --- batches ---------------------------------------------------------------------------------------------------
def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Numbers of sequences in groups of like length: at most `budget` tokens a group once padded, or one sequence.

    >>> batches([5, 1, 4, 2], budget=8)
    [[0], [2, 3], [1]]
    >>> batches([5, 1, 4, 2], budget=10)
    [[0, 2], [3, 1]]
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
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
    """What `work` makes of groups of items of like length; None for an item that does not even fit alone.

    When memory runs out, what is left goes in groups half the size. `alone`: one item a group, as for a model whose
    positions depend on the longest.
    """
    waiting, budget = list(range(len(items))), 1 if alone or model.sees_length else budget
    while waiting:
        failed: list[int] = []
        for group in batches([lengths[i] for i in waiting], budget):
            numbers = [waiting[i] for i in group]
            if failed:
                failed += numbers
                continue
            batch, result = [items[i] for i in numbers], None
            try:
                result = work(batch)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(batch) > 1:
                    budget = max(1, min(budget, len(batch) * lengths[numbers[0]]) // 2)
                    failed += numbers
            if result is None:
                _free_memory(model)
            if not failed:
                yield batch, result
        waiting = failed


def _out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; a CPU's allocator and some of CUDA's libraries say so in an ordinary RuntimeError."""
    said = re.search(r"can't allocate memory|out of memory|ALLOC_FAILED", str(error))
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or said is not None


def _free_memory(model: Model) -> None:
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
