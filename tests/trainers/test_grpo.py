"""GRPO of a tiny model: what it raises, what it logs, and what is an error before training."""

import pytest
from tiny import (
    QUESTIONS,
    grpo_settings,
    length,
    tiny_tokenizer,
    trained_model,
    weights,
)

pytest.importorskip("trl", reason="the trainers need the extra `train`")

import torch

from cotlens import read_traces
from cotlens.models.load import wrap_model
from trainers import grpo

pytestmark = pytest.mark.usefixtures("one_thread")


def test_grpo_raises_the_reward(tmp_path):
    """What is rewarded becomes more frequent: the share of `wait` among the words."""

    def waits(completions, **_):
        return [completion.split().count("wait") / 8 for completion in completions]

    config = grpo_settings(
        tmp_path, max_steps=40, per_device_train_batch_size=16, num_generations=8, beta=0.0
    )
    trainer = grpo.train(trained_model(), tiny_tokenizer(), QUESTIONS, rewards=[waits], args=config)
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    first = sum(rewards[:5]) / 5
    last = sum(rewards[-10:]) / 10
    assert last > 0.2 + first


def test_grpo_logs_its_distance_to_a_model_and_trains_the_same(tmp_path):
    """KL(policy || reference) is sum of p (log p - log q) at each sampled place.

    Expected values are computed in float64 from the whole logits.
    """

    def run(name, **options):
        return grpo.train(
            trained_model(),
            tiny_tokenizer(),
            QUESTIONS,
            rewards=[length],
            args=grpo_settings(tmp_path / name, max_steps=2, beta=0.0),
            record=tmp_path / name,
            **options,
        )

    def log_probabilities(network, trace):
        ids = torch.tensor([trace.prompt_token_ids + trace.token_ids])
        logits = network(ids).logits[0, len(trace.prompt_token_ids) - 1 : -1]
        return logits.double().log_softmax(-1)

    other = trained_model(seed=1)
    with_kl = run("kl", kl_to=wrap_model(other, tiny_tokenizer()))
    history = with_kl.state.log_history
    logged = [entry["kl_reference"] for entry in history if "kl_reference" in entry]

    # At the first step the policy is the untouched model.
    values = []
    for trace in read_traces(tmp_path / "kl" / "rollouts" / "step=000000" / "part-00000.parquet"):
        policy = log_probabilities(trained_model(), trace)
        reference = log_probabilities(other, trace)
        values += (policy.exp() * (policy - reference)).sum(-1).tolist()
    assert logged[0] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert len(logged) == 2
    assert logged[1] != logged[0]

    # Measuring it leaves training alone.
    expected = weights(run("none").model)
    trained = weights(with_kl.model)
    assert all(torch.equal(expected[name], trained[name]) for name in expected)


def test_what_cannot_be_trained_on_is_an_error(tmp_path):
    def train(rows, tokenizer=None, **options):
        args = grpo_settings(tmp_path, **options)
        tokenizer = tokenizer or tiny_tokenizer()
        grpo.train(trained_model(), tokenizer, rows, rewards=[length], args=args)

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        train(QUESTIONS, tokenizer)
    with pytest.raises(ValueError, match="2 rows, but a batch samples 4 prompts"):
        train(QUESTIONS[:2], per_device_train_batch_size=8)
    with pytest.raises(ValueError, match="make 65 tokens, the context holds 64"):
        train(QUESTIONS, max_completion_length=61)


def test_a_tag_that_is_a_special_token_is_an_error():
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    with pytest.raises(ValueError, match="<think> is a special token"):
        grpo.prepare(tokenizer, QUESTIONS)
