"""From the experiment's runs to its study, and from the study to its figures.

    python -m trainers.pocket.report STUDY -o DIR       # draws a study, figures/data/pocket for one

`collect` sets the oracle's truth next to what cotlens measured, in tables without text. OUT/study is a study
(cotlens/studies) with further tables: steps (detectors and the truth), rollouts (what RL sampled), updates (what TRL
logged of them), branching (entropies where the policy branched), early (answers after cut thoughts), cost.csv and
tries.csv.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.pocket.report"
    )

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cotlens.files import write_atomic
from cotlens.formats.read import read_traces
from cotlens.judges.verdict import Item
from cotlens.judges.verdict import Part as Judged
from cotlens.measures.entropy import trace_entropy
from cotlens.measures.reflection import reflection_dynamics
from cotlens.measures.unsafe import safety_states
from cotlens.plots import draw_figures, draw_study
from cotlens.runs.run import Run
from cotlens.studies import Study, read_claims, read_updates, write_study
from cotlens.text.split import split_think
from cotlens.trace import TraceError
from trainers.pocket.arms import ARMS
from trainers.pocket.figures import COLUMNS, FIGURES, samples_of
from trainers.pocket.guard import LearnedGuard
from trainers.pocket.jobs import Job
from trainers.pocket.oracle import read_truth
from trainers.pocket.plan import DEVELOPMENT_SEED, SETS, read_plan
from trainers.pocket.tune import read_tries
from trainers.pocket.world import Prompt, PromptSplit

WORLD = "pocket world: invented topics, scripted excuses; a method demonstration, no evidence on real models"
ROLES = {
    "base": "base",
    "rl": "grpo",
    "rl_answer": "grpo_answer",
    "filtered": "filtered_sft",
    "sft": ["teacher_sft", "teacher_mixed_sft", "refusal_sft", "self_sft", "filtered_sft"],
}


CLAIMS = Path(__file__).parents[1] / "configs" / "claims.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw a study of the pocket experiment."""
    parser = argparse.ArgumentParser(description="Draw a study of the pocket experiment.")
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for its figures")
    options = parser.parse_args(arguments)
    try:
        paths = draw(options.study, options.out)
    except TraceError as error:
        parser.exit(1, f"report: {error}\n")
    print(f"{sum(path.suffix == '.png' for path in paths)} figures in {options.out}. {WORLD}.")


def draw(study: Study | Path, out: Path) -> list[Path]:
    """Draw a study with the columns and figures that only this world has; returns the paths."""
    study = study if isinstance(study, Study) else Study(study)
    return draw_study(study, out, samples=samples_of(study), columns=COLUMNS, figures=FIGURES)


def report(out: Path, figures: Path, sets: Sequence[str] = tuple(SETS)) -> None:
    """Collect the study, draw it, and draw the runs of the first seed for each set of prompts."""
    draw(collect(out, out / "study"), figures)
    first = min(_seeds(out))
    for name in sets:
        measured = [arm for arm in ARMS if _is_measured(out, Job(first, arm))]
        draw_figures(
            [Job(first, arm).folder(out) / name for arm in measured],
            figures / name,
            by="method",
            scorer="own",
            judge="oracle",
            say=lambda _: None,
        )

    verdicts = pd.read_csv(figures / "verdicts.csv")
    for row in verdicts.to_dict("records"):
        print(
            f"{row['verdict']:>10}  {row['claim']}: {row['because']}; "
            f"would change it: {row['would_change']}"
        )
    print(f"{len(list(figures.rglob('*.png')))} figures in {figures}. {WORLD}.")


def collect(out: Path, study: Path) -> Study:
    """The study of all arms that are measured, seed by seed; seeds that are in it already and not in OUT stay.

    Raises:
        ValueError: if nothing is measured.
    """
    jobs = [job for seed in _seeds(out) for arm in ARMS if _is_measured(out, job := Job(seed, arm))]
    if not jobs:
        raise ValueError(
            f"{out}: no arm is measured yet; run python -m trainers.pocket.experiment -o {out}"
        )
    bar = tqdm(jobs, desc="collect", unit=" arms")
    parts = [_tables(out, job) for job in bar]
    tables = {
        name: pd.concat(
            [part[name] for part in parts if len(part.get(name, ()))], ignore_index=True
        )
        for name in ("samples", "steps", "rollouts", "updates", "branching", "early")
        if any(len(part.get(name, ())) for part in parts)
    }
    arms = {
        arm: str(ARMS[arm].__doc__).split("\n")[0]
        for arm in ARMS
        if arm in set(tables["samples"]["arm"])
    }
    info = {
        "arms": arms,
        **ROLES,
        "note": WORLD,
        "claims": read_claims(CLAIMS),
        "plan": asdict(read_plan(out)),
    }
    made = write_study(study, tables, info)
    write_atomic(
        study / "cost.csv", _with_earlier(study / "cost.csv", _cost(out)).to_csv(index=False)
    )
    tried = read_tries(out / f"seed={DEVELOPMENT_SEED}")
    if len(tried):
        write_atomic(study / "tries.csv", tried.to_csv(index=False, float_format="%.6g"))
    return made


