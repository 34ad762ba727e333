"""Arms after "RLVR maintains safety guardrails" (arXiv 2511.21050): does success erode safety?

Their rewards can be verified and say nothing of safety: whether a number is right. Nobody is asked
whether anything is safe. trainers/pocket/drift.py compares what happens to safety with what the
base's own samples predict; trainers/methods/rlvr.py is the method on real models.

Departs from the paper: its theorem is of a reward less `beta` times the KL divergence of whole
completions. TRL's GRPO divides rewards by their deviation in the group, and its KL term is a sum
over tokens that blames none for what comes after it. So `beta` orders these arms, and is not the
theorem's; the prediction takes the success that was reached instead.
"""

import random
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

from trainers.pocket.optimise import fine_tune, reinforce
from trainers.pocket.plan import Setting
from trainers.pocket.policy import Teacher, write_teacher
from trainers.pocket.pool import keep_rewarded
from trainers.pocket.world import Domain, Prompt, PromptSplit

BETA = 0.04
VERIFIABLE = (Domain.MATHS, Domain.PUZZLE)


def verifiable_rewards() -> list[Any]:
    """The only reward: 1 for the right number, 0 for any other answer, whatever else it says."""
    from trainers.rewards import correctness_reward

    return [correctness_reward()]


def train_rlvr(setting: Setting, beta: float = BETA) -> None:
    """GRPO on sums and puzzles alone; no request for anything is ever seen."""
    prompts = _trained(setting, VERIFIABLE)
    _reinforce(setting, prompts, beta)


def train_rlvr_mixed(setting: Setting, beta: float = BETA) -> None:
    """GRPO on prompts that ask for a sum and for what is forbidden, where the sum alone is paid.

    The base refuses some of them as a whole: safe, and no success. So success and safety go against
    each other within a prompt, and the theorem allows safety to fall.
    """
    prompts = setting.prompts[PromptSplit.TRAIN_MIXED]
    _reinforce(setting, prompts, beta)


def _reinforce(setting: Setting, prompts: Sequence[Prompt], beta: float) -> None:
    """GRPO on these prompts in turn, as many as any arm of RL samples."""
    plan = setting.plan
    n = plan.updates * plan.prompts_per_step
    reinforce(
        setting,
        guard=None,
        prompts=list(islice(cycle(prompts), n)),
        rewards=verifiable_rewards(),
        beta=beta,
    )


def train_benign_sft(setting: Setting) -> None:
    """SFT on the hindsight teacher's sums, and nothing else: harmless data of somebody else's."""
    rng = random.Random(f"benign {setting.seed}")
    sums = _trained(setting, (Domain.MATHS,))

    rows = []
    for prompt in islice(cycle(sums), setting.plan.sequences):
        written = write_teacher(prompt, rng, Teacher.HINDSIGHT)
        row = {
            "prompt": prompt.text,
            "completion": written.text,
        }
        rows.append(row)
    fine_tune(setting, rows)


def train_verified_sft(setting: Setting) -> None:
    """SFT on the base's own right answers to sums and puzzles: what `rlvr` pays, without RL."""
    domains = [domain.value for domain in VERIFIABLE]
    rows = keep_rewarded(setting, verifiable_rewards(), domains)
    fine_tune(setting, rows)


def _trained(setting: Setting, domains: Collection[Domain]) -> list[Prompt]:
    """The training prompts of these domains."""
    prompts = []
    for prompt in setting.prompts[PromptSplit.TRAIN]:
        if prompt.domain in domains:
            prompts.append(prompt)
    return prompts


# The weight of the KL term of each arm of the sweep.
BETA_OF = {
    "rlvr_mixed_0": 0.0,
    "rlvr_mixed_0_01": 0.01,
    "rlvr_mixed": BETA,
    "rlvr_mixed_0_16": 0.16,
}

# Trained only where somebody asks for them.
ON_REQUEST = (
    "rlvr_mixed_0_01",
    "rlvr_mixed_0_16",
    "verified_sft",
)

ARMS: dict[str, Callable[[Setting], None]] = {
    "rlvr": train_rlvr,
    "benign_sft": train_benign_sft,
    "verified_sft": train_verified_sft,
}
for _arm, _beta in BETA_OF.items():
    ARMS[_arm] = partial(train_rlvr_mixed, beta=_beta)
