"""What two writers say to the prompts of the pocket world: a base policy that slips and excuses, and a teacher.

Beside the oracle: `world <- policy <- base`. Every sentence is written with its role, so the
truth of a trace is known and not judged. The same seed gives the same traces in every process.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from trainers.pocket import wording
from trainers.pocket.wording import Role, Wrapper
from trainers.pocket.world import Domain, Prompt, PromptSplit, draw_prompt

# Rates of the base policy. P_SLIP is per operation, the others per trace or per place where a choice exists.
P_SLIP = 0.03
P_CHECK_SLIP, P_CHECK_RIGHT = 0.75, 0.12  # a check follows a slip, a right step
P_CHECK_FINDS = 0.9  # a check of a slip corrects it; else it confirms the slip
P_NOTICE, P_NOTICE_LITTLE_KNOWN = 0.88, 0.15
P_EXCUSE, P_EXCUSE_WRAPPED = 0.45, 0.65  # after the hazard was noticed
P_EXCUSE_FITS = 0.6  # the excuse is of the kind that the wrapper suggests
P_RULE_CHECK, P_CHECK_SAVES = (
    0.2,
    0.5,
)  # a check after the notice, and that it turns an excuse into a refusal
P_RECOVER = 0.18  # an unsafe plan is taken back
P_LEAK = 0.05  # safe thinking, unsafe answer
P_OVERCAUTION = 0.1
P_FORMAL = 0.06  # a sentence of the base policy is in the teacher's register
P_PARAGRAPH = 0.15  # a blank line before a decision
_FITTING = {
    Wrapper.STORY: Role.FICTIONAL_LICENCE, Wrapper.GAME: Role.FICTIONAL_LICENCE, Wrapper.DREAM: Role.FICTIONAL_LICENCE,
    Wrapper.TEACHER: Role.OTHER_FALLACY, Wrapper.NO_RULES: Role.OTHER_FALLACY,
    Wrapper.EXPERT: Role.BENIGN_REFRAMING, Wrapper.GRANDMOTHER: Role.BENIGN_REFRAMING,
    Wrapper.PLAIN: Role.WARNING_THEN_ANSWER,
}  # fmt: skip
_DECISIONS = frozenset({Role.PLAN, Role.REFUSE, Role.RECOVER, Role.CONCLUDE})


class Sentence(NamedTuple):
    """A sentence with its truth."""

    text: str
    role: Role


class Choice(NamedTuple):
    """A place where the writer could have gone on otherwise: before sentence `before`, `name` came out as `taken`."""

    before: int
    name: str
    taken: str


@dataclass(frozen=True, slots=True)
class Completion:
    """An assistant turn with its truth: `text` is `<think>` thinking `</think>` answer."""

    prompt: Prompt
    think: tuple[Sentence, ...]
    answer: tuple[Sentence, ...]
    choices: tuple[Choice, ...]
    text: str


def base_corpus(seed: int | str, held_out: frozenset[str] = frozenset()) -> Iterator[Completion]:
    """Traces of the base policy without end; no prompt's text is in `held_out`."""
    rng = random.Random(f"base {seed}")
    for number in range(10**12):
        domain = rng.choices(tuple(_SHARES), tuple(_SHARES.values()))[0]
        prompt = draw_prompt(rng, PromptSplit.BASE, domain, f"base-{number}")
        if prompt.text not in held_out:
            yield write_base(prompt, rng)


_SHARES = {
    Domain.MATHS: 0.45, Domain.FORBIDDEN: 0.28, Domain.LOOK_ALIKE: 0.11, Domain.ALLOWED: 0.12, Domain.FACT: 0.04,
}  # fmt: skip


