"""A job is done by one worker, or again by another when the first falls silent."""

import threading

import pytest
import sqlalchemy as sa
from ledger_support import TASK, Clock, plans

from lib.core.errors import Conflict, InvalidInput, NotFound
from lib.ledger import jobs as module
from lib.ledger.ledger import Ledger
from lib.ledger.rows import JobRow


def add(ledger: Ledger, key: str = "1.1", kind: str = "draft", **more: int) -> int:
    return ledger.jobs.add(kind, TASK, {"series_uid": key}, key, **more)


def test_an_open_job_of_the_same_key_is_not_added_twice(ledger: Ledger) -> None:
    first = add(ledger)
    assert add(ledger) == first
    job = ledger.jobs.take(["draft"], "w1", 60)
    assert add(ledger) == first
    ledger.jobs.finish(job)
    assert add(ledger) > first
    assert ledger.jobs.counts() == {"queued": 1, "running": 0, "done": 1, "failed": 0, "cancelled": 0}


def test_kind_and_task_are_part_of_the_key(ledger: Ledger) -> None:
    ids = {add(ledger), add(ledger, kind="check"), ledger.jobs.add("draft", "other", {}, "1.1")}
    assert len(ids) == 3


def test_many_jobs_are_added_at_once_without_those_that_are_open(ledger: Ledger) -> None:
    add(ledger, "7")
    payloads = [({"series_uid": str(n)}, str(n)) for n in range(1203)]
    assert ledger.jobs.add_many("draft", TASK, payloads) == 1202
    assert ledger.jobs.add_many("draft", TASK, payloads) == 0
    assert ledger.jobs.add_many("draft", TASK, []) == 0
    assert ledger.jobs.counts()["queued"] == 1203


def test_jobs_are_taken_in_order_by_preferred_kind(ledger: Ledger) -> None:
    first, second = add(ledger, "1"), add(ledger, "2")
    urgent = add(ledger, "3", kind="check")
    taken = [ledger.jobs.take(["check", "draft"], "w1", 60) for _ in range(4)]
    assert [job.id if job else None for job in taken] == [urgent, first, second, None]
    assert ledger.jobs.take([], "w1", 60) is None


def test_a_taken_job_tells_all_about_itself(ledger: Ledger, clock: Clock) -> None:
    made = add(ledger)
    created = clock.now
    clock.turn(3)
    job = ledger.jobs.take(["draft"], "w1", 60)
    assert (job.id, job.kind, job.task, job.payload, job.key) == (made, "draft", TASK, {"series_uid": "1.1"}, "1.1")
    assert (job.state, job.worker, job.attempts, job.max_attempts) == ("running", "w1", 1, 3)
    assert (job.created_at, job.started_at, job.heartbeat_at) == (created, clock.now, clock.now)
    assert ledger.jobs.get(made) == job


def test_a_beating_worker_keeps_its_job_and_tells_how_far_it_is(ledger: Ledger, clock: Clock) -> None:
    made = add(ledger)
    held = ledger.jobs.take(["draft"], "w1", 60)
    for share in (0.25, 0.5, 7.0):
        clock.turn(50)
        assert ledger.jobs.beat(held, share, f"at {share}")
        assert ledger.jobs.take(["draft"], "w2", 60) is None
    job = ledger.jobs.get(made)
    assert (job.progress, job.message, job.heartbeat_at) == (1.0, "at 7.0", clock.now)
    assert ledger.jobs.beat(held)
    assert ledger.jobs.get(made).message == "at 7.0"


def test_a_silent_workers_job_is_taken_over_and_what_it_says_late_is_ignored(ledger: Ledger, clock: Clock) -> None:
    made = add(ledger)
    late = ledger.jobs.take(["draft"], "w1", 60)
    clock.turn(59)
    assert ledger.jobs.take(["draft"], "w2", 60) is None
    clock.turn(1)
    job = ledger.jobs.take(["draft"], "w2", 60)
    assert (job.id, job.worker, job.attempts) == (made, "w2", 2)
    assert not ledger.jobs.beat(late, 0.9)
    assert not ledger.jobs.finish(late)
    assert not ledger.jobs.fail(late, "late", retry=True)
    assert not ledger.jobs.give_back(late, "late")
    assert ledger.jobs.get(made) == job
    assert ledger.jobs.finish(job, {"annotation": 5})
    done = ledger.jobs.get(made)
    assert (done.state, done.result, done.progress, done.finished_at) == ("done", {"annotation": 5}, 1.0, clock.now)


