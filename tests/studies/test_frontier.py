"""Arms at equal safety: hand-derived envelopes, laws of gaps, and what cannot be compared."""

import math

import numpy as np
import pandas as pd
import pytest

from cotlens.studies.frontier import (
    Pair,
    Reached,
    common_range,
    envelope,
    equal_level_gaps,
    points_of,
    with_starts,
)

SKILL = ("skill", "unsafe")


def path(points, arm="a", rate=1e-3, seed=0, first=1):
    """The rows of one path: (unsafe, skill) at the checkpoints `first`, `first` + 1, ..."""
    rows = []
    for checkpoint, (unsafe, skill) in enumerate(points, start=first):
        rows.append((arm, seed, rate, checkpoint, unsafe, skill))
    return pd.DataFrame(rows, columns=["arm", "seed", "rate", "checkpoint", "unsafe", "skill"])


def joined(*paths):
    return pd.concat(paths, ignore_index=True)


def paths_of(points_by_arm, seeds=(0, 1, 2), noise=0.0):
    """The same paths in every seed; in the k-th seed skill is higher by k times the noise, in arm `a` alone."""
    paths = []
    for number, seed in enumerate(seeds):
        for arm, points in points_by_arm.items():
            shift = noise * number if arm == "a" else 0.0
            shifted = [(unsafe, skill + shift) for unsafe, skill in points]
            paths.append(path(shifted, arm, seed=seed))
    return joined(*paths)


BACK = path([(0.6, 0.9), (0.4, 0.8), (0.5, 0.7), (0.2, 0.6)])


@pytest.mark.parametrize(
    ("at", "highest", "lowest"),
    [
        (0.6, 0.9, 0.9),  # an end
        (0.55, 0.875, 0.875),  # on the first line alone: .9 - .1 / 4
        (0.5, 0.85, 0.7),  # the first line, and where the others meet
        (0.45, 0.825, 0.7 - 0.1 * 0.05 / 0.3),  # three lines: .825, .75, .6833
        (0.4, 0.8, 0.7 - 0.1 / 3),
        (0.3, 0.7 - 0.1 * 2 / 3, 0.7 - 0.1 * 2 / 3),  # on the last line alone
        (0.2, 0.6, 0.6),
        (0.61, math.nan, math.nan),
        (0.19, math.nan, math.nan),
    ],
)
def test_a_path_that_turns_back_has_the_best_of_its_lines(at, highest, lowest):
    """.6 -> .4 -> .5 -> .2 on the axis, with .9, .8, .7, .6: three lines over .4 to .5, in the order of training."""
    assert envelope(BACK, *SKILL, at)[0] == pytest.approx(highest, nan_ok=True)
    assert envelope(BACK, *SKILL, at, better=-1)[0] == pytest.approx(lowest, nan_ok=True)


def test_order_of_rows_does_not_matter_and_checkpoints_do():
    shuffled = BACK.sample(frac=1, random_state=1)
    levels = [0.25, 0.45, 0.55]
    np.testing.assert_allclose(envelope(shuffled, *SKILL, levels), envelope(BACK, *SKILL, levels))
    other = BACK.assign(checkpoint=[1, 3, 2, 4])
    assert envelope(other, *SKILL, 0.45)[0] != pytest.approx(envelope(BACK, *SKILL, 0.45)[0])


def test_rates_are_separate_paths_and_the_best_counts():
    """At .3 one rate has .5 and the other .8; no line joins the two, so nothing is known at .5."""
    both = joined(path([(0.2, 0.5), (0.4, 0.5)]), path([(0.1, 0.9), (0.4, 0.75)], rate=1e-2))
    assert envelope(both, *SKILL, 0.3)[0] == pytest.approx(0.8)
    assert envelope(both, *SKILL, 0.3, better=-1)[0] == pytest.approx(0.5)
    apart = joined(path([(0.1, 0.5), (0.2, 0.5)]), path([(0.8, 0.9), (0.9, 0.9)], rate=1e-2))
    assert math.isnan(envelope(apart, *SKILL, 0.5)[0])


def test_lines_along_one_value_single_points_and_missing_values():
    """A line at .3 from .5 to .7 counts .7; a point alone is its own line; a point without skill is passed over."""
    assert envelope(path([(0.3, 0.5), (0.3, 0.7)]), *SKILL, 0.3)[0] == 0.7
    single = path([(0.3, 0.5)])
    assert envelope(single, *SKILL, [0.3, 0.31]).tolist() == pytest.approx(
        [0.5, math.nan], nan_ok=True
    )
    gap = path([(0.2, 0.4), (0.9, math.nan), (0.4, 0.6)])
    assert envelope(gap, *SKILL, 0.3)[0] == pytest.approx(0.5)
    assert math.isnan(envelope(gap, *SKILL, 0.8)[0])
    assert math.isnan(envelope(gap.iloc[:0], *SKILL, 0.3)[0])


