"""The shape of one tool's rows, and the traces they hold: one short function per format.

Every function keeps the text byte for byte and keeps token ids, log-probs and finish reason where the source has them;
what a format cannot tell is listed in `Format.lacks`. `FORMATS`, at the end, is in the order of detection.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from cotlens.rows import Row
from cotlens.split import has_delimiters
from cotlens.trace import Label, Origin, Reasoning, Span, Trace, TraceError, dump_json


class Format(NamedTuple):
    """The shape of the rows of one tool.

    Attributes:
        name: what `--format` takes.
        matches: whether a row has this shape.
        parse: the traces of one row; `name` is the id to fall back on.
        lacks: what a file of this format cannot tell.
    """

    name: str
    matches: Callable[[Row], bool]
    parse: Callable[[Row, str], list[Trace]]
    lacks: tuple[str, ...]


# --- plain rows ------------------------------------------------------------------------------------------------

_PROMPT = ("prompt", "question", "problem", "instruction", "input", "query")
_TEXT = ("completion", "response", "raw", "output", "generation", "generated_text", "text", "content")
_THINK = ("thinking", "reasoning_content", "reasoning", "thought")
_GOLD = ("gold", "gold_answer", "ground_truth", "correct_answer", "reference_answer", "target")


class _Taker:
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
        return _optional_ids(self.take(*names))


def _common(taker: _Taker, name: str) -> dict[str, Any]:
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


def _parse_plain(row: Row, name: str) -> list[Trace]:
    """`{prompt, completion}` or `{prompt, thinking, answer}` under the names that people use.

    `answer` is the model's answer beside `thinking`, and the gold answer beside a completion. Beside `thinking`, a
    completion is the answer, unless it holds the thinking itself or has delimiters of its own: then it is the whole
    text. A prompt or completion that is a list is a conversation, typed blocks, or several samples.
    """
    taker = _Taker(row)
    prompt = _take_prompt(taker)
    thinking, text = taker.take(*_THINK), taker.take(*_TEXT)
    if isinstance(prompt, list) or isinstance(text, list):
        return _parse_lists(taker, prompt, thinking, text, name)
    if isinstance(thinking, list):
        thinking = _content_text(thinking)
    if text is not None and thinking is not None and not isinstance(thinking, str):
        taker.rest["thinking"], thinking = thinking, None  # a switch such as {"effort": "high"}
    if row.get("completion", "") is None and thinking is None:
        raise TraceError("the completion is null")
    for value in (thinking, text):
        if value is not None and not isinstance(value, str):
            raise TraceError(f"the completion must be text, got {type(value).__name__}")
    common = _common(taker, name)
    if text is None:
        answer = taker.take("answer")
        if thinking is None and not (isinstance(answer, str) and any(field in row for field in _THINK)):
            null = [field for field in (*_TEXT, *_THINK) if field in row]
            raise TraceError(f"the completion is null ({', '.join(null)})")
        if answer is not None and not isinstance(answer, str):
            raise TraceError(f"the answer must be text, got {type(answer).__name__}")
        return [Trace(prompt=prompt, **_fields_of(thinking or "", answer or ""), **common, meta=taker.rest)]
    common["gold"] = common["gold"] or ("" if thinking else taker.text("answer"))
    if not thinking or has_delimiters(text):
        taker.rest |= {"thinking": thinking} if thinking else {}
        return [Trace(prompt=prompt, completion=text, **common, meta=taker.rest)]
    place = _place_of_thinking(thinking, text)
    if place is None:
        return [Trace(prompt=prompt, **_fields_of(thinking, text), **common, meta=taker.rest)]
    spans = {"think": (place,), "answer": Span(place.stop, len(text))}
    return [Trace(prompt=prompt, completion=text, origin=Origin.FIELDS, **spans, **common, meta=taker.rest)]


_SURELY_QUOTED = 40  # characters: a shorter thought may begin the answer by chance ("No.")


def _place_of_thinking(thinking: str, text: str) -> Span | None:
    """Where the thinking stands in the text, if the text begins with it and so is the whole completion."""
    content = thinking.strip()
    at = len(text) - len(text.lstrip())
    return Span(at, at + len(content)) if len(content) >= _SURELY_QUOTED and text.startswith(content, at) else None


def _take_prompt(taker: _Taker) -> Any:
    """The prompt; an instruction and its input (Alpaca) are joined by a blank line."""
    if taker.rest.get("instruction") and taker.rest.get("input") and not taker.rest.get("prompt"):
        return taker.text("instruction") + "\n\n" + taker.text("input")
    prompt = taker.take(*_PROMPT)
    return prompt if isinstance(prompt, str | list) else "" if prompt is None else dump_json(prompt)


def _parse_lists(taker: _Taker, prompt: Any, thinking: Any, text: Any, name: str) -> list[Trace]:
    """Rows whose prompt or completion is a list: of messages (TRL's conversational rows), typed blocks, or samples."""
    before: list[Any] = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] if prompt else []
    if text == []:
        raise TraceError("the completion is an empty list")
    if isinstance(text, list) and all(isinstance(part, str) for part in text):
        thoughts = thinking if isinstance(thinking, list) and len(thinking) == len(text) else [thinking] * len(text)
        common = _common(taker, name)
        common["gold"] = common["gold"] or taker.text("answer")
        common["prompt_id"] = common["prompt_id"] or ("" if before else common["id"])
        samples = [common | {"id": f"{common['id']}/{i}", "sample": i} for i in range(len(text))]
        return [
            _trace_of_message(
                _without_nulls({"content": part, "thinking": thought}), _prompt_text(before), fields, taker.rest
            )
            for part, thought, fields in zip(text, thoughts, samples, strict=True)
        ]
    if isinstance(text, list) and any("role" in part for part in text):
        after = text
        taker.rest |= {} if thinking is None else {"thinking": thinking}
    else:
        answer = text if text is not None else taker.take("answer")
        after = [{"role": "assistant", "content": answer, "thinking": thinking}]
    common = _common(taker, name)
    common["gold"] = common["gold"] or taker.text("answer")
    return _traces_of_turns(before, after, common, taker.rest)


