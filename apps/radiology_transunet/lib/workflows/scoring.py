"""Scores of every series by the champion, made in the background, whether drafts are made or not.

A job a task. What is left to do follows from the ledger and is asked anew now and then, so that nothing is lost with a
process that is killed, an arrival is next within minutes, and a new champion is followed at once. Series that are
labelled are scored too: new cases are held against them. A series that waits for its draft is left to that: a draft
brings the same scores.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from lib.core.errors import ManifestMismatch, OutOfMemory, PredictionFailed, ProcessLost
from lib.ledger.rows import JobRow
from lib.taskfile import Task
from lib.workflows.executor.engine import Executor, open_executor
from lib.workflows.heartbeat import Heartbeat
from lib.workflows.jobs import DRAFT, SCORE, URGENT, draft_key, score_key
from lib.workflows.looking import Answer, LocalLook, Pictures, SentLook
from lib.workflows.models import ChampionCache, require_champion
from lib.workflows.pauses import failures_before, is_resting
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

LIST = 2000
"""Series that are listed at a time: each list asks the whole archive."""
LIST_S = 600.0
"""Seconds after which a list is made anew, so that an arrival is next."""
ROUND = 32
"""Series of a list after which the ledger is asked which of the next ones are still to be scored."""
IN_A_ROW = 3
"""Series one after the other that find no memory, which is then the machine's fault."""
TURN = 512
"""Series after which another task's job that waits has its turn."""
MANY = 20
"""Series one after the other on which the model fails, after which the job rests."""
State = Literal["done", "running", "waiting"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the scoring of a task is.

    Attributes:
        version: of the champion; None without one.
        scored: series that it has scored.
        failed: series that it cannot score.
        of: ready series that the task takes.
        state: "done"; "running" = a worker is at it; "waiting" = for a worker, more urgent work, or another attempt.
    """

    version: int | None
    scored: int
    failed: int
    of: int
    state: State


def start_scoring(services: Services, task: Task, insist: bool = False) -> bool:
    """See that what the champion has not scored gets scored; whether there is anything.

    After a failure the next job rests first, the longer the more often it failed.

    Args:
        services: the rooms.
        task: whose series.
        insist: whether to try at once, also series that could not be scored.

    Raises:
        NoChampion: no model serves the task.
    """
    version = require_champion(services, task).version
    if insist:
        services.ledger.scorings.forget_failures(task.name)
    if not _next(services, task, version, 1):
        return False
    jobs = services.ledger.jobs
    last = next(iter(jobs.last_failed(SCORE, task.name)), None)
    if insist or not is_resting(last, jobs.clock()):
        payload = {"failures": failures_before(last)}
        jobs.add(SCORE, task.name, payload, score_key(task.name), services.settings.worker.attempts)
    return True


def progress(services: Services, task: Task) -> Progress:
    """How far the scoring of a task is."""
    champion, ledger = services.registry.champion(task.name), services.ledger
    version = None if champion is None else champion.version
    groups = [
        group
        for group in ledger.scorings.covered(task.name, -1 if version is None else version)
        if task.why_not(group.modality, group.description) is None
    ]
    scored, failed, of = (sum(getattr(group, name) for group in groups) for name in ("scored", "failed", "ready"))
    state: State = "done"
    if version is not None and scored + failed < of:
        at_work = any(ledger.jobs.list(kind=kind, state="running", task=task.name, limit=1) for kind in (SCORE, DRAFT))
        state = "running" if at_work else "waiting"
    return Progress(version, scored, failed, of, state)


def score_all(
    services: Services,
    champions: ChampionCache,
    task: Task,
    job: JobRow,
    heartbeat: Heartbeat,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Score what the champion has not scored; how many series were.

    Raises:
        NoChampion: no model serves the task.
        ManifestMismatch: the champion cannot be loaded, another version serves.
        Stopped: told to stop, or more urgent work waits; what is scored stays.
        ProcessLost: a machine of the cluster is gone, or the device does not work; what is scored stays.
        OutOfMemory: several series in a row find no memory; what is scored stays.
        PredictionFailed: the model fails on many series in a row; they are marked, what is scored stays.
        ArchiveUnavailable: the archive does not answer.
    """
    where = executor or open_executor(services.settings)
    work = _Work(services, task, job, heartbeat)
    look: LocalLook | SentLook = LocalLook(champions, task)
    while uids := work.next(version := _version(services, champions, task, where)):
        look = look if where.is_here else _sent(services, task, look)
        with closing(where.each(look, Pictures(services, task, uids))) as answers:
            for _, answer in answers:
                work.take(answer)
                if where.is_here:
                    work.give_way()
        work.give_way()
    work.settle()
    return {"scored": work.scored, "failed": work.failed, "version": version}


def _version(services: Services, champions: ChampionCache, task: Task, executor: Executor) -> int:
    """The version that looks at the next series."""
    champion = require_champion(services, task).version
    if executor.is_here and (version := champions.predictor(task.name)[1]) != champion:
        raise ManifestMismatch(f"series are to be scored by version {champion}, but {version} serves")
    return champion


def _sent(services: Services, task: Task, last: LocalLook | SentLook) -> SentLook:
    """A look with the champion's files: the last one while it is of that version, so that they are read once."""
    model = require_champion(services, task)
    if isinstance(last, SentLook) and (last.version, last.origin) == (model.version, model.folder.name):
        return last
    return SentLook.of(services, task, model)


def _next(services: Services, task: Task, version: int, limit: int, among: Sequence[str] | None = None) -> list[str]:
    """The series that a version shall look at next, of some or of the whole archive."""
    left_to = (DRAFT, draft_key(task.name, ""))
    return services.ledger.scorings.wanted(
        task.name, version, lambda *kind: task.why_not(*kind) is None, left_to, limit, among
    )


class _Work:
    """A scoring job in hand.

    What goes wrong is the series' own: it is marked with the reason and looked at again after a rest, and the others go
    on. But for a device that does not work, and for want of memory unless another series finds enough after it.
    """

    def __init__(self, services: Services, task: Task, job: JobRow, heartbeat: Heartbeat) -> None:
        self._services, self._task = services, task
        self._job, self._heartbeat = job, heartbeat
        self._list: deque[str] = deque()
        self._listed: tuple[int | None, float] = (None, 0.0)  # for which version and when, on the monotonic clock
        self._skip = IN_A_ROW * (int(job.payload.get("failures", 0)) + (job.attempts - 1 if job.error else 0))
        self._lacking: list[Answer] = []
        self._failures = self._looks = 0
        self._done, self._of = 0, 1
        self.scored = 0
        self.failed = 0

    def next(self, version: int) -> Sequence[str]:
        """The series of the next round; none when all are done."""
        if self._listed[0] != version or time.monotonic() > self._listed[1] + LIST_S:
            self._list.clear()
        while self._list or self._make_list(version):
            some = [self._list.popleft() for _ in range(min(ROUND, len(self._list)))]
            found = frozenset(_next(self._services, self._task, version, ROUND, some))
            if found:
                return [uid for uid in some if uid in found]
        return ()

    def _make_list(self, version: int) -> bool:
        """Ask the whole archive for what is left to do; whether anything is.

        A job that failed before begins behind the series at which it did.
        """
        far = progress(self._services, self._task)
        self._done, self._of = far.scored + far.failed, max(1, far.of)
        lacking = {answer.series_uid for answer in self._lacking}
        found = _next(self._services, self._task, version, LIST + len(lacking))
        self._list = deque(uid for uid in found if uid not in lacking)
        self._list.rotate(-self._skip)
        self._skip, self._listed = 0, (version, time.monotonic())
        return bool(self._list)

    def take(self, answer: Answer) -> None:
        """Keep what came of a look, and tell how far it is.

        Raises:
            ProcessLost: the device does not work.
            OutOfMemory: several series in a row found no memory.
            PredictionFailed: the model failed on many series in a row; they are marked.
            Conflict: the job was taken away.
        """
        self._looks += 1
        if answer.cause == "device":
            raise ProcessLost(f"the device must work to score series {answer.series_uid}: {answer.said.error}")
        if answer.cause == "memory":
            self._lacking.append(answer)
            self._require_memory(len(self._lacking) < IN_A_ROW)
            return
        self._keep(answer)
        if not answer.cause:
            self._keep_lacking()
            self._failures = 0
        elif answer.cause == "look":
            self._count_failure(answer)
        words = f"scored {self.scored} series" + (f", {self.failed} cannot be" if self.failed else "")
        self._heartbeat.report(self._done / self._of, words)

    def settle(self) -> None:
        """End the work: those that found no memory are marked, unless none but them was left and memory may come.

        Raises:
            OutOfMemory: the job shall be tried again.
        """
        self._require_memory(not self._lacking or self.scored > 0 or self._job.attempts >= self._job.max_attempts)
        self._keep_lacking()

    def give_way(self) -> None:
        """Stop where the worker stops, more urgent work waits, or another task after a turn of this one.

        Raises:
            Stopped: the job is to be given back, behind those of other tasks.
        """
        jobs = self._services.ledger.jobs
        if jobs.is_due(URGENT):
            self._heartbeat.end("more urgent work waits")
        elif self._looks >= TURN and jobs.is_due((SCORE,)):
            self._heartbeat.end("the series of another task wait")
        self._heartbeat.require_wanted()

    def _require_memory(self, is_enough: bool) -> None:
        if not is_enough:
            raise OutOfMemory(
                f"{len(self._lacking)} series in a row found no memory to be scored in; end what else uses the device, "
                f"or lower inference.batch_size. The last one failed for: {self._lacking[-1].said.error}"
            )

    def _count_failure(self, answer: Answer) -> None:
        self._failures += 1
        if self._failures >= MANY:
            raise PredictionFailed(
                f"version {answer.version} must score some of {MANY} series in a row, it scored none; they are marked, "
                f"and the next attempt begins behind them. The last one failed for: {answer.said.error}"
            )

    def _keep_lacking(self) -> None:
        """Mark the series that found no memory where another one did."""
        for answer in self._lacking:
            self._keep(answer)
        self._lacking.clear()

    def _keep(self, answer: Answer) -> None:
        if self._services.ledger.series.get(answer.series_uid).status != "ready":
            return  # it has left the archive meanwhile
        case = (answer.series_uid, self._task.name, answer.version)
        if not self._services.ledger.scorings.add(*case, answer.said, self._job, answer.instances):
            return  # other images came while these were looked at, or a draft brought the scores
        self._done += 1
        if answer.said.error:
            self.failed += 1
            logger.warning("version %d cannot score series %s: %s", answer.version, *case[:1], answer.said.error)
        else:
            self.scored += 1
