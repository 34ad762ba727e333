import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import read_rows

from cotlens import Span, Trace, split_trace
from cotlens.text.families import Tags
from cotlens.text.split import Status, split_think
from cotlens.trace import Origin, Reasoning

R1_PROMPT = "<｜User｜>What is 2 + 2?<｜Assistant｜><think>\n"


def parts(completion, prompt="", **options):
    """Texts of the thoughts, text of the answer, status and who opened: what a reader would check by eye."""
    split = split_think(completion, prompt, **options)
    return [span.of(completion) for span in split.think], split.answer.of(completion), *split[2:]


CASES = {
    "r1": ("<think>a</think>b", "", ["a"], "b", "closed", "text"),
    "white space is kept": (" <think>\na\n</think>\n\nb\n", "", ["\na\n"], "\n\nb\n", "closed", "text"),
    "crlf": ("<think>\r\na\r\n</think>\r\nb", "", ["\r\na\r\n"], "\r\nb", "closed", "text"),
    "opened by the prompt": ("a</think>b", R1_PROMPT, ["a"], "b", "closed", "prompt"),
    "opened by an unknown prompt": ("a</think>b", "", ["a"], "b", "closed", "prompt"),
    "opened by the prompt and repeated": ("\n<think>\na</think>b", R1_PROMPT, ["\na"], "b", "closed", "prompt"),
    "prefilled thought": (" go on</think>b", "<｜Assistant｜><think>\nLet me", [" go on"], "b", "closed", "prompt"),
    "opened by the prompt, cut off": ("a and", R1_PROMPT, ["a and"], "", "open", "prompt"),
    "cut off": ("<think>a and", "", ["a and"], "", "open", "text"),
    "nothing but the tag": ("<think>", "", [""], "", "open", "text"),
    "no tags": ("just text", "", [], "just text", "absent", ""),
    "empty": ("", "", [], "", "absent", ""),
    "empty thought": ("<think>\n\n</think>\n\nb", "", ["\n\n"], "\n\nb", "closed", "text"),
    "first closing tag wins": ("<think>a</think>b</think>c", "", ["a"], "b</think>c", "closed", "text"),
    "opening tag inside a thought is text": ("<think>a<think>b</think>c", "", ["a<think>b"], "c", "closed", "text"),
    "two thoughts": ("<think>a</think>say<think>b</think>c", "", ["a", "b"], "c", "closed", "text"),
    "second thought cut off": ("<think>a</think>\n<think>b", "", ["a", "b"], "", "open", "text"),
    "tag quoted in the answer": (
        "<think>a</think>write `<think>` and `</think>`", "", ["a"], "write `<think>` and `</think>`", "closed", "text",
    ),
    "tag quoted in an answer without a thought": ("Use the `<think>` tag.", "", [], "Use the `<think>` tag.", "absent", ""),
    "thought that ends in a quotation": ('he said "hi"</think>A', "", ['he said "hi"'], "A", "closed", "prompt"),
    "closing tag quoted": ('It ends with "</think>".', "", [], 'It ends with "</think>".', "absent", ""),
    "many tags in a line": ("<think>a</think>" + "x <think> y " * 3, "", ["a"], "x <think> y " * 3, "closed", "text"),
    "other tags inside a thought": ("I could write <thinking> here</think>b", "", ["I could write <thinking> here"], "b", "closed", "prompt"),
    "harmony talked about": ("<think>Say <|channel|>analysis<|message|>.</think>b", "", ["Say <|channel|>analysis<|message|>."], "b", "closed", "text"),
    "a question about the tag": ("b", "What is <think>", [], "b", "absent", ""),
    "tag in an answer without thinking": ("The tag </think> ends it.", "<|im_start|>assistant\n<think>\n\n</think>\n\n", [], "The tag </think> ends it.", "absent", ""),
    "harmony call on the thinking channel": (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis to=python code<|message|>1<|call|>",
        "", ["a"], "", "closed", "text",
    ),
    "harmony prefilled with a formula": ("go<|end|>", "<|start|>assistant<|channel|>analysis<|message|>If x < 3", ["go"], "", "closed", "prompt"),
    "user mentions the tag": ("b", "Put it between <think> and </think>.", [], "b", "absent", ""),
    "user mentions only the opening tag": ("b", "Begin with <think> please.", [], "b", "absent", ""),
    "thinking switched off": ("b", "<|im_start|>assistant\n<think>\n\n</think>\n\n", [], "b", "absent", ""),
    "echoed prompt with a tag": (
        "Use <think> tags.<think>a</think>b", "Use <think> tags.", ["a"], "b", "closed", "text",
    ),
    "echoed chat prompt": (R1_PROMPT + "a</think>b", R1_PROMPT, ["\na"], "b", "closed", "prompt"),
    "echo after special tokens": (
        "<s>\n<|im_start|>user\nUse <think> tags.<|im_end|>\n<think>a</think>b", "Use <think> tags.", ["a"], "b", "closed", "text",
    ),
    "a thought that quotes the prompt": (
        "<think>I am asked: Use <think> tags. Well.</think>b", "Use <think> tags.", ["I am asked: Use <think> tags. Well."], "b", "closed", "text",
    ),
    "mistral": ("[THINK]a[/THINK]b", "", ["a"], "b", "closed", "text"),
    "gemma channel": ("<|channel>thought\na<channel|>b", "", ["a"], "b", "closed", "text"),
    "gemma tag": ("<thought>a</thought>b", "", ["a"], "b", "closed", "text"),
    "harmony": (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
        "", ["a"], "b", "closed", "text",
    ),
    "harmony with a tool call": (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f<|constrain|>json"
        "<|message|>{}<|call|><|start|>functions.f to=assistant<|channel|>commentary<|message|>7<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>c<|end|><|start|>assistant<|channel|>final<|message|>b",
        "", ["a", "c"], "b", "closed", "text",
    ),
    "harmony cut off": ("<|channel|>analysis<|message|>a and", "", ["a and"], "", "open", "text"),
    "harmony without an answer": ("<|channel|>analysis<|message|>a<|end|>", "", ["a"], "", "closed", "text"),
    "harmony without a thought": ("<|channel|>final<|message|>b<|return|>", "", [], "b", "absent", ""),
    "harmony opened by the prompt": (
        "a<|end|><|start|>assistant<|channel|>final<|message|>b",
        "<|start|>assistant<|channel|>analysis<|message|>", ["a"], "b", "closed", "prompt",
    ),
    "harmony with the conversation before it": (
        "<|start|>user<|message|>q<|end|><|start|>assistant<|channel|>analysis<|message|>old<|end|>"
        "<|start|>user<|message|>q2<|end|><|start|>assistant<|channel|>analysis<|message|>a<|end|>"
        "<|start|>assistant<|channel|>final<|message|>b<|return|>",
        "", ["a"], "b", "closed", "text",
    ),
    "stripped harmony": ("analysisWe add.assistantfinal4", "", ["We add."], "4", "closed", "text"),
    "stripped harmony with a tool": (
        "analysisWe call.assistantcommentary to=functions.f json{}assistantanalysisGood.assistantfinalDone.",
        "", ["We call.", "Good."], "Done.", "closed", "text",
    ),
    "stripped harmony cut off": ("analysisWe add", "", ["We add"], "", "open", "text"),
    "stripped harmony without a thought": ("assistantfinal4", "", [], "4", "absent", ""),
    "stripped harmony with the role": ("assistantanalysisWe add.assistantfinal4", "", ["We add."], "4", "closed", "text"),
    "stripped harmony with a recipient": (
        "analysisWe call.assistant to=functions.fcommentary json{}assistantfinal4", "", ["We call."], "4", "closed", "text",
    ),
    "stripped harmony that begins with a call": (
        "commentary to=functions.f json{}assistantanalysisGood.assistantfinal4", "", ["Good."], "4", "closed", "text",
    ),
    "a sentence about a commentary": ("commentary on it", "", [], "commentary on it", "absent", ""),
    "harmony with the role in front": (
        "assistant<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
        "", ["a"], "b", "closed", "text",
    ),
    "harmony whose header the prompt began": (
        "<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
        "<|start|>assistant<|channel|>analysis", ["a"], "b", "closed", "prompt",
    ),
    "harmony whose channel the completion names": (
        "analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
        "<|start|>assistant<|channel|>", ["a"], "b", "closed", "text",
    ),
    "harmony inside a thought of an unknown prompt": (
        "a<|end|><|start|>assistant<|channel|>final<|message|>b", "q", ["a"], "b", "closed", "prompt",
    ),
    "harmony with a recipient in the header of the role": (
        "<|start|>assistant to=python<|channel|>analysis code<|message|>1<|call|>", "", [], "", "absent", "",
    ),
    "the end of a thought in quotation marks": (
        "Kimi writes `<|close|>think<|sep|>` then.", "", [], "Kimi writes `<|close|>think<|sep|>` then.", "absent", "",
    ),
    "muse without special tokens": (" to=selfa.assistant to=userb.", "", ["a."], "b.", "closed", "text"),
    "nested tags": ("<think>\n<think>\na\n</think>\n</think>\nb", "", ["\na\n"], "\nb", "closed", "text"),
    "nested and closed once": ("<think><think>a</think>b", "", ["a"], "b", "closed", "text"),
    "capital letters": ("<THINK>a</Think>b", "", ["a"], "b", "closed", "text"),
    "a suffix of the checkpoint": ("<think:6124c78e>a</think:6124c78e>b", "", ["a"], "b", "closed", "text"),
    "another suffix is text": ("<think:1>a</think>b</think:1>c", "", ["a</think>b"], "c", "closed", "text"),
    "phrases": ("Here is my thought process: a Here is my response: b", "", [" a "], " b", "closed", "text"),
    "phrases in the middle": ("So. Here is my response: b", "", [], "So. Here is my response: b", "absent", ""),
    "short phrases": ("Here's my thought process: a Here is my response: b", "", [" a "], " b", "closed", "text"),
    "wrapped answer": ("<think>a</think>\n<answer>b</answer>\n", "", ["a"], "b", "closed", "text"),
    "wrapper that was cut off": ("<think>a</think><response>b", "", ["a"], "b", "closed", "text"),
    "text after a wrapper is answer too": (
        "<think>a</think><answer>b</answer> and c", "", ["a"], "<answer>b</answer> and c", "closed", "text",
    ),
    "wrapper in the middle of an answer": (
        "<think>a</think>So <answer>b</answer>", "", ["a"], "So <answer>b</answer>", "closed", "text",
    ),
    "wrapper without a thought is text": ("<answer>b</answer>", "", [], "<answer>b</answer>", "absent", ""),
    "special wrapper without a thought": ("<|START_TEXT|>b<|END_TEXT|>", "", [], "b", "absent", ""),
    "call in an open thought": ('<think>a\n<tool_call>\n{"name": "f"}\n</tool_call>', "", ["a\n"], "", "closed", "text"),
    "call in the middle of a line": ('<think>a.<tool_call>{"name": "f"}</tool_call>', "", ["a."], "", "closed", "text"),
    "call that is cut off": ('<think>a\n<tool_call>\n{"na', "", ["a\n"], "", "closed", "text"),
    "text after a call": ("<think>a\n<tool_call>\n{}\n</tool_call>\nb", "", ["a\n"], "\nb", "closed", "text"),
    "two calls": ("<think>a\n<tool_call>{}</tool_call>\n<tool_call>{}</tool_call>", "", ["a\n"], "", "closed", "text"),
    "call that is only mentioned": ("<think>I use the <tool_call> tag", "", ["I use the <tool_call> tag"], "", "open", "text"),
    "call in quotation marks": ("<think>I use `<tool_call>`", "", ["I use `<tool_call>`"], "", "open", "text"),
    "call drafted in a thought": (
        "<think>a <tool_call>{}</tool_call> b</think>c", "", ["a <tool_call>{}</tool_call> b"], "c", "closed", "text",
    ),
    "turns in one text": (
        "<think>a<tool_call>{}</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>2</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n<think>b</think>c", "", ["a", "b"], "c", "closed", "text",
    ),
    "a cut turn and another one": (
        "<think>a<|im_end|>\n<|im_start|>assistant\nb", "", ["a"], "\nb", "closed", "text",
    ),
    "call apart": (
        "<|inner_prefix|>a<|tools_prefix|>[{}]<|tools_suffix|>b<|inner_suffix|>c", "", ["a", "b"], "c", "closed", "text",
    ),
    "prefilled after an unknown header": ("b", "<|new|>assistant<|x|>\n<think>\na", ["b"], "", "open", "prompt"),
    "prefilled on its line": ("b", "2+2?\n<think>\na", ["b"], "", "open", "prompt"),
    "opened behind a space": ("b", "<sep>assistant: <think>\n", ["b"], "", "open", "prompt"),
    "a tag in an earlier message": (
        "b", "<|im_start|>user\n<think>\nWhy?<|im_end|>\n<|im_start|>assistant\n", [], "b", "absent", "",
    ),
    "the word analysis": ("analysis of variance", "", [], "analysis of variance", "absent", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=list(CASES))
def test_split(case):
    completion, prompt, *expected = CASES[case]
    assert list(parts(completion, prompt)) == expected


def test_a_known_template_opens_the_thought_of_a_completion_without_tags():
    """R1 distills end the prompt with <think>: no tag at all means cut off. An instruct model just answered."""
    assert parts("So we", model="deepseek-ai/DeepSeek-R1-Distill-Qwen-14B")[2:] == (
        Status.OPEN,
        "model",
    )
    assert parts("So we", model="Qwen/QwQ-32B")[2:] == (Status.OPEN, "model")
    for model in ("Qwen2.5-7B-Instruct", "QwQ-32B-Preview", "gpt-oss-120b", ""):
        assert parts("So we", model=model)[2:] == (Status.ABSENT, "")
    rendered = (
        "<｜User｜>Hi<｜Assistant｜>"  # the template was applied, and did not open the thought
    )
    assert parts("So we", rendered, model="DeepSeek-R1-Distill-Qwen-14B")[2:] == (Status.ABSENT, "")


def test_a_model_that_stopped_by_itself_without_tags_skipped_the_thought():
    """An R1 distill that just refuses: no tag, finish reason stop. Without the reason it was cut off."""
    trace = Trace(
        id="t", completion="I'm sorry.", model="DeepSeek-R1-Distill-Qwen-7B", finish_reason="stop"
    )
    assert split_trace(trace).status is Status.ABSENT
    assert (
        split_trace(Trace(id="t", completion="I'm sorry.", model=trace.model)).status is Status.OPEN
    )


CUT_OFF = [
    ("MiniMaxAI/MiniMax-M2.1", "length", "open"),
    ("MiniMaxAI/MiniMax-M2.1", "MAX_TOKENS", "open"),
    ("MiniMaxAI/MiniMax-M2.1", "", "open"),  # a template without a switch
    ("MiniMaxAI/MiniMax-M2.1", "stop", "absent"),
    ("MiniMaxAI/MiniMax-M2.1", "eos_token", "absent"),
    ("allenai/Olmo-3-32B-Think", "length", "open"),
    ("Qwen/Qwen3.5-35B-A3B", "length", "open"),
    ("Qwen/Qwen3.5-35B-A3B", "", "absent"),  # thinking may be off
    ("Qwen/Qwen3-8B", "length", "absent"),  # the model writes the tag
    ("deepseek-ai/DeepSeek-V3.1", "length", "absent"),
    ("meta-llama/Llama-3.1-8B", "length", "absent"),
]


@pytest.mark.parametrize(("model", "reason", "expected"), CUT_OFF)
def test_a_text_without_a_tag_is_cut_off_where_the_template_opens_the_thought(
    model, reason, expected
):
    trace = Trace(id="t", completion="So we", model=model, finish_reason=reason)
    assert split_trace(trace).status == expected

    # A server's empty field of thinking says no more than the text.
    fields = replace(trace, origin=Origin.FIELDS, answer=Span(0, 5))
    if reason in ("length", "MAX_TOKENS"):
        assert split_trace(fields).status == expected
    assert split_trace(replace(fields, reasoning=Reasoning.REDACTED)).status is Status.ABSENT


def test_a_call_in_a_field_closes_the_thought_of_the_content():
    trace = Trace(id="t", completion="<think>\nI need it.", finish_reason="tool_calls")
    assert split_trace(trace) == ((Span(7, 18),), Span(18, 18), Status.CLOSED, "text")
    assert split_trace(replace(trace, model="Qwen/QwQ-32B")).status is Status.OPEN
    assert split_trace(replace(trace, finish_reason="stop")).status is Status.OPEN


def test_a_thought_that_the_template_always_opens_may_end_in_a_call():
    text = "I need it.\n<minimax:tool_call>\n</minimax:tool_call>"
    trace = Trace(id="t", completion=text, model="MiniMax-M2", finish_reason="tool_calls")
    assert split_trace(trace)[:3] == ((Span(0, 11),), Span(51, 51), Status.CLOSED)


@pytest.mark.parametrize(
    ("model", "call"),
    [
        ("Qwen/Qwen3.5-35B-A3B", "<tool_call>\n<function=f>\n</function>\n</tool_call>"),
        ("zai-org/GLM-4.7", "<tool_call>f</tool_call>"),
        ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B", "<tool_call>\n{}\n</tool_call>"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "<tool_call>\n{}\n</tool_call>"),
        ("MiniMaxAI/MiniMax-M2", "<minimax:tool_call>\n</minimax:tool_call>"),
    ],
)
@pytest.mark.parametrize("finish_reason", ["tool_calls", "stop", "length", ""])
def test_a_thought_that_a_template_opens_ends_in_a_call(model, call, finish_reason):
    """vLLM's parsers of these begin inside the thought and leave it at the call (docs/families.md)."""
    options = {"model": model, "finish_reason": finish_reason}
    expected = ["I need it.\n"], "", Status.CLOSED, "model"
    assert parts("I need it.\n" + call, **options) == expected
    assert parts("I need it.\n" + call + "\nDone.", **options)[1] == "\nDone."

    # Where the rendered prompt does not open it, or the family never does, it is no thought.
    text = "I need it.\n" + call
    rendered = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert parts(text, rendered, **options)[1:3] == (text, Status.ABSENT)
    assert parts(text, model="Qwen/Qwen3-8B", finish_reason=finish_reason)[2] is Status.ABSENT


def test_kimi_k3_without_special_tokens():
    text = "Two.thinkresponseFour.responsemessage"
    assert parts(text, model="moonshotai/Kimi-K3")[:3] == (["Two."], "Four.", Status.CLOSED)
    assert parts(text)[:3] == ([], text, Status.ABSENT)


HOSTILE = ["<think>", "</think>", "<think>a<tool_call></tool_call>", "<|im_start|>assistant\n<think>", "<", " ", "to=", "<answer>",
           "<|channel|>analysis<|message|>", "assistant to=a", "<|open|>think<|sep|>", "<think:a", "`<think>`"]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_a_hostile_text_takes_time_in_proportion(unit):
    """Half a million characters, as completion, after an opening tag, and as prompt."""
    text = (unit * (500_000 // len(unit) + 1))[:500_000]
    start = time.perf_counter()
    split_think(text, finish_reason="tool_calls")
    split_think("<|inner_prefix|>" + text, "<|im_start|>assistant\n<think>\n")
    split_think("a</think>b", text)
    assert time.perf_counter() - start < 20


def test_custom_tags_are_the_only_ones_looked_for():
    text = "<think>x</think>BEGIN a END b"
    assert parts(text, tags=Tags("BEGIN", "END"))[:2] == ([" a "], " b")


def test_empty_tags_are_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        split_think("x", tags=Tags("", ""))


def test_separate_fields_are_verbatim():
    """Text in fields is never searched, even when it contains tags; an empty answer is not a closed thought."""
    fields = {
        "id": "t",
        "completion": "a</think>bc",
        "origin": Origin.FIELDS,
        "think": (Span(0, 10),),
    }
    split = split_trace(Trace(**fields, answer=Span(10, 11)))
    assert split == ((Span(0, 10),), Span(10, 11), Status.CLOSED, "fields")
    assert split_trace(Trace(**fields)).status is Status.OPEN
    assert split_trace(Trace(**fields, finish_reason="stop")).status is Status.CLOSED
    assert (
        split_trace(Trace(id="t", completion="b", origin=Origin.FIELDS, answer=Span(0, 1))).status
        is Status.ABSENT
    )


SOUP = st.lists(
    st.sampled_from(
        [tag for case in CASES.values() for tag in case[0].split("a")]
        + [
            "<think>",
            "</think>",
            "[THINK]",
            "[/THINK]",
            "<|channel|>",
            "<|message|>",
            "<|start|>",
            "<|end|>",
            "`",
            "\n",
        ]
        + [
            "analysis",
            "assistantfinal",
            "final",
            "a ",
            "word",
            "\r\n",
            "é",
            "思",
            "\x00",
            "\ud800",
            "<|channel>thought\n",
        ]
    ),
    max_size=25,
).map("".join)


@given(
    st.one_of(st.text(), SOUP),
    st.one_of(st.text(), SOUP),
    st.sampled_from(["", "DeepSeek-R1", "gpt-oss-20b"]),
)
def test_split_never_raises_and_its_spans_lie_in_order(completion, prompt, model):
    """Spans are disjoint, in order and inside the text; open means no answer; absent means no thought."""
    think, answer, status, _ = split_think(completion, prompt, model=model)
    position = 0
    for start, stop in (*think, answer) if status is not Status.ABSENT else (answer,):
        assert position <= start <= stop <= len(completion)
        position = stop
    assert bool(think) == (status is not Status.ABSENT)
    assert status is not Status.OPEN or answer.length == 0


@given(
    st.text(st.characters(exclude_characters="<>[]|◁▷")),
    st.text(st.characters(exclude_characters="<>[]|◁▷")),
)
def test_what_was_joined_is_split(thinking, answer):
    """split(join(thinking, answer)) gives back both, byte for byte."""
    assert parts(f"<think>{thinking}</think>{answer}") == (
        [thinking],
        answer,
        Status.CLOSED,
        "text",
    )


def test_real_traces_split_where_their_reference_says(data):
    """Every row of traces/reasoning and traces/star1_safe that has reference offsets, 1,515 rows; none is excepted."""
    n = 0
    for name in ("reasoning", "star1_safe"):
        for row in read_rows(data / "traces" / f"{name}.jsonl.gz"):
            if not (reference := row.get("think")):
                continue
            n += 1
            split = split_think(row["raw"], row["prompt"], model=row["model"])
            assert [list(span) for span in split.think] == (
                [reference["thinking"]] if reference["thinking"] else []
            )
            if reference["answer"]:
                assert list(split.answer) == reference["answer"]
            else:
                assert split.status is Status.OPEN
    assert n == 1515


def test_real_harmony_splits_like_its_channels(data):
    """Raw Harmony text, and the same text without its special tokens, against the source's own channels (n = 40)."""
    for row in read_rows(data / "traces" / "gpt_oss_harmony.jsonl.gz"):
        raw = row["raw"]
        thinking = raw.split("<|channel|>analysis<|message|>")[1].split("<|end|>")[0]
        answer = raw.split("<|channel|>final<|message|>")[1]
        assert parts(raw)[:2] == ([thinking], answer)
        assert parts(f"analysis{thinking}assistantfinal{answer}", model="gpt-oss-20b")[:2] == (
            [thinking],
            answer,
        )


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ("<think>\nA risk.\n</think>", "\nA risk.\n"),
        ("\n<think>A risk.", "A risk."),
        ("A risk.</think> ", "A risk."),
        ("He says <think> twice.", "He says <think> twice."),
        ("<think></think>", None),
    ],
)
def test_a_field_of_thinking_may_still_hold_its_tags(thinking, expected):
    """They are no step of it, and the text stays as it was."""
    trace = Trace(
        id="a",
        completion=thinking,
        origin=Origin.FIELDS,
        think=(Span(0, len(thinking)),),
        answer=Span(*[len(thinking)] * 2),
    )
    split = split_trace(trace)
    assert [span.of(trace.completion) for span in split.think] == (
        [] if expected is None else [expected]
    )
    assert trace.completion == thinking
