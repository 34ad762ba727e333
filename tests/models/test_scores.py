"""Numbers per token against float64, on ordinary and on extreme logits, and the laws they obey."""

import math
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from cotlens.models.scores import Head, score_hidden, score_logits

V = 5003  # a prime: no tile or block divides it


def exact(logits, targets, k=0):
    """The same numbers in float64, from their definitions."""
    logits = logits.double()
    logp = logits.log_softmax(-1)
    p = logp.exp()

    surprise = torch.where(p > 0, -logp, 0.0)
    entropy = (p * surprise).sum(-1)
    mean_square = (p * surprise.square()).sum(-1)
    target_logits = logits.gather(1, targets[:, None])
    target_logp = logp.gather(1, targets[:, None])
    return {
        "entropy": entropy,
        "logprob": target_logp[:, 0],
        "rank": 1.0 + (logits > target_logits).sum(-1),
        "varentropy": mean_square - entropy.square(),
        "top_logprobs": logp.topk(k).values,
    }


def random_head(d=32, seed=0, spread=1.0, dtype=torch.float32, **options):
    torch.manual_seed(seed)
    weight = torch.randn(V, d) * spread / math.sqrt(d)
    return Head(weight.to(dtype), **options)


def logits_of(hidden, head):
    """The product of hidden states and a head in float64."""
    return hidden.double() @ head.weight.double().T


def check(scores, expected, atol=1e-5):
    assert_allclose(scores.entropy, expected["entropy"], atol=atol, rtol=0)
    assert_allclose(scores.logprob, expected["logprob"], atol=atol, rtol=1e-6)
    assert_allclose(scores.varentropy, expected["varentropy"], atol=10 * atol, rtol=1e-5)
    assert (scores.entropy >= 0).all()
    assert (scores.entropy <= math.log(V) + 1e-6).all()


