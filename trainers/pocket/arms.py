"""The arms of the pocket experiment: each a function that leaves a model behind."""

from collections.abc import Callable

from trainers.pocket import (
    cog_arms,
    ipo_arms,
    own_arms,
    r2d_arms,
    recap_arms,
    rlvr_arms,
    study_arms,
)
from trainers.pocket.external import refusal_rows, teach
from trainers.pocket.optimise import fine_tune, reinforce, rewards_of
from trainers.pocket.plan import Setting
from trainers.pocket.policy import Teacher
from trainers.pocket.pool import REQUESTS, keep_rewarded
from trainers.pocket.world import Domain

# --- the base ----------------------------------------------------------------------------------


def train_base(setting: Setting) -> None:
    """The base model, from scratch, on the base policy's traces; the guards, on its samples."""
    from trainers.pocket import base
    from trainers.pocket.guard import fit_guard, guard_prompts

    held_out = setting.held_out
    base.train_base(
        setting.own / "model",
        seed=setting.seed,
        scale=base.SCALES[setting.plan.size],
        prompts_seed=setting.seed,
        held_out=held_out,
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
    fine_tune(setting, teach(setting, Teacher.HINDSIGHT))


def train_reflective_sft(setting: Setting) -> None:
    """SFT on a teacher that tries, checks and goes back as needed; all of GRPO's prompts."""
    fine_tune(setting, teach(setting, Teacher.REFLECTIVE))


def train_hindsight_safety_sft(setting: Setting) -> None:
    """SFT on the hindsight teacher's traces for forbidden requests, and nothing else."""
    fine_tune(setting, teach(setting, Teacher.HINDSIGHT, (Domain.FORBIDDEN,)))


def train_reflective_safety_sft(setting: Setting) -> None:
    """SFT on the reflective teacher's traces for forbidden requests, and nothing else."""
    fine_tune(setting, teach(setting, Teacher.REFLECTIVE, (Domain.FORBIDDEN,)))


def train_refusal_sft(setting: Setting) -> None:
    """SFT on direct refusals of forbidden requests.

    The thought is a fixed line, as in DirectRefusal.
    """
    fine_tune(setting, refusal_rows(setting))


# --- SFT on own samples ------------------------------------------------------------------------


def train_self_sft(setting: Setting) -> None:
    """SFT on the base's own samples for requests whose thinking and answer the guard calls safe.

    This is ThinkSafe without steering; nothing checks whether a harmless request is helped.
    """
    from trainers.rewards import guard_reward

    domains = [domain.value for domain in REQUESTS]
    safety = guard_reward(setting.guard(), part="min", scale="hard", domains=domains)
    fine_tune(setting, keep_rewarded(setting, [safety], domains))


def train_filtered_sft(setting: Setting) -> None:
    """SFT on the base's own samples that earn every reward.

    Prompts, samples per prompt and rewards are exactly GRPO's.
    """
    fine_tune(setting, _filter_by_rewards(setting))


def train_filtered_sft_long(setting: Setting) -> None:
    """The same for twice the updates: as many tokens as GRPO has sampled and trained on."""
    fine_tune(setting, _filter_by_rewards(setting), updates=2 * setting.plan.updates)


def _filter_by_rewards(setting: Setting) -> list[dict[str, str]]:
    functions, _ = rewards_of(setting, setting.guard())
    return keep_rewarded(setting, functions, [domain.value for domain in Domain])


# --- RL ----------------------------------------------------------------------------------------


def train_grpo(setting: Setting) -> None:
    """GRPO on TRL's trainer, from the base, with the guard on both thinking and answer."""
    reinforce(setting, setting.guard())


def train_grpo_again(setting: Setting) -> None:
    """The same from the same base with other random numbers: how much of a result is RL's own."""
    reinforce(setting, setting.guard(), seed=setting.seed + 500)


def train_grpo_answer(setting: Setting) -> None:
    """GRPO with the guard on the answer only: does thinking get safe when nobody looks at it?"""
    reinforce(setting, setting.guard(), part="answer")


def train_grpo_no_guard(setting: Setting) -> None:
    """GRPO on help, correctness and format; of these only format concerns forbidden requests."""
    reinforce(setting, None)


def train_grpo_shuffled_guard(setting: Setting) -> None:
    """GRPO with a guard of shuffled labels, a negative control: it must not get safer."""
    reinforce(setting, setting.guard(shuffled=True))


def train_sft_grpo(setting: Setting) -> None:
    """GRPO, as `grpo`, from the model of `hindsight_sft`: twice the updates of the others."""
    reinforce(setting, setting.guard(), start=STARTS_FROM[setting.arm])


# Arms of other papers' methods. They are trained when they are asked for.
INTERVENING: dict[str, Callable[[Setting], None]] = {
    **recap_arms.ARMS,
    **ipo_arms.ARMS,
    **cog_arms.ARMS,
}
OWN: dict[str, Callable[[Setting], None]] = {
    **own_arms.ARMS,
    **rlvr_arms.ARMS,
    **r2d_arms.ARMS,
    **study_arms.ARMS,
}
METHODS = {**INTERVENING, **OWN}
COMPARED = ("base", "filtered_sft", "grpo", "grpo_answer")  # what they are compared with
TWINS = ("self_sft", "hindsight_safety_sft", "refusal_sft")  # of ThinkSafe and DGR

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
    **METHODS,
}
# Seeds of each arm: five of those that carry claims, three of the others.
CLAIMED = ("base", "hindsight_sft", "reflective_sft", "filtered_sft", "grpo")
SEEDS_OF = {arm: 5 if arm in CLAIMED else 3 for arm in ARMS}
SEEDS_OF |= dict.fromkeys((*rlvr_arms.ON_REQUEST, *study_arms.ON_REQUEST), 0)
STARTS_FROM = {"sft_grpo": "hindsight_sft"}  # the others from the base
