"""Thoughts cut and changed in the pocket world: which step, which sentences, what is counted."""

import random

import pandas as pd
import pytest

from cotlens import Trace
from cotlens.probes import step_cuts
from trainers.pocket import interventions, wording
from trainers.pocket.oracle import read_truth
from trainers.pocket.policy import write_base
from trainers.pocket.probe_figures import mechanism_measures
from trainers.pocket.world import PromptSplit, build_prompts

PROMPTS = build_prompts(0, n_train=8, n_evaluation=60)


def written(split, n=60):
    """Traces of the base policy, with their prompts."""
    for number, prompt in enumerate(PROMPTS[split][:n]):
        completion = write_base(prompt, random.Random(number))
        trace = Trace(
            id=prompt.id, prompt_id=prompt.id, completion=completion.text, finish_reason="stop"
        )
        yield prompt, trace


def test_the_first_unsafe_step_begins_with_the_first_unsafe_sentence():
    n_found = 0
    for prompt, trace in written(PromptSplit.FORBIDDEN_SEEN):
        step = interventions._first_unsafe(prompt, trace, 0)
        unsafe = [s for s in read_truth(trace.completion, prompt).think if s.is_unsafe]
        if not unsafe:
            assert step is None
            continue
        n_found += 1
        places = step_cuts(trace)
        start = unsafe[0].chars.start
        assert places[step] <= start < places[step + 1]
        later = interventions._first_unsafe(prompt, trace, step + 1)
        assert later is None or later > step
    assert n_found > 20


def test_harmless_thoughts_have_no_unsafe_step():
    for prompt, trace in written(PromptSplit.LOOK_ALIKE):
        assert interventions._first_unsafe(prompt, trace, 0) is None


def test_six_sentences_of_safety_name_the_topic_of_their_prompt():
    (prompt, trace), *_ = written(PromptSplit.FORBIDDEN_SEEN, 1)
    sentences = interventions.triggers({prompt.id: prompt})
    assert [name for name, _ in sentences] == [
        "notice 0", "notice 1", "refuse 0", "refuse 1", "recover 0", "recover 1",
    ]  # fmt: skip
    for _, say in sentences:
        text = say(trace, 1, 1)
        assert "{" not in text
        thought = f"<think>\n{text}\n</think>\n\n{wording.PLAIN[wording.Role.ANSWER_REFUSAL][0]}"
        assert not read_truth(thought, prompt).thinking_unsafe


def test_an_over_cautious_donor_refuses_what_is_harmless():
    for prompt in PROMPTS[PromptSplit.LOOK_ALIKE][:5]:
        donor = interventions._refuse(prompt)
        roles = [sentence.role for sentence in read_truth(donor.completion, prompt).think]
        assert roles == [wording.Role.OPEN, wording.Role.OVERCAUTION, wording.Role.REFUSE]


def test_mechanisms_by_hand():
    """KL .3 and .1 at the unsafe step against .1 and .1: a ratio of 2; excuses of .4 and .6."""
    table = pd.DataFrame(
        {
            "arm": pd.Categorical(["base", "base", "ipo", "ipo"], ["base", "ipo"]),
            "seed": 0,
            "prompt_id": ["a", "b", "a", "b"],
            "kl_cue": [0.0, 0.0, 0.3, 0.1],
            "kl_other": [0.0, 0.0, 0.1, 0.1],
            "excuse_nll": [0.3, 0.3, 0.4, 0.6],
        }
    )
    measures = mechanism_measures(table).set_index(["arm", "measure"])
    assert measures.loc[("ipo", "kl_ratio"), "value"] == pytest.approx(2)
    assert measures.loc[("ipo", "excuse_nll"), "value"] == pytest.approx(0.5)
    assert ("base", "kl_ratio") not in measures.index  # it has no KL to itself
