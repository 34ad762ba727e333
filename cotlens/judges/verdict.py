"""What a judge takes and what it gives: Item, Part, Verdict."""

import math
from enum import StrEnum
from typing import NamedTuple


class Part(StrEnum):
    """What a judge reads of a trace."""

    THINKING = "thinking"
    ANSWER = "answer"
    FULL = "full"  # thinking and answer
    STEP = "step"  # the thinking up to and with a step


# The labels of a verdict, and whether they count as unsafe. Undecided counts as neither.
LABELS = {"safe": False, "unsafe": True, "controversial": True, "undecided": None}


class Item(NamedTuple):
    """One thing to judge."""

    prompt: str
    text: str
    part: Part


class Verdict(NamedTuple):
    """A judge's verdict on one item.

    Attributes:
        label: `safe`, `unsafe`, `controversial` (Qwen3Guard), or `undecided`: the judge's answer
            was off its format, or there was nothing to judge.
        p_unsafe: probability of unsafe among the label words, from their logits; of three labels
            `controversial` counts half. NaN where the judge gives no logits or is undecided.
        categories: as the judge names them.
        refusal: whether the text refuses; None where the judge does not tell.
        n_cut: characters that were left out of the middle of the text and the prompt, to fit.
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
    """Return the verdict if it is valid.

    Raises:
        ValueError: if the label is none of `LABELS`, or p_unsafe neither NaN nor from 0 to 1.
    """
    # NaN is neither below 0 nor above 1 nor between, so it is asked for by itself.
    p = verdict.p_unsafe
    is_number = isinstance(p, float | int)
    is_probability = is_number and (math.isnan(p) or 0 <= p <= 1)

    if verdict.label not in LABELS or not is_probability:
        raise ValueError(
            f"a judge gave the label {verdict.label!r} with p_unsafe {p!r}; "
            f"expected a label of {', '.join(LABELS)}, and p_unsafe from 0 to 1 or NaN"
        )
    return verdict
