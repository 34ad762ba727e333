"""What fields mean: finish reasons, settings under names of thinking, answers, steps, log-probs.

Each table has one row a spelling; the expected value is written by hand.
"""

import json
import math

import pytest

from cotlens import TraceError, split_trace
from cotlens.formats.fields import is_thought
from cotlens.formats.finish import read_finish
from cotlens.formats.read import read_records

R1 = "deepseek-ai/DeepSeek-R1"  # its template opens the thought
ASK = {"role": "user", "content": "hi"}


def one(row):
    (trace,) = read_records([row])
    return trace


def parts(trace):
    split = split_trace(trace)
    thoughts = [span.of(trace.completion) for span in split.think]
    return thoughts, split.answer.of(trace.completion), split.status.value


def refused(row):
    """The message of the error; no other error may come out."""
    with pytest.raises(TraceError) as error:
        list(read_records([row]))
    for name in ("AttributeError", "KeyError", "TypeError"):
        assert name not in str(error.value)
    return str(error.value)


# --- finish reasons ----------------------------------------------------------------------------

FINISH = [
    ({"type": "stop", "matched": 151645}, "stop"),
    ({"type": "length", "length": 32}, "length"),
    ({"reason": "stop"}, "stop"),
    ('{"type": "stop"}', "stop"),
    ("{'type': 'length', 'length': 5}", "length"),
    (["stop"], "stop"),
    *[(word, "stop") for word in ("stop", "STOP", "eos", "EOS", "eos_token", "COMPLETE", "completed")],
    *[(word, "stop") for word in ("end_turn", "endTurn", "FinishReason.STOP", "FINISH_REASON_STOP")],
    *[(word, "stop") for word in ("<FinishReason.STOP: 1>", "<|im_end|>", "stop_sequence", "end_id")],
    *[(word, "length") for word in ("length", "MAX_TOKENS", "max_tokens", "maxTokens", "model_length")],
    *[(word, "length") for word in ("max_output_tokens", "limit", "FinishReason.MAX_TOKENS")],
    *[(word, "tool_calls") for word in ("tool_calls", "function_call", "tool_use", "TOOL_CALL")],
    ("content_filter", "content_filter"),
    ({"type": "abort", "message": "m"}, "abort"),
    ({"code": 3}, '{"code": 3}'),
    ("{broken", "{broken"),
    ("", ""),
    (None, ""),
]  # fmt: skip


@pytest.mark.parametrize(("given", "word"), FINISH, ids=lambda value: str(value)[:30])
def test_a_finish_reason_is_one_word(given, word):
    assert read_finish(given) == word


@pytest.mark.parametrize(
    "name", ["finish_reason", "stop_reason", "done_reason", "finishReason", "stopReason"]
)
@pytest.mark.parametrize(
    ("given", "status"), [("STOP", "absent"), ("MAX_TOKENS", "open"), ({"type": "stop"}, "absent")]
)
def test_a_model_that_stopped_by_itself_was_not_cut_off(name, given, status):
    trace = one({"model": R1, "prompt": "q", "completion": "Four.", name: given})
    assert parts(trace)[2] == status
    assert trace.meta["finish_reason"] == given  # the source's own word


def test_the_word_of_the_source_is_not_repeated_where_it_is_the_same():
    assert one({"prompt": "q", "completion": "c", "finish_reason": "stop"}).meta == {}


def test_a_finish_reason_of_a_choice_of_vllm_and_of_a_batch_of_samples():
    choice = {"index": 0, "finish_reason": "eos_token", "message": {"content": "Four."}}
    trace = one({"model": R1, "choices": [choice]})
    assert (trace.finish_reason, trace.meta["finish_reason"]) == ("stop", "eos_token")
    output = {"index": 0, "text": "Four.", "token_ids": [1], "finish_reason": {"type": "stop"}}
    assert one({"request_id": "r", "outputs": [output]}).finish_reason == "stop"
    rows = read_records(
        [{"prompt": "q", "completion": ["a", "b"], "finish_reason": ["STOP", "MAX_TOKENS"]}]
    )
    assert [trace.finish_reason for trace in rows] == ["stop", "length"]


