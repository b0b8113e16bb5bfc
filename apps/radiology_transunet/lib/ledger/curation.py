"""Tags and cohorts: what people say of series, and which series they put together.

Both outlive models and labels. Every change has its audit row, with the series that it changed.
"""

import builtins
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.ledger import curationreads, curationtables, tables
from lib.ledger.book import Book, insert_all_new, insert_new
from lib.ledger.curationreads import parts
from lib.ledger.curationrows import ALL, CohortRow, CuratedCase, Embedded, MemberRow, Wanted

C = curationtables.cohorts
G = curationtables.tags
M = curationtables.cohort_members
S = tables.series
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SIZE = sa.select(sa.func.count()).where(M.c.cohort == C.c.name).scalar_subquery()
SHOWN = 5


class Curation(Book):
    """`ledger.curation`."""

    __slots__ = ()

    def tag(self, series_uids: Sequence[str], tags: Sequence[str], author: str) -> int:
        """Say something of series; what was said before stays as it was said.

        Returns:
            How many series got a tag that they did not have, each tag counted.

        Raises:
            InvalidInput: no tag, or one that is no name.
            NotFound: series that the ledger does not know; nothing is changed.
        """
        _require_names("a tag", tags)
        uids = sorted(set(series_uids))
        with self._write() as connection:
            _require_known(connection, uids)
            now, added = self.clock(), 0
            for tag in sorted(set(tags)):
                here = _having(connection, G.c.series_uid, G.c.tag == tag, uids)
                new = [uid for uid in uids if uid not in here]
                rows = [{"series_uid": uid, "tag": tag, "author": author, "created_at": now} for uid in new]
                added += insert_all_new(connection, G, rows)
                self._note_series(connection, "tag.added", f"tag {tag}", new, author)
            return added

    def untag(self, series_uids: Sequence[str], tags: Sequence[str], author: str) -> int:
        """Take back what was said of series; how many tags that were.

        Raises:
            InvalidInput: no tag, or one that is no name.
            NotFound: series that the ledger does not know; nothing is changed.
        """
        _require_names("a tag", tags)
        uids = sorted(set(series_uids))
        with self._write() as connection:
            _require_known(connection, uids)
            removed = 0
            for tag in sorted(set(tags)):
                here = sorted(_having(connection, G.c.series_uid, G.c.tag == tag, uids))
                removed += _remove(connection, G, G.c.tag == tag, here)
                self._note_series(connection, "tag.removed", f"tag {tag}", here, author)
            return removed

    def tags(self) -> dict[str, int]:
        """Number of series by tag, in the order of the tags."""
        query = sa.select(G.c.tag, sa.func.count()).group_by(G.c.tag).order_by(G.c.tag)
        with self._read() as connection:
            return {tag: int(count) for tag, count in connection.execute(query)}

    def create(self, name: str, description: str, author: str) -> None:
        """Make a cohort without series.

        Raises:
            InvalidInput: a name that is none.
            Conflict: there is one of that name.
        """
        _require_names("a cohort's name", (name,))
        with self._write() as connection:
            values = {"name": name, "description": description, "author": author, "created_at": self.clock()}
            if not insert_new(connection, C, values):
                raise Conflict(f"there is a cohort {name} already: add to it, or choose another name")
            self._note(connection, "cohort.created", f"cohort {name}", {"description": description}, author)

    def delete(self, name: str, author: str) -> None:
        """Forget a cohort; the audit trail keeps which series it had.

        Raises:
            NotFound: no such cohort.
        """
        with self._write() as connection:
            _require_cohort(connection, name)
            query = sa.select(M.c.series_uid).where(M.c.cohort == name).order_by(M.c.series_uid)
            series = list(connection.execute(query).scalars())
            connection.execute(sa.delete(C).where(C.c.name == name))
            self._note(connection, "cohort.deleted", f"cohort {name}", {"series": series}, author)

    def add(self, name: str, series_uids: Sequence[str], author: str) -> int:
        """Put series into a cohort; how many were not in it.

        Raises:
            NotFound: no such cohort, or series that the ledger does not know; nothing is changed.
        """
        uids = sorted(set(series_uids))
        with self._write() as connection:
            _require_cohort(connection, name)
            _require_known(connection, uids)
            here = _having(connection, M.c.series_uid, M.c.cohort == name, uids)
            new = [uid for uid in uids if uid not in here]
            rows = [{"cohort": name, "series_uid": uid, "author": author, "added_at": self.clock()} for uid in new]
            added = insert_all_new(connection, M, rows)
            self._note_series(connection, "cohort.added", f"cohort {name}", new, author)
            return added

    def remove(self, name: str, series_uids: Sequence[str], author: str) -> int:
        """Take series out of a cohort; how many were in it.

        Raises:
            NotFound: no such cohort.
        """
        uids = sorted(set(series_uids))
        with self._write() as connection:
            _require_cohort(connection, name)
            here = sorted(_having(connection, M.c.series_uid, M.c.cohort == name, uids))
            removed = _remove(connection, M, M.c.cohort == name, here)
            self._note_series(connection, "cohort.removed", f"cohort {name}", here, author)
            return removed

    def cohorts(self) -> builtins.list[CohortRow]:
        """All cohorts, in the order of their names."""
        with self._read() as connection:
            query = sa.select(C, SIZE.label("size")).order_by(C.c.name)
            return [CohortRow(**row) for row in connection.execute(query).mappings()]

    def cohort(self, name: str) -> CohortRow:
        """The cohort.

        Raises:
            NotFound: no such cohort; lists those that there are.
        """
        with self._read() as connection:
            query = sa.select(C, SIZE.label("size")).where(C.c.name == name)
            found = connection.execute(query).mappings().first()
            if found is None:
                raise _no_cohort(connection, name)
            return CohortRow(**found)

    def members(self, name: str) -> builtins.list[MemberRow]:
        """The series of a cohort, in the order of their UIDs.

        Raises:
            NotFound: no such cohort.
        """
        query = sa.select(M.c.series_uid, M.c.author, M.c.added_at).where(M.c.cohort == name)
        with self._read() as connection:
            _require_cohort(connection, name)
            return [MemberRow(**row) for row in connection.execute(query.order_by(M.c.series_uid)).mappings()]

    def cases(self, task: str, wanted: Wanted = ALL) -> builtins.list[CuratedCase]:
        """The ready series in the order of their UIDs, whoever they are for, with the labels and drafts of a task.

        What a model said of them is left to `with_values`, their grids to `with_grids`: there are many numbers.
        """
        with self._read() as connection:
            return curationreads.cases(connection, task, wanted)

    def sites(self) -> builtins.list[str]:
        """The institutions of all ready series, each once, in their order."""
        with self._read() as connection:
            return curationreads.sites(connection)

    def with_grids(self, cases: Sequence[CuratedCase]) -> builtins.list[CuratedCase]:
        """The same cases with their grids."""
        with self._read() as connection:
            grids = curationreads.grids(connection, [one.series_uid for one in cases])
        return [replace(one, geometry=grids.get(one.series_uid)) for one in cases]

    def with_values(self, cases: Sequence[CuratedCase]) -> builtins.list[CuratedCase]:
        """The same cases with what a model said last of each label."""
        with self._read() as connection:
            said = curationreads.said(connection, [one.scoring_id for one in cases if one.scoring_id is not None])
        return [replace(one, said=said.get(one.scoring_id or 0, {})) for one in cases]

    def embedded(self, task: str) -> builtins.list[Embedded]:
        """Which version has an embedding of which series: every version that saw it, not only the newest."""
        with self._read() as connection:
            return curationreads.embedded(connection, task)

    def vectors(self, scoring_ids: Sequence[int]) -> dict[int, bytes]:
        """Embeddings by scoring: (d,) float32, little endian."""
        with self._read() as connection:
            return curationreads.vectors(connection, scoring_ids)

    def _note_series(
        self, connection: sa.Connection, action: str, subject: str, series_uids: Sequence[str], author: str
    ) -> None:
        if series_uids:
            self._note(connection, action, subject, {"series": list(series_uids)}, author)


