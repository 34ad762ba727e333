"""Answers against references: what counts as the same, and that no answer can hold the caller."""

import os
import threading
import time

import pytest

from cotlens.judges.grade import Grade, grade

TABLE = [
    (r"So it is \boxed{15}.", "15", "correct"),
    (r"So it is \boxed{15}.", "16", "wrong"),
    ("The answer is 15.", "15", "correct"),
    ("The answer is 51.", "15", "wrong"),
    (r"\boxed{\frac{1}{2}}", "1/2", "correct"),
    ("0.5", r"\frac{1}{2}", "correct"),
    (r"\boxed{x+1}", "1+x", "correct"),
    (r"\boxed{(1,2)}", r"\boxed{(1,2)}", "correct"),
    ("1,234 apples", "1234", "correct"),
    ("-3", "3", "wrong"),
    (r"The answer is $7$, I mean \boxed{8}", "8", "correct"),  # the box counts
    (r"\boxed{4} and not 5", "4", "correct"),
    ("", "3", "unparsed"),
    (" \n", "3", "unparsed"),
    ("I cannot say.", "3", "unparsed"),
    (r"\boxed{}", "3", "unparsed"),
]


@pytest.mark.parametrize(("answer", "gold", "expected"), TABLE)
def test_table(answer, gold, expected):
    assert grade(answer, gold) is Grade(expected)


def test_an_answer_that_never_ends_is_unparsed_in_time_and_the_next_one_is_graded():
    started = time.monotonic()
    assert grade("9**9**9**9", "1", seconds=0.5) is Grade.UNPARSED
    assert time.monotonic() - started < 2
    assert grade("15", "15") is Grade.CORRECT


def test_it_works_in_threads_and_in_a_forked_process():
    """math-verify's own limit raises outside the main thread.

    A child that shared the pipe would mix up replies.
    """
    results: dict[int, Grade] = {}

    def work(i):
        results[i] = grade(f"The answer is {i}.", str(i if i % 2 else i + 1))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: Grade.CORRECT if i % 2 else Grade.WRONG for i in range(8)}
    child = os.fork()
    if child == 0:
        os._exit(0 if grade("7", "7") is Grade.CORRECT else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert grade("8", "8") is Grade.CORRECT


def test_a_reference_must_be_there():
    with pytest.raises(ValueError, match="reference is empty"):
        grade("3", "")


@pytest.mark.parametrize("gold", ["—", "?", "...", "{}", "N/A", "None"])
def test_a_reference_without_mathematics_is_refused(gold):
    with pytest.raises(ValueError, match="nothing mathematical"):
        grade("15", gold)


def test_a_killed_worker_costs_no_answer():
    """The system may kill it (memory): a new worker gets the question again."""
    from cotlens.judges.grade import _WORKER

    assert grade("15", "15") is Grade.CORRECT
    _WORKER.process.kill()
    _WORKER.process.wait()
    assert grade("15", "15") is Grade.CORRECT


def test_an_interrupted_question_is_not_answered_later(monkeypatch):
    """A reply that was not read must not be taken for the reply to the next question."""
    from cotlens.judges import grade as grade_module

    def interrupt(*_):
        raise KeyboardInterrupt

    assert grade("1", "1") is Grade.CORRECT
    with monkeypatch.context() as patch:
        patch.setattr(grade_module, "_read_line", interrupt)
        with pytest.raises(KeyboardInterrupt):
            grade("16", "15")
    assert grade("15", "15") is Grade.CORRECT
    for seconds in (float("nan"), float("inf"), 0, -1):
        with pytest.raises(ValueError, match="above 0"):
            grade("1", "1", seconds=seconds)
