"""What model versions said of series, with drafts and without."""

import math

import numpy as np
import pytest
from ledger_support import START, TASK, Clock, add_series, draft, human, plans

from lib.core.errors import Conflict
from lib.ledger.ledger import Ledger
from lib.ledger.rows import JobRow, NewSeries
from lib.ledger.scores import Said
from lib.ledger.scorings import Covered

UNSURE = Said({"liver": 0.5}, {"bald": {"liver": 0.25}, "volume_ml": {"liver": 30.0}}, np.array([1.0, 2.0]))


@pytest.fixture(autouse=True)
def _filled(ledger: Ledger, clock: Clock) -> None:
    """Four series, the later ones arrived later."""
    for number in range(1, 5):
        add_series(ledger, f"1.{number}")
        clock.turn(60)


def wanted(ledger: Ledger, version: int, **more: object) -> list[str]:
    return ledger.scorings.wanted(TASK, version, **more)  # type: ignore[arg-type]


def test_what_a_version_said_without_a_draft_is_what_a_strategy_sees(ledger: Ledger, clock: Clock) -> None:
    assert ledger.scorings.add("1.1", TASK, 3, UNSURE)
    found = ledger.queue.candidates(TASK, compared=3)[0]
    assert (found.model_version, found.scored_at) == (3, clock.now)
    assert found.scores["liver"][:2] == (0.5, 0.25)
    assert (found.scores["liver"].volume_ml, math.isnan(found.scores["liver"].margin)) == (30.0, True)
    assert np.frombuffer(found.vector, "<f4").tolist() == [1.0, 2.0]
    assert ledger.annotations.list() == []
    assert ledger.queue.candidates(TASK, compared=2)[0].vector == b""


def test_the_champion_s_scores_count_and_else_those_that_were_made_last(ledger: Ledger, clock: Clock) -> None:
    for version in (1, 2):
        ledger.scorings.add("1.1", TASK, version, Said({"liver": version / 10}))
        clock.turn(60)
    ledger.scorings.add("1.1", TASK, 3, Said(error="it has no pixels"))

    def counted(champion: int | None) -> tuple[object, ...]:
        case = ledger.queue.candidates(TASK, champion)[0]
        return case.model_version, case.scores["liver"].entropy, ledger.scorings.newest("1.1", TASK, champion)

    first, second = START.replace(minute=4), START.replace(minute=5)
    assert counted(1) == (1, 0.1, (1, first))
    assert [counted(champion) for champion in (2, 3, None)] == [(2, 0.2, (2, second))] * 3
    assert ledger.scorings.newest("1.2", TASK, 1) is None


def test_series_without_scores_come_first_and_in_each_part_the_newest_arrival(ledger: Ledger) -> None:
    assert wanted(ledger, 1) == ["1.4", "1.3", "1.2", "1.1"]
    for uid in ("1.1", "1.4"):
        ledger.scorings.add(uid, TASK, 1, UNSURE)
    assert wanted(ledger, 2) == ["1.3", "1.2", "1.4", "1.1"]
    assert wanted(ledger, 2, limit=1) == ["1.3"]
    assert wanted(ledger, 2, takes=lambda modality, description: (modality, description) != ("CT", "")) == []
    assert wanted(ledger, 1) == ["1.3", "1.2"]


def test_labelled_series_are_scored_too_and_those_with_a_draft_or_a_job_for_one_are_not(ledger: Ledger) -> None:
    ledger.annotations.add_human(human("1.1"), accept=True)
    ledger.annotations.add_draft(draft("1.2", 1), scores={"liver": 0.5})
    ledger.jobs.add("draft", TASK, {}, f"draft:{TASK}:1.3")
    ledger.series.refuse("1.4", "it has one slice")
    assert wanted(ledger, 1, left_to=("draft", f"draft:{TASK}:")) == ["1.1"]
    assert wanted(ledger, 1) == ["1.3", "1.1"]


def test_a_draft_replaces_what_its_version_said_before_and_scores_are_not_kept_twice(ledger: Ledger) -> None:
    ledger.scorings.add("1.1", TASK, 1, Said({"liver": 0.5, "spleen": 0.5}))
    made = ledger.annotations.add_draft(draft("1.1", 1), scores={"liver": 0.75}, embedding=np.array([3.0]))
    assert not ledger.scorings.add("1.1", TASK, 1, UNSURE)
    (case, *_) = ledger.queue.candidates(TASK, compared=1)
    assert {label: values.entropy for label, values in case.scores.items()} == {"liver": 0.75}
    assert ledger.annotations.scores(made) == {"liver": 0.75}
    assert ledger.annotations.embedding(made).tolist() == [3.0]


