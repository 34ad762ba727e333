"""The data in a page: each trace as JSON values, each array of numbers as base64.

Offsets are code points of the completion, as everywhere in cotlens; the script converts them to
UTF-16. Nats are whole multiples of `NATS_STEP`, so a shown value is right to half of that. From
65.534 nats (or rank 65,534) on the page shows a lower bound. The `TOP` likeliest words of a token
are kept.
"""

import base64
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cotlens.detect.reflect import KINDS, N_REFLECTIVE
from cotlens.detect.unsafe import EXPLORATION, MARKERS
from cotlens.measures.unsafe import safety_states
from cotlens.text.split import split_trace
from cotlens.text.tokens import token_places, word_starts
from cotlens.trace import Trace
from cotlens.view.shown import Scores, ShownTrace

Block = dict[str, Any]  # what becomes one JSON object

NATS_STEP = 0.001
TOP = 3
_UNKNOWN = 65535  # the code of NaN
_MOST = 65534  # the code of every larger value

# Tokens above this quantile of a page's entropies are of high entropy, as in
# measures.entropy.entropy_threshold.
_HIGH_QUANTILE = 0.8

# The table of traces shows the course of a trace in so many cells, and so many characters of its
# prompt, taken from the end: long prompts begin with what all of them share.
_STRIP_CELLS = 60
_PROMPT_TAIL = 2000
_PROMPT_CHARS = 160


def page_blocks(
    title: str,
    shown: Sequence[ShownTrace],
    partners: Sequence[ShownTrace | None],
    names: Sequence[str],
    n_traces: int,
) -> dict[str, Any]:
    """Return the JSON values of a page by id: `page`, `a0`, `a1`, ..., and for partners `b0`, ...

    Args:
        title: title of the page.
        shown: the traces of the page.
        partners: for each of them the trace of the second run, or None; empty without a second run.
        names: names of the two runs.
        n_traces: number of traces in the run; the page may show fewer.
    """
    high = _high_entropy_code(shown)
    first = _trace_blocks(shown, high)
    second = _trace_blocks(partners, high)

    page = {
        "title": title,
        "names": names,
        "total": n_traces,
        "high": high,
        "kinds": [kind.value for kind in KINDS],
        "nReflective": N_REFLECTIVE,
        "markers": [marker.value for marker in MARKERS],
        "unsafe": [marker in EXPLORATION for marker in MARKERS],
        "natsStep": NATS_STEP,
        "rows": [block and block["row"] for block in first],
        "beside": [block and block["row"] for block in second],
    }

    # The letter a stands for traces of the run, b for their partners.
    blocks: dict[str, Any] = {"page": page}
    blocks |= {f"a{i}": block for i, block in enumerate(first)}
    blocks |= {f"b{i}": block for i, block in enumerate(second)}
    return blocks


def _high_entropy_code(shown: Sequence[ShownTrace]) -> int:
    """Return the code that tokens of high entropy exceed; without entropies none does."""
    codes = [np.zeros(0, np.uint16)]
    for each in shown:
        entropy = _column(each.scores, "entropy")
        if entropy is not None:
            codes.append(encode_nats(entropy))

    page_codes = np.concatenate(codes)
    known_codes = page_codes[page_codes != _UNKNOWN]
    if not len(known_codes):
        return _MOST
    return int(np.quantile(known_codes, _HIGH_QUANTILE))


def _trace_blocks(shown: Sequence[ShownTrace | None], high: int) -> list[Block | None]:
    texts = _token_texts(shown)
    blocks = []
    for each in shown:
        block = None if each is None else _trace_block(each, texts, high)
        blocks.append(block)
    return blocks


def _trace_block(shown: ShownTrace, texts: dict[int, str], high: int) -> Block:
    """Return what the page shows of one trace."""
    trace = shown.trace
    split = split_trace(trace, tags=shown.tags)
    return {
        "id": trace.id,
        "prompt": trace.prompt,
        "text": trace.completion,
        "facts": _facts(shown),
        "verdicts": shown.verdicts,
        "status": split.status.value,
        "think": [list(span) for span in split.think],
        "answer": list(split.answer),
        "steps": _step_data(shown.steps),
        "tokens": _token_data(shown, texts),
        "row": _table_row(shown, split.status.value, high),
    }


