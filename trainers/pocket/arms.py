"""The arms of the pocket experiment: each a function that leaves a model behind."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from cotlens.formats.read import read_traces
from cotlens.text.split import request_of
from cotlens.trace import Trace
from trainers.pocket.oracle import read_truth
from trainers.pocket.plan import HARMLESS, SETS, Setting, add_cost, count_tokens
from trainers.pocket.tune import pick_rates
from trainers.pocket.world import Domain, Prompt, PromptSplit


def rewards_of(setting: Setting, part: str = "min") -> tuple[list[Any], list[float]]:
    """The rewards of GRPO and of the filter, with their weights.

    They are safety by the learned guard, help, correctness and format. Help and correctness are
    rules that can be verified, as mathematics is; safety is a guard's opinion.

    Args:
        setting: of the arm.
        part: what the guard reads: `min` for the less safe of thinking and answer, `answer`, or
            `none`.
    """
    from trainers.rewards import correctness_reward, format_reward, guard_reward

    by_text = {prompt.text: prompt for prompt in setting.prompts[PromptSplit.TRAIN]}

    def helpful(
        prompts: Sequence[str], completions: Sequence[str], *, domain: Sequence[str], **columns: Any
    ) -> list[float | None]:
        """1 where a harmless request is answered as in the world; None for other prompts."""
        requests = columns.get("request") or prompts
        rows = zip(requests, completions, domain, strict=True)
        return [
            float(read_truth(text, by_text[request]).is_help) if kind in HARMLESS else None
            for request, text, kind in rows
        ]

    functions, weights = [helpful, correctness_reward(), format_reward()], [1.0, 1.0, 0.5]
    if part == "none":
        return functions, weights
    return [
        guard_reward(setting.guard(), part=part, domains=(Domain.FORBIDDEN.value,)),
        *functions,
    ], [1.0, *weights]


def row_of(prompt: Prompt) -> dict[str, Any]:
    """A prompt as the trainers take it."""
    gold = {"answer": prompt.gold} if prompt.gold else {}
    return {"prompt": prompt.text, "prompt_id": prompt.id, "domain": prompt.domain.value} | gold


def train_base(setting: Setting) -> None:
    """The base model, from scratch, on the base policy's traces; the guard, on its samples."""
    from trainers.pocket import base
    from trainers.pocket.guard import fit_guard, guard_prompts

    scale = base.TINY if setting.plan.tiny else base.POCKET
    held_out = frozenset(
        prompt.text for parts in SETS.values() for part in parts for prompt in setting.prompts[part]
    )
    base.train_base(
        setting.own / "model",
        seed=setting.seed,
        scale=scale,
        prompts_seed=setting.seed,
        held_out=held_out,
    )
    prompts = guard_prompts(setting.seed)
    prompts = [prompt for prompt in prompts if prompt.text not in held_out][
        : 8 if setting.plan.tiny else None
    ]
    traces = base.sample(
        *setting.load(), prompts, seed=setting.seed + 2, max_new_tokens=setting.plan.max_new_tokens
    )
    fit_guard(traces, prompts, setting.seed).save(setting.own / "guard.json")


def train_teacher_sft(setting: Setting) -> None:
    """SFT on an external teacher's safe traces for forbidden requests, and nothing else."""
    _fine_tune(setting, _teach(setting, (Domain.FORBIDDEN,)))


def train_teacher_mixed_sft(setting: Setting) -> None:
    """SFT on the teacher's traces for all of GRPO's prompts: sums and harmless requests too."""
    _fine_tune(setting, _teach(setting, tuple(Domain)))


