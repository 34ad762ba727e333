"""A pocket experiment that takes seconds: its plan, a base that has learned next to nothing, settings of arms."""

from trainers.pocket.plan import PICKED, Plan, Setting


def tiny_plan(**changes) -> Plan:
    """Two updates on a few prompts; `changes` are amounts of the plan."""
    amounts = {
        "size": "tiny",
        "n_train": 20,
        "n_evaluation": 4,
        "n_samples": 1,
        "updates": 2,
        "prompts_per_step": 2,
        "group": 2,
        "max_new_tokens": 24,
        "n_branching": 4,
        "rates": dict.fromkeys(PICKED, 1e-3),
    }
    return Plan(**(amounts | changes))


def setting_of(folder, arm, plan, prompts):
    """The setting of an arm of seed 0 in a folder."""
    rate = 0.0 if arm == "base" else plan.rate(arm)
    return Setting(folder, 0, plan, prompts, arm, rate, arm)


def train_tiny_base(folder, plan, prompts):
    """The folder of seed 0, with a base that has learned next to nothing, and its guard."""
    from trainers.pocket.arms import train_base

    seed = folder / "seed=0"
    train_base(setting_of(seed, "base", plan, prompts))
    return seed
