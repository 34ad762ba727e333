"""The experiment's jobs: which need which, run side by side, with logs and one progress line."""

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
from trainers.pocket.plan import (
    DEVELOPMENT_SEED,
    RATES,
    Plan,
    Setting,
    add_cost,
    check_plan,
    read_cost,
)
from trainers.pocket.tune import try_out


# --- stages, side by side --------------------------------------------------------------------------------------
class Job(NamedTuple):
    """An arm of a seed, or a try of one: `name` is ARM or ARM@RATE, and the folder of what it leaves."""

    seed: int
    name: str

    @property
    def arm(self) -> str:
        return self.name.partition("@")[0]

    def folder(self, out: Path) -> Path:
        return out / f"seed={self.seed}" / self.name

    def is_done(self, out: Path) -> bool:
        leaves = (
            ("try.json",)
            if "@" in self.name
            else ("trained",)
            if self.is_bare
            else ("measured", "early.parquet")
        )
        return all((self.folder(out) / name).exists() for name in leaves)

    @property
    def is_bare(self) -> bool:
        """Whether nothing is measured of it: the base of the development seed."""
        return self.seed == DEVELOPMENT_SEED and self.name == "base"

    def needs(self) -> list["Job"]:
        """The jobs that must be done before."""
        if self.name == "base":
            return []
        start = STARTS_FROM.get(self.arm)
        tries = (
            [Job(self.seed, f"{start}@{rate:g}") for rate in RATES]
            if "@" in self.name
            else [Job(self.seed, str(start))]
        )
        return [Job(self.seed, "base"), *(tries if start else [])]


def run_job(out: Path, job: Job, plan: Plan) -> None:
    """Trains an arm and measures it; what is done already stays."""
    check_plan(out, plan)
    seed, rate = job.seed, job.name.partition("@")[2]
    if not rate and job.arm != "base" and job.arm not in plan.rates:
        raise ValueError(
            f"no learning rate of {job.arm} is picked yet; run python -m trainers.pocket.experiment --tune"
        )
    own_rate = float(rate or plan.rates.get(job.arm, 0.0))
    setting = Setting(
        out / f"seed={seed}", seed, plan, plan.prompts(seed), job.arm, own_rate, job.name
    )
    trained, measured = setting.own / "trained", setting.own / "measured"
    with only_one(setting.own):
        before = read_cost(setting)
        if trained.exists() and before["rate"] != own_rate:
            raise ValueError(
                f"{setting.own} was trained at rate {before['rate']:g}, not {own_rate:g}; remove it to train it anew"
            )
        if not trained.exists():
            add_cost(
                setting, {"starts": before.get("starts", 0) + 1, "rate": own_rate}
            )  # above 1: killed and resumed
            started = time.process_time()
            ARMS[job.arm](setting)
            add_cost(
                setting, {"cpu_seconds_of_last_start": round(time.process_time() - started, 1)}
            )
            write_atomic(trained, "")
        if rate:
            try_out(setting)
        elif not job.is_bare:
            if not measured.exists():
                evaluate(setting)
                write_atomic(measured, "")
            if not (setting.own / "early.parquet").exists():
                answer_early(setting)


def tries() -> list[Job]:
    """The base of the development seed and every try on it."""
    names = [f"{arm}@{rate:g}" for arm in ARMS if arm != "base" for rate in RATES]
    return [Job(DEVELOPMENT_SEED, name) for name in ("base", *names)]


def run_all(out: Path, jobs: Sequence[Job], plan: Plan, *, workers: int = 2) -> None:
    """Every job, `workers` at a time, each in a process of its own with one thread.

    Raises:
        RuntimeError: if a job fails; what the others have done stays.
    """
    if workers < 1 or not jobs:
        raise ValueError(
            f"expected at least one worker and one seed, got {workers} and {len(jobs)} jobs"
        )
    check_plan(out, plan)
    waiting = [job for job in jobs if not job.is_done(out)]
    total, running, started = len(waiting), dict[Job, subprocess.Popen](), time.monotonic()
    if total:
        show_line(
            f"{total} arms to train and measure, {workers} at a time: minutes each, the base longest",
            last=True,
        )
    while waiting or running:
        for job in [job for job in waiting if all(other.is_done(out) for other in job.needs())]:
            if len(running) < workers:
                waiting.remove(job)
                running[job] = _start(out, job, plan)
        if not running:
            raise RuntimeError(f"{waiting[0]} waits for {waiting[0].needs()}, which nobody makes")
        time.sleep(0.5)
        for job, process in list(running.items()):
            if process.poll() is None:
                continue
            _end(running.pop(job))
            if process.returncode:
                for other in running.values():
                    _end(other)
                raise RuntimeError(
                    f"seed {job.seed}, {job.name} failed; see {_log(out, job)}\n{_tail(out, job, 2000)}"
                )
            show_line(
                f"seed {job.seed}: {job.name} done after {clock(time.monotonic() - started)}",
                last=True,
            )
        states = " | ".join(f"seed {job.seed} {job.name}: {_progress(out, job)}" for job in running)
        if running:
            show_line(f"{total - len(waiting) - len(running)} of {total} done; {states}")


def _log(out: Path, job: Job) -> Path:
    return job.folder(out).with_name(f"{job.name}.log")


# glibc gives large tensors back to the system at every step and asks for them again: a fifth of all processor time.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**26),
}


def _start(out: Path, job: Job, plan: Plan) -> subprocess.Popen:
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1") | {
        "TOKENIZERS_PARALLELISM": "false"
    }
    one_thread |= _KEEP_MEMORY
    command = [
        sys.executable,
        "-m",
        "trainers.pocket.experiment",
        "-o",
        str(out),
        "--plan",
        json.dumps(asdict(plan)),
    ]
    command += ["--only", f"{job.seed}:{job.name}", "--attached"]
    _log(out, job).parent.mkdir(parents=True, exist_ok=True)
    with _log(out, job).open("w") as log:
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=os.environ | one_thread
        )


def _end(process: subprocess.Popen) -> None:
    if process.stdin:
        process.stdin.close()  # for the job this is the sign that its caller is gone
    process.wait()


def end_with_caller() -> None:
    """Ends this job when the process that started it is gone, and with it the other end of the standard input."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _tail(out: Path, job: Job, n: int = 2000) -> str:
    path = _log(out, job)
    return path.read_bytes()[-n:].decode(errors="replace") if path.exists() else ""


def _progress(out: Path, job: Job) -> str:
    """The last state of the job's own progress bar, which says how much is left."""
    lines = [line for line in _tail(out, job).replace("\r", "\n").split("\n") if "%|" in line]
    if not lines:
        return "starting"
    before, _, after = lines[-1].partition("%|")
    return f"{before.strip()}% {after.rpartition('| ')[2].strip()}"


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def show_line(text: str, *, last: bool = False) -> None:
    """One line that is written over on a terminal; elsewhere only what is final."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K" + text[:150] + ("\n" if last else ""))
        sys.stderr.flush()
    elif last:
        print(text, file=sys.stderr, flush=True)
