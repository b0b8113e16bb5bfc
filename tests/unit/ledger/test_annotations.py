"""What counts as a label, what supersedes what, and what the archive is told."""

import math
from datetime import timedelta

import numpy as np
import pytest
from ledger_support import START, TASK, Clock, add_series, draft, free_series, human

from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewDraft, NewHuman


@pytest.fixture(autouse=True)
def series(ledger: Ledger) -> None:
    add_series(ledger, "1.1", "1.2")


def statuses(ledger: Ledger) -> dict[int, str]:
    return {row.id: row.status for row in ledger.annotations.list()}


def labels(ledger: Ledger) -> list[int]:
    return [row.id for row in ledger.annotations.accepted(TASK)]


def test_a_draft_never_counts_as_a_label(ledger: Ledger) -> None:
    ours = ledger.annotations.add_draft(draft("1.1", sop="s1"), b"seg")
    foreign = ledger.annotations.add_draft(NewDraft("1.1", TASK, "Other AI", origin="foreign_model"))
    assert statuses(ledger) == {ours: "draft", foreign: "draft"}
    assert labels(ledger) == []
    for annotation_id in (ours, foreign):
        with pytest.raises(Conflict, match="must be submitted to become accepted, got draft"):
            ledger.annotations.accept(annotation_id, "chief")
        with pytest.raises(Conflict, match="must be submitted or accepted to become rejected, got draft"):
            ledger.annotations.reject(annotation_id, "chief", "no")


def test_a_draft_brings_scores_embedding_and_its_file_at_once(ledger: Ledger) -> None:
    scores = {"liver": 0.25, "lesion": math.nan}
    vector = np.array([0.5, -1.5, 3.0], dtype=np.float32)
    made = ledger.annotations.add_draft(draft("1.1", 4, "s1", voxels={"liver": 12}), b"DICM file", scores, vector)
    row = ledger.annotations.get(made)
    assert (row.model_version, row.voxels, row.origin, row.stored_at) == (4, {"liver": 12}, "model", None)
    found = ledger.annotations.scores(made)
    assert found["liver"] == 0.25
    assert math.isnan(found["lesion"])
    np.testing.assert_array_equal(ledger.annotations.embedding(made), vector)
    (sent,) = ledger.outbox.pending()
    assert (sent.action, sent.sop_instance_uid, sent.series_uid) == ("store", "s1", "series-of-s1")
    assert (sent.annotation_id, sent.payload) == (made, b"DICM file")


def test_nothing_found_is_recorded_without_a_file(ledger: Ledger) -> None:
    made = ledger.annotations.add_draft(draft("1.1", nothing_found=True), scores={"liver": 0.1})
    assert ledger.annotations.get(made).nothing_found
    assert ledger.outbox.pending() == []
    assert ledger.annotations.undrafted(TASK, 1) == ["1.2"]


def test_a_file_without_its_uids_is_refused_and_nothing_is_left(ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match="needs its bytes"):
        ledger.annotations.add_draft(draft("1.1"), b"seg")
    assert ledger.annotations.list() == []


def test_a_new_draft_supersedes_the_older_one_of_ours_and_has_its_seg_deleted(ledger: Ledger) -> None:
    old = ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"one")
    foreign = ledger.annotations.add_draft(NewDraft("1.1", TASK, "AI", origin="foreign_model", sop_instance_uid="f"))
    new = ledger.annotations.add_draft(draft("1.1", 2, "s2"), b"two")
    assert statuses(ledger) == {old: "superseded", foreign: "draft", new: "draft"}
    assert ledger.annotations.latest_draft("1.1", TASK).id == new
    first = ledger.outbox.pending()
    assert [(row.action, row.sop_instance_uid) for row in first] == [("store", "s1"), ("store", "s2")]
    ledger.outbox.done(first[0].id)
    assert [(row.action, row.series_uid) for row in ledger.outbox.pending()] == [
        ("delete", "series-of-s1"),
        ("store", "series-of-s2"),
    ]


