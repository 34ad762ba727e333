"""Parts of messages: which are thinking, which are text, and none is lost unseen."""

import pytest

from cotlens import TraceError, split_trace
from cotlens.formats.read import read_records

ASK = {"role": "user", "content": "hi"}
TEXT = {"type": "text", "text": "Hello."}


def read(parts, role="assistant", name="content"):
    (trace,) = read_records([{"messages": [ASK, {"role": role, name: parts}]}])
    return trace


def parts(trace):
    split = split_trace(trace)
    thoughts = [span.of(trace.completion) for span in split.think]
    return thoughts, split.answer.of(trace.completion), split.status.value


THOUGHTS = {
    "kimi-cli": {"type": "think", "think": "Hm.", "encrypted": None},
    "Anthropic": {"type": "thinking", "thinking": "Hm.", "signature": "s"},
    "Inspect": {"type": "reasoning", "reasoning": "Hm."},
    "Vercel": {"type": "reasoning", "text": "Hm."},
    "Mistral": {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
    "Gemini": {"text": "Hm.", "thought": True},
    "Gemini with a type": {"type": "text", "text": "Hm.", "thought": True},
    "LangChain": {
        "type": "reasoning_content",
        "reasoning_content": {"text": "Hm.", "signature": "s"},
    },
    "Bedrock": {"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "s"}}},
    "its own name": {"type": "thought", "thought": "Hm."},
    "no type": {"thinking": "Hm."},
    "capitals": {"type": "Thinking", "thinking": "Hm."},
    "a text of reasoning": {"type": "reasoning_text", "text": "Hm."},
}


@pytest.mark.parametrize("source", THOUGHTS)
def test_parts_that_are_thinking(source):
    assert parts(read([THOUGHTS[source], TEXT])) == (["Hm."], "Hello.", "closed")


def test_parts_of_gemini_under_their_own_name():
    assert parts(
        read([{"text": "Hm.", "thought": True}, {"text": "Hello."}], "model", "parts")
    ) == (["Hm."], "Hello.", "closed")
    content = {"role": "model", "parts": [{"text": "Hm.", "thought": True}, {"text": "Hello."}]}
    row = {
        "candidates": [{"content": content, "finishReason": "STOP"}],
        "modelVersion": "gemini-2.0-flash",
    }
    (trace,) = read_records([row])
    assert (parts(trace), trace.finish_reason, trace.model) == (
        (["Hm."], "Hello.", "closed"),
        "stop",
        "gemini-2.0-flash",
    )


UNKNOWN = {
    "another type": {"type": "markdown", "text": "Hello."},
    "a content": {"type": "block", "content": "Hello."},
    "its own name": {"type": "final", "final": "Hello."},
    "a value": {"type": "string", "value": "Hello."},
    "no type": {"text": "Hello."},
    "plain text": "Hello.",
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_part_of_an_unknown_type_with_text_is_text(case):
    assert parts(read([{"type": "thinking", "thinking": "Hm."}, UNKNOWN[case]])) == (
        ["Hm."],
        "Hello.",
        "closed",
    )
    assert read([UNKNOWN[case]]).completion == "Hello."


def test_text_under_an_unknown_name_is_refused_and_an_image_is_not():
    for before in ([], [{"type": "thinking", "thinking": "Hm."}]):
        with pytest.raises(TraceError, match="unknown type 'weird' and holds text under 'body'"):
            read([*before, {"type": "weird", "body": "Hello."}])
    image = {"type": "image_url", "image_url": {"url": "u"}}
    trace = read([{"type": "thinking", "thinking": "Hm."}, image, TEXT])
    assert (parts(trace), trace.meta["other_parts"]) == (
        (["Hm."], "Hello.", "closed"),
        [{"at": 3, **image}],
    )
    assert read([{"type": "step-start"}, TEXT]).completion == "Hello."


@pytest.mark.parametrize("part", [3, None, ["a"]], ids=str)
def test_a_part_that_is_neither_text_nor_an_object_is_named(part):
    with pytest.raises(
        TraceError, match="content of a message must be text or a list of parts, got"
    ):
        read([TEXT, part])


@pytest.mark.parametrize("call", [
    {"type": "tool_use", "id": "c", "name": "f", "input": {}}, {"type": "function_call", "name": "f", "arguments": "{}"},
    {"functionCall": {"name": "f", "args": {}}}, {"type": "tool-call", "toolName": "f"}, {"type": "tool-search", "state": "done"},
    {"toolUse": {"name": "f"}},
], ids=str)  # fmt: skip
def test_calls_among_the_parts_are_neither_thinking_nor_answer(call):
    trace = read([{"type": "thinking", "thinking": "Hm."}, call])
    assert (parts(trace), trace.finish_reason) == ((["Hm."], "", "closed"), "tool_calls")
    assert len(trace.meta["tool_calls"]) == 1


# --- signatures --------------------------------------------------------------------------------

SIGNATURE = "EqQB" + "aB3/x+" * 30 + "=="
SIGNED = {
    "Inspect's Claude": (
        {"type": "reasoning", "reasoning": SIGNATURE, "summary": "I add.", "redacted": True},
        "I add.",
        "summary",
    ),
    "without its flag": (
        {"type": "reasoning", "reasoning": SIGNATURE, "summary": "I add."},
        "I add.",
        "summary",
    ),
    "without a summary": (
        {"type": "reasoning", "reasoning": SIGNATURE, "redacted": True},
        "",
        "redacted",
    ),
    "the same as its signature": (
        {"type": "thinking", "thinking": "sig", "signature": "sig"},
        "",
        "redacted",
    ),
    "a summary alone": ({"type": "summary_text", "text": "I add."}, "I add.", "summary"),
}


@pytest.mark.parametrize("case", SIGNED)
def test_a_signature_is_never_thinking(case):
    part, thinking, reasoning = SIGNED[case]
    trace = read([part, TEXT])
    assert (parts(trace)[0], trace.reasoning) == ([thinking] if thinking else [], reasoning)
    assert trace.completion == thinking + "Hello."


def test_inspects_own_class_of_a_block_of_claude():
    model = pytest.importorskip("inspect_ai.model")
    block = model.ContentReasoning(reasoning=SIGNATURE, summary="I add.", redacted=True)
    trace = read([block.model_dump(mode="json", exclude_none=True), TEXT])
    assert (parts(trace)[0], trace.reasoning) == (["I add."], "summary")


def test_a_text_among_the_parts_may_speak_of_a_role():
    content = [{"type": "think", "think": "Hm."}, "The role is clear."]
    (trace,) = read_records([{"prompt": "q", "completion": content}])
    assert parts(trace) == (["Hm."], "The role is clear.", "closed")


def test_a_part_with_parts_inside_is_text():
    inner = {"type": "message", "content": [{"type": "output_text", "text": "Hello."}]}
    assert parts(read([{"type": "think", "think": "Hm."}, inner])) == (["Hm."], "Hello.", "closed")


def test_what_a_text_holds_besides_is_kept():
    trace = read([{"type": "text", "text": "Hello.", "reasoning": "Hm.", "citations": [1]}])
    assert (trace.completion, trace.meta["other_parts"]) == (
        "Hello.", [{"at": 0, "type": "text", "reasoning": "Hm.", "citations": [1]}],
    )  # fmt: skip
