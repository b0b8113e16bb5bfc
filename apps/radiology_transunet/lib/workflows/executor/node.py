"""What runs on a machine of a Ray cluster: one process of a training, and one call of a function."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lib.core.atomic import replacing
from lib.core.errors import Conflict
from lib.workflows.executor.engine import FitJob
from lib.workflows.shipping import CaseFile

if TYPE_CHECKING:
    from lib.training.fit import FitProgress, FitResult

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class News:
    """What has happened to a training since it was last asked.

    Attributes:
        progress: where it is.
        checkpoint: bytes of a new checkpoint, or None.
    """

    progress: "FitProgress | None"
    checkpoint: bytes | None


class FitProcess:
    """One process of a training, somewhere on the cluster."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="training-"))
        self._stop = threading.Event()
        self._progress: FitProgress | None = None
        self._sent: tuple[int, int] | None = None
        self._store: Any = None

    def meet(self, size: int) -> tuple[str, int]:
        """Open the place where the group meets: host and port of this machine."""
        import ray

        from lib.training.meeting import tcp_store

        host = ray.util.get_node_ip_address()
        self._store = store = tcp_store(host, 0, size, leads=True)
        return host, store.port

    def run(
        self, job: FitJob, rank: int, size: int, meeting: tuple[str, int] | None, checkpoint: bytes | None
    ) -> "FitResult":
        """Train, and return what came out, on the CPU."""
        import ray

        from lib.inference.devices import set_threads
        from lib.training.checkpoint import CHECKPOINT
        from lib.training.distributed import joined
        from lib.training.meeting import tcp_store

        set_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        if checkpoint is not None:
            with replacing(self._folder / CHECKPOINT) as unnamed:  # `news` may look at any moment
                unnamed.write_bytes(checkpoint)
                self._sent = _stamp(unnamed)  # whoever sent it has it
        job = replace(job, folder=self._folder)
        try:
            if meeting is None:
                return job.run(self._report)
            if meeting[0] == "127.0.0.1":
                os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
            store = self._store or tcp_store(*meeting, size, leads=False)
            with joined(rank, size, store=store) as group:  # of the GPUs, Ray shows each process its own alone
                return job.run(self._report, group)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def news(self) -> News:
        """Where the training is; each checkpoint is told once."""
        from lib.training.checkpoint import CHECKPOINT

        content = None
        with suppress(FileNotFoundError):
            path = self._folder / CHECKPOINT
            if (stamp := _stamp(path)) != self._sent:
                content, self._sent = path.read_bytes(), stamp
        return News(self._progress, content)

    def stop(self) -> None:
        """Let the training end at its next report."""
        self._stop.set()

    def _report(self, progress: "FitProgress") -> None:
        self._progress = progress
        if self._stop.is_set():
            raise Conflict("the training was told to stop")


def _stamp(path: Path) -> tuple[int, int]:
    """What tells one checkpoint from the next."""
    state = path.stat()
    return state.st_mtime_ns, state.st_size


def apply(function: Callable[[A], B], item: A) -> B:
    """The value of a function."""
    return function(item)


def fetched(parcel: object) -> CaseFile:
    """A case out of the object store."""
    import ray

    case: CaseFile = ray.get(parcel)
    return case
