import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from apscheduler.triggers.date import DateTrigger

from lib.core.errors import InvalidSettings, RegistryUnavailable
from lib.inference.model import Manifest, build_network, save_model
from lib.ledger.book import utc_now
from lib.ledger.ledger import Ledger
from lib.settings import load_settings
from lib.workflows import night
from lib.workflows.due import Due, Standing, decide, due, standing
from lib.workflows.jobs import RETRAIN, retrain_key
from lib.workflows.night import each_day, every_night, last_moment, look, start_night
from lib.workflows.retrain import request_retrain
from lib.workflows.services import Services

CONFIG = replace(load_settings(environ={}).retrain, min_labels=2, min_new=5, max_days=7)
NOW = Standing(labels=30, new=4, unseen=4, champion=3, days=2.0)


@pytest.mark.parametrize(
    ("changed", "is_due", "why"),
    [
        ({}, False, "4 accepted labels that version 3 has not learned from, 2.0 days since the last training; "),
        ({"new": 5, "unseen": 5}, True, "5 accepted labels that version 3 has not learned from; 5 make it due"),
        ({"days": 7.0}, True, "7.0 days since the last training; 7 days make it due"),
        ({"days": None, "age": 6.9}, False, "6.9 days since version 3 was registered, which no training has followed"),
        ({"days": None, "age": 7.0}, True, "7.0 days since version 3 was registered, which no training has followed"),
        ({"days": None, "age": 60.0, "new": 0, "unseen": 0}, False, "no accepted label is new since the last training"),
        ({"days": 2.0, "age": 60.0}, False, "2.0 days since the last training; 5 labels or 7 days make it due"),
        ({"new": 9, "unseen": 0, "days": 90.0}, False, "no accepted label is new since the last training"),
        ({"new": 9, "unseen": 1}, True, "9 accepted labels"),
        ({"champion": None, "days": None}, True, "no model serves yet and 30 labels are accepted"),
        ({"labels": 1, "champion": None}, False, "1 accepted labels of the pool, a training needs 2"),
        ({"new": 9, "open_job": 12}, False, "job 12 is queued or running already"),
    ],
)
def test_a_training_is_due_after_enough_labels_or_days_and_says_why(
    changed: dict[str, float], is_due: bool, why: str
) -> None:
    answer = decide(replace(NOW, **changed), CONFIG)  # type: ignore[arg-type]
    assert answer.is_due is is_due
    assert why in answer.why


def test_without_a_limit_of_days_time_makes_nothing_due() -> None:
    answer = decide(replace(NOW, days=400.0), replace(CONFIG, max_days=0))
    assert answer == Due(
        False,
        "4 accepted labels that version 3 has not learned from, 400.0 days since the last training; 5 labels make it "
        "due",
    )


@pytest.mark.parametrize("at", ["2:00", "24:00", "02:60", "night"])
def test_a_time_of_day_that_is_none_is_refused(at: str) -> None:
    with pytest.raises(InvalidSettings, match=r'retrain.at must be a time of day such as "02:00"'):
        load_settings([("retrain.at", at)], environ={})


def test_labels_that_a_finished_training_could_see_make_no_other_one_due(
    services: Services, label: Callable[..., int]
) -> None:
    task = services.task()
    label("p1")
    label("p2")
    label("c1", "calibration")
    assert standing(services, task) == Standing(labels=2, new=2, unseen=2, champion=None, days=None)
    job_id = request_retrain(services, task)
    assert due(services, task) == Due(False, f"job {job_id} is queued or running already", job_id)
    job = services.ledger.jobs.take((RETRAIN,), "w", 60)
    assert job is not None
    services.ledger.jobs.finish(job)
    found = standing(services, task)
    assert (found.new, found.unseen, found.open_job) == (2, 0, None)
    label("p3")
    assert standing(services, task).unseen == 1


