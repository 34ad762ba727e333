"""Training in groups of like length: the same losses and gradients as TRL's own forward."""

import pytest
from tiny import (
    PAIRS,
    QUESTIONS,
    grpo_settings,
    settings,
    tiny_model,
    tiny_tokenizer,
    trained_model,
)

pytest.importorskip("trl", reason="the trainers need the extra `train`")

import torch
from trl import SFTConfig
from trl.trainer.utils import add_fused_lm_head

from trainers import grpo, lengths, sft

pytestmark = pytest.mark.usefixtures("one_thread")

FIELDS = ("log_probs", "entropy", "is_top1")


def make_batch():
    """Seven texts: prompts padded on the left, completions on the right, one label missing."""
    torch.manual_seed(0)
    n_prompt = [3, 1, 5, 2, 5, 4, 1]
    n_completion = [2, 9, 1, 4, 9, 3, 7]
    ids = torch.zeros((7, 5 + 9), dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (before, after) in enumerate(zip(n_prompt, n_completion, strict=True)):
        text = torch.randint(3, 18, (before + after,))
        ids[row, 5 - before : 5 + after] = text
        mask[row, 5 - before : 5 + after] = 1
        labels[row, 5 : 5 + after] = text[before:]
    labels[4, 6] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def score(network, batch):
    """The output and the gradient of a loss that weighs every token differently."""
    network.zero_grad()
    output = network(**batch, fused_lm_head=True)
    weights = torch.arange(output.log_probs.numel()).view_as(output.log_probs) % 7 - 2.0
    (output.log_probs * weights).sum().backward()
    gradients = [parameter.grad.clone() for parameter in network.parameters()]
    return output, gradients


@pytest.mark.parametrize("group_tokens", [1, 24, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_gradients_are_those_of_trl(group_tokens, temperature, monkeypatch):
    monkeypatch.setattr(lengths, "GROUP_TOKENS", group_tokens)
    network = trained_model()
    outputs = ("log_probs", "entropy", "is_top1")
    add_fused_lm_head(network, temperature=temperature, outputs=outputs)
    expected, expected_gradients = score(network, make_batch())
    lengths.train_by_length(network, temperature=temperature)
    output, gradients = score(network, make_batch())

    for name in FIELDS:
        torch.testing.assert_close(output[name], expected[name], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.loss, expected.loss)
    assert torch.equal(output.label_mask, expected.label_mask)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-5, atol=1e-4)


def test_what_is_not_a_plain_batch_goes_to_trl(monkeypatch):
    """No labels, positions of packed texts, too many logits; and calls without the fused head."""
    monkeypatch.setattr(lengths, "_score", None)
    network = trained_model()
    add_fused_lm_head(network)
    lengths.train_by_length(network)

    batch = make_batch()
    positions = torch.arange(14).expand(7, -1)
    assert network(**batch, position_ids=positions, fused_lm_head=True).log_probs.shape == (7, 13)
    unlabelled = batch | {"labels": torch.full_like(batch["labels"], -100)}
    assert network(**unlabelled, fused_lm_head=True).log_probs.sum() == 0
    assert network(**batch).logits.shape == (7, 14, 18)
    monkeypatch.setattr(lengths, "MOST_LOGITS", 100)
    assert network(**batch, fused_lm_head=True).log_probs.shape == (7, 13)


@pytest.mark.parametrize("architecture", ["Gemma2", "Cohere", "Granite"])
def test_a_network_that_changes_its_logits_is_left_alone(architecture):
    network = tiny_model(18, architecture)
    before = network.forward
    lengths.train_by_length(network)
    assert network.forward == before


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def assert_same_updates(train, n_updates, monkeypatch):
    """Loss, norm of the gradient and entropy of every update, with and without the groups."""
    monkeypatch.setattr(lengths, "GROUP_TOKENS", 16)
    trainer = train("groups")
    for module in (grpo, sft):
        monkeypatch.setattr(module, "train_by_length", lambda *_, **__: None)
    whole = train("whole")
    for name in ("loss", "grad_norm", "entropy"):
        expected = logged(whole, name)
        assert len(expected) == n_updates
        assert logged(trainer, name) == pytest.approx(expected, abs=1e-5)


def test_an_update_of_sft_is_the_same(tmp_path, monkeypatch):
    def train(name):
        args = settings(SFTConfig, tmp_path / name, per_device_train_batch_size=6)
        return sft.train(trained_model(), tiny_tokenizer(), PAIRS, args)

    assert_same_updates(train, 3, monkeypatch)


def test_an_update_of_grpo_on_the_same_rollouts_is_the_same(tmp_path, monkeypatch):
    def reward(completions, **_):
        return [float(len(completion)) for completion in completions]

    def train(name):
        args = grpo_settings(tmp_path / name, per_device_train_batch_size=8, max_steps=2)
        return grpo.train(trained_model(), tiny_tokenizer(), QUESTIONS, rewards=[reward], args=args)

    assert_same_updates(train, 2, monkeypatch)
