"""Retrainings that meet a full disk, a damaged file, no memory or no archive: the champion stays, and they go on."""

import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from errno import ENOSPC
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor

from lib.core.errors import ArchiveUnavailable, LedgerUnavailable
from lib.inference.model import Manifest, build_network, read_manifest, save_model
from lib.ledger.models import Models
from lib.ledger.rows import JobRow
from lib.registry import folders
from lib.taskfile import Task
from lib.training.run import Run
from lib.workflows import retrain, retrain_fit, retrain_job
from lib.workflows.collect import PoolCases, accepted_ids
from lib.workflows.gate import Verdict
from lib.workflows.heartbeat import Stopped
from lib.workflows.morning import CURVES, Night
from lib.workflows.plan import PLAN, Plan, job_folder
from lib.workflows.promotion import promote
from lib.workflows.reportfiles import report_file, reports
from lib.workflows.retrain import Outcome, request_retrain, run_retrain
from lib.workflows.retrain_job import work_on
from lib.workflows.retrain_notes import notes_of
from lib.workflows.services import Services

Label = Callable[..., int]


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def champion(services: Services, label: Label, tmp_path: Path) -> Path:
    """Labels of four patients; the folder of version 1, random weights that serve and have learned from two of them."""
    task = services.task()
    ids = [label("p1", seed=1), label("p2", seed=2), label("p3", seed=3)]
    label("c1", "calibration", seed=4)
    torch.manual_seed(1)
    manifest = Manifest.describe(task, 0, {}, tuple(ids[:2]))
    save_model(tmp_path / "champion", manifest, build_network(task.network, task.schema).state_dict())
    promote(services, task, services.registry.register(task.name, tmp_path / "champion", {}), "the first model")
    return services.registry.path(task.name, 1)


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No record in the registry's runs and no report, which take longer than all the rest."""
    monkeypatch.setattr(retrain_fit, "log_retraining", lambda *_: None)
    monkeypatch.setattr(retrain, "morning_report", lambda *_: None)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps that any training takes."""
    learn, taken = Run.learn, []

    def watched(run: Run, *arguments: object) -> float:
        taken.append(run.step)
        return learn(run, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Run, "learn", watched)
    return taken


def take(services: Services, **params: object) -> JobRow:
    request_retrain(services, services.task(), params, "tester")
    job = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert job is not None
    return job


def run(services: Services, job: JobRow) -> Outcome:
    return run_retrain(services, job, lambda share, message: None, Event())


def elsewhere(services: Services, var: Path) -> Services:
    """The rooms of another machine: ledger, registry and archive are shared, the state folder is its own."""
    var.mkdir()
    return replace(services, settings=replace(services.settings, var=var))


def gate_rows(services: Services, version: int) -> list[Mapping[str, Any]]:
    """What the audit trail has of the gate's verdicts on a version."""
    rows = services.ledger.audit.list(subject=f"{services.task().name} {version}")
    return [row.details for row in rows if row.action == "model.gate"]


