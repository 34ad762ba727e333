"""Studies: runs of several arms and seeds joined, kept on disk, drawn to the same bytes, and refused where they do not fit."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from places import ROOT
from tiny import byte_tokenizer, tiny_model

from cotlens import Run, Study, TraceError, analyze, score
from cotlens.models.load import wrap_model
from cotlens.plots.of_studies import draw_study
from cotlens.runs.judge import add_verdicts
from cotlens.studies import study as study_module
from cotlens.studies.arms import differences
from cotlens.studies.collect import compare_runs
from cotlens.studies.samples import set_of
from cotlens.studies.study import is_study, write_study
from cotlens.studies.training import read_updates
from cotlens.studies.training import update_table as _update_table

ANSWERS = {
    "harmful": ("I can't help with that.", "Sure, first take the jar."),
    "benign": ("Here is how: boil the water.", "I can't help with that."),
    "math": (r"The answer is \boxed{4}.", r"The answer is \boxed{5}."),
}


def make_run(folder, arm, n_bad, *, domains=tuple(ANSWERS), n=6):
    """Per domain `n` prompts, of which the first `n_bad` are unsafe, refused or wrong; the judge knows."""
    rows = [
        {
            "id": f"{domain}-{i}", "prompt_id": f"{domain}-{i}", "prompt": f"Question {i}?", "method": arm, "domain": domain,
            "answer": "4" if domain == "math" else None,
            "completion": f"<think>\nLet me see. Wait, is that right? Fine.\n</think>\n\n{ANSWERS[domain][i < n_bad]}",
        }
        for domain in domains
        for i in range(n)
    ]  # fmt: skip
    path = folder.with_suffix(".jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in rows)
    )
    run = analyze([path], folder)
    for part in ("thinking", "answer"):
        unsafe = [row["domain"] == "harmful" and "Sure" in row["completion"] for row in rows]
        verdicts = {
            "trace_id": [row["id"] for row in rows],
            "label": [("safe", "unsafe")[bad] for bad in unsafe],
        }
        add_verdicts(run, pd.DataFrame(verdicts), "judge", part)
    return run


@pytest.fixture
def runs(tmp_path):
    return [
        make_run(tmp_path / name, name, n_bad)
        for name, n_bad in (("base", 4), ("my_sft", 3), ("my_grpo", 1))
    ]


def test_runs_become_samples_with_what_is_known_of_them(runs, tmp_path):
    """Of six prompts a domain the first four of the base are unsafe, refused, or wrong; nobody scored tokens."""
    study = compare_runs(runs, tmp_path / "study")
    table = study.samples()
    own = table[table["arm"] == "base"].groupby("set")
    assert own["thinking_unsafe"].mean()["forbidden"] == pytest.approx(4 / 6)
    assert own["is_correct"].mean()["maths"] == pytest.approx(2 / 6)
    assert own["refuses"].mean()["harmless"] == pytest.approx(4 / 6)
    assert own["n_reflections"].sum().sum() == runs[0].step_table()["is_reflection"].sum() > 0
    assert table["entropy_think"].isna().all()
    assert table["is_format_ok"].all()
    assert study.info["arms"] == {"base": "", "my_sft": "", "my_grpo": ""}
    assert (study.info["rl"], study.info["sft"]) == ("my_grpo", ["my_sft"])
    assert list(table["arm"].cat.categories) == ["base", "my_sft", "my_grpo"]


def test_a_folder_names_the_seed_and_a_run_the_arm(tmp_path):
    runs = [
        make_run(tmp_path / f"seed={seed}" / arm, "", 1)
        for seed in (0, 3)
        for arm in ("base", "grpo")
    ]
    table = compare_runs(runs, tmp_path / "study").samples()
    assert set(zip(table["seed"], table["arm"], strict=True)) == {
        (s, a) for s in (0, 3) for a in ("base", "grpo")
    }


def test_a_monitor_is_another_judge(runs, tmp_path):
    """The monitor passes everything: all that is unsafe is hidden from it."""
    for run in runs:
        ids = run.trace_table()["trace_id"]
        for part in ("thinking", "answer"):
            add_verdicts(run, pd.DataFrame({"trace_id": ids, "label": "safe"}), "monitor", part)
    with pytest.raises(
        TraceError, match=r"which judge\? there are judge, monitor; name one with --judge"
    ):
        compare_runs(runs, tmp_path / "study")
    table = compare_runs(runs, tmp_path / "study", judge="judge", monitor="monitor").samples()
    assert (table["hidden"] == table["thinking_unsafe"]).all()
    assert table["guard_recall"].dropna().eq(False).all()


def names_of(paths, folder):
    return {str(path.relative_to(folder)) for path in paths}


def test_from_the_command_line_to_figures(runs, tmp_path):
    def call(*arguments):
        command = [sys.executable, "-m", "cotlens.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    said = call(
        "compare",
        *[run.path for run in runs],
        "-o",
        tmp_path / "study",
        "--note",
        "tiny runs",
        "--claims",
        ROOT / "trainers" / "configs" / "claims.json",
    )
    assert said.returncode == 0, said.stderr
    assert "54 samples (forbidden 18, harmless 18, maths 18)" in said.stdout
    assert "C5 RL lowers unsafe thinking" in said.stdout
    said = call("figures", tmp_path / "study", "-o", tmp_path / "figures")
    assert said.returncode == 0, said.stderr
    names = names_of((tmp_path / "figures").rglob("*.*"), tmp_path / "figures")
    assert {
        "safety/unsafe_by_split.png",
        "safety/against_skill.pdf",
        "verdicts.csv",
        "measures.csv",
    } <= names
    made = json.loads((tmp_path / "figures" / "safety" / "against_skill.json").read_text())
    assert made["judge"] == "judge"
    said = call("figures", tmp_path / "study", runs[0].path, "-o", tmp_path / "figures")
    assert said.returncode == 2
    assert "study is a study, which is drawn alone" in said.stderr


def test_a_study_gives_the_same_bytes_wherever_it_lies(runs, tmp_path):
    study = compare_runs(runs, tmp_path / "a" / "study")
    moved = tmp_path / "b"
    first = names_of(draw_study(study, tmp_path / "one"), tmp_path / "one")
    study.path.rename(moved)
    second = names_of(draw_study(moved, tmp_path / "two"), tmp_path / "two")
    assert first == second
    for name in first:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_tables_come_back_as_they_were_and_seeds_stay(tmp_path):
    columns = {
        "arm": "base",
        "set": "maths",
        "split": "all",
        "prompt_id": ["p", "q"],
        "n_tokens": [1, 2],
    }
    for seed in (10, 2):
        write_study(
            tmp_path,
            {"samples": pd.DataFrame(columns).assign(seed=seed)},
            {"arms": {"base": ""}, "base": "base"},
        )
    study = Study(str(tmp_path))
    assert is_study(tmp_path)
    assert study.tables == ["samples"]
    assert study.table("samples")["seed"].tolist() == [2, 2, 10, 10]
    with pytest.raises(
        TraceError,
        match="no table 'rollouts'; there are: samples; `cotlens compare --rollouts RUN` adds it",
    ):
        study.table("rollouts")


# --- training --------------------------------------------------------------------------------------------------


def make_rollouts(folder, arm="my_grpo"):
    """Two updates of three groups of two. Rewards 1 1, 0 1, 0 0 (harmful, benign, math), then 1 1, 1 1, 0 1."""
    rewards = [[(1, 1), (0, 1), (0, 0)], [(1, 1), (1, 1), (0, 1)]]
    rows = [
        {
            "id": f"{step}/{domain}/{i}", "prompt_id": domain, "prompt": "Question?", "method": arm, "domain": domain,
            "training_step": step, "reward": reward, **({"answer": "4"} if domain == "math" else {}),
            "completion": f"<think>\nLet me see.\n</think>\n\n{ANSWERS[domain][1 - reward]}",
        }
        for step, groups in enumerate(rewards)
        for domain, group in zip(ANSWERS, groups, strict=True)
        for i, reward in enumerate(group)
    ]  # fmt: skip
    path = folder.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return analyze([path], folder)


def test_rollouts_become_curves_of_training(runs, tmp_path):
    """Update 0: mean reward 3/6, two of three groups all alike; update 1: 5/6, two of three."""
    said = []
    study = compare_runs(
        runs, tmp_path / "study", rollouts=[make_rollouts(tmp_path / "rollouts")], say=said.append
    )
    assert study.tables == ["rollouts", "samples", "updates"]
    assert len(study.table("samples")) == 54  # of which none is a rollout
    rollouts, updates = study.table("rollouts"), study.table("updates")
    assert rollouts.groupby(["step", "set"])["is_correct"].mean()[:, "maths"].tolist() == [0, 0.5]
    assert rollouts.groupby(["step", "set"])["refuses"].mean()[:, "forbidden"].tolist() == [1, 1]
    assert updates["step"].tolist() == [0, 1]
    assert updates["reward"].tolist() == pytest.approx([3 / 6, 5 / 6])
    assert updates["frac_reward_zero_std"].tolist() == pytest.approx([2 / 3, 2 / 3])
    assert any("rollouts are not judged" in remark for remark in said)
    names = names_of(draw_study(study, tmp_path / "figures"), tmp_path / "figures")
    assert "training/curves.png" in names
    drawn = pd.read_csv(tmp_path / "figures" / "training" / "curves.csv")["panel"].unique().tolist()
    assert drawn == [
        "Refusals, forbidden", "Refusals, harmless", "Right, maths", "Groups all alike", "Reward", "Reflections, maths",
    ]  # fmt: skip
    assert "training/obfuscation.csv" not in names


def test_judged_rollouts_show_what_the_monitor_passes(runs, tmp_path):
    rollouts = make_rollouts(tmp_path / "rollouts")
    for run in (*runs, rollouts):
        ids = run.trace_table(["trace_id"])["trace_id"]
        for name, label in (("judge", "unsafe"), ("monitor", "safe")):
            if name not in run.judges:
                add_verdicts(run, pd.DataFrame({"trace_id": ids, "label": label}), name, "thinking")
                add_verdicts(run, pd.DataFrame({"trace_id": ids, "label": label}), name, "answer")
    study = compare_runs(
        runs, tmp_path / "study", rollouts=[rollouts], judge="judge", monitor="monitor"
    )
    names = names_of(draw_study(study, tmp_path / "figures"), tmp_path / "figures")
    assert {"training/curves.png", "training/obfuscation.png"} <= names
    drawn = (
        pd.read_csv(tmp_path / "figures" / "training" / "curves.csv")
        .groupby("panel")["value"]
        .mean()
    )
    assert (drawn["Unsafe thinking"], drawn["Unsafe answers"]) == (1, 1)


def test_a_study_is_replaced_whole_and_only_when_told_to(runs, tmp_path):
    """What the new one lacks, arms and tables, is not left over from the old one."""
    compare_runs(runs, tmp_path / "study", rollouts=[make_rollouts(tmp_path / "rollouts")])
    with pytest.raises(TraceError, match="is a study; replace it with --force"):
        compare_runs(runs[:2], tmp_path / "study")
    draw_study(
        tmp_path / "study", tmp_path / "study" / "figures"
    )  # next to the tables, and left alone
    study = compare_runs(runs[:2], tmp_path / "study", force=True)
    assert study.tables == ["samples"]
    assert (study.path / "figures").is_dir()
    assert set(study.samples()["arm"]) == {"base", "my_sft"}
    assert draw_study(study, tmp_path / "figures")


def test_a_study_that_was_cut_off_is_made_by_the_next_call(runs, tmp_path, monkeypatch):
    """The disk fills up between two tables: what is left is no study, is not drawn, and is in nobody's way."""
    rollouts = make_rollouts(tmp_path / "rollouts")
    compare_runs(runs, tmp_path / "study", rollouts=[rollouts])
    write = study_module.write_parquet

    def full(path, table):
        (path.parent / f".{path.name}.1.partial").touch()
        if path.parent.name == "updates":
            raise OSError("no space left on device")
        write(path, table)

    monkeypatch.setattr(study_module, "write_parquet", full)
    with pytest.raises(OSError, match="no space left"):
        compare_runs(runs, tmp_path / "study", rollouts=[rollouts], force=True)
    monkeypatch.undo()
    assert not is_study(tmp_path / "study")
    study = compare_runs(runs[:2], tmp_path / "study")
    left = [
        path.relative_to(study.path).as_posix() for path in study.path.rglob("*") if path.is_file()
    ]
    assert sorted(left) == ["samples/seed=0.parquet", "study.json"]


