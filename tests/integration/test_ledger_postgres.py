"""The ledger over a real PostgreSQL: what its server alone can show.

The rules themselves are tested over both databases in tests/unit/ledger (`-k postgresql` picks this half).
"""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "ledger"))  # importlib mode puts no folder on the path

from ledger_support import TASK, Cluster, add_series, draft, human, postgres_folder, running_cluster

from lib.core.errors import LedgerUnavailable
from lib.ledger import tables
from lib.ledger.database import Database, lock_series
from lib.ledger.ledger import Ledger

pytestmark = pytest.mark.slow
UIDS = ("1.1", "1.2", "1.3")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    programs = postgres_folder()
    if programs is None:
        pytest.skip("no PostgreSQL server on this machine (initdb and postgres): Debian's package is postgresql")
    with running_cluster(programs) as running:
        yield running


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    name = cluster.create()
    yield cluster.url(name)
    cluster.drop(name)


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    opened = Ledger(url)
    opened.upgrade()
    add_series(opened, *UIDS)
    opened.queue.rebuild(TASK, "random", [(uid, 0.5, "") for uid in UIDS])
    yield opened
    opened.close()


def test_a_server_that_goes_and_returns_is_told_and_used_again(ledger: Ledger, cluster: Cluster) -> None:
    label = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True, outbox=b"label")
    cluster.stop()
    try:
        with pytest.raises(LedgerUnavailable, match="does the database run"):
            ledger.queue.take(TASK, "random", "anna", 60)
        with pytest.raises(LedgerUnavailable):
            ledger.check()
    finally:
        cluster.start()
    ledger.check()
    assert [row.id for row in ledger.annotations.accepted(TASK)] == [label]
    assert ledger.outbox.pending()[0].payload == b"label"
    assert ledger.queue.take(TASK, "random", "anna", 60).series_uid == "1.2"


def test_a_connection_that_is_cut_between_two_calls_is_replaced(ledger: Ledger, url: str) -> None:
    ledger.series.get("1.1")
    other = Database(url)
    with other.write() as connection:
        connection.execute(
            sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        )
    other.close()
    assert ledger.series.get("1.1").status == "ready"


def test_a_busy_case_is_passed_over_not_waited_for(ledger: Ledger, url: str) -> None:
    other = Database(url)
    with other.write() as connection:
        assert lock_series(connection, tables.series, "1.1")
        assert ledger.queue.take(TASK, "random", "anna", 60).series_uid == "1.2"
        assert ledger.queue.take(TASK, "random", "ben", 60).series_uid == "1.3"
    assert ledger.queue.take(TASK, "random", "cleo", 60).series_uid == "1.1"
    other.close()


def test_the_last_case_is_waited_for_while_it_is_busy(ledger: Ledger, url: str) -> None:
    for uid in ("1.2", "1.3"):
        ledger.annotations.add_human(human(uid), accept=True)
    other, answers = Database(url), []
    asking = threading.Thread(target=lambda: answers.append(ledger.queue.take(TASK, "random", "anna", 60)))
    with other.write() as connection:
        lock_series(connection, tables.series, "1.1")
        asking.start()
        asking.join(0.5)
        assert asking.is_alive()
    asking.join(20)
    assert [lease.series_uid for lease in answers] == ["1.1"]
    other.close()


def test_a_case_that_was_labelled_while_an_annotator_waited_is_not_handed_out(ledger: Ledger, url: str) -> None:
    for uid in ("1.2", "1.3"):
        ledger.annotations.add_human(human(uid), accept=True)
    other, answers = Database(url), []
    asking = threading.Thread(target=lambda: answers.append(ledger.queue.take(TASK, "random", "anna", 60)))
    with other.write() as connection:
        lock_series(connection, tables.series, "1.1")
        asking.start()
        asking.join(0.5)
        values = {"series_uid": "1.1", "task": TASK, "status": "accepted", "origin": "human", "author": "ben"}
        now = ledger._clock()
        rest = {"voxels": {}, "nothing_found": False, "reason": "", "made_at": now, "created_at": now}
        connection.execute(sa.insert(tables.annotations).values({**values, **rest}))
    asking.join(20)
    assert answers == [None]
    other.close()


def test_two_drafts_of_one_case_at_once_leave_one_in_force(ledger: Ledger) -> None:
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                version = number * 100 + turn
                ledger.annotations.add_draft(draft("1.1", version, f"s{version}"), b"seg")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert ledger.annotations.counts(TASK)["draft"] == 1
    assert ledger.annotations.counts(TASK)["superseded"] == 39
    assert ledger.outbox.open_count() == 40 + 39


def test_text_that_postgresql_cannot_hold_is_refused_as_input(ledger: Ledger) -> None:
    from lib.core.errors import InvalidInput

    with pytest.raises(InvalidInput, match="cannot hold this value"):
        ledger.series.refuse("1.1", "a reason with \x00 in it")


def test_a_training_whose_worker_beats_late_at_this_moment_lets_no_other_one_begin(ledger: Ledger) -> None:
    first, second = (ledger.jobs.add("retrain", task, {}, task) for task in ("liver", "spleen"))
    assert ledger.jobs.take(["retrain"], "w1", 0.001).id == first
    time.sleep(0.01)
    with ledger.jobs.database.write() as late:
        late.execute(sa.select(tables.jobs.c.id).where(tables.jobs.c.id == first).with_for_update())
        assert ledger.jobs.take(["retrain"], "w2", 60) is None
    assert ledger.jobs.take(["retrain"], "w2", 60).id == first
    assert ledger.jobs.get(second).state == "queued"
