"""Runs the experiment's jobs side by side, each in its own process, and shows one line for all.

A job starts when the jobs that it needs are trained. While the first base trains nothing else can:
then free cores do what needs no model, and errands.
"""

import subprocess
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from trainers.pocket.jobs import (
    POLICY,
    Errand,
    Job,
    Task,
    close,
    log_path,
    read_log,
    read_log_end,
    start_errand,
    start_job,
)
from trainers.pocket.plan import Plan, check_plan
from trainers.pocket.progress import (
    Pace,
    Screen,
    State,
    Work,
    about,
    clock,
    measuring_share,
    read_state,
    seconds_left,
)

SECONDS_OF_ERRAND = 35.0  # expected
_SECONDS_BETWEEN_CHECKS = 0.5


class _Running(NamedTuple):
    """A task that runs."""

    process: subprocess.Popen
    started: float


def run_all(
    out: Path,
    jobs: Sequence[Job],
    plan: Plan,
    *,
    workers: int = 2,
    errands: Sequence[Errand] = (),
    seconds_after: float = 0.0,
    screen: Screen | None = None,
) -> float:
    """Runs every job that is not done, `workers` at a time, each in a process with one thread.

    Args:
        out: folder of the experiment.
        jobs: what is to be done.
        plan: how much of everything.
        workers: tasks at a time.
        errands: what free cores do while they wait for the base.
        seconds_after: what the caller will still do afterwards, for the time left.
        screen: where to show how far it is, if the caller shows more on it; else one of its own.

    Returns:
        Seconds that passed in a processor second.

    Raises:
        ValueError: if there is no worker or no job.
        RuntimeError: if a task fails, or a job needs one that is neither done nor among `jobs`. The
            results of the others stay.
    """
    if workers < 1 or not jobs:
        raise ValueError(
            f"expected at least one worker and one seed, got {workers} and {len(jobs)} jobs"
        )
    check_plan(out, plan)

    # Jobs that earlier calls have finished are not run again.
    waiting = [job for job in jobs if not job.is_done(out)]
    if missing := _missing_jobs(out, waiting):
        raise RuntimeError(f"no job can start; neither done nor asked for: {', '.join(missing)}")

    crew = _Crew(out, plan, workers, in_order(waiting, errands), seconds_after)
    if screen:
        crew.screen = screen
    try:
        crew.work()
        if not screen:
            crew.screen.close()
        return crew.pace.factor([])
    finally:
        crew.dismiss()


def in_order(jobs: Sequence[Job], errands: Sequence[Errand] = ()) -> list[Task]:
    """The order in which free cores take the tasks.

    The base of a seed comes before the arms of the seed before it, so that no core waits for it
    later. Errands come while the first base trains, and with them what needs no model.
    """
    seeds = list(dict.fromkeys(job.seed for job in jobs))
    bases: dict[int, list[Job]] = {seed: [] for seed in seeds}
    arms: dict[int, list[Job]] = {seed: [] for seed in seeds}
    for job in jobs:
        group = bases if job.name in ("base", POLICY) else arms
        group[job.seed].append(job)

    # The first base and the errands, then always the next base and the arms of this seed.
    tasks: list[Task] = []
    if seeds:
        first = seeds[0]
        tasks += bases[first]
    tasks += errands
    for seed, following in zip_longest(seeds, seeds[1:]):
        if following is not None:
            tasks += bases[following]
        tasks += arms[seed]
    return tasks


