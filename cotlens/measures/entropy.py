"""Token entropy by trace, step, position and word, and around the starts of reflection.

Each function takes tables of a run (traces, steps, and the scores of one model) and returns a
table; `stats` puts intervals on it and `plots` draws it. Every function works a shard at a time, so
a corpus of any size fits.
"""

from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cotlens.measures.groups import need_columns
from cotlens.measures.scored import (
    ScoredTrace,
    belongs_to,
    first_words,
    has_scores,
    mean_scored,
    scored_only,
    scored_steps,
    scored_traces,
    share_above,
    think_spans,
)
from cotlens.stats.bootstrap import Floats, Indices
from cotlens.text.tokens import token_ranges


def entropy_threshold(scores: pd.DataFrame, share: float = 0.8) -> float:
    """Entropy in nats that `share` of all scored tokens do not exceed (Hyndman and Fan's type 7).

    Taken from the base model's scores, it says which tokens of any checkpoint count as
    high-entropy: the top fifth at the default, as in Wang et al. 2025 (arXiv 2506.01939).

    Args:
        scores: a score table.
        share: from 0 to 1.

    Raises:
        ValueError: if no token is scored.
    """
    entropies = [np.zeros(0)]
    for cell in scores["entropy"]:
        if cell is not None:
            entropies.append(cell)

    values = scored_only(np.concatenate(entropies))
    if not len(values):
        raise ValueError("no token is scored: there is no threshold to take")
    return float(np.quantile(values, share))


def step_entropy(
    steps: pd.DataFrame, scores: pd.DataFrame, *, high: float = np.nan
) -> pd.DataFrame:
    """The step table with the scores of each step's tokens.

    A token belongs to the step that holds its first character that is no white space (see
    `text.tokens`). Added columns: `n_scored`, `entropy_mean`, `entropy_max`, `entropy_first` (of
    the token with the step's first word, where the reasoning may fork), `share_high` (of its tokens
    above `high`), and `kl_mean` where there is a reference. NaN: the step has no scored token.

    Args:
        steps: a step table.
        scores: a score table of the same traces.
        high: threshold of a high-entropy token, nats; see `entropy_threshold`.
    """
    names = ["n_scored", "entropy_mean", "entropy_max", "entropy_first", "share_high"]
    if has_scores(scores, "kl"):
        names.append("kl_mean")

    # Rows of the step table stay NaN where a trace has no scores.
    statistics = np.full((len(steps), len(names)), np.nan)
    for trace, rows, ranges in scored_steps(steps, scores):
        words = first_words(trace, ranges)
        for row, (first, stop), word in zip(rows, ranges, words, strict=True):
            step = _step_statistics(trace, first, stop, word, high)
            statistics[row] = step[: len(names)]

    columns = dict(zip(names, statistics.T, strict=True))
    return steps.assign(**columns)


def _step_statistics(
    trace: ScoredTrace, first: int, stop: int, word: int, high: float
) -> tuple[float, ...]:
    """n_scored, mean, max, that of `word`, share above `high` and mean KL of a range of tokens."""
    entropies = trace.columns["entropy"][first:stop]
    scored = scored_only(entropies)
    if not len(scored):
        return (0, np.nan, np.nan, np.nan, np.nan, np.nan)

    kl = np.nan
    if "kl" in trace.columns:
        kl = mean_scored(trace.columns["kl"][first:stop])
    return (
        len(scored),
        scored.mean(),
        scored.max(),
        trace.columns["entropy"][word],
        share_above(scored, high),
        kl,
    )


