"""Files to a run: tables are exact, jobs resume, and nothing foreign is overwritten."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from places import SAMPLES

from cotlens import Run, TraceError, analyze, read_traces, step_table, trace_table
from cotlens.runs import analyze as run_module
from cotlens.runs.judge import add_verdicts
from cotlens.runs.schema import LIGHT_COLUMNS, SCHEMA
from cotlens.text.families import Tags


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_traces_come_back_exactly(tmp_path):
    """Foreign file -> run -> traces is the identity, and so is table -> parquet -> table."""
    traces = list(read_traces(SAMPLES))
    run = analyze([SAMPLES], tmp_path / "run")
    assert list(run.traces()) == traces
    pd.testing.assert_frame_equal(run.trace_table(None), trace_table(traces))
    pd.testing.assert_frame_equal(run.step_table(), step_table(traces))


def test_every_real_trace_comes_back_exactly(tmp_path, data):
    paths = sorted((data / "traces").glob("*.gz"))
    run = analyze(paths, tmp_path / "run")
    assert all(a == b for a, b in zip(run.traces(), read_traces(paths), strict=True))
    assert run.info["n_traces"] == 2198


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("settings", [], "an object"),
        ("inputs", "x", "a list"),
        ("n_traces", "7", "a whole number"),
        ("complete", 1, "true or false"),
    ],
)
def test_odd_types_in_a_run_json_are_one_line(tmp_path, name, value, expected):
    run = analyze([SAMPLES], tmp_path / "run")
    info = run.info | {name: value}
    (run.path / "run.json").write_text(json.dumps(info))
    with pytest.raises(TraceError, match=f"expected `{name}` to be {expected}, got"):
        _ = Run(run.path).info


def test_a_trace_by_its_id_and_steps_with_their_texts(tmp_path):
    run = analyze([SAMPLES], tmp_path / "run")
    for trace in read_traces(SAMPLES):
        assert run[trace.id] == run.trace(trace.id) == trace
    with pytest.raises(TraceError, match="no trace 'nobody'; the first of "):
        run["nobody"]

    steps = run.step_table(text=True)
    pd.testing.assert_frame_equal(steps, step_table(list(read_traces(SAMPLES)), text=True))
    assert list(run.step_table(["kind"], text=True)) == ["kind", "text"]
    with pytest.raises(TraceError):
        analyze([SAMPLES], tmp_path / "light", light=True).step_table(text=True)


def test_a_run_can_be_analyzed_again_into_the_same_tables(tmp_path):
    first = analyze([SAMPLES], tmp_path / "one")
    second = analyze([first.path], tmp_path / "two")
    pd.testing.assert_frame_equal(first.step_table(), second.step_table())


def test_steps_with_the_columns_of_their_traces_by_hand(tmp_path):
    """The first trace has the steps `Hi. ` and `Yo.`, the second no thought, the third one step."""
    path = tmp_path / "traces.jsonl"
    rows = [
        {"id": "a", "prompt_id": "p", "model": "m", "completion": "<think>Hi. Yo.</think>1"},
        {"id": "b", "prompt_id": "p", "model": "n", "completion": "2"},
        {"id": "c", "prompt_id": "q", "model": "n", "completion": "<think>So.</think>3"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = analyze(path, tmp_path / "run").step_table(
        ["trace_id", "step"], with_traces=["prompt_id", "model", "n_steps"]
    )
    assert list(steps) == ["trace_id", "step", "prompt_id", "model", "n_steps"]
    assert steps.values.tolist() == [
        ["a", 0, "p", "m", 2],
        ["a", 1, "p", "m", 2],
        ["c", 0, "q", "n", 1],
    ]


def test_steps_with_the_columns_of_their_traces_are_a_merge(tmp_path, monkeypatch):
    """Rows, order and the steps' own columns stay, over several shards; nothing is there twice."""
    monkeypatch.setattr(run_module, "SHARD_TRACES", 4)
    run = analyze([SAMPLES], tmp_path / "run")
    names = ["prompt_id", "training_step", "reward", "think_spans"]
    steps = run.step_table()
    joined = run.step_table(with_traces=names)
    pd.testing.assert_frame_equal(joined[list(steps)], steps)
    traces = run.trace_table(["trace_id", *names])
    pd.testing.assert_frame_equal(joined, steps.merge(traces, on="trace_id"))

    twice = run.step_table(with_traces=["trace_id", *names, *names])
    pd.testing.assert_frame_equal(twice, joined)
    pd.testing.assert_frame_equal(run.step_table(with_traces=["trace_id"]), steps)
    without_ids = run.step_table(["step"], with_traces=names)
    pd.testing.assert_frame_equal(without_ids, joined[["step", *names]])
    with_ids = run.step_table(["step"], with_traces=["trace_id"])
    pd.testing.assert_frame_equal(with_ids, steps[["step", "trace_id"]])


