"""Plain rows and chat messages; the parsers of the tools' formats build on them."""

import re
from dataclasses import replace
from typing import Any

from cotlens.formats.blocks import tool_calls, trace_of_message
from cotlens.formats.fields import (
    PROMPT,
    TEXT,
    THINK,
    Taker,
    common_fields,
    content_text,
    fields_of,
    optional_ids,
    prompt_text,
    role_of,
    text_or_empty,
    without_nulls,
)
from cotlens.formats.rows import Row
from cotlens.text.split import has_delimiters, split_think
from cotlens.trace import Label, Origin, Reasoning, Span, Trace, TraceError, dump_json, hash_text


def parse_plain(row: Row, name: str) -> list[Trace]:
    """`{prompt, completion}` or `{prompt, thinking, answer}` under the names that people use.

    `answer` is the model's answer next to `thinking`, and the gold answer next to a completion.
    Next to `thinking`, a completion is the answer, unless it holds the thinking itself or begins
    with a thought: then it is the whole text. A prompt or completion that is a list is a
    conversation, typed blocks, or several samples.
    """
    taker = Taker(row)
    prompt = _take_prompt(taker)
    thinking, text = taker.take(*THINK), taker.take(*TEXT)
    if isinstance(prompt, list) or isinstance(text, list):
        return _parse_lists(taker, prompt, thinking, text, name)
    if isinstance(thinking, list):
        thinking = content_text(thinking)
    if text is not None and thinking is not None and not isinstance(thinking, str):
        taker.rest["thinking"], thinking = thinking, None  # a switch such as {"effort": "high"}
    if row.get("completion", "") is None and thinking is None:
        raise TraceError("the completion is null")
    for value in (thinking, text):
        if value is not None and not isinstance(value, str):
            raise TraceError(f"the completion must be text, got {type(value).__name__}")
    common = common_fields(taker, name)
    if text is None:
        answer = taker.take("answer")
        if thinking is None and not (
            isinstance(answer, str) and any(field in row for field in THINK)
        ):
            null = [field for field in (*TEXT, *THINK) if field in row]
            raise TraceError(f"the completion is null ({', '.join(null)})")
        if answer is not None and not isinstance(answer, str):
            raise TraceError(f"the answer must be text, got {type(answer).__name__}")
        return [
            Trace(
                prompt=prompt, **fields_of(thinking or "", answer or ""), **common, meta=taker.rest
            )
        ]
    common["gold"] = common["gold"] or ("" if thinking else taker.text("answer"))
    if thinking is None or _is_whole(text, thinking):
        taker.rest |= {"thinking": thinking} if thinking else {}
        return [Trace(prompt=prompt, completion=text, **common, meta=taker.rest)]
    place = _place_of_thinking(thinking, text)
    if place is None:
        return [Trace(prompt=prompt, **fields_of(thinking, text), **common, meta=taker.rest)]
    spans = {"think": (place,), "answer": Span(place.stop, len(text))}
    return [
        Trace(
            prompt=prompt, completion=text, origin=Origin.FIELDS, **spans, **common, meta=taker.rest
        )
    ]


def _is_whole(text: str, thinking: str) -> bool:
    """Whether a text given next to thinking contains the thought as well.

    It does if it begins with a thought, or has the same thought between tags. An answer may mention
    tags without being a completion.
    """
    if not has_delimiters(text):
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
    return (
        Span(at, at + len(content))
        if len(content) >= _SURELY_QUOTED and text.startswith(content, at)
        else None
    )


def _take_prompt(taker: Taker) -> Any:
    """The prompt; an instruction and its input (Alpaca) are joined by a blank line."""
    if taker.rest.get("instruction") and taker.rest.get("input") and not taker.rest.get("prompt"):
        return taker.text("instruction") + "\n\n" + taker.text("input")
    prompt = taker.take(*PROMPT)
    return prompt if isinstance(prompt, str | list) else "" if prompt is None else dump_json(prompt)


def _parse_lists(taker: Taker, prompt: Any, thinking: Any, text: Any, name: str) -> list[Trace]:
    """The traces of a row whose prompt or completion is a list.

    The list holds messages (TRL's conversational rows), typed blocks, or samples.
    """
    before: list[Any] = (
        prompt
        if isinstance(prompt, list)
        else [{"role": "user", "content": prompt}]
        if prompt
        else []
    )
    if text == []:
        raise TraceError("the completion is an empty list")
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        thoughts = (
            thinking
            if isinstance(thinking, list) and len(thinking) == len(text)
            else [thinking] * len(text)
        )
        given = taker.rest.get("finish_reason")
        common = common_fields(taker, name)
        common["gold"] = common["gold"] or taker.text("answer")
        common["prompt_id"] = common["prompt_id"] or ("" if before else common["id"])
        samples = [common | {"id": f"{common['id']}/{i}", "sample": i} for i in range(len(text))]
        if isinstance(given, list) and len(given) == len(text):
            samples = [
                one | {"finish_reason": text_or_empty(end)}
                for one, end in zip(samples, given, strict=True)
            ]
        return [
            trace_of_message(
                without_nulls({"content": part, "thinking": thought}),
                prompt_text(before),
                fields,
                taker.rest,
            )
            for part, thought, fields in zip(text, thoughts, samples, strict=True)
        ]
    if isinstance(text, list) and any("role" in part for part in text):
        after = text
        taker.rest |= {} if thinking is None else {"thinking": thinking}
    else:
        answer = text if text is not None else taker.take("answer")
        after = [{"role": "assistant", "content": answer, "thinking": thinking}]
    common = common_fields(taker, name)
    common["gold"] = common["gold"] or taker.text("answer")
    return traces_of_turns(before, after, common, taker.rest)


