"""The command `cotlens guard` against a judge that refuses, errs, thinks too long and dies."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cotlens import Run, analyze

SERVER = Path(__file__).parent / "judge_server.py"


class Judge:
    """The server in a process, started again when it has died."""

    def __init__(self, folder, settings):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [sys.executable, SERVER, str(self.port), folder, json.dumps(settings)]
        self.is_wanted = True
        self.start()
        self.thread = threading.Thread(target=self.revive)
        self.thread.start()

    def start(self):
        self.process = subprocess.Popen(self.command)
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5)
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("the server did not start")

    def revive(self):
        while self.is_wanted:
            if self.process.poll() is not None and self.is_wanted:
                self.start()
            time.sleep(0.1)

    def stop(self):
        self.is_wanted = False
        self.thread.join()
        self.process.kill()
        self.process.wait()

    def asked(self):
        lines = (self.folder / "asked.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]


@pytest.fixture
def start_judge(tmp_path):
    judges = []

    def start(**settings):
        folder = tmp_path / f"server{len(judges)}"
        folder.mkdir()
        judge = Judge(folder, settings)
        judges.append(judge)
        return judge

    yield start
    for judge in judges:
        judge.stop()


def make_run(tmp_path, answers):
    rows = []
    for number, answer in enumerate(answers):
        rows.append({"id": f"id{number}", "prompt": "p", "completion": answer})
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return analyze([path], tmp_path / "run")


def guard(run, judge, *options, key="right-key", code=0):
    command = [
        sys.executable, "-m", "cotlens.cli", "guard", run.path, "--judge", "judge",
        "--part", "answer", "--url", f"http://127.0.0.1:{judge.port}/v1", *options,
    ]  # fmt: skip
    environment = os.environ | {"OPENAI_API_KEY": key}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == code, done.stderr
    return done


def test_a_refused_text_is_undecided_and_the_others_go_on(start_judge, tmp_path):
    judge = start_judge()
    texts = ["fine", "a [filtered] text", "[bad]", "[filtered inside]", "[stopped]", "fine too"]
    run = make_run(tmp_path, texts)
    done = guard(run, judge)

    table = run.guard_table("judge", "answer")
    assert table["label"].tolist() == [
        "safe", "undecided", "unsafe", "undecided", "undecided", "safe",
    ]  # fmt: skip
    assert table["reason"][1].startswith("refused by a content filter: status 400")
    assert table["reason"][4] == "a content filter stopped the judge's answer"
    assert table["n_cut"].tolist() == [0] * 6

    # Each text was sent whole, once.
    assert sorted(entry["text"] for entry in judge.asked()) == sorted(texts)
    assert "safe 2, undecided 3, unsafe 1" in done.stdout.replace("\n", "")
    assert "2 undecided: refused by a content filter" in done.stderr
    info = run.judge_info("judge")
    assert info["undecided"]["answer"]["refused by a content filter"] == 2


def test_an_error_inside_a_200_is_an_error(start_judge, tmp_path):
    judge = start_judge()
    run = make_run(tmp_path, ["[bad] [busy inside]", "fine"])
    done = guard(run, judge)
    assert run.guard_table("judge", "answer")["label"].tolist() == ["unsafe", "safe"]
    assert "overloaded" in done.stderr


def test_a_judge_that_thinks_past_its_limit_decides_nothing(start_judge, tmp_path):
    judge = start_judge()
    run = make_run(tmp_path, ["[thinks]", "[cut]", "[chats]", "fine"])
    done = guard(run, judge, "--max-tokens", 77)
    table = run.guard_table("judge", "answer")
    assert table["label"].tolist() == ["undecided"] * 3 + ["safe"]
    cut_off = "the judge's answer was cut off at its limit of tokens"
    assert table["reason"].tolist() == [cut_off] * 2 + ["the judge's answer is off its format", ""]
    assert f"2 undecided: {cut_off}" in done.stderr


def test_verdicts_after_thinking_in_every_form(start_judge, tmp_path):
    """The thinking holds another verdict, which does not count."""
    judge = start_judge()
    run = make_run(tmp_path, ["[unopened]", "[magistral]", "[harmony]", "[blocks]"])
    guard(run, judge)
    assert run.guard_table("judge", "answer")["label"].tolist() == ["unsafe"] * 4


def test_settings_that_the_server_does_not_know(start_judge, tmp_path):
    """Three refusals for the first text, and none for the second."""
    judge = start_judge(
        refuses={
            "max_tokens": "Use 'max_completion_tokens' instead.",
            "temperature": "Only the default (1) value is supported.",
            "response_format": "",
        }
    )
    run = make_run(tmp_path, ["[bad]", "fine"])
    guard(run, judge, "--max-tokens", 77)
    assert run.guard_table("judge", "answer")["label"].tolist() == ["unsafe", "safe"]
    asked = judge.asked()
    assert len(asked) == 5
    assert asked[0]["settings"] == [
        "max_tokens", "messages", "model", "response_format", "temperature",
    ]  # fmt: skip
    assert asked[-1]["settings"] == ["max_completion_tokens", "messages", "model"]


def test_a_long_text_is_judged_in_windows(start_judge, tmp_path):
    """The unsafe middle is seen; a filtered window makes the text undecided, never safe."""
    judge = start_judge(longest=3000)
    filler = "word " * 1500
    run = make_run(
        tmp_path, [filler + "[bad] " + filler, filler + "[filtered] " + filler, filler * 2]
    )
    guard(run, judge)
    table = run.guard_table("judge", "answer")
    assert table["label"].tolist() == ["unsafe", "undecided", "safe"]
    assert table["n_cut"].tolist() == [0, 0, 0]


def test_a_server_that_dies_and_comes_back_loses_nothing(start_judge, tmp_path):
    judge = start_judge()
    run = make_run(tmp_path, ["fine", "[bad] [dies]", "[bad]", "fine too"])
    done = guard(run, judge)
    assert run.guard_table("judge", "answer")["label"].tolist() == [
        "safe", "unsafe", "unsafe", "safe",
    ]  # fmt: skip
    assert "again: " in done.stderr

    # What was judged is asked for no more.
    n_asked = len(judge.asked())
    guard(run, judge)
    assert len(judge.asked()) == n_asked


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        ((), "wrong-key", "Incorrect API key provided: Bearer ***"),
        (("--judge", "other"), "right-key", "The model does not exist"),
    ],
)
def test_a_wrong_key_or_model_stops_at_once(start_judge, tmp_path, options, key, said):
    judge = start_judge()
    run = make_run(tmp_path, ["fine", "fine too"])
    done = guard(run, judge, *options, key=key, code=1)
    assert said in done.stderr
    assert key == "right-key" or key not in done.stderr
    assert len(judge.asked()) == 1


def test_verdicts_carry_the_hash_of_their_text(start_judge, tmp_path):
    """A verdict that was given for an older text cannot be added to a newer one."""
    judge = start_judge()
    run = make_run(tmp_path, ["[bad] old", "fine"])
    guard(run, judge)
    table = run.guard_table("judge", "answer")
    assert table["text_hash"].str.len().tolist() == [64, 64]
    table[["trace_id", "label", "text_hash"]].to_csv(tmp_path / "verdicts.csv", index=False)

    again = (
        sys.executable, "-m", "cotlens.cli", "guard", run.path, "--judge", "people",
        "--part", "answer", "--verdicts", tmp_path / "verdicts.csv",
    )  # fmt: skip
    command = list(map(str, again))
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert (
        Run(run.path).guard_table("people", "answer")["text_hash"].tolist()
        == table["text_hash"].tolist()
    )

    rows = [{"id": "id0", "prompt": "p", "completion": "new"}, {"id": "id1", "completion": "fine"}]
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    analyze([path], run.path, force=True)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "trace id0: its answer has changed since the verdict was given" in done.stderr
