"""Arms side by side: a folder of tables over checkpoints and seeds, one row per sample.

A *study* holds no text and is small enough to commit; `cotlens figures STUDY` draws it. It comes from runs
(`study_from_runs`, or `cotlens compare RUNS -o STUDY`) or from an experiment whose truth is known (trainers/report.py);
what follows (`findings`, `plot_study`) is the same.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from cotlens.entropy import trace_entropy
from cotlens.findings import derive
from cotlens.grade import Grade, grade
from cotlens.reflect import reflection_dynamics
from cotlens.run import Run, part_text, write_atomic, write_parquet
from cotlens.split import Status
from cotlens.trace import Reasoning, TraceError, facts_html
from cotlens.unsafe import Refusal, classify_refusal, unsafe_dynamics

DOMAINS = {  # domains of prompts -> the sets that measures speak of; another domain is a set of its own
    "forbidden": ("forbidden", "harmful", "jailbreak"),
    "harmless": ("harmless", "benign", "borderline", "allowed", "look_alike"),
    "maths": ("maths", "math"),
}

# --- on disk ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Study:
    """A study's folder: `study.json`, and per table a folder with one parquet file a seed.

    `study.json` names the arms in order (`arms`: name -> what it is), their roles (`base`, `rl`, `sft`: a list, and
    `filtered`, `rl_answer`), a `note` for every figure, and what the tables were made from.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @property
    def info(self) -> dict[str, Any]:
        """What `study.json` says."""
        try:
            info = json.loads((self.path / "study.json").read_text(encoding="utf-8"))
            return info | {"arms": dict(info["arms"]), "base": str(info["base"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TraceError(
                f"{self.path}: not a study (study.json: {error!r}); make one with cotlens compare"
            ) from None

    def _repr_html_(self) -> str:
        """What a notebook shows: the arms with their roles, the seeds, the tables."""
        info, samples = self.info, self.table("samples")
        roles = {info["base"]: "base", info.get("rl"): "RL", **dict.fromkeys(info.get("sft", ()), "SFT")}
        role = {arm: f"[{roles[arm]} of the claims]" if arm in roles else "" for arm in info["arms"]}
        facts = {arm: f"{text} {role[arm]}".strip() for arm, text in info["arms"].items()}
        facts |= {"seeds": ", ".join(map(str, sorted(set(samples["seed"])))), "samples": f"{len(samples):,}"}
        return facts_html(facts | {"tables": ", ".join(self.tables), "note": info.get("note", "")})

    @property
    def tables(self) -> list[str]:
        """Names of the tables that are there."""
        return sorted({path.parent.name for path in self.path.glob("*/seed=*.parquet")})

    def table(self, name: str) -> pd.DataFrame:
        """All seeds of a table, with the column `seed`.

        Raises:
            TraceError: if the study has no such table.
        """
        paths = sorted((self.path / name).glob("seed=*.parquet"), key=lambda path: int(path.stem.partition("=")[2]))
        if not paths:
            have = ", ".join(self.tables) or "none"
            hint = "; `cotlens compare --rollouts RUN` adds it" if name in ("rollouts", "updates") else ""
            raise TraceError(f"{self.path}: no table {name!r}; there are: {have}{hint}")
        parts = [pd.read_parquet(path).assign(seed=int(path.stem.partition("=")[2])) for path in paths]
        return pd.concat(parts, ignore_index=True)

    def samples(self) -> pd.DataFrame:
        """One row per sample, with what follows from its columns (`derive`)."""
        return derive(self.table("samples"), list(self.info["arms"]))


def is_study(path: str | Path) -> bool:
    """Whether a folder holds a study."""
    return (Path(path) / "study.json").is_file()


def write_study(path: str | Path, tables: Mapping[str, pd.DataFrame], info: Mapping[str, Any]) -> Study:
    """Writes tables with a column `seed`, a file a seed; seeds that are there already and not in the tables stay.

    Raises:
        ValueError: if the samples have no `arm`, `seed`, `set`, `split` or `prompt_id`, or an unknown arm.
        TraceError: if something else is there already.
    """
    path, samples = Path(path), tables["samples"]
    if missing := {"arm", "seed", "set", "split", "prompt_id"} - set(samples):
        raise ValueError(f"samples: no column {', '.join(sorted(missing))}; there are {', '.join(map(str, samples))}")
    if unknown := set(samples["arm"]) - set(info["arms"]):
        raise ValueError(f"samples of arms that the study does not name: {', '.join(sorted(map(str, unknown)))}")
    _check_room(path)
    return _write(path, tables, info)


def _write(path: Path, tables: Mapping[str, pd.DataFrame], info: Mapping[str, Any]) -> Study:
    for name, table in tables.items():
        for seed, part in table.groupby("seed", sort=True):
            kept = part.drop(columns="seed").reset_index(drop=True)
            write_parquet(path / name / f"seed={seed}.parquet", pa.Table.from_pandas(kept, preserve_index=False))
    write_atomic(path / "study.json", json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    return Study(path)


def _check_room(path: Path) -> None:
    """Raises TraceError if a study would be written into a folder of something else, or over a file."""
    if path.exists() and not path.is_dir():
        raise TraceError(f"{path}: is a file; a study is a folder")
    if not path.exists() or is_study(path):
        return
    if foreign := [child.name for child in path.iterdir() if not _is_part(child)]:
        raise TraceError(f"{path}: is there already and is no study: it holds {min(foreign)}; name another folder")


def _is_part(child: Path) -> bool:
    """Whether it is of a study whose writing was cut off: tables by seed, or files that may lie beside them."""
    if child.is_dir():
        return all("seed=" in file.name for file in child.iterdir())
    return child.suffix in (".csv", ".partial")


# --- from runs -------------------------------------------------------------------------------------------------


def study_from_runs(
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
    _check_room(Path(out))
    if is_study(out) and not force:
        raise TraceError(f"{out}: is a study already; make it anew with --force, or name another folder")
    opened, training = ([run if isinstance(run, Run) else Run(Path(run)) for run in of] for of in (runs, rollouts))
    _check_names(opened, judge, monitor, scorer)
    told = {
        _only([name for name in run.judges if name != monitor], judge, "judge", run) for run in (*opened, *training)
    }
    if len(told - {""}) > 1:
        raise TraceError(f"judged by {', '.join(sorted(told - {''}))}; name whose verdicts are the truth with --judge")
    for run in opened:
        if run.trace_table(["training_step"])["training_step"].nunique() > 1:
            raise TraceError(f"{run.path}: holds traces of several training steps; give it as rollouts (--rollouts)")
    if not opened:
        raise TraceError("no run to compare; a run is what `cotlens analyze FILE -o RUN` makes")
    arms_of = [_arms_of(run) for run in opened]
    # Scores under another arm's name are its view of the run, and never the run's own, not even if they are alone.
    others = [set().union(*arms_of) - own for own in arms_of]
    parts = [_sample_table(*each, judge, monitor, scorer) for each in zip(opened, arms_of, others, strict=True)]
    table = pd.concat(parts, ignore_index=True)
    arms = list(dict.fromkeys(table["arm"]))
    if base not in arms:
        raise TraceError(f"no samples of the base arm {base!r}; the arms are {', '.join(arms)}; name it with --base")
    twice = table.duplicated(["seed", "arm", "set", "split", "prompt_id", "sample"])
    if twice.any():
        row = table[twice].iloc[0]
        raise TraceError(
            f"two samples {row['sample']} of prompt {row['prompt_id']} in arm {row['arm']}, seed {row['seed']}; "
            "give each run once, the samples of an arm in one run, and other seeds in folders seed=K"
        )
    common = _common_text(
        [run for run, part in zip(opened, parts, strict=True) if (part["arm"] == base).all()], arms, base
    )
    if len(common):
        keys = ["seed", "arm", "set", "split", "prompt_id"]  # one number a prompt: its texts, the base's, are the same
        table = table.merge(common.groupby(keys)["entropy_common"].mean().reset_index(), on=keys, how="left")
        table["entropy_common"] = table["entropy_common"].mask(table.duplicated(keys))
    judges = sorted({name for run in opened for name in run.judges if name != monitor})
    for remark in _remarks(table, opened, parts, base, monitor, common):
        say(remark)
    arms = [base, *(arm for arm in arms if arm != base)]
    rl = rl or next((arm for arm in arms if arm != base and ("grpo" in arm or arm.startswith("rl"))), "")
    chosen = list(sft) or [arm for arm in arms if "sft" in arm and arm != rl]
    if wrong := [arm for arm in (rl, *chosen) if arm and arm not in arms]:
        raise TraceError(f"no samples of {', '.join(wrong)}; the arms are {', '.join(arms)}")
    info = {"arms": dict.fromkeys(arms, ""), "base": base, "rl": rl, "sft": chosen, "note": note}
    made = {"judge": judge or ", ".join(judges), "monitor": monitor, "runs": [run.name for run in opened]}
    tables = {"samples": table}
    if training:
        sampled = pd.concat([_rollout_table(run, judge, monitor, say) for run in training], ignore_index=True)
        tables |= {"rollouts": sampled, "updates": _update_table(sampled, logs)}
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
    return _write(Path(out), tables, info | made)


# --- training --------------------------------------------------------------------------------------------------


def _rollout_table(run: Run, judge: str, monitor: str, say: Callable[[str], object]) -> pd.DataFrame:
    """One row per rollout: arm, seed, step, reward, and what samples have but for token scores."""
    traces = run.trace_table(["training_step", "reward"])
    if n := int((traces["training_step"] < 0).sum()):
        fault = f"{n:,} of {len(traces):,} rollouts have no training step"
        raise TraceError(f"{run.path}: {fault}; give the rows a training_step")
    table = _sample_table(run, set(), set(run.scorers), judge, monitor, "")
    if traces["reward"].isna().all():
        say(f"{run.path}: these rollouts have no reward: reward and groups all alike are in no figure")
    if "thinking_unsafe" not in table:
        say(f"{run.path}: these rollouts are not judged: their unsafe thinking and answers are in no figure")
    # Sampled by one model after another, so scores of any one of them are not the policy's own.
    return table.assign(step=traces["training_step"], reward=traces["reward"])


def _update_table(rollouts: pd.DataFrame, logs: Sequence[str | Path]) -> pd.DataFrame:
    """One row per (arm, seed, step): mean reward, share of groups all alike, and what the trainers logged.

    A group is what was sampled of one prompt in one update, of two rollouts with a reward or more.
    """
    keys = ["arm", "seed", "step"]
    groups = rollouts.groupby([*keys, "prompt_id"])["reward"].agg(["sum", "count", "min", "max"]).reset_index()
    alike = (groups["max"] - groups["min"] < 1e-8).astype(float).where(groups["count"] > 1)
    found = (
        groups.assign(alike=alike).groupby(keys).agg(sum=("sum", "sum"), n=("count", "sum"), alike=("alike", "mean"))
    )
    table = pd.DataFrame({"reward": found["sum"] / found["n"], "frac_reward_zero_std": found["alike"]}).reset_index()
    logged = [read_updates(path).assign(arm=Path(path).name, seed=_seed_of(Path(path))) for path in logs]
    if not logged:
        return table
    of_logs = pd.concat(logged, ignore_index=True)
    if of_logs.duplicated(keys).any():
        row = of_logs[of_logs.duplicated(keys)].iloc[0]
        raise TraceError(f"two logs of arm {row['arm']}, seed {row['seed']}; give each trainer's folder once")
    both = table.merge(of_logs, on=keys, how="outer", suffixes=("", "_logged"))
    for name in ("reward", "frac_reward_zero_std"):  # of the rollouts where these have it, since a log may be of means
        both[name] = both[name].fillna(both.pop(f"{name}_logged"))
    return both


def read_updates(folder: str | Path) -> pd.DataFrame:
    """What TRL logged of each update of an RL arm, from the last checkpoint under the trainer's output folder.

    Returns:
        One row per line of the log: step (the number of updates the sampling model had, as of rollouts; a trainer that
        logs every k updates logs their mean, and step is the middle of them), reward, reward_std, entropy (nats, mean
        over sampled tokens), frac_reward_zero_std (share of groups whose rewards are all alike), kl_reference; missing
        if not logged.

    Raises:
        TraceError: if there is no checkpoint, or it logs no rewards.
    """
    found = {path.parent.name.rpartition("-")[2]: path for path in Path(folder).glob("checkpoint-*/trainer_state.json")}
    states = {int(number): path for number, path in found.items() if number.isdecimal()}
    if not states:
        raise TraceError(f"{folder}: no checkpoint-*/trainer_state.json; expected the output_dir of a TRL trainer")
    newest = states[max(states)]
    try:
        log = [row for row in json.loads(newest.read_text(encoding="utf-8"))["log_history"] if "reward" in row]
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{newest}: not a trainer's state ({error!r}); was the checkpoint cut off?") from None
    if not log:
        raise TraceError(f"{newest}: logs no rewards; expected the output_dir of an RL trainer")
    # TRL counts an update when it is done; a rollout's step is the number of updates before it.
    before = [0, *(row["step"] for row in log[:-1])]
    steps = [row["step"] - (row["step"] - last + 1) / 2 for row, last in zip(log, before, strict=True)]
    return pd.DataFrame(
        [{"step": step, **{name: row.get(name) for name in _LOGGED}} for step, row in zip(steps, log, strict=True)]
    )


_LOGGED = ("reward", "reward_std", "entropy", "frac_reward_zero_std", "kl_reference")


def _seed_of(path: Path) -> int:
    found = [part.removeprefix("seed=") for part in path.resolve().parts if part.startswith("seed=")]
    return int(found[-1]) if found and found[-1].isdigit() else 0


def _arms_of(run: Run) -> set[str]:
    return {method or run.name for method in run.trace_table(["method"])["method"]}


def set_of(domain: str) -> str:
    """The set that a domain belongs to."""
    return next((name for name, domains in DOMAINS.items() if domain in domains), domain or "all")


def _check_names(runs: Sequence[Run], judge: str, monitor: str, scorer: str) -> None:
    """Raises TraceError for a name that no run has, and for a judge that is the monitor."""
    if judge and judge == monitor:
        raise TraceError(f"{judge!r} is both judge and monitor: what rewards asked cannot be the truth about them")
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
    table: pd.DataFrame, runs: Sequence[Run], parts: Sequence[pd.DataFrame], base: str, monitor: str, common: Any
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
        for arm, models in run.trace_table(["method", "model"]).groupby("method")["model"].unique().items():
            if len(models) > 1:
                remarks.append(f"{run.path}: one arm, {arm or run.name}, of several models: {', '.join(models)}")
    for column, what in wanted.items():
        if lacking := [str(run.path) for run, part in zip(runs, parts, strict=True) if column not in part]:
            remarks.append(f"no {what}: {', '.join(lacking)}")
    have = set(zip(common["seed"], common["arm"], strict=True))
    for seed, arms in table.groupby("seed")["arm"].unique().items():
        if base not in arms:
            remarks.append(f"seed {seed}: no samples of {base}, so its arms are in no difference")
        elif unseen := [arm for arm in arms if (seed, arm) not in have]:
            remarks.append(f"seed {seed}: {base}'s runs have no scores named {', '.join(unseen)} (entropy on one text)")
    known = ", ".join(domain for domains in DOMAINS.values() for domain in domains)
    if (table["set"] == set_of("")).any():
        n = f"{(table['set'] == set_of('')).sum():,} of {len(table):,} samples"
        remarks.append(f"{n} have no domain, so no measure of safety or skill counts them; prompts may say {known}")
    if other := sorted(set(table["set"]) - {*DOMAINS, set_of("")}):
        remarks.append(f"domains in no measure of safety or skill: {', '.join(other)}; known are {known}")
    return remarks


def _only(names: Sequence[str], wanted: str, kind: str, run: Run, defaults: Sequence[str] = ()) -> str:
    """The name asked for, or the only one, or the first of the defaults; "" where the run has none."""
    if wanted or len(names) < 2:
        return "".join(name for name in names if not wanted or name == wanted)
    if found := [name for name in defaults if name in names]:
        return found[0]
    raise TraceError(f"{run.path}: which {kind}? there are {', '.join(names)}; name one with --{kind}")


def _sample_table(run: Run, arms: set[str], others: set[str], judge: str, monitor: str, scorer: str) -> pd.DataFrame:
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
        said = said.rename(columns=names)[["trace_id", *(ours for part, ours in names.items() if part in said)]]
        table = table.merge(said, on="trace_id")
    table = table.merge(_read_answers(run), on="trace_id")
    refuses = table["refuses"] if "refuses" in table else pd.Series(pd.NA, table.index, dtype="boolean")
    return pd.DataFrame(
        {
            "seed": _seed_of(run.path),
            "arm": table["method"].where(table["method"] != "", run.name),
            **_places(table),
            "prompt_id": table["prompt_id"],
            "sample": _sample_numbers(table),
            **{name: table[name] for name in _FLAGS if name in table},
            "refuses": refuses.fillna(table["rule_refuses"]),
            "is_correct": table["is_correct"],
            "is_format_ok": (table["status"] == Status.CLOSED.value) & (table["n_answer_chars"] > 0),
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
    return {"set": traces["domain"].map(set_of), "split": traces["split"].where(traces["split"] != "", domain)}


def _sample_numbers(traces: pd.DataFrame) -> pd.Series:
    """Numbers of the samples of a prompt: the source's, or where it numbers two alike, in the order of the run."""
    prompts = ["method", "domain", "split", "prompt_id"]
    same = traces.duplicated([*prompts, "sample"]).any()
    return traces.groupby(prompts, dropna=False).cumcount() if same else traces["sample"]


_ENTROPIES = {name: name for name in ("entropy_think", "entropy_answer", "entropy_reflect")} | {"kl_base": "kl_think"}
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
                found = found.assign(arm=arm, seed=_seed_of(run.path), **_places(found))
                tables.append(found.rename(columns={"entropy_think": "entropy_common"}))
    kept = ["seed", "arm", "set", "split", "prompt_id", "entropy_common"]
    return pd.concat(tables, ignore_index=True)[kept] if tables else pd.DataFrame(columns=kept)
