"""generate: prompts in, a folder of sampled traces out, shard by shard.

It is the step between a trained checkpoint and `cotlens analyze`:

    OUT/run.json            what made it: model and fingerprint, engine, sampling, seed, versions,
                            hashes of the prompts
    OUT/part-00000.parquet  a file of traces, and so is each that follows

Only the arguments decide what is drawn: of a checkpoint's generation_config only the end tokens are
used. The random numbers of a sample depend on the seed, the prompt's id and the sample's number.
The other samples of its batch, and what ran before, change nothing but the rounding of
low-precision arithmetic.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cotlens.files import Watched, check_unchanged, watch
from cotlens.formats.prompts import Prompt, read_prompts
from cotlens.formats.read import input_files
from cotlens.models.engine import Engine, Job, Sampling
from cotlens.models.sample import (
    as_engine,
    check_room,
    check_template,
    render_job,
    sample_jobs,
)
from cotlens.models.vllm import VllmEngine
from cotlens.runs.shards import Made, Shard, make_shards, shard_name
from cotlens.runs.tables import trace_rows
from cotlens.text.response import new_tags
from cotlens.trace import Trace, TraceError, hash_text

if TYPE_CHECKING:
    from cotlens.models.load import Model

# vllm keeps a GPU full only with many requests at once.
SHARD_TRACES = {"transformers": 64, "vllm": 1024}


def generate(
    prompts: str | Path | Sequence[str | Path],
    model: "Model | str",
    out: str | Path,
    *,
    engine: Literal["transformers", "vllm"] = "transformers",
    n: int = 4,
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 0,
    max_new_tokens: int = 32768,
    seed: int = 0,
    method: str = "",
    prefill: str = "",
    template_args: Mapping[str, Any] | None = None,
    batch_tokens: int | None = None,
    revision: str | None = None,
    device: str = "",
    dtype: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Sample completions of prompts into a folder of traces, and return the folder.

    It returns a path because the folder cannot be opened as a `Run` yet: the traces are not split
    or cut into steps. `analyze` makes a run from it, and `read_traces`
    reads it. `generation_info(folder)` returns what made it, and the numbers of traces and tokens.

    A prompt goes through the chat template once; without a template it must be one text and is
    taken as it is. The trace's prompt is what the model read, so that `split_trace` sees a thought
    that the template opened. The completion is the prefill, and then the token ids decoded, special
    tokens included, up to the end token. Call a killed job again with the same arguments: it
    resumes after the last finished shard, and makes the same texts.

    A row of the prompts may have a `prefill`, the beginning of its completion, which stays in the
    trace's `meta`.

    >>> generate("prompts.jsonl", "runs/sft/checkpoint", "traces/sft", n=8)  # doctest: +SKIP

    Args:
        prompts: files, as `read_prompts` takes them.
        model: a folder or repository; with the engine transformers also a model that is loaded.
        out: the folder of traces.
        engine: `transformers`, or `vllm` on GPUs.
        n: samples per prompt.
        temperature: sampling temperature; 0 is greedy.
        top_p: keep the likeliest words that hold this much probability.
        top_k: keep this many of the likeliest words; 0: all.
        max_new_tokens: longest completion; a longer one is cut, finish reason `length`.
        seed: of all random numbers.
        method: name of the checkpoint or training arm, for the traces.
        prefill: beginning of every completion whose prompt has none of its own.
        template_args: variables of the chat template, such as `{"enable_thinking": True}`.
        batch_tokens: padded tokens, prompts and completions, that transformers computes together.
        revision: as in `load_model`.
        device: likewise; vllm takes the GPUs it sees.
        dtype: likewise.
        progress: called with the number of traces done since the last call.

    Raises:
        TraceError: for a bad prompt, a prompt too long for the completion to fit, a model that
            cannot be loaded, or a folder that holds traces from another call.
    """
    if engine not in SHARD_TRACES:
        raise TraceError(f"expected the engine {' or '.join(SHARD_TRACES)}, got {engine!r}")
    sampling = Sampling(n, temperature, top_p, top_k, max_new_tokens, seed)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise TraceError(f"{folder}: is a file; traces need a folder")

    # All prompts are read once before a model is loaded, so that a bad one costs nothing.
    watched = [watch(path) for path in input_files(prompts)]
    n_prompts = 0
    some_prefill = ""
    for prompt in read_prompts(prompts):
        n_prompts += 1
        some_prefill = some_prefill or _prefill_of(prompt, prefill)
    if not n_prompts:
        raise TraceError("nothing to generate from: no file of prompts was given")

    writer = _open_engine(engine, model, batch_tokens, revision, device, dtype)
    writer.check(sampling, [some_prefill])
    variables = dict(template_args or {})
    check_template(writer, variables)

    # Prompts are rendered again at each pass: a million of them need not fit in memory. All are
    # checked before the first is answered.
    longest = 0
    for job in _jobs(writer, prompts, prefill, variables):
        check_room(writer, job, max_new_tokens)
        longest = max(longest, len(job.ids) + max_new_tokens)
    if isinstance(writer, VllmEngine):
        writer.longest = longest

    tags = new_tags(writer.tokenizer)
    n_reported = 0

    def report(n: int) -> None:
        nonlocal n_reported
        n_reported += n
        if progress:
            progress(n)

    def write_shard(jobs: Sequence[Job]) -> Made:
        traces = list(sample_jobs(writer, jobs, sampling, method=method, progress=report))
        return Made(trace_rows(traces, tags), _count(traces))

    # Everything that decides the texts, so that nothing else is mixed with them.
    made_by = writer.describe() | {
        "engine": engine,
        "sampling": sampling.describe(),
        "method": method,
        "prefill": prefill,
        "template_args": variables,
        "chat_template": hash_text(str(writer.tokenizer.chat_template or "")),
        "shard_traces": SHARD_TRACES[engine],
        "prompts": [{"name": file.path.name, "sha256": file.sha256} for file in watched],
    }
    jobs = _unchanged(_jobs(writer, prompts, prefill, variables), watched)
    shards = _in_shards(jobs, max(1, SHARD_TRACES[engine] // n))
    n_done = 0
    for record in make_shards(shards, folder, write_shard, made_by=made_by):
        n_done += record["rows"]
        if n_done > n_reported:  # the shard was there
            report(n_done - n_reported)
    return folder


def _open_engine(
    engine: str,
    model: "Model | str",
    batch_tokens: int | None,
    revision: str | None,
    device: str,
    dtype: str,
) -> Engine:
    """The engine of that name for a model that is loaded, or is to be."""
    if engine == "vllm":
        if not isinstance(model, str) or device or batch_tokens:
            raise TraceError(
                "vllm loads a model by its name, takes the GPUs it sees (no device), "
                "and makes its own batches"
            )
        return VllmEngine(model, revision=revision, dtype=dtype)

    try:
        from cotlens.models.load import load_model
    except ImportError as error:
        raise TraceError(
            f"the engine transformers cannot be loaded ({error}): pip install 'cotlens[model]'"
        ) from None
    if isinstance(model, str):
        model = load_model(model, revision=revision, device=device, dtype=dtype)
    return as_engine(model, batch_tokens)


def _jobs(
    writer: Engine,
    prompts: str | Path | Sequence[str | Path],
    prefill: str,
    variables: Mapping[str, Any],
) -> Iterator[Job]:
    for prompt in read_prompts(prompts):
        yield render_job(writer, prompt, _prefill_of(prompt, prefill), variables)


def _prefill_of(prompt: Prompt, default: str) -> str:
    """The beginning of a prompt's completion: its own, or else that of all."""
    prefill = prompt.meta.get("prefill", default)
    if not isinstance(prefill, str):
        raise TraceError(f"{prompt.place}: prefill must be text, got {type(prefill).__name__}")
    return prefill


def _unchanged(jobs: Iterator[Job], watched: Sequence[Watched]) -> Iterator[Job]:
    """The jobs; after the last, raise TraceError if a file of prompts changed meanwhile."""
    yield from jobs
    for file in watched:
        check_unchanged(file)


def _in_shards(jobs: Iterator[Job], n_prompts: int) -> Iterator[Shard]:
    """The jobs in shards of so many prompts."""
    for number in count():
        content = list(islice(jobs, n_prompts))
        if not content:
            return
        yield Shard(shard_name(number), "", content)


def _count(traces: Sequence[Trace]) -> dict[str, int]:
    """Traces of a shard, their tokens, and the traces that were cut off."""
    return {
        "n_traces": len(traces),
        "n_tokens": sum(len(trace.token_ids or ()) for trace in traces),
        "n_cut": sum(trace.finish_reason == "length" for trace in traces),
    }


def generation_info(path: str | Path) -> dict[str, Any]:
    """What made a folder of sampled traces, as its `run.json` holds it.

    That is model, engine, sampling, versions and hashes of the prompts, whether it is `complete`,
    and then `n_traces`, `n_tokens`, and `n_cut`, the traces that reached `max_new_tokens`.

    Raises:
        TraceError: if the folder has no `run.json` of sampled traces, or one that is damaged.
    """
    info_path = Path(path) / "run.json"
    try:
        info = json.loads(info_path.read_text(encoding="utf-8"))
        if "sampling" not in info:
            raise ValueError("it is not of sampled traces")
    except (OSError, ValueError) as error:
        raise TraceError(
            f"{path}: not a folder of sampled traces (run.json cannot be read: {error}); "
            "`cotlens generate PROMPTS --model MODEL -o FOLDER` makes one"
        ) from None
    return info
