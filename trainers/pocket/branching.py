"""Where the base policy itself could have gone on otherwise, and how uncertain it was there, in nats.

Beside the base model: `policy <- branching`. A model that has learned the policy should be uncertain where
the policy is, and nowhere else; this is the truth that token entropies are measured against.

The policy is a program that draws from a generator of random numbers. To know what could have followed a sentence, the
draws up to its end are played again and the rest is drawn anew, many times; at each token the entropy is that of
the next token among the redraws that agree so far. What was drawn but has not shown itself yet (the materials, the
quality) is drawn anew too.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cotlens.trace import Span
from trainers.pocket import wording
from trainers.pocket.policy import Completion, write_base
from trainers.pocket.world import Prompt

REDRAWS = 2000
LEAST = 100  # redraws that must agree up to a token for its entropy to be known
DECISION, WORDING, DETERMINED = "decision", "wording", "determined"


@dataclass(frozen=True, slots=True)
class Branching:
    """One token of the thinking of a trace that the base policy wrote.

    Attributes:
        chars: the token, code points into the completion.
        entropy_nats: of the policy's next token, given all before; from `n` redraws, and a little too low for few
            (Miller and Madow 1955: by (kinds - 1) / 2n, which is added).
        kind: `decision` where the redraws go on with sentences of other roles, `wording` where with other words of one
            role, `determined` where they all go on with this token.
        n: redraws that agree up to here.
    """

    chars: Span
    entropy_nats: float
    kind: str
    n: int


def branchings(
    prompt: Prompt, seed: int, cut: Callable[[str], Sequence[str]], *, redraws: int = REDRAWS
) -> tuple[Completion, list[Branching]]:
    """A trace of the base policy, and how uncertain the policy was at each token of its thinking.

    Args:
        prompt: of the world.
        seed: of the trace.
        cut: text to the pieces of a tokenizer, which concatenate to it.
        redraws: per sentence.
    """
    taped = _Tape(seed)
    written = write_base(prompt, taped)  # pyright: ignore[reportArgumentType]
    text, found = written.text, []
    for number, (start, stop) in enumerate(_stretches(written)):
        others = Counter(
            _redraw(prompt, taped, written, number, seed * redraws + k) for k in range(redraws)
        )
        found += _along(start, cut(text[start:stop]), cut, others)
    return written, found


def _stretches(written: Completion) -> Iterator[tuple[int, int]]:
    """Start and stop of each sentence of the thinking, with the space before it; the closing tag is the last."""
    at = written.text.index("\n") + 1
    for sentence in written.think:
        stop = written.text.index(sentence.text, at) + len(sentence.text)
        yield at, stop
        at = stop
    yield at, at + len("\n</think>")


def _along(
    start: int, pieces: Sequence[str], cut: Callable[[str], Sequence[str]], others: Counter
) -> Iterator[Branching]:
    """The tokens of one sentence, each with what the redraws that agree so far go on with."""
    agreeing = [(cut(stretch), role, n) for (stretch, role), n in others.items()]
    for place, piece in enumerate(pieces):
        followers: Counter[str] = Counter()
        for words, _, n in agreeing:
            followers[words[place] if place < len(words) else ""] += n
        total, roles = followers.total(), {role for _, role, _ in agreeing}
        if total < LEAST:
            return
        entropy = (
            -sum(n / total * math.log(n / total) for n in followers.values())
            + (len(followers) - 1) / 2 / total
        )
        agreeing = [one for one in agreeing if place < len(one[0]) and one[0][place] == piece]
        apart = {role for _, role, _ in agreeing} != roles
        kind = DETERMINED if len(followers) == 1 else DECISION if apart else WORDING
        yield Branching(Span(start, start := start + len(piece)), entropy, kind, total)


def _redraw(
    prompt: Prompt, taped: "_Tape", written: Completion, number: int, seed: int
) -> tuple[str, str]:
    """What follows the first `number` sentences in another run of the policy: the next sentence, and its role."""
    shown = {
        word for sentence in written.think[:number] for word in re.findall(r"[a-z]+", sentence.text)
    }
    replay = _Replay(taped, number, seed, shown)
    other = write_base(prompt, replay)  # pyright: ignore[reportArgumentType]
    for k, (start, stop) in enumerate(_stretches(other)):
        if k == number:
            role = other.think[k].role.value if k < len(other.think) else "end"
            return other.text[start:stop], role
    raise AssertionError("a run that repeats n sentences has at least n, and an end")


# --- draws, taped and played again -----------------------------------------------------------------------------
class _Tape:
    """A generator of random numbers that keeps what it gave, and where each wording was drawn."""

    def __init__(self, seed: int) -> None:
        self.rng, self.given = random.Random(f"branching {seed}"), list[Any]()
        self.after_sentence: list[
            int
        ] = []  # draws made when the wording of the k-th sentence was drawn

    def random(self) -> float:
        return self._keep(self.rng.random())

    def randrange(self, n: int) -> int:  # only wordings are drawn so, once a sentence
        value = self._keep(self.rng.randrange(n))
        self.after_sentence.append(len(self.given))
        return value

    def choice(self, options: Sequence[Any]) -> Any:
        return self._keep(self.rng.choice(options))

    def sample(self, options: Sequence[Any], n: int) -> list[Any]:
        return self._keep(self.rng.sample(options, n))

    def _keep(self, value: Any) -> Any:
        self.given.append(value)
        return value


class _Replay(_Tape):
    """The draws of a tape up to the end of its `number`-th sentence, then new ones.

    The first two draws of a trace, materials and quality, stay as far as `shown` names them.
    """

    def __init__(self, tape: _Tape, number: int, seed: int, shown: set[str]) -> None:
        super().__init__(seed)
        self.played = iter(tape.given[: tape.after_sentence[number - 1]] if number else ())
        self.shown = shown

    def sample(self, options: Sequence[Any], n: int) -> list[Any]:
        taped = next(self.played, [])
        kept = taped[
            : sum(word in self.shown for word in taped)
        ]  # the first is named before the second
        return kept + self.rng.sample([word for word in options if word not in kept], n - len(kept))

    def choice(self, options: Sequence[Any]) -> Any:
        taped = next(self.played, None)
        hidden = tuple(options) == wording.QUALITIES and taped not in self.shown
        return self.rng.choice(options) if taped is None or hidden else taped

    def random(self) -> float:
        value = next(self.played, None)
        return self.rng.random() if value is None else value

    def randrange(self, n: int) -> int:
        value = next(self.played, None)
        return self.rng.randrange(n) if value is None else value
