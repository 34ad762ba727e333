"""What a judge takes and gives: Item, Part, Verdict."""

import math
from enum import StrEnum
from typing import NamedTuple


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


UNDECIDED = Verdict("undecided")


def checked(verdict: Verdict) -> Verdict:
    """The verdict, if it is one.

    Raises:
        ValueError: if the label is none of `LABELS`, or p_unsafe neither NaN nor within 0 to 1.
    """
    p = verdict.p_unsafe
    if (
        verdict.label not in LABELS
        or not isinstance(p, float | int)
        or not (math.isnan(p) or 0 <= p <= 1)
    ):
        raise ValueError(
            f"a judge gave the label {verdict.label!r} with p_unsafe {p!r}; expected {', '.join(LABELS)}"
        )
    return verdict
