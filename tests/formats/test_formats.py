"""Every tool's rows, by hand in the shape that its source has, and the exchange with other tools.

`ROWS` holds a fixture for each format, in the shape that the source of the tool has (which version, each reader says). The
tests run lm-eval, Inspect and Inspect Scout themselves, and say so where these are not installed.
"""

import asyncio
import json
import re
import sys
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import TOOL_FILES

from cotlens import Span, Trace, TraceError, read_traces, split_trace
from cotlens.formats.known import FORMATS, detect_row
from cotlens.formats.read import detect_format, read_records
from cotlens.runs.export import export
from cotlens.text.families import gives_summaries
from cotlens.trace import Reasoning

# Everything that stripping, rejoining or a wrong encoding would change.
TEXT = "\r\n <think>\r\n a\u00e9 \U0001f40d\t</think>\n\n b\u2028 \r\n"
USER = {"role": "user", "content": "q"}


def one(row, **options):
    (trace,) = read_records([row], **options)
    return trace


def parts(trace):
    split = split_trace(trace)
    return [span.of(trace.completion) for span in split.think], split.answer.of(trace.completion)


# --- a fixture for each format ---------------------------------------------------------------------------------

VERL = {
    "input": "user\nq\nassistant\n",
    "output": TEXT,
    "gts": "4",
    "score": 0.5,
    "step": 12,
    "acc": True,
    "uid": "u",
}
OPEN_INSTRUCT = {
    "step": 3, "sample_idx": 5, "prompt_idx": 1, "prompt_tokens": [5, 6], "response_tokens": [16, 10, 17, 2],
    "reward": 1.0, "advantage": -0.5, "finish_reason": "stop", "dataset": "math", "ground_truth": [7],
    "request_info": None, "logprobs": [-0.1, -0.2, -0.3, -0.4],
}  # fmt: skip
VERIFIERS_NODES = [
    {"message": {"role": "user", "content": "Add."}, "sampled": False, "token_ids": [1, 2], "mask": [False, False],
     "logprobs": []},
    {"parent": 0, "sampled": True, "token_ids": [9, 10, 11], "mask": [False, True, True], "logprobs": [-0.1, -0.5],
     "message": {"role": "assistant", "reasoning_content": " I ask.\r\n",
                 "tool_calls": [{"id": "c", "type": "function", "name": "add", "arguments": '{"a": 2}'}]}},
    {"parent": 1, "message": {"role": "tool", "tool_call_id": "c", "content": "4"}, "sampled": False,
     "token_ids": [20], "mask": [False]},
    {"parent": 2, "sampled": True, "token_ids": [9, 30, 31], "mask": [False, True, True], "logprobs": [-0.2, -0.3],
     "entropies": [0.5, 0.6],
     "message": {"role": "assistant", "reasoning_content": "It is 4.\n", "content": TEXT}},
]  # fmt: skip
VERIFIERS_TRACE = {
    "version": 1, "id": "t", "verifiers": {"version": "0.4.0"}, "agent": {"name": "agent"}, "nodes": VERIFIERS_NODES,
    "task": {"type": "Add", "key": "add-0", "data": {"idx": 0, "prompt": "Add.", "answer": "4"}},
    "calls": [{"node": 1, "model": "tiny", "finish_reason": "tool_calls"}, {"node": 3, "model": "tiny", "finish_reason": "stop"}],
    "rewards": {"right": {"score": 1.0, "weight": 1.0}, "short": {"score": 0.5, "weight": 0.5}, "unscored": None},
    "is_completed": True, "ok": True, "stop_condition": "agent_completed",
}  # fmt: skip
VERIFIERS = {
    "id": "e", "env": {"id": "arithmetic"}, "task": VERIFIERS_TRACE["task"], "ok": True, "traces": [VERIFIERS_TRACE],
    "run": {"type": "train", "id": "r", "work": {"type": "train", "step": 40}},
}  # fmt: skip
VERIFIERS_RESULTS = {
    "example_id": 7, "prompt": [USER], "completion": [{"role": "assistant", "content": TEXT}], "answer": "4",
    "task": "gsm8k", "reward": 1.0, "is_truncated": False, "metrics": {"right": 1.0},
}  # fmt: skip
LM_EVAL = {
    "doc_id": 0, "doc": {"question": "q"}, "target": "4",
    "arguments": {"gen_args_0": {"arg_0": "Q: q\nA:", "arg_1": {"until": ["\n\n"], "do_sample": False}}},
    "resps": [[TEXT]], "filtered_resps": ["4"], "filter": "strict-match", "metrics": ["exact_match"],
    "doc_hash": "d", "prompt_hash": "p", "target_hash": "t", "exact_match": 1.0,
}  # fmt: skip
LIGHTEVAL = {
    "doc": {"query": "q", "choices": ["3", "4"], "gold_index": [1], "id": "0", "task_name": "gsm8k|0"},
    "metric": {"em": 1.0},
    "model_response": {
        "input": "Q: q", "input_tokens": [1, 2], "text": [TEXT, "b"], "output_tokens": [[3, 4], [5]],
        "text_post_processed": ["b", "b"], "reasonings": [], "logprobs": [-0.1, -0.2], "truncated_tokens_count": 0,
    },
}  # fmt: skip
INSPECT_MESSAGES = [
    {"id": "m0", "content": "q", "source": "input", "role": "user"},
    {"id": "m1", "source": "generate", "role": "assistant", "model": "mockllm/model",
     "content": [{"type": "reasoning", "reasoning": " I ask.\r\n", "redacted": False}, {"type": "text", "text": "Wait."}],
     "tool_calls": [{"id": "c", "function": "add", "arguments": {"a": 2}, "type": "function"}]},
    {"id": "m2", "content": "4", "role": "tool", "tool_call_id": "c", "function": "add"},
    {"id": "m3", "source": "generate", "role": "assistant", "content": TEXT},
]  # fmt: skip
INSPECT = {
    "eval": {"task": "sums", "model": "mockllm/model"},
    "sample": {
        "id": "s1", "epoch": 2, "input": "q", "target": "4", "messages": INSPECT_MESSAGES,
        "output": {
            "model": "mockllm/model",
            "choices": [{"message": INSPECT_MESSAGES[3], "stop_reason": "max_tokens"}],
            "completion": TEXT,
        },
        "scores": {"match": {"value": "C"}},
    },
}  # fmt: skip
SCOUT = {
    "transcript_id": "x", "source_type": "eval_log", "task_set": "sums", "task_id": "s1", "task_repeat": 2,
    "agent": None, "model": "m", "messages": json.dumps(INSPECT_MESSAGES), "events": "[]",
}  # fmt: skip
RESPONSE = {
    "id": "resp_1", "object": "response", "model": "gpt-5", "status": "completed", "incomplete_details": None,
    "created_at": 0, "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    "output": [
        {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "I add."}],
         "encrypted_content": "gAAA"},
        {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "2+2"}},
        {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": [{"type": "output_text", "text": TEXT, "annotations": []}]},
    ],
}  # fmt: skip

