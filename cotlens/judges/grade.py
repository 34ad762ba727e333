"""Is an answer right? Compare a mathematical answer with its reference, by math-verify.

Analysis and rewards use this file; it imports nothing of cotlens. math-verify (the extra `train`)
parses with sympy, which an answer such as `9**9**9**9` can occupy for hours, and math-verify's own
time limit works in the main thread only. So it runs in a worker process, which is killed when its
time is up and then started again. Any thread and any process may call `grade`.
"""

import atexit
import json
import math
import os
import select
import subprocess
import sys
import threading
import time
from enum import StrEnum
from importlib.util import find_spec
from typing import IO


class Grade(StrEnum):
    """What an answer is worth. An answer that could not be read is not the same as a wrong one."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # it has no mathematical expression, or none that was read in time


SECONDS = 5.0  # limit of one comparison
_MEMORY = 4 << 30  # bytes of address space: a worker that wants more dies
_START_SECONDS = 120  # sympy takes a second or two to load

_NO_NUMBER = ("n/a", "none", "nan", "null")
_DELIMITERS = ("$", "\\boxed", "\\(", "\\[")

# What `_Worker.ask` returns besides grades.
_NO_GOLD = "no gold"  # the reference has nothing mathematical in it
_DIED = ""  # the worker died before it replied


def grade(answer: str, gold: str, *, seconds: float = SECONDS) -> Grade:
    r"""Return whether an answer equals the reference as mathematics.

    The last `\boxed{}` counts if there is one, else the last formula or number. `1/2`,
    `\frac{1}{2}` and `0.5` are equal. Pass the answer without the thinking: a number in the
    thinking is not an answer.

    Args:
        answer: the model's answer.
        gold: the reference, plain, in LaTeX, or in dollars or a box.
        seconds: limit of one comparison. An answer that takes longer is unparsed, and costs a new
            worker.

    Raises:
        ImportError: if math-verify is not installed.
        ValueError: if the reference is empty or has nothing mathematical in it. (A word is read as
            a product of letters: this function is not for references in words.)

    >>> grade("So the answer is \\boxed{0.5}.", "1/2").value
    'correct'
    """
    _check_gold(gold)
    if find_spec("math_verify") is None:
        raise ImportError("grading needs math-verify: pip install 'cotlens[train]'")
    if not answer.strip():
        return Grade.UNPARSED
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds: expected a number above 0, got {seconds}")

    # A worker that died was killed by this answer or from outside: a second try tells which.
    reply = _WORKER.ask(answer, gold, seconds)
    if reply == _DIED:
        reply = _WORKER.ask(answer, gold, seconds)
    if reply == _DIED:
        return Grade.UNPARSED

    if reply == _NO_GOLD:
        raise _not_mathematical(gold)
    return Grade(reply)


def _check_gold(gold: str) -> None:
    """Raise ValueError for a reference that no answer can equal."""
    plain = gold.strip().lower()
    if not plain:
        raise ValueError("the reference is empty: there is nothing to grade against")
    if plain in _NO_NUMBER or not any(map(str.isalnum, gold)):
        raise _not_mathematical(gold)


def _not_mathematical(gold: str) -> ValueError:
    return ValueError(
        f"the reference {gold!r} has nothing mathematical in it; expected a number or a formula"
    )


class _Worker:
    """One process that compares, with a lock around it and a deadline for every reply."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()
        self.owner = os.getpid()
        # Workers of parent processes. They are kept, so that they are not closed here.
        self.of_parents: list[subprocess.Popen[bytes] | None] = []

    def ask(self, answer: str, gold: str, seconds: float) -> str:
        """Return the worker's reply; unparsed if it is late, and `_DIED` if the worker died."""
        # A forked child shares neither its parent's worker nor a lock that some thread may hold.
        if self.owner != os.getpid():
            self.of_parents.append(self.process)
            self.process = None
            self.lock = threading.Lock()
            self.owner = os.getpid()

        with self.lock:
            process = self.process or self._start()
            assert process.stdin
            assert process.stdout

            question = json.dumps([answer, gold, seconds])
            deadline = time.monotonic() + seconds
            try:
                process.stdin.write(question.encode() + b"\n")
                process.stdin.flush()
                line = _read_line(process.stdout, deadline)
            except BrokenPipeError:
                line = b""
            except BaseException:
                # A reply that was not read would be taken for the reply to the next question.
                self.close()
                raise

            if line.endswith(b"\n"):
                return json.loads(line)
            self.close()
            is_late = time.monotonic() >= deadline
            return Grade.UNPARSED.value if is_late else _DIED

    def _start(self) -> "subprocess.Popen[bytes]":
        """Start the process, and wait until it has loaded math-verify."""
        script = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from cotlens.judges.grade import _serve; _serve()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self.process.stdout

        deadline = time.monotonic() + _START_SECONDS
        line = _read_line(self.process.stdout, deadline)
        if line != b"ready\n":
            self.close()
            raise ImportError("math-verify could not be loaded; its own message stands above")
        return self.process

    def close(self) -> None:
        """Kill the process, if this process started it."""
        if self.process is None or self.owner != os.getpid():
            return

        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        self.process = None


_WORKER = _Worker()
atexit.register(_WORKER.close)


def _read_line(pipe: "IO[bytes]", deadline: float) -> bytes:
    """Return what comes through the pipe up to a line break, the deadline or the end."""
    line = b""
    while not line.endswith(b"\n"):
        seconds_left = max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([pipe], [], [], seconds_left)
        if not ready:
            break
        piece = os.read(pipe.fileno(), 65536)
        if not piece:
            break
        line += piece
    return line


def _serve() -> None:
    """Run the worker, until its input ends.

    A line in is a JSON list `[answer, gold, seconds]`; a line out is a JSON string.
    """
    import logging
    import resource
    import signal

    from math_verify import ExprExtractionConfig, LatexExtractionConfig

    # math-verify warns that its own time limit is off: the caller's holds.
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))

    # Only replies go to the standard output.
    replies = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr
    configs = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    print("ready", file=replies, flush=True)

    for line in sys.stdin:
        answer, gold, seconds = json.loads(line)
        # The system ends the worker if the caller, who should have, is gone.
        signal.alarm(math.ceil(seconds) + 10)
        reply = _compare(answer, gold, configs)
        signal.alarm(0)
        print(json.dumps(reply), file=replies, flush=True)


def _compare(answer: str, gold: str, configs: list) -> str:
    """Return the reply to one question, in the worker."""
    from math_verify import parse, verify

    # Without dollars a formula would be read as plain text, and only its last number found.
    is_marked = any(mark in gold for mark in _DELIMITERS)
    formula = gold if is_marked else f"${gold}$"
    expected = parse(formula, configs, parsing_timeout=0)
    if not expected:
        expected = parse(gold, configs, parsing_timeout=0)
    if not expected:
        return _NO_GOLD

    expressions = parse(answer, configs, parsing_timeout=0)
    if not expressions:
        return Grade.UNPARSED.value
    if verify(expected, expressions, timeout_seconds=None):
        return Grade.CORRECT.value
    return Grade.WRONG.value
