"""Commands on files of traces: sample, analyze, describe and export them."""

import json
from pathlib import Path
from typing import Annotated, Literal

from tqdm import tqdm
from typer import Argument, BadParameter, Option

from cotlens.cli.common import (
    BatchOption,
    DeviceOption,
    DtypeOption,
    ForceOption,
    FormatOption,
    MaxNewTokensOption,
    MethodOption,
    ModelOption,
    OnErrorOption,
    RevisionOption,
    SeedOption,
    TemperatureOption,
    TemplateArgsOption,
    TokenizerOption,
    TopPOption,
    parse_template_args,
    progress_bar,
    remark,
    show,
    with_stdin,
)
from cotlens.trace import TraceError

# Options of `generate`.
PromptsArgument = Annotated[
    list[Path],
    Argument(
        help="JSONL, JSON or parquet files (- is stdin) of rows with a prompt (text or messages) "
        "and optionally id, prompt_id, system, domain, split, gold."
    ),
]
TracesFolderOption = Annotated[
    Path, Option("--out", "-o", help="Folder for the traces; an unfinished one is resumed.")
]
EngineOption = Annotated[
    Literal["transformers", "vllm"],
    Option(help="Sampling engine; vllm needs a GPU and a separate installation."),
]
SamplesOption = Annotated[int, Option("--n", min=1, help="Samples per prompt.")]
TopKOption = Annotated[
    int, Option(min=0, help="Sample from this many of the likeliest tokens; 0 is all.")
]
PrefillOption = Annotated[
    str, Option(help="Text that every completion begins with, given as part of the prompt.")
]


