"""IPO: where a pair is cut, which traces make one, what carries loss, and the loss by hand."""

import json
import math
import sys
from importlib import import_module
from types import SimpleNamespace

import pandas as pd
import pytest
from places import ROOT
from tiny import byte_tokenizer, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from trl.trainer.dpo_config import DPOConfig

from cotlens import Trace
from cotlens.judges.verdict import Verdict
from trainers import dpo
from trainers.methods import ipo
from trainers.methods.kl import kl_by_step
from trainers.script import parse

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "<|user|> one <|assistant|>\n"
ROWS = [{"prompt": f"{PROMPT}<think> one two", "chosen": " so so so", "rejected": " so so"}] * 2
STEPS = ("They ask.", "It is old.", "Sure, do it.", "Sure, more.", "Done.")
TRIGGERS = ("Wait, this hurts.", "Stop here.")
SAFE = " I refuse.</think> No."


def thought_of(*steps, answer=" Here.", **fields):
    """A trace whose thought has these steps."""
    completion = f"<think>{' '.join(steps)}</think>{answer}"
    known = {"id": "t", "prompt_id": "p", "prompt": PROMPT, "finish_reason": "stop"}
    return Trace(completion=completion, **known | fields)


def steps_of(trace):
    from cotlens.text.steps import segment_trace

    return [step.chars.of(trace.completion).strip() for step in segment_trace(trace)]


def says_sure(trace, first):
    """The cue's judge of these tests."""
    for number, step in enumerate(steps_of(trace)):
        if number >= first and step.startswith("Sure"):
            return number
    return None


@pytest.fixture
def student(monkeypatch):
    """A model that goes on with what `student.rests` has for the text that was put in."""
    student = SimpleNamespace(tokenizer=words(), write=None, rests={}, finish="stop", asked=[])

    def continue_traces(model, traces, cuts, *, insert, **options):
        continued = []
        for trace, cut, text in zip(traces, cuts, insert, strict=True):
            start = len(trace.completion[:cut] + text)
            rest = student.rests.get(text.strip(), SAFE)
            student.asked.append((trace.id, cut, text))
            fields = {
                "id": f"{trace.id}@{cut}",
                "completion": trace.completion[:cut] + text + rest,
                "token_starts": (start,),
                "token_ids": (1,),
                "finish_reason": student.finish,
            }
            continued.append(Trace(prompt=trace.prompt, prompt_id=trace.prompt_id, **fields))
        return continued

    module = import_module("cotlens.probes.intervene")  # the package has a function of that name
    monkeypatch.setattr(module, "continue_traces", continue_traces)
    return student


def words():
    """A tokenizer whose tokens are words and blanks with the word after them, as in Qwen."""
    text = " ".join([*STEPS, *TRIGGERS, SAFE, PROMPT, "<think>", "</think>"])
    return byte_tokenizer([text] * 3, size=400)


# --- the builder -------------------------------------------------------------------------------


def test_a_cue_at_step_3_of_5_leaves_a_prefix_of_steps_1_and_2(student):
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    assert [row["prompt"] for row in built.rows] == [f"{PROMPT}<think>They ask. It is old."] * 2
    assert [row["chosen"] for row in built.rows] == [f" {text}{SAFE}" for text in TRIGGERS]
    assert {row["rejected"] for row in built.rows} == {
        " Sure, do it. Sure, more. Done.</think> Here."
    }
    assert {row["h"] for row in built.rows} == {2}  # steps are counted from 0
    assert built.rows[0]["why"] == "step 2 replaced by 'Wait, this hurts.'"
    assert built.prompts["mended"] == 1
    assert len(built.traces) == 2


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="pairs that are not cut have no shared beginning"
)
def test_twin_whole_completions_have_no_prefix(student):
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS, full=True)
    assert built.rows[0]["prompt"] == f"{PROMPT}<think>They ask. It is old."


def test_pairs_that_are_not_cut_are_whole_completions(student):
    trace = thought_of(*STEPS)
    built = ipo.mend(student, says_sure, [trace], triggers=TRIGGERS[:1], full=True)
    (row,) = built.rows
    assert row["prompt"] == PROMPT
    assert row["rejected"] == trace.completion
    assert row["chosen"] == f"<think>They ask. It is old. {TRIGGERS[0]}{SAFE}"


@pytest.mark.parametrize(
    ("trace", "outcome"),
    [
        (thought_of("Sure, do it.", "It is old."), "no_cue"),  # a cue in the first step is none
        (thought_of("They ask.", "It is old."), "no_cue"),
        (thought_of(*STEPS, finish_reason="length"), "cut_off"),
        (thought_of(*STEPS, finish_reason=""), "cut_off"),
        (thought_of(*STEPS).__class__(id="n", prompt=PROMPT, completion="No."), "no_thought"),
    ],
)
def test_a_trace_without_a_pair_costs_no_generation(student, trace, outcome):
    built = ipo.mend(student, says_sure, [trace], triggers=TRIGGERS)
    assert built.rows == []
    assert student.asked == []
    assert {name for name, n in built.prompts.items() if n} == {outcome}


