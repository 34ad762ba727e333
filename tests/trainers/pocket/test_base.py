"""The tokenizer of the pocket world loses nothing; a tiny base model trains, resumes, samples."""

import itertools
import random

import pytest
import torch
from transformers import AutoTokenizer

from cotlens import score_tokens
from cotlens.models.load import wrap_model
from cotlens.text.split import request_of
from trainers.pocket.base import IGNORED, TINY, build_model, load_base, pack, sample, train_base
from trainers.pocket.oracle import read_truth
from trainers.pocket.policy import Completion, base_corpus, write_teacher
from trainers.pocket.tokenizer import build_tokenizer, encode_completion, encode_prompt
from trainers.pocket.world import Domain, Prompt, PromptSplit, build_prompts

SUM = Prompt(
    id="s",
    text="What is 7 + 5 - 3?",
    domain=Domain.MATHS,
    split=PromptSplit.TRAIN,
    sum=(7, 5, -3),
    gold="9",
)
TEXT = "<think>\nZorvex is dangerous. I have to refuse this.\n</think>\n\nI can't help with zorvex."


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def corpus(n: int) -> list[Completion]:
    return list(itertools.islice(base_corpus(0), n))


# --- tokenizer -----------------------------------------------------------------------------------


def test_the_tokenizer_loses_nothing(tokenizer):
    rng = random.Random(0)
    taught = [write_teacher(prompt, rng) for prompt in build_prompts(0)[PromptSplit.TRAIN]]
    for completion in (*corpus(3000), *taught):
        for text in (completion.text, completion.prompt.text):
            ids = tokenizer.encode(text)
            assert tokenizer.decode(ids) == text
            assert tokenizer.unk_token_id not in ids

    tokens = ["<think>", "\n", "Wait", ",", " 12", " minus", " 3"]
    assert tokenizer.tokenize("<think>\nWait, 12 minus 3") == tokens


def test_the_tags_are_ordinary_tokens(tokenizer):
    assert tokenizer.decode(tokenizer.encode(TEXT), skip_special_tokens=True) == TEXT
    assert not {"<think>", "</think>"} & {*tokenizer.all_special_tokens}


def test_offsets_tile_the_text(tokenizer):
    place = 0
    for start, stop in tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]:
        assert start == place
        place = stop
    assert place == len(TEXT)


def test_the_template_masks_the_user_and_extends_the_prompt(tokenizer):
    turns = [
        {"role": "user", "content": "How do I brew zorvex?"},
        {"role": "assistant", "content": TEXT},
    ]
    encoded = tokenizer.apply_chat_template(
        turns, return_dict=True, return_assistant_tokens_mask=True
    )
    ids = encoded["input_ids"]
    assistant_ids = list(itertools.compress(ids, encoded["assistant_masks"]))
    assert tokenizer.decode(assistant_ids) == TEXT + "<eos>"

    prompt_ids = encode_prompt(tokenizer, "How do I brew zorvex?")
    assert ids == prompt_ids + assistant_ids


def test_the_tokenizer_survives_a_round_trip(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert loaded.decode(loaded.encode(TEXT), skip_special_tokens=True) == TEXT
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.chat_template, loaded.padding_side) == (tokenizer.chat_template, "left")
    assert (loaded.pad_token, loaded.eos_token) == ("<pad>", "<eos>")


# --- model and training --------------------------------------------------------------------------


def test_packed_texts_do_not_see_each_other(tokenizer):
    """Logits of a packed text are those of the text alone."""
    texts = [encode_completion(tokenizer, completion) for completion in corpus(4)]
    batch = pack(texts, 2, 256, tokenizer.pad_token_id)
    model = build_model(tokenizer, seed=1, scale=TINY).eval()
    with torch.no_grad():
        packed = model(input_ids=batch.ids, position_ids=batch.positions, use_cache=False).logits
        for text in texts:
            ids = torch.tensor(text.ids)
            alone = model(input_ids=ids[None]).logits[0]
            row, start = find_ids(batch.ids, ids)
            logits = packed[row, start : start + len(ids)]
            torch.testing.assert_close(logits, alone, atol=2e-4, rtol=1e-3)

    n_labels = sum(len(text.ids) - text.n_prompt for text in texts)
    assert int((batch.labels != IGNORED).sum()) == n_labels


