"""What verifiers and prime-rl write of their rollouts.

prime-rl writes the traces of a step twice: `rollouts/step_<N>/train/all/traces.jsonl` has all of
them, `.../effective/traces.jsonl` those that it trained on. The same trace counts once, as it
stands in the file that is read first.
"""

from collections.abc import Sequence
from typing import Any

from cotlens.formats.blocks import trace_of_message
from cotlens.formats.chat import parse_plain
from cotlens.formats.content import prompt_text, without_nulls
from cotlens.formats.fields import dicts, number_or_none, objects, text_or_empty
from cotlens.formats.finish import changed_finish, read_finish
from cotlens.formats.rows import Row
from cotlens.trace import Trace, TraceError


def is_verifiers(row: Row) -> bool:
    """An episode with its traces, or one trace: a graph of messages."""
    if isinstance(row.get("nodes"), list):
        return "task" in row and all("message" in node for node in dicts(row["nodes"]))
    if "env" not in row or not isinstance(row.get("traces"), list):
        return False
    return all("nodes" in trace for trace in dicts(row["traces"]))


def parse_verifiers(row: Row, name: str) -> list[Trace]:
    """A row of `traces.jsonl` of verifiers or prime-rl: one trace per message that the model made.

    Shape: verifiers 0.4.0, `v1/episode.py`, `v1/trace.py` and `v1/graph.py`; earlier rows are one
    trace without its episode. A conversation is the path from a message to its root; a message's
    own tokens begin with what the template put before it, which belongs to the prompt. Only the
    sampled tokens have log-probs. The reward is that of the whole trace; its last message carries
    it.
    """
    if "traces" not in row:
        return _traces_of_graph(row, name, {})
    graphs = objects(row["traces"], "traces")
    if not graphs:
        raise TraceError(f"the episode has no trace ({_first_error(row)})")
    around = {key: value for key, value in row.items() if key != "traces"}
    traces = []
    for graph in graphs:
        traces += _traces_of_graph(graph, name, around)

    return traces


def _first_error(row: Row) -> str:
    errors = dicts(row.get("errors"))
    if not errors:
        return "it reports no error"
    return f"{errors[0].get('type')}: {errors[0].get('message')}"


def _traces_of_graph(row: Row, name: str, around: Row) -> list[Trace]:
    """The traces of one graph; `around` is the episode without its traces."""
    nodes = objects(row["nodes"], "nodes")
    sampled = [i for i, node in enumerate(nodes) if node.get("sampled")]
    if not sampled:
        raise TraceError(f"no message of the trace was made by a model ({_first_error(row)})")
    calls = {}
    for call in dicts(row.get("calls")):
        if call.get("node") is not None:
            calls[call["node"]] = call

    shared = _shared_fields(row, around)
    task_key = _key_of_task(row)
    graph_id = str(row.get("id") or name)
    rest = {key: row[key] for key in row if key not in ("nodes", "calls", "id")}

    traces = []
    for number, i in enumerate(sampled):
        path = _path_to(nodes, i)
        token_fields, meta = _node_tokens(nodes, path)
        call = calls.get(i, {})
        is_last = number == len(sampled) - 1
        earlier = [without_nulls(nodes[j]["message"]) for j in path[:-1]]
        fields = shared | token_fields
        fields["id"] = graph_id if len(sampled) == 1 else f"{graph_id}/turn-{number}"
        fields["model"] = text_or_empty(call.get("model"))
        fields["finish_reason"] = read_finish(call.get("finish_reason"))

        # The first turns of one task's samples share their prompt; later ones follow what the
        # sample said before. The reward is the whole trace's.
        fields["prompt_id"] = task_key if number == 0 else ""
        meta |= changed_finish(call.get("finish_reason"))
        if "entropies" in meta:
            meta["stamped_by"] = _trainer_of(around)
        if is_last:
            meta |= rest | {"prompt_messages": earlier}
            meta |= {"episode": dict(around)} if around else {}
        else:
            fields["reward"] = None

        if call:
            used = ("node", "model", "finish_reason")
            meta["call"] = {key: call[key] for key in call if key not in used}

        message = _provider_marked(nodes[i])
        traces.append(
            trace_of_message(
                message,
                prompt_text(earlier),
                fields,
                meta,
            )
        )

    return traces


def _key_of_task(row: Row) -> str:
    task = row["task"]
    if not isinstance(task, dict):  # the name of the task
        return ""
    return text_or_empty(task.get("key") or task.get("hash"))


