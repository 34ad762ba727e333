"""Distances by hand, the laws of boundary and projection, and what is refused."""

import math

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.spatial.distance import pdist

from cotlens.measures import (
    Boundary,
    Plane,
    distance_table,
    fit_boundary,
    held_out_distances,
    project,
    shift_table,
    signed_distances,
)
from cotlens.stats import Estimate

UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0, 0, "")


def boundary_of(weights, intercept, mean=None, scale=None):
    weights = np.array(weights, float)
    mean = np.zeros(len(weights)) if mean is None else np.array(mean, float)
    scale = np.ones(len(weights)) if scale is None else np.array(scale, float)
    return Boundary(Plane(weights, intercept, mean, scale), UNKNOWN, 2, 2)


def clusters(n=20, d=6, gap=6.0, seed=0):
    """n harmful and n reasoning states, `gap` apart along the first coordinate."""
    rng = np.random.default_rng(seed)
    is_harmful = np.arange(2 * n) < n
    states = rng.normal(size=(2 * n, d)) * np.linspace(0.5, 3, d)
    states[:, 0] += gap * is_harmful
    return states, is_harmful


def rotation(d, seed=1):
    """A random orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


# The boundary.


def test_distances_by_hand():
    """w = (3, 4), b = -5: (1, 1) has (3 + 4 - 5)/5 = .4, (2, 3) has (6 + 12 - 5)/5 = 2.6; the shift is 2.2."""
    boundary = boundary_of([3, 4], -5)
    first, second = signed_distances(boundary, [[1, 1], [2, 3]])
    assert first == pytest.approx(0.4)
    assert second == pytest.approx(2.6)
    assert second - first == pytest.approx(2.2)
    # Standardised with mean (1, 2) and scale (2, .5): (3, 2.5) is z = (1, 1).
    moved = boundary_of([3, 4], -5, [1, 2], [2, 0.5])
    assert signed_distances(moved, [[3, 2.5]])[0] == pytest.approx(0.4)


def test_shift_by_hand():
    """One boundary, two prompts: base (1, 1) and (0, 0), arm (2, 3) and (0, 1.25): .4, -1 to 2.6, 0: mean -.3 to 1.3, shift 1.6."""
    boundary = boundary_of([3, 4], -5)
    states = {"base": [[1, 1], [0, 0]], "arm": [[2, 3], [0, 1.25]]}
    distances = distance_table(boundary, states, ["forbidden"] * 2, ["p", "q"])
    table = shift_table(distances, "base").set_index("model")
    assert table.loc["base", "distance"] == pytest.approx(-0.3)
    assert table.loc["arm", "distance"] == pytest.approx(1.3)
    assert table.loc["arm", "shift"] == pytest.approx(1.6)
    assert table.loc["arm", "n"] == 2
    assert math.isnan(table.loc["base", "shift"])
    assert table.index.tolist() == ["base", "arm"]


def test_shifts_are_paired_by_prompt():
    """Prompts that differ by ten move by exactly one: the interval of the shift has no width, those of the distances have."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(30, 1)) * 10
    distances = distance_table(
        boundary_of([1], 0), {"base": base, "arm": base + 1}, ["a"] * 30, range(30)
    )
    arm = shift_table(distances, "base").set_index("model").loc["arm"]
    assert arm["shift"] == pytest.approx(1)
    assert arm["shift_high"] - arm["shift_low"] == pytest.approx(0, abs=1e-9)
    assert arm["high"] - arm["low"] > 4


def test_the_mean_distance_is_that_of_the_centroid():
    states, is_harmful = clusters()
    boundary = fit_boundary(states, is_harmful)
    of_centroid = signed_distances(boundary, [states.mean(axis=0)])[0]
    assert signed_distances(boundary, states).mean() == pytest.approx(of_centroid)


