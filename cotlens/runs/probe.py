"""probe: cut and change a run's traces, let a model go on from there, and keep what it writes.

    OUT/run.json            what made it: the model, the probe and its settings
    OUT/part-00000.parquet  the probe's traces of the run's first shard, and so on

The traces are like those of `generate`: analyze the folder, and let any judge read it. What was
asked of which trace stands in their `meta["probe"]`; `measures.probe_table` makes columns of it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cotlens.files import model_versions
from cotlens.formats.read import read_traces
from cotlens.runs.run import Run, open_run, text_shards
from cotlens.runs.shards import Made, over_shards, shards_of
from cotlens.runs.tables import trace_rows
from cotlens.text.response import new_tags
from cotlens.trace import Trace, TraceError

if TYPE_CHECKING:
    from cotlens.models.load import Model

# What a probe does with some traces of a run: it returns others, or none.
Ask = Callable[[list[Trace]], Sequence[Trace]]


def probe(
    run: Run | str | Path,
    model: "Model",
    out: str | Path,
    ask: Ask,
    *,
    kind: str,
    settings: Mapping[str, Any],
    on_error: Literal["stop", "skip"] = "stop",
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Put a probe to every trace of a run, shard by shard, and return what OUT/run.json says.

    Call a killed job again with the same arguments: it resumes after the last finished shard, and
    makes the same texts.

    >>> ask = lambda traces: probes.continue_steps(model, traces, max_new_tokens=4096)
    >>> probe("runs/grpo", model, "probes/grpo", ask, kind="continuation",
    ...       settings={"max_new_tokens": 4096})  # doctest: +SKIP

    Args:
        run: a run directory that holds its texts (not made with `light`).
        model: the model that `ask` asks.
        out: the folder of the probe's traces.
        ask: of some traces, the traces that the model made of them.
        kind: name of the probe.
        settings: all that decides what `ask` returns, as JSON values.
        on_error: `skip` leaves out traces that cannot be probed; `n_skipped` counts them, and
            `first_skipped` says why of one of each shard.
        force: make everything anew, whatever the folder holds.
        progress: called with the number of the run's traces done since the last call.

    Returns:
        The content of OUT/run.json; `n_asked`, `n_skipped`, `n_traces`, `n_tokens` among it.

    Raises:
        TraceError: for a trace that cannot be probed, or if the folder holds what other settings
            made.
    """
    from cotlens.models.load import describe_model

    run = open_run(run)
    text_shards(run)  # raises if there is no text to cut
    made_by = {
        "probe": kind,
        "model": describe_model(model),
        "versions": model_versions(),
        "settings": dict(settings),
        "on_error": on_error,
    }
    tags = None if model.tokenizer is None else new_tags(model.tokenizer)

    def probe_shard(shard: Path) -> Made:
        traces = list(read_traces(shard, format="cotlens"))
        made, faults = _ask(ask, traces, on_error)
        if progress:
            progress(len(traces))
        counts = {
            "n_asked": len(traces),
            "n_skipped": len(faults),
            "n_traces": len(made),
            "n_tokens": sum(len(trace.token_ids or ()) for trace in made),
        }
        first_skipped = {"first_skipped": faults[0]} if faults else {}
        return Made(trace_rows(made, tags), counts | first_skipped)

    return over_shards(
        shards_of(run.path / "traces"),
        Path(out),
        probe_shard,
        made_by=made_by,
        force=force,
    )


def _ask(ask: Ask, traces: list[Trace], on_error: str) -> tuple[list[Trace], list[str]]:
    """What a model made of some traces, and why it made nothing of others."""
    try:
        return list(ask(traces)), []
    except TraceError:
        if on_error == "stop":
            raise

    # One of them cannot be probed. What is drawn does not depend on the others.
    made = []
    faults = []
    for trace in traces:
        try:
            made += ask([trace])
        except TraceError as error:
            faults.append(str(error))
    return made, faults
