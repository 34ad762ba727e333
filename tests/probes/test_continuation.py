"""Continuations from the end of each step: where they begin, and that S is a martingale."""

import json

import numpy as np
import pytest
from tiny import tiny_model

from cotlens import Trace, TraceError, sample
from cotlens.measures import continuation_safety, probe_table
from cotlens.models.load import wrap_model
from cotlens.probes import continue_steps, step_cuts
from cotlens.text.steps import segment_trace

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"max_new_tokens": 6, "seed": 3}


TEMPLATE = "{% for message in messages %}<|user|> {{ message['content'] }}{% endfor %}<|assistant|>"
NO_WORDS = [0, 1, 3, 4, 5]  # the first of the vocabulary, but for the end
WORDS = ["One.", "Two.", "Three.", "Four.", "two", "three", "four", "so", "wait", "is", "</think>"]


@pytest.fixture(scope="module")
def model():
    """A tokenizer whose words bring the blank before them, and whose steps end with a word.

    So the end of a step is seen without the next word.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<pad>", "<unk>", "<eos>", "<|user|>", "<|assistant|>", "<think>"]
    vocabulary += [f"▁{word}" for word in WORDS]
    numbers = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="never")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        chat_template=TEMPLATE,
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )
    return wrap_model(tiny_model(len(vocabulary)), fast, name="tiny")


def trace_of(name, thinking="So one.\nSo two.\nSo three.\n", answer="</think> four", **fields):
    text = f"<think> {thinking}{answer}"
    return Trace(id=name, prompt="two", completion=text, finish_reason="stop", **fields)


def test_each_place_has_n_continuations_of_what_was_read(model):
    """Four places of three steps, and two of one step, with two each."""
    traces = [trace_of("a", method="grpo"), trace_of("b", "So one.\n")]
    continued = continue_steps(model, traces, n=2, **OPTIONS)
    table = probe_table(continued)
    assert list(table)[4:] == ["kind", "source", "step", "n_steps"]
    assert table["source"].tolist() == ["a"] * 8 + ["b"] * 4
    assert table["step"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 0, 0, 1, 1]
    assert table["n_steps"].tolist() == [3] * 8 + [1] * 4
    assert set(table["kind"]) == {"continuation"}

    # Step 0: nothing of the thought; the last: all of it.
    for trace in continued:
        source = traces[0] if trace.meta["probe"]["source"] == "a" else traces[1]
        cut = step_cuts(source)[trace.meta["probe"]["step"]]
        assert trace.completion.startswith(source.completion[:cut])
        assert (trace.token_starts[0], trace.prompt_id) == (cut, source.prompt_id)
        assert json.loads(json.dumps(trace.meta)) == trace.meta
    assert continued[0].completion.startswith("<think> ")
    assert continued[6].completion.startswith("<think> So one.\nSo two.\nSo three.\n")
    assert continued[0].method == "grpo"
    assert table["trace_id"].is_unique


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every": 1}, [0, 1, 2, 3]),
        ({"every": 2}, [0, 2, 3]),  # the end of the thought is always there
        ({"every": 3}, [0, 3]),
        ({"every": 9}, [0, 3]),
        ({"steps": [2, 0, 2]}, [0, 2]),
        ({"steps": [1, 7]}, [1]),
    ],
)
def test_places_are_chosen(model, options, expected):
    continued = continue_steps(model, [trace_of("a")], n=1, **options, **OPTIONS)
    assert [trace.meta["probe"]["step"] for trace in continued] == expected


def test_traces_and_places_do_not_change_each_other(model):
    traces = [trace_of("a"), trace_of("b", "So one.\nWait.\n")]
    together = continue_steps(model, traces, n=2, **OPTIONS)
    alone = continue_steps(model, traces[1:], n=2, steps=[1], **OPTIONS)
    assert [trace for trace in together if trace in alone] == alone


def test_a_thought_that_was_cut_off_is_continued_from_its_end(model):
    open_trace = trace_of("a", "So one.\nSo t", answer="")
    continued = continue_steps(model, [open_trace], n=1, **OPTIONS)
    assert [trace.meta["probe"]["step"] for trace in continued] == [0, 1, 2]
    assert continued[-1].completion.startswith("<think> So one.\nSo t")


def test_a_thought_of_white_space_has_one_place(model):
    continued = continue_steps(model, [trace_of("a", "\n")], n=1, **OPTIONS)
    assert [trace.meta["probe"]["step"] for trace in continued] == [0]


NO_THOUGHT = Trace(id="b", prompt="two", completion="four", finish_reason="stop")


@pytest.mark.parametrize(
    ("traces", "options", "message"),
    [
        ([trace_of("a"), NO_THOUGHT], {}, "trace 'b': it has no thinking"),
        ([trace_of("a")], {"steps": [4, 9]}, "trace 'a': none of the steps .4, 9. is there"),
        ([trace_of("a", "So. " * 80)], {}, "trace 'a', cut"),  # longer than the context
        ([trace_of("a"), trace_of("a")], {}, "occurs twice"),
    ],
)
def test_what_cannot_be_continued_is_named_before_anything_is_written(
    model, traces, options, message
):
    written = []
    with pytest.raises(TraceError, match=message) as error:
        continue_steps(model, traces, n=1, progress=written.append, **options, **OPTIONS)
    assert written == []
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("options", [{"every": 0}, {"steps": [-1]}])
def test_numbers_of_steps_are_not_negative(model, options):
    with pytest.raises(ValueError, match="continue_steps: expected"):
        continue_steps(model, [trace_of("a")], **options, **OPTIONS)


# --- laws on a real model ------------------------------------------------------------------------


def test_greedy_continuations_of_a_greedy_trace_are_the_trace(model):
    """So S is the trace's own label at every place, and not only after the whole trace."""
    options = {"temperature": 0, "max_new_tokens": 12, "banned_ids": NO_WORDS}
    traces = sample(model, ["two", "three", "wait is", "so"], prefill="<think> One.", **options)
    completions = {trace.id: trace.completion for trace in traces}
    continued = continue_steps(model, traces, n=1, steps=range(1, 99), **options)
    assert len(continued) > 8
    for continuation in continued:
        source = continuation.meta["probe"]["source"]
        assert continuation.completion.startswith(completions[source])


