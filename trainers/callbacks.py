"""What happens around training: rollouts and samples become cotlens traces, one bar, a stop that loses nothing.

    RECORD/rollouts/step=000012/part-00000.parquet   what GRPO trained on, with every reward
    RECORD/samples/step=000012/part-00000.parquet    a fixed set of prompts, sampled every so many steps

Each is a file of traces that `cotlens.read_traces` and `cotlens analyze RECORD/rollouts/*/*.parquet` read. The step is
the number of updates the sampling model had: 0 for the untouched one. TRL's own log of completions counts one more.
"""

import math
import random
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from rewards import Reward, RewardError
from rows import request_of
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.utils import logging as transformers_logging

from cotlens.model import Model, score_tokens, wrap_model
from cotlens.run import write_parquet
from cotlens.table import analyze_traces
from cotlens.trace import Trace

_OWN = ("prompt", "request", "domain", "split", "answer", "id", "prompt_id", "trainer_state", "log_extra", "log_metric")


def write_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Writes a file of traces, whole or not at all."""
    write_parquet(path, analyze_traces(traces)[0])


def _part(folder: Path, step: int, part: int) -> Path:
    return folder / f"step={step:06d}" / f"part-{part:05d}.parquet"


def _forget_later(folder: Path, step: int) -> None:
    """Removes what a killed run left of the steps that are about to be made again."""
    for later in folder.glob("step=*"):
        if int(later.name.removeprefix("step=")) >= step:
            shutil.rmtree(later)


# --- rollouts --------------------------------------------------------------------------------------------------


class Recorder(TrainerCallback):
    """Writes every rollout with its rewards, and stops at a reward that is NaN.

    It wraps the reward functions, and writes when the last has spoken. A further function of weight 0 would see no
    other's values, and rows for which every reward is None would count as scored.

    Args:
        functions: the rewards.
        weights: one a reward.
        tokenizer: of the model.
        folder: RECORD; None: only checks.
        method: name of the arm, for the traces.
        reference: a model; TRL logs `kl_reference` of every update: the KL divergence of the policy
            to it, in nats, mean over the tokens just sampled. Exact at each token, where TRL's own `kl` (with `beta`
            above 0) estimates it by the sampled token alone.
    """

    def __init__(
        self,
        functions: Sequence[Reward],
        weights: Sequence[float],
        tokenizer: Any,
        folder: Path | None = None,
        *,
        method: str = "",
        reference: Model | None = None,
    ) -> None:
        self.tokenizer, self.method, self.reference = tokenizer, method, reference
        self.folder = folder / "rollouts" if folder else None
        self.weights = dict(zip([function.__name__ for function in functions], weights, strict=True))
        if len(self.weights) < len(functions):
            raise ValueError(f"two rewards have the same name: {', '.join(f.__name__ for f in functions)}")
        last = functions[-1].__name__
        self.functions = [_watched(function, self, function.__name__ == last) for function in functions]
        self.values: dict[str, list[float | None]] = {}
        self.network: Any = None
        self.name, self.ends, self.step, self.part = "", frozenset(), -1, 0

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:  # noqa: ARG002
        self.network, self.name = model, getattr(model, "name_or_path", "") or ""
        ends = model.generation_config.eos_token_id if model is not None else None
        ends = ends if isinstance(ends, list) else [ends]
        self.ends = frozenset([self.tokenizer.eos_token_id, *ends])
        if self.folder and PartialState().is_main_process:
            _forget_later(self.folder, state.global_step)
        PartialState().wait_for_everyone()

    def write(self, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]) -> None:
        """Writes what every reward has now spoken of. Rollouts of an evaluation by TRL are no training and left out."""
        if self.folder is None or self.network is None or not self.network.training:
            return
        step, state = columns["trainer_state"].global_step, PartialState()
        self.part = self.part + 1 if step == self.step else 0  # several batches may be sampled for one step
        self.step = step
        part = self.part * state.num_processes + state.process_index
        traces = [self._trace(i, part, prompts, completions, columns) for i in range(len(prompts))]
        write_traces(_part(self.folder, step, part), traces)
        if self.reference is not None:
            columns["log_metric"]("kl_reference", self._kl(traces))

    def _kl(self, traces: Sequence[Trace]) -> float:
        """Mean KL divergence of the policy to the reference over the tokens of its rollouts."""
        scored = score_tokens(wrap_model(self.network, self.tokenizer), traces, reference=self.reference)
        self.network.train()  # which `wrap_model` ended
        return float(np.nanmean(np.concatenate([one.values["kl"] for one in scored])))

    def _trace(self, i: int, part: int, prompts: Any, completions: Any, columns: Mapping[str, Any]) -> Trace:
        completion, ids = completions[i], columns["completion_ids"][i]
        text = completion if isinstance(completion, str) else str(completion[-1].get("content") or "")
        row = {key: values[i] for key, values in columns.items() if key not in _OWN and isinstance(values, list)}
        row.pop("completion_ids", None)
        rewards = {name: values[i] for name, values in self.values.items()}
        scored = [self.weights[name] * value for name, value in rewards.items() if value is not None]
        prompt = prompts[i]

        def column(name: str) -> str:
            value = columns.get(name, [None] * len(prompts))[i]
            return "" if value is None else str(value)

        return Trace(
            id=f"step-{self.step}/{part}/{i}",
            completion=text,
            prompt=prompt if isinstance(prompt, str) else request_of(prompt),
            prompt_id=column("prompt_id") or column("id"),
            prompt_token_ids=tuple(self.tokenizer(prompt)["input_ids"]) if isinstance(prompt, str) else None,
            token_ids=tuple(ids),
            model=self.name,
            method=self.method,
            training_step=self.step,
            domain=column("domain"),
            split=column("split"),
            gold=column("answer"),
            sample=sum(before == prompt for before in prompts[:i]),
            finish_reason="stop" if ids and ids[-1] in self.ends else "length",
            reward=sum(scored) if scored else None,
            meta=row | {"rewards": rewards} | ({"request": column("request")} if column("request") else {}),
        )


def _watched(function: Reward, recorder: Recorder, is_last: bool) -> Reward:
    """A reward that checks and shares its values. With several processes a failure on one of them stops all."""

    def watched(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        failure, values = "", []
        try:
            values = function(prompts=prompts, completions=completions, **columns)
            failure = _nan(function.__name__, values, prompts, completions)
        except RewardError as error:
            failure = str(error)
        failures = gather_object([failure]) if PartialState().num_processes > 1 else [failure]
        if any(failures):
            raise RewardError(next(filter(None, failures)))
        recorder.values[function.__name__] = values
        if is_last:
            recorder.write(prompts, completions, columns)
            recorder.values = {}
        return values

    watched.__name__ = function.__name__
    return watched


def _nan(name: str, values: Sequence[float | None], prompts: Sequence[Any], completions: Sequence[Any]) -> str:
    bad = [i for i, value in enumerate(values) if value is not None and not math.isfinite(value)]
    if not bad:
        return ""
    prompt, completion = str(prompts[bad[0]])[-200:], str(completions[bad[0]])[:200]
    return (
        f"reward {name}: row {bad[0]} of the batch is {values[bad[0]]} (TRL takes NaN for None); expected a finite "
        f"number, or None where it does not apply. Prompt: {prompt!r}, completion: {completion!r}"
    )


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
            _forget_later(self.folder / "samples", state.global_step + (state.global_step > 0))
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
        write_traces(_part(self.folder / "samples", step, 0), traces)

    def _batch(self, model: Any, step: int, rows: Sequence[tuple[Mapping[str, Any], int]], first: int) -> list[Trace]:
        encoded = [self.tokenizer(row["prompt"])["input_ids"] for row, _ in rows]
        width, pad = max(map(len, encoded)), self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(one)) + one for one in encoded], device=model.device)
        mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in encoded], device=model.device)
        sampling = {"temperature": self.temperature, "top_k": 0, "top_p": 1.0} if self.temperature else {}
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


# --- output ----------------------------------------------------------------------------------------------------


class OneBar(ProgressCallback):
    """The progress bar, with the last numbers beside it in place of a line per step."""

    shown = {"loss": "loss", "reward": "reward", "kl": "kl", "completions/mean_length": "length"}  # noqa: RUF012

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:  # noqa: ARG002
        if state.is_world_process_zero and self.training_bar is not None and logs:
            numbers = {
                short: f"{float(logs[key]):.3g}" for key, short in self.shown.items() if logs.get(key) is not None
            }
            if numbers:
                self.training_bar.set_postfix(numbers, refresh=False)


def quieten(trainer: Any) -> None:
    """One progress bar, or with `disable_tqdm` no output at all, in place of TRL's table or line per step."""
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if not trainer.args.disable_tqdm:
        trainer.add_callback(OneBar())