def _fields_of(thinking: str, answer: str) -> dict[str, Any]:
    """Completion and spans of a source that has thinking and answer apart."""
    cut, end = len(thinking), len(thinking) + len(answer)
    return {
        "completion": thinking + answer,
        "origin": Origin.FIELDS,
        "think": (Span(0, cut),) if thinking else (),
        "answer": Span(cut, end),
    }


# --- chat messages ---------------------------------------------------------------------------------------------


def _parse_messages(row: Row, name: str) -> list[Trace]:
    """`{"messages": [...]}`: one trace per assistant turn, the turns before it are its prompt."""
    taker = _Taker(row)
    messages = taker.take("messages", "conversation", "conversations")
    if not any(_role(message) == "assistant" for message in messages[-1:]) and any(row.get(key) for key in _TEXT):
        return _parse_plain({**taker.rest, "prompt": messages}, name)  # the messages are the prompt
    common = _common(taker, name)
    common["gold"] = common["gold"] or taker.text("answer")
    return _traces_of_turns([], messages, common, taker.rest)


def _traces_of_turns(before: list[Any], messages: list[Any], common: dict[str, Any], meta: dict) -> list[Trace]:
    messages = [_without_nulls(message) for message in messages]
    turns = [i for i, message in enumerate(messages) if _role(message) == "assistant"]
    if not turns:
        raise TraceError("the conversation has no assistant turn")
    traces = []
    for number, i in enumerate(turns):
        earlier = [_without_nulls(message) for message in before] + messages[:i]
        fields = common if number == len(turns) - 1 else common | {"token_ids": None, "logprobs": None, "reward": None}
        fields = fields | ({"id": f"{common['id']}/turn-{number}"} if len(turns) > 1 else {})
        # Once for the whole conversation: every turn's own copy of what came before would grow with its square.
        kept = dict(meta) | ({"prompt_messages": earlier} if earlier and number == len(turns) - 1 else {})
        if messages[i + 1 :] and number == len(turns) - 1:
            kept["later_messages"] = messages[i + 1 :]
        traces.append(_trace_of_message(messages[i], _prompt_text(earlier), fields, kept))
    return traces