def _require_names(what: str, names: Sequence[str]) -> None:
    wrong = [name for name in names if not NAME.fullmatch(name)]
    if wrong or not names:
        raise InvalidInput(
            f"{what} has 1 to 64 lower-case letters, digits, dots, dashes and underscores and begins with a letter or "
            f"digit, got {', '.join(map(repr, wrong[:SHOWN])) or 'none'}"
        )


def _require_known(connection: sa.Connection, series_uids: Sequence[str]) -> None:
    known = _having(connection, S.c.series_uid, sa.true(), series_uids)
    unknown = [uid for uid in series_uids if uid not in known]
    if unknown:
        raise NotFound(f"the ledger has no series {', '.join(unknown[:SHOWN])}; nothing was changed")


def _require_cohort(connection: sa.Connection, name: str) -> None:
    """Raise NotFound without it; keep it there till the commit."""
    query = sa.select(C.c.name).where(C.c.name == name).with_for_update(read=True, key_share=True)
    if connection.execute(query).first() is None:
        raise _no_cohort(connection, name)


def _no_cohort(connection: sa.Connection, name: str) -> NotFound:
    known = list(connection.execute(sa.select(C.c.name).order_by(C.c.name)).scalars())
    return NotFound(f"there is no cohort {name!r}; there are: {', '.join(known) or 'none yet'}")


def _having(connection: sa.Connection, column: Any, where: sa.ColumnElement[bool], uids: Sequence[str]) -> set[str]:
    """Those of the series that a table has a row of."""
    found: set[str] = set()
    for part in parts(uids):
        found.update(connection.execute(sa.select(column).where(where, column.in_(part))).scalars())
    return found


def _remove(connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool], uids: Sequence[str]) -> int:
    """Remove rows of those series; how many."""
    return sum(
        connection.execute(sa.delete(table).where(where, table.c.series_uid.in_(part))).rowcount for part in parts(uids)
    )
