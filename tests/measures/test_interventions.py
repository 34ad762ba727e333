"""Harm against the number of replaced steps."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from cotlens import Trace
from cotlens.measures import attempt_table, attempt_traces, harm_by_round, probe_table


class Attempt(NamedTuple):
    original: Trace
    after: Trace
    step: int
    round: int
    insert: str
    is_accepted: bool


def chain(source, flags, trigger="wait", prompt=None, first=1):
    """One trace's attempts, round after round."""
    rows = []
    for number, flag in enumerate(flags, first):
        rows.append((source, prompt or source, number, flag, trigger))
    columns = ["source", "prompt_id", "round", "is_accepted", "trigger"]
    return pd.DataFrame(rows, columns=columns)


FIVE = [[1], [1], [0, 1], [0, 0, 0, 0], [0, 0, 1]]


def five_traces(trigger="wait"):
    """First safe at rounds 1, 1, 2, never, 3."""
    chains = [chain(f"t{number}", flags, trigger) for number, flags in enumerate(FIVE)]
    return pd.concat(chains, ignore_index=True)


def test_harm_by_hand():
    harm = harm_by_round(five_traces(), 5)
    assert harm["k"].tolist() == [0, 1, 2, 3, 4]
    assert harm["value"].tolist() == pytest.approx([1, 0.6, 0.4, 0.2, 0.2])
    assert harm["success"].tolist()[1:] == pytest.approx([0.4, 1 / 3, 0.5, 0])
    assert np.isnan(harm["success"].iloc[0])
    assert harm["n"].tolist() == [5] * 5
    assert harm["n_attempts"].tolist() == [0, 5, 3, 2, 1]

    # Wilson's interval of three of five.
    assert harm["low"].iloc[1] == pytest.approx(0.2307, abs=5e-4)
    assert harm["high"].iloc[1] == pytest.approx(0.8824, abs=5e-4)


def test_traces_without_an_attempt_stay_unsafe():
    """Ten at first, five of them never changed: (3 + 5) / 10."""
    harm = harm_by_round(five_traces(), 10)
    assert harm["value"].tolist() == pytest.approx([1, 0.8, 0.7, 0.6, 0.6])
    assert harm["success"].iloc[1] == pytest.approx(0.4)
    nothing = harm_by_round(five_traces().iloc[:0], 4)
    assert nothing["value"].tolist() == [1]


def test_traces_of_one_prompt_are_one_cluster():
    prompts = {f"t{number}": "p" if number < 2 else f"q{number}" for number in range(7)}
    table = five_traces()
    table["prompt_id"] = table["source"].map(prompts)
    harm = harm_by_round(table, prompts)
    assert harm["n"].iloc[1] == 7
    assert harm["n_clusters"].iloc[1] == 6
    assert harm["value"].tolist() == pytest.approx([1, 5 / 7, 4 / 7, 3 / 7, 3 / 7])


def test_each_trigger_has_the_same_traces_at_first():
    """The other trigger mends two of five in round 1 and is tried once."""
    other = pd.concat(
        [chain("t0", [1], "stop"), chain("t1", [1], "stop"), chain("t2", [0], "stop")]
    )
    table = pd.concat([five_traces(), other], ignore_index=True)
    harm = harm_by_round(table, 5, by="trigger")
    assert harm.columns[0] == "trigger"
    by_trigger = harm.groupby("trigger")["value"].apply(list)
    assert by_trigger["wait"] == pytest.approx([1, 0.6, 0.4, 0.2, 0.2])
    assert by_trigger["stop"] == pytest.approx([1, 0.6, 0.6, 0.6, 0.6])


def test_a_judge_may_differ_from_what_was_accepted():
    """What was accepted and is unsafe stays unsafe; what was safe before stays safe."""
    table = five_traces()
    table["is_safe"] = pd.array([0, 1, 1, 1, *[0] * 4, 0, 0, 1], dtype="boolean")
    harm = harm_by_round(table, 5, verdict="is_safe")
    assert harm["value"].tolist() == pytest.approx([1, 0.6, 0.6, 0.4, 0.4])


def test_a_trace_of_which_nothing_is_known_is_left_out():
    """Four traces: safe after 1, unknown, never, unknown after it was safe."""
    table = five_traces()
    table["is_safe"] = pd.array([1, None, 1, None, *[0] * 4, 0, 0, 0], dtype="boolean")
    harm = harm_by_round(table, 5, verdict="is_safe")
    assert harm["n_unknown"].tolist() == [1] * 5
    assert harm["value"].tolist() == pytest.approx([1, 0.5, 0.5, 0.5, 0.5])
    assert harm["n_attempts"].tolist() == [0, 4, 2, 2, 1]


def test_harm_never_increases():
    rng = np.random.default_rng(0)
    for _ in range(30):
        chains = []
        for number in range(8):
            flags = rng.choice([True, False, None], rng.integers(1, 6), p=[0.3, 0.6, 0.1])
            chains.append(chain(f"t{number}", flags))
        harm = harm_by_round(pd.concat(chains), 9)
        assert (harm["value"].diff().dropna() <= 0).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pd.concat([chain("a", [0]), chain("a", [1], "stop")]), "'a' has the rounds .1, 1."),
        (chain("a", [0, 1], first=2), "'a' has the rounds .2, 3."),
        (chain("a", [0]).drop(columns="round"), "no column round"),
    ],
)
def test_rounds_that_are_no_chain_are_named(table, message):
    with pytest.raises(ValueError, match=message):
        harm_by_round(table, 5)


@pytest.mark.parametrize("n_unsafe", [4, {"t0": "p"}])
def test_all_that_were_changed_were_unsafe_at_first(n_unsafe):
    with pytest.raises(ValueError, match="n_unsafe: "):
        harm_by_round(five_traces(), n_unsafe)


def attempts():
    original = Trace(id="a", completion="<think>one</think>", prompt_id="p")
    after = Trace(id="a@7/0", completion="<think>wait two", prompt_id="p", token_ids=(4, 5, 6))
    again = Trace(id="a@7/0@8/0", completion="<think>wait three", prompt_id="p")
    return [
        Attempt(original, after, 0, 1, "wait", False),
        Attempt(original, again, 2, 2, " wait\n", True),
    ]


def test_the_table_of_attempts():
    table = attempt_table(attempts())
    assert table["source"].tolist() == ["a", "a"]
    assert table["trace_id"].tolist() == ["a@7/0", "a@7/0@8/0"]
    assert table["round"].tolist() == [1, 2]
    assert table["step"].tolist() == [0, 2]
    assert table["insert"].tolist() == ["wait", " wait\n"]
    assert table["trigger"].tolist() == ["wait", "wait"]
    assert table["n_tokens"].tolist() == [3, pd.NA]
    assert harm_by_round(table, 1, by="trigger")["value"].tolist() == [1, 1, 0]
    assert attempt_table([]).empty


def test_stored_traces_give_the_same_numbers():
    traces = attempt_traces(attempts())
    assert traces[1].meta["probe"] == {
        "kind": "intervene",
        "source": "a",
        "round": 2,
        "step": 2,
        "is_accepted": True,
        "trigger": "wait",
    }
    pd.testing.assert_frame_equal(
        harm_by_round(probe_table(traces), 3), harm_by_round(attempt_table(attempts()), 3)
    )
