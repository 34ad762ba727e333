"""Where the base policy itself could have gone on differently, and its entropy there in nats.

A model that has learned the policy should be uncertain where the policy is, and nowhere else. This
is the truth that token entropies are measured against.

The policy is a program that draws random numbers. To know what could have followed a sentence, the
draws up to its start are replayed and the rest is drawn anew, many times. At each token the entropy
is that of the next token among the redraws that agree so far. What was drawn but has not shown
itself yet (the materials, the quality) is drawn anew too.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from cotlens.trace import Span
from trainers.pocket import wording
from trainers.pocket.policy import write_base
from trainers.pocket.world import Prompt
from trainers.pocket.writer import Completion, Sentence

REDRAWS = 2000
LEAST = 100  # an entropy needs at least this many redraws that agree up to its token

DECISION = "decision"
WORDING = "wording"
DETERMINED = "determined"

Cut = Callable[[str], Sequence[str]]  # splits a text into tokens, which concatenate to it


@dataclass(frozen=True, slots=True)
class Branching:
    """One token of the thinking of a trace that the base policy wrote.

    Attributes:
        chars: where the token is, in code points of the completion.
        entropy_nats: entropy of the policy's next token, given all before, from `n` redraws. The
            estimate from few redraws is too low; (tokens seen - 1) / 2n is added to correct it
            (Miller and Madow 1955).
        kind: `decision` where the redraws go on with sentences of other roles, `wording` where they
            go on with other words of one role, `determined` where all go on with this token.
        n: redraws that agree up to here.
    """

    chars: Span
    entropy_nats: float
    kind: str
    n: int


def branchings(
    prompt: Prompt, seed: int, cut: Cut, *, redraws: int = REDRAWS
) -> tuple[Completion, list[Branching]]:
    """A trace of the base policy, and the policy's entropy at each token of its thinking.

    Tokens that fewer than `LEAST` redraws reach are left out, with the rest of their sentence.

    Args:
        prompt: a prompt of the world.
        seed: seed of the trace.
        cut: splits a text into the tokens of a tokenizer, which concatenate to the text.
        redraws: redraws per sentence.
    """
    tape = _Tape(seed)
    written = write_base(prompt, tape)  # pyright: ignore[reportArgumentType]

    # Traces of different seeds have different redraws.
    first_seed = seed * redraws
    seeds = range(first_seed, first_seed + redraws)

    # For each sentence and the end: draw what could have stood in its place, and compare.
    tokens: list[Branching] = []
    for number, chars in enumerate(_continuations(written)):
        before = written.think[:number]
        drawn = _draw_continuations(prompt, tape, before, seeds)
        sentence_tokens = cut(chars.of(written.text))
        tokens += _measure_tokens(chars.start, sentence_tokens, cut, drawn)
    return written, tokens


def policy_path(folder: Path) -> Path:
    """Where a seed's folder has the policy's entropies, one row per token."""
    return folder / "base" / "policy.parquet"


class _Continuation(NamedTuple):
    """What follows the first sentences of a trace: the next sentence and its role, or the end."""

    text: str
    role: str


def _continuations(written: Completion) -> Iterator[Span]:
    """The sentences of the thinking, each with the space before it; last the closing tag."""
    start = written.text.index("\n") + 1
    for sentence in written.think:
        sentence_start = written.text.index(sentence.text, start)
        stop = sentence_start + len(sentence.text)
        yield Span(start, stop)
        start = stop

    end = start + len("\n</think>")
    yield Span(start, end)


def _draw_continuations(
    prompt: Prompt, tape: "_Tape", before: Sequence[Sentence], seeds: range
) -> Counter[_Continuation]:
    """How often each continuation follows the sentences `before` in other runs of the policy."""
    number = len(before)
    shown_words: set[str] = set()
    for sentence in before:
        shown_words.update(re.findall(r"[a-z]+", sentence.text))

    drawn: Counter[_Continuation] = Counter()
    for seed in seeds:
        replay = _Replay(tape, number, seed, shown_words)
        other = write_base(prompt, replay)  # pyright: ignore[reportArgumentType]

        # The run repeats the sentences before, then has a sentence or an end.
        chars = next(islice(_continuations(other), number, None))
        role = "end"
        if number < len(other.think):
            role = other.think[number].role.value

        continuation = _Continuation(chars.of(other.text), role)
        drawn[continuation] += 1
    return drawn


def _measure_tokens(
    start: int, written_tokens: Sequence[str], cut: Cut, drawn: Counter[_Continuation]
) -> Iterator[Branching]:
    """The tokens of one sentence, each with its entropy among the redraws that agree so far.

    Args:
        start: start of the sentence, in code points of the completion.
        written_tokens: the sentence as it was written.
        cut: splits a text into tokens.
        drawn: how often each continuation was drawn.
    """
    agreeing = [(cut(drawn_text), role, n) for (drawn_text, role), n in drawn.items()]

    for place, token in enumerate(written_tokens):
        next_tokens: Counter[str] = Counter()
        for tokens, _, n in agreeing:
            next_token = tokens[place] if place < len(tokens) else ""
            next_tokens[next_token] += n
        if next_tokens.total() < LEAST:
            return

        # Keep the redraws that go on with this token. Roles that drop out make it a decision.
        roles_before = {role for _, role, _ in agreeing}
        agreeing = [
            (tokens, role, n)
            for tokens, role, n in agreeing
            if place < len(tokens) and tokens[place] == token
        ]
        roles_after = {role for _, role, _ in agreeing}

        if len(next_tokens) == 1:
            kind = DETERMINED
        elif roles_before != roles_after:
            kind = DECISION
        else:
            kind = WORDING

        chars = Span(start, start + len(token))
        yield Branching(
            chars=chars,
            entropy_nats=_entropy(next_tokens),
            kind=kind,
            n=next_tokens.total(),
        )
        start = chars.stop


def _entropy(counts: Counter[str]) -> float:
    """Entropy of counts in nats, corrected for few of them (Miller and Madow 1955)."""
    total = counts.total()
    entropy = 0.0
    for n in counts.values():
        share = n / total
        entropy -= share * math.log(share)

    n_kinds = len(counts)
    correction = (n_kinds - 1) / 2 / total
    return entropy + correction


class _Tape:
    """A generator of random numbers that records what it drew and where each wording was drawn.

    It has those methods of `random.Random` that the policy calls. `after_sentence[k]` is the number
    of draws made when the wording of sentence k had been drawn.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(f"branching {seed}")
        self.draws: list[Any] = []
        self.after_sentence: list[int] = []

    def random(self) -> float:
        value = self.rng.random()
        return self._record(value)

    def randrange(self, n: int) -> int:
        # The policy draws only wordings with `randrange`, one for each sentence.
        value = self._record(self.rng.randrange(n))
        n_draws = len(self.draws)
        self.after_sentence.append(n_draws)
        return value

    def choice(self, options: Sequence[Any]) -> Any:
        value = self.rng.choice(options)
        return self._record(value)

    def sample(self, options: Sequence[Any], n: int) -> list[Any]:
        values = self.rng.sample(options, n)
        return self._record(values)

    def _record(self, value: Any) -> Any:
        self.draws.append(value)
        return value


