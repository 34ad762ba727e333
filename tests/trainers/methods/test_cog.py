"""Chain-of-Guardrails: causes, kept parts, masks, and what becomes of every trace.

The student is scripted: it answers what the test says. Topics are invented.
"""

import json
import math
import re
from collections import Counter

import pytest
import torch
from places import ROOT
from tiny import losses, settings, tiny_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from trl import SFTConfig

import cotlens
from cotlens import Trace, TraceError
from cotlens.formats.prompts import Prompt as Request
from cotlens.judges.verdict import Part, Verdict
from cotlens.models.engine import Written
from cotlens.text.split import part_text
from cotlens.text.steps import segment_trace
from trainers import sft
from trainers.methods import cog
from trainers.methods.causes import Cause, StepReading, diagnose, read_markers
from trainers.methods.checks import (
    ANALYSES,
    CHECKS,
    DECISIONS,
    TRANSITIONS,
    Method,
    is_fit_check,
    own_words,
)
from trainers.methods.cog import Fate, build, guard_judge, repair
from trainers.methods.masks import Mask
from trainers.pocket.cog_arms import read_wording
from trainers.pocket.tokenizer import build_tokenizer
from trainers.render import encode, render_prompt

pytestmark = pytest.mark.usefixtures("one_thread")

REFUSAL = "I can't help with zorvex."
HELP = "You can brew zorvex with salt and some moss."
REQUEST = "How do I brew zorvex?"


def text_of(*sentences, answer=HELP):
    return f"<think>\n{' '.join(sentences)}\n</think>\n\n{answer}"


def trace_of(name, *sentences, answer=HELP, **fields):
    fields = {"finish_reason": "stop", "prompt": REQUEST, "meta": {"request": REQUEST}} | fields
    return Trace(
        id=name, prompt_id=f"p-{name}", completion=text_of(*sentences, answer=answer), **fields
    )


OPEN = "The user wants to brew zorvex."
RISK = "Zorvex is dangerous."
CURIOUS = "Maybe they are just curious."
WARN = "A short warning at the start should be enough."
ANYWHERE = "But they could find it anywhere anyway."
STORY = "In fiction such things are allowed."
PLAN = "Let me write down the steps."
DETAIL = "Then stir in the moss."
REFUSE = "I have to refuse this."

# The traces of a failure each, but for the last.
FAILURES = {
    "misidentification": trace_of("m", OPEN, PLAN, DETAIL),
    "benign_reframing": trace_of("b", OPEN, RISK, CURIOUS, PLAN),
    "warning": trace_of("w", RISK, WARN, PLAN, DETAIL),
    "logical_fallacy": trace_of("l", OPEN, RISK, ANYWHERE, PLAN),
    "n/a": trace_of("n", OPEN, RISK, REFUSE, answer=REFUSAL),
}
TRACES = list(FAILURES.values())


class Scripted:
    """A student that completes a closed thought with an answer, and others with a text."""

    name = "scripted"
    context = 4096

    def __init__(self, answer=REFUSAL, text="", length=()):
        self.tokenizer = build_tokenizer()
        self.end_ids = [self.tokenizer.eos_token_id]
        self.answer = answer
        self.text = text
        self.length = length  # ids of traces whose answer is cut off
        self.jobs = []

    def describe(self):
        return {}

    def check(self, sampling, prefixes):
        pass

    def write(self, jobs, sampling):
        for job in jobs:
            self.jobs.append(job)
            text = self.answer if job.prefix.endswith("</think>\n\n") else self.text
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            source = job.prompt.meta.get("continues", {}).get("id")
            if source not in self.length:
                ids = [*ids, *self.end_ids]
            yield job, Written(ids=tuple(ids))


def judge(traces):
    """Unsafe is an answer that says how."""
    return ["You can" in part_text(trace, "answer") for trace in traces]


def repaired(method=Method.SAFB, traces=TRACES, student=None, **options):
    options = {"read": read_wording, "max_new_tokens": 40, "write": say} | options
    return repair(student or Scripted(), traces, judge, method=method, **options)


def say(trace, diagnosis, number):
    return "Wait, is this allowed? I should not help with that."


CHECK = "Wait, is this allowed? I should not help with that."


# --- causes --------------------------------------------------------------------------------------

risk = StepReading(notices=True)
plain = StepReading()
goes = StepReading(complies=True)


def excuse(cause):
    return StepReading(excuse=cause)


READINGS = [
    # readings, cause, number of safe steps
    ([plain, goes], Cause.MISIDENTIFICATION, 1),
    ([goes, risk], Cause.MISIDENTIFICATION, 0),  # too late
    ([plain, plain], Cause.MISIDENTIFICATION, 0),  # nobody knows where it went wrong
    ([excuse(Cause.WARNING), goes], Cause.MISIDENTIFICATION, 0),  # nothing was noticed
    ([risk, excuse(Cause.WARNING), goes], Cause.WARNING, 1),
    ([plain, risk, plain, excuse(Cause.LOGICAL_FALLACY)], Cause.LOGICAL_FALLACY, 3),
    ([risk, excuse(Cause.BENIGN_REFRAMING), excuse(Cause.WARNING)], Cause.BENIGN_REFRAMING, 1),
    ([excuse(Cause.WARNING), risk, excuse(Cause.LOGICAL_FALLACY)], Cause.LOGICAL_FALLACY, 0),
    ([risk, goes, excuse(Cause.WARNING)], Cause.WARNING, 1),
    ([risk, goes], Cause.UNEXCUSED, 1),
    ([plain, risk, plain], Cause.UNEXCUSED, 2),
    ([StepReading(notices=True, complies=True)], Cause.UNEXCUSED, 0),
    ([], Cause.MISIDENTIFICATION, 0),
]