def trace_entropy(
    traces: pd.DataFrame, steps: pd.DataFrame, scores: pd.DataFrame, *, high: float = np.nan
) -> pd.DataFrame:
    """The trace table with mean entropies of its parts, in nats, each over tokens.

    Added columns: `n_scored` tokens; `entropy_think` and `entropy_answer`; `entropy_reflect` and
    `entropy_other` (steps that reflect, and that do not, of known language); `share_high` of the
    thinking's tokens above `high`; `kl_think` and `reverse_kl_think` where there is a reference.
    NaN: the trace has no such token.

    Args:
        traces: a trace table.
        steps: the step table of the same traces.
        scores: a score table of the same traces.
        high: threshold of a high-entropy token, nats; see `entropy_threshold`.
    """
    need_columns(traces, "trace_id", "think_spans", "answer_start", "answer_stop")
    divergences = [name for name in ("kl", "reverse_kl") if has_scores(scores, name)]
    columns = [
        "n_scored",
        "entropy_think",
        "entropy_answer",
        "entropy_reflect",
        "entropy_other",
        "share_high",
    ]
    columns += [f"{name}_think" for name in divergences]

    # Where the parts of each trace lie.
    spans_of = think_spans(traces)
    answer_starts = dict(zip(traces["trace_id"], traces["answer_start"], strict=True))
    answer_stops = dict(zip(traces["trace_id"], traces["answer_stop"], strict=True))
    scored_steps = step_entropy(steps, scores, high=high)
    steps_of = dict(iter(scored_steps.groupby("trace_id", sort=False)))

    rows = {}
    for trace in scored_traces(scores):
        key = trace.trace_id
        if key not in spans_of:
            continue

        entropy = trace.columns["entropy"]
        is_think = belongs_to(trace, spans_of[key])
        answer = {"start": answer_starts[key], "stop": answer_stops[key]}
        is_answer = belongs_to(trace, [answer])

        row = {
            "n_scored": len(scored_only(entropy)),
            "entropy_think": mean_scored(entropy[is_think]),
            "entropy_answer": mean_scored(entropy[is_answer]),
            **_reflection_means(steps_of.get(key)),
            "share_high": share_above(entropy[is_think], high),
        }
        for name in divergences:
            row[f"{name}_think"] = mean_scored(trace.columns[name][is_think])
        rows[key] = row

    # Columns of an earlier call are replaced.
    found = pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype(float)
    stale = [name for name in columns if name in traces]
    return traces.drop(columns=stale).merge(
        found,
        left_on="trace_id",
        right_index=True,
        how="left",
    )


def _reflection_means(steps: pd.DataFrame | None) -> dict[str, float]:
    """Mean entropy per token of one trace's steps that reflect, and of those that do not."""
    if steps is None:
        return {"entropy_reflect": np.nan, "entropy_other": np.nan}

    # Steps of unknown language are in neither mean.
    scored = steps[steps["n_scored"] > 0]
    reflects = scored["is_reflection"].astype("boolean")
    return {
        "entropy_reflect": _token_mean(scored[reflects.fillna(False)]),
        "entropy_other": _token_mean(scored[(~reflects).fillna(False)]),
    }


def _token_mean(steps: pd.DataFrame) -> float:
    """Mean entropy over the tokens of steps; NaN for none."""
    n_tokens = steps["n_scored"].sum()
    if not n_tokens:
        return np.nan
    total = (steps["entropy_mean"] * steps["n_scored"]).sum()
    return total / n_tokens


def position_entropy(
    traces: pd.DataFrame, scores: pd.DataFrame, *, bins: int = 20, column: str = "entropy"
) -> pd.DataFrame:
    """Mean score of each trace's thinking by relative position.

    Every trace then weighs the same in a mean over traces, however long it is.

    Args:
        traces: a trace table.
        scores: a score table of the same traces.
        bins: equal parts of the thinking's tokens.
        column: `entropy`, `kl`, `logprob` or another column of numbers per token.

    Returns:
        One row per trace and bin that has a scored token: trace_id, position (middle of the bin, 0
        to 1), value, n (tokens).
    """
    need_columns(traces, "trace_id", "think_spans")
    spans_of = think_spans(traces)
    rows = []
    for trace in scored_traces(scores, column):
        spans = spans_of.get(trace.trace_id, ())
        is_think = belongs_to(trace, spans)
        values = trace.columns[column][is_think]

        # Unscored tokens take a place, but are in no mean.
        n_tokens = len(values)
        bin_of = np.arange(n_tokens) * bins // max(n_tokens, 1)
        is_scored = ~np.isnan(values)
        bin_of = bin_of[is_scored]
        counts = np.bincount(bin_of, minlength=bins)
        sums = np.bincount(bin_of, values[is_scored], minlength=bins)

        for number in np.flatnonzero(counts):
            n = counts[number]
            middle = (number + 0.5) / bins
            row = (trace.trace_id, middle, sums[number] / n, n)
            rows.append(row)

    return pd.DataFrame(rows, columns=["trace_id", "position", "value", "n"])


