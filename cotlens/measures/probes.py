"""Traces of probes become rows: what the counts of every probe begin with.

A probe writes traces whose `meta["probe"]` says where each comes from. They are stored and judged
as all traces are; then one row of this table and one verdict belong to each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from cotlens.trace import Trace, TraceError

_OF_TRACE = ["trace_id", "prompt_id", "method", "model"]


def probe_table(traces: Sequence[Trace]) -> pd.DataFrame:
    """One row per trace of a probe, in the order of the traces.

    Verdicts are added as a column, by place or by trace_id:

    >>> table = probe_table(traces).assign(is_safe=verdicts)  # doctest: +SKIP

    Returns:
        trace_id, prompt_id (the cluster of statistics), method, model, and one column for each key
        of `meta["probe"]`, in the order in which keys first occur: `kind`, `source`, `step`, ...
        Whole numbers and flags are nullable columns; a key that a trace lacks is missing.

    Raises:
        TraceError: for a trace that no probe wrote, or a key with the name of another column.
    """
    rows = []
    for trace in traces:
        of_probe = trace.meta.get("probe")
        if not isinstance(of_probe, Mapping) or not of_probe:
            raise TraceError(
                f'trace {trace.id!r}: it has no meta["probe"]; expected traces that a probe wrote, '
                "such as continue_steps"
            )

        # A key must not hide a column of the trace.
        taken = [key for key in of_probe if key in _OF_TRACE]
        if taken:
            raise TraceError(
                f'trace {trace.id!r}: meta["probe"] has the key {taken[0]!r}, which is a column of '
                "the trace itself; rename the key"
            )

        of_trace = {
            "trace_id": trace.id,
            "prompt_id": trace.prompt_id,
            "method": trace.method,
            "model": trace.model,
        }
        rows.append(of_trace | dict(of_probe))

    # A key that came first in a later trace comes later.
    keys = dict.fromkeys(_OF_TRACE)
    for row in rows:
        keys |= dict.fromkeys(row)

    columns = {}
    for key in keys:
        values = [row.get(key) for row in rows]
        columns[key] = _typed(values)
    return pd.DataFrame(columns)


def _typed(values: list[Any]) -> pd.Series:
    """A column, of whole numbers or flags also where some are missing."""
    # A flag is a number to Python, and no whole number here.
    types = {type(value) for value in values if value is not None}
    if types == {bool}:
        return pd.Series(values, dtype="boolean")
    if types == {int}:
        return pd.Series(values, dtype="Int64")
    return pd.Series(values, dtype=None if types else object)
