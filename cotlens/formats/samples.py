"""Rows that hold several samples, or a whole batch, and rows of benchmarks in shapes of their own.

Each function names the source of its shape.
"""

from collections.abc import Mapping
from typing import Any

from cotlens.formats.chat import is_whole, parse_messages, parse_plain
from cotlens.formats.content import content_text
from cotlens.formats.fields import (
    PROMPT,
    TEXT,
    THINK,
    Taker,
    common_fields,
    dicts,
    fields_of,
    is_thought,
)
from cotlens.formats.rows import Row
from cotlens.formats.taken import message_of
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
        if not isinstance(values, list) or not values:
            continue
        # Outputs with token ids are an engine's.
        is_engine = any("token_ids" in output for output in dicts(values))
        if is_engine and name == "outputs":
            continue
        if all(map(_is_sample, values)):
            return name

    return ""


def _is_sample(value: Any) -> bool:
    if isinstance(value, str):
        return True
    if not isinstance(value, Mapping):
        return False
    names = (*TEXT, *THINK, "messages", "message")
    given = [value.get(name) for name in names]
    return any(text is not None for text in given)


def parse_samples(row: Row, name: str) -> list[Trace]:
    """One trace for each sample of a row: OpenR1's `generations`, and its like.

    Shape: open-r1/OpenR1-Math-220k: problem, answer, generations, finish_reasons, and messages
    that repeat one of the generations. `finish_reasons` and `rewards` of the same length say
    something of each sample.
    """
    field = samples_field(row)
    rest = dict(row)
    samples = [message_of(sample) for sample in rest.pop(field)]
    has_prompt = any(rest.get(key) for key in PROMPT)
    messages = dicts(rest.get("messages"))

    # Messages next to a prompt repeat a sample; without one they are the prompt.
    if has_prompt and messages and messages[-1].get("content") in samples:
        rest.pop("messages")
    if all(isinstance(sample, str) for sample in samples):
        if messages and not has_prompt:
            rest["prompt"] = rest.pop("messages")
        rest["completion"] = samples
        return parse_plain(rest, name)

    # Each sample is a row of its own, with what its row says of all of them.
    row_id = common_fields(Taker(rest), name)["id"]
    traces = []
    for i, sample in enumerate(samples):
        inner = sample
        if isinstance(sample, str):
            inner = {"completion": sample}

        single = rest | {"sample": i}
        single |= inner
        single["id"] = f"{row_id}/{i}"
        is_chat = isinstance(inner.get("messages"), list)
        parse = parse_messages if is_chat else parse_plain
        traces += parse(single, f"{name}/{i}")

    return traces


# --- a batch of rows in one ------------------------------------------------------------------
def is_columns(row: Row) -> bool:
    """A batch of a trainer's log as columns: lists of prompts, completions and advantages.

    Without the trainer's own columns nothing says that the lists belong together.
    """
    marks = [row.get(name) for name in ("advantages", "gen_step", "step")]
    if not any(isinstance(mark, list) for mark in marks):
        return False
    prompts = row.get("prompt")
    texts = row.get("completion", row.get("response"))
    if not isinstance(prompts, list) or not isinstance(texts, list):
        return False

    # Lists of messages are prompts too; a single conversation is a list of objects.
    kinds = {type(prompt) for prompt in prompts}
    return len(prompts) > 1 and kinds in ({str}, {list})


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

        # An id of the whole batch is not that of one of its rows.
        if "id" in row and not isinstance(row["id"], list):
            single["id"] = f"{row['id']}/{i}"
        single = _with_reward(single)
        traces += parse_plain(single, f"{name}/{i}")

    return traces


_NO_REWARD = frozenset(("step", "gen_step", "global_step", "id", "sample", "advantages"))


def _with_reward(single: dict[str, Any]) -> dict[str, Any]:
    """The row with its reward, where only one column of a GRPO log is one."""
    if "advantages" not in single or "reward" in single:
        return single

    # The columns of reward functions have the names of these.
    rewards = []
    for key, value in single.items():
        if type(value) in (int, float) and key not in _NO_REWARD:
            rewards.append(value)
    if len(rewards) != 1:
        return single
    return single | {"reward": rewards[0]}


