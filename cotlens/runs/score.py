"""score: a run gets token scores by a model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from cotlens.files import folder_name, model_versions
from cotlens.formats.read import read_traces
from cotlens.runs.run import Run, open_run, text_shards
from cotlens.runs.shards import Made, over_shards, shards_of
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
) -> Run:
    """Score every token of a run's completions into RUN/scores/NAME, and return the run.

    `run.score_info(NAME)` tells what was scored, `run.score_table(NAME)` has the scores. A shard is
    done when its file is there and was made from the trace shard as it is now: call a killed job
    again and it resumes.

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
        TraceError: for a trace that cannot be scored, or if the folder holds scores made with other
            settings.
    """
    from cotlens.models.load import describe_model
    from cotlens.models.score import score_tokens

    run = open_run(run)
    text_shards(run)  # raises if there is no text to score

    # Only what decides the numbers. The error policy does not, so a job that stopped at an error
    # can go on under another policy.
    settings = {"temperature": temperature, "top_k": top_k, "retokenize": retokenize}
    made_by = {
        "model": describe_model(model),
        "reference": None if reference is None else describe_model(reference),
        "versions": model_versions(),
        "settings": settings,
    }
    error_policy = f"{long}, {on_error}"

    def score_shard(shard: Path) -> Made:
        scored = score_tokens(
            model,
            list(read_traces(shard, format="cotlens")),
            reference=reference,
            **settings,
            long=long,
            on_error=on_error,
            tokens_per_batch=tokens_per_batch,
            progress=progress,
        )
        table = score_rows(scored)
        return Made(table, {"error_policy": error_policy, **_count(table)})

    def is_kept(notes: Mapping[str, Any]) -> bool:
        # Another policy may be able to score what this one left out, or must refuse it.
        return not notes["n_unscored"] or notes["error_policy"] == error_policy

    over_shards(
        shards_of(run.path / "traces"),
        run.path / "scores" / folder_name(name, model.name),
        score_shard,
        made_by=made_by,
        keep=is_kept,
        force=force,
    )
    return run


def _count(table: pa.Table) -> dict[str, int]:
    """Traces and tokens of a shard, and the traces that are not scored as they stand."""
    columns = ["entropy", "error", "encoding", "exact", "windowed"]
    scores = table.select(columns).to_pandas()
    lengths = scores["entropy"].str.len()
    is_unscored = scores["error"] != ""
    is_retokenized = scores["encoding"] == "text"
    is_inexact = scores["exact"] == False  # noqa: E712 - null is neither
    return {
        "n_traces": len(scores),
        "n_tokens": int(lengths.sum()),
        "n_unscored": int(is_unscored.sum()),
        "n_retokenized": int(is_retokenized.sum()),
        "n_inexact": int(is_inexact.sum()),
        "n_windowed": int(scores["windowed"].sum()),
    }
