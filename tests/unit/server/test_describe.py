from types import SimpleNamespace
from typing import Any

from lib.core.errors import ArchiveUnavailable
from lib.server.describe import ArchiveWatch


class Archive:
    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    def check(self) -> Any:
        self.asked += 1
        if self.away:
            raise ArchiveUnavailable("connection refused")
        return SimpleNamespace(version="1.10.1")


def test_the_archive_is_asked_once_in_a_while_and_its_return_is_noticed() -> None:
    archive = Archive()
    archive.away = True
    settings = SimpleNamespace(archive=SimpleNamespace(url="http://a"))
    now = [0.0]
    watch = ArchiveWatch(SimpleNamespace(archive=archive, settings=settings), lambda: now[0])  # type: ignore[arg-type]
    assert watch.state() == {"url": "http://a", "available": False, "error": "connection refused"}
    archive.away = False
    now[0] = 4.0
    assert watch.state()["available"] is False
    assert archive.asked == 1
    now[0] = 6.0
    assert watch.state() == {"url": "http://a", "available": True, "version": "1.10.1"}
