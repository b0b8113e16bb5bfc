"""The fit of a retraining: from its plan and the cases to a finished model in the job's folder."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lib.core.errors import ManifestMismatch, NotFound
from lib.ledger.rows import JobRow
from lib.taskfile import Task
from lib.workflows.casecache import CaseCache
from lib.workflows.casefigures import common_mean_dice
from lib.workflows.collect import CalibrationCases, PoolCases, collect
from lib.workflows.executor.engine import FitJob, open_executor
from lib.workflows.morning import keep_curves
from lib.workflows.plan import Plan, fit_config, job_folder, require_enough
from lib.workflows.recipe import adapted, first_weights, learned_before
from lib.workflows.retrain_log import log_retraining
from lib.workflows.retrain_notes import take_note
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.training.fit import FitProgress

MEAN = "mean_dice"
DICE = "dice/"
MODEL = "model"
FETCHED, PREPARED, TRAINED, MEASURED = 0.10, 0.15, 0.85, 0.90
"""Shares of the whole run at the end of each stage; comparing with the champion is the rest."""

Report = Callable[[float, str], None]


def finished_model(services: Services, job: JobRow) -> Path | None:
    """The folder of the model that an earlier attempt finished, or None; a damaged one goes, to be made again."""
    from lib.inference.model import MANIFEST, read_state

    model = job_folder(services, job.id) / MODEL
    if not (model / MANIFEST).exists():
        return None
    try:
        read_state(model)
    except (NotFound, ManifestMismatch) as error:
        take_note(services, job.id, f"the finished model is damaged and made again: {error}")
        shutil.rmtree(model)
        return None
    return model


def train_model(
    services: Services,
    task: Task,
    job: JobRow,
    plan: Plan,
    cache: CaseCache,
    calibration: CalibrationCases,
    tell: Report,
) -> Path:
    """Fit, and keep the result as a model; its folder."""
    from lib.inference.model import Manifest, save_model
    from lib.training.warmstart import half_new

    folder, ids, before = job_folder(services, job.id), plan.training, learned_before(services, task, plan.start)
    cases = collect(services, cache, PoolCases, ids, part(tell, FETCHED / 2, FETCHED))
    require_enough(services, task, len(cases), unusable=len(ids) - len(cases))
    params, recipe = job.payload.get("params", {}), services.settings.recipe
    config = fit_config(task, params, plan.seed)
    config = adapted(config, recipe, plan.start is not None, len(calibration) > 0, params)
    work = FitJob(
        cases,
        calibration,
        task.network,
        task.preprocess,
        config,
        folder,
        services.settings.inference.device,
        start=first_weights(services, task, plan.start, plan.seed),
        predict=task.predict,
        weights=half_new([number in plan.new for number in cases.ids], recipe.new),
        gpu_share=services.settings.retrain.gpu_share,
    )
    fitted = open_executor(services.settings).fit(work, _noting(services, job, tell))
    for note in fitted.notes:
        take_note(services, job.id, note)
    metrics = figures_of(task, fitted.dice)
    keep_curves(folder, fitted)  # first: once the model is there, no later attempt fits again
    save_model(folder / MODEL, Manifest.describe(task, plan.seed, metrics, cases.ids, (), before), fitted.state_dict)
    log_retraining(services, job, config, fitted, (cases, calibration), folder / MODEL, tell, MEASURED)
    return folder / MODEL


def figures_of(task: Task, dice: Mapping[str, float | None]) -> dict[str, float]:
    """Dice by label as figures of a model: the mean over the common labels, and each label that has a value."""
    figures = {f"{DICE}{name}": value for name, value in dice.items() if value is not None}
    mean = common_mean_dice(task, dice)
    return figures if mean is None else {MEAN: mean, **figures}


def _noting(services: Services, job: JobRow, tell: Report) -> "Callable[[FitProgress], None]":
    """What hears a fit: the words go on, and what went other than planned on record."""
    noted: set[str] = set()

    def hear(progress: "FitProgress") -> None:
        for note in progress.notes:
            if note not in noted:
                take_note(services, job.id, note)
                noted.add(note)
        tell(*_in_words(progress))

    return hear


def part(tell: Report, first: float, last: float) -> Report:
    """A report of a stage, for what tells its own share in [0, 1]."""
    return lambda share, message: tell(first + (last - first) * share, message)


def _in_words(progress: "FitProgress") -> tuple[float, str]:
    """Share of the whole run, and what is going on."""
    if progress.stage == "prepare":
        return FETCHED + (PREPARED - FETCHED) * progress.share, "preparing cases"
    if progress.stage == "validate":
        return TRAINED + (MEASURED - TRAINED) * progress.share, "measuring the challenger"
    parts = [f"training: step {progress.step} of {progress.steps}"]
    parts += [f"loss {progress.loss:.3f}"] if progress.loss is not None else []
    parts += [f"Dice {progress.dice:.3f}"] if progress.dice is not None else []
    parts += [f"{progress.left_s:.0f} s left"] if progress.left_s is not None else []
    parts += list(progress.notes)
    return PREPARED + (TRAINED - PREPARED) * progress.share, ", ".join(parts)
