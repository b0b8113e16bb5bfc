"""OHIF under / and the archive's DICOMweb under /dicom-web."""

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from lib.server import proxy, viewer
from lib.server.context import Ctx

router = APIRouter(include_in_schema=False)


@router.api_route("/dicom-web/{path:path}", methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def dicomweb(context: Ctx, request: Request, path: str) -> StreamingResponse:
    """Search, retrieve and store; everything else is refused."""
    return await proxy.forward(context.archive, request, path)


@router.get("/app-config.js")
async def config() -> Response:
    """The viewer's configuration with our panel."""
    return Response(viewer.config_script(), media_type="text/javascript", headers={"Cache-Control": viewer.ALWAYS_ASK})


@router.get("/{path:path}")
async def files(context: Ctx, request: Request, path: str) -> Response:
    """The viewer's own files, its start page for its own routes."""
    return viewer.serve_file(context.viewer, path, request)
