"""Scores that a trainer left in its own files: the entropies that prime-rl stamps on its traces.

They become scores of a scorer named after the trainer, so that every measure and figure of token
entropy takes them like those of `cotlens score`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cotlens.files import versions
from cotlens.formats.read import read_traces
from cotlens.runs.run import Run
from cotlens.runs.shards import Made, over_shards, read_ledger, shards_of
from cotlens.runs.tables import score_rows
from cotlens.text.tokens import word_starts
from cotlens.trace import Trace, TraceError

_UNSCORED = "the source has no entropies for it"


class StampedScores(NamedTuple):
    """The scores of one trace, as `runs.tables.score_rows` takes them; unscored is NaN."""

    trace_id: str
    token_ids: tuple[int, ...]
    token_starts: tuple[int, ...] | None
    word_starts: tuple[int, ...] | None
    values: dict[str, Any]
    encoding: str = "ids"
    context: str = "ids"
    exact: bool | None = None
    n_drift: int | None = None
    windowed: bool = False
    error: str = ""


def trainer_of(trace: Trace) -> str:
    """The trainer that stamped entropies on a trace; empty if none did.

    prime-rl says in the episode that it is of a training run; any other stamp is called
    verifiers, after the shape of the file.
    """
    if not trace.meta.get("entropies"):
        return ""
    return str(trace.meta.get("stamped_by") or "verifiers")


def write_stamped_scores(run: Run) -> None:
    """Write RUN/scores/TRAINER for every trainer that stamped entropies on the run's traces.

    `entropy` is the trainer's own, over its policy, in nats; `logprob` is the trainer's own where
    it is there (`trainer_logprobs`), else that of the engine that sampled. Nothing else is known.

    Raises:
        TraceError: if a trace has another number of entropies than of tokens.
    """
    folder = run.path / "traces"
    trainers: set[str] = set()
    for record in read_ledger(folder):
        names = record["notes"]["stamped_by"]
        trainers.update(names.split(","))

    # As `cotlens score` says what it scored with.
    for trainer in sorted(trainers - {""}):
        made_by = {
            "model": {"name": trainer},
            "reference": None,
            "settings": {"source": "entropies that the trainer stamped on its traces"},
            "versions": versions(),
        }
        over_shards(
            shards_of(folder),
            run.path / "scores" / trainer,
            partial(_make_scores, trainer),
            made_by=made_by,
            force=True,
        )


def _make_scores(trainer: str, shard: Path) -> Made:
    """The scores of a shard's traces, as their trainer stamped them."""
    scored = []
    for trace in read_traces(shard, format="cotlens"):
        scored.append(_scores_of(trace, trainer))

    counts = {
        "n_traces": len(scored),
        "n_tokens": sum(len(scores.token_ids) for scores in scored),
        "n_unscored": sum(bool(scores.error) for scores in scored),
    }
    table = score_rows(scored)  # type: ignore[arg-type]  # the same fields
    return Made(table, counts)


def _scores_of(trace: Trace, trainer: str) -> StampedScores:
    """The scores of one trace; NaN where this trainer stamped nothing on it."""
    token_ids = trace.token_ids or ()
    unknown = np.full(len(token_ids), np.nan, dtype=np.float32)
    values = {"entropy": unknown, "logprob": unknown}

    # The trainer's own log-prob, or that of the engine that sampled.
    is_stamped = trainer_of(trace) == trainer
    if is_stamped:
        values["entropy"] = _per_token(trace, "entropies", trace.meta["entropies"])
        logprobs = trace.meta.get("trainer_logprobs") or trace.logprobs
        if logprobs is not None:
            values["logprob"] = _per_token(trace, "trainer_logprobs", logprobs)

    # Which step a token belongs to.
    words = None
    if trace.token_starts is not None:
        words = tuple(word_starts(trace.completion, trace.token_starts).tolist())
    return StampedScores(
        trace_id=trace.id,
        token_ids=token_ids,
        token_starts=trace.token_starts,
        word_starts=words,
        values=values,
        error="" if is_stamped else _UNSCORED,
    )


def _per_token(trace: Trace, name: str, numbers: Sequence[float | None]) -> np.ndarray:
    """The numbers of a trace's tokens, with NaN for null."""
    n_tokens = len(trace.token_ids or ())
    if len(numbers) != n_tokens:
        raise TraceError(
            f"trace {trace.id!r}: {len(numbers)} {name} and {n_tokens} sampled tokens; they must "
            "be parallel"
        )

    # Unknown is NaN.
    values = [np.nan if number is None else number for number in numbers]
    return np.array(values, dtype=np.float32)
