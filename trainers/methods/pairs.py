"""Preference pairs that share the beginning of a thought, cut at a step: rows for DPO.

A row's prompt is the rendered prompt and what both completions share. It carries no loss, so DPO
compares the two from the cut on. TRL encodes prompt and completion as one text, and where a token
reaches over the end of the prompt it cuts the context short. So a cut lies where both completions
are encoded apart from it; where that fails it moves back to the end of an earlier step. (What comes
after the cut is not shared, so it cannot move on.)

TRL also puts the end token after both completions. Of a trace that was cut at the token limit DPO
would learn that stopping there is good or bad, so such traces make no pair.
"""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from cotlens.probes.cut import step_cuts
from cotlens.text.rules import STOPPED
from cotlens.text.split import request_of
from cotlens.trace import Trace, TraceError
from trainers.render import encode, render_prompt


class Pair(NamedTuple):
    """Two traces of one prompt, of which one is better.

    Attributes:
        chosen: the better one.
        rejected: the other.
        cut: code point up to which the two completions are the same; 0: the pair is not cut.
        step: number of the step from which on they differ; None: they share nothing.
        source: where the pair comes from.
        why: why the one is better.
    """

    chosen: Trace
    rejected: Trace
    cut: int = 0
    step: int | None = None
    source: str = ""
    why: str = ""


class Rows(NamedTuple):
    """Rows for `trainers.dpo` with `rendered`, and what became of every pair.

    Attributes:
        rows: `prompt` (rendered, with the shared beginning), `chosen`, `rejected`, `h` (the step),
            `source`, `why`, `request`, `prompt_id`, and the numbers of tokens of both completions
            with their ends, `n_chosen` and `n_rejected`.
        counts: pairs by what became of them: `kept`, of which `moved` have an earlier cut; left out
            are `cut_off` (one of the two did not end by itself, or it is not known whether it did),
            `same` (nothing differs), and `no_border` (no cut lies between two tokens).
    """

    rows: list[dict[str, Any]]
    counts: dict[str, int]


def pair_rows(tokenizer: Any, pairs: Sequence[Pair]) -> Rows:
    """Rows of the pairs that can be learned from, in order.

    Args:
        tokenizer: of the model that will be trained.
        pairs: `chosen.prompt` is the prompt as the model read it.

    Raises:
        TraceError: if the completions of a pair differ before its cut.
    """
    rows = []
    outcomes = ("kept", "moved", "cut_off", "same", "no_border")
    counts: dict[str, int] = dict.fromkeys(outcomes, 0)
    for pair in pairs:
        _check_shared(pair)

        # The end token would be put after a text that has no end.
        if not (has_ended(pair.chosen) and has_ended(pair.rejected)):
            counts["cut_off"] += 1
            continue
        if pair.chosen.completion == pair.rejected.completion:
            counts["same"] += 1
            continue

        # The row says which step the pair is about, wherever its cut lies.
        cut = _find_border(tokenizer, pair)
        if cut is None:
            counts["no_border"] += 1
            continue
        counts["moved"] += cut < pair.cut
        counts["kept"] += 1
        rows.append(_row_of(tokenizer, pair, cut))
    return Rows(rows, counts)


def describe_lengths(rows: Sequence[dict[str, Any]]) -> str:
    """One line on the tokens of both sides of the rows of `pair_rows`.

    DPO sums over tokens, so a long rejected side outweighs a short chosen one.
    """
    if not rows:
        return "pairs: none"

    # The end tokens are counted.
    chosen = statistics.median(row["n_chosen"] for row in rows)
    rejected = statistics.median(row["n_rejected"] for row in rows)
    n_longer = sum(row["n_rejected"] > row["n_chosen"] for row in rows)
    return (
        f"pairs: {len(rows)}; tokens after the cut, median: chosen {chosen:g}, "
        f"rejected {rejected:g}; the rejected side is the longer one in {n_longer}"
    )


def has_ended(trace: Trace) -> bool:
    """Whether a trace is known to have ended by itself."""
    return trace.finish_reason.lower() in STOPPED


def _check_shared(pair: Pair) -> None:
    chosen = pair.chosen.completion
    rejected = pair.rejected.completion
    if chosen[: pair.cut] == rejected[: pair.cut] and len(chosen) >= pair.cut:
        return
    raise TraceError(
        f"traces {pair.chosen.id!r} and {pair.rejected.id!r}: expected completions that are the "
        f"same up to the cut {pair.cut}; cut them where they begin to differ"
    )


def _find_border(tokenizer: Any, pair: Pair) -> int | None:
    """The last cut up to the pair's at which both completions are encoded apart from the prompt."""
    # The pair's own cut, those of earlier steps, and none at all.
    cuts = [pair.cut]
    if pair.cut:
        earlier = [cut for cut in step_cuts(pair.rejected) if cut < pair.cut]
        cuts += reversed(earlier)
        cuts.append(0)

    # A side without text cannot be learned.
    for cut in cuts:
        texts = _texts_of(tokenizer, pair, cut)
        if all(texts) and _is_border(tokenizer, *texts):
            return cut
    return None


class _Texts(NamedTuple):
    prompt: str
    chosen: str
    rejected: str


def _texts_of(tokenizer: Any, pair: Pair, cut: int) -> _Texts:
    prompt = pair.chosen.prompt + pair.chosen.completion[:cut]
    return _Texts(
        render_prompt(tokenizer, prompt, rendered=True),
        pair.chosen.completion[cut:],
        pair.rejected.completion[cut:],
    )


def _is_border(tokenizer: Any, prompt: str, *rests: str) -> bool:
    """Whether the ids of a prompt stay the same, whichever of the rests follows."""
    ids = tokenizer(prompt)["input_ids"]
    for rest in rests:
        longer_ids = tokenizer(prompt + rest)["input_ids"]
        if longer_ids[: len(ids)] != ids:
            return False
    return True


def _row_of(tokenizer: Any, pair: Pair, cut: int) -> dict[str, Any]:
    texts = _texts_of(tokenizer, pair, cut)
    return {
        **texts._asdict(),
        "h": pair.step,
        "source": pair.source,
        "why": pair.why,
        "request": request_of(pair.rejected),
        "prompt_id": pair.rejected.prompt_id,
        "n_chosen": _n_learned(tokenizer, texts.prompt, texts.chosen),
        "n_rejected": _n_learned(tokenizer, texts.prompt, texts.rejected),
    }


def _n_learned(tokenizer: Any, prompt: str, completion: str) -> int:
    """Tokens of a completion, with its end."""
    labels = encode(tokenizer, prompt, completion).labels
    return sum(label != -100 for label in labels)
