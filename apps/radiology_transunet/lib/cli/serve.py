"""`transunet-label serve`: the HTTP server, and a worker beside it."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import typer

from lib.cli.processes import guarded
from lib.cli.processes import stop as end
from lib.core.errors import Conflict, InvalidSettings

logger = logging.getLogger(__name__)

APPLICATION = "lib.server.asgi:create_app"
"""Named, not imported: the command line starts processes, the server room stays on its own."""

NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
GRACE_S = 10
BACKLOG = 128
FIRST_PAUSE_S, LONGEST_PAUSE_S, HEALTHY_S = 1.0, 30.0, 60.0
STOP_TIMEOUT_S = 20.0


def serve(
    host: str = typer.Option("", help="Address to listen on; anything but the loopback needs a password."),
    port: int = typer.Option(-1, help="TCP port; 0 picks a free one."),
    no_worker: bool = typer.Option(False, "--no-worker", help="Start no worker; somebody else does."),
) -> None:
    """Serve MONAI Label's clients, the worklist and the OHIF viewer, with a worker beside it. Ctrl-C ends both.

    Example: transunet-label serve --port 8000
    """
    import uvicorn

    from lib.cli.context import conf_pairs, current_settings

    overrides = {**({"server.host": host} if host else {}), **({"server.port": str(port)} if port >= 0 else {})}
    server = current_settings(overrides).server
    require_password(server.host, server.password)
    listener = listen(server.host, server.port)
    bound = str(listener.getsockname()[1])
    os.environ.update(environment({**dict(conf_pairs()), **overrides, "server.port": bound}))
    config = uvicorn.Config(
        APPLICATION,
        factory=True,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
    )
    web = uvicorn.Server(config)
    keeper = None if no_worker else WorkerKeeper([sys.executable, "-m", "lib.cli", "worker"])
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn sends itself the signal again once it has stopped,
        signal.signal(number, web.handle_exit)  # which with the default handlers would leave the worker behind
    typer.echo(f"worklist: {server.public_url or f'http://{_printable(server.host)}:{bound}'}/worklist")
    try:
        web.run(sockets=[listener])
    finally:
        if keeper is not None:
            keeper.stop()


def require_password(host: str, password: str) -> None:
    """Refuse to listen beyond the loopback without a password."""
    if host not in LOOPBACK and not password:
        raise InvalidSettings(
            f"server.host {host} is reachable for others: set a password in TRANSUNET_SERVER__PASSWORD, "
            "or listen on 127.0.0.1"
        )


def environment(options: Mapping[str, str]) -> dict[str, str]:
    """What the server process and its worker read: the options of this command line, and where lib lies.

    Args:
        options: by name, for example "server.port".
    """
    app_folder = str(Path(__file__).resolve().parents[2])
    path = [app_folder, *(part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part)]
    named = {f"TRANSUNET_{name.upper().replace('.', '__')}": value for name, value in options.items()}
    return {**NO_TELEMETRY, **named, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        Conflict: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise Conflict(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from error
    return listener


class WorkerKeeper:
    """A worker that is started again when it dies, and that dies with this process.

    Args:
        command: starts the worker.
        clock: seconds that never go back.
    """

    def __init__(self, command: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._command = command
        self._clock = clock
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="worker-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the worker: asked first, by force after some seconds."""
        self._stopping.set()
        self._thread.join(STOP_TIMEOUT_S + 1)

    def _keep(self) -> None:
        """Runs as long as this process: the kernel ends the worker when the thread that started it ends."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            started = self._clock()
            child = subprocess.Popen(guarded(self._command), start_new_session=True)
            while child.poll() is None and not self._stopping.wait(0.2):
                pass
            if self._stopping.is_set():
                end(child, STOP_TIMEOUT_S)
                return
            pause_s = FIRST_PAUSE_S if self._clock() - started > HEALTHY_S else min(2 * pause_s, LONGEST_PAUSE_S)
            logger.error("the worker ended with status %d; a new one starts in %.0f s", child.returncode, pause_s)
            self._stopping.wait(pause_s)


def _printable(host: str) -> str:
    return f"[{host}]" if ":" in host else host