ROWS = {
    "verl": VERL,
    "open-instruct": OPEN_INSTRUCT,
    "verifiers": VERIFIERS,
    "verifiers-results": VERIFIERS_RESULTS,
    "lm-eval": LM_EVAL,
    "lighteval": LIGHTEVAL,
    "inspect": INSPECT,
    "scout": SCOUT,
    "responses": RESPONSE,
    "batch": {"custom_id": "q", "response": {"status_code": 200, "body": RESPONSE}, "error": None},
    "trl": {"step": 1, "prompt": "p", "completion": TEXT, "reward": 1.0, "advantage": 0.0},
    "vllm": {
        "request_id": "r",
        "prompt": "p",
        "outputs": [{"index": 0, "text": TEXT, "token_ids": [1]}],
    },
    "openai": {
        "id": "c",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}}],
    },
    "nested": {"id": "n", "reward": 1.0, "response": RESPONSE},
    "sglang": {
        "text": TEXT,
        "output_ids": [1],
        "meta_info": {"id": "s", "finish_reason": {"type": "stop"}},
    },
    "mt-bench": {
        "question_id": 81,
        "answer_id": "a",
        "model_id": "m",
        "choices": [{"index": 0, "turns": ["one", TEXT]}],
    },
    "bfcl": {"id": "simple_0", "result": TEXT, "latency": 0.5},
    "nemo-rl": {"content": ["q", TEXT], "rewards": 1.0, "idx": 0, "input_lengths": 3},
    "columns": {
        "gen_step": ["1", "1"],
        "prompt": ["p", "q"],
        "completion": ["a", TEXT],
        "advantages": [0.0, 0.0],
    },
    "samples": {"problem": "q", "generations": ["a", TEXT]},
    "message": {"role": "assistant", "content": TEXT},
    "messages": {"id": "m", "messages": [USER, {"role": "assistant", "content": TEXT}]},
    "plain": {"id": "p", "prompt": "p", "completion": TEXT},
    "reasoningflow": {
        "doc_id": "d",
        "group": "g",
        "response": TEXT,
        "spans": [],
        "edges": [],
        "question": "q",
    },
    "schoenfeld": {
        "id": "s",
        "response": TEXT,
        "sentences": [],
        "question_id": "k",
        "question": "q",
    },
    "venhoff": {"id": "v", "raw": "r", "thinking": TEXT, "segments": []},
    "thought-anchors": {"id": "a", "prompt": "p", "solution": TEXT, "chunks": []},
    "self-jailbreak": {
        "id": "j",
        "prompt": "p",
        "thinking": TEXT,
        "sentences": [],
        "self_jailbreak_sentences": [],
    },
}
_OWN = "cotlens"  # written by `RUN/traces` itself, and tested with it


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_detected_as_its_own_format_and_as_no_other(name):
    """The only formats that also match are those it specialises: the plain ones, which stand last."""
    assert detect_row(ROWS[name]).name == name
    claimed = {shape.name for shape in FORMATS if shape.matches(ROWS[name])} - {name}
    assert claimed <= {"plain", "messages"}
    assert name not in {"plain", "messages"} or not claimed


def test_there_is_a_fixture_for_every_format():
    assert {shape.name for shape in FORMATS} == {*ROWS, _OWN}


@pytest.mark.parametrize("name", sorted(set(ROWS) - {"open-instruct"}))
def test_the_text_survives_byte_for_byte(tmp_path, name):
    """From a file: CRLF, white space at both ends, multi-byte characters, a line separator. Parquet where that is it."""
    path = tmp_path / ("rows.parquet" if name in ("lighteval", "scout") else "rows.jsonl")
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([ROWS[name]]), path)
    else:
        path.write_text(
            json.dumps(ROWS[name], ensure_ascii=False) + "\n", encoding="utf-8", newline="\n"
        )
    traces = list(read_traces(path))
    assert any(TEXT in trace.completion for trace in traces)
    assert any(trace.completion.encode().endswith(TEXT.encode()) for trace in traces)


@pytest.mark.parametrize("name", ROWS)
def test_every_format_says_what_it_cannot_know(name):
    shape = next(shape for shape in FORMATS if shape.name == name)
    assert shape.lacks or name == "plain"


# --- trainers --------------------------------------------------------------------------------------------------


def test_verl():
    """A uid is no id: before 0.9 all samples of a prompt shared it."""
    first, second = read_records([VERL, VERL])
    assert (first.id, second.id, first.prompt) == ("row:1", "row:2", "user\nq\nassistant\n")
    assert (first.completion, first.reward, first.gold, first.training_step) == (TEXT, 0.5, "4", 12)
    assert first.prompt_id == second.prompt_id
    assert first.meta == {"acc": True, "uid": "u"}
    opened = one(VERL | {"input": "user\nq\nassistant\n<think>\n", "output": "a"})
    assert split_trace(opened).status == "open"
    assert one({key: VERL[key] for key in ("input", "output", "score", "step")}).gold == ""


def test_open_instruct_is_decoded_by_a_tokenizer():
    """`<think> one </think> <eos>`: the end token is a token of the completion and none of its text."""
    pytest.importorskip("transformers")
    from tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    ids = tokenizer.convert_tokens_to_ids(["<think>", "one", "</think>", "<eos>"])
    row = OPEN_INSTRUCT | {"response_tokens": ids}
    trace = one(row, tokenizer=tokenizer)
    assert (trace.completion, trace.prompt) == ("<think> one </think>", "one two")
    assert (trace.token_ids, trace.prompt_token_ids) == (tuple(ids), (5, 6))
    assert (trace.logprobs, trace.finish_reason) == ((-0.1, -0.2, -0.3, -0.4), "stop")
    assert (trace.reward, trace.training_step, trace.domain, trace.gold) == (1.0, 3, "math", "[7]")
    assert (
        one(row | {"finish_reason": "length"}, tokenizer=tokenizer).completion
        == "<think> one </think> <eos>"
    )


def test_verifiers_graphs_become_one_trace_a_turn():
    """Tokens: of turn 1 the sampled 30 and 31; before it 1 2, 9 10 11, 20 and its own scaffold 9. Reward 1 + 0.5 x 0.5."""
    first, last = read_records([VERIFIERS])
    assert (first.id, first.finish_reason, first.prompt_id, first.model) == (
        "t/turn-0",
        "tool_calls",
        "add-0",
        "tiny",
    )
    assert parts(first) == ([" I ask.\r\n"], "")
    assert split_trace(first).status == "closed"
    assert (first.token_ids, first.prompt_token_ids, first.logprobs) == (
        (10, 11),
        (1, 2, 9),
        (-0.1, -0.5),
    )
    assert (first.reward, last.reward, last.gold, last.training_step) == (None, 1.25, "4", 40)
    assert parts(last) == (["It is 4.\n"], TEXT)
    assert (last.token_ids, last.prompt_token_ids) == ((30, 31), (1, 2, 9, 10, 11, 20, 9))
    assert last.meta["entropies"] == [0.5, 0.6]
    assert [message["role"] for message in last.meta["prompt_messages"]] == [
        "user",
        "assistant",
        "tool",
    ]
    assert [trace.id for trace in read_records([VERIFIERS_TRACE])] == ["t/turn-0", "t/turn-1"]


