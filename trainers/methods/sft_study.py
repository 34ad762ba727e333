"""The SFT study of safe reasoning: six kinds of response to the same prompts (arXiv 2505.15404).

    python -m trainers.methods.sft_study --model WRITER --prompts FILE --guard G --benign F -o DIR
    python -m trainers.sft --config trainers/configs/sft_study.yaml

    for each type: y ~ writer(what the type asks for, x); without thinking: y is a fixed refusal
                   drop y without a closed thought; drop what the guard does not call safe
    keep the prompts that are left in every type, n of them, and one response of each type to each
    add a tenth of harmless rows to every type
    SFT on (x, y): what was asked for is not stored

So the types differ in their responses alone, not in what is asked or how often. `without` takes the
rows with a risky pattern out, and `control` as many others: fewer rows are a reason of their own to
be less safe.

Departs from the paper: the words that ask for a type are this project's; one writer writes all
types, where theirs wrote the long ones with DeepSeek-R1 and the short ones with GPT-4o; prompts are
matched between types.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: "
        "python -m trainers.methods.sft_study"
    )

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from cotlens.formats.prompts import Prompt, as_prompts, read_prompts
from cotlens.judges.local import load_guard
from cotlens.models.engine import Engine
from cotlens.models.load import Model, load_model
from cotlens.models.sample import as_engine, sample
from cotlens.text.split import part_text, request_of
from cotlens.trace import Trace
from trainers.methods.command import add_common, bar, describe, shorten
from trainers.methods.selfgen import (
    KEPT,
    UNCLOSED,
    UNSAFE,
    Acceptance,
    Built,
    IsSafe,
    safe_by,
    select,
    with_room,
)
from trainers.methods.thinksafe import steer, unsteer
from trainers.rows import Row, load_rows, write_rows


class ResponseType(StrEnum):
    """What a response looks like, in the paper's order.

    - DEFAULT: what the writer thinks unasked;
    - IMPROVED: it looks for risks (the paper's RealSafe CoT);
    - IMMEDIATE: it looks for risks and refuses at once (the paper's Improved CoT);
    - SHORT: two sentences of thought;
    - TEMPLATE: one verdict for each of CATEGORIES, in order, then the conclusion;
    - NONE: an empty thought and a fixed refusal.
    """

    DEFAULT = "default"
    IMPROVED = "improved"
    IMMEDIATE = "immediate"
    SHORT = "short"
    TEMPLATE = "template"
    NONE = "none"


# Kinds of harm that a template goes through; the paper has eight.
CATEGORIES = (
    "violence",
    "weapons",
    "crime",
    "self-harm",
    "sexual content",
    "hate",
    "privacy",
    "deception",
)
_LISTED = ", ".join(CATEGORIES)

# Put before the request. Only the writer reads it.
INSTRUCTIONS: Mapping[ResponseType, str] = {
    ResponseType.DEFAULT: "",
    ResponseType.IMPROVED: (
        "While you think about the request below, look for what could go wrong if it were met. "
        "If it could do harm, decline it plainly.\n\nRequest: "
    ),
    ResponseType.IMMEDIATE: (
        "While you think about the request below, look for what could go wrong if it were met. "
        "If it could do harm, decide at once to decline, in thought and answer; weigh no partial, "
        "fictional or alternative way of meeting it, and begin the answer with an apology.\n\n"
        "Request: "
    ),
    ResponseType.SHORT: (
        "Think about the request below in two sentences at most, then answer. If it could do harm, "
        "decline it.\n\nRequest: "
    ),
    ResponseType.TEMPLATE: (
        f"Think about the request below in this form: one line for each of {_LISTED}, in this "
        "order, with its name, a colon, and yes or no; then a line that concludes. If any is yes, "
        "decline.\n\nRequest: "
    ),
    ResponseType.NONE: "",
}
REFUSAL = "<think>\n\n</think>\n\nI'm sorry, but I can't help with that."

BENIGN_SHARE = 0.1  # harmless rows for each harmful one: the paper adds 100 to 1,000
N_ROWS = 1000  # of harmful prompts

MISSING = "no response of every type"
UNUSED = "more prompts than asked for"
OFF_TYPE = "responses not of their type"


class Responses(NamedTuple):
    """Rows of every type for the same prompts.

    Attributes:
        rows: of each type, in the order of the prompts; each a row of `trainers.sft`, with
            `source` (the type) and `why`.
        acceptance: of the samples of each type; one that is not of its type is none of the reasons.
        counts: what became of the prompts, and the responses that are not of their type.
        traces: the samples of each type, as answers to the bare request.
    """

    rows: dict[ResponseType, list[dict[str, Any]]]
    acceptance: dict[ResponseType, Acceptance]
    counts: dict[str, int]
    traces: dict[ResponseType, list[Trace]]


def build(
    writer: Model | Engine,
    judge: IsSafe,
    prompts: Sequence[Prompt],
    *,
    benign: Sequence[Row] = (),
    benign_share: float = BENIGN_SHARE,
    n_rows: int = N_ROWS,
    max_new_tokens: int = 4096,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Responses:
    """Rows of all six types for the same harmful prompts.

    Args:
        writer: who writes the responses: a strong reasoning model.
        judge: which complete samples are safe (`selfgen.safe_by`), thought and answer.
        prompts: harmful ones.
        benign: harmless rows with responses; repeated in turn if there are too few.
        benign_share: harmless rows for each harmful one.
        n_rows: of harmful prompts, if so many are left.
        max_new_tokens: longest sample; a prompt that leaves no room for it has no response.
        seed: of the samples, the same for every type.
        progress: called with the number of samples done since the last call.
        **options: of `sample`: `temperature`, `top_p`, ...

    Raises:
        ValueError: if harmless rows are asked for and there are none.
    """
    engine = as_engine(writer)
    asked = as_prompts(prompts)

    written = {}
    for kind in ResponseType:
        if kind is ResponseType.NONE:
            continue
        written[kind] = _write(
            engine,
            asked,
            INSTRUCTIONS[kind],
            max_new_tokens=max_new_tokens,
            seed=seed,
            progress=progress,
            **options,
        )
    written[ResponseType.NONE] = [_refuse(trace) for trace in written[ResponseType.DEFAULT]]
    return match(
        written,
        judge,
        benign=benign,
        benign_share=benign_share,
        n_rows=n_rows,
        checks={ResponseType.TEMPLATE: follows_template},
    )


def match(
    written: Mapping[ResponseType, Sequence[Trace]],
    judge: IsSafe,
    *,
    benign: Sequence[Row] = (),
    benign_share: float = BENIGN_SHARE,
    n_rows: int = N_ROWS,
    checks: Mapping[ResponseType, Callable[[Trace], bool]] = {},
) -> Responses:
    """Rows for the prompts whose responses of every type pass, the first that does of each.

    Args:
        written: samples of each type, matched by `prompt_id`.
        judge: as in `build`, like the arguments that follow.
        benign: likewise.
        benign_share: likewise.
        n_rows: likewise.
        checks: whether a response is of its type; a type without one takes all.
    """
    rows_of: dict[ResponseType, dict[str, dict[str, Any]]] = {}
    acceptance = {}
    off_type = {}
    for kind, traces in written.items():
        check = checks.get(kind)
        of_type = [trace for trace in traces if check is None or check(trace)]
        selection = select(of_type, judge)
        n_kept = selection.why.count(KEPT)
        acceptance[kind] = Acceptance(
            sampled=len(traces),
            unclosed=selection.why.count(UNCLOSED),
            unsafe=selection.why.count(UNSAFE),
            kept=n_kept,
        )
        off_type[kind] = len(traces) - len(of_type)

        # One response to a prompt.
        rows_of[kind] = {}
        for trace in selection.traces:
            why = f"safe, as {n_kept} of {len(traces)} samples of its type"
            rows_of[kind].setdefault(trace.prompt_id, _row(trace, kind, why))

    # The prompts that every type has, in the order of the first.
    prompt_ids = list(dict.fromkeys(trace.prompt_id for trace in next(iter(written.values()))))
    common = []
    for prompt_id in prompt_ids:
        if all(prompt_id in rows for rows in rows_of.values()):
            common.append(prompt_id)
    chosen = common[:n_rows]

    harmless = benign_rows(benign, round(benign_share * len(chosen)))
    rows = {}
    for kind in written:
        rows[kind] = [rows_of[kind][prompt_id] for prompt_id in chosen] + harmless
    counts = {
        "prompts": len(prompt_ids),
        MISSING: len(prompt_ids) - len(common),
        UNUSED: len(common) - len(chosen),
        "harmful rows": len(chosen),
        "harmless rows": len(harmless),
    }
    for kind, number in off_type.items():
        counts[f"{OFF_TYPE}: {kind.value}"] = number
    return Responses(rows, acceptance, counts, {kind: list(written[kind]) for kind in written})


def benign_rows(rows: Sequence[Row], n: int) -> list[dict[str, Any]]:
    """`n` harmless rows, in turn.

    Raises:
        ValueError: if some are asked for and there are none.
    """
    if n and not rows:
        raise ValueError(
            f"sft_study: {n} harmless rows are asked for and none is given; name a file of rows "
            "(--benign), or ask for none (--benign_share 0)"
        )
    return [dict(row) | {"source": "benign"} for row in islice(cycle(rows), n)]


def follows_template(trace: Trace) -> bool:
    """Whether the thought has one verdict, yes or no, for each category, in order, and no other."""
    found = []
    for line in part_text(trace, "thinking").splitlines():
        name, colon, verdict = line.lower().partition(":")
        is_verdict = colon and verdict.strip().rstrip(".") in ("yes", "no")
        if is_verdict:
            found.append(name.strip("-* \t"))
    return tuple(found) == CATEGORIES


def _write(
    engine: Engine,
    prompts: Sequence[Prompt],
    instruction: str,
    *,
    max_new_tokens: int,
    **options: Any,
) -> list[Trace]:
    """One sample for each prompt with room for it, as an answer to the bare request."""
    steered = [steer(prompt, instruction) if instruction else prompt for prompt in prompts]
    fitting = with_room(engine, steered, max_new_tokens)
    samples = sample(engine, fitting, max_new_tokens=max_new_tokens, **options)

    owner_of = {prompt.id: prompt for prompt in prompts}
    traces = []
    for prompt, trace in zip(fitting, samples, strict=True):
        traces.append(unsteer(engine, trace, owner_of[prompt.id]))
    return traces


def _refuse(trace: Trace) -> Trace:
    """The same request with an empty thought and the fixed refusal."""
    return Trace(
        id=trace.id,
        prompt=trace.prompt,
        prompt_id=trace.prompt_id,
        completion=REFUSAL,
        domain=trace.domain,
        finish_reason="stop",
        meta=dict(trace.meta),
    )


def _row(trace: Trace, kind: ResponseType, why: str) -> dict[str, Any]:
    return {
        "prompt": trace.meta.get("prompt_messages") or request_of(trace),
        "completion": trace.completion,
        "domain": trace.domain,
        "prompt_id": trace.prompt_id,
        "source": kind.value,
        "why": why,
    }


# --- matched removal -----------------------------------------------------------------------------


def without(rows: Sequence[Row], has_pattern: Sequence[bool]) -> list[Row]:
    """The rows that do not have a pattern, in order."""
    return [row for row, flag in zip(rows, has_pattern, strict=True) if not flag]


def control(rows: Sequence[Row], has_pattern: Sequence[bool], seed: int = 0) -> list[Row]:
    """As many rows as `without` leaves, in order, those that are taken out drawn at random.

    The draw does not look at the pattern, so that both arms have the same number of rows and differ
    in which.
    """
    n_removed = sum(map(bool, has_pattern))
    if len(has_pattern) != len(rows):
        raise ValueError(f"got {len(has_pattern)} flags for {len(rows)} rows")

    removed = set(random.Random(f"control {seed}").sample(range(len(rows)), n_removed))
    return [row for number, row in enumerate(rows) if number not in removed]


# --- the command ---------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Build one file of rows for each type, or show those of a few prompts (`--dry_run true`)."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.methods.sft_study", description="Rows for trainers.sft."
    )
    add_common(parser, temperature=0.6, top_p=0.95, max_new_tokens=4096)
    add = parser.add_argument
    add("--prompts", required=True, nargs="+", help="files of harmful prompts")
    add("--guard", required=True, help="keeps what it calls safe, thought and answer")
    add("--benign", nargs="+", default=[], help="files of harmless rows: prompt, completion")
    add("--benign_share", type=float, default=BENIGN_SHARE, help="of the harmful rows")
    add("--n_rows", type=int, default=N_ROWS, help="harmful rows of each type")
    options = parser.parse_args(arguments)

    # One file for each type; samples are expensive, and none is overwritten.
    if options.dry_run == "false" and not options.out:
        parser.error("name a folder for the rows, -o FOLDER, or look first, --dry_run true")
    out = Path(options.out) if options.out else None
    if out and out.exists():
        parser.error(f"{out} is there already; name another folder, or remove it")
    prompts = shorten(list(read_prompts(options.prompts)), options)
    benign = load_rows(options.benign) if options.benign else []
    model = load_model(options.model)
    guard = load_guard(options.guard)

    with bar("sft_study", (len(ResponseType) - 1) * len(prompts)) as advance:
        built = build(
            model,
            safe_by(guard),
            prompts,
            benign=benign,
            benign_share=options.benign_share,
            n_rows=options.n_rows,
            temperature=options.temperature,
            top_p=options.top_p,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            progress=advance,
        )
    for name, number in built.counts.items():
        print(f"{name}: {number}")
    for kind, rows in built.rows.items():
        print(f"\n--- {kind.value}")
        of_type = Built(rows, {"": built.acceptance[kind]}, {}, built.traces[kind])
        print(describe(of_type, model.tokenizer))
        if options.dry_run == "false" and out:
            write_rows(out / f"{kind.value}.jsonl", rows)


if __name__ == "__main__":
    main()
