"""Rows that hold several samples, or a whole batch, and rows of benchmarks in shapes of their own.

Each function names the source of its shape.
"""

from collections.abc import Mapping
from typing import Any

from cotlens.formats.chat import parse_messages, parse_plain
from cotlens.formats.content import content_text
from cotlens.formats.fields import PROMPT, TEXT, THINK, Taker, common_fields, dicts, fields_of
from cotlens.formats.rows import Row
from cotlens.trace import Trace, TraceError, dump_json

# --- a list of samples under a plural name ---------------------------------------------------
_LISTS = (
    "generations", "completions", "responses", "samples", "outputs", "rollouts", "texts",
    "generated_texts", "model_outputs", "model_responses", "predictions",
)  # fmt: skip


def samples_field(row: Row) -> str:
    """The name of the list of samples; empty if the row has none.

    Samples are texts, or objects with a text or messages. Next to a text of the row's own, such a
    list is something else.
    """
    if any(isinstance(row.get(name), str) for name in TEXT[:4]):
        return ""
    for name in _LISTS:
        values = row.get(name)
        is_engine = name == "outputs" and any("token_ids" in output for output in dicts(values))
        if isinstance(values, list) and values and all(map(_is_sample, values)) and not is_engine:
            return name

    return ""


def _is_sample(value: Any) -> bool:
    if isinstance(value, str):
        return True
    names = (*TEXT, *THINK, "messages", "message")
    return isinstance(value, Mapping) and any(value.get(name) is not None for name in names)


def parse_samples(row: Row, name: str) -> list[Trace]:
    """One trace for each sample of a row: OpenR1's `generations`, and its like.

    Shape: open-r1/OpenR1-Math-220k: problem, answer, generations, finish_reasons, and messages
    that repeat one of the generations. `finish_reasons` and `rewards` of the same length say
    something of each sample.
    """
    field = samples_field(row)
    samples = row[field]
    rest = {key: value for key, value in row.items() if key != field}
    if any(rest.get(key) for key in PROMPT):
        messages = dicts(rest.get("messages"))
        repeats = messages and any(
            isinstance(sample, str) and sample == messages[-1].get("content") for sample in samples
        )
        rest = {key: value for key, value in rest.items() if key != "messages" or not repeats}

    if all(isinstance(sample, str) for sample in samples):
        if "messages" in rest and not any(rest.get(key) for key in PROMPT):
            rest["prompt"] = rest.pop("messages")
        return parse_plain(rest | {"completion": samples}, name)

    # Each sample is a row of its own, with what its row says of all of them.
    own = common_fields(Taker(rest), name)["id"]
    traces = []
    for i, sample in enumerate(samples):
        inner = {"completion": sample} if isinstance(sample, str) else dict(sample)
        single = {
            **rest,
            "sample": i,
            **inner,
            "id": f"{own}/{i}",
        }
        parse = parse_messages if isinstance(inner.get("messages"), list) else parse_plain
        traces += parse(single, f"{name}/{i}")

    return traces


# --- a batch of rows in one ------------------------------------------------------------------
def is_columns(row: Row) -> bool:
    """A batch of a trainer's log as columns: lists of prompts, completions and advantages.

    Without the trainer's own columns nothing says that the lists belong together.
    """
    if not any(isinstance(row.get(name), list) for name in ("advantages", "gen_step", "step")):
        return False
    prompts = row.get("prompt")
    texts = row.get("completion", row.get("response"))
    if not isinstance(prompts, list) or not isinstance(texts, list) or len(prompts) < 2:
        return False
    are_prompts = all(isinstance(prompt, str) for prompt in prompts)
    # Lists of messages are prompts too; a single conversation is a list of objects.
    are_chats = all(isinstance(prompt, list) for prompt in prompts)
    return are_prompts or are_chats


def parse_columns(row: Row, name: str) -> list[Trace]:
    """A batch as columns: the i-th entry of each list belongs to the i-th trace.

    Shape: ms-swift's `completions.jsonl` of GRPO: step, prompt, completion, one list per reward
    function, advantages.

    Raises:
        TraceError: if prompts and completions differ in number.
    """
    column = "completion" if "completion" in row else "response"
    n_prompts = len(row["prompt"])
    n_texts = len(row[column])
    if n_prompts != n_texts:
        raise TraceError(
            f"prompt is a list of {n_prompts} and {column} one of {n_texts}; give one row a prompt"
        )

    traces = []
    for i in range(n_texts):
        single = {}
        for key, value in row.items():
            is_column = isinstance(value, list) and len(value) == n_texts
            single[key] = value[i] if is_column else value

        if "id" in single and not isinstance(row["id"], list):
            single["id"] = f"{row['id']}/{i}"
        traces += parse_plain(
            _with_rewards(single, set(row)),
            f"{name}/{i}",
        )

    return traces


