"""Rollouts as traces, and rewards that are missing or not finite."""

import logging

import pytest
from tiny import (
    QUESTIONS,
    grpo_settings,
    length,
    moved,
    tiny_tokenizer,
    trained_model,
    weights,
)

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from cotlens import analyze, read_traces
from trainers import grpo
from trainers.rewards import RewardError

pytestmark = pytest.mark.usefixtures("one_thread")


def n_wait(completions, domain, **_):
    """A reward that does not apply to some rows."""
    values = []
    for row_domain, completion in zip(domain, completions, strict=True):
        starts_with_so = completion.split()[:1] == ["so"]
        is_left_out = row_domain == "math" and starts_with_so
        values.append(None if is_left_out else completion.count("wait"))
    return values


@pytest.mark.filterwarnings("ignore:.*rollouts may be of training or of an evaluation")
def test_grpo_moves_every_parameter_and_records_what_trl_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "trl.trainer.grpo_trainer.print_prompt_completions_sample", lambda *_, **__: None
    )
    network = trained_model()
    tokenizer = tiny_tokenizer()
    before = weights(network)
    trainer = grpo.train(
        network,
        tokenizer,
        QUESTIONS,
        rewards=[length, n_wait],
        weights=[0.5, 2.0],
        method="grpo",
        record=tmp_path / "record",
        args=grpo_settings(tmp_path, max_steps=2, log_completions=True),
    )
    assert moved(before, network) == set(before)
    assert any(entry.get("kl") == pytest.approx(0, abs=1e-4) for entry in trainer.state.log_history)

    # TRL's log of completions counts steps from 1.
    rollouts = tmp_path / "record" / "rollouts"
    for step in (0, 1):
        traces = list(read_traces(rollouts / f"step={step:06d}" / "part-00000.parquet"))
        logged = list(read_traces(tmp_path / "completions" / f"completions_{step + 1:05d}.parquet"))
        assert len(traces) == len(logged) == 4
        assert sorted(trace.sample for trace in traces) == [0, 0, 1, 1]
        for trace, logged_trace in zip(traces, logged, strict=True):
            check_rollout(trace, logged_trace, tokenizer, step)

    files = sorted(rollouts.glob("*/*.parquet"))
    steps = analyze(files, tmp_path / "run").trace_table()["training_step"].tolist()
    assert steps == [0] * 4 + [1] * 4


def check_rollout(trace, logged_trace, tokenizer, step):
    """Assert that a recorded rollout agrees with TRL's log, and with itself."""
    text_ids = trace.token_ids[:-1] if trace.token_ids[-1] == 2 else trace.token_ids
    assert trace.completion == tokenizer.decode(text_ids)
    assert tokenizer.decode(text_ids, skip_special_tokens=True) == logged_trace.completion
    assert trace.prompt == logged_trace.prompt

    # TRL logs NaN where a reward does not apply.
    rewards = trace.meta["rewards"]
    logged_rewards = logged_trace.meta["rewards"]
    logged_n_wait = logged_rewards["n_wait"]
    is_nan = logged_n_wait != logged_n_wait
    assert rewards["length"] == logged_rewards["length"]
    assert rewards["n_wait"] == (None if is_nan else logged_n_wait)
    assert trace.reward == 0.5 * rewards["length"] + 2.0 * (rewards["n_wait"] or 0)

    assert (trace.training_step, trace.method, trace.domain) == (step, "grpo", "math")
    assert trace.meta["request"] in trace.prompt
    assert trace.prompt_token_ids == tuple(tokenizer(trace.prompt)["input_ids"])
    assert len(trace.token_starts) == len(trace.token_ids)
    assert trace.finish_reason == ("stop" if trace.token_ids[-1] == 2 else "length")


def test_a_row_that_no_reward_scores_is_not_scored(tmp_path):
    def never(completions, **_):
        return [None] * len(completions)

    # TRL rightly warns of it at length.
    logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)
    network = trained_model()
    before = weights(network)
    grpo.train(
        network,
        tiny_tokenizer(),
        QUESTIONS,
        rewards=[never],
        args=grpo_settings(tmp_path, max_steps=1, beta=0.0),
        record=tmp_path / "record",
    )
    (path,) = (tmp_path / "record" / "rollouts").glob("*/*.parquet")
    assert [trace.reward for trace in read_traces(path)] == [None] * 4
    assert not moved(before, network)


def test_rollouts_of_another_run_are_not_overwritten(tmp_path):
    record = tmp_path / "record"
    (record / "rollouts" / "step=000000").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds the rollouts of another run"):
        grpo.train(
            trained_model(),
            tiny_tokenizer(),
            QUESTIONS,
            rewards=[length],
            args=grpo_settings(tmp_path),
            record=record,
        )


def test_a_reward_that_is_nan_names_itself_and_its_row(tmp_path):
    def broken(completions, **_):
        return [0.0, float("nan"), 0.0, 1.0]

    with pytest.raises(RewardError, match=r"reward broken: row 1 of the batch is nan"):
        grpo.train(
            trained_model(),
            tiny_tokenizer(),
            QUESTIONS,
            rewards=[length, broken],
            args=grpo_settings(tmp_path),
        )
