"""What verl and open-instruct write of their rollouts.

Each function names the source of its shape; `docs/traces.md` lists what each format lacks and its
traps.
"""

from typing import Any

from cotlens.formats.fields import (
    Taker,
    common_fields,
    finite_or_none,
    optional_ids,
    text_or_empty,
)
from cotlens.formats.rows import Row
from cotlens.trace import Trace, TraceError


def parse_verl(row: Row, name: str) -> list[Trace]:
    """A row of verl's `<step>.jsonl`, of rollouts or of validation.

    Shape: verl 0.9.1, `trainer/ppo/ray_trainer.py` (`_write_generations`): input, output, gts,
    score, step, and what the reward function returned besides its score. Both texts were decoded
    without special tokens, so a rendered prompt has lost its turn markers; what a tool wrote in an
    agent's rollout is part of the same text. `uid` does not identify a row: older versions give it
    to all samples of a prompt.
    """
    # Both texts must be there: an agent's rollout is one text.
    taker = Taker(row)
    prompt = taker.rest.pop("input", None)
    completion = taker.rest.pop("output", None)
    for key, value in (("input", prompt), ("output", completion)):
        if not isinstance(value, str):
            raise TraceError(f"{key} must be text, got {type(value).__name__}")

    score = taker.rest.pop("score")
    if not isinstance(score, int | float | None):
        raise TraceError(f"score must be a number, got {type(score).__name__}")
    trace = Trace(
        id=name,
        prompt=prompt or "",
        completion=completion or "",
        training_step=taker.rest.pop("step"),
        reward=finite_or_none(score, "score"),
        gold=text_or_empty(taker.rest.pop("gts", None)),
        meta=taker.rest,
    )
    return [trace]


def decode_rollout(row: Row, tokenizer: Any) -> Row:
    """A row of open-instruct with the texts of its tokens.

    The special token that ended the response has no text.
    """
    before = row.get("prompt_tokens")
    generated = row.get("response_tokens")
    if not isinstance(before, list) or not isinstance(generated, list):
        return row

    # The token that ended the response is no text.
    is_stopped = bool(generated) and row.get("finish_reason") == "stop"
    if is_stopped and generated[-1] in tokenizer.all_special_ids:
        generated = generated[:-1]
    try:
        prompt = tokenizer.decode(list(before), skip_special_tokens=False)
        response = tokenizer.decode(list(generated), skip_special_tokens=False)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise TraceError(f"the tokens cannot be decoded by this tokenizer: {error}") from None

    return {**row, "prompt": prompt, "response": response}


def parse_open_instruct(row: Row, name: str) -> list[Trace]:
    """A row of open-instruct's `<run>_rollouts_<shard>.jsonl`, which holds tokens and no text.

    Shape: allenai/open-instruct, `open_instruct/rl_utils.py` (`RolloutRecord`), commit e6c3044 of
    2026-08-20. `read` adds `prompt` and `response` to the tokens if it was given their tokenizer.
    """
    taker = Taker(row)
    before = optional_ids(taker.take("prompt_tokens"))
    generated = optional_ids(taker.rest.pop("response_tokens"))
    if "response" not in taker.rest:
        raise TraceError(
            "the row holds token ids and no text; name their tokenizer (tokenizer=, --tokenizer "
            "MODEL)"
        )

    if not generated:
        raise TraceError("the rollout has no response tokens")

    # Texts of the tokens, and what the trainer says of the rollout.
    prompt = taker.text("prompt")
    completion = taker.rest.pop("response")
    step = taker.rest.pop("step", -1)
    reference = taker.rest.pop("ground_truth", None)
    sample = taker.take("sample_idx")  # numbered through the whole batch

    # The ids are those of the texts.
    taker.rest["prompt_token_ids"] = list(before or ())
    taker.rest["token_ids"] = list(generated)
    fields = common_fields(taker, name)
    fields |= {"training_step": step, "gold": text_or_empty(reference)}
    meta = taker.rest | {"sample_idx": sample}
    return [Trace(prompt=prompt, completion=completion, **fields, meta=meta)]
