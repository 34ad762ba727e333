"""What verifiers and prime-rl write of their rollouts.

prime-rl writes the traces of a step twice: `rollouts/step_<N>/train/all/traces.jsonl` has all of
them, `.../effective/traces.jsonl` those that it trained on. The same trace counts once, as it
stands in the file that is read first.
"""

from collections.abc import Sequence
from typing import Any

from cotlens.formats.blocks import trace_of_message
from cotlens.formats.chat import parse_plain
from cotlens.formats.content import prompt_text, read_message
from cotlens.formats.fields import dicts, finite_or_none, objects, text_or_empty
from cotlens.formats.finish import changed_finish, read_finish
from cotlens.formats.rows import Row
from cotlens.trace import Trace, TraceError


def is_verifiers(row: Row) -> bool:
    """An episode with its traces, or one trace: a graph of messages."""
    nodes = row.get("nodes")
    if isinstance(nodes, list):
        has_messages = all("message" in node for node in dicts(nodes))
        return "task" in row and has_messages

    traces = row.get("traces")
    if "env" not in row or not isinstance(traces, list):
        return False
    return all("nodes" in trace for trace in dicts(traces))


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
    first = errors[0]
    return f"{first.get('type')}: {first.get('message')}"


def _traces_of_graph(row: Row, name: str, around: Row) -> list[Trace]:
    """The traces of one graph; `around` is the episode without its traces."""
    nodes = objects(row["nodes"], "nodes")
    sampled = [i for i, node in enumerate(nodes) if node.get("sampled")]
    if not sampled:
        raise TraceError(f"no message of the trace was made by a model ({_first_error(row)})")
    calls = {}
    for call in dicts(row.get("calls")):
        node = call.get("node")
        if node is not None:
            calls[node] = call

    # What all turns share.
    shared = _shared_fields(row, around)
    task_key = _key_of_task(row)
    graph_id = str(row.get("id") or name)
    rest = {key: row[key] for key in row if key not in ("nodes", "calls", "id")}

    traces = []
    for number, i in enumerate(sampled):
        path = _path_to(nodes, i)
        earlier = [read_message(nodes[j]["message"]) for j in path[:-1]]
        token_fields, meta = _node_tokens(nodes, path)
        if "entropies" in meta:
            meta["stamped_by"] = _trainer_of(around)

        # What the record of the call says of this turn.
        call = dict(calls.get(i, {}))
        call.pop("node", None)
        finish = call.pop("finish_reason", None)
        fields = shared | token_fields
        fields["model"] = text_or_empty(call.pop("model", None))
        fields["finish_reason"] = read_finish(finish)
        meta |= changed_finish(finish)
        if i in calls:
            meta["call"] = call

        # The first turns of one task's samples share their prompt; later ones follow what the
        # sample said before.
        fields["id"] = f"{graph_id}/turn-{number}" if len(sampled) > 1 else graph_id
        fields["prompt_id"] = task_key if number == 0 else ""

        # Reward and metadata are the whole trace's, and stand at its last message.
        if i == sampled[-1]:
            meta |= rest
            meta["prompt_messages"] = earlier
            if around:
                meta["episode"] = dict(around)
        else:
            fields["reward"] = None

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
    run = around.get("run") or {}
    return "prime-rl" if run.get("type") == "train" else "verifiers"


def _shared_fields(row: Row, around: Row) -> dict[str, Any]:
    """Step, domain, gold answer and reward of a graph."""
    task = row["task"]
    data = task.get("data") if isinstance(task, dict) else None
    gold = data.get("answer") if isinstance(data, dict) else None

    # prime-rl's run says at which step, and for what, the episode was made.
    run = around.get("run") or {}
    work = run.get("work") or {}
    step = work.get("step")
    environment = around.get("env") or {}
    return {
        "training_step": step if isinstance(step, int) else -1,
        "split": "evaluation" if work.get("type") == "eval" else "",
        "domain": text_or_empty(environment.get("id")),
        "gold": text_or_empty(gold),
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

        # A number, or a score with its weight.
        score = reward
        weight = 1.0
        if isinstance(reward, dict):
            score = reward.get("score")
            weight = reward.get("weight", 1.0)
        value = finite_or_none(score, f"rewards.{name}")
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
    message = read_message(node["message"])
    hidden = []
    for item in dicts(message.get("provider_state")):
        if item.get("encrypted_content") or item.get("data"):
            hidden.append(item)

    # In the shape of OpenRouter, which says of each item what it is.
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

    # All tokens before the message, and those of it that the template put there, are the prompt's.
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

    # Numbers that a trainer stamped, one for each sampled token.
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
