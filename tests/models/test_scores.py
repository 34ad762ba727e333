"""Per-token numbers against float64, on ordinary and on extreme logits, and the laws they obey."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotlens.models.scores import Head, score_hidden, score_logits

V = 5003  # a prime: no tile or block divides it


def exact(logits, targets, k=0):
    """The same numbers in float64 from the definitions."""
    z = logits.double()
    logp = z.log_softmax(-1)
    p = logp.exp()
    surprise = torch.where(p > 0, -logp, 0.0)
    entropy = (p * surprise).sum(-1)
    own = z.gather(1, targets[:, None])
    return {
        "entropy": entropy,
        "logprob": logp.gather(1, targets[:, None])[:, 0],
        "rank": 1.0 + (z > own).sum(-1),
        "varentropy": (p * surprise.square()).sum(-1) - entropy.square(),
        "top_logprobs": logp.topk(k).values,
    }


def random_head(d=32, seed=0, spread=1.0, dtype=torch.float32, **options):
    torch.manual_seed(seed)
    weight = torch.randn(V, d) * spread / math.sqrt(d)
    return Head(weight.to(dtype), **options)


def check(scores, wanted, atol=1e-5):
    np.testing.assert_allclose(scores.entropy, wanted["entropy"], atol=atol, rtol=0)
    np.testing.assert_allclose(scores.logprob, wanted["logprob"], atol=atol, rtol=1e-6)
    np.testing.assert_allclose(scores.varentropy, wanted["varentropy"], atol=10 * atol, rtol=1e-5)
    assert (scores.entropy >= 0).all()
    assert (scores.entropy <= math.log(V) + 1e-6).all()


@pytest.mark.parametrize("spread", [0.1, 1, 4, 12])
@pytest.mark.parametrize("tile", [64, 1000, 2048, 9999])
def test_random_heads_against_float64(spread, tile):
    head = random_head(spread=spread)
    hidden, targets = torch.randn(300, 32), torch.randint(0, V, (300,))
    logits = hidden.double() @ head.weight.double().T
    wanted = exact(logits, targets, k=20)
    scores = score_hidden(hidden, targets, head, top_k=20, tile=tile)
    check(scores, wanted)
    np.testing.assert_array_equal(scores.rank, wanted["rank"])
    rounding = 1e-5 * max(1, spread / 4)  # of a float32 product: it grows with the logits
    np.testing.assert_allclose(scores.top_logprobs, wanted["top_logprobs"], atol=rounding)
    np.testing.assert_array_equal(scores.top_ids, logits.topk(20).indices)
    np.testing.assert_allclose(scores.top_mass, wanted["top_logprobs"].exp().sum(-1), atol=1e-5)
    np.testing.assert_allclose(
        scores.margin,
        wanted["top_logprobs"][:, 0] - wanted["top_logprobs"][:, 1],
        atol=2 * rounding,
    )


def extreme_logits():
    """Rows that break careless arithmetic; the target of each is word 7."""
    torch.manual_seed(1)
    rows = {
        "flat": torch.zeros(V),
        "flat and far below zero": torch.full((V,), -1e4),
        "peaked on the target": torch.zeros(V).index_fill(0, torch.tensor([7]), 50.0),
        "peaked elsewhere": torch.zeros(V).index_fill(0, torch.tensor([4999]), 1e4),
        "two that tie": torch.full((V,), -1e4).index_fill(0, torch.tensor([7, 4000]), 1e4),
        "ties at the target": torch.randn(V).round(),
        "one-hot": torch.full((V,), -torch.inf).index_fill(0, torch.tensor([7]), 3.0),
        "half masked": torch.randn(V).index_fill(0, torch.arange(2500, V), -torch.inf),
        "first tiles masked": torch.randn(V).index_fill(0, torch.arange(0, 4096), -torch.inf),
        "target masked": torch.randn(V).index_fill(0, torch.tensor([7]), -torch.inf),
        "masked by the least float": torch.randn(V).index_fill(
            0, torch.arange(9, V), torch.finfo(torch.float32).min
        ),
        "rising": torch.linspace(-1e4, 1e4, V),
        "falling": torch.linspace(1e4, -1e4, V),
        "offset up": torch.randn(V) + 100,
        "offset down": torch.randn(V) - 100,
    }
    return rows


@pytest.mark.parametrize("name", extreme_logits())
@pytest.mark.parametrize("tile", [64, 2048])
def test_extreme_logits_against_float64(name, tile):
    logits = extreme_logits()[name][None]
    targets = torch.tensor([7])
    wanted = exact(logits, targets, k=3)
    scores = score_logits(logits, targets, top_k=3, tile=tile)
    check(scores, wanted)
    np.testing.assert_array_equal(scores.rank, wanted["rank"])
    np.testing.assert_allclose(scores.top_logprobs, wanted["top_logprobs"], atol=1e-5, rtol=1e-6)


def test_by_hand():
    """Logits ln(1, 2, 5): p = 1/8, 2/8, 5/8.

    H = 3/8 ln 2 x ... = (1/8) ln 8 + (1/4) ln 4 + (5/8) ln(8/5) = 0.2599302 + 0.3465736 + 0.2937523 = 0.9002561;
    the log-prob of word 1 is -ln 4 and its rank 2; the top two hold 7/8, and lie ln(5/2) apart.
    """
    scores = score_logits(torch.log(torch.tensor([[1.0, 2.0, 5.0]])), torch.tensor([1]), top_k=2)
    assert scores.entropy.item() == pytest.approx(0.9002561, abs=1e-6)
    assert scores.logprob.item() == pytest.approx(-math.log(4), abs=1e-6)
    assert scores.rank.item() == 2
    assert scores.top_ids.tolist() == [[2, 1]]
    assert scores.top_mass.item() == pytest.approx(7 / 8, abs=1e-6)
    assert scores.margin.item() == pytest.approx(math.log(2.5), abs=1e-6)


def test_a_uniform_head_gives_ln_v():
    head = Head(torch.zeros(V, 8))
    scores = score_hidden(torch.randn(5, 8), torch.arange(5), head)
    np.testing.assert_allclose(scores.entropy, math.log(V), atol=1e-5)
    np.testing.assert_allclose(scores.varentropy, 0, atol=1e-4)
    assert scores.rank.tolist() == [1] * 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_scored_in_float32(dtype):
    """The weights are what they are; nothing further is rounded. The bound of the issue, 2e-2, is far away."""
    head = random_head(spread=4, dtype=dtype)
    hidden, targets = torch.randn(100, 32).to(dtype), torch.randint(0, V, (100,))
    wanted = exact(hidden.double() @ head.weight.double().T, targets)
    check(score_hidden(hidden, targets, head), wanted)


def test_bias_scale_softcap_and_temperature_follow_the_model():
    """softcap(scale (hW + b)) / temperature, as Gemma, Cohere and Granite define theirs."""
    head = random_head(spread=6, bias=torch.randn(V), scale=0.25, softcap=3.0)
    hidden, targets = torch.randn(50, 32), torch.randint(0, V, (50,))
    raw = (hidden.double() @ head.weight.double().T + head.bias.double()) * 0.25
    wanted = exact(3.0 * torch.tanh(raw / 3.0) / 0.7, targets)
    check(score_hidden(hidden, targets, head, temperature=0.7), wanted)


def test_masking_by_the_bias():
    bias = torch.zeros(V).index_fill(0, torch.arange(3000, V), -torch.inf)
    head = random_head(bias=bias)
    hidden, targets = torch.randn(20, 32), torch.randint(0, 3000, (20,))
    scores = score_hidden(hidden, targets, head, top_k=5)
    check(scores, exact(hidden.double() @ head.weight.double().T + bias.double(), targets))
    assert (scores.top_ids < 3000).all()


def test_words_that_tie_stand_behind_the_target():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    assert score_logits(logits, torch.tensor([2])).rank.tolist() == [2]


def test_more_top_words_than_there_are():
    scores = score_logits(torch.tensor([[0.0, -torch.inf, 0.0]]), torch.tensor([0]), top_k=5)
    assert scores.top_ids[0, 2:].tolist() == [-1, -1, -1]
    assert scores.top_logprobs[0, 2:].tolist() == [-math.inf] * 3
    assert scores.top_mass.item() == pytest.approx(1)


@pytest.mark.parametrize("row", [torch.full((9,), -torch.inf), torch.full((9,), torch.nan)])
def test_a_row_without_a_distribution_is_nan(row):
    logits = torch.stack([row, torch.zeros(9)])
    scores = score_logits(logits, torch.tensor([0, 0]), top_k=1)
    for name in ("entropy", "logprob", "rank", "varentropy"):
        values = getattr(scores, name)
        assert torch.isnan(values[0]), name
        assert torch.isfinite(values[1]), name


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 700), st.integers(0, 9))
def test_rows_are_independent_and_tiles_change_nothing(n, tile, k):
    torch.manual_seed(n)
    head = Head(torch.randn(613, 8))
    hidden, targets = torch.randn(n, 8), torch.randint(0, 613, (n,))
    whole = score_hidden(hidden, targets, head, top_k=k)
    again = score_hidden(hidden, targets, head, top_k=k, tile=tile)
    for i in range(n):
        alone = score_hidden(hidden[i : i + 1], targets[i : i + 1], head, top_k=k)
        for other, at in ((alone, 0), (again, i)):
            np.testing.assert_allclose(other.entropy[at], whole.entropy[i], atol=1e-5)
            np.testing.assert_allclose(other.logprob[at], whole.logprob[i], atol=1e-5)
            np.testing.assert_allclose(other.top_logprobs[at], whole.top_logprobs[i], atol=1e-5)


def test_kl_in_both_directions_against_float64():
    p_head, q_head = random_head(seed=1, spread=3), random_head(seed=2, spread=5, softcap=10.0)
    hidden, other = torch.randn(80, 32), torch.randn(80, 32)
    targets = torch.randint(0, V, (80,))
    raw = other.double() @ q_head.weight.double().T
    p = (hidden.double() @ p_head.weight.double().T).log_softmax(-1)
    q = (10 * torch.tanh(raw / 10)).log_softmax(-1)
    scores = score_hidden(hidden, targets, p_head, reference=(other, q_head), tile=700)
    np.testing.assert_allclose(scores.kl, (p.exp() * (p - q)).sum(-1), atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(scores.reverse_kl, (q.exp() * (q - p)).sum(-1), atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(scores.reference_entropy, -(q.exp() * q).sum(-1), atol=1e-5)
    np.testing.assert_allclose(
        scores.reference_logprob, q.gather(1, targets[:, None])[:, 0], atol=1e-5
    )
    alone = score_hidden(hidden, targets, p_head)
    np.testing.assert_allclose(scores.entropy, alone.entropy, atol=1e-6)


def test_kl_to_itself_is_zero():
    head, hidden = random_head(spread=3), torch.randn(10, 32)
    scores = score_hidden(hidden, torch.arange(10), head, reference=(hidden, head))
    assert scores.kl.tolist() == scores.reverse_kl.tolist() == [0] * 10


def test_gradients_are_not_kept():
    head = Head(torch.zeros(9, 4, requires_grad=True))
    assert not score_hidden(torch.randn(2, 4), torch.tensor([0, 1]), head).entropy.requires_grad


@pytest.mark.parametrize(
    ("hidden", "targets", "options", "message"),
    [
        (torch.zeros(2, 4), torch.tensor([0]), {}, "expected hidden"),
        (torch.zeros(1, 5), torch.tensor([0]), {}, "expected hidden"),
        (torch.zeros(1, 4), torch.tensor([9]), {}, "the head has 9 words"),
        (torch.zeros(1, 4), torch.tensor([-1]), {}, "the head has 9 words"),
        (torch.zeros(1, 4), torch.tensor([0]), {"temperature": 0}, "temperature"),
        (
            torch.zeros(1, 4),
            torch.tensor([0]),
            {"reference": (torch.zeros(1, 4), Head(torch.zeros(8, 4)))},
            "one vocabulary",
        ),
    ],
)
def test_what_cannot_be_scored_is_said(hidden, targets, options, message):
    with pytest.raises(ValueError, match=message):
        score_hidden(hidden, targets, Head(torch.zeros(9, 4)), **options)


def test_no_token_no_score():
    scores = score_hidden(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), Head(torch.zeros(9, 4)), top_k=3
    )
    assert scores.entropy.shape == (0,)
    assert scores.top_ids.shape == (0, 3)


def test_the_margin_needs_two_words():
    with pytest.raises(ValueError, match="top_k=2"):
        _ = score_logits(torch.zeros(1, 4), torch.tensor([0])).margin


def test_kl_where_the_largest_logit_jumps():
    """p is flat, q has one spike of 300 in a late tile: KL(p || q) = 300 (V-1)/V - ln V + ln(1 + (V-1) e^-300) by definition."""
    p, q = torch.zeros(1, V), torch.zeros(1, V).index_fill(1, torch.tensor([3000]), 300.0)
    scores = score_two(p, q, tile=512)
    wanted = 300 * (V - 1) / V - math.log(V)
    assert scores.kl.item() == pytest.approx(wanted, rel=1e-5)
    assert scores.reverse_kl.item() == pytest.approx(math.log(V), rel=1e-5)


def test_kl_is_infinite_where_only_the_reference_masks_a_word():
    p, q = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, -torch.inf]])
    scores = score_two(p, q)
    assert scores.kl.item() == math.inf
    assert scores.reverse_kl.item() == pytest.approx(math.log(4 / 3), abs=1e-6)
    both = score_two(q, q)
    assert (both.kl.item(), both.reverse_kl.item()) == (0, 0)


def score_two(p, q, **options):
    """Scores of given logits under two models: the bias holds them, and the weights are zero."""
    heads = [Head(torch.zeros(logits.shape[1], 2), bias=logits[0]) for logits in (p, q)]
    hidden = torch.zeros(1, 2)
    return score_hidden(
        hidden, torch.tensor([0]), heads[0], reference=(hidden, heads[1]), **options
    )


def test_words_that_are_masked_are_no_top_words():
    logits = torch.full((1, 1024), -torch.inf)
    logits[0, ::64] = torch.randn(16)
    scores = score_logits(logits, torch.tensor([0]), top_k=20)
    assert scores.top_ids[0, 16:].tolist() == [-1] * 4
    assert (scores.top_ids[0, :16] >= 0).all()


@pytest.mark.parametrize("temperature", [math.nan, math.inf])
def test_a_temperature_is_a_number(temperature):
    with pytest.raises(ValueError, match="finite"):
        score_hidden(
            torch.zeros(1, 4), torch.tensor([0]), Head(torch.zeros(9, 4)), temperature=temperature
        )
