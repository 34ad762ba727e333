"""All figures of one run or several: the list FIGURES says what each needs and how it is drawn."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from cotlens.files import names_that_differ
from cotlens.measures.entropy import (
    entropy_survival,
    forking_tokens,
    position_entropy,
    reflection_entropy,
    trace_entropy,
    word_entropy,
)
from cotlens.measures.reflection import reflection_dynamics
from cotlens.measures.unsafe import outcomes, unsafe_dynamics
from cotlens.plots.entropy import (
    plot_entropy_distribution,
    plot_entropy_parts,
    plot_forking_tokens,
    plot_position_entropy,
    plot_reflection_entropy,
)
from cotlens.plots.judges import (
    plot_detector,
    plot_guard_agreement,
    plot_outcomes,
    plot_safety_by_part,
    plot_thinking_by_answer,
)
from cotlens.plots.lengths import plot_lengths
from cotlens.plots.parts import too_few_prompts
from cotlens.plots.reflection import (
    plot_marker_agreement,
    plot_reflection,
    plot_reflection_position,
    plot_transitions,
)
from cotlens.plots.style import Plot, check_folder, save
from cotlens.plots.unsafe import (
    plot_onset_recovery,
    plot_risky_patterns,
    plot_self_jailbreak_kinds,
    plot_unsafe_path,
    plot_unsafe_position,
)
from cotlens.runs.run import Run, open_run
from cotlens.trace import TraceError

# Columns of the trace table that name groups of traces.
GROUPS = (
    "run",
    "model",
    "method",
    "domain",
    "split",
    "sample",
    "training_step",
    "status",
    "opened_by",
    "origin",
    "reasoning",
    "finish_reason",
)
MOST_CURVES = 6  # groups in a figure of curves, its parameter `most`


@dataclass(frozen=True, slots=True)
class RunTables:
    """The tables of all runs as one. Trace ids are unique within a run only, so each starts with its run's path.

    Attributes:
        by: the column that names groups.
        judge: the judge whose verdicts are in `traces`; "" if there is none.
        traces: a row a trace, with the dynamics of reflection and unsafe exploration, and the judge's verdicts.
        steps: a row a step, with `prompt_id` and the column of the groups.
        verdicts: a row per (trace, part, judge), of all judges.
        entropy: tables of token scores by name (`trace`, `position`, `kl`, `reflection`, `survival`, `forking`);
            those that the runs have no scores for are missing.
    """

    by: str
    judge: str
    traces: pd.DataFrame
    steps: pd.DataFrame
    verdicts: pd.DataFrame
    entropy: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def has_reflection(self) -> bool:
        """Whether some trace is in a language that the classifier knows."""
        return bool(self.traces["n_reflect"].notna().any())

    @property
    def has_markers(self) -> bool:
        """Whether some step has safety markers."""
        if "is_self_jailbreak" not in self.steps:
            return False
        return bool(self.steps["is_self_jailbreak"].notna().any())

    @property
    def has_outcomes(self) -> bool:
        """Whether some answer is judged, of traces that have markers."""
        return self._is_known("answer_unsafe") and "first_risk" in self.traces

    @property
    def has_both_parts(self) -> bool:
        """Whether thinking and answer of some trace are judged; markers may stand in for the judge of the thinking."""
        if not self._is_known("answer_unsafe"):
            return False
        thinking = self.with_thinking_verdicts().get("thinking_unsafe")
        if thinking is None:
            return False
        return bool((thinking.notna() & self.traces["answer_unsafe"].notna()).any())

    @property
    def has_several_judges(self) -> bool:
        """Whether two judges have judged the same part."""
        return bool((self.verdicts.groupby("part")["judge"].nunique() > 1).any())

    @property
    def has_judged_markers(self) -> bool:
        """Whether some thinking has both markers and a verdict of the judge."""
        if not {"thinking_unsafe", "any_unsafe"} <= set(self.traces):
            return False
        is_both = self.traces["thinking_unsafe"].notna() & self.traces["any_unsafe"].notna()
        return bool(is_both.any())

    def _is_known(self, column: str) -> bool:
        return column in self.traces and bool(self.traces[column].notna().any())

    def with_outcomes(self) -> pd.DataFrame:
        """The traces with `outcome`."""
        return self.traces.assign(outcome=outcomes(self.traces, self.traces["answer_unsafe"]))

    def with_thinking_verdicts(self) -> pd.DataFrame:
        """The traces with `thinking_unsafe`: the judge's, or where it judged no thinking the markers'."""
        if self._has_own_thinking_verdicts or "any_unsafe" not in self.traces:
            return self.traces
        return self.traces.assign(thinking_unsafe=self.traces["any_unsafe"].astype("boolean"))

    @property
    def _has_own_thinking_verdicts(self) -> bool:
        return "thinking_unsafe" in self.traces

    @property
    def judges_of_parts(self) -> str:
        """Who judged thinking and answer, for a caption."""
        if self._has_own_thinking_verdicts:
            return f"thinking and answer judged by {self.judge}"
        return f"thinking: has an unsafe step by the markers; answer judged by {self.judge}"


class RunFigure(NamedTuple):
    """One figure of runs.

    Attributes:
        name: SUBJECT/WHAT_IT_SHOWS: the folder and the file it is written to.
        has_data: whether the runs have what it needs.
        draw: draws it.
        is_of_curves: it shows the `MOST_CURVES` largest groups only.
    """

    name: str
    has_data: Callable[[RunTables], bool]
    draw: Callable[[RunTables], Plot]
    is_of_curves: bool = False

    @property
    def subject(self) -> str:
        """The first half of its name."""
        return self.name.partition("/")[0]


def _has_entropy(name: str) -> Callable[[RunTables], bool]:
    return lambda tables: name in tables.entropy


FIGURES: tuple[RunFigure, ...] = (
    RunFigure(
        "lengths/by_part",
        lambda tables: True,  # noqa: ARG005
        lambda tables: plot_lengths(tables.traces, tables.by),
    ),
    RunFigure(
        "reflection/rate",
        lambda tables: tables.has_reflection,
        lambda tables: plot_reflection(tables.traces, tables.by),
    ),
    RunFigure(
        "reflection/position",
        lambda tables: tables.has_reflection,
        lambda tables: plot_reflection_position(tables.steps, tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "reflection/marker_agreement",
        lambda tables: tables.has_reflection,
        lambda tables: plot_marker_agreement(tables.steps),
    ),
    RunFigure(
        "reflection/transitions",
        lambda tables: tables.has_reflection,
        lambda tables: plot_transitions(tables.steps),
    ),
    RunFigure(
        "entropy/parts",
        _has_entropy("trace"),
        lambda tables: plot_entropy_parts(tables.entropy["trace"], tables.by),
    ),
    RunFigure(
        "entropy/position",
        _has_entropy("position"),
        lambda tables: plot_position_entropy(tables.entropy["position"], tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "entropy/around_reflection",
        _has_entropy("reflection"),
        lambda tables: plot_reflection_entropy(tables.entropy["reflection"], tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "entropy/distribution",
        _has_entropy("survival"),
        lambda tables: plot_entropy_distribution(tables.entropy["survival"], tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "entropy/forking_tokens",
        _has_entropy("forking"),
        lambda tables: plot_forking_tokens(tables.entropy["forking"]),
    ),
    RunFigure(
        "entropy/kl_position",
        _has_entropy("kl"),
        lambda tables: plot_position_entropy(
            tables.entropy["kl"], tables.by, label="KL to the reference"
        ),
        is_of_curves=True,
    ),
    RunFigure(
        "unsafe/position",
        lambda tables: tables.has_markers,
        lambda tables: plot_unsafe_position(tables.steps, tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "unsafe/path",
        lambda tables: tables.has_markers,
        lambda tables: plot_unsafe_path(tables.traces, tables.by),
    ),
    RunFigure(
        "unsafe/risky_patterns",
        lambda tables: tables.has_markers,
        lambda tables: plot_risky_patterns(tables.traces, tables.by),
    ),
    RunFigure(
        "unsafe/onset_recovery",
        lambda tables: tables.has_markers,
        lambda tables: plot_onset_recovery(tables.traces, tables.by),
        is_of_curves=True,
    ),
    RunFigure(
        "unsafe/self_jailbreak_kinds",
        lambda tables: tables.has_markers,
        lambda tables: plot_self_jailbreak_kinds(tables.steps, tables.by),
    ),
    RunFigure(
        "judges/outcomes",
        lambda tables: tables.has_outcomes,
        lambda tables: plot_outcomes(tables.with_outcomes(), tables.by, judge=tables.judge),
    ),
    RunFigure(
        "judges/thinking_by_answer",
        lambda tables: tables.has_both_parts,
        lambda tables: plot_thinking_by_answer(
            tables.with_thinking_verdicts(), tables.by, judges=tables.judges_of_parts
        ),
        is_of_curves=True,
    ),
    RunFigure(
        "judges/safety_by_part",
        lambda tables: tables.has_both_parts,
        lambda tables: plot_safety_by_part(
            tables.with_thinking_verdicts(), tables.by, judges=tables.judges_of_parts
        ),
    ),
    RunFigure(
        "judges/agreement",
        lambda tables: tables.has_several_judges,
        lambda tables: plot_guard_agreement(tables.verdicts),
    ),
    RunFigure(
        "judges/detector",
        lambda tables: tables.has_judged_markers,
        lambda tables: plot_detector(tables.traces, tables.by, judge=tables.judge),
    ),
)


def draw_figures(
    runs: Sequence[str | Path | Run],
    out: str | Path,
    *,
    by: str = "",
    scorer: str = "",
    judge: str = "",
    where: Mapping[str, str] | None = None,
    say: Callable[[str], object] = print,
) -> list[Path]:
    """Draw every figure that the runs have data for, and return the paths.

    Each figure is written as pdf, png, csv (the numbers drawn) and json (what they were made from), into a folder of
    its subject. The same runs give the same bytes.

    Args:
        runs: complete run directories.
        out: folder for the figures.
        by: what is compared, one of `GROUPS`; default: `run` if there are several runs, else `model`.
        scorer: whose token scores to draw, if several models scored a run.
        judge: whose verdicts to draw; default: the first by name. Agreement is drawn of all.
        where: column of `GROUPS` -> the value that traces must have to be drawn.
        say: called with what is left out and why.

    Raises:
        TraceError: if a run is not complete, its traces have no such groups, or there is no such scorer or judge.
    """
    opened = list({run.path.resolve(): run for run in map(open_run, runs)}.values())
    names = dict(zip(opened, names_that_differ([run.path for run in opened]), strict=True))
    for run in opened:
        if not run.info.get("complete"):
            raise TraceError(
                f"{run.path}: the run is not complete; "
                "call `cotlens analyze` again with the same inputs"
            )
    out = Path(out)
    check_folder(out)

    by = by or ("run" if len(opened) > 1 else "model")
    selection = _Selection(names, by, dict(where or {}))
    tables = _join_runs(opened, selection, judge, scorer, say)
    drawable = [figure for figure in FIGURES if figure.has_data(tables)]
    for remark in _remarks(tables, drawable):
        say(remark)

    paths = []
    provenance = _provenance(opened, selection, tables)
    for figure in tqdm(drawable, desc="figures", unit=" figures"):
        record = {"figure": figure.name, **provenance}
        if figure.subject == "entropy":
            record["scores"] = _score_infos(opened, names, scorer)
        if figure.subject == "judges":
            record["judges"] = tables.judge or sorted(set(tables.verdicts["judge"]))
        paths += save(figure.draw(tables), out / figure.name, record)
    return paths


def _remarks(tables: RunTables, drawable: Sequence[RunFigure]) -> list[str]:
    """What a reader may miss in the folder, and what to read with care, a line each."""
    remarks = []
    subjects = {figure.subject for figure in drawable}
    if "entropy" not in subjects:
        remarks.append(
            "no figures of token entropy: `cotlens score RUN --model MODEL` gives what they need"
        )
    if "judges" not in subjects:
        remarks.append(
            "no figures of judged safety: `cotlens guard RUN --judge JUDGE` gives what they need"
        )
    n_groups = tables.traces[tables.by].nunique(dropna=False)
    if n_groups > MOST_CURVES:
        curves = ", ".join(figure.name for figure in drawable if figure.is_of_curves)
        remarks.append(f"of the {MOST_CURVES} largest of {n_groups} groups only: {curves}")

    n_prompts = tables.traces.groupby(tables.by, dropna=False)["prompt_id"].nunique()
    return remarks + too_few_prompts("", n_prompts)


# --- what is drawn -----------------------------------------------------------------------------


class _Selection(NamedTuple):
    """Which traces are drawn, and in which groups."""

    names: Mapping[Run, str]
    by: str
    where: Mapping[str, str]

    def traces(self, run: Run, table: pd.DataFrame) -> pd.DataFrame:
        """The traces of a run that are drawn, with the column `run`."""
        table = table.assign(run=self.names[run])
        for column, value in self.where.items():
            table = table[table[column].astype(str) == value]
        return table

    def group_columns(self, table: pd.DataFrame) -> pd.DataFrame:
        """The columns that every table needs: trace, prompt and group."""
        return table[["trace_id", "prompt_id", *{self.by} - {"prompt_id"}]]

    def in_order(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with runs in the order in which they were named, however a figure sorts."""
        if self.by != "run" or "run" not in table:
            return table
        return table.assign(run=pd.Categorical(table["run"], list(self.names.values())))


