"""The thought of one model in the mouth of another: beginnings, whole thoughts, and resets."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny import TEMPLATE, byte_tokenizer, tiny_model, tiny_tokenizer

from cotlens import Trace, TraceError, sample
from cotlens.formats.prompts import as_prompts
from cotlens.models.load import wrap_model
from cotlens.probes import hijack, prefill, reset
from cotlens.text.split import split_trace
from cotlens.trace import Origin, Reasoning, Span

pytestmark = pytest.mark.usefixtures("one_thread")

PROMPTS = as_prompts(["one", "two"])
OPTIONS = {"max_new_tokens": 6, "seed": 3}
SAY = "hmm wait."
THOUGHT = "so one.\nso two.\nso three.\n"


def make_model(**options):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = options.pop("template", TEMPLATE)
    return wrap_model(tiny_model(len(tokenizer), **options), tokenizer, name="tiny")


@pytest.fixture(scope="module")
def model():
    return make_model()


def donor(number=0, thinking=THOUGHT, **fields):
    """A closed thought for a prompt."""
    known = {
        "id": f"d{number}",
        "prompt_id": PROMPTS[number].id,
        "model": "far",
        "method": "base",
        "completion": f"<think>\n{thinking}</think> four",
        "finish_reason": "stop",
    }
    return Trace(**known | fields)


def probes(traces):
    return [trace.meta["probe"] for trace in traces]


# --- prefill -------------------------------------------------------------------------------------


def test_the_beginning_of_a_thought_is_the_beginning_of_the_completion(model):
    """Five words hold two steps of two words each."""
    traces = prefill(model, PROMPTS, [donor(1), donor(0)], words=5, n=2, method="grpo", **OPTIONS)
    assert [trace.prompt_id for trace in traces] == [
        PROMPTS[1].id, PROMPTS[1].id, PROMPTS[0].id, PROMPTS[0].id,
    ]  # fmt: skip
    for trace in traces:
        prefix = "<think>\nso one.\nso two.\n"
        assert trace.completion.startswith(prefix)
        assert trace.token_starts[0] == len(prefix)
        assert trace.method == "grpo"
    assert probes(traces)[0] == {
        "kind": "prefill", "donor": "far/base", "source": "d1", "words": 5, "n_words": 4,
    }  # fmt: skip
    assert len({trace.id for trace in traces}) == 4


def test_steps_limit_as_words_do(model):
    (trace,) = prefill(model, PROMPTS[:1], [donor()], steps=1, **OPTIONS)
    assert trace.completion.startswith("<think>\nso one.\n")
    assert trace.meta["probe"]["steps"] == 1
    assert "words" not in trace.meta["probe"]


def test_no_donor_is_plain_sampling_with_the_same_seed(model):
    traces = prefill(model, PROMPTS, [None, donor()], n=2, **OPTIONS)
    plain = sample(model, PROMPTS, n=2, **OPTIONS)
    for trace, other in zip(traces[:4], plain, strict=True):
        assert (trace.id, trace.prompt_id) == (other.id, other.prompt_id)
        assert (trace.completion, trace.token_ids) == (other.completion, other.token_ids)
    assert probes(traces)[0] == {
        "kind": "prefill", "donor": "none", "source": None, "words": 0, "n_words": 0,
    }  # fmt: skip
    assert probes(traces)[-1]["words"] == 200


def test_recipients_read_the_same(model):
    """Tokens of prompt and prefix do not depend on the model."""
    other = make_model(seed=1)
    reads = []
    for recipient in (model, other):
        (trace,) = prefill(recipient, PROMPTS[:1], [donor()], words=4, **OPTIONS)
        reads.append((trace.id, trace.prompt_token_ids))
    assert reads[0] == reads[1]


def test_a_donor_does_not_depend_on_the_others(model):
    (alone,) = prefill(model, PROMPTS, [donor()], words=4, **OPTIONS)
    twin = donor(method="sft")
    together = prefill(model, PROMPTS, [twin, donor(1), donor()], words=4, **OPTIONS)
    assert together[2] == alone
    assert together[0].id != alone.id


def test_several_thoughts_count_as_the_first(model):
    text = "<think>so one.\n</think> so <think>so two.\n</think> four"
    (trace,) = prefill(model, PROMPTS, [donor(completion=text)], **OPTIONS)
    assert trace.meta["probe"]["n_words"] == 2


def test_a_thought_in_a_field_has_no_tags(model):
    fields = {
        "completion": "so one.\nso two.four",
        "origin": Origin.FIELDS,
        "think": (Span(0, 15),),
        "answer": Span(15, 19),
    }
    (trace,) = prefill(model, PROMPTS, [donor(**fields)], **OPTIONS)
    assert trace.completion.startswith("<think>\nso one.\nso two.")
    assert trace.token_starts[0] == len("<think>\nso one.\nso two.")


@pytest.mark.parametrize(("reason", "n_words"), [("length", 2), ("", 2), ("stop", 4)])
def test_the_last_step_of_a_thought_that_was_cut_off_stays_out(model, reason, n_words):
    cut_off = donor(completion="<think>so one.\nso tw", finish_reason=reason)
    (trace,) = prefill(model, PROMPTS, [cut_off], **OPTIONS)
    assert trace.meta["probe"]["n_words"] == n_words


def test_a_template_that_opens_the_thought_is_not_repeated():
    template = TEMPLATE.replace("<|assistant|> {% endif %}", "<|assistant|> <think> {% endif %}")
    opening = make_model(template=template)
    (trace,) = prefill(opening, PROMPTS, [donor()], words=4, **OPTIONS)
    assert trace.completion.startswith("so one.\nso two.\n")


# --- faults --------------------------------------------------------------------------------------

FAULTS = [
    (donor(prompt_id="other"), r"^trace 'd0': it is a thought for the prompt 'other'.*2 prompts"),
    (donor(completion="four"), "^trace 'd0': it has no thinking to cut"),
    (donor(completion="<think>\n \n</think> four"), "^trace 'd0': its thinking is blank"),
    (donor(completion="<think>so on", finish_reason="length"), "'d0'.*within its first step"),
    (donor(reasoning=Reasoning.SUMMARY), "^trace 'd0': its thinking is summary, which no model"),
    (donor(model="", method=""), "^trace 'd0': a donor needs a name"),
    (donor(model="none", method=""), "^trace 'd0': a donor needs a name other than 'none'"),
    (
        donor(thinking="so one. " * 50),
        "^trace 'd0', as the thought for prompt.* more than the model",
    ),
]


@pytest.mark.parametrize("ask", [prefill, hijack, reset])
@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_a_fault_is_one_line_that_names_the_trace(model, ask, fault, message):
    options = OPTIONS
    if ask is reset:
        options = {"rounds": 1, **OPTIONS}
        message = message.replace("more than ", "")
    with pytest.raises(TraceError, match=message) as error:
        ask(model, PROMPTS, [donor(1, thinking="so one.\n"), fault], **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ask", [prefill, hijack, reset])
def test_no_donor_and_the_same_donor_twice_are_faults(model, ask):
    with pytest.raises(TraceError, match="expected thoughts of donors, got none"):
        ask(model, PROMPTS, [], **OPTIONS)
    with pytest.raises(TraceError, match=r"'d0'.*given twice"):
        ask(model, PROMPTS, [donor(), donor()], **OPTIONS)


@pytest.mark.parametrize("ask", [prefill, hijack, reset])
def test_an_endpoint_cannot_carry_a_thought_on(ask):
    endpoint = SimpleNamespace(name="distant", tokenizer=None, write=None)
    with pytest.raises(TraceError, match="distant: an endpoint cannot carry a prefix"):
        ask(endpoint, PROMPTS, [donor()], **OPTIONS)


@pytest.mark.parametrize("ask", [prefill, hijack, reset])
def test_a_template_that_closes_the_thought_is_refused(ask):
    ending = "<|assistant|> <think> </think> {% endif %}"
    closing = make_model(template=TEMPLATE.replace("<|assistant|> {% endif %}", ending))
    with pytest.raises(TraceError, match=r"^trace 'd0'.*closes the thought"):
        ask(closing, PROMPTS, [donor()], **OPTIONS)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"words": 3, "steps": 2}, "words or steps, got both"),
        ({"words": 0}, "words from 1, got 0"),
        ({"steps": 0}, "steps from 1, got 0"),
    ],
)
def test_limits_out_of_range(model, limits, message):
    with pytest.raises(ValueError, match=message):
        prefill(model, PROMPTS, [donor()], **limits, **OPTIONS)


# --- hijack --------------------------------------------------------------------------------------


def test_a_hijacked_thought_is_whole_and_closed(model):
    (trace,) = hijack(model, PROMPTS, [donor()], **OPTIONS)
    prefix = f"<think>\n{THOUGHT}</think>\n\n"
    assert trace.completion.startswith(prefix)
    assert trace.token_starts[0] == len(prefix)
    split = split_trace(trace)
    assert split.think[0].of(trace.completion).strip() == THOUGHT.strip()
    assert split.answer.start >= len(prefix) - 2
    assert probes([trace]) == [
        {"kind": "hijack", "donor": "far/base", "source": "d0", "n_words": 6}
    ]


def test_line_breaks_after_the_tag_stay_out_where_a_word_would_change_them():
    """GPT-2 reads two line breaks before a word as two tokens, and alone as one."""
    tokenizer = byte_tokenizer(["\n\n so\n\n the wait\n\n"] * 9)
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    network = tiny_model(len(tokenizer), max_position_embeddings=256)
    model = wrap_model(network, tokenizer, name="bytes")
    (trace,) = hijack(model, PROMPTS, [donor(thinking="so one.\n")], **OPTIONS)
    prefix = trace.completion[: trace.token_starts[0]]
    assert prefix == "<think>\nso one.\n</think>"


def test_plain_samples_of_a_hijack_think_themselves(model):
    traces = hijack(model, PROMPTS[:1], [None, donor(thinking="so one.")], **OPTIONS)
    assert traces[0].completion == sample(model, PROMPTS[:1], **OPTIONS)[0].completion
    assert traces[1].completion.startswith("<think>\nso one.\n</think>")


# --- reset ---------------------------------------------------------------------------------------


def test_round_0_is_prefill_and_every_round_begins_with_what_was_thought(model):
    donors = [donor(0, "so one.\n"), donor(1, "so two.\n")]
    options = {"words": 2, "n": 2, "method": "grpo", "max_new_tokens": 3, "seed": 3}
    traces = reset(model, PROMPTS, donors, rounds=2, restart=SAY, **options)
    first = prefill(model, PROMPTS, donors, **options)
    assert len(traces) == 3 * len(first)

    for place, trace in enumerate(traces):
        chain = first[place % 4]
        number = place // 4
        probe = trace.meta["probe"]
        assert trace.id == f"{chain.id}~{number}"
        assert (probe["kind"], probe["round"], probe["chain"]) == ("reset", number, chain.id)
        assert (trace.method, trace.prompt_id) == ("grpo", chain.prompt_id)
        assert (trace.sample, trace.meta["request"]) == (chain.sample, chain.meta["request"])
        if number == 0:
            assert trace.completion == chain.completion
            continue

        # All of it is read, and once. The words of this tokenizer are the tokens.
        start = trace.token_starts[0]
        rendered = "<|user|> one <|assistant|> " if place % 4 < 2 else "<|user|> two <|assistant|> "
        words = (rendered + trace.completion[:start]).split()
        assert len(trace.prompt_token_ids) == len(words)
        assert trace.prompt == rendered

        # The thought of the round before, without a tag; the sentence; the beginning again.
        before = traces[place - 4].completion
        prefix = trace.completion[: trace.token_starts[0]]
        beginning = {"d0": "so one.\n", "d1": "so two.\n"}[probe["source"]]
        assert prefix.endswith(f"{SAY}\n\n{beginning}")
        kept = prefix.removesuffix(f"{SAY}\n\n{beginning}").rstrip(" ")
        assert before.startswith(kept)
        assert "</think>" not in prefix


@pytest.mark.parametrize(
    ("own", "reason", "expected"),
    [
        # Closed: before the tag; the answer goes.
        ("so two.\n</think> four", "stop", "so two.\n"),
        ("so two. </think> four", "stop", "so two. "),
        # A thought that was cut off loses its last step, but never the prefix.
        ("so two.\nso thr", "length", "so two.\n"),
        ("so tw", "length", ""),
        # It ended without closing: nothing is missing.
        ("so two.", "stop", "so two. "),
        # Closed at once: it has thought nothing.
        ("</think> four", "stop", ""),
        # A second thought goes with the answer.
        ("so two.\n</think> four <think>so three.\n</think> four", "stop", "so two.\n"),
    ],
)
def test_where_the_own_continuation_is_cut(monkeypatch, model, own, reason, expected):
    def write(engine, prompts, **options):
        traces = sample(engine, prompts, **options)
        fields = {"finish_reason": reason, "token_ids": (1,)}
        rewritten = []
        for trace in traces:
            start = trace.token_starts[0]
            text = trace.completion[:start] + own
            rewritten.append(replace(trace, completion=text, token_starts=(start,), **fields))
        return rewritten

    monkeypatch.setattr(sys.modules[reset.__module__], "sample", write)
    traces = reset(
        model, PROMPTS[:1], [donor(thinking="so one.\n")], rounds=1, restart=SAY, **OPTIONS
    )
    prefix = traces[1].completion[: traces[1].token_starts[0]]
    assert prefix == f"<think>\nso one.\n{expected}{SAY}\n\nso one.\n"


def test_a_context_that_cannot_hold_all_rounds_is_refused_before_anything_is_sampled(model):
    with pytest.raises(TraceError, match=r"^trace 'd0'.*3 rounds of at most 12 new.*made for 64"):
        reset(model, PROMPTS, [donor()], max_new_tokens=12, seed=3)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"rounds": 0}, ValueError, "at least one round and a sentence, got 0"),
        ({"restart": " "}, ValueError, "a sentence, got 1 and ' '"),
        ({"donors": [None]}, TraceError, "a donor is None"),
    ],
)
def test_what_cannot_be_reset(model, options, kind, message):
    given = {"donors": [donor()], "rounds": 1} | options
    with pytest.raises(kind, match=message):
        reset(model, PROMPTS, **given, **OPTIONS)
