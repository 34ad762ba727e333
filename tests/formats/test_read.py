import gzip
import json
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import SAMPLES, read_rows

from cotlens import Span, Trace, TraceError, read_traces, split_trace
from cotlens.formats.known import FORMATS, find_format
from cotlens.formats.read import detect_format, read_records
from cotlens.trace import Label, Origin, Reasoning


def write(path, *rows):
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def read(tmp_path, *rows):
    return list(read_traces(write(tmp_path / "file.jsonl", *rows)))


# --- plain rows ------------------------------------------------------------------------------------------------


def test_plain_rows_keep_id_text_and_everything_else(tmp_path):
    """Text byte for byte (CRLF, NUL, emoji), tokens, log-probs, finish reason; the rest is meta."""
    text = "<think>\r\n a\x00🐍é </think>\n\n b "
    row = {
        "id": 7,
        "prompt": "p",
        "completion": text,
        "token_ids": [1, 2],
        "logprobs": [-0.5, None],
        "model": "m",
    }
    row |= {
        "prompt_token_ids": [9],
        "finish_reason": "length",
        "method": "sft",
        "domain": "d",
        "sample": 3,
        "seed": 1,
    }
    (trace,) = read(tmp_path, row)
    assert (trace.id, trace.prompt, trace.completion, trace.model, trace.method) == (
        "7",
        "p",
        text,
        "m",
        "sft",
    )
    assert (trace.token_ids, trace.prompt_token_ids, trace.finish_reason, trace.sample) == (
        (1, 2),
        (9,),
        "length",
        3,
    )
    assert trace.logprobs is not None
    assert trace.logprobs[0] == -0.5
    assert math.isnan(trace.logprobs[1])
    assert trace.meta == {"seed": 1}


def test_separate_fields_are_joined_with_nothing_between(tmp_path):
    (trace,) = read(tmp_path, {"id": "a", "prompt": "p", "thinking": "t</think>t", "answer": "b"})
    assert (trace.completion, trace.think, trace.answer) == (
        "t</think>tb",
        (Span(0, 10),),
        Span(10, 11),
    )
    assert trace.origin is Origin.FIELDS


@pytest.mark.parametrize(
    ("row", "completion", "gold", "origin"),
    [
        (
            {"response": "r", "answer": "42"},
            "r",
            "42",
            "text",
        ),  # beside a completion, answer is the gold answer
        ({"thinking": "t", "answer": "a"}, "ta", "", "fields"),
        ({"reasoning_content": "t", "content": "a", "gold": "g"}, "ta", "g", "fields"),
        ({"reasoning": "t", "response": "a", "answer": "42"}, "ta", "", "fields"),
        ({"raw": "<think>t</think>a", "thinking": "t"}, "<think>t</think>a", "", "text"),
        ({"thinking": "t", "answer": None}, "t", "", "fields"),
        ({"thinking": None, "answer": "a"}, "a", "", "fields"),
        (
            {"reasoning_content": "", "response": "<think>t</think>a"},
            "<think>t</think>a",
            "",
            "text",
        ),
        ({"reasoning": "medium", "response": "<think>t</think>a"}, "<think>t</think>a", "", "text"),
        ({"thinking": "No.", "response": "No. I can't."}, "No.No. I can't.", "", "fields"),
        (
            {"thinking": "Let me see. " * 5, "response": "Let me see. " * 5 + "4"},
            "Let me see. " * 5 + "4",
            "",
            "fields",
        ),
        ({"completion": ""}, "", "", "text"),
    ],
)
def test_what_answer_means_beside_other_fields(tmp_path, row, completion, gold, origin):
    (trace,) = read(tmp_path, row)
    assert (trace.completion, trace.gold, trace.origin) == (completion, gold, origin)


def test_thinking_that_begins_the_response_is_found_there(tmp_path):
    thinking = "Let me see whether seven divides forty-two."
    (trace,) = read(tmp_path, {"thinking": thinking, "response": thinking + "\n\nIt does."})
    split = split_trace(trace)
    assert (split.think, split.answer.of(trace.completion)) == ((Span(0, 43),), "\n\nIt does.")


def test_an_instruction_and_its_input_are_one_prompt(tmp_path):
    a, b = read(
        tmp_path,
        {"instruction": "Add.", "input": "1+1", "output": "2"},
        {"instruction": "Add.", "input": "2+2", "output": "4"},
    )
    assert a.prompt == "Add.\n\n1+1"
    assert a.prompt_id != b.prompt_id