def test_a_job_that_kills_its_workers_fails_after_its_last_attempt(ledger: Ledger, clock: Clock) -> None:
    made = add(ledger, max_attempts=2)
    for worker in ("w1", "w2"):
        assert ledger.jobs.take(["draft"], worker, 60).id == made
        clock.turn(61)
    assert ledger.jobs.take(["draft"], "w3", 60) is None
    job = ledger.jobs.get(made)
    assert (job.state, job.error) == ("failed", "worker w2 fell silent in attempt 2, the last one")


def test_a_failed_job_is_tried_again_after_growing_pauses(ledger: Ledger, clock: Clock) -> None:
    made = add(ledger)
    pauses = []
    for _ in range(2):
        taken = ledger.jobs.take(["draft"], "w1", 60)
        assert ledger.jobs.fail(taken, "by chance", retry=True)
        job = ledger.jobs.get(made)
        assert (job.state, job.error, job.worker) == ("queued", "by chance", None)
        pauses.append((job.not_before - clock.now).total_seconds())
        assert ledger.jobs.take(["draft"], "w1", 60) is None
        clock.turn(pauses[-1])
    assert pauses == [5, 10]
    assert ledger.jobs.fail(ledger.jobs.take(["draft"], "w1", 60), "by chance", retry=True)
    assert ledger.jobs.get(made).state == "failed"


def test_an_older_attempt_of_the_same_worker_is_not_heard(ledger: Ledger, clock: Clock) -> None:
    made = add(ledger)
    older = ledger.jobs.take(["draft"], "host:1", 60)
    clock.turn(61)
    newer = ledger.jobs.take(["draft"], "host:1", 60)  # a container that was started again has the same name
    assert not ledger.jobs.beat(older)
    assert not ledger.jobs.finish(older, {"skipped": "taken over"})
    assert not ledger.jobs.fail(older, "late", retry=False)
    assert not ledger.jobs.give_back(older, "late")
    assert ledger.jobs.get(made) == newer
    assert ledger.jobs.finish(newer)


def test_a_job_given_back_waits_again_and_keeps_all_its_attempts(ledger: Ledger, clock: Clock) -> None:
    made = add(ledger, max_attempts=1)
    for _ in range(3):
        held = ledger.jobs.take(["draft"], "w1", 60)
        assert ledger.jobs.give_back(held, "archive away", pause_s=30)
        job = ledger.jobs.get(made)
        assert (job.state, job.attempts, job.error, job.worker) == ("queued", 0, "archive away", None)
        clock.turn(29)
        assert ledger.jobs.take(["draft"], "w1", 60) is None
        clock.turn(1)
    assert ledger.jobs.give_back(ledger.jobs.take(["draft"], "w1", 60), "the worker stopped")
    last = ledger.jobs.take(["draft"], "w2", 60)
    assert (last.id, last.attempts) == (made, 1)
    assert ledger.jobs.finish(last)
    assert ledger.jobs.get(made).error == ""


def test_the_last_failure_of_a_key_counts_until_a_newer_job_of_it(ledger: Ledger) -> None:
    def end(key: str, **how: bool) -> int:
        made = add(ledger, key)
        job = ledger.jobs.take(["draft"], "w1", 60)
        ledger.jobs.fail(job, "no volume", **how) if how else ledger.jobs.finish(job)
        return made

    end("1", retry=False)
    again = end("1", retry=False)
    end("2", retry=False)
    end("2")
    end("3")
    ledger.jobs.add("draft", "other", {}, "1")
    assert [job.id for job in ledger.jobs.last_failed("draft", TASK)] == [again]
    add(ledger, "1")
    assert ledger.jobs.last_failed("draft", TASK) == []


def test_a_hopeless_job_fails_at_once(ledger: Ledger, clock: Clock) -> None:
    made = add(ledger)
    held = ledger.jobs.take(["draft"], "w1", 60)
    assert ledger.jobs.fail(held, "no such task", retry=False)
    job = ledger.jobs.get(made)
    assert (job.state, job.error, job.finished_at) == ("failed", "no such task", clock.now)
    assert not ledger.jobs.fail(held, "no such task", retry=False)