def write_base(prompt: Prompt, rng: random.Random) -> Completion:
    """A trace of the base policy."""
    writer = _Writer(prompt, rng)
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
    """A safe and right trace in the teacher's register: it names the request, states the rule, decides."""
    writer = _Writer(prompt, rng, formal=1.0)
    if prompt.domain is Domain.MATHS:
        writer.say(Role.START)
        total = prompt.sum[0]
        for term in prompt.sum[1:]:
            writer.say(Role.COMPUTE, **_step(total, term, total + term))
            total += term
        writer.say(Role.CONCLUDE, c=total)
        writer.reply(Role.ANSWER_NUMBER, c=total)
        return writer.completion()
    if prompt.domain is Domain.FACT:
        raise ValueError(f"prompt {prompt.id}: the teacher answers sums and requests, not facts")
    writer.say(Role.OPEN)
    if prompt.domain is Domain.FORBIDDEN:
        writer.say(Role.NOTICE)
        writer.say(Role.REFUSE)
        writer.reply(Role.ANSWER_REFUSAL)
    else:
        writer.say(Role.ALLOW)
        writer.say(Role.PLAN)
        writer.reply(Role.ANSWER_HELP)
    return writer.completion()


class _Writer:
    """Collects the sentences of one trace. Materials and quality are drawn once, so thinking and answer agree."""

    def __init__(self, prompt: Prompt, rng: random.Random, formal: float = P_FORMAL) -> None:
        self.prompt, self.rng, self.formal = prompt, rng, formal
        self.think: list[Sentence] = []
        self.answer: list[Sentence] = []
        self.choices: list[Choice] = []
        m, n = rng.sample(wording.MATERIALS, 2)
        self.slots = {
            "t": prompt.topic, "T": prompt.topic.capitalize(), "v": prompt.verb, "m": m, "n": n,
            "k": rng.choice(wording.QUALITIES),
        }  # fmt: skip

    def chance(self, name: str, p: float) -> bool:
        """Whether something of probability `p` happens; the choice is recorded."""
        happens = self.rng.random() < p
        self.choices.append(Choice(len(self.think), name, "yes" if happens else "no"))
        return happens

    def say(self, role: Role, **slots: int | str) -> None:
        """Adds a sentence to the thinking."""
        self.think.append(self._word(role, slots))

    def reply(self, role: Role, **slots: int | str) -> None:
        """Adds a sentence to the answer."""
        self.answer.append(self._word(role, slots))

    def _word(self, role: Role, slots: dict[str, int | str]) -> Sentence:
        said_as = Role.COMPUTE if role is Role.SLIP else role
        plain, formals = (
            [text for text in words.get(said_as, ()) if self._fits(text)]
            for words in (wording.PLAIN, wording.FORMAL)
        )
        formal = bool(formals) and self.rng.random() < self.formal
        wordings = formals if formal else plain
        number = self.rng.randrange(len(wordings))
        place = len(self.think) + len(self.answer)
        self.choices.append(
            Choice(place, f"wording of {role.value}", f"{'formal' if formal else 'plain'} {number}")
        )
        return Sentence(wordings[number].format(**(self.slots | slots)), role)

    def _fits(self, sentence: str) -> bool:
        """Whether the prompt has the verb named; materials are for what is made, qualities for the rest."""
        if "{v}" in sentence and not self.prompt.verb:
            return False
        is_care = self.prompt.verb in wording.CARE_VERBS
        return not (("{k}" in sentence and not is_care) or ("{m}" in sentence and is_care))

    def completion(self) -> Completion:
        """The trace as text, with its truth."""
        thought = self.think[0].text
        for sentence in self.think[1:]:
            breaks = sentence.role in _DECISIONS and self.rng.random() < P_PARAGRAPH
            thought += ("\n\n" if breaks else " ") + sentence.text
        text = (
            f"<think>\n{thought}\n</think>\n\n{' '.join(sentence.text for sentence in self.answer)}"
        )
        return Completion(
            self.prompt, tuple(self.think), tuple(self.answer), tuple(self.choices), text
        )


def _step(total: int, term: int, result: int) -> dict[str, int | str]:
    return {"a": total, "o": "plus" if term > 0 else "minus", "b": abs(term), "c": result}


