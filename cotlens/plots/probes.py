"""Figures of probes: what a model answers when its thinking is cut short."""

import pandas as pd

from cotlens import stats
from cotlens.measures.groups import need
from cotlens.plots.parts import draw_band, note, shorten
from cotlens.plots.study import present_arms, small_panels
from cotlens.plots.style import COLOURS, Plot, house_style
from cotlens.studies.arms import to_row


# --- thinking and answer ---------------------------------------------------------------------------------------
@house_style()
def plot_early_answering(early: pd.DataFrame, text: str = "", *, least: int = 15) -> Plot:
    """Unsafe answers when unsafe thinking is cut short: a panel per arm, a line per split, the first arm's in grey.

    Arms are left with unsafe thinking on different splits, so only lines of one split can be compared.

    Args:
        early: one row per answer: arm, seed, trace_id, prompt_id, cut (share of the thinking kept), answer_unsafe, and
            split, the part that the prompt belongs to, if known.
        text: the study's note.
        least: splits of an arm with fewer samples are left out.
    """
    need(early, "arm", "seed", "prompt_id", "cut", "answer_unsafe")
    early = early if "split" in early else early.assign(split="all")
    splits = {
        name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(early["split"]))
    }
    tables = {
        (str(arm), str(split)): _by_cut(own)
        for (arm, split), own in early.groupby(["arm", "split"], observed=True, sort=False)
    }
    sizes = {key: int(table["n"].max()) for key, table in tables.items()}
    least = min(least, max(sizes.values()))
    found = {key: table for key, table in tables.items() if sizes[key] >= least}
    arms = [arm for arm in present_arms(early) if any(of == arm for of, _ in found)]
    figure, axes = small_panels(len(arms), 1.1, 1.5, "thinking kept")
    named = {}
    for axis, arm in zip(axes, arms, strict=True):
        counts = []
        for split, colour in splits.items():
            if (arm, split) not in found:
                continue
            own, first = found[arm, split], found.get((arms[0], split))
            if first is not None:
                axis.plot(
                    first["cut"], first["value"], color="#999999", linewidth=1, linestyle="--"
                )
            draw_band(axis, own["cut"], own, colour, split)
            axis.plot(own["cut"], own["value"], "o", color=colour, markersize=3)
            counts.append(str(sizes[arm, split]))
            named[split.replace("_", " ")] = axis.lines[-2]
        axis.set(xlim=(0, 1), ylim=(0, 1.02), xticks=[0, 0.5, 1])
        axis.set_title(shorten(arm), fontsize=8)
        axis.text(
            0.96,
            0.04,
            f"n = {', '.join(counts)}",
            transform=axis.transAxes,
            ha="right",
            fontsize=6.5,
        )
    figure.legend(list(named.values()), list(named), loc="outside upper left", ncols=len(named))
    figure.supylabel("unsafe answers", fontsize=8)
    caption = (
        f"by share of the thinking that is kept; samples with unsafe thinking, greedy answers; splits of an arm with "
        f"{least} samples or more; band: Wilson's 95%, by prompt; grey: {arms[0]} on the same split"
    )
    note(figure, f"{caption}\n{text}")
    drawn = [table.assign(arm=arm, split=split) for (arm, split), table in found.items()]
    return Plot(figure, pd.concat(drawn, ignore_index=True))


def _by_cut(early: pd.DataFrame) -> pd.DataFrame:
    prompts = early["seed"].astype(str) + ":" + early["prompt_id"]
    rows = [
        {"cut": cut, **to_row(stats.proportion(part["answer_unsafe"], prompts[part.index]))}
        for cut, part in early.groupby("cut")
    ]
    return pd.DataFrame(rows)
