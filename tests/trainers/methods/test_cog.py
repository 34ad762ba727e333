"""Chain-of-Guardrails: causes, kept parts, masks, and what becomes of every trace.

The student is scripted: it answers what the test says. Topics are invented.
"""

import json
import math
import re

import pytest
import torch
from places import ROOT
from tiny import losses, settings, tiny_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from cog_traces import (
    CHECK,
    CURIOUS,
    FAILURES,
    HELP,
    OPEN,
    PLAN,
    REFUSAL,
    REQUEST,
    RISK,
    TRACES,
    Scripted,
    judge,
    repaired,
    trace_of,
)
from trl import SFTConfig

import cotlens
from cotlens import Trace, TraceError
from cotlens.formats.prompts import Prompt as Request
from cotlens.judges.verdict import Part, Verdict
from trainers import sft
from trainers.methods import cog
from trainers.methods.checks import (
    Method,
)
from trainers.methods.cog import build
from trainers.methods.fates import Fate, guard_judge
from trainers.methods.masks import Mask
from trainers.pocket.cog_arms import read_wording
from trainers.pocket.tokenizer import build_tokenizer
from trainers.render import encode, render_prompt

pytestmark = pytest.mark.usefixtures("one_thread")

# --- rows ----------------------------------------------------------------------------------------


def test_what_becomes_of_every_trace():
    built = repaired()
    assert [row["why"] for row in built.rows] == list(FAILURES)
    assert [row["source"] for row in built.rows] == ["cog_safb"] * 5
    assert [row["h"] for row in built.rows] == [3, 4, 4, 4, None]
    assert [row["prompt"] for row in built.rows] == [REQUEST] * 5
    assert built.counts() == {
        "repaired": 4,
        "unchanged": 1,
        "misidentification": 1,
        "benign_reframing": 1,
        "warning": 1,
        "logical_fallacy": 1,
        "generations": 9,
        "prompts": 5,
    }
    n_answer = len(build_tokenizer().encode(REFUSAL, add_special_tokens=False)) + 1
    assert built.n_tokens == 4 * n_answer


@pytest.mark.parametrize("method", Method)
def test_what_did_not_fail_is_unchanged_and_learned_whole(method):
    completion = FAILURES["n/a"].completion
    row = repaired(method).rows[-1]
    assert row["completion"] == completion
    assert row["learned"] == [[0, len(completion)]]


def test_safb_keeps_the_whole_thought_and_appends_the_check():
    built = repaired()
    for trace, row in zip(TRACES[:4], built.rows, strict=False):
        thought = trace.completion[: trace.completion.index("</think>")]
        assert row["completion"] == f"{thought}{CHECK}\n</think>\n\n{REFUSAL}"


# The thought that SafR keeps, written out.
KEPT = {
    "misidentification": f"<think>\n{OPEN}",
    "benign_reframing": f"<think>\n{OPEN} {RISK}",
    "warning": f"<think>\n{RISK}",
    "logical_fallacy": f"<think>\n{OPEN} {RISK}",
}


def test_safr_keeps_the_beginning_byte_for_byte():
    built = repaired(Method.SAFR)
    for row in built.rows[:4]:
        kept = KEPT[row["why"]]
        original = FAILURES[row["why"]].completion
        assert original.encode().startswith(kept.encode())
        assert row["completion"] == f"{kept} {CHECK}\n</think>\n\n{REFUSAL}"
        assert row["learned"] == [[0, len(row["completion"])]]


@pytest.mark.xfail(strict=True, reason="SafB keeps the bad part")
def test_the_bad_part_is_gone_without_recomposition():
    for row in repaired(Method.SAFB).rows[:4]:
        assert row["completion"].startswith(f"{KEPT[row['why']]} {CHECK}")


def test_odd_white_space_stays():
    trace = trace_of("a", f"{OPEN}\n\n{RISK}   {CURIOUS} \n{PLAN}")
    (row,) = repaired(Method.SAFR, [trace]).rows
    assert row["completion"].startswith(f"<think>\n{OPEN}\n\n{RISK}   {CHECK}\n</think>")


def test_the_student_writes_the_answer_and_nothing_else():
    student = Scripted()
    repaired(student=student)
    assert [job.prefix.endswith(f"{CHECK}\n</think>\n\n") for job in student.jobs] == [True] * 4


OUTCOMES = [
    # what differs, and what becomes of it
    ({"student": Scripted(answer=HELP)}, Fate.NOT_REPAIRED),
    ({"student": Scripted(answer="")}, Fate.NOT_ENDED),
    ({"student": Scripted(answer="\n")}, Fate.NOT_ENDED),
    ({"student": Scripted(answer=f"<think>\n{RISK}\n</think>\n\n{REFUSAL}")}, Fate.NOT_ENDED),
    ({"student": Scripted(length=("b",))}, Fate.NOT_ENDED),
    ({"read": lambda *_: None}, Fate.UNREAD),
    ({"has_failed": lambda traces: [None] * len(traces)}, Fate.UNDECIDED),
    ({"traces": [trace_of("b", RISK, PLAN, finish_reason="length")]}, Fate.NO_THOUGHT),
    ({"traces": [Trace(id="b", prompt=REQUEST, completion=HELP)]}, Fate.NO_THOUGHT),
    ({"traces": [Trace(id="b", prompt=REQUEST, completion="<think>\nSo")]}, Fate.NO_THOUGHT),
    ({"traces": [Trace(id="b", completion="<think>\n</think>\n\nx")]}, Fate.NO_THOUGHT),
]


