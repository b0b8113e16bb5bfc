"""Files that appear complete or not at all, also where the power goes or the disk is full."""

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.core.errors import DiskFull

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
MIB = 2**20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to, moved into its place when the block ends, removed when it raises.

    The bytes are on the disk before the file has its name: a power cut leaves the old file or the new one.

    Raises:
        DiskFull: there is no room for it; what was there before stays.
    """
    unnamed = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with room_required(path):
            yield unnamed
            sync(unnamed)
            os.replace(unnamed, path)
    except BaseException:
        unnamed.unlink(missing_ok=True)
        raise


@contextmanager
def room_required(path: Path) -> Iterator[None]:
    """Turn what a full disk raises inside into one error that says which disk.

    Args:
        path: that is written to.

    Raises:
        DiskFull: in place of what the writer raised.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not is_full(error):
            raise
        raise DiskFull(f"{path} has no room: {_free(path.parent)}; make room, then it goes on from here") from error


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that a disk, a quota or a database's file is full."""
    while error is not None:
        if isinstance(error, DiskFull) or _says_full(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def sync(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _says_full(error: BaseException) -> bool:
    if isinstance(error, shutil.Error):  # of copytree, which keeps the errors of its files as text
        return any(f"[Errno {code}]" in str(error) for code in NO_ROOM)
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in NO_ROOM


def _free(folder: Path) -> str:
    """What is left in words; a quota may end before the disk does."""
    try:
        return f"{shutil.disk_usage(folder).free // MIB} MiB are free in {folder}"
    except OSError:
        return f"nothing is free in {folder}"
