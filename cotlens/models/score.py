"""score_tokens: the entropy, log-prob, rank and KL of every token of traces."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cotlens.models.batches import in_batches
from cotlens.models.encode import Encoded, encode_trace
from cotlens.models.load import Model
from cotlens.models.scores import Scores, score_hidden
from cotlens.text.tokens import word_starts
from cotlens.trace import Trace, TraceError

TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}

_Long = Literal["error", "window"]
_OnError = Literal["stop", "skip"]

# Of one trace, by column: (n, ...) float32 for its n scored tokens; and what follows n in a shape.
_Columns = dict[str, NDArray[Any]]
_Shapes = dict[str, tuple[int, ...]]


class ScoredTrace(NamedTuple):
    """The scores of one completion; every array is parallel to `token_ids`. Unscored is NaN.

    Attributes:
        trace_id: the trace.
        token_ids: of the completion, as they were scored.
        token_starts: code point of the completion at which each token begins; None if unknown.
        values: the columns of `runs.schema.SCORE_COLUMNS` that hold one float32 (or k) per token.
        encoding: `ids` from the source, or `text` encoded here.
        context: where the tokens before the completion come from: `ids` of the source, the chat
            `template`, a prompt taken `verbatim` because it was rendered already or there is no
            template, or `none`.
        exact: whether the ids decode to the completion, character for character.
        n_drift: of a text: tokens that differ when prompt and completion are encoded as one string.
        windowed: whether the trace exceeds the context and was scored in overlapping windows.
        error: why the trace has no scores; empty if it has.
        word_starts: each token's first character that is no white space (see `text.tokens`); None
            if unknown.
    """

    trace_id: str
    token_ids: tuple[int, ...]
    token_starts: tuple[int, ...] | None
    values: _Columns
    encoding: str = ""
    context: str = ""
    exact: bool | None = None
    n_drift: int | None = None
    windowed: bool = False
    error: str = ""
    word_starts: tuple[int, ...] | None = None


class ScoredTraces(list[ScoredTrace]):
    """Scored traces, in order."""

    def table(self) -> pd.DataFrame:
        """One row per trace: `ScoredTrace`'s fields, and a column for each of its values.

        The entropy measures take it as they take `run.score_table()`, whose columns it has as far
        as they were asked for. A value is an array with one number (or k) per token.
        """
        rows = []
        for scored in self:
            row = scored._asdict()
            row |= row.pop("values")
            rows.append(row)
        return pd.DataFrame(rows)


def score_tokens(
    model: Model,
    traces: Sequence[Trace],
    *,
    reference: Model | None = None,
    temperature: float = 1.0,
    top_k: int = 0,
    retokenize: bool = False,
    long: _Long = "error",
    on_error: _OnError = "stop",
    tokens_per_batch: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> ScoredTraces:
    """Scores of every token of every completion under a model, in the order of the traces.

    `.table()` of the result goes into the entropy measures: `step_entropy(step_table(traces),
    score_tokens(model, traces).table())`.

    Entry i describes the model's distribution at token i, given all tokens before it: raw logits,
    divided by `temperature`. Token i was drawn from it only if this model drew it that way. A first
    token that nothing precedes has no distribution: its entry is NaN.

    Args:
        model: the model.
        traces: held in memory; `run.score` scores a run directory shard by shard.
        reference: a second model with the same vocabulary. It adds the two KL divergences, and its
            own entropy and log-prob.
        temperature: the logits are divided by it.
        top_k: keep this many of the likeliest words; 1 or more adds their mass, 2 or more the
            margin between the first two.
        retokenize: ignore a trace's own token ids and encode its text: for a model of another
            family.
        long: what to do with a trace longer than the context. `error` refuses it. `window` scores
            it in windows that overlap by half, so that every token has at least half a context
            before it; such scores are marked `windowed`.
        on_error: `stop` raises; `skip` marks a trace that cannot be scored and goes on.
        tokens_per_batch: padded tokens that are computed together; halved when memory runs out.
        progress: called with the number of tokens done since the last call.

    Raises:
        TraceError: for a trace that cannot be scored, unless `on_error` is `skip`; for a reference
            with another vocabulary or on another device.
        ValueError: for an unknown value of `long` or `on_error`.
    """
    _check_choice(long, get_args(_Long))
    _check_choice(on_error, get_args(_OnError))

    # Of two models the shorter context counts.
    context = model.context
    if reference is not None:
        _check_same_vocabulary(model, reference)
        context = min(context, reference.context)
    if retokenize:
        traces = [_without_tokens(trace) for trace in traces]

    # Why traces have no scores, by their numbers.
    errors: dict[int, str] = {}

    def give_up(number: int, error: TraceError) -> None:
        if on_error == "stop":
            raise error
        errors[number] = str(error)

    # Encode every trace, and cut it into windows that fit the context.
    encoded: dict[int, Encoded] = {}
    windows: list[_Window] = []
    for number, trace in enumerate(traces):
        try:
            encoded[number] = _encode_checked(trace, model)
            if len(encoded[number].scored):
                windows += _cut_windows(number, trace, encoded[number], context, long)
            else:
                errors[number] = "the completion has no token"
        except TraceError as error:
            give_up(number, error)

    # Score the windows in batches of like length.
    shapes = _column_shapes(top_k, has_reference=reference is not None)
    values = {number: _blank_columns(shapes, len(encoded[number].scored)) for number in encoded}
    batches = in_batches(
        windows,
        lengths=[len(window.ids) for window in windows],
        budget=tokens_per_batch or TOKENS_PER_BATCH.get(model.device.type, 4096),
        work=partial(_score_batch, model, reference, temperature, top_k),
        alone=model.sees_length or (reference is not None and reference.sees_length),
    )
    for batch, scores in batches:
        if scores is None:
            (window,) = batch
            give_up(window.trace, _memory_error(traces[window.trace], window))
        else:
            _store_scores(scores, batch, values)
        if progress:
            progress(sum(len(window.positions) for window in batch))

    # Collect the results in the order of the traces.
    results = ScoredTraces()
    for number, trace in enumerate(traces):
        try:
            if number not in errors:
                _check_distributions(trace, encoded[number], values[number])
        except TraceError as error:
            give_up(number, error)

        if number in errors:
            result = _unscored(trace, encoded.get(number), shapes, errors[number])
        else:
            is_windowed = int(encoded[number].scored[-1]) >= context
            result = _scored(trace, encoded[number], values[number], is_windowed)
        results.append(result)
    return results


def _check_choice(value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"expected {' or '.join(allowed)}, got {value!r}")


def _check_same_vocabulary(model: Model, reference: Model) -> None:
    words = model.tokenizer and model.tokenizer.get_vocab()
    reference_words = reference.tokenizer and reference.tokenizer.get_vocab()
    tokenizers_differ = words and reference_words and words != reference_words
    if model.n_words != reference.n_words or tokenizers_differ:
        verb = "agree" if words == reference_words else "differ"
        raise TraceError(
            f"KL needs one vocabulary: {model.name} has {model.n_words:,} words, {reference.name} "
            f"{reference.n_words:,}, and their tokenizers {verb}"
        )

    if reference.device != model.device:
        raise TraceError(
            f"the model is on {model.device}, the reference on {reference.device}; load both on one"
        )


def _without_tokens(trace: Trace) -> Trace:
    return replace(trace, prompt_token_ids=None, token_ids=None, token_starts=None, logprobs=None)


def _encode_checked(trace: Trace, model: Model) -> Encoded:
    """The trace as token ids, all of which the model has."""
    prompt_ids = trace.prompt_token_ids or ()
    completion_ids = trace.token_ids or ()
    _check_ids((*prompt_ids, *completion_ids), trace, model)

    encoded = encode_trace(trace, model.tokenizer)
    _check_ids(encoded.ids, trace, model)
    return encoded


def _check_ids(ids: tuple[int, ...], trace: Trace, model: Model) -> None:
    if not ids:
        return
    least = min(ids)
    most = max(ids)
    if least < 0 or most >= model.n_words:
        wrong = least if least < 0 else most
        raise TraceError(
            f"trace {trace.id!r}: token id {wrong:,} is not among the {model.n_words:,} words "
            f"of {model.name}"
        )


class _Window(NamedTuple):
    """A stretch of one trace's token ids that fits the context, and the tokens to score in it.

    Attributes:
        trace: number of the trace.
        ids: the stretch.
        positions: where in `ids` the tokens to score are.
        scored: which of the trace's scored tokens these are.
    """

    trace: int
    ids: tuple[int, ...]
    positions: NDArray[np.intp]
    scored: slice


def _cut_windows(
    number: int, trace: Trace, encoded: Encoded, context: int, long: _Long
) -> list[_Window]:
    """One window, or several of a context's length, each half a context after the one before."""
    # What follows the last scored token does not matter.
    n_ids = int(encoded.scored[-1]) + 1
    if n_ids > context and long == "error":
        raise TraceError(
            f"trace {trace.id!r}: {n_ids:,} tokens with its prompt, but the model was made for "
            f"{context:,}; score it in overlapping windows (long='window', --long window), "
            "or leave it out"
        )

    # A window scores those tokens that the windows before it did not reach.
    windows = []
    half = context // 2
    first = _n_unpredicted(encoded)
    for start in range(0, max(1, n_ids - context + half), max(1, half)):
        stop = min(n_ids, start + context)
        end = int(np.searchsorted(encoded.scored, stop))
        if end > first:
            scored = slice(first, end)
            positions = encoded.scored[scored] - start
            windows.append(_Window(number, encoded.ids[start:stop], positions, scored))
        first = end
    return windows


