"""The tables of several runs as one, as the figures of runs take them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from cotlens.measures.entropy import (
    entropy_survival,
    forking_tokens,
    position_entropy,
    reflection_entropy,
    trace_entropy,
    word_entropy,
)
from cotlens.measures.places import Places
from cotlens.measures.reflection import reflection_dynamics
from cotlens.measures.requests import HarmfulTraces, with_baseline
from cotlens.measures.unsafe import outcomes, unsafe_dynamics
from cotlens.plots.step_sums import STEP_COLUMNS, StepSums, group_columns
from cotlens.runs.by_shard import table_shards
from cotlens.runs.run import Run
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


@dataclass(frozen=True, slots=True)
class RunTables:
    """The tables of all runs as one.

    Trace ids are unique within a run only, so each starts with its run's path.

    Attributes:
        by: the column that names groups.
        judge: the judge whose verdicts are in `traces`; "" if there is none.
        thinking_judge: whose verdicts on the thinking are there: `judge`, or where that one judged
            no thinking the first by name that did; "" if nobody did.
        traces: a row a trace, with the dynamics of reflection and unsafe exploration, and the
            judge's verdicts.
        steps: what figures need of the steps.
        verdicts: a row per (trace, part, judge), of all judges.
        harmful: the traces on requests that are known to ask for harm, and harmless ones of equal
            length.
        harmful_places: where the steps of those traces lie.
        entropy: tables of token scores by name (`trace`, `position`, `kl`, `reflection`,
            `survival`, `forking`); those that the runs have no scores for are missing.
    """

    by: str
    judge: str
    thinking_judge: str
    traces: pd.DataFrame
    steps: StepSums
    verdicts: pd.DataFrame
    harmful: HarmfulTraces
    harmful_places: Places | None
    entropy: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def has_reflection(self) -> bool:
        """Whether some trace is in a language that the classifier knows."""
        return bool(self.traces["n_reflect"].notna().any())

    @property
    def has_harmful(self) -> bool:
        """Whether some trace with safety markers is known to answer a harmful request."""
        return self.harmful.n_harmful > 0

    @property
    def has_outcomes(self) -> bool:
        """Whether some answer is judged, of traces that have markers."""
        return self._is_known("answer_unsafe") and "first_risk" in self.traces

    @property
    def has_both_parts(self) -> bool:
        """Whether thinking and answer of some trace are judged.

        Markers may stand in for the judge of the thinking.
        """
        if not self._is_known("answer_unsafe"):
            return False
        thinking = self.with_thinking_verdicts().get("thinking_unsafe")
        if thinking is None:
            return False
        answer = self.traces["answer_unsafe"]
        both_known = thinking.notna() & answer.notna()
        return bool(both_known.any())

    @property
    def has_several_judges(self) -> bool:
        """Whether two judges have judged the same part."""
        by_part = self.verdicts.groupby("part")
        n_judges = by_part["judge"].nunique()
        return bool(n_judges.max() > 1)

    @property
    def has_judged_markers(self) -> bool:
        """Whether some thinking has both markers and a verdict of the judge."""
        if not {"thinking_unsafe", "any_unsafe"} <= set(self.traces):
            return False
        is_judged = self.traces["thinking_unsafe"].notna()
        is_marked = self.traces["any_unsafe"].notna()
        return bool((is_judged & is_marked).any())

    def _is_known(self, column: str) -> bool:
        if column not in self.traces:
            return False
        return bool(self.traces[column].notna().any())

    def with_outcomes(self) -> pd.DataFrame:
        """The traces with `outcome`."""
        outcome = outcomes(self.traces, self.traces["answer_unsafe"])
        return self.traces.assign(outcome=outcome)

    def with_thinking_verdicts(self) -> pd.DataFrame:
        """The traces with `thinking_unsafe`: a judge's, or `any_unsafe` if nobody judged it."""
        if self.thinking_judge or "any_unsafe" not in self.traces:
            return self.traces
        thinking_unsafe = self.traces["any_unsafe"].astype("boolean")
        return self.traces.assign(thinking_unsafe=thinking_unsafe)

    @property
    def judges_of_parts(self) -> str:
        """Who judged thinking and answer, for a title."""
        thinking = "thinking by markers (any unsafe step), as no judge read it"
        if self.thinking_judge:
            thinking = f"thinking judged by {self.thinking_judge}"
        return f"{thinking}; answer judged by {self.judge}"


# --- what is drawn -----------------------------------------------------------------------------