def test_labels_of_an_imported_model_s_task_wait_no_longer_than_those_after_a_training(
    services: Services, label: Callable[..., int], tmp_path: Path
) -> None:
    task = services.task()
    manifest = Manifest.describe(task, 0, {}, ())
    save_model(tmp_path / "m", manifest, build_network(task.network, task.schema).state_dict())
    services.registry.promote(task.name, services.registry.register(task.name, tmp_path / "m", {}))
    few = scheduled(services, min_new=20, max_days=7)
    assert not due(later(few, days=60), task).is_due  # nothing is new
    label("p1")
    label("p2")
    assert not due(later(few, days=6), task).is_due
    answer = due(later(few, days=60), task)
    assert answer.is_due
    assert "60.0 days since version 1 was registered, which no training has followed" in answer.why


def later(services: Services, days: float) -> Services:
    """The rooms on a later day."""
    url = services.settings.ledger.resolved_url(services.settings.var)
    return replace(services, ledger=Ledger(url, lambda: utc_now() + timedelta(days=days)))


NIGHT = "2026-03-01 02:00"


def test_the_night_asks_once_for_what_is_due_and_names_itself(services: Services, label: Callable[..., int]) -> None:
    label("p1")
    label("p2")
    started = start_night(services, NIGHT, "a")
    assert [services.ledger.jobs.get(job_id).task for job_id in started] == [services.task().name]
    asked = services.ledger.audit.list(subject=f"job {started[0]}")
    assert ("schedule", "ask for retraining") in [(row.actor, row.action) for row in asked]


def test_a_night_whose_training_failed_is_not_started_again_by_any_worker(
    services: Services, label: Callable[..., int]
) -> None:
    label("p1")
    label("p2")
    [job_id] = start_night(services, NIGHT, "a")
    services.ledger.jobs.cancel(job_id)
    assert due(services, services.task()).is_due
    assert start_night(services, NIGHT, "b") == []
    assert start_night(services, NIGHT, "a") == []
    assert len(start_night(services, "2026-03-02 02:00", "b")) == 1


def test_a_night_that_found_nothing_due_is_over(services: Services, label: Callable[..., int]) -> None:
    assert start_night(services, NIGHT, "a") == []
    label("p1")
    label("p2")
    assert start_night(services, NIGHT, "b") == []


