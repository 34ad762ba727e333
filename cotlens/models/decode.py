"""Write a batch token by token, with little more work than the network's own.

The loop of transformers copies every cache at each token, builds each mask anew, reads a prompt
once for every sample of it, and goes on with ended texts until the longest one ends. For a small
network on a CPU that is most of the time. `generate` calls this loop in place of its own, for a
network that `can_decode`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Tokens that a full cache is given room for.
_ROOM = 32

# Texts that have ended are taken out of the batch once they are this share of it: that copies the
# caches of the others.
_ENDED_SHARE = 0.1

# From logits, the numbers of their rows in the batch, and the number of the new token, to token
# ids.
Choose = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def can_decode(network: Any) -> bool:
    """Whether `decode` knows all that the network needs: each token attends to all before it.

    Sliding windows, recurrent states, encoders, and kernels of attention that take no mask are left
    to transformers.
    """
    if network.config.is_encoder_decoder:
        return False
    if not getattr(network, "_supports_attention_backend", False):
        return False

    # Masks are made for torch's own attention.
    config = network.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return False
    layers = DynamicCache(config=config).layers
    kinds = {type(layer) for layer in layers}
    return kinds == {DynamicLayer}


class _RoomyLayer(DynamicLayer):
    """Keys and values of one layer of the network, with room for those of further tokens.

    transformers reads `keys` and `values`: the filled part of `all_keys` and `all_values`.
    """

    def __init__(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        n_filled: int,
    ) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.all_keys = keys
        self.all_values = values
        self.fill(n_filled)

    def fill(self, n_filled: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Count so many tokens as filled; returns their keys and values."""
        keys = self.all_keys[:, :, :n_filled]
        values = self.all_values[:, :, :n_filled]
        self.keys = keys
        self.values = values
        return keys, values

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        *_args: Any,
        **_options: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens; returns those of all tokens."""
        n_new = key_states.shape[2]
        start = self.get_seq_length()
        stop = start + n_new

        # A full layer moves to where there is room.
        if stop > self.all_keys.shape[2]:
            self.all_keys = _with_room(self.all_keys, n_new + _ROOM)
            self.all_values = _with_room(self.all_values, n_new + _ROOM)

        self.all_keys[:, :, start:stop] = key_states
        self.all_values[:, :, start:stop] = value_states
        return self.fill(stop)

    def take(self, rows: torch.Tensor) -> "_RoomyLayer":
        """The layer of these rows of the batch."""
        return _RoomyLayer(
            self.all_keys[rows],
            self.all_values[rows],
            self.get_seq_length(),
        )


def _with_room(states: torch.Tensor, n_more: int) -> torch.Tensor:
    """The states, and room for so many more."""
    batch, heads, length, width = states.shape
    shape = (batch, heads, length + n_more, width)
    roomy = states.new_empty(shape)
    roomy[:, :, :length] = states
    return roomy


@dataclass
class _Texts:
    """The texts that are still being written, one a row.

    Attributes:
        rows: their numbers in the batch.
        cache: what the network remembers of them.
        can_see: whether their new tokens attend to a place, (B, places); not to padding.
        positions: of their first new tokens, (B, 1): padding does not count.
        has_ended: whether an end token was chosen.
    """

    rows: torch.Tensor
    cache: DynamicCache
    can_see: torch.Tensor
    positions: torch.Tensor
    has_ended: torch.Tensor

    def drop_ended(self) -> torch.Tensor:
        """Take the ended texts out; returns the places of the others."""
        going_on = (~self.has_ended).nonzero().squeeze(1)
        self.rows = self.rows[going_on]
        self.can_see = self.can_see[going_on]
        self.positions = self.positions[going_on]
        self.has_ended = self.has_ended[going_on]
        self.cache.layers = _take_layers(self.cache.layers, going_on)
        return going_on


def _take_layers(layers: Sequence[Any], rows: torch.Tensor) -> list[Any]:
    return [layer.take(rows) for layer in layers]


def decode(
    network: Any,
    input_ids: torch.Tensor,
    *,
    choose: Choose,
    generation_config: Any,
    **inputs: Any,
) -> torch.Tensor:
    """Prompts with what the network appends, padded; a `custom_generate` of transformers.

    Args:
        network: one that `can_decode`.
        input_ids: prompts, padded on the left.
        choose: picks the next tokens.
        generation_config: says how long a text may get, what ends it, and what pads.
        inputs: what else `generate` has prepared; only `attention_mask` is read.
    """
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(input_ids)
    n_rows, width = input_ids.shape
    n_new = generation_config.max_length - width
    end_ids = generation_config._eos_token_tensor
    pad_id = int(generation_config._pad_token_tensor)
    written = input_ids.new_full((n_rows, n_new), pad_id)

    cache, logits = _read_prompts(network, input_ids, mask)
    texts = _Texts(
        rows=torch.arange(n_rows, device=mask.device),
        cache=cache,
        can_see=pad(mask.bool(), (0, n_new), value=True),
        positions=mask.sum(-1, keepdim=True),
        has_ended=torch.zeros_like(mask[:, 0], dtype=torch.bool),
    )

    for step in range(n_new):
        # Ended texts stay for a while; what is chosen for them is dropped.
        tokens = choose(logits, texts.rows, step)
        written[texts.rows, step] = tokens.masked_fill(texts.has_ended, pad_id)
        if end_ids is not None:
            texts.has_ended |= torch.isin(tokens, end_ids)

        # Go on with the others, if there are any.
        n_ended = int(texts.has_ended.sum())
        n_texts = len(tokens)
        if n_ended == n_texts or step + 1 == n_new:
            break
        if n_ended >= _ENDED_SHARE * n_texts:
            tokens = tokens[texts.drop_ended()]

        n_places = width + step + 1
        output = network(
            input_ids=tokens.unsqueeze(1),
            attention_mask=texts.can_see[:, None, None, :n_places],
            position_ids=texts.positions + step,
            past_key_values=texts.cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]

    return torch.cat([input_ids, written], dim=1)


def _read_prompts(
    network: Any,
    input_ids: torch.Tensor,
    mask: torch.Tensor,
) -> tuple[DynamicCache, torch.Tensor]:
    """The caches of all rows after their prompts, and the logits of the tokens that follow."""
    # A prompt that several rows share is read once.
    ids_and_mask = torch.cat([input_ids, mask], dim=1)
    distinct, prompt_of = torch.unique(
        ids_and_mask,
        dim=0,
        return_inverse=True,
    )
    distinct_ids, distinct_mask = distinct.chunk(2, dim=1)
    positions = distinct_mask.cumsum(-1) - 1

    config = network.config.get_text_config()
    output = network(
        input_ids=distinct_ids,
        attention_mask=distinct_mask,
        position_ids=positions.clamp(min=0),
        past_key_values=DynamicCache(config=config),
        use_cache=True,
        logits_to_keep=1,
    )

    # Every row continues a copy of its own.
    cache = output.past_key_values
    n_read = input_ids.shape[1]
    layers = [_RoomyLayer(layer.keys, layer.values, n_read) for layer in cache.layers]
    cache.layers = _take_layers(layers, prompt_of)
    last_logits = output.logits[:, -1]
    return cache, last_logits[prompt_of]
