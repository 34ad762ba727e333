"""What writes completions: transformers, or vllm on GPUs, asked for the same draws.

`prompts, model <- engines <- generation`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cotlens.prompts import Prompt
from cotlens.run import describe_model, hash_path, model_versions, short_name
from cotlens.trace import TraceError, hash_text

if TYPE_CHECKING:
    from cotlens.model import Model

BATCH_TOKENS = {"cpu": 2**16, "cuda": 2**19}  # with their caches; halved when memory runs out


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: temperature divides the logits, then top_k and top_p leave words out."""

    n: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("top_k", 0), ("max_new_tokens", 1)):
            if getattr(self, name) < least:
                raise TraceError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            got = f"{self.temperature:g} and {self.top_p:g}"
            raise TraceError(f"expected a temperature from 0 and a top_p above 0, up to 1; got {got}")
        if self.temperature == 0 and self.n > 1:
            raise TraceError(f"at temperature 0 the {self.n} samples of a prompt would be the same; ask for n = 1")

    def seed_of(self, prompt: Prompt) -> int:
        """Of the prompt's first sample; one more for each that follows, as vllm counts too."""
        return int(hash_text(f"{self.seed}\0{prompt.id}")[:15], 16)


class Job(NamedTuple):
    """One completion to be written."""

    prompt: Prompt
    text: str  # the prompt as the model reads it
    ids: list[int]
    sample: int


Write = Callable[[list[Job]], Iterator[tuple[Job, list[int]]]]


@dataclass(frozen=True)
class Engine:
    """What writes. `start` takes the tokens of the longest prompt, and returns what writes the jobs of a shard."""

    made_by: dict[str, Any]
    tokenizer: Any
    ends: list[int]
    context: int
    start: Callable[[int], Write]


def _ends(*sources: Any) -> list[int]:
    """The end tokens of a tokenizer and of configurations, which need not agree."""
    found = [getattr(source, "eos_token_id", None) for source in sources]
    return sorted({token for one in found for token in (one if isinstance(one, list) else [one]) if token is not None})


# --- transformers ----------------------------------------------------------------------------------------------


def open_transformers(model: "Model | str", sampling: Sampling, batch_tokens: int | None, **loading: Any) -> Engine:
    from cotlens.model import in_batches, load_model

    loaded = load_model(model, **loading) if isinstance(model, str) else model
    if loaded.tokenizer is None:
        raise TraceError(f"{loaded.name}: the model came without a tokenizer")
    ends = _ends(loaded.tokenizer, loaded.network.generation_config)
    budget = batch_tokens or BATCH_TOKENS.get(loaded.device.type, BATCH_TOKENS["cpu"])

    def write(jobs: list[Job]) -> Iterator[tuple[Job, list[int]]]:
        lengths = [len(job.ids) + sampling.max_new_tokens for job in jobs]
        for batch, made in in_batches(loaded, jobs, lengths, budget, partial(_write_batch, loaded, sampling, ends)):
            if made is None:
                place, limit = batch[0].prompt.place, f"{sampling.max_new_tokens:,}"
                raise TraceError(f"{place}: memory does not hold {limit} new tokens; lower max_new_tokens")
            yield from zip(batch, made, strict=True)

    made_by = {"model": describe_model(loaded), "versions": model_versions(), "batch_tokens": budget}
    return Engine(made_by, loaded.tokenizer, ends, loaded.context, lambda _: write)


def _write_batch(model: "Model", sampling: Sampling, ends: list[int], batch: list[Job]) -> list[list[int]]:
    """Token ids of the completions, in the order of the batch; what follows an end token is padding."""
    import torch
    from transformers import GenerationConfig

    network, width, pad = model.network, max(len(job.ids) for job in batch), model.tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (width - len(job.ids)) + job.ids for job in batch], device=model.device)
    mask = torch.tensor([[0] * (width - len(job.ids)) + [1] * len(job.ids) for job in batch], device=model.device)
    limits = {"max_new_tokens": sampling.max_new_tokens, "eos_token_id": ends or None, "pad_token_id": pad}
    # transformers fills every gap of a configuration from the checkpoint's own: top_k, penalties, forced tokens.
    own, network.generation_config = network.generation_config, GenerationConfig()
    try:
        made: Any = network.generate(
            ids,
            attention_mask=mask,
            generation_config=GenerationConfig(do_sample=False, **limits),
            logits_processor=_draws(sampling, batch, model.device),
        )
    finally:
        network.generation_config = own
    return made[:, width:].tolist()


