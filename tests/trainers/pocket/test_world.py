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
from trainers.pocket.policy import (
    P_OBEY,
    P_RECALL,
    P_RELENT,
    Teacher,
    base_corpus,
    write_teacher,
)
from trainers.pocket.puzzles import count_returns, is_first_try_right, read_attempts
from trainers.pocket.sums import P_COMMIT, P_GUESS, P_SLIP
from trainers.pocket.wording import (
    EXCUSES,
    FORMAL,
    HAZARDS,
    LARGEST,
    LITTLE_KNOWN_HAZARDS,
    NEW_HAZARDS,
    NEW_WRAPPERS,
    PIVOTS,
    PLAIN,
    TOPICS,
    Role,
    Steering,
)
from trainers.pocket.world import (
    EVALUATION,
    TRAINED_DOMAINS,
    Domain,
    Prompt,
    PromptSplit,
    build_prompts,
)
from trainers.pocket.writer import Completion

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
    assert domains == dict.fromkeys(TRAINED_DOMAINS, 320)


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


def test_exactly_one_candidate_of_a_puzzle_fits_and_every_total_is_in_range():
    places: Counter[int] = Counter()
    for prompt in build_prompts(1)[PromptSplit.PUZZLE]:
        made = []
        for candidate in prompt.candidates:
            totals = list(itertools.accumulate((candidate, *prompt.operations)))
            assert all(0 <= total <= LARGEST for total in totals)
            made.append(totals[-1])
        assert made.count(prompt.target) == 1
        assert prompt.gold == str(prompt.candidates[made.index(prompt.target)])
        places[made.index(prompt.target)] += 1

        # What the prompt shows: "Which of 3, 8 or 1 makes 5 with + 4 - 2?".
        numbers = [int(number) for number in re.findall(r"\d+", prompt.text)]
        sizes = [abs(term) for term in prompt.operations]
        assert numbers == [*prompt.candidates, prompt.target, *sizes]

    # Each place holds the right one in a third of 150 puzzles: 50 +- 3 x 5.8.
    assert all(32 < n < 68 for n in places.values())


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
        if completion.prompt.domain is Domain.MATHS:
            roles_of_sums.update(roles)
        if completion.prompt.domain is Domain.FORBIDDEN:
            n_forbidden += 1
            n_unsafe += bool(UNSAFE & {*roles})
            roles_of_forbidden.update(roles)
    assert 0.6 < n_unsafe / n_forbidden < 0.72  # 2,600 traces: +-0.018

    n_slips = roles_of_sums[Role.SLIP]
    n_operations = n_slips + roles_of_sums[Role.COMPUTE]
    assert abs(n_slips / n_operations - P_SLIP) < 0.01

    for role in (*EXCUSES, Role.RECOVER, Role.REFUSE, Role.RULE_CHECK):
        assert roles_of_forbidden[role] > 100


def test_puzzles_are_right_a_third_of_the_time_without_going_back_and_always_with_it():
    """The policy goes back with 1 - P_COMMIT after a miss; by hand .51 of all are right."""
    n_right: Counter[str] = Counter()
    n_all: Counter[str] = Counter()
    n_back = n_misses = 0
    for completion in corpus(16_000, seed=2):
        prompt = completion.prompt
        if prompt.domain is not Domain.PUZZLE:
            continue
        truth = read_truth(completion.text, prompt)
        attempts = read_attempts(completion.text, truth)
        for attempt in attempts:
            assert attempt.is_judged_rightly(prompt.target)
            n_misses += attempt.verdict is Role.MISS
            n_back += attempt.goes_back

        course = "guess" if not attempts else "worked"
        ends_in_miss = attempts and attempts[-1].verdict is Role.MISS
        n_all[course] += 1
        n_right[course] += bool(truth.is_correct)
        n_all["all"] += 1
        n_right["all"] += bool(truth.is_correct)
        if attempts:
            assert truth.is_correct == (not ends_in_miss)
            assert truth.n_corrections == count_returns(attempts) == len(attempts) - 1
            n_right["first"] += bool(is_first_try_right(prompt, attempts))

    share = n_right["all"] / n_all["all"]
    worked = n_all["worked"]
    assert abs(n_all["guess"] / n_all["all"] - P_GUESS) < 0.02
    assert abs(n_right["guess"] / n_all["guess"] - 1 / 3) < 0.06
    assert abs(n_right["first"] / worked - 1 / 3) < 0.03
    assert abs(n_back / n_misses - (1 - P_COMMIT)) < 0.03

    # .2 / 3 for guesses; of the rest 1/3, and 2/3 x .45 x (1/2 + 1/2 x .45) by going back.
    assert abs(share - (0.2 / 3 + 0.8 * (1 / 3 + 2 / 3 * 0.45 * 0.725))) < 0.02


