"""The arms of RECAP in the pocket world: GRPO that starts from flawed thoughts (arXiv 2510.00938).

Donors are the base's own samples for the training prompts. The twin without beginnings (alpha = 0)
is the arm `grpo_answer`.
"""

import random
from collections.abc import Callable

from cotlens.models.local import LocalEngine
from cotlens.probes.cut import cut_thought
from cotlens.text.split import request_of
from cotlens.trace import Trace
from trainers.methods.recap import ALPHA, Built, build, judge_by, refuses
from trainers.pocket.base import as_request
from trainers.pocket.depth import injected_overcaution
from trainers.pocket.optimise import reinforce
from trainers.pocket.oracle import CLOSE_TAG
from trainers.pocket.plan import HARMLESS, Setting, add_cost, count_tokens, read_cost
from trainers.pocket.pool import pool
from trainers.pocket.world import Domain

STEPS = 3  # most steps of a beginning
WRITTEN = "written"  # begins the ids of donors that no model has sampled
FORBIDDEN = (Domain.FORBIDDEN.value,)


def train_recap(setting: Setting) -> None:
    """GRPO, as `grpo_answer`; half of the requests begin with a flawed thought."""
    _train(setting, aligned=False)


def train_recap_aligned(setting: Setting) -> None:
    """The same with thoughts that are sound, which leave nothing to override."""
    _train(setting, aligned=True)


def _train(setting: Setting, *, aligned: bool) -> None:
    built = recap_rows(setting, aligned=aligned)
    reinforce(setting, setting.guard(), part="answer", rows=built.rows)

    # The donors cost samples and verdicts too.
    donors = pool(setting)
    n_forbidden = sum(donor.domain in FORBIDDEN for donor in donors)
    cost = read_cost(setting)
    facts = {
        "sampled": cost["sampled"] + len(donors),
        "sampled_tokens": cost["sampled_tokens"] + count_tokens(donors),
        "guard_calls": cost["guard_calls"] + n_forbidden,
        "kept": built.counts.get("prefixed", 0),
        "generations_per_prompt": setting.plan.group,
    }
    add_cost(setting, facts)


def recap_rows(setting: Setting, *, alpha: float = ALPHA, aligned: bool = False) -> Built:
    """The rows of GRPO: the training prompts in their order, some with a beginning of a thought.

    Args:
        setting: of the arm.
        alpha: share of the requests that get one; 0: the rows of `grpo_answer`.
        aligned: beginnings of sound thoughts.
    """
    model, tokenizer = setting.load()
    engine = LocalEngine(model, tokenizer, "pocket")

    # Without beginnings no donor is needed.
    donors: list[Trace] = []
    if alpha > 0:
        donors = pool(setting)
        donors += written_donors(setting, donors)

    return build(
        engine,
        judge_by(setting.guard(), FORBIDDEN),
        [as_request(prompt) for prompt in setting.train],
        donors,
        cut=cut_steps,
        alpha=alpha,
        aligned=aligned,
        harmful=FORBIDDEN,
        harmless=HARMLESS,
        seed=setting.seed,
    )


def cut_steps(donor: Trace, rng: random.Random) -> int:
    """After one to three steps; what was written as a beginning stays whole."""
    steps = STEPS if donor.id.startswith(WRITTEN) else rng.randint(1, STEPS)
    return cut_thought(donor, steps=steps)


def written_donors(setting: Setting, samples: list[Trace]) -> list[Trace]:
    """Refusals in the world's words, for harmless prompts of which no sample refuses.

    They depend on the prompt alone.
    """
    refused = {request_of(trace) for trace in samples if refuses(trace)}

    # A prompt that is met twice needs one donor.
    prompts = {}
    for prompt in setting.train:
        if prompt.domain in HARMLESS and prompt.text not in refused:
            prompts[prompt.text] = prompt

    # A whole trace, so that it is judged as a sample is: by its answer.
    donors = []
    beginnings = injected_overcaution(list(prompts.values()))
    for prompt, beginning in zip(prompts.values(), beginnings, strict=True):
        answer = f"I'm sorry, but I can't help you {prompt.verb} {prompt.topic}."
        donor = Trace(
            id=f"{WRITTEN}/{prompt.id}",
            prompt=prompt.text,
            completion=f"{beginning}\n{CLOSE_TAG}\n\n{answer}",
            finish_reason="stop",
        )
        donors.append(donor)
    return donors


ARMS: dict[str, Callable[[Setting], None]] = {
    "recap": train_recap,
    "recap_aligned": train_recap_aligned,
}
