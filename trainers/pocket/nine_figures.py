"""Figures of all nine systems, and of what those with own data, words and tokens are about.

Tables beyond the samples are those of interventions.py (prefills), outcomes.py (thinking,
likelihood, pivots) and drift.py.
"""

from collections.abc import Callable

import pandas as pd

from cotlens import stats
from cotlens.measures import perplexity_by_arm, thinking_effect
from cotlens.plots import (
    plot_data_perplexity,
    plot_drift,
    plot_pivots,
    plot_removals,
    plot_thinking_effect,
)
from cotlens.plots.of_studies import ENTROPY, StudyFigure, StudyTables
from cotlens.plots.study import plot_measures, present_arms
from cotlens.plots.style import Plot
from cotlens.studies import removal_effects, removal_pairs
from cotlens.studies.arms import derive, to_row
from trainers.pocket.probe_figures import MATRIX_STEPS, OVERVIEW

# One arm stands for each of the nine systems, after the base.
MAIN = {
    "base": "the base",
    "filtered_sft": "Beyond SFT: SFT",
    "grpo": "Beyond SFT: GRPO",
    "dgr_teacher": "DGR",
    "thinksafe": "ThinkSafe",
    "rlvr": "RLVR",
    "safb": "CoG (SafB)",
    "recap": "RECAP",
    "ipo": "IPO",
    "study_improved": "SFT study",
    "r2d": "R2D",
}
PANELS = {
    "Thinking": ["thinking_unsafe_forbidden"],
    "Answer": ["answer_unsafe_forbidden"],
    "Prefilled": ["unsafe_prefilled"],
    "Refused": ["refuses_harmless"],
    "Sums": ["is_correct_maths"],
    "Puzzles": ["is_correct_puzzles"],
    "Miss": ["recovers_puzzles"],
    "Nats": ["entropy_think_puzzles"],
    "M tokens": ["million_tokens"],
}
_CAPTION = (
    "forbidden requests: unsafe thinking, unsafe answers, unsafe answers after "
    f"{MATRIX_STEPS} steps of the base's thought; harmless requests refused; right sums and "
    "puzzles; right after an injected miss; entropy of thinking about puzzles; tokens sampled and "
    "trained on"
)


def nine_table(tables: StudyTables) -> pd.DataFrame:
    """The measures of PANELS for the main arms: arm, measure, value, low, high, n, label.

    `unsafe_prefilled` is the share of unsafe answers to forbidden requests after the first steps of
    the base's thought, with an interval over prompts; `million_tokens` counts the tokens that an
    arm sampled and was trained on, without an interval.
    """
    wanted = [name for names in PANELS.values() for name in names]
    measures = tables.measures[tables.measures["measure"].isin(wanted)]
    further = pd.DataFrame([*_prefilled(tables), *_costs(tables)])
    table = pd.concat([measures, further], ignore_index=True)

    # In the order of the papers, under their names.
    table = table[table["arm"].isin(MAIN)]
    names = [name for arm, name in MAIN.items() if arm in set(table["arm"])]
    return table.assign(
        of_arm=table["arm"].astype(str),
        arm=pd.Categorical(table["arm"].astype(str).map(MAIN), names),
    )


def _prefilled(tables: StudyTables) -> list[dict[str, object]]:
    """Unsafe answers after the base's thought, by arm."""
    if "prefills" not in tables.tables:
        return []
    prefills = tables.tables["prefills"]
    is_shown = (prefills["donor"] == "base") & (prefills["steps"] == MATRIX_STEPS)
    is_shown &= (prefills["kind"] == "prefill") & (prefills["domain"] == "forbidden")

    rows = []
    for arm, of_arm in prefills[is_shown].groupby("arm", observed=True):
        prompts = of_arm["seed"].astype(str) + ":" + of_arm["prompt_id"].astype(str)
        share = stats.proportion(1.0 - of_arm["is_safe"].astype(float), prompts)
        label = "unsafe answers after the base's thought"
        rows.append({"arm": arm, "measure": "unsafe_prefilled", "label": label, **to_row(share)})
    return rows


def _costs(tables: StudyTables) -> list[dict[str, object]]:
    """Tokens that each arm took, in millions."""
    if "cost_by_arm" not in tables.results:
        return []
    rows = []
    for row in tables.results["cost_by_arm"].to_dict("records"):
        tokens = row["total_tokens"] / 1e6
        label = "million tokens, sampled and trained on"
        rows.append(
            {
                "arm": row["arm"],
                "measure": "million_tokens",
                "label": label,
                "value": tokens,
                "low": tokens,
                "high": tokens,
                "n": row["n_seeds"],
            }
        )
    return rows


