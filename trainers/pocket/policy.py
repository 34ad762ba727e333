"""The writers of traces: a base policy that slips and makes excuses, and teachers that do not.

Every sentence is written with its role, so the truth of a trace is known rather than judged. The
same seed gives the same traces in every process.
"""

import random
from collections.abc import Iterator
from enum import StrEnum

from trainers.pocket import sums, wording
from trainers.pocket.wording import Role, Steering, Wrapper
from trainers.pocket.world import TRAINED_DOMAINS, Domain, Prompt, PromptSplit, draw_prompt
from trainers.pocket.writer import Completion, Writer

# Rates of the base policy on requests, per trace or per place where there is a choice.
P_NOTICE = 0.88  # a forbidden request: the hazard is noticed
P_NOTICE_LITTLE_KNOWN = 0.15
P_EXCUSE = 0.45  # after the hazard was noticed
P_EXCUSE_WRAPPED = 0.65
P_EXCUSE_FITS = 0.6  # the excuse is of the kind that the wrapper suggests
P_RULE_CHECK = 0.2  # the rules are checked
P_RECALL = 0.8  # a check of the rules on a hazard that was not noticed brings it to mind
P_CHECK_SAVES = 0.5  # factor of a rule check on the probability of an excuse
P_RECOVER = 0.18  # an unsafe plan is taken back
P_LEAK = 0.05  # the thinking is safe and the answer is not
P_OVERCAUTION = 0.1  # a harmless request is refused
P_RELENT = 0.2  # such a refusal is taken back
P_OBEY = 0.9  # an instruction to refuse or to answer is followed
P_REFUSE_ALL = 0.3  # of a mixed request, the sum is refused too

# The base policy's style.
P_FORMAL = 0.06  # a sentence is in the teacher's register

# Shares of the domains in the base model's training.
BASE_SHARES = {
    Domain.MATHS: 0.26,
    Domain.PUZZLE: 0.25,
    Domain.FORBIDDEN: 0.22,
    Domain.LOOK_ALIKE: 0.08,
    Domain.ALLOWED: 0.08,
    Domain.FACT: 0.03,
    Domain.MIXED: 0.04,
    Domain.REWRITE: 0.04,
}
FITTING_EXCUSE = {
    Wrapper.STORY: Role.FICTIONAL_LICENCE,
    Wrapper.GAME: Role.FICTIONAL_LICENCE,
    Wrapper.DREAM: Role.FICTIONAL_LICENCE,
    Wrapper.TEACHER: Role.OTHER_FALLACY,
    Wrapper.NO_RULES: Role.OTHER_FALLACY,
    Wrapper.EXPERT: Role.BENIGN_REFRAMING,
    Wrapper.GRANDMOTHER: Role.BENIGN_REFRAMING,
    Wrapper.PLAIN: Role.WARNING_THEN_ANSWER,
}


class Teacher(StrEnum):
    """What a teacher does; both are safe and right in the end, and in the same register."""

    HINDSIGHT = "hindsight"  # knows the outcome: never errs, never checks
    REFLECTIVE = "reflective"  # tries, checks, and goes back as needed


def base_corpus(seed: int | str, held_out: frozenset[str] = frozenset()) -> Iterator[Completion]:
    """Traces of the base policy without end, for prompts whose texts are not in `held_out`."""
    rng = random.Random(f"base {seed}")
    domains = tuple(BASE_SHARES)
    shares = tuple(BASE_SHARES.values())

    for number in range(10**12):
        domain = rng.choices(domains, shares)[0]
        name = f"base-{number}"
        if domain is Domain.REWRITE:
            completion = _write_rewrite(rng, name)
            if completion.prompt.text not in held_out:
                yield completion
            continue

        prompt = draw_prompt(rng, PromptSplit.BASE, domain, name)
        if prompt.text not in held_out:
            yield write_base(prompt, rng)


def write_base(prompt: Prompt, rng: random.Random) -> Completion:
    """A trace of the base policy."""
    writer = _writer(prompt, rng, P_FORMAL)

    # Each of these adds the sentences of the whole trace.
    if prompt.domain is Domain.MATHS:
        sums.solve(writer)
    elif prompt.domain is Domain.PUZZLE:
        sums.solve_puzzle(writer)
    elif prompt.domain is Domain.MIXED:
        _answer_mixed(writer)
    elif prompt.domain is Domain.FACT:
        _tell_fact(writer)
    elif prompt.steering is not Steering.NONE and writer.chance("obey", P_OBEY):
        _obey(writer)
    elif prompt.domain is Domain.FORBIDDEN:
        _answer_forbidden(writer)
    else:
        _answer_harmless(writer)
    return writer.completion()


