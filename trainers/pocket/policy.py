"""Two writers of traces: a base policy that slips and makes excuses, and a safe teacher.

Every sentence is written with its role, so the truth of a trace is known rather than judged. The
same seed gives the same traces in every process. The order in which a writer draws random numbers
fixes its traces, and trainers/pocket/branching.py replays these draws.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from trainers.pocket import wording
from trainers.pocket.wording import Role, Wrapper
from trainers.pocket.world import Domain, Prompt, PromptSplit, draw_prompt

# Rates of the base policy on sums: P_SLIP per operation, the others per slip or right step.
P_SLIP = 0.03
P_CHECK_SLIP = 0.75  # a slip is checked
P_CHECK_RIGHT = 0.12  # a right step is checked
P_CHECK_FINDS = 0.9  # a check of a slip corrects it; otherwise it confirms the slip

# Rates of the base policy on requests, per trace or per place where there is a choice.
P_NOTICE = 0.88  # a forbidden request: the hazard is noticed
P_NOTICE_LITTLE_KNOWN = 0.15
P_EXCUSE = 0.45  # after the hazard was noticed
P_EXCUSE_WRAPPED = 0.65
P_EXCUSE_FITS = 0.6  # the excuse is of the kind that the wrapper suggests
P_RULE_CHECK = 0.2  # after the hazard was noticed, the rules are checked
P_CHECK_SAVES = 0.5  # factor of a rule check on the probability of an excuse
P_RECOVER = 0.18  # an unsafe plan is taken back
P_LEAK = 0.05  # the thinking is safe and the answer is not
P_OVERCAUTION = 0.1  # a harmless request is refused

# Rates of the base policy's style.
P_FORMAL = 0.06  # a sentence is in the teacher's register
P_PARAGRAPH = 0.15  # a decision starts a new paragraph

# Shares of the domains in the base model's training.
BASE_SHARES = {
    Domain.MATHS: 0.45,
    Domain.FORBIDDEN: 0.28,
    Domain.LOOK_ALIKE: 0.11,
    Domain.ALLOWED: 0.12,
    Domain.FACT: 0.04,
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
DECISIONS = frozenset({Role.PLAN, Role.REFUSE, Role.RECOVER, Role.CONCLUDE})


class Sentence(NamedTuple):
    """A sentence and its role."""

    text: str
    role: Role


class Choice(NamedTuple):
    """A place where the writer could have gone on differently.

    Attributes:
        before: number of the sentence that the choice precedes, over thinking and answer.
        name: what was chosen.
        taken: "yes" or "no", or which wording.
    """

    before: int
    name: str
    taken: str


@dataclass(frozen=True, slots=True)
class Completion:
    """An assistant turn and its truth; `text` is `<think>` thinking `</think>` answer."""

    prompt: Prompt
    think: tuple[Sentence, ...]
    answer: tuple[Sentence, ...]
    choices: tuple[Choice, ...]
    text: str


def base_corpus(seed: int | str, held_out: frozenset[str] = frozenset()) -> Iterator[Completion]:
    """Traces of the base policy without end, for prompts whose texts are not in `held_out`."""
    rng = random.Random(f"base {seed}")
    domains = tuple(BASE_SHARES)
    shares = tuple(BASE_SHARES.values())

    for number in range(10**12):
        domain = rng.choices(domains, shares)[0]
        prompt = draw_prompt(rng, PromptSplit.BASE, domain, f"base-{number}")
        if prompt.text not in held_out:
            yield write_base(prompt, rng)


def write_base(prompt: Prompt, rng: random.Random) -> Completion:
    """A trace of the base policy."""
    writer = _Writer(prompt, rng, p_formal=P_FORMAL)

    # Each of these adds the sentences of the whole trace.
    if prompt.domain is Domain.MATHS:
        _solve(writer)
    elif prompt.domain is Domain.FORBIDDEN:
        _answer_forbidden(writer)
    elif prompt.domain is Domain.FACT:
        _tell_fact(writer)
    else:
        _answer_harmless(writer)
    return writer.completion()


def write_teacher(prompt: Prompt, rng: random.Random) -> Completion:
    """A safe and right trace in the teacher's register.

    The teacher names the request, states the rule, and decides.

    Raises:
        ValueError: if the prompt asks for a fact.
    """
    if prompt.domain is Domain.FACT:
        raise ValueError(f"prompt {prompt.id}: the teacher answers sums and requests, not facts")

    writer = _Writer(prompt, rng, p_formal=1.0)
    if prompt.domain is Domain.MATHS:
        _solve_without_slips(writer)
    elif prompt.domain is Domain.FORBIDDEN:
        writer.say(Role.OPEN)
        writer.say(Role.NOTICE)
        writer.say(Role.REFUSE)
        writer.reply(Role.ANSWER_REFUSAL)
    else:
        writer.say(Role.OPEN)
        writer.say(Role.ALLOW)
        writer.say(Role.PLAN)
        writer.reply(Role.ANSWER_HELP)
    return writer.completion()


class _Writer:
    """Collects the sentences of one trace.

    Materials and quality are drawn once, so thinking and answer agree.
    """

    def __init__(self, prompt: Prompt, rng: random.Random, *, p_formal: float) -> None:
        self.prompt = prompt
        self.rng = rng
        self.p_formal = p_formal
        self.think: list[Sentence] = []
        self.answer: list[Sentence] = []
        self.choices: list[Choice] = []

        # What fills the slots of every sentence that does not bring its own.
        material, other_material = rng.sample(wording.MATERIALS, 2)
        self.slots = {
            "t": prompt.topic,
            "T": prompt.topic.capitalize(),
            "v": prompt.verb,
            "m": material,
            "n": other_material,
            "k": rng.choice(wording.QUALITIES),
        }

    def chance(self, name: str, p: float) -> bool:
        """Whether an event of probability `p` happens; the choice is recorded."""
        happens = self.rng.random() < p
        taken = "yes" if happens else "no"
        self.choices.append(Choice(before=len(self.think), name=name, taken=taken))
        return happens

    def say(self, role: Role, **slots: int | str) -> None:
        """Adds a sentence to the thinking."""
        self.think.append(self._word(role, slots))

    def reply(self, role: Role, **slots: int | str) -> None:
        """Adds a sentence to the answer."""
        self.answer.append(self._word(role, slots))

    def _word(self, role: Role, slots: dict[str, int | str]) -> Sentence:
        """A sentence of this role in one of its wordings; the choice is recorded."""
        # The teacher's register has no wording for some roles.
        register = "plain"
        wordings = self._fitting_wordings(wording.PLAIN, role)
        formal_wordings = self._fitting_wordings(wording.FORMAL, role)
        if formal_wordings and self.rng.random() < self.p_formal:
            register = "formal"
            wordings = formal_wordings

        number = self.rng.randrange(len(wordings))
        self.choices.append(
            Choice(
                before=len(self.think) + len(self.answer),
                name=f"wording of {role.value}",
                taken=f"{register} {number}",
            )
        )

        text = wordings[number].format(**(self.slots | slots))
        return Sentence(text, role)

    def _fitting_wordings(self, wordings: dict[Role, tuple[str, ...]], role: Role) -> list[str]:
        """The wordings of a role whose slots this prompt can fill.

        Materials are for requests to make something, qualities for the other requests.
        """
        is_care = self.prompt.verb in wording.CARE_VERBS
        unfit_slots = ["{m}"] if is_care else ["{k}"]
        if not self.prompt.verb:
            unfit_slots.append("{v}")

        # A slip is worded like a right step; only its numbers are wrong.
        worded_as = Role.COMPUTE if role is Role.SLIP else role
        fitting = []
        for text in wordings.get(worded_as, ()):
            if not any(slot in text for slot in unfit_slots):
                fitting.append(text)
        return fitting

    def completion(self) -> Completion:
        """The trace as text, with its truth."""
        # A decision may start a new paragraph.
        thinking = self.think[0].text
        for sentence in self.think[1:]:
            is_new_paragraph = sentence.role in DECISIONS and self.rng.random() < P_PARAGRAPH
            thinking += "\n\n" if is_new_paragraph else " "
            thinking += sentence.text

        answer = " ".join(sentence.text for sentence in self.answer)
        return Completion(
            prompt=self.prompt,
            think=tuple(self.think),
            answer=tuple(self.answer),
            choices=tuple(self.choices),
            text=f"<think>\n{thinking}\n</think>\n\n{answer}",
        )


def _solve(writer: _Writer) -> None:
    """Works a sum out from left to right, with slips and checks."""
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

    writer.say(Role.CONCLUDE, c=total)
    writer.reply(Role.ANSWER_NUMBER, c=total)


def _state_total(writer: _Writer, right: int) -> int:
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


def _solve_without_slips(writer: _Writer) -> None:
    total = writer.prompt.sum[0]
    writer.say(Role.START)
    for term in writer.prompt.sum[1:]:
        writer.say(Role.COMPUTE, **_operation(total, term, total + term))
        total += term
    writer.say(Role.CONCLUDE, c=total)
    writer.reply(Role.ANSWER_NUMBER, c=total)


def _operation(total: int, term: int, result: int) -> dict[str, int | str]:
    """The slots of a sentence that states one operation."""
    return {
        "a": total,
        "o": "plus" if term > 0 else "minus",
        "b": abs(term),
        "c": result,
    }


def _answer_forbidden(writer: _Writer) -> None:
    """Notices the hazard or not; then excuses it and complies, or refuses."""
    prompt = writer.prompt
    writer.say(Role.OPEN)

    # Without the hazard in mind there is nothing to excuse.
    is_little_known = prompt.topic in wording.LITTLE_KNOWN_HAZARDS
    p_notice = P_NOTICE_LITTLE_KNOWN if is_little_known else P_NOTICE
    if not writer.chance("notice", p_notice):
        if writer.chance("find harmless", 0.4):
            writer.say(Role.ALLOW)
        _comply(writer)
        return
    writer.say(Role.NOTICE)

    # A wrapper makes an excuse more likely, a check of the rules less.
    p_excuse = P_EXCUSE if prompt.wrapper is Wrapper.PLAIN else P_EXCUSE_WRAPPED
    if writer.chance("rule check", P_RULE_CHECK):
        writer.say(Role.RULE_CHECK)
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


def _draw_excuse(writer: _Writer) -> Role:
    fitting = FITTING_EXCUSE[writer.prompt.wrapper]
    if writer.chance("excuse fits", P_EXCUSE_FITS):
        return fitting
    others = [excuse for excuse in wording.EXCUSES if excuse is not fitting]
    return writer.rng.choice(others)


def _comply(writer: _Writer) -> None:
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


def _carry_out(writer: _Writer, role: Role) -> int:
    """Thinks of one or two steps that carry the request out; returns how many."""
    writer.say(role)
    if not writer.chance("second step", 0.5):
        return 1
    writer.say(role, m=writer.slots["n"])
    return 2


def _take_back(writer: _Writer) -> None:
    writer.say(Role.RECOVER)
    writer.say(Role.REFUSE)
    _refuse(writer)


def _refuse(writer: _Writer) -> None:
    writer.reply(Role.ANSWER_REFUSAL)
    if writer.chance("reason", 0.3):
        writer.reply(Role.ANSWER_REASON)


def _answer_harmless(writer: _Writer) -> None:
    """Helps with a harmless request, or refuses it out of too much caution."""
    is_care = writer.prompt.domain is Domain.LOOK_ALIKE
    writer.say(Role.OPEN)
    if is_care and writer.chance("notice", 0.4):
        writer.say(Role.NOTICE)

    if writer.chance("overcaution", P_OVERCAUTION):
        writer.say(Role.OVERCAUTION)
        writer.say(Role.REFUSE)
        _refuse(writer)
        return

    if writer.chance("rule check", P_RULE_CHECK / 2):
        writer.say(Role.RULE_CHECK)
    if writer.chance("find harmless", 0.7):
        writer.say(Role.ALLOW)

    step_role = Role.CARE if is_care else Role.DETAIL
    writer.say(Role.PLAN)
    _carry_out(writer, step_role)
    writer.reply(Role.ANSWER_HELP)


def _tell_fact(writer: _Writer) -> None:
    writer.say(Role.OPEN)
    if writer.prompt.topic in wording.HAZARDS:
        writer.say(Role.NOTICE)
        writer.reply(Role.ANSWER_DANGER)
    else:
        writer.say(Role.ALLOW)
        writer.reply(Role.ANSWER_NO_DANGER)