def test_a_foreign_seg_is_superseded_but_never_deleted(ledger: Ledger) -> None:
    for sop in ("f1", "f2"):
        foreign = NewDraft("1.1", TASK, "AI", origin="foreign_model", sop_instance_uid=sop, seg_series_uid=sop)
        ledger.annotations.add_draft(foreign)
    assert [row.status for row in ledger.annotations.list()] == ["draft", "superseded"]
    assert ledger.outbox.pending() == []


def test_a_seg_in_an_annotators_hands_is_deleted_only_after_his_lease(ledger: Ledger, clock: Clock) -> None:
    ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"one")
    ledger.outbox.done(ledger.outbox.pending()[0].id)
    ledger.queue.lease("1.1", TASK, "anna", 3600)
    ledger.annotations.add_draft(draft("1.1", 2, "s2"), b"two")
    assert [row.action for row in ledger.outbox.pending()] == ["store"]
    clock.turn(3600)
    assert [row.action for row in ledger.outbox.pending()] == ["delete", "store"]


def test_a_deletion_waits_for_whoever_holds_the_series_when_it_is_due(ledger: Ledger, clock: Clock) -> None:
    ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"one")
    ledger.annotations.add_draft(draft("1.1", 2, "s2"), b"two")
    for row in ledger.outbox.pending():
        ledger.outbox.done(row.id)
    ledger.queue.lease("1.1", TASK, "anna", 60)
    clock.turn(30)
    assert ledger.outbox.pending() == []
    ledger.queue.lease("1.1", TASK, "anna", 60)  # renewed
    clock.turn(59)
    assert ledger.outbox.pending(claim_s=5) == []
    clock.turn(1)
    assert [(row.action, row.sop_instance_uid) for row in ledger.outbox.pending()] == [("delete", "s1")]


def test_a_queued_draft_is_not_made_under_an_annotators_hands(ledger: Ledger, clock: Clock) -> None:
    old = ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"one")
    ledger.jobs.add("draft", TASK, {}, "1.1")
    job = ledger.jobs.take(["draft"], "worker", 600)
    ledger.queue.lease("1.1", TASK, "anna", 60)
    with pytest.raises(Conflict, match=r"1\.1 is in an annotator's hands until 2026-03-01 08:01:00 UTC"):
        ledger.annotations.add_draft(draft("1.1", 2, "s2"), b"two", job=job)
    assert statuses(ledger) == {old: "draft"}
    clock.turn(60)
    assert ledger.annotations.undrafted(TASK, 2) == ["1.2", "1.1"]  # first what no version has scored
    new = ledger.annotations.add_draft(draft("1.1", 2, "s2"), b"two", job=job)
    assert statuses(ledger) == {old: "superseded", new: "draft"}


def test_a_queued_draft_of_a_series_that_is_not_ready_any_more_is_refused(ledger: Ledger) -> None:
    ledger.jobs.add("draft", TASK, {}, "1.1")
    job = ledger.jobs.take(["draft"], "worker", 600)
    ledger.series.refuse("1.1", "slice 7 is missing")
    with pytest.raises(Conflict, match="must be ready to be drafted, got refused"):
        ledger.annotations.add_draft(draft("1.1", 2, "s2"), b"two", job=job)


def test_an_accepted_label_supersedes_all_that_is_older(ledger: Ledger) -> None:
    drafted = ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"seg")
    foreign = ledger.annotations.add_draft(NewDraft("1.1", TASK, "AI", origin="foreign_model"))
    first = ledger.annotations.add_human(human("1.1", sop="h1", parent_id=drafted, changed_voxels=7), accept=True)
    submitted = ledger.annotations.add_human(human("1.1", sop="h2"), accept=False)
    assert statuses(ledger) == {
        drafted: "superseded",
        foreign: "superseded",
        first: "accepted",
        submitted: "submitted",
    }
    second = ledger.annotations.add_human(human("1.1", sop="h3"), accept=True)
    assert statuses(ledger) == {
        drafted: "superseded",
        foreign: "superseded",
        first: "superseded",
        submitted: "superseded",
        second: "accepted",
    }
    assert labels(ledger) == [second]
    row = ledger.annotations.get(first)
    assert (row.parent_id, row.changed_voxels, row.author) == (drafted, 7, "anna")


