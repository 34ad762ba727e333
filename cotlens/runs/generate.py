"""The model under study asked to write: prompts in, a folder of traces out, shard by shard.

`prompts, table, run <- engines <- generation`. It is the step between a trained checkpoint and `cotlens analyze`:

    OUT/generate.json       what made it: model and fingerprint, engine, sampling, seed, versions, hashes of the prompts
    OUT/part-00000.parquet  a file of traces, and so is each that follows

The arguments decide what is drawn, and nothing else does: of a checkpoint's generation_config only the end tokens are
taken. Every sample has random numbers of its own, a function of the seed, the prompt's id and the sample's number. The
samples beside it in a batch, and what ran before, change nothing but the rounding of low-precision arithmetic.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.parquet as pq

from cotlens.files import hash_path, only_one, write_atomic, write_parquet
from cotlens.formats.prompts import read_prompts
from cotlens.formats.read import input_files
from cotlens.models.sample import (
    Sampling,
    longest_completion,
    make_trace,
    open_transformers,
    render_prompt,
)
from cotlens.models.vllm import open_vllm
from cotlens.runs.shards import prepare_generation, to_json
from cotlens.runs.tables import analyze_traces
from cotlens.trace import TraceError, hash_text

if TYPE_CHECKING:
    from cotlens.models.load import Model

SHARD_TRACES = {
    "transformers": 64,
    "vllm": 1024,
}  # vllm keeps a GPU full only with many requests at once


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
) -> dict[str, Any]:
    """Samples completions into a folder of traces, and returns what its generate.json says.

    A prompt goes through the chat template once; without a template it must be one text and is taken as it is. The
    trace's prompt is what the model read, so that `split_trace` sees a thought that the template opened. The
    completion is the token ids decoded, special tokens included, up to the end token. Called again with the same
    arguments it goes on behind the last whole shard, to the same texts.

    >>> generate("prompts.jsonl", "runs/sft/checkpoint", "traces/sft", n=8)  # doctest: +SKIP

    Args:
        prompts: files, as `read_prompts` takes them.
        model: a folder or repository; with the engine transformers also a model that is loaded.
        out: the folder of traces.
        engine: `transformers`, or `vllm` on GPUs.
        n: samples a prompt.
        temperature: divides the logits; 0 takes the likeliest word.
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
        TraceError: for a bad prompt, one that leaves no room for the completion, a model that cannot be loaded, or a
            folder that holds traces made otherwise.
    """
    if engine not in SHARD_TRACES:
        raise TraceError(f"expected the engine {' or '.join(SHARD_TRACES)}, got {engine!r}")
    sampling, folder, counts = (
        Sampling(n, temperature, top_p, top_k, max_new_tokens, seed),
        Path(out),
        [0, 0, 0],
    )
    if folder.exists() and not folder.is_dir():
        raise TraceError(f"{folder}: is a file; traces need a folder")
    if not sum(
        1 for _ in read_prompts(prompts)
    ):  # all are read before a model is loaded for nothing
        raise TraceError("nothing to generate from: no file of prompts was given")
    opened = (open_vllm if engine == "vllm" else open_transformers)(
        model, sampling, batch_tokens, revision=revision, device=device, dtype=dtype
    )
    template, variables = str(opened.tokenizer.chat_template or ""), dict(template_args or {})
    if unknown := [name for name in variables if name not in template]:
        raise TraceError(f"the chat template has no variable {', '.join(unknown)}")
    made_by = opened.made_by | {
        "engine": engine,
        "sampling": vars(sampling),
        "method": method,
        "prefill": prefill,
        "template_args": variables,
        "chat_template": hash_text(template),
        "shard_traces": SHARD_TRACES[engine],
        "prompts": [
            {"name": path.name, "sha256": hash_path(path)} for path in input_files(prompts)
        ],
    }
    render = partial(render_prompt, opened.tokenizer, prefill, variables)
    longest = longest_completion(
        map(render, read_prompts(prompts)), opened.context - max_new_tokens
    )
    with only_one(folder):
        prepare_generation(folder, made_by)
        jobs = (
            job._replace(sample=i) for job in map(render, read_prompts(prompts)) for i in range(n)
        )
        write, number = None, 0
        while shard := list(islice(jobs, n * max(1, SHARD_TRACES[engine] // n))):
            path = folder / f"part-{number:05d}.parquet"
            if not path.exists():
                write = write or opened.start(longest)
                traces = {}
                for job, ids in write(shard):
                    traces[job.prompt.id, job.sample] = make_trace(
                        job, ids, opened, method, sampling
                    )
                    if progress:
                        progress(1)
                ordered = [traces[job.prompt.id, job.sample] for job in shard]
                write_parquet(path, analyze_traces(ordered)[0])
            elif progress:
                progress(len(shard))
            counts = [before + more for before, more in zip(counts, _counts(path), strict=True)]
            number += 1
        made_by |= {"complete": True} | dict(
            zip(("n_traces", "n_tokens", "n_cut"), counts, strict=True)
        )
        write_atomic(folder / "generate.json", to_json(made_by))
    return made_by


def _counts(shard: Path) -> tuple[int, int, int]:
    """Traces, tokens, and traces that were cut."""
    table = pq.read_table(shard, columns=["n_tokens", "finish_reason"]).to_pandas()
    return len(table), int(table["n_tokens"].sum()), int((table["finish_reason"] == "length").sum())
