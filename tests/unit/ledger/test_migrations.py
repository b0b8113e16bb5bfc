"""A ledger of an older version keeps what it holds."""

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from ledger_support import START, TASK

from lib.core.estimated import EstimatedDice
from lib.ledger import schema, tables
from lib.ledger.database import Database
from lib.ledger.ledger import Ledger


def at_version(url: str, version: str) -> Database:
    database = Database(url)
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, version)
    return database


def insert(connection: sa.Connection, table: str, **values: object) -> None:
    known = tables.metadata.tables[table]
    columns = [sa.column(name, known.c[name].type) for name in values]
    connection.execute(sa.insert(sa.table(table, *columns)).values(values))


def test_what_was_handed_out_before_lanes_came_has_the_lane_of_its_strategy(empty_url: str) -> None:
    database = at_version(empty_url, "0002")
    made = {"created_at": START}
    with database.write() as connection:
        insert(connection, "patients", patient="p", split="pool", reason="", **made)
        texts = dict.fromkeys(("reason", "description", "institution", "manufacturer", "date"), "")
        insert(
            connection,
            "series",
            series_uid="1.1",
            study_uid="1",
            patient="p",
            status="ready",
            modality="CT",
            instances=3,
            frame_of_reference_uid="f",
            findings=[],
            updated_at=START,
            **texts,
            **made,
        )
        insert(connection, "queues", task=TASK, strategy="entropy", is_active=True, built_at=START)
        row = {"series_uid": "1.1", "task": TASK, "why": "unsure"}
        insert(connection, "queue_rows", queue_id=1, rank=0, score=0.5, is_free=True, **row)
        for strategy in ("entropy", ""):
            lease = {**row, "annotator": "anna", "strategy": strategy, "acquired_at": START, "expires_at": START}
            insert(connection, "leases", ended_at=START, ending="labelled", **lease)
        who = {"origin": "human", "author": "anna", "voxels": {}, "nothing_found": False, "reason": ""}
        insert(connection, "annotations", series_uid="1.1", task=TASK, status="submitted", made_at=START, **who, **made)
    schema.upgrade(database)
    with database.read() as connection:
        assert list(connection.execute(sa.select(tables.leases.c.lane).order_by(tables.leases.c.id)).scalars()) == [
            "entropy",
            "",
        ]
    ledger = Ledger(empty_url)
    assert [(entry.why, entry.lane) for entry in ledger.queue.head(TASK, "entropy")] == [("unsure", "entropy")]
    (kept,) = ledger.annotations.list()
    assert (kept.status, kept.held_reason, kept.is_held) == ("submitted", "", False)
    assert ledger.queue.turns(TASK) == 1
    ledger.close()
    database.close()


