"""Claims fixed before the run: adjusted p-values, equivalence, recovery, and the file whose hash a study keeps."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from places import ROOT
from scipy import stats as distributions

from cotlens import TraceError
from cotlens.studies.arms import derive, differences, measures
from cotlens.studies.claims import (
    check_registration,
    holm,
    read_claims,
    register_claims,
    verdicts,
)
from cotlens.studies.rules import (
    NO_CHANGE,
    Change,
    Comparison,
    Evidence,
    decide_same,
    describe,
    is_kept,
    p_value,
    state_of,
    what_would_change,
)

PATH = ROOT / "trainers" / "configs" / "claims.json"
ARMS = ("base", "hindsight_sft", "reflective_sft", "filtered_sft", "grpo")
ROLES = {"base": "base", "rl": "grpo", "sft": list(ARMS[1:4]), "filtered": "filtered_sft"}


def change(value, half, *, n=5, arm="a", p=math.nan, n_tests=1, units="seeds"):
    return Change(value, value - half, value + half, n, units, arm, "base", "m", p, n_tests)


# --- Holm --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 x .01, 2 x .03, 1 x .04 but no less than .06
        ([0.04, 0.01, 0.03, 0.005], [0.06, 0.03, 0.06, 0.02]),  # 4 x .005, 3 x .01, 2 x .03
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.02, math.nan, 0.01], [0.02, math.nan, 0.02]),  # two tests
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_holm_by_hand(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted, nan_ok=True)


def test_holm_keeps_the_order_and_lies_between_the_raw_and_bonferroni():
    rng = np.random.default_rng(0)
    for _ in range(50):
        raw = rng.random(6) ** 3
        adjusted = np.array(holm(raw.tolist()))
        assert (adjusted >= raw).all()
        assert (adjusted <= np.minimum(6 * raw, 1) + 1e-12).all()
        assert (np.diff(adjusted[np.argsort(raw)]) >= 0).all()
        places = rng.permutation(6)
        np.testing.assert_allclose(holm(raw[places].tolist()), adjusted[places])


def test_the_p_value_is_that_of_the_interval():
    """Of a paired t-test on five differences; .05 where the interval ends at zero; none over prompts."""
    gaps = np.array([0.1, 0.3, 0.2, -0.05, 0.15])
    half = 2.776445 * gaps.std(ddof=1) / 5**0.5
    expected = distributions.ttest_1samp(gaps, 0).pvalue
    assert p_value(change(gaps.mean(), half)) == pytest.approx(expected, rel=1e-5)
    assert p_value(change(0.2, 0.2)) == pytest.approx(0.05)
    assert p_value(change(0.2, 0.0)) == 0
    assert p_value(change(0.0, 0.0)) == 1
    assert math.isnan(p_value(change(0.2, 0.1, units="prompts", n=40)))
    assert math.isnan(p_value(change(0.2, 0.1, n=2)))
    assert math.isnan(p_value(NO_CHANGE))


# --- equivalence -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "half", "kept"),
    [
        (0.0, 0.05, True),  # the limits count
        (0.0, 0.0501, False),
        (0.03, 0.02, True),
        (0.03, 0.021, False),
        (-0.03, 0.02, True),
        (-0.2, 0.1, False),
        (0.0, math.nan, False),
    ],
)
def test_kept_is_a_whole_interval_within_the_margin(value, half, kept):
    assert is_kept(change(value, half), 0.05) is kept
    assert (state_of(change(value, half), 0.05) == "kept") is kept


@pytest.mark.parametrize(
    ("value", "half", "verdict"),
    [
        (0.0, 0.03, "seen"),
        (0.04, 0.03, "undecided"),
        (-0.04, 0.03, "undecided"),  # differs from zero and may be within the margin
        (0.2, 0.1, "not seen"),
        (-0.2, 0.1, "not seen"),
        (0.0, 0.3, "undecided"),
        (math.nan, math.nan, "undecided"),
    ],
)
def test_a_negative_control_is_the_same_within_its_margin(value, half, verdict):
    decided = decide_same("N", Comparison({"difference": change(value, half)}, 0.05))
    assert decided.verdict == verdict


def test_a_loss_that_holm_does_not_leave_is_unclear():
    lost = change(-0.2, 0.1, p=0.02)
    assert state_of(lost, 0.05) == "lost"
    adjusted = lost._replace(p=0.06, n_tests=3)
    assert state_of(adjusted, 0.05) == "unclear"
    assert what_would_change(adjusted) == "a p-value below 0.05 after Holm over 3 (is 0.06)"
    assert describe(adjusted) == "-0.200 (-0.300 to -0.100; 5 seeds, p 0.06, Holm over 3)"
    over_prompts = change(-0.2, 0.1, n=40, units="prompts", n_tests=3)
    assert describe(over_prompts).endswith("; 40 prompts, one of 3, not adjusted)")


# --- recovery ----------------------------------------------------------------------------------


def evidence_of(recovery, n_seeds=5, n=100, **options):
    """Arms that recover in this share of puzzles, one or two more or less by seed."""
    rows = []
    for seed in range(n_seeds):
        for arm, share in recovery.items():
            wobble = (seed * 7 + len(arm)) % 3 - 1
            for i in range(n):
                rows.append((seed, arm, "puzzles", "s", f"p{i}", i < share * n + wobble))
    names = ["seed", "arm", "set", "split", "prompt_id", options.get("column", "recovers")]
    table = pd.DataFrame(rows, columns=names).assign(n_steps=1, n_reflections=0)
    for flag in ("thinking_unsafe", "answer_unsafe"):
        if flag not in table:
            table[flag] = pd.Series(pd.NA, table.index, dtype="boolean")
    samples = derive(table, list(recovery))
    return Evidence(samples, measures(samples), differences(samples, "base"), "base")


def verdicts_of(recovery, names=("C4a", "C4b"), **options):
    evidence = evidence_of(recovery, **options)
    claims = verdicts(read_claims(PATH), evidence, ROLES)
    return {v.claim[v.claim.find("[") :]: v for v in claims if v.claim.startswith(names)}


def test_data_that_never_errs_loses_recovery_and_the_other_two_explanations_are_told_apart():
    """Hindsight .50 -> .20, reflective .50 -> .95, own data .50 -> .50, GRPO .50 -> .90: data, and not the optimiser."""
    shares = dict(zip(ARMS, (0.5, 0.2, 0.95, 0.5, 0.9), strict=True))
    found = verdicts_of(shares)
    reflective = found["[hindsight_sft, reflective_sft]"]
    assert reflective.verdict == "seen (reflective_sft raises it)"
    assert "Holm over 3" in reflective.because
    assert "5 seeds" in reflective.because
    assert found["[hindsight_sft, filtered_sft]"].verdict == "seen"
    assert found["[filtered_sft]"].verdict == "not seen"  # C4b: own data keeps it


def test_the_optimiser_is_to_blame_where_the_same_samples_lose_it():
    shares = dict(zip(ARMS, (0.5, 0.5, 0.95, 0.2, 0.5), strict=True))
    found = verdicts_of(shares)
    assert found["[filtered_sft]"].verdict == "seen"
    assert found["[hindsight_sft, filtered_sft]"].verdict == "not seen"
    assert found["[hindsight_sft, reflective_sft]"].verdict == "not seen"


def test_the_arms_of_a_claim_are_adjusted_for_each_other_and_rl_is_not():
    """Three SFT arms make a family of three; GRPO, in every pair, is a family of one. One seed has no p-values."""
    shares = dict(zip(ARMS, (0.5, 0.2, 0.3, 0.4, 0.5), strict=True))
    claim = {
        "claim": "c", "rule": "lowers_but_keeps", "arm": "sft", "against": "rl", "measure": "recovers_puzzles", "margin": 0.05,
    }  # fmt: skip
    for line in verdicts([claim], evidence_of(shares), ROLES):
        sft, rl = line.because.split("grpo")
        assert "Holm over 3" in sft
        assert "Holm" not in rl
    alone = verdicts([claim], evidence_of(shares, n_seeds=1), ROLES)
    assert all("prompts, one of 3, not adjusted" in line.because for line in alone)
    assert len(alone) == 3


def test_holm_turns_a_verdict():
    """p of .03 alone is seen; with two more arms of .9 it is .09 and undecided."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in range(5):
        for arm, values in (
            ("base", [0] * 5),
            ("a", [4, 1, 3, 1, 2]),
            ("b", [0, 1, 0, -1, 0]),
            ("c", [1, -1, 0, 1, -1]),
        ):
            rows += [(seed, arm, "forbidden", "s", f"p{i}", i < 50 - values[seed]) for i in range(100)]  # fmt: skip
    names = ["seed", "arm", "set", "split", "prompt_id", "thinking_unsafe"]
    table = pd.DataFrame(rows, columns=names).sample(frac=1, random_state=rng)
    table = table.assign(answer_unsafe=pd.NA, n_steps=1, n_reflections=0)
    samples = derive(table.astype({"answer_unsafe": "boolean"}), ["base", "a", "b", "c"])
    evidence = Evidence(samples, measures(samples), differences(samples, "base"), "base")
    claim = {"claim": "c", "rule": "falls", "measure": "thinking_unsafe_forbidden"}
    (alone,) = verdicts([claim | {"arm": "a"}], evidence, {})
    together = verdicts([claim | {"arm": ["a", "b", "c"]}], evidence, {})
    raw = distributions.ttest_1samp([4, 1, 3, 1, 2], 0).pvalue
    assert alone.verdict == "seen"
    assert f"p {raw:.2g})" in alone.because
    assert f"p {3 * raw:.2g}, Holm over 3)" in together[0].because
    assert together[0].verdict == "undecided"