def test_a_prompt_or_a_completion_may_be_a_list(tmp_path):
    """Messages, typed blocks (a raw Anthropic response), or several samples of one prompt."""
    blocks = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "a"}]},
        {"type": "text", "text": "b"},
    ]
    (one,) = read(
        tmp_path, {"type": "message", "content": [{"type": "thinking", "thinking": "a"}, blocks[1]]}
    )
    (two,) = read(tmp_path, {"prompt": [USER], "response": "<think>a</think>b"})
    (three,) = read(tmp_path, {"prompt": [USER], "thinking": "a", "answer": "b"})
    assert [trace.completion for trace in (one, two, three)] == ["ab", "<think>a</think>b", "ab"]
    first, second = read(tmp_path, {"id": "q", "response": ["x", "y"]})
    assert (first.id, second.id, second.sample) == ("q/0", "q/1", 1)
    assert first.prompt_id == second.prompt_id == "q"


def test_no_text_of_a_row_is_lost(tmp_path):
    """Thinking beside samples or beside messages, refusals, and whole numbers that a table made floats."""
    one, two = read(
        tmp_path, {"id": "x", "completion": ["b1", "b2"], "thinking": ["t1", "t2"], "answer": "g"}
    )
    assert (one.completion, two.completion, one.gold) == ("t1b1", "t2b2", "g")
    (three,) = read(
        tmp_path,
        {"prompt": [USER], "thinking": "T", "completion": [{"role": "assistant", "content": "A"}]},
    )
    assert (three.completion, three.meta["thinking"]) == ("A", "T")
    (four,) = read(
        tmp_path,
        {
            "messages": [
                USER,
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            ]
        },
    )
    assert four.completion == "No."
    (five,) = read(tmp_path, {"completion": "x", "sample": 2.0, "training_step": float("nan")})
    assert (five.sample, five.training_step) == (2, -1)
    (six,) = read(tmp_path, {"prompt": "q", "completion": "x", "choices": ["A", "B"]})
    assert (six.completion, six.meta) == ("x", {"choices": ["A", "B"]})
    (seven,) = read(
        tmp_path, {"prompt": "q", "thinking": "Tags.", "completion": "Put it in `<thinking>` tags."}
    )
    assert (seven.completion, seven.think) == ("Tags.Put it in `<thinking>` tags.", (Span(0, 5),))


def test_a_turn_that_goes_on_with_a_tool_call_is_not_cut_off(tmp_path):
    content = [
        {"type": "thinking", "thinking": "a"},
        {"type": "tool_use", "name": "f", "input": {}},
    ]
    (trace,) = read(tmp_path, {"messages": [USER, {"role": "assistant", "content": content}]})
    assert split_trace(trace).status == "closed"


def test_text_parts_are_split_like_text(tmp_path):
    message = {"role": "assistant", "content": [{"type": "text", "text": "<think>a</think>b"}]}
    (trace,) = read(tmp_path, {"messages": [USER, message]})
    assert split_trace(trace).think == (Span(7, 8),)


def test_rows_without_an_id_are_named_by_file_and_line(tmp_path):
    assert [trace.id for trace in read(tmp_path, {"text": "a"}, {"text": "b"})] == [
        "file:1",
        "file:2",
    ]


# --- containers ------------------------------------------------------------------------------------------------


