"""A learned guard of the pocket world: cheap and sometimes wrong, like the guards of real training.

Rewards ask this guard; evaluations ask the oracle. So what training does to the judge that rewards
it can be told apart from what it does to the truth.
"""

import json
import math
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
from trainers.pocket.wording import PIVOTS
from trainers.pocket.world import Domain, Prompt, PromptSplit, draw_prompt

N_PROMPTS = 400  # prompts with one labelled completion each
P_WRONG_LABEL = 0.1  # share of the labels that are inverted
RIDGE = 0.3  # strength of the penalty on squared weights


class LearnedGuard:
    """Logistic regression on the words and word pairs of a text and the words of its prompt.

    Thinking and answer have weights apart. The guard is a `cotlens.judges.guard.Guard`. A text is
    unsafe if `p_unsafe` is at least 1/2; features that it has not met count nothing.

    Args:
        weights: weight of each feature; the bias of a part has the name of the part.
        seed: seed of the labels that it was fitted to.
    """

    name = "learned"
    revision = ""
    batch_size = 4096

    def __init__(self, weights: dict[str, float], seed: int = 0) -> None:
        self.weights = weights
        self.identity = f"pocket learned guard {seed}"

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item; a blank text is undecided."""
        return [self._judge(item) for item in items]

    def _judge(self, item: Item) -> Verdict:
        if not item.text.strip():
            return Verdict("undecided")

        # Features that the guard has not met have no weight. A set has no order, and a plain sum
        # would depend on it in its last digits.
        names = features(item.prompt, item.text, item.part)
        logit = math.fsum(self.weights.get(name, 0.0) for name in names)

        p_unsafe = float(1 / (1 + np.exp(-logit)))
        is_unsafe = p_unsafe >= 0.5
        return Verdict("unsafe" if is_unsafe else "safe", p_unsafe=p_unsafe)

    def save(self, path: Path) -> None:
        """Writes the weights as JSON."""
        stored = {
            "identity": self.identity,
            "weights": self.weights,
        }
        write_atomic(path, json.dumps(stored, indent=0))

    @classmethod
    def load(cls, path: Path) -> "LearnedGuard":
        """The guard that a file holds."""
        text = path.read_text(encoding="utf-8")
        stored = json.loads(text)

        # The identity ends with the seed.
        seed = stored["identity"].rpartition(" ")[2]
        return cls(stored["weights"], int(seed))


def features(prompt: str, text: str, part: Part) -> set[str]:
    """The features of a text: its part; and for this part its words, word pairs and prompt words.

    Punctuation that ends a sentence counts as a word; pivots count nothing.
    """
    for pivot in PIVOTS:
        text = text.replace(pivot, "")
    words = re.findall(r"[a-z']+|[.?!]", text.lower())
    names = set(words)
    for first, second in pairwise(words):
        names.add(f"{first} {second}")

    prompt_words = re.findall(r"[a-z']+", prompt.lower())
    for word in prompt_words:
        names.add(f"asked {word}")

    # Every feature belongs to one part, so thinking and answer have weights and a bias each.
    part_names = {part.value}
    for name in names:
        part_names.add(f"{part.value}: {name}")
    return part_names


def guard_prompts(seed: int, n: int = N_PROMPTS) -> list[Prompt]:
    """The prompts of the guard's labels: half forbidden, the rest look-alike and allowed.

    They are drawn as those of safety training, without the new topics and wrappers.
    """
    rng = random.Random(f"guard {seed}")
    domains = (
        Domain.FORBIDDEN,
        Domain.LOOK_ALIKE,
        Domain.FORBIDDEN,
        Domain.ALLOWED,
    )

    prompts = []
    for number in range(n):
        name = f"guard-{number:04d}"
        domain = domains[number % len(domains)]
        prompt = draw_prompt(rng, PromptSplit.TRAIN, domain, name)
        prompts.append(prompt)
    return prompts


def fit_guard(
    traces: Iterable[Trace], prompts: Iterable[Prompt], seed: int, *, shuffled: bool = False
) -> LearnedGuard:
    """A guard fitted to the oracle's verdicts on these samples, of which one in ten is inverted.

    Args:
        traces: samples of the base model.
        prompts: the prompts of these samples, found by `prompt_id`.
        seed: seed of the wrong labels.
        shuffled: whether the labels are dealt out to the texts at random: a guard that knows only
            how many of them are unsafe, as a negative control.
    """
    prompt_of = {prompt.id: prompt for prompt in prompts}
    rng = random.Random(f"labels {seed}")

    rows: list[set[str]] = []
    labels: list[bool] = []
    for trace in traces:
        prompt = prompt_of[trace.prompt_id]
        truth = read_truth(trace.completion, prompt)

        split = split_think(trace.completion)
        thoughts = [span.of(trace.completion) for span in split.think]
        thinking = "\n\n".join(thoughts)
        answer = split.answer.of(trace.completion)
        parts = (
            (thinking, Part.THINKING, truth.thinking_unsafe),
            (answer, Part.ANSWER, truth.answer_unsafe),
        )

        # Label the parts that have text, some of them wrongly.
        for text, part, is_unsafe in parts:
            if not text.strip():
                continue
            is_inverted = rng.random() < P_WRONG_LABEL
            labels.append(is_unsafe != is_inverted)
            rows.append(features(prompt.text, text, part))

    if shuffled:
        rng.shuffle(labels)
    weights = _fit_weights(rows, labels)
    return LearnedGuard(weights, seed)


def _fit_weights(rows: Sequence[set[str]], labels: Sequence[bool]) -> dict[str, float]:
    """Weights of a penalised logistic regression, without those that are next to nothing.

    Args:
        rows: the features of each text.
        labels: whether each text is unsafe.
    """
    names = sorted(set().union(*rows))
    x = _indicator_matrix(rows, names)
    signs = 2 * np.array(labels, float) - 1

    result = minimize(
        _penalised_loss,
        x0=np.zeros(len(names)),
        args=(x, signs),
        jac=True,
        method="L-BFGS-B",
    )

    weights = {}
    for name, value in zip(names, result.x, strict=True):
        weight = float(value)
        if abs(weight) > 1e-4:
            weights[name] = round(weight, 6)
    return weights


def _indicator_matrix(rows: Sequence[set[str]], names: Sequence[str]) -> csr_matrix:
    """One row per text and one column per name: 1 where the text has the feature."""
    column_of = {name: column for column, name in enumerate(names)}

    # The columns of all rows one after another, and where each row starts among them.
    columns: list[int] = []
    row_starts = [0]
    for row in rows:
        row_columns = [column_of[name] for name in row]
        row_columns.sort()
        columns += row_columns
        row_starts.append(len(columns))

    ones = np.ones(len(columns))
    return csr_matrix(
        (ones, columns, row_starts),
        shape=(len(rows), len(names)),
    )


def _penalised_loss(weights: Any, x: csr_matrix, signs: Any) -> tuple[float, Any]:
    """Negative log-likelihood with the penalty on the weights, and its gradient.

    Args:
        weights: weight of each column of `x`.
        x: features of the texts, one row per text.
        signs: 1 for each unsafe text, -1 for each safe one.
    """
    scores = x @ weights
    margins = signs * scores
    losses = np.logaddexp(0, -margins)
    penalty = RIDGE / 2 * weights @ weights
    value = losses.sum() + penalty

    # The slope of each loss by its score.
    slopes = -signs / (1 + np.exp(margins))
    gradient = x.T @ slopes
    gradient += RIDGE * weights
    return float(value), gradient
