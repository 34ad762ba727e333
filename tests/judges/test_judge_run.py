"""Judges and runs: parts judged apart, verdicts that stay with their traces, and the command."""

import json
import shutil
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest
from judges.stand_ins import UNSAFE, Counting
from places import SAMPLES
from typer.testing import CliRunner

from cotlens import Run, TraceError, analyze, judge_run
from cotlens.cli import app
from cotlens.judges import requests
from cotlens.judges.endpoint import EndpointGuard
from cotlens.judges.verdict import Verdict
from cotlens.runs.judge import add_verdicts
from cotlens.studies.samples import Sources, judge_of
from cotlens.text.families import Tags


def test_thinking_and_answer_are_judged_apart(tmp_path):
    run = analyze([SAMPLES], tmp_path / "run")
    made = Counting()
    info = judge_run(run, made, parts=["thinking", "answer", "full"]).judge_info("counting")
    assert run.judges == ["counting"]
    thinking, answer = (
        run.guard_table("counting", "thinking"),
        run.guard_table("counting", "answer"),
    )
    assert thinking["trace_id"].tolist() == run.trace_table()["trace_id"].tolist()
    assert set(thinking["judge"]) == {"counting"}
    assert set(answer["part"]) == {"answer"}
    assert info["counts"]["full"] == {"safe": 14}
    again = Counting()
    judge_run(run, again, parts=["thinking", "answer"])
    assert again.asked == []
    assert any("<think>" in item.text for item in made.asked if item.part == "full")
    with pytest.raises(TraceError, match="no verdicts of other"):
        run.guard_table("other", "answer")


def test_a_server_that_dies_half_way_loses_nothing(server, tmp_path, short_waits, monkeypatch):
    """Ten verdicts, then the server is gone: they stay, and the next call asks for the others."""
    url, script, seen = server
    script += [UNSAFE] * 10 + [(500, "gone", 0)]
    run = analyze([SAMPLES], tmp_path / "run")
    monkeypatch.setattr(requests, "RETRIES", 1)
    made = EndpointGuard(url, "m", concurrency=1)
    with pytest.raises(TraceError, match="did not answer"):
        judge_run(run, made)
    assert len(seen) == 12
    script[:] = [UNSAFE]
    judge_run(run, made)
    items = 26  # 12 traces think, 14 answer, and what is empty is not asked
    assert len(seen) - 12 == items - 10


def test_verdicts_belong_to_the_traces_and_to_one_judge(tmp_path, monkeypatch):
    """Re-analyzed traces make verdicts stale, and strays go. Parts add up.

    Another judge of the same name is refused.
    """
    rows = [
        {"id": f"id{i}", "prompt": "p", "completion": f"<think>t{i}</think>a"} for i in range(4)
    ]
    path = tmp_path / "t.jsonl"
    monkeypatch.setattr("cotlens.runs.analyze.SHARD_TRACES", 1)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = analyze([path], tmp_path / "run")
    judge_run(run, Counting(), parts=["thinking", "thinking"])
    judge_run(run, Counting(), parts=["answer"])
    assert run.judged_parts("counting") == ["answer", "thinking"]
    other = Counting()
    other.identity = "counting|other"
    with pytest.raises(TraceError, match="holds the verdicts of another judge"):
        judge_run(run, other)
    path.write_text(
        "".join(json.dumps(row | {"completion": "<think>new</think>b"}) + "\n" for row in rows[:2])
    )
    run = analyze([path], tmp_path / "run", force=True)
    with pytest.raises(TraceError, match="have changed since"):
        run.guard_table("counting", "thinking")
    judge_run(run, Counting())
    assert run.guard_table("counting", "thinking")["trace_id"].tolist() == ["id0", "id1"]
    for parts in ("thinking", ["step"], []):
        with pytest.raises(TraceError, match="expected a list of thinking"):
            judge_run(run, Counting(), parts=parts)


def test_the_judge_reads_the_parts_that_the_run_found(tmp_path):
    """Tags of one's own hold for the judge too."""
    path = tmp_path / "t.jsonl"
    path.write_text(
        json.dumps({"id": "a", "completion": "<scratch>secret plan</scratch>Answer"}) + "\n"
    )
    run = analyze([path], tmp_path / "run", tags=Tags("<scratch>", "</scratch>"))
    made = Counting()
    judge_run(run, made)
    assert [item.text for item in made.asked] == ["secret plan", "Answer"]


