import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lib.cli.serve import WorkerKeeper, environment, listen, require_password
from lib.core.errors import Conflict, InvalidSettings


def until(check: Callable[[], bool], timeout_s: float = 15.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.02)
    return False


def test_beyond_the_loopback_a_password_is_needed() -> None:
    require_password("127.0.0.1", "")
    require_password("0.0.0.0", "horse")
    with pytest.raises(InvalidSettings, match="TRANSUNET_SERVER__PASSWORD"):
        require_password("0.0.0.0", "")


def test_a_taken_port_is_a_conflict_that_names_it() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(Conflict, match=f"127.0.0.1:{port}"):
            listen("127.0.0.1", port)


def test_the_port_listens_as_soon_as_it_is_taken() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname(), timeout=5):
        pass


def test_options_reach_server_and_worker_as_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    made = environment({"server.port": "9", "var": "/state", "query.lease_s": "60"})
    assert made["TRANSUNET_SERVER__PORT"] == "9"
    assert made["TRANSUNET_VAR"] == "/state"
    assert made["TRANSUNET_QUERY__LEASE_S"] == "60"
    assert made["MLFLOW_DISABLE_TELEMETRY"] == "true"
    app, elsewhere = made["PYTHONPATH"].split(os.pathsep)
    assert (Path(app) / "lib" / "cli" / "serve.py").is_file()
    assert elsewhere == "/elsewhere"


def test_a_worker_that_dies_is_started_again_and_ends_with_its_keeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os, pathlib, time; pathlib.Path(str(os.getpid())).touch(); time.sleep(60)"
    monkeypatch.chdir(tmp_path)
    keeper = WorkerKeeper([sys.executable, "-c", code])
    try:
        assert until(lambda: len(list(tmp_path.iterdir())) == 1)
        [first] = tmp_path.iterdir()
        os.kill(int(first.name), 9)
        assert until(lambda: len(list(tmp_path.iterdir())) == 2)
    finally:
        keeper.stop()
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
