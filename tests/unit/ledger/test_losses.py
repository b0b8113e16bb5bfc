"""What leaves the archive counts no more, and counts again when it comes back."""

import pytest
from ledger_support import TASK, Clock, add_series, draft, free_series, human

from lib.core.errors import Conflict, NotFound
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewDraft, NewSeries

LEFT = "its SEG left the archive"


@pytest.fixture(autouse=True)
def series(ledger: Ledger) -> None:
    add_series(ledger, "1.1", "1.2")
    ledger.queue.rebuild(TASK, "random", [("1.1", 1.0, ""), ("1.2", 0.5, "")])


def state(ledger: Ledger, annotation_id: int) -> tuple[str, str, bool]:
    row = ledger.annotations.get(annotation_id)
    return row.status, row.reason, row.stored_at is not None


def delivered(ledger: Ledger) -> None:
    for row in ledger.outbox.pending():
        ledger.outbox.done(row.id)


def test_what_the_archive_has_is_what_is_in_force_and_was_delivered(ledger: Ledger) -> None:
    ours = ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"seg")
    ledger.annotations.add_draft(draft("1.2", nothing_found=True))
    assert ledger.annotations.stored() == []
    delivered(ledger)
    assert [row.id for row in ledger.annotations.stored()] == [ours]
    label = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    assert [row.id for row in ledger.annotations.stored()] == [label]


def test_a_draft_without_its_seg_is_drawn_again(ledger: Ledger) -> None:
    ours = ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"seg")
    assert not ledger.annotations.lose(ours)  # on its way
    delivered(ledger)
    assert ledger.annotations.undrafted(TASK, 1) == ["1.2"]
    assert ledger.annotations.lose(ours)
    assert state(ledger, ours) == ("superseded", LEFT, False)
    assert ledger.annotations.undrafted(TASK, 1) == ["1.2", "1.1"]
    assert not ledger.annotations.lose(ours)
    assert ledger.annotations.restore("series-of-s1", accept=True) == []


def test_a_label_without_its_seg_is_rejected_listed_and_its_case_is_offered_again(ledger: Ledger) -> None:
    label = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    assert ledger.annotations.lose(label)
    assert state(ledger, label) == ("rejected", LEFT, False)
    assert ledger.annotations.accepted(TASK) == []
    assert free_series(ledger) == ["1.1", "1.2"]
    assert [row.id for row in ledger.annotations.list(status="rejected")] == [label]
    assert ledger.annotations.unusable() == []
    with pytest.raises(Conflict, match="must be a SEG that could not be used"):
        ledger.annotations.forget_rejection(label)
    trail = ledger.audit.list(limit=1)[0]
    assert (trail.action, trail.subject) == ("annotation.lost", f"annotation {label}")
    assert trail.details == {"was": "accepted", "is": "rejected", "sop": "h1"}


def test_a_label_counts_again_when_its_seg_comes_back(ledger: Ledger, clock: Clock) -> None:
    parent = ledger.annotations.add_draft(draft("1.1", 1))
    label = ledger.annotations.add_human(human("1.1", "anna", "h1", parent_id=parent, changed_voxels=7), accept=True)
    before = ledger.annotations.get(label)
    ledger.annotations.lose(label)
    redrawn = ledger.annotations.add_draft(draft("1.1", 1))
    assert ledger.annotations.restore("series-of-h1", accept=True) == [label]
    assert ledger.annotations.get(label) == before
    assert ledger.annotations.get(redrawn).status == "superseded"
    assert free_series(ledger) == ["1.2"]
    assert ledger.annotations.restore("series-of-h1", accept=True) == []


@pytest.mark.parametrize(("reviewed", "expected"), [(False, "submitted"), (True, "accepted")])
def test_with_review_required_only_a_reviewed_label_comes_back_accepted(
    ledger: Ledger, reviewed: bool, expected: str
) -> None:
    label = ledger.annotations.add_human(human("1.1", sop="h1"), accept=False)
    if reviewed:
        ledger.annotations.accept(label, "chief")
    ledger.annotations.lose(label)
    ledger.annotations.restore("series-of-h1", accept=False)
    assert state(ledger, label) == (expected, "", True)


def test_a_label_that_comes_back_does_not_replace_the_one_made_meanwhile(ledger: Ledger) -> None:
    label = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    ledger.annotations.lose(label)
    again = ledger.annotations.add_human(human("1.1", sop="h2"), accept=True)
    assert ledger.annotations.restore("series-of-h1", accept=True) == [label]
    assert state(ledger, label) == ("superseded", "", True)
    assert [row.id for row in ledger.annotations.accepted(TASK)] == [again]


def test_a_lost_label_of_a_series_that_changed_does_not_come_back(ledger: Ledger) -> None:
    label = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    ledger.annotations.lose(label)
    known = ledger.series.get("1.1")
    ledger.series.add(NewSeries("1.1", known.study_uid, known.patient, known.split, "CT", instances=9))
    assert ledger.annotations.restore("series-of-h1", accept=True) == []
    assert ledger.annotations.get(label).status == "superseded"


def test_a_foreign_draft_can_be_lost_too(ledger: Ledger) -> None:
    new = NewDraft("1.1", TASK, "AI", origin="foreign_model", sop_instance_uid="f", seg_series_uid="fs")
    foreign = ledger.annotations.add_draft(new)
    assert ledger.annotations.lose(foreign)
    assert state(ledger, foreign) == ("superseded", LEFT, False)


def test_an_unknown_annotation_cannot_be_lost(ledger: Ledger) -> None:
    with pytest.raises(NotFound):
        ledger.annotations.lose(4711)