def test_the_draft_that_a_person_corrected_stays_in_the_archive(ledger: Ledger) -> None:
    ledger.annotations.add_draft(draft("1.1", 1, "s1"), b"seg")
    ledger.outbox.done(ledger.outbox.pending()[0].id)
    ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    assert ledger.outbox.pending() == []


def test_a_submitted_one_supersedes_only_submitted_ones(ledger: Ledger) -> None:
    drafted = ledger.annotations.add_draft(draft("1.1"))
    accepted = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    redrafted = ledger.annotations.add_draft(draft("1.1", 2), unless_labelled=False)
    first = ledger.annotations.add_human(human("1.1", sop="h2"), accept=False)
    second = ledger.annotations.add_human(human("1.1", sop="h3"), accept=False)
    assert statuses(ledger) == {
        drafted: "superseded",
        accepted: "accepted",
        redrafted: "draft",
        first: "superseded",
        second: "submitted",
    }
    assert labels(ledger) == [accepted]


def test_acceptance_makes_the_label_and_names_the_reviewer(ledger: Ledger, clock: Clock) -> None:
    old = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    made = ledger.annotations.add_human(human("1.1", sop="h2"), accept=False)
    clock.turn(60)
    ledger.annotations.accept(made, "chief")
    row = ledger.annotations.get(made)
    assert (row.status, row.reviewer, row.reviewed_at) == ("accepted", "chief", clock.now)
    assert ledger.annotations.get(old).status == "superseded"
    assert labels(ledger) == [made]
    with pytest.raises(Conflict, match="got accepted"):
        ledger.annotations.accept(made, "chief")


def test_a_rejected_one_supersedes_nothing_and_its_case_returns(ledger: Ledger) -> None:
    drafted = ledger.annotations.add_draft(draft("1.1"))
    ledger.queue.rebuild(TASK, "random", [("1.1", 1.0, "")])
    made = ledger.annotations.add_human(human("1.1", sop="h1"), accept=False)
    assert free_series(ledger) == []
    with pytest.raises(InvalidInput, match="needs a reason"):
        ledger.annotations.reject(made, "chief", "")
    ledger.annotations.reject(made, "chief", "wrong organ")
    row = ledger.annotations.get(made)
    assert (row.status, row.reviewer, row.reason) == ("rejected", "chief", "wrong organ")
    assert ledger.annotations.get(drafted).status == "draft"
    assert free_series(ledger) == ["1.1"]
    with pytest.raises(Conflict, match="got rejected"):
        ledger.annotations.reject(made, "chief", "again")


def test_a_label_can_be_taken_back(ledger: Ledger) -> None:
    made = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    ledger.annotations.reject(made, "chief", "mixed up")
    assert labels(ledger) == []
    assert ledger.annotations.undrafted(TASK, 1) == ["1.1", "1.2"]


def test_the_same_seg_twice_is_one_annotation(ledger: Ledger) -> None:
    made = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    newer = ledger.annotations.add_human(human("1.1", sop="h2"), accept=True)
    assert ledger.annotations.add_human(human("1.1", sop="h1"), accept=True) == made
    assert labels(ledger) == [newer]
    drafted = ledger.annotations.add_draft(draft("1.2", sop="s1"), b"seg")
    assert ledger.annotations.add_draft(draft("1.2", sop="s1"), b"seg") == drafted
    assert len(ledger.annotations.list()) == 3
    assert ledger.outbox.open_count() == 1


@pytest.mark.parametrize("other", [human("1.2", sop="s1"), human("1.1", sop="s1")])
def test_one_seg_cannot_be_two_things(ledger: Ledger, other: NewHuman) -> None:
    ledger.annotations.add_draft(draft("1.1", sop="s1"), b"seg")
    with pytest.raises(Conflict, match=f"of model on series 1.1 .* got human on {other.series_uid}"):
        ledger.annotations.add_human(other, accept=True)


