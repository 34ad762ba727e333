"""A content that holds its thought itself, beside a field that is empty or repeats it."""

import pytest

from cotlens import split_trace
from cotlens.formats.read import read_records
from cotlens.runs.messages import assistant_message
from cotlens.trace import Origin, Span, Trace

ASK = {"role": "user", "content": "hi"}
K3 = "moonshotai/Kimi-K3"


def parts(trace):
    split = split_trace(trace)
    thoughts = [span.of(trace.completion) for span in split.think]
    return thoughts, split.answer.of(trace.completion), split.status.value


# A completion each, of the thought "Two." and the answer "Four.", and the model that wrote it.
HEADED = {
    "harmony": ("<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>", ""),
    "harmony, from its role": ("<|start|>assistant<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>Four.", ""),
    "harmony, closing only": ("Two.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>", ""),
    "harmony without tokens": ("analysisTwo.assistantfinalFour.", ""),
    "harmony without tokens, with its role": ("assistantanalysisTwo.assistantfinalFour.", ""),
    "muse": (" to=self<|message|>Two.<|eom|><|start|>assistant to=user<|message|>Four.<|eot|>", ""),
    "muse without a space": ("to=self<|message|>Two.<|eom|><|start|>assistant to=user<|message|>Four.", ""),
    "muse without tokens": (" to=selfTwo.assistant to=userFour.", ""),
    "hyperclova": ("/think\nTwo.<|im_end|>\n<|im_start|>assistant\nFour.<|im_end|>", ""),
    "hyperclova, whole": ("<|im_start|>assistant/think\nTwo.<|im_end|>\n<|im_start|>assistant\nFour.", ""),
    "kimi k3": ("<|open|>think<|sep|>Two.<|close|>think<|sep|><|open|>response<|sep|>Four.<|close|>response<|sep|>", ""),
    "kimi k3, closing only": ("Two.<|close|>think<|sep|><|open|>response<|sep|>Four.<|close|>response<|sep|>", ""),
    "kimi k3 without tokens": ("Two.thinkresponseFour.responsemessage", K3),
    "solar": ("<|think|>Two.<|end|><|begin|>assistant<|content|>Four.<|end|>", ""),
    "solar, closing only": ("Two.<|end|><|begin|>assistant<|content|>Four.<|end|>", ""),
    "inkling": ("<|content_thinking|>Two.<|end_message|><|message_model|><|content_text|>Four.<|end_message|>", ""),
    "s1": ("<|im_start|>think\nTwo.<|im_end|>\n<|im_start|>answer\nFour.<|im_end|>", ""),
    "tags": ("<think>Two.</think>Four.", ""),
    "a closing tag": ("Two.</think>Four.", ""),
}  # fmt: skip


def rows_of(text, model, thinking):
    """The same content in a plain row, a conversation, and the response of a server."""
    message = {"role": "assistant", "content": text, "reasoning_content": thinking}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    plain = {"prompt": "hi", "completion": text, "reasoning_content": thinking}
    return (
        plain | {"model": model, "finish_reason": "stop"},
        {"model": model, "messages": [ASK, message]},
        {"model": model, "object": "chat.completion", "choices": [choice]},
    )


@pytest.mark.parametrize("thinking", ["", None, " \n", "Two."], ids=repr)
@pytest.mark.parametrize("case", HEADED)
def test_a_content_with_its_thought_is_the_whole_completion(case, thinking):
    text, model = HEADED[case]
    for row in rows_of(text, model, thinking):
        (trace,) = read_records([row])
        assert trace.completion == text
        assert parts(trace) == (["Two."], "Four.", "closed")


NO_HEADER = [
    "Kimi writes `<|close|>think<|sep|>` after it.",
    "The analysis of it: assistantfinal is a word.",
    "final",
    "It sends <|message|> and to=self.",
]


@pytest.mark.parametrize("text", NO_HEADER)
def test_a_header_that_an_answer_mentions_is_none(text):
    for row in rows_of(text, "", ""):
        assert parts(next(read_records([row]))) == ([], text, "absent")
    for row in rows_of(text, "", "Hm."):
        assert parts(next(read_records([row]))) == (["Hm."], text, "closed")


def test_a_prompt_that_opened_the_header_is_enough():
    """HyperCLOVA's answer begins as any message of ChatML does: the prompt tells the thought."""
    text = "Two.<|im_end|>\n<|im_start|>assistant\nFour."
    row = {"prompt": "<|im_start|>assistant/think\n", "completion": text, "reasoning_content": ""}
    (trace,) = read_records([row])
    assert parts(trace) == (["Two."], "Four.", "closed")

    # A text without the end of a thought is the answer that the source calls it.
    (trace,) = read_records([row | {"completion": "Four."}])
    assert parts(trace) == ([], "Four.", "absent")


def test_an_answer_that_holds_a_header_is_written_as_a_block():
    """Beside a field of thinking it would be read as the whole completion."""
    text = "Two.analysisTwo.assistantfinalFour."
    whole = Span(4, len(text))
    think = (Span(0, 4),)
    trace = Trace(id="t", completion=text, origin=Origin.FIELDS, think=think, answer=whole)
    message = assistant_message(trace)
    (read,) = read_records([{"messages": [ASK, message]}])
    assert (read.completion, read.think, read.answer) == (text, trace.think, trace.answer)


# --- a call in a field of its own -------------------------------------------------------------
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
OPEN = [
    "<|channel|>analysis<|message|>I need it.",
    "analysisI need it.",
    "<|think|>I need it.",
    "<|open|>think<|sep|>I need it.",
    "<|content_thinking|>I need it.",
    " to=self<|message|>I need it.",
    " to=selfI need it.",
    "/think\nI need it.",
    "<|im_start|>think\nI need it.",
    "<think>I need it.",
]


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
@pytest.mark.parametrize("text", OPEN)
def test_a_call_in_a_field_counts_whatever_the_reason(text, reason):
    """vLLM says `stop` of a call that the request asked for by its name."""
    message = {"role": "assistant", "content": text, "tool_calls": [CALL]}
    choice = {"index": 0, "finish_reason": reason, "message": message}
    (trace,) = read_records([{"choices": [choice]}])
    assert (parts(trace), trace.finish_reason) == ((["I need it."], "", "closed"), reason)


def test_a_call_does_not_close_the_thought_of_a_family_whose_parsers_read_on():
    message = {"role": "assistant", "content": "<think>I need it.", "tool_calls": [CALL]}
    (trace,) = read_records([{"model": "Qwen/QwQ-32B", "messages": [ASK, message]}])
    assert parts(trace) == (["I need it."], "", "open")


@pytest.mark.parametrize("text", OPEN)
def test_a_call_beside_an_open_thought_closes_it(text):
    message = {"role": "assistant", "content": text}
    (trace,) = read_records([{"messages": [ASK, message | {"tool_calls": [CALL]}]}])
    assert parts(trace) == (["I need it."], "", "closed")
    (trace,) = read_records([{"messages": [ASK, message]}])
    assert parts(trace) == (["I need it."], "", "open")
