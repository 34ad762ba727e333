"""How far the pocket experiment is: stages, time left, the line on a terminal and in a file."""

import json
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("trl", reason="the experiment needs the extra `train`")

from cotlens.files import only_one
from trainers.pocket import progress
from trainers.pocket.crew import in_order
from trainers.pocket.jobs import POLICY, Errand, Job
from trainers.pocket.progress import (
    STAGES,
    Pace,
    Screen,
    Work,
    about,
    read_costs,
    read_state,
    say_stage,
    seconds_left,
)

TRAINING = "stage 1 of 8: training\n"
STATES = [
    # log, words
    ("", "under way"),
    ("Loading weights: 100%|###| 24/24\n", "under way"),
    (TRAINING, "1 of 8, training"),
    (TRAINING + "\rtrain base:   0%| | 0/9\rtrain base:  42%|#| 4/9", "1 of 8, training 42%"),
    (TRAINING + "\n 17%|#7 | 25/150 [00:27<05:34, loss=0.384]", "1 of 8, training 17%"),
    (TRAINING + "\rsample:   5%| | 3/60", "1 of 8, training sample 5%"),
    ("\r100%|##| 9/9\nstage 2 of 8: forbidden\n", "2 of 8, forbidden"),
    ("stage 7 of 8: branching\n\rbranching:  50%|#| 2/4", "7 of 8, branching 50%"),
    ("\rfigures:  20%|#| 2/10", "figures 20%"),
]


@pytest.mark.parametrize(("log", "words"), STATES)
def test_a_log_tells_the_stage(log, words):
    assert read_state(log).text() == words


def test_what_a_job_says_is_what_is_read(capsys):
    for number, stage in enumerate(STAGES, 1):
        say_stage(stage)
        assert read_state(capsys.readouterr().out).text() == f"{number} of 8, {stage}"


# The base: 8 seconds of start, 300 of training, and of measuring 7, 5, 3, 3, 9, 2 and 4.
SHARES = [
    (TRAINING + "\rtrain base:  50%|#| 2/4", (8 + 150) / 341),
    (TRAINING + "\rtrain base: 100%|#| 4/4\rsample:   5%| | 3/60", (8 + 300) / 341),
    (TRAINING + "\rsample: 100%|#| 3/3\r 50%|#| 2/4", None),  # how much the samples were?
    (TRAINING, None),
    ("stage 2 of 8: forbidden\n\rsample: 100%|#| 3/3", (8 + 300) / 341),
    ("stage 6 of 8: depth\n", (8 + 300 + 18) / 341),
]


@pytest.mark.parametrize(("log", "share"), SHARES)
def test_the_share_of_a_job_that_is_done(log, share):
    assert read_state(log).share("base", is_measured=True) == pytest.approx(share)


# --- the time left -------------------------------------------------------------------------------

SCHEDULES = [
    # running, waiting, workers, seconds
    ({}, {}, 2, 0),
    ({"a": Work(30, 30)}, {}, 2, 30),
    # The base is trained after 60 and measured after 100: x from 60 to 110, y from 100 to 150.
    (
        {"base": Work(100, 60)},
        {"x": Work(50, 50, ["base"]), "y": Work(50, 50, ["base"])},
        2,
        150,
    ),
    (
        {"base": Work(100, 60)},
        {"x": Work(50, 50, ["base"]), "y": Work(50, 50, ["base"])},
        1,
        200,
    ),
    # y needs x, which needs the base: 10, 20, 30, and the other core has z till 15.
    (
        {},
        {
            "base": Work(10, 10),
            "y": Work(10, 10, ["x"]),
            "x": Work(10, 10, ["base"]),
            "z": Work(15, 15),
        },
        2,
        30,
    ),
    # What neither runs nor waits is done.
    ({}, {"x": Work(5, 5, ["base"])}, 1, 5),
]


@pytest.mark.parametrize(("running", "waiting", "workers", "seconds"), SCHEDULES)
def test_the_time_left_is_that_of_the_schedule(running, waiting, workers, seconds):
    assert seconds_left(running, waiting, workers) == seconds


def write_cost(out, name, **cost):
    folder = out / "seed=0" / name
    folder.mkdir(parents=True)
    (folder / "cost.json").write_text(json.dumps({"starts": 1, **cost}))


