"""The switch from one model to the next, across ledger and registry.

The ledger's row is written first and stays open until the gate's figures are on record and the alias has moved; the
alias is the truth. Whoever switches, and every start, first completes what a killed process left open, so that an old
decision never comes after a newer one.
All that happens under one lock of all processes, from before the row to after the alias: a process that is slow between
both is waited for, and never comes late with what it decided.
"""

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from lib.core.errors import Conflict, NotFound
from lib.ledger.rows import VerdictRow
from lib.registry.versions import ModelVersion
from lib.taskfile import Task
from lib.workflows.services import Services

logger = logging.getLogger(__name__)

PROMOTED = "promoted"
KEPT = "kept"
ROLLBACK = "rollback"
GATE = "gate"
"""Name of the gate's figures, in the registry's tags and among the metrics of the ledger's row."""
GATE_ROW = "model.gate"
"""Action of the row in the audit trail that has the gate's figures; a version has one."""
MOST_ROWS = 1000


def promote(
    services: Services,
    task: Task,
    version: int,
    reason: str,
    metrics: Mapping[str, Any] | None = None,
    require: Callable[[], None] = lambda: None,
) -> None:
    """Let a version serve the task, recorded with the reason.

    Args:
        services: the rooms.
        task: that it is to serve.
        version: which one.
        reason: in words.
        metrics: to keep with the decision.
        require: called when nobody else can switch any more; raises when the decision does not hold by now.

    Raises:
        NotFound: no such version.
        ManifestMismatch: it does not fit the task; the champion stays.
        RegistryUnavailable: another process is stuck in a switch.
    """
    with services.registry.switching():
        _reconcile(services, task.name)
        _require_fits(services, task, version)
        require()
        row_id = services.ledger.models.begin(task.name, version, PROMOTED, reason, metrics or {})
        _record(services, task.name, version, metrics or {})
        services.registry.promote(task.name, version)
        services.ledger.models.finish(row_id)


def rollback(
    services: Services, task: Task, reason: str, to: int | None = None, require: Callable[[], None] = lambda: None
) -> ModelVersion:
    """Let a version serve again that served before the champion, recorded with the reason.

    Args:
        services: the rooms.
        task: that it is to serve.
        reason: in words.
        to: which one; None = the last one before the champion whose weights are there.
        require: as for `promote`.

    Raises:
        Conflict: there is no earlier champion, or `to` is none.
        ManifestMismatch: it does not fit the task as it is now; the champion stays.
        RegistryUnavailable: another process is stuck in a switch.
    """
    with services.registry.switching():
        _reconcile(services, task.name)
        target = to if to is not None else services.registry.previous(task.name)
        if target is None:
            raise Conflict(f"task {task.name} has no earlier champion to go back to; see: transunet-label models list")
        _require_fits(services, task, target)
        require()
        row_id = services.ledger.models.begin(task.name, target, ROLLBACK, reason)
        model = services.registry.rollback(task.name, target)
        services.ledger.models.finish(row_id)
        return model


def keep(
    services: Services,
    task: Task,
    version: int,
    reason: str,
    metrics: Mapping[str, Any],
    require: Callable[[], None] = lambda: None,
) -> None:
    """Record that a version does not become the champion, with the reason."""
    with services.registry.switching():
        _reconcile(services, task.name)
        require()
        row_id = services.ledger.models.begin(task.name, version, KEPT, reason, metrics)
        _record(services, task.name, version, metrics)
        services.ledger.models.finish(row_id)


def reconcile_promotions(services: Services, task_name: str | None = None) -> int:
    """Complete what a killed process left between ledger and registry; how many rows were open.

    Runs in the worker, at its start and each minute, and before each training; each switch does the same.
    """
    with services.registry.switching():
        return _reconcile(services, task_name)


def _reconcile(services: Services, task_name: str | None) -> int:
    opened = services.ledger.models.open(task_name)
    for row in opened:
        _complete(services, row)
        services.ledger.models.finish(row.id)
    return len(opened)


def _complete(services: Services, row: VerdictRow) -> None:
    """Record what the row decides, and move the alias where it says, as far as neither is done."""
    serving = [model.version for model in services.registry.list(row.task) if model.is_champion]
    try:
        _record(services, row.task, row.version, row.metrics)
        if row.verdict == KEPT or row.version in serving:
            return
        if row.verdict == ROLLBACK:
            services.registry.rollback(row.task, row.version)
        else:
            services.registry.promote(row.task, row.version)
    except (NotFound, Conflict) as error:
        what = f"{row.verdict} of version {row.version} of task {row.task}"
        logger.error("what a killed process left open cannot be completed: %s: %s", what, error)


def _record(services: Services, task_name: str, version: int, metrics: Mapping[str, Any]) -> None:
    """Let the gate's figures, where it decided, stand with the version and once in the audit trail.

    Only after the ledger's row: so the trail has what was decided, whoever died meanwhile and whoever judged anew.
    """
    figures, subject = metrics.get(GATE), f"{task_name} {version}"
    if figures is None:
        return
    services.registry.note(task_name, version, GATE, json.dumps(figures))
    if all(row.action != GATE_ROW for row in services.ledger.audit.list(MOST_ROWS, subject)):
        services.ledger.audit.add("gate", GATE_ROW, subject, figures)


def _require_fits(services: Services, task: Task, version: int) -> None:
    """Refuse a version that could not serve the task."""
    from lib.inference.model import read_manifest

    read_manifest(services.registry.path(task.name, version)).require_fits(task)
