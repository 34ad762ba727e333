"""How far the experiment is: the stages of a job, the time left of the whole, and its one line.

A job's process says in its log at which stage it is. The caller reads the logs and shows one line
for all of them.
"""

import json
import math
import os
import re
import sys
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainers.pocket.plan import SETS

STAGES = ("training", *SETS, "depth", "branching", "early answers")

# Expected processor seconds of training and of every stage after it. The first jobs that are done
# correct them, and so does the pace of the machine.
TRAINING = {
    "base": 300,
    "filtered_sft": 110,
    "filtered_sft_long": 110,
    "self_sft": 60,
    "grpo": 110,
    "grpo_no_guard": 110,
    "grpo_shuffled_guard": 110,
    "grpo_answer": 110,
    "grpo_again": 110,
    "sft_grpo": 90,
    "policy": 60,
}
TRAINING_OF_OTHERS = 50
SECONDS_OF_START = 8  # of a process: imports
MEASURING = {
    "forbidden": 7,
    "harmless": 5,
    "maths": 3,
    "puzzles": 3,
    "depth": 9,
    "branching": 2,
    "early answers": 4,
}

_TRAINING_BARS = ("train base", "")  # ours and that of transformers, which has no name
_WEIGHT = 20.0  # of what is expected of the machine, in processor seconds
_STAGE = re.compile(r"^stage \d+ of \d+: (.+)$", re.MULTILINE)
_BAR = re.compile(r"(?:^|[\r\n])(?:\x1b\[A)?([A-Za-z ]*?):? *(\d+)%\|")


# --- one job -------------------------------------------------------------------------------------


def say_stage(name: str) -> None:
    """Writes at which stage a job is; its log is read by `read_state`."""
    number = STAGES.index(name) + 1
    print(f"stage {number} of {len(STAGES)}: {name}", flush=True)


class State(NamedTuple):
    """How far a job is, as its log says.

    Attributes:
        stage: name of the stage; empty before the first.
        bar: the last progress bar of the stage: its name and how much of it is done, in percent.
        trained: share of the training that is done; None if it is not known.
    """

    stage: str = ""
    bar: tuple[str, int] | None = None
    trained: float | None = None

    def text(self) -> str:
        """The state in a few words, such as `1 of 8, training 42%`."""
        words = []
        if self.stage in STAGES:
            number = STAGES.index(self.stage) + 1
            words.append(f"{number} of {len(STAGES)}, {self.stage}")

        # In training other bars run too, such as that of samples to choose from.
        if self.bar:
            name, percent = self.bar
            is_known = name in (*_TRAINING_BARS, self.stage)
            words.append(f"{percent}%" if is_known else f"{name} {percent}%")
        return " ".join(words) or "under way"

    def share(self, arm: str, *, is_measured: bool) -> float | None:
        """Share of the job that is done, by expected seconds; None if it is not known."""
        training = TRAINING.get(arm, TRAINING_OF_OTHERS)
        done = float(SECONDS_OF_START)
        if self.stage in STAGES[1:]:
            done += training
            earlier = STAGES[1 : STAGES.index(self.stage)]
            for stage in earlier:
                done += MEASURING[stage]
        elif self.trained is not None:
            done += self.trained * training
        else:
            return None

        whole = expected_seconds(arm, is_measured=is_measured)
        return done / whole


def read_state(log: str) -> State:
    """The state that a job's log tells."""
    stage = ""
    rest = log
    for mark in _STAGE.finditer(log):
        stage = mark[1]
        rest = log[mark.end() :]

    # The bars of this stage.

    bars = []
    of_training = []
    for name, percent in _BAR.findall(rest):
        if name == "Loading weights":
            continue
        bars.append((name, int(percent)))
        if name in _TRAINING_BARS:
            of_training.append(int(percent))
    if not bars:
        return State(stage)

    # Samples that are drawn before the training are a part of it that has no known size.
    first_name, _ = bars[0]
    trained = None
    if first_name in _TRAINING_BARS:
        trained = of_training[-1] / 100
    return State(stage, bars[-1], trained)


def expected_seconds(arm: str, *, is_measured: bool = True) -> float:
    """Expected processor seconds of an arm, before any is done."""
    seconds = SECONDS_OF_START + TRAINING.get(arm, TRAINING_OF_OTHERS)
    return seconds + sum(MEASURING.values()) if is_measured else seconds


def measuring_share(arm: str) -> float:
    """Expected share of measuring in the time of an arm."""
    return sum(MEASURING.values()) / expected_seconds(arm)


# --- the whole -----------------------------------------------------------------------------------


