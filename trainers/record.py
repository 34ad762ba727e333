"""What happens around training: rollouts and samples become cotlens traces, one bar, a stop that loses nothing.

    RECORD/rollouts/step=000012/part-00000.parquet   what GRPO trained on, with every reward
    RECORD/samples/step=000012/part-00000.parquet    a fixed set of prompts, sampled every so many steps

Each is a file of traces that `cotlens.read_traces` and `cotlens analyze RECORD/rollouts/*/*.parquet` read. The step is
the number of updates the sampling model had: 0 for the untouched one. TRL's own log of completions counts one more.
"""

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback

from cotlens.files import write_parquet
from cotlens.models.load import Model, wrap_model
from cotlens.models.score import score_tokens
from cotlens.runs.tables import analyze_traces
from cotlens.trace import Trace
from trainers.render import request_of
from trainers.rewards import Reward, RewardError

_OWN = (
    "prompt",
    "request",
    "domain",
    "split",
    "answer",
    "id",
    "prompt_id",
    "trainer_state",
    "log_extra",
    "log_metric",
)


def write_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Writes a file of traces, whole or not at all."""
    write_parquet(path, analyze_traces(traces)[0])


def part_path(folder: Path, step: int, part: int) -> Path:
    return folder / f"step={step:06d}" / f"part-{part:05d}.parquet"


def forget_later(folder: Path, step: int) -> None:
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
        self.weights = dict(
            zip([function.__name__ for function in functions], weights, strict=True)
        )
        if len(self.weights) < len(functions):
            raise ValueError(
                f"two rewards have the same name: {', '.join(f.__name__ for f in functions)}"
            )
        last = functions[-1].__name__
        self.functions = [
            _watched(function, self, function.__name__ == last) for function in functions
        ]
        self.values: dict[str, list[float | None]] = {}
        self.network: Any = None
        self.name, self.ends, self.step, self.part = "", frozenset(), -1, 0

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:  # noqa: ARG002
        self.network, self.name = model, getattr(model, "name_or_path", "") or ""
        ends = model.generation_config.eos_token_id if model is not None else None
        ends = ends if isinstance(ends, list) else [ends]
        self.ends = frozenset([self.tokenizer.eos_token_id, *ends])
        if self.folder and PartialState().is_main_process:
            forget_later(self.folder, state.global_step)
        PartialState().wait_for_everyone()

    def write(
        self, prompts: Sequence[Any], completions: Sequence[Any], columns: Mapping[str, Any]
    ) -> None:
        """Writes what every reward has now spoken of. Rollouts of an evaluation by TRL are no training and left out."""
        if self.folder is None or self.network is None or not self.network.training:
            return
        step, state = columns["trainer_state"].global_step, PartialState()
        self.part = (
            self.part + 1 if step == self.step else 0
        )  # several batches may be sampled for one step
        self.step = step
        part = self.part * state.num_processes + state.process_index
        traces = [self._trace(i, part, prompts, completions, columns) for i in range(len(prompts))]
        write_traces(part_path(self.folder, step, part), traces)
        if self.reference is not None:
            columns["log_metric"]("kl_reference", self._kl(traces))

    def _kl(self, traces: Sequence[Trace]) -> float:
        """Mean KL divergence of the policy to the reference over the tokens of its rollouts."""
        scored = score_tokens(
            wrap_model(self.network, self.tokenizer), traces, reference=self.reference
        )
        self.network.train()  # which `wrap_model` ended
        return float(np.nanmean(np.concatenate([one.values["kl"] for one in scored])))

    def _trace(
        self, i: int, part: int, prompts: Any, completions: Any, columns: Mapping[str, Any]
    ) -> Trace:
        completion, ids = completions[i], columns["completion_ids"][i]
        text = (
            completion if isinstance(completion, str) else str(completion[-1].get("content") or "")
        )
        row = {
            key: values[i]
            for key, values in columns.items()
            if key not in _OWN and isinstance(values, list)
        }
        row.pop("completion_ids", None)
        rewards = {name: values[i] for name, values in self.values.items()}
        scored = [
            self.weights[name] * value for name, value in rewards.items() if value is not None
        ]
        prompt = prompts[i]

        def column(name: str) -> str:
            value = columns.get(name, [None] * len(prompts))[i]
            return "" if value is None else str(value)

        return Trace(
            id=f"step-{self.step}/{part}/{i}",
            completion=text,
            prompt=prompt if isinstance(prompt, str) else request_of(prompt),
            prompt_id=column("prompt_id") or column("id"),
            prompt_token_ids=tuple(self.tokenizer(prompt)["input_ids"])
            if isinstance(prompt, str)
            else None,
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
            meta=row
            | {"rewards": rewards}
            | ({"request": column("request")} if column("request") else {}),
        )


def _watched(function: Reward, recorder: Recorder, is_last: bool) -> Reward:
    """A reward that checks and shares its values. With several processes a failure on one of them stops all."""

    def watched(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
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


def _nan(
    name: str, values: Sequence[float | None], prompts: Sequence[Any], completions: Sequence[Any]
) -> str:
    bad = [i for i, value in enumerate(values) if value is not None and not math.isfinite(value)]
    if not bad:
        return ""
    prompt, completion = str(prompts[bad[0]])[-200:], str(completions[bad[0]])[:200]
    return (
        f"reward {name}: row {bad[0]} of the batch is {values[bad[0]]} (TRL takes NaN for None); expected a finite "
        f"number, or None where it does not apply. Prompt: {prompt!r}, completion: {completion!r}"
    )
