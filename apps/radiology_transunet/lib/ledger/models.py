"""Verdicts on model versions: what the gate decided, and whether the registry was told.

Promotion spans two databases: `begin` here, the alias switched in the registry, `finish` here. What
is open at start-up is compared with the alias, which is the truth.
"""

import builtins
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from lib.core.errors import NotFound
from lib.ledger import tables
from lib.ledger.book import NOTHING, Book, insert_new
from lib.ledger.rows import VerdictRow

T = tables.verdicts
SWITCHES = ("promoted", "rollback")
"""Verdicts after which their version serves."""


class Models(Book):
    """`ledger.models`."""

    __slots__ = ()

    def begin(self, task: str, version: int, verdict: str, reason: str, metrics: Mapping[str, Any] = NOTHING) -> int:
        """Record a verdict before it is carried out; the id.

        An open one of the same task and version stays as it is, and its id comes back.
        """
        what = {"task": task, "version": version, "verdict": verdict, "reason": reason, "metrics": metrics}
        with self._write() as connection:
            is_new = insert_new(connection, T, {**what, "state": "open", "created_at": self.clock()})
            same = sa.and_(T.c.task == task, T.c.version == version, T.c.state == "open")
            found = int(connection.execute(sa.select(T.c.id).where(same)).scalar_one())
            if is_new:
                details = {"verdict": verdict, "reason": reason}
                self._note(connection, "model.verdict", f"{task} {version}", details)
            return found

    def finish(self, verdict_id: int) -> None:
        """The verdict is carried out. Twice changes nothing.

        Raises:
            NotFound: no such verdict.
        """
        with self._write() as connection:
            update = sa.update(T).where(T.c.id == verdict_id, T.c.state == "open").returning(T.c.task, T.c.version)
            found = connection.execute(update.values(state="done", finished_at=self.clock())).first()
            if found is not None:
                self._note(connection, "model.done", f"{found.task} {found.version}", {"verdict": verdict_id})
            elif connection.execute(sa.select(T.c.id).where(T.c.id == verdict_id)).first() is None:
                raise NotFound(f"the ledger has no verdict {verdict_id}")

    def open(self, task: str | None = None) -> builtins.list[VerdictRow]:
        """The verdicts that are not carried out, the oldest first."""
        query = sa.select(T).where(T.c.state == "open").order_by(T.c.id)
        return self._all(query, task)

    def serving(self, task: str) -> int | None:
        """The version that the last verdict lets serve; None when none does.

        The alias in the registry is the truth; who is in a hurry, or cannot do without an answer, asks here.
        """
        switch = sa.and_(T.c.task == task, T.c.state == "done", T.c.verdict.in_(SWITCHES))
        with self._read() as connection:
            return connection.execute(sa.select(T.c.version).where(switch).order_by(T.c.id.desc()).limit(1)).scalar()

    def list(self, task: str | None = None, limit: int = 100) -> builtins.list[VerdictRow]:
        """The newest verdicts first."""
        return self._all(sa.select(T).order_by(T.c.id.desc()).limit(limit), task)

    def _all(self, query: sa.Select[Any], task: str | None) -> builtins.list[VerdictRow]:
        if task is not None:
            query = query.where(T.c.task == task)
        with self._read() as connection:
            return [VerdictRow(**found) for found in connection.execute(query).mappings()]