def test_a_series_that_cannot_be_scored_is_left_alone_until_somebody_asks(ledger: Ledger) -> None:
    ledger.scorings.add("1.4", TASK, 1, Said(error="no pixels"))
    assert ledger.scorings.versions("1.4", TASK) == {1: "no pixels"}
    assert "1.4" not in wanted(ledger, 1)
    assert wanted(ledger, 2)[0] == "1.4"  # still without scores
    assert ledger.scorings.forget_failures(TASK) == 1
    assert wanted(ledger, 1)[0] == "1.4"
    ledger.scorings.add("1.4", TASK, 1, Said(error="no pixels"))
    assert ledger.scorings.add("1.4", TASK, 1, UNSURE)
    assert ledger.scorings.versions("1.4", TASK) == {1: ""}


def test_other_images_have_no_scores(ledger: Ledger) -> None:
    ledger.scorings.add("1.1", TASK, 1, UNSURE)
    row = ledger.series.get("1.1")
    ledger.series.add(NewSeries("1.1", row.study_uid, row.patient, row.split, "CT", instances=4))
    assert ledger.scorings.versions("1.1", TASK) == {}


def test_how_much_a_version_has_looked_at(ledger: Ledger) -> None:
    ledger.scorings.add("1.1", TASK, 1, UNSURE)
    ledger.scorings.add("1.2", TASK, 1, Said(error="no pixels"))
    ledger.scorings.add("1.3", TASK, 2, Said({"liver": 0.5}))
    assert ledger.scorings.covered(TASK, 1) == [Covered("CT", "", 4, 1, 1)]
    assert ledger.scorings.embedded(TASK, "pool") == {1: 1}
    assert ledger.scorings.embedded(TASK, "calibration") == {}


def test_a_worker_that_lost_its_job_is_not_heard(ledger: Ledger, clock: Clock) -> None:
    ledger.jobs.add("score", TASK, {}, "score")

    def take(worker: str) -> JobRow:
        job = ledger.jobs.take(["score"], worker, 60)
        assert job is not None
        return job

    late = take("a")
    clock.turn(61)
    new = take("b")
    with pytest.raises(Conflict, match="must be held by a in attempt 1"):
        ledger.scorings.add("1.1", TASK, 1, UNSURE, late)
    assert ledger.scorings.add("1.1", TASK, 1, UNSURE, new)


def test_of_a_kind_the_jobs_of_the_smaller_priority_are_taken_first(ledger: Ledger) -> None:
    ledger.jobs.add_many("draft", TASK, [({}, "old 1"), ({}, "old 2")], priority=1)
    ledger.jobs.add("draft", TASK, {}, "new")
    assert ledger.jobs.is_due(["draft"])
    assert [job.key for _ in range(3) if (job := ledger.jobs.take(["draft"], "w", 60))] == ["new", "old 1", "old 2"]
    assert not ledger.jobs.is_due(["draft", "score"])


def test_the_job_of_a_series_is_found_by_its_key_and_not_among_all_that_wait(sqlite_ledger: Ledger) -> None:
    with plans(sqlite_ledger) as found:
        assert wanted(sqlite_ledger, 1, left_to=("draft", f"draft:{TASK}:")) == []
    (search,) = [step for step in found if "jobs" in step]
    assert search.endswith("USING INDEX ix_jobs_one_open (kind=? AND task=? AND key=?)")


def test_what_was_said_of_other_images_than_a_series_has_by_now_is_not_kept(ledger: Ledger) -> None:
    ledger.series.add(NewSeries("1.1", "study-1.1", "patient-1.1", "pool", "CT", instances=5))
    ledger.series.set_ready("1.1", (), "frame")
    assert not ledger.scorings.add("1.1", TASK, 1, UNSURE, instances=3)
    assert not ledger.scorings.add("1.1", TASK, 1, Said(error="a gap"), instances=3)
    with pytest.raises(Conflict, match=r"series 1\.1 must have 3 instances as drafted"):
        ledger.annotations.add_draft(draft("1.1"), scores={"liver": 0.5}, instances=3)
    assert ledger.scorings.versions("1.1", TASK) == {}
    assert ledger.scorings.add("1.1", TASK, 1, UNSURE, instances=5)
    assert ledger.annotations.add_draft(draft("1.1", 2), instances=5)


def test_what_could_not_be_scored_comes_again_behind_all_others_after_a_rest_that_doubles(
    ledger: Ledger, clock: Clock
) -> None:
    for minutes in (1, 2, 4):
        ledger.scorings.add("1.4", TASK, 1, Said(error="odd"))
        clock.turn(60 * minutes - 1)
        assert wanted(ledger, 1) == ["1.3", "1.2", "1.1"]
        clock.turn(1)
        assert wanted(ledger, 1) == ["1.3", "1.2", "1.1", "1.4"]
    for _ in range(20):
        ledger.scorings.add("1.4", TASK, 1, Said(error="odd"))
    clock.turn(24 * 3600)
    assert wanted(ledger, 1, among=["1.4", "1.2"]) == ["1.2", "1.4"]
    assert ledger.scorings.covered(TASK, 1) == [Covered("CT", "", 4, 0, 1)]
    assert ledger.scorings.add("1.4", TASK, 1, UNSURE)
    assert wanted(ledger, 1) == ["1.3", "1.2", "1.1"]
