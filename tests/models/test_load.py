"""Models are loaded whole or refused, and a head that cotlens does not understand is noticed."""

import json

import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_tokenizer

from cotlens import Trace, TraceError, load_model, score_tokens
from cotlens.models.load import wrap_model
from cotlens.models.scores import Head

V = 101


@pytest.mark.parametrize("architecture", ["Gemma2", "Cohere", "Granite"])
def test_the_check_notices_a_head_that_is_not_understood(architecture, monkeypatch):
    """Not knowing soft-caps and scaled logits, cotlens would refuse these, not misscore them."""

    def plain_head(network, _):
        return Head(network.get_output_embeddings().weight)

    monkeypatch.setattr("cotlens.models.load._head_of", plain_head)
    with pytest.raises(TraceError, match="does something to its logits"):
        wrap_model(tiny_model(V, architecture))


def test_a_tokenizer_larger_than_the_model():
    with pytest.raises(TraceError, match="do not belong together"):
        wrap_model(tiny_model(9), tiny_tokenizer())


def test_weights_that_are_not_numbers():
    network = tiny_model(V)
    with torch.no_grad():
        network.base_model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(TraceError, match="weights are damaged"):
        wrap_model(network)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint as training leaves it."""
    tokenizer = tiny_tokenizer()
    network = tiny_model(len(tokenizer))
    network.save_pretrained(tmp_path / "m", max_shard_size="8KB")
    tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_saved_checkpoint_loads_in_its_own_type(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "float32"
    own_type = load_model(str(folder), device="cpu")
    assert own_type.head.weight.dtype == torch.float32
    half = load_model(str(folder), device="cpu", dtype="bfloat16")
    assert half.head.weight.dtype == torch.bfloat16


def test_sixteen_bit_weights_come_near_the_full_ones(folder):
    traces = [Trace(id="a", prompt="one", completion="wait so the answer is two")]
    entropies = []
    for dtype in ("float32", "bfloat16"):
        model = load_model(str(folder), device="cpu", dtype=dtype)
        (scored,) = score_tokens(model, traces)
        entropies.append(scored.values["entropy"])
    assert_allclose(entropies[0], entropies[1], atol=0.1)


def test_damaged_checkpoints_are_refused(folder):
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    content = shards[0].read_bytes()
    shards[0].write_bytes(content[: len(content) // 2])
    with pytest.raises(TraceError, match="cannot be loaded"):
        load_model(str(folder), device="cpu")

    shards[0].unlink()
    with pytest.raises(TraceError, match="cannot be loaded"):
        load_model(str(folder), device="cpu")


def test_a_checkpoint_without_some_weights_is_refused(folder):
    """transformers puts random weights where a file has none; those must not be scored."""
    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        kept = {name: value for name, value in tensors.items() if "q_proj" not in name}
        if len(kept) < len(tensors):
            save_file(kept, shard, {"format": "pt"})
    with pytest.raises(TraceError, match=r"weights are not in the files .*q_proj"):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int3"}, "dtype 'int3' is not known"),
        ({"device": "cuda:7"}, "cannot be put on device"),
    ],
)
def test_bad_options(folder, options, message):
    if torch.cuda.is_available() and "device" in options:
        pytest.skip("this machine may have that device")
    with pytest.raises(TraceError, match=message):
        load_model(str(folder), **options)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(TraceError, match="cannot be loaded"):
        load_model(str(tmp_path), device="cpu")
