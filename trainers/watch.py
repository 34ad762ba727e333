"""How does a model change during training? Evaluate samples a fixed set of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback

import cotlens
from cotlens.formats.prompts import Prompt
from cotlens.models.local import LocalEngine
from cotlens.trace import hash_text
from trainers.record import forget_later, part_path, write_traces


@dataclass
class Evaluate(TrainerCallback):
    """Samples a fixed set of prompts before the first step, every few steps, and after the last.

    Sampling is at temperature 1. It has its own seed, the same at every step, and leaves the random
    state of training unchanged.

    Attributes:
        prompts: rows with `prompt` (rendered), and optionally `request`, `id`, `domain`, `split`,
            `answer`.
        tokenizer: of the model.
        folder: RECORD; samples go to `RECORD/samples`.
        every: steps between two samplings.
        n_samples: completions per prompt.
        max_new_tokens: limit of one completion.
        method: name of the arm, kept in the traces.
        seed: of sampling.
    """

    prompts: Sequence[Mapping[str, Any]]
    tokenizer: Any
    folder: Path
    every: int = 50
    n_samples: int = 1
    max_new_tokens: int = 512
    method: str = ""
    seed: int = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:  # noqa: ARG002
        """Sample the untouched model.

        Raises:
            ValueError: if no process holds the whole model.
        """
        deepspeed = getattr(args, "deepspeed_plugin", None)
        is_zero3 = deepspeed is not None and deepspeed.zero_stage == 3
        if is_zero3 or args.fsdp:
            raise ValueError(
                "Evaluate needs the whole model on one process: "
                "not with FSDP or ZeRO-3; sample checkpoints"
            )

        if PartialState().is_main_process:
            # A resumed run keeps the samples of its first step; later ones will be made again.
            is_resumed = state.global_step > 0
            first_step = state.global_step + 1 if is_resumed else 0
            forget_later(self.folder / "samples", first_step)
            if not is_resumed:
                self.sample(model, 0)
        PartialState().wait_for_everyone()

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:  # noqa: ARG002
        """Sample if it is time, and after the last step."""
        step = state.global_step
        is_due = step % self.every == 0
        if is_due or step == state.max_steps:
            if PartialState().is_main_process:
                self.sample(model, step)
            PartialState().wait_for_everyone()

    def sample(self, model: Any, step: int) -> None:
        """Sample every prompt and write the traces."""
        prompts = [self._as_prompt(row, number) for number, row in enumerate(self.prompts)]
        engine = LocalEngine(model, self.tokenizer, getattr(model, "name_or_path", "") or "model")
        traces = cotlens.sample(
            engine,
            prompts,
            n=self.n_samples,
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            method=self.method,
        )

        # The same prompts are sampled at every step: the step makes the ids of traces unique.
        placed = []
        for trace in traces:
            place = {"id": f"step-{step}/{trace.id}", "training_step": step}
            placed.append(replace(trace, **place))
        write_traces(part_path(self.folder / "samples", step, 0), placed)

    def _as_prompt(self, row: Mapping[str, Any], number: int) -> Prompt:
        """A row of rendered prompts as one that `sample` reads as it is."""
        prompt_id = str(row.get("prompt_id") or row.get("id") or hash_text(row["prompt"]))
        fields = {
            "prompt_id": prompt_id,
            "domain": row.get("domain") or "",
            "split": row.get("split") or "",
            "gold": "" if row.get("answer") is None else str(row["answer"]),
        }
        request = row.get("request")
        messages = [{"role": "user", "content": request}] if request else []
        return Prompt(f"{prompt_id}/{number}", messages, fields, {}, f"row {number}", row["prompt"])
