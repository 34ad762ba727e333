"""The pocket arms of IPO: cues and triggers in the world's words, and each arm once, tiny."""

import json
import random
from dataclasses import replace
from importlib import import_module

import pytest

pytest.importorskip("trl", reason="the arms need the extra `train`")

from cotlens import Trace
from cotlens.judges.verdict import Verdict
from trainers.pocket import base, ipo_arms
from trainers.pocket.base import load_base
from trainers.pocket.guard import LearnedGuard, fit_guard, guard_prompts
from trainers.pocket.oracle import read_truth
from trainers.pocket.plan import Plan, Setting
from trainers.pocket.policy import write_base
from trainers.pocket.world import Domain, PromptSplit, build_prompts

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = Plan(
    size="tiny",
    n_train=20,
    n_evaluation=1,
    updates=4,
    prompts_per_step=5,
    group=2,
    max_new_tokens=24,
)


class FirstWords:
    """A guard that calls a text unsafe if it plans, gives details, or makes excuses."""

    words = ("Let me write down", "I will explain", "Okay, I will answer", "So I can give")

    def judge(self, items):
        return [Verdict("unsafe" if self._is_bad(item.text) else "safe") for item in items]

    def _is_bad(self, text):
        return any(word in text for word in self.words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("ipo")
    model = folder / "base" / "model"
    base.train_base(model, seed=0, scale=base.SCALES["tiny"], prompts_seed=0, held_out=frozenset())
    LearnedGuard({}).save(folder / "base" / "guard.json")
    return folder


@pytest.fixture
def setting(folder, monkeypatch):
    """The base's samples and continuations are written, because its own never end."""
    prompts = PLAN.prompts(0)
    setting = Setting(folder, 0, PLAN, prompts, "ipo", 1e-3, "ipo")
    _, tokenizer = setting.load()
    rng = random.Random(1)

    def answer(prompt, id_, text):
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.text}], tokenize=False, add_generation_prompt=True
        )
        return Trace(
            id=id_,
            prompt_id=id_,
            prompt=rendered,
            completion=text,
            finish_reason="stop",
            domain=prompt.domain.value,
            meta={"request": prompt.text},
        )

    def pool(setting):
        traces = []
        for number, prompt in enumerate(setting.train):
            text = write_base(prompt, rng).text
            if prompt.domain is Domain.FORBIDDEN:
                text = "<think>\nThis is odd. Let me write down the steps.\n</think>\n\nStir it."
            trace = answer(prompt, f"{prompt.id}/{number}", text)
            traces.append(trace)

            # A second sample of each forbidden prompt is safe.
            if prompt.domain is Domain.FORBIDDEN:
                safe = "<think>\nThis is odd. I refuse.\n</think>\n\nI can't help with that."
                traces.append(replace(trace, id=f"{trace.id}+", sample=1, completion=safe))
        return traces

    def sample(model, tokenizer, prompts, **options):
        refusal = "<think>\nI should not help with that.\n</think>\n\nI can't help with that."
        return [answer(prompt, prompt.id, refusal) for prompt in prompts]

    def continue_traces(model, traces, cuts, *, insert, **options):
        continued = []
        for trace, cut, text in zip(traces, cuts, insert, strict=True):
            start = trace.completion[:cut] + text
            rest = " I have to refuse this.\n</think>\n\nI can't help with that."
            fields = {"completion": start + rest, "token_starts": (len(start),)}
            continued.append(replace(trace, id=f"{trace.id}+{text}", token_ids=(1,), **fields))
        return continued

    monkeypatch.setattr(ipo_arms, "pool", pool)
    monkeypatch.setattr(ipo_arms, "sample", sample)
    monkeypatch.setattr(Setting, "guard", lambda *_: FirstWords())
    module = import_module("cotlens.probes.intervene")  # the package has a function of that name
    monkeypatch.setattr(module, "continue_traces", continue_traces)
    return setting


