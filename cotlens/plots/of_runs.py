"""Runs to figures: joins the tables of one run or several and draws every figure they have data for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from cotlens.measures import entropy
from cotlens.measures.reflection import reflection_dynamics
from cotlens.measures.unsafe import outcomes, unsafe_dynamics
from cotlens.plots import entropy as plot_entropy
from cotlens.plots import judges as plot_guard
from cotlens.plots import lengths
from cotlens.plots import reflection as plot
from cotlens.plots import unsafe as plot_unsafe
from cotlens.plots.parts import too_few_prompts
from cotlens.plots.style import Plot, check_folder, save
from cotlens.runs.run import Run, open_run
from cotlens.trace import TraceError


def draw_figures(
    runs: Sequence[str | Path | Run],
    out: str | Path,
    *,
    by: str = "",
    scorer: str = "",
    judge: str = "",
    where: Mapping[str, str] | None = None,
    say: Callable[[str], object] = print,
) -> Iterator[Path]:
    """Draws what the runs have data for into a folder, each figure as pdf, png, csv and json; yields the paths.

    Args:
        runs: complete run directories.
        out: folder for the figures.
        by: what is compared, one of `GROUPS`; default: `run` where there are several runs, else `model`.
        scorer: whose token scores to draw, where several models scored a run.
        judge: whose verdicts to draw; default: the first by name. Agreement is drawn of all.
        where: column of `GROUPS` -> the value that traces must have to be drawn.
        say: told what is left out, and why.

    Raises:
        TraceError: if a run is not complete, or its traces have no such groups, or there is no such scorer or judge.
    """
    every = map(open_run, runs)
    opened = list({run.path.resolve(): run for run in every}.values())
    names = _names(opened)
    for run in opened:
        if not run.info.get("complete"):
            raise TraceError(
                f"{run.path}: the run is not complete; call `cotlens analyze` again with the same inputs"
            )
    check_folder(Path(out))
    by = by or ("run" if len(opened) > 1 else "model")
    where = dict(where or {})
    listed = [run.trace_table().assign(run=names[run]) for run in opened]
    _check_groups(listed, by, "--by")
    for column in where:
        _check_groups(listed, column, "--where")
    tables = _join(opened, names, listed, by, judge, where)
    inputs = [
        made_from | {"path": Path(made_from["path"]).name}
        for run in opened
        for made_from in run.info["inputs"]
    ]
    of_steps, of_verdicts = _step_figures(tables, by), _verdict_figures(tables, by)
    of_scores = _entropy_figures(opened, names, by, scorer, where, say)
    drawn = of_steps | of_scores | of_verdicts
    for remark in _what_is_left_out(tables, by, of_scores, of_verdicts):
        say(remark)
    for name, picture in tqdm(sorted(drawn.items()), desc="figures", unit=" figures"):
        provenance = {"figure": name, "by": by, "inputs": inputs} | (
            {"where": where} if where else {}
        )
        provenance |= {"n_traces": len(tables.traces), "n_steps": len(tables.steps)}
        if name in of_scores:
            provenance["scores"] = {
                names[run]: run.score_info(scorer or run.scorers[0])
                for run in opened
                if run.scorers
            }
        if name in of_verdicts:
            provenance["judges"] = tables.judge or sorted(set(tables.verdicts["judge"]))
        yield from save(picture, Path(out) / name, provenance)


def _names(runs: Sequence[Run]) -> dict[Run, str]:
    """The runs' folders by as much of their paths as tells them apart."""
    parts = [run.path.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts), default=1) + 1):
        found = ["/".join(part[-depth:]) for part in parts]
        if len(set(found)) == len(found):
            break
    return dict(zip(runs, found, strict=True))


def _check_name(wanted: str, have: set[str], what: str, whose: str, command: str) -> None:
    if wanted and wanted not in have:
        there = ", ".join(sorted(have)) or f"none; make them with `cotlens {command}`"
        raise TraceError(f"no {what} of {wanted}; {whose}: {there}")


GROUPS = ("run", "model", "method", "domain", "split", "sample", "training_step", "status", "opened_by", "origin",
          "reasoning", "finish_reason")  # fmt: skip


def _check_groups(tables: Sequence[pd.DataFrame], by: str, option: str) -> None:
    """Raises TraceError if a column tells no groups of traces apart: an identifier, a measure, or what no trace has."""
    known = [
        name for name in GROUPS if any((~table[name].isin(["", -1])).any() for table in tables)
    ]
    if by not in (*known, "model"):
        why = "no trace has one" if by in GROUPS else "does not name groups of traces"
        raise TraceError(f"{option} {by}: {why}; what there is: {', '.join(known)}")