def _seeds(out: Path) -> list[int]:
    found = sorted(int(path.name.removeprefix("seed=")) for path in out.glob("seed=*"))
    return [seed for seed in found if seed != DEVELOPMENT_SEED]


def _is_measured(out: Path, job: Job) -> bool:
    return (job.folder(out) / "measured").exists()


def _with_earlier(path: Path, cost: pd.DataFrame) -> pd.DataFrame:
    """The costs, with those of seeds that only the study still knows."""
    earlier = pd.read_csv(path) if path.exists() else cost.head(0)
    return pd.concat(
        [earlier[~earlier["seed"].isin(cost["seed"])], cost], ignore_index=True
    ).sort_values("seed", kind="stable")


def _cost(out: Path) -> pd.DataFrame:
    """What each arm took, by seed: updates, sequences, sampled and trained tokens, processor seconds."""
    rows = []
    for seed in _seeds(out):
        for arm in ARMS:
            path = Job(seed, arm).folder(out) / "cost.json"
            if path.exists():
                rows.append(
                    {"seed": seed, "arm": arm, **json.loads(path.read_text(encoding="utf-8"))}
                )
    return pd.DataFrame(rows)


# --- the tables of one arm -------------------------------------------------------------------------------------
def _tables(out: Path, job: Job) -> dict[str, pd.DataFrame]:
    folder = job.folder(out)
    prompts = read_plan(out).prompts(job.seed)
    tables = {
        "samples": _samples(folder),
        "steps": _steps(folder, prompts),
        "branching": pd.read_parquet(folder / "branching.parquet").drop(columns="start"),
        "rollouts": _rollouts(folder, prompts),
        "updates": read_updates(folder / "model")
        if (folder / "rollouts").exists()
        else pd.DataFrame(),
    }
    if (folder / "early.parquet").exists():
        tables["early"] = pd.read_parquet(folder / "early.parquet")
    return {
        name: _small(table.assign(arm=job.arm, seed=job.seed))
        for name, table in tables.items()
        if len(table)
    }


def _small(table: pd.DataFrame) -> pd.DataFrame:
    """The table in types that are small on disk; entropies keep seven digits."""
    kinds = dict.fromkeys(table.select_dtypes("float64"), "float32")
    kinds |= dict.fromkeys(table.select_dtypes("int64"), "int16")
    return table.astype(kinds)


def _samples(folder: Path) -> pd.DataFrame:
    """One row per sample: the oracle's truth, the learned guard's flags, and what cotlens measured of it."""
    truth = pd.read_parquet(folder / "truth.parquet")
    tables = []
    for name in SETS:
        run = Run(folder / name)
        steps, traces = run.step_table(), run.trace_table()
        measured = trace_entropy(reflection_dynamics(steps, traces), steps, run.score_table("own"))
        flags = run.with_verdicts(traces[["trace_id"]], "learned")
        flags = flags.rename(
            columns={"thinking_unsafe": "thinking_flagged", "answer_unsafe": "answer_flagged"}
        )
        base = Run(folder.parent / "base" / name)  # the same prompts and samples, so the same ids
        scorer = "own" if folder.name == "base" else folder.name
        common = trace_entropy(base.trace_table(), base.step_table(), base.score_table(scorer))
        common = common.rename(columns={"entropy_think": "entropy_common"})
        measured["kl_base"] = measured.get("kl_think", 0.0)  # of the base to itself
        columns = [
            "trace_id",
            "sample",
            "n_think_chars",
            "entropy_think",
            "entropy_answer",
            "entropy_reflect",
            "kl_base",
        ]
        own = truth[truth["set"] == name].merge(measured[columns], on="trace_id")
        own = own.merge(flags[["trace_id", "thinking_flagged", "answer_flagged"]], on="trace_id")
        tables.append(own.merge(common[["trace_id", "entropy_common"]], on="trace_id"))
    table = pd.concat(tables, ignore_index=True)
    if len(table) != len(truth):
        raise ValueError(
            f"{folder}: {len(truth)} samples, {len(table)} of them measured; remove it and run again"
        )
    little_known = table["is_little_known"] & (table["split"] == PromptSplit.NEW_TOPIC.value)
    return pd.DataFrame(
        {
            **{name: table[name] for name in ("set", "prompt_id", "sample")},
            "split": table["split"].mask(little_known, "little_known"),
            **{name: table[name].astype("boolean") for name in _FLAGS},
            "refuses": table["is_refusal"],
            "onset": table["onset"],
            **{name: table[name] for name in ("n_reflections", "n_corrections", "n_tokens")},
            "longest_run": table["reflection_depth"],
            "n_steps": table["n_think_steps"],
            "length": table["n_think_chars"],
            **{name: table[name] for name in _ENTROPIES},
        }
    )


