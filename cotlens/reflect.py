"""What a step does: kinds of step, named word lists, and the dynamics of reflection over a trace.

Fourth room of the flow: `steps <- reflect <- table`. A step *reflects* when it looks at the reasoning rather than at
the problem: it doubts, backtracks, turns to an alternative, verifies or assesses. docs/codebook.md defines the kinds;
docs/detectors.md reports how well the classifier finds them on labels that people made.

The classifier is a multinomial logistic regression over hashed words, word pairs, and the words of the neighbouring
steps. Its weights (`reflect.npz`) hold no text; `trainers/fit_reflect.py` makes them from the project's own labels.
"""

import re
import zlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cotlens.steps import group_runs
from cotlens.trace import Span


class Kind(StrEnum):
    """What a step does. The first five are reflection."""

    DOUBT = "doubt"
    BACKTRACK = "backtrack"
    ALTERNATIVE = "alternative"
    VERIFY = "verify"
    ASSESS = "assess"
    CONJECTURE = "conjecture"
    PLAN = "plan"
    RESTATE = "restate"
    RECALL = "recall"
    INFER = "infer"
    CONCLUDE = "conclude"
    OTHER = "other"


KINDS = tuple(Kind)
N_REFLECTIVE = 5

# A step is called reflection from this probability on: the best F1 in cross-validation on the training labels, rounded.
# It was fixed there, not on the labelled sets that the classifier is measured on.
THRESHOLD = 0.3


class StepKinds(NamedTuple):
    """Kinds of the steps of one trace, one entry a step.

    Attributes:
        kind: the most probable kind among the reflective ones if the step reflects, else among the others; "" where the
            language is not English.
        p_reflect: probability that the step reflects, the sum over the five reflective kinds; NaN where the language
            is not English, for which the classifier has no ground.
        is_reflection: p_reflect >= THRESHOLD; None where p_reflect is NaN.
    """

    kind: list[str]
    p_reflect: NDArray[np.float64]
    is_reflection: list[bool | None]


def classify(texts: Sequence[str]) -> StepKinds:
    """Kinds of the steps of one trace, given as texts in order (neighbours are context).

    >>> found = classify(["2 + 2 = 5. ", "Wait, that can't be right. ", "Let me check. ", "2 + 2 = 4."])
    >>> found.is_reflection
    [False, True, True, False]
    """
    if isinstance(texts, str):
        raise TypeError("classify takes the texts of a trace's steps, a list; got one text")
    if len(texts) == 0:
        return StepKinds([], np.zeros(0), [])
    tokens = [tokenize(text) for text in texts]
    (sums,) = feature_sums(tokens, reflect_weights())
    return decide_kinds(sums, is_english(texts, tokens))