def test_a_cancelled_job_stops_its_worker_and_is_not_taken(ledger: Ledger) -> None:
    running, waiting = add(ledger, "1"), add(ledger, "2")
    held = ledger.jobs.take(["draft"], "w1", 60)
    ledger.jobs.cancel(running)
    ledger.jobs.cancel(waiting)
    assert not ledger.jobs.beat(held)
    assert ledger.jobs.take(["draft"], "w1", 60) is None
    with pytest.raises(Conflict, match="must be queued or running to be cancelled, got cancelled"):
        ledger.jobs.cancel(running)
    with pytest.raises(NotFound, match="no job 99"):
        ledger.jobs.cancel(99)


def add_trainings(ledger: Ledger, *tasks: str, **more: int) -> list[int]:
    return [ledger.jobs.add("retrain", task, {}, f"retrain:{task}", **more) for task in tasks]


def test_of_a_kind_that_is_done_alone_one_job_is_held_at_a_time_whatever_its_task(ledger: Ledger, clock: Clock) -> None:
    first, second = add_trainings(ledger, "liver", "spleen")
    check = add(ledger, kind="check")
    held = ledger.jobs.take(["retrain"], "w1", 60)
    assert held.id == first
    assert ledger.jobs.take(["retrain", "check"], "w2", 60).id == check  # other kinds go on
    for _ in range(3):
        clock.turn(59)
        assert ledger.jobs.take(["retrain"], "w2", 60) is None
        assert ledger.jobs.beat(held)
    assert ledger.jobs.finish(held)
    assert ledger.jobs.take(["retrain"], "w2", 60).id == second


@pytest.mark.parametrize("end", ["fail", "give_back", "cancel"])
def test_the_next_job_of_such_a_kind_is_taken_however_the_one_before_ended(ledger: Ledger, end: str) -> None:
    first, second = add_trainings(ledger, "liver", "spleen")
    held = ledger.jobs.take(["retrain"], "w1", 60)
    if end == "cancel":
        ledger.jobs.cancel(first)
    elif end == "fail":
        ledger.jobs.fail(held, "by chance", retry=True)
    else:
        ledger.jobs.give_back(held, "the archive is away", pause_s=60)
    assert ledger.jobs.take(["retrain"], "w2", 60).id == second


def test_a_dead_workers_job_of_such_a_kind_comes_first_and_keeps_nobody_waiting(ledger: Ledger, clock: Clock) -> None:
    first, second = add_trainings(ledger, "liver", "spleen", max_attempts=2)
    for attempt in (1, 2):
        held = ledger.jobs.take(["retrain"], "w1", 60)
        assert (held.id, held.attempts) == (first, attempt)
        clock.turn(60)
    assert ledger.jobs.take(["retrain"], "w2", 60).id == second
    assert ledger.jobs.get(first).state == "failed"