def generate(
    prompts: PromptsArgument,
    model: ModelOption,
    out: TracesFolderOption,
    engine: EngineOption = "transformers",
    n: SamplesOption = 4,
    temperature: TemperatureOption = 0.6,
    top_p: TopPOption = 0.95,
    top_k: TopKOption = 0,
    max_new_tokens: MaxNewTokensOption = 32768,
    seed: SeedOption = 0,
    method: MethodOption = "",
    prefill: PrefillOption = "",
    template_args: TemplateArgsOption = "{}",
    batch_tokens: BatchOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = "",
    dtype: DtypeOption = "auto",
) -> None:
    """Sample completions into a folder of traces.

    Of the model's generation_config only the end tokens are used.
    """
    if temperature == 0 and n > 1:
        message = "at temperature 0 every sample is the same; give --n 1"
        raise BadParameter(message, param_hint="--temperature")
    variables = parse_template_args(template_args)

    from cotlens.formats.prompts import read_prompts
    from cotlens.runs.generate import generate as generate_traces
    from cotlens.runs.generate import generation_info

    # The bar needs the number of prompts before the first is sampled.
    prompts = with_stdin(prompts)
    n_prompts = sum(1 for _ in read_prompts(prompts))
    with progress_bar("generate", "traces", total=n * n_prompts) as advance:
        generate_traces(
            prompts,
            model,
            out,
            engine=engine,
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
    counts = f"{info['n_traces']:,} traces, {info['n_tokens']:,} tokens"
    show(f"{out}: {counts} by {info['model']['name']}")
    if info["n_cut"]:
        remark(f"{info['n_cut']:,} traces were cut off at {max_new_tokens:,} tokens")


# Options of `analyze`.
FilesArgument = Annotated[
    list[Path],
    Argument(help="Files or folders of traces, in any format cotlens reads; - is stdin."),
]
NewRunOption = Annotated[
    Path, Option("--out", "-o", help="Run directory to make; an unfinished one is resumed.")
]
ModelNameOption = Annotated[str, Option(help="Name of the model, for traces without one.")]
TagsOption = Annotated[
    tuple[str, str] | None, Option(metavar="OPEN CLOSE", help="Delimiters of the thought.")
]
MaxLineOption = Annotated[int, Option(min=1, help="Reject JSONL lines longer than this, in MiB.")]
LightOption = Annotated[
    bool, Option("--light", help="Leave out the texts: a run small enough to commit.")
]


def analyze(
    files: FilesArgument,
    out: NewRunOption,
    format: FormatOption = None,
    model: ModelNameOption = "",
    method: MethodOption = "",
    tags: TagsOption = None,
    on_error: OnErrorOption = "stop",
    max_line_mb: MaxLineOption = 32,
    light: LightOption = False,
    tokenizer: TokenizerOption = "",
    force: ForceOption = False,
) -> None:
    """Read, split and segment traces into a run directory.

    RUN/traces has one row per trace, RUN/steps one row per step. With --on-error skip,
    RUN/rejects.jsonl lists the rows that could not be read.
    """
    if tags and not all(tags):
        raise BadParameter("the delimiters of a thought must not be empty", param_hint="--tags")

    from cotlens.runs.analyze import analyze as analyze_files
    from cotlens.text.families import Tags

    with progress_bar("analyze", "traces") as advance:
        run = analyze_files(
            with_stdin(files),
            out,
            format=format,
            model=model,
            method=method,
            tags=Tags(*tags) if tags else None,
            on_error=on_error,
            max_line_bytes=max_line_mb * 2**20,
            light=light,
            tokenizer=tokenizer,
            force=force,
            progress=advance,
        )

    # Counts of the whole run, with what an earlier call had finished.
    info = run.info
    counts = f"{info['n_traces']:,} traces, {info['n_steps']:,} steps"
    show(f"{run.path}: {counts}")
    if info["n_rejected"]:
        rejects = run.path / "rejects.jsonl"
        remark(f"{info['n_rejected']:,} rows could not be read: see {rejects}")
    if advice := info.get("advice"):
        remark(advice)


# Options of `info`.
PathArgument = Annotated[
    Path, Argument(help="A file or folder of traces, - for stdin, a run directory, or a study.")
]
JsonOption = Annotated[bool, Option("--json", help="Print JSON for scripts.")]


def info(
    path: PathArgument,
    format: FormatOption = None,
    tokenizer: TokenizerOption = "",
    as_json: JsonOption = False,
) -> None:
    """Report what is in a file, a run or a study.

    That is rows, models, statuses and lengths, and what the format cannot tell.
    """
    from cotlens.describe import describe_path, report_lines

    (path,) = with_stdin([path])
    report = describe_path(path, format, tokenizer)
    if as_json:
        show(json.dumps(report, indent=2, ensure_ascii=False))
        return
    for line in report_lines(report):
        show(line)


# Options of `export`.
SourceArgument = Annotated[
    Path,
    Argument(metavar="RUN", help="Run directory, or traces in any format; - is stdin."),
]
ExportPathOption = Annotated[Path, Option("--out", "-o", help="File to make; with hf, a folder.")]
ToOption = Annotated[
    Literal["openai", "scout", "hf"],
    Option(
        help="openai: chat messages, JSONL; scout: parquet for Inspect Scout; "
        "hf: a Hugging Face dataset."
    ),
]


def export(
    path: SourceArgument,
    out: ExportPathOption,
    to: ToOption,
    format: FormatOption = None,
    force: ForceOption = False,
) -> None:
    """Write traces for another tool.

    What its format has no place for goes into a field `cotlens`, which other tools ignore.
    """
    from cotlens.formats.read import read_traces
    from cotlens.runs.export import export as export_traces
    from cotlens.runs.run import Run, is_run

    _check_export_path(path, out, force)
    (path,) = with_stdin([path])

    # A run may have been analyzed with delimiters that cotlens does not know.
    tags = None
    if is_run(path):
        tags = Run(path).tags

    traces = read_traces(path, format=format)
    bar = tqdm(traces, unit=" traces", desc="export", smoothing=0.1)
    written = export_traces(bar, out, to=to, tags=tags)

    show(f"{out}: {written.n_traces:,} traces")
    if written.beside:
        counts = sorted(written.beside.items())
        fields = ", ".join(f"{name} {n:,}" for name, n in counts)
        remark(f"without a place in this format, kept in its field cotlens: {fields}")


def _check_export_path(source: Path, out: Path, force: bool) -> None:
    """Raise TraceError if an export would overwrite its source or, without force, anything."""
    # An export into a run's folder would become a part of the run.
    source = source.resolve()
    target = out.resolve()
    if target == source or target in source.parents or source in target.parents:
        raise TraceError(f"{out}: is what would be read, or lies in it; name another place")

    # An empty folder may be filled.
    is_empty_folder = out.is_dir() and not any(out.iterdir())
    if out.exists() and not is_empty_folder and not force:
        raise TraceError(f"{out}: exists; replace it with --force, or name another place")
