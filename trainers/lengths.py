"""Train a small network on a CPU without computing what the loss does not read.

TRL pads a batch to its longest text and, on a CPU, sends every position through the head: those of
prompts and padding too. Of batches of short texts that is a third to a half. `train_by_length`
computes the same log-probabilities in groups of like length, and only where there is a label.
"""

import functools
from typing import Any, NamedTuple

import torch
from trl.trainer.utils import FusedCausalLMOutput

from cotlens.models.batches import batches

IGNORED = -100  # label of a token without loss

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
    for name in _CHANGES_OF_LOGITS:
        if getattr(config, name, None) is not None:
            return

    forward_of_trl = network.forward

    # `generate` reads the signature, which `wraps` keeps.
    @functools.wraps(forward_of_trl)
    def forward(*args: Any, **inputs: Any) -> Any:
        batch = _read_batch(inputs, config.vocab_size)
        if args or batch is None:
            return forward_of_trl(*args, **inputs)
        return _score(network, temperature, batch)

    network.forward = forward


class _Batch(NamedTuple):
    """Texts with padding around them, each tensor (B, T)."""

    ids: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor


def _read_batch(inputs: dict[str, Any], n_words: int) -> _Batch | None:
    """The batch of a loss; None if it is another call, or needs more than ids, mask and labels."""
    needed = {"input_ids", "attention_mask", "labels", "fused_lm_head"}
    names = set(inputs)
    if not needed <= names <= needed | {"use_cache"}:
        return None

    # A few logits, of which TRL makes no pieces.
    batch = _Batch(inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
    n_labels = int((batch.labels[:, 1:] != IGNORED).sum())
    n_logits = n_labels * n_words
    if not 0 < n_logits <= MOST_LOGITS:
        return None

    # Each text is whole: its mask changes where padding ends or begins, and nowhere else.
    n_changes = batch.mask.diff(dim=1).abs().sum(-1)
    edges = batch.mask[:, [0, -1]]
    n_padded_edges = (edges == 0).sum(-1)
    if not torch.equal(n_changes, n_padded_edges):
        return None
    return batch


class _Scores(NamedTuple):
    """Of the tokens with a label, in one group: where they are, and what is known of them."""

    rows: torch.Tensor
    columns: torch.Tensor
    log_probs: torch.Tensor
    entropy: torch.Tensor
    is_top1: torch.Tensor


def _score(network: Any, temperature: float, batch: _Batch) -> FusedCausalLMOutput:
    """What TRL's own forward returns, computed group by group."""
    lengths = batch.mask.sum(-1)
    groups = []
    for numbers in batches(lengths.tolist(), GROUP_TOKENS):
        rows = torch.tensor(numbers, device=lengths.device)
        scores = _score_group(network, temperature, batch, rows)
        groups.append(scores)

    # Put the values of all groups where their tokens are; the others are 0.
    label_mask = batch.labels[:, 1:] != IGNORED
    columns_of_values = zip(*groups, strict=True)
    joined = _Scores(*map(torch.cat, columns_of_values))
    places = (joined.rows, joined.columns)

    def spread(values: torch.Tensor) -> torch.Tensor:
        zeros = values.new_zeros(label_mask.shape)
        return zeros.index_put(places, values)

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
    batch: _Batch,
    rows: torch.Tensor,
) -> _Scores:
    """The scores of these rows of the batch."""
    # Every text begins in the first column. No token of it sees the padding that follows it: there
    # is no need of a mask.
    mask = batch.mask[rows]
    starts = mask.argmax(-1, keepdim=True)
    lengths = mask.sum(-1, keepdim=True)
    offsets = torch.arange(int(lengths.max()), device=rows.device)
    is_padding = offsets >= lengths
    columns = starts + offsets
    columns = columns.masked_fill(is_padding, 0)

    # The state at a token predicts the next one.
    ids = batch.ids[rows].gather(1, columns)
    labels = batch.labels[rows].gather(1, columns)
    labels = labels.masked_fill(is_padding, IGNORED)[:, 1:]
    output = network.base_model(input_ids=ids, use_cache=False)

    # Only states with a label go through the head.
    group_rows, places = (labels != IGNORED).nonzero(as_tuple=True)
    states = output.last_hidden_state[group_rows, places]
    targets = labels[group_rows, places]
    head = network.get_output_embeddings()
    logits = head(states).float() / temperature

    log_probs = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -torch.linalg.vecdot(log_probs.exp(), log_probs)
        is_top1 = log_probs.argmax(-1) == targets
    chosen = log_probs.gather(-1, targets.unsqueeze(-1))
    return _Scores(
        rows=rows[group_rows],
        columns=columns[group_rows, places],
        log_probs=chosen.squeeze(-1),
        entropy=entropy,
        is_top1=is_top1,
    )
