"""The prompts of the pocket world: sums, and requests that are forbidden, look so, or are harmless.

Second room of the pocket world: `wording <- world <- policy, oracle`. The same seed gives the same prompts in every
process.
"""

import random
from dataclasses import dataclass
from enum import StrEnum

from trainers.pocket import wording
from trainers.pocket.wording import Wrapper


class Domain(StrEnum):
    """What a prompt asks for."""

    MATHS = "maths"
    FORBIDDEN = "forbidden"  # to make a hazardous thing
    LOOK_ALIKE = "look_alike"  # to recognise, avoid, report a hazardous thing
    ALLOWED = "allowed"  # to make a harmless thing
    FACT = "fact"  # what a thing is; only the base model's training has it


class PromptSplit(StrEnum):
    """The split of the experiment that a prompt belongs to. No text is in two of them."""

    TRAIN = "train"  # for safety training
    MATHS = "maths"
    FORBIDDEN_SEEN = "forbidden_seen"
    NEW_WRAPPER = "new_wrapper"
    NEW_TOPIC = "new_topic"
    LOOK_ALIKE = "look_alike"
    ALLOWED = "allowed"
    BASE = "base"  # only the base model's training


EVALUATION = tuple(PromptSplit)[1:-1]
P_WRAPPED_HARMLESS = 0.3  # of the requests that are not forbidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One user turn, with what is known of it.

    Attributes:
        gold: the result of a sum; "" elsewhere.
        sum: the terms of a sum, the later ones signed; () elsewhere.
    """

    id: str
    text: str
    domain: Domain
    split: PromptSplit
    topic: str = ""
    verb: str = ""
    wrapper: Wrapper = Wrapper.PLAIN
    sum: tuple[int, ...] = ()
    gold: str = ""


# --- prompts ---------------------------------------------------------------------------------------------------
def build_prompts(
    seed: int = 0, *, n_train: int = 1600, n_evaluation: int = 150
) -> dict[PromptSplit, tuple[Prompt, ...]]:
    """Prompts of safety training and of each evaluation, all texts distinct.

    Args:
        seed: of the draw; one seed is one experiment.
        n_train: prompts of safety training: a quarter each of sums, forbidden, look-alike and allowed requests.
        n_evaluation: prompts of each evaluation.
    """
    rng, taken = random.Random(f"prompts {seed}"), set[str]()
    prompts = {
        split: _distinct(rng, split, (_DOMAIN_OF[split],), n_evaluation, taken)
        for split in EVALUATION
    }
    domains = (Domain.MATHS, Domain.FORBIDDEN, Domain.LOOK_ALIKE, Domain.ALLOWED)
    return prompts | {PromptSplit.TRAIN: _distinct(rng, PromptSplit.TRAIN, domains, n_train, taken)}


_DOMAIN_OF = {
    PromptSplit.MATHS: Domain.MATHS, PromptSplit.FORBIDDEN_SEEN: Domain.FORBIDDEN, PromptSplit.NEW_WRAPPER: Domain.FORBIDDEN,
    PromptSplit.NEW_TOPIC: Domain.FORBIDDEN, PromptSplit.LOOK_ALIKE: Domain.LOOK_ALIKE, PromptSplit.ALLOWED: Domain.ALLOWED,
}  # fmt: skip
_PATIENCE = 1000  # draws in a row that are all known already


def _distinct(
    rng: random.Random, split: PromptSplit, domains: tuple[Domain, ...], n: int, taken: set[str]
) -> tuple[Prompt, ...]:
    found: list[Prompt] = []
    missed = 0
    while len(found) < n and missed < _PATIENCE:
        prompt = draw_prompt(
            rng, split, domains[len(found) % len(domains)], f"{split.value}-{len(found):04d}"
        )
        missed = missed + 1 if prompt.text in taken else 0
        if not missed:
            taken.add(prompt.text)
            found.append(prompt)
    if len(found) == n:
        return tuple(found)
    raise ValueError(
        f"the world has fewer than {n} distinct prompts for {split.value}; ask for at most {len(found)}"
    )


def draw_prompt(rng: random.Random, split: PromptSplit, domain: Domain, name: str) -> Prompt:
    """One prompt of a domain as the split allows it."""
    if domain is Domain.MATHS:
        return _draw_sum(rng, split, name)
    if domain is Domain.FACT:
        topic = rng.choice((*wording.KNOWN_HAZARDS, *wording.NEW_HAZARDS, *wording.HARMLESS))
        return Prompt(
            id=name,
            text=rng.choice(wording.FACT_REQUESTS).format(t=topic),
            domain=domain,
            split=split,
            topic=topic,
        )
    topic = rng.choice(wording.HARMLESS if domain is Domain.ALLOWED else _hazards(split))
    verb = rng.choice(wording.CARE_VERBS if domain is Domain.LOOK_ALIKE else wording.MAKE_VERBS)
    wrapper = _draw_wrapper(rng, split, domain)
    text = rng.choice(wording.WRAPPINGS[wrapper]) + rng.choice(wording.REQUESTS).format(
        v=verb, t=topic
    )
    return Prompt(
        id=name, text=text, domain=domain, split=split, topic=topic, verb=verb, wrapper=wrapper
    )


def _hazards(split: PromptSplit) -> tuple[str, ...]:
    if split is PromptSplit.BASE:
        return wording.HAZARDS
    return (
        (*wording.NEW_HAZARDS, *wording.LITTLE_KNOWN_HAZARDS)
        if split is PromptSplit.NEW_TOPIC
        else wording.KNOWN_HAZARDS
    )


def _draw_wrapper(rng: random.Random, split: PromptSplit, domain: Domain) -> Wrapper:
    if split is PromptSplit.NEW_WRAPPER:
        return rng.choice(wording.NEW_WRAPPERS)
    wrappers = (
        (*wording.SEEN_WRAPPERS, *wording.NEW_WRAPPERS)
        if split is PromptSplit.BASE
        else wording.SEEN_WRAPPERS
    )
    if domain is not Domain.FORBIDDEN:
        return rng.choice(wrappers) if rng.random() < P_WRAPPED_HARMLESS else Wrapper.PLAIN
    return rng.choice((Wrapper.PLAIN, *wrappers))


def _draw_sum(rng: random.Random, split: PromptSplit, name: str) -> Prompt:
    terms = [rng.choice(wording.OPERANDS)]
    for _ in range(rng.choice((2, 3, 3, 4))):
        total = sum(terms)
        terms.append(
            rng.choice(
                [
                    sign * n
                    for n in wording.OPERANDS
                    for sign in (1, -1)
                    if 0 <= total + sign * n <= wording.LARGEST
                ]
            )
        )
    shown = f"{terms[0]}" + "".join(
        f" {'+' if term > 0 else '-'} {abs(term)}" for term in terms[1:]
    )
    text = rng.choice(wording.SUMS).format(sum=shown)
    return Prompt(
        id=name, text=text, domain=Domain.MATHS, split=split, sum=tuple(terms), gold=str(sum(terms))
    )
