"""What writes completions: transformers, or vllm on GPUs, asked for the same draws.

`prompts, model <- engines <- generation`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cotlens.files import model_versions
from cotlens.formats.prompts import Prompt
from cotlens.models.load import describe_model
from cotlens.trace import Trace, TraceError, hash_text

if TYPE_CHECKING:
    from cotlens.models.load import Model

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
            raise TraceError(
                f"expected a temperature from 0 and a top_p above 0, up to 1; got {got}"
            )
        if self.temperature == 0 and self.n > 1:
            raise TraceError(
                f"at temperature 0 the {self.n} samples of a prompt would be the same; ask for n = 1"
            )

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


def end_ids(*sources: Any) -> list[int]:
    """The end tokens of a tokenizer and of configurations, which need not agree."""
    found = [getattr(source, "eos_token_id", None) for source in sources]
    return sorted(
        {
            token
            for one in found
            for token in (one if isinstance(one, list) else [one])
            if token is not None
        }
    )


# --- transformers ----------------------------------------------------------------------------------------------
def open_transformers(
    model: "Model | str", sampling: Sampling, batch_tokens: int | None, **loading: Any
) -> Engine:
    from cotlens.models.batches import in_batches
    from cotlens.models.load import load_model

    loaded = load_model(model, **loading) if isinstance(model, str) else model
    if loaded.tokenizer is None:
        raise TraceError(f"{loaded.name}: the model came without a tokenizer")
    ends = end_ids(loaded.tokenizer, loaded.network.generation_config)
    budget = batch_tokens or BATCH_TOKENS.get(loaded.device.type, BATCH_TOKENS["cpu"])

    def write(jobs: list[Job]) -> Iterator[tuple[Job, list[int]]]:
        lengths = [len(job.ids) + sampling.max_new_tokens for job in jobs]
        for batch, made in in_batches(
            loaded, jobs, lengths, budget, partial(_write_batch, loaded, sampling, ends)
        ):
            if made is None:
                place, limit = batch[0].prompt.place, f"{sampling.max_new_tokens:,}"
                raise TraceError(
                    f"{place}: memory does not hold {limit} new tokens; lower max_new_tokens"
                )
            yield from zip(batch, made, strict=True)

    made_by = {
        "model": describe_model(loaded),
        "versions": model_versions(),
        "batch_tokens": budget,
    }
    return Engine(made_by, loaded.tokenizer, ends, loaded.context, lambda _: write)


def _write_batch(
    model: "Model", sampling: Sampling, ends: list[int], batch: list[Job]
) -> list[list[int]]:
    """Token ids of the completions, in the order of the batch; what follows an end token is padding."""
    import torch
    from transformers import GenerationConfig

    network, width, pad = (
        model.network,
        max(len(job.ids) for job in batch),
        model.tokenizer.pad_token_id or 0,
    )
    ids = torch.tensor(
        [[pad] * (width - len(job.ids)) + job.ids for job in batch], device=model.device
    )
    mask = torch.tensor(
        [[0] * (width - len(job.ids)) + [1] * len(job.ids) for job in batch], device=model.device
    )
    limits = {
        "max_new_tokens": sampling.max_new_tokens,
        "eos_token_id": ends or None,
        "pad_token_id": pad,
    }
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
    from transformers import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

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
    return LogitsProcessorList(
        [TemperatureLogitsWarper(float(sampling.temperature)), *top_k, *top_p, draw]
    )


def render_prompt(
    tokenizer: Any, prefill: str, variables: Mapping[str, Any], prompt: Prompt
) -> Job:
    """A prompt as the model reads it. What a template writes is encoded with nothing added: it has its own start."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        if len(prompt.messages) > 1:
            raise TraceError(
                f"{prompt.place}: the model has no chat template; give one text, and no system"
            )
        text = prompt.messages[0]["content"] + prefill
        return Job(prompt, text, tokenizer(text, verbose=False)["input_ids"], 0)
    try:
        text = tokenizer.apply_chat_template(
            prompt.messages, tokenize=False, add_generation_prompt=True, **variables
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise TraceError(f"{prompt.place}: the chat template cannot take it: {error}") from None
    text += prefill
    return Job(
        prompt, text, tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], 0
    )


def longest_completion(jobs: Iterator[Job], room: int) -> int:
    """Tokens of the longest prompt. One limit holds for all completions, or their lengths could not be compared."""
    job = max(jobs, key=lambda job: len(job.ids))
    if len(job.ids) > room:
        raise TraceError(
            f"{job.prompt.place}: the prompt's {len(job.ids):,} tokens and the longest completion are "
            f"{len(job.ids) - room:,} more than the model was made for; lower max_new_tokens (--max-new-tokens) by "
            "that, or leave the prompt out"
        )
    return len(job.ids)


def make_trace(job: Job, made: list[int], engine: Engine, method: str, sampling: Sampling) -> Trace:
    from cotlens.models.encode import locate_tokens

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
