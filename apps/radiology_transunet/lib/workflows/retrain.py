"""Retraining: accepted labels to a challenger, and to the champion when the gate lets it pass.

A run can be killed at any line and goes on in its folder, var/jobs/<job id>: the plan (which annotations, which seed)
is written first, then the network's checkpoint, then the finished model with its manifest; the version is registered
under the plan's key, and a verdict that was given is not given again. The folder goes once the ledger says that the job
is done, never before: what is retaken after a kill must find it. Another machine has no such folder, but finds the
version under that key: what is registered is not trained again, and is judged and told of as it is, whoever made it.

A run starts from the champion, shrunk towards fresh weights, when it fits the task (labels, preprocessing and network
as they are now) and the request does not ask for `scratch`; otherwise, and each so many-th time, from fresh weights.
"""

import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from lib.core.errors import ManifestMismatch, NotFound
from lib.ledger.rows import JobRow
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.workflows.casecache import CaseCache, prune_cache
from lib.workflows.collect import CalibrationCases, PromotionCases, collect
from lib.workflows.estimates import refit_quality
from lib.workflows.heartbeat import Stopped, require_held
from lib.workflows.jobs import RETRAIN, retrain_key
from lib.workflows.judging import Exam, decide
from lib.workflows.morning import Night, morning_report
from lib.workflows.plan import Plan, job_folder, open_plan, require_params, with_sound_start
from lib.workflows.presegment import deliver_outbox, enqueue_drafts
from lib.workflows.promotion import reconcile_promotions
from lib.workflows.recipe import FRESH, START, VERSION, hold_line, start_number
from lib.workflows.retrain_fit import FETCHED, MEAN, MEASURED, MODEL, Report, finished_model, part, train_model
from lib.workflows.retrain_notes import note_tags, notes_of, take_note
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.inference.model import Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a retraining ended with; the result of its job.

    Attributes:
        version: of the challenger.
        promoted: whether it serves.
        reason: the gate's, in words.
        metrics: mean Dice and Dice by label on the calibration cases.
        training: number of annotations that it learned from.
        calibration: number of annotations that it was measured on.
        start: version whose weights it started from; None = fresh ones.
        seconds: of this attempt.
        verdict: all figures of the gate, as `Verdict.to_dict` gives them.
        notes: what went other than planned, in words.
    """

    version: int
    promoted: bool
    reason: str
    metrics: Mapping[str, float]
    training: int
    calibration: int
    start: int | None
    seconds: float
    verdict: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for the job's row."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "metrics": dict(self.metrics), "verdict": dict(self.verdict), "notes": list(self.notes)}


def request_retrain(
    services: Services, task: Task, params: Mapping[str, Any] | None = None, actor: str = "unknown"
) -> int:
    """Queue a retraining; a task has one at a time, and the one that is open is returned.

    Args:
        services: the rooms.
        task: to train.
        params: any of `plan.PARAMS`.
        actor: who asks.

    Returns:
        The id of the job.

    Raises:
        InvalidInput: a parameter that does not exist or is out of range.
    """
    checked = require_params(task, params or {})
    payload = {"params": checked, "actor": actor}
    attempts = services.settings.worker.attempts
    job_id = services.ledger.jobs.add(RETRAIN, task.name, payload, retrain_key(task.name), attempts)
    services.ledger.audit.add(actor, "ask for retraining", f"job {job_id}", {"task": task.name, **checked})
    return job_id


def run_retrain(services: Services, job: JobRow, report: Report, stop: Event) -> Outcome:
    """Do a training job from wherever an earlier attempt left it.

    Args:
        services: the rooms.
        job: taken from the ledger.
        report: called often with the share done, in [0, 1], and what is going on.
        stop: set to end the run; it raises Stopped within a few steps.

    Raises:
        TrainingFailed: too few usable labels, no memory for the steps, or a loss that is not a number.
        OutOfMemory: no memory to measure a model; another attempt goes on from here.
        Stopped: because of `stop`.
        ArchiveUnavailable: the archive is away; another attempt goes on from here.
        DiskFull: no room; another attempt goes on from here.
        WeightsUnavailable: the folder of all weights is away; another attempt goes on from here.
    """
    started = time.monotonic()
    task = services.task(job.task)
    tell = _stoppable(report, stop)
    _tidy(services, task, tell)
    plan = open_plan(services, task, job)
    cache = CaseCache(services, task)
    note = partial(take_note, services, job.id)
    calibration = collect(services, cache, CalibrationCases, plan.calibration, part(tell, 0.0, FETCHED / 2), note)
    promotion = collect(services, cache, PromotionCases, plan.promotion, part(tell, FETCHED / 2, FETCHED / 2), note)
    made = _made(services, task, job, plan, cache, calibration, tell)
    manifest = _load_manifest(made.folder, task)
    exam = Exam(made.version, manifest.metrics, manifest.metrics.get(MEAN), calibration, promotion)
    estimates = partial(refit_quality, services, task, made.version, calibration, part(tell, 1.0, 1.0))
    hold = partial(_require_wanted, services, job, tell)
    verdict = decide(services, task, exam, part(tell, MEASURED, 1.0), estimates, hold)
    if verdict.promote:
        _redraft(services, task, made)
    folder, notes = job_folder(services, job.id), notes_of(services, job.id)
    planned = _planned(plan, folder, manifest)
    night = Night(task, job, made.version, verdict, planned, manifest.annotations, calibration, folder, notes)
    morning_report(services, night, part(tell, 1.0, 1.0))
    return Outcome(
        version=made.version,
        promoted=verdict.promote,
        reason=verdict.reason,
        metrics=manifest.metrics,
        training=len(manifest.annotations),
        calibration=len(calibration),
        start=start_number(made),
        seconds=time.monotonic() - started,
        verdict=verdict.to_dict(),
        notes=notes,
    )


def _tidy(services: Services, task: Task, tell: Report) -> None:
    """Complete what earlier runs left open, and let go of what nobody needs; without the weights nothing begins."""
    services.registry.require_weights(task.name)
    reconcile_promotions(services, task.name)
    _sweep(services)
    prune_cache(services)
    while deliver_outbox(services):
        tell(0.0, "delivering labels to the archive")


def _made(
    services: Services,
    task: Task,
    job: JobRow,
    plan: Plan,
    cache: CaseCache,
    calibration: CalibrationCases,
    tell: Report,
) -> ModelVersion:
    """The version that the job made on whatever machine, made now if none did; held against the head of the line."""
    made = services.registry.find(task.name, plan.key)
    if made is None:
        model = finished_model(services, job)
        if model is None:
            plan = with_sound_start(services, job, plan)
            model = train_model(services, task, job, plan, cache, calibration, tell)
        made = services.registry.get(task.name, _register(services, task, job, plan, model))
    hold_line(services, task, made, calibration, part(tell, MEASURED, MEASURED))
    return made


def _register(services: Services, task: Task, job: JobRow, plan: Plan, model: Path) -> int:
    """The number of a finished model; where another process registered one under the plan's key meanwhile, of that."""
    tags = {"job": str(job.id), START: FRESH if plan.start is None else f"{VERSION}{plan.start}"}
    tags |= note_tags(services, job.id)
    return services.registry.register(task.name, model, _load_manifest(model, task).metrics, tags, plan.key)


