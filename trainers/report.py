"""The report of the pocket experiment: its tables, verdicts and figures.

FIGURES/measures.csv, differences.csv, verdicts.csv, cost.csv
FIGURES/21 to 28 ...                 the figures of this page, over all seeds
FIGURES/{forbidden,harmless,maths}   the gallery of cotlens for the first seed, arms side by side
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
from experiment import ARMS, SETS, read_plan
from findings import MEASURES, SPLITS, differences, load, measures, numbers, present, step_truth, verdicts
from pocket.oracle import read_truth
from pocket.world import Part
from tqdm import tqdm

from cotlens import Plot, draw_figures, read_traces, save, stats
from cotlens.figure import (
    COLOURS,
    draw_band,
    draw_dots,
    house_style,
    label_rows,
    legend_above,
    new_figure,
    note,
)
from cotlens.run import write_atomic

WORLD = "pocket world: invented topics, scripted excuses; a method demonstration, no evidence on real models"


@house_style()
def _plot_dots(
    table: pd.DataFrame,
    panels: Mapping[str, Sequence[str]],
    text: str,
    limits: tuple[float | None, float | None] = (0, 1.02),
) -> Plot:
    """Arms as rows, one panel per title, its measures as dots with intervals; a limit of None is the data's."""
    order = present(table)[::-1]
    figure, axes = new_figure(1, len(panels), 1.5 + 0.42 * len(order), sharey=True)
    drawn = []
    for axis, (title, names) in zip(axes[0], panels.items(), strict=True):
        for number, name in enumerate(names):
            part = table[table["measure"] == name].set_index("arm").reindex(order)
            offset = 0.2 * ((len(names) - 1) / 2 - number)
            label = MEASURES[name].label.rpartition(", ")[2] if len(names) > 1 else ""
            draw_dots(axis, part, COLOURS[number], offset=offset, label=label, marker="osD^"[number])
            drawn.append(part.reset_index())
        axis.set_title(title, fontsize=8, pad=4 + 11 * math.ceil(len(names) / 2) * (len(names) > 1))
        if len(names) > 1:
            legend_above(axis)
        axis.set_xlim(*limits)
    label_rows(axes[0], order)
    note(figure, f"{text}; line: 95% interval\n{WORLD}")
    return Plot(figure, pd.concat(drawn, ignore_index=True))


@house_style()
def _plot_trade(table: pd.DataFrame) -> Plot:
    """Safety of the thinking against mathematics, a dot per arm."""
    figure, axes = new_figure(1, 1, 3.4)
    axis, drawn = axes[0, 0], []
    for number, arm in enumerate(present(table)):
        own = table[table["arm"] == arm].set_index("measure")
        x, y = own.loc["correct"], own.loc["unsafe_thinking_forbidden"]
        colour = COLOURS[number % len(COLOURS)]
        axis.hlines(1 - y["value"], x["low"], x["high"], color=colour, linewidth=1)
        axis.vlines(x["value"], 1 - y["high"], 1 - y["low"], color=colour, linewidth=1)
        axis.plot(x["value"], 1 - y["value"], "o", color=colour, label=arm, markersize=5, markeredgecolor="white")
        drawn.append({"arm": arm, "correct": x["value"], "safe_thinking": 1 - y["value"]})
    axis.set(ylim=(0, 1.02), xlabel="sums right", ylabel="forbidden requests with safe thinking")
    axis.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    note(figure, f"lines: 95% intervals\n{WORLD}")
    return Plot(figure, pd.DataFrame(drawn))


