import asyncio
import threading
import time

import pytest

from lib.server.errors import Busy
from lib.server.pool import Pool


def test_the_event_loop_goes_on_while_a_call_blocks() -> None:
    async def both() -> int:
        pool = Pool("test", 1, 1)
        release = threading.Event()
        blocked = asyncio.create_task(pool.run(release.wait, 5))
        beats = 0
        while beats < 5:
            await asyncio.sleep(0.01)
            beats += 1
        assert not blocked.done()
        release.set()
        assert await blocked is True
        pool.close()
        return beats

    assert asyncio.run(both()) == 5


def test_a_full_waiting_line_is_refused_and_frees_itself() -> None:
    async def flow() -> None:
        pool = Pool("test", 1, 1)
        release = threading.Event()
        running = asyncio.create_task(pool.run(release.wait, 5))
        waiting = asyncio.create_task(pool.run(lambda: 7))
        await asyncio.sleep(0.05)
        with pytest.raises(Busy, match="test"):
            await pool.run(lambda: 8)
        release.set()
        assert await waiting == 7
        await running
        assert await pool.run(lambda: 9) == 9
        pool.close()

    asyncio.run(flow())


def test_no_more_calls_run_at_once_than_there_are_threads() -> None:
    lock = threading.Lock()
    now, most = 0, 0

    def work() -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1

    async def flow() -> None:
        pool = Pool("test", 2, 20)
        await asyncio.gather(*(pool.run(work) for _ in range(10)))
        pool.close()

    asyncio.run(flow())
    assert most == 2


def test_an_error_of_the_call_reaches_the_caller_and_gives_its_place_back() -> None:
    async def flow() -> None:
        pool = Pool("test", 1, 1)
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await pool.run(lambda: 1 // 0)
        pool.close()

    asyncio.run(flow())
