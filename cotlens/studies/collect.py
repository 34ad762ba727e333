"""Arms side by side: a folder of tables over checkpoints and seeds, one row per sample.

A *study* holds no text and is small enough to commit; `cotlens figures STUDY` draws it. It comes from runs
(`compare_runs`, or `cotlens compare RUNS -o STUDY`) or from an experiment whose truth is known (trainers/pocket/report.py);
what follows (`findings`, `plot_study`) is the same.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cotlens.detect.refusal import Refusal, classify_refusal
from cotlens.judges.grade import Grade, grade
from cotlens.measures.entropy import trace_entropy
from cotlens.measures.reflection import reflection_dynamics
from cotlens.measures.unsafe import unsafe_dynamics
from cotlens.runs.run import Run, open_run
from cotlens.studies.study import Study, check_room, is_study, seed_of, write_tables
from cotlens.studies.training import update_table
from cotlens.text.split import Status, part_text
from cotlens.trace import Reasoning, TraceError

DOMAINS = {  # domains of prompts -> the sets that measures speak of; another domain is a set of its own
    "forbidden": ("forbidden", "harmful", "jailbreak"),
    "harmless": ("harmless", "benign", "borderline", "allowed", "look_alike"),
    "maths": ("maths", "math"),
}


# --- from runs -------------------------------------------------------------------------------------------------
def compare_runs(
    runs: Sequence[str | Path | Run],
    out: str | Path,
    *,
    base: str = "base",
    rl: str = "",
    sft: Sequence[str] = (),
    judge: str = "",
    monitor: str = "",
    scorer: str = "",
    note: str = "",
    rollouts: Sequence[str | Path | Run] = (),
    logs: Sequence[str | Path] = (),
    force: bool = False,
    say: Callable[[str], object] = print,
) -> Study:
    """Joins runs of several arms, and seeds, into a study.

    The arm of a trace is its `method`, or the name of the run where it has none; its set comes from its `domain`; its
    seed from a folder `seed=K` on the run's path, else 0. What a run has not been judged or scored for is missing in
    the study, and the measures of it too; `say` is told. Answers with a reference are graded; refusal is the judge's
    where it says so, else by rules; onset and recovery are the markers' (docs/unsafe.md says how often they err).
    Samples of a prompt to which a run gives the same number are numbered in their order.

    Args:
        runs: complete run directories with their texts, of what each arm was evaluated on: the table `samples`.
        out: folder of the study.
        base: the arm that the others are compared with.
        rl: the arm of the claims about RL; default: the first whose name has `grpo` or `rl` in it.
        sft: those of the claims about SFT; default: all whose name has `sft` in it and is not `rl`.
        judge: whose verdicts are the truth on thinking and answer; default: the only one.
        monitor: a second judge: the guard that rewards asked, which training may have learned to please.
        scorer: whose token scores are each arm's own; default: the only one, `own`, or the one with the arm's name.
            On the base's runs, a scorer with the name of another arm is that arm's view of the common text.
        note: a line under every figure.
        rollouts: runs of what RL sampled while it trained (`RECORD/rollouts` of trainers/grpo.py): the tables
            `rollouts`, one row a rollout, and `updates`, with each update's reward and groups all alike.
        logs: output folders of the RL trainers, named as their arms: adds to `updates` what `read_updates` finds.
        force: make anew a study that is there already, with all its tables.
        say: told what is missing, and of which runs.

    Raises:
        TraceError: if the study is there already, there is no base, no run has the judge, monitor or scorer, two runs
            hold the same samples, or rollouts have no training step or are of an arm without samples.
    """
    check_room(Path(out))
    if is_study(out) and not force:
        raise TraceError(
            f"{out}: is a study already; make it anew with --force, or name another folder"
        )
    opened = [open_run(run) for run in runs]
    training = [open_run(run) for run in rollouts]
    _check_names(opened, judge, monitor, scorer)
    told = {
        _only([name for name in run.judges if name != monitor], judge, "judge", run)
        for run in (*opened, *training)
    }
    if len(told - {""}) > 1:
        raise TraceError(
            f"judged by {', '.join(sorted(told - {''}))}; name whose verdicts are the truth with --judge"
        )
    for run in opened:
        if run.trace_table(["training_step"])["training_step"].nunique() > 1:
            raise TraceError(
                f"{run.path}: holds traces of several training steps; give it as rollouts (--rollouts)"
            )
    if not opened:
        raise TraceError("no run to compare; a run is what `cotlens analyze FILE -o RUN` makes")
    arms_of = [_arms_of(run) for run in opened]
    # Scores under another arm's name are its view of the run, and never the run's own, not even if they are alone.
    others = [set().union(*arms_of) - own for own in arms_of]
    parts = [
        _sample_table(*each, judge, monitor, scorer)
        for each in zip(opened, arms_of, others, strict=True)
    ]
    table = pd.concat(parts, ignore_index=True)
    arms = list(dict.fromkeys(table["arm"]))
    if base not in arms:
        raise TraceError(
            f"no samples of the base arm {base!r}; the arms are {', '.join(arms)}; name it with --base"
        )
    twice = table.duplicated(["seed", "arm", "set", "split", "prompt_id", "sample"])
    if twice.any():
        row = table[twice].iloc[0]
        raise TraceError(
            f"two samples {row['sample']} of prompt {row['prompt_id']} in arm {row['arm']}, seed {row['seed']}; "
            "give each run once, the samples of an arm in one run, and other seeds in folders seed=K"
        )
    common = _common_text(
        [run for run, part in zip(opened, parts, strict=True) if (part["arm"] == base).all()],
        arms,
        base,
    )
    if len(common):
        keys = [
            "seed",
            "arm",
            "set",
            "split",
            "prompt_id",
        ]  # one number a prompt: its texts, the base's, are the same
        table = table.merge(
            common.groupby(keys)["entropy_common"].mean().reset_index(), on=keys, how="left"
        )
        table["entropy_common"] = table["entropy_common"].mask(table.duplicated(keys))
    judges = sorted({name for run in opened for name in run.judges if name != monitor})
    for remark in _remarks(table, opened, parts, base, monitor, common):
        say(remark)
    arms = [base, *(arm for arm in arms if arm != base)]
    rl = rl or next(
        (arm for arm in arms if arm != base and ("grpo" in arm or arm.startswith("rl"))), ""
    )
    chosen = list(sft) or [arm for arm in arms if "sft" in arm and arm != rl]
    if wrong := [arm for arm in (rl, *chosen) if arm and arm not in arms]:
        raise TraceError(f"no samples of {', '.join(wrong)}; the arms are {', '.join(arms)}")
    info = {"arms": dict.fromkeys(arms, ""), "base": base, "rl": rl, "sft": chosen, "note": note}
    made = {
        "judge": judge or ", ".join(judges),
        "monitor": monitor,
        "runs": [run.name for run in opened],
    }
    tables = {"samples": table}
    if training:
        sampled = pd.concat(
            [_rollout_table(run, judge, monitor, say) for run in training], ignore_index=True
        )
        tables |= {"rollouts": sampled, "updates": update_table(sampled, logs)}
    elif logs:
        raise TraceError("logs of a trainer need its rollouts (--rollouts) beside them")
    for name, part in tables.items():
        if other := sorted(set(part["arm"]) - set(arms)):
            raise TraceError(
                f"{name} of {', '.join(other)}, of which there are no samples; the arms are {', '.join(arms)}; the arm "
                "of a trace is its method (--method of generate and analyze, method of the trainers)"
            )
    # The old one goes first, also seeds and tables that the new one may lack: cut off, what is left is no study.
    for old in (Path(out) / "study.json", *Path(out).glob("*/*seed=*")):
        old.unlink(missing_ok=True)
    return write_tables(Path(out), tables, info | made)


# --- training --------------------------------------------------------------------------------------------------
def _rollout_table(
    run: Run, judge: str, monitor: str, say: Callable[[str], object]
) -> pd.DataFrame:
    """One row per rollout: arm, seed, step, reward, and what samples have but for token scores."""
    traces = run.trace_table(["training_step", "reward"])
    if n := int((traces["training_step"] < 0).sum()):
        fault = f"{n:,} of {len(traces):,} rollouts have no training step"
        raise TraceError(f"{run.path}: {fault}; give the rows a training_step")
    table = _sample_table(run, set(), set(run.scorers), judge, monitor, "")
    if traces["reward"].isna().all():
        say(
            f"{run.path}: these rollouts have no reward: reward and groups all alike are in no figure"
        )
    if "thinking_unsafe" not in table:
        say(
            f"{run.path}: these rollouts are not judged: their unsafe thinking and answers are in no figure"
        )
    # Sampled by one model after another, so scores of any one of them are not the policy's own.
    return table.assign(step=traces["training_step"], reward=traces["reward"])


def _arms_of(run: Run) -> set[str]:
    return {method or run.name for method in run.trace_table(["method"])["method"]}


def set_of(domain: str) -> str:
    """The set that a domain belongs to."""
    return next((name for name, domains in DOMAINS.items() if domain in domains), domain or "all")


def _check_names(runs: Sequence[Run], judge: str, monitor: str, scorer: str) -> None:
    """Raises TraceError for a name that no run has, and for a judge that is the monitor."""
    if judge and judge == monitor:
        raise TraceError(
            f"{judge!r} is both judge and monitor: what rewards asked cannot be the truth about them"
        )
    judges = {name for run in runs for name in run.judges}
    scorers = {name for run in runs for name in run.scorers}
    for kind, wanted, have, command in (
        ("judge", judge, judges, "guard RUN --judge MODEL"),
        ("monitor", monitor, judges, "guard RUN --judge MODEL"),
        ("scorer", scorer, scorers, "score RUN --model MODEL"),
    ):
        if wanted and wanted not in have:
            there = ", ".join(sorted(have)) or "none"
            raise TraceError(
                f"no {kind} {wanted!r}; there are {there}; make it with: cotlens {command} --name {wanted}"
            )


def _remarks(
    table: pd.DataFrame,
    runs: Sequence[Run],
    parts: Sequence[pd.DataFrame],
    base: str,
    monitor: str,
    common: Any,
) -> list[str]:
    """What the measures will lack, a line each."""
    wanted = {
        "thinking_unsafe": "verdicts of the judge on thinking",
        "answer_unsafe": "verdicts of the judge on answers",
    }
    wanted |= {"thinking_flagged": "verdicts of the monitor on thinking"} if monitor else {}
    wanted |= {"entropy_think": "token scores of their own"}
    remarks = []
    for run in runs:
        for arm, models in (
            run.trace_table(["method", "model"]).groupby("method")["model"].unique().items()
        ):
            if len(models) > 1:
                remarks.append(
                    f"{run.path}: one arm, {arm or run.name}, of several models: {', '.join(models)}"
                )
    for column, what in wanted.items():
        if lacking := [
            str(run.path) for run, part in zip(runs, parts, strict=True) if column not in part
        ]:
            remarks.append(f"no {what}: {', '.join(lacking)}")
    have = set(zip(common["seed"], common["arm"], strict=True))
    for seed, arms in table.groupby("seed")["arm"].unique().items():
        if base not in arms:
            remarks.append(f"seed {seed}: no samples of {base}, so its arms are in no difference")
        elif unseen := [arm for arm in arms if (seed, arm) not in have]:
            remarks.append(
                f"seed {seed}: {base}'s runs have no scores named {', '.join(unseen)} (entropy on one text)"
            )
    known = ", ".join(domain for domains in DOMAINS.values() for domain in domains)
    if (table["set"] == set_of("")).any():
        n = f"{(table['set'] == set_of('')).sum():,} of {len(table):,} samples"
        remarks.append(
            f"{n} have no domain, so no measure of safety or skill counts them; prompts may say {known}"
        )
    if other := sorted(set(table["set"]) - {*DOMAINS, set_of("")}):
        remarks.append(
            f"domains in no measure of safety or skill: {', '.join(other)}; known are {known}"
        )
    return remarks


def _only(
    names: Sequence[str], wanted: str, kind: str, run: Run, defaults: Sequence[str] = ()
) -> str:
    """The name asked for, or the only one, or the first of the defaults; "" where the run has none."""
    if wanted or len(names) < 2:
        return "".join(name for name in names if not wanted or name == wanted)
    if found := [name for name in defaults if name in names]:
        return found[0]
    raise TraceError(
        f"{run.path}: which {kind}? there are {', '.join(names)}; name one with --{kind}"
    )


def _sample_table(
    run: Run, arms: set[str], others: set[str], judge: str, monitor: str, scorer: str
) -> pd.DataFrame:
    traces, steps = run.trace_table(), run.step_table()
    table = unsafe_dynamics(steps, reflection_dynamics(steps, traces))
    scorers = [name for name in run.scorers if name not in others]
    own = _only(scorers, scorer, "scorer", run, ["own", *sorted(arms)])
    if own:
        table = trace_entropy(table, steps, run.score_table(own))
    judge = _only([name for name in run.judges if name != monitor], judge, "judge", run)
    if judge:
        table = run.with_verdicts(table, judge)
    if monitor and monitor in run.judges:
        said = run.with_verdicts(traces[["trace_id"]], monitor)
        names = {f"{part}_unsafe": f"{part}_flagged" for part in ("thinking", "answer")}
        said = said.rename(columns=names)[
            ["trace_id", *(ours for part, ours in names.items() if part in said)]
        ]
        table = table.merge(said, on="trace_id")
    table = table.merge(_read_answers(run), on="trace_id")
    refuses = (
        table["refuses"] if "refuses" in table else pd.Series(pd.NA, table.index, dtype="boolean")
    )
    return pd.DataFrame(
        {
            "seed": seed_of(run.path),
            "arm": table["method"].where(table["method"] != "", run.name),
            **_places(table),
            "prompt_id": table["prompt_id"],
            "sample": _sample_numbers(table),
            **{name: table[name] for name in _FLAGS if name in table},
            "refuses": refuses.fillna(table["rule_refuses"]),
            "is_correct": table["is_correct"],
            "is_format_ok": (table["status"] == Status.CLOSED.value)
            & (table["n_answer_chars"] > 0),
            "onset": table["onset"],
            "recovered": table["recovered"].astype("boolean"),
            "n_reflections": table["n_reflect"],
            "n_steps": table["n_known"],
            "longest_run": table["longest_run"],
            "n_tokens": table["n_tokens"],
            "length": table["n_think_chars"].where(table["reasoning"] == Reasoning.VERBATIM.value),
            **{ours: table[name] for ours, name in _ENTROPIES.items() if name in table},
        }
    )


def _places(traces: pd.DataFrame) -> dict[str, pd.Series]:
    """The set and the split of the prompts."""
    domain = traces["domain"].where(traces["domain"] != "", "all")
    return {
        "set": traces["domain"].map(set_of),
        "split": traces["split"].where(traces["split"] != "", domain),
    }


def _sample_numbers(traces: pd.DataFrame) -> pd.Series:
    """Numbers of the samples of a prompt: the source's, or where it numbers two alike, in the order of the run."""
    prompts = ["method", "domain", "split", "prompt_id"]
    same = traces.duplicated([*prompts, "sample"]).any()
    return traces.groupby(prompts, dropna=False).cumcount() if same else traces["sample"]


