"""Retrainings with what became of them, and their morning reports as the training wrote them."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from lib.server.context import Context, Ctx
from lib.workflows.nightlist import nights
from lib.workflows.reportfiles import PAGE, VALUES, report_file
from lib.workflows.reportpage import render_index

router = APIRouter(prefix="/reports")
ALWAYS_ASK = {"Cache-Control": "no-cache"}


@router.get("")
async def index(context: Ctx) -> HTMLResponse:
    """All retrainings, the open ones first, then the newest first."""
    return HTMLResponse(await context.quick.run(_index, context), headers=ALWAYS_ASK)


@router.get("/{run}.json")
async def values(context: Ctx, run: str) -> Response:
    """One report's values."""
    return Response(await context.quick.run(_read, context, run, VALUES), media_type="application/json")


@router.get("/{run}")
async def page(context: Ctx, run: str) -> HTMLResponse:
    """One report."""
    return HTMLResponse(await context.quick.run(_read, context, run, PAGE), headers=ALWAYS_ASK)


def _index(context: Context) -> str:
    return render_index(nights(context.services))


def _read(context: Context, run: str, name: str) -> str:
    return report_file(context.settings.var, run, name).read_text(encoding="utf-8")
