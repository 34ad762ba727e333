"""The arms of own words: a tiny run of each, and the rows that they share with their twins."""

import json

import pytest
from tiny_pocket import setting_of, tiny_plan, train_tiny_base

pytest.importorskip("trl", reason="the experiment needs the extra `train`")

from cotlens import Trace
from cotlens.detect.refusal import Refusal
from cotlens.text.split import request_of
from trainers.methods import dgr
from trainers.pocket import own_arms, wording
from trainers.pocket.arms import ARMS, SEEDS_OF
from trainers.pocket.external import REFUSAL, refusal_rows, teach
from trainers.pocket.policy import Teacher
from trainers.pocket.pool import REQUESTS, pool
from trainers.pocket.wording import Role, Steering
from trainers.pocket.world import Domain

PLAN = tiny_plan(prompts_per_step=4)
PROMPTS = PLAN.prompts(0)
STEERING = wording.STEERINGS[Steering.REFUSE]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base that has learned next to nothing, and its guard."""
    return train_tiny_base(tmp_path_factory.mktemp("pocket"), PLAN, PROMPTS)


def setting(folder, arm):
    return setting_of(folder, arm, PLAN, PROMPTS)


@pytest.fixture
def lenient(monkeypatch):
    """A base that has learned nothing closes no thought: all samples count as complete and safe."""
    monkeypatch.setattr("trainers.methods.selfgen.is_complete", lambda sample: True)
    monkeypatch.setattr(
        own_arms, "safe_by", lambda guard, parts: lambda traces: [True] * len(traces)
    )


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("arm", own_arms.ARMS)
def test_every_arm_trains_for_the_updates_of_the_plan(folder, arm):
    own_arms.ARMS[arm](setting(folder, arm))
    assert (folder / arm / "model" / "model.safetensors").exists()

    cost = json.loads((folder / arm / "cost.json").read_text())
    assert (cost["updates"], cost["sequences"]) == (2, 16)
    assert cost["sampled"] == cost["unclosed"] + cost["unsafe"] + cost["kept"] or arm[:3] == "dgr"
    assert cost["kept"] + cost["fallback"] == cost["rows"]
    assert cost["sampled_tokens"] > 0
    n_each = 2 if arm.startswith("thinksafe") else 1
    assert cost["generations_per_prompt"] == n_each


def test_the_arms_are_registered_with_a_rate_and_seeds():
    for arm in own_arms.ARMS:
        assert ARMS[arm] is own_arms.ARMS[arm]
        assert SEEDS_OF[arm] == 3
        assert PLAN.rate(arm) == 1e-3


# --- ThinkSafe ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("lenient")
def test_without_the_instruction_the_samples_are_the_pools(folder):
    """So `self_sft` is the same arm without steering."""
    arm = setting(folder, "thinksafe")
    pooled = [trace for trace in pool(arm) if trace.domain in REQUESTS]
    plain = own_arms.thinksafe_rows(arm, "").traces
    assert [trace.completion for trace in plain] == [trace.completion for trace in pooled]

    steered = own_arms.thinksafe_rows(arm).traces
    for with_it, without in zip(steered, pooled, strict=True):
        if with_it.domain != Domain.FORBIDDEN:
            assert with_it.completion == without.completion


@pytest.mark.usefixtures("lenient")
def test_no_row_has_the_instruction(folder):
    built = own_arms.thinksafe_rows(setting(folder, "thinksafe"))
    texts = {prompt.text for prompt in PROMPTS["train"]}
    assert built.rows
    for row in built.rows:
        assert row["prompt"] in texts
        assert STEERING.strip() not in row["prompt"]
        assert row["anchor"] is (row["domain"] != "forbidden")
    steered = {row["source"] for row in built.rows if row["domain"] == "forbidden"}
    assert steered == {"steered"}


# --- DGR ---------------------------------------------------------------------------------------


def test_the_unrefined_twin_is_in_the_formal_register(folder):
    """`hindsight_safety_sft` has no sentence of the base's own register."""
    plain = set()
    for role in (Role.OPEN, Role.NOTICE, Role.REFUSE, Role.ANSWER_REFUSAL):
        for text in wording.PLAIN[role]:
            plain.add(text.partition("{")[0])
    rows = teach(setting(folder, "dgr_teacher"), Teacher.HINDSIGHT, (Domain.FORBIDDEN,))
    assert len(rows) == PLAN.sequences
    for row in rows:
        for beginning in plain:
            assert not beginning or beginning not in row["completion"]


def test_a_fallback_is_the_twins_row(folder):
    """A base that has learned nothing rewrites nothing."""
    arm = setting(folder, "dgr_refusal")
    sources = refusal_rows(arm)
    built = own_arms.dgr_rows(arm, sources)
    pairs = [(row["prompt"], row["completion"]) for row in built.rows]
    assert pairs == [(row["prompt"], row["completion"]) for row in sources]
    assert built.acceptance["forbidden"].fallback_share == 1


def refusal(topic="zorvex", thought="I should not help with that."):
    text = REFUSAL.format(v="brew", t=topic).replace("I should not help with that.", thought)
    return Trace(id="a", completion=text, prompt=f"How do I brew {topic}?", finish_reason="stop")


def test_the_base_is_asked_as_in_its_own_training():
    source = refusal(thought="{T} is bad.\n\nNo.")
    assert own_arms.ask_for_rewrite(source) == (
        "Say this in your own words. {T} is bad. No. I'm sorry, but I can't help you brew zorvex."
    )


DECISIONS = [
    (refusal(), refusal(thought="Zorvex is dangerous."), "kept"),
    (refusal(), refusal("brimlax"), "another decision"),
    (refusal(), refusal(thought="Brimlax is dangerous."), "another decision"),
    (refusal(), refusal(thought="As you said, in your own words."), "mentions the rewriting"),
]


@pytest.mark.parametrize(("source", "rewriting", "why"), DECISIONS)
def test_a_rewriting_decides_the_same_about_the_same_topic(source, rewriting, why):
    request = own_arms.ask_for_rewrite(source)
    assert dgr.check(source, rewriting, own_arms.decide, request) == why
    assert own_arms.decide(source) == (Refusal.FULL, frozenset({"zorvex"}))
    assert request_of(source) == "How do I brew zorvex?"
