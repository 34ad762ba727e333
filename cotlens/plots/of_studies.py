"""All figures of a study: the list FIGURES says what each needs and how it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from tqdm import tqdm

from cotlens import studies
from cotlens.cells import to_csv
from cotlens.files import hash_path, write_atomic
from cotlens.plots.claims import frontier_panels, plot_frontier, plot_recovery, recovery_panels
from cotlens.plots.confounds import plot_confounds
from cotlens.plots.parts import too_few_prompts
from cotlens.plots.probes import plot_early_answering
from cotlens.plots.study import plot_measures, plot_safety_and_skill
from cotlens.plots.style import Plot, check_folder, save
from cotlens.plots.training import plot_obfuscation, plot_training, training_panels
from cotlens.studies import Column, Study
from cotlens.studies.arms import COLUMNS, DOMAINS, SKILLS
from cotlens.studies.cost import cost_by_arm
from cotlens.studies.frontier import equal_level_gaps


class StudyTables(NamedTuple):
    """The tables of a study, as figures take them.

    Attributes:
        results: measures, differences, confounds, verdicts, and the csv files that the study
            brought along, by name.
        tables: the study's own tables (samples, rollouts, updates, early, ...), `arm` in the
            study's order.
        splits: the splits of the forbidden prompts.
        note: the line under every figure.
        base: the arm that the others are compared with.
        chance: measure -> what guessing would give.
    """

    results: Mapping[str, pd.DataFrame]
    tables: Mapping[str, pd.DataFrame]
    splits: Sequence[str]
    note: str
    base: str = "base"
    chance: Mapping[str, float] = {}

    @property
    def measures(self) -> pd.DataFrame:
        """One row per (arm, measure)."""
        return self.results["measures"]

    def has_measures(self, *names: str) -> bool:
        """Whether some arm has each of these measures."""
        return set(names) <= set(self.measures["measure"])


class StudyFigure(NamedTuple):
    """One figure of a study.

    Attributes:
        name: SUBJECT/WHAT_IT_SHOWS: the folder and the file it is written to.
        has_data: whether the study has what it needs.
        draw: draws it.
    """

    name: str
    has_data: Callable[[StudyTables], bool]
    draw: Callable[[StudyTables], Plot]


def draw_study(
    study: Study | str | Path,
    out: str | Path,
    *,
    samples: pd.DataFrame | None = None,
    columns: Mapping[str, Column] = COLUMNS,
    figures: Sequence[StudyFigure] | None = None,
    say: Callable[[str], object] = print,
) -> list[Path]:
    """Write a study's results as csv, draw the figures it has data for, and return the paths.

    The results are measures, differences, confounds, verdicts on the study's claims, arms at equal
    safety (`equal_levels`, of the table `frontier`), `cost_by_arm`, and the csv files in its
    folder. The same study gives the same bytes.

    Args:
        study: a study or its folder.
        out: folder for the results; figures go into a folder for each subject.
        samples: default: `study.samples()`. An experiment that knows more adds columns.
        columns: what is measured of the samples.
        figures: which figures; default: `FIGURES`.
        say: called with the splits that have too few prompts.

    Raises:
        TraceError: if the folder is not a study.
    """
    study = study if isinstance(study, Study) else Study(Path(study))
    out = Path(out)
    info = study.info
    samples = study.samples() if samples is None else samples
    check_folder(out)

    # Results replace what an earlier drawing into the study's own folder has left.
    results = {}
    for path in sorted(study.path.glob("*.csv")):
        results[path.stem] = pd.read_csv(path)
    results |= _results(samples, info, columns)
    own_tables = _own_tables(study, list(info["arms"]))
    if "cost" in results:
        results["cost_by_arm"] = cost_by_arm(results["cost"])
    if "frontier" in own_tables and info.get("rl"):
        base = info["base"]
        results["equal_levels"] = equal_level_gaps(own_tables["frontier"], [info["rl"]], base=base)
    paths = []
    for name, table in results.items():
        content = to_csv(table, float_format="%.6g")
        write_atomic(out / f"{name}.csv", content)
        paths.append(out / f"{name}.csv")

    forbidden = samples[samples["set"] == "forbidden"]
    for remark in too_few_prompts("splits of ", forbidden.groupby("split")["cluster"].nunique()):
        say(remark)

    tables = StudyTables(
        results=results,
        tables=own_tables,
        splits=studies.splits(samples),
        note=info.get("note", ""),
        base=info["base"],
        chance=info.get("chance", {}),
    )
    provenance = _provenance(study, info, samples)
    chosen = FIGURES if figures is None else figures
    drawable = [figure for figure in chosen if figure.has_data(tables)]
    for figure in tqdm(drawable, desc="figures", unit=" figures"):
        plot = figure.draw(tables)
        record = {"figure": figure.name, **provenance}
        paths += save(plot, out / figure.name, record)
    return paths


def _results(
    samples: pd.DataFrame, info: Mapping[str, Any], columns: Mapping[str, Column]
) -> dict[str, pd.DataFrame]:
    """Measures, differences, confounds and verdicts."""
    base = info["base"]
    measures = studies.measures(samples, columns)
    changes = studies.differences(samples, base, columns)
    results = {
        "measures": measures,
        "differences": changes,
        "confounds": studies.confounds(samples, base),
    }
    claims = info.get("claims", ())
    if claims:
        evidence = studies.Evidence(samples, measures, changes, base)
        verdicts = studies.verdicts(claims, evidence, info)
        results["verdicts"] = pd.DataFrame(verdicts, columns=studies.Verdict._fields)
    return results


def _own_tables(study: Study, arms: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The tables of a study that have rows."""
    tables = {}
    for name in study.tables:
        table = study.table(name)
        if len(table):
            in_order = pd.Categorical(table["arm"], list(arms))
            tables[name] = table.assign(arm=in_order)

    # Early answers of an older study do not name the split of their prompt; the samples do.
    if "early" in tables and "split" not in tables["early"]:
        keys = ["seed", "prompt_id"]
        samples = study.table("samples")
        splits = samples.drop_duplicates(keys)[[*keys, "split"]]
        tables["early"] = tables["early"].merge(splits, on=keys, how="left")
    return tables


