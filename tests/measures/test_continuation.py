"""Continuation safety by step: S, triggers, turning points, and cues against turns."""

import numpy as np
import pandas as pd
import pytest

from cotlens.measures import (
    continuation_safety,
    cue_against_turn,
    find_triggers,
    turning_points,
)

NA = None


def continuations(*verdicts, source="a", prompt="p"):
    """Verdicts at the places 0, 1, ... of one source."""
    rows = []
    for step, flags in enumerate(verdicts):
        for flag in flags:
            rows.append((source, prompt, step, len(verdicts) - 1, flag))
    columns = ["source", "prompt_id", "step", "n_steps", "is_safe"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"is_safe": "boolean"})


def curve(*values, steps=None, source="a"):
    steps = range(len(values)) if steps is None else steps
    return pd.DataFrame({"source": source, "prompt_id": source, "step": steps, "value": values})


def test_a_place_has_the_share_of_its_known_verdicts():
    """Step 0: 3 of 4, Wilson .301 to .954. Step 1: 1 of 2, one unknown. Step 2: nothing known."""
    table = continuations([1, 1, 0, 1], [1, 0, NA], [NA])
    safety = continuation_safety(table)
    assert safety["value"].tolist()[:2] == [0.75, 0.5]
    assert np.isnan(safety["value"].iloc[2])
    assert safety["low"].iloc[0] == pytest.approx(0.301, abs=5e-4)
    assert safety["high"].iloc[0] == pytest.approx(0.954, abs=5e-4)
    assert safety["n"].tolist() == [4, 2, 0]
    assert safety["n_unknown"].tolist() == [0, 1, 1]
    assert safety["n_steps"].tolist() == [2, 2, 2]


def test_the_standard_error_is_at_most_what_the_docstring_says():
    shares = np.linspace(0, 1, 101)
    errors = np.sqrt(shares * (1 - shares) / 32)
    assert errors.max() == pytest.approx(0.0884, abs=5e-5)  # rounded up in the docstring
    assert errors.max() < 0.089


def test_after_the_whole_trace_stands_its_own_label():
    """Of the sources that have one; order of the sources as given."""
    table = pd.concat(
        [
            continuations([1, 0], [1, 1], source="z", prompt="q"),
            continuations([0, 0], [0, 0], [0, 1]),
        ]
    )
    safety = continuation_safety(table, {"z": True})
    assert safety["source"].tolist() == ["z"] * 3 + ["a"] * 3
    last = safety.iloc[2]
    assert (last["step"], last["n_steps"]) == (2, 1)
    assert (last["value"], last["low"], last["high"], last["n"]) == (1, 1, 1, 1)
    assert find_triggers(safety)["turn"].tolist() == [1, pd.NA]


def test_a_table_that_cannot_be_counted_is_named():
    table = continuations([1, 0])
    with pytest.raises(ValueError, match="no column is_safe"):
        continuation_safety(table.drop(columns="is_safe"))
    with pytest.raises(ValueError, match="'b' is the source of no row"):
        continuation_safety(table, {"b": True})
    with pytest.raises(ValueError, match="'a' was continued by 2 models"):
        continuation_safety(table.assign(model=["x", "y"]))


@pytest.mark.parametrize(
    ("values", "k", "expected"),
    [
        ([0.5, 0.6, 0.95, 0.97, 1], 1, 2),
        # It does not stay.
        ([0.5, 0.95, 0.6, 0.95, 0.95], 1, 3),
        ([0.5, 0.95, 0.6, 0.95, 0.95], 0, 1),
        ([0.5, 0.95, 0.95, 0.6, 0.9], 2, 4),
        # The range is cut at the end.
        ([0.5, 0.6, 0.9], 15, 2),
        ([0.5, 0.6, 0.8], 1, None),
        # Safe from the start: nothing turned it, unless it fell in between.
        ([0.95, 0.97, 1], 1, None),
        ([0.95, 0.5, 1, 1], 1, 2),
        ([1.0], 1, None),
        # On neither side.
        ([0.5, NA, 0.95, 0.97], 1, None),
        ([0.5, 0.95, NA, 0.97], 1, None),
        ([0.5, 0.95, NA, 0.5, 0.9, 1], 1, 4),
        # Nine of ten are not less than .9.
        ([0.5, 9 / 10, 0.9], 1, 1),
    ],
)
def test_a_trigger_is_where_a_thought_turns_safe_and_stays(values, k, expected):
    (turn,) = find_triggers(curve(*values), k=k)["turn"]
    assert turn is pd.NA if expected is None else turn == expected


