"""A few threads for requests that wait on the network.

Not a `ThreadPoolExecutor`: that one's threads are joined when Python exits,
so a stalled server would hold up Ctrl-C until its time limit.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from typing import Any, TypeVar

_T = TypeVar("_T")


class Workers:
    """Daemon threads that take jobs in order; started when there is something to do.

    Args:
        size: how many at most.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = 0
        self._lock = threading.Lock()

    def submit(self, function: Callable[..., _T], *args: Any) -> Future[_T]:
        """Run ``function(*args)`` on a thread; the future holds what came of it."""
        future: Future[_T] = Future()

        def job() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args))
            except BaseException as error:  # noqa: BLE001  (handed to whoever asks for the result)
                future.set_exception(error)

        self._jobs.put(job)
        with self._lock:
            if self._threads < self._size:
                self._threads += 1
                threading.Thread(target=self._run, name="hubvram-worker", daemon=True).start()
        return future

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def close(self) -> None:
        """Let the threads go once they are idle."""
        with self._lock:
            for _ in range(self._threads):
                self._jobs.put(None)
            self._threads = 0


def gather(jobs: Sequence[Future[Any]]) -> None:
    """Wait for all; at the first failure drop those that have not begun, and raise it."""
    done, pending = wait(jobs, return_when=FIRST_EXCEPTION)
    for job in pending:
        job.cancel()
    running = [job for job in pending if not job.cancelled()]
    if running:
        done |= wait(running).done
    for job in jobs:
        if job in done and not job.cancelled():
            job.result()