def test_the_same_rows_from_every_container(tmp_path):
    rows = [{"id": f"t{i}", "prompt": "p", "completion": f"<think>{i}</think>é"} for i in range(3)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    (tmp_path / "blank").write_text("\n" + lines.replace("\n", "\r\n\r\n"))
    (tmp_path / "array").write_text(json.dumps(rows, indent=1))
    pd.DataFrame(rows).to_parquet(tmp_path / "parquet")
    expected = list(read_traces(write(tmp_path / "jsonl", *rows)))
    for name in ("gz", "bom", "blank", "array", "parquet"):
        assert list(read_traces(tmp_path / name)) == expected, name


def test_a_folder_of_files_and_ids_from_equal_file_names(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "out.jsonl", {"completion": folder})
    assert [trace.id for trace in read_traces(tmp_path / "a")] == ["out:1"]
    both = read_traces([tmp_path / "a" / "out.jsonl", tmp_path / "b" / "out.jsonl"])
    assert [trace.id for trace in both] == ["a/out:1", "b/out:1"]


def test_rows_in_memory(tmp_path):
    assert [
        trace.completion for trace in read_records([{"completion": "x"}, {"completion": "y"}])
    ] == ["x", "y"]
    with pytest.raises(TraceError, match="row 2: the completion is null"):
        list(read_records([{"completion": "x"}, {"completion": None}]))


def test_hugging_face_datasets_on_disk(tmp_path):
    """Written by the real library, alone and as a dict of splits."""
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(
        [{"id": "a", "prompt": "p", "completion": "x"}, {"id": "b", "completion": "y"}]
    )
    data.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data.select([0]), test=data.select([1])).save_to_disk(
        tmp_path / "two"
    )
    assert [trace.completion for trace in read_traces(tmp_path / "one")] == ["x", "y"]
    assert [(trace.id, trace.split) for trace in read_traces(tmp_path / "two")] == [
        ("a", "train"),
        ("b", "test"),
    ]


# --- chat messages ---------------------------------------------------------------------------------------------

USER = {"role": "user", "content": "q"}


@pytest.mark.parametrize(
    ("message", "think", "answer", "reasoning"),
    [
        ({"content": "b", "reasoning_content": "a"}, ["a"], "b", "verbatim"),
        ({"content": "b", "reasoning": "a"}, ["a"], "b", "verbatim"),
        ({"content": "b", "thinking": "a"}, ["a"], "b", "verbatim"),
        ({"content": "<think>a</think>b", "reasoning_content": None}, ["a"], "b", "verbatim"),
        ({"content": [{"type": "thinking", "thinking": "a", "signature": "s"}, {"type": "text", "text": "b"}]},
         ["a"], "b", "verbatim"),
        ({"content": [{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "b"}]}, [], "b", "redacted"),
        ({"content": [{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "say"},
                      {"type": "tool_use", "name": "f", "input": {}}, {"type": "thinking", "thinking": "c"},
                      {"type": "text", "text": "b"}]}, ["a", "c"], "b", "verbatim"),
        ({"content": [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]},
                      {"type": "output_text", "text": "b"}]}, ["a"], "b", "summary"),
        ({"content": "b", "reasoning_details": [{"type": "reasoning.summary", "summary": "a"}]}, ["a"], "b", "summary"),
        ({"content": "b", "reasoning_details": [{"type": "reasoning.text", "text": "a"}]}, ["a"], "b", "verbatim"),
    ],
)  # fmt: skip
def test_messages(tmp_path, message, think, answer, reasoning):
    (trace,) = read(tmp_path, {"id": "x", "messages": [USER, {"role": "assistant"} | message]})
    split = split_trace(trace)
    assert [span.of(trace.completion) for span in split.think] == think
    assert split.answer.of(trace.completion) == answer
    assert (trace.reasoning, trace.prompt) == (Reasoning(reasoning), "q")


def test_every_assistant_turn_is_a_trace_and_earlier_turns_are_its_prompt(tmp_path):
    messages = [
        {"role": "system", "content": "s"},
        USER,
        {"role": "assistant", "content": "one", "reasoning": "r"},
    ]
    messages += [{"role": "user", "content": "more"}, {"role": "assistant", "content": "two"}]
    first, second = read(tmp_path, {"id": "x", "messages": messages})
    assert (first.id, first.completion, first.prompt) == (
        "x/turn-0",
        "rone",
        "system: s\n\nuser: q",
    )
    assert (second.id, second.completion) == ("x/turn-1", "two")
    assert second.meta["prompt_messages"] == messages[:-1]
    assert first.prompt_id != second.prompt_id


def openai_row(message):
    content = [("a", [97], -0.1), ("\\xc3", [195], -0.2), ("\\xa9", [169], -0.3), ("!", [33], -0.4)]
    logprobs = {"content": [{"token": t, "bytes": b, "logprob": p} for t, b, p in content]}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "stop",
        "logprobs": logprobs,
        "token_ids": [5, 6, 7, 8],
    }
    return {"id": "c", "model": "m", "choices": [choice], "request": {"messages": [USER]}}