# --- NeMo-RL ---------------------------------------------------------------------------------
_NEMO = ("generation_logprobs", "prev_logprobs", "input_lengths", "token_loss_mask", "rewards")


def is_nemo_rl(row: Row) -> bool:
    """A row of NeMo-RL's `train_data_step<N>.jsonl`: the texts of a conversation, without roles."""
    content = row.get("content")
    if not isinstance(content, list):
        return False

    # A message's content may be a list of texts too; two of the trainer's columns tell.
    kinds = {type(text) for text in content}
    if kinds != {str}:
        return False
    marks = [name for name in _NEMO if name in row]
    return len(marks) >= 2


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

    # One number, under the name of the batch's column.
    if "reward" not in taker.rest and not isinstance(taker.rest.get("rewards"), list):
        taker.rest["reward"] = taker.rest.pop("rewards", None)
    taker.rest["prompt"] = texts[0]
    taker.rest["completion"] = texts[1]
    return parse_plain(taker.rest, name)


# --- BFCL ------------------------------------------------------------------------------------
_BFCL = ("input_token_count", "output_token_count", "latency", "inference_log", "reasoning_content")


def is_bfcl(row: Row) -> bool:
    """A result of the Berkeley Function Calling Leaderboard."""
    if "id" not in row or row.get("result") is None:
        return False

    # Next to a text of the row's own, a result is something else.
    texts = [row.get(name) for name in (*TEXT, "answer", "messages")]
    if any(text is not None for text in texts):
        return False
    return any(name in row for name in _BFCL)


def parse_bfcl(row: Row, name: str) -> list[Trace]:
    """A result of BFCL: one trace per response of the model; no prompts.

    Shape: bfcl-eval, `model_handler/base_handler.py`: id, result (text, a list of calls, or for
    several turns a list of the responses of each), reasoning_content in the same nesting, counts
    of tokens, latency.
    """
    taker = Taker(row)
    result = taker.rest.pop("result")
    thinking = taker.thinking()
    common = common_fields(taker, name)

    # One response, or the responses of each turn.
    responses = [("", result, thinking)]
    if isinstance(result, list) and list in {type(turn) for turn in result}:
        responses = _bfcl_turns(result, thinking)
    traces = []
    for place, response, thought in responses:
        fields: dict[str, Any] = dict(common)
        prompt_id = common["prompt_id"] or common["id"]
        fields["id"] = common["id"] + place
        fields["prompt_id"] = prompt_id + place
        fields["meta"] = taker.rest

        # A response is a text, or calls of tools.
        answer = response
        if not isinstance(response, str):
            answer = ""
            fields["meta"] = taker.rest | {"tool_calls": _bfcl_calls(response)}
            fields["finish_reason"] = common["finish_reason"] or "tool_calls"

        # Without a thought next to it, the text may hold one.
        fields["completion"] = answer
        said = content_text(thought) if is_thought(thought) else ""
        if said and is_whole(answer, said, "", common["model"]):
            fields["meta"] = fields["meta"] | {"thinking": said}
        elif said:
            fields |= fields_of(said, answer)
        traces.append(Trace(**fields))

    return traces


def _bfcl_calls(said: Any) -> list[Row]:
    """The calls of tools of a response that is no text."""
    if not isinstance(said, list) or len(dicts(said)) != len(said):
        got = dump_json(said)
        raise TraceError(f"result must be text or a list of calls, got {got[:60]}")
    return said


def _bfcl_turns(result: list[Any], thinking: Any) -> list[tuple[str, Any, Any]]:
    """Place, response and thinking of each step of each turn.

    Raises:
        TraceError: if the thinking is not nested as the result is.
    """
    responses = []
    for turn, steps in enumerate(result):
        if not isinstance(steps, list):
            steps = [steps]
        thoughts: Any = [None] * len(steps)
        if thinking is not None:
            # A list for each turn, as in the result.
            has_turn = isinstance(thinking, list) and turn < len(thinking)
            thoughts = thinking[turn] if has_turn else None
        if not isinstance(thoughts, list) or len(thoughts) != len(steps):
            raise TraceError(
                f"reasoning_content has not one thought for each response of turn {turn} in "
                "result; give each response a row of its own"
            )

        for step, said in enumerate(steps):
            place = f"/turn-{turn}/step-{step}"
            responses.append((place, said, thoughts[step]))

    return responses
