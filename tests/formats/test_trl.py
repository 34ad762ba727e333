"""TRL's completions parquet: each rollout once, evaluations apart from training.

The folders are made by hand as TRL's buffer would leave them, and by TRL itself. A row is named by
its prompt and a letter for the rollout: `a1` is rollout 1 of the training prompt a, `E1` one of the
evaluation's prompt E.
"""

import json
import random
import warnings

import pandas as pd
import pytest

from cotlens import read_traces
from cotlens.formats.trl import _overlap

REPEATED = {
    1: "a1 a2 b1 b2",
    2: "a1 a2 b1 b2",  # nothing generated
    3: "b1 b2 E1 E2",  # evaluation: its two rollouts push out two
    4: "c1 c2 d1 d2",
    5: "d1 d2 E3 E4",
    6: "d1 d2 E3 E4",
}


def write(folder, steps, *, evaluated=(), generated=(), log=True):
    """The files of a folder, and a trainer's log next to it."""
    (folder / "completions").mkdir(parents=True)
    for step, rollouts in steps.items():
        rows = []
        for name in rollouts.split():
            rows.append(
                {
                    "step": step,
                    "prompt": name[0],
                    "completion": name,
                    "right": 1.0,
                    "advantage": 0.5,
                }
            )
        pd.DataFrame(rows).to_parquet(folder / "completions" / f"completions_{step:05d}.parquet")
    if log:
        history = [{"step": step, "eval_loss": 0.0} for step in evaluated]
        history += [{"step": step, "reward": 1.0} for step in generated]
        (folder / "checkpoint-9").mkdir()
        state = {"global_step": max(steps), "log_history": history}
        (folder / "checkpoint-9" / "trainer_state.json").write_text(json.dumps(state))


