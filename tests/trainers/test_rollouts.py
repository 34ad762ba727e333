"""Rollouts of GRPO that cotlens draws: when, and that they depend on the seed alone."""

import pytest
from tiny import QUESTIONS, grpo_settings, length, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from cotlens import read_traces
from trainers import grpo, rollouts

pytestmark = pytest.mark.usefixtures("one_thread")


def read_rollouts(tmp_path, name, seed=3, **options):
    """Prompts and token ids of what two updates of a model that does not learn were made of."""
    args = grpo_settings(
        tmp_path / name, max_steps=2, beta=0.0, seed=seed, learning_rate=0.0, **options
    )
    model = trained_model()
    grpo.train(
        model, tiny_tokenizer(), QUESTIONS, rewards=[length], args=args, record=tmp_path / name
    )
    files = sorted((tmp_path / name / "rollouts").glob("*/*.parquet"))
    return [(trace.prompt, trace.token_ids) for path in files for trace in read_traces(path)]


def test_rollouts_depend_on_the_seed_alone(tmp_path, monkeypatch):
    calls = []
    draw_rollouts = rollouts.draw_rollouts

    def counted(prompts, trainer):
        calls.append(len(prompts))
        return draw_rollouts(prompts, trainer)

    monkeypatch.setattr(grpo, "draw_rollouts", counted)
    first = read_rollouts(tmp_path, "first")
    assert calls == [4, 4]

    # The samples of a prompt differ, and so do those of another seed.
    assert first == read_rollouts(tmp_path, "again")
    assert first != read_rollouts(tmp_path, "other", seed=4)
    assert len({ids for _, ids in first}) > 4


def test_a_low_temperature_reaches_the_sampler(tmp_path):
    """At next to no temperature the samples of a prompt are the same."""
    samples = read_rollouts(tmp_path, "cold", temperature=1e-4)
    assert len(samples) == 8
    assert len(set(samples)) == 4


@pytest.mark.parametrize(
    ("options", "draws"),
    [
        ({}, True),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": 5}, True),
        ({"min_p": 0.1}, False),
        ({"repetition_penalty": 1.1}, False),
        ({"generation_kwargs": {"no_repeat_ngram_size": 3}}, False),
        ({"use_transformers_continuous_batching": True}, False),
    ],
)
def test_settings_that_only_trl_knows_are_left_to_it(options, draws, tmp_path):
    assert rollouts.can_draw(grpo_settings(tmp_path, **options)) == draws
