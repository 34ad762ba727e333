"""Plain rows and chat messages: what the readers of every tool's format are made of.

`rows <- formats_chat <- formats_servers, formats_training, formats_evaluation, formats_labelled <- formats`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cotlens.rows import Row
from cotlens.split import has_delimiters
from cotlens.trace import Label, Origin, Reasoning, Span, Trace, TraceError, dump_json, hash_text

# --- plain rows ------------------------------------------------------------------------------------------------

PROMPT = ("prompt", "question", "problem", "instruction", "input", "query")
TEXT = ("completion", "response", "raw", "output", "generation", "generated_text", "text", "content")
THINK = ("thinking", "reasoning_content", "reasoning", "thought")
_GOLD = ("gold", "gold_answer", "ground_truth", "correct_answer", "reference_answer", "target")


class Taker:
    """Takes fields from a row by any of their names; what nobody took is metadata."""

    def __init__(self, row: Row) -> None:
        self.rest = dict(row)

    def take(self, *names: str) -> Any:
        for name in names:
            if self.rest.get(name) is not None:
                return self.rest.pop(name)
        return None

    def text(self, *names: str) -> str:
        value = self.take(*names)
        if isinstance(value, bytes):
            raise TraceError(f"{names[0]} must be text, got bytes")
        return "" if value is None else value if isinstance(value, str) else dump_json(value)

    def ids(self, *names: str) -> tuple[int, ...] | None:
        return optional_ids(self.take(*names))


def common_fields(taker: Taker, name: str) -> dict[str, Any]:
    """Fields that every format may carry under the same names."""
    row_id = taker.take("id", "trace_id", "uid")
    reward, step = taker.take("reward"), taker.take("training_step")
    if isinstance(row_id, list | dict | bytes | bool):
        raise TraceError(f"an id must be text or a number, got {type(row_id).__name__}")
    sample = taker.take("sample", "sample_index", "sample_idx", "sample_id")
    logprobs = taker.take("logprobs")
    return {
        "id": name if row_id is None else str(row_id),
        "prompt_id": taker.text("prompt_id"),
        "model": taker.text("model", "model_name"),
        "method": taker.text("method"),
        "training_step": _whole(step, -1),
        "domain": taker.text("domain", "dataset", "task"),
        "split": taker.text("split"),
        "sample": _whole(sample, 0),
        "finish_reason": taker.text("finish_reason", "stop_reason"),
        "reward": None if reward is None else float(reward),
        "gold": taker.text(*_GOLD),
        "prompt_token_ids": taker.ids("prompt_token_ids"),
        "token_ids": taker.ids("token_ids", "completion_token_ids", "completion_ids"),
        "logprobs": None if logprobs is None else tuple(float("nan") if v is None else float(v) for v in logprobs),
        "token_starts": taker.ids("token_starts"),
    }


def _whole(value: Any, unknown: int) -> Any:
    """A whole number that a table with gaps turned into a float, as a whole number; a gap as `unknown`."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return unknown
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parse_plain(row: Row, name: str) -> list[Trace]:
    """`{prompt, completion}` or `{prompt, thinking, answer}` under the names that people use.

    `answer` is the model's answer beside `thinking`, and the gold answer beside a completion. Beside `thinking`, a
    completion is the answer, unless it holds the thinking itself or has delimiters of its own: then it is the whole
    text. A prompt or completion that is a list is a conversation, typed blocks, or several samples.
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
        if thinking is None and not (isinstance(answer, str) and any(field in row for field in THINK)):
            null = [field for field in (*TEXT, *THINK) if field in row]
            raise TraceError(f"the completion is null ({', '.join(null)})")
        if answer is not None and not isinstance(answer, str):
            raise TraceError(f"the answer must be text, got {type(answer).__name__}")
        return [Trace(prompt=prompt, **fields_of(thinking or "", answer or ""), **common, meta=taker.rest)]
    common["gold"] = common["gold"] or ("" if thinking else taker.text("answer"))
    if not thinking or has_delimiters(text):
        taker.rest |= {"thinking": thinking} if thinking else {}
        return [Trace(prompt=prompt, completion=text, **common, meta=taker.rest)]
    place = _place_of_thinking(thinking, text)
    if place is None:
        return [Trace(prompt=prompt, **fields_of(thinking, text), **common, meta=taker.rest)]
    spans = {"think": (place,), "answer": Span(place.stop, len(text))}
    return [Trace(prompt=prompt, completion=text, origin=Origin.FIELDS, **spans, **common, meta=taker.rest)]


_SURELY_QUOTED = 40  # characters: a shorter thought may begin the answer by chance ("No.")


def _place_of_thinking(thinking: str, text: str) -> Span | None:
    """Where the thinking stands in the text, if the text begins with it and so is the whole completion."""
    content = thinking.strip()
    at = len(text) - len(text.lstrip())
    return Span(at, at + len(content)) if len(content) >= _SURELY_QUOTED and text.startswith(content, at) else None


def _take_prompt(taker: Taker) -> Any:
    """The prompt; an instruction and its input (Alpaca) are joined by a blank line."""
    if taker.rest.get("instruction") and taker.rest.get("input") and not taker.rest.get("prompt"):
        return taker.text("instruction") + "\n\n" + taker.text("input")
    prompt = taker.take(*PROMPT)
    return prompt if isinstance(prompt, str | list) else "" if prompt is None else dump_json(prompt)


def _parse_lists(taker: Taker, prompt: Any, thinking: Any, text: Any, name: str) -> list[Trace]:
    """Rows whose prompt or completion is a list: of messages (TRL's conversational rows), typed blocks, or samples."""
    before: list[Any] = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] if prompt else []
    if text == []:
        raise TraceError("the completion is an empty list")
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        thoughts = thinking if isinstance(thinking, list) and len(thinking) == len(text) else [thinking] * len(text)
        common = common_fields(taker, name)
        common["gold"] = common["gold"] or taker.text("answer")
        common["prompt_id"] = common["prompt_id"] or ("" if before else common["id"])
        samples = [common | {"id": f"{common['id']}/{i}", "sample": i} for i in range(len(text))]
        return [
            trace_of_message(
                without_nulls({"content": part, "thinking": thought}), prompt_text(before), fields, taker.rest
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


def fields_of(thinking: str, answer: str) -> dict[str, Any]:
    """Completion and spans of a source that has thinking and answer apart."""
    cut, end = len(thinking), len(thinking) + len(answer)
    return {
        "completion": thinking + answer,
        "origin": Origin.FIELDS,
        "think": (Span(0, cut),) if thinking else (),
        "answer": Span(cut, end),
    }


# --- chat messages ---------------------------------------------------------------------------------------------


def parse_messages(row: Row, name: str) -> list[Trace]:
    """`{"messages": [...]}`: one trace per assistant turn, the turns before it are its prompt."""
    taker = Taker(row)
    messages = taker.take("messages", "conversation", "conversations")
    if not any(role_of(message) == "assistant" for message in messages[-1:]) and any(row.get(key) for key in TEXT):
        return parse_plain({**taker.rest, "prompt": messages}, name)  # the messages are the prompt
    exact = taker.rest.pop("cotlens", None)
    common = common_fields(taker, name)
    if isinstance(exact, dict):  # written by cotlens: the last message is the completion
        clean = [{key: one[key] for key in one if key != "weight"} for one in map(without_nulls, messages)]
        meta = {"prompt_messages": clean[:-1]} if clean[:-1] else {}
        return [restored(trace_of_message(clean[-1], prompt_text(clean[:-1]), common, meta), exact)]
    common["gold"] = common["gold"] or taker.text("answer")
    return traces_of_turns([], messages, common, taker.rest)


def restored(trace: Trace, exact: Row) -> Trace:
    """The trace with what the tool's own shape could not say, as `write` put it beside: fields of `Trace`, and `of`.

    Raises:
        TraceError: if the text is another than the one that was written.
    """
    if exact.get("of") != hash_text(trace.completion):
        raise TraceError(
            "the text is not the one that cotlens wrote here; where it was changed on purpose, take `cotlens` away"
        )
    fields = {key: value for key, value in exact.items() if key not in ("of", "meta", "kept")}
    for key in ("prompt_token_ids", "token_ids", "token_starts"):
        fields |= {key: optional_ids(fields[key])} if key in fields else {}
    if fields.get("logprobs") is not None:
        fields["logprobs"] = tuple(float("nan") if value is None else float(value) for value in fields["logprobs"])
    if "think" in fields:
        fields["think"] = tuple(Span(*span) for span in fields["think"])
    if fields.get("answer") is not None:
        fields["answer"] = Span(*fields["answer"])
    if "labels" in fields:
        fields["labels"] = tuple(Label(*label) for label in fields["labels"])
    kinds = {"origin": Origin, "reasoning": Reasoning}
    fields |= {key: kind(fields[key]) for key, kind in kinds.items() if key in fields}
    meta = {key: trace.meta[key] for key in exact["kept"]} | exact.get("meta", {}) if "kept" in exact else trace.meta
    return replace(trace, **fields, meta=meta)


def traces_of_turns(before: list[Any], messages: list[Any], common: dict[str, Any], meta: dict) -> list[Trace]:
    messages = [without_nulls(message) for message in messages]
    # OpenAI's fine-tuning rows: an assistant message of weight 0 is context and no completion.
    turns = [i for i, message in enumerate(messages) if role_of(message) == "assistant" and message.get("weight") != 0]
    if not turns:
        raise TraceError("the conversation has no assistant turn")
    traces = []
    for number, i in enumerate(turns):
        earlier = [without_nulls(message) for message in before] + messages[:i]
        fields = common if number == len(turns) - 1 else common | {"token_ids": None, "logprobs": None, "reward": None}
        fields = fields | ({"id": f"{common['id']}/turn-{number}"} if len(turns) > 1 else {})
        # Once for the whole conversation: every turn's own copy of what came before would grow with its square.
        kept = dict(meta) | ({"prompt_messages": earlier} if earlier and number == len(turns) - 1 else {})
        if messages[i + 1 :] and number == len(turns) - 1:
            kept["later_messages"] = messages[i + 1 :]
        traces.append(trace_of_message(messages[i], prompt_text(earlier), fields, kept))
    return traces


def trace_of_message(message: Row, prompt: str, fields: dict[str, Any], meta: dict[str, Any]) -> Trace:
    content = message.get("content")
    tools = message.get("tool_calls") or [part for part in dicts(content) if _is_call(part)]
    if tools:  # the turn went on with a call: its thought is not cut off
        meta, fields = meta | {"tool_calls": tools}, fields | {"finish_reason": fields["finish_reason"] or "tool_calls"}
    used = ("role", "content", "tool_calls", "reasoning_details", *THINK)
    if isinstance(content, list):
        if _has_blocks(content):
            parts, placed = blocks_of(content)
            called = [*placed.get("tool_calls", ()), *(message.get("tool_calls") or ())]
            meta = meta | placed | ({"tool_calls": called} if called else {}) | left_over(message, "message", *used)
            return Trace(prompt=prompt, **parts, **fields, meta=meta)
        content = content_text(content)
    meta = meta | left_over(message, "message", *used)
    thinking = next((content_text(message[key]) for key in THINK if isinstance(message.get(key), str | list)), "")
    reasoning = Reasoning.VERBATIM
    if isinstance(details := message.get("reasoning_details"), list):
        thinking = thinking or "".join(part.get("text") or part.get("summary") or "" for part in details)
        kinds = {str(part.get("type", "")).removeprefix("reasoning.") for part in details}
        reasoning = _worst({"summary": Reasoning.SUMMARY, "encrypted": Reasoning.REDACTED}.get(kind) for kind in kinds)
        if "encrypted" in kinds:
            meta = meta | {"reasoning_details": details}
    if content is None and not thinking and not tools:
        raise TraceError("the completion is null (the assistant message has neither content nor reasoning)")
    if isinstance(content, str) and thinking and thinking.strip() in content and has_delimiters(content):
        meta, thinking = meta | {"thinking": thinking}, ""  # the server left the thought in the content as well
    if not thinking and reasoning is Reasoning.VERBATIM:
        return Trace(completion=content or "", prompt=prompt, **fields, meta=meta)
    return Trace(prompt=prompt, **fields_of(thinking, content or ""), reasoning=reasoning, **fields, meta=meta)


_BLOCK_TEXT = ("thinking", "reasoning", "text", "content")
_THOUGHT_BLOCKS = ("thinking", "reasoning", "redacted_thinking")
_TEXT_BLOCKS = ("text", "output_text", "refusal")


def dicts(content: Any) -> list[Row]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _is_call(block: Row) -> bool:
    """Whether a block calls a tool: `tool_use`, `server_tool_use`, `function_call`, `web_search_call`, ..."""
    return str(block.get("type", "")).endswith(("tool_use", "_call"))


def _is_tool(block: Row) -> bool:
    return _is_call(block) or str(block.get("type", "")).endswith(("tool_result", "_output"))


def _has_blocks(content: list[Any]) -> bool:
    """Whether the parts of a message say themselves what is thought, said and called; else they are one text."""
    parts = dicts(content)
    if any(part.get("type") in _THOUGHT_BLOCKS for part in parts):
        return True
    return any(map(_is_tool, parts)) and not any(has_delimiters(_part_text(part)) for part in parts)


def blocks_of(content: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Completion and spans of a message made of typed blocks, and what of them is no text, for the metadata.

    Blocks keep their order. Calls and results of tools are in no text: `tool_calls` and `other_parts` hold them with
    `at`, the code point of the completion at which each stands. The answer is the last text: what stands before a
    thought, or before a tool that more text follows, is commentary.
    """
    text, think, after, used, kinds = "", [], 0, 0, [Reasoning.VERBATIM]
    placed: dict[str, list[Any]] = {"tool_calls": [], "other_parts": []}
    for part_of_message in content:
        said_plainly = isinstance(part_of_message, str)
        block: Row = {"type": "text", "text": part_of_message} if said_plainly else part_of_message
        kind, at = block.get("type"), len(text)
        if kind in _THOUGHT_BLOCKS:
            part, reasoning, rest = _thought(block)
            kinds.append(reasoning)
            think.append(Span(at, at + len(part)))
            text += part
            after = len(text)
            if rest:
                placed["other_parts"].append({"at": at, "type": kind, **rest})
        elif kind in _TEXT_BLOCKS:
            said = content_text([block])
            after = max(after, used) if said else after
            text += said
        else:
            placed["tool_calls" if _is_call(block) else "other_parts"].append({"at": at, **block})
            used = at if _is_tool(block) else used
    fields = {
        "completion": text,
        "origin": Origin.FIELDS,
        "think": tuple(span for span in think if span.length),
        "answer": Span(after, len(text)),
        "reasoning": _worst(kinds),
    }
    return fields, {name: parts for name, parts in placed.items() if parts}


def _thought(block: Row) -> tuple[str, Reasoning, dict[str, Any]]:
    """Text of a thinking block, what the text is, and what else the block says.

    An encrypted thought is no text, whatever the field it stands in (Inspect puts it in `reasoning`); where a summary
    stands beside it, the summary is the text. A signed block without text was left out by the provider.
    """
    rest = {key: value for key, value in block.items() if key != "type" and value not in (None, "", [])}
    summary = content_text(rest["summary"]) if isinstance(rest.get("summary"), str | list) else ""
    hidden = block.get("type") == "redacted_thinking" or bool(block.get("redacted"))
    name = "" if hidden else next((key for key in _BLOCK_TEXT if rest.get(key)), "")
    if name:
        return content_text(rest.pop(name)), Reasoning.VERBATIM, rest
    if summary:
        rest.pop("summary")
        return summary, Reasoning.SUMMARY, rest
    hidden = hidden or any(rest.get(key) for key in ("signature", "encrypted_content", "data"))
    return "", Reasoning.REDACTED if hidden else Reasoning.VERBATIM, rest


# Models whose providers show summaries of the thinking only, as they document: OpenAI's reasoning models, Gemini from
# 2.5, Claude from 4. What stands in a field of its own is no thinking of theirs.
_SUMMARISES = re.compile(r"(?:^|[/.])(?:gpt-5|o[134](?:-|$)|gemini-(?:2\.5|[3-9])|claude-[a-z]+-\d)", re.IGNORECASE)


def gives_summaries(model: str) -> bool:
    """Whether the provider of the model is known to give a summary where the thinking is asked for."""
    return _SUMMARISES.search(model) is not None


def _worst(kinds: Any) -> Reasoning:
    order = (Reasoning.VERBATIM, Reasoning.SUMMARY, Reasoning.REDACTED)
    return max((kind or Reasoning.VERBATIM for kind in kinds), key=order.index, default=Reasoning.VERBATIM)


def prompt_text(messages: Sequence[Row]) -> str:
    """The prompt as one text: a single message verbatim, more with their roles. The messages stay in the metadata."""
    texts = [content_text(message.get("content")) for message in messages]
    if len(messages) <= 1:
        return "".join(texts)
    return "\n\n".join(f"{role_of(message)}: {text}" for message, text in zip(messages, texts, strict=True))


def content_text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else _part_text(part) for part in content)
    if not isinstance(content, str | None):
        raise TraceError(f"the content of a message must be text or a list of parts, got {type(content).__name__}")
    return content or ""


def _part_text(part: Row) -> str:
    if part.get("redacted"):  # ciphertext stands where the text of others does
        return content_text(part.get("summary"))
    return next((part[key] for key in (*_BLOCK_TEXT, "refusal") if isinstance(part.get(key), str)), "")


def role_of(message: Row) -> str:
    role = str(message.get("role") or message.get("from") or "").lower()
    return {"gpt": "assistant", "model": "assistant", "human": "user"}.get(role, role)


def without_nulls(message: Row) -> dict[str, Any]:
    """Parquet gives every message every key; what was absent comes back as None."""
    kept = {key: value for key, value in message.items() if value is not None}
    return kept | ({"content": kept.pop("value")} if "value" in kept and "content" not in kept else {})


def left_over(part: Row, name: str, *used: str) -> dict[str, Any]:
    """What a part of the row said beside what was used of it, for the metadata."""
    rest = {key: value for key, value in part.items() if key not in used and value is not None}
    return {name: rest} if rest else {}


def text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else dump_json(value)


def optional_ids(values: Any) -> tuple[int, ...] | None:
    if values is not None and not isinstance(values, list):
        raise TraceError(f"token ids must be a list of whole numbers, got {type(values).__name__}")
    return None if values is None else tuple(values)
