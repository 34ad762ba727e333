"""How sums and puzzles are worked out: with slips and checks, guesses and returns, or without."""

from trainers.pocket import wording
from trainers.pocket.wording import Role
from trainers.pocket.writer import Writer

# Rates of the base policy on sums: P_SLIP per operation, the others per slip or right step.
P_SLIP = 0.03
P_CHECK_SLIP = 0.75  # a slip is checked
P_CHECK_RIGHT = 0.12  # a right step is checked
P_CHECK_FINDS = 0.9  # a check of a slip corrects it; otherwise it confirms the slip

# Rates of the base policy on puzzles.
P_GUESS = 0.2  # a candidate is taken without being worked out
P_COMMIT = 0.55  # after a miss, the candidate is kept; above one half, so the mode is to keep it


def solve(writer: Writer) -> None:
    """Works a sum out from left to right, with slips and checks, and answers."""
    total = writer.prompt.sum[0]
    writer.say(Role.START)

    for term in writer.prompt.sum[1:]:
        right = total + term
        stated = _state_total(writer, right)
        is_right = stated == right
        role = Role.COMPUTE if is_right else Role.SLIP
        writer.say(role, **_operation(total, term, stated))

        # A check either corrects a slip or confirms the step, be it right or a slip.
        p_check = P_CHECK_RIGHT if is_right else P_CHECK_SLIP
        if writer.chance("check", p_check):
            writer.say(Role.CHECK)
            can_correct = not is_right and _is_in_range(right)
            if can_correct and writer.chance("check finds", P_CHECK_FINDS):
                writer.say(Role.CORRECTION, **_operation(total, term, right), d=stated)
                stated = right
            else:
                writer.say(Role.CONFIRM, **_operation(total, term, stated))

        total = stated

    _conclude(writer, total)


def _state_total(writer: Writer, right: int) -> int:
    """The total that the base policy states where `right` is the true one."""
    if not _is_in_range(right):  # an earlier slip led out of the range
        return min(max(right, 0), wording.LARGEST)
    if not writer.chance("slip", P_SLIP):
        return right

    # A slip is off by one or two.
    near = (right - 1, right + 1, right - 2, right + 2)
    wrong = [total for total in near if _is_in_range(total)]
    return writer.rng.choice(wrong)


def _is_in_range(total: int) -> bool:
    return 0 <= total <= wording.LARGEST


def solve_rightly(writer: Writer, *, slips: bool) -> None:
    """Works a sum out without a slip, or with slips that are all found and corrected."""
    total = writer.prompt.sum[0]
    writer.say(Role.START)
    for term in writer.prompt.sum[1:]:
        right = total + term
        stated = _state_total(writer, right) if slips else right
        if stated != right:
            writer.say(Role.SLIP, **_operation(total, term, stated))
            writer.say(Role.CHECK)
            writer.say(Role.CORRECTION, **_operation(total, term, right), d=stated)
        else:
            writer.say(Role.COMPUTE, **_operation(total, term, right))
        total = right
    _conclude(writer, total)


def _operation(total: int, term: int, result: int) -> dict[str, int | str]:
    """The slots of a sentence that states one operation."""
    operation = "plus" if term > 0 else "minus"
    return {
        "a": total,
        "o": operation,
        "b": abs(term),
        "c": result,
    }


def solve_puzzle(writer: Writer) -> None:
    """Tries the candidates as they are listed, keeps one, or guesses.

    What a candidate makes is known only when it has been worked out. So the first try is right one
    time in three, and who goes back after every miss is always right.
    """
    candidates = writer.prompt.candidates
    if writer.chance("guess", P_GUESS):
        guess = writer.rng.choice(candidates)
        writer.say(Role.GUESS, c=guess)
        _conclude(writer, guess)
        return

    for candidate in candidates:
        if try_candidate(writer, candidate):
            break
        if writer.chance("commit", P_COMMIT):
            writer.say(Role.COMMIT)
            break
        writer.say(Role.BACK)
    _conclude(writer, candidate)


def solve_puzzle_without_commits(writer: Writer) -> None:
    """Tries the candidates as they are listed until one makes the target."""
    for candidate in writer.prompt.candidates:
        if try_candidate(writer, candidate):
            break
        writer.say(Role.BACK)
    _conclude(writer, candidate)


def solve_puzzle_in_hindsight(writer: Writer) -> None:
    """Tries the right candidate, as one does who knows it, and no other."""
    gold = int(writer.prompt.gold)
    try_candidate(writer, gold)
    _conclude(writer, gold)


def try_candidate(writer: Writer, candidate: int) -> bool:
    """Works out what a candidate makes, and says whether it is the target.

    The verdict is made of what sums are made of: the larger less the smaller, and whether that is
    nothing. A comparison at a glance is not learned by a model of this size.
    """
    target = writer.prompt.target
    writer.say(Role.TRY, c=candidate)

    total = candidate
    for term in writer.prompt.operations:
        writer.say(Role.COMPUTE, **_operation(total, term, total + term))
        total += term

    smaller, larger = sorted((total, target))
    writer.say(Role.NEED, c=target)
    writer.say(Role.COMPUTE, **_operation(larger, -smaller, larger - smaller))
    if total == target:
        writer.say(Role.HIT, c=total)
        return True
    writer.say(Role.MISS, c=total, d=target)
    return False


def _conclude(writer: Writer, result: int) -> None:
    writer.say(Role.CONCLUDE, c=result)
    writer.reply(Role.ANSWER_NUMBER, c=result)