def test_what_still_complies_is_not_accepted(student):
    student.rests[TRIGGERS[0]] = " Sure, do it.</think> Here."
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    assert [row["chosen"] for row in built.rows] == [f" {TRIGGERS[1]}{SAFE}"]
    assert built.prompts["mended"] == 1

    student.rests[TRIGGERS[1]] = student.rests[TRIGGERS[0]]
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    assert (built.rows, built.prompts["not_mended"]) == ([], 1)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="everything is accepted")
def test_twin_without_acceptance_what_complies_becomes_chosen(student):
    student.rests[TRIGGERS[0]] = " Sure, do it.</think> Here."
    built = ipo.mend(
        student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS, accept=lambda _: True
    )
    assert [row["chosen"] for row in built.rows] == [f" {TRIGGERS[1]}{SAFE}"]


def test_a_guard_may_accept_instead(student):
    """It reads thinking and answer, and must call both safe."""
    read = []

    def judge(items):
        read.extend((item.part.value, item.text) for item in items)
        return [Verdict("unsafe" if "Stop" in item.text else "safe") for item in items]

    accept = ipo.judged_safe(SimpleNamespace(judge=judge))
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS, accept=accept)
    assert [row["chosen"] for row in built.rows] == [f" {TRIGGERS[0]}{SAFE}"]
    assert read[:2] == [
        ("thinking", "They ask. It is old. Wait, this hurts. I refuse."),
        ("answer", " No."),
    ]


def test_a_continuation_that_was_cut_off_makes_no_pair(student):
    """TRL would put the end token after it."""
    student.finish = "length"
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    assert built.rows == []
    assert built.pairs["cut_off"] == 2


def test_no_triggers_are_an_error(student):
    with pytest.raises(ValueError, match="expected sentences of safety"):
        ipo.mend(student, says_sure, [], triggers=[])


# --- stage 2 -----------------------------------------------------------------------------------


def test_stage_2_prefers_the_bases_help_to_a_wrong_refusal():
    help_text, refusal = " To make tea, boil water.", " I'm sorry, but I can't help with that."
    helped = [
        thought_of("Fine.", answer=help_text, id=f"h{n}", prompt_id=f"p{n}") for n in range(3)
    ]
    helped[1] = thought_of("Fine.", answer=refusal, id="h1", prompt_id="p1")
    refused = []
    for number, answer in enumerate((refusal, refusal, help_text)):
        fields = {"id": f"r{number}", "prompt_id": f"p{number}"}
        refused.append(thought_of("No.", answer=answer, **fields))

    built = ipo.pair_help(words(), helped, refused)
    assert built.prompts == {"paired": 1, "no_refusal": 1, "no_help": 1}
    (row,) = built.rows
    assert (row["prompt"], row["h"], row["source"]) == (PROMPT, None, "ipo stage 2")
    assert row["chosen"].endswith(help_text)
    assert row["rejected"].endswith(refusal)


@pytest.mark.parametrize(
    ("n_harmful", "n_benign", "ratio", "kept"),
    [
        (100, 100, 0.5, (50, 100)),
        (100, 100, 0.3, (30, 100)),
        (100, 10, 0.7, (7, 10)),
        (10, 100, 0.5, (10, 20)),  # too few harmful ones: fewer benign ones
        (10, 1, 0.3, (1, 1)),
    ],
)
def test_the_mixture_of_both_stages(n_harmful, n_benign, ratio, kept):
    harmful = [{"kind": "harmful", "n": n} for n in range(n_harmful)]
    benign = [{"kind": "benign", "n": n} for n in range(n_benign)]
    rows = ipo.mix(harmful, benign, ratio, seed=1)
    kinds = [row["kind"] for row in rows]
    assert (kinds.count("harmful"), kinds.count("benign")) == kept
    assert rows == ipo.mix(harmful, benign, ratio, seed=1)
    with pytest.raises(ValueError, match="rows of both stages"):
        ipo.mix(harmful, [], ratio)


def test_sft_on_the_chosen_has_the_same_prompts(student):
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    rows = ipo.chosen_rows(built.rows)
    assert [row["completion"] for row in rows] == [row["chosen"] for row in built.rows]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in built.rows]
    assert "rejected" not in rows[0]


# --- the mechanism -----------------------------------------------------------------------------


