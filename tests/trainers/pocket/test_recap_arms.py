"""RECAP in the pocket world: which thoughts its prompts begin with, and its twin without them."""

import json
import random
from dataclasses import replace

import pytest

pytest.importorskip("trl", reason="the experiment needs the extra `train`")

import torch

from cotlens import Trace, read_traces
from cotlens.text.split import request_of
from cotlens.text.steps import segment_trace
from trainers import grpo
from trainers.methods.recap import refuses
from trainers.pocket import recap_arms
from trainers.pocket.arms import ARMS, train_grpo_answer
from trainers.pocket.base import TINY, build_model, load_base
from trainers.pocket.depth import injected_overcaution
from trainers.pocket.guard import fit_guard, guard_prompts
from trainers.pocket.optimise import reinforce, row_of
from trainers.pocket.plan import HARMLESS, PICKED, Plan, Setting
from trainers.pocket.policy import write_base
from trainers.pocket.tokenizer import build_tokenizer
from trainers.pocket.world import Domain, PromptSplit, build_prompts
from trainers.record import write_traces

PLAN = Plan(
    size="tiny",
    n_train=40,
    n_evaluation=4,
    n_samples=1,
    updates=4,
    prompts_per_step=10,
    group=2,
    max_new_tokens=16,
    rates=dict.fromkeys(PICKED, 1e-2),
)

pytestmark = pytest.mark.usefixtures("one_thread")


def policy_traces(prompts, n, seed=0):
    """Samples as the base policy writes them: the donors of a base that has learned its world."""
    rng = random.Random(seed)
    traces = []
    for number, prompt in enumerate(prompts):
        for sample in range(n):
            trace = Trace(
                id=f"{prompt.id}/{number}/{sample}",
                prompt=prompt.text,
                prompt_id=prompt.id,
                domain=prompt.domain.value,
                completion=write_base(prompt, rng).text,
                sample=sample,
                finish_reason="stop",
            )
            traces.append(trace)
    return traces


@pytest.fixture
def setting(tmp_path):
    """A random model, a learned guard, and a pool that the base policy has written."""
    setting = Setting(tmp_path, 0, PLAN, build_prompts(0, n_train=40), "recap", 1e-2, "recap")
    tokenizer = build_tokenizer()
    for part in (build_model(tokenizer, seed=0, scale=TINY), tokenizer):
        part.save_pretrained(tmp_path / "base" / "model")

    prompts = guard_prompts(0)
    guard = fit_guard(policy_traces(prompts, 1), prompts, 0)
    guard.save(setting.guard_path())
    write_traces(tmp_path / "base" / "pool.parquet", policy_traces(setting.train, PLAN.group, 1))
    return setting


def test_half_of_the_requests_begin_with_a_flawed_thought(setting):
    """24 requests, 8 forbidden and 16 harmless: 12 are prefixed if there are donors enough."""
    built = recap_arms.recap_rows(setting)
    texts = {prompt.text: prompt for prompt in setting.prompts[PromptSplit.TRAIN]}
    pool = {trace.id: trace for trace in recap_arms.pool(setting)}
    guard = setting.guard()
    n_prefixed = 0
    for row in built.rows:
        prompt = texts[row["request"]]  # a training prompt
        if not row["prefill"]:
            continue

        n_prefixed += 1
        assert prompt.domain.value in (*HARMLESS, "forbidden")
        if row["source"].startswith(recap_arms.WRITTEN):
            assert row["prefill"] == injected_overcaution([prompt])[0]
            continue

        # The donor answers this very request, and its thought is flawed.
        donor = pool[row["source"]]
        assert request_of(donor) == row["request"]
        assert donor.completion.startswith(row["prefill"])
        steps = segment_trace(replace(donor, completion=row["prefill"], finish_reason="length"))
        assert 1 <= len(steps) <= 3
        if prompt.domain is Domain.FORBIDDEN:
            (is_unsafe,) = recap_arms.judge_by(guard, recap_arms.FORBIDDEN)([donor])
            assert is_unsafe
        else:
            assert refuses(donor)
    assert built.counts["prefixed"] == n_prefixed
    assert sum(bool(row["prefill"]) for row in built.rows if row["domain"] in HARMLESS) == 8


def test_aligned_thoughts_are_sound(setting):
    pool = {trace.id: trace for trace in recap_arms.pool(setting)}
    judge = recap_arms.judge_by(setting.guard(), recap_arms.FORBIDDEN)
    built = recap_arms.recap_rows(setting, aligned=True)
    donors = [pool[row["source"]] for row in built.rows if row["prefill"]]
    assert len(donors) >= 8
    assert not any(judge(donors))


def comparable(rows):
    """What decides a training: all columns but those that only say where a row comes from."""
    names = ("prompt", "request", "prompt_id", "domain", "answer")
    return [{name: row.get(name) for name in names} for row in rows]


def test_alpha_0_gives_the_rows_of_grpo_answer_and_asks_for_no_donor(setting):
    (setting.folder / "base" / "pool.parquet").unlink()
    tokenizer = setting.load()[1]
    plain = grpo.prepare(tokenizer, [row_of(prompt) for prompt in setting.train])
    rows = recap_arms.recap_rows(setting, alpha=0.0).rows
    ready = grpo.prepare(tokenizer, rows, rendered=True)
    assert comparable(ready) == comparable(plain)
    assert not (setting.folder / "base" / "pool.parquet").exists()


@pytest.mark.parametrize("alpha", [0.0, pytest.param(0.5, marks=pytest.mark.xfail(strict=True))])
def test_alpha_0_trains_the_weights_of_grpo_answer(setting, alpha):
    """Bit for bit. The twin has beginnings, and other weights."""
    answer = replace(setting, arm="grpo_answer", name="grpo_answer")
    train_grpo_answer(answer)
    rows = recap_arms.recap_rows(setting, alpha=alpha).rows
    reinforce(setting, setting.guard(), part="answer", rows=rows)
    weights = []
    for folder in (setting.own, answer.own):
        model, _ = load_base(folder / "model")
        weights.append(model.state_dict())
    base = setting.load()[0].state_dict()
    assert any(not torch.equal(base[name], value) for name, value in weights[1].items())
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value)


@pytest.mark.parametrize("arm", recap_arms.ARMS)
def test_an_arm_trains_and_records_whole_thoughts(setting, arm):
    ARMS[arm](replace(setting, arm=arm, name=arm))
    folder = setting.folder / arm
    assert (folder / "model" / "model.safetensors").exists()
    traces = []
    for path in sorted(folder.glob("rollouts/*/*.parquet")):
        traces += read_traces(path)
    assert len(traces) == 80
    prefixed = [trace for trace in traces if trace.meta["prefill"]]
    assert len(prefixed) >= 16
    for trace in prefixed:
        assert trace.completion.startswith(trace.meta["prefill"])
        assert trace.token_starts[0] == len(trace.meta["prefill"])

    # 80 rollouts and 80 samples of the pool, of which the guard reads the forbidden.
    cost = json.loads((folder / "cost.json").read_text())
    n_forbidden = sum(trace.domain == "forbidden" for trace in traces)
    assert (cost["updates"], cost["sequences"], cost["sampled"]) == (4, 80, 160)
    assert cost["guard_calls"] == n_forbidden + 16
    assert cost["kept"] == len(prefixed) / 2
    assert cost["generations_per_prompt"] == 2
