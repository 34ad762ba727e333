"""What trainers write of their rollouts: TRL, verl, open-instruct, verifiers and prime-rl.

Each function names the source of its shape; `docs/traces.md` lists what each format lacks and its
traps.
"""

from collections.abc import Sequence
from typing import Any

from cotlens.formats.blocks import trace_of_message
from cotlens.formats.chat import parse_plain
from cotlens.formats.fields import (
    Taker,
    common_fields,
    dicts,
    optional_ids,
    prompt_text,
    text_or_empty,
    without_nulls,
)
from cotlens.formats.rows import Row
from cotlens.trace import Trace, TraceError


def parse_trl(row: Row, name: str) -> list[Trace]:
    """A row of TRL's `completions_<step>.parquet`.

    Prompt and completion are strings up to TRL 1.10, lists of messages in 1.16. The reward columns
    have the names of the reward functions: they are kept together in `meta["rewards"]`, and if
    there is only one, it is the reward.
    """
    taker = Taker(row)
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
    if (
        taker.rest.get("reward") is not None
    ):  # this number is the reward; the other columns come from a log
        rewards = {"reward": taker.rest["reward"]}
    for key in rewards:
        taker.rest.pop(key)
    taker.rest |= {"rewards": rewards, "advantage": advantage}
    if len(rewards) == 1:  # None: the reward function does not apply to this row
        taker.rest["reward"] = next(iter(rewards.values()))
    taker.rest["training_step"] = step
    return parse_plain(taker.rest, name)


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def parse_verl(row: Row, name: str) -> list[Trace]:
    """A row of verl's `<step>.jsonl`, of rollouts or of validation.

    Shape: verl 0.9.1, `trainer/ppo/ray_trainer.py` (`_write_generations`): input, output, gts,
    score, step, and what the reward function returned besides its score. Both texts were decoded
    without special tokens, so a rendered prompt has lost its turn markers; what a tool wrote in an
    agent's rollout is part of the same text. `uid` does not identify a row: older versions give it
    to all samples of a prompt.
    """
    taker = Taker(row)
    prompt, completion, reference = (
        taker.rest.pop(key, None) for key in ("input", "output", "gts")
    )
    step, score = taker.rest.pop("step"), taker.rest.pop("score")
    for key, value in (("input", prompt), ("output", completion)):
        if not isinstance(value, str):
            raise TraceError(f"{key} must be text, got {type(value).__name__}")
    if not isinstance(score, int | float | None):
        raise TraceError(f"score must be a number, got {type(score).__name__}")
    return [
        Trace(
            id=name,
            prompt=prompt or "",
            completion=completion or "",
            training_step=step,
            reward=None if score is None else float(score),
            gold=text_or_empty(reference),
            meta=taker.rest,
        )
    ]


def decode_rollout(row: Row, tokenizer: Any) -> Row:
    """A row of open-instruct with the texts of its tokens.

    The special token that ended the response has no text.
    """
    if not isinstance(row.get("prompt_tokens"), list) or not isinstance(
        row.get("response_tokens"), list
    ):
        return row
    before, made = list(row["prompt_tokens"]), list(row["response_tokens"])
    ended = (
        bool(made) and row.get("finish_reason") == "stop" and made[-1] in tokenizer.all_special_ids
    )
    try:
        texts = [
            tokenizer.decode(ids, skip_special_tokens=False)
            for ids in (before, made[:-1] if ended else made)
        ]
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise TraceError(f"the tokens cannot be decoded by this tokenizer: {error}") from None
    return {**row, "prompt": texts[0], "response": texts[1]}


def parse_open_instruct(row: Row, name: str) -> list[Trace]:
    """A row of open-instruct's `<run>_rollouts_<shard>.jsonl`, which holds tokens and no text.

    Shape: allenai/open-instruct, `open_instruct/rl_utils.py` (`RolloutRecord`), commit e6c3044 of
    2026-08-20. `read` adds `prompt` and `response` to the tokens if it was given their tokenizer.
    """
    taker = Taker(row)
    before, made = (
        optional_ids(taker.take("prompt_tokens")),
        optional_ids(taker.rest.pop("response_tokens")),
    )
    if "response" not in taker.rest:
        raise TraceError(
            "the row holds token ids and no text; name their tokenizer (tokenizer=, --tokenizer "
            "MODEL)"
        )
    prompt, completion = taker.text("prompt"), taker.rest.pop("response")
    step, reference = taker.rest.pop("step", -1), taker.rest.pop("ground_truth", None)
    taker.rest["prompt_token_ids"], taker.rest["token_ids"] = [*(before or ())], [*(made or ())]
    if not made:
        raise TraceError("the rollout has no response tokens")
    sample = taker.take("sample_idx")  # numbered through the whole batch
    common = common_fields(taker, name) | {"training_step": step, "gold": text_or_empty(reference)}
    return [
        Trace(
            prompt=prompt, completion=completion, **common, meta=taker.rest | {"sample_idx": sample}
        )
    ]


def is_verifiers(row: Row) -> bool:
    """An episode with its traces, or one trace: a graph of messages."""
    if isinstance(row.get("nodes"), list):
        return "task" in row and all("message" in node for node in dicts(row["nodes"]))
    return (
        "env" in row
        and isinstance(row.get("traces"), list)
        and all("nodes" in t for t in dicts(row["traces"]))
    )


