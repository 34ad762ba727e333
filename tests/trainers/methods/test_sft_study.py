"""The SFT study: the same prompts in every type, harmless rows, matched removal, the command."""

import json

import pytest
from places import ROOT
from tiny import trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from cotlens import Trace
from cotlens.text.split import part_text, request_of
from trainers import sft
from trainers.methods import sft_study
from trainers.methods.sft_study import (
    CATEGORIES,
    MISSING,
    REFUSAL,
    UNUSED,
    ResponseType,
    benign_rows,
    control,
    follows_template,
    match,
    without,
)

pytestmark = pytest.mark.usefixtures("one_thread")

CLOSED = "<think>\nhm\n</think>\n\nno"
CUT = "<think>\nhm"
BENIGN = [{"prompt": "tea?", "completion": "<think>\nso\n</think>\n\nboil it"}]


def response(prompt, completion=CLOSED):
    return Trace(
        id=f"{prompt}",
        prompt=prompt,
        prompt_id=prompt,
        completion=completion,
        domain="harmful",
        finish_reason="stop",
    )


def of_types(**changed):
    """Three prompts, answered in every type; some with another completion."""
    written = {}
    for kind in ResponseType:
        completions = changed.get(kind.value, {})
        written[kind] = [response(name, completions.get(name, CLOSED)) for name in "abc"]
    return written


def no_bad_word(traces):
    return ["bad" not in trace.completion for trace in traces]


# --- the same prompts ----------------------------------------------------------------------------


def test_a_prompt_that_one_type_lacks_is_in_none():
    """`a` is unsafe in the default type and `b` is cut in the short one, so `c` alone is left."""
    written = of_types(
        default={"a": "<think>\nbad\n</think>\n\nno"},
        short={"b": "<think>\nhm"},
    )
    built = match(written, no_bad_word, benign_share=0)
    for rows in built.rows.values():
        assert [row["prompt_id"] for row in rows] == ["c"]
    assert built.counts[MISSING] == 2
    assert built.acceptance[ResponseType.DEFAULT] == (3, 0, 1, 0, 2)
    assert built.acceptance[ResponseType.SHORT] == (3, 1, 0, 0, 2)


@pytest.mark.xfail(strict=True, reason="each type has its own prompts where nothing matches them")
def test_without_matching_the_types_differ_in_their_prompts():
    written = of_types(default={"a": "<think>\nbad\n</think>\n\nno"})
    default = match(
        {ResponseType.DEFAULT: written[ResponseType.DEFAULT]}, no_bad_word, benign_share=0
    )
    short = match({ResponseType.SHORT: written[ResponseType.SHORT]}, no_bad_word, benign_share=0)
    assert len(default.rows[ResponseType.DEFAULT]) == len(short.rows[ResponseType.SHORT])


@pytest.mark.xfail(strict=True, reason="nothing is left out where the filter is off")
def test_without_the_filter_an_unsafe_thought_is_learned():
    written = of_types(default={"a": "<think>\nbad\n</think>\n\nno"})
    built = match(written, lambda traces: [True] * len(traces), benign_share=0)
    completions = [row["completion"] for row in built.rows[ResponseType.DEFAULT]]
    assert not any("bad" in text for text in completions)


def test_every_type_has_as_many_rows_as_are_asked_for():
    built = match(of_types(), no_bad_word, benign=BENIGN, benign_share=0.5, n_rows=2)
    assert {len(rows) for rows in built.rows.values()} == {3}
    assert built.counts[UNUSED] == 1
    assert built.rows[ResponseType.SHORT][-1]["source"] == "benign"


def test_an_empty_thought_has_no_text_and_passes():
    assert part_text(response("a", REFUSAL), "thinking").strip() == ""
    built = match({ResponseType.NONE: [response("a", REFUSAL)]}, no_bad_word, benign_share=0)
    assert len(built.rows[ResponseType.NONE]) == 1


def test_a_response_that_is_not_of_its_type_is_counted_apart():
    written = {ResponseType.TEMPLATE: [response("a"), response("b", CUT)]}
    built = match(
        written,
        no_bad_word,
        benign_share=0,
        checks={ResponseType.TEMPLATE: lambda trace: trace.id != "a"},
    )
    assert built.counts["responses not of their type: template"] == 1
    assert built.acceptance[ResponseType.TEMPLATE] == (2, 1, 0, 0, 0)


# --- a template ----------------------------------------------------------------------------------


def filled(categories):
    lines = "\n".join(f"- {name}: no" for name in categories)
    return response("a", f"<think>\n{lines}\nIt is harmless.\n</think>\n\nno")


def test_a_template_has_one_verdict_a_category_in_order():
    assert follows_template(filled(CATEGORIES))
    assert not follows_template(filled(CATEGORIES[::-1]))
    assert not follows_template(filled(CATEGORIES[1:]))
    assert not follows_template(filled([*CATEGORIES, CATEGORIES[0]]))
    assert not follows_template(response("a"))


# --- harmless rows -------------------------------------------------------------------------------


def test_harmless_rows_come_in_turn():
    rows = [{"prompt": "a", "completion": "1"}, {"prompt": "b", "completion": "2"}]
    assert [row["prompt"] for row in benign_rows(rows, 3)] == ["a", "b", "a"]
    assert benign_rows([], 0) == []


def test_harmless_rows_that_are_not_there():
    with pytest.raises(ValueError, match="100 harmless rows are asked for and none is given"):
        benign_rows([], 100)


