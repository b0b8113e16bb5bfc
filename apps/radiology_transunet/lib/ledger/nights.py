"""Nights: who starts the trainings of a scheduled moment; each one once, however many workers there are."""

import sqlalchemy as sa

from lib.core.errors import InvalidInput
from lib.ledger import tables
from lib.ledger.book import Book, insert_new, seconds

T = tables.nights


class Nights(Book):
    """`ledger.nights`.

    A moment is held under a lease: when its holder dies before the night is done, another one takes it over.
    """

    __slots__ = ()

    def take(self, task: str, moment: str, holder: str, lease_s: float) -> bool:
        """Whether this holder starts the task's night: nobody has done it, and nobody alive is at it.

        Args:
            task: name of the task.
            moment: the scheduled one, in the same words for all workers.
            holder: name of the worker, unique among those that run.
            lease_s: after so many seconds another holder may take a night over that is not done.
        """
        if not (moment and holder and lease_s > 0):
            raise InvalidInput(
                f"a night is taken by a named holder for a moment, got {moment!r}, {holder!r}, {lease_s}"
            )
        now = self.clock()
        held = {"holder": holder, "until": now + seconds(lease_s)}
        mine = sa.and_(T.c.task == task, T.c.moment == moment)
        left = sa.update(T).where(mine, T.c.done_at.is_(None), T.c.until <= now).values(held)
        with self._write() as connection:
            if insert_new(connection, T, {"task": task, "moment": moment, **held}):
                return True
            return connection.execute(left).rowcount == 1

    def finish(self, task: str, moment: str, holder: str) -> bool:
        """The night is done and never starts again; False when another holder has taken it over meanwhile."""
        mine = sa.and_(T.c.task == task, T.c.moment == moment, T.c.holder == holder, T.c.done_at.is_(None))
        with self._write() as connection:
            done = connection.execute(sa.update(T).where(mine).values(done_at=self.clock())).rowcount == 1
            if done:
                self._note(connection, "night.done", f"{task} {moment}", actor=holder)
            return done