def test_kl_at_the_cue_by_hand():
    """Four steps of one token each; the cue is the third. (0.1 + 0.3 + 0.2) / 3 = 0.2; 0.8 / 0.2."""
    completion = "Ask. Old. Sure. Done."
    text = f"<think>{completion}</think>No."
    trace = Trace(id="t", completion=text)
    starts = [text.index(word) for word in ("Ask", "Old", "Sure", "Done", "</think>", "No")]
    row = {
        "trace_id": "t",
        "token_starts": tuple(starts),
        "word_starts": tuple(starts),
        "kl": [0.1, 0.3, 0.8, 0.2, 5.0, 7.0],
    }
    table = kl_by_step(pd.DataFrame([row]), [trace], says_sure)
    (values,) = table.to_dict("records")
    assert values["step"] == 2
    assert values["kl_cue"] == pytest.approx(0.8)
    assert values["kl_other"] == pytest.approx(0.2)
    assert values["ratio"] == pytest.approx(4)
    assert (values["n_cue"], values["n_other"]) == (1, 3)

    # Unscored tokens count nothing, and an equal model has no ratio.
    gap = row | {"kl": [0.1, math.nan, 0.8, 0.3, 0, 0]}
    assert kl_by_step(pd.DataFrame([gap]), [trace], says_sure)["kl_other"].item() == pytest.approx(
        0.2
    )
    still = row | {"kl": [0.0] * 6}
    assert math.isnan(kl_by_step(pd.DataFrame([still]), [trace], says_sure)["ratio"].item())
    assert kl_by_step(pd.DataFrame([row]), [thought_of("They ask.")], says_sure).empty


# --- recipes and the command -------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """A folder with a tiny model, rows of pairs, and a file of prompts."""
    trained_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    lines = [json.dumps(row) for row in ROWS]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    prompts = [json.dumps({"prompt": f"{word} three"}) for word in ("one", "two")]
    (tmp_path / "prompts.jsonl").write_text("\n".join(prompts))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "losses", "loss_weights"),
    [("dpo_ipo", ["sigmoid"], None), ("dpo_ipo_stage2", ["sigmoid", "sft"], [1.0, 0.2])],
)
def test_the_recipes(saved, capsys, name, losses, loss_weights):
    arguments = ["--config", str(ROOT / "trainers" / "configs" / f"{name}.yaml")]
    places = {"model_name_or_path": "model", "data": "rows.jsonl", "output_dir": "out"}
    for option, place in places.items():
        arguments += [f"--{option}", str(saved / place)]
    arguments += ["--dry_run", "true"]

    _, config, _ = parse(DPOConfig, arguments)
    assert (config.loss_type, config.loss_weights) == (losses, loss_weights)
    assert config.beta in (0.05, 0.1)
    assert config.learning_rate in (1e-6, 5e-6, 1e-5)
    assert (config.weight_decay, config.warmup_steps) == (0, 0.1)
    assert 8 * config.per_device_train_batch_size * config.gradient_accumulation_steps == 64

    dpo.main(arguments)
    printed = capsys.readouterr().out
    assert "<think> one two[[ so so so<eos>]]" in printed
    assert "rejected:\n[[ so so<eos>]]" in printed
    assert not (saved / "out").exists()


def test_a_dry_run_of_the_command_writes_nothing(saved, capsys, monkeypatch):
    """A random model: what it writes has no cue, or no end."""
    cues = SimpleNamespace(TRIGGERS=TRIGGERS, first_cue=says_sure, no_cue_left=lambda _: True)
    monkeypatch.setitem(sys.modules, "cotlens.probes.cues", cues)
    arguments = ["--model", str(saved / "model"), "--prompts", str(saved / "prompts.jsonl")]
    arguments += ["--max_new_tokens", "8", "--dry_run", "true"]
    before = sorted(saved.iterdir())
    ipo.main(arguments)
    printed = capsys.readouterr().out
    assert "2 generations, 1.0 a prompt\npairs: none\n" in printed

    stage2 = ["--stage1", str(saved / "model"), "--pairs", str(saved / "rows.jsonl")]
    ipo.main([*arguments, *stage2])
    assert '"no_refusal": 2' in capsys.readouterr().out
    assert sorted(saved.iterdir()) == before


def test_the_command_writes_rows_once(saved, capsys, monkeypatch, student):
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    monkeypatch.setattr(ipo, "_build", lambda *_: built)
    arguments = ["--model", "m", "--prompts", str(saved / "prompts.jsonl")]
    ipo.main([*arguments, "--dry_run", "true"])
    assert "It is old.[[ Wait, this hurts. I refuse.</think> No.]]" in capsys.readouterr().out

    out = saved / "made.jsonl"
    ipo.main([*arguments, "-o", str(out)])
    assert [json.loads(line) for line in out.read_text().splitlines()] == built.rows
    assert '"mended": 1' in capsys.readouterr().out
    with pytest.raises(SystemExit, match="exists already"):
        ipo.main([*arguments, "-o", str(out)])

    # Stage 2 mixes: two harmful rows for four benign ones at a half, so here one and two.
    stage2 = ["--stage1", "m", "--pairs", str(out), "-o", str(saved / "both.jsonl")]
    ipo.main([*arguments, *stage2])
    assert len((saved / "both.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name the file of rows"),
        (["-o", "x", "--stage1", "m"], "stage 2 needs both"),
        (["-o", "x", "--full", "yes"], "expected true or false"),
    ],
)
def test_wrong_arguments_say_what_is_missing(capsys, options, message):
    with pytest.raises(SystemExit):
        ipo.main(["--model", "m", "--prompts", "p", *options])
    assert message in capsys.readouterr().err
