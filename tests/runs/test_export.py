"""Traces to other tools and back: what `export` writes reads back equal, whole or not at all."""

import asyncio
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import SAMPLES
from typer.testing import CliRunner

from cotlens import Trace, TraceError, export, read_traces, trace_table
from cotlens.cli import app
from cotlens.formats.read import read_records
from cotlens.text.families import Tags
from cotlens.trace import Label, Reasoning

# Everything that stripping, rejoining or a wrong encoding would change.
TEXT = "\r\n <think>\r\n a\u00e9 \U0001f40d\t</think>\n\n b\u2028 \r\n"
USER = {"role": "user", "content": "q"}

# A response of OpenAI with a summary of its thinking, and an episode of verifiers with two turns.
RESPONSE = {
    "id": "resp_1", "object": "response", "model": "gpt-5", "status": "completed",
    "incomplete_details": None, "created_at": 0, "parallel_tool_calls": True,
    "tool_choice": "auto", "tools": [],
    "output": [
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "I add."}],
         "encrypted_content": "gAAA"},
        {"type": "web_search_call", "id": "ws", "status": "completed",
         "action": {"type": "search", "query": "2+2"}},
        {"type": "message", "id": "m", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": TEXT, "annotations": []}]},
    ],
}  # fmt: skip
NODES = [
    {"message": {"role": "user", "content": "Add."}, "sampled": False, "token_ids": [1, 2],
     "mask": [False, False], "logprobs": []},
    {"parent": 0, "sampled": True, "token_ids": [9, 10, 11], "mask": [False, True, True],
     "logprobs": [-0.1, -0.5],
     "message": {"role": "assistant", "reasoning_content": " I ask.\r\n", "tool_calls": [
         {"id": "c", "type": "function", "name": "add", "arguments": '{"a": 2}'}]}},
    {"parent": 1, "message": {"role": "tool", "tool_call_id": "c", "content": "4"},
     "sampled": False, "token_ids": [20], "mask": [False]},
    {"parent": 2, "sampled": True, "token_ids": [9, 30, 31], "mask": [False, True, True],
     "logprobs": [-0.2, -0.3], "entropies": [0.5, 0.6],
     "message": {"role": "assistant", "reasoning_content": "It is 4.\n", "content": TEXT}},
]  # fmt: skip
TASK = {"type": "Add", "key": "add-0", "data": {"idx": 0, "prompt": "Add.", "answer": "4"}}
EPISODE = {
    "id": "e", "env": {"id": "arithmetic"}, "task": TASK, "ok": True,
    "run": {"type": "train", "id": "r", "work": {"type": "train", "step": 40}},
    "traces": [{
        "version": 1, "id": "t", "verifiers": {"version": "0.4.0"}, "agent": {"name": "agent"},
        "nodes": NODES, "task": TASK,
        "calls": [{"node": 1, "model": "tiny", "finish_reason": "tool_calls"},
                  {"node": 3, "model": "tiny", "finish_reason": "stop"}],
        "rewards": {"right": {"score": 1.0, "weight": 1.0}, "short": {"score": 0.5, "weight": 0.5},
                    "unscored": None},
        "is_completed": True, "ok": True, "stop_condition": "agent_completed",
    }],
}  # fmt: skip

# Messages of several turns, and the content of one with thoughts, texts and a tool call between.
TURNS = [
    {"role": "system", "content": "s"},
    USER,
    {"role": "assistant", "content": "a"},
    {"role": "user", "content": "r"},
]
BLOCKS = [
    {"type": "thinking", "thinking": " I\r\n", "signature": "s"},
    {"type": "text", "text": "Look:"},
    {"type": "tool_use", "id": "c", "name": "f", "input": {"q": "x"}},
    {"type": "thinking", "thinking": "I see"},
    {"type": "text", "text": "Done \n"},
]
FUNCTION = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
REDACTED = {"type": "redacted_thinking", "data": "x"}
ASIDE = "Let me see whether it is 42. " * 2


def assistant(**message):
    return {"role": "assistant", **message}


