import math

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import SAMPLES

from cotlens import Trace, read_traces, step_table, trace_table
from cotlens.runs.schema import SCHEMA, arrow_schema


def test_one_trace_by_hand():
    """`<think>Hi. Yo!\\n\\nNo.</think>Z`: steps 7:11, 11:16, 16:19 of 12 characters; middles 2, 6.5 and 10.5 of 12."""
    trace = Trace(id="t", completion="<think>Hi. Yo!\n\nNo.</think>Z", prompt="p", model="m")
    steps, (row,) = step_table([trace]), trace_table([trace]).to_dict("records")
    assert steps[["step", "start", "stop", "paragraph"]].values.tolist() == [
        [0, 7, 11, 0],
        [1, 11, 16, 0],
        [2, 16, 19, 1],
    ]
    assert steps["position"].tolist() == pytest.approx([2 / 12, 6.5 / 12, 10.5 / 12])
    assert steps["token_start"].isna().all()
    assert (row["think_start"], row["think_stop"], row["answer_start"], row["answer_stop"]) == (
        7,
        19,
        27,
        28,
    )
    assert (row["n_think_chars"], row["n_answer_chars"], row["n_steps"], row["status"]) == (
        12,
        1,
        3,
        "closed",
    )
    assert math.isnan(row["n_tokens"])


def test_the_text_of_the_steps_on_request():
    table = step_table([Trace(id="t", completion="<think>Hi. Yo</think>Z")], text=True)
    assert table["text"].tolist() == ["Hi. ", "Yo"]


def test_a_trace_without_thinking_has_empty_spans_and_no_steps():
    (row,) = trace_table([Trace(id="t", completion="Z")]).to_dict("records")
    assert (row["think_start"], row["think_stop"], row["answer_start"], row["answer_stop"]) == (
        0,
        0,
        0,
        1,
    )
    assert step_table([Trace(id="t", completion="Z")]).empty


def test_tables_have_exactly_the_columns_of_the_schema():
    traces = list(read_traces(SAMPLES))
    assert list(trace_table(traces)) == [column.name for column in SCHEMA["traces"]]
    assert list(step_table(traces)) == [column.name for column in SCHEMA["steps"]]
    assert list(step_table([])) == [column.name for column in SCHEMA["steps"]]
    assert all(column.meaning for columns in SCHEMA.values() for column in columns)


def test_steps_tile_the_thinking_of_every_sample():
    """The texts of a trace's steps concatenate to its thoughts."""
    traces = {trace.id: trace for trace in read_traces(SAMPLES)}
    table = trace_table(traces.values()).set_index("trace_id")
    steps = {str(key): part for key, part in step_table(traces.values()).groupby("trace_id")}
    for key, trace in traces.items():
        thinking = "".join(
            trace.completion[span["start"] : span["stop"]] for span in table.loc[key, "think_spans"]
        )
        rows = steps[key].itertuples() if key in steps else ()
        assert "".join(trace.completion[row.start : row.stop] for row in rows) == thinking


def test_positions_lie_within_the_thinking_and_rise():
    for _, part in step_table(read_traces(SAMPLES)).groupby("trace_id"):
        assert part["position"].between(0, 1).all()
        assert part["position"].is_monotonic_increasing


def test_order_of_traces_does_not_matter():
    traces = list(read_traces(SAMPLES))
    forward, backward = step_table(traces), step_table(traces[::-1])
    key = ["trace_id", "step"]
    pd.testing.assert_frame_equal(
        forward.sort_values(key, ignore_index=True), backward.sort_values(key, ignore_index=True)
    )


@given(
    st.lists(st.text(min_size=1).filter(lambda text: text.isprintable()), unique=True, max_size=4),
    st.text(),
)
def test_any_text_fits_the_schema(ids, completion):
    """Whatever the completion, the tables can be built and written."""
    completion = completion.encode("utf-8", "replace").decode()
    table = pa.Table.from_pandas(
        trace_table([Trace(id=key, completion=completion) for key in ids]), arrow_schema("traces")
    )
    assert table.num_rows == len(ids)
