"""The real worker on a real Orthanc: series that vanish, an archive away or frozen, and an end within seconds."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lib.cli.orthanc_process import OrthancProcess, free_port, start_orthanc
from lib.ledger.pseudonym import pseudonym
from lib.settings import environment_of
from lib.workflows.jobs import CHECK, DRAFT, RETRAIN
from lib.workflows.presegment import enqueue_drafts
from lib.workflows.retrain import request_retrain
from lib.workflows.review import submit_mask
from lib.workflows.services import Services
from lib.workflows.worker import Worker
from loop import body, install, liver_of, register_random_model, settle, upload

pytestmark = [pytest.mark.orthanc, pytest.mark.slow]

ENDS_WITHIN_S = 12.0


def wait_until(holds: Callable[[], bool], within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not holds() and time.monotonic() < end:
        time.sleep(0.1)
    assert holds()


@contextmanager
def at_work(services: Services) -> Iterator[Worker]:
    """A worker in threads of this process."""
    stop = threading.Event()
    worker = Worker(services, stop)
    ended: list[bool] = []
    thread = threading.Thread(target=lambda: ended.append(worker.run()))
    thread.start()
    yield worker
    stop.set()
    thread.join(30)
    assert ended == [True]


@contextmanager
def worker_process(services: Services) -> Iterator[subprocess.Popen]:
    """The worker as a process of its own; killed when it is still there at the end."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRANSUNET_")}
    command = [sys.executable, "-m", "lib.cli", "worker"]
    process = subprocess.Popen(command, env=environment | environment_of(services.settings))
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def end_in_time(process: subprocess.Popen) -> float:
    """Tell the process to stop; the seconds that it takes to end with 0."""
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    return time.monotonic() - started


def drafts(services: Services) -> list[tuple[str, int]]:
    """State and attempts of each draft job, the oldest first."""
    return [(job.state, job.attempts) for job in reversed(services.ledger.jobs.list(kind=DRAFT, limit=1000))]


def test_a_series_deleted_in_the_archive_costs_one_job_and_no_other_case_waits_for_it(own_orthanc, tmp_path):
    services = install(own_orthanc, tmp_path / "var", ingest__poll_s="0.2")
    task = services.task()
    deleted = upload(services, body(0), "P0")
    with at_work(services):
        wait_until(lambda: services.ledger.series.counts()["ready"] == 1)
        services.archive.delete_series(deleted.series_uid)
        register_random_model(services, task, tmp_path / "model")
        other = upload(services, body(1), "P1")
        wait_until(lambda: services.ledger.annotations.latest_draft(other.series_uid, task.name) is not None)
        wait_until(lambda: services.ledger.series.get(deleted.series_uid).status == "gone")
        time.sleep(4)  # four refreshes
        assert drafts(services) == [("done", 1)] * 2


def test_drafts_wait_for_an_archive_that_is_away_and_none_of_them_fails(tmp_path):
    port, folder = free_port(), tmp_path / "orthanc"
    with start_orthanc(folder, port, "tester", "secret") as running:
        services = install(running, tmp_path / "var", ingest__poll_s="0.2", presegment__automatic="false")
        for number in range(5):
            upload(services, body(number), f"P{number}")
        settle(services)
    register_random_model(services, services.task(), tmp_path / "model")
    with at_work(services) as worker:
        assert enqueue_drafts(services, services.task()) == 5
        time.sleep(6)
        assert drafts(services) == [("queued", 0)] * 5
        with start_orthanc(folder, port, "tester", "secret"):
            wait_until(lambda: drafts(services) == [("done", 1)] * 5)
        wait_until(lambda: not worker._archive.answers)


def test_the_champions_are_loaded_before_the_first_draft_is_asked_for(own_orthanc, tmp_path):
    services = install(own_orthanc, tmp_path / "var")
    version = register_random_model(services, services.task(), tmp_path / "model")
    with at_work(services) as worker:
        slot = worker._champions._slots[services.task().name]
        wait_until(lambda: slot.serving is not None)
        assert slot.serving.model.version == version


@pytest.fixture
def frozen(own_orthanc: OrthancProcess, tmp_path: Path) -> Iterator[Services]:
    """An installation whose archive answers until it is frozen, and then not before a minute has passed."""
    yield install(own_orthanc, tmp_path / "var", archive__timeout_s="60", ingest__poll_s="3600")
    own_orthanc.process.send_signal(signal.SIGCONT)


def test_a_worker_told_to_stop_gives_back_the_job_that_it_cannot_end(frozen, own_orthanc):
    source = upload(frozen, body(), "P1")
    with worker_process(frozen) as process:
        wait_until(lambda: frozen.ledger.series.counts()["ready"] == 1)
        own_orthanc.process.send_signal(signal.SIGSTOP)
        job_id = frozen.ledger.jobs.add(CHECK, "", {"series_uid": source.series_uid}, "check:again")
        wait_until(lambda: frozen.ledger.jobs.get(job_id).state == "running")
        assert end_in_time(process) < ENDS_WITHIN_S
    job = frozen.ledger.jobs.get(job_id)
    assert (job.state, job.attempts, job.error) == ("queued", 0, "the worker stopped")


def test_a_worker_told_to_stop_gives_back_its_training(own_orthanc, tmp_path):
    services = install(own_orthanc, tmp_path / "var")
    task = services.task()
    for number in range(2):
        services.ledger.series.assign_split(pseudonym(f"P{number}", services.key), "pool")
        source = upload(services, body(number), f"P{number}")
        settle(services)
        submit_mask(services, task, source, liver_of(task, source.geometry), "anna")
    with worker_process(services) as process:
        job_id = request_retrain(services, task, {"steps": 1_000_000}, "test")
        wait_until(lambda: services.ledger.jobs.get(job_id).message.startswith("training: step"), 240)  # imports first
        assert end_in_time(process) < ENDS_WITHIN_S
    (job,) = services.ledger.jobs.list(kind=RETRAIN)
    assert (job.state, job.attempts) == ("queued", 0)
    assert (services.settings.var / "jobs" / str(job_id) / "plan.json").exists()