def _join_runs(
    runs: Sequence[Run],
    selection: _Selection,
    judge: str,
    scorer: str,
    say: Callable[[str], object],
) -> RunTables:
    """The tables of all runs as one."""
    all_traces = [run.trace_table() for run in runs]
    named = [
        table.assign(run=selection.names[run]) for run, table in zip(runs, all_traces, strict=True)
    ]
    _check_groups(named, selection.by, "--by")
    for column in selection.where:
        _check_groups(named, column, "--where")
    judges = {name for run in runs for name in run.judges}
    judge = judge or min(judges, default="")

    traces, steps, verdicts = [], [], []
    for run, run_traces in zip(runs, all_traces, strict=True):
        selected = selection.traces(run, run_traces)
        if selected.empty:
            continue
        ids = selected["trace_id"]
        run_steps = run.step_table()
        run_steps = run_steps[run_steps["trace_id"].isin(ids)]
        dynamics = reflection_dynamics(run_steps, selected)
        if "is_self_jailbreak" in run_steps:
            dynamics = unsafe_dynamics(run_steps, dynamics)
        if judge in run.judges:
            dynamics = run.with_verdicts(dynamics, judge)
        run_steps = run_steps.merge(selection.group_columns(selected), on="trace_id")
        run_verdicts = run.verdicts()
        run_verdicts = run_verdicts[run_verdicts["trace_id"].isin(ids)]

        traces.append(_with_run(dynamics, run))
        steps.append(_with_run(run_steps, run))
        verdicts.append(_with_run(run_verdicts, run))
    if not traces:
        wanted = ", ".join(f"{name} = {value}" for name, value in selection.where.items())
        raise TraceError(f"no trace has {wanted or 'a row'}")
    _check_name(judge, judges, "verdicts", "judges", "guard")

    return RunTables(
        by=selection.by,
        judge=judge,
        traces=selection.in_order(pd.concat(traces, ignore_index=True)),
        steps=selection.in_order(pd.concat(steps, ignore_index=True)),
        verdicts=selection.in_order(pd.concat(verdicts, ignore_index=True)),
        entropy=_entropy_tables(runs, selection, scorer, say),
    )


