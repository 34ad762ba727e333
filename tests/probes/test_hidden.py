"""Hidden states of prompts are those of transformers, whatever else is in the batch."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny import WORDS, tiny_model, tiny_tokenizer

from cotlens import TraceError
from cotlens.formats.prompts import Prompt
from cotlens.models.load import wrap_model
from cotlens.probes import prompt_states

ARCHITECTURES = [
    "Llama", "Qwen2", "Qwen3", "Qwen3Moe", "Gemma2", "Gemma3Text", "Mistral", "Phi3", "GPT2",
    "GptOss", "Cohere", "Granite",
]  # fmt: skip
PROMPTS = [" ".join(WORDS[: 1 + 5 * number % 11]) for number in range(8)]


def make_model(architecture="Qwen3", side="right", **options):
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    network = tiny_model(len(tokenizer), architecture, **options)
    return wrap_model(network, tokenizer, name="tiny")


@pytest.fixture(scope="module")
def model():
    return make_model()


@torch.inference_mode()
def read_alone(model, prompt, layer):
    """The last token's state of one prompt from transformers' own list of hidden states."""
    text = f"<|user|> {prompt} <|assistant|> "
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    output = model.network(input_ids=ids, output_hidden_states=True, use_cache=False)
    return output.hidden_states[layer][0, -1].float().numpy()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("layer", [-1, -2, 0, 1, 2, -3])
def test_states_are_those_of_transformers(architecture, layer):
    """Two blocks: three entries of `hidden_states`, counted from either end."""
    model = make_model(architecture)
    states = prompt_states(model, PROMPTS, layer=layer)
    expected = [read_alone(model, prompt, layer) for prompt in PROMPTS]
    assert states.dtype == np.float32
    assert states.shape == (8, 16)
    assert_allclose(states, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Gemma2", "GPT2"])
def test_the_last_layer_has_the_final_norm_and_no_other_has(architecture):
    """By a hook on the last block: its output, put through the network's norm, is layer -1."""
    model = make_model(architecture)
    network = model.network.base_model
    is_gpt2 = architecture == "GPT2"
    blocks = network.h if is_gpt2 else network.layers
    norm = network.ln_f if is_gpt2 else network.norm

    outputs = {}

    def keep(number):
        def hook(_module, _inputs, output):
            outputs[number] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [block.register_forward_hook(keep(number)) for number, block in enumerate(blocks)]
    last = prompt_states(model, ["one two"])
    for handle in handles:
        handle.remove()
    with torch.inference_mode():
        normed = norm(outputs[1])[0, -1].numpy()

    assert_allclose(last[0], normed, rtol=1e-5, atol=1e-6)
    assert not np.allclose(last[0], outputs[1][0, -1].numpy(), atol=1e-2)
    first = prompt_states(model, ["one two"], layer=1)
    assert_allclose(first[0], outputs[0][0, -1].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("architecture", ["Qwen3", "Gemma2", "GPT2"])
def test_the_batch_changes_nothing(architecture, side):
    """Eight prompts of different lengths together, each alone, and in another order; GPT-2 has absolute positions."""
    model = make_model(architecture, side)
    together = prompt_states(model, PROMPTS)
    alone = prompt_states(model, PROMPTS, tokens_per_batch=1)
    backwards = prompt_states(model, PROMPTS[::-1])
    assert_allclose(together, alone, rtol=1e-5, atol=2e-6)
    assert_allclose(together, backwards[::-1], rtol=1e-5, atol=2e-6)
    for state, prompt in zip(alone, PROMPTS, strict=True):
        assert_allclose(state, prompt_states(model, [prompt])[0], rtol=1e-5, atol=2e-6)


def test_a_model_whose_positions_depend_on_the_longest_reads_each_prompt_alone():
    """Dynamic NTK beyond 64 tokens: the short prompt's state is that of a batch of its own."""
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    model = make_model("Llama", rope_parameters=rope, max_position_embeddings=8)
    model.network.config.max_position_embeddings = 64
    model = wrap_model(model.network, model.tokenizer)
    assert model.sees_length
    prompts = ["one", " ".join(WORDS[:11])]
    assert_array_equal(prompt_states(model, prompts)[0], prompt_states(model, prompts[:1])[0])


def test_what_a_prompt_may_be(model):
    """A request, its messages, and a prompt that is rendered already: one state."""
    rendered = Prompt("p", [], {}, {}, "prompts.jsonl:1", text="<|user|> one <|assistant|> ")
    messages = [{"role": "user", "content": "one"}]
    states = prompt_states(model, ["one", messages, rendered])
    assert_allclose(states[1], states[0], rtol=1e-6)
    assert_allclose(states[2], states[0], rtol=1e-6)
    assert prompt_states(model, []).shape == (0, 16)


def test_variables_of_the_template_reach_it():
    """With thinking off the template closes the thought, so that another token is the last."""
    model = make_model()
    model.tokenizer.chat_template += "{% if enable_thinking is false %}<think> </think> {% endif %}"
    on = prompt_states(model, ["one"])
    off = prompt_states(model, ["one"], template_args={"enable_thinking": False})
    closed = Prompt("p", [], {}, {}, "x", text="<|user|> one <|assistant|> <think> </think> ")
    assert not np.allclose(on, off)
    assert_allclose(off, prompt_states(model, [closed]), rtol=1e-6)
    with pytest.raises(TraceError, match="no variable enable_thought"):
        prompt_states(model, ["one"], template_args={"enable_thought": False})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 4}, "prompt 2: the prompt has 5 tokens as the model reads it, expected at most 4"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"layer": 3}, r"tiny: there is no layer 3; expected 0 .* to 2 .* to -3"),
        ({"layer": -4}, "there is no layer -4"),
    ],
)  # fmt: skip
def test_what_is_refused(model, options, message):
    """One line that names the prompt."""
    prompts = ["one", "one two three"]
    with pytest.raises(TraceError, match=message) as caught:
        prompt_states(model, prompts, **options)
    assert "\n" not in str(caught.value)


def test_a_prompt_of_just_max_tokens_is_read(model):
    """Two header tokens and three words; the limit is also the model's 64, whatever is asked for."""
    assert prompt_states(model, ["one two three"], max_tokens=5).shape == (1, 16)
    with pytest.raises(TraceError, match=r"prompt 1: the prompt has 72 tokens .* at most 64"):
        prompt_states(model, [" ".join(["one"] * 70)])


def test_a_state_that_overflows_names_its_prompt():
    model = make_model()
    two = model.tokenizer.convert_tokens_to_ids("two")
    with torch.no_grad():
        model.network.get_input_embeddings().weight[two] = torch.inf
    with pytest.raises(TraceError, match="prompt 2: its hidden state is not finite in float32"):
        prompt_states(model, ["one", "two"])


def test_a_model_without_a_tokenizer_is_refused():
    model = wrap_model(tiny_model(18))
    with pytest.raises(TraceError, match="without a tokenizer"):
        prompt_states(model, ["one"])


def test_the_file_itself_loads_no_torch():
    """With the package's other files out of the way: models.load, which they import, loads torch."""
    script = (
        "import sys, types, pathlib, cotlens;"
        "probes = types.ModuleType('cotlens.probes');"
        "models = types.ModuleType('cotlens.models');"
        "root = pathlib.Path(cotlens.__file__).parent;"
        "probes.__path__ = [str(root / 'probes')];"
        "models.__path__ = [str(root / 'models')];"
        "sys.modules['cotlens.probes'] = probes;"
        "sys.modules['cotlens.models'] = models;"
        "import cotlens.probes.hidden;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
