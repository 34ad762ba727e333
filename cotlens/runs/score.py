"""score: a run gets token scores by a model."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.parquet as pq

from cotlens.files import (
    SOURCE_HASH,
    folder_name,
    hash_path,
    is_made_from,
    model_versions,
    only_one,
    to_json,
    write_atomic,
    write_parquet,
)
from cotlens.formats.read import read_traces
from cotlens.models.load import describe_model
from cotlens.runs.run import Run, open_run, text_shards
from cotlens.runs.shards import ERROR_POLICY, has_errors_met_otherwise, prepare_scores
from cotlens.runs.tables import score_rows

if TYPE_CHECKING:
    from cotlens.models.load import Model


def score(
    run: Run | str | Path,
    model: "Model",
    *,
    reference: "Model | None" = None,
    name: str = "",
    temperature: float = 1.0,
    top_k: int = 0,
    retokenize: bool = False,
    long: Literal["error", "window"] = "error",
    on_error: Literal["stop", "skip"] = "stop",
    tokens_per_batch: int | None = None,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Scores every token of a run's completions into RUN/scores/NAME, and returns what its run.json says.

    A shard is done when its file is there and was made from the trace shard as it is now: a killed job goes on.

    Args:
        run: a run directory that holds its texts or token ids (not made with `light`).
        model: the scoring model.
        reference: as in `score_tokens`, like the arguments that follow.
        name: of the folder; default: the last part of the model's name.
        temperature: divides the logits.
        top_k: likeliest words to keep.
        retokenize: score the text also of traces that have token ids.
        long: what to do with traces longer than the context.
        on_error: `skip` marks traces that cannot be scored, and counts them.
        tokens_per_batch: padded tokens that are computed together.
        force: score anew, whatever the folder holds.
        progress: called with the number of tokens done since the last call.

    Raises:
        TraceError: for a trace that cannot be scored, or if the folder holds scores made with other settings.
    """
    from cotlens.models.score import score_tokens

    run = open_run(run)
    shards = text_shards(run)
    folder = run.path / "scores" / folder_name(name, model.name)
    # What decides the numbers; how faults are met does not, so a job that stopped at one goes on with another answer.
    settings = {"temperature": temperature, "top_k": top_k, "retokenize": retokenize}
    made_by = _scorer_info(model, reference) | {"settings": settings}
    with only_one(folder):
        prepare_scores(folder, made_by, force)
        counts: dict[str, int] = dict.fromkeys(
            ("n_traces", "n_tokens", "n_unscored", "n_retokenized", "n_inexact", "n_windowed"), 0
        )
        for shard in shards:
            done, source = folder / shard.name, hash_path(shard)
            met = f"{long}, {on_error}"
            if not is_made_from(done, source) or has_errors_met_otherwise(done, met):
                traces = list(read_traces(shard, format="cotlens"))
                scored = score_tokens(
                    model,
                    traces,
                    reference=reference,
                    **settings,
                    long=long,
                    on_error=on_error,
                    tokens_per_batch=tokens_per_batch,
                    progress=progress,
                )
                table = score_rows(scored)
                write_parquet(
                    done, table.replace_schema_metadata({SOURCE_HASH: source, ERROR_POLICY: met})
                )
            _count(counts, done)
        for stray in set(folder.glob("part-*.parquet")) - {folder / shard.name for shard in shards}:
            stray.unlink()
        write_atomic(folder / "run.json", to_json(made_by | {"complete": True} | counts))
    return made_by | counts


def _scorer_info(model: "Model", reference: "Model | None") -> dict[str, Any]:
    return {
        "model": describe_model(model),
        "reference": None if reference is None else describe_model(reference),
        "versions": model_versions(),
    }


def _count(counts: dict[str, int], shard: Path) -> None:
    table = pq.read_table(
        shard, columns=["entropy", "error", "encoding", "exact", "windowed"]
    ).to_pandas()
    counts["n_traces"] += len(table)
    counts["n_tokens"] += int(table["entropy"].str.len().sum())
    counts["n_unscored"] += int((table["error"] != "").sum())
    counts["n_retokenized"] += int((table["encoding"] == "text").sum())
    counts["n_inexact"] += int((table["exact"] == False).sum())  # noqa: E712 - null is neither
    counts["n_windowed"] += int(table["windowed"].sum())
