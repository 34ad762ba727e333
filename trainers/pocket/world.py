"""The prompts of the pocket world: sums, puzzles, and requests that are forbidden or harmless.

The same seed gives the same prompts in every process.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

from trainers.pocket import wording
from trainers.pocket.wording import Steering, Wrapper

P_WRAPPED_HARMLESS = 0.3  # share of look-alike and allowed requests with a wrapper
P_STEERED = 0.1  # share of the base model's requests with an instruction to refuse or to answer
N_CANDIDATES = 3  # of a puzzle


class Domain(StrEnum):
    """What a prompt asks for."""

    MATHS = "maths"
    FORBIDDEN = "forbidden"  # to make a hazardous thing
    LOOK_ALIKE = "look_alike"  # to recognise, avoid or report a hazardous thing
    ALLOWED = "allowed"  # to make a harmless thing
    PUZZLE = "puzzle"  # which of three numbers makes a target: a guess that has to be checked
    MIXED = "mixed"  # a sum and a forbidden request in one
    FACT = "fact"  # what a thing is; only in the base model's training
    REWRITE = "rewrite"  # to say a formal trace in own words; only in the base model's training


class PromptSplit(StrEnum):
    """The split of the experiment's prompts that a prompt belongs to.

    `build_prompts` puts no text in two splits.
    """

    TRAIN = "train"  # safety training
    TRAIN_MIXED = "train_mixed"  # training on mixed prompts, where an arm asks for it

    # Evaluations.
    MATHS = "maths"
    FORBIDDEN_SEEN = "forbidden_seen"  # topics and wrappers of safety training
    NEW_WRAPPER = "new_wrapper"
    NEW_TOPIC = "new_topic"
    LOOK_ALIKE = "look_alike"
    ALLOWED = "allowed"
    PUZZLE = "puzzle"
    MIXED = "mixed"

    BASE = "base"  # only in the base model's training


TRAINED_DOMAINS = (
    Domain.MATHS,
    Domain.FORBIDDEN,
    Domain.LOOK_ALIKE,
    Domain.ALLOWED,
    Domain.PUZZLE,
)
EVALUATED_DOMAIN = {
    PromptSplit.MATHS: Domain.MATHS,
    PromptSplit.FORBIDDEN_SEEN: Domain.FORBIDDEN,
    PromptSplit.NEW_WRAPPER: Domain.FORBIDDEN,
    PromptSplit.NEW_TOPIC: Domain.FORBIDDEN,
    PromptSplit.LOOK_ALIKE: Domain.LOOK_ALIKE,
    PromptSplit.ALLOWED: Domain.ALLOWED,
    PromptSplit.PUZZLE: Domain.PUZZLE,
    PromptSplit.MIXED: Domain.MIXED,
}
EVALUATION = tuple(EVALUATED_DOMAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One user turn, and what is known about it.

    Attributes:
        id: SPLIT-NUMBER.
        text: what the user says.
        domain: what the prompt asks for.
        split: the split of the experiment that it belongs to.
        topic: the thing that it asks about; "" for a sum.
        verb: what is to be done with the topic; "" for a sum or a fact.
        wrapper: the kind of text before the request.
        steering: the instruction before it; only in the base model's training.
        sum: the terms of a sum, signed after the first; () for prompts without one.
        candidates: of a puzzle, in the order in which they are listed; () for other prompts.
        operations: what a puzzle does to a candidate, signed.
        target: what exactly one of its candidates makes.
        gold: the result of a sum, or the right candidate of a puzzle; "" for other prompts.
    """

    id: str
    text: str
    domain: Domain
    split: PromptSplit
    topic: str = ""
    verb: str = ""
    wrapper: Wrapper = Wrapper.PLAIN
    steering: Steering = Steering.NONE
    sum: tuple[int, ...] = ()
    candidates: tuple[int, ...] = ()
    operations: tuple[int, ...] = ()
    target: int = 0
    gold: str = ""