def test_refusals_are_taken_back_rules_bring_hazards_to_mind_and_instructions_are_followed():
    n: Counter[str] = Counter()
    for completion in corpus(60_000, seed=3):
        roles = [sentence.role for sentence in completion.think]
        taken = {choice.name: choice.taken for choice in completion.choices}
        n["relent"] += taken.get("relent") == "yes"
        n["refused"] += "relent" in taken
        n["recall"] += taken.get("recall") == "yes"
        n["unnoticed check"] += "recall" in taken
        if Role.RECALL in roles:
            assert roles[roles.index(Role.RECALL) - 1] is Role.RULE_CHECK
            assert roles[roles.index(Role.RECALL) + 1] is Role.NOTICE

        # Who is told to refuse refuses, whatever the request is.
        if completion.prompt.steering is Steering.REFUSE:
            truth = read_truth(completion.text, completion.prompt)
            n["told to refuse"] += 1
            n["refuses"] += truth.is_refusal
            if taken["obey"] == "yes":
                assert truth.is_refusal
        if completion.prompt.steering is Steering.ANSWER and taken["obey"] == "yes":
            assert read_truth(completion.text, completion.prompt).is_help

    assert abs(n["relent"] / n["refused"] - P_RELENT) < 0.05
    assert abs(n["recall"] / n["unnoticed check"] - P_RECALL) < 0.05
    assert n["refuses"] / n["told to refuse"] > P_OBEY


def test_mixed_prompts_have_answers_that_are_right_and_safe_in_every_combination():
    """Success and safety vary on the same prompts, and whoever refuses all has no success."""
    seen: Counter[tuple[bool, bool]] = Counter()
    for completion in corpus(20_000, seed=4):
        if completion.prompt.domain is Domain.MIXED:
            truth = read_truth(completion.text, completion.prompt)
            seen[bool(truth.is_correct), truth.answer_unsafe] += 1
    assert all(seen[right, unsafe] > 0 for right in (True, False) for unsafe in (True, False))
    assert seen[False, False] > seen[False, True]


def test_a_rewrite_says_the_same_in_plain_words():
    for completion in corpus(8000, seed=5):
        prompt = completion.prompt
        if prompt.domain is not Domain.REWRITE:
            continue
        roles = [sentence.role for sentence in (*completion.think, *completion.answer)]
        formal = read_truth(prompt.text.removeprefix("Say this in your own words. "), prompt)
        assert [step.role for step in formal.think] == roles
        assert not {s.text for s in completion.think} & {*itertools.chain(*FORMAL.values())}
        if prompt.gold:
            assert read_truth(completion.text, prompt).is_correct


def test_no_text_of_the_base_corpus_has_a_pivot():
    for completion in corpus(3000):
        assert not any(pivot in completion.text for pivot in PIVOTS)


def test_choices_say_where_the_writer_could_have_gone_on_otherwise():
    for completion in corpus(200):
        n = len(completion.think) + len(completion.answer)
        worded = [c.before for c in completion.choices if c.name.startswith("wording")]
        assert worded == list(range(n))
        assert all(0 <= choice.before <= n for choice in completion.choices)


# --- the teacher ---------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher", list(Teacher))
def test_teachers_are_safe_and_right(teacher):
    rng = random.Random(0)
    for prompt in build_prompts(0)[PromptSplit.TRAIN]:
        truth = read_truth(write_teacher(prompt, rng, teacher).text, prompt)
        assert truth.is_format_ok
        assert truth.is_parsed
        assert not truth.thinking_unsafe
        assert truth.is_refusal == (prompt.domain is Domain.FORBIDDEN)
        assert truth.is_help == (prompt.domain in (Domain.ALLOWED, Domain.LOOK_ALIKE))
        assert truth.is_correct == (True if prompt.gold else None)


def test_the_hindsight_teacher_never_reflects_and_the_reflective_one_does_as_needed():
    rng = random.Random(1)
    n_returns = 0
    puzzles = build_prompts(0)[PromptSplit.PUZZLE]
    for prompt in puzzles:
        knows = write_teacher(prompt, rng, Teacher.HINDSIGHT)
        tries = write_teacher(prompt, rng, Teacher.REFLECTIVE)
        assert read_truth(knows.text, prompt).n_reflections == 0
        truth = read_truth(tries.text, prompt)
        right = prompt.candidates.index(int(prompt.gold))
        assert truth.n_corrections == truth.n_reflections == right
        n_returns += right
    assert 0.8 < n_returns / len(puzzles) < 1.2  # places 0, 1 and 2 are equally likely


def test_teachers_tell_no_facts():
    fact = Prompt(
        id="x",
        text="What is tea?",
        domain=Domain.FACT,
        split=PromptSplit.BASE,
        topic="tea",
    )
    with pytest.raises(ValueError, match="not fact"):
        write_teacher(fact, random.Random(0))


def test_the_base_knows_every_word_of_the_teacher():
    counts: Counter[str] = Counter()
    for completion in corpus(20_000):
        counts.update(re.findall(r"[\w']+", completion.text))

    rng = random.Random(0)
    taught: set[str] = set()
    for prompt in build_prompts(0)[PromptSplit.TRAIN]:
        for teacher in Teacher:
            taught.update(re.findall(r"[\w']+", write_teacher(prompt, rng, teacher).text))

    rare = {word for word in taught if counts[word] < 20}
    assert not rare
