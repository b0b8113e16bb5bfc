"""What is held back is kept and listed, counts for nothing, and waits for a reviewer."""

from datetime import timedelta

import pytest
from ledger_support import START, TASK, Clock, add_series, draft, free_series, human

from lib.core.errors import Conflict
from lib.ledger.ledger import Ledger

WHY = "it is empty, although the draft shows liver"


@pytest.fixture(autouse=True)
def series(ledger: Ledger) -> None:
    add_series(ledger, "1.1", "1.2")
    ledger.queue.rebuild(TASK, "random", [("1.1", 1.0, ""), ("1.2", 0.5, "")])


def save(ledger: Ledger, why: str = "", accept: bool = True, **more: object) -> int:
    return ledger.annotations.add_human(human("1.1", held_reason=why, **more), accept, agreement={"liver": 0.0})


def states(ledger: Ledger) -> dict[int, str]:
    return {row.id: "held" if row.is_held else row.status for row in ledger.annotations.list(series_uid="1.1")}


def test_what_is_held_back_is_no_label_even_where_labels_are_accepted_at_once(ledger: Ledger) -> None:
    parent = ledger.annotations.add_draft(draft("1.1"))
    ledger.queue.take(TASK, "random", "anna", 600)
    held = save(ledger, WHY, parent_id=parent)
    row = ledger.annotations.get(held)
    assert (row.status, row.held_reason, row.is_held) == ("submitted", WHY, True)
    assert ledger.annotations.accepted(TASK) == []
    assert ledger.corrections.list(TASK) == []
    assert [found.id for found in ledger.annotations.held()] == [held]
    assert ledger.annotations.held("other") == []
    assert states(ledger) == {parent: "draft", held: "held"}
    assert free_series(ledger) == ["1.2"]  # nobody is given a case that waits for its reviewer
    trail = ledger.audit.list(limit=1)[0]
    assert (trail.action, trail.actor, trail.details["held"]) == ("annotation.held", "anna", WHY)


def test_a_mistake_replaces_no_good_label(ledger: Ledger) -> None:
    good = save(ledger)
    held = save(ledger, WHY)
    assert states(ledger) == {good: "accepted", held: "held"}
    ledger.annotations.reject(held, "chief", "a slip")
    assert states(ledger) == {good: "accepted", held: "rejected"}
    assert ledger.audit.list(limit=1)[0].details == {"reason": "a slip", "was": "submitted", "held": WHY}
    assert free_series(ledger) == ["1.2"]


def test_a_mistake_replaces_no_good_label_that_waits_for_review_either(ledger: Ledger) -> None:
    good = save(ledger, accept=False)
    held = save(ledger, WHY, accept=False)
    assert states(ledger) == {good: "submitted", held: "held"}
    ledger.annotations.reject(held, "chief", "a slip")
    ledger.annotations.accept(good, "chief")
    assert states(ledger) == {good: "accepted", held: "rejected"}


def test_a_reviewer_releases_it_and_the_trail_names_him_and_the_reason(ledger: Ledger) -> None:
    parent = ledger.annotations.add_draft(draft("1.1"))
    good, held = save(ledger), save(ledger, WHY, parent_id=parent)
    ledger.annotations.accept(held, "chief")
    assert states(ledger) == {parent: "superseded", good: "superseded", held: "accepted"}
    assert [row.id for row in ledger.annotations.accepted(TASK)] == [held]
    row = ledger.annotations.get(held)
    assert (row.reviewer, row.is_held, row.held_reason) == ("chief", False, WHY)
    assert [correction.annotation_id for correction in ledger.corrections.list(TASK)] == [held]
    trail = ledger.audit.list(limit=1)[0]
    assert (trail.actor, trail.action) == ("chief", "annotation.accepted")
    assert trail.details == {"superseded": [good], "held": WHY}
    with pytest.raises(Conflict):
        ledger.annotations.accept(held, "other")


@pytest.mark.parametrize(("accept", "status"), [(True, "accepted"), (False, "submitted")])
def test_a_second_save_mends_it(ledger: Ledger, accept: bool, status: str) -> None:
    held = save(ledger, WHY, accept)
    mended = save(ledger, accept=accept)
    assert states(ledger) == {held: "superseded", mended: status}


def test_the_second_of_two_that_are_held_back_is_the_one_to_look_at(ledger: Ledger) -> None:
    first, second = save(ledger, WHY), save(ledger, "it touches no tissue")
    assert states(ledger) == {first: "superseded", second: "held"}


def test_a_label_that_is_read_late_counts_although_a_later_one_is_held_back(ledger: Ledger, clock: Clock) -> None:
    clock.turn(100)
    held = save(ledger, WHY, sop="h2", made_at=START + timedelta(seconds=90))
    late = save(ledger, sop="h1", made_at=START + timedelta(seconds=10))
    assert states(ledger) == {held: "held", late: "accepted"}
    ledger.annotations.accept(held, "chief")
    assert states(ledger) == {held: "accepted", late: "superseded"}


def test_what_would_be_held_back_but_was_mended_before_it_was_read_is_superseded(ledger: Ledger, clock: Clock) -> None:
    clock.turn(100)
    mended = save(ledger, sop="h2", made_at=START + timedelta(seconds=90))
    late = save(ledger, WHY, sop="h1", made_at=START + timedelta(seconds=10))
    assert states(ledger) == {mended: "accepted", late: "superseded"}


def test_no_draft_is_made_of_a_case_that_waits_for_its_reviewer(ledger: Ledger) -> None:
    save(ledger, WHY)
    with pytest.raises(Conflict, match="has a person's annotation"):
        ledger.annotations.add_draft(draft("1.1"))
    assert ledger.annotations.undrafted(TASK, 1) == ["1.2"]


def test_what_was_held_back_is_held_back_again_when_its_seg_comes_back(ledger: Ledger) -> None:
    good = save(ledger, sop="h0")
    held = save(ledger, WHY, sop="h1")
    ledger.annotations.lose(held)
    assert states(ledger) == {good: "accepted", held: "rejected"}
    ledger.annotations.restore("series-of-h1", accept=True)
    assert states(ledger) == {good: "accepted", held: "held"}


def test_a_good_label_comes_back_beside_one_that_is_held_back(ledger: Ledger, clock: Clock) -> None:
    good = save(ledger, sop="h0")
    ledger.annotations.lose(good)
    clock.turn(1)
    held = save(ledger, WHY, sop="h1")
    ledger.annotations.restore("series-of-h0", accept=True)
    assert states(ledger) == {good: "accepted", held: "held"}


def test_what_a_reviewer_released_comes_back_as_a_label(ledger: Ledger) -> None:
    held = save(ledger, WHY, sop="h1")
    ledger.annotations.accept(held, "chief")
    ledger.annotations.lose(held)
    ledger.annotations.restore("series-of-h1", accept=False)
    assert states(ledger) == {held: "accepted"}


def test_the_same_seg_twice_is_held_back_once(ledger: Ledger) -> None:
    assert save(ledger, WHY, sop="h1") == save(ledger, WHY, sop="h1")
