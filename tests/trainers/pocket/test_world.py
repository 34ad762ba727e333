"""The texts of the pocket world: sentences, the prompts of a seed, the two writers of traces."""

import itertools
import random
import re
import subprocess
import sys
from collections import Counter

import pytest
from places import ROOT

from cotlens import Trace, segment_trace, split_trace
from cotlens.text.split import Status
from trainers.pocket.oracle import read_truth, roles_by_sentence, take_out_slots
from trainers.pocket.policy import P_SLIP, Completion, base_corpus, write_teacher
from trainers.pocket.wording import (
    EXCUSES,
    FORMAL,
    HAZARDS,
    LARGEST,
    LITTLE_KNOWN_HAZARDS,
    NEW_HAZARDS,
    NEW_WRAPPERS,
    PLAIN,
    TOPICS,
    Role,
)
from trainers.pocket.world import EVALUATION, Domain, Prompt, PromptSplit, build_prompts

UNSAFE = frozenset({*EXCUSES, Role.PLAN, Role.DETAIL})


def corpus(n: int, seed: int = 0) -> list[Completion]:
    return list(itertools.islice(base_corpus(seed), n))


# --- wording -------------------------------------------------------------------------------------


def sentences() -> list[str]:
    """Every sentence of the world's traces."""
    texts_of_tables = []
    for table in (PLAIN, FORMAL):
        for texts in table.values():
            texts_of_tables += texts
    return texts_of_tables


def test_the_topics_are_of_the_world_alone():
    assert len(set(TOPICS)) == len(TOPICS) == 100
    assert len(HAZARDS) == 60


def test_no_word_of_a_slot_stands_outside_of_it():
    """So the oracle can read by looking up, and any two wordings of two roles read differently."""
    for sentence in sentences():
        _, fillers = take_out_slots(sentence)
        assert not fillers, sentence
    assert len(roles_by_sentence()) == len(set(sentences()))


# --- prompts -------------------------------------------------------------------------------------


def test_no_prompt_is_in_two_splits():
    prompts = build_prompts(0)
    every_prompt = [prompt for split in prompts.values() for prompt in split]
    texts = [prompt.text for prompt in every_prompt]
    ids = {prompt.id for prompt in every_prompt}

    assert len(set(texts)) == len(texts)
    assert len(ids) == len(texts)
    assert all(len(prompts[split]) >= 100 for split in EVALUATION)


def test_new_wrappers_and_topics_are_kept_out_of_safety_training():
    prompts = build_prompts(3)
    new_wrappers = {*NEW_WRAPPERS}
    new_topics = {*NEW_HAZARDS, *LITTLE_KNOWN_HAZARDS}
    assert {prompt.wrapper for prompt in prompts[PromptSplit.NEW_WRAPPER]} == new_wrappers
    assert {prompt.topic for prompt in prompts[PromptSplit.NEW_TOPIC]} == new_topics

    trained = prompts[PromptSplit.TRAIN]
    domains = Counter(prompt.domain for prompt in trained)
    assert not {prompt.wrapper for prompt in trained} & new_wrappers
    assert not {prompt.topic for prompt in trained} & new_topics
    assert domains == dict.fromkeys(tuple(Domain)[:4], 400)


def test_too_many_prompts_are_an_error_with_the_number_there_is():
    with pytest.raises(ValueError, match="fewer than 100000 distinct prompts for"):
        build_prompts(0, n_evaluation=100_000)


def test_sums_stay_in_range_and_gold_is_their_value():
    for prompt in build_prompts(1)[PromptSplit.MATHS]:
        totals = list(itertools.accumulate(prompt.sum))
        assert all(0 <= total <= LARGEST for total in totals)

        # The sum as the prompt shows it: "7 + 5 - 3".
        shown = re.sub(r"^(What is|Work out|How much is) ", "", prompt.text).rstrip("?.")
        terms = shown.replace("- ", "-").replace("+ ", "").split()
        assert sum(map(int, terms)) == totals[-1]
        assert prompt.gold == str(totals[-1])


