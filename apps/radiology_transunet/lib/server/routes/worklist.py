"""The worklist: a static page and the JSON behind it."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from lib.server import describe, viewer
from lib.server.casejson import cases_json, overview_json, task_json
from lib.server.context import Context, Ctx
from lib.server.identity import annotator
from lib.workflows import worklist

router = APIRouter()

PAGES = Path(__file__).parents[1] / "pages"
SHOWN = 500
"""Cases that one reply holds unless told otherwise."""

ALWAYS_ASK = {"Cache-Control": "no-cache"}


@router.get("/worklist")
async def page() -> FileResponse:
    """The page."""
    return FileResponse(PAGES / "worklist.html", headers=ALWAYS_ASK)


@router.get("/worklist.css")
async def style() -> FileResponse:
    """Its looks."""
    return FileResponse(PAGES / "worklist.css", headers=ALWAYS_ASK)


@router.get("/worklist.js")
async def script() -> FileResponse:
    """Its behaviour."""
    return FileResponse(PAGES / "worklist.js", headers=ALWAYS_ASK)


@router.get("/transunet.js")
async def shared() -> Response:
    """What it shares with the viewer's panel."""
    return Response(viewer.shared_script(), media_type="text/javascript", headers=ALWAYS_ASK)


@router.get("/worklist.json")
async def rows(context: Ctx, request: Request, task: str = "", state: str = "", limit: int = SHOWN) -> dict[str, Any]:
    """Cases of a task, of one state if asked so, and how the loop is doing."""
    made = await context.quick.run(_rows, context, task, state, limit)
    return {"user": annotator(request), **made, "archive": context.watch.state()}


def _rows(context: Context, task_name: str, state: str, limit: int) -> dict[str, Any]:
    services = context.services
    task = services.task(task_name)
    shown = worklist.page(services, task, state, max(0, limit), context.counts.of(task.name))
    return {
        "task": task_json(task),
        "tasks": list(services.tasks),
        "login": bool(context.settings.server.password),
        "strategy": context.settings.query.strategy,
        "strategies": describe.strategies(services),
        "champion": describe.champion(services, task, context.warm.is_set(), context.champions),
        "overview": overview_json(worklist.overview(services, task, shown.counts)),
        "total": shown.total,
        "cases": cases_json(shown.cases, task.name),
    }
