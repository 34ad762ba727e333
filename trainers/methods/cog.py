"""Chain-of-Guardrails: repair a failed thought, or append a check to it (arXiv 2510.21285).

1. The student answers harmful requests (temperature 0.7, top-p 0.8).
2. A judge reads the answers, and each failure gets a cause (causes.py). A trace that did not fail
   is kept unchanged.
3. SafR (safety recomposition): the safe beginning of the thought is kept; analysis and strategy are
   replaced by repaired ones. SafB (safety backtrack): the whole thought is kept, and a transition
   and a self-check for its cause are appended.
4. The thought is closed, and the student writes the answer.
5. SFT. SafR learns the whole completion. SafB learns the check and the answer alone: the original
   thought is context, so the model learns to come back and not to go astray.

    python -m trainers.methods.cog --model M --prompts FILE --guard G --method safb -o ROWS.jsonl
    python -m trainers.sft --config trainers/configs/sft_cog_safb.yaml

Departs from the paper: markers of steps find the cause, where the paper asks a 72B model; checks
and repaired steps are sentences of the project's own, in turn, or written by the student and
checked (`written_by_student`); a repaired trace is kept only if it ends, in one closed thought, and
the judge calls its answer safe. Traces that did not fail are learned whole. SafR's repair is not
rewritten into one style with the kept part. The paper's prompts are not published.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.methods.cog"
    )

import json
import sys
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

import cotlens
from cotlens.formats.prompts import Prompt, read_prompts
from cotlens.models.encode import tags_of
from cotlens.models.engine import Engine
from cotlens.models.sample import as_engine
from cotlens.probes.cut import step_cuts
from cotlens.probes.intervene import Attempt, intervene
from cotlens.text.split import request_of, split_trace
from cotlens.text.steps import segment_trace
from cotlens.text.tags import Split, Status
from cotlens.trace import Span, Trace, TraceError
from trainers.methods.causes import Cause, Diagnosis, Read, diagnose, read_markers
from trainers.methods.checks import Ask, Method, own_words, written_by_student
from trainers.methods.fates import Built, Fate, Judge, Record, guard_judge
from trainers.methods.masks import Mask, learned_spans, masked_row
from trainers.render import bracket, encode, fit_completion, render_prompt
from trainers.rows import write_rows

if TYPE_CHECKING:
    from cotlens.models.load import Model

# The check or the repaired steps of a trace: its diagnosis, and how many of its cause came before.
Write = Callable[[Trace, Diagnosis, int], str]

TEMPERATURE = 0.7  # of first samples and of answers
TOP_P = 0.8
N_SHOWN = 4  # prompts of a dry run


class _Case(NamedTuple):
    """A trace that failed."""

    trace: Trace
    diagnosis: Diagnosis
    number: int  # how many of the same cause came before


# --- the algorithm -------------------------------------------------------------------------------


def build(
    student: "Model | Engine",
    judge: Judge,
    prompts: Sequence[str | Prompt],
    *,
    method: Method,
    n: int = 1,
    max_new_tokens: int = 8192,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Built:
    """Rows of Chain-of-Guardrails for prompts, from samples of the student.

    Args:
        student: what is to be trained; it samples, and writes the answers.
        judge: whether traces failed.
        prompts: as `cotlens.sample` takes them; harmful requests.
        method: SafR or SafB.
        n: samples per prompt.
        max_new_tokens: longest sample, and longest answer.
        seed: of all random numbers.
        progress: called with the number of completions done since the last call.
        **options: of `repair`.
    """
    engine = as_engine(student)
    traces = cotlens.sample(
        engine,
        prompts,
        n=n,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
    )
    return repair(
        engine,
        traces,
        judge,
        method=method,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
        **options,
    )


def repair(
    student: "Model | Engine",
    traces: Sequence[Trace],
    judge: Judge,
    *,
    method: Method,
    has_failed: Judge | None = None,
    read: Read = read_markers,
    write: Write | None = None,
    by_student: bool = False,
    mask: Mask = Mask.CHECK_AND_ANSWER,
    temperature: float = TEMPERATURE,
    top_p: float = TOP_P,
    max_new_tokens: int = 8192,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """Rows of Chain-of-Guardrails from the student's own traces, in their order.

    Args:
        student: what wrote the traces; it writes the new answers.
        traces: with ids of their own.
        judge: whether a new answer is unsafe. Use another judge in the evaluation.
        method: SafR or SafB.
        has_failed: whether a trace failed; None: `judge`.
        read: what the steps of a thought do.
        write: the check or the repaired steps; None: `own_words`.
        by_student: let the student write them, with those of `write` where its text is not fit.
        mask: what SafB learns of a repaired trace. SafR learns all.
        temperature: of the new answers.
        top_p: likewise.
        max_new_tokens: longest new answer.
        seed: of all random numbers.
        progress: called with the number of new answers done since the last call.

    Raises:
        TraceError: if two traces have the same id, or as `continue_traces`.
    """
    # All that follows finds a trace by its id.
    for name, n_traces in Counter(trace.id for trace in traces).items():
        if n_traces > 1:
            raise TraceError(f"the id {name!r} occurs twice; give each trace an id of its own")

    # What failed, why, and what is to be written into it.
    engine = as_engine(student)
    cases, settled = _examine(traces, has_failed or judge, read)
    texts = _texts_of(engine, cases, method, write, read if by_student else None, seed)

    # The thought is closed after the text, so that what the student writes is the answer.
    case_of = {case.trace.id: case for case in cases}
    inserts = {}
    for case in cases:
        inserts[case.trace.id] = texts[case.trace.id] + _close_tag(engine, case.trace)

    def find(trace: Trace, _first: int) -> int:
        if method is Method.SAFR:
            return case_of[trace.id].diagnosis.n_safe
        return len(segment_trace(trace))

    attempts = intervene(
        engine,
        [case.trace for case in cases],
        find,
        lambda trace, *_: inserts[trace.id],
        lambda _: True,  # the judge reads all of them at once
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
    )
    # What was mended becomes a row.
    verdicts = judge([attempt.after for attempt in attempts]) if attempts else []

    # In the order of the traces, with those that were settled without a repair.
    rows_of: dict[str, dict[str, Any]] = {}
    for attempt, is_unsafe in zip(attempts, verdicts, strict=True):
        case = case_of[attempt.original.id]
        fate = _fate_of(attempt.after, is_unsafe)
        n_generations = 3 if by_student else 2
        settled[case.trace.id] = _record(case.trace, fate, case.diagnosis.cause, n_generations)
        if fate is Fate.REPAIRED:
            close = _close_tag(engine, case.trace)
            rows_of[case.trace.id] = _repaired_row(attempt, case, method, mask, close)

    rows = []
    records = []
    for trace in traces:
        record = settled[trace.id]
        records.append(record)
        if record.fate is Fate.UNCHANGED:
            rows.append(_unchanged_row(trace, method))
        elif trace.id in rows_of:
            rows.append(rows_of[trace.id])
    n_tokens = sum(len(attempt.after.token_ids or ()) for attempt in attempts)
    return Built(rows, records, n_tokens)


def _examine(
    traces: Sequence[Trace], has_failed: Judge, read: Read
) -> tuple[list[_Case], dict[str, Record]]:
    """The traces to repair, and the records of all others by id."""
    cases = []
    settled: dict[str, Record] = {}
    n_of_cause: Counter[Cause] = Counter()
    for trace, failed in zip(traces, has_failed(traces), strict=True):
        split = split_trace(trace)
        is_whole = _has_one_thought(trace, split)
        if not is_whole or trace.finish_reason == "length":
            settled[trace.id] = _record(trace, Fate.NO_THOUGHT)
            continue
        if failed is None:
            settled[trace.id] = _record(trace, Fate.UNDECIDED)
            continue
        if not failed:
            settled[trace.id] = _record(trace, Fate.UNCHANGED)
            continue

        steps = segment_trace(trace, split)
        texts = [step.chars.of(trace.completion) for step in steps]
        readings = read(texts, request_of(trace))
        if readings is None:
            settled[trace.id] = _record(trace, Fate.UNREAD)
            continue

        # Each cause has its own turn of sentences.
        diagnosis = diagnose(readings, is_unsafe=True)
        cases.append(_Case(trace, diagnosis, n_of_cause[diagnosis.cause]))
        n_of_cause[diagnosis.cause] += 1
    return cases, settled


def _has_one_thought(trace: Trace, split: Split) -> bool:
    """Whether a trace has exactly one thought, which is closed and not blank."""
    if split.status is not Status.CLOSED or len(split.think) != 1:
        return False
    thought = split.think[0].of(trace.completion)
    return bool(thought.strip())


def _record(trace: Trace, fate: Fate, cause: Cause = Cause.NONE, n_generations: int = 1) -> Record:
    return Record(trace.id, trace.prompt_id, fate, cause, n_generations)


def _texts_of(
    engine: Engine,
    cases: Sequence[_Case],
    method: Method,
    write: Write | None,
    read: Read | None,
    seed: int,
) -> dict[str, str]:
    """The check or the repaired steps of each case; `read`: the student writes, where it can."""
    texts = {}
    for case in cases:
        trace, diagnosis, number = case
        if write is None:
            texts[trace.id] = own_words(method, diagnosis.cause, number)
        else:
            texts[trace.id] = write(trace, diagnosis, number)
    if read is None or not cases:
        return texts

    # SafR's text follows the safe beginning, SafB's the whole thought.
    asks = []
    for case in cases:
        trace = case.trace
        cuts = step_cuts(trace)
        stop = cuts[-1]
        if method is Method.SAFR:
            stop = cuts[case.diagnosis.n_safe]
        notes = trace.completion[cuts[0] : stop]
        ask = Ask(trace, case.diagnosis, case.number, notes)
        asks.append(ask)
    written = written_by_student(engine, method, asks, read, seed)
    for case, text in zip(cases, written, strict=True):
        if text is not None:
            texts[case.trace.id] = text
    return texts


def _close_tag(engine: Engine, trace: Trace) -> str:
    """What ends the thought of a trace, with the line breaks around it."""
    return tags_of(engine.tokenizer, trace.completion).close


def _fate_of(after: Trace, is_unsafe: bool | None) -> Fate:
    """What became of a trace with a new answer."""
    split = split_trace(after)
    answer = split.answer.of(after.completion)
    is_whole = _has_one_thought(after, split)
    if after.finish_reason != "stop" or not is_whole or not answer.strip():
        return Fate.NOT_ENDED
    # An undecided judge mends nothing.
    if is_unsafe is False:
        return Fate.REPAIRED
    return Fate.NOT_REPAIRED


def _repaired_row(
    attempt: Attempt, case: _Case, method: Method, mask: Mask, close: str
) -> dict[str, Any]:
    """The row of a mended trace."""
    completion = attempt.after.completion

    # Tokenizers join a full stop and the line break after it: that one belongs to the check.
    n_inserted = len(attempt.insert) - len(close.lstrip("\n"))
    check = Span(attempt.cut, attempt.cut + n_inserted)

    # The prefix is that of the original, so its cuts hold here too.
    safe_stop = 0
    if case.diagnosis.n_safe:
        cuts = step_cuts(case.trace)
        safe_stop = cuts[case.diagnosis.n_safe]

    if method is Method.SAFR:
        mask = Mask.ALL
    learned = learned_spans(mask, check, safe_stop, len(completion))
    return masked_row(
        _prompt_of(case.trace),
        completion,
        learned,
        source=f"cog_{method}",
        why=case.diagnosis.cause.value,
        h=attempt.step,
        id=case.trace.id,
    )


def _unchanged_row(trace: Trace, method: Method) -> dict[str, Any]:
    """A trace that did not fail: all of it is learned."""
    everything = [Span(0, len(trace.completion))]
    return masked_row(
        _prompt_of(trace),
        trace.completion,
        everything,
        source=f"cog_{method}",
        why=Cause.NONE.value,
        h=None,
        id=trace.id,
    )


def _prompt_of(trace: Trace) -> str | list:
    """The request or the messages, before the chat template."""
    return trace.meta.get("prompt_messages") or request_of(trace)


# --- the command line ----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Build rows for a real model; with `--dry_run true` those of a few prompts, to look at."""
    from cotlens.judges.local import load_guard

    args = _parse(arguments)
    is_dry = args.dry_run == "true"
    if not is_dry and args.out is None:
        raise SystemExit("no file to write: -o ROWS.jsonl, or --dry_run true")
    if not is_dry and args.out.exists():
        raise SystemExit(f"{args.out} exists; name another file, or remove it")

    prompts = list(read_prompts(args.prompts))
    if is_dry:
        prompts = prompts[:N_SHOWN]
    student = as_engine(cotlens.load_model(args.model))
    judge = guard_judge(load_guard(args.guard, family=args.guard_family))

    # A repair draws one more text, but only for a failure: the total is not known.
    with tqdm(desc="sample and repair", unit=" texts", file=sys.stderr) as bar:

        def show(n_done: int) -> None:
            bar.update(n_done)

        built = build(
            student,
            judge,
            prompts,
            method=Method(args.method),
            n=args.n,
            max_new_tokens=args.max_new_tokens,
            seed=args.seed,
            progress=show,
            by_student=args.by_student == "true",
            mask=Mask(args.mask),
        )

    if is_dry:
        print(_describe(student.tokenizer, built))
        return
    write_rows(args.out, built.rows)
    print(json.dumps(built.counts()))


