"""Intervened Preference Optimization (arXiv 2509.24393): prefer the thought whose turn was mended.

    python -m trainers.methods.ipo --model MODEL --prompts harmful.jsonl -o stage1.jsonl
    python -m trainers.methods.ipo --model MODEL --stage1 STAGE1_MODEL --prompts harmless.jsonl \
        --pairs stage1.jsonl --ratio 0.5 -o stage2.jsonl

Stage 1: sample a thought for each harmful prompt. Find the first step, from the second on, that
means to comply (a compliance cue). For each of six sentences of safety (triggers): put it in the
step's place and let the model go on, once. What has no cue left is chosen over the original, from
that step on: DPO with the shared beginning in the prompt, and the base as reference.

Stage 2: for harmless prompts that the stage-1 model refuses and the base answers, the answer is
chosen over the refusal. These pairs are mixed with those of stage 1, and DPO with a small SFT term
starts from the stage-1 model, which is also the reference.

Departs from the paper: its algorithm is known from a re-implementation's account; cues and triggers
are the caller's (the paper finds cues with GPT-4o and has triggers of its own); a thought is cut
between two tokens; traces that end at the token limit make no pair.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.methods.ipo"
    )

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cotlens.detect.refusal import Refusal, classify_refusal
from cotlens.formats.prompts import Prompt, as_prompts, read_prompts
from cotlens.judges.guard import Guard
from cotlens.judges.verdict import Item, Part
from cotlens.models.sample import as_engine, sample
from cotlens.probes.intervene import Accept, Attempt, Find, intervene
from cotlens.probes.recovery import start_of_own
from cotlens.text.split import part_text, request_of, split_trace
from cotlens.text.steps import segment_trace
from cotlens.trace import Trace, TraceError
from trainers.methods.pairs import Pair, describe_lengths, has_ended, pair_rows
from trainers.render import bracket
from trainers.rows import load_rows, write_rows

# The first step of a thought only takes the request up.
FIRST_STEP = 1
N_SHOWN = 4  # prompts of a dry run

Row = dict[str, Any]
Refuses = Callable[[Trace], bool | None]


class Built(NamedTuple):
    """Rows for `trainers.dpo` with `rendered`, and what they cost.

    Attributes:
        rows: as `pairs.pair_rows` makes them.
        prompts: samples by what became of them.
        pairs: pairs by what became of them (`pairs.Rows`).
        traces: everything that was sampled or continued here.
    """

    rows: list[Row]
    prompts: dict[str, int]
    pairs: dict[str, int]
    traces: list[Trace]


# --- stage 1 -----------------------------------------------------------------------------------


def build(
    student: Any,
    judge: Find,
    prompts: Sequence[str | Sequence[Mapping[str, Any]] | Prompt],
    *,
    triggers: Sequence[str],
    accept: Accept | None = None,
    full: bool = False,
    template_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> Built:
    """Pairs of stage 1: one sample of each prompt, mended by each of the triggers.

    That is at most one generation, and one for each trigger, a prompt.

    Args:
        student: a loaded model or an engine with a tokenizer; it writes samples and continuations.
        judge: the number of the first step, from a given one on, that is a compliance cue; None:
            there is none (`cotlens.probes.cues.first_cue`).
        prompts: harmful requests, as `sample` takes them.
        triggers: sentences of safety.
        accept: whether a continuation is mended. None: the paper's rule, no cue is left in it.
            Another: `judged_safe(guard)`.
        full: pairs are whole completions, not cut at the step (the paper's ablation).
        template_args: variables of the chat template.
        **options: `max_new_tokens`, `temperature`, `top_p`, `seed`, `progress`, ... of `sample`.
    """
    traces = sample(student, prompts, template_args=template_args, **options)
    built = mend(student, judge, traces, triggers=triggers, accept=accept, full=full, **options)
    return built._replace(traces=[*traces, *built.traces])


def mend(
    student: Any,
    judge: Find,
    traces: Sequence[Trace],
    *,
    triggers: Sequence[str],
    accept: Accept | None = None,
    full: bool = False,
    **options: Any,
) -> Built:
    """Pairs of stage 1 from samples that are there already; the arguments are those of `build`.

    Returns:
        Of the traces, `prompts` counts those that are `mended` by one trigger or more, those
        `not_mended` by any, without a cue (`no_cue`), without a thought (`no_thought`), and those
        that did not end by themselves (`cut_off`).

    Raises:
        ValueError: if there is no trigger.
    """
    if not triggers:
        raise ValueError("ipo: expected sentences of safety as triggers, got none")

    # What has no cue, or could make no pair, costs no generation.
    outcomes = ("mended", "not_mended", "no_cue", "no_thought", "cut_off")
    counts: dict[str, int] = dict.fromkeys(outcomes, 0)
    cue_of = {}
    for trace in traces:
        reason, step = _first_cue(trace, judge)
        if step is None:
            counts[reason] += 1
        else:
            cue_of[trace.id] = step
    with_cue = [trace for trace in traces if trace.id in cue_of]

    def find(trace: Trace, _: int) -> int:
        return cue_of[trace.id]

    # One round: each trace is changed by one trigger alone.
    attempts = []
    for trigger in triggers:
        attempts += intervene(
            student,
            with_cue,
            find,
            lambda *_, text=trigger: text,
            accept or leaves_no_cue(judge),
            **options,
        )
    accepted = [attempt for attempt in attempts if attempt.is_accepted]

    # A trace may be mended by several triggers, and gives a pair for each.
    n_mended = len({attempt.original.id for attempt in accepted})
    counts["mended"] = n_mended
    counts["not_mended"] = len(with_cue) - n_mended
    pairs = [_pair_of(attempt, full) for attempt in accepted]
    rows = pair_rows(as_engine(student).tokenizer, pairs)
    written = [attempt.after for attempt in attempts]
    return Built(rows.rows, counts, rows.counts, written)


def _first_cue(trace: Trace, judge: Find) -> tuple[str, int | None]:
    """Why a trace has no step to replace, and the number of the step if it has."""
    if not split_trace(trace).think:
        return "no_thought", None
    if not has_ended(trace):
        return "cut_off", None

    # The judge may look at the first step; it is never a cue.
    step = judge(trace, FIRST_STEP)
    if step is not None and step < FIRST_STEP:
        raise TraceError(
            f"trace {trace.id!r}: the judge named step {step}; expected one from {FIRST_STEP} on"
        )
    return "no_cue", step


def _pair_of(attempt: Attempt, full: bool) -> Pair:
    return Pair(
        chosen=attempt.after,
        rejected=attempt.before,
        cut=0 if full else attempt.cut,
        step=attempt.step,
        source="ipo stage 1",
        why=f"step {attempt.step} replaced by {attempt.insert.strip()!r}",
    )


def leaves_no_cue(judge: Find) -> Accept:
    """The paper's rule: no cue is found in what the model wrote after the trigger."""

    def accept(trace: Trace) -> bool:
        start = start_of_own(trace)
        n_before = sum(step.chars.start < start for step in segment_trace(trace))
        return judge(trace, n_before) is None

    return accept


def judged_safe(guard: Guard) -> Accept:
    """Another rule: a guard calls both thinking and answer safe."""

    def accept(trace: Trace) -> bool:
        items = []
        for part in (Part.THINKING, Part.ANSWER):
            text = part_text(trace, part.value)
            items.append(Item(request_of(trace), text, part))
        return all(verdict.label == "safe" for verdict in guard.judge(items))

    return accept


# --- stage 2 -----------------------------------------------------------------------------------


def refuses(trace: Trace) -> bool | None:
    """Whether an answer refuses, by the rules of `classify_refusal`; None: it does both, or none.

    A trace without an answer is unknown.
    """
    kind = classify_refusal(part_text(trace, "answer"))
    return {Refusal.FULL: True, Refusal.COMPLIANCE: False}.get(kind)


def build_stage2(
    base: Any,
    stage1: Any,
    prompts: Sequence[str | Sequence[Mapping[str, Any]] | Prompt],
    *,
    refuses: Refuses = refuses,
    **options: Any,
) -> Built:
    """Pairs of harmless prompts: the base's help is chosen over the stage-1 model's refusal.

    Args:
        base: the model before stage 1.
        stage1: the model after it.
        prompts: harmless requests.
        refuses: whether an answer refuses; None where it is unclear.
        **options: of `sample`: `max_new_tokens`, ...
    """
    asked = as_prompts(prompts)
    refused = sample(stage1, asked, **options)

    # The base is asked only what was refused.
    again = []
    for prompt, trace in zip(asked, refused, strict=True):
        if refuses(trace):
            again.append(prompt)
    helped = sample(base, again, **options) if again else []
    tokenizer = as_engine(base).tokenizer
    built = pair_help(tokenizer, helped, refused, refuses=refuses)
    return built._replace(traces=[*refused, *helped])


def pair_help(
    tokenizer: Any,
    helped: Sequence[Trace],
    refused: Sequence[Trace],
    *,
    refuses: Refuses = refuses,
) -> Built:
    """Pairs from samples that are there: whole completions of the same prompt.

    Args:
        tokenizer: of the model that will be trained.
        helped: the base's samples; the first that helps is taken of each prompt.
        refused: the stage-1 model's samples.
        refuses: as in `build_stage2`.

    Returns:
        Of the stage-1 model's samples, `prompts` counts those that are `paired`, those where it did
        not refuse (`no_refusal`), and those where the base did not help (`no_help`).
    """
    # The first sample of each prompt that helps and has ended.
    help_of: dict[str, Trace] = {}
    for trace in helped:
        if refuses(trace) is False and has_ended(trace):
            help_of.setdefault(trace.prompt_id, trace)

    counts: dict[str, int] = dict.fromkeys(("paired", "no_refusal", "no_help"), 0)
    pairs = []
    for trace in refused:
        if not refuses(trace):
            counts["no_refusal"] += 1
            continue
        if trace.prompt_id not in help_of:
            counts["no_help"] += 1
            continue

        # They share the prompt and nothing else.
        counts["paired"] += 1
        pair = Pair(
            chosen=help_of[trace.prompt_id],
            rejected=trace,
            source="ipo stage 2",
            why="the request is harmless",
        )
        pairs.append(pair)

    rows = pair_rows(tokenizer, pairs)
    return Built(rows.rows, counts, rows.counts, [])


def mix(harmful: Sequence[Row], benign: Sequence[Row], ratio: float, seed: int = 0) -> list[Row]:
    """Rows of both stages, shuffled, with `ratio` harmful rows for each benign one.

    As many rows as possible are kept: all of one kind, and a random part of the other. The paper
    tries 0.3, 0.5 and 0.7.

    Raises:
        ValueError: if the ratio is not positive, or a stage has no row.
    """
    if not ratio > 0:
        raise ValueError(f"mix: expected harmful rows for each benign one, got {ratio:g}")
    if not harmful or not benign:
        raise ValueError(
            f"mix: expected rows of both stages, got {len(harmful)} harmful and {len(benign)} "
            "benign ones"
        )

    # All rows of one stage, and so many of the other as the ratio asks for.
    n_harmful = min(len(harmful), max(1, round(ratio * len(benign))))
    n_benign = min(len(benign), max(1, round(len(harmful) / ratio)))
    rng = random.Random(seed)
    rows = rng.sample(list(harmful), n_harmful) + rng.sample(list(benign), n_benign)
    rng.shuffle(rows)
    return rows


def chosen_rows(rows: Sequence[Row]) -> list[Row]:
    """Rows for SFT on the chosen completions alone, rendered (the paper's ablation)."""
    sft_rows = []
    for row in rows:
        sft_row = {name: row[name] for name in ("prompt", "h", "source", "why", "request")}
        sft_rows.append(sft_row | {"completion": row["chosen"]})
    return sft_rows


# --- the command -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script: build rows, or show what they would be (`--dry_run true`)."""
    options = _parse(arguments)
    if not options.dry_run and Path(options.out).exists():
        raise SystemExit(f"{options.out}: exists already; name another file, or remove it")

    # A look takes a few prompts.
    prompts = list(read_prompts(options.prompts))
    if options.dry_run:
        prompts = prompts[:N_SHOWN]
    stage1_rows = load_rows([options.pairs]) if options.stage1 else []
    built = _build(options, prompts)

    # Stage 2 trains on the pairs of both stages.
    rows = built.rows
    if options.stage1 and rows:
        rows = mix(stage1_rows, rows, options.ratio, options.seed)
    print(f"samples: {json.dumps(built.prompts)}")
    print(f"pairs: {json.dumps(built.pairs)}")
    per_prompt = len(built.traces) / max(1, len(prompts))
    print(f"{len(built.traces)} generations, {per_prompt:.1f} a prompt")
    print(describe_lengths(rows))
    if options.dry_run:
        _show(rows)
        return

    write_rows(options.out, rows)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m trainers.methods.ipo", description="Rows of pairs for trainers.dpo."
    )
    add = parser.add_argument
    add("--model", required=True, help="the base: a folder, or a repository of the Hub")
    add("--prompts", required=True, nargs="+", help="files; see cotlens.read_prompts")
    add("-o", "--out", help="file of rows (JSONL)")
    add("--guard", help="a guard that accepts what it calls safe; default: no cue is left")
    add("--full", type=_flag, default=False, help="pairs are not cut at the step")
    add("--stage1", help="the model after stage 1: make the rows of stage 2")
    add("--pairs", help="stage 2: the rows of stage 1")
    add("--ratio", type=float, default=0.5, help="stage 2: harmful rows for each benign one")
    add("--temperature", type=float, default=0.6)
    add("--top_p", type=float, default=0.95)
    add("--max_new_tokens", type=int, default=4096)
    add("--seed", type=int, default=0)
    add("--dry_run", type=_flag, default=False, help=f"show rows of {N_SHOWN} prompts, no file")
    options = parser.parse_args(arguments)

    if not options.dry_run and not options.out:
        parser.error("name the file of rows, -o ROWS.jsonl, or look first, --dry_run true")
    if bool(options.stage1) != bool(options.pairs):
        parser.error("stage 2 needs both the model of stage 1 and its rows: --stage1 and --pairs")
    return options


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text == "true"


def _build(options: argparse.Namespace, prompts: Sequence[Prompt]) -> Built:
    """The rows of the stage that is asked for."""
    from tqdm import tqdm

    from cotlens import load_guard, load_model
    from cotlens.probes.cues import TRIGGERS, first_cue, no_cue_left

    base = load_model(options.model)
    with tqdm(desc="ipo", unit=" texts") as bar:
        sampling = {
            "temperature": options.temperature,
            "top_p": options.top_p,
            "max_new_tokens": options.max_new_tokens,
            "seed": options.seed,
            "progress": bar.update,
        }
        if options.stage1:
            return build_stage2(base, load_model(options.stage1), prompts, **sampling)

        accept = judged_safe(load_guard(options.guard)) if options.guard else no_cue_left
        return build(
            base,
            first_cue,
            prompts,
            triggers=TRIGGERS,
            accept=accept,
            full=options.full,
            **sampling,
        )


def _show(rows: Sequence[Row]) -> None:
    if not rows:
        return
    first = rows[0]
    print("first row, what is learned in [[ ]]:")
    print(f"{first['prompt']}{bracket(first['chosen'], '')}")
    print(f"\nrejected:\n{bracket(first['rejected'], '')}")


if __name__ == "__main__":
    main()
