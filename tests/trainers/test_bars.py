"""What a user sees during training."""

import pytest
from tiny import QUESTIONS, grpo_settings, length, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from trainers import grpo

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_user_sees_one_bar(tmp_path, capsys):
    grpo.train(
        trained_model(),
        tiny_tokenizer(),
        QUESTIONS,
        rewards=[length],
        args=grpo_settings(tmp_path, disable_tqdm=False),
        record=tmp_path / "record",
    )
    printed = capsys.readouterr()
    assert printed.out == ""

    # The bar redraws its line with a carriage return.
    lines = [line for line in printed.err.replace("\r", "\n").split("\n") if line.strip()]
    assert "3/3" in lines[-1]
    assert "reward=" in lines[-1]
    assert all("/3 [" in line for line in lines), lines
