"""The worker: follows the archive, delivers the outbox, does the jobs of the ledger, keeps the queues.

Each duty is a loop in a thread of its own; they meet only in the ledger, so several workers may run. A training is a
child process. What fails for want of the archive is repeated; what fails on its input is recorded with the reason.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

from lib.core.errors import ArchiveUnavailable, Conflict, LabelError, NoChampion
from lib.ledger.rows import JobRow
from lib.settings import environment_of
from lib.taskfile import Task
from lib.workflows.ingest import ingest_once, reconcile
from lib.workflows.intake import check_series, read_seg_series
from lib.workflows.jobs import BACKGROUND, CHECK, DRAFT, READ_SEG, RETRAIN
from lib.workflows.models import ChampionCache
from lib.workflows.presegment import deliver_outbox, enqueue_drafts, presegment
from lib.workflows.query import refresh_queues
from lib.workflows.promotion import reconcile_promotions
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

IDLE_S = 0.5
REFRESH_S = 2.0
FULL_REFRESH_S = 60.0
BACKOFF_S = 5.0
STOP_TRAINING_S = 20.0

Handler = Callable[["Worker", JobRow], dict[str, object]]


class Worker:
    """Runs until told to stop.

    Args:
        services: the rooms.
        stop: set to end all loops; jobs in hand are finished or left for the next worker.
    """

    def __init__(self, services: Services, stop: threading.Event) -> None:
        self.services = services
        self.stop = stop
        self.champions = ChampionCache(services)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._changed = threading.Event()
        self._archive_was_away = True
        self._reconcile_at = 0.0

    def run(self) -> None:
        """Start every loop and wait for `stop`."""
        settings = self.services.settings
        reconcile_promotions(self.services)
        loops: list[tuple[str, Callable[[], bool], float]] = [
            ("ingest", self._ingest, settings.ingest.poll_s),
            ("outbox", lambda: deliver_outbox(self.services) > 0, IDLE_S),
            ("queues", self._refresh, REFRESH_S),
            ("training", self._train, IDLE_S),
        ]
        loops += [(f"jobs-{n}", self._one_job, IDLE_S) for n in range(settings.worker.threads)]
        threads = [threading.Thread(target=self._loop, args=loop, name=loop[0], daemon=True) for loop in loops]
        for thread in threads:
            thread.start()
        logger.info("worker %s is at work on %s", self.name, ", ".join(self.services.tasks))
        self.stop.wait()
        for thread in threads:
            thread.join(timeout=STOP_TRAINING_S)

    def _loop(self, name: str, duty: Callable[[], bool], pause_s: float) -> None:
        """Repeat a duty; pause when it had nothing to do, longer when it failed."""
        failing = ""
        while not self.stop.is_set():
            try:
                busy = duty()
            except LabelError as error:
                if str(error) != failing:
                    logger.warning("%s: %s; trying again every %g s", name, error, BACKOFF_S)
                failing = str(error)
                self.stop.wait(BACKOFF_S)
                continue
            except Exception:
                logger.exception("%s failed unexpectedly; trying again in %g s", name, BACKOFF_S)
                self.stop.wait(BACKOFF_S)
                continue
            if failing:
                logger.info("%s works again", name)
                failing = ""
            if not busy:
                self.stop.wait(pause_s)

    def _ingest(self) -> bool:
        try:
            found = ingest_once(self.services)
        except ArchiveUnavailable:
            self._archive_was_away = True
            raise
        if self._archive_was_away or time.monotonic() > self._reconcile_at:
            found += reconcile(self.services)
            self._archive_was_away = False
            self._reconcile_at = time.monotonic() + self.services.settings.ingest.reconcile_s
            self._changed.set()
        if found.series or found.segs or found.gone:
            logger.info("archive: %d series to check, %d SEG series to read, %d gone", *_numbers(found))
            self._changed.set()
        return False

    def _one_job(self) -> bool:
        lease_s = self.services.settings.worker.job_lease_s
        job = self.services.ledger.jobs.take(BACKGROUND, self.name, lease_s)
        if job is None:
            return False
        jobs = self.services.ledger.jobs
        try:
            jobs.finish(job.id, self.name, HANDLERS[job.kind](self, job))
        except (Conflict, NoChampion) as error:
            logger.info("job %d (%s) is not needed any more: %s", job.id, job.key, error)
            jobs.finish(job.id, self.name, {"skipped": str(error)})
        except LabelError as error:
            logger.warning("job %d (%s): %s", job.id, job.key, error)
            jobs.fail(job.id, self.name, str(error), retry=isinstance(error, ArchiveUnavailable))
        except Exception as error:
            logger.exception("job %d (%s) failed unexpectedly", job.id, job.key)
            jobs.fail(job.id, self.name, f"{type(error).__name__}: {error}", retry=True)
        self._changed.set()
        return True

    def check(self, job: JobRow) -> dict[str, object]:
        """Check an image series."""
        return {"outcome": check_series(self.services, str(job.payload["series_uid"]))}

    def read_seg(self, job: JobRow) -> dict[str, object]:
        """Read the SEGs of a series."""
        return {"read": read_seg_series(self.services, str(job.payload["series_uid"]))}

    def draft(self, job: JobRow) -> dict[str, object]:
        """Draft a series with the champion."""
        task = self.services.task(job.task)

        def report(share: float) -> None:
            if not self.services.ledger.jobs.beat(job.id, self.name, share, "predicting"):
                raise Conflict(f"job {job.id} was cancelled or taken over")

        made = presegment(self.services, self.champions, task, str(job.payload["series_uid"]), job, report)
        return {"annotation": made}

    def _refresh(self) -> bool:
        """Enqueue missing drafts and rank anew when something changed; seldom when nothing did."""
        self._changed.wait(FULL_REFRESH_S if not self.stop.is_set() else 0)
        self._changed.clear()
        if self.stop.is_set():
            return False
        started = time.monotonic()
        for task in self.services.tasks.values():
            self._enqueue(task)
            refresh_queues(self.services, task)
        self.stop.wait(min(FULL_REFRESH_S, 10 * (time.monotonic() - started)))  # at most a tenth of the time
        return False

    def _enqueue(self, task: Task) -> None:
        if not self.services.settings.presegment.automatic:
            return
        try:
            new = enqueue_drafts(self.services, task)
        except NoChampion:
            return  # the usual state before the first training; `status` and /info say it
        if new:
            logger.info("task %s: %d series wait for a draft", task.name, new)

    def _train(self) -> bool:
        """Let a child process do the training; its end, whatever it is, stands in the ledger."""
        jobs = self.services.ledger.jobs
        job = jobs.take((RETRAIN,), self.name, self.services.settings.worker.job_lease_s)
        if job is None:
            return False
        command = [sys.executable, "-m", "lib.cli", "retrain", "--job", str(job.id)]
        child = subprocess.Popen(command, env=_training_environment(self.services))
        logger.info("training of task %s runs as process %d (job %d)", job.task, child.pid, job.id)
        while child.poll() is None and not self.stop.wait(IDLE_S):
            pass
        if child.poll() is None:
            child.terminate()
            child.wait(STOP_TRAINING_S)
            return False
        if jobs.get(job.id).state == "running":
            jobs.fail(job.id, self.name, f"the training process ended with status {child.returncode}", retry=True)
        self._changed.set()
        return True


HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {CHECK: Worker.check, READ_SEG: Worker.read_seg, DRAFT: Worker.draft}
)


def _training_environment(services: Services) -> dict[str, str]:
    threads = services.settings.retrain.threads or max(1, (os.cpu_count() or 1) // 2)
    return {**os.environ, **environment_of(services.settings), "OMP_NUM_THREADS": str(threads)}


def _numbers(found: object) -> tuple[int, int, int]:
    return found.series, found.segs, found.gone  # type: ignore[attr-defined]
