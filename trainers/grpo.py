"""Group relative policy optimisation with safety, correctness and format rewards, on TRL's GRPOTrainer.

    accelerate launch --module trainers.grpo --config trainers/configs/grpo_guard.yaml --model_name_or_path MODEL --data FILE

Rows have `prompt`, and what the rewards ask for: `domain`, `answer` (see trainers/rewards.py). Every prompt is rendered
beforehand, so that a thought may be opened in it; the request as the user wrote it stays in the column `request`.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from cotlens.judges.grade import grade
from cotlens.models.load import Model
from trainers.bars import quiet, quieten
from trainers.record import Recorder
from trainers.render import render_prompt, request_of
from trainers.resume import train_or_stop
from trainers.rewards import Reward, check_rewards, make_rewards
from trainers.rows import Row, as_dataset, check_lengths, check_rows, check_tokenizer
from trainers.script import describe, load, parse, watching

# What makes tiny models quick on a CPU: GRPOConfig(**CPU, ...), and torch.set_num_threads to the cores that are free.
# TRL's own defaults are for GPUs. Measured on one thread, 0.9 million parameters, 64 completions of 80 tokens: 1.4 s a
# step, of which sampling takes 45%, backward 34%, forward 18%; rewards and recording 3%. A KL term adds a fifth.
CPU: Mapping[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "save_strategy": "no",
}


class _EpochSampler(RepeatSampler):
    """TRL's sampler, with an order that depends on the epoch's number: a resumed run meets the prompts it had left."""

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + epoch)


class _Trainer(GRPOTrainer):
    _name = "GRPO"

    def _get_train_sampler(self, dataset: Dataset | None = None) -> RepeatSampler:
        sampler = super()._get_train_sampler(dataset)
        sampler.__class__ = _EpochSampler
        return sampler  # pyright: ignore[reportReturnType]


def prepare(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row] | Dataset, *, rendered: bool = False
) -> list[dict]:
    """Rows with the prompt rendered and the request beside it.

    Raises:
        ValueError: if the tokenizer or a row lacks what training needs.
    """
    check_tokenizer(tokenizer, rendered=rendered)
    lost = [tag for tag in ("<think>", "</think>") if tag in tokenizer.all_special_tokens]
    if lost:
        raise ValueError(
            f"{', '.join(lost)} is a special token of the tokenizer: TRL drops it before rewards see the text"
        )
    listed = [dict(row) for row in rows]
    check_rows(listed, ("prompt",))
    ready = []
    for row in listed:
        own = (
            {} if row.get("answer") is None else {"answer": str(row["answer"])}
        )  # one type in a column
        request = row.get("request") or ("" if rendered else request_of(row["prompt"]))
        ready.append(
            row
            | own
            | {
                "prompt": render_prompt(tokenizer, row["prompt"], rendered=rendered),
                "request": request,
            }
        )
    return ready


def train(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row] | Dataset,
    *,
    rewards: Sequence[Reward],
    args: GRPOConfig,
    weights: Sequence[float] | None = None,
    record: str | Path | None = None,
    method: str = "",
    reference: str | None = None,
    lora: Any = None,
    kl_to: Model | None = None,
    rendered: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    resume: str | bool | None = None,
) -> GRPOTrainer:
    """Trains the model in place, saves it with its tokenizer to `args.output_dir`, and returns the trainer.

    Args:
        model: a causal language model, as it is before training also the reference of the KL term.
        tokenizer: its tokenizer.
        rows: `prompt` and what the rewards ask for.
        rewards: functions of trainers/rewards.py or your own, with distinct names.
        args: TRL's settings. Mind `beta` (0: no KL term) and `loss_type`; TRL's defaults are 0 and dapo.
        weights: one a reward; default 1.
        record: folder; every rollout is written under `record/rollouts` as cotlens traces.
        method: name of the arm, for the traces.
        reference: where the model's weights lie, if it was loaded from there and not changed since. Without it, where
            `beta` is above 0 and all weights are trained, the model is first written to `output_dir/reference`:
            TRL loads the reference from disk.
        lora: a peft configuration; the reference is then the model without the adapter.
        kl_to: a model; with `record`, the KL divergence to it is logged at every update as `kl_reference`.
        rendered: as in `sft.train`, like the two that follow.
        callbacks: of transformers; `callbacks.Evaluate` samples a fixed set of prompts while training.
        resume: a checkpoint, or `auto`.

    Raises:
        ValueError: before training, if tokenizer or rows are not fit for it.
        RewardError: if a reward cannot be given; a checkpoint has been written.
    """
    ready = prepare(tokenizer, rows, rendered=rendered)
    args = copy.copy(args)
    args.reward_weights = [float(weight) for weight in weights or [1.0] * len(rewards)]
    if len(args.reward_weights) != len(rewards):
        raise ValueError(
            f"{len(rewards)} rewards and {len(args.reward_weights)} weights; expected one a reward"
        )
    if not all(map(math.isfinite, args.reward_weights)):
        raise ValueError(f"the weights of rewards must be finite, got {args.reward_weights}")
    if any(reward.__name__ == "correctness" for reward in rewards):
        _check_references(ready)
    n_prompts = (args.generation_batch_size or 1) // (args.num_generations or 1)
    if len(ready) < n_prompts:
        raise ValueError(
            f"{len(ready)} rows, but a batch samples {n_prompts} prompts: TRL would train on nothing"
        )
    longest = max(len(tokenizer(row["prompt"])["input_ids"]) for row in ready) + (
        args.max_completion_length or 0
    )
    if longest > (
        context := getattr(model.config.get_text_config(), "max_position_embeddings", longest)
    ):
        raise ValueError(
            f"longest prompt and max_completion_length make {longest} tokens, the context holds {context}"
        )
    if record and not resume and any(Path(record).glob("rollouts/step=*")):
        raise ValueError(
            f"{record}: holds the rollouts of another run; choose another folder, resume it, or remove it"
        )
    folder = Path(record) if record else None
    recorder = Recorder(
        rewards, args.reward_weights, tokenizer, folder, method=method, reference=kl_to
    )
    with quiet():
        if args.beta and lora is None:
            reference = reference or _save_reference(
                model, Path(str(args.output_dir)) / "reference", resume
            )
            model.config._name_or_path = reference  # where TRL loads the reference from
        trainer = _Trainer(
            model=model,
            reward_funcs=list(recorder.functions),
            args=args,
            train_dataset=as_dataset(ready),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=[recorder, *callbacks],
        )
        quieten(trainer)
        train_or_stop(trainer, resume)
        trainer.save_model(args.output_dir)
    return trainer


def _check_references(rows: Sequence[Row]) -> None:
    """Raises ValueError for a reference that cannot be graded against, before it stops training."""
    for number, row in enumerate(rows):
        if row.get("answer") not in (None, ""):
            try:
                grade("1", str(row["answer"]))
            except ValueError as error:
                raise ValueError(f"row {number}: {error}") from None


def _save_reference(model: Any, folder: Path, resume: str | bool | None) -> str:
    """Writes the model as it is before training, unless a run that is resumed did."""
    if PartialState().is_main_process and not (resume and (folder / "config.json").exists()):
        model.save_pretrained(folder)
    PartialState().wait_for_everyone()
    return str(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    script, args, names = parse(GRPOConfig, arguments)
    listed = script.rewards or []
    assert not isinstance(listed, str)  # parsed from JSON by ScriptArguments
    if listed or not script.dry_run:
        check_rewards(listed)
    model, tokenizer, rows, lora = load(script, names)
    if script.dry_run:
        ready = prepare(tokenizer, rows, rendered=script.rendered)
        report = check_lengths(
            [len(tokenizer(row["prompt"])["input_ids"]) for row in ready], None, "prompts"
        )
        domains = sorted({str(row.get("domain")) for row in ready})
        named = ", ".join(f"{reward.get('weight', 1)} x {reward.get('name')}" for reward in listed)
        lines = [
            report,
            f"domains: {', '.join(domains)}",
            f"rewards: {named or 'none: the recipe needs some'}",
        ]
        print(describe(tokenizer, ready[0]["prompt"], "what the model writes", lines, model, lora))
        return
    rewards, weights = make_rewards(listed)
    train(
        model,
        tokenizer,
        rows,
        rewards=rewards,
        weights=weights,
        args=args,
        record=script.record,
        method=script.method,
        reference=names.model_name_or_path,
        lora=lora,
        rendered=script.rendered,
        callbacks=watching(script, tokenizer),
        resume=args.resume_from_checkpoint,
    )


if __name__ == "__main__":
    main()
