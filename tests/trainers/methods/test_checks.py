"""Checks and repaired steps: they take turns, and a student may write its own."""

from collections import Counter

import pytest

pytest.importorskip("trl", reason="the trainers need the extra `train`")

from cog_traces import (
    ANYWHERE,
    CHECK,
    CURIOUS,
    FAILURES,
    OPEN,
    PLAN,
    REFUSE,
    REQUEST,
    RISK,
    WARN,
    Scripted,
    repaired,
    trace_of,
)

from trainers.methods.causes import Cause
from trainers.methods.checks import (
    ANALYSES,
    CHECKS,
    DECISIONS,
    TRANSITIONS,
    Method,
    is_fit_check,
    own_words,
)
from trainers.pocket.cog_arms import read_wording

FAILED = [cause for cause in Cause if cause is not Cause.NONE]


@pytest.mark.parametrize("method", Method)
@pytest.mark.parametrize("cause", FAILED)
def test_checks_take_turns(method, cause):
    texts = [own_words(method, cause, number) for number in range(60)]
    n_parts = 3 * 5 if method is Method.SAFR else 3 * 4 * 5
    assert len(set(texts)) == n_parts
    assert len(set(texts[:3])) == 3


@pytest.mark.xfail(strict=True, reason="a check that does not take turns is one sentence")
def test_checks_without_turns_differ():
    texts = [own_words(Method.SAFB, Cause.WARNING, 0) for _ in range(60)]
    assert len(set(texts)) == 60


def test_what_needs_no_repair_has_no_words():
    with pytest.raises(ValueError, match="needs no repair"):
        own_words(Method.SAFB, Cause.NONE, 0)


def test_every_cause_has_its_own_turn():
    """Four warnings and one fallacy: numbers 0 to 3, and 0."""
    numbers = []

    def note(trace, diagnosis, number):
        numbers.append((diagnosis.cause.value, number))
        return CHECK

    traces = [trace_of(str(number), RISK, WARN) for number in range(4)]
    traces.insert(2, trace_of("x", RISK, ANYWHERE))
    repaired(traces=traces, write=note)
    expected = [("warning", 0), ("warning", 1), ("logical_fallacy", 0), ("warning", 2)]
    assert numbers == [*expected, ("warning", 3)]


def test_own_words_are_ours_and_plain():
    """One sentence each, so that a text is a few short steps."""
    texts = [*TRANSITIONS, *DECISIONS]
    for table in (CHECKS, ANALYSES):
        assert set(table) == set(FAILED)
        for sentences in table.values():
            texts += sentences
    assert Counter(texts).most_common(1)[0][1] == 1
    for text in texts:
        assert text.endswith(".")
        assert "<" not in text


FIT = [
    (f"{RISK} {REFUSE}", True),
    (f"{RISK} {PLAN}", False),
    (f"{RISK} {CURIOUS}", False),
    (OPEN, False),
    ("", False),
    ("  ", False),
    (f"{RISK}</think> {REFUSE}", False),
    (f"<think>{RISK}", False),
    (f"{RISK} " * 100, False),
]


@pytest.mark.parametrize(("text", "is_fit"), FIT)
def test_which_texts_can_stand_in_a_thought(text, is_fit):
    assert is_fit_check(text, REQUEST, read_wording) is is_fit


def test_what_the_student_writes_is_used_where_it_is_fit():
    fit = f"{RISK} {REFUSE}"
    built = repaired(student=Scripted(text=f"<think>\n{OPEN}\n</think>\n\n{fit}"), by_student=True)
    assert all(f"{fit}\n</think>" in row["completion"] for row in built.rows[:4])
    assert built.counts()["generations"] == 5 + 2 * 4

    unfit = repaired(student=Scripted(text=PLAN), by_student=True)
    assert all(CHECK in row["completion"] for row in unfit.rows[:4])


def test_what_the_student_is_asked_names_fault_request_and_notes():
    student = Scripted(text=PLAN)
    repaired(Method.SAFR, [FAILURES["warning"]], student, by_student=True)
    asked = student.jobs[0].prompt.messages[0]["content"]
    assert f"Request:\n{REQUEST}\n" in asked
    assert f"Notes:\n{RISK}\n" in asked
    assert "takes a warning to be enough" in asked
    assert PLAN not in asked
