"""A training job from its lease to its end: signs of life while it runs, its result or its error afterwards."""

import logging
import shutil
from collections.abc import Callable

from lib.core.atomic import is_full
from lib.core.errors import (
    ArchiveUnavailable,
    ClusterUnavailable,
    LabelError,
    LedgerUnavailable,
    OutOfMemory,
    ProcessLost,
    RegistryUnavailable,
    WeightsUnavailable,
)
from lib.ledger.rows import JobRow
from lib.workflows.heartbeat import Heartbeat, Stopped
from lib.workflows.pauses import archive_pause_s
from lib.workflows.plan import job_folder
from lib.workflows.retrain import run_retrain
from lib.workflows.retrain_fit import Report
from lib.workflows.retrain_notes import ACTOR, MOST_ROWS
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

PASSING = (LedgerUnavailable, RegistryUnavailable, ProcessLost, OutOfMemory)
"""Errors after which the job waits for another attempt; those that are no fault of the job cost none.

Steps that find no memory are a `TrainingFailed`, which stays: they would not fit the next time either. After the last
one, where models are measured beside what else uses the device, another attempt goes on from the checkpoint or from the
version that is registered.
"""
AWAY = (ArchiveUnavailable, ClusterUnavailable, WeightsUnavailable)
"""What comes back by itself or when somebody mounts it: the job waits for it, and no attempt is counted."""
RESTS = 6
"""So many times a job waits like that for memory too, an hour in all after a long training; then attempts are counted.

Drafts may fill a card for longer than attempts take, but what never fits must not keep the next training waiting.
"""
REST = "training.rest"
"""Action of the row in the audit trail that counts these times."""


def work_on(
    services: Services,
    job: JobRow,
    parent: int | None = None,
    on_start: Callable[[Heartbeat], None] = lambda _: None,
    on_report: Report = lambda share, message: None,
) -> JobRow:
    """Do a training job that is held by this process or its parent, and write down how it ended.

    Args:
        services: the rooms.
        job: as taken from the ledger, by whoever its row names.
        parent: process whose end stops the job.
        on_start: gets the heartbeat, to connect signals with its `end`.
        on_report: hears what the ledger hears: the share done, and what is going on.

    Returns:
        The row afterwards: done, failed, cancelled, or queued for another attempt.
    """
    from lib.inference.devices import choose_device, limit_memory, set_threads

    set_threads(services.settings.retrain.threads)
    jobs = services.ledger.jobs
    heartbeat = Heartbeat(services.ledger, job, services.settings.worker.job_lease_s, parent)

    def report(share: float, message: str) -> None:
        heartbeat.report(share, message)
        on_report(share, message)

    try:
        with heartbeat:
            on_start(heartbeat)
            limit_memory(choose_device(services.settings.inference.device), services.settings.retrain.gpu_share)
            outcome = run_retrain(services, job, report, heartbeat.stop)
        jobs.finish(job, outcome.to_dict())
    except Exception as error:
        _write_end(services, job, error, heartbeat.reason)
    row = jobs.get(job.id)
    if row.state in ("done", "cancelled"):
        shutil.rmtree(job_folder(services, job.id), ignore_errors=True)
    return row


def _write_end(services: Services, job: JobRow, error: Exception, told: str) -> None:
    """Write down how a job ended that is not done.

    Args:
        services: the rooms.
        job: as taken.
        error: what ended it.
        told: why it was told to stop; "" = it was not.
    """
    jobs, is_stopped = services.ledger.jobs, isinstance(error, Stopped)
    if is_stopped or isinstance(error, AWAY) or is_full(error) or _rests_for_memory(services, job, error):
        reason = f"{told}; {error}" if told else str(error)
        logger.warning("job %d (%s) goes on later: %s", job.id, job.key, reason)
        jobs.give_back(job, reason, 0.0 if is_stopped else archive_pause_s(job.created_at, jobs.clock()))
    elif isinstance(error, LabelError):
        logger.warning("job %d (%s) did not end: %s", job.id, job.key, error)
        jobs.fail(job, str(error), retry=isinstance(error, PASSING))
    else:
        logger.error("job %d (%s) failed unexpectedly", job.id, job.key, exc_info=error)
        jobs.fail(job, f"{type(error).__name__}: {error}", retry=True)


def _rests_for_memory(services: Services, job: JobRow, error: Exception) -> bool:
    """Whether a job that found no memory rests once more without a counted attempt; each time is put on record."""
    if not isinstance(error, OutOfMemory):
        return False
    subject, audit = f"job {job.id}", services.ledger.audit
    if sum(row.action == REST for row in audit.list(MOST_ROWS, subject)) >= RESTS:
        return False
    audit.add(ACTOR, REST, subject, {"why": str(error)})
    return True
