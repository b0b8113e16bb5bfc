"""Writes the morning report of a retraining.

It stands beside the version and never decides about it: what goes wrong here is a warning, and the verdict stays.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.atomic import replacing
from lib.core.errors import LabelError, ManifestMismatch, NotFound
from lib.ledger.rows import JobRow
from lib.taskfile import Task
from lib.workflows.casecache import LazyCases
from lib.workflows.casechanges import Changes, changes
from lib.workflows.charts import thinned
from lib.workflows.fieldmetrics import field_report
from lib.workflows.gate import Verdict, conditions
from lib.workflows.heartbeat import Stopped
from lib.workflows.models import load_version
from lib.workflows.report import Curve, MorningReport, run_name
from lib.workflows.reportfacts import corrections, failures, learned
from lib.workflows.reportfiles import write_report
from lib.workflows.services import Services

if TYPE_CHECKING:
    from lib.training.fit import FitResult

logger = logging.getLogger(__name__)

CURVES = "curves.json"

Tell = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Night:
    """A retraining whose verdict is given.

    Attributes:
        task: that was trained.
        job: that it was done for.
        version: of the challenger.
        verdict: the gate's.
        planned: ids of the annotations that it was to learn from.
        learned: ids of those that it did learn from.
        calibration: cases that no training learns from.
        folder: of the job, where `keep_curves` wrote.
        notes: what went other than planned.
    """

    task: Task
    job: JobRow
    version: int
    verdict: Verdict
    planned: tuple[int, ...]
    learned: tuple[int, ...]
    calibration: LazyCases
    folder: Path
    notes: tuple[str, ...] = ()


def keep_curves(folder: Path, fitted: "FitResult") -> None:
    """Write a training's curves into its job's folder, for a report that a later attempt may have to make."""
    curves = {"loss": list(enumerate(fitted.losses, start=1)), "validation Dice": list(fitted.curve)}
    usage = None if fitted.usage is None else asdict(fitted.usage)
    with replacing(folder / CURVES) as unnamed:
        unnamed.write_text(json.dumps({"seconds": fitted.seconds, "usage": usage, "curves": curves}), encoding="utf-8")


def morning_report(services: Services, night: Night, tell: Tell) -> Path | None:
    """Write the report; its page, or None when that did not work, with the reason as a warning.

    Args:
        services: the rooms.
        night: what happened.
        tell: called between cases; raises Stopped when the job is to end.

    Raises:
        Stopped: because of `tell`; the next attempt makes the report.
    """
    try:
        path = write_report(services.settings.var, describe(services, night, tell))
    except Stopped:
        raise
    except Exception as error:  # whatever it is: the verdict is given and must not be lost for its report
        told = error if isinstance(error, LabelError) else f"{type(error).__name__}: {error}"
        logger.warning("the report of task %s version %d is not written: %s", night.task.name, night.version, told)
        return None
    logger.info("report: %s", path)
    return path


def describe(services: Services, night: Night, tell: Tell) -> MorningReport:
    """Everything that the report says."""
    kept = _kept(night.folder)
    rows = [services.ledger.annotations.get(annotation_id) for annotation_id in night.learned]
    sites = {row.series_uid: row.institution for row in services.ledger.series.list()}
    found = _changes(services, night, tell)
    field = field_report(services, night.task)
    verdict = night.verdict
    return MorningReport(
        run=run_name(night.task.name, night.version),
        task=night.task.name,
        version=night.version,
        champion=verdict.champion,
        finished_at=services.ledger.jobs.clock(),
        promoted=verdict.promote,
        reason=verdict.reason,
        labels=verdict.labels,
        anchored=verdict.anchored,
        mean=verdict.mean,
        newest=verdict.newest,
        conditions=conditions(verdict.calibration_error, verdict.seconds, verdict.golden, services.settings.gate),
        alpha=verdict.alpha,
        margin=verdict.margin,
        patients=verdict.patients,
        missing=verdict.missing,
        learned=learned(rows, sites),
        annotations=len(rows),
        new=len(set(night.learned) - _learned_before(services, night)),
        curves={name: _curve(points) for name, points in kept.get("curves", {}).items() if points},
        improved=found.improved,
        worsened=found.worsened,
        compared=found.compared,
        comparable=found.of,
        colors={label.name: label.color for label in night.task.schema},
        corrections=corrections(rows),
        failures=failures(services, night.task, sorted(set(night.planned) - set(night.learned))),
        in_the_field=f"{field.short}; {field.reference}",
        costs=_costs(services, night, kept),
        notes=night.notes,
    )


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _changes(services: Services, night: Night, tell: Tell) -> Changes:
    """Nothing where there is no champion that could be compared with."""
    if night.verdict.champion is None or not len(night.calibration):
        return Changes()
    task = night.task
    try:
        models = [services.registry.get(task.name, version) for version in (night.verdict.champion, night.version)]
        champion, challenger = (load_version(services, task, model) for model in models)
    except (NotFound, ManifestMismatch) as error:
        logger.info("no cases are compared for the report: %s", error)
        return Changes()
    most = services.settings.retrain.report_cases
    window_hu = task.preprocess.window_hu
    return changes(champion, challenger, night.calibration, tell, most=most, seed=night.version, window_hu=window_hu)


def _learned_before(services: Services, night: Night) -> set[int]:
    """Ids of the annotations that the champion had learned from."""
    from lib.inference.model import read_manifest

    if night.verdict.champion is None:
        return set()
    try:
        return set(read_manifest(services.registry.path(night.task.name, night.verdict.champion)).annotations)
    except (NotFound, ManifestMismatch):
        return set()


def _kept(folder: Path) -> dict[str, Any]:
    """What `keep_curves` wrote; nothing where an attempt died before it did."""
    try:
        found: dict[str, Any] = json.loads((folder / CURVES).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


def _curve(points: list[tuple[float, float]]) -> Curve:
    return tuple((float(x), float(y)) for x, y in thinned(points))


def _costs(services: Services, night: Night, kept: Mapping[str, Any]) -> dict[str, str]:
    """What the run took; of memory and device what the training said, which may have been elsewhere."""
    started = night.job.started_at
    run_s = services.ledger.jobs.clock().timestamp() - (started.timestamp() if started else time.time())
    costs = {"this attempt": duration(run_s)}
    if "seconds" in kept:
        costs["training"] = duration(kept["seconds"])
    return {**costs, **_usage(kept["usage"])} if kept.get("usage") else costs


def _usage(usage: Mapping[str, Any]) -> dict[str, str]:
    """What `training.usage.Usage` says, in words."""
    each = "" if usage["processes"] == 1 else f" in each of {usage['processes']} processes"
    found = {"peak memory": f"{usage['peak_mib'] / 1024:.1f} GiB{each}"}
    if usage["card_mib"] is not None:
        found["peak memory of the card"] = f"{usage['card_mib'] / 1024:.1f} GiB{each}"
    return {**found, "device": f"{usage['device']}, {usage['precision']}", "threads": f"{usage['threads']}{each}"}
