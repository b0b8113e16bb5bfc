import json
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from lib.core.errors import ArchiveUnavailable, InvalidInput, TrainingFailed
from lib.inference.model import read_manifest
from lib.ledger.jobreads import ALONE
from lib.ledger.rows import JobRow
from lib.workflows import retrain, retrain_fit
from lib.workflows.gate import Verdict
from lib.workflows.jobs import RETRAIN
from lib.workflows.plan import job_folder
from lib.workflows.promotion import promote, rollback
from lib.workflows.reportfiles import reports
from lib.workflows.retrain import Outcome, Stopped, request_retrain, run_retrain
from lib.workflows.retrain_fit import figures_of
from lib.workflows.services import Services

Label = Callable[..., int]


def take(services: Services, **params: object) -> JobRow:
    request_retrain(services, services.task(), params, "tester")
    job = services.ledger.jobs.take(("retrain",), "worker", 60)
    assert job is not None
    return job


def run(services: Services, job: JobRow) -> Outcome:
    return run_retrain(services, job, lambda share, message: None, Event())


@pytest.fixture
def recorded() -> None:
    """Asks for the run's record in the registry and the morning report."""


@pytest.fixture(autouse=True)
def _unrecorded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run's record and no report, which take longer than all the rest, unless they are asked for."""
    if "recorded" not in request.fixturenames:
        monkeypatch.setattr(retrain_fit, "log_retraining", lambda *_: None)
        monkeypatch.setattr(retrain, "morning_report", lambda *_: None)


def finish(services: Services) -> None:
    """Record that the training that runs is done."""
    (job,) = services.ledger.jobs.list(kind="retrain", state="running")
    assert services.ledger.jobs.finish(job)


@pytest.fixture
def cohort(label: Label) -> dict[str, list[int]]:
    """Three labels to learn from, one with the rare cube; two to measure on."""
    return {
        "pool": [label("p1", seed=1, cube=True), label("p2", seed=2), label("p3", seed=3)],
        "calibration": [label("c1", "calibration", seed=4), label("c2", "calibration", seed=5)],
    }