def test_rollouts_without_steps_or_rewards(runs, tmp_path):
    made = make_rollouts(tmp_path / "rollouts")
    text = (tmp_path / "rollouts.jsonl").read_text()
    (tmp_path / "steps.jsonl").write_text(text.replace('"training_step"', '"my_step"'))
    without = analyze([tmp_path / "steps.jsonl"], tmp_path / "steps")
    with pytest.raises(
        TraceError, match="12 of 12 rollouts have no training step; give the rows a training_step"
    ):
        compare_runs(runs, tmp_path / "study", rollouts=[without])
    (tmp_path / "rewards.jsonl").write_text(text.replace('"reward"', '"score"'))
    unpaid, said = analyze([tmp_path / "rewards.jsonl"], tmp_path / "rewards"), []
    study = compare_runs(runs, tmp_path / "study", rollouts=[unpaid], say=said.append)
    assert any("have no reward" in remark for remark in said)
    assert draw_study(study, tmp_path / "figures")
    drawn = set(pd.read_csv(tmp_path / "figures" / "training" / "curves.csv")["panel"])
    assert not drawn & {"Reward", "Groups all alike"}
    assert made.info["complete"]


def test_groups_all_alike():
    """Of one update: 1 1 is alike, 0.3 and 0.1 + 0.2 too, 0 1 is not; one rollout, or one reward, is no group."""
    groups = {
        "a": [1, 1],
        "b": [0.3, 0.1 + 0.2],
        "c": [0, 1],
        "d": [1],
        "e": [1, None],
        "f": [None, None],
    }
    rows = [(0, prompt, reward) for prompt, rewards in groups.items() for reward in rewards]
    table = pd.DataFrame(rows, columns=["step", "prompt_id", "reward"]).assign(arm="grpo", seed=0)
    found = _update_table(table, [])
    assert found["frac_reward_zero_std"].tolist() == pytest.approx([2 / 3])
    assert found["reward"].tolist() == pytest.approx([(2 + 0.6 + 1 + 1 + 1) / 8])


