import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import torch

from lib.core.errors import ClusterUnavailable, LedgerUnavailable, OutOfMemory
from lib.ledger.book import utc_now
from lib.ledger.ledger import Ledger
from lib.ledger.rows import JobRow
from lib.workflows import retrain, retrain_job
from lib.workflows.heartbeat import Heartbeat
from lib.workflows.plan import job_folder
from lib.workflows.retrain import Stopped, request_retrain
from lib.workflows.retrain_job import work_on
from lib.workflows.services import Services


@pytest.fixture
def job(services: Services) -> JobRow:
    request_retrain(services, services.task(), {"steps": 3})
    taken = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert taken is not None
    return taken


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    assert holds()


def test_a_training_job_ends_done_with_version_and_figures_as_its_result(
    services: Services, job: JobRow, label: Callable[..., int]
) -> None:
    for patient, split in (("p1", "pool"), ("p2", "pool"), ("c1", "calibration")):
        label(patient, split)
    row = work_on(services, job)
    assert row.state == "done"
    assert (row.result["version"], row.result["promoted"]) == (1, True)
    assert set(row.result["metrics"]) >= {"mean_dice", "dice/ball"}
    assert (row.result["training"], row.result["calibration"]) == (2, 1)


def test_a_job_without_labels_fails_for_good_with_what_is_missing(services: Services, job: JobRow) -> None:
    row = work_on(services, job)
    assert row.state == "failed"
    assert "needs at least 2 accepted human labels" in row.error


def test_a_job_that_meets_an_absent_cluster_waits_for_it_and_no_attempt_is_counted(
    services: Services, job: JobRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: object) -> None:
        raise ClusterUnavailable("a Ray cluster must answer at head:6379")

    monkeypatch.setattr(retrain_job, "run_retrain", absent)
    row = work_on(services, job)
    assert (row.state, row.attempts, row.error) == ("queued", 0, "a Ray cluster must answer at head:6379")
    assert services.ledger.jobs.take(("retrain",), "worker", 60) is None  # it rests


