"""Jobs: work that some worker shall do, each held by one worker at a time."""

import builtins
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from lib.core.errors import Conflict, InvalidInput
from lib.ledger import tables
from lib.ledger.book import NOTHING, Book, insert_all_new, insert_new, require_among, seconds
from lib.ledger.jobreads import CHUNK, JOB, behind, is_held, is_left, job_row, next_due, queued
from lib.ledger.rows import JOB_STATES, JobRow, JobState

T = tables.jobs
MAX_ATTEMPTS = 3
FIRST_PAUSE_S = 5.0
LONGEST_PAUSE_S = 600.0


class Jobs(Book):
    """`ledger.jobs`.

    A worker holds a job by beating: once its last beat is older than the time it asked for at `take`,
    another worker may take the job over. What the late one still says is not recorded: whoever speaks
    of a job in hand shows the row that `take` gave him, and only the newest attempt is heard.
    """

    __slots__ = ()

    def add(self, kind: str, task: str, payload: Mapping[str, Any], key: str, max_attempts: int = MAX_ATTEMPTS) -> int:
        """Add a job, unless an open one (queued, running) has this kind, task and key; the id of either.

        It is among the first of its kind: see `add_many`.
        """
        values = self._new(kind, task, payload, key, max_attempts)
        while True:
            with self._write() as connection:
                is_new = insert_new(connection, T, values)
                same = sa.and_(T.c.kind == kind, T.c.task == task, T.c.key == key, tables.IS_OPEN)
                found = connection.execute(sa.select(T.c.id).where(same)).scalar()
                if is_new:
                    self._note(connection, "job.added", f"job {found}", {"kind": kind, "task": task, "key": key})
                if found is not None:  # else the open one ended between both statements
                    return int(found)

    def add_many(
        self,
        kind: str,
        task: str,
        payloads: Sequence[tuple[Mapping[str, Any], str]],
        max_attempts: int = MAX_ATTEMPTS,
        priority: int = 0,
    ) -> int:
        """Add jobs from (payload, key), those without an open job of that key; how many were added.

        Args:
            kind: of the jobs.
            task: name of the task.
            payloads: what each shall do, and its key.
            max_attempts: how often each may be taken.
            priority: of their kind those with a smaller number are taken first.
        """
        values = [self._new(kind, task, payload, key, max_attempts, priority) for payload, key in payloads]
        if not values:
            return 0
        with self._write() as connection:
            count = insert_all_new(connection, T, values)
            if count:
                self._note(connection, "job.added", f"{count} jobs", {"kind": kind, "task": task, "count": count})
            return count

    def bring_forward(self, kind: str, task: str, keys: Sequence[str]) -> int:
        """Let the queued jobs of these keys be taken before others of their kind, in this order; how many there are.

        Also before those that were brought forward earlier. All who call at once go through the jobs in one order, so
        that none waits for another that waits for it.
        """
        places = {key: place - len(keys) for place, key in enumerate(keys)}
        count = 0
        with self._read() as connection:
            foremost = sa.select(sa.func.min(T.c.priority)).where(T.c.kind == kind, T.c.state == "queued")
            base = min(connection.execute(foremost).scalar() or 0, 0)
            found = sorted(queued(connection, kind, task, list(places)))
        mine = sa.and_(T.c.id == sa.bindparam("job_id"), T.c.state == "queued")
        update = sa.update(T).where(mine).values(priority=sa.bindparam("place"), not_before=self.clock())
        for start in range(0, len(found), CHUNK):
            part = [{"job_id": job, "place": base + places[key]} for job, key in found[start : start + CHUNK]]
            with self._write() as connection:
                count += connection.execute(update, part).rowcount
        return count

    def take(self, kinds: Sequence[str], worker: str, lease_s: float) -> JobRow | None:
        """Take the first job of the first kind that has one: queued, or left by a worker that is silent.

        A job that was taken `max_attempts` times and left each time fails. Of a kind in `ALONE` nothing is taken while
        another job of it, of whatever task, is in the hands of a worker that is not silent.

        Args:
            kinds: kinds of jobs, the preferred first.
            worker: name of the worker, unique among those that run.
            lease_s: how long the worker may be silent.
        """
        if not worker or not lease_s > 0:
            raise InvalidInput(f"a job is taken by a named worker for a positive time, got {worker!r}, {lease_s}")
        self._bury(kinds)
        now = self.clock()
        with self._write() as connection:
            job_id = next_due(connection, kinds, now)
            if job_id is None:
                return None
            held = {"worker": worker, "heartbeat_at": now, "lease_s": lease_s, "lease_until": now + seconds(lease_s)}
            fresh = {"attempts": T.c.attempts + 1, "started_at": now, "progress": 0.0, "message": ""}
            connection.execute(sa.update(T).where(T.c.id == job_id).values(state="running", **held, **fresh))
            job = job_row(connection, job_id)
            self._note(connection, "job.taken", f"job {job_id}", {"attempt": job.attempts}, worker)
            return job

    def beat(self, job: JobRow, progress: float | None = None, message: str | None = None) -> bool:
        """Tell that the worker is alive; False when the job was cancelled or taken away: stop.

        Args:
            job: as taken.
            progress: 0 to 1; None leaves it.
            message: what it is doing; None leaves it.
        """
        now = self.clock()
        with self._write() as connection:
            held = sa.select(T.c.lease_s).where(is_held(job)).with_for_update()
            lease_s = connection.execute(held).scalar()
            if lease_s is None:
                return False
            values: dict[str, Any] = {"heartbeat_at": now, "lease_until": now + seconds(lease_s)}
            if progress is not None:
                values["progress"] = min(1.0, max(0.0, float(progress)))
            if message is not None:
                values["message"] = message
            connection.execute(sa.update(T).where(T.c.id == job.id).values(values))
            return True

    def finish(self, job: JobRow, result: Mapping[str, Any] = NOTHING) -> bool:
        """Record that a job is done; False, and nothing recorded, when the worker no longer holds it."""
        values = {"state": "done", "result": result, "progress": 1.0, "error": "", "finished_at": self.clock()}
        with self._write() as connection:
            return self._close(connection, job, values, {})

    def fail(self, job: JobRow, error: str, retry: bool) -> bool:
        """Record that a job failed; False, and nothing recorded, when the worker no longer holds it.

        With `retry` it is queued again after a pause that doubles each time, until its attempts are used up.
        """
        now = self.clock()
        values: dict[str, Any] = {"state": "failed", "error": error, "finished_at": now}
        if retry and job.attempts < job.max_attempts:
            pause = seconds(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (job.attempts - 1)))
            values = {"state": "queued", "error": error, "worker": None, "not_before": now + pause}
        with self._write() as connection:
            return self._close(connection, job, values, {"error": error})

    def give_back(self, job: JobRow, reason: str, pause_s: float = 0.0, to_end: bool = False) -> bool:
        """Queue a job again as if it had not been taken: the attempt does not count.

        Args:
            job: as taken.
            reason: why it is not done now; shown as its error.
            pause_s: how long nobody may take it.
            to_end: whether it is taken behind all of its kind that wait now, so that it keeps none of them waiting.

        Returns:
            False, and nothing recorded, when the worker no longer holds it.
        """
        values: dict[str, Any] = {
            "state": "queued",
            "attempts": job.attempts - 1,
            "error": reason,
            "worker": None,
            "not_before": self.clock() + seconds(pause_s),
        }
        with self._write() as connection:
            if to_end:
                values["priority"] = behind(connection, job.kind)
            return self._close(connection, job, values, {"given back": reason})

    def cancel(self, job_id: int) -> None:
        """Cancel a job; a worker that runs it learns so at its next beat.

        Raises:
            NotFound: no such job.
            Conflict: it is over.
        """
        with self._write() as connection:
            update = sa.update(T).where(T.c.id == job_id, tables.IS_OPEN)
            changed = connection.execute(update.values(state="cancelled", finished_at=self.clock())).rowcount
            if not changed:
                state = job_row(connection, job_id).state
                raise Conflict(f"job {job_id} must be queued or running to be cancelled, got {state}")
            self._note(connection, "job.cancelled", f"job {job_id}")

    def get(self, job_id: int) -> JobRow:
        """The job.

        Raises:
            NotFound: no such job.
        """
        with self._read() as connection:
            return job_row(connection, job_id)

    def list(
        self, kind: str | None = None, state: str | None = None, task: str | None = None, limit: int = 100
    ) -> builtins.list[JobRow]:
        """The newest jobs first.

        Raises:
            InvalidInput: no such state.
        """
        require_among("state", state, JOB_STATES)
        query = JOB.order_by(T.c.id.desc()).limit(limit)
        for column, value in ((T.c.kind, kind), (T.c.state, state), (T.c.task, task)):
            query = query if value is None else query.where(column == value)
        with self._read() as connection:
            return [JobRow(**found) for found in connection.execute(query).mappings()]

    def held(self, kind: str) -> frozenset[int]:
        """Ids of the running jobs of a kind whose workers are not silent for longer than they may."""
        with self._read() as connection:
            alive = sa.and_(T.c.kind == kind, T.c.state == "running", T.c.lease_until > self.clock())
            return frozenset(connection.execute(sa.select(T.c.id).where(alive)).scalars())

    def is_due(self, kinds: Sequence[str]) -> bool:
        """Whether a job of one of these kinds waits for a worker."""
        waits = sa.exists().where(T.c.kind.in_(kinds), T.c.state == "queued", T.c.not_before <= self.clock())
        with self._read() as connection:
            return bool(connection.execute(sa.select(waits)).scalar())

    def last_failed(self, kind: str, task: str) -> builtins.list[JobRow]:
        """Of each key the newest job, where that one failed."""
        newest = sa.select(sa.func.max(T.c.id)).where(T.c.kind == kind, T.c.task == task).group_by(T.c.key)
        with self._read() as connection:
            found = connection.execute(JOB.where(T.c.id.in_(newest), T.c.state == "failed").order_by(T.c.id))
            return [JobRow(**row) for row in found.mappings()]

    def counts(self) -> dict[JobState, int]:
        """Number of jobs by state; every state has one."""
        with self._read() as connection:
            found = connection.execute(sa.select(T.c.state, sa.func.count()).group_by(T.c.state)).all()
        return {**dict.fromkeys(JOB_STATES, 0), **dict(found)}

    def _new(
        self, kind: str, task: str, payload: Mapping[str, Any], key: str, max_attempts: int, priority: int = 0
    ) -> dict[str, Any]:
        if not kind or not key or max_attempts < 1:
            raise InvalidInput(f"a job needs kind, key and at least 1 attempt, got {kind!r}, {key!r}, {max_attempts}")
        now = self.clock()
        fresh = {"state": "queued", "attempts": 0, "progress": 0.0, "message": "", "error": "", "result": {}}
        what = {"kind": kind, "task": task, "payload": payload, "key": key, "max_attempts": max_attempts}
        return {**what, **fresh, "created_at": now, "not_before": now, "priority": priority}

    def _bury(self, kinds: Sequence[str]) -> None:
        """Fail the jobs whose workers fell silent in the last attempt."""
        now = self.clock()
        left = sa.and_(T.c.kind.in_(kinds), is_left(now), T.c.attempts >= T.c.max_attempts)
        with self._read() as connection:
            found = connection.execute(sa.select(T.c.id, T.c.worker, T.c.attempts).where(left)).all()
        for job_id, worker, attempts in found:
            error = f"worker {worker} fell silent in attempt {attempts}, the last one"
            with self._write() as connection:
                update = sa.update(T).where(T.c.id == job_id, left)
                values = {"state": "failed", "error": error, "finished_at": now}
                if connection.execute(update.values(values)).rowcount:
                    self._note(connection, "job.failed", f"job {job_id}", {"error": error})

    def _close(
        self, connection: sa.Connection, job: JobRow, values: Mapping[str, Any], details: Mapping[str, Any]
    ) -> bool:
        changed = connection.execute(sa.update(T).where(is_held(job)).values(values)).rowcount == 1
        if changed:
            self._note(connection, f"job.{values['state']}", f"job {job.id}", details, job.worker or "")
        return changed
