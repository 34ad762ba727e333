"""Commands that ask a model: score the tokens of a run, judge its traces."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tqdm import tqdm
from typer import BadParameter, Option

from cotlens.cli.common import (
    BatchOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    ModelOption,
    NameOption,
    OnErrorOption,
    RevisionOption,
    RunArgument,
    progress_bar,
    remark,
    show,
)
from cotlens.shown import printable
from cotlens.trace import TraceError

if TYPE_CHECKING:
    import pandas as pd

    from cotlens.judges.endpoint import EndpointGuard
    from cotlens.runs.run import Run


# Options of `score`.
ReferenceOption = Annotated[
    str, Option(help="A second model with the same vocabulary: adds the KL to it.")
]
ReferenceRevisionOption = Annotated[
    str | None, Option(help="Branch, tag or commit of the reference.")
]
TemperatureOption = Annotated[
    float, Option(help="Temperature of the distributions that are scored.")
]
TopKOption = Annotated[
    int, Option(min=0, help="Keep this many of the likeliest words for each token.")
]
RetokenizeOption = Annotated[
    bool,
    Option("--retokenize", help="Ignore token ids and encode the text: for another family."),
]
LongOption = Annotated[
    Literal["error", "window"],
    Option(help="Traces longer than the context: refuse them, or use overlapping windows."),
]


def score(
    run: RunArgument,
    model: ModelOption,
    reference: ReferenceOption = "",
    revision: RevisionOption = None,
    reference_revision: ReferenceRevisionOption = None,
    device: DeviceOption = "",
    dtype: DtypeOption = "auto",
    name: NameOption = "",
    temperature: TemperatureOption = 1.0,
    top_k: TopKOption = 0,
    retokenize: RetokenizeOption = False,
    long: LongOption = "error",
    on_error: OnErrorOption = "stop",
    batch_tokens: BatchOption = None,
    force: ForceOption = False,
) -> None:
    """Score every token of a run with a model, into RUN/scores/NAME.

    The scores are entropy, log-prob, rank and varentropy, and with --reference the KL. With
    --on-error skip, the column `error` says why a trace could not be scored.
    """
    if not 0 < temperature < float("inf"):
        raise BadParameter("must be above 0 and finite", param_hint="--temperature")

    from cotlens.files import folder_name
    from cotlens.models.load import load_model
    from cotlens.runs.run import Run
    from cotlens.runs.score import score as score_run

    # A path that is not a run fails before a model is loaded.
    _ = Run(run).info

    scorer = load_model(model, revision=revision, device=device, dtype=dtype)
    base = None
    if reference:
        base = load_model(reference, revision=reference_revision, device=device, dtype=dtype)
    if scorer.is_slow_on_cpu:
        remark(
            "cotlens: this processor has no 16-bit arithmetic; "
            "--dtype float32 is several times faster"
        )

    with progress_bar("score", "tokens", unit_scale=True) as advance:
        scored = score_run(
            run,
            scorer,
            reference=base,
            name=name,
            temperature=temperature,
            top_k=top_k,
            retokenize=retokenize,
            long=long,
            on_error=on_error,
            tokens_per_batch=batch_tokens,
            force=force,
            progress=advance,
        )

    # What was scored, and what to know about it.
    info = scored.score_info(folder_name(name, scorer.name))
    counts = f"{info['n_tokens']:,} tokens of {info['n_traces']:,} traces"
    show(f"{run}: {counts} scored by {info['model']['name']}")
    for key, meaning in _SCORE_REMARKS.items():
        if info[key]:
            remark(f"{info[key]:,} traces {meaning}")


_SCORE_REMARKS = {
    "n_unscored": "could not be scored: their column error says why",
    "n_retokenized": "were encoded from their text",
    "n_inexact": "have token ids that do not decode to exactly their text",
    "n_windowed": "are longer than the model's context and were scored in windows",
}


# Options of `guard`.
GuardModelOption = Annotated[
    str, Option(help="Folder or Hub repository of a guard model, or a model's name at --url.")
]
PartOption = Annotated[
    str,
    Option(
        help="Parts to judge, separated by commas: thinking, answer, full; with --verdicts one of "
        "them or request. The rubrics reflection and behaviours are of the thinking."
    ),
]
FamilyOption = Annotated[
    str, Option(help="llama-guard, wildguard or qwen3guard, if not clear from the name.")
]
UrlOption = Annotated[
    str, Option(help="OpenAI-compatible endpoint, up to /v1, that judges by --rubric.")
]
RubricOption = Annotated[
    Literal["safety", "strongreject", "reflection", "behaviours"],
    Option(
        help="Rubric for the judge at --url: is the text unsafe, StrongREJECT's grades, does the "
        "thinking go back on itself, which cognitive behaviours has it."
    ),
]
KeyVariableOption = Annotated[str, Option(help="Environment variable with the endpoint's API key.")]
PriceOption = Annotated[
    float, Option(help="Price of a million tokens at the endpoint, for the estimate.")
]
TimeoutOption = Annotated[float, Option(help="Most seconds per request.")]
MaxTokensOption = Annotated[
    int,
    Option(min=1, help="Longest answer of the judge at --url in tokens, with its own thinking."),
]
ConcurrencyOption = Annotated[
    int, Option(min=1, help="Requests in flight at --url at once; 1: one after the other.")
]
VerdictsOption = Annotated[
    Path | None,
    Option(help="Add the verdicts in a .csv instead: trace_id, label[, p_unsafe, refusal]."),
]
DryRunOption = Annotated[
    bool, Option("--dry-run", help="Only report what would be judged, and its cost.")
]


def guard(
    run: RunArgument,
    judge: GuardModelOption,
    part: PartOption = "",
    family: FamilyOption = "",
    url: UrlOption = "",
    rubric: RubricOption = "safety",
    key_variable: KeyVariableOption = "OPENAI_API_KEY",
    price: PriceOption = 0.0,
    timeout: TimeoutOption = 60.0,
    max_tokens: MaxTokensOption = 1000,
    concurrency: ConcurrencyOption = 16,
    revision: RevisionOption = None,
    device: DeviceOption = "",
    dtype: DtypeOption = "auto",
    name: NameOption = "",
    verdicts: VerdictsOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Judge the thinking and the answer of every trace separately, into RUN/guard/NAME/PART."""
    from cotlens.files import folder_name
    from cotlens.judges import endpoint
    from cotlens.judges.local import load_guard
    from cotlens.runs.judge import judge_run
    from cotlens.runs.run import Run

    opened = Run(run)

    # Verdicts made elsewhere need no judge, and may be on the request.
    if verdicts is not None:
        all_parts = ("thinking", "answer", "full", "request")
        parts = _parse_parts(part or "thinking,answer", all_parts)
        _add_verdicts(opened, verdicts, judge, parts, dry_run)
        return
    if rubric != "safety" and not url:
        raise BadParameter("a rubric is for a judge at --url", param_hint="--rubric")
    if rubric in ("reflection", "behaviours"):
        parts = _parse_parts(part or "thinking", ("thinking",))
    else:
        parts = _parse_parts(part or "thinking,answer", ("thinking", "answer", "full"))

    # An endpoint costs money: its cost is estimated before it is asked.
    n_items = int(opened.info.get("n_traces", 0)) * len(parts)
    if url:
        judge_class = {
            "safety": endpoint.EndpointGuard,
            "strongreject": endpoint.StrongRejectGuard,
            "reflection": endpoint.ReflectionGuard,
            "behaviours": endpoint.BehaviourGuard,
        }[rubric]
        judge_model = judge_class(
            url,
            judge,
            key=os.environ.get(key_variable, ""),
            timeout=timeout,
            max_tokens=max_tokens,
            concurrency=concurrency,
            on_retry=lambda why: tqdm.write(printable(f"again: {why}"), file=sys.stderr),
        )
        estimate = _estimate_cost(judge_model, opened, parts, price)
        remark(f"{n_items:,} requests of {estimate}")
        if dry_run:
            return
    elif dry_run:
        remark(f"{n_items:,} parts of traces would be judged by {judge}")
        return
    else:
        judge_model = load_guard(
            judge, family=family, revision=revision, device=device, dtype=dtype
        )

    with progress_bar("guard", "parts", total=n_items) as advance:
        judge_run(opened, judge_model, parts=parts, name=name, progress=advance)
    _print_label_counts(opened.judge_info(folder_name(name, judge_model.name)), parts)