class _Crew:
    """Runs tasks side by side, and shows how far they are."""

    def __init__(
        self, out: Path, plan: Plan, workers: int, tasks: list[Task], seconds_after: float
    ) -> None:
        self.out = out
        self.plan = plan
        self.workers = workers
        self.waiting = tasks
        self.seconds_after = seconds_after
        self.running: dict[Task, _Running] = {}
        self.total = len(tasks)
        self.started = time.monotonic()
        self.screen = Screen()
        self.pace = Pace(out)

    def work(self) -> None:
        """Works until all is done."""
        while self.waiting or self.running:
            # Free workers take the first tasks that are ready.
            n_free = self.workers - len(self.running)
            for task in self._ready()[:n_free]:
                self.waiting.remove(task)
                self._start(task)

            time.sleep(_SECONDS_BETWEEN_CHECKS)
            self._take_what_ended()
            if self.running:
                self.screen.show(self._line())

    def dismiss(self) -> None:
        """Ends all that still runs."""
        for running in self.running.values():
            close(running.process)

    def _ready(self) -> list[Task]:
        """The waiting tasks whose needs are met; arms can start when their base is trained."""
        ready = []
        for task in self.waiting:
            needs = task.needs() if isinstance(task, Job) else []
            if all(needed.is_trained(self.out) for needed in needs):
                ready.append(task)
        return ready

    def _start(self, task: Task) -> None:
        if isinstance(task, Job):
            process = start_job(self.out, task, self.plan)
        else:
            process = start_errand(self.out, task)
        self.running[task] = _Running(process, time.monotonic())

    def _take_what_ended(self) -> None:
        """Takes note of the tasks that have ended; one that failed ends all others."""
        for task, running in list(self.running.items()):
            process = running.process
            if process.poll() is None:
                continue
            del self.running[task]
            close(process)
            if process.returncode:
                path = log_path(self.out, task)
                end = read_log_end(self.out, task)
                raise RuntimeError(f"{task.label} failed; see {path}\n{end}")

            # What it took corrects what is expected of the others.
            now = time.monotonic()
            if isinstance(task, Job):
                self.pace.add(
                    now - running.started,
                    task.arm,
                    is_measured=task.is_measured,
                )
            total = clock(now - self.started)
            self.screen.keep(f"{task.label} done after {total}")

    def _line(self) -> str:
        """The progress line: the whole first, then every running task."""
        states = {}
        for task in self.running:
            log = read_log(self.out, task)
            states[task] = read_state(log)

        n_done = self.total - len(self.waiting) - len(self.running)
        left = about(self._seconds_left(states))
        parts = [f"{n_done} of {self.total} done, {left}"]
        for task, state in states.items():
            parts.append(f"{task.label}: {state.text()}")
        return " | ".join(parts)

    def _seconds_left(self, states: Mapping[Task, State]) -> float:
        """Seconds until all is done, as far as can be told."""
        # What the running jobs have done shows how fast the machine is today.
        done = self._done(states)
        samples = []
        for task, seconds in done.items():
            elapsed = self._elapsed(task)
            samples.append((elapsed, seconds))
        pace = self.pace.factor(samples)

        # Where it is not known what is done, the time that has passed counts.
        running = {}
        for task in self.running:
            expected = self._expected(task)
            least = 0.05 * expected
            passed = self._elapsed(task) / pace
            rest = expected - done.get(task, passed)
            running[task] = self._work(task, max(rest, least), pace)

        waiting = {}
        for task in self.waiting:
            expected = self._expected(task)
            waiting[task] = self._work(task, expected, pace)
        left = seconds_left(running, waiting, self.workers)
        return left + pace * self.seconds_after

    def _done(self, states: Mapping[Task, State]) -> dict[Task, float]:
        """Expected processor seconds of what the running jobs have done, where that is known."""
        done = {}
        for task, state in states.items():
            if not isinstance(task, Job):
                continue
            share = state.share(task.arm, is_measured=task.is_measured)
            if share is not None:
                done[task] = share * self._expected(task)
        return done

    def _elapsed(self, task: Task) -> float:
        """Seconds since a running task started."""
        started = self.running[task].started
        return time.monotonic() - started

    def _expected(self, task: Task) -> float:
        """Expected processor seconds of a task."""
        if isinstance(task, Errand):
            return SECONDS_OF_ERRAND
        return self.pace.expected(task.arm, is_measured=task.is_measured)

    def _work(self, task: Task, rest: float, pace: float) -> Work:
        """A task of which a rest is to be done, in processor seconds, as the schedule takes it."""
        seconds = pace * rest
        if isinstance(task, Errand):
            return Work(seconds, seconds)

        # Others can start from an arm when it is trained.
        measuring = 0.0
        if task.is_measured:
            share = measuring_share(task.arm)
            measuring = pace * share * self._expected(task)
        until_ready = max(0.0, seconds - measuring)
        return Work(seconds, until_ready, task.needs())


def _missing_jobs(out: Path, waiting: Sequence[Job]) -> list[str]:
    """What the waiting jobs need that is neither done nor waiting, for a message."""
    missing = []
    for job in waiting:
        for needed in job.needs():
            if not needed.is_done(out) and needed not in waiting:
                missing.append(f"seed {needed.seed} {needed.name} (for {job.name})")
    return missing
