"""`cotlens score`: a run's tokens on disk, whole or not at all, and resumed where a job stopped."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from places import SAMPLES
from tiny import byte_tokenizer, tiny_model

from cotlens import Run, TraceError, analyze, score, score_tokens
from cotlens.models.load import fingerprint, wrap_model
from cotlens.runs import analyze as run_module
from cotlens.runs.schema import SCHEMA


@pytest.fixture(scope="module")
def model():
    tokenizer = byte_tokenizer()
    return wrap_model(
        tiny_model(len(tokenizer), max_position_embeddings=4096), tokenizer, name="models/tiny"
    )


@pytest.fixture
def samples(tmp_path):
    """The samples but the one whose token ids are invented: they belong to no tokenizer here."""
    path = tmp_path / "samples.jsonl"
    path.write_text(
        "".join(line for line in SAMPLES.read_text().splitlines(True) if '"token_ids"' not in line)
    )
    return path


@pytest.fixture
def run(samples, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "SHARD_TRACES", 4)
    return analyze([samples], tmp_path / "run")


def test_scores_lie_beside_the_traces(run, model):
    """One row per trace in the same order, lists parallel to the tokens, the schema of `table`."""
    assert score(run, model, top_k=2, reference=model) is run
    info = run.score_info("tiny")
    table = run.score_table("tiny")
    assert run.scorers == ["tiny"]
    assert table["trace_id"].tolist() == run.trace_table()["trace_id"].tolist()
    assert list(table.columns) == [column.name for column in SCHEMA["scores"]]
    assert [path.name for path in run.shards("scores/tiny")] == [
        path.name for path in run.shards("traces")
    ]
    lists = [
        "token_starts",
        "word_starts",
        "entropy",
        "logprob",
        "rank",
        "varentropy",
        "top_ids",
        "top_mass",
        "margin",
        "kl",
    ]
    for name in lists:
        assert (table[name].str.len() == table["token_ids"].str.len()).all(), name
    assert info["complete"]
    assert info["model"] == {
        "name": "models/tiny",
        "revision": "",
        "dtype": "float32",
        "device": "cpu",
    } | {"fingerprint": fingerprint(model.network)}
    assert {"torch", "transformers", "cotlens"} <= set(info["versions"])
    assert (info["n_traces"], info["n_retokenized"], info["n_unscored"]) == (13, 13, 0)
    traces = list(run.traces())
    for scored, row in zip(score_tokens(model, traces, top_k=2), table.itertuples(), strict=True):
        np.testing.assert_allclose(row.entropy, scored.values["entropy"], atol=1e-5)
        known = ~np.isnan(scored.values["rank"])
        np.testing.assert_array_equal(
            np.array(row.rank, float)[known], scored.values["rank"][known]
        )
        assert tuple(row.top_ids[-1]) == tuple(scored.values["top_ids"][-1].astype(int))


def test_rank_is_a_whole_number_or_null_on_disk(run, model):
    score(run, model)
    shard = pq.read_table(run.shards("scores/tiny")[0])
    assert str(shard.schema.field("rank").type) == "list<element: int32>"
    assert shard["top_ids"].null_count == len(shard)


def test_a_killed_job_goes_on_where_it_stopped(run, model, monkeypatch):
    whole = score(run, model, name="whole").score_info("whole")
    seen = []

    def kill(n):
        seen.append(n)
        if len(run.shards("scores/part")) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(run, model, name="part", progress=kill)
    assert not run.score_info("part")["complete"]
    with pytest.raises(TraceError, match="not complete"):
        list(run.scored_shards("part"))
    done = {path: path.stat().st_mtime_ns for path in run.shards("scores/part")}
    assert len(done) == 2
    assert score(run, model, name="part").score_info("part") == whole
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())
    for a, b in zip(run.shards("scores/whole"), run.shards("scores/part"), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_scores_of_traces_that_changed_are_made_again(run, samples, model, tmp_path):
    """A trace is added: the last shard is scored again, the others stay; old scores are refused."""
    score(run, model)
    before = [(path.name, path.stat().st_mtime_ns) for path in run.shards("scores/tiny")]
    extra = tmp_path / "more.jsonl"
    extra.write_text(
        samples.read_text()
        + json.dumps({"prompt": "p", "completion": "<think>a b</think>c"})
        + "\n"
    )
    analyze([extra], run.path, force=True)
    with pytest.raises(TraceError, match="the traces have changed since"):
        run.score_table()
    score(run, model)
    after = [(path.name, path.stat().st_mtime_ns) for path in run.shards("scores/tiny")]
    assert after[:-1] == before[:-1]
    assert after[-1] != before[-1]
    assert run.score_table()["trace_id"].tolist() == run.trace_table()["trace_id"].tolist()


def test_other_settings_are_not_mixed(run, model):
    score(run, model)
    with pytest.raises(TraceError, match=r"other(.|\n)*--force"):
        score(run, model, temperature=0.5)
    score(run, model, temperature=0.5, force=True)
    assert run.score_info("tiny")["settings"]["temperature"] == 0.5


def test_a_trace_that_cannot_be_scored_is_counted(run):
    """Context 64: most samples are longer. They stop the job, or are marked, or go in windows."""
    tokenizer = byte_tokenizer()
    short = wrap_model(tiny_model(len(tokenizer)), tokenizer, name="short")
    with pytest.raises(TraceError, match="--long window"):
        score(run, short)
    info = score(run, short, on_error="skip").score_info("short")
    table = run.score_table()
    assert 0 < info["n_unscored"] == (table["error"] != "").sum() <= 13
    assert table["error"][table["error"] != ""].str.contains("made for 64").all()
    assert all(np.isnan(values).all() for values in table["entropy"][table["error"] != ""])
    windowed = score(run, short, long="window", force=True).score_info("short")
    assert windowed["n_windowed"] == info["n_unscored"]
    assert windowed["n_unscored"] == 0


def test_a_light_run_has_no_text_to_score(tmp_path, model):
    with pytest.raises(TraceError, match="light run"):
        score(analyze([SAMPLES], tmp_path / "light", light=True), model)


def test_scores_do_not_disturb_the_run(run, samples, model, tmp_path):
    """A scored run is read, analyzed again and listed as before."""
    before = run.trace_table()
    score(run, model)
    pd.testing.assert_frame_equal(Run(run.path).trace_table(), before)
    assert analyze([samples], run.path).info["complete"]
    assert len(analyze([run.path], tmp_path / "again").trace_table()) == 13
    with pytest.raises(TraceError, match=r"asked for token scores of gpt.*there are tiny"):
        run.score_table("gpt")


def test_from_file_to_entropy_figures(samples, tmp_path):
    """The command, on a checkpoint on disk, with a reference."""
    tokenizer = byte_tokenizer()
    for name, seed in (("base", 0), ("sft", 1)):
        tiny_model(len(tokenizer), seed=seed, max_position_embeddings=4096).save_pretrained(
            tmp_path / name
        )
        tokenizer.save_pretrained(tmp_path / name)

    def cotlens(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "cotlens.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done

    cotlens("analyze", samples, "-o", tmp_path / "run")
    done = cotlens(
        "score",
        tmp_path / "run",
        "--model",
        tmp_path / "sft",
        "--reference",
        tmp_path / "base",
        "--device",
        "cpu",
    )
    assert "scored by sft" in done.stdout
    assert "13 traces were encoded" in done.stderr
    assert "tokens/s" in done.stderr
    assert "sft" in cotlens("info", tmp_path / "run").stdout
    cotlens("figures", tmp_path / "run", "-o", tmp_path / "figures")
    names = {f"entropy/{path.stem}" for path in (tmp_path / "figures" / "entropy").glob("*.csv")}
    assert {
        "entropy/parts", "entropy/position", "entropy/around_reflection",
        "entropy/distribution", "entropy/forking_tokens", "entropy/kl_position",
    } <= names  # fmt: skip
    parts = pd.read_csv(tmp_path / "figures" / "entropy/parts.csv")
    assert set(parts["measure"]) == {
        "entropy_think",
        "entropy_answer",
        "entropy_reflect",
        "entropy_other",
    }
    assert parts["value"].between(0, np.log(len(tokenizer))).all()
    assert (
        "cannot be loaded"
        in cotlens("score", tmp_path / "run", "--model", tmp_path / "run", code=1).stderr
    )
    assert (
        "must be above 0"
        in cotlens("score", tmp_path, "--model", "x", "--temperature", 0, code=2).stderr
    )


def test_checkpoints_of_one_name_are_told_apart(run):
    """checkpoint-500 of one arm and of another: the second does not pass for the first."""
    tokenizer = byte_tokenizer()
    first, second = (
        wrap_model(
            tiny_model(len(tokenizer), seed=seed, max_position_embeddings=4096),
            tokenizer,
            name="checkpoint-500",
        )
        for seed in (1, 2)
    )
    score(run, first)
    with pytest.raises(TraceError, match="made with other model"):
        score(run, second)
    assert fingerprint(first.network) != fingerprint(second.network)


@pytest.mark.parametrize("name", ["..", "../../x", "/tmp/x", "a/b", "."])
def test_a_name_stays_in_its_folder(run, model, name):
    with pytest.raises(TraceError, match="expected letters"):
        score(run, model, name=name)


def test_another_answer_to_faults_takes_up_what_was_left(run):
    tokenizer = byte_tokenizer()
    short = wrap_model(tiny_model(len(tokenizer)), tokenizer, name="short")
    skipped = score(run, short, on_error="skip").score_info("short")
    assert skipped["n_unscored"] > 0
    windowed = score(run, short, long="window").score_info("short")
    assert windowed["n_unscored"] == 0
    assert windowed["n_windowed"] == skipped["n_unscored"]


def test_a_shard_made_under_another_error_policy_is_kept_if_all_is_scored(run):
    """Shards with an unscored trace are made again, or refused; the others stay."""
    tokenizer = byte_tokenizer()
    short = wrap_model(tiny_model(len(tokenizer)), tokenizer, name="short")
    score(run, short, on_error="skip")
    shards = run.shards("scores/short")
    has_errors = [any(pq.read_table(path)["error"].to_pylist()) for path in shards]
    assert True in has_errors

    with pytest.raises(TraceError, match="--long window"):
        score(run, short)
    before = [path.stat().st_mtime_ns for path in shards]
    score(run, short, on_error="skip", long="window")
    after = [path.stat().st_mtime_ns for path in shards]
    assert [a != b for a, b in zip(before, after, strict=True)] == has_errors


def test_damaged_scores_are_made_again(run, model):
    whole = score(run, model).score_info("tiny")
    shard = run.shards("scores/tiny")[0]
    shard.write_bytes(shard.read_bytes()[:100])
    (shard.parent / ".part-00009.parquet.1.partial").write_bytes(b"x")
    assert not run.is_scored("tiny")
    assert score(run, model).score_info("tiny") == whole
    assert not list(shard.parent.glob(".part*"))
    (shard.parent / "run.json").write_text("{")
    with pytest.raises(TraceError, match="damaged"):
        run.score_info("tiny")
    assert score(run, model, force=True).score_info("tiny") == whole
