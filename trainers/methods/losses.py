"""Two losses that TRL does not have, as trainers: an anchor to the reference, and pivot contrast.

Both need whole distributions, so they call the network without TRL's fused head, which returns
log-probabilities alone. Their batches hold the logits of every place: keep them small.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from trl.trainer.sft_trainer import SFTTrainer

IGNORED = -100  # label of a token without loss


def forward_kl(reference_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """KL(reference || model) of each place in nats, over all words; (..., V) to (...)."""
    reference = reference_logits.float().log_softmax(-1)
    model = logits.float().log_softmax(-1)
    log_ratio = reference - model
    summands = reference.exp() * log_ratio
    return summands.sum(-1)


def pivot_contrast(
    logits: torch.Tensor, labels: torch.Tensor, safe_id: int, unsafe_id: int
) -> torch.Tensor:
    """The contrast of R2D (arXiv 2502.12970), a scalar.

    It is the mean over places where SAFE is right of -log sigmoid(logit of SAFE - logit of UNSAFE),
    plus the same the other way round. A batch without such places has 0 for that term.

    Args:
        logits: (N, V).
        labels: (N,), the right words.
        safe_id: word of SAFE.
        unsafe_id: word of UNSAFE.
    """
    contrast = logits.new_zeros(())
    for right, wrong in ((safe_id, unsafe_id), (unsafe_id, safe_id)):
        places = labels == right
        if not places.any():
            continue
        pivots = logits[places]
        margins = pivots[:, right] - pivots[:, wrong]
        costs = functional.softplus(-margins)
        contrast = contrast + costs.mean()
    return contrast


def _logits_of(network: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The logits that predict each token but the first: (B, T) ids to (B, T - 1, V)."""
    output = network(
        input_ids=ids,
        attention_mask=mask,
        use_cache=False,
    )
    return output.logits[:, :-1]


def _cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """The sum of the cross-entropies of some places, in nats."""
    chosen = logits[places].float()
    return functional.cross_entropy(chosen, labels[places], reduction="sum")


