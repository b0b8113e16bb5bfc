"""One job at a time from the ledger: taken, done, and its end written down whatever it is.

What fails for want of the archive is queued again; what fails on its input has failed, with the reason; what has become
needless is done.
"""

import logging
from collections.abc import Callable, Mapping

from lib.core.errors import ArchiveUnavailable, Conflict, LabelError, NoChampion
from lib.ledger.rows import JobRow
from lib.workflows.intake import check_series, read_seg_series
from lib.workflows.jobs import BACKGROUND, CHECK, DRAFT, READ_SEG
from lib.workflows.models import ChampionCache
from lib.workflows.presegment import presegment
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

Result = dict[str, object]


class JobRunner:
    """Does the background jobs; safe to call from several threads.

    Args:
        services: the rooms.
        champions: what predicts.
        worker: name under which jobs are taken.
    """

    def __init__(self, services: Services, champions: ChampionCache, worker: str) -> None:
        self._services = services
        self._champions = champions
        self._worker = worker
        self._handlers: Mapping[str, Callable[[JobRow], Result]] = {
            CHECK: self._check,
            READ_SEG: self._read_seg,
            DRAFT: self._draft,
        }

    def one_job(self) -> bool:
        """Take one job and do it; False when there was none."""
        jobs = self._services.ledger.jobs
        job = jobs.take(BACKGROUND, self._worker, self._services.settings.worker.job_lease_s)
        if job is None:
            return False
        try:
            jobs.finish(job.id, self._worker, self._handlers[job.kind](job))
        except (Conflict, NoChampion) as error:
            logger.info("job %d (%s) is not needed any more: %s", job.id, job.key, error)
            jobs.finish(job.id, self._worker, {"skipped": str(error)})
        except LabelError as error:
            logger.warning("job %d (%s): %s", job.id, job.key, error)
            jobs.fail(job.id, self._worker, str(error), retry=isinstance(error, ArchiveUnavailable))
        except Exception as error:
            logger.exception("job %d (%s) failed unexpectedly", job.id, job.key)
            jobs.fail(job.id, self._worker, f"{type(error).__name__}: {error}", retry=True)
        return True

    def _check(self, job: JobRow) -> Result:
        return {"outcome": check_series(self._services, str(job.payload["series_uid"]))}

    def _read_seg(self, job: JobRow) -> Result:
        return {"read": read_seg_series(self._services, str(job.payload["series_uid"]))}

    def _draft(self, job: JobRow) -> Result:
        task = self._services.task(job.task)

        def report(share: float) -> None:
            if not self._services.ledger.jobs.beat(job.id, self._worker, share, "predicting"):
                raise Conflict(f"job {job.id} was cancelled or taken over")

        series_uid = str(job.payload["series_uid"])
        return {"annotation": presegment(self._services, self._champions, task, series_uid, job, report)}