def _facts(shown: ShownTrace) -> list[tuple[str, str]]:
    """Return the names and values of what is known about a trace, for the line above it."""
    trace = shown.trace
    reward = "" if trace.reward is None else f"{trace.reward:g}"
    reasoning = "" if trace.reasoning == "verbatim" else trace.reasoning.value

    facts = [
        ("model", trace.model),
        ("checkpoint", trace.method),
        ("domain", trace.domain),
        ("split", trace.split),
        ("finish reason", trace.finish_reason),
        ("reward", reward),
        ("gold answer", trace.gold),
        ("reasoning", reasoning),
        ("scored by", shown.scorer),
        ("judged by", shown.judge),
    ]
    return [(name, value) for name, value in facts if value]


def _table_row(shown: ShownTrace, status: str, high: int) -> Block:
    """Return a trace's row in the table of traces; its counts are those of the step table."""
    trace = shown.trace
    steps = shown.steps
    states = safety_states(steps)

    # A trace that no model has scored may have token ids from its source.
    token_ids = trace.token_ids
    if shown.scores is not None:
        token_ids = shown.scores["token_ids"]

    # The mean entropy, and the number of tokens of high entropy, where entropies are known.
    mean_entropy = None
    n_high = None
    entropy = _column(shown.scores, "entropy")
    if entropy is not None:
        codes = encode_nats(entropy)
        known_codes = codes[codes != _UNKNOWN]
        n_high = int((known_codes > high).sum())
        if len(known_codes):
            mean_entropy = np.nanmean(np.asarray(entropy, float))

    return {
        "id": trace.id,
        "prompt": trace.prompt[-_PROMPT_TAIL:][:_PROMPT_CHARS],
        "status": status,
        "tokens": None if token_ids is None else len(token_ids),
        "steps": len(steps),
        "reflect": int(steps["is_reflection"].eq(True).sum()),
        "unsafe": int((states > 0).sum()),
        "high": n_high,
        "entropy": None if mean_entropy is None else _rounded(mean_entropy),
        "verdicts": shown.verdicts,
        "strip": _strip(steps, states),
    }


def _strip(steps: pd.DataFrame, states: np.ndarray) -> str:
    """Return the course of a trace, one letter for each cell of equal length.

    The letter is u where a step is unsafe, else s where one is safe, else r where one reflects,
    else a dot.
    """
    if steps.empty:
        return ""

    # The cell of each step; a position of 1 belongs to the last cell.
    cells = steps["position"].to_numpy(float) * _STRIP_CELLS
    cells = np.minimum(cells, _STRIP_CELLS - 1)
    cells = cells.astype(int)

    # Later letters overwrite earlier ones.
    is_reflection = steps["is_reflection"].eq(True)
    letters = np.full(_STRIP_CELLS, ".")
    letters[cells[is_reflection]] = "r"
    letters[cells[states < 0]] = "s"
    letters[cells[states > 0]] = "u"
    return "".join(letters)


def _step_data(steps: pd.DataFrame) -> Block:
    """Return the columns of a trace's steps.

    A step without a kind has the number -1; bit i of `markers` stands for marker i.
    """
    kinds = [kind.value for kind in KINDS]
    kind_numbers = []
    for kind in steps["kind"]:
        number = kinds.index(kind) if kind else -1
        kind_numbers.append(number)

    markers = np.zeros(len(steps), np.int64)
    for i, marker in enumerate(MARKERS):
        carries_marker = steps[marker.value].eq(True)
        markers |= carries_marker.to_numpy(np.int64) << i

    return {
        "start": steps["start"].tolist(),
        "stop": steps["stop"].tolist(),
        "kind": kind_numbers,
        "reflects": steps["is_reflection"].eq(True).astype(int).tolist(),
        "state": safety_states(steps).tolist(),
        "markers": markers.tolist(),
        "pReflect": [_rounded(value) for value in steps["p_reflect"]],
        "pJailbreak": [_rounded(value) for value in steps["p_self_jailbreak"]],
    }


def _token_data(shown: ShownTrace, texts: dict[int, str]) -> Block | None:
    """Return the places and values of a trace's tokens; None where they have no place in it.

    `places` says how far after its start the character lies that decides where a token belongs.
    """
    scores = shown.scores
    starts = _column(scores, "token_starts")
    if scores is None or starts is None:
        return None

    values = {}
    for name in ("entropy", "kl"):
        nats = _column(scores, name)
        if nats is not None:
            values[name] = _pack_nats(nats)

    logprobs = np.asarray(scores["logprob"], float)
    values["surprise"] = _pack_nats(-logprobs)

    ranks = _column(scores, "rank")
    if ranks is not None:
        ranks = np.asarray(ranks, float)
        codes = np.minimum(ranks, _MOST)
        codes[np.isnan(ranks)] = _UNKNOWN
        values["rank"] = pack_integers(codes)

    # Differences of starts are small numbers, which take less space.
    starts = np.asarray(starts, np.int64)
    lengths = np.diff(starts, prepend=0)
    words = word_starts(shown.trace.completion, starts)
    places = token_places(starts, words)
    tokens: Block = {
        "starts": pack_integers(lengths),
        "places": pack_integers(places - starts),
        "values": values,
    }
    if _column(scores, "top_ids") is not None:
        tokens["top"] = _likeliest_words(scores, texts)
    return tokens


