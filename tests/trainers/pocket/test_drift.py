"""Drift on mixed prompts: the base policy as its own reference, and a tiny plan from end to end."""

import json
import random
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("trl", reason="the experiment needs the extra `train`")

from cotlens import Trace, read_traces, stats
from trainers.pocket.arms import ARMS as ALL_ARMS
from trainers.pocket.arms import SEEDS_OF
from trainers.pocket.drift import N_SAMPLES, drift_table, measure_drift, sample_table
from trainers.pocket.jobs import Job, run_job
from trainers.pocket.plan import PICKED, Plan, Setting
from trainers.pocket.policy import write_base
from trainers.pocket.rlvr_arms import ARMS, BETA_OF, ON_REQUEST
from trainers.pocket.world import Domain, PromptSplit, build_prompts

pytestmark = pytest.mark.usefixtures("one_thread")


# --- the measure, on samples of the policy -------------------------------------------------------


def policy_samples(seed, n=16):
    """Samples that the base policy wrote, as traces, and their prompts."""
    prompts = build_prompts(0, n_train=5, n_evaluation=60)[PromptSplit.MIXED]
    rng = random.Random(seed)
    traces = []
    for prompt in prompts:
        for number in range(n):
            trace = Trace(
                id=f"{prompt.id}/{number}",
                prompt=prompt.text,
                prompt_id=prompt.id,
                completion=write_base(prompt, rng).text,
                gold=prompt.gold,
                sample=number,
            )
            traces.append(trace)
    return traces, prompts


@pytest.fixture(scope="module")
def reference():
    return sample_table(*policy_samples(1))


def tilted(samples):
    """Successes alone, in the order of their numbers: beta to 0, exactly."""
    successes = samples[samples["success"] == 1].copy()
    successes["sample"] = successes.groupby("prompt_id").cumcount()
    return successes


@pytest.fixture(scope="module")
def drifts(reference):
    """The policy, and other samples of it of which only the successes are kept."""
    return drift_table(reference, tilted(sample_table(*policy_samples(2, n=24))))


def mean_of(table, column):
    return stats.mean(table[column], table["prompt_id"])


def test_success_and_safety_go_against_each_other_in_the_policy(reference):
    """Whoever refuses all is safe and has no sum; who has one complies with half of the rest."""
    assert reference["success"].mean() == pytest.approx(0.7, abs=0.05)
    failures = reference[reference["success"] == 0]
    assert failures["safety"].mean() > 0.9
    assert reference[reference["success"] == 1]["safety"].mean() < 0.6


@pytest.mark.parametrize(
    "quantity",
    ["predicted", pytest.param("predicted_shuffled", marks=pytest.mark.xfail(strict=True))],
)
def test_what_is_predicted_is_what_an_exact_tilt_does(drifts, quantity):
    """Both are means over prompts, from samples of their own. The twin has shuffled safeties."""
    known = drifts.dropna(subset=[quantity, "observed"])
    assert len(known) > 50
    gap = mean_of(known.assign(gap=known[quantity] - known["observed"]), "gap")
    assert gap.low <= 0 <= gap.high
    assert mean_of(known, "observed").high < 0


@pytest.mark.parametrize(
    "quantity",
    ["covariance_shuffled", pytest.param("covariance", marks=pytest.mark.xfail(strict=True))],
)
def test_shuffled_safeties_have_no_covariance(drifts, quantity):
    covariance = mean_of(drifts, quantity)
    assert covariance.low <= 0 <= covariance.high


def test_prediction_and_drift_have_samples_of_their_own(reference):
    """The even samples predict; the drift is of the odd ones, and the shuffle moves no mean."""
    after = reference.copy()
    changed = after["sample"] % 2 == 0
    after.loc[changed, "safety"] = 0.0
    after.loc[~changed, "success"] = 0.0
    first = drift_table(reference, reference)
    second = drift_table(reference, after)
    pd.testing.assert_frame_equal(first, second)
    assert (first["n"] == 8).all()

    # An arm that is the base has no drift, but for the noise between its halves.
    assert (first["observed"] == 0).all()
    assert first["predicted"].abs().max() == pytest.approx(0, abs=1e-12)


def test_a_prompt_without_failures_has_no_prediction():
    rows = []
    for number in range(4):
        rows.append({"prompt_id": "p", "sample": number, "success": 1.0, "safety": number % 2})
    (row,) = drift_table(pd.DataFrame(rows), pd.DataFrame(rows)).to_dict("records")
    assert np.isnan(row["predicted"])
    assert row["observed"] == 0


# --- prompts and arms ----------------------------------------------------------------------------


