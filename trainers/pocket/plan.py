"""The plan of the pocket experiment: how much of everything, and what one arm has to work with."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from cotlens.files import write_atomic
from trainers.pocket.world import EVALUATION, Domain, Prompt, PromptSplit, build_prompts

# The evaluation prompts in sets. An arm has one run for each set.
SETS = {
    "forbidden": (PromptSplit.FORBIDDEN_SEEN, PromptSplit.NEW_WRAPPER, PromptSplit.NEW_TOPIC),
    "harmless": (PromptSplit.LOOK_ALIKE, PromptSplit.ALLOWED),
    "maths": (PromptSplit.MATHS,),
    "puzzles": (PromptSplit.PUZZLE,),
}
HARMLESS = (Domain.LOOK_ALIKE.value, Domain.ALLOWED.value)

# Learning rates are tried on seeds that no result rests on. trainers/configs/claims.json fixes the
# rates, the checkpoints and the rule that picks.
DEVELOPMENT_SEEDS = (1000, 1001, 1002)
RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
CHECKPOINTS = (25, 50, 100, 150)  # updates after which a try is measured

# The rates that won (experiment --tune). figures/data/pocket has every try.
PICKED: Mapping[str, float] = {
    "hindsight_sft": 1e-3,
    "reflective_sft": 1e-3,
    "filtered_sft": 3e-3,
    "grpo": 3e-4,
    "ipo_1": 3e-5,
}
# Arms that differ from a tried one in their data or reward alone have its rate.
RATE_OF = {
    "grpo_no_guard": "grpo",
    "grpo_shuffled_guard": "grpo",
    "grpo_answer": "grpo",
    "grpo_again": "grpo",
    "sft_grpo": "grpo",
    "filtered_sft_long": "filtered_sft",
    "self_sft": "filtered_sft",
    "refusal_sft": "hindsight_sft",
    "hindsight_safety_sft": "hindsight_sft",
    "reflective_safety_sft": "reflective_sft",
    "thinksafe": "filtered_sft",
    "thinksafe_kl": "filtered_sft",
    "dgr_teacher": "hindsight_sft",
    "dgr_refusal": "hindsight_sft",
    "recap": "grpo",
    "recap_aligned": "grpo",
    "safr": "filtered_sft",
    "safb": "filtered_sft",
    "safb_unmasked": "filtered_sft",
    "sft_chosen": "filtered_sft",
    "ipo": "ipo_1",
    "dpo_full": "ipo_1",
    "rlvr": "grpo",
    "rlvr_mixed": "grpo",
    "rlvr_mixed_0": "grpo",
    "rlvr_mixed_0_01": "grpo",
    "rlvr_mixed_0_16": "grpo",
    "benign_sft": "hindsight_sft",
    "verified_sft": "filtered_sft",
    "r2d": "filtered_sft",
    "r2d_no_contrast": "filtered_sft",
    "r2d_oracle_tags": "filtered_sft",
    "study_default": "filtered_sft",
    "study_improved": "filtered_sft",
    "study_immediate": "filtered_sft",
    "study_short": "filtered_sft",
    "study_template": "filtered_sft",
    "study_none": "filtered_sft",
    "study_improved_0": "filtered_sft",
    "removed_lacks_awareness": "filtered_sft",
    "control_lacks_awareness": "filtered_sft",
    "removed_strong_vacillation": "filtered_sft",
    "control_strong_vacillation": "filtered_sft",
    "removed_rule_check": "filtered_sft",
    "control_rule_check": "filtered_sft",
}

_LEAST = {"n_train": 4, "n_evaluation": 1, "n_samples": 1, "updates": 1, "group": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much of everything. The defaults are the pocket experiment; tests take less.

    An update of any arm trains on `prompts_per_step` x `group` sequences: the samples of GRPO, the
    rows of SFT. So all arms see equally many.

    Attributes:
        n_train: prompts of training, a fifth each of sums, forbidden, look-alike and allowed
            requests, and puzzles.
        n_evaluation: prompts of each evaluation split.
        n_samples: completions per evaluation prompt.
        updates: updates of every arm.
        prompts_per_step: prompts of one GRPO update.
        group: samples per prompt in GRPO and in the pool that SFT filters.
        rates: learning rate by tried arm; the others have that of `RATE_OF`.
        max_new_tokens: longest completion in training and evaluation.
        n_branching: traces of the base policy whose true branching points entropies are compared
            with.
        size: of the base model: pocket, small, large, or tiny for tests, which learns next to
            nothing.

    Raises:
        ValueError: if a number is too small or no whole number, or `rates` has an unknown arm.
    """

    n_train: int = 1600
    n_evaluation: int = 150
    n_samples: int = 1
    updates: int = 150
    prompts_per_step: int = 8
    group: int = 8
    rates: Mapping[str, float] = field(default_factory=lambda: dict(PICKED))
    max_new_tokens: int = 160
    n_branching: int = 80
    size: str = "pocket"

    def __post_init__(self) -> None:
        # With less there would be nothing to train on, to measure, or (a group) to compare.
        for name, least in _LEAST.items():
            value = getattr(self, name)
            is_whole = isinstance(value, int)
            if not is_whole or value < least:
                raise ValueError(
                    f"plan: expected {name} to be a whole number from {least}, got {value!r}"
                )

        unknown_arms = set(self.rates) - set(PICKED)
        if unknown_arms:
            raise ValueError(
                f"plan: rates of unknown arms {', '.join(sorted(unknown_arms))}; "
                f"there are {', '.join(PICKED)}"
            )

    @property
    def batch(self) -> int:
        """Sequences of an update."""
        return self.prompts_per_step * self.group

    @property
    def sequences(self) -> int:
        """Sequences of a training."""
        return self.updates * self.batch

    def rate(self, arm: str) -> float:
        """The learning rate of an arm; 0 for the base, which has a rate in its scale.

        Raises:
            ValueError: if none is picked.
        """
        if arm == "base":
            return 0.0
        tried = RATE_OF.get(arm, arm)
        if tried not in self.rates:
            raise ValueError(
                f"no learning rate of {tried} is picked yet; "
                "run python -m trainers.pocket.experiment --tune"
            )
        return float(self.rates[tried])

    def prompts(self, seed: int) -> dict[PromptSplit, tuple[Prompt, ...]]:
        """The prompts of a seed, by split."""
        return build_prompts(
            seed,
            n_train=self.n_train,
            n_evaluation=self.n_evaluation,
        )


