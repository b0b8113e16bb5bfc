"""Batch inference: a job of the ledger for each series that lacks a draft, or for the next ones of a strategy."""

from typing import Any

from fastapi import APIRouter

from lib.core.errors import InvalidInput, NotFound
from lib.ledger.rows import JobRow
from lib.server import replies
from lib.server.context import Context, Ctx, Every
from lib.workflows.jobs import DRAFT
from lib.workflows.nightbatch import draft_next
from lib.workflows.presegment import enqueue_drafts
from lib.workflows.query import why_none

router = APIRouter(prefix="/batch")

SHOWN = 500


@router.get("/infer")
async def status(context: Ctx, every: Every = False, check_if_running: bool = False) -> Any:
    """The newest draft job, all of them, or 404 when there is none (waiting or running, if asked so)."""
    return await context.quick.run(_status, context, every, check_if_running)


@router.post("/infer/{model}")
async def start(context: Ctx, model: str, count: int | None = None, strategy: str = "") -> dict[str, Any]:
    """Ask for a draft of every series that has neither a human label nor a draft of the served version.

    With `count` alone those of the next cases of a strategy, in their order and before all others; the reply names
    the cases.
    """
    if count is not None:
        return await context.quick.run(_start_next, context, model, count, strategy)
    if strategy:
        raise InvalidInput(f"strategy {strategy!r} needs ?count=, the number of cases to draft; without both all are")
    return await context.quick.run(_start, context, model)


@router.delete("/infer")
async def stop(context: Ctx) -> dict[str, Any]:
    """Cancel the drafts that wait; one that is being made is finished."""
    return await context.quick.run(_stop, context)


def _start(context: Context, model: str) -> dict[str, Any]:
    added = enqueue_drafts(context.services, context.services.task(model))
    waiting = len(_open(context))
    return {
        "id": model,
        "status": "SUBMITTED" if waiting else "DONE",
        "request": {"model": model, "images": "unlabeled"},
        "details": [f"{added} drafts asked for, {waiting} wait or are being made"],
    }


def _start_next(context: Context, model: str, count: int, strategy: str) -> dict[str, Any]:
    services = context.services
    task = services.task(model)
    batch = draft_next(services, task, count, strategy)
    drafts = frozenset(batch.drafts)
    named = f"{len(batch.cases)} cases, {len(batch.drafts)} of them wait for a draft"
    return {
        "id": model,
        "status": "SUBMITTED" if drafts else "DONE",
        "request": {"model": model, "images": "next", "count": count, "strategy": strategy},
        "details": [named if batch.cases else why_none(services, task, "")],
        "cases": [
            {"id": case.series_uid, "why": case.why, "lane": case.lane, "drafting": case.series_uid in drafts}
            for case in batch.cases
        ],
    }


def _status(context: Context, every: bool, only_open: bool) -> Any:
    jobs = _open(context) if only_open else list(context.services.ledger.jobs.list(kind=DRAFT, limit=SHOWN))
    if not jobs:
        raise NotFound("no draft waits or is being made" if only_open else "no draft was asked for yet")
    return [replies.job(row) for row in reversed(jobs)] if every else replies.job(jobs[0])


def _stop(context: Context) -> dict[str, Any]:
    jobs = context.services.ledger.jobs
    waiting = [row for row in _open(context) if row.state == "queued"]
    for row in waiting:
        jobs.cancel(row.id)
    return {"id": "", "status": "STOPPED", "details": [f"{len(waiting)} waiting drafts cancelled"]}


def _open(context: Context) -> list[JobRow]:
    jobs = context.services.ledger.jobs
    return [row for state in ("running", "queued") for row in jobs.list(kind=DRAFT, state=state, limit=SHOWN)]