def _trace_of_message(message: Row, prompt: str, fields: dict[str, Any], meta: dict[str, Any]) -> Trace:
    content = message.get("content")
    tools = message.get("tool_calls") or [part for part in _dicts(content) if part.get("type") == "tool_use"]
    if tools:  # the turn went on with a call: its thought is not cut off
        meta, fields = meta | {"tool_calls": tools}, fields | {"finish_reason": fields["finish_reason"] or "tool_calls"}
    if isinstance(content, list):
        if any(part.get("type") in _THOUGHT_BLOCKS for part in _dicts(content)):
            return Trace(prompt=prompt, **_blocks(content), **fields, meta=meta)
        content = _content_text(content)
    meta = meta | _left(message, "message", "role", "content", "tool_calls", "reasoning_details", *_THINK)
    thinking = next((_content_text(message[key]) for key in _THINK if isinstance(message.get(key), str | list)), "")
    reasoning = Reasoning.VERBATIM
    if isinstance(details := message.get("reasoning_details"), list):
        thinking = thinking or "".join(part.get("text") or part.get("summary") or "" for part in details)
        kinds = {str(part.get("type", "")).removeprefix("reasoning.") for part in details}
        reasoning = _worst({"summary": Reasoning.SUMMARY, "encrypted": Reasoning.REDACTED}.get(kind) for kind in kinds)
    if content is None and not thinking and not tools:
        raise TraceError("the completion is null (the assistant message has neither content nor reasoning)")
    if isinstance(content, str) and thinking and thinking.strip() in content and has_delimiters(content):
        meta, thinking = meta | {"thinking": thinking}, ""  # the server left the thought in the content as well
    if not thinking and reasoning is Reasoning.VERBATIM:
        return Trace(completion=content or "", prompt=prompt, **fields, meta=meta)
    return Trace(prompt=prompt, **_fields_of(thinking, content or ""), reasoning=reasoning, **fields, meta=meta)


_BLOCK_TEXT = ("thinking", "reasoning", "text", "content")
_THOUGHT_BLOCKS = ("thinking", "reasoning", "redacted_thinking")


def _dicts(content: Any) -> list[Row]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _blocks(content: list[Row]) -> dict[str, Any]:
    """Completion and spans of a message made of typed blocks, in their order; tool blocks are left out."""
    text, think, after, kinds = "", [], 0, [Reasoning.VERBATIM]
    for block in content:
        kind = block.get("type")
        if kind in ("thinking", "reasoning"):
            part = _content_text(next((block[key] for key in _BLOCK_TEXT if block.get(key)), ""))
            if not part and (summary := block.get("summary")):
                part = _content_text(summary)
                kinds.append(Reasoning.SUMMARY)
            kinds.append(Reasoning.REDACTED if block.get("redacted") else Reasoning.VERBATIM)
            think.append(Span(len(text), len(text) + len(part)))
            text += part
            after = len(text)
        elif kind == "redacted_thinking":
            kinds.append(Reasoning.REDACTED)
        elif kind in ("text", "output_text", "refusal"):
            text += block.get("text") or block.get("refusal") or ""
    return {
        "completion": text,
        "origin": Origin.FIELDS,
        "think": tuple(span for span in think if span.length),
        "answer": Span(after, len(text)),
        "reasoning": _worst(kinds),
    }


def _worst(kinds: Any) -> Reasoning:
    order = (Reasoning.VERBATIM, Reasoning.SUMMARY, Reasoning.REDACTED)
    return max((kind or Reasoning.VERBATIM for kind in kinds), key=order.index, default=Reasoning.VERBATIM)