@pytest.mark.parametrize(("n", "d", "scale"), [(40, 3, True), (15, 60, True), (40, 3, False)])
def test_the_boundary_is_that_of_scikit_learn(n, d, scale):
    """StandardScaler and LogisticRegression with C = 1; fewer and more coordinates than states."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    states, is_harmful = clusters(n, d, gap=1.0)
    scaler = preprocessing.StandardScaler(with_std=scale).fit(states)
    expected = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=100_000)
    expected.fit(scaler.transform(states), is_harmful)
    plane = fit_boundary(states, is_harmful, scale=scale).plane
    assert_allclose(plane.weights, expected.coef_[0], rtol=1e-4, atol=1e-5)
    assert plane.intercept == pytest.approx(expected.intercept_[0], abs=1e-4)
    assert_allclose(plane.mean, scaler.mean_)
    assert_allclose(plane.scale, scaler.scale_ if scale else 1)


def test_the_fit_has_no_slope():
    """At the minimum the gradient is zero: sum y s(-m) z = l2 w, and the residuals sum to zero."""
    states, is_harmful = clusters(gap=1.0)
    plane = fit_boundary(states, is_harmful, l2=0.5).plane
    z = (states - plane.mean) / plane.scale
    p = 1 / (1 + np.exp(-(z @ plane.weights + plane.intercept)))
    residuals = is_harmful - p
    assert residuals.sum() == pytest.approx(0, abs=1e-4)
    assert_allclose(residuals @ z, 0.5 * plane.weights, atol=1e-4)


def test_separable_clusters_are_told_apart():
    states, is_harmful = clusters(gap=30)
    boundary = fit_boundary(states, is_harmful)
    assert boundary.accuracy.value == 1
    assert boundary.accuracy.n == 40
    assert 0.9 < boundary.accuracy.low < 1
    assert (boundary.n_harmful, boundary.n_reasoning, len(boundary.fold_planes)) == (20, 20, 5)
    assert ((signed_distances(boundary, states) > 0) == is_harmful).all()


def test_random_labels_have_the_accuracy_of_a_coin():
    """40 sets of 60 states in 100 dimensions, where every boundary fits: the mean is .5, and most intervals hold it."""
    rng = np.random.default_rng(0)
    accuracies = []
    covered = 0
    for _ in range(40):
        states = rng.normal(size=(60, 100))
        is_harmful = rng.permutation(np.arange(60) % 2 == 0)
        accuracy = fit_boundary(states, is_harmful).accuracy
        accuracies.append(accuracy.value)
        covered += accuracy.low <= 0.5 <= accuracy.high
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.04)
    assert covered >= 34


def test_rows_of_a_prompt_stay_in_one_fold():
    """Ten prompts of a class, four nearly equal rows each, labels at random: without their keys rows would give each other away."""
    rng = np.random.default_rng(3)
    prompts = np.repeat(np.arange(20), 4)
    centres = rng.normal(size=(20, 200))
    states = centres[prompts] + 0.01 * rng.normal(size=(80, 200))
    is_harmful = (prompts % 2).astype(bool)
    apart = fit_boundary(states, is_harmful)
    grouped = fit_boundary(states, is_harmful, prompts)
    assert apart.accuracy.value == 1
    assert grouped.accuracy.value < 0.8
    assert grouped.accuracy.n_clusters == 20
    sizes = pd.Series(grouped.fold_of).value_counts()
    assert sizes.tolist() == [4] * 5


def test_folds_have_like_shares_of_both_classes():
    """Eight harmful and twelve reasoning prompts in four folds: two and three each."""
    states, _ = clusters(10)
    keys = [f"p{number}" for number in range(20)]
    is_harmful = np.arange(20) < 8
    boundary = fit_boundary(states, is_harmful, keys, folds=4)
    table = pd.DataFrame(
        {"fold": pd.Series(boundary.fold_of)[keys].to_numpy(), "harmful": is_harmful}
    )
    counts = table.groupby("fold")["harmful"].agg(["sum", "size"])
    assert counts.to_numpy().tolist() == [[2, 5]] * 4
    # A class of three prompts makes three folds.
    assert len(fit_boundary(states, np.arange(20) < 3).fold_planes) == 3


def test_rotation_changes_no_distance_without_scaling():
    """The laws of plain L2: a rotation with scale=False; another unit of each coordinate with scale=True."""
    states, is_harmful = clusters(gap=2.0)
    turned = states @ rotation(6)
    plain = fit_boundary(states, is_harmful, scale=False)
    rotated = fit_boundary(turned, is_harmful, scale=False)
    distances = signed_distances(plain, states)
    assert_allclose(signed_distances(rotated, turned), distances, atol=1e-4)

    units = states * [1, 10, 0.1, -3, 1000, 1] + 7
    scaled = signed_distances(fit_boundary(states, is_harmful), states)
    other = signed_distances(fit_boundary(units, is_harmful), units)
    assert_allclose(other, scaled, atol=1e-4)

    # With scaling a rotation does change them.
    turned_scaled = signed_distances(fit_boundary(turned, is_harmful), turned)
    assert np.abs(turned_scaled - scaled).max() > 0.05


def test_classes_exchanged_change_the_sign():
    states, is_harmful = clusters(gap=2.0)
    distances = signed_distances(fit_boundary(states, is_harmful), states)
    exchanged = signed_distances(fit_boundary(states, ~is_harmful), states)
    assert_allclose(exchanged, -distances, atol=1e-4)


def test_a_coordinate_that_does_not_vary_changes_nothing():
    states, is_harmful = clusters(gap=2.0)
    wider = np.column_stack([states, np.full(40, 0.1)])
    distances = signed_distances(fit_boundary(states, is_harmful), states)
    assert_allclose(signed_distances(fit_boundary(wider, is_harmful), wider), distances, atol=1e-5)


# Held-out distances.


def test_an_arm_that_did_not_move_has_no_shift():
    """200 prompts in 1,000 dimensions; the arm has the base's distribution, each state with fresh noise.

    Measured from the boundary that has seen them, the base's harmful prompts lie too far out, so the
    arm seems to have moved towards the boundary; with the prompts' keys it does not.
    """
    rng = np.random.default_rng(0)
    is_harmful = np.arange(200) < 100
    signal = np.where(is_harmful, 1.5, -1.5)[:, None] * np.eye(1000)[0]
    noise = rng.normal(size=(200, 1000))
    fresh = 0.9 * noise + math.sqrt(1 - 0.81) * rng.normal(size=(200, 1000))
    states = {"base": signal + noise, "arm": signal + fresh}
    domains = np.where(is_harmful, "forbidden", "maths")
    prompts = [f"p{number}" for number in range(200)]

    shifts = {}
    for name, keys in {"seen": None, "held out": prompts}.items():
        boundary = fit_boundary(states["base"], is_harmful, keys)
        table = shift_table(distance_table(boundary, states, domains, prompts), "base")
        arm = table[table["model"] == "arm"].set_index("domain")
        shifts[name] = arm.loc["forbidden"]
    assert shifts["seen"]["shift_high"] < 0
    assert shifts["held out"]["shift_low"] < 0 < shifts["held out"]["shift_high"]


def test_held_out_distances_are_those_of_the_fold():
    """By the folds' own planes; a prompt that no boundary has seen is measured from the whole."""
    states, is_harmful = clusters()
    keys = [f"p{number}" for number in range(40)]
    boundary = fit_boundary(states, is_harmful, keys)
    distances = held_out_distances(boundary, states, keys)
    for key, state, distance in zip(keys, states, distances, strict=True):
        plane = boundary.fold_planes[boundary.fold_of[key]]
        assert distance == pytest.approx(plane.distances(state[None])[0])
    fresh = held_out_distances(boundary, states, [f"q{number}" for number in range(40)])
    assert_allclose(fresh, signed_distances(boundary, states))

    # The accuracy is that of these distances.
    is_right = (distances > 0) == is_harmful
    assert boundary.accuracy.value == pytest.approx(is_right.mean())


