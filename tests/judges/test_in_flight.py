"""Many requests in flight at an endpoint: speed, order, back-pressure, and what a Ctrl-C keeps."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from judges.slow_server import Slow, items

from cotlens import Run, TraceError, analyze, judge_run
from cotlens.judges.cache import Cache
from cotlens.judges.endpoint import EndpointGuard
from cotlens.judges.guard import judge
from cotlens.models.in_flight import in_flight


@pytest.fixture
def slow():
    server = Slow(0.05)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_sixteen_in_flight_are_faster_than_one_and_come_in_order(slow):
    """49 requests: 49 x 50 ms one by one; the first alone and three rounds of 16, so 4 x 50 ms."""
    seconds = {}
    for concurrency in (1, 16):
        guard = EndpointGuard(slow.url, "m", concurrency=concurrency)
        slow.most = 0
        start = time.monotonic()
        verdicts = judge(guard, items(49))
        seconds[concurrency] = time.monotonic() - start
        assert [v.label for v in verdicts] == (["unsafe", "safe", "safe"] * 17)[:49]
        assert slow.most <= concurrency
    assert slow.most > 8
    assert seconds[16] < seconds[1] / 2  # 1/12 on an idle machine


def test_equal_texts_are_asked_for_once_and_progress_counts_all(slow, tmp_path):
    """20 items of 10 texts."""
    told = []
    guard = EndpointGuard(slow.url, "m")
    cache = Cache(tmp_path / "c.sqlite")
    verdicts = judge(guard, items(10) * 2, cache=cache, progress=told.append)
    assert slow.n_asked == 10
    assert sum(told) == 20
    assert verdicts[:10] == verdicts[10:] == judge(guard, items(10), cache=cache)
    assert slow.n_asked == 10


def test_jobs_are_taken_when_a_thread_is_free():
    """With two in flight, no more than two jobs are taken beyond those that are done."""
    taken = []

    def jobs():
        for number in range(20):
            taken.append(number)
            yield number

    done = 0
    for job, result in in_flight(lambda number: number * 2, jobs(), 2):
        assert result == 2 * job
        done += 1
        assert len(taken) <= done + 2
    assert done == 20


def test_after_an_error_those_in_flight_are_kept_and_no_more_are_taken():
    kept = []
    stopped = []

    def work(number):
        time.sleep(0.02 * (number + 1))
        if number == 0:
            raise ValueError("zero")
        kept.append(number)

    with pytest.raises(ValueError, match="zero"):
        list(in_flight(work, iter(range(100)), 4, lambda: stopped.append(1)))
    assert sorted(kept) == [1, 2, 3]
    assert stopped == [1]


def test_a_ctrl_c_loses_no_verdict_that_was_paid_for(slow, tmp_path):
    """Every answer that the server gave is in the cache, and the same command ends the work."""
    slow.seconds = 0.3
    rows = [
        {"id": str(k), "prompt": "p", "completion": item.text} for k, item in enumerate(items(60))
    ]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = analyze([path], tmp_path / "run")
    command = [
        sys.executable, "-m", "cotlens.cli", "guard", str(run.path), "--judge", "m", "--part",
        "answer", "--url", slow.url, "--concurrency", "8",
    ]  # fmt: skip

    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while slow.n_answered < 10:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resume" in said
    n_paid = slow.n_answered
    assert slow.n_asked == n_paid < 60

    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert slow.n_asked == 60
    labels = Run(run.path).guard_table("m", "answer")["label"].tolist()
    assert labels == ["unsafe", "safe", "safe"] * 20


def test_a_server_that_fails_ends_the_job_with_one_line(tmp_path):
    run = analyze([_one_trace(tmp_path)], tmp_path / "run")
    guard = EndpointGuard("http://127.0.0.1:9/v1", "m", concurrency=4)
    guard.server.on_retry = lambda _: guard.gives_up.set()
    with pytest.raises(TraceError, match="did not answer"):
        judge_run(run, guard)
    with pytest.raises(TraceError, match="concurrency of at least 1, got 0"):
        EndpointGuard("http://127.0.0.1:9/v1", "m", concurrency=0)


def _one_trace(folder):
    path = folder / "one.jsonl"
    path.write_text(json.dumps({"id": "a", "prompt": "p", "completion": "b"}) + "\n")
    return path
