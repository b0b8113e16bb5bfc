"""What the server says of itself: models, trainers, strategies, counts and trouble."""

from typing import Any

from lib.inference.quality import LEVEL
from lib.ledger.rows import JobRow
from lib.selection.strategies import STRATEGIES
from lib.server.replies import JOB_STATES, timestamp
from lib.taskfile import Task
from lib.workflows.availability import why_not
from lib.workflows.jobs import RETRAIN
from lib.workflows.models import ChampionCache
from lib.workflows.services import Services

NAME = "radiology_transunet"
DESCRIPTION = "TransUNet pre-segmentation, choice of the next case and gated retraining. Research use only."
VERSION = "2.0"
SCORING = {"queue": "how the present queue is ranked and what it holds"}


def models(services: Services) -> dict[str, Any]:
    """Each task as a segmentation model."""
    return {task.name: model(task) for task in services.tasks.values()}


def model(task: Task) -> dict[str, Any]:
    """One task as a segmentation model of MONAI Label."""
    return {
        "type": "segmentation",
        "labels": {label.name: label.id for label in task.schema},
        "dimension": 3,
        "description": task.description,
        "config": {},
    }


def trainers(services: Services) -> dict[str, Any]:
    """Each task as a trainer."""
    return {name: {"description": f"Retrain {name} behind the gate", "config": {}} for name in services.tasks}


def strategies(services: Services) -> dict[str, Any]:
    """Ways to choose the next case, and why one is not there under these settings."""
    reasons = {name: why_not(services.settings, name) for name in STRATEGIES}
    return {
        name: {"description": strategy.describe, "available": not reasons[name], "reason": reasons[name]}
        for name, strategy in STRATEGIES.items()
    }


def label_names(services: Services) -> list[str]:
    """Names of all labels of all tasks, each once."""
    return list(dict.fromkeys(name for task in services.tasks.values() for name in task.schema.names))


def datastore_status(services: Services) -> dict[str, Any]:
    """Counts over all tasks as MONAI Label shows them; a draft of a model completes nothing."""
    ready = services.ledger.series.list(status="ready")
    suitable = {
        name: {row.series_uid for row in ready if task.why_not(row.modality, row.description) is None}
        for name, task in services.tasks.items()
    }
    done = {name: {row.series_uid for row in services.ledger.annotations.accepted(name)} for name in suitable}
    drafts = sum(services.ledger.annotations.counts(name).get("draft", 0) for name in suitable)
    return {
        "total": len(set().union(*suitable.values())),
        "completed": len(set().union(*(done[name] & suitable[name] for name in suitable))),
        "label_tags": {"final": sum(len(found) for found in done.values()), "original": drafts},
    }


def train_stats(services: Services, task: Task) -> dict[str, Any]:
    """Progress of the newest training in the words of MONAI Label (epochs are per cent here)."""
    jobs = services.ledger.jobs.list(kind=RETRAIN, task=task.name, limit=1)
    return _stats(jobs[0]) if jobs else {}


def _stats(row: JobRow) -> dict[str, Any]:
    stats: dict[str, Any] = {
        "status": JOB_STATES[row.state],
        "start_ts": timestamp(row.started_at),
        "epoch": round((row.progress or 0.0) * 100),
        "total_epochs": 100,
        "best_metric": (row.result or {}).get("mean_dice", 0),
        "message": row.message,
    }
    if row.started_at and row.finished_at:
        stats["total_time"] = str(row.finished_at - row.started_at).split(".")[0]
    return stats


def champion(services: Services, task: Task, warm: bool, champions: ChampionCache) -> dict[str, Any] | None:
    """Version and metrics of the served model, None when the task has none.

    Args:
        services: the rooms.
        task: whose model.
        warm: whether the registry is open; opening takes seconds, which no page waits for.
        champions: knows on how many patients the estimates of its Dice rest, None where it has none.
    """
    if not warm:
        return {"version": None, "metrics": {}, "loading": True, "estimated_dice": None}
    found = services.registry.champion(task.name)
    if found is None:
        return None
    calibrated_on = champions.calibrated_on(found)
    shown = {"version": found.version, "metrics": dict(found.metrics), "loading": False}
    return {**shown, "estimated_dice": None if calibrated_on is None else {"patients": calibrated_on, "level": LEVEL}}
