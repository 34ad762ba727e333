"""Sample completions with transformers. Every sample has its own stream of random numbers.

`vllm` does the same with vLLM. torch and transformers are imported where they are used, so that
`cotlens.runs.generate` can be imported without them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from cotlens.files import model_versions
from cotlens.formats.prompts import Prompt
from cotlens.trace import Trace, TraceError, hash_text

if TYPE_CHECKING:
    from cotlens.models.load import Model

# Padded tokens of a batch, with their caches; halved when memory runs out.
BATCH_TOKENS = {"cpu": 2**16, "cuda": 2**19}


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn.

    Attributes:
        n: samples per prompt.
        temperature: the logits are divided by it; 0 is greedy.
        top_p: keep the likeliest words that hold this much probability.
        top_k: keep this many of the likeliest words; 0 keeps all.
        max_new_tokens: longest completion.
        seed: of all random numbers.
    """

    n: int
    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("top_k", 0), ("max_new_tokens", 1)):
            value = getattr(self, name)
            if value < least:
                raise TraceError(f"{name} must be {least} or more, got {value}")

        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise TraceError(
                "expected a temperature from 0 and a top_p above 0, up to 1; "
                f"got {self.temperature:g} and {self.top_p:g}"
            )
        if self.temperature == 0 and self.n > 1:
            raise TraceError(
                f"at temperature 0 the {self.n} samples of a prompt would be the same; "
                "ask for n = 1"
            )

    def seed_of(self, prompt: Prompt) -> int:
        """Seed of the prompt's first sample. Each further sample has one more, as vLLM counts."""
        digest = hash_text(f"{self.seed}\0{prompt.id}")
        return int(digest[:15], 16)


class Job(NamedTuple):
    """One completion to write.

    Attributes:
        prompt: the request.
        text: the prompt as the model reads it.
        ids: its token ids.
        sample: number of the sample among those of its prompt.
    """

    prompt: Prompt
    text: str
    ids: list[int]
    sample: int


Write = Callable[[list[Job]], Iterator[tuple[Job, list[int]]]]


@dataclass(frozen=True)
class Engine:
    """What writes completions.

    Attributes:
        made_by: model, versions and settings that decide the completions.
        tokenizer: the model's.
        ends: token ids that end a completion.
        context: the longest sequence the model was made for, in tokens.
        start: given the tokens of the longest prompt, returns what writes the jobs of a shard.
    """

    made_by: dict[str, Any]
    tokenizer: Any
    ends: list[int]
    context: int
    start: Callable[[int], Write]


def end_ids(*sources: Any) -> list[int]:
    """The end tokens of a tokenizer and of configurations, which need not agree."""
    # A source names one end token, several, or none.
    ends = set()
    for source in sources:
        source_ends = getattr(source, "eos_token_id", None)
        if not isinstance(source_ends, list):
            source_ends = [source_ends]
        ends.update(source_ends)
    ends.discard(None)
    return sorted(ends)


def open_transformers(
    model: "Model | str", sampling: Sampling, batch_tokens: int | None, **loading: Any
) -> Engine:
    """An engine that samples with transformers.

    Args:
        model: a loaded model, or the folder or repository of one.
        sampling: how completions are drawn.
        batch_tokens: padded tokens of a batch; None for `BATCH_TOKENS`.
        loading: passed on to `load_model`.

    Raises:
        TraceError: if torch is missing, or if the model cannot be loaded or has no tokenizer.
    """
    try:
        from cotlens.models.batches import in_batches
        from cotlens.models.load import describe_model, load_model
    except ImportError as error:
        raise TraceError(
            f"the engine transformers cannot be loaded ({error}): pip install 'cotlens[model]'"
        ) from None

    loaded = load_model(model, **loading) if isinstance(model, str) else model
    if loaded.tokenizer is None:
        raise TraceError(f"{loaded.name}: the model came without a tokenizer")
    ends = end_ids(loaded.tokenizer, loaded.network.generation_config)
    budget = batch_tokens or BATCH_TOKENS.get(loaded.device.type, BATCH_TOKENS["cpu"])

    def write(jobs: list[Job]) -> Iterator[tuple[Job, list[int]]]:
        lengths = [len(job.ids) + sampling.max_new_tokens for job in jobs]
        work = partial(_write_batch, loaded, sampling, ends)
        for batch, completions in in_batches(loaded, jobs, lengths, budget, work):
            if completions is None:
                raise TraceError(
                    f"{batch[0].prompt.place}: memory does not hold "
                    f"{sampling.max_new_tokens:,} new tokens; lower max_new_tokens"
                )
            yield from zip(batch, completions, strict=True)

    made_by = {
        "model": describe_model(loaded),
        "versions": model_versions(),
        "batch_tokens": budget,
    }
    return Engine(made_by, loaded.tokenizer, ends, loaded.context, start=lambda _: write)


def _write_batch(
    model: "Model", sampling: Sampling, ends: list[int], batch: list[Job]
) -> list[list[int]]:
    """Token ids of the completions, in the order of the batch; padding follows an end token."""
    import torch
    from transformers import GenerationConfig

    # Pad on the left, so that all prompts end where the completions begin.
    pad = model.tokenizer.pad_token_id or 0
    width = max(len(job.ids) for job in batch)
    rows = []
    masks = []
    for job in batch:
        n_padding = width - len(job.ids)
        rows.append([pad] * n_padding + job.ids)
        masks.append([0] * n_padding + [1] * len(job.ids))

    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad,
    )

    # transformers fills every gap of a configuration from the checkpoint's: top_k, penalties,
    # forced tokens. Give it an empty one meanwhile.
    network = model.network
    checkpoint_config = network.generation_config
    network.generation_config = GenerationConfig()
    try:
        sequences: Any = network.generate(
            torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(masks, device=model.device),
            generation_config=config,
            logits_processor=_draw_processors(sampling, batch, model.device),
        )
    finally:
        network.generation_config = checkpoint_config
    return sequences[:, width:].tolist()


