"""score_tokens: the entropy, log-prob, rank and KL of every token of traces."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from cotlens.models.batches import in_batches
from cotlens.models.encode import Encoded, encode_trace
from cotlens.models.load import Model
from cotlens.models.scores import Scores, score_hidden
from cotlens.trace import Trace, TraceError

TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}


class ScoredTrace(NamedTuple):
    """The scores of one completion; every array is parallel to `token_ids`. Unscored is NaN.

    Attributes:
        trace_id: the trace.
        token_ids: of the completion, as they were scored.
        token_starts: code point of the completion at which each token begins, or None where that cannot be told.
        values: the columns of `table.SCORE_COLUMNS` that hold one float32 (or k of them) per token.
        encoding: `ids` from the source, or `text` encoded here.
        context: where the tokens before the completion come from: `ids` of the source, the chat `template`, a prompt
            taken `verbatim` because it was rendered already or there is no template, or `none`.
        exact: whether the ids decode to the completion, character for character.
        n_drift: of a text: tokens that come out otherwise when prompt and completion are encoded as one string.
        windowed: whether the trace was longer than the context and was scored in overlapping windows.
        error: why the trace has no scores; empty if it has.
    """

    trace_id: str
    token_ids: tuple[int, ...]
    token_starts: tuple[int, ...] | None
    values: dict[str, NDArray[Any]]
    encoding: str = ""
    context: str = ""
    exact: bool | None = None
    n_drift: int | None = None
    windowed: bool = False
    error: str = ""


# --- scoring ---------------------------------------------------------------------------------------------------
class _Window(NamedTuple):
    """A stretch of one trace's ids that fits the context, and the part of its scored tokens that it answers for."""

    trace: int
    start: int
    stop: int
    scored: slice

    @property
    def length(self) -> int:
        return self.stop - self.start


_Long = Literal["error", "window"]
_OnError = Literal["stop", "skip"]


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
) -> list[ScoredTrace]:
    """What a model makes of every token of every completion, in the order of the traces.

    Entry i describes the model's distribution at the place of token i, given all tokens before it: raw logits at
    temperature 1, unless told otherwise. It is what token i was drawn from if this model drew it that way. A first
    token that nothing precedes has no distribution: its entry is NaN.

    Args:
        model: the model.
        traces: held in memory; a run directory is scored shard by shard (`run.score`).
        reference: a second model with the same vocabulary: adds the two KL divergences, and its own entropy and
            log-prob.
        temperature: divides the logits.
        top_k: keep this many of the likeliest words; from 1 their mass, from 2 the margin of the first two.
        retokenize: leave a trace's own token ids aside and encode its text: for a model of another family.
        long: what to do with a trace longer than the context: refuse it, or score it in windows that overlap by half,
            so that every token has at least half a context before it; such scores are marked.
        on_error: `skip` marks a trace that cannot be scored and goes on.
        tokens_per_batch: padded tokens that are computed together; halved when memory runs out.
        progress: called with the number of tokens done since the last call.

    Raises:
        TraceError: for a trace that cannot be scored, unless it is to be skipped.
    """
    for given, allowed in ((long, get_args(_Long)), (on_error, get_args(_OnError))):
        if given not in allowed:
            raise ValueError(f"expected {' or '.join(allowed)}, got {given!r}")
    if reference is not None:
        _check_same_words(model, reference)
    if retokenize:
        traces = [replace(trace, **_NO_TOKENS) for trace in traces]
    context = min(model.context, reference.context) if reference else model.context
    job = _Job(
        model, traces, on_error == "skip", context, _column_shapes(top_k, reference is not None)
    )
    for number in range(len(traces)):
        job.prepare(number, long)
    budget = tokens_per_batch or TOKENS_PER_BATCH.get(model.device.type, 4096)
    options = {"temperature": temperature, "top_k": top_k}
    work = partial(_score_batch, model, reference, job, options)
    lengths, alone = (
        [window.length for window in job.windows],
        reference is not None and reference.sees_length,
    )
    for batch, scores in in_batches(model, job.windows, lengths, budget, work, alone=alone):
        if scores is None:
            trace = job.traces[batch[0].trace]
            job.fail(
                batch[0].trace,
                TraceError(
                    f"trace {trace.id!r}: {batch[0].length:,} tokens do not fit into memory"
                ),
            )
        else:
            job.put(batch, scores)
        if progress:
            progress(sum(window.scored.stop - window.scored.start for window in batch))
    return job.finish()


