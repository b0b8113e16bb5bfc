import errno
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from lib.core.atomic import is_full, replacing, room_required
from lib.core.errors import DiskFull


def no_room(path: str = "/data/x") -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def full_database() -> sqlite3.Error:
    """What SQLite raises on a file that cannot grow."""
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA max_page_count = 2")
    try:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    except sqlite3.Error as error:
        return error
    finally:
        connection.close()
    raise AssertionError("the database found room")


def test_a_file_appears_with_its_last_byte_and_replaces_the_one_before(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    target.write_text("old")
    with replacing(target) as unnamed:
        unnamed.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [no_room(), ValueError("no number"), KeyboardInterrupt()])
def test_what_fails_leaves_the_file_before_and_nothing_beside_it(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "plan.json"
    target.write_text("old")
    with pytest.raises(BaseException) as caught, replacing(target) as unnamed:  # noqa: PT011, PT012
        unnamed.write_text("half of the n")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    assert isinstance(caught.value, DiskFull) == isinstance(error, OSError)


def test_a_full_disk_is_named_with_what_is_free_and_what_to_do(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free // 2**20
    with (
        open("/dev/full", "wb", buffering=0) as full,  # a real device
        pytest.raises(DiskFull, match=rf"model has no room: \d+ MiB are free in {tmp_path}; make room") as caught,
        room_required(tmp_path / "model"),
    ):
        full.write(b"x")
    assert abs(int(str(caught.value).split(" MiB")[0].rpartition(" ")[2]) - free) < 100
    with pytest.raises(DiskFull, match="nothing is free in /nowhere"), room_required(Path("/nowhere/model")):
        raise no_room()


def test_fullness_is_recognised_through_those_who_hide_it(tmp_path: Path) -> None:
    hidden = RuntimeError("unexpected pos 768 vs 662")  # what torch raises over it
    hidden.__context__ = no_room()
    assert is_full(hidden)
    copied = shutil.Error([("a", "b", str(no_room()))])
    assert is_full(copied)
    assert is_full(full_database())
    assert is_full(OSError(errno.EDQUOT, "quota"))
    assert not is_full(shutil.Error([("a", "b", "[Errno 13] Permission denied")]))
    assert not is_full(PermissionError(errno.EACCES, "no"))
    assert not is_full(sqlite3.OperationalError("locked"))
    assert not is_full(None)
