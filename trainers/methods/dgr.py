"""DGR: SFT on another's safety traces that the student has rewritten itself (arXiv 2602.02136).

    python -m trainers.methods.dgr --model M --data FILE -o data/dgr.jsonl
    python -m trainers.sft --config trainers/configs/sft_dgr.yaml --data data/dgr.jsonl

    for each external (x, y): r ~ student(rewrite of x and y)
        refined, (x, r): r is closed, decides as y does, says nothing of the rewriting, and is from
                         half to twice as long
        fallback, (x, y): otherwise
    SFT on these rows

The student refuses what the source refuses, in words that it could have written itself, so SFT
moves it less. How many rows are fallbacks decides what was trained on: each row says so in `source`
and `why`, and the counts are printed.

Departs from the paper: only its abstract and reviews of it are known to this project, so the
wording of the request and the filter are this project's; a decision is read by rules for refusals.
"""

from importlib.util import find_spec

if find_spec("trainers") is None:
    raise SystemExit(
        "start it as a module, from the root of the repository: python -m trainers.methods.dgr"
    )

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from cotlens.detect.refusal import Refusal, classify_refusal
from cotlens.formats.prompts import Prompt, as_prompts
from cotlens.models.engine import Engine
from cotlens.models.load import Model, load_model
from cotlens.models.sample import as_engine, sample
from cotlens.stats.bootstrap import Estimate
from cotlens.text.split import part_text, request_of
from cotlens.trace import Trace
from trainers.methods.command import add_common, bar, check_out, finish, shorten
from trainers.methods.selfgen import (
    KEPT,
    UNCLOSED,
    Built,
    count,
    is_complete,
    row_perplexity,
    with_room,
)
from trainers.render import request_of as request_of_row
from trainers.rows import Row, check_rows, load_rows

REFINED = "refined"
FALLBACK = "fallback"
SHORTEST = 0.5  # of the source's length in characters
LONGEST = 2.0
LEAK_WORDS = 5  # so many words of the request in a row, which the source does not have

REWRITE = (
    "You will see a question and somebody's response to it: first the thoughts, then the answer. "
    "Respond to the question yourself. Reason in the way that comes naturally to you, reach the "
    "decision that the response reaches, and give your answer. Never mention that you were shown "
    "a response.\n\n"
    "Question:\n{request}\n\nThoughts:\n{thinking}\n\nAnswer:\n{answer}"
)
# Words of somebody who was asked to rewrite something.
_LEAK = re.compile(
    r"\b(?:rewrit\w*|rewrote|rephras\w*|reword\w*|paraphras\w*|own words"
    r"|(?:given|provided|original|shown) (?:response|reasoning|thoughts|answer))\b"
)

# What a trace decides; None: nobody can tell, and it equals nothing.
Decision = Callable[[Trace], Hashable | None]
# What the student reads to rewrite a trace.
Ask = Callable[[Trace], str]


def decide(trace: Trace) -> Refusal | None:
    """Whether the answer refuses, partly or fully, by rules."""
    decision = classify_refusal(part_text(trace, "answer"))
    return None if decision is Refusal.UNKNOWN else decision


def ask_for_rewrite(trace: Trace) -> str:
    """The request to write a trace again, in this project's words."""
    return REWRITE.format(
        request=request_of(trace),
        thinking=part_text(trace, "thinking").strip(),
        answer=part_text(trace, "answer").strip(),
    )


