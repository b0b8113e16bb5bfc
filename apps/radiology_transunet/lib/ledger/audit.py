"""The audit trail: who did what to what, when. Rows are only ever added."""

import builtins
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from lib.ledger import tables
from lib.ledger.book import NOTHING, Book, note
from lib.ledger.rows import AuditRow


class Audit(Book):
    """`ledger.audit`; all other parts write their rows here in the transaction of the change."""

    __slots__ = ()

    def add(self, actor: str, action: str, subject: str, details: Mapping[str, Any] = NOTHING) -> None:
        """Record something that no other method records."""
        with self._write() as connection:
            note(connection, self.clock(), actor, action, subject, details)

    def list(self, limit: int = 100, subject: str | None = None) -> builtins.list[AuditRow]:
        """The newest rows first, of one subject or of all."""
        query = sa.select(tables.audit).order_by(tables.audit.c.id.desc()).limit(limit)
        if subject is not None:
            query = query.where(tables.audit.c.subject == subject)
        with self._read() as connection:
            return [AuditRow(**row) for row in connection.execute(query).mappings()]
