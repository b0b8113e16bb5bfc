"""What the archive has to be told is repeated until it is done, in order, and leaves nothing behind."""

import pytest
import sqlalchemy as sa
from ledger_support import TASK, Clock, add_series, draft

from lib.core.errors import NotFound
from lib.ledger.database import Database
from lib.ledger.ledger import Ledger


@pytest.fixture(autouse=True)
def drafts(ledger: Ledger) -> None:
    add_series(ledger, "1.1", "1.2")
    ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"a" * 100_000)
    ledger.annotations.add_draft(draft("1.2", 1, "s2"), b"b")


def sops(ledger: Ledger) -> list[str]:
    return [row.sop_instance_uid for row in ledger.outbox.pending()]


def test_files_come_back_whole_and_lie_compressed(ledger: Ledger, url: str) -> None:
    assert [row.payload for row in ledger.outbox.pending()] == [b"a" * 100_000, b"b"]
    database = Database(url)
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT length(payload) FROM outbox WHERE id = 1")).scalar() < 1000
    database.close()


def test_a_done_row_loses_its_file_and_marks_the_annotation(ledger: Ledger, url: str, clock: Clock) -> None:
    clock.turn(9)
    ledger.outbox.done(1)
    ledger.outbox.done(1)
    assert sops(ledger) == ["s2"]
    assert ledger.outbox.open_count() == 1
    assert ledger.annotations.find("s1").stored_at == clock.now
    database = Database(url)
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT payload FROM outbox WHERE id = 1")).scalar() is None
    database.close()
    assert [row.action for row in ledger.audit.list(subject="annotation 1")] == ["archive.stored", "annotation.draft"]


def test_a_failed_row_waits_twice_as_long_each_time(ledger: Ledger, clock: Clock) -> None:
    pauses = []
    for _ in range(10):
        ledger.outbox.failed(1, "503")
        assert sops(ledger) == ["s2"]
        with_s1 = 0
        while "s1" not in sops(ledger):
            clock.turn(1)
            with_s1 += 1
        pauses.append(with_s1)
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]
    row = ledger.outbox.pending()[0]
    assert (row.attempts, row.error) == (10, "503")


def test_a_claimed_row_is_hidden_until_the_claim_ends(ledger: Ledger, clock: Clock) -> None:
    assert [row.sop_instance_uid for row in ledger.outbox.pending(1, claim_s=30)] == ["s1"]
    assert [row.sop_instance_uid for row in ledger.outbox.pending(5, claim_s=30)] == ["s2"]
    assert ledger.outbox.pending(5, claim_s=30) == []
    clock.turn(30)
    assert sops(ledger) == ["s1", "s2"]


def test_a_deletion_waits_until_the_seg_was_stored_and_clears_the_mark(ledger: Ledger) -> None:
    ledger.annotations.add_draft(draft("1.1", 2, "s3"), b"c")
    assert [(row.action, row.sop_instance_uid) for row in ledger.outbox.pending()] == [
        ("store", "s1"),
        ("store", "s2"),
        ("store", "s3"),
    ]
    ledger.outbox.done(1)
    deletion = ledger.outbox.pending()[1]
    assert (deletion.action, deletion.sop_instance_uid, deletion.payload) == ("delete", "s1", None)
    assert deletion.series_uid == "series-of-s1"
    ledger.outbox.done(deletion.id)
    assert ledger.annotations.find("s1").stored_at is None
    assert sops(ledger) == ["s2", "s3"]


def test_only_so_many_come_at_once(ledger: Ledger) -> None:
    assert [row.sop_instance_uid for row in ledger.outbox.pending(limit=1)] == ["s1"]


def test_unknown_rows_are_not_found(ledger: Ledger) -> None:
    for call in (lambda: ledger.outbox.done(99), lambda: ledger.outbox.failed(99, "x")):
        with pytest.raises(NotFound, match="no row 99"):
            call()


def test_a_late_failure_of_a_done_row_changes_nothing(ledger: Ledger) -> None:
    ledger.outbox.done(1)
    ledger.outbox.failed(1, "late")
    assert sops(ledger) == ["s2"]
    assert ledger.annotations.find("s1").task == TASK
