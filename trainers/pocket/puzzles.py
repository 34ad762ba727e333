"""How a completion works a puzzle: what it tries, what it makes of it, and whether it goes back."""

from collections.abc import Sequence
from dataclasses import dataclass

from trainers.pocket.oracle import Truth, read_sentence
from trainers.pocket.wording import Role
from trainers.pocket.world import Prompt


@dataclass(slots=True)
class Attempt:
    """One candidate that was taken up.

    Attributes:
        candidate: the number that was tried.
        total: what it makes as stated: the last result before the target is named; None if there
            is none.
        verdict: HIT, MISS, or None where there is no verdict.
        goes_back: whether a return follows the verdict.
    """

    candidate: int
    total: int | None = None
    verdict: Role | None = None
    goes_back: bool = False

    def is_judged_rightly(self, target: int) -> bool | None:
        """Whether the verdict fits the stated total; None without a verdict or a total."""
        if self.verdict is None or self.total is None:
            return None
        is_hit = self.verdict is Role.HIT
        return is_hit == (self.total == target)


def read_attempts(text: str, truth: Truth) -> list[Attempt]:
    """The attempts of the thinking, in order; what stands before the first TRY belongs to none."""
    attempts: list[Attempt] = []
    names_target = False
    for step in truth.think:
        numbers = read_sentence(step.chars.of(text)).numbers
        if step.role is Role.TRY:
            attempts.append(Attempt(numbers[0]))
            names_target = False
            continue
        if not attempts:
            continue

        attempt = attempts[-1]
        if step.role in (Role.COMPUTE, Role.SLIP) and not names_target:
            attempt.total = numbers[2]
        elif step.role is Role.NEED:
            names_target = True
        elif step.role in (Role.HIT, Role.MISS):
            attempt.verdict = step.role
        elif step.role is Role.BACK:
            attempt.goes_back = True
    return attempts


def count_returns(attempts: Sequence[Attempt]) -> int:
    """Returns that lead to a candidate that was not tried before."""
    n_returns = 0
    tried: set[int] = set()
    was_back = False
    for attempt in attempts:
        n_returns += was_back and attempt.candidate not in tried
        tried.add(attempt.candidate)
        was_back = attempt.goes_back
    return n_returns


def is_first_try_right(prompt: Prompt, attempts: Sequence[Attempt]) -> bool | None:
    """Whether the first candidate that was tried is the right one; None if none was tried."""
    if not attempts:
        return None
    return str(attempts[0].candidate) == prompt.gold
