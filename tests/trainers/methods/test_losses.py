"""The two losses: by hand, at the reference, and under gradient accumulation."""

import copy
import math

import pytest
import torch
from tiny import PAIRS, losses, settings, tiny_tokenizer, trained_model, weights

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from torch.nn import functional
from trl import SFTConfig

from trainers import sft
from trainers.methods.losses import AnchoredTrainer, PivotTrainer, forward_kl, pivot_contrast

pytestmark = pytest.mark.usefixtures("one_thread")

SAFE, UNSAFE = 5, 6  # words of the tiny tokenizer: "one" and "two"


def log(*numbers):
    return torch.tensor(numbers).log()


# --- by hand -------------------------------------------------------------------------------------


def test_the_divergence_is_forward():
    """KL((.5, .5) || (.75, .25)) = .143841; the reverse is .130812."""
    reference, model = log(0.5, 0.5), log(0.75, 0.25)
    assert forward_kl(reference, model).item() == pytest.approx(0.143841, abs=1e-6)
    assert forward_kl(model, reference).item() == pytest.approx(0.130812, abs=1e-6)


def contrast_of(*places):
    """The contrast of places: the right pivot, and the logits of SAFE and UNSAFE there."""
    logits = torch.zeros(len(places), 8)
    labels = torch.tensor([right for right, *_ in places])
    for row, (_, safe, unsafe) in zip(logits, places, strict=True):
        row[SAFE], row[UNSAFE] = safe, unsafe
    return pivot_contrast(logits, labels, SAFE, UNSAFE).item()


def test_the_contrast_by_hand():
    """-log sigmoid(1.5) = .201413; of differences 0 and -1 the mean is 1.003204."""
    safe = (SAFE, 2.0, 0.5)
    unsafe = [(UNSAFE, 1.0, 1.0), (UNSAFE, 1.0, 0.0)]
    assert contrast_of(safe) == pytest.approx(0.201413, abs=1e-6)
    assert contrast_of(*unsafe) == pytest.approx(1.003204, abs=1e-6)
    assert contrast_of(safe, *unsafe) == pytest.approx(1.204618, abs=1e-6)


def test_a_constant_in_all_logits_changes_nothing():
    shifted = [(SAFE, 12.0, 10.5), (UNSAFE, 11.0, 11.0), (UNSAFE, 11.0, 10.0)]
    assert contrast_of(*shifted) == pytest.approx(1.204618, abs=1e-5)


def test_no_pivot_is_no_contrast():
    assert contrast_of((7, 2.0, 0.5)) == 0


# --- through the real trainer --------------------------------------------------------------------

ROWS = [row | {"anchor": number % 2 == 0, "weight": number} for number, row in enumerate(PAIRS[:4])]


def train(tmp_path, rows=ROWS, network=None, config=None, **options):
    network = network or trained_model()
    config = config or {}
    args = settings(
        SFTConfig, tmp_path, **{"max_steps": 1, "per_device_train_batch_size": 4} | config
    )
    trainer = sft.train(network, tiny_tokenizer(), rows, args, **options)
    return network, trainer


def anchored(tmp_path, rows=ROWS, network=None, reference=None, **config):
    network = network or trained_model()
    return train(
        tmp_path,
        rows,
        network,
        config,
        trainer_class=AnchoredTrainer,
        columns=("anchor",),
        reference=reference or copy.deepcopy(network),
    )


def costs(network, reference, rows):
    """Cross-entropy and divergence of each row, summed over its learned tokens, and their number."""
    tokenizer = tiny_tokenizer()
    encoded = sft._encode_all(tokenizer, sft.prepare(tokenizer, rows))
    sums = []
    for row in encoded:
        ids = torch.tensor([row.input_ids])
        labels = torch.tensor(row.labels[1:])
        learned = labels != -100
        with torch.no_grad():
            logits = network(ids).logits[0, :-1][learned]
            reference_logits = reference(ids).logits[0, :-1][learned]
        cross_entropy = functional.cross_entropy(logits, labels[learned], reduction="sum")
        divergence = forward_kl(reference_logits, logits).sum()
        sums.append((cross_entropy.item(), divergence.item(), int(learned.sum())))
    return sums