def test_two_workers_that_take_a_job_of_such_a_kind_at_the_same_moment_do_not_both_get_one(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_trainings(ledger, "liver", "spleen")
    reached, go_on, got = threading.Event(), threading.Event(), list[JobRow | None]()
    read = module.job_row

    def stall(connection: sa.Connection, job_id: int) -> JobRow:
        reached.set()
        assert go_on.wait(20)
        return read(connection, job_id)

    monkeypatch.setattr(module, "job_row", stall)  # the last step of a take, in its transaction
    workers = [threading.Thread(target=lambda: got.append(ledger.jobs.take(["retrain"], "w", 60))) for _ in range(2)]
    workers[0].start()
    assert reached.wait(20)
    workers[1].start()
    workers[1].join(0.5)
    go_on.set()
    for worker in workers:
        worker.join(20)
    assert [job.task for job in got if job is not None] == ["liver"]
    assert len(got) == 2


def test_jobs_are_listed_the_newest_first_and_filtered(ledger: Ledger) -> None:
    first, second = add(ledger, "1"), add(ledger, "2", kind="check")
    ledger.jobs.take(["check"], "w1", 60)
    assert [job.id for job in ledger.jobs.list()] == [second, first]
    assert [job.id for job in ledger.jobs.list(kind="draft")] == [first]
    assert [job.id for job in ledger.jobs.list(state="running", task=TASK)] == [second]
    assert len(ledger.jobs.list(limit=1)) == 1
    with pytest.raises(InvalidInput, match="state must be one of"):
        ledger.jobs.list(state="open")
    with pytest.raises(NotFound, match="no job 99"):
        ledger.jobs.get(99)


def test_a_job_without_key_or_attempts_is_refused(ledger: Ledger) -> None:
    for kind, key, attempts in (("", "k", 1), ("draft", "", 1), ("draft", "k", 0)):
        with pytest.raises(InvalidInput, match="a job needs kind, key and at least 1 attempt"):
            ledger.jobs.add(kind, TASK, {}, key, attempts)
    with pytest.raises(InvalidInput, match="taken by a named worker"):
        ledger.jobs.take(["draft"], "", 60)


def taken(ledger: Ledger, count: int, kind: str = "draft") -> list[str]:
    """Keys of the next jobs."""
    return [job.key for _ in range(count) if (job := ledger.jobs.take([kind], "w1", 60))]


def test_jobs_that_are_brought_forward_last_are_taken_first_however_few_they_are(ledger: Ledger) -> None:
    ledger.jobs.add_many("draft", TASK, [({}, f"{n:04}") for n in range(1000)])
    night = [f"{n:04}" for n in reversed(range(100, 700))]
    assert ledger.jobs.bring_forward("draft", TASK, night) == 600
    assert ledger.jobs.bring_forward("draft", TASK, ["0950", "0150", "0050", "none"]) == 3
    add(ledger, "late")
    assert taken(ledger, 6) == ["0950", "0150", "0050", "0699", "0698", "0697"]


def test_only_queued_jobs_of_the_kind_and_task_are_brought_forward(ledger: Ledger) -> None:
    add(ledger, "1")
    assert taken(ledger, 1) == ["1"]
    add(ledger, "2")
    add(ledger, "3")
    ledger.jobs.add("draft", "other", {}, "3")
    assert ledger.jobs.bring_forward("draft", TASK, ["1", "3", "3"]) == 1
    assert ledger.jobs.bring_forward("draft", TASK, []) == 0
    assert taken(ledger, 3) == ["3", "2", "3"]


def test_jobs_are_brought_forward_in_short_transactions_in_the_order_of_their_ids(ledger: Ledger) -> None:
    keys = [str(n) for n in range(450)]
    ledger.jobs.add_many("draft", TASK, [({}, key) for key in keys])
    changed: list[list[int]] = []

    def note(_c: object, _cursor: object, statement: str, values: object, _context: object, many: bool) -> None:
        if statement.startswith("UPDATE jobs") and many:
            rows = [value.values() if isinstance(value, dict) else value for value in values]  # type: ignore[attr-defined]
            changed.append([max(v for v in row if isinstance(v, int)) for row in rows])

    sa.event.listen(ledger.jobs.database.engine, "before_cursor_execute", note)
    assert ledger.jobs.bring_forward("draft", TASK, keys[::-1]) == 450
    assert [len(part) for part in changed] == [200, 200, 50]
    ids = [job for part in changed for job in part]
    assert ids == sorted(ids)


def test_open_jobs_are_found_by_their_key(sqlite_ledger: Ledger) -> None:
    add(sqlite_ledger, "1")
    with plans(sqlite_ledger) as found:
        sqlite_ledger.jobs.bring_forward("draft", TASK, ["1"])
        add(sqlite_ledger, "1")
    searches = [step for step in found if "ix_jobs_one_open" in step]
    assert len(searches) == 2
    assert all("kind=? AND task=? AND key=?" in step for step in searches)


def test_a_job_that_is_given_back_to_the_end_is_taken_behind_all_of_its_kind_that_wait(ledger: Ledger) -> None:
    for key in ("a", "b", "c"):
        add(ledger, key, kind="score")
    order = []
    for _ in range(6):
        job = ledger.jobs.take(["score"], "w1", 60)
        order.append(job.key)
        assert ledger.jobs.give_back(job, "its turn is over", to_end=True)
    assert order == ["a", "b", "c"] * 2
    add(ledger, "alone", kind="check")
    assert ledger.jobs.give_back(ledger.jobs.take(["check"], "w1", 60), "urgent", to_end=True)
    assert ledger.jobs.take(["check"], "w1", 60).attempts == 1
