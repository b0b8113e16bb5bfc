"""Scoring: drafts carry their scores, so asking for it ranks the queue anew."""

from typing import Any

from fastapi import APIRouter

from lib.core.errors import NotFound
from lib.server.context import Context, Ctx, Every
from lib.server.describe import SCORING
from lib.server.replies import iso
from lib.workflows import query

router = APIRouter(prefix="/scoring")


@router.get("", include_in_schema=False)
@router.get("/")
async def status(context: Ctx, every: Every = False, check_if_running: bool = False) -> Any:
    """When the queues were ranked; nothing runs between requests, which is 404 when only that is asked."""
    if check_if_running:
        raise NotFound("no scoring runs; drafts are scored as they are made")
    states = await context.quick.run(lambda: [_state(context, name) for name in context.services.tasks])
    return states if every else states[-1]


@router.post("", include_in_schema=False)
@router.post("/")
async def run_all(context: Ctx) -> dict[str, Any]:
    """Rank the queues of all tasks."""
    return {method: {"result": await run(context, method), "detail": None} for method in SCORING}


@router.post("/{method}")
async def run(context: Ctx, method: str) -> dict[str, Any]:
    """Rank the queues anew from the scores of the drafts."""
    if method not in SCORING:
        raise NotFound(f"scoring methods are {', '.join(SCORING)}, got {method!r}")
    return await context.quick.run(_rank, context)


@router.delete("", include_in_schema=False)
@router.delete("/")
async def stop() -> None:
    """Nothing runs that could be stopped."""


def _rank(context: Context) -> dict[str, Any]:
    for task in context.services.tasks.values():
        query.refresh_queues(context.services, task)
    return [_state(context, name) for name in context.services.tasks][-1]


def _state(context: Context, task: str) -> dict[str, Any]:
    strategy = context.settings.query.strategy
    queue = context.services.ledger.queue
    head = queue.head(task, strategy, 5)
    return {
        "id": task,
        "status": "DONE",
        "request": {"method": "queue", "model": task, "strategy": strategy},
        "end_ts": iso(queue.built_at(task, strategy)),
        "details": [f"{entry.rank}. {entry.series_uid}: {entry.why}" for entry in head] or ["the queue is empty"],
    }