def _provenance(study: Study, info: Mapping[str, Any], samples: pd.DataFrame) -> dict[str, Any]:
    """What the figures were made from."""
    provenance = dict(info)
    for key in ("note", "arms"):
        provenance.pop(key, None)
    provenance["seeds"] = sorted(map(int, set(samples["seed"])))
    provenance["n_samples"] = len(samples)
    provenance["study"] = hash_path(study.path)
    return provenance


# --- the figures -------------------------------------------------------------------------------


class MeasuresFigure(NamedTuple):
    """Measures of all arms, one panel a title.

    Attributes:
        name: as of `StudyFigure`.
        panels: title -> names of measures; `COLUMN_*` stands for that of each split.
        caption: what is shown.
        limits: of the axes; None is the data's.
    """

    name: str
    panels: Mapping[str, Sequence[str]]
    caption: str
    limits: tuple[float | None, float | None]

    def panels_of(self, tables: StudyTables) -> dict[str, list[str]]:
        """The panels with the splits of this study."""
        named: dict[str, list[str]] = {}
        for title, measures in self.panels.items():
            named[title] = []
            for measure in measures:
                if measure.endswith("*"):
                    column = measure.removesuffix("*")
                    named[title] += [f"{column}{split}" for split in tables.splits]
                else:
                    named[title].append(measure)
        return named

    def has_data(self, tables: StudyTables) -> bool:
        """Whether some arm has one of the measures."""
        known = set(tables.measures["measure"])
        panels = self.panels_of(tables).values()
        return any(known & set(measures) for measures in panels)

    def draw(self, tables: StudyTables) -> Plot:
        """The figure."""
        return plot_measures(
            tables.measures,
            self.panels_of(tables),
            self.caption,
            tables.note,
            limits=self.limits,
        )

    def as_figure(self) -> StudyFigure:
        """An entry of FIGURES."""
        return StudyFigure(self.name, self.has_data, self.draw)


SHARES = (0.0, 1.02)


def _places(column: str) -> list[str]:
    """The measures of a column of reflection, those of skills first."""
    return [f"{column}_{where}" for where in (*SKILLS, "forbidden")]


