"""The next case to label, handed out under a lease."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from lib.server.context import Context, Ctx
from lib.server.identity import annotator
from lib.server.replies import iso
from lib.workflows import query

router = APIRouter(prefix="/activelearning")


@router.post("/{strategy}")
async def sample(
    context: Ctx, request: Request, strategy: str, params: Annotated[dict[str, Any] | None, Body()] = None
) -> dict[str, Any]:
    """A case, or `why` alone when none is free; who holds one gets it again."""
    given = params or {}
    name = annotator(request, given)
    return await context.quick.run(_next, context, strategy, given, name)


def _next(context: Context, strategy: str, params: dict[str, Any], name: str) -> dict[str, Any]:
    services = context.services
    task = services.task(params.get("model") or params.get("task"))
    case = query.next_case(services, task, strategy, name)
    if case is None:
        return {"why": query.why_none(services, task, name)}
    row = services.ledger.series.get(case.series_uid)
    return {
        "id": case.series_uid,
        "path": "",  # files stay on the server; clients download /datastore/image
        "name": f"{case.series_uid}.nii.gz",
        "SeriesInstanceUID": case.series_uid,
        "StudyInstanceUID": case.study_uid,
        "Modality": row.modality,
        "SeriesDescription": row.description,
        "task": case.task,
        "strategy": {case.strategy: {"annotator": name, "until": iso(case.lease_until)}},
        "score": case.score if case.score == case.score else None,
        "why": case.why,
        "lane": case.lane,
        "model_version": case.model_version,
        "scored_at": iso(case.scored_at),
        "champion_version": case.champion_version,
        "viewer": case.viewer_path,
        "annotator": name,
        "lease_until": iso(case.lease_until),
    }
