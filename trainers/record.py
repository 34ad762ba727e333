"""What did a run train on? Rollouts become cotlens traces, with every reward.

    RECORD/rollouts/step=000012/part-00000.parquet   what GRPO trained on, with every reward
    RECORD/samples/step=000012/part-00000.parquet    prompts sampled during training (watch.py)

`cotlens.read_traces` and `cotlens analyze RECORD/rollouts/*/*.parquet` read these files. The step
is the number of updates that the sampling model had received: 0 for the untouched model. TRL's own
log of completions counts one more.

A row whose prompt ends inside a thought has that beginning in its column `prefill`. The trace is
then as `cotlens.sample` leaves it: its completion begins with the prefill, and its token ids are
those that were drawn; those of the prefill are the last of `prompt_token_ids`.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback

from cotlens.files import write_parquet
from cotlens.formats.prompts import Prompt
from cotlens.models.engine import Job, Written
from cotlens.models.load import Model, wrap_model
from cotlens.models.local import LocalEngine
from cotlens.models.sample import make_trace
from cotlens.models.score import score_tokens
from cotlens.runs.tables import trace_rows
from cotlens.trace import Trace
from trainers.render import request_of
from trainers.rewards import Reward, RewardError, Scores, Texts

# Columns with a place in the trace; the others go to its `meta` as they are.
_PLACED = frozenset(
    {"prompt", "request", "domain", "split", "answer", "id", "prompt_id", "completion_ids"}
)


class Recorder(TrainerCallback):
    """Writes every rollout with its rewards, and stops training at a reward that is NaN.

    It wraps the reward functions, and writes after the last of them has returned. (A further reward
    of weight 0 could not do this: it would not see the values of the others, and rows for which
    every reward is None would count as scored.)

    Args:
        functions: the rewards.
        weights: one per reward.
        tokenizer: of the model.
        folder: RECORD; None: only check the rewards.
        method: name of the arm, kept in the traces.
        reference: a model. TRL then logs `kl_reference`: the KL divergence of the policy to it, in
            nats, the mean over the tokens just sampled. It is exact at each token, whereas TRL's
            own `kl` (with `beta` above 0) estimates it from the sampled token alone.
        kl_every: updates from one measurement of `kl_reference` to the next. It reads the rollouts
            with both models, which takes a small one about as long as the update.
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
        kl_every: int = 1,
    ) -> None:
        # Rewards and weights are kept by name, as TRL logs them.
        names = [function.__name__ for function in functions]
        if len(set(names)) < len(names):
            raise ValueError(f"two rewards have the same name: {', '.join(names)}")
        self.weights = dict(zip(names, weights, strict=True))

        # The last reward to be asked writes the batch.
        self.functions = []
        for function in functions:
            is_last = function is functions[-1]
            self.functions.append(_watched(function, self, is_last=is_last))

        self.tokenizer = tokenizer
        self.method = method
        self.reference = reference
        self.kl_every = kl_every
        self.folder = folder / "rollouts" if folder else None

        # The rewards of the batch at hand, by name.
        self.values: dict[str, Scores] = {}

        # Known once training begins.
        self.network: Any = None
        self.engine: LocalEngine | None = None

        # The file written last.
        self.step = -1
        self.part = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:  # noqa: ARG002
        """Remember the model, and remove rollouts that a killed run left of later steps."""
        self.network = model
        name = getattr(model, "name_or_path", "") or "model"
        self.engine = LocalEngine(model, self.tokenizer, name)
        if self.folder and PartialState().is_main_process:
            forget_later(self.folder, state.global_step)
        PartialState().wait_for_everyone()

    def write(self, prompts: Texts, completions: Texts, columns: Mapping[str, Any]) -> None:
        """Write a batch that every reward has scored, and log its KL divergence to the reference.

        Rollouts of an evaluation by TRL are not training, and are left out.
        """
        is_training = self.network is not None and self.network.training
        if self.folder is None or not is_training:
            return

        step = columns["trainer_state"].global_step
        part = self._next_part(step)

        traces = []
        for i in range(len(completions)):
            trace = self._trace(
                f"step-{step}/{part}/{i}",
                prompts[i],
                row=_row_of(columns, i),
                rewards=_row_of(self.values, i),
                sample=prompts[:i].count(prompts[i]),
            )
            traces.append(trace)
        write_traces(part_path(self.folder, step, part), traces)

        if self.reference is not None and step % self.kl_every == 0:
            columns["log_metric"]("kl_reference", self._kl(traces))

    def _next_part(self, step: int) -> int:
        """The number of the next file of this step; every process has numbers of its own."""
        # Several batches may be sampled for one step.
        if step == self.step:
            self.part += 1
        else:
            self.step = step
            self.part = 0
        processes = PartialState()
        return self.part * processes.num_processes + processes.process_index

    def _trace(
        self,
        trace_id: str,
        prompt: Any,
        *,
        row: Mapping[str, Any],
        rewards: Mapping[str, float | None],
        sample: int,
    ) -> Trace:
        """The trace of one rollout; `row` holds its columns of the data set."""
        # Prompts are text where this project rendered them, else lists of messages. What the row
        # put into the model's mouth is part of its turn.
        prefill = _text_in(row, "prefill")
        prompt_text = (
            prompt.removesuffix(prefill) if isinstance(prompt, str) else request_of(prompt)
        )
        prompt_ids = self.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else []
        request = _text_in(row, "request")
        fields = {
            "prompt_id": _text_in(row, "prompt_id") or _text_in(row, "id"),
            "domain": _text_in(row, "domain"),
            "split": _text_in(row, "split"),
            "gold": _text_in(row, "answer"),
        }
        messages = [{"role": "user", "content": request}] if request else []
        meta = {name: value for name, value in row.items() if name not in _PLACED}
        meta["rewards"] = dict(rewards)
        asked = Prompt(trace_id, messages, fields, meta, trace_id)

        # TRL's sum: rewards that do not apply to a row are left out.
        terms = []
        for name, value in rewards.items():
            if value is not None:
                terms.append(self.weights[name] * value)

        assert self.engine
        job = Job(asked, prompt_text, prompt_ids, sample, prefill)
        written = Written(row["completion_ids"])
        trace = make_trace(self.engine, job, written, method=self.method)
        return replace(
            trace,
            id=trace_id,
            prompt_token_ids=trace.prompt_token_ids or None,
            training_step=self.step,
            reward=_finite(sum(terms)) if terms else None,
        )

    def _kl(self, traces: Sequence[Trace]) -> float:
        """Mean KL divergence of the policy to the reference over its rollouts' tokens, in nats."""
        policy = wrap_model(self.network, self.tokenizer)
        scores = score_tokens(policy, traces, reference=self.reference)
        self.network.train()  # `wrap_model` switched it to evaluation

        kl = np.concatenate([score.values["kl"] for score in scores])
        return float(np.nanmean(kl))


