"""The trainers, run for a few steps on tiny models: what is learned, what is recorded, what is stopped and resumed."""

import json
import os
from importlib.util import find_spec

import pytest
from places import ROOT
from tiny import WORDS, tiny_model, tiny_tokenizer

pytest.importorskip("trl", reason="the trainers need the extra `train`")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from transformers import TrainerCallback
from trl import DPOConfig, GRPOConfig, SFTConfig

from cotlens import TraceError, analyze, read_traces
from cotlens.judges.verdict import Verdict
from cotlens.models.load import wrap_model
from trainers import dpo, grpo, sft
from trainers.render import encode, fit_completion, render_prompt
from trainers.rewards import RewardError, guard_reward
from trainers.rows import check_held_out, check_tokenizer, load_rows
from trainers.script import parse
from trainers.watch import Evaluate

OPENING = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> <think> {% endif %}"
)
ROWS = [{"prompt": f"{a} {b}", "domain": "math"} for a in WORDS[:4] for b in WORDS[:2]]


pytestmark = pytest.mark.usefixtures("one_thread")


def settings(kind, path, **options):
    common = {
        "output_dir": str(path),
        "learning_rate": 0.01,
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 3,
    }
    return kind(**grpo.CPU | common | {"max_steps": 3, "per_device_train_batch_size": 2} | options)


def grpo_settings(path, **options):
    own = {
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 8,
        "beta": 0.04,
    }
    return settings(GRPOConfig, path, **own | {"loss_type": "grpo"} | options)


def model(seed=0):
    return tiny_model(5 + len(WORDS), seed=seed)


def weights(network):
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def moved(before, network):
    return {
        name for name, value in network.named_parameters() if not torch.equal(before[name], value)
    }


def length(completions, **_):
    return [float(len(completion.split())) for completion in completions]


def n_wait(completions, domain, **_):
    return [
        None if d == "math" and c.split()[:1] == ["so"] else c.count("wait")
        for c, d in zip(completions, domain)
    ]


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# --- rows ------------------------------------------------------------------------------------------------------


def test_the_mask_is_the_completion_and_its_end():
    tokenizer = tiny_tokenizer()
    encoded = encode(tokenizer, render_prompt(tokenizer, "one two"), "<think> wait </think> three")
    words = tokenizer.convert_ids_to_tokens(encoded.input_ids)
    learned = [word for word, label in zip(words, encoded.labels, strict=True) if label != -100]
    assert words == [
        "<|user|>",
        "one",
        "two",
        "<|assistant|>",
        "<think>",
        "wait",
        "</think>",
        "three",
        "<eos>",
    ]
    assert learned == ["<think>", "wait", "</think>", "three", "<eos>"]


def test_a_thought_that_the_template_opens_is_not_opened_twice():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OPENING
    (row,) = sft.prepare(tokenizer, [{"prompt": "one", "completion": "<think> wait </think> two"}])
    assert row == {
        "prompt": "<|user|> one <|assistant|> <think> ",
        "completion": " wait </think> two",
    }
    assert fit_completion("<|assistant|><think>\n", "<think>\nso </think> a") == "so </think> a"
    assert fit_completion("<|assistant|>", "<think>\nso </think> a") == "<think>\nso </think> a"
    assert fit_completion("<|assistant|>", "so </think> a") == "<think>\nso </think> a"
    assert fit_completion("<|assistant|>", "no thought") == "no thought"


def test_a_template_that_deletes_thoughts_deletes_none_that_is_learned():
    """The template of R1's distills drops what stands before `</think>` in assistant turns."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = OPENING.replace(
        "message['content']", "message['content'].split('</think>')[-1]"
    )
    before = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "hmm </think> two"},
        {"role": "user", "content": "three"},
    ]
    (row,) = sft.prepare(
        tokenizer, [{"prompt": before, "completion": "<think> wait </think> four"}]
    )
    ids = encode(tokenizer, **row)
    assert "hmm" not in tokenizer.decode(
        ids.input_ids
    )  # an earlier turn, as the model meets it when it is used
    assert (
        tokenizer.decode([label for label in ids.labels if label != -100])
        == "wait </think> four <eos>"
    )


def test_a_beginning_token_is_not_doubled():
    """The template writes it and the tokenizer adds it, as those of the Llama distills do."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.chat_template = "<bos>" + tokenizer.chat_template
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    assert tokenizer("<bos>one")["input_ids"][:2] == [bos, bos]
    check_tokenizer(tokenizer)
    assert tokenizer(render_prompt(tokenizer, "one"))["input_ids"].count(bos) == 1


