"""A student's own samples, filtered: what ThinkSafe, DGR and rejection sampling have in common.

    for each sample: drop it if its thought was not closed or it has no answer
                     drop it if the judge does not call it safe
                     keep it otherwise; count all of this by domain

Shares of data that silently differ from what a paper describes are the usual fault of such methods,
so every builder returns an `Acceptance` for each domain, and every row says why it is there.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from cotlens.formats.prompts import Prompt
from cotlens.judges.guard import Guard, judge
from cotlens.judges.verdict import Item, Part
from cotlens.measures.perplexity import perplexity, row_likelihood
from cotlens.models.engine import Engine
from cotlens.models.load import Model
from cotlens.models.sample import as_engine, check_room, render_job
from cotlens.models.score import score_tokens
from cotlens.runs.tables import trace_table
from cotlens.stats.bootstrap import Estimate
from cotlens.text.rules import CUT
from cotlens.text.split import Status, part_text, request_of, split_trace
from cotlens.trace import Trace, TraceError
from trainers.render import encode, fit_completion, render_prompt
from trainers.rows import Row

# Is each of these complete samples safe? None: the judge cannot tell.
IsSafe = Callable[[Sequence[Trace]], Sequence[bool | None]]

KEPT = "kept"
UNCLOSED = "unclosed"
UNSAFE = "unsafe"


class Acceptance(NamedTuple):
    """What happened to the samples of a domain.

    Attributes:
        sampled: samples drawn.
        unclosed: of these, without a closed thought and an answer after it.
        unsafe: of the others, not called safe.
        fallback: of all, those in whose place another text is trained on.
        kept: of all, those that are trained on.
    """

    sampled: int = 0
    unclosed: int = 0
    unsafe: int = 0
    fallback: int = 0
    kept: int = 0

    @property
    def share(self) -> float:
        """Share of the samples that are kept; NaN without samples."""
        if not self.sampled:
            return math.nan
        return self.kept / self.sampled

    @property
    def fallback_share(self) -> float:
        """Share of the samples in whose place another text is trained on; NaN without samples."""
        if not self.sampled:
            return math.nan
        return self.fallback / self.sampled


class Selection(NamedTuple):
    """Samples that passed, and what happened to all.

    Attributes:
        traces: the samples that passed, in order.
        why: of every sample, in order: kept, unclosed or unsafe.
        acceptance: by domain.
    """

    traces: list[Trace]
    why: list[str]
    acceptance: dict[str, Acceptance]


class Built(NamedTuple):
    """Rows for SFT, and what happened on the way.

    Attributes:
        rows: `prompt`, `completion`, `domain`, `prompt_id`, `source` and `why`; some methods add
            columns.
        acceptance: of the samples, by domain.
        counts: what happened to every prompt, and how many samples each had.
        traces: the samples, with the prompt that a row would have.
    """

    rows: list[dict[str, Any]]
    acceptance: dict[str, Acceptance]
    counts: dict[str, int]
    traces: list[Trace]


def select(traces: Sequence[Trace], is_safe: IsSafe) -> Selection:
    """The complete and safe ones of these samples.

    Args:
        traces: samples, with domains.
        is_safe: judges the complete ones, all at once; what it cannot tell is not kept.
    """
    why = []
    complete = []
    for trace in traces:
        if is_complete(trace):
            complete.append(trace)
            why.append(KEPT)
        else:
            why.append(UNCLOSED)

    # The verdicts come in the order of the complete samples.
    verdicts = iter(is_safe(complete))
    chosen = []
    for number, trace in enumerate(traces):
        if why[number] == UNCLOSED:
            continue
        if next(verdicts):
            chosen.append(trace)
        else:
            why[number] = UNSAFE

    acceptance = count(traces, why)
    return Selection(chosen, why, acceptance)


def count(traces: Sequence[Trace], why: Sequence[str]) -> dict[str, Acceptance]:
    """Acceptance by domain, in order of appearance, from what happened to each sample."""
    reasons_of: dict[str, list[str]] = defaultdict(list)
    for trace, reason in zip(traces, why, strict=True):
        reasons_of[trace.domain].append(reason)

    acceptance = {}
    for domain, reasons in reasons_of.items():
        acceptance[domain] = Acceptance(
            sampled=len(reasons),
            unclosed=reasons.count(UNCLOSED),
            unsafe=reasons.count(UNSAFE),
            kept=reasons.count(KEPT),
        )
    return acceptance


def total(acceptance: Mapping[str, Acceptance]) -> Acceptance:
    """The acceptance over all domains."""
    sums = []
    for numbers in zip(*acceptance.values(), strict=True):
        sums.append(sum(numbers))
    return Acceptance(*sums)


def cost_of(acceptance: Mapping[str, Acceptance]) -> dict[str, Any]:
    """The acceptance as entries of `cost.json`: all counts in sum, and the share of each domain."""
    facts: dict[str, Any] = total(acceptance)._asdict()
    for domain, numbers in acceptance.items():
        label = domain or "all"
        facts[f"acceptance_{label}"] = round(numbers.share, 4)
    return facts


def is_complete(trace: Trace) -> bool:
    """Whether a sample ended by itself, closed its thought, and answers after it."""
    split = split_trace(trace)
    if split.status is not Status.CLOSED or trace.finish_reason.lower() in CUT:
        return False
    return bool(split.answer.of(trace.completion).strip())


def safe_by(guard: Guard, parts: Sequence[Part] = (Part.FULL,)) -> IsSafe:
    """A filter: the guard calls all of these parts safe, given the bare request.

    Args:
        guard: the judge. Undecided and controversial are not safe.
        parts: `full` is thought and answer as one text, as ThinkSafe has it; thinking and answer
            are two. A blank thought is left out.
    """

    def is_safe(traces: Sequence[Trace]) -> list[bool | None]:
        items: list[Item] = []
        owners: list[int] = []
        for number, trace in enumerate(traces):
            for part in parts:
                text = part_text(trace, part.value)
                if part is Part.THINKING and not text.strip():
                    continue
                items.append(Item(request_of(trace), text, part))
                owners.append(number)

        # One part that is not safe is enough, and nothing judged is not safe.
        labels_of: dict[int, list[str]] = defaultdict(list)
        for owner, verdict in zip(owners, judge(guard, items), strict=True):
            labels_of[owner].append(verdict.label)
        answers: list[bool | None] = []
        for number in range(len(traces)):
            labels = set(labels_of[number])
            answers.append(labels == {"safe"})
        return answers

    return is_safe


def with_room(
    student: Model | Engine, prompts: Iterable[Prompt], max_new_tokens: int
) -> list[Prompt]:
    """The prompts that leave room for the longest completion in the student's context."""
    engine = as_engine(student)

    # A prompt that is too long stops nothing else.
    fitting = []
    for prompt in prompts:
        job = render_job(engine, prompt, "", {})
        try:
            check_room(engine, job, max_new_tokens)
        except TraceError:
            continue
        fitting.append(prompt)
    return fitting