def reflection_entropy(
    steps: pd.DataFrame, scores: pd.DataFrame, *, reach: int = 20, column: str = "entropy"
) -> pd.DataFrame:
    """Mean score around the starts of steps, token by token, where reflection begins and elsewhere.

    A step is an onset if it reflects and the step before it does not. The comparison is with steps
    that do not reflect and follow one that does not. Offset 0 is the token with the step's
    first word. Left out are the first step of a trace, which follows none, steps of
    unknown language, steps without a token of their own, and tokens outside the steps.

    Args:
        steps: a step table.
        scores: a score table of the same traces.
        reach: tokens before and after the first one.
        column: `entropy`, `kl`, `logprob` or another column of numbers per token.

    Returns:
        One row per trace, kind and offset: trace_id, reflects, offset (tokens), value (mean over
        the trace's steps of the kind), n (steps).
    """
    need_columns(steps, "trace_id", "start", "stop", "is_reflection")
    steps_of = dict(iter(steps.groupby("trace_id", sort=False)))
    offsets = np.arange(-reach, reach + 1)
    rows = []
    for trace in scored_traces(scores, column):
        trace_steps = steps_of.get(trace.trace_id)
        if trace_steps is None or len(trace_steps) < 2:
            continue

        # Windows are cut from scores with margins, so that one at either end has all its offsets.
        spans = trace_steps[["start", "stop"]].to_numpy()
        ranges = token_ranges(trace.starts, trace.words, spans)
        values = _step_values(trace.columns[column], ranges)
        margin = np.full(reach, np.nan)
        padded = np.concatenate([margin, values, margin])

        # Whether each step but the first, and the step before it, reflects; NaN is unknown.
        is_reflection = trace_steps["is_reflection"].astype("boolean")
        flags = is_reflection.to_numpy(float, na_value=np.nan)
        flags_before = flags[:-1]
        flags_here = flags[1:]

        # The token with the first word of each of these steps.
        first_tokens = first_words(trace, ranges)[1:]
        has_token = first_tokens < ranges[1:, 1]
        can_count = (flags_before == 0) & has_token

        for reflects in (True, False):
            is_kind = flags_here == float(reflects)
            centres = first_tokens[is_kind & can_count] + reach
            windows = padded[centres[:, None] + offsets]
            sums = np.nansum(windows, axis=0)
            counts = (~np.isnan(windows)).sum(axis=0)

            for offset, total, n in zip(offsets, sums, counts, strict=True):
                if n:
                    row = (trace.trace_id, reflects, int(offset), total / n, n)
                    rows.append(row)

    return pd.DataFrame(rows, columns=["trace_id", "reflects", "offset", "value", "n"])


def _step_values(values: Floats, ranges: Indices) -> Floats:
    """Scores of the tokens of steps; NaN for those outside, such as tags between thoughts."""
    of_steps = np.full(len(values), np.nan)
    for first, stop in ranges:
        of_steps[first:stop] = values[first:stop]
    return of_steps


