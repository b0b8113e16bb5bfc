"""Several processes at once, and one that is killed: nobody waits for ever, nothing is lost, nothing is there twice."""

import os
import signal
import time
from pathlib import Path

import sqlalchemy as sa
from ledger_support import (
    TASK,
    Crew,
    add_series,
    spawn,
    work_label_cases,
    work_mixed,
    work_take_and_die,
    work_take_cases,
    work_take_jobs,
    work_take_one_annotator,
    work_write_for_ever,
)

from lib.ledger.database import Database
from lib.ledger.ledger import Ledger

UIDS = [f"1.{i}" for i in range(40)]
KILLED_AFTER = 25


def fill(url: str, count: int) -> Ledger:
    ledger = Ledger(url)
    add_series(ledger, *UIDS[:count])
    ledger.queue.rebuild(TASK, "random", [(uid, 0.5, "") for uid in UIDS[:count]])
    return ledger


def test_no_two_processes_get_one_case(url: str, crew: Crew) -> None:
    ledger = fill(url, 40)
    told = crew.run(work_take_cases, url)
    taken = sorted(uid for uids in told.values() for uid in uids)
    assert taken == sorted(UIDS)
    assert len({lease.annotator for lease in ledger.queue.leases(TASK)}) == 40
    ledger.close()


def test_an_annotator_with_several_tabs_holds_one_case(url: str, crew: Crew) -> None:
    ledger = fill(url, 10)
    told = crew.run(work_take_one_annotator, url)
    assert len({uid for uids in told.values() for uid in uids}) == 1
    assert len(ledger.queue.leases(TASK)) == 1
    ledger.close()


def test_each_case_is_labelled_once(url: str, crew: Crew) -> None:
    ledger = fill(url, 30)
    told = crew.run(work_label_cases, url)
    assert sorted(uid for uids in told.values() for uid in uids) == sorted(UIDS[:30])
    assert sorted(row.series_uid for row in ledger.annotations.accepted(TASK)) == sorted(UIDS[:30])
    assert ledger.queue.leases() == []
    ledger.close()


def test_no_two_workers_get_one_job(url: str, crew: Crew) -> None:
    ledger = Ledger(url)
    ledger.jobs.add_many("draft", TASK, [({}, str(i)) for i in range(40)])
    told = crew.run(work_take_jobs, url)
    taken = [job_id for ids in told.values() for job_id in ids]
    assert len(taken) == len(set(taken)) == 40
    assert ledger.jobs.counts()["done"] == 40
    assert all(job.attempts == 1 for job in ledger.jobs.list())
    ledger.close()


def test_everything_at_once_on_the_same_cases_comes_to_an_end(url: str, crew: Crew) -> None:
    ledger = fill(url, 4)
    assert crew.run(work_mixed, url) == {"w0": 12, "w1": 12, "w2": 12}
    for uid in UIDS[:4]:
        rows = ledger.annotations.list(series_uid=uid, limit=None)
        statuses = [row.status for row in rows]
        assert statuses.count("accepted") <= 1
        assert statuses.count("submitted") <= 1
        assert statuses.count("draft") <= 1
    assert len(ledger.annotations.list(limit=None)) == 72
    ledger.close()


def test_a_killed_writer_loses_nothing_that_was_accepted(url: str, tmp_path: Path) -> None:
    ledger, answers = Ledger(url), tmp_path / "accepted"
    add_series(ledger, "1.1")
    writer = spawn.Process(target=work_write_for_ever, args=(url, answers))
    writer.start()
    deadline = time.monotonic() + 60
    while not answers.exists() or len(answers.read_text().splitlines()) < KILLED_AFTER:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    accepted = [line for line in answers.read_text().split("\n") if line]
    rows = {row.sop_instance_uid: row for row in ledger.annotations.list(limit=None)}
    assert set(accepted) <= set(rows)
    assert len(rows) <= len(accepted) + 1
    waiting = {row.sop_instance_uid: row for row in ledger.outbox.pending(10_000) if row.action == "store"}
    assert waiting.keys() == rows.keys()
    for sop, row in rows.items():
        assert waiting[sop].payload == b"file of " + sop.encode()
        assert waiting[sop].annotation_id == row.id
        assert ledger.annotations.scores(row.id) == {"liver": row.model_version / 7}
    newest = max(rows.values(), key=lambda row: row.id)
    assert [row.id for row in rows.values() if row.status == "draft"] == [newest.id]
    drafts = [row for row in ledger.audit.list(100_000) if row.action == "annotation.draft"]
    assert len(drafts) == len(rows)
    ledger.close()
    if url.startswith("sqlite"):
        database = Database(url)
        with database.read() as connection:
            assert connection.execute(sa.text("PRAGMA integrity_check")).scalar() == "ok"
            assert connection.execute(sa.text("PRAGMA foreign_key_check")).all() == []
        database.close()


def test_what_a_killed_worker_held_is_taken_over_in_time(url: str) -> None:
    """The dead process held a lease and a job; both come back by the clock alone."""
    ledger = fill(url, 1)
    ledger.jobs.add("draft", TASK, {}, "k")
    child = spawn.Process(target=work_take_and_die, args=(url,))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert ledger.queue.holder("1.0", TASK).annotator == "dead"
    deadline = time.monotonic() + 30
    while (job := ledger.jobs.take(["draft"], "alive", 60)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (job.worker, job.attempts) == ("alive", 2)
    while (lease := ledger.queue.take(TASK, "random", "alive", 60)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert lease.series_uid == "1.0"
    ledger.close()
