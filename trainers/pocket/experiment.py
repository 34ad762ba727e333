"""One small base model, its SFT and RL arms, and the figures that compare them, on a CPU.

    python -m trainers.pocket.experiment -o runs/pocket             # one seed, all arms, figures
    python -m trainers.pocket.experiment -o runs/pocket --seeds 5   # goes on from what is there
    python -m trainers.pocket.experiment -o runs/pocket --seed 3 --arms grpo   # one of them
    python -m trainers.pocket.experiment -o runs/pocket --methods   # the methods of other papers
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
    OUT/seed=0/ARM/drift.parquet     safety on mixed prompts, predicted and observed, where an arm
                                     is paid for success alone
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
from contextlib import redirect_stdout
from pathlib import Path
from typing import NoReturn

from trainers.pocket.arms import ARMS, COMPARED, METHODS, SEEDS_OF
from trainers.pocket.crew import run_all
from trainers.pocket.jobs import (
    POLICY,
    Errand,
    Job,
    close,
    end_with_caller,
    read_text,
    run_job,
    start_experiment,
    tries,
)
from trainers.pocket.plan import DEVELOPMENT_SEEDS, Plan
from trainers.pocket.progress import Screen, about, clock, read_state

MOST_FURTHER = 3  # rates beyond the grid
REPORT = "report"  # of --only: collects and draws what is there
REPORT_LOG = "report.log"
VERDICTS = "verdicts.txt"  # what the report says
SECONDS_OF_REPORT = 100.0  # expected


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the script."""
    options = _read_options(arguments)
    if options.only:
        _run_one(options)
        return

    try:
        if options.tune:
            _tune(options)
        else:
            _run(options)
    except (ValueError, RuntimeError) as error:
        _end(str(error), 1)
    except KeyboardInterrupt:
        _end("stopped; run the same command to go on from here", 130)


def _run(options: argparse.Namespace) -> None:
    """Trains and measures every arm, and draws the figures."""
    started = time.monotonic()
    screen = Screen()
    pace = run_all(
        options.out,
        _jobs(options),
        options.plan,
        workers=options.workers,
        errands=options.meanwhile,
        seconds_after=SECONDS_OF_REPORT,
        screen=screen,
    )

    # A process of its own, as its progress bars go to a log.
    begun = time.monotonic()
    log = options.out / REPORT_LOG
    figures = options.figures or options.out / "figures"
    arguments = ["--only", REPORT, "--figures", str(figures)]
    process = start_experiment(options.out, arguments, log)
    try:
        while process.poll() is None:
            left = pace * SECONDS_OF_REPORT - (time.monotonic() - begun)
            state = read_state(read_text(log))
            screen.show(f"all arms done, {about(left)} | drawing: {state.text()}")
            time.sleep(0.5)
    finally:
        close(process)
    if process.returncode:
        raise RuntimeError(f"no figures; see {log}\n{read_text(log)[-2000:]}")

    screen.close(f"all done after {clock(time.monotonic() - started)}: {figures}")
    print((options.out / VERDICTS).read_text(encoding="utf-8"), end="")


def _end(message: str, code: int) -> NoReturn:
    """Ends the script with one line."""
    clear_line = "\r\x1b[2K" if sys.stderr.isatty() else ""
    print(f"{clear_line}experiment: {message}", file=sys.stderr)
    raise SystemExit(code) from None


def _read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line, checked."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    add = parser.add_argument
    add("-o", "--out", type=Path, default=Path("runs/pocket"))
    add("--seeds", type=int, default=1, help="how many, from 0")
    add("--seed", type=int, nargs="+", help="these seeds and no other")
    add("--arms", nargs="+", choices=list(ARMS), metavar="ARM", help=", ".join(ARMS))
    add("--methods", action="store_true", help="the arms of other papers' methods and their twins")
    add("--tune", action="store_true", help="try learning rates on the development seeds, no more")
    add("--workers", type=int, default=2, help="arms side by side, one core each")
    add(
        "--meanwhile",
        type=_read_errand,
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="another command, for a core that is free while the base trains",
    )
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

    if options.only and options.only != REPORT:
        seed, _, name = options.only.partition(":")
        if not seed.isdigit() or Job(0, name).arm not in (*ARMS, POLICY):
            parser.error(
                f"--only: expected SEED:ARM with an arm of {', '.join(ARMS)}, got {options.only}"
            )
    return options


def _read_errand(text: str) -> Errand:
    """An errand of the command line."""
    label, is_given, command = text.partition("=")
    if not (label.strip() and is_given and command.strip()):
        raise argparse.ArgumentTypeError(f"expected NAME=COMMAND, got {text!r}")
    return Errand(label, command)


def _run_one(options: argparse.Namespace) -> None:
    """Runs one job in this process."""
    import torch

    if options.attached:
        end_with_caller()
    torch.set_num_threads(1)
    if options.only == REPORT:
        _report(options)
        return
    seed, _, name = options.only.partition(":")
    job = Job(int(seed), name)
    run_job(options.out, job, options.plan, waits=options.attached)


def _report(options: argparse.Namespace) -> None:
    """Collects and draws what is there; what it says goes to a file."""
    from trainers.pocket.report import report

    figures = options.figures or options.out / "figures"
    with (options.out / VERDICTS).open("w", encoding="utf-8") as file, redirect_stdout(file):
        report(options.out, figures)


def _jobs(options: argparse.Namespace) -> list[Job]:
    """The arms of each seed; without --arms those that the study has at this seed."""
    seeds = options.seed or range(options.seeds)
    jobs = []
    for seed in seeds:
        for arm in ARMS:
            is_wanted = seed < SEEDS_OF[arm] and arm not in METHODS
            if options.methods:
                is_wanted = seed < SEEDS_OF[arm] and (arm in METHODS or arm in COMPARED)
            if options.arms:
                is_wanted = arm in options.arms
            if is_wanted or arm == "base":
                jobs.append(Job(seed, arm))

        # What needs no model, while the base trains.
        if not Job(seed, "base").is_done(options.out):
            jobs.append(Job(seed, POLICY))
    return jobs


def _tune(options: argparse.Namespace) -> None:
    """Tries the rates of the grid, and further ones where the best lies at an edge."""
    from trainers.pocket.tune import further_rates, read_tries

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
