"""One small base model, its SFT and RL arms, and the figures that compare them, on a CPU.

    python -m trainers.pocket.experiment -o runs/pocket             # one seed, all arms, figures
    python -m trainers.pocket.experiment -o runs/pocket --seeds 5   # goes on from what is there
    python -m trainers.pocket.experiment -o runs/pocket --tune      # tries learning rates on the
                                                                    # development seed

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
    OUT/seed=0/ARM/branching.parquet the arm's entropy where the base policy could have gone on
                                     otherwise
    OUT/seed=0/ARM/early.parquet     what the arm answers when its unsafe thinking is cut short
    OUT/seed=1000/ARM@RATE           a try of a learning rate on the development seed
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
import time
from collections.abc import Sequence
from pathlib import Path

from trainers.pocket.arms import ARMS
from trainers.pocket.jobs import Job, clock, end_with_caller, run_all, run_job, show_line, tries
from trainers.pocket.plan import DEVELOPMENT_SEED, Plan
from trainers.pocket.tune import read_tries


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("runs/pocket"))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--arms",
        nargs="+",
        choices=list(ARMS),
        default=list(ARMS),
        metavar="ARM",
        help=", ".join(ARMS),
    )
    parser.add_argument(
        "--tune",
        action="store_true",
        help="try learning rates on the development seed, and no more",
    )
    parser.add_argument("--workers", type=int, default=2, help="arms side by side, one core each")
    parser.add_argument("--figures", type=Path, help="folder of the figures; default: OUT/figures")
    parser.add_argument("--only", help="SEED:ARM or SEED:ARM@RATE, one job and no figures")
    parser.add_argument("--attached", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--plan", type=json.loads, default={}, help="JSON: another amount of something, see Plan"
    )
    given = parser.parse_args(arguments)
    if not isinstance(given.plan, dict):
        parser.error(f"--plan: expected a JSON object, got {given.plan!r}")
    if unknown := set(given.plan) - set(Plan.__dataclass_fields__):
        parser.error(
            f"--plan: unknown {', '.join(sorted(unknown))}; there are "
            f"{', '.join(Plan.__dataclass_fields__)}"
        )
    try:
        plan = Plan(**given.plan)
    except ValueError as error:
        parser.error(str(error))
    if given.only:
        seed, _, name = given.only.partition(":")
        if not seed.isdigit() or Job(0, name).arm not in ARMS:
            parser.error(
                f"--only: expected SEED:ARM with an arm of {', '.join(ARMS)}, got {given.only}"
            )
        import torch

        if given.attached:
            end_with_caller()
        torch.set_num_threads(1)
        run_job(given.out, Job(int(seed), name), plan)
        return
    started = time.monotonic()
    arms = ["base", *(arm for arm in ARMS if arm in given.arms and arm != "base")]
    jobs = (
        tries() if given.tune else [Job(seed, arm) for seed in range(given.seeds) for arm in arms]
    )
    try:
        run_all(given.out, jobs, plan, workers=given.workers)
    except (ValueError, RuntimeError) as error:
        parser.exit(1, f"\nexperiment: {error}\n")
    if given.tune:
        print(
            read_tries(given.out / f"seed={DEVELOPMENT_SEED}").to_string(
                index=False, float_format="%.4g"
            )
        )
        return
    from trainers.pocket.report import report

    report(given.out, given.figures or given.out / "figures")
    show_line(
        f"all done after {clock(time.monotonic() - started)}: "
        f"{given.figures or given.out / 'figures'}",
        last=True,
    )


if __name__ == "__main__":
    main()
