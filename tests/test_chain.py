"""One chain: two checkpoints by two trainers, their traces, scores and verdicts, a study, a notebook."""

import json
import sys

import pytest
from places import ROOT
from serving import served
from tiny import byte_tokenizer, grpo_settings, settings, tiny_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")
pytest.importorskip("openai", reason="`transformers serve` needs the extra `dev`")

from trl import SFTConfig

import cotlens as ct
from cotlens.judges.endpoint import EndpointGuard
from trainers import grpo, sft
from trainers.pocket import base

sys.path.insert(0, str(ROOT / "notebooks"))
from build import execute

pytestmark = pytest.mark.usefixtures("one_thread")

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>{% endif %}"
)
QUESTIONS = [
    {"id": f"q{number}", "prompt": f"What is {number} + 1?", "domain": "math", "gold": number + 1}
    for number in range(4)
]


def length(completions, **_):
    return [float(len(completion)) for completion in completions]


@pytest.mark.filterwarnings("default")
def test_from_two_trainers_to_a_notebook(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.pad_token = tokenizer.eos_token
    network = tiny_model(len(tokenizer), "Qwen3", max_position_embeddings=512)

    # Two checkpoints: SFT, and GRPO from there.
    pairs = []
    for row in QUESTIONS:
        answer = f"One more than {row['gold'] - 1}. Wait, let me check.</think>{row['gold']}"
        pairs.append({"prompt": row["prompt"], "completion": answer})
    sft.train(network, tokenizer, pairs, settings(SFTConfig, tmp_path / "sft", max_steps=2))
    checkpoint = ct.load_model(str(tmp_path / "sft"), device="cpu")
    grpo.train(
        checkpoint.network,
        tokenizer,
        QUESTIONS,
        rewards=[length],
        args=grpo_settings(tmp_path / "grpo", max_steps=1),
        record=tmp_path / "record",
    )

    # What GRPO trained on is read as it was drawn: ids, and where their tokens begin.
    rollouts = list(ct.read_traces(sorted((tmp_path / "record").rglob("*.parquet"))))
    assert rollouts
    assert all(len(trace.token_starts) == len(trace.token_ids) for trace in rollouts)

    # Traces, a run and scores of each.
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    runs = []
    for arm in ("sft", "grpo"):
        model = ct.load_model(str(tmp_path / arm), device="cpu")
        folder = ct.generate(
            prompts, model, tmp_path / f"{arm}-traces", n=2, max_new_tokens=48, method=arm
        )
        run = ct.analyze(folder, tmp_path / "runs" / arm)
        ct.score(run, model)
        assert run.score_info()["n_inexact"] == 0
        runs.append(run)

    # A judge behind a real server: the pocket model's nonsense is undecided, and is counted.
    pocket = tmp_path / "pocket"
    base.train_base(pocket, seed=0, scale=base.TINY, prompts_seed=0, held_out=frozenset())
    with served(pocket) as url:
        judge = EndpointGuard(url, str(pocket), timeout=60, max_tokens=8)
        for run in runs:
            ct.judge_run(run, judge, parts=["answer"], name="pocket")
    counts = runs[0].judge_info("pocket")["counts"]["answer"]
    assert sum(counts.values()) == 8

    # A study of both, and the notebook on it.
    study = ct.compare_runs(runs, tmp_path / "study", base="sft")
    assert set(study.samples()["arm"]) == {"sft", "grpo"}
    notebook = execute(
        ROOT / "notebooks" / "04_safety_and_reasoning.py", [f"STUDY={tmp_path / 'study'}"]
    )
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]
