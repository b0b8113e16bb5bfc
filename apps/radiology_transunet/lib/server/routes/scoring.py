"""Scoring: what the serving model says of every series, made in the background; asking for it ranks the queue anew."""

from contextlib import suppress
from typing import Any

from fastapi import APIRouter

from lib.core.errors import NoChampion, NotFound
from lib.server.context import Context, Ctx, Every
from lib.server.describe import SCORING
from lib.server.replies import iso
from lib.taskfile import Task
from lib.workflows import query, scoring

router = APIRouter(prefix="/scoring")

STATES = {"done": "DONE", "running": "RUNNING", "waiting": "PENDING"}


@router.get("", include_in_schema=False)
@router.get("/")
async def status(context: Ctx, every: Every = False, check_if_running: bool = False) -> Any:
    """How far the serving model is with each task's series, and when the queue was ranked.

    404 when only what runs is asked for and all is scored.
    """
    states = await context.quick.run(lambda: [_state(context, task) for task in context.services.tasks.values()])
    if check_if_running:
        states = [state for state in states if state["status"] != "DONE"]
        if not states:
            raise NotFound("no scoring runs; the serving model has looked at every series")
    return states if every else states[-1]


@router.post("", include_in_schema=False)
@router.post("/")
async def run_all(context: Ctx) -> dict[str, Any]:
    """Score what is not scored and rank the queues, of all tasks."""
    return {method: {"result": await run(context, method), "detail": None} for method in SCORING}


@router.post("/{method}")
async def run(context: Ctx, method: str) -> dict[str, Any]:
    """Have the worker score what is not scored, also what failed before, and rank the queues of what is."""
    if method not in SCORING:
        raise NotFound(f"scoring methods are {', '.join(SCORING)}, got {method!r}")
    return await context.quick.run(_run, context)


@router.delete("", include_in_schema=False)
@router.delete("/")
async def stop() -> None:
    """Nothing: scoring gives way to all other work and goes on by itself as long as series are without scores."""


def _run(context: Context) -> dict[str, Any]:
    tasks = list(context.services.tasks.values())
    for task in tasks:
        with suppress(NoChampion):  # which the state tells
            scoring.start_scoring(context.services, task, insist=True)
        query.refresh_queues(context.services, task)
    return [_state(context, task) for task in tasks][-1]


def _state(context: Context, task: Task) -> dict[str, Any]:
    strategy = context.settings.query.strategy
    queue, far = context.services.ledger.queue, scoring.progress(context.services, task)
    head = queue.head(task.name, strategy, 5)
    ranked = [f"{entry.rank}. {entry.series_uid}: {entry.why}" for entry in head] or ["the queue is empty"]
    return {
        "id": task.name,
        "status": STATES[far.state],
        "request": {"method": "queue", "model": task.name, "strategy": strategy},
        "end_ts": iso(queue.built_at(task.name, strategy)),
        "version": far.version,
        "scored": far.scored,
        "failed": far.failed,
        "of": far.of,
        "details": [_words(far), *ranked],
    }


def _words(far: scoring.Progress) -> str:
    if far.version is None:
        return f"no model serves yet: none of {far.of} series is scored"
    cannot = f", {far.failed} cannot be scored" if far.failed else ""
    return f"version {far.version} has scored {far.scored} of {far.of} series{cannot}; {far.state}"
