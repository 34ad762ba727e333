"""Hidden states of several models for the same prompts: how far arms move, in numbers and 2-D.

The measures of CoG (arXiv 2510.21285) on what `probes.prompt_states` returns: name -> states
(prompts, hidden size), for the same prompts in the same order. `distance_table` and `shift_table`
measure from a boundary in the full space; `project` makes a picture, which is no more than that.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from cotlens import stats
from cotlens.measures.boundary import (
    Boundary,
    as_keys,
    as_states,
    held_out_distances,
    standard,
)
from cotlens.measures.groups import need
from cotlens.stats.bootstrap import Floats

_States = Mapping[str, ArrayLike]
_Models = dict[str, Floats]
_Groups = dict[tuple[str, str], pd.DataFrame]


def distance_table(
    boundary: Boundary,
    states_by_model: _States,
    domains: Sequence[str],
    prompts: Sequence[Any],
) -> pd.DataFrame:
    """Signed distances of all models' states from the base's boundary.

    A prompt that the boundary was fitted on is measured, for every model, from the boundary that
    was fitted without it (`held_out_distances`). Otherwise the base would lie too far from its own
    boundary, and any other state would seem to have moved towards it.

    Args:
        boundary: of the base.
        states_by_model: name -> (n, d), for the same prompts in the same order.
        domains: of each prompt.
        prompts: the key of each prompt, as `fit_boundary` took it.

    Returns:
        One row per (model, prompt): model (categories in the order given), domain, prompt_id,
        distance.
    """
    models = _as_models(states_by_model, domains)

    values = {}
    for name, states in models.items():
        values[name] = held_out_distances(boundary, states, prompts)
    return _by_prompt({"distance": values}, domains, prompts)


def shift_table(distances: pd.DataFrame, base: str, **options: Any) -> pd.DataFrame:
    """Mean signed distance of each model in each domain, and its shift against the base.

    shift = mean distance of the model - mean distance of the base, paired by prompt. Below zero the
    model has moved away from the harmful side. The paper's number is the change of |w.c + b| / |w|
    of centroids c. Measured from one plane it is the same, up to its sign, where both centroids are
    on one side of it.

    Args:
        distances: as `distance_table` returns it.
        base: the model that the others are compared with.
        **options: as in `stats.mean`.

    Returns:
        One row per (model, domain): model, domain, n (prompts), distance, low, high, shift,
        shift_low, shift_high. Intervals are bootstrapped over prompts. The base's shift is NaN.

    Raises:
        ValueError: if the base is not there, or if a model has a domain with fewer than two
            prompts, which has no interval, or one that the base does not have.
    """
    need(distances, "model", "domain", "prompt_id", "distance")
    groups = distances.groupby(["model", "domain"], observed=True, sort=False)
    by_group = {}
    for (model, domain), group in groups:
        by_group[str(model), str(domain)] = group
    _check_groups(by_group, base)

    rows = []
    for (model, domain), group in by_group.items():
        mean = stats.mean(group["distance"], group["prompt_id"], **options)
        row = {
            "model": model,
            "domain": domain,
            "n": mean.n_clusters,
            "distance": mean.value,
            "low": mean.low,
            "high": mean.high,
        }

        # The base has no shift against itself.
        shift = dict.fromkeys(["shift", "shift_low", "shift_high"], np.nan)
        if model != base:
            shift = _shift(group, by_group[base, domain], options)
        rows.append(row | shift)

    # Models stay in their order.
    table = pd.DataFrame(rows)
    table["model"] = table["model"].astype(distances["model"].dtype)
    return table


def _check_groups(groups: _Groups, base: str) -> None:
    """Raise ValueError for a group of one prompt, or one that the base does not have."""
    names = dict.fromkeys(model for model, _ in groups)
    if base not in names:
        raise ValueError(f"there is no base {base!r}; the models are {', '.join(names)}")

    for (model, domain), group in groups.items():
        _check_two(domain, group["prompt_id"], f"{model}: ")
        if (base, domain) not in groups:
            raise ValueError(f"{base} has no prompt of domain {domain!r}, but {model} has")


def _shift(
    group: pd.DataFrame, base_group: pd.DataFrame, options: dict[str, Any]
) -> dict[str, float]:
    """The columns of the shift."""
    shift = stats.difference(
        group["distance"],
        base_group["distance"],
        group["prompt_id"],
        base_group["prompt_id"],
        **options,
    )
    return {
        "shift": shift.value,
        "shift_low": shift.low,
        "shift_high": shift.high,
    }


class Projection(NamedTuple):
    """The states of several models in two dimensions.

    Attributes:
        points: one row per (model, prompt): model, domain, prompt_id, x, y.
        centroids: one row per (model, domain): model, domain, n, x and y (means), var_x, var_y and
            cov_xy (divisor n - 1). The 2-sigma ellipse is c + 2 S^(1/2) u with |u| = 1; it holds
            86% of a normal distribution.
        explained: share of the variance of all states along x, and along y.
    """

    points: pd.DataFrame
    centroids: pd.DataFrame
    explained: tuple[float, float]


def project(
    states_by_model: _States,
    domains: Sequence[str],
    prompts: Sequence[Any] | None = None,
    *,
    scale: bool = True,
) -> Projection:
    """The first two principal components of the states of all models together.

    Each coordinate is standardised with its mean and standard deviation over all models
    (scikit-learn's StandardScaler; a coordinate that does not vary stays 0). Signs are arbitrary:
    along each component the point that is furthest out is on the positive side.

    With `scale=False` a rotation of all states changes no distance between points.

    Args:
        states_by_model: as in `distance_table`.
        domains: of each prompt.
        prompts: the key of each prompt; without them their numbers.
        scale: False only centres the coordinates.

    Raises:
        ValueError: for states that are not finite, do not vary, or whose models differ in size, or
            for a domain with one prompt, which has no ellipse.
    """
    models = _as_models(states_by_model, domains)
    joined = np.concatenate(list(models.values()))
    keys = as_keys(prompts, len(domains))
    by_domain = pd.Series(keys).groupby(np.asarray(domains), sort=False)
    for domain, domain_keys in by_domain:
        _check_two(str(domain), domain_keys)

    mean, deviation = standard(joined, scale)
    standardised = (joined - mean) / deviation
    coordinates, explained = _components(standardised)

    # The rows of the models follow one another.
    along_x = {}
    along_y = {}
    parts = np.split(coordinates, len(models))
    for name, part in zip(models, parts, strict=True):
        along_x[name], along_y[name] = part.T
    axes = {"x": along_x, "y": along_y}
    points = _by_prompt(axes, domains, keys)
    return Projection(points, _centroids(points), explained)


def _components(states: Floats) -> tuple[Floats, tuple[float, float]]:
    """The first two principal coordinates of centred states, and their shares of the variance."""
    # From the products of the states: mostly there are fewer states than coordinates.
    products = states @ states.T
    n = len(products)
    last_two = [n - 2, n - 1]
    rising, vectors = eigh(products, subset_by_index=last_two)

    # Largest first; the second is a rounding error of 0 where all states are on a line.
    sizes = np.maximum(rising[::-1], 0)
    unit_coordinates = vectors[:, ::-1]
    coordinates = unit_coordinates * np.sqrt(sizes)

    # The point that is furthest out is on the positive side.
    furthest = np.abs(coordinates).argmax(axis=0)
    is_negative = coordinates[furthest, [0, 1]] < 0
    coordinates[:, is_negative] *= -1

    along_x, along_y = sizes / np.trace(products)
    return coordinates, (float(along_x), float(along_y))


def _centroids(points: pd.DataFrame) -> pd.DataFrame:
    """Mean and covariance of the points of each model and domain."""
    groups = points.groupby(["model", "domain"], observed=True, sort=False)
    table = groups.agg(
        n=("x", "size"),
        x=("x", "mean"),
        y=("y", "mean"),
        var_x=("x", "var"),
        var_y=("y", "var"),
    )

    # A matrix for each group: its row y, column x.
    covariances = groups[["x", "y"]].cov()
    table["cov_xy"] = covariances["x"].xs("y", level=-1)
    return table.reset_index()


def _by_prompt(
    columns: Mapping[str, Mapping[str, Floats]],
    domains: Sequence[str],
    keys: Sequence[Any] | NDArray[Any],
) -> pd.DataFrame:
    """One row per (model, prompt) with the values of each column."""
    names = list(next(iter(columns.values())))
    tables = []
    for name in names:
        rows = pd.DataFrame({"domain": list(domains), "prompt_id": keys})
        rows.insert(0, "model", name)
        for column, values in columns.items():
            rows[column] = values[name]
        tables.append(rows)

    table = pd.concat(tables, ignore_index=True)
    table["model"] = pd.Categorical(table["model"], names)
    return table


def _as_models(states_by_model: _States, domains: Sequence[str]) -> _Models:
    """The states of each model, all of one shape, one row per domain given."""
    models = {}
    for name, states in states_by_model.items():
        models[name] = as_states(states, f"the states of {name}")
    if not models:
        raise ValueError("there are no states: expected those of at least one model")

    first = next(iter(models))
    expected = models[first].shape
    for name, states in models.items():
        if states.shape != expected:
            raise ValueError(
                f"the states of {first} have the shape {expected}, those of {name} "
                f"{states.shape}; expected the same prompts, and models of one size"
            )

    n_states = expected[0]
    n_domains = len(domains)
    if n_domains != n_states:
        raise ValueError(f"there are {n_states} states a model, but {n_domains} domains")
    return models


def _check_two(domain: str, keys: pd.Series, place: str = "") -> None:
    """Raise ValueError if a domain has fewer than two prompts."""
    n_prompts = keys.nunique()
    if n_prompts < 2:
        raise ValueError(
            f"{place}domain {domain!r} has one prompt; expected two or more: "
            "one says nothing of how prompts vary"
        )