class Selection(NamedTuple):
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
        return group_columns(table, self.by)

    def in_order(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with runs in the order in which they were named, however a figure sorts."""
        if self.by != "run" or "run" not in table:
            return table
        order = list(self.names.values())
        return table.assign(run=pd.Categorical(table["run"], order))


def join_runs(
    runs: Sequence[Run],
    selection: Selection,
    judge: str,
    scorer: str,
    say: Callable[[str], object],
) -> RunTables:
    """The tables of all runs as one."""
    # Are there such groups?
    stored = [name for name in GROUPS if name != "run"]
    named = []
    for run in runs:
        named.append(run.trace_table(stored).assign(run=selection.names[run]))
    _check_groups(named, selection.by, "--by")
    for column in selection.where:
        _check_groups(named, column, "--where")

    # Who is believed about answers, and about the thinking.
    judges = set()
    for run in runs:
        judges.update(run.judges)
    of_answers = _judges_of(runs, "answer") | _judges_of(runs, "full")
    of_thinking = _judges_of(runs, "thinking")
    candidates = of_answers | of_thinking or judges
    judge = judge or min(candidates, default="")
    thinking_judge = judge if judge in of_thinking else min(of_thinking, default="")

    # Each run's tables, with the traces that are drawn alone.
    traces = []
    sums = StepSums()
    verdicts = []
    for run in runs:
        dynamics = _add_shards(run, selection, sums)
        if dynamics is None:
            continue

        run_verdicts = _of_traces(run.verdicts(), dynamics)
        dynamics = _with_verdicts(dynamics, run, judge, thinking_judge)
        traces.append(_with_run(dynamics, run))
        verdicts.append(_with_run(run_verdicts, run))

    if not traces:
        wanted = [f"{name} = {value}" for name, value in selection.where.items()]
        conditions = ", ".join(wanted) or "a row"
        raise TraceError(f"no trace has {conditions}")
    _check_name(judge, judges, "verdicts", "judges", "guard")

    all_dynamics = selection.in_order(pd.concat(traces, ignore_index=True))
    harmful = with_baseline(all_dynamics, selection.by)
    harmful_places = None
    if harmful.n_harmful:
        harmful_places = sums.unsafe_places(harmful.traces, selection.by)

    return RunTables(
        by=selection.by,
        judge=judge,
        thinking_judge=thinking_judge,
        traces=all_dynamics,
        steps=sums,
        verdicts=selection.in_order(pd.concat(verdicts, ignore_index=True)),
        harmful=harmful,
        harmful_places=harmful_places,
        entropy=_entropy_tables(runs, selection, scorer, say),
    )


def _add_shards(run: Run, selection: Selection, sums: StepSums) -> pd.DataFrame | None:
    """The traces of a run that are drawn, with their dynamics; their steps are added to the sums.

    Shard by shard: no more than one shard's steps are in memory. None if none is drawn.
    """
    tables = []
    for shard_traces, shard_steps in table_shards(run, STEP_COLUMNS):
        traces = selection.traces(run, shard_traces)
        if traces.empty:
            continue

        steps = _of_traces(shard_steps, traces)
        dynamics = reflection_dynamics(steps, traces)
        tables.append(unsafe_dynamics(steps, dynamics))
        sums.add(_with_run(steps, run))
    return pd.concat(tables, ignore_index=True) if tables else None


def _of_traces(table: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that belong to some traces."""
    is_inside = table["trace_id"].isin(traces["trace_id"])
    return table[is_inside]


def _judges_of(runs: Sequence[Run], part: str) -> set[str]:
    """The judges that have judged a part in some run."""
    judges = set()
    for run in runs:
        for name in run.judges:
            if part in run.judged_parts(name):
                judges.add(name)
    return judges


def _with_verdicts(traces: pd.DataFrame, run: Run, judge: str, thinking_judge: str) -> pd.DataFrame:
    """The traces with the verdicts of a judge, of that of the thinking, and on the requests.

    The judge of the requests is the judge, or where that one judged none the first that did.
    """
    if judge in run.judges:
        traces = run.with_verdicts(traces, judge)

    request_judge = min(_judges_of([run], "request"), default="")
    for part, other in (("thinking", thinking_judge), ("request", request_judge)):
        column = f"{part}_unsafe"
        if column in traces or other not in _judges_of([run], part):
            continue
        verdicts = run.with_verdicts(traces[["trace_id"]], other)
        traces = traces.assign(**{column: verdicts[column].array})
    return traces


def _with_run(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The table with ids that are unique over all runs."""
    return table.assign(trace_id=f"{run.path}:" + table["trace_id"])


def _check_groups(tables: Sequence[pd.DataFrame], column: str, option: str) -> None:
    """Raise TraceError if a column names no groups of traces.

    An identifier, a measure, or empty everywhere.
    """
    known = []
    for name in GROUPS:
        values = pd.concat([table[name] for table in tables])
        is_empty = values.isin(["", -1])
        if not is_empty.all():
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
    runs: Sequence[Run], selection: Selection, scorer: str, say: Callable[[str], object]
) -> dict[str, pd.DataFrame]:
    """The tables of token scores of the runs that a model has scored, read a shard at a time."""
    scorers = set()
    for run in runs:
        scorers.update(run.scorers)
    _check_name(scorer, scorers, "scores", "scorers", "score")

    # A run that is only partly scored is left out, unless its scorer was named.
    scored = []
    for run in runs:
        only_scorer = run.scorers[0] if len(run.scorers) == 1 else ""
        if not scorer and only_scorer and not run.is_scored(only_scorer):
            say(f"{run.path}: scoring by {only_scorer} is not complete; no figures of entropy")
        elif run.scorers:
            scored.append(run)
    names = {run: selection.names[run] for run in scored}
    selection = selection._replace(names=names)

    # The tables of all shards by name.
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
    run: Run, selection: Selection, scorer: str
) -> Iterator[dict[str, pd.DataFrame]]:
    """The measures of token scores of each shard of a run."""
    for all_traces, all_steps, all_scores in run.scored_shards(scorer):
        traces = selection.traces(run, all_traces)
        if traces.empty:
            continue

        steps = _of_traces(all_steps, traces)
        scores = _of_traces(all_scores, traces)
        measured = {
            "position": position_entropy(traces, scores),
            "reflection": reflection_entropy(steps, scores),
            "survival": entropy_survival(scores, np.geomspace(1e-3, 12, 61)),
        }
        if scores["kl"].notna().any():
            measured["kl"] = position_entropy(traces, scores, column="kl")

        # A row a trace names its groups itself.
        by_trace = trace_entropy(traces, steps, scores)
        tables = {"trace": _with_run(by_trace, run)}
        groups = selection.group_columns(traces)
        for name, table in measured.items():
            with_groups = table.merge(groups, on="trace_id")
            tables[name] = _with_run(with_groups, run)
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
