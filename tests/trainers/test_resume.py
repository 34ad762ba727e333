"""Runs that are killed or stopped, and resumed as if nothing had happened."""

import pytest
from tiny import (
    PAIRS,
    QUESTIONS,
    grpo_settings,
    length,
    losses,
    settings,
    tiny_tokenizer,
    trained_model,
    weights,
)

pytest.importorskip("trl", reason="the trainers need the extra `train`")

import torch
from transformers import TrainerCallback
from trl import DPOConfig, SFTConfig

from cotlens import TraceError, read_traces
from cotlens.judges.verdict import Verdict
from trainers import dpo, grpo, sft
from trainers.rewards import RewardError, guard_reward

pytestmark = pytest.mark.usefixtures("one_thread")


class KilledError(Exception):
    pass


class Kill(TrainerCallback):
    """Kills a run after its second step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise KilledError


def train(method, folder, **options):
    """Four steps over several epochs, with a checkpoint every second step."""
    network = trained_model()
    tokenizer = tiny_tokenizer()
    saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    if method == "sft":
        config = settings(SFTConfig, folder, **saving)
        return sft.train(network, tokenizer, PAIRS[:5], config, **options)
    if method == "dpo":
        pairs = [row | {"chosen": row["completion"]} for row in PAIRS[:5]]
        config = settings(DPOConfig, folder, **saving)
        return dpo.train(network, tokenizer, pairs, config, **options)
    config = grpo_settings(folder, **saving, num_train_epochs=9)
    return grpo.train(
        network,
        tokenizer,
        QUESTIONS[:4],
        rewards=[length],
        args=config,
        record=folder,
        **options,
    )


@pytest.mark.parametrize("method", ["sft", "dpo", "grpo"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, method):
    """Four steps at once, or killed after the second and resumed: the same losses and weights."""
    whole = train(method, tmp_path / "whole")
    with pytest.raises(KilledError):
        train(method, tmp_path / "killed", callbacks=[Kill()])
    resumed = train(method, tmp_path / "killed", resume="auto")

    assert losses(resumed) == losses(whole)
    expected = weights(whole.model)
    trained = weights(resumed.model)
    assert all(torch.equal(trained[name], expected[name]) for name in expected)

    # The prompts of each step, and what was sampled for them, are the same too.
    if method == "grpo":
        for step in range(4):
            name = f"rollouts/step={step:06d}/part-00000.parquet"
            resumed_ids = [trace.token_ids for trace in read_traces(tmp_path / "killed" / name)]
            whole_ids = [trace.token_ids for trace in read_traces(tmp_path / "whole" / name)]
            assert resumed_ids == whole_ids


class FallingGuard:
    """Judges by length; from its `falls`-th call on it does not answer for `down` calls."""

    name, revision, identity = "falling", "", "falling"

    def __init__(self, falls, down):
        self.calls = 0
        self.falls = falls
        self.down = down

    def judge(self, items):
        self.calls += 1
        if self.falls <= self.calls < self.falls + self.down:
            raise TraceError("connection refused")
        return [Verdict("safe", len(item.text) % 7 / 10) for item in items]


def test_a_guard_that_fails_in_the_middle_stops_with_a_checkpoint_and_nothing_is_lost(tmp_path):
    def run(folder, guard, resume=None):
        reward = guard_reward(guard, domains=(), attempts=3, wait=0.001)
        config = grpo_settings(folder, max_steps=4, save_strategy="no")
        return grpo.train(
            trained_model(),
            tiny_tokenizer(),
            QUESTIONS,
            rewards=[reward],
            args=config,
            resume=resume,
        )

    # After two failures the guard is asked a third time, and answers.
    whole = run(tmp_path / "whole", FallingGuard(falls=3, down=2))

    stopped = tmp_path / "stopped"
    message = r"stopped after step 2 .*checkpoint-2.*connection refused"
    with pytest.raises(RewardError, match=message):
        run(stopped, FallingGuard(falls=3, down=99))
    assert (stopped / "checkpoint-2" / "model.safetensors").exists()
    assert (stopped / "checkpoint-2" / "chat_template.jinja").exists()

    resumed = run(stopped, FallingGuard(falls=99, down=0), resume="auto")
    assert losses(resumed) == losses(whole)
