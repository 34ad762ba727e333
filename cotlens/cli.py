"""The `cotlens` command: thin over the functions of the library.

Exit codes: 0 done, 1 the input is at fault (one line on stderr says how), 2 the command line is at fault,
130 interrupted (call again to go on).
"""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from cotlens import __version__
from cotlens.describe import describe_path
from cotlens.trace import TraceError

app = typer.Typer(
    help="Dynamics of chain-of-thought: split reasoning traces, cut them into steps, and draw what they show.",
    epilog="Start with: cotlens info FILE, then cotlens analyze FILE -o RUN, then cotlens figures RUN -o figures",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class OnError(StrEnum):
    """What to do with a row that cannot be read."""

    STOP = "stop"
    SKIP = "skip"


class Long(StrEnum):
    """What to do with a trace longer than the model's context."""

    ERROR = "error"
    WINDOW = "window"


class EngineName(StrEnum):
    """What writes completions."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


@app.callback(invoke_without_command=True)
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.")
    ] = False,
) -> None:
    if show_version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def generate(
    prompts: Annotated[
        list[Path],
        typer.Argument(
            help="JSONL, JSON or parquet files of rows with prompt (text or messages), perhaps id, prompt_id, system, "
            "domain, split, gold."
        ),
    ],
    model: Annotated[str, typer.Option(help="Folder or Hub repository of the model that writes.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder of traces to make, or to finish after a kill."),
    ],
    engine: Annotated[EngineName, typer.Option(help="vllm needs GPUs and is installed apart.")] = (
        EngineName.TRANSFORMERS
    ),
    n: Annotated[int, typer.Option("--n", min=1, help="Samples of each prompt.")] = 4,
    temperature: Annotated[
        float, typer.Option(min=0, help="Divides the logits; 0: the likeliest word.")
    ] = 0.6,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Keep the likeliest words of this probability.")
    ] = 0.95,
    top_k: Annotated[
        int, typer.Option(min=0, help="Keep this many of the likeliest words; 0: all.")
    ] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest completion.")] = 32768,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    method: Annotated[
        str, typer.Option(help="Name of the checkpoint or training arm, for the traces.")
    ] = "",
    prefill: Annotated[
        str, typer.Option(help="Beginning of every completion, read as prompt.")
    ] = "",
    template_args: Annotated[
        str,
        typer.Option(
            metavar="JSON", help="Variables of the chat template: '{\"enable_thinking\": true}'."
        ),
    ] = "{}",
    batch_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Padded tokens of prompts and completions computed together."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, ...; default: the GPU if there is one.")
    ] = "",
    dtype: Annotated[
        str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16 or float16.")
    ] = "auto",
) -> None:
    """Sample completions into a folder of traces. Of the model's own generation_config only the end tokens count."""
    if temperature == 0 and n > 1:
        raise typer.BadParameter(
            "at temperature 0 every sample is the same; give --n 1", param_hint="--temperature"
        )
    try:
        variables = json.loads(template_args)
    except ValueError as error:
        raise typer.BadParameter(f"not valid JSON: {error}", param_hint="--template-args") from None
    if not isinstance(variables, dict):
        raise typer.BadParameter(
            f"expected a JSON object, got {template_args}", param_hint="--template-args"
        )
    from cotlens.formats.prompts import read_prompts
    from cotlens.runs.generate import generate as generate_traces
    from cotlens.runs.generate import generation_info

    total = n * sum(1 for _ in read_prompts(prompts))
    with tqdm(total=total, unit=" traces", desc="generate", smoothing=0.1) as bar:

        def advance(done: int) -> None:
            bar.update(done)

        generate_traces(
            prompts,
            model,
            out,
            engine=engine.value,
            n=n,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            max_new_tokens=max_new_tokens,
            seed=seed,
            method=method,
            prefill=prefill,
            template_args=variables,
            batch_tokens=batch_tokens,
            revision=revision,
            device=device,
            dtype=dtype,
            progress=advance,
        )
    info = generation_info(out)
    typer.echo(
        f"{out}: {info['n_traces']:,} traces, {info['n_tokens']:,} tokens by {info['model']['name']}"
    )
    if info["n_cut"]:
        typer.echo(f"{info['n_cut']:,} traces were cut off at {max_new_tokens:,} tokens", err=True)


@app.command()
def analyze(
    files: Annotated[
        list[Path], typer.Argument(help="Files or folders of traces, in any format cotlens reads.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Run directory to make, or to finish after a kill.")
    ],
    format: Annotated[
        str | None, typer.Option(help="Format of the rows; default: detected from the content.")
    ] = None,
    model: Annotated[str, typer.Option(help="Name of the model, for traces that do not say.")] = "",
    method: Annotated[
        str, typer.Option(help="Name of the checkpoint or training arm, likewise.")
    ] = "",
    tags: Annotated[
        tuple[str, str] | None,
        typer.Option("--tags", metavar="OPEN CLOSE", help="Delimiters of the thought."),
    ] = None,
    on_error: Annotated[
        OnError, typer.Option(help="skip: write bad rows to RUN/rejects.jsonl and go on.")
    ] = OnError.STOP,
    max_line_mb: Annotated[
        int, typer.Option(min=1, help="Longest line of a JSONL file that is believed.")
    ] = 32,
    light: Annotated[
        bool, typer.Option("--light", help="Leave out the texts: a run small enough to commit.")
    ] = False,
    tokenizer: Annotated[
        str,
        typer.Option(
            help="Folder or Hub repository of the tokenizer, for rows of token ids without text."
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Make the run anew, whatever it was made from.")
    ] = False,
) -> None:
    """Read, split and segment traces into a run directory: RUN/traces and RUN/steps, one row per trace and per step."""
    if tags and not all(tags):
        raise typer.BadParameter(
            "the delimiters of a thought must not be empty", param_hint="--tags"
        )
    from cotlens.runs.analyze import analyze as analyze_files
    from cotlens.text.families import Tags

    with tqdm(unit=" traces", desc="analyze", smoothing=0.1) as bar:

        def advance(n: int) -> None:
            bar.update(n)

        run = analyze_files(
            files,
            out,
            format=format,
            model=model,
            method=method,
            tags=Tags(*tags) if tags else None,
            on_error=on_error.value,
            max_line_bytes=max_line_mb * 2**20,
            light=light,
            tokenizer=tokenizer,
            force=force,
            progress=advance,
        )
    info = run.info
    typer.echo(f"{run.path}: {info['n_traces']:,} traces, {info['n_steps']:,} steps")
    if info["n_rejected"]:
        typer.echo(
            f"{info['n_rejected']:,} rows could not be read: see {run.path / 'rejects.jsonl'}",
            err=True,
        )


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="Run directory made by `cotlens analyze`.")],
    model: Annotated[str, typer.Option(help="Folder or Hub repository of the scoring model.")],
    reference: Annotated[
        str, typer.Option(help="A second model of the same vocabulary: adds KL to it.")
    ] = "",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the model.")
    ] = None,
    reference_revision: Annotated[
        str | None, typer.Option(help="The same of the reference.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, ...; default: the GPU if there is one.")
    ] = "",
    dtype: Annotated[
        str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16 or float16.")
    ] = "auto",
    name: Annotated[
        str, typer.Option(help="Folder under RUN/scores; default: the model's last name.")
    ] = "",
    temperature: Annotated[float, typer.Option(help="Divides the logits.")] = 1.0,
    top_k: Annotated[
        int, typer.Option(min=0, help="Keep this many of the likeliest words per token.")
    ] = 0,
    retokenize: Annotated[
        bool,
        typer.Option(
            "--retokenize",
            help="Score the text, also of traces with token ids: for another family.",
        ),
    ] = False,
    long: Annotated[
        Long, typer.Option(help="Traces longer than the context: refuse, or overlapping windows.")
    ] = (Long.ERROR),
    on_error: Annotated[
        OnError, typer.Option(help="skip: mark traces that cannot be scored and go on.")
    ] = (OnError.STOP),
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Padded tokens computed together.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Score anew, whatever the folder holds.")
    ] = False,
) -> None:
    """Score every token of a run with a model: entropy, log-prob, rank and more, into RUN/scores/NAME."""
    if not 0 < temperature < float("inf"):
        raise typer.BadParameter("must be above 0 and finite", param_hint="--temperature")
    from cotlens.files import folder_name
    from cotlens.runs.run import Run
    from cotlens.runs.score import score as score_run

    _ = Run(run).info  # before a model is loaded for nothing
    from cotlens.models.load import load_model

    loaded = load_model(model, revision=revision, device=device, dtype=dtype)
    base = (
        load_model(reference, revision=reference_revision, device=device, dtype=dtype)
        if reference
        else None
    )
    if loaded.is_slow_on_cpu:
        typer.echo(
            "cotlens: this processor has no 16-bit arithmetic; --dtype float32 is several times faster",
            err=True,
        )
    with tqdm(unit=" tokens", desc="score", smoothing=0.1, unit_scale=True) as bar:

        def advance(n: int) -> None:
            bar.update(n)

        scored = score_run(
            run,
            loaded,
            reference=base,
            name=name,
            temperature=temperature,
            top_k=top_k,
            retokenize=retokenize,
            long=long.value,
            on_error=on_error.value,
            tokens_per_batch=batch_tokens,
            force=force,
            progress=advance,
        )
    info = scored.score_info(folder_name(name, loaded.name))
    typer.echo(
        f"{run}: {info['n_tokens']:,} tokens of {info['n_traces']:,} traces scored by {info['model']['name']}"
    )
    for key, meaning in _SCORE_REMARKS.items():
        if info[key]:
            typer.echo(f"{info[key]:,} traces {meaning}", err=True)


