"""The database itself refuses what the rules forbid, whoever writes to it."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from ledger_support import START, TASK, add_series, draft, human

from lib.ledger import tables
from lib.ledger.database import Database
from lib.ledger.ledger import Ledger

ANNOTATION: dict[str, Any] = {
    "series_uid": "1.1",
    "task": TASK,
    "status": "draft",
    "origin": "model",
    "author": "x",
    "model_version": 1,
    "voxels": {},
    "nothing_found": False,
    "reason": "",
    "made_at": START,
    "created_at": START,
}
LEASE: dict[str, Any] = {
    "series_uid": "1.1",
    "task": TASK,
    "annotator": "anna",
    "strategy": "",
    "why": "",
    "acquired_at": START,
    "expires_at": START,
}
JOB: dict[str, Any] = {
    "kind": "draft",
    "task": TASK,
    "payload": {},
    "key": "k",
    "state": "queued",
    "attempts": 0,
    "max_attempts": 1,
    "progress": 0.0,
    "message": "",
    "error": "",
    "created_at": START,
    "not_before": START,
    "result": {},
}


@pytest.fixture
def database(ledger: Ledger, url: str) -> Iterator[Database]:
    add_series(ledger, "1.1")
    opened = Database(url)
    yield opened
    opened.close()


def refused(database: Database, statement: Any, rule: str) -> None:
    with pytest.raises(sa.exc.IntegrityError) as caught, database.engine.begin() as connection:
        connection.execute(statement)
    assert rule in str(caught.value.orig).lower()


@pytest.mark.parametrize("status", ["accepted", "submitted"])
@pytest.mark.parametrize("origin", ["model", "foreign_model"])
def test_a_models_mask_can_never_be_a_label(database: Database, status: str, origin: str) -> None:
    values = {**ANNOTATION, "status": status, "origin": origin}
    refused(database, sa.insert(tables.annotations).values(values), "labels_are_human")


def test_a_draft_can_never_be_turned_into_a_label(ledger: Ledger, database: Database) -> None:
    ledger.annotations.add_draft(draft("1.1"))
    refused(database, sa.update(tables.annotations).values(status="accepted"), "labels_are_human")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"status": "draft", "origin": "human"}, "drafts_are_of_models"),
        ({"status": "final"}, "ck_annotations_status"),
        ({"origin": "alien"}, "ck_annotations_origin"),
        ({"model_version": None}, "versioned"),
        ({"task": None}, "refers"),
        ({"series_uid": None}, "refers"),
        ({"status": "rejected"}, "rejected_with_reason"),
    ],
)
def test_an_annotation_obeys_the_rules(database: Database, change: dict[str, Any], rule: str) -> None:
    refused(database, sa.insert(tables.annotations).values({**ANNOTATION, **change}), rule)


def test_an_annotation_needs_its_series(database: Database) -> None:
    refused(database, sa.insert(tables.annotations).values({**ANNOTATION, "series_uid": "9.9"}), "foreign")


def test_one_seg_is_one_annotation(ledger: Ledger, database: Database) -> None:
    ledger.annotations.add_draft(draft("1.1", sop="s1"), b"x")
    values = {**ANNOTATION, "sop_instance_uid": "s1", "origin": "foreign_model"}
    refused(database, sa.insert(tables.annotations).values(values), "sop_instance_uid")


@pytest.mark.parametrize("accept", [True, False])
def test_a_case_has_one_label_and_one_submission(ledger: Ledger, database: Database, accept: bool) -> None:
    ledger.annotations.add_human(human("1.1"), accept=accept)
    values = {**ANNOTATION, "origin": "human", "status": "accepted" if accept else "submitted"}
    refused(database, sa.insert(tables.annotations).values(values), "unique")


def test_a_case_has_one_open_lease(ledger: Ledger, database: Database) -> None:
    ledger.queue.lease("1.1", TASK, "anna", 60)
    refused(database, sa.insert(tables.leases).values(LEASE), "unique")
    with database.write() as connection:
        connection.execute(sa.insert(tables.leases).values({**LEASE, "ended_at": START, "ending": "released"}))


def test_a_key_has_one_open_job(ledger: Ledger, database: Database) -> None:
    ledger.jobs.add("draft", TASK, {}, "k")
    refused(database, sa.insert(tables.jobs).values(JOB), "unique")
    with database.write() as connection:
        connection.execute(sa.insert(tables.jobs).values({**JOB, "state": "done"}))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"state": "paused"}, "ck_jobs_state"),
        ({"state": "running"}, "running_held"),
        ({"progress": 1.5}, "ck_jobs_progress"),
    ],
)
def test_a_job_obeys_the_rules(database: Database, change: dict[str, Any], rule: str) -> None:
    refused(database, sa.insert(tables.jobs).values({**JOB, **change}), rule)


def test_an_open_upload_keeps_its_file(ledger: Ledger, database: Database) -> None:
    ledger.annotations.add_draft(draft("1.1", sop="s1"), b"x")
    refused(database, sa.update(tables.outbox).values(payload=None), "payload_until_stored")
    refused(database, sa.update(tables.outbox).values(done_at=START), "payload_until_stored")


def test_a_series_is_refused_with_a_reason(database: Database) -> None:
    refused(database, sa.update(tables.series).values(status="refused"), "refused_with_reason")
    refused(database, sa.update(tables.series).values(status="lost"), "ck_series_status")


def test_a_patient_in_use_cannot_vanish(database: Database) -> None:
    refused(database, sa.delete(tables.patients), "foreign")