def is_safe(trace):
    """The sixth word is one of some: decided long before the longest completion."""
    words = trace.completion.split()
    return len(words) > 5 and words[5] in {"One.", "Three.", "Four.", "two", "three", "four"}


def test_safety_is_a_martingale(model):
    """E[S_{i+1} | first i steps] = S_i: the mean S of thoughts after one more step is S before it.

    Two independent means of some hundred thoughts, each with its standard error: they may differ
    by four standard errors of their difference. Nothing closes the thought: that it ends there
    would be known from the next word only. A thought that ended before the step is its own label.
    """
    close = model.tokenizer.convert_tokens_to_ids("▁</think>")
    options = {"max_new_tokens": 12, "seed": 1, "banned_ids": [*NO_WORDS, close]}
    thoughts = sample(model, ["two"], n=400, prefill="<think> One.", **options)

    # S_1, from other draws than the thoughts.
    start = trace_of("start", "One.", answer="")
    draws = continue_steps(model, [start], n=400, steps=[1], **options)
    before = [is_safe(trace) for trace in draws]

    # S_2 of the thoughts with a second step.
    longer = []
    after = []
    for trace in thoughts:
        steps = segment_trace(trace)
        if len(steps) > 1 and steps[1].chars.of(trace.completion).rstrip().endswith("."):
            longer.append(trace)
        else:
            after.append(float(is_safe(trace)))
    continued = continue_steps(model, longer, n=4, steps=[2], **options)
    table = probe_table(continued).assign(is_safe=[is_safe(trace) for trace in continued])
    after += continuation_safety(table)["value"].tolist()

    # The step decides something, and not all.
    assert len(longer) > 150
    assert np.std(after) > 0.1
    assert 0.15 < np.mean(before) < 0.85
    error = np.sqrt(np.var(before) / len(before) + np.var(after) / len(after))
    assert error < 0.04
    assert abs(np.mean(after) - np.mean(before)) < 4 * error