def _teach(setting: Setting, domains: Sequence[Domain]) -> list[dict[str, str]]:
    """As many traces of the teacher as the plan trains on, of these prompts in turn."""
    import random

    from trainers.pocket.policy import write_teacher

    rng = random.Random(f"teacher {setting.seed}")
    prompts = [prompt for prompt in setting.prompts[PromptSplit.TRAIN] if prompt.domain in domains]
    n = setting.plan.updates * setting.plan.prompts_per_step * setting.plan.group
    chosen = (prompts[i % len(prompts)] for i in range(n))
    return [
        {"prompt": prompt.text, "completion": write_teacher(prompt, rng).text} for prompt in chosen
    ]


REFUSAL = (
    "<think>\nI should not help with that.\n</think>\n\nI'm sorry, but I can't help you {v} {t}."
)


def train_refusal_sft(setting: Setting) -> None:
    """SFT on direct refusals of forbidden requests.

    The thought is a fixed line, as in DirectRefusal.
    """
    prompts = [
        prompt for prompt in setting.prompts[PromptSplit.TRAIN] if prompt.domain is Domain.FORBIDDEN
    ]
    rows = [{"prompt": p.text, "completion": REFUSAL.format(v=p.verb, t=p.topic)} for p in prompts]
    _fine_tune(setting, rows)


def train_self_sft(setting: Setting) -> None:
    """SFT on the base's own samples whose thinking and answer the guard calls safe.

    This is ThinkSafe without steering. The requests are forbidden and harmless, with no sums;
    nothing checks whether a harmless request is helped.
    """
    from trainers.rewards import guard_reward

    domains = tuple(domain.value for domain in Domain if domain is not Domain.MATHS)
    _filter(
        setting, [guard_reward(setting.guard(), part="min", scale="hard", domains=domains)], domains
    )


def train_filtered_sft(setting: Setting) -> None:
    """SFT on the base's own samples that earn every reward.

    Prompts, samples per prompt and rewards are exactly GRPO's.
    """
    _filter(setting, rewards_of(setting)[0], tuple(Domain))


def _filter(setting: Setting, functions: Sequence[Any], domains: Sequence[str]) -> None:
    """SFT on the base's samples for GRPO's prompts of these domains.

    A reward counts as earned from 1/2 on.
    """
    traces = [trace for trace in _pool(setting) if trace.domain in domains]
    columns = {"domain": [t.domain for t in traces], "answer": [t.gold or None for t in traces]}
    texts = {
        "prompts": [request_of(t) for t in traces],
        "completions": [t.completion for t in traces],
    }
    given = [function(**texts, **columns) for function in functions]
    kept = [
        trace
        for trace, values in zip(traces, zip(*given, strict=True), strict=True)
        if trace.finish_reason == "stop" and all(value is None or value >= 0.5 for value in values)
    ]
    add_cost(
        setting, {"sampled": len(traces), "kept": len(kept), "sampled_tokens": count_tokens(traces)}
    )
    _fine_tune(
        setting, [{"prompt": request_of(trace), "completion": trace.completion} for trace in kept]
    )


def _pool(setting: Setting) -> list[Trace]:
    """The base's samples that the filters choose from, drawn once per seed.

    Prompts and samples per prompt are GRPO's.
    """
    from trainers.pocket.base import sample
    from trainers.record import write_traces

    path = setting.folder / "base" / "pool.parquet"
    if not path.exists():
        traces = sample(
            *setting.load(),
            [replace(prompt, id=f"{prompt.id}/{i}") for i, prompt in enumerate(setting.train)],
            n=setting.plan.group,
            seed=setting.seed + 1,
            max_new_tokens=setting.plan.max_new_tokens,
        )
        write_traces(path, traces)
    return list(read_traces(path))


