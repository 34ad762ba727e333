"""From the experiment's runs to its study, and from the study to its figures.

    python -m trainers.pocket.report STUDY -o DIR       # draws a study, figures/data/pocket for one

`collect` sets the oracle's truth next to what cotlens measured, in tables without text. OUT/study
is a study (cotlens/studies) with further tables: steps (detectors and the truth), rollouts (what RL
sampled), updates (what TRL logged of them), branching (entropies where the policy branched), early
(answers after cut thoughts), prefills, continuations, attempts and mechanisms
(interventions.py), thinking, likelihood and pivots (outcomes.py), drift (drift.py), cost.csv and
tries.csv. The arms of other papers' methods are two studies of their own, next to the arms that
they are compared with: OUT/methods has those that cut a thought (RECAP, IPO, Chain-of-Guardrails),
OUT/nine an arm or more of all nine systems.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.pocket.report"
    )

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from cotlens.files import write_atomic
from cotlens.plots import draw_figures, draw_study
from cotlens.studies import Study, write_study
from cotlens.studies.claims import register_claims
from cotlens.trace import TraceError
from trainers.pocket.arms import ARMS, COMPARED, INTERVENING, METHODS, OWN, TWINS
from trainers.pocket.figures import COLUMNS, FIGURES, samples_of
from trainers.pocket.jobs import Job
from trainers.pocket.nine_figures import NINE_FIGURES
from trainers.pocket.path import read_paths
from trainers.pocket.plan import DEVELOPMENT_SEEDS, SETS, read_plan
from trainers.pocket.probe_figures import MATRIX_STEPS
from trainers.pocket.tables import INTERVENTIONS, OUTCOMES, arm_tables
from trainers.pocket.tune import read_tries

WORLD = (
    "pocket world: invented topics, scripted excuses; "
    "a method demonstration, no evidence on real models"
)
ROLES = {
    "base": "base",
    "rl": "grpo",
    "rl_answer": "grpo_answer",
    "filtered": "filtered_sft",
    "sft": ["hindsight_sft", "reflective_sft", "filtered_sft"],
}

TABLES = (
    "samples",
    "steps",
    "rollouts",
    "updates",
    "branching",
    "early",
    *INTERVENTIONS,
    *OUTCOMES,
)
# The tables of the study of all nine systems: others would say the same again for thirty arms.
NINE_TABLES = ("samples", "prefills", *OUTCOMES)
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
    """Draw a study with the columns and figures that only this world has; returns the paths.

    A study of all nine systems has figures of its own: in the others thirty arms have no room.
    """
    study = study if isinstance(study, Study) else Study(study)
    is_nine = any(arm in OWN for arm in study.info["arms"])
    figures = NINE_FIGURES if is_nine else FIGURES
    return draw_study(study, out, samples=samples_of(study), columns=COLUMNS, figures=figures)


def report(out: Path, figures: Path, sets: Sequence[str] = tuple(SETS)) -> None:
    """Collect the studies, draw them, and draw the runs of the first seed for each set."""
    first = min(_seeds(out))
    if any(_is_measured(out, Job(first, arm)) for arm in INTERVENING):
        draw(collect_methods(out, out / "methods"), figures / "methods")
    if any(_is_measured(out, Job(first, arm)) for arm in OWN):
        draw(collect_nine(out, out / "nine"), figures / "nine")
    draw(collect(out, out / "study"), figures)
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
    """The study of the arms that are measured. Seeds already in it and no longer in OUT stay.

    Raises:
        ValueError: if nothing is measured.
    """
    arms = [arm for arm in ARMS if arm not in METHODS]
    tables = _collect_tables(out, arms, _seeds(out))

    # Paths of the development seeds, for comparisons at equal safety.
    paths = read_paths(out)
    is_arm = paths["arm"].isin(arms)
    if is_arm.any():
        tables["frontier"] = paths[is_arm].drop(columns="score")

    info = {
        **ROLES,
        **register_claims(CLAIMS),
        "chance": {"recovers_puzzles": 0.5},  # two candidates are left after a miss
    }
    return _write(out, study, arms, tables, info)


def collect_methods(out: Path, study: Path) -> Study:
    """The study of the methods that cut a thought, and the arms that they are compared with.

    It has no claims: what the papers claim is of real models.

    Raises:
        ValueError: if nothing is measured.
    """
    arms = [*COMPARED, *INTERVENING]
    tables = _collect_tables(out, arms, _seeds_with(out, INTERVENING))
    return _write(out, study, arms, tables, {"base": "base", "rl": "grpo"})


def collect_nine(out: Path, study: Path) -> Study:
    """The study of all nine systems: every arm of a method, its twins, and what they start from.

    Raises:
        ValueError: if nothing is measured.
    """
    arms = [*COMPARED, *TWINS, *METHODS]
    tables = _collect_tables(out, arms, _seeds_with(out, OWN), NINE_TABLES)

    # Of the donors only what the table of nine shows.
    if "prefills" in tables:
        prefills = tables["prefills"]
        is_plain = prefills["donor"] == "none"
        is_attack = (prefills["donor"] == "base") & (prefills["steps"] == MATRIX_STEPS)
        is_first = prefills["kind"] == "prefill"
        tables["prefills"] = prefills[is_first & (is_plain | is_attack)]
    return _write(out, study, arms, tables, {"base": "base", "rl": "grpo"})


def _seeds_with(out: Path, arms: Iterable[str]) -> list[int]:
    """The seeds that have some of these arms: others could not be paired."""
    seeds = []
    for seed in _seeds(out):
        if any(_is_measured(out, Job(seed, arm)) for arm in arms):
            seeds.append(seed)
    return seeds


def _collect_tables(
    out: Path, arms: Sequence[str], seeds: Sequence[int], names: Sequence[str] = TABLES
) -> dict[str, pd.DataFrame]:
    """The tables of all measured arms of some seeds, one below the other."""
    jobs = [Job(seed, arm) for seed in seeds for arm in arms]
    measured = [job for job in jobs if _is_measured(out, job)]
    if not measured:
        raise ValueError(
            f"{out}: no arm is measured yet; run python -m trainers.pocket.experiment -o {out}"
        )

    plan = read_plan(out)
    collected: dict[str, list[pd.DataFrame]] = {}
    for job in tqdm(measured, desc="collect", unit=" arms"):
        prompts = plan.prompts(job.seed)
        for name, table in arm_tables(job.folder(out), job.arm, job.seed, prompts).items():
            collected.setdefault(name, []).append(table)
    tables = {}
    for name in names:
        if name in collected:
            tables[name] = pd.concat(collected[name], ignore_index=True)

    return tables


def _write(
    out: Path,
    study: Path,
    arms: Sequence[str],
    tables: dict[str, pd.DataFrame],
    info: dict[str, Any],
) -> Study:
    """Writes a study: what each arm is and took, and the plan."""
    described = {}
    for arm in arms:
        if arm in set(tables["samples"]["arm"]):
            train = ARMS[arm]
            described[arm] = str(getattr(train, "func", train).__doc__).split("\n")[0]
    plan = asdict(read_plan(out))
    written = write_study(study, tables, {"arms": described, **info, "note": WORLD, "plan": plan})
    known = set(tables["samples"]["seed"])
    cost = _cost(out, arms)
    cost = _with_earlier(study / "cost.csv", cost[cost["seed"].isin(known)])
    write_atomic(study / "cost.csv", cost.to_csv(index=False))

    # The learning rates that were tried.
    if len(read_paths(out)):
        tries = read_tries(out)
        tries = tries[tries["arm"].isin(arms)]
        write_atomic(study / "tries.csv", tries.to_csv(index=False, float_format="%.6g"))
    return written


def _seeds(out: Path) -> list[int]:
    """The seeds in a folder but for the development seed."""
    seeds = {int(path.name.removeprefix("seed=")) for path in out.glob("seed=*")}
    return sorted(seeds - {*DEVELOPMENT_SEEDS})


def _is_measured(out: Path, job: Job) -> bool:
    return (job.folder(out) / "measured").exists()


def _cost(out: Path, arms: Sequence[str]) -> pd.DataFrame:
    """What each arm took, by seed: updates, sequences, sampled and trained tokens, seconds."""
    rows = []
    for seed in _seeds(out):
        for arm in arms:
            path = Job(seed, arm).folder(out) / "cost.json"
            if path.exists():
                cost = json.loads(path.read_text(encoding="utf-8"))
                rows.append({"seed": seed, "arm": arm, **cost})

    # What became of samples is counted within a cost: one column for each count.
    return pd.json_normalize(rows, sep="_")


def _with_earlier(path: Path, cost: pd.DataFrame) -> pd.DataFrame:
    """The costs, with those of seeds that only the study still knows."""
    if path.exists():
        earlier = pd.read_csv(path)
        gone = earlier[~earlier["seed"].isin(cost["seed"])]
        cost = pd.concat([gone, cost], ignore_index=True)
    return cost.sort_values("seed", kind="stable")


if __name__ == "__main__":
    main()
