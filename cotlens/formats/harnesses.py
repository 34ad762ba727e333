"""What evaluation harnesses write of their samples: lm-eval, LightEval, Inspect and Inspect Scout.

Each function names the source of its shape; `docs/traces.md` lists what each format lacks and its
traps.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotlens.formats.blocks import trace_of_message
from cotlens.formats.chat import restored
from cotlens.formats.fields import (
    Taker,
    dicts,
    optional_ids,
    prompt_text,
    text_or_empty,
    without_nulls,
)
from cotlens.formats.rows import Row
from cotlens.formats.servers import with_openai_logprobs
from cotlens.text.split import has_delimiters, opens_thought
from cotlens.trace import Origin, Reasoning, Span, Trace, TraceError

# --- lm-eval ---------------------------------------------------------------------------------
_SAMPLES = re.compile(r"samples_.*_(\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl(?:\.gz)?")


def beside_lm_eval(path: Path) -> Row:
    """Model and cut-away thinking that belong to a samples file.

    They come from the `results_<date>.json` in the same folder.
    """
    named = _SAMPLES.fullmatch(path.name)
    results = path.with_name(f"results_{named.group(1)}.json") if named else None
    if results is None or not results.exists():
        return {}
    try:
        said = json.loads(results.read_text(encoding="utf-8"))
        arguments = said["config"].get("model_args") or {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(
            f"{results}: not a results file of lm-eval ({error!r}); move it away to go on"
        ) from None
    if isinstance(arguments, str):
        pairs = (part.partition("=") for part in arguments.split(","))
        arguments = {name: value for name, _, value in pairs}
    return {
        "lm_eval": {
            "model": text_or_empty(said.get("model_name")),
            "cut_at": arguments.get("think_end_token"),
        }
    }


def parse_lm_eval(row: Row, name: str) -> list[Trace]:
    """A row of `samples_<task>_<date>.jsonl`: one trace per response to one request.

    Shape: lm-eval 0.4.13, `loggers/evaluation_tracker.py` (`save_results_samples`) and
    `evaluator.py`; before 0.4.3 the arguments were a list. A task with several filters writes every
    response once per filter. With `think_end_token` the harness keeps only the text after it, and
    the whole text if the token never came. So where the token was set (or, without a results file
    to tell, where the prompt opened a thought), a text without any delimiter is either an answer
    whose thinking is gone or a thought that was cut off. It is read as the former and flagged.
    """
    taker = Taker(row)
    prompt, settings = _generation(taker.rest.pop("arguments"))
    responses, beside = taker.rest.pop("resps"), taker.rest.pop("lm_eval", None)
    taker.rest.pop("filtered_resps")
    if not isinstance(responses, list) or len(responses) != 1 or not isinstance(responses[0], list):
        raise TraceError(
            "the row answers several requests (a multiple-choice task): log-likelihoods, no "
            "completion"
        )
    scores = {
        key: taker.rest.pop(key) for key in taker.rest.get("metrics") or () if key in taker.rest
    }
    number, gold = taker.rest.pop("doc_id"), text_or_empty(taker.rest.pop("target", None))
    own = f"{name.rpartition(':')[0]}:{number}"
    meta = taker.rest | {"scores": scores, "generation": settings}
    if isinstance(prompt, list):
        meta, prompt = meta | {"prompt_messages": prompt}, prompt_text(prompt)
    traces = []
    for sample, text in enumerate(responses[0]):
        if not isinstance(text, str):
            raise TraceError(f"a response must be text, got {type(text).__name__}")
        fields: dict[str, Any] = {"completion": text}
        cut = opens_thought(prompt) if beside is None else bool(beside["cut_at"])
        if cut and not has_delimiters(text):
            why = "cut by lm-eval, or never closed"
            fields |= {
                "origin": Origin.FIELDS,
                "answer": Span(0, len(text)),
                "reasoning": Reasoning.REDACTED,
            }
            meta = meta | {"thinking_cut": why}
        traces.append(
            Trace(
                id=own if len(responses[0]) == 1 else f"{own}/{sample}",
                prompt=prompt,
                model=beside["model"] if beside else "",
                sample=sample,
                gold=gold,
                meta=meta,
                **fields,
            )
        )
    return traces


def _generation(arguments: Any) -> tuple[Any, Row]:
    """Prompt (text, or messages of a chat API) and settings of a request to generate."""
    older = not isinstance(arguments, dict)
    requests = arguments if older else [list(request.values()) for request in arguments.values()]
    if not requests or len(requests[0]) < 2 or not isinstance(requests[0][1], dict):
        raise TraceError("the row is of a task that compares log-likelihoods: it has no completion")
    prompt, settings = requests[0][:2]
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = json.loads(prompt[0])  # for a chat API, lm-eval stores the messages as JSON text
    if not isinstance(prompt, str) and (
        not isinstance(prompt, list) or len(dicts(prompt)) != len(prompt)
    ):
        raise TraceError(f"the prompt must be text or messages, got {type(prompt).__name__}")
    return prompt, settings


# --- LightEval -------------------------------------------------------------------------------
def _of_lighteval(row: Row, name: str) -> Any:
    return row[name] if name in row else row.get(f"__{name}__")


def is_lighteval(row: Row) -> bool:
    return isinstance(_of_lighteval(row, "doc"), dict) and isinstance(
        _of_lighteval(row, "model_response"), dict
    )


def parse_lighteval(row: Row, name: str) -> list[Trace]:
    """A row of `details_<task>_<date>.parquet`: one trace per sample of a document.

    Shape: lighteval 0.13.0, `logging/info_loggers.py` (`Detail`), `models/model_output.py` and
    `tasks/requests.py`; up to 0.12 the columns were called `__doc__`, `__model_response__` and
    `__metric__`. `text` is the model's own text; `text_post_processed`, where tags were cut out,
    goes to the metadata. `logprobs` are those of the first sample's tokens.
    """
    doc, response = _of_lighteval(row, "doc"), _of_lighteval(row, "model_response")
    texts, post = response.get("text") or [], response.get("text_post_processed") or []
    if not texts:
        raise TraceError(
            "the model wrote no text: a task that compares log-likelihoods has no completion"
        )
    before = response.get("input") or doc.get("query") or ""
    messages = [without_nulls(message) for message in dicts(before)]
    tokens, thoughts = response.get("output_tokens") or [], response.get("reasonings") or []
    meta = {
        key: value
        for key, value in doc.items()
        if key not in ("query", "task_name") and value not in (None, [])
    }
    meta = {"doc": meta, "metric": _of_lighteval(row, "metric")} | (
        {"prompt_messages": messages} if messages else {}
    )
    taken = (
        "text",
        "text_post_processed",
        "input",
        "input_tokens",
        "output_tokens",
        "reasonings",
        "logprobs",
    )
    meta |= (
        {"response": rest}
        if (rest := {k: v for k, v in response.items() if k not in taken and v})
        else {}
    )
    if len(tokens) not in (0, len(texts)):
        raise TraceError(
            f"model_response has {len(texts)} texts and {len(tokens)} lists of output_tokens"
        )
    traces = []
    for sample, text in enumerate(texts):
        ids = optional_ids(tokens[sample]) if tokens else None
        logprobs = response.get("logprobs") or []
        fields = {
            "id": name if len(texts) == 1 else f"{name}/{sample}",
            "prompt_id": "" if before else name,
            "domain": text_or_empty(doc.get("task_name")),
            "sample": sample,
            "finish_reason": "",
            "gold": _gold_of(doc),
            "prompt_token_ids": optional_ids(response.get("input_tokens") or None),
            "token_ids": ids or None,
            "logprobs": tuple(map(float, logprobs))
            if ids and not sample and len(logprobs) == len(ids)
            else None,
        }
        own = {"text_post_processed": post[sample]} if sample < len(post) else {}
        own |= (
            {"logprobs": logprobs} if logprobs and not sample and fields["logprobs"] is None else {}
        )
        thought = thoughts[sample] if sample < len(thoughts) else None
        message = without_nulls({"content": text, "reasoning_content": thought})
        prompt = prompt_text(messages) if messages else before
        traces.append(trace_of_message(message, prompt, fields, meta | own))
    return traces


def _gold_of(doc: Row) -> str:
    """The correct choice; several as a JSON list."""
    choices, index = doc.get("choices") or [], doc.get("gold_index")
    right = [
        choices[i]
        for i in (index if isinstance(index, list) else [index])
        if isinstance(i, int) and i >= 0
    ]
    return text_or_empty(right[0] if len(right) == 1 else right or None)


# --- Inspect and Inspect Scout ---------------------------------------------------------------
def parse_inspect(row: Row, name: str) -> list[Trace]:
    """A sample of an Inspect log, as Inspect's own reader gives it: one trace per model turn.

    Shape: inspect-ai 0.3.285, `log/_log.py` (`EvalSample`), `model/_model_output.py` and
    `_util/content.py`. The turns are the assistant messages that were not part of the input.
    Inspect takes a thought out of the text only where both of its tags are there; a text that still
    has one is split like any other. `reasoning` of a redacted block is ciphertext. The output's
    other choices are further samples of the last turn.
    """
    sample, header = row["sample"], row["eval"]
    output = sample.get("output") or {}
    choices, messages = dicts(output.get("choices")), sample.get("messages") or []
    if not any(map(_is_turn, messages)):
        if not choices:
            error = sample.get("error") or {}
            raise TraceError(
                f"sample {sample.get('id')!r} has no turn of a model: "
                f"{error.get('message', 'no error')}"
            )
        asked = sample.get("input")
        messages = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
        messages = [*messages, choices[0]["message"]]
    epoch, target = int(sample.get("epoch") or 1), sample.get("target")
    common = {
        "id": f"{name.rpartition(':')[0]}:{sample['id']}/{epoch}",
        "model": text_or_empty(output.get("model") or header.get("model")),
        "domain": text_or_empty(header.get("task")),
        "sample": epoch - 1,
        "gold": text_or_empty(
            target[0] if isinstance(target, list) and len(target) == 1 else target
        ),
    }
    dropped = ("id", "epoch", "target", "messages", "output", "input")
    meta = {
        key: value
        for key, value in sample.items()
        if key not in dropped and value not in (None, [], {})
    }
    meta["eval"] = dict(header)
    traces = _inspect_turns(messages, common, meta)
    if not choices or not _is_same(traces[-1], choices[0]):
        return traces
    last = traces.pop()
    for number, choice in enumerate(choices):
        fields = {name: getattr(last, name) for name in (*common, "prompt_id")}
        fields |= {"finish_reason": text_or_empty(choice.get("stop_reason"))}
        fields |= {"id": last.id if not number else f"{last.id}/choice-{number}"}
        fields["model"] = text_or_empty(choice["message"].get("model")) or fields["model"]
        message = _inspect_message(choice["message"])
        trace = trace_of_message(message, last.prompt, fields, {**meta, **_context_of(last)})
        traces.append(with_openai_logprobs(trace, (choice.get("logprobs") or {}).get("content")))
    return traces


def _context_of(trace: Trace) -> Row:
    return {
        key: trace.meta[key] for key in ("prompt_messages", "later_messages") if key in trace.meta
    }


def _is_same(trace: Trace, choice: Row) -> bool:
    """Whether the conversation's last turn is the output's.

    Solvers may add turns after it.
    """
    fields: dict[str, Any] = {"id": trace.id, "finish_reason": ""}
    return (
        trace_of_message(_inspect_message(choice["message"]), "", fields, {}).completion
        == trace.completion
    )


def _is_turn(message: Row) -> bool:
    return message.get("role") == "assistant" and message.get("source") != "input"


def _inspect_message(message: Row) -> Row:
    """A message without Inspect's bookkeeping, which differs in every copy."""
    kept = without_nulls(
        {key: message[key] for key in message if key not in ("id", "source", "model")}
    )
    if isinstance(kept.get("content"), list):
        kept["content"] = [
            part if isinstance(part, str) else without_nulls(part) for part in kept["content"]
        ]
    return kept