def _trainer_of(around: Row) -> str:
    """Who stamped numbers on the tokens: prime-rl is the trainer whose runs are of type train."""
    return "prime-rl" if (around.get("run") or {}).get("type") == "train" else "verifiers"


def _shared_fields(row: Row, around: Row) -> dict[str, Any]:
    """Step, domain, gold answer and reward of a graph."""
    task = row["task"] if isinstance(row["task"], dict) else {}
    data = task.get("data") if isinstance(task.get("data"), dict) else {}
    work = (around.get("run") or {}).get("work") or {}
    return {
        "training_step": work["step"] if isinstance(work.get("step"), int) else -1,
        "split": "evaluation" if work.get("type") == "eval" else "",
        "domain": text_or_empty((around.get("env") or {}).get("id")),
        "gold": text_or_empty((data or {}).get("answer")),
        "reward": _reward_of(row.get("rewards") or {}),
    }


def _reward_of(rewards: Any) -> float | None:
    """The weighted sum of the rewards that were given; None without any."""
    if not isinstance(rewards, dict):
        raise TraceError(
            f"rewards must be an object of name to reward, got {type(rewards).__name__}"
        )

    total = None
    for name, reward in rewards.items():
        if reward is None:
            continue
        score, weight = reward, 1.0
        if isinstance(reward, dict):
            score, weight = reward.get("score"), reward.get("weight", 1.0)
        value = number_or_none(score, f"rewards.{name}")
        if value is not None:
            total = (total or 0.0) + value * weight

    return total


def _path_to(nodes: Sequence[Row], i: int) -> list[int]:
    """The messages from the root to this one."""
    path = [i]
    while (parent := nodes[path[-1]].get("parent")) is not None:
        if not 0 <= parent < path[-1]:
            raise TraceError(
                f"node {path[-1]} has the parent {parent}, which does not come before it"
            )

        path.append(parent)

    return path[::-1]


def _provider_marked(node: Row) -> Row:
    """The message; encrypted thoughts in its provider's own items are marked as such."""
    message = without_nulls(node["message"])
    hidden = []
    for item in dicts(message.get("provider_state")):
        if item.get("encrypted_content") or item.get("data"):
            hidden.append(item)

    if hidden and not message.get("reasoning_content"):
        message["reasoning_details"] = [{"type": "reasoning.encrypted"}]
    elif any(item.get("summary") for item in hidden):
        summary = message.pop("reasoning_content")
        message["reasoning_details"] = [{"type": "reasoning.summary", "summary": summary}]

    return message


_PER_TOKEN = ("entropies", "advantages", "reference_logprobs", "trainer_logprobs")


def _node_tokens(
    nodes: Sequence[Row], path: Sequence[int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ids of the sampled tokens, ids before them, log-probs; and metadata.

    The metadata holds the other numbers per token.
    """
    node = nodes[path[-1]]
    ids = node.get("token_ids") or []
    mask = node.get("mask") or []
    fields: dict[str, Any] = dict.fromkeys(("token_ids", "prompt_token_ids", "logprobs"))
    if not ids:
        return fields, {key: node[key] for key in ("logprobs",) if node.get(key)}
    if len(ids) != len(mask):
        raise TraceError(
            f"node {path[-1]} has {len(ids)} token_ids and {len(mask)} entries of mask"
        )

    before = []
    for j in path[:-1]:
        before += nodes[j].get("token_ids") or []

    sampled = []
    for token, is_sampled in zip(ids, mask, strict=True):
        (sampled if is_sampled else before).append(token)

    logprobs = node.get("logprobs") or None
    if logprobs is not None and len(logprobs) != len(sampled):
        raise TraceError(
            f"node {path[-1]} has {len(sampled)} sampled tokens and {len(logprobs)} log-probs"
        )

    stamped = {key: node[key] for key in _PER_TOKEN if node.get(key) is not None}
    for key, numbers in stamped.items():
        if len(numbers) != len(sampled):
            raise TraceError(
                f"node {path[-1]} has {len(sampled)} sampled tokens and {len(numbers)} {key}"
            )

    fields["token_ids"] = tuple(sampled)
    fields["prompt_token_ids"] = tuple(before)
    if logprobs is not None:
        fields["logprobs"] = tuple(map(float, logprobs))
    return fields, stamped


def parse_verifiers_results(row: Row, name: str) -> list[Trace]:
    """A row of `results.jsonl` of verifiers before 0.4: lists of messages, one row per rollout.

    Shape: `verifiers/utils/save_utils.py` of verifiers 0.1 (`state_to_rollout_output`).
    """
    return parse_plain(
        {"prompt_id": str(row["example_id"]), **row},
        name,
    )
