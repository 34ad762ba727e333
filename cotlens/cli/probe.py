"""Commands that cut and change the traces of a run, and let a model go on from there.

Each leaves a folder of traces: analyze it, and let a judge read it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import BadParameter, Option, Typer

from cotlens.cli.common import (
    DeviceOption,
    DtypeOption,
    ForceOption,
    MaxNewTokensOption,
    MethodOption,
    ModelOption,
    OnErrorOption,
    RevisionOption,
    RunArgument,
    SeedOption,
    TemperatureOption,
    TemplateArgsOption,
    TopPOption,
    parse_template_args,
    progress_bar,
    remark,
    show,
)

if TYPE_CHECKING:
    from cotlens.runs.probe import Ask

probe_app = Typer(
    help="Cut or change the traces of a run and let a model go on: a folder of traces comes out.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

OutOption = Annotated[
    Path, Option("--out", "-o", help="Folder for the probe's traces; an unfinished one is resumed.")
]
NOption = Annotated[int, Option("--n", min=1, help="Continuations of each place.")]
EveryOption = Annotated[int, Option(min=1, help="Steps from one place to the next.")]
MostOption = Annotated[int, Option(min=1, help="Most replacements in a trace.")]
SentencesOption = Annotated[
    Path | None,
    Option(help="File of sentences to put in, one a line; each is tried on every trace."),
]
WordsOption = Annotated[
    int, Option(min=1, help="Most words of a thought that are put into the model's mouth.")
]
RoundsOption = Annotated[
    int, Option(min=0, help="Times that the same beginning is put in again, after the first.")
]
SharesOption = Annotated[
    str, Option(help="Shares of a thought's steps that are kept, with commas between.")
]
MaxPromptOption = Annotated[int, Option(min=1, help="Longest prompt in tokens.")]
LayerOption = Annotated[int, Option(help="0 is the embedding, -1 the last layer.")]


@probe_app.command()
def continuation(
    run: RunArgument,
    model: ModelOption,
    out: OutOption,
    n: NOption = 16,
    every: EveryOption = 1,
    temperature: TemperatureOption = 1.0,
    top_p: TopPOption = 1.0,
    max_new_tokens: MaxNewTokensOption = 32768,
    seed: SeedOption = 0,
    on_error: OnErrorOption = "stop",
    revision: RevisionOption = None,
    device: DeviceOption = "",
    dtype: DtypeOption = "auto",
    force: ForceOption = False,
) -> None:
    """Continue every trace from the end of each of its steps: how safe is what follows?"""
    from cotlens.probes import continue_steps

    drawn = _drawn(temperature, top_p, max_new_tokens, seed)
    settings = {"n": n, "every": every, **drawn}
    loaded = _load(run, model, revision, device, dtype)

    def ask(traces: Sequence[Any]) -> Sequence[Any]:
        return continue_steps(loaded, traces, n=n, every=every, **drawn)

    _put(run, loaded, out, ask, "continuation", settings, on_error, force)


@probe_app.command()
def intervene(
    run: RunArgument,
    model: ModelOption,
    out: OutOption,
    sentences: SentencesOption = None,
    most: MostOption = 1,
    temperature: TemperatureOption = 1.0,
    top_p: TopPOption = 1.0,
    max_new_tokens: MaxNewTokensOption = 32768,
    seed: SeedOption = 0,
    on_error: OnErrorOption = "stop",
    revision: RevisionOption = None,
    device: DeviceOption = "",
    dtype: DtypeOption = "auto",
    force: ForceOption = False,
) -> None:
    """Replace the first step that means to comply by a sentence of safety, again if need be."""
    from cotlens.measures import attempt_traces
    from cotlens.probes import TRIGGERS, first_cue, no_cue_left, say
    from cotlens.probes import intervene as intervene_in

    replacements = list(TRIGGERS) if sentences is None else _read_sentences(sentences)
    drawn = _drawn(temperature, top_p, max_new_tokens, seed)
    settings = {"sentences": replacements, "most": most, **drawn}
    loaded = _load(run, model, revision, device, dtype)

    def ask(traces: Sequence[Any]) -> Sequence[Any]:
        attempts = []
        for sentence in replacements:
            attempts += intervene_in(
                loaded, traces, first_cue, say(sentence), no_cue_left, most=most, **drawn
            )
        return attempt_traces(attempts)

    _put(run, loaded, out, ask, "intervene", settings, on_error, force)


@probe_app.command()
def prefill(
    run: RunArgument,
    model: ModelOption,
    out: OutOption,
    words: WordsOption = 200,
    n: NOption = 1,
    temperature: TemperatureOption = 0.6,
    top_p: TopPOption = 0.95,
    max_new_tokens: MaxNewTokensOption = 32768,
    seed: SeedOption = 0,
    method: MethodOption = "",
    template_args: TemplateArgsOption = "{}",
    on_error: OnErrorOption = "stop",
    revision: RevisionOption = None,
    device: DeviceOption = "",
    dtype: DtypeOption = "auto",
    force: ForceOption = False,
) -> None:
    """Put the beginnings of a run's thoughts into the mouth of another model."""
    from cotlens.probes import prefill as prefill_with
    from cotlens.runs.probe import prompts_of

    variables = parse_template_args(template_args)
    drawn = {"n": n, "method": method, **_drawn(temperature, top_p, max_new_tokens, seed)}
    settings = {"words": words, "template_args": variables, **drawn}
    loaded = _load(run, model, revision, device, dtype)

    def ask(traces: Sequence[Any]) -> Sequence[Any]:
        prompts = prompts_of(traces, loaded.tokenizer)
        return prefill_with(loaded, prompts, traces, words=words, template_args=variables, **drawn)

    _put(run, loaded, out, ask, "prefill", settings, on_error, force)