def _planned(plan: Plan, folder: Path, manifest: "Manifest") -> tuple[int, ...]:
    """Ids of the annotations that the version was to learn from.

    Where this job's folder does not have its weights, another machine made it by a plan that is not here: then those
    that it has learned from.
    """
    from lib.inference.model import read_manifest

    try:
        is_ours = read_manifest(folder / MODEL).sha256 == manifest.sha256
    except (NotFound, ManifestMismatch):  # no model is here, or a torn one: not the one that was registered
        is_ours = False
    return plan.training if is_ours else manifest.annotations


def _redraft(services: Services, task: Task, made: ModelVersion) -> None:
    """Queue drafts of a version that serves, where the settings say so.

    One that an earlier attempt let serve may have been rolled back since: then the drafts that are there stay.
    """
    config = services.settings.presegment
    if config.automatic and config.redraft and services.registry.get(task.name, made.version).is_champion:
        enqueue_drafts(services, task)


def _require_wanted(services: Services, job: JobRow, tell: Report) -> None:
    """Raise Stopped when the run was told to stop, or when the job is cancelled or somebody else's by now."""
    tell(1.0, "recording the verdict")
    require_held(services.ledger, job)


def _stoppable(report: Report, stop: Event) -> Report:
    """A report that raises Stopped once somebody wants the run to end."""

    def tell(share: float, message: str) -> None:
        if stop.is_set():
            raise Stopped(f"stopped while {message}")
        report(share, message)

    return tell


def _sweep(services: Services) -> None:
    """Remove the folders of trainings that are closed."""
    for folder in (services.settings.var / "jobs").glob("*"):
        try:
            closed = services.ledger.jobs.get(int(folder.name)).state in ("done", "failed", "cancelled")
        except (NotFound, ValueError):
            closed = True
        if closed:
            shutil.rmtree(folder, ignore_errors=True)


def _load_manifest(model: Path, task: Task) -> "Manifest":
    """The manifest of a finished model that fits the task; the task may have changed since an earlier attempt."""
    from lib.inference.model import read_manifest

    manifest = read_manifest(model)
    manifest.require_fits(task)
    return manifest
