"""The counts of the work list are told again for a few seconds, then counted anew."""

import threading
import time

from lib.server.counts import CountCache
from lib.workflows.worklist import Counts

KIND = ("CT", "")


class Counter:
    """Counts how often it was asked."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.asked: list[str] = []
        self._wait_s = wait_s

    def __call__(self, task: str) -> Counts:
        self.asked.append(task)
        time.sleep(self._wait_s)
        return {KIND: {"todo": len(self.asked)}}


def test_counts_hold_for_their_time_and_not_longer() -> None:
    now, count = [100.0], Counter()
    cache = CountCache(count, fresh_s=3.0, clock=lambda: now[0])
    assert cache.of("spleen") == {KIND: {"todo": 1}}
    now[0] = 102.9
    assert cache.of("spleen") == {KIND: {"todo": 1}}
    now[0] = 103.0
    assert cache.of("spleen") == {KIND: {"todo": 2}}
    assert count.asked == ["spleen", "spleen"]


def test_each_task_has_its_own_counts() -> None:
    count = Counter()
    cache = CountCache(count, clock=lambda: 0.0)
    assert [cache.of(task)[KIND]["todo"] for task in ("spleen", "liver", "spleen")] == [1, 2, 1]


def test_many_who_ask_at_once_have_it_counted_once() -> None:
    count = Counter(wait_s=0.1)
    cache = CountCache(count, fresh_s=60.0)
    threads = [threading.Thread(target=cache.of, args=("spleen",)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.asked == ["spleen"]
