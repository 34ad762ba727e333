"""Files of prompts: what a model under study is asked, and the fields its traces inherit."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cotlens.formats.read import MAX_LINE_BYTES, input_files
from cotlens.formats.rows import BadRow, Row, read_rows
from cotlens.formats.stdin import shown_path
from cotlens.trace import TraceError, dump_json, hash_text


class Prompt(NamedTuple):
    """One request.

    Attributes:
        id: unique within a call.
        messages: as a chat template takes them.
        fields: of the traces: `prompt_id`, `domain`, `split`, `gold`.
        meta: what else the row has.
        place: file and line or row, for messages.
        text: the prompt as the model reads it, where it is rendered already; empty: the chat
            template writes it from the messages.
    """

    id: str
    messages: list[dict[str, Any]]
    fields: dict[str, Any]
    meta: dict[str, Any]
    place: str
    text: str = ""


def as_prompts(prompts: Sequence[str | Sequence[Mapping[str, Any]] | Prompt]) -> list[Prompt]:
    """Prompts in memory: a request, a list of messages, or a `Prompt` as it is.

    The id of a request or of messages is the hash of the messages, as `read_prompts` makes it;
    repeated ones are numbered.

    Raises:
        TraceError: names the number of the prompt, from 1, and the fault.
    """
    if isinstance(prompts, str):
        raise TraceError("prompts: expected a list of prompts, got one text")
    n_seen: Counter[str] = Counter()
    parsed = []
    for number, prompt in enumerate(prompts, 1):
        if isinstance(prompt, Prompt):
            parsed.append(prompt)
            continue

        row = {"prompt": prompt if isinstance(prompt, str) else [dict(turn) for turn in prompt]}
        try:
            request = _parse(row, f"prompt {number}")
        except TraceError as error:
            raise TraceError(f"prompt {number}: {error}") from None
        n_seen[request.id] += 1
        if n_seen[request.id] > 1:
            request = request._replace(id=f"{request.id}-{n_seen[request.id]}")
        parsed.append(request)
    return parsed


def read_prompts(paths: str | Path | Sequence[str | Path]) -> Iterator[Prompt]:
    """The prompts of files whose rows have `prompt`, a text or a list of messages; read lazily.

    A row may have `id`, `prompt_id` (several rows may share it), `system`, `domain`, `split` and
    `gold` (or `answer`), and `prefill`, which `generate` reads. Without an id, the id is the hash
    of its messages: the same for every model.

    Raises:
        TraceError: names the file, the line or row, and the fault. An id that occurs twice is a
            fault.
    """
    seen: set[int] = set()  # hashes, so that a million prompts cost tens of megabytes
    for path in input_files(paths):
        for number, row in read_rows(path, MAX_LINE_BYTES):
            try:
                prompt = _parse(row, f"{shown_path(path)}:{number}")
                if hash(prompt.id) in seen:
                    raise TraceError(
                        f"the id {prompt.id!r} occurs twice; give each row an `id` of its own"
                    )
            except TraceError as error:
                raise TraceError(f"{shown_path(path)}:{number}: {error}") from None

            seen.add(hash(prompt.id))
            yield prompt


def _parse(row: Row | BadRow, place: str) -> Prompt:
    if isinstance(row, BadRow):
        raise TraceError(row.reason)
    rest = {
        name: value for name, value in row.items() if value is not None and value == value
    }  # a gap may be NaN

    def take(*names: str) -> str:
        value = next((rest.pop(name) for name in names if name in rest), "")
        if isinstance(value, list | dict | bytes):
            raise TraceError(f"{names[0]} must be text or a number, got {type(value).__name__}")
        return str(value)

    if "prompt" not in rest:
        raise TraceError(
            f"the row has no prompt; its fields are {', '.join(map(str, row)) or 'none'}"
        )

    messages = _messages(rest.pop("prompt"), take("system"))
    own, shared = take("id"), take("prompt_id")
    # The hash of the request, not of the rendered prompt, so that it pairs checkpoints.
    own = own or shared or hash_text(dump_json(messages))
    fields = {"domain": take("domain"), "split": take("split"), "gold": take("gold", "answer")}
    return Prompt(
        own,
        messages,
        {"prompt_id": shared or own, **fields},
        rest,
        place,
    )


def _messages(prompt: Any, system: str) -> list[dict[str, Any]]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise TraceError(
            f"the prompt must be text or a list of messages, got {type(prompt).__name__}"
        )

    messages = [
        {key: value for key, value in message.items() if value is not None} for message in messages
    ]
    for message in messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise TraceError(
                f"a message needs a role and a content of text, got {dump_json(message)[:80]}"
            )

    if not messages or not messages[-1]["content"].strip():
        raise TraceError("the prompt is empty")
    if messages[-1]["role"] == "assistant":
        raise TraceError(
            "the last message is the assistant's; end with the user's, and give its beginning as "
            "--prefill"
        )

    if system and messages[0]["role"] == "system":
        raise TraceError("the row has a system text, and its messages begin with another")
    messages = [{"role": "system", "content": system}, *messages] if system else messages
    try:
        dump_json(messages).encode()
    except UnicodeEncodeError:
        raise TraceError("the prompt has a lone surrogate, which no tokenizer can read") from None

    return messages
