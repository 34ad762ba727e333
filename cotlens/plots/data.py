"""Figures of training data: patterns taken out, perplexity against skill, teachers and students."""

import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullLocator

from cotlens.measures.gains import own_advantage
from cotlens.measures.groups import need
from cotlens.measures.perplexity import skill_by_perplexity
from cotlens.plots.parts import draw_dots, note, shorten
from cotlens.plots.study import MARKERS
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure


@house_style()
def plot_removals(effects: pd.DataFrame, text: str = "", *, flag: str = "unsafe answers") -> Plot:
    """Attack success without the rows of a pattern and in the control, and the paired difference.

    Args:
        effects: what `studies.removal_effects` returned.
        text: where the numbers come from; it stands under the figure.
        flag: what the shares are of, for the labels.
    """
    need(effects, "pattern", "value", "low", "high", "n", "removed", "control")
    rows = effects.iloc[::-1].reset_index(drop=True)
    figure, axes = new_figure(1, 2, 1.7 + 0.36 * len(rows), sharey=True)
    left, right = axes[0]

    # A line joins the two arms of a pattern.
    heights = np.arange(len(rows))
    ends = (rows["control"], rows["removed"])
    left.hlines(heights, *ends, color="#888888", linewidth=1)
    for shares, name, marker, colour in zip(
        ends, ("as many other rows out", "rows with the pattern out"), "so", COLOURS, strict=False
    ):
        left.plot(shares, heights, marker, color=colour, label=name, clip_on=False, zorder=3)
    left.set(xlabel=f"share of {flag}", xlim=(0, 1))
    names = [shorten(str(pattern).replace("_", " ")) for pattern in rows["pattern"]]
    left.set_yticks(heights, names)
    left.set_ylim(-0.6, len(rows) - 0.4)

    draw_dots(right, rows, COLOURS[0])
    right.axvline(0, color="black", linewidth=0.6)
    right.set_xlabel("control less removed: above 0, the pattern did harm")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=2)

    units = rows["units"].iloc[0] if "units" in rows else "prompts"
    caption = (
        f"both arms have as many rows; 95% intervals over {units}; "
        f"n = {rows['n'].min():,} samples of both arms or more"
    )
    note(figure, f"{caption}\n{text}")
    return Plot(figure, effects.reset_index(drop=True))


@house_style()
def plot_data_perplexity(table: pd.DataFrame, text: str = "", *, skill: str = "right sums") -> Plot:
    """Change of skill against the perplexity of the training rows, a dot for each arm.

    Args:
        table: one row per arm: `arm`, `perplexity` with `perplexity_low` and `perplexity_high`, and
            `change` with `change_low` and `change_high`.
        text: where the numbers come from; it stands under the figure.
        skill: what changed, for the label.
    """
    need(table, "arm", "perplexity", "perplexity_low", "perplexity_high")
    need(table, "change", "change_low", "change_high")
    known = table.dropna(subset=["perplexity", "change"]).reset_index(drop=True)
    figure, axes = new_figure(1, 1, 2.6 + 0.07 * len(known))
    axis = axes[0, 0]
    for number, row in enumerate(known.to_dict("records")):
        # All arms are of SFT, so the colours of families would tell nothing apart.
        colour = COLOURS[number % len(COLOURS)]
        marker = MARKERS[number // len(COLOURS) % len(MARKERS)]
        axis.hlines(row["change"], row["perplexity_low"], row["perplexity_high"], color=colour)
        axis.vlines(row["perplexity"], row["change_low"], row["change_high"], color=colour)
        axis.plot(
            row["perplexity"],
            row["change"],
            marker,
            color=colour,
            markersize=5.5,
            markeredgecolor="white",
            linestyle="",
            label=shorten(str(row["arm"])),
            zorder=3,
        )
    axis.axhline(0, color="black", linewidth=0.6)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set(
        xlabel="perplexity of the training rows under the student before training",
        ylabel=f"change of {skill}",
    )
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=7)

    found = skill_by_perplexity(known)
    rho = "too few arms for a correlation"
    if not np.isnan(found.rho):
        rho = f"Spearman's rho {found.rho:.2f}"
    caption = f"{rho} (n = {found.n} arms); 95% intervals, across over prompts of the rows"
    note(figure, f"{caption}\n{text}")
    return Plot(figure, known)


@house_style()
def plot_teacher_gains(gains: pd.DataFrame, text: str = "", *, measure: str = "skill") -> Plot:
    """Gains of students (columns) with the data of teachers (rows), as a heat map around 0.

    Args:
        gains: what `measures.teacher_gains` returned.
        text: where the numbers come from; it stands under the figure.
        measure: what was gained, for the label.
    """
    need(gains, "teacher", "student", "gain", "is_own")
    teachers = list(dict.fromkeys(gains["teacher"]))
    students = list(dict.fromkeys(gains["student"]))
    table = gains.pivot(index="teacher", columns="student", values="gain")
    values = table.loc[teachers, students].to_numpy(float)

    # Blue is a gain, red a loss; a pair that was not trained is grey.
    figure, axes = new_figure(1, 1, 1.5 + 0.45 * len(teachers))
    axis = axes[0, 0]
    axis.set_facecolor("#dddddd")
    limit = 1.25 * max(np.nanmax(np.abs(values)), 0.1)
    image = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for cell in gains.to_dict("records"):
        is_dark = abs(cell["gain"]) > 0.55 * limit
        axis.text(
            students.index(cell["student"]),
            teachers.index(cell["teacher"]),
            f"{cell['gain']:+.2f}",
            ha="center",
            va="center",
            color="white" if is_dark else "black",
            weight="bold" if cell["is_own"] else "normal",
            fontsize=8,
        )
    axis.set_xticks(range(len(students)), [shorten(str(name)) for name in students])
    axis.set_yticks(range(len(teachers)), [shorten(str(name)) for name in teachers])
    axis.set(xlabel="student", ylabel="teacher")
    axis.grid(visible=False)
    axis.tick_params(length=0)
    bar = figure.colorbar(image, ax=axis, fraction=0.04, pad=0.02)
    bar.set_label(f"gain of {measure}", fontsize=7)
    bar.outline.set_visible(False)

    advantage = own_advantage(gains)
    own = "no student has own data and that of another"
    if not np.isnan(advantage):
        own = f"own data (bold) less the mean of others: {advantage:+.2f} over students"
    note(figure, f"{own}\n{text}")
    return Plot(figure, gains)
