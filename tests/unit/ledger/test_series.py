"""Series arrive once; the split of a patient never changes."""

import pytest
from ledger_support import TASK, Clock, add_series, draft, free_series, human

from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewSeries, SeriesRow


def new(uid: str = "1.1", patient: str = "p1", split: str = "pool", instances: int = 64) -> NewSeries:
    return NewSeries(uid, "study", patient, split, "CT", "Abdomen", instances, "Charité", "Maker", "20260301")


def test_a_series_arrives_once_with_all_its_words(ledger: Ledger, clock: Clock) -> None:
    assert ledger.series.add(new())
    assert not ledger.series.add(new())
    assert ledger.series.get("1.1") == SeriesRow(
        series_uid="1.1",
        study_uid="study",
        patient="p1",
        split="pool",
        status="new",
        reason="",
        modality="CT",
        description="Abdomen",
        instances=64,
        institution="Charité",
        manufacturer="Maker",
        date="20260301",
        frame_of_reference_uid="",
        findings=(),
        geometry=None,
        created_at=clock.now,
        updated_at=clock.now,
    )


def test_a_checked_series_is_ready_with_findings_and_geometry(ledger: Ledger, clock: Clock) -> None:
    ledger.series.add(new())
    clock.turn(5)
    ledger.series.set_ready("1.1", ("tilt 0.3°",), "1.9", {"shape": [64, 128, 128]})
    row = ledger.series.get("1.1")
    assert (row.status, row.findings, row.frame_of_reference_uid) == ("ready", ("tilt 0.3°",), "1.9")
    assert row.geometry == {"shape": [64, 128, 128]}
    assert (row.updated_at - row.created_at).total_seconds() == 5


def test_a_refusal_needs_a_reason_and_keeps_it(ledger: Ledger) -> None:
    ledger.series.add(new())
    with pytest.raises(InvalidInput, match="needs a reason"):
        ledger.series.refuse("1.1", "")
    ledger.series.refuse("1.1", "slice 7 is missing")
    assert ledger.series.get("1.1").reason == "slice 7 is missing"
    ledger.series.set_ready("1.1", (), "f", None)
    assert ledger.series.get("1.1").reason == ""


def test_more_instances_of_a_known_series_ask_for_a_new_check(ledger: Ledger) -> None:
    ledger.series.add(new(instances=60))
    ledger.series.set_ready("1.1", ("x",), "f", {"a": 1})
    assert ledger.series.add(new(instances=64))
    row = ledger.series.get("1.1")
    assert (row.status, row.instances, row.findings, row.geometry) == ("new", 64, (), None)


def test_what_was_made_of_fewer_instances_is_superseded(ledger: Ledger) -> None:
    add_series(ledger, "1.1", "1.2", "1.3")
    drafted = ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"seg")
    ledger.outbox.done(ledger.outbox.pending()[0].id)
    accepted = ledger.annotations.add_human(human("1.2", sop="h1"), accept=True)
    submitted = ledger.annotations.add_human(human("1.2", sop="h2"), accept=False)
    other = ledger.annotations.add_human(human("1.3", sop="h3"), accept=True)
    for uid in ("1.1", "1.2"):
        known = ledger.series.get(uid)
        assert ledger.series.add(NewSeries(uid, known.study_uid, known.patient, known.split, "CT", instances=4))
        assert ledger.series.set_ready(uid, (), "frame", None, 4)
    rows = {row.id: row for row in ledger.annotations.list()}
    assert {i: row.status for i, row in rows.items()} == {
        drafted: "superseded",
        accepted: "superseded",
        submitted: "superseded",
        other: "accepted",
    }
    assert rows[accepted].reason == "it was made when the series had 3 instances, now it has 4"
    assert ledger.annotations.undrafted(TASK, 1) == ["1.1", "1.2"]
    assert [(row.action, row.sop_instance_uid) for row in ledger.outbox.pending()] == [("delete", "s1")]
    trail = [row for row in ledger.audit.list(subject="1.2") if row.action == "series.changed"]
    assert [row.details["superseded"] for row in trail] == [[accepted, submitted]]


def test_a_verdict_on_another_number_of_instances_does_not_hold(ledger: Ledger) -> None:
    ledger.series.add(new(instances=3))
    ledger.series.add(new(instances=6))
    assert not ledger.series.refuse("1.1", "slice 4 is missing", 3)
    assert not ledger.series.set_ready("1.1", (), "f", None, 3)
    row = ledger.series.get("1.1")
    assert (row.status, row.reason, row.frame_of_reference_uid) == ("new", "", "")
    assert ledger.series.refuse("1.1", "slice 7 is missing", 6)
    assert ledger.series.set_ready("1.1", (), "f", None, 6)
    assert ledger.series.get("1.1").status == "ready"