def parse_verifiers(row: Row, name: str) -> list[Trace]:
    """A row of `traces.jsonl` of verifiers or prime-rl: one trace per message that the model made.

    Shape: verifiers 0.4.0, `v1/episode.py`, `v1/trace.py` and `v1/graph.py`; earlier rows are one
    trace without its episode. A conversation is the path from a message to its root; a message's
    own tokens begin with what the template put before it, which belongs to the prompt. Only the
    sampled tokens have log-probs. The reward is that of the whole trace; its last message carries
    it.
    """
    episodes = row.get("traces", [row])
    if not episodes:
        raise TraceError(f"the episode has no trace ({_first_error(row)})")
    around = (
        {key: value for key, value in row.items() if key != "traces"} if "traces" in row else {}
    )
    return [trace for one in episodes for trace in _verifiers_trace(one, name, around)]


def _first_error(row: Row) -> str:
    errors = dicts(row.get("errors"))
    return (
        f"{errors[0].get('type')}: {errors[0].get('message')}" if errors else "it reports no error"
    )


def _verifiers_trace(row: Row, name: str, around: Row) -> list[Trace]:
    nodes = row["nodes"]
    made = [i for i, node in enumerate(nodes) if node.get("sampled")]
    if not made:
        raise TraceError(f"no message of the trace was made by a model ({_first_error(row)})")
    calls = {call["node"]: call for call in dicts(row.get("calls")) if call.get("node") is not None}
    task = row["task"]
    data = task.get("data") or {}
    rewards = [reward for reward in (row.get("rewards") or {}).values() if reward is not None]
    work = ((around.get("run") or {}).get("work") or {}).get("step")
    own, rest = (
        str(row.get("id") or name),
        {key: row[key] for key in row if key not in ("nodes", "calls", "id")},
    )
    traces = []
    for number, i in enumerate(made):
        path = _path_to(nodes, i)
        token_ids, before, logprobs, meta = _node_tokens(nodes, path)
        call, last = calls.get(i, {}), number == len(made) - 1
        earlier = [without_nulls(nodes[j]["message"]) for j in path[:-1]]
        fields = {
            "id": own if len(made) == 1 else f"{own}/turn-{number}",
            # The first turns of one task's samples share their prompt; later ones follow what the
            # sample said before.
            "prompt_id": text_or_empty(task.get("key") or task.get("hash")) if number == 0 else "",
            "model": text_or_empty(call.get("model")),
            "training_step": work if isinstance(work, int) else -1,
            "domain": text_or_empty((around.get("env") or {}).get("id")),
            "finish_reason": text_or_empty(call.get("finish_reason")),
            "reward": sum(r["score"] * r.get("weight", 1.0) for r in rewards)
            if rewards and last
            else None,
            "gold": text_or_empty(data.get("answer")),
            "prompt_token_ids": before,
            "token_ids": token_ids,
            "logprobs": logprobs,
        }
        if last:
            meta |= (
                rest | ({"episode": dict(around)} if around else {}) | {"prompt_messages": earlier}
            )
        if call:
            meta["call"] = {
                key: call[key] for key in call if key not in ("node", "model", "finish_reason")
            }
        traces.append(
            trace_of_message(_verifiers_message(nodes[i]), prompt_text(earlier), fields, meta)
        )
    return traces


def _path_to(nodes: Sequence[Row], i: int) -> list[int]:
    path = [i]
    while (parent := nodes[path[-1]].get("parent")) is not None:
        if not 0 <= parent < path[-1]:
            raise TraceError(
                f"node {path[-1]} has the parent {parent}, which does not come before it"
            )
        path.append(parent)
    return path[::-1]


def _verifiers_message(node: Row) -> Row:
    """The message; encrypted thoughts in its provider's own items are marked as such."""
    message = without_nulls(node["message"])
    hidden = [
        item
        for item in dicts(message.get("provider_state"))
        if item.get("encrypted_content") or item.get("data")
    ]
    if hidden and not message.get("reasoning_content"):
        message["reasoning_details"] = [{"type": "reasoning.encrypted"}]
    elif any(item.get("summary") for item in hidden):
        message["reasoning_details"] = [
            {"type": "reasoning.summary", "summary": message.pop("reasoning_content")}
        ]
    return message


def _node_tokens(nodes: Sequence[Row], path: Sequence[int]) -> tuple[Any, Any, Any, dict[str, Any]]:
    """Ids of the sampled tokens, ids before them, log-probs, and metadata.

    The metadata holds the other numbers per token.
    """
    node = nodes[path[-1]]
    ids, mask = node.get("token_ids") or [], node.get("mask") or []
    if not ids:
        return None, None, None, {key: node[key] for key in ("logprobs",) if node.get(key)}
    if len(ids) != len(mask):
        raise TraceError(
            f"node {path[-1]} has {len(ids)} token_ids and {len(mask)} entries of mask"
        )
    own = [token for token, sampled in zip(ids, mask, strict=True) if sampled]
    before = [token for j in path[:-1] for token in nodes[j].get("token_ids") or []]
    before += [token for token, sampled in zip(ids, mask, strict=True) if not sampled]
    logprobs = node.get("logprobs") or None
    if logprobs is not None and len(logprobs) != len(own):
        raise TraceError(
            f"node {path[-1]} has {len(own)} sampled tokens and {len(logprobs)} log-probs"
        )
    numbers = ("entropies", "advantages", "reference_logprobs", "trainer_logprobs")
    meta = {key: node[key] for key in numbers if node.get(key) is not None}
    return (
        tuple(own),
        tuple(before),
        None if logprobs is None else tuple(map(float, logprobs)),
        meta,
    )


def parse_verifiers_results(row: Row, name: str) -> list[Trace]:
    """A row of `results.jsonl` of verifiers before 0.4: lists of messages, one row per rollout.

    Shape: `verifiers/utils/save_utils.py` of verifiers 0.1 (`state_to_rollout_output`).
    """
    return parse_plain({"prompt_id": str(row["example_id"]), **row}, name)
