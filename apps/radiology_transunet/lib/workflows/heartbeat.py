"""The sign of life of a long job, given by a thread of its own.

The thread tells the ledger where the job is and hears from it whether the job is still wanted: a job that was cancelled
or taken over, and a process whose parent died, are told to stop by one event.
"""

import logging
import os
import threading
from types import TracebackType

from lib.core.errors import Conflict, LabelError
from lib.ledger.ledger import Ledger
from lib.ledger.rows import JobRow

logger = logging.getLogger(__name__)

BEATS_A_LEASE = 6
SHORTEST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 2.0


class Stopped(Conflict):
    """The job was told to stop; what it has done so far is kept for the next attempt."""


def require_held(ledger: Ledger, job: JobRow) -> None:
    """Raise Stopped unless the job is still in the hands that took it, as the ledger knows it now."""
    if not ledger.jobs.beat(job):
        raise Stopped(f"job {job.id} was cancelled or taken over")


class Heartbeat:
    """Keeps a job alive while the `with` block runs.

    Args:
        ledger: holds the job.
        job: as taken; it beats in the name of the row's worker and attempt.
        lease_s: seconds without a beat after which somebody else may take the job.
        parent: process id whose end also stops the job; None = nobody's.
    """

    def __init__(self, ledger: Ledger, job: JobRow, lease_s: float, parent: int | None = None) -> None:
        self.stop = threading.Event()
        self.signalled = False  # set by a signal handler: the process itself has to end
        self.reason = ""
        self._ledger = ledger
        self._job = job
        self._pause_s = min(LONGEST_PAUSE_S, max(SHORTEST_PAUSE_S, lease_s / BEATS_A_LEASE))
        self._parent = parent
        self._where: tuple[float, str] = (job.progress, "starting")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"heartbeat-{job.id}", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def report(self, share: float, message: str) -> None:
        """Say where the job is; the ledger hears of it with the next beat."""
        self._where = (share, message)

    def end(self, reason: str) -> None:
        """Tell the job to stop."""
        self.reason = self.reason or reason
        self.stop.set()

    def require_wanted(self) -> None:
        """Raise Stopped once the job was told to stop."""
        if self.stop.is_set():
            raise Stopped(f"job {self._job.id} stops: {self.reason}")

    def _beat(self) -> None:
        while not self._over.is_set():
            if self._parent is not None and os.getppid() != self._parent:
                self.end("the worker that started it has ended")
            try:
                if not self._ledger.jobs.beat(self._job, *self._where):
                    self.end("it was cancelled or taken over")
            except LabelError as error:
                logger.warning("job %d cannot give a sign of life: %s", self._job.id, error)
            self._over.wait(self._pause_s)
