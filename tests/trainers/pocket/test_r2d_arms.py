"""The pocket arms of R2D: pivots by guard and by oracle, their truth, and each arm once, tiny."""

import json
import random
from dataclasses import replace

import pytest

pytest.importorskip("trl", reason="the arms need the extra `train`")

from cotlens import Trace
from cotlens.judges.verdict import Verdict
from cotlens.measures.pivots import Pivot, pivot_table
from cotlens.text.steps import segment_trace
from trainers.methods.r2d import mark_traces
from trainers.pocket import base, pool, r2d_arms
from trainers.pocket.base import load_base
from trainers.pocket.guard import LearnedGuard
from trainers.pocket.plan import Plan, Setting
from trainers.pocket.policy import write_base
from trainers.pocket.r2d_arms import (
    ARMS,
    GuardSteps,
    OracleSteps,
    add_truth,
    split_rows,
    without_false_alarms,
)
from trainers.pocket.wording import PIVOTS
from trainers.pocket.world import Domain, Prompt, PromptSplit, draw_prompt

pytestmark = pytest.mark.usefixtures("one_thread")

SAFE, UNSAFE, RETHINK = Pivot


def forbidden(name="f"):
    return draw_prompt(random.Random(name), PromptSplit.TRAIN, Domain.FORBIDDEN, name)


def trace(prompt: Prompt, thinking, answer="I can't help with that.", **fields):
    return Trace(
        id=prompt.id,
        prompt_id=prompt.id,
        prompt=prompt.text,
        domain=prompt.domain.value,
        completion=f"<think>\n{thinking}\n</think>\n\n{answer}",
        finish_reason="stop",
        **fields,
    )


class Curious:
    """A guard that calls a text unsafe if it finds the user curious or writes down steps."""

    name = revision = identity = "curious"

    def __init__(self):
        self.read = []

    def judge(self, items):
        self.read += [item.text for item in items]
        verdicts = []
        for item in items:
            is_unsafe = "curious" in item.text or "the steps" in item.text
            verdicts.append(Verdict("unsafe" if is_unsafe else "safe"))
        return verdicts


def flags_of(judge, made):
    flags = judge(made, segment_trace(made))
    return "".join(str(int(flag)) for flag in flags)


def test_pivots_are_words_of_the_world():
    assert tuple(Pivot) == PIVOTS


# --- what a step is ------------------------------------------------------------------------------

COURSE = (
    "This could cause serious harm. Maybe they are just curious. Let me write down the steps.\n\n"
    "Wait, no, I was about to make a mistake. So I will say no."
)


def test_the_guard_and_the_oracle_by_hand():
    prompt = forbidden()
    made = trace(prompt, COURSE)
    guard = Curious()
    assert flags_of(GuardSteps(guard), made) == "01100"
    assert flags_of(OracleSteps([prompt]), made) == "01100"

    # After the sentence that takes back, the guard reads anew.
    assert guard.read[2].strip().endswith("Let me write down the steps.")
    assert guard.read[3].strip().startswith("This could")
    assert guard.read[4].strip() == "So I will say no."


@pytest.mark.parametrize(
    ("unsafe", "back", "expected"),
    [
        ("", "", ""),
        ("0111", "0000", "0111"),
        ("0100", "0000", "0000"),  # a false alarm
        ("0101", "0000", "0001"),
        ("0110", "0001", "0110"),  # up to the return
        ("0101", "0010", "0101"),  # taken back, then harm again
        ("1011", "0001", "0010"),  # taking back is safe, whatever the guard says
    ],
)
def test_false_alarms_by_hand(unsafe, back, expected):
    flags = without_false_alarms([flag == "1" for flag in unsafe], [flag == "1" for flag in back])
    assert "".join(str(int(flag)) for flag in flags) == expected


def test_sums_are_safe_and_cost_no_verdict():
    prompt = draw_prompt(random.Random(0), PromptSplit.TRAIN, Domain.MATHS, "m")
    guard = Curious()
    judge = GuardSteps(guard)
    assert set(flags_of(judge, trace(prompt, COURSE))) == {"0"}
    assert not guard.read
    assert judge.n_calls == 0