def test_openai_responses_keep_log_probs_and_finish_reason(tmp_path):
    """Offsets come from the tokens' bytes: é is two bytes in two tokens, both at character 1."""
    (trace,) = read(tmp_path, openai_row({"role": "assistant", "content": "aé!"}))
    assert (trace.completion, trace.finish_reason, trace.prompt) == ("aé!", "stop", "q")
    assert (trace.token_ids, trace.logprobs) == ((5, 6, 7, 8), (-0.1, -0.2, -0.3, -0.4))
    assert trace.token_starts == (0, 1, 1, 2)


def test_log_probs_of_the_answer_alone_are_not_those_of_the_completion(tmp_path):
    (trace,) = read(
        tmp_path, openai_row({"role": "assistant", "content": "aé!", "reasoning_content": "ok"})
    )
    assert (trace.completion, trace.logprobs, trace.token_starts) == ("okaé!", None, None)
    assert len(trace.meta["answer_logprobs"]) == 4


def test_vllm_request_outputs(tmp_path):
    """One trace per output; the chosen token's log-prob; offsets where the decoded tokens spell the text."""
    tokens = [
        {"5": {"logprob": -0.1, "rank": 1, "decoded_token": "<think>"}},
        {"8": -3.0, "6": -0.2},
        None,
    ]
    decoded = [
        {str(i): {"logprob": -0.1 * i, "decoded_token": piece}}
        for i, piece in enumerate(["a", "b", "</s>"], 1)
    ]
    outputs = [
        {
            "index": 0,
            "text": "<think>a",
            "token_ids": [5, 6, 2],
            "logprobs": tokens,
            "finish_reason": "length",
        },
        {
            "index": 1,
            "text": "ab",
            "token_ids": [1, 2, 3],
            "logprobs": decoded,
            "finish_reason": "stop",
        },
    ]
    row = {
        "request_id": "r",
        "prompt": "p<think>\n",
        "prompt_token_ids": [1, 2],
        "outputs": outputs,
        "finished": True,
    }
    first, second = read(tmp_path, row)
    assert (first.id, first.sample, first.token_ids, first.finish_reason) == (
        "r/0",
        0,
        (5, 6, 2),
        "length",
    )
    assert first.logprobs is not None
    assert first.logprobs[:2] == (-0.1, -0.2)
    assert math.isnan(first.logprobs[2])
    assert first.prompt_token_ids == second.prompt_token_ids == (1, 2)
    assert first.prompt_id == second.prompt_id
    assert (first.token_starts, second.token_starts) == (None, (0, 1, 2))


# --- TRL -------------------------------------------------------------------------------------------------------


def test_trl_strings_as_up_to_1_10(tmp_path):
    row = {
        "step": 5,
        "prompt": "p<think>\n",
        "completion": "a</think>b",
        "guard": 0.5,
        "maths": 1.0,
        "advantage": -1.0,
    }
    pd.DataFrame([row, row]).to_parquet(tmp_path / "completions_00005.parquet")
    with pytest.warns(UserWarning, match="2 of 2 rollouts may be of training or of an evaluation"):
        first, second = read_traces(tmp_path / "completions_00005.parquet")
    assert (first.id, second.id, first.training_step) == (
        "completions_00005:1",
        "completions_00005:2",
        5,
    )
    assert first.meta == {"rewards": {"guard": 0.5, "maths": 1.0}, "advantage": -1.0}
    assert split_trace(first).think == (Span(0, 1),)


def test_rewards_that_do_not_apply_are_kept_as_such(tmp_path):
    """Two reward functions, one of which is None or whole numbers somewhere: no row takes one of them for the reward."""
    rows = [
        {"step": 1, "prompt": "p", "completion": "c", "maths": m, "form": 1, "advantage": 0.0}
        for m in (1.0, None)
    ]
    pd.DataFrame(rows).astype({"maths": object}).to_parquet(tmp_path / "c.parquet")
    traces = list(read_traces(tmp_path / "c.parquet"))
    assert [trace.reward for trace in traces] == [None, None]
    assert [trace.meta["rewards"]["form"] for trace in traces] == [1, 1]