def _draw_nine(tables: StudyTables) -> Plot:
    return plot_measures(
        nine_table(tables),
        PANELS,
        _CAPTION,
        tables.note,
        limits=(0, None),
    )


# --- one system each -----------------------------------------------------------------------------


def _draw_drift(tables: StudyTables) -> Plot:
    return plot_drift(tables.tables["drift"], tables.note)


def _draw_pivots(tables: StudyTables) -> Plot:
    pivots = tables.tables["pivots"]
    of_main = pivots[pivots["arm"] == "r2d"]
    return plot_pivots(of_main, f"arm r2d, the learned guard's tags\n{tables.note}")


def _draw_thinking(tables: StudyTables, domain: str, flag: str) -> Plot:
    thinking = tables.tables["thinking"]
    rows = thinking[(thinking["domain"] == domain) & thinking["arm"].isin(MAIN)]
    prompts = rows["seed"].astype(str) + ":" + rows["prompt_id"].astype(str)
    named = rows.assign(
        prompt_id=prompts,
        arm=rows["arm"].astype(str).map(MAIN),
    )
    effect = thinking_effect(named, verdict="is_good", by="arm")
    text = f"without: after an empty thought, of which the base has seen none\n{tables.note}"
    return plot_thinking_effect(effect, text, flag=flag)


def perplexity_table(tables: StudyTables, measure: str = "is_correct_puzzles") -> pd.DataFrame:
    """Perplexity of each arm's rows under the base, and the arm's change of a measure.

    Returns:
        arm, perplexity, change, each of the two with `_low` and `_high`, as `plot_data_perplexity`
        takes them.
    """
    rows = perplexity_by_arm(tables.tables["likelihood"])
    rows = rows.rename(columns={"value": "perplexity"})
    rows = rows.rename(columns={"low": "perplexity_low", "high": "perplexity_high"})

    changes = tables.results["differences"]
    changes = changes[changes["measure"] == measure]
    named = {"value": "change", "low": "change_low", "high": "change_high"}
    changes = changes[["arm", *named]].rename(columns=named)
    return rows.merge(changes.astype({"arm": str}), on="arm")


def _draw_perplexity(tables: StudyTables) -> Plot:
    table = perplexity_table(tables)
    return plot_data_perplexity(table, tables.note, skill="the share of right puzzles")


def _draw_removals(tables: StudyTables, column: str, flag: str) -> Plot:
    samples = tables.tables["samples"]
    arms = present_arms(samples)
    effects = removal_effects(derive(samples, arms), removal_pairs(arms), column)
    return plot_removals(effects, tables.note, flag=flag)


def _has_removals(tables: StudyTables) -> bool:
    return bool(removal_pairs(present_arms(tables.tables["samples"])))


def _has(name: str, arm: str = "") -> Callable[[StudyTables], bool]:
    """Whether the study has a table, of some arm."""

    def has_table(tables: StudyTables) -> bool:
        if name not in tables.tables:
            return False
        return not arm or arm in present_arms(tables.tables[name])

    return has_table


NINE_FIGURES = (
    StudyFigure("nine/overview", _has("samples"), _draw_nine),
    StudyFigure("nine/all_arms", _has("samples"), OVERVIEW.draw),
    ENTROPY._replace(name="nine/entropy").as_figure(),
    StudyFigure("own/drift", _has("drift"), _draw_drift),
    StudyFigure("own/perplexity_skill", _has("likelihood"), _draw_perplexity),
    StudyFigure(
        "own/removals",
        _has_removals,
        lambda tables: _draw_removals(tables, "answer_unsafe", "unsafe answers"),
    ),
    StudyFigure(
        "own/removals_thinking",
        _has_removals,
        lambda tables: _draw_removals(tables, "thinking_unsafe", "unsafe thinking"),
    ),
    StudyFigure("own/pivots", _has("pivots", "r2d"), _draw_pivots),
    StudyFigure(
        "own/thinking_forbidden",
        _has("thinking"),
        lambda tables: _draw_thinking(tables, "forbidden", "safe"),
    ),
    StudyFigure(
        "own/thinking_maths",
        _has("thinking"),
        lambda tables: _draw_thinking(tables, "maths", "right"),
    ),
)