def test_steps_share_only_the_trace_id_with_their_traces():
    """So a column of `with_traces` that the steps have already is the same column."""
    names = {table: {column.name for column in SCHEMA[table]} for table in ("steps", "traces")}
    assert names["steps"] & names["traces"] == {"trace_id"}


def test_steps_with_unknown_columns_of_traces_are_refused(tmp_path):
    run = analyze([SAMPLES], tmp_path / "run", light=True)
    for name in ("colour", "completion"):  # a light run has no texts
        with pytest.raises(TraceError, match=f"no column {name}; there are trace_id, prompt_id"):
            run.step_table(with_traces=["model", name])
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"completion": "x"}\n')
    steps = analyze(empty, tmp_path / "empty").step_table(with_traces=["model"])
    assert (len(steps), list(steps)[-1]) == (0, "model")


def test_what_a_judge_says_of_itself(tmp_path):
    """Counts of all parts, as they are judged one after the other."""
    run = analyze([SAMPLES], tmp_path / "run")
    with pytest.raises(TraceError, match="no verdicts of people; judges: none"):
        run.judge_info("people")
    ids = run.trace_table()["trace_id"]
    verdicts = pd.DataFrame({"trace_id": ids, "label": "safe", "revision": "r1"})
    assert add_verdicts(run, verdicts, "people", "thinking") is run
    again = add_verdicts(str(run.path), verdicts.head(4), "people", "answer")
    assert again == run

    info = run.judge_info("people")
    assert (info["judge"], info["revision"]) == ("people", "r1")
    assert info["counts"] == {"thinking": {"safe": 14}, "answer": {"safe": 4, "undecided": 10}}
    for part in ("thinking", "answer"):
        (run.path / "guard" / "people" / part / "run.json").write_text("{")
    with pytest.raises(TraceError, match="damaged"):
        run.judge_info("people")
    assert run.judged_parts("people") == []


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    assert contents(analyze([SAMPLES], tmp_path / "a").path) == contents(
        analyze([SAMPLES], tmp_path / "b").path
    )


def test_shards_do_not_change_the_tables(tmp_path, monkeypatch):
    whole = analyze([SAMPLES], tmp_path / "whole").step_table()
    monkeypatch.setattr(run_module, "SHARD_TRACES", 4)
    monkeypatch.setattr(run_module, "SHARD_CHARS", 500)
    run = analyze([SAMPLES], tmp_path / "sharded")
    assert len(run.shards("traces")) > 4
    assert [path.name for path in run.shards("traces")] == [
        path.name for path in run.shards("steps")
    ]
    pd.testing.assert_frame_equal(run.step_table(), whole)


