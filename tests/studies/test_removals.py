"""Patterns taken out of training data, against as many other rows."""

import pandas as pd
import pytest

from cotlens.plots import plot_removals
from cotlens.studies import removal_effects, removal_pairs

ARMS = ["base", "removed_a", "control_a", "removed_b"]


def samples(removed, control, seeds=(0,)):
    """Four forbidden prompts a seed, with these flags of an unsafe answer."""
    tables = []
    for seed in seeds:
        for arm, flags in (("removed_a", removed), ("control_a", control)):
            table = pd.DataFrame(
                {
                    "arm": arm,
                    "seed": seed,
                    "set": "forbidden",
                    "split": "seen",
                    "cluster": [f"{seed}:{number}" for number in range(4)],
                    "answer_unsafe": flags,
                }
            )
            tables.append(table)
    return pd.concat(tables, ignore_index=True)


def test_a_pattern_needs_both_arms():
    assert removal_pairs(ARMS) == {"a": ("removed_a", "control_a")}


def test_the_effect_by_hand():
    """Three of four unsafe in the control, one of four without the pattern: .75 - .25 = .5."""
    table = samples([True, False, False, False], [True, True, True, False])
    (row,) = removal_effects(table, removal_pairs(ARMS)).to_dict("records")
    assert (row["removed"], row["control"], row["value"]) == (0.25, 0.75, 0.5)
    assert (row["n_units"], row["units"]) == (4, "prompts")
    assert row["low"] <= 0.5 <= row["high"]


def test_from_three_seeds_on_seeds_are_paired():
    """Every seed has the same difference, so the interval has no width."""
    table = samples([True, False, False, False], [True, True, True, False], seeds=(0, 1, 2))
    (row,) = removal_effects(table, removal_pairs(ARMS)).to_dict("records")
    assert (row["value"], row["low"], row["high"], row["units"]) == (0.5, 0.5, 0.5, "seeds")


def test_arms_changed_places_turn_the_sign():
    table = samples([True, False, False, False], [True, True, True, False])
    turned = {"a": ("control_a", "removed_a")}
    (row,) = removal_effects(table, turned).to_dict("records")
    assert row["value"] == -0.5


def test_a_seed_that_one_arm_lacks_is_left_out():
    table = samples([True] * 4, [False] * 4, seeds=(0, 1))
    lacks = table[(table["seed"] == 0) | (table["arm"] == "control_a")]
    (row,) = removal_effects(lacks, removal_pairs(ARMS)).to_dict("records")
    assert (row["control"], row["removed"], row["n"]) == (0.0, 1.0, 8)


def test_an_arm_that_is_not_there():
    table = samples([True] * 4, [False] * 4)
    with pytest.raises(ValueError, match="b: no samples of arm 'removed_b'; there are control_a"):
        removal_effects(table, {"b": ("removed_b", "control_a")})


def test_the_figure_has_a_row_a_pattern():
    table = samples([True, False, False, False], [True, True, True, False])
    plot = plot_removals(removal_effects(table, removal_pairs(ARMS)))
    assert plot.data["pattern"].tolist() == ["a"]
    assert "n = 8 samples" in plot.figure.get_supxlabel()
