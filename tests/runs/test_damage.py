"""Shards with a flipped bit: refused in one line that names the file, and made again by the same call."""

import random
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from places import SAMPLES

from cotlens import Run, TraceError, analyze, read_traces
from cotlens.runs.judge import add_verdicts
from cotlens.runs.shards import Made, Shard, over_shards, read_shards, shard_name
from cotlens.studies.study import write_study

COTLENS = [sys.executable, "-m", "cotlens.cli"]


def cotlens(*arguments, code=0):
    process = subprocess.run([*COTLENS, *map(str, arguments)], capture_output=True, text=True)
    assert process.returncode == code, process.stderr
    if code:
        (line,) = [line for line in process.stderr.splitlines() if line.startswith("cotlens: ")]
        return line
    return process.stdout


def flip(path, at, bit=0):
    """Turn one bit of a file over."""
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def tables(path):
    """All that a run says, as text, in which NaN equals NaN."""
    run = Run(path)
    read = [run.trace_table(None), run.step_table(), run.verdicts()]
    return [table.to_csv() for table in read] + [list(map(repr, run.traces()))]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the samples with verdicts of one judge."""
    run = analyze([SAMPLES], tmp_path_factory.mktemp("damage") / "run")
    given = run.trace_table(["trace_id"]).assign(label="safe")
    return add_verdicts(run, given, "people", "answer")


def test_any_flipped_bit_is_refused(run, tmp_path):
    """120 bits anywhere in a shard: pages, their headers, the footer with the schema."""
    numbers = random.Random(0)
    shards = sorted(run.path.rglob("part-*.parquet"))
    assert len(shards) == 3
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    for _ in range(120):
        whole = numbers.choice(shards)
        shard = copy / whole.relative_to(run.path)
        flip(shard, numbers.randrange(whole.stat().st_size), numbers.randrange(8))
        with pytest.raises(TraceError) as error:
            tables(copy)
        assert "\n" not in str(error.value)
        assert str(shard) in str(error.value)
        shutil.copyfile(whole, shard)
    assert tables(copy) == tables(run.path)


@pytest.mark.parametrize("table", ["traces", "steps"])
def test_analyze_makes_a_damaged_shard_again(run, tmp_path, table):
    """It did nothing, because all files were there with their sizes."""
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    shard = copy / table / shard_name(0)
    flip(shard, shard.stat().st_size // 2)

    command = "export" if table == "traces" else "figures"
    options = ["--to", "openai"] if table == "traces" else []
    line = cotlens(command, copy, "-o", tmp_path / "out", *options, code=1)
    assert line.startswith(f"cotlens: {shard}: damaged or replaced since it was written")
    assert "call `cotlens analyze` again as before" in line

    cotlens("analyze", SAMPLES, "-o", copy)
    assert tables(copy) == tables(run.path)


def test_a_job_that_was_killed_does_not_keep_a_damaged_shard(tmp_path):
    """Each of the first two shards is flipped in turn; the third was never made."""

    def make(number):
        if number == stop_at:
            raise KeyboardInterrupt
        return Made(pa.table({"x": [number] * 1000}))

    shards = [Shard(shard_name(number), "s", number) for number in range(3)]
    expected = [number for number in range(3) for _ in range(1000)]
    for damaged in range(2):
        out = tmp_path / str(damaged)
        stop_at = 2
        with pytest.raises(KeyboardInterrupt):
            over_shards(shards, out, make, made_by={"k": 1})
        size = (out / shard_name(damaged)).stat().st_size
        for at in (4, size // 2, size - 12):
            flip(out / shard_name(damaged), at)
            with pytest.raises(KeyboardInterrupt):
                over_shards(shards, out, make, made_by={"k": 1})
        stop_at = -1
        over_shards(shards, out, make, made_by={"k": 1})
        assert read_shards(out)["x"].to_pylist() == expected
        assert not (out / ".shards.jsonl").exists()


def test_any_flipped_bit_of_a_study_is_refused(tmp_path):
    """The tables of a study are listed with their hashes in study.json."""
    keys = {"arm": "base", "set": "math", "split": "", "prompt_id": ["a", "b"]}
    samples = pd.DataFrame({**keys, "seed": 0, "n": [1, 2]})
    info = {"arms": {"base": "the model"}, "base": "base"}
    study = write_study(tmp_path / "study", {"samples": samples}, info)
    assert study.table("samples")["n"].tolist() == [1, 2]

    path = tmp_path / "study" / "samples" / "seed=0.parquet"
    content = path.read_bytes()
    numbers = random.Random(0)
    for _ in range(50):
        flip(path, numbers.randrange(len(content)), numbers.randrange(8))
        with pytest.raises(TraceError, match=r"seed=0\.parquet: damaged or replaced"):
            study.table("samples")
        path.write_bytes(content)
    flip(path, len(content) // 2)
    line = cotlens("figures", tmp_path / "study", "-o", tmp_path / "figures", code=1)
    assert line.startswith(f"cotlens: {path}: damaged or replaced since it was written")


def test_checksums_of_foreign_pages_are_verified(tmp_path):
    """A letter of the second text is another: without the checksum this is a text like any other."""
    path = tmp_path / "rows.parquet"
    table = pa.table({"completion": ["first text", "second text"]})
    plain: dict = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, **plain)
    flip(path, path.read_bytes().index(b"second"))
    with pytest.raises(
        TraceError, match=r"rows\.parquet: row 1 and on cannot be read .*[Cc]hecksum"
    ):
        list(read_traces(path))
