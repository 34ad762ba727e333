"""The quick loop of decoding: token by token what the network says of the whole text."""

import pytest
import torch
from tiny import tiny_model

from cotlens.models.decode import can_decode
from cotlens.models.local import draw, generate_ids

pytestmark = pytest.mark.usefixtures("one_thread")

# Of several lengths, some of them shared by rows that draw other numbers.
PROMPTS = [[5, 6, 7], [8], [5, 6, 7], [4, 9, 3, 11, 12, 7], [8], [10, 10]]
N_NEW = 24

# Sliding windows are left to transformers.
ARCHITECTURES = [
    ("Qwen3", True),
    ("Qwen2", True),
    ("Llama", True),
    ("GPT2", True),
    ("Qwen3Moe", True),
    ("Granite", True),
    ("Cohere", True),
    ("Mistral", False),
    ("Gemma2", False),
    ("GptOss", False),
]


def uniform_numbers():
    stream = torch.Generator().manual_seed(7)
    shape = (len(PROMPTS), N_NEW)
    return torch.rand(shape, generator=stream, dtype=torch.float64)


def write_naively(network, prompt, numbers, end_ids, n_new=N_NEW):
    """One text alone: no padding, no cache, the whole text read again for every token."""
    ids = list(prompt)
    for step in range(n_new):
        with torch.inference_mode():
            logits = network(torch.tensor([ids]), use_cache=False).logits[:, -1]
        if numbers is None:
            token = int(logits.argmax())
        else:
            token = int(draw(logits, numbers[step : step + 1]))
        ids.append(token)
        if token in end_ids:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(("architecture", "is_quick"), ARCHITECTURES)
def test_every_token_is_that_of_a_whole_forward_pass(architecture, is_quick, greedy):
    network = tiny_model(20, architecture)
    assert can_decode(network) == is_quick

    # The end tokens are frequent, so that rows end at different tokens.
    end_ids = [2, 13]
    numbers = None if greedy else uniform_numbers()
    options = {"max_new_tokens": N_NEW, "end_ids": end_ids, "pad_id": 0, "numbers": numbers}
    written = generate_ids(network, PROMPTS, **options).ids

    lengths = set()
    for row, prompt in enumerate(PROMPTS):
        row_numbers = None if greedy else numbers[row]
        expected = write_naively(network, prompt, row_numbers, end_ids)
        padding = written[row][len(expected) :]
        assert written[row][: len(expected)] == expected
        assert not any(padding)
        lengths.add(len(expected))
    assert greedy or architecture != "Qwen3" or len(lengths) > 2


def test_without_end_tokens_every_text_has_the_longest_length():
    network = tiny_model(20)
    options = {"max_new_tokens": 55, "end_ids": [], "pad_id": 0}
    (written,) = generate_ids(network, [[5, 6]], **options).ids
    assert len(written) == 55
    assert written == write_naively(network, [5, 6], None, [], n_new=55)


def test_the_mode_of_the_network_is_put_back():
    network = tiny_model(20).train()
    generate_ids(network, PROMPTS, max_new_tokens=3, end_ids=[2], pad_id=0)
    assert network.training
    assert network.generation_config.eos_token_id == 2


def test_attention_that_takes_no_mask_is_left_to_transformers():
    network = tiny_model(20)
    network.set_attn_implementation("eager")
    assert not can_decode(network)


@pytest.mark.parametrize(
    ("number", "token"),
    [(0.0, 3), (0.2, 3), (0.3, 2), (0.49, 2), (0.51, 0), (0.999999, 0)],
)
def test_a_number_falls_into_the_part_of_a_token(number, token):
    """Parts from 0 to 1: token 0 to .5, token 1 none, token 2 to .75, token 3 to 1; 1 - number."""
    logits = torch.tensor([[0.5, 0.0, 0.25, 0.25]]).log()
    assert int(draw(logits, torch.tensor([number], dtype=torch.float64))) == token


def test_a_token_of_no_probability_is_never_drawn():
    """Not at the ends of the numbers' range either, and whatever rounding leaves of the sum."""
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, 100:900] = 0.1
    ends = [0.0, 2**-53, 1 - 2**-53, 0.5]
    numbers = torch.tensor(ends, dtype=torch.float64)
    tokens = draw(logits.expand(len(ends), -1).clone(), numbers).tolist()
    assert tokens[0] == tokens[1] == 899
    assert tokens[2] == 100
    assert 490 <= tokens[3] <= 509