def test_a_file_that_verifiers_wrote():
    """tests/data/verifiers_traces.jsonl is an episode that verifiers 0.4.0 itself wrote (`v1/utils/trace_store.py`) of a
    graph of two turns, built with its own `prepare_turn` and `commit`; the tokens were made up."""
    path = TOOL_FILES / "verifiers_traces.jsonl"
    first, last = read_traces(path)
    assert detect_format(path).name == "verifiers"
    assert parts(first) == ([" I can ask\r\nthe tool. \n"], "")
    assert parts(last) == (["It says 4.\n"], "\n\n**4** \U0001f40d ")
    assert (first.token_ids, first.prompt_token_ids, first.logprobs) == (
        (10, 11, 12),
        (1, 2, 3, 9),
        (-0.1235, -0.5, -0.25),
    )
    assert (last.token_ids, last.prompt_token_ids) == (
        (30, 31),
        (1, 2, 3, 9, 10, 11, 12, 20, 21, 9),
    )
    assert (last.id, last.reward, last.gold, last.model, last.finish_reason) == (
        "t0/turn-1",
        1.25,
        "4",
        "tiny",
        "stop",
    )


WRITTEN = {  # tests/data: by the tool's own code, of a model that answers with THOUGHT; and what stands beside it
    "verl_rollouts.jsonl": (
        "verl",
        "",
        "<|user|>2+2?<|assistant|><think>\n",
    ),  # verl 0.9.1, `_dump_generations`
    "verifiers_results.jsonl": (
        "verifiers-results",
        "<think>",
        "system: Add.\n\nuser: 2+2?",
    ),  # 0.1.8, `evaluate`
    "lm_eval_samples.jsonl": (
        "lm-eval",
        "<think>",
        "Q: 2+2? A:",
    ),  # 0.4.13, `save_results_samples`; one row a filter
    "lighteval_details.parquet": (
        "lighteval",
        "<think>",
        "Q: 3+3?",
    ),  # 0.13.0, `Pipeline` on a task of two sums
}
THOUGHT = "\r\n a é </think>\n\n4 "


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_that_the_tool_itself_wrote(name):
    format_name, opening, prompt = WRITTEN[name]
    path = TOOL_FILES / name
    assert detect_format(path).name == format_name
    first = next(iter(read_traces(path)))
    thought = THOUGHT.replace("4 ", "#### 4 ") if format_name == "lm-eval" else THOUGHT
    assert (first.completion, first.prompt) == (opening + thought, prompt)
    assert first.gold in ("4", "6")
    split = split_trace(first)
    assert (split.status, split.answer.of(first.completion)) == (
        "closed",
        thought.partition("</think>")[2],
    )


def test_verifiers_results_before_0_4():
    trace = one(VERIFIERS_RESULTS)
    assert (trace.completion, trace.prompt, trace.prompt_id, trace.gold, trace.reward) == (
        TEXT,
        "q",
        "7",
        "4",
        1.0,
    )


def test_encrypted_thoughts_of_verifiers_are_flagged():
    state = [{"type": "reasoning", "encrypted_content": "gAAA", "summary": []}]
    message = {"role": "assistant", "content": "b", "provider_state": state}
    node = {"message": message, "sampled": True}
    assert one(VERIFIERS_TRACE | {"nodes": [node], "calls": []}).reasoning is Reasoning.REDACTED


# --- harnesses -------------------------------------------------------------------------------------------------


def samples_file(folder, *rows, results=None):
    path = folder / "samples_gsm8k_2026-11-25T10-00-00.123456.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if results is not None:
        (folder / "results_2026-11-25T10-00-00.123456.json").write_text(json.dumps(results))
    return path


def test_lm_eval_keeps_the_response_once(tmp_path):
    """Two filters write the same response twice; two repeats are two samples."""
    other = LM_EVAL | {"filter": "flexible-extract", "filtered_resps": ["5"]}
    (trace,) = read_traces(samples_file(tmp_path, LM_EVAL, other))
    assert (trace.completion, trace.prompt, trace.gold) == (TEXT, "Q: q\nA:", "4")
    assert trace.id == "samples_gsm8k_2026-11-25T10-00-00.123456:0"
    assert trace.meta["scores"] == {"exact_match": 1.0}
    assert trace.meta["generation"]["until"] == ["\n\n"]
    first, second = read_records([LM_EVAL | {"resps": [["a", "b"]]}])
    assert (first.sample, second.sample, second.completion) == (0, 1, "b")
    assert first.prompt_id == second.prompt_id


def test_lm_eval_prompts_as_lists_and_as_messages():
    older = one(LM_EVAL | {"arguments": [["Q: q\nA:", {"until": []}]]})
    assert older.prompt == "Q: q\nA:"
    sent = json.dumps([{"role": "system", "content": "s"}, USER])
    chat = one(LM_EVAL | {"arguments": {"gen_args_0": {"arg_0": [sent], "arg_1": {}}}})
    assert chat.prompt == "system: s\n\nuser: q"
    assert chat.meta["prompt_messages"][1] == USER