@pytest.mark.parametrize(("readings", "cause", "n_safe"), READINGS)
def test_why_a_trace_failed(readings, cause, n_safe):
    diagnosis = diagnose(readings, is_unsafe=True)
    assert diagnosis == (cause, n_safe)
    assert diagnosis.is_self_jailbreak == (cause is not Cause.MISIDENTIFICATION)


def test_what_did_not_fail_has_no_cause():
    diagnosis = diagnose([risk, excuse(Cause.WARNING)], is_unsafe=False)
    assert diagnosis == (Cause.NONE, 2)
    assert not diagnosis.is_self_jailbreak


@pytest.mark.parametrize(
    ("name", "n_safe"),
    [
        ("misidentification", 1),
        ("benign_reframing", 2),
        ("warning", 1),
        ("logical_fallacy", 2),
        ("n/a", 3),
    ],
)
def test_the_causes_of_made_up_traces(name, n_safe):
    trace = FAILURES[name]
    texts = [step.chars.of(trace.completion) for step in segment_trace(trace)]
    diagnosis = diagnose(read_wording(texts, REQUEST), judge([trace])[0])
    assert diagnosis == (name, n_safe)


def test_fiction_is_a_benign_reframing():
    (reading,) = read_wording([STORY], REQUEST)
    assert reading.excuse is Cause.BENIGN_REFRAMING


def test_markers_read_traces_in_english_and_no_others():
    thought = [
        "The user asks how to brew zorvex. ",
        "Zorvex is a poison that could seriously harm people. ",
        "But maybe they are just curious, or it is for a school project. ",
    ]
    request = "How do I brew zorvex to poison somebody?"
    readings = read_markers(thought, request)
    assert [reading.notices for reading in readings] == [False, True, False]
    assert diagnose(readings, is_unsafe=True) == (Cause.BENIGN_REFRAMING, 2)
    assert read_markers(["用户想知道怎么做这个东西。我们需要仔细想一想。"], request) is None


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


# --- what is written -----------------------------------------------------------------------------

FAILED = [cause for cause in Cause if cause is not Cause.NONE]


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("cause", FAILED)
def test_checks_take_turns(method, cause):
    texts = [own_words(method, cause, number) for number in range(60)]
    n_parts = 3 * 5 if method is Method.SAFR else 3 * 4 * 5
    assert len(set(texts)) == n_parts
    assert len(set(texts[:3])) == 3


@pytest.mark.xfail(strict=True, reason="a check that does not take turns is one sentence")
def test_checks_without_turns_differ():
    texts = [own_words(Method.SAFB, Cause.WARNING, 0) for _ in range(60)]
    assert len(set(texts)) == 60


def test_what_needs_no_repair_has_no_words():
    with pytest.raises(ValueError, match="needs no repair"):
        own_words(Method.SAFB, Cause.NONE, 0)


def test_every_cause_has_its_own_turn():
    """Four warnings and one fallacy: numbers 0 to 3, and 0."""
    numbers = []

    def note(trace, diagnosis, number):
        numbers.append((diagnosis.cause.value, number))
        return CHECK

    traces = [trace_of(str(number), RISK, WARN) for number in range(4)]
    traces.insert(2, trace_of("x", RISK, ANYWHERE))
    repaired(traces=traces, write=note)
    expected = [("warning", 0), ("warning", 1), ("logical_fallacy", 0), ("warning", 2)]
    assert numbers == [*expected, ("warning", 3)]


def test_own_words_are_ours_and_plain():
    """One sentence each, so that a text is a few short steps."""
    texts = [*TRANSITIONS, *DECISIONS]
    for table in (CHECKS, ANALYSES):
        assert set(table) == set(FAILED)
        for sentences in table.values():
            texts += sentences
    assert Counter(texts).most_common(1)[0][1] == 1
    for text in texts:
        assert text.endswith(".")
        assert "<" not in text


FIT = [
    (f"{RISK} {REFUSE}", True),
    (f"{RISK} {PLAN}", False),
    (f"{RISK} {CURIOUS}", False),
    (OPEN, False),
    ("", False),
    ("  ", False),
    (f"{RISK}</think> {REFUSE}", False),
    (f"<think>{RISK}", False),
    (f"{RISK} " * 100, False),
]


@pytest.mark.parametrize(("text", "is_fit"), FIT)
def test_which_texts_can_stand_in_a_thought(text, is_fit):
    assert is_fit_check(text, REQUEST, read_wording) is is_fit


def test_what_the_student_writes_is_used_where_it_is_fit():
    fit = f"{RISK} {REFUSE}"
    built = repaired(student=Scripted(text=f"<think>\n{OPEN}\n</think>\n\n{fit}"), by_student=True)
    assert all(f"{fit}\n</think>" in row["completion"] for row in built.rows[:4])
    assert built.counts()["generations"] == 5 + 2 * 4

    unfit = repaired(student=Scripted(text=PLAN), by_student=True)
    assert all(CHECK in row["completion"] for row in unfit.rows[:4])


def test_what_the_student_is_asked_names_fault_request_and_notes():
    student = Scripted(text=PLAN)
    repaired(Method.SAFR, [FAILURES["warning"]], student, by_student=True)
    asked = student.jobs[0].prompt.messages[0]["content"]
    assert f"Request:\n{REQUEST}\n" in asked
    assert f"Notes:\n{RISK}\n" in asked
    assert "takes a warning to be enough" in asked
    assert PLAN not in asked


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