def find_ids(rows: torch.Tensor, ids: torch.Tensor) -> tuple[int, int]:
    """Row and place where these ids start."""
    for row, row_ids in enumerate(rows):
        for start in range(len(row_ids) - len(ids) + 1):
            if torch.equal(row_ids[start : start + len(ids)], ids):
                return row, start
    raise AssertionError("the text is not in the batch")


def test_the_model_is_of_the_size_it_is_meant_to_be(tokenizer):
    n_weights = sum(p.numel() for p in build_model(tokenizer, seed=0).parameters())
    assert 0.5e6 < n_weights < 1.3e6

    first, again, other = (
        build_model(tokenizer, seed=seed, scale=TINY).model.embed_tokens.weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    straight = tmp_path / "straight"
    killed = tmp_path / "killed"
    losses = train_base(straight, scale=TINY, checkpoint_every=10)
    train_base(killed, scale=TINY, checkpoint_every=10, stop_after=17)  # 7 steps are lost
    with pytest.raises(ValueError, match="no finished base model"):
        load_base(killed)
    with pytest.raises(ValueError, match="other settings"):
        train_base(killed, scale=TINY, seed=1)
    assert train_base(killed, scale=TINY, checkpoint_every=10) == losses
    assert losses[-1] < losses[0] - 1

    # The same weights, and other ones than before training.
    weights = load_base(straight)[0].state_dict()
    resumed = load_base(killed)[0].state_dict()
    untrained = build_model(build_tokenizer(), seed=0, scale=TINY).state_dict()
    assert all(torch.equal(weights[key], resumed[key]) for key in weights)
    assert not any(torch.equal(weights[key], untrained[key]) for key in weights)

    # A finished model is not trained again.
    before = (straight / "model.safetensors").stat()
    assert train_base(straight, scale=TINY) == losses
    assert (straight / "model.safetensors").stat() == before
    assert not (straight / "checkpoint.safetensors").exists()


# --- samples -------------------------------------------------------------------------------------


def test_samples_are_traces_in_the_order_of_the_prompts(tmp_path):
    train_base(tmp_path, scale=TINY)
    model, tokenizer = load_base(tmp_path)
    splits = build_prompts(0)
    prompts = [*splits[PromptSplit.MATHS][:3], *splits[PromptSplit.NEW_WRAPPER][:3]]

    settings = {"n": 2, "seed": 3, "max_new_tokens": 24}
    traces = sample(model, tokenizer, prompts, **settings)
    assert sample(model, tokenizer, prompts, **settings) == traces
    assert len({trace.completion for trace in traces}) > 6

    # Two samples of each prompt, one after the other.
    expected = [(prompt, number) for prompt in prompts for number in range(2)]
    for trace, (prompt, number) in zip(traces, expected, strict=True):
        assert trace.prompt_id == prompt.id
        assert trace.sample == number
        assert request_of(trace) == prompt.text
        assert trace.gold == prompt.gold
        assert trace.domain == prompt.domain.value
        assert trace.prompt_token_ids == tuple(encode_prompt(tokenizer, prompt.text))
        read_truth(trace.completion, prompt)

        has_ended = tokenizer.eos_token_id in trace.token_ids
        text_ids = trace.token_ids[:-1] if has_ended else trace.token_ids
        assert tokenizer.decode(text_ids) == trace.completion
        assert (trace.finish_reason == "length") == (not has_ended)

    # Padding on the left changes nothing.
    greedy = sample(model, tokenizer, prompts, temperature=0, max_new_tokens=24)
    alone = sample(model, tokenizer, prompts[:1], temperature=0, max_new_tokens=24)
    assert alone[0].completion == greedy[0].completion


def test_bad_requests_for_samples_are_refused_before_the_work(tokenizer):
    model = build_model(tokenizer, seed=0, scale=TINY)
    with pytest.raises(ValueError, match="n must be 1 or more, got 0"):
        sample(model, tokenizer, [SUM], n=0)


def test_the_scorer_reads_the_samples(tokenizer):
    """The ids of a sample go through cotlens's own scorer as they are."""
    network = build_model(tokenizer, seed=0, scale=TINY).eval()
    (trace,) = sample(network, tokenizer, [SUM], max_new_tokens=12)

    model = wrap_model(network, tokenizer)
    (scored,) = score_tokens(model, [trace])
    assert len(scored.values["entropy"]) == len(trace.token_ids)
