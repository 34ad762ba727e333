"""Traces of probes become rows."""

import pandas as pd
import pytest

from cotlens import Trace, TraceError
from cotlens.measures import probe_table


def probe_trace(name, **probe):
    return Trace(
        id=name, completion="x", prompt_id="p", method="grpo", model="m", meta={"probe": probe}
    )


def test_a_row_has_the_trace_and_the_keys_of_its_probe():
    table = probe_table([probe_trace("a", kind="k", step=0), probe_trace("b", kind="k", step=3)])
    assert list(table) == ["trace_id", "prompt_id", "method", "model", "kind", "step"]
    assert table.iloc[1].tolist() == ["b", "p", "grpo", "m", "k", 3]
    assert table["step"].dtype == "Int64"


def test_a_key_that_a_trace_lacks_is_missing_and_types_stay():
    """A whole number is not made a fraction by a missing one, and a share of 1 stays a share."""
    traces = [probe_trace("a", step=2, share=1.0, is_accepted=True), probe_trace("b", note=None)]
    table = probe_table(traces)
    assert table["step"].tolist() == [2, pd.NA]
    assert table["step"].dtype == "Int64"
    assert table["is_accepted"].dtype == "boolean"
    assert table["share"].dtype.kind == "f"
    assert table["note"].isna().all()


def test_no_traces_have_no_rows():
    assert list(probe_table([])) == ["trace_id", "prompt_id", "method", "model"]


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "trace 'a': it has no meta"),
        ({"probe": "continuation"}, "trace 'a': it has no meta"),
        ({"probe": {}}, "trace 'a': it has no meta"),
        ({"probe": {"model": "x"}}, "trace 'a': .* the key 'model'"),
    ],
)
def test_other_traces_are_named(meta, message):
    with pytest.raises(TraceError, match=message):
        probe_table([Trace(id="a", completion="x", meta=meta)])
