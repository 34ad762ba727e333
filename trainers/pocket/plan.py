"""The plan of the pocket experiment: how much of everything, and the setting of one arm."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cotlens.files import write_atomic
from trainers.pocket.world import Domain, Prompt, PromptSplit, build_prompts

SETS = {  # the evaluation prompts, as the runs of an arm
    "forbidden": (PromptSplit.FORBIDDEN_SEEN, PromptSplit.NEW_WRAPPER, PromptSplit.NEW_TOPIC),
    "harmless": (PromptSplit.LOOK_ALIKE, PromptSplit.ALLOWED),
    "maths": (PromptSplit.MATHS,),
}
HARMLESS = (Domain.LOOK_ALIKE.value, Domain.ALLOWED.value)
RATES = (1e-4, 3e-4, 1e-3, 3e-3)  # the tries of an arm
DEVELOPMENT_SEED = 1000  # of the tries; no result rests on it
PICKED: Mapping[str, float] = {  # by --tune: figures/data/pocket/tries.csv has every try
    "teacher_sft": 3e-4,
    "teacher_mixed_sft": 3e-3,
    "refusal_sft": 1e-4,
    "self_sft": 1e-3,
    "filtered_sft": 3e-3,
    "grpo": 3e-4,
    "grpo_answer": 3e-4,
    "grpo_no_guard": 1e-4,
    "sft_grpo": 1e-4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything. The defaults are the pocket experiment; tests take less.

    Attributes:
        n_train: prompts of safety training, a quarter each of sums, forbidden, look-alike and allowed.
        n_evaluation: prompts of each evaluation part.
        n_samples: completions per evaluation prompt.
        updates: of every arm, each on `prompts_per_step` x `group` sequences: GRPO's samples, SFT's rows.
        rates: learning rate by arm.
        max_new_tokens: longest completion, in training and evaluation.
        n_branching: traces of the base policy whose true branching points are compared with entropies.
        tiny: a base model for tests, which has learned next to nothing.
    """

    n_train: int = 1600
    n_evaluation: int = 150
    n_samples: int = 1
    updates: int = 150
    prompts_per_step: int = 8
    group: int = 8
    rates: Mapping[str, float] = field(default_factory=lambda: dict(PICKED))
    max_new_tokens: int = 130
    n_branching: int = 80
    tiny: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("n_train", 4),
            ("n_evaluation", 1),
            ("n_samples", 1),
            ("updates", 1),
            ("group", 2),
        ):
            if not isinstance(value := getattr(self, name), int) or value < least:
                raise ValueError(
                    f"plan: expected {name} to be a whole number from {least}, got {value!r}"
                )
        if unknown := set(self.rates) - set(PICKED):
            raise ValueError(
                f"plan: rates of unknown arms {', '.join(sorted(unknown))}; there are {', '.join(PICKED)}"
            )

    def prompts(self, seed: int) -> dict[PromptSplit, tuple[Prompt, ...]]:
        """The prompts of a seed."""
        return build_prompts(seed, n_train=self.n_train, n_evaluation=self.n_evaluation)


def read_plan(out: Path) -> Plan:
    """The plan of an experiment that has begun."""
    return Plan(**json.loads((out / "plan.json").read_text(encoding="utf-8")))


# --- arms ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Setting:
    """What an arm has to go on: where, which seed, how much, the prompts, and at which rate it learns."""

    folder: Path  # of the seed
    seed: int
    plan: Plan
    prompts: dict[PromptSplit, tuple[Prompt, ...]]
    arm: str
    rate: float
    name: str  # of the arm's folder

    @property
    def train(self) -> list[Prompt]:
        """The training prompts in the order in which GRPO and the filters meet them."""
        wanted = self.plan.updates * self.plan.prompts_per_step
        rounds = -(-wanted // len(self.prompts[PromptSplit.TRAIN]))
        return (list(self.prompts[PromptSplit.TRAIN]) * rounds)[:wanted]

    @property
    def own(self) -> Path:
        """Folder of the arm."""
        return self.folder / self.name

    def load(self, arm: str = "base") -> tuple[Any, Any]:
        """The model of an arm, fresh, and its tokenizer."""
        from trainers.pocket.base import load_base

        return load_base(self.folder / arm / "model")

    def guard(self) -> Any:
        """The guard that rewards ask."""
        from trainers.pocket.guard import LearnedGuard

        return LearnedGuard.load(self.folder / "base" / "guard.json")


def add_cost(setting: Setting, facts: dict[str, Any]) -> None:
    """Adds to what the results table says of the arm's cost."""
    path = setting.own / "cost.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(read_cost(setting) | facts, indent=1))


def read_cost(setting: Setting) -> dict[str, Any]:
    path = setting.own / "cost.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def count_tokens(traces: Sequence[Any]) -> int:
    return sum(len(trace.token_ids or ()) for trace in traces)


def check_plan(out: Path, plan: Plan) -> None:
    """Keeps the plan of an experiment; the rates stand beside what was trained with them (`cost.json`)."""
    path, wanted = out / "plan.json", asdict(plan)
    del wanted["rates"]
    if path.exists() and (before := json.loads(path.read_text(encoding="utf-8"))) != wanted:
        changed = ", ".join(key for key in wanted if before.get(key) != wanted[key])
        raise ValueError(
            f"{out} holds an experiment with another {changed}; name another folder, or remove it"
        )
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(wanted, indent=1))
