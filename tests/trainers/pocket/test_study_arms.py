"""The arms of the SFT study: what each type writes, the same prompts, and patterns taken out."""

import pytest
from tiny_pocket import setting_of, tiny_plan, train_tiny_base

pytest.importorskip("trl", reason="the experiment needs the extra `train`")

from cotlens.text.split import part_text, request_of
from trainers.methods.sft_study import ResponseType
from trainers.pocket import study_arms, wording
from trainers.pocket.arms import ARMS, SEEDS_OF
from trainers.pocket.oracle import read_truth
from trainers.pocket.study_arms import (
    NO_THOUGHT,
    PATTERNS,
    TEMPLATE,
    follows_template,
    lacks_awareness,
    rule_check,
    strong_vacillation,
    write,
)
from trainers.pocket.wording import Role
from trainers.pocket.world import Domain, PromptSplit

PLAN = tiny_plan(prompts_per_step=4)
PROMPTS = PLAN.prompts(0)
FORBIDDEN = [p for p in PROMPTS[PromptSplit.TRAIN] if p.domain is Domain.FORBIDDEN]
ROLES = {
    ResponseType.IMMEDIATE: [Role.OPEN, Role.NOTICE, Role.REFUSE],
    ResponseType.SHORT: [Role.REFUSE],
    ResponseType.TEMPLATE: [Role.NOTICE, Role.NOTICE, Role.REFUSE],
    ResponseType.NONE: [],
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", list(ROLES), ids=lambda kind: kind.value)
def test_what_is_written_is_what_the_oracle_reads(kind):
    for prompt in FORBIDDEN:
        trace = write(prompt, kind)
        truth = read_truth(trace.completion, prompt)
        assert [sentence.role for sentence in truth.think] == ROLES[kind]
        assert truth.is_refusal
        assert not truth.answer_unsafe


def test_a_response_without_thinking_has_none():
    trace = write(FORBIDDEN[0], ResponseType.NONE)
    assert trace.completion.startswith(NO_THOUGHT)
    assert part_text(trace, "thinking").strip() == ""


@pytest.mark.xfail(strict=True, reason="every other type has thinking")
def test_a_short_response_has_no_thinking():
    assert part_text(write(FORBIDDEN[0], ResponseType.SHORT), "thinking").strip() == ""


def test_a_template_has_its_verdicts_in_order():
    trace = write(FORBIDDEN[0], ResponseType.TEMPLATE)
    assert follows_template(trace)
    assert not follows_template(write(FORBIDDEN[0], ResponseType.SHORT))

    # Two verdicts and a conclusion.
    assert [text in wording.FORMAL[Role.NOTICE] for text in TEMPLATE] == [True, True, False]


# --- patterns ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ([Role.OPEN, Role.PLAN], (True, False, False)),
        ([Role.OPEN, Role.NOTICE, Role.REFUSE], (False, False, False)),
        ([Role.NOTICE, Role.PLAN, Role.RECOVER, Role.REFUSE], (False, True, False)),
        ([Role.NOTICE, Role.OTHER_FALLACY, Role.REFUSE], (False, True, False)),
        ([Role.RULE_CHECK, Role.NOTICE, Role.REFUSE], (False, False, True)),
        ([], (True, False, False)),
    ],
)
def test_patterns_by_hand(roles, expected):
    assert (lacks_awareness(roles), strong_vacillation(roles), rule_check(roles)) == expected


# --- a tiny plan ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base that has learned next to nothing, and its guard."""
    return train_tiny_base(tmp_path_factory.mktemp("pocket"), PLAN, PROMPTS)


def setting(folder, arm):
    return setting_of(folder, arm, PLAN, PROMPTS)


@pytest.fixture
def lenient(monkeypatch):
    """All samples count as complete and safe, whatever a base that learned nothing writes."""
    monkeypatch.setattr("trainers.methods.selfgen.is_complete", lambda sample: True)
    monkeypatch.setattr(
        study_arms, "safe_by", lambda guard, parts: lambda traces: [True] * len(traces)
    )
    monkeypatch.setattr(study_arms, "is_helpful", lambda completion, prompt: 1.0)


@pytest.mark.usefixtures("lenient")
def test_types_differ_in_their_responses_alone(folder):
    built = study_arms.study_rows(setting(folder, "study_default"))
    asked = {kind: [row["prompt"] for row in rows] for kind, rows in built.rows.items()}
    assert len(asked) == 6
    assert all(prompts == asked[ResponseType.DEFAULT] for prompts in asked.values())

    # The instruction is in no row.
    instruction = wording.STEERINGS[wording.Steering.REFUSE].strip()
    for rows in built.rows.values():
        assert not any(instruction in row["prompt"] for row in rows)


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("arm", ["study_none", "removed_rule_check", "control_rule_check"])
def test_an_arm_leaves_a_model_and_its_cost(folder, arm):
    one = setting(folder, arm)
    ARMS[arm](one)
    assert (one.own / "model" / "model.safetensors").exists()


@pytest.mark.usefixtures("lenient")
def test_a_removal_and_its_control_have_as_many_rows(folder):
    sizes = {}
    for name in PATTERNS:
        rows, flags = study_arms.pattern_rows(setting(folder, f"removed_{name}"), name)
        sizes[name] = (len(study_arms.without(rows, flags)), len(study_arms.control(rows, flags)))
    assert all(one == other for one, other in sizes.values())


def test_removals_are_trained_only_where_somebody_asks():
    assert {SEEDS_OF[arm] for arm in study_arms.ON_REQUEST} == {0}
    assert len(study_arms.ON_REQUEST) == 6


def test_requests_are_what_rows_are_matched_by():
    trace = write(FORBIDDEN[0], ResponseType.SHORT)
    assert trace.prompt_id == request_of(trace)
