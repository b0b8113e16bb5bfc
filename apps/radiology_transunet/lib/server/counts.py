"""How many series a task has in which state, counted once for all who look at the list.

To count them the database goes through all series: each open work list asks every few seconds, and all may have the
same answer.
"""

import threading
import time
from collections.abc import Callable

from lib.workflows.worklist import Counts

FRESH_S = 3.0
"""Less than the time between two questions of a page: who looks on sees what has happened the next time."""


class CountCache:
    """The counts of each task; may be asked by many threads, of which one counts and the others wait for it.

    Args:
        count: counts a task's series now.
        fresh_s: seconds for which an answer holds.
        clock: gives monotonic seconds.
    """

    def __init__(
        self, count: Callable[[str], Counts], fresh_s: float = FRESH_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._count = count
        self._fresh_s = fresh_s
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Counts]] = {}

    def of(self, task: str) -> Counts:
        """The counts of a task, at most `fresh_s` old."""
        with self._lock:
            until, counts = self._known.get(task, (float("-inf"), {}))
            if self._clock() >= until:
                counts = self._count(task)
                self._known[task] = (self._clock() + self._fresh_s, counts)
            return counts