@pytest.mark.parametrize(
    ("arguments", "prompt", "text", "reasoning", "status"),
    [
        (
            {"think_end_token": "</think>"},
            "q<|assistant|>\n<think>\n",
            "It is 4.",
            "redacted",
            "absent",
        ),
        ("pretrained=m,think_end_token=</think>", "q", "It is 4.", "redacted", "absent"),
        ({"pretrained": "m"}, "q<|assistant|>\n<think>\n", "I add", "verbatim", "open"),
        (None, "q<|assistant|>\n<think>\n", "It is 4.", "redacted", "absent"),
        ("not known", "q<|assistant|>\n<think>\n", "It is 4.", "redacted", "absent"),
        ("not known", "q", "It is 4.", "verbatim", "absent"),
        ("", "q<|assistant|>\n<think>\n", "I add", "verbatim", "open"),
        (None, "q<|assistant|>\n<think>\n", "I add.</think>4", "verbatim", "closed"),
        ({"think_end_token": "</think>"}, "q", "<think>I add", "verbatim", "open"),
        (None, "q", "It is 4.", "verbatim", "absent"),
    ],
)
def test_thinking_that_lm_eval_cut_is_no_open_thought(
    tmp_path, arguments, prompt, text, reasoning, status
):
    """The results file says whether an end token was given; without it, what can be either is left out of dynamics."""
    row = LM_EVAL | {"arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}}, "resps": [[text]]}
    results = None
    if arguments is not None:
        known = None if arguments == "not known" else arguments  # simple_evaluate(model=HFLM(...))
        results = {"model_name": "m", "config": {"model_args": known}}
    (trace,) = read_traces(samples_file(tmp_path, row, results=results))
    assert (trace.reasoning.value, split_trace(trace).status.value) == (reasoning, status)
    assert trace.model == ("m" if results else "")
    assert ("thinking_cut" in trace.meta) == (reasoning == "redacted")


@pytest.mark.parametrize("names", ["{}", "__{}__"])
def test_lighteval(tmp_path, names):
    """Column names of 0.13 and of 0.12; log-probs are of the first sample."""
    path = tmp_path / "details_gsm8k_2026.parquet"
    pq.write_table(
        pa.Table.from_pylist([{names.format(key): value for key, value in LIGHTEVAL.items()}]), path
    )
    first, second = read_traces(path)
    assert (first.id, first.completion, first.prompt, first.gold) == (
        "details_gsm8k_2026:1/0",
        TEXT,
        "Q: q",
        "4",
    )
    assert (first.token_ids, first.logprobs, first.prompt_token_ids) == (
        (3, 4),
        (-0.1, -0.2),
        (1, 2),
    )
    assert (second.token_ids, second.logprobs, second.domain) == ((5,), None, "gsm8k|0")
    assert first.meta["text_post_processed"] == "b"
    assert first.meta["metric"] == {"em": 1.0}


def test_lighteval_reasoning_of_an_endpoint():
    response = {"input": [USER], "text": ["b"], "reasonings": ["a"], "output_tokens": []}
    trace = one(LIGHTEVAL | {"model_response": response})
    assert (trace.completion, trace.think, trace.prompt, trace.token_ids) == (
        "ab",
        (Span(0, 1),),
        "q",
        None,
    )


def test_inspect_samples_become_one_trace_a_turn():
    first, last = read_records([INSPECT])
    assert (first.id, first.sample, first.domain, first.gold) == ("row:s1/2/turn-0", 1, "sums", "4")
    assert parts(first) == ([" I ask.\r\n"], "Wait.")
    assert (first.finish_reason, last.finish_reason) == ("tool_calls", "length")
    assert (last.completion, last.prompt) == (
        TEXT,
        "user: q\n\nassistant:  I ask.\r\nWait.\n\ntool: 4",
    )
    assert last.meta["scores"] == {"match": {"value": "C"}}
    assert last.meta["eval"]["task"] == "sums"


def test_inspect_log_probs_and_further_choices():
    message = {"role": "assistant", "content": "aé", "source": "generate"}
    content = [
        {"token": "a", "logprob": -0.1, "bytes": [97]},
        {"token": "é", "logprob": -0.2, "bytes": [195, 169]},
    ]
    choices = [{"message": message, "stop_reason": "stop", "logprobs": {"content": content}}]
    choices.append({"message": message | {"content": "b"}, "stop_reason": "stop"})
    sample = {"id": 1, "epoch": 1, "messages": [USER, message], "output": {"choices": choices}}
    first, second = read_records([{"eval": {"task": "t"}, "sample": sample}])
    assert (first.completion, first.logprobs, first.token_starts) == ("aé", (-0.1, -0.2), (0, 1))
    assert (second.id, second.completion, second.logprobs) == ("row:1/1/choice-1", "b", None)
    assert first.prompt_id == second.prompt_id


@pytest.mark.parametrize(
    ("block", "thinking", "reasoning"),
    [
        ({"type": "reasoning", "reasoning": "a", "signature": "s"}, ["a"], "verbatim"),
        ({"type": "reasoning", "reasoning": "gAAA", "redacted": True}, [], "redacted"),
        (
            {"type": "reasoning", "reasoning": "gAAA", "summary": "a", "redacted": True},
            ["a"],
            "summary",
        ),
        (
            {"type": "reasoning", "reasoning": "", "summary": "a", "redacted": False},
            ["a"],
            "summary",
        ),
        (
            {"type": "reasoning", "reasoning": "a", "summary": "s", "redacted": False},
            ["a"],
            "verbatim",
        ),
    ],
)
def test_ciphertext_of_inspect_is_no_thinking(block, thinking, reasoning):
    content = [block, {"type": "text", "text": "b"}]
    message = {"role": "assistant", "source": "generate", "content": content}
    sample = {"id": 1, "epoch": 1, "messages": [USER, message], "output": {"choices": []}}
    trace = one({"eval": {}, "sample": sample})
    assert (parts(trace), trace.reasoning.value) == ((thinking, "b"), reasoning)


def test_scout_transcripts():
    first, last = read_records([SCOUT])
    assert (first.id, last.id, last.completion, last.domain, last.sample) == (
        "x/turn-0",
        "x/turn-1",
        TEXT,
        "sums",
        1,
    )


# --- summaries, redaction, tools -------------------------------------------------------------------------------


def test_the_client_of_openai_takes_the_fixture_for_a_response():
    """And what it gives back reads alike: with every field it knows of, or with those that were set."""
    responses = pytest.importorskip(
        "openai.types.responses", reason="the openai client is not installed"
    )
    response = responses.Response.model_validate(RESPONSE)
    for row in (response.model_dump(), response.to_dict()):
        trace = one(row)
        assert (trace.completion, trace.think, trace.reasoning) == (
            "I add." + TEXT,
            (Span(0, 6),),
            Reasoning.SUMMARY,
        )


def test_openai_responses_show_summaries():
    trace = one(RESPONSE)
    assert (parts(trace), trace.reasoning, trace.finish_reason) == (
        (["I add."], TEXT),
        Reasoning.SUMMARY,
        "stop",
    )
    assert [call["type"] for call in trace.meta["tool_calls"]] == ["web_search_call"]
    hidden = [
        {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
        RESPONSE["output"][2],
    ]
    assert one(RESPONSE | {"output": hidden}).reasoning is Reasoning.REDACTED
    cut = one(
        RESPONSE | {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    )
    assert (cut.finish_reason, cut.meta["finish_reason"]) == ("length", "max_output_tokens")
    asks = [
        RESPONSE["output"][0],
        {"type": "function_call", "name": "add", "arguments": "{}", "call_id": "c"},
    ]
    assert split_trace(one(RESPONSE | {"output": asks})).status == "closed"


CHAT = {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [
    {"index": 0, "message": {"role": "assistant", "reasoning_content": "I add.", "content": "4"}, "finish_reason": "stop"}
]}  # fmt: skip
CLAUDE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn", "content": [
    {"type": "thinking", "thinking": "I add.", "signature": "s"}, {"type": "text", "text": "4"}
]}  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "finish"),
    [
        (
            {
                "id": "batch_req_1",
                "response": {"status_code": 200, "request_id": "r", "body": CHAT},
                "error": None,
            },
            "stop",
        ),
        ({"result": {"type": "succeeded", "message": CLAUDE}}, "stop"),
    ],
)
def test_a_batch_names_its_traces_by_the_request(outcome, finish):
    trace = one({"custom_id": "aime-3"} | outcome)
    assert (trace.id, trace.model, parts(trace), trace.finish_reason) == (
        "aime-3",
        "m",
        (["I add."], "4"),
        finish,
    )
    assert trace.meta["response_id"] in ("chatcmpl-1", "msg_1")


def test_a_response_in_a_batch_is_read_as_one():
    trace = one(
        {"custom_id": "q", "response": {"status_code": 200, "body": RESPONSE}, "error": None}
    )
    assert (trace.id, parts(trace), trace.reasoning) == ("q", (["I add."], TEXT), Reasoning.SUMMARY)


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (
            {
                "response": {"status_code": 429, "body": {"error": {"message": "slow down"}}},
                "error": None,
            },
            "429.*slow down",
        ),
        ({"response": None, "error": {"code": "batch_expired", "message": "too late"}}, "too late"),
        (
            {"result": {"type": "errored", "error": {"type": "invalid_request"}}},
            "errored.*invalid_request",
        ),
        ({"result": {"type": "expired"}}, "expired.*no answer"),
    ],
)
def test_a_request_that_failed_is_a_bad_row_with_the_servers_reason(tmp_path, outcome, reason):
    good = {"custom_id": "good", "response": {"status_code": 200, "body": CHAT}, "error": None}
    path = tmp_path / "batch.jsonl"
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in ({"custom_id": "bad"} | outcome, good))
    )
    rejects = []
    assert [trace.id for trace in read_traces(path, on_reject=rejects.append)] == ["good"]
    assert re.search(f"request bad failed.*{reason}", rejects[0].reason)


