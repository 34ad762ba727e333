"""Supervised fine-tuning on completions, thinking included, with TRL's SFTTrainer.

    accelerate launch --module trainers.sft --config trainers/configs/sft_star1.yaml
    python -m trainers.sft --config trainers/configs/sft_star1.yaml --dry_run true

Rows have `prompt` (a request or messages) and `completion` (thought and answer as the model writes
them). The prompt goes through the chat template, the completion follows it unchanged. Only the
completion and its end carry loss; where a row has `learned`, spans of its completion as code points
([[start, stop], ...]), only these do. With `--anchored true`, rows whose `anchor` is true are not
learned: there the model keeps to itself before training.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.sft"
    )

import copy
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from trainers.bars import quiet, quieten
from trainers.lengths import train_by_length
from trainers.render import Encoded, are_spans, bracket, encode, fit_completion, render_prompt
from trainers.resume import train_or_stop
from trainers.rows import Row, as_dataset, check_lengths, check_rows, check_tokenizer
from trainers.script import describe, load, parse, watching


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script: train, or show what would be trained on (`--dry_run true`)."""
    script, args, model_args = parse(SFTConfig, arguments)
    model, tokenizer, rows, lora = load(script, model_args)
    options = _contrast(tokenizer, script.contrast)
    if options and script.anchored:
        raise ValueError("a row is anchored or has pivots: give --anchored or --contrast, not both")

    # The lengths are checked and the first row is shown; nothing else happens.
    if script.dry_run:
        ready = prepare(tokenizer, rows, rendered=script.rendered)
        encoded = _encode_all(tokenizer, ready)
        lines = [_check_lengths(encoded, args), _count_learned(encoded)]
        if script.anchored:
            n_anchored = sum(_anchors(rows))
            lines.append(f"anchored to the model before training: {n_anchored} of {len(rows)} rows")
        first = ready[0]
        learned = bracket(first["completion"], str(tokenizer.eos_token), first.get("learned"))
        print(describe(first["prompt"] + learned, lines, model, lora))
        return

    if script.anchored:
        options = _anchoring(rows, model, lora)
    train(
        model,
        tokenizer,
        rows,
        args,
        lora=lora,
        rendered=script.rendered,
        callbacks=watching(script, tokenizer),
        resume=args.resume_from_checkpoint,
        **options,
    )


def _anchoring(rows: Sequence[Row], model: Any, lora: Any) -> dict[str, Any]:
    """Options of `train` for rows with anchors."""
    from trainers.methods.losses import AnchoredTrainer

    _anchors(rows)
    # Under LoRA, the reference is the model without its adapter.
    reference = copy.deepcopy(model) if lora is None else None
    return {"trainer_class": AnchoredTrainer, "columns": ("anchor",), "reference": reference}


def _anchors(rows: Sequence[Row]) -> list[bool]:
    """Whether each row is anchored.

    Raises:
        ValueError: if a row does not say.
    """
    anchors = []
    for number, row in enumerate(rows):
        anchor = row.get("anchor")
        if not isinstance(anchor, bool):
            raise ValueError(
                f"row {number}: expected `anchor` to be true or false, got {anchor!r}; "
                "python -m trainers.methods.thinksafe writes it, or train without --anchored"
            )
        anchors.append(anchor)
    return anchors


