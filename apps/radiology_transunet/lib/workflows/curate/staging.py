"""A folder that appears complete or not at all, also where the process is killed while it is filled."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lib.core.atomic import room_required, sync
from lib.core.errors import Conflict, InvalidInput


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to fill, moved into its place when the block ends, removed when it raises.

    What a killed process left there is removed by the next one. Its files are on the disk before it has its name.

    Raises:
        Conflict: there is something of that name already, or another process is filling it.
        InvalidInput: a place that cannot be written to.
        DiskFull: no room; nothing of it is left.
    """
    staging = target.with_name(f".{target.name}.partial")
    with _held(staging):
        if os.path.lexists(target):
            staging.rmdir()
            raise Conflict(f"{target} is there already: name a folder that is not, or remove it first")
        try:
            with room_required(target):
                yield staging
                for path in (*staging.rglob("*"), staging):
                    sync(path)
                os.rename(staging, target)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    sync(target.parent)


@contextmanager
def _held(staging: Path) -> Iterator[None]:
    """The folder, empty, and nobody else's until the block ends; a killed process lets go of it."""
    descriptor = _locked(staging)
    while not _is_still(staging, descriptor):  # another process moved it away before this one had it
        os.close(descriptor)
        descriptor = _locked(staging)
    try:
        for path in staging.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    finally:
        os.close(descriptor)


def _locked(staging: Path) -> int:
    """A descriptor of the folder, made when it is missing, under a lock."""
    try:
        staging.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidInput(f"a folder is to be made in {staging.parent}, but: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(f"another process is filling {staging} right now: wait for it, or name another") from error
    return descriptor


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        found, held = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino)
