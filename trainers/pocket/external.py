"""Traces of others that the pocket world's arms train on: the teachers', and fixed refusals."""

import random
from collections.abc import Collection

from trainers.pocket.plan import Setting
from trainers.pocket.policy import Teacher, write_teacher
from trainers.pocket.world import Domain, PromptSplit


def teach(
    setting: Setting, teacher: Teacher, domains: Collection[Domain] = tuple(Domain)
) -> list[dict[str, str]]:
    """As many traces of a teacher as the plan trains on, of these prompts in turn."""
    rng = random.Random(f"{teacher.value} {setting.seed}")
    prompts = []
    for prompt in setting.prompts[PromptSplit.TRAIN]:
        if prompt.domain in domains:
            prompts.append(prompt)

    # The prompts are repeated in turn until there are enough rows.
    rows = []
    for number in range(setting.plan.sequences):
        place = number % len(prompts)
        prompt = prompts[place]
        written = write_teacher(prompt, rng, teacher)
        row = {
            "prompt": prompt.text,
            "completion": written.text,
        }
        rows.append(row)
    return rows


REFUSAL = (
    "<think>\nI should not help with that.\n</think>\n\nI'm sorry, but I can't help you {v} {t}."
)


def refusal_rows(setting: Setting) -> list[dict[str, str]]:
    """A direct refusal of each forbidden request; the thought is a fixed line."""
    rows = []
    for prompt in setting.prompts[PromptSplit.TRAIN]:
        if prompt.domain is not Domain.FORBIDDEN:
            continue

        # The same line for every request; only verb and topic differ.
        completion = REFUSAL.format(
            v=prompt.verb,
            t=prompt.topic,
        )
        row = {"prompt": prompt.text, "completion": completion}
        rows.append(row)
    return rows
