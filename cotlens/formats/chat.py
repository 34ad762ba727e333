"""Plain rows and chat messages; the parsers of the tools' formats build on them."""

import re
from typing import Any

from cotlens.formats.blocks import ANSWERS, tool_calls, trace_of_message
from cotlens.formats.content import (
    content_text,
    prompt_text,
    read_message,
    role_of,
    without_nulls,
)
from cotlens.formats.exact import restored
from cotlens.formats.fields import (
    TEXT,
    THINK,
    Taker,
    common_fields,
    dicts,
    fields_of,
    is_thought,
    objects,
    unless_blank,
)
from cotlens.formats.finish import read_finish
from cotlens.formats.rows import Row
from cotlens.formats.taken import take_prompt, take_text
from cotlens.formats.tokens import logprobs_of_row
from cotlens.text.split import has_delimiters, split_think
from cotlens.trace import Origin, Span, Trace, TraceError, dump_json


def parse_plain(row: Row, name: str) -> list[Trace]:
    """`{prompt, completion}` or `{prompt, thinking, answer}` under the names that people use.

    `answer` is the model's answer next to `thinking`, and the gold answer next to a completion.
    Next to `thinking`, a completion is the answer, unless it holds the thinking itself or begins
    with a thought: then it is the whole text. A prompt or completion that is a list is a
    conversation, typed blocks, or several samples; a completion that is an object is a message.
    """
    refuse_part_of_stream(row)
    taker = Taker(row)

    # What the row has of prompt, thinking and text decides how it is read.
    prompt = take_prompt(taker)
    thinking = taker.thinking()
    text = take_text(taker)
    if isinstance(prompt, list) or isinstance(text, list):
        return _parse_lists(taker, prompt, thinking, text, name)

    # One text each.
    thinking = None if thinking is None else content_text(thinking)
    if row.get("completion", "") is None and thinking is None:
        raise TraceError("the completion is null")
    if text is not None and not isinstance(text, str):
        raise TraceError(f"the completion must be text, got {type(text).__name__}")
    common = common_fields(taker, name)
    if thinking and text:
        thinking = unless_blank(thinking, common["finish_reason"])
    if text is None:
        return [_thinking_and_answer(taker, row, prompt, thinking, common)]
    trace = _with_text(taker, prompt, thinking, text, common)
    return [logprobs_of_row(trace)]


def _with_text(
    taker: Taker, prompt: str, thinking: str | None, text: str, common: dict[str, Any]
) -> Trace:
    """The trace of a text: the whole completion, or the answer to the thinking next to it."""
    common["gold"] = common["gold"] or ("" if thinking else taker.text("answer"))
    if thinking is None or is_whole(text, thinking, prompt, common["model"]):
        if thinking:
            taker.rest["thinking"] = thinking
        return Trace(
            prompt=prompt,
            completion=text,
            **common,
            meta=taker.rest,
        )

    # The answer, or a text that begins with the thinking.
    place = _place_of_thinking(thinking, text)
    if place is None:
        return Trace(
            prompt=prompt,
            **fields_of(thinking, text),
            **common,
            meta=taker.rest,
        )

    return Trace(
        prompt=prompt,
        completion=text,
        origin=Origin.FIELDS,
        think=(place,),
        answer=Span(place.stop, len(text)),
        **common,
        meta=taker.rest,
    )


def is_whole(text: str, thinking: str, prompt: str, model: str) -> bool:
    """Whether a text given next to thinking contains the thought as well.

    It does if it begins with a thought, or has the same thought between tags. An answer may mention
    tags without being a completion.
    """
    if not has_delimiters(text, prompt, model):
        return False
    think = split_think(text).think
    begins = bool(think) and not re.search(r"\s", text[: think[0].start].strip())
    return begins or not thinking or thinking.strip() in text


_SURELY_QUOTED = 40  # characters: a shorter thought may begin the answer by chance ("No.")


