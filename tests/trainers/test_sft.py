"""SFT of a tiny model: what is learned, and what is an error before training."""

import pytest
from tiny import PAIRS, losses, moved, settings, tiny_tokenizer, trained_model, weights

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from trl import SFTConfig

from trainers import sft

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