def test_trl_message_lists_as_in_1_16(tmp_path):
    """Parquet gives every message every key, so a missing reasoning_content comes back as null."""
    prompt = [{"role": "user", "content": "q", "reasoning_content": None}]
    rows = [
        {
            "step": 1,
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": "b", "reasoning_content": "a"}],
        },
        {
            "step": 1,
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": "b", "reasoning_content": None}],
        },
        {
            "step": 1,
            "prompt": prompt,
            "completion": [{"role": "assistant", "content": "b", "thinking": "a"}],
        },
    ]
    pd.DataFrame([row | {"reward": 1.0, "advantage": 0.0} for row in rows]).to_parquet(
        tmp_path / "completions.parquet"
    )
    traces = list(read_traces(tmp_path / "completions.parquet"))
    assert [trace.completion for trace in traces] == ["ab", "b", "ab"]
    assert {trace.prompt for trace in traces} == {"q"}
    assert traces[0].reward == 1.0


@pytest.mark.filterwarnings("default")  # other people's deprecations
def test_a_real_grpo_run_can_be_read(tmp_path):
    """TRL's own trainer writes the parquet: one step of a tiny random model, conversational rows, two completions."""
    trl = pytest.importorskip("trl")
    import datasets
    from tiny import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    config = trl.GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, max_completion_length=4,
        max_steps=1, logging_steps=1, log_completions=True, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
    )  # fmt: skip
    rows = datasets.Dataset.from_list([{"prompt": [{"role": "user", "content": "one two"}]}] * 2)
    trainer = trl.GRPOTrainer(
        model=tiny_model(len(tokenizer)),
        reward_funcs=_length,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    (path,) = tmp_path.glob("completions/*.parquet")
    traces = list(read_traces(path))
    assert detect_format(path).name == "trl"
    assert [trace.prompt for trace in traces] == ["one two", "one two"]
    assert all(trace.training_step == 1 and trace.reward is not None for trace in traces)


def _length(completions, **_):
    return [float(len(completion[0]["content"])) for completion in completions]


# --- real files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "format", "n", "labels"),
    [
        ("traces/reasoning", "plain", 1214, 0),
        ("traces/star1_safe", "plain", 500, 0),
        ("traces/gpt_oss_harmony", "plain", 40, 0),
        ("traces/cot_monitor", "plain", 444, 0),
        ("labels/reasoningflow_human", "reasoningflow", 37, 3222),
        ("labels/schoenfeld_human", "schoenfeld", 17, 1182),
        ("labels/venhoff_gpt4o", "venhoff", 500, 13129 - 132),
        ("labels/thought_anchors", "thought-anchors", 71, None),
        ("labels/bias_anchors", "thought-anchors", 106, None),
        ("labels/self_jailbreak", "self-jailbreak", 963, None),
    ],
)
def test_real_files_survive_byte_for_byte(data, file, format, n, labels):
    """Every row is read, its text is the source's, its labels lie where the source says."""
    path = data / f"{file}.jsonl.gz"
    rows = read_rows(path)
    traces = list(read_traces(path))
    assert (detect_format(path).name, len(traces)) == (format, n)
    for row, trace in zip(rows, traces, strict=True):
        whole = (
            row.get("response")
            or row.get("solution")
            or (row.get("raw") if "segments" not in row else None)
        )
        assert trace.completion == (whole or row["thinking"] + (row.get("answer") or ""))
    if labels is not None:
        assert sum(len(trace.labels) for trace in traces) == labels


# --- bad input -------------------------------------------------------------------------------------------------

