"""What becomes of background jobs: drafts that fail, an archive that is away, workers that are slow or stop."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from torch import Tensor

from lib.core.errors import ArchiveUnavailable, InconsistentSeries, ManifestMismatch
from lib.inference.model import Manifest, build_network, save_model
from lib.ledger.book import utc_now
from lib.ledger.ledger import Ledger
from lib.ledger.rows import JobRow
from lib.workflows import jobrunner
from lib.workflows.archivewatch import ArchiveWatch
from lib.workflows.jobrunner import JobRunner
from lib.workflows.jobs import CHECK, DRAFT, READ_SEG
from lib.workflows.models import ChampionCache
from lib.workflows.presegment import enqueue_drafts
from lib.workflows.services import Services

AddSeries = Callable[..., str]


class Clock:
    """The time, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.ahead

    def turn(self, **how: float) -> None:
        self.ahead += timedelta(**how)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def services(services: Services, clock: Clock) -> Services:
    return replace(services, ledger=Ledger(f"sqlite:///{services.settings.var}/ledger.db", clock))


def serve(services: Services, folder: Path) -> int:
    """Register a random version as the champion."""
    task = services.task()
    state = build_network(task.network, task.schema).state_dict()
    save_model(folder, Manifest.describe(task, 0, {}, ()), state)
    version = services.registry.register(task.name, folder, {})
    services.registry.promote(task.name, version)
    return version


@pytest.fixture
def champion(services: Services, tmp_path: Path) -> int:
    return serve(services, tmp_path / "model")


@pytest.fixture
def runner(services: Services) -> JobRunner:
    return JobRunner(services, ChampionCache(services), "w1")


def draft(services: Services) -> int:
    return enqueue_drafts(services, services.task())


def jobs(services: Services) -> list[tuple[str, int]]:
    """State and attempts of the draft jobs, the oldest first."""
    return [(job.state, job.attempts) for job in reversed(services.ledger.jobs.list(kind=DRAFT))]


def refuse(*arguments: object, **more: object) -> None:
    raise InconsistentSeries("slices are missing")


def test_the_draft_of_a_series_that_left_the_archive_is_asked_for_once(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner
) -> None:
    uid = add_series("P1")
    assert draft(services) == 1
    services.archive.delete_series(uid)
    assert runner.one_job()
    assert services.ledger.series.get(uid).status == "gone"
    (job,) = services.ledger.jobs.list(kind=DRAFT)
    assert (job.state, f"no series {uid}" in job.result["skipped"]) == ("done", True)
    assert draft(services) == 0


