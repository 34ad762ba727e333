"""Samples of a fixed set of prompts while a model trains."""

import pytest
from tiny import QUESTIONS, WORDS, grpo_settings, length, losses, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from cotlens import read_traces
from trainers import grpo
from trainers.render import render_prompt
from trainers.watch import Evaluate

pytestmark = pytest.mark.usefixtures("one_thread")


def test_samples_of_a_fixed_set_do_not_disturb_training(tmp_path):
    def run(folder, **options):
        config = grpo_settings(folder, beta=0.0)
        return grpo.train(
            trained_model(), tiny_tokenizer(), QUESTIONS, rewards=[length], args=config, **options
        )

    tokenizer = tiny_tokenizer()
    prompts = []
    for word in WORDS[:3]:
        prompt = render_prompt(tokenizer, word)
        prompts.append({"prompt": prompt, "domain": "math", "answer": "3"})
    record = tmp_path / "record"
    evaluate = Evaluate(prompts, tokenizer, record, every=2, n_samples=2, max_new_tokens=6)

    watched = run(tmp_path / "watched", callbacks=[evaluate])
    alone = run(tmp_path / "alone")
    assert losses(watched) == losses(alone)

    # Before the first step, every two, and after the last.
    folders = sorted(path.name for path in (record / "samples").iterdir())
    assert folders == ["step=000000", "step=000002", "step=000003"]

    traces = list(read_traces(record / "samples" / "step=000002" / "part-00000.parquet"))
    assert [trace.sample for trace in traces] == [0, 1] * 3
    for trace in traces:
        assert (trace.training_step, trace.domain, trace.gold) == (2, "math", "3")
        text_ids = trace.token_ids[:-1] if trace.token_ids[-1] == 2 else trace.token_ids
        assert tokenizer.decode(text_ids) == trace.completion