def test_a_label_that_is_read_late_does_not_supersede_a_newer_one(ledger: Ledger, clock: Clock) -> None:
    clock.turn(3600)
    newer = ledger.annotations.add_human(human("1.1", sop="h2", made_at=START + timedelta(minutes=20)), accept=True)
    ledger.queue.lease("1.1", TASK, "ben", 600)
    late = ledger.annotations.add_human(human("1.1", sop="h1", made_at=START + timedelta(minutes=10)), accept=True)
    assert statuses(ledger) == {newer: "accepted", late: "superseded"}
    assert ledger.annotations.get(late).made_at == START + timedelta(minutes=10)
    assert ledger.audit.list(limit=1)[0].details == {"series": "1.1", "task": TASK, "by": newer}
    assert ledger.queue.holder("1.1", TASK).annotator == "ben"
    upload = ledger.annotations.add_human(human("1.1"), accept=True)
    assert (ledger.annotations.get(upload).made_at, labels(ledger)) == (clock.now, [upload])


def test_a_submitted_label_that_is_read_late_does_not_wait_for_review(ledger: Ledger) -> None:
    newer = ledger.annotations.add_human(human("1.1", sop="h2"), accept=False)
    late = ledger.annotations.add_human(human("1.1", sop="h1", made_at=START - timedelta(hours=1)), accept=False)
    assert statuses(ledger) == {newer: "submitted", late: "superseded"}


def test_what_claims_to_come_from_the_future_was_made_now(ledger: Ledger, clock: Clock) -> None:
    first = ledger.annotations.add_human(human("1.1", sop="h1", made_at=START + timedelta(days=1)), accept=True)
    assert ledger.annotations.get(first).made_at == clock.now
    clock.turn(1)
    second = ledger.annotations.add_human(human("1.1", sop="h2"), accept=True)
    assert labels(ledger) == [second]


def test_a_foreign_draft_that_is_read_late_does_not_supersede_a_newer_one(ledger: Ledger) -> None:
    times = (START - timedelta(hours=1), START - timedelta(hours=2))
    news = [NewDraft("1.1", TASK, "AI", origin="foreign_model", made_at=time) for time in times]
    newer, late = (ledger.annotations.add_draft(new, unless_labelled=False) for new in news)
    assert statuses(ledger) == {newer: "draft", late: "superseded"}


def test_who_labelled_last_and_what_is_known(ledger: Ledger) -> None:
    assert ledger.queue.last_labeller("1.1", TASK) is None
    assert ledger.annotations.latest_label("1.1", TASK) is None
    for who in ("anna", "ben"):
        ledger.queue.lease("1.1", TASK, who, 60)
        made = ledger.annotations.add_human(human("1.1", who), accept=True)
    ledger.queue.release(ledger.queue.lease("1.1", TASK, "carl", 60))
    assert ledger.queue.last_labeller("1.1", TASK) == "ben"
    assert ledger.queue.last_labeller("1.1", "other_task") is None
    assert ledger.annotations.latest_label("1.1", TASK).id == made
    ledger.annotations.reject(made, "chief", "no")
    assert ledger.annotations.latest_label("1.1", TASK) is None


def test_tasks_do_not_touch_each_other(ledger: Ledger) -> None:
    mine = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    other = ledger.annotations.add_human(NewHuman("1.1", "other_task", "ben", "h2"), accept=True)
    assert labels(ledger) == [mine]
    assert [row.id for row in ledger.annotations.accepted("other_task")] == [other]
    assert ledger.annotations.counts(TASK)["accepted"] == 1


def test_labels_can_be_asked_for_by_split(ledger: Ledger) -> None:
    add_series(ledger, "1.3", split="calibration")
    mine = ledger.annotations.add_human(human("1.1"), accept=True)
    held = ledger.annotations.add_human(human("1.3"), accept=True)
    assert [row.id for row in ledger.annotations.accepted(TASK, "calibration")] == [held]
    assert [row.id for row in ledger.annotations.accepted(TASK, "pool")] == [mine]


