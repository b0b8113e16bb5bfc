"""The ledger: the durable state that all processes share.

    ledger = Ledger("sqlite:///var/ledger.db")
    ledger.upgrade()                                     # once, at set-up
    lease = ledger.queue.take("phantom_ct", "entropy", "anna", lease_s=7200)

Each method is one short transaction or a few of them that stand alone; it returns when its change
is on the disk. A change and its audit row, an annotation and its outbox row are one transaction.
"""

from typing import Any

import sqlalchemy as sa

from lib.ledger import schema, tables
from lib.ledger.annotations import Annotations
from lib.ledger.audit import Audit
from lib.ledger.book import Clock, insert_new, utc_now
from lib.ledger.casereads import Cases
from lib.ledger.corrections import Corrections
from lib.ledger.curation import Curation
from lib.ledger.database import Database
from lib.ledger.estimates import Estimates
from lib.ledger.figures import Figures
from lib.ledger.jobs import Jobs
from lib.ledger.keys import Keys
from lib.ledger.models import Models
from lib.ledger.nights import Nights
from lib.ledger.outbox import Outbox
from lib.ledger.queue import Queue
from lib.ledger.rows import Cursor
from lib.ledger.scorings import Scorings
from lib.ledger.series import Series


class Ledger:
    """All parts of the ledger over one database.

    Making one is cheap and touches nothing. It may be used by many threads, survives a fork, and
    can be pickled for a child process.

    Attributes:
        series: series and the splits of their patients.
        annotations: masks of people and models, and the rules of their life.
        cases: what the work list shows, read for the series that it shows alone.
        estimates: how good each label of a draft probably is.
        corrections: how well drafts agreed with what people made of them.
        scorings: what each model version said of each series.
        queue: which series next, and in whose hands it is.
        jobs: work for the workers.
        outbox: what the archive has to be told.
        models: verdicts on model versions.
        figures: of versions that served, on promotion cases.
        nights: who starts the trainings of a scheduled moment.
        keys: the secret key that it goes with.
        curation: tags and cohorts of series.
        audit: who did what to what.

    Args:
        url: SQLAlchemy URL of sqlite (a file) or postgresql.
        clock: gives the time, aware.
        actor: who is named in the audit trail where a method takes no name.

    Raises:
        InvalidSettings: a URL that cannot be one.
    """

    def __init__(self, url: str, clock: Clock = utc_now, actor: str = "system") -> None:
        self._arguments = (url, clock, actor)
        self._database = Database(url)
        self._clock = clock
        book = (self._database, clock, actor)
        self.series = Series(*book)
        self.annotations = Annotations(*book)
        self.cases = Cases(*book)
        self.estimates = Estimates(*book)
        self.corrections = Corrections(*book)
        self.scorings = Scorings(*book)
        self.queue = Queue(*book)
        self.jobs = Jobs(*book)
        self.outbox = Outbox(*book)
        self.models = Models(*book)
        self.figures = Figures(*book)
        self.nights = Nights(*book)
        self.keys = Keys(*book)
        self.curation = Curation(*book)
        self.audit = Audit(*book)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Ledger, self._arguments)

    def __repr__(self) -> str:
        return f"Ledger({self._database.name})"

    def upgrade(self) -> None:
        """Make the database, or bring it to the newest schema; safe to repeat and from two processes at once.

        Raises:
            LedgerUnavailable: the database does not answer, or is of a newer version than this software.
        """
        schema.upgrade(self._database)

    def check(self) -> None:
        """Raise LedgerUnavailable unless the database answers and has the newest schema."""
        schema.check(self._database)

    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
        self._database.close()

    def cursor(self, name: str) -> Cursor | None:
        """How far a feed was read, None before the first time."""
        table = tables.cursors
        with self._database.read() as connection:
            found = connection.execute(sa.select(table).where(table.c.name == name)).mappings().first()
        return None if found is None else Cursor(**found)

    def set_cursor(self, name: str, value: int, source: str) -> None:
        """Remember how far a feed of a source was read."""
        table = tables.cursors
        values = {"value": value, "source": source, "updated_at": self._clock()}
        with self._database.write() as connection:
            if not insert_new(connection, table, {"name": name, **values}):
                connection.execute(sa.update(table).where(table.c.name == name).values(values))
