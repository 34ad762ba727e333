"""A model is asked about its tokens: alignment, windows, memory, and what goes wrong."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from tiny import tiny_model

from cotlens import Trace, TraceError, score_tokens
from cotlens.models.load import wrap_model
from cotlens.models.scores import score_hidden

ARCHITECTURES = [
    "Llama", "Qwen2", "Qwen3", "Qwen3Moe", "Gemma2", "Gemma3Text", "Mistral", "Phi3", "GPT2",
    "GptOss", "Cohere", "Granite",
]  # fmt: skip
V = 101


def make_trace(n, seed=0, prompt=5, **fields):
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, V, prompt + n).tolist()
    return Trace(
        id=f"t{seed}-{n}",
        completion="x" * n,
        prompt_token_ids=tuple(ids[:prompt]),
        token_ids=tuple(ids[prompt:]),
        **fields,
    )


def ids_of(trace):
    return [*trace.prompt_token_ids, *trace.token_ids]


@torch.inference_mode()
def loop(network, before, own):
    """Entropy, log-prob and rank of each token from the model's own logits, in float64.

    The model reads one growing prefix at a time.
    """
    rows = []
    for i, token in enumerate(own):
        prefix = [*before, *own[:i]]
        if not prefix:
            rows.append((np.nan, np.nan, np.nan))
            continue
        output = network(input_ids=torch.tensor([prefix]), use_cache=False)
        logp = output.logits[0, -1].double().log_softmax(-1)
        entropy = -(logp.exp() * logp).sum()
        n_above = (logp > logp[token]).sum()
        rows.append((float(entropy), float(logp[token]), 1 + int(n_above)))
    return np.array(rows).T


def assert_equals_loop(scored, network, before, own):
    entropy, logprob, rank = loop(network, before, own)
    assert_allclose(scored.values["entropy"], entropy, atol=2e-5)
    assert_allclose(scored.values["logprob"], logprob, atol=2e-5)
    assert_array_equal(scored.values["rank"], rank)
    assert scored.token_ids == tuple(own)


# --- alignment -----------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_equals_the_loop(architecture):
    """Entry i is the distribution that token i was drawn from, also in a batch of mixed lengths."""
    network = tiny_model(V, architecture)
    traces = [make_trace(n, seed) for seed, n in enumerate((17, 3, 12, 1))]
    results = score_tokens(wrap_model(network), traces)
    for trace, scored in zip(traces, results, strict=True):
        assert_equals_loop(scored, network, trace.prompt_token_ids, trace.token_ids)
        assert scored.encoding == "ids"


def test_sampled_tokens_have_the_probability_they_were_drawn_with():
    """Tokens that transformers generates, against the log-probs that it reports for them."""
    network = tiny_model(V)
    torch.manual_seed(5)
    start = torch.tensor([[5, 6, 7]])
    output = network.generate(
        start,
        attention_mask=torch.ones_like(start),
        do_sample=True,
        top_k=0,
        max_new_tokens=20,
        eos_token_id=None,
        return_dict_in_generate=True,
        output_logits=True,
    )
    own = output.sequences[0, 3:]
    expected = []
    for step, token in zip(output.logits, own, strict=True):
        logp = step[0].log_softmax(-1)
        expected.append(float(logp[token]))

    trace = Trace(id="g", completion="x", prompt_token_ids=(5, 6, 7), token_ids=tuple(own.tolist()))
    (scored,) = score_tokens(wrap_model(network), [trace])
    assert_allclose(scored.values["logprob"], expected, atol=2e-5)


def test_log_probs_add_up_to_the_models_own_loss():
    network = tiny_model(V)
    trace = make_trace(20, prompt=1)
    ids = torch.tensor([ids_of(trace)])
    (scored,) = score_tokens(wrap_model(network), [trace])
    loss = network(input_ids=ids, labels=ids).loss.item()
    assert -scored.values["logprob"].mean() == pytest.approx(loss, abs=1e-5)


def test_a_first_token_without_context_is_unscored():
    network = tiny_model(V)
    trace = make_trace(6, prompt=0)
    (scored,) = score_tokens(wrap_model(network), [trace])
    assert_equals_loop(scored, network, (), trace.token_ids)
    assert np.isnan(scored.values["entropy"][0])
    assert np.isfinite(scored.values["entropy"][1:]).all()


def test_left_padding_gives_what_right_padding_gives():
    """cotlens pads on the right; states padded on the left, with mask and positions, agree."""
    network = tiny_model(V)
    model = wrap_model(network)
    traces = [make_trace(9, 1), make_trace(4, 2)]
    rows = [ids_of(trace) for trace in traces]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    with torch.inference_mode():
        output = network.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            use_cache=False,
        )

    results = score_tokens(model, traces)
    for i, (trace, scored) in enumerate(zip(traces, results, strict=True)):
        first = width - len(trace.token_ids) - 1
        hidden = output.last_hidden_state[i, first : width - 1]
        expected = score_hidden(hidden, torch.tensor(trace.token_ids), model.head)
        assert_allclose(scored.values["entropy"], expected.entropy, atol=1e-5)


def test_batch_order_and_budget_change_nothing():
    model = wrap_model(tiny_model(V))
    traces = [make_trace(n, n) for n in (30, 2, 17, 17, 5, 40, 1)]
    whole = score_tokens(model, traces, top_k=3)
    alone = score_tokens(model, traces, top_k=3, tokens_per_batch=1)
    backwards = score_tokens(model, traces[::-1], top_k=3, tokens_per_batch=60)
    for other in (alone, backwards[::-1]):
        for a, b in zip(whole, other, strict=True):
            assert a.trace_id == b.trace_id
            for name in a.values:
                assert_allclose(a.values[name], b.values[name], atol=1e-5)


def test_a_prefix_has_the_prefix_of_the_scores():
    model = wrap_model(tiny_model(V))
    trace = make_trace(30)
    prefix = Trace(
        id="p",
        completion="x" * 12,
        prompt_token_ids=trace.prompt_token_ids,
        token_ids=trace.token_ids[:12],
    )
    whole, part = score_tokens(model, [trace, prefix])
    assert_allclose(whole.values["entropy"][:12], part.values["entropy"], atol=1e-5)


# --- a reference ---------------------------------------------------------------------------------


def test_a_second_checkpoint_gives_kl_in_both_directions():
    p_network = tiny_model(V, seed=1)
    q_network = tiny_model(V, seed=2)
    trace = make_trace(10)
    (scored,) = score_tokens(wrap_model(p_network), [trace], reference=wrap_model(q_network))

    ids = torch.tensor([ids_of(trace)])
    with torch.inference_mode():
        p, q = (
            network(input_ids=ids).logits[0, 4:-1].double().log_softmax(-1)
            for network in (p_network, q_network)
        )
    kl = (p.exp() * (p - q)).sum(-1)
    reverse_kl = (q.exp() * (q - p)).sum(-1)
    q_entropy = -(q.exp() * q).sum(-1)
    assert_allclose(scored.values["kl"], kl, atol=2e-5)
    assert_allclose(scored.values["reverse_kl"], reverse_kl, atol=2e-5)
    assert_allclose(scored.values["reference_entropy"], q_entropy, atol=2e-5)


def test_two_checkpoints_must_share_their_words():
    model = wrap_model(tiny_model(V))
    reference = wrap_model(tiny_model(V + 1))
    with pytest.raises(TraceError, match="one vocabulary"):
        score_tokens(model, [make_trace(3)], reference=reference)


def test_the_shorter_context_of_two_models_counts():
    model = wrap_model(tiny_model(V, max_position_embeddings=64))
    reference = wrap_model(tiny_model(V, max_position_embeddings=16))
    with pytest.raises(TraceError, match="made for 16"):
        score_tokens(model, [make_trace(20)], reference=reference)
    (scored,) = score_tokens(model, [make_trace(20)], reference=reference, long="window")
    assert scored.windowed


# --- text ----------------------------------------------------------------------------------------


def test_text_goes_through_the_chat_template_once(model):
    """The prompt is rendered, the completion follows, and each token knows where it begins."""
    trace = Trace(id="a", prompt="one two", completion="<think> wait so </think> three")
    (scored,) = score_tokens(model, [trace])
    tokenizer = model.tokenizer
    before = tokenizer("<|user|> one two <|assistant|>", add_special_tokens=False).input_ids
    own = tokenizer(trace.completion, add_special_tokens=False).input_ids
    assert_equals_loop(scored, model.network, before, own)
    assert scored.encoding == "text"
    assert scored.n_drift == 0

    starts = [*scored.token_starts, len(trace.completion)]
    words = [trace.completion[a:b].strip() for a, b in pairwise(starts)]
    assert words == ["<think>", "wait", "so", "</think>", "three"]


def test_ids_of_another_tokenizer_can_be_set_aside(model):
    """A checkpoint of another family scores the text; its ids are not the trace's."""
    ids = {"prompt_token_ids": (1,), "token_ids": (90, 91, 92)}
    trace = Trace(id="a", prompt="one", completion="wait so", **ids)
    (scored,) = score_tokens(model, [trace], retokenize=True)
    (text,) = score_tokens(model, [Trace(id="a", prompt="one", completion="wait so")])
    assert scored.encoding == "text"
    assert scored.token_ids == text.token_ids
    assert_array_equal(scored.values["entropy"], text.values["entropy"])


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({"prompt": "one"}, "template"),
        ({"prompt": "<|user|> one <|assistant|>"}, "verbatim"),
        ({}, "none"),
        ({"prompt_token_ids": (5,)}, "ids"),
    ],
)
def test_scores_name_where_the_context_comes_from(model, fields, context):
    trace = Trace(id="a", completion="two three", **fields)
    (scored,) = score_tokens(model, [trace])
    assert scored.context == context