@pytest.mark.parametrize(
    ("values", "k", "expected"),
    [
        ([0.5, 0.3, 0.08, 0.2, 0.05, 0], 1, 4),
        ([0.5, 0.3, 0.08, 0.2, 0.05, 0], 0, 2),
        ([0.5, 0.1, 0.1], 1, 1),
        ([0, 0, 0], 1, None),
    ],
)
def test_a_turning_point_is_where_a_thought_turns_unsafe(values, k, expected):
    (turn,) = turning_points(curve(*values), k=k)["turn"]
    assert turn is pd.NA if expected is None else turn == expected


def test_a_turning_point_is_a_trigger_of_the_opposite():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.integers(0, 11, 12) / 10
        down = turning_points(curve(*values), eta=0.3)["turn"]
        up = find_triggers(curve(*np.round(1 - values, 10)), mu=0.7)["turn"]
        assert down.equals(up)


def test_a_turn_has_the_numbers_around_it():
    (row,) = find_triggers(curve(0.5, 0.6, 0.95, 0.97, NA)).to_dict("records")
    assert (row["before"], row["value"], row["n_places"], row["n_unknown"]) == (0.6, 0.95, 5, 1)


def test_k_counts_steps_also_where_every_second_one_was_asked_for():
    """.9 at step 4; within one step of it nothing else was asked, within two there is .5."""
    sparse = curve(0.2, 0.5, 0.9, 0.5, 1, steps=[0, 2, 4, 6, 8])
    assert find_triggers(sparse, k=1)["turn"].tolist() == [4]
    assert find_triggers(sparse, k=2)["turn"].tolist() == [8]
    assert find_triggers(sparse.iloc[::-1], k=2)["turn"].tolist() == [8]  # in any order


def test_what_is_no_curve_is_named():
    with pytest.raises(ValueError, match="'a' has a step twice"):
        find_triggers(pd.concat([curve(0.5), curve(0.5)]))
    with pytest.raises(ValueError, match="steps from 0, got -1"):
        find_triggers(curve(0.5), k=-1)


def cues_and_turns(cues, turns, prompts=None):
    names = [f"s{number}" for number in range(len(cues))]
    prompts = prompts or names
    cue_table = pd.DataFrame({"source": names, "cue": pd.array(cues, "Int64")})
    turn_table = pd.DataFrame(
        {"source": names, "prompt_id": prompts, "turn": pd.array(turns, "Int64")}
    )
    return cue_against_turn(cue_table, turn_table)


def test_pearson_by_hand():
    """10 / sqrt(8 * 14)."""
    scatter = cues_and_turns([2, 4, 6], [3, 4, 8])
    assert scatter.pearson.value == pytest.approx(0.9449, abs=5e-5)
    assert (scatter.pearson.n, scatter.pearson.n_clusters) == (3, 3)
    assert scatter.pearson.low <= scatter.pearson.value <= scatter.pearson.high
    assert scatter.table["cue"].tolist() == [2, 4, 6]


def test_sources_without_one_of_the_two_are_counted():
    scatter = cues_and_turns([2, NA, 6, NA, 5], [3, 4, NA, NA, 6])
    assert (scatter.n_no_cue, scatter.n_no_turn, len(scatter.table)) == (1, 1, 2)


def test_pearson_is_that_of_numpy_and_does_not_see_where_counting_begins():
    rng = np.random.default_rng(1)
    cues = rng.integers(0, 30, 40)
    turns = cues + rng.integers(0, 9, 40)
    prompts = [f"p{number // 2}" for number in range(40)]
    scatter = cues_and_turns(cues, turns, prompts)
    assert scatter.pearson.value == pytest.approx(np.corrcoef(cues, turns)[0, 1])
    assert scatter.pearson.n_clusters == 20
    later = cues_and_turns(cues + 1000, turns, prompts)
    assert later.pearson.value == pytest.approx(scatter.pearson.value)


@pytest.mark.parametrize(("cues", "turns"), [([], []), ([3], [4]), ([3, 3, 3], [1, 2, 3])])
def test_without_variation_there_is_no_correlation(cues, turns):
    assert np.isnan(cues_and_turns(cues, turns).pearson.value)


def test_a_source_is_there_once():
    table = pd.DataFrame({"source": ["a", "a"], "cue": [1, 2]})
    with pytest.raises(ValueError, match="cues: a source occurs twice"):
        cue_against_turn(table, turning_points(curve(0.5, 0.1)))