def _prompt_text(messages: Sequence[Row]) -> str:
    """The prompt as one text: a single message verbatim, more with their roles. The messages stay in the metadata."""
    texts = [_content_text(message.get("content")) for message in messages]
    if len(messages) <= 1:
        return "".join(texts)
    return "\n\n".join(f"{_role(message)}: {text}" for message, text in zip(messages, texts, strict=True))


def _content_text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part if isinstance(part, str) else _part_text(part) for part in content)
    if not isinstance(content, str | None):
        raise TraceError(f"the content of a message must be text or a list of parts, got {type(content).__name__}")
    return content or ""


def _part_text(part: Row) -> str:
    return next((part[key] for key in (*_BLOCK_TEXT, "refusal") if isinstance(part.get(key), str)), "")


def _role(message: Row) -> str:
    role = str(message.get("role") or message.get("from") or "").lower()
    return {"gpt": "assistant", "model": "assistant", "human": "user"}.get(role, role)


def _without_nulls(message: Row) -> dict[str, Any]:
    """Parquet gives every message every key; what was absent comes back as None."""
    kept = {key: value for key, value in message.items() if value is not None}
    return kept | ({"content": kept.pop("value")} if "value" in kept and "content" not in kept else {})


# --- servers and trainers --------------------------------------------------------------------------------------


def _parse_openai(row: Row, name: str) -> list[Trace]:
    """A chat or text completion as an OpenAI-compatible server returns it, with the request's messages if kept."""
    taker = _Taker(row)
    choices, request = taker.take("choices"), taker.take("request") or {}
    before = taker.take("messages", "prompt") or request.get("messages") or request.get("prompt") or []
    before = [{"role": "user", "content": before}] if isinstance(before, str) else before
    common, traces = _common(taker, name), []
    common["prompt_id"] = common["prompt_id"] or ("" if before else common["id"])
    for choice in choices:
        sample = int(choice.get("index") or 0)
        fields = common | {
            "id": f"{common['id']}/{sample}" if len(choices) > 1 else common["id"],
            "sample": sample,
            "finish_reason": _text_or_empty(choice.get("finish_reason")),
            "token_ids": _optional_ids(choice.get("token_ids")),
        }
        meta = dict(taker.rest) | ({"prompt_messages": before} if before else {})
        meta |= _left(choice, "choice", "index", "finish_reason", "token_ids", "message", "text")
        message = choice.get("message") or {"content": choice.get("text")}
        trace = _trace_of_message(_without_nulls(message), _prompt_text(before), fields, meta)
        traces.append(_with_openai_logprobs(trace, (choice.get("logprobs") or {}).get("content")))
    return traces


def _with_openai_logprobs(trace: Trace, content: Sequence[Row] | None) -> Trace:
    """The trace with its tokens' log-probs and offsets.

    Servers give them for the content only. Where the reasoning stands apart they are not those of the completion, and
    go to the metadata.
    """
    if not content:
        return trace
    if trace.think:
        return replace(trace, meta={**trace.meta, "answer_logprobs": list(content)})
    if trace.token_ids is not None and len(trace.token_ids) != len(content):
        return trace
    pieces = [bytes(token["bytes"]) if token.get("bytes") is not None else token["token"].encode() for token in content]
    starts = _starts_of_bytes(pieces, trace.completion)
    logprobs = tuple(float(token["logprob"]) for token in content)
    return replace(trace, logprobs=logprobs, token_starts=None if starts is None else tuple(starts))


def _left(part: Row, name: str, *used: str) -> dict[str, Any]:
    """What a part of the row said beside what was used of it, for the metadata."""
    rest = {key: value for key, value in part.items() if key not in used and value is not None}
    return {name: rest} if rest else {}


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else dump_json(value)


