"""The model under study asked to write: prompts in, a folder of traces out, shard by shard.

`prompts, table, run <- engines <- generation`. It is the step between a trained checkpoint and `cotlens analyze`:

    OUT/generate.json       what made it: model and fingerprint, engine, sampling, seed, versions, hashes of the prompts
    OUT/part-00000.parquet  a file of traces, and so is each that follows

The arguments decide what is drawn, and nothing else does: of a checkpoint's generation_config only the end tokens are
taken. Every sample has random numbers of its own, a function of the seed, the prompt's id and the sample's number. The
samples beside it in a batch, and what ran before, change nothing but the rounding of low-precision arithmetic.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.parquet as pq

from cotlens.engines import Engine, Job, Sampling, open_transformers, open_vllm
from cotlens.prompts import Prompt, read_prompts
from cotlens.read import input_files
from cotlens.run import hash_path, only_one, write_atomic, write_parquet
from cotlens.table import analyze_traces
from cotlens.trace import Trace, TraceError, hash_text

if TYPE_CHECKING:
    from cotlens.model import Model

SHARD_TRACES = {"transformers": 64, "vllm": 1024}  # vllm keeps a GPU full only with many requests at once


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
    sampling, folder, counts = Sampling(n, temperature, top_p, top_k, max_new_tokens, seed), Path(out), [0, 0, 0]
    if folder.exists() and not folder.is_dir():
        raise TraceError(f"{folder}: is a file; traces need a folder")
    if not sum(1 for _ in read_prompts(prompts)):  # all are read before a model is loaded for nothing
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
        "prompts": [{"name": path.name, "sha256": hash_path(path)} for path in input_files(prompts)],
    }
    render = partial(_render, opened.tokenizer, prefill, variables)
    longest = _longest(map(render, read_prompts(prompts)), opened.context - max_new_tokens)
    with only_one(folder):
        _prepare(folder, made_by)
        jobs = (job._replace(sample=i) for job in map(render, read_prompts(prompts)) for i in range(n))
        write, number = None, 0
        while shard := list(islice(jobs, n * max(1, SHARD_TRACES[engine] // n))):
            path = folder / f"part-{number:05d}.parquet"
            if not path.exists():
                write = write or opened.start(longest)
                traces = {}
                for job, ids in write(shard):
                    traces[job.prompt.id, job.sample] = _trace(job, ids, opened, method, sampling)
                    if progress:
                        progress(1)
                ordered = [traces[job.prompt.id, job.sample] for job in shard]
                write_parquet(path, analyze_traces(ordered)[0])
            elif progress:
                progress(len(shard))
            counts = [before + more for before, more in zip(counts, _counts(path), strict=True)]
            number += 1
        made_by |= {"complete": True} | dict(zip(("n_traces", "n_tokens", "n_cut"), counts, strict=True))
        write_atomic(folder / "generate.json", _json(made_by))
    return made_by


def _render(tokenizer: Any, prefill: str, variables: Mapping[str, Any], prompt: Prompt) -> Job:
    """A prompt as the model reads it. What a template writes is encoded with nothing added: it has its own start."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        if len(prompt.messages) > 1:
            raise TraceError(f"{prompt.place}: the model has no chat template; give one text, and no system")
        text = prompt.messages[0]["content"] + prefill
        return Job(prompt, text, tokenizer(text, verbose=False)["input_ids"], 0)
    try:
        text = tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True, **variables)
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise TraceError(f"{prompt.place}: the chat template cannot take it: {error}") from None
    text += prefill
    return Job(prompt, text, tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], 0)


def _longest(jobs: Iterator[Job], room: int) -> int:
    """Tokens of the longest prompt. One limit holds for all completions, or their lengths could not be compared."""
    job = max(jobs, key=lambda job: len(job.ids))
    if len(job.ids) > room:
        raise TraceError(
            f"{job.prompt.place}: the prompt's {len(job.ids):,} tokens and the longest completion are "
            f"{len(job.ids) - room:,} more than the model was made for; lower max_new_tokens (--max-new-tokens) by "
            "that, or leave the prompt out"
        )
    return len(job.ids)


def _prepare(folder: Path, made_by: dict[str, Any]) -> None:
    """Makes room: shards that another call made are never mixed in."""
    path = folder / "generate.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        before = {}  # if there are shards, they may be anyone's
    changed = [key for key, value in json.loads(json.dumps(made_by)).items() if before.get(key) != value]
    if changed and any(folder.glob("part-*.parquet")):
        raise TraceError(
            f"{folder}: holds traces made with other {', '.join(changed)} (see its generate.json); choose another "
            "folder, or delete this one"
        )
    for partial_shard in folder.glob(".part-*.partial"):  # of a job that was killed while it wrote
        partial_shard.unlink()
    write_atomic(path, _json(made_by | {"complete": False}))


def _json(info: dict[str, Any]) -> str:
    return json.dumps(info, indent=2, ensure_ascii=False) + "\n"


def _counts(shard: Path) -> tuple[int, int, int]:
    """Traces, tokens, and traces that were cut."""
    table = pq.read_table(shard, columns=["n_tokens", "finish_reason"]).to_pandas()
    return len(table), int(table["n_tokens"].sum()), int((table["finish_reason"] == "length").sum())


def _trace(job: Job, made: list[int], engine: Engine, method: str, sampling: Sampling) -> Trace:
    from cotlens.model import locate_tokens

    end = next((i + 1 for i, token in enumerate(made) if token in engine.ends), None)
    own, prompt = tuple(made[: end and end - 1]), job.prompt
    asked: dict[str, Any] = {"request": prompt.messages[-1]["content"]}
    if len(prompt.messages) > 1:
        asked["prompt_messages"] = prompt.messages
    trace = Trace(
        id=f"{prompt.id}/{job.sample}",
        completion=engine.tokenizer.decode(own),
        prompt=job.text,
        model=engine.made_by["model"]["name"],
        method=method,
        sample=job.sample,
        finish_reason="stop" if end else "length",
        prompt_token_ids=tuple(job.ids),
        token_ids=own,
        **prompt.fields,
        meta=prompt.meta | asked | {"sampling": vars(sampling)},
    )
    starts = locate_tokens(trace, engine.tokenizer, False)
    # The end token belongs to what was drawn, and has no text.
    starts = (*starts, len(trace.completion)) if end else starts
    return replace(trace, token_ids=tuple(made[:end]), token_starts=starts)