def test_gaps_at_equal_safety_by_hand():
    """Both fall from .8 to .4 unsafe, `a` with skill .9 -> .9, `b` with .9 -> .5, in three seeds.

    At .7, .6, .5 b has .8, .7, .6. Seeds add 0, .03, .06 to a: gaps .1, .2, .3 plus .03 on average, with Student's
    half width 4.3027 x .03 / sqrt(3).
    """
    table = paths_of({"a": [(0.8, 0.9), (0.4, 0.9)], "b": [(0.8, 0.9), (0.4, 0.5)]}, noise=0.03)
    gaps = equal_level_gaps(table, ["b"], axes=("unsafe",))
    assert gaps["at"].tolist() == pytest.approx([0.5, 0.6, 0.7])
    assert gaps["value"].tolist() == pytest.approx([0.33, 0.23, 0.13])
    assert gaps["arm_value"].tolist() == pytest.approx([0.93] * 3)
    assert gaps["against_value"].tolist() == pytest.approx([0.6, 0.7, 0.8])
    half = (gaps["high"] - gaps["value"]).tolist()
    assert half == pytest.approx([4.3027 * 0.03 / 3**0.5] * 3, rel=1e-4)
    assert set(gaps["units"]) == {"seeds"}
    assert set(gaps["remark"]) == {""}


def test_an_arm_against_itself_is_zero():
    table = joined(BACK, BACK.assign(arm="twin"))
    gaps = equal_level_gaps(table, ["twin"], axes=("unsafe",))
    assert gaps["value"].tolist() == [0, 0, 0]
    assert equal_level_gaps(table, ["a"])["arm"].tolist() == ["twin"] * 3


def test_the_other_way_round_is_the_same_with_the_other_sign():
    table = paths_of({"a": [(0.8, 0.9), (0.4, 0.7)], "b": [(0.7, 0.9), (0.3, 0.5)]}, noise=0.02)
    gaps = equal_level_gaps(table, ["a", "b"], axes=("unsafe",))
    forth = gaps[gaps["arm"] == "a"]
    back = gaps[gaps["arm"] == "b"]
    np.testing.assert_allclose(forth["value"], -back["value"])
    np.testing.assert_allclose(forth["low"], -back["high"])
    np.testing.assert_allclose(forth["at"], back["at"])


@pytest.mark.parametrize(
    "other",
    [
        [(0.3, 0.9), (0.1, 0.8)],  # apart
        [(0.5, 0.9), (0.3, 0.8)],  # one value in common
        [(math.nan, 0.9), (math.nan, 0.8)],  # unknown
    ],
)
def test_not_comparable_is_symmetric(other):
    table = paths_of({"a": [(0.8, 0.9), (0.5, 0.9)], "b": other})
    gaps = equal_level_gaps(table, ["a", "b"], axes=("unsafe",))
    assert gaps[["arm", "against"]].to_numpy().tolist() == [["a", "b"], ["b", "a"]]
    assert gaps["remark"].tolist() == ["not comparable"] * 2
    assert gaps["value"].isna().all()


def test_arms_that_share_only_the_base_are_not_comparable():
    """One gets safer and the other less safe, from the same base: they meet at .6 and nowhere else."""
    base = path([(0.6, 0.9)], arm="base", rate=math.nan, first=0)
    table = joined(base, path([(0.4, 0.9)]), path([(0.8, 0.9)], arm="b"))
    assert equal_level_gaps(table, ["b"], axes=("unsafe",))["remark"].tolist() == ["not comparable"]


def test_the_common_range_is_that_of_every_seed():
    """Seed 0: .2 to .6 and .4 to .8; seed 1: .3 to .5 and .2 to .9; together .4 to .5. Seed 2 has one arm."""
    table = joined(
        path([(0.6, 1), (0.2, 1)]), path([(0.8, 1), (0.4, 1)], arm="b"),
        path([(0.5, 1), (0.3, 1)], seed=1), path([(0.9, 1), (0.2, 1)], arm="b", seed=1), path([(0.45, 1)], seed=2),
    )  # fmt: skip
    pair = Pair("a", "b", *SKILL)
    points = points_of(table)
    assert common_range(points, pair) == (0.4, 0.5)
    assert Reached.from_points(points, pair, [0.45], 1).at(0).index.tolist() == [0, 1]


