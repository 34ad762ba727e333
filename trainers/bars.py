"""What does a user see during training? One progress bar, and no noise from the libraries."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging


def quieten(trainer: Any) -> None:
    """Show one progress bar instead of TRL's table or line per step; none with `disable_tqdm`."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(OneBar())


class OneBar(ProgressCallback):
    """The progress bar, which shows the latest numbers instead of printing a line per step."""

    # Keys of TRL's logs, and the names on the bar.
    shown = {  # noqa: RUF012
        "loss": "loss",
        "reward": "reward",
        "kl": "kl",
        "completions/mean_length": "length",
    }

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:  # noqa: ARG002
        """Put the numbers of the last log on the bar."""
        if not state.is_world_process_zero or self.training_bar is None or not logs:
            return

        # Logs of evaluations and of the end of training lack some of these.
        numbers = {}
        for key, short_name in self.shown.items():
            if logs.get(key) is not None:
                numbers[short_name] = f"{float(logs[key]):.3g}"
        if numbers:
            self.training_bar.set_postfix(numbers, refresh=False)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide bars for preparing data and loading weights, and warnings about TRL's own code."""
    datasets_were_silent = datasets.are_progress_bars_disabled()
    transformers_was_showing = transformers_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()

    try:
        with warnings.catch_warnings():
            # TRL 1.16 calls names that transformers 5.23 deprecates, whatever its user does.
            warnings.filterwarnings(
                "ignore", r"`\w*gradient_checkpointing\w*` is deprecated", FutureWarning
            )
            # grpo.py uses TRL's hook for sampling, and its tests would see a change.
            warnings.filterwarnings("ignore", r"You are using 'rollout_func'", UserWarning)
            yield
    finally:
        if not datasets_were_silent:
            datasets.enable_progress_bars()
        if transformers_was_showing:
            transformers_logging.enable_progress_bar()
