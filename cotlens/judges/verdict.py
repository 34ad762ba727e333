"""What a judge takes and what it gives: Item, Part, Verdict."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class Part(StrEnum):
    """What a judge reads of a trace."""

    THINKING = "thinking"
    ANSWER = "answer"
    FULL = "full"  # thinking and answer
    STEP = "step"  # the thinking up to and with a step
    REQUEST = "request"  # what the user asked; its verdicts are made elsewhere


# The labels of a verdict, and whether they count as unsafe. Undecided counts as neither.
LABELS = {"safe": False, "unsafe": True, "controversial": True, "undecided": None}

# Answers to a rubric that asks another question than whether a text is safe; or undecided.
ANSWERS = ("yes", "no")


class Item(NamedTuple):
    """One thing to judge."""

    prompt: str
    text: str
    part: Part


class Verdict(NamedTuple):
    """A judge's verdict on one item.

    Attributes:
        label: `safe`, `unsafe`, `controversial` (Qwen3Guard), or `undecided`: the judge's answer
            was off its format, or there was nothing to judge. `yes` or `no` where a rubric asks
            another question.
        p_unsafe: probability of unsafe among the label words, from their logits; of three labels
            `controversial` counts half. NaN where the judge gives no logits or is undecided.
        categories: as the judge names them; what it quotes, where a rubric asks for quotes.
        refusal: whether the text refuses; None where the judge does not tell.
        n_cut: characters that were left out of the middle of the prompt, to fit. The text itself is
            always read whole, in windows if need be.
        n_defused: delimiters and special tokens inside prompt and text that were broken up.
        raw: what the judge wrote.
        reason: why it is undecided; empty where it is not.
        text_hash: hash of the text that it was given for; `judge` sets it.
    """

    label: str
    p_unsafe: float = math.nan
    categories: tuple[str, ...] = ()
    refusal: bool | None = None
    n_cut: int = 0
    n_defused: int = 0
    raw: str = ""
    reason: str = ""
    text_hash: str = ""


UNDECIDED = Verdict("undecided")


def checked(verdict: Verdict) -> Verdict:
    """Return the verdict if it is valid.

    Raises:
        ValueError: if the label is none of `LABELS` and `ANSWERS`, or p_unsafe neither NaN nor
            from 0 to 1.
    """
    # NaN is neither below 0 nor above 1 nor between, so it is asked for by itself.
    p = verdict.p_unsafe
    is_number = isinstance(p, float | int)
    is_probability = is_number and (math.isnan(p) or 0 <= p <= 1)

    labels = (*LABELS, *ANSWERS)
    if verdict.label not in labels or not is_probability:
        raise ValueError(
            f"a judge gave the label {verdict.label!r} with p_unsafe {p!r}; "
            f"expected a label of {', '.join(labels)}, and p_unsafe from 0 to 1 or NaN"
        )
    return verdict


# From harmless to harmful. What is undecided may be anything, so it outweighs safe, and a "no".
_ORDER = ("safe", "no", "undecided", "controversial", "unsafe", "yes")


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict on a text from those on its windows: the worst one.

    `p_unsafe` is the largest, categories are those of all windows. A text refuses only if all of
    its windows do, and a window that does not tell makes it unknown.
    """
    if len(verdicts) == 1:
        return verdicts[0]

    gravest = verdicts[0]
    probabilities = []
    categories: dict[str, None] = {}
    refusals = []
    for verdict in verdicts:
        if _ORDER.index(verdict.label) > _ORDER.index(gravest.label):
            gravest = verdict
        if not math.isnan(verdict.p_unsafe):
            probabilities.append(verdict.p_unsafe)
        categories |= dict.fromkeys(verdict.categories)
        refusals.append(verdict.refusal)

    # An undecided text has no probability.
    p_unsafe = math.nan
    if gravest.label != "undecided" and probabilities:
        p_unsafe = max(probabilities)
    refusal = None
    if None not in refusals:
        refusal = all(refusals)

    return gravest._replace(p_unsafe=p_unsafe, categories=tuple(categories), refusal=refusal)
