"""Prompts and completions as the tokenizer's template writes them."""

from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from cotlens.text.split import OpenedBy, split_think

THINK = "<think>"


# --- rendering -------------------------------------------------------------------------------------------------
def render_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | list, *, rendered: bool = False
) -> str:
    """The prompt as the model reads it: through the chat template, up to where the model starts to write.

    Args:
        tokenizer: of the model.
        prompt: a request, or a list of messages.
        rendered: leave the prompt as it is.
    """
    if not rendered:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        prompt = str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )
    assert isinstance(prompt, str)
    # A template that writes the beginning-of-text token and a tokenizer that adds it make two.
    if tokenizer.bos_token and tokenizer(prompt)["input_ids"][:2] == [tokenizer.bos_token_id] * 2:
        return prompt.removeprefix(str(tokenizer.bos_token))
    return prompt


def request_of(prompt: str | list) -> str:
    """What the user asked: the text of the last user message; this is what a guard reads."""
    if isinstance(prompt, str):
        return prompt
    return next(
        (str(message["content"]) for message in reversed(prompt) if message["role"] == "user"), ""
    )


def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought, so that the completion must not open one."""
    return split_think("x", prompt).opened_by is OpenedBy.PROMPT


def fit_completion(prompt: str, completion: str) -> str:
    """The completion with the thought opened once: by the prompt where that does it, else by the completion.

    Traces of R1 come with the opening tag or without it, since its template opens the thought.
    """
    if not opens_thought(prompt):
        is_unopened = "</think>" in completion and THINK not in completion
        return f"{THINK}\n{completion}" if is_unopened else completion
    if not completion.startswith(THINK):
        return completion
    rest = completion.removeprefix(THINK)
    return rest.removeprefix("\n") if prompt.endswith("\n") else rest


# --- encoding --------------------------------------------------------------------------------------------------
class Encoded(NamedTuple):
    """One row for supervised training: `labels` is -100 on the prompt, and the ids on the completion and its end."""

    input_ids: list[int]
    labels: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Encoded:
    """Prompt and completion encoded apart, as a model that writes the completion behind the prompt would see them."""
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(completion, add_special_tokens=False)["input_ids"]
    if after[-1:] != [tokenizer.eos_token_id]:
        after = [*after, tokenizer.eos_token_id]
    return Encoded([*before, *after], [-100] * len(before) + after)