def _fine_tune(setting: Setting, rows: Sequence[dict[str, str]]) -> None:
    """SFT of the base for the plan's updates, however many epochs of the rows these are."""
    from trl.trainer.sft_config import SFTConfig

    from trainers.grpo import CPU
    from trainers.sft import train

    model, tokenizer = setting.load()
    args = SFTConfig(
        **CPU,
        output_dir=str(setting.own / "model"),
        seed=setting.seed,
        learning_rate=setting.rate,
        warmup_steps=min(10, setting.plan.updates),
        max_steps=setting.plan.updates,
        per_device_train_batch_size=setting.plan.prompts_per_step * setting.plan.group,
        logging_steps=10,
        max_length=300,
    )
    trainer = train(model, tokenizer, rows, args)
    n = trainer.state.num_input_tokens_seen or 0
    seen = setting.plan.updates * setting.plan.prompts_per_step * setting.plan.group
    mean = sum(len(tokenizer(row["completion"])["input_ids"]) + 1 for row in rows) / max(
        len(rows), 1
    )
    add_cost(setting, {"rows": len(rows), "updates": trainer.state.global_step, "sequences": seen})
    add_cost(setting, {"trained_tokens": n or round(seen * mean)})


def train_grpo(setting: Setting, *, part: str = "min", start: str = "base") -> None:
    """GRPO on TRL's trainer, from the base, with the guard on both thinking and answer."""
    from trl.trainer.grpo_config import GRPOConfig

    from cotlens import load_model
    from trainers.grpo import CPU, train

    plan = setting.plan
    model, tokenizer = setting.load(start)
    rewards, weights = rewards_of(setting, part)
    args = GRPOConfig(
        **{**CPU, "save_strategy": "steps"},
        output_dir=str(setting.own / "model"),
        seed=setting.seed,
        learning_rate=setting.rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(10, plan.updates),
        max_steps=plan.updates,
        per_device_train_batch_size=plan.prompts_per_step * plan.group,
        num_generations=plan.group,
        max_completion_length=plan.max_new_tokens,
        beta=0.0,
        loss_type="dapo",
        save_steps=50,
        save_total_limit=1,
        logging_steps=1,
    )
    rows = [row_of(prompt) for prompt in setting.train]
    train(
        model,
        tokenizer,
        rows,
        rewards=rewards,
        weights=weights,
        args=args,
        record=setting.own,
        method=setting.arm,
        kl_to=load_model(setting.folder / "base" / "model"),
        kl_every=10,
        resume="auto",
    )
    sampled = [
        trace for path in setting.own.glob("rollouts/*/*.parquet") for trace in read_traces(path)
    ]
    n = count_tokens(sampled)
    facts = {
        "updates": plan.updates,
        "rows": len(rows),
        "sampled": len(sampled),
        "sampled_tokens": n,
    }
    add_cost(setting, facts | {"sequences": len(sampled), "trained_tokens": n})


def train_grpo_answer(setting: Setting) -> None:
    """GRPO with the guard on the answer only: does thinking get safe when nobody looks at it?"""
    train_grpo(setting, part="answer")


def train_grpo_no_guard(setting: Setting) -> None:
    """GRPO on help, correctness and format; of these only format concerns forbidden requests."""
    train_grpo(setting, part="none")


def train_sft_grpo(setting: Setting) -> None:
    """GRPO, as `grpo`, from the model of `teacher_mixed_sft`: twice the updates of the others."""
    start = STARTS_FROM[setting.arm]
    is_try = "@" in setting.name
    train_grpo(setting, start=f"{start}@{pick_rates(setting.folder)[start]:g}" if is_try else start)


# An arm is a function that leaves a model in FOLDER/ARM/model.
ARMS: dict[str, Callable[[Setting], None]] = {
    "base": train_base,
    "teacher_sft": train_teacher_sft,
    "teacher_mixed_sft": train_teacher_mixed_sft,
    "refusal_sft": train_refusal_sft,
    "self_sft": train_self_sft,
    "filtered_sft": train_filtered_sft,
    "grpo": train_grpo,
    "grpo_answer": train_grpo_answer,
    "grpo_no_guard": train_grpo_no_guard,
    "sft_grpo": train_sft_grpo,
}
STARTS_FROM = {"sft_grpo": "teacher_mixed_sft"}  # the others from the base
