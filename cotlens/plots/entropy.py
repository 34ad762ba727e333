"""Figures of token entropy: what the functions of `entropy` return in, a `Plot` out."""

import pandas as pd

from cotlens import stats
from cotlens.measures.groups import estimates_by, need
from cotlens.plots.parts import (
    draw_band,
    draw_dots,
    grouped,
    label_rows,
    legend_above,
    legend_name,
    note,
    shorten,
)
from cotlens.plots.style import COLOURS, Plot, house_style, new_figure

# --- entropy ---------------------------------------------------------------------------------------------------
_PARTS = {
    "entropy_think": ("Thinking", "thinking and answer"),
    "entropy_answer": ("Answer", "thinking and answer"),
    "entropy_reflect": ("Steps that reflect", "steps of thinking"),
    "entropy_other": ("Other steps", "steps of thinking"),
}


@house_style()
def plot_position_entropy(
    table: pd.DataFrame, by: str = "model", *, label: str = "Entropy", most: int = 6
) -> Plot:
    """Mean score of the thinking by relative position, each trace weighing the same, with 95% bands over prompts.

    Args:
        table: what `position_entropy` returned, with the columns `by` and `prompt_id` of the traces.
        by: column of the group.
        label: what the values are, for the axis; they are nats.
        most: groups drawn, those with the most rows.
    """
    need(table, by, "position", "value", "prompt_id", "trace_id")
    figure, axes = new_figure(1, 1, 3.0)
    curves = []
    for group, part, colour in grouped(table, by, most):
        bins = round(0.5 / part["position"].min()) if part["position"].min() > 0 else 20
        found = stats.curve(
            part["position"], part["value"], part["prompt_id"], bins=max(bins, 1)
        ).dropna(subset="value")
        draw_band(axes[0, 0], found["position"], found, colour, legend_name(group, part))
        curves.append(found.assign(group=group))
    axes[0, 0].set(
        xlim=(0, 1),
        xlabel="position in the thinking (share of its tokens)",
        ylabel=f"{label} (nats)",
    )
    axes[0, 0].set_ylim(bottom=0)
    legend_above(axes[0, 0])
    note(
        figure,
        "mean over traces of each trace's mean; band: pointwise 95% interval, prompts resampled",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


@house_style()
def plot_entropy_parts(table: pd.DataFrame, by: str = "model") -> Plot:
    """Mean token entropy of thinking and answer, and of steps that reflect and that do not, with 95% intervals.

    Args:
        table: what `trace_entropy` returned.
        by: column of the group.
    """
    need(table, by, "prompt_id", *_PARTS)
    data = estimates_by(
        table, by, lambda part: {name: stats.mean(part[name], part["prompt_id"]) for name in _PARTS}
    )
    order = list(dict.fromkeys(data["group"]))[::-1]
    titles = list(dict.fromkeys(title for _, title in _PARTS.values()))
    figure, axes = new_figure(1, 2, 1.3 + 0.32 * len(order), sharey=True, sharex=True)
    for number, (measure, (name, title)) in enumerate(_PARTS.items()):
        axis, offset = axes[0, titles.index(title)], 0.13 * (1 - 2 * (number % 2))
        part = data[data["measure"] == measure].set_index("group").loc[order]
        draw_dots(axis, part, COLOURS[number], offset=offset, label=name, marker="os"[number % 2])
        axis.set_xlabel("mean token entropy (nats)")
        legend_above(axis)
    axes[0, 0].set_xlim(left=0)
    counts = table.groupby(by, dropna=False)["n_scored"].agg(lambda values: int((values > 0).sum()))
    names = {str(group) or "(unnamed)": n for group, n in counts.items()}
    label_rows(axes[0], [f"{shorten(group)}\n{names[group]:,} scored traces" for group in order])
    note(
        figure,
        "mean over traces of each trace's mean over tokens; line: 95% interval, prompts resampled",
    )
    return Plot(figure, data)


@house_style()
def plot_reflection_entropy(
    table: pd.DataFrame, by: str = "model", *, label: str = "Entropy", most: int = 6
) -> Plot:
    """Mean score token by token around the onset of reflection, beside the same around other steps' beginnings.

    Args:
        table: what `reflection_entropy` returned, with the columns `by` and `prompt_id` of the traces.
        by: column of the group.
        label: what the values are, for the axis; they are nats.
        most: groups drawn, those with the most rows.
    """
    need(table, by, "reflects", "offset", "value", "prompt_id", "trace_id")
    groups = list(grouped(table, by, most))
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    figure, axes = new_figure(lines, columns, 1.0 + 1.9 * lines, sharex=True, sharey=True)
    reach, curves = int(table["offset"].abs().max()), []
    for axis, (group, part, _) in zip(axes.flat, groups, strict=False):
        for reflects, colour, name in (
            (True, COLOURS[5], "reflection sets in"),
            (False, "#777777", "another step"),
        ):
            rows = part[part["reflects"] == reflects]
            if rows.empty:
                continue
            at = (rows["offset"] + reach + 0.5) / (2 * reach + 1)
            found = stats.curve(at, rows["value"], rows["prompt_id"], bins=2 * reach + 1).dropna(
                subset="value"
            )
            found = found.assign(
                offset=(found["position"] * (2 * reach + 1) - 0.5 - reach).round().astype(int)
            )
            draw_band(axis, found["offset"], found, colour, name)
            kept = found.drop(columns="position").assign(
                group=group, reflects=reflects, n_steps=rows["n"].sum()
            )
            curves.append(kept)
        axis.axvline(-0.5, color="black", linewidth=0.6, linestyle=":")
        onsets = part.loc[part["reflects"] & (part["offset"] == 0), "n"].sum()
        axis.set_title(
            f"{shorten(group)}\n{onsets:,} onsets, {part['prompt_id'].nunique():,} prompts",
            fontsize=7.5,
        )
    for axis in list(axes.flat)[len(groups) :]:
        axis.set_visible(False)
    axes[0, 0].set_ylim(bottom=0)
    figure.supylabel(f"{label} (nats)", fontsize=8)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    note(
        figure,
        "tokens from the step's first (0); both kinds follow a step that does not reflect; mean over traces, "
        "band: pointwise 95% interval, prompts resampled",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


@house_style()
def plot_entropy_distribution(table: pd.DataFrame, by: str = "model", *, most: int = 6) -> Plot:
    """Share of tokens whose entropy exceeds a value: the whole distribution and its tail, with 95% bands over prompts.

    Args:
        table: what `entropy_survival` returned, with the columns `by` and `prompt_id` of the traces.
        by: column of the group.
        most: groups drawn, those with the most rows.
    """
    need(table, by, "threshold", "above", "n", "prompt_id", "trace_id")
    figure, axes = new_figure(1, 1, 3.0)
    curves = []
    for group, part, colour in grouped(table, by, most):
        rows = []
        for threshold, at in part.groupby("threshold"):
            e = stats.ratio(at["above"], at["n"], at["prompt_id"])
            rows.append((threshold, e.value, e.low, e.high, int(at["n"].sum()), e.n_clusters))
        found = pd.DataFrame(
            rows, columns=["threshold", "value", "low", "high", "n_tokens", "n_prompts"]
        )
        draw_band(axes[0, 0], found["threshold"], found, colour, legend_name(group, part))
        curves.append(found.assign(group=group))
    axes[0, 0].set(
        xscale="log", ylim=(0, 1), xlabel="entropy (nats)", ylabel="share of tokens above"
    )
    legend_above(axes[0, 0])
    note(
        figure,
        "all scored tokens of the completions; band: pointwise 95% interval, prompts resampled",
    )
    return Plot(figure, pd.concat(curves, ignore_index=True))


@house_style()
def plot_forking_tokens(table: pd.DataFrame) -> Plot:
    """Tokens of the thinking before which the model is least certain, with how often each occurs.

    Args:
        table: what `forking_tokens` returned. Contexts are not drawn, and not among the numbers.
    """
    need(table, "word", "n", "n_traces", "entropy")
    shown = table.iloc[::-1]
    figure, axes = new_figure(1, 1, 0.9 + 0.155 * len(shown))
    axis = axes[0, 0]
    axis.barh(range(len(shown)), shown["entropy"], color=COLOURS[0], height=0.7)
    for row, (entropy, n) in enumerate(zip(shown["entropy"], shown["n"], strict=True)):
        axis.text(entropy, row, f" {n:,}", va="center", fontsize=6, color="#555555")
    axis.set_yticks(
        range(len(shown)), [_visible(word) for word in shown["word"]], fontfamily="DejaVu Sans Mono"
    )
    axis.set(
        xlabel="mean entropy before the token (nats); grey: occurrences",
        ylim=(-0.6, len(shown) - 0.4),
    )
    axis.grid(axis="y", visible=False)
    note(figure, "tokens of the thinking of all runs together; spaces are shown as ␣")
    return Plot(figure, table.drop(columns=["before", "after", "highest"], errors="ignore"))


def _visible(word: str, longest: int = 20) -> str:
    """A token as one line of plain text: white space made visible, nothing that draws or steers."""
    word = "".join(
        {" ": "␣", "\n": "↵", "\t": "→", "$": "\\$"}.get(c, c if c.isprintable() else "·")
        for c in word
    )
    return word if len(word) <= longest else word[: longest - 1] + "…"