def _draws(sampling: Sampling, batch: list[Job], device: Any) -> Any:
    """Processors after which the largest logit is a draw: argmax(logit - log e), e exponential, is a sample of softmax.

    `do_sample` draws a whole batch from one stream of random numbers; this gives every row its own.
    """
    import torch
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    if sampling.temperature == 0:
        return LogitsProcessorList()
    seeds = [sampling.seed_of(job.prompt) + job.sample for job in batch]
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(_: Any, logits: Any) -> Any:
        noise = torch.empty_like(logits, dtype=torch.float32)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
        return logits - noise.clamp_min_(torch.finfo(torch.float32).tiny).log_()

    top_k = [TopKLogitsWarper(sampling.top_k)] if sampling.top_k else []
    top_p = [TopPLogitsWarper(sampling.top_p)] if sampling.top_p < 1 else []
    return LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature)), *top_k, *top_p, draw])


# --- vllm ------------------------------------------------------------------------------------------------------


def open_vllm(
    model: "Model | str", sampling: Sampling, batch_tokens: int | None, *, revision: str | None, device: str, dtype: str
) -> Engine:
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise TraceError(f"the engine vllm cannot be loaded ({error}): install vllm, or take transformers") from None
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    if not isinstance(model, str) or device or batch_tokens:
        raise TraceError(
            "vllm loads a model by its name, takes the GPUs it sees (no device), and makes its own batches"
        )
    if (Path(model) / "adapter_config.json").exists():
        raise TraceError(f"{model}: an adapter, which vllm does not read alone; first python trainers/merge.py {model}")
    safe: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    try:
        whole, tokenizer = AutoConfig.from_pretrained(model, **safe), AutoTokenizer.from_pretrained(model, **safe)
    except (OSError, ValueError, KeyError) as error:
        raise TraceError(f"{model}: the model cannot be loaded: {error}") from error
    try:
        own = GenerationConfig.from_pretrained(model, revision=revision or "main")
    except OSError:  # many checkpoints have none; then the model's configuration says where a text ends
        own = whole.get_text_config()
    ends = _ends(tokenizer, own)

    def start(longest: int) -> Write:
        llm = vllm.LLM(
            model=model, revision=revision, tokenizer_revision=revision, dtype=dtype, seed=0,
            max_model_len=longest + sampling.max_new_tokens, load_format="safetensors", trust_remote_code=False,
            generation_config="vllm",  # its own defaults, nothing of the checkpoint's
        )  # fmt: skip
        return partial(_ask_vllm, vllm, llm, sampling, ends)

    weights = "".join(map(hash_path, sorted(Path(model).glob("*.safetensors"))))  # of a repository, its commit says it
    about = {"name": short_name(model), "revision": getattr(whole, "_commit_hash", None) or "", "dtype": dtype}
    versions = model_versions() | {"vllm": version("vllm")}
    made_by = {"model": about | {"fingerprint": hash_text(weights) if weights else ""}, "versions": versions}
    context = getattr(whole.get_text_config(), "max_position_embeddings", None) or 2**31
    return Engine(made_by, tokenizer, ends, context, start)


def _ask_vllm(
    vllm: Any, llm: Any, sampling: Sampling, ends: list[int], jobs: list[Job]
) -> Iterator[tuple[Job, list[int]]]:
    """The completions of a shard, whose jobs stand prompt by prompt."""
    first = jobs[:: sampling.n]
    params = [
        vllm.SamplingParams(
            n=sampling.n, seed=sampling.seed_of(job.prompt), temperature=sampling.temperature, top_p=sampling.top_p,
            top_k=sampling.top_k or -1, min_p=0.0, repetition_penalty=1.0, max_tokens=sampling.max_new_tokens,
            stop_token_ids=ends, detokenize=False,
        )
        for job in first
    ]  # fmt: skip
    outputs = llm.generate([{"prompt_token_ids": job.ids} for job in first], params, use_tqdm=False)
    for job, output in zip(first, outputs, strict=True):
        for one in output.outputs:
            yield job._replace(sample=one.index), list(one.token_ids)