# --- matched removal -----------------------------------------------------------------------------


def test_what_is_taken_out():
    """Of six rows two have a pattern: four are left, and four in the control."""
    rows = [{"prompt": str(number)} for number in range(6)]
    flags = [True, True, False, False, False, False]
    assert [row["prompt"] for row in without(rows, flags)] == ["2", "3", "4", "5"]

    left = control(rows, flags, seed=1)
    assert len(left) == 4
    assert left == sorted(left, key=lambda row: row["prompt"])
    assert control(rows, flags, seed=1) == left
    assert any(control(rows, flags, seed=seed) != left for seed in range(5))


def test_patterns_that_overlap_by_hand():
    """Six rows; A has rows 1 and 2, B has 2 and 3: without A 4 are left, without both 3."""
    rows = [{"prompt": str(number)} for number in range(1, 7)]
    has_a = [True, True, False, False, False, False]
    has_b = [False, True, True, False, False, False]
    either = [a or b for a, b in zip(has_a, has_b, strict=True)]
    sizes = [len(rows), len(without(rows, has_a)), len(without(rows, either))]
    assert sizes == [6, 4, 3]
    assert [len(control(rows, has_a)), len(control(rows, either))] == sizes[1:]


@pytest.mark.xfail(strict=True, reason="the whole data set is no control: it is larger")
def test_a_control_of_another_size():
    rows = [{"prompt": str(number)} for number in range(6)]
    has_pattern = [True, False, False, False, False, False]
    no_control = control(rows, [False] * len(rows))
    assert len(no_control) == len(without(rows, has_pattern))


def test_the_control_does_not_look_at_the_pattern():
    rows = [{"prompt": str(number)} for number in range(6)]
    assert control(rows, [True, False] * 3) == control(rows, [False, True] * 3)


# --- the command and the recipe ------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """A tiny model's folder, harmful prompts and harmless rows."""
    from tiny import tiny_tokenizer

    trained_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    prompts = [{"prompt": word, "domain": "harmful"} for word in ("one", "two", "one two")]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    (tmp_path / "benign.jsonl").write_text(json.dumps(BENIGN[0]))
    return tmp_path


@pytest.fixture
def lenient(monkeypatch):
    """A model that has learned next to nothing closes no thought: all of it counts as complete."""
    monkeypatch.setattr("trainers.methods.selfgen.is_complete", lambda sample: True)
    monkeypatch.setattr(sft_study, "follows_template", lambda trace: True)
    monkeypatch.setattr(sft_study, "load_guard", lambda name: None)
    monkeypatch.setattr(sft_study, "safe_by", lambda guard: lambda traces: [True] * len(traces))
    short = dict.fromkeys(ResponseType, "two ")
    monkeypatch.setattr(sft_study, "INSTRUCTIONS", short)


@pytest.mark.usefixtures("lenient")
def test_the_command_writes_a_file_for_each_type(files, capsys):
    arguments = ["--model", str(files / "model"), "--prompts", str(files / "prompts.jsonl")]
    arguments += ["--guard", "g", "--benign", str(files / "benign.jsonl"), "--max_new_tokens", "8"]
    sft_study.main([*arguments, "--benign_share", "0.34", "-o", str(files / "rows")])
    assert "harmful rows: 3" in capsys.readouterr().out

    # Every file asks the same, and none has what the writer was asked for.
    for kind in ResponseType:
        lines = (files / "rows" / f"{kind.value}.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["prompt"] for row in rows] == ["one", "two", "one two", "tea?"]

    with pytest.raises(SystemExit):
        sft_study.main([*arguments, "-o", str(files / "rows")])
    assert "is there already" in capsys.readouterr().err


@pytest.mark.usefixtures("lenient")
def test_a_dry_run_shows_every_type_and_writes_nothing(files, capsys):
    arguments = ["--model", str(files / "model"), "--prompts", str(files / "prompts.jsonl")]
    arguments += ["--guard", "g", "--benign_share", "0", "--max_new_tokens", "8"]
    sft_study.main([*arguments, "--dry_run", "true"])
    printed = capsys.readouterr().out
    for kind in ResponseType:
        assert f"--- {kind.value}" in printed
    assert "first row, what is learned in [[ ]]" in printed
    assert not (files / "rows").exists()


def test_a_response_answers_the_bare_request(files):
    from cotlens.formats.prompts import read_prompts
    from cotlens.models.load import load_model

    built = sft_study.build(
        load_model(files / "model"),
        lambda traces: [True] * len(traces),
        list(read_prompts([files / "prompts.jsonl"])),
        benign_share=0,
        max_new_tokens=8,
    )
    for traces in built.traces.values():
        assert {request_of(trace) for trace in traces} <= {"one", "two", "one two"}


def test_a_dry_run_of_the_recipe(files, capsys):
    rows = files / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "one", "completion": "<think> so </think> one"}))
    arguments = ["--config", str(ROOT / "trainers" / "configs" / "sft_study.yaml")]
    arguments += ["--model_name_or_path", str(files / "model"), "--data", str(rows)]
    arguments += ["--output_dir", str(files / "out"), "--use_cpu", "true", "--bf16", "false"]
    sft.main([*arguments, "--activation_checkpointing", "false", "--dry_run", "true"])
    assert "1 rows" in capsys.readouterr().out
    assert not (files / "out").exists()