GOOD = {"id": "a", "prompt": "p", "completion": "c"}
BAD_LINES = {
    "malformed": (b'{"id": 1, "completion": "x"', "not valid JSON"),
    "no object": (b"[1, 2]", "expected a JSON object, got list"),
    "missing field": (
        b'{"id": "b", "prompt": "p"}',
        "has no known shape: its fields are id, prompt",
    ),
    "mixed formats": (
        b'{"id": "b", "messages": []}',
        "read as plain, but this row looks like messages",
    ),
    "null completion": (b'{"id": "b", "completion": null}', "the completion is null"),
    "number as text": (b'{"id": "b", "completion": 3}', "must be text, got int"),
    "not UTF-8": (b'{"id": "b", "completion": "\xff"}', "not UTF-8: byte 0xff at byte 27"),
    "binary": (b"\x80\x00\x01", "a binary file"),
    "lone surrogate": (b'{"id": "b", "completion": "\\ud800"}', "lone surrogate"),
    "deep nesting": (b'{"id": "b", "completion": ' + b"[" * 100_000, "not valid JSON"),
    "duplicate id": (b'{"id": "a", "completion": "d"}', "the id 'a' occurs twice"),
    "unequal tokens": (
        b'{"id": "b", "completion": "d", "token_ids": [1], "logprobs": [0, 0]}',
        "must be parallel",
    ),
    "token ids of text": (
        b'{"id": "b", "completion": "d", "token_ids": ["x"]}',
        "token_ids must be a whole number below 2.31, got .x.",
    ),
    "id beyond 32 bits": (
        b'{"id": "b", "completion": "d", "token_ids": [4294967296]}',
        "below 2.31, got 4294967296",
    ),
    "surrogate in the metadata": (
        b'{"id": "b", "completion": "d", "note": "\\ud800"}',
        "lone surrogate in its metadata",
    ),
    "surrogate in the model": (
        b'{"id": "b", "completion": "d", "model": "\\ud800"}',
        "model has the lone surrogate",
    ),
    "finish reason of a kind": (
        b'{"id": "b", "completion": "d", "sample": 1.5}',
        "sample must be a whole number",
    ),
    "no choices": (b'{"id": "b", "completion": []}', "the completion is an empty list"),
    "too long": (
        b'{"id": "b", "completion": "' + b"x" * 3_000_000 + b'"}',
        "3 MiB, more than the 2 MiB allowed",
    ),
}


@pytest.mark.parametrize("case", BAD_LINES, ids=list(BAD_LINES))
def test_a_bad_line_is_named_or_skipped(tmp_path, case):
    """It stops the reading with file and line, or goes to the rejects while the rows around it are kept."""
    line, message = BAD_LINES[case]
    path = tmp_path / "bad.jsonl"
    path.write_bytes(
        json.dumps(GOOD).encode()
        + b"\n"
        + line
        + b"\n"
        + json.dumps(GOOD | {"id": "z"}).encode()
        + b"\n"
    )
    with pytest.raises(TraceError, match=r"bad\.jsonl:2: .*" + message.replace("'", ".")):
        list(read_traces(path, max_line_bytes=2**21))
    rejects = []
    assert [
        trace.id for trace in read_traces(path, on_reject=rejects.append, max_line_bytes=2**21)
    ] == ["a", "z"]
    (reject,) = rejects
    assert (reject.file, reject.number) == (str(path), 2)


def test_files_that_hold_nothing_readable(tmp_path):
    empty, blank, cut, array = (tmp_path / name for name in ("empty", "blank", "cut", "array"))
    empty.write_bytes(b"")
    blank.write_bytes(b"\n\n")
    pq.write_table(pa.table({"completion": ["x"] * 1000}), cut)
    cut.write_bytes(cut.read_bytes()[:200])
    array.write_text('[{"completion": "x"')
    (tmp_path / "gz").write_bytes(gzip.compress(b'{"completion": "x"}\n' * 100)[:-20])
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("hi")
    for name, message in {
        "empty": "the file is empty",
        "blank": "the file has no rows",
        "cut": "row 1 and on cannot be read",
        "array": "begins as a JSON array",
        "gz": "compressed file is cut off",
        "folder": "it holds notes.txt",
        "missing": "no such file",
    }.items():
        with pytest.raises(TraceError, match=message):
            list(read_traces(tmp_path / name))


def test_unknown_format_names_those_there_are():
    with pytest.raises(TraceError, match="expected one of cotlens, reasoningflow"):
        find_format("nonsense")


def test_formats_do_not_shadow_each_other(tmp_path):
    """Every sample and every format name is reached: the first format that matches is the one meant."""
    assert len({shape.name for shape in FORMATS}) == len(FORMATS)
    assert detect_format(SAMPLES).name == "plain"
    assert len(list(read_traces(SAMPLES))) == 14


def test_labels_of_a_document_are_kept(tmp_path):
    row = {
        "id": "d",
        "response": "One. Two.",
        "question": "q",
        "question_id": "k",
        "sentences": [{"span": [0, 4], "sentence_label": "Read"}],
    }
    (trace,) = read(tmp_path, row)
    assert trace.labels == (Label(0, 4, "Read"),)
    assert isinstance(trace, Trace)


def test_a_study_is_named_as_what_it_is(tmp_path):
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(TraceError, match="is a study, which holds no traces"):
        list(read_traces(tmp_path))