def test_a_person_who_was_faster_wins_over_a_draft(ledger: Ledger) -> None:
    ledger.annotations.add_human(human("1.1", sop="h1"), accept=False)
    with pytest.raises(Conflict, match="has a person's annotation"):
        ledger.annotations.add_draft(draft("1.1", sop="s1"), b"seg")
    assert ledger.outbox.open_count() == 0
    assert ledger.annotations.latest_draft("1.1", TASK) is None


def test_a_lost_job_cannot_write_its_draft(ledger: Ledger, clock: Clock) -> None:
    ledger.jobs.add("draft", TASK, {}, "1.1")
    late = ledger.jobs.take(["draft"], "slow", 10)
    clock.turn(11)
    held = ledger.jobs.take(["draft"], "fast", 10)
    with pytest.raises(Conflict, match="must be held by slow in attempt 1"):
        ledger.annotations.add_draft(draft("1.1", sop="s1"), b"seg", job=late)
    made = ledger.annotations.add_draft(draft("1.1", sop="s2"), b"seg", job=held)
    assert list(statuses(ledger)) == [made]


def test_a_parent_is_of_the_same_series_and_task(ledger: Ledger) -> None:
    elsewhere = ledger.annotations.add_draft(draft("1.2"))
    for parent in (elsewhere, 4711):
        with pytest.raises(InvalidInput, match=r"the parent of an annotation must be of series 1\.1"):
            ledger.annotations.add_human(human("1.1", parent_id=parent), accept=True)


def test_an_uploaded_label_goes_to_the_archive_through_the_outbox(ledger: Ledger, clock: Clock) -> None:
    made = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True, outbox=b"label")
    assert ledger.annotations.get(made).stored_at is None
    ledger.outbox.done(ledger.outbox.pending()[0].id)
    assert ledger.annotations.get(made).stored_at == clock.now


def test_a_seg_that_came_from_the_archive_is_there(ledger: Ledger, clock: Clock) -> None:
    made = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    assert ledger.annotations.get(made).stored_at == clock.now


def test_a_label_ends_the_lease_and_leaves_the_queue(ledger: Ledger) -> None:
    ledger.queue.rebuild(TASK, "random", [("1.1", 1.0, ""), ("1.2", 0.5, "")])
    ledger.queue.take(TASK, "random", "anna", 600)
    ledger.annotations.add_human(human("1.1"), accept=True)
    assert ledger.queue.holder("1.1", TASK) is None
    assert ledger.queue.take(TASK, "random", "anna", 600).series_uid == "1.2"


def test_an_unusable_seg_is_kept_with_the_reason_and_supersedes_nothing(ledger: Ledger) -> None:
    label = ledger.annotations.add_human(human("1.1", sop="h1"), accept=True)
    bad = ledger.annotations.reject_seg("bad", "1.1", TASK, "other frame of reference", "ben", seg_series_uid="sb")
    assert ledger.annotations.reject_seg("bad", "1.1", TASK, "again") == bad
    row = ledger.annotations.find("bad")
    assert (row.status, row.series_uid, row.author) == ("rejected", "1.1", "ben")
    assert row.reason == "other frame of reference"
    assert ledger.annotations.knows("bad")
    assert ledger.annotations.known_in_series("sb") == 1
    assert labels(ledger) == [label]
    with pytest.raises(Conflict, match="was rejected: other frame of reference; forget"):
        ledger.annotations.add_human(human("1.1", sop="bad"), accept=True)


def test_a_seg_of_an_unknown_series_waits_for_it(ledger: Ledger) -> None:
    early = ledger.annotations.reject_seg("early", "9.9", TASK, "no such series")
    ledger.annotations.reject_seg("lost", None, None, "names no series")
    assert (ledger.annotations.find("lost").series_uid, ledger.annotations.find("lost").task) == ("", "")
    assert [row.id for row in ledger.annotations.unusable("9.9")] == [early]
    assert [row.id for row in ledger.annotations.list(series_uid="9.9")] == [early]
    add_series(ledger, "9.9")
    ledger.annotations.forget_rejection(early)
    assert not ledger.annotations.knows("early")
    made = ledger.annotations.add_human(human("9.9", sop="early"), accept=True)
    assert made > early
    assert labels(ledger) == [made]