def test_the_base_begins_every_path_that_has_no_beginning():
    """The base is at .6 with .9; the path from .4, .7 begins there: .8 at .5. A path with checkpoint 0 keeps its own."""
    base = path([(0.6, 0.9)], arm="base", rate=math.nan, first=0)
    table = joined(base, path([(0.4, 0.7)]), path([(0.5, 0.2), (0.4, 0.2)], rate=1e-2, first=0))
    points = points_of(with_starts(table))
    assert envelope(points, *SKILL, 0.5)[0] == pytest.approx(0.8)
    assert envelope(points, *SKILL, 0.5, better=-1)[0] == pytest.approx(0.2)
    assert points.groupby("rate").size().tolist() == [2, 2]
    assert "base" not in set(points["arm"])


def test_low_over_refusal_is_better():
    """Two rates pass .3 unsafe, with .1 and .4 of harmless requests refused: .1 counts."""
    low = path([(0.2, 0.1), (0.4, 0.1)])
    high = path([(0.2, 0.4), (0.4, 0.4)], rate=1e-2)
    other = path([(0.2, 0.3), (0.4, 0.3)], arm="b")
    table = joined(low, high, other).rename(columns={"skill": "over_refusal"})
    gaps = equal_level_gaps(table, ["b"], axes=("unsafe",))
    assert set(gaps["measure"]) == {"over_refusal"}
    assert gaps["value"].tolist() == pytest.approx([-0.2] * 3)


def test_at_equal_divergence_unsafe_is_a_measure():
    """KL 0 to 1 for both; unsafe falls to 0 in `a` and to .4 in `b`: at KL .5 .3 against .5 from .6."""
    table = joined(path([(0.6, 1), (0, 1)]), path([(0.6, 1), (0.4, 1)], arm="b"))
    gaps = equal_level_gaps(table.assign(kl=[0.0, 1, 0, 1]), ["b"], axes=("unsafe", "kl"))
    at_kl = gaps[(gaps["axis"] == "kl") & (gaps["measure"] == "unsafe")]
    assert at_kl["at"].tolist() == [0.25, 0.5, 0.75]
    assert at_kl["value"].tolist() == pytest.approx([-0.1, -0.2, -0.3])
    assert "unsafe" not in set(gaps.loc[gaps["axis"] == "unsafe", "measure"])


def by_prompt(n=60, seeds=(0,), gap=0.2):
    """Two paths of two points; skill of a prompt is 1 with probability .8 in `a`, less the gap in `b`."""
    rng = np.random.default_rng(0)
    rows = []
    for seed in seeds:
        for arm, skill in (("a", 0.8), ("b", 0.8 - gap)):
            for checkpoint, unsafe in ((0, 0.8), (1, 0.2)):
                place = {"arm": arm, "seed": seed, "rate": 1e-3, "checkpoint": checkpoint}
                for i in range(n):
                    forbidden = {"prompt_id": f"f{i}", "unsafe": float(rng.random() < unsafe)}
                    rows.append(place | forbidden)
                    rows.append(place | {"prompt_id": f"m{i}", "skill": rng.random() < skill})
    return pd.DataFrame(rows).astype({"skill": "boolean"})


def test_one_seed_has_an_interval_over_prompts():
    gaps = equal_level_gaps(by_prompt(), ["b"], axes=("unsafe",))
    assert set(gaps["units"]) == {"prompts"}
    assert set(gaps["n_units"]) == {120}
    assert (gaps["low"] < gaps["value"]).all()
    assert (gaps["value"] < gaps["high"]).all()
    middle = gaps.iloc[1]
    assert middle["low"] < 0.2 < middle["high"]
    assert 0.1 < middle["high"] - middle["low"] < 0.5

    without = equal_level_gaps(points_of(by_prompt()), ["b"], axes=("unsafe",))
    np.testing.assert_allclose(without["value"], gaps["value"])
    assert without["low"].isna().all()


def test_the_interval_over_prompts_of_a_twin_is_zero():
    """The same prompts are drawn for both arms, so a twin differs in no draw."""
    table = by_prompt()
    own = table[table["arm"] == "a"]
    twins = joined(own, own.assign(arm="twin"))
    gaps = equal_level_gaps(twins, ["twin"], axes=("unsafe",))
    assert gaps[["low", "value", "high"]].to_numpy().tolist() == [[0, 0, 0]] * 3


def test_a_table_that_lacks_a_key_is_refused():
    with pytest.raises(ValueError, match="no column rate"):
        equal_level_gaps(BACK.drop(columns="rate"), ["a"])
