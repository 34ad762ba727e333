"""Runs to figures: joins the tables of one run or several and draws every figure they have data for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from cotlens import entropy, findings, plot, plot_entropy, plot_guard, plot_study, plot_unsafe
from cotlens.figure import Plot, save
from cotlens.reflect import reflection_dynamics
from cotlens.run import Run, hash_path, write_atomic
from cotlens.study import Study
from cotlens.trace import TraceError
from cotlens.unsafe import outcomes, unsafe_dynamics


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
    every = (run if isinstance(run, Run) else Run(Path(run)) for run in runs)
    opened = list({run.path.resolve(): run for run in every}.values())
    names = _names(opened)
    for run in opened:
        if not run.info.get("complete"):
            raise TraceError(f"{run.path}: the run is not complete; call `cotlens analyze` again with the same inputs")
    _check_folder(Path(out))
    by = by or ("run" if len(opened) > 1 else "model")
    where = dict(where or {})
    listed = [run.trace_table().assign(run=names[run]) for run in opened]
    _check_groups(listed, by, "--by")
    for column in where:
        _check_groups(listed, column, "--where")
    tables = _join(opened, names, listed, by, judge, where)
    inputs = [made_from | {"path": Path(made_from["path"]).name} for run in opened for made_from in run.info["inputs"]]
    of_steps, of_verdicts = _step_figures(tables, by), _verdict_figures(tables, by)
    of_scores = _entropy_figures(opened, names, by, scorer, where, say)
    drawn = of_steps | of_scores | of_verdicts
    for remark in _what_is_left_out(tables, by, of_scores, of_verdicts):
        say(remark)
    for name, picture in tqdm(sorted(drawn.items()), desc="figures", unit=" figures"):
        provenance = {"figure": name, "by": by, "inputs": inputs} | ({"where": where} if where else {})
        provenance |= {"n_traces": len(tables.traces), "n_steps": len(tables.steps)}
        if name in of_scores:
            provenance["scores"] = {
                names[run]: run.score_info(scorer or run.scorers[0]) for run in opened if run.scorers
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


def _check_folder(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise TraceError(f"{out}: is a file; figures need a folder")


def _check_name(wanted: str, have: set[str], what: str, whose: str, command: str) -> None:
    if wanted and wanted not in have:
        there = ", ".join(sorted(have)) or f"none; make them with `cotlens {command}`"
        raise TraceError(f"no {what} of {wanted}; {whose}: {there}")


GROUPS = ("run", "model", "method", "domain", "split", "sample", "training_step", "status", "opened_by", "origin",
          "reasoning", "finish_reason")  # fmt: skip


def _check_groups(tables: Sequence[pd.DataFrame], by: str, option: str) -> None:
    """Raises TraceError if a column tells no groups of traces apart: an identifier, a measure, or what no trace has."""
    known = [name for name in GROUPS if any((~table[name].isin(["", -1])).any() for table in tables)]
    if by not in (*known, "model"):
        why = "no trace has one" if by in GROUPS else "does not name groups of traces"
        raise TraceError(f"{option} {by}: {why}; what there is: {', '.join(known)}")


class _Tables(NamedTuple):
    """The tables of all runs as one. Trace ids are unique within a run only: the run stands before each."""

    traces: pd.DataFrame  # with the dynamics of reflection and of unsafe exploration, and verdicts of the judge
    steps: pd.DataFrame  # with the column of the groups and prompt_id
    verdicts: pd.DataFrame  # one row per (trace, part, judge) of all judges
    judge: str


def _what_is_left_out(tables: _Tables, by: str, of_scores: dict, of_verdicts: dict) -> list[str]:
    """What a reader may miss in the folder, and what to read with care, a line each."""
    remarks = []
    if not of_scores:
        remarks.append("no figures of token entropy (06 to 11): `cotlens score RUN --model MODEL` gives what they need")
    if not of_verdicts:
        remarks.append("no figures of judged safety (16 to 20): `cotlens guard RUN --judge JUDGE` gives what they need")
    if (n := tables.traces[by].nunique(dropna=False)) > MOST_CURVES:
        remarks.append(f"curves (03, 07, 08, 09, 11, 12, 14) and 17 are of the {MOST_CURVES} largest of {n} groups")
    return remarks + _too_few("", tables.traces.groupby(by, dropna=False)["prompt_id"].nunique())


MOST_CURVES = 6  # groups; the `most` of the figures of curves
_FEW = 10  # prompts; docs/statistics.md


def _too_few(what: str, prompts: pd.Series) -> list[str]:
    """A line that names the groups of too few prompts, if there are any."""
    few = [f"{group or '(unnamed)'} ({n})" for group, n in prompts[(prompts > 0) & (prompts < _FEW)].items()]
    return [f"{what}fewer than {_FEW} prompts, too few for their intervals to hold: {', '.join(few)}"] if few else []


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
        raise TraceError(f"no trace has {', '.join(f'{name} = {value}' for name, value in where.items()) or 'a row'}")
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
    drawn = {"01_lengths": plot.plot_lengths(traces, by)}
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
        if "thinking_unsafe" in traces and (traces["thinking_unsafe"].notna() & traces["answer_unsafe"].notna()).any():
            drawn["17_thinking_by_answer"] = plot_guard.plot_thinking_by_answer(traces, by, judges=judges)
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
    _check_name(scorer, {name for run in scored for name in run.scorers}, "scores", "scorers", "score")
    for run in [run for run in scored if not scorer and len(run.scorers) == 1 and not run.is_scored(run.scorers[0])]:
        say(f"{run.path}: scoring by {run.scorers[0]} is not complete; no figures of entropy")
        scored.remove(run)
    if not scored:
        return {}
    kinds = ("parts", "position", "kl", "reflection", "survival", "words")
    found: dict[str, list[pd.DataFrame]] = {kind: [] for kind in kinds}
    for run in scored:
        for every, all_steps, all_scores in run.scored_shards(scorer):
            traces = _keep(every.assign(run=names[run]), where)
            steps, scores = (part[part["trace_id"].isin(traces["trace_id"])] for part in (all_steps, all_scores))
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
        {kind: _in_order(table, by, {run: names[run] for run in scored}) for kind, table in joined.items()}, by
    )


def _draw_entropy(tables: dict[str, pd.DataFrame], by: str) -> dict[str, Plot]:
    drawn = {}
    if tables["parts"]["entropy_think"].notna().any():
        drawn["06_entropy_parts"] = plot_entropy.plot_entropy_parts(tables["parts"], by)
        drawn["07_entropy_position"] = plot_entropy.plot_position_entropy(tables["position"], by)
    if len(tables["reflection"]):
        drawn["08_entropy_reflection"] = plot_entropy.plot_reflection_entropy(tables["reflection"], by)
    if len(tables["survival"]):
        drawn["09_entropy_distribution"] = plot_entropy.plot_entropy_distribution(tables["survival"], by)
    if "words" in tables and len(forking := entropy.forking_tokens(tables["words"])):
        drawn["10_forking_tokens"] = plot_entropy.plot_forking_tokens(forking)
    if "kl" in tables and len(tables["kl"]):
        drawn["11_kl_position"] = plot_entropy.plot_position_entropy(tables["kl"], by, label="KL to the reference")
    return drawn


# --- studies ---------------------------------------------------------------------------------------------------


def draw_study(study: Study | str | Path, out: str | Path, *, say: Callable[[str], object] = print) -> Iterator[Path]:
    """Writes a study's results (measures, differences, confounds, verdicts, and the tables it brought along) as csv,
    and draws the figures it has data for; yields the paths. The same study gives the same bytes. `say` is told of
    splits with too few prompts.

    Raises:
        TraceError: if the folder is no study.
    """  # noqa: D205
    study, out = study if isinstance(study, Study) else Study(Path(study)), Path(out)
    info, samples = study.info, study.samples()
    _check_folder(out)
    found, changes = findings.measures(samples), findings.differences(samples, info["base"])
    claims = findings.verdicts(samples, found, changes, info)
    tables = {path.stem: pd.read_csv(path) for path in sorted(study.path.glob("*.csv"))}
    tables |= {  # whatever an earlier drawing into the study's own folder has left
        "measures": found,
        "differences": changes,
        "confounds": findings.confounds(samples, info["base"]),
        "verdicts": pd.DataFrame(claims, columns=findings.Claim._fields),
    }
    for name, table in tables.items():
        write_atomic(out / f"{name}.csv", table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        yield out / f"{name}.csv"
    provenance = {key: value for key, value in info.items() if key not in ("note", "arms")}
    provenance |= {"seeds": sorted(map(int, set(samples["seed"]))), "n_samples": len(samples)}
    provenance |= {"study": hash_path(study.path)}
    splits = findings.splits(samples)
    prompts = samples[samples["set"] == "forbidden"].groupby("split")["cluster"].nunique()
    for remark in _too_few("splits of ", prompts):
        say(remark)
    for name, picture in tqdm(_study_figures(study, tables, splits), desc="figures", unit=" figures"):
        yield from save(picture, out / name, {"figure": name, **provenance})


def _study_figures(study: Study, tables: dict[str, pd.DataFrame], parts: Sequence[str]) -> Iterator[tuple[str, Plot]]:
    found, text, order = tables["measures"], study.info.get("note", ""), list(study.info["arms"])
    names = set(found["measure"])
    for name, (panels, caption, limits) in _DOTS.items():
        shown = {title: _named(measures, parts) for title, measures in panels.items()}
        if names & {measure for measures in shown.values() for measure in measures}:
            yield name, plot_study.plot_measures(found, shown, caption, text, limits=limits)
    if {"is_correct_maths", "thinking_unsafe_forbidden"} <= names:  # of one arm at least
        yield "22_safety_and_skill", plot_study.plot_safety_and_skill(found, text)
    if len(tables["confounds"]):
        yield "31_confounds", plot_study.plot_confounds(tables["confounds"], text)
    if "tries" in tables:
        yield "33_tries", plot_study.plot_tries(tables["tries"], text)
    own = {
        name: table.assign(arm=pd.Categorical(table["arm"], order))
        for name in study.tables
        if len(table := study.table(name))
    }
    if "early" in own and "split" not in own["early"]:
        samples = study.table("samples").drop_duplicates(["seed", "prompt_id"])[["seed", "prompt_id", "split"]]
        own["early"] = own["early"].merge(samples, on=["seed", "prompt_id"], how="left")
    if "rollouts" in own:
        if plot_study.training_panels(own["rollouts"], own.get("updates"))[1]:
            yield "24_training", plot_study.plot_training(own["rollouts"], text, updates=own.get("updates"))
        told = own["rollouts"].get("thinking_flagged", pd.Series(dtype="boolean"))
        if told.notna().any() and "thinking_unsafe" in own["rollouts"]:
            yield "29_obfuscation", plot_study.plot_obfuscation(own["rollouts"], text)
    for name, (number, draw) in _OWN_TABLES.items():
        if name in own:
            yield number, draw(own[name], text)


def _named(measures: Sequence[str], splits: Sequence[str]) -> list[str]:
    """The measures as they are, and for `COLUMN_*` that of each split."""
    listed = (
        [f"{measure.removesuffix('*')}{split}" for split in splits] if measure.endswith("*") else [measure]
        for measure in measures
    )
    return [name for names in listed for name in names]


_SHARES = (0.0, 1.02)
_DOTS: dict[str, tuple[dict[str, list[str]], str, tuple[float | None, float | None]]] = {
    "21_unsafe_by_split": (
        {"Unsafe thinking": ["thinking_unsafe_*"], "Unsafe answer": ["answer_unsafe_*"]},
        "share of samples for forbidden requests",
        _SHARES,
    ),
    "23_reflection": (
        {
            "Reflections per trace": ["n_reflections_maths", "n_reflections_forbidden"],
            "... per step": ["reflection_rate_maths", "reflection_rate_forbidden"],
            "Longest run": ["longest_run_maths", "longest_run_forbidden"],
            "Share that mend": ["corrective_maths", "corrective_forbidden"],
        },
        "reflections of the thinking",
        (0, None),
    ),
    "25_costs_of_safety": (
        {
            "Harmless refused": ["refuses_harmless"],
            "Harmless helped": ["is_help_harmless"],
            "Right, maths": ["is_correct_maths"],
            "One closed thought": ["is_format_ok_all"],
        },
        "share of samples",
        (None, None),
    ),
    "26_entropy": (
        {
            "Thinking (nats)": [f"entropy_think_{where}" for where in findings.SETS],
            "Reflecting steps": [f"entropy_reflect_{where}" for where in findings.SETS],
            "On the base's thinking": [f"entropy_common_{where}" for where in findings.SETS],
            "KL to the base": [f"kl_base_{where}" for where in findings.SETS],
        },
        "mean token entropy in nats on each arm's own samples, on one text for all (the base's), and KL to the base",
        (0, None),
    ),
    "30_guard_by_checkpoint": (
        {
            "Recall of the guard": ["guard_recall_forbidden"],
            "Unsafe and passed": ["hidden_forbidden"],
            "P(unsafe answer | passed)": ["answer_unsafe_if_passed_forbidden"],
            "Flagged, harmless": ["thinking_flagged_harmless"],
        },
        "thinking of forbidden requests: the reward's guard against the evaluation's judge",
        _SHARES,
    ),
}
_OWN_TABLES = {
    "steps": ("27_instruments", plot_study.plot_instruments),
    "early": ("28_early_answering", plot_study.plot_early_answering),
    "branching": ("32_branching", plot_study.plot_branching),
}
