"""Traces, texts, rows and frames in memory are read as those of files."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tiny import byte_tokenizer, tiny_model

from cotlens import Trace, TraceError, analyze, score_tokens, step_table, trace_table
from cotlens.formats.memory import as_traces
from cotlens.measures import step_entropy, trace_entropy
from cotlens.models.load import wrap_model

TEXT = "<think>First, we add 2 and 2. Wait, let me check that again.</think>4"


def test_every_kind_of_source_gives_the_same_trace():
    by_id = Trace(id="1", completion=TEXT)
    row = {"id": "1", "completion": TEXT}
    sources = [
        [by_id],
        by_id,
        [TEXT],
        TEXT,
        [row],
        row,
        pd.DataFrame([row]),
        pa.Table.from_pylist([row]),
        iter([TEXT]),
    ]
    for source in sources:
        assert list(as_traces(source)) == [by_id]


def test_a_data_set_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    rows = [
        {"id": "a", "completion": TEXT, "reward": 1.0},
        {"id": "b", "completion": "x", "reward": None},
    ]
    first, second = as_traces(datasets.Dataset.from_list(rows))
    assert (first.id, first.completion, first.reward) == ("a", TEXT, 1.0)
    assert second.reward is None


def test_one_text_has_its_steps():
    """Two sentences of thinking."""
    assert len(step_table(TEXT)) == 2


def test_a_gap_of_a_frame_is_a_field_that_the_row_lacks():
    frame = pd.DataFrame(
        [{"completion": "x", "reward": 1.0, "gold": None}, {"completion": "y", "gold": "3"}]
    )
    first, second = as_traces(frame)
    assert (first.reward, first.gold) == (1.0, "")
    assert (second.reward, second.gold) == (None, "3")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (TEXT.encode(), "got bytes: decode them first"),
        ({"question": "y"}, "item 1: row 1: "),
        ([3], "item 1: expected a trace, got int"),
        (["x", {"question": "y"}], "item 2: row 1: "),
    ],
)
def test_what_is_no_trace_is_named_by_its_number(source, fault):
    with pytest.raises(TraceError, match=fault):
        list(as_traces(source))


def test_tables_and_runs_take_sources_in_memory(tmp_path):
    rows = [{"id": str(number), "completion": TEXT} for number in range(3)]
    run = analyze(rows)
    assert run.info["n_traces"] == 3
    pd.testing.assert_frame_equal(run.step_table(), step_table(rows))
    pd.testing.assert_frame_equal(run.trace_table(None), trace_table(pd.DataFrame(rows)))

    kept = analyze([Trace(id="a", completion=TEXT)], tmp_path / "run")
    assert kept.path == tmp_path / "run"
    assert analyze([Trace(id="a", completion=TEXT)], kept.path).info == kept.info
    with pytest.raises(TraceError, match="no input file"):
        analyze([])


def test_scores_in_memory_feed_the_measures_as_those_of_a_run(tmp_path):
    from cotlens import score

    tokenizer = byte_tokenizer()
    model = wrap_model(
        tiny_model(len(tokenizer), max_position_embeddings=512), tokenizer, name="tiny"
    )
    traces = [Trace(id="a", completion=TEXT), Trace(id="b", completion=TEXT[:40])]
    steps = step_table(traces)
    in_memory = score_tokens(model, traces).table()

    run = score(analyze(traces, tmp_path / "run"), model)
    on_disk = run.score_table()
    shared = [name for name in on_disk if name in in_memory]
    assert {"entropy", "logprob", "rank", "token_starts", "error"} <= set(shared)
    pd.testing.assert_frame_equal(
        step_entropy(steps, in_memory), step_entropy(run.step_table(), on_disk)
    )
    of_memory = trace_entropy(trace_table(traces)[list(run.trace_table())], steps, in_memory)
    of_disk = trace_entropy(run.trace_table(), run.step_table(), on_disk)
    pd.testing.assert_frame_equal(of_memory, of_disk)
    assert np.isfinite(of_memory["entropy_think"]).all()
