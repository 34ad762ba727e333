"""in_flight: several requests to a server at once, and never more than it was told."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_flight(
    work: Callable[[Job], Result],
    jobs: Iterable[Job],
    concurrency: int,
    stop: Callable[[], object] = lambda: None,
) -> Iterator[tuple[Job, Result]]:
    """The result of `work` for every job, as they come in.

    A job is taken when a thread is free for it, so that `jobs` may be longer than memory. After an
    error, a Ctrl-C, or when the caller stops, no further job is taken, and those in flight are
    waited for: what `work` itself puts away is not lost. A second Ctrl-C does not wait.

    Args:
        work: runs in one of the threads.
        jobs: consumed in the calling thread.
        concurrency: threads, at least 1.
        stop: called where it ends early, before those in flight are waited for.

    Raises:
        Exception: the first that `work` raises.
    """
    waiting = iter(jobs)
    flying: dict[Future[Result], Job] = {}
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            while True:
                # A free thread takes the next job.
                for job in islice(waiting, concurrency - len(flying)):
                    flying[pool.submit(work, job)] = job
                if not flying:
                    return

                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in done:
                    yield flying.pop(future), future.result()
        except BaseException:
            stop()
            raise
