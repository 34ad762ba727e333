"""Figures of methods, and of thoughts that were cut and changed (tables of interventions.py)."""

import pandas as pd

from cotlens import stats
from cotlens.measures import (
    by_length,
    continuation_safety,
    harm_by_round,
    prefill_matrix,
    reset_curve,
)
from cotlens.plots import (
    plot_continuation_safety,
    plot_harm_by_round,
    plot_prefill_length,
    plot_prefill_matrix,
    plot_reset,
)
from cotlens.plots.of_studies import MeasuresFigure, StudyFigure, StudyTables
from cotlens.plots.study import plot_measures, present_arms
from cotlens.plots.style import Plot
from cotlens.studies import seeds_apart
from cotlens.studies.arms import LEAST_SEEDS, over_seeds, to_row
from trainers.pocket.arms import METHODS

MATRIX_STEPS = 3  # of a donor's thought, in the matrix

# What a method is to do, and what it may cost.
OVERVIEW = MeasuresFigure(
    "methods/overview",
    {
        "Thinking": ["thinking_unsafe_forbidden"],
        "Answer": ["answer_unsafe_forbidden"],
        "Excuse": ["recovers_forbidden"],
        "Refused": ["refuses_harmless"],
        "Sums": ["is_correct_maths"],
        "Miss": ["recovers_puzzles"],
    },
    "forbidden requests: unsafe thinking, unsafe answers, and refusals after an injected excuse; "
    "harmless requests refused; right sums; right answers after an injected miss",
    (0.0, 1.02),
)


def _prefills(tables: StudyTables, kinds: tuple[str, ...]) -> pd.DataFrame:
    """Rows of some kinds, the prompts of each seed apart, and arms as recipients."""
    table = tables.tables["prefills"]
    is_shown = table["kind"].isin(kinds) | (table["donor"] == "none")
    return seeds_apart(table[is_shown])


def _draw_matrix(tables: StudyTables, domain: str) -> Plot:
    rows = _prefills(tables, ("prefill",))
    is_asked = (rows["steps"] == MATRIX_STEPS) | (rows["donor"] == "none")
    return plot_prefill_matrix(
        prefill_matrix(rows[is_asked & (rows["domain"] == domain)]),
        f"{_WHAT[domain]}; {MATRIX_STEPS} steps of the donor's thought\n{tables.note}",
    )


_WHAT = {
    "forbidden": "safe answers to forbidden requests",
    "look_alike": "harmless requests helped",
}


def _draw_lengths(tables: StudyTables) -> Plot:
    rows = _prefills(tables, ("prefill",))
    is_asked = (rows["domain"] == "forbidden") & rows["donor"].isin(("none", "base"))
    lengths = by_length(rows[is_asked], unit="steps")
    return plot_prefill_length(lengths, f"{_WHAT['forbidden']}\n{tables.note}")


def _draw_reset(tables: StudyTables) -> Plot:
    rows = _prefills(tables, ("reset",))
    curve = reset_curve(rows[rows["kind"] == "reset"])
    return plot_reset(curve, f"{_WHAT['forbidden']}\n{tables.note}")


def _of_base(tables: StudyTables, name: str) -> pd.DataFrame:
    table = tables.tables[name]
    rows = table[table["arm"] == tables.base]
    return seeds_apart(rows).assign(method=tables.base, model="")


def _draw_continuations(tables: StudyTables) -> Plot:
    return plot_continuation_safety(continuation_safety(_of_base(tables, "continuations")))


def _draw_harm(tables: StudyTables) -> Plot:
    rows = _of_base(tables, "attempts")
    n_unsafe = int(rows.groupby("seed")["n_unsafe"].first().sum())
    return plot_harm_by_round(harm_by_round(rows, n_unsafe, by="trigger"), by="trigger")


def mechanism_measures(table: pd.DataFrame) -> pd.DataFrame:
    """What training did to the base's held-out thoughts, by arm, as rows of measures.

    `kl_ratio`: mean KL to the base in the first unsafe step over that in the other steps (IPO's
    sign is a ratio well above 1). `excuse_nll`: mean negative log-likelihood of a token of an
    excuse, in nats (Chain-of-Guardrails' sign: the mask leaves it as it was or higher).

    Args:
        table: arm, seed, prompt_id, kl_cue, kl_other, excuse_nll.
    """
    rows = []
    for arm in present_arms(table):
        arm_rows = table[table["arm"] == arm]
        prompts = arm_rows["seed"].astype(str) + ":" + arm_rows["prompt_id"].astype(str)
        is_moved = arm_rows["kl_other"].sum() > 0  # the base has no KL to itself
        ratio = stats.ratio(arm_rows["kl_cue"], arm_rows["kl_other"], prompts) if is_moved else None
        nll = stats.mean(arm_rows["excuse_nll"], prompts)

        # From three seeds on, over seeds.
        by_seed = list(arm_rows.groupby("seed"))
        if len(by_seed) >= LEAST_SEEDS:
            means = [seed_rows.mean(numeric_only=True) for _, seed_rows in by_seed]
            if ratio is not None:
                ratios = [mean["kl_cue"] / mean["kl_other"] for mean in means]
                ratio = over_seeds(ratios, ratio.n)
            nll = over_seeds([mean["excuse_nll"] for mean in means], nll.n)

        kl_label = "KL at the first unsafe step over KL elsewhere"
        if ratio is not None:
            rows.append({"arm": arm, "measure": "kl_ratio", "label": kl_label, **to_row(ratio)})
        nll_label = "negative log-likelihood of excuses (nats a token)"
        rows.append({"arm": arm, "measure": "excuse_nll", "label": nll_label, **to_row(nll)})
    return pd.DataFrame(rows)


def _draw_mechanisms(tables: StudyTables) -> Plot:
    table = tables.tables["mechanisms"]
    measures = mechanism_measures(table)
    measures["arm"] = pd.Categorical(measures["arm"], list(table["arm"].cat.categories))
    panels = {
        "KL: first unsafe step / others": ["kl_ratio"],
        "NLL of excuses (nats a token)": ["excuse_nll"],
    }
    caption = "the base's held-out thoughts about forbidden requests, read by every arm"
    return plot_measures(measures, panels, caption, tables.note, limits=(0, None))


def _has_methods(tables: StudyTables) -> bool:
    return bool(set(METHODS) & set(tables.measures["arm"]))


PROBE_FIGURES = (
    StudyFigure("methods/overview", _has_methods, OVERVIEW.draw),
    StudyFigure(
        "methods/mechanisms",
        lambda tables: "mechanisms" in tables.tables,
        _draw_mechanisms,
    ),
    StudyFigure(
        "interventions/prefill_matrix",
        lambda tables: "prefills" in tables.tables,
        lambda tables: _draw_matrix(tables, "forbidden"),
    ),
    StudyFigure(
        "interventions/prefill_matrix_harmless",
        lambda tables: "prefills" in tables.tables,
        lambda tables: _draw_matrix(tables, "look_alike"),
    ),
    StudyFigure(
        "interventions/prefill_length",
        lambda tables: "prefills" in tables.tables,
        _draw_lengths,
    ),
    StudyFigure(
        "interventions/reset",
        lambda tables: "prefills" in tables.tables,
        _draw_reset,
    ),
    StudyFigure(
        "interventions/continuation_safety",
        lambda tables: "continuations" in tables.tables,
        _draw_continuations,
    ),
    StudyFigure(
        "interventions/harm_by_round",
        lambda tables: "attempts" in tables.tables,
        _draw_harm,
    ),
)