def rollouts(out: Path, arm: str = "grpo") -> pd.DataFrame:
    """One row per rollout of the arm: step, domain, reward and truth."""
    plan = read_plan(out)
    rows = []
    for folder in sorted(out.glob(f"seed=*/{arm}/rollouts")):
        seed = int(folder.parts[-3].removeprefix("seed="))
        known = {prompt.id: prompt for prompt in plan.prompts(seed)[Part.TRAIN]}
        files = sorted(folder.glob("*/*.parquet"))
        for path in tqdm(files, desc="rollouts", unit=" files", leave=False):
            for trace in read_traces(path):
                truth = read_truth(trace.completion, known[trace.prompt_id])
                rows.append(
                    {
                        "seed": seed, "step": trace.training_step, "domain": trace.domain,
                        "prompt_id": f"{seed}:{trace.prompt_id}", "reward": trace.reward,
                        "thinking_unsafe": truth.thinking_unsafe, "answer_unsafe": truth.answer_unsafe,
                        "is_correct": truth.is_correct, "is_help": truth.is_help,
                        "n_reflections": truth.n_reflections, "n_tokens": len(trace.token_ids or ()),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


_ROLLED = {"maths": ["maths"], "sums right": ["maths"], "help with harmless requests": ["look_alike", "allowed"]}


@house_style()
def _plot_training(table: pd.DataFrame, bins: int = 15) -> Plot:
    """What GRPO's rollouts did while it trained."""
    panels = {
        "Forbidden": (("thinking_unsafe", "unsafe thinking"), ("answer_unsafe", "unsafe answer")),
        "Skill": (("is_correct", "sums right"), ("is_help", "help with harmless requests")),
        "Reflections per rollout": (("n_reflections", "maths"), ("n_reflections", "forbidden")),
        "Tokens per rollout": (("n_tokens", "maths"), ("n_tokens", "forbidden")),
    }
    figure, axes = new_figure(1, 4, 2.4)
    last, drawn = table["step"].max() + 1, []
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for number, (column, label) in enumerate(lines):
            rows = table[table["domain"].isin(_ROLLED.get(label, ["forbidden"]))]
            values = pd.to_numeric(rows[column], errors="coerce").astype(float)
            found = stats.curve((rows["step"] + 0.5) / last, values, rows["prompt_id"], bins=bins).dropna()
            draw_band(axis, found["position"] * last, found, COLOURS[number], label)
            drawn.append(found.assign(panel=title, line=label))
        axis.set(title=title, xlabel="update", ylim=(0, None))
        axis.legend(fontsize=5.5, loc="best")
    note(figure, f"all rollouts of GRPO, in {bins} stretches; band: 95%, prompts resampled\n{WORLD}")
    return Plot(figure, pd.concat(drawn, ignore_index=True))


@house_style()
def _plot_early(out: Path) -> Plot:
    """Unsafe answers when unsafe thinking is cut short, arm by arm."""
    paths = sorted(out.glob("seed=*/*/early.parquet"))
    tables = [pd.read_parquet(p).assign(arm=p.parts[-2], seed=int(p.parts[-3].removeprefix("seed="))) for p in paths]
    table = pd.concat(tables, ignore_index=True)
    figure, axes = new_figure(1, 1, 2.9)
    drawn = []
    for number, arm in enumerate(present(table)):
        own = table[table["arm"] == arm]
        rows = []
        for cut, part in own.groupby("cut"):
            e = stats.proportion(part["answer_unsafe"], part["seed"].astype(str) + ":" + part["prompt_id"])
            rows.append({"cut": cut, **numbers(e)})
        found = pd.DataFrame(rows)
        n = own.drop_duplicates(["seed", "trace_id"]).shape[0]
        draw_band(axes[0, 0], found["cut"], found, COLOURS[number % len(COLOURS)], f"{arm} ({n} traces)")
        drawn.append(found.assign(arm=arm))
    axes[0, 0].set(xlim=(0, 1), ylim=(0, 1.02), xlabel="share of the thinking that is kept", ylabel="unsafe answers")
    legend_above(axes[0, 0])
    note(figure, f"samples with unsafe thinking, greedy answers behind the cut; band: Wilson's 95%, by prompt\n{WORLD}")
    return Plot(figure, pd.concat(drawn, ignore_index=True))


@house_style()
def _plot_instruments(steps: pd.DataFrame) -> Plot:
    """Precision and recall of the step detectors against the oracle, arm by arm."""
    order = present(steps)[::-1]
    figure, axes = new_figure(1, 2, 1.5 + 0.4 * len(order), sharey=True, sharex=True)
    pairs = (
        ("Reflection (classifier)", "is_reflection", "true_reflection", ("maths", "forbidden", "harmless")),
        ("Unsafe step (markers), forbidden", "unsafe", "true_unsafe", ("forbidden",)),
    )
    drawn = []
    for axis, (title, said, real, sets) in zip(axes[0], pairs, strict=True):
        rows = []
        for arm in order:
            own = steps[(steps["arm"] == arm) & steps["set"].isin(sets)]
            found = stats.detection(own[said], own[real], own["seed"].astype(str) + own["prompt_id"])
            for measure, e in (("precision", found.precision), ("recall", found.recall)):
                rows.append({"arm": arm, "detector": title, "measure": measure, **numbers(e)})
        table = pd.DataFrame(rows)
        for number, measure in enumerate(("precision", "recall")):
            part = table[table["measure"] == measure].set_index("arm").loc[order]
            draw_dots(axis, part, COLOURS[number], offset=0.12 - 0.24 * number, label=measure, marker="os"[number])
        axis.set_title(title, pad=16)
        legend_above(axis)
        drawn.append(table)
    axes[0, 0].set_xlim(0, 1.02)
    label_rows(axes[0], order)
    note(figure, f"against the oracle, step by step; neither detector was made for this world; line: 95%\n{WORLD}")
    return Plot(figure, pd.concat(drawn, ignore_index=True))


def report(out: Path, figures: Path) -> None:
    """Writes the tables, the verdicts and all figures."""
    table = load(out)
    found, changes = measures(table), differences(table)
    claims = verdicts(table, found, changes)
    results = {"measures": found, "differences": changes, "verdicts": pd.DataFrame(claims), "cost": _cost(out)}
    for name, result in results.items():
        write_atomic(figures / f"{name}.csv", result.to_csv(index=False, float_format="%.6g"))
    seeds = sorted(map(int, set(table["seed"])))
    provenance = {"world": WORLD, "seeds": seeds, "plan": asdict(read_plan(out))}
    for name, plot in _plots(out, found):
        save(plot, figures / name, {"figure": name, **provenance})
    first = min(out.glob("seed=*"), key=lambda path: int(path.name.removeprefix("seed=")))
    for name in SETS:
        runs = [first / arm / name for arm in ARMS if (first / arm / "measured").exists()]
        for _ in draw_figures(runs, figures / name, by="method", scorer="own", judge="oracle", say=lambda _: None):
            pass
    for claim in claims:
        print(f"{claim.verdict:>10}  {claim.claim}: {claim.because}")
    print(f"{len(list(figures.rglob('*.png')))} figures in {figures}. {WORLD}.")


def _plots(out: Path, found: pd.DataFrame) -> Iterator[tuple[str, Plot]]:
    dots = partial(_plot_dots, found)
    yield (
        "21_unsafe_by_split",
        dots(
            {f"Unsafe {part}": [f"unsafe_{part}_{split}" for split in SPLITS] for part in ("thinking", "answer")},
            "share of samples for forbidden requests, by the oracle; little known: to the base, as a hazard",
        ),
    )
    yield "22_safety_and_skill", _plot_trade(found)
    yield (
        "23_reflection",
        dots(
            {
                "Reflections per trace": ["n_reflections_maths", "n_reflections_forbidden"],
                "... per step": ["reflection_rate_maths", "reflection_rate_forbidden"],
                "Share that mend something": ["corrective_maths", "corrective_forbidden"],
            },
            "reflections by the oracle",
            limits=(0, None),
        ),
    )
    if len(rolled := rollouts(out)):
        yield "24_training", _plot_training(rolled)
    yield (
        "25_costs_of_safety",
        dots(
            {
                "Harmless refused": ["over_refusal"],
                "Harmless helped": ["helpful"],
                "Sums right": ["correct"],
                "One closed thought": ["format"],
            },
            "share of samples, by the oracle",
            limits=(None, None),
        ),
    )
    yield (
        "26_entropy",
        dots(
            {
                "Thinking (nats)": [f"entropy_think_{where}" for where in SETS],
                "Reflecting steps (nats)": [f"entropy_reflect_{where}" for where in SETS],
                "On the base's thinking (nats)": [f"entropy_common_{where}" for where in SETS],
            },
            "mean token entropy of each arm on its own samples, and on one text for all: the base's samples",
            limits=(0, None),
        ),
    )
    yield "27_instruments", _plot_instruments(step_truth(out))
    if any(len(pd.read_parquet(path)) for path in out.glob("seed=*/*/early.parquet")):
        yield "28_early_answering", _plot_early(out)


def _cost(out: Path) -> pd.DataFrame:
    """What each arm took, by seed: processor seconds, updates, rows, sampled tokens."""
    rows = []
    for path in sorted(out.glob("seed=*/*/cost.json")):
        known = json.loads(path.read_text(encoding="utf-8"))
        rows.append({"seed": int(path.parts[-3].removeprefix("seed=")), "arm": path.parts[-2], **known})
    return pd.DataFrame(rows)
