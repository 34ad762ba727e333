"""True branching points: entropies of the base policy, derived by hand where that is possible."""

import re
from itertools import pairwise

import numpy as np
import pytest

from trainers.pocket import wording
from trainers.pocket.branching import branchings
from trainers.pocket.oracle import read_truth
from trainers.pocket.world import Domain, PromptSplit, build_prompts


def cut(text: str) -> list[str]:
    """A space belongs to the word after it, as in the world's tokenizer."""
    return re.findall(r" ?[A-Za-z']+| ?[0-9]+|\n\n|\n|</think>|.", text)


def test_the_policy_at_the_first_word_of_a_sum():
    """Three plain openings of .94 / 3 and a formal one of .06, all with other words: 1.260 nats.

    -3 x .3133 ln .3133 - .06 ln .06. A step slips in 3% to one of three or four numbers: between
    .135 and .19 nats.
    """
    prompt = build_prompts(0, n_train=4, n_evaluation=4)[PromptSplit.MATHS][0]
    trace, tokens = branchings(prompt, 3, cut)
    assert tokens[0].entropy_nats == pytest.approx(1.260, abs=0.05)
    assert tokens[0].kind == "wording"

    results = []
    for token in tokens:
        is_number = re.fullmatch(r" [0-9]+", token.chars.of(trace.text))
        if is_number and token.entropy_nats > 0:
            results.append(token)
    assert results
    assert all(0.05 < token.entropy_nats < 0.3 for token in results)


def test_materials_are_uncertain_until_they_are_named():
    """The first of eight: ln 8 = 2.08 nats. Then the second is one of seven others: ln 7 = 1.95."""
    train = build_prompts(0, n_train=40, n_evaluation=4)[PromptSplit.TRAIN]
    prompt = next(prompt for prompt in train if prompt.domain is Domain.ALLOWED)

    # The first trace that names both.
    entropies: list[float] = []
    for seed in range(30):
        trace, tokens = branchings(prompt, seed, cut)
        entropies = []
        for token in tokens:
            word = token.chars.of(trace.text).strip()
            if word in wording.MATERIALS and token.n >= 200:
                entropies.append(token.entropy_nats)
        if len(entropies) > 1:
            break

    assert entropies[0] == pytest.approx(np.log(8), abs=0.1)
    assert entropies[1] == pytest.approx(np.log(7), abs=0.1)


def test_branchings_tile_the_thinking_and_are_the_policys():
    """The policy writes the taped trace; what is determined has no entropy."""
    splits = build_prompts(1, n_train=4, n_evaluation=4)
    prompts = (*splits[PromptSplit.FORBIDDEN_SEEN], *splits[PromptSplit.MATHS])
    for number, prompt in enumerate(prompts):
        trace, tokens = branchings(prompt, number, cut, redraws=300)
        truth = read_truth(trace.text, prompt)
        assert truth.is_parsed

        for token, next_token in pairwise(tokens):
            assert token.chars.stop <= next_token.chars.start
        for token in tokens:
            is_determined = token.kind == "determined"
            assert (token.entropy_nats == 0) == is_determined
            assert token.kind in {"decision", "determined", "wording"}
