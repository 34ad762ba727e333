r"""Is an answer right? Compare it with its reference as mathematics.

Analysis and rewards use this file. The answer is found in the text (`answer`), brought into one
notation (`notation`), read (`reading`), and compared (`equality`); math-verify (the extra `train`)
parses formulas with sympy, which an answer such as `9**9**9**9` can occupy for hours. So all of it
runs in a worker process of pebble's, which is killed when its time is up and then started again.
Any thread may call `grade`, and any process that may start others.
"""

import math
import os
import re
import sys
import threading
from concurrent.futures import TimeoutError as OutOfTime
from concurrent.futures.process import BrokenProcessPool
from enum import StrEnum
from importlib.util import find_spec
from multiprocessing import current_process
from multiprocessing.context import SpawnContext, SpawnProcess
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cotlens.judges.answer import candidates
from cotlens.judges.equality import same
from cotlens.judges.kinds import Answer, Choice, Words
from cotlens.judges.notation import one_notation
from cotlens.judges.numerals import Unreadable
from cotlens.judges.quantities import Quantity
from cotlens.judges.reading import normal_words, read

if TYPE_CHECKING:
    from pebble import ProcessPool


class Grade(StrEnum):
    """What an answer is worth. An answer that could not be read is not the same as a wrong one."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # nothing in it can be read for certain, or nothing was read in time


SECONDS = 5.0  # limit of one comparison
_MEMORY = 4 << 30  # bytes of address space: a worker that wants more dies

_NO_ANSWER = ("n/a", "none", "nan", "null", "unknown")


def grade(answer: str, gold: str, *, seconds: float = SECONDS) -> Grade:
    r"""Return whether an answer equals the reference as mathematics.

    The last `\boxed{}` counts if there is one; else what `answer is` or `Answer:` introduces; else
    the whole text if it can be read, or its last formula or number. `1/2`, `\frac{1}{2}` and `0.5`
    are equal; docs/grading.md has the rules for units, percent, lists, intervals and choices. Pass
    the answer without the thinking: a number in the thinking is not an answer.

    Args:
        answer: the model's answer.
        gold: the reference: plain, in LaTeX, in dollars or a box, or after GSM8K's `####`. The
            letter of a multiple choice and words are compared as such.
        seconds: limit of one comparison. An answer that takes longer is unparsed, and costs a new
            worker.

    Raises:
        ImportError: if math-verify is not installed.
        ValueError: if the reference is empty or says nothing.

    >>> grade("So the answer is \\boxed{0.5}.", "1/2").value
    'correct'
    """
    _check_gold(gold)
    for package in ("math_verify", "pebble"):
        if find_spec(package) is None:
            raise ImportError(f"grading needs {package}: pip install 'cotlens[train]'")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds: expected a number above 0, got {seconds}")
    if not answer.strip():
        return Grade.UNPARSED

    # A worker that died was killed by this answer or from outside: a second try tells which.
    reply = _WORKER.ask(answer, gold, seconds) or _WORKER.ask(answer, gold, seconds)
    return Grade(reply or Grade.UNPARSED)


def _check_gold(gold: str) -> None:
    """Raise ValueError for a reference that no answer can equal."""
    plain = gold.strip().lower()
    if not plain:
        raise ValueError("the reference is empty: there is nothing to grade against")
    says_something = any(map(str.isalnum, gold)) or "∅" in gold or "∞" in gold
    if plain in _NO_ANSWER or not says_something:
        raise ValueError(
            f"the reference {gold!r} has nothing mathematical in it; expected a number or a formula"
        )


# --- in the worker --------------------------------------------------------------------------------


def compare(answer: str, gold: str) -> str:
    """Return the grade of an answer, without a limit of time. The worker runs this."""
    gold_text, reference = _read_gold(gold)
    is_choice = isinstance(reference, Choice)

    for piece in candidates(answer, of_choice=is_choice):
        text = one_notation(piece)
        if not text or text.lower() in _NO_ANSWER:
            continue
        has_words = re.search(r"[A-Za-z]{2}", text)
        if text == gold_text or (has_words and text.lower() == gold_text.lower()):
            return Grade.CORRECT.value
        try:
            stated = _read_answer(text, reference)
            is_right = same(reference, stated)
        except Unreadable:
            continue
        return Grade.CORRECT.value if is_right else Grade.WRONG.value
    return Grade.UNPARSED.value


def _read_gold(gold: str) -> tuple[str, Answer]:
    """Return the text of a reference in one notation, and what it is; at the least it is words."""
    for piece in candidates(gold):
        text = one_notation(piece)
        try:
            return text, read(text)
        except Unreadable:
            continue
    text = one_notation(gold)
    return text, Words(normal_words(text))


def _read_answer(text: str, reference: Answer) -> Answer:
    """Return what an answer is.

    Words are read only against words, and a comma as a decimal point only against a number.

    Raises:
        Unreadable: if it cannot be read.
    """
    if isinstance(reference, Quantity) and _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    if isinstance(reference, Words) and re.search(r"[A-Za-z]{2}", text):
        return Words(normal_words(text))

    stated = read(text)
    has_words = isinstance(reference, Words) or (isinstance(reference, Choice) and reference.rest)
    if isinstance(stated, Words) and not has_words:
        raise Unreadable("an answer in words")
    return stated


# Not 1,234: that is a thousand.
_DECIMAL_COMMA = re.compile(r"[-+¤€£]?\s?(?:0,\d+|\d+,(?!\d{3}(?!\d))\d+)(?:\s?[^\d,;]*)?")


# --- the worker -----------------------------------------------------------------------------------


class _Process(SpawnProcess):
    """A process that does not import the caller's script again, as one that is spawned would.

    A script without `if __name__ == "__main__"` would run a second time.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802
        with _START:
            script = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process_obj)  # type: ignore[attr-defined]
            finally:
                sys.modules["__main__"] = script


