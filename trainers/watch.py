"""How does a model change during training? Evaluate samples a fixed set of prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from cotlens.trace import Trace
from trainers.record import end_ids_of, forget_later, part_path, write_traces

BATCH_SIZE = 32  # completions sampled together


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
        draws = []
        for row in self.prompts:
            for number in range(self.n_samples):
                draws.append((row, number))

        # Training must go on as if nothing had been sampled.
        traces = []
        was_training = model.training
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.no_grad():
            torch.manual_seed(self.seed)
            model.eval()
            for first in range(0, len(draws), BATCH_SIZE):
                batch = draws[first : first + BATCH_SIZE]
                traces += self._sample_batch(model, step, batch, first)
        model.train(was_training)

        write_traces(part_path(self.folder / "samples", step, 0), traces)

    def _sample_batch(
        self, model: Any, step: int, draws: Sequence[tuple[Mapping[str, Any], int]], first: int
    ) -> list[Trace]:
        """The traces of one batch of draws: row and number of the sample, from draw `first` on."""
        prompts = [self.tokenizer(row["prompt"])["input_ids"] for row, _ in draws]
        completions = self._generate(model, prompts)
        end_ids = end_ids_of(model, self.tokenizer)
        model_name = getattr(model, "name_or_path", "") or ""

        traces = []
        batch = zip(draws, prompts, completions, strict=True)
        for i, (draw, prompt_ids, generated_ids) in enumerate(batch):
            row, number = draw

            # A batch goes on until its longest completion ends: cut after the first end.
            ends = [k for k, token in enumerate(generated_ids) if token in end_ids]
            token_ids = generated_ids[: ends[0] + 1] if ends else generated_ids

            traces.append(
                Trace(
                    id=f"sample-{step}/{first + i}",
                    completion=self.tokenizer.decode(token_ids, skip_special_tokens=True),
                    prompt=row["prompt"],
                    prompt_id=str(row.get("prompt_id") or row.get("id") or ""),
                    prompt_token_ids=tuple(prompt_ids),
                    token_ids=tuple(token_ids),
                    model=model_name,
                    method=self.method,
                    training_step=step,
                    domain=row.get("domain") or "",
                    split=row.get("split") or "",
                    gold="" if row.get("answer") is None else str(row["answer"]),
                    sample=number,
                    finish_reason="stop" if ends else "length",
                    meta={"request": row["request"]} if row.get("request") else {},
                )
            )
        return traces

    def _generate(self, model: Any, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The ids sampled for each prompt, all of one length: ended completions are padded."""
        # Prompts are padded on the left, so that all completions start at one place.
        pad_id = self.tokenizer.pad_token_id
        width = max(map(len, prompts))
        input_ids = []
        attention_mask = []
        for prompt_ids in prompts:
            n_pads = width - len(prompt_ids)
            input_ids.append([pad_id] * n_pads + list(prompt_ids))
            attention_mask.append([0] * n_pads + [1] * len(prompt_ids))

        generated = model.generate(
            input_ids=torch.tensor(input_ids, device=model.device),
            attention_mask=torch.tensor(attention_mask, device=model.device),
            max_new_tokens=self.max_new_tokens,
            pad_token_id=pad_id,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
        return generated[:, width:].tolist()
