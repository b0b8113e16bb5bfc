"""Every series is scored by the champion in the background: in order, once, whatever ends the process."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lib.core.errors import NoChampion, WeightsUnavailable
from lib.core.values import Prediction, Volume
from lib.inference.model import Manifest, build_network, save_model
from lib.inference.predictor import Predictor
from lib.ledger.book import utc_now
from lib.ledger.ledger import Ledger
from lib.ledger.rows import NewHuman, NewSeries
from lib.ledger.scorings import Scorings
from lib.registry.registry import Registry
from lib.registry.versions import ModelVersion
from lib.workflows import looking, scoring
from lib.workflows import worker as worker_module
from lib.workflows.heartbeat import Heartbeat
from lib.workflows.jobrunner import JobRunner
from lib.workflows.jobs import CHECK, DRAFT, SCORE, score_key
from lib.workflows.looking import LocalLook
from lib.workflows.models import ChampionCache
from lib.workflows.presegment import draft_job, enqueue_drafts, kept_values, load_series, presegment
from lib.workflows.promotion import promote, rollback
from lib.workflows.scoring import Progress, progress, start_scoring
from lib.workflows.services import Services
from lib.workflows.worker import Worker

AddSeries = Callable[..., str]
TESTS = Path(__file__).resolve().parents[2]


def serve(services: Services, folder: Path) -> int:
    """Promote a random version."""
    task = services.task()
    state = build_network(task.network, task.schema).state_dict()
    save_model(folder, Manifest.describe(task, 0, {}, ()), state)
    version = services.registry.register(task.name, folder, {})
    promote(services, task, version, "a test")
    return version


@pytest.fixture
def champion(services: Services, tmp_path: Path) -> int:
    return serve(services, tmp_path / "model")


@pytest.fixture
def runner(services: Services) -> JobRunner:
    return JobRunner(services, ChampionCache(services), "w1")


def versions(services: Services, uid: str) -> dict[int, str]:
    return dict(services.ledger.scorings.versions(uid, services.task().name))


def state(services: Services) -> tuple[str, str]:
    """State and error of the newest scoring job."""
    job = services.ledger.jobs.list(kind=SCORE)[0]
    return job.state, job.error


def test_all_series_are_scored_the_labelled_ones_too_without_a_draft(
    services: Services, add_series: AddSeries, label: Callable[..., int], champion: int, runner: JobRunner
) -> None:
    uid, labelled = add_series("P1"), services.ledger.annotations.get(label("P2", seed=1)).series_uid
    assert start_scoring(services, services.task())
    assert runner.one_job()
    assert services.ledger.jobs.list(kind=SCORE)[0].result == {"scored": 2, "failed": 0, "version": champion}
    assert versions(services, uid) == versions(services, str(labelled)) == {champion: ""}
    task = services.task()
    assert services.ledger.annotations.list(status="draft") == []
    (case,) = services.ledger.queue.candidates(task.name, champion, champion)
    (anchor,) = services.ledger.queue.labelled(task.name, "pool", champion)
    said = ChampionCache(services).predictor(task.name)[0].predict(load_series(services, uid).volume)
    assert {name: values.entropy for name, values in case.scores.items()} == pytest.approx(dict(said.scores))
    assert case.scores["ball"].volume_ml == kept_values(said)["volume_ml"]["ball"]
    np.testing.assert_allclose(np.frombuffer(case.vector, "<f4"), said.embedding, rtol=1e-5)
    assert len(anchor.vector) == len(case.vector)
    assert not start_scoring(services, task)


def test_a_draft_brings_the_scores_so_that_nothing_is_predicted_twice(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner
) -> None:
    task, drafted, waiting = services.task(), add_series("P1"), add_series("P2")
    presegment(services, ChampionCache(services), task, drafted)
    assert versions(services, drafted) == {champion: ""}
    assert enqueue_drafts(services, task) == 1
    assert not start_scoring(services, task)  # the other one is left to its draft
    assert progress(services, task) == Progress(champion, 1, 0, 2, "waiting")
    assert runner.one_job()
    assert versions(services, waiting) == {champion: ""}
    assert progress(services, task) == Progress(champion, 2, 0, 2, "done")


def test_series_without_scores_come_first_and_their_drafts_too(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner, tmp_path: Path
) -> None:
    task, known = services.task(), [add_series("P1"), add_series("P2")]
    start_scoring(services, task)
    assert runner.one_job()
    new = [add_series("P3"), add_series("P4")]
    serve(services, tmp_path / "newer")
    wanted = [*reversed(new), *reversed(known)]
    enqueue_drafts(services, task)
    last = add_series("P5")
    enqueue_drafts(services, task)
    jobs = [services.ledger.jobs.take((DRAFT,), "w", 60) for _ in range(5)]
    assert [job.payload["series_uid"] for job in jobs if job] == [*wanted[:2], last, *wanted[2:]]
    for job in jobs:
        services.ledger.jobs.finish(job)  # type: ignore[arg-type]
    services.archive.fetched.clear()  # type: ignore[attr-defined]
    assert start_scoring(services, task)
    assert JobRunner(services, ChampionCache(services), "w2").one_job()
    assert services.archive.fetched == [last, *wanted]  # type: ignore[attr-defined]


def test_scoring_gives_way_to_what_is_more_urgent_and_goes_on_behind_it(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids, task = [add_series(f"P{n}") for n in range(3)], services.task()
    start_scoring(services, task)
    honest = Predictor.predict

    def predict(self: Predictor, volume: Volume, *more: object) -> Prediction:
        services.ledger.jobs.add(CHECK, "", {"series_uid": uids[0]}, "check")
        return honest(self, volume, *more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "predict", predict)
        assert runner.one_job()
    assert state(services) == ("queued", "more urgent work waits")
    assert sum(bool(versions(services, uid)) for uid in uids) == 1
    assert runner.one_job()
    assert services.ledger.jobs.list(kind=CHECK)[0].state == "done"
    while runner.one_job():
        pass
    assert all(versions(services, uid) for uid in uids)
    assert [job.state for job in services.ledger.jobs.list(kind=SCORE)] == ["done"]


def test_what_is_scored_stays_scored_when_the_process_is_killed(
    services: Services, add_series: AddSeries, champion: int, tmp_path: Path
) -> None:
    uids = [add_series(f"P{n}") for n in range(4)]
    start_scoring(services, services.task())
    registry = services.registry
    places = (services.settings.var, tmp_path / "task.yaml", tmp_path / "archive", registry._uri, registry._models)
    command = [sys.executable, str(TESTS / "killed_scoring.py"), *map(str, places)]
    path = os.pathsep.join(map(str, (TESTS, TESTS.parent / "apps" / "radiology_transunet")))
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [bool(versions(services, uid)) for uid in reversed(uids)] == [True, True, False, False]
    assert state(services)[0] == "running"
    later = Ledger(f"sqlite:///{services.settings.var}/ledger.db", lambda: utc_now() + timedelta(hours=1))
    services.archive.fetched.clear()  # type: ignore[attr-defined]
    assert JobRunner(replace(services, ledger=later), ChampionCache(services), "w2").one_job()
    assert services.archive.fetched == [uids[1], uids[0]]  # type: ignore[attr-defined]
    assert services.ledger.jobs.list(kind=SCORE)[0].result == {"scored": 2, "failed": 0, "version": champion}


def test_a_series_that_cannot_be_scored_keeps_no_other_from_it(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, bad, last = (add_series(f"P{n}", seed=n) for n in range(3))
    other, task = load_series(services, bad).volume.array, services.task()
    honest = Predictor.predict

    def predict(self: Predictor, volume: Volume, *more: object) -> Prediction:
        if np.array_equal(volume.array, other):
            raise ValueError("a tensor is not square")
        return honest(self, volume, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "predict", predict)
    start_scoring(services, task)
    assert runner.one_job()
    assert versions(services, bad) == {champion: "ValueError: a tensor is not square"}
    assert versions(services, first) == versions(services, last) == {champion: ""}
    assert progress(services, task) == Progress(champion, 2, 1, 3, "done")
    assert not start_scoring(services, task)
    assert start_scoring(services, task, insist=True)


def break_predictions(monkeypatch: pytest.MonkeyPatch, errors: dict[str, Exception]) -> list[str]:
    """Let the look at some series, or at all others, raise an error; the series that are looked at."""
    seen: list[str] = []
    honest = looking.looked

    def looked(predictor: Predictor, version: int, picture: looking.Picture) -> looking.Answer:
        def predict(self: Predictor, volume: Volume, *more: object) -> Prediction:
            if (error := errors.get(picture.series_uid, errors.get(""))) is not None:
                raise error
            return predict_honestly(self, volume, *more)  # type: ignore[arg-type]

        seen.append(picture.series_uid)
        with monkeypatch.context() as patch:
            patch.setattr(Predictor, "predict", predict)
            return honest(predictor, version, picture)

    predict_honestly = Predictor.predict
    monkeypatch.setattr(looking, "looked", looked)
    return seen


DEVICE = RuntimeError("CUDA error: unspecified launch failure")
MEMORY = RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("error", [DEVICE, MEMORY])
def test_a_broken_or_full_device_fails_the_job_and_leaves_no_mark_on_the_series(
    services: Services,
    add_series: AddSeries,
    champion: int,
    runner: JobRunner,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    uids = [add_series(f"P{n}") for n in range(4)]
    break_predictions(monkeypatch, {"": error})
    start_scoring(services, services.task())
    assert runner.one_job()
    assert [versions(services, uid) for uid in uids] == [{}] * 4
    found, words = state(services)
    assert (found, str(error) in words) == ("queued", True)


def test_series_that_fail_at_the_head_of_the_list_are_marked_and_tried_again_after_a_growing_rest(
    services: Services, add_series: AddSeries, champion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, task = add_series("P0"), services.task()
    bad = [add_series(f"P{n}") for n in range(1, 5)]
    errors: dict[str, Exception] = dict.fromkeys(bad, ValueError("a tensor is not square"))
    seen = break_predictions(monkeypatch, errors)
    clock = [0.0]
    ledger = Ledger(f"sqlite:///{services.settings.var}/ledger.db", lambda: utc_now() + timedelta(minutes=clock[0]))
    later = replace(services, ledger=ledger)
    runner = JobRunner(later, ChampionCache(later), "w1")
    start_scoring(later, task)
    assert runner.one_job()
    assert seen == [*reversed(bad), good]
    assert versions(later, good) == {champion: ""}
    assert [versions(later, uid) for uid in bad] == [{champion: "ValueError: a tensor is not square"}] * 4
    assert not start_scoring(later, task)
    errors.pop(bad[0])
    for minutes, is_due in ((0.9, False), (1.1, True)):
        clock[0] = minutes
        assert start_scoring(later, task) == is_due
    assert runner.one_job()
    assert versions(later, bad[0]) == {champion: ""}
    for minutes, is_due in ((2.5, False), (3.5, True)):
        clock[0] = minutes
        assert start_scoring(later, task) == is_due


def test_a_series_too_large_for_the_memory_is_marked_once_another_one_is_scored_after_it(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, large = add_series("P0"), [add_series("P1"), add_series("P2")]
    break_predictions(monkeypatch, dict.fromkeys(large, MEMORY))
    start_scoring(services, services.task())
    assert runner.one_job()
    assert versions(services, good) == {champion: ""}
    assert all("out of memory" in versions(services, uid)[champion] for uid in large)


def test_a_model_that_fails_on_many_series_in_a_row_rests_and_begins_behind_them(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "MANY", 3)
    good, task = add_series("P0"), services.task()
    bad = [add_series(f"P{n}") for n in range(1, 4)]
    seen = break_predictions(monkeypatch, dict.fromkeys(bad, ValueError("odd")))
    start_scoring(services, task)
    assert runner.one_job()
    assert state(services)[0] == "failed"
    assert "must score some of 3 series in a row, it scored none" in state(services)[1]
    assert all(versions(services, uid) == {champion: "ValueError: odd"} for uid in bad)
    assert start_scoring(services, task)
    assert not runner.one_job()  # it rests
    services.ledger.jobs.add(SCORE, task.name, {}, score_key(task.name))
    assert runner.one_job()
    assert seen == [*reversed(bad), good]


def test_series_that_find_no_memory_at_the_head_of_the_list_do_not_block_the_others(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, task = [add_series("P0"), add_series("P1")], services.task()
    large = [add_series(f"P{n}") for n in range(2, 5)]
    break_predictions(monkeypatch, dict.fromkeys(large, MEMORY))
    start_scoring(services, task)
    assert runner.one_job()
    assert state(services)[0] == "queued"
    later = Ledger(f"sqlite:///{services.settings.var}/ledger.db", lambda: utc_now() + timedelta(minutes=1))
    assert JobRunner(replace(services, ledger=later), ChampionCache(services), "w2").one_job()
    assert [versions(services, uid) for uid in good] == [{champion: ""}] * 2


def test_scores_of_old_images_are_not_kept_when_slices_arrive_meanwhile(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid, task, looks = add_series("P1"), services.task(), list[int]()
    honest = Predictor.predict

    def predict(self: Predictor, volume: Volume, *more: object) -> Prediction:
        looks.append(1)
        if len(looks) == 1:
            known = services.ledger.series.get(uid)
            grown = NewSeries(uid, known.study_uid, "P1", "pool", "CT", "ball", known.instances + 1)
            services.ledger.series.add(grown)
            services.ledger.series.set_ready(uid, [], known.frame_of_reference_uid, None)
        elif len(looks) == 2:
            assert versions(services, uid) == {}
        return honest(self, volume, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "predict", predict)
    start_scoring(services, task)
    assert runner.one_job()
    assert len(looks) == 2
    assert versions(services, uid) == {champion: ""}
    assert services.ledger.jobs.list(kind=SCORE)[0].result["scored"] == 1


def test_scoring_waits_for_an_archive_that_is_away_and_goes_on_where_it_was(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner
) -> None:
    uids = [add_series(f"P{n}") for n in range(3)]
    start_scoring(services, services.task())
    services.archive.goes_after = 2  # type: ignore[attr-defined]
    assert runner.one_job()
    assert [bool(versions(services, uid)) for uid in reversed(uids)] == [True, True, False]
    assert state(services) == ("queued", "the archive is away")


def test_each_switch_of_the_champion_starts_the_scoring_of_what_it_has_not_scored(
    services: Services, add_series: AddSeries, tmp_path: Path, runner: JobRunner
) -> None:
    uid, task = add_series("P1"), services.task()
    with pytest.raises(NoChampion):
        start_scoring(services, task)
    worker = Worker(services, threading.Event())
    worker._stop.set()  # no pauses
    first = serve(services, tmp_path / "first")
    presegment(services, ChampionCache(services), task, uid)
    other = add_series("P2")
    presegment(services, ChampionCache(services), task, other)
    second = serve(services, tmp_path / "second")
    services.ledger.annotations.add_human(NewHuman(uid, task.name, "Ann", nothing_found=True), accept=True)
    worker._refresh()
    assert [job.kind for job in services.ledger.jobs.list(state="queued", task=task.name)] == [SCORE, DRAFT]
    fresh = JobRunner(services, ChampionCache(services), "w2")
    while fresh.one_job():
        pass
    assert versions(services, uid) == versions(services, other) == {first: "", second: ""}
    arrival = add_series("P3")
    presegment(services, ChampionCache(services), task, arrival)
    rollback(services, task, "a test")
    worker._refresh()
    assert [job.payload["series_uid"] for job in services.ledger.jobs.list(kind=DRAFT, state="queued")] == [
        other,
        arrival,
    ]  # the newest job first
    assert not start_scoring(services, task)  # the labelled one has the scores of that version still


def test_a_switch_that_is_seen_while_the_registry_is_away_is_followed_once_it_is_back(
    services: Services,
    add_series: AddSeries,
    champion: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    task = services.task()
    other = replace(task, name="other")
    services = replace(services, tasks={task.name: task, other.name: other})
    add_series("P1")
    worker, ranked = Worker(services, threading.Event()), list[str]()
    worker._stop.set()  # no pauses
    monkeypatch.setattr(worker_module, "refresh_queues", lambda _, task: ranked.append(task.name))
    honest = type(services.registry).champion

    def away(self: Registry, name: str) -> ModelVersion | None:
        if name == task.name:
            raise WeightsUnavailable("the share is not mounted")
        return honest(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Registry, "champion", away)
        for _ in range(2):
            worker._refresh()
    assert ranked == [task.name, other.name] * 2
    assert [record.message for record in caplog.records if "not mounted" in record.message] == [
        f"task {task.name}: the share is not mounted; trying again every 5 s"
    ]
    assert services.ledger.jobs.list() == []
    worker._refresh()
    assert [job.kind for job in services.ledger.jobs.list(state="queued", task=task.name)] == [DRAFT]
    assert not worker._changed.is_set()


def test_after_a_turn_the_scoring_of_one_task_lets_that_of_another_go_first(
    services: Services, add_series: AddSeries, champion: int, runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "TURN", 2)
    task, jobs = services.task(), services.ledger.jobs
    uids = [add_series(f"P{n}") for n in range(3)]
    start_scoring(services, task)
    other = jobs.add(SCORE, "other", {}, score_key("other"))
    assert runner.one_job()
    assert [bool(versions(services, uid)) for uid in reversed(uids)] == [True, True, False]
    (mine,) = jobs.list(kind=SCORE, task=task.name)
    assert (mine.state, mine.error) == ("queued", "the series of another task wait")
    assert [job.id for _ in range(2) if (job := jobs.take((SCORE,), "w2", 60))] == [other, mine.id]


def test_the_archive_is_asked_once_for_many_rounds_and_what_is_to_be_drafted_by_then_is_left_out(
    services: Services, add_series: AddSeries, champion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "ROUND", 1)
    monkeypatch.setattr(scoring, "URGENT", ())
    uids, task = [add_series(f"P{n}") for n in range(3)], services.task()
    lists, ask = list[int](), Scorings.wanted

    def wanted(self: Scorings, *given: Any) -> list[str]:
        found = ask(self, *given)
        if given[5] is None:
            lists.append(len(found))
            services.ledger.jobs.add_many(DRAFT, task.name, [draft_job(task, uids[1], champion)])
        return found

    seen = break_predictions(monkeypatch, {})
    start_scoring(services, task)
    monkeypatch.setattr(Scorings, "wanted", wanted)
    job = services.ledger.jobs.take((SCORE,), "w1", 60)
    assert job is not None
    heartbeat = Heartbeat(services.ledger, job, 60)
    done = scoring.score_all(services, ChampionCache(services), task, job, heartbeat)
    assert done == {"scored": 2, "failed": 0, "version": champion}
    assert (seen, lists) == ([uids[2], uids[0]], [3, 0])
    assert heartbeat._where == (pytest.approx(2 / 3), "scored 2 series")


def test_the_files_of_a_champion_are_read_once_a_version(services: Services, champion: int, tmp_path: Path) -> None:
    task = services.task()
    first = scoring._sent(services, task, LocalLook(ChampionCache(services), task))
    assert scoring._sent(services, task, first) is first
    newer = serve(services, tmp_path / "newer")
    assert scoring._sent(services, task, first).version == newer