_SCORE_REMARKS = {
    "n_unscored": "could not be scored: their column error says why",
    "n_retokenized": "were encoded from their text",
    "n_inexact": "have token ids that do not decode to exactly their text",
    "n_windowed": "are longer than the model's context and were scored in windows",
}


@app.command()
def guard(
    run: Annotated[Path, typer.Argument(help="Run directory made by `cotlens analyze`.")],
    judge: Annotated[
        str,
        typer.Option(help="Folder or Hub repository of a guard model, or a model's name at --url."),
    ],
    part: Annotated[
        str, typer.Option(help="What is judged: thinking, answer, full; several with commas.")
    ] = ("thinking,answer"),
    family: Annotated[
        str, typer.Option(help="llama-guard, wildguard or qwen3guard, if the name does not say.")
    ] = "",
    url: Annotated[
        str, typer.Option(help="An OpenAI-compatible endpoint, up to /v1, with a rubric judge.")
    ] = "",
    rubric: Annotated[
        str, typer.Option(help="What an endpoint judge is asked: safety or strongreject.")
    ] = "safety",
    key_variable: Annotated[
        str, typer.Option(help="Environment variable that holds the endpoint's key.")
    ] = ("OPENAI_API_KEY"),
    price: Annotated[
        float, typer.Option(help="Price of a million tokens at the endpoint, for the estimate.")
    ] = 0.0,
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.")] = 60.0,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the guard model.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, ...; default: the GPU if there is one.")
    ] = "",
    dtype: Annotated[
        str, typer.Option(help="auto (the checkpoint's own), float32, bfloat16 or float16.")
    ] = "auto",
    name: Annotated[
        str, typer.Option(help="Folder under RUN/guard; default: the judge's last name.")
    ] = "",
    verdicts: Annotated[
        Path | None,
        typer.Option(
            help="A .csv of verdicts made elsewhere: trace_id, label[, p_unsafe, refusal]."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be asked, at what cost.")
    ] = False,
) -> None:
    """Judge the thinking and the answer of every trace of a run, apart, into RUN/guard/NAME/PART."""
    import os

    from cotlens.files import folder_name
    from cotlens.judges.endpoint import EndpointGuard, StrongRejectGuard
    from cotlens.judges.local import load_guard
    from cotlens.judges.verdict import Item, Part
    from cotlens.runs.judge import add_verdicts, judge_run
    from cotlens.runs.run import Run
    from cotlens.text.split import part_text, request_of

    parts = [one.strip() for one in part.split(",") if one.strip()]
    if not parts or any(one not in ("thinking", "answer", "full") for one in parts):
        raise typer.BadParameter(
            f"expected thinking, answer or full, got {part!r}", param_hint="--part"
        )
    if rubric not in ("safety", "strongreject"):
        raise typer.BadParameter(
            f"expected safety or strongreject, got {rubric!r}", param_hint="--rubric"
        )
    opened = Run(run)
    if verdicts:
        import pandas as pd

        if len(parts) != 1:
            raise typer.BadParameter(
                "verdicts are of one part; give --part thinking, answer or full"
            )
        try:
            table = pd.read_csv(
                verdicts, dtype={"trace_id": str}, keep_default_na=False, na_values=[""]
            )
        except (
            ValueError
        ) as error:  # as pandas' own errors are, and those of text that is not UTF-8
            raise TraceError(f"{verdicts}: not a csv with a header: {error}") from None
        if dry_run:
            typer.echo(
                f"{len(table):,} verdicts of {judge} on the {parts[0]} would be kept", err=True
            )
            return
        try:
            earlier = (
                opened.verdicts()
                .query("judge == @judge and part == @parts[0]")["unsafe"]
                .notna()
                .sum()
            )
        except TraceError:  # of traces that have changed since
            earlier = 0
        add_verdicts(opened, table, judge, parts[0])
        _say_counts(opened.judge_info(folder_name("", judge)), parts)
        if earlier:
            typer.echo(f"these replace {earlier:,} verdicts of {judge} on the same part", err=True)
        return
    n = int(opened.info.get("n_traces", 0)) * len(parts)
    if url:
        chosen = (StrongRejectGuard if rubric == "strongreject" else EndpointGuard)(
            url,
            judge,
            key=os.environ.get(key_variable, ""),
            timeout=timeout,
            on_retry=lambda why: tqdm.write(f"again: {why}", file=sys.stderr),
        )
        items = (
            Item(request_of(t), part_text(t, one, opened.tags), Part(one))
            for t in opened.traces()
            for one in parts
        )
        tokens = sum(chosen.estimate([item]) for item in items)
        cost = f", about {tokens * price / 1e6:,.2f} at {price:g} a million" if price else ""
        typer.echo(f"{n:,} requests of about {tokens:,} tokens in all{cost}", err=True)
        if dry_run:
            return
    elif dry_run:
        typer.echo(f"{n:,} parts of traces would be judged by {judge}", err=True)
        return
    else:
        chosen = load_guard(judge, family=family, revision=revision, device=device, dtype=dtype)
    with tqdm(total=n, unit=" parts", desc="guard", smoothing=0.1) as bar:

        def advance(done: int) -> None:
            bar.update(done)

        judge_run(opened, chosen, parts=parts, name=name, progress=advance)
    _say_counts(opened.judge_info(folder_name(name, chosen.name)), parts)


