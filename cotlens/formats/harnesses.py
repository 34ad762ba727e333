"""What lm-eval and LightEval write of their samples.

Each function names the source of its shape; `docs/traces.md` lists what each format lacks and its
traps.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotlens.formats.blocks import trace_of_message
from cotlens.formats.content import prompt_text, without_nulls
from cotlens.formats.fields import Taker, dicts, optional_ids, text_or_empty
from cotlens.formats.rows import Row
from cotlens.text.split import has_delimiters, opens_thought
from cotlens.trace import Origin, Reasoning, Span, Trace, TraceError

# --- lm-eval ---------------------------------------------------------------------------------
_SAMPLES = re.compile(r"samples_.*_(\d{4}-\d\d-\d\dT[\d.-]+)\.jsonl(?:\.gz)?")


def beside_lm_eval(path: Path) -> Row:
    """Model and cut-away thinking that belong to a samples file.

    They come from the `results_<date>.json` in the same folder. `cut_at` is missing where that
    file does not know the model's arguments: simple_evaluate() with a model object leaves them
    null.
    """
    named = _SAMPLES.fullmatch(path.name)
    if named is None:
        return {}
    results = path.with_name(f"results_{named.group(1)}.json")
    if not results.exists():
        return {}
    try:
        text = results.read_text(encoding="utf-8")
        said = json.loads(text)
        arguments = said["config"].get("model_args")
        model = text_or_empty(said.get("model_name"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TraceError(
            f"{results}: not a results file of lm-eval ({error!r}); move it away to go on"
        ) from None

    # Arguments of the command line are one text: name=value,name=value.
    if isinstance(arguments, str):
        pairs = [part.partition("=") for part in arguments.split(",")]
        arguments = {name.strip(): value for name, _, value in pairs}

    facts: dict[str, Any] = {"model": model}
    if isinstance(arguments, dict):
        facts["cut_at"] = arguments.get("think_end_token")
    return {"lm_eval": facts}


def parse_lm_eval(row: Row, name: str) -> list[Trace]:
    """A row of `samples_<task>_<date>.jsonl`: one trace per response to one request.

    Shape: lm-eval 0.4.13, `loggers/evaluation_tracker.py` (`save_results_samples`) and
    `evaluator.py`; before 0.4.3 the arguments were a list. A task with several filters writes every
    response once per filter. With `think_end_token` the harness keeps only the text after it, and
    the whole text if the token never came. So where the token was set (or, where no results file
    tells, where the prompt opened a thought), a text without any delimiter is either an answer
    whose thinking is gone or a thought that was cut off. It is read as the former and flagged.
    """
    taker = Taker(row)
    prompt, settings = _generation(taker.rest.pop("arguments"))
    responses = taker.rest.pop("resps")
    beside = taker.rest.pop("lm_eval", None) or {}
    taker.rest.pop("filtered_resps")
    is_one = isinstance(responses, list) and len(responses) == 1
    if not is_one or not isinstance(responses[0], list):
        raise TraceError(
            "the row answers several requests (a multiple-choice task): log-likelihoods, no "
            "completion"
        )

    # The row names its metrics, and has each under its name.
    scores = {}
    for metric in taker.rest.get("metrics") or ():
        if metric in taker.rest:
            scores[metric] = taker.rest.pop(metric)

    file = name.rpartition(":")[0]
    number = taker.rest.pop("doc_id")
    row_id = f"{file}:{number}"
    gold = text_or_empty(taker.rest.pop("target", None))
    meta = taker.rest | {"scores": scores, "generation": settings}
    if isinstance(prompt, list):
        meta["prompt_messages"] = prompt
        prompt = prompt_text(prompt)

    # Whether the thinking may be gone: the results file says, or else the prompt.
    is_cut = opens_thought(prompt)
    if "cut_at" in beside:
        is_cut = bool(beside["cut_at"])
    traces = []
    for sample, text in enumerate(responses[0]):
        if not isinstance(text, str):
            raise TraceError(f"a response must be text, got {type(text).__name__}")
        fields: dict[str, Any] = {"completion": text, "meta": meta}
        if is_cut and not has_delimiters(text):
            fields["origin"] = Origin.FIELDS
            fields["answer"] = Span(0, len(text))
            fields["reasoning"] = Reasoning.REDACTED
            fields["meta"] = meta | {"thinking_cut": "cut by lm-eval, or never closed"}

        trace = Trace(
            id=row_id if len(responses[0]) == 1 else f"{row_id}/{sample}",
            prompt=prompt,
            model=beside.get("model", ""),
            sample=sample,
            gold=gold,
            **fields,
        )
        traces.append(trace)

    return traces


def _generation(arguments: Any) -> tuple[Any, Row]:
    """Prompt (text, or messages of a chat API) and settings of a request to generate."""
    requests = arguments  # a list before 0.4.3
    if isinstance(arguments, dict):
        requests = [list(request.values()) for request in arguments.values()]

    # A request to generate is a prompt and its settings, one to compare two texts.
    request = requests[0] if requests else ()
    if len(request) < 2 or not isinstance(request[1], dict):
        raise TraceError("the row is of a task that compares log-likelihoods: it has no completion")
    prompt, settings = request[:2]
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        prompt = json.loads(prompt[0])  # for a chat API, lm-eval stores the messages as JSON text
    is_chat = isinstance(prompt, list) and len(dicts(prompt)) == len(prompt)
    if not isinstance(prompt, str) and not is_chat:
        raise TraceError(f"the prompt must be text or messages, got {type(prompt).__name__}")
    return prompt, settings


# --- LightEval -------------------------------------------------------------------------------
def _of_lighteval(row: Row, name: str) -> Any:
    """A column under its name of today, or its name up to LightEval 0.12."""
    if name in row:
        return row[name]
    return row.get(f"__{name}__")


def is_lighteval(row: Row) -> bool:
    """Whether a row has the columns of LightEval's details."""
    document = _of_lighteval(row, "doc")
    response = _of_lighteval(row, "model_response")
    return isinstance(document, dict) and isinstance(response, dict)


