"""Scores of every series by the champion, made in the background, whether drafts are made or not.

A job a task. What is left to do follows from the ledger and is asked anew in each round, so that nothing is lost with a
process that is killed, an arrival is next, and a new champion is followed. Series that are labelled are scored too: new
cases are held against them. A series that waits for its draft is left to that: a draft brings the same scores.
"""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Literal

from lib.core.errors import ManifestMismatch, ProcessLost
from lib.ledger.rows import JobRow
from lib.ledger.scores import Said
from lib.taskfile import Task
from lib.workflows.executor.engine import Executor, open_executor
from lib.workflows.heartbeat import Heartbeat
from lib.workflows.jobs import DRAFT, SCORE, URGENT, draft_key, score_key
from lib.workflows.looking import Answer, LocalLook, Pictures, SentLook
from lib.workflows.models import ChampionCache, require_champion
from lib.workflows.pauses import failures_before, is_resting
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

ROUND = 32
"""Series after which the ledger is asked again which are next."""
IN_A_ROW = 3
"""Failures one after the other that are the machine's and not those of the series."""
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
        ProcessLost: a machine of the cluster is gone, or every series fails; what is scored stays.
        ArchiveUnavailable: the archive does not answer.
    """
    where = executor or open_executor(services.settings)
    work = _Work(services, task, job, heartbeat)
    while uids := work.next(version := _version(services, champions, task, where)):
        model = require_champion(services, task)
        look = LocalLook(champions, task) if where.is_here else SentLook.of(services, task, model)
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


def _next(services: Services, task: Task, version: int, limit: int) -> list[str]:
    """The series that a version shall look at next."""
    left_to = (DRAFT, draft_key(task.name, ""))
    return services.ledger.scorings.wanted(
        task.name, version, lambda *kind: task.why_not(*kind) is None, left_to, limit
    )


class _Work:
    """A scoring job in hand.

    A failure that may be the machine's is believed to be the series' own once another series was scored after it; so a
    broken device fails the job and leaves no mark on the series.
    """

    def __init__(self, services: Services, task: Task, job: JobRow, heartbeat: Heartbeat) -> None:
        self._services, self._task = services, task
        self._job, self._heartbeat = job, heartbeat
        self._doubted: list[Answer] = []
        self._share = 0.0
        self.scored = 0
        self.failed = 0

    def next(self, version: int) -> Sequence[str]:
        """The series of the next round, without those in doubt; none when all are done."""
        doubted = {answer.series_uid for answer in self._doubted}
        far = progress(self._services, self._task)
        self._share = (far.scored + far.failed) / max(1, far.of)
        found = _next(self._services, self._task, version, ROUND + len(doubted))
        return [uid for uid in found if uid not in doubted][:ROUND]

    def take(self, answer: Answer) -> None:
        """Keep what came of a look, and tell how far it is.

        Raises:
            ProcessLost: too many failures in a row.
            Conflict: the job was taken away.
        """
        if answer.doubt:
            self._doubted.append(answer)
            if len(self._doubted) >= IN_A_ROW:
                raise ProcessLost(
                    f"of {IN_A_ROW} series in a row none could be scored, which is no fault of theirs; does the device "
                    f"work? The last one failed for: {answer.doubt}"
                )
            return
        self._keep(answer)
        if not answer.said.error:
            self.settle()
        words = f"scored {self.scored} series" + (f", {self.failed} cannot be" if self.failed else "")
        self._heartbeat.report(self._share, words)

    def settle(self) -> None:
        """Record the failures in doubt as those of their series."""
        for answer in self._doubted:
            self._keep(replace(answer, said=Said(error=answer.doubt)))
        self._doubted.clear()

    def give_way(self) -> None:
        """Stop where the worker stops or more urgent work waits.

        Raises:
            Stopped: the job is to be given back.
        """
        if self._services.ledger.jobs.is_due(URGENT):
            self._heartbeat.end("more urgent work waits")
        self._heartbeat.require_wanted()

    def _keep(self, answer: Answer) -> None:
        if self._services.ledger.series.get(answer.series_uid).status != "ready":
            return  # it has left the archive meanwhile
        case = (answer.series_uid, self._task.name, answer.version)
        if not self._services.ledger.scorings.add(*case, answer.said, self._job, answer.instances):
            return  # other images came while these were looked at, or a draft brought the scores
        if answer.said.error:
            self.failed += 1
            logger.warning("version %d cannot score series %s: %s", answer.version, *case[:1], answer.said.error)
        else:
            self.scored += 1
