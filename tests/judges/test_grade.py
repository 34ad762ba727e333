"""Answers against references: what counts as the same, and that no answer can hold the caller."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cotlens.judges.answer import candidates, last_box
from cotlens.judges.equality import same
from cotlens.judges.grade import _WORKER, Grade, compare, grade
from cotlens.judges.notation import one_notation
from cotlens.judges.numerals import Unreadable, read_number
from cotlens.judges.quantities import read_quantity, read_unit
from cotlens.judges.reading import read

ANSWERS = Path(__file__).parent / "answers.tsv"


def read_answers():
    """The rows of the table: answer, reference, verdict. ⏎ is a line break."""
    rows = []
    for line in ANSWERS.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("# "):
            answer, gold, verdict = line.split("\t")
            rows.append((answer.replace("⏎", "\n"), gold.replace("⏎", "\n"), verdict))
    return rows


@pytest.mark.parametrize(("answer", "gold", "expected"), read_answers())
def test_table(answer, gold, expected):
    assert compare(answer, gold) == expected


def test_the_table_is_graded_by_the_worker_as_in_the_process():
    for answer, gold, expected in read_answers()[::10]:
        assert grade(answer, gold) is Grade(expected)


@pytest.mark.parametrize(("answer", "gold", "expected"), read_answers())
def test_an_answer_is_the_same_in_a_box_with_spaces_and_with_an_end_mark(answer, gold, expected):
    """What surrounds an answer changes no verdict."""
    if "boxed" in answer or "\n" in answer or expected == "unparsed" or " " in answer:
        pytest.skip("it is a sentence, or holds a box")
    for written in (f"\\boxed{{{answer}}}", f"\\boxed{{ {answer} }}", f"The answer is: {answer}."):
        assert compare(written, gold) == expected, written


@pytest.mark.parametrize(("answer", "gold", "expected"), read_answers())
def test_every_reference_equals_itself(answer, gold, expected):
    assert compare(f"\\boxed{{{last_box(gold) or gold}}}", gold) == "correct" or "####" in gold


def test_what_is_searched_for_an_answer():
    assert last_box(r"\boxed{1} \boxed{\{2\}}") == r"\{2\}"
    assert last_box(r"\boxed{1} \boxed{2") == ""
    assert last_box("none") is None
    assert candidates("It is so. The answer is 5 because 2 + 3 = 5.")[1] == "5"
    assert candidates("So x = 5.\nAnswer: B", of_choice=True) == ["B"]
    assert candidates("The answer follows.\nIt is $x = 5$.")[-1] == "$x = 5$"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.5", 1234.5), ("-7", -7), ("+7", 7), (".5", 0.5), ("3 1/2", 3.5), ("2^{3}", None),
        ("1.5e3", 1500), ("101_2", 5), ("FF_{16}", 255), ("12,34", None), ("", None),
    ],
)  # fmt: skip
def test_numbers(text, value):
    number = read_number(text)
    assert (number.value if number else None) == value


@pytest.mark.parametrize("text", ["1/0", "102_2", "5_1", "3 5/2", "0.12...", "1" * 3000])
def test_what_has_the_form_of_a_number_and_is_none(text):
    with pytest.raises(Unreadable):
        read_number(text)


@pytest.mark.parametrize(
    ("text", "powers"),
    [
        ("km/h", (("length", 1), ("time", -1))), ("square feet", (("length", 2),)),
        ("m / s^{2}", (("length", 1), ("time", -2))), ("apples", None), ("%", ()), ("L", (("length", 3),)),
    ],
)  # fmt: skip
def test_units(text, powers):
    unit = read_unit(text)
    assert (unit.powers if unit else None) == powers


def test_words_that_change_a_number_are_no_unit():
    for text in ("5 or 6", "5 to 6", "5 times", "5 pm", "5 out of 12", "5 halves", "5x", "5m"):
        assert read_quantity(text) is None
    assert read_quantity("5 million dollars").number.value == 5_000_000


def test_the_comparison_is_symmetric_where_nothing_is_left_out():
    """Both ways, for inequalities and intervals too (math-verify 0.9.0 compares one way)."""
    for first, second in ((r"x \ge 2", r"[2,\infty)"), ("1/2", "0.5"), ("(1,2)", "1<x<2")):
        gold, answer = read(one_notation(first)), read(one_notation(second))
        assert same(gold, answer)
        assert same(answer, gold)


HOSTILE = [
    "a" * 500_000, "\\boxed{" * 70_000, "\\boxed{1}" * 50_000, "$" * 500_000, "$ " * 250_000,
    "1 111 " * 80_000, "(" * 500_000, "answer is " * 50_000, "\\boxed{" + "{" * 500_000,
    "Answer:" + " " * 500_000, "*" * 500_000, "\\boxed{" + "\\frac{" * 300 + "}",
    "\\boxed{" + "a" * 900 + "!=}", "\\boxed{" + "x=" * 400 + "}", "\\boxed{" + "1," * 900 + "1}",
    "-" * 500_000, "\\boxed{" + "x_" * 450 + "}", "3." + "12" * 250_000 + "...",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_takes_no_second(text):
    started = time.monotonic()
    compare(text, "5")
    assert time.monotonic() - started < 2


def test_an_answer_that_never_ends_is_unparsed_in_time_and_the_next_one_is_graded():
    grade("15", "15")
    started = time.monotonic()
    assert grade(r"\boxed{(10^{9})!}", "1", seconds=0.5) is Grade.UNPARSED
    assert time.monotonic() - started < 3
    assert grade("15", "15") is Grade.CORRECT


def test_it_works_in_threads_and_in_a_forked_process():
    """A child that shared its parent's worker would mix up replies."""
    results: dict[int, Grade] = {}

    def work(i):
        results[i] = grade(f"The answer is {i}.", str(i if i % 2 else i + 1))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: Grade.CORRECT if i % 2 else Grade.WRONG for i in range(8)}
    _WORKER.close()  # to fork a process with threads is deprecated
    child = os.fork()
    if child == 0:
        os._exit(0 if grade("7", "7") is Grade.CORRECT else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert grade("8", "8") is Grade.CORRECT


def test_a_script_without_a_guard_runs_once(tmp_path):
    """A process that is spawned imports the script that spawned it: not this one."""
    script = tmp_path / "script.py"
    script.write_text(
        "from cotlens.judges.grade import grade\nprint('ran')\nprint(grade('5', '5').value)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "ran\ncorrect\n"), done.stderr


def test_a_reference_must_be_there():
    with pytest.raises(ValueError, match="reference is empty"):
        grade("3", "")


@pytest.mark.parametrize("gold", ["—", "?", "...", "{}", "N/A", "None"])
def test_a_reference_without_mathematics_is_refused(gold):
    with pytest.raises(ValueError, match="nothing mathematical"):
        grade("15", gold)


def test_a_killed_worker_costs_no_answer():
    """The system may kill it (memory): a new worker gets the question again."""
    assert grade("15", "15") is Grade.CORRECT
    workers = _WORKER.pool._pool_manager.worker_manager.workers
    for process in list(workers.values()):
        process.kill()
        process.join()
    assert grade("15", "15") is Grade.CORRECT


def test_an_interrupted_question_is_not_answered_later(monkeypatch):
    """A reply that was not read must not be taken for the reply to the next question."""
    from pebble import ProcessFuture

    def interrupt(*_):
        raise KeyboardInterrupt

    assert grade("1", "1") is Grade.CORRECT
    with monkeypatch.context() as patch:
        patch.setattr(ProcessFuture, "result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            grade("16", "15")
    assert grade("15", "15") is Grade.CORRECT
    for seconds in (float("nan"), float("inf"), 0, -1):
        with pytest.raises(ValueError, match="above 0"):
            grade("1", "1", seconds=seconds)
