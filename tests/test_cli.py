"""The command line, run as a user runs it: output, exit codes, resuming, and nothing overwritten."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from places import SAMPLES
from typer.testing import CliRunner

from cotlens import Run
from cotlens.cli import app

COTLENS = [sys.executable, "-m", "cotlens.cli"]


def cotlens(*arguments, code=0, folder=None):
    """Run a command; its exit code must be `code`."""
    command = [*COTLENS, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert process.returncode == code, process.stderr
    return process


@pytest.fixture
def run(tmp_path):
    """A run directory of the sample traces."""
    cotlens("analyze", SAMPLES, "-o", tmp_path / "run")
    return tmp_path / "run"


def read_json(path):
    return json.loads(path.read_text())


def test_from_file_to_figure(run, tmp_path):
    """No request of the samples is known to ask for harm, so a line stands for figures of it."""
    drawn = cotlens("figures", run, "-o", tmp_path / "figures")
    paths = drawn.stdout.split()
    assert "no figures of unsafe exploration: no trace" in drawn.stderr
    names = [
        "lengths/by_part",
        "reflection/rate",
        "reflection/position",
        "reflection/marker_agreement",
        "reflection/transitions",
    ]
    assert paths == [
        str(tmp_path / "figures" / f"{name}.{kind}")
        for name in names
        for kind in ("pdf", "png", "csv", "json")
    ]
    assert str(tmp_path) not in (tmp_path / "figures" / "lengths/by_part.json").read_text()


def test_runs_are_told_apart_by_their_paths(tmp_path):
    """Groups are runs, named by the part of their paths that differs; at most six are drawn as curves."""
    figures = tmp_path / "figures"
    runs = [tmp_path / f"seed={k}" / "grpo" for k in range(8)]
    for run in runs[:2]:
        cotlens("analyze", SAMPLES, "-o", run)

    def draw(*paths, folder=tmp_path):
        """Return the number of traces by group, and the remarks."""
        remarks = cotlens("figures", *paths, "-o", figures, folder=folder).stderr
        table = pd.read_csv(figures / "lengths/by_part.csv")
        n_traces = table.drop_duplicates("group").set_index("group")["n_traces"]
        return n_traces.to_dict(), remarks

    # Two folders of the same name.
    groups, _ = draw(*runs[:2])
    assert groups == {"seed=0/grpo": 14, "seed=1/grpo": 14}

    # One run, given in three ways.
    draw(runs[0], "seed=0/grpo", tmp_path / "seed=1" / ".." / "seed=0" / "grpo")
    assert read_json(figures / "lengths/by_part.json")["n_traces"] == 14

    # The current folder has its name.
    groups, _ = draw(".", runs[1], folder=runs[0])
    assert set(groups) == {"seed=0/grpo", "seed=1/grpo"}

    for run in runs[2:]:
        shutil.copytree(runs[0], run)
    _, remarks = draw(*runs)
    assert "of the 6 largest of 8 groups only: reflection/position" in remarks


def test_several_runs_are_compared_and_not_pooled(tmp_path):
    """Two runs with the same ids and models are two groups; the same run twice is one."""
    base = tmp_path / "base"
    sft = tmp_path / "sft"
    for run in (base, sft):
        cotlens("analyze", SAMPLES, "-o", run)

    cotlens("figures", base, sft, sft, "-o", tmp_path / "figures")
    table = pd.read_csv(tmp_path / "figures" / "reflection/rate.csv")
    assert set(table["group"]) == {"base", "sft"}
    assert set(table["n"]) == {13}

    # An unknown column, an identifier, a number, a list, an empty column.
    for by in ("colour", "trace_id", "reward", "think_spans", "split"):
        error = cotlens("figures", base, "--by", by, code=1).stderr
        assert "what there is: run, model, domain" in error
        assert error.count("\n") == 1


def test_figures_of_some_traces_only(run, tmp_path):
    figures = tmp_path / "figures"
    domains = Run(run).trace_table()["domain"]
    domain = next(name for name in domains if name)

    def draw(condition, code=0):
        process = cotlens("figures", run, "--where", condition, "-o", figures, code=code)
        return process.stderr

    remarks = draw(f"domain={domain}")
    n_traces = read_json(figures / "lengths/by_part.json")["n_traces"]
    assert n_traces == (domains == domain).sum() < len(domains)
    assert "too few for their intervals" in remarks

    assert "no trace has domain = x" in draw("domain=x", code=1)
    assert "--where family: does not name" in draw("family=x", code=1)
    assert "expected COLUMN=VALUE" in draw("domain", code=2)


def test_info_of_a_file():
    report = json.loads(cotlens("info", SAMPLES, "--json").stdout)
    assert report["format"] == "plain"
    assert report["traces"] == 14
    assert report["models"] == {"written-long": 7, "written-short": 7}
    assert report["statuses"] == {
        "closed (text)": 10,
        "closed (prompt)": 1,
        "open (text)": 1,
        "closed (fields)": 1,
        "absent": 1,
    }
    assert report["missing"] == ["method", "reward"]
    assert report["other_fields"] == {}
    assert report["has"]["token_ids"] == 1


def test_info_of_a_run(run):
    report = json.loads(cotlens("info", run, "--json").stdout)
    assert report["traces"] == 14
    assert report["prompts"] == 8
    assert report["complete"] == "yes"
    assert "traces        14" in cotlens("info", run).stdout


def test_a_fault_of_the_input_is_one_line_and_code_1(tmp_path):
    run = tmp_path / "run"
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"completion": "x"}\n{"completion"\n')

    error = cotlens("analyze", bad, "-o", run, code=1).stderr
    assert error.splitlines()[-1].startswith(f"cotlens: {bad}:2: not valid JSON")
    assert "Traceback" not in error

    # The row that was skipped is reported once.
    remarks = cotlens("analyze", bad, "-o", run, "--on-error", "skip").stderr
    assert "1 rows could not be read" in remarks
    remarks = cotlens("figures", run, "-o", tmp_path / "figures").stderr
    assert "1 rows" not in remarks
    assert "not a cotlens run" in cotlens("figures", tmp_path, code=1).stderr


def test_a_wrong_command_line_is_code_2(tmp_path):
    cotlens("analyze", code=2)
    cotlens("analyze", SAMPLES, "-o", tmp_path, "--on-error", "ignore", code=2)
    cotlens("analyze", SAMPLES, "-o", tmp_path, "--tags", "", "", code=2)


def test_help_teaches():
    for command in ((), ("analyze",), ("figures",), ("info",)):
        assert "--help" in cotlens(*command, "--help").stdout
    assert "cotlens info FILE" in cotlens("--help").stdout


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_killed_command_is_finished_by_the_next(tmp_path):
    """SIGKILL while shards are being written; the same command then completes the run."""
    run = tmp_path / "run"
    path = tmp_path / "many.jsonl"
    text = "<think>" + "First, we add. Then we check.\n" * 100 + "</think>So."
    rows = [json.dumps({"id": i, "completion": text}) for i in range(8000)]
    path.write_text("\n".join(rows))

    arguments = ["analyze", str(path), "-o", str(run)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*COTLENS, *arguments], **quiet) as process:
        while not list(run.glob("steps/*.parquet")):
            assert process.poll() is None, "the command ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)

    assert not read_json(run / "run.json")["complete"]
    assert "8,000 traces" in cotlens(*arguments).stdout


def test_nothing_of_the_users_is_overwritten(tmp_path):
    """Not by a study in a run's folder, an export over its source or another file, or a page over traces."""
    source = tmp_path / "own.jsonl"
    run = tmp_path / "base"
    source.write_bytes(SAMPLES.read_bytes())
    cotlens("analyze", source, "-o", run)
    names = sorted(os.listdir(run))

    assert "is not a study" in cotlens("compare", run, "-o", run, code=1).stderr
    assert "is a file" in cotlens("compare", run, "-o", source, code=1).stderr
    assert sorted(os.listdir(run)) == names

    def refused_export(path):
        return cotlens("export", path, "-o", source, "--to", "openai", code=1).stderr

    # The export's own source, and another file.
    assert "what would be read" in refused_export(source)
    assert "--force" in refused_export(run)
    for path in (source, run):
        assert "is no page of cotlens" in cotlens("view", run, "-o", path, code=1).stderr
    assert source.read_bytes() == SAMPLES.read_bytes()

    # A page may replace a page, and an export anything with --force.
    for _ in range(2):
        cotlens("view", run, "-o", tmp_path / "page.html")
    cotlens("export", run, "-o", tmp_path / "e.jsonl", "--to", "openai")
    cotlens("export", run, "-o", tmp_path / "e.jsonl", "--to", "openai", "--force")


