"""The worker: follows the archive, delivers the outbox, does the jobs of the ledger, keeps the queues.

Each duty is a loop in a thread of its own; they meet only in the ledger, so several workers may run. A training is a
child process. While the archive is away no background job is taken. Told to stop, the worker ends within seconds: what
a thread cannot end in that time goes back into the ledger as if it had not been taken.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from lib.core.errors import ArchiveUnavailable, LabelError, NoChampion, RegistryUnavailable
from lib.ledger.rows import JobRow
from lib.settings import environment_of
from lib.taskfile import Task
from lib.workflows.archivewatch import ArchiveWatch
from lib.workflows.ingest import ingest_once, reconcile
from lib.workflows.jobrunner import JobRunner
from lib.workflows.jobs import RETRAIN
from lib.workflows.models import ChampionCache
from lib.workflows.night import every_night
from lib.workflows.presegment import deliver_outbox, enqueue_drafts
from lib.workflows.promotion import reconcile_promotions
from lib.workflows.query import refresh_queues
from lib.workflows.scoring import start_scoring
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

TRAINING = "training"
IDLE_S = 0.5
REFRESH_S = 1.0
FULL_REFRESH_S = 60.0
BACKOFF_S = 5.0
STOP_S = 3.0
CHILD_STOP_S = 5.0


class Worker:
    """Runs until told to stop.

    Args:
        services: the rooms.
        stop: set to end all loops; jobs in hand are finished within seconds or given back.
    """

    def __init__(self, services: Services, stop: threading.Event) -> None:
        self._services = services
        self._stop = stop
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._champions = ChampionCache(services)
        self._archive = ArchiveWatch()
        self._runners = [
            JobRunner(services, self._champions, f"{self._name}:{n}", self._archive)
            for n in range(services.settings.worker.threads)
        ]
        self._changed = threading.Event()
        self._archive_was_away = True
        self._reconcile_at = 0.0
        self._refresh_at = 0.0
        self._serving: dict[str, int | None] = {}
        self._registry_said: dict[str, str] = {}

    def run(self) -> bool:
        """Start every loop and wait for `stop`.

        Returns:
            Whether every thread has ended. Those that have not may be cut off: the ledger counts on nothing of them.
        """
        settings = self._services.settings
        loops: list[tuple[str, Callable[[], bool], float]] = [
            ("ingest", self._ingest, settings.ingest.poll_s),
            ("outbox", lambda: deliver_outbox(self._services) > 0, IDLE_S),
            ("switches", lambda: reconcile_promotions(self._services) > 0, FULL_REFRESH_S),
            ("queues", self._refresh, REFRESH_S),
            (TRAINING, self._train, IDLE_S),
        ]
        loops += [(f"jobs-{n}", partial(self._one_job, runner), IDLE_S) for n, runner in enumerate(self._runners)]
        threads = [threading.Thread(target=self._loop, args=loop, name=loop[0], daemon=True) for loop in loops]
        warming = threading.Thread(target=self._champions.warm, name="warming", daemon=True)
        for thread in (warming, *threads):
            thread.start()
        logger.info("worker %s is at work on %s", self._name, ", ".join(self._services.tasks))
        with every_night(self._services):
            self._stop.wait()
        return self._end([warming, *threads])

    def _end(self, threads: Sequence[threading.Thread]) -> bool:
        """Wait for the threads a little; whether all have ended. Jobs that are still in hand are given back."""
        for runner in self._runners:
            runner.stop()
        _join(threads, STOP_S)
        for runner in self._runners:
            _give_back(runner)
        _join([thread for thread in threads if thread.name == TRAINING], CHILD_STOP_S)  # its child needs longer
        left = [thread.name for thread in threads if thread.is_alive()]
        if left:
            logger.info("the worker ends in the middle of: %s", ", ".join(left))
        return not left

    def _loop(self, name: str, duty: Callable[[], bool], pause_s: float) -> None:
        """Repeat a duty; pause when it had nothing to do, longer when it failed."""
        failure = ""
        while not self._stop.is_set():
            try:
                busy = duty()
            except LabelError as error:
                if str(error) != failure:
                    logger.warning("%s: %s; trying again every %g s", name, error, BACKOFF_S)
                failure = str(error)
                self._stop.wait(BACKOFF_S)
                continue
            except Exception:
                logger.exception("%s failed unexpectedly; trying again in %g s", name, BACKOFF_S)
                self._stop.wait(BACKOFF_S)
                continue
            if failure:
                logger.info("%s works again", name)
                failure = ""
            if not busy:
                self._stop.wait(pause_s)

    def _ingest(self) -> bool:
        """Follow the archive; when it comes back, and now and then, compare everything."""
        try:
            found = ingest_once(self._services)
            self._archive.found()
            if self._archive_was_away or time.monotonic() > self._reconcile_at:
                found += reconcile(self._services)
                self._archive_was_away = False
                self._reconcile_at = time.monotonic() + self._services.settings.ingest.reconcile_s
                self._changed.set()
        except ArchiveUnavailable as error:
            self._archive.lost(error)
            self._archive_was_away = True
            raise
        if found.any:
            logger.info("archive: %s", found)
            self._changed.set()
        return False

    def _one_job(self, runner: JobRunner) -> bool:
        if not self._archive.answers:
            return False
        busy = runner.one_job()
        if busy:
            self._changed.set()
        return busy

    def _refresh(self) -> bool:
        """Enqueue what is missing and rank anew when something changed, or when nothing did for a while."""
        serving = {name: self._services.ledger.models.serving(name) for name in self._services.tasks}
        if serving != self._serving:
            self._serving = serving
            self._changed.set()
        if not self._changed.is_set() and time.monotonic() < self._refresh_at:
            return False
        self._changed.clear()
        started, is_done = time.monotonic(), False
        try:
            away = [task.name for task in self._services.tasks.values() if not self._renew(task)]
            is_done = not away
        finally:
            if not is_done:
                self._changed.set()
        taken_s = time.monotonic() - started
        self._refresh_at = time.monotonic() + FULL_REFRESH_S
        pause_s = 9 * taken_s if is_done else max(BACKOFF_S, 9 * taken_s)
        self._stop.wait(min(FULL_REFRESH_S, pause_s))  # at most a tenth of the time goes into ranking
        return False

    def _renew(self, task: Task) -> bool:
        """Enqueue what a task lacks and rank its cases; whether the registry answered, else it is to be done again."""
        said = ""
        for duty in (self._enqueue, partial(refresh_queues, self._services)):
            try:
                duty(task)
            except RegistryUnavailable as error:
                said = str(error)
        if said and self._registry_said.get(task.name) != said:
            logger.warning("task %s: %s; trying again every %g s", task.name, said, BACKOFF_S)
        self._registry_said[task.name] = said
        return not said

    def _enqueue(self, task: Task) -> None:
        """Ask for the drafts that are wanted, and for the scores that no draft brings."""
        new = 0
        try:
            if self._services.settings.presegment.automatic:
                new = enqueue_drafts(self._services, task)
            start_scoring(self._services, task)
        except NoChampion:
            logger.debug("task %s has no model yet", task.name)
        if new:
            logger.info("task %s: %d series wait for a draft", task.name, new)

    def _train(self) -> bool:
        """Let a child process do a training; its end, whatever it is, stands in the ledger."""
        jobs = self._services.ledger.jobs
        job = jobs.take((RETRAIN,), self._name, self._services.settings.worker.job_lease_s)
        if job is None:
            return False
        status = self._run_child(job)
        if self._stop.is_set():
            jobs.give_back(job, "the worker stopped")
        else:
            jobs.fail(job, f"the training process ended with status {status}", retry=True)  # unless it wrote its end
        self._changed.set()
        return True

    def _run_child(self, job: JobRow) -> int:
        """Start the training's process and wait for its end; told to stop, end it, to go on in another attempt."""
        command = [sys.executable, "-m", "lib.cli", "retrain", "--job", str(job.id)]
        child = subprocess.Popen(command, env=_training_environment(self._services))
        logger.info("training of task %s runs as process %d (job %d)", job.task, child.pid, job.id)
        while child.poll() is None and not self._stop.wait(IDLE_S):
            continue
        if child.poll() is None:
            child.terminate()
        try:
            return child.wait(CHILD_STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            return child.wait()


def _give_back(runner: JobRunner) -> None:
    """Give back what a thread could not end in time; without a ledger the job's lease runs out instead."""
    try:
        runner.give_back()
    except LabelError as error:
        logger.warning("a job is left to its lease: %s", error)


def _join(threads: Sequence[threading.Thread], within_s: float) -> None:
    """Wait for all threads together so long at most."""
    deadline = time.monotonic() + within_s
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def _training_environment(services: Services) -> dict[str, str]:
    threads = services.settings.retrain.threads or max(1, (os.cpu_count() or 1) // 2)
    return {**os.environ, **environment_of(services.settings), "OMP_NUM_THREADS": str(threads)}