def test_what_is_done_corrects_what_is_expected(tmp_path):
    """An arm takes what it took, others by that: hindsight SFT took half of 8 + 50 + 33."""
    assert Pace(tmp_path).expected("grpo", is_measured=True) == 8 + 110 + 33
    write_cost(
        tmp_path, "hindsight_sft", cpu_seconds_of_last_start=30, cpu_seconds_of_measuring=7.5
    )
    write_cost(tmp_path, "grpo@0.001", cpu_seconds_of_last_start=51)
    write_cost(tmp_path, "self_sft", starts=2, cpu_seconds_of_last_start=1)  # was killed once
    write_cost(tmp_path, "base", cpu_seconds_of_last_start=1)  # is not measured yet

    assert read_costs(tmp_path) == {("hindsight_sft", True): [45.5], ("grpo", False): [59]}
    pace = Pace(tmp_path)
    assert pace.expected("hindsight_sft", is_measured=True) == 45.5
    assert pace.expected("reflective_sft", is_measured=True) == 91 / 2


def test_the_pace_is_that_of_the_machine(tmp_path):
    """Twenty seconds count as expected; jobs that run and jobs that have ended count alike."""
    pace = Pace(tmp_path)
    assert pace.factor([]) == 1
    assert pace.factor([(100, 40)]) == (20 + 100) / (20 + 40)
    pace.add(172, "hindsight_sft", is_measured=True)  # was expected to take 91
    assert pace.factor([(100, 40)]) == (20 + 172 + 100) / (20 + 91 + 40)


def test_durations_are_as_exact_as_they_are_known():
    words = [about(seconds) for seconds in (20, 100, 731, 9000)]
    assert words == [
        "less than a minute left",
        "about 2 min left",
        "about 12 min left",
        "about 2.5 h left",
    ]


def test_no_core_waits_for_a_base():
    """The next seed's base before this seed's arms; what needs no model with the first base."""
    jobs = []
    for seed in (0, 1, 2):
        jobs += [Job(seed, "base"), Job(seed, "grpo"), Job(seed, POLICY)]
    errand = Errand("figures", "true")
    names = []
    for task in in_order(jobs, [errand]):
        names.append(task.label.removeprefix("seed "))
    assert names == [
        *("0 base", "0 policy", "figures"),
        *("1 base", "1 policy", "0 grpo"),
        *("2 base", "2 policy", "1 grpo"),
        "2 grpo",
    ]


# --- the line ------------------------------------------------------------------------------------


def test_a_file_gets_a_line_now_and_then(capsys, monkeypatch):
    """Two minutes of news at every half second, and what is done in the line after it."""
    moment = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: moment)
    screen = Screen()
    for number in range(240):
        if number in (10, 12):
            screen.keep(f"job {number} done")
        screen.show(f"{number} of 240")
        moment += 0.5
    screen.keep("job 239 done")
    screen.close()

    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["0 of 240", "job 10 done; job 12 done; 30 of 240", "60 of 240"]
    assert lines[-1] == "job 239 done"
    assert len(lines) == 8 + 1


def test_a_terminal_gets_one_line_that_fits(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(progress, "_width", lambda: 10)
    screen = Screen()
    screen.show("0 of 2, and more than fits")
    screen.keep("a whole line that stays")
    screen.close()
    clear = "\r\x1b[2K"
    expected = f"{clear}0 of 2, an{clear}a whole line that stays\n{clear}"
    assert capsys.readouterr().err == expected.replace("an\r", "a\r")


def test_ctrl_c_ends_with_one_line_and_nothing_goes_on(tmp_path):
    """The base and an errand with a process of its own run; both are gone, and the code is 130."""
    command = [sys.executable, "-m", "trainers.pocket.experiment", "-o", str(tmp_path)]
    command += ["--arms", "grpo", "--workers", "3", "--plan", '{"size": "tiny"}']
    command += ["--meanwhile", "a clock=(while :; do echo tick; sleep 0.2; done); true"]
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, stderr=err)

    # All have started: the clock ticks, the base holds its folder.
    ticks = tmp_path / "errands" / "a_clock.log"
    base = tmp_path / "seed=0" / "base"
    deadline = time.monotonic() + 300
    while not (ticks.exists() and ticks.read_text() and (base / ".lock").exists()):
        assert process.poll() is None, (tmp_path / "err").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130

    lines = (tmp_path / "err").read_text().splitlines()
    assert lines[-1] == "experiment: stopped; run the same command to go on from here"
    assert all(line.startswith("0 of 4 done, ") for line in lines[:-1])
    n_ticks = len(ticks.read_text())
    time.sleep(1)
    assert len(ticks.read_text()) == n_ticks
    with only_one(base):
        pass