# --- windows and memory --------------------------------------------------------------------------


def test_a_trace_longer_than_the_context():
    """Context 64, overlap a half: the first window has 64 ids, each further one 32 new ones."""
    network = tiny_model(V)
    model = wrap_model(network)
    trace = make_trace(150, prompt=10)
    message = "160 tokens with its prompt, but the model was made for 64"
    with pytest.raises(TraceError, match=message):
        score_tokens(model, [trace])

    scored, short = score_tokens(model, [trace, make_trace(20)], long="window")
    assert scored.windowed
    assert not short.windowed
    ids = ids_of(trace)
    for at in (10, 63, 64, 95, 96, 128, 159):
        start = 0 if at < 64 else (at // 32 - 1) * 32
        entropy, _, _ = loop(network, ids[start:at], ids[at : at + 1])
        assert scored.values["entropy"][at - 10] == pytest.approx(entropy[0], abs=2e-5), at


def test_memory_that_runs_out_halves_the_budget(monkeypatch):
    """A device that holds 40 padded tokens: larger groups are halved until they fit."""
    model = wrap_model(tiny_model(V))
    forward = model.network.base_model.forward
    sizes = []

    def small(input_ids, **options):
        sizes.append(input_ids.numel())
        if input_ids.numel() > 40:
            raise torch.OutOfMemoryError("out of memory")
        return forward(input_ids, **options)

    traces = [make_trace(n, n) for n in (10, 12, 3, 4, 20, 8)]
    expected = score_tokens(model, traces)
    monkeypatch.setattr(model.network.base_model, "forward", small)
    for a, b in zip(expected, score_tokens(model, traces), strict=True):
        assert_allclose(a.values["entropy"], b.values["entropy"], atol=1e-5)
    assert max(sizes) > 40 >= min(sizes)

    # A trace that does not fit even alone is marked, and the next one is scored.
    traces = [make_trace(50, 1), make_trace(5, 2)]
    large, small_trace = score_tokens(model, traces, on_error="skip")
    assert "do not fit into memory" in large.error
    assert np.isnan(large.values["entropy"]).all()
    assert not small_trace.error


def test_positions_that_depend_on_the_batch_are_scored_alone():
    """LongRoPE has other factors for long inputs, so a short trace must not see a long neighbour."""
    rope = {
        "rope_type": "longrope",
        "short_factor": [1.0] * 4,
        "long_factor": [9.0] * 4,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 16,
    }
    network = tiny_model(V, "Phi3", rope_parameters=rope, original_max_position_embeddings=16)
    model = wrap_model(network)
    assert model.sees_length

    short = make_trace(8, 1)
    (alone,) = score_tokens(model, [short])
    together, _ = score_tokens(model, [short, make_trace(40, 2)])
    assert_allclose(alone.values["entropy"], together.values["entropy"], atol=1e-6)


# --- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("completion", "prompt_ids", "ids", "message"),
    [
        ("x", (1,), (5, 99_999), "token id 99,999 is not among"),
        ("x", (-1,), (5,), "token id -1 is not among"),
        ("quite another text", (1,), (5, 6), "belong to another tokenizer"),
    ],
)
def test_a_bad_trace_stops_or_is_marked(model, completion, prompt_ids, ids, message):
    bad = Trace(id="a", completion=completion, prompt_token_ids=prompt_ids, token_ids=ids)
    with pytest.raises(TraceError, match=message):
        score_tokens(model, [bad])

    good = Trace(id="b", prompt="one", completion="two")
    marked, scored = score_tokens(model, [bad, good], on_error="skip")
    assert message in marked.error
    assert np.isnan(marked.values["entropy"]).all()
    assert len(marked.values["entropy"]) == len(bad.token_ids)
    assert np.isfinite(scored.values["entropy"]).all()