class _Tables(NamedTuple):
    """The tables of all runs as one. Trace ids are unique within a run only: the run stands before each."""

    traces: (
        pd.DataFrame
    )  # with the dynamics of reflection and of unsafe exploration, and verdicts of the judge
    steps: pd.DataFrame  # with the column of the groups and prompt_id
    verdicts: pd.DataFrame  # one row per (trace, part, judge) of all judges
    judge: str


def _what_is_left_out(tables: _Tables, by: str, of_scores: dict, of_verdicts: dict) -> list[str]:
    """What a reader may miss in the folder, and what to read with care, a line each."""
    remarks = []
    if not of_scores:
        remarks.append(
            "no figures of token entropy (06 to 11): `cotlens score RUN --model MODEL` gives what they need"
        )
    if not of_verdicts:
        remarks.append(
            "no figures of judged safety (16 to 20): `cotlens guard RUN --judge JUDGE` gives what they need"
        )
    if (n := tables.traces[by].nunique(dropna=False)) > MOST_CURVES:
        remarks.append(
            f"curves (03, 07, 08, 09, 11, 12, 14) and 17 are of the {MOST_CURVES} largest of {n} groups"
        )
    return remarks + too_few_prompts(
        "", tables.traces.groupby(by, dropna=False)["prompt_id"].nunique()
    )


MOST_CURVES = 6  # groups; the `most` of the figures of curves