@contextmanager
def quiet() -> Iterator[None]:
    """No bar for each preparation of a data set and each file of weights, and no warning about TRL's own code."""
    hidden = datasets.are_progress_bars_disabled()
    shown = transformers_logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # TRL 1.16 calls what transformers 5.23 has renamed, whatever its user does.
            warnings.filterwarnings("ignore", r"`\w*gradient_checkpointing\w*` is deprecated", FutureWarning)
            yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()
        if shown:
            transformers_logging.enable_progress_bar()


# --- a stop that loses nothing ---------------------------------------------------------------------------------


class _Dice(TrainerCallback):
    """Keeps the random state of the last finished step, as a checkpoint written there would have it."""

    def __init__(self) -> None:
        self.first = 0
        self.keep()

    def keep(self) -> None:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
        self.state = random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda

    def put_back(self) -> None:
        python, numpy, cpu, cuda = self.state
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    def on_train_begin(self, args, state, control, **kwargs) -> None:  # noqa: ARG002
        self.first = state.global_step
        self.keep()

    def on_step_end(self, args, state, control, **kwargs) -> None:  # noqa: ARG002
        self.keep()


def train_or_stop(trainer: Any, resume: str | bool | None = None) -> None:
    """Trains; a reward that cannot be given stops it with a checkpoint of the last finished step.

    A resumed run goes on from there as if nothing had happened: the steps that follow are those of a run that was
    never stopped.

    Args:
        trainer: a trainer of TRL.
        resume: a checkpoint; `auto`: the newest in the output folder, if there is one.

    Raises:
        RewardError: naming the checkpoint and what failed.
    """
    dice, checkpoint = _Dice(), newest(trainer.args.output_dir, resume)
    trainer.add_callback(dice)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except RewardError as error:
        step = trainer.state.global_step
        if not (checkpoint and step == dice.first):  # else it is there already
            dice.put_back()
            # transformers writes checkpoints inside its loop only; the weights are those of the last finished step.
            trainer._save_checkpoint(trainer.model, trial=None)
        raise RewardError(
            f"stopped behind step {step} ({trainer.args.output_dir}/checkpoint-{step}; go on with "
            f"--resume_from_checkpoint auto): {error}"
        ) from error


def newest(folder: str | Path, resume: str | bool | None) -> str | None:
    """The checkpoint to go on from: the one named, for `auto` the newest of the folder, else None."""
    if not resume:
        return None
    if resume not in ("auto", True, "True", "true"):
        return str(resume)
    found = [path for path in Path(folder).glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    return str(max(found, key=lambda path: int(path.name.rpartition("-")[2]))) if found else None
