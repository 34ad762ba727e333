"""Two other parsers on the same texts: transformers' response templates, and prime-rl's `renderers`.

Each is given the completion and what its prompt opened. Where it disagrees, DISAGREE says who is right and why; elsewhere thinking
and answer must be equal, spaces at their ends aside.
"""

import pytest
from templates import TEMPLATES, T

from cotlens.text.split import split_think

BY_MODEL = {}
for template in TEMPLATES:
    BY_MODEL.setdefault(template.model, template)

# Tokens that end a turn: these parsers drop them, and cotlens keeps every character of a completion.
ENDS = ("<|im_end|>", "<turn|>", "</assistant>", "[e~[")


def cases(t):
    """Completions of a family by the kind of text, with the prompt of each."""
    closed = t.open + T + t.close
    found = {
        "closed": (t.on, closed + "Four." + t.end),
        "cut off": (t.on, t.open + "Two and"),
        "empty": (t.on, t.open + t.close + "Four." + t.end),
    }
    if t.off or t.open:
        found["direct"] = (t.off or t.on, t.direct + "Four." + (t.end if t.direct else ""))
    if t.call:
        found["call in an open thought"] = (t.on, t.open + "I need it.\n" + t.call)
        found["draft"] = (t.on, t.open + f"Perhaps\n{t.call}\nno." + t.close + "Four.")
    return found


def split(model, prompt, completion):
    parts = split_think(completion, prompt, model=model, finish_reason="length")
    thinking = " ".join(span.of(completion) for span in parts.think)
    answer = parts.answer.of(completion).strip()
    for end in ENDS:
        answer = answer.removesuffix(end)
    return thinking.strip(), answer.strip()


# --- transformers --------------------------------------------------------------------------------
RESPONSE_TEMPLATES = {
    "Qwen/Qwen3-8B": "qwen3_template",
    "Qwen/Qwen3.5-35B-A3B": "qwen3_5_template",
    "Qwen/Qwen3.6-27B": "qwen3_5_template",
    "Qwen/Qwen3.8-27B": "qwen3_5_template",
    "zai-org/GLM-4.5": "glm4moe_template",
    "openai/gpt-oss-20b": "gptoss_template",
    "LiquidAI/LFM2.5-8B-A1B": "lfm2_2_5_template",
    "google/gemma-4-E4B-it": "gemma4_template",
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "nemotron_3_template",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": "deepseek_r1_distill_template",
}
CALL_IS_THINKING = "the templates of trl read on to the closing tag; the servers' parsers end the thought at the call, as cotlens does"
CUT_IS_ANSWER = "these templates take a text without </think> for the answer, though the prompt opened the thought"
TRANSFORMERS_DISAGREES = {
    ("Qwen/Qwen3-8B", "call in an open thought"): CALL_IS_THINKING,
    ("Qwen/Qwen3.5-35B-A3B", "call in an open thought"): CALL_IS_THINKING,
    ("Qwen/Qwen3.6-27B", "call in an open thought"): CALL_IS_THINKING,
    ("Qwen/Qwen3.8-27B", "call in an open thought"): CALL_IS_THINKING,
    ("zai-org/GLM-4.5", "call in an open thought"): CALL_IS_THINKING,
    ("google/gemma-4-E4B-it", "call in an open thought"): CALL_IS_THINKING,
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "cut off"): CUT_IS_ANSWER,
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "call in an open thought"): CUT_IS_ANSWER,
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "cut off"): CUT_IS_ANSWER,
}


@pytest.mark.parametrize("model", RESPONSE_TEMPLATES)
def test_transformers(model):
    templates = pytest.importorskip("trl.chat_template_utils")
    from transformers.utils.chat_parsing.response_parser import parse_response

    response_template = getattr(templates, RESPONSE_TEMPLATES[model])
    disagreements = set()
    for case, (prompt, completion) in cases(BY_MODEL[model]).items():
        parsed = parse_response(completion, response_template, prefix=prompt)
        thinking = parsed.get("reasoning_content") or parsed.get("thinking") or ""
        answer = parsed.get("content") or ""
        if (thinking.strip(), answer.strip()) != split(model, prompt, completion):
            disagreements.add((model, case))
    assert disagreements == {key for key in TRANSFORMERS_DISAGREES if key[0] == model}


# --- renderers -----------------------------------------------------------------------------------
class Letters:
    """A tokenizer of single characters and of special tokens: all that these parsers ask of one."""

    def __init__(self, *special):
        self.special = {word: 2_000_000 + number for number, word in enumerate(special)}
        self.words = {number: word for word, number in self.special.items()}

    def encode(self, text, add_special_tokens=False):
        ids = []
        at = 0
        while at < len(text):
            word = next((word for word in self.special if text.startswith(word, at)), "")
            ids.append(self.special[word] if word else ord(text[at]))
            at += len(word) or 1
        return ids

    def decode(self, ids, skip_special_tokens=False):
        return "".join(
            self.words[number] if number in self.words else chr(number) for number in ids
        )


