"""Figure of hidden states: where arms moved, in two dimensions and from the boundary."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cotlens.measures.boundary import Boundary
from cotlens.measures.groups import need
from cotlens.measures.hidden import Projection
from cotlens.plots.parts import draw_dots, label_rows, note, shorten, spread
from cotlens.plots.study import MARKERS, arm_styles, present_arms
from cotlens.plots.style import Plot, house_style, new_figure
from cotlens.stats.bootstrap import Floats

_GREY = "#555555"
_POINTS = 300  # most points drawn of a model and domain


class _Look(NamedTuple):
    """A colour for each model, and a marker for each domain."""

    colours: Mapping[str, str]
    markers: Mapping[str, str]


@house_style()
def plot_hidden_states(
    projection: Projection,
    shifts: pd.DataFrame,
    boundary: Boundary,
    base: str,
    text: str = "",
) -> Plot:
    """Hidden states of prompts: two principal components, and distances from the boundary.

    Left, every dot is a prompt as a model holds it, an ellipse two standard deviations of a model's
    prompts of a domain, and an arrow the way of their mean from the base to an arm. Right, the mean
    signed distance of each model and domain from the base's boundary. Colours tell models apart (RL
    and SFT have a family each), markers domains.

    Args:
        projection: what `measures.project` returned.
        shifts: what `measures.shift_table` returned, of the same models and domains.
        boundary: the base's, for its accuracy.
        base: the model that arrows begin at.
        text: where the numbers come from.

    Returns:
        The plot; its data are the table of shifts with each centroid and covariance.

    Raises:
        ValueError: if the base is not there, or if shifts and projection have other models or
            domains.
    """
    need(shifts, "model", "domain", "distance", "low", "high", "shift")
    data = _joined(projection, shifts)
    models = present_arms(data.rename(columns={"model": "arm"}))
    if base not in models:
        raise ValueError(f"there is no base {base!r}; the models are {', '.join(models)}")
    models = [base, *(name for name in models if name != base)]

    domains = list(dict.fromkeys(data["domain"]))
    if len(domains) > len(MARKERS):
        raise ValueError(f"got {len(domains)} domains, expected at most {len(MARKERS)}")

    styles = arm_styles(models)
    look = _Look(
        colours={name: styles[name][0] for name in models},
        markers=dict(zip(domains, MARKERS, strict=False)),
    )

    height = max(3.4, 1.8 + 0.3 * len(models))
    figure, axes = new_figure(1, 2, height, width_ratios=[1.35, 1])
    left, right = axes[0]
    _draw_points(left, projection, look)
    _draw_ways(left, data, base, look)
    _name_domains(left, data)
    left.set_xlabel(f"first component ({projection.explained[0]:.0%} of the variance)")
    left.set_ylabel(f"second component ({projection.explained[1]:.0%})")
    left.grid(visible=False)

    _draw_distances(right, data, models, look)
    figure.legend(
        handles=[_handle(domain, marker) for domain, marker in look.markers.items()],
        loc="outside upper left",
        ncols=len(domains),
    )
    note(figure, f"{_caption(data, boundary, base)}\n{text}")
    return Plot(figure, data)


def _joined(projection: Projection, shifts: pd.DataFrame) -> pd.DataFrame:
    """Centroids and distances of the same models and domains, one row each."""
    keys = ["model", "domain"]
    centroids = projection.centroids.drop(columns="n")
    data = shifts.merge(centroids, on=keys, how="outer", sort=False, indicator=True)
    lone = data[data["_merge"] != "both"]
    if len(lone):
        model, domain = lone[keys].astype(str).iloc[0]
        raise ValueError(
            f"{model}, domain {domain!r}: expected it in the projection and in the shifts, "
            "got it in one of them; make both from the same states"
        )

    # The order of the shifts, which merging loses.
    ordered = shifts[keys].merge(data.drop(columns="_merge"), on=keys, sort=False)
    ordered["model"] = ordered["model"].astype(shifts["model"].dtype)
    return ordered


def _draw_points(axis: Axes, projection: Projection, look: _Look) -> None:
    """The prompts of each model and domain, pale and small."""
    groups = projection.points.groupby(["model", "domain"], observed=True, sort=False)
    for (model, domain), points in groups:
        # Evenly spread rows of many, so that a file stays small.
        every = -(-len(points) // _POINTS)
        shown = points.iloc[::every]
        axis.plot(
            shown["x"],
            shown["y"],
            look.markers[str(domain)],
            color=look.colours[str(model)],
            alpha=0.28,
            markersize=2.6,
            markeredgewidth=0,
            zorder=1,
        )


def _draw_ways(axis: Axes, data: pd.DataFrame, base: str, look: _Look) -> None:
    """Ellipses, centroids, and the arrows between them."""
    starts = data[data["model"] == base].set_index("domain")
    for row in data.to_dict("records"):
        colour = look.colours[row["model"]]
        outline = _ellipse(row)
        axis.plot(outline[0], outline[1], color=colour, linewidth=0.7, alpha=0.6, zorder=2)

        # The base's mean is a mark, an arm's is the head of its arrow.
        start = starts.loc[row["domain"]]
        if row["model"] != base:
            arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.3}
            arrow |= {"shrinkA": 3, "shrinkB": 0, "mutation_scale": 9}
            axis.annotate(
                "",
                xy=(row["x"], row["y"]),
                xytext=(start["x"], start["y"]),
                arrowprops=arrow,
                zorder=4,
            )
            continue
        axis.plot(
            row["x"],
            row["y"],
            look.markers[row["domain"]],
            color=colour,
            markersize=5.5,
            markeredgecolor="white",
            zorder=5,
        )


def _ellipse(row: Mapping[Hashable, float]) -> Floats:
    """Outline of two standard deviations around a centroid, (2, n)."""
    covariance = np.array(
        [
            [row["var_x"], row["cov_xy"]],
            [row["cov_xy"], row["var_y"]],
        ]
    )
    # Rounding may leave a variance of -1e-17.
    variances, directions = np.linalg.eigh(covariance)
    radii = 2 * np.sqrt(np.maximum(variances, 0))

    angles = np.linspace(0, 2 * np.pi, 121)
    circle = np.array([np.cos(angles), np.sin(angles)])
    outline = directions @ (radii[:, None] * circle)
    centre = np.array([[row["x"]], [row["y"]]])
    return centre + outline


def _name_domains(axis: Axes, data: pd.DataFrame) -> None:
    """The name of each domain at the outer side of its ellipses, as seen from the middle."""
    middle = data[["x", "y"]].mean().to_numpy()
    for domain, rows in data.groupby("domain", sort=False):
        outlines = [_ellipse(row) for row in rows.to_dict("records")]
        joined = np.concatenate(outlines, axis=1)

        # Outwards: above where the domain lies in the middle itself.
        outwards = rows[["x", "y"]].mean().to_numpy() - middle
        length = np.linalg.norm(outwards)
        outwards = outwards / length if length > 0 else np.array([0.0, 1.0])
        furthest = joined[:, (outwards @ joined).argmax()]

        # On the side that faces the middle a name would cover the ellipse.
        across, up = outwards
        axis.annotate(
            _plain(str(domain)),
            xy=(furthest[0], furthest[1]),
            xytext=(4 * across, 4 * up),
            textcoords="offset points",
            ha=_alignment(across, "right", "left"),
            va=_alignment(up, "top", "bottom"),
            fontsize=7.5,
            color=_GREY,
            fontweight="bold",
            zorder=6,
        )
    axis.margins(0.22, 0.1)


def _alignment(direction: float, below: str, above: str) -> str:
    """Which end of a text touches its point, by the direction in which the text lies."""
    if abs(direction) < 0.4:
        return "center"
    return above if direction > 0 else below


def _draw_distances(axis: Axes, data: pd.DataFrame, models: list[str], look: _Look) -> None:
    """Mean signed distances: a row a model, the base on top, a marker a domain."""
    n_domains = len(look.markers)
    for number, (domain, marker) in enumerate(look.markers.items()):
        rows = data[data["domain"] == domain].set_index("model")
        rows = rows.rename(columns={"distance": "value"})
        offset = spread(number, n_domains, 0.16)
        for height, model in enumerate(reversed(models)):
            if model not in rows.index:
                continue
            draw_dots(
                axis,
                rows.loc[[model]],
                look.colours[model],
                offset=height + offset,
                marker=marker,
            )

    # Names have the colours of the other panel.
    axis.axvline(0, color="black", linewidth=0.8, zorder=1)
    label_rows([axis], [shorten(name) for name in reversed(models)])
    for label, model in zip(axis.get_yticklabels(), reversed(models), strict=True):
        label.set_color(look.colours[model])
    axis.set_xlabel("signed distance from the boundary")
    sides = {"reasoning side": (-4, "right"), "harmful side": (4, "left")}
    for side, (gap, alignment) in sides.items():
        axis.annotate(
            side,
            xy=(0, 1),
            xycoords=("data", "axes fraction"),
            xytext=(gap, 2),
            textcoords="offset points",
            ha=alignment,
            fontsize=6.5,
            color=_GREY,
        )


def _handle(domain: str, marker: str) -> Line2D:
    """The marker of a domain, for the legend."""
    return Line2D(
        [],
        [],
        color=_GREY,
        marker=marker,
        linestyle="",
        markersize=4,
        label=_plain(domain),
    )


def _plain(name: str) -> str:
    return shorten(name.replace("_", " "))


def _caption(data: pd.DataFrame, boundary: Boundary, base: str) -> str:
    """What is shown, with n and the boundary's accuracy."""
    sizes = data[data["model"] == base].set_index("domain")["n"]
    counts = ", ".join(f"{n} {_plain(str(domain))}" for domain, n in sizes.items())
    accuracy = boundary.accuracy
    n_fitted = boundary.n_harmful + boundary.n_reasoning
    largest = max(boundary.n_harmful, boundary.n_reasoning) / n_fitted
    name = shorten(base)
    return (
        f"state of the last token of the prompt; {counts}; ellipses: two standard deviations; "
        f"arrows: from the mean of {name} to that of an arm; right: means with 95% intervals, "
        f"prompts resampled, from a boundary of {name} in all dimensions, in standard deviations "
        f"of {name}; its accuracy on held-out "
        f"prompts {accuracy.value:.2f} [{accuracy.low:.2f}, {accuracy.high:.2f}] "
        f"(share of the larger class {largest:.2f})"
    )