def _n_unpredicted(encoded: Encoded) -> int:
    """1 if nothing precedes the first scored token, which then has no distribution; else 0."""
    return int(encoded.scored[0] == 0)


def _column_shapes(top_k: int, *, has_reference: bool) -> _Shapes:
    """The columns of a call, and the shape of what each holds for one token."""
    shapes: _Shapes = {"entropy": (), "logprob": (), "rank": (), "varentropy": ()}
    if top_k:
        shapes["top_ids"] = (top_k,)
        shapes["top_logprobs"] = (top_k,)
        shapes["top_mass"] = ()
    if top_k > 1:
        shapes["margin"] = ()
    if has_reference:
        shapes["kl"] = ()
        shapes["reverse_kl"] = ()
        shapes["reference_entropy"] = ()
        shapes["reference_logprob"] = ()
    return shapes


def _blank_columns(shapes: _Shapes, n_tokens: int) -> _Columns:
    columns = {}
    for name, shape in shapes.items():
        columns[name] = np.full((n_tokens, *shape), np.nan, np.float32)
    return columns


@torch.inference_mode()
def _score_batch(
    model: Model,
    reference: Model | None,
    temperature: float,
    top_k: int,
    batch: Sequence[_Window],
) -> Scores:
    """Scores of the tokens of a batch of windows, one window after the other."""
    # Pad on the right: in a causal model no token sees the padding.
    longest = max(len(window.ids) for window in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, window in enumerate(batch):
        ids[row, : len(window.ids)] = torch.tensor(window.ids)
    ids = ids.to(model.device)

    # Where the tokens to score are. Each is predicted by the state before it.
    n_scored = [len(window.positions) for window in batch]
    rows = np.repeat(np.arange(len(batch)), n_scored)
    positions = np.concatenate([window.positions for window in batch])
    rows = torch.tensor(rows, device=ids.device)
    positions = torch.tensor(positions, device=ids.device)
    targets = ids[rows, positions]

    reference_source = None
    if reference is not None:
        reference_hidden = reference.hidden(ids)[rows, positions - 1]
        reference_source = (reference_hidden, reference.head)
    return score_hidden(
        model.hidden(ids)[rows, positions - 1],
        targets,
        model.head,
        temperature=temperature,
        top_k=top_k,
        reference=reference_source,
    )


def _memory_error(trace: Trace, window: _Window) -> TraceError:
    return TraceError(f"trace {trace.id!r}: {len(window.ids):,} tokens do not fit into memory")


def _store_scores(scores: Scores, batch: Sequence[_Window], values: dict[int, _Columns]) -> None:
    """Copy the scores of a batch into the columns of its traces."""
    names = values[batch[0].trace].keys()
    for name in names:
        tensor = getattr(scores, name)
        column = tensor.float().cpu().numpy()

        first = 0
        for window in batch:
            stop = first + len(window.positions)
            trace_column = values[window.trace][name]
            trace_column[window.scored] = column[first:stop]
            first = stop


def _check_distributions(trace: Trace, encoded: Encoded, columns: _Columns) -> None:
    """Raise TraceError if a token that has a context has no entropy."""
    is_missing = np.isnan(columns["entropy"])
    if "reference_entropy" in columns:
        is_missing |= np.isnan(columns["reference_entropy"])

    first = _n_unpredicted(encoded)
    is_missing[:first] = False
    if is_missing.any():
        token = int(is_missing.argmax())
        raise TraceError(f"trace {trace.id!r}: the logits for token {token} are no distribution")


def _unscored(trace: Trace, encoded: Encoded | None, shapes: _Shapes, error: str) -> ScoredTrace:
    """The result of a trace without scores: its tokens, as far as they are known, and NaN."""
    if encoded is not None:
        n_tokens = len(encoded.scored)
        blank = _blank_columns(shapes, n_tokens)
        result = _scored(trace, encoded, blank, is_windowed=False)
        return result._replace(error=error)

    token_ids = trace.token_ids or ()
    n_tokens = len(token_ids)
    blank = _blank_columns(shapes, n_tokens)
    words = _word_starts(trace, trace.token_starts)
    return ScoredTrace(
        trace.id, token_ids, trace.token_starts, blank, error=error, word_starts=words
    )


def _scored(trace: Trace, encoded: Encoded, columns: _Columns, is_windowed: bool) -> ScoredTrace:
    return ScoredTrace(
        trace_id=trace.id,
        token_ids=tuple(encoded.ids[position] for position in encoded.scored),
        token_starts=encoded.token_starts,
        values=columns,
        encoding=encoded.encoding,
        context=encoded.context,
        exact=encoded.exact,
        n_drift=encoded.n_drift,
        windowed=is_windowed,
        word_starts=_word_starts(trace, encoded.token_starts),
    )


def _word_starts(trace: Trace, token_starts: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if token_starts is None:
        return None
    words = word_starts(trace.completion, token_starts)
    return tuple(words.tolist())
