"""Plain rows and chat messages: what the readers of every tool's format are made of.

`rows <- formats_chat <- formats_servers, formats_training, formats_evaluation, formats_labelled <- formats`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cotlens.rows import Row
from cotlens.split import has_delimiters, split_think
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
            value = self.rest.get(name)
            if value is not None and value == value:  # a table with gaps has NaN in them
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
    sample = taker.take("sample", "sample_index", "sample_idx")
    logprobs = taker.take("logprobs")
    if logprobs is not None and not isinstance(logprobs, list | tuple):
        raise TraceError(f"logprobs must be a list of numbers, got {type(logprobs).__name__}")
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
    completion is the answer, unless it holds the thinking itself or begins with a thought of its own: then it is the
    whole text. A prompt or completion that is a list is a conversation, typed blocks, or several samples.
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
    if thinking is None or _is_whole(text, thinking):
        taker.rest |= {"thinking": thinking} if thinking else {}
        return [Trace(prompt=prompt, completion=text, **common, meta=taker.rest)]
    place = _place_of_thinking(thinking, text)
    if place is None:
        return [Trace(prompt=prompt, **fields_of(thinking, text), **common, meta=taker.rest)]
    spans = {"think": (place,), "answer": Span(place.stop, len(text))}
    return [Trace(prompt=prompt, completion=text, origin=Origin.FIELDS, **spans, **common, meta=taker.rest)]


def _is_whole(text: str, thinking: str) -> bool:
    """Whether a text beside thinking holds the thought as well: it begins with one, or has the same between tags.

    An answer may speak of tags without being a completion.
    """
    if not has_delimiters(text):
        return False
    think = split_think(text).think
    begins = bool(think) and not re.search(r"\s", text[: think[0].start].strip())
    return begins or not thinking or thinking.strip() in text


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
        given = taker.rest.get("finish_reason")
        common = common_fields(taker, name)
        common["gold"] = common["gold"] or taker.text("answer")
        common["prompt_id"] = common["prompt_id"] or ("" if before else common["id"])
        samples = [common | {"id": f"{common['id']}/{i}", "sample": i} for i in range(len(text))]
        if isinstance(given, list) and len(given) == len(text):
            samples = [one | {"finish_reason": text_or_empty(end)} for one, end in zip(samples, given, strict=True)]
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
    own = next((row[key] for key in ("completion", "response") if isinstance(row.get(key), str)), None)
    ends_in_turn = any(role_of(message) == "assistant" for message in messages[-1:])
    said = content_text(messages[-1].get("content")) if ends_in_turn and own is not None else None
    if (not ends_in_turn and any(row.get(key) for key in (*TEXT, *THINK))) or said != own:
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
        # What the row says of tokens, reward and end is said of its last turn; the others ended, or called a tool.
        ended = {"finish_reason": "tool_calls" if _calls(messages[i]) else "stop"}
        fields = common if number == len(turns) - 1 else common | _OF_LAST | ended
        fields = fields | ({"id": f"{common['id']}/turn-{number}"} if len(turns) > 1 else {})
        # Once for the whole conversation: every turn's own copy of what came before would grow with its square.
        kept = dict(meta) | ({"prompt_messages": earlier} if earlier and number == len(turns) - 1 else {})
        if messages[i + 1 :] and number == len(turns) - 1:
            kept["later_messages"] = messages[i + 1 :]
        traces.append(trace_of_message(messages[i], prompt_text(earlier), fields, kept))
    return traces


def trace_of_message(message: Row, prompt: str, fields: dict[str, Any], meta: dict[str, Any]) -> Trace:
    content, tools = message.get("content"), _calls(message)
    parts = _parts(content)
    if tools:  # the turn went on with a call: its thought is not cut off
        meta, fields = meta | {"tool_calls": tools}, fields | {"finish_reason": fields["finish_reason"] or "tool_calls"}
    thinking, reasoning, used = _thinking_beside(message)
    used |= {"role", "content", *(("tool_calls",) if isinstance(message.get("tool_calls"), list) else ())}
    if content is None and isinstance(message.get("refusal"), str):
        content, used = message["refusal"], used | {"refusal"}
    meta = meta | left_over(message, "message", *used)
    if parts and _has_blocks(parts):
        if thinking and not any(part.get("type") in _THOUGHT_BLOCKS for part in dicts(parts)):
            parts = [{"type": "thinking", "thinking": thinking}, *parts]
        elif thinking:
            meta = meta | {"thinking": thinking}
        text, placed = blocks_of(parts)
        text["reasoning"] = _worst([text["reasoning"], reasoning])
        return Trace(prompt=prompt, **text, **fields, meta=meta | _with_calls(placed, message))
    if isinstance(content, list):
        content, placed = _one_text(parts)
        meta = meta | _with_calls(placed, message)
    if content is None and not thinking and not tools:
        raise TraceError("the completion is null (the assistant message has neither content nor reasoning)")
    if not isinstance(content, str | None):
        raise TraceError(f"the content of a message must be text or a list of parts, got {type(content).__name__}")
    text = content or ""
    if text and thinking and thinking.strip() in text and has_delimiters(text):
        meta, thinking = meta | {"thinking": thinking}, ""  # the server left the thought in the content as well
    # A source that has a place for the thought, and nothing in it, says that there is none.
    told = "refusal" in used or any(isinstance(message.get(key), str) for key in THINK)
    if not thinking and reasoning is Reasoning.VERBATIM and (has_delimiters(text) or not told):
        return Trace(completion=text, prompt=prompt, **fields, meta=meta)
    return Trace(prompt=prompt, **fields_of(thinking, text), reasoning=reasoning, **fields, meta=meta)


def _parts(content: Any) -> list[Any]:
    return [_typed(part) for part in content] if isinstance(content, list) else []


def _calls(message: Row) -> list[Row]:
    """The calls of tools in a message, in their field or among its blocks."""
    blocks = [part for part in dicts(_parts(message.get("content"))) if _is_call(part)]
    return dicts(message.get("tool_calls")) or blocks


def _with_calls(placed: dict[str, Any], message: Row) -> dict[str, Any]:
    """What was found among the blocks, with the calls that stand in the field."""
    called = [*placed.get("tool_calls", ()), *dicts(message.get("tool_calls"))]
    return placed | ({"tool_calls": called} if called else {})


def _thinking_beside(message: Row) -> tuple[str, Reasoning, set[str]]:
    """Thinking in a field of its own, what it is, and the fields that say no more than that.

    The first field that is not empty wins; the same text under two names (vLLM) is one thought.
    """
    found = {key: content_text(message[key]) for key in THINK if isinstance(message.get(key), str | list)}
    thinking = next(filter(None, found.values()), "")
    used = {key for key, text in found.items() if text in ("", thinking)}
    details = dicts(message.get("reasoning_details"))
    if not details:
        return thinking, Reasoning.VERBATIM, used
    thinking = thinking or "".join(part.get("text") or part.get("summary") or "" for part in details)
    kinds = {str(part.get("type", "")).removeprefix("reasoning.") for part in details}
    reasoning = _worst({"summary": Reasoning.SUMMARY, "encrypted": Reasoning.REDACTED}.get(kind) for kind in kinds)
    signed = any(part.get("signature") for part in details)
    if not thinking and signed:
        reasoning = Reasoning.REDACTED
    used |= set() if signed or "encrypted" in kinds else {"reasoning_details"}
    return thinking, reasoning, used


def _typed(part: Any) -> Any:
    """A part with a `type`: Bedrock says by a key what others say by it, and some say of a text nothing at all."""
    if not isinstance(part, dict) or part.get("type"):
        return part
    if isinstance(inner := part.get("reasoningContent"), dict):
        said = inner.get("reasoningText") or {}
        beside = {key: value for key, value in (*said.items(), *inner.items()) if key not in ("text", "reasoningText")}
        return {"type": "thinking", "thinking": said.get("text") or "", **beside}
    for name, kind in (("toolUse", "tool_use"), ("toolResult", "tool_result")):
        if isinstance(part.get(name), dict):
            return {"type": kind, **part[name]}
    return {"type": "text", **part} if isinstance(part.get("text"), str) else part


_OF_LAST = dict.fromkeys(("token_ids", "logprobs", "reward", "prompt_token_ids", "token_starts"))


def _one_text(parts: Sequence[Any]) -> tuple[str, dict[str, Any]]:
    """One text of parts that do not say what is thought; and what of them is no text, with its place."""
    text, placed = "", dict[str, list[Any]]()
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        said = "" if _is_tool(part) else _part_text(part)
        rest = part if not said else _beside_text(part)
        if rest:
            placed.setdefault("tool_calls" if _is_call(part) else "other_parts", []).append({"at": len(text), **rest})
        text += said
    return text, placed


def _beside_text(part: Row) -> Row:
    """What a block of text says beside its text: citations, log-probs, a cache mark."""
    rest = {
        key: value
        for key, value in part.items()
        if key not in ("type", *_BLOCK_TEXT, "refusal") and value not in (None, "", [])
    }
    return {"type": part.get("type"), **rest} if rest else {}


_BLOCK_TEXT = ("thinking", "reasoning", "text", "content")
_THOUGHT_BLOCKS = ("thinking", "reasoning", "redacted_thinking")
_TEXT_BLOCKS = ("text", "output_text", "refusal")


def dicts(content: Any) -> list[Row]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _is_call(block: Row) -> bool:
    """Whether a block calls a tool: `tool_use`, `server_tool_use`, `function_call`, `web_search_call`, ..."""
    return str(block.get("type", "")).endswith(("tool_use", "_call", "-call"))


def _is_tool(block: Row) -> bool:
    return _is_call(block) or str(block.get("type", "")).endswith(("tool_result", "_output", "-result"))


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
            after, used = (len(text), used) if part else (after, at)
            if rest:
                placed["other_parts"].append({"at": at, "type": kind, **rest})
        elif kind in (*_TEXT_BLOCKS, "commentary"):
            said = content_text([block])
            after = max(after, used) if said else after
            text += said
            used = len(text) if kind == "commentary" else used
            if rest := _beside_text(block):
                placed["other_parts"].append({"at": at, **rest})
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
_SUMMARISES = re.compile(
    r"(?:gpt-5|o[134]|codex-mini)(?:$|[-@.].*)|gemini-(?:2[.-]5|[3-9]|(?:pro|flash|flash-lite)-latest).*"
    r"|claude-(?:[4-9]|(?:opus|sonnet|haiku)-[4-9]).*"
)
_PROVIDER = re.compile(
    r"(?:azure|openai|anthropic|google|vertex|gemini|bedrock|openrouter|databricks|amazon|aws|litellm|github|models|us|eu|apac"
    r"|global)\w*"
)
_OPEN_WEIGHTS = re.compile(r"distill|qwen|llama|mistral|\d+b(?:\b|-)|checkpoint|lora")


def gives_summaries(model: str) -> bool:
    """Whether a hosted model is one whose provider is known to give a summary where the thinking is asked for.

    The name may stand behind its provider's (`openrouter/anthropic/claude-sonnet-4`, `openai:o3`, `databricks-gpt-5`)
    and before a variant (`:thinking`); another folder or organisation before it is somebody's own model.
    """
    *before, last = re.sub(
        r"^(?:(?:us|eu|apac|global)\.)?(\w+)(?:--|\.|-)(?=claude|gpt-5|gemini)", r"\1/", model.lower()
    ).split("/")
    providers, _, name = last.partition(":") if _PROVIDER.fullmatch(last.partition(":")[0]) else ("", "", last)
    known = all(_PROVIDER.fullmatch(one) for one in [*before, providers] if one)
    return known and bool(_SUMMARISES.fullmatch(name.partition(":")[0])) and not _OPEN_WEIGHTS.search(name)


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
