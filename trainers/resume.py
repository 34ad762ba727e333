"""How does a run stop and resume without losing a step? Its checkpoint holds random state too."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from trainers.rewards import RewardError


def train_or_stop(trainer: Any, resume: str | bool | None = None) -> None:
    """Train; a reward that fails stops training with a checkpoint of the last finished step.

    A resumed run takes the same steps as a run that was never stopped.

    Args:
        trainer: a trainer of TRL.
        resume: a checkpoint, or `auto`: the newest in the output folder, if there is one.

    Raises:
        RewardError: naming the checkpoint and what failed.
    """
    checkpoint = newest(trainer.args.output_dir, resume)
    random_state = _LastRandomState()
    trainer.add_callback(random_state)

    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except RewardError as error:
        step = trainer.state.global_step

        # Before its first step, a resumed run already has this checkpoint on disk.
        has_checkpoint = checkpoint and step == random_state.first_step
        if not has_checkpoint:
            random_state.restore()
            # transformers saves checkpoints only inside its loop. The weights here are still those
            # of the last finished step.
            trainer._save_checkpoint(trainer.model, trial=None)

        raise RewardError(
            f"stopped after step {step} ({trainer.args.output_dir}/checkpoint-{step}; go on with "
            f"--resume_from_checkpoint auto): {error}"
        ) from error


def newest(folder: str | Path, resume: str | bool | None) -> str | None:
    """The checkpoint to resume from: the named one, for `auto` the newest; None for a new run."""
    if not resume:
        return None
    if resume not in ("auto", True, "True", "true"):
        return str(resume)

    # A checkpoint that was cut off while it was written has no trainer state.
    complete = [
        path for path in Path(folder).glob("checkpoint-*") if (path / "trainer_state.json").exists()
    ]
    if not complete:
        return None
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2])))


class _LastRandomState(TrainerCallback):
    """Remembers the random state after each finished step, as a checkpoint written there would."""

    def __init__(self) -> None:
        self.first_step = 0
        self.remember()

    def remember(self) -> None:
        self.python = random.getstate()
        self.numpy = np.random.get_state()
        self.cpu = torch.get_rng_state()
        self.cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None

    def restore(self) -> None:
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state_all(self.cuda)

    def on_train_begin(self, args, state, control, **kwargs) -> None:  # noqa: ARG002
        self.first_step = state.global_step
        self.remember()

    def on_step_end(self, args, state, control, **kwargs) -> None:  # noqa: ARG002
        self.remember()