def test_a_first_training_registers_and_promotes_a_version_with_its_manifest(
    services: Services, cohort: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[tuple[int, int, object]] = []
    task = services.task()

    def fit(*given: object) -> None:
        fitted.append((given[2], len(given[3]), services.registry.champion(task.name)))  # type: ignore[arg-type]

    monkeypatch.setattr(retrain, "refit_quality", fit)
    outcome = run(services, take(services))
    assert fitted == [(1, 2, None)]  # its first draft comes with estimates: it did not serve yet
    champion = services.registry.champion(task.name)
    assert champion is not None
    assert (outcome.version, outcome.promoted, champion.version) == (1, True, 1)
    assert (outcome.training, outcome.calibration, outcome.start) == (3, 2, None)
    manifest = read_manifest(champion.folder)
    assert manifest.annotations == tuple(cohort["pool"])
    assert manifest.labels == (("ball", 3), ("cube", 1))
    assert manifest.task == task.name
    assert manifest.seed == 0
    assert dict(champion.metrics) == dict(manifest.metrics) == dict(outcome.metrics)
    assert manifest.packages["torch"]
    (verdict,) = services.ledger.models.list(task.name)
    assert (verdict.version, verdict.verdict, verdict.state) == (1, "promoted", "done")
    assert "first model" in verdict.reason


@pytest.mark.usefixtures("recorded")
def test_a_training_leaves_its_run_in_the_registry(services: Services, cohort: dict[str, list[int]]) -> None:
    task, job = services.task(), take(services)
    run(services, job)
    (data,) = (services.settings.var / "runs" / task.name).rglob("data.json")
    found = [(row["name"], row["patient"], row["split"]) for row in json.loads(data.read_text())]
    names = [f"annotation {number}" for number in (*cohort["pool"], *cohort["calibration"])]
    splits = ["train"] * 3 + ["held out"] * 2
    assert found == list(zip(names, ["p1", "p2", "p3", "c1", "c2"], splits, strict=True))
    assert len(list((data.parent / "pictures").glob("*.png"))) == 2


@pytest.mark.usefixtures("recorded")
def test_a_registry_that_takes_no_run_ends_no_training(
    services: Services, cohort: dict[str, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    (services.settings.var / "runs").write_text("a file where the folder should be")
    assert run(services, take(services)).promoted
    assert "is not written to the registry" in caplog.text


def test_the_mean_is_over_common_labels_and_a_label_empty_in_both_has_no_figure(
    services: Services, cohort: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = services.task()
    assert figures_of(task, {"ball": 0.8, "cube": 0.2}) == {
        "mean_dice": 0.8,
        "dice/ball": 0.8,
        "dice/cube": 0.2,
    }
    assert figures_of(task, {"ball": None, "cube": 0.2}) == {"dice/cube": 0.2}
    assert figures_of(task, {"ball": None, "cube": None}) == {}


def test_a_worse_challenger_is_recorded_with_the_reason_and_the_champion_stays(
    services: Services, cohort: dict[str, list[int]]
) -> None:
    run(services, take(services, steps=30, seed=1))
    good = services.registry.champion(services.task().name)
    assert good is not None
    assert good.metrics["mean_dice"] > 0.5
    finish(services)
    outcome = run(services, take(services, steps=1, scratch=True))
    assert (outcome.version, outcome.promoted) == (2, False)
    assert outcome.reason.startswith("worse: mean Dice 0.")
    champion = services.registry.champion(services.task().name)
    assert champion is not None
    assert champion.version == 1
    newest = services.ledger.models.list(services.task().name)[0]
    assert (newest.version, newest.verdict, newest.reason) == (2, "kept", outcome.reason)
    assert [model.version for model in services.registry.list(services.task().name)] == [2, 1]


def test_a_further_training_starts_from_the_champion_and_is_measured_against_it(
    services: Services, cohort: dict[str, list[int]]
) -> None:
    first = run(services, take(services, steps=30))
    finish(services)
    second = run(services, take(services, steps=8))
    finish(services)
    fresh = run(services, take(services, scratch=True, steps=8))
    assert (second.start, fresh.start) == (1, None)
    assert second.metrics["mean_dice"] > fresh.metrics["mean_dice"] + 0.1  # the same few steps from fresh weights
    assert f"against {first.metrics['mean_dice']:.4f} of version 1 on 2 calibration cases" in second.reason
    assert services.registry.get(services.task().name, 2).tags["start"] == "version 1"
    assert read_manifest(services.registry.path(services.task().name, 2)).seed == 1


def test_labels_of_models_other_splits_and_unreviewed_ones_are_never_learned(
    services: Services, cohort: dict[str, list[int]], label: Label
) -> None:
    label("x1", "promotion", seed=8)
    label("p8", seed=9, accept=False)
    outcome = run(services, take(services))
    assert read_manifest(services.registry.path(services.task().name, outcome.version)).annotations == tuple(
        cohort["pool"]
    )


def test_too_few_labels_fail_with_what_is_missing(services: Services, label: Label) -> None:
    label("p1", seed=1)
    label("p2", seed=2, accept=False)
    with pytest.raises(TrainingFailed, match=r"needs at least 2 accepted .* got 1; 1 wait for review"):
        run(services, take(services))
    assert services.registry.list(services.task().name) == ()


def test_a_label_whose_series_left_the_archive_is_left_out(services: Services, cohort: dict[str, list[int]]) -> None:
    gone = services.ledger.annotations.get(cohort["pool"][1])
    services.archive.delete_series(gone.series_uid)
    outcome = run(services, take(services))
    assert outcome.training == 2
    assert gone.id not in read_manifest(services.registry.path(services.task().name, 1)).annotations


def test_too_few_usable_labels_say_how_many_cannot_be_used(services: Services, cohort: dict[str, list[int]]) -> None:
    for annotation_id in cohort["pool"][:2]:
        services.archive.delete_series(services.ledger.annotations.get(annotation_id).series_uid)
    with pytest.raises(TrainingFailed, match="got 1; 2 more cannot be used"):
        run(services, take(services))


def test_a_series_in_which_a_person_found_nothing_is_learned_as_background(
    services: Services, cohort: dict[str, list[int]], label: Label
) -> None:
    nothing = label("p9", seed=7, empty=True)
    outcome = run(services, take(services))
    assert nothing in read_manifest(services.registry.path(services.task().name, outcome.version)).annotations


def test_without_calibration_labels_only_a_first_model_is_promoted(services: Services, label: Label) -> None:
    label("p1", seed=1)
    label("p2", seed=2)
    assert run(services, take(services)).promoted
    finish(services)
    second = run(services, take(services))
    assert not second.promoted
    assert "no accepted label of a calibration patient" in second.reason


def test_a_second_training_reads_its_cases_from_the_cache(services: Services, cohort: dict[str, list[int]]) -> None:
    first = run(services, take(services))
    finish(services)
    services.archive.fetched.clear()  # type: ignore[attr-defined]
    run(services, take(services))
    assert services.archive.fetched == []  # type: ignore[attr-defined]
    assert first.version == 1


def test_a_training_removes_what_no_label_names_any_more_from_the_cache(
    services: Services, cohort: dict[str, list[int]]
) -> None:
    run(services, take(services))
    finish(services)
    volumes = services.settings.var / "cache" / "volumes"
    assert len(list(volumes.iterdir())) == 5
    services.ledger.annotations.reject(cohort["pool"][0], "rev", "not good")
    run(services, take(services))
    assert len(list(volumes.iterdir())) == 4


def test_a_deleted_or_broken_cache_is_filled_again(services: Services, cohort: dict[str, list[int]]) -> None:
    first = run(services, take(services, seed=4))
    finish(services)
    cache = services.settings.var / "cache"
    for path in sorted(cache.rglob("*.npz"))[::2]:
        path.write_bytes(b"broken")
    second = run(services, take(services, seed=4, scratch=True))
    assert second.metrics == first.metrics
    finish(services)
    shutil.rmtree(cache)
    assert run(services, take(services, seed=4, scratch=True)).metrics == first.metrics


def test_a_stopped_training_goes_on_from_its_checkpoint_with_its_plan(
    services: Services, cohort: dict[str, list[int]], label: Label, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
    job = take(services, steps=6, seed=3)
    stop = Event()
    seen: list[str] = []

    def report(share: float, message: str) -> None:
        seen.append(message)
        if message.startswith("training"):
            stop.set()

    with pytest.raises(Stopped, match="stopped while training"):
        run_retrain(services, job, report, stop)
    folder = job_folder(services, job.id)
    assert (folder / "checkpoint.pt").exists()
    label("p9", seed=9)  # arrives too late for this run
    assert json.loads((folder / "plan.json").read_text())["training"] == cohort["pool"]
    resumed = run(services, job)
    assert resumed.training == 3
    finish(services)
    services.ledger.annotations.reject(max(cohort["calibration"]) + 1, "tester", "only to compare")
    straight = run(services, take(services, steps=6, seed=3, scratch=True))
    assert straight.metrics == resumed.metrics


def test_a_run_killed_after_registration_ends_with_the_same_version(
    services: Services, cohort: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = take(services)
    for target in ("decide", "enqueue_drafts"):

        def die(*arguments: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(retrain, target, die)
            with pytest.raises(KeyboardInterrupt):
                run(services, job)
        assert len(services.registry.list(services.task().name)) == 1
    outcome = run(services, job)
    assert (outcome.version, outcome.promoted) == (1, True)
    assert len(services.ledger.models.list(services.task().name)) == 1


def test_an_archive_that_is_away_ends_the_attempt_and_keeps_the_plan(
    services: Services, cohort: dict[str, list[int]]
) -> None:
    job = take(services)
    services.archive.away = True  # type: ignore[attr-defined]
    with pytest.raises(ArchiveUnavailable):
        run(services, job)
    services.archive.away = False  # type: ignore[attr-defined]
    assert run(services, job).version == 1


def test_a_promotion_queues_drafts_of_the_series_without_a_label(
    services: Services, cohort: dict[str, list[int]], add_series: Callable[..., str]
) -> None:
    waiting = add_series("p7", seed=6)
    run(services, take(services))
    (job,) = services.ledger.jobs.list(kind="draft")
    assert job.payload == {"series_uid": waiting, "version": 1, "failures": 0}


def test_a_promotion_that_a_person_took_back_meanwhile_queues_no_drafts(
    services: Services, cohort: dict[str, list[int]], add_series: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    task = services.task()
    run(services, take(services))
    finish(services)
    add_series("p7", seed=6)
    for draft in services.ledger.jobs.list(kind="draft"):
        services.ledger.jobs.cancel(draft.id)
    job = take(services)
    monkeypatch.setattr("lib.workflows.judging.judge", lambda *_: Verdict(True, "better"))
    with monkeypatch.context() as patch:
        patch.setattr(retrain, "enqueue_drafts", die)
        with pytest.raises(KeyboardInterrupt):
            run(services, job)
    assert rollback(services, task, "it misses the cube").version == 1
    monkeypatch.setattr(retrain, "enqueue_drafts", lambda *_: asked.append(1))
    asked: list[int] = []
    outcome = run(services, job)
    assert (outcome.version, outcome.promoted, outcome.reason, asked) == (2, True, "better", [])
    promote(services, task, 2, "it does not")
    run(services, job)
    assert asked == [1]


def test_progress_rises_through_the_stages_and_names_step_and_loss(
    services: Services, cohort: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lib.training.fit.REPORT_EVERY_S", 0.0)
    heard: list[tuple[float, str]] = []
    run_retrain(services, take(services), lambda share, message: heard.append((share, message)), Event())
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    messages = " | ".join(message for _, message in heard)
    for part in (
        "fetching calibration case 1 of 2",
        "fetching training case 3 of 3",
        "preparing",
        "step 2 of 3, loss ",
    ):
        assert part in messages


def test_trainings_are_of_a_kind_of_which_the_ledger_hands_out_one_at_a_time() -> None:
    assert RETRAIN in ALONE


def test_a_task_has_one_open_training_and_the_request_is_on_record(services: Services) -> None:
    first = request_retrain(services, services.task(), {"steps": 5}, "ann")
    assert request_retrain(services, services.task(), {}, "bob") == first
    assert services.ledger.jobs.get(first).payload == {"params": {"steps": 5}, "actor": "ann"}
    asked = [row for row in services.ledger.audit.list() if row.action == "ask for retraining"]
    assert {row.actor for row in asked} == {"ann", "bob"}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"epochs": 3}, "takes steps, max_minutes, seed, scratch, got epochs"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": True}, "steps .* must be int, got True"),
        ({"max_minutes": "3"}, "max_minutes .* must be float, got '3'"),
        ({"scratch": 1}, "scratch .* must be bool, got 1"),
    ],
)
def test_a_wrong_parameter_is_refused_when_it_is_asked_for(
    services: Services, params: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        request_retrain(services, services.task(), params)


def test_a_folder_of_another_ledgers_job_is_not_continued(
    services: Services, cohort: dict[str, list[int]], tmp_path: Path
) -> None:
    job = take(services)
    folder = job_folder(services, job.id)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "manifest.json").write_text("{}")
    plan = {"key": "job 1 of long ago", "training": [99], "calibration": [], "seed": 0, "start": None}
    (folder / "plan.json").write_text(json.dumps(plan))
    assert run(services, job).training == 3


@pytest.mark.usefixtures("recorded")
def test_a_training_leaves_its_morning_report(services: Services, cohort: dict[str, list[int]]) -> None:
    run(services, take(services))
    (found,) = reports(services.settings.var)
    assert (found["run"], found["version"], found["promoted"]) == (f"{services.task().name}-v0001", 1, True)
    assert (found["annotations"], found["new"], found["learned"]["label"]) == (3, 3, {"ball": 3, "cube": 1})
    assert len(found["curves"]["loss"]) == 3
    assert "first model" in found["reason"]
