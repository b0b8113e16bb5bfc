import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lib.core.errors import ArchiveUnavailable
from lib.dicom.config import ArchiveConfig
from lib.server.watch import ArchiveWatch, impatient


class Archive:
    url = "http://a"

    def __init__(self) -> None:
        self.answer: Callable[[], Any] = lambda: SimpleNamespace(version="1.10.1")

    def check(self) -> Any:
        return self.answer()


def away() -> Any:
    raise ArchiveUnavailable("connection refused")


def broken() -> Any:
    raise AttributeError("no dict")


def until(check: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not check() and time.monotonic() < deadline:
        time.sleep(0.01)
    return check()


@pytest.fixture
def archive() -> Archive:
    return Archive()


@pytest.fixture
def watch(archive: Archive) -> Iterator[ArchiveWatch]:
    made = ArchiveWatch(archive, every_s=0.02)  # type: ignore[arg-type]
    yield made
    made.stop()


def test_the_state_follows_the_archive_as_it_goes_and_comes(archive: Archive, watch: ArchiveWatch) -> None:
    assert watch.state() == {"url": "http://a", "available": False, "error": "not asked yet"}
    watch.start()
    assert until(lambda: watch.state() == {"url": "http://a", "available": True, "version": "1.10.1"})
    archive.answer = away
    assert until(lambda: watch.state() == {"url": "http://a", "available": False, "error": "connection refused"})
    archive.answer = Archive().answer
    assert until(lambda: watch.state()["available"])


def test_an_answer_that_nobody_expected_does_not_end_the_watch(archive: Archive, watch: ArchiveWatch) -> None:
    archive.answer = broken
    watch.start()
    assert until(lambda: watch.state().get("error") == "unexpected answer: AttributeError")
    archive.answer = Archive().answer
    assert until(lambda: watch.state()["available"])


def test_the_last_state_is_told_while_the_archive_keeps_silent(archive: Archive, watch: ArchiveWatch) -> None:
    watch.ask()
    asked, answer = threading.Event(), threading.Event()

    def silent() -> Any:
        asked.set()
        answer.wait(60)
        raise ArchiveUnavailable("timed out")

    archive.answer = silent
    watch.start()
    assert asked.wait(20)
    assert watch.state()["available"] is True
    answer.set()
    assert until(lambda: not watch.state()["available"])


def test_a_look_at_the_archive_is_short() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/dicom-web"
        assert impatient(ArchiveConfig(url, "", "", timeout_s=600.0))._config.timeout_s == 3.0
        watch = ArchiveWatch(impatient(ArchiveConfig(url, "", "", timeout_s=0.2)))
        watch.ask()
    assert "timed out" in watch.state()["error"]
