"""The chat template of a tokenizer, and the token that begins every sequence."""

from collections.abc import Mapping
from typing import Any

from cotlens.models.load import first_line
from cotlens.trace import TraceError


def apply_template(
    tokenizer: Any, messages: Any, place: str, variables: Mapping[str, Any] | None = None
) -> str:
    """Messages as the model reads them, up to where it starts to write.

    Raises:
        TraceError: if the chat template cannot take them; it names the place of the prompt.
    """
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **(variables or {})
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise TraceError(
            f"{place}: the chat template cannot take the prompt: {first_line(error)}"
        ) from None


def bos_ids(tokenizer: Any, prompt: str) -> list[int]:
    """The token that begins every sequence of this tokenizer, unless the prompt's text has it."""
    added_ids = tokenizer("")["input_ids"]
    if not added_ids or added_ids[0] != tokenizer.bos_token_id:
        return []
    if prompt.startswith(tokenizer.bos_token):
        return []
    return added_ids[:1]