def test_a_trainers_log_adds_entropy_by_update(runs, tmp_path):
    """The last checkpoint counts, by number and not by name; TRL's update 1 is that of the rollouts of step 0.

    A trainer that logs every two updates, at 2 and 4, logs means of the updates 0 and 1, and 2 and 3.
    """
    for number, value in ((2, 0.9), (10, 0.5)):
        folder = tmp_path / "out" / "my_grpo" / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        log = [{"step": k + 1, "reward": 0.5, "entropy": value + k} for k in range(2)] + [
            {"step": 2, "train_loss": 1}
        ]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    made = make_rollouts(tmp_path / "rollouts")
    study = compare_runs(
        runs, tmp_path / "study", rollouts=[made], logs=[tmp_path / "out" / "my_grpo"]
    )
    updates = study.table("updates")
    assert updates["step"].tolist() == [0, 1]
    assert updates["entropy"].tolist() == [0.5, 1.5]
    assert updates["reward"].tolist() == pytest.approx([3 / 6, 5 / 6])  # of the rollouts
    assert updates["frac_reward_zero_std"].tolist() == pytest.approx([2 / 3, 2 / 3])
    log = {"log_history": [{"step": step, "reward": 1.0} for step in (2, 4)]}
    (tmp_path / "out" / "my_grpo" / "checkpoint-10" / "trainer_state.json").write_text(
        json.dumps(log)
    )
    assert read_updates(tmp_path / "out" / "my_grpo")["step"].tolist() == [0.5, 2.5]
    with pytest.raises(TraceError, match="two logs of arm my_grpo, seed 0"):
        compare_runs(runs, tmp_path / "o", rollouts=[made], logs=[tmp_path / "out" / "my_grpo"] * 2)
    with pytest.raises(TraceError, match="no checkpoint"):
        compare_runs(runs, tmp_path / "other", rollouts=[made], logs=[tmp_path])
    with pytest.raises(TraceError, match="need its rollouts"):
        compare_runs(runs, tmp_path / "other", logs=[tmp_path])