class Pace:
    """How long jobs take here, from those that are done.

    Args:
        out: folder of the experiment.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.costs = read_costs(out)
        self.samples: list[tuple[float, float]] = []

    def add(self, seconds: float, arm: str, *, is_measured: bool) -> None:
        """Takes note of a job that has ended, and of what it cost."""
        self.costs = read_costs(self.out)
        expected = self.expected(arm, is_measured=is_measured)
        self.samples.append((seconds, expected))

    def expected(self, arm: str, *, is_measured: bool) -> float:
        """Expected processor seconds of a job: what the same arm took, or by the others."""
        costs = self.costs.get((arm, is_measured))
        if costs:
            return sum(costs) / len(costs)

        # All that is done, against what was expected of it.
        total = 0.0
        total_expected = 0.0
        for (done_arm, was_measured), seconds in self.costs.items():
            total += sum(seconds)
            of_one = expected_seconds(done_arm, is_measured=was_measured)
            total_expected += len(seconds) * of_one

        expected = expected_seconds(arm, is_measured=is_measured)
        if not total:
            return expected
        return expected * total / total_expected

    def factor(self, samples: Sequence[tuple[float, float]]) -> float:
        """Seconds that pass in a processor second, from jobs that ended here and `samples`.

        Args:
            samples: of jobs that run, the seconds since they started and the expected processor
                seconds of what they have done.
        """
        passed = _WEIGHT
        worked = _WEIGHT
        for seconds, expected in (*self.samples, *samples):
            passed += seconds
            worked += expected
        return passed / worked


def read_costs(out: Path) -> dict[tuple[str, bool], list[float]]:
    """Processor seconds of the jobs that are done, by arm and whether it was measured."""
    costs: dict[tuple[str, bool], list[float]] = {}
    for path in sorted(out.glob("seed=*/*/cost.json")):
        cost = json.loads(path.read_text(encoding="utf-8"))
        training = cost.get("cpu_seconds_of_last_start")
        measuring = cost.get("cpu_seconds_of_measuring")

        # A job that was killed once and resumed has more than its last start.
        if training is None or cost["starts"] > 1:
            continue
        arm, _, rate_of_try = path.parent.name.partition("@")
        is_measured = not rate_of_try
        seconds = SECONDS_OF_START + training
        if is_measured:
            if measuring is None:
                continue
            seconds += measuring

        key = (arm, is_measured)
        costs.setdefault(key, []).append(seconds)
    return costs


class Work(NamedTuple):
    """What is to be done still.

    Attributes:
        seconds: how long it takes from now.
        until_ready: seconds after which others that need it can start; at most `seconds`.
        needs: keys of what has to be ready before it can start.
    """

    seconds: float
    until_ready: float
    needs: Sequence[Hashable] = ()


def seconds_left(
    running: Mapping[Hashable, Work], waiting: Mapping[Hashable, Work], workers: int
) -> float:
    """Seconds until all is done, if free workers always take the first that can start."""
    now = 0.0
    ends = []
    ready_at = {}
    for key, work in running.items():
        ends.append(work.seconds)
        ready_at[key] = work.until_ready

    # What waits is not ready, and what neither runs nor waits is done.
    left = dict(waiting)
    for key in left:
        ready_at[key] = math.inf

    while left:
        startable = []
        for key, work in left.items():
            moments = [ready_at.get(need, 0.0) for need in work.needs]
            if max(moments, default=0.0) <= now:
                startable.append(key)

        n_busy = sum(end > now for end in ends)
        if startable and n_busy < workers:
            key = startable[0]
            work = left.pop(key)
            ends.append(now + work.seconds)
            ready_at[key] = now + work.until_ready
            continue

        # Nothing can start before something ends or gets ready.
        moments = [*ends, *ready_at.values()]
        later = [moment for moment in moments if now < moment < math.inf]
        if not later:
            break
        now = min(later)
    return max(ends, default=0.0)


def clock(seconds: float) -> str:
    """A duration as minutes:seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def about(seconds: float) -> str:
    """A duration in words, as exact as an estimate is."""
    if seconds < 60:
        return "less than a minute left"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"about {minutes} min left"
    return f"about {minutes / 60:.1f} h left"


# --- the line ------------------------------------------------------------------------------------


class Screen:
    """One line on standard error for everything.

    On a terminal the line is overwritten, and what is done stays above it. In a file there is a
    line every `SECONDS_BETWEEN_LINES` at most, with all that was done since the last.
    """

    SECONDS_BETWEEN_LINES = 15.0

    def __init__(self) -> None:
        self.is_terminal = sys.stderr.isatty()
        self.done: list[str] = []
        self.written_at = -self.SECONDS_BETWEEN_LINES

    def show(self, text: str) -> None:
        """Shows how far everything is."""
        if self.is_terminal:
            self._overwrite(text, "")
        elif time.monotonic() - self.written_at >= self.SECONDS_BETWEEN_LINES:
            self._write(text)

    def keep(self, text: str) -> None:
        """Shows something that stays."""
        if self.is_terminal:
            self._overwrite(text, "\n")
        else:
            self.done.append(text)

    def close(self, text: str = "") -> None:
        """Shows what has not been shown yet, and a last text."""
        if self.is_terminal:
            self._overwrite(text, "\n" if text else "")
        elif text or self.done:
            self._write(text)

    def _overwrite(self, text: str, end: str) -> None:
        # A line that a narrow terminal breaks could not be overwritten.
        clear_line = "\r\x1b[2K"
        if not end:
            text = text[: _width() - 1]
        sys.stderr.write(clear_line + text + end)
        sys.stderr.flush()

    def _write(self, text: str) -> None:
        parts = [*self.done, text] if text else self.done
        print("; ".join(parts), file=sys.stderr, flush=True)
        self.done = []
        self.written_at = time.monotonic()


def _width() -> int:
    """Columns of the terminal of standard error; 80 where it does not say."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