def _place_of_thinking(thinking: str, text: str) -> Span | None:
    """Where the thinking is in the text, if the text begins with it.

    Such a text is the whole completion.
    """
    content = thinking.strip()
    at = len(text) - len(text.lstrip())
    if len(content) < _SURELY_QUOTED or not text.startswith(content, at):
        return None
    return Span(
        at,
        at + len(content),
    )


# --- thinking without a text -----------------------------------------------------------------
def _thinking_and_answer(
    taker: Taker, row: Row, prompt: str, thinking: str | None, common: dict[str, Any]
) -> Trace:
    """The trace of a row with thinking, and the model's answer under a name of its own.

    Raises:
        TraceError: if nothing is there, or if text stands under names that may be the answer's.
    """
    names = [name for name in ANSWERS if name in row] if thinking is not None else ["answer"]
    answer = taker.take(*names) if names else None
    if thinking is None and not (isinstance(answer, str) and any(name in row for name in THINK)):
        _refuse_no_completion(row)
    if answer is not None and not isinstance(answer, str):
        raise TraceError(
            f"the answer must be text, got {type(answer).__name__} under {', '.join(names)}"
        )

    # Without an answer the thought was cut off; unless the answer has a name that nobody knows.
    says_so = bool(names) or common["finish_reason"] == "length" or _has_null_text(row)
    if answer is None and not says_so:
        _refuse_unknown_answer(taker, row)
    fields = fields_of(thinking or "", answer or "")
    return Trace(
        prompt=prompt,
        **fields,
        **common,
        meta=taker.rest,
    )


def _refuse_no_completion(row: Row) -> None:
    """Raise TraceError for a row whose completion is null or a mere setting."""
    settings = [name for name in THINK if row.get(name) is not None and not is_thought(row[name])]
    if settings:
        raise TraceError(
            f"the row has no completion: {settings[0]} holds a setting "
            f"({dump_json(row[settings[0]])[:40]}), no thinking; its fields are "
            f"{', '.join(map(str, row))}. Name the field with the text 'completion'"
        )

    null = [name for name in (*TEXT, *THINK) if name in row]
    raise TraceError(f"the completion is null ({', '.join(null)})")


def _has_null_text(row: Row) -> bool:
    return any(row.get(name, "") is None for name in TEXT)


# Fields that say something about a row and are no answer.
_ABOUT_WORDS = """
    source category type subject topic language lang url date time timestamp created created_at
    version tags metadata meta info usage config params parameters settings difficulty level author
    license name title system system_prompt system_message developer user user_id task_id doc_id
    question_id problem_id request_id session_id run_id experiment provider object status hash
    sha256 file path effort reasoning_effort thinking_budget labels label options choices kind
    benchmark prompt_name seed notes note comment annotator method_name error
    """
_ABOUT = frozenset(_ABOUT_WORDS.split())


def _refuse_unknown_answer(taker: Taker, row: Row) -> None:
    """Raise TraceError if a row of thinking without an answer has other text."""
    # Any of these may be the answer.
    unknown = []
    for name, value in taker.rest.items():
        is_about = name.lower() in _ABOUT or name in THINK
        if not is_about and _holds_text(value):
            unknown.append(name)

    if unknown:
        has_thinking = ", ".join(name for name in THINK if is_thought(row.get(name)))
        raise TraceError(
            f"the row has thinking ({has_thinking}) and no answer, but text under "
            f"{', '.join(unknown[:8])}; rename the field that holds the answer to 'answer' (or, if "
            "the thought was cut off, add an empty 'answer')"
        )


def _holds_text(value: Any) -> bool:
    """Whether a value is text, or holds text a few levels down."""
    for _ in range(4):
        if isinstance(value, dict):
            value = next((inner for inner in value.values() if inner), None)
        elif isinstance(value, list):
            value = value[0] if value else None

    return isinstance(value, str) and bool(value.strip())


