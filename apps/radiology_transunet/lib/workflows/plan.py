"""What a training run is going to do, decided once and kept beside its checkpoint.

A run that goes on after a crash trains on the same annotations with the same seed, whatever arrived meanwhile.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lib.core.atomic import replacing
from lib.core.errors import InvalidInput, TrainingFailed
from lib.ledger.rows import JobRow
from lib.taskfile import Task
from lib.training.config import FitConfig
from lib.workflows.collect import CalibrationCases, PoolCases, PromotionCases, Split, accepted_ids
from lib.workflows.recipe import new_labels, start_number, start_of, why_not_from
from lib.workflows.retrain_notes import take_note
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

PLAN = "plan.json"
POOL = Split.POOL.value
FIT_PARAMS = ("steps", "max_minutes", "seed")
PARAMS: Mapping[str, str] = MappingProxyType(
    {
        "steps": "optimiser steps instead of the task's",
        "max_minutes": "time budget in minutes",
        "seed": "of weights, batches and augmentation",
        "scratch": "true = fresh weights instead of the champion's",
    }
)


@dataclass(frozen=True, slots=True)
class Plan:
    """One training run.

    Attributes:
        key: names the run in the registry.
        training: ids of the annotations to learn from.
        calibration: ids of the annotations to tune on.
        seed: of the training.
        start: version whose weights it starts from; None = fresh ones.
        promotion: ids of the annotations that the gate judges on.
        new: those of `training` that `start` has not learned from.
    """

    key: str
    training: tuple[int, ...]
    calibration: tuple[int, ...]
    seed: int
    start: int | None
    promotion: tuple[int, ...] = ()
    new: tuple[int, ...] = ()


def require_params(task: Task, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a request, checked.

    Raises:
        InvalidInput: an unknown one, or a value out of range.
    """
    unknown = sorted(set(params) - set(PARAMS))
    if unknown:
        raise InvalidInput(f"a retraining takes {', '.join(PARAMS)}, got {', '.join(unknown)}")
    for name, value in params.items():
        wanted: tuple[type, ...] = (bool,) if name == "scratch" else (int, float) if name == "max_minutes" else (int,)
        if not isinstance(value, wanted) or (name != "scratch" and isinstance(value, bool)):
            raise InvalidInput(f"{name} ({PARAMS[name]}) must be {wanted[-1].__name__}, got {value!r}")
    fit_config(task, params, 0)
    return dict(params)


def fit_config(task: Task, params: Mapping[str, Any], seed: int) -> FitConfig:
    """The task's training block with a seed, then with what the request asks for."""
    asked = {name: params[name] for name in FIT_PARAMS if name in params}
    return replace(task.training, **{"seed": seed, **asked})


def job_folder(services: Services, job_id: int) -> Path:
    """Where a training keeps what it needs to go on."""
    return services.settings.var / "jobs" / str(job_id)


def open_plan(services: Services, task: Task, job: JobRow) -> Plan:
    """The plan in the job's folder, or a new one; a folder of another ledger's job is emptied.

    Raises:
        TrainingFailed: too few accepted labels to train what is not registered yet; says what is missing.
    """
    folder = job_folder(services, job.id)
    key = f"job {job.id} of {job.created_at.isoformat()}"
    plan = _read(folder / PLAN)
    if plan is None or plan.key != key:
        plan = _make(services, task, job, key)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(folder / PLAN, plan)
    return plan


def with_sound_start(services: Services, job: JobRow, plan: Plan) -> Plan:
    """The plan; from fresh weights, which is noted, where those that it was to start from cannot be used any more."""
    task = services.task(job.task)
    why = None if plan.start is None else why_not_from(services, task, plan.start)
    if why is None:
        return plan
    take_note(services, job.id, f"version {plan.start} cannot be started from, fresh weights instead: {why}")
    fresh = replace(plan, start=None, new=new_labels(services, task, None, plan.training))
    _write(job_folder(services, job.id) / PLAN, fresh)
    return fresh


def require_enough(services: Services, task: Task, usable: int, unusable: int = 0) -> None:
    """Raise TrainingFailed with what is missing, unless there are enough labels to learn from."""
    needed = services.settings.retrain.min_labels
    if usable >= needed:
        return
    waiting = services.ledger.annotations.counts(task.name).get("submitted", 0)
    hints = [f"{unusable} more cannot be used (see the log)"] if unusable else []
    hints += [f"{waiting} wait for review: transunet-label review list"] if waiting else []
    raise TrainingFailed(
        f"task {task.name} needs at least {needed} accepted human labels of patients in the pool, got {usable}; "
        + "; ".join([*hints, "label more series: transunet-label next"])
    )


def _make(services: Services, task: Task, job: JobRow, key: str) -> Plan:
    """A new plan; where another machine has registered the job's version already, for its verdict alone.

    That version shall be judged however few labels still count, and whatever a new training would start from.
    """
    training, calibration, promotion = (
        accepted_ids(services, task, of) for of in (PoolCases, CalibrationCases, PromotionCases)
    )
    params = job.payload.get("params", {})
    seed = services.settings.retrain.seed + len(services.registry.list(task.name))
    seed = fit_config(task, params, seed).seed
    made = services.registry.find(task.name, key)
    if made is not None:
        return Plan(key, training, calibration, seed, start_number(made), promotion)
    require_enough(services, task, len(training))
    start = None if params.get("scratch") else start_of(services, task)
    return Plan(key, training, calibration, seed, start, promotion, new_labels(services, task, start, training))


def _read(path: Path) -> Plan | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return Plan(**(values | lists))
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, TypeError) as error:
        logger.warning("%s cannot be read, the training is planned anew: %s", path, error)
        return None


def _write(path: Path, plan: Plan) -> None:
    with replacing(path) as unnamed:
        unnamed.write_text(json.dumps(asdict(plan)), encoding="utf-8")