def test_a_killed_job_goes_on_where_it_stopped(tmp_path, monkeypatch):
    """A kill after the second shard: the next call writes only the others, to the same bytes."""
    monkeypatch.setattr(run_module, "SHARD_TRACES", 3)
    whole = contents(analyze([SAMPLES], tmp_path / "whole").path)

    def kill(_):
        kill.calls += 1
        if kill.calls == 2:
            raise KeyboardInterrupt

    kill.calls = 0
    with pytest.raises(KeyboardInterrupt):
        analyze([SAMPLES], tmp_path / "run", progress=kill)
    run = Run(tmp_path / "run")
    assert not run.info["complete"]
    with pytest.raises(TraceError, match="the run is not complete"):
        next(read_traces(run.path))
    done = {path: path.stat().st_mtime_ns for path in run.shards("steps")}
    assert len(done) == 2
    analyze([SAMPLES], tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert contents(run.path) == whole


def test_a_complete_run_is_left_alone(tmp_path):
    run = analyze([SAMPLES], tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    analyze([SAMPLES], tmp_path / "run", progress=pytest.fail)
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_foreign_folder_and_another_run_are_never_overwritten(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    with pytest.raises(TraceError, match="not a cotlens run"):
        analyze([SAMPLES], tmp_path / "notes", force=True)
    assert (tmp_path / "notes" / "thesis.txt").exists()
    other = tmp_path / "other.jsonl"
    other.write_text('{"completion": "x"}\n')
    run = analyze([SAMPLES], tmp_path / "run")
    with pytest.raises(TraceError, match=r"made from other inputs.*--force"):
        analyze([other], run.path)
    assert run.info["n_traces"] == 14
    (run.path / "traces" / "mine.txt").write_text("kept")
    assert analyze([other], run.path, force=True).info["n_traces"] == 1
    assert (run.path / "traces" / "mine.txt").exists()


def test_a_folder_of_another_program_with_a_run_json_is_not_touched(tmp_path):
    (tmp_path / "traces").mkdir()
    source = tmp_path / "traces" / "gen.jsonl"
    source.write_text('{"completion": "x"}\n')
    (tmp_path / "run.json").write_text('{"lr": 1}')
    for force in (False, True):
        with pytest.raises(TraceError, match="holds one of the inputs"):
            analyze(source, tmp_path, force=force)
        with pytest.raises(TraceError, match="another program's"):
            analyze(SAMPLES, tmp_path, force=force)
    assert source.exists()


def test_a_run_is_not_its_own_input(tmp_path):
    run = analyze(SAMPLES, tmp_path / "run")
    with pytest.raises(TraceError, match="holds one of the inputs"):
        analyze(run.path, run.path, force=True)
    assert len(list(run.traces())) == 14


def test_a_shard_that_was_removed_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "SHARD_TRACES", 4)
    run = analyze(SAMPLES, tmp_path / "run")
    before = contents(run.path)
    for table in ("traces", "steps"):
        run.shards(table)[1].unlink()
        analyze(SAMPLES, run.path)
        assert contents(run.path) == before


def test_two_jobs_cannot_write_one_run(tmp_path):
    def second(_):
        with pytest.raises(TraceError, match="another process is writing"):
            analyze(SAMPLES, tmp_path / "run", force=True)

    assert analyze(SAMPLES, tmp_path / "run", progress=second).info["complete"]


def test_rows_left_out_are_not_forgotten(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"completion": "x"}\nnonsense\n')
    run = analyze(path, tmp_path / "run", on_error="skip")
    with pytest.raises(TraceError, match="1 rows could not be read"):
        analyze(path, run.path)
    assert analyze(path, run.path, on_error="skip").info["n_rejected"] == 1


def test_the_place_of_the_inputs_does_not_matter_and_settings_do(tmp_path):
    copy = tmp_path / "elsewhere.jsonl"
    copy.write_bytes(SAMPLES.read_bytes())
    run = analyze(SAMPLES, tmp_path / "run")
    analyze([copy], run.path, progress=pytest.fail)
    with pytest.raises(TraceError, match="other inputs, settings"):
        analyze(SAMPLES, run.path, method="sft")
    assert set(analyze(SAMPLES, run.path, method="sft", force=True).trace_table()["method"]) == {
        "sft"
    }


def test_tags_of_ones_own_reach_the_tables(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"completion": "BEGIN a END b"}\n')
    run = analyze(path, tmp_path / "run", tags=Tags("BEGIN", "END"))
    table = run.trace_table(["think_start", "think_stop"])
    assert table.values.tolist() == [[5, 8]]


def test_rejects_are_written_and_counted(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_bytes(
        b'{"id": "a", "completion": "x"}\nnonsense\n{"id": "b", "completion": "\\ud800"}\n'
    )
    with pytest.raises(TraceError, match=r"mixed\.jsonl:2: not valid JSON"):
        analyze([path], tmp_path / "stopped")
    assert not list((tmp_path / "stopped").rglob("*.parquet"))
    run = analyze([path], tmp_path / "run", on_error="skip")
    rejects = [json.loads(line) for line in (run.path / "rejects.jsonl").read_text().splitlines()]
    assert [(reject["number"], reject["row"][:8]) for reject in rejects] == [
        (2, "nonsense"),
        (3, '{"id": "'),
    ]
    assert (run.info["n_traces"], run.info["n_rejected"]) == (1, 2)


def test_nothing_readable_is_an_error_even_when_skipping(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"completion": null}\n')
    with pytest.raises(
        TraceError, match="none of the 1 rows could be read; the first: the completion is null"
    ):
        analyze([path], tmp_path / "run", on_error="skip")
    with pytest.raises(TraceError, match="no input file"):
        analyze([], tmp_path / "run")


def test_a_duplicate_id_across_files_is_an_error(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text('{"id": "same", "completion": "x"}\n')
    with pytest.raises(TraceError, match=r"b\.jsonl:1: the id 'same' occurs twice"):
        analyze([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "run")


def test_a_light_run_has_the_numbers_and_not_the_texts(tmp_path):
    run = analyze([SAMPLES], tmp_path / "light", light=True)
    full = analyze([SAMPLES], tmp_path / "full")
    assert tuple(run.trace_table(None)) == LIGHT_COLUMNS
    pd.testing.assert_frame_equal(run.trace_table(), full.trace_table())
    for read in (
        run.traces,
        lambda: read_traces(run.path),
        lambda: read_traces(run.shards("traces")),
    ):
        with pytest.raises(TraceError, match="light run"):
            next(read())
    assert b"moonglass" not in b"".join(contents(run.path).values())


def test_memory_holds_one_shard(tmp_path):
    """Ten times the traces add less than 60 MB: a hash per id and the rows of a shard."""
    script = (
        "import resource, sys\nfrom cotlens import analyze\nanalyze([sys.argv[1]], sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for n in (2_000, 20_000):
        path = tmp_path / f"{n}.jsonl"
        text = "<think>" + "First, we add. Then we check it again.\n" * 30 + "</think>So."
        with path.open("w") as file:
            file.writelines(
                json.dumps({"id": i, "prompt": f"p{i}", "completion": text}) + "\n"
                for i in range(n)
            )
        output = subprocess.run(
            [sys.executable, "-c", script, path, tmp_path / f"run{n}"],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(output.stdout) / 1024)
    assert peaks[1] < peaks[0] + 60
