"""Train a small network on a CPU without computing what the loss does not read.

TRL pads a batch to its longest text and, on a CPU, sends every position through the head: those of
prompts and padding too. Of the batches of short texts that is more than half. `train_by_length`
computes the same log-probabilities in groups of like length, and only where there is a label.
"""

import functools
from typing import Any, NamedTuple

import torch
from trl.trainer.utils import FusedCausalLMOutput

from cotlens.models.batches import batches

# Padded tokens of a group: few enough for its states to stay in a core's cache.
GROUP_TOKENS = 1024

# More logits than that at once are left to TRL, which computes them in pieces.
MOST_LOGITS = 2**25

# What the head of some models does to logits, by the names in their configurations.
_CHANGES_OF_LOGITS = (
    "final_logit_softcapping",
    "logit_scale",
    "output_multiplier",
    "lm_head_multiplier",
    "logits_scaling",
)


def train_by_length(network: Any, *, temperature: float = 1.0) -> None:
    """Let the forward that TRL's loss is made of work in groups of like length.

    All else that the network is asked for is as before. The entropy has no gradient: not for a loss
    with a bonus for entropy.

    Args:
        network: a network that a trainer of TRL has been given.
        temperature: the logits are divided by it.
    """
    config = network.config.get_text_config()
    if any(getattr(config, name, None) is not None for name in _CHANGES_OF_LOGITS):
        return

    whole = network.forward

    @functools.wraps(whole)
    def forward(*args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return whole(*args, **inputs)
        if args or not _is_plain(inputs, config.vocab_size):
            return whole(*args, fused_lm_head=True, **inputs)
        return _score(network, temperature, **inputs)

    network.forward = forward


def _is_plain(inputs: dict[str, Any], n_words: int) -> bool:
    """Whether a batch is ids, mask and labels, and its logits are few."""
    usual = {"input_ids", "attention_mask", "labels", "use_cache"}
    needed = {"input_ids", "attention_mask", "labels"}
    if not needed <= set(inputs) <= usual:
        return False
    n_labels = int((inputs["labels"][:, 1:] != -100).sum())
    return 0 < n_labels * n_words <= MOST_LOGITS


class _Scores(NamedTuple):
    """Of the tokens with a label, in one group: where they are, and what is known of them."""

    rows: torch.Tensor
    columns: torch.Tensor
    log_probs: torch.Tensor
    entropy: torch.Tensor
    is_top1: torch.Tensor


def _score(
    network: Any,
    temperature: float,
    *,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    use_cache: bool = False,
) -> FusedCausalLMOutput:
    """What TRL's own forward returns, computed group by group."""
    lengths = attention_mask.sum(-1).tolist()
    groups = []
    for numbers in batches(lengths, GROUP_TOKENS):
        rows = torch.tensor(numbers, device=input_ids.device)
        groups.append(_score_group(network, temperature, rows, input_ids, attention_mask, labels))

    # Put the values of all groups where their tokens are; the others are 0.
    label_mask = labels[:, 1:] != -100
    joined = _Scores(*map(torch.cat, zip(*groups, strict=True)))
    places = (joined.rows, joined.columns)

    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(label_mask.shape).index_put(places, values)

    log_probs = spread(joined.log_probs)
    return FusedCausalLMOutput(
        loss=-log_probs.sum() / label_mask.sum(),
        log_probs=log_probs,
        entropy=spread(joined.entropy),
        is_top1=spread(joined.is_top1),
        label_mask=label_mask,
    )


def _score_group(
    network: Any,
    temperature: float,
    rows: torch.Tensor,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
) -> _Scores:
    """The scores of these rows of the batch."""
    # Columns that are padding in all of these rows are left out.
    used = attention_mask[rows].any(0).nonzero()
    first = int(used[0])
    stop = int(used[-1]) + 1
    mask = attention_mask[rows, first:stop]
    group_labels = labels[rows, first + 1 : stop]

    output = network.base_model(
        input_ids=input_ids[rows, first:stop],
        attention_mask=mask,
        use_cache=False,
    )

    # The state at a token predicts the next one.
    group_rows, group_columns = (group_labels != -100).nonzero(as_tuple=True)
    states = output.last_hidden_state[group_rows, group_columns]
    targets = group_labels[group_rows, group_columns]

    logits = network.get_output_embeddings()(states).float() / temperature
    log_probs = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -torch.linalg.vecdot(log_probs.exp(), log_probs)
        is_top1 = log_probs.argmax(-1) == targets

    return _Scores(
        rows=rows[group_rows],
        columns=group_columns + first,
        log_probs=log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1),
        entropy=entropy,
        is_top1=is_top1,
    )
