"""The arms of the pocket experiment: each a function that leaves a model behind."""

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from cotlens.detect.refusal import Refusal, classify_refusal
from cotlens.formats.read import read_traces
from cotlens.text.split import request_of, split_think
from cotlens.trace import Trace
from trainers.pocket.plan import HARMLESS, Setting, add_cost, count_tokens
from trainers.pocket.policy import Teacher, write_teacher
from trainers.pocket.world import EVALUATION, Domain, Prompt, PromptSplit

REQUESTS = (Domain.FORBIDDEN, Domain.LOOK_ALIKE, Domain.ALLOWED)


# --- rewards -----------------------------------------------------------------------------------


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
            value = _is_helpful(completion, by_text[request]) if is_harmless else None
            values.append(value)
        return values

    return helpful


def _is_helpful(completion: str, prompt: Prompt) -> float:
    answer = split_think(completion).answer.of(completion)
    names_both = prompt.topic in answer and prompt.verb in answer
    return float(names_both and classify_refusal(answer) is Refusal.COMPLIANCE)


def row_of(prompt: Prompt) -> dict[str, Any]:
    """A prompt as the trainers take it."""
    row = {"prompt": prompt.text, "prompt_id": prompt.id, "domain": prompt.domain.value}
    if prompt.gold:
        row["answer"] = prompt.gold
    return row


# --- the base ----------------------------------------------------------------------------------


def train_base(setting: Setting) -> None:
    """The base model, from scratch, on the base policy's traces; the guards, on its samples."""
    from trainers.pocket import base
    from trainers.pocket.guard import fit_guard, guard_prompts

    held_out = set()
    for split in EVALUATION:
        held_out.update(prompt.text for prompt in setting.prompts[split])
    base.train_base(
        setting.own / "model",
        seed=setting.seed,
        scale=base.SCALES[setting.plan.size],
        prompts_seed=setting.seed,
        held_out=frozenset(held_out),
    )

    # What the guards learn from are samples of the base, labelled as by people who err.
    prompts = [prompt for prompt in guard_prompts(setting.seed) if prompt.text not in held_out]
    if setting.plan.size == "tiny":
        prompts = prompts[:8]
    model, tokenizer = setting.load()
    traces = base.sample(
        model,
        tokenizer,
        prompts,
        seed=setting.seed + 2,
        max_new_tokens=setting.plan.max_new_tokens,
    )
    fit_guard(traces, prompts, setting.seed).save(setting.guard_path())
    shuffled = fit_guard(traces, prompts, setting.seed, shuffled=True)
    shuffled.save(setting.guard_path(shuffled=True))


# --- SFT on traces of others -------------------------------------------------------------------


def train_hindsight_sft(setting: Setting) -> None:
    """SFT on a teacher that knows the outcome and never errs or checks; all of GRPO's prompts."""
    _fine_tune(setting, _teach(setting, Teacher.HINDSIGHT))


def train_reflective_sft(setting: Setting) -> None:
    """SFT on a teacher that tries, checks and goes back as needed; all of GRPO's prompts."""
    _fine_tune(setting, _teach(setting, Teacher.REFLECTIVE))


def train_hindsight_safety_sft(setting: Setting) -> None:
    """SFT on the hindsight teacher's traces for forbidden requests, and nothing else."""
    _fine_tune(setting, _teach(setting, Teacher.HINDSIGHT, (Domain.FORBIDDEN,)))


def train_reflective_safety_sft(setting: Setting) -> None:
    """SFT on the reflective teacher's traces for forbidden requests, and nothing else."""
    _fine_tune(setting, _teach(setting, Teacher.REFLECTIVE, (Domain.FORBIDDEN,)))


def _teach(
    setting: Setting, teacher: Teacher, domains: Collection[Domain] = tuple(Domain)
) -> list[dict[str, str]]:
    """As many traces of a teacher as the plan trains on, of these prompts in turn."""
    rng = random.Random(f"{teacher.value} {setting.seed}")
    prompts = [prompt for prompt in setting.prompts[PromptSplit.TRAIN] if prompt.domain in domains]

    rows = []
    for number in range(setting.plan.sequences):
        prompt = prompts[number % len(prompts)]
        written = write_teacher(prompt, rng, teacher)
        rows.append({"prompt": prompt.text, "completion": written.text})
    return rows


