"""A training job from its lease to its end: signs of life while it runs, its result or its error afterwards."""

import logging
import shutil
from collections.abc import Callable

from lib.core.errors import ArchiveUnavailable, LabelError, LedgerUnavailable, RegistryUnavailable
from lib.ledger.rows import JobRow
from lib.workflows.heartbeat import Heartbeat
from lib.workflows.plan import job_folder
from lib.workflows.retrain import Report, Stopped, run_retrain
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

PASSING = (ArchiveUnavailable, LedgerUnavailable, RegistryUnavailable, Stopped)
"""Errors after which the job waits for another attempt."""


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
    from lib.inference.devices import set_threads

    set_threads(services.settings.retrain.threads)
    jobs, worker = services.ledger.jobs, job.worker or ""
    heartbeat = Heartbeat(services.ledger, job, services.settings.worker.job_lease_s, parent)

    def report(share: float, message: str) -> None:
        heartbeat.report(share, message)
        on_report(share, message)

    try:
        with heartbeat:
            on_start(heartbeat)
            outcome = run_retrain(services, job, report, heartbeat.stop)
        jobs.finish(job.id, worker, outcome.to_dict())
    except LabelError as error:
        reason = f"{heartbeat.reason}; {error}" if heartbeat.reason else str(error)
        logger.warning("job %d (%s) did not end: %s", job.id, job.key, reason)
        jobs.fail(job.id, worker, reason, retry=isinstance(error, PASSING))
    except Exception as error:
        logger.exception("job %d (%s) failed unexpectedly", job.id, job.key)
        jobs.fail(job.id, worker, f"{type(error).__name__}: {error}", retry=True)
    row = jobs.get(job.id)
    if row.state == "cancelled":
        shutil.rmtree(job_folder(services, job.id), ignore_errors=True)
    return row
