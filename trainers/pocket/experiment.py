"""One small base model, its SFT and RL arms, and the figures that compare them, on a CPU.

    python -m trainers.pocket.experiment -o runs/pocket             # one seed, all arms, figures
    python -m trainers.pocket.experiment -o runs/pocket --seeds 5   # goes on from what is there
    python -m trainers.pocket.experiment -o runs/pocket --seed 3 --arms grpo   # one of them
    python -m trainers.pocket.experiment -o runs/pocket --tune      # tries learning rates on the
                                                                    # development seeds

This is the pocket experiment, a method demonstration: the world's self-jailbreaks are scripted
(trainers/pocket/policy.py), so nothing here confirms a paper. It shows whether the instruments see
what is there, since the truth of every sentence is known. Every stage leaves a file that shows it
is done: kill the script anywhere, run it again, and it resumes.

    OUT/seed=0/base/model            an ordinary Hugging Face folder; one for each arm
    OUT/seed=0/base/guard.json       the learned guard that rewards ask; evaluations ask the oracle
    OUT/seed=0/ARM/rollouts          what GRPO sampled while it trained, as traces
    OUT/seed=0/ARM/SET/              a cotlens run of the arm on a set of prompts: traces, steps,
                                     scores, guard
    OUT/seed=0/ARM/truth.parquet     the oracle's verdict on each sample
    OUT/seed=0/ARM/depth.parquet     what the arm makes of injected mistakes, excuses and cautions
    OUT/seed=0/ARM/branching.parquet the arm's entropy where the base policy could have gone on
                                     otherwise
    OUT/seed=0/ARM/early.parquet     what the arm answers when its unsafe thinking is cut short
    OUT/seed=1000/ARM@RATE           a try of a learning rate on a development seed
    OUT/study                        the tables of all seeds; `trainers.pocket.report` draws them
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: "
        "python -m trainers.pocket.experiment"
    )

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from trainers.pocket.arms import ARMS, SEEDS_OF
from trainers.pocket.jobs import Job, clock, end_with_caller, run_all, run_job, show_line, tries
from trainers.pocket.plan import DEVELOPMENT_SEEDS, Plan
from trainers.pocket.tune import further_rates, read_tries

MOST_FURTHER = 3  # rates beyond the grid


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the script."""
    options = _read_options(arguments)
    if options.only:
        _run_one(options)
        return

    started = time.monotonic()
    try:
        if options.tune:
            _tune(options)
            return
        run_all(options.out, _jobs(options), options.plan, workers=options.workers)
    except (ValueError, RuntimeError) as error:
        _end(str(error), 1)
    except KeyboardInterrupt:
        _end("stopped; run the same command to go on from here", 130)

    from trainers.pocket.report import report

    figures = options.figures or options.out / "figures"
    report(options.out, figures)
    minutes = clock(time.monotonic() - started)
    show_line(f"all done after {minutes}: {figures}", last=True)


def _end(message: str, code: int) -> NoReturn:
    """Ends the script with one line."""
    print(f"\nexperiment: {message}", file=sys.stderr)
    raise SystemExit(code) from None


def _read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line, checked."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    add = parser.add_argument
    add("-o", "--out", type=Path, default=Path("runs/pocket"))
    add("--seeds", type=int, default=1, help="how many, from 0")
    add("--seed", type=int, nargs="+", help="these seeds and no other")
    add("--arms", nargs="+", choices=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    add("--tune", action="store_true", help="try learning rates on the development seeds, no more")
    add("--workers", type=int, default=2, help="arms side by side, one core each")
    add("--figures", type=Path, help="folder of the figures; default: OUT/figures")
    add("--only", help="SEED:ARM or SEED:ARM@RATE, one job and no figures")
    add("--attached", action="store_true", help=argparse.SUPPRESS)
    add("--plan", type=json.loads, default={}, help="JSON: another amount of something, see Plan")
    options = parser.parse_args(arguments)

    if not isinstance(options.plan, dict):
        parser.error(f"--plan: expected a JSON object, got {options.plan!r}")
    if unknown := set(options.plan) - set(Plan.__dataclass_fields__):
        known = ", ".join(Plan.__dataclass_fields__)
        parser.error(f"--plan: unknown {', '.join(sorted(unknown))}; there are {known}")
    try:
        options.plan = Plan(**options.plan)
    except ValueError as error:
        parser.error(str(error))

    if options.only:
        seed, _, name = options.only.partition(":")
        if not seed.isdigit() or Job(0, name).arm not in ARMS:
            parser.error(
                f"--only: expected SEED:ARM with an arm of {', '.join(ARMS)}, got {options.only}"
            )
    return options


def _run_one(options: argparse.Namespace) -> None:
    """Runs one job in this process."""
    import torch

    if options.attached:
        end_with_caller()
    torch.set_num_threads(1)
    seed, _, name = options.only.partition(":")
    run_job(options.out, Job(int(seed), name), options.plan)


def _jobs(options: argparse.Namespace) -> list[Job]:
    """The arms of each seed; without --arms those that the study has at this seed."""
    seeds = options.seed or range(options.seeds)
    jobs = []
    for seed in seeds:
        for arm in ARMS:
            is_wanted = arm in options.arms if options.arms else seed < SEEDS_OF[arm]
            if is_wanted or arm == "base":
                jobs.append(Job(seed, arm))
    return jobs


def _tune(options: argparse.Namespace) -> None:
    """Tries the rates of the grid, and further ones where the best lies at an edge."""
    seeds = options.seed or DEVELOPMENT_SEEDS
    jobs = tries(seeds)
    if options.arms:
        jobs = [job for job in jobs if job.arm in ("base", *options.arms)]
    run_all(options.out, jobs, options.plan, workers=options.workers)

    for _ in range(MOST_FURTHER):
        further = []
        for arm, rate in further_rates(read_tries(options.out)).items():
            further += [Job(seed, f"{arm}@{rate:g}") for seed in seeds]
        if not further:
            break
        run_all(options.out, further, options.plan, workers=options.workers)
    print(read_tries(options.out).to_string(index=False, float_format="%.4g"))


if __name__ == "__main__":
    main()
