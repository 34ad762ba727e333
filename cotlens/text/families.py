"""What is known of model families: delimiters, templates, turns, and who shows summaries only."""

import re
from typing import NamedTuple


class Tags(NamedTuple):
    """The delimiters of a thought, exactly as they stand in the text."""

    open: str
    close: str


FAMILIES = (
    # DeepSeek-R1, QwQ, Qwen3, Phi-4-reasoning, Nemotron, GLM, SmolLM3, ...
    Tags("<think>", "</think>"),
    Tags("[THINK]", "[/THINK]"),  # Magistral
    Tags("<|channel>thought\n", "<channel|>"),  # Gemma channels
    Tags("<thought>", "</thought>"),  # Gemma, EXAONE Deep
    Tags("<thinking>", "</thinking>"),  # prompted models
    Tags("<reasoning>", "</reasoning>"),  # GRPO tutorials
    Tags("<seed:think>", "</seed:think>"),  # Seed-OSS
    Tags("◁think▷", "◁/think▷"),  # Kimi
    Tags("<|begin_of_thought|>", "<|end_of_thought|>"),  # OpenThinker, Sky-T1
)
# Models whose own chat template ends the prompt with the opening tag, so that their completions
# start inside it.
TEMPLATE_OPENS = re.compile(
    r"deepseek-?r1|r1-distill|realsafe-r1|qwq-32b(?!-preview)|qwen3[\w.-]*-thinking", re.IGNORECASE
)
# Where the assistant's turn starts in a prompt that was rendered by a chat template.
ASSISTANT_TURN = re.compile(
    r"<｜Assistant｜>|<\|im_start\|>assistant"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>|\[/INST\]"
    r"|<start_of_turn>model|<\|turn>model|<\|assistant\|>|\bAssistant:"
)
# Models whose providers document that they show only summaries of the thinking: OpenAI's reasoning
# models, Gemini from 2.5, Claude from 4. Text in a separate field is not their thinking.
_SUMMARISES = re.compile(
    r"(?:gpt-5|o[134]|codex-mini)(?:$|[-@.].*)"
    r"|gemini-(?:2[.-]5|[3-9]|(?:pro|flash|flash-lite)-latest).*"
    r"|claude-(?:[4-9]|(?:opus|sonnet|haiku)-[4-9]).*"
)
_PROVIDER = re.compile(
    r"(?:azure|openai|anthropic|google|vertex|gemini|bedrock|openrouter|databricks"
    r"|amazon|aws|litellm|github|models|us|eu|apac"
    r"|global)\w*"
)
_OPEN_WEIGHTS = re.compile(r"distill|qwen|llama|mistral|\d+b(?:\b|-)|checkpoint|lora")


def gives_summaries(model: str) -> bool:
    """Whether a hosted model's provider is known to return a summary when asked for the thinking.

    The name may follow its provider's (`openrouter/anthropic/claude-sonnet-4`, `openai:o3`,
    `databricks-gpt-5`) and precede a variant (`:thinking`); with another folder or organisation
    before it, it is somebody's own model.
    """
    *before, last = re.sub(
        r"^(?:(?:us|eu|apac|global)\.)?(\w+)(?:--|\.|-)(?=claude|gpt-5|gemini)",
        r"\1/",
        model.lower(),
    ).split("/")
    providers, _, name = (
        last.partition(":") if _PROVIDER.fullmatch(last.partition(":")[0]) else ("", "", last)
    )
    known = all(_PROVIDER.fullmatch(one) for one in [*before, providers] if one)
    return (
        known
        and bool(_SUMMARISES.fullmatch(name.partition(":")[0]))
        and not _OPEN_WEIGHTS.search(name)
    )


# How the families of models end a prompt. If a prompt ends in one of these where the model's own
# template would end it otherwise, it was rendered for another model.
FOREIGN_END = re.compile(
    r"(?:<｜Assistant｜>|<\|im_start\|>assistant"
    r"|<\|start_header_id\|>assistant<\|end_header_id\|>|\[/INST\]"
    r"|<start_of_turn>model|<\|assistant\|>|<\|start\|>assistant)\s*(?:<think>\s*)?$"
)
HARMONY = Tags(
    "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
)
