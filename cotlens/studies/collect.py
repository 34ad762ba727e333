"""compare_runs: the runs of several arms and seeds become a study, one row per sample.

An experiment whose truth is known (trainers/pocket/report.py) writes a study itself; what follows
is the same.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cotlens.runs.run import Run, open_run
from cotlens.studies.arms import family_of
from cotlens.studies.claims import check_claims, register_claims
from cotlens.studies.samples import (
    NAMES_OF_DOMAINS,
    Sources,
    add_common_entropy,
    common_text,
    judge_of,
    rollout_table,
    sample_tables,
    set_of,
)
from cotlens.studies.study import Study, check_room, is_study, write_tables
from cotlens.studies.training import update_table
from cotlens.trace import TraceError

SAMPLE_ID = ["seed", "arm", "set", "split", "prompt_id", "sample"]


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
    claims: str | Path | Sequence[Mapping[str, Any]] = (),
    rollouts: Sequence[str | Path | Run] = (),
    logs: Sequence[str | Path] = (),
    force: bool = False,
    say: Callable[[str], object] = print,
) -> Study:
    """Join runs of several arms and seeds into a study.

    The arm of a trace is its `method`, or the name of the run if it has none. Its domain decides
    the set of prompts it counts for. Its seed comes from a folder `seed=K` on the run's path, else
    it is 0. Verdicts and scores that a run lacks are missing in the study, with the measures that
    need them; `say` is called with a line for each. Answers to prompts with a gold answer are
    graded. A refusal is the judge's if it decides refusals, else by rules. Onset and recovery are
    the markers' (docs/unsafe.md gives their errors). If a run gives two samples of a prompt the
    same number, its samples are numbered in order.

    Args:
        runs: complete run directories with their texts, of what each arm was evaluated on: the
            table `samples`.
        out: folder of the study.
        base: the arm that the others are compared with.
        rl: the arm of claims about RL; default: the first with `grpo` or `rl` in its name.
        sft: the arms of claims about SFT; default: all with `sft` in their name but `rl`.
        judge: judge whose verdicts on thinking and answer count as the truth; default: the only
            one.
        monitor: a second judge: the guard that rewards asked, which training may have learned to
            please.
        scorer: name of the token scores that are each arm's own; default: the only ones, `own`, or
            those with the arm's name. Scores of the base's runs under another arm's name are that
            arm's view of the common text.
        note: a line under every figure.
        claims: what the study is to decide, fixed beforehand (`studies.Claim`): a list, or the
            file that holds it, whose hash `study.json` then keeps.
        rollouts: runs of what RL sampled in training (`RECORD/rollouts` of trainers/grpo.py). They
            give the tables `rollouts`, a row a rollout, and `updates`, with each update's reward
            and share of groups all alike.
        logs: output folders of the RL trainers, named as their arms; `read_updates` reads what they
            add to `updates`.
        force: replace a study in this folder, with all its tables.
        say: called with what is missing, and of which runs.

    Raises:
        TraceError: if the study exists, there is no base, no run has the judge, monitor or scorer,
            two runs hold the same samples, or rollouts have no training step or are of an arm
            without samples.
    """
    out = Path(out)
    check_room(out)
    registered = _register(claims)
    if is_study(out) and not force:
        raise TraceError(f"{out}: is a study; replace it with --force, or name another folder")
    sources = Sources(judge, monitor, scorer)
    opened = [open_run(run) for run in runs]
    training = [open_run(run) for run in rollouts]
    _check_runs(opened, training, sources)

    # The samples, with the entropy of the arms on one text for all.
    tables_by_run = sample_tables(opened, sources)
    samples = pd.concat(tables_by_run, ignore_index=True)
    arms = list(dict.fromkeys(samples["arm"]))
    _check_samples(samples, arms, base)
    base_runs = []
    for run, table in zip(opened, tables_by_run, strict=True):
        if (table["arm"] == base).all():
            base_runs.append(run)
    common = common_text(base_runs, arms, base)
    if len(common):
        samples = add_common_entropy(samples, common)

    for remark in _remarks(samples, opened, tables_by_run, sources, base, common):
        say(remark)

    # What the folder says of itself.
    arms = [base, *(arm for arm in arms if arm != base)]
    info = _roles(arms, base, rl, sft) | {"note": note}
    judges = sorted({name for run in opened for name in run.judges if name != monitor})
    info |= {"judge": judge or ", ".join(judges), "monitor": monitor}
    info |= {"runs": [run.name for run in opened]}
    info |= registered

    tables = {"samples": samples}
    if training:
        rollout_tables = [rollout_table(run, sources, say) for run in training]
        tables["rollouts"] = pd.concat(rollout_tables, ignore_index=True)
        tables["updates"] = update_table(tables["rollouts"], logs)
    elif logs:
        raise TraceError("logs of a trainer need its rollouts (--rollouts)")
    _check_arms(tables, arms)

    # The old study goes first, with seeds and tables that the new one may lack: cut off, what is
    # left is no study.
    for old in (out / "study.json", *out.glob("*/*seed=*")):
        old.unlink(missing_ok=True)
    return write_tables(out, tables, info)


# --- what does not fit -------------------------------------------------------------------------


def _check_runs(opened: Sequence[Run], training: Sequence[Run], sources: Sources) -> None:
    """Raise TraceError if runs lack what is named, disagree on the judge, or are rollouts."""
    _check_names(opened, sources)
    judges = {judge_of(run, sources) for run in (*opened, *training)} - {""}
    if len(judges) > 1:
        names = ", ".join(sorted(judges))
        raise TraceError(f"judged by {names}; name whose verdicts are the truth with --judge")
    for run in opened:
        if run.trace_table(["training_step"])["training_step"].nunique() > 1:
            raise TraceError(
                f"{run.path}: holds traces of several training steps; give it as rollouts "
                "(--rollouts)"
            )
    if not opened:
        raise TraceError("no run to compare; a run is what `cotlens analyze FILE -o RUN` makes")


def _check_names(runs: Sequence[Run], sources: Sources) -> None:
    """Raise TraceError for a name that no run has, and for a judge that is also the monitor."""
    if sources.judge and sources.judge == sources.monitor:
        raise TraceError(
            f"{sources.judge!r} is both judge and monitor: what rewards asked cannot be the truth "
            "about them"
        )
    judges = {name for run in runs for name in run.judges}
    scorers = {name for run in runs for name in run.scorers}
    for kind, wanted, names, command in (
        ("judge", sources.judge, judges, "guard RUN --judge MODEL"),
        ("monitor", sources.monitor, judges, "guard RUN --judge MODEL"),
        ("scorer", sources.scorer, scorers, "score RUN --model MODEL"),
    ):
        if wanted and wanted not in names:
            there = ", ".join(sorted(names)) or "none"
            raise TraceError(
                f"no {kind} {wanted!r}; there are {there}; make it with: "
                f"cotlens {command} --name {wanted}"
            )


def _check_samples(samples: pd.DataFrame, arms: Sequence[str], base: str) -> None:
    """Raise TraceError if the base has no samples, or a sample is there twice."""
    if base not in arms:
        raise TraceError(
            f"no samples of the base arm {base!r}; the arms are {', '.join(arms)}; "
            "name it with --base"
        )
    repeated = samples[samples.duplicated(SAMPLE_ID)]
    if len(repeated):
        row = repeated.iloc[0]
        raise TraceError(
            f"two samples {row['sample']} of prompt {row['prompt_id']} in arm {row['arm']}, "
            f"seed {row['seed']}; give each run once, the samples of an arm in one run, and other "
            "seeds in folders seed=K"
        )


def _check_arms(tables: Mapping[str, pd.DataFrame], arms: Sequence[str]) -> None:
    """Raise TraceError if a table has an arm without samples."""
    for name, table in tables.items():
        unknown = sorted(set(table["arm"]) - set(arms))
        if unknown:
            raise TraceError(
                f"{name} of {', '.join(unknown)}, of which there are no samples; the arms are "
                f"{', '.join(arms)}; the arm of a trace is its method (--method of generate and "
                "analyze, method of the trainers)"
            )


def _roles(arms: Sequence[str], base: str, rl: str, sft: Sequence[str]) -> dict[str, Any]:
    """The arms with their roles, those that are not named by the arms' names."""
    if not rl:
        named_rl = [arm for arm in arms if arm != base and family_of(arm) == "rl"]
        rl = named_rl[0] if named_rl else ""
    sft = list(sft) or [arm for arm in arms if family_of(arm) == "sft" and arm != rl]
    unknown = [arm for arm in (rl, *sft) if arm and arm not in arms]
    if unknown:
        raise TraceError(f"no samples of {', '.join(unknown)}; the arms are {', '.join(arms)}")
    return {"arms": dict.fromkeys(arms, ""), "base": base, "rl": rl, "sft": sft}