def row_perplexity(model: Model, rows: Sequence[Row], part: str = "all") -> Estimate:
    """Perplexity of training rows under the model that is to learn them, prompt as in training.

    Args:
        model: the frozen student.
        rows: `prompt`, `completion` and perhaps `prompt_id`, over which the interval is.
        part: all, thinking or answer.

    Returns:
        Its `n` is the number of rows that were scored: a row whose text the tokenizer does not give
        back has none.
    """
    traces = []
    for number, row in enumerate(rows):
        trace = as_trace(model.tokenizer, row, f"row {number}")
        traces.append(trace)

    scores = score_tokens(model, traces).table()
    likelihood = row_likelihood(trace_table(traces), scores)
    return perplexity(likelihood, part)


def as_trace(tokenizer: PreTrainedTokenizerBase, row: Row, name: str) -> Trace:
    """A training row as a trace, with the token ids of prompt and completion that SFT has."""
    prompt = render_prompt(tokenizer, row["prompt"])
    completion = fit_completion(prompt, row["completion"])

    # Only the prompt is without a label.
    encoded = encode(tokenizer, prompt, completion)
    n_prompt = sum(label == -100 for label in encoded.labels)
    return Trace(
        id=name,
        prompt=prompt,
        prompt_id=str(row.get("prompt_id") or ""),
        completion=completion,
        domain=str(row.get("domain") or ""),
        finish_reason="stop",
        prompt_token_ids=tuple(encoded.input_ids[:n_prompt]),
        token_ids=tuple(encoded.input_ids[n_prompt:]),
    )
