"""Evaluate: samples of a fixed set of prompts while a trainer runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from cotlens.trace import Trace
from trainers.record import forget_later, part_path, write_traces


# --- samples of a fixed set ------------------------------------------------------------------------------------
@dataclass
class Evaluate(TrainerCallback):
    """Samples a fixed set of prompts every so many steps, and before the first, for the dynamics over training.

    The sampling has its own seed, the same at every step, and leaves the random state of training as it was.

    Attributes:
        prompts: rows with `prompt` (rendered), and if there is one `request`, `id`, `domain`, `split`, `answer`.
        tokenizer: of the model.
        folder: RECORD.
        every: steps.
        n_samples: completions per prompt.
        max_new_tokens: of one completion.
        temperature: of sampling; 0 is greedy.
        batch_size: completions made together.
        method: name of the arm, for the traces.
        seed: of sampling.
    """

    prompts: Sequence[Mapping[str, Any]]
    tokenizer: Any
    folder: Path
    every: int = 50
    n_samples: int = 1
    max_new_tokens: int = 512
    temperature: float = 1.0
    batch_size: int = 32
    method: str = ""
    seed: int = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:  # noqa: ARG002
        plugin = getattr(args, "deepspeed_plugin", None)
        if (plugin is not None and plugin.zero_stage == 3) or args.fsdp:
            raise ValueError(
                "Evaluate needs the whole model on one process: not with FSDP or ZeRO-3; sample checkpoints"
            )
        if PartialState().is_main_process:
            forget_later(self.folder / "samples", state.global_step + (state.global_step > 0))
            if state.global_step == 0:
                self.sample(model, 0)
        PartialState().wait_for_everyone()

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:  # noqa: ARG002
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            if PartialState().is_main_process:
                self.sample(model, state.global_step)
            PartialState().wait_for_everyone()

    def sample(self, model: Any, step: int) -> None:
        """Samples and writes."""
        rows = [(row, number) for row in self.prompts for number in range(self.n_samples)]
        traces, training = [], model.training
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(self.seed)
            model.eval()
            for first in range(0, len(rows), self.batch_size):
                traces += self._batch(model, step, rows[first : first + self.batch_size], first)
        model.train(training)
        write_traces(part_path(self.folder / "samples", step, 0), traces)

    def _batch(
        self, model: Any, step: int, rows: Sequence[tuple[Mapping[str, Any], int]], first: int
    ) -> list[Trace]:
        encoded = [self.tokenizer(row["prompt"])["input_ids"] for row, _ in rows]
        width, pad = max(map(len, encoded)), self.tokenizer.pad_token_id
        ids = torch.tensor(
            [[pad] * (width - len(one)) + one for one in encoded], device=model.device
        )
        mask = torch.tensor(
            [[0] * (width - len(one)) + [1] * len(one) for one in encoded], device=model.device
        )
        sampling = (
            {"temperature": self.temperature, "top_k": 0, "top_p": 1.0} if self.temperature else {}
        )
        made = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=self.max_new_tokens, pad_token_id=pad,
            do_sample=self.temperature > 0, **sampling,
        )[:, width:].tolist()  # fmt: skip
        ends = model.generation_config.eos_token_id
        ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        name, traces = getattr(model, "name_or_path", "") or "", []
        for i, ((row, number), before, after) in enumerate(zip(rows, encoded, made, strict=True)):
            end = next((k + 1 for k, token in enumerate(after) if token in ends), None)
            traces.append(
                Trace(
                    id=f"sample-{step}/{first + i}",
                    completion=self.tokenizer.decode(after[:end], skip_special_tokens=True),
                    prompt=row["prompt"],
                    prompt_id=str(row.get("prompt_id") or row.get("id") or ""),
                    prompt_token_ids=tuple(before),
                    token_ids=tuple(after[:end]),
                    model=name,
                    method=self.method,
                    training_step=step,
                    domain=row.get("domain") or "",
                    split=row.get("split") or "",
                    gold=str(row["answer"]) if row.get("answer") is not None else "",
                    sample=number,
                    finish_reason="stop" if end else "length",
                    meta={"request": row["request"]} if row.get("request") else {},
                )
            )
        return traces
