"""The server as a process: its start, its worker, an archive that goes and comes, its end."""

import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from lib.cli.orthanc_process import OrthancProcess, start_orthanc
from loop import body, conf_of, install, upload
from serving import Serving, eventually, outside, serve

pytestmark = [pytest.mark.orthanc, pytest.mark.server, pytest.mark.slow]


def info(serving: Serving) -> dict[str, object]:
    found: dict[str, object] = httpx.get(f"{serving.url}/info/", timeout=60, trust_env=False).json()
    return found


def worker_of(serving: Serving) -> psutil.Process:
    eventually(lambda: serving.worker() is not None, what="a worker")
    found = serving.worker()
    assert found is not None
    return found


def test_a_series_that_is_sent_to_the_archive_appears_on_the_worklist(
    own_orthanc: OrthancProcess, tmp_path: Path
) -> None:
    services = install(own_orthanc, tmp_path / "var")
    with (
        outside() as world,
        serve(conf_of(own_orthanc, tmp_path / "var"), tmp_path, environment=world.environment()) as it,
    ):
        source = upload(services, body(), "P1")

        def arrived() -> bool:
            rows = httpx.get(f"{it.url}/worklist.json", timeout=30, trust_env=False).json()["cases"]
            return [(row["series"], row["state"]) for row in rows] == [(source.series_uid, "todo")]

        eventually(arrived, what="the series on the worklist")
        assert world.attempts == 0  # nothing wanted to leave this machine


def test_a_dead_worker_is_replaced_and_none_outlives_a_killed_server(
    own_orthanc: OrthancProcess, tmp_path: Path
) -> None:
    install(own_orthanc, tmp_path / "var")
    with serve(conf_of(own_orthanc, tmp_path / "var"), tmp_path) as it:
        first = worker_of(it)
        first.kill()
        eventually(lambda: (found := it.worker()) is not None and found.pid != first.pid, what="another worker")
        second = worker_of(it)
        os.kill(it.process.pid, signal.SIGKILL)
        it.process.wait()
        _, alive = psutil.wait_procs([second], timeout=30)
        assert alive == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_end_takes_the_worker_along(
    number: signal.Signals, own_orthanc: OrthancProcess, tmp_path: Path
) -> None:
    install(own_orthanc, tmp_path / "var")
    with serve(conf_of(own_orthanc, tmp_path / "var"), tmp_path) as it:
        worker = worker_of(it)
        eventually(lambda: "is at work" in it.log.read_text(), what="the worker's start")
        it.process.send_signal(number)
        assert it.process.wait(60) == 0
        assert not worker.is_running()  # it ended before the server did
    assert "Traceback" not in it.log.read_text()


def test_without_an_archive_the_server_comes_up_says_so_and_recovers(
    own_orthanc: OrthancProcess, tmp_path: Path
) -> None:
    install(own_orthanc, tmp_path / "var")
    conf = conf_of(own_orthanc, tmp_path / "var")
    port = int(own_orthanc.url.rpartition(":")[2])
    own_orthanc.kill()
    with serve(conf, tmp_path, "--no-worker") as it:
        eventually(lambda: own_orthanc.url in info(it)["archive"]["error"], what="the archive's state")  # type: ignore[index]
        assert info(it)["archive"]["available"] is False  # type: ignore[index]
        assert httpx.get(f"{it.url}/dicom-web/studies", trust_env=False).status_code == 503
        folder, user, password = own_orthanc.folder, own_orthanc.username, own_orthanc.password
        with start_orthanc(folder, port, user, password):
            eventually(lambda: info(it)["archive"]["available"], what="the archive's return")  # type: ignore[index]
            assert httpx.get(f"{it.url}/dicom-web/studies", trust_env=False).status_code in (200, 204)


def test_only_a_server_with_a_password_leaves_the_loopback(own_orthanc: OrthancProcess, tmp_path: Path) -> None:
    conf = conf_of(own_orthanc, tmp_path / "var")
    with pytest.raises(AssertionError, match="TRANSUNET_SERVER__PASSWORD"):
        serve(conf, tmp_path, "--host", "0.0.0.0", "--no-worker")


def test_a_taken_port_is_said_to_be(own_orthanc: OrthancProcess, tmp_path: Path) -> None:
    taken = own_orthanc.url.rpartition(":")[2]
    with pytest.raises(AssertionError, match=rf"cannot listen on 127.0.0.1:{taken}"):
        serve(conf_of(own_orthanc, tmp_path / "var"), tmp_path, "--port", taken, "--no-worker")
