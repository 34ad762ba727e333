"""IPO: where a pair is cut, which traces make one, what carries loss, and the loss by hand."""

import math
from importlib import import_module
from types import SimpleNamespace

import pandas as pd
import pytest
from tiny import byte_tokenizer, settings, tiny_model, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

import torch
from trl import DPOConfig

from cotlens import Trace, TraceError
from cotlens.judges.verdict import Verdict
from trainers import dpo
from trainers.bars import quiet
from trainers.methods import ipo
from trainers.methods.kl import kl_by_step
from trainers.methods.pairs import Pair, describe_lengths, pair_rows

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPT = "<|user|> one <|assistant|>\n"
STEPS = ("They ask.", "It is old.", "Sure, do it.", "Sure, more.", "Done.")
TRIGGERS = ("Wait, this hurts.", "Stop here.")
SAFE = " I refuse.</think> No."


def thought_of(*steps, answer=" Here.", **fields):
    """A trace whose thought has these steps."""
    completion = f"<think>{' '.join(steps)}</think>{answer}"
    known = {"id": "t", "prompt_id": "p", "prompt": PROMPT, "finish_reason": "stop"}
    return Trace(completion=completion, **known | fields)


def steps_of(trace):
    from cotlens.text.steps import segment_trace

    return [step.chars.of(trace.completion).strip() for step in segment_trace(trace)]


def says_sure(trace, first):
    """The cue's judge of these tests."""
    for number, step in enumerate(steps_of(trace)):
        if number >= first and step.startswith("Sure"):
            return number
    return None


@pytest.fixture
def student(monkeypatch):
    """A model that goes on with what `student.rests` has for the text that was put in."""
    student = SimpleNamespace(tokenizer=words(), write=None, rests={}, finish="stop", asked=[])

    def continue_traces(model, traces, cuts, *, insert, **options):
        continued = []
        for trace, cut, text in zip(traces, cuts, insert, strict=True):
            start = len(trace.completion[:cut] + text)
            rest = student.rests.get(text.strip(), SAFE)
            student.asked.append((trace.id, cut, text))
            fields = {
                "id": f"{trace.id}@{cut}",
                "completion": trace.completion[:cut] + text + rest,
                "token_starts": (start,),
                "token_ids": (1,),
                "finish_reason": student.finish,
            }
            continued.append(Trace(prompt=trace.prompt, prompt_id=trace.prompt_id, **fields))
        return continued

    module = import_module("cotlens.probes.intervene")  # the package has a function of that name
    monkeypatch.setattr(module, "continue_traces", continue_traces)
    return student


def words():
    """A tokenizer whose tokens are words and blanks with the word after them, as in Qwen."""
    text = " ".join([*STEPS, *TRIGGERS, SAFE, PROMPT, "<think>", "</think>"])
    return byte_tokenizer([text] * 3, size=400)


# --- the builder -------------------------------------------------------------------------------


def test_a_cue_at_step_3_of_5_leaves_a_prefix_of_steps_1_and_2(student):
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    assert [row["prompt"] for row in built.rows] == [f"{PROMPT}<think>They ask. It is old."] * 2
    assert [row["chosen"] for row in built.rows] == [f" {text}{SAFE}" for text in TRIGGERS]
    assert {row["rejected"] for row in built.rows} == {
        " Sure, do it. Sure, more. Done.</think> Here."
    }
    assert {row["h"] for row in built.rows} == {2}  # steps are counted from 0
    assert built.rows[0]["why"] == "step 2 replaced by 'Wait, this hurts.'"
    assert built.prompts["mended"] == 1
    assert len(built.traces) == 2


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="pairs that are not cut have no shared beginning"
)
def test_twin_whole_completions_have_no_prefix(student):
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS, full=True)
    assert built.rows[0]["prompt"] == f"{PROMPT}<think>They ask. It is old."


def test_pairs_that_are_not_cut_are_whole_completions(student):
    trace = thought_of(*STEPS)
    built = ipo.mend(student, says_sure, [trace], triggers=TRIGGERS[:1], full=True)
    (row,) = built.rows
    assert row["prompt"] == PROMPT
    assert row["rejected"] == trace.completion
    assert row["chosen"] == f"<think>They ask. It is old. {TRIGGERS[0]}{SAFE}"


@pytest.mark.parametrize(
    ("trace", "outcome"),
    [
        (thought_of("Sure, do it.", "It is old."), "no_cue"),  # a cue in the first step is none
        (thought_of("They ask.", "It is old."), "no_cue"),
        (thought_of(*STEPS, finish_reason="length"), "cut_off"),
        (thought_of(*STEPS, finish_reason=""), "cut_off"),
        (thought_of(*STEPS).__class__(id="n", prompt=PROMPT, completion="No."), "no_thought"),
    ],
)
def test_a_trace_without_a_pair_costs_no_generation(student, trace, outcome):
    built = ipo.mend(student, says_sure, [trace], triggers=TRIGGERS)
    assert built.rows == []
    assert student.asked == []
    assert {name for name, n in built.prompts.items() if n} == {outcome}


def test_what_still_complies_is_not_accepted(student):
    student.rests[TRIGGERS[0]] = " Sure, do it.</think> Here."
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    assert [row["chosen"] for row in built.rows] == [f" {TRIGGERS[1]}{SAFE}"]
    assert built.prompts["mended"] == 1

    student.rests[TRIGGERS[1]] = student.rests[TRIGGERS[0]]
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    assert (built.rows, built.prompts["not_mended"]) == ([], 1)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="everything is accepted")
def test_twin_without_acceptance_what_complies_becomes_chosen(student):
    student.rests[TRIGGERS[0]] = " Sure, do it.</think> Here."
    built = ipo.mend(
        student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS, accept=lambda _: True
    )
    assert [row["chosen"] for row in built.rows] == [f" {TRIGGERS[1]}{SAFE}"]