def decide_kinds(sums: NDArray[np.float64], english: NDArray[np.bool_]) -> StepKinds:
    """Kinds from the sums of their weights, one row a step, where the language is English."""
    p = np.exp(sums - sums.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p_reflect = p[:, :N_REFLECTIVE].sum(axis=1)
    reflects = p_reflect >= THRESHOLD
    best = np.where(reflects, p[:, :N_REFLECTIVE].argmax(1), N_REFLECTIVE + p[:, N_REFLECTIVE:].argmax(1))
    return StepKinds(
        [KINDS[i].value if known else "" for i, known in zip(best, english, strict=True)],
        np.where(english, p_reflect, np.nan),
        [bool(r) if known else None for r, known in zip(reflects, english, strict=True)],
    )


# --- features --------------------------------------------------------------------------------------------------

N_BUCKETS = 1 << 15
MAX_TOKENS = 60  # of a step; a longer one is a formula or a dump, and its beginning tells
_MAX_CHARS = 2000  # a step of megabytes is not read to its end for sixty words
_TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+|\.\.\.|[^\sa-z\d]")
_START, _END, _NUMBER = "\x02", "\x03", "#"


def tokenize(text: str) -> list[str]:
    """Lower-case words, signs one by one, and `#` for every number; at most `MAX_TOKENS`."""
    tokens = _TOKEN.findall(text[:_MAX_CHARS].lower().replace("’", "'"))[:MAX_TOKENS]
    return [_NUMBER if token[0].isdigit() else token for token in tokens]


def features(tokens: Sequence[Sequence[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of step number and feature bucket, each pair once, sorted by step.

    The features of a step: its words and word pairs; its first three words, alone and together; its last one and two;
    its length on a logarithmic scale; the whole step if it has at most four words; of the step before, its words, its
    beginning, its end and its length; of the one before that, its beginning and end; of the step behind, its words and
    its beginning.
    """
    n = len(tokens)
    lengths = np.array([max(len(step), 1) for step in tokens])
    words = [token for step in tokens for token in (step or [_END])]
    try:
        flat = np.array(list(map(_hashes.__getitem__, words)), np.uint64)
    except KeyError:  # a new word
        flat = np.array([_hash(word) for word in words], np.uint64)
    stops = np.cumsum(lengths)
    starts = stops - lengths
    step_of = np.repeat(np.arange(n), lengths)
    end = np.uint64(_hash(_END))

    def nth(k: int) -> NDArray[np.uint64]:  # the k-th word of each step, counted from behind where k < 0
        at = starts + k if k >= 0 else stops + k
        inside = (at < stops) & (at >= starts)
        return np.where(inside, flat[np.clip(at, 0, len(flat) - 1)], end)

    first, second, third, last, last_two = nth(0), nth(1), nth(2), nth(-1), _mix(nth(-2), nth(-1), 0)
    pair, triple = _mix(first, second, 0), _mix(_mix(first, second, 0), third, 0)
    size = np.log2(lengths + 1).round(1).astype(np.uint64)
    follows = np.flatnonzero(np.diff(step_of) == 0)
    short = np.flatnonzero(lengths <= 4)
    whole = _mix(_mix(first, second, 0), _mix(third, nth(3), 0), 0)
    steps = np.arange(n)

    def before(values: NDArray[np.uint64], by: int) -> NDArray[np.uint64]:
        edge = np.full(abs(by), _hash(_START) if by > 0 else _hash(_END), np.uint64)
        return np.concatenate([edge, values])[:n] if by > 0 else np.concatenate([values, edge])[-n:]

    inner = step_of < n - 1  # words of a step serve the next step as context, and the one before
    outer = step_of > 0
    parts = [
        (step_of, _mix(flat, flat, 1)),
        (step_of[follows], _mix(flat[follows], flat[follows + 1], 2)),
        (steps[short], _mix(whole[short], size[short], 3)),
        (step_of[inner] + 1, _mix(flat[inner], flat[inner], 4)),
        (step_of[outer] - 1, _mix(flat[outer], flat[outer], 5)),
    ]
    own = (first, second, third, pair, triple, last, last_two, size)
    context = [before(values, 1) for values in (first, pair, last, size)]
    context += [before(values, 2) for values in (first, pair, last)]
    context += [before(values, -1) for values in (first, pair)]
    parts += [(steps, _mix(values, values, 10 + i)) for i, values in enumerate((*own, *context))]
    keys = np.concatenate([rows * N_BUCKETS + (values % N_BUCKETS).astype(np.int64) for rows, values in parts])
    keys.sort()
    keys = keys[np.diff(keys, prepend=-1) > 0]
    return keys // N_BUCKETS, keys % N_BUCKETS


def _mix(a: NDArray[np.uint64], b: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """A hash of two hashes and the number of the feature (multiply and shift, as in splitmix64)."""
    x = (
        a * np.uint64(0x9E3779B97F4A7C15)
        + b * np.uint64(0xC2B2AE3D27D4EB4F)
        + np.uint64(salt * 0x165667B19E3779F9 % 2**64)
    )
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return x ^ (x >> np.uint64(31))


_hashes: dict[str, int] = {}


def _hash(token: str) -> int:
    if (found := _hashes.get(token)) is None:
        if len(_hashes) > 200_000:  # hostile text has endlessly many words
            _hashes.clear()
        found = _hashes[token] = zlib.crc32(token.encode("utf-8", "surrogatepass"))
    return found


class Weights(NamedTuple):
    """A linear model over the features: one column an output."""

    weights: NDArray[np.float32]  # (N_BUCKETS, outputs)
    bias: NDArray[np.float32]


def load_weights(name: str, outputs: Sequence[str]) -> Weights:
    """The weights in a file of the package, which must be those of the named outputs."""
    with files("cotlens").joinpath(name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        if tuple(arrays["kinds"].tolist()) != tuple(outputs):
            raise ValueError(f"{name} was fitted for other outputs; run trainers/fit_{name.removesuffix('.npz')}.py")
        return Weights(arrays["weights"].astype(np.float32), arrays["bias"].astype(np.float32))


@cache
def reflect_weights() -> Weights:
    """The weights of the kinds."""
    return load_weights("reflect.npz", [kind.value for kind in KINDS])


_BLOCK = 20_000  # steps that are looked at once, so that memory does not grow with a trace


def feature_sums(tokens: Sequence[Sequence[str]], *models: Weights) -> list[NDArray[np.float64]]:
    """For each model the (steps, outputs) sums of the weights of every step's features; features are made once."""
    parts: list[list[NDArray[np.float64]]] = [[] for _ in models]
    for start in range(0, len(tokens), _BLOCK):
        first, stop = max(start - 2, 0), min(start + _BLOCK, len(tokens))  # with the steps that are context
        rows, buckets = features(tokens[first : stop + 1])
        firsts = np.flatnonzero(np.diff(rows, prepend=-1))
        for part, (weights, bias) in zip(parts, models, strict=True):
            sums = np.add.reduceat(weights[buckets], firsts, axis=0, dtype=np.float64) + bias.astype(np.float64)
            part.append(sums[start - first : stop - first])
    return [np.concatenate(part) for part in parts]


# --- language --------------------------------------------------------------------------------------------------

# Frequent words of English that are not words of Spanish, French, German, Italian or Portuguese.
_ENGLISH_TEXT = """
    the of and to is that it this are for with be have then which what but can need let let's we you they from would
    should not by there their
"""
_ENGLISH = frozenset(_ENGLISH_TEXT.split())
# Cyrillic to Arabic, the scripts of India and south-east Asia, kana, Chinese, Hangul; not Greek, which is mathematics.
_OTHER_SCRIPT = re.compile(r"[\u0400-\u06ff\u0900-\u0eff\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_ACCENTED = re.compile(r"[À-ÖØ-öø-ž¿¡]")
_WINDOW = 10  # steps to each side that are judged together
_LEAST_WORDS = 20
_LEAST_SHARE = 0.03  # English has ten times this, the other languages next to nothing


def _is_word(token: str) -> bool:
    return len(token) > 1 and token != "..."


def is_english(texts: Sequence[str], tokens: Sequence[Sequence[str]] | None = None) -> NDArray[np.bool_]:
    """Whether each step stands among English: by the share of function words in the steps around it.

    Where that cannot tell (a page of formulas, terse notes), the whole trace decides, and a trace without words counts
    as English. Steps in which letters of another script outnumber Latin words are not English.
    """
    tokens = tokens if tokens is not None else [tokenize(text) for text in texts]
    words = np.array([sum(map(_is_word, step)) for step in tokens])
    english = np.array([sum(map(_ENGLISH.__contains__, step)) for step in tokens])
    accented = np.array([0 if text.isascii() else len(_ACCENTED.findall(text)) for text in texts])
    foreign = np.array([sum(map(bool, map(_OTHER_SCRIPT.match, step))) for step in tokens])

    def around(values: NDArray[np.int64]) -> NDArray[np.int64]:
        total = np.concatenate([[0], np.cumsum(values)])
        at = np.arange(len(values))
        return total[np.minimum(at + _WINDOW + 1, len(values))] - total[np.maximum(at - _WINDOW, 0)]

    near_words, near_english = around(words), around(english)
    enough = near_english >= _LEAST_SHARE * near_words
    # Too few words to tell, or terse ones without an accent among them: the whole trace decides.
    unclear = (near_words < _LEAST_WORDS) | (around(accented) == 0)
    whole = english.sum() >= _LEAST_SHARE * words.sum() or words.sum() < _LEAST_WORDS
    return (enough | (unclear & whole)) & (foreign <= words)


# --- word lists ------------------------------------------------------------------------------------------------

WORD_LISTS: dict[str, tuple[str, ...]] = {
    # OPTML-Group/CyclicReflex (ICLR 2026; two authors of the main paper): matched there as single tokens.
    "cyclic_reflex": ("wait", "Wait", "but", "But", "Alternatively"),
    # OPTML-Group/Unlearn-R2MU (all three authors of the main paper).
    "r2mu": (
        "<think>", "Wait", "wait", "but", "Okay", "Hmm", "Albeit", "However", "But", "Yet", "Still", "Nevertheless",
        "Though", "Meanwhile", "Whereas",
    ),
    # Sixteen markers as papers on reflection use them, with their capitalised forms: this project's baseline.
    "markers16": tuple(
        form
        for word in (
            "wait", "hmm", "alternatively", "actually", "however", "double-check", "let me check", "let me verify",
            "verify", "recheck", "on second thought", "reconsider", "mistake", "not sure", "make sure", "check again",
        )
        for form in (word, word.capitalize())
    ),
}  # fmt: skip


def count_words(text: str, words: str | Iterable[str]) -> int:
    """Occurrences of the words in the text, case as given, with a word boundary wherever the word has a letter.

    Args:
        text: any text.
        words: name of one of `WORD_LISTS`, or words of your own. Of two words at the same place the longer counts.

    >>> count_words("Wait, but wait: a butter knife.", "cyclic_reflex")
    3
    """
    return len(_pattern(words if isinstance(words, str) else tuple(words)).findall(text))


@cache
def _pattern(words: str | tuple[str, ...]) -> re.Pattern[str]:
    if isinstance(words, str) and words not in WORD_LISTS:
        raise ValueError(f"unknown word list {words!r}; there are {', '.join(WORD_LISTS)}")
    listed = WORD_LISTS[words] if isinstance(words, str) else words
    ordered = sorted(set(listed) - {""}, key=len, reverse=True)
    return re.compile("|".join(_bounded(word) for word in ordered) or r"(?!)")


def _bounded(word: str) -> str:
    """First the word's first character, then the boundary before it: the engine can skip to candidates."""
    before = rf"(?<!\w{re.escape(word[0])})" if word[0].isalnum() else ""
    after = r"\b" if word[-1].isalnum() else ""
    return re.escape(word[0]) + before + re.escape(word[1:]) + after


def word_token_ids(tokenizer: Any, words: str | Iterable[str]) -> dict[int, str]:
    """Token ids that stand for a word by themselves, in its bare form and with a space before it.

    Counting with the bare form only, as code that asks a tokenizer for the id of a word does, misses most occurrences,
    which have a space before them. Words of several tokens have no id and are left out.

    Args:
        tokenizer: a Hugging Face tokenizer.
        words: as in `count_words`.
    """
    listed = WORD_LISTS[words] if isinstance(words, str) else tuple(words)
    found = {}
    for word in listed:
        for form in (word, " " + word):
            ids = tokenizer.encode(form, add_special_tokens=False)
            if len(ids) == 1:
                found[ids[0]] = form
    return found


def count_token_ids(token_ids: Sequence[int], ids: Iterable[int]) -> int:
    """How many of the token ids are among `ids`."""
    return int(np.isin(np.asarray(token_ids, np.int64), np.fromiter(ids, np.int64)).sum())


# --- dynamics --------------------------------------------------------------------------------------------------


def reflection_dynamics(steps: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """One row per trace: how much it reflects, how deeply, and where.

    Args:
        steps: a step table.
        traces: the trace table it belongs to; its columns come back in front.

    Returns:
        The trace table with, for each trace,

        - `n_reflect`: reflecting steps, of `n_known` steps whose language the classifier knows (`n_known_chars` long);
        - `any_reflect`: whether there is any; `share_reflect`: n_reflect / n_known;
        - `reflect_per_1000_chars`, `reflect_per_1000_tokens`: of thinking; tokens are NaN where the source has none;
        - `longest_run`: most reflecting steps in a row; `n_episodes`: maximal runs; `revisits`: returns to reflecting
          after having gone on, max(n_episodes - 1, 0); `mean_gap`: mean number of steps between episodes;
        - `first_reflect`: position of the first reflecting step;
        - `n_judged`, `n_changed`: pairs of answers stated before and after reflecting, and those that differ.

        Everything is NaN for a trace without thinking, or none in a known language; so are the last two in a light run,
        which holds no answers. Rates count the characters and tokens of steps of known language only.
    """
    missing = {"trace_id", "start", "stop", "position", "is_reflection"} - set(steps)
    if missing:
        raise ValueError(f"the step table has no {', '.join(sorted(missing))}; analyze the traces again")
    if traces["trace_id"].duplicated().any():
        raise ValueError("a trace id occurs twice: ids are unique within a run, so join the tables run by run")
    traces = traces.drop(columns=[name for name in (*_DYNAMICS, *_RATES) if name in traces])
    ordered = steps.sort_values(["trace_id", "step"]) if "step" in steps else steps
    rows = {key: _trace_dynamics(part) for key, part in ordered.groupby("trace_id", sort=False)}
    found = pd.DataFrame.from_dict(rows, orient="index", columns=[*_DYNAMICS, *_RATES]).astype(float)
    return traces.merge(found, left_on="trace_id", right_index=True, how="left")


_RATES = ("reflect_per_1000_chars", "reflect_per_1000_tokens")
_DYNAMICS = (
    "n_known", "n_known_chars", "n_reflect", "any_reflect", "share_reflect", "longest_run", "n_episodes", "revisits",
    "mean_gap", "first_reflect", "n_judged", "n_changed",
)  # fmt: skip


def _trace_dynamics(part: pd.DataFrame) -> list[Any]:
    known = part["is_reflection"].notna().to_numpy()
    if not known.any():
        return [np.nan] * (len(_DYNAMICS) + len(_RATES))
    flags = part["is_reflection"].eq(True).to_numpy()  # a step of unknown language breaks a run
    runs = group_runs(flags.tolist())
    gaps = [b.start - a.stop for a, b in pairwise(runs)]
    judged, changed = _changes(part["answer"].fillna("").tolist(), runs) if "answer" in part else (np.nan, np.nan)
    chars = (part["stop"] - part["start"]).to_numpy(float)[known].sum()
    tokens = np.nan
    if "token_start" in part:
        tokens = (part["token_stop"] - part["token_start"]).to_numpy(float)[known].sum()
    return [
        known.sum(),
        chars,
        flags.sum(),
        float(flags.any()),
        flags.sum() / known.sum(),
        max((run.length for run in runs), default=0),
        len(runs),
        max(len(runs) - 1, 0),
        float(np.mean(gaps)) if gaps else np.nan,
        part["position"].to_numpy()[flags.argmax()] if flags.any() else np.nan,
        judged,
        changed,
        1000 * flags.sum() / chars,
        1000 * flags.sum() / tokens if tokens else np.nan,
    ]


def _changes(answers: Sequence[str], runs: Sequence[Span]) -> tuple[int, int]:
    """Pairs of answers, one stated before an episode and the next from its start on, and how many of them differ.

    Several episodes between the same two statements are one pair.
    """
    places = [i for i, answer in enumerate(answers) if answer]
    pairs = set()
    for run in runs:
        before, after = [i for i in places if i < run.start], [i for i in places if i >= run.start]
        if before and after:
            pairs.add((before[-1], after[0]))
    return len(pairs), sum(answers[i] != answers[j] for i, j in pairs)


_ANSWER = re.compile(
    r"\b[Aa]nswers?\b[^.\n=:]{0,30}?(?:\bis\b|\bbe\b|:|=)\s*(?:option\s+)?[*_$\"'“(\[\\ ]{0,5}"
    r"([-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?(?![\w^{*+×/]|[.,-]\d)|[A-E](?=[\s*).,:;$\"'”]|$)(?!['\"]?\s+[a-z]))"
)
_LONGEST_BOX = 200


def stated_answer(text: str) -> str:
    r"""The answer a step states: what it boxes, or the number or letter behind "answer is"; else "".

    Spaces and commas between digits are left out, so that the same answer reads the same.

    >>> stated_answer("So the answer is -1,000."), stated_answer(r"Thus \boxed{\frac{1}{2}}."), stated_answer("x = 3")
    ('-1000', '\\frac{1}{2}', '')
    """
    box = text.rfind("\\boxed{")
    found = _braced(text, box + 7) if box >= 0 else next(reversed(_ANSWER.findall(text[-_MAX_CHARS:])), "")
    return re.sub(r"(?<=\d),(?=\d{3})", "", found.replace("−", "-").replace(" ", ""))


def _braced(text: str, start: int) -> str:
    """What stands from `start` to the brace that closes there, or "" if none does nearby."""
    depth = 1
    for at in range(start, min(len(text), start + _LONGEST_BOX)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not depth:
            return text[start:at]
    return ""


def transitions(steps: pd.DataFrame) -> pd.DataFrame:
    """How often a step of one kind (row) is followed by one of another (column) in a trace; unknown kinds break it."""
    following = steps.groupby("trace_id", sort=False)["kind"].shift(-1)
    pairs = pd.DataFrame({"kind": steps["kind"], "next": following})
    pairs = pairs[(pairs["kind"] != "") & (pairs["next"].fillna("") != "")]
    names = [kind.value for kind in KINDS]
    return pd.crosstab(pairs["kind"], pairs["next"]).reindex(index=names, columns=names, fill_value=0)
