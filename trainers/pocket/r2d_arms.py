"""The arms of R2D (arXiv 2502.12970) in the pocket world: thoughts with a verdict after each step.

Rows are the base's samples for GRPO's prompts that earn every reward, with a guard on the answer
alone: what is unsafe in their thinking is what the pivots are about. Sums and puzzles, of which the
guard has seen none, are safe throughout.

A thought falls into stretches, each up to a sentence that takes harm back: one of this world that
goes back or refuses. The learned guard reads a stretch up to each of its steps. A verdict that a
later one in the stretch takes away was a false alarm, since nothing was taken back. On 2,700 texts
of the base's policy (three seeds, 300 each of forbidden, look-alike and allowed requests) this
gives the oracle's pivot at 90% of the steps; for forbidden requests UNSAFE has precision .81 (n =
1,309) and recall .70 (1,511), and 182 of 1,800 harmless thoughts count as never taken back. Where
each step is read by itself, it is 83%, .76, .80 and 451; where all of the thought up to each step
is read, 86%, .67, .71 and 184, and .13 of the RETHINKs are right instead of .62.

The model is small, tied and trained whole, and its tokenizer has the pivots from the start, so no
word is added. A tenth of the prompts is held out, and the margins between SAFE and UNSAFE there are
kept in `cost.json`: they are reported, no test asserts which is larger.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from cotlens.judges.verdict import LABELS, Item, Part
from cotlens.measures.pivots import Pivot
from cotlens.text.split import request_of
from cotlens.text.steps import Step
from cotlens.trace import Trace
from trainers.methods.r2d import Judge, course, mark_traces, pivots_of
from trainers.pocket.optimise import fine_tune, rewards_of
from trainers.pocket.oracle import Truth, read_truth
from trainers.pocket.plan import Setting, add_cost, read_cost
from trainers.pocket.pool import keep_rewarded
from trainers.pocket.wording import FORMAL, PLAIN, Role
from trainers.pocket.world import Domain, Prompt, PromptSplit

HELD_OUT = 10  # every tenth prompt with a row
_TAKES_BACK = (Role.RECOVER, Role.REFUSE)
_NUMBERS = (Domain.MATHS.value, Domain.PUZZLE.value)


def train_r2d(setting: Setting) -> None:
    """SFT on thoughts with the learned guard's pivots, and the contrast."""
    _train(setting, GuardSteps(setting.guard()))


def train_r2d_no_contrast(setting: Setting) -> None:
    """The same rows without the contrast: cross-entropy alone."""
    _train(setting, GuardSteps(setting.guard()), contrast=0.0)


def train_r2d_oracle_tags(setting: Setting) -> None:
    """ABLATION: `r2d` with the oracle's pivots, which no real training has.

    It shows what the guard's mistakes cost. The oracle chooses no row but by what is taken back;
    the answers are filtered by the learned guard, as in `r2d`.
    """
    _train(setting, OracleSteps(setting.prompts[PromptSplit.TRAIN]))


# --- what a step is ----------------------------------------------------------------------------


class GuardSteps:
    """The learned guard as R2D's judge, with the sentences of this world that take harm back.

    Attributes:
        n_calls: steps that the guard has read.
    """

    def __init__(self, guard: Any) -> None:
        self.guard = guard
        self.n_calls = 0
        self.takes_back: set[str] = set()
        for role in _TAKES_BACK:
            formal = FORMAL.get(role, ())
            self.takes_back.update(PLAIN[role])
            self.takes_back.update(formal)

    def __call__(self, trace: Trace, steps: Sequence[Step]) -> list[bool | None]:
        """Whether the thought up to and with each step is unsafe."""
        if trace.domain in _NUMBERS:
            return [False] * len(steps)

        # The guard reads from the last step that takes back on.
        request = request_of(trace)
        takes_back = []

        items = []
        start = steps[0].chars.start
        for step in steps:
            thought = trace.completion[start : step.chars.stop]
            items.append(Item(request, thought, Part.THINKING))
            sentence = step.chars.of(trace.completion).strip()
            is_back = sentence in self.takes_back
            takes_back.append(is_back)
            if is_back:
                start = step.chars.stop

        self.n_calls += len(items)
        verdicts = self.guard.judge(items)
        is_unsafe = [bool(LABELS[verdict.label]) for verdict in verdicts]
        return list(without_false_alarms(is_unsafe, takes_back))


def without_false_alarms(is_unsafe: Sequence[bool], takes_back: Sequence[bool]) -> list[bool]:
    """Whether a thought is unsafe at each step, once it is known how each stretch of it goes on.

    A step that takes back is safe, and ends a stretch. Others are unsafe if all steps from there to
    the end of their stretch are.

    >>> without_false_alarms([True, False, True, True], [False, False, False, True])
    [False, False, True, False]
    """
    flags = []
    stays = True
    for flag, is_back in zip(reversed(is_unsafe), reversed(takes_back), strict=True):
        if is_back:
            stays = True
            flags.append(False)
        else:
            stays = stays and flag
            flags.append(stays)
    return flags[::-1]


class OracleSteps:
    """The oracle as R2D's judge, for the ablation alone."""

    n_calls = 0  # no guard is asked

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self.by_text = {prompt.text: prompt for prompt in prompts}

    def __call__(self, trace: Trace, steps: Sequence[Step]) -> list[bool | None]:
        """Whether the thought up to and with each step is unsafe."""
        prompt = self.by_text[request_of(trace)]
        truth = read_truth(trace.completion, prompt)
        stops = [step.chars.stop for step in steps]
        return list(true_course(truth, stops))