def _finite(reward: float) -> float | None:
    """The reward; None for one that is NaN or infinite, which must not end the training.

    What each function gave stays in the trace's metadata.
    """
    return reward if math.isfinite(reward) else None


def _row_of(columns: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Row `i` of the columns that are lists; TRL passes functions and its state along with them."""
    row = {}
    for name, values in columns.items():
        if isinstance(values, list):
            row[name] = values[i]
    return row


def _text_in(row: Mapping[str, Any], column: str) -> str:
    """The value as text; empty where there is none."""
    value = row.get(column)
    if value is None:
        return ""
    return str(value)


def _watched(function: Reward, recorder: Recorder, *, is_last: bool) -> Reward:
    """The reward, checked and shared with the recorder. A failure in one process stops all."""

    def watched(prompts: Texts, completions: Texts, **columns: Any) -> Scores:
        failure = ""
        values: Scores = []
        try:
            values = function(prompts=prompts, completions=completions, **columns)
            failure = _describe_nan(function.__name__, values, prompts, completions)
        except RewardError as error:
            failure = str(error)

        # All processes raise together: a process left alone would wait for the others forever.
        failures = [failure]
        if PartialState().num_processes > 1:
            failures = gather_object(failures)
        if any(failures):
            raise RewardError(next(filter(None, failures)))

        recorder.values[function.__name__] = values
        if is_last:
            recorder.write(prompts, completions, columns)
            recorder.values = {}
        return values

    watched.__name__ = function.__name__
    return watched


def _describe_nan(name: str, values: Scores, prompts: Texts, completions: Texts) -> str:
    """A message about the first value that is not finite; empty if there is none."""
    for i, value in enumerate(values):
        if value is None or math.isfinite(value):
            continue
        prompt_end = str(prompts[i])[-200:]
        completion_start = str(completions[i])[:200]
        return (
            f"reward {name}: row {i} of the batch is {value} (TRL takes NaN for None); "
            "expected a finite number, or None where it does not apply. "
            f"Prompt: {prompt_end!r}, completion: {completion_start!r}"
        )
    return ""


def part_path(folder: Path, step: int, part: int) -> Path:
    """The path of one of the files of traces written for a step."""
    step_folder = folder / f"step={step:06d}"
    return step_folder / f"part-{part:05d}.parquet"


def write_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Write a file of traces, whole or not at all."""
    write_parquet(path, trace_rows(traces))


def forget_later(folder: Path, step: int) -> None:
    """Remove the traces that a killed run left of this step and later ones."""
    for step_folder in folder.glob("step=*"):
        step_of_folder = int(step_folder.name.removeprefix("step="))
        if step_of_folder >= step:
            shutil.rmtree(step_folder)
