"""What token scores say about reasoning: entropy per step, at reflections, by position, and at forking tokens.

Takes the tables of a run (traces, steps, and the scores of one model) and returns tables; `stats` puts intervals on
them and `plot` draws them. Every function works a shard at a time, so that a corpus of any size fits.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


# --- from the scores of a run ----------------------------------------------------------------------------------
def entropy_threshold(scores: pd.DataFrame, share: float = 0.8) -> float:
    """Entropy in nats that `share` of all scored tokens do not exceed (Hyndman and Fan's type 7).

    Taken from the base model's scores, it says which tokens of any checkpoint count as high-entropy: the top fifth
    at the default, as in Wang et al. 2025 (arXiv 2506.01939).
    """
    values = np.concatenate(
        [np.zeros(0), *(cell for cell in scores["entropy"] if cell is not None)]
    )
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("no token is scored: there is no threshold to take")
    return float(np.quantile(values, share))


def step_entropy(
    steps: pd.DataFrame, scores: pd.DataFrame, *, high: float = np.nan
) -> pd.DataFrame:
    """The step table with what the scoring model made of each step's tokens.

    A token belongs to the step in which it begins. Added columns: `n_scored`, `entropy_mean`, `entropy_max`,
    `entropy_first` (of the step's first token, where the reasoning may fork), `share_high` (of its tokens above
    `high`), and `kl_mean` where there is a reference. NaN: the step has no scored token.

    Args:
        steps: a step table.
        scores: a score table of the same traces.
        high: threshold of a high-entropy token, nats; see `entropy_threshold`.
    """
    _need(steps, "trace_id", "start", "stop")
    names = ["n_scored", "entropy_mean", "entropy_max", "entropy_first", "share_high"]
    names += ["kl_mean"] if _has(scores, "kl") else []
    found = np.full((len(steps), len(names)), np.nan)
    rows = steps.reset_index(drop=True).groupby("trace_id", sort=False).indices
    for one in _scored(scores):
        own = rows.get(one.trace_id, ())
        if not len(own):
            continue
        starts, stops = (
            np.searchsorted(one.starts, steps[name].to_numpy()[own]) for name in ("start", "stop")
        )
        values = [
            _statistics(one, first, last, high) for first, last in zip(starts, stops, strict=True)
        ]
        found[own] = np.array(values)[:, : len(names)]
    return steps.assign(**dict(zip(names, found.T, strict=True)))


def trace_entropy(
    traces: pd.DataFrame, steps: pd.DataFrame, scores: pd.DataFrame, *, high: float = np.nan
) -> pd.DataFrame:
    """The trace table with mean entropies of its parts, in nats, each over tokens.

    Added columns: `n_scored` tokens; `entropy_think` and `entropy_answer`; `entropy_reflect` and `entropy_other` (steps
    that reflect, and that do not, of known language); `share_high` of the thinking's tokens above `high`; `kl_think`
    and `reverse_kl_think` where there is a reference. NaN: the trace has no such token.

    Args:
        traces: a trace table.
        steps: the step table of the same traces.
        scores: a score table of the same traces.
        high: threshold of a high-entropy token, nats; see `entropy_threshold`.
    """
    _need(traces, "trace_id", "think_spans", "answer_start", "answer_stop")
    kinds = [name for name in ("kl", "reverse_kl") if _has(scores, name)]
    by_step = step_entropy(steps, scores, high=high)
    parts = dict(iter(by_step.groupby("trace_id", sort=False)))
    spans = _by_trace(traces, "think_spans", "answer_start", "answer_stop")
    rows = {}
    for one in _scored(scores):
        if one.trace_id not in spans:
            continue
        thinks, answer_start, answer_stop = spans[one.trace_id]
        think = _inside(one.starts, thinks)
        answer = (one.starts >= answer_start) & (one.starts < answer_stop)
        entropy = one.columns["entropy"]
        row = {
            "n_scored": int((~np.isnan(entropy)).sum()),
            "entropy_think": _mean(entropy[think]),
            "entropy_answer": _mean(entropy[answer]),
            **_by_reflection(parts.get(one.trace_id)),
            "share_high": _share_above(entropy[think], high),
        }
        rows[one.trace_id] = row | {
            f"{name}_think": _mean(one.columns[name][think]) for name in kinds
        }
    columns = [
        "n_scored",
        "entropy_think",
        "entropy_answer",
        "entropy_reflect",
        "entropy_other",
        "share_high",
    ]
    columns += [f"{name}_think" for name in kinds]
    found = pd.DataFrame.from_dict(rows, orient="index", columns=columns).astype(float)
    kept = traces.drop(columns=[name for name in columns if name in traces])
    return kept.merge(found, left_on="trace_id", right_index=True, how="left")


def position_entropy(
    traces: pd.DataFrame, scores: pd.DataFrame, *, bins: int = 20, column: str = "entropy"
) -> pd.DataFrame:
    """Mean score of each trace's thinking by relative position: one row per trace and bin that has a token.

    Every trace then weighs the same in a mean over traces, however long it is.

    Args:
        traces: a trace table.
        scores: a score table of the same traces.
        bins: equal parts of the thinking's tokens.
        column: `entropy`, `kl`, `logprob` or another column of numbers per token.

    Returns:
        trace_id, position (middle of the bin, 0 to 1), value, n (tokens).
    """
    _need(traces, "trace_id", "think_spans")
    spans = _by_trace(traces, "think_spans")
    rows = []
    for one in _scored(scores, column):
        values = one.columns[column][_inside(one.starts, *spans.get(one.trace_id, ((),)))]
        bin_of = (np.arange(len(values)) * bins) // max(len(values), 1)
        kept = ~np.isnan(values)
        counts = np.bincount(bin_of[kept], minlength=bins)
        sums = np.bincount(bin_of[kept], values[kept], minlength=bins)
        rows += [
            (one.trace_id, (i + 0.5) / bins, sums[i] / counts[i], counts[i])
            for i in np.flatnonzero(counts)
        ]
    return pd.DataFrame(rows, columns=["trace_id", "position", "value", "n"])


def reflection_entropy(
    steps: pd.DataFrame, scores: pd.DataFrame, *, reach: int = 20, column: str = "entropy"
) -> pd.DataFrame:
    """Mean score around the starts of steps, token by token: where reflection sets in, and where other steps begin.

    A step counts as an onset if it reflects and the step before it does not; the comparison is with steps that do not
    reflect and follow one that does not. Offset 0 is the step's first token. The first step has no step before it and
    is left out, like steps of unknown language; so are tokens outside the steps.

    Returns:
        One row per trace, kind and offset: trace_id, reflects, offset (tokens), value (mean over the trace's
        steps of the kind), n (steps).
    """
    _need(steps, "trace_id", "start", "stop", "is_reflection")
    groups = dict(iter(steps.groupby("trace_id", sort=False)))
    offsets = np.arange(-reach, reach + 1)
    rows = []
    for one in _scored(scores, column):
        part = groups.get(one.trace_id)
        if part is None or len(part) < 2:
            continue
        first, stop = np.searchsorted(one.starts, [part["start"].iloc[0], part["stop"].iloc[-1]])
        at = np.searchsorted(one.starts, part["start"].to_numpy())[1:]
        flags = part["is_reflection"].astype("boolean").astype(float).to_numpy(na_value=np.nan)
        now, before = flags[1:], flags[:-1]
        own_step = np.searchsorted(part["start"].to_numpy(), one.starts, side="right") - 1
        in_steps = (own_step >= 0) & (one.starts < part["stop"].to_numpy()[own_step])
        values = np.where(in_steps, one.columns[column], np.nan)[
            first:stop
        ]  # no tag or commentary between thoughts
        padded = np.concatenate([np.full(reach, np.nan), values, np.full(reach + 1, np.nan)])
        for reflects in (True, False):
            events = at[(now == float(reflects)) & (before == 0) & (at < stop)] - first + reach
            windows = (
                padded[events[:, None] + offsets] if len(events) else np.zeros((0, len(offsets)))
            )
            counts = (~np.isnan(windows)).sum(0)
            sums = np.nansum(windows, 0)
            rows += [
                (one.trace_id, reflects, int(offset), total / n, n)
                for offset, total, n in zip(offsets, sums, counts, strict=True)
                if n
            ]
    return pd.DataFrame(rows, columns=["trace_id", "reflects", "offset", "value", "n"])


def entropy_survival(scores: pd.DataFrame, thresholds: ArrayLike) -> pd.DataFrame:
    """Tokens of each trace above each threshold: one row per trace and threshold, with `above` and `n` (tokens)."""
    rows, thresholds = [], np.asarray(thresholds, float)
    for one in _scored(scores, need_starts=False):
        values = np.sort(one.columns["entropy"][~np.isnan(one.columns["entropy"])])
        above = len(values) - np.searchsorted(values, thresholds, side="right")
        rows += [
            (one.trace_id, t, a, len(values))
            for t, a in zip(thresholds, above, strict=True)
            if len(values)
        ]
    return pd.DataFrame(rows, columns=["trace_id", "threshold", "above", "n"])


def word_entropy(traces: pd.DataFrame, scores: pd.DataFrame, *, context: int = 40) -> pd.DataFrame:
    """Entropy at every distinct token of the thinking: one row per token text.

    Shards are summed by `forking_tokens`. The text of a token is the stretch of the completion that it begins.

    Args:
        traces: a trace table with its `completion`.
        scores: a score table of the same traces.
        context: characters kept on either side of the occurrence with the highest entropy.

    Returns:
        word, n, n_traces, sum (of entropies), highest, before and after (its context).
    """
    _need(traces, "trace_id", "think_spans", "completion")
    texts = _by_trace(traces, "completion", "think_spans")
    words: dict[str, list] = {}
    for one in _scored(scores):
        if one.trace_id not in texts:
            continue
        text, spans = texts[one.trace_id]
        entropy, ends = one.columns["entropy"], np.append(one.starts[1:], len(text))
        seen = set()
        for i in np.flatnonzero(_inside(one.starts, spans) & ~np.isnan(entropy)):
            start, stop, value = int(one.starts[i]), int(ends[i]), float(entropy[i])
            if start == stop:  # ends inside a character, which the next token completes
                continue
            word = text[start:stop]
            row = words.setdefault(word, [0, 0, 0.0, -1.0, "", ""])
            row[0] += 1
            row[1] += word not in seen
            row[2] += value
            seen.add(word)
            if value > row[3]:
                row[3:] = value, text[max(0, start - context) : start], text[stop : stop + context]
    columns = ["n", "n_traces", "sum", "highest", "before", "after"]
    found = pd.DataFrame.from_dict(words, orient="index", columns=columns)
    return found.rename_axis("word").reset_index()


def forking_tokens(words: pd.DataFrame, *, least: int = 10, most: int = 20) -> pd.DataFrame:
    """The tokens of the thinking with the highest mean entropy before them: where the model might have gone elsewhere.

    Args:
        words: what `word_entropy` returned, of one shard or of several put together.
        least: occurrences that a token needs.
        most: tokens returned.

    Returns:
        word, n, n_traces, entropy (mean, nats), highest, before, after; highest mean first.
    """
    top = words.sort_values("highest", ascending=False).drop_duplicates("word").set_index("word")
    sums = words.groupby("word")[["n", "n_traces", "sum"]].sum()
    table = sums.assign(entropy=sums["sum"] / sums["n"]).join(top[["highest", "before", "after"]])
    table = table[table["n"] >= least].sort_values(["entropy", "n"], ascending=False).head(most)
    return table.drop(columns="sum").reset_index()[
        ["word", "n", "n_traces", "entropy", "highest", "before", "after"]
    ]


# --- how it is done --------------------------------------------------------------------------------------------
class _Scored(NamedTuple):
    """One trace's token scores, with the place of each token in the completion."""

    trace_id: str
    starts: NDArray[np.intp]
    columns: dict[str, Floats]


def _scored(
    scores: pd.DataFrame, column: str = "entropy", need_starts: bool = True
) -> Iterator[_Scored]:
    """The traces that have scores and whose tokens have a place in the text."""
    names = [
        name
        for name in dict.fromkeys(("entropy", "kl", "reverse_kl", column))
        if _has(scores, name)
    ]
    _need(scores, "trace_id", "token_starts", "error", column)
    if column not in names:
        raise ValueError(
            f"the scores have no {column}: it needs a reference or top-k words when they are made"
        )
    for row in scores[["trace_id", "token_starts", "error", *names]].itertuples(index=False):
        if row.error or (row.token_starts is None and need_starts):
            continue
        columns = {
            name: np.asarray(getattr(row, name), float)
            for name in names
            if getattr(row, name) is not None
        }
        starts = np.zeros(0) if row.token_starts is None else row.token_starts
        yield _Scored(str(row.trace_id), np.asarray(starts, np.intp), columns)


def _by_trace(traces: pd.DataFrame, *columns: str) -> dict[str, tuple[Any, ...]]:
    """Trace id -> its values. A summary of hidden thinking, in traces that say what theirs is, is no thinking here."""
    if "think_spans" in columns and "reasoning" in traces:
        spans = zip(traces["think_spans"], traces["reasoning"] == "verbatim", strict=True)
        own = pd.Series(
            [of_trace if is_own else () for of_trace, is_own in spans],
            index=traces.index,
            dtype=object,
        )
        traces = traces.assign(think_spans=own)
    rows = zip(*(traces[name] for name in columns), strict=True)
    return dict(zip(traces["trace_id"], rows, strict=True))


def _has(scores: pd.DataFrame, column: str) -> bool:
    return column in scores and bool(scores[column].notna().any())


def _inside(starts: NDArray[np.intp], spans: Iterable[Any]) -> NDArray[np.bool_]:
    inside = np.zeros(len(starts), bool)
    for span in spans:
        inside |= (starts >= span["start"]) & (starts < span["stop"])
    return inside


def _statistics(one: _Scored, first: int, stop: int, high: float) -> tuple[float, ...]:
    """n_scored, mean, max, first, share above `high`, mean KL of the tokens in a range."""
    values = one.columns["entropy"][first:stop]
    known = values[~np.isnan(values)]
    if not len(known):
        return (0, *[np.nan] * 5)
    kl = _mean(one.columns["kl"][first:stop]) if "kl" in one.columns else np.nan
    return len(known), known.mean(), known.max(), values[0], _share_above(known, high), kl


def _by_reflection(steps: pd.DataFrame | None) -> dict[str, float]:
    if steps is None:
        return {"entropy_reflect": np.nan, "entropy_other": np.nan}
    known = steps[steps["n_scored"] > 0]
    flags = known["is_reflection"].astype("boolean")
    found = {}
    for name, chosen in (("entropy_reflect", flags), ("entropy_other", ~flags)):
        part = known[chosen.fillna(False).to_numpy(bool)]
        n = part["n_scored"].sum()
        found[name] = (part["entropy_mean"] * part["n_scored"]).sum() / n if n else np.nan
    return found


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _share_above(values: Floats, high: float) -> float:
    known = values[~np.isnan(values)]
    return float((known > high).mean()) if len(known) and not np.isnan(high) else np.nan


def _need(table: pd.DataFrame, *columns: str) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise ValueError(
            f"the table has no column {', '.join(missing)}; its columns are {', '.join(map(str, table))}"
        )