@pytest.mark.parametrize(
    ("content", "thinking", "answer", "reasoning"),
    [
        ([{"type": "redacted_thinking", "data": "x"}, {"type": "text", "text": "b"}], [], "b", "redacted"),
        ([{"type": "thinking", "thinking": "", "signature": "s"}, {"type": "text", "text": "b"}], [], "b", "redacted"),
        ([{"type": "thinking", "thinking": "a"}, {"type": "redacted_thinking", "data": "x"},
          {"type": "text", "text": "b"}], ["a"], "b", "redacted"),
        ([{"type": "thinking", "thinking": "a"}, {"type": "text", "text": "say"},
          {"type": "server_tool_use", "name": "search", "input": {}},
          {"type": "web_search_tool_result", "content": []}, {"type": "text", "text": "b"}], ["a"], "b", "verbatim"),
        ([{"type": "thinking", "thinking": "a"}, {"type": "tool_use", "name": "f", "input": {}},
          {"type": "thinking", "thinking": "c"}, {"type": "tool_use", "name": "g", "input": {}}],
         ["a", "c"], "", "verbatim"),
        ([{"type": "text", "text": "say"}, {"type": "tool_use", "name": "f", "input": {}}], [], "say", "verbatim"),
    ],
)  # fmt: skip
def test_blocks_keep_their_order(content, thinking, answer, reasoning):
    trace = one({"id": "x", "messages": [USER, {"role": "assistant", "content": content}]})
    assert (parts(trace), trace.reasoning.value) == ((thinking, answer), reasoning)


def test_calls_stand_where_they_were_made_and_are_neither_thinking_nor_answer():
    """`I think` 0:7, `Look:` 7:12, a call at 12, `I see` 12:17, `Done` 17:21."""
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {"q": "x"}}
    content = [
        {"type": "thinking", "thinking": "I think", "signature": "s"},
        {"type": "text", "text": "Look:"},
        call,
    ]
    content += [{"type": "thinking", "thinking": "I see"}, {"type": "text", "text": "Done"}]
    trace = one({"id": "x", "messages": [USER, {"role": "assistant", "content": content}]})
    assert (trace.completion, trace.think) == ("I thinkLook:I seeDone", (Span(0, 7), Span(12, 17)))
    assert trace.answer == Span(17, 21)
    assert trace.meta["tool_calls"] == [{"at": 12, **call}]
    assert trace.meta["other_parts"] == [{"at": 0, "type": "thinking", "signature": "s"}]


def test_tool_messages_are_prompt_and_no_trace():
    turns = [
        USER,
        {"role": "assistant", "content": "", "reasoning_content": "a", "tool_calls": [{"id": "c"}]},
    ]
    turns += [
        {"role": "tool", "content": "4", "tool_call_id": "c"},
        {"role": "assistant", "content": "b"},
    ]
    first, last = read_records([{"id": "x", "messages": turns}])
    assert (first.completion, first.finish_reason, last.completion) == ("a", "tool_calls", "b")
    assert last.prompt == "user: q\n\nassistant: \n\ntool: 4"


def test_an_assistant_message_of_no_weight_is_context():
    turns = [
        USER,
        {"role": "assistant", "content": "a", "weight": 0},
        USER,
        {"role": "assistant", "content": "b"},
    ]
    assert one({"id": "x", "messages": turns}).completion == "b"


def test_the_length_of_a_summary_is_no_length_of_thinking():
    """Of one summarised and one verbatim thought of 5 characters only the latter counts; both answers do."""
    from cotlens import trace_table
    from cotlens.measures.lengths import length_quantiles

    verbatim = Trace(id="a", completion="<think>I add</think>b", model="gpt-5")
    rows = length_quantiles(trace_table([one(RESPONSE), verbatim])).set_index("measure")
    assert rows["n"].to_dict() == {"n_think_chars": 1, "n_answer_chars": 2, "n_steps": 1}
    assert rows.loc["n_think_chars", "median"] == 5


def test_steps_of_a_summary_are_not_classified():
    from cotlens import step_table

    steps = step_table([one(RESPONSE)])
    assert len(steps) == 1
    assert steps["is_reflection"].isna().all()
    assert set(steps["kind"]) == {""}


@pytest.mark.parametrize(
    ("model", "known"),
    [("gpt-5-mini", True), ("openai/o3", True), ("claude-sonnet-4-5", True), ("anthropic/claude-opus-4", True),
     ("gemini-2.5-pro", True), ("claude-3-7-sonnet", False), ("gpt-oss-120b", False), ("o3-like", True),
     ("DeepSeek-R1", False), ("foo3", False), ("openai:o3", True), ("google_genai:gemini-2.5-pro", True),
     ("anthropic/claude-4-sonnet-20250522", True), ("anthropic--claude-4-sonnet", True), ("databricks-gpt-5", True),
     ("us.anthropic.claude-sonnet-4-20250514-v1:0", True), ("openrouter/anthropic/claude-sonnet-4:thinking", True),
     ("gemini-flash-latest", True), ("o3@high", True), ("my-org/o3-distill", False), ("runs/o1-grpo/checkpoint-5", False),
     ("O1-OPEN/OpenO1-Qwen-7B-v0.1", False), ("TeichAI/gemini-2.5-flash-distill", False), ("gemini-3-12b", False),
     ("claude-instant-1.2", False), ("/ckpt/o3-seed/step_100", False)],
)  # fmt: skip
def test_models_whose_thinking_is_shown_as_a_summary(tmp_path, model, known):
    """In a field of its own; in tags it is the model's text. What was overruled stays so when it is written and read."""
    assert gives_summaries(model) is known
    told = one({"id": "a", "model": model, "thinking": "I add", "answer": "4"})
    assert told.reasoning is (Reasoning.SUMMARY if known else Reasoning.VERBATIM)
    assert (
        one({"id": "a", "model": model, "completion": "<think>I add</think>4"}).reasoning
        is Reasoning.VERBATIM
    )
    own = replace(told, reasoning=Reasoning.VERBATIM)
    for to in ("openai", "scout", "hf"):
        export([own], tmp_path / to, to=to)
        assert next(iter(read_traces(tmp_path / to))).reasoning is Reasoning.VERBATIM


# --- what fresh eyes broke -------------------------------------------------------------------------------------

CALLED = [
    {"type": "text", "text": "say"},
    {"type": "tool_use", "id": "1", "name": "f", "input": {}},
]