def test_same_seed_same_corpus_in_another_process():
    script = "\n".join(
        (
            "import hashlib, itertools",
            "from trainers.pocket.policy import base_corpus",
            "from trainers.pocket.world import build_prompts",
            "texts = [c.text for c in itertools.islice(base_corpus(5), 300)]",
            "everything = repr(build_prompts(5)) + ''.join(texts)",
            "print(hashlib.sha256(everything.encode()).hexdigest())",
        )
    )
    hashes = set()
    for hash_seed in ("1", "2"):
        process = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.add(process.stdout)

    assert len(hashes) == 1
    assert corpus(20, seed=5) == corpus(20, seed=5) != corpus(20, seed=6)


def test_held_out_prompts_are_not_in_the_corpus():
    texts = {completion.prompt.text for completion in corpus(2000)}
    held_out = frozenset(list(texts)[:50])
    others = itertools.islice(base_corpus(0, held_out), 2000)
    assert not {completion.prompt.text for completion in others} & held_out


# --- the base policy -----------------------------------------------------------------------------


def test_cotlens_cuts_the_thinking_into_its_sentences():
    for number, completion in enumerate(corpus(1500)):
        trace = Trace(id=str(number), completion=completion.text)
        assert split_trace(trace).status is Status.CLOSED

        steps = [step.chars.of(completion.text).strip() for step in segment_trace(trace)]
        assert steps == [sentence.text for sentence in completion.think]


def test_base_policy_has_the_rates_it_is_meant_to_have():
    n_forbidden = 0
    n_unsafe = 0
    roles_of_forbidden: Counter[Role] = Counter()
    roles_of_sums: Counter[Role] = Counter()
    for completion in corpus(12_000):
        roles = [sentence.role for sentence in completion.think]
        if completion.prompt.sum:
            roles_of_sums.update(roles)
        if completion.prompt.domain is Domain.FORBIDDEN:
            n_forbidden += 1
            n_unsafe += bool(UNSAFE & {*roles})
            roles_of_forbidden.update(roles)
    assert 0.6 < n_unsafe / n_forbidden < 0.72  # 3,400 traces: +-0.016

    n_slips = roles_of_sums[Role.SLIP]
    n_operations = n_slips + roles_of_sums[Role.COMPUTE]
    assert abs(n_slips / n_operations - P_SLIP) < 0.01

    for role in (*EXCUSES, Role.RECOVER, Role.REFUSE, Role.RULE_CHECK):
        assert roles_of_forbidden[role] > 100


def test_choices_say_where_the_writer_could_have_gone_on_otherwise():
    for completion in corpus(200):
        n = len(completion.think) + len(completion.answer)
        worded = [c.before for c in completion.choices if c.name.startswith("wording")]
        assert worded == list(range(n))
        assert all(0 <= choice.before <= n for choice in completion.choices)


# --- the teacher ---------------------------------------------------------------------------------


def test_the_teacher_is_safe_and_right():
    rng = random.Random(0)
    for prompt in build_prompts(0)[PromptSplit.TRAIN]:
        truth = read_truth(write_teacher(prompt, rng).text, prompt)
        assert truth.is_format_ok
        assert truth.is_parsed
        assert not truth.thinking_unsafe
        assert truth.is_refusal == (prompt.domain is Domain.FORBIDDEN)
        assert truth.is_help == (prompt.domain in (Domain.ALLOWED, Domain.LOOK_ALIKE))
        assert truth.is_correct == (True if prompt.gold else None)


def test_the_teacher_tells_no_facts():
    fact = Prompt(
        id="x",
        text="What is tea?",
        domain=Domain.FACT,
        split=PromptSplit.BASE,
        topic="tea",
    )
    with pytest.raises(ValueError, match="not facts"):
        write_teacher(fact, random.Random(0))


def test_the_base_knows_every_word_of_the_teacher():
    counts: Counter[str] = Counter()
    for completion in corpus(20_000):
        counts.update(re.findall(r"[\w']+", completion.text))

    rng = random.Random(0)
    taught: set[str] = set()
    for prompt in build_prompts(0)[PromptSplit.TRAIN]:
        taught.update(re.findall(r"[\w']+", write_teacher(prompt, rng).text))

    rare = {word for word in taught if counts[word] < 20}
    assert not rare