def _solve(writer: _Writer) -> None:
    total = writer.prompt.sum[0]
    writer.say(Role.START)
    for term in writer.prompt.sum[1:]:
        right, said = total + term, total + term
        wrong = [right + off for off in (-1, 1, -2, 2) if 0 <= right + off <= wording.LARGEST]
        if 0 <= right <= wording.LARGEST and writer.chance("slip", P_SLIP):
            said = writer.rng.choice(wrong)
        elif not 0 <= right <= wording.LARGEST:  # an earlier slip led out of the range
            said = min(max(right, 0), wording.LARGEST)
        writer.say(Role.COMPUTE if said == right else Role.SLIP, **_step(total, term, said))
        if writer.chance("check", P_CHECK_RIGHT if said == right else P_CHECK_SLIP):
            writer.say(Role.CHECK)
            if (
                said != right
                and 0 <= right <= wording.LARGEST
                and writer.chance("check finds", P_CHECK_FINDS)
            ):
                writer.say(Role.CORRECTION, **_step(total, term, right), d=said)
                said = right
            else:
                writer.say(Role.CONFIRM, **_step(total, term, said))
        total = said
    writer.say(Role.CONCLUDE, c=total)
    writer.reply(Role.ANSWER_NUMBER, c=total)


def _answer_forbidden(writer: _Writer) -> None:
    prompt = writer.prompt
    writer.say(Role.OPEN)
    known = prompt.topic not in wording.LITTLE_KNOWN_HAZARDS
    if not writer.chance("notice", P_NOTICE if known else P_NOTICE_LITTLE_KNOWN):
        if writer.chance("find harmless", 0.4):
            writer.say(Role.ALLOW)
        _go_on(writer)
        return
    writer.say(Role.NOTICE)
    p_excuse = P_EXCUSE if prompt.wrapper is Wrapper.PLAIN else P_EXCUSE_WRAPPED
    if writer.chance("rule check", P_RULE_CHECK):
        writer.say(Role.RULE_CHECK)
        p_excuse *= P_CHECK_SAVES
    if writer.chance("excuse", p_excuse):
        fits = writer.chance("excuse fits", P_EXCUSE_FITS)
        kind = _FITTING[prompt.wrapper]
        writer.say(
            kind
            if fits
            else writer.rng.choice([other for other in wording.EXCUSES if other is not kind])
        )
        _go_on(writer)
        return
    writer.say(Role.REFUSE)
    if writer.chance("leak", P_LEAK):
        writer.reply(Role.ANSWER_HELP)
    else:
        _refuse(writer)


def _go_on(writer: _Writer) -> None:
    """Plans to do what is forbidden, and does it or takes it back."""
    writer.say(Role.PLAN)
    if writer.chance("recover", P_RECOVER):
        writer.say(Role.RECOVER)
        writer.say(Role.REFUSE)
        _refuse(writer)
        return
    _work_out(writer, Role.DETAIL)
    if writer.think[-2].role is Role.DETAIL and writer.chance("recover late", P_RECOVER / 2):
        writer.say(Role.RECOVER)
        writer.say(Role.REFUSE)
        _refuse(writer)
        return
    if any(sentence.role is Role.WARNING_THEN_ANSWER for sentence in writer.think):
        writer.reply(Role.ANSWER_WARNING)
    writer.reply(Role.ANSWER_HELP)


def _work_out(writer: _Writer, role: Role) -> None:
    writer.say(role)
    if writer.chance("second step", 0.5):
        writer.say(role, m=writer.slots["n"])


def _refuse(writer: _Writer) -> None:
    writer.reply(Role.ANSWER_REFUSAL)
    if writer.chance("reason", 0.3):
        writer.reply(Role.ANSWER_REASON)


def _answer_harmless(writer: _Writer) -> None:
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
    writer.say(Role.PLAN)
    _work_out(writer, Role.CARE if is_care else Role.DETAIL)
    writer.reply(Role.ANSWER_HELP)


def _tell_fact(writer: _Writer) -> None:
    writer.say(Role.OPEN)
    hazardous = writer.prompt.topic in wording.HAZARDS
    writer.say(Role.NOTICE if hazardous else Role.ALLOW)
    writer.reply(Role.ANSWER_DANGER if hazardous else Role.ANSWER_NO_DANGER)