QWEN = {"tool_call_id": "<tool_call>", "tool_call_end_id": "</tool_call>"}
TAGS = {"think_id": "<think>", "think_end_id": "</think>"}
ARGUMENTS = {
    "arg_key_id": "<arg_key>", "arg_key_end_id": "</arg_key>",
    "arg_value_id": "<arg_value>", "arg_value_end_id": "</arg_value>",
}  # fmt: skip
RENDERERS = {
    "Qwen/Qwen3-8B": ("parse_qwen3", QWEN | {"reasoning_end_id": "</think>"}, ("<|im_end|>",)),
    "Qwen/Qwen3-30B-A3B-Thinking-2507": ("parse_qwen3", QWEN | {"reasoning_end_id": "</think>"}, ("<|im_end|>",)),
    "Qwen/Qwen3.5-35B-A3B": ("parse_qwen35", QWEN | TAGS, ("<|im_end|>",)),
    "Qwen/Qwen3.8-27B": ("parse_qwen35", QWEN | TAGS, ("<|im_end|>",)),
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("parse_qwen35", QWEN | TAGS, ("<|im_end|>",)),
    "zai-org/GLM-4.5": ("parse_glm", QWEN | TAGS | ARGUMENTS, ("<|user|>", "<|observation|>")),
    "zai-org/GLM-4.7": ("parse_glm", QWEN | TAGS | ARGUMENTS, ("<|user|>", "<|observation|>")),
    "MiniMaxAI/MiniMax-M2.1": ("parse_minimax", TAGS | {"tool_call_id": "<minimax:tool_call>", "tool_call_end_id": "</minimax:tool_call>"}, ("[e~[",)),
    "poolside/Laguna-S-2.1": ("parse_laguna_xs2", QWEN | TAGS, ("</assistant>",)),
    "moonshotai/Kimi-K2.5": (
        "parse_kimi_k2",
        {
            "tool_calls_section_begin_id": "<|tool_calls_section_begin|>", "tool_calls_section_end_id": "<|tool_calls_section_end|>",
            "tool_call_begin_id": "<|tool_call_begin|>", "tool_call_argument_begin_id": "<|tool_call_argument_begin|>",
            "tool_call_end_id": "<|tool_call_end|>",
        },
        ("<|im_end|>",),
    ),
    "openai/gpt-oss-20b": (
        "parse_gpt_oss",
        {
            "return_id": "<|return|>", "call_id": "<|call|>", "start_id": "<|start|>", "end_id": "<|end|>",
            "channel_id": "<|channel|>", "message_id": "<|message|>", "constrain_id": "<|constrain|>",
        },
        (),
    ),
    "thinkingmachines/Inkling": (
        "parse_inkling",
        {
            "message_model_id": "<|message_model|>", "content_text_id": "<|content_text|>", "content_thinking_id": "<|content_thinking|>",
            "invoke_json_id": "<|content_invoke_tool_json|>", "invoke_text_id": "<|content_invoke_tool_text|>",
            "end_message_id": "<|end_message|>",
        },
        ("<|content_model_end_sampling|>",),
    ),
}  # fmt: skip
DRAFT_IS_CALL = "renderers ends the thought at the first call even where </think> follows; a draft in a thought that closes is thinking"
RENDERERS_DISAGREES = {
    ("zai-org/GLM-4.5", "draft"): DRAFT_IS_CALL,
    ("zai-org/GLM-4.7", "draft"): DRAFT_IS_CALL,
    (
        "poolside/Laguna-S-2.1",
        "call in an open thought",
    ): "renderers reads on; SGLang's poolside_v1 ends the thought at the call",
    (
        "thinkingmachines/Inkling",
        "draft",
    ): "the call is a block of its own; text after it without a header is neither's answer",
}


@pytest.mark.parametrize("model", RENDERERS)
def test_renderers(model):
    parsing = pytest.importorskip("renderers.parsing")
    name, words, stops = RENDERERS[model]
    tokenizer = Letters(*words.values(), *stops)
    options = {key: tokenizer.special[word] for key, word in words.items()}
    if name != "parse_gpt_oss":
        options["stop_ids"] = {tokenizer.special[word] for word in stops}

    disagreements = set()
    for case, (prompt, completion) in cases(BY_MODEL[model]).items():
        if name != "parse_gpt_oss":
            options["prefilled_thinking"] = prompt.rstrip().endswith("<think>")
        if name == "parse_glm":
            options["thinking_enabled"] = case != "direct"
        # This one wants the header that the prompt began.
        whole = "<|start|>assistant" + completion if name == "parse_gpt_oss" else completion
        parsed = getattr(parsing, name)(tokenizer, tokenizer.encode(whole), **options)
        thinking = (parsed.reasoning_content or "").strip()
        if (thinking, parsed.content.strip()) != split(model, prompt, completion):
            disagreements.add((model, case))
    assert disagreements == {key for key in RENDERERS_DISAGREES if key[0] == model}