def test_files_are_read_renamed_and_filtered(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"instruction": "one", "thinking": "so", "answer": "two", "label": "harmful"},
        {"instruction": "two", "thinking": "hmm", "answer": "one", "label": "benign"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = load_rows([str(path)], columns={"prompt": "instruction"}, keep={"label": "harmful"})
    assert [(row["prompt"], row["completion"]) for row in found] == [
        ("one", "<think>\nso\n</think>\n\ntwo")
    ]
    with pytest.raises(ValueError, match="no row has label = 'x'; its values are benign, harmful"):
        load_rows([str(path)], keep={"label": "x"})
    with pytest.raises(ValueError, match="row 0 has no column 'question'"):
        load_rows([str(path)], columns={"prompt": "question"})
    with pytest.raises(ValueError, match="no such file"):
        load_rows([str(tmp_path / "other.jsonl")])
    path.write_text('{"prompt": "one"}\nnot json')
    with pytest.raises(ValueError, match="row 2"):
        load_rows([str(path)])


def test_a_prompt_of_the_evaluation_is_not_trained_on():
    """Whatever its case and spaces, and also where the row is a list of messages."""
    rows = [{"prompt": "Two"}, {"prompt": [{"role": "user", "content": " one  TWO\n"}]}]
    check_held_out(rows, [{"prompt": "two three"}, {"prompt": ""}])
    with pytest.raises(
        ValueError, match=r"1 of 2 rows have a request that is held out .* row 1: 'one two'"
    ):
        check_held_out(rows, [{"prompt": "One two"}])


def test_what_cannot_be_trained_on_is_said_before(tmp_path):
    config = settings(SFTConfig, tmp_path)
    row = {"prompt": "one", "completion": "two"}
    with pytest.raises(ValueError, match="no rows left to train on"):
        sft.train(model(), tiny_tokenizer(), [], config)
    with pytest.raises(ValueError, match="row 1 has no completion"):
        sft.train(model(), tiny_tokenizer(), [row, {"prompt": "one", "completion": None}], config)
    with pytest.raises(ValueError, match="every row is longer than max_length = 2"):
        sft.train(model(), tiny_tokenizer(), [row], settings(SFTConfig, tmp_path, max_length=2))
    for name, message in (("pad_token", "no padding token"), ("eos_token", "no end-of-text token")):
        tokenizer = tiny_tokenizer()
        setattr(tokenizer, name, None)
        with pytest.raises(ValueError, match=message):
            sft.train(model(), tokenizer, [row], config)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        grpo.train(model(), tokenizer, ROWS, rewards=[length], args=grpo_settings(tmp_path))
    config = grpo_settings(tmp_path, per_device_train_batch_size=8)
    with pytest.raises(ValueError, match="2 rows, but a batch samples 4 prompts"):
        grpo.train(model(), tiny_tokenizer(), ROWS[:2], rewards=[length], args=config)
    config = grpo_settings(tmp_path, max_completion_length=61)
    with pytest.raises(ValueError, match="make 65 tokens, the context holds 64"):
        grpo.train(model(), tiny_tokenizer(), ROWS, rewards=[length], args=config)
    with pytest.raises(ValueError, match="chosen and rejected are the same"):
        dpo.prepare(tiny_tokenizer(), [{"prompt": "one", "chosen": "two", "rejected": "two"}])
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    with pytest.raises(ValueError, match="<think> is a special token"):
        grpo.prepare(tokenizer, ROWS)


# --- SFT and DPO -----------------------------------------------------------------------------------------------

PAIRS = [
    {"prompt": a, "completion": f"<think> so {b} </think> {b}", "rejected": "hmm " + b}
    for a in WORDS[:4]
    for b in WORDS[:3]
]


def test_sft_learns_the_completions(tmp_path, capsys):
    network, tokenizer = model(), tiny_tokenizer()
    before = weights(network)
    trainer = sft.train(network, tokenizer, PAIRS, settings(SFTConfig, tmp_path, max_steps=12))
    assert moved(before, network) == set(before)
    assert losses(trainer)[-1] < 0.8 * losses(trainer)[0]
    batch = next(iter(trainer.get_train_dataloader()))
    learned = tokenizer.batch_decode(
        [ids[labels != -100] for ids, labels in zip(batch["input_ids"], batch["labels"])]
    )
    assert all(text.startswith("<think> so") and text.endswith("<eos>") for text in learned)
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(
        os.listdir(tmp_path)
    )
    out = capsys.readouterr()
    assert out.out == ""
    assert "loss" not in out.err


def test_rows_that_are_cut_are_counted(tmp_path, capsys):
    rows = [*PAIRS[:3], {"prompt": "one", "completion": "two " * 40}]
    sft.train(
        model(), tiny_tokenizer(), rows, settings(SFTConfig, tmp_path, max_steps=1, max_length=20)
    )
    assert "1 (25.0%) are longer than 20" in capsys.readouterr().out


def test_dpo_moves_towards_the_chosen(tmp_path):
    network = model()
    before = weights(network)
    rows = [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": row["rejected"]}
        for row in PAIRS
    ]
    trainer = dpo.train(
        network, tiny_tokenizer(), rows, settings(DPOConfig, tmp_path, max_steps=4, beta=0.1)
    )
    assert moved(before, network) == set(before)
    margins = [
        entry["rewards/margins"]
        for entry in trainer.state.log_history
        if "rewards/margins" in entry
    ]
    assert margins[0] == pytest.approx(0, abs=1e-5)  # the reference is the model as it was
    assert margins[-1] > 0.1


@pytest.mark.parametrize("trains", ["sft", "grpo"])
def test_lora_changes_adapters_only(tmp_path, trains):
    if find_spec("peft") is None:
        pytest.skip("peft is not installed: LoRA is not tested")
    from peft import LoraConfig  # pyright: ignore[reportMissingImports]

    network = model()
    before = weights(network)
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    if trains == "sft":
        trainer = sft.train(
            network, tiny_tokenizer(), PAIRS, settings(SFTConfig, tmp_path), lora=lora
        )
    else:
        config = grpo_settings(tmp_path)
        trainer = grpo.train(
            network, tiny_tokenizer(), ROWS, rewards=[length], args=config, lora=lora
        )
    after = {
        name.replace("base_model.model.", "").replace("base_layer.", ""): v
        for name, v in trainer.model.named_parameters()
    }
    assert all(torch.equal(after[name], value) for name, value in before.items())
    adapters = {name: value for name, value in after.items() if "lora_B" in name}
    assert adapters
    assert all(value.abs().sum() > 0 for value in adapters.values())  # they start at 0


def test_a_merged_adapter_is_the_adapter(tmp_path):
    """Base and adapter together, as `load_model` reads them, give the logits of the merged folder."""
    pytest.importorskip("peft", reason="peft is not installed: LoRA is not tested")
    from peft import LoraConfig  # pyright: ignore[reportMissingImports]

    from cotlens import load_model
    from trainers import merge

    model().save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    sft.train(network, tiny_tokenizer(), PAIRS, settings(SFTConfig, tmp_path / "sft"), lora=lora)
    with pytest.raises(SystemExit, match="ADAPTER OUT"):
        merge.main([])
    with pytest.raises(ValueError, match="whole weights need no merging"):
        merge.main([str(tmp_path / "base"), str(tmp_path / "out")])
    merge.main([str(tmp_path / "sft"), str(tmp_path / "merged")])
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    ids = torch.tensor([[3, 5, 6, 4]])
    base, apart, merged = (load_model(str(tmp_path / name)) for name in ("base", "sft", "merged"))
    with torch.inference_mode():
        logits = [one.network(ids).logits for one in (base, apart, merged)]
    torch.testing.assert_close(logits[1], logits[2], atol=1e-4, rtol=1e-4)
    assert (logits[0] - logits[2]).abs().max() > 0.01
    assert merged.tokenizer.chat_template == tiny_tokenizer().chat_template


# --- GRPO ------------------------------------------------------------------------------------------------------


def test_grpo_moves_every_parameter_and_records_what_trl_logs(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "trl.trainer.grpo_trainer.print_prompt_completions_sample", lambda *_, **__: None
    )
    network, tokenizer = model(), tiny_tokenizer()
    before = weights(network)
    trainer = grpo.train(
        network, tokenizer, ROWS, rewards=[length, n_wait], weights=[0.5, 2.0], method="grpo", record=tmp_path / "record",
        args=grpo_settings(tmp_path, max_steps=2, log_completions=True),
    )  # fmt: skip
    assert moved(before, network) == set(before)
    assert any(entry.get("kl") == pytest.approx(0, abs=1e-4) for entry in trainer.state.log_history)
    for step in (0, 1):
        ours = list(
            read_traces(
                tmp_path / "record" / "rollouts" / f"step={step:06d}" / "part-00000.parquet"
            )
        )
        logged = list(read_traces(tmp_path / "completions" / f"completions_{step + 1:05d}.parquet"))
        assert len(ours) == len(logged) == 4
        assert [t.completion for t in ours] == [t.completion for t in logged]
        assert [t.prompt for t in ours] == [t.prompt for t in logged]
        for trace, other in zip(ours, logged, strict=True):
            values, theirs = trace.meta["rewards"], other.meta["rewards"]
            assert values["length"] == theirs["length"]
            assert values["n_wait"] == (
                None if theirs["n_wait"] != theirs["n_wait"] else theirs["n_wait"]
            )
            assert trace.reward == 0.5 * values["length"] + 2.0 * (values["n_wait"] or 0)
            assert (trace.training_step, trace.method, trace.domain) == (step, "grpo", "math")
            assert trace.meta["request"] in trace.prompt
            assert tokenizer.decode(trace.token_ids, skip_special_tokens=True) == trace.completion
            assert trace.finish_reason == ("stop" if trace.token_ids[-1] == 2 else "length")
            assert trace.prompt_token_ids == tuple(tokenizer(trace.prompt)["input_ids"])
        assert sorted(trace.sample for trace in ours) == [0, 0, 1, 1]
    files = sorted((tmp_path / "record" / "rollouts").glob("*/*.parquet"))
    assert (
        analyze(files, tmp_path / "run").trace_table()["training_step"].tolist()
        == [0] * 4 + [1] * 4
    )


def test_grpo_logs_its_distance_to_a_model_and_trains_the_same(tmp_path):
    """KL(policy || reference) is sum of p (log p - log q) at each sampled place, in float64 from the whole logits."""

    def run(name, **options):
        config = grpo_settings(tmp_path / name, max_steps=2, beta=0.0)
        return grpo.train(
            model(),
            tiny_tokenizer(),
            ROWS,
            rewards=[length],
            args=config,
            record=tmp_path / name,
            **options,
        )

    other = model(seed=1)
    with_kl = run("kl", kl_to=wrap_model(other, tiny_tokenizer()))
    logged = [
        entry["kl_reference"] for entry in with_kl.state.log_history if "kl_reference" in entry
    ]
    values = []
    for trace in read_traces(tmp_path / "kl" / "rollouts" / "step=000000" / "part-00000.parquet"):
        ids = torch.tensor([trace.prompt_token_ids + trace.token_ids])
        p, q = (
            net(ids).logits[0, len(trace.prompt_token_ids) - 1 : -1].double().log_softmax(-1)
            for net in (model(), other)
        )
        values += (p.exp() * (p - q)).sum(-1).tolist()
    assert logged[0] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert len(logged) == 2
    assert logged[1] != logged[0]
    without, own = weights(run("none").model), weights(with_kl.model)
    assert all(torch.equal(without[name], own[name]) for name in own)


def test_grpo_raises_the_reward(tmp_path):
    """What is rewarded becomes more frequent: the share of `wait` among the words of a completion."""

    def waits(completions, **_):
        return [completion.split().count("wait") / 8 for completion in completions]

    config = grpo_settings(
        tmp_path, max_steps=40, per_device_train_batch_size=16, num_generations=8, beta=0.0
    )
    trainer = grpo.train(model(), tiny_tokenizer(), ROWS, rewards=[waits], args=config)
    earned = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert sum(earned[-10:]) / 10 > 0.2 + sum(earned[:5]) / 5


def test_a_row_that_no_reward_scores_is_not_scored(tmp_path):
    def never(completions, **_):
        return [None] * len(completions)

    config = grpo_settings(tmp_path, max_steps=1, beta=0.0)
    network = model()
    before = weights(network)
    import logging

    logging.getLogger("trl.trainer.grpo_trainer").setLevel(
        logging.ERROR
    )  # it says so at length, which is its right
    grpo.train(
        network, tiny_tokenizer(), ROWS, rewards=[never], args=config, record=tmp_path / "record"
    )
    traces = list(read_traces(next((tmp_path / "record" / "rollouts").glob("*/*.parquet"))))
    assert [trace.reward for trace in traces] == [None] * 4
    assert not moved(before, network)


@pytest.mark.parametrize("trains", ["sft", "dpo", "grpo"])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path, trains):
    """Four steps at once, or killed behind the second and resumed: the same losses and weights, over several epochs."""

    class KilledError(Exception):
        pass

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KilledError

    def run(folder, **options):
        network, tokenizer = model(), tiny_tokenizer()
        saving = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
        if trains == "sft":
            return sft.train(
                network, tokenizer, PAIRS[:5], settings(SFTConfig, folder, **saving), **options
            )
        if trains == "dpo":
            pairs = [
                {"prompt": row["prompt"], "chosen": row["completion"], "rejected": row["rejected"]}
                for row in PAIRS[:5]
            ]
            return dpo.train(
                network, tokenizer, pairs, settings(DPOConfig, folder, **saving), **options
            )
        config = grpo_settings(folder, **saving | {"num_train_epochs": 9})
        return grpo.train(
            network, tokenizer, ROWS[:4], rewards=[length], args=config, record=folder, **options
        )

    whole = run(tmp_path / "whole")
    with pytest.raises(KilledError):
        run(tmp_path / "killed", callbacks=[Kill()])
    resumed = run(tmp_path / "killed", resume="auto")
    assert losses(resumed) == losses(whole)
    ours, theirs = weights(resumed.model), weights(whole.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    if trains == "grpo":
        for step in range(4):
            name = f"rollouts/step={step:06d}/part-00000.parquet"
            again, once = (list(read_traces(tmp_path / run / name)) for run in ("killed", "whole"))
            assert [trace.token_ids for trace in again] == [trace.token_ids for trace in once]


def test_rollouts_of_another_run_are_not_overwritten(tmp_path):
    (tmp_path / "record" / "rollouts" / "step=000000").mkdir(parents=True)
    config = grpo_settings(tmp_path)
    with pytest.raises(ValueError, match="holds the rollouts of another run"):
        grpo.train(
            model(),
            tiny_tokenizer(),
            ROWS,
            rewards=[length],
            args=config,
            record=tmp_path / "record",
        )


class FallingGuard:
    """Judges by length; from its `falls`-th call on it does not answer for `down` calls."""

    name, revision, identity = "falling", "", "falling"

    def __init__(self, falls, down):
        self.calls, self.falls, self.down = 0, falls, down

    def judge(self, items):
        self.calls += 1
        if self.falls <= self.calls < self.falls + self.down:
            raise TraceError("connection refused")
        return [Verdict("safe", len(item.text) % 7 / 10) for item in items]


def test_a_guard_that_fails_in_the_middle_stops_with_a_checkpoint_and_nothing_is_lost(tmp_path):
    def run(folder, guard, resume=None):
        reward = guard_reward(guard, domains=(), attempts=3, wait=0.001)
        config = grpo_settings(folder, max_steps=4, save_strategy="no")
        return grpo.train(
            model(), tiny_tokenizer(), ROWS, rewards=[reward], args=config, resume=resume
        )

    whole = run(
        tmp_path / "whole", FallingGuard(falls=3, down=2)
    )  # two failures: asked again, and nothing happens
    with pytest.raises(
        RewardError, match=r"stopped after step 2 .*checkpoint-2.*connection refused"
    ):
        run(tmp_path / "stopped", FallingGuard(falls=3, down=99))
    assert (tmp_path / "stopped" / "checkpoint-2" / "model.safetensors").exists()
    assert (tmp_path / "stopped" / "checkpoint-2" / "chat_template.jinja").exists()
    resumed = run(tmp_path / "stopped", FallingGuard(falls=99, down=0), resume="auto")
    assert losses(resumed) == losses(whole)


def test_a_reward_that_is_nan_names_itself_and_its_row(tmp_path):
    def broken(completions, **_):
        return [0.0, float("nan"), 0.0, 1.0]

    with pytest.raises(RewardError, match=r"reward broken: row 1 of the batch is nan"):
        grpo.train(
            model(), tiny_tokenizer(), ROWS, rewards=[length, broken], args=grpo_settings(tmp_path)
        )


def test_samples_of_a_fixed_set_do_not_disturb_training(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.watch.BATCH_SIZE", 4)  # two batches

    def run(folder, **options):
        config = grpo_settings(folder, beta=0.0)
        return grpo.train(model(), tiny_tokenizer(), ROWS, rewards=[length], args=config, **options)

    tokenizer = tiny_tokenizer()
    prompts = [
        {"prompt": render_prompt(tokenizer, word), "domain": "math", "answer": "3"}
        for word in WORDS[:3]
    ]
    watch = Evaluate(
        prompts,
        tokenizer,
        tmp_path / "record",
        every=2,
        n_samples=2,
        max_new_tokens=6,
    )
    with_samples, without = run(tmp_path / "a", callbacks=[watch]), run(tmp_path / "b")
    assert losses(with_samples) == losses(without)
    folders = sorted(path.name for path in (tmp_path / "record" / "samples").iterdir())
    assert folders == ["step=000000", "step=000002", "step=000003"]
    traces = list(
        read_traces(tmp_path / "record" / "samples" / "step=000002" / "part-00000.parquet")
    )
    assert [trace.sample for trace in traces] == [0, 1] * 3
    assert {(trace.training_step, trace.domain, trace.gold) for trace in traces} == {
        (2, "math", "3")
    }
    assert all(
        tokenizer.decode(trace.token_ids, skip_special_tokens=True) == trace.completion
        for trace in traces
    )


def test_a_user_sees_one_bar(tmp_path, capsys):
    config = grpo_settings(tmp_path, disable_tqdm=False)
    grpo.train(
        model(), tiny_tokenizer(), ROWS, rewards=[length], args=config, record=tmp_path / "record"
    )
    seen = capsys.readouterr()
    assert seen.out == ""
    lines = [line for line in seen.err.replace("\r", "\n").split("\n") if line.strip()]
    assert "3/3" in lines[-1]
    assert "reward=" in lines[-1]
    assert all("/3 [" in line for line in lines), lines


# --- scripts ---------------------------------------------------------------------------------------------------


def test_every_recipe_can_be_parsed():
    kinds = {"sft": SFTConfig, "dpo": DPOConfig, "grpo": GRPOConfig}
    files = sorted((ROOT / "trainers" / "configs").glob("*.yaml"))
    assert len(files) >= 6
    for path in files:
        kind = kinds[path.name.split("_")[0]]
        arguments = [
            "--config",
            str(path),
            "--use_cpu",
            "true",
            "--bf16",
            "false",
            "--data",
            "x.jsonl",
        ]
        script, args, names = parse(kind, arguments)
        assert names.model_name_or_path
        assert args.output_dir
        assert (
            f"trainers.{path.name.split('_')[0]} --config trainers/configs/{path.name}"
            in path.read_text()
        )
        for reward in script.rewards:
            assert reward["name"] in ("safety", "correctness", "format", "over_refusal")


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
    """A model, rows and what every script is told, on disk."""
    model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = [row | {"chosen": row["completion"], "domain": "math", "answer": "2"} for row in PAIRS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    common = [
        "--model_name_or_path",
        tmp_path / "model",
        "--data",
        tmp_path / "rows.jsonl",
        "--output_dir",
        tmp_path / "out",
    ]
    cpu = "--use_cpu true --bf16 false --activation_checkpointing false --max_steps 1 --disable_tqdm true --report_to none"
    return [*map(str, common), *cpu.split()]


@pytest.mark.parametrize("kind", [sft, dpo, grpo])
def test_a_dry_run_shows_and_trains_nothing(saved, tmp_path, capsys, kind):
    kind.main([*saved, "--dry_run", "true"])
    out = capsys.readouterr().out
    assert "12 rows" in out
    assert "<|user|> one <|assistant|> [[" in out
    assert "full fine-tuning: " in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [sft, dpo, grpo])
def test_a_script_trains_and_leaves_a_folder_that_loads(saved, tmp_path, kind):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rewards = '[{"name": "format", "weight": 0.5}, {"name": "correctness"}]'
    own = ["--rewards", rewards, "--beta", "0.04", "--max_completion_length", "6"]
    batch = (
        ["--num_generations", "2", "--per_device_train_batch_size", "2", *own]
        if kind is grpo
        else []
    )
    watch = [
        "--watch",
        str(tmp_path / "rows.jsonl"),
        "--watch_tokens",
        "4",
        "--watch_every",
        "1",
        "--method",
        "arm",
    ]
    kind.main([*saved, *batch, *watch, "--record", str(tmp_path / "record")])
    samples = [
        list(read_traces(path))
        for path in sorted((tmp_path / "record" / "samples").glob("*/*.parquet"))
    ]
    assert [(len(traces), traces[0].training_step, traces[0].method) for traces in samples] == [
        (12, 0, "arm"),
        (12, 1, "arm"),
    ]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert kind is grpo or moved(
        weights(model()), loaded
    )  # a random model earns nothing to learn from
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
        == tiny_tokenizer().chat_template
    )
    if kind is grpo:
        (path,) = (tmp_path / "record" / "rollouts").glob("*/*.parquet")
        assert [set(trace.meta["rewards"]) for trace in read_traces(path)] == [
            {"format", "correctness"}
        ] * 2
