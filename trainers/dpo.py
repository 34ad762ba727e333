"""Direct preference optimisation of whole or partial completions, on TRL's DPOTrainer.

    accelerate launch --module trainers.dpo --config trainers/configs/dpo_ipo.yaml --model_name_or_path MODEL --data FILE

Rows have `prompt`, `chosen` and `rejected`. For pairs that part inside the thought (Intervened Preference Optimization,
arXiv 2509.24393), the prompt is rendered and ends with the common beginning of the thought (`rendered: true`): no loss
falls on it.
"""

import copy
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from trainers.bars import quiet, quieten
from trainers.render import encode, fit_completion, render_prompt
from trainers.resume import train_or_stop
from trainers.rows import Row, as_dataset, check_lengths, check_rows, check_tokenizer
from trainers.script import describe, load, parse, watching


def prepare(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row] | Dataset, *, rendered: bool = False
) -> list[dict]:
    """Rows with the prompt rendered and both completions fitted to it.

    Raises:
        ValueError: if the tokenizer or a row lacks what training needs, or chosen and rejected are the same.
    """
    check_tokenizer(tokenizer, rendered=rendered)
    listed = [dict(row) for row in rows]
    check_rows(listed, ("prompt", "chosen", "rejected"))
    if same := [number for number, row in enumerate(listed) if row["chosen"] == row["rejected"]]:
        raise ValueError(f"row {same[0]}: chosen and rejected are the same ({len(same)} such rows)")
    ready = []
    for row in listed:
        prompt = render_prompt(tokenizer, row["prompt"], rendered=rendered)
        ready.append(
            {"prompt": prompt}
            | {key: fit_completion(prompt, row[key]) for key in ("chosen", "rejected")}
        )
    return ready


def lengths_of(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[int]:
    """Tokens of prompt and longer completion of every row."""
    return [
        max(
            len(encode(tokenizer, row["prompt"], row[key]).input_ids)
            for key in ("chosen", "rejected")
        )
        for row in rows
    ]


def train(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row] | Dataset,
    args: DPOConfig,
    *,
    reference: str | None = None,
    lora: Any = None,
    rendered: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    resume: str | bool | None = None,
) -> DPOTrainer:
    """Trains the model in place, saves it with its tokenizer to `args.output_dir`, and returns the trainer.

    Args:
        model: a causal language model, as it is before training also the reference.
        tokenizer: its tokenizer.
        rows: `prompt`, `chosen`, `rejected`; other columns are ignored.
        args: TRL's settings.
        reference: where the model's weights lie, if it was loaded from there and not changed since: the reference is
            then loaded rather than copied, as DeepSpeed and FSDP need.
        lora: a peft configuration; the reference is then the model without the adapter.
        rendered: as in `sft.train`, like the two that follow.
        callbacks: of transformers.
        resume: a checkpoint, or `auto`.

    Raises:
        ValueError: before training, if tokenizer, rows or lengths are not fit for it.
    """
    ready = prepare(tokenizer, rows, rendered=rendered)
    report = check_lengths(
        lengths_of(tokenizer, ready), args.max_length, "prompt and longer completion"
    )
    if "will be cut" in report:
        print(report)
    needs_copy = lora is None and reference is None and not args.precompute_ref_log_probs
    if reference is not None:
        model.config._name_or_path = reference  # where TRL loads the reference from
    with quiet():
        trainer = DPOTrainer(
            model=model,
            ref_model=copy.deepcopy(model) if needs_copy else None,
            args=args,
            train_dataset=as_dataset(ready),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=list(callbacks),
        )
        quieten(trainer)
        train_or_stop(trainer, resume)
        trainer.save_model(args.output_dir)
    return trainer


def main(arguments: Sequence[str] | None = None) -> None:
    """The script."""
    script, args, names = parse(DPOConfig, arguments)
    model, tokenizer, rows, lora = load(script, names)
    if script.dry_run:
        ready = prepare(tokenizer, rows, rendered=script.rendered)
        report = check_lengths(
            lengths_of(tokenizer, ready), args.max_length, "prompt and longer completion"
        )
        print(describe(tokenizer, ready[0]["prompt"], ready[0]["chosen"], [report], model, lora))
        return
    train(
        model,
        tokenizer,
        rows,
        args,
        reference=names.model_name_or_path,
        lora=lora,
        rendered=script.rendered,
        callbacks=watching(script, tokenizer),
        resume=args.resume_from_checkpoint,
    )


if __name__ == "__main__":
    main()