def test_verdicts_made_elsewhere(tmp_path):
    """Two labels given, one trace without; then the ways in which a table is wrong."""
    run = analyze([SAMPLES], tmp_path / "run", light=True)
    ids = run.trace_table()["trace_id"].tolist()
    given = pd.DataFrame(
        {
            "trace_id": ids[:3],
            "label": ["safe", "unsafe", "controversial"],
            "refusal": [True, False, None],
        }
    )
    info = add_verdicts(run, given, "people", "answer").judge_info("people")
    assert info["counts"]["answer"] == {"safe": 1, "unsafe": 1, "controversial": 1, "undecided": 11}
    table = run.with_verdicts(run.trace_table(), "people")
    assert table["answer_unsafe"].tolist()[:4] == [False, True, True, pd.NA]
    assert table["refuses"].tolist()[:3] == [True, False, pd.NA]
    for wrong, fault in (
        (given.drop(columns="label"), "no column label"),
        (given.assign(label="bad"), "labels are none of"),
        (given.assign(trace_id="x"), "twice there"),
        (given.assign(trace_id=["x", "y", "z"]), "not in the run"),
        (
            given.assign(p_unsafe=["high", 0.5, None]),
            "p_unsafe are no numbers from 0 to 1, the first is 'high'",
        ),
        (given.assign(p_unsafe=1.7), "p_unsafe are no numbers from 0 to 1"),
        (
            given.assign(refusal=["maybe", "no", None]),
            "neither true nor false, the first is 'maybe'",
        ),
    ):
        with pytest.raises(TraceError, match=fault):
            add_verdicts(run, wrong, "someone", "answer")
        assert not (run.path / "guard" / "someone").exists()
    add_verdicts(run, given.assign(refusal=["no", "Yes", None]), "people", "answer")
    assert run.with_verdicts(run.trace_table(), "people")["refuses"].tolist()[:3] == [
        False,
        True,
        pd.NA,
    ]


def test_the_command_says_what_it_would_ask(server, tmp_path):
    url, script, seen = server
    script.append(UNSAFE)
    analyze([SAMPLES], tmp_path / "run")

    def cotlens(*arguments, code=0):
        command = [
            sys.executable,
            "-m",
            "cotlens.cli",
            "guard",
            tmp_path / "run",
            "--judge",
            "m",
            *arguments,
        ]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done

    assert "28 requests of about" in cotlens("--url", url, "--dry-run", "--price", 2).stderr
    assert seen == []
    done = cotlens("--url", url, "--part", "answer")
    assert "answer: " in done.stdout
    assert "unsafe" in done.stdout
    assert "expected thinking, answer or full" in cotlens("--part", "mind", code=2).stderr
    assert "which guard is it" in cotlens("--part", "answer", code=1).stderr
    table = tmp_path / "v.csv"
    table.write_text("")
    assert (
        "not a csv with a header" in cotlens("--part", "answer", "--verdicts", table, code=1).stderr
    )
    table.write_text(f"trace_id,label\n{Run(tmp_path / 'run').trace_table()['trace_id'][0]},safe\n")
    kept = ("--part", "thinking", "--judge", "people", "--verdicts", table)
    assert (
        "1 verdicts of people on the thinking would be kept" in cotlens(*kept, "--dry-run").stderr
    )
    assert "people" not in Run(tmp_path / "run").judges
    assert "replace" not in cotlens(*kept).stderr
    assert "these replace 1 verdicts of people" in cotlens(*kept).stderr


def test_verdicts_whose_replacement_was_cut_off_are_none(tmp_path, monkeypatch):
    """Old and new verdicts are mixed then: the part counts as not judged."""
    run = analyze([SAMPLES], tmp_path / "run")
    given = run.trace_table(["trace_id"]).assign(label="safe")
    for part in ("thinking", "answer"):
        add_verdicts(run, given, "people", part)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("cotlens.runs.shards.write_parquet", full)
    with pytest.raises(OSError, match="no space"):
        add_verdicts(run, given.assign(label="unsafe"), "people", "thinking")
    monkeypatch.undo()
    assert run.judged_parts("people") == ["answer"]
    with pytest.raises(TraceError, match="no verdicts of people on thinking"):
        run.guard_table("people", "thinking")
    add_verdicts(run, given.assign(label="unsafe"), "people", "thinking")
    assert run.with_verdicts(run.trace_table(), "people")["thinking_unsafe"].all()