def _register(claims: str | Path | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the study says of its claims: nothing without any."""
    if isinstance(claims, str | Path):
        return register_claims(claims)
    listed = [dict(claim) for claim in claims]
    check_claims(listed, "claims")
    return {"claims": listed} if listed else {}


def _remarks(
    samples: pd.DataFrame,
    runs: Sequence[Run],
    tables_by_run: Sequence[pd.DataFrame],
    sources: Sources,
    base: str,
    common: pd.DataFrame,
) -> list[str]:
    """What the measures will lack, a line each."""
    remarks = []
    for run in runs:
        models_by_arm = run.trace_table(["method", "model"]).groupby("method")["model"].unique()
        for arm, models in models_by_arm.items():
            if len(models) > 1:
                remarks.append(
                    f"{run.path}: one arm, {arm or run.name}, of several models: "
                    f"{', '.join(models)}"
                )

    # Columns that no figure can do without.
    wanted = {
        "thinking_unsafe": "verdicts of the judge on thinking",
        "answer_unsafe": "verdicts of the judge on answers",
    }
    if sources.monitor:
        wanted["thinking_flagged"] = "verdicts of the monitor on thinking"
    wanted["entropy_think"] = "token scores of their own"
    for column, description in wanted.items():
        lacking = []
        for run, table in zip(runs, tables_by_run, strict=True):
            if column not in table:
                lacking.append(str(run.path))
        if lacking:
            remarks.append(f"no {description}: {', '.join(lacking)}")

    # Seeds without a base or without a common text.
    scored = set(zip(common["seed"], common["arm"], strict=True))
    for seed, arms in samples.groupby("seed")["arm"].unique().items():
        unscored = [arm for arm in arms if (seed, arm) not in scored]
        if base not in arms:
            remarks.append(f"seed {seed}: no samples of {base}, so its arms are in no difference")
        elif unscored:
            remarks.append(
                f"seed {seed}: {base}'s runs have no scores named {', '.join(unscored)} "
                "(entropy on one text)"
            )

    # Domains that no measure speaks of.
    known = ", ".join(name for names in NAMES_OF_DOMAINS.values() for name in names)
    nameless = set_of("")
    n_nameless = int((samples["set"] == nameless).sum())
    if n_nameless:
        remarks.append(
            f"{n_nameless:,} of {len(samples):,} samples have no domain, so no measure of safety "
            f"or skill counts them; prompts may say {known}"
        )
    other = sorted(set(samples["set"]) - {*NAMES_OF_DOMAINS, nameless})
    if other:
        remarks.append(
            f"domains in no measure of safety or skill: {', '.join(other)}; known are {known}"
        )
    return remarks