def test_a_truncated_result_of_verifiers_is_cut_off():
    row = {"example_id": 1, "prompt": "q", "completion": "c", "reward": 0.0, "is_truncated": True}
    assert one(row).finish_reason == "length"


@pytest.mark.parametrize(
    ("given", "status", "finish_reason"),
    [
        ("stop", "absent", "stop"),
        ("max_tokens", "open", "length"),
        ("tool_calls", "absent", "tool_calls"),
        (151643, "open", ""),
        ("</answer>", "open", ""),
        ("Observation:", "open", ""),
        (None, "open", ""),
    ],
)
def test_a_stop_reason_without_a_finish_reason_is_one_if_it_is_a_word(given, status, finish_reason):
    """Inspect's choices have it; vLLM's have the stop string or the token's id there."""
    choice = {"message": {"role": "assistant", "content": "Four."}, "stop_reason": given}
    trace = one({"model": R1, "choices": [choice]})
    assert (parts(trace)[2], trace.finish_reason) == (status, finish_reason)
    beside = one({"model": R1, "choices": [choice | {"finish_reason": "length"}]})
    assert beside.finish_reason == "length"

    output = {"index": 0, "text": "Four.", "token_ids": [1], "stop_reason": given}
    assert one({"request_id": "r", "outputs": [output]}).finish_reason == finish_reason


# --- settings under a name of thinking ---------------------------------------------------------

SETTINGS = [
    "on", "off", "ON", "high", "low", "medium", "xhigh", "minimal", "none", "auto", "true", "enabled",
    True, False, 1024, 0.5, {"effort": "high"}, {"type": "enabled", "budget_tokens": 1024}, {"enabled": True},
    ["on"], "8192", "-1", "0", "8,192", "16k", "1024 tokens", " 4096 ", "0.5",
]  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("name", ["reasoning", "thinking", "thinking_content"])
def test_a_setting_is_no_thought(name, setting):
    """Wherever it stands: in a plain row, a row with a conversation, or a message."""
    text = "<think>Hm.</think>Hello."
    expected = (["Hm."], "Hello.", "closed")
    plain = one({"prompt": "hi", "output": text, name: setting})
    assert (parts(plain), plain.meta[name]) == (expected, setting)

    message = {"role": "assistant", "content": text}
    assert parts(one({"prompt": [ASK], "output": text, name: setting})) == expected
    assert parts(one({"messages": [ASK, message], name: setting})) == expected
    in_message = one({"messages": [ASK, message | {name: setting}]})
    assert (parts(in_message), in_message.meta["message"]) == (expected, {name: setting})


@pytest.mark.parametrize("setting", ["off", "8192", True, 1024, "high"], ids=str)
def test_a_setting_in_a_result_of_bfcl_is_no_thought(setting):
    row = {"id": "a", "result": "<think>Hm.</think>4", "reasoning_content": setting, "latency": 1}
    trace = one(row)
    assert (parts(trace), trace.meta["reasoning_content"]) == ((["Hm."], "4", "closed"), setting)
    assert parts(one(row | {"result": "4"})) == ([], "4", "absent")

    turns = row | {"result": [["4"]]}
    assert parts(one(turns)) == ([], "4", "absent")
    assert parts(one(turns | {"reasoning_content": [["Hm."]]})) == (["Hm."], "4", "closed")
    assert parts(one(turns | {"reasoning_content": [[setting]]})) == ([], "4", "absent")


def test_a_thought_of_bfcl_that_the_result_holds_too_counts_once():
    row = {"id": "a", "result": "<think>Hm.</think>4", "reasoning_content": "Hm.", "latency": 1}
    trace = one(row)
    assert (parts(trace), trace.completion) == ((["Hm."], "4", "closed"), row["result"])


