import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lib.cli import processes
from lib.core.errors import Conflict

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)",
]
PARENT = [sys.executable, "-c", f"import subprocess; subprocess.run({SLEEPER!r}, start_new_session=True)"]


@pytest.fixture(autouse=True)
def unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(processes.MARK, "")


def wait_for(condition, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def start(tmp_path: Path, command: list[str]) -> subprocess.Popen:
    child = processes.start(command, os.environ, tmp_path / "child.log")
    wait_for(lambda: "up" in (tmp_path / "child.log").read_text())
    return child


def test_what_carries_the_mark_is_ended_with_its_grandchildren_and_nothing_else(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEPER, stdout=subprocess.DEVNULL)
    processes.mark(tmp_path)
    child = processes.start(PARENT, os.environ, tmp_path / "child.log")
    wait_for(lambda: len(processes.marked(tmp_path)) == 2)
    family = processes.marked(tmp_path)
    assert processes.end_marked(tmp_path) == 2
    child.wait(10)
    assert not any(process.is_running() for process in family)
    assert processes.marked(tmp_path) == []
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_a_demo_elsewhere_is_left_alone(tmp_path: Path) -> None:
    processes.mark(tmp_path / "other")
    other = start(tmp_path, SLEEPER)
    assert processes.end_marked(tmp_path / "mine") == 0
    assert other.poll() is None
    processes.stop(other)


def test_who_does_not_listen_is_killed_after_the_time(tmp_path: Path) -> None:
    processes.mark(tmp_path)
    child = start(tmp_path, STUBBORN)
    assert processes.end_marked(tmp_path, timeout_s=0.3) == 1
    assert not psutil.pid_exists(child.pid)
    child.wait()


def test_stop_asks_first_then_kills_and_a_second_time_does_nothing(tmp_path: Path) -> None:
    polite, stubborn = start(tmp_path, SLEEPER), start(tmp_path, STUBBORN)
    processes.stop(polite, timeout_s=5)
    processes.stop(stubborn, timeout_s=0.3)
    assert (polite.returncode, stubborn.returncode) == (-signal.SIGTERM, -signal.SIGKILL)
    processes.stop(stubborn)


def test_a_child_ends_when_the_demo_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, sys, time; from pathlib import Path; from lib.cli import processes\n"
        f"child = processes.start({SLEEPER!r}, os.environ, Path({str(tmp_path)!r}) / 'log')\n"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    demo = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    child = psutil.Process(int(demo.stdout.readline()))
    wait_for(lambda: "up" in (tmp_path / "log").read_text())
    demo.kill()
    demo.communicate()
    gone, alive = psutil.wait_procs([child], timeout=10)
    assert (len(gone), alive) == (1, [])


def test_a_child_has_its_own_session_so_that_the_terminal_interrupts_the_demo_alone(tmp_path: Path) -> None:
    child = start(tmp_path, SLEEPER)
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    processes.stop(child)


def test_one_demo_at_a_time_uses_a_folder(tmp_path: Path) -> None:
    with processes.only_one(tmp_path):
        found: list[BaseException] = []

        def second() -> None:
            try:
                with processes.only_one(tmp_path):
                    pass
            except Conflict as error:
                found.append(error)

        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert "a demo already uses" in str(found[0])
    with processes.only_one(tmp_path):
        pass


def test_sigterm_ends_the_demo_like_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="signal 15"), processes.terminated_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_taken_port_is_not_free() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not processes.is_free(port)
        assert not processes.wait_until_free(port, 0.2)
    assert processes.wait_until_free(port, 5)


def test_the_tail_of_a_log_is_its_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert processes.tail(log) == "its log is empty"
    log.write_text("".join(f"line {n}\n" for n in range(20)))
    assert processes.tail(log, 2) == "line 18\nline 19"