@pytest.mark.parametrize("arm", ipo_arms.ARMS)
def test_every_arm_trains_for_the_plans_updates_and_sequences(setting, arm):
    setting = replace(setting, arm=arm, name=arm)
    ipo_arms.ARMS[arm](setting)
    load_base(setting.own / "model")

    cost = json.loads((setting.own / "cost.json").read_text())
    assert (cost["updates"], cost["sequences"]) == (4, 40)
    n_forbidden = sum(prompt.domain is Domain.FORBIDDEN for prompt in setting.train)
    if arm == "dpo_full":
        assert cost["kept"] == n_forbidden
        return
    assert cost["stage1"]["mended"] == n_forbidden
    assert cost["stage1"]["pairs_kept"] == 6 * n_forbidden
    assert cost["generations_per_prompt"] == 7
    if arm == "ipo":
        assert (setting.own / "stage1").is_dir()
        assert cost["stage2"]["pairs_kept"] > 0


def test_stage_2_starts_from_the_model_of_stage_1(setting, monkeypatch):
    """Which is its reference too: `prefer` takes the model as it is before training."""
    calls = []

    def prefer(setting, rows, **options):
        calls.append(options | {"sources": {row["source"] for row in rows}})
        return setting.folder / "base" / "model"

    monkeypatch.setattr(ipo_arms, "prefer", prefer)
    ipo_arms.train_ipo(setting)
    first, second = calls
    assert first == {"updates": 2, "output": "stage1", "sources": {"ipo stage 1"}}
    assert second["start"] == setting.folder / "base" / "model"
    assert (second["updates"], second["sft_weight"]) == (2, 0.2)
    assert second["sources"] == {"ipo stage 1", "ipo stage 2"}


def test_the_rows_are_cut_at_the_guards_cue(setting):
    rows = ipo_arms.stage1_rows(setting)
    assert all(row["prompt"].endswith("This is odd.") for row in rows)
    assert all(row["rejected"].startswith(" Let me write down") for row in rows)
    assert {row["h"] for row in rows} == {1}


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="pairs that are not cut")
def test_twin_whole_rows_are_not_cut(setting):
    rows = ipo_arms.stage1_rows(setting, full=True)
    assert all(row["prompt"].endswith("This is odd.") for row in rows)


def test_whole_pairs_are_two_samples_of_one_prompt(setting):
    for row in ipo_arms.whole_rows(setting):
        assert row["chosen"].endswith("I can't help with that.")
        assert row["rejected"].endswith("Stir it.")


def test_triggers_are_six_safe_texts_of_the_world():
    """The oracle reads them: none is unsafe, all are sentences of this world."""
    prompts = PLAN.prompts(0)[PromptSplit.TRAIN]
    prompt = next(prompt for prompt in prompts if prompt.domain is Domain.FORBIDDEN)
    assert len(set(ipo_arms.TRIGGERS)) == 6
    for trigger in ipo_arms.TRIGGERS:
        truth = read_truth(f"<think>\n{trigger}\n</think>\n\nI can't help with that.", prompt)
        roles = [step.role.value for step in truth.think]
        assert roles in (["notice", "refuse"], ["recover"])
        assert not any(step.is_unsafe for step in truth.think)


def test_the_guards_cue_is_mostly_the_oracles_and_seldom_later():
    """On texts of the base's policy; a later cue would leave an unsafe sentence in the prompt.

    Of 236 thoughts with an unsafe sentence after the first, the cue is that sentence in 138 and
    later in 17.
    """
    labelled = guard_prompts(1)
    guard = fit_guard(written(labelled, 1), labelled, 1)
    train = build_prompts(1, n_train=2000, n_evaluation=4)[PromptSplit.TRAIN]
    prompts = [prompt for prompt in train if prompt.domain is Domain.FORBIDDEN]
    cues = ipo_arms.GuardCues(guard)

    distances = []
    for trace, prompt in zip(written(prompts, 10), prompts, strict=True):
        steps = read_truth(trace.completion, prompt).think
        unsafe = [number for number, step in enumerate(steps) if number and step.is_unsafe]
        if unsafe:
            cue = cues.first_cue(trace, 1)
            distances.append(None if cue is None else cue - unsafe[0])

    n_later = sum(distance is not None and distance > 0 for distance in distances)
    assert len(distances) > 200
    assert distances.count(0) > len(distances) / 2
    assert n_later < len(distances) / 8


def written(prompts, seed):
    """A trace of the base's policy for each prompt."""
    rng = random.Random(seed)
    traces = []
    for prompt in prompts:
        text = write_base(prompt, rng).text
        names = {"id": prompt.id, "prompt_id": prompt.id, "prompt": prompt.text}
        traces.append(Trace(completion=text, **names))
    return traces
