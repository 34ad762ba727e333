"""What servers and engines return.

These are chat and text completions of OpenAI's shape, Gemini's candidates, OpenAI responses, and
the outputs of vLLM and SGLang.
"""

from collections.abc import Sequence
from typing import Any

from cotlens.formats.blocks import blocks_of, trace_of_message
from cotlens.formats.chat import parse_plain
from cotlens.formats.content import (
    parsed_parts,
    prompt_text,
    read_message,
    typed,
    without_nulls,
)
from cotlens.formats.fields import (
    PROMPT,
    THINK,
    Taker,
    common_fields,
    dicts,
    entries_of,
    from_json,
    left_over,
    objects,
    optional_ids,
)
from cotlens.formats.finish import changed_finish, finish_of, read_finish
from cotlens.formats.rows import Row
from cotlens.formats.tokens import (
    openai_tokens,
    sglang_tokens,
    starts_of_bytes,
    vllm_logprobs,
    with_openai_logprobs,
)
from cotlens.trace import Trace, TraceError


# --- chat and text completions ---------------------------------------------------------------
def parse_openai(row: Row, name: str) -> list[Trace]:
    """A chat or text completion as an OpenAI-compatible server returns it.

    The request's messages are its prompt where they were kept. Gemini's `candidates` are choices
    with a `content` of parts.
    """
    taker = Taker(row)
    choices = objects(taker.take("choices", "candidates"), "choices")
    before = _request_of(taker)
    if isinstance(before, str):
        before = [{"role": "user", "content": before}]
    prompt_ids = taker.rest.get("prompt_token_ids")
    common = common_fields(taker, name)
    common["model"] = common["model"] or taker.text("modelVersion")
    common["prompt_id"] = common["prompt_id"] or ("" if before else common["id"])

    traces = []
    for choice in choices:
        if "delta" in choice:
            raise TraceError(
                "choices[].delta: the row is one piece of a stream, no completion; ask with "
                "stream=false, or join the pieces of each response to one message"
            )

        # What the choice says of itself.
        sample = _index_of(choice)
        fields = common | {"sample": sample} | _choice_fields(choice, prompt_ids)
        if len(choices) > 1:
            fields["id"] = f"{common['id']}/{sample}"
        meta = dict(taker.rest) | ({"prompt_messages": before} if before else {})
        is_gemini = isinstance(from_json(choice.get("content")), dict)
        used = (*_OF_CHOICE, "content") if is_gemini else _OF_CHOICE
        meta |= left_over(choice, "choice", *used) | changed_finish(finish_of(choice))
        trace = trace_of_message(
            _message_of(choice),
            prompt_text(before),
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


_OF_CHOICE = (
    "index", "finish_reason", "finishReason", "token_ids", "response_token_ids",
    "prompt_token_ids", "message", "text",
)  # fmt: skip


def _request_of(taker: Taker) -> Any:
    """The messages or the text of the request, where the row keeps them."""
    request = taker.take("request") or {}
    # The row's own messages, else those of the request.
    before = taker.take("messages", "prompt")
    if before is None and isinstance(request, dict):
        before = request.get("messages") or request.get("prompt")
    if before is None or isinstance(before, str):
        return before or []
    return objects(before, "messages")


def _index_of(part: Row) -> int:
    index = part.get("index") or 0
    if isinstance(index, float) and index.is_integer():
        return int(index)  # a table with gaps
    if not isinstance(index, int):
        raise TraceError(f"index must be a whole number, got {index!r}")
    return index


def _choice_fields(choice: Row, prompt_ids: Any) -> dict[str, Any]:
    """Finish reason and token ids of a choice; SGLang and vLLM have names of their own for these.

    SGLang 0.5.23 has `response_token_ids` and `prompt_token_ids` in the choice of a chat.
    """
    token_ids = choice.get("token_ids")
    if token_ids is None:
        token_ids = choice.get("response_token_ids")
    if choice.get("prompt_token_ids") is not None:
        prompt_ids = choice["prompt_token_ids"]
    return {
        "finish_reason": read_finish(finish_of(choice)),
        "token_ids": optional_ids(token_ids),
        "prompt_token_ids": optional_ids(prompt_ids),
    }


def _message_of(choice: Row) -> Row:
    message = from_json(choice.get("message"))
    content = from_json(choice.get("content"))
    if message is None and isinstance(content, dict):
        message = content  # Gemini
    if message is None:
        # Completions of some servers have the thought next to the text.
        beside = {key: choice[key] for key in THINK if key in choice}
        message = {"content": choice.get("text"), **beside}

    return read_message(message)


def is_mt_bench(row: Row) -> bool:
    """Answers of MT-bench: choices with the text of each turn."""
    choices = dicts(row.get("choices"))
    return bool(choices) and all(isinstance(choice.get("turns"), list) for choice in choices)


def parse_mt_bench(row: Row, name: str) -> list[Trace]:
    """An answer of FastChat's MT-bench: one trace per turn of each choice; no prompts.

    Shape: FastChat, `llm_judge/gen_model_answer.py`: question_id, answer_id, model_id, choices of
    index and turns.
    """
    taker = Taker(row)
    choices = objects(taker.take("choices"), "choices")
    answer, question = taker.take("answer_id"), taker.take("question_id")
    common = common_fields(taker, name)
    if answer is not None:
        common["id"] = str(answer)
    prompt_id = common["prompt_id"] or (common["id"] if question is None else str(question))

    traces = []
    for choice in choices:
        sample = _index_of(choice)
        # Each turn is a trace.
        for turn, text in enumerate(choice["turns"]):
            if not isinstance(text, str):
                raise TraceError(f"choices[].turns must be texts, got {type(text).__name__}")
            parts = [common["id"], str(sample)] if len(choices) > 1 else [common["id"]]
            fields = common | {
                "id": "/".join([*parts, f"turn-{turn}"]),
                "sample": sample,
                # A later turn answers another prompt, which the file does not hold.
                "prompt_id": prompt_id if turn == 0 else f"{prompt_id}/turn-{turn}",
            }
            traces.append(
                Trace(
                    completion=text,
                    **fields,
                    meta=taker.rest,
                )
            )

    return traces


# --- responses -------------------------------------------------------------------------------
_ITEMS = ("reasoning", "message")


def is_response(row: Row) -> bool:
    """A response object, or a row whose `output` is a list of its items."""
    items = entries_of(row.get("output"))
    if len(dicts(items)) != len(items):
        return False
    if not items and not isinstance(row.get("output"), list):
        return False
    kinds = [str(item.get("type", "")) for item in items]
    is_typed = all(kind in _ITEMS or kind.endswith(("_call", "_output")) for kind in kinds)
    return row.get("object") == "response" or (is_typed and any(kind in _ITEMS for kind in kinds))


def parse_responses(row: Row, name: str) -> list[Trace]:
    """A response object of OpenAI's Responses API: one trace, whatever the number of its items.

    Shape: openai-python 3.54 (`types/responses/response.py`). A reasoning item shows a `summary`
    and, where the model is open, its `content`; `encrypted_content` is not text. Items keep their
    order.
    """
    taker = Taker(row)
    items = dicts(entries_of(taker.take("output")))

    # The request, and why the response ended.
    before = taker.take("input", "prompt", "instructions") or []
    before = [{"role": "user", "content": before}] if isinstance(before, str) else dicts(before)
    incomplete = taker.rest.pop("incomplete_details", None) or {}
    finish = incomplete.get("reason") or taker.text("status")
    if not items:
        raise TraceError(f"the response has no output (status {finish or 'unknown'})")

    # Items of messages hold blocks, every other item is one.
    blocks: list[Row] = []
    for item in items:
        blocks += _message_blocks(item) if item.get("type") == "message" else [item]

    common = common_fields(taker, name)
    fields, placed = blocks_of([without_nulls(block) for block in blocks])
    meta = taker.rest | placed | ({"prompt_messages": before} if before else {})
    common["finish_reason"] = read_finish(finish)
    if placed.get("tool_calls") and not fields["answer"].length:
        common["finish_reason"] = "tool_calls"
    elif finish != "completed":
        meta |= changed_finish(finish or None)

    return [
        Trace(
            prompt=prompt_text(before),
            **fields,
            **common,
            meta=meta,
        )
    ]


def _message_blocks(item: Row) -> Sequence[Row]:
    """The blocks of a message item; its text before the answer (see `phase`) is commentary."""
    left_out = ("content", "id", "role", "status")
    around = {key: value for key, value in item.items() if key not in left_out}
    blocks = [around] if len(around) > 1 else []
    # A text, or parts of text.
    content = item.get("content")
    if isinstance(content, str):
        content = parsed_parts(content)
    if isinstance(content, str):
        content = [{"type": "output_text", "text": content}]
    for part in parsed_parts(content or []):
        block = typed(part)
        if isinstance(block, str):
            block = {"type": "output_text", "text": block}
        if item.get("phase") == "commentary":
            block = {**block, "type": "commentary"}
        blocks.append(block)

    return blocks


# --- engines ---------------------------------------------------------------------------------
def parse_vllm(row: Row, name: str) -> list[Trace]:
    """A vLLM RequestOutput: one trace per output.

    Shape: vLLM 0.33, `vllm/outputs.py`. It has the token ids and the log-probs of the chosen
    tokens.
    """
    taker = Taker(row)
    request_id = taker.take("request_id")
    outputs = objects(taker.take("outputs"), "outputs")
    prompt = taker.text(*PROMPT)
    common = common_fields(taker, name)
    if request_id is not None and common["id"] == name:
        common["id"] = str(request_id)
    common["prompt_id"] = common["prompt_id"] or ("" if prompt else common["id"])

    traces = []
    for output in outputs:
        # The text, and the tokens that it was made of.
        sample = _index_of(output)
        text = output.get("text")
        if not isinstance(text, str):
            what = "null" if text is None else f"no text but {type(text).__name__}"
            raise TraceError(f"the completion is {what} (outputs[{sample}].text)")

        token_ids = optional_ids(output.get("token_ids"))
        logprobs, starts = vllm_logprobs(output.get("logprobs"), token_ids, text)
        fields = common | {
            "id": f"{common['id']}/{sample}" if len(outputs) > 1 else common["id"],
            "sample": sample,
            "finish_reason": read_finish(finish_of(output)),
            "token_ids": token_ids,
            "logprobs": logprobs,
            "token_starts": starts,
        }
        used = ("index", "text", "token_ids", "logprobs", "finish_reason")
        meta = taker.rest | left_over(output, "output", *used)
        meta |= changed_finish(finish_of(output))
        traces.append(
            Trace(
                completion=text,
                prompt=prompt,
                **fields,
                meta=meta,
            )
        )

    return traces


def is_sglang(row: Row) -> bool:
    """An output of SGLang's native endpoint or engine."""
    is_output = isinstance(row.get("text"), str) or "output_ids" in row
    return isinstance(row.get("meta_info"), dict) and is_output


def parse_sglang(row: Row, name: str) -> list[Trace]:
    """An output of SGLang's `/generate` or Engine.generate: text, output_ids and meta_info.

    Shape: SGLang 0.5.23, `managers/tokenizer_manager.py`. The finish reason is an object; the
    log-probs of the tokens are (log-prob, id, text or null), of the prompt's tokens likewise.
    """
    taker = Taker(row)
    about = dict(taker.rest.pop("meta_info"))
    output_ids = optional_ids(taker.rest.pop("output_ids", None))
    if not isinstance(row.get("text"), str):
        raise TraceError(
            "the row has output_ids and no text (skip_tokenizer_init); decode the ids with the "
            "model's tokenizer and put the result under 'text'"
        )

    # Reason and id stand in `meta_info`.
    given = about.pop("finish_reason", None)
    tokens = sglang_tokens(about.pop("output_token_logprobs", None))
    about.pop("output_token_logprobs_length", None)
    taker.rest.setdefault("finish_reason", given)
    if taker.rest.get("id") is None and isinstance(about.get("id"), str):
        taker.rest["id"] = about.pop("id")

    # The ids of the log-probs are those of the output; both may be there.
    if output_ids is None and tokens is not None:
        output_ids = tokens.token_ids
    if output_ids is not None:
        taker.rest["token_ids"] = list(output_ids)
    if tokens is not None and tokens.token_ids == output_ids:
        taker.rest["logprobs"] = list(tokens.logprobs)
        starts = _starts_of(tokens.pieces, row["text"])
        if starts is not None:
            taker.rest["token_starts"] = starts
    elif tokens is not None:
        about["output_token_logprobs"] = [list(pair) for pair in zip(*tokens[:2], strict=True)]

    if (ids := taker.rest.pop("input_ids", None)) is not None:
        taker.rest["prompt_token_ids"] = ids
    return parse_plain(
        taker.rest | {"meta_info": about},
        name,
    )


def _starts_of(pieces: list[str] | None, text: str) -> list[int] | None:
    if pieces is None:
        return None
    return starts_of_bytes(
        [piece.encode("utf-8", "surrogatepass") for piece in pieces],
        text,
    )
