"""The threads that wait on the network."""

from __future__ import annotations

import threading
import time

import pytest

from hubvram.sources.workers import Workers, gather


def test_results_come_back_and_no_more_threads_than_allowed() -> None:
    workers = Workers(3)
    seen: set[str] = set()
    gate = threading.Barrier(3, timeout=5)

    def job(i: int) -> int:
        seen.add(threading.current_thread().name + str(threading.get_ident()))
        gate.wait()  # three run at once, or this breaks
        return i * i

    jobs = [workers.submit(job, i) for i in range(9)]
    gather(jobs)
    assert [j.result() for j in jobs] == [i * i for i in range(9)]
    assert len(seen) == 3
    workers.close()


def test_the_first_failure_drops_what_has_not_begun() -> None:
    workers = Workers(1)
    ran: list[int] = []

    def job(i: int) -> None:
        ran.append(i)
        time.sleep(0.02)
        if i == 1:
            raise ValueError(i)

    with pytest.raises(ValueError, match="1"):
        gather([workers.submit(job, i) for i in range(50)])
    assert len(ran) < 10
    workers.close()


def test_nothing_to_do() -> None:
    gather([])


def test_a_closed_pool_lets_its_threads_go() -> None:
    before = threading.active_count()
    workers = Workers(4)
    gather([workers.submit(time.sleep, 0.01) for _ in range(8)])
    workers.close()
    give_up = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < give_up:
        time.sleep(0.01)
    assert threading.active_count() <= before
