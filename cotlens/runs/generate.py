"""generate: prompts in, a folder of sampled traces out, shard by shard.

It is the step between a trained checkpoint and `cotlens analyze`:

    OUT/generate.json       what made it: model and fingerprint, engine, sampling, seed, versions,
                            hashes of the prompts
    OUT/part-00000.parquet  a file of traces, and so is each that follows

Only the arguments decide what is drawn: of a checkpoint's generation_config only the end tokens are
used. The random numbers of a sample depend on the seed, the prompt's id and the sample's number.
The other samples of its batch, and what ran before, change nothing but the rounding of
low-precision arithmetic.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.parquet as pq

from cotlens.files import hash_path, only_one, to_json, write_atomic, write_parquet
from cotlens.formats.prompts import read_prompts
from cotlens.formats.read import input_files
from cotlens.models.sample import (
    Job,
    Sampling,
    longest_completion,
    make_trace,
    open_transformers,
    render_prompt,
)
from cotlens.models.vllm import open_vllm
from cotlens.runs.shards import prepare_generation
from cotlens.runs.tables import analyze_traces
from cotlens.text.response import new_tags
from cotlens.trace import TraceError, hash_text

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
    or cut into steps, and there is no `run.json`. `analyze` makes a run from it, and `read_traces`
    reads it. `generation_info(folder)` returns what made it, and the numbers of traces and tokens.

    A prompt goes through the chat template once; without a template it must be one text and is
    taken as it is. The trace's prompt is what the model read, so that `split_trace` sees a thought
    that the template opened. The completion is the token ids decoded, special tokens included, up
    to the end token. Call a killed job again with the same arguments: it resumes after the last
    finished shard, and makes the same texts.

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
        prefill: beginning of every completion, read as the end of its prompt.
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
    n_prompts = sum(1 for _ in read_prompts(prompts))
    if not n_prompts:
        raise TraceError("nothing to generate from: no file of prompts was given")

    open_engine = open_vllm if engine == "vllm" else open_transformers
    opened = open_engine(
        model, sampling, batch_tokens, revision=revision, device=device, dtype=dtype
    )

    # A template passes over variables that it does not know: a typing error would change nothing.
    variables = dict(template_args or {})
    template = str(opened.tokenizer.chat_template or "")
    unknown = [name for name in variables if name not in template]
    if unknown:
        raise TraceError(f"the chat template has no variable {', '.join(unknown)}")

    # Everything that decides the texts, so that nothing else is mixed with them.
    made_by = opened.made_by | {
        "engine": engine,
        "sampling": vars(sampling),
        "method": method,
        "prefill": prefill,
        "template_args": variables,
        "chat_template": hash_text(template),
        "shard_traces": SHARD_TRACES[engine],
        "prompts": _describe_prompts(prompts),
    }

    tags = new_tags(opened.tokenizer)

    # Prompts are rendered again at each pass: a million of them need not fit in memory.
    render = partial(render_prompt, opened.tokenizer, prefill, variables)
    n_prompt_tokens = longest_completion(
        map(render, read_prompts(prompts)), opened.context - max_new_tokens
    )

    with only_one(folder):
        prepare_generation(folder, made_by)
        counts: Counter[str] = Counter()
        write = None  # the engine starts at the first shard that is missing
        jobs = map(render, read_prompts(prompts))
        for number, shard_jobs in enumerate(_in_shards(jobs, n, SHARD_TRACES[engine])):
            # A finished shard is kept, and only counted.
            path = folder / f"part-{number:05d}.parquet"
            if path.exists():
                if progress:
                    progress(len(shard_jobs))
            else:
                write = write or opened.start(n_prompt_tokens)
                traces = {}  # completions come in any order
                for job, token_ids in write(shard_jobs):
                    trace = make_trace(job, token_ids, opened, method, sampling)
                    traces[job.prompt.id, job.sample] = trace
                    if progress:
                        progress(1)

                ordered = [traces[job.prompt.id, job.sample] for job in shard_jobs]
                trace_table, _steps = analyze_traces(ordered, tags)
                write_parquet(path, trace_table)
            counts.update(_count(path))

        info = made_by | {"complete": True} | dict(counts)
        write_atomic(folder / "generate.json", to_json(info))
    return folder


def _describe_prompts(prompts: str | Path | Sequence[str | Path]) -> list[dict[str, str]]:
    """Name and hash of each file of prompts."""
    files = []
    for path in input_files(prompts):
        description = {"name": path.name, "sha256": hash_path(path)}
        files.append(description)
    return files


def _in_shards(jobs: Iterable[Job], n: int, shard_traces: int) -> Iterator[list[Job]]:
    """Each job n times, numbered, in lists of about `shard_traces` that hold whole prompts."""
    prompts_per_shard = max(1, shard_traces // n)
    jobs = iter(jobs)
    while shard_jobs := list(islice(jobs, prompts_per_shard)):
        samples = []
        for job in shard_jobs:
            samples += [job._replace(sample=number) for number in range(n)]
        yield samples


def _count(shard: Path) -> dict[str, int]:
    """Traces of a shard, their tokens, and the traces that were cut off."""
    # From the file, also for a shard that was written before.
    table = pq.read_table(shard, columns=["n_tokens", "finish_reason"])
    traces = table.to_pandas()
    is_cut = traces["finish_reason"] == "length"
    return {
        "n_traces": len(traces),
        "n_tokens": int(traces["n_tokens"].sum()),
        "n_cut": int(is_cut.sum()),
    }


def generation_info(path: str | Path) -> dict[str, Any]:
    """What made a folder of sampled traces, as its `generate.json` holds it.

    That is model, engine, sampling, versions and hashes of the prompts, whether it is `complete`,
    and then `n_traces`, `n_tokens`, and `n_cut`, the traces that reached `max_new_tokens`.

    Raises:
        TraceError: if the folder has no `generate.json`, or one that is damaged.
    """
    info_path = Path(path) / "generate.json"
    try:
        return json.loads(info_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TraceError(
            f"{path}: not a folder of sampled traces (generate.json cannot be read: {error}); "
            "`cotlens generate PROMPTS --model MODEL -o FOLDER` makes one"
        ) from None