def test_the_thinking_of_qwens_quick_start():
    row = {"prompt": "q", "thinking_content": "Hm.", "content": "4"}
    assert parts(one(row)) == (["Hm."], "4", "closed")
    message = {"role": "assistant", "content": "4", "thinking_content": "Hm."}
    assert parts(one({"messages": [ASK, message]})) == (["Hm."], "4", "closed")


def test_a_setting_does_not_hide_the_thought_next_to_it():
    trace = one({"prompt": "q", "answer": "4", "thinking": True, "reasoning_content": "Hm."})
    assert (parts(trace), trace.meta) == ((["Hm."], "4", "closed"), {"thinking": True})


def test_a_setting_without_a_text_is_no_completion():
    message = refused({"prompt": "q", "reasoning": "high"})
    assert "reasoning holds a setting" in message
    assert "'completion'" in message


@pytest.mark.parametrize(
    "thought",
    ["No.", "On it.", "high time", "", {"text": "a"}, ["on", "and on"], "2 + 2", "4 it is.", "k"],
)
def test_short_thoughts_are_thoughts(thought):
    assert is_thought(thought)


# --- an answer under another name --------------------------------------------------------------


@pytest.mark.parametrize("name", ["result", "final_answer", "reply", "model_answer", "final"])
def test_an_answer_under_a_usual_name_is_read(name):
    assert parts(one({"prompt": "q", "reasoning_content": "Hm.", name: "Four."})) == (
        ["Hm."],
        "Four.",
        "closed",
    )


@pytest.mark.parametrize(
    "value", ["Four.", {"text": "Four."}, ["Four."], [{"content": "Four."}]], ids=str
)
def test_an_answer_under_an_unknown_name_is_refused_with_the_names(value):
    message = refused({"prompt": "q", "thinking": "Hm.", "my_reply": value, "source": "s"})
    assert "my_reply" in message
    assert "source" not in message
    assert "'answer'" in message


@pytest.mark.parametrize(
    "rest",
    [{"answer": ""}, {"response": None}, {"finish_reason": "length"}, {"source": "s"}],
    ids=str,
)
def test_a_thought_that_was_cut_off_needs_no_answer(rest):
    assert parts(one({"prompt": "q", "thinking": "Hm.", **rest})) == (["Hm."], "", "open")


def test_a_message_with_its_answer_under_an_unknown_name_is_refused():
    message = {"role": "assistant", "reasoning_content": "Hm.", "final": "Four."}
    assert "final" in refused({"messages": [ASK, message]})
    assert parts(one({"messages": [ASK, message | {"content": ""}]})) == (["Hm."], "", "open")


@pytest.mark.parametrize(
    ("model", "status"), [("Qwen/Qwen3-30B-A3B-Thinking-2507", "open"), ("m", "absent")]
)
@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("blank", ["", "\n", " \t\n\n"], ids=repr)
def test_an_empty_field_of_thinking_beside_a_cut_text(model, status, name, blank):
    """A server that waits for the end of the thought has an empty field until it comes."""
    text = "The user says hi and"
    plain = {"model": model, "prompt": "q", "completion": text, name: blank}
    assert parts(one(plain | {"finish_reason": "length"}))[2] == status
    message = {"role": "assistant", "content": text, name: blank}
    row = {"model": model, "choices": [{"index": 0, "finish_reason": "length", "message": message}]}
    assert parts(one(row))[2] == status
    if not blank:
        row["choices"][0]["finish_reason"] = "stop"
        assert parts(one(row)) == ([], "The user says hi and", "absent")


# --- rows that are no completion ---------------------------------------------------------------


@pytest.mark.parametrize("role", ["user", "system", "tool", "human"])
def test_a_single_message_that_no_model_wrote_is_no_completion(role):
    assert "no assistant turn" in refused({"role": role, "content": "hi"})


def test_a_single_message_of_an_assistant_is_one():
    assert parts(one({"role": "assistant", "content": "<think>Hm.</think>Hello."})) == (
        ["Hm."],
        "Hello.",
        "closed",
    )


# --- messages and calls as JSON text -----------------------------------------------------------