def _likeliest_words(scores: Scores, texts: dict[int, str]) -> Block:
    """Return the likeliest words of every token: a list of words, and indices into it."""
    # One row per token, one column per word.
    top_ids = _first_columns(scores["top_ids"], TOP)
    top_logprobs = _first_columns(scores["top_logprobs"], TOP)

    # Distinct ids, and for every token the places of its words among them; a missing id is -1.
    ids = np.nan_to_num(top_ids, nan=-1).astype(np.int64)
    distinct_ids, places = np.unique(ids, return_inverse=True)
    places = np.minimum(places.ravel(), _UNKNOWN)

    # A word of unknown text is named by its id.
    words = []
    for token_id in distinct_ids[:_UNKNOWN].tolist():
        word: str | int = texts.get(token_id) or token_id
        words.append(word)

    return {
        "k": top_ids.shape[1],
        "words": words,
        "index": pack_integers(places),
        "surprise": _pack_nats(-top_logprobs.ravel()),
    }


def _first_columns(rows: Any, n_columns: int) -> np.ndarray:
    """Return the first columns of a table, which the score table holds as a list per token."""
    cut_rows = [list(row)[:n_columns] for row in rows]
    return np.array(cut_rows, float)


def _token_texts(shown: Sequence[ShownTrace | None]) -> dict[int, str]:
    """Return token id -> text of all tokens of the traces whose likeliest words are known.

    They name the likeliest words without a tokenizer.
    """
    texts: dict[int, str] = {}
    for each in shown:
        if each is None:
            continue
        starts = _column(each.scores, "token_starts")
        if starts is not None and _column(each.scores, "top_ids") is not None:
            _add_token_texts(texts, each.trace, each.scores)
    return texts


def _add_token_texts(texts: dict[int, str], trace: Trace, scores: Any) -> None:
    """Add the text of each token id that stands for whole characters."""
    completion = trace.completion
    bounds = pairwise([*scores["token_starts"], len(completion)])
    previous_start = -1

    for token_id, (start, stop) in zip(scores["token_ids"], bounds, strict=False):
        # Tokens with the same start are bytes of one character, and have no text.
        if previous_start < start < stop:
            texts.setdefault(int(token_id), completion[start:stop])
        previous_start = start


def _column(scores: Scores | None, name: str) -> Any:
    """Return a column of a trace's scores; None if there is none, or nothing in it."""
    if scores is None:
        return None

    # Where a trace has no values, pandas holds None or NaN.
    values = scores.get(name)
    if values is None or np.ndim(values) == 0 or np.size(values) == 0:
        return None
    return values


def _pack_nats(values: ArrayLike) -> str:
    return pack_integers(encode_nats(values))


def encode_nats(values: ArrayLike) -> np.ndarray:
    """Return codes of numbers in nats: multiples of `NATS_STEP` as 16-bit integers.

    65534 stands for more than that, also infinity, and 65535 for NaN.
    """
    multiples = np.asarray(values, float) / NATS_STEP
    is_unknown = np.isnan(multiples)

    codes = np.nan_to_num(multiples, nan=0, posinf=_MOST)
    codes = np.clip(np.rint(codes), 0, _MOST)
    codes[is_unknown] = _UNKNOWN
    return codes.astype(np.uint16)


def pack_integers(values: ArrayLike) -> str:
    """Return whole numbers as `WIDTH:BASE64`, little-endian.

    The width is 1, 2 or 4 bytes, the least that holds them all.
    """
    integers = np.asarray(values)
    largest = integers.max() if integers.size else 0
    width = next(width for width in (1, 2, 4) if largest < 256**width)

    little_endian = integers.astype(f"<u{width}").tobytes()
    text = base64.b64encode(little_endian).decode()
    return f"{width}:{text}"


def _rounded(value: Any) -> float | None:
    """Return a number to three decimals; None if it is not finite, which JSON cannot hold."""
    number = float(value)
    if not np.isfinite(number):
        return None
    return round(number, 3)