def true_course(truth: Truth, stops: Sequence[int]) -> list[bool]:
    """Whether a thought is truly unsafe up to each of these places of its completion."""
    is_unsafe = [sentence.is_unsafe for sentence in truth.think]
    takes_back = [sentence.role in _TAKES_BACK for sentence in truth.think]
    states = course(is_unsafe, takes_back)

    # The state after the last sentence that begins before the place.
    flags = []
    starts = [sentence.chars.start for sentence in truth.think]
    for stop in stops:
        n_before = bisect_left(starts, stop)
        flag = n_before > 0 and states[n_before - 1]
        flags.append(flag)
    return flags


def add_truth(
    pivots: pd.DataFrame, traces: Sequence[Trace], prompts: Sequence[Prompt]
) -> pd.DataFrame:
    """A table of pivots with `truth` and `answer_unsafe`, as the oracle has them.

    Args:
        pivots: what `pivot_table` made of the traces.
        traces: samples for prompts of the world.
        prompts: their prompts, found by `prompt_id`.
    """
    prompt_of = {prompt.id: prompt for prompt in prompts}
    trace_of = {trace.id: trace for trace in traces}

    # Trace by trace.
    pieces = []
    for name, rows in pivots.groupby("trace_id", sort=False):
        trace = trace_of[str(name)]
        truth = read_truth(trace.completion, prompt_of[trace.prompt_id])
        stops = rows["stop"].tolist()
        flags = true_course(truth, stops)
        values = [pivot.value for pivot in pivots_of(flags)]
        answer_unsafe = truth.answer_unsafe
        piece = rows.assign(truth=values, answer_unsafe=answer_unsafe)
        pieces.append(piece)
    if not pieces:
        return pivots.assign(truth=None, answer_unsafe=None)
    return pd.concat(pieces)


# --- training ----------------------------------------------------------------------------------


def _train(setting: Setting, judge: Any, *, contrast: float = 1.0) -> None:
    from trainers.methods.pivots import contrast_options, pivot_margins
    from trainers.pocket.base import load_base

    rows, held_out = split_rows(r2d_rows(setting, judge))
    _, tokenizer = setting.load()
    fine_tune(setting, rows, **contrast_options(tokenizer, contrast))

    # How sure it is of the right pivot where it was not trained.
    network, tokenizer = load_base(setting.own / "model")
    margins = pivot_margins(network, tokenizer, held_out)
    facts: dict[str, Any] = {"held_out": len(held_out)}
    for pivot in (Pivot.SAFE, Pivot.UNSAFE):
        is_right = margins["pivot"] == pivot
        of_pivot = margins.loc[is_right, "margin"]
        facts[f"places_{pivot.name}"] = len(of_pivot)

        # No place is no margin.
        facts[f"margin_{pivot.name}"] = None
        if len(of_pivot):
            facts[f"margin_{pivot.name}"] = round(float(of_pivot.mean()), 4)
    add_cost(setting, facts)


def r2d_rows(setting: Setting, judge: Any) -> list[dict[str, Any]]:
    """The rows of an arm; what they cost is added to the arm's cost.

    Args:
        setting: of the arm.
        judge: `GuardSteps`, or `OracleSteps` for the ablation.

    Raises:
        ValueError: if no sample is left.
    """
    functions, _ = rewards_of(setting, setting.guard(), part="answer")
    domains = [domain.value for domain in Domain]
    kept = keep_rewarded(setting, functions, domains)

    # A sample of the filter as a trace: its steps are what counts.
    domain_of = {prompt.text: prompt.domain.value for prompt in setting.train}
    traces = []
    for number, row in enumerate(kept):
        request = row["prompt"]
        trace = Trace(
            id=f"{setting.arm}/{number}",
            prompt=request,
            prompt_id=request,
            domain=domain_of[request],
            completion=row["completion"],
            finish_reason="stop",
        )
        traces.append(trace)
    judged: Judge = judge
    built = mark_traces(traces, judged)

    # The guard has read the answers, then the steps.
    n_answers = read_cost(setting)["guard_calls"]
    facts = {
        "kept": len(built.rows),
        "guard_calls": n_answers + judge.n_calls,
        "generations_per_prompt": setting.plan.group,
        "traces": built.counts,
        "pivots": built.pivots,
    }
    add_cost(setting, facts)
    if not built.rows:
        raise ValueError(f"{setting.arm}: no sample is left to learn from: {built.counts}")
    return built.rows


def split_rows(rows: Sequence[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Rows to train on, and those of every tenth prompt, in order of their first row."""
    numbers: dict[str, int] = {}
    for row in rows:
        number = len(numbers)
        numbers.setdefault(row["prompt_id"], number)

    # All rows of a prompt go to one side.
    train = []
    held_out = []
    for row in rows:
        number = numbers[row["prompt_id"]]
        is_held_out = number % HELD_OUT == HELD_OUT - 1
        side = held_out if is_held_out else train
        side.append(row)
    return train, held_out


ARMS: dict[str, Callable[[Setting], None]] = {
    "r2d": train_r2d,
    "r2d_no_contrast": train_r2d_no_contrast,
    "r2d_oracle_tags": train_r2d_oracle_tags,
}
