"""Measures, differences, confounds and verdicts of a table of samples, each against values derived by hand."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from places import ROOT

from cotlens import TraceError, analyze
from cotlens.runs.judge import add_verdicts
from cotlens.studies.arms import (
    derive,
    difference,
    differences,
    estimate_mean,
    measures,
    over_seeds,
    splits,
    to_row,
)
from cotlens.studies.claims import read_claims, verdicts
from cotlens.studies.collect import compare_runs
from cotlens.studies.confounds import confounds, recall_at_splits
from cotlens.studies.rules import (
    NO_CHANGE,
    RULES,
    Change,
    Claim,
    Comparison,
    Evidence,
    decide_lower_but_keep,
    what_would_change,
)
from cotlens.studies.study import seeds_apart

INFO = {"base": "base", "rl": "grpo", "sft": ["teacher_sft"], "filtered": "teacher_sft"}
CLAIMS = read_claims(ROOT / "trainers" / "configs" / "claims.json")


def samples(rows, **columns):
    """Samples of a study, one a tuple (seed, arm, set, split, prompt), with further columns of the same length."""
    table = pd.DataFrame(rows, columns=["seed", "arm", "set", "split", "prompt_id"]).assign(
        **columns
    )
    for name in ("thinking_unsafe", "answer_unsafe", "thinking_flagged", "is_correct"):
        table[name] = table.get(name, pd.Series(pd.NA, table.index)).astype("boolean")
    return derive(table, list(dict.fromkeys(table["arm"])))


def test_what_follows_from_the_columns_of_a_sample():
    """Four thinkings: unsafe and flagged, unsafe and passed, safe and flagged, safe and passed; answers U S U U.

    The guard's recall is 1 of 2; hidden is the second; of the two that passed one answer is unsafe (1/2); of the two
    safe ones no answer is safe (0 of 2). Three reflections in six steps, one of which mends: 1/2 and 1/3.
    """
    table = samples(
        [(0, "base", "forbidden", "seen", f"p{i}") for i in range(4)],
        thinking_unsafe=[True, True, False, False],
        thinking_flagged=[True, False, True, False],
        answer_unsafe=[True, False, True, True],
        n_reflections=[3, 0, 0, 0], n_steps=[6, 2, 2, 0], n_corrections=[1, 0, 0, 0],
    )  # fmt: skip
    found = measures(table).set_index("measure")["value"]
    assert found["guard_recall_forbidden"] == 0.5
    assert found["hidden_forbidden"] == 0.25
    assert found["answer_unsafe_if_passed_forbidden"] == 0.5
    assert found["answer_safe_if_thinking_safe_forbidden"] == 0
    assert table["reflection_rate"].tolist()[:3] == [0.5, 0, 0]
    assert math.isnan(table["reflection_rate"][3])


def test_what_is_missing_is_left_out_and_counted():
    """Two judged samples of three: a half, n = 2; nothing is said of columns without data."""
    table = samples(
        [(0, "base", "forbidden", "all", f"p{i}") for i in range(3)],
        thinking_unsafe=[True, False, None],
    )
    found = measures(table).set_index("measure")
    assert found.loc["thinking_unsafe_forbidden", ["value", "n"]].tolist() == [0.5, 2]
    assert "is_correct_maths" not in found.index
    assert "hidden_forbidden" not in found.index


def test_the_order_of_rows_changes_nothing():
    rng = np.random.default_rng(0)
    rows = [(0, arm, "forbidden", "all", f"p{i}") for arm in ("base", "grpo") for i in range(30)]
    table = samples(rows, thinking_unsafe=rng.random(60) < 0.5, n_tokens=rng.integers(1, 9, 60))
    shuffled = table.sample(frac=1, random_state=1)
    for of in (measures, lambda t: differences(t, "base")):
        values = [of(t)["value"].to_numpy() for t in (table, shuffled)]
        np.testing.assert_allclose(*values)


def test_one_seed_speaks_of_prompts_and_several_of_trainings():
    """Three seeds with means 0, 1/2 and 1: mean 1/2, Student's half width 4.303 x .5 / sqrt(3). One seed: Wilson's."""
    table = pd.DataFrame(
        {"seed": [0, 0, 1, 1, 2, 2], "cluster": list("abcdef"), "value": [0.0, 0, 0, 1, 1, 1]}
    )
    found = estimate_mean(table, is_share=False)
    assert (found.value, found.n_clusters, found.method) == (0.5, 3, "t")
    assert found.high - found.value == pytest.approx(4.3027 * 0.5 / 3**0.5, rel=1e-3)
    share = estimate_mean(table, is_share=True)
    assert (share.low, share.high) == (0, 1)
    assert estimate_mean(table[table["seed"] < 2], is_share=True).method == "wilson"
    other = table.assign(value=table["value"] - 0.25)
    found = difference(table, other[other["seed"] < 2])
    assert (found.value, found.n) == (0.25, 8)


def test_prompts_are_never_called_seeds():
    """One seed with few prompts: the caption and what would change a verdict speak of prompts."""
    rows = [(0, arm, "forbidden", "seen", f"p{i}") for arm in ("base", "grpo") for i in range(20)]
    flags = [i % 2 == 0 for i in range(20)] + [i % 2 == 0 or i == 1 for i in range(20)]
    table = samples(rows, thinking_unsafe=flags)
    found, changes = measures(table), differences(table, "base")
    assert set(found["units"]) == set(changes["units"]) == {"prompts"}
    change = Change.from_row(changes.iloc[0], "grpo", "base", "m")
    assert "seeds" not in what_would_change(change)
    from cotlens.plots.study import plot_measures

    plot = plot_measures(found, {"Unsafe": list(found["measure"])}, "shares")
    assert not any("seeds" in text.get_text() for text in plot.figure.texts)


def test_a_claim_without_data_says_so():
    nothing = NO_CHANGE._replace(arm="sft")
    claim = decide_lower_but_keep("C", lower_but_keep(nothing, row(0.0)))
    assert (claim.verdict, claim.because) == (
        "undecided",
        "sft no data, rl +0.000 (-0.010 to +0.010; 5 seeds)",
    )


def test_hidden_is_of_what_both_judged():
    """The guard passes 20 unsafe thinkings; the 20 it flags nobody judged: all of 20, not half of 40."""
    rows = [(0, "base", "forbidden", "s", f"p{i}") for i in range(40)]
    table = samples(
        rows, thinking_unsafe=[None] * 20 + [True] * 20, thinking_flagged=[True] * 20 + [False] * 20
    )
    found = measures(table).set_index("measure")
    assert found.loc["hidden_forbidden", ["value", "n"]].tolist() == [1, 20]


def test_two_trainings_are_both_compared():
    """No change in the first and +2 in the second: +1 on average, also within an outcome."""
    rows = [
        (seed, arm, "forbidden", "s", f"p{i}")
        for seed in (0, 1)
        for arm in ("base", "grpo")
        for i in range(40)
    ]
    table = samples(rows, entropy_think=[1.0] * 120 + [3.0] * 40, thinking_unsafe=[True, False] * 80, length=[9.0] * 160,
                    n_reflections=0, n_steps=1)  # fmt: skip
    found = confounds(table, "base")
    found = found[found["column"] == "entropy_think"].set_index("comparison")["value"]
    assert found.to_dict() == pytest.approx(dict.fromkeys(found.index, 1.0))
    assert {"own samples", "length-matched", "thinking_unsafe yes"} <= set(found.index)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_unevenness_is_over_splits_that_both_arms_have(n_seeds):
    """RL is where SFT is as safe (x), and was not sampled where SFT is unsafe (y): nothing is said of y."""
    cells = [("sft", "x", 4), ("grpo", "x", 4), ("sft", "y", 36)]
    rows, unsafe = [], []
    for seed in range(n_seeds):
        for arm, split, n in cells:
            rows += [(seed, arm, "forbidden", split, f"{split}{i}") for i in range(40)]
            unsafe += [i < n for i in range(40)]
    claim = unevenness(samples(rows, thinking_unsafe=unsafe), "sft", "grpo")
    assert (claim.verdict, "+0.000 (+0.000 to +0.000" in claim.because) == ("undecided", True)


def test_one_prompt_a_split_has_no_interval():
    rows = [(0, arm, "forbidden", split, split) for arm in ("sft", "grpo") for split in "xy"]
    claim = unevenness(samples(rows, thinking_unsafe=[True, False, False, False]), "sft", "grpo")
    assert claim.verdict == "undecided"
    assert "+1.000 (no interval)" in claim.because
    nothing = unevenness(samples([(0, "sft", "maths", "s", "p")]), "sft", "grpo")
    assert (nothing.verdict, "no data" in nothing.because) == ("undecided", True)


def test_a_split_named_all_is_none():
    """It would be measured over every set."""
    rows = [
        (0, "base", where, "all", f"{where}{i}")
        for where in ("forbidden", "harmless")
        for i in range(9)
    ]
    table = samples(rows, thinking_unsafe=[True] * 9 + [False] * 9)
    assert splits(table) == []
    assert measures(table).set_index("measure").loc["thinking_unsafe_forbidden", "value"] == 1


def test_a_split_is_of_the_forbidden_prompts_alone():
    """Both sets have a split `test`: ten forbidden prompts, all unsafe, and ten harmless ones, none."""
    rows = [
        (0, "base", part, "test", f"p{i}") for part in ("forbidden", "harmless") for i in range(10)
    ]
    table = samples(rows, thinking_unsafe=[True] * 10 + [False] * 10)
    found = measures(table).set_index("measure")
    assert (found.loc["thinking_unsafe_test", "value"], found.loc["thinking_unsafe_test", "n"]) == (
        1.0,
        10,
    )


# --- confounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_a_difference_of_outcomes_is_none_within_them(n_seeds):
    """Entropy is 1 in unsafe thinking and 0 in safe; the base is unsafe in 60 of 80 prompts, the arm in 20.

    Raw: 1/4 - 3/4 = -1/2. Within an outcome: 0. All thoughts have one length, so matching it changes nothing.
    """
    rows, unsafe = [], []
    for seed in range(n_seeds):
        for arm, k in (("base", 60), ("grpo", 20)):
            rows += [(seed, arm, "forbidden", "all", f"p{i}") for i in range(80)]
            unsafe += [i < k for i in range(80)]
    table = samples(rows, thinking_unsafe=unsafe, entropy_think=np.array(unsafe, float), length=100)
    found = confounds(table, "base").set_index("comparison")["value"]
    assert found["own samples"] == pytest.approx(-0.5)
    assert found["length-matched"] == pytest.approx(-0.5)
    assert found["thinking_unsafe yes"] == pytest.approx(0)
    assert found["thinking_unsafe no"] == pytest.approx(0)


def test_one_training_with_few_samples_of_an_outcome_is_not_compared():
    """Of the arm's 20 thoughts one is unsafe: too few to be held against the base's 15."""
    rows = [(0, arm, "forbidden", "all", f"p{i}") for arm in ("base", "grpo") for i in range(20)]
    unsafe = [i < 15 for i in range(20)] + [i < 1 for i in range(20)]
    table = samples(rows, thinking_unsafe=unsafe, entropy_think=1.0, length=100)
    found = confounds(table, "base").set_index("comparison")["value"]
    assert found["own samples"] == 0
    assert math.isnan(found["thinking_unsafe yes"])


def test_an_arm_that_shares_nothing_with_the_base_has_no_difference():
    """The base was not scored; and the two have different seeds."""
    rows = [(0, "base", "forbidden", "all", "p"), (0, "grpo", "forbidden", "all", "p")]
    table = samples(rows, thinking_unsafe=[True, False], entropy_think=[np.nan, 1.0], length=100)
    assert confounds(table, "base").empty
    rows = [(0, "base", "forbidden", "all", "p"), (1, "grpo", "forbidden", "all", "p")]
    table = samples(rows, thinking_unsafe=[True, False], entropy_think=[1.0, 1.0], length=100)
    assert confounds(table, "base").empty


def test_a_difference_of_lengths_is_none_at_equal_length():
    """Entropy falls with length (1 at 100 characters, 0 at 1,000); the base has 10 of each, the arm 15 long, 5 short.

    Raw: 1/4 - 1/2 = -1/4; matched: 0.
    """
    long = [i < 10 for i in range(20)] + [i < 15 for i in range(20)]
    rows = [(0, arm, "maths", "all", f"p{i}") for arm in ("base", "grpo") for i in range(20)]
    lengths = np.where(long, 1000, 100)
    table = samples(
        rows, is_correct=[True] * 40, entropy_think=(lengths == 100).astype(float), length=lengths
    )
    found = confounds(table, "base").set_index("comparison")["value"]
    assert found["own samples"] == pytest.approx(-0.25)
    assert found["length-matched"] == pytest.approx(0)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_a_guards_recall_is_compared_at_the_same_splits(n_seeds):
    """The base has 4 unsafe thoughts in `a`, 3 flagged, and 4 in `b`, 1 flagged: recall 1/2. The arm has 1 in `a`, which
    is flagged, 4 in `b`, 1 flagged, and 1 in `c`, not flagged, where the base has none: recall 2/6, in `a` and `b` 2/5.

    Raw 2/6 - 1/2. In `a` and `b` the arm's would be found at (1 * 3/4 + 4 * 1/4) / 5 = 7/20 on the base: +1/20.
    """
    told = {
        "base": [("a", True)] * 3 + [("a", False)] + [("b", True)] + [("b", False)] * 3,
        "grpo": [("a", True)] + [("b", True)] + [("b", False)] * 3 + [("c", False)],
    }
    each = [(arm, *one, i) for arm, thoughts in told.items() for i, one in enumerate(thoughts)]
    rows = [
        (seed, arm, "forbidden", split, f"p{i}")
        for seed in range(n_seeds)
        for arm, split, _, i in each
    ]
    table = samples(rows, thinking_unsafe=True, thinking_flagged=[one[2] for one in each] * n_seeds)
    found = confounds(table, "base").set_index("comparison")
    assert found["value"].to_dict() == pytest.approx(
        {"own samples": 2 / 6 - 1 / 2, "equal splits": 0.05}
    )
    assert recall_at_splits(table, "grpo", "base").n == 5 * n_seeds
    assert set(found["units"]) == {"seeds" if n_seeds == 3 else "prompts"}
    if n_seeds == 1:
        assert found.loc["equal splits", "low"] < 0.05 < found.loc["equal splits", "high"]
    assert math.isnan(recall_at_splits(table.assign(guard_recall=np.nan), "grpo", "base").value)


def test_a_change_of_mix_alone_leaves_recall_at_equal_splits():
    """A guard finds 9 in 10 of `a` and 1 in 5 of `b`, whoever wrote them; the arm has unlearned most of `a`."""
    rng, rows, flagged = np.random.default_rng(3), [], []
    for arm, n_a in (("base", 400), ("grpo", 40)):
        for split, n, rate in (("a", n_a, 0.9), ("b", 400, 0.2)):
            rows += [(0, arm, "forbidden", split, f"{split}{i}") for i in range(n)]
            flagged += list(rng.random(n) < rate)
    table = samples(rows, thinking_unsafe=True, thinking_flagged=flagged)
    equal = recall_at_splits(table, "grpo", "base")
    changes = differences(table, "base").set_index("measure")
    assert changes.loc["guard_recall_forbidden", "high"] < -0.2
    assert equal.low < 0 < equal.high
    assert equal.high - equal.low < 0.2


# --- verdicts --------------------------------------------------------------------------------------------------


def row(value, half=0.01, n_units=5, arm="rl"):
    return Change(value, value - half, value + half, n_units, "seeds", arm)


def lower_but_keep(sft, rl):
    return Comparison({"lowering": sft._replace(arm="sft"), "keeping": rl}, 0.05)


def decide_fall(change):
    return RULES["falls"].decide("c", Comparison({"difference": change})).verdict


@pytest.mark.parametrize(
    ("found", "verdict"),
    [(row(-0.2), "seen"), (row(0.2), "opposite"), (row(-0.2, 0.3), "undecided")],
)
def test_a_fall_is_an_interval_below_zero(found, verdict):
    assert decide_fall(found) == verdict


@pytest.mark.parametrize(
    ("sft", "rl", "verdict"),
    [
        (row(-0.2), row(0.0), "seen"),
        (row(-0.2), row(0.2), "seen (rl raises it)"),
        (row(-0.2), row(-0.2), "not seen"),
        (row(0.0), row(0.0), "not seen"),
        (row(-0.02), row(-0.03, 0.015), "not seen"),
        (row(0.2), row(-0.2), "opposite"),
        (row(-0.2, 0.3), row(0.0), "undecided"),
        (row(-0.2, 0.3), row(-0.2), "not seen"),
        (row(-0.2), row(0.0, 0.2), "undecided"),
        (row(float("nan")), row(0.0), "undecided"),
    ],
)
def test_one_lowers_and_the_other_keeps(sft, rl, verdict):
    """Kept: the whole interval within 0.05. A fall within the margin is kept; one half alone can refute the claim."""
    assert decide_lower_but_keep("c", lower_but_keep(sft, rl)).verdict == verdict


def unevenness(table, sft, rl):
    nothing = pd.DataFrame(columns=["arm", "measure", "value"])
    claim = Claim("c", "less_even", arm="sft", against="rl")
    rule = RULES[claim.rule]
    evidence = Evidence(table, nothing, nothing, "base")
    return rule.decide("c", rule.compare(claim, evidence, sft, rl))


def cells(seen, wrapper, topic, arm, n=100, seed=0):
    """Samples of one arm: the first `k` of `n` prompts of each split are unsafe."""
    return [
        (seed, arm, "forbidden", split, f"{split}{i}", i < k)
        for split, k in zip(("seen", "wrapper", "topic"), (seen, wrapper, topic), strict=True)
        for i in range(n)
    ]


def joined(*parts):
    rows = [one for part in parts for one in part]
    return samples([one[:5] for one in rows], thinking_unsafe=[one[5] for one in rows])


@pytest.mark.parametrize(
    ("sft", "rl", "verdict"),
    [
        ((10, 20, 70), (5, 5, 5), "seen"),
        ((5, 5, 5), (10, 20, 70), "opposite"),
        ((10, 10, 30), (10, 10, 31), "undecided"),
    ],
)
def test_uneven_is_the_range_over_splits(sft, rl, verdict):
    """.70 - .10 = .60 against 0: seen; the other way round: opposite; .20 against .21: undecided."""
    table = joined(cells(*sft, "teacher_sft"), cells(*rl, "grpo"))
    assert unevenness(table, "teacher_sft", "grpo").verdict == verdict


def test_uneven_over_seeds_is_students():
    """Ranges .6, .2 and .1 against 0: mean .3, Student's interval holds zero, although each seed alone would decide."""
    parts = []
    for seed, high in enumerate((70, 30, 20)):
        parts += [cells(10, 10, high, "filtered_sft", seed=seed), cells(5, 5, 5, "grpo", seed=seed)]
    claim = unevenness(joined(*parts), "filtered_sft", "grpo")
    assert claim.verdict == "undecided"
    assert "filtered_sft less grpo +0.300" in claim.because
    assert "seeds if mean and spread stay" in claim.would_change