def build_prompts(
    seed: int = 0, *, n_train: int = 1600, n_evaluation: int = 150
) -> dict[PromptSplit, tuple[Prompt, ...]]:
    """The prompts of safety training and of each evaluation, all texts distinct.

    Args:
        seed: seed of the draw; one seed is one experiment.
        n_train: number of prompts of safety training, a fifth each of sums, forbidden, look-alike
            and allowed requests, and puzzles; a fifth as many mixed prompts are drawn apart.
        n_evaluation: number of prompts of each evaluation.

    Raises:
        ValueError: if the world has too few distinct prompts.
    """
    rng = random.Random(f"prompts {seed}")
    taken_texts: set[str] = set()
    prompts = {}

    # Evaluations draw first, so their prompts do not depend on the size of the training set.
    for split in EVALUATION:
        domains = (EVALUATED_DOMAIN[split],)
        prompts[split] = _draw_distinct(rng, split, domains, n_evaluation, taken_texts)

    train = PromptSplit.TRAIN
    prompts[train] = _draw_distinct(rng, train, TRAINED_DOMAINS, n_train, taken_texts)

    # As many as of each domain of safety training, drawn last: they move no other prompt.
    mixed = PromptSplit.TRAIN_MIXED
    n_mixed = n_train // len(TRAINED_DOMAINS)
    prompts[mixed] = _draw_distinct(rng, mixed, (Domain.MIXED,), n_mixed, taken_texts)
    return prompts


_PATIENCE = 1000  # give up after this many draws in a row whose texts are all taken


def _draw_distinct(
    rng: random.Random,
    split: PromptSplit,
    domains: tuple[Domain, ...],
    n: int,
    taken_texts: set[str],
) -> tuple[Prompt, ...]:
    """`n` prompts of these domains in turn. Adds their texts to `taken_texts`."""
    prompts: list[Prompt] = []
    n_misses = 0
    while len(prompts) < n and n_misses < _PATIENCE:
        number = len(prompts)
        domain = domains[number % len(domains)]
        prompt = draw_prompt(rng, split, domain, f"{split.value}-{number:04d}")

        if prompt.text in taken_texts:
            n_misses += 1
            continue

        n_misses = 0
        taken_texts.add(prompt.text)
        prompts.append(prompt)

    # The world is finite: so many texts of these domains do not exist.
    if len(prompts) < n:
        raise ValueError(
            f"the world has fewer than {n} distinct prompts for {split.value}; "
            f"ask for at most {len(prompts)}"
        )
    return tuple(prompts)


def draw_prompt(rng: random.Random, split: PromptSplit, domain: Domain, name: str) -> Prompt:
    """One prompt of a domain, with the topics and wrappers that the split has; `name` is its id."""
    if domain is Domain.MATHS:
        return _draw_sum(rng, split, name)
    if domain is Domain.PUZZLE:
        return _draw_puzzle(rng, split, name)
    if domain is Domain.MIXED:
        return _draw_mixed(rng, split, name)
    if domain is Domain.FACT:
        return _draw_fact(rng, split, name)

    # Only to make a hazard is forbidden: another verb or another topic makes a request harmless.
    topics = wording.HARMLESS if domain is Domain.ALLOWED else _hazards_of(split)
    verbs = wording.CARE_VERBS if domain is Domain.LOOK_ALIKE else wording.MAKE_VERBS

    # The order of these draws fixes the prompts of a seed.
    topic = rng.choice(topics)
    verb = rng.choice(verbs)
    wrapper = _draw_wrapper(rng, split, domain)
    opening = rng.choice(wording.WRAPPINGS[wrapper])
    request = rng.choice(wording.REQUESTS).format(v=verb, t=topic)

    # Only the base model learns to follow instructions.
    steering = Steering.NONE
    if split is PromptSplit.BASE and rng.random() < P_STEERED:
        steering = rng.choice((Steering.REFUSE, Steering.ANSWER))

    return Prompt(
        id=name,
        text=wording.STEERINGS[steering] + opening + request,
        domain=domain,
        split=split,
        topic=topic,
        verb=verb,
        wrapper=wrapper,
        steering=steering,
    )


def _hazards_of(split: PromptSplit) -> tuple[str, ...]:
    if split is PromptSplit.BASE:
        return wording.HAZARDS
    if split is PromptSplit.NEW_TOPIC:
        return (*wording.NEW_HAZARDS, *wording.LITTLE_KNOWN_HAZARDS)
    return wording.KNOWN_HAZARDS


def _draw_wrapper(rng: random.Random, split: PromptSplit, domain: Domain) -> Wrapper:
    if split is PromptSplit.NEW_WRAPPER:
        return rng.choice(wording.NEW_WRAPPERS)

    # The base model's training has every wrapper.
    wrappers = wording.SEEN_WRAPPERS
    if split is PromptSplit.BASE:
        wrappers = (*wording.SEEN_WRAPPERS, *wording.NEW_WRAPPERS)

    if domain is Domain.FORBIDDEN:
        return rng.choice((Wrapper.PLAIN, *wrappers))
    if rng.random() < P_WRAPPED_HARMLESS:
        return rng.choice(wrappers)
    return Wrapper.PLAIN


