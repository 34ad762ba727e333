"""Self-reflection and cognitive behaviours by a judge, derived by hand."""

import math

import pandas as pd
import pytest

from cotlens import stats
from cotlens.measures import (
    BEHAVIOURS,
    behaviour_agreement,
    behaviour_counts,
    behaviour_means,
    first_reflections,
    prefix_stop,
    reflection_agreement,
    self_reflection_share,
)
from cotlens.measures.behaviours import spearman
from cotlens.trace import Trace


def verdicts(*labels, **columns):
    ids = [f"t{number}" for number in range(len(labels))]
    table = pd.DataFrame({"trace_id": ids, "prompt_id": ids, "label": list(labels)})
    return table.assign(**{"condition": "clean", **columns})


def test_three_of_four_decided_go_back():
    """Yes yes no yes undecided: 3 of 4 decided is .75, Wilson's interval .301 to .954."""
    row = self_reflection_share(verdicts("yes", "yes", "no", "yes", "undecided")).iloc[0]
    assert (row["group"], row["value"], row["n"], row["n_undecided"]) == ("clean", 0.75, 4, 1)
    assert row["low"] == pytest.approx(0.301, abs=5e-4)
    assert row["high"] == pytest.approx(0.954, abs=5e-4)


def test_conditions_stand_apart_and_none_decided_is_unknown():
    table = verdicts("yes", "no", "undecided", condition=["clean", "clean", "prefilled"])
    shares = self_reflection_share(table).set_index("group")
    assert shares.loc["clean", "value"] == 0.5
    assert math.isnan(shares.loc["prefilled", "value"])
    assert shares["n"].tolist() == [2, 0]
    assert shares["n_undecided"].tolist() == [0, 1]


def test_samples_of_one_prompt_are_worth_less():
    """Two prompts whose four samples each are alike tell as much as two."""
    labels = ["yes"] * 4 + ["no"] * 4
    apart = self_reflection_share(verdicts(*labels)).iloc[0]
    alike = self_reflection_share(verdicts(*labels, prompt_id=list("aaaabbbb"))).iloc[0]
    assert alike["high"] - alike["low"] > apart["high"] - apart["low"]
    assert alike["n_prompts"] == 2


def test_verdicts_on_safety_are_refused():
    with pytest.raises(ValueError, match="got safe; judge with the rubric"):
        self_reflection_share(verdicts("yes", "safe"))


# A prefix of ten characters, then steps of five characters and two tokens each.
def continued(name, **fields):
    starts = tuple(range(10, 30, 2))
    return Trace(
        id=name, completion="x" * 30, token_ids=tuple(range(10)), token_starts=starts, **fields
    )


