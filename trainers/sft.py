"""Supervised fine-tuning on completions, thinking included, on TRL's SFTTrainer.

    accelerate launch --module trainers.sft --config trainers/configs/sft_star1.yaml --model_name_or_path MODEL
    python -m trainers.sft --config ... --dry_run true

Rows have `prompt` (a request or messages) and `completion` (thought and answer as the model writes them). The prompt
goes through the chat template, the completion behind it as it is, and only the completion and its end carry loss.
"""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from trainers.bars import quiet, quieten
from trainers.render import encode, fit_completion, render_prompt
from trainers.resume import train_or_stop
from trainers.rows import Row, as_dataset, check_lengths, check_rows, check_tokenizer
from trainers.script import describe, load, parse, watching


def prepare(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row] | Dataset, *, rendered: bool = False
) -> list[dict]:
    """Rows with the prompt rendered and the completion fitted to it.

    Raises:
        ValueError: if the tokenizer or a row lacks what training needs.
    """
    check_tokenizer(tokenizer, rendered=rendered)
    listed = [dict(row) for row in rows]
    check_rows(listed, ("prompt", "completion"))
    prompts = [render_prompt(tokenizer, row["prompt"], rendered=rendered) for row in listed]
    return [
        {"prompt": p, "completion": fit_completion(p, row["completion"])}
        for p, row in zip(prompts, listed, strict=True)
    ]


def train(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row] | Dataset,
    args: SFTConfig,
    *,
    lora: Any = None,
    rendered: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    resume: str | bool | None = None,
) -> SFTTrainer:
    """Trains the model in place, saves it with its tokenizer to `args.output_dir`, and returns the trainer.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        rows: `prompt` and `completion`; other columns are ignored.
        args: TRL's settings. `max_length` cuts at the end; how many rows it cuts is printed.
        lora: a peft configuration; None: full fine-tuning.
        rendered: the prompts are rendered already.
        callbacks: of transformers.
        resume: a checkpoint, or `auto`: the newest in `output_dir`, if there is one.

    Raises:
        ValueError: before training, if tokenizer, rows or lengths are not fit for it.
    """
    encoded = [encode(tokenizer, **row) for row in prepare(tokenizer, rows, rendered=rendered)]
    report = check_lengths(
        [len(one.input_ids) for one in encoded], args.max_length, "prompt and completion"
    )
    if "will be cut" in report:
        print(report)
    with quiet():
        trainer = SFTTrainer(
            model=model,
            args=args,
            train_dataset=as_dataset([one._asdict() for one in encoded]),
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
    script, args, model_args = parse(SFTConfig, arguments)
    model, tokenizer, rows, lora = load(script, model_args)
    if script.dry_run:
        ready = prepare(tokenizer, rows, rendered=script.rendered)
        lengths = [len(encode(tokenizer, **row).input_ids) for row in ready]
        report = check_lengths(lengths, args.max_length, "prompt and completion")
        print(
            describe(tokenizer, ready[0]["prompt"], ready[0]["completion"], [report], model, lora)
        )
        return
    train(
        model,
        tokenizer,
        rows,
        args,
        lora=lora,
        rendered=script.rendered,
        callbacks=watching(script, tokenizer),
        resume=args.resume_from_checkpoint,
    )


if __name__ == "__main__":
    main()
