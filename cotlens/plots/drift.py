"""Figure of drift: safety after training on success, as predicted and as observed."""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from cotlens.measures.drift import drift_estimates
from cotlens.plots.parts import note, shorten
from cotlens.plots.study import MARKERS, arm_styles, present_arms
from cotlens.plots.style import Plot, house_style, new_figure

_GREY = "#555555"
_LIMIT = "#999999"


@house_style()
def plot_drift(drifts: pd.DataFrame, text: str = "") -> Plot:
    """What training on success alone did to safety, a dot for each arm and split.

    Left, the observed drift against that which the reference's own samples predict; on the line
    they agree. Right, its size against sqrt(KL / 2), which it cannot exceed: the grey side is
    impossible, but for the noise of samples. Colours tell arms apart, markers splits.

    Args:
        drifts: one row per prompt, as `measures.drift_estimates` takes it.
        text: where the numbers come from.

    Raises:
        ValueError: if there are no rows, or more splits than markers.
    """
    if drifts.empty:
        raise ValueError("there are no drifts to draw")
    data = drift_estimates(drifts)
    styles = arm_styles(present_arms(drifts))
    splits = list(dict.fromkeys(data["split"]))
    if len(splits) > len(MARKERS):
        raise ValueError(f"got {len(splits)} splits, expected at most {len(MARKERS)}")
    marker_of = dict(zip(splits, MARKERS, strict=False))

    figure, axes = new_figure(1, 2, 3.4)
    left, right = axes[0]
    for row in _with_size(data).to_dict("records"):
        colour, _ = styles[row["arm"]]
        look = {"color": colour, "marker": marker_of[row["split"]]}
        _draw_cross(left, row, "predicted", "observed", look)
        _draw_cross(right, row, "bound", "size", look)

    # Lines that the dots are compared with, and the names of both.
    _frame_drifts(left)
    _frame_bound(right)
    figure.legend(
        handles=[*_arm_handles(data, styles), *_split_handles(marker_of)],
        loc="outside upper left",
        ncols=3,
    )
    note(figure, f"{_caption(data)}\n{text}")
    return Plot(figure, data)


def _with_size(data: pd.DataFrame) -> pd.DataFrame:
    """The size of the observed drift with its interval, from 0 if that holds 0."""
    # The interval of a fall is turned round.
    is_fall = data["observed"] < 0
    low = data["observed_low"].mask(is_fall, -data["observed_high"])
    high = data["observed_high"].mask(is_fall, -data["observed_low"])
    return data.assign(
        size=data["observed"].abs(),
        size_low=low.clip(lower=0),
        size_high=high,
    )


def _draw_cross(
    axis: Axes, row: Mapping[Hashable, Any], x: str, y: str, look: Mapping[str, Any]
) -> None:
    """A dot with the intervals of both of its numbers."""
    axis.hlines(row[y], row[f"{x}_low"], row[f"{x}_high"], color=look["color"], linewidth=1.1)
    axis.vlines(row[x], row[f"{y}_low"], row[f"{y}_high"], color=look["color"], linewidth=1.1)
    axis.plot(
        row[x],
        row[y],
        linestyle="",
        markersize=5.5,
        markeredgecolor="white",
        zorder=3,
        **look,
    )


def _frame_drifts(axis: Axes) -> None:
    """The line of agreement and the zeros; both axes have the same range."""
    low = min(axis.get_xlim()[0], axis.get_ylim()[0], 0)
    high = max(axis.get_xlim()[1], axis.get_ylim()[1], 0)

    axis.plot([low, high], [low, high], "--", color=_LIMIT, linewidth=0.9, zorder=1)
    axis.axhline(0, color="black", linewidth=0.6, zorder=1)
    axis.axvline(0, color="black", linewidth=0.6, zorder=1)
    axis.set(
        xlim=(low, high),
        ylim=(low, high),
        xlabel="predicted drift of safety",
        ylabel="observed drift of safety",
    )


def _frame_bound(axis: Axes) -> None:
    """The bound as a line, and the side of it that cannot be."""
    right = max(axis.get_xlim()[1], 0.05)
    top = max(axis.get_ylim()[1], 0.05)

    axis.fill_between([0, right], [0, right], max(right, top), color="#eeeeee", zorder=0)
    axis.plot([0, right], [0, right], "--", color=_LIMIT, linewidth=0.9, zorder=1)
    axis.set(
        xlim=(0, right),
        ylim=(0, top),
        xlabel="bound: sqrt(KL / 2)",
        ylabel="size of the observed drift",
    )


def _arm_handles(data: pd.DataFrame, styles: Mapping[str, tuple[str, str]]) -> list[Line2D]:
    """A coloured line for each arm, with the weight of its KL term."""
    beta_of = dict(zip(data["arm"], data["beta"], strict=True))

    handles = []
    for arm, (colour, _) in styles.items():
        beta = beta_of[arm]
        label = shorten(arm) if pd.isna(beta) else f"{shorten(arm)} (beta {beta:g})"
        handles.append(Line2D([], [], color=colour, linewidth=2.5, label=label))
    return handles


def _split_handles(marker_of: Mapping[str, str]) -> list[Line2D]:
    handles = []
    for split, marker in marker_of.items():
        handle = Line2D(
            [],
            [],
            color=_GREY,
            marker=marker,
            linestyle="",
            markersize=4.5,
            label=shorten(split.replace("_", " ")),
        )
        handles.append(handle)
    return handles


def _caption(data: pd.DataFrame) -> str:
    """What is shown, with n and the control."""
    least = data["n"].min()
    most = data["n"].max()
    n = f"{most}" if least == most else f"{least} to {most}"

    lines = [
        f"means over {n} prompts, 95% intervals, prompts resampled; dashed left: as predicted; "
        f"grey: beyond Pinsker's bound, which says nothing above 1. Left out: "
        f"{data['n_without'].sum()} rows of prompts where all samples of the reference succeed, "
        "or none"
    ]

    # The control must be near 0.
    if "predicted_shuffled" in data:
        low = data["predicted_shuffled"].min()
        high = data["predicted_shuffled"].max()
        lines.append(
            "control: with safeties dealt out anew within each prompt, the mean predictions lie "
            f"from {low:.3f} to {high:.3f}"
        )
    return "\n".join(lines)