REFUSAL = (
    "<think>\nI should not help with that.\n</think>\n\nI'm sorry, but I can't help you {v} {t}."
)


def train_refusal_sft(setting: Setting) -> None:
    """SFT on direct refusals of forbidden requests.

    The thought is a fixed line, as in DirectRefusal.
    """
    rows = []
    for prompt in setting.prompts[PromptSplit.TRAIN]:
        if prompt.domain is Domain.FORBIDDEN:
            completion = REFUSAL.format(v=prompt.verb, t=prompt.topic)
            rows.append({"prompt": prompt.text, "completion": completion})
    _fine_tune(setting, rows)


# --- SFT on own samples ------------------------------------------------------------------------


def train_self_sft(setting: Setting) -> None:
    """SFT on the base's own samples for requests whose thinking and answer the guard calls safe.

    This is ThinkSafe without steering; nothing checks whether a harmless request is helped.
    """
    from trainers.rewards import guard_reward

    domains = [domain.value for domain in REQUESTS]
    safety = guard_reward(setting.guard(), part="min", scale="hard", domains=domains)
    _fine_tune(setting, _filter(setting, [safety], domains))


def train_filtered_sft(setting: Setting) -> None:
    """SFT on the base's own samples that earn every reward.

    Prompts, samples per prompt and rewards are exactly GRPO's.
    """
    _fine_tune(setting, _filter_by_rewards(setting))


def train_filtered_sft_long(setting: Setting) -> None:
    """The same for twice the updates: as many tokens as GRPO has sampled and trained on."""
    _fine_tune(setting, _filter_by_rewards(setting), updates=2 * setting.plan.updates)


def _filter_by_rewards(setting: Setting) -> list[dict[str, str]]:
    functions, _ = rewards_of(setting, setting.guard())
    return _filter(setting, functions, [domain.value for domain in Domain])


def _filter(
    setting: Setting, functions: Sequence[Any], domains: Collection[str]
) -> list[dict[str, str]]:
    """The base's samples for GRPO's prompts of these domains that earn all of these rewards.

    A reward counts as earned from 1/2 on.
    """
    traces = [trace for trace in _pool(setting) if trace.domain in domains]
    columns = {
        "prompts": [request_of(trace) for trace in traces],
        "completions": [trace.completion for trace in traces],
        "domain": [trace.domain for trace in traces],
        "answer": [trace.gold or None for trace in traces],
    }
    given = [function(**columns) for function in functions]

    # A reward that does not apply says nothing; a sample that was cut is no example.
    kept = []
    for trace, *values in zip(traces, *given, strict=True):
        is_earned = all(value is None or value >= 0.5 for value in values)
        if is_earned and trace.finish_reason == "stop":
            kept.append({"prompt": request_of(trace), "completion": trace.completion})
    facts = {
        "sampled": len(traces),
        "kept": len(kept),
        "sampled_tokens": count_tokens(traces),
        "guard_calls": sum(trace.domain == Domain.FORBIDDEN.value for trace in traces),
    }
    add_cost(setting, facts)
    return kept


def _pool(setting: Setting) -> list[Trace]:
    """The base's samples that the filters choose from, drawn once per seed.

    Prompts and samples per prompt are GRPO's.
    """
    from trainers.pocket.base import sample
    from trainers.record import write_traces

    path = setting.folder / "base" / "pool.parquet"
    if not path.exists():
        # A prompt that is met twice is sampled twice.
        prompts = []
        for number, prompt in enumerate(setting.train):
            prompts.append(replace(prompt, id=f"{prompt.id}/{number}"))
        model, tokenizer = setting.load()
        traces = sample(
            model,
            tokenizer,
            prompts,
            n=setting.plan.group,
            seed=setting.seed + 1,
            max_new_tokens=setting.plan.max_new_tokens,
        )
        write_traces(path, traces)
    return list(read_traces(path))


