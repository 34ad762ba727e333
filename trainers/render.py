"""What does the model read and write? Prompts through the template, then completions."""

from collections.abc import Sequence
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
    """One row for SFT: `labels` has the ids of what is learned, and -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    completion: str,
    learned: Sequence[Sequence[int]] | None = None,
) -> Encoded:
    """Prompt and completion encoded apart, as a model that writes the completion sees them.

    The completion ends with the end-of-text token.

    Args:
        tokenizer: of the model; a fast one where `learned` is given.
        prompt: rendered.
        completion: as the model writes it.
        learned: spans of the completion, in code points, that carry loss: (start, stop). A token is
            learned if all of its characters lie in one of them, and the end if one reaches the end
            of the completion. None: everything is learned.
    """
    prompt_ids = tokenizer(prompt)["input_ids"]
    encoding = tokenizer(
        completion, add_special_tokens=False, return_offsets_mapping=learned is not None
    )
    completion_ids = list(encoding["input_ids"])
    if learned is None:
        learned = [(0, len(completion))]
        places = [(0, len(completion))] * len(completion_ids)
    else:
        places = list(encoding["offset_mapping"])

    # The text of the completion may already hold its end.
    end_id = tokenizer.eos_token_id
    if completion_ids[-1:] != [end_id]:
        completion_ids.append(end_id)
        places.append((len(completion), len(completion)))

    labels = [-100] * len(prompt_ids)
    for token_id, (start, stop) in zip(completion_ids, places, strict=True):
        is_learned = any(first <= start and stop <= last for first, last in learned)
        labels.append(token_id if is_learned else -100)
    return Encoded([*prompt_ids, *completion_ids], labels)


def are_spans(spans: Sequence[Sequence[int]], text: str) -> bool:
    """Whether spans lie in a text in order, none of them empty and no two overlapping."""
    place = 0
    for start, stop in spans:
        if not place <= start < stop <= len(text):
            return False
        place = stop
    return True


def bracket(completion: str, end: str, learned: Sequence[Sequence[int]] | None = None) -> str:
    """A completion and its end, with what carries loss in double brackets."""
    if learned is None:
        return f"[[{completion}{end}]]"

    pieces = []
    place = 0
    for start, stop in learned:
        ending = end if stop == len(completion) else ""
        pieces += [completion[place:start], f"[[{completion[start:stop]}{ending}]]"]
        place = stop
    pieces.append(completion[place:])
    return "".join(pieces)
