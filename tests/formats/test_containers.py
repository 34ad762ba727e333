"""Files that hold one object over several lines, a conversation, a stream, or several samples a row."""

import gzip
import json

import pytest

from cotlens import TraceError, read_traces, split_trace
from cotlens.formats.read import detect_format, read_records

ROWS = [{"id": str(i), "prompt": "q", "completion": f"<think>a</think>{i}\n"} for i in range(3)]


def parts(trace):
    split = split_trace(trace)
    thoughts = [span.of(trace.completion) for span in split.think]
    return thoughts, split.answer.of(trace.completion), split.status.value


def read(path, **options):
    return list(read_traces(path, **options))


# --- pretty-printed JSON -----------------------------------------------------------------------


@pytest.mark.parametrize("between", ["\n", "\n\n", ",\n"])
def test_objects_over_several_lines(tmp_path, between):
    path = tmp_path / "rows.json"
    path.write_text(between.join(json.dumps(row, indent=2) for row in ROWS), encoding="utf-8")
    assert [trace.completion for trace in read(path)] == [row["completion"] for row in ROWS]
    assert detect_format(path).name == "plain"


def test_a_single_object_compressed_and_with_a_mark_of_its_encoding(tmp_path):
    text = "\ufeff" + json.dumps(ROWS[0], indent="\t")
    (tmp_path / "row.json.gz").write_bytes(gzip.compress(text.encode()))
    assert read(tmp_path / "row.json.gz")[0].completion == ROWS[0]["completion"]


def test_a_damaged_object_is_named_by_its_first_line(tmp_path):
    """Three lines an object of three fields plus two: the second begins at line 6."""
    whole = json.dumps(ROWS[0], indent=2)
    broken = whole.replace('"prompt": "q",', '"prompt": q,').replace('"id": "0"', '"id": "x"')
    (tmp_path / "rows.json").write_text(f"{whole}\n{broken}\n{json.dumps(ROWS[1], indent=2)}")
    with pytest.raises(TraceError, match=r"rows.json:6: not valid JSON"):
        read(tmp_path / "rows.json")
    rejects = []
    assert len(read(tmp_path / "rows.json", on_reject=rejects.append)) == 2
    assert [reject.number for reject in rejects] == [6]
    (tmp_path / "cut.json").write_text(whole[:-3])
    with pytest.raises(TraceError, match=r"cut.json:1: not valid JSON"):
        read(tmp_path / "cut.json")


def test_a_long_object_is_refused(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps(ROWS[0] | {"pad": ["x" * 500] * 9}, indent=2))
    with pytest.raises(TraceError, match="the object has"):
        read(tmp_path / "rows.json", max_line_bytes=1000)


# --- one message a row -------------------------------------------------------------------------

KIMI = [
    {"role": "_checkpoint", "id": 0},
    {"role": "user", "content": "hi"},
    {"role": "_usage", "token_count": 3},
    {
        "role": "assistant",
        "content": [{"type": "think", "think": "Hm."}, {"type": "text", "text": "Hello."}],
    },
]


@pytest.mark.parametrize("container", ["lines", "array", "memory"])
def test_a_file_of_messages_is_one_conversation(tmp_path, container):
    path = tmp_path / "context.jsonl"
    as_lines = "\n".join(map(json.dumps, KIMI))
    path.write_text(json.dumps(KIMI) if container == "array" else as_lines)
    (trace,) = read_records(KIMI) if container == "memory" else read(path)
    assert (parts(trace), trace.prompt) == ((["Hm."], "Hello.", "closed"), "hi")
    assert trace.meta["marks"] == [KIMI[0], KIMI[2]]


def test_a_row_without_a_role_in_a_conversation_is_named(tmp_path):
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, [KIMI[1], {"text": "x"}, KIMI[3]])))
    with pytest.raises(TraceError, match=r"c.jsonl:2: .*no role; its fields are text"):
        read(tmp_path / "c.jsonl")


def test_assistants_messages_a_row_each_are_completions(tmp_path):
    messages = [{"role": "assistant", "content": text} for text in ("a", "b")]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, messages)))
    assert [trace.completion for trace in read(tmp_path / "c.jsonl")] == ["a", "b"]


# --- streams -----------------------------------------------------------------------------------

STREAMS = {
    "chunk": (
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "x"}}]},
        "delta",
    ),
    "Ollama": ({"message": {"role": "assistant", "content": "x"}, "done": False}, "done is false"),
    "Ollama's text": ({"model": "m", "response": "x", "done": False}, "done is false"),
    "event": ({"type": "response.output_text.delta", "delta": "x"}, "one event of a stream"),
    "Anthropic": (
        {"type": "content_block_delta", "index": 0, "delta": {"text": "x"}},
        "one event of a stream",
    ),
}


@pytest.mark.parametrize("case", STREAMS)
def test_a_piece_of_a_stream_is_refused(case):
    row, message = STREAMS[case]
    with pytest.raises(TraceError, match=message) as error:
        list(read_records([row]))
    assert "stream=false" in str(error.value)