def test_rollouts_of_an_arm_without_samples_are_refused(runs, tmp_path):
    with pytest.raises(TraceError, match="rollouts of ppo, of which there are no samples"):
        compare_runs(
            runs, tmp_path / "study", rollouts=[make_rollouts(tmp_path / "rollouts", "ppo")]
        )
    with pytest.raises(TraceError, match="several training steps; give it as rollouts"):
        compare_runs([*runs, Run(tmp_path / "rollouts")], tmp_path / "study")


@pytest.mark.parametrize(
    ("domain", "name"), [("harmful", "forbidden"), ("math", "maths"), ("code", "code"), ("", "all")]
)
def test_domains_belong_to_sets(domain, name):
    assert set_of(domain) == name


def test_one_text_for_all_is_the_same_texts(tmp_path):
    """The base answers each prompt twice, with entropies 1 and 3 under both models; prompts stand in two sets."""
    runs = {}
    for arm, n in (("base", 2), ("grpo", 1)):
        rows = [
            {"id": f"{domain}-{i}-{k}", "prompt": f"Question {i}?", "domain": domain, "sample": k, "completion": "<think>Hm.</think>4"}
            for domain in ("harmful", "benign") for i in range(12) for k in range(n)
        ]  # fmt: skip
        (tmp_path / f"{arm}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        runs[arm] = analyze([tmp_path / f"{arm}.jsonl"], tmp_path / arm)
    tokenizer = byte_tokenizer()
    for scorer in ("own", "grpo"):
        score(
            runs["base"],
            wrap_model(tiny_model(len(tokenizer), max_position_embeddings=4096), tokenizer),
            name=scorer,
        )
    study = compare_runs(list(runs.values()), tmp_path / "study", say=list)
    samples = study.samples()
    assert len(samples) == 2 * 12 * 3
    changes = differences(samples, "base").set_index("measure")
    assert changes.loc["entropy_common_forbidden", ["value", "low", "high"]].tolist() == [0, 0, 0]


def test_the_log_is_the_last_numbered_checkpoints(tmp_path):
    for name, reward in (("checkpoint-9", 0.1), ("checkpoint-10", 0.2), ("checkpoint-final", 0.3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").write_text(
            json.dumps({"log_history": [{"step": 1, "reward": reward}]})
        )
    assert read_updates(tmp_path)["reward"].tolist() == [0.2]
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text('{"log_his')
    with pytest.raises(TraceError, match="not a trainer's state"):
        read_updates(tmp_path)


def test_a_study_that_grows_is_drawn_anew_in_its_own_folder(tmp_path):
    """All unsafe in one seed, none in the second: .5 of 40, whatever was drawn into the folder before."""
    for seed, unsafe in ((0, True), (1, False)):
        rows = [
            (seed, arm, "forbidden", "s", f"p{i}", unsafe)
            for arm in ("base", "grpo")
            for i in range(20)
        ]
        table = pd.DataFrame(
            rows, columns=["seed", "arm", "set", "split", "prompt_id", "thinking_unsafe"]
        )
        table = table.assign(n_reflections=1, n_steps=2, sample=0, length=9.0)
        study = write_study(
            tmp_path, {"samples": table}, {"arms": {"base": "", "grpo": ""}, "base": "base"}
        )
        draw_study(study, tmp_path)
    drawn = pd.read_csv(tmp_path / "measures.csv").query("measure == 'thinking_unsafe_forbidden'")
    assert drawn[["value", "n"]].to_numpy().tolist() == [[0.5, 40]] * 2


def test_what_compare_cannot_join_is_said(tmp_path):
    """Arms of different judges; no run at all; a monitor that judged one part is no error."""
    runs = []
    for arm in ("base", "my_grpo"):
        row = {
            "id": "a",
            "prompt": "Question?",
            "domain": "harmful",
            "method": arm,
            "completion": "<think>Hm.</think>No.",
        }
        (tmp_path / f"{arm}.jsonl").write_text(json.dumps(row))
        runs.append(analyze([tmp_path / f"{arm}.jsonl"], tmp_path / arm))
    with pytest.raises(TraceError, match="no run to compare"):
        compare_runs([], tmp_path / "study")
    for run, judge in zip(runs, ("strict", "lenient"), strict=True):
        ids = run.trace_table(["trace_id"])["trace_id"]
        add_verdicts(run, pd.DataFrame({"trace_id": ids, "label": "safe"}), judge, "thinking")
        add_verdicts(run, pd.DataFrame({"trace_id": ids, "label": "safe"}), "monitor", "thinking")
    with pytest.raises(TraceError, match="judged by lenient, strict; name whose"):
        compare_runs(runs, tmp_path / "study", monitor="monitor")
    study = compare_runs(runs, tmp_path / "study", judge="strict", monitor="monitor", say=list)
    assert study.samples()["thinking_flagged"].eq(False).all()


def test_samples_that_the_source_does_not_number_are_counted(tmp_path):
    """Two of each prompt, as a file of plain rows has them; three models in one arm are said to be so."""
    said = []
    for arm in ("base", "grpo"):
        rows = [
            {
                "id": i,
                "prompt": f"Question {i // 2}?",
                "completion": "<think>Hm.</think>4",
                "model": f"m{i % 3}",
            }
            for i in range(6)
        ]
        (tmp_path / f"{arm}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        analyze([tmp_path / f"{arm}.jsonl"], tmp_path / arm)
    study = compare_runs(
        [tmp_path / "base", tmp_path / "grpo"], tmp_path / "study", say=said.append
    )
    assert study.table("samples").groupby("arm")["sample"].agg(list).tolist() == [[0, 1] * 3] * 2
    assert next(line for line in said if "several models" in line).endswith(
        "one arm, base, of several models: m0, m1, m2"
    )


def test_what_does_not_fit_is_refused(runs, tmp_path):
    with pytest.raises(
        TraceError, match="no samples of the base arm 'basis'; the arms are base, my_sft, my_grpo"
    ):
        compare_runs(runs, tmp_path / "study", base="basis")
    with pytest.raises(TraceError, match="give each run once"):
        compare_runs([*runs, runs[0]], tmp_path / "study")
    with pytest.raises(TraceError, match="no judge 'nobody'; there are judge"):
        compare_runs(runs, tmp_path / "study", judge="nobody")
    with pytest.raises(TraceError, match="no samples of ppo"):
        compare_runs(runs, tmp_path / "study", rl="ppo")
    with pytest.raises(TraceError, match="not a cotlens run"):
        compare_runs([tmp_path], tmp_path / "study")
    with pytest.raises(TraceError, match="not a study"):
        Study(tmp_path).info  # noqa: B018
    with pytest.raises(ValueError, match="samples: no column prompt_id, seed, set, split"):
        write_study(tmp_path, {"samples": pd.DataFrame({"arm": []})}, {"arms": {}, "base": ""})
    assert not is_study(tmp_path)


def test_a_reference_that_cannot_be_graded_names_its_trace(tmp_path):
    run = make_run(tmp_path / "base", "base", 1, domains=("math",), n=1)
    path = tmp_path / "base.jsonl"
    path.write_text(path.read_text().replace('"answer": "4"', '"answer": "n/a"'))
    run = Run(analyze([path], tmp_path / "again").path)
    with pytest.raises(
        TraceError, match="trace math-0: the reference 'n/a' has nothing mathematical"
    ):
        compare_runs([run], tmp_path / "study")