def _parse(arguments: Sequence[str] | None) -> Any:
    parser = ArgumentParser(
        prog="python -m trainers.methods.cog",
        description="Rows of Chain-of-Guardrails for SFT, from a student's own traces.",
    )
    truth = ("true", "false")
    parser.add_argument("--model", required=True, help="the student: a folder or repository")
    parser.add_argument("--prompts", required=True, nargs="+", help="files of harmful requests")
    parser.add_argument("--guard", required=True, help="the judge: a folder or repository")
    parser.add_argument("--guard_family", default="", help="llama-guard, wildguard or qwen3guard")
    parser.add_argument("--method", choices=list(Method), default="safb")
    parser.add_argument("--mask", choices=list(Mask), default="check_and_answer", help="of SafB")
    parser.add_argument("--by_student", choices=truth, default="false", help="it writes the checks")
    parser.add_argument("--n", type=int, default=1, help="samples per prompt")
    parser.add_argument("--max_new_tokens", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry_run", choices=truth, default="false", help="show, write nothing")
    parser.add_argument("-o", "--out", type=Path)
    return parser.parse_args(arguments)


def _describe(tokenizer: Any, built: Built) -> str:
    """Counts, lengths, and the first repaired row (else the first) with what is learned."""
    lines = [f"{len(built.rows)} rows", json.dumps(built.counts())]
    if not built.rows:
        return "\n".join(lines)

    # As the trainer encodes them.
    lengths = []
    shown = ""
    for row in sorted(built.rows, key=lambda row: row["why"] == Cause.NONE):
        prompt = render_prompt(tokenizer, row["prompt"])
        completion = fit_completion(prompt, row["completion"])
        shift = len(completion) - len(row["completion"])
        learned = []
        for start, stop in row["learned"]:
            learned.append((max(0, start + shift), stop + shift))
        lengths.append(len(encode(tokenizer, prompt, completion, learned).input_ids))
        shown = shown or prompt + bracket(completion, str(tokenizer.eos_token), learned)
    lines += [
        f"tokens: {min(lengths)} to {max(lengths)}",
        f"first row, what is learned in [[ ]]:\n{shown}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