def test_a_draft_that_failed_rests_twice_as_long_after_each_failure(
    services: Services,
    add_series: AddSeries,
    champion: int,
    runner: JobRunner,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_series("P1")
    monkeypatch.setattr(jobrunner, "presegment", refuse)
    for minutes in (1, 2, 4):
        assert draft(services) == 1
        assert runner.one_job()
        clock.turn(seconds=60 * minutes - 5)
        assert draft(services) == 0
        clock.turn(seconds=5)
    assert jobs(services) == [("failed", 1)] * 3
    assert draft(services) == 1
    assert runner.one_job()
    assert draft(services) == 0
    assert enqueue_drafts(services, services.task(), insist=True) == 1


def test_a_new_model_version_drafts_what_the_old_one_failed_on_at_once(
    services: Services,
    add_series: AddSeries,
    champion: int,
    runner: JobRunner,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uid = add_series("P1")
    with monkeypatch.context() as patch:
        patch.setattr(jobrunner, "presegment", refuse)
        assert draft(services) == 1
        assert runner.one_job()
        assert draft(services) == 0
    newer = serve(services, tmp_path / "newer")
    assert draft(services) == 1
    assert services.ledger.jobs.list(kind=DRAFT)[0].payload == {"series_uid": uid, "version": newer, "failures": 0}
    assert JobRunner(services, ChampionCache(services), "w2").one_job()
    assert services.ledger.annotations.latest_draft(uid, services.task().name).model_version == newer
    assert draft(services) == 0


def test_a_failed_job_from_before_versions_were_noted_counts_too(
    services: Services, add_series: AddSeries, champion: int, clock: Clock
) -> None:
    uid = add_series("P1")
    task = services.task().name
    services.ledger.jobs.add(DRAFT, task, {"series_uid": uid}, f"draft:{task}:{uid}")
    services.ledger.jobs.fail(services.ledger.jobs.take((DRAFT,), "old", 60), "no volume", retry=False)
    assert draft(services) == 0
    clock.turn(minutes=1)
    assert draft(services) == 1


def test_jobs_that_meet_an_absent_archive_wait_and_lose_no_attempt(
    services: Services, add_series: AddSeries, champion: int, clock: Clock
) -> None:
    for number in range(3):
        add_series(f"P{number}")
    watch = ArchiveWatch()
    watch.found()
    runner = JobRunner(services, ChampionCache(services), "w1", watch)
    draft(services)
    services.archive.away = True
    for _ in range(4):
        while runner.one_job():
            assert not watch.answers
        assert draft(services) == 0
        assert jobs(services) == [("queued", 0)] * 3
        clock.turn(hours=1)
    services.archive.away = False
    while runner.one_job():
        continue
    assert jobs(services) == [("done", 1)] * 3


def test_a_watch_says_once_that_the_archive_is_away_and_once_that_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    watch = ArchiveWatch()
    assert not watch.answers
    with caplog.at_level("INFO"):
        for _ in range(3):
            watch.lost(ArchiveUnavailable("connection refused"))
        for _ in range(3):
            watch.found()
    assert watch.answers
    assert [record.getMessage() for record in caplog.records] == [
        "drafts and checks wait for the archive: connection refused",
        "the archive answers: drafts and checks go on",
    ]


def test_a_model_that_cannot_be_loaded_costs_an_attempt_and_not_the_job(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mismatch(*arguments: object) -> None:
        raise ManifestMismatch("version 2 cannot be loaded")

    add_series("P1")
    draft(services)
    monkeypatch.setattr(jobrunner, "presegment", mismatch)
    assert runner.one_job()
    assert jobs(services) == [("queued", 1)]


def test_a_version_that_cannot_be_loaded_is_not_asked_for_again_and_again(
    services: Services, add_series: AddSeries, champion: int, tmp_path: Path, clock: Clock
) -> None:
    """The old version goes on serving and has drafted the series; the new one is the champion in name only."""
    add_series("P1")
    champions = ChampionCache(services, check_every_s=0)
    runner = JobRunner(services, champions, "w1")
    draft(services)
    assert runner.one_job()
    serve(services, tmp_path / "newer")
    (services.registry.champion(services.task().name).folder / "manifest.json").write_text("{}")
    assert draft(services) == 1
    for _ in range(services.settings.worker.attempts):
        assert runner.one_job()
        clock.turn(seconds=20)
    assert jobs(services) == [("done", 1), ("failed", 3)]
    assert draft(services) == 0


def test_a_draft_with_voxels_that_are_no_numbers_fails_with_the_reason_and_others_go_on(
    services: Services, add_series: AddSeries, champion: int, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """The network answers one voxel of the first series alone with NaN."""
    champions, task = ChampionCache(services), services.task()
    runner = JobRunner(services, champions, "w1")
    network = champions.predictor(task.name)[0].network
    segment, asked = network.segment, list[int]()

    def segment_with_a_hole(images: Tensor) -> tuple[Tensor, Tensor]:
        logits, embedding = segment(images)
        asked.append(len(images))
        if len(asked) == 1:
            logits[0, 0, 3, 3] = float("nan")
        return logits, embedding

    monkeypatch.setattr(network, "segment", segment_with_a_hole)
    add_series("P1")
    add_series("P2")
    assert draft(services) == 2
    while runner.one_job():
        pass
    assert jobs(services) == [("failed", 1), ("done", 1)]
    failed = services.ledger.jobs.list(kind=DRAFT)[1]
    reason = f"version {champion} of task {task.name}: probabilities must be numbers, got "
    assert failed.error.startswith(reason)
    assert "the first in slice 0 of" in failed.error
    assert "models rollback" in failed.error
    assert services.registry.champion(task.name).version == champion
    assert draft(services) == 0  # it rests
    clock.turn(minutes=1)
    assert draft(services) == 1


def slow(fetch: Callable[[str], object], seconds: float) -> Callable[[str], object]:
    def fetch_slowly(uid: str) -> object:
        time.sleep(seconds)
        return fetch(uid)

    return fetch_slowly


def test_a_job_that_takes_longer_than_the_lease_stays_with_its_worker(
    services: Services, add_series: AddSeries, champion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(services.settings.worker, job_lease_s=1.0)
    services = replace(services, settings=replace(services.settings, worker=short))
    add_series("P1")
    champions = ChampionCache(services)
    champions.warm()
    monkeypatch.setattr(services.archive, "fetch", slow(services.archive.fetch, 2.5))
    draft(services)
    over = threading.Event()

    def work(name: str) -> None:
        runner = JobRunner(services, champions, name)
        while not over.wait(0.1):
            runner.one_job()

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: services.ledger.jobs.list(kind=DRAFT)[0].state == "done")
    over.set()
    for thread in threads:
        thread.join()
    assert jobs(services) == [("done", 1)]
    (job,) = services.ledger.jobs.list(kind=DRAFT)
    (annotation,) = services.ledger.annotations.list()
    assert job.result == {"annotation": annotation.id}


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    assert holds()


@pytest.fixture
def stuck(services: Services, add_series: AddSeries, champion: int, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A draft that waits for this event, then reports and ends."""
    go_on = threading.Event()

    def wait(services: Services, champions: object, task: object, uid: str, job: JobRow, report: Callable) -> int:
        assert go_on.wait(20)
        report(0.5)
        return 1

    add_series("P1")
    draft(services)
    monkeypatch.setattr(jobrunner, "presegment", wait)
    return go_on


def test_a_job_in_hand_is_given_back_without_an_attempt_when_the_worker_stops(
    services: Services, stuck: threading.Event, runner: JobRunner
) -> None:
    thread = threading.Thread(target=runner.one_job)
    thread.start()
    wait_until(lambda: jobs(services) == [("running", 1)])
    runner.stop()
    stuck.set()
    thread.join(20)
    assert jobs(services) == [("queued", 0)]
    assert services.ledger.jobs.list(kind=DRAFT)[0].error == "the worker stopped"
    runner.stop()
    runner.give_back()  # nothing in hand, nothing happens
    assert jobs(services) == [("queued", 0)]


def test_a_job_that_cannot_stop_is_taken_from_its_thread_and_its_end_not_recorded(
    services: Services, stuck: threading.Event, runner: JobRunner
) -> None:
    thread = threading.Thread(target=runner.one_job)
    thread.start()
    wait_until(lambda: jobs(services) == [("running", 1)])
    runner.give_back()
    assert jobs(services) == [("queued", 0)]
    taken = services.ledger.jobs.take((DRAFT,), "w2", 60)
    stuck.set()
    thread.join(20)
    assert services.ledger.jobs.get(taken.id).worker == "w2"
    assert jobs(services) == [("running", 1)]


def test_what_a_person_drew_is_read_before_the_pool_is_checked_and_drafted(
    services: Services, runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    for kind in (DRAFT, CHECK, READ_SEG):
        services.ledger.jobs.add(kind, services.task().name, {"series_uid": "1.2"}, f"{kind}:1.2")
        handler = (lambda name: lambda job, heartbeat: done.append(name) or {})(kind)
        monkeypatch.setitem(runner._handlers, kind, handler)
    while runner.one_job():
        continue
    assert done == [READ_SEG, CHECK, DRAFT]