class _Context(SpawnContext):
    Process = _Process


_START = threading.Lock()


def _prepare_worker() -> None:
    """Load math-verify before the first question, and limit the memory."""
    import logging
    import resource

    import math_verify  # noqa: F401

    # math-verify warns that its own time limit is off: the caller's holds.
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


class _Worker:
    """One process of a pool of pebble's, and one question at a time."""

    def __init__(self) -> None:
        self.pool: ProcessPool | None = None
        self.lock = threading.Lock()

    def ask(self, answer: str, gold: str, seconds: float) -> str | None:
        """Return the worker's reply; unparsed if it is late, and None if the worker died."""
        from pebble import ProcessExpired

        with self.lock:
            pool = self._pool()
            future = pool.schedule(compare, args=[answer, gold], timeout=seconds)
            try:
                return future.result()
            except OutOfTime:
                return Grade.UNPARSED.value
            except (MemoryError, RecursionError):
                return Grade.UNPARSED.value
            except (ProcessExpired, BrokenProcessPool):
                self.close()
                return None
            except BaseException:
                # The reply to a question that was interrupted is not waited for.
                self.close()
                raise

    def _pool(self) -> "ProcessPool":
        from pebble import ProcessPool

        if self.pool is None:
            if current_process().daemon:
                raise RuntimeError(
                    "grading starts a process, and this process is daemonic and may start none; "
                    "grade in the main process"
                )
            context = _Context()
            self.pool = ProcessPool(1, initializer=_prepare_worker, context=context)
        return self.pool

    def close(self) -> None:
        """Kill the process."""
        pool, self.pool = self.pool, None
        if pool:
            pool.stop()
            pool.join()

    def forget(self) -> None:
        """Start anew in a forked child, which has no share in its parent's worker."""
        self.pool = None
        self.lock = threading.Lock()


_WORKER = _Worker()
os.register_at_fork(after_in_child=_WORKER.forget)