@pytest.mark.parametrize(("options", "fate"), OUTCOMES)
def test_what_cannot_be_repaired_is_left_out_and_counted(options, fate):
    options = {"traces": [FAILURES["benign_reframing"]]} | options
    built = repaired(**options)
    assert built.rows == []
    assert [record.fate for record in built.records] == [fate]


def test_nothing_to_do_is_done():
    assert repaired(traces=[]).counts() == {"generations": 0, "prompts": 0}


def test_another_judge_may_say_what_failed():
    """The pocket world repairs what is safe in the answer and unsafe in the thinking."""
    safe = trace_of("a", RISK, CURIOUS, answer=REFUSAL)
    built = repaired(traces=[safe], has_failed=lambda traces: [True] * len(traces))
    assert [row["why"] for row in built.rows] == ["benign_reframing"]


# --- masks ---------------------------------------------------------------------------------------


def learned_ids(row, tokenizer):
    """The encoded row, and the ids that carry loss."""
    prompt = render_prompt(tokenizer, row["prompt"])
    encoded = encode(tokenizer, prompt, row["completion"], row["learned"])
    return encoded, [label for label in encoded.labels if label != -100]


def check_learned(mask, expected):
    tokenizer = build_tokenizer()
    for row in repaired(mask=mask).rows[:4]:
        _, ids = learned_ids(row, tokenizer)
        assert tokenizer.decode(ids) == expected


ANSWERED = f"{CHECK}\n</think>\n\n{REFUSAL}<eos>"


def test_the_tokens_of_check_and_answer_and_end_are_learned():
    check_learned(Mask.CHECK_AND_ANSWER, ANSWERED)


@pytest.mark.xfail(strict=True, reason="without the mask the bad thought is learned")
def test_the_tokens_of_check_and_answer_are_learned_without_the_mask():
    check_learned(Mask.ALL, ANSWERED)


def test_the_check_alone_is_learned():
    check_learned(Mask.CHECK, f"{CHECK}\n")


def test_the_safe_beginning_is_learned_too():
    tokenizer = build_tokenizer()
    for row in repaired(mask=Mask.SAFE_PART_TOO).rows[:4]:
        _, ids = learned_ids(row, tokenizer)
        assert tokenizer.decode(ids) == KEPT[row["why"]] + ANSWERED


def check_same_loss_positions(mask):
    """Other words in the bad thought: the labels are the same."""
    tokenizer = build_tokenizer()
    for row in repaired(mask=mask).rows[:4]:
        encoded, _ = learned_ids(row, tokenizer)
        start = row["completion"].index(CHECK)
        thought = row["completion"][len("<think>") : start]
        other = "<think>" + re.sub("[A-Za-z']", "x", thought) + row["completion"][start:]
        changed, _ = learned_ids(row | {"completion": other}, tokenizer)

        assert changed.input_ids != encoded.input_ids
        assert changed.labels == encoded.labels


def test_the_masked_thought_does_not_change_what_is_learned():
    check_same_loss_positions(Mask.CHECK_AND_ANSWER)


@pytest.mark.xfail(strict=True, reason="without the mask the bad thought is learned")
def test_the_thought_does_not_change_what_is_learned_without_the_mask():
    check_same_loss_positions(Mask.ALL)


def zero_network(tokenizer):
    network = tiny_model(len(tokenizer), max_position_embeddings=512)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return network


@pytest.mark.parametrize("mask", Mask)
def test_on_a_network_of_zeros_the_loss_is_that_of_guessing(mask, tmp_path):
    """Every token has ln V, so the mean is ln V whatever is learned, and the count decides a sum."""
    tokenizer = build_tokenizer()
    network = zero_network(tokenizer)
    rows = repaired(mask=mask).rows[:2]
    config = settings(SFTConfig, tmp_path, max_steps=1, max_length=200)
    trainer = sft.train(network, tokenizer, rows, config)
    assert losses(trainer)[0] == pytest.approx(math.log(len(tokenizer)), abs=1e-4)


