"""Group relative policy optimisation for safety, correctness and format, with TRL's GRPOTrainer.

    accelerate launch --module trainers.grpo --config trainers/configs/grpo_guard.yaml --data FILE
    python -m trainers.grpo --config trainers/configs/grpo_guard.yaml --data FILE --dry_run true

Rows have `prompt`, and what the rewards ask for: `domain`, `answer` (see trainers/rewards.py).
Every prompt is rendered beforehand, so that it may open the thought. The request as the user wrote
it stays in the column `request`. A rendered prompt may end with the beginning of a thought, which
is also in the column `prefill`: it carries no loss, and the record has it in the completion.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.grpo"
    )

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
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer
from trl.trainer.utils import RepeatSampler

from cotlens.judges.grade import grade
from cotlens.models.load import Model
from trainers.bars import quiet, quieten
from trainers.lengths import train_by_length
from trainers.record import Recorder
from trainers.render import bracket, render_prompt, request_of
from trainers.resume import train_or_stop
from trainers.rewards import Reward, check_rewards, make_rewards
from trainers.rollouts import can_draw, draw_rollouts
from trainers.rows import Row, as_dataset, check_lengths, check_rows, check_tokenizer
from trainers.script import describe, load, parse, watching

# Settings that make tiny models quick on a CPU: GRPOConfig(**CPU, ...), and torch.set_num_threads
# to the free cores. TRL's defaults are for GPUs. On a CPU, lengths.py computes the loss and
# rollouts.py draws, with these settings and others that they know. Measured on one thread with 0.6
# million parameters and 64 completions of 55 tokens: 0.6 s a step, of which sampling takes two
# fifths (benchmarks/pocket.py).
CPU: Mapping[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "activation_checkpointing": False,
    "dataloader_num_workers": 0,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "save_strategy": "no",
}


def main(arguments: Sequence[str] | None = None, config: Any = GRPOConfig) -> None:
    """Run the script: train, or show what would be trained on (`--dry_run true`).

    Args:
        arguments: None: those of the process.
        config: TRL's class of settings; RLOOConfig for trainers/rloo.py.
    """
    script, args, model_args = parse(config, arguments)
    recipe = script.rewards or []
    assert not isinstance(recipe, str)  # parsed from JSON by ScriptArguments

    # A dry run may go without rewards. Wrong ones are an error before weights are loaded.
    if recipe or not script.dry_run:
        check_rewards(recipe)
    model, tokenizer, rows, lora = load(script, model_args)

    if script.dry_run:
        ready = prepare(tokenizer, rows, rendered=script.rendered)
        lines = _facts(tokenizer, ready, recipe)
        learned = bracket("what the model writes", str(tokenizer.eos_token))
        print(describe(ready[0]["prompt"] + learned, lines, model, lora))
        return

    rewards, weights = make_rewards(recipe)
    train(
        model,
        tokenizer,
        rows,
        rewards=rewards,
        weights=weights,
        args=args,
        record=script.record,
        method=script.method,
        reference=model_args.model_name_or_path,
        lora=lora,
        rendered=script.rendered,
        callbacks=watching(script, tokenizer),
        resume=args.resume_from_checkpoint,
    )


def _facts(
    tokenizer: PreTrainedTokenizerBase, ready: Sequence[Row], recipe: Sequence[Mapping[str, Any]]
) -> list[str]:
    """What a dry run shows of rows and rewards: lengths, domains, weights."""
    lengths = check_lengths(_prompt_lengths(tokenizer, ready), None, "prompts")
    domains = sorted({str(row.get("domain")) for row in ready})

    # The reward of a completion is the sum of these terms.
    terms = [f"{reward.get('weight', 1)} x {reward.get('name')}" for reward in recipe]
    reward_sum = ", ".join(terms) or "none: the recipe needs some"
    return [lengths, f"domains: {', '.join(domains)}", f"rewards: {reward_sum}"]


def train(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row] | Dataset,
    *,
    rewards: Sequence[Reward],
    args: GRPOConfig | RLOOConfig,
    weights: Sequence[float] | None = None,
    record: str | Path | None = None,
    method: str = "",
    reference: str | None = None,
    lora: Any = None,
    kl_to: Model | None = None,
    kl_every: int = 1,
    rendered: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    resume: str | bool | None = None,
) -> GRPOTrainer | RLOOTrainer:
    """Train the model in place, save it with its tokenizer, and return the trainer.

    Args:
        model: a causal language model; as it is before training, it is also the reference of the KL
            term.
        tokenizer: its tokenizer.
        rows: `prompt` and what the rewards ask for.
        rewards: functions of trainers/rewards.py or your own, with distinct names.
        args: TRL's settings, which also choose the trainer: GRPO or RLOO. The model is saved to
            `output_dir`. Mind `beta` (0: no KL term) and `loss_type`; TRL's defaults are 0 and dapo
            for GRPO, 0.05 and no choice for RLOO.
        weights: one per reward; default 1.
        record: folder; every rollout is written under `record/rollouts` as cotlens traces.
        method: name of the arm, kept in the traces.
        reference: folder or name of the model's weights, if it was loaded from there and not
            changed since. Without it, where `beta` is above 0 and all weights are trained, the
            model is first written to `output_dir/reference`, because TRL loads the reference from
            disk.
        lora: a peft configuration; the reference is then the model without the adapter.
        kl_to: a model; with `record`, the KL divergence to it is logged as `kl_reference`.
        kl_every: updates from one measurement of it to the next.
        rendered: the prompts are already rendered.
        callbacks: of transformers; `watch.Evaluate` samples a fixed set of prompts during training.
        resume: a checkpoint, or `auto`: the newest in `output_dir`, if there is one.

    Raises:
        ValueError: before training, if tokenizer, rows, weights or settings are not fit for it.
        RewardError: if a reward fails; a checkpoint has been written.
    """
    ready = prepare(tokenizer, rows, rendered=rendered)
    args = copy.copy(args)
    args.reward_weights = _reward_weights(rewards, weights)

    # Everything that would fail or train on nothing is an error now.
    if any(reward.__name__ == "correctness" for reward in rewards):
        _check_gold_answers(ready)
    _check_batch(ready, args)
    _check_context(model, _prompt_lengths(tokenizer, ready), args)
    if record and not resume:
        _check_unused(Path(record))

    # The recorder wraps the rewards, so that it sees all of them for every rollout.
    recorder = Recorder(
        rewards,
        args.reward_weights,
        tokenizer,
        Path(record) if record else None,
        method=method,
        reference=kl_to,
        kl_every=kl_every,
    )
    with quiet():
        if args.beta and lora is None:
            # TRL loads the reference from the path in the model's configuration.
            folder = Path(str(args.output_dir)) / "reference"
            model.config._name_or_path = reference or _save_reference(model, folder, resume)
        options: dict[str, Any] = {
            "model": model,
            "reward_funcs": list(recorder.functions),
            "args": args,
            "train_dataset": as_dataset(ready),
            "processing_class": tokenizer,
            "peft_config": lora,
            "callbacks": [recorder, *callbacks],
        }
        if isinstance(args, RLOOConfig):
            trainer = _RlooTrainer(**options)
        else:
            drawing = draw_rollouts if can_draw(args) else None
            trainer = _Trainer(**options, rollout_func=drawing)
        if _has_plain_head(args) and lora is None:
            train_by_length(trainer.model, temperature=args.temperature)
        quieten(trainer)
        train_or_stop(trainer, resume)
        trainer.save_model(args.output_dir)
    return trainer


def prepare(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row] | Dataset, *, rendered: bool = False
) -> list[dict]:
    """Rows with the prompt rendered, and the request in a column of that name.

    Raises:
        ValueError: if the tokenizer or a row lacks what training needs.
    """
    check_tokenizer(tokenizer, rendered=rendered)

    # TRL decodes completions without special tokens.
    special_tags = [tag for tag in ("<think>", "</think>") if tag in tokenizer.all_special_tokens]
    if special_tags:
        raise ValueError(
            f"{', '.join(special_tags)} is a special token of the tokenizer: "
            "TRL drops it before rewards see the text"
        )

    raw = [dict(row) for row in rows]
    check_rows(raw, ("prompt",))

    ready = []
    for number, row in enumerate(raw):
        # TRL looks at the first row alone: all must be text.
        if rendered and not isinstance(row["prompt"], str):
            kind = type(row["prompt"]).__name__
            raise ValueError(f"row {number}: expected a rendered prompt, got {kind}")
        request = row.get("request")
        if not request:
            request = "" if rendered else request_of(row["prompt"])
        prompt = render_prompt(tokenizer, row["prompt"], rendered=rendered)
        ready_row = row | {"prompt": prompt, "request": request}
        _check_prefill(ready_row, number)

        # A column of a data set has one type: 4 and "4" both become text.
        if row.get("answer") is not None:
            ready_row["answer"] = str(row["answer"])
        ready.append(ready_row)
    return ready


def _check_prefill(row: Row, number: int) -> None:
    """Raise ValueError if the prompt does not end with the beginning of the completion."""
    # The record could not be rebuilt, and the model would not have read it.
    prefill = row.get("prefill") or ""
    if not row["prompt"].endswith(prefill):
        raise ValueError(
            f"row {number}: its prompt ends in {row['prompt'][-20:]!r}, not in its prefill "
            f"{prefill[-20:]!r}; put the prefill after the rendered prompt (rendered: true)"
        )


def _reward_weights(rewards: Sequence[Reward], weights: Sequence[float] | None) -> list[float]:
    reward_weights = [float(weight) for weight in weights or [1.0] * len(rewards)]
    if len(reward_weights) != len(rewards):
        raise ValueError(
            f"{len(rewards)} rewards and {len(reward_weights)} weights; expected one a reward"
        )
    if not all(map(math.isfinite, reward_weights)):
        raise ValueError(f"the weights of rewards must be finite, got {reward_weights}")
    return reward_weights


def _check_gold_answers(ready: Sequence[Row]) -> None:
    """Raise ValueError for a gold answer that cannot be graded against."""
    # Without this, training would stop at the first batch that samples the row.
    for number, row in enumerate(ready):
        gold = row.get("answer")
        if gold in (None, ""):
            continue
        try:
            grade("1", str(gold))
        except ValueError as error:
            raise ValueError(f"row {number}: {error}") from None


def _check_batch(ready: Sequence[Row], args: GRPOConfig | RLOOConfig) -> None:
    # TRL's sampler drops a batch that is not full.
    n_prompts = (args.generation_batch_size or 1) // (args.num_generations or 1)
    if len(ready) < n_prompts:
        raise ValueError(
            f"{len(ready)} rows, but a batch samples {n_prompts} prompts: "
            "TRL would train on nothing"
        )


def _check_context(
    model: Any, prompt_lengths: Sequence[int], args: GRPOConfig | RLOOConfig
) -> None:
    # Only the longest prompt matters: all completions may reach the limit.
    longest = max(prompt_lengths) + (args.max_completion_length or 0)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", longest)
    if longest > context:
        raise ValueError(
            f"longest prompt and max_completion_length make {longest} tokens, "
            f"the context holds {context}"
        )


def _has_plain_head(args: GRPOConfig | RLOOConfig) -> bool:
    """Whether a CPU trains, and the loss needs log-probabilities alone, in the usual precision."""
    if isinstance(args, RLOOConfig):
        return bool(args.use_cpu)
    has_bonus = args.entropy_coef != 0 or args.use_adaptive_entropy
    return bool(args.use_cpu) and not has_bonus and not args.cast_lm_head_to_fp32


def _prompt_lengths(tokenizer: PreTrainedTokenizerBase, ready: Sequence[Row]) -> list[int]:
    return [len(tokenizer(row["prompt"])["input_ids"]) for row in ready]


def _check_unused(record: Path) -> None:
    if any(record.glob("rollouts/step=*")):
        raise ValueError(
            f"{record}: holds the rollouts of another run; "
            "choose another folder, resume it, or remove it"
        )


def _save_reference(model: Any, folder: Path, resume: str | bool | None) -> str:
    """The folder of the model as it is before training; a resumed run has written it already."""
    # A resumed run has moved away from the model that its first start saved.
    is_written = bool(resume) and (folder / "config.json").exists()
    if PartialState().is_main_process and not is_written:
        model.save_pretrained(folder)
    PartialState().wait_for_everyone()
    return str(folder)


class _EpochSampler(RepeatSampler):
    """TRL's sampler with an order that depends on the epoch's number.

    A run resumed in a later epoch thus meets the prompts it would have met without the stop.
    """

    def set_epoch(self, epoch: int) -> None:
        """Accelerate calls this before each epoch."""
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + epoch)


def _by_epoch(sampler: Any) -> RepeatSampler:
    """TRL decides what is sampled how often; only the order of each epoch is ours."""
    assert isinstance(sampler, RepeatSampler)
    return _EpochSampler(
        sampler.data_source,
        sampler.mini_repeat_count,
        batch_size=sampler.batch_size,
        repeat_count=sampler.repeat_count,
        shuffle=sampler.shuffle,
        seed=sampler.seed,
    )


class _Trainer(GRPOTrainer):
    def _get_train_sampler(self, dataset: Dataset | None = None) -> RepeatSampler:
        return _by_epoch(super()._get_train_sampler(dataset))


class _RlooTrainer(RLOOTrainer):
    def _get_train_sampler(self, dataset: Dataset | None = None) -> RepeatSampler:
        return _by_epoch(super()._get_train_sampler(dataset))


if __name__ == "__main__":
    main()
