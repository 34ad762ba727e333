"""The scripts: how they start, what they read, what they leave."""

import json
import subprocess
import sys

import pytest
from places import ROOT
from tiny import PAIRS, moved, tiny_tokenizer, trained_model, weights

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from trl import DPOConfig, GRPOConfig, RLOOConfig, SFTConfig

from cotlens import read_traces
from trainers import dpo, grpo, rloo, sft
from trainers.script import parse

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIGS = {"sft": SFTConfig, "dpo": DPOConfig, "grpo": GRPOConfig, "rloo": RLOOConfig}


@pytest.mark.parametrize(
    ("path", "module"),
    [
        ("sft.py", "trainers.sft"),
        ("grpo.py", "trainers.grpo"),
        ("rloo.py", "trainers.rloo"),
        ("dpo.py", "trainers.dpo"),
        ("methods/rlvr.py", "trainers.methods.rlvr"),
        ("merge.py", "trainers.merge"),
        ("methods/ipo.py", "trainers.methods.ipo"),
        ("methods/recap.py", "trainers.methods.recap"),
        ("methods/cog.py", "trainers.methods.cog"),
        ("methods/pivots.py", "trainers.methods.pivots"),
        ("methods/r2d.py", "trainers.methods.r2d"),
        ("pocket/experiment.py", "trainers.pocket.experiment"),
        ("pocket/report.py", "trainers.pocket.report"),
        ("fit/reflect.py", "trainers.fit.reflect"),
        ("fit/unsafe.py", "trainers.fit.unsafe"),
    ],
)
def test_a_script_that_cannot_find_the_package_names_the_command(tmp_path, path, module):
    """Started by its path, from another folder, without the checkout or any package on the path."""
    script = ROOT / "trainers" / path
    result = subprocess.run(
        [sys.executable, "-I", "-S", script], cwd=tmp_path, capture_output=True, text=True
    )
    message = f"start it as a module, from the root of the repository: python -m {module}\n"
    assert (result.returncode, result.stdout, result.stderr) == (1, "", message)


@pytest.mark.parametrize("name", CONFIGS)
def test_help_names_the_command(capsys, name):
    with pytest.raises(SystemExit):
        parse(CONFIGS[name], ["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m trainers.{name} --config FILE")


def test_every_recipe_can_be_parsed():
    files = sorted((ROOT / "trainers" / "configs").glob("*.yaml"))
    assert len(files) >= 6
    cpu = ["--use_cpu", "true", "--bf16", "false"]
    for path in files:
        name = path.name.split("_")[0]
        arguments = ["--config", str(path), *cpu, "--data", "x.jsonl"]
        script, args, model_args = parse(CONFIGS[name], arguments)
        assert model_args.model_name_or_path
        assert args.output_dir
        for reward in script.rewards:
            assert reward["name"] in ("safety", "correctness", "format", "over_refusal")

        # Its header has the command, and the command of a dry run.
        header = path.read_text()
        command = f"trainers.{name} --config trainers/configs/{path.name}"
        assert command in header
        assert f"python -m {command} --dry_run true" in header


def test_an_unknown_key_is_an_error(tmp_path):
    path = tmp_path / "recipe.yaml"
    common = (
        f"output_dir: {tmp_path}\nbf16: false\nuse_cpu: true\nactivation_checkpointing: false\n"
    )
    path.write_text(common + "lerning_rate: 0.1\n")
    with pytest.raises(ValueError, match="lerning_rate"):
        parse(SFTConfig, ["--config", str(path)])
    path.write_text(common)
    with pytest.raises(ValueError, match="lerning_rate"):
        parse(SFTConfig, ["--config", str(path), "--lerning_rate", "0.1"])


@pytest.fixture
def saved(tmp_path):
    """A model and rows on disk, and the arguments that every script takes."""
    trained_model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = []
    for row in PAIRS:
        rows.append(row | {"chosen": row["completion"], "domain": "math", "answer": "2"})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))

    places = {
        "--model_name_or_path": "model",
        "--data": "rows.jsonl",
        "--output_dir": "out",
    }
    arguments = []
    for option, name in places.items():
        arguments += [option, str(tmp_path / name)]
    cpu = "--use_cpu true --bf16 false --activation_checkpointing false"
    short = "--max_steps 1 --disable_tqdm true --report_to none"
    return [*arguments, *cpu.split(), *short.split()]


@pytest.mark.parametrize("script", [sft, dpo, grpo, rloo])
def test_a_dry_run_shows_and_trains_nothing(saved, tmp_path, capsys, script):
    script.main([*saved, "--dry_run", "true"])
    printed = capsys.readouterr().out
    assert "12 rows" in printed
    assert "<|user|> one <|assistant|> [[" in printed
    assert "full fine-tuning: " in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("script", [sft, dpo, grpo, rloo])
def test_a_script_trains_and_leaves_a_folder_that_loads(saved, tmp_path, script):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    record = tmp_path / "record"
    places = ["--watch", str(tmp_path / "rows.jsonl"), "--record", str(record)]
    watch = "--watch_tokens 4 --watch_every 1 --method arm"
    arguments = [*saved, *places, *watch.split()]
    if script in (grpo, rloo):
        rewards = '[{"name": "format", "weight": 0.5}, {"name": "correctness"}]'
        sampling = "--num_generations 2 --max_completion_length 6"
        training = "--per_device_train_batch_size 2 --beta 0.04"
        arguments += ["--rewards", rewards, *sampling.split(), *training.split()]
    script.main(arguments)

    # The prompts of `watch` are sampled before and after the one step.
    sampled = []
    for path in sorted((record / "samples").glob("*/*.parquet")):
        traces = list(read_traces(path))
        sampled.append((len(traces), traces[0].training_step, traces[0].method))
    assert sampled == [(12, 0, "arm"), (12, 1, "arm")]

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == tiny_tokenizer().chat_template
    if script not in (grpo, rloo):  # a random model earns no reward to learn from
        assert moved(weights(trained_model()), model)
    else:
        (path,) = (record / "rollouts").glob("*/*.parquet")
        named_rewards = [set(trace.meta["rewards"]) for trace in read_traces(path)]
        assert named_rewards == [{"format", "correctness"}] * 2
