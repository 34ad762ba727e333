"""Inputs that are no plain file of plain rows, through the command line: one line, and nothing lost."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from places import SAMPLES
from typer.testing import CliRunner

from cotlens import Run, TraceError
from cotlens.cli import app

COTLENS = [sys.executable, "-m", "cotlens.cli"]


def cotlens(*arguments, code=0, stdin=None, before=None):
    """Run a command with bytes on its stdin; a fault must be one line."""
    process = subprocess.run(
        [*COTLENS, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        timeout=60,
        preexec_fn=before,
    )
    errors = process.stderr.decode()
    assert process.returncode == code, errors
    if code:
        # A progress bar may stand before it.
        errors = errors.strip().splitlines()[-1]
        assert errors.startswith("cotlens: "), errors
    return process.stdout.decode(), errors


def lines(n, text="x"):
    rows = [{"id": f"{i}", "completion": f"<think>{text}</think>{i}"} for i in range(n)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


# --- stdin, pipes, devices ---------------------------------------------------------------------


def test_stdin_is_read_whole_and_by_its_content(tmp_path):
    """30 rows of 9 kB: more than a pipe holds and a peek reads. Other rows make another run."""
    run = tmp_path / "run"
    out, _ = cotlens("analyze", "-", "-o", run, stdin=lines(30, "a" * 9000))
    assert "30 traces" in out
    assert Run(run).info["inputs"][0]["path"] == "-"

    # The same rows again do nothing; others are not answered with the first ones.
    assert "30 traces" in cotlens("analyze", "-", "-o", run, stdin=lines(30, "a" * 9000))[0]
    error = cotlens("analyze", "-", "-o", run, stdin=lines(5), code=1)[1]
    assert "made from other inputs" in error


def test_other_commands_read_stdin_too(tmp_path):
    out, _ = cotlens("info", "-", "--json", stdin=SAMPLES.read_bytes())
    report = json.loads(out)
    assert (report["path"], report["traces"]) == ("-", 14)

    cotlens("export", "-", "-o", tmp_path / "chat.jsonl", "--to", "openai", stdin=lines(3))
    assert len((tmp_path / "chat.jsonl").read_text().splitlines()) == 3


def test_faults_on_stdin_name_it(tmp_path):
    error = cotlens("info", "-", stdin=b"", code=1)[1]
    assert error == "cotlens: -: nothing came in on stdin"
    error = cotlens("analyze", "-", "-o", tmp_path / "run", stdin=lines(1) + b"{", code=1)[1]
    assert error.startswith("cotlens: -:2: not valid JSON")
    error = cotlens("analyze", "-", "-o", tmp_path / "r", stdin=b"PAR1 and no more", code=1)[1]
    assert error.startswith("cotlens: -: row 1 and on cannot be read")


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes lie elsewhere")
def test_pipes_and_devices_are_refused(tmp_path):
    """A FIFO without a writer would hang for ever, alone or in a folder of files."""
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    for path in (folder / "pipe.jsonl", folder, "/dev/stdin", "/dev/null"):
        error = cotlens("analyze", path, "-o", tmp_path / "run", stdin=lines(3), code=1)[1]
        assert "cannot be read twice; give a file or a folder, or - and the rows on" in error
        assert not (tmp_path / "run").exists()


# --- numbers that JSON lacks -------------------------------------------------------------------


def strict_json(text):
    """What a reader that follows the standard makes of a text: Python's takes NaN and Infinity."""

    def refuse(word):
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("reward", ["Infinity", "-Infinity", '"inf"', "1e999"])
def test_an_infinite_reward_is_a_bad_value(tmp_path, reward):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"id": "a", "completion": "x", "reward": {reward}}}\n')
    error = cotlens("analyze", path, "-o", tmp_path / "run", code=1)[1]
    got = "-inf" if reward == "-Infinity" else "inf"
    assert f"rows.jsonl:1: reward must be a finite number, got {got}" in error


def test_exports_are_json_whatever_the_numbers(tmp_path):
    """NaN is unknown: null. Infinity in the metadata becomes text; all comes back."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"id": "a", "prompt": "q", "completion": "x", "reward": NaN, "kl": -Infinity, '
        '"token_ids": [1, 2], "token_starts": [0, 1], "logprobs": [-Infinity, NaN], '
        '"by": {"advantage": [NaN, 1.5]}}\n'
    )
    cotlens("analyze", path, "-o", tmp_path / "run")
    chat = tmp_path / "chat.jsonl"
    cotlens("export", tmp_path / "run", "-o", chat, "--to", "openai")
    row = strict_json(chat.read_text())
    assert "reward" not in row
    assert row["logprobs"] == ["-Infinity", None]

    # The same trace comes back.
    cotlens("analyze", chat, "-o", tmp_path / "again")
    (trace,) = Run(tmp_path / "again").traces()
    assert trace.meta["kl"] == "-Infinity"
    assert trace.meta["by"] == {"advantage": [None, 1.5]}
    assert trace.logprobs is not None
    assert trace.logprobs[0] == float("-inf")
    assert trace.reward is None


# --- files that change -------------------------------------------------------------------------


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path, monkeypatch):
    """Shards of two traces; a line comes in after the first shard. The next call reads all."""
    monkeypatch.setattr("cotlens.runs.analyze.SHARD_TRACES", 2)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(100))
    run = tmp_path / "run"

    def grow():
        while not (run / "traces" / "part-00000.parquet").exists():
            time.sleep(0.001)
        with path.open("ab") as file:
            file.write(b'{"id": "late", "completion": "x"}\n')

    growing = threading.Thread(target=grow)
    growing.start()
    result = CliRunner().invoke(app, ["analyze", str(path), "-o", str(run)])
    growing.join()
    assert f"{path}: changed while it was read; call the same" in str(result.exception)
    with pytest.raises(TraceError, match="no steps yet"):
        Run(run).trace_table()

    again = CliRunner().invoke(app, ["analyze", str(path), "-o", str(run)])
    assert "101 traces" in again.output
