"""Cursors, verdicts on models, and the audit trail."""

import math

import pytest
from ledger_support import TASK, Clock, add_series, draft, human

from lib.core.errors import NotFound
from lib.ledger.ledger import Ledger
from lib.ledger.rows import Cursor


def test_a_cursor_remembers_value_and_source(ledger: Ledger, clock: Clock) -> None:
    assert ledger.cursor("changes") is None
    ledger.set_cursor("changes", 5, "database-a")
    clock.turn(1)
    ledger.set_cursor("changes", 2**40, "database-b")
    assert ledger.cursor("changes") == Cursor("changes", 2**40, "database-b", clock.now)


def test_a_verdict_is_open_until_it_is_carried_out(ledger: Ledger, clock: Clock) -> None:
    metrics = {"mean": 0.91, "lesion": math.nan, "hd95_mm": math.inf}
    made = ledger.models.begin(TASK, 3, "promoted", "better by 0.02", metrics)
    assert ledger.models.begin(TASK, 3, "promoted", "again") == made
    (row,) = ledger.models.open()
    assert (row.task, row.version, row.verdict, row.reason, row.state) == (
        TASK,
        3,
        "promoted",
        "better by 0.02",
        "open",
    )
    assert row.metrics["mean"] == 0.91
    assert math.isnan(row.metrics["lesion"])
    assert row.metrics["hd95_mm"] == math.inf
    clock.turn(4)
    ledger.models.finish(made)
    ledger.models.finish(made)
    assert ledger.models.open() == []
    assert ledger.models.list()[0].finished_at == clock.now
    assert ledger.models.begin(TASK, 3, "rollback", "asked for") > made
    with pytest.raises(NotFound, match="no verdict 99"):
        ledger.models.finish(99)


def test_verdicts_are_listed_by_task_the_newest_first(ledger: Ledger) -> None:
    ids = [ledger.models.begin(task, 1, "kept", "worse") for task in (TASK, "other", "third")]
    assert [row.id for row in ledger.models.list()] == ids[::-1]
    assert [row.id for row in ledger.models.list("other")] == [ids[1]]
    assert [row.id for row in ledger.models.open("third")] == [ids[2]]
    assert [row.id for row in ledger.models.open()] == ids


def test_each_change_of_a_case_leaves_its_trace(ledger: Ledger, clock: Clock) -> None:
    add_series(ledger, "1.1")
    made = ledger.annotations.add_draft(draft("1.1", 2))
    ledger.queue.rebuild(TASK, "random", [("1.1", 1.0, "")])
    ledger.queue.take(TASK, "random", "anna", 60)
    label = ledger.annotations.add_human(human("1.1", parent_id=made), accept=False)
    ledger.annotations.accept(label, "chief")
    trail = [(row.actor, row.action, row.subject) for row in reversed(ledger.audit.list())]
    assert trail == [
        ("system", "patient.split", "patient-1.1"),
        ("system", "series.added", "1.1"),
        ("system", "series.ready", "1.1"),
        ("transunet", "annotation.draft", f"annotation {made}"),
        ("anna", "lease.taken", "1.1"),
        ("anna", "annotation.submitted", f"annotation {label}"),
        ("chief", "annotation.accepted", f"annotation {label}"),
    ]
    accepted = ledger.audit.list(limit=1)[0]
    assert accepted.details == {"superseded": [made]}
    assert accepted.at == clock.now


def test_what_changes_nothing_leaves_no_trace(ledger: Ledger) -> None:
    add_series(ledger, "1.1")
    ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    before = len(ledger.audit.list())
    ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    ledger.queue.take(TASK, "random", "anna", 60)
    ledger.series.patient_split("nobody")
    assert len(ledger.audit.list()) == before


def test_anything_else_can_be_recorded(ledger: Ledger) -> None:
    ledger.audit.add("anna", "login", "server", {"from": "127.0.0.1"})
    ledger.audit.add("ben", "login", "server")
    first = ledger.audit.list(subject="server")[-1]
    assert (first.actor, first.action, first.details) == ("anna", "login", {"from": "127.0.0.1"})


def test_an_actor_can_be_set_for_all(url: str, clock: Clock) -> None:
    ledger = Ledger(url, clock, actor="worker 7")
    add_series(ledger, "1.1")
    assert {row.actor for row in ledger.audit.list()} == {"worker 7"}
    ledger.close()
