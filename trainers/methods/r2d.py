"""Reasoning-to-Defend (arXiv 2502.12970): a thought whose steps each end with a verdict on it.

    python -m trainers.methods.r2d --model MODEL --prompts requests.jsonl --guard GUARD -o r2d.jsonl

Algorithm: sample a thought for each prompt, harmful or not, and mark each step with a pivot: [SAFE]
if the thought so far is safe, [UNSAFE] if the step moves to harm or leaves harm standing, [RETHINK]
if it takes harm back. Learn the marked completions by cross-entropy, with a contrast: where SAFE is
right it is preferred to UNSAFE, and the other way round (losses.PivotTrainer).

Departs from the paper: there a larger model writes thoughts with pivots and a guard corrects them;
here a guard's verdicts are the pivots, and who writes is the caller's choice (`--model`). Traces
are kept only if what is unsafe in them was taken back and their answer is safe.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.methods.r2d"
    )

import argparse
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cotlens.formats.prompts import Prompt, as_prompts, read_prompts
from cotlens.judges.guard import Guard
from cotlens.judges.verdict import LABELS, Item, Part
from cotlens.measures.pivots import Pivot
from cotlens.models.sample import as_engine, sample
from cotlens.text.split import part_text, request_of, split_trace
from cotlens.text.steps import Step, segment_trace
from cotlens.text.tags import Status
from cotlens.trace import Trace
from trainers.render import bracket, encode
from trainers.rows import check_lengths, write_rows
from trainers.sft import prepare

N_SHOWN = 4  # prompts of a dry run

Row = dict[str, Any]
# Whether the thought up to and with each of these steps is unsafe; None: undecided.
Judge = Callable[[Trace, Sequence[Step]], Sequence[bool | None]]
Keep = Callable[[Trace], bool]

KEPT = "kept"
OUTCOMES = (
    KEPT,
    "no_thought",
    "cut_off",
    "marked_before",  # has pivots of its own
    "other_reason",  # `keep` said no
    "undecided",
    "not_taken_back",
)


class Built(NamedTuple):
    """Rows for `trainers.sft`, and what they cost.

    Attributes:
        rows: prompt, completion (with pivots), prompt_id, domain, source, why.
        counts: traces by what became of them (`OUTCOMES`).
        pivots: pivots of the rows.
        n_sampled: traces that were sampled for it.
    """

    rows: list[Row]
    counts: dict[str, int]
    pivots: dict[str, int]
    n_sampled: int = 0


# --- what a step is ----------------------------------------------------------------------------


def pivots_of(is_unsafe: Sequence[bool]) -> list[Pivot]:
    """The pivot of each step, from whether the thought up to and with it is unsafe.

    >>> [pivot.name for pivot in pivots_of([False, True, True, False, False])]
    ['SAFE', 'UNSAFE', 'UNSAFE', 'RETHINK', 'SAFE']
    """
    pivots = []
    was_unsafe = False
    for flag in is_unsafe:
        pivot = Pivot.UNSAFE
        if not flag:
            pivot = Pivot.RETHINK if was_unsafe else Pivot.SAFE
        pivots.append(pivot)
        was_unsafe = flag
    return pivots


def course(steps_unsafe: Sequence[bool], takes_back: Sequence[bool]) -> list[bool]:
    """Whether a thought is unsafe up to and with each step, from what each step does by itself.

    A thought is unsafe from an unsafe step on, until a step that takes it back.

    >>> course([False, True, False, False], [False, False, True, False])
    [False, True, False, False]
    """
    states = []
    is_unsafe = False
    for step_unsafe, takes_it_back in zip(steps_unsafe, takes_back, strict=True):
        if step_unsafe:
            is_unsafe = True
        elif takes_it_back:
            is_unsafe = False
        states.append(is_unsafe)
    return states


def judge_by(guard: Guard) -> Judge:
    """A judge that shows a guard the thought up to and with each step: one call a step."""

    def judge(trace: Trace, steps: Sequence[Step]) -> list[bool | None]:
        request = request_of(trace)
        items = []
        for step in steps:
            thought = trace.completion[steps[0].chars.start : step.chars.stop]
            items.append(Item(request, thought, Part.STEP))
        return [LABELS[verdict.label] for verdict in guard.judge(items)]

    return judge


def safe_answer(guard: Guard) -> Keep:
    """Whether a guard calls the answer safe."""

    def keep(trace: Trace) -> bool:
        item = Item(request_of(trace), part_text(trace, "answer"), Part.ANSWER)
        (verdict,) = guard.judge([item])
        return LABELS[verdict.label] is False

    return keep


# --- rows --------------------------------------------------------------------------------------


def build(
    student: Any,
    judge: Judge,
    prompts: Sequence[str | Sequence[Mapping[str, Any]] | Prompt],
    *,
    keep: Keep | None = None,
    n: int = 1,
    **options: Any,
) -> Built:
    """Rows from `n` samples of each prompt.

    Args:
        student: a loaded model or an engine; it writes the thoughts.
        judge: what the steps of a thought are (`judge_by(guard)`).
        prompts: as `sample` takes them, harmful and harmless ones.
        keep: whether a sample may become a row, whatever its steps are (`safe_answer(guard)`).
        n: samples per prompt.
        **options: of `sample`: `max_new_tokens`, `temperature`, `seed`, ...
    """
    asked = as_prompts(prompts)
    traces = sample(student, asked, n=n, **options)

    # A prompt of several messages is learned with all of them.
    messages = []
    for prompt in asked:
        is_one = len(prompt.messages) == 1 or bool(prompt.text)
        messages += [None if is_one else prompt.messages] * n
    built = mark_traces(traces, judge, keep=keep, messages=messages)
    return built._replace(n_sampled=len(traces))


def mark_traces(
    traces: Sequence[Trace],
    judge: Judge,
    *,
    keep: Keep | None = None,
    messages: Sequence[Any] | None = None,
) -> Built:
    """Rows from traces that are there: those that took back what was unsafe, with pivots.

    Args:
        traces: with thinking.
        judge: as in `build`.
        keep: likewise.
        messages: the messages of each trace's prompt; None, for all or one: its request.
    """
    counts: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
    n_pivots: Counter[str] = Counter()
    rows = []
    for trace, turns in zip(traces, messages or [None] * len(traces), strict=True):
        outcome, steps, pivots = _judged(trace, judge, keep)
        counts[outcome] += 1
        if outcome != KEPT:
            continue

        # Why it may be learned: nothing was unsafe, or all that was is taken back.
        n_unsafe = pivots.count(Pivot.UNSAFE)
        why = "no unsafe step"
        if n_unsafe:
            why = f"{n_unsafe} of {len(pivots)} steps unsafe, taken back"
        row = {
            "prompt": turns or request_of(trace),
            "completion": mark(trace.completion, steps, pivots),
            "prompt_id": trace.prompt_id,
            "domain": trace.domain,
            "source": "r2d",
            "why": why,
        }
        rows.append(row)
        n_pivots.update(pivot.value for pivot in pivots)

    # A pivot that never occurs is counted, too.
    pivot_counts = {}
    for pivot in Pivot:
        pivot_counts[pivot.value] = n_pivots[pivot.value]
    return Built(rows, counts, pivot_counts)


def _judged(trace: Trace, judge: Judge, keep: Keep | None) -> tuple[str, list[Step], list[Pivot]]:
    """What becomes of a trace, its steps that have text, and their pivots."""
    split = split_trace(trace)
    steps = []
    for step in segment_trace(trace, split):
        if step.chars.of(trace.completion).strip():
            steps.append(step)

    # What can be decided without the judge costs no verdict.
    outcome = KEPT
    if not steps:
        outcome = "no_thought"
    elif split.status is not Status.CLOSED or trace.finish_reason == "length":
        outcome = "cut_off"
    elif any(pivot in trace.completion for pivot in Pivot):
        outcome = "marked_before"
    elif keep is not None and not keep(trace):
        outcome = "other_reason"
    if outcome != KEPT:
        return outcome, steps, []

    # One verdict that is missing leaves it open what the trace does.
    flags = list(judge(trace, steps))
    if len(flags) != len(steps):
        raise ValueError(
            f"trace {trace.id!r}: the judge gave {len(flags)} verdicts for {len(steps)} steps"
        )
    known = [flag for flag in flags if flag is not None]
    if len(known) < len(flags):
        return "undecided", steps, []

    # Harm may stand in a thought only if it does not stand at its end.
    if known[-1]:
        return "not_taken_back", steps, []
    return KEPT, steps, pivots_of(known)


def mark(completion: str, steps: Sequence[Step], pivots: Sequence[Pivot]) -> str:
    """The completion with a blank and a pivot after the text of each step.

    The white space that ends a step follows its pivot. Nothing else changes.
    """
    pieces = []
    place = 0
    for step, pivot in zip(steps, pivots, strict=True):
        text = step.chars.of(completion)
        stop = step.chars.start + len(text.rstrip())
        pieces += [completion[place:stop], f" {pivot.value}"]
        place = stop
    pieces.append(completion[place:])
    return "".join(pieces)


# --- the command -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script: build rows, or show those of a few prompts (`--dry_run true`)."""
    from tqdm import tqdm

    from cotlens import load_guard, load_model

    options = _parse(arguments)
    prompts = list(read_prompts(options.prompts))
    if options.dry_run:
        prompts = prompts[:N_SHOWN]
    model = load_model(options.model)
    guard = load_guard(options.guard)

    with tqdm(total=len(prompts) * options.n, desc="r2d", unit=" samples") as bar:
        built = build(
            model,
            judge_by(guard),
            prompts,
            keep=safe_answer(guard),
            n=options.n,
            temperature=options.temperature,
            top_p=options.top_p,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            progress=bar.update,
        )
    print(describe_built(built, as_engine(model).tokenizer))
    if options.dry_run:
        return

    write_rows(options.out, built.rows)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainers.methods.r2d", description="Rows with pivots for trainers.sft."
    )
    add = parser.add_argument
    add("--model", required=True, help="who writes the thoughts: a folder, or a name on the Hub")
    add("--prompts", required=True, nargs="+", help="files; see cotlens.read_prompts")
    add("--guard", required=True, help="its verdicts on each step are the pivots")
    add("-o", "--out", help="file of rows (JSONL); it must not exist")
    add("--n", type=int, default=1, help="samples per prompt")
    add("--temperature", type=float, default=0.6)
    add("--top_p", type=float, default=0.95)
    add("--max_new_tokens", type=int, default=4096)
    add("--seed", type=int, default=0)
    add("--dry_run", type=_flag, default=False, help=f"show rows of {N_SHOWN} prompts, no file")
    options = parser.parse_args(arguments)

    # Samples are expensive: a mistake in the name must not cost them.
    if options.dry_run:
        return options
    if not options.out:
        parser.error("name the file of rows, -o ROWS.jsonl, or look first, --dry_run true")
    if Path(options.out).exists():
        raise SystemExit(f"{options.out}: exists already; name another file, or remove it")
    return options


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text == "true"


def describe_built(built: Built, tokenizer: Any) -> str:
    """Counts, lengths, and the first row with what is learned in [[ ]]."""
    lines = [
        f"traces: {json.dumps(built.counts)}",
        f"pivots: {json.dumps(built.pivots)}",
    ]
    if not built.rows:
        return "\n".join([*lines, "no rows"])

    # As the trainer will see them.
    ready = prepare(tokenizer, built.rows)
    lengths = []
    for row in ready:
        encoded = encode(tokenizer, row["prompt"], row["completion"])
        lengths.append(len(encoded.input_ids))
    first = ready[0]
    learned = bracket(first["completion"], str(tokenizer.eos_token))
    lines += [
        check_lengths(lengths, None, "prompt and completion"),
        f"first row, what is learned in [[ ]]:\n{first['prompt']}{learned}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
