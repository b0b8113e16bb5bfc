"""The first free case goes to one annotator, whatever else happens."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa
from ledger_support import TASK, Clock, add_series, draft, free_series, human

from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.ledger import handout, poolreads, queue
from lib.ledger.database import Database
from lib.ledger.ledger import Ledger
from lib.ledger.queuerows import Candidate, LabelledCase, QueueEntry, Tally
from lib.ledger.rows import NewSeries

UIDS = ("1.1", "1.2", "1.3")


@pytest.fixture(autouse=True)
def cases(ledger: Ledger) -> None:
    add_series(ledger, *UIDS)
    ledger.queue.rebuild(TASK, "random", [("1.2", 0.9, "first"), ("1.1", math.nan, "second"), ("1.3", 0.1, "third")])


def take(ledger: Ledger, annotator: str, lease_s: float = 600) -> str | None:
    lease = ledger.queue.take(TASK, "random", annotator, lease_s)
    return lease.series_uid if lease else None


def test_annotators_get_the_ranked_cases_one_each(ledger: Ledger) -> None:
    assert [take(ledger, name) for name in ("anna", "ben", "cleo", "dora")] == ["1.2", "1.1", "1.3", None]


def test_a_lease_tells_all_about_the_case(ledger: Ledger, clock: Clock) -> None:
    lease = ledger.queue.take(TASK, "random", "anna", 600)
    assert (lease.series_uid, lease.study_uid, lease.task, lease.annotator) == ("1.2", "study-1.2", TASK, "anna")
    assert (lease.strategy, lease.score, lease.why) == ("random", 0.9, "first")
    assert lease.acquired_at == clock.now
    assert (lease.expires_at - clock.now).total_seconds() == 600
    assert ledger.queue.holder("1.2", TASK) == lease
    assert ledger.queue.take(TASK, "random", "ben", 600).score is None


def test_who_asks_again_keeps_his_case_and_the_lease_is_renewed(ledger: Ledger, clock: Clock) -> None:
    first = ledger.queue.take(TASK, "random", "anna", 600)
    clock.turn(500)
    again = ledger.queue.take(TASK, "random", "anna", 600)
    assert (again.id, again.series_uid) == (first.id, "1.2")
    assert (again.expires_at - first.expires_at).total_seconds() == 500


def test_a_case_whose_lease_ran_out_goes_to_the_next(ledger: Ledger, clock: Clock) -> None:
    assert take(ledger, "anna", 600) == "1.2"
    clock.turn(599)
    assert take(ledger, "ben") == "1.1"
    clock.turn(1)
    assert ledger.queue.holder("1.2", TASK) is None
    assert take(ledger, "cleo") == "1.2"
    assert take(ledger, "anna") == "1.3"


def test_a_released_case_is_free_at_once(ledger: Ledger) -> None:
    lease = ledger.queue.take(TASK, "random", "anna", 600)
    assert ledger.queue.release(lease)
    assert not ledger.queue.release(lease)
    assert take(ledger, "ben") == "1.2"


def test_a_skipped_case_goes_to_others_and_comes_back_later(ledger: Ledger, clock: Clock) -> None:
    assert take(ledger, "anna") == "1.2"
    ledger.queue.skip("1.2", TASK, "anna", 300)
    assert take(ledger, "anna") == "1.1"
    ledger.queue.skip("1.1", TASK, "anna", 300)
    assert take(ledger, "ben") == "1.2"
    clock.turn(300)
    assert take(ledger, "anna") == "1.1"


def test_skipping_does_not_touch_the_lease_of_another(ledger: Ledger) -> None:
    take(ledger, "ben")
    ledger.queue.skip("1.2", TASK, "anna", 300)
    ledger.queue.skip("1.2", TASK, "anna", 300)
    assert ledger.queue.holder("1.2", TASK).annotator == "ben"
    with pytest.raises(NotFound):
        ledger.queue.skip("9.9", TASK, "anna", 300)


def test_who_skipped_all_gets_none(ledger: Ledger) -> None:
    for uid in UIDS:
        ledger.queue.skip(uid, TASK, "anna", 300)
    assert take(ledger, "anna") is None


def test_labelled_cases_are_not_offered(ledger: Ledger) -> None:
    ledger.annotations.add_human(human("1.2"), accept=True)
    ledger.annotations.add_human(human("1.1"), accept=False)
    assert take(ledger, "anna") == "1.3"


def test_a_draft_does_not_take_a_case_out(ledger: Ledger) -> None:
    ledger.annotations.add_draft(draft("1.2"))
    assert take(ledger, "anna") == "1.2"


def test_a_case_asked_for_by_name_is_held_against_others(ledger: Ledger, clock: Clock) -> None:
    lease = ledger.queue.lease("1.2", TASK, "anna", 600)
    assert (lease.strategy, lease.score, lease.why) == ("", None, "")
    with pytest.raises(Conflict, match="held by anna for phantom_ct until 2026-03-01 08:10:00 UTC"):
        ledger.queue.lease("1.2", TASK, "ben", 600)
    assert take(ledger, "ben") == "1.1"
    clock.turn(10)
    assert ledger.queue.lease("1.2", TASK, "anna", 600).id == lease.id
    clock.turn(600)
    assert ledger.queue.lease("1.2", TASK, "ben", 600).annotator == "ben"


def test_a_labelled_case_may_be_opened_again_by_name(ledger: Ledger) -> None:
    ledger.annotations.add_human(human("1.2"), accept=True)
    assert ledger.queue.lease("1.2", TASK, "anna", 600).series_uid == "1.2"


def test_a_labelled_case_that_is_held_to_correct_it_is_no_next_case(ledger: Ledger) -> None:
    ledger.annotations.add_human(human("1.2"), accept=True)
    held = ledger.queue.lease("1.2", TASK, "anna", 600)
    assert take(ledger, "anna") == "1.1"
    holder = ledger.queue.holder("1.2", TASK)
    assert holder is not None
    assert holder.id == held.id  # it stays his


def test_where_all_near_rows_are_busy_the_first_is_waited_for(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    if url.startswith("sqlite"):
        pytest.skip("SQLite has one writer at a time: nothing is passed over")
    monkeypatch.setattr(handout, "NEAR", 2)
    other = Database(url)
    first = sa.select(queue.S.c.series_uid).where(queue.S.c.series_uid.in_(["1.2", "1.1"]))
    with ThreadPoolExecutor(1) as pool:
        with other.write() as connection:
            connection.execute(first.with_for_update(read=True)).all()  # as a rebuild does
            taken = pool.submit(take, ledger, "anna")
            with pytest.raises(TimeoutError):
                taken.result(timeout=0.5)
        assert taken.result(timeout=30) == "1.2"
    with other.write() as connection:
        connection.execute(first.where(queue.S.c.series_uid == "1.1").with_for_update(read=True)).all()
        assert take(ledger, "ben") == "1.3"  # one busy row is passed over
    other.close()


def test_only_ready_series_are_leased(ledger: Ledger) -> None:
    add_series(ledger, "1.9", ready=False)
    with pytest.raises(Conflict, match="must be ready to be leased, got new"):
        ledger.queue.lease("1.9", TASK, "anna", 600)
    with pytest.raises(NotFound):
        ledger.queue.lease("9.9", TASK, "anna", 600)


@pytest.mark.parametrize(("annotator", "lease_s"), [("", 60), ("anna", 0), ("anna", -1), ("anna", math.nan)])
def test_a_lease_needs_a_name_and_a_time(ledger: Ledger, annotator: str, lease_s: float) -> None:
    with pytest.raises(InvalidInput, match="a lease needs an annotator and a positive time"):
        ledger.queue.take(TASK, "random", annotator, lease_s)


def test_tasks_and_strategies_have_queues_of_their_own(ledger: Ledger) -> None:
    ledger.queue.rebuild(TASK, "entropy", [("1.3", 2.0, ""), ("1.2", 1.0, "")])
    ledger.queue.rebuild("other", "random", [("1.2", 1.0, "")])
    assert ledger.queue.take(TASK, "entropy", "anna", 600).series_uid == "1.3"
    assert free_series(ledger, "random") == ["1.2", "1.1"]
    assert ledger.queue.take("other", "random", "ben", 600).series_uid == "1.2"
    assert take(ledger, "cleo") == "1.2"
    assert ledger.queue.take(TASK, "unknown", "dora", 600) is None
    assert {lease.annotator for lease in ledger.queue.leases(TASK)} == {"anna", "cleo"}
    assert len(ledger.queue.leases()) == 3


def test_a_rebuild_replaces_the_order_and_knows_who_holds_what(ledger: Ledger, clock: Clock) -> None:
    take(ledger, "anna")
    ledger.annotations.add_human(human("1.1"), accept=True)
    clock.turn(1)
    assert ledger.queue.rebuild(TASK, "random", [("1.3", 3.0, "c"), ("1.2", 2.0, "b"), ("1.1", 1.0, "a")])
    assert ledger.queue.head(TASK, "random") == [
        QueueEntry(0, "1.3", 3.0, "c", True, "random"),
        QueueEntry(1, "1.2", 2.0, "b", False, "random"),
        QueueEntry(2, "1.1", 1.0, "a", False, "random"),
    ]
    assert ledger.queue.built_at(TASK, "random") == clock.now
    assert ledger.queue.built_at(TASK, "unknown") is None


def test_an_old_list_is_swept_away(ledger: Ledger, url: str) -> None:
    ledger.queue.rebuild(TASK, "random", [("1.1", 1.0, "")])
    ledger.queue.rebuild(TASK, "random", [])
    database = Database(url)
    with database.read() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM queue_rows")).scalar() == 0
        assert connection.execute(sa.text("SELECT count(*) FROM queues")).scalar() == 1
    database.close()
    assert take(ledger, "anna") is None


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_an_old_list_goes_in_parts_whatever_their_size(
    ledger: Ledger, url: str, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(queue, "CHUNK", chunk)
    ledger.queue.rebuild(TASK, "other", [("1.1", 1.0, "")])
    ledger.queue.rebuild(TASK, "random", [("1.3", 1.0, "")])
    database = Database(url)
    with database.read() as connection:
        left = connection.execute(sa.select(queue.Q.c.series_uid).order_by(queue.Q.c.series_uid)).scalars().all()
    database.close()
    assert left == ["1.1", "1.3"]


def test_a_rebuild_in_many_parts_keeps_order_and_state(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "CHUNK", 2)
    take(ledger, "anna")
    add_series(ledger, "1.4", "1.5")
    order = ["1.5", "1.1", "1.2", "1.4", "1.3"]
    assert ledger.queue.rebuild(TASK, "random", [(uid, 0.0, "") for uid in order])
    assert [entry.series_uid for entry in ledger.queue.head(TASK, "random")] == order
    assert free_series(ledger) == ["1.5", "1.1", "1.4", "1.3"]
    assert [entry.rank for entry in ledger.queue.head(TASK, "random", limit=3)] == [0, 1, 2]


def test_a_rebuild_that_dies_halfway_leaves_the_old_queue_in_force(ledger: Ledger) -> None:
    with pytest.raises(Conflict, match="rules forbid"):
        ledger.queue.rebuild(TASK, "random", [("1.1", 1.0, ""), ("9.9", 0.5, "")])
    assert [entry.series_uid for entry in ledger.queue.head(TASK, "random")] == ["1.2", "1.1", "1.3"]


def test_a_slow_rebuild_does_not_replace_a_newer_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = queue._fill

    def overtaken(*arguments: object) -> bool:
        monkeypatch.setattr(queue, "_fill", fill)
        assert ledger.queue.rebuild(TASK, "random", [("1.3", 1.0, "newer")])
        return fill(*arguments)  # type: ignore[arg-type]

    order = [("1.1", 1.0, "older"), ("1.2", 0.5, "older")]
    if ledger._database.is_sqlite:  # there a second writer would wait for the first one for ever
        with ledger._database.write() as connection:
            older = queue.insert_id(
                connection,
                queue.G,
                {"task": TASK, "strategy": "random", "is_active": False, "built_at": ledger._clock()},
            )
        assert ledger.queue.rebuild(TASK, "random", [("1.3", 1.0, "newer")])
        with ledger._database.write() as connection:
            assert not queue._fill(connection, older, TASK, 0, [(*place, "random") for place in order])
            assert not queue._switch(connection, older, TASK, "random")
    else:
        monkeypatch.setattr(queue, "_fill", overtaken)
        assert not ledger.queue.rebuild(TASK, "random", order)
    assert [entry.why for entry in ledger.queue.head(TASK, "random")] == ["newer"]


def test_a_queue_that_says_free_by_mistake_is_corrected_not_believed(ledger: Ledger, url: str) -> None:
    ledger.annotations.add_human(human("1.2"), accept=True)
    database = Database(url)
    with database.write() as connection:
        connection.execute(sa.update(queue.Q).values(is_free=True))
    database.close()
    assert take(ledger, "anna") == "1.1"
    assert free_series(ledger) == ["1.3"]


def test_candidates_are_ready_and_unlabelled_with_what_our_draft_says(ledger: Ledger) -> None:
    add_series(ledger, "1.4", split="calibration")
    add_series(ledger, "1.5", ready=False)
    ledger.annotations.add_draft(draft("1.1", 1), scores={"liver": 0.5})
    values = {"bald": {"liver": 0.125}, "volume_ml": {"liver": 30.0, "spleen": 0.0}, "components": {"liver": 2}}
    scores = {"liver": 0.25, "spleen": 0.75}
    ledger.annotations.add_draft(draft("1.1", 2), scores=scores, values=values, embedding=np.array([1.0, 2.0]))
    ledger.annotations.add_human(human("1.2"), accept=True)
    ledger.annotations.add_draft(draft("1.3", 2), scores={"liver": math.nan})
    foreign = draft("1.4", None, "f", origin="foreign_model")
    ledger.annotations.add_draft(foreign)
    first, second, third = ledger.queue.candidates(TASK, compared=2)
    assert (first.series_uid, first.split, first.model_version, first.patient) == ("1.1", "pool", 2, "patient-1.1")
    liver, spleen = first.scores["liver"], first.scores["spleen"]
    assert (liver.entropy, liver.bald, liver.volume_ml) == (0.25, 0.125, 30.0)
    assert (spleen.entropy, spleen.volume_ml) == (0.75, 0.0)
    assert np.isnan([liver.margin, liver.disagreement, liver.largest_probability, spleen.bald]).all()
    np.testing.assert_array_equal(np.frombuffer(first.vector, "<f4"), [1.0, 2.0])
    assert (second.series_uid, second.model_version, second.vector) == ("1.3", 2, b"")
    assert math.isnan(second.scores["liver"].entropy)
    assert third == Candidate("1.4", "calibration", {}, None, "patient-1.4")
    assert ledger.queue.candidates(TASK)[0].vector == b""


def test_the_ledger_keeps_no_value_that_it_has_no_column_for(ledger: Ledger) -> None:
    with pytest.raises(InvalidInput, match=r"bald, margin, .*, got sharpness"):
        ledger.annotations.add_draft(draft("1.1", 1), values={"sharpness": {"liver": 1.0}})
    assert ledger.annotations.latest_draft("1.1", TASK) is None


def test_candidates_tell_where_they_come_from(ledger: Ledger) -> None:
    new = NewSeries("2.1", "study", "p", "pool", "CT", "Abdomen pv", 3, institution="north", manufacturer="acme")
    ledger.series.add(new)
    ledger.series.set_ready("2.1", (), "frame", None)
    found = next(c for c in ledger.queue.candidates(TASK) if c.series_uid == "2.1")
    assert (found.patient, found.site, found.scanner, found.protocol) == ("p", "north", "acme", "Abdomen pv")


def test_labelled_cases_have_what_the_person_drew_and_the_newest_embedding_of_ours(ledger: Ledger) -> None:
    add_series(ledger, "1.4", split="calibration")
    for version in (1, 2):
        ledger.annotations.add_draft(draft("1.2", version), embedding=np.array([version, 0.0]))
    ledger.annotations.add_draft(draft("1.2", 3))  # without an embedding
    for uid in ("1.2", "1.4"):
        ledger.annotations.add_human(human(uid, voxels={"liver": 9, "spleen": 0}), accept=True)
    ledger.annotations.add_human(human("1.1", voxels={"spleen": 4}), accept=False)
    ledger.annotations.add_human(human("1.3", held_reason="it is empty"), accept=True)
    first, second = ledger.queue.labelled(TASK, "pool", compared=2)
    assert first == LabelledCase("1.1", frozenset({"spleen"}), b"", "patient-1.1", "", "", "")
    assert (second.series_uid, second.labels) == ("1.2", {"liver"})
    np.testing.assert_array_equal(np.frombuffer(second.vector, "<f4"), [2.0, 0.0])
    assert ledger.queue.labelled("other", "pool") == []


def test_what_is_known_of_the_cases_costs_as_many_queries_for_many_as_for_one(ledger: Ledger) -> None:
    def queries() -> int:
        seen: list[str] = []
        engine = ledger._database.engine
        with ledger._database.read() as connection:
            listen = lambda *args: seen.append(args[2])  # noqa: E731
            sa.event.listen(engine, "before_cursor_execute", listen)
            poolreads.candidates(connection, TASK, 1, 1)
            poolreads.labelled(connection, TASK, "pool", 1)
            sa.event.remove(engine, "before_cursor_execute", listen)
        return len(seen)

    before = queries()
    add_series(ledger, *(f"3.{number}" for number in range(12)))
    for number in range(8):
        ledger.annotations.add_draft(draft(f"3.{number}"), scores={"liver": 0.5}, embedding=np.ones(2))
    for number in range(4):
        ledger.annotations.add_human(human(f"3.{number}"), accept=True)
    assert queries() == before == 5


def test_the_free_places_of_a_queue_alone(ledger: Ledger) -> None:
    take(ledger, "anna")
    assert [entry.series_uid for entry in ledger.queue.head(TASK, "random", 1, only_free=True)] == ["1.1"]
    assert [entry.series_uid for entry in ledger.queue.head(TASK, "random", 9, only_free=True)] == ["1.1", "1.3"]


def test_strategies_that_were_asked_for_lately(ledger: Ledger, clock: Clock) -> None:
    start = clock.now
    take(ledger, "anna")
    ledger.queue.lease("1.3", TASK, "ben", 60)  # by name: no strategy
    clock.turn(60)
    assert ledger.queue.asked_for(TASK, start) == {"random"}
    assert ledger.queue.asked_for(TASK, clock.now) == frozenset()
    assert ledger.queue.asked_for("other", start) == frozenset()


def test_a_tally_says_what_keeps_cases_from_being_handed_out(ledger: Ledger, clock: Clock) -> None:
    add_series(ledger, "1.4", ready=False)
    ledger.annotations.add_human(human("1.1"), accept=False)
    take(ledger, "ben")
    ledger.queue.skip("1.3", TASK, "anna", 300)
    assert ledger.queue.tally(TASK, "anna") == Tally(ready=3, labelled=1, held=1, skipped=1)
    assert ledger.queue.tally(TASK, "ben") == Tally(ready=3, labelled=1, held=1, skipped=0)
    clock.turn(600)
    assert ledger.queue.tally(TASK, "anna") == Tally(ready=3, labelled=1, held=0, skipped=0)