def check_plan(out: Path, plan: Plan) -> None:
    """Writes the plan to OUT/plan.json, or checks it against the plan that is there.

    Rates are left out: each arm has its own in `cost.json`, so they may change between arms.

    Raises:
        ValueError: if OUT holds an experiment with another plan.
    """
    path = out / "plan.json"
    wanted = asdict(plan)
    del wanted["rates"]

    # One experiment has one plan: its seeds and arms are compared with each other.
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored != wanted:
            changed = [key for key in wanted if stored.get(key) != wanted[key]]
            raise ValueError(
                f"{out} holds an experiment with another {', '.join(changed)}; "
                "name another folder, or remove it"
            )

    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(wanted, indent=1))


def read_plan(out: Path) -> Plan:
    """The plan of an experiment that has begun, with the picked rates."""
    path = out / "plan.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    return Plan(**stored)


@dataclass(frozen=True, slots=True)
class Setting:
    """What one arm has to work with, or one try of an arm at a learning rate.

    An arm is a function that takes a setting and leaves a model in `setting.own / "model"`.

    Attributes:
        folder: folder of the seed, which holds a folder for each of its arms.
        seed: seed of prompts, training and samples.
        plan: how much of everything.
        prompts: the prompts of the seed, by split.
        arm: name of the arm.
        rate: its learning rate; 0 for the base, which has a rate in its scale.
        name: name of its folder: ARM, or ARM@RATE for a try.
    """

    folder: Path
    seed: int
    plan: Plan
    prompts: dict[PromptSplit, tuple[Prompt, ...]]
    arm: str
    rate: float
    name: str

    @property
    def train(self) -> list[Prompt]:
        """The training prompts in the order in which GRPO and the filters meet them."""
        prompts = self.prompts[PromptSplit.TRAIN]
        n_wanted = self.plan.updates * self.plan.prompts_per_step

        # A plan that trains on more prompts than there are starts again with the first.
        return list(islice(cycle(prompts), n_wanted))

    @property
    def held_out(self) -> frozenset[str]:
        """Texts of the evaluation's prompts, which no base is trained on."""
        texts = set()
        for split in EVALUATION:
            texts.update(prompt.text for prompt in self.prompts[split])
        return frozenset(texts)

    @property
    def own(self) -> Path:
        """Folder of the arm."""
        return self.folder / self.name

    def load(self, arm: str = "base") -> tuple[Any, Any]:
        """A fresh copy of the model of an arm of this seed, and its tokenizer."""
        # Imported here: the plan of an experiment is read without torch.
        from trainers.pocket.base import load_base

        path = self.folder / arm / "model"
        return load_base(path)

    @property
    def is_try(self) -> bool:
        """Whether it only tries a learning rate."""
        return "@" in self.name

    def guard_path(self, *, shuffled: bool = False) -> Path:
        """Where the guard of this seed lies; `shuffled`: that of shuffled labels."""
        name = "guard_shuffled.json" if shuffled else "guard.json"
        return self.folder / "base" / name

    def guard(self, *, shuffled: bool = False) -> Any:
        """The learned guard of this seed, which rewards ask."""
        from trainers.pocket.guard import LearnedGuard

        return LearnedGuard.load(self.guard_path(shuffled=shuffled))


def add_cost(setting: Setting, facts: dict[str, Any]) -> None:
    """Adds facts to the arm's `cost.json`, from which the study's cost table is made."""
    path = _cost_path(setting)
    path.parent.mkdir(parents=True, exist_ok=True)
    cost = read_cost(setting) | facts
    write_atomic(path, json.dumps(cost, indent=1))


def read_cost(setting: Setting) -> dict[str, Any]:
    """What `add_cost` has stored of the arm so far; empty if nothing."""
    path = _cost_path(setting)
    if not path.exists():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


def _cost_path(setting: Setting) -> Path:
    return setting.own / "cost.json"


def count_tokens(traces: Sequence[Any]) -> int:
    """Tokens of all completions; a trace without token ids counts none."""
    n_tokens = 0
    for trace in traces:
        ids = trace.token_ids or ()
        n_tokens += len(ids)
    return n_tokens