@probe_app.command()
def hijack(
    run: RunArgument,
    model: ModelOption,
    out: OutOption,
    rounds: RoundsOption = 0,
    words: WordsOption = 200,
    temperature: TemperatureOption = 0.6,
    top_p: TopPOption = 0.95,
    max_new_tokens: MaxNewTokensOption = 32768,
    seed: SeedOption = 0,
    method: MethodOption = "",
    template_args: TemplateArgsOption = "{}",
    on_error: OnErrorOption = "stop",
    revision: RevisionOption = None,
    device: DeviceOption = "",
    dtype: DtypeOption = "auto",
    force: ForceOption = False,
) -> None:
    """Put whole thoughts of a run into the mouth of another model, which only answers.

    With --rounds, put the beginning of each thought in again after the model has gone on from it,
    that many times (iterative prefill reset).
    """
    from cotlens.probes import hijack as hijack_with
    from cotlens.probes import reset
    from cotlens.runs.probe import prompts_of

    variables = parse_template_args(template_args)
    drawn = {"method": method, **_drawn(temperature, top_p, max_new_tokens, seed)}
    settings = {"rounds": rounds, "template_args": variables, **drawn}
    if rounds:
        settings["words"] = words
    loaded = _load(run, model, revision, device, dtype)

    def ask(traces: Sequence[Any]) -> Sequence[Any]:
        prompts = prompts_of(traces, loaded.tokenizer)
        if not rounds:
            return hijack_with(loaded, prompts, traces, template_args=variables, **drawn)
        return reset(
            loaded, prompts, traces, rounds=rounds, words=words, template_args=variables, **drawn
        )

    _put(run, loaded, out, ask, "reset" if rounds else "hijack", settings, on_error, force)


@probe_app.command()
def early(
    run: RunArgument,
    model: ModelOption,
    out: OutOption,
    shares: SharesOption = "0,0.25,0.5,0.75,1",
    max_new_tokens: MaxNewTokensOption = 256,
    on_error: OnErrorOption = "stop",
    revision: RevisionOption = None,
    device: DeviceOption = "",
    dtype: DtypeOption = "auto",
    force: ForceOption = False,
) -> None:
    """Cut every thought short, close it, and let the model answer (greedy)."""
    from cotlens.probes import early_answers

    wanted = _parse_shares(shares)
    settings = {"shares": wanted, "max_new_tokens": max_new_tokens}
    loaded = _load(run, model, revision, device, dtype)

    def ask(traces: Sequence[Any]) -> Sequence[Any]:
        return early_answers(loaded, traces, wanted, max_new_tokens=max_new_tokens)

    _put(run, loaded, out, ask, "early", settings, on_error, force)


@probe_app.command()
def hidden(
    run: RunArgument,
    model: ModelOption,
    out: OutOption,
    layer: LayerOption = -1,
    max_tokens: MaxPromptOption = 512,
    template_args: TemplateArgsOption = "{}",
    revision: RevisionOption = None,
    device: DeviceOption = "",
    dtype: DtypeOption = "auto",
    force: ForceOption = False,
) -> None:
    """Keep the model's hidden state at the end of every prompt of a run, as parquet files."""
    from cotlens.runs.probe import keep_states

    variables = parse_template_args(template_args)
    loaded = _load(run, model, revision, device, dtype)
    with progress_bar("probe", "traces") as advance:
        info = keep_states(
            run,
            loaded,
            out,
            layer=layer,
            max_tokens=max_tokens,
            template_args=variables,
            force=force,
            progress=advance,
        )
    show(f"{out}: states of {info['n_prompts']:,} prompts")


# --- what the commands share ---------------------------------------------------------------------


def _drawn(temperature: float, top_p: float, max_new_tokens: int, seed: int) -> dict[str, Any]:
    """How continuations are drawn."""
    return {
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }


def _load(run: Path, model: str, revision: str | None, device: str, dtype: str) -> Any:
    """The model; a path that is not a run fails before it is loaded."""
    from cotlens.models.load import load_model
    from cotlens.runs.run import Run

    _ = Run(run).info
    return load_model(model, revision=revision, device=device, dtype=dtype)


def _put(
    run: Path,
    model: Any,
    out: Path,
    ask: "Ask",
    kind: str,
    settings: dict[str, Any],
    on_error: Any,
    force: bool,
) -> None:
    """Put a probe to a run, with a bar, and say what came of it."""
    from cotlens.runs.probe import probe
    from cotlens.runs.run import Run

    total = Run(run).info.get("n_traces")
    with progress_bar("probe", "traces", total=total) as advance:
        info = probe(
            run,
            model,
            out,
            ask,
            kind=kind,
            settings=settings,
            on_error=on_error,
            force=force,
            progress=advance,
        )
    show(
        f"{out}: {info['n_traces']:,} traces, {info['n_tokens']:,} tokens, "
        f"of {info['n_asked']:,} traces"
    )
    if info["n_skipped"]:
        remark(f"{info['n_skipped']:,} traces could not be probed: {info['first_skipped']}")


def _read_sentences(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    sentences = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not sentences:
        raise BadParameter(f"{path} has no sentence", param_hint="--sentences")
    return sentences


def _parse_shares(text: str) -> list[float]:
    try:
        shares = [float(share) for share in text.split(",")]
    except ValueError:
        shares = [-1.0]
    if not all(0 <= share <= 1 for share in shares):
        message = f"expected numbers from 0 to 1 with commas between, got {text!r}"
        raise BadParameter(message, param_hint="--shares")
    return shares