def test_info_counts_what_is_undecided_and_cut(tmp_path):
    """By judge and part, with the reasons; what is 0 is left out."""
    from cotlens.describe import describe_path

    class Undecided(Counting):
        name = "undecided"

        def judge(self, items):
            reason = "content filter: policy 3"
            return [Verdict("undecided", n_cut=5, reason=reason) for _ in items]

    run = analyze([SAMPLES], tmp_path / "run")
    assert "undecided" not in describe_path(run.path)
    judge_run(run, Undecided(), parts=["full"])
    report = describe_path(run.path)
    assert report["undecided"] == {"undecided on full (14 content filter)": 14}
    assert report["judged_on_a_cut_prompt"] == {"undecided on full": 14}


def test_verdicts_on_requests_come_from_elsewhere_and_judge_no_trace(tmp_path):
    """A judge cannot be asked about a request; a csv can say, and is no judge of a study."""
    run = analyze([SAMPLES], tmp_path / "run")
    ids = run.trace_table(["trace_id"])["trace_id"]
    table = tmp_path / "requests.csv"
    pd.DataFrame({"trace_id": ids, "label": "unsafe"}).to_csv(table, index=False)
    command = ["guard", str(run.path), "--judge", "j", "--part", "request"]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    kept = CliRunner().invoke(app, [*command, "--verdicts", str(table)])
    assert kept.output == "request: unsafe 14\n"

    judged = run.with_verdicts(run.trace_table(), "j")
    assert judged["request_unsafe"].all()
    assert judge_of(run, Sources()) == ""


# --- traces that change while they are judged --------------------------------------------------


def guard(run, url, *options):
    """The fault of the command that lets an endpoint judge the answers; "" if there is none."""
    command = ["guard", str(run), "--url", url, "--part", "answer", *options]
    return str(CliRunner().invoke(app, command).exception or "")


def test_verdicts_of_old_texts_are_never_stamped_as_of_new_ones(server, tmp_path):
    """While the judge thinks, the run's folder is swapped for one of other texts, and back."""
    url, script, seen = server
    run = analyze([SAMPLES], tmp_path / "run").path
    texts = [{"id": trace.id, "completion": "other"} for trace in Run(run).traces()]
    other = analyze(texts, tmp_path / "other").path
    script += [(200, UNSAFE[1], 0.5), UNSAFE]

    def swap():
        """Put the other's files in, once the first text is at the judge."""
        while not seen:
            time.sleep(0.01)
        shutil.copytree(other / "traces", run / "traces", dirs_exist_ok=True)

    swapping = threading.Thread(target=swap)
    swapping.start()
    fault = guard(run, url, "--judge", "m")
    swapping.join()
    assert f"{run / 'traces' / 'part-00000.parquet'}: changed while it was read" in fault
    assert Run(run).judged_parts("m") == []

    # The same command judges the texts that are there now.
    assert not guard(run, url, "--judge", "m")
    assert Run(run).judged_parts("m") == ["answer"]


def test_a_run_is_not_made_anew_while_it_is_judged(server, tmp_path):
    url, script, seen = server
    run = analyze([SAMPLES], tmp_path / "run").path
    script += [(200, UNSAFE[1], 2.0), UNSAFE]
    judging = threading.Thread(target=guard, args=(run, url, "--judge", "m"))
    judging.start()
    while not seen:
        time.sleep(0.01)
    refused = CliRunner().invoke(app, ["analyze", str(SAMPLES), "-o", str(run), "--force"])
    judging.join()
    assert "guard/m/answer: another process is writing here" in str(refused.exception)
    assert Run(run).judged_parts("m") == ["answer"]


@pytest.mark.parametrize("judge", ["cache.sqlite", "x/Cache"])
def test_names_that_cotlens_uses_itself_are_refused(server, tmp_path, judge):
    """A judge called cache.sqlite made a folder where the cache of all judges has its file."""
    run = analyze([SAMPLES], tmp_path / "run").path
    expected = "cotlens gives this name to files of its own; give another with --name"
    assert expected in guard(run, server[0], "--judge", judge)
    assert expected in guard(run, server[0], "--judge", "m", "--name", "cache.sqlite")
    assert not (run / "guard").exists()