@pytest.mark.parametrize(
    ("message", "thoughts", "answer"),
    [
        # a thought beside blocks with a call, and in the second of two fields
        ({"reasoning_content": "THOUGHT", "content": CALLED}, ["THOUGHT"], "say"),
        ({"reasoning_content": "", "reasoning": "REAL", "content": "b"}, ["REAL"], "b"),
        # a tool's result is no answer, even where the text has tags
        ({"content": [{"type": "text", "text": "<think>T</think>I call "}, CALLED[1],
                      {"type": "tool_result", "content": "r"}, {"type": "text", "text": "final"}]}, ["T"], "I call final"),
        # Bedrock's blocks, a text that says no type, another library's call
        ({"content": [{"reasoningContent": {"reasoningText": {"text": "T", "signature": "s"}}}, {"text": "ans"}]}, ["T"], "ans"),
        ({"content": [{"type": "thinking", "thinking": "T"}, {"text": "ans"}]}, ["T"], "ans"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "tool-call", "toolName": "f"}, {"type": "text", "text": "b"}]}, [], "b"),
        # ciphertext behind an answer ends no thought
        ({"content": [{"type": "thinking", "thinking": "T"}, {"type": "text", "text": "A"}, {"type": "redacted_thinking", "data": "x"}]}, ["T"], "A"),
        # an empty place for the thought: there is none, and the text is the answer
        ({"reasoning_content": "", "content": "b"}, [], "b"),
        ({"content": None, "refusal": "I cannot"}, [], "I cannot"),
    ],
)  # fmt: skip
def test_messages_of_many_kinds(message, thoughts, answer):
    trace = one(
        {"id": "a", "model": "DeepSeek-R1", "messages": [USER, {"role": "assistant", **message}]}
    )
    assert parts(trace) == (thoughts, answer)


def test_nothing_that_a_message_says_is_lost():
    """What is no text is in the metadata: a second thought, citations, parts of other kinds, with their places."""
    content = [
        {"type": "text", "text": "ab", "citations": [1]},
        {"type": "image_url", "url": "u"},
        {"type": "text", "text": "c"},
    ]
    trace = one(
        {
            "id": "a",
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "reasoning_content": "T",
                    "reasoning": "U",
                    "content": content,
                },
            ],
        }
    )
    assert parts(trace) == (["T"], "abc")
    assert trace.meta["other_parts"] == [
        {"at": 0, "type": "text", "citations": [1]},
        {"at": 2, "type": "image_url", "url": "u"},
    ]
    assert trace.meta["message"] == {"reasoning": "U"}
    hidden = [{"type": "reasoning.encrypted", "data": "x"}]
    trace = one(
        {
            "id": "a",
            "messages": [
                USER,
                {"role": "assistant", "reasoning_details": hidden, "content": CALLED},
            ],
        }
    )
    assert (trace.reasoning, trace.meta["message"]) == (
        Reasoning.REDACTED,
        {"reasoning_details": hidden},
    )
    signed = [{"type": "reasoning.text", "text": None, "signature": "s"}]
    assert (
        one(
            {
                "id": "a",
                "messages": [
                    USER,
                    {"role": "assistant", "reasoning_details": signed, "content": "b"},
                ],
            }
        ).reasoning
        is Reasoning.REDACTED
    )


def test_what_a_row_says_of_its_end_is_said_of_its_last_turn():
    turns = [
        USER,
        {"role": "assistant", "content": "first"},
        USER,
        {"role": "assistant", "content": "<think>x"},
    ]
    row = {
        "id": "a",
        "model": "DeepSeek-R1",
        "messages": turns,
        "finish_reason": "length",
        "prompt_token_ids": [1],
    }
    first, last = read_records([row])
    assert (first.finish_reason, first.prompt_token_ids, last.finish_reason) == (
        "stop",
        None,
        "length",
    )
    assert split_trace(first).status == "absent"


def test_an_answer_may_speak_of_tags():
    row = {
        "id": "a",
        "thinking": "Real long thought",
        "response": "Use <think>like this</think> in it.",
    }
    assert parts(one(row)) == (["Real long thought"], row["response"])
    assert one(row | {"response": "<think>\nReal, long thought</think>b"}).origin == "text"


def test_the_options_of_a_question_are_no_completions():
    row = {
        "id": "a",
        "question": "q",
        "choices": [{"label": "A", "text": "Paris"}],
        "response": "<think>t</think>A",
    }
    assert (detect_row(row).name, one(row).completion) == ("plain", row["response"])
    row = {"id": "a", "question": "q", "outputs": [{"text": "stdout"}], "response": "b"}
    assert one(row).completion == "b"
    shots = {
        "id": "a",
        "conversation": [USER, {"role": "assistant", "content": "shot"}],
        "response": "b",
    }
    assert (one(shots).completion, one(shots).prompt) == ("b", "user: q\n\nassistant: shot")
    judged = {"instruction": "i", "input": "x", "output": "b", "score": 1, "step": 2}
    assert (detect_row(judged).name, one(judged).prompt) == ("plain", "i\n\nx")


def test_items_of_a_response_without_its_head():
    items = [RESPONSE["output"][0], RESPONSE["output"][2]]
    trace = one({"id": "a", "prompt": "q", "output": items})
    assert (trace.prompt, trace.reasoning, parts(trace)) == (
        "q",
        Reasoning.SUMMARY,
        (["I add."], TEXT),
    )
    said = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "I look."}],
        "phase": "commentary",
    }
    trace = one(RESPONSE | {"output": [said, items[1]]})
    assert parts(trace) == ([], TEXT)
    assert trace.meta["other_parts"] == [{"at": 0, "type": "message", "phase": "commentary"}]


def test_a_repeated_id_with_another_text_is_no_repeat(tmp_path):
    """Two tasks' samples in one file; a filter's copy has the same text. Two files of one name are told apart."""
    rows = [LM_EVAL, LM_EVAL | {"filter": "loose"}]
    assert len(list(read_records(rows))) == 1
    with pytest.raises(TraceError, match="occurs twice"):
        list(read_records([*rows, LM_EVAL | {"resps": [["another"]]}]))
    for folder in ("a/m", "b/m"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "samples.jsonl").write_text(json.dumps(LM_EVAL) + "\n")
    files = [tmp_path / folder / "samples.jsonl" for folder in ("a/m", "b/m")]
    assert [trace.id for trace in read_traces(files)] == ["a/m/samples:0", "b/m/samples:0"]


def test_a_later_row_of_another_shape_is_an_error():
    plain = {"id": "a", "completion": "a"}
    with pytest.raises(
        TraceError, match=r"row 2: the file is read as plain, but this row looks like trl"
    ):
        list(read_records([plain, ROWS["trl"]]))
    assert len(list(read_records([plain, ROWS["trl"]], format="plain"))) == 2


def test_gaps_of_a_table_are_no_text():
    nan = float("nan")
    trace = one(
        {"id": nan, "prompt": nan, "completion": "b", "model": nan, "gold": nan, "reward": nan}
    )
    assert (trace.prompt, trace.model, trace.gold, trace.reward) == ("", "", "", None)
    assert one({"id": "a", "completion": "b", "sample_id": "gsm-1"}).meta["sample_id"] == "gsm-1"


