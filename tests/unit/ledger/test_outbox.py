"""What the archive has to be told is repeated until it is done, in order, and leaves nothing behind."""

from dataclasses import replace

import pytest
import sqlalchemy as sa
from ledger_support import TASK, Clock, add_series, draft

from lib.core.errors import NotFound
from lib.ledger.database import Database
from lib.ledger.ledger import Ledger
from lib.ledger.rows import Companion


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


def test_what_goes_with_a_draft_is_stored_and_deleted_with_it_and_marks_no_seg(ledger: Ledger) -> None:
    ledger.annotations.add_draft(draft("1.1", 2, "s3"), b"c", companions=[Companion("m3", "9.3", b"map")])
    rows = {row.sop_instance_uid: row for row in ledger.outbox.pending() if row.action == "store"}
    assert (rows["m3"].payload, rows["m3"].series_uid) == (b"map", "9.3")
    ledger.outbox.done(rows["m3"].id)
    assert ledger.annotations.find("s3").stored_at is None
    ledger.outbox.done(rows["s3"].id)
    assert ledger.annotations.find("s3").stored_at is not None
    ledger.annotations.add_draft(draft("1.1", 3, "s4"), b"d", companions=[Companion("m4", "9.4", b"map")])
    for name in ("s1", "s4", "m4"):
        ledger.outbox.done(next(row.id for row in ledger.outbox.pending() if row.sop_instance_uid == name))
    deleted = [(row.sop_instance_uid, row.series_uid) for row in ledger.outbox.pending() if row.action == "delete"]
    assert sorted(deleted) == [("m3", "9.3"), ("s1", "series-of-s1"), ("s3", "series-of-s3")]


def test_the_map_of_a_draft_without_a_seg_goes_with_the_next_draft(ledger: Ledger) -> None:
    add_series(ledger, "1.3")
    ledger.annotations.add_draft(
        replace(draft("1.3", 1, "x"), sop_instance_uid=None, seg_series_uid=None, nothing_found=True),
        companions=[Companion("m1", "9.1", b"map")],
    )
    ledger.annotations.add_draft(draft("1.3", 2, "s9"), b"c")
    ledger.outbox.done(next(row.id for row in ledger.outbox.pending() if row.sop_instance_uid == "m1"))
    assert [row.sop_instance_uid for row in ledger.outbox.pending() if row.action == "delete"] == ["m1"]


def test_the_map_of_a_draft_whose_seg_was_deleted_by_somebody_is_deleted_too(ledger: Ledger) -> None:
    add_series(ledger, "1.4")
    made = ledger.annotations.add_draft(draft("1.4", 1, "s8"), b"c", companions=[Companion("m8", "9.8", b"map")])
    for row in ledger.outbox.pending():
        ledger.outbox.done(row.id)
    assert ledger.annotations.lose(made)
    assert [(row.action, row.series_uid) for row in ledger.outbox.pending()] == [("delete", "9.8")]
