"""Direct preference optimisation on whole or partial completions, with TRL's DPOTrainer.

    accelerate launch --module trainers.dpo --config trainers/configs/dpo_ipo.yaml --data FILE
    python -m trainers.dpo --config trainers/configs/dpo_ipo.yaml --data FILE --dry_run true

Rows have `prompt`, `chosen` and `rejected`. Pairs may diverge inside the thought (Intervened
Preference Optimization, arXiv 2509.24393): the prompt is then rendered (`rendered: true`) and ends
with the shared beginning of the thought, which carries no loss.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.dpo"
    )

import copy
from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from trainers.bars import quiet, quieten
from trainers.render import bracket, encode, fit_completion, render_prompt
from trainers.resume import train_or_stop
from trainers.rows import Row, as_dataset, check_lengths, check_rows, check_tokenizer
from trainers.script import describe, load, parse, watching


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script: train, or show what would be trained on (`--dry_run true`)."""
    script, args, model_args = parse(DPOConfig, arguments)
    model, tokenizer, rows, lora = load(script, model_args)

    # The lengths are checked and the first row is shown; nothing else happens.
    if script.dry_run:
        ready = prepare(tokenizer, rows, rendered=script.rendered)
        report = _check_lengths(tokenizer, ready, args)
        first = ready[0]
        chosen = bracket(first["chosen"], str(tokenizer.eos_token))
        rejected = bracket(first["rejected"], str(tokenizer.eos_token))
        row = f"{first['prompt']}{chosen}\n\nrejected:\n{rejected}"
        print(describe(row, [report], model, lora))
        return

    train(
        model,
        tokenizer,
        rows,
        args,
        reference=model_args.model_name_or_path,
        lora=lora,
        rendered=script.rendered,
        callbacks=watching(script, tokenizer),
        resume=args.resume_from_checkpoint,
    )


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
    """Train the model in place, save it with its tokenizer, and return the trainer.

    Args:
        model: a causal language model; as it is before training, it is also the reference.
        tokenizer: its tokenizer.
        rows: `prompt`, `chosen`, `rejected`; other columns are ignored.
        args: TRL's settings. The model is saved to `output_dir`.
        reference: folder or name of the model's weights, if it was loaded from there and not
            changed since. The reference is then loaded rather than copied, as DeepSpeed and FSDP
            need.
        lora: a peft configuration; the reference is then the model without the adapter.
        rendered: the prompts are already rendered.
        callbacks: of transformers.
        resume: a checkpoint, or `auto`: the newest in `output_dir`, if there is one.

    Raises:
        ValueError: before training, if tokenizer, rows or lengths are not fit for it.
    """
    ready = prepare(tokenizer, rows, rendered=rendered)
    report = _check_lengths(tokenizer, ready, args)
    if "will be cut" in report:
        print(report)

    # The reference is loaded from disk or copied; LoRA and precomputed log-probabilities need none.
    reference_model = None
    if reference is not None:
        model.config._name_or_path = reference  # TRL loads it from here
    elif lora is None and not args.precompute_ref_log_probs:
        reference_model = copy.deepcopy(model)

    with quiet():
        trainer = DPOTrainer(
            model=model,
            ref_model=reference_model,
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


def prepare(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row] | Dataset, *, rendered: bool = False
) -> list[dict]:
    """Rows with the prompt rendered and both completions fitted to it.

    Raises:
        ValueError: if the tokenizer or a row lacks what training needs, chosen and rejected are the
            same, or a token reaches over the end of a prompt.
    """
    check_tokenizer(tokenizer, rendered=rendered)
    raw = [dict(row) for row in rows]
    check_rows(raw, ("prompt", "chosen", "rejected"))

    # A pair of equal completions teaches nothing.
    is_same = [row["chosen"] == row["rejected"] for row in raw]
    if any(is_same):
        first = is_same.index(True)
        raise ValueError(
            f"row {first}: chosen and rejected are the same ({sum(is_same)} such rows)"
        )

    ready = []
    for row in raw:
        prompt = render_prompt(tokenizer, row["prompt"], rendered=rendered)
        ready_row = {
            "prompt": prompt,
            "chosen": fit_completion(prompt, row["chosen"]),
            "rejected": fit_completion(prompt, row["rejected"]),
        }
        ready.append(ready_row)
    _check_borders(tokenizer, ready)
    return ready


def _check_borders(tokenizer: PreTrainedTokenizerBase, ready: Sequence[Row]) -> None:
    """Raise ValueError where a token would reach over the end of the prompt.

    TRL encodes prompt and completion as one text, and cuts the prompt short where its tokens
    change: part of the context would be learned, with one warning for the whole data set.
    """
    texts = []
    for row in ready:
        texts += [row["prompt"], row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]]
    ids = tokenizer(texts)["input_ids"]

    for number, row in enumerate(ready):
        prompt_ids, *longer_ids = ids[3 * number : 3 * number + 3]
        for name, both_ids in zip(("chosen", "rejected"), longer_ids, strict=True):
            if both_ids[: len(prompt_ids)] == prompt_ids:
                continue
            raise ValueError(
                f"row {number}: a token reaches from the prompt, which ends in "
                f"{row['prompt'][-20:]!r}, into {name}, which begins with {row[name][:20]!r}; "
                "end the prompt before a blank, or after its line breaks "
                "(cotlens.probes.cut finds such places)"
            )


def _check_lengths(
    tokenizer: PreTrainedTokenizerBase, ready: Sequence[Row], args: DPOConfig
) -> str:
    lengths = lengths_of(tokenizer, ready)
    return check_lengths(lengths, args.max_length, "prompt and longer completion")


def lengths_of(tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> list[int]:
    """Number of tokens of the prompt and the longer of its two completions, for every row."""
    lengths = []
    for row in rows:
        chosen = encode(tokenizer, row["prompt"], row["chosen"])
        rejected = encode(tokenizer, row["prompt"], row["rejected"])
        # TRL cuts each of the two sequences alone.
        lengths.append(max(len(chosen.input_ids), len(rejected.input_ids)))
    return lengths


if __name__ == "__main__":
    main()