def test_token_numbers_that_do_not_fit_are_an_error():
    output = {"index": 0, "text": "b", "token_ids": [1, 2], "logprobs": [{"1": -0.1}]}
    with pytest.raises(TraceError, match="2 token_ids and 1 entries of logprobs"):
        one({"request_id": "r", "outputs": [output]})
    with pytest.raises(TraceError, match="logprobs must be a list"):
        one({"id": "a", "completion": "b", "logprobs": "12"})
    older = {"tokens": ["a", "b"], "token_logprobs": [None, -1.0], "text_offset": [0, 1]}
    trace = one({"id": "a", "choices": [{"index": 0, "text": "ab", "logprobs": older}]})
    assert (trace.token_starts, trace.logprobs[1]) == ((0, 1), -1.0)


def test_a_folder_of_other_endings(tmp_path):
    (tmp_path / "a.ndjson").write_text('{"id": "a", "completion": "a"}\n')
    assert [trace.id for trace in read_traces(tmp_path)] == ["a"]
    (tmp_path / "a.ndjson").rename(tmp_path / "a.json")
    assert [trace.id for trace in read_traces(tmp_path)] == ["a"]


@pytest.mark.parametrize("name", ["../secret.arrow", "", ".", 1])
def test_a_dataset_names_nothing_outside_itself(tmp_path, name):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(TraceError, match="which is no file or folder in it"):
        list(read_traces(tmp_path))
    (tmp_path / "state.json").unlink()
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["."]}')
    with pytest.raises(TraceError, match="which is no file or folder in it"):
        list(read_traces(tmp_path))


def test_the_name_given_on_the_command_line_counts_for_summaries(tmp_path):
    from cotlens import Run, analyze

    (tmp_path / "a.jsonl").write_text(
        '{"id": "a", "prompt": "q", "thinking": "Wait.", "answer": "4", "cotlens": "v1"}\n'
    )
    analyze(tmp_path / "a.jsonl", tmp_path / "run", model="gpt-5")
    assert Run(tmp_path / "run").trace_table()["reasoning"].tolist() == ["summary"]


# --- bad input -------------------------------------------------------------------------------------------------