def test_an_empty_completion_is_marked_and_stops_nothing(model):
    (scored,) = score_tokens(model, [Trace(id="a", prompt="one", completion="")])
    assert scored.error == "the completion has no token"
    assert scored.values["entropy"].shape == (0,)


def test_text_without_a_tokenizer():
    with pytest.raises(TraceError, match="without a tokenizer"):
        score_tokens(wrap_model(tiny_model(V)), [Trace(id="a", completion="x")])


def test_a_model_that_breaks_down_on_one_text():
    """One word's embedding is not a number: traces that hold it are marked, others are scored."""
    network = tiny_model(V)
    model = wrap_model(network)
    with torch.no_grad():
        network.get_input_embeddings().weight[7] = torch.nan
    bad = Trace(id="bad", completion="x", prompt_token_ids=(5,), token_ids=(6, 7, 8))
    good = Trace(id="good", completion="x", prompt_token_ids=(5,), token_ids=(6, 8))
    with pytest.raises(TraceError, match="'bad': the logits for token"):
        score_tokens(model, [good, bad])

    good_scored, bad_scored = score_tokens(model, [good, bad], on_error="skip")
    assert not good_scored.error
    assert bad_scored.error


@pytest.mark.parametrize(("option", "value"), [("long", "foo"), ("on_error", "foo")])
def test_options_are_checked(model, option, value):
    with pytest.raises(ValueError, match="expected"):
        score_tokens(model, [], **{option: value})