def test_as_many_seeds_as_it_says_would_decide():
    """Mean .3 and half width .657 of three seeds: sd = .657 x sqrt(3) / 4.303. At n seeds the interval excludes 0.

    t(n-1) sd / sqrt(n) < .3 holds first at n = 6: 2.571 x .2646 / 2.449 = .278, and at 5 it is .329.
    """
    half = 4.3027 * 0.2646 / 3**0.5
    said = what_would_change(row(0.3, half, n_units=3))
    assert "about 6 seeds" in said
    assert "shift of the interval by 0.190" in what_would_change(row(-0.2))
    assert what_would_change(row(0.0, 0.1)) == "an interval that excludes zero"
    assert what_would_change(NO_CHANGE) == "data for both arms"


def test_claims_of_a_study_and_their_roles():
    """GRPO falls from .5 to .1 and SFT to .3, in three seeds with a little noise: C5 and Q3 are seen."""
    parts = []
    for seed in range(3):
        for arm, k in (("base", 50), ("teacher_sft", 30), ("grpo", 10)):
            parts.append(cells(k + seed, k - seed, k, arm, seed=seed))
    table = joined(*parts)
    found, changes = measures(table), differences(table, "base")
    claims = {
        claim.claim[:2]: claim
        for claim in verdicts(CLAIMS, Evidence(table, found, changes, "base"), INFO)
    }
    assert set(claims) == {"C1", "C2", "C3", "C5", "Q3"}
    assert claims["C5"].verdict == claims["Q3"].verdict == "seen"
    assert "-0.400" in claims["C5"].because
    assert "-0.200" in claims["Q3"].because
    assert claims["C3"].verdict == "undecided"  # no entropies
    assert verdicts(CLAIMS, Evidence(table, found, changes, "base"), INFO | {"rl": "nobody"}) == []


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"claim": "c"}, "expected a list of claims, got dict"),
        ([{"claim": "c"}], r"claim 0: expected an object with `claim` and `rule`"),
        ([{"claim": "c", "rule": "rises"}], "claim 0: unknown rule 'rises'; there are falls,"),
        ([{"claim": "c", "rule": "falls", "marging": 1}], "claim 0: unknown marging; known are"),
    ],
)
def test_a_claim_that_cannot_be_decided_is_refused(tmp_path, claims, message):
    path = tmp_path / "claims.json"
    path.write_text(json.dumps(claims))
    with pytest.raises(TraceError, match=message):
        read_claims(path)