def test_a_line_of_an_event_stream_is_refused(tmp_path):
    (tmp_path / "s.jsonl").write_text('data: {"choices": []}\n\ndata: [DONE]\n')
    with pytest.raises(TraceError, match="a line of an event stream"):
        read(tmp_path / "s.jsonl")


# --- several samples a row ---------------------------------------------------------------------

OPENR1 = {
    "problem": "q", "answer": "4", "uuid": "u", "generations": ["<think>a</think>4", "<think>b"],
    "finish_reasons": ["stop", "length"], "is_reasoning_complete": [True, False],
    "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "<think>a</think>4"}],
}  # fmt: skip


def test_generations_of_openr1():
    first, second = read_records([OPENR1])
    assert (parts(first), parts(second)) == ((["a"], "4", "closed"), (["b"], "", "open"))
    assert [(t.id, t.sample, t.finish_reason, t.gold, t.prompt) for t in (first, second)] == [
        ("row:1/0", 0, "stop", "4", "q"), ("row:1/1", 1, "length", "4", "q"),
    ]  # fmt: skip
    assert first.prompt_id == second.prompt_id


@pytest.mark.parametrize("name", ["completions", "responses", "samples", "rollouts"])
def test_samples_under_a_plural_name(name):
    texts = list(
        read_records([{"prompt": "q", name: ["<think>a</think>x", "y"], "rewards": [1.0, 0.0]}])
    )
    assert [(trace.completion, trace.reward) for trace in texts] == [
        ("<think>a</think>x", 1.0),
        ("y", 0.0),
    ]
    objects = [{"text": "x", "finish_reason": "STOP"}, {"thinking": "a", "answer": "y"}]
    first, second = read_records([{"prompt": "q", "id": "r", name: objects}])
    assert [(t.id, t.sample, t.prompt) for t in (first, second)] == [
        ("r/0", 0, "q"),
        ("r/1", 1, "q"),
    ]
    assert (first.finish_reason, parts(second)) == ("stop", (["a"], "y", "closed"))


def test_a_log_of_ms_swift_is_a_batch_of_columns():
    row = {
        "gen_step": ["3", "3"], "prompt": ["p", "q"], "completion": ["<think>a</think>x", "y"],
        "Accuracy": [1.0, 0.0], "advantages": [0.5, -0.5],
    }  # fmt: skip
    first, second = read_records([row])
    assert (parts(first), second.completion) == ((["a"], "x", "closed"), "y")
    assert [(t.prompt, t.training_step, t.reward) for t in (first, second)] == [
        ("p", 3, 1.0),
        ("q", 3, 0.0),
    ]
    with pytest.raises(TraceError, match="prompt is a list of 3 and completion one of 2"):
        list(read_records([row | {"prompt": ["p", "q", "r"]}]))


@pytest.mark.parametrize("row", [
    {"prompt": ["a", "b"], "completion": ["x", "y"]}, {"question": ["a", "b"], "response": ["x", "y"]},
    {"prompt": ["a", "b", "c"], "completion": ["x", "y"]}, {"prompt": ["a", "b"], "completion": "x"},
], ids=str)  # fmt: skip
def test_lists_of_prompts_that_nothing_pairs_are_refused(row):
    with pytest.raises(TraceError, match=r"the prompt is a list of \d.*give a row to each prompt"):
        list(read_records([row]))


def test_rollouts_of_nemo_rl():
    row = {"content": ["q", "<think>a</think>x"], "rewards": 1.0, "idx": 0, "input_lengths": 9}
    (trace,) = read_records([row])
    assert (parts(trace), trace.prompt, trace.reward) == ((["a"], "x", "closed"), "q", 1.0)
    with pytest.raises(TraceError, match="content has 3 texts without roles"):
        list(read_records([row | {"content": ["q", "a", "b"]}]))


def test_rollouts_of_nemo_gym():
    response = {"id": "r", "object": "response", "status": "completed", "output": [
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Four."}]},
    ]}  # fmt: skip
    asked = {"input": [{"role": "user", "content": "q"}], "temperature": 1.0}
    (trace,) = read_records(
        [{"responses_create_params": asked, "response": response, "reward": 1.0}]
    )
    assert (parts(trace), trace.prompt, trace.reward, trace.finish_reason) == (
        (["Hm."], "Four.", "closed"),
        "q",
        1.0,
        "stop",
    )
    assert trace.meta["responses_create_params"] == {"temperature": 1.0}


NESTED = {
    "chat": {"id": "z", "choices": [{"index": 0, "message": {"content": "Hello.", "reasoning_content": "Hm."}}]},
    "Anthropic": {"id": "z", "type": "message", "role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hello."}]},
}  # fmt: skip


