"""Figures of the claims: what they show, in which colours, and that they need their tables."""

import numpy as np
import pandas as pd
import pytest

from cotlens.plots.claims import plot_frontier, plot_recovery, spread_apart
from cotlens.plots.of_studies import draw_study
from cotlens.plots.study import FAMILY_COLOURS, FAMILY_MARKERS, arm_styles
from cotlens.plots.training import plot_training
from cotlens.studies.study import write_study

ARMS = ["base", "hindsight_sft", "filtered_sft", "grpo", "sft_grpo"]


def frontier(**columns):
    """The base at .6 unsafe, and each arm on its way to .2 at checkpoint 10, in two seeds."""
    rows = []
    for seed in (0, 1):
        rows.append(("base", seed, None, 0, 0.6, 0.8, 0.3))
        for arm in ARMS[1:]:
            rows.append((arm, seed, 1e-3, 10, 0.2, 0.9, 0.7))
    names = ["arm", "seed", "rate", "checkpoint", "unsafe", "skill", "recovery"]
    return pd.DataFrame(rows, columns=names).assign(**columns)


def test_a_frontier_runs_from_the_base_to_the_last_checkpoint():
    """Unsafe falls to the right; skill goes from .8 to .9 and is .85 half way."""
    plot = plot_frontier(frontier())
    skill = plot.data[(plot.data["arm"] == "grpo") & (plot.data["measure"] == "skill")]
    assert skill["unsafe"].iloc[[0, -1]].tolist() == pytest.approx([0.2, 0.6])
    assert skill["value"].iloc[[0, -1]].tolist() == pytest.approx([0.9, 0.8])
    assert np.interp(0.4, skill["unsafe"], skill["value"]) == pytest.approx(0.85)
    assert [axis.get_title(loc="left") for axis in plot.figure.axes] == ["Skill", "Recovery"]
    for axis in plot.figure.axes:
        assert axis.xaxis_inverted()
        names = {text.get_text() for text in axis.texts}
        assert {*ARMS, "better ↗"} <= names


def test_a_frontier_without_recovery_has_one_panel_and_without_measures_none():
    plot = plot_frontier(frontier(recovery=np.nan))
    assert len(plot.figure.axes) == 1
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_frontier(frontier(recovery=np.nan, skill=np.nan))
    with pytest.raises(ValueError, match="no column unsafe"):
        plot_frontier(frontier().drop(columns="unsafe"))


def measures(*names, arms=ARMS):
    rows = []
    for arm in arms:
        for name in names:
            rows.append((arm, name, "recovery, puzzles", 0.5, 0.4, 0.6, 9, 5, "seeds"))
    columns = ["arm", "measure", "label", "value", "low", "high", "n", "n_units", "units"]
    return pd.DataFrame(rows, columns=columns)


def test_recovery_has_a_row_an_arm_and_lines_for_base_and_chance():
    plot = plot_recovery(
        measures("recovers_puzzles", "goes_back_puzzles"), chance={"recovers_puzzles": 0.3}
    )
    right, back = plot.figure.axes
    assert right.get_title(loc="left") == "Right after an injected fault, puzzles"
    rows = [label.get_text() for label in right.get_yticklabels()]
    assert rows == ARMS[:0:-1]  # the first on top, and no row for the base
    assert {text.get_text() for text in right.texts} == {"base", "chance"}
    assert {text.get_text() for text in back.texts} == {"base"}
    with pytest.raises(ValueError, match="no measure of recovery"):
        plot_recovery(measures("is_correct_maths"))