_NO_TOKENS: dict[str, Any] = dict.fromkeys(
    ("prompt_token_ids", "token_ids", "token_starts", "logprobs")
)


class _Job:
    """The traces of one call, as far as they have come."""

    def __init__(
        self,
        model: Model,
        traces: Sequence[Trace],
        skip: bool,
        context: int,
        columns: dict[str, tuple[int, ...]],
    ) -> None:
        self.model, self.traces, self.skip, self.context, self.columns = (
            model,
            traces,
            skip,
            context,
            columns,
        )
        self.encoded: dict[int, Encoded] = {}
        self.values: dict[int, dict[str, NDArray[Any]]] = {}
        self.results: dict[int, ScoredTrace] = {}
        self.windows: list[_Window] = []

    def prepare(self, number: int, long: str) -> None:
        """Encodes a trace and cuts it into windows."""
        trace = self.traces[number]
        try:
            _check_ids(trace, self.model)
            found = encode_trace(trace, self.model.tokenizer)
            _check_ids(trace, self.model, found.ids)
            self.encoded[number] = found
            if not len(found.scored):
                self.results[number] = self._unscored(number, "the completion has no token")
                return
            self.windows += _windows(trace, number, found, self.context, long)
            self.values[number] = self._blank(len(found.scored))
        except TraceError as error:
            self.fail(number, error)

    def fail(self, number: int, error: TraceError) -> None:
        """Marks a trace as unscored, or stops."""
        if not self.skip:
            raise error
        self.results[number] = self._unscored(number, str(error))
        self.values.pop(number, None)

    def put(self, batch: Sequence[_Window], scores: Scores) -> None:
        """Files the scores of a batch under their traces."""
        columns = {name: getattr(scores, name).float().cpu().numpy() for name in self.columns}
        first = 0
        for window in batch:
            n = window.scored.stop - window.scored.start
            for name, values in columns.items() if window.trace in self.values else ():
                self.values[window.trace][name][window.scored] = values[first : first + n]
            first += n

    def finish(self) -> list[ScoredTrace]:
        """The results in the order of the traces."""
        for number, columns in list(self.values.items()):
            found, trace = self.encoded[number], self.traces[number]
            unknown = np.isnan(columns["entropy"][_free(found) :])
            if "reference_entropy" in columns:
                unknown = unknown | np.isnan(columns["reference_entropy"][_free(found) :])
            if unknown.any():
                at = _free(found) + int(unknown.argmax())
                self.fail(
                    number,
                    TraceError(
                        f"trace {trace.id!r}: the logits for token {at} are no distribution"
                    ),
                )
                continue
            self.results[number] = self._result(
                number, columns, windowed=int(found.scored[-1]) >= self.context
            )
        return [self.results[number] for number in range(len(self.traces))]

    def _blank(self, n: int) -> dict[str, NDArray[Any]]:
        return {
            name: np.full((n, *shape), np.nan, np.float32) for name, shape in self.columns.items()
        }

    def _unscored(self, number: int, error: str) -> ScoredTrace:
        own = self.traces[number].token_ids or ()
        n = len(self.encoded[number].scored) if number in self.encoded else len(own)
        return self._result(number, self._blank(n), error=error)

    def _result(self, number: int, values: dict[str, NDArray[Any]], **rest: Any) -> ScoredTrace:
        trace, found = self.traces[number], self.encoded.get(number)
        if found is None:
            return ScoredTrace(trace.id, trace.token_ids or (), trace.token_starts, values, **rest)
        ids = tuple(found.ids[i] for i in found.scored)
        kept = {name: getattr(found, name) for name in ("encoding", "context", "exact", "n_drift")}
        return ScoredTrace(trace.id, ids, found.token_starts, values, **kept, **rest)


