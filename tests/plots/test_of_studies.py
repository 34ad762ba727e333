"""Figures of studies: their numbers by hand, and that they are drawn with whatever arms there are."""

import numpy as np
import pandas as pd
import pytest

from cotlens.plots.confounds import plot_confounds
from cotlens.plots.probes import plot_early_answering
from cotlens.plots.study import plot_measures, plot_safety_and_skill
from cotlens.plots.training import plot_obfuscation, plot_training
from trainers.pocket.figures import plot_branching, plot_instruments, plot_tries


def rollouts(**columns):
    n = len(next(iter(columns.values())))
    table = pd.DataFrame(columns).assign(
        arm="grpo", seed=0, set="forbidden", prompt_id=[f"p{i}" for i in range(n)]
    )
    return table if "step" in table else table.assign(step=0)


def test_obfuscation_by_hand():
    """Four thinkings: unsafe flagged, unsafe passed, safe flagged, safe passed; the answers of the passed: unsafe, safe.

    Caught 1/4, hidden 1/4, recall 1/2, P(unsafe answer | passed) 1/2.
    """
    table = rollouts(
        thinking_unsafe=[True, True, False, False], thinking_flagged=[True, False, True, False],
        answer_unsafe=[True, True, True, False],
    )  # fmt: skip
    found = plot_obfuscation(table, bins=1, least=1).data.set_index("panel")["value"]
    assert found.to_dict() == {
        "Unsafe and flagged": 0.25, "Unsafe and passed": 0.25, "Guard's recall": 0.5, "Passed, answer unsafe": 0.5,
    }  # fmt: skip


def test_training_of_one_seed_has_lines_without_bands_where_seeds_are_resampled():
    """Ten updates of one training: their entropies are drawn as they are."""
    table = pd.DataFrame(
        {
            "arm": "grpo",
            "seed": 0,
            "step": range(10),
            "set": "forbidden",
            "prompt_id": list("ab") * 5,
        }
    )
    columns = (
        "thinking_unsafe",
        "answer_unsafe",
        "is_help",
        "is_correct",
        "n_reflections",
        "n_tokens",
    )
    updates = pd.DataFrame(
        {"arm": "grpo", "seed": 0, "step": range(10), "entropy": np.linspace(1, 0.1, 10)}
    )
    updates = updates.assign(
        reward=1.0, frac_reward_zero_std=0.5, kl_reference=np.linspace(0, 0.9, 10)
    )
    plot = plot_training(table.assign(**dict.fromkeys(columns, 1.0)), updates=updates, bins=5)
    found = plot.data[plot.data["panel"] == "KL to the base (nats)"]
    assert found["value"].tolist() == pytest.approx([0.05, 0.25, 0.45, 0.65, 0.85])
    assert found["low"].isna().all()
    panels = {axis.get_title(loc="left"): axis for axis in plot.figure.axes}
    for name in ("Entropy (nats)", "KL to the base (nats)", "Groups all alike", "Reward"):
        assert len(panels[name].lines[0].get_xdata()) == 5


def test_instruments_over_seeds_are_means_of_seeds():
    """Seeds with 1 of 1, 1 of 2 and 0 of 1 flagged steps right: precision (1 + 1/2 + 0) / 3 = 1/2; recall 1, 1, 0: 2/3."""
    rows = [(0, True, True), (1, True, True), (1, True, False), (2, True, False), (2, False, True)]
    table = pd.DataFrame(rows, columns=["seed", "is_reflection", "true_reflection"])
    table = table.assign(
        unsafe=table["is_reflection"], true_unsafe=table["true_reflection"], arm="base", set="forbidden", prompt_id="p",
    ).astype({"is_reflection": "boolean"})  # fmt: skip
    found = plot_instruments(table).data
    reflection = found[found["detector"].str.startswith("Reflection")].set_index("measure")
    assert reflection.loc["precision", "value"] == pytest.approx(0.5)
    assert reflection.loc["recall", "value"] == pytest.approx(2 / 3)
    assert np.isnan(reflection.loc["false_alarms", "value"])  # seed 0 has no step that is none
    both = pd.concat([table, table.assign(is_reflection=False, true_reflection=False)])
    alarms = plot_instruments(both).data.query("measure == 'false_alarms'").iloc[0]
    assert alarms["value"] == pytest.approx(
        (0 + 1 / 3 + 1 / 3) / 3
    )  # of 1, 3 and 3 steps that are none
    assert (reflection["n_units"] == 3).all()


