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
from cotlens.models.decode import can_decode, decode
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
            processors=_processors(sampling, self.network.device),
            numbers=_random_numbers(sampling, batch),
            redrawn_ids=sampling.banned_ids if _redraws(sampling) else (),
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
    numbers: torch.Tensor | None = None,
    redrawn_ids: Sequence[int] = (),
    with_logits: bool = False,
) -> Generated:
    """The token ids that a network appends to prompts.

    Args:
        network: a transformers model.
        prompts: token ids of each prompt.
        max_new_tokens: longest completion.
        end_ids: tokens that end a completion.
        pad_id: the token that pads.
        processors: what changes the logits, in this order, each row by itself.
        numbers: uniform random numbers, one for each new token of each prompt, (B, T), by which the
            tokens are drawn; None: take the likeliest ones.
        redrawn_ids: tokens that are drawn again among the others where they come up.
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
        return_dict_in_generate=with_logits,
        output_logits=with_logits,
    )

    # The quick loop of decode.py, or that of transformers, which takes the largest logit.
    if numbers is not None:
        numbers = numbers.to(network.device)
    redrawn = torch.tensor(list(redrawn_ids), dtype=torch.long, device=network.device)
    loop: dict[str, Any] = {}
    if can_decode(network) and not with_logits:
        loop["custom_generate"] = decode
        loop["choose"] = partial(_choose, processors, numbers, redrawn)
    else:
        choosing = partial(_mark_choice, processors, numbers, redrawn, width)
        loop["logits_processor"] = LogitsProcessorList([choosing])

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
                **loop,
            )
    finally:
        network.generation_config = checkpoint_config
        network.train(was_training)

    if with_logits:
        new_ids = output.sequences[:, width:]
        return Generated(new_ids.tolist(), output.logits)
    new_ids = output[:, width:]
    return Generated(new_ids.tolist(), ())


def _processors(sampling: Sampling, device: Any) -> list[Any]:
    """What changes the logits before a token is drawn, as transformers would."""
    processors: list[Any] = []
    if sampling.banned_ids and not _redraws(sampling):
        banned_ids = torch.tensor(sampling.banned_ids, device=device)
        processors.append(partial(_ban, banned_ids))
    if sampling.temperature == 0:
        return processors

    # In the order in which transformers applies them itself.
    if sampling.temperature != 1:
        processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    return processors


def _redraws(sampling: Sampling) -> bool:
    """Whether a banned token that comes up is drawn again, and others are as without the ban.

    Where top_k or top_p cut the distribution, the ban changes what is cut, and comes first.
    """
    return sampling.temperature > 0 and not sampling.top_k and sampling.top_p == 1


def _ban(banned_ids: torch.Tensor, _: Any, logits: torch.Tensor) -> torch.Tensor:
    return logits.index_fill(-1, banned_ids, -torch.inf)


def _random_numbers(sampling: Sampling, batch: Sequence[Job]) -> torch.Tensor | None:
    """The uniform random numbers of each job, (B, T); None at temperature 0.

    Each sample has its own stream of them, one number a token, whatever else is in the batch.
    """
    if sampling.temperature == 0:
        return None

    numbers = []
    for job in batch:
        seed = sampling.seed_of(job.prompt) + job.sample
        job_numbers = torch.rand(
            sampling.max_new_tokens,
            generator=torch.Generator().manual_seed(seed),
            dtype=torch.float64,
        )
        numbers.append(job_numbers)
    return torch.stack(numbers)


def _choose(
    processors: Sequence[Any],
    numbers: torch.Tensor | None,
    redrawn: torch.Tensor,
    logits: torch.Tensor,
    rows: torch.Tensor,
    step: int,
) -> torch.Tensor:
    """The next token of each of these rows of the batch: drawn, or the likeliest one."""
    logits = logits.float()
    for process in processors:
        logits = process(None, logits)
    if numbers is None:
        return logits.argmax(-1)
    if len(redrawn):
        return draw_others(logits, numbers[rows, step], redrawn)
    return draw(logits, numbers[rows, step])


def _mark_choice(
    processors: Sequence[Any],
    numbers: torch.Tensor | None,
    redrawn: torch.Tensor,
    width: int,
    ids: torch.Tensor,
    logits: torch.Tensor,
) -> torch.Tensor:
    """Logits of which the largest is that of the chosen token, for the loop of transformers."""
    step = ids.shape[1] - width
    rows = torch.arange(len(logits), device=logits.device)
    tokens = _choose(processors, numbers, redrawn, logits, rows, step)
    marked = torch.full_like(logits, -torch.inf)
    return marked.scatter(-1, tokens.unsqueeze(-1), 0.0)


def draw(logits: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A sample of softmax(logits) for each row: the token at which a number lies in (0, 1].

    Tokens lie next to each other from 0 to 1, each as wide as its probability. A token of
    probability 0 has no width and is never drawn.

    >>> probabilities = torch.tensor([[0.5, 0.0, 0.5]] * 3)
    >>> draw(probabilities.log(), torch.tensor([0.0, 0.4, 0.6])).tolist()
    [2, 2, 0]

    Args:
        logits: (B, V).
        numbers: uniform on [0, 1), (B); 0 stands for 1.
    """
    tokens, _ = _draw_with_rest(logits, numbers)
    return tokens


def draw_others(logits: torch.Tensor, numbers: torch.Tensor, banned: torch.Tensor) -> torch.Tensor:
    """A sample of softmax(logits) without the banned tokens, for each row.

    Rows that would not have drawn one are as without the ban. Another row draws again among the
    rest: where its number lies within the banned token is uniform, and serves for that.

    Args:
        logits: (B, V).
        numbers: as in `draw`.
        banned: token ids.
    """
    tokens, rest = _draw_with_rest(logits, numbers)
    is_banned = torch.isin(tokens, banned)
    if is_banned.any():
        others = logits[is_banned].index_fill(-1, banned, -torch.inf)
        tokens[is_banned] = draw(others, rest[is_banned])
    return tokens


def _draw_with_rest(
    logits: torch.Tensor, numbers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The drawn tokens, and where each number lies within its token, uniform on [0, 1)."""
    probabilities = torch.softmax(logits, -1)
    upper_ends = probabilities.cumsum(-1, dtype=torch.float64)

    # The last end is 1 up to rounding: what is sought is never beyond it.
    last_ends = upper_ends[:, -1:]
    sought = (1 - numbers.unsqueeze(-1)) * last_ends
    tokens = torch.searchsorted(upper_ends, sought)

    # In a row of NaN nothing is found.
    n_words = logits.shape[-1]
    tokens = tokens.clamp(max=n_words - 1)
    upper = upper_ends.gather(-1, tokens)
    width = probabilities.gather(-1, tokens).double()
    rest = ((upper - sought) / width).clamp(0, 1 - 1e-12)
    return tokens.squeeze(-1), rest.squeeze(-1)