def continue_greedily(model: "Model", ids: list[int], max_new_tokens: int) -> list[int]:
    """The token ids that the model appends to these, the likeliest one each time."""
    import torch

    prompt = torch.tensor([ids], device=model.device)
    with torch.inference_mode():
        sequences: Any = model.network.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=model.tokenizer.pad_token_id or 0,
        )
    return sequences[0, len(ids) :].tolist()


def _draw_processors(sampling: Sampling, batch: list[Job], device: Any) -> Any:
    """Logits processors after which the largest logit of a row is a draw.

    argmax(logit - log e), with e exponentially distributed, is a sample of softmax(logit).
    `do_sample` would draw a whole batch from one stream of random numbers; here every row has its
    own.
    """
    import torch
    from transformers import (
        LogitsProcessorList,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    processors = LogitsProcessorList()
    if sampling.temperature == 0:
        return processors

    # A stream of random numbers for every row, whatever else is in the batch.
    generators = []
    for job in batch:
        seed = sampling.seed_of(job.prompt) + job.sample
        generators.append(torch.Generator(device).manual_seed(seed))

    def draw(_: Any, logits: Any) -> Any:
        noise = torch.empty_like(logits, dtype=torch.float32)
        for row, generator in zip(noise, generators, strict=True):
            row.exponential_(generator=generator)
        noise.clamp_min_(torch.finfo(torch.float32).tiny)
        return logits - noise.log_()

    # In the order in which transformers applies them itself.
    processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    processors.append(draw)
    return processors


def render_prompt(
    tokenizer: Any, prefill: str, variables: Mapping[str, Any], prompt: Prompt
) -> Job:
    """A prompt as the model reads it, as the job of its first sample.

    Args:
        tokenizer: the model's.
        prefill: beginning of the completion, read as the end of the prompt.
        variables: of the chat template.
        prompt: the request.

    Raises:
        TraceError: if the chat template cannot take the prompt, or if there is no template and the
            prompt is more than one text.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        if len(prompt.messages) > 1:
            raise TraceError(
                f"{prompt.place}: the model has no chat template; give one text, and no system"
            )
        text = prompt.messages[0]["content"] + prefill
        encoding = tokenizer(text, verbose=False)
        return Job(prompt, text, encoding["input_ids"], sample=0)

    try:
        rendered = tokenizer.apply_chat_template(
            prompt.messages, tokenize=False, add_generation_prompt=True, **variables
        )
    except (TemplateError, TypeError, ValueError, KeyError) as error:
        raise TraceError(f"{prompt.place}: the chat template cannot take it: {error}") from None

    # The template writes the token that begins a sequence: the tokenizer must not add it again.
    text = rendered + prefill
    encoding = tokenizer(text, add_special_tokens=False, verbose=False)
    return Job(prompt, text, encoding["input_ids"], sample=0)


def longest_completion(jobs: Iterator[Job], room: int) -> int:
    """Tokens of the longest prompt.

    All completions have one limit, or their lengths could not be compared.

    Args:
        jobs: one for each prompt.
        room: the model's context less the longest completion.

    Raises:
        TraceError: if a prompt and the longest completion exceed the context.
    """
    job = max(jobs, key=lambda job: len(job.ids))
    n_prompt = len(job.ids)
    if n_prompt > room:
        raise TraceError(
            f"{job.prompt.place}: the prompt's {n_prompt:,} tokens and the longest completion are "
            f"{n_prompt - room:,} more than the model was made for; lower max_new_tokens "
            "(--max-new-tokens) by that, or leave the prompt out"
        )
    return n_prompt


def make_trace(job: Job, made: list[int], engine: Engine, method: str, sampling: Sampling) -> Trace:
    """The trace of a completion.

    Args:
        job: what was asked.
        made: the token ids that were written, and padding.
        engine: what wrote them.
        method: name of the checkpoint or training arm.
        sampling: how they were drawn.
    """
    from cotlens.models.encode import locate_tokens

    # The completion ends at the first end token; what follows is padding.
    n_text = 0
    while n_text < len(made) and made[n_text] not in engine.ends:
        n_text += 1
    text_ids = tuple(made[:n_text])
    end_id = tuple(made[n_text : n_text + 1])

    # The request as the user wrote it, before the chat template.
    prompt = job.prompt
    meta: dict[str, Any] = {"request": prompt.messages[-1]["content"]}
    if len(prompt.messages) > 1:
        meta["prompt_messages"] = prompt.messages
    trace = Trace(
        id=f"{prompt.id}/{job.sample}",
        completion=engine.tokenizer.decode(text_ids),
        prompt=job.text,
        model=engine.made_by["model"]["name"],
        method=method,
        sample=job.sample,
        finish_reason="stop" if end_id else "length",
        prompt_token_ids=tuple(job.ids),
        token_ids=text_ids,
        **prompt.fields,
        meta=prompt.meta | meta | {"sampling": vars(sampling)},
    )

    # The end token is one of those that were drawn, and has no text.
    token_starts = locate_tokens(trace, engine.tokenizer, skip=False)
    if end_id:
        token_starts = (*token_starts, len(trace.completion))
    return replace(trace, token_ids=text_ids + end_id, token_starts=token_starts)