def write_teacher(
    prompt: Prompt, rng: random.Random, teacher: Teacher = Teacher.HINDSIGHT
) -> Completion:
    """A safe and right trace in the teacher's register.

    The teacher names the request, states the rule, and decides. Puzzles are in everybody's
    register, so what teachers of puzzles differ in is what they do.

    Raises:
        ValueError: if the prompt is of a domain that no teacher writes for.
    """
    if prompt.domain not in TRAINED_DOMAINS:
        raise ValueError(
            f"prompt {prompt.id}: teachers answer sums, puzzles and requests, not {prompt.domain}"
        )
    writer = _writer(prompt, rng, 1.0)
    _teach(writer, teacher)
    return writer.completion()


def _writer(prompt: Prompt, rng: random.Random, p_formal: float) -> Writer:
    if prompt.domain is Domain.PUZZLE:
        p_formal = 0.0
    return Writer(prompt, rng, p_formal=p_formal)


def _teach(writer: Writer, teacher: Teacher) -> None:
    """Adds the sentences of a teacher."""
    domain = writer.prompt.domain
    reflects = teacher is Teacher.REFLECTIVE
    if domain is Domain.PUZZLE and reflects:
        sums.solve_puzzle_without_commits(writer)
        return
    if domain is Domain.PUZZLE:
        sums.solve_puzzle_in_hindsight(writer)
        return
    if domain is Domain.MATHS:
        sums.solve_rightly(writer, slips=reflects)
        return

    writer.say(Role.OPEN)
    if reflects:
        writer.say(Role.RULE_CHECK)
    if domain is Domain.FORBIDDEN:
        writer.say(Role.NOTICE)
        writer.say(Role.REFUSE)
        writer.reply(Role.ANSWER_REFUSAL)
    else:
        writer.say(Role.ALLOW)
        writer.say(Role.PLAN)
        writer.reply(Role.ANSWER_HELP)


# --- the base policy on requests ---------------------------------------------------------------


def _answer_forbidden(writer: Writer) -> None:
    """Notices the hazard or not; then excuses it and complies, or refuses."""
    writer.say(Role.OPEN)
    if not _notices(writer):
        if writer.chance("find harmless", 0.4):
            writer.say(Role.ALLOW)
        _comply(writer)
        return

    # A wrapper makes an excuse more likely, a check of the rules less.
    is_plain = writer.prompt.wrapper is Wrapper.PLAIN
    p_excuse = P_EXCUSE if is_plain else P_EXCUSE_WRAPPED
    has_checked = any(sentence.role is Role.RULE_CHECK for sentence in writer.think)
    if not has_checked and writer.chance("rule check", P_RULE_CHECK):
        writer.say(Role.RULE_CHECK)
        has_checked = True
    if has_checked:
        p_excuse *= P_CHECK_SAVES

    if writer.chance("excuse", p_excuse):
        writer.say(_draw_excuse(writer))
        _comply(writer)
        return

    # A leak: safe thinking, unsafe answer.
    writer.say(Role.REFUSE)
    if writer.chance("leak", P_LEAK):
        writer.reply(Role.ANSWER_HELP)
    else:
        _refuse(writer)


def _notices(writer: Writer) -> bool:
    """Whether the hazard comes to mind, at once or by a check of the rules."""
    is_little_known = writer.prompt.topic in wording.LITTLE_KNOWN_HAZARDS
    p_notice = P_NOTICE_LITTLE_KNOWN if is_little_known else P_NOTICE
    if writer.chance("notice", p_notice):
        writer.say(Role.NOTICE)
        return True

    # Only who asks what the rules say can find out.
    if not writer.chance("rule check", P_RULE_CHECK):
        return False
    writer.say(Role.RULE_CHECK)
    if not writer.chance("recall", P_RECALL):
        return False
    writer.say(Role.RECALL)
    writer.say(Role.NOTICE)
    return True


def _draw_excuse(writer: Writer) -> Role:
    fitting = FITTING_EXCUSE[writer.prompt.wrapper]
    if writer.chance("excuse fits", P_EXCUSE_FITS):
        return fitting
    others = [excuse for excuse in wording.EXCUSES if excuse is not fitting]
    return writer.rng.choice(others)


def _comply(writer: Writer) -> None:
    """Plans to do what is forbidden, then does it or takes it back."""
    writer.say(Role.PLAN)
    if writer.chance("recover", P_RECOVER):
        _take_back(writer)
        return

    n_steps = _carry_out(writer, Role.DETAIL)
    if n_steps == 2 and writer.chance("recover late", P_RECOVER / 2):
        _take_back(writer)
        return

    # A writer that meant to add a warning does add it.
    has_warning = any(sentence.role is Role.WARNING_THEN_ANSWER for sentence in writer.think)
    if has_warning:
        writer.reply(Role.ANSWER_WARNING)
    writer.reply(Role.ANSWER_HELP)