def _starts_of_bytes(pieces: Sequence[bytes], text: str) -> list[int] | None:
    """Code point at which each token's bytes begin, or None where the bytes are not those of the text.

    A token that begins inside a character begins at that character.
    """
    data = text.encode()
    if not b"".join(pieces).startswith(data):
        return None
    starts, at_byte, at_char = [], 0, 0
    for piece in pieces:
        inside = at_byte < len(data) and (data[at_byte] & 0xC0) == 0x80
        starts.append(at_char - 1 if inside else at_char)
        at_char += sum((byte & 0xC0) != 0x80 for byte in data[at_byte : at_byte + len(piece)])
        at_byte += len(piece)
    return starts


def _optional_ids(values: Any) -> tuple[int, ...] | None:
    if values is not None and not isinstance(values, list):
        raise TraceError(f"token ids must be a list of whole numbers, got {type(values).__name__}")
    return None if values is None else tuple(values)


def _parse_vllm(row: Row, name: str) -> list[Trace]:
    """A vLLM RequestOutput dumped as JSON: one trace per output, with its token ids and chosen log-probs."""
    taker = _Taker(row)
    request_id, outputs, prompt = taker.take("request_id"), taker.take("outputs"), taker.text(*_PROMPT)
    common = _common(taker, name)
    if request_id is not None and common["id"] == name:
        common["id"] = str(request_id)
    common["prompt_id"] = common["prompt_id"] or ("" if prompt else common["id"])
    traces = []
    for output in outputs:
        sample = int(output.get("index") or 0)
        token_ids = _optional_ids(output.get("token_ids"))
        logprobs, starts = _vllm_logprobs(output.get("logprobs"), token_ids, output.get("text") or "")
        if output.get("text") is None:
            raise TraceError(f"the completion is null (outputs[{sample}].text)")
        fields = common | {
            "id": f"{common['id']}/{sample}" if len(outputs) > 1 else common["id"],
            "sample": sample,
            "finish_reason": _text_or_empty(output.get("finish_reason")),
            "token_ids": token_ids,
            "logprobs": logprobs,
            "token_starts": starts,
        }
        meta = taker.rest | _left(output, "output", "index", "text", "token_ids", "logprobs", "finish_reason")
        traces.append(Trace(completion=output["text"], prompt=prompt, **fields, meta=meta))
    return traces


def _vllm_logprobs(entries: Any, token_ids: tuple[int, ...] | None, text: str) -> tuple[Any, Any]:
    """Log-prob of each chosen token, and offsets where the decoded tokens spell the text."""
    if not entries or token_ids is None or len(entries) != len(token_ids):
        return None, None
    if any(entry is not None and not isinstance(entry, dict) for entry in entries):
        raise TraceError("logprobs of a vLLM output must be one dict of token id to log-prob a token")
    chosen = [(entry or {}).get(str(token)) for entry, token in zip(entries, token_ids, strict=True)]
    values = [c.get("logprob") if isinstance(c, dict) else c for c in chosen]
    logprobs = tuple(float("nan") if value is None else float(value) for value in values)
    decoded = [str(c["decoded_token"]) for c in chosen if isinstance(c, dict) and c.get("decoded_token") is not None]
    if len(decoded) < len(token_ids):
        return logprobs, None
    starts = _starts_of_bytes([piece.encode() for piece in decoded], text)
    return logprobs, None if starts is None else tuple(starts)


def _parse_trl(row: Row, name: str) -> list[Trace]:
    """A row of TRL's `completions_<step>.parquet`: strings up to TRL 1.10, lists of messages in 1.16.

    The reward columns bear the names of the reward functions: they are kept together in `meta["rewards"]`, and the
    only one, where there is one, is the reward.
    """
    taker = _Taker(row)
    step, advantage = int(taker.take("step")), taker.rest.pop("advantage", None)
    known = {
        "prompt",
        "completion",
        "image",
        "images",
        "id",
        "trace_id",
        "prompt_id",
        "sample",
        "sample_index",
        "training_step",
    }
    rewards = {k: v for k, v in taker.rest.items() if k not in known and _is_number_or_none(v)}
    for key in rewards:
        taker.rest.pop(key)
    taker.rest |= {"rewards": rewards, "advantage": advantage}
    if len(rewards) == 1:  # None: the reward function does not apply to this row
        taker.rest["reward"] = next(iter(rewards.values()))
    taker.rest["training_step"] = step
    return _parse_plain(taker.rest, name)


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


