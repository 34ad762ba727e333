"""Returns per miss and depth, counted by hand."""

import numpy as np
import pandas as pd
import pytest

from cotlens import stats, step_table, trace_table
from cotlens.measures import reflection_dynamics
from cotlens.probes import miss_table, return_table

# M: miss, B: back, ?: it is not known whether it goes back, any other letter: neither.
THOUGHTS = {
    "a": "TMBTMBTH",  # two misses, both returned from
    "b": "TMCTMBTMC",  # of three misses the second
    "c": "TH",  # nothing to return from
    "d": "TMTTB.BB",  # the return comes later, and three times
    "e": "TM?",  # nobody knows
    "f": "TM",  # nothing after it
    "g": "",
    "h": "??",
    "i": "BTMTMB",  # a return before the miss is none from it
}


@pytest.fixture
def traces():
    prompts = [f"p{number // 2}" for number in range(len(THOUGHTS))]
    return pd.DataFrame({"trace_id": list(THOUGHTS), "prompt_id": prompts, "method": "base"})


@pytest.fixture
def steps():
    rows = []
    for trace_id, letters in THOUGHTS.items():
        for number, letter in enumerate(letters):
            rows.append({"trace_id": trace_id, "step": number, "letter": letter})
    # The order of rows does not matter.
    return pd.DataFrame(rows).sample(frac=1, random_state=3)


def is_miss(steps):
    return steps["letter"] == "M"


def is_back(steps):
    return [None if letter == "?" else letter == "B" for letter in steps["letter"]]


def test_a_miss_is_returned_from_before_the_next_one(steps, traces):
    misses = miss_table(steps, traces, is_miss, is_back)
    table = [
        (row.trace_id, row.step, row.is_returned, row.n_until)
        for row in misses.itertuples(index=False)
    ]
    assert table == [
        ("a", 1, True, 1), ("a", 4, True, 1),
        ("b", 1, False, pd.NA), ("b", 4, True, 1), ("b", 7, False, pd.NA),
        ("d", 1, True, 3),
        ("e", 1, pd.NA, pd.NA),
        ("f", 1, False, pd.NA),
        ("i", 2, False, pd.NA), ("i", 4, True, 1),
    ]  # fmt: skip

    # P(back | miss): five of nine that are known, of prompts p0 (5), p1 (1), p2 (1), p4 (2).
    share = stats.proportion(misses["is_returned"], misses["prompt_id"])
    assert (share.value, share.n, share.n_clusters) == (pytest.approx(5 / 9), 9, 4)
    assert misses["method"].eq("base").all()


@pytest.mark.parametrize(
    ("trace_id", "numbers"),
    [
        # n_steps n_misses n_returned p_return depth n_returns share n_episodes longest
        ("a", (8, 2, 2, 1, 2, 2, 2 / 8, 2, 1)),
        ("b", (9, 3, 1, 1 / 3, 1, 1, 1 / 9, 1, 1)),
        ("c", (2, 0, 0, np.nan, 0, 0, 0, 0, 0)),
        ("d", (8, 1, 1, 1, 1, 3, 3 / 8, 2, 2)),
        ("e", (2, 1, 0, np.nan, 0, 0, 0, 0, 0)),
        ("f", (2, 1, 0, 0, 0, 0, 0, 0, 0)),
        ("g", (np.nan,) * 9),
        ("h", (np.nan,) * 9),
        ("i", (6, 2, 1, 1 / 2, 1, 2, 2 / 6, 2, 1)),
    ],
)
def test_numbers_of_a_trace(steps, traces, trace_id, numbers):
    table = return_table(steps, traces, is_miss=is_miss, is_return=is_back)
    row = table.set_index("trace_id").loc[trace_id].drop(["prompt_id", "method"])
    assert row.astype(float).to_numpy() == pytest.approx(numbers, nan_ok=True)


def test_the_tables_agree(steps, traces):
    misses = miss_table(steps, traces, is_miss, is_back)
    table = return_table(steps, traces, is_miss=is_miss, is_return=is_back)
    assert table["n_misses"].sum() == len(misses)
    assert table["n_returned"].sum() == misses["is_returned"].sum()
    assert (table["depth"].dropna() <= table["n_returned"].dropna()).all()


def test_without_a_word_on_it_a_return_is_a_step_that_reflects():
    """The counts are then those of `reflection_dynamics`, and misses are unknown."""
    texts = [
        "<think>2 + 2 = 5. Wait, that can't be right. Let me check. 2 + 2 = 4. Hmm, wait.</think>4",
        "<think>2 + 2 = 4. So the answer is 4.</think>4",
        "no thought",
    ]
    steps = step_table(texts)
    traces = trace_table(texts)
    table = return_table(steps, traces)
    dynamics = reflection_dynamics(steps, traces)
    pairs = [
        ("n_steps", "n_known"), ("n_returns", "n_reflect"), ("share_returns", "share_reflect"),
        ("n_episodes", "n_episodes"), ("longest_run", "longest_run"), ("depth", "longest_run"),
    ]  # fmt: skip
    for ours, theirs in pairs:
        assert table[ours].tolist() == pytest.approx(dynamics[theirs].tolist(), nan_ok=True)
    assert table["n_returns"].tolist()[0] >= 2
    assert table[["n_misses", "n_returned", "p_return"]].isna().all(axis=None)


def test_bad_tables_are_refused(steps, traces):
    with pytest.raises(ValueError, match="is_miss: expected 40 flags, got the shape"):
        miss_table(steps, traces, lambda _: [True])
    with pytest.raises(ValueError, match="a trace id occurs twice"):
        return_table(steps, pd.concat([traces, traces]), is_return=is_back)
    with pytest.raises(ValueError, match="no prompt_id"):
        return_table(steps, traces.drop(columns="prompt_id"), is_return=is_back)
    with pytest.raises(ValueError, match="the step table has no step"):
        return_table(steps.drop(columns="step"), traces, is_return=is_back)