class _Replay(_Tape):
    """The draws of a tape up to the end of its first `number` sentences, then new draws.

    The first two draws of a trace, the materials and the quality, are repeated only as far as
    `shown_words` names them.
    """

    def __init__(self, tape: _Tape, number: int, seed: int, shown_words: set[str]) -> None:
        super().__init__(seed)
        self.shown_words = shown_words

        # The draws that were made when the wording of the last of these sentences was drawn.
        n_replayed = 0
        if number:
            n_replayed = tape.after_sentence[number - 1]
        self.replayed = iter(tape.draws[:n_replayed])

    def random(self) -> float:
        value = next(self.replayed, None)
        if value is None:
            return self.rng.random()
        return value

    def randrange(self, n: int) -> int:
        value = next(self.replayed, None)
        if value is None:
            return self.rng.randrange(n)
        return value

    def choice(self, options: Sequence[Any]) -> Any:
        value = next(self.replayed, None)
        if value is None:
            return self.rng.choice(options)

        # A quality that no sentence has named yet could still be another.
        is_quality = tuple(options) == wording.QUALITIES
        if is_quality and value not in self.shown_words:
            return self.rng.choice(options)
        return value

    def sample(self, options: Sequence[Any], n: int) -> list[Any]:
        # The first material is named before the second, so the shown ones come first.
        materials = next(self.replayed, [])
        shown = [material for material in materials if material in self.shown_words]

        others = [option for option in options if option not in shown]
        n_hidden = n - len(shown)
        hidden = self.rng.sample(others, n_hidden)
        return shown + hidden