CALL = '{"id": "c", "function": {"name": "f"}}'
HELLO = '{"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."}'
THOUGHT = '{"type": "think", "think": "Hm."}'
SAID = '{"type": "text", "text": "Hello."}'
DETAIL = '{"type": "reasoning.text", "text": "Hm."}'
ITEM = '{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}'
ANSWER = '{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]}'
CHAT = f'{{"object": "chat.completion", "choices": [{{"index": 0, "finish_reason": "stop", "message": {HELLO}}}]}}'
QUESTION = '{"role": "user", "content": "q"}'
AS_JSON = {
    "messages": {"messages": [QUESTION, HELLO]},
    "all messages": {"messages": f"[{QUESTION}, {HELLO}]"},
    "completion": {"prompt": "q", "completion": [HELLO]},
    "all of the completion": {"prompt": "q", "completion": f"[{HELLO}]"},
    "prompt": {"prompt": [QUESTION], "completion": [HELLO]},
    "choices": {"choices": [f'{{"index": 0, "message": {HELLO}, "finish_reason": "stop"}}']},
    "the message of a choice": {"choices": [{"index": 0, "message": HELLO}]},
    "one message": {"prompt": "q", "completion": HELLO},
    "one message of a prompt": {"prompt": QUESTION, "response": HELLO},
    "a message of ollama": {"model": "m", "message": HELLO, "done": True},
    "parts": {"messages": [ASK, {"role": "assistant", "content": [THOUGHT, SAID]}]},
    "all parts": {"messages": [ASK, {"role": "assistant", "content": f"[{THOUGHT}, {SAID}]"}]},
    "some parts": {"messages": [ASK, {"role": "assistant", "content": [json.loads(THOUGHT), SAID]}]},
    "a part inside a part": {
        "messages": [ASK, {"role": "assistant", "content": [{"type": "thinking", "thinking": [SAID.replace("Hello", "Hm")]}, SAID]}]
    },
    "parts of a completion": {"prompt": "q", "completion": [THOUGHT, SAID]},
    "all parts of a completion": {"prompt": "q", "completion": f"[{THOUGHT}, {SAID}]"},
    "parts of a sample": {"prompt": "q", "responses": [f"[{THOUGHT}, {SAID}]"]},
    "a sample": {"prompt": "q", "generations": [HELLO]},
    "a message without a role": {"prompt": "q", "completion": '{"content": "Hello.", "reasoning_content": "Hm."}'},
    "a response of ollama": {"prompt": "q", "response": f'{{"model": "m", "message": {HELLO}, "done": true}}'},
    "the content of an item": {
        "object": "response", "status": "completed",
        "output": [{"type": "reasoning", "summary": [], "content": [SAID.replace("Hello", "Hm")]}, {"type": "message", "content": f"[{SAID}]"}],
    },
    "parts of gemini": {
        "candidates": [{"content": {"parts": ['{"text": "Hm.", "thought": true}', '{"text": "Hello."}']}, "finishReason": "STOP"}]
    },
    "a content of gemini": {
        "candidates": [{"content": '{"parts": [{"text": "Hm.", "thought": true}, {"text": "Hello."}]}', "finishReason": "STOP"}]
    },
    "thinking": {"prompt": "q", "thinking": [THOUGHT], "answer": "Hello."},
    "thinking of a message": {"messages": [ASK, {"role": "assistant", "content": "Hello.", "reasoning": f"[{THOUGHT}]"}]},
    "details": {"messages": [ASK, {"role": "assistant", "content": "Hello.", "reasoning_details": [DETAIL]}]},
    "all details": {"messages": [ASK, {"role": "assistant", "content": "Hello.", "reasoning_details": f"[{DETAIL}]"}]},
    "items": {"object": "response", "status": "completed", "output": [ITEM, ANSWER]},
    "all items": {"object": "response", "status": "completed", "output": f"[{ITEM}, {ANSWER}]"},
    "items without their head": {"output": [ITEM, ANSWER]},
    "a response": {"prompt": "q", "response": CHAT},
    "a result": {"prompt": "q", "result": CHAT},
    "a response of items": {"id": "r", "response": f'{{"object": "response", "status": "completed", "output": [{ITEM}, {ANSWER}]}}'},
    "a response of anthropic": {"response": f'{{"type": "message", "role": "assistant", "content": [{THOUGHT}, {SAID}]}}'},
    "a batch": {"custom_id": "a", "response": f'{{"status_code": 200, "body": {CHAT}}}', "error": None},
    "the body of a batch": {"custom_id": "a", "response": {"status_code": 200, "body": CHAT}, "error": None},
}  # fmt: skip