def _column_shapes(top_k: int, reference: bool) -> dict[str, tuple[int, ...]]:
    """The columns of a call, and what each holds for a token beyond one number."""
    columns: dict[str, tuple[int, ...]] = dict.fromkeys(
        ("entropy", "logprob", "rank", "varentropy"), ()
    )
    if top_k:
        columns |= {"top_ids": (top_k,), "top_logprobs": (top_k,), "top_mass": ()}
    if top_k > 1:
        columns["margin"] = ()
    if reference:
        columns |= dict.fromkeys(("kl", "reverse_kl", "reference_entropy", "reference_logprob"), ())
    return columns


def _free(encoded: Encoded) -> int:
    """1 if the first scored token has nothing before it, and so no distribution; else 0."""
    return int(len(encoded.scored) > 0 and encoded.scored[0] == 0)


def _check_same_words(model: Model, reference: Model) -> None:
    words, others = (m.tokenizer and m.tokenizer.get_vocab() for m in (model, reference))
    if model.n_words != reference.n_words or (words and others and words != others):
        raise TraceError(
            f"KL needs one vocabulary: {model.name} has {model.n_words:,} words, {reference.name} "
            f"{reference.n_words:,}, and their tokenizers {'agree' if words == others else 'differ'}"
        )
    if reference.device != model.device:
        raise TraceError(
            f"the model is on {model.device}, the reference on {reference.device}; load both on one"
        )


def _check_ids(trace: Trace, model: Model, ids: Sequence[int] | None = None) -> None:
    ids = (*(trace.prompt_token_ids or ()), *(trace.token_ids or ())) if ids is None else ids
    if ids and not (min(ids) >= 0 and max(ids) < model.n_words):
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise TraceError(
            f"trace {trace.id!r}: token id {wrong:,} is not among the {model.n_words:,} words of {model.name}"
        )


def _windows(trace: Trace, number: int, encoded: Encoded, context: int, long: str) -> list[_Window]:
    """One window, or several of a context's length, each half a context further."""
    n = int(encoded.scored[-1]) + 1  # what follows the last scored token does not matter
    if n > context and long == "error":
        raise TraceError(
            f"trace {trace.id!r}: {n:,} tokens with its prompt, but the model was made for {context:,}; "
            "score it in overlapping windows (long='window', --long window), or leave it out"
        )
    windows, done = [], _free(encoded)
    for start in range(0, max(1, n - context + context // 2), max(1, context // 2)):
        stop = min(n, start + context)
        until = int(np.searchsorted(encoded.scored, stop))
        if until > done:
            windows.append(_Window(number, start, stop, slice(done, until)))
        done = until
    return windows


@torch.inference_mode()
def _score_batch(
    model: Model,
    reference: Model | None,
    job: _Job,
    options: dict[str, Any],
    batch: Sequence[_Window],
) -> Scores:
    ids = torch.zeros(len(batch), batch[0].length, dtype=torch.long)
    rows, columns, targets = [], [], []
    for row, window in enumerate(batch):
        encoded = job.encoded[window.trace]
        ids[row, : window.length] = torch.tensor(encoded.ids[window.start : window.stop])
        at = encoded.scored[window.scored] - window.start
        rows += [row] * len(at)
        columns.append(at)
        targets += [encoded.ids[i] for i in encoded.scored[window.scored]]
    ids = ids.to(model.device)
    places = (
        torch.tensor(rows, device=ids.device),
        torch.tensor(np.concatenate(columns) - 1, device=ids.device),
    )
    wanted = torch.tensor(targets, device=ids.device)
    other = None if reference is None else (reference.hidden(ids)[places], reference.head)
    return score_hidden(model.hidden(ids)[places], wanted, model.head, reference=other, **options)