def test_a_card_that_is_full_when_the_gate_measures_costs_neither_an_attempt_nor_the_verdict(
    services: Services, job: JobRow, label: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for patient, split in (("p1", "pool"), ("p2", "pool"), ("c1", "calibration")):
        label(patient, split)
    task = services.task()
    with monkeypatch.context() as patched:
        patched.setattr(retrain, "decide", full)
        row = work_on(services, job)
    assert (row.state, row.attempts, row.error) == ("queued", 0, "no memory to predict 8 slices")
    assert services.ledger.models.list(task.name) == []
    assert [model.version for model in services.registry.list(task.name)] == [1]
    monkeypatch.setattr(retrain, "train_model", full)  # nothing is trained again
    url = services.settings.ledger.resolved_url(services.settings.var)
    rested = replace(services, ledger=Ledger(url, lambda: utc_now() + timedelta(minutes=1)))
    again = rested.ledger.jobs.take(("retrain",), "worker", 60)
    assert again is not None
    row = work_on(rested, again)
    assert (row.state, row.result["version"], row.result["promoted"]) == ("done", 1, True)
    assert [model.version for model in services.registry.list(task.name)] == [1]
    assert [verdict.verdict for verdict in services.ledger.models.list(task.name)] == ["promoted"]


def test_a_card_that_is_full_at_the_last_look_of_a_training_costs_no_step(
    services: Services, job: JobRow, label: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for patient, split in (("p1", "pool"), ("p2", "pool"), ("c1", "calibration")):
        label(patient, split)
    monkeypatch.setattr(retrain_job, "archive_pause_s", lambda *_: 0.0)
    with monkeypatch.context() as patched:
        patched.setattr("lib.training.fit.measure", full)
        row = work_on(services, job)
    assert (row.state, row.attempts, row.error) == ("queued", 0, "no memory to predict 8 slices")
    assert services.registry.list(services.task().name) == ()
    monkeypatch.setattr("lib.training.run.Run.learn", full)  # all steps are in the checkpoint
    again = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert again is not None
    row = work_on(services, again)
    assert (row.state, row.result["version"], row.result["notes"]) == ("done", 1, [])  # nothing was halved


def test_a_card_that_stays_full_is_waited_for_like_the_archive_six_times_and_then_in_counted_attempts(
    services: Services, job: JobRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_job, "run_retrain", full)
    url, start = services.settings.ledger.resolved_url(services.settings.var), utc_now()
    attempts, rests = [], []
    row: JobRow | None = job
    for hour in range(1, 20):
        assert row is not None
        now = start + timedelta(hours=hour)
        then = replace(services, ledger=Ledger(url, lambda now=now: now))
        row = work_on(then, row)
        attempts.append(row.attempts)
        if row.state == "failed":
            break
        rests.append((row.not_before - now).total_seconds())
        later = Ledger(url, lambda now=now: now + timedelta(minutes=30))
        row = later.jobs.take(("retrain",), "worker", 7200)
    assert attempts == [0] * 6 + [1, 2, 3]
    assert rests == [600.0] * 6 + [5.0, 10.0]  # an hour in all, for one that was asked for long ago
    assert (row.state, row.error) == ("failed", "no memory to predict 8 slices")


def full(*_: object) -> None:
    """Stands for a predictor on a card that drafts have filled."""
    raise OutOfMemory("no memory to predict 8 slices")


def test_a_training_is_held_to_its_share_of_the_device_before_it_begins(
    services: Services, job: JobRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[object] = []

    def run(*_: object) -> None:
        events.append("training")
        raise ClusterUnavailable("enough")

    monkeypatch.setattr("lib.inference.devices.limit_memory", lambda *what: events.append(what))
    monkeypatch.setattr("lib.inference.devices.choose_device", lambda name: torch.device("cuda", 1))
    monkeypatch.setattr(retrain_job, "run_retrain", run)
    work_on(services, job)
    assert events == [(torch.device("cuda", 1), 0.6), "training"]


def test_a_job_that_meets_an_absent_archive_waits_for_another_attempt(
    services: Services, job: JobRow, label: Callable[..., int]
) -> None:
    label("p1")
    label("p2")
    services.archive.away = True  # type: ignore[attr-defined]
    row = work_on(services, job)
    assert (row.state, row.attempts, row.error) == ("queued", 0, "the archive is away")


def test_an_unexpected_error_is_recorded_with_its_kind(
    services: Services, job: JobRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*arguments: object) -> None:
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(retrain_job, "run_retrain", break_down)
    row = work_on(services, job)
    assert (row.state, row.error) == ("queued", "ZeroDivisionError: by chance")


def wait_for_stop(services: Services, job: JobRow, report: object, stop: threading.Event) -> None:
    """Stands for a long training that looks at its stop event."""
    job_folder(services, job.id).mkdir(parents=True)
    assert stop.wait(20)
    raise Stopped("stopped while training")


def test_a_cancelled_job_stops_and_its_folder_goes(
    services: Services, job: JobRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_job, "run_retrain", wait_for_stop)
    canceller = threading.Timer(0.3, lambda: services.ledger.jobs.cancel(job.id))
    canceller.start()
    row = work_on(services, job)
    canceller.join()
    assert row.state == "cancelled"
    assert not job_folder(services, job.id).exists()


def test_a_job_whose_parent_has_ended_is_handed_back_with_its_folder(
    services: Services, job: JobRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_job, "run_retrain", wait_for_stop)
    row = work_on(services, job, parent=os.getppid() + 1)
    assert (row.state, row.attempts) == ("queued", 0)
    assert "the worker that started it has ended" in row.error
    assert job_folder(services, job.id).exists()


def test_a_signal_can_end_a_job_through_its_heartbeat(
    services: Services, job: JobRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_job, "run_retrain", wait_for_stop)
    row = work_on(services, job, on_start=lambda heartbeat: heartbeat.end("stopped by SIGTERM"))
    assert row.state == "queued"
    assert row.error.startswith("stopped by SIGTERM")


def test_a_heartbeat_keeps_the_lease_and_tells_where_the_job_is(services: Services, job: JobRow) -> None:
    with Heartbeat(services.ledger, job, lease_s=3) as heartbeat:
        heartbeat.report(0.4, "training: step 4 of 10")
        wait_until(lambda: services.ledger.jobs.get(job.id).progress == 0.4)
        row = services.ledger.jobs.get(job.id)
        assert row.message == "training: step 4 of 10"
        first = row.heartbeat_at
        assert first is not None
        wait_until(lambda: (services.ledger.jobs.get(job.id).heartbeat_at or first) > first + timedelta(seconds=0.2))
        assert not heartbeat.stop.is_set()


def test_a_heartbeat_outlives_a_ledger_that_is_away_for_a_while(
    services: Services, job: JobRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object) -> bool:
        raise LedgerUnavailable("locked")

    with Heartbeat(services.ledger, job, lease_s=3) as heartbeat:
        with monkeypatch.context() as patch:
            patch.setattr(type(services.ledger.jobs), "beat", away)
            time.sleep(0.7)
        heartbeat.report(0.5, "back")
        wait_until(lambda: services.ledger.jobs.get(job.id).message == "back")
        assert not heartbeat.stop.is_set()
