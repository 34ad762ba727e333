"""Rows for SFT of which only some spans carry loss."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from cotlens.trace import Span, TraceError
from trainers.render import are_spans


class Mask(StrEnum):
    """What is learned of a completion whose thought was kept and got a check at its end."""

    ALL = "all"  # the whole completion: no mask
    CHECK_AND_ANSWER = "check_and_answer"  # from the check on, the end of the thought included
    SAFE_PART_TOO = "safe_part_too"  # the same, and the safe beginning of the thought
    CHECK = "check"  # the check alone: neither the tag that closes the thought nor the answer


def learned_spans(mask: Mask, check: Span, safe_stop: int, end: int) -> list[Span]:
    """The spans of a completion that a mask learns, in order.

    The blank before the check belongs to the check: it is part of its first token.

    >>> learned_spans(Mask.SAFE_PART_TOO, Span(20, 30), safe_stop=10, end=50)
    [Span(start=0, stop=10), Span(start=20, stop=50)]

    Args:
        mask: what is learned.
        check: the check, in code points of the completion.
        safe_stop: where the safe beginning of the thought ends; 0: it has none.
        end: length of the completion.

    Raises:
        ValueError: if the check is empty or out of place.
    """
    if not 0 <= safe_stop <= check.start < check.stop <= end:
        raise ValueError(
            f"mask: expected 0 <= safe_stop <= check <= end, got safe_stop {safe_stop}, "
            f"check {check.start} to {check.stop} and end {end}"
        )
    # One span each.
    if mask is Mask.ALL:
        return [Span(0, end)]
    if mask is Mask.CHECK:
        return [check]

    # A safe beginning that reaches the check makes one span with it.
    from_check = Span(check.start, end)
    if mask is Mask.CHECK_AND_ANSWER or not safe_stop:
        return [from_check]
    if safe_stop == check.start:
        return [Span(0, end)]
    return [Span(0, safe_stop), from_check]


def masked_row(
    prompt: str | list,
    completion: str,
    learned: Sequence[Span],
    source: str,
    why: str,
    **columns: Any,
) -> dict[str, Any]:
    """A row of which only these spans of the completion carry loss, as `trainers.sft` takes it.

    Args:
        prompt: a request or messages.
        completion: thought and answer as the model writes them.
        learned: half-open spans of the completion in code points, in order. The end-of-text token
            is learned if one of them reaches the end of the completion.
        source: where the row comes from.
        why: what was done to it, or why it is left as it is.
        **columns: of the row.

    Raises:
        TraceError: if nothing is learned, or the spans are out of order or of the completion.
    """
    shown = [[span.start, span.stop] for span in learned]
    if not learned:
        raise TraceError(f"row of {source}: no span of its completion is learned")

    # The trainer cannot tell a wrong span from a right one.
    if not are_spans(shown, completion):
        raise TraceError(
            f"row of {source}: expected learned spans in order within the completion's "
            f"{len(completion)} characters, got {shown}"
        )
    return {
        "prompt": prompt,
        "completion": completion,
        "learned": shown,
        "source": source,
        "why": why,
        **columns,
    }
