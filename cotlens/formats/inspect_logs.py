"""Samples of Inspect logs, and transcripts of Inspect Scout."""

import json
from collections.abc import Sequence
from typing import Any

from cotlens.formats.blocks import trace_of_message
from cotlens.formats.content import prompt_text, without_nulls
from cotlens.formats.exact import restored
from cotlens.formats.fields import Taker, dicts, objects, text_or_empty
from cotlens.formats.finish import changed_finish, read_finish
from cotlens.formats.rows import Row
from cotlens.formats.tokens import openai_tokens, with_openai_logprobs
from cotlens.trace import Trace, TraceError


def is_inspect(row: Row) -> bool:
    return all(isinstance(row.get(key), dict) for key in ("sample", "eval"))


def parse_inspect(row: Row, name: str) -> list[Trace]:
    """A sample of an Inspect log, as Inspect's own reader gives it: one trace per model turn.

    Shape: inspect-ai 0.3.285, `log/_log.py` (`EvalSample`), `model/_model_output.py` and
    `_util/content.py`. The turns are the assistant messages that were not part of the input.
    Inspect takes a thought out of the text only where both of its tags are there; a text that still
    has one is split like any other. `reasoning` of a redacted block is ciphertext, or for Claude
    the signature, and `summary` the readable thinking. The output's other choices are further
    samples of the last turn.
    """
    sample = row["sample"]
    output = sample.get("output") or {}
    choices = dicts(output.get("choices"))
    messages = _conversation(sample, choices)
    common = _common_of(row, name)
    traces = _turns(messages, common, _meta_of(row))
    if not choices or not _is_same(traces[-1], choices[0]):
        return traces

    # The last turn once for each choice of the output, with what the output says of it.
    last = traces.pop()
    for number, choice in enumerate(choices):
        fields = {field: getattr(last, field) for field in (*common, "prompt_id")}
        fields["finish_reason"] = read_finish(choice.get("stop_reason"))
        fields["id"] = last.id if not number else f"{last.id}/choice-{number}"
        fields["model"] = text_or_empty(choice["message"].get("model")) or fields["model"]
        meta = _meta_of(row) | _context_of(last) | changed_finish(choice.get("stop_reason"))
        trace = trace_of_message(
            _clean(choice["message"]),
            last.prompt,
            fields,
            meta,
        )
        traces.append(
            with_openai_logprobs(
                trace,
                openai_tokens(choice.get("logprobs")),
            )
        )

    return traces


def _conversation(sample: Row, choices: Sequence[Row]) -> list[Row]:
    """The messages of a sample; its input and its output where the log has no others."""
    messages = sample.get("messages") or []
    if any(map(_is_turn, messages)):
        return messages
    if not choices:
        error = sample.get("error") or {}
        reason = error.get("message", "no error")
        raise TraceError(f"sample {sample.get('id')!r} has no turn of a model: {reason}")

    asked = sample.get("input")
    if not isinstance(asked, list):
        asked = [{"role": "user", "content": asked}]
    return [*asked, choices[0]["message"]]


def _common_of(row: Row, name: str) -> dict[str, Any]:
    sample = row["sample"]
    header = row["eval"]

    # Epochs count from 1; a target in a list of one is that target.
    epoch = int(sample.get("epoch") or 1)
    target = sample.get("target")
    if isinstance(target, list) and len(target) == 1:
        target = target[0]
    model = (sample.get("output") or {}).get("model") or header.get("model")
    return {
        "id": f"{name.rpartition(':')[0]}:{sample['id']}/{epoch}",
        "model": text_or_empty(model),
        "domain": text_or_empty(header.get("task")),
        "sample": epoch - 1,
        "gold": text_or_empty(target),
    }


_TAKEN = ("id", "epoch", "target", "messages", "output", "input")