def _say_counts(info: dict, parts: list[str]) -> None:
    for part in dict.fromkeys(parts):
        counts = info["counts"][part]
        typer.echo(f"{part}: " + ", ".join(f"{label} {n:,}" for label, n in sorted(counts.items())))


@app.command()
def figures(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories of `cotlens analyze`, or a study of `compare`."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the figures.")] = Path(
        "runs/figures"
    ),
    by: Annotated[
        str,
        typer.Option(
            help="What to compare: run, model, method, domain, ...; default: run if there are several."
        ),
    ] = "",
    scorer: Annotated[
        str, typer.Option(help="Whose token scores to draw, where several models scored a run.")
    ] = "",
    judge: Annotated[
        str, typer.Option(help="Whose verdicts to draw; default: the first by name.")
    ] = "",
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Only traces with that value, such as domain=harmful; may be repeated.",
        ),
    ] = None,
) -> None:
    """Draw every figure the runs have data for, each as pdf, png, csv (the plotted numbers) and json (provenance)."""
    from cotlens.plots.of_runs import draw_figures
    from cotlens.plots.of_studies import draw_study
    from cotlens.studies.study import is_study

    if any(map(is_study, runs)):
        if len(runs) > 1 or by or scorer or judge or where:
            which = next(path for path in runs if is_study(path))
            raise typer.BadParameter(
                f"{which} is a study, which is drawn alone, without --by, --where, --scorer and --judge",
                param_hint="RUNS",
            )
        for path in draw_study(runs[0], out, say=_say):
            typer.echo(path)
        return
    if unclear := [one for one in where or () if "=" not in one]:
        raise typer.BadParameter(f"expected COLUMN=VALUE, got {unclear[0]!r}", param_hint="--where")
    kept = dict(one.split("=", 1) for one in where or ())
    if len(kept) < len(where or ()):
        raise typer.BadParameter(
            "one value a column; the same column is there twice", param_hint="--where"
        )
    for path in draw_figures(runs, out, by=by, scorer=scorer, judge=judge, where=kept, say=_say):
        typer.echo(path)


