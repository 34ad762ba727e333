"""A trainer that goes on from its newest checkpoint, random numbers included, and stops with one."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from trainers.rewards import RewardError


# --- a stop that loses nothing ---------------------------------------------------------------------------------
class _Dice(TrainerCallback):
    """Keeps the random state of the last finished step, as a checkpoint written there would have it."""

    def __init__(self) -> None:
        self.first = 0
        self.keep()

    def keep(self) -> None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
        self.state = random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda

    def put_back(self) -> None:
        python, numpy, cpu, cuda = self.state
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    def on_train_begin(self, args, state, control, **kwargs) -> None:  # noqa: ARG002
        self.first = state.global_step
        self.keep()

    def on_step_end(self, args, state, control, **kwargs) -> None:  # noqa: ARG002
        self.keep()


def train_or_stop(trainer: Any, resume: str | bool | None = None) -> None:
    """Trains; a reward that cannot be given stops it with a checkpoint of the last finished step.

    A resumed run goes on from there as if nothing had happened: the steps that follow are those of a run that was
    never stopped.

    Args:
        trainer: a trainer of TRL.
        resume: a checkpoint; `auto`: the newest in the output folder, if there is one.

    Raises:
        RewardError: naming the checkpoint and what failed.
    """
    dice, checkpoint = _Dice(), newest(trainer.args.output_dir, resume)
    trainer.add_callback(dice)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except RewardError as error:
        step = trainer.state.global_step
        if not (checkpoint and step == dice.first):  # else it is there already
            dice.put_back()
            # transformers writes checkpoints inside its loop only; the weights are those of the last finished step.
            trainer._save_checkpoint(trainer.model, trial=None)
        raise RewardError(
            f"stopped behind step {step} ({trainer.args.output_dir}/checkpoint-{step}; go on with "
            f"--resume_from_checkpoint auto): {error}"
        ) from error


def newest(folder: str | Path, resume: str | bool | None) -> str | None:
    """The checkpoint to go on from: the one named, for `auto` the newest of the folder, else None."""
    if not resume:
        return None
    if resume not in ("auto", True, "True", "true"):
        return str(resume)
    found = [
        path for path in Path(folder).glob("checkpoint-*") if (path / "trainer_state.json").exists()
    ]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None