def _meta_of(row: Row) -> dict[str, Any]:
    # Of the sample what no field of the trace holds, and the head of the log.
    meta = {}
    for key, value in row["sample"].items():
        if key not in _TAKEN and value not in (None, [], {}):
            meta[key] = value

    return meta | {"eval": dict(row["eval"])}


def _context_of(trace: Trace) -> dict[str, Any]:
    names = ("prompt_messages", "later_messages")
    return {name: trace.meta[name] for name in names if name in trace.meta}


def _is_same(trace: Trace, choice: Row) -> bool:
    """Whether the conversation's last turn is the output's.

    Solvers may add turns after it.
    """
    fields: dict[str, Any] = {"id": trace.id, "finish_reason": ""}
    output = trace_of_message(
        _clean(choice["message"]),
        "",
        fields,
        {},
    )
    return output.completion == trace.completion


def _is_turn(message: Row) -> bool:
    return message.get("role") == "assistant" and message.get("source") != "input"


def _clean(message: Row) -> Row:
    """A message without Inspect's bookkeeping, which differs in every copy."""
    # The model's name is a field of the trace.
    left_out = ("id", "source", "model")
    rest = without_nulls({key: value for key, value in message.items() if key not in left_out})
    if isinstance(rest.get("content"), list):
        parts = []
        for part in rest["content"]:
            parts.append(part if isinstance(part, str) else without_nulls(part))

        rest["content"] = parts

    return rest


def _turns(messages: Sequence[Row], common: Row, meta: dict[str, Any]) -> list[Trace]:
    """One trace per turn of the model."""
    # Messages that the model wrote, and all of them as they are kept.
    turns = [i for i, message in enumerate(messages) if _is_turn(message)]
    clean = [_clean(message) for message in messages]
    traces = []
    for number, i in enumerate(turns):
        is_last = number == len(turns) - 1
        model = text_or_empty(messages[i].get("model")) or common["model"]
        fields = {**common, "finish_reason": "", "model": model}
        if len(turns) > 1:
            fields["id"] = f"{common['id']}/turn-{number}"

        # Stored once for the whole conversation: a copy of the earlier messages for every turn
        # would grow with the square of its length.
        turn_meta: dict[str, Any] = {}
        if is_last:
            turn_meta = dict(meta) | {"prompt_messages": clean[:i]}
        if is_last and messages[i + 1 :]:
            turn_meta["later_messages"] = clean[i + 1 :]
        traces.append(
            trace_of_message(
                clean[i],
                prompt_text(clean[:i]),
                fields,
                turn_meta,
            )
        )

    return traces


def parse_scout(row: Row, _: str) -> list[Trace]:
    """A row of Inspect Scout's transcript parquet: one trace per turn of the model.

    Shape: inspect-scout 0.6.2, `_transcript/database/schema.py`; messages are Inspect's, as JSON
    text. A row that cotlens wrote is one trace, and its column `cotlens` holds what the other
    columns cannot.
    """
    taker = Taker(row)
    messages = objects(taker.rest.pop("messages"), "messages")
    exact = taker.rest.pop("cotlens", None)
    transcript = str(taker.rest.pop("transcript_id"))
    repeat = taker.rest.pop("task_repeat", None)
    common = {
        "id": transcript,
        "model": taker.text("model"),
        "method": taker.text("agent"),
        "domain": taker.text("task_set"),
        "sample": repeat - 1 if isinstance(repeat, int) else 0,
    }
    if exact is None:
        if not any(map(_is_turn, messages)):
            raise TraceError(f"transcript {transcript!r} has no turn of a model")
        meta = {key: value for key, value in taker.rest.items() if value is not None}
        return _turns(messages, common, meta)

    # A row that cotlens wrote: the last message is the completion.
    clean = [_clean(message) for message in messages]
    meta = {"prompt_messages": clean[:-1]} if clean[:-1] else {}
    fields = common | {"finish_reason": ""}
    trace = trace_of_message(
        clean[-1],
        prompt_text(clean[:-1]),
        fields,
        meta,
    )
    return [restored(trace, json.loads(exact))]
