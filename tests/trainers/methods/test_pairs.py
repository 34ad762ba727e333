"""Pairs that are cut at a step: where, what carries loss in TRL's own trainer, and the loss by hand."""

import math

import pytest
from tiny import byte_tokenizer, settings, tiny_model, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

import torch
from trl.trainer.dpo_config import DPOConfig

from cotlens import Trace, TraceError
from trainers import dpo
from trainers.bars import quiet
from trainers.methods.pairs import Pair, describe_lengths, pair_rows

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "<|user|> one <|assistant|>\n"


def words():
    """A tokenizer whose tokens are words and blanks with the word after them, as in Qwen."""
    text = f"{PROMPT}<think>They ask. It is old. Sure. Stop.</think> No."
    return byte_tokenizer([text] * 3, size=400)


# --- the cut -----------------------------------------------------------------------------------


def pair_of(*, cut, before="They ask. It is old.", chosen=" Stop.", rejected=" Sure."):
    texts = {"chosen": f"<think>{before}{chosen}", "rejected": f"<think>{before}{rejected}"}
    traces = {}
    for name, completion in texts.items():
        traces[name] = Trace(id=name, prompt=PROMPT, completion=completion, finish_reason="stop")
    return Pair(**traces, cut=cut, step=2)


def test_a_cut_inside_a_token_moves_back_to_the_end_of_an_earlier_step():
    """The cut after the blank splits " Stop" and " Sure"."""
    good = len("<think>They ask. It is old.")
    for cut in (good, good + 1):
        made = pair_rows(words(), [pair_of(cut=cut)])
        (row,) = made.rows
        assert row["prompt"] == f"{PROMPT}<think>They ask. It is old."
        assert row["chosen"] == " Stop."
        assert made.counts["moved"] == (cut != good)
        assert row["h"] == 2
        dpo.prepare(_with_pad(words()), [row], rendered=True)  # which refuses other borders


def test_without_any_border_there_is_no_pair():
    """A tokenizer to which every text is one token."""

    class One:
        bos_token = None

        def __call__(self, text, **_):
            return {"input_ids": [hash(text)]}

    made = pair_rows(One(), [pair_of(cut=len("<think>They ask."))])
    assert (made.rows, made.counts["no_border"]) == ([], 1)


def test_pairs_that_differ_before_their_cut_are_an_error():
    pair = pair_of(cut=len("<think>They ask. It is old. S"))
    pair_rows(words(), [pair])
    with pytest.raises(TraceError, match="same up to the cut"):
        pair_rows(words(), [pair._replace(cut=pair.cut + 1)])


def test_equal_completions_are_no_pair():
    made = pair_rows(words(), [pair_of(cut=7, chosen=" Sure.")])
    assert made.counts["same"] == 1


def test_lengths_count_the_end_of_both_sides():
    tokenizer = tiny_tokenizer()
    pair = pair_of(cut=0, before="one two three", chosen=" so </think> five", rejected=" hmm")
    made = pair_rows(tokenizer, [pair._replace(cut=len("<think>one"))])
    (row,) = made.rows
    n_words = [len(row[name].split()) for name in ("chosen", "rejected")]
    assert [row["n_chosen"], row["n_rejected"]] == [n_words[0] + 1, n_words[1] + 1]
    assert describe_lengths(made.rows).endswith("the rejected side is the longer one in 0")
    assert describe_lengths([]) == "pairs: none"


def _with_pad(tokenizer):
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


# --- the loss, through TRL's own trainer ---------------------------------------------------------

# The thought is cut after its first step; "so" and the end are all that the chosen side writes.
ROWS = [
    {
        "prompt": f"{PROMPT}<think> one two",
        "chosen": " so so so",
        "rejected": " so so",
    }
] * 2


def trainer_of(path, network, rows=ROWS, **options):
    """TRL's trainer as `dpo.train` sets it up; its one step has no rate."""
    config = settings(DPOConfig, path, max_steps=1, beta=0.1, learning_rate=0.0, **options)
    return dpo.train(network, tiny_tokenizer(), rows, config, rendered=True)


def batch_of(trainer):
    return next(iter(trainer.get_train_dataloader()))


def first_loss(trainer):
    return trainer.state.log_history[0]["loss"]