@pytest.mark.parametrize("name", ["response", "result", "output"])
@pytest.mark.parametrize("case", NESTED)
def test_a_whole_response_in_a_field(name, case):
    (trace,) = read_records([{"id": "a", "prompt": "q", "domain": "d", name: NESTED[case]}])
    assert (parts(trace), trace.id, trace.prompt, trace.domain) == (
        (["Hm."], "Hello.", "closed"),
        "a",
        "q",
        "d",
    )


def test_results_of_bfcl():
    row = {"id": "simple_0", "result": "Four.", "reasoning_content": "Hm.", "latency": 1.0}
    (trace,) = read_records([row])
    assert (trace.id, parts(trace)) == ("simple_0", (["Hm."], "Four.", "closed"))
    (call,) = read_records([row | {"result": [{"add": "{}"}]}])
    assert (parts(call), call.meta["tool_calls"]) == ((["Hm."], "", "closed"), [{"add": "{}"}])
    turns = row | {
        "result": [["a", [{"f": "{}"}]], ["b"]],
        "reasoning_content": [["x", "y"], ["z"]],
    }
    assert [(t.id, parts(t)[0]) for t in read_records([turns])] == [
        ("simple_0/turn-0/step-0", ["x"]), ("simple_0/turn-0/step-1", ["y"]), ("simple_0/turn-1/step-0", ["z"]),
    ]  # fmt: skip
    with pytest.raises(TraceError, match="reasoning_content has not one thought for each response"):
        list(read_records([turns | {"reasoning_content": "x"}]))


def test_turns_of_mt_bench():
    row = {
        "question_id": 81,
        "answer_id": "a",
        "model_id": "m",
        "choices": [{"index": 0, "turns": ["one", "two"]}],
    }
    assert [(t.id, t.prompt_id, t.model, t.completion) for t in read_records([row])] == [
        ("a/turn-0", "81", "m", "one"), ("a/turn-1", "81/turn-1", "m", "two"),
    ]  # fmt: skip


# --- engines -----------------------------------------------------------------------------------

FLAT = {
    "start_indices": [0, 2], "end_indices": [2, 3], "token_ids": [1, 9, 2], "logprobs": [-0.1, -3.0, -0.2],
    "ranks": [1, 2, 1], "decoded_tokens": ["a", "z", "b"],
}  # fmt: skip


def vllm(logprobs):
    output = {
        "index": 0,
        "text": "ab",
        "token_ids": [1, 2],
        "logprobs": logprobs,
        "finish_reason": "stop",
    }
    (trace,) = read_records([{"request_id": "r", "prompt": "p", "outputs": [output]}])
    return trace


def test_flat_log_probs_of_vllm():
    """Positions 0 and 1 hold entries 0 to 2 and 2 to 3; the chosen tokens are 1 and 2."""
    trace = vllm(FLAT)
    assert (trace.logprobs, trace.token_starts) == ((-0.1, -0.2), (0, 1))
    for broken in ({"start_indices": [0]}, FLAT | {"logprobs": [0.0]}, "x"):
        with pytest.raises(TraceError, match="logprobs of a vLLM output"):
            vllm(broken)


def test_native_outputs_of_sglang():
    """A reason that is an object; log-probs as (log-prob, id, text or null)."""
    about = {"id": "x", "finish_reason": {"type": "length", "length": 2}, "prompt_tokens": 3}
    tokens = [[-0.1, 1, "a"], [-0.2, 2, "b"]]
    (trace,) = read_records(
        [
            {
                "text": "ab",
                "output_ids": [1, 2],
                "meta_info": about | {"output_token_logprobs": tokens},
            }
        ]
    )
    assert (trace.id, trace.finish_reason, trace.token_ids) == ("x", "length", (1, 2))
    assert (trace.logprobs, trace.token_starts) == ((-0.1, -0.2), (0, 1))
    assert trace.meta == {
        "meta_info": {"prompt_tokens": 3},
        "finish_reason": about["finish_reason"],
    }

    no_text = [[-0.1, 1, None], [-0.2, 2, None]]
    (trace,) = read_records(
        [{"text": "ab", "meta_info": about | {"output_token_logprobs": no_text}}]
    )
    assert (trace.token_ids, trace.token_starts) == ((1, 2), None)
    with pytest.raises(TraceError, match="output_ids and no text"):
        list(read_records([{"output_ids": [1], "meta_info": about}]))
    with pytest.raises(TraceError, match=r"output_token_logprobs\[0\] must be"):
        list(read_records([{"text": "ab", "meta_info": about | {"output_token_logprobs": [3]}}]))


def test_token_ids_of_a_chat_with_sglang():
    choice = {
        "index": 0,
        "message": {"content": "ab"},
        "finish_reason": "stop",
        "response_token_ids": [1, 2],
        "prompt_token_ids": [5],
    }
    (trace,) = read_records([{"choices": [choice]}])
    assert (trace.token_ids, trace.prompt_token_ids) == ((1, 2), (5,))