# --- labelled documents ----------------------------------------------------------------------------------------
# The completion is the text that the labels index, so that offsets are the file's own.


def _label(span: Sequence[int], label: str) -> Label:
    return Label(span[0], span[1], label)


def _parse_reasoningflow(row: Row, name: str) -> list[Trace]:
    """ReasoningFlow: one document per annotator, labelled from end to end, so all of it is read as thinking."""
    taker = _Taker(row)
    doc, group, spans = taker.take("doc_id"), taker.take("group"), taker.take("spans")
    labels = tuple(Label(start, stop, label) for _, start, stop, label, part in spans if part == "r")
    fields: dict[str, Any] = _common(taker, name) | {"id": f"{doc}@{group}"}
    text = _fields_of(taker.text("response"), "")
    prompt = taker.text("question")
    return [Trace(prompt=prompt, **text, **fields, labels=labels, meta=taker.rest | {"spans": spans})]


def _parse_schoenfeld(row: Row, name: str) -> list[Trace]:
    """DeepSeek-R1 on SAT maths with Schoenfeld episodes, labelled from end to end: all of it is read as thinking."""
    taker = _Taker(row)
    sentences = taker.take("sentences")
    labels = tuple(_label(item["span"], item["sentence_label"] or "") for item in sentences)
    text, prompt = _fields_of(taker.text("response"), ""), taker.text("question")
    return [Trace(prompt=prompt, **text, **_common(taker, name), labels=labels, meta=taker.rest)]


def _parse_venhoff(row: Row, name: str) -> list[Trace]:
    """Thinking of R1 distills in labelled segments; the raw output stays in the metadata.

    Segments that the source could not find again in the text have no span, and so no label here.
    """
    taker = _Taker(row)
    segments = taker.take("segments")
    labels = tuple(_label(item["span"], item["label"]) for item in segments if item["span"])
    text = _fields_of(taker.text("thinking"), "")
    return [Trace(**text, **_common(taker, name), labels=labels, meta=taker.rest)]


def _parse_anchors(row: Row, name: str) -> list[Trace]:
    """Thought-anchors chunks (also of the bias study): `solution` ends its thinking with a tag, which is split."""
    taker = _Taker(row)
    chunks = taker.take("chunks")
    labels = tuple(_label(chunk["span"], ",".join(chunk["function_tags"])) for chunk in chunks)
    prompt, completion = taker.text("prompt", "problem"), taker.text("solution")
    fields = _common(taker, name)
    return [Trace(prompt=prompt, completion=completion, **fields, labels=labels, meta=taker.rest)]


def _parse_self_jailbreak(row: Row, name: str) -> list[Trace]:
    """Thinking on harmful requests with self-jailbreaking sentences; the source removed the answers."""
    taker = _Taker(row)
    sentences, indices = taker.take("sentences"), taker.take("self_jailbreak_sentences")
    found = set(indices or ())
    labels = tuple(
        _label(sentence["span"], "self_jailbreak" if i in found else "other")
        for i, sentence in enumerate(sentences)
        if indices is not None
    )
    text, prompt = _fields_of(taker.text("thinking"), ""), taker.text("prompt")
    return [Trace(prompt=prompt, **text, **_common(taker, name), labels=labels, meta=taker.rest)]


# --- cotlens' own ----------------------------------------------------------------------------------------------