def test_a_sum_of_losses_counts_the_learned_tokens():
    tokenizer = build_tokenizer()
    network = zero_network(tokenizer)
    sums = {}
    for mask in Mask:
        row = repaired(mask=mask).rows[1]
        encoded, ids = learned_ids(row, tokenizer)
        with torch.no_grad():
            logits = network(torch.tensor([encoded.input_ids])).logits[0, :-1]
        labels = torch.tensor(encoded.labels[1:])
        loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        sums[mask] = loss.item() / math.log(len(tokenizer))
        assert sums[mask] == pytest.approx(len(ids), rel=1e-5)
    assert sums[Mask.CHECK] < sums[Mask.CHECK_AND_ANSWER] < sums[Mask.SAFE_PART_TOO]
    assert sums[Mask.SAFE_PART_TOO] < sums[Mask.ALL]


# --- judges, samples, the command ----------------------------------------------------------------


class Guard:
    """Unsafe is what holds the word dangerous; nothing is known of a text with a question."""

    name = "test"
    revision = ""
    identity = "test"

    def judge(self, items):
        labels = []
        for item in items:
            label = "unsafe" if "moss" in item.text else "safe"
            labels.append(Verdict("undecided" if "?" in item.text else label))
        return labels


GUARDED = [
    # thinking, answer, by the answer, by both
    ("Then stir in the moss.", "x.", False, True),
    ("So.", "Take moss.", True, True),
    ("So?", "Take moss.", True, True),
    ("So?", "x.", False, None),
    ("So.", "x?", None, None),
    (" ", "x.", False, False),
]


@pytest.mark.parametrize(("thinking", "answer", "by_answer", "by_both"), GUARDED)
def test_a_guard_reads_the_parts_that_it_is_given(thinking, answer, by_answer, by_both):
    trace = trace_of("a", thinking, answer=answer)
    assert guard_judge(Guard())([trace]) == [by_answer]
    assert guard_judge(Guard(), (Part.THINKING, Part.ANSWER))([trace]) == [by_both]


def test_build_samples_and_repairs():
    student = Scripted(text=FAILURES["warning"].completion)
    built = build(
        student,
        judge,
        [REQUEST],
        method=Method.SAFB,
        n=2,
        max_new_tokens=80,
        read=read_wording,
    )
    assert [row["why"] for row in built.rows] == ["warning", "warning"]
    assert built.counts()["generations"] == 4
    assert built.counts()["prompts"] == 1
    assert built.rows[0]["completion"] != built.rows[1]["completion"]


def test_messages_stay_messages():
    messages = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": REQUEST},
    ]
    student = Scripted(text=FAILURES["warning"].completion)
    prompt = Request("p", messages, {}, {}, "prompt 1")
    built = build(
        student, judge, [prompt], method=Method.SAFB, max_new_tokens=80, read=read_wording
    )
    assert built.rows[0]["prompt"] == messages


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The arguments of the command, with a scripted student and a guard in place of models."""
    student = Scripted(text=FAILURES["benign_reframing"].completion)
    monkeypatch.setattr(cotlens, "load_model", lambda name: student, raising=False)
    monkeypatch.setattr("cotlens.judges.local.load_guard", lambda name, family: Guard())
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"id": str(number), "prompt": REQUEST} for number in range(6)]
    prompts.write_text("\n".join(map(json.dumps, rows)))
    places = ["--model", "m", "--guard", "g", "--prompts", str(prompts)]
    return [*places, "--max_new_tokens", "80"]


def test_the_command_writes_rows_that_the_trainer_takes(command, tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    cog.main([*command, "-o", str(out)])
    assert "6 rows" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 6
    assert len(sft.prepare(build_tokenizer(), rows)) == 6
    with pytest.raises(SystemExit, match="exists; name another file"):
        cog.main([*command, "-o", str(out)])


def test_a_dry_run_shows_and_writes_nothing(command, tmp_path, capsys):
    cog.main([*command, "--dry_run", "true", "--method", "safr"])
    printed = capsys.readouterr().out
    assert "4 rows" in printed
    assert "tokens: " in printed
    assert "[[<think>\n" in printed
    assert f"{REFUSAL}<eos>]]" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.jsonl"]


def test_a_command_without_a_file_says_so(command):
    with pytest.raises(SystemExit, match="no file to write"):
        cog.main(command)


@pytest.mark.parametrize("method", Method)
def test_the_recipe_shows_what_it_would_train(method, tmp_path, capsys):
    """The dry run of the recipe, with a tiny model and built rows."""
    tokenizer = build_tokenizer()
    tiny_model(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lines = [json.dumps(row) for row in repaired(method).rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))

    recipe = ROOT / "trainers" / "configs" / f"sft_cog_{method}.yaml"
    places = ["--model_name_or_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "o")]
    places += ["--data", str(tmp_path / "rows.jsonl")]
    options = "--dry_run true --use_cpu true --bf16 false"
    sft.main(["--config", str(recipe), *places, *options.split()])
    printed = capsys.readouterr().out
    assert "5 rows" in printed
    first = "[[<think>" if method is Method.SAFR else f"[[{CHECK}\n</think>"
    assert first in printed
    assert "full fine-tuning: " in printed


def test_two_traces_of_one_id_are_an_error():
    with pytest.raises(TraceError, match="occurs twice"):
        repaired(traces=[FAILURES["warning"]] * 2)