def test_rl_and_sft_keep_two_families_of_colour_and_marker():
    """SFT and then RL is RL. The same arm has the same look whichever others of its family come after it."""
    styles = arm_styles(ARMS)
    for arm, family in (("hindsight_sft", "sft"), ("grpo", "rl"), ("sft_grpo", "rl"), ("base", "")):
        colour, marker = styles[arm]
        assert colour in FAMILY_COLOURS[family]
        assert marker in FAMILY_MARKERS[family]
    assert arm_styles([*ARMS, "grpo_2", "other_sft"])["filtered_sft"] == styles["filtered_sft"]
    colours = [set(colours) for colours in FAMILY_COLOURS.values()]
    assert not set.intersection(colours[0], colours[1])
    many = arm_styles([f"sft{i}" for i in range(20)])
    assert len(set(many.values())) == 20


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([], []),
        ([0.5], [0.5]),
        ([0.2, 0.6], [0.2, 0.6]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.5, 0.52, 0.54], [0.42, 0.52, 0.62]),
        ([0.3, 0.45, 0.45], [0.3, 0.4, 0.5]),  # the pair spreads to .4 and .5, and touches nobody
        ([0.36, 0.45, 0.45], [0.32, 0.42, 0.52]),  # it touches .36: all about their mean, .42
        ([1.0, 1.0], [0.9, 1.0]),  # none above the panel
    ],
)
def test_names_stand_apart(heights, expected):
    assert spread_apart(heights, 0.1) == pytest.approx(expected)


def test_panels_of_training_without_data_are_left_out():
    """Rewards that overflowed have no mean: no panel; nobody's tokens are known: no panel."""
    rollouts = pd.DataFrame({"arm": "grpo", "seed": 0, "step": range(4), "set": "forbidden"})
    rollouts = rollouts.assign(
        prompt_id=list("abcd"), thinking_unsafe=[1.0, 0, 1, 0], n_tokens=np.nan
    )
    updates = pd.DataFrame({"arm": "grpo", "seed": 0, "step": range(4), "reward": np.inf})
    plot = plot_training(rollouts, updates=updates)
    shown = [axis for axis in plot.figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in shown] == ["Unsafe thinking"]


def test_a_study_draws_what_it_has_tables_for(tmp_path):
    """Without the table of frontiers and without recovery there is no figure of claims; with them both, and the tables."""
    rows = []
    for seed in (0, 1, 2):
        for arm in ARMS:
            for i in range(20):
                rows.append((seed, arm, "puzzles", "s", f"p{i}", i % 2 == 0))
    names = ["seed", "arm", "set", "split", "prompt_id", "recovers"]
    samples = pd.DataFrame(rows, columns=names)
    flags = {"thinking_unsafe": None, "answer_unsafe": None}
    samples = samples.assign(n_steps=1, n_reflections=0, **flags)
    samples = samples.astype(dict.fromkeys(flags, "boolean"))
    info = {"arms": dict.fromkeys(ARMS, ""), "base": "base", "rl": "grpo", "sft": ARMS[1:3]}

    bare = samples.drop(columns="recovers")
    study = write_study(tmp_path / "bare", {"samples": bare}, info)
    assert not any("claims/" in str(path) for path in draw_study(study, tmp_path / "1", say=list))

    tables = {
        "samples": samples,
        "frontier": frontier(unsafe=[0.6] + [0.2] * 4 + [0.6] + [0.3] * 4),
    }
    study = write_study(tmp_path / "full", tables, info | {"chance": {"recovers_puzzles": 1 / 3}})
    cost = pd.DataFrame({"arm": ["grpo"] * 2, "seed": [0, 1], "guard_calls": [10, 30]})
    cost.to_csv(study.path / "cost.csv", index=False)
    paths = draw_study(study, tmp_path / "2", say=list)
    drawn = {path.relative_to(tmp_path / "2").as_posix() for path in paths}
    assert {"claims/frontier.png", "claims/recovery.png", "equal_levels.csv"} <= drawn
    gaps = pd.read_csv(tmp_path / "2" / "equal_levels.csv")
    assert set(gaps["against"]) == {"grpo"}
    assert set(gaps["value"]) == {0}  # all arms are alike
    costs = pd.read_csv(tmp_path / "2" / "cost_by_arm.csv")
    assert costs["guard_calls"].tolist() == [20]