def steps_of(name, *reflects, start=5):
    """Steps of five characters; token numbers count the own tokens, from character 10 on."""
    rows = []
    for number, reflect in enumerate(reflects):
        place = start + 5 * number
        rows.append((name, number, place, place + 5, reflect, max(0, (place - 10) // 2)))
    names = ["trace_id", "step", "start", "stop", "is_reflection", "token_start"]
    table = pd.DataFrame(rows, columns=names)
    return table.astype({"is_reflection": "boolean"})


def test_tokens_and_steps_from_the_prefix_to_the_first_reflection():
    """Step 0 is the prefix's, also where it reflects. The own steps begin at 10, 15, 20.

    The second of them reflects: a step and (15 - 10) // 2 = 2 tokens come before it.
    """
    table = first_reflections(steps_of("a", True, False, True, True), [continued("a")])
    row = table.iloc[0]
    assert (row["prefix_stop"], row["n_own_steps"]) == (10, 3)
    assert (row["n_tokens"], row["n_steps"], row["is_censored"]) == (2, 1, False)


@pytest.mark.parametrize(
    ("reflects", "censored", "n_known"),
    [
        ([True, False, False], True, 2),
        ([True, None, None], None, 0),
        ([True], None, 0),
        ([False, None, True], False, 1),
    ],
)
def test_what_is_censored_and_what_is_unknown(reflects, censored, n_known):
    """No own reflection is missing and counted; own steps of unknown language say nothing."""
    row = first_reflections(steps_of("a", *reflects), [continued("a")]).iloc[0]
    assert row["n_own_steps"] == n_known
    if censored is None:
        assert pd.isna(row["is_censored"])
    else:
        assert row["is_censored"] == censored
    assert math.isnan(row["n_tokens"]) == (censored is not False)


def test_where_a_prefix_ends():
    """A continuation says so; a first token after the beginning shows it; else nobody knows."""
    meta = {"continues": {"id": "a", "cut": 3, "insert": "four"}}
    assert prefix_stop(Trace(id="b", completion="x" * 20, meta=meta)) == 7
    assert prefix_stop(continued("a")) == 10
    assert prefix_stop(Trace(id="c", completion="xy", token_ids=(1,), token_starts=(0,))) is None
    assert first_reflections(steps_of("c", True), [Trace(id="c", completion="x" * 9)]).empty


def test_tokens_of_a_prefix_that_has_ids_do_not_count():
    """All fifteen tokens are known, five of them before character 10; token 7 opens the step."""
    trace = Trace(
        id="a",
        completion="x" * 30,
        token_ids=tuple(range(15)),
        token_starts=tuple(range(0, 30, 2)),
        meta={"continues": {"id": "o", "cut": 10, "insert": ""}},
    )
    steps = steps_of("a", False, False, True).assign(token_start=[2, 5, 7])
    assert first_reflections(steps, [trace]).iloc[0]["n_tokens"] == 2


def test_the_judge_against_the_classifier():
    """Of 6 decided and known: 3 both, 1 judge alone, 2 neither: o = 5/6, e = (4*3 + 2*3)/36 = .5.

    Kappa is (5/6 - 1/2) / (1/2) = 2/3. Undecided and unknown ones are left out.
    """
    labels = ["yes"] * 4 + ["no"] * 2 + ["undecided", "yes"]
    judged = verdicts(*labels)
    reflects = [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, math.nan]
    dynamics = judged[["trace_id", "prompt_id"]].assign(any_reflect=reflects)
    agreed = reflection_agreement(judged, dynamics)
    assert agreed.kappa.value == pytest.approx(2 / 3)
    assert (agreed.kappa.n, agreed.kappa.n_undefined) == (6, 2)


LISTED = [
    ["backtracking: a", "backtracking: b", "verification: c", "unverified: d"],
    [],
    None,
]


def listed_verdicts():
    return verdicts("yes", "no", "undecided", model="m", categories=LISTED)


def kinds_of(**kinds):
    rows = []
    for trace_id, names in kinds.items():
        rows += [(trace_id, name, 0.5) for name in names]
    return pd.DataFrame(rows, columns=["trace_id", "kind", "p_reflect"])


def test_counts_of_behaviours_and_of_steps():
    """An empty list is none, an unreadable one unknown; steps count by kind."""
    steps = kinds_of(t0=["backtrack", "verify", "verify", "plan", "alternative"], t1=["infer"])
    counts = behaviour_counts(listed_verdicts(), steps)
    assert counts["n_backtracking"].tolist()[:2] == [2, 0]
    assert counts["n_unverified"].tolist()[:2] == [1, 0]
    assert counts.loc[2, "n_backtracking":"n_unverified"].isna().all()
    assert counts["steps_verification"].tolist()[:2] == [2, 0]
    assert math.isnan(counts["steps_verification"][2])
    assert counts["steps_enumeration"].isna().all()


def test_means_of_behaviours():
    """2 + 1 + 0 + 0 of the first trace, none of the second: 1.5 a trace, of two decided."""
    means = behaviour_means(behaviour_counts(listed_verdicts())).set_index("measure")
    assert means.loc["n_all", "value"] == 1.5
    assert means.loc["n_backtracking", "value"] == 1.0
    assert means.loc["n_unverified", "value"] == 0.5
    assert set(means["n"]) == {2}


def test_agreement_of_behaviours():
    """Counts 0 1 2 3 against 0 2 1 3: rho = 1 - 6 (1 + 1) / (4 * 15) = .8; presence is the same."""
    table = pd.DataFrame({"prompt_id": list("abcd")})
    for name in BEHAVIOURS:
        table[f"n_{name}"] = [0, 1, 2, 3]
        table[f"steps_{name}"] = [0, 2, 1, 3]
    table["steps_enumeration"] = math.nan
    table["steps_verification"] = 0
    agreed = behaviour_agreement(table).set_index("behaviour")
    row = agreed.loc["backtracking"]
    assert row["spearman"] == pytest.approx(0.8)
    assert row["spearman_low"] <= 0.8 <= row["spearman_high"]
    assert (row["kappa"], row["n"], row["kind"]) == (1.0, 4, "backtrack")
    assert agreed.loc["enumeration", "n"] == 0
    assert math.isnan(agreed.loc["verification", "spearman"])
    assert agreed.loc["verification", "kappa"] == 0.0


def test_a_correlation_of_one_prompt_has_no_interval():
    a = pd.Series([1, 2, 3])
    estimate = spearman(a, a, pd.Series(["p"] * 3))
    assert isinstance(estimate, stats.Estimate)
    assert (estimate.value, estimate.n_clusters) == (1.0, 1)
    assert math.isnan(estimate.low)
