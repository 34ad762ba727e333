"""Which requests are known to ask for harm, and which harmless traces are as long."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotlens.measures.requests import BASELINE, asks_for_harm, match_lengths, with_baseline
from cotlens.studies.samples import NAMES_OF_DOMAINS


def traces_of(**columns):
    n = len(next(iter(columns.values())))
    return pd.DataFrame({"domain": [""] * n, "split": [""] * n} | columns)


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        ("harmful", True),
        ("Forbidden", True),
        ("forbidden_seen", True),
        ("unsafe", True),
        ("StrongREJECT", True),
        ("strong_reject-small", True),
        ("AdvBench", True),
        ("harmless", False),
        ("xstest_safe", False),
        ("JailbreakBench benign", False),
        ("maths", False),
        ("MATH-500", False),
        ("aime2024", False),
        ("MMLU abstract_algebra", False),
        ("HumanEval", False),
        # Nothing is said, or both.
        ("", None),
        ("law", None),
        ("xstest", None),
        ("jailbreakbench", None),
        ("safety", None),
        ("safe and unsafe", None),
        ("jailbreak_bench", None),
        ("jailbreak_bench_benign", False),
        ("non-harmful", None),
        ("not safe", None),
        ("aftermath", None),
    ],
)
def test_what_a_domain_or_split_says(name, asks):
    for column in ("domain", "split"):
        (answer,) = asks_for_harm(traces_of(**{column: [name]}))
        assert answer is pd.NA if asks is None else answer == asks


@pytest.mark.parametrize(
    ("name", "asks"), [("forbidden", True), ("harmless", False), ("maths", False)]
)
def test_the_domains_of_a_study_are_known(name, asks):
    """What a study puts into a set of forbidden, harmless or mathematical requests is known here."""
    domains = list(NAMES_OF_DOMAINS[name])
    assert asks_for_harm(traces_of(domain=domains)).tolist() == [asks] * len(domains)


def test_a_verdict_on_the_request_comes_before_domain_and_split():
    """The verdict is there for two of four traces; then comes the domain, then the split."""
    table = traces_of(
        domain=["harmless", "gsm8k", "gsm8k", ""],
        split=["", "", "harmful", "harmful"],
        request_unsafe=pd.array([True, False, None, None], dtype="boolean"),
    )
    assert asks_for_harm(table).tolist() == [True, False, False, True]


def test_lengths_are_matched_by_hand():
    """Half wanted in bin 4 (3 to 4 letters), half in bin 12 (63 to 89), which has two rows of ten.

    Of a sample of 4 both bins give 2, and nothing is missing. Of 5, half a row of bin 12 is: a
    tenth, more than 5%. The eight rows of bin 4 give those at a quarter and three quarters.
    """
    lengths = [3, 3, 70, 3, 3, 4, 4, 80, 4, 4]
    chosen = match_lengths(lengths, [3, 75])
    assert sorted(np.array(lengths)[chosen]) == [3, 4, 70, 80]

    # Places of bin 4: 0 1 3 4 5 6 8 9; the third and the seventh of eight are taken.
    assert chosen.tolist() == [2, 3, 7, 8]


def test_nothing_is_as_long():
    assert match_lengths([], [3]).tolist() == []
    assert match_lengths([3], []).tolist() == []
    assert match_lengths([3, 3], [1000]).tolist() == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60), st.integers(1, 4))
def test_laws_of_matched_lengths(wanted, times):
    """Lengths that are the wanted ones, so many times, are all taken; others are never."""
    others = [10**6] * 7
    chosen = match_lengths([*others, *wanted * times], wanted)
    assert chosen.tolist() == list(range(7, 7 + times * len(wanted)))


def dynamics_of(models, domains, lengths):
    ids = [f"t{i}" for i in range(len(models))]
    return traces_of(
        trace_id=ids, model=models, domain=domains, n_think_chars=lengths, n_marked=1.0
    )


def test_harmful_groups_stand_over_a_baseline_of_equal_length():
    """Two harmful traces of 100 letters; of three harmless ones two are as long; one is unknown."""
    table = dynamics_of(
        ["b", "a", "a", "b", "c", "c"],
        ["harmful", "harmful", "gsm8k", "gsm8k", "gsm8k", ""],
        [100, 100, 100, 100, 9000, 100],
    )
    found = with_baseline(table, "model")
    assert found[1:] == (2, 3, 1, 2)
    assert found.traces["trace_id"].tolist() == ["t0", "t1", "t2", "t3"]
    assert found.traces["model"].tolist() == ["b", "a", BASELINE, BASELINE]
    assert found.traces["model"].cat.categories.tolist() == ["a", "b", BASELINE]


def test_categories_keep_their_order():
    table = dynamics_of(["b", "a", "b"], ["harmful", "harmful", "harmless"], [5, 5, 5])
    table["model"] = pd.Categorical(table["model"], ["b", "a", "none"])
    found = with_baseline(table, "model")
    assert found.traces["model"].cat.categories.tolist() == ["b", "a", BASELINE]


def test_traces_without_markers_are_of_no_kind():
    table = dynamics_of(["a", "a"], ["harmful", "harmful"], [5, 5])
    table["n_marked"] = [np.nan, 2]
    assert with_baseline(table, "model")[1:] == (1, 0, 0, 0)
    table["n_marked"] = np.nan
    assert with_baseline(table, "model")[1:] == (0, 0, 0, 0)