def even_model(nll):
    """A model for which "so" and the end each have -log p = `nll` everywhere."""
    network = tiny_model(18, tie_word_embeddings=False)
    with torch.no_grad():
        network.get_input_embeddings().weight.fill_(1.0)
        states = network.model(torch.tensor([[4, 5]])).last_hidden_state
        assert torch.allclose(states[0, 0], states[0, 1], atol=1e-5)
        state = states[0, 0]

        # p = e^a / (2 e^a + 16): two words have the logit a, the others 0.
        share = math.exp(-nll)
        logit = math.log(16 * share / (1 - 2 * share))
        head = network.get_output_embeddings().weight.zero_()
        ids = tiny_tokenizer().convert_tokens_to_ids(["so", "<eos>"])
        head[ids] = logit * state / state.square().sum()
    return network


def test_the_loss_of_the_reference_itself_is_ln_2(tmp_path):
    trainer = trainer_of(tmp_path, trained_model())
    assert first_loss(trainer) == pytest.approx(0.693147, abs=1e-6)


def loss_of_ratios(trainer, chosen, rejected):
    """The loss where the policy's log-ratios to the reference are these."""
    inputs = batch_of(trainer)
    model = trainer.model.eval()
    with quiet():
        own = trainer.compute_ref_log_probs(model, inputs)
    inputs["ref_chosen_logps"] = own[0] - chosen
    inputs["ref_rejected_logps"] = own[1] - rejected
    trainer.precompute_ref_logps = True
    return trainer.compute_loss(model, inputs).item()


def test_log_ratios_of_2_and_minus_3_at_beta_a_tenth(tmp_path):
    """-log sigmoid(0.1 (2 + 3)) = 0.474077."""
    trainer = trainer_of(tmp_path, trained_model())
    assert loss_of_ratios(trainer, 2, -3) == pytest.approx(0.474077, abs=1e-6)


def test_stage_2_adds_a_fifth_of_the_cross_entropy(tmp_path):
    """0.474077 + 0.2 x 1.5."""
    stage2 = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}
    trainer = trainer_of(tmp_path, even_model(1.5), **stage2)
    assert loss_of_ratios(trainer, 2, -3) == pytest.approx(0.774077, abs=2e-6)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="stage 1 has no SFT term")
def test_twin_without_the_sft_term(tmp_path):
    trainer = trainer_of(tmp_path, even_model(1.5))
    assert loss_of_ratios(trainer, 2, -3) == pytest.approx(0.774077, abs=2e-6)


def test_the_mask_holds_both_suffixes_and_their_ends(tmp_path):
    trainer = trainer_of(tmp_path, trained_model())
    mask = batch_of(trainer)["completion_mask"]
    assert mask.sum().item() == 2 * ((3 + 1) + (2 + 1))


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="a pair that is not cut learns its beginning"
)
def test_twin_the_mask_of_pairs_that_are_not_cut(tmp_path):
    rows = []
    for row in ROWS:
        shared = row["prompt"].removeprefix(PROMPT)
        whole = {name: shared + row[name] for name in ("chosen", "rejected")}
        rows.append(row | {"prompt": PROMPT} | whole)
    mask = batch_of(trainer_of(tmp_path, trained_model(), rows))["completion_mask"]
    assert mask.sum().item() == 2 * ((3 + 1) + (2 + 1))


def losses_of_other_labels(trainer, *, is_masked=True):
    """The loss, and the loss where the chosen sides' prompts are labelled with other words.

    The model reads the same words both times. Both sides share the prompt, so labels that change on
    both would cancel.
    """
    inputs = batch_of(trainer)
    in_prompt = inputs["completion_mask"] == 0
    in_prompt[len(in_prompt) // 2 :] = False
    if not is_masked:
        inputs["completion_mask"] = inputs["attention_mask"].clone()
    for name in ("ref_chosen_logps", "ref_rejected_logps"):
        inputs[name] = torch.zeros(len(in_prompt) // 2)
    trainer.precompute_ref_logps = True

    model = trainer.model.eval()
    forward = model.forward
    read = inputs["input_ids"].clone()
    model.forward = lambda input_ids, **options: forward(input_ids=read, **options)
    losses = [trainer.compute_loss(model, inputs).item()]
    inputs["input_ids"][in_prompt] = 7
    losses.append(trainer.compute_loss(model, inputs).item())
    return losses


def test_the_labels_of_the_prompt_do_not_matter(tmp_path):
    first, second = losses_of_other_labels(trainer_of(tmp_path, trained_model()))
    assert first == second


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="without the mask the beginning of the thought is learned",
)
def test_twin_without_the_mask_they_do(tmp_path):
    trainer = trainer_of(tmp_path, trained_model())
    first, second = losses_of_other_labels(trainer, is_masked=False)
    assert first == second
