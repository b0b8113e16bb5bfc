"""A private Orthanc in a folder of its own, for the demo and the tests.

It listens on one HTTP port, answers requests of this machine only, speaks no DIMSE, knows one user and
dies with the process that started it: setpriv(1) asks the kernel to end it when the starting *thread* ends, so
start it from the main thread or another one that stays.
"""

import base64
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from lib.cli.files import write_private
from lib.cli.processes import guarded
from lib.core.errors import ArchiveUnavailable, Conflict

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
BINARIES = ("Orthanc", "orthanc")
BINARY_FOLDERS = ("/usr/sbin", "/usr/local/sbin")
PLUGIN_FOLDERS = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"))
PLUGIN_NAME = "libOrthancDicomWeb.so"
INSTALL_HINT = "install both parts with: sudo apt-get install --no-install-recommends orthanc orthanc-dicomweb"
POLL_S = 0.05
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
LOCK_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 8


@dataclass(eq=False)
class OrthancProcess:
    """A running Orthanc; leaving the `with` block stops it.

    Attributes:
        url: root of its REST API, for example http://127.0.0.1:8042.
        folder: its database, storage, configuration and log.
        username: the one registered user.
        password: that user's password.
        process: the Orthanc process itself, leader of its own session.
    """

    url: str
    folder: Path
    username: str
    password: str = field(repr=False)
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def dicomweb_url(self) -> str:
        """Root of DICOMweb."""
        return f"{self.url}/dicom-web"

    @property
    def log_path(self) -> Path:
        """File with everything that Orthanc says."""
        return self.folder / "orthanc.log"

    @property
    def is_running(self) -> bool:
        """Whether the process still lives."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End Orthanc: an orderly stop, then by force after some seconds. A second call does nothing."""
        if not self.is_running:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            logger.warning("Orthanc did not stop within %.0f s; it is killed", STOP_TIMEOUT_S)
            self.kill()

    def kill(self) -> None:
        """End Orthanc at once, without an orderly stop."""
        if self.is_running:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def __enter__(self) -> "OrthancProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_orthanc(
    folder: Path,
    http_port: int,
    username: str,
    password: str,
    stable_age_s: int = 1,
    plugin_folders: Sequence[Path] = PLUGIN_FOLDERS,
    extra: dict[str, Any] | None = None,
) -> OrthancProcess:
    """Start Orthanc with its state in `folder` and wait until it answers.

    A folder is used by one Orthanc at a time; the one of a killed parent gets some seconds to end.

    Args:
        folder: made when missing; holds database, storage, orthanc.json (mode 0600) and orthanc.log.
        http_port: the port on the loopback; must be free.
        username: the one registered user.
        password: that user's password.
        stable_age_s: seconds without news after which a series counts as complete.
        plugin_folders: where to look for the DICOMweb plug-in, first match wins.
        extra: further options of Orthanc's configuration, added last.

    Raises:
        ArchiveUnavailable: Orthanc or the plug-in is not installed, or it does not come up (with the
            last lines of its log).
        Conflict: the port is taken, or another Orthanc still uses the folder.
    """
    binary, plugin = find_orthanc(), find_plugin(plugin_folders)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder) as lock:
        _require_free(http_port)
        options = _options(folder, http_port, username, password, stable_age_s, plugin) | (extra or {})
        write_private(folder / "orthanc.json", json.dumps(options, indent=2))
        process = _spawn(binary, folder, lock)
    orthanc = OrthancProcess(f"http://{HOST}:{http_port}", folder, username, password, process)
    try:
        _wait_ready(orthanc)
    except BaseException:
        orthanc.kill()
        raise
    logger.info("Orthanc is ready at %s", orthanc.url)
    return orthanc


def find_orthanc() -> Path:
    """The Orthanc binary.

    Raises:
        ArchiveUnavailable: it is not installed; the message says how to install it.
    """
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), *BINARY_FOLDERS])
    found = next((path for name in BINARIES if (path := shutil.which(name, path=search))), None)
    if found is None:
        raise ArchiveUnavailable(f"no program named Orthanc on PATH or in {', '.join(BINARY_FOLDERS)}; {INSTALL_HINT}")
    return Path(found)


def find_plugin(folders: Sequence[Path] = PLUGIN_FOLDERS) -> Path:
    """The DICOMweb plug-in of Orthanc.

    Raises:
        ArchiveUnavailable: it is not installed; the message says how to install it.
    """
    found = next((folder / PLUGIN_NAME for folder in folders if (folder / PLUGIN_NAME).exists()), None)
    if found is None:
        raise ArchiveUnavailable(f"no {PLUGIN_NAME} in {', '.join(map(str, folders))}; {INSTALL_HINT}")
    return found


def free_port() -> int:
    """A TCP port of the loopback that nothing listens on at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _options(
    folder: Path, http_port: int, username: str, password: str, stable_age_s: int, plugin: Path
) -> dict[str, Any]:
    return {
        "Name": "radiology_transunet",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {username: password},
        "DicomServerEnabled": False,
        "ExecuteLuaEnabled": False,
        "StableAge": stable_age_s,
        "LimitFindResults": 0,
        "LimitFindInstances": 0,
        "TcpNoDelay": True,
        "KeepAlive": True,
        "Plugins": [str(plugin)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "EnableWado": False},
    }


def _locked(folder: Path) -> BinaryIO:
    """The folder's lock file, locked; Orthanc inherits it, so the lock lasts as long as Orthanc does."""
    file = (folder / "orthanc.lock").open("ab")
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            if time.monotonic() > deadline:
                file.close()
                raise Conflict(f"another Orthanc still uses {folder}; stop it or choose another folder") from held
            time.sleep(POLL_S)
        else:
            return file


def _require_free(http_port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, http_port))
        except OSError as error:
            raise Conflict(
                f"Orthanc needs the free port {http_port}, but it is taken ({error}); choose another"
            ) from error


def _spawn(binary: Path, folder: Path, lock: BinaryIO) -> subprocess.Popen[bytes]:
    with (folder / "orthanc.log").open("wb") as log:
        return subprocess.Popen(
            guarded([str(binary), str(folder / "orthanc.json")]),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )


def _wait_ready(orthanc: OrthancProcess) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not _answers(orthanc):
        if not orthanc.is_running:
            raise ArchiveUnavailable(
                f"Orthanc ended at once with status {orthanc.process.returncode}: {_log_tail(orthanc)}"
            )
        if time.monotonic() > deadline:
            raise ArchiveUnavailable(f"Orthanc did not answer within {READY_TIMEOUT_S:.0f} s: {_log_tail(orthanc)}")
        time.sleep(POLL_S)


def _answers(orthanc: OrthancProcess) -> bool:
    """Whether Orthanc answers its user; a connection that is refused means not yet."""
    token = base64.b64encode(f"{orthanc.username}:{orthanc.password}".encode()).decode()
    request = urllib.request.Request(f"{orthanc.url}/system", headers={"Authorization": f"Basic {token}"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        raise ArchiveUnavailable(f"something else answers at {orthanc.url}: HTTP {error.code}") from error
    except OSError:
        return False


def _log_tail(orthanc: OrthancProcess) -> str:
    lines = orthanc.log_path.read_text(errors="replace").splitlines()
    return " | ".join(lines[-LOG_TAIL_LINES:]) or "its log is empty"
