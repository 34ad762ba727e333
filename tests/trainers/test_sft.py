"""SFT of a tiny model: what is learned, and what is an error before training."""

import math

import pytest
import torch
from tiny import PAIRS, TEMPLATE, losses, moved, settings, tiny_tokenizer, trained_model, weights

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from trl import SFTConfig

from trainers import sft

# A template that opens the thought.
OPENING = TEMPLATE.replace("<|assistant|> {% endif %}", "<|assistant|> <think> {% endif %}")

pytestmark = pytest.mark.usefixtures("one_thread")


def test_sft_learns_the_completions(tmp_path, capsys):
    network = trained_model()
    tokenizer = tiny_tokenizer()
    before = weights(network)
    trainer = sft.train(network, tokenizer, PAIRS, settings(SFTConfig, tmp_path, max_steps=12))
    assert moved(before, network) == set(before)
    assert losses(trainer)[-1] < 0.8 * losses(trainer)[0]

    # Loss falls on the completion and its end alone.
    batch = next(iter(trainer.get_train_dataloader()))
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        learned = tokenizer.decode(ids[labels != -100])
        assert learned.startswith("<think> so")
        assert learned.endswith("<eos>")

    # The folder is a whole checkpoint, and the terminal stays quiet.
    saved_files = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors"} <= saved_files
    assert {"tokenizer.json", "chat_template.jinja"} <= saved_files
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "loss" not in printed.err


def test_rows_that_are_cut_are_counted(tmp_path, capsys):
    rows = [*PAIRS[:3], {"prompt": "one", "completion": "two " * 40}]
    config = settings(SFTConfig, tmp_path, max_steps=1, max_length=20)
    sft.train(trained_model(), tiny_tokenizer(), rows, config)
    assert "1 (25.0%) are longer than 20" in capsys.readouterr().out


def test_rows_that_cannot_be_trained_on_are_an_error(tmp_path):
    row = {"prompt": "one", "completion": "two"}
    incomplete = [row, {"prompt": "one", "completion": None}]

    def train(rows, tokenizer=None, **options):
        config = settings(SFTConfig, tmp_path, **options)
        sft.train(trained_model(), tokenizer or tiny_tokenizer(), rows, config)

    with pytest.raises(ValueError, match="no rows left to train on"):
        train([])
    with pytest.raises(ValueError, match="row 1 has no completion"):
        train(incomplete)
    with pytest.raises(ValueError, match="every row is longer than max_length = 2"):
        train([row], max_length=2)

    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token"):
        train([row], tokenizer)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end-of-text token"):
        train([row], tokenizer)


# --- rows of which only a part is learned --------------------------------------------------------

COMPLETION = "<think> one two </think> three"


@pytest.mark.parametrize(
    ("learned", "words"),
    [
        (None, ["<think>", "one", "two", "</think>", "three", "<eos>"]),
        ([[0, 30]], ["<think>", "one", "two", "</think>", "three", "<eos>"]),
        ([[7, 15]], ["one", "two"]),
        ([[7, 14]], ["one"]),  # a token that reaches over the border is not learned
        ([[0, 7], [24, 30]], ["<think>", "three", "<eos>"]),
    ],
)
def test_only_tokens_inside_a_learned_span_carry_loss(learned, words):
    tokenizer = tiny_tokenizer()
    row = {"prompt": "one", "completion": COMPLETION}
    if learned is not None:
        row["learned"] = learned
    (encoded,) = sft._encode_all(tokenizer, sft.prepare(tokenizer, [row]))

    ids = [label for label in encoded.labels if label != -100]
    assert tokenizer.convert_ids_to_tokens(ids) == words
    whole = sft._encode_all(tokenizer, sft.prepare(tokenizer, [row | {"learned": None}]))
    assert encoded.input_ids == whole[0].input_ids


def test_spans_move_with_a_tag_that_the_prompt_opens():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OPENING
    row = {"prompt": "one", "completion": COMPLETION, "learned": [[7, 11], [24, 30]]}
    (ready,) = sft.prepare(tokenizer, [row])
    texts = [ready["completion"][start:stop] for start, stop in ready["learned"]]
    assert texts == [" one", " three"]


@pytest.mark.parametrize("learned", [[[3, 3]], [[5, 2]], [[0, 31]], [[4, 8], [6, 9]], [[-1, 3]]])
def test_spans_out_of_order_or_range_are_an_error(learned):
    row = {"prompt": "one", "completion": COMPLETION, "learned": learned}
    with pytest.raises(ValueError, match="learned: expected spans in order"):
        sft.prepare(tiny_tokenizer(), [row])


def test_a_row_of_which_nothing_is_learned_is_an_error(tmp_path):
    row = {"prompt": "one", "completion": COMPLETION, "learned": [[8, 10]]}  # inside a token
    config = settings(SFTConfig, tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="row 0: no token of its completion is learned"):
        sft.train(trained_model(), tiny_tokenizer(), [row], config)


def test_the_loss_is_the_mean_over_learned_tokens_alone(tmp_path):
    """A network of zeros gives ln V for every token, whatever is masked: 18 words."""
    network = trained_model()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    rows = [{"prompt": "one", "completion": COMPLETION, "learned": [[7, 15]]}] * 2
    config = settings(SFTConfig, tmp_path, max_steps=1, logging_steps=1)
    trainer = sft.train(network, tiny_tokenizer(), rows, config)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(18), abs=1e-4)
    assert trainer.state.log_history[0]["num_tokens"] > 0