def _say(text: str) -> None:
    typer.echo(text, err=True)


@app.command()
def view(
    run: Annotated[
        Path, typer.Argument(help="A run directory of `cotlens analyze`, with its texts.")
    ],
    traces: Annotated[
        list[str] | None, typer.Argument(help="Ids of traces; default: the first of the run.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path(
        "page.html"
    ),
    beside: Annotated[
        Path | None, typer.Option(help="The run of another checkpoint on the same prompts.")
    ] = None,
    scorer: Annotated[
        str, typer.Option(help="Whose token scores to show, where several models scored a run.")
    ] = "",
    judge: Annotated[
        str, typer.Option(help="Whose verdicts to show; default: the first by name.")
    ] = "",
    limit: Annotated[
        int, typer.Option(min=1, help="Most traces in the page, where none are named.")
    ] = 200,
) -> None:
    """Write one offline HTML page to read traces in: text, steps, markers, entropy, verdicts, side by side."""
    from cotlens.runs.run import Run
    from cotlens.view.page import view_run

    if out.is_dir() or (
        out.is_file() and out.read_bytes()[:64].lstrip()[:9].lower() not in (b"", b"<!doctype")
    ):
        raise TraceError(f"{out}: is there already and is no page; name another file")
    opened = Run(run)
    page = view_run(opened, traces or (), beside=beside, scorer=scorer, judge=judge, limit=limit)
    page.save(out)
    total, some = opened.info.get("n_traces", 0), len(traces or ()) or limit
    left = (
        f", {some:,} of {total:,} traces (--limit, or name them)"
        if not traces and total > limit
        else ""
    )
    typer.echo(f"{out}: {len(page.html) / 1e6:.1f} MB{left}")


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run directories of all arms: their texts, scores and verdicts."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the study.")],
    base: Annotated[str, typer.Option(help="The arm that the others are compared with.")] = "base",
    rl: Annotated[
        str,
        typer.Option(help="The arm of the claims about RL; default: the first with grpo in it."),
    ] = "",
    sft: Annotated[
        list[str] | None,
        typer.Option(help="An arm of the claims about SFT; default: all with sft in it."),
    ] = None,
    judge: Annotated[
        str, typer.Option(help="Whose verdicts are the truth; default: the only one.")
    ] = "",
    monitor: Annotated[
        str, typer.Option(help="A second judge: the guard that rewards asked.")
    ] = "",
    scorer: Annotated[
        str,
        typer.Option(
            help="Whose token scores are each arm's own; default: the only one, own, or the arm's name."
        ),
    ] = "",
    note: Annotated[
        str, typer.Option(help="A line under every figure: models, judge, prompts.")
    ] = "",
    rollouts: Annotated[
        list[Path] | None,
        typer.Option(help="A run of what RL sampled in training (RECORD/rollouts)."),
    ] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(
            help="Output folder of an RL trainer, named as its arm: entropy and KL by update."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make anew a study that is there already.")
    ] = False,
) -> None:
    """Join the runs of several arms and seeds into a study, and say what it says of the claims.

    A run's arm is what `cotlens generate --method` said, else its folder's name; its seed is K where a folder seed=K
    is on its path, as in runs/seed=0/grpo; harmful, benign and math are domains of its prompts. Scores of the base's
    runs under an arm's name are that arm's view of one text for all. What is missing is said, and left out.
    """
    from cotlens import studies
    from cotlens.studies.collect import compare_runs

    others = [run for run in runs if run.is_dir() and not (run / "run.json").exists()]
    for folder in others:
        _say(f"left out, no run: {folder}")
    study = compare_runs(
        [run for run in runs if run not in others],
        out,
        base=base,
        rl=rl,
        sft=sft or (),
        judge=judge,
        monitor=monitor,
        scorer=scorer,
        note=note,
        rollouts=rollouts or (),
        logs=log or (),
        force=force,
        say=_say,
    )
    samples, info = study.samples(), study.info
    changes = studies.differences(samples, base)
    sets = ", ".join(f"{name} {n:,}" for name, n in samples["set"].value_counts(sort=False).items())
    typer.echo(f"{out}: {len(samples):,} samples ({sets}), arms {', '.join(info['arms'])}")
    for claim in studies.verdicts(samples, studies.measures(samples), changes, info):
        typer.echo(f"{claim.verdict:>10}  {claim.claim}: {claim.because}")
    typer.echo(f"figures: cotlens figures {out} -o FOLDER")


