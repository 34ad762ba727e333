"""One progress bar, and quiet libraries."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging


# --- output ----------------------------------------------------------------------------------------------------
class OneBar(ProgressCallback):
    """The progress bar, with the last numbers beside it in place of a line per step."""

    shown = {"loss": "loss", "reward": "reward", "kl": "kl", "completions/mean_length": "length"}  # noqa: RUF012

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:  # noqa: ARG002
        if state.is_world_process_zero and self.training_bar is not None and logs:
            numbers = {
                short: f"{float(logs[key]):.3g}"
                for key, short in self.shown.items()
                if logs.get(key) is not None
            }
            if numbers:
                self.training_bar.set_postfix(numbers, refresh=False)


def quieten(trainer: Any) -> None:
    """One progress bar, or with `disable_tqdm` no output at all, in place of TRL's table or line per step."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(OneBar())


@contextmanager
def quiet() -> Iterator[None]:
    """No bar for each preparation of a data set and each file of weights, and no warning about TRL's own code."""
    hidden = datasets.are_progress_bars_disabled()
    shown = transformers_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # TRL 1.16 calls what transformers 5.23 has renamed, whatever its user does.
            warnings.filterwarnings(
                "ignore", r"`\w*gradient_checkpointing\w*` is deprecated", FutureWarning
            )
            yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()
        if shown:
            transformers_logging.enable_progress_bar()