# --- chat messages ---------------------------------------------------------------------------
def parse_messages(row: Row, name: str) -> list[Trace]:
    """`{"messages": [...]}`: one trace per assistant turn, the turns before it are its prompt."""
    taker = Taker(row)
    messages = taker.take("messages", "conversation", "conversations")
    own = next(
        (row[key] for key in ("completion", "response") if isinstance(row.get(key), str)), None
    )
    ends_in_turn = any(role_of(message) == "assistant" for message in messages[-1:])
    said = content_text(messages[-1].get("content")) if ends_in_turn and own is not None else None
    if (not ends_in_turn and any(row.get(key) for key in (*TEXT, *THINK))) or said != own:
        return parse_plain({**taker.rest, "prompt": messages}, name)  # the messages are the prompt
    exact = taker.rest.pop("cotlens", None)
    common = common_fields(taker, name)
    if isinstance(exact, dict):  # written by cotlens: the last message is the completion
        clean = [
            {key: one[key] for key in one if key != "weight"}
            for one in map(without_nulls, messages)
        ]
        meta = {"prompt_messages": clean[:-1]} if clean[:-1] else {}
        return [restored(trace_of_message(clean[-1], prompt_text(clean[:-1]), common, meta), exact)]
    common["gold"] = common["gold"] or taker.text("answer")
    return traces_of_turns([], messages, common, taker.rest)


def restored(trace: Trace, exact: Row) -> Trace:
    """The trace with the fields that the tool's own shape cannot hold.

    `write` stores them next to the text: fields of `Trace`, and `of`.

    Raises:
        TraceError: if the text differs from the text that was written.
    """
    if exact.get("of") != hash_text(trace.completion):
        raise TraceError(
            "the text is not the one that cotlens wrote here; where it was changed on purpose, "
            "take `cotlens` away"
        )
    fields = {key: value for key, value in exact.items() if key not in ("of", "meta", "kept")}
    for key in ("prompt_token_ids", "token_ids", "token_starts"):
        fields |= {key: optional_ids(fields[key])} if key in fields else {}
    if fields.get("logprobs") is not None:
        fields["logprobs"] = tuple(
            float("nan") if value is None else float(value) for value in fields["logprobs"]
        )
    if "think" in fields:
        fields["think"] = tuple(Span(*span) for span in fields["think"])
    if fields.get("answer") is not None:
        fields["answer"] = Span(*fields["answer"])
    if "labels" in fields:
        fields["labels"] = tuple(Label(*label) for label in fields["labels"])
    kinds = {"origin": Origin, "reasoning": Reasoning}
    fields |= {key: kind(fields[key]) for key, kind in kinds.items() if key in fields}
    meta = (
        {key: trace.meta[key] for key in exact["kept"]} | exact.get("meta", {})
        if "kept" in exact
        else trace.meta
    )
    return replace(trace, **fields, meta=meta)


def traces_of_turns(
    before: list[Any], messages: list[Any], common: dict[str, Any], meta: dict
) -> list[Trace]:
    messages = [without_nulls(message) for message in messages]
    # OpenAI's fine-tuning rows: an assistant message of weight 0 is context and no completion.
    turns = [
        i
        for i, message in enumerate(messages)
        if role_of(message) == "assistant" and message.get("weight") != 0
    ]
    if not turns:
        raise TraceError("the conversation has no assistant turn")
    traces = []
    for number, i in enumerate(turns):
        earlier = [without_nulls(message) for message in before] + messages[:i]
        # Tokens, reward and finish reason of the row belong to its last turn; the other turns
        # ended, or called a tool.
        ended = {"finish_reason": "tool_calls" if tool_calls(messages[i]) else "stop"}
        fields = common if number == len(turns) - 1 else common | _OF_LAST | ended
        fields = fields | ({"id": f"{common['id']}/turn-{number}"} if len(turns) > 1 else {})
        # Stored once for the whole conversation: a copy of the earlier messages for every turn
        # would grow with the square of its length.
        kept = dict(meta) | (
            {"prompt_messages": earlier} if earlier and number == len(turns) - 1 else {}
        )
        if messages[i + 1 :] and number == len(turns) - 1:
            kept["later_messages"] = messages[i + 1 :]
        traces.append(trace_of_message(messages[i], prompt_text(earlier), fields, kept))
    return traces


_OF_LAST = dict.fromkeys(("token_ids", "logprobs", "reward", "prompt_token_ids", "token_starts"))