def _keep(table: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    """The traces that have these values."""
    for column, value in where.items():
        table = table[table[column].astype(str) == value]
    return table


def _join(
    runs: Sequence[Run],
    names: Mapping[Run, str],
    listed: Sequence[pd.DataFrame],
    by: str,
    judge: str,
    where: Mapping[str, str],
) -> _Tables:
    judge = judge or min((name for run in runs for name in run.judges), default="")
    traces, steps, verdicts = [], [], []
    for run, every in zip(runs, listed, strict=True):
        table = _keep(every, where)
        if table.empty:
            continue
        own = run.step_table()
        own = own[own["trace_id"].isin(table["trace_id"])] if where else own
        of_run = reflection_dynamics(own, table)
        of_run = unsafe_dynamics(own, of_run) if "is_self_jailbreak" in own else of_run
        own = own.merge(table[["trace_id", "prompt_id", *{by} - {"prompt_id"}]], on="trace_id")
        traces.append(run.with_verdicts(of_run, judge) if judge in run.judges else of_run)
        steps.append(own)
        said = run.verdicts()
        verdicts.append(said[said["trace_id"].isin(table["trace_id"])] if where else said)
        for joined in (traces[-1], steps[-1], verdicts[-1]):
            joined["trace_id"] = f"{run.path}:" + joined["trace_id"]
    if not traces:
        raise TraceError(
            f"no trace has {', '.join(f'{name} = {value}' for name, value in where.items()) or 'a row'}"
        )
    _check_name(judge, {name for run in runs for name in run.judges}, "verdicts", "judges", "guard")
    joined = [pd.concat(tables, ignore_index=True) for tables in (traces, steps, verdicts)]
    return _Tables(*(_in_order(table, by, names) for table in joined), judge)


def _in_order(table: pd.DataFrame, by: str, names: Mapping[Run, str]) -> pd.DataFrame:
    """Runs stay in the order in which they were named, whatever a figure would sort by."""
    if by != "run" or "run" not in table:
        return table
    return table.assign(run=pd.Categorical(table["run"], list(names.values())))


def _step_figures(tables: _Tables, by: str) -> dict[str, Plot]:
    traces, steps = tables.traces, tables.steps
    drawn = {"01_lengths": lengths.plot_lengths(traces, by)}
    if traces["n_reflect"].notna().any():
        drawn |= {
            "02_reflection": plot.plot_reflection(traces, by),
            "03_reflection_position": plot.plot_reflection_position(steps, by),
            "04_marker_agreement": plot.plot_marker_agreement(steps),
            "05_transitions": plot.plot_transitions(steps),
        }
    if steps.get("is_self_jailbreak", pd.Series(dtype=bool)).notna().any():
        drawn |= {
            "12_unsafe_position": plot_unsafe.plot_unsafe_position(steps, by),
            "13_unsafe_path": plot_unsafe.plot_unsafe_path(traces, by),
            "14_onset_recovery": plot_unsafe.plot_onset_recovery(traces, by),
            "15_self_jailbreak_kinds": plot_unsafe.plot_self_jailbreak_kinds(steps, by),
            "34_risky_patterns": plot_unsafe.plot_risky_patterns(traces, by),
        }
    return drawn


def _verdict_figures(tables: _Tables, by: str) -> dict[str, Plot]:
    """Where the judge has not judged the thinking, the markers stand in for it, and the figures say so."""
    traces, judge, drawn = tables.traces, tables.judge, {}
    if "answer_unsafe" in traces and traces["answer_unsafe"].notna().any():
        if "first_risk" in traces:
            drawn["16_outcomes"] = plot_guard.plot_outcomes(
                traces.assign(outcome=outcomes(traces, traces["answer_unsafe"])), by, judge=judge
            )
        judges = f"thinking and answer judged by {judge}"
        if "thinking_unsafe" not in traces and "any_unsafe" in traces:
            judges = f"thinking: has an unsafe step by the markers; answer judged by {judge}"
            traces = traces.assign(thinking_unsafe=traces["any_unsafe"].astype("boolean"))
        if (
            "thinking_unsafe" in traces
            and (traces["thinking_unsafe"].notna() & traces["answer_unsafe"].notna()).any()
        ):
            drawn["17_thinking_by_answer"] = plot_guard.plot_thinking_by_answer(
                traces, by, judges=judges
            )
            drawn["18_safety_by_part"] = plot_guard.plot_safety_by_part(traces, by, judges=judges)
    pairs = tables.verdicts.groupby("part")["judge"].nunique()
    if (pairs > 1).any():
        drawn["19_guard_agreement"] = plot_guard.plot_guard_agreement(tables.verdicts)
    if {"thinking_unsafe", "any_unsafe"} <= set(tables.traces):
        both = tables.traces["thinking_unsafe"].notna() & tables.traces["any_unsafe"].notna()
        if both.any():
            drawn["20_detector"] = plot_guard.plot_detector(tables.traces, by, judge=judge)
    return drawn


def _entropy_figures(
    runs: Sequence[Run],
    names: Mapping[Run, str],
    by: str,
    scorer: str,
    where: Mapping[str, str],
    say: Callable[[str], object],
) -> dict[str, Plot]:
    """The figures of token scores, for the runs that a model has scored; read a shard at a time."""
    scored = [run for run in runs if run.scorers]
    _check_name(
        scorer, {name for run in scored for name in run.scorers}, "scores", "scorers", "score"
    )
    for run in [
        run
        for run in scored
        if not scorer and len(run.scorers) == 1 and not run.is_scored(run.scorers[0])
    ]:
        say(f"{run.path}: scoring by {run.scorers[0]} is not complete; no figures of entropy")
        scored.remove(run)
    if not scored:
        return {}
    kinds = ("parts", "position", "kl", "reflection", "survival", "words")
    found: dict[str, list[pd.DataFrame]] = {kind: [] for kind in kinds}
    for run in scored:
        for every, all_steps, all_scores in run.scored_shards(scorer):
            traces = _keep(every.assign(run=names[run]), where)
            steps, scores = (
                part[part["trace_id"].isin(traces["trace_id"])] for part in (all_steps, all_scores)
            )
            if traces.empty:
                continue
            group = traces[["trace_id", "prompt_id", *{by} - {"prompt_id"}]]
            tables = {
                "parts": entropy.trace_entropy(traces, steps, scores),
                "position": entropy.position_entropy(traces, scores),
                "reflection": entropy.reflection_entropy(steps, scores),
                "survival": entropy.entropy_survival(scores, np.geomspace(1e-3, 12, 61)),
            }
            if scores["kl"].notna().any():
                tables["kl"] = entropy.position_entropy(traces, scores, column="kl")
            for kind, table in tables.items():
                table = table if kind == "parts" else table.merge(group, on="trace_id")
                found[kind].append(table.assign(trace_id=f"{run.path}:" + table["trace_id"]))
            if "completion" in traces:
                found["words"].append(entropy.word_entropy(traces, scores))
    joined = {kind: pd.concat(parts, ignore_index=True) for kind, parts in found.items() if parts}
    if not found["parts"]:
        return {}
    return _draw_entropy(
        {
            kind: _in_order(table, by, {run: names[run] for run in scored})
            for kind, table in joined.items()
        },
        by,
    )


def _draw_entropy(tables: dict[str, pd.DataFrame], by: str) -> dict[str, Plot]:
    drawn = {}
    if tables["parts"]["entropy_think"].notna().any():
        drawn["06_entropy_parts"] = plot_entropy.plot_entropy_parts(tables["parts"], by)
        drawn["07_entropy_position"] = plot_entropy.plot_position_entropy(tables["position"], by)
    if len(tables["reflection"]):
        drawn["08_entropy_reflection"] = plot_entropy.plot_reflection_entropy(
            tables["reflection"], by
        )
    if len(tables["survival"]):
        drawn["09_entropy_distribution"] = plot_entropy.plot_entropy_distribution(
            tables["survival"], by
        )
    if "words" in tables and len(forking := entropy.forking_tokens(tables["words"])):
        drawn["10_forking_tokens"] = plot_entropy.plot_forking_tokens(forking)
    if "kl" in tables and len(tables["kl"]):
        drawn["11_kl_position"] = plot_entropy.plot_position_entropy(
            tables["kl"], by, label="KL to the reference"
        )
    return drawn