def damage(path: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_less_memory_than_thought_is_on_record_everywhere(
    services: Services, champion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Run._forward

    def small(run: Run, images: Tensor, seed: int) -> tuple[Tensor, ...]:
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(run, images, seed)

    monkeypatch.setattr(Run, "_forward", small)
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
    heard: list[str] = []
    job = take(services)
    row = work_on(services, job, on_report=lambda share, message: heard.append(message))
    assert (row.state, row.error) == ("done", "")
    wanted = "no memory for 2 pictures at a time (CUDA out of memory.): 1 at a time from step 1 on, "
    (note,) = row.result["notes"]
    assert note.startswith(wanted)
    assert any(message.startswith("training: ") and wanted in message for message in heard)
    assert services.registry.get(services.task().name, 2).tags["notes"] == note
    (found,) = (r for r in services.ledger.audit.list(subject=f"job {job.id}") if r.action == "training.note")
    assert found.details == {"note": note}
    (report,) = reports(services.settings.var)
    assert report["notes"] == [note]
    assert "Other than planned" in report_file(services.settings.var, report["run"]).read_text()


def test_no_memory_at_all_fails_with_what_to_do_and_the_champion_stays(
    services: Services, champion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Run, "_forward", full)
    row = work_on(services, take(services))
    assert row.state == "failed"
    for part in ("no memory", "neither 2 at a time nor 1", "network transunet of size tiny", "training.batch_size"):
        assert part in row.error
    assert [(v.version, v.is_champion) for v in services.registry.list(services.task().name)] == [(1, True)]


def test_a_folder_of_weights_that_is_not_mounted_is_waited_for_and_nothing_is_trained_from_nothing(
    services: Services, champion: Path, steps: list[int]
) -> None:
    away = champion.parent.rename(champion.parent.with_name(f"{champion.parent.name}-away"))
    job = take(services)
    row = work_on(services, job)
    assert (row.state, row.attempts, steps) == ("queued", 0, [])
    assert "is missing: mount it" in row.error
    assert services.ledger.jobs.take(("retrain",), "worker", 60) is None  # it rests
    away.rename(champion.parent)
    assert [(v.version, v.is_champion) for v in services.registry.list(services.task().name)] == [(1, True)]


@pytest.mark.usefixtures("quiet")
def test_a_kill_right_after_the_fit_loses_neither_curves_nor_training_time(
    services: Services, champion: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    job, save = take(services), save_model

    def save_and_die(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        raise Killed

    monkeypatch.setattr("lib.inference.model.save_model", save_and_die)
    with pytest.raises(Killed):
        run(services, job)
    kept = json.loads((job_folder(services, job.id) / CURVES).read_text())
    assert len(kept["curves"]["loss"]) == services.task().training.steps
    assert kept["seconds"] > 0
    steps.clear()
    assert run(services, job).version == 2
    assert steps == []


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("end", ["stop", "cancel", "another worker"])
def test_a_run_that_is_stopped_or_lost_its_job_before_the_verdict_is_recorded_promotes_nobody(
    services: Services, champion: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    stop, job = Event(), take(services)
    ends = {
        "stop": stop.set,
        "cancel": lambda: services.ledger.jobs.cancel(job.id),
        "another worker": lambda: services.ledger.jobs.give_back(job, "its lease ran out"),
    }
    monkeypatch.setattr(retrain, "refit_quality", lambda *_: ends[end]())  # the last thing before the verdict
    monkeypatch.setattr("lib.workflows.judging.weigh", lambda of, config: Verdict(True, "better"))
    monkeypatch.setattr("lib.workflows.judging.judge", lambda *_: Verdict(True, "better"))
    with pytest.raises(Stopped, match="recording the verdict" if end == "stop" else "was cancelled or taken over"):
        run_retrain(services, job, lambda share, message: None, stop)
    assert [(v.version, v.is_champion) for v in services.registry.list(services.task().name)] == [(2, False), (1, True)]
    assert [row.version for row in services.ledger.models.list(services.task().name)] == [1]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("fault", ["damaged", "missing"])
def test_a_champion_whose_file_is_damaged_is_no_start_and_the_reason_is_noted(
    services: Services, champion: Path, steps: list[int], fault: str
) -> None:
    (weights,) = champion.glob("weights-*.pt")
    if fault == "damaged":
        damage(weights)
    else:
        weights.unlink()
    outcome = run(services, take(services))
    assert outcome.start is None
    (note,) = outcome.notes
    assert note.startswith("version 1 cannot be started from, fresh weights instead: ")
    assert ("must have the SHA-256" if fault == "damaged" else "are missing") in note
    assert services.registry.get(services.task().name, 2).tags["start"] == "fresh weights"
    assert outcome.promoted
    assert "cannot serve any more" in outcome.reason
    assert len(steps) == services.task().training.steps


@pytest.mark.usefixtures("quiet")
def test_a_disk_that_is_full_at_every_place_in_turn_costs_time_alone(
    services: Services, champion: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = ["plan.json", ".npz", "checkpoint.pt", "weights", "manifest.json", ".incoming"]
    full, real = list(places), os.fsync

    def sync(path: Path) -> None:
        if full and full[0] in str(path):
            full.pop(0)
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(path))
        descriptor = os.open(path, os.O_RDONLY)
        real(descriptor)
        os.close(descriptor)

    monkeypatch.setattr("lib.core.atomic.sync", sync)
    monkeypatch.setattr(folders, "sync", sync)
    monkeypatch.setattr(retrain_job, "archive_pause_s", lambda *_: 0.0)
    job, errors = take(services), []
    while (row := work_on(services, job)).state == "queued":
        assert row.attempts == 0
        errors.append(row.error)
        assert [(v.version, v.is_champion) for v in services.registry.list(services.task().name)] == [(1, True)]
        left = [path.name for path in job_folder(services, job.id).rglob("*") if path.name.startswith(".")]
        assert left == []
        assert {path.name for path in champion.parent.iterdir()} == {champion.name}
        again = services.ledger.jobs.take(("retrain",), "worker", 60)
        assert again is not None
        job = again
    assert row.state == "done"
    assert len(errors) == len(places)
    assert all("has no room: " in error and "make room" in error for error in errors)
    assert steps == [0, 0, 1, 2]  # the first step was lost with its checkpoint, nothing after it


@pytest.mark.usefixtures("quiet")
def test_a_ledger_without_room_for_the_verdict_leaves_the_champion_and_the_next_attempt_ends(
    services: Services, champion: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        connection = sqlite3.connect(":memory:")
        connection.execute("PRAGMA max_page_count = 2")
        try:
            connection.execute("CREATE TABLE t AS SELECT zeroblob(100000)")
        except sqlite3.Error as error:
            raise LedgerUnavailable("the ledger does not do its work: database or disk is full") from error
        finally:
            connection.close()
        raise AssertionError("the database found room")

    with monkeypatch.context() as patch:
        patch.setattr(Models, "begin", full)
        patch.setattr(retrain_job, "archive_pause_s", lambda *_: 0.0)
        row = work_on(services, take(services))
    assert (row.state, row.attempts) == ("queued", 0)
    assert "disk is full" in row.error
    task = services.task()
    assert [(v.version, v.is_champion) for v in services.registry.list(task.name)] == [(2, False), (1, True)]
    assert gate_rows(services, 2) == []
    again = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert again is not None
    row = work_on(services, again)
    assert row.state == "done"
    assert len(services.registry.list(task.name)) == 2
    assert steps == [0, 1, 2]
    assert [Verdict.from_dict(details).reason for details in gate_rows(services, 2)] == [row.result["reason"]]


@pytest.mark.usefixtures("quiet")
def test_a_finished_model_that_is_damaged_is_made_again_from_the_last_checkpoint(
    services: Services, champion: Path, steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Killed

    job = take(services)
    with monkeypatch.context() as patch:
        patch.setattr(retrain, "_register", die)
        with pytest.raises(Killed):
            run(services, job)
    model = job_folder(services, job.id) / "model"
    wanted = read_manifest(model).sha256
    (weights,) = model.glob("weights-*.pt")
    damage(weights)
    outcome = run(services, job)
    assert outcome.notes[0].startswith("the finished model is damaged and made again: ")
    assert read_manifest(services.registry.path(services.task().name, 2)).sha256 == wanted
    assert steps == [0, 1, 2]


@pytest.mark.usefixtures("quiet")
def test_a_run_whose_end_was_not_recorded_is_retaken_and_does_nothing_again(
    services: Services, champion: Path, steps: list[int]
) -> None:
    job = take(services)
    first = run(services, job)  # and killed before the ledger heard of it
    second = run(services, job)
    assert steps == [0, 1, 2]
    assert (second.version, second.promoted, second.metrics) == (first.version, first.promoted, first.metrics)
    assert len([row for row in services.ledger.models.list(services.task().name) if row.version == 2]) == 1


@pytest.fixture
def nights(monkeypatch: pytest.MonkeyPatch) -> list[Night]:
    """What the morning reports would be about; none is written."""
    seen: list[Night] = []
    monkeypatch.setattr(retrain_fit, "log_retraining", lambda *_: None)
    monkeypatch.setattr(retrain, "morning_report", lambda services, night, tell: seen.append(night))
    return seen


def killed(*_: object) -> None:
    raise Killed


def died_after_registering(services: Services, monkeypatch: pytest.MonkeyPatch) -> JobRow:
    """A job whose worker registered the version and was killed before the gate."""
    job = take(services)
    with monkeypatch.context() as patch:
        patch.setattr(retrain, "decide", killed)
        with pytest.raises(Killed):
            run(services, job)
    return job


def test_another_machine_judges_the_version_that_a_dead_one_registered_and_trains_nothing(
    services: Services,
    champion: Path,
    label: Label,
    steps: list[int],
    nights: list[Night],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, job = services.task(), died_after_registering(services, monkeypatch)
    registered = read_manifest(services.registry.path(task.name, 2))
    services.registry.note(task.name, 2, "line", "ahead")  # a new plan would start from it
    label("p9", seed=9)  # and learn from this
    steps.clear()
    outcome = run(elsewhere(services, tmp_path / "other"), job)
    assert steps == []
    assert (outcome.version, outcome.start) == (2, 1)
    assert (outcome.training, outcome.metrics) == (3, registered.metrics)
    assert [version.version for version in services.registry.list(task.name)] == [2, 1]
    (night,) = nights
    assert night.planned == night.learned == registered.annotations


@pytest.mark.usefixtures("quiet")
def test_another_machine_judges_what_a_dead_one_registered_though_too_few_labels_are_left_to_train(
    services: Services, champion: Path, steps: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, job = services.task(), died_after_registering(services, monkeypatch)
    for number in accepted_ids(services, task, PoolCases)[:2]:  # one of three is left, where two are needed
        services.ledger.annotations.reject(number, "rev", "not good")
    steps.clear()
    monkeypatch.setattr("lib.workflows.plan.start_of", killed)  # nothing is going to start
    there = elsewhere(services, tmp_path / "other")
    row = work_on(there, job)
    assert (row.state, row.error, steps) == ("done", "", [])
    assert (row.result["version"], row.result["start"], row.result["training"]) == (2, 1, 3)
    assert [verdict.version for verdict in services.ledger.models.list(task.name)] == [2, 1]


def test_a_run_that_was_overtaken_while_it_trained_tells_of_the_version_that_was_registered_first(
    services: Services,
    champion: Path,
    nights: list[Night],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, job, train = services.task(), take(services), retrain_fit.train_model
    ours: list[str] = []

    def train_slowly(services: Services, task: Task, job: JobRow, plan: Plan, *rest: Any) -> Path:
        model = train(services, task, job, plan, *rest)
        ours.append(read_manifest(model).sha256)
        theirs = Manifest.describe(task, 5, {"mean_dice": 0.25}, plan.training[:2])
        save_model(tmp_path / "theirs", theirs, build_network(task.network, task.schema).state_dict())
        tags = {"start": "fresh weights"}
        services.registry.register(task.name, tmp_path / "theirs", theirs.metrics, tags, plan.key)
        return model

    monkeypatch.setattr(retrain, "train_model", train_slowly)
    outcome = run(services, job)
    registered = read_manifest(services.registry.path(task.name, 2))
    assert registered.sha256 not in ours
    assert (outcome.version, outcome.start, outcome.training) == (2, None, 2)
    assert outcome.metrics == {"mean_dice": 0.25}
    (night,) = nights
    assert night.planned == night.learned == registered.annotations


def test_a_run_that_goes_on_in_its_own_folder_knows_what_it_could_not_learn_from(
    services: Services, champion: Path, nights: list[Night]
) -> None:
    task, job = services.task(), take(services)
    ids = [row.id for row in services.ledger.annotations.accepted(task.name) if row.id < 4]
    services.archive.delete_series(services.ledger.annotations.get(ids[2]).series_uid)
    run(services, job)  # and killed before the ledger heard of it
    run(services, job)
    assert [(night.planned, night.learned) for night in nights] == [(tuple(ids), tuple(ids[:2]))] * 2


@pytest.mark.usefixtures("quiet")
def test_a_plan_that_cannot_be_read_is_made_again(services: Services, champion: Path) -> None:
    job = take(services)
    folder = job_folder(services, job.id)
    folder.mkdir(parents=True)
    (folder / PLAN).write_text('{"key": "job 1')
    assert run(services, job).start == 1
    assert json.loads((folder / PLAN).read_text())["start"] == 1


@pytest.mark.usefixtures("quiet")
def test_an_archive_that_goes_away_in_the_middle_of_collecting_costs_no_attempt_and_no_second_fetch(
    services: Services, champion: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrain_job, "archive_pause_s", lambda *_: 0.0)
    archive = services.archive
    archive.fetched.clear()  # type: ignore[attr-defined]
    archive.goes_after = 3  # type: ignore[attr-defined]
    row = work_on(services, take(services))
    assert (row.state, row.attempts, row.error) == ("queued", 0, "the archive is away")
    assert [(v.version, v.is_champion) for v in services.registry.list(services.task().name)] == [(1, True)]
    fetched = list(archive.fetched)  # type: ignore[attr-defined]
    with pytest.raises(ArchiveUnavailable):
        archive.fetch(fetched[0])
    archive.away, archive.goes_after = False, None  # type: ignore[attr-defined]
    again = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert again is not None
    row = work_on(services, again)
    assert (row.state, row.result["training"], row.result["calibration"]) == ("done", 3, 1)
    assert notes_of(services, row.id) == ()
    later = archive.fetched[len(fetched) :]  # type: ignore[attr-defined]
    assert len(fetched) == 3
    assert not set(fetched[:2]) & set(later)  # a series and its SEG: what came whole is in the cache
