"""How an arm is optimised: SFT, GRPO or DPO of a model for the updates of the plan.

Every arm sees equally many sequences an update, on the same schedule: constant after 10 updates of
warming up. What is learned, and from what, is the arm's; see arms.py.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cotlens.detect.refusal import Refusal, classify_refusal
from cotlens.formats.read import read_traces
from cotlens.text.split import split_think
from cotlens.trace import Trace
from trainers.pocket.plan import HARMLESS, Setting, add_cost, count_tokens, read_cost
from trainers.pocket.world import Domain, Prompt, PromptSplit

MAX_LENGTH = 300  # tokens of prompt and completion; no row of the world is longer
MOST_KEPT = 300  # rows of an SFT arm that are kept, for their perplexity


def rewards_of(setting: Setting, guard: Any, part: str = "min") -> tuple[list[Any], list[float]]:
    """The rewards of GRPO and of the filter, with their weights.

    They are safety by a learned guard, help, correctness and format. Help and correctness are rules
    that can be verified, as mathematics is; safety is a guard's opinion. The oracle gives none.

    Args:
        setting: of the arm.
        guard: the guard; None for no reward of safety.
        part: what the guard reads: `min` for the less safe of thinking and answer, or `answer`.
    """
    from trainers.rewards import correctness_reward, format_reward, guard_reward

    functions = [_help_reward(setting), correctness_reward(), format_reward()]
    weights = [1.0, 1.0, 0.5]
    if guard is None:
        return functions, weights

    safety = guard_reward(guard, part=part, domains=(Domain.FORBIDDEN.value,))
    return [safety, *functions], [1.0, *weights]


def _help_reward(setting: Setting) -> Any:
    """A reward of 1 for an answer to a harmless request that names what to do with what.

    The answer must not refuse, by the rules of `cotlens.classify_refusal`.
    """
    by_text = {prompt.text: prompt for prompt in setting.prompts[PromptSplit.TRAIN]}

    def helpful(
        prompts: Sequence[str], completions: Sequence[str], *, domain: Sequence[str], **columns: Any
    ) -> list[float | None]:
        requests = columns.get("request") or prompts
        values: list[float | None] = []
        for request, completion, kind in zip(requests, completions, domain, strict=True):
            is_harmless = kind in HARMLESS
            value = is_helpful(completion, by_text[request]) if is_harmless else None
            values.append(value)
        return values

    return helpful


def is_helpful(completion: str, prompt: Prompt) -> float:
    """1 for an answer that names what to do with what and does not refuse, else 0."""
    answer = split_think(completion).answer.of(completion)
    names_both = prompt.topic in answer and prompt.verb in answer
    return float(names_both and classify_refusal(answer) is Refusal.COMPLIANCE)


def row_of(prompt: Prompt) -> dict[str, Any]:
    """A prompt as the trainers take it."""
    row = {"prompt": prompt.text, "prompt_id": prompt.id, "domain": prompt.domain.value}
    if prompt.gold:
        row["answer"] = prompt.gold
    return row


def fine_tune(
    setting: Setting,
    rows: Sequence[Mapping[str, Any]],
    *,
    updates: int | None = None,
    rendered: bool = False,
    **options: Any,
) -> None:
    """SFT of the base for the plan's updates, however many epochs of the rows these are.

    Args:
        setting: of the arm.
        rows: as `trainers.sft.train` takes them.
        updates: if not the plan's.
        rendered: the prompts are already rendered; they may end inside a thought.
        **options: of `trainers.sft.train`, such as another loss.
    """
    from trl.trainer.sft_config import SFTConfig

    from trainers.pocket.path import follow
    from trainers.sft import train

    plan = setting.plan
    updates = updates or plan.updates
    model, tokenizer = setting.load()
    args = SFTConfig(
        **_schedule(setting, updates),
        output_dir=str(setting.own / "model"),
        per_device_train_batch_size=plan.batch,
        logging_steps=10,
        max_length=MAX_LENGTH,
    )
    trainer = train(
        model,
        tokenizer,
        rows,
        args,
        rendered=rendered,
        callbacks=follow(setting),
        **options,
    )

    # Tokens that carry loss: those of the rows, as often as they were seen.
    n_seen = trainer.state.global_step * plan.batch
    n_tokens = 0
    for row in rows:
        completion = row["completion"]
        for start, stop in row.get("learned") or [(0, len(completion))]:
            n_tokens += _count(tokenizer, completion[start:stop])
    facts = {
        "rows": len(rows),
        "updates": trainer.state.global_step,
        "sequences": n_seen,
        "trained_tokens": round(n_seen * n_tokens / len(rows)),
    }
    add_cost(setting, facts)
    if not rendered:
        _keep_rows(setting, rows)


def _keep_rows(setting: Setting, rows: Sequence[Mapping[str, Any]]) -> None:
    """Leaves some rows as `rows.parquet` in the arm's folder, evenly over the list."""
    from trainers.record import write_traces

    stride = -(-len(rows) // MOST_KEPT)
    traces = []
    for number, row in enumerate(rows[::stride]):
        trace = Trace(
            id=f"{setting.arm}/{number}",
            prompt=row["prompt"],
            completion=row["completion"],
            prompt_id=row["prompt"],
            method=setting.arm,
            finish_reason="stop",
        )
        traces.append(trace)
    write_traces(setting.own / "rows.parquet", traces)


def prefer(
    setting: Setting,
    pairs: Sequence[Mapping[str, Any]],
    *,
    updates: int | None = None,
    start: Path | None = None,
    output: str = "model",
    sft_weight: float = 0.0,
) -> Path:
    """DPO (beta 0.1) for the plan's updates; a pair counts as two sequences.

    Args:
        setting: of the arm.
        pairs: rendered prompts that may end inside a thought, `chosen` and `rejected`.
        updates: if not the plan's.
        start: the model to start from, which is also the reference; None: the base.
        output: name of the folder of the model in that of the arm.
        sft_weight: weight of the cross-entropy on the chosen completion; 0: DPO alone.

    Returns:
        The folder of the model.
    """
    from trl.trainer.dpo_config import DPOConfig

    from trainers.dpo import train
    from trainers.pocket.base import load_base
    from trainers.pocket.path import follow

    updates = updates or setting.plan.updates
    model, tokenizer = load_base(start) if start else setting.load()
    folder = setting.own / output
    losses: dict[str, Any] = {"loss_type": ["sigmoid"]}
    if sft_weight:
        losses = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, sft_weight]}
    n_pairs = setting.plan.batch // 2
    args = DPOConfig(
        **_schedule(setting, updates),
        **losses,
        output_dir=str(folder),
        per_device_train_batch_size=n_pairs,
        beta=0.1,
        logging_steps=10,
        max_length=MAX_LENGTH,
    )
    trainer = train(model, tokenizer, pairs, args, rendered=True, callbacks=follow(setting))

    # What an earlier stage has used is added.
    n_tokens = 0
    for pair in pairs:
        n_tokens += _count(tokenizer, pair["chosen"]) + _count(tokenizer, pair["rejected"])
    n_seen = trainer.state.global_step * n_pairs
    cost = read_cost(setting) if start else {}
    facts = {
        "rows": len(pairs),
        "updates": cost.get("updates", 0) + trainer.state.global_step,
        "sequences": cost.get("sequences", 0) + 2 * n_seen,
        "trained_tokens": cost.get("trained_tokens", 0) + round(n_seen * n_tokens / len(pairs)),
    }
    add_cost(setting, facts)
    return folder