def _parse_parts(text: str, allowed: Sequence[str]) -> list[str]:
    """Return the parts in a list with commas."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not set(parts) <= set(allowed):
        expected = " or ".join(filter(None, [", ".join(allowed[:-1]), allowed[-1]]))
        raise BadParameter(f"expected {expected}, got {text!r}", param_hint="--part")
    return parts


def _add_verdicts(run: "Run", path: Path, judge: str, parts: list[str], dry_run: bool) -> None:
    """Add the verdicts in a csv to a run; a dry run only reports how many there are."""
    from cotlens.files import folder_name
    from cotlens.runs.judge import add_verdicts

    if len(parts) != 1:
        raise BadParameter(
            "verdicts are of one part; give --part thinking, answer, full or request"
        )
    part = parts[0]
    table = _read_verdicts(path)
    if dry_run:
        remark(f"{len(table):,} verdicts of {judge} on the {part} would be kept")
        return

    n_earlier = _count_verdicts(run, judge, part)
    add_verdicts(run, table, judge, part)
    _print_label_counts(run.judge_info(folder_name("", judge)), parts)
    if n_earlier:
        remark(f"these replace {n_earlier:,} verdicts of {judge} on the same part")


def _read_verdicts(path: Path) -> "pd.DataFrame":
    """Return the table in a csv; ids stay text, and only empty cells are missing values."""
    import pandas as pd

    # pandas raises a ValueError also for text that is not UTF-8.
    try:
        return pd.read_csv(path, dtype={"trace_id": str}, keep_default_na=False, na_values=[""])
    except ValueError as error:
        raise TraceError(f"{path}: not a csv with a header: {error}") from None


def _count_verdicts(run: "Run", judge: str, part: str) -> int:
    """Return how many verdicts of a judge on a part a run has, undecided ones not counted."""
    try:
        verdicts = run.verdicts()
    except TraceError:
        # The traces have changed since they were judged.
        return 0
    is_same = (verdicts["judge"] == judge) & (verdicts["part"] == part)
    return int(verdicts.loc[is_same, "unsafe"].notna().sum())


def _estimate_cost(judge: "EndpointGuard", run: "Run", parts: list[str], price: float) -> str:
    """Return in words how many tokens the requests have, and what they cost."""
    from cotlens.judges.verdict import Item, Part
    from cotlens.text.split import part_text, request_of

    tags = run.tags
    n_tokens = 0
    for trace in run.traces():
        request = request_of(trace)
        for part in parts:
            item = Item(request, part_text(trace, part, tags), Part(part))
            n_tokens += judge.estimate([item])

    estimate = f"about {n_tokens:,} tokens in all"
    if price:
        cost = n_tokens * price / 1e6
        estimate += f", about {cost:,.2f} at {price:g} a million"
    return estimate


def _print_label_counts(info: dict[str, Any], parts: list[str]) -> None:
    """Print a line for each part that was judged: how many traces got each label.

    Then come the reasons of undecided ones, and how many prompts were shortened.
    """
    for part in dict.fromkeys(parts):
        counts = info["counts"][part]
        labels = ", ".join(f"{label} {n:,}" for label, n in sorted(counts.items()))
        show(f"{part}: {labels}")

        for reason, n_traces in sorted(info["undecided"][part].items()):
            remark(f"{part}: {n_traces:,} undecided: {reason or 'no reason is known'}")
        n_cut = info["n_cut"][part]
        if n_cut:
            remark(f"{part}: {n_cut:,} prompts lost their middle to fit")
