"""Bounded threads for blocking work, so that the event loop never waits."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from lib.server.errors import Busy

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A few threads with a waiting line of limited length.

    Args:
        name: shown in thread names and messages.
        threads: calls that run at once.
        max_waiting: calls that may wait besides; one more is refused.
    """

    def __init__(self, name: str, threads: int, max_waiting: int) -> None:
        self._name = name
        self._places = threading.BoundedSemaphore(threads + max_waiting)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The function's result, computed in a thread.

        Raises:
            Busy: the waiting line is full.
        """
        if not self._places.acquire(blocking=False):
            raise Busy(f"all threads for {self._name} work and the waiting line is full; try again in a moment")
        try:
            future: Future[T] = self._executor.submit(function, *args, **kwargs)
        except BaseException:
            self._places.release()
            raise
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Forget the calls that wait; the ones that run end by themselves."""
        self._executor.shutdown(wait=False, cancel_futures=True)
