"""Models are loaded whole or refused, and a head that cotlens does not understand is noticed."""

import json

import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer, tiny_model, tiny_tokenizer
from tokenizers import Regex, Tokenizer, normalizers

from cotlens import Trace, TraceError, load_model, score_tokens
from cotlens.models.load import wrap_model
from cotlens.models.scores import Head
from cotlens.models.tokenizer import encodes_as, load_tokenizer

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


def save_as(folder, tokenizer, model_type):
    """A checkpoint of another type whose config says `model_type`, as a conversion leaves it."""
    network = tiny_model(len(tokenizer), "Qwen2" if model_type == "qwen2" else "Qwen3")
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


TEXT = "wait so the answer is 12345  two\n\n你好 three"


@pytest.mark.parametrize("make", [tiny_tokenizer, byte_tokenizer])
def test_the_saved_tokenizer_scores_a_checkpoint_of_type_qwen2(tmp_path, make):
    """transformers 5.23 loads Qwen2Tokenizer in its place: other ids, or none."""
    folder = save_as(tmp_path / "m", make(), "qwen2")
    saved = Tokenizer.from_file(f"{folder}/tokenizer.json")
    with pytest.warns(UserWarning, match="the saved one is used"):
        model = load_model(folder, device="cpu")

    wanted = saved.encode(TEXT, add_special_tokens=False).ids
    (scored,) = score_tokens(model, [Trace(id="a", prompt="", completion=TEXT)])
    assert list(scored.token_ids) == wanted
    assert model.tokenizer.chat_template == make().chat_template
    assert model.tokenizer.eos_token == "<eos>"


@pytest.mark.parametrize("make", [tiny_tokenizer, byte_tokenizer])
def test_a_tokenizer_that_loads_as_it_was_saved_is_taken_without_a_word(tmp_path, make):
    folder = save_as(tmp_path / "m", make(), "qwen3")
    assert encodes_as(load_model(folder, device="cpu").tokenizer, f"{folder}/tokenizer.json")


def test_a_tokenizer_of_type_qwen3_5(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3_5"}))
    with pytest.warns(UserWarning, match="the saved one is used"):
        tokenizer = load_tokenizer(str(tmp_path))
    assert encodes_as(tokenizer, str(tmp_path / "tokenizer.json"))


def test_a_text_that_encodes_to_nothing_stops_the_job():
    """As a word-level tokenizer did whose pre-tokenizer was replaced."""
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"[\s\S]"), "")
    model = wrap_model(tiny_model(len(tokenizer)), tokenizer)
    with pytest.raises(TraceError, match="trace 'a': its text has 8 characters, but the tokenizer"):
        score_tokens(model, [Trace(id="a", prompt="", completion="two four")])