def test_plain_and_anchored_rows_make_one_token_mean(tmp_path):
    """(n_ce CE + n_kl KL) / (n_ce + n_kl); three tokens of 2.0 and one of .4 are 1.6."""
    assert pytest.approx(1.6) == (3 * 2.0 + 1 * 0.4) / 4

    network, reference = trained_model(seed=0), trained_model(seed=1)
    total = 0.0
    n_tokens = 0
    for row, (cross_entropy, divergence, n) in zip(
        ROWS, costs(network, reference, ROWS), strict=True
    ):
        total += divergence if row["anchor"] else cross_entropy
        n_tokens += n
    _, trainer = anchored(tmp_path, network=network, reference=reference)
    assert losses(trainer)[0] == pytest.approx(total / n_tokens, abs=1e-4)


def test_at_the_reference_an_anchor_costs_nothing_and_moves_nothing(tmp_path):
    rows = [row | {"anchor": True} for row in ROWS]
    network = trained_model()
    before = weights(network)
    _, trainer = anchored(tmp_path, rows, network, optim="sgd", weight_decay=0.0)
    assert losses(trainer)[0] == pytest.approx(0, abs=1e-6)
    for name, value in network.named_parameters():
        assert torch.allclose(before[name], value, atol=1e-6)


@pytest.mark.xfail(strict=True, reason="without the anchor the rows are learned")
def test_without_the_anchor_the_reference_is_left(tmp_path):
    rows = [row | {"anchor": False} for row in ROWS]
    _, trainer = anchored(tmp_path, rows)
    assert losses(trainer)[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["plain", "anchored"])
def test_accumulated_batches_are_one_batch(tmp_path, kind):
    """Four rows at once, and two after two: the same weights after one step of plain descent."""
    after = []
    for size, steps in ((4, 1), (2, 2)):
        config = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": steps,
            "optim": "sgd",
            "learning_rate": 1.0,
            "max_grad_norm": 0.0,
        }
        rows = ROWS if kind == "anchored" else [row | {"anchor": False} for row in ROWS]
        network, _ = anchored(
            tmp_path / str(size), rows, trained_model(), trained_model(seed=1), **config
        )
        after.append(weights(network))
    for name, value in after[0].items():
        assert torch.allclose(value, after[1][name], atol=2e-6), name


def test_plain_rows_cost_what_trl_says(tmp_path):
    rows = [row | {"anchor": False} for row in ROWS]
    _, ours = anchored(tmp_path / "a", rows)
    _, trls = train(tmp_path / "b", rows)
    assert losses(ours)[0] == pytest.approx(losses(trls)[0], abs=1e-4)


def test_under_lora_the_reference_is_the_network_without_its_adapter(tmp_path):
    from peft import LoraConfig

    lora = LoraConfig(r=2, lora_alpha=2, target_modules="all-linear", init_lora_weights=False)
    _, trainer = train(
        tmp_path,
        [row | {"anchor": True} for row in ROWS],
        trainer_class=AnchoredTrainer,
        columns=("anchor",),
        lora=lora,
    )
    assert losses(trainer)[0] > 0.001  # the adapter does not begin at zero


def test_without_a_reference_there_is_nothing_to_anchor_to(tmp_path):
    with pytest.raises(ValueError, match="give a reference"):
        train(tmp_path, trainer_class=AnchoredTrainer, columns=("anchor",))


def pivot_loss(tmp_path, contrast, rows=ROWS, **config):
    _, trainer = train(
        tmp_path,
        rows,
        config=config,
        trainer_class=PivotTrainer,
        pivots=(SAFE, UNSAFE),
        contrast=contrast,
    )
    return losses(trainer)[0]


def test_the_contrast_is_added_to_the_cross_entropy(tmp_path):
    plain = pivot_loss(tmp_path / "a", 0.0)
    once = pivot_loss(tmp_path / "b", 1.0)
    twice = pivot_loss(tmp_path / "c", 2.0)
    assert once > plain
    assert twice - plain == pytest.approx(2 * (once - plain), abs=2e-4)
    assert math.isfinite(twice)


def test_accumulated_contrasts_are_the_mean_of_the_batches(tmp_path):
    parts = []
    for number in (0, 2):
        half = ROWS[number : number + 2]
        config = {"per_device_train_batch_size": 2}
        plain = pivot_loss(tmp_path / f"{number}p", 0.0, half, **config)
        parts.append(pivot_loss(tmp_path / f"{number}c", 1.0, half, **config) - plain)

    config = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    plain = pivot_loss(tmp_path / "p", 0.0, **config)
    whole = pivot_loss(tmp_path / "c", 1.0, **config)
    assert whole - plain == pytest.approx(sum(parts) / 2, abs=2e-3)
