"""The experiment's jobs, and the processes in which they run.

A job trains an arm of a seed and measures it, or tries a learning rate. Its process writes a log.
`trainers.pocket.crew` runs many side by side.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from cotlens.files import only_one, write_atomic
from trainers.pocket.arms import ARMS, STARTS_FROM
from trainers.pocket.branching import policy_path
from trainers.pocket.plan import (
    DEVELOPMENT_SEEDS,
    PICKED,
    RATES,
    Plan,
    Setting,
    add_cost,
    check_plan,
    read_cost,
    read_plan,
)
from trainers.pocket.progress import say_stage

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
_SECONDS_BETWEEN_LOOKS = 0.5
_CHECKOUT = Path(__file__).parents[2]  # holds the packages trainers and cotlens

# What the base policy does where it branches: no arm, but a part of measuring the base that needs
# no model, so that it can be done while the base trains.
POLICY = "policy"


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

    @property
    def is_measured(self) -> bool:
        """Whether it is measured after its training."""
        return not (self.is_try or self.is_bare or self.name == POLICY)

    @property
    def label(self) -> str:
        """What it is called in the progress line."""
        return f"seed {self.seed} {self.name}"

    def is_done(self, out: Path) -> bool:
        """Whether its results are all there."""
        if self.name == POLICY:
            return policy_path(out / f"seed={self.seed}").exists()
        results = ("trained",)
        if self.is_measured:
            results = ("measured", "early.parquet")

        folder = self.folder(out)
        return all((folder / name).exists() for name in results)

    def is_trained(self, out: Path) -> bool:
        """Whether its model is there, from which others can start."""
        return (self.folder(out) / "trained").exists()

    def needs(self) -> list["Job"]:
        """The jobs that must be trained before this one is, and be done before it is measured."""
        if self.name in ("base", POLICY):
            return []

        # An arm that starts from another needs its model.
        needed = [Job(self.seed, "base")]
        start = STARTS_FROM.get(self.arm)
        if start:
            needed.append(Job(self.seed, start))
        return needed


def measured_settings(
    out: Path, seed: int, arms: Sequence[str], is_done: Callable[[Path], bool]
) -> list[Setting]:
    """The settings of a seed's arms that are measured and of which something further is not done.

    Args:
        out: folder of the experiment.
        seed: of the arms.
        arms: their names; none: all.
        is_done: whether an arm's folder has what is asked for.
    """
    jobs = [Job(seed, arm) for arm in arms or ARMS]
    measured = [job for job in jobs if (job.folder(out) / "measured").exists()]
    missing = [job for job in measured if not is_done(job.folder(out))]
    if not missing:
        return []

    # The prompts are made once for all of them.
    base = make_setting(out, Job(seed, "base"), read_plan(out))
    return [replace(base, arm=job.arm, name=job.name) for job in missing]


def tries(seeds: Sequence[int] = DEVELOPMENT_SEEDS) -> list[Job]:
    """The bases of development seeds and every try on them."""
    jobs = []
    for seed in seeds:
        jobs.append(Job(seed, "base"))
        for arm in PICKED:
            jobs += [Job(seed, f"{arm}@{rate:g}") for rate in RATES]
    return jobs


def run_job(out: Path, job: Job, plan: Plan, *, waits: bool = False) -> None:
    """Trains an arm and measures it; stages that are done already are left as they are.

    Args:
        out: folder of the experiment.
        job: what is to be done.
        plan: how much of everything.
        waits: whether to wait for the measures of the base, which another process makes. Arms score
            the base's samples.

    Raises:
        ValueError: if OUT has another plan, the arm has no learning rate, or it was trained at
            another one.
        TraceError: if another process works on this job.
    """
    # Imported here: whoever runs the jobs starts at once, without torch.
    from trainers.pocket.measure import answer_early, evaluate, write_policy

    check_plan(out, plan)
    setting = make_setting(out, job, plan)
    folder = setting.own
    trained = folder / "trained"
    measured = folder / "measured"

    # Each stage leaves a file that shows it is done.
    with only_one(folder):
        if job.name == POLICY:
            from trainers.pocket.tokenizer import build_tokenizer

            write_policy(setting, build_tokenizer())
            return
        if trained.exists():
            _check_rate(setting)
        else:
            if job.is_measured:
                say_stage("training")
            _train(setting, is_bare=job.is_bare)
            write_atomic(trained, "")

        if not job.is_measured:
            return
        base = Job(job.seed, "base").folder(out)
        while waits and job.name != "base" and not (base / "measured").exists():
            time.sleep(_SECONDS_BETWEEN_LOOKS)

        # The two stages of an arm with results.
        started = time.process_time()
        if not measured.exists():
            evaluate(setting)
            write_atomic(measured, "")
        if not (folder / "early.parquet").exists():
            say_stage("early answers")
            answer_early(setting)
            seconds = time.process_time() - started
            add_cost(setting, {"cpu_seconds_of_measuring": round(seconds, 1)})


def make_setting(out: Path, job: Job, plan: Plan) -> Setting:
    """The setting of a job, at the rate of the try or of the plan."""
    if job.is_try:
        rate = float(job.name.partition("@")[2])
    elif job.name == POLICY:
        rate = 0.0
    else:
        rate = plan.rate(job.arm)
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
        from trainers.pocket.path import add_point

        model, _ = setting.load()
        add_point(setting, model, 0)
    seconds = time.process_time() - started
    add_cost(setting, {"cpu_seconds_of_last_start": round(seconds, 1)})


class Errand(NamedTuple):
    """A command for a core that is free: it needs no job, and no job needs it.

    Attributes:
        label: what it is called in the progress line.
        command: the command, as a shell takes it.
    """

    label: str
    command: str

    def log_path(self, out: Path) -> Path:
        """Its log."""
        place = re.sub(r"\W+", "_", self.label)
        return out / "errands" / f"{place}.log"


Task = Job | Errand


def start_job(out: Path, job: Job, plan: Plan) -> subprocess.Popen:
    """Starts a job in its own process, with its output in the job's log.

    The process ends when this one is gone (see `end_with_caller`).
    """
    arguments = ["--plan", json.dumps(asdict(plan)), "--only", f"{job.seed}:{job.name}"]
    return start_experiment(out, arguments, log_path(out, job))


def start_experiment(out: Path, arguments: Sequence[str], log: Path) -> subprocess.Popen:
    """Starts the experiment's script with one thread, which ends when this process is gone."""
    command = [
        sys.executable,
        "-P",  # keep the current folder off the path: it may have another `trainers`
        "-m",
        "trainers.pocket.experiment",
        "-o",
        str(out),
        *arguments,
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

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env=environment,
        )


