"""The chat template of a tokenizer, and the token that begins every sequence."""

import ctypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
        with _time_limit(LIMIT):
            return tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **(variables or {})
            )
    except _TimeUpError:
        raise TraceError(
            f"{place}: the chat template has not taken the prompt after {LIMIT:g} seconds: it may "
            "never end; look at chat_template of the tokenizer"
        ) from None
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise TraceError(
            f"{place}: the chat template cannot take the prompt: {first_line(error)}"
        ) from None


LIMIT = 20.0  # seconds: a template takes milliseconds


class _TimeUpError(Exception):
    """A template has had its time."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises `_TimeUpError` in the block when its time is up.

    A template is a program of a stranger. It runs in this thread, which another one interrupts
    between two steps of the interpreter.
    """
    thread = threading.get_ident()
    lock = threading.Lock()
    is_over = False

    def interrupt() -> None:
        with lock:
            if not is_over:
                _raise_in(thread, _TimeUpError)

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            is_over = True


def _raise_in(thread: int, error: type[Exception]) -> None:
    """Raises an error in another thread, at its next step."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


def bos_ids(tokenizer: Any, prompt: str) -> list[int]:
    """The token that begins every sequence of this tokenizer, unless the prompt's text has it."""
    added_ids = tokenizer("")["input_ids"]
    if not added_ids or added_ids[0] != tokenizer.bos_token_id:
        return []
    if prompt.startswith(tokenizer.bos_token):
        return []
    return added_ids[:1]
