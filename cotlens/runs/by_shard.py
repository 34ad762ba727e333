"""The tables of a run a shard at a time, for what need not hold all of its steps."""

from collections.abc import Iterator, Sequence

import pandas as pd

from cotlens.detect.unsafe import MARKERS
from cotlens.files import read_parquet
from cotlens.runs.run import Run, with_n_steps
from cotlens.runs.schema import LIGHT_COLUMNS, LIGHT_STEP_COLUMNS, NOT_STORED
from cotlens.runs.shards import shards_of

# What `reflection_dynamics` and `unsafe_dynamics` read of a step.
DYNAMICS_COLUMNS = (
    "trace_id", "step", "start", "stop", "position", "is_reflection", "is_self_jailbreak",
    *(marker.value for marker in MARKERS), "is_unsafe", "answer", "token_start", "token_stop",
)  # fmt: skip


def table_shards(
    run: Run, step_columns: Sequence[str], columns: Sequence[str] = LIGHT_COLUMNS
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Trace table and step table, one shard after the other.

    Args:
        run: a run that is analyzed.
        step_columns: of `SCHEMA["steps"]`, with `trace_id`; a light run leaves out those that it
            does not hold.
        columns: of `SCHEMA["traces"]`, with `trace_id`.

    Raises:
        TraceError: if the run is not analyzed, or a shard is missing or damaged.
    """
    if run.info["settings"].get("light"):
        step_columns = [name for name in step_columns if name in LIGHT_STEP_COLUMNS]
    stored = [name for name in columns if name not in NOT_STORED]

    for table in ("traces", "steps"):
        run.check_made(table)
    sources = [shards_of(run.path / table) for table in ("traces", "steps")]
    for of_traces, of_steps in zip(*sources, strict=True):
        traces = read_parquet(of_traces.work, stored).to_pandas()
        steps = read_parquet(of_steps.work, list(step_columns)).to_pandas()
        yield with_n_steps(traces, steps, columns), steps
