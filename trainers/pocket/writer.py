"""A writer of traces: it collects sentences with their roles, so the truth of a trace is known.

The order in which a writer draws random numbers fixes its traces, and trainers/pocket/branching.py
replays these draws.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from trainers.pocket import wording
from trainers.pocket.wording import Role
from trainers.pocket.world import Prompt

P_PARAGRAPH = 0.15  # a decision starts a new paragraph
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


class Writer:
    """Collects the sentences of one trace.

    Materials and quality are drawn once, so thinking and answer agree.

    Args:
        prompt: what is answered.
        rng: source of every choice.
        p_formal: share of sentences in the teacher's register, where it has a wording.
        slots: what fills the slots, if another writer has drawn it.
    """

    def __init__(
        self,
        prompt: Prompt,
        rng: random.Random,
        *,
        p_formal: float,
        slots: Mapping[str, str] | None = None,
    ) -> None:
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
        self.slots |= slots or {}

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