def test_a_night_that_could_not_be_judged_is_tried_again_when_its_lease_is_over(
    services: Services, label: Callable[..., int], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    label("p1")
    label("p2")
    with monkeypatch.context() as patched:
        patched.setattr(night, "due", lambda *_: (_ for _ in ()).throw(RegistryUnavailable("the registry is away")))
        assert start_night(services, NIGHT, "a") == []
    assert "whether a training is due cannot be told: the registry is away" in caplog.text
    assert start_night(services, NIGHT, "b") == []
    later = Ledger(services.settings.ledger.resolved_url(services.settings.var), lambda: utc_now() + timedelta(hours=1))
    assert len(start_night(replace(services, ledger=later), NIGHT, "b")) == 1


@pytest.mark.parametrize(
    ("at", "now", "expected"),
    [
        ("02:00", datetime(2026, 3, 1, 2, 0), datetime(2026, 3, 1, 2, 0)),
        ("02:00", datetime(2026, 3, 1, 1, 59, 59), datetime(2026, 2, 28, 2, 0)),
        ("23:30", datetime(2026, 1, 1, 0, 10), datetime(2025, 12, 31, 23, 30)),
    ],
)
def test_the_last_scheduled_moment_is_that_of_today_or_of_yesterday(at: str, now: datetime, expected: datetime) -> None:
    assert last_moment(at, now) == expected


@pytest.mark.parametrize(
    ("grace_h", "minutes", "starts"), [(6, 0, True), (6, 360, True), (6, 361, False), (0, 1, True), (0, 2, False)]
)
def test_a_worker_that_comes_up_late_starts_the_night_within_the_grace(
    services: Services, monkeypatch: pytest.MonkeyPatch, grace_h: float, minutes: int, starts: bool
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(night, "start_night", lambda _, moment, holder: asked.append(f"{moment} {holder}") or [1])
    late = scheduled(services, at="02:00", grace_h=grace_h)
    assert look(late, "w", datetime(2026, 3, 1, 2, 0) + timedelta(minutes=minutes)) == ([1] if starts else [])
    assert asked == (["2026-03-01 02:00 w"] if starts else [])


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine whose clock skips an hour on 29 March 2026, from 02:00 to 03:00."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_a_moment_that_the_clock_skips_in_spring_is_no_lost_night(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(night, "start_night", lambda _, moment, holder: asked.append(moment) or [1])
    fired = each_day("02:30").get_next_fire_time(None, datetime(2026, 3, 29, 1, 0).astimezone())
    wall = datetime.fromtimestamp(fired.timestamp())
    assert wall == datetime(2026, 3, 29, 3, 30)
    assert look(scheduled(services, at="02:30", grace_h=0), "w", wall) == [1]
    assert look(scheduled(services, at="02:30", grace_h=0), "w", wall + timedelta(minutes=2)) == []
    assert asked == ["2026-03-29 02:30"]


@pytest.mark.parametrize("grace_h", ["-1", "24"])
def test_a_grace_that_reaches_the_next_night_is_refused(grace_h: str) -> None:
    with pytest.raises(InvalidSettings, match=r"retrain.grace_h must be from 0 to below 24 hours"):
        load_settings([("retrain.grace_h", grace_h)], environ={})


def scheduled(services: Services, **options: object) -> Services:
    settings = replace(services.settings, retrain=replace(services.settings.retrain, **options))
    return replace(services, settings=settings)


def test_the_schedule_fires_each_day_at_the_time_that_is_set() -> None:
    trigger = each_day("02:00", UTC)
    first = trigger.get_next_fire_time(None, datetime(2026, 3, 1, 1, 59, tzinfo=UTC))
    assert first == datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
    assert trigger.get_next_fire_time(first, first + timedelta(seconds=1)) == first + timedelta(days=1)


def test_a_worker_looks_when_it_starts_and_when_the_time_comes(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Services] = []
    monkeypatch.setattr(night, "each_day", lambda at: DateTrigger(datetime.now(UTC) + timedelta(seconds=0.2)))
    monkeypatch.setattr(night, "look", lambda found, holder, now: called.append(found))
    waiting = scheduled(services, at="02:00")
    with every_night(waiting):
        end = time.monotonic() + 10
        while len(called) < 2 and time.monotonic() < end:
            time.sleep(0.01)
    assert called == [waiting, waiting]


def test_without_a_time_of_day_no_worker_looks(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(night, "BackgroundScheduler", lambda: 1 / 0)
    with every_night(scheduled(services, at="")):
        pass


HOLDER = """
import sys, time
from lib.ledger.ledger import Ledger
jobs = Ledger(sys.argv[1]).jobs
job = jobs.take(("retrain",), "holder", 1.0)
print(job and job.id, flush=True)
while job and jobs.beat(job):
    time.sleep(0.1)
"""


def test_one_process_trains_at_a_time_and_a_dead_one_loses_its_job(services: Services) -> None:
    task = services.task()
    url = services.settings.ledger.resolved_url(services.settings.var)
    jobs = services.ledger.jobs
    job_id = request_retrain(services, task)
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{HOLDER}", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == f"{job_id}\n"
        assert jobs.add(RETRAIN, task.name, {}, retrain_key(task.name)) == job_id
        time.sleep(1.2)  # longer than the lease: the holder beats, so it keeps the job
        assert jobs.take((RETRAIN,), "other", 1.0) is None
        holder.kill()
        holder.wait()
        end = time.monotonic() + 20
        while (taken := jobs.take((RETRAIN,), "other", 60.0)) is None and time.monotonic() < end:
            time.sleep(0.05)
    assert taken is not None
    assert (taken.id, taken.attempts, taken.worker) == (job_id, 2, "other")