# The picture.


def test_projection_by_hand():
    """Four points of a cross, (2, 0), (-2, 0), (0, 1), (0, -1): already their own components, 8/10 and 2/10 of the variance."""
    cross = [[2, 0, 5], [-2, 0, 5], [0, 1, 5], [0, -1, 5]]
    projection = project({"m": cross}, list("aabb"), scale=False)
    assert projection.explained == pytest.approx((0.8, 0.2))
    points = projection.points[["x", "y"]].abs().to_numpy()
    assert_allclose(points, [[2, 0], [2, 0], [0, 1], [0, 1]], atol=1e-7)
    centroids = projection.centroids.set_index("domain")
    assert_allclose(centroids[["x", "y", "cov_xy"]], 0, atol=1e-7)
    assert centroids.loc["a", "var_x"] == pytest.approx(8)  # (4 + 4) / (2 - 1)
    assert centroids.loc["b", "var_y"] == pytest.approx(2)
    assert centroids["n"].tolist() == [2, 2]
    # Scaled, both coordinates weigh the same.
    assert project({"m": cross}, list("aabb")).explained == pytest.approx((0.5, 0.5))


def test_projection_is_that_of_scikit_learn():
    """StandardScaler and PCA fitted on both models together, up to the components' signs."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    preprocessing = pytest.importorskip("sklearn.preprocessing")
    base, _ = clusters(d=30)
    arm, _ = clusters(d=30, seed=1)
    joined = preprocessing.StandardScaler().fit_transform(np.concatenate([base, arm]))
    pca = decomposition.PCA(2, svd_solver="full").fit(joined)
    projection = project({"base": base, "arm": arm}, ["a"] * 20 + ["b"] * 20)
    assert projection.explained == pytest.approx(tuple(pca.explained_variance_ratio_))
    expected = np.abs(pca.transform(joined))
    assert_allclose(projection.points[["x", "y"]].abs(), expected, atol=1e-6)
    assert projection.points["model"].cat.categories.tolist() == ["base", "arm"]


def test_rotated_states_have_the_same_distances_between_points():
    base, _ = clusters()
    arm, _ = clusters(seed=1)
    turn = rotation(6)
    domains = ["a"] * 20 + ["b"] * 20
    straight = project({"base": base, "arm": arm}, domains, scale=False)
    turned = project({"base": base @ turn, "arm": arm @ turn}, domains, scale=False)
    assert_allclose(pdist(turned.points[["x", "y"]]), pdist(straight.points[["x", "y"]]), atol=1e-6)
    assert turned.explained == pytest.approx(straight.explained)


def test_states_along_a_line_have_one_component():
    states = np.outer(np.arange(6.0), [1, 2, 3])
    projection = project({"m": states}, ["a"] * 6)
    assert projection.explained == pytest.approx((1, 0))
    assert_allclose(projection.points["y"], 0, atol=1e-5)


# What is refused.

STATES, IS_HARMFUL = clusters(4, 2)
MIXED = ["p", *map(str, range(6)), "p"]


def with_nan():
    states = STATES.copy()
    states[3, 1] = math.nan
    return states


@pytest.mark.parametrize(
    ("states", "flags", "options", "message"),
    [
        (with_nan(), IS_HARMFUL, {}, "the states: 1 rows are not finite, the first is row 3"),
        (STATES * math.inf, IS_HARMFUL, {}, "8 rows are not finite"),
        (STATES, [True] * 8, {}, "8 harmful and 0 reasoning prompts; a boundary needs two or more"),
        (STATES, [False] * 8, {}, "0 harmful and 8 reasoning prompts"),
        (STATES, [True] + [False] * 7, {}, "1 harmful and 7 reasoning prompts"),
        (STATES, IS_HARMFUL, {"prompts": MIXED}, "prompt 'p' is harmful in one row and not in another"),
        (STATES, IS_HARMFUL, {"prompts": [None] * 8}, "row 0 has no prompt"),
        (STATES, IS_HARMFUL, {"prompts": ["a"]}, "8 states but 1 prompts"),
        (STATES, IS_HARMFUL[:3], {}, "8 states but flags of the shape"),
        (STATES, [None] * 8, {}, "true or false for each state, got None"),
        (STATES, [0.5] * 8, {}, "true or false for each state, got 0.5"),
        (STATES[0], IS_HARMFUL, {}, r"the shape \(2,\); expected \(prompts, hidden size\)"),
        (STATES[:0], [], {}, r"the shape \(0, 2\)"),
        (STATES * 0, IS_HARMFUL, {}, "the states are all the same"),
        (STATES, IS_HARMFUL, {"l2": 0}, "an l2 above 0 and two folds or more, got 0 and 5"),
        (STATES, IS_HARMFUL, {"folds": 1}, "got 1 and 1"),
    ],
)  # fmt: skip
def test_what_a_boundary_refuses(states, flags, options, message):
    with pytest.raises(ValueError, match=message):
        fit_boundary(states, flags, **options)


def test_classes_of_one_mean_have_no_boundary():
    """Each class has the same two states."""
    states = np.tile([[1.0], [-1.0]], (8, 1))
    is_harmful = np.repeat([True, False], 8)
    with pytest.raises(ValueError, match="the same mean: there is no boundary"):
        fit_boundary(states, is_harmful, [f"p{number}" for number in range(8) for _ in range(2)])


@pytest.mark.parametrize(
    ("states", "domains", "message"),
    [
        ({"m": STATES}, ["a"] * 7 + ["b"], "domain 'b' has one prompt; expected two or more"),
        ({"m": with_nan()}, ["a"] * 8, "the states of m: 1 rows are not finite"),
        ({"m": STATES, "n": STATES[:7]}, ["a"] * 8, r"m have the shape \(8, 2\), those of n \(7, 2\)"),
        ({"m": STATES}, ["a"] * 7, "8 states a model, but 7 domains"),
        ({}, ["a"] * 8, "expected those of at least one model"),
        ({"m": STATES * 0 + 1}, ["a"] * 8, "all the same"),
    ],
)  # fmt: skip
def test_what_a_projection_refuses(states, domains, message):
    with pytest.raises(ValueError, match=message):
        project(states, domains)


def test_what_a_table_of_shifts_refuses():
    boundary = boundary_of([3, 4], -5)
    models = {"base": STATES, "arm": STATES}
    distances = distance_table(boundary, models, ["a"] * 8, range(8))
    with pytest.raises(ValueError, match="there is no base 'bose'; the models are base, arm"):
        shift_table(distances, "bose")

    one = distance_table(boundary, models, ["a"] * 7 + ["b"], range(8))
    with pytest.raises(ValueError, match="base: domain 'b' has one prompt"):
        shift_table(one, "base")

    lacking = distances[(distances["model"] == "arm") | (distances["prompt_id"] < 4)]
    lacking = lacking.assign(domain=np.where(lacking["prompt_id"] < 4, "a", "b"))
    with pytest.raises(ValueError, match="base has no prompt of domain 'b', but arm has"):
        shift_table(lacking, "base")

    with pytest.raises(ValueError, match="the boundary has 2 coordinates, the states have 3"):
        signed_distances(boundary, np.ones((2, 3)))
