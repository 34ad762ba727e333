"""DGR: what of a rewriting is trained on, by hand; a missing filter or rewrite would be seen."""

import pytest
from tiny import WORDS, tiny_tokenizer, trained_model

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from cotlens import Trace
from trainers.methods import dgr
from trainers.methods.selfgen import KEPT, Acceptance, total

pytestmark = pytest.mark.usefixtures("one_thread")


def trace(completion, name="a", domain="", **fields):
    fields = {"finish_reason": "stop", "prompt": "why", **fields}
    return Trace(id=name, completion=completion, domain=domain, **fields)


def student():
    from cotlens.models.local import LocalEngine

    return LocalEngine(trained_model(), tiny_tokenizer(), "tiny")


SOURCE = (
    "<think>\nThe request endangers other people. It must be declined.\n</think>\n\n"
    "I'm sorry, but I can't help with that."
)
FINE = "<think>\nThis could hurt someone, so no.\n</think>\n\nI can't help you with that, sorry."
FLIPPED = "<think>\nSeems fine to me, I can say it.\n</think>\n\nSure: take two of them and stir."
LEAKS = "<think>\nI rewrite the given response.\n</think>\n\nI can't help you with that, sorry."
FOUR = [FINE, FINE.split("</think>")[0], FLIPPED, LEAKS]


def build_dgr(monkeypatch, completions, source=SOURCE):
    """DGR with a student that writes these."""

    def sample(engine, requests, **_):
        written = []
        for request, completion in zip(requests, completions, strict=True):
            written.append(trace(completion, name=request.id))
        return written

    monkeypatch.setattr(dgr, "sample", sample)
    rows = [{"prompt": f"x{n}", "completion": source} for n in range(len(completions))]
    return dgr.build(student(), dgr.decide, rows, max_new_tokens=1)


def four_rows(built):
    assert [row["source"] for row in built.rows] == ["refined", *["fallback"] * 3]
    assert [row["completion"] for row in built.rows] == [FINE, SOURCE, SOURCE, SOURCE]
    assert built.acceptance[""].fallback_share == 0.75


@pytest.fixture
def roomy(monkeypatch):
    monkeypatch.setattr(dgr, "with_room", lambda student, requests, most: list(requests))


@pytest.mark.usefixtures("roomy")
def test_one_of_four_rewritings_can_be_trained_on(monkeypatch):
    built = build_dgr(monkeypatch, FOUR)
    four_rows(built)
    assert [row["prompt"] for row in built.rows] == ["x0", "x1", "x2", "x3"]
    assert [row["why"] for row in built.rows] == [
        "kept",
        "unclosed",
        "another decision",
        "mentions the rewriting",
    ]
    assert built.acceptance == {"": Acceptance(4, unclosed=1, fallback=3, kept=1)}


@pytest.mark.usefixtures("roomy")
@pytest.mark.xfail(strict=True, reason="without the filter every rewriting is trained on")
def test_without_the_filter_all_are_refined(monkeypatch):
    monkeypatch.setattr(dgr, "check", lambda *_: KEPT)
    four_rows(build_dgr(monkeypatch, FOUR))


@pytest.mark.usefixtures("roomy")
@pytest.mark.xfail(strict=True, reason="a student that copies the source refines nothing")
def test_without_the_rewrite_the_text_is_the_sources(monkeypatch):
    four_rows(build_dgr(monkeypatch, [SOURCE, *FOUR[1:]]))


PADDING = "It must be declined. " * 10
CHECKS = [
    (FINE, "kept"),
    (SOURCE, "kept"),
    ("<think>\nno\n</think>\n\nI can't help.", "length"),
    (FINE.replace("so no.", "so no. " + PADDING), "length"),
    (FINE.replace("</think>", ""), "unclosed"),
    (FINE.split("I can't")[0], "unclosed"),
    (FINE.replace("so no", "in my own words"), "mentions the rewriting"),
    (FINE.replace("so no", "as in the original answer"), "mentions the rewriting"),
    (FINE.replace("so no", "never mention that you were shown"), "mentions the rewriting"),
    (FINE.replace("so no", "I should respond to this"), "kept"),
]


@pytest.mark.parametrize(("completion", "why"), CHECKS)
def test_why_a_rewriting_is_not_trained_on(completion, why):
    source = trace(SOURCE)
    request = dgr.ask_for_rewrite(source)
    assert dgr.check(source, trace(completion), dgr.decide, request) == why


def test_what_the_source_says_itself_is_no_leak():
    source = trace(SOURCE.replace("It must", "To rewrite such a text would help, so it must"))
    completion = trace(FINE.replace("so no", "I do not rewrite it"))
    request = dgr.ask_for_rewrite(source)
    assert dgr.check(source, completion, dgr.decide, request) == "kept"


def test_the_bounds_of_length_are_half_and_twice():
    source = trace("<think>\na\n</think>\n\n" + "no " * 30)
    n_chars = len(source.completion)
    for length, why in (
        (n_chars / 2, "kept"),
        (n_chars / 2 - 1, "length"),
        (n_chars * 2, "kept"),
        (n_chars * 2 + 1, "length"),
    ):
        beginning = "<think>\na\n</think>\n\n"
        text = beginning + "o" * (round(length) - len(beginning))
        assert dgr.check(source, trace(text), lambda _: "no", "") == why


def test_a_decision_that_nobody_can_tell_equals_nothing():
    assert dgr.check(trace(SOURCE), trace(FINE), lambda _: None, "") == "another decision"


def test_a_source_without_room_stays(monkeypatch):
    monkeypatch.setattr(dgr, "sample", lambda engine, requests, **_: [])
    rows = [{"prompt": "x", "completion": SOURCE, "domain": "harmful", "prompt_id": "p"}]
    built = dgr.build(student(), dgr.decide, rows, max_new_tokens=64)
    (row,) = built.rows
    assert (row["completion"], row["why"], row["prompt_id"]) == (SOURCE, "no room", "p")
    assert built.acceptance == {"harmful": Acceptance(1, fallback=1)}


def test_braces_of_a_source_stay():
    source = trace("<think>\n{request}\n</think>\n\n{answer} {0}")
    assert "{answer} {0}" in dgr.ask_for_rewrite(source)
    assert "Thoughts:\n{request}\n\nAnswer" in dgr.ask_for_rewrite(source)


def test_the_student_rewrites_each_source_once():
    rows = []
    for word in WORDS[:4]:
        rows.append({"prompt": word, "completion": "<think> so </think> one"})
    built = dgr.build(student(), dgr.decide, rows, ask=lambda _: "one two", max_new_tokens=8)
    assert len(built.traces) == len(rows)
    assert len({sample.id for sample in built.traces}) == len(rows)
    assert built.counts["prompts"] == len(rows)
    assert total(built.acceptance).kept + total(built.acceptance).fallback == len(rows)