@contextmanager
def tiles_of(n_words):
    """Read the vocabulary in tiles of another size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cotlens.models.scores.TILE_WORDS", n_words)
        yield


@pytest.mark.parametrize("spread", [0.1, 1, 4, 12])
@pytest.mark.parametrize("tile", [64, 1000, 2048, 9999])
def test_random_heads_against_float64(spread, tile):
    head = random_head(spread=spread)
    hidden = torch.randn(300, 32)
    targets = torch.randint(0, V, (300,))
    logits = logits_of(hidden, head)
    expected = exact(logits, targets, k=20)

    with tiles_of(tile):
        scores = score_hidden(hidden, targets, head, top_k=20)
    check(scores, expected)
    assert_array_equal(scores.rank, expected["rank"])

    # The rounding of a float32 product grows with the logits.
    top_logprobs = expected["top_logprobs"]
    rounding = 1e-5 * max(1, spread / 4)
    assert_allclose(scores.top_logprobs, top_logprobs, atol=rounding)
    assert_array_equal(scores.top_ids, logits.topk(20).indices)
    assert_allclose(scores.top_mass, top_logprobs.exp().sum(-1), atol=1e-5)
    margin = top_logprobs[:, 0] - top_logprobs[:, 1]
    assert_allclose(scores.margin, margin, atol=2 * rounding)


def extreme_logits():
    """Rows that break careless arithmetic; the target of each is word 7."""
    torch.manual_seed(1)

    def set_words(row, words, value):
        return row.index_fill(0, torch.as_tensor(words), value)

    least = torch.finfo(torch.float32).min
    far_below_zero = torch.full((V,), -1e4)
    return {
        "flat": torch.zeros(V),
        "flat and far below zero": torch.full((V,), -1e4),
        "peaked on the target": set_words(torch.zeros(V), [7], 50.0),
        "peaked elsewhere": set_words(torch.zeros(V), [4999], 1e4),
        "two that tie": set_words(far_below_zero, [7, 4000], 1e4),
        "ties at the target": torch.randn(V).round(),
        "one-hot": set_words(torch.full((V,), -torch.inf), [7], 3.0),
        "half masked": set_words(torch.randn(V), torch.arange(2500, V), -torch.inf),
        "first tiles masked": set_words(torch.randn(V), torch.arange(0, 4096), -torch.inf),
        "target masked": set_words(torch.randn(V), [7], -torch.inf),
        "masked by the least float": set_words(torch.randn(V), torch.arange(9, V), least),
        "rising": torch.linspace(-1e4, 1e4, V),
        "falling": torch.linspace(1e4, -1e4, V),
        "offset up": torch.randn(V) + 100,
        "offset down": torch.randn(V) - 100,
    }


@pytest.mark.parametrize("name", extreme_logits())
@pytest.mark.parametrize("tile", [64, 2048])
def test_extreme_logits_against_float64(name, tile):
    logits = extreme_logits()[name][None]
    targets = torch.tensor([7])
    expected = exact(logits, targets, k=3)

    with tiles_of(tile):
        scores = score_logits(logits, targets, top_k=3)
    check(scores, expected)
    assert_array_equal(scores.rank, expected["rank"])
    assert_allclose(
        scores.top_logprobs,
        expected["top_logprobs"],
        atol=1e-5,
        rtol=1e-6,
    )


def test_by_hand():
    """Logits ln(1, 2, 5): p = 1/8, 2/8, 5/8.

    H = (1/8) ln 8 + (1/4) ln 4 + (5/8) ln(8/5) = 0.2599302 + 0.3465736 + 0.2937523 = 0.9002561. The
    log-prob of word 1 is -ln 4 and its rank 2. The top two hold 7/8 and differ by ln(5/2).
    """
    logits = torch.log(torch.tensor([[1.0, 2.0, 5.0]]))
    scores = score_logits(logits, torch.tensor([1]), top_k=2)
    assert scores.entropy.item() == pytest.approx(0.9002561, abs=1e-6)
    assert scores.logprob.item() == pytest.approx(-math.log(4), abs=1e-6)
    assert scores.rank.item() == 2
    assert scores.top_ids.tolist() == [[2, 1]]
    assert scores.top_mass.item() == pytest.approx(7 / 8, abs=1e-6)
    assert scores.margin.item() == pytest.approx(math.log(2.5), abs=1e-6)


def test_a_uniform_head_gives_ln_v():
    head = Head(torch.zeros(V, 8))
    scores = score_hidden(torch.randn(5, 8), torch.arange(5), head)
    assert_allclose(scores.entropy, math.log(V), atol=1e-5)
    assert_allclose(scores.varentropy, 0, atol=1e-4)
    assert scores.rank.tolist() == [1] * 5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_are_scored_in_float32(dtype):
    """The weights are used as they are, and nothing further is rounded."""
    head = random_head(spread=4, dtype=dtype)
    hidden = torch.randn(100, 32).to(dtype)
    targets = torch.randint(0, V, (100,))
    expected = exact(logits_of(hidden, head), targets)
    check(score_hidden(hidden, targets, head), expected)


def test_bias_scale_softcap_and_temperature_follow_the_model():
    """softcap(scale (hW + b)) / temperature, as Gemma, Cohere and Granite define theirs."""
    head = random_head(spread=6, bias=torch.randn(V), scale=0.25, softcap=3.0)
    hidden = torch.randn(50, 32)
    targets = torch.randint(0, V, (50,))

    scaled = (logits_of(hidden, head) + head.bias.double()) * 0.25
    capped = 3.0 * torch.tanh(scaled / 3.0)
    expected = exact(capped / 0.7, targets)
    check(score_hidden(hidden, targets, head, temperature=0.7), expected)


def test_masking_by_the_bias():
    bias = torch.zeros(V).index_fill(0, torch.arange(3000, V), -torch.inf)
    head = random_head(bias=bias)
    hidden = torch.randn(20, 32)
    targets = torch.randint(0, 3000, (20,))
    scores = score_hidden(hidden, targets, head, top_k=5)
    check(scores, exact(logits_of(hidden, head) + bias.double(), targets))
    assert (scores.top_ids < 3000).all()


def test_words_that_tie_rank_after_the_target():
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    assert score_logits(logits, torch.tensor([2])).rank.tolist() == [2]


def test_more_top_words_than_there_are():
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    scores = score_logits(logits, torch.tensor([0]), top_k=5)
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
    hidden = torch.randn(n, 8)
    targets = torch.randint(0, 613, (n,))
    whole = score_hidden(hidden, targets, head, top_k=k)
    with tiles_of(tile):
        tiled = score_hidden(hidden, targets, head, top_k=k)

    for i in range(n):
        alone = score_hidden(hidden[i : i + 1], targets[i : i + 1], head, top_k=k)
        for other, row in ((alone, 0), (tiled, i)):
            for name in ("entropy", "logprob", "top_logprobs"):
                values = getattr(other, name)[row]
                assert_allclose(values, getattr(whole, name)[i], atol=1e-5)


def test_kl_in_both_directions_against_float64():
    p_head = random_head(seed=1, spread=3)
    q_head = random_head(seed=2, spread=5, softcap=10.0)
    p_hidden = torch.randn(80, 32)
    q_hidden = torch.randn(80, 32)
    targets = torch.randint(0, V, (80,))

    q_logits = 10 * torch.tanh(logits_of(q_hidden, q_head) / 10)
    p = logits_of(p_hidden, p_head).log_softmax(-1)
    q = q_logits.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    reverse_kl = (q.exp() * (q - p)).sum(-1)
    q_entropy = -(q.exp() * q).sum(-1)
    q_logprob = q.gather(1, targets[:, None])[:, 0]

    with tiles_of(700):
        scores = score_hidden(p_hidden, targets, p_head, reference=(q_hidden, q_head))
    assert_allclose(scores.kl, kl, atol=2e-5, rtol=1e-5)
    assert_allclose(scores.reverse_kl, reverse_kl, atol=2e-5, rtol=1e-5)
    assert_allclose(scores.reference_entropy, q_entropy, atol=1e-5)
    assert_allclose(scores.reference_logprob, q_logprob, atol=1e-5)

    # The reference does not change the model's own numbers.
    alone = score_hidden(p_hidden, targets, p_head)
    assert_allclose(scores.entropy, alone.entropy, atol=1e-6)


def test_kl_to_itself_is_zero():
    head = random_head(spread=3)
    hidden = torch.randn(10, 32)
    scores = score_hidden(hidden, torch.arange(10), head, reference=(hidden, head))
    assert scores.kl.tolist() == scores.reverse_kl.tolist() == [0] * 10


def test_gradients_are_not_kept():
    head = Head(torch.zeros(9, 4, requires_grad=True))
    scores = score_hidden(torch.randn(2, 4), torch.tensor([0, 1]), head)
    assert not scores.entropy.requires_grad


OTHER_VOCABULARY = (torch.zeros(1, 4), Head(torch.zeros(8, 4)))
BAD_INPUT = [
    (torch.zeros(2, 4), [0], {}, "expected hidden"),
    (torch.zeros(1, 5), [0], {}, "expected hidden"),
    (torch.zeros(1, 4), [9], {}, "the head has 9 words"),
    (torch.zeros(1, 4), [-1], {}, "the head has 9 words"),
    (torch.zeros(1, 4), [0], {"temperature": 0}, "temperature"),
    (torch.zeros(1, 4), [0], {"reference": OTHER_VOCABULARY}, "one vocabulary"),
]


@pytest.mark.parametrize(("hidden", "targets", "options", "message"), BAD_INPUT)
def test_bad_input_is_refused(hidden, targets, options, message):
    head = Head(torch.zeros(9, 4))
    with pytest.raises(ValueError, match=message):
        score_hidden(hidden, torch.tensor(targets), head, **options)


def test_no_token_no_score():
    hidden = torch.zeros(0, 4)
    targets = torch.zeros(0, dtype=torch.long)
    scores = score_hidden(hidden, targets, Head(torch.zeros(9, 4)), top_k=3)
    assert scores.entropy.shape == (0,)
    assert scores.top_ids.shape == (0, 3)


def test_the_margin_needs_two_words():
    with pytest.raises(ValueError, match="top_k=2"):
        _ = score_logits(torch.zeros(1, 4), torch.tensor([0])).margin


def score_two(p_logits, q_logits):
    """Scores of given logits under two models: the bias holds them, and the weights are zero."""
    hidden = torch.zeros(1, 2)
    n_words = p_logits.shape[1]
    p_head, q_head = (
        Head(torch.zeros(n_words, 2), bias=logits[0]) for logits in (p_logits, q_logits)
    )
    return score_hidden(hidden, torch.tensor([0]), p_head, reference=(hidden, q_head))


def test_kl_where_the_largest_logit_jumps():
    """p is flat, and q has one spike of 300 in a late tile.

    KL(p || q) = 300 (V-1)/V - ln V + ln(1 + (V-1) e^-300), by definition.
    """
    p = torch.zeros(1, V)
    q = torch.zeros(1, V).index_fill(1, torch.tensor([3000]), 300.0)
    with tiles_of(512):
        scores = score_two(p, q)
    expected = 300 * (V - 1) / V - math.log(V)
    assert scores.kl.item() == pytest.approx(expected, rel=1e-5)
    assert scores.reverse_kl.item() == pytest.approx(math.log(V), rel=1e-5)


def test_kl_is_infinite_where_only_the_reference_masks_a_word():
    p = torch.zeros(1, 4)
    q = torch.tensor([[0.0, 0.0, 0.0, -torch.inf]])
    scores = score_two(p, q)
    assert scores.kl.item() == math.inf
    assert scores.reverse_kl.item() == pytest.approx(math.log(4 / 3), abs=1e-6)

    both_mask = score_two(q, q)
    assert (both_mask.kl.item(), both_mask.reverse_kl.item()) == (0, 0)


def test_masked_words_are_not_among_the_top_words():
    logits = torch.full((1, 1024), -torch.inf)
    logits[0, ::64] = torch.randn(16)
    scores = score_logits(logits, torch.tensor([0]), top_k=20)
    assert scores.top_ids[0, 16:].tolist() == [-1] * 4
    assert (scores.top_ids[0, :16] >= 0).all()


@pytest.mark.parametrize("temperature", [math.nan, math.inf])
def test_a_temperature_must_be_finite(temperature):
    head = Head(torch.zeros(9, 4))
    with pytest.raises(ValueError, match="finite"):
        score_hidden(torch.zeros(1, 4), torch.tensor([0]), head, temperature=temperature)