def build(
    student: Model | Engine,
    judge: Decision,
    sources: Sequence[Row],
    *,
    ask: Ask = ask_for_rewrite,
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_new_tokens: int = 4096,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Built:
    """One row for SFT for each external trace, in their order.

    Args:
        student: the model to train, before training.
        judge: what a trace decides; source and rewriting must agree.
        sources: external rows: `prompt`, `completion`, and perhaps `domain` and `prompt_id`.
        ask: the request that the student reads.
        temperature: of sampling.
        top_p: likewise.
        max_new_tokens: longest rewriting; a source that leaves no room for it stays.
        seed: of the samples.
        progress: called with the number of samples done since the last call.

    Returns:
        The acceptance counts a row without a rewriting as sampled, so that kept and fallback make
        up all rows.

    Raises:
        ValueError: if a row has no prompt or no completion.
    """
    check_rows(sources, ("prompt", "completion"))
    engine = as_engine(student)

    # What the student reads: another text than the prompt that it will be trained on.
    externals = []
    requests: list[str] = []
    for number, row in enumerate(sources):
        external = _as_external(row, number)
        externals.append(external)
        requests.append(ask(external))
    asked = []
    for prompt, external in zip(as_prompts(requests), externals, strict=True):
        asked.append(prompt._replace(fields=prompt.fields | {"domain": external.domain}))
    rewriting_of = _rewrite(
        engine,
        asked,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
    )

    # Whatever is wrong with a rewriting, its source is trained on in its place.
    rows = []
    reasons = []
    for row, external, prompt, request in zip(sources, externals, asked, requests, strict=True):
        rewriting = rewriting_of.get(prompt.id)
        why = check(external, rewriting, judge, request) if rewriting else "no room"
        reasons.append(why)
        text = rewriting.completion if rewriting and why == KEPT else row["completion"]
        built_row = {
            "prompt": row["prompt"],
            "completion": text,
            "domain": external.domain,
            "prompt_id": external.prompt_id,
            "source": REFINED if why == KEPT else FALLBACK,
            "why": why,
        }
        rows.append(built_row)

    # Every row that is not kept is a fallback.
    acceptance = {}
    for domain, numbers in count(externals, reasons).items():
        n_fallback = numbers.sampled - numbers.kept
        acceptance[domain] = numbers._replace(fallback=n_fallback)
    counts: dict[str, int] = {"prompts": len(sources), "generations per prompt": 1}
    for why, number in Counter(reasons).items():
        counts["refined" if why == KEPT else f"fallback: {why}"] = number
    return Built(rows, acceptance, counts, list(rewriting_of.values()))


def _rewrite(
    engine: Engine, asked: Sequence[Prompt], *, max_new_tokens: int, **options: Any
) -> dict[str, Trace]:
    """The rewriting of each request that has room, by the id of the request."""
    # A source without room in the context is not rewritten.
    fitting = with_room(engine, asked, max_new_tokens)
    samples = sample(engine, fitting, max_new_tokens=max_new_tokens, **options)
    rewriting_of = {}
    for prompt, trace in zip(fitting, samples, strict=True):
        rewriting_of[prompt.id] = trace
    return rewriting_of


def check(source: Trace, rewriting: Trace, judge: Decision, request: str) -> str:
    """Why a rewriting cannot be trained on, or "kept".

    The first that applies of: unclosed, another decision, mentions the rewriting, length.

    Args:
        source: what was rewritten.
        rewriting: by the student.
        judge: what a trace decides.
        request: the text that asked for the rewriting.
    """
    if not is_complete(rewriting):
        return UNCLOSED

    # The words may change, the decision may not.
    decision = judge(source)
    if decision is None or judge(rewriting) != decision:
        return "another decision"
    if mentions_rewriting(rewriting.completion, request, source):
        return "mentions the rewriting"

    ratio = len(rewriting.completion) / len(source.completion)
    if not SHORTEST <= ratio <= LONGEST:
        return "length"
    return KEPT


def mentions_rewriting(text: str, request: str, source: Trace) -> bool:
    """Whether a text speaks of rewriting, or repeats five words in a row of the request for it.

    What the source or its question says itself is no mention.
    """
    original = f"{request_of(source)}\n{source.completion}"
    phrases = set(_LEAK.findall(text.lower()))
    if phrases.difference(_LEAK.findall(original.lower())):
        return True

    # Whole phrases of the request.
    leaked = _runs(text) & _runs(request)
    return bool(leaked - _runs(original))


def _runs(text: str) -> set[tuple[str, ...]]:
    """All runs of so many words."""
    words = re.findall(r"\w+", text.lower())
    runs = set()
    for start in range(len(words) - LEAK_WORDS + 1):
        runs.add(tuple(words[start : start + LEAK_WORDS]))
    return runs


def _as_external(row: Row, number: int) -> Trace:
    request = request_of_row(row["prompt"])
    return Trace(
        id=f"external {number}",
        prompt=request,
        prompt_id=str(row.get("prompt_id") or ""),
        completion=row["completion"],
        domain=str(row.get("domain") or ""),
    )


class Perplexities(NamedTuple):
    """Perplexity of the refined rows under the student, and of what they were made from."""

    source: Estimate
    refined: Estimate


def refined_perplexity(
    student: Model, sources: Sequence[Row], rows: Sequence[Row], part: str = "all"
) -> Perplexities:
    """Whether the rewriting brought the data closer to the student: lower is closer.

    Args:
        student: before training.
        sources: as `build` got them.
        rows: as `build` returned them; fallbacks are left out on both sides.
        part: all, thinking or answer.

    Raises:
        ValueError: if no row is refined.
    """
    sources_of_refined = []
    refined = []
    for source, row in zip(sources, rows, strict=True):
        if row["source"] == REFINED:
            sources_of_refined.append(source)
            refined.append(row)

    # Nothing was rewritten.
    if not refined:
        raise ValueError(f"none of the {len(rows)} rows is refined, so there is nothing to compare")
    return Perplexities(
        source=row_perplexity(student, sources_of_refined, part),
        refined=row_perplexity(student, refined, part),
    )


# --- the command -------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Rewrite external rows, or show those of the first few (`--dry_run true`)."""
    parser = argparse.ArgumentParser(
        prog="python -m trainers.methods.dgr", description="Rows for trainers.sft."
    )
    add_common(parser, temperature=0.7, top_p=1.0, max_new_tokens=4096)
    parser.add_argument("--data", required=True, nargs="+", help="rows as trainers.sft takes them")
    parser.add_argument("--columns", type=json.loads, default={}, help="JSON, our column: theirs")
    options = parser.parse_args(arguments)
    out = check_out(parser, options)

    sources = shorten(load_rows(options.data, columns=options.columns), options)
    model = load_model(options.model)
    with bar("dgr", len(sources)) as advance:
        built = build(
            model,
            decide,
            sources,
            temperature=options.temperature,
            top_p=options.top_p,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            progress=advance,
        )
    finish(built, model.tokenizer, out)


if __name__ == "__main__":
    main()