def read(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        traces = list(read_traces(folder / "completions"))
    return {trace.completion: (trace.training_step, trace.split) for trace in traces}, traces


def test_a_rollout_counts_once_at_the_step_that_generated_it(tmp_path):
    """24 rows of 12 rollouts; a partial change of the buffer is an evaluation, without any log."""
    write(tmp_path, REPEATED, log=False)
    found, traces = read(tmp_path)
    assert len(traces) == 12
    assert found == {
        **dict.fromkeys(("a1", "a2", "b1", "b2"), (1, "")), **dict.fromkeys(("E1", "E2"), (3, "evaluation")),
        **dict.fromkeys(("c1", "c2", "d1", "d2"), (4, "")), **dict.fromkeys(("E3", "E4"), (5, "evaluation")),
    }  # fmt: skip
    assert [trace.id for trace in traces][:5] == [
        *(f"completions_00001:{i}" for i in (1, 2, 3, 4)),
        "completions_00003:3",
    ]


def test_one_file_alone_names_its_rollouts_as_the_folder_does(tmp_path):
    write(tmp_path, REPEATED, log=False)
    traces = list(read_traces(tmp_path / "completions" / "completions_00006.parquet"))
    assert [(trace.id, trace.training_step, trace.split) for trace in traces] == [
        ("completions_00004:3", 4, ""), ("completions_00004:4", 4, ""),
        ("completions_00005:3", 5, "evaluation"), ("completions_00005:4", 5, "evaluation"),
    ]  # fmt: skip


def test_equal_rollouts_of_one_file_are_two(tmp_path):
    write(tmp_path, {1: "a1 a1 a1 b1", 2: "c1 c1 c2 c2"}, generated=(1, 2))
    assert len(read(tmp_path)[1]) == 8


def test_an_evaluation_that_fills_the_buffer_is_told_by_the_log(tmp_path):
    """At step 2 nothing else was generated. At step 4 a training batch was, and its end is there:
    c has rollouts at no other step, and E was asked at both evaluations."""
    write(
        tmp_path,
        {1: "a1 a2 b1 b2", 2: "E1 E2 E3 E4", 3: "b3 b4 a3 a4", 4: "c1 c2 E5 E6"},
        evaluated=(2, 4),
        generated=(1, 3, 4),
    )
    with pytest.warns(
        UserWarning,
        match="2 of 16 rollouts may be of training or of an evaluation.*prompts do not tell",
    ):
        traces = list(read_traces(tmp_path / "completions"))
    splits = {trace.completion: trace.split for trace in traces}
    assert {name for name, split in splits.items() if split == "evaluation"} == {
        "E1",
        "E2",
        "E3",
        "E4",
        "E5",
        "E6",
    }


def test_without_a_log_whole_files_may_be_either(tmp_path):
    write(tmp_path, {1: "a1 a2", 2: "E1 E2"}, log=False)
    with pytest.warns(UserWarning, match=r"4 of 4 rollouts .*no trainer_state.json"):
        traces = list(read_traces(tmp_path / "completions"))
    assert {trace.split for trace in traces} == {""}


def test_a_run_without_evaluation_is_read_without_a_warning(tmp_path):
    write(tmp_path, {1: "a1 a2", 2: "a1 a2", 3: "b1 b2"}, generated=(1, 3))
    found, traces = read(tmp_path)
    assert (len(traces), set(found.values())) == (4, {(1, ""), (3, "")})


def test_a_split_of_the_rows_own_wins(tmp_path):
    write(tmp_path, REPEATED, log=False)
    path = tmp_path / "completions" / "completions_00003.parquet"
    pd.read_parquet(path).assign(split="mine").to_parquet(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traces = list(read_traces(path))
    assert {trace.split for trace in traces} == {"mine"}


def test_the_overlap_is_the_longest_end_that_the_other_begins_with():
    """Against a plain search, on words of two letters."""
    rng = random.Random(0)
    for _ in range(300):
        earlier = rng.choices("ab", k=rng.randrange(7))
        later = rng.choices("ab", k=rng.randrange(7))
        lengths = [
            n
            for n in range(min(len(earlier), len(later)) + 1)
            if earlier[len(earlier) - n :] == later[:n]
        ]
        assert _overlap(earlier, later) == max(lengths)
    assert _overlap(["x"] * 200_000, ["x"] * 200_000) == 200_000  # linear


@pytest.mark.filterwarnings("default")  # other people's deprecations
def test_a_real_run_with_evaluation_and_a_reused_buffer(tmp_path):
    """TRL itself: 4 steps of 2 rows, a buffer of 8, evaluations of 4 rollouts at step 3 and at the end.

    Generated: 8 for step 1, 4 for each evaluation: 16 rollouts. Files 1 to 4 have 8 rows each: 32.
    """
    trl = pytest.importorskip("trl")
    import datasets
    from tiny import tiny_model, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    config = trl.GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=2, num_generations=2, steps_per_generation=4,
        per_device_eval_batch_size=2, eval_strategy="steps", eval_steps=3, max_completion_length=6, max_steps=4,
        logging_steps=1, log_completions=True, report_to=[], use_cpu=True, bf16=False, save_strategy="no", seed=1,
    )  # fmt: skip
    words = ("one", "two", "three", "four", "five", "six")
    trainer = trl.GRPOTrainer(
        model=tiny_model(len(tokenizer)),
        reward_funcs=lambda completions, **_: [float(len(text)) for text in completions],
        args=config,
        train_dataset=datasets.Dataset.from_list([{"prompt": f"train {word}"} for word in words]),
        eval_dataset=datasets.Dataset.from_list([{"prompt": f"eval {word}"} for word in words[:2]]),
        processing_class=tokenizer,
    )
    trainer.train()
    files = sorted(tmp_path.glob("completions/*.parquet"))
    assert sum(len(pd.read_parquet(path)) for path in files) == 32

    traces = list(read_traces(tmp_path / "completions"))
    assert len(traces) == 16
    assert {(trace.prompt.split()[0], trace.split, trace.training_step) for trace in traces} == {
        ("train", "", 1), ("eval", "evaluation", 3), ("eval", "evaluation", 4),
    }  # fmt: skip