def entropy_survival(scores: pd.DataFrame, thresholds: ArrayLike) -> pd.DataFrame:
    """Tokens of each trace above each threshold: the upper tail of the distribution of entropy.

    Args:
        scores: a score table.
        thresholds: entropies, nats.

    Returns:
        One row per trace and threshold: trace_id, threshold, above (tokens), n (scored tokens).
    """
    limits = np.asarray(thresholds, float)
    rows = []
    for trace in scored_traces(scores, need_starts=False):
        values = np.sort(scored_only(trace.columns["entropy"]))
        n = len(values)
        if not n:
            continue

        n_above = n - np.searchsorted(values, limits, side="right")
        for threshold, above in zip(limits, n_above, strict=True):
            row = (trace.trace_id, threshold, above, n)
            rows.append(row)

    return pd.DataFrame(rows, columns=["trace_id", "threshold", "above", "n"])


def word_entropy(traces: pd.DataFrame, scores: pd.DataFrame, *, context: int = 40) -> pd.DataFrame:
    """Entropy at every distinct token of the thinking: one row per token text.

    `forking_tokens` adds up the tables of several shards. The text of a token is the stretch of the
    completion that it begins.

    Args:
        traces: a trace table with its `completion`.
        scores: a score table of the same traces.
        context: characters kept on either side of the occurrence with the highest entropy.

    Returns:
        word, n, n_traces, sum (of entropies), highest, before and after (its context).
    """
    need_columns(traces, "trace_id", "think_spans", "completion")
    spans_of = think_spans(traces)
    completions = dict(zip(traces["trace_id"], traces["completion"], strict=True))
    words: dict[str, _Word] = {}
    for trace in scored_traces(scores):
        if trace.trace_id not in spans_of:
            continue

        # Scored tokens of the thinking, and where the next token begins.
        text = completions[trace.trace_id]
        entropy = trace.columns["entropy"]
        stops = np.append(trace.starts[1:], len(text))
        is_think = belongs_to(trace, spans_of[trace.trace_id])
        tokens = np.flatnonzero(is_think & ~np.isnan(entropy))

        seen = set()
        for token in tokens:
            start = int(trace.starts[token])
            stop = int(stops[token])
            if start == stop:  # it ends inside a character, which the next token completes
                continue

            token_text = text[start:stop]
            word = words.get(token_text)
            if word is None:
                word = _Word(token_text)
                words[token_text] = word
            if token_text not in seen:
                seen.add(token_text)
                word.n_traces += 1

            value = float(entropy[token])
            word.n += 1
            word.sum += value
            if value > word.highest:
                word.highest = value
                word.before = text[max(0, start - context) : start]
                word.after = text[stop : stop + context]

    columns = ["word", "n", "n_traces", "sum", "highest", "before", "after"]
    row_of = attrgetter(*columns)
    rows = [row_of(word) for word in words.values()]
    return pd.DataFrame(rows, columns=columns)


@dataclass(slots=True)
class _Word:
    """The occurrences of one token text; its context is that of the highest entropy."""

    word: str
    n: int = 0
    n_traces: int = 0
    sum: float = 0.0
    highest: float = -1.0
    before: str = ""
    after: str = ""


def forking_tokens(words: pd.DataFrame, *, least: int = 10, most: int = 20) -> pd.DataFrame:
    """The tokens of the thinking with the highest mean entropy: where the model might have forked.

    Args:
        words: what `word_entropy` returned, of one shard or of several put together.
        least: occurrences that a token needs.
        most: tokens returned.

    Returns:
        word, n, n_traces, entropy (mean, nats), highest, before, after; highest mean first.
    """
    # The same token of several shards: counts add up.
    by_word = words.groupby("word")
    tokens = by_word[["n", "n_traces", "sum"]].sum()
    tokens["entropy"] = tokens["sum"] / tokens["n"]

    # The context is that of the highest entropy.
    ordered = words.sort_values("highest", ascending=False)
    highest = ordered.drop_duplicates("word").set_index("word")
    tokens = tokens.join(highest[["highest", "before", "after"]])

    is_frequent = tokens["n"] >= least
    frequent = tokens[is_frequent]
    ranked = frequent.sort_values(["entropy", "n"], ascending=False)
    columns = ["word", "n", "n_traces", "entropy", "highest", "before", "after"]
    return ranked.head(most).reset_index()[columns]