def test_on_the_way_back_a_held_label_gives_way_to_the_one_that_waits_and_else_waits_itself(empty_url: str) -> None:
    database = at_version(empty_url, "0003")
    made = {"created_at": START}
    texts = dict.fromkeys(("reason", "description", "institution", "manufacturer", "date"), "")
    size = {"instances": 3, "frame_of_reference_uid": "f", "findings": [], "updated_at": START}
    who = {"task": TASK, "origin": "human", "author": "anna", "voxels": {}, "nothing_found": False, "reason": ""}
    with database.write() as connection:
        insert(connection, "patients", patient="p", split="pool", reason="", **made)
        for uid in ("1.1", "1.2", "1.3"):
            row = {"series_uid": uid, "study_uid": "1", "patient": "p", "status": "ready", "modality": "CT"}
            insert(connection, "series", **row, **size, **texts, **made)
        labels = [("1.1", "submitted", ""), ("1.1", "submitted", "why"), ("1.2", "submitted", "why")]
        for uid, status, why in (*labels, ("1.3", "accepted", ""), ("1.3", "submitted", "why")):
            row = {"series_uid": uid, "status": status, "held_reason": why, "made_at": START}
            insert(connection, "annotations", **row, **who, **made)
    with database.write() as connection:
        config = Config()
        config.set_main_option("script_location", str(schema.MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    with database.read() as connection:
        states = connection.execute(sa.text("SELECT series_uid, status FROM annotations ORDER BY id")).all()
    assert [tuple(state) for state in states] == [
        ("1.1", "submitted"),
        ("1.1", "superseded"),
        ("1.2", "submitted"),
        ("1.3", "accepted"),
        ("1.3", "submitted"),
    ]
    schema.upgrade(database)
    database.close()


def test_drafts_from_before_all_quantities_were_kept_have_the_entropy_alone(empty_url: str) -> None:
    database = at_version(empty_url, "0004")
    with database.write() as connection:
        insert(connection, "patients", patient="p", split="pool", reason="", created_at=START)
        texts = dict.fromkeys(("study_uid", "reason", "description", "institution", "manufacturer", "date"), "")
        facts = {"modality": "CT", "instances": 3, "frame_of_reference_uid": "f", "findings": []}
        times = {"created_at": START, "updated_at": START}
        insert(connection, "series", series_uid="1.1", patient="p", status="ready", **texts, **facts, **times)
        who = {"status": "draft", "origin": "model", "author": "ours", "model_version": 1}
        what = {"voxels": {}, "nothing_found": False, "reason": "", "made_at": START, "created_at": START}
        insert(connection, "annotations", series_uid="1.1", task=TASK, **who, **what)
        insert(connection, "scores", annotation_id=1, label="liver", score=0.5)
    schema.upgrade(database)
    ledger = Ledger(empty_url)
    (candidate,) = ledger.queue.candidates(TASK)
    assert candidate.scores["liver"].entropy == 0.5
    assert all(value != value for value in candidate.scores["liver"][1:])
    assert ledger.annotations.scores(1) == {"liver": 0.5}
    ledger.close()
    database.close()


def test_the_scores_of_drafts_become_those_of_their_version_and_go_back_with_their_drafts(empty_url: str) -> None:
    database = at_version(empty_url, "0006")
    with database.write() as connection:
        insert(connection, "patients", patient="p", split="pool", reason="", created_at=START)
        texts = dict.fromkeys(("study_uid", "reason", "description", "institution", "manufacturer", "date"), "")
        facts = {"modality": "CT", "instances": 3, "frame_of_reference_uid": "f", "findings": []}
        times = {"created_at": START, "updated_at": START}
        insert(connection, "series", series_uid="1.1", patient="p", status="ready", **texts, **facts, **times)
        what = {"voxels": {}, "nothing_found": False, "made_at": START, "created_at": START, "origin": "model"}
        other = "it was made when the series had 2 instances, now it has 3"
        drafts = (("superseded", 1, other), ("superseded", 1, ""), ("superseded", 1, ""), ("draft", 2, ""))
        for number, (status, version, reason) in enumerate(drafts, start=1):
            row = {"status": status, "model_version": version, "reason": reason, "author": "ours"}
            insert(connection, "annotations", series_uid="1.1", task=TASK, **row, **what)
            insert(connection, "scores", annotation_id=number, label="liver", score=number / 10, components=number)
            insert(connection, "embeddings", annotation_id=number, vector=bytes([number] * 4))
        fixed = {"payload": {}, "attempts": 0, "max_attempts": 3, "progress": 0.0, "message": "", "error": ""}
        at = {"created_at": START, "not_before": START, "result": {}}
        insert(connection, "jobs", kind="draft", task=TASK, key="k", state="queued", **fixed, **at)
    schema.upgrade(database)
    ledger = Ledger(empty_url, lambda: START)
    assert ledger.scorings.versions("1.1", TASK) == {1: "", 2: ""}
    found = {version: ledger.queue.candidates(TASK, version, compared=version)[0] for version in (1, 2)}
    assert [(v, c.scores["liver"].entropy, c.vector, c.scored_at) for v, c in found.items()] == [
        (1, 0.3, b"\3\3\3\3", START),
        (2, 0.4, b"\4\4\4\4", START),
    ]
    assert [ledger.annotations.scores(number) for number in (1, 2, 3, 4)] == [{}, {}, {"liver": 0.3}, {"liver": 0.4}]
    assert ledger.jobs.take(["draft"], "w", 60) is not None
    ledger.close()
    with database.write() as connection:
        config = Config()
        config.set_main_option("script_location", str(schema.MIGRATIONS))
        config.attributes["connection"] = connection
        command.downgrade(config, "0006")
    with database.read() as connection:
        rows = connection.execute(sa.text("SELECT annotation_id, score, components FROM scores ORDER BY 1")).all()
        vectors = connection.execute(sa.text("SELECT annotation_id FROM embeddings ORDER BY 1")).scalars().all()
    assert ([tuple(row) for row in rows], list(vectors)) == ([(3, 0.3, 3.0), (4, 0.4, 4.0)], [3, 4])
    schema.upgrade(database)
    database.close()


def test_drafts_from_before_estimates_were_kept_can_be_told_theirs(empty_url: str) -> None:
    database = at_version(empty_url, "0007")
    with database.write() as connection:
        insert(connection, "patients", patient="p", split="pool", reason="", created_at=START)
        texts = dict.fromkeys(("study_uid", "reason", "description", "institution", "manufacturer", "date"), "")
        facts = {"modality": "CT", "instances": 3, "frame_of_reference_uid": "f", "findings": []}
        times = {"created_at": START, "updated_at": START}
        insert(connection, "series", series_uid="1.1", patient="p", status="ready", **texts, **facts, **times)
        who = {"status": "draft", "origin": "model", "author": "ours", "model_version": 1}
        what = {"voxels": {}, "nothing_found": False, "reason": "", "made_at": START, "created_at": START}
        insert(connection, "annotations", series_uid="1.1", task=TASK, **who, **what)
        insert(connection, "scorings", series_uid="1.1", task=TASK, version=1, scored_at=START, error="")
        insert(connection, "scores", scoring_id=1, annotation_id=1, label="liver", score=0.5, volume_ml=12.0)
        insert(connection, "embeddings", scoring_id=1, annotation_id=1, vector=b"\0\0\0\0")
    schema.upgrade(database)
    ledger = Ledger(empty_url)
    assert ledger.estimates.of([1]) == {}
    (part,) = ledger.estimates.evidence(TASK, 1)
    assert [(one.draft, one.evidence["liver"].volume_ml) for one in part] == [(1, 12.0)]
    ledger.estimates.put({1: {"liver": EstimatedDice(0.9, 0.8, 0.95, True)}})
    assert ledger.estimates.of([1])[1]["liver"].high == 0.95
    ledger.close()
    database.close()


def test_what_could_not_be_scored_before_rests_came_is_looked_at_again_at_once(empty_url: str) -> None:
    database = at_version(empty_url, "0008")
    made, size = {"created_at": START}, {"instances": 3, "frame_of_reference_uid": "f", "findings": []}
    texts = dict.fromkeys(("reason", "description", "institution", "manufacturer", "date"), "")
    with database.write() as connection:
        insert(connection, "patients", patient="p", split="pool", reason="", **made)
        for uid, error in (("1.1", "odd"), ("1.2", "")):
            row = {"series_uid": uid, "study_uid": "1", "patient": "p", "status": "ready", "modality": "CT"}
            insert(connection, "series", **row, **size, **texts, **made, updated_at=START)
            insert(connection, "scorings", series_uid=uid, task=TASK, version=1, scored_at=START, error=error)
    schema.upgrade(database)
    ledger = Ledger(empty_url)
    assert ledger.scorings.versions("1.1", TASK) == {1: "odd"}
    assert ledger.scorings.wanted(TASK, 1) == ["1.1"]
    ledger.close()
    database.close()
