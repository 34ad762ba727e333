"""sample and continue_trace: one contract, whatever draws the text."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny import TEMPLATE, byte_tokenizer, tiny_model, tiny_tokenizer

from cotlens import Span, Trace, TraceError, continue_trace, sample, score_tokens
from cotlens.formats.prompts import Prompt
from cotlens.models.encode import encode_trace
from cotlens.models.load import load_model, wrap_model
from cotlens.probes import answer_early
from cotlens.trace import Origin

pytestmark = pytest.mark.usefixtures("one_thread")


def make_model(tokenizer=None, **options):
    tokenizer = tokenizer or tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return wrap_model(tiny_model(len(tokenizer), **options), tokenizer, name="tiny")


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint on disk whose generation_config asks for other sampling."""
    folder = tmp_path_factory.mktemp("checkpoint")
    made = make_model(seed=3)
    made.network.generation_config.update(
        do_sample=True, top_k=5, temperature=0.3, repetition_penalty=1.3
    )
    made.network.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def next_distribution(model, ids):
    with torch.inference_mode():
        logits = model.network(torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    return logits.double().softmax(-1).numpy()


def test_a_checkpoint_does_not_shape_what_is_drawn(checkpoint):
    """Frequencies of 2,000 first tokens against the whole softmax at temperature 1."""
    assert checkpoint.network.generation_config.top_k == 5
    traces = sample(checkpoint, ["one wait"], n=2000, max_new_tokens=1)
    p = next_distribution(checkpoint, traces[0].prompt_token_ids)
    counts = np.bincount([trace.token_ids[0] for trace in traces], minlength=len(p))
    assert (counts > 0).sum() > 5

    # Words that are expected fewer than five times count as one.
    often = 2000 * p >= 5
    observed = [*counts[often], counts[~often].sum()]
    expected = [*(2000 * p[often]), 2000 * p[~often].sum()]
    assert chisquare(observed, expected).pvalue > 1e-3


def test_an_early_answer_is_the_argmax(checkpoint):
    """A repetition penalty of 1.3 would answer some cuts otherwise: it is tried, and does."""
    thought = "<think> wait so the answer is one two three "
    trace = Trace(id="a", prompt="one", completion=f"{thought}</think> two")
    cuts = [8, 13, 16, 20, 27, 30, 34, 38]
    answers = answer_early(checkpoint, trace, cuts, max_new_tokens=8)

    n_penalised = 0
    for cut, answer in zip(cuts, answers, strict=True):
        text = f"<|user|> one <|assistant|> {thought[:cut]} </think>"
        ids = checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"]
        greedy = []
        while len(greedy) < 8 and greedy[-1:] != [checkpoint.tokenizer.eos_token_id]:
            greedy.append(int(next_distribution(checkpoint, ids + greedy).argmax()))
        text_ids = [token for token in greedy if token != checkpoint.tokenizer.eos_token_id]
        assert answer == checkpoint.tokenizer.decode(text_ids)

        penalised = checkpoint.network.generate(
            torch.tensor([ids]), do_sample=False, repetition_penalty=1.3, max_new_tokens=8
        )
        n_penalised += penalised[0, len(ids) :].tolist()[: len(greedy)] != greedy
    assert n_penalised > 0


def test_banned_tokens_are_never_drawn_and_the_rest_keeps_its_odds(model):
    free = sample(model, ["one"], n=400, max_new_tokens=1)
    p = next_distribution(model, free[0].prompt_token_ids)
    banned = [int(token) for token in np.argsort(-p)[:3]]
    drawn = sample(model, ["one"], n=400, max_new_tokens=1, banned_ids=banned)
    assert not {trace.token_ids[0] for trace in drawn} & set(banned)

    # Greedy: the likeliest of those that are left.
    (greedy,) = sample(model, ["one"], temperature=0, max_new_tokens=1, banned_ids=banned)
    assert greedy.token_ids[0] == int(np.argsort(-p)[3])


@pytest.mark.parametrize("tokenizer", [tiny_tokenizer, byte_tokenizer])
def test_a_prefill_is_the_beginning_of_the_completion(tokenizer):
    model = make_model(tokenizer())
    traces = sample(model, ["one", "two"], n=2, max_new_tokens=6, prefill=["<think> wait ", "so "])
    assert [trace.completion[:3] for trace in traces] == ["<th", "<th", "so ", "so "]
    for trace, prefill in zip(traces, ["<think> wait "] * 2 + ["so "] * 2, strict=True):
        assert trace.prompt.endswith("<|assistant|> ")
        prompt_text = trace.prompt + prefill
        assert (
            list(trace.prompt_token_ids)
            == model.tokenizer(prompt_text, add_special_tokens=False)["input_ids"]
        )
        assert trace.token_starts[0] == len(prefill)
        assert len(trace.token_starts) == len(trace.token_ids)

    # The ids belong to the text after the prefill: they score as they are.
    for scored in score_tokens(model, traces):
        assert scored.encoding == "ids"
        assert scored.exact
        assert scored.token_starts[0] > 0


def test_samples_depend_on_seed_prompt_and_number_alone(model):
    whole = sample(model, ["one", "two", "one"], n=3, max_new_tokens=8)
    assert len({trace.id for trace in whole}) == 9  # a repeated prompt has samples of its own
    (alone,) = sample(model, ["two"], max_new_tokens=8)
    assert alone.token_ids == whole[3].token_ids
    assert alone.id == whole[3].id
    (other,) = sample(model, ["two"], max_new_tokens=8, seed=1)
    assert other.token_ids != alone.token_ids

    prompt = Prompt("x", [{"role": "user", "content": "one"}], {"prompt_id": "x"}, {}, "x")
    with pytest.raises(TraceError, match="'x' occurs twice"):
        sample(model, [prompt, prompt], max_new_tokens=2)


def test_a_rendered_prompt_is_read_as_it_is(model):
    text = "<|user|> one <|assistant|> <think> "
    prompt = Prompt("x", [], {"prompt_id": "x"}, {}, "x", text)
    (trace,) = sample(model, [prompt], max_new_tokens=3)
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert trace.prompt == text
    assert list(trace.prompt_token_ids) == ids


def test_training_goes_on_as_if_nothing_had_been_sampled(model):
    network = model.network.train()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    sample(model, ["one"], n=2, max_new_tokens=4)
    assert network.training
    assert torch.equal(torch.random.get_rng_state(), before)
    network.eval()


TEXT = "<think> wait so the answer is </think> two"


def test_a_continuation_reads_the_prefix_and_the_insert(model):
    """Greedy, so its tokens are the argmax after prompt, prefix and insert."""
    trace = Trace(id="a", prompt="one", completion=TEXT, domain="math", gold="2")
    cut = TEXT.index("the answer")
    (continued,) = continue_trace(
        model, trace, cut, insert="hmm wait ", temperature=0, max_new_tokens=5
    )
    prefix = "<think> wait so hmm wait "
    assert continued.completion.startswith(prefix)
    assert continued.token_starts[0] == len(prefix)
    ids = model.tokenizer("<|user|> one <|assistant|> " + prefix, add_special_tokens=False)[
        "input_ids"
    ]
    assert list(continued.prompt_token_ids) == ids
    assert continued.token_ids[0] == int(next_distribution(model, ids).argmax())
    assert (continued.domain, continued.gold, continued.prompt_id) == (
        "math", "2", trace.prompt_id,
    )  # fmt: skip
    assert continued.meta["continues"] == {"id": "a", "cut": cut, "insert": "hmm wait "}


def test_a_trace_keeps_its_own_ids_up_to_the_cut():
    """Ids that no encoding of the text would give: the continuation starts from them."""
    tokenizer = byte_tokenizer()
    model = make_model(tokenizer)
    text = "one two three"
    letters = [tokenizer(letter)["input_ids"][0] for letter in text]
    prompt_ids = tokenizer("x")["input_ids"]
    trace = Trace(
        id="a",
        completion=text,
        prompt="x",
        prompt_token_ids=tuple(prompt_ids),
        token_ids=tuple(letters),
        token_starts=tuple(range(len(text))),
    )
    (continued,) = continue_trace(model, trace, 7, max_new_tokens=2)
    assert list(continued.prompt_token_ids) == prompt_ids + letters[:7]
    assert continued.completion.startswith("one two")


@pytest.mark.parametrize("cut", ["<think> wait", "<think> wait so", "<think> wait so hmm two"])
def test_the_prefix_of_a_continuation_is_read_once(model, cut):
    """Its prompt ids hold the prefix too. Before it, at its end, and after it; with the whole prompt before."""
    trace = Trace(
        id="a", prompt="one", completion="<think> wait so hmm two three", finish_reason="stop"
    )
    start = len("<think> wait so")
    before = model.tokenizer("<|user|> one <|assistant|> <think> wait so", add_special_tokens=False)
    ids = model.tokenizer(" hmm two three", add_special_tokens=False)["input_ids"]
    starts = [start, start + len(" hmm"), start + len(" hmm two")]
    continuation = replace(
        trace,
        prompt="<|user|> one <|assistant|> ",
        prompt_token_ids=tuple(before["input_ids"]),
        token_ids=tuple(ids),
        token_starts=tuple(starts),
    )
    (plain,) = continue_trace(model, trace, len(cut), max_new_tokens=3)
    (again,) = continue_trace(model, continuation, len(cut), max_new_tokens=3)
    assert again.prompt_token_ids == plain.prompt_token_ids
    assert again.completion == plain.completion
    assert again.prompt == plain.prompt


def test_a_sample_with_a_prefill_is_continued_as_it_was_written(model):
    """Greedy: from any place the model writes the same again, also when it continues a continuation."""
    options = {"temperature": 0, "max_new_tokens": 9}
    (drawn,) = sample(model, ["one"], prefill="<think> wait so", **options)
    for cut in drawn.token_starts[:4]:
        (continued,) = continue_trace(model, drawn, cut, **options)
        (again,) = continue_trace(model, continued, cut, **options)
        n_before = drawn.token_starts.index(cut)
        written = drawn.token_ids[n_before:]
        assert continued.token_ids[: len(written)] == written
        assert again.token_ids == continued.token_ids


def test_a_cut_trace_of_fields_has_the_tags_that_the_model_reads(model):
    trace = Trace(
        id="a",
        prompt="one",
        completion="wait so two three",
        origin=Origin.FIELDS,
        think=(Span(0, 8),),
        answer=Span(8, 17),
    )
    inside, after = continue_trace(model, trace, [5, 12], temperature=0, max_new_tokens=2)
    assert inside.completion.startswith("<think>\nwait ")
    assert after.completion.startswith("<think>\nwait so \n</think>\n\ntwo ")
    for continued in (inside, after):
        ids = encode_trace(continued, model.tokenizer).ids
        assert ids == continued.prompt_token_ids + continued.token_ids


def test_several_cuts_and_continuations_are_in_order(model):
    trace = Trace(id="a", prompt="one", completion=TEXT)
    continued = continue_trace(model, trace, [8, 13], n=2, max_new_tokens=4)
    assert [one.id for one in continued] == ["a@8/0", "a@8/1", "a@13/0", "a@13/1"]
    assert continue_trace(model, trace, 13, n=2, max_new_tokens=4) == continued[2:]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"cut": 99}, "cut 99 lies outside of its 42 characters"),
        ({"cut": -1}, "lies outside"),
        ({"cut": [1, 2], "insert": ["x"]}, "one for each of the 2 traces to continue; got 1"),
        ({"cut": 8, "max_new_tokens": 61}, "more than the model was made for"),
        ({"cut": 5, "banned_ids": [999]}, "banned token 999"),
        ({"cut": 5, "seed": None}, "give a seed"),
    ],
)
def test_what_cannot_be_continued_is_said_in_one_line(model, options, fault):
    trace = Trace(id="a", prompt="one", completion=TEXT)
    with pytest.raises(TraceError, match=fault) as error:
        continue_trace(model, trace, **{"max_new_tokens": 4} | options)
    assert "\n" not in str(error.value)


def test_one_text_is_no_list_of_prompts(model):
    with pytest.raises(TraceError, match="expected a list of prompts"):
        sample(model, "one", max_new_tokens=2)
    with pytest.raises(TraceError, match="one for each of the 2 prompts; got 1"):
        sample(model, ["one", "two"], prefill=["x"], max_new_tokens=2)
