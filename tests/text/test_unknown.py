"""Delimiters that are not in the table are named, with the option that reads them."""

import json

import pytest

from cotlens.describe import describe_path
from cotlens.runs.analyze import analyze
from cotlens.text.response import new_tags, response_tags
from cotlens.text.tags import Tags
from cotlens.text.unknown import find_unknown

LOOKS = [
    ("<ponder>Hm.</ponder>Four.", ("<ponder>", "</ponder>")),
    ("<|think_begin|>Hm.<|think_end|>Four.", ("<|think_begin|>", "<|think_end|>")),
    ("[REASON]Hm.[/REASON]Four.", ("[REASON]", "[/REASON]")),
    ("<my_thoughts>Hm.</my_thoughts>", ("<my_thoughts>", "</my_thoughts>")),
    ("<begin_think>Hm.<end_think>Four.", ("<begin_think>", "<end_think>")),
    ("<think>Hm.</think>Four.", None),  # known
    ("Use `<ponder>` and `</ponder>`.", None),  # mentioned
    ("<ponder>Hm.", None),  # one end only
    ("<b>I think</b> so [1].", None),
]


@pytest.mark.parametrize(("text", "expected"), LOOKS)
def test_what_looks_like_a_pair(text, expected):
    assert find_unknown(text) == expected


def write(path, *completions, prompt="2+2?"):
    rows = [json.dumps({"prompt": prompt, "completion": text}) for text in completions]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_info_and_analyze_name_the_pair_and_the_option(tmp_path, capsys):
    path = write(tmp_path / "t.jsonl", "<ponder>Hm.</ponder>Four.", "Five.")
    advice = describe_path(path)["advice"]
    assert "1 of 2 texts have <ponder> and </ponder>" in advice
    assert "--tags '<ponder>' '</ponder>'" in advice

    run = analyze(path, tmp_path / "run")
    assert run.info["advice"] == advice
    assert describe_path(run.path)["advice"] == advice
    split = analyze(path, tmp_path / "split", tags=Tags("<ponder>", "</ponder>"))
    assert "advice" not in split.info
    assert split.trace_table()["status"].tolist() == ["closed", "absent"]


def test_a_pair_that_the_prompt_opens(tmp_path):
    path = write(tmp_path / "t.jsonl", "Hm.</ponder>Four.", prompt="2+2?\n<ponder>\n")
    assert "--tags '<ponder>' '</ponder>'" in describe_path(path)["advice"]


def test_nothing_is_said_where_a_trace_has_a_thought(tmp_path):
    path = write(tmp_path / "t.jsonl", "<think>Hm.</think>Four.", "<ponder>Hm.</ponder>Four.")
    assert "advice" not in describe_path(path)


def test_gemma_without_its_special_tokens_is_told(tmp_path):
    path = write(tmp_path / "t.jsonl", "thought\nTwo and two.Four.")
    assert "skip_special_tokens=False" in describe_path(path)["advice"]


class Tokenizer:
    def __init__(self, **fields):
        self.response_template = (
            {"start_anchor": "<|assistant|>", "fields": fields} if fields else None
        )


RESPONSE_TEMPLATES = [
    ({}, None),
    ({"content": {"close": "</s>"}}, None),
    ({"reasoning_content": {"open": "<hm>", "close": "</hm>"}}, ("<hm>", "</hm>")),
    ({"thinking": {"open": ["<hm>", "<Hm>"], "close": "</hm>"}}, ("<hm>", "</hm>")),
    (
        {"reasoning": {"open": "<|hm|>\n", "close_pattern": r"<\|/hm\|>\s*"}},
        ("<|hm|>\n", "<|/hm|>"),
    ),
    ({"thinking": {"open_pattern": r"<hm\d>", "close": "</hm>"}}, None),  # no plain text
    ({"thinking": {"close": "</hm>"}}, None),
]


@pytest.mark.parametrize(("fields", "expected"), RESPONSE_TEMPLATES)
def test_a_response_template_gives_the_delimiters(fields, expected):
    tokenizer = Tokenizer(**fields)
    assert response_tags(tokenizer) == expected
    assert new_tags(tokenizer) == expected


def test_a_delimiter_that_the_template_prefills_ends_the_anchor():
    tokenizer = Tokenizer(thinking={"open_pattern": r"(?=.*?</hm>)", "close": "</hm>"})
    tokenizer.response_template["start_anchor"] = "<|im_start|>assistant\n<hm>\n"
    assert new_tags(tokenizer) == ("<hm>", "</hm>")
    tokenizer.response_template["start_anchor"] = "<|assistant|>"
    assert new_tags(tokenizer) is None


def test_known_delimiters_of_a_response_template_are_left_to_the_splitter():
    known = Tokenizer(thinking={"open": "<think>\n", "close_pattern": r"\n</think>\s*"})
    assert response_tags(known) == ("<think>\n", "\n</think>")
    assert new_tags(known) is None
    harmony = Tokenizer(thinking={"open": "<|channel|>analysis<|message|>", "close": "<|end|>"})
    assert new_tags(harmony) is None
