"""Entropies that a trainer stamped on its traces become scores of a scorer named after it."""

import json

import numpy as np
import pytest

from cotlens import TraceError, analyze
from cotlens.formats.read import read_records

TASK = {"key": "add-0", "data": {"answer": "4"}}


def episode(number, **stamps):
    """A question and an answer of two sampled tokens after one of the template's."""
    nodes = [
        {"message": {"role": "user", "content": "Add."}, "sampled": False, "token_ids": [1], "mask": [False]},
        {"parent": 0, "sampled": True, "token_ids": [9, 2, 3], "mask": [False, True, True], "logprobs": [-0.5, -0.25],
         "message": {"role": "assistant", "content": "<think>a</think>b"}, **stamps},
    ]  # fmt: skip
    trace = {"id": f"t{number}", "task": TASK, "nodes": nodes}
    run = {"type": "train", "id": "r", "work": {"type": "train", "step": 3}}
    return {"id": f"e{number}", "env": {"id": "sums"}, "task": TASK, "run": run, "traces": [trace]}


def write(path, *rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_stamped_entropies_are_scores(tmp_path):
    stamped = episode(0, entropies=[0.5, None], trainer_logprobs=[-0.75, -1.0])
    run = analyze(write(tmp_path / "traces.jsonl", stamped, episode(1)), tmp_path / "run")
    assert run.scorers == ["prime-rl"]
    table = run.score_table("prime-rl").set_index("trace_id")
    np.testing.assert_allclose(table.loc["t0", "entropy"], [0.5, np.nan])
    np.testing.assert_allclose(table.loc["t0", "logprob"], [-0.75, -1.0])
    assert list(table.loc["t0", "token_ids"]) == [2, 3]
    assert np.isnan(table.loc["t1", "entropy"]).all()
    assert table["error"].to_dict() == {"t0": "", "t1": "the source has no entropies for it"}
    assert run.score_info("prime-rl")["n_unscored"] == 1


def test_without_the_trainers_log_probs_those_of_the_engine_stand(tmp_path):
    run = analyze(
        write(tmp_path / "traces.jsonl", episode(0, entropies=[0.5, 0.25])), tmp_path / "run"
    )
    assert list(run.score_table()["logprob"][0]) == [-0.5, -0.25]


def test_traces_without_stamps_have_no_scorer(tmp_path):
    assert analyze(write(tmp_path / "traces.jsonl", episode(0)), tmp_path / "run").scorers == []


def test_a_trace_outside_a_training_run_is_stamped_by_verifiers():
    row = episode(0, entropies=[0.5, 0.25])["traces"][0]
    (trace,) = read_records([row])
    assert trace.meta["stamped_by"] == "verifiers"


@pytest.mark.parametrize("name", ["entropies", "trainer_logprobs", "advantages"])
def test_stamps_that_are_not_parallel_are_named(name):
    with pytest.raises(TraceError, match=f"node 1 has 2 sampled tokens and 1 {name}"):
        list(read_records([episode(0, **{name: [0.5]})]))


def test_the_same_trace_in_all_and_in_effective_counts_once(tmp_path):
    """prime-rl writes `train/all` and, of those that it trained on, `train/effective`."""
    for name, rows in (("all", [episode(0), episode(1)]), ("effective", [episode(1)])):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "traces.jsonl", *rows)
    run = analyze([tmp_path / "all", tmp_path / "effective"], tmp_path / "run")
    assert sorted(run.trace_table()["trace_id"]) == ["t0", "t1"]


def test_rollouts_of_an_evaluation_are_told_apart():
    row = episode(0)
    row["run"]["work"]["type"] = "eval"
    (trace,) = read_records([row])
    assert (trace.split, trace.training_step) == ("evaluation", 3)
