"""One job at a time from the ledger: taken, kept alive, done, and its end written down whatever it is.

What meets an absent archive or a worker that stops is queued again as if it had not been taken; what fails on its input
has failed, with the reason; what has become needless is done.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial

from lib.core.errors import (
    ArchiveUnavailable,
    Conflict,
    DiskFull,
    LabelError,
    LedgerUnavailable,
    ManifestMismatch,
    NoChampion,
    OutOfMemory,
    ProcessLost,
    RegistryUnavailable,
)
from lib.ledger.rows import JobRow
from lib.workflows.archivewatch import ArchiveWatch
from lib.workflows.heartbeat import Heartbeat, Stopped
from lib.workflows.intake import check_series, read_seg_series
from lib.workflows.jobs import BACKGROUND, CHECK, DRAFT, RANK, READ_SEG, SCORE
from lib.workflows.models import ChampionCache
from lib.workflows.pauses import archive_pause_s
from lib.workflows.presegment import SeriesGone, presegment
from lib.workflows.query import build_queues, known_strategy
from lib.workflows.scoring import score_all
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

NEEDLESS = (Conflict, NoChampion, SeriesGone)
"""Errors that say that nobody wants the job any more."""
PASSING = (LedgerUnavailable, RegistryUnavailable, ManifestMismatch, OutOfMemory, DiskFull, ProcessLost)
"""Errors that another attempt may not meet."""

Result = dict[str, object]
End = Callable[[], object]


class JobRunner:
    """Does the background jobs, one at a time; each thread needs one of its own.

    Args:
        services: the rooms.
        champions: what predicts.
        worker: name under which jobs are taken; no other runner has it.
        archive: hears of an archive that a job found away.
    """

    def __init__(
        self, services: Services, champions: ChampionCache, worker: str, archive: ArchiveWatch | None = None
    ) -> None:
        self._services = services
        self._champions = champions
        self._worker = worker
        self._archive = archive or ArchiveWatch()
        self._in_hand: tuple[JobRow, Heartbeat] | None = None
        self._handlers: Mapping[str, Callable[[JobRow, Heartbeat], Result]] = {
            READ_SEG: self._read_seg,
            CHECK: self._check,
            RANK: self._rank,
            DRAFT: self._draft,
            SCORE: self._score,
        }

    def one_job(self) -> bool:
        """Take one job and do it; False when there was none."""
        lease_s = self._services.settings.worker.job_lease_s
        job = self._services.ledger.jobs.take(BACKGROUND, self._worker, lease_s)
        if job is None:
            return False
        heartbeat = Heartbeat(self._services.ledger, job, lease_s)
        self._in_hand = (job, heartbeat)
        try:
            with heartbeat:
                end = self._do(job, heartbeat)
            end()
        finally:
            self._in_hand = None
        return True

    def stop(self) -> None:
        """Tell the job in hand to stop at its next report; from another thread."""
        if (held := self._in_hand) is not None:
            held[1].end("the worker stopped")

    def give_back(self) -> None:
        """Give back the job in hand, whatever it is at; from another thread. What it still does is not recorded."""
        if (held := self._in_hand) is not None:
            self._services.ledger.jobs.give_back(held[0], "the worker stopped")

    def _do(self, job: JobRow, heartbeat: Heartbeat) -> End:
        """Do a job; what is to be written down of its end."""
        jobs = self._services.ledger.jobs
        try:
            result = self._handlers[job.kind](job, heartbeat)
        except Stopped as error:
            logger.info("job %d (%s) is given back: %s", job.id, job.key, error)
            return partial(jobs.give_back, job, heartbeat.reason, to_end=job.kind == SCORE)
        except NEEDLESS as error:
            logger.info("job %d (%s) is not needed any more: %s", job.id, job.key, error)
            result = {"skipped": str(error)}
        except ArchiveUnavailable as error:
            self._archive.lost(error)
            logger.info("job %d (%s) waits for the archive: %s", job.id, job.key, error)
            return partial(jobs.give_back, job, str(error), archive_pause_s(job.created_at, jobs.clock()))
        except LabelError as error:
            logger.warning("job %d (%s): %s", job.id, job.key, error)
            return partial(jobs.fail, job, str(error), retry=isinstance(error, PASSING))
        except Exception as error:
            logger.exception("job %d (%s) failed unexpectedly", job.id, job.key)
            return partial(jobs.fail, job, f"{type(error).__name__}: {error}", retry=True)
        return partial(jobs.finish, job, result)

    def _check(self, job: JobRow, heartbeat: Heartbeat) -> Result:
        return {"outcome": check_series(self._services, str(job.payload["series_uid"]))}

    def _read_seg(self, job: JobRow, heartbeat: Heartbeat) -> Result:
        return {"read": read_seg_series(self._services, str(job.payload["series_uid"]))}

    def _rank(self, job: JobRow, heartbeat: Heartbeat) -> Result:
        strategy = known_strategy(str(job.payload["strategy"]))
        return {"cases": build_queues(self._services, self._services.task(job.task), (strategy,))}

    def _draft(self, job: JobRow, heartbeat: Heartbeat) -> Result:
        task = self._services.task(job.task)

        def report(share: float) -> None:
            heartbeat.report(share, "predicting")
            heartbeat.require_wanted()

        series_uid = str(job.payload["series_uid"])
        return {"annotation": presegment(self._services, self._champions, task, series_uid, job, report)}

    def _score(self, job: JobRow, heartbeat: Heartbeat) -> Result:
        return score_all(self._services, self._champions, self._services.task(job.task), job, heartbeat)