def traces_to_write():
    """Every kind of trace: of one text, of fields, of several turns, summarised, redacted."""
    text = Trace(
        id="text", completion=TEXT, prompt="<|user|>q<|assistant|>\n", prompt_id="k", model="m",
        method="sft", training_step=3, domain="d", split="seen", sample=2, finish_reason="length",
        reward=0.5, gold="4", prompt_token_ids=(1, 2), token_ids=(3, 4),
        logprobs=(-0.5, float("nan")), token_starts=(0, 5), labels=(Label(0, 3, "x"),),
        meta={"request": "q", "seed": 1, "messages": ["odd"], "id": "odd", "note": None},
    )  # fmt: skip
    hidden = [REDACTED, {"type": "text", "text": "b"}]
    mixed = [{"type": "thinking", "thinking": "a"}, *hidden]
    rows = [
        {"id": "fields", "prompt": "q", "thinking": " a\r\n", "answer": "b "},
        {"id": "thought", "prompt": "q", "thinking": "cut off", "answer": ""},
        {"id": "quoted", "response": f" {ASIDE}4", "thinking": ASIDE},
        {"id": "blocks", "messages": [USER, assistant(content=BLOCKS)]},
        {"id": "long", "messages": [*TURNS, assistant(reasoning_content="a", content="b")]},
        {"id": "called", "messages": [USER, assistant(content="x", tool_calls=[FUNCTION])]},
        {"id": "hidden", "messages": [USER, assistant(content=hidden)]},
        {"id": "mixed", "messages": [USER, assistant(content=mixed)]},
        RESPONSE,
        EPISODE,
    ]
    bare = [Trace(id="bare", completion="x"), Trace(id="empty", completion="")]
    read = [trace for row in rows for trace in read_records([row])]  # of a format each
    return [text, *bare, *read]


def same(a, b):
    """Equal in every field; NaN equals NaN."""
    for name in Trace.__dataclass_fields__:
        value, other = getattr(a, name), getattr(b, name)
        if repr(value) != repr(other) and value != other:
            return False
    return True


@pytest.mark.parametrize("to", ["openai", "scout", "hf"])
def test_what_was_written_reads_back_equal(tmp_path, to):
    """The law of every writer, for every kind of trace and field; twice: nothing piles up."""
    traces = traces_to_write()
    for name in ("first", "second"):
        written = export(traces, tmp_path / name, to=to)
        read = list(read_traces(tmp_path / name))
        assert written.n_traces == len(traces)
        assert [trace.id for trace in read] == [trace.id for trace in traces]
        for before, after in zip(traces, read, strict=True):
            assert same(before, after), before.id
        traces = read


def test_a_table_of_traces_is_the_same_after_the_exchange(tmp_path):
    """What analysis sees does not depend on the format in between."""
    traces = traces_to_write()
    export(traces, tmp_path / "a.jsonl", to="openai")
    before = trace_table(traces)
    after = trace_table(read_traces(tmp_path / "a.jsonl"))

    # The keys of the metadata may come in any order.
    pd.testing.assert_frame_equal(before.drop(columns="meta"), after.drop(columns="meta"))


@pytest.mark.parametrize("to", ["openai", "scout"])
def test_other_tools_find_text_and_thinking_in_the_formats_own_place(tmp_path, to):
    """Without the field `cotlens`, text, thoughts and what the thinking is are still there."""
    traces = [trace for trace in traces_to_write() if trace.completion]
    export(traces, tmp_path / "file", to=to)
    if to == "openai":
        lines = (tmp_path / "file").read_text(encoding="utf-8").split("\n")[:-1]
        rows = [json.loads(line) for line in lines]
    else:
        rows = pq.read_table(tmp_path / "file").to_pylist()

    for row, trace in zip(rows, traces, strict=True):
        assert row.pop("cotlens")
        read = list(read_records([row]))[-1]
        assert read.completion == trace.completion
        assert (read.think, read.reasoning) == (trace.think, trace.reasoning), trace.id


def test_the_export_says_what_has_no_place_of_its_own(tmp_path):
    trace = traces_to_write()[0]
    assert set(export([trace], tmp_path / "a", to="openai").beside) == {"prompt", "labels", "meta"}
    beside = export([trace], tmp_path / "b", to="scout").beside
    assert {"token_ids", "logprobs", "labels", "finish_reason", "gold"} <= set(beside)
    assert export([trace], tmp_path / "c", to="hf").beside == {}


def test_a_text_that_was_changed_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    export([Trace(id="a", completion="x")], path, to="openai")
    text = path.read_text()
    path.write_text(text.replace('"content": "x"', '"content": "y"'))
    with pytest.raises(TraceError, match="the text is not the one that cotlens wrote"):
        list(read_traces(path))


