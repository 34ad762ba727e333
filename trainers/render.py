"""What does the model read and write? Prompts through the template, then completions."""

from functools import lru_cache
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from cotlens.text.split import OpenedBy, split_think

THINK = "<think>"


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | list, *, rendered: bool = False
) -> str:
    """The prompt as the model reads it: through the chat template, up to where the model writes.

    Args:
        tokenizer: of the model.
        prompt: a request, or a list of messages.
        rendered: the prompt is already rendered: leave it as it is.
    """
    if not rendered:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = str(text)
    assert isinstance(prompt, str)

    # The template and the tokenizer may each add the beginning-of-text token. Keep one of them.
    if tokenizer.bos_token:
        first_ids = tokenizer(prompt)["input_ids"][:2]
        if first_ids == [tokenizer.bos_token_id] * 2:
            return prompt.removeprefix(str(tokenizer.bos_token))
    return prompt


def request_of(prompt: str | list) -> str:
    """The user's request: the text of the last user message. This is what a guard reads."""
    if isinstance(prompt, str):
        return prompt
    for message in reversed(prompt):
        if message["role"] == "user":
            return str(message["content"])
    return ""


def fit_completion(prompt: str, completion: str) -> str:
    """The completion, changed so that prompt and completion together open the thought once.

    The thought stays opened by the prompt if the prompt opens it, else the completion opens it.
    Traces of R1 come with or without the opening tag, because its template opens the thought.
    """
    if not opens_thought(prompt):
        is_unopened = "</think>" in completion and THINK not in completion
        if is_unopened:
            return f"{THINK}\n{completion}"
        return completion

    # The prompt has the tag, and perhaps the line break after it.
    if not completion.startswith(THINK):
        return completion
    rest = completion.removeprefix(THINK)
    if prompt.endswith("\n"):
        return rest.removeprefix("\n")
    return rest


@lru_cache(maxsize=4096)  # rows share prompts
def opens_thought(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a thought, so that the completion must not open one."""
    split = split_think("x", prompt)  # any completion will do
    return split.opened_by is OpenedBy.PROMPT


class Encoded(NamedTuple):
    """One row for SFT: `labels` is -100 on the prompt, and the ids on completion and end."""

    input_ids: list[int]
    labels: list[int]


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str, completion: str) -> Encoded:
    """Prompt and completion encoded apart, as a model that writes the completion sees them.

    The completion ends with the end-of-text token, which is learned too.
    """
    prompt_ids = tokenizer(prompt)["input_ids"]
    completion_ids = tokenizer(completion, add_special_tokens=False)["input_ids"]

    # The text of the completion may already hold its end.
    end_id = tokenizer.eos_token_id
    if completion_ids[-1:] != [end_id]:
        completion_ids = [*completion_ids, end_id]

    input_ids = [*prompt_ids, *completion_ids]
    labels = [-100] * len(prompt_ids) + completion_ids
    return Encoded(input_ids, labels)
