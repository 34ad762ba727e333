"""LoRA: adapters alone are trained, and they merge into whole weights."""

from importlib.util import find_spec

import pytest
from tiny import (
    PAIRS,
    QUESTIONS,
    grpo_settings,
    length,
    settings,
    tiny_tokenizer,
    trained_model,
    weights,
)

pytest.importorskip("trl", reason="the trainers need the extra `train`")
if find_spec("peft") is None:
    pytest.skip("peft is not installed: LoRA is not tested", allow_module_level=True)

import torch
from peft import LoraConfig  # pyright: ignore[reportMissingImports]
from trl import SFTConfig

from cotlens import load_model
from trainers import grpo, merge, sft

pytestmark = pytest.mark.usefixtures("one_thread")


def lora():
    return LoraConfig(
        r=2,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_lora_changes_adapters_only(tmp_path, method):
    network = trained_model()
    tokenizer = tiny_tokenizer()
    before = weights(network)
    if method == "sft":
        config = settings(SFTConfig, tmp_path)
        trainer = sft.train(network, tokenizer, PAIRS, config, lora=lora())
    else:
        config = grpo_settings(tmp_path)
        trainer = grpo.train(
            network, tokenizer, QUESTIONS, rewards=[length], args=config, lora=lora()
        )

    # peft wraps the base and puts a prefix before its names.
    after = {}
    for name, value in trainer.model.named_parameters():
        plain_name = name.replace("base_model.model.", "").replace("base_layer.", "")
        after[plain_name] = value
    assert all(torch.equal(after[name], value) for name, value in before.items())

    adapters = [value for name, value in after.items() if "lora_B" in name]
    assert adapters
    assert all(value.abs().sum() > 0 for value in adapters)  # they start at 0


def test_a_merged_adapter_is_the_adapter(tmp_path):
    """Base and adapter, as `load_model` reads them together, give the merged logits."""
    from transformers import AutoModelForCausalLM

    tokenizer = tiny_tokenizer()
    base = tmp_path / "base"
    adapter = tmp_path / "sft"
    merged = tmp_path / "merged"

    # An adapter names the folder of its base, so the base must be on disk.
    trained_model().save_pretrained(base)
    tokenizer.save_pretrained(base)
    network = AutoModelForCausalLM.from_pretrained(base)
    config = settings(SFTConfig, adapter)
    sft.train(network, tokenizer, PAIRS, config, lora=lora())

    merge.main([str(adapter), str(merged)])
    assert not (merged / "adapter_config.json").exists()
    torch.testing.assert_close(logits(adapter), logits(merged), atol=1e-4, rtol=1e-4)
    assert (logits(base) - logits(merged)).abs().max() > 0.01
    merged_tokenizer = load_model(str(merged)).tokenizer
    assert merged_tokenizer.chat_template == tokenizer.chat_template


def logits(folder):
    model = load_model(str(folder))
    ids = torch.tensor([[3, 5, 6, 4]])
    with torch.inference_mode():
        return model.network(ids).logits


def test_only_an_adapter_can_be_merged(tmp_path):
    with pytest.raises(SystemExit, match="ADAPTER OUT"):
        merge.main([])

    # Whole weights, as SFT without LoRA leaves them.
    whole = tmp_path / "whole"
    trained_model().save_pretrained(whole)
    with pytest.raises(ValueError, match="whole weights need no merging"):
        merge.main([str(whole), str(tmp_path / "out")])