_RESPONSE = (
    "text", "text_post_processed", "input", "input_tokens", "output_tokens", "reasonings",
    "logprobs",
)  # fmt: skip


def parse_lighteval(row: Row, name: str) -> list[Trace]:
    """A row of `details_<task>_<date>.parquet`: one trace per sample of a document.

    Shape: lighteval 0.13.0, `logging/info_loggers.py` (`Detail`), `models/model_output.py` and
    `tasks/requests.py`; up to 0.12 the columns were called `__doc__`, `__model_response__` and
    `__metric__`. `text` is the model's own text; `text_post_processed`, where tags were cut out,
    goes to the metadata. `logprobs` are those of the first sample's tokens.
    """
    doc = _of_lighteval(row, "doc")
    response = _of_lighteval(row, "model_response")
    texts = response.get("text") or []
    if not texts:
        raise TraceError(
            "the model wrote no text: a task that compares log-likelihoods has no completion"
        )

    tokens = response.get("output_tokens") or []
    if len(tokens) not in (0, len(texts)):
        raise TraceError(
            f"model_response has {len(texts)} texts and {len(tokens)} lists of output_tokens"
        )

    before = response.get("input") or doc.get("query") or ""
    messages = [without_nulls(message) for message in dicts(before)]
    prompt = prompt_text(messages) if messages else before
    shared_meta = _lighteval_meta(row, messages)

    traces = []
    thoughts = response.get("reasonings") or []
    processed = response.get("text_post_processed") or []
    for sample, text in enumerate(texts):
        token_fields, meta = _lighteval_tokens(response, sample)
        fields = token_fields | {
            "id": name if len(texts) == 1 else f"{name}/{sample}",
            "prompt_id": "" if before else name,
            "domain": text_or_empty(doc.get("task_name")),
            "sample": sample,
            "finish_reason": "",
            "gold": _gold_of(doc),
        }
        if sample < len(processed):
            meta = {"text_post_processed": processed[sample]} | meta

        # An endpoint gives the thinking apart from the text.
        message = {"content": text}
        if sample < len(thoughts) and thoughts[sample] is not None:
            message["reasoning_content"] = thoughts[sample]
        traces.append(
            trace_of_message(
                message,
                prompt,
                fields,
                shared_meta | meta,
            )
        )

    return traces


def _lighteval_meta(row: Row, messages: Sequence[Row]) -> dict[str, Any]:
    """What document, metric and response say besides prompt, text and tokens."""
    about = {}
    for key, value in _of_lighteval(row, "doc").items():
        if key not in ("query", "task_name") and value not in (None, []):
            about[key] = value

    meta: dict[str, Any] = {
        "doc": about,
        "metric": _of_lighteval(row, "metric"),
    }
    if messages:
        meta["prompt_messages"] = list(messages)

    rest = {}
    for key, value in _of_lighteval(row, "model_response").items():
        if key not in _RESPONSE and value:
            rest[key] = value

    return meta | ({"response": rest} if rest else {})


def _lighteval_tokens(response: Row, sample: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Token ids and log-probs of a sample; log-probs that are not parallel go to the metadata."""
    tokens = response.get("output_tokens") or []
    ids = optional_ids(tokens[sample]) if tokens else None
    given = response.get("logprobs") or []
    logprobs = None
    # The log-probs are the first sample's.
    if ids and not sample and len(given) == len(ids):
        logprobs = tuple(map(float, given))

    fields = {
        "prompt_token_ids": optional_ids(response.get("input_tokens") or None),
        "token_ids": ids or None,
        "logprobs": logprobs,
    }
    is_left = bool(given) and not sample and logprobs is None
    return fields, {"logprobs": given} if is_left else {}


def _gold_of(doc: Row) -> str:
    """The correct choice; several as a JSON list."""
    choices = doc.get("choices") or []
    index = doc.get("gold_index")
    indices = index if isinstance(index, list) else [index]
    right = [choices[i] for i in indices if isinstance(i, int) and i >= 0]
    if not right:
        return ""
    return text_or_empty(right[0] if len(right) == 1 else right)
