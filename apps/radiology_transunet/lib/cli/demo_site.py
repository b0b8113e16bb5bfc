"""Where the demo lives: its ports, the password of its Orthanc, its settings, and the processes that it runs.

Everything is kept in the state folder: orthanc/ (the archive), demo/ (account, ports, logs, the environment for other
commands), and what the software itself keeps there.
"""

import json
import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lib.cli import processes
from lib.cli.files import write_private
from lib.cli.orthanc_process import OrthancProcess, free_port, start_orthanc
from lib.core.errors import Conflict, LabelError

if TYPE_CHECKING:
    import subprocess

    from lib.settings import Settings

USER = "demo"
ACCOUNT_FILE = "account.json"
ENVIRONMENT_FILE = "environment"
SERVER_LOG = "server.log"
PORT_WAIT_S = 10.0
ANSWER_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Account:
    """How the demo's Orthanc is reached; kept between runs.

    Attributes:
        port: of its HTTP server, on the loopback.
        password: of its one user.
    """

    port: int
    password: str = field(repr=False)

    @property
    def dicomweb_url(self) -> str:
        """Root of its DICOMweb."""
        return f"http://127.0.0.1:{self.port}/dicom-web"


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """The running demo.

    Attributes:
        settings: with the demo's archive and port.
        folder: its own state.
        orthanc: the archive.
        server: `transunet-label serve`, which starts a worker.
    """

    settings: "Settings"
    folder: Path
    orthanc: OrthancProcess
    server: "subprocess.Popen[bytes]"

    @property
    def worklist_url(self) -> str:
        """What people open."""
        return f"{self.settings.server.url}/worklist"

    @property
    def log(self) -> Path:
        """What server and worker say."""
        return self.folder / SERVER_LOG

    @property
    def environment_file(self) -> Path:
        """What a shell sources so that other commands work on the demo; holds the password."""
        return self.folder / ENVIRONMENT_FILE

    def server_answers(self) -> bool:
        """Whether the server is up; a refused connection means not yet."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.settings.server.url}/health", timeout=ANSWER_TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            raise LabelError(f"{self.settings.server.url}/health must answer 200, got {error.code}") from error
        except OSError:
            return False

    def require_alive(self) -> None:
        """Raise LabelError when one of the processes has ended by itself."""
        if self.server.poll() is not None:
            last = processes.tail(self.log)
            raise LabelError(f"the server ended with status {self.server.returncode}; end of {self.log}:\n{last}")
        if not self.orthanc.is_running:
            raise LabelError(f"Orthanc ended; see {self.orthanc.log_path}")


@contextmanager
def running_site(task: str, port: int) -> Iterator[Site]:
    """Start archive, server and worker, and end them on the way out.

    Processes that a killed demo left behind in the same state folder are ended first. Only for the main thread.

    Args:
        task: name or path of the task to serve; "" is the first one of the settings.
        port: of the server; 0 takes that of the settings, or a free one when it is taken.

    Raises:
        Conflict: another demo runs on this state folder, or the port is taken.
    """
    from lib.cli.context import current_settings

    before = current_settings()
    folder = before.var / "demo"
    with ExitStack() as stack:
        stack.enter_context(processes.terminated_as_interrupt())
        stack.enter_context(processes.only_one(folder))
        processes.end_marked(folder)
        processes.mark(folder)
        account = open_account(folder)
        stack.callback(processes.end_marked, folder)
        orthanc = start_orthanc(before.var / "orthanc", account.port, USER, account.password)
        stack.callback(orthanc.stop)
        options = demo_options(account, task or before.tasks[0], choose_port(port, before.server.port))
        settings = current_settings(options)
        server = _start_server(settings, folder)
        stack.callback(processes.stop, server)
        yield Site(settings, folder, orthanc, server)


def demo_options(account: Account, task: str, port: int) -> dict[str, str]:
    """The options that the demo sets, by name."""
    return {
        "tasks": task,
        "archive.url": account.dicomweb_url,
        "archive.username": USER,
        "archive.password": account.password,
        "server.port": str(port),
        "review.mode": "auto",
        "presegment.automatic": "true",
    }


def open_account(folder: Path) -> Account:
    """The account of the last run with a port that is free now; a new one on the first run."""
    path = folder / ACCOUNT_FILE
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    port = int(kept.get("port", 0))
    if not port or not processes.wait_until_free(port, PORT_WAIT_S):
        port = free_port()
    account = Account(port, str(kept.get("password") or secrets.token_urlsafe(24)))
    write_private(path, json.dumps({"port": account.port, "password": account.password}))
    return account


def choose_port(wanted: int, usual: int) -> int:
    """The server's port: the wanted one, or the usual one, or any when that is taken.

    Raises:
        Conflict: the wanted one is taken.
    """
    if wanted:
        if not processes.wait_until_free(wanted, PORT_WAIT_S):
            raise Conflict(f"port {wanted} is taken by another program; choose another with --port")
        return wanted
    return usual if usual and processes.is_free(usual) else free_port()


def _start_server(settings: "Settings", folder: Path) -> "subprocess.Popen[bytes]":
    from shlex import quote

    from lib.settings import environment_of

    variables = environment_of(settings)
    lines = [f"export {name}={quote(value)}" for name, value in sorted(variables.items())]
    write_private(folder / ENVIRONMENT_FILE, "\n".join(lines) + "\n")
    command = [sys.executable, "-m", "lib.cli", "serve"]
    return processes.start(command, os.environ | variables, folder / SERVER_LOG)