_NO_REWARD = frozenset(("step", "gen_step", "global_step", "id", "sample", "advantages"))


def _with_rewards(single: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """The row with its reward, where only one column of a GRPO log is one."""
    if "advantages" not in names or "reward" in names:
        return single
    rewards = []
    for key, value in single.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and key not in _NO_REWARD:
            rewards.append(key)

    return single | ({"reward": single[rewards[0]]} if len(rewards) == 1 else {})


# --- NeMo-RL ---------------------------------------------------------------------------------
_NEMO = ("generation_logprobs", "prev_logprobs", "input_lengths", "token_loss_mask", "rewards")


def is_nemo_rl(row: Row) -> bool:
    """A row of NeMo-RL's `train_data_step<N>.jsonl`: the texts of a conversation, without roles."""
    content = row.get("content")
    has_texts = isinstance(content, list) and all(isinstance(text, str) for text in content)
    return bool(content) and has_texts and sum(name in row for name in _NEMO) >= 2


def parse_nemo_rl(row: Row, name: str) -> list[Trace]:
    """A row of NeMo-RL's rollouts: prompt and completion are the two texts of `content`.

    Shape: NVIDIA NeMo RL, `algorithms/grpo.py` (log_batched_dict_as_jsonl): content, rewards,
    log-probs of prompt and completion together, which are kept in the metadata.

    Raises:
        TraceError: for more than two texts: which of them the model wrote is not said.
    """
    taker = Taker(row)
    texts = taker.rest.pop("content")
    if len(texts) != 2:
        raise TraceError(
            f"content has {len(texts)} texts without roles, so which of them the model wrote is "
            "not known; give the row 'messages' with a role each"
        )

    if "reward" not in taker.rest and not isinstance(taker.rest.get("rewards"), list):
        taker.rest["reward"] = taker.rest.pop("rewards", None)
    return parse_plain(
        taker.rest | {"prompt": texts[0], "completion": texts[1]},
        name,
    )


# --- BFCL ------------------------------------------------------------------------------------
_BFCL = ("input_token_count", "output_token_count", "latency", "inference_log", "reasoning_content")


def is_bfcl(row: Row) -> bool:
    """A result of the Berkeley Function Calling Leaderboard."""
    has_text = any(row.get(name) is not None for name in (*TEXT, "answer", "messages"))
    is_result = "id" in row and row.get("result") is not None and not has_text
    return is_result and any(name in row for name in _BFCL)


def parse_bfcl(row: Row, name: str) -> list[Trace]:
    """A result of BFCL: one trace per response of the model; no prompts.

    Shape: bfcl-eval, `model_handler/base_handler.py`: id, result (text, a list of calls, or for
    several turns a list of the responses of each), reasoning_content in the same nesting, counts
    of tokens, latency.
    """
    taker = Taker(row)
    result = taker.rest.pop("result")
    thinking = taker.rest.pop("reasoning_content", None)
    common = common_fields(taker, name)

    responses = [("", result, thinking)]
    if isinstance(result, list) and any(isinstance(turn, list) for turn in result):
        responses = _bfcl_turns(result, thinking)
    traces = []
    for place, said, thought in responses:
        fields = common | {"id": f"{common['id']}{place}"}
        fields["prompt_id"] = f"{common['prompt_id'] or common['id']}{place}"
        answer, calls = (said, []) if isinstance(said, str) else ("", said)
        if not isinstance(calls, list) or len(dicts(calls)) != len(calls):
            raise TraceError(f"result must be text or a list of calls, got {dump_json(said)[:60]}")
        text_fields = fields_of(content_text(thought), answer)
        if not thought:
            text_fields = {"completion": answer}
        if calls:
            fields["finish_reason"] = fields["finish_reason"] or "tool_calls"
        meta = taker.rest | ({"tool_calls": calls} if calls else {})
        traces.append(Trace(**text_fields, **fields, meta=meta))

    return traces


def _bfcl_turns(result: list[Any], thinking: Any) -> list[tuple[str, Any, Any]]:
    """Place, response and thinking of each step of each turn.

    Raises:
        TraceError: if the thinking is not nested as the result is.
    """
    responses = []
    for turn, steps in enumerate(result):
        steps = steps if isinstance(steps, list) else [steps]
        thoughts = thinking[turn] if isinstance(thinking, list) and turn < len(thinking) else None
        if thinking is not None and (not isinstance(thoughts, list) or len(thoughts) != len(steps)):
            raise TraceError(
                f"reasoning_content has not one thought for each response of turn {turn} in "
                "result; give each response a row of its own"
            )

        for step, said in enumerate(steps):
            thought = thoughts[step] if thoughts is not None else None
            responses.append((f"/turn-{turn}/step-{step}", said, thought))

    return responses