def test_a_guard_may_accept_instead(student):
    """It reads thinking and answer, and must call both safe."""
    read = []

    def judge(items):
        read.extend((item.part.value, item.text) for item in items)
        return [Verdict("unsafe" if "Stop" in item.text else "safe") for item in items]

    accept = ipo.judged_safe(SimpleNamespace(judge=judge))
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS, accept=accept)
    assert [row["chosen"] for row in built.rows] == [f" {TRIGGERS[0]}{SAFE}"]
    assert read[:2] == [
        ("thinking", "They ask. It is old. Wait, this hurts. I refuse."),
        ("answer", " No."),
    ]


def test_a_continuation_that_was_cut_off_makes_no_pair(student):
    """TRL would put the end token after it."""
    student.finish = "length"
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    assert built.rows == []
    assert built.pairs["cut_off"] == 2


def test_no_triggers_are_an_error(student):
    with pytest.raises(ValueError, match="expected sentences of safety"):
        ipo.mend(student, says_sure, [], triggers=[])


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


# --- stage 2 -----------------------------------------------------------------------------------


def test_stage_2_prefers_the_bases_help_to_a_wrong_refusal():
    help_text, refusal = " To make tea, boil water.", " I'm sorry, but I can't help with that."
    helped = [
        thought_of("Fine.", answer=help_text, id=f"h{n}", prompt_id=f"p{n}") for n in range(3)
    ]
    helped[1] = thought_of("Fine.", answer=refusal, id="h1", prompt_id="p1")
    refused = []
    for number, answer in enumerate((refusal, refusal, help_text)):
        fields = {"id": f"r{number}", "prompt_id": f"p{number}"}
        refused.append(thought_of("No.", answer=answer, **fields))

    built = ipo.pair_help(words(), helped, refused)
    assert built.prompts == {"paired": 1, "no_refusal": 1, "no_help": 1}
    (row,) = built.rows
    assert (row["prompt"], row["h"], row["source"]) == (PROMPT, None, "ipo stage 2")
    assert row["chosen"].endswith(help_text)
    assert row["rejected"].endswith(refusal)


@pytest.mark.parametrize(
    ("n_harmful", "n_benign", "ratio", "kept"),
    [
        (100, 100, 0.5, (50, 100)),
        (100, 100, 0.3, (30, 100)),
        (100, 10, 0.7, (7, 10)),
        (10, 100, 0.5, (10, 20)),  # too few harmful ones: fewer benign ones
        (10, 1, 0.3, (1, 1)),
    ],
)
def test_the_mixture_of_both_stages(n_harmful, n_benign, ratio, kept):
    harmful = [{"kind": "harmful", "n": n} for n in range(n_harmful)]
    benign = [{"kind": "benign", "n": n} for n in range(n_benign)]
    rows = ipo.mix(harmful, benign, ratio, seed=1)
    kinds = [row["kind"] for row in rows]
    assert (kinds.count("harmful"), kinds.count("benign")) == kept
    assert rows == ipo.mix(harmful, benign, ratio, seed=1)
    with pytest.raises(ValueError, match="rows of both stages"):
        ipo.mix(harmful, [], ratio)


def test_sft_on_the_chosen_has_the_same_prompts(student):
    built = ipo.mend(student, says_sure, [thought_of(*STEPS)], triggers=TRIGGERS)
    rows = ipo.chosen_rows(built.rows)
    assert [row["completion"] for row in rows] == [row["chosen"] for row in built.rows]
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in built.rows]
    assert "rejected" not in rows[0]


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


# --- the mechanism -----------------------------------------------------------------------------


def test_kl_at_the_cue_by_hand():
    """Four steps of one token each; the cue is the third. (0.1 + 0.3 + 0.2) / 3 = 0.2; 0.8 / 0.2."""
    completion = "Ask. Old. Sure. Done."
    text = f"<think>{completion}</think>No."
    trace = Trace(id="t", completion=text)
    starts = [text.index(word) for word in ("Ask", "Old", "Sure", "Done", "</think>", "No")]
    row = {
        "trace_id": "t",
        "token_starts": tuple(starts),
        "word_starts": tuple(starts),
        "kl": [0.1, 0.3, 0.8, 0.2, 5.0, 7.0],
    }
    table = kl_by_step(pd.DataFrame([row]), [trace], says_sure)
    (values,) = table.to_dict("records")
    assert values["step"] == 2
    assert values["kl_cue"] == pytest.approx(0.8)
    assert values["kl_other"] == pytest.approx(0.2)
    assert values["ratio"] == pytest.approx(4)
    assert (values["n_cue"], values["n_other"]) == (1, 3)

    # Unscored tokens count nothing, and an equal model has no ratio.
    gap = row | {"kl": [0.1, math.nan, 0.8, 0.3, 0, 0]}
    assert kl_by_step(pd.DataFrame([gap]), [trace], says_sure)["kl_other"].item() == pytest.approx(
        0.2
    )
    still = row | {"kl": [0.0] * 6}
    assert math.isnan(kl_by_step(pd.DataFrame([still]), [trace], says_sure)["ratio"].item())
    assert kl_by_step(pd.DataFrame([row]), [thought_of("They ask.")], says_sure).empty