def _parse_cotlens(row: Row, _: str) -> list[Trace]:
    """A row of `RUN/traces`."""
    if "completion" not in row:
        raise TraceError("a light run holds no texts; analyze the source again without --light")
    same = ("completion", "prompt", "prompt_id", "model", "method", "training_step", "domain", "split", "sample")
    fields: dict[str, Any] = {key: row[key] for key in (*same, "finish_reason", "reward", "gold")}
    fields |= {key: _optional_ids(row[key]) for key in ("prompt_token_ids", "token_ids", "token_starts")}
    if (origin := Origin(row["origin"])) is Origin.FIELDS:
        fields["think"] = tuple(Span(span["start"], span["stop"]) for span in row["think_spans"])
        fields["answer"] = Span(row["answer_start"], row["answer_stop"])
    return [
        Trace(
            id=row["trace_id"],
            origin=origin,
            reasoning=Reasoning(row["reasoning"]),
            logprobs=None if row["logprobs"] is None else tuple(row["logprobs"]),
            labels=tuple(Label(label["start"], label["stop"], label["label"]) for label in row["labels"]),
            meta=json.loads(row["meta"]),
            **fields,
        )
    ]


# --- the formats, most specific first --------------------------------------------------------------------------


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


def _has_list(name: str, *alternatives: str) -> Callable[[Row], bool]:
    """A list of objects under one of the names, in a row that has no prompt and completion of its own beside it."""

    def matches(row: Row) -> bool:
        lists = [row[key] for key in (name, *alternatives) if isinstance(row.get(key), list)]
        return bool(lists) and len(_dicts(lists[0])) == len(lists[0]) and not {"prompt", "completion"} <= set(row)

    return matches


def _is_plain(row: Row) -> bool:
    return any(name in row for name in (*_TEXT, *_THINK))


_NO_TOKENS = ("token ids", "log-probs")
_LABELLED = (*_NO_TOKENS, "finish reason")

FORMATS = (
    Format("cotlens", _has("trace_id", "think_spans", "opened_by"), _parse_cotlens, ()),
    Format("reasoningflow", _has("doc_id", "response", "spans", "edges"), _parse_reasoningflow, _LABELLED),
    Format("self-jailbreak", _has("thinking", "sentences", "self_jailbreak_sentences"), _parse_self_jailbreak,
           (*_LABELLED, "answer (removed at the source)", "thinking beyond 500 tokens (cut at the source)")),
    Format("schoenfeld", _has("response", "sentences", "question_id"), _parse_schoenfeld, _LABELLED),
    Format("venhoff", _has("raw", "thinking", "segments"), _parse_venhoff, (*_LABELLED, "prompt")),
    Format("thought-anchors", _has("solution", "chunks"), _parse_anchors, _LABELLED),
    Format("trl", _has("step", "completion", "advantage"), _parse_trl,
           (*_NO_TOKENS, "finish reason", "model", "prompt id", "special tokens (TRL decodes without them)")),
    Format("vllm", _has_list("outputs"), _parse_vllm, ("model",)),
    Format("openai", _has_list("choices"), _parse_openai, ("token ids (unless the server returns them)",)),
    Format("messages", _has_list("messages", "conversation", "conversations"), _parse_messages, _NO_TOKENS),
    Format("plain", _is_plain, _parse_plain, ()),
)  # fmt: skip


def find_format(name: str) -> Format:
    """The format of that name."""
    for shape in FORMATS:
        if shape.name == name:
            return shape
    raise TraceError(f"unknown format {name!r}; expected one of {', '.join(shape.name for shape in FORMATS)}")


def detect_row(row: Row) -> Format:
    for shape in FORMATS:
        if shape.matches(row):
            return shape
    raise TraceError(
        f"no known format has the fields {_fields(row)}; expected at least 'completion' (or 'response', 'raw', "
        "'output', 'text'), or 'thinking' and 'answer', or 'messages'"
    )


def describe_mismatch(row: Row, shape: Format) -> str:
    other = next((f.name for f in FORMATS if f.matches(row)), None)
    looks = f"looks like {other}" if other else "has no known shape"
    return f"the file is read as {shape.name}, but this row {looks}: its fields are {_fields(row)}"


def _fields(row: Row) -> str:
    names = [str(name) for name in row]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "none"