def _inspect_turns(messages: Sequence[Row], common: Row, meta: dict[str, Any]) -> list[Trace]:
    turns = [i for i, message in enumerate(messages) if _is_turn(message)]
    clean, traces = [_inspect_message(message) for message in messages], []
    for number, i in enumerate(turns):
        last = number == len(turns) - 1
        fields = {
            **common,
            "finish_reason": "",
            "model": text_or_empty(messages[i].get("model")) or common["model"],
        }
        fields["id"] = common["id"] if len(turns) == 1 else f"{common['id']}/turn-{number}"
        # Stored once for the whole conversation: a copy of the earlier messages for every turn
        # would grow with the square of its length.
        own = dict(meta) | {"prompt_messages": clean[:i]} if last else {}
        if last and messages[i + 1 :]:
            own["later_messages"] = clean[i + 1 :]
        traces.append(trace_of_message(clean[i], prompt_text(clean[:i]), fields, own))
    return traces


def parse_scout(row: Row, _: str) -> list[Trace]:
    """A row of Inspect Scout's transcript parquet: one trace per turn of the model.

    Shape: inspect-scout 0.6.2, `_transcript/database/schema.py`; messages are Inspect's, as JSON
    text. A row that cotlens wrote is one trace, and its column `cotlens` holds what the other
    columns cannot.
    """
    taker = Taker(row)
    messages, exact = taker.rest.pop("messages"), taker.rest.pop("cotlens", None)
    messages = json.loads(messages) if isinstance(messages, str) else messages
    if not isinstance(messages, list) or len(dicts(messages)) != len(messages):
        raise TraceError("messages must be a JSON list of messages")
    own, repeat = str(taker.rest.pop("transcript_id")), taker.rest.pop("task_repeat", None)
    common = {
        "id": own,
        "model": taker.text("model"),
        "method": taker.text("agent"),
        "domain": taker.text("task_set"),
        "sample": repeat - 1 if isinstance(repeat, int) else 0,
    }
    meta = {key: value for key, value in taker.rest.items() if value is not None}
    if exact is None:
        if not any(map(_is_turn, messages)):
            raise TraceError(f"transcript {own!r} has no turn of a model")
        return _inspect_turns(messages, common, meta)
    clean = [_inspect_message(message) for message in messages]
    meta = {"prompt_messages": clean[:-1]} if clean[:-1] else {}
    trace = trace_of_message(
        clean[-1], prompt_text(clean[:-1]), common | {"finish_reason": ""}, meta
    )
    return [restored(trace, json.loads(exact))]