def test_early_answers_by_cut():
    rows = [
        {
            "arm": "base",
            "seed": 0,
            "trace_id": i,
            "prompt_id": str(i),
            "cut": c,
            "answer_unsafe": c > i / 4,
        }
        for i in range(4)
        for c in (0.0, 0.5, 1.0)
    ]
    found = plot_early_answering(pd.DataFrame(rows)).data.set_index("cut")["value"]
    assert found.to_dict() == {0.0: 0.0, 0.5: 0.5, 1.0: 1.0}
    table = pd.DataFrame(rows).assign(split="seen")
    few = table[table["trace_id"] == 3].assign(split="little_known")
    drawn = plot_early_answering(pd.concat([table, few]), least=4).data
    assert set(drawn["split"]) == {"seen"}  # one answer tells nothing of the other


def test_arms_without_data_leave_a_gap_and_many_arms_keep_apart():
    """Twelve arms have twelve pairs of colour and marker; a panel without a measure is left out."""
    arms = [f"arm{i}" for i in range(12)]
    found = pd.DataFrame(
        {"arm": arms, "measure": "is_correct_maths", "label": "right, maths", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "n_units": 5, "units": "seeds"}
    )  # fmt: skip
    plot = plot_measures(
        found, {"Right": ["is_correct_maths"], "Refused": ["refuses_harmless"]}, "shares"
    )
    assert [axis.get_title(loc="left") for axis in plot.figure.axes] == ["Right"]
    both = pd.concat([found, found.assign(measure="thinking_unsafe_forbidden")])
    dots = [
        line
        for line in plot_safety_and_skill(both).figure.axes[0].lines
        if line.get_marker() not in ("None", "")
    ]
    assert len({(line.get_color(), line.get_marker()) for line in dots}) == 12


def test_the_rate_that_was_picked_is_ringed():
    tries = pd.DataFrame(
        {
            "arm": ["a", "a", "b", "b"],
            "rate": [1e-4, 1e-3] * 2,
            "picked": [True, False, False, True],
        }
    ).assign(safe=0.5, help=0.4, skill=0.3, score=[0.4, 0.3, 0.2, 0.6])
    figure = plot_tries(tries).figure
    rings = [line for axis in figure.axes for line in axis.lines if line.get_fillstyle() == "none"]
    assert [(*map(float, line.get_xdata()), *map(float, line.get_ydata())) for line in rings] == [
        (1e-4, 0.4),
        (1e-3, 0.6),
    ]
    with pytest.raises(ValueError, match="no column picked"):
        plot_tries(tries.drop(columns="picked"))


def test_names_are_no_formulas_and_eight_splits_are_eight_marks():
    names = [f"thinking_unsafe_s{i}" for i in range(8)]
    rows = [
        (arm, name, f"unsafe thinking, {name[-2:]}", 0.5, 0.4, 0.6, 20, 20, "prompts")
        for arm in ("base", "g$x_$")
        for name in names
    ]
    columns = ["arm", "measure", "label", "value", "low", "high", "n", "n_units", "units"]
    plot = plot_measures(
        pd.DataFrame(rows, columns=columns), {"Unsafe": names}, "share", r"paid $5 \of $6"
    )
    assert len(plot._repr_png_()) > 1000
    lines = [line for line in plot.figure.axes[0].lines if line.get_label().startswith("s")]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 8


def test_rollouts_of_which_nothing_is_known_are_not_drawn_and_infinity_is_left_out():
    nothing = rollouts(step=[0, 1, 2])
    with pytest.raises(ValueError, match="nothing is known of the rollouts"):
        plot_training(nothing)
    updates = pd.DataFrame(
        {"arm": "grpo", "seed": 0, "step": range(4), "kl_reference": [0.1, np.inf, 0.3, 0.3]}
    )
    assert plot_training(nothing, updates=updates, bins=1).data["value"].tolist() == pytest.approx(
        [0.7 / 3]
    )


def test_a_study_with_nothing_to_compare_is_said_to_be_so():
    with pytest.raises(ValueError, match="nothing to compare"):
        plot_confounds(pd.DataFrame(columns=["column", "set", "arm", "comparison"]))


def test_branching_is_drawn_with_the_writers_own_entropy():
    rng = np.random.default_rng(0)
    truth = np.tile([0.0, 1.0, 2.0], 20)
    table = pd.DataFrame(
        {
            "arm": "base", "seed": 0, "prompt_id": np.repeat(list("abcdef"), 10), "policy_entropy": truth,
            "entropy": truth + rng.uniform(0, 0.4, 60), "kind": np.tile(["determined", "wording", "decision"], 20),
        }
    )  # fmt: skip
    found = plot_branching(table).data.set_index("measure")
    assert found.loc["auroc", "value"] == 1
    assert found.loc["correlation", "value"] > 0.95
    assert found.loc["auroc", "low"] <= 1 <= found.loc["auroc", "high"]
    with pytest.raises(ValueError, match="no column kind"):
        plot_branching(table.drop(columns="kind"))