UNSAFE_BY_SPLIT = MeasuresFigure(
    "safety/unsafe_by_split",
    {"Unsafe thinking": ["thinking_unsafe_*"], "Unsafe answer": ["answer_unsafe_*"]},
    "share of samples for forbidden requests",
    SHARES,
)
COSTS_OF_SAFETY = MeasuresFigure(
    "safety/costs",
    {
        "Harmless refused": ["refuses_harmless"],
        "Harmless helped": ["is_help_harmless"],
        "Right, maths": ["is_correct_maths"],
        "Right, puzzles": ["is_correct_puzzles"],
        "One closed thought": ["is_format_ok_all"],
    },
    "share of samples",
    (None, None),
)
REFLECTION = MeasuresFigure(
    "reflection/by_arm",
    {
        "Reflections per trace": _places("n_reflections"),
        "... per step": _places("reflection_rate"),
        "Longest run": _places("longest_run"),
    },
    "reflections of the thinking",
    (0, None),
)
ENTROPY = MeasuresFigure(
    "entropy/by_arm",
    {
        "Thinking (nats)": [f"entropy_think_{domain}" for domain in DOMAINS],
        "Reflecting steps": [f"entropy_reflect_{domain}" for domain in DOMAINS],
        "On the base's thinking": [f"entropy_common_{domain}" for domain in DOMAINS],
        "KL to the base": [f"kl_base_{domain}" for domain in DOMAINS],
    },
    "mean token entropy in nats on each arm's own samples, on one text for all (the base's), "
    "and KL to the base",
    (0, None),
)
GUARD_BY_ARM = MeasuresFigure(
    "judges/guard_by_arm",
    {
        "Recall of the guard": ["guard_recall_forbidden"],
        "Unsafe and passed": ["hidden_forbidden"],
        "P(unsafe answer | passed)": ["answer_unsafe_if_passed_forbidden"],
        "Flagged, harmless": ["thinking_flagged_harmless"],
    },
    "thinking of forbidden requests: the reward's guard against the evaluation's judge",
    SHARES,
)


def _has_training(tables: StudyTables) -> bool:
    if "rollouts" not in tables.tables:
        return False
    rollouts = tables.tables["rollouts"]
    updates = tables.tables.get("updates")
    _, panels = training_panels(rollouts, updates)
    return len(panels) > 0


def _draw_training(tables: StudyTables) -> Plot:
    return plot_training(
        tables.tables["rollouts"],
        tables.note,
        updates=tables.tables.get("updates"),
    )


def _has_flagged_rollouts(tables: StudyTables) -> bool:
    rollouts = tables.tables.get("rollouts")
    if rollouts is None or not {"thinking_flagged", "thinking_unsafe"} <= set(rollouts):
        return False
    return bool(rollouts["thinking_flagged"].notna().any())


def _has_frontier(tables: StudyTables) -> bool:
    frontier = tables.tables.get("frontier")
    return frontier is not None and len(frontier_panels(frontier)) > 0


def _draw_recovery(tables: StudyTables) -> Plot:
    return plot_recovery(
        tables.measures,
        tables.note,
        base=tables.base,
        chance=tables.chance,
    )


FIGURES: tuple[StudyFigure, ...] = (
    StudyFigure(
        "claims/frontier",
        _has_frontier,
        lambda tables: plot_frontier(tables.tables["frontier"], tables.note, base=tables.base),
    ),
    StudyFigure(
        "claims/recovery",
        lambda tables: len(recovery_panels(tables.measures)) > 0,
        _draw_recovery,
    ),
    UNSAFE_BY_SPLIT.as_figure(),
    StudyFigure(
        "safety/against_skill",
        lambda tables: tables.has_measures("is_correct_maths", "thinking_unsafe_forbidden"),
        lambda tables: plot_safety_and_skill(tables.measures, tables.note),
    ),
    COSTS_OF_SAFETY.as_figure(),
    REFLECTION.as_figure(),
    ENTROPY.as_figure(),
    StudyFigure("training/curves", _has_training, _draw_training),
    StudyFigure(
        "training/obfuscation",
        _has_flagged_rollouts,
        lambda tables: plot_obfuscation(tables.tables["rollouts"], tables.note),
    ),
    GUARD_BY_ARM.as_figure(),
    StudyFigure(
        "confounds/differences",
        lambda tables: len(tables.results["confounds"]) > 0,
        lambda tables: plot_confounds(tables.results["confounds"], tables.note),
    ),
    StudyFigure(
        "probes/early_answering",
        lambda tables: "early" in tables.tables,
        lambda tables: plot_early_answering(tables.tables["early"], tables.note),
    ),
)