_ENTROPIES = {name: name for name in ("entropy_think", "entropy_answer", "entropy_reflect")} | {
    "kl_base": "kl_think"
}
_FLAGS = ("thinking_unsafe", "answer_unsafe", "thinking_flagged", "answer_flagged")


def _read_answers(run: Run) -> pd.DataFrame:
    """What takes the texts: whether an answer refuses, by rules, and whether it is right."""
    rows = []
    for trace in run.traces():
        answer = part_text(trace, "answer", run.tags)
        said = classify_refusal(answer)
        refuses = None if said is Refusal.UNKNOWN else said is not Refusal.COMPLIANCE
        try:
            right = grade(answer, trace.gold) is Grade.CORRECT if trace.gold else None
        except (ValueError, ImportError) as error:
            raise TraceError(f"{run.path}: trace {trace.id}: {error}") from None
        rows.append((trace.id, refuses, right))
    table = pd.DataFrame(rows, columns=["trace_id", "rule_refuses", "is_correct"])
    return table.astype({"rule_refuses": "boolean", "is_correct": "boolean"})


def _common_text(base_runs: Sequence[Run], arms: Sequence[str], base: str) -> pd.DataFrame:
    """Entropy of each arm on the base's thinking, text by text, where the base's runs were scored by the arms."""
    tables = []
    for run in base_runs:
        traces, steps = run.trace_table(), run.step_table()
        for arm in arms:
            name = "own" if arm == base and "own" in run.scorers else arm
            if name in run.scorers:
                found = trace_entropy(traces, steps, run.score_table(name))
                found = found.assign(arm=arm, seed=seed_of(run.path), **_places(found))
                tables.append(found.rename(columns={"entropy_think": "entropy_common"}))
    kept = ["seed", "arm", "set", "split", "prompt_id", "entropy_common"]
    return pd.concat(tables, ignore_index=True)[kept] if tables else pd.DataFrame(columns=kept)
