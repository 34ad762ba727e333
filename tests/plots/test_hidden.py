"""The figure of hidden states: made-up states, those of tiny models, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from tiny import WORDS, tiny_model, tiny_tokenizer

from cotlens.measures import distance_table, fit_boundary, project, shift_table
from cotlens.models.load import wrap_model
from cotlens.plots import plot_hidden_states
from cotlens.plots.hidden import _ellipse
from cotlens.plots.study import FAMILY_COLOURS
from cotlens.plots.style import save
from cotlens.probes import prompt_states

DOMAINS = ["forbidden"] * 12 + ["harmless"] * 12 + ["maths"] * 12
PROMPTS = [f"p{number}" for number in range(36)]


def made_up(arms, seed=0):
    """Three clouds a model, in five dimensions; each arm is moved along the first by its number."""
    rng = np.random.default_rng(seed)
    centres = np.repeat([[4.0, 0], [0, 4], [-4, 0]], 12, axis=0)
    states = {}
    for number, arm in enumerate(arms):
        cloud = rng.normal(size=(36, 5))
        cloud[:, :2] += centres
        cloud[:, 0] += number
        states[arm] = cloud
    return states


def tables(states, base="base"):
    domains = np.array(DOMAINS)
    is_fitted = domains != "harmless"
    keys = [key for key, is_in in zip(PROMPTS, is_fitted, strict=True) if is_in]
    boundary = fit_boundary(states[base][is_fitted], domains[is_fitted] == "forbidden", keys)
    distances = distance_table(boundary, states, DOMAINS, PROMPTS)
    return project(states, DOMAINS, PROMPTS), shift_table(distances, base), boundary


def test_the_figure_shows_the_numbers_of_its_tables():
    projection, shifts, boundary = tables(made_up(["base", "grpo", "hindsight_sft"]))
    plot = plot_hidden_states(projection, shifts, boundary, "base", "made-up")
    left, right = plot.figure.axes
    pd.testing.assert_frame_equal(plot.data[list(shifts)], shifts)
    assert_allclose(plot.data[["x", "y"]], projection.centroids[["x", "y"]])

    # An arrow from the base's mean to the arm's for each of two arms and three domains.
    arrows = [text for text in left.texts if text.arrow_patch]
    ends = {tuple(np.round([*arrow.xyann, *arrow.xy], 9)) for arrow in arrows}
    expected = set()
    by_group = plot.data.set_index(["model", "domain"])
    for arm in ("grpo", "hindsight_sft"):
        for domain in ("forbidden", "harmless", "maths"):
            points = [by_group.loc[(name, domain), ["x", "y"]] for name in ("base", arm)]
            expected.add(tuple(np.round(np.concatenate(points).astype(float), 9)))
    assert ends == expected

    # Names in both panels, colours by family, the boundary at zero.
    assert {text.get_text() for text in left.texts} >= {"forbidden", "harmless", "maths"}
    labels = {label.get_text(): label.get_color() for label in right.get_yticklabels()}
    assert list(labels) == ["hindsight_sft", "grpo", "base"]
    assert labels["grpo"] in FAMILY_COLOURS["rl"]
    assert labels["hindsight_sft"] in FAMILY_COLOURS["sft"]
    assert any(set(line.get_xdata()) == {0} for line in right.lines)
    assert "60" not in plot.figure.get_supxlabel()
    assert "12 forbidden, 12 harmless, 12 maths" in plot.figure.get_supxlabel()


@pytest.mark.parametrize(
    ("covariance", "expected"),
    [
        ((4, 1, 0), (4, 2)),  # two standard deviations of 2 and of 1
        ((5, 5, 4), (2 * 5**0.5, 2 * 5**0.5)),  # correlated: the same extent along each axis
        ((4, 0, 0), (4, 0)),  # on a line
    ],
)
def test_ellipses_are_two_standard_deviations(covariance, expected):
    """The extent of c + 2 S^(1/2) u along an axis is two standard deviations of that axis."""
    row = dict(zip(("var_x", "var_y", "cov_xy"), covariance, strict=True)) | {"x": 1, "y": -1}
    outline = _ellipse(row)
    assert_allclose(outline.max(axis=1) - [1, -1], expected, atol=5e-3)
    assert_allclose(outline.mean(axis=1), [1, -1], atol=0.05)


@pytest.mark.parametrize(
    "arms", [["base"], ["base", "same"], ["base", *(f"grpo_{number}" for number in range(8))]]
)
def test_any_number_of_arms_is_drawn(arms, tmp_path):
    """The base alone; an arm that did not move at all; nine models."""
    states = made_up(arms)
    if "same" in states:
        states["same"] = states["base"].copy()
    paths = save(plot_hidden_states(*tables(states), "base"), tmp_path / "figure")
    assert all(path.stat().st_size for path in paths)


def test_states_of_tiny_models_are_drawn():
    """From prompts to the figure: two networks of one tokenizer."""
    tokenizer = tiny_tokenizer()
    prompts = [f"{first} {second}" for first in WORDS[:6] for second in WORDS[:6]]
    states = {}
    for seed, arm in enumerate(["base", "grpo"]):
        model = wrap_model(tiny_model(len(tokenizer), seed=seed), tokenizer)
        states[arm] = prompt_states(model, prompts)
    plot = plot_hidden_states(*tables(states), "base")
    assert plot.data["n"].tolist() == [12] * 6
    assert plot.data.loc[plot.data["model"] == "grpo"].notna().all(axis=None)


def test_the_order_is_that_of_the_base_and_then_of_the_table():
    projection, shifts, boundary = tables(made_up(["b_sft", "base", "a_sft"]))
    plot = plot_hidden_states(projection, shifts, boundary, "base")
    labels = [label.get_text() for label in plot.figure.axes[1].get_yticklabels()]
    assert labels == ["a_sft", "b_sft", "base"]


def test_what_is_refused():
    projection, shifts, boundary = tables(made_up(["base", "grpo"]))
    with pytest.raises(ValueError, match="there is no base 'bose'; the models are base, grpo"):
        plot_hidden_states(projection, shifts, boundary, "bose")
    with pytest.raises(ValueError, match="grpo, domain 'maths': expected it in the projection and"):
        plot_hidden_states(projection, shifts.iloc[:-1], boundary, "base")
    many = made_up(["base"])
    projection = project(many, [f"d{number // 4}" for number in range(36)])
    distances = distance_table(boundary, many, projection.points["domain"].tolist(), PROMPTS)
    with pytest.raises(ValueError, match="got 9 domains, expected at most 7"):
        plot_hidden_states(projection, shift_table(distances, "base"), boundary, "base")
