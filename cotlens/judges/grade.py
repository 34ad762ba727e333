"""Is an answer right: a mathematical answer against its reference, by math-verify.

Shared by analysis and rewards; imports nothing of cotlens. math-verify (the extra `train`) parses with sympy, which an
answer such as `9**9**9**9` can hold for hours, and its own time limit works in the main thread only. Here it runs in a
worker process of its own, which is killed when its time is up and started again: any thread and any process may call.
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
    """What an answer is worth. An answer nobody could read is not the same as a wrong one."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"  # no mathematical expression in it, or none that could be read in time


SECONDS = 5.0  # that one comparison may take
_MEMORY = (
    4 << 30
)  # bytes of address space: a worker that wants more dies, and the answer is unparsed
_DELIMITERS = ("$", "\\boxed", "\\(", "\\[")


def grade(answer: str, gold: str, *, seconds: float = SECONDS) -> Grade:
    r"""Whether an answer equals the reference as mathematics.

    The last `\boxed{}` counts where there is one, else the last formula or number; `1/2`, `\frac{1}{2}` and `0.5` are
    the same. Give the answer without the thinking: a number that was only thought of is no answer.

    Args:
        answer: the model's answer.
        gold: the reference, plain, in LaTeX, or in dollars or a box.
        seconds: limit of one comparison; what takes longer is unparsed. A limit that is met costs a new worker.

    Raises:
        ImportError: if math-verify is not installed.
        ValueError: if the reference is empty or has nothing mathematical in it. (A word is read as a product of
            letters: references in words are not for this function.)

    >>> grade("So the answer is \\boxed{0.5}.", "1/2").value
    'correct'
    """
    if not gold.strip():
        raise ValueError("the reference is empty: there is nothing to grade against")
    if gold.strip().lower() in ("n/a", "none", "nan", "null") or not any(map(str.isalnum, gold)):
        raise ValueError(
            f"the reference {gold!r} has nothing mathematical in it; expected a number or a formula"
        )
    if find_spec("math_verify") is None:
        raise ImportError("grading needs math-verify: pip install 'cotlens[train]'")
    if not answer.strip():
        return Grade.UNPARSED
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"seconds: expected a number above 0, got {seconds}")
    reply = _WORKER.ask(answer, gold, seconds)
    if (
        not reply
    ):  # the worker was killed, by the answer or by somebody else: another chance tells them apart
        reply = _WORKER.ask(answer, gold, seconds) or Grade.UNPARSED.value
    if reply == "no gold":
        raise ValueError(
            f"the reference {gold!r} has nothing mathematical in it; expected a number or a formula"
        )
    return Grade(reply)


class _Worker:
    """One process that compares, a lock around it, and a deadline on every reply."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.lock, self.owner = threading.Lock(), os.getpid()
        self.of_parents: list[subprocess.Popen[bytes] | None] = []  # not ours to close

    def ask(self, answer: str, gold: str, seconds: float) -> str:
        if (
            self.owner != os.getpid()
        ):  # a forked child must not share its parent's worker, nor a lock held by a thread
            self.of_parents.append(self.process)
            self.process, self.lock, self.owner = None, threading.Lock(), os.getpid()
        with self.lock:
            process = self.process or self._start()
            assert process.stdin
            assert process.stdout
            deadline = time.monotonic() + seconds
            try:
                process.stdin.write(json.dumps([answer, gold, seconds]).encode() + b"\n")
                process.stdin.flush()
                line = _read_line(process.stdout, deadline)
            except BrokenPipeError:
                line = b""
            except (
                BaseException
            ):  # a reply that nobody read would be taken for that to the next question
                self.close()
                raise
            if not line.endswith(b"\n"):
                self.close()
                return "" if time.monotonic() < deadline else Grade.UNPARSED.value
            return json.loads(line)

    def _start(self) -> "subprocess.Popen[bytes]":
        script = f"import sys; sys.path[:] = {sys.path!r}; from cotlens.judges.grade import _serve; _serve()"
        command = [sys.executable, "-c", script]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        assert self.process.stdout
        line = _read_line(
            self.process.stdout, time.monotonic() + 120
        )  # sympy takes a second or two to load
        if line != b"ready\n":
            self.close()
            raise ImportError("math-verify could not be loaded; its own message stands above")
        return self.process

    def close(self) -> None:
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
    """What comes through the pipe up to a line break, the deadline or the end."""
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready or not (more := os.read(pipe.fileno(), 65536)):
            break
        line += more
    return line


def _serve() -> None:
    """The worker: a JSON list `[answer, gold, seconds]` a line in, a JSON string a line out, until its input ends."""
    import logging
    import resource
    import signal

    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # it warns that its own limit is off: the caller's holds
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    replies, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    configs = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        answer, gold, seconds = json.loads(line)
        signal.alarm(
            math.ceil(seconds) + 10
        )  # the system ends it if the caller, who should have, is no more
        # Without dollars a formula would be read as plain text, and only its last number found.
        marked = gold if any(mark in gold for mark in _DELIMITERS) else f"${gold}$"
        expected = parse(marked, configs, parsing_timeout=0) or parse(
            gold, configs, parsing_timeout=0
        )
        found = parse(answer, configs, parsing_timeout=0) if expected else []
        if not expected:
            reply = "no gold"
        elif not found:
            reply = Grade.UNPARSED.value
        else:
            reply = (
                Grade.CORRECT if verify(expected, found, timeout_seconds=None) else Grade.WRONG
            ).value
        signal.alarm(0)
        print(json.dumps(reply), file=replies, flush=True)
