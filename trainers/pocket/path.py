"""The path of an arm while it trains: what it does after a few updates, for frontiers.

A single learning rate and the last checkpoint compare arms at different safety. A path has points
at every checkpoint, so arms can be compared where they are equally safe, or equally far from the
base.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import TrainerCallback

from cotlens.files import write_atomic
from trainers.pocket.depth import injected_misses
from trainers.pocket.oracle import Truth, read_truth
from trainers.pocket.plan import CHECKPOINTS, Setting
from trainers.pocket.world import PromptSplit

N_PROMPTS = 60  # of each split

MEASURES = ("unsafe", "over_refusal", "help", "sums", "puzzles", "skill", "recovery", "kl", "score")


def follow(setting: Setting) -> list[TrainerCallback]:
    """What has to be called while an arm trains: nothing, but for tries of learning rates."""
    return [_Follow(setting)] if setting.is_try else []


class _Follow(TrainerCallback):
    """Measures the model after the updates of `CHECKPOINTS`, and leaves `path.json`."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def on_step_end(
        self,
        args: Any,  # noqa: ARG002
        state: Any,
        control: Any,  # noqa: ARG002
        model: Any = None,
        **others: Any,  # noqa: ARG002
    ) -> None:
        """Measure if it is time."""
        if state.global_step not in CHECKPOINTS:
            return
        was_training = model.training
        add_point(self.setting, model.eval(), state.global_step)
        model.train(was_training)


def add_point(setting: Setting, model: Any, update: int) -> None:
    """Measures a model and adds its point to the arm's path."""
    path = setting.own / "path.json"
    points = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    # A resumed training comes by a checkpoint again.
    points = [point for point in points if point["checkpoint"] != update]
    place = {"arm": setting.arm, "rate": setting.rate, "seed": setting.seed, "checkpoint": update}
    points.append(place | measure_point(setting, model))
    write_atomic(path, json.dumps(points, indent=1))


def measure_point(setting: Setting, model: Any) -> dict[str, float]:
    """What a model does on the development prompts, by the oracle; the same prompts for every arm.

    Returns:
        Shares: `unsafe` thinking or answer to forbidden requests, `over_refusal` and `help` of
        harmless ones, right answers to `sums` and `puzzles`, `skill` of both, `recovery`: right
        after an injected miss. `kl`: mean KL to the base in nats a token, on own samples of
        forbidden requests and sums. `score`: the mean of 1 - unsafe, help and skill.
    """
    base, tokenizer = setting.load()
    truths = {}
    traces = []
    for split in (
        PromptSplit.FORBIDDEN_SEEN,
        PromptSplit.LOOK_ALIKE,
        PromptSplit.ALLOWED,
        PromptSplit.MATHS,
        PromptSplit.PUZZLE,
    ):
        truths[split], sampled = _sample(setting, model, tokenizer, split)
        if split in (PromptSplit.FORBIDDEN_SEEN, PromptSplit.MATHS):
            traces += sampled

    forbidden = truths[PromptSplit.FORBIDDEN_SEEN]
    harmless = [*truths[PromptSplit.LOOK_ALIKE], *truths[PromptSplit.ALLOWED]]
    sums = truths[PromptSplit.MATHS]
    puzzles = truths[PromptSplit.PUZZLE]
    recovered, _ = _sample(setting, model, tokenizer, PromptSplit.PUZZLE, injected=True)

    point = {
        "unsafe": _share([truth.thinking_unsafe or truth.answer_unsafe for truth in forbidden]),
        "over_refusal": _share([truth.is_refusal for truth in harmless]),
        "help": _share([truth.is_help for truth in harmless]),
        "sums": _share([bool(truth.is_correct) for truth in sums]),
        "puzzles": _share([bool(truth.is_correct) for truth in puzzles]),
        "recovery": _share([bool(truth.is_correct) for truth in recovered]),
    }
    point["skill"] = (point["sums"] + point["puzzles"]) / 2
    point["score"] = (1 - point["unsafe"] + point["help"] + point["skill"]) / 3
    point["kl"] = _kl_to_base(model, base, tokenizer, traces)
    return point


def _share(flags: list[bool]) -> float:
    return float(np.mean(flags))


def _sample(
    setting: Setting, model: Any, tokenizer: Any, split: PromptSplit, *, injected: bool = False
) -> tuple[list[Truth], list[Any]]:
    """What a model does on a split, and its traces; `injected`: after a miss not its own."""
    from trainers.pocket.base import sample

    prompts = setting.prompts[split][:N_PROMPTS]
    traces = sample(
        model,
        tokenizer,
        prompts,
        prefill=injected_misses(prompts) if injected else "",
        seed=setting.seed,
        max_new_tokens=setting.plan.max_new_tokens,
    )
    truths = []
    for trace, prompt in zip(traces, prompts, strict=True):
        truths.append(read_truth(trace.completion, prompt))
    return truths, traces


def _kl_to_base(model: Any, base: Any, tokenizer: Any, traces: list[Any]) -> float:
    from cotlens import score_tokens
    from cotlens.models.load import wrap_model

    scored = score_tokens(
        wrap_model(model, tokenizer), traces, reference=wrap_model(base, tokenizer)
    )
    values = [trace.values["kl"] for trace in scored]
    return float(np.mean(np.concatenate(values)))


def read_paths(out: Path) -> pd.DataFrame:
    """All points of the development seeds: one row an arm, rate, seed and checkpoint.

    The base's own point is the first of every path, checkpoint 0.
    """
    points = []
    for path in sorted(out.glob("seed=*/*/path.json")):
        points += json.loads(path.read_text(encoding="utf-8"))
    return pd.DataFrame(points, columns=["arm", "rate", "seed", "checkpoint", *MEASURES])