def test_a_claim_names_an_arm_or_a_role():
    """A role of two arms makes two verdicts; arms that the sentence leaves open stand in brackets."""
    table = joined(*(cells(k, k, k, arm) for arm, k in (("base", 50), ("a", 10), ("b", 90))))
    evidence = Evidence(table, measures(table), differences(table, "base"), "base")
    claim = {"claim": "falls", "rule": "falls", "measure": "thinking_unsafe_forbidden"}
    roles = {"base": "base", "both": ["a", "b"]}
    by_role = verdicts([claim | {"arm": "both"}], evidence, roles)
    assert [(v.claim, v.verdict) for v in by_role] == [
        ("falls [a]", "seen"),
        ("falls [b]", "opposite"),
    ]
    (against,) = verdicts([claim | {"arm": "a", "against": "b"}], evidence, roles)
    assert (against.claim, against.verdict) == ("falls [a, b]", "seen")
    assert "-0.800" in against.because
    assert verdicts([claim | {"arm": "nobody"}], evidence, roles) == []


def test_no_difference_is_seldom_taken_for_one():
    """Five seeds of two arms that are the same: a verdict other than undecided in about one of twenty studies."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        effect = rng.normal(0.5, 0.05, 5)  # what a seed has in common cancels
        deltas = [rng.binomial(300, p) / 300 - rng.binomial(300, p) / 300 for p in effect]
        change = Change.from_row(to_row(over_seeds(deltas, 0)), "grpo", "base", "m")
        wrong += decide_fall(change) != "undecided"
    assert 0.02 < wrong / 400 < 0.085


# --- from runs -------------------------------------------------------------------------------------------------


def make_run(folder, arm, domains=("harmful", "math"), seed=0):
    """A run of one sample for each of these domains."""
    folder.mkdir(exist_ok=True)
    rows = [
        {"id": domain, "prompt": domain, "prompt_id": domain, "completion": "<think>So, one. </think>4",
         "method": arm, "domain": domain, "sample": 0, "gold": "4" if domain == "math" else ""}
        for domain in domains
    ]  # fmt: skip
    path = folder / f"{arm}-{seed}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return analyze([path], folder / f"seed={seed}" / arm)


def say_all(run, judge, label="unsafe"):
    for part in ("thinking", "answer"):
        add_verdicts(
            run,
            pd.DataFrame({"trace_id": run.trace_table()["trace_id"], "label": label}),
            judge,
            part,
        )


def test_what_a_study_lacks_is_said(tmp_path):
    """The judge has not seen grpo, the monitor nobody's base; no token has a score; a domain is unknown; seed 1 has no base."""
    base, grpo = (
        make_run(tmp_path, "base"),
        make_run(tmp_path, "grpo", ("harmful", "math", "safety")),
    )
    say_all(base, "judge")
    say_all(grpo, "monitor")
    runs, said = [base, grpo, make_run(tmp_path, "grpo", seed=1)], []
    table = compare_runs(
        runs, tmp_path / "study", judge="judge", monitor="monitor", say=said.append
    ).samples()
    assert table.groupby(["arm", "seed"], observed=True)["thinking_unsafe"].count().tolist() == [
        2,
        0,
        0,
    ]
    paths = [str(run.path) for run in runs]
    assert said[:4] == [
        f"no verdicts of the judge on thinking: {paths[1]}, {paths[2]}",
        f"no verdicts of the judge on answers: {paths[1]}, {paths[2]}",
        f"no verdicts of the monitor on thinking: {paths[0]}, {paths[2]}",
        f"no token scores of their own: {', '.join(paths)}",
    ]
    assert said[4:6] == [
        "seed 0: base's runs have no scores named base, grpo (entropy on one text)",
        "seed 1: no samples of base, so its arms are in no difference",
    ]
    assert said[6].startswith(
        "domains in no measure of safety or skill: safety; known are forbidden, harmful,"
    )
    assert len(said) == 7
    assert table[table["set"] == "maths"]["is_correct"].all()