def _draw_fact(rng: random.Random, split: PromptSplit, name: str) -> Prompt:
    topic = rng.choice(wording.TOPICS)
    text = rng.choice(wording.FACT_REQUESTS).format(t=topic)
    return Prompt(
        id=name,
        text=text,
        domain=Domain.FACT,
        split=split,
        topic=topic,
    )


def _draw_sum(rng: random.Random, split: PromptSplit, name: str) -> Prompt:
    """A sum of two to four operations, every total of which is between 0 and LARGEST."""
    n_operations = rng.choice((2, 3, 3, 4))
    terms = _draw_terms(rng, n_operations)
    return Prompt(
        id=name,
        text=_ask_for_sum(rng, terms),
        domain=Domain.MATHS,
        split=split,
        sum=terms,
        gold=str(sum(terms)),
    )


def _draw_terms(rng: random.Random, n_operations: int) -> tuple[int, ...]:
    terms = [rng.choice(wording.OPERANDS)]
    for _ in range(n_operations):
        terms.append(rng.choice(_possible_terms(sum(terms))))
    return tuple(terms)


def _ask_for_sum(rng: random.Random, terms: tuple[int, ...]) -> str:
    """A question for a sum, such as "What is 7 + 5 - 3?"."""
    shown = f"{terms[0]} {_show_operations(terms[1:])}"
    return rng.choice(wording.SUMS).format(sum=shown)


def _show_operations(terms: tuple[int, ...]) -> str:
    """Signed terms as text: "+ 5 - 3"."""
    shown = []
    for term in terms:
        sign = "+" if term > 0 else "-"
        shown.append(f"{sign} {abs(term)}")
    return " ".join(shown)


def _draw_mixed(rng: random.Random, split: PromptSplit, name: str) -> Prompt:
    """A sum of two operations, and a plain forbidden request after it."""
    terms = _draw_terms(rng, 2)
    question = _ask_for_sum(rng, terms)
    topic = rng.choice(_hazards_of(split))
    verb = rng.choice(wording.MAKE_VERBS)
    request = rng.choice(wording.REQUESTS).format(v=verb, t=topic)
    return Prompt(
        id=name,
        text=f"{question} {request}",
        domain=Domain.MIXED,
        split=split,
        topic=topic,
        verb=verb,
        sum=terms,
        gold=str(sum(terms)),
    )


def _draw_puzzle(rng: random.Random, split: PromptSplit, name: str) -> Prompt:
    """Three candidates, one of which makes the target by two operations.

    Every total on the way is between 0 and LARGEST, whichever candidate is tried. Each place in
    the list is equally often the right one.
    """
    # Different candidates make different totals, so exactly one fits.
    candidates: list[int] = []
    operations: tuple[int, ...] = ()
    while len(candidates) < N_CANDIDATES:
        operations = (_draw_operation(rng), _draw_operation(rng))
        fitting = []
        for candidate in range(wording.LARGEST + 1):
            totals = (candidate + operations[0], candidate + sum(operations))
            if all(0 <= total <= wording.LARGEST for total in totals):
                fitting.append(candidate)
        if len(fitting) >= N_CANDIDATES:
            candidates = rng.sample(fitting, N_CANDIDATES)

    right = rng.choice(candidates)
    target = right + sum(operations)
    *first, last = map(str, candidates)
    text = wording.PUZZLE.format(
        candidates=", ".join(first),
        last=last,
        target=target,
        operations=_show_operations(operations),
    )
    return Prompt(
        id=name,
        text=text,
        domain=Domain.PUZZLE,
        split=split,
        candidates=tuple(candidates),
        operations=operations,
        target=target,
        gold=str(right),
    )


def _draw_operation(rng: random.Random) -> int:
    return rng.choice(wording.OPERANDS) * rng.choice((1, -1))


def _possible_terms(total: int) -> list[int]:
    """The signed operands that keep the total in range."""
    terms = []
    for operand in wording.OPERANDS:
        for term in (operand, -operand):
            if 0 <= total + term <= wording.LARGEST:
                terms.append(term)
    return terms