def refuse_part_of_stream(row: Row) -> None:
    """Raise TraceError for a piece of a streamed response, which is no completion."""
    if row.get("done") is False:  # Ollama
        raise TraceError(
            "done is false: the row is one piece of a stream; ask with stream=false, or join the "
            "pieces of each response to one row"
        )


# --- lists ----------------------------------------------------------------------------------------
def _parse_lists(taker: Taker, prompt: Any, thinking: Any, text: Any, name: str) -> list[Trace]:
    """The traces of a row whose prompt or completion is a list.

    The list holds messages (TRL's conversational rows), typed blocks, or samples.
    """
    before: list[Any] = prompt if isinstance(prompt, list) else []
    if prompt and isinstance(prompt, str):
        before = [{"role": "user", "content": prompt}]

    # What cannot be read is named before anything is made of it.
    if text == []:
        raise TraceError("the completion is an empty list")
    for part in text if isinstance(text, list) else ():
        if not isinstance(part, str | dict):
            got = type(part).__name__
            raise TraceError(
                f"the completion must be text, messages, typed parts or a list of texts; got a "
                f"list with {got}: {dump_json(part)[:40]}"
            )

    if before and any(isinstance(part, str) for part in before):
        raise TraceError(
            f"the prompt is a list of {len(before)}, and not all of them are messages: which "
            "completion belongs to which prompt is not said; give a row to each prompt"
        )

    before = [read_message(message) for message in before]
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        return _parse_samples(taker, before, thinking, text, name)

    # Messages with a role, or the parts of one message.
    is_chat = isinstance(text, list) and any("role" in part for part in dicts(text))
    if is_chat:
        after = text
        if thinking is not None:
            taker.rest["thinking"] = thinking
    else:
        answer = text if text is not None else taker.take("answer")
        after = [{"role": "assistant", "content": answer, "thinking": thinking}]

    common = common_fields(taker, name)
    common["gold"] = common["gold"] or taker.text("answer")
    return traces_of_turns(before, after, common, taker.rest)


# --- several samples of one prompt -----------------------------------------------------------
# What a list says of each sample, and the field of the trace that it belongs to.
_OF_SAMPLE = {
    "finish_reason": ("finish_reason", "finish_reasons", "stop_reason", "stop_reasons"),
    "reward": ("reward", "rewards"),
    "token_ids": ("token_ids", "completion_ids"),
    "logprobs": ("logprobs",),
}


def _parse_samples(
    taker: Taker, before: list[Any], thinking: Any, texts: list[str], name: str
) -> list[Trace]:
    """One trace for each text of a list; lists of the same length say something of each."""
    n = len(texts)
    of_samples = {}
    for field, names in _OF_SAMPLE.items():
        for given in names:
            values = taker.rest.get(given)
            if not isinstance(values, list) or len(values) != n:
                continue
            # One flat list of tokens is that of a single text.
            if field in ("token_ids", "logprobs") and not _is_nested(values):
                continue
            of_samples[field] = taker.rest.pop(given)
            break

    thoughts = thinking if isinstance(thinking, list) and len(thinking) == n else [thinking] * n
    common = common_fields(taker, name)
    common["gold"] = common["gold"] or taker.text("answer")
    common["prompt_id"] = common["prompt_id"] or ("" if before else common["id"])

    traces = []
    for i, (text, thought) in enumerate(zip(texts, thoughts, strict=True)):
        fields = common | {
            "id": f"{common['id']}/{i}",
            "sample": i,
        }
        for field, values in of_samples.items():
            fields |= _of_sample(field, values[i])

        message = read_message({"content": text, "thinking": thought})
        traces.append(
            trace_of_message(
                message,
                prompt_text(before),
                fields,
                taker.rest,
            )
        )

    return traces


def _is_nested(values: list[Any]) -> bool:
    return all(value is None or isinstance(value, list) for value in values)


