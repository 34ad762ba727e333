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
    return LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


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

    trained_model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    network = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = settings(SFTConfig, tmp_path / "sft")
    sft.train(network, tiny_tokenizer(), PAIRS, config, lora=lora())
    merge.main([str(tmp_path / "sft"), str(tmp_path / "merged")])
    assert not (tmp_path / "merged" / "adapter_config.json").exists()

    logits = {}
    for name in ("base", "sft", "merged"):
        model = load_model(str(tmp_path / name))
        with torch.inference_mode():
            logits[name] = model.network(torch.tensor([[3, 5, 6, 4]])).logits
    torch.testing.assert_close(logits["sft"], logits["merged"], atol=1e-4, rtol=1e-4)
    assert (logits["base"] - logits["merged"]).abs().max() > 0.01
    merged_tokenizer = load_model(str(tmp_path / "merged")).tokenizer
    assert merged_tokenizer.chat_template == tiny_tokenizer().chat_template


def test_only_an_adapter_can_be_merged(tmp_path):
    with pytest.raises(SystemExit, match="ADAPTER OUT"):
        merge.main([])
    trained_model().save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="whole weights need no merging"):
        merge.main([str(tmp_path / "base"), str(tmp_path / "out")])