def test_a_writer_leaves_a_whole_file_or_none(tmp_path):
    def broken():
        yield Trace(id="a", completion="x")
        raise TraceError("boom")

    path = tmp_path / "out"
    with pytest.raises(TraceError, match="boom"):
        export(broken(), path, to="openai")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TraceError, match="no trace to write"):
        export([], path, to="hf")
    assert list(tmp_path.iterdir()) == []

    # What is no export is never replaced.
    path.mkdir()
    (path / "mine.txt").write_text("keep")
    with pytest.raises(TraceError, match="no Hugging Face dataset"):
        export([Trace(id="a", completion="x")], path, to="hf")
    with pytest.raises(TraceError, match="is a folder"):
        export([Trace(id="a", completion="x")], path, to="openai")
    assert (path / "mine.txt").read_text() == "keep"

    with pytest.raises(ValueError, match="expected one of openai, scout, hf"):
        export([], tmp_path / "x", to="csv")


@pytest.mark.parametrize("state", ['{"mine": 1}', '{"_data_files": [{"filename": "a.arrow"}]}'])
def test_a_folder_that_is_no_dataset_alone_is_never_replaced(tmp_path, state):
    (tmp_path / "state.json").write_text(state)
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(TraceError, match="no Hugging Face dataset alone"):
        export([Trace(id="a", completion="x")], tmp_path, to="hf")
    assert (tmp_path / "thesis.txt").read_text() == "years"


def test_an_interrupted_replacement_leaves_the_old_dataset(tmp_path, monkeypatch):
    path = tmp_path / "d"
    export([Trace(id="old", completion="x")], path, to="hf")
    replace = Path.replace

    def stop(self, target):
        if self.name.endswith("partial"):
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        export([Trace(id="new", completion="x")], path, to="hf")
    assert [trace.id for trace in read_traces(path)] == ["old"]
    assert [child.name for child in tmp_path.iterdir()] == ["d"]


def test_a_data_set_knows_tags_of_ones_own(tmp_path):
    """Delimiters that cotlens does not know: the thought is `I think. `, 9 characters."""
    trace = Trace(id="x", completion="[[T]]I think. [[/T]]done")
    export([trace], tmp_path / "hf", to="hf", tags=Tags("[[T]]", "[[/T]]"))
    data = (tmp_path / "hf" / "data-00000-of-00001.arrow").read_bytes()
    (row,) = pa.ipc.open_stream(data).read_all().to_pylist()
    assert (row["status"], row["n_think_chars"]) == ("closed", 9)


def test_the_dataset_loads_in_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    export([Trace(id="a", completion=TEXT, token_ids=(1, 2))], tmp_path / "d", to="hf")
    data = datasets.load_from_disk(str(tmp_path / "d"))
    assert (data[0]["completion"], data[0]["token_ids"]) == (TEXT, [1, 2])


@pytest.mark.filterwarnings("default")  # other people's deprecations
def test_scout_reads_what_we_write(tmp_path):
    """Its check of the schema, and its reader: every text and thought, as messages of its types."""
    scout = pytest.importorskip("inspect_scout", reason="inspect-scout is not installed")
    from inspect_scout._transcript.database.schema import validate_transcript_schema

    traces = traces_to_write()
    export(traces, tmp_path / "t.parquet", to="scout")
    assert validate_transcript_schema(tmp_path / "t.parquet") == []

    async def read():
        async with scout.transcripts_from(str(tmp_path)).reader() as reader:
            infos = [info async for info in reader.index()]
            content = scout.TranscriptContent("all")
            return [await reader.read(info, content) for info in infos]

    transcripts = asyncio.run(read())
    ids = [transcript.transcript_id for transcript in transcripts]
    assert ids == [trace.id for trace in traces]
    for transcript, trace in zip(transcripts, traces, strict=True):
        text = transcript.messages[-1].content
        if not isinstance(text, str):
            texts = [getattr(block, "reasoning", "") or block.text for block in text]
            text = "".join(texts)
        if trace.reasoning is Reasoning.VERBATIM:  # else a block holds ciphertext
            assert text == trace.completion


def test_export_on_the_command_line(tmp_path):
    path = tmp_path / "a.parquet"
    command = ["export", str(SAMPLES), "-o", str(path), "--to", "scout"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "14 traces" in result.output
    pairs = zip(read_traces(SAMPLES), read_traces(path), strict=True)
    assert [same(before, after) for before, after in pairs] == [True] * 14
