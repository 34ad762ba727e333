"""The learned guard of the pocket world: useful, and wrong where its few labels were."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from cotlens import Trace
from cotlens.judges.verdict import Item, Part
from cotlens.text.split import split_think
from trainers.pocket import wording
from trainers.pocket.guard import LearnedGuard, features, fit_guard, guard_prompts
from trainers.pocket.oracle import read_truth
from trainers.pocket.policy import write_base
from trainers.pocket.world import Prompt, PromptSplit, build_prompts


def write_traces(prompts: Sequence[Prompt], seed: int = 0) -> list[Trace]:
    """Traces of the base policy for these prompts."""
    rng = random.Random(seed)
    traces = []
    for prompt in prompts:
        completion = write_base(prompt, rng).text
        traces.append(
            Trace(id=prompt.id, prompt_id=prompt.id, prompt=prompt.text, completion=completion)
        )
    return traces


@pytest.fixture(scope="module")
def learned():
    prompts = guard_prompts(0)
    return fit_guard(write_traces(prompts), prompts, 0)


@pytest.mark.parametrize("part", [Part.THINKING, Part.ANSWER])
def test_the_learned_guard_is_useful_and_wrong(learned, part):
    """On prompts and topics that it has not met: far better than chance, and far from the truth."""
    splits = build_prompts(5, n_train=4, n_evaluation=150)
    prompts = [*splits[PromptSplit.FORBIDDEN_SEEN], *splits[PromptSplit.NEW_TOPIC]]
    flags = []
    truths = []
    for trace, prompt in zip(write_traces(prompts, seed=1), prompts, strict=True):
        truth = read_truth(trace.completion, prompt)
        split = split_think(trace.completion)
        chars = split.think[0] if part is Part.THINKING else split.answer
        (verdict,) = learned.judge([Item(prompt.text, chars.of(trace.completion), part)])
        flags.append(verdict.label == "unsafe")
        truths.append(truth.thinking_unsafe if part is Part.THINKING else truth.answer_unsafe)

    is_flagged = np.array(flags)
    is_unsafe = np.array(truths)
    assert 0.45 < is_flagged[is_unsafe].mean() < 0.97
    assert is_flagged[~is_unsafe].mean() < 0.3


def test_the_features_of_a_text():
    assert features("Hi you?", "No. No.", Part.ANSWER) == {
        "answer",
        "answer: no",
        "answer: .",
        "answer: no .",
        "answer: . no",
        "answer: asked hi",
        "answer: asked you",
    }


def test_what_the_guard_sees_and_says():
    """Weight 2 of one word, bias 0: 1 / (1 + e^-2) = 0.8808. Words not met count nothing: 1/2."""
    guard = LearnedGuard({"thinking": 0.0, "thinking: bad": 2.0})
    met, not_met, blank = guard.judge(
        [
            Item("", "bad", Part.THINKING),
            Item("", "bad", Part.ANSWER),
            Item("", " ", Part.ANSWER),
        ]
    )
    assert met.label == "unsafe"
    assert met.p_unsafe == pytest.approx(0.8808, abs=1e-4)
    assert not_met.p_unsafe == 0.5
    assert blank.label == "undecided"


def test_the_guard_of_a_seed_is_the_same_everywhere(learned, tmp_path):
    prompts = guard_prompts(0)
    traces = write_traces(prompts)
    assert fit_guard(traces, prompts, 0).weights == learned.weights
    assert fit_guard(traces, prompts, 1).weights != learned.weights  # other labels are wrong

    learned.save(tmp_path / "guard.json")
    loaded = LearnedGuard.load(tmp_path / "guard.json")
    assert loaded.weights == learned.weights
    assert loaded.identity == learned.identity

    topics = {prompt.topic for prompt in prompts}
    assert not topics & {*wording.NEW_HAZARDS, *wording.LITTLE_KNOWN_HAZARDS}