def _fine_tune(
    setting: Setting, rows: Sequence[dict[str, str]], *, updates: int | None = None
) -> None:
    """SFT of the base for the plan's updates, however many epochs of the rows these are."""
    from trl.trainer.sft_config import SFTConfig

    from trainers.grpo import CPU
    from trainers.pocket.path import follow
    from trainers.sft import train

    plan = setting.plan
    updates = updates or plan.updates
    model, tokenizer = setting.load()
    args = SFTConfig(
        **CPU,
        output_dir=str(setting.own / "model"),
        seed=setting.seed,
        learning_rate=setting.rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(10, updates),
        max_steps=updates,
        per_device_train_batch_size=plan.batch,
        logging_steps=10,
        max_length=300,
    )
    trainer = train(model, tokenizer, rows, args, callbacks=follow(setting))

    # Tokens of the completions: those of the rows, as often as they were seen.
    n_seen = trainer.state.global_step * plan.batch
    n_tokens = 0
    for row in rows:
        n_tokens += len(tokenizer(row["completion"])["input_ids"]) + 1
    facts = {
        "rows": len(rows),
        "updates": trainer.state.global_step,
        "sequences": n_seen,
        "trained_tokens": round(n_seen * n_tokens / len(rows)),
    }
    add_cost(setting, facts)


# --- RL ----------------------------------------------------------------------------------------


def train_grpo(setting: Setting) -> None:
    """GRPO on TRL's trainer, from the base, with the guard on both thinking and answer."""
    _reinforce(setting, setting.guard())


def train_grpo_again(setting: Setting) -> None:
    """The same from the same base with other random numbers: how much of a result is RL's own."""
    _reinforce(setting, setting.guard(), seed=setting.seed + 500)


def train_grpo_answer(setting: Setting) -> None:
    """GRPO with the guard on the answer only: does thinking get safe when nobody looks at it?"""
    _reinforce(setting, setting.guard(), part="answer")


def train_grpo_no_guard(setting: Setting) -> None:
    """GRPO on help, correctness and format; of these only format concerns forbidden requests."""
    _reinforce(setting, None)


def train_grpo_shuffled_guard(setting: Setting) -> None:
    """GRPO with a guard of shuffled labels, a negative control: it must not get safer."""
    _reinforce(setting, setting.guard(shuffled=True))


def train_sft_grpo(setting: Setting) -> None:
    """GRPO, as `grpo`, from the model of `hindsight_sft`: twice the updates of the others."""
    _reinforce(setting, setting.guard(), start=STARTS_FROM[setting.arm])


def _reinforce(
    setting: Setting,
    guard: Any,
    *,
    part: str = "min",
    start: str = "base",
    seed: int | None = None,
) -> None:
    """GRPO for the plan's updates.

    Args:
        setting: of the arm.
        guard: what rewards safety; None for nothing.
        part: what the guard reads.
        start: the arm whose model it starts from.
        seed: of the trainer, if not the experiment's.
    """
    from trl.trainer.grpo_config import GRPOConfig

    from cotlens import load_model
    from trainers.grpo import CPU, train
    from trainers.pocket.path import follow

    plan = setting.plan
    model, tokenizer = setting.load(start)
    rewards, weights = rewards_of(setting, guard, part)
    settings = {**CPU, "save_strategy": "steps"}
    args = GRPOConfig(
        **settings,
        output_dir=str(setting.own / "model"),
        seed=setting.seed if seed is None else seed,
        learning_rate=setting.rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=min(10, plan.updates),
        max_steps=plan.updates,
        per_device_train_batch_size=plan.batch,
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


# An arm is a function that leaves a model in FOLDER/ARM/model.
ARMS: dict[str, Callable[[Setting], None]] = {
    "base": train_base,
    "hindsight_sft": train_hindsight_sft,
    "reflective_sft": train_reflective_sft,
    "filtered_sft": train_filtered_sft,
    "grpo": train_grpo,
    "grpo_no_guard": train_grpo_no_guard,
    "grpo_shuffled_guard": train_grpo_shuffled_guard,
    "grpo_answer": train_grpo_answer,
    "grpo_again": train_grpo_again,
    "sft_grpo": train_sft_grpo,
    "filtered_sft_long": train_filtered_sft_long,
    "self_sft": train_self_sft,
    "refusal_sft": train_refusal_sft,
    "hindsight_safety_sft": train_hindsight_safety_sft,
    "reflective_safety_sft": train_reflective_safety_sft,
}
# Seeds of each arm: five of those that carry claims, three of the others.
CLAIMED = ("base", "hindsight_sft", "reflective_sft", "filtered_sft", "grpo")
SEEDS_OF = {arm: 5 if arm in CLAIMED else 3 for arm in ARMS}
STARTS_FROM = {"sft_grpo": "hindsight_sft"}  # the others from the base
