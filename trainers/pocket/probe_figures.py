"""Figures of methods, and of thoughts that were cut and changed (tables of interventions.py)."""

import pandas as pd

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
from cotlens.plots.style import Plot
from trainers.pocket.arms import METHODS

MATRIX_STEPS = 3  # of a donor's thought, in the matrix

# What a method is to do, and what it may cost.
OVERVIEW = MeasuresFigure(
    "methods/overview",
    {
        "Unsafe, forbidden": ["thinking_unsafe_forbidden", "answer_unsafe_forbidden"],
        "Refuses after an excuse": ["recovers_forbidden"],
        "Harmless refused": ["refuses_harmless"],
        "Right answers": ["is_correct_maths", "is_correct_puzzles"],
        "Right after a miss": ["recovers_puzzles"],
    },
    "clean prompts, but for the panels after an injected excuse or miss; share of samples",
    (0.0, 1.02),
)


def _prefills(tables: StudyTables, kinds: tuple[str, ...]) -> pd.DataFrame:
    """Rows of some kinds, the prompts of each seed apart, and arms as recipients."""
    table = tables.tables["prefills"]
    rows = table[table["kind"].isin(kinds) | (table["donor"] == "none")]
    prompts = rows["seed"].astype(str) + ":" + rows["prompt_id"].astype(str)
    chains = rows["seed"].astype(str) + ":" + rows["chain"].astype(str)
    recipients = rows["arm"].astype(str)
    return rows.assign(prompt_id=prompts, chain=chains, recipient=recipients)


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
    prompts = rows["seed"].astype(str) + ":" + rows["prompt_id"].astype(str)
    sources = rows["seed"].astype(str) + ":" + rows["source"].astype(str)
    return rows.assign(prompt_id=prompts, source=sources, method=tables.base, model="")


def _draw_continuations(tables: StudyTables) -> Plot:
    return plot_continuation_safety(continuation_safety(_of_base(tables, "continuations")))


def _draw_harm(tables: StudyTables) -> Plot:
    rows = _of_base(tables, "attempts")
    n_unsafe = int(rows.groupby("seed")["n_unsafe"].first().sum())
    return plot_harm_by_round(harm_by_round(rows, n_unsafe, by="trigger"), by="trigger")


def _has_methods(tables: StudyTables) -> bool:
    return bool(set(METHODS) & set(tables.measures["arm"]))


PROBE_FIGURES = (
    StudyFigure("methods/overview", _has_methods, OVERVIEW.draw),
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