@pytest.mark.parametrize("case", AS_JSON)
def test_json_text_where_objects_are_expected_is_parsed(case):
    assert parts(one(AS_JSON[case])) == (["Hm."], "Hello.", "closed")


@pytest.mark.parametrize(
    "calls", [[CALL], f"[{CALL}]", [{"id": "c", "function": {"name": "f"}}]], ids=str
)
def test_calls_of_tools_as_json_text(calls):
    message = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "I compute.",
        "tool_calls": calls,
    }
    trace = one({"example_id": 0, "prompt": [], "completion": [message], "reward": 0})
    assert parts(trace) == (["I compute."], "", "closed")
    assert trace.meta["tool_calls"] == [{"id": "c", "function": {"name": "f"}}]


@pytest.mark.parametrize("call", ['{"name": "f"}', {"name": "f"}], ids=str)
def test_the_older_field_of_a_call_may_be_json_text(call):
    message = {"role": "assistant", "content": "<think>\nHm.", "function_call": call}
    trace = one({"messages": [ASK, message]})
    assert (parts(trace), trace.meta["tool_calls"]) == ((["\nHm."], "", "closed"), [{"name": "f"}])


@pytest.mark.parametrize(
    "text",
    [
        '[{"name": "a"}, {"name": "b"}]',
        '[{"text": "a"}, {"text": "b"}]',
        '[{"type": "circle", "text": "a"}]',
        '[{"type": "function", "function": {"name": "f"}}]',
        '{"type": "text", "text": "a"}',
        '{"role": "engineer", "name": "a"}',
        '{"role": "user", "content": "a"}',
        '{"choices": [{"label": "a"}, {"label": "b"}]}',
        '{"output": ["a"], "choices": []}',
        '{"thinking": "a", "answer": "b"}',
        "[1, 2]",
        "[]",
        "{}",
        "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_a_completion_that_is_json_stays_text(text):
    assert one({"prompt": "q", "completion": text}).completion == text
    assert one({"prompt": "q", "response": text}).completion == text
    message = {"role": "assistant", "content": text}
    assert one({"messages": [ASK, message]}).completion == text


def test_samples_that_are_json_stay_text():
    assert [
        t.completion for t in read_records([{"prompt": "q", "completion": ['{"a": 1}', "b"]}])
    ] == ['{"a": 1}', "b"]


WRONG_KINDS = {
    "a call": (
        {"messages": [ASK, {"role": "assistant", "content": "x", "tool_calls": ["foo"]}]},
        "tool_calls.0.",
    ),
    "messages of text": ({"messages": ["hi"]}, "messages.0. must be an object"),
    "a null message": ({"messages": [None]}, "messages.0. must be an object"),
    "choices of text": ({"choices": ["x"]}, "choices.0. must be an object"),
    "a number among parts": ({"prompt": "q", "completion": [1]}, "a list with int"),
    "a list in a prompt": (
        {"prompt": [["a"], ["b"]], "completion": [["x"], ["y"]]},
        "a list with list",
    ),
    "an object without text": (
        {"prompt": "q", "response": {"foo": 1}},
        "an object with the fields foo",
    ),
    "log-probs of text": (
        {"prompt": "q", "completion": "c", "logprobs": "x"},
        "logprobs must be a list",
    ),
    "a log-prob of text": (
        {"prompt": "q", "completion": "c", "token_ids": [1], "logprobs": ["x"]},
        "logprobs must be a number",
    ),
    "a reward": ({"prompt": "q", "completion": "c", "reward": {"a": 1}}, "reward must be a number"),
    "ids of text": (
        {"prompt": "q", "completion": "c", "token_ids": "1 2"},
        "token ids must be a list",
    ),
}


@pytest.mark.parametrize("case", WRONG_KINDS)
def test_a_value_of_another_kind_is_named(case):
    row, message = WRONG_KINDS[case]
    with pytest.raises(TraceError, match=message):
        list(read_records([row]))
    refused(row)


def test_a_completion_may_be_a_message_and_a_row_a_message_of_ollama():
    message = {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."}
    assert parts(one({"prompt": "q", "completion": message})) == (["Hm."], "Hello.", "closed")
    row = {
        "model": "m",
        "message": {"role": "assistant", "content": "Hello.", "thinking": "Hm."},
        "done": True,
        "done_reason": "stop",
    }
    assert (parts(one(row)), one(row).finish_reason) == ((["Hm."], "Hello.", "closed"), "stop")


# --- steps and log-probs -----------------------------------------------------------------------


@pytest.mark.parametrize(("rest", "step"), [
    ({"step": 10}, 10), ({"step": 10.0}, 10), ({"step": "10"}, 10), ({"global_step": 3}, 3), ({"gen_step": 0}, 0),
    ({"training_step": 5, "step": 7}, 5), ({"step": "warmup"}, -1), ({"step": -4}, -1), ({"step": True}, -1), ({}, -1),
], ids=str)  # fmt: skip
def test_a_step_without_an_advantage_is_the_training_step(rest, step):
    trace = one({"prompt": "p", "completion": "c", **rest})
    assert trace.training_step == step
    assert step >= 0 or trace.meta == rest  # what is no step stays


def token(text, logprob=-1.0, **rest):
    return {"token": text, "logprob": logprob, **rest}


def chat(text, tokens, **choice):
    choice = {
        "index": 0,
        "finish_reason": "stop",
        "message": {"content": text},
        "logprobs": {"content": tokens},
        **choice,
    }
    return one({"choices": [choice]})


def test_log_probs_whose_bytes_do_not_spell_the_text_are_not_attached():
    other = [token("Five.", bytes=list(b"Five."))]
    trace = chat("Four.", other)
    assert (trace.logprobs, trace.token_starts, trace.meta["logprobs"]) == (None, None, other)
    assert chat("Four.", other, token_ids=[7]).logprobs is None

    spelled = chat("Four.", [token("Four"), token(".", -2.0), token("<eos>", None)])
    assert spelled.logprobs[:2] == (-1.0, -2.0)
    assert math.isnan(spelled.logprobs[2])
    assert spelled.token_starts == (0, 4, 5)


def test_token_ids_tell_where_there_are_no_bytes():
    """vLLM's `token_id:7` in place of a token; half a character has no text of its own."""
    assert chat("Four.", [token("token_id:7")], token_ids=[7]).logprobs == (-1.0,)
    assert chat("Four.", [token("token_id:8")], token_ids=[7]).logprobs is None
    assert chat("é", [token("\ufffd"), token("\ufffd")], token_ids=[1, 2]).logprobs == (-1.0, -1.0)


@pytest.mark.parametrize(
    "given", [{"content": [token("Four.")]}, [token("Four.")]], ids=["chat", "list"]
)
def test_a_plain_row_may_have_log_probs_as_a_server_gives_them(given):
    trace = one({"prompt": "q", "completion": "Four.", "logprobs": given})
    assert (trace.logprobs, trace.token_starts, trace.meta) == ((-1.0,), (0,), {})
    assert one({"prompt": "q", "completion": "Five.", "logprobs": given}).meta["logprobs"] == [
        token("Four.")
    ]


def test_log_probs_without_a_token_are_named():
    with pytest.raises(TraceError, match=r"logprobs\[0\] must have a token and its logprob"):
        chat("Four.", [{"tok": "Four."}])
    with pytest.raises(TraceError, match="bytes of a token must be numbers"):
        chat("Four.", [token("Four.", bytes=["x"])])
