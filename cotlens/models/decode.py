"""Write a batch token by token, with little more work than the network's own.

The loop of transformers copies every cache at each token, builds each mask anew, reads a prompt
once for every sample of it, and goes on with ended texts until the longest one ends. For a small
network on a CPU that is most of the time. `generate` calls this loop in place of its own, for a
network that `can_decode`.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Tokens that a full cache is given room for.
_ROOM = 64

# Texts that have ended are taken out of the batch once they are this share of it: that copies the
# caches of the others.
_ENDED_SHARE = 0.15

# From logits, the numbers of their rows in the batch, and the number of the new token, to token
# ids.
Choose = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def can_decode(network: Any) -> bool:
    """Whether `decode` knows all that the network needs: each token attends to all before it.

    Sliding windows, recurrent states, encoders, and kernels of attention that take no mask are left
    to transformers.
    """
    config = network.config.get_text_config()
    takes_masks = getattr(network, "_supports_attention_backend", False)
    is_usual = takes_masks and config._attn_implementation == "sdpa"
    if network.config.is_encoder_decoder or not is_usual:
        return False

    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return kinds == {DynamicLayer}


class _RoomyLayer(DynamicLayer):
    """Keys and values of one layer of the network, with room for those of further tokens.

    `keys` and `values`, which transformers reads, are the filled part of `_all_keys` and
    `_all_values`.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, n_filled: int) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self._all_keys = keys
        self._all_values = values
        self._fill(n_filled)

    def _fill(self, n_filled: int) -> None:
        self.keys = self._all_keys[:, :, :n_filled]
        self.values = self._all_values[:, :, :n_filled]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the states of new tokens; returns those of all tokens."""
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        if stop > self._all_keys.shape[2]:
            self._all_keys = _with_room(self.keys, stop - start + _ROOM)
            self._all_values = _with_room(self.values, stop - start + _ROOM)

        self._all_keys[:, :, start:stop] = key_states
        self._all_values[:, :, start:stop] = value_states
        self._fill(stop)
        return self.keys, self.values

    def take(self, rows: torch.Tensor) -> "_RoomyLayer":
        """The layer of these rows of the batch."""
        keys = self._all_keys[rows]
        values = self._all_values[rows]
        return _RoomyLayer(keys, values, self.get_seq_length())


def _with_room(states: torch.Tensor, n_more: int) -> torch.Tensor:
    """The states of all tokens, and so many more that are not set."""
    batch, heads, length, width = states.shape
    roomy = states.new_empty((batch, heads, length + n_more, width))
    roomy[:, :, :length] = states
    return roomy


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
    n_rows, width = input_ids.shape
    n_new = generation_config.max_length - width
    ends = generation_config._eos_token_tensor
    pad_id = int(generation_config._pad_token_tensor)
    written = input_ids.new_full((n_rows, n_new), pad_id)

    # A padded token is never attended to. Positions count the others.
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(input_ids)
    can_see = torch.nn.functional.pad(mask.bool(), (0, n_new), value=True)
    positions = mask.sum(-1, keepdim=True)

    cache, logits = _read_prompts(network, input_ids, mask)
    rows = torch.arange(n_rows, device=input_ids.device)
    has_ended = torch.zeros_like(rows, dtype=torch.bool)

    for step in range(n_new):
        # Rows that have ended stay for a while; what is chosen for them is dropped.
        tokens = choose(logits, rows, step)
        written[rows, step] = tokens.masked_fill(has_ended, pad_id)
        if ends is not None:
            has_ended |= torch.isin(tokens, ends)

        n_ended = int(has_ended.sum())
        if n_ended == len(rows) or step + 1 == n_new:
            break

        if n_ended >= _ENDED_SHARE * len(rows):
            going_on = (~has_ended).nonzero().squeeze(1)
            rows = rows[going_on]
            tokens = tokens[going_on]
            positions = positions[going_on]
            can_see = can_see[going_on]
            has_ended = has_ended[going_on]
            cache.layers = [layer.take(going_on) for layer in cache.layers]

        output = network(
            input_ids=tokens.unsqueeze(1),
            attention_mask=can_see[:, None, None, : width + step + 1],
            position_ids=positions + step,
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1]

    return torch.cat([input_ids, written], dim=1)


def _read_prompts(
    network: Any, input_ids: torch.Tensor, mask: torch.Tensor
) -> tuple[DynamicCache, torch.Tensor]:
    """The caches of all rows after their prompts, and the logits of the tokens that follow."""
    # A prompt that several rows share is read once.
    rows = torch.cat([input_ids, mask], dim=1)
    distinct, prompt_of = torch.unique(rows, dim=0, return_inverse=True)
    distinct_ids, distinct_mask = distinct.chunk(2, dim=1)

    positions = distinct_mask.cumsum(-1) - 1
    output = network(
        input_ids=distinct_ids,
        attention_mask=distinct_mask,
        position_ids=positions.clamp(min=0),
        past_key_values=DynamicCache(config=network.config.get_text_config()),
        use_cache=True,
        logits_to_keep=1,
    )

    cache = output.past_key_values
    n_read = input_ids.shape[1]
    read_layers = [_RoomyLayer(layer.keys, layer.values, n_read) for layer in cache.layers]
    cache.layers = [layer.take(prompt_of) for layer in read_layers]
    return cache, output.logits[prompt_of, -1]
