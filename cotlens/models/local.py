"""Write completions with transformers. The one place in cotlens that calls `generate`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from cotlens.files import model_versions
from cotlens.models.batches import in_batches
from cotlens.models.engine import Job, Sampling, Written, find_end_ids
from cotlens.models.load import describe_network, sees_length
from cotlens.trace import TraceError

# Padded tokens of a batch, with their caches; halved when memory runs out.
BATCH_TOKENS = {"cpu": 2**16, "cuda": 2**19}


@dataclass
class LocalEngine:
    """Writes completions with a network of transformers; every sample has its own random numbers.

    The network may be one that is being trained: it is in evaluation mode meanwhile, and the
    global random state is left alone.

    Attributes:
        network: the transformers model.
        tokenizer: its tokenizer.
        name: of the model.
        revision: the commit that was loaded; empty for a folder.
        budget: padded tokens of a batch; None for `BATCH_TOKENS`.

    Raises:
        TraceError: if there is no tokenizer.
    """

    network: Any
    tokenizer: Any
    name: str
    revision: str = ""
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.tokenizer is None:
            raise TraceError(f"{self.name}: the model came without a tokenizer")
        config = self.network.config.get_text_config()
        self.context: int = getattr(config, "max_position_embeddings", None) or 2**31
        self.end_ids = find_end_ids(self.tokenizer, self.network.generation_config)
        device = self.network.device.type
        self.batch_tokens = self.budget or BATCH_TOKENS.get(device, BATCH_TOKENS["cpu"])

    def describe(self) -> dict[str, Any]:
        """Model, versions and batch size: they decide the completions."""
        return {
            "model": describe_network(self.network, self.name, self.revision),
            "versions": model_versions(),
            "batch_tokens": self.batch_tokens,
        }

    def check(self, sampling: Sampling, prefixes: Sequence[str]) -> None:  # noqa: ARG002
        """Raise TraceError if no seed is given, or a banned token is none of the model's."""
        if sampling.seed is None:
            raise TraceError(f"{self.name}: give a seed; a sample without one cannot be repeated")
        n_words = self.network.get_output_embeddings().weight.shape[0]
        for token in sampling.banned_ids:
            if not 0 <= token < n_words:
                raise TraceError(f"{self.name}: banned token {token} is none of its {n_words:,}")

    def write(self, jobs: Sequence[Job], sampling: Sampling) -> Iterator[tuple[Job, Written]]:
        """The completions of all jobs, those of like length together."""
        lengths = [len(job.ids) + sampling.max_new_tokens for job in jobs]
        work = partial(self._write_batch, sampling)
        alone = sees_length(self.network)
        for batch, completions in in_batches(jobs, lengths, self.batch_tokens, work, alone=alone):
            if completions is None:
                raise TraceError(
                    f"{batch[0].prompt.place}: memory does not hold "
                    f"{sampling.max_new_tokens:,} new tokens; lower max_new_tokens"
                )
            for job, ids in zip(batch, completions, strict=True):
                yield job, Written(ids)

    def _write_batch(self, sampling: Sampling, batch: Sequence[Job]) -> list[list[int]]:
        """Token ids of the completions, in the order of the batch."""
        generated = generate_ids(
            self.network,
            [job.ids for job in batch],
            max_new_tokens=sampling.max_new_tokens,
            end_ids=self.end_ids,
            pad_id=self.tokenizer.pad_token_id or 0,
            processors=_processors(sampling, batch, self.network.device),
        )
        return [_up_to_end(ids, self.end_ids) for ids in generated.ids]


def _up_to_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    """The ids up to and with the first end token; what follows is padding."""
    for number, token in enumerate(ids):
        if token in end_ids:
            return ids[: number + 1]
    return ids


class Generated(NamedTuple):
    """What a network wrote.

    Attributes:
        ids: token ids after each prompt, equally many; padding follows an end token.
        logits: of each new token, (B, V) each; empty unless they were asked for.
    """

    ids: list[list[int]]
    logits: Sequence[torch.Tensor]


def generate_ids(
    network: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: Sequence[int],
    pad_id: int,
    processors: Sequence[Any] = (),
    with_logits: bool = False,
) -> Generated:
    """The token ids that a network appends to prompts: the largest logit after the processors.

    Args:
        network: a transformers model.
        prompts: token ids of each prompt.
        max_new_tokens: longest completion.
        end_ids: tokens that end a completion.
        pad_id: the token that pads.
        processors: what changes the logits, in this order.
        with_logits: also return the network's own logits, before the processors.
    """
    # Pad on the left, so that all prompts end where the completions begin.
    width = max(map(len, prompts))
    rows = []
    masks = []
    for prompt_ids in prompts:
        n_padding = width - len(prompt_ids)
        rows.append([pad_id] * n_padding + list(prompt_ids))
        masks.append([0] * n_padding + [1] * len(prompt_ids))

    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(end_ids) or None,
        pad_token_id=pad_id,
        return_dict_in_generate=True,
        output_logits=with_logits,
    )

    # transformers fills every gap of a configuration from the checkpoint's: top_k, penalties,
    # forced tokens. Give it an empty one meanwhile.
    checkpoint_config = network.generation_config
    was_training = network.training
    network.generation_config = GenerationConfig()
    network.eval()
    try:
        with torch.inference_mode():
            output = network.generate(
                torch.tensor(rows, device=network.device),
                attention_mask=torch.tensor(masks, device=network.device),
                generation_config=config,
                logits_processor=LogitsProcessorList(processors),
            )
    finally:
        network.generation_config = checkpoint_config
        network.train(was_training)
    new_ids = output.sequences[:, width:].tolist()
    return Generated(new_ids, output.logits if with_logits else ())


def _processors(sampling: Sampling, batch: Sequence[Job], device: Any) -> list[Any]:
    """Logits processors after which the largest logit of a row is a draw.

    argmax(logit - log e), with e exponentially distributed, is a sample of softmax(logit).
    `do_sample` would draw a whole batch from one stream of random numbers; here every row has its
    own.
    """
    processors: list[Any] = []
    if sampling.banned_ids:
        processors.append(partial(_ban, list(sampling.banned_ids)))
    if sampling.temperature == 0:
        return processors

    # A stream of random numbers for every row, whatever else is in the batch.
    generators = []
    for job in batch:
        seed = sampling.seed_of(job.prompt) + job.sample
        generators.append(torch.Generator(device).manual_seed(seed))

    # In the order in which transformers applies them itself.
    processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    processors.append(partial(_draw, generators))
    return processors


def _ban(banned_ids: list[int], _: Any, logits: torch.Tensor) -> torch.Tensor:
    return logits.index_fill(-1, torch.tensor(banned_ids, device=logits.device), -torch.inf)


def _draw(generators: list[torch.Generator], _: Any, logits: torch.Tensor) -> torch.Tensor:
    noise = torch.empty_like(logits, dtype=torch.float32)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    noise.clamp_min_(torch.finfo(torch.float32).tiny)
    return logits - noise.log_()