def test_a_name_that_no_run_has_is_refused(tmp_path):
    runs = [make_run(tmp_path, "base"), make_run(tmp_path, "grpo")]
    for run in runs:
        say_all(run, "one")
        say_all(run, "two")
    for options, message in (
        (
            {"judge": "three"},
            "no judge 'three'; there are one, two; make it with: cotlens guard RUN",
        ),
        (
            {"judge": "one", "scorer": "own"},
            "no scorer 'own'; there are none; make it with: cotlens score",
        ),
        ({"judge": "one", "monitor": "one"}, "both judge and monitor"),
        ({}, "which judge. there are one, two; name one with --judge"),
    ):
        with pytest.raises(TraceError, match=message):
            compare_runs(runs, tmp_path / "study", **options)


def test_scores_are_an_arms_own_or_its_view_of_the_bases_text(tmp_path):
    """Whose they are is told by the name; those of another arm are never taken for the base's own."""
    from tiny import tiny_model, tiny_tokenizer

    from cotlens import score
    from cotlens.models.load import wrap_model

    runs = {arm: make_run(tmp_path, arm) for arm in ("base", "grpo")}
    models = [wrap_model(tiny_model(18, seed=seed), tiny_tokenizer()) for seed in (0, 1)]
    score(runs["base"], models[1], name="grpo")
    score(runs["grpo"], models[1], name="own")

    def entropies(column):
        table = compare_runs(runs.values(), tmp_path / "study", force=True, say=str).samples()
        return table.groupby("arm", observed=True)[column].mean()

    assert math.isnan(entropies("entropy_think")["base"])
    assert entropies("entropy_think")["grpo"] == pytest.approx(
        entropies("entropy_common")["grpo"]
    )  # the same text
    score(runs["base"], models[0], name="base")
    assert entropies("entropy_think")["base"] == pytest.approx(entropies("entropy_common")["base"])
    assert entropies("entropy_common")["base"] != pytest.approx(entropies("entropy_common")["grpo"])