@app.command()
def info(
    path: Annotated[
        Path, typer.Argument(help="A file or folder of traces, a run directory, or a study.")
    ],
    format: Annotated[
        str | None, typer.Option(help="Format of the rows; default: detected from the content.")
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(help="Of rows that hold token ids without text, as for analyze.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")] = False,
) -> None:
    """Say what is in a file, a run or a study: rows, models, statuses, lengths, and what could not be known."""
    report = describe_path(path, format, tokenizer)
    if as_json:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for key, value in report.items():
        if isinstance(value, dict):
            value = ", ".join(
                f"{name or '(none)'} {n:,}" if isinstance(n, int) else f"{name} {n}"
                for name, n in value.items()
            )
        elif isinstance(value, list):
            value = ", ".join(value) or "-"
        typer.echo(f"{key.replace('_', ' '):<13} {value}")


class ExportTo(StrEnum):
    """What reads the file."""

    OPENAI = "openai"
    SCOUT = "scout"
    HF = "hf"


@app.command()
def export(
    path: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run directory, or files of traces in any format."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The file to make; with hf, the folder.")
    ],
    to: Annotated[
        ExportTo,
        typer.Option(
            help="openai: chat messages, JSONL; scout: Inspect Scout's parquet; hf: a Hugging Face dataset."
        ),
    ],
    format: Annotated[
        str | None, typer.Option(help="Format of the rows; default: detected from the content.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there already.")] = False,
) -> None:
    """Write traces for another tool. What its format cannot say stands beside in a field `cotlens`."""
    from cotlens.formats.read import read_traces
    from cotlens.runs.export import export
    from cotlens.runs.run import Run

    if (
        out.resolve() in (path.resolve(), *path.resolve().parents)
        or path.resolve() in out.resolve().parents
    ):
        raise TraceError(f"{out}: is what would be read, or lies in it; name another place")
    if out.exists() and not force and not (out.is_dir() and not any(out.iterdir())):
        raise TraceError(f"{out}: is there already; replace it with --force, or name another place")
    traces = tqdm(read_traces(path, format=format), unit=" traces", desc="export", smoothing=0.1)
    made = export(
        traces, out, to=to.value, tags=Run(path).tags if (path / "run.json").exists() else None
    )
    typer.echo(f"{out}: {made.n_traces:,} traces")
    if made.beside:
        named = ", ".join(f"{name} {n:,}" for name, n in sorted(made.beside.items()))
        typer.echo(
            f"no place of their own in this format, kept in its field cotlens: {named}", err=True
        )


def main() -> None:
    """Runs the command; a fault of the input becomes one line on stderr and exit code 1."""
    try:
        app()
    except (
        TraceError,
        OSError,
    ) as error:  # a fault of the input; a full disk, a folder that may not be written
        typer.echo(f"cotlens: {error}", err=True)
        raise SystemExit(1) from None
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        typer.echo("cotlens: interrupted; call again with the same arguments to go on", err=True)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
