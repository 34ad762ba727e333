"""Scores that a trainer left in its own files: the entropies that prime-rl stamps on its traces.

They become scores of a scorer named after the trainer, so that every measure and figure of token
entropy takes them like those of `cotlens score`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cotlens.files import SOURCE_HASH, hash_path, to_json, versions, write_atomic, write_parquet
from cotlens.formats.read import read_traces
from cotlens.runs.run import Run
from cotlens.runs.tables import score_rows
from cotlens.trace import Trace, TraceError

_UNSCORED = "the source has no entropies for it"


class StampedScores(NamedTuple):
    """The scores of one trace, as `runs.tables.score_rows` takes them; unscored is NaN."""

    trace_id: str
    token_ids: tuple[int, ...]
    token_starts: tuple[int, ...] | None
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


def write_stamped_scores(run: Run) -> list[str]:
    """Write RUN/scores/TRAINER for every trainer that stamped entropies; return their names.

    `entropy` is the trainer's own, over its policy, in nats; `logprob` is the trainer's own where
    it is there (`trainer_logprobs`), else that of the engine that sampled. Nothing else is known.

    Raises:
        TraceError: if a trace has another number of entropies than of tokens.
    """
    # Which trainers there are.
    shards = sorted((run.path / "traces").glob("*.parquet"))
    trainers: set[str] = set()
    for shard in shards:
        for trace in read_traces(shard, format="cotlens"):
            trainers.add(trainer_of(trace))

    trainers.discard("")

    for trainer in sorted(trainers):
        folder = run.path / "scores" / trainer
        counts = {"n_traces": 0, "n_tokens": 0, "n_unscored": 0}
        for shard in shards:
            scored = _scores_of_shard(shard, trainer)
            table = score_rows(scored)  # type: ignore[arg-type]  # the same fields
            metadata = {SOURCE_HASH: hash_path(shard)}
            write_parquet(folder / shard.name, table.replace_schema_metadata(metadata))
            counts["n_traces"] += len(scored)
            counts["n_tokens"] += sum(len(trace.token_ids) for trace in scored)
            counts["n_unscored"] += sum(bool(trace.error) for trace in scored)

        # As `cotlens score` says what it scored with.
        made_by = {
            "model": {"name": trainer},
            "reference": None,
            "settings": {"source": "entropies that the trainer stamped on its traces"},
            "versions": versions(),
        }
        write_atomic(folder / "run.json", to_json(made_by | {"complete": True} | counts))

    return sorted(trainers)


def _scores_of_shard(shard: Path, trainer: str) -> Sequence[StampedScores]:
    scored = []
    for trace in read_traces(shard, format="cotlens"):
        token_ids = trace.token_ids or ()
        n_tokens = len(token_ids)
        unknown = np.full(n_tokens, np.nan, dtype=np.float32)
        values = {"entropy": unknown, "logprob": unknown}
        # The trainer's own log-prob, or that of the engine that sampled.
        is_stamped = trainer_of(trace) == trainer
        if is_stamped:
            values["entropy"] = _per_token(trace, "entropies", trace.meta["entropies"])
            logprobs = trace.meta.get("trainer_logprobs") or trace.logprobs
            if logprobs is not None:
                values["logprob"] = _per_token(trace, "trainer_logprobs", logprobs)

        scored.append(
            StampedScores(
                trace_id=trace.id,
                token_ids=token_ids,
                token_starts=trace.token_starts,
                values=values,
                error="" if is_stamped else _UNSCORED,
            )
        )

    return scored


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