def test_a_judge_that_is_undecided_everywhere_leaves_claims_undecided():
    rows = [
        (0, arm, "forbidden", split, f"p{i}")
        for arm in ("base", "sft", "grpo")
        for split in "xy"
        for i in range(3)
    ]
    table = samples(rows, n_reflections=1, n_steps=2)
    info = {"base": "base", "rl": "grpo", "sft": ["sft"]}
    claims = verdicts(
        CLAIMS, Evidence(table, measures(table), differences(table, "base"), "base"), info
    )
    assert {claim.verdict for claim in claims} == {"undecided"}
    assert claims[0].claim.startswith("C1")


def test_shares_within_samples_get_an_interval_over_prompts():
    """Of own misses, say: the samples have 0.5 and 1, which are no flags."""
    rows = pd.DataFrame({"seed": 0, "cluster": list("abcd"), "value": [0.5, 1.0, 1.0, 0.5]})
    estimate = estimate_mean(rows, is_share=True)
    assert estimate.value == 0.75
    assert 0.5 <= estimate.low < 0.75 < estimate.high <= 1


def test_prompts_of_two_seeds_are_two_clusters():
    table = pd.DataFrame({"arm": "a", "seed": [0, 1], "prompt_id": "p", "chain": "c"})
    apart = seeds_apart(table)
    assert list(apart["prompt_id"]) == ["0:p", "1:p"]
    assert list(apart["chain"]) == ["0:c", "1:c"]
    assert set(apart["recipient"]) == {"a"}
