"""The boundary between harmful and reasoning prompts among hidden states, and distances from it.

After CoG (arXiv 2510.21285). Departs from the paper: the boundary is fitted in the full space, not
among the two coordinates of a picture, its cross-validated accuracy is part of it, and distances
keep their sign.

Coordinates are standardised with the base's mean and standard deviation (divisor n): a few
coordinates of large models are hundreds of times larger than the others and would decide alone.
With `scale=False` they are only centred; then a rotation of all states changes no distance. With
scaling, distances depend on the axes, and not on the unit of any.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit

from cotlens import stats
from cotlens.stats import Estimate
from cotlens.stats.bootstrap import Flags, Floats, Indices

_Loss = Callable[[Floats], tuple[float, Floats]]


class Plane(NamedTuple):
    """The plane w.z + b = 0, where z = (x - mean) / scale is the state x standardised.

    Attributes:
        weights: w, one number per coordinate; it points to the harmful side.
        intercept: b.
        mean: subtracted from each coordinate.
        scale: divides each coordinate.
    """

    weights: Floats
    intercept: float
    mean: Floats
    scale: Floats

    def distances(self, states: Floats) -> Floats:
        """(w.z + b) / |w| of each state."""
        standardised = (states - self.mean) / self.scale
        values = standardised @ self.weights + self.intercept
        return values / np.linalg.norm(self.weights)


@dataclass(frozen=True, slots=True, eq=False)
class Boundary:
    """A logistic boundary, with those that were fitted without a part of the prompts.

    Attributes:
        plane: fitted on all states.
        accuracy: share of right decisions on states that were held out.
        n_harmful: harmful states it was fitted on.
        n_reasoning: the other states it was fitted on.
        fold_planes: for each fold, fitted on all states outside of it.
        fold_of: the fold of each prompt, by its key; empty if no keys were given.
    """

    plane: Plane
    accuracy: Estimate
    n_harmful: int
    n_reasoning: int
    fold_planes: tuple[Plane, ...] = ()
    fold_of: Mapping[Hashable, int] | None = None


def fit_boundary(
    states: ArrayLike,
    is_harmful: ArrayLike,
    prompts: Sequence[Any] | None = None,
    *,
    scale: bool = True,
    l2: float = 1.0,
    folds: int = 5,
    seed: int = 0,
) -> Boundary:
    """The logistic boundary between harmful and reasoning prompts, fitted on the base's states.

    It minimises sum log(1 + exp(-y (w.z + b))) + l2/2 |w|^2 over all states, y = 1 for harmful and
    -1 for the others; b is not penalised. With `l2=1` this is scikit-learn's LogisticRegression
    with its default C = 1 after StandardScaler. scipy's L-BFGS-B finds the minimum, in the span of
    the states, in which w lies.

    The accuracy is that of boundaries fitted in the same way, mean and scale included, without the
    fold that they decide on. Folds have like shares of harmful prompts, and all rows of a prompt
    are in one fold. There are fewer folds where a class has fewer prompts. The interval is Wilson's
    over prompts, as if decisions of cross-validation were independent, which they are not quite.
    Compare the accuracy with the share of the larger class.

    Args:
        states: (n, d), of the base.
        is_harmful: one flag per row.
        prompts: one key per row; without it every row is a prompt.
        scale: False only centres the coordinates.
        l2: weight of the penalty, above 0.
        folds: 2 or more.
        seed: of the division into folds.

    Raises:
        ValueError: for states that are not finite or do not vary, flags of one class only, a class
            of one prompt, or a prompt of both classes.
    """
    matrix = as_states(states, "the states")
    flags = _as_flags(is_harmful, len(matrix))
    keys = as_keys(prompts, len(matrix))
    if not l2 > 0 or folds < 2:
        raise ValueError(f"expected an l2 above 0 and two folds or more, got {l2:g} and {folds}")

    fold_of_row = _divide(flags, keys, folds, seed)
    n_folds = int(fold_of_row.max()) + 1

    # Each fold is decided by the boundary that has not seen it.
    planes = []
    is_right = np.zeros(len(matrix), bool)
    for fold in range(n_folds):
        is_out = fold_of_row == fold
        is_in = ~is_out
        plane = _fit(matrix[is_in], flags[is_in], scale, l2)

        says_harmful = plane.distances(matrix[is_out]) > 0
        is_right[is_out] = says_harmful == flags[is_out]
        planes.append(plane)

    # Row numbers are no keys: rows of another table have the same.
    fold_of = None
    if prompts is not None:
        fold_of = dict(zip(keys.tolist(), fold_of_row.tolist(), strict=True))
    n_harmful = int(flags.sum())
    return Boundary(
        plane=_fit(matrix, flags, scale, l2),
        accuracy=stats.proportion(is_right, keys),
        n_harmful=n_harmful,
        n_reasoning=len(flags) - n_harmful,
        fold_planes=tuple(planes),
        fold_of=fold_of,
    )


def signed_distances(boundary: Boundary, states: ArrayLike) -> Floats:
    """(w.z + b) / |w| of each state, positive on the harmful side.

    z is the state standardised as the boundary's states were, so the unit is a standard deviation
    of the base. The mean over prompts equals the distance of their centroid.

    A boundary was pulled to suit the states that it was fitted on: they lie further from it than
    fresh ones. Do not compare their distances with others; `distance_table` sees to that.

    Raises:
        ValueError: for states that are not finite or have another number of coordinates.
    """
    matrix = as_states(states, "the states")
    check_size(boundary, matrix)
    return boundary.plane.distances(matrix)


def held_out_distances(boundary: Boundary, states: ArrayLike, prompts: Sequence[Any]) -> Floats:
    """As `signed_distances`, each prompt's from a boundary that was fitted without it.

    A prompt that the boundary was fitted on is measured from the plane of its fold, any other
    prompt from the plane of all.

    Args:
        boundary: fitted with `prompts`; without them the plane of all measures every state.
        states: (n, d), of any model.
        prompts: one key per row, those of `fit_boundary`.
    """
    matrix = as_states(states, "the states")
    check_size(boundary, matrix)
    keys = as_keys(prompts, len(matrix))

    # Fold -1: not among the prompts that the boundary was fitted on.
    fold_of = boundary.fold_of or {}
    folds = [fold_of.get(key, -1) for key in keys]
    fold_of_row = np.array(folds)

    distances = boundary.plane.distances(matrix)
    for fold, plane in enumerate(boundary.fold_planes):
        is_out = fold_of_row == fold
        distances[is_out] = plane.distances(matrix[is_out])
    return distances


def _fit(states: Floats, is_harmful: Flags, scale: bool, l2: float) -> Plane:
    """The plane of least logistic loss, with the penalty."""
    mean, deviation = standard(states, scale)
    standardised = (states - mean) / deviation

    # w is a sum of states. In coordinates of their span it has the same length, and there are at
    # most as many as states.
    axes, triangle = np.linalg.qr(standardised.T)
    reduced = triangle.T

    signs = np.where(is_harmful, 1.0, -1.0)
    loss = _loss_of(reduced, signs, l2)
    start = np.zeros(reduced.shape[1] + 1)
    options = {
        "maxiter": 10_000,
        "maxfun": 20_000,
        "ftol": 1e-15,
        "gtol": 1e-8,
    }
    result = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        options=options,
    )
    weights = axes @ result.x[:-1]
    intercept = float(result.x[-1])

    # No direction, or one of rounding errors.
    if not np.linalg.norm(weights) > 1e-9:
        raise ValueError("the states of both classes have the same mean: there is no boundary")
    return Plane(weights, intercept, mean, deviation)


def _loss_of(states: Floats, signs: Floats, l2: float) -> _Loss:
    """The penalised logistic loss of (w, b), with its gradient."""

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights = parameters[:-1]
        intercept = parameters[-1]
        margins = signs * (states @ weights + intercept)

        # log(1 + exp(-m)) and its slope.
        value = np.logaddexp(0, -margins).sum()
        value += l2 / 2 * (weights @ weights)
        slopes = -signs * expit(-margins)

        of_weights = slopes @ states + l2 * weights
        gradient = np.append(of_weights, slopes.sum())
        return float(value), gradient

    return loss


def standard(states: Floats, scale: bool) -> tuple[Floats, Floats]:
    """Mean of each coordinate, and its standard deviation: 1 where it is 0, or without scaling.

    Raises:
        ValueError: if all states are the same.
    """
    mean = states.mean(axis=0)
    deviation = states.std(axis=0)

    # A constant has a deviation of rounding errors.
    largest = np.abs(states).max(axis=0)
    varies = deviation > 1e-12 * largest
    if not varies.any():
        raise ValueError("the states are all the same: expected states of different prompts")

    has_scale = varies & scale
    return mean, np.where(has_scale, deviation, 1.0)


def _divide(is_harmful: Flags, keys: NDArray[Any], folds: int, seed: int) -> Indices:
    """The fold of each row: rows of a prompt together, prompts of each class spread evenly."""
    number_of, names = pd.factorize(keys)
    classes = pd.Series(is_harmful).groupby(number_of)
    is_mixed = classes.nunique() > 1
    if is_mixed.any():
        name = names[is_mixed.to_numpy().argmax()]
        raise ValueError(f"prompt {name!r} is harmful in one row and not in another")

    class_of = classes.first().to_numpy()
    n_harmful = int(class_of.sum())
    n_reasoning = len(class_of) - n_harmful
    fewest = min(n_harmful, n_reasoning)
    if fewest < 2:
        raise ValueError(
            f"there are {n_harmful} harmful and {n_reasoning} reasoning prompts; a boundary needs "
            "two or more of each, so that some can be held out"
        )

    # Deal the prompts of each class out in random order. The second class goes on where the first
    # ended, so that folds are of like size.
    rng = np.random.default_rng(seed)
    harmful = rng.permutation(np.flatnonzero(class_of))
    reasoning = rng.permutation(np.flatnonzero(~class_of))
    dealt = np.concatenate([harmful, reasoning])

    # No more folds than the smaller class has prompts.
    n_folds = min(folds, fewest)
    fold_of_prompt = np.zeros(len(dealt), np.intp)
    fold_of_prompt[dealt] = np.arange(len(dealt)) % n_folds
    return fold_of_prompt[number_of]


def as_states(states: ArrayLike, name: str) -> Floats:
    """States as a matrix of finite numbers; `name` says in errors whose they are."""
    matrix = np.asarray(states, float)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(
            f"{name} have the shape {matrix.shape}; expected (prompts, hidden size), none of them 0"
        )

    is_finite = np.isfinite(matrix).all(axis=1)
    n_wrong = int((~is_finite).sum())
    if n_wrong:
        first = int(is_finite.argmin())
        raise ValueError(
            f"{name}: {n_wrong} rows are not finite, the first is row {first}; "
            "leave these prompts out of all models"
        )
    return matrix


def as_keys(prompts: Sequence[Any] | None, n_rows: int) -> NDArray[Any]:
    """The key of each row's prompt; its number where none are given."""
    if prompts is None:
        return np.arange(n_rows)

    # As they are: 1 and "1" are two prompts.
    keys = pd.Series(list(prompts), dtype=object)
    if len(keys) != n_rows:
        raise ValueError(f"there are {n_rows} states but {len(keys)} prompts: expected one a state")
    if keys.isna().any():
        raise ValueError(f"row {keys.isna().argmax()} has no prompt: expected a key for each state")
    return keys.to_numpy()


def _as_flags(is_harmful: ArrayLike, n_rows: int) -> Flags:
    """One flag per row, none of them missing."""
    flags = np.asarray(is_harmful)
    if flags.shape != (n_rows,):
        raise ValueError(f"there are {n_rows} states but flags of the shape {flags.shape}")

    for flag in flags.tolist():
        if flag not in (True, False):
            raise ValueError(f"is_harmful must be true or false for each state, got {flag!r}")
    return flags.astype(bool)


def check_size(boundary: Boundary, states: Floats) -> None:
    """Raise ValueError if the states have another number of coordinates than the boundary."""
    expected = len(boundary.plane.weights)
    n_coordinates = states.shape[1]
    if n_coordinates != expected:
        raise ValueError(
            f"the boundary has {expected:,} coordinates, the states have {n_coordinates:,}; "
            "expected states of the same layer of a model of the same size"
        )