@pytest.mark.parametrize(
    ("command", "option"),
    [("figures", "--scorer"), ("figures", "--judge"), ("view", "--judge")],
)
def test_an_unknown_scorer_or_judge_is_named(run, tmp_path, command, option):
    process = cotlens(command, run, option, "typo", "-o", tmp_path / "out", code=1)
    assert "typo" in process.stderr


# --- what was damaged or belongs to others -------------------------------------------------------


@pytest.mark.parametrize("part", [".", "traces", "steps"])
def test_a_cut_run_json_is_made_again(tmp_path, part):
    """A machine that lost its power left half of it."""
    run = tmp_path / "run"
    assert CliRunner().invoke(app, ["analyze", str(SAMPLES), "-o", str(run)]).exit_code == 0
    whole = Run(run).step_table()
    path = run / part / "run.json"
    path.write_bytes(path.read_bytes()[:100])

    again = CliRunner().invoke(app, ["analyze", str(SAMPLES), "-o", str(run), "--force"])
    assert again.exit_code == 0, again.output
    pd.testing.assert_frame_equal(Run(run).step_table(), whole)


def test_a_cut_run_json_of_another_program_stays(tmp_path):
    (tmp_path / "run.json").write_text("{half")
    result = CliRunner().invoke(app, ["analyze", str(SAMPLES), "-o", str(tmp_path), "--force"])
    assert result.exit_code == 1
    assert (tmp_path / "run.json").read_text() == "{half"


def test_only_own_pages_are_replaced(tmp_path):
    run, page = str(tmp_path / "run"), tmp_path / "page.html"
    CliRunner().invoke(app, ["analyze", str(SAMPLES), "-o", run])
    for _ in range(2):
        assert CliRunner().invoke(app, ["view", run, "-o", str(page)]).exit_code == 0

    page.write_text("<!doctype html><title>my thesis</title>")
    refused = CliRunner().invoke(app, ["view", run, "-o", str(page)])
    assert refused.exit_code == 1
    assert "no page of cotlens" in str(refused.exception)
    assert "my thesis" in page.read_text()