def _with_run(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The table with ids that are unique over all runs."""
    return table.assign(trace_id=f"{run.path}:" + table["trace_id"])


def _check_groups(tables: Sequence[pd.DataFrame], column: str, option: str) -> None:
    """Raise TraceError if a column names no groups of traces: an identifier, a measure, or empty everywhere."""
    known = []
    for name in GROUPS:
        if any((~table[name].isin(["", -1])).any() for table in tables):
            known.append(name)
    if column not in (*known, "model"):
        why = "no trace has one" if column in GROUPS else "does not name groups of traces"
        raise TraceError(f"{option} {column}: {why}; what there is: {', '.join(known)}")


def _check_name(wanted: str, names: set[str], what: str, whose: str, command: str) -> None:
    """Raise TraceError if a judge or scorer was named that no run has."""
    if wanted and wanted not in names:
        there = ", ".join(sorted(names)) or f"none; make them with `cotlens {command}`"
        raise TraceError(f"no {what} of {wanted}; {whose}: {there}")


# --- token scores ------------------------------------------------------------------------------


def _entropy_tables(
    runs: Sequence[Run], selection: _Selection, scorer: str, say: Callable[[str], object]
) -> dict[str, pd.DataFrame]:
    """The tables of token scores of the runs that a model has scored, read a shard at a time."""
    scorers = {name for run in runs for name in run.scorers}
    _check_name(scorer, scorers, "scores", "scorers", "score")
    scored = []
    for run in runs:
        only_scorer = run.scorers[0] if len(run.scorers) == 1 else ""
        if not scorer and only_scorer and not run.is_scored(only_scorer):
            say(f"{run.path}: scoring by {only_scorer} is not complete; no figures of entropy")
        elif run.scorers:
            scored.append(run)
    selection = selection._replace(names={run: selection.names[run] for run in scored})

    collected: dict[str, list[pd.DataFrame]] = {}
    for run in scored:
        for shard_tables in _shard_entropy(run, selection, scorer):
            for name, table in shard_tables.items():
                collected.setdefault(name, []).append(table)

    tables = {}
    for name, shards in collected.items():
        tables[name] = selection.in_order(pd.concat(shards, ignore_index=True))
    return _drawable_entropy(tables)


def _shard_entropy(
    run: Run, selection: _Selection, scorer: str
) -> Iterator[dict[str, pd.DataFrame]]:
    """The measures of token scores of each shard of a run."""
    for all_traces, all_steps, all_scores in run.scored_shards(scorer):
        traces = selection.traces(run, all_traces)
        if traces.empty:
            continue
        steps = all_steps[all_steps["trace_id"].isin(traces["trace_id"])]
        scores = all_scores[all_scores["trace_id"].isin(traces["trace_id"])]
        measured = {
            "position": position_entropy(traces, scores),
            "reflection": reflection_entropy(steps, scores),
            "survival": entropy_survival(scores, np.geomspace(1e-3, 12, 61)),
        }
        if scores["kl"].notna().any():
            measured["kl"] = position_entropy(traces, scores, column="kl")

        groups = selection.group_columns(traces)
        tables = {"trace": _with_run(trace_entropy(traces, steps, scores), run)}
        for name, table in measured.items():
            tables[name] = _with_run(table.merge(groups, on="trace_id"), run)
        if "completion" in traces:
            tables["words"] = word_entropy(traces, scores)
        yield tables


def _drawable_entropy(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables that have something to draw, with `forking` in place of `words`."""
    drawable = {}
    if "trace" in tables and tables["trace"]["entropy_think"].notna().any():
        drawable["trace"] = tables["trace"]
        drawable["position"] = tables["position"]
    if "words" in tables:
        tables["forking"] = forking_tokens(tables.pop("words"))
    for name in ("reflection", "survival", "kl", "forking"):
        if name in tables and len(tables[name]):
            drawable[name] = tables[name]
    return drawable


# --- provenance --------------------------------------------------------------------------------


def _provenance(runs: Sequence[Run], selection: _Selection, tables: RunTables) -> dict[str, Any]:
    """What the figures were made from."""
    inputs = []
    for run in runs:
        for source in run.info["inputs"]:
            inputs.append(source | {"path": Path(source["path"]).name})
    record: dict[str, Any] = {"by": selection.by, "inputs": inputs}
    if selection.where:
        record["where"] = dict(selection.where)
    record["n_traces"] = len(tables.traces)
    record["n_steps"] = len(tables.steps)
    return record


def _score_infos(runs: Sequence[Run], names: Mapping[Run, str], scorer: str) -> dict[str, Any]:
    infos = {}
    for run in runs:
        if run.scorers:
            infos[names[run]] = run.score_info(scorer or run.scorers[0])
    return infos