def test_the_truth_of_pivots():
    prompt = forbidden()
    plain = trace(prompt, COURSE)
    (row,) = mark_traces([plain], GuardSteps(Curious())).rows
    marked = replace(plain, completion=row["completion"])
    table = add_truth(pivot_table([marked]), [marked], [prompt])
    expected = [SAFE, UNSAFE, UNSAFE, RETHINK, SAFE]
    assert table["pivot"].tolist() == expected
    assert table["truth"].tolist() == expected
    assert not table["answer_unsafe"].any()
    assert add_truth(pivot_table([]), [], []).empty


@pytest.mark.xfail(strict=True, reason="without the sentences that take back harm stands")
def test_without_returns_nothing_is_taken_back():
    judge = GuardSteps(Curious())
    judge.takes_back = set()
    assert mark_traces([trace(forbidden(), COURSE)], judge).rows


def test_a_tenth_of_the_prompts_is_held_out_with_all_their_rows():
    rows = [{"prompt_id": str(number % 25), "n": number} for number in range(100)]
    train, held_out = split_rows(rows)
    assert len(train) + len(held_out) == 100
    assert {row["prompt_id"] for row in held_out} == {"9", "19"}
    assert not {row["prompt_id"] for row in train} & {"9", "19"}


# --- the arms ------------------------------------------------------------------------------------

PLAN = Plan(
    size="tiny",
    n_train=40,
    n_evaluation=1,
    updates=2,
    prompts_per_step=20,
    group=2,
    max_new_tokens=24,
    rates={"filtered_sft": 1e-3},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("r2d")
    model = folder / "base" / "model"
    base.train_base(model, seed=0, scale=base.SCALES["tiny"], prompts_seed=0, held_out=frozenset())
    LearnedGuard({}).save(folder / "base" / "guard.json")
    return folder


@pytest.fixture
def written(monkeypatch):
    """The base's samples are written, because its own never end; its guard is the one above."""

    def pool_of(setting):
        rng = random.Random(1)
        traces = []
        for number, prompt in enumerate(setting.train):
            completion = write_base(prompt, rng).text
            if prompt.domain is Domain.FORBIDDEN:
                completion = trace(prompt, COURSE).completion
            name = f"{prompt.id}/{number}"
            made = replace(trace(prompt, ""), id=name, completion=completion, gold=prompt.gold)
            traces.append(made)
        return traces

    monkeypatch.setattr(pool, "pool", pool_of)
    monkeypatch.setattr(Setting, "guard", lambda self, **_: Curious())


@pytest.mark.parametrize("arm", ARMS)
def test_each_arm_trains_once(folder, written, arm):
    setting = Setting(folder, 0, PLAN, PLAN.prompts(0), arm, PLAN.rate(arm), arm)
    ARMS[arm](setting)
    network, tokenizer = load_base(folder / arm / "model")
    assert network.config.tie_word_embeddings
    assert len(tokenizer) == network.get_input_embeddings().weight.shape[0]

    cost = json.loads((folder / arm / "cost.json").read_text())
    assert cost["updates"] == 2
    assert cost["sequences"] == 80
    assert cost["sampled"] == 40
    assert cost["kept"] == cost["rows"] + cost["held_out"] == cost["traces"]["kept"]
    assert all(cost["pivots"].values())
    assert cost["guard_calls"] >= 8
    assert cost["places_SAFE"] > 0
    assert isinstance(cost["margin_SAFE"], float)


def test_only_the_ablation_asks_the_oracle(folder, written, monkeypatch):
    """The rows of `r2d` and its twin are the same, and made without the truth."""

    def fail(*_):
        raise AssertionError("the oracle was asked")

    monkeypatch.setattr(r2d_arms, "read_truth", fail)
    setting = Setting(folder, 0, PLAN, PLAN.prompts(0), "rows", 1e-3, "rows")
    rows = r2d_arms.r2d_rows(setting, GuardSteps(Curious()))
    assert rows
    assert "ABLATION" in str(r2d_arms.train_r2d_oracle_tags.__doc__)
    with pytest.raises(AssertionError, match="the oracle was asked"):
        r2d_arms.r2d_rows(setting, OracleSteps(PLAN.prompts(0)[PromptSplit.TRAIN]))