def _contrast(tokenizer: PreTrainedTokenizerBase, weight: float) -> dict[str, Any]:
    """The trainer of R2D for `train`, if its contrast has a weight; its pivots must be words."""
    if not weight:
        return {}
    # Imported here: they build on this file.
    from trainers.methods.pivots import contrast_options

    return contrast_options(tokenizer, weight)


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
    trainer_class: type[SFTTrainer] = SFTTrainer,
    columns: Sequence[str] = (),
    **options: Any,
) -> SFTTrainer:
    """Train the model in place, save it with its tokenizer, and return the trainer.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        rows: `prompt` and `completion`, perhaps `learned`; other columns are ignored.
        args: TRL's settings. The model is saved to `output_dir`. `max_length` cuts rows at the end;
            the number of rows cut is printed.
        lora: a peft configuration; None: full fine-tuning.
        rendered: the prompts are already rendered.
        callbacks: of transformers.
        resume: a checkpoint, or `auto`: the newest in `output_dir`, if there is one.
        trainer_class: with another loss (trainers/methods/losses.py).
        columns: of the rows that its loss reads.
        **options: of the trainer class.

    Raises:
        ValueError: before training, if tokenizer, rows or lengths are not fit for it.
    """
    # TRL gets ids and labels, so that the mask is ours and not the template's.
    ready = prepare(tokenizer, rows, rendered=rendered)
    encoded = _encode_all(tokenizer, ready)
    _count_learned(encoded)
    report = _check_lengths(encoded, args)
    if "will be cut" in report:
        print(report)

    # What the loss reads besides ids and labels.
    table = []
    for row, ids in zip(rows, encoded, strict=True):
        facts = {name: dict(row)[name] for name in columns}
        table.append(ids._asdict() | facts)

    with quiet():
        trainer = trainer_class(
            model=model,
            args=args,
            train_dataset=as_dataset(table),
            processing_class=tokenizer,
            peft_config=lora,
            callbacks=list(callbacks),
            **options,
        )
        if args.use_cpu and lora is None:
            train_by_length(trainer.model)
        quieten(trainer)
        train_or_stop(trainer, resume)
        trainer.save_model(args.output_dir)
    return trainer


def prepare(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row] | Dataset, *, rendered: bool = False
) -> list[dict]:
    """Rows with the prompt rendered and the completion fitted to it.

    Raises:
        ValueError: if the tokenizer or a row lacks what training needs.
    """
    # What would fail later, or teach nothing, is an error here.
    check_tokenizer(tokenizer, rendered=rendered)
    raw = [dict(row) for row in rows]
    check_rows(raw, ("prompt", "completion"))

    # The completion depends on whether the rendered prompt opens the thought.
    ready = []
    for row in raw:
        prompt = render_prompt(tokenizer, row["prompt"], rendered=rendered)
        completion = fit_completion(prompt, row["completion"])
        ready_row: dict[str, Any] = {"prompt": prompt, "completion": completion}
        if row.get("learned") is not None:
            ready_row["learned"] = _fit_spans(row, completion)
        ready.append(ready_row)
    return ready


def _fit_spans(row: Row, fitted: str) -> list[list[int]]:
    """What is learned of a completion that was fitted to its prompt.

    Raises:
        ValueError: if the spans are out of order, empty, or outside of the completion.
    """
    learned = row["learned"]
    completion = row["completion"]
    if not are_spans(learned, completion):
        raise ValueError(
            f"learned: expected spans in order within the completion's {len(completion)} "
            f"characters, got {learned!r}"
        )

    # The tag that opens the thought was put before the completion, or taken away.
    shift = len(fitted) - len(completion)
    shifted = []
    for start, stop in learned:
        if stop + shift > 0:
            shifted.append([max(0, start + shift), stop + shift])
    return shifted


def _encode_all(tokenizer: PreTrainedTokenizerBase, ready: Sequence[Row]) -> list[Encoded]:
    encoded = []
    for row in ready:
        encoded.append(encode(tokenizer, row["prompt"], row["completion"], row.get("learned")))
    return encoded


def _count_learned(encoded: Sequence[Encoded]) -> str:
    """One line on how many tokens carry loss.

    Raises:
        ValueError: if a row has none.
    """
    n_tokens = 0
    n_learned = 0
    for number, row in enumerate(encoded):
        n_row = sum(label != -100 for label in row.labels)
        if not n_row:
            raise ValueError(f"row {number}: no token of its completion is learned; see `learned`")
        n_learned += n_row
        n_tokens += len(row.labels)
    return f"learned: {n_learned:,} of {n_tokens:,} tokens"


def _check_lengths(encoded: Sequence[Encoded], args: SFTConfig) -> str:
    lengths = [len(row.input_ids) for row in encoded]
    return check_lengths(lengths, args.max_length, "prompt and completion")


if __name__ == "__main__":
    main()
