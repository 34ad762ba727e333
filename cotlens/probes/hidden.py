"""Hidden states of prompts: what does a model hold when it has read a request, before it thinks?

torch is imported where it is used.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotlens.formats.prompts import Prompt, as_prompts
from cotlens.models.sample import as_engine, check_template, render_job
from cotlens.trace import TraceError

if TYPE_CHECKING:
    from cotlens.models.load import Model

_Prompts = Sequence[str | Sequence[Mapping[str, Any]] | Prompt]
_States = NDArray[np.float32]

TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}


class _Rendered(NamedTuple):
    """A prompt as the model reads it.

    Attributes:
        number: of the prompt in the call, from 0.
        place: of the prompt, for messages.
        ids: its token ids.
    """

    number: int
    place: str
    ids: Sequence[int]


def prompt_states(
    model: "Model",
    prompts: _Prompts,
    *,
    layer: int = -1,
    max_tokens: int = 512,
    template_args: Mapping[str, Any] | None = None,
    tokens_per_batch: int | None = None,
) -> _States:
    """Hidden state of the last token of each rendered prompt, (prompts, hidden size).

    The last token is the last of the chat template's opening of the model's turn: after it the
    model begins to write. The measure is that of CoG (arXiv 2510.21285), which reads the last layer
    with thinking off: give `template_args={"enable_thinking": False}` where the template has such a
    switch.

    `layer` counts as the `hidden_states` of transformers do, for a network of L blocks: 0 is the
    embedding; k < L is the sum of the residual stream after block k, without any norm; L or -1 is
    the output of the last block **after the network's final norm**, the `last_hidden_state` that
    the output head reads. The last block without the norm is not to be had. So states of -1 and -2
    differ by a norm too, and their lengths cannot be compared.

    Prompts are computed side by side, those of like length together, padded after their last token,
    which a causal model never sees: the batch changes nothing but rounding, whatever side the
    tokenizer pads on.

    Departs from the paper: a prompt of more than `max_tokens` is refused, not cut. A cut one would
    end in the middle of the request, and its state would be one of another place.

    Args:
        model: a loaded model with a tokenizer.
        prompts: as in `sample`; the state of a prompt does not depend on the others.
        layer: from 0 to L, or from -1 down to -(L + 1).
        max_tokens: longest rendered prompt, in tokens.
        template_args: variables of the chat template.
        tokens_per_batch: padded tokens that are computed together; halved when memory runs out.

    Raises:
        TraceError: for a prompt that the model cannot read, that has no token or more than
            `max_tokens`, or whose state is not finite; it names the prompt. For a layer that the
            model does not have.
    """
    from cotlens.models.batches import in_batches

    if max_tokens < 1:
        raise TraceError(f"max_tokens must be 1 or more, got {max_tokens}")
    layer = _count_from_embedding(model, layer)
    rendered = _render(model, prompts, max_tokens, template_args)

    size = model.head.weight.shape[1]
    states = np.zeros((len(rendered), size), np.float32)
    default_budget = TOKENS_PER_BATCH.get(model.device.type, TOKENS_PER_BATCH["cpu"])
    batches = in_batches(
        rendered,
        lengths=[len(prompt.ids) for prompt in rendered],
        budget=tokens_per_batch or default_budget,
        work=partial(_read_batch, model, layer),
        alone=model.sees_length,
    )

    # Batches come longest first.
    for batch, batch_states in batches:
        if batch_states is None:
            first = batch[0]
            raise TraceError(f"{first.place}: {len(first.ids):,} tokens do not fit into memory")
        _check_finite(model, batch, batch_states)
        numbers = [prompt.number for prompt in batch]
        states[numbers] = batch_states
    return states


def _n_blocks(model: "Model") -> int:
    config = model.network.config.get_text_config()
    return int(config.num_hidden_layers)


def _count_from_embedding(model: "Model", layer: int) -> int:
    """The number of a layer, 0 or above."""
    n_blocks = _n_blocks(model)
    number = layer
    if layer < 0:
        number += n_blocks + 1

    if not 0 <= number <= n_blocks:
        raise TraceError(
            f"{model.name}: there is no layer {layer}; expected 0 (the embedding) to {n_blocks} "
            f"(the last), or -1 (the last) to {-n_blocks - 1}"
        )
    return number


def _render(
    model: "Model",
    prompts: _Prompts,
    max_tokens: int,
    template_args: Mapping[str, Any] | None,
) -> list[_Rendered]:
    """The prompts as token ids, none of them empty or too long."""
    engine = as_engine(model)
    check_template(engine, template_args)
    longest = min(max_tokens, model.context)

    rendered = []
    for number, prompt in enumerate(as_prompts(prompts)):
        job = render_job(engine, prompt, "", template_args or {})
        n_tokens = len(job.ids)
        if n_tokens == 0:
            raise TraceError(f"{prompt.place}: the prompt has no token, so there is no last one")
        if n_tokens > longest:
            raise TraceError(
                f"{prompt.place}: the prompt has {n_tokens:,} tokens as the model reads it, "
                f"expected at most {longest:,}; leave it out, or raise max_tokens (up to the "
                f"model's {model.context:,})"
            )
        rendered.append(_Rendered(number, prompt.place, job.ids))
    return rendered


def _read_batch(model: "Model", layer: int, batch: Sequence[_Rendered]) -> _States:
    """States of the last tokens of a batch, (B, d)."""
    import torch

    # Pad on the right: in a causal model no token sees the padding.
    n_tokens = [len(prompt.ids) for prompt in batch]
    longest = max(n_tokens)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, prompt in enumerate(batch):
        prompt_ids = torch.tensor(prompt.ids)
        ids[row, : n_tokens[row]] = prompt_ids
    ids = ids.to(model.device)

    with torch.inference_mode():
        hidden = _states_of_layer(model, layer, ids)
        rows = torch.arange(len(batch))
        last = torch.tensor(n_tokens) - 1
        states = hidden[rows.to(hidden.device), last.to(hidden.device)]
        return states.float().cpu().numpy()


def _states_of_layer(model: "Model", layer: int, ids: Any) -> Any:
    """Hidden states (B, L, d) of a layer, counted from the embedding."""
    # The last needs no list of all layers, which takes memory.
    if layer == _n_blocks(model):
        return model.hidden(ids)
    output = model.network.base_model(
        input_ids=ids,
        use_cache=False,
        output_hidden_states=True,
    )
    return output.hidden_states[layer]


def _check_finite(model: "Model", batch: Sequence[_Rendered], states: _States) -> None:
    """Raise TraceError if a state overflowed, as one may in 16 bits."""
    is_finite = np.isfinite(states).all(axis=1)
    if is_finite.all():
        return
    first = int(is_finite.argmin())
    dtype = str(model.head.weight.dtype).removeprefix("torch.")
    raise TraceError(
        f"{batch[first].place}: its hidden state is not finite in {dtype}; "
        "load the model with another dtype"
    )