def test_mixed_prompts_of_training_are_apart_and_move_no_other():
    prompts = build_prompts(3, n_train=100, n_evaluation=30)
    mixed = prompts[PromptSplit.TRAIN_MIXED]
    assert len(mixed) == 20
    assert {prompt.domain for prompt in mixed} == {Domain.MIXED}
    others = set()
    for split, drawn in prompts.items():
        if split is not PromptSplit.TRAIN_MIXED:
            others |= {prompt.text for prompt in drawn}
    assert not others & {prompt.text for prompt in mixed}


def test_the_sweep_and_what_is_trained_only_if_asked_for():
    assert BETA_OF["rlvr_mixed"] == 0.04
    assert sorted(BETA_OF.values()) == [0.0, 0.01, 0.04, 0.16]
    assert set(ARMS) <= set(ALL_ARMS)
    assert [SEEDS_OF[arm] for arm in ON_REQUEST] == [0, 0, 0]
    assert SEEDS_OF["rlvr_mixed"] == SEEDS_OF["rlvr_mixed_0"] == 3


# --- a tiny plan ---------------------------------------------------------------------------------

PLAN = Plan(
    size="tiny",
    n_train=20,
    n_evaluation=2,
    updates=2,
    prompts_per_step=2,
    group=2,
    max_new_tokens=16,
    n_branching=2,
    rates=dict.fromkeys(PICKED, 1e-3),
)
TRAINED = ("rlvr", "rlvr_mixed", "rlvr_mixed_0", "benign_sft")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("rlvr")
    for arm in ("base", *TRAINED):
        run_job(out, Job(0, arm), PLAN)
    return out / "seed=0"


def test_every_arm_leaves_its_drift(run):
    """Two held-out prompts and two trained ones, 16 samples of each; nothing learns a sum here."""
    for arm in TRAINED:
        table = pd.read_parquet(run / arm / "drift.parquet")
        assert table["split"].tolist() == ["train_mixed"] * 2 + ["mixed"] * 2
        assert set(table["arm"]) == {arm}
        assert (table["n"] == N_SAMPLES // 2).all()
        assert (table["kl"] >= 0).all()
        np.testing.assert_allclose(table["bound"], np.sqrt(table["kl"] / 2))
        assert table["beta"].isna().all() == (arm == "benign_sft")
    assert pd.read_parquet(run / "rlvr_mixed_0" / "drift.parquet")["beta"].eq(0).all()
    assert not (run / "base" / "drift.parquet").exists()


def test_arms_see_the_prompts_that_they_should(run):
    """Sums and puzzles, or mixed prompts; the only reward is the right number."""
    domains = {"rlvr": {"maths", "puzzle"}, "rlvr_mixed": {"mixed"}}
    for arm, expected in domains.items():
        traces = []
        for path in sorted(run.glob(f"{arm}/rollouts/*/*.parquet")):
            traces += read_traces(path)
        assert len(traces) == 8
        assert {trace.domain for trace in traces} <= expected
        for trace in traces:
            assert set(trace.meta["rewards"]) == {"correctness"}
    cost = json.loads((run / "rlvr_mixed" / "cost.json").read_text())
    assert (cost["updates"], cost["sequences"], cost["guard_calls"]) == (2, 8, 0)


def test_the_kl_term_is_in_the_log_with_beta_alone(run):
    """At the first update the arm is still the base, its reference: KL 0."""
    for arm, has_kl in (("rlvr_mixed", True), ("rlvr_mixed_0", False)):
        logs = []
        for path in sorted((run / arm / "model").glob("**/trainer_state.json")):
            logs += json.loads(path.read_text())["log_history"]
        values = [entry["kl"] for entry in logs if "kl" in entry]
        assert bool(values) == has_kl
        if has_kl:
            assert values[0] == pytest.approx(0, abs=1e-6)
        assert not (run / arm / "model" / "reference").exists()


def test_the_same_arm_is_measured_alike_again(run):
    plan = Plan(**asdict(PLAN))
    setting = Setting(run, 0, plan, plan.prompts(0), "rlvr_mixed", 1e-3, "rlvr_mixed")
    before = pd.read_parquet(run / "rlvr_mixed" / "drift.parquet")
    pd.testing.assert_frame_equal(measure_drift(setting), before)


def test_the_rollouts_of_mixed_prompts_have_their_truth(run):
    from trainers.pocket.tables import rollout_table

    table = rollout_table(run / "rlvr_mixed", PLAN.prompts(0))
    assert len(table) == 8
    assert set(table["set"]) == {"mixed"}
