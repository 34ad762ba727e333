"""DPO of a tiny model: what moves, and what is an error before training."""

import pytest
from tiny import PAIRS, moved, settings, tiny_tokenizer, trained_model, weights

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from trl import DPOConfig

from trainers import dpo

pytestmark = pytest.mark.usefixtures("one_thread")


def test_dpo_moves_towards_the_chosen(tmp_path):
    rows = [row | {"chosen": row["completion"]} for row in PAIRS]
    network = trained_model()
    before = weights(network)
    config = settings(DPOConfig, tmp_path, max_steps=4, beta=0.1)
    trainer = dpo.train(network, tiny_tokenizer(), rows, config)
    assert moved(before, network) == set(before)

    margins = []
    for entry in trainer.state.log_history:
        if "rewards/margins" in entry:
            margins.append(entry["rewards/margins"])
    assert margins[0] == pytest.approx(0, abs=1e-5)  # the reference is the model as it was
    assert margins[-1] > 0.1


def test_a_pair_of_equal_completions_is_an_error():
    row = {"prompt": "one", "chosen": "two", "rejected": "two"}
    with pytest.raises(ValueError, match="chosen and rejected are the same"):
        dpo.prepare(tiny_tokenizer(), [row])


def test_a_token_over_the_end_of_a_prompt_is_an_error():
    """The tiny tokenizer's tokens end at blanks: "on" and "one" are different words."""
    row = {"prompt": "<|user|> one <|assistant|> on", "chosen": "e two", "rejected": " three"}
    with pytest.raises(ValueError, match="row 0: a token reaches from the prompt"):
        dpo.prepare(tiny_tokenizer(), [row], rendered=True)

    row["chosen"] = " two"
    assert dpo.prepare(tiny_tokenizer(), [row], rendered=True)
