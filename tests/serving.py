"""Starts the real server in a process of its own, and counts who tries to reach the outside world."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import httpx
import psutil

from lib.settings import SECRETS

APP = Path(__file__).resolve().parents[1] / "apps" / "radiology_transunet"
READY_TIMEOUT_S = 240.0  # of a machine that does other things; the promise of 25 s is measured in its own test
STOP_TIMEOUT_S = 30.0


class Outside:
    """A proxy that forwards nothing: whoever wants to leave this machine connects to it and is counted."""

    def __init__(self) -> None:
        self.attempts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def environment(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        here = {"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
        return {name: url for one in names for name in (one, one.upper())} | here

    def close(self) -> None:
        self._listener.close()

    def _count(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.attempts += 1
            connection.close()


class Serving:
    """A running server process.

    Attributes:
        url: where it answers.
        process: the process.
        ready_s: seconds from its start to its first answer.
        log: file with everything that it says.
    """

    def __init__(self, url: str, process: "subprocess.Popen[bytes]", ready_s: float, log: Path) -> None:
        self.url, self.process, self.ready_s, self.log = url, process, ready_s, log

    def worker(self) -> psutil.Process | None:
        """Its worker, if one runs."""
        for child in psutil.Process(self.process.pid).children():
            try:
                if "worker" in child.cmdline():
                    return child
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue  # it has just ended
        return None

    def stop(self) -> None:
        """Ask it to end and wait."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise

    def __enter__(self) -> "Serving":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    conf: Sequence[tuple[str, str]], folder: Path, *options: str, environment: Mapping[str, str] | None = None
) -> Serving:
    """Start `transunet-label serve` on a free port and wait for its first answer."""
    flags = [part for name, value in conf if name not in SECRETS for part in ("--conf", f"{name}={value}")]
    secret = {f"TRANSUNET_{name.upper().replace('.', '__')}": value for name, value in conf if name in SECRETS}
    port = free_port()
    command = [sys.executable, "-m", "lib.cli", *flags, "serve", "--port", str(port), *options]
    return launch(command, f"http://127.0.0.1:{port}", "/health", folder, {**secret, **(environment or {})})


def launch(
    command: Sequence[str], url: str, probe: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Serving:
    """Start a server process and wait for its first answer.

    Args:
        command: starts it.
        url: where it will answer.
        probe: a path that answers 200 when it is ready.
        folder: its working folder, for its log too.
        environment: laid on this process's own.
    """
    log = folder / f"server-{time.monotonic_ns()}.log"
    env = {**os.environ, "PYTHONPATH": str(APP), "OMP_NUM_THREADS": "1", **(environment or {})}
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    while time.monotonic() - started < READY_TIMEOUT_S:
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        if answers(url + probe):
            return Serving(url, process, time.monotonic() - started, log)
        time.sleep(0.1)
    process.kill()
    process.wait()
    raise AssertionError(f"the server is not ready after {READY_TIMEOUT_S:.0f} s:\n{log.read_text()[-3000:]}")


def answers(url: str) -> bool:
    """Whether a URL answers 200."""
    try:
        return httpx.get(url, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """A port of the loopback that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def outside() -> Iterator[Outside]:
    """The counter of those who try to leave this machine."""
    counter = Outside()
    yield counter
    counter.close()


def eventually(check: object, timeout_s: float = 90.0, what: str = "it") -> None:
    """Wait until a check holds; an assertion error of it counts as not yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if check():  # type: ignore[operator]
                return
        except (AssertionError, httpx.HTTPError):
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.25)