def test_shuffled_labels_are_as_unsafe_as_no_guard():
    shares = {"base": 0.7, "grpo_shuffled_guard": 0.75, "grpo_no_guard": 0.76}
    evidence = evidence_of(shares, column="thinking_unsafe")
    samples = evidence.samples.assign(set="forbidden")
    evidence = Evidence(samples, measures(samples), differences(samples, "base"), "base")
    found = {v.claim[:2]: v for v in verdicts(read_claims(PATH), evidence, ROLES)}
    assert found["N1"].verdict == "seen"
    assert "margin 0.050" in found["N1"].because


# --- the file ----------------------------------------------------------------------------------


def test_a_study_keeps_the_hash_of_its_claims_and_says_when_the_file_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "claims.json"
    path.write_text(PATH.read_text(encoding="utf-8"), encoding="utf-8")
    info = register_claims(path)
    assert info["claims"] == read_claims(PATH)
    assert info["claims_file"]["path"] == "claims.json"
    assert len(info["claims_file"]["sha256"]) == 64
    assert check_registration(info) is None
    assert check_registration({"claims": []}) is None

    # A margin that is changed in study.json alone.
    changed = [claim | {"margin": 0.2} for claim in info["claims"]]
    warning = check_registration(info | {"claims": changed})
    assert (warning.verdict, "study.json holds other claims" in warning.because) == (
        "changed",
        True,
    )

    # A file that was changed after the run: one line, the first.
    path.write_text(path.read_text(encoding="utf-8").replace("0.05", "0.2"), encoding="utf-8")
    shares = dict(zip(ARMS, (0.5, 0.2, 0.95, 0.5, 0.9), strict=True))
    lines = verdicts(info["claims"], evidence_of(shares), ROLES | info)
    assert lines[0].claim == "Fixed before the run"
    assert lines[0].verdict == "changed"
    assert lines[0].because.endswith(
        f"the study was made with {info['claims_file']['sha256'][:12]}"
    )
    assert "Fixed before the run" not in {line.claim for line in lines[1:]}

    path.unlink()
    assert check_registration(info).verdict == "not checked"


def test_a_file_elsewhere_is_kept_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "claims.json").write_text("[]")
    assert register_claims(tmp_path / "claims.json")["claims_file"]["path"] == "claims.json"
    with pytest.raises(TraceError, match=r"no list of claims"):
        register_claims(tmp_path / "none.json")


@pytest.mark.parametrize("content", [{"rates": {}}, {"claims": {}}, 3, None])
def test_a_file_without_a_list_is_refused(tmp_path, content):
    (tmp_path / "claims.json").write_text(json.dumps(content))
    with pytest.raises(TraceError, match="expected a list of claims"):
        read_claims(tmp_path / "claims.json")


def test_the_committed_file_fixes_rates_and_margins():
    fixed = json.loads(PATH.read_text(encoding="utf-8"))
    grid = fixed["rates"]["grid"]
    assert grid == sorted(grid)
    assert {"rule", "score", "checkpoints"} <= set(fixed["rates"])
    by_name = {claim["claim"].split()[0]: claim for claim in fixed["claims"]}
    for name in ("C4a", "C4b", "N1"):
        assert by_name[name]["margin"] == 0.05
