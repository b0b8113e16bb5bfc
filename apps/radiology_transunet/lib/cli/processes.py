"""Processes that this software starts, and their end: nothing outlives it, nothing else is touched.

Whoever belongs to a demo carries its mark in the environment, and so do the children of its children. A demo that was
killed leaves processes with its mark; the next one finds them by it. Children are started from the main thread: the
kernel ends them when that thread ends (setpriv --pdeathsig).
"""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lib.core.errors import Conflict

if TYPE_CHECKING:
    import psutil

logger = logging.getLogger(__name__)

MARK = "TRANSUNET_DEMO_OF"
"""Environment variable with the state folder of the demo that a process belongs to."""

STOP_TIMEOUT_S = 25.0


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: one demo at a time.

    Raises:
        Conflict: another demo runs there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"a demo already uses {folder}; stop it, or set TRANSUNET_VAR to another folder") from error
        yield


def mark(folder: Path) -> None:
    """Let everything that this process starts from now on carry the mark of the demo in `folder`."""
    os.environ[MARK] = str(folder.resolve())


def marked(folder: Path) -> "list[psutil.Process]":
    """Every other process of this user that carries the mark of the demo in `folder`."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(MARK) == str(folder.resolve()):
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue  # another user's process, or one that ended just now: neither is ours to end
    return found


def end_marked(folder: Path, timeout_s: float = STOP_TIMEOUT_S) -> int:
    """End every process with the mark: asked first, by force after some seconds; how many there were."""
    import psutil

    found = marked(folder)
    for process in found:
        _signal(process, signal.SIGTERM)
    _, alive = psutil.wait_procs(found, timeout=timeout_s)
    for process in {*alive, *marked(folder)}:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=timeout_s)
    return len(found)


def guarded(command: Sequence[str]) -> list[str]:
    """The command under setpriv(1), which lets the kernel end it when the *thread* that starts it ends."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        logger.warning("setpriv (package util-linux) is missing: %s would outlive a killed parent", command[0])
        return list(command)
    return [setpriv, "--pdeathsig", "TERM", *command]


def start(command: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a child in a session of its own, so that Ctrl-C reaches this process alone; its words go to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.Popen(
            guarded(command),
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def stop(child: "subprocess.Popen[bytes]", timeout_s: float = STOP_TIMEOUT_S) -> None:
    """End a child: asked first, by force after some seconds. One that has ended is left alone."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        logger.warning("process %d did not stop within %.0f s; it is killed", child.pid, timeout_s)
        child.kill()
        child.wait()


def tail(log: Path, lines: int = 8) -> str:
    """The last lines of a log, for a message."""
    text = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return "\n".join(text[-lines:]) or "its log is empty"


@contextmanager
def terminated_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that what was started is ended on the way out."""

    def interrupt(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(f"signal {number}")

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_until_free(port: int, timeout_s: float) -> bool:
    """Whether nothing listens on that port of the loopback, now or within the time."""
    deadline = time.monotonic() + timeout_s
    while not is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def is_free(port: int) -> bool:
    """Whether a server could listen on that port of the loopback."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _signal(process: "psutil.Process", number: signal.Signals) -> None:
    import psutil

    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return  # it ended by itself
