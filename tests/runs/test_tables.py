"""Traces to rows: the tables by hand, and laws that hold for any trace."""

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
    """`<think>Hi. Yo!\\n\\nNo.</think>Z`: the steps are 7:11, 11:16 and 16:19.

    Their middles are 2, 6.5 and 10.5 of the 12 characters of thinking.
    """
    trace = Trace(id="t", completion="<think>Hi. Yo!\n\nNo.</think>Z", prompt="p", model="m")
    steps = step_table([trace])
    assert steps[["step", "start", "stop", "paragraph"]].values.tolist() == [
        [0, 7, 11, 0],
        [1, 11, 16, 0],
        [2, 16, 19, 1],
    ]
    assert steps["position"].tolist() == pytest.approx([2 / 12, 6.5 / 12, 10.5 / 12])
    assert steps["token_start"].isna().all()

    (row,) = trace_table([trace]).to_dict("records")
    assert (row["think_start"], row["think_stop"]) == (7, 19)
    assert (row["answer_start"], row["answer_stop"]) == (27, 28)
    assert (row["n_think_chars"], row["n_answer_chars"]) == (12, 1)
    assert (row["n_steps"], row["status"]) == (3, "closed")
    assert math.isnan(row["n_tokens"])


def test_tokens_of_thinking_by_hand():
    """<think>|\n|Hi| </think>|Z: the blank of the last but one lies in the thought, its tag does not."""
    starts = (0, 7, 8, 10, 19)
    trace = Trace(id="t", completion="<think>\nHi </think>Z", token_starts=starts)
    assert trace_table([trace])["n_think_tokens"].tolist() == [2]
    steps = step_table([trace])
    assert steps[["token_start", "token_stop"]].values.tolist() == [[1, 3]]


def test_the_text_of_the_steps_on_request():
    table = step_table([Trace(id="t", completion="<think>Hi. Yo</think>Z")], text=True)
    assert table["text"].tolist() == ["Hi. ", "Yo"]


def test_a_trace_without_thinking_has_empty_spans_and_no_steps():
    trace = Trace(id="t", completion="Z")
    (row,) = trace_table([trace]).to_dict("records")
    assert (row["think_start"], row["think_stop"]) == (0, 0)
    assert (row["answer_start"], row["answer_stop"]) == (0, 1)
    assert step_table([trace]).empty


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
    steps = step_table(traces.values(), text=True)
    for trace_id, trace in traces.items():
        thinking = ""
        for span in table.loc[trace_id, "think_spans"]:
            thinking += trace.completion[span["start"] : span["stop"]]
        texts = steps["text"][steps["trace_id"] == trace_id]
        assert "".join(texts) == thinking


def test_positions_lie_within_the_thinking_and_rise():
    for _, part in step_table(read_traces(SAMPLES)).groupby("trace_id"):
        assert part["position"].between(0, 1).all()
        assert part["position"].is_monotonic_increasing


def test_order_of_traces_does_not_matter():
    traces = list(read_traces(SAMPLES))
    key = ["trace_id", "step"]
    forward = step_table(traces).sort_values(key, ignore_index=True)
    backward = step_table(traces[::-1]).sort_values(key, ignore_index=True)
    pd.testing.assert_frame_equal(forward, backward)


@given(
    st.lists(st.text(min_size=1).filter(lambda text: text.isprintable()), unique=True, max_size=4),
    st.text(),
)
def test_any_text_fits_the_schema(ids, completion):
    """Whatever the completion, the tables can be built and written."""
    completion = completion.encode("utf-8", "replace").decode()
    traces = [Trace(id=trace_id, completion=completion) for trace_id in ids]
    table = pa.Table.from_pandas(trace_table(traces), arrow_schema("traces"))
    assert table.num_rows == len(ids)