def _of_sample(field: str, value: Any) -> dict[str, Any]:
    if field == "finish_reason":
        return {field: read_finish(value)}
    return common_part(field, value)


def common_part(field: str, value: Any) -> dict[str, Any]:
    """One of the common fields, checked and converted as in a row of its own."""
    return {field: common_fields(Taker({field: value}), "sample")[field]}


# --- chat messages ---------------------------------------------------------------------------
def parse_messages(row: Row, name: str) -> list[Trace]:
    """`{"messages": [...]}`: one trace per assistant turn, the turns before it are its prompt."""
    taker = Taker(row)
    messages = objects(taker.take("messages", "conversation", "conversations"), "messages")
    last = messages[-1] if messages else {}
    ends_in_turn = role_of(last) == "assistant"

    # Next to a text of their own, the messages are its prompt, unless they end in the same text.
    texts = [row[key] for key in ("completion", "response") if isinstance(row.get(key), str)]
    own = texts[0] if texts else None
    said = content_text(last.get("content")) if ends_in_turn and own is not None else None
    has_text = any(row.get(key) for key in (*TEXT, *THINK) if not _is_setting(key, row.get(key)))
    if (not ends_in_turn and has_text) or said != own:
        return parse_plain({**taker.rest, "prompt": messages}, name)

    exact = taker.rest.pop("cotlens", None)
    common = common_fields(taker, name)
    if isinstance(exact, dict):  # written by cotlens: the last message is the completion
        clean = []
        for message in map(without_nulls, messages):
            clean.append({key: message[key] for key in message if key != "weight"})

        meta = {"prompt_messages": clean[:-1]} if clean[:-1] else {}
        trace = trace_of_message(
            clean[-1],
            prompt_text(clean[:-1]),
            common,
            meta,
        )
        return [restored(trace, exact)]

    common["gold"] = common["gold"] or taker.text("answer")
    return traces_of_turns([], messages, common, taker.rest)


def _is_setting(name: str, value: Any) -> bool:
    return name in THINK and not is_thought(value)


def traces_of_turns(
    before: list[Any], messages: list[Any], common: dict[str, Any], meta: dict[str, Any]
) -> list[Trace]:
    """One trace per assistant turn of `messages`; `before` and earlier turns are its prompt."""
    before = [read_message(message) for message in before]
    messages = [read_message(message) for message in messages]
    # OpenAI's fine-tuning rows: an assistant message of weight 0 is context and no completion.
    turns = []
    for i, message in enumerate(messages):
        if role_of(message) == "assistant" and message.get("weight") != 0:
            turns.append(i)

    if not turns:
        roles = ", ".join(sorted({role_of(message) or "none" for message in messages}))
        raise TraceError(
            f"the conversation has no assistant turn, so there is no completion (roles: {roles})"
        )

    traces = []
    for number, i in enumerate(turns):
        earlier = before + messages[:i]
        is_last = number == len(turns) - 1
        fields = common
        if not is_last:
            # Tokens, reward and finish reason of the row belong to its last turn; the other turns
            # ended, or called a tool.
            ended = "tool_calls" if tool_calls(messages[i]) else "stop"
            fields = common | _OF_LAST | {"finish_reason": ended}

        if len(turns) > 1:
            fields = fields | {"id": f"{common['id']}/turn-{number}"}

        # Stored once for the whole conversation: a copy of the earlier messages for every turn
        # would grow with the square of its length.
        turn_meta = dict(meta)
        if is_last and earlier:
            turn_meta["prompt_messages"] = earlier
        if is_last and messages[i + 1 :]:
            turn_meta["later_messages"] = messages[i + 1 :]
        traces.append(
            trace_of_message(
                messages[i],
                prompt_text(earlier),
                fields,
                turn_meta,
            )
        )

    return traces


_OF_LAST = dict.fromkeys(("token_ids", "logprobs", "reward", "prompt_token_ids", "token_starts"))