BAD = {
    "verl text": (VERL | {"output": ["a"]}, "output must be text, got list"),
    "verl score": (VERL | {"score": "high"}, "score must be a number, got str"),
    "open-instruct without tokenizer": (
        OPEN_INSTRUCT,
        "token ids and no text; name their tokenizer",
    ),
    "open-instruct tokens": (
        OPEN_INSTRUCT | {"response_tokens": "1 2"},
        "token ids must be a list",
    ),
    "verifiers error": (
        VERIFIERS | {"traces": []},
        "the episode has no trace .it reports no error.",
    ),
    "verifiers unsampled": (
        VERIFIERS_TRACE | {"nodes": VERIFIERS_NODES[:1]},
        "no message of the trace was made by",
    ),
    "verifiers cycle": (
        VERIFIERS_TRACE | {"nodes": [VERIFIERS_NODES[1] | {"parent": 0}]},
        "node 0 has the parent 0, which does not come before it",
    ),
    "verifiers log-probs": (
        VERIFIERS_TRACE | {"nodes": [VERIFIERS_NODES[0], VERIFIERS_NODES[1] | {"logprobs": [0.0]}]},
        "2 sampled tokens and 1 log-probs",
    ),
    "verifiers nodes": (
        VERIFIERS_TRACE | {"nodes": [{"message": 3, "sampled": True}]},
        "a message must be an object with a role and a content, got int: 3",
    ),
    "lm-eval choices": (
        LM_EVAL | {"resps": [[["-1", "True"]], [["-2", "False"]]]},
        "several requests",
    ),
    "lm-eval log-likelihood": (
        LM_EVAL | {"arguments": {"gen_args_0": {"arg_0": "q", "arg_1": " yes"}}},
        "compares log-likelihoods",
    ),
    "lm-eval response": (LM_EVAL | {"resps": [[3]]}, "a response must be text, got int"),
    "lighteval log-likelihood": (
        LIGHTEVAL | {"model_response": {"text": []}},
        "the model wrote no text",
    ),
    "inspect without a turn": (
        {"eval": {}, "sample": {"id": 1, "messages": [], "error": {"message": "boom"}}},
        "sample 1 has no turn of a model: boom",
    ),
    "scout messages": (SCOUT | {"messages": "{}"}, "messages must be a list of objects, got dict"),
    "scout JSON": (SCOUT | {"messages": "["}, "messages must be a list of objects, got str"),
    "empty response": (RESPONSE | {"output": []}, "the response has no output .status completed."),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_named(tmp_path, case):
    row, message = BAD[case]
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(TraceError, match=rf"bad\.jsonl:1: .*{message}"):
        list(read_traces(path))


def test_deeply_nested_rows_are_refused(tmp_path):
    path = tmp_path / "deep.jsonl"
    path.write_text('{"doc_id": 0, "resps": ' + "[" * 200_000 + "]" * 200_000 + "}\n")
    with pytest.raises(TraceError, match=r"deep\.jsonl:1: not valid JSON"):
        list(read_traces(path))


def test_a_results_file_of_another_tool_is_named(tmp_path):
    path = samples_file(tmp_path, LM_EVAL, results=["no"])
    with pytest.raises(TraceError, match="not a results file of lm-eval"):
        list(read_traces(path))


# --- Inspect's own logs ----------------------------------------------------------------------------------------


def test_an_inspect_log_needs_inspect(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with zipfile.ZipFile(tmp_path / "log.eval", "w") as file:
        file.writestr("header.json", "{}")
    with pytest.raises(TraceError, match=r"log\.eval: an Inspect log .*cotlens\[inspect\]"):
        list(read_traces(tmp_path / "log.eval"))


def test_samples_of_a_log_are_asked_for_a_few_at_a_time(tmp_path, monkeypatch):
    """A stand-in for the four functions of Inspect that are called, with their signatures as of 0.3.285: 20 samples are
    read in two goes, attachments resolved, events left aside; what it raises at a damaged file names the file."""

    class Model(SimpleNamespace):
        def model_dump(self, *, mode, exclude_none, exclude=frozenset()):
            assert (mode, exclude_none) == ("json", True)
            return {key: value for key, value in vars(self).items() if key not in exclude}

    asked = []

    def by_id(
        log_file,
        samples,
        *,
        concurrency=8,
        resolve_attachments=False,
        format="auto",
        exclude_fields=None,
    ):
        asked.append(len(samples))
        assert resolve_attachments
        assert (
            {"events", "store"} <= exclude_fields <= {"events", "events_data", "timelines", "store"}
        )
        if len(asked) > 2:
            raise KeyError("samples/3.json")
        return [
            Model(**INSPECT["sample"] | {"id": number, "epoch": epoch, "events": []})
            for number, epoch in samples
        ]

    log = SimpleNamespace(
        read_eval_log=lambda log_file, header_only=False, resolve_attachments=False, format="auto": (
            SimpleNamespace(
                eval=Model(task="sums", model="m", dataset="left out"), status="success"
            )
        ),
        read_eval_log_sample_summaries=lambda log_file, format="auto": [
            Model(id=i, epoch=1) for i in range(20)
        ],
        read_eval_log_samples_by_id=by_id,
    )
    monkeypatch.setitem(sys.modules, "inspect_ai", SimpleNamespace(log=log))
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.json", "{}")
    traces = list(read_traces(path))
    assert (len(traces), asked, traces[-1].id) == (40, [16, 4], "log:19/1/turn-1")
    assert traces[-1].meta["eval"] == {"task": "sums", "model": "m"}
    with pytest.raises(
        TraceError, match=r"log\.eval: Inspect cannot read its log .*samples/3\.json"
    ):
        list(read_traces(path))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(TraceError, match=r"log\.eval: the zip file is cut off or damaged"):
        list(read_traces(path))
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "hi")
    with pytest.raises(TraceError, match=r"a zip file, but no Inspect log; it holds notes\.txt"):
        list(read_traces(path))


def _inspect_log(folder, kind):
    """A log of the real tool: a mock model, a tool call, two epochs, interleaved blocks."""
    inspect_ai = pytest.importorskip(
        "inspect_ai", reason="Inspect's logs are read by inspect-ai, which is not installed"
    )
    from inspect_ai.dataset import Sample
    from inspect_ai.model import (
        ChatMessageAssistant,
        ContentReasoning,
        ContentText,
        ModelOutput,
        ModelUsage,
        get_model,
    )
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate, use_tools
    from inspect_ai.tool import tool

    @tool
    def add():
        async def execute(a: int, b: int) -> int:
            """Add.

            Args:
                a: one number
                b: another
            """
            return a + b

        return execute

    def outputs(messages, tools, choice, config):
        made = output(messages)
        made.usage = ModelUsage()  # else Inspect counts with a tokenizer that it downloads
        return made

    def output(messages):
        if messages[-1].role == "user":
            made = ModelOutput.for_tool_call(
                "mockllm/model", "add", {"a": 2, "b": 2}, content=" I call."
            )
            made.message.content = [
                ContentReasoning(reasoning=" I ask.\r\n"),
                ContentText(text="Wait."),
            ]
            return made
        content = [ContentReasoning(reasoning="It is 4.\n"), ContentText(text=TEXT)]
        return ModelOutput.from_message(ChatMessageAssistant(content=content), "max_tokens")

    task = inspect_ai.Task(
        dataset=[Sample(input="Add 2 and 2.", target="4", id="sum")],
        solver=[use_tools(add()), generate()],
        scorer=includes(),
        name="sums",
    )
    model = get_model("mockllm/model", custom_outputs=outputs)
    (log,) = inspect_ai.eval(
        task,
        model=model,
        epochs=2,
        log_dir=str(folder),
        log_format=kind,
        display="none",
        log_realtime=False,
    )
    assert log.status == "success", log.error
    (path,) = folder.glob(f"*.{kind}")
    return path


@pytest.mark.filterwarnings("default")  # other people's deprecations
@pytest.mark.parametrize("kind", ["eval", "json"])
def test_a_real_inspect_log_can_be_read(tmp_path, kind):
    """Inspect itself runs a mock model and writes the log."""
    path = _inspect_log(tmp_path, kind)
    traces = list(read_traces(path))
    assert len(traces) == 4
    first, last = traces[:2]
    assert parts(first) == ([" I ask.\r\n"], "Wait.")
    assert parts(last) == (["It is 4.\n"], TEXT)
    assert (first.finish_reason, last.finish_reason, last.gold, last.domain) == (
        "tool_calls",
        "length",
        "4",
        "sums",
    )
    assert last.id.endswith(":sum/1/turn-1")
    assert last.meta["scores"]
    if kind == "eval":
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(TraceError, match="cut off or damaged"):
            list(read_traces(path))


# --- lm-eval itself --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")  # other people's deprecations
def test_real_lm_eval_samples_can_be_read(tmp_path):
    """The harness itself evaluates a model that repeats a text, once with the end token of the thought named."""
    pytest.importorskip(
        "lm_eval", reason="lm-eval is not installed: its own samples are not written anew"
    )
    from lm_eval.api.model import LM
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    class Parrot(LM):
        def generate_until(self, requests):
            return ["<think>\r\n a é </think>\n\n#### 4 " for _ in requests]

        def loglikelihood(self, requests):
            raise NotImplementedError

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

    (tmp_path / "data.jsonl").write_text('{"q": "2+2?", "a": "4"}\n')
    (tmp_path / "sums.yaml").write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/data.jsonl\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: 'Q: {{q}} A:'\ndoc_to_target: '{{a}}'\n"
        "generation_kwargs:\n  until: ['Q:']\nmetric_list:\n  - metric: exact_match\n"
        "filter_list:\n  - name: strict\n    filter:\n      - function: take_first\n"
        "  - name: loose\n    filter:\n      - function: regex\n        regex_pattern: '(\\d+)'\n"
        "      - function: take_first\n"
    )
    tracker = EvaluationTracker(output_path=str(tmp_path / "out"))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    made = simple_evaluate(
        model=Parrot(),
        tasks=["sums"],
        task_manager=manager,
        log_samples=True,
        evaluation_tracker=tracker,
        bootstrap_iters=0,
    )
    samples = made.pop("samples")
    tracker.save_results_aggregated(results=made, samples=samples)
    tracker.save_results_samples("sums", samples["sums"])
    (path,) = (tmp_path / "out").rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(rows) == 2  # one a filter
    assert set(LM_EVAL) - {"exact_match"} <= set(rows[0])
    (trace,) = read_traces(path)
    assert (trace.completion, trace.prompt, trace.gold) == (
        "<think>\r\n a é </think>\n\n#### 4 ",
        "Q: 2+2? A:",
        "4",
    )
    assert split_trace(trace).status == "closed"


@pytest.mark.filterwarnings("default")  # other people's deprecations
def test_transcripts_that_scout_made_of_a_log_can_be_read(tmp_path):
    scout = pytest.importorskip("inspect_scout", reason="inspect-scout is not installed")
    (tmp_path / "logs").mkdir()
    _inspect_log(tmp_path / "logs", "eval")

    async def convert():
        async with scout.transcripts_db(str(tmp_path / "db")) as database:
            await database.insert(scout.transcripts_from(str(tmp_path / "logs")))

    asyncio.run(convert())
    (path,) = (tmp_path / "db").glob("*.parquet")
    traces = list(read_traces(path))
    assert len(traces) == 4
    assert parts(traces[0]) == ([" I ask.\r\n"], "Wait.")
    assert parts(traces[1]) == (["It is 4.\n"], TEXT)


def test_info_names_the_format_and_what_it_lacks(tmp_path):
    from typer.testing import CliRunner

    from cotlens.cli import app

    path = tmp_path / "12.jsonl"
    path.write_text(json.dumps(VERL) + "\n")
    report = CliRunner().invoke(app, ["info", str(path)]).output
    assert "verl" in report
    assert "finish reason" in report
    hosted = {
        "id": "a",
        "messages": [USER, {"role": "assistant", "content": "b", "reasoning_content": "a"}],
    }
    path.write_text(json.dumps(hosted | {"model": "claude-opus-4-5"}) + "\n")
    assert (
        "the full reasoning of claude-opus-4-5 (only a summary is available)"
        in CliRunner().invoke(app, ["info", str(path)]).output
    )
