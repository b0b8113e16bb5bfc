"""One case for the viewer's panel: its state, taking it, giving it back, a draft right now."""

from typing import Any

from fastapi import APIRouter, Request

from lib.core.errors import InvalidInput
from lib.server.casejson import case_json, task_json
from lib.server.context import Context, Ctx
from lib.server.identity import annotator
from lib.server.images import series_uid
from lib.taskfile import Task
from lib.workflows import query, worklist
from lib.workflows.presegment import deliver_outbox, presegment
from lib.workflows.services import Services

router = APIRouter(prefix="/cases")


@router.get("")
async def find(context: Ctx, request: Request, study: str = "", series: str = "", task: str = "") -> dict[str, Any]:
    """The case of a series, or the first one of a study."""
    return await context.quick.run(_find, context, annotator(request), study, series, task)


@router.post("/{series}/hold")
async def hold(context: Ctx, request: Request, series: str, task: str = "") -> dict[str, Any]:
    """Take a case that the annotator opened, so that what is saved has an author; 409 when another one has it."""
    return await context.quick.run(_hold, context, annotator(request), series_uid(series), task)


@router.post("/{series}/release")
async def release(context: Ctx, request: Request, series: str, task: str = "") -> dict[str, Any]:
    """Give a case back unlabelled; it goes to others first."""
    return await context.quick.run(_release, context, annotator(request), series_uid(series), task)


@router.post("/{series}/draft")
async def draft(context: Ctx, request: Request, series: str, task: str = "") -> dict[str, Any]:
    """Pre-segment a case now and bring the draft into the archive."""
    return await context.heavy.run(_draft, context, annotator(request), series_uid(series), task)


def _find(context: Context, user: str, study: str, series: str, task_name: str) -> dict[str, Any]:
    services = context.services
    task = _task_of(services, task_name, study, series)
    if series:
        case = worklist.case(services, task, series_uid(series))
    elif study:
        case = worklist.case_of_study(services, task, series_uid(study))
    else:
        raise InvalidInput("name a case: ?series= or ?study=")
    return {
        "user": user,
        "login": bool(context.settings.server.password),
        "strategy": context.settings.query.strategy,
        "task": task_json(task),
        "case": case_json(case, task.name),
    }


def _hold(context: Context, user: str, series: str, task_name: str) -> dict[str, Any]:
    query.hold(context.services, _task_of(context.services, task_name, "", series), series, user)
    return _find(context, user, "", series, task_name)


def _release(context: Context, user: str, series: str, task_name: str) -> dict[str, Any]:
    query.release(context.services, _task_of(context.services, task_name, "", series), series, user)
    return _find(context, user, "", series, task_name)


def _draft(context: Context, user: str, series: str, task_name: str) -> dict[str, Any]:
    services = context.services
    presegment(services, context.champions, _task_of(services, task_name, "", series), series)
    deliver_outbox(services)
    return _find(context, user, "", series, task_name)


def _task_of(services: Services, name: str, study: str, series: str) -> Task:
    """The named task; without a name the first one that takes the series, or a series of the study."""
    if name:
        return services.task(name)
    here = services.ledger.series.some([series]) if series else services.ledger.series.of_study(study)
    fitting = (
        task
        for task in services.tasks.values()
        if any(task.why_not(row.modality, row.description) is None for row in here)
    )
    return next(fitting, services.task())
