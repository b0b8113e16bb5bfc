"""The work list reads what it shows: states counted by the database, pages in the order of the queue."""

import math

import pytest
import sqlalchemy as sa
from ledger_support import TASK, Clock, add_series, draft, human

from lib.ledger import tables
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewSeries

STATES = {
    "1.1": "drafted",
    "1.2": "todo",
    "1.3": "labelled",
    "1.4": "submitted",
    "1.5": "held",
    "1.6": "new",
    "1.7": "refused",
    "1.8": "submitted",
    "1.9": "drafted",
}
KIND = ("CT", "")
MANY = 34_000
"""Descriptions; more than SQLite takes parameters in a statement."""


def takes_all(modality: str, description: str) -> bool:
    return True


@pytest.fixture
def pool(ledger: Ledger, clock: Clock) -> Ledger:
    """A series in each state, and one that is gone; each arrives a second after the one before."""
    for uid in STATES:
        clock.turn(1)
        add_series(ledger, uid, ready=uid != "1.6")
    add_series(ledger, "1.0")
    ledger.series.set_gone("1.0")
    ledger.series.refuse("1.7", "gaps")
    for uid in ("1.1", "1.3", "1.9"):
        ledger.annotations.add_draft(draft(uid), scores={"liver": 0.5, "lesion": math.nan})
    ledger.annotations.add_human(human("1.3"), accept=True)
    ledger.annotations.add_human(human("1.4"), accept=False)
    ledger.annotations.add_human(human("1.5", held_reason="looks like a slip"), accept=True)
    ledger.annotations.add_human(human("1.8"), accept=True)
    ledger.annotations.add_human(human("1.8", sop="s8"), accept=False)  # waits, beside the one that counts
    ledger.queue.rebuild(TASK, "entropy", [("1.9", 1.0, "unsure"), ("1.3", 0.9, "unsure"), ("1.1", 0.8, "unsure")])
    return ledger


def test_every_series_is_counted_in_its_state_by_modality_and_description(pool: Ledger) -> None:
    pool.series.add(NewSeries("2.1", "study", "p", "pool", "MR", "brain", instances=3))
    assert pool.cases.counts(TASK) == {
        KIND: {"drafted": 2, "todo": 1, "labelled": 1, "submitted": 2, "held": 1, "new": 1, "refused": 1},
        ("MR", "brain"): {"new": 1},
    }
    assert pool.cases.counts("another")[KIND] == {"todo": 7, "new": 1, "refused": 1}


def test_a_page_has_queued_series_first_and_then_those_that_came_first(pool: Ledger) -> None:
    listed = pool.cases.page(TASK, "entropy", {"CT"}, takes_all)
    assert listed == ["1.9", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "1.7", "1.8"]
    assert pool.cases.page(TASK, "entropy", {"CT"}, takes_all, limit=3) == listed[:3]
    assert pool.cases.page(TASK, "entropy", {"CT"}, takes_all, limit=0) == []
    assert pool.cases.page(TASK, "random", {"CT"}, takes_all) == sorted(STATES)


@pytest.mark.parametrize("state", [*sorted(set(STATES.values())), "unheard of"])
def test_a_page_of_one_state_holds_that_state_alone(pool: Ledger, state: str) -> None:
    listed = pool.cases.page(TASK, "entropy", {"CT"}, takes_all, state)
    assert sorted(listed) == sorted(uid for uid, each in STATES.items() if each == state)


def test_a_page_holds_the_kinds_alone_that_the_task_takes(pool: Ledger) -> None:
    for number, (modality, description) in enumerate([("MR", "brain"), ("MR", "knee"), ("MR", "hip"), ("CT", "scout")]):
        new = NewSeries(f"2.{number}", "study", "p", "pool", modality, description, instances=3)
        pool.series.add(new)
    known = pool.cases.counts(TASK)
    for taken in (set(known), {("MR", "brain")}, {("MR", "brain"), ("MR", "hip"), KIND}, set()):
        wanted = [row.series_uid for row in pool.series.list() if (row.modality, row.description) in taken]
        page = pool.cases.page(TASK, "entropy", {"CT", "MR"}, lambda *kind, taken=taken: kind in taken)
        assert sorted(page) == [uid for uid in wanted if uid != "1.0"]
    assert pool.cases.page(TASK, "entropy", {"MR"}, takes_all) == ["2.0", "2.1", "2.2"]


def test_a_page_is_filled_though_the_first_series_of_very_many_descriptions_are_not_taken(ledger: Ledger) -> None:
    with ledger.cases.database.write() as connection:
        now = ledger.series.clock()
        connection.execute(
            sa.insert(tables.patients), [{"patient": "p", "split": "pool", "reason": "", "created_at": now}]
        )
        common = {"study_uid": "s", "patient": "p", "status": "ready", "reason": "", "modality": "CT", "instances": 1}
        common |= {"institution": "", "manufacturer": "", "date": "", "frame_of_reference_uid": "", "findings": []}
        times = {"created_at": now, "updated_at": now}
        rows = [{**common, **times, "series_uid": f"4.{n:05}", "description": f"series {n}"} for n in range(MANY)]
        connection.execute(sa.insert(tables.series), rows)

    def takes(modality: str, description: str) -> bool:
        return int(description.removeprefix("series ")) % 10_000 == 9_999

    assert ledger.cases.page(TASK, "entropy", {"CT"}, takes, limit=2) == ["4.09999", "4.19999"]
    assert ledger.cases.page(TASK, "entropy", {"CT"}, takes) == ["4.09999", "4.19999", "4.29999"]
    assert len(ledger.cases.page(TASK, "entropy", {"CT"}, takes_all, limit=5)) == 5


def test_scores_are_the_champions_or_else_the_last_ones(ledger: Ledger, clock: Clock) -> None:
    add_series(ledger, "3.1", "3.2")
    for version, value in ((1, 0.1), (2, 0.2), (3, math.nan)):
        clock.turn(1)
        ledger.annotations.add_draft(draft("3.1", version), scores={"liver": value})
    assert ledger.cases.entropies(TASK, 2, ["3.1", "3.2"]) == {"3.1": {"liver": 0.2}}
    assert math.isnan(ledger.cases.entropies(TASK, 9, ["3.1"])["3.1"]["liver"])
    assert ledger.cases.entropies("another", 2, ["3.1"]) == {}


def test_what_is_asked_of_more_series_than_a_statement_holds_comes_all_the_same(pool: Ledger, monkeypatch) -> None:
    monkeypatch.setattr("lib.ledger.casereads.CHUNK", 2)
    monkeypatch.setattr("lib.ledger.series.CHUNK", 2)
    uids = ["1.9", "1.1", "unknown", "1.3"]
    assert [row.series_uid for row in pool.series.some(uids)] == ["1.9", "1.1", "1.3"]
    assert {uid: place.rank for uid, place in pool.cases.places(TASK, "entropy", uids).items()} == {
        "1.9": 0,
        "1.3": 1,
        "1.1": 2,
    }
    found = pool.cases.annotations(TASK, ["1.8", "1.3"])
    assert [row.status for row in found if row.series_uid == "1.3"] == ["accepted", "superseded"]
    assert [row.status for row in found if row.series_uid == "1.8"] == ["submitted", "accepted"]
    assert [row.series_uid for row in pool.series.of_study("study-1.3")] == ["1.3"]
