"""Weights on disk: published whole or not at all, under a lock that dies with its process."""

import fcntl
import math
import os
import shutil
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from lib.core.atomic import room_required, sync
from lib.core.errors import RegistryUnavailable

INCOMING = ".incoming-"
LOCK_NAME = ".lock"
POLL_S = 0.05


@contextmanager
def exclusive(models: Path, name: str = LOCK_NAME, wait_s: float = math.inf) -> Iterator[None]:
    """Hold a lock of the registry against other processes and threads; a killed process releases it.

    Args:
        models: folder of all weights; made when it is missing.
        name: of the lock's file.
        wait_s: how long to wait for it.

    Raises:
        RegistryUnavailable: somebody else held it all that time.
    """
    models.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(models / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(descriptor, models / name, wait_s)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path, wait_s: float) -> None:
    """Take the lock of an open file."""
    if math.isinf(wait_s):
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return
    until = time.monotonic() + wait_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                said = (
                    f"{path} must become free within {wait_s:g} s, another process holds it: is one stopped or stuck?"
                )
                raise RegistryUnavailable(said) from None
            time.sleep(POLL_S)


def publish(source: Path, target: Path) -> None:
    """Copy the folder `source` so that `target` appears complete and on disk, or not at all.

    Raises:
        DiskFull: no room; nothing of it is left.
    """
    staging = target.with_name(f"{INCOMING}{target.name}")
    try:
        with room_required(target):
            shutil.copytree(source, staging)
            for path in (*staging.rglob("*"), staging):
                sync(path)
            os.replace(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync(target.parent)


def sweep(folder: Path, keep: Set[str]) -> None:
    """Remove what a killed process left below a task's folder: every folder whose name is not in `keep`.

    Only under the lock of registrations: there nobody else is between folder and row.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in keep:
            shutil.rmtree(path)