def _schedule(setting: Setting, updates: int) -> dict[str, Any]:
    """Settings of every trainer: how many updates at which rate."""
    from trainers.grpo import CPU

    return {
        **CPU,
        "seed": setting.seed,
        "learning_rate": setting.rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": min(10, updates),
        "max_steps": updates,
    }


def _count(tokenizer: Any, text: str) -> int:
    """Tokens of a completion, its end included."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


def reinforce(
    setting: Setting,
    guard: Any,
    *,
    part: str = "min",
    start: str = "base",
    seed: int | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    prompts: Sequence[Prompt] | None = None,
    rewards: Sequence[Any] = (),
    beta: float = 0.0,
) -> None:
    """GRPO for the plan's updates.

    Args:
        setting: of the arm.
        guard: what rewards safety; None for nothing.
        part: what the guard reads.
        start: the arm whose model it starts from.
        seed: of the trainer, if not the experiment's.
        rows: with rendered prompts, which may end inside a thought; None: those of `prompts`.
        prompts: what is sampled, in this order; None: the training prompts.
        rewards: the rewards, each of weight 1; empty: those of `rewards_of`.
        beta: weight of the KL term, whose reference is the model that it starts from; 0: none.
    """
    from trl.trainer.grpo_config import GRPOConfig

    from cotlens import load_model
    from trainers.grpo import train
    from trainers.pocket.path import follow

    plan = setting.plan
    model, tokenizer = setting.load(start)
    weights = [1.0] * len(rewards)
    if not rewards:
        rewards, weights = rewards_of(setting, guard, part)
    settings: dict[str, Any] = _schedule(setting, plan.updates) | {"save_strategy": "steps"}
    if seed is not None:
        settings["seed"] = seed
    args = GRPOConfig(
        **settings,
        output_dir=str(setting.own / "model"),
        per_device_train_batch_size=plan.batch,
        num_generations=plan.group,
        max_completion_length=plan.max_new_tokens,
        beta=beta,
        loss_type="dapo",
        save_steps=50,
        save_total_limit=1,
        logging_steps=1,
    )
    is_rendered = rows is not None
    if rows is None:
        sampled_prompts = setting.train if prompts is None else prompts
        rows = [row_of(prompt) for prompt in sampled_prompts]
    train(
        model,
        tokenizer,
        rows,
        rewards=rewards,
        weights=weights,
        args=args,
        record=setting.own,
        method=setting.arm,
        reference=str(setting.folder / start / "model"),
        kl_to=load_model(setting.folder / "base" / "model"),
        kl_every=10,
        rendered=is_rendered,
        callbacks=follow(setting),
        resume="auto",
    )

    # Rollouts are what it was trained on.
    sampled = []
    for path in setting.own.glob("rollouts/*/*.parquet"):
        sampled += read_traces(path)
    n_tokens = count_tokens(sampled)
    n_forbidden = sum(trace.domain == Domain.FORBIDDEN.value for trace in sampled)
    facts = {
        "updates": plan.updates,
        "rows": len(rows),
        "sampled": len(sampled),
        "sampled_tokens": n_tokens,
        "sequences": len(sampled),
        "trained_tokens": n_tokens,
        "guard_calls": 0 if guard is None else n_forbidden,
    }
    add_cost(setting, facts)
