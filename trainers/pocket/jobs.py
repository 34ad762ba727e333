"""Runs the experiment's jobs side by side, each in its own process.

A job trains an arm of a seed and measures it, or tries a learning rate. It starts when the jobs
that it needs are done, and writes a log. The caller shows one progress line for all of them.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from cotlens.files import only_one, write_atomic
from trainers.pocket.arms import ARMS, STARTS_FROM
from trainers.pocket.measure import answer_early, evaluate
from trainers.pocket.path import add_point
from trainers.pocket.plan import (
    DEVELOPMENT_SEEDS,
    PICKED,
    RATES,
    Plan,
    Setting,
    add_cost,
    check_plan,
    read_cost,
)

# Each process has one core.
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# By default glibc returns large tensors to the system at every step and asks for them again, which
# takes a fifth of all processor time.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**26),
}
_CHECKOUT = Path(__file__).parents[2]  # holds the packages trainers and cotlens
_SECONDS_BETWEEN_CHECKS = 0.5


class Job(NamedTuple):
    """An arm of a seed, or a try of a learning rate of one.

    Attributes:
        seed: seed of the experiment.
        name: ARM, or ARM@RATE for a try; also the name of the folder of its results.
    """

    seed: int
    name: str

    @property
    def arm(self) -> str:
        """Name of the arm, without the rate of a try."""
        return self.name.partition("@")[0]

    @property
    def is_try(self) -> bool:
        """Whether it only scores a learning rate."""
        return "@" in self.name

    @property
    def is_bare(self) -> bool:
        """Whether it is only trained: the base of a development seed."""
        return self.seed in DEVELOPMENT_SEEDS and self.name == "base"

    def folder(self, out: Path) -> Path:
        """Folder of its results."""
        return out / f"seed={self.seed}" / self.name

    def is_done(self, out: Path) -> bool:
        """Whether its results are all there."""
        results = ("trained",)
        if not self.is_try and not self.is_bare:
            results = ("measured", "early.parquet")

        folder = self.folder(out)
        return all((folder / name).exists() for name in results)

    def needs(self) -> list["Job"]:
        """The jobs that must be done before this one."""
        if self.name == "base":
            return []

        # An arm that starts from another needs its model.
        needed = [Job(self.seed, "base")]
        start = STARTS_FROM.get(self.arm)
        if start:
            needed.append(Job(self.seed, start))
        return needed


def tries(seeds: Sequence[int] = DEVELOPMENT_SEEDS) -> list[Job]:
    """The bases of development seeds and every try on them."""
    jobs = []
    for seed in seeds:
        jobs.append(Job(seed, "base"))
        for arm in PICKED:
            jobs += [Job(seed, f"{arm}@{rate:g}") for rate in RATES]
    return jobs


def run_job(out: Path, job: Job, plan: Plan) -> None:
    """Trains an arm and measures it; stages that are done already are left as they are.

    Raises:
        ValueError: if OUT has another plan, the arm has no learning rate, or it was trained at
            another one.
        TraceError: if another process works on this job.
    """
    check_plan(out, plan)
    setting = _make_setting(out, job, plan)
    folder = setting.own
    trained = folder / "trained"
    measured = folder / "measured"

    # Each stage leaves a file that shows it is done.
    with only_one(folder):
        if trained.exists():
            _check_rate(setting)
        else:
            _train(setting, is_bare=job.is_bare)
            write_atomic(trained, "")

        if job.is_try or job.is_bare:
            return

        # The two stages of an arm with results.
        if not measured.exists():
            evaluate(setting)
            write_atomic(measured, "")
        if not (folder / "early.parquet").exists():
            answer_early(setting)


def _make_setting(out: Path, job: Job, plan: Plan) -> Setting:
    """The setting of a job, at the rate of the try or of the plan."""
    rate_of_try = job.name.partition("@")[2]
    rate = float(rate_of_try) if job.is_try else plan.rate(job.arm)
    return Setting(
        folder=out / f"seed={job.seed}",
        seed=job.seed,
        plan=plan,
        prompts=plan.prompts(job.seed),
        arm=job.arm,
        rate=rate,
        name=job.name,
    )


def _check_rate(setting: Setting) -> None:
    """Raises ValueError if the arm was trained at another rate."""
    trained_rate = read_cost(setting)["rate"]
    if trained_rate != setting.rate:
        raise ValueError(
            f"{setting.own} was trained at rate {trained_rate:g}, not {setting.rate:g}; "
            "remove it to train it again"
        )


def _train(setting: Setting, *, is_bare: bool) -> None:
    """Trains the arm, or resumes it, and records the start and its processor time.

    A base of a development seed is the first point of every path.
    """
    # More than one start means that the job was killed and resumed.
    n_earlier_starts = read_cost(setting).get("starts", 0)
    add_cost(setting, {"starts": n_earlier_starts + 1, "rate": setting.rate})

    started = time.process_time()
    train = ARMS[setting.arm]
    train(setting)
    if is_bare:
        model, _ = setting.load()
        add_point(setting, model, 0)
    seconds = time.process_time() - started
    add_cost(setting, {"cpu_seconds_of_last_start": round(seconds, 1)})


def run_all(out: Path, jobs: Sequence[Job], plan: Plan, *, workers: int = 2) -> None:
    """Runs every job that is not done, `workers` at a time, each in a process with one thread.

    Raises:
        ValueError: if there is no worker or no job.
        RuntimeError: if a job fails, or needs one that is neither done nor among `jobs`. The
            results of the others stay.
    """
    if workers < 1 or not jobs:
        raise ValueError(
            f"expected at least one worker and one seed, got {workers} and {len(jobs)} jobs"
        )
    check_plan(out, plan)

    # Jobs that earlier calls have finished are not run again.
    waiting = [job for job in jobs if not job.is_done(out)]
    running: dict[Job, subprocess.Popen] = {}
    total = len(waiting)
    started = time.monotonic()
    if total:
        show_line(
            f"{total} arms to train and measure, {workers} at a time: "
            "minutes each, the base longest",
            last=True,
        )

    while waiting or running:
        # Free workers take the first jobs that are ready.
        n_free = workers - len(running)
        for job in _ready_jobs(out, waiting)[:n_free]:
            waiting.remove(job)
            running[job] = start_job(out, job, plan)
        if not running:
            missing = ", ".join(_missing_jobs(out, waiting))
            raise RuntimeError(f"no job can start; neither done nor asked for: {missing}")

        # A job that failed ends all others.
        time.sleep(_SECONDS_BETWEEN_CHECKS)
        ended = [job for job, process in running.items() if process.poll() is not None]
        for job in ended:
            process = running.pop(job)
            _close(process)
            if process.returncode:
                for other in running.values():
                    _close(other)
                raise RuntimeError(
                    f"seed {job.seed}, {job.name} failed; see {log_path(out, job)}\n"
                    f"{read_log_end(out, job)}"
                )
            minutes = clock(time.monotonic() - started)
            show_line(f"seed {job.seed}: {job.name} done after {minutes}", last=True)

        # The progress line.
        if running:
            n_done = total - len(waiting) - len(running)
            states = [f"seed {job.seed} {job.name}: {_progress(out, job)}" for job in running]
            show_line(f"{n_done} of {total} done; {' | '.join(states)}")


def _ready_jobs(out: Path, waiting: Sequence[Job]) -> list[Job]:
    """The waiting jobs whose needs are met."""
    ready = []
    for job in waiting:
        if all(needed.is_done(out) for needed in job.needs()):
            ready.append(job)
    return ready


def _missing_jobs(out: Path, waiting: Sequence[Job]) -> list[str]:
    """What the waiting jobs need that is neither done nor waiting, for a message."""
    missing = []
    for job in waiting:
        for needed in job.needs():
            if not needed.is_done(out) and needed not in waiting:
                missing.append(f"seed {needed.seed} {needed.name} (for {job.name})")
    return missing


def start_job(out: Path, job: Job, plan: Plan) -> subprocess.Popen:
    """Starts a job in its own process, with its output in the job's log.

    The process ends when this one is gone (see `end_with_caller`).
    """
    command = [
        sys.executable,
        "-P",  # keep the current folder off the path: it may have another `trainers`
        "-m",
        "trainers.pocket.experiment",
        "-o",
        str(out),
        "--plan",
        json.dumps(asdict(plan)),
        "--only",
        f"{job.seed}:{job.name}",
        "--attached",
    ]

    # The process imports this very checkout, whatever folder it is called from.
    search_path = [str(_CHECKOUT)]
    if os.environ.get("PYTHONPATH"):
        search_path.append(os.environ["PYTHONPATH"])
    environment = {
        **os.environ,
        **_ONE_THREAD,
        **_KEEP_MEMORY,
        "PYTHONPATH": os.pathsep.join(search_path),
    }

    path = log_path(out, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
        )


def _close(process: subprocess.Popen) -> None:
    """Ends a process of `start_job`, if it still runs."""
    # To the process this means that its caller is gone.
    if process.stdin:
        process.stdin.close()
    process.wait()


def end_with_caller() -> None:
    """Ends this process when the one that started it is gone.

    The caller holds the other end of the standard input, which closes with it.
    """

    # Reading blocks until the input closes.
    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def log_path(out: Path, job: Job) -> Path:
    """The log of a job, next to its folder."""
    return out / f"seed={job.seed}" / f"{job.name}.log"


def read_log_end(out: Path, job: Job) -> str:
    """The last 2,000 bytes of a job's log; empty without one."""
    path = log_path(out, job)
    if not path.exists():
        return ""
    return path.read_bytes()[-2000:].decode(errors="replace")


def _progress(out: Path, job: Job) -> str:
    """The last state of the job's own progress bar: its name, its share, what is left."""
    log = read_log_end(out, job)
    lines = log.replace("\r", "\n").split("\n")
    states = [line for line in lines if "%|" in line]
    if not states:
        return "starting"

    # As tqdm writes it: "train base:  42%|####      | 42/100 [00:10<00:14,  4.1 steps/s]".
    share, _, rest = states[-1].partition("%|")
    counts = rest.rpartition("| ")[2]
    return f"{share.strip()}% {counts.strip()}"


def clock(seconds: float) -> str:
    """A duration as minutes:seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def show_line(text: str, *, last: bool = False) -> None:
    """Shows one line on standard error.

    Args:
        text: the line, of which a terminal shows 150 characters.
        last: whether it stays. Otherwise the next line overwrites it on a terminal, and elsewhere
            it is not written.
    """
    if sys.stderr.isatty():
        clear_line = "\r\x1b[2K"
        sys.stderr.write(clear_line + text[:150] + ("\n" if last else ""))
        sys.stderr.flush()
    elif last:
        print(text, file=sys.stderr, flush=True)