def start_errand(out: Path, errand: Errand) -> subprocess.Popen:
    """Starts an errand with one thread, in a group of its own with all that it starts."""
    log = errand.log_path(out)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        return subprocess.Popen(
            errand.command,
            shell=True,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=os.environ | _ONE_THREAD,
            start_new_session=True,
        )


def close(process: subprocess.Popen) -> None:
    """Ends a process of ours and waits for it, if it still runs."""
    if process.stdin:
        # To the process this means that its caller is gone; it may not listen yet.
        process.stdin.close()
        process.terminate()
    elif process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def end_with_caller() -> None:
    """Ends this process when the one that started it is gone.

    The caller holds the other end of the standard input, which closes with it. Ctrl-C, which a
    terminal sends to both, is the caller's to answer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    # Reading blocks until the input closes.
    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def log_path(out: Path, task: Task) -> Path:
    """The log of a task; that of a job is next to its folder."""
    if isinstance(task, Errand):
        return task.log_path(out)
    return out / f"seed={task.seed}" / f"{task.name}.log"


def read_log(out: Path, task: Task) -> str:
    """The log of a task; empty without one."""
    return read_text(log_path(out, task))


def read_text(path: Path) -> str:
    """A text that another process writes; empty if there is none yet."""
    if not path.exists():
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def read_log_end(out: Path, task: Task) -> str:
    """The last 2,000 characters of a task's log."""
    return read_log(out, task)[-2000:]