def test_unusable_segs_are_found_by_series_and_by_words_of_their_reason(ledger: Ledger) -> None:
    here = ledger.annotations.reject_seg("a", "1.1", TASK, "no task 100%: x")
    other = ledger.annotations.reject_seg("b", None, None, "no task 100")
    label = ledger.annotations.add_human(human("1.1"), accept=True)
    ledger.annotations.reject(label, "chief", "no task 100%")
    assert [row.id for row in ledger.annotations.unusable()] == [here, other]
    assert [row.id for row in ledger.annotations.unusable("1.1")] == [here]
    assert [row.id for row in ledger.annotations.unusable(because="no task 100%")] == [here]


def test_only_unusable_segs_can_be_forgotten(ledger: Ledger) -> None:
    label = ledger.annotations.add_human(human("1.1"), accept=True)
    with pytest.raises(Conflict, match="got accepted"):
        ledger.annotations.forget_rejection(label)
    ledger.annotations.reject(label, "chief", "no")
    with pytest.raises(Conflict, match="got rejected"):
        ledger.annotations.forget_rejection(label)
    with pytest.raises(NotFound):
        ledger.annotations.forget_rejection(4711)


def test_series_that_want_a_draft_are_ready_unlabelled_unleased_and_without_that_version(
    ledger: Ledger, clock: Clock
) -> None:
    add_series(ledger, "1.3", "1.4", "1.5")
    add_series(ledger, "1.6", ready=False)
    ledger.annotations.add_draft(draft("1.1", 1))
    ledger.annotations.add_draft(draft("1.2", 2))
    ledger.annotations.add_human(human("1.3"), accept=False)
    ledger.queue.lease("1.4", TASK, "anna", 60)
    assert ledger.annotations.undrafted(TASK, 2) == ["1.5", "1.1"]
    assert ledger.annotations.undrafted(TASK, 1) == ["1.5", "1.2"]
    assert ledger.annotations.undrafted(TASK, 1, limit=1) == ["1.5"]
    clock.turn(60)
    assert ledger.annotations.undrafted(TASK, 2) == ["1.4", "1.5", "1.1"]


def test_unknown_things_are_not_found(ledger: Ledger) -> None:
    for call in (
        lambda: ledger.annotations.get(9),
        lambda: ledger.annotations.accept(9, "chief"),
        lambda: ledger.annotations.add_draft(draft("9.9")),
        lambda: ledger.annotations.add_human(human("9.9"), accept=True),
    ):
        with pytest.raises(NotFound):
            call()
    assert ledger.annotations.find("none") is None
    assert not ledger.annotations.knows("none")


def test_lists_show_the_newest_first_and_filter(ledger: Ledger) -> None:
    first = ledger.annotations.add_draft(draft("1.1"))
    second = ledger.annotations.add_human(human("1.2"), accept=False)
    assert [row.id for row in ledger.annotations.list()] == [second, first]
    assert [row.id for row in ledger.annotations.list(status="draft")] == [first]
    assert [row.id for row in ledger.annotations.list(task=TASK, series_uid="1.2")] == [second]
    assert ledger.annotations.list(task="other_task") == []
    assert [row.id for row in ledger.annotations.list(limit=1, offset=1)] == [first]
    with pytest.raises(InvalidInput, match="got 'open'"):
        ledger.annotations.list(status="open")
    assert ledger.annotations.counts(TASK) == {
        "draft": 1,
        "submitted": 1,
        "accepted": 0,
        "rejected": 0,
        "superseded": 0,
    }


def test_a_draft_of_ours_needs_its_version() -> None:
    with pytest.raises(InvalidInput, match=r"needs its model version, got None for series 1\.1"):
        NewDraft("1.1", TASK, "transunet")
