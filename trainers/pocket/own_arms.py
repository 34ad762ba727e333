"""The arms that learn from the student's own words: ThinkSafe and DGR in the pocket world.

The twin of `thinksafe` is `self_sft`: the same prompts, seed and filter without the instruction.
The twins of `dgr_teacher` and `dgr_refusal`, on the same rows before they were rewritten, are
`hindsight_safety_sft`, whose teacher writes all of them in the formal register, and `refusal_sft`.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from cotlens.detect.refusal import Refusal
from cotlens.judges.verdict import Part
from cotlens.models.local import LocalEngine
from cotlens.text.split import part_text
from cotlens.trace import Trace
from trainers.methods import dgr, thinksafe
from trainers.methods.losses import AnchoredTrainer
from trainers.methods.selfgen import Built, cost_of, safe_by
from trainers.pocket import wording
from trainers.pocket.base import as_request
from trainers.pocket.external import refusal_rows, teach
from trainers.pocket.optimise import fine_tune
from trainers.pocket.plan import HARMLESS, Setting, add_cost, count_tokens
from trainers.pocket.policy import Teacher
from trainers.pocket.pool import REQUESTS, pool_prompts
from trainers.pocket.wording import Steering
from trainers.pocket.world import Domain

FORBIDDEN = Domain.FORBIDDEN.value
PARTS = (Part.THINKING, Part.ANSWER)  # the world's guard has weights for each


# --- ThinkSafe ---------------------------------------------------------------------------------


def train_thinksafe(setting: Setting) -> None:
    """SFT on own samples that the guard passes; forbidden ones are drawn with an instruction."""
    fine_tune(setting, _build_thinksafe(setting))


def train_thinksafe_kl(setting: Setting) -> None:
    """The same rows; harmless ones only keep the model to the base."""
    rows = _build_thinksafe(setting)

    # The reference is a second copy of the base, which stays as it is.
    reference, _ = setting.load()
    fine_tune(
        setting,
        rows,
        trainer_class=AnchoredTrainer,
        columns=("anchor",),
        reference=reference,
    )


def _build_thinksafe(setting: Setting) -> list[dict[str, Any]]:
    built = thinksafe_rows(setting)

    # The guard reads the samples that are complete.
    facts = cost_of(built.acceptance)
    n_judged = facts["sampled"] - facts["unclosed"]
    add_cost(setting, facts | _costs_of(built, n_judged))
    return built.rows


def thinksafe_rows(
    setting: Setting, instruction: str = wording.STEERINGS[Steering.REFUSE]
) -> Built:
    """Own samples for GRPO's requests, as many a prompt as GRPO draws.

    Ids and seed are the pool's, so harmless samples are those that `self_sft` chooses from.

    Args:
        setting: of the arm.
        instruction: before forbidden requests; "" gives the samples of `self_sft`.
    """
    requests = []
    for prompt in pool_prompts(setting):
        if prompt.domain in REQUESTS:
            requests.append(as_request(prompt))

    # Nothing is cut off from the distribution, as in GRPO.
    return thinksafe.build(
        _engine(setting),
        safe_by(setting.guard(), PARTS),
        requests,
        instruction=instruction,
        harmful=(FORBIDDEN,),
        harmless=HARMLESS,
        n=setting.plan.group,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=setting.plan.max_new_tokens,
        seed=setting.seed + 1,
    )


# --- DGR ---------------------------------------------------------------------------------------


def train_dgr_teacher(setting: Setting) -> None:
    """SFT on the rows of `hindsight_safety_sft`, said by the base in its own words."""
    sources = teach(setting, Teacher.HINDSIGHT, (Domain.FORBIDDEN,))
    fine_tune(setting, _build_dgr(setting, sources))


def train_dgr_refusal(setting: Setting) -> None:
    """SFT on the rows of `refusal_sft`, said by the base in its own words."""
    fine_tune(setting, _build_dgr(setting, refusal_rows(setting)))


def _build_dgr(setting: Setting, sources: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    built = dgr_rows(setting, sources)

    # Rules decide what is kept; the guard is not asked.
    facts = cost_of(built.acceptance)
    add_cost(setting, facts | _costs_of(built, n_judged=0))
    return built.rows


def dgr_rows(setting: Setting, sources: Sequence[dict[str, str]]) -> Built:
    """External rows, each rewritten once by the base at temperature 0.7.

    Args:
        setting: of the arm.
        sources: of forbidden requests.
    """
    rows = []
    for row in sources:
        rows.append(row | {"domain": FORBIDDEN})

    return dgr.build(
        _engine(setting),
        decide,
        rows,
        ask=ask_for_rewrite,
        temperature=0.7,
        max_new_tokens=setting.plan.max_new_tokens,
        seed=setting.seed + 3,
    )


def ask_for_rewrite(trace: Trace) -> str:
    """The world's request to say a trace in own words: its sentences without the tags."""
    thinking = part_text(trace, "thinking").split()
    answer = part_text(trace, "answer").split()
    sentences = " ".join(thinking + answer)
    return wording.REWRITE.format(trace=sentences)


def decide(trace: Trace) -> Hashable | None:
    """Whether the answer refuses, and which topics the trace names; None if nobody can tell."""
    decision: Refusal | None = dgr.decide(trace)
    if decision is None:
        return None

    # A rewriting that gets the topic wrong is about something else.
    words = set(re.findall(r"[a-z]+", trace.completion.lower()))
    return decision, frozenset(words.intersection(wording.TOPICS))


def _engine(setting: Setting) -> LocalEngine:
    model, tokenizer = setting.load()
    return LocalEngine(model, tokenizer, "pocket")


def _costs_of(built: Built, n_judged: int) -> dict[str, int]:
    """What the rows have cost, for `cost.json`."""
    return {
        "sampled_tokens": count_tokens(built.traces),
        "guard_calls": n_judged,
        "generations_per_prompt": built.counts["generations per prompt"],
    }


ARMS: dict[str, Callable[[Setting], None]] = {
    "thinksafe": train_thinksafe,
    "thinksafe_kl": train_thinksafe_kl,
    "dgr_teacher": train_dgr_teacher,
    "dgr_refusal": train_dgr_refusal,
}