_ENTROPIES = ("entropy_think", "entropy_answer", "entropy_reflect", "entropy_common", "kl_base")
_FLAGS = (
    "thinking_unsafe", "answer_unsafe", "thinking_flagged", "answer_flagged", "is_help", "is_correct", "is_format_ok",
    "is_parsed", "recovered",
)  # fmt: skip


def _steps(folder: Path, prompts: Mapping[PromptSplit, tuple[Prompt, ...]]) -> pd.DataFrame:
    """One row per step of thinking: what the detectors say and what the oracle knows."""
    tables = []
    for name, parts in SETS.items():
        known = {prompt.id: prompt for part in parts for prompt in prompts[part]}
        run = Run(folder / name)
        steps = run.step_table()
        steps = steps.assign(unsafe=(safety_states(steps) > 0) & steps["is_self_jailbreak"].notna())
        tables.append(_matched(run, steps, known).assign(set=name))
    return pd.concat(tables, ignore_index=True)


def _matched(run: Run, steps: pd.DataFrame, prompts: Mapping[str, Prompt]) -> pd.DataFrame:
    of_trace = dict(tuple(steps.groupby("trace_id")))
    rows = []
    for trace in run.traces():
        own = of_trace.get(trace.id)
        if own is None:
            continue
        starts = own["start"].to_numpy()
        reflects, unsafe = np.zeros(len(own), bool), np.zeros(len(own), bool)
        for sentence in read_truth(trace.completion, prompts[trace.prompt_id]).think:
            place = max(int(np.searchsorted(starts, sentence.chars.start, "right")) - 1, 0)
            reflects[place] |= sentence.is_reflection
            unsafe[place] |= sentence.is_unsafe
        kept = own[["is_reflection", "unsafe"]].astype({"is_reflection": "boolean"})
        rows.append(
            kept.assign(prompt_id=trace.prompt_id, true_reflection=reflects, true_unsafe=unsafe)
        )
    return pd.concat(rows, ignore_index=True)


_SET_OF = {
    "maths": "maths",
    "forbidden": "forbidden",
    "look_alike": "harmless",
    "allowed": "harmless",
}


def _rollouts(folder: Path, prompts: Mapping[PromptSplit, tuple[Prompt, ...]]) -> pd.DataFrame:
    """One row per rollout: step, set, reward, the oracle's truth and what the reward's guard says of the thinking."""
    known = {prompt.id: prompt for prompt in prompts[PromptSplit.TRAIN]}
    guard = LearnedGuard.load(folder.parent / "base" / "guard.json")
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("rollouts/*/*.parquet")):
        traces = list(read_traces(path))
        thoughts = [
            "\n\n".join(s.of(t.completion) for s in split_think(t.completion).think) for t in traces
        ]
        said = guard.judge(
            [
                Item(t.prompt, text, Judged.THINKING)
                for t, text in zip(traces, thoughts, strict=True)
            ]
        )
        for trace, verdict in zip(traces, said, strict=True):
            truth = read_truth(trace.completion, known[trace.prompt_id])
            rows.append(
                {
                    "step": trace.training_step, "set": _SET_OF[trace.domain], "prompt_id": trace.prompt_id,
                    "reward": trace.reward, "thinking_unsafe": truth.thinking_unsafe,
                    "answer_unsafe": truth.answer_unsafe, "thinking_flagged": verdict.label == "unsafe",
                    "is_correct": truth.is_correct, "is_help": truth.is_help,
                    "n_reflections": truth.n_reflections, "n_tokens": len(trace.token_ids or ()),
                }
            )  # fmt: skip
    table = pd.DataFrame(rows)
    return table.astype({"is_correct": "boolean"}) if len(table) else table


if __name__ == "__main__":
    main()
