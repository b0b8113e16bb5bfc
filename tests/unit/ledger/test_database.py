"""Opening, sharing and losing a database."""

import os
import pickle
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pytest
import sqlalchemy as sa
from ledger_support import Clock, add_series

from lib.core.errors import InvalidInput, InvalidSettings, LedgerUnavailable
from lib.ledger.book import utc_now
from lib.ledger.database import Database
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewSeries


def test_making_a_ledger_touches_nothing(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/deep/ledger.db")
    with pytest.raises(LedgerUnavailable, match="there is no ledger"):
        ledger.check()
    assert list(tmp_path.iterdir()) == []


def test_an_unmigrated_database_answers_with_what_to_do(empty_url: str) -> None:
    ledger = Ledger(empty_url)
    with pytest.raises(LedgerUnavailable, match="is its schema up to date"):
        ledger.series.list()
    ledger.close()


def test_an_open_ledger_leaves_nothing_of_sqlalchemy_for_other_threads_to_import(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    code = "import sys; from lib.ledger.ledger import Ledger; assert 'sqlalchemy.orm' not in sys.modules; "
    code += f"Ledger({url!r}).upgrade(); assert 'sqlalchemy.orm.exc' in sys.modules"
    paths = os.pathsep.join(path for path in sys.path if path)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mysql://host/db", "sqlite or postgresql, got mysql"),
        ("no url", "no database URL"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_a_wrong_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidSettings, match=reason):
        Ledger(url)


def test_no_message_shows_the_password() -> None:
    ledger = Ledger("postgresql://someone:s3cret@127.0.0.1:1/ledger")
    with pytest.raises(LedgerUnavailable) as caught:
        ledger.check()
    told = f"{caught.value} {ledger!r} {caught.value.__cause__}"
    assert "s3cret" not in told
    assert "someone:***@127.0.0.1:1/ledger" in told


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerUnavailable, match=r"folder of the ledger, .*file/x"):
        Ledger(f"sqlite:///{tmp_path}/file/x/ledger.db").upgrade()


def test_sqlite_writes_ahead_fully_synchronous_with_foreign_keys(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/ledger.db")
    with database.read() as connection:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in names}
    database.close()
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30000}


def test_a_reader_does_not_wait_for_a_writer(url: str) -> None:
    ledger, other = Ledger(url), Database(url)
    add_series(ledger, "1.1")
    with other.write() as connection:
        connection.execute(sa.text("UPDATE series SET description = 'changed'"))
        assert ledger.series.get("1.1").description == ""
    assert ledger.series.get("1.1").description == "changed"
    ledger.close()
    other.close()


def test_an_error_in_the_middle_undoes_the_transaction(url: str) -> None:
    ledger, database = Ledger(url), Database(url)

    def fail_halfway() -> None:
        with database.write() as connection:
            connection.execute(sa.text("INSERT INTO cursors VALUES ('a', 1, 's', '2026-01-01 00:00:00')"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert ledger.cursor("a") is None
    ledger.close()
    database.close()


def test_a_ledger_travels_to_other_processes(ledger: Ledger) -> None:
    add_series(ledger, "1.1")
    copy = pickle.loads(pickle.dumps(Ledger(*ledger.__reduce__()[1][:1])))
    assert copy.series.get("1.1").series_uid == "1.1"
    copy.close()


def test_a_forked_child_opens_its_own_connections(ledger: Ledger) -> None:
    add_series(ledger, "1.1")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            add_series(ledger, "1.2")
            os.write(writing, ledger.series.get("1.1").series_uid.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        assert told.read() == "1.1"
    os.waitpid(child, 0)
    assert [row.series_uid for row in ledger.series.list()] == ["1.1", "1.2"]


def test_many_threads_share_one_ledger(ledger: Ledger) -> None:
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            add_series(ledger, *(f"{number}.{i}" for i in range(5)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ledger.series.counts()["ready"] == 40


def test_a_closed_ledger_opens_again(ledger: Ledger) -> None:
    add_series(ledger, "1.1")
    ledger.close()
    assert ledger.series.get("1.1").status == "ready"


def test_a_clock_without_zone_is_refused(url: str) -> None:
    ledger = Ledger(url, clock=lambda: datetime(2026, 1, 1))
    with pytest.raises(InvalidInput, match="aware datetimes"):
        ledger.set_cursor("a", 1, "s")
    ledger.close()


def test_a_value_that_is_no_json_is_refused_by_name(ledger: Ledger) -> None:
    add_series(ledger, "1.1")
    with pytest.raises(InvalidInput, match="values of JSON, got object"):
        ledger.series.set_ready("1.1", (), "frame", {"shape": object()})


def test_the_default_clock_is_aware_and_in_utc() -> None:
    assert utc_now().utcoffset().total_seconds() == 0  # type: ignore[union-attr]


def test_times_come_back_as_they_went_in_to_the_microsecond(ledger: Ledger, clock: Clock) -> None:
    clock.turn(0.123456)
    ledger.series.add(NewSeries("1.1", "2", "p", "pool", "CT"))
    row = ledger.series.get("1.1")
    assert row.created_at == clock.now
    assert str(row.created_at.tzinfo) == "UTC"


def test_the_next_case_is_found_through_an_index_without_sorting(sqlite_template: Path) -> None:
    """However long the queue: SQLite tells how it would look (PostgreSQL decides by statistics)."""
    database = Database(f"sqlite:///{sqlite_template}")
    with database.read() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT q.series_uid FROM queue_rows q JOIN series s ON s.series_uid = q.series_uid "
            "WHERE q.queue_id = 1 AND q.is_free = 1 ORDER BY q.rank LIMIT 1"
        ).all()
    database.close()
    text = " / ".join(str(step[-1]) for step in plan)
    assert "ix_queue_rows_next (queue_id=? AND is_free=?)" in text
    assert "TEMP B-TREE" not in text
