"""The words of steps, read together: the same as one by one, whatever the text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotlens import classify, mark, read_traces, step_table
from cotlens.detect import tokens as tokens_module
from cotlens.detect.tokens import MAX_TOKENS, read_steps, tokenize
from cotlens.detect.words import WORD_LISTS, count_in_steps, count_words

TEXTS = [
    "Wait—it's 3.14, don’t",
    "",
    "   \n",
    "ΟΔΟΣ ΣΑΣ",  # a sigma at the end of a step is another letter
    "x\0y",
    "…... .. a'b'c' ²³ \u3000 İstanbul",
    "wait'but but'wait Wait's await",
    "等等，不对。",
    "word " * 100,
]


def words_of(steps):
    """The words of each step, as texts."""
    words = []
    for start, length in zip(steps.starts, steps.lengths, strict=True):
        numbers = steps.words[start : start + length]
        words.append([steps.vocabulary.words[number] for number in numbers])
    return words


def test_read_together_is_read_one_by_one():
    assert words_of(read_steps([TEXTS])) == [tokenize(text) for text in TEXTS]
    assert words_of(read_steps([TEXTS]))[-1] == ["word"] * MAX_TOKENS


@given(st.lists(st.text() | st.text(alphabet="ab'’.0²Σσ \n\0\x1c\u2003İ"), max_size=6))
def test_the_same_for_any_text(texts):
    assert words_of(read_steps([texts])) == [tokenize(text) for text in texts]


def test_blocks_do_not_show(monkeypatch):
    whole = words_of(read_steps([TEXTS * 3]))
    monkeypatch.setattr(tokens_module, "_READ_AT_ONCE", 7)
    assert words_of(read_steps([TEXTS * 3])) == whole


def test_sums_around_a_step_stay_in_its_trace():
    """Two traces of three steps and of two: what is one step away, by hand."""
    steps = read_steps([["a", "b", "c"], ["d", "e"]])
    assert steps.borders.tolist() == [0, 3, 5]
    values = np.array([1, 10, 100, 1000, 10_000])
    assert steps.sums_around(values, 1).tolist() == [11, 111, 110, 11_000, 11_000]
    assert steps.totals(values).tolist() == [111, 111, 111, 11_000, 11_000]
    assert steps.traces().tolist() == [0, 0, 0, 1, 1]


def test_nothing_to_read():
    assert words_of(read_steps([])) == []
    assert words_of(read_steps([[], []])) == []


@given(st.lists(st.text(alphabet="WwaitBbu'’ -<>thnk.0\n"), max_size=6))
def test_word_lists_are_counted_alike(texts):
    steps = read_steps([texts])
    for name in WORD_LISTS:
        expected = [count_words(text, name) for text in texts]
        assert count_in_steps(steps, name).tolist() == expected


@pytest.mark.parametrize("name", WORD_LISTS)
def test_every_word_of_a_list_is_found(name):
    texts = [f"So, {word} it is." for word in WORD_LISTS[name]]
    assert (count_in_steps(read_steps([texts]), name) > 0).all()


def test_many_traces_are_decided_as_each_alone(data):
    """The law of all detectors: what a step is does not depend on the traces read with it."""
    traces = list(read_traces(data / "traces" / "star1_safe.jsonl.gz"))[:40]
    together = step_table(traces, text=True)
    for trace_id, rows in together.groupby("trace_id", sort=False):
        texts = rows["text"].tolist()
        alone = classify(texts)
        assert rows["kind"].tolist() == alone.kind
        assert rows["p_reflect"].to_numpy() == pytest.approx(alone.p_reflect, abs=1e-6, nan_ok=True)
        (trace,) = [trace for trace in traces if trace.id == trace_id]
        marked = mark(texts, trace.meta.get("request") or trace.prompt)
        flags = rows["is_unsafe"].astype(object).where(rows["is_unsafe"].notna(), None)
        assert flags.tolist() == marked.is_unsafe
