"""Training as jobs of the ledger; the worker runs them."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from lib.core.errors import Conflict, NotFound
from lib.ledger.rows import JobRow
from lib.server import replies
from lib.server.context import Context, Ctx, Every
from lib.server.identity import annotator
from lib.workflows.jobs import RETRAIN
from lib.workflows.plan import PARAMS
from lib.workflows.retrain import request_retrain

router = APIRouter(prefix="/train")

OPEN_STATES = ("running", "queued")
SHOWN = 50


@router.get("", include_in_schema=False)
@router.get("/")
async def status(context: Ctx, every: Every = False, check_if_running: bool = False) -> Any:
    """The newest training, all of them, or 404 when there is none (running or waiting, if asked so)."""
    return await context.quick.run(_status, context, every, check_if_running)


@router.post("", include_in_schema=False)
@router.post("/")
async def start_all(
    context: Ctx, request: Request, params: Annotated[dict[str, Any] | None, Body()] = None
) -> dict[str, Any]:
    """Ask for a training of every task."""
    given = params or {}
    return {
        name: {"result": await start(context, request, name, _of_model(given, name)), "detail": None}
        for name in context.services.tasks
    }


@router.post("/{model}")
async def start(
    context: Ctx, request: Request, model: str, params: Annotated[dict[str, Any] | None, Body()] = None
) -> dict[str, Any]:
    """Ask for a training of one task; one that waits or runs already is returned instead of a second."""
    return await context.quick.run(_start, context, model, params or {}, annotator(request, params))


@router.delete("", include_in_schema=False)
@router.delete("/")
async def stop(context: Ctx) -> Any:
    """Cancel what waits or runs; the worker ends its process at the next heartbeat."""
    return await context.quick.run(_stop, context)


def _start(context: Context, model: str, params: dict[str, Any], actor: str) -> dict[str, Any]:
    task = context.services.task(model)
    wanted = {key: value for key, value in params.items() if key in PARAMS}
    job_id = request_retrain(context.services, task, wanted, actor)
    return replies.job(context.services.ledger.jobs.get(job_id))


def _status(context: Context, every: bool, only_open: bool) -> Any:
    jobs = _jobs(context)
    if only_open:
        jobs = [row for state in OPEN_STATES for row in jobs if row.state == state]
    if not jobs:
        raise NotFound("no training waits or runs" if only_open else "there was no training yet")
    return [replies.job(row) for row in reversed(jobs)] if every else replies.job(jobs[0])


def _stop(context: Context) -> Any:
    stopped: list[int] = []
    for row in _jobs(context):
        if row.state in OPEN_STATES:
            try:
                context.services.ledger.jobs.cancel(row.id)
            except Conflict:  # it ended in this very moment
                continue
            stopped.append(row.id)
    return replies.job(context.services.ledger.jobs.get(stopped[0])) if stopped else None


def _jobs(context: Context) -> list[JobRow]:
    return list(context.services.ledger.jobs.list(kind=RETRAIN, limit=SHOWN))


def _of_model(params: dict[str, Any], name: str) -> dict[str, Any]:
    own = params.get(name)
    return own if isinstance(own, dict) else {}