class _LogitsTrainer(SFTTrainer):
    """SFT whose loss reads the logits of every learned place."""

    columns: tuple[str, ...] = ()  # of the rows, besides ids and labels; one number a row

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.columns:
            self.data_collator = _with_columns(self.data_collator, self.columns)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        missing = [name for name in self.columns if name not in self._signature_columns]
        self._signature_columns = [*self._signature_columns, *missing]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """One token mean over all batches of an update, as TRL's own loss has it."""
        facts = {name: inputs.pop(name) for name in self.columns}
        logits = _logits_of(model, inputs["input_ids"], inputs["attention_mask"])
        labels = inputs["labels"][:, 1:]
        is_learned = labels != IGNORED

        # A batch without a learned token has a loss of 0.
        n_items = num_items_in_batch
        if n_items is None:
            n_items = is_learned.sum()
        n_items = torch.as_tensor(n_items, device=logits.device)
        n_items = n_items.clamp(min=1)

        cost = self.sum_of_tokens(model, inputs, logits, labels, is_learned, facts)
        loss = cost / n_items
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes

        # With a number of items, Trainer leaves the accumulation to the loss: a mean that is no sum
        # over tokens is divided by hand.
        n_batches = 1
        if num_items_in_batch is not None:
            n_batches = self.current_gradient_accumulation_steps
        mean = self.mean_of_batch(logits, labels, is_learned)
        loss = loss + mean / n_batches
        if return_outputs:
            return loss, {"logits": logits}
        return loss

    def sum_of_tokens(
        self,
        model: Any,
        inputs: dict[str, Any],
        logits: torch.Tensor,
        labels: torch.Tensor,
        is_learned: torch.Tensor,
        facts: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """The sum over learned tokens of what each costs: here its cross-entropy."""
        del model, inputs, facts
        return _cross_entropy(logits, labels, is_learned)

    def mean_of_batch(
        self, logits: torch.Tensor, labels: torch.Tensor, is_learned: torch.Tensor
    ) -> torch.Tensor:
        """What a batch costs besides its tokens: here nothing."""
        del labels, is_learned
        return logits.new_zeros(())

    def _note(self, name: str, value: torch.Tensor) -> None:
        """A number for the log."""
        assert self.model is not None
        mode = "train" if self.model.training else "eval"
        self._metrics[mode][name].append(value.detach().float().item())


class AnchoredTrainer(_LogitsTrainer):
    """SFT that only keeps to the reference on rows with `anchor`: ThinkSafe with its KL term.

    A learned token of such a row costs KL(reference || model) over all words; of the others its
    cross-entropy. Together they are one mean over tokens, exact under gradient accumulation:
    (n_ce CE + n_kl KL) / (n_ce + n_kl), as in ThinkSafe (arXiv 2601.23143).

    Args:
        *args: of SFTTrainer.
        reference: the network as it was before training; None under LoRA, where it is the network
            without its adapter.
        **options: of SFTTrainer. Rows have `anchor`, true or false.
    """

    columns = ("anchor",)

    def __init__(self, *args: Any, reference: Any = None, **options: Any) -> None:
        super().__init__(*args, **options)
        has_adapter = hasattr(self.model, "disable_adapter")
        if reference is None and not has_adapter:
            raise ValueError("anchored SFT: give a reference, a copy of the network, or use LoRA")
        self.reference = reference
        if reference is not None:
            assert self.model is not None
            self.reference = reference.to(self.model.device).eval().requires_grad_(False)

    def sum_of_tokens(
        self,
        model: Any,
        inputs: dict[str, Any],
        logits: torch.Tensor,
        labels: torch.Tensor,
        is_learned: torch.Tensor,
        facts: dict[str, torch.Tensor],
    ) -> torch.Tensor:
        """Cross-entropy of plain rows, and divergence of anchored ones."""
        rows = facts["anchor"].bool()
        is_anchored = rows[:, None] & is_learned
        is_plain = is_learned & ~is_anchored
        cost = _cross_entropy(logits, labels, is_plain)
        if not is_anchored.any():
            return cost

        # Only rows with an anchor need the reference.
        ids = inputs["input_ids"][rows]
        mask = inputs["attention_mask"][rows]
        with torch.no_grad(), self._as_reference(model) as reference:
            reference_logits = _logits_of(reference, ids, mask)
        anchored_places = is_learned[rows]
        divergence = forward_kl(reference_logits[anchored_places], logits[is_anchored])
        self._note("anchor_kl", divergence.mean())
        return cost + divergence.sum()

    @contextmanager
    def _as_reference(self, model: Any) -> Iterator[Any]:
        """The reference network."""
        if self.reference is not None:
            yield self.reference
            return
        unwrapped = self.accelerator.unwrap_model(model)
        with unwrapped.disable_adapter():
            yield unwrapped


class PivotTrainer(_LogitsTrainer):
    """SFT with R2D's contrast of the pivots SAFE and UNSAFE where one of them is right.

    Departs from the paper: as its authors' code has it, RETHINK has cross-entropy only, and the two
    means of a batch are added to the mean cross-entropy. Under gradient accumulation the contrast
    is the mean of the batches' contrasts.

    Args:
        *args: of SFTTrainer.
        pivots: words of SAFE and UNSAFE.
        contrast: weight of the contrast; 0 is plain SFT.
        **options: of SFTTrainer.
    """

    def __init__(
        self, *args: Any, pivots: tuple[int, int], contrast: float = 1.0, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.pivots = pivots
        self.contrast = contrast

    def mean_of_batch(
        self, logits: torch.Tensor, labels: torch.Tensor, is_learned: torch.Tensor
    ) -> torch.Tensor:
        """The contrast of the batch, weighted."""
        if not self.contrast:
            return logits.new_zeros(())
        value = pivot_contrast(logits[is_learned].float(), labels[is_learned], *self.pivots)
        self._note("pivot_contrast", value)
        return self.contrast * value


def _with_columns(
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]], names: Sequence[str]
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """A collator that keeps further columns, one number a row."""

    def collate_all(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch = collate(rows)
        for name in names:
            batch[name] = torch.tensor([row[name] for row in rows])
        return batch

    return collate_all