def test_a_series_that_comes_back_is_new(ledger: Ledger) -> None:
    ledger.series.add(new())
    ledger.series.set_gone("1.1")
    with pytest.raises(Conflict, match="gone"):
        ledger.series.set_ready("1.1", (), "f", None)
    assert ledger.series.add(new())
    assert ledger.series.get("1.1").status == "new"


def test_a_refused_or_gone_series_leaves_the_queue_and_its_lease_ends(ledger: Ledger) -> None:
    add_series(ledger, "1.1", "1.2", "1.3")
    ledger.queue.rebuild(TASK, "random", [(uid, 1.0, "") for uid in ("1.1", "1.2", "1.3")])
    assert ledger.queue.take(TASK, "random", "anna", 60).series_uid == "1.1"
    ledger.series.refuse("1.1", "unreadable")
    ledger.series.set_gone("1.2")
    assert ledger.queue.holder("1.1", TASK) is None
    assert free_series(ledger) == ["1.3"]
    ledger.series.set_ready("1.1", (), "f", None)
    assert free_series(ledger) == ["1.1", "1.3"]


def test_lists_filter_by_status_and_split_and_page(ledger: Ledger) -> None:
    add_series(ledger, "1.1", "1.2")
    add_series(ledger, "1.3", split="calibration")
    ledger.series.add(new("1.4", "p4"))
    assert [row.series_uid for row in ledger.series.list()] == ["1.1", "1.2", "1.3", "1.4"]
    assert [row.series_uid for row in ledger.series.list(status="ready", split="pool")] == ["1.1", "1.2"]
    assert [row.series_uid for row in ledger.series.list(limit=2, offset=1)] == ["1.2", "1.3"]
    assert ledger.series.counts() == {"new": 1, "ready": 3, "refused": 0, "gone": 0}
    with pytest.raises(InvalidInput, match="status must be one of new, ready, refused, gone, got 'redy'"):
        ledger.series.list(status="redy")


def test_an_unknown_series_is_not_found(ledger: Ledger) -> None:
    for call in (ledger.series.get, ledger.series.set_gone, lambda uid: ledger.series.refuse(uid, "why")):
        with pytest.raises(NotFound, match=r"no series 9\.9"):
            call("9.9")


def test_the_first_split_of_a_patient_stays(ledger: Ledger) -> None:
    assert ledger.series.patient_split("p1") is None
    ledger.series.add(new("1.1", "p1", "pool"))
    ledger.series.add(new("1.2", "p1", "promotion"))
    assert ledger.series.get("1.2").split == "pool"
    with pytest.raises(Conflict, match="patient p1 is in split pool for ever, got calibration"):
        ledger.series.assign_split("p1", "calibration")
    ledger.series.assign_split("p1", "pool")
    assert ledger.series.patient_split("p1") == "pool"


def test_an_assigned_split_wins_over_the_drawn_one(ledger: Ledger) -> None:
    ledger.series.assign_split("p7", "calibration", "held out by the data team")
    ledger.series.add(new("1.1", "p7", "pool"))
    assert ledger.series.get("1.1").split == "calibration"
    assert ledger.audit.list(subject="p7")[0].details == {"reason": "held out by the data team", "split": "calibration"}


def test_a_series_of_another_patient_moves_to_him_and_into_his_split(ledger: Ledger) -> None:
    add_series(ledger, "1.1")
    label = ledger.annotations.add_human(human("1.1"), accept=True)
    ledger.series.assign_split("p2", "calibration")
    known = ledger.series.get("1.1")
    moved = NewSeries("1.1", "other study", "p2", "pool", "CT", instances=known.instances)
    assert not ledger.series.add(moved)
    row = ledger.series.get("1.1")
    assert (row.patient, row.split, row.study_uid, row.status) == ("p2", "calibration", "other study", "ready")
    assert ledger.audit.list(limit=1)[0].action == "series.moved"
    assert ledger.audit.list(limit=1)[0].details == {
        "patient": ["patient-1.1", "p2"],
        "split": ["pool", "calibration"],
        "labels": [label],
    }
    assert [found.id for found in ledger.annotations.accepted(TASK, "calibration")] == [label]
    assert ledger.annotations.accepted(TASK, "pool") == []


def test_a_move_within_a_split_names_no_labels(ledger: Ledger) -> None:
    ledger.series.add(new("1.1", "p1"))
    assert not ledger.series.add(new("1.1", "p2"))
    assert ledger.audit.list(limit=1)[0].details == {"patient": ["p1", "p2"]}


def test_a_nameless_patient_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match="needs a pseudonym and a split, got '' and 'pool'"):
        ledger.series.add(new(patient=""))