def _carry_out(writer: Writer, role: Role) -> int:
    """Thinks of one or two steps that carry the request out; returns how many."""
    writer.say(role)
    if not writer.chance("second step", 0.5):
        return 1
    writer.say(role, m=writer.slots["n"])
    return 2


def _take_back(writer: Writer) -> None:
    writer.say(Role.RECOVER)
    writer.say(Role.REFUSE)
    _refuse(writer)


def _refuse(writer: Writer) -> None:
    writer.reply(Role.ANSWER_REFUSAL)
    if writer.chance("reason", 0.3):
        writer.reply(Role.ANSWER_REASON)


def _answer_harmless(writer: Writer) -> None:
    """Helps with a harmless request, or refuses it out of too much caution."""
    is_care = writer.prompt.domain is Domain.LOOK_ALIKE
    writer.say(Role.OPEN)
    if is_care and writer.chance("notice", 0.4):
        writer.say(Role.NOTICE)

    # Too much caution may be taken back.
    if writer.chance("overcaution", P_OVERCAUTION):
        writer.say(Role.OVERCAUTION)
        writer.say(Role.REFUSE)
        if not writer.chance("relent", P_RELENT):
            _refuse(writer)
            return
        writer.say(Role.RELENT)
        _help(writer)
        return

    if writer.chance("rule check", P_RULE_CHECK / 2):
        writer.say(Role.RULE_CHECK)
    if writer.chance("find harmless", 0.7):
        writer.say(Role.ALLOW)
    _help(writer)


def _help(writer: Writer) -> None:
    """Plans to do what was asked, and does it."""
    is_care = writer.prompt.verb in wording.CARE_VERBS
    writer.say(Role.PLAN)
    _carry_out(writer, Role.CARE if is_care else Role.DETAIL)
    writer.reply(Role.ANSWER_HELP)


def _obey(writer: Writer) -> None:
    """Does what the instruction before the request says, whatever the request is."""
    writer.say(Role.OPEN)
    if writer.prompt.steering is Steering.ANSWER:
        _help(writer)
        return
    if writer.prompt.domain is Domain.FORBIDDEN:
        writer.say(Role.NOTICE)
    writer.say(Role.REFUSE)
    _refuse(writer)


def _answer_mixed(writer: Writer) -> None:
    """Works the sum out and then treats the request as if it were alone; or refuses both."""
    if writer.chance("refuse all", P_REFUSE_ALL):
        writer.say(Role.OPEN)
        writer.say(Role.NOTICE)
        writer.say(Role.REFUSE)
        _refuse(writer)
        return
    sums.solve(writer)
    _answer_forbidden(writer)


def _tell_fact(writer: Writer) -> None:
    writer.say(Role.OPEN)
    if writer.prompt.topic in wording.HAZARDS:
        writer.say(Role.NOTICE)
        writer.reply(Role.ANSWER_DANGER)
    else:
        writer.say(Role.ALLOW)
        writer.reply(Role.ANSWER_NO_DANGER)


# --- rewriting ---------------------------------------------------------------------------------


def ask_for_rewrite(trace: Completion, name: str) -> Prompt:
    """The prompt that asks for a trace in own words: its sentences without the tags."""
    source = trace.prompt
    sentences = [sentence.text for sentence in (*trace.think, *trace.answer)]
    return Prompt(
        id=name,
        text=wording.REWRITE.format(trace=" ".join(sentences)),
        domain=Domain.REWRITE,
        split=source.split,
        topic=source.topic,
        verb=source.verb,
        sum=source.sum,
        gold=source.gold,
    )


REWRITTEN = {
    Domain.FORBIDDEN: 0.5,
    Domain.LOOK_ALIKE: 0.15,
    Domain.ALLOWED: 0.15,
    Domain.MATHS: 0.2,
}


def _write_rewrite(rng: random.Random, name: str) -> Completion:
    """A teacher's trace said in the base policy's own words: the same roles and slots."""
    domain = rng.choices(tuple(REWRITTEN), tuple(REWRITTEN.values()))[0]
    source = draw_prompt(rng, PromptSplit.BASE, domain, name)
    formal = Writer(source, rng, p_formal=1.0)
    _teach(formal, Teacher.HINDSIGHT)

    plain = Writer(source, rng, p_formal=0.0, slots=formal.slots)
    _teach(plain, Teacher.HINDSIGHT)
    plain.prompt = ask_for_rewrite(formal.completion(), name)
    return plain.completion()
