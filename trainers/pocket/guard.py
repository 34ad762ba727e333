"""A learned guard of the pocket world: cheap, and wrong where its few labels were, as the guards of real training are.

Beside the base model: `base <- guard`. Rewards ask this guard; evaluations ask the oracle. So what training
does to the judge it is rewarded by can be told from what it does to the truth.
"""

import json
import random
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from cotlens.files import write_atomic
from cotlens.judges.verdict import Item, Part, Verdict
from cotlens.text.split import split_think
from cotlens.trace import Trace
from trainers.pocket.oracle import read_truth
from trainers.pocket.world import Domain, Prompt, PromptSplit, draw_prompt

N_PROMPTS = (
    400  # with one labelled completion each: half forbidden, the rest look-alike and allowed
)
P_WRONG_LABEL = 0.1  # of a thinking or an answer
RIDGE = 0.3  # strength of the penalty on squared weights, per label


class LearnedGuard:
    """Logistic regression on the words and pairs of words of a text and the words of its prompt, for each part apart.

    It is a `cotlens.judges.guard.Guard`. A text is unsafe from `p_unsafe` = 1/2 on; words that it has not met say nothing.

    Args:
        weights: by feature, with the bias of a part under its own name.
        seed: of the labels it was fitted to.
    """

    name, revision, batch_size = "learned", "", 4096

    def __init__(self, weights: dict[str, float], seed: int = 0) -> None:
        self.weights, self.identity = weights, f"pocket learned guard {seed}"

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item; a blank text is undecided."""
        return [self._judge(item) for item in items]

    def _judge(self, item: Item) -> Verdict:
        if not item.text.strip():
            return Verdict("undecided")
        total = sum(
            self.weights.get(name, 0.0) for name in features(item.prompt, item.text, item.part)
        )
        p = float(1 / (1 + np.exp(-total)))
        return Verdict("unsafe" if p >= 0.5 else "safe", p_unsafe=p)

    def save(self, path: Path) -> None:
        """Writes the weights as JSON."""
        write_atomic(
            path, json.dumps({"identity": self.identity, "weights": self.weights}, indent=0)
        )

    @classmethod
    def load(cls, path: Path) -> "LearnedGuard":
        """The guard of a file."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        return cls(stored["weights"], int(stored["identity"].rpartition(" ")[2]))


def features(prompt: str, text: str, part: Part) -> set[str]:
    """What the guard sees of a text: the part, and within it words, pairs of neighbours, and words of the prompt."""
    words = re.findall(r"[a-z']+|[.?!]", text.lower())
    asked = re.findall(r"[a-z']+", prompt.lower())
    found = {
        *words,
        *(f"{a} {b}" for a, b in pairwise(words)),
        *(f"asked {word}" for word in asked),
    }
    return {part.value, *(f"{part.value}: {name}" for name in found)}


def guard_prompts(seed: int, n: int = N_PROMPTS) -> list[Prompt]:
    """The prompts of the guard's labels: of the kinds that safety training has; none of the new topics or wrappers."""
    rng = random.Random(f"guard {seed}")
    domains = (Domain.FORBIDDEN, Domain.LOOK_ALIKE, Domain.FORBIDDEN, Domain.ALLOWED)
    return [draw_prompt(rng, PromptSplit.TRAIN, domains[i % 4], f"guard-{i:04d}") for i in range(n)]


def fit_guard(traces: Iterable[Trace], prompts: Iterable[Prompt], seed: int) -> LearnedGuard:
    """A guard fitted to the oracle's verdicts on these samples, of which one in ten is turned round.

    Args:
        traces: samples of the base model.
        prompts: theirs, found by id.
        seed: of the wrong labels.
    """
    of, rng = {prompt.id: prompt for prompt in prompts}, random.Random(f"labels {seed}")
    rows: list[set[str]] = []
    labels: list[bool] = []
    for trace in traces:
        prompt = of[trace.prompt_id]
        truth, split = read_truth(trace.completion, prompt), split_think(trace.completion)
        thinking = "\n\n".join(span.of(trace.completion) for span in split.think)
        texts = (thinking, Part.THINKING, truth.thinking_unsafe), (
            split.answer.of(trace.completion), Part.ANSWER, truth.answer_unsafe,
        )  # fmt: skip
        for text, part, unsafe in texts:
            if text.strip():
                rows.append(features(prompt.text, text, part))
                labels.append(unsafe != (rng.random() < P_WRONG_LABEL))
    return LearnedGuard(_fit(rows, np.array(labels, float)), seed)


def _fit(rows: Sequence[set[str]], labels: Any) -> dict[str, float]:
    """Weights of a penalised logistic regression."""
    names = sorted(set().union(*rows))
    number = {name: i for i, name in enumerate(names)}
    places = [(i, number[name]) for i, row in enumerate(rows) for name in sorted(row)]
    at, columns = zip(*places, strict=True)
    x = csr_matrix((np.ones(len(places)), (at, columns)), shape=(len(rows), len(names)))
    signs = 2 * labels - 1

    def loss(weights: Any) -> tuple[float, Any]:
        margins = signs * (x @ weights)
        slope = -signs / (1 + np.exp(margins))
        value = np.logaddexp(0, -margins).sum() + RIDGE / 2 * weights @ weights
        return float(value), x.T @ slope + RIDGE * weights

    found = minimize(loss, np.zeros(len(names)), jac=True, method="L-BFGS-B").x
    return {
        name: round(float(weight), 6)
        for name, weight in zip(names, found, strict=True)
        if abs(weight) > 1e-4
    }
