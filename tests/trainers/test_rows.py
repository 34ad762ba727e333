"""Rows as they are read, and the checks before training."""

import json

import pytest
from tiny import tiny_tokenizer

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from trainers.rows import check_held_out, check_tokenizer, load_rows


def test_files_are_read_renamed_and_filtered(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"instruction": "one", "thinking": "so", "answer": "two", "label": "harmful"},
        {"instruction": "two", "thinking": "hmm", "answer": "one", "label": "benign"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))

    (row,) = load_rows([str(path)], columns={"prompt": "instruction"}, keep={"label": "harmful"})
    assert row["prompt"] == "one"
    assert row["completion"] == "<think>\nso\n</think>\n\ntwo"

    with pytest.raises(ValueError, match="no row has label = 'x'; its values are benign, harmful"):
        load_rows([str(path)], keep={"label": "x"})
    with pytest.raises(ValueError, match="row 0 has no column 'question'"):
        load_rows([str(path)], columns={"prompt": "question"})


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="no such file"):
        load_rows([str(path)])
    path.write_text('{"prompt": "one"}\nnot json')
    with pytest.raises(ValueError, match="row 2"):
        load_rows([str(path)])


def test_a_prompt_of_the_evaluation_is_not_trained_on():
    """Whatever its case and spaces, and also where the row is a list of messages."""
    rows = [{"prompt": "Two"}, {"prompt": [{"role": "user", "content": " one  TWO\n"}]}]
    check_held_out(rows, [{"prompt": "two three"}, {"prompt": ""}])

    message = r"1 of 2 rows have a request that is held out .* row 1: 'one two'"
    with pytest.raises(ValueError, match=message):
        check_held_out(rows, [{"prompt": "One two"}])


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("pad_token", "no padding token"),
        ("eos_token", "no end-of-text token"),
        ("chat_template", "no chat template"),
    ],
)
def test_a_tokenizer_lacks_nothing_that_training_needs(missing, message):
    tokenizer = tiny_tokenizer()
    check_tokenizer(tokenizer)
    setattr(tokenizer, missing, None)
    with pytest.raises(ValueError, match=message):
        check_tokenizer(tokenizer)
