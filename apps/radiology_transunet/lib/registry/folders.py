"""Weights on disk: published whole or not at all, under a lock that dies with its process."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

from lib.core.atomic import room_required, sync

INCOMING = ".incoming-"
LOCK_NAME = ".lock"


@contextmanager
def exclusive(models: Path) -> Iterator[None]:
    """Hold the registry's lock against other processes and threads; a killed process releases it.

    Args:
        models: folder of all weights; made when it is missing.
    """
    models.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(models / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


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

    Only under the lock: there nobody else is between folder and row.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in keep:
            shutil.rmtree(path)
